"""Calling a learner's function: what it returns, or one sentence about why there is nothing to compare.

It is called with copies, in float32 on the CPU with gradients on, whatever the notebook has set: so an exercise is the
same on every machine, and after every cell.
"""

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
from dataclasses import dataclass
from functools import partial
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from dgm_exercises.engine.values import as_tensor
from dgm_lib import runtime

LONGEST_MESSAGE = 180  # characters of an exception's own message; torch can write pages
LONGEST_LINE = 60  # characters of the line of code that raised it


class Refused(Exception):
    """There is no value to compare. status: "not attempted", "error" or "wrong"; the message says why."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """What a function returned, its value as float64, and the very tensors that it was called with."""

    returned: object
    value: Tensor
    arguments: tuple


@contextmanager
def quiet() -> Iterator[io.StringIO]:
    """A context whose prints are kept in the text it gives, and whose warnings go nowhere."""
    printed = io.StringIO()
    with warnings.catch_warnings(), np.errstate(all="ignore"), redirect_stdout(printed), redirect_stderr(printed):
        warnings.simplefilter("ignore")
        yield printed


@contextmanager
def pinned() -> Iterator[None]:
    """A context of float32 on the CPU with gradients on; what was set before comes back after it."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with runtime.on_cpu(), torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(dtype)


def call(function: Callable, names: list[str], arguments: tuple) -> Answer:
    """What the function returns for copies of these arguments. Raises Refused if that is no value.

    A parameter is given as one, a leaf that requires a gradient. Where that gives no value, it is given without: numpy
    refuses such a tensor, and a clone of it, which is no leaf, would collect no gradient.
    """
    _check_signature(function, names, arguments)
    try:
        return _answer(function, names, arguments, parameters=True)
    except Refused as refused:
        parameters = any(isinstance(value, Tensor) and value.requires_grad for value in arguments)
        if parameters and refused.status != "wrong":
            with suppress(Refused):
                return _answer(function, names, arguments, parameters=False)
        raise


def call_again(function: Callable, answer: Answer) -> Tensor:
    """The value at a second call with the very same tensors. Raises Refused if that is no value."""
    return _as_value(_returned(function, answer.arguments))


def _copies(arguments: tuple, *, parameters: bool) -> tuple:
    return tuple(
        value.detach().clone().requires_grad_(parameters and value.requires_grad)
        if isinstance(value, Tensor)
        else value
        for value in arguments
    )


def _answer(function: Callable, names: list[str], arguments: tuple, *, parameters: bool) -> Answer:
    copies = _copies(arguments, parameters=parameters)
    returned = _returned(function, copies)
    _check_unchanged(names, arguments, copies, parameters=parameters)
    return Answer(returned, _as_value(returned), copies)


def _returned(function: Callable, arguments: tuple) -> object:
    try:
        with pinned():  # at every call: an answer may switch gradients off and leave them so
            returned = function(*arguments)
    except Refused:
        raise
    except Exception as error:  # whatever the learner's code raises is what we report
        raise _refusal_of(error, function) from None
    if returned is None or returned is ...:
        raise Refused("not attempted", _nothing_yet(function))
    return returned


def _check_signature(function: Callable, names: list[str], arguments: tuple) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions written in C may have none
        return
    wanted, found = ", ".join(names), ", ".join(signature.parameters)
    exchanged = found != wanted and sorted(signature.parameters) == sorted(names)
    try:
        signature.bind(*arguments)
    except TypeError:
        exchanged = True
    if exchanged:
        raise Refused("error", f"it is called with ({wanted}), but your function takes ({found}).")


def _check_unchanged(names: list[str], arguments: tuple, copies: tuple, *, parameters: bool) -> None:
    for name, before, after in zip(names, arguments, copies):
        if not isinstance(before, Tensor):
            continue
        if not _same(before, after):
            raise Refused(
                "wrong",
                f"your function changes its argument `{name}` in place, so the caller's tensor is no longer what it "
                f"was. Use operations that return a new tensor (`x - 1` for `x -= 1`), or start from `{name}.clone()`.",
            )
        if parameters and before.requires_grad and not after.requires_grad:
            raise Refused(
                "wrong",
                f"your function switches the gradient of its argument `{name}` off, and the caller could no longer "
                f"train it. `{name}.detach()` is the same number without a gradient, and leaves `{name}` as it is.",
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


def _is_untouched(error: Exception, function: Callable) -> bool:
    """Whether the learner's own line says `raise NotImplementedError`, or a `...` still in the body met an operation.

    torch raises NotImplementedError too, for softmax of integers: inside a call, and not by a `raise` of the learner's.
    """
    if isinstance(error, NotImplementedError):
        last = error.__traceback__
        while last.tb_next:
            last = last.tb_next
        steps = {step.offset: step.opname for step in dis.get_instructions(last.tb_frame.f_code)}
        return _is_own(last.tb_frame, function) and steps.get(last.tb_lasti) == "RAISE_VARARGS"
    return isinstance(error, TypeError | AttributeError) and "ellipsis" in str(error).lower()


# ---- exceptions ----------------------------------------------------------------------------------------------------

REMEDIES = {  # a part of torch's message: what to do
    r"not implemented for '(Bool|Byte|Char|Short|Int|Long)'": "That operation takes no whole numbers and no booleans: "
    "make floats of them first (`.float()`), or are two arguments exchanged?",
    "does not require grad and does not have a grad_fn|backward through the graph a second time": "If this is the "
    "`backward` of training, leave it to the caller and return the value. To differentiate by an argument, make a leaf "
    "of it first, `x.detach().requires_grad_()`, and ask `torch.autograd.grad`.",
    "on the same device|is on cpu|device type": "The inputs of `check` lie on the CPU: give what you add to them their "
    "device (`x.device`).",
    "same dtype|expected scalar type|Input type": "The inputs of `check` are float32: give what you add to them their "
    "dtype (`x.dtype`).",
}


def _refusal_of(error: Exception, function: Callable) -> Refused:
    if _is_untouched(error, function):
        return Refused("not attempted", NOT_ATTEMPTED)
    says = f"{type(error).__name__}{_place(error, function)}. It says: {_first_line(error)}"
    remedy = next((remedy for part, remedy in REMEDIES.items() if re.search(part, str(error))), None)
    return Refused("error", f"{says}\n{remedy}" if remedy else says)


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
