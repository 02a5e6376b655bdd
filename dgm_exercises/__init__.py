"""Exercises that answer back. In a notebook: `check("cross_entropy", my_cross_entropy)`.

`hint(name)` says where to begin, `solution(name)` prints the reference. A notebook's exercises stand in the list
EXERCISES of a file named like it; nothing else has to know of that file.
"""

from __future__ import annotations

import inspect
import textwrap
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules

from dgm_exercises import engine
from dgm_exercises.engine import Exercise, Verdict

__all__ = ["NOTEBOOKS", "Exercise", "Verdict", "check", "find", "hint", "judge", "solution"]

NOTEBOOKS = tuple(import_module(f"dgm_exercises.{file.name}") for file in iter_modules(__path__) if not file.ispkg)
WIDTH = 110


def check(name: str, answer: object) -> None:
    """Prints the verdict on an answer: a function, or a value where the exercise asks for one."""
    _print(judge(name, answer).message)


def judge(name: str, answer: object) -> Verdict:
    """What `check` prints, as a value: status ("right", "wrong", "error", "not attempted") and message."""
    return engine.judge(find(name), answer)


def hint(name: str) -> None:
    """Prints what is asked, and where to begin."""
    exercise = find(name)
    _print(f"{exercise.name}: {exercise.statement}\n{exercise.nudge}")


def solution(name: str) -> None:
    """Prints the source of the reference solution."""
    print(inspect.getsource(find(name).reference).rstrip())


def find(name: str) -> Exercise:
    """The exercise of this name. Raises ValueError with the nearest names if there is none."""
    exercises = {exercise.name: exercise for notebook in NOTEBOOKS for exercise in notebook.EXERCISES}
    if not isinstance(name, str):
        raise ValueError('the exercise\'s name comes first, in quotes: check("cross_entropy", my_cross_entropy)')
    if name not in exercises:
        near = get_close_matches(name, exercises, n=3)
        remedy = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(exercises)}"
        raise ValueError(f"there is no exercise {name!r}; {remedy}")
    return exercises[name]


def _print(message: str) -> None:
    for i, line in enumerate(message.splitlines()):
        indent = "  " if i else ""
        print(textwrap.fill(line, WIDTH, initial_indent=indent, subsequent_indent="  ", break_on_hyphens=False))
