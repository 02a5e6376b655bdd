"""What is let in: one sentence with the value that is wrong and the remedy, before time is spent."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

NO_LABEL = -1  # what y holds of an example whose label is not known
NO_FLOAT64 = {"mps"}  # kinds of device without numbers of 64 bits: Apple's GPU
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
    impossible = (~(log_prob > -torch.inf)).nonzero()  # NaN, too
    if len(impossible) and log_prob[impossible[0]].isnan():
        raise ValueError(f"the log-probability of example {int(impossible[0])} is NaN: look at x and at the model")
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
    if where := not_finite(x):
        raise ValueError(f"x{where}: a density needs finite numbers")


# ---- numbers of any kind, as the measures take them ----------------------------------------------------------------


def as_tensor(values: Any, name: str) -> Tensor:
    """A tensor as it is; arrays, numbers and lists of them as one. Raises ValueError for anything else."""
    if isinstance(values, Tensor):
        return values
    try:
        return torch.as_tensor(np.array(values, order="C"))
    except (TypeError, ValueError, RuntimeError):
        kind = type(values).__name__
        raise ValueError(f"{name} is a {kind} that is no array of numbers: give a tensor") from None


def as_double(x: Tensor) -> Tensor:
    """x in float64, on the CPU where its device has no such numbers."""
    return (x.cpu() if x.device.type in NO_FLOAT64 else x).double()


def as_rows(values: Any, name: str) -> Tensor:
    """(N, …) -> (N, D) floats: bytes, too, which wrap around where they are subtracted. (N,) becomes (N, 1)."""
    x = at_least_float32(as_tensor(values, name))
    if not x.dim():
        raise ValueError(f"{name} is one number: it must be (N, …), one row an example")
    return x.flatten(1) if x.dim() > 1 else x[:, None]


def as_labels(y: Any, n: int, n_classes: int) -> Tensor:
    """n labels 0 … n_classes − 1, of any type of whole numbers, as int64. Raises ValueError as `check_labels` does."""
    y = as_tensor(y, "y")
    y = y if y.is_floating_point() or y.is_complex() else y.long()
    check_labels(y, n, n_classes)
    return y


def not_finite(x: Tensor) -> str | None:
    """Where x, (N, D), first holds a NaN or an infinity, such as "[7, 1] is nan"; None if it does not."""
    strange = (~x.isfinite()).nonzero()
    if not len(strange):
        return None
    row, column = strange[0].tolist()
    return f"[{row}, {column}] is {x[row, column].item()}"


def class_counts(y: Tensor, n_classes: int) -> Tensor:
    """How many of the labels (N,) each class has, (K,). Raises ValueError for a class that has none."""
    counts = as_labels(y, len(y), n_classes).bincount(minlength=n_classes)
    if not counts.all():
        raise ValueError(
            f"class {int(counts.argmin())} has no example among {len(y)} labels, so nothing can be learnt or measured "
            f"of it: give examples of it, or fewer classes than {n_classes}"
        )
    return counts


def finite_above(logits: Tensor) -> Tensor:
    """Logits with the same softmax, in which a certain class has 0 instead of +∞ and the others have −∞.

    Raises ValueError unless they are N ≥ 1 rows without NaN, each with a possible class, and with at most one +∞.
    """
    logits = as_tensor(logits, "logits")
    if logits.dim() != 2 or not logits.numel() or not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype} of shape {tuple(logits.shape)}: they must be floats (N, K), N ≥ 1")
    if logits.isnan().any():
        raise ValueError(f"{int(logits.isnan().any(1).sum())} of {len(logits)} rows of logits hold a NaN")
    certain = logits == torch.inf
    senseless = ((certain.sum(1) > 1) | (logits == -torch.inf).all(1)).nonzero()
    if len(senseless):
        row = int(senseless[0])
        raise ValueError(
            f"the logits of example {row} are {logits[row].tolist()}, which say nothing of its class: at most one "
            "may be +∞, and not all −∞"
        )
    sure = torch.where(certain, 0.0, -torch.inf).to(logits)
    return at_least_float32(torch.where(certain.any(1, keepdim=True), sure, logits))


def check_scores(scores: Tensor, n: int) -> None:
    """Raises ValueError unless these are scores of K ≥ 2 classes for each of n examples, (n, K)."""
    if scores.dim() != 2 or len(scores) != n or scores.shape[1] < 2:
        raise ValueError(
            f"the classifier gives {tuple(scores.shape)} for {n} examples: it must give ({n}, K), one score a class"
        )


def named(scores: Tensor) -> Tensor:
    """The class of the largest score: (N, K) -> (N,). −1, no class, where a score is NaN or all of them are −∞."""
    largest, label = scores.max(1)
    return torch.where(largest > -torch.inf, label, NO_LABEL)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, on the CPU. Raises ValueError for a seed that is no whole number of 64 bits."""
    try:
        return torch.Generator().manual_seed(operator.index(seed))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"seed is {seed!r}: it must be a whole number below 2**64, such as 0") from None


def check_whole(least: int, **numbers: int) -> None:
    """Raises ValueError unless each is a whole number ≥ least: check_whole(1, steps=steps)."""
    for name, number in numbers.items():
        if not isinstance(number, Integral) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} is {number!r}: it must be a whole number ≥ {least}")


def check_weight(**numbers: float) -> None:
    """Raises ValueError unless each is a number ≥ 0 and finite."""
    for name, number in numbers.items():
        if not isinstance(number, Real) or not 0 <= number < math.inf:
            raise ValueError(f"{name} is {number!r}: it must be a number ≥ 0 and finite")
