"""What holds of every exercise: its reference, its own list of wrong answers, its inputs, its notebook."""

import ast
import json
import math
import re
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import is_readable, plain
from torch import Tensor

import dgm_exercises as exercises
from dgm_exercises import (
    Exercise,
    check,
    engine,
    find,
    hint,
    judge,
    solution,
)
from dgm_exercises.engine import attempt
from dgm_exercises.engine.values import as_tensor

ALL = [exercise for notebook in exercises.NOTEBOOKS for exercise in notebook.EXERCISES]
FUNCTIONS = [exercise for exercise in ALL if exercise.inputs]
VALUES = [exercise for exercise in ALL if not exercise.inputs]
NOTEBOOK_FILES = sorted(Path(__file__).parents[2].joinpath("notebooks").glob("[0-9][0-9]_*.ipynb"))
BY_NAME = {module.__name__.rpartition(".")[2]: module for module in exercises.NOTEBOOKS}
MODULES = [(path, BY_NAME.get(path.stem[3:])) for path in NOTEBOOK_FILES]
MAY_BE_INFINITE = {"iw_bound", "importance_mean", "optimal_critic"}


def test_names_are_unique():
    names = [exercise.name for exercise in ALL]
    assert len(names) == len(set(names))


def by_name(case):
    return case.name if isinstance(case, Exercise) else None


def reference_of(exercise):
    """A right answer: the reference, or its value."""
    return exercise.reference if exercise.inputs else exercise.reference()


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_reference_is_right(exercise):
    verdict = engine.judge(exercise, reference_of(exercise))
    assert verdict.status == "right", verdict.message
    assert verdict.message.startswith(f"✓ {exercise.name}: ")
    assert plain(exercise.right) in plain(verdict.message)


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_every_wrong_answer_gets_its_own_hint_in_a_few_lines(exercise):
    verdicts = [(engine.judge(exercise, answer), own) for answer, own in exercise.wrong]
    failed = [(own, verdict.message) for verdict, own in verdicts if not gives(verdict, exercise.name, own)]
    assert failed == []


def gives(verdict, name, own) -> bool:
    """Whether a verdict says "wrong" with this hint, whose {fields} are filled, in a few lines."""
    said = all(plain(part) in plain(verdict.message) for part in re.split(r"\{\w+\}", own))
    filled = not re.search(r"\{\w+\}", verdict.message)
    named = verdict.status == "wrong" and verdict.message.startswith(f"✗ {name}: ")
    return named and said and filled and is_readable(verdict)


def looks_like(one, other) -> bool:
    """In value and shape on every input."""
    return all(
        a is not None and b is not None and a.shape == b.shape and torch.allclose(a, b, 1e-5, 1e-5, equal_nan=True)
        for a, b in zip(one, other)
    )


def outcome(function, arguments) -> Tensor | None:
    try:
        return as_tensor(function(*arguments))
    except (RuntimeError, IndexError, attempt.Refused):
        return None


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=by_name)
def test_inputs_separate_all_wrong_answers(exercise):
    """Without the leniency about infinities, and in both directions: no two mistakes look alike on every input."""
    inputs = exercise.draw_inputs()
    compared = [lambda function: function] + [exercise.differentiated] * bool(exercise.differentiate)
    seen = [[[outcome(way(f), args) for args in inputs] for way in compared] for f, _ in exercise.wrong]
    for (one, (_, its_hint)), (other, (_, another)) in combinations(zip(seen, exercise.wrong), 2):
        assert its_hint == another or not all(map(looks_like, one, other)), (its_hint, another)


@pytest.mark.parametrize("exercise", VALUES, ids=by_name)
def test_wrong_values_differ(exercise):
    """By more than float32 loses: log 999, given in full, is not log 1000, though 6.91 may be either."""
    values = [value for value, _ in exercise.wrong]
    for one, other in combinations([*values, exercise.reference()], 2):
        if not isinstance(one, str):
            assert not math.isclose(one, other, rel_tol=10 * engine.GIVEN_IN_FULL, abs_tol=2e-5), (one, other)


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_no_answer_is_not_attempted(exercise):
    assert {engine.judge(exercise, answer).status for answer in (None, ...)} == {"not attempted"}


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=by_name)
def test_a_trailing_comma_is_named(exercise):
    verdict = engine.judge(exercise, lambda *arguments: (exercise.reference(*arguments),))
    assert verdict.status == "wrong"
    assert "a comma stands behind what it returns" in plain(verdict.message)


