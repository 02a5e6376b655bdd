"""Where the course keeps its data: the cards and drawn data that come with it, and the cache that it may rebuild."""

from __future__ import annotations

import os
from pathlib import Path

from dgm_lib.datasets.formats import DataError

PACKAGE = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """The folder with the registry, the cards and the drawn data: `data/` of the checkout, or its installed copy."""
    installed = PACKAGE / "_data"
    return installed if installed.is_dir() else PACKAGE.parent / "data"


def cache_folder() -> Path:
    """The folder for what can be downloaded or computed again; DGM_CACHE names another. It is made when missing.

    Where the course itself cannot be written to, it is the user's own cache folder. Raises DataError where none can be.
    """
    if chosen := os.environ.get("DGM_CACHE"):
        return _made(Path(chosen))
    try:
        return _made(data_folder() / "cache")
    except DataError:
        import pooch

        return _made(pooch.os_cache("dgm_lib"))


def _made(folder: Path) -> Path:
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a "~" of nobody
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{folder} cannot be the cache ({why}): set DGM_CACHE to a folder of your own") from error
    return folder


def card(name: str) -> str:
    """The data card of a data set, in Markdown."""
    return (data_folder() / "cards" / f"{name}.md").read_text(encoding="utf-8")
