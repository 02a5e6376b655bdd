"""Models of pixels that are learnt by counting. Their likelihood is exact: it is the ruler for all that comes later.

IndependentPixels    p(x) = Π_i p_i(x_i)
NaiveBayes           p(x) = Σ_y p(y) Π_i p_i(x_i|y)
PixelChain           p(x) = Π_i p_i(x_i | its neighbours to the left and above)

x is a float batch (B, C, H, W) of levels k/(L−1); log-probabilities are in nats per image. The tables are buffers. A
model that was not fitted is uniform: each image has probability L^−D, for D = C·H·W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import pad

from dgm_lib import checks
from dgm_lib.distributions import CategoricalPixels, drawn, log_prob_by_class, posterior_of, to_levels


class IndependentPixels(nn.Module):
    """Each pixel has a table of its own: p(x) = Π_i p_i(x_i)."""

    def __init__(self, shape: Sequence[int], levels: int):
        super().__init__()
        self.register_buffer("log_p", torch.zeros(*shape, levels).log_softmax(-1))  # (C, H, W, L)

    @classmethod
    def fit(cls, x: Tensor, levels: int, *, alpha: float = 0.5) -> IndependentPixels:
        """Counts the levels of each pixel, with `alpha` added to each count: p_i(k) = (n_ik + α) / (N + αL)."""
        checks.check_examples(x, "CHW", what="images")
        checks.check_weight(alpha=alpha)
        model = cls(x.shape[1:], levels).to(checks.at_least_float32(x))
        k, i = levels_and_positions(x, levels)
        p = back_off(count(model.log_p, (*i.shape, levels), i, k), 1 / levels, alpha * levels)
        model.log_p.copy_(p.log().view_as(model.log_p))
        return model

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B,) nats. Raises ValueError for another shape and for a pixel that lies on no level."""
        checks.check_examples(x, self.log_p.shape[:-1], what="images")
        return CategoricalPixels(self.log_p).log_prob(x).flatten(1).sum(1)

    def sample(self, n: int) -> Tensor:
        """(n, C, H, W)."""
        checks.check_whole(0, n=n)
        return CategoricalPixels(self.log_p).sample((n,))


class NaiveBayes(nn.Module):
    """Each pixel has a table for each class, p(x, y) = p(y) Π_i p_i(x_i|y): within a class, pixels are independent."""

    def __init__(self, shape: Sequence[int], levels: int, n_classes: int):
        super().__init__()
        self.register_buffer("log_prior", torch.zeros(n_classes).log_softmax(0))  # (K,)
        self.register_buffer("log_p", torch.zeros(n_classes, *shape, levels).log_softmax(-1))  # (K, C, H, W, L)

    @classmethod
    def fit(cls, x: Tensor, y: Tensor, levels: int, n_classes: int, *, alpha: float = 0.5) -> NaiveBayes:
        """Counts the classes, and the levels within each, with `alpha` added to each count. y: (B,) int64 labels."""
        checks.check_examples(x, "CHW", what="images")
        checks.check_weight(alpha=alpha)
        y = checks.as_labels(y, len(x), n_classes)
        model = cls(x.shape[1:], levels, n_classes).to(checks.at_least_float32(x))
        k, i = levels_and_positions(x, levels)
        prior = back_off(count(model.log_p, (n_classes,), y), 1 / n_classes, alpha * n_classes)
        p = back_off(count(model.log_p, (n_classes, *i.shape, levels), y[:, None], i, k), 1 / levels, alpha * levels)
        model.log_prior.copy_(prior.log())
        model.log_p.copy_(p.log().view_as(model.log_p))
        return model

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, y) for every class y: (B, C, H, W) -> (B, K) nats."""
        return self.log_prior + log_prob_by_class(x, self.log_p)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log Σ_y p(x, y): (B,) nats."""
        return self.log_joint(x).logsumexp(1)

    def posterior(self, x: Tensor) -> Tensor:
        """p(y|x) by Bayes' rule: (B, K). Raises ValueError for an image that no class can make."""
        return posterior_of(self.log_joint(x))

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """(n, C, H, W), of the classes y, (n,) int64, or else of classes drawn from p(y)."""
        y = drawn(self.log_prior, n) if y is None else y
        checks.check_labels(y, n, len(self.log_prior))
        return CategoricalPixels(self.log_p[y]).sample()


