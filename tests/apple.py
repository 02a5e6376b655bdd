"""A stand-in for Apple's GPU, which has no float64: tensors that say they lie there, and refuse what it would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

MPS = torch.device("mps")
MOVES = (
    Tensor.to,
    Tensor.copy_,
    Tensor.__getitem__,
    Tensor.__setitem__,
)  # take a tensor of the CPU beside one of the GPU


class OnApple(Tensor):
    """Its numbers lie in ordinary memory."""


def gpu(x: Tensor) -> Tensor:
    """x as it would lie on the GPU."""
    if x.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
    return x.as_subclass(OnApple)


def plain(x: Any) -> Any:
    return x.as_subclass(Tensor) if isinstance(x, OnApple) else x


class Apple(TorchFunctionMode):
    """While it lasts, `gpu(x)` says it lies on "mps", meets no tensor of the CPU, and nothing there is float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        there = any(isinstance(x, OnApple) for x in tensors)
        if getattr(func, "__self__", None) is Tensor.device:
            return MPS if there else func(*args)
        device = kwargs.get("device", args[1] if func is Tensor.to and len(args) > 1 else None)
        if isinstance(device, OnApple) or str(device) == "mps":
            there, args = True, tuple("cpu" if str(a) == "mps" else a for a in args)
            kwargs |= {"device": "cpu"} if "device" in kwargs else {}
        elif func is Tensor.cpu or isinstance(device, Tensor) or str(device) == "cpu":
            there = False
        if there and func not in MOVES and any(not isinstance(x, OnApple) and x.dim() for x in tensors):
            raise RuntimeError(f"{func.__name__}: expected all tensors to be on the same device")
        with torch._C.DisableTorchFunction():
            result = func(*tree_map(plain, args), **tree_map(plain, kwargs))
        return tree_map(lambda x: gpu(x) if there and isinstance(x, Tensor) else x, result)
