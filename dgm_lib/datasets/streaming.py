"""Data larger than memory: .npy files that stay on disk, in the interface of a split that is held in memory.

An epoch reads blocks of neighbouring rows, a few at a time. Shuffling is block shuffling: the blocks come in a random
order, and rows are permuted among the blocks that are in memory together. Rows that lie far apart in the file meet in
one batch only if their blocks do, so a file that is sorted, say by class, should be written in a random order first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgm_lib import runtime
from dgm_lib.datasets.core import Batches, Split

BLOCKS_TOGETHER = 4  # how many blocks are in memory, and so permuted, together


def stream(
    x: Path | str, y: Path | str | None = None, *, levels: int | None = 256, block_mb: float = 16
) -> StreamedSplit:
    """A split whose rows stay in .npy files and are read as they are needed.

    x: a file of (N, C, H, W) uint8 levels; with levels=None also float32 points or int64 symbols.
    y: a file of (N,) int64 labels. Without it every label is −1, "not known", which no loss takes for a class.
    block_mb: the size of a block. About five blocks are in memory at a time, whatever the size of the file.
    Raises ValueError if a file is not a .npy file of these types, or if the lengths disagree.
    """
    types, remedy = ("uint8",), "pixels are saved as numpy.uint8 levels; levels=None takes points and symbols"
    if levels is None:
        types, remedy = ("uint8", "float32", "int64"), "points are saved as numpy.float32, symbols as numpy.int64"
    if not block_mb > 0:
        raise ValueError(f"block_mb is {block_mb}: a block has more than 0 MB, such as 16")
    rows = OnDisk(Path(x).expanduser(), types, remedy)
    if y is None:
        return StreamedSplit(rows, torch.tensor(-1, device="cpu").expand(len(rows)), levels, block_mb=block_mb)
    labels = OnDisk(Path(y).expanduser(), ("int64",), "labels are saved as numpy.int64")
    if labels.shape != rows.shape[:1]:
        raise ValueError(f"{rows.path} has {len(rows)} rows, but {labels.path} has shape {tuple(labels.shape)}")
    return StreamedSplit(rows, labels, levels, block_mb=block_mb)


class OnDisk:
    """An array in a .npy file, indexable like a tensor: what is asked for is read into memory, the rest is not.

    Each access maps the file anew and lets go of it: pages of a map count as resident as long as it is held.
    """

    def __init__(self, path: Path, types: tuple[str, ...], remedy: str):
        self.path = path
        array = self._map()
        if array.dtype.name not in types or not array.dtype.isnative or not array.ndim:
            raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}: {remedy}")
        self.shape = torch.Size(array.shape)
        self.dtype = getattr(torch, array.dtype.name)
        self.row_bytes = max(1, array.nbytes // max(1, len(array)))

    def _map(self) -> np.memmap:
        try:
            return np.lib.format.open_memmap(self.path, mode="r")
        except ValueError as error:
            raise ValueError(f"{self.path} is not a whole .npy file ({error}): write it with numpy.save") from error

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Tensor:
        rows = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        return torch.from_numpy(np.array(self._map()[rows], order="C"))


@dataclass(frozen=True, repr=False)
class StreamedSplit(Split):
    """Examples and labels in files. x: (N, …) and y: (N,), indexable like tensors; an index gives one in memory."""

    x: OnDisk
    y: OnDisk | Tensor
    block_mb: float = 16

    def __post_init__(self) -> None:
        """What is in files was checked when they were opened."""

    def to(self, device: torch.device | str) -> Split:
        """Itself: files stay where they are, and batches are made on a device."""
        return self

    def take(self, rows: Tensor | slice) -> Split:
        """These rows, in memory: indices, a boolean mask or a slice."""
        return Split(self.x[rows], self.y[rows], self.levels)

    def scaled(self) -> Tensor:
        raise ValueError(f"{self.x.path} need not fit into memory: walk through batches(), or take() some rows first")

    def _batches(self, device: torch.device | str | None, *settings: Any) -> Batches:
        return StreamedBatches(self, torch.get_default_device() if device is None else device, *settings)


class StreamedBatches(Batches):
    """One epoch a loop, with rows in block-shuffled order."""

    def __init__(self, split: StreamedSplit, device: torch.device | str, *settings: Any):
        """settings: what `core.Batches` takes beside x and y."""
        super().__init__(split.x, split.y, *settings)
        self.device, self.block = device, max(1, int(split.block_mb * 2**20) // split.x.row_bytes)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(runtime.derive_seed(self.seed, self.epoch))
        self.epoch += 1
        for pieces in self._buffers(generator):
            x, y = (read(rows, pieces).to(self.device) for rows in (self.x, self.y))
            order = torch.randperm(len(x), generator=generator, device="cpu") if self.shuffle else torch.arange(len(x))
            for rows in order.to(self.device).split(self.batch_size):
                if len(rows) == self.batch_size or not self.drop_last:
                    yield self.transform(x[rows]), y[rows]
            del x, y  # or the next buffer would be read while this one is still held

    def _buffers(self, generator: torch.Generator) -> Iterator[list[range]]:
        """The rows of this process, as lists of ranges that are in memory together.

        The blocks, in this epoch's order, are cut into equal shares of processes, and these into whole batches.
        """
        n, block = len(self.x), self.block
        blocks = [range(start, min(start + block, n)) for start in range(0, n, block)]
        if self.shuffle:
            blocks = [blocks[i] for i in torch.randperm(len(blocks), generator=generator, device="cpu").tolist()]
        share = n // runtime.n_processes()
        first, last = share * runtime.rank(), share * (runtime.rank() + 1)
        buffer = max(1, BLOCKS_TOGETHER * block // self.batch_size) * self.batch_size
        for start in range(first, last, buffer):
            yield cut(blocks, start, min(start + buffer, last))


def cut(blocks: list[range], start: int, stop: int) -> list[range]:
    """What lies at positions start … stop−1 of the blocks, laid end to end."""
    pieces, position = [], 0
    for block in blocks:
        pieces.append(block[max(0, start - position) : max(0, stop - position)])
        position += len(block)
    return [piece for piece in pieces if piece]


def read(rows: OnDisk | Tensor, pieces: list[range]) -> Tensor:
    """The rows of several ranges, one after the other, in memory."""
    together = torch.empty(sum(map(len, pieces)), *rows.shape[1:], dtype=rows.dtype, device="cpu")
    position = 0
    for piece in pieces:
        together[position : position + len(piece)] = rows[piece.start : piece.stop]
        position += len(piece)
    return together
