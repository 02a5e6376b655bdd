"""Checkpoints: files that are whole or absent, hold tensors and plain values only, and say what is wrong with them."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import WeakMethod

import numpy as np
import torch
from torch import Tensor, nn

KEPT = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.device, torch.dtype)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or belongs to another model."""


def save(path: Path, state: dict) -> None:
    """Writes the state beside `path` and moves it there: an interrupt leaves the old file or the new."""
    with _written_beside(path) as part:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def as_path(path: Path | str) -> Path:
    """The path with the home folder in place of "~"."""
    try:
        return Path(path).expanduser()
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint is {path!r}, which names no file ({error})") from None


def check_path(path: Path) -> None:
    """Raises CheckpointError where `save` could not write; leaves no more than the folder."""
    if os.path.isdir(path):  # unlike Path.is_dir, no error for a name that is too long
        raise CheckpointError(f"the checkpoint {path} is a folder: name a file in it")
    with _written_beside(path) as part:
        part.touch()


@contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    """The name of a file beside `path`, which is gone afterwards; what goes wrong in writing is one sentence."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
    except (OSError, RuntimeError) as error:  # torch hides the OSError of a full disk behind a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        reason = getattr(cause, "strerror", None) or str(error).partition("\n")[0]
        raise CheckpointError(
            f"cannot write the checkpoint {path.name}: {reason}; free space, or name another file"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


# ---- what a file may hold ------------------------------------------------------------------------------------------


def plain(value: Any, name: str, copy: bool = False) -> Any:
    """The value in the types that `load` reads: NumPy's numbers become Python's, and subclasses what they are made of.

    copy: tensors become copies on the CPU, which later steps do not change.
    Raises ValueError, naming the part, where something else is among it: it could never be read again.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True) if copy else value
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in (dict, OrderedDict, Counter):
        parts = {plain(key, name): plain(part, f"{name}[{key!r}]", copy) for key, part in value.items()}
        result = type(value)(parts)
        vars(result).update(vars(value)) if isinstance(value, OrderedDict) else None  # a module's own version is there
        return result
    if type(value) in (list, tuple, set):
        return type(value)([plain(part, f"{name}[{i}]", copy) for i, part in enumerate(value)])
    if type(value) in KEPT:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise ValueError(
        f"{name} is a {type(value).__name__}, which a checkpoint cannot hold: keep numbers, text and tensors there"
    )


def without_functions(state: Any) -> Any:
    """The state of a schedule without its functions, which the script makes anew."""
    if type(state) is list:
        return [without_functions(part) for part in state]
    if type(state) is dict:
        return {key: without_functions(part) for key, part in state.items() if not _is_code(part)}
    return state


def _is_code(value: Any) -> bool:
    """Whether this is a function, or a collection of functions."""
    if isinstance(value, (list, tuple, dict)) and value:
        return all(map(_is_code, value.values() if isinstance(value, dict) else value))
    return isinstance(value, (FunctionType, BuiltinFunctionType, MethodType, partial, WeakMethod))


def load(path: Path, modules: Mapping[str, nn.Module], players: Mapping[str, dict]) -> dict:
    """The state, on the CPU, checked to fit these modules and players (`Objective.state_dict`).

    Nothing but data is unpickled.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path.name}: {error.strerror}") from error
    except Exception as error:  # bytes that were damaged can raise nearly anything
        raise CheckpointError(f"{path.name} is no whole checkpoint; delete it and train anew") from error
    for name in (*modules, "optimizers"):
        if not isinstance(state, dict) or not isinstance(state.get(name), dict):
            raise CheckpointError(f"{path.name} holds no {name!r}; it was written by another kind of run")
    for name, module in modules.items():
        _check_module(path, module.state_dict(), state[name])
    _check_players(path, players, state["optimizers"])
    return state


def _check_module(path: Path, here: dict[str, Tensor], there: dict[str, Tensor]) -> None:
    for key in {**here, **there}:
        found, wanted = (_shape(part, key) for part in (there, here))
        if found != wanted:
            raise CheckpointError(
                f"{path.name} belongs to another model: {key} is {found} there, {wanted} here; "
                "name another file, or build the model that was saved"
            )


def _shape(part: dict[str, Tensor], key: str) -> str:
    return str(tuple(getattr(part[key], "shape", ()))) if key in part else "missing"


def _check_players(path: Path, here: Mapping[str, dict], there: dict[str, dict]) -> None:
    if sorted(there) != sorted(here):
        raise CheckpointError(f"{path.name} holds the objectives {sorted(there)}, not {sorted(here)}")
    for name, player in here.items():
        if there[name].get("kind") != player["kind"]:
            raise CheckpointError(
                f"{path.name} holds another optimizer for {name!r}: {there[name].get('kind')} there, "
                f"{player['kind']} here"
            )
