"""Checkpoints: files that are whole or absent, hold tensors and plain values only, and say what is wrong with them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor, nn


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or belongs to another model."""


def save(path: Path, state: dict) -> None:
    """Writes the state beside `path` and moves it there: an interrupt leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint {path.name}: {error.strerror}; free space, or name another file"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def load(path: Path, modules: Mapping[str, nn.Module], optimizers: list[str]) -> dict:
    """The state, on the CPU, checked to fit these modules and optimizers. Nothing but data is unpickled."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, BadZipFile, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path.name} is no whole checkpoint; delete it and train anew") from error
    for name, module in modules.items():
        _check_fit(path, name, module.state_dict(), state)
    if sorted(state["optimizers"]) != sorted(optimizers):
        raise CheckpointError(
            f"{path.name} holds the objectives {sorted(state['optimizers'])}, not {sorted(optimizers)}"
        )
    return state


def _check_fit(path: Path, name: str, wanted: dict[str, Tensor], state: dict) -> None:
    if not isinstance(state, dict) or name not in state:
        raise CheckpointError(f"{path.name} holds no {name!r}; it was written by another kind of run")
    shapes = {key: tuple(value.shape) for key, value in state[name].items()}
    for key, value in wanted.items():
        if shapes.get(key) != tuple(value.shape):
            raise CheckpointError(
                f"{path.name} belongs to another model: {key} is {shapes.get(key, 'missing')} there, "
                f"{tuple(value.shape)} here; name another file, or build the model that was saved"
            )
