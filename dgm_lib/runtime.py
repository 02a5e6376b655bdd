"""Where tensors live and what makes a run repeatable: device, seeds, precision, processes.

The CPU is the reference device: the numbers stored in the notebooks come from it. Random streams differ between
kinds of device, so a GPU gives other draws from the same distribution.
"""

from __future__ import annotations

import atexit
import os
import pickle
import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

# ---- device --------------------------------------------------------------------------------------------------------


def available_devices() -> list[str]:
    """The kinds of device that this torch can use here, fastest first. The CPU is always one of them."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    other = torch.accelerator.current_accelerator()  # such as xpu, or what an extension has brought
    if other is not None and other.type not in found:
        found[other.type] = torch.get_device_module(other).is_available()
    return [kind for kind, usable in found.items() if usable] + ["cpu"]


def begin(seed: int = 0) -> torch.device:
    """What a notebook begins with: tensors are made on the device from here on, and random numbers follow from `seed`.

    The device is that of `device()`: the fastest that is there, or what DGM_DEVICE says. It becomes torch's default, so
    that networks, data sets and tensors made without a device lie there. The CPU needs no default, and pays for none.
    """
    where = device()
    torch.set_default_device(None if where.type == "cpu" else where)
    seed_everything(seed)
    return where


def device(choice: torch.device | str | None = None) -> torch.device:
    """The device to use: `choice`, else the environment variable DGM_DEVICE, else the fastest that is there.

    Under torchrun each process gets the GPU of its local rank. Raises ValueError if the choice is not available.
    """
    choice = str("" if choice is None else choice) or os.environ.get("DGM_DEVICE") or available_devices()[0]
    kind, _, index = choice.partition(":")
    if kind not in available_devices() or (index and not _has_index(kind, index)):
        source = "DGM_DEVICE" if choice == os.environ.get("DGM_DEVICE") else "the device asked for"
        raise ValueError(f"{source} is {choice!r}, but here there is only: {', '.join(available_devices())}")
    if kind == "cuda" and not index:
        index = str(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(f"{kind}:{index}" if index else kind)


def on_cpu() -> AbstractContextManager:
    """A context in which what is made without a device lies on the CPU, whatever torch's default device is."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def _has_index(kind: str, index: str) -> bool:
    count = torch.cuda.device_count() if kind == "cuda" else 1
    return index.isdigit() and int(index) < count


# ---- seeds ---------------------------------------------------------------------------------------------------------


def derive_seed(*keys: int) -> int:
    """One 63-bit seed from several numbers, such as (seed, epoch, rank): near keys give unrelated streams."""
    words = np.random.SeedSequence(keys).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def seed_everything(*keys: int) -> None:
    """Seeds Python, NumPy and torch (every device) from `keys`, so that what follows can be repeated."""
    seed = derive_seed(*keys)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


# ---- precision -----------------------------------------------------------------------------------------------------


def has_native_bf16(where: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; elsewhere autocast only costs time."""
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return where.type == "cpu" and "bf16" in _cpu_flags()


def _cpu_flags() -> str:
    """What the processor says it can do. torch has no public question for this; where Linux does not tell, nothing."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def autocast(where: torch.device, enabled: bool = True) -> AbstractContextManager:
    """A context in which matrix products run in bfloat16 where the device has it natively, else in float32."""
    if not (enabled and has_native_bf16(where)):
        return nullcontext()
    return torch.autocast(where.type, dtype=torch.bfloat16)


# ---- processes -----------------------------------------------------------------------------------------------------


def start_processes() -> tuple[int, int]:
    """Joins the group that torchrun describes in the environment; returns (rank, number of processes).

    Without torchrun this is a group of one, and nothing is started. Calling it twice does no harm. However the process
    ends, it leaves the group first: a thread of the group that outlives the interpreter would abort it.
    """
    if "RANK" in os.environ and not distributed.is_initialized():
        # torch.optim imports this module sooner or later. Once there is a group, the module's default arguments would
        # hold it for ever, and its threads would not end with `stop_processes`.
        import torch.distributed.nn.functional

        backend = "nccl" if device().type == "cuda" else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(device())
        distributed.init_process_group(backend)
        atexit.register(stop_processes)
    return rank(), n_processes()


def stop_processes() -> None:
    """Leaves the group, if there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    """This process's number in the group, 0 when it is alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def n_processes() -> int:
    """How many processes train together, 1 when this one is alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def broadcast_weights(model: nn.Module) -> None:
    """Gives every process the parameters and buffers of process 0."""
    if n_processes() > 1:
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor.data, src=0)


def gather(value: Any) -> list:
    """Every process's value, in the order of their ranks; tensors in it must be on the CPU."""
    if n_processes() == 1:
        return [value]
    values = [None] * n_processes()
    distributed.all_gather_object(values, value)
    return values


def together(action: Callable[[], Any]) -> list:
    """What the action returns in every process, in the order of their ranks.

    An error of one process is raised in all of them: no process waits for one that has given up.
    """
    if n_processes() == 1:
        return [action()]
    value = mine = None
    try:
        value = action()
    except Exception as error:
        mine = error
    results = gather((value, mine and _portable(mine)))
    for number, (_, error) in enumerate(results):
        if error is not None:
            error.add_note(f"in process {number}")
            raise error from mine
    return [value for value, _ in results]


def _portable(error: Exception) -> Exception:
    """The error, or one with the same words where other processes could not take it over."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def agree(describe: Callable[[], dict[str, Any]]) -> None:
    """Raises ValueError in every process where what they describe differs in any entry; errors as `together`."""
    first, *others = together(describe)
    for number, other in enumerate(others, 1):
        for key in {**first, **other}:
            here, there = (str(part.get(key, "missing")) for part in (first, other))
            if here != there:
                raise ValueError(
                    f"{key} is {here} in process 0 and {there} in process {number}: it must be the same in all"
                )


def average_gradients(parameters: Iterable[nn.Parameter], loss: Tensor | None = None, stopped: bool = False) -> Tensor:
    """Replaces each gradient by its mean over all processes, in one message; one that is missing counts as zero.

    The mean of per-process gradients is the gradient of the mean loss over the joint batch. Returns (2,): the mean of
    the losses, and the share of processes that have stopped; these send zeros and keep what they have. Alone: the
    loss, (1,).
    """
    parameters = list(parameters)
    loss = parameters[0].new_zeros(()) if loss is None else loss
    if n_processes() == 1:
        return loss.reshape(1)
    gradients = [torch.zeros_like(p) if stopped or p.grad is None else p.grad for p in parameters]
    said = torch.stack([loss, torch.full_like(loss, float(stopped))])
    said = said.to(gradients[0].device, torch.promote_types(gradients[0].dtype, torch.float32))
    joined = mean_over_processes(torch.cat([*(g.flatten() for g in gradients), said]))
    means = joined.split([*(p.numel() for p in parameters), 2])
    for p, gradient, mean in zip(parameters, gradients, means):
        if p.requires_grad and not stopped:  # a message has the same length in all, whatever is frozen in one
            p.grad = gradient.copy_(mean.view_as(gradient))
    return means[-1].real


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes; the tensor itself when this process is alone."""
    if n_processes() > 1:
        value = value.clone()
        distributed.all_reduce(value)
        value /= n_processes()
    return value


def mean_values(quantities: dict[str, float]) -> dict[str, float]:
    """Each quantity's mean over the processes that have it, so that all decide alike."""
    everyone = gather(quantities)
    return {
        name: fmean(float(own[name]) for own in everyone if name in own)
        for name in dict.fromkeys(name for own in everyone for name in own)
    }
