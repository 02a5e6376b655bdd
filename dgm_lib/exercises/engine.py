"""An exercise as plain data, and the verdict on an answer to it.

An answer is compared with a reference on seeded inputs. If it differs, it is compared with the known wrong answers of
the exercise, then handed to the detectors that serve every exercise; failing all that, the first difference is shown.
Where an exercise is about gradients, those of an answer with the right values are compared in the same way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Generator, Tensor

from dgm_lib.exercises.attempt import NOT_ATTEMPTED, Refused, call, quiet
from dgm_lib.exercises.detectors import Comparison, Finding, detect
from dgm_lib.exercises.gradients import with_gradients
from dgm_lib.exercises.values import as_tensor, close, show_arguments, show_pair

SEED = 0
GIVEN_IN_FULL = 1e-6  # relative; what float32 keeps of a number that was computed and not typed
BROKEN_PATH = "Training sends the gradient back through every step of yours: which one cuts it off, or changes it?"
MARKS = {"right": "✓", "wrong": "✗", "error": "✗", "not attempted": "·"}


@dataclass(frozen=True)
class Exercise:
    """One exercise. Its name is that of the reference, whose source is the solution that a learner may read.

    reference: a function of tensors; where `inputs` is None, a function of nothing that returns the value asked for.
    statement: what is asked, in one sentence. nudge: where to begin, for those who are stuck.
    right: what is said to a right answer, as the end of the sentence "agrees with the reference on n inputs, …".
    wrong: known wrong answers, functions like the reference (or values), each with the hint that helps. A hint may
    hold the fields {yours} and {expected}: the two numbers that are shown.
    inputs: the tuples of arguments to compare on, easy ones first, drawn with the generator given.
    differentiate: names of arguments by which the gradients of the answer's sum have to agree too.
    """

    reference: Callable
    statement: str
    nudge: str
    right: str
    wrong: list[tuple[Any, str]]
    inputs: Callable[[Generator], list[tuple]] | None = None
    atol: float = 1e-5
    rtol: float = 1e-5
    differentiate: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.reference.__name__

    @property
    def argument_names(self) -> list[str]:
        return list(inspect.signature(self.reference).parameters)

    def draw_inputs(self) -> list[tuple]:
        """The same inputs at every call."""
        return self.inputs(Generator().manual_seed(SEED))

    def differentiated(self, function: Callable) -> Callable:
        """A function like the reference, giving its gradients behind its value, where the exercise asks for them."""
        by = [self.argument_names.index(name) for name in self.differentiate]
        return with_gradients(function, by) if by else function


@dataclass(frozen=True)
class Verdict:
    """status: "right", "wrong", "not attempted" or "error" (the answer could not be run or read)."""

    status: str
    message: str


def judge(exercise: Exercise, answer: object) -> Verdict:
    """The verdict on an answer: a function like the exercise's reference, or a value where one is asked for."""
    if answer is None or answer is ...:
        return _verdict(exercise, "not attempted", NOT_ATTEMPTED)
    with quiet() as printed:
        judged = _judge_value(exercise, answer) if exercise.inputs is None else _judge_function(exercise, answer)
    if printed.getvalue() and judged.status != "right":
        return Verdict(judged.status, judged.message + "\nWhat your function prints is left out here.")
    return judged


def _verdict(exercise: Exercise, status: str, *sentences: str) -> Verdict:
    return Verdict(status, f"{MARKS[status]} {exercise.name}: " + "\n".join(sentences))


# ---- functions -----------------------------------------------------------------------------------------------------


def _judge_function(exercise: Exercise, answer: object) -> Verdict:
    if not callable(answer):
        remedy = f'give the function itself, without calling it: check("{exercise.name}", my_{exercise.name})'
        return _verdict(exercise, "error", f"{remedy}, not the {type(answer).__name__} that it returns.")
    inputs = exercise.draw_inputs()
    answers, refused = _answers(exercise, answer, inputs)
    comparison = _compare(exercise, inputs[: len(answers)], answers)
    if comparison.first_difference() is not None:
        found = _explain(exercise, comparison, answer)
        return _verdict(exercise, "wrong", _evidence(exercise, found.part, len(inputs)), found.sentence)
    if refused:
        return _verdict(exercise, refused.status, str(refused), *_seen_on(exercise, refused, inputs, len(answers)))
    if exercise.differentiate and (slip := _gradient_slip(exercise, answer, inputs)):
        return slip
    return _verdict(exercise, "right", f"agrees with the reference on {len(inputs)} inputs, {exercise.right}")


def _answers(exercise: Exercise, function: Callable, inputs: list[tuple]) -> tuple[list[Tensor], Refused | None]:
    """The function's values up to the first input on which it gives none, and why it gave none there."""
    answers = []
    for arguments in inputs:
        try:
            answers.append(call(function, exercise.argument_names, arguments))
        except Refused as refused:
            return answers, refused
    return answers, None


