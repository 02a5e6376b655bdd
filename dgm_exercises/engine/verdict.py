"""An exercise as plain data, and the verdict on an answer to it.

An answer is compared with a reference on seeded inputs. If it differs, it is compared with the known wrong answers of
the exercise, then handed to the detectors that serve every exercise; failing all that, the first difference is shown.
An answer with the right values has to give them at a second call as well; and where an exercise is about gradients,
these are compared in the same way.
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

from dgm_exercises.engine.attempt import NOT_ATTEMPTED, Answer, Refused, call, call_again, pinned, quiet
from dgm_exercises.engine.detectors import Comparison, Finding, detect
from dgm_exercises.engine.gradients import with_gradients
from dgm_exercises.engine.values import as_tensor, close, show_arguments, show_pair, sixteen_bit

SEED = 0
OF_GRADIENTS = 1e-3  # relative: what float32 keeps of a gradient, by whichever of the formulas
BESIDE = 1e-2  # how far from a kink or a tie a gradient is asked for once more
GIVEN_IN_FULL = 1e-6  # relative; what float32 keeps of a number that was computed and not typed
NO_GRADIENT = (
    "No gradient comes back to {}, and training would leave that as it is. `detach`, `.data`, `no_grad`, `.item()` and "
    "numpy cut the path."
)
NAN_GRADIENT = (
    "The gradient is nan there, and one nan ruins all parameters. 0 times an infinite slope gives it: of a root or a "
    "logarithm at 0, or of the branch of a `torch.where` that is not taken."
)
BROKEN_PATH = "Training sends the gradient back through every step of yours: which one cuts it off, or changes it?"
OF_ONE = "Your function returns a tuple of one thing: a comma stands behind what it returns, and makes a tuple of it."
SIXTEEN_BIT = (
    "Your answer is {}: 16-bit numbers keep two or three digits, and float16 ends at 65,504. Compute in float32, the "
    "dtype of the inputs."
)
OTHERWISE_AGAIN = "Called again with the same input it returns something else: random numbers, or a variable outside?"
ADDS_UP = (
    "Called again with the same tensors it returns something else: `backward()` adds to the `grad` that is there. "
    "`torch.autograd.grad` leaves nothing behind."
)
MARKS = {"right": "✓", "wrong": "✗", "error": "✗", "not attempted": "·"}


@dataclass(frozen=True)
class Exercise:
    """One exercise. Its name is that of the reference, whose source is the solution that a learner may read.

    reference: a function of tensors; where `inputs` is None, a function of nothing that returns the value asked for.
    statement: what is asked, in one sentence. nudge: where to begin, for those who are stuck.
    right: what is said to a right answer, as the end of the sentence "agrees with the reference on n inputs, …".
    wrong: known wrong answers, functions like the reference (or values), each with the hint that helps. A hint may
    hold the fields {yours} and {expected}: the two numbers that are shown.
    inputs: the tuples of arguments to compare on, easy ones first, drawn with the generator given. Tensors are made
    there and not at import, when a notebook may have set another default device.
    differentiate: names of arguments by which the gradients of the answer's sum have to agree too. numbers_too: whether
    numbers that are no tensors (of numpy, of Python) are right all the same.
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
    numbers_too: bool = False

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
    with quiet() as printed, pinned(), torch.random.fork_rng(devices=[]):
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
    answers, refusals = _answers(exercise, answer, inputs)
    comparison = _compare(exercise, inputs, {i: given.value for i, given in answers.items()})
    differs, refused = comparison.first_number(), min(refusals, default=len(inputs))
    if differs is not None and differs < refused:
        known = recognise(exercise, comparison)
        found = known or _explain(comparison, answer, answers, len(inputs))
        besides = [f"On input {i + 1} it gives no value{'.' if known else f': {refusals[i]}'}" for i in [*refusals][:1]]
        return _verdict(exercise, "wrong", _evidence(exercise, found.part, len(inputs)), found.sentence, *besides)
    if refusals:
        return _refusal(exercise, refusals[refused], inputs, refused)
    if slip := _unlike_itself(exercise, comparison, answer, answers):
        return slip
    tensors = any(isinstance(given.returned, Tensor) for given in answers.values())
    by_gradients = exercise.differentiate and (tensors or not exercise.numbers_too)
    if by_gradients and (slip := _gradient_slip(exercise, answer, inputs)):
        return slip
    return _verdict(exercise, "right", f"agrees with the reference on {len(inputs)} inputs, {exercise.right}")


