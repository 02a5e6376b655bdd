"""Priors and likelihoods as torch distributions: what a model assumes about z, and about a pixel given z.

A pixel x lies on the grid {0, 1/(L−1), …, 1} of its L levels. Each likelihood here is a probability of the *level*, in
nats, and sums to 1 over all levels: only then are two models' figures comparable. Wrap one in `Whole(…, 3)` to
score whole images: (B, C, H, W) -> (B,).

What a decoder gives for each pixel are the parameters of its distribution; the functions `…_pixels` name them.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from dgm_lib import checks


class Whole(Independent):
    """Independent numbers taken together as one example: torch's Independent, which cannot take a batch of none."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, one number an example."""
        log_p = self.base_dist.log_prob(x)
        return log_p.flatten(-self.reinterpreted_batch_ndims).sum(-1) if self.reinterpreted_batch_ndims else log_p


# ---- priors --------------------------------------------------------------------------------------------------------


class StandardNormal(nn.Module):
    """The prior N(0, I) over z, (B, D). A module, so that it lives on its model's device."""

    def __init__(self, n_latents: int):
        super().__init__()
        checks.check_whole(1, n_latents=n_latents)
        self.n_latents = n_latents
        self.register_buffer("mu", torch.zeros(n_latents))

    def distribution(self) -> Distribution:
        return Whole(Normal(self.mu, torch.ones_like(self.mu), validate_args=False), 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """(B, D) -> (B,) nats."""
        return self.distribution().log_prob(z)

    def sample(self, n: int) -> Tensor:
        """(n, D)."""
        checks.check_whole(0, n=n)
        return self.distribution().sample((n,))


class MixturePrior(nn.Module):
    """A prior Σ_k w_k N(μ_k, diag σ_k²) over z, (B, D), learnt with the model. It begins spread over N(0, I)."""

    def __init__(self, n_components: int, n_latents: int):
        super().__init__()
        checks.check_whole(1, n_components=n_components, n_latents=n_latents)
        self.n_latents = n_latents
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.mu = nn.Parameter(torch.randn(n_components, n_latents))
        self.log_var = nn.Parameter(torch.zeros(n_components, n_latents))

    def distribution(self) -> Distribution:
        return mixture(self.logits, self.mu, self.log_var)

    def log_prob(self, z: Tensor) -> Tensor:
        """(B, D) -> (B,) nats."""
        return self.distribution().log_prob(z)

    def sample(self, n: int) -> Tensor:
        """(n, D)."""
        return drawn_from(self.distribution(), n)


def diagonal_normal(mu: Tensor, log_var: Tensor) -> Distribution:
    """N(μ, diag exp(log_var)) over vectors: each (…, D)."""
    return Whole(Normal(mu, (0.5 * log_var).exp(), validate_args=False), 1)


def mixture(logits: Tensor, mu: Tensor, log_var: Tensor) -> Distribution:
    """Σ_k w_k N(μ_k, diag exp(log_var_k)) over vectors: logits (K,), the others (K, D)."""
    return MixtureSameFamily(Categorical(logits=logits), diagonal_normal(mu, log_var), validate_args=False)


def drawn_from(p: Distribution, n: int) -> Tensor:
    """(n, …): torch's mixtures cannot draw nothing."""
    checks.check_whole(0, n=n)
    return p.sample((max(n, 1),))[:n]


# ---- what is let in ------------------------------------------------------------------------------------------------


def to_levels(x: Tensor, levels: int) -> Tensor:
    """Pixels in [0, 1] as integer levels 0 … L−1. Raises ValueError for a value that is not on the grid.

    What half precision rounds is taken, as long as the levels stay apart.
    """
    if not x.is_floating_point():
        raise ValueError(f"the pixels are {x.dtype}: these are levels, divide by {levels - 1}, as Split.scaled does")
    rounding = max(1e-2, (levels - 1) * torch.finfo(x.dtype).eps / 2)  # in levels, of a pixel near 1
    if rounding > 0.25:
        raise ValueError(f"{x.dtype} cannot tell {levels} levels apart: give x.float(), made from the levels anew")
    exact = checks.at_least_float32(x) * (levels - 1)
    k = exact.round()
    checks.soon(_check_on_grid, x, ((k - exact).abs() < rounding) & (k >= 0) & (k < levels), levels)
    return checks.as_index(k.long(), levels)


def _check_on_grid(x: Tensor, on_grid: Tensor, levels: int) -> None:
    if not on_grid.all():
        raise ValueError(
            f"a pixel is {float(x[~on_grid][0]):.6g}, not k/{levels - 1} with a level k = 0 … {levels - 1}: "
            f"divide levels by {levels - 1}, or choose the distribution for the number of levels that the data have"
        )


# ---- pixels --------------------------------------------------------------------------------------------------------


class Pixels(Distribution):
    """What the distributions of pixels share. Their log_prob checks its argument itself."""

    arg_constraints: ClassVar = {}  # torch asks for it where it prints a distribution

    def __init__(self, shape: Size, levels: int):
        self.levels = levels
        super().__init__(shape, validate_args=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.levels} levels, batch_shape {tuple(self.batch_shape)})"


