"""Calling a learner's function: what it returns, or one sentence about why there is nothing to compare."""

from __future__ import annotations

import dis
import inspect
import io
import linecache
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from dgm_lib.exercises.values import as_tensor

LONGEST_MESSAGE = 180  # characters of an exception's own message; torch can write pages
LONGEST_LINE = 60  # characters of the line of code that raised it


class Refused(Exception):
    """There is no value to compare. status: "not attempted", "error" or "wrong"; the message says why."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


@contextmanager
def quiet() -> Iterator[io.StringIO]:
    """A context whose prints are kept in the text it gives, and whose warnings go nowhere."""
    printed = io.StringIO()
    with warnings.catch_warnings(), np.errstate(all="ignore"), redirect_stdout(printed), redirect_stderr(printed):
        warnings.simplefilter("ignore")
        yield printed


def call(function: Callable, names: list[str], arguments: tuple) -> Tensor:
    """What the function returns for copies of these arguments, as float64. Raises Refused if that is no value.

    A parameter is given as one, a leaf that requires a gradient. Where that gives no value, it is given without: numpy
    refuses such a tensor, and a clone of it, which is no leaf, would collect no gradient.
    """
    _check_signature(function, names, arguments)
    try:
        return _value(function, names, arguments)
    except Refused:
        if any(isinstance(value, Tensor) and value.requires_grad for value in arguments):
            with suppress(Refused):
                return _value(function, names, _copies(arguments, parameters=False))
        raise


def _copies(arguments: tuple, *, parameters: bool) -> tuple:
    return tuple(
        value.detach().clone().requires_grad_(parameters and value.requires_grad)
        if isinstance(value, Tensor)
        else value
        for value in arguments
    )


def _value(function: Callable, names: list[str], arguments: tuple) -> Tensor:
    copies = _copies(arguments, parameters=True)
    try:
        result = function(*copies)
    except Exception as error:  # whatever the learner's code raises is what we report
        raise _refusal_of(error, function) from None
    if result is None or result is ...:
        raise Refused("not attempted", _nothing_yet(function))
    _check_unchanged(names, arguments, copies)
    return _as_value(result)


def _check_signature(function: Callable, names: list[str], arguments: tuple) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions written in C may have none
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        wanted, found = ", ".join(names), ", ".join(signature.parameters)
        raise Refused("error", f"it is called with ({wanted}), but your function takes ({found}).") from None


def _check_unchanged(names: list[str], arguments: tuple, copies: tuple) -> None:
    for name, before, after in zip(names, arguments, copies):
        if isinstance(before, Tensor) and not _same(before, after):
            raise Refused(
                "wrong",
                f"your function changes its argument `{name}` in place, so the caller's tensor is no longer what it "
                f"was. Use operations that return a new tensor (`x - 1` for `x -= 1`), or start from `{name}.clone()`.",
            )


def _same(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape:
        return False
    return torch.equal(before.nan_to_num(), after.detach().nan_to_num())  # NaN equals nothing, not even itself


def _as_value(result: object) -> Tensor:
    try:
        return as_tensor(result)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise Refused(
            "wrong", f"your function returns a {type(result).__name__} that cannot be compared: {problem}."
        ) from None


# ---- not attempted -------------------------------------------------------------------------------------------------

NOT_ATTEMPTED = "not attempted yet. Replace the ... in the cell above."


def _nothing_yet(function: Callable) -> str:
    if _does_something(function):
        return "your function returns None so far. Is the line with `return` still missing?"
    return NOT_ATTEMPTED


def _does_something(function: Callable) -> bool:
    """Whether a body is more than `...`, `pass` or a docstring: it calls or computes something."""
    body = inspect.unwrap(function)
    if not inspect.isfunction(body):
        return False
    return any(step.opname.startswith(("CALL", "BINARY")) for step in dis.get_instructions(body))


def _is_placeholder_error(error: Exception) -> bool:
    """Whether a `...` that is still in the body met an operation, as in `probs = ...; probs.log()`."""
    return isinstance(error, TypeError | AttributeError) and "ellipsis" in str(error).lower()


# ---- exceptions ----------------------------------------------------------------------------------------------------


def _refusal_of(error: Exception, function: Callable) -> Refused:
    if isinstance(error, NotImplementedError) or _is_placeholder_error(error):
        return Refused("not attempted", NOT_ATTEMPTED)
    return Refused("error", f"{type(error).__name__}{_place(error, function)}. It says: {_first_line(error)}")


def _place(error: Exception, function: Callable) -> str:
    """Where the learner's own code raised: the deepest frame of it, by line, without the library below."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_own(frame, function)]
    if not frames:
        return ""
    frame, line = frames[-1]
    source = _cut(linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip(), LONGEST_LINE)
    return f" in line {line}, inside `{frame.f_code.co_name}`" + (f": `{source}`" if source else "")


def _is_own(frame: FrameType, function: Callable) -> bool:
    """All cells of a notebook share their globals, so helpers in other cells count as the learner's own code."""
    while isinstance(function, partial):
        function = function.func
    module = sys.modules.get(type(function).__module__)
    return frame.f_globals is getattr(inspect.unwrap(function), "__globals__", vars(module) if module else None)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["(without a message)"]
    return _cut(re.sub(r" at 0x[0-9a-fA-F]+", "", lines[0]), LONGEST_MESSAGE)  # addresses differ from run to run


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + " …"
