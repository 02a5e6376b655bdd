"""What is let in: one sentence with the value that is wrong and the remedy, before time is spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from itertools import chain
from numbers import Real
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NO_LABEL = -1  # what y holds of an example whose label is not known
NO_FLOAT64 = {"mps"}  # kinds of device without numbers of 64 bits: Apple's GPU
SUM = 1e-4  # by which rounding may move the sum of probabilities from 1
CASTS = {torch.float16: "half", torch.bfloat16: "bfloat16", torch.float32: "float", torch.float64: "double"}


# ---- examples ------------------------------------------------------------------------------------------------------


def check_examples(
    x: Tensor, shape: Sequence[int | str], model: nn.Module | None = None, what: str = "examples"
) -> None:
    """Raises ValueError unless x is a batch of floats, (B, *shape), of the type that the model calculates in.

    A letter in `shape` stands for any size: "CHW" for images; "…" alone for any shape.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or not fits(x.shape, shape):
        expected = f"expected float {what} of shape ({', '.join(map(str, ('B', *shape)))}), got {kind(x)}"
        remedy = "images become points by x.flatten(1)" if what == "points" else "give x.float() in that shape"
        of_bytes = ", as Split.scaled and Split.batches make of bytes" if kind(x).startswith("torch.uint8") else ""
        raise ValueError(f"{expected}: {remedy}{of_bytes}")
    if model is not None:
        check_type(x, model, what)


def fits(batch: torch.Size, shape: Sequence[int | str]) -> bool:
    if shape == "…":
        return len(batch) > 0
    wanted = ("B", *shape)
    return len(batch) == len(wanted) and all(isinstance(n, str) or n == size for n, size in zip(wanted, batch))


def check_type(x: Tensor, model: nn.Module, what: str) -> None:
    """Raises ValueError where torch could not multiply x with the model's weights. It reads no value."""
    own = own_type(model, x.dtype)
    if own != x.dtype and (torch.float64 in (own, x.dtype) or not torch.is_autocast_enabled(x.device.type)):
        what = f"the {what} are {x.dtype} and the model calculates in {own}"
        raise ValueError(f"{what}: give x.{CASTS[own]}(), or turn the model by model.{CASTS.get(x.dtype, 'double')}()")


def own_type(model: nn.Module, default: torch.dtype = torch.float32) -> torch.dtype:
    """The type that a model calculates in: that of its first parameter or buffer of floats."""
    tensors = chain(model.parameters(), model.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), default)


def check_some(x: Tensor) -> None:
    """Raises ValueError for a batch without an example, of which there is no mean."""
    if not len(x):
        raise ValueError(f"the batch is empty, of shape {tuple(x.shape)}: a mean needs at least one example")


def check_batch(x: Tensor, shape: Sequence[int | str], model: nn.Module) -> None:
    """Raises ValueError unless x is what a mean can be taken over: an example or more, as check_examples wants them."""
    check_examples(x, shape, model)
    check_some(x)


def check_binary(x: Tensor) -> None:
    """Raises ValueError unless x holds floats 0 and 1 only."""
    if not x.is_floating_point() or not torch.equal(x.clamp(0, 1).ceil_(), x):  # the fastest of several ways
        wrong = x[x != (x > 0)]
        what = f"a unit is {wrong[0].item():.4g}" if len(wrong) else f"the units are {x.dtype}"
        raise ValueError(f"{what}, not 0.0 or 1.0: binarise the data first, such as (x > 0.5).float()")


def check_inside(x: Tensor, box: tuple[float, float] | None = None) -> None:
    """Raises ValueError where x leaves the box or, without one, where it is NaN or infinite."""
    if x.numel():
        soon(_check_inside, x, box)


def _check_inside(x: Tensor, box: tuple[float, float] | None) -> None:
    low, high = torch.stack(x.detach().aminmax()).tolist()  # asks a device once; NaN is passed on
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"x holds {high if math.isfinite(low) else low:g}: leave out what is NaN or infinite")
    first, last = torch.tensor(box or (low, high), dtype=x.dtype, device="cpu").tolist()  # rounded as x is
    if not first <= low <= high <= last:
        what = f"x holds {high if first <= low else low:g}, and the model knows numbers in [{box[0]:g}, {box[1]:g}]"
        raise ValueError(f"{what}: scale x to that range, as Split.batches does, or give the model the box of the data")


def check_box(box: tuple[float, float] | None) -> None:
    """Raises ValueError unless the box is (low, high), both finite, or None."""
    if box is not None and not (len(box) == 2 and -math.inf < box[0] < box[1] < math.inf):
        raise ValueError(f"box is {box}: it must be (low, high) with low < high, both finite")