def narrowed(value, dtype):
    return tuple(part.to(dtype) for part in value) if isinstance(value, tuple) else torch.as_tensor(value).to(dtype)


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=by_name)
def test_answers_of_sixteen_bits_are_right_or_told_so(exercise):
    for dtype in (torch.float16, torch.bfloat16):
        verdict = engine.judge(exercise, lambda *inputs, dtype=dtype: narrowed(exercise.reference(*inputs), dtype))
        assert verdict.status == "right" or "16-bit numbers keep" in plain(verdict.message), dtype


def of_tensors(arguments):
    return [value for value in arguments if isinstance(value, Tensor) and value.is_floating_point()]


def with_own_backward(reference):
    def answer(*arguments):
        value = reference(*arguments)
        total = sum(row.sum() for row in value) if isinstance(value, tuple) else value.sum()
        total.backward()
        return value

    return answer


def switching_gradients_off(reference):
    def answer(*arguments):
        for value in of_tensors(arguments):
            value.requires_grad_(False)
        return reference(*arguments)

    return answer


def switching_autograd_off(reference):
    def answer(*arguments):
        torch.set_grad_enabled(False)
        return reference(*arguments)

    return answer


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=by_name)
def test_an_answer_that_meddles_with_gradients_gets_a_sentence(exercise):
    """Where gradients count it is wrong, and is told so; elsewhere it may be right."""
    for spoil in [with_own_backward] * exercise_is_a_loss(exercise) + [switching_gradients_off, switching_autograd_off]:
        verdict = engine.judge(exercise, spoil(exercise.reference))
        told = "leave it to the caller" in plain(verdict.message) and exercise_is_a_loss(exercise)
        assert "RuntimeError" not in verdict.message or told, spoil
        assert verdict.status != "right" or not exercise_is_a_loss(exercise), spoil
        assert torch.is_grad_enabled()


def exercise_is_a_loss(exercise) -> bool:
    return bool(exercise.differentiate)


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = [
    torch.no_grad,
    torch.inference_mode,
    partial(torch.set_grad_enabled, False),
    partial(default_dtype, torch.float64),
    partial(default_dtype, torch.bfloat16),
    partial(torch.device, "meta"),
    partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    partial(np.errstate, all="raise"),
]


def what_is_set() -> tuple:
    return torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_references_are_right_whatever_the_notebook_has_set(exercise):
    answer = reference_of(exercise)
    for setting in SETTINGS:
        with setting():
            before = what_is_set()
            verdict = engine.judge(exercise, answer)
            after = what_is_set()
        assert verdict.status == "right", (setting, verdict.message)
        assert before == after, setting


IN_A_STRANGE_NOTEBOOK = """
import torch
torch.set_default_device("meta")
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
torch.manual_seed(3)
from dgm_exercises import NOTEBOOKS, engine, hint, solution
for exercise in (exercise for notebook in NOTEBOOKS for exercise in notebook.EXERCISES):
    right = engine.judge(exercise, exercise.reference if exercise.inputs else exercise.reference())
    assert right.status == "right", right.message
    wrong = engine.judge(exercise, exercise.wrong[0][0])
    assert wrong.status == "wrong", wrong.message
    hint(exercise.name)
    solution(exercise.name)
"""


