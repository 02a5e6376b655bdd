"""Small colour patches of the two photographs that come with scikit-learn."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_lib import checks, runtime
from dgm_lib.datasets import paths
from dgm_lib.datasets.core import Data, Split

CLASSES = ("china", "flower")
TILE = (61, 64)  # 427 = 7 · 61 rows and 640 = 10 · 64 columns: tiles cover a photograph exactly
TILES = (7, 10)


def load(name: str = "patches", *, size: int = 16, n: int = 12_000, seed: int = 0) -> Data:
    """n square patches, split 10 : 1 : 1. x: (N, 3, size, size) uint8 levels 0 … 255; y: which photograph.

    factors: "row" and "column" of the patch's upper left pixel in its photograph. Each tile of 61 × 64 pixels serves
    one split and no patch leaves its tile, so two splits never share a pixel. size: 8 … 32. n: at least 12.
    """
    if not 8 <= checks.whole("size", size) <= 32:
        raise ValueError(f"size is {size}: patches have 8 to 32 pixels a side")
    checks.whole("n", n, least=12)  # or validation and test stay empty
    photographs, part = _photographs(), _part_of_tiles()
    counts = (n - 2 * (n // 12), n // 12, n // 12)
    train, validation, test = (_cut(photographs, part == k, count, size, seed, k) for k, count in enumerate(counts))
    return Data(name, train, validation, test, CLASSES, paths.card("patches"))


def _photographs() -> Tensor:
    """Both photographs, (2, 3, 427, 640) uint8."""
    from sklearn.datasets import load_sample_image

    images = [torch.tensor(load_sample_image(f"{name}.jpg")) for name in CLASSES]
    return torch.stack(images).permute(0, 3, 1, 2)


def _part_of_tiles() -> Tensor:
    """0, 1 or 2 (train, validation, test) for each tile, (7, 10): 50, 10 and 10 of them, spread evenly.

    The remainder takes each value once in every column of seven tiles, and once or twice in every row of ten.
    """
    remainder = (3 * torch.arange(TILES[0])[:, None] + torch.arange(TILES[1])) % 7
    return torch.where(remainder < 5, 0, remainder - 4)


def _cut(photographs: Tensor, mine: Tensor, n: int, size: int, seed: int, part: int) -> Split:
    """n patches at random places of the tiles that are `mine`, (7, 10) bool."""
    generator = torch.Generator().manual_seed(runtime.derive_seed(checks.whole("seed", seed), part))

    def draw(below: int) -> Tensor:
        return torch.randint(below, (n,), generator=generator, device="cpu")

    y, tiles = draw(len(photographs)), mine.nonzero()
    corner = tiles[draw(len(tiles))] * torch.tensor(TILE)
    row = corner[:, 0] + draw(TILE[0] - size + 1)
    column = corner[:, 1] + draw(TILE[1] - size + 1)
    along = torch.arange(size)
    x = photographs[y[:, None, None], :, row[:, None, None] + along[:, None], column[:, None, None] + along]
    return Split(x.permute(0, 3, 1, 2).contiguous(), y, 256, {"row": row, "column": column})