def check_known(known: Tensor, x: Tensor) -> Tensor:
    """The mask for every entry of x, True where it is known. Raises ValueError where it is not bool or does not fit."""
    if not isinstance(known, Tensor) or known.dtype != torch.bool:
        what = f"has the type {known.dtype}" if isinstance(known, Tensor) else f"is {kind(known)}"
        raise ValueError(f"known {what}: it must be bool, True where x is known")
    try:
        return known.expand_as(x)
    except RuntimeError:
        what = f"known has the shape {tuple(known.shape)}, which does not fit x {tuple(x.shape)}"
        raise ValueError(f"{what}: give it the shape of x, or (B, 1, …) for whole examples") from None


# ---- labels and probabilities --------------------------------------------------------------------------------------


def check_labels(y: Tensor, n: int, n_classes: int, *, least: int = 0) -> None:
    """Raises ValueError unless y holds n labels least … n_classes − 1, of type int64; NO_LABEL may be the least."""
    check_kind_of_labels(y, n)
    _check_classes(y, n_classes, least)


def check_kind_of_labels(y: Tensor, n: int) -> None:
    if not isinstance(y, Tensor) or y.shape != (n,) or y.dtype != torch.int64:
        raise ValueError(f"expected {n} labels of type int64, one an image, got {kind(y)}: give y.flatten().long()")


def _check_classes(y: Tensor, n_classes: int, least: int = 0) -> None:
    wrong = y[(y < least) | (y >= n_classes)]
    if len(wrong):
        classes = f"the {n_classes} classes are 0 … {n_classes - 1}{', or −1 for no label' if least else ''}"
        raise ValueError(f"a label is {int(wrong[0])}, but {classes}")


def check_condition(y: Tensor | None, n: int, n_classes: int | None, model: str) -> None:
    """Raises ValueError unless labels of n examples are given to a model that has classes, and only to such a one."""
    if y is None and n_classes is not None:
        raise ValueError(f"this {model} is conditioned on one of {n_classes} classes: give the labels y")
    if y is not None and n_classes is None:
        raise ValueError(f"this {model} has no classes: leave y out, or make it with n_classes")
    if y is not None:
        check_kind_of_labels(y, n)
        soon(_check_classes, y, n_classes)


def as_labels(y: Any, n: int, n_classes: int) -> Tensor:
    """n labels 0 … n_classes − 1, of any type of whole numbers, as int64. Raises ValueError as `check_labels` does."""
    y = as_tensor(y, "y")
    y = y if y.is_floating_point() or y.is_complex() else y.long()
    check_labels(y, n, n_classes)
    return y


def class_counts(y: Tensor, n_classes: int) -> Tensor:
    """How many of the labels (N,) each class has, (K,). Raises ValueError for a class that has none."""
    counts = as_labels(y, len(y), n_classes).bincount(minlength=n_classes)
    if not counts.all():
        c = int(counts.argmin())
        raise ValueError(f"class {c} has no example among {len(y)} labels: give examples of it, or fewer classes")
    return counts


def check_prior(prior: Tensor, n_classes: int) -> None:
    """Raises ValueError unless these are the probabilities of n_classes classes, (K,)."""
    if prior.shape != (n_classes,) or not prior.is_floating_point():
        raise ValueError(f"the prior is {kind(prior)}: it must be {n_classes} floats, one a class")
    for c, p in enumerate(prior.tolist()):
        if not p >= 0:
            raise ValueError(f"the prior of class {c} is {p:g}: a probability must be ≥ 0")
    if abs(prior.sum().item() - 1) > SUM:
        raise ValueError(f"the prior sums to {prior.sum().item():g}: it must sum to 1, so divide it by its sum")


def check_possible(log_prob: Tensor) -> None:
    """Raises ValueError if an example has probability 0: p(z|x) = p(x, z) / p(x) is then 0/0. log_prob: (B,)."""
    if where := first(~(log_prob > -torch.inf)):
        i = where[0]
        if log_prob[i].isnan():
            raise ValueError(f"the log-probability of example {i} is NaN: look at x and at the model")
        raise ValueError(f"example {i} has probability 0 under the model: leave it out, or fit with alpha > 0")


def finite_above(logits: Tensor) -> Tensor:
    """Logits with the same softmax, in which a certain class has 0 instead of +∞ and the others have −∞.

    Raises ValueError unless they are N ≥ 1 rows without NaN, each with a possible class, and with at most one +∞.
    """
    logits = as_tensor(logits, "logits")
    if logits.dim() != 2 or not logits.numel() or not logits.is_floating_point():
        raise ValueError(f"logits are {kind(logits)}: they must be floats (N, K), N ≥ 1")
    if logits.isnan().any():
        raise ValueError(f"{int(logits.isnan().any(1).sum())} of {len(logits)} rows of logits hold a NaN")
    certain = logits == torch.inf
    if where := first((certain.sum(1) > 1) | (logits == -torch.inf).all(1)):
        row = where[0]
        what = f"the logits of example {row} are {logits[row].tolist()}"
        raise ValueError(f"{what}, which say nothing of its class: at most one may be +∞, and not all −∞")
    sure = torch.where(certain, 0.0, -torch.inf).to(logits)
    return at_least_float32(torch.where(certain.any(1, keepdim=True), sure, logits))