def _answers(
    exercise: Exercise, function: Callable, inputs: list[tuple]
) -> tuple[dict[int, Answer], dict[int, Refused]]:
    """By the number of the input: the function's answers, and where it gives none, why."""
    answers, refusals = {}, {}
    for i, arguments in enumerate(inputs):
        try:
            answers[i] = call(function, exercise.argument_names, arguments)
        except Refused as refused:
            refusals[i] = refused
            if i == 0 and refused.status == "not attempted":
                break
    return answers, refusals


def _compare(exercise: Exercise, inputs: list[tuple], answers: dict[int, Tensor]) -> Comparison:
    given = [inputs[i] for i in answers]
    expected = [as_tensor(exercise.reference(*arguments)) for arguments in given]
    return Comparison(list(answers), given, list(answers.values()), expected, exercise.atol, exercise.rtol)


def _refusal(exercise: Exercise, refused: Refused, inputs: list[tuple], at: int) -> Verdict:
    if refused.status != "error" and at == 0:
        return _verdict(exercise, refused.status, str(refused))
    status = "error" if refused.status == "not attempted" else refused.status  # other inputs got an answer
    seen = f"This was on input {at + 1} of {len(inputs)}: {show_arguments(exercise.argument_names, inputs[at])}."
    return _verdict(exercise, status, str(refused), seen)


def _unlike_itself(
    exercise: Exercise, comparison: Comparison, function: Callable, answers: dict[int, Answer]
) -> Verdict | None:
    """The verdict on right values that do not come back at a second call; None where they do."""
    if not (sentence := _changes_when_repeated(comparison, function, answers)):
        return None
    return _verdict(exercise, "wrong", "the values are right, but only at the first call.", sentence)


def _gradient_slip(exercise: Exercise, answer: Callable, inputs: list[tuple]) -> Verdict | None:
    """The verdict on right values whose gradients are not the reference's; None where these agree as well."""
    known = [(exercise.differentiated(function), hint) for function, hint in exercise.wrong]
    rtol = max(exercise.rtol, OF_GRADIENTS)
    asked = replace(exercise, reference=exercise.differentiated(exercise.reference), wrong=known, rtol=rtol)
    answer = exercise.differentiated(answer)
    answers, refusals = _answers(asked, answer, inputs)
    if refusals:
        return _verdict(exercise, "wrong", str(next(iter(refusals.values()))))
    comparison = _compare(asked, inputs, {i: given.value for i, given in answers.items()})
    if comparison.first_difference() is None or _differs_at_kinks_only(asked, answer, comparison):
        return None
    known = recognise(asked, comparison)
    sentence = known.sentence if known else _broken_path(exercise, comparison)
    return _verdict(exercise, "wrong", _evidence_of_gradient(exercise, comparison, len(inputs)), sentence)


def _differs_at_kinks_only(asked: Exercise, answer: Callable, c: Comparison) -> bool:
    """Whether finite gradients agree right beside the inputs: at a kink or a tie they hang on how a formula is written,
    as that of max(a, 0) + log(1 + exp(−|a|)) does at a = 0.
    """
    if any(bool((yours.isnan() & ~its.isnan()).any()) for yours, its in zip(c.answers, c.expected)):
        return False
    generator = Generator().manual_seed(SEED)
    by = [name in asked.differentiate for name in asked.argument_names]
    beside = [tuple(_moved(v, generator) if move else v for v, move in zip(at, by)) for at in c.arguments]
    answers, refusals = _answers(asked, answer, beside)
    values = {i: given.value for i, given in answers.items()}
    return not refusals and _compare(asked, beside, values).first_difference() is None


def _moved(value: Tensor, generator: Generator) -> Tensor:
    return value + BESIDE * torch.randn(value.shape, generator=generator)


def _broken_path(exercise: Exercise, comparison: Comparison) -> str:
    """What to say of gradients that differ: that they are nan, or to which arguments none comes back on any input."""
    if any(bool((a.isnan() & ~b.isnan()).any()) for a, b in zip(comparison.answers, comparison.expected)):
        return NAN_GRADIENT
    cut = []
    for name in exercise.differentiate:
        yours, reference = (_gradients_by(name, exercise, comparison, of) for of in ("answers", "expected"))
        if reference.any() and not yours.any():
            cut.append(name)
    return NO_GRADIENT.format(" or ".join(cut)) if cut else BROKEN_PATH


