"""What a data set is: three splits, and one way to walk through each of them.

Pixels rest as uint8 levels 0 … L−1. A batch holds floats: the level divided by L−1, so that x is in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dgm_lib import checks, runtime


@dataclass(frozen=True)
class Split:
    """Examples and their labels, as tensors of N rows.

    x: (N, C, H, W) uint8 levels of pixels, (N, 2) float32 points, or (N, T) int64 symbols.
    y: (N,) int64 labels; or what else a loss is told of each example, such as a teacher's logits (N, K).
    levels: how many levels a pixel has; None where x is not made of pixels.
    factors: name -> (N,) what is known of how each example was made; empty where nothing is.
    """

    x: Tensor
    y: Tensor
    levels: int | None = None
    factors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in {"x": self.x, "y": self.y, **self.factors}.items():
            if not isinstance(values, Tensor):
                raise ValueError(f"{name} is a {type(values).__name__}: give a tensor, such as torch.as_tensor makes")
        if not self.x.dim() or not self.y.dim():
            shapes = f"x has the shape {tuple(self.x.shape)} and y {tuple(self.y.shape)}"
            raise ValueError(f"{shapes}: each must have one row an example, (N, …)")
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} examples, but y has {len(self.y)} labels: they must agree")
        check_levels(self.x, self.levels)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Split of {len(self)}: {_describe(self)}"

    def to(self, device: torch.device | str) -> Split:
        """The same examples on a device."""
        factors = {name: values.to(device) for name, values in self.factors.items()}
        return replace(self, x=self.x.to(device), y=self.y.to(device), factors=factors)

    def take(self, rows: Tensor | slice) -> Split:
        """The split that holds only these rows: indices or a boolean mask, on any device, or a slice."""
        rows = rows.to(self.x.device) if isinstance(rows, Tensor) else rows
        factors = {name: values[rows] for name, values in self.factors.items()}
        return Split(self.x[rows], self.y[rows], self.levels, factors)

    def scaled(self) -> Tensor:
        """All of x as a batch holds it: floats in [0, 1] for pixels, unchanged otherwise."""
        return scale(self.x, self.levels)

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> Batches:
        """Pairs (x, y) of `batch_size` examples on `device`, by default where x is; each loop over them is one epoch.

        transform: what makes a float batch of the resting x; by default `scale`, see also `dequantize`.
        """
        transform = transform or partial(scale, levels=self.levels)
        return self._batches(device, batch_size, seed, shuffle, drop_last, transform)

    def _batches(self, device: torch.device | str | None, *settings: Any) -> Batches:
        where = self.x.device if device is None else device
        return Batches(self.x.to(where), self.y.to(where), *settings)


class Batches:
    """One epoch a loop. The order follows from (seed, epoch) alone; each process of a group gets its own share."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        transform: Callable[[Tensor], Tensor],
    ):
        check_sizes(len(x), batch_size)
        self.x, self.y, self.batch_size, self.seed = x, y, int(batch_size), checks.whole("seed", seed)
        self.shuffle, self.drop_last, self.transform = shuffle, drop_last, transform
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Makes the next loop the one of this epoch, whatever was walked through before."""
        self.epoch = epoch

    def __len__(self) -> int:
        return n_batches(len(self.x), self.batch_size, self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = epoch_order(len(self.x), self.seed, self.epoch, self.shuffle).to(self.x.device)
        self.epoch += 1
        for rows in order.split(self.batch_size)[: len(self)]:
            # index_select: a tenth of the time that indexing takes on bytes
            yield self.transform(self.x.index_select(0, rows)), self.y.index_select(0, rows)


def _describe(split: Split) -> str:
    pixels = f", {split.levels} levels" if split.levels else ""
    return f"x {tuple(split.x.shape[1:])} {str(split.x.dtype).removeprefix('torch.')}{pixels}"


def check_sizes(n: int, batch_size: int) -> None:
    """Raises ValueError if n examples cannot be walked through in such batches by all processes."""
    checks.whole("batch_size", batch_size, least=1)
    if n < runtime.n_processes():
        raise ValueError(f"{n} examples cannot be shared by {runtime.n_processes()} processes")


def check_levels(x: Tensor, levels: int | None) -> None:
    """Raises ValueError unless x rests as it should: bytes below `levels` where it is made of pixels."""
    if levels is None:
        return
    if x.dtype != torch.uint8:
        what = f"x is {x.dtype} with levels={levels}"
        raise ValueError(f"{what}: pixels are of type torch.uint8, and floats scaled already take levels=None")
    if not 2 <= checks.whole("levels", levels) <= 256 or (x.numel() and int(x.max()) >= levels):
        most = f", and x holds {int(x.max())}" if x.numel() else ""
        raise ValueError(f"levels is {levels}{most}: pixels are 0 … levels − 1, with 2 to 256 levels")


def n_batches(n: int, batch_size: int, drop_last: bool) -> int:
    """How many batches each process makes of n examples in an epoch."""
    share = n // runtime.n_processes()
    return share // batch_size if drop_last else -(-share // batch_size)


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool = True) -> Tensor:
    """The rows that this process visits in an epoch: (n // processes,) indices, no row visited by two processes."""
    order = torch.arange(n, device="cpu")
    if shuffle:
        order = torch.randperm(
            n, generator=torch.Generator().manual_seed(runtime.derive_seed(seed, epoch)), device="cpu"
        )
    share = n // runtime.n_processes()
    return order[runtime.rank() :: runtime.n_processes()][:share]


def scale(x: Tensor, levels: int | None) -> Tensor:
    """Pixel levels 0 … L−1 as floats 0 … 1; what is not made of pixels stays as it is."""
    return x if levels is None else x.float().mul_(1 / (levels - 1))


def dequantize(levels: int) -> Callable[[Tensor], Tensor]:
    """A transform that spreads level k over [k/L, (k+1)/L): a density over it bounds the discrete probability.

    log P(k) ≥ E_u[log p((k + u)/L)] − D log L, for D pixels. Theis, van den Oord & Bethge 2016, eq. 4.
    """
    return partial(_spread, levels=checks.whole("levels", levels, least=2))


def _spread(x: Tensor, levels: int) -> Tensor:
    steps = 2**14  # u is in the middle of one of these: for up to 256 levels, no rounding in float32 leaves the bin
    u = (torch.rand(x.shape, device=x.device) * steps).floor().add_(0.5).div_(steps)
    return u.add_(x).div_(levels)


@dataclass(frozen=True)
class Data:
    """A data set: its splits, and what one must know about it.

    classes: the name of each label. card: where it comes from, its licence and its pitfalls, in Markdown.
    symbols: for text, the character of each symbol of x.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    card: str
    symbols: str = ""

    def __repr__(self) -> str:
        sizes = f"train {len(self.train)}, validation {len(self.validation)}, test {len(self.test)}"
        return f"Data {self.name!r}: {_describe(self.train)}, {len(self.classes)} classes; {sizes}"

    def to(self, device: torch.device | str) -> Data:
        """The same splits on a device."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)

    @property
    def levels(self) -> int | None:
        """How many levels a pixel has; None where x is not made of pixels."""
        return self.train.levels