def check_scores(scores: Tensor, n: int) -> None:
    """Raises ValueError unless these are scores of K ≥ 2 classes for each of n examples, (n, K)."""
    if scores.dim() != 2 or len(scores) != n or scores.shape[1] < 2:
        gives = f"the classifier gives {tuple(scores.shape)} for {n} examples"
        raise ValueError(f"{gives}: it must give ({n}, K), one score a class")


def named(scores: Tensor) -> Tensor:
    """The class of the largest score: (N, K) -> (N,). −1, no class, where a score is NaN or all of them are −∞."""
    largest, label = scores.max(1)
    return torch.where(largest > -torch.inf, label, NO_LABEL)


# ---- tensors of any kind, as the measures take them ----------------------------------------------------------------


def as_tensor(values: Any, name: str) -> Tensor:
    """A tensor as it is; arrays, numbers and lists of them as one. Raises ValueError for anything else."""
    if isinstance(values, Tensor):
        return values
    try:
        return torch.as_tensor(np.array(values, order="C"))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {kind(values)} that is no array of numbers: give a tensor") from None


def at_least_float32(x: Tensor) -> Tensor:
    """x in a type in which one can count: float16 stops at 2048, bfloat16 at 256."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def as_double(x: Tensor) -> Tensor:
    """x in float64, on the CPU where its device has no such numbers."""
    return (x.cpu() if x.device.type in NO_FLOAT64 else x).double()


def as_rows(values: Any, name: str) -> Tensor:
    """(N, …) -> (N, D) floats: bytes, too, which wrap around where they are subtracted. (N,) becomes (N, 1)."""
    x = at_least_float32(as_tensor(values, name))
    if not x.dim():
        raise ValueError(f"{name} is one number: it must be (N, …), one row an example")
    return x.flatten(1) if x.dim() > 1 else x[:, None]


def first(wrong: Tensor) -> list[int]:
    """Where a mask is first True, an index for each axis; empty where it never is."""
    return wrong.nonzero()[:1].flatten().tolist()


def check_finite(x: Tensor, name: str = "x") -> None:
    """Raises ValueError where x holds a NaN or an infinity, and says where."""
    if where := first(~x.isfinite()):
        raise ValueError(f"{name}{where} is {x[tuple(where)].item()}: every number must be finite")


# ---- numbers -------------------------------------------------------------------------------------------------------


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, on the CPU. Raises ValueError for a seed that is no whole number of 64 bits."""
    try:
        return torch.Generator().manual_seed(index(seed))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"seed is {seed!r}: it must be a whole number below 2**64, such as 0") from None


def whole(name: str, n: object, least: int = 0) -> int:
    """A number of things as an int. Raises ValueError where it is no whole number, or below `least`."""
    try:
        counted = None if isinstance(n, bool) else index(n)
    except TypeError:
        counted = None
    if counted is None or counted < least:
        raise ValueError(f"{name} is {n!r}: it must be a whole number ≥ {least}")
    return counted


def check_whole(least: int, **numbers: int) -> None:
    """Raises ValueError unless each is a whole number ≥ least: check_whole(1, steps=steps)."""
    for name, number in numbers.items():
        whole(name, number, least)


def check_weight(**numbers: float) -> None:
    """Raises ValueError unless each is a number ≥ 0 and finite."""
    for name, number in numbers.items():
        if not isinstance(number, Real) or not 0 <= number < math.inf:
            raise ValueError(f"{name} is {shown(number)}: it must be ≥ 0 and finite")


def check_positive(**numbers: float) -> None:
    """Raises ValueError unless each is a number > 0 and finite."""
    for name, number in numbers.items():
        if not isinstance(number, Real) or isinstance(number, bool) or not 0 < number < math.inf:
            raise ValueError(f"{name} is {shown(number)}: it must be positive and finite")


def shown(number: object) -> str:
    return f"{number:g}" if isinstance(number, Real) else repr(number)


def kind(x: object) -> str:
    """What was given, for a sentence: type and shape of a tensor, else the name of the class."""
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"


def shaped(x: object) -> str:
    """What is wrong with the shape of what a function gave, for a sentence."""
    return f"has the shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"is {kind(x)}"


# ---- when values are looked at -----------------------------------------------------------------------------------

_waiting: list[Callable[[], None]] | None = None  # checks of values on a device that have not been made yet


