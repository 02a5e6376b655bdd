"""The published image sets: MNIST, Fashion-MNIST, Kuzushiji-MNIST and CIFAR-10. Nothing is downloaded unasked.

`fetch(name)` downloads a set into the cache, `load(name)` reads it from there, or from the folder that the environment
variable DGM_DATA_MIRROR names. The files and their hashes stand in `data/registry.toml`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from torch import Tensor

from dgm_lib import checks
from dgm_lib.datasets import paths
from dgm_lib.datasets.core import Data, Split
from dgm_lib.datasets.formats import DataError, read_cifar10, read_idx
from dgm_lib.datasets.remote import fetch_file, is_genuine, local_file

__all__ = ["DataError", "fetch", "is_present", "load", "registry"]


@cache
def registry() -> dict[str, dict]:
    """What is known of each published set: licence, source, shape, mirrors, and the hashes of its files."""
    return tomllib.loads((paths.data_folder() / "registry.toml").read_text(encoding="utf-8"))


def fetch(name: str, progress: bool = True) -> None:
    """Downloads a published set into the cache; what is there already, and whole, is not downloaded again.

    Raises DataError with the remedy where that fails. Whatever happens, the cache holds no half file.
    """
    entry = _entry(name)
    for file in entry["files"]:
        fetch_file(name, file, entry["mirrors"], progress=progress)


def is_present(name: str) -> bool:
    """Whether `load(name)` finds every file without a download. Looks at names only, so it is quick."""
    return all(local_file(name, file) for file in _entry(name)["files"])


def load(name: str, *, download: bool = False, validation: int | None = None) -> Data:
    """A published set: x (N, C, H, W) uint8 levels 0 … 255, y (N,) int64, the names of the classes.

    download: fetch first what is missing. validation: how many images at the end of the published training set are
    held out, by default 10,000 (CIFAR-10: 5,000). The test set is as published.
    Raises DataError if files are missing or damaged; the message says how to get them.
    """
    entry = _entry(name)
    files = [_genuine_file(name, file, download) for file in entry["files"]]
    x, y, x_test, y_test = _read(name, entry, files)
    held_out = entry["validation"] if validation is None else validation
    if not checks.whole("validation", held_out) < len(x):
        raise ValueError(f"validation is {held_out}: it must be at least 0 and below the {len(x)} training images")
    cut = len(x) - held_out
    levels = entry["levels"]
    train, held = Split(x[:cut], y[:cut], levels), Split(x[cut:], y[cut:], levels)
    return Data(name, train, held, Split(x_test, y_test, levels), tuple(entry["classes"]), paths.card(name))


def _entry(name: str) -> dict:
    if name not in registry():
        raise ValueError(f"there is no published data set {name!r}; there are: {', '.join(registry())}")
    return registry()[name]


def _genuine_file(name: str, file: dict, download: bool) -> Path:
    path = local_file(name, file)
    if path and is_genuine(path, file):
        return path
    if download:
        return fetch_file(name, file, _entry(name)["mirrors"])
    trouble = f"{path} is damaged or of another set: its hash is wrong" if path else f"{file['name']} is missing"
    raise DataError(
        f"{name} is not whole on this machine ({trouble}): download it with load({name!r}, download=True) or "
        f"`python -m dgm_lib fetch {name}`, or set DGM_DATA_MIRROR to a folder that has its files."
    )


def _read(name: str, entry: dict, files: list[Path]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, C, H, W) and labels (N,) for training, then for testing, counted."""
    if entry["format"] == "idx":
        x, y, x_test, y_test = (read_idx(file) for file in files)
        x, y, x_test, y_test = x[:, None], y.long(), x_test[:, None], y_test.long()  # (N, H, W) -> (N, 1, H, W)
    else:
        images, labels = read_cifar10(files[0], list(entry["files"][0]["content"]))  # the test batch is the last
        (x, x_test), (y, y_test) = (tensor.tensor_split([entry["train"]]) for tensor in (images, labels))
    for part, some_x, some_y in (("train", x, y), ("test", x_test, y_test)):
        _check(f"the {part} set of {name}", some_x, some_y, entry[part], entry)
    return x, y, x_test, y_test


def _check(what: str, images: Tensor, labels: Tensor, count: int, entry: dict) -> None:
    shape, n_classes = (count, *entry["shape"]), len(entry["classes"])
    if tuple(images.shape) != shape:
        raise DataError(f"{what} has images of shape {tuple(images.shape)}, but the registry promises {shape}")
    if tuple(labels.shape) != (count,):
        raise DataError(f"{what} has {count} images, but labels of shape {tuple(labels.shape)}: they must agree")
    if labels.max() >= n_classes:
        raise DataError(f"{what} has the label {labels.max()}, but there are only {n_classes} classes")
