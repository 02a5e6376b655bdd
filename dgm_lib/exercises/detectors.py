"""What can be said about a wrong answer to any exercise: shapes, factors, signs, logarithms, numbers that overflow.

Each detector takes the comparison of an answer with its reference and returns one or two sentences, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgm_lib.exercises.values import close


@dataclass(frozen=True)
class Comparison:
    """What an answer and its reference gave for the same inputs: one float64 tensor for each input."""

    arguments: list[tuple]
    answers: list[Tensor]
    expected: list[Tensor]
    atol: float
    rtol: float

    def agree(self, a: Tensor, b: Tensor) -> bool:
        """Whether two values are the same: shape and every element."""
        return a.shape == b.shape and bool(close(a, b, self.atol, self.rtol).all())

    def first_difference(self) -> int | None:
        """The first input on which the answer is not the reference's."""
        pairs = enumerate(zip(self.answers, self.expected))
        return next((i for i, (answer, expected) in pairs if not self.agree(answer, expected)), None)

    def finite(self) -> Comparison | None:
        """The same on the inputs where the answer is finite; None if the answer is not wrong on any of them."""
        rows = [row for row in zip(self.arguments, self.answers, self.expected) if row[1].isfinite().all()]
        if not rows:
            return None
        part = Comparison(*map(list, zip(*rows)), self.atol, self.rtol)
        return part if part.first_difference() is not None else None


def detect(comparison: Comparison) -> str | None:
    """The first thing that a detector recognises in a wrong answer, or None."""
    part = comparison.finite()
    for detector in FINITE_DETECTORS if part else []:
        if found := detector(part):
            return found
    return next((found for detector in DETECTORS if (found := detector(comparison))), None)


# ---- slips that can be undone --------------------------------------------------------------------------------------


def undone(c: Comparison) -> str | None:
    """An answer from which one step leads to the reference on every input."""
    for repair, sentence in REPAIRS:
        repaired = [_apply(repair, answer, _length(args)) for answer, args in zip(c.answers, c.arguments)]
        if all(c.agree(value, expected) for value, expected in zip(repaired, c.expected)):
            return sentence
    return None


def lost(c: Comparison) -> str | None:
    """An answer to which one step leads from the reference: more was asked than was given."""
    for step, sentence in LOSSES:
        given = [_apply(step, expected, _length(args)) for expected, args in zip(c.expected, c.arguments)]
        if all(c.agree(answer, value) for answer, value in zip(c.answers, given)):
            return sentence
    return None


def _length(arguments: tuple) -> int:
    return next((len(value) for value in arguments if isinstance(value, Tensor) and value.ndim), 1)


def _apply(step: Callable[[Tensor, int], Tensor], value: Tensor, length: int) -> Tensor:
    try:
        return step(value, length)
    except (RuntimeError, IndexError):  # a transpose of a vector, a sum over an axis that is not there
        return torch.full((0,), math.nan)


REPAIRS: list[tuple[Callable[[Tensor, int], Tensor], str]] = [
    (lambda a, n: -a, "Your values have the right size and the wrong sign. Look for the minus."),
    (
        lambda a, n: a * math.log(2),
        "Your values are 1.4427 times the reference: that is log2 in place of the natural logarithm. "
        "Bits are a fine unit, but the course counts in nats (`log`, not `log2`).",
    ),
    (
        lambda a, n: a * math.log(10),
        "Your values are 0.4343 times the reference: that is log10 in place of the natural logarithm.",
    ),
    (
        lambda a, n: a / math.log(2),
        "Your values are 0.6931 times the reference: that is a factor log 2 too many, as if bits were being "
        "turned into nats. They are nats already.",
    ),
    (
        lambda a, n: a.squeeze(-1),
        "The numbers are right, but the last dimension of length 1 should not be there. Look for a `keepdim=True`, "
        "an `unsqueeze` or an index `[:, None]`; `.squeeze(-1)` removes it.",
    ),
    (
        lambda a, n: a.squeeze(0),
        "The numbers are right, but the first dimension of length 1 should not be there: `.squeeze(0)` removes it.",
    ),
    (
        lambda a, n: a.transpose(-1, -2),
        "The numbers are right, but rows and columns are exchanged: your answer is the transpose of the reference.",
    ),
    (
        lambda a, n: a / n,
        "On every input your values are the length of the first argument times the reference: "
        "a sum where the mean is asked, or a division by the batch size that is missing.",
    ),
    (
        lambda a, n: a * n,
        "On every input your values are the reference divided by the length of the first argument: "
        "a mean where the sum is asked, or a division by the batch size too many.",
    ),
    (lambda a, n: a.mean(), "You return the single terms; the exercise asks for one number, their mean."),
    (lambda a, n: a.sum(), "You return the single terms; the exercise asks for one number, their sum."),
    (lambda a, n: a.mean(-1), "You return the single terms; their mean over the last dimension is asked."),
    (lambda a, n: a.sum(-1), "You return the single terms; their sum over the last dimension is asked."),
    (lambda a, n: a / 100, "Your values are 100 times the reference: percent, where a share between 0 and 1 is asked."),
    (lambda a, n: 1 - a, "Your values are one minus the reference: you count the opposite of what is asked."),
    (lambda a, n: a.log(), "Your values are exp of the reference: the last step, a logarithm, is missing."),
    (lambda a, n: -a.log(), "Your values are exp(−reference): take the logarithm, and then its negative."),
    (lambda a, n: a.exp(), "Your values are the logarithm of the reference: one logarithm too many."),
    (lambda a, n: a.sqrt(), "Your values are the square of the reference. Is a square root missing?"),
    (lambda a, n: a.square(), "Your values are the square root of the reference. Is there one `sqrt` too many?"),
    (lambda a, n: 1 / a, "Your values are one over the reference: the fraction stands upside down."),
    (lambda a, n: a.flip(-1), "The numbers are right, but their order along the last dimension is reversed."),
]