def test_exercises_work_where_the_defaults_were_set_before_they_were_imported():
    done = subprocess.run([sys.executable, "-c", IN_A_STRANGE_NOTEBOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def by_file(case):
    return case.stem if isinstance(case, Path) else ""


def test_exercises_stand_in_files_named_like_their_notebooks():
    assert {path.stem[3:] for path in NOTEBOOK_FILES} == set(BY_NAME)


def cells(path) -> list[tuple[str, str]]:
    """The type and the source of each cell."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]


def checks(path) -> list[tuple[str, ast.Module]]:
    """The name of each exercise that a notebook asks, and its cell: those with a `...` to fill in."""
    trees = [ast.parse(re.sub(r"(?m)^[%!].*$", "", source)) for kind, source in cells(path) if kind == "code"]
    return [
        (call.args[0].value, tree)
        for tree in trees
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "check"
        if any(isinstance(node, ast.Constant) and node.value is ... for node in ast.walk(tree))
    ]


@pytest.mark.parametrize(("path", "module"), MODULES, ids=by_file)
def test_a_notebook_asks_the_exercises_of_its_file_each_once(path, module):
    assert sorted(name for name, _ in checks(path)) == sorted(exercise.name for exercise in module.EXERCISES)


@pytest.mark.parametrize(("path", "module"), MODULES, ids=by_file)
def test_every_exercise_has_another_right_answer(path, module):
    answers = import_module(f"test_{path.stem}")
    assert set(answers.RIGHT) == {exercise.name for exercise in module.EXERCISES}


@pytest.mark.parametrize(("path", "module"), MODULES, ids=by_file)
def test_arguments_in_the_notebook_are_those_of_the_reference(path, module):
    for name, tree in checks(path):
        if not find(name).inputs:
            continue
        (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert [argument.arg for argument in function.args.args] == find(name).argument_names, name


@pytest.mark.parametrize("path", NOTEBOOK_FILES, ids=by_file)
@pytest.mark.parametrize("word", ["hint", "solution"])
def test_hint_and_solution_are_named_where_the_exercises_begin(path, word):
    text = " ".join(source for kind, source in cells(path) if kind == "markdown")
    assert f'{word}("' in text.partition("## Exercises")[2], f"{path.name} does not name {word}(…)"


STEPS = [math.exp, math.sqrt, math.log, math.log2, math.log10, lambda v: v * v, lambda v: 1 / v, lambda v: 1 - v]


@pytest.mark.parametrize("exercise", VALUES, ids=by_name)
def test_one_number_is_no_ground_for_guessing_a_step(exercise):
    """A function of the right value is either a known mistake or just too large or too small."""
    answer = exercise.reference()
    for step in STEPS if isinstance(answer, float) else []:
        message = engine.judge(exercise, step(answer)).message
        assert any(hint in message for _, hint in exercise.wrong) or " is too " in message


@pytest.mark.parametrize("exercise", VALUES, ids=by_name)
def test_a_wrong_value_does_not_give_the_right_one_away(exercise):
    answer = exercise.reference()
    if isinstance(answer, float):
        assert f"{answer:.4g}" not in engine.judge(exercise, 12345.0).message


def printed_by(capsys, name, answer) -> str:
    check(name, answer)
    return capsys.readouterr().out


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_verdicts_are_repeatable(exercise, capsys):
    for answer in [reference_of(exercise), *(answer for answer, _ in exercise.wrong[:1])]:
        text = printed_by(capsys, exercise.name, answer)
        assert printed_by(capsys, exercise.name, answer) == text


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_hint_and_solution_print(exercise, capsys):
    hint(exercise.name)
    hinted = capsys.readouterr().out
    assert plain(exercise.statement) in plain(hinted)
    assert plain(exercise.nudge) in plain(hinted)
    solution(exercise.name)
    source = capsys.readouterr().out
    assert source.startswith(f"def {exercise.name}(")
    assert "#" in source
    assert len(source.splitlines()) <= 12


def test_solution_works_on_its_own(capsys):
    """What is printed can be pasted into a cell: it uses nothing but torch, math and Tensor."""
    for exercise in ALL:
        solution(exercise.name)
        scope = {"torch": torch, "math": math, "Tensor": Tensor}
        exec(capsys.readouterr().out, scope)
        pasted = scope[exercise.name]
        assert engine.judge(exercise, pasted if exercise.inputs else pasted()).status == "right"


def test_check_leaves_the_random_stream_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for exercise in ALL:
        engine.judge(exercise, reference_of(exercise))
    judge("cross_entropy", lambda logits, labels: torch.manual_seed(0).initial_seed() + torch.rand(()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["latent_variables", "vae_in_practice", "adversarial_learning", "gan_in_practice"])
def test_inputs_are_finite_in_what_the_text_calls_finite(name):
    for exercise in BY_NAME[name].EXERCISES:
        tensors = [value for inputs in exercise.draw_inputs() for value in inputs if isinstance(value, Tensor)]
        assert exercise.name in MAY_BE_INFINITE or all(tensor.isfinite().all() for tensor in tensors), exercise.name


def test_hints_are_about_twenty():
    assert [exercise.name for exercise in ALL if len({hint for _, hint in exercise.wrong}) > 22] == []