def _compare(exercise: Exercise, inputs: list[tuple], answers: list[Tensor]) -> Comparison:
    expected = [as_tensor(exercise.reference(*arguments)) for arguments in inputs]
    return Comparison(list(range(len(inputs))), inputs, answers, expected, exercise.atol, exercise.rtol)


def _gradient_slip(exercise: Exercise, answer: Callable, inputs: list[tuple]) -> Verdict | None:
    """The verdict on right values whose gradients are not the reference's; None where these agree as well."""
    known = [(exercise.differentiated(function), hint) for function, hint in exercise.wrong]
    asked = replace(exercise, reference=exercise.differentiated(exercise.reference), wrong=known)
    answers, refused = _answers(asked, exercise.differentiated(answer), inputs)
    comparison = _compare(asked, inputs[: len(answers)], answers)
    if comparison.first_difference() is not None:
        found = recognise(asked, comparison) or Finding(BROKEN_PATH, comparison)
        return _verdict(exercise, "wrong", _evidence_of_gradient(exercise, comparison, len(inputs)), found.sentence)
    return _verdict(exercise, refused.status, str(refused)) if refused else None


def _evidence_of_gradient(exercise: Exercise, comparison: Comparison, n_inputs: int) -> str:
    at = comparison.first_difference()
    by_name = dict(zip(exercise.argument_names, comparison.arguments[at]))
    entries = [(name, index) for name in exercise.differentiate for index in product(*map(range, by_name[name].shape))]
    answer, expected = (values[at][-len(entries) :] for values in (comparison.answers, comparison.expected))
    first = (~close(answer, expected, comparison.atol, comparison.rtol)).int().argmax()
    name, index = entries[first]
    yours, reference = show_pair(answer[first], expected[first])
    one_value = len(comparison.expected[at]) == len(entries) + 1
    right, gradient = ("value is", "its gradient") if one_value else ("values are", "the gradient of their sum")
    return (
        f"the {right} right, but on input {at + 1} of {n_inputs}, {show_arguments(list(by_name), by_name.values())}, "
        f"{gradient} by {name} at {list(index)} is {yours}, the reference's {reference}."
    )


def _seen_on(exercise: Exercise, refused: Refused, inputs: list[tuple], at: int) -> list[str]:
    if refused.status != "error" and at == 0:
        return []
    return [f"This was on input {at + 1} of {len(inputs)}: {show_arguments(exercise.argument_names, inputs[at])}."]


def _evidence(exercise: Exercise, comparison: Comparison, n_inputs: int) -> str:
    """What was seen on the first of these inputs on which the answer differs."""
    at = comparison.first_difference()
    answer, expected = comparison.answers[at], comparison.expected[at]
    given = show_arguments(exercise.argument_names, comparison.arguments[at])
    where = f"on input {comparison.numbers[at] + 1} of {n_inputs}, {given},"
    if answer.shape != expected.shape:
        return f"{where} your answer has the shape {tuple(answer.shape)}, the reference {tuple(expected.shape)}."
    place, yours, reference = _difference(comparison)
    return f"{where} you return {yours}{place}, the reference {reference}."


def _difference(comparison: Comparison) -> tuple[str, str, str]:
    """The place of the first difference within the answer, and both values there; all of a small tensor."""
    at = comparison.first_difference()
    answer, expected = comparison.answers[at], comparison.expected[at]
    if answer.shape != expected.shape:
        return "", f"shape {tuple(answer.shape)}", f"shape {tuple(expected.shape)}"
    if answer.numel() <= 4:
        return "", *show_pair(answer, expected)
    differs = ~close(answer, expected, comparison.atol, comparison.rtol)
    broken = answer.isfinite() != expected.isfinite()  # says more than a wrong number
    index = (broken if broken.any() else differs).nonzero()[0].tolist()
    return f" at {index}", *show_pair(answer[tuple(index)], expected[tuple(index)])


# ---- what went wrong -----------------------------------------------------------------------------------------------


def _explain(exercise: Exercise, comparison: Comparison, function: Callable) -> Finding:
    """The most specific thing that can be said about a wrong answer."""
    if found := recognise(exercise, comparison):
        return found
    if _changes_when_repeated(exercise, comparison, function):
        sentence = "Called again with the same input it returns something else: random numbers, or a variable outside?"
        return Finding(sentence, comparison)
    return detect(comparison) or Finding(_share(comparison), comparison)


