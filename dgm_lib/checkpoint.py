"""Checkpoints: files that are whole or absent, hold tensors and plain values only, and say what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

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
    except (OSError, RuntimeError) as error:  # torch hides the OSError of a full disk behind a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        reason = getattr(cause, "strerror", None) or str(error).partition("\n")[0]
        raise CheckpointError(
            f"cannot write the checkpoint {path.name}: {reason}; free space, or name another file"
        ) from error
    finally:
        part.unlink(missing_ok=True)


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
