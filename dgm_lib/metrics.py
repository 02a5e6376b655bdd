"""The rulers of the course: what a model is worth on data that it has not seen, and how sure that figure is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def per_example(function: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """`function(x)`, one number an example, over all batches: (N,) on the CPU."""
    with torch.no_grad():
        return torch.cat([function(x).cpu() for x, _ in batches])


def nats(log_prob: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean of −log p(x) in nats per example, and the standard error of that mean (nan for one example).

    log_prob: (B, …) -> (B,), an exact log-likelihood or a lower bound of it; then the figure is an upper bound.
    """
    values = -per_example(log_prob, batches).double()
    deviation = values.std().item() if len(values) > 1 else math.nan  # one example says nothing of it
    return values.mean().item(), deviation / math.sqrt(len(values))


def bits_per_dim(log_prob: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean of −log₂ p(x) per dimension: nats / (D ln 2)."""
    values = per_example(lambda x: log_prob(x) / x[0].numel(), batches).double()
    return -values.mean().item() / math.log(2)


def accuracy(classify: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of examples whose largest score belongs to their label; classify: (B, …) -> (B, K) scores."""
    return hits(classify, batches).mean().item()


def hits(classify: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """(N,) 1.0 where the largest score belongs to the label, 0.0 elsewhere: for `bootstrap_interval`."""
    with torch.no_grad():
        return torch.cat([(classify(x).argmax(1) == y).float().cpu() for x, y in batches])


def bootstrap_interval(values: Tensor, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """An interval for the mean of `values` (N,): quantiles of the means of resampled data. Efron 1979."""
    rows = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(seed))
    means = values.cpu().double()[rows].mean(1)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return low, high
