"""What can be said about a wrong answer to any exercise: shapes, factors, signs, logarithms, numbers that overflow.

Each detector takes the comparison of an answer with its reference and returns what it found, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dgm_exercises.engine.values import close

FLOAT32 = 1e-6  # relative: what a few operations lose
LARGE = 4.0  # nats: −log of a probability that a small constant may hide
NO_CONSTANT = 1e-3  # a distance as small as this is rounding, in 16 bits say, and not a term of a formula


@dataclass(frozen=True)
class Comparison:
    """What an answer and its reference gave for the same inputs: one float64 tensor for each input.

    numbers: which inputs of the exercise these are, counted from 0.
    """

    numbers: list[int]
    arguments: list[tuple]
    answers: list[Tensor]
    expected: list[Tensor]
    atol: float
    rtol: float

    def agree(self, a: Tensor, b: Tensor) -> bool:
        """Whether two values are the same: shape and every element."""
        return a.shape == b.shape and bool(close(a, b, self.atol, self.rtol).all())

    @cached_property
    def rounding(self) -> list[float]:
        """What float32 loses on each input, where a mistake may be a small difference of the large numbers given."""
        return [FLOAT32 * _largest(*arguments, expected) for arguments, expected in zip(self.arguments, self.expected)]

    def first_difference(self) -> int | None:
        """The first input on which the answer is not the reference's."""
        pairs = enumerate(zip(self.answers, self.expected))
        return next((i for i, (answer, expected) in pairs if not self.agree(answer, expected)), None)

    def first_number(self) -> int | None:
        """The number of that input among all of the exercise."""
        at = self.first_difference()
        return None if at is None else self.numbers[at]

    def only(self, condition: Callable[[Tensor, Tensor], bool | Tensor]) -> Comparison | None:
        """The same on the inputs where (answer, expected) meet the condition; None if nothing differs on them."""
        return self.at([i for i, pair in enumerate(zip(self.answers, self.expected)) if condition(*pair)])

    def at(self, places: list[int]) -> Comparison | None:
        """The same on the inputs at these places; None if nothing differs on them."""
        columns = (self.numbers, self.arguments, self.answers, self.expected)
        part = Comparison(*([column[i] for i in places] for column in columns), self.atol, self.rtol)
        return part if part.first_difference() is not None else None

    def finite(self) -> Comparison | None:
        """The same where answer and reference are finite; None if the answer is not wrong on any of these inputs."""
        return self.only(lambda answer, expected: answer.isfinite().all() and expected.isfinite().all())

    def n_different(self) -> int:
        """The number of inputs on which the answer is not the reference's."""
        return sum(not self.agree(answer, expected) for answer, expected in zip(self.answers, self.expected))


def _largest(*values: object) -> float:
    sizes = torch.cat([value.detach().double().abs().flatten() for value in values if isinstance(value, Tensor)])
    return max(sizes[sizes.isfinite()].tolist(), default=0.0)


@dataclass(frozen=True)
class Finding:
    """One or two sentences about a wrong answer, and the inputs that they speak of: the first difference is shown."""

    sentence: str
    part: Comparison


def detect(comparison: Comparison) -> Finding | None:
    """The first thing that a detector recognises in a wrong answer, or None."""
    part = comparison.finite()
    for detector in FINITE_DETECTORS if part else []:
        if found := detector(part):
            return found
    for detector in DETECTORS:
        found = detector(comparison)
        if found and 2 * found.part.n_different() >= comparison.n_different():  # not the least of what is wrong
            return found
    return None


# ---- slips that can be undone --------------------------------------------------------------------------------------


def undone(c: Comparison) -> Finding | None:
    """An answer from which one step leads to the reference on every input."""
    for repair, sentence in REPAIRS:
        repaired = [_apply(repair, answer, _length(args)) for answer, args in zip(c.answers, c.arguments)]
        if all(c.agree(value, expected) for value, expected in zip(repaired, c.expected)):
            return Finding(sentence, c)
    return None


def lost(c: Comparison) -> Finding | None:
    """An answer to which one step leads from the reference: more was asked than was given."""
    for step, sentence in LOSSES:
        given = [_apply(step, expected, _length(args)) for expected, args in zip(c.expected, c.arguments)]
        if all(c.agree(answer, value) for answer, value in zip(c.answers, given)):
            return Finding(sentence, c)
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
    (
        lambda a, n: a.logsumexp(-1),
        "You return the logarithms of the single terms; the logarithm of the terms' sum is asked: `logsumexp`.",
    ),
    (lambda a, n: a / 100, "Your values are 100 times the reference: percent, where a share between 0 and 1 is asked."),
    (lambda a, n: 1 - a, "Your values are one minus the reference: the opposite of what is asked."),
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


def same_for_every_input(c: Comparison) -> Finding | None:
    """One value, whatever the input; the reference has several."""
    first, *others = c.answers
    if others and all(c.agree(answer, first) for answer in others) and _varied(c):
        sentence = (
            "Your answer is the same for every input. Does the function use its arguments, or a variable outside?"
        )
        return Finding(sentence, c)
    return None


