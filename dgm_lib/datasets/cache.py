"""Keeps arrays that take a while to make, in the folder of what may be made again at any time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np

from dgm_lib.datasets import paths
from dgm_lib.datasets.formats import DataError

DIGEST = 32  # bytes of SHA-256 in front of the .npz: any damage is seen before the file is believed


def arrays(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What make() gives: read from the cache file of this name if it is there and whole, else made and kept.

    Warns where it cannot be kept, and gives the arrays all the same.
    """
    try:
        content = (paths.cache_folder() / name).read_bytes()
    except (OSError, DataError):
        content = b""
    if sha256(content[DIGEST:]).digest() == content[:DIGEST]:
        with np.load(BytesIO(content[DIGEST:]), allow_pickle=False) as stored:
            return dict(stored)
    made = make()
    try:
        _keep(name, made)
    except (OSError, DataError) as error:
        warnings.warn(f"{name} is not kept ({error}); the variable DGM_CACHE can name another folder", stacklevel=2)
    return made


def _keep(name: str, made: dict[str, np.ndarray]) -> None:
    """Writes the file under another name first, so that no reader ever sees half of it."""
    buffer = BytesIO()
    np.savez(buffer, **made)
    path = paths.cache_folder() / name
    part = Path(f"{path}.{os.getpid()}")
    try:
        part.write_bytes(sha256(buffer.getbuffer()).digest() + buffer.getvalue())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
