"""Answers as numbers: whatever a learner returns, as one float64 tensor; and tensors as a few readable characters."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
import torch
from torch import Tensor

MOST_SHOWN = 8  # numbers of a tensor that still read well inside a sentence


def as_tensor(answer: object) -> Tensor:
    """The answer as a new float64 tensor on the CPU: a number, a list or tuple of answers, an array, any tensor.

    Raises TypeError for what does not hold real numbers, ValueError for a tuple whose entries differ in shape.
    """
    if _is_complex(answer):
        raise TypeError("its numbers are complex, where real ones are asked: a root or a power of a negative number?")
    if isinstance(answer, Tensor):
        return answer.detach().to_dense().to("cpu", torch.float64, copy=True)
    if isinstance(answer, np.ndarray) and answer.dtype.kind in "biuf":
        return torch.from_numpy(answer.astype(np.float64))
    if isinstance(answer, Real | np.number | np.bool_):
        return torch.tensor(_as_float(answer), dtype=torch.float64)
    if isinstance(answer, list | tuple):
        return _stacked([as_tensor(entry) for entry in answer])
    raise TypeError(f"{type(answer).__name__} is not a tensor, an array or a number")


def _is_complex(answer: object) -> bool:
    if isinstance(answer, Tensor):
        return answer.is_complex()
    return np.iscomplexobj(answer) if isinstance(answer, complex | np.ndarray | np.generic) else False


def sixteen_bit(answer: object) -> str | None:
    """The dtype of an answer whose numbers have 16 bits or fewer, and so two or three digits; else None."""
    if isinstance(answer, list | tuple):
        return next(filter(None, map(sixteen_bit, answer)), None)
    if isinstance(answer, Tensor) and answer.is_floating_point() and answer.element_size() <= 2:
        return str(answer.dtype).removeprefix("torch.")
    return "float16" if isinstance(answer, np.ndarray | np.generic) and answer.dtype == np.float16 else None


def _as_float(number: Real) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer beyond 10^308
        return math.inf


def _stacked(entries: list[Tensor]) -> Tensor:
    shapes = {tuple(entry.shape) for entry in entries}
    if len(shapes) > 1:
        raise ValueError("its entries have the shapes " + ", ".join(str(tuple(entry.shape)) for entry in entries))
    return torch.stack(entries) if entries else torch.zeros(0, dtype=torch.float64)


def close(a: Tensor, b: Tensor, atol: float, rtol: float) -> Tensor:
    """Element by element, whether a equals b within the tolerance; inf equals inf, nan equals nan. Same shapes."""
    return torch.isclose(a, b, atol=atol, rtol=rtol, equal_nan=True)


def show(value: object, digits: int = 4) -> str:
    """The value in a few characters: numbers with some significant digits, a large tensor by its shape alone."""
    if isinstance(value, Tensor) and value.numel() > MOST_SHOWN:
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Tensor):
        return _nested(value.tolist(), digits)
    return _nested(value, digits) if isinstance(value, int | float) else repr(value)


def _nested(value: object, digits: int) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_nested(entry, digits) for entry in value) + "]"
    return f"{value + 0.0:.{digits}g}" if isinstance(value, float) else str(value)  # + 0.0: no "-0"


def show_pair(a: Tensor, b: Tensor) -> tuple[str, str]:
    """Both values, with as many digits as it takes to tell them apart."""
    for digits in (4, 6, 9, 13):
        if show(a, digits) != show(b, digits):
            break
    return show(a, digits), show(b, digits)


def show_arguments(names: list[str], arguments: tuple) -> str:
    """The arguments by name: `p = [0.25, 0.75], levels = 17`, and `logits (16, 10)` where a tensor is large."""
    return ", ".join(_show_argument(name, value) for name, value in zip(names, arguments))


def _show_argument(name: str, value: object) -> str:
    if isinstance(value, Tensor) and value.numel() > MOST_SHOWN:
        return f"{name} of shape {tuple(value.shape)}"
    return f"{name} = {show(value)}"
