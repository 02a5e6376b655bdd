"""What is let in: one sentence with the value that is wrong and the remedy, before time is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

NO_LABEL = -1  # what y holds of an example whose label is not known
SUM = 1e-4  # by which rounding may move the sum of probabilities from 1


def check_images(x: Tensor, shape: Sequence[int]) -> None:
    """Raises ValueError unless x is a float batch (B, C, H, W) with (C, H, W) = shape, as models of pixels take it."""
    if x.dim() != 4 or x.shape[1:] != torch.Size(shape) or not x.is_floating_point():
        expected = ", ".join(map(str, shape)) if len(shape) == 3 else "C, H, W"
        raise ValueError(
            f"expected float images of shape (B, {expected}) with levels scaled to [0, 1], "
            f"got {x.dtype} of shape {tuple(x.shape)}: Split.scaled and Split.batches give such images"
        )


def check_labels(y: Tensor, n: int, n_classes: int) -> None:
    """Raises ValueError unless y holds n labels 0 … n_classes − 1."""
    if y.shape != (n,) or y.dtype != torch.int64:
        raise ValueError(f"expected {n} labels of type int64, one an image, got {y.dtype} of shape {tuple(y.shape)}")
    wrong = y[(y < 0) | (y >= n_classes)]
    if len(wrong):
        raise ValueError(f"a label is {int(wrong[0])}, but the {n_classes} classes are 0 … {n_classes - 1}")


def check_some_labels(y: Tensor, n: int, n_classes: int) -> None:
    """Raises ValueError unless y holds n labels −1 … n_classes − 1, of type int64; −1 means that it is not known."""
    check_labels(y.clamp(min=0), n, n_classes)
    wrong = y[y < NO_LABEL]
    if len(wrong):
        raise ValueError(f"a label is {int(wrong[0])}: it must be one of 0 … {n_classes - 1}, or −1 for no label")


def check_prior(prior: Tensor, n_classes: int) -> None:
    """Raises ValueError unless these are the probabilities of n_classes classes, (K,)."""
    if prior.shape != (n_classes,) or not prior.is_floating_point():
        raise ValueError(
            f"the prior is {prior.dtype} of shape {tuple(prior.shape)}: it must be {n_classes} floats, one a class"
        )
    wrong = (~(prior >= 0)).nonzero()
    if len(wrong):
        c = int(wrong[0])
        raise ValueError(f"the prior of class {c} is {prior[c].item():g}: a probability must be ≥ 0")
    if abs(prior.sum().item() - 1) > SUM:
        raise ValueError(f"the prior sums to {prior.sum().item():g}: it must sum to 1, so divide it by its sum")


def check_condition(y: Tensor | None, n: int, n_classes: int | None, model: str) -> None:
    """Raises ValueError unless labels of n examples are given to a model that has classes, and only to such a one."""
    if y is None and n_classes is not None:
        raise ValueError(f"this {model} is conditioned on one of {n_classes} classes: give the labels y")
    if y is not None and n_classes is None:
        raise ValueError(f"this {model} has no classes: leave y out, or make it with n_classes")
    if y is not None:
        check_labels(y, n, n_classes)


def check_examples(x: Tensor, shape: Sequence[int]) -> None:
    """Raises ValueError unless x is a batch of floats, (B, *shape)."""
    if x.shape[1:] != shape or not x.is_floating_point():
        expected = ", ".join(map(str, ("B", *shape)))
        raise ValueError(f"expected float examples of shape ({expected}), got {x.dtype} of shape {tuple(x.shape)}")


def check_possible(log_prob: Tensor) -> None:
    """Raises ValueError if an example has probability 0: p(z|x) = p(x, z) / p(x) is then 0/0. log_prob: (B,)."""
    impossible = (log_prob == -torch.inf).nonzero()
    if len(impossible):
        raise ValueError(
            f"example {int(impossible[0])} has probability 0 under the model, so nothing follows from it about its "
            "hidden cause: leave it out, or fit with alpha > 0"
        )


def at_least_float32(x: Tensor) -> Tensor:
    """x in a type in which one can count: float16 stops at 2048, bfloat16 at 256."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_binary(x: Tensor) -> None:
    """Raises ValueError unless x holds floats 0 and 1 only."""
    if not x.is_floating_point() or not torch.equal(x.clamp(0, 1).ceil_(), x):  # the fastest of several ways
        wrong = x[x != (x > 0)]
        what = f"a unit is {wrong[0].item():.4g}" if len(wrong) else f"the units are {x.dtype}"
        raise ValueError(f"{what}, not 0.0 or 1.0: binarise the data first, such as (x > 0.5).float()")


def check_known(known: Tensor, x: Tensor) -> Tensor:
    """The mask for every entry of x, True where it is known. Raises ValueError where it is not bool or does not fit."""
    if known.dtype != torch.bool:
        raise ValueError(f"known has the type {known.dtype}: it must be bool, True where x is known")
    try:
        return known.expand_as(x)
    except RuntimeError:
        raise ValueError(f"known has the shape {tuple(known.shape)}, which does not fit x {tuple(x.shape)}") from None


def check_points(x: Tensor, n_features: int) -> None:
    if x.dim() != 2 or x.shape[1] != n_features or not x.is_floating_point():
        raise ValueError(
            f"expected float points of shape (B, {n_features}), got {x.dtype} of shape {tuple(x.shape)}: "
            "images become points by x.flatten(1)"
        )
    strange = (~x.isfinite()).nonzero()
    if len(strange):
        row, column = strange[0].tolist()
        raise ValueError(f"x[{row}, {column}] is {x[row, column].item()}: a density needs finite numbers")


# ---- training ------------------------------------------------------------------------------------------------------


def check_whole(name: str, value: object, at_least: int = 0) -> None:
    """Raises ValueError unless the value is a whole number of at least that much."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} is {value!r}: it must be a whole number of at least {at_least}")


def check_positive(name: str, value: object) -> None:
    """Raises ValueError unless the value is a real number above 0."""
    if not isinstance(value, Real) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{name} is {value!r}: it must be a number above 0")


def check_loss(loss: object, name: str) -> Tensor:
    """The loss. Raises ValueError unless it is one real number with a graph, ()."""
    what = f"the loss of {name!r} is"
    if not isinstance(loss, Tensor):
        raise ValueError(f"{what} a {type(loss).__name__}: return a tensor with one number, the mean over the batch")
    if loss.is_complex():
        raise ValueError(f"{what} {loss.dtype}: it must be a real number")
    if loss.shape != ():
        raise ValueError(
            f"{what} of shape {tuple(loss.shape)}: return one number, the mean over the batch, loss.mean()"
        )
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
