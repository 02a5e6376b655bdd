"""Priors and pixel likelihoods as torch distributions: what a model assumes about z, and about a pixel given z.

A pixel x lies on the grid {0, 1/(L−1), …, 1} of its L levels. Each likelihood here is a probability of the *level*, in
nats, and sums to 1 over all levels: only then are two models' figures comparable. Wrap one in `Independent(…, 3)` to
score whole images: (B, C, H, W) -> (B,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal
from torch.nn.functional import logsigmoid


class StandardNormal(nn.Module):
    """The prior N(0, I) over z, (B, D). A module, so that it lives on its model's device."""

    def __init__(self, n_latents: int):
        super().__init__()
        self.register_buffer("mu", torch.zeros(n_latents))

    def distribution(self) -> Distribution:
        return Independent(Normal(self.mu, torch.ones_like(self.mu)), 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """(B, D) -> (B,) nats."""
        return self.distribution().log_prob(z)

    def sample(self, n: int) -> Tensor:
        """(n, D)."""
        return self.distribution().sample((n,))


def to_levels(x: Tensor, levels: int) -> Tensor:
    """Pixels in [0, 1] as integer levels 0 … L−1. Raises ValueError for a value that is not on the grid."""
    k = (x * (levels - 1)).round()
    on_grid = ((k - x * (levels - 1)).abs() < 1e-2) & (k >= 0) & (k < levels)
    if not on_grid.all():
        raise ValueError(
            f"a pixel is {float(x[~on_grid][0]):.6g}, not k/{levels - 1} with a level k = 0 … {levels - 1}: "
            f"divide levels by {levels - 1}, or choose the distribution for the number of levels that the data have"
        )
    return k.long()


def check_images(x: Tensor, shape: Sequence[int]) -> None:
    """Raises ValueError unless x is a float batch (B, C, H, W) with (C, H, W) = shape, as models of pixels take it."""
    if x.dim() != 4 or x.shape[1:] != torch.Size(shape) or not x.is_floating_point():
        expected = ", ".join(map(str, shape)) if len(shape) == 3 else "C, H, W"
        raise ValueError(
            f"expected float images of shape (B, {expected}) with levels scaled to [0, 1], "
            f"got {x.dtype} of shape {tuple(x.shape)}: Split.scaled and Split.batches give such images"
        )


def check_possible(log_prob: Tensor) -> None:
    """Raises ValueError if an example has probability 0: p(z|x) = p(x, z) / p(x) is then 0/0. log_prob: (B,)."""
    impossible = (log_prob == -torch.inf).nonzero()
    if len(impossible):
        raise ValueError(
            f"example {int(impossible[0])} has probability 0 under the model, so nothing follows from it about its "
            "hidden cause: leave it out, or fit with alpha > 0"
        )


def at_least_float32(x: Tensor) -> Tensor:
    """x in a type in which one can count: float16 stops at 2048, bfloat16 at 256."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def bernoulli(logits: Tensor) -> Distribution:
    """Pixels that are 0 or 1, by the logit of a 1. Grey pixels are refused: this is no likelihood for them."""
    return CategoricalPixels(torch.stack([torch.zeros_like(logits), logits], -1))


class CategoricalPixels(Distribution):
    """Any probability for each of the L levels: logits (…, L)."""

    arg_constraints: ClassVar = {}  # torch asks for it where it prints a distribution

    def __init__(self, logits: Tensor):
        self.log_probabilities = logits.log_softmax(-1)
        self.levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=False)  # log_prob checks its argument itself

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.levels} levels, batch_shape {tuple(self.batch_shape)})"

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, one number a pixel."""
        k, log_p = torch.broadcast_tensors(to_levels(x, self.levels)[..., None], self.log_probabilities)
        return log_p.gather(-1, k[..., :1]).squeeze(-1)

    def sample(self, sample_shape: Size | tuple[int, ...] = ()) -> Tensor:
        k = Categorical(logits=self.log_probabilities).sample(sample_shape)
        return k.to(self.log_probabilities.dtype) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[x], in [0, 1]: the grey value to show."""
        return self.log_probabilities.exp() @ torch.linspace(0, 1, self.levels).to(self.log_probabilities)


class DiscretizedLogistic(Distribution):
    """A logistic density, cut into the L levels: neighbouring greys get similar probabilities.

    P(k) = σ((x + h − loc)/s) − σ((x − h − loc)/s) with x = k/(L−1), h half a level and s = exp(log_scale);
    the first and the last level take the tails, so the sum is exactly 1. Salimans et al. 2017, eq. 2.
    log_scale is clamped to [−20, 20], where values and gradients stay finite; beyond it, its gradient is 0.
    """

    arg_constraints: ClassVar = {}  # torch asks for it where it prints a distribution

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int):
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale.clamp(-20, 20))
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=False)  # log_prob checks its argument itself

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.levels} levels, batch_shape {tuple(self.batch_shape)})"

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, one number a pixel."""
        k = to_levels(x, self.levels)
        half = 0.5 / (self.levels - 1)
        inverse_scale = (-self.log_scale).exp()
        above = (x + half - self.loc) * inverse_scale
        below = (x - half - self.loc) * inverse_scale
        # σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b−a)): exact in the logarithm, where the plain difference underflows
        first, last = k == 0, k == self.levels - 1
        share = torch.where(first | last, 1, -torch.expm1(-2 * half * inverse_scale))  # the tails need no third factor
        return logsigmoid(above).masked_fill(last, 0) + logsigmoid(-below).masked_fill(first, 0) + share.log()

    def sample(self, sample_shape: Size | tuple[int, ...] = ()) -> Tensor:
        u = torch.rand(self._extended_shape(sample_shape), device=self.loc.device, dtype=self.loc.dtype)
        x = self.loc + self.log_scale.exp() * torch.logit(u, eps=1e-6)
        return (x * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[x], in [0, 1]: the grey value to show."""
        grid = torch.linspace(0, 1, self.levels).to(self.loc).view(-1, *[1] * self.loc.dim())  # (L, 1, …)
        return (self.log_prob(grid).exp() * grid).sum(0)


def discretized_logistic_mixture(logits: Tensor, loc: Tensor, log_scale: Tensor, levels: int) -> Distribution:
    """A mixture of K discretised logistics for each pixel: each argument is (…, K). Salimans et al. 2017, eq. 2."""
    components = DiscretizedLogistic(loc, log_scale, levels)
    return MixtureSameFamily(Categorical(logits=logits), components, validate_args=False)