def recognise(exercise: Exercise, comparison: Comparison) -> Finding | None:
    """The hint of the known wrong answer that gives the same values, where the answer is finite if need be."""
    for part in (comparison, comparison.finite()):
        for function, hint in exercise.wrong if part else []:
            if all(_resembles(part, i, function) for i in range(len(part.answers))):
                _, yours, expected = _difference(part)
                return Finding(hint.format(yours=yours, expected=expected), part)
    return None


def _resembles(c: Comparison, i: int, wrong: Callable) -> bool:
    """Whether a known wrong answer gives what the learner's gave on input i.

    Where one of them is not finite, that alone is compared: nan and inf, or the sizes of two clamps, mean the same.
    """
    value = None
    with suppress(RuntimeError, IndexError, ValueError):  # some mistakes only run on inputs of equal sizes
        value = as_tensor(wrong(*c.arguments[i]))
    if value is None or value.shape != c.answers[i].shape:
        return False
    same = close(value, c.answers[i], max(c.atol, c.rounding[i]), c.rtol)
    if value.shape == c.expected[i].shape:
        truth = c.expected[i].isfinite()
        same |= (value.isfinite() != truth) & (c.answers[i].isfinite() != truth)
    return bool(same.all())


def _changes_when_repeated(exercise: Exercise, comparison: Comparison, function: Callable) -> bool:
    """On any of the inputs: noise of 0 and 1 may well come out the same twice on a small one."""
    again, _ = _answers(exercise, function, comparison.arguments)
    pairs = zip(again, comparison.answers)
    return len(again) < len(comparison.answers) or any(
        not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs
    )


def _share(c: Comparison) -> str:
    """How many inputs agree, when nothing else is known."""
    agrees = [c.agree(answer, expected) for answer, expected in zip(c.answers, c.expected)]
    right, wrong = ([i + 1 for i, agreed in enumerate(agrees) if agreed is side] for side in (True, False))
    if not right:
        return "No input agrees yet. Work this one out by hand, on paper: at which step do you and your code part?"
    if len(right) < len(wrong):
        some = f"input {right[0]} of {len(agrees)} agrees" if len(right) == 1 else f"inputs {_listed(right)} agree"
        return f"Only {some}, perhaps by accident. Work input {wrong[0]} out by hand, on paper."
    question = "is special about this one" if len(wrong) == 1 else f"do inputs {_listed(wrong)} have in common"
    return f"{len(right)} of {len(agrees)} inputs agree already: what {question}?"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"


# ---- values --------------------------------------------------------------------------------------------------------


def _judge_value(exercise: Exercise, answer: object) -> Verdict:
    if callable(answer):
        return _verdict(exercise, "error", "this exercise asks for a value, not for a function.")
    try:
        status, sentence = _judge_choice(exercise, answer) or _judge_number(exercise, answer)
    except (TypeError, ValueError, RuntimeError) as problem:
        return _verdict(exercise, "error", f"this exercise asks for one number, and {problem}.")
    return _verdict(exercise, status, sentence)


def _judge_choice(exercise: Exercise, answer: object) -> tuple[str, str] | None:
    """Status and sentence for an exercise whose answer is one of several words; None for a number."""
    expected = exercise.reference()
    if not isinstance(expected, str):
        return None
    hints = dict(exercise.wrong)
    given = answer.strip().lower() if isinstance(answer, str) else answer
    if given == expected:
        return "right", exercise.right
    if isinstance(given, str) and given in hints:
        return "wrong", hints[given]
    choices = ", ".join(f'"{choice}"' for choice in sorted([expected, *hints]))
    return "error", f"answer with one of {choices}."


def _judge_number(exercise: Exercise, answer: object) -> tuple[str, str]:
    given, expected = as_tensor(answer), as_tensor(exercise.reference())
    if given.numel() != 1:
        raise ValueError(f"yours has the shape {tuple(given.shape)}")
    given = given.reshape(())
    if hint := _hint_for_value(exercise, given, GIVEN_IN_FULL):
        return "wrong", hint
    if close(given, expected, exercise.atol, exercise.rtol):
        return "right", exercise.right
    return "wrong", _hint_for_value(exercise, given, exercise.rtol) or _size(exercise, given, expected)


def _hint_for_value(exercise: Exercise, given: Tensor, rtol: float) -> str | None:
    """The hint of the known wrong value that this is. log 999 in full is one, though 6.91 is log 1000, rounded."""
    atol = min(rtol, exercise.atol)
    return next((hint for value, hint in exercise.wrong if close(given, as_tensor(value), atol, rtol)), None)


def _size(exercise: Exercise, given: Tensor, expected: Tensor) -> str:
    if not given.isfinite():
        return f"{given.item()} is not a number to compare with."
    if close(-given, expected, exercise.atol, exercise.rtol):
        return "The size is right, the sign is wrong."
    return f"{given.item():.4g} is too {'large' if given > expected else 'small'}."
