"""Where the course keeps its data: the cards and drawn data that come with it, and the cache that it may rebuild."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """The folder with the registry, the cards and the drawn data: `data/` of the checkout, or its installed copy."""
    installed = PACKAGE / "_data"
    return installed if installed.is_dir() else PACKAGE.parent / "data"


def cache_folder() -> Path:
    """The folder for what can be downloaded or computed again; DGM_CACHE names another. It is made when missing.

    Where the course itself cannot be written to, it is the user's own cache folder.
    """
    chosen = os.environ.get("DGM_CACHE")
    folder = Path(chosen) if chosen else data_folder() / "cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        if chosen:
            raise
        import pooch

        folder = pooch.os_cache("dgm_lib")
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def card(name: str) -> str:
    """The data card of a data set, in Markdown."""
    return (data_folder() / "cards" / f"{name}.md").read_text(encoding="utf-8")