@contextmanager
def seldom() -> Iterator[None]:
    """For a loop of many steps: inside, checks of values on a device, which it must be waited for, wait for `settle`.

    On the CPU, where they are free, they are made at once. None is left out: the last ones are made at the end.
    """
    global _waiting
    outer, _waiting = _waiting, []
    try:
        yield
        settle()
    finally:
        _waiting = outer


def settle() -> None:
    """Makes the checks that wait: to be called where a device is asked anyway, such as for the losses."""
    while _waiting:
        _waiting.pop(0)()


def soon(check: Callable[..., None], x: Tensor, *settings: object) -> None:
    """Makes a check of the values of x at once or, on a device inside `seldom`, later."""
    if _waiting is None or x.device.type == "cpu":
        check(x, *settings)
    else:
        _waiting.append(partial(check, x, *settings))


def as_index(y: Tensor, n_classes: int) -> Tensor:
    """Labels to be looked up with. While their check waits, wrong ones become others, as they end a CUDA process."""
    return y if _waiting is None or y.device.type == "cpu" else y.clamp(0, n_classes - 1)


# ---- what autograd may be given ------------------------------------------------------------------------------------


@contextmanager
def leaf(x: Tensor) -> Iterator[Tensor]:
    """x as what is differentiated by: inside, gradients are on, whatever no_grad or inference_mode is around it."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(f"a gradient is taken at floats, got {kind(x)}: give x.float()")
    with torch.inference_mode(False), torch.enable_grad():
        yield usual(x).detach().requires_grad_()


def usual(x: Tensor) -> Tensor:
    """x, as a tensor that autograd may keep: those of inference mode are none outside of it."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x


# ---- training ------------------------------------------------------------------------------------------------------


def check_loss(loss: object, name: str) -> Tensor:
    """The loss. Raises ValueError unless it is one real number with a graph, ()."""
    what = f"the loss of {name!r} is"
    if not isinstance(loss, Tensor):
        raise ValueError(f"{what} a {type(loss).__name__}: return a tensor with one number, the mean over the batch")
    if loss.is_complex():
        raise ValueError(f"{what} {loss.dtype}: it must be a real number")
    if loss.shape != ():
        raise ValueError(f"{what} of shape {tuple(loss.shape)}: return one number, the mean over the batch")
    if not loss.requires_grad:
        raise ValueError(
            f"{what} a number without a graph: compute it from parameters that are not frozen, without detach(), "
            "item(), no_grad or inference_mode"
        )
    return loss


def as_batch(batch: object) -> tuple:
    """The parts of a batch, which a loss is called with. Raises ValueError for what is neither a tensor nor a tuple."""
    if isinstance(batch, Tensor):
        return (batch,)
    what = "an array" if isinstance(batch, np.ndarray) else f"a {type(batch).__name__}"
    if isinstance(batch, (tuple, list)):
        if not any(isinstance(part, np.ndarray) for part in batch):
            return tuple(batch)
        what += " of arrays"
    raise ValueError(
        f"a batch is {what}: give a tensor x or a tuple of tensors (x, y), such as data.train.batches(128) does; "
        "arrays become tensors by torch.from_numpy(x).float()"
    )


def what_is_wrong(error: Exception, loss: Callable, batch: tuple, dtype: torch.dtype) -> str | None:
    """What an error in a loss says of its batch, with the remedy; None where it is about something else."""
    if isinstance(error, TypeError) and not _takes(loss, batch):
        parts = "one part" if len(batch) == 1 else f"{len(batch)} parts"
        return f"it takes {signature(loss)}, but a batch has {parts}: it is called as loss(*batch)"
    if "more than 1 value per channel" in str(error):
        return "batch normalisation needs more than one example: leave a last batch of one out with drop_last=True"
    if not isinstance(error, RuntimeError):
        return None
    others = {part.dtype for part in batch if isinstance(part, Tensor) and part.is_floating_point()} - {dtype}
    if others and any(word in str(error) for word in ("dtype", "scalar type", "Input type")):
        return f"a batch holds {others.pop()} and the parameters are {dtype}: convert the data, x.to({dtype})"
    return None


def _takes(function: Callable, arguments: tuple) -> bool:
    """Whether the function can be called so; also where it does not tell."""
    try:
        signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def check_quantities(quantities: object) -> dict[str, float]:
    """What `on_epoch` returned, as numbers by name. Raises ValueError where it is something else."""
    quantities = {} if quantities is None else quantities
    if not isinstance(quantities, Mapping):
        raise ValueError(f"on_epoch returned a {type(quantities).__name__}: return a dict of numbers, or None")
    for name, value in quantities.items():
        try:
            float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"on_epoch returned a {type(value).__name__} for {name!r}: return one number") from None
    return {name: float(value) for name, value in quantities.items()}
