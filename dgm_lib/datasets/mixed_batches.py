"""Batches of labelled and unlabelled examples together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dgm_lib.checks import NO_LABEL
from dgm_lib.datasets.core import check_sizes, epoch_order, n_batches
from dgm_lib.runtime import derive_seed


class MixedBatches:
    """Batches (x, y) of labelled examples followed by unlabelled ones, whose y is −1; one epoch a loop.

    An epoch is one pass over the unlabelled examples, without a last batch that is too small; the labelled ones go
    round as often as that takes. As with `Batches`, the order follows from (seed, epoch), and processes share the
    examples. transform: what makes a float batch of the resting x, such as a random shift.
    Raises ValueError where there are fewer unlabelled examples than a batch holds.
    """

    def __init__(
        self,
        x_labelled: Tensor,
        y_labelled: Tensor,
        x_unlabelled: Tensor,
        *,
        batch_labelled: int,
        batch_unlabelled: int,
        seed: int,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        check_sizes(len(x_labelled), batch_labelled)
        check_sizes(len(x_unlabelled), batch_unlabelled)
        if y_labelled.shape != (len(x_labelled),):
            n_labels = "×".join(map(str, y_labelled.shape))
            raise ValueError(f"{len(x_labelled)} labelled examples have {n_labels} labels: give one an example, (N,)")
        kinds = [(str(x.dtype), tuple(x.shape[1:])) for x in (x_labelled, x_unlabelled)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"labelled examples are {kinds[0]} and unlabelled ones {kinds[1]}: a batch holds one kind")
        self.x_labelled, self.y_labelled, self.x_unlabelled = x_labelled, y_labelled, x_unlabelled
        self.batch_labelled, self.batch_unlabelled = batch_labelled, batch_unlabelled
        self.seed, self.transform, self.epoch = seed, transform, 0
        if len(self) == 0:
            n = f"{len(x_unlabelled)} unlabelled examples"
            raise ValueError(f"{n} do not fill a batch of {batch_unlabelled} for each process: take smaller batches")

    def set_epoch(self, epoch: int) -> None:
        """Makes the next loop the one of this epoch, whatever was walked through before."""
        self.epoch = epoch

    def __len__(self) -> int:
        return n_batches(len(self.x_unlabelled), self.batch_unlabelled, drop_last=True)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        unlabelled = epoch_order(len(self.x_unlabelled), self.seed, epoch).to(self.x_unlabelled.device)
        labelled = self._labelled_rows(epoch).to(self.x_labelled.device)
        no_label = self.y_labelled.new_full((self.batch_unlabelled,), NO_LABEL)
        for with_y, without_y in zip(labelled.split(self.batch_labelled), unlabelled.split(self.batch_unlabelled)):
            if len(without_y) == self.batch_unlabelled:
                x = torch.cat([self.x_labelled[with_y], self.x_unlabelled[without_y]])
                yield x if self.transform is None else self.transform(x), torch.cat([self.y_labelled[with_y], no_label])

    def _labelled_rows(self, epoch: int) -> Tensor:
        """One permutation after the other, as many as the epoch needs: (len(self) · batch_labelled,)."""
        needed, n, rows = len(self) * self.batch_labelled, 0, []
        while n < needed:
            rows.append(epoch_order(len(self.x_labelled), derive_seed(self.seed, epoch), len(rows)))
            n += len(rows[-1])
        return torch.cat(rows)[:needed]