LOSSES: list[tuple[Callable[[Tensor, int], Tensor], str]] = [
    (lambda r, n: r.mean(), "You return the mean over all of them; the exercise asks for each value on its own."),
    (lambda r, n: r.sum(), "You return the sum over all of them; the exercise asks for each value on its own."),
    (lambda r, n: r.mean(0), "You return the mean over the batch; the exercise asks for one value per example."),
    (lambda r, n: r.sum(0), "You return the sum over the batch; the exercise asks for one value per example."),
    (lambda r, n: r.mean(-1), "You return the mean over the last dimension, which the exercise asks you to keep."),
    (lambda r, n: r.sum(-1), "You return the sum over the last dimension, which the exercise asks you to keep."),
]


# ---- patterns in the numbers ---------------------------------------------------------------------------------------


def same_for_every_input(c: Comparison) -> str | None:
    """One value, whatever the input; the reference has several."""
    first, *others = c.answers
    if others and all(c.agree(answer, first) for answer in others) and _varied(c):
        return "Your answer is the same for every input. Does the function use its arguments, or a variable outside?"
    return None


def whole_numbers(c: Comparison) -> str | None:
    """Integers, where the reference is none."""
    if all(bool((answer == answer.round()).all()) for answer in c.answers) and _varied(c):
        return "All your values are whole numbers: a division `//`, a rounding or an integer tensor cut the rest off."
    return None


def constant_factor(c: Comparison) -> str | None:
    """The same multiple of the reference everywhere."""
    pairs = _elements(c)
    if pairs is None:
        return None
    answers, expected = pairs
    factor = (answers / expected)[expected.abs() > c.atol].median()
    if factor == 0 or abs(factor - 1) < 1e-3 or not close(answers, factor * expected, c.atol, 10 * c.rtol).all():
        return None
    return f"On every input your values are {factor.item():.4g} times the reference: one constant factor is wrong."


def constant_offset(c: Comparison) -> str | None:
    """The same distance from the reference everywhere."""
    pairs = _elements(c)
    if pairs is None:
        return None
    answers, expected = pairs
    offset = (answers - expected).median()
    if not close(answers, expected + offset, 10 * c.atol, c.rtol).all():
        return None
    gaussian = math.isclose(abs(offset), math.log(2 * math.pi) / 2, abs_tol=1e-3)
    known = " It is ½ log 2π, the constant of the Gaussian." if gaussian else ""
    return f"On every input your values are the reference {offset.item():+.4g}: one constant term is wrong.{known}"


def nearly_right(c: Comparison) -> str | None:
    """Right to a few digits."""
    if any(a.shape != b.shape or not close(a, b, 3e-3, 1e-2).all() for a, b in zip(c.answers, c.expected)):
        return None
    return (
        "You are within 1 % everywhere, yet not within the tolerance. A small constant added against log 0 or a "
        "division by 0, a rounding, or 16-bit numbers do that."
    )


def _elements(c: Comparison) -> tuple[Tensor, Tensor] | None:
    """All answers and all references side by side, if that is enough to fit one constant to them."""
    if any(a.shape != b.shape or not b.isfinite().all() for a, b in zip(c.answers, c.expected)) or not _varied(c):
        return None
    answers, expected = (torch.cat([value.flatten() for value in values]) for values in (c.answers, c.expected))
    return answers, expected


def _varied(c: Comparison) -> bool:
    return len({round(number, 6) for value in c.expected for number in value.flatten().tolist()}) >= 3


# ---- shapes and infinities -----------------------------------------------------------------------------------------


def not_finite(c: Comparison) -> str | None:
    """nan or inf, where the reference is finite."""
    for answer, expected in zip(c.answers, c.expected):
        if answer.shape == expected.shape and (broken := ~answer.isfinite() & expected.isfinite()).any():
            kind = "nan" if answer[broken].isnan().any() else "infinite"
            return (
                f"Your answer is {kind} there, though the true value is an ordinary number: an `exp` overflows or "
                "underflows on the way, or a log or a division meets 0. Stay with logarithms as long as you can."
            )
    return None


def finite_for_infinite(c: Comparison) -> str | None:
    """An ordinary number, where the reference is infinite."""
    for answer, expected in zip(c.answers, c.expected):
        if answer.shape == expected.shape and (answer.isfinite() & expected.isinf()).any():
            return "The true value is infinite there. A clamp or a small constant inside a log hides it."
    return None


def other_shape(c: Comparison) -> str | None:
    """A shape that no other detector could explain."""
    if any(answer.shape != expected.shape for answer, expected in zip(c.answers, c.expected)):
        return "Over which dimension do you reduce, and which ones should remain?"
    return None


FINITE_DETECTORS = [
    undone,
    lost,
    other_shape,
    same_for_every_input,
    whole_numbers,
    constant_factor,
    constant_offset,
    nearly_right,
]
DETECTORS = [other_shape, not_finite, finite_for_infinite]