class PixelChain(nn.Module):
    """Each pixel has a table for each neighbourhood, p(x) = Π_i p_i(x_i | left, above, above right, above left).

    A causal Markov mesh: the Markov chain of images. Abend, Harley & Kanal 1965. The neighbours are seen in `bins`
    steps of grey only, and as 0 beyond the edge. Each channel is a mesh of its own.
    """

    NEIGHBOURS = ((0, -1), (-1, 0), (-1, 1), (-1, -1))  # (rows, columns) from the pixel; all come before it

    def __init__(self, shape: Sequence[int], levels: int, bins: int = 4):
        super().__init__()
        self.shape, self.bins = tuple(shape), min(bins, levels)
        contexts = [self.bins] * len(self.NEIGHBOURS)
        self.register_buffer("log_p", torch.zeros(prod(shape), *contexts, levels).log_softmax(-1))  # (D, b, b, b, b, L)

    @classmethod
    def fit(cls, x: Tensor, levels: int, *, bins: int = 4, alpha: float = 0.5, strength: float = 60.0) -> PixelChain:
        """Counts from coarse to fine; each step weighs as much as `strength` examples against the counts of the next.

        Most neighbourhoods are never seen at most positions: what is known of them is what is seen elsewhere. The
        defaults were chosen on the validation digits.
        """
        checks.check_examples(x, "CHW", what="images")
        checks.check_weight(alpha=alpha, strength=strength)
        model = cls(x.shape[1:], levels, bins).to(checks.at_least_float32(x))
        k, i = levels_and_positions(x, levels)
        n = count(model.log_p, model.log_p.shape, i, *model.contexts(k), k)
        p = back_off(n.sum((1, 2, 3, 4), keepdim=True), 1 / levels, alpha * levels)  # given the position
        p = back_off(n.sum(0, keepdim=True), p, strength)  # and given the four neighbours, wherever they are seen
        p = back_off(n.sum((3, 4), keepdim=True), p, strength)  # given the position, left and above
        p = back_off(n, p, strength)  # given all
        model.log_p.copy_(p.log())
        return model

    def contexts(self, k: Tensor) -> list[Tensor]:
        """The neighbours of each pixel, in steps of grey: (B, D) levels -> four times (B, D)."""
        _, height, width = self.shape
        grey = k * (self.bins - 1) / (self.log_p.shape[-1] - 1)
        padded = pad(grey.round().long().unflatten(1, self.shape), (1, 1, 1, 0))
        corners = [(1 + row, 1 + column) for row, column in self.NEIGHBOURS]
        return [padded[..., top : top + height, left : left + width].flatten(1) for top, left in corners]

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B,) nats. Raises ValueError for another shape and for a pixel that lies on no level."""
        checks.check_examples(x, self.shape, what="images")
        k, i = levels_and_positions(x, self.log_p.shape[-1])
        return self.log_p[(i, *self.contexts(k), k)].sum(1)

    def sample(self, n: int) -> Tensor:
        """(n, C, H, W), one pixel after the other: ancestral sampling."""
        positions, levels = len(self.log_p), self.log_p.shape[-1]
        checks.check_whole(0, n=n)
        k = torch.zeros(n, positions, dtype=torch.int64, device=self.log_p.device)
        for i in range(positions if n else 0):
            context = [neighbour[:, i] for neighbour in self.contexts(k)]
            k[:, i] = Categorical(logits=self.log_p[(i, *context)]).sample()
        return k.view(n, *self.shape).to(self.log_p.dtype) / (levels - 1)


# ---- counting ------------------------------------------------------------------------------------------------------


def count(like: Tensor, shape: Sequence[int], *index: Tensor) -> Tensor:
    """How often each cell of a table is met; the indices, one an axis, broadcast against each other."""
    return like.new_zeros(shape).index_put_(torch.broadcast_tensors(*index), like.new_ones(()), accumulate=True)


def back_off(counts: Tensor, base: Tensor | float, strength: float) -> Tensor:
    """Probabilities from counts (…, L), drawn towards `base` as if `strength` examples of it had been seen as well.

    The mean of a Dirichlet posterior; base may come from a coarser table. MacKay & Peto 1995.
    """
    total = counts.sum(-1, keepdim=True) + strength
    return torch.where(total > 0, (counts + strength * base) / total, base)


def levels_and_positions(x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The level of each pixel, (B, D), and its position 0 … D−1, (D,)."""
    k = to_levels(x, levels).flatten(1)
    return k, torch.arange(k.shape[1], device=k.device)