class BernoulliPixels(Pixels):
    """Pixels that are 0 or 1, by the logit of a 1. Grey pixels are refused: this is no likelihood for them."""

    def __init__(self, logits: Tensor):
        self.logits = logits
        super().__init__(logits.shape, 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, one number a pixel."""
        if not torch.equal(x.clamp(0, 1).ceil_(), x):  # in a third of the time that x > 0.5 takes
            x = to_levels(x, 2)  # says which pixel is grey, or takes it where that is rounding
        x, logits = torch.broadcast_tensors(x.to(self.logits.dtype), self.logits)
        return -binary_cross_entropy_with_logits(logits, x, reduction="none")

    def sample(self, sample_shape: Size | tuple[int, ...] = ()) -> Tensor:
        return torch.bernoulli(self.mean.expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """E[x], in [0, 1]: the grey value to show."""
        return torch.sigmoid(self.logits)


class CategoricalPixels(Pixels):
    """Any probability for each of the L levels: logits (…, L)."""

    def __init__(self, logits: Tensor):
        self.log_probabilities = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], logits.shape[-1])

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, one number a pixel."""
        k, log_p = torch.broadcast_tensors(to_levels(x, self.levels)[..., None], self.log_probabilities)
        return log_p.gather(-1, k[..., :1]).squeeze(-1)

    def sample(self, sample_shape: Size | tuple[int, ...] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        if not shape.numel():  # torch draws at least one
            return self.log_probabilities.new_empty(shape)
        k = Categorical(logits=self.log_probabilities).sample(sample_shape)
        return k.to(self.log_probabilities.dtype) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[x], in [0, 1]: the grey value to show."""
        return self.log_probabilities.exp() @ torch.linspace(0, 1, self.levels).to(self.log_probabilities)


class DiscretizedLogistic(Pixels):
    """A logistic density, cut into the L levels: neighbouring greys get similar probabilities.

    P(k) = σ((x + h − loc)/s) − σ((x − h − loc)/s) with x = k/(L−1), h half a level and s = exp(log_scale);
    the first and the last level take the tails, so the sum is exactly 1. Salimans et al. 2017, eq. 2.
    log_scale is clamped to [−20, 20], where values and gradients stay finite; beyond it, its gradient is 0.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int):
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale.clamp(-20, 20))
        super().__init__(self.loc.shape, levels)

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
        # where: faster than masked_fill, most where the mask is broadcast over components
        return torch.where(last, 0, logsigmoid(above)) + torch.where(first, 0, logsigmoid(-below)) + share.log()

    def sample(self, sample_shape: Size | tuple[int, ...] = ()) -> Tensor:
        u = torch.rand(self._extended_shape(sample_shape), device=self.loc.device, dtype=self.loc.dtype)
        x = self.loc + self.log_scale.exp() * torch.logit(u, eps=1e-6)
        return (x * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[x], in [0, 1]: the grey value to show. E[k] is the sum of P(k ≥ 1), …, P(k ≥ L−1)."""
        edges = (torch.arange(1, self.levels).to(self.loc) - 0.5) / (self.levels - 1)
        edges = edges.view(-1, *[1] * self.loc.dim())  # (L−1, 1, …)
        return ((self.loc - edges) * (-self.log_scale).exp()).sigmoid().sum(0) / (self.levels - 1)


class PixelMixture(MixtureSameFamily):
    """torch's mixture, which takes a softmax of weights that its Categorical has made sum to 1 already."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, one number a pixel."""
        by_component = self.component_distribution.log_prob(x[..., None])  # (…, K)
        return (self.mixture_distribution.logits + by_component).logsumexp(-1)


def discretized_logistic_mixture(logits: Tensor, loc: Tensor, log_scale: Tensor, levels: int) -> Distribution:
    """A mixture of K discretised logistics for each pixel: each argument is (…, K). Salimans et al. 2017, eq. 2."""
    components = DiscretizedLogistic(loc, log_scale, levels)
    return PixelMixture(Categorical(logits=logits), components, validate_args=False)


# ---- what a decoder gives ------------------------------------------------------------------------------------------


def bernoulli_pixels(out: Tensor) -> Distribution:
    """Pixels 0 or 1 from one number each, its logit: (B, C, H, W)."""
    return BernoulliPixels(out)


def categorical_pixels(out: Tensor, levels: int) -> Distribution:
    """Pixels of L levels from L logits each: (B, C·L, H, W)."""
    return CategoricalPixels(parameters(out, levels))


def logistic_pixels(out: Tensor, levels: int) -> Distribution:
    """Pixels of L levels from two numbers each, (B, C·2, H, W): at 0, grey in the middle and wide."""
    loc, log_scale = parameters(out, 2).unbind(-1)
    return DiscretizedLogistic(0.5 + loc, log_scale - 2, levels)


def logistic_mixture_pixels(out: Tensor, levels: int, n_components: int) -> Distribution:
    """Pixels of L levels from three numbers for each of K components: (B, C·3K, H, W)."""
    logits, loc, log_scale = parameters(out, 3 * n_components).chunk(3, -1)
    grid = torch.linspace(0, 1, n_components + 2).to(out)[1:-1]  # components that begin alike would stay alike
    return discretized_logistic_mixture(logits, grid + loc, log_scale - 2, levels)


def parameters(out: Tensor, n: int) -> Tensor:
    """(B, C·n, H, W) -> (B, C, H, W, n): the n numbers of each pixel. Raises ValueError where they are not n."""
    if out.dim() != 4 or out.shape[1] % n:
        gives = f"the decoder gives {tuple(out.shape[1:])} an image, and this likelihood takes {n} channels for each"
        raise ValueError(f"{gives} channel of the image: let the decoder end in a shape such as ({n}, H, W)")
    return out.unflatten(1, (-1, n)).movedim(2, -1)


class FiniteNormal(Normal):
    """A Normal that is asked about numbers only: NaN is no example that a model could explain."""

    def log_prob(self, x: Tensor) -> Tensor:
        checks.check_inside(x)
        return super().log_prob(x)


class NormalNoise(nn.Module):
    """Real values x = out + σε with one σ for all, which is learnt: (B, …) -> N(out, σ²). A density, in nats."""

    def __init__(self, sigma: float = 1.0):
        super().__init__()
        checks.check_positive(sigma=sigma)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)))

    def forward(self, out: Tensor) -> Distribution:
        return FiniteNormal(out, self.log_sigma.exp(), validate_args=False)


# ---- classes -------------------------------------------------------------------------------------------------------


def log_prob_by_class(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x|c) of independent pixels, by each class's logits (K, C, H, W, L): (B, C, H, W) -> (B, K) nats."""
    checks.check_examples(x, logits.shape[1:-1], what="images")
    return CategoricalPixels(logits).log_prob(x[:, None]).flatten(2).sum(2)


def posterior_of(log_joint: Tensor) -> Tensor:
    """p(c|x) from log p(x, c), (B, K) each. Raises ValueError for an example that no class can make."""
    checks.check_possible(log_joint.logsumexp(1))
    return log_joint.softmax(1)


def drawn(logits: Tensor, n: int) -> Tensor:
    """n draws of one of K classes: (K,) -> (n,); none for n = 0, which torch refuses."""
    checks.check_whole(0, n=n)
    return Categorical(logits=logits).sample((n,)) if n else logits.new_empty(0, dtype=torch.int64)
