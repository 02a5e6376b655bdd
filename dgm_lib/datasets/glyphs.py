"""Digits and capital letters that the course draws itself, 28×28, with every factor of each image known.

The same bytes on every machine: the images follow from whole numbers (see glyph_renderer), and the whole numbers from
the raw stream of PCG64, which NumPy promises to keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from hashlib import sha256

import numpy as np
import torch

from dgm_lib import checks
from dgm_lib.datasets import cache, paths
from dgm_lib.datasets.core import Data, Split
from dgm_lib.datasets.glyph_renderer import CLASSES, FACTORS, TYPEFACES, draw, in_units, render

__all__ = ["CLASSES", "RANGES", "TYPEFACES", "load", "render"]

# least and greatest value of each factor, drawn uniformly from the steps of its grid, independently of all others
RANGES = {
    "typeface": (0, len(TYPEFACES) - 1),
    "rotation": (-15, 15),
    "shear": (-3 / 16, 3 / 16),
    "scale": (3 / 4, 5 / 4),
    "stroke": (-1 / 4, 3 / 4),
    "x": (-2, 2),
    "y": (-2, 2),
}
FORMAT = 1  # to be raised with every change of what the same options give


def load(
    name: str = "glyphs",
    *,
    n: int = 24_000,
    seed: int = 0,
    balance: Sequence[float] | None = None,
    classes: Sequence[str] = CLASSES,
) -> Data:
    """n images, split 10 : 1 : 1. x: (N, 1, 28, 28) uint8, 0 is paper and 255 ink; y: index in `classes`.

    classes: the characters to draw, such as "0123456789".
    balance: relative frequency of each class, by default equal; every split keeps it as exactly as whole images can.
    factors: "class" (index in CLASSES), "typeface" (index in TYPEFACES), "rotation", "shear", "scale", "stroke", "x",
    "y", in the units of `render`, which makes the same images of them.
    Raises ValueError for n < 12, an unknown or repeated class, and a balance that does not fit the classes.
    """
    n, seed = checks.whole("n", n, least=12), checks.whole("seed", seed)  # with fewer, validation and test stay empty
    shares = _shares(classes, balance)
    sizes = (n - 2 * (n // 12), n // 12, n // 12)
    key = f"{FORMAT} {n} {seed} {shares} {' '.join(classes)} {_sheet_digest()}"
    made = cache.arrays(f"glyphs-{sha256(key.encode()).hexdigest()[:16]}", partial(_make, sizes, seed, shares, classes))
    ends = np.cumsum(sizes)
    train, validation, test = (_split(made, slice(end - size, end), classes) for end, size in zip(ends, sizes))
    return Data(name, train, validation, test, tuple(classes), paths.card("glyphs"))


def _shares(classes: Sequence[str], balance: Sequence[float] | None) -> list[float]:
    """The fraction of each class."""
    if unknown := [c for c in classes if c not in tuple(CLASSES)]:
        raise ValueError(f"there is no class {unknown[0]!r}; there are: {CLASSES}")
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes are {classes!r}: they must be at least one, and each only once")
    balance = [1.0] * len(classes) if balance is None else [float(share) for share in balance]
    if len(balance) != len(classes):
        raise ValueError(f"balance has {len(balance)} numbers for {len(classes)} classes: give one for each")
    total = math.fsum(balance)  # exact: a sum that depends on the order of its terms would not be the same everywhere
    if not (min(balance) >= 0 and 0 < total < math.inf):
        raise ValueError(f"balance is {balance}: it must hold frequencies ≥ 0, not all of them 0")
    return [share / total for share in balance]


def _make(sizes: Sequence[int], seed: int, shares: list[float], classes: Sequence[str]) -> dict[str, np.ndarray]:
    """The images of all splits, and every factor in steps of its grid, one split after the other."""
    parts = [_draw_factors(size, (seed, part), shares, classes) for part, size in enumerate(sizes)]
    steps = {name: np.concatenate([part[name] for part in parts]) for name in FACTORS}
    return {"images": draw(steps), **steps}


def _draw_factors(
    n: int, stream: tuple[int, int], shares: list[float], classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Every factor of n images, (n,) int64 steps; each factor has a random stream of its own."""
    of_class = [CLASSES.index(c) for c in classes]
    order = np.argsort(np.random.PCG64([*stream, 0]).random_raw(n), kind="stable")
    steps = {"class": np.repeat(of_class, _counts(n, shares))[order]}
    for number, (name, (least, greatest)) in enumerate(RANGES.items(), start=1):
        first, last = (int(limit * FACTORS[name][0]) for limit in (least, greatest))
        raw = np.random.PCG64([*stream, number]).random_raw(n)
        # the upper half of 64 bits, as a fraction of 2^32, times how many steps there are
        steps[name] = ((raw >> 32) * np.uint64(last - first + 1) >> 32).astype(np.int64) + first
    return steps


def _counts(n: int, shares: list[float]) -> np.ndarray:
    """n split into whole numbers as near to these shares as can be: the largest remainders are rounded up."""
    exact = n * np.array(shares)
    counts = np.floor(exact).astype(np.int64)
    for k in np.argsort(counts - exact, kind="stable")[: n - counts.sum()]:
        counts[k] += 1
    return counts


def _split(made: dict[str, np.ndarray], rows: slice, classes: Sequence[str]) -> Split:
    factors = in_units({name: made[name][rows] for name in FACTORS})
    label = torch.full((len(CLASSES),), -1)
    label[[CLASSES.index(c) for c in classes]] = torch.arange(len(classes))
    return Split(torch.from_numpy(made["images"][rows]), label[factors["class"]], 256, factors)


def _sheet_digest() -> str:
    return sha256((paths.data_folder() / "glyphs" / "sheet.png").read_bytes()).hexdigest()