def whole_numbers(c: Comparison) -> Finding | None:
    """Integers, where the reference is none."""
    whole = all(bool((answer == answer.round()).all()) for answer in c.answers)
    fractions = any(bool((expected != expected.round()).any()) for expected in c.expected)
    if whole and fractions and _varied(c):
        sentence = (
            "All your values are whole numbers; the reference's have fractions. Does a division `//`, a rounding or an "
            "integer tensor cut them off, or is it a count or a place that you return?"
        )
        return Finding(sentence, c)
    return None


def constant_factor(c: Comparison) -> Finding | None:
    """The same multiple of the reference everywhere."""
    pairs = _elements(c)
    if pairs is None:
        return None
    answers, expected = pairs
    factor = (answers / expected)[expected.abs() > c.atol].median()
    if factor == 0 or abs(factor - 1) < 1e-3 or not close(answers, factor * expected, c.atol, 10 * c.rtol).all():
        return None
    sentence = f"On every input your values are {factor.item():.4g} times the reference: one constant factor is wrong."
    return Finding(sentence, c)


def constant_offset(c: Comparison) -> Finding | None:
    """The same distance from the reference everywhere."""
    pairs = _elements(c)
    if pairs is None:
        return None
    answers, expected = pairs
    offset = (answers - expected).median()
    rounding = NO_CONSTANT * max(1.0, expected.abs().median())
    if abs(offset) < rounding or not close(answers, expected + offset, 10 * c.atol, c.rtol).all():
        return None
    gaussian = math.isclose(abs(offset), math.log(2 * math.pi) / 2, abs_tol=1e-3)
    known = " It is ½ log 2π, the constant of the Gaussian." if gaussian else ""
    sentence = f"On every input your values are the reference {offset.item():+.4g}: one constant term is wrong.{known}"
    return Finding(sentence, c)


def ceiling(c: Comparison) -> Finding | None:
    """Right for ordinary values, and too small in size wherever the true one is large."""
    if any(a.shape != b.shape for a, b in zip(c.answers, c.expected)):
        return None
    answers, expected = (torch.cat([value.flatten() for value in values]) for values in (c.answers, c.expected))
    wrong = ~close(answers, expected, c.atol, c.rtol)
    sizes = expected.abs()
    short = (answers.abs() < sizes)[wrong].all() and (answers * expected >= 0)[wrong].all()
    if wrong.all() or not short or sizes[wrong].min() < max(LARGE, sizes[~wrong].median()):
        return None
    sentence = (
        "Right for ordinary values; where the true one is large, yours stops short of it. A small constant or a clamp "
        "inside a logarithm puts such a ceiling there, and beyond it no gradient is left. Stay with logarithms: then "
        "none is needed."
    )
    return Finding(sentence, c)


def nearly_right(c: Comparison) -> Finding | None:
    """Right to a few digits."""
    if any(a.shape != b.shape or not close(a, b, 3e-3, 1e-2).all() for a, b in zip(c.answers, c.expected)):
        return None
    sentence = (
        "You are within 1 %, yet not within the tolerance. A small constant added against log 0 or a "
        "division by 0, a rounding, or 16-bit numbers do that."
    )
    return Finding(sentence, c)


def _elements(c: Comparison) -> tuple[Tensor, Tensor] | None:
    """All answers and all references side by side, if that is enough to fit one constant to them."""
    if any(a.shape != b.shape or not b.isfinite().all() for a, b in zip(c.answers, c.expected)) or not _varied(c):
        return None
    answers, expected = (torch.cat([value.flatten() for value in values]) for values in (c.answers, c.expected))
    return answers, expected


def _varied(c: Comparison) -> bool:
    return len({round(number, 6) for value in c.expected for number in value.flatten().tolist()}) >= 3


# ---- shapes and infinities -----------------------------------------------------------------------------------------


def not_finite(c: Comparison) -> Finding | None:
    """nan or inf, where the reference is finite."""

    def breaks(answer: Tensor, expected: Tensor) -> Tensor | bool:
        return answer.shape == expected.shape and (~answer.isfinite() & expected.isfinite()).any()

    part = c.only(breaks)
    if part is None:
        return None
    is_nan = part.answers[0][~part.answers[0].isfinite()].isnan()
    kind = "nan" if is_nan.all() else "not finite" if is_nan.any() else "infinite"
    sentence = (
        f"Your answer is {kind} there, though the true value is an ordinary number: an `exp` overflows or underflows "
        "on the way, a log meets 0 or a negative number, or a division meets 0. Stay with logarithms as long as you "
        "can."
    )
    return Finding(sentence, part)


def finite_for_infinite(c: Comparison) -> Finding | None:
    """An ordinary number, where the reference is infinite."""

    def hides(answer: Tensor, expected: Tensor) -> Tensor | bool:
        return answer.shape == expected.shape and (answer.isfinite() & expected.isinf()).any()

    part = c.only(hides)
    sentence = "The true value is infinite there. A clamp, a mask or a small constant inside a log hides it."
    return Finding(sentence, part) if part else None


def other_shape(c: Comparison) -> Finding | None:
    """A shape that no other detector could explain."""
    part = c.only(lambda answer, expected: answer.shape != expected.shape)
    return Finding("Over which dimension do you reduce, and which ones should remain?", part) if part else None


FINITE_DETECTORS = [
    undone,
    lost,
    other_shape,
    same_for_every_input,
    whole_numbers,
    constant_factor,
    constant_offset,
    ceiling,
    nearly_right,
]
DETECTORS = [other_shape, not_finite, finite_for_infinite]