def _gradients_by(name: str, exercise: Exercise, comparison: Comparison, of: str) -> Tensor:
    """Those of all inputs in one row; they stand behind the value, in the order of the arguments asked for."""
    rows = []
    for arguments, values in zip(comparison.arguments, getattr(comparison, of)):
        by_name = dict(zip(exercise.argument_names, arguments))
        sizes = [by_name[other].numel() for other in exercise.differentiate]
        rows.append(values[-sum(sizes) :].split(sizes)[exercise.differentiate.index(name)])
    return torch.cat(rows)


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


def _explain(comparison: Comparison, function: Callable, answers: dict[int, Answer], n_inputs: int) -> Finding:
    """The most specific thing that can be said about an answer that is wrong in a way unknown to its exercise."""
    returned = [given.returned for given in answers.values()]
    if all(_is_of_one(value, expected) for value, expected in zip(returned, comparison.expected)):
        return Finding(OF_ONE, comparison)
    if dtype := sixteen_bit(returned):
        return Finding(SIXTEEN_BIT.format(dtype), comparison)
    if sentence := _changes_when_repeated(comparison, function, answers):
        return Finding(sentence, comparison)
    return detect(comparison) or Finding(_share(comparison, n_inputs), comparison)


def _is_of_one(returned: object, expected: Tensor) -> bool:
    return isinstance(returned, tuple) and len(returned) == 1 and as_tensor(returned[0]).shape == expected.shape


def recognise(exercise: Exercise, comparison: Comparison) -> Finding | None:
    """The hint of the known wrong answer that gives the same values, where the answer is finite if need be."""
    for part in (comparison, comparison.finite()):
        for function, hint in exercise.wrong if part else []:
            if shown := _where_both_are_wrong(part, function):
                _, yours, expected = _difference(shown)
                return Finding(hint.format(yours=yours, expected=expected), shown)
    return None


def _where_both_are_wrong(c: Comparison, wrong: Callable) -> Comparison | None:
    """The inputs on which both differ from the reference, if both give the same on every input."""
    values = []
    for i, arguments in enumerate(c.arguments):
        values.append(_value_of(wrong, arguments))
        if not _resembles(c, i, values[-1]):
            return None
    return c.at([i for i, value in enumerate(values) if not c.agree(value, c.expected[i])])


def _value_of(wrong: Callable, arguments: tuple) -> Tensor | None:
    with suppress(RuntimeError, IndexError, ValueError):  # some mistakes only run on inputs of equal sizes
        return as_tensor(wrong(*arguments))
    return None


def _resembles(c: Comparison, i: int, value: Tensor | None) -> bool:
    """Whether a known wrong answer, of this value, gives what the learner's gave on input i.

    Where one of them is not finite, that alone is compared: nan and inf, or the sizes of two clamps, mean the same.
    """
    if value is None or value.shape != c.answers[i].shape:
        return False
    same = close(value, c.answers[i], max(c.atol, c.rounding[i]), c.rtol)
    if value.shape == c.expected[i].shape:
        truth = c.expected[i].isfinite()
        same |= (value.isfinite() != truth) & (c.answers[i].isfinite() != truth)
    return bool(same.all())


def _changes_when_repeated(c: Comparison, function: Callable, answers: dict[int, Answer]) -> str | None:
    """What to say of an answer that gives something else, or nothing, for the same tensors once more."""
    for given in answers.values():
        try:
            if c.agree(call_again(function, given), given.value):
                continue
        except Refused:
            pass
        adds_up = any(
            isinstance(value, Tensor) and value.is_leaf and value.grad is not None for value in given.arguments
        )
        return ADDS_UP if adds_up else OTHERWISE_AGAIN
    return None


def _share(c: Comparison, n_inputs: int) -> str:
    """How many of all inputs agree, when nothing else is known."""
    agrees = {number + 1: c.agree(*pair) for number, *pair in zip(c.numbers, c.answers, c.expected)}
    right, wrong = ([number for number, agreed in agrees.items() if agreed is side] for side in (True, False))
    if not right:
        return "No input agrees yet. Work this one out by hand, on paper: at which step do you and your code part?"
    if len(right) < n_inputs - len(right):
        some = f"input {right[0]} of {n_inputs} agrees" if len(right) == 1 else f"inputs {_listed(right)} agree"
        return f"Only {some}, perhaps by accident. Work input {wrong[0]} out by hand, on paper."
    question = "is special about this one" if len(wrong) == 1 else f"do inputs {_listed(wrong)} have in common"
    return f"{len(right)} of {n_inputs} inputs agree already: what {question}?"


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
