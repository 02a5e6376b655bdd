"""Exercises of notebook 05: a likelihood for grey pixels, tighter bounds, collapse, editing in the space of latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Generator, Tensor
from torch.nn.functional import cosine_similarity, normalize, one_hot

from dgm_exercises.engine import Exercise

# ---- level_probability ---------------------------------------------------------------------------------------------


def level_probability(loc: Tensor, scale: Tensor, k: Tensor, levels: int) -> Tensor:
    # The logistic distribution function at both edges of the level's bin; the outermost bins reach to −∞ and ∞.
    below = torch.where(k == 0, -math.inf, ((k - 0.5) / (levels - 1) - loc) / scale)
    above = torch.where(k == levels - 1, math.inf, ((k + 0.5) / (levels - 1) - loc) / scale)
    # σ(b) − σ(a) = σ(−a) − σ(−b): where both are nearly 1, the second is a difference of small numbers.
    return torch.where(below > 0, (-below).sigmoid() - (-above).sigmoid(), above.sigmoid() - below.sigmoid())


def grey_pixels(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, int]]:
    def draw(*shape: int, levels: int, narrow: float = 0.1) -> tuple[Tensor, Tensor, Tensor, int]:
        loc, u = (torch.rand(shape, generator=generator) for _ in range(2))
        k = torch.randint(levels, shape, generator=generator)
        return 1.4 * loc - 0.2, narrow * (0.5 + u), k, levels

    every = torch.arange(17)
    return [
        (torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.2, 0.2]), torch.tensor([1, 1, 2]), 5),
        (torch.tensor([0.5, 0.4]), torch.tensor([0.2, 0.1]), torch.tensor([0, 4]), 5),
        (torch.full((17,), 0.45), torch.full((17,), 0.05), every, 17),  # a whole distribution: it sums to 1
        (torch.full((17,), 1.1), torch.full((17,), 0.3), every, 17),  # its middle lies beyond white
        draw(3, 1, 4, 4, levels=17),
        draw(20, levels=17, narrow=0.01),
        draw(20, levels=256, narrow=0.02),
        draw(10, levels=2, narrow=0.5),
        (torch.tensor([0.5, 0.45, 0.7, -30.0, 9.0]), torch.tensor([0.001] * 5), torch.tensor([0, 2, 4, 0, 3]), 5),
    ]


Curve = Callable[[Tensor], Tensor]


def between(
    edges: Callable[[Tensor, int], tuple[Tensor, Tensor]], *, first: bool = True, last: bool = True, by: Curve
) -> Callable[..., Tensor]:
    """by((above − loc)/scale) − by((below − loc)/scale), for edges(k, levels) = below, above; with tails or without."""

    def probability(loc: Tensor, scale: Tensor, k: Tensor, levels: int) -> Tensor:
        below, above = (by((edge - loc) / scale) for edge in edges(k, levels))
        below = below.masked_fill((k == 0) & first, 0)
        return above.masked_fill((k == levels - 1) & last, 1) - below

    return probability


def bin_of(k: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    return (k - 0.5) / (levels - 1), (k + 0.5) / (levels - 1)


def logistic_density(loc: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    u = ((x - loc) / scale).sigmoid()
    return u * (1 - u) / scale


IN_LEVELS = (
    "You count in levels, and loc and scale are in the unit of pixels, black 0 and white 1. There level k lies at "
    "k/(levels − 1), and half a level is 1/(2 (levels − 1))."
)
HALF_A_BIN = (
    "Your bin begins or ends at the level itself, so every pixel is judged half a level too dark or too bright. Level "
    "k stands in the middle of its bin: half a level on either side."
)
TOO_WIDE = (
    "Your bins are two levels wide and overlap: the probabilities of all levels sum to about 2. Half a level on either "
    "side is 0.5 / (levels − 1)."
)

LEVEL_PROBABILITY = Exercise(
    reference=level_probability,
    statement="The discretised logistic: the probability that a pixel has the level k (integers 0 … levels − 1), when "
    "a logistic distribution is cut into levels. Its loc and scale are in the unit of pixels, black 0 and white 1, so "
    "level k lies at k/(levels − 1). The first and the last level take the tails. loc, scale and k have the same "
    "shape, and so has the result.",
    nudge="The logistic's distribution function is σ((x − loc)/scale). Between which two x does a number get rounded "
    "to level k? And what gets rounded to level 0?",
    right="both tails and a loc beyond white included. The probabilities of all levels sum to 1, which neither a "
    "density nor a Bernoulli of grey pixels promises.",
    inputs=grey_pixels,
    atol=2e-6,  # a difference of two numbers near 1, in float32
    rtol=1e-4,
    wrong=[
        (
            between(bin_of, first=False, last=False, by=torch.sigmoid),
            "Right between the ends. Level 0 also takes all that lies below it, and the last level all above: without "
            "these tails the probabilities do not sum to 1.",
        ),
        (between(bin_of, last=False, by=torch.sigmoid), "The upper tail is missing: it belongs to the last level."),
        (between(bin_of, first=False, by=torch.sigmoid), "The lower tail is missing: it belongs to level 0."),
        (
            lambda loc, s, k, n: logistic_density(loc, s, k / (n - 1)) / (n - 1),
            "This is the density at the level times the width of the bin. It comes near where the curve is flat; a "
            "probability is the difference of the distribution function at the bin's edges, tails included.",
        ),
        (
            lambda loc, s, k, n: logistic_density(loc, s, k / (n - 1)),
            "This is a density, {yours}, which may be above 1. The probability of a level is the difference of the "
            "distribution function at the edges of its bin.",
        ),
        (
            lambda loc, s, k, n: ((k / (n - 1) - loc) / s).sigmoid(),
            "This is the probability of level k or less, up to half a bin. Subtract what lies below the bin.",
        ),
        (
            lambda loc, s, k, n: torch.where(k == n - 1, 1.0, (((k + 0.5) / (n - 1) - loc) / s).sigmoid()),
            "This is the probability of level k or any lower one. Subtract what lies below the bin.",
        ),
        (between(lambda k, n: (k / (n - 1), (k + 1) / (n - 1)), by=torch.sigmoid), HALF_A_BIN),
        (between(lambda k, n: ((k - 1) / (n - 1), (k + 1) / (n - 1)), by=torch.sigmoid), TOO_WIDE),
        (
            between(lambda k, n: ((k - 0.5) / n, (k + 0.5) / n), by=torch.sigmoid),
            "You put level k at k/levels. The brightest level is levels − 1 and lies at 1: divide by levels − 1.",
        ),
        (
            between(lambda k, n: (k / n, (k + 1) / n), by=torch.sigmoid),
            "You cut [0, 1] into equal bins, k/levels to (k + 1)/levels. Here black lies at 0 and white at 1, in the "
            "middle of their bins.",
        ),
        (between(lambda k, n: (k - 0.5, k + 0.5), by=torch.sigmoid), IN_LEVELS),
        (
            between(lambda k, n: (k / (n - 1) - 0.5, k / (n - 1) + 0.5), by=torch.sigmoid),
            "You take ½ for half a level. In the unit of pixels levels lie 1/(levels − 1) apart, and half a level is "
            "half of their distance: 1/(2 (levels − 1)).",
        ),
        (
            between(bin_of, by=lambda u: u.exp() / (1 + u.exp())),
            "Right for moderate numbers; where an edge lies many scales above loc, exp overflows and inf/inf makes "
            "{yours}. `torch.sigmoid` does not.",
        ),
        (
            between(bin_of, by=lambda u: torch.special.ndtr(u)),
            "You use the Gaussian's distribution function. The logistic's is the sigmoid.",
        ),
        (
            lambda loc, s, k, n: level_probability(loc, 1 / s, k, n),
            "You multiply by the scale. A wide distribution has a large scale: distances are divided by it.",
        ),
        (
            lambda loc, s, k, n: level_probability(loc, s.square(), k, n),
            "You divide by scale². The scale is a width, like a standard deviation and unlike a variance.",
        ),
    ],
)

# ---- iw_bound ------------------------------------------------------------------------------------------------------


def iw_bound(log_w: Tensor) -> Tensor:
    # log 1/k Σ_i w_i. logsumexp takes the largest log-weight out of the sum before exp, so that nothing underflows.
    return log_w.logsumexp(dim=0) - math.log(len(log_w))


def log_weights(generator: Generator) -> list[tuple[Tensor]]:
    def draw(k: int, batch: int, scale: float = 1.5, shift: float = -3.0) -> tuple[Tensor]:
        return (scale * torch.randn(k, batch, generator=generator) + shift,)

    return [
        (torch.tensor([[0.0, -3.0], [1.0, -4.0], [2.0, -5.0]]),),
        draw(4, 4),
        draw(5, 3),
        draw(1, 4),  # one draw: the ELBO
        draw(3, 1),
        (torch.full((6, 2), -7.5),),  # draws that agree
        draw(100, 20, scale=4.0, shift=-90.0),
        draw(8, 5, shift=-2000.0),
        draw(8, 5, shift=500.0),
        (torch.tensor([[0.0, -2000.0], [-1.0, -2001.0]]),),  # examples far apart
        (torch.tensor([[-1000.0, 500.0, -2.0], [0.0, -2000.0, -math.inf], [-3000.0, 2.0, -1.0]]),),  # and draws
    ]


SMALL = 1e-6, 1e-8, 1e-10, 1e-12  # what learners add against log 0 and 0/0
WRONG_SHIFT = (
    "What you take out before exp is not the largest log-weight of each example: where they lie far apart, exp "
    "underflows to 0 or overflows, and you get {yours}. Take the largest over dimension 0, as `logsumexp` does."
)
UNDERFLOWING = (
    "Right for small numbers; exp of −2000 nats underflows to 0 (and that of 500 overflows), and you get {yours}. "
    "Images have such log-weights: take the largest out of the sum first (`logsumexp`)."
)
WRONG_AXIS = (
    "You average over the examples, dimension 1. The k draws of one example lie along dimension 0; examples are never "
    "mixed inside the logarithm."
)

IW_BOUND = Exercise(
    reference=iw_bound,
    statement="The importance-weighted bound of each example, (B,) nats, from log_w (k, B): log p(x, z) − log q(z|x) "
    "of k draws of z, numbers of some thousands, or −inf where a draw has no weight. Training differentiates it.",
    nudge="The weights average p(x). So the bound is a logarithm of a mean: which of the two comes first?",
    right="log-weights of −2000 nats included. For k = 1 it is the ELBO; in the mean it rises with k, towards "
    "log p(x).",
    inputs=log_weights,
    differentiate=("log_w",),
    atol=1e-3,  # float32 keeps four decimals of 2000
    rtol=1e-5,
    wrong=[
        (
            lambda w: w.mean(0),
            "This is the mean of the logarithms: the ELBO, estimated with k draws. More draws make it less noisy and "
            "no tighter. The mean comes first, then the logarithm.",
        ),
        (lambda w: w.logsumexp(0), "You sum the weights without dividing by k: − log k is missing."),
        (lambda w: w.logsumexp(0) + math.log(len(w)), "You add log k. Dividing by k is minus log k."),
        (lambda w: w.logsumexp(0) / len(w), "You divide the logarithm by k. The sum is divided: minus log k."),
        (lambda w: w.logsumexp(1) - math.log(w.shape[1]), WRONG_AXIS),
        (
            lambda w: w.flatten().logsumexp(0) - math.log(w.numel()),
            "You put draws and examples into one mean. Each example has a bound of its own: (B,).",
        ),
        *[
            (lambda w, by=by: (w - by(w)).exp().mean(0).log() + by(w), WRONG_SHIFT)
            for by in (torch.max, torch.mean, lambda w: w.mean(0), lambda w: w.amin(0))
        ],
        (lambda w: w.exp().mean(0).log(), UNDERFLOWING),
        (lambda w: w.double().exp().mean(0).log(), UNDERFLOWING),
        (lambda w: (w - w.amax(0)).exp().mean(0).log(), "The largest log-weight was taken out and never put back."),
        (lambda w: w.amax(0), "You take the best draw alone, which may lie above log p(x): a mean over all is meant."),
        (lambda w: iw_bound(w).exp(), "This is the mean of the weights, an estimate of p(x). Its logarithm is asked."),
    ],
)

# ---- free_bits -----------------------------------------------------------------------------------------------------


def free_bits(kl: Tensor, threshold: float) -> Tensor:
    # First the mean over the batch, then the threshold for each latent, then the sum over latents.
    return kl.mean(dim=0).clamp(min=threshold).sum()


def kl_tables(generator: Generator) -> list[tuple[Tensor, float]]:
    def draw(batch: int, n_latents: int, threshold: float, scale: float = 1.0) -> tuple[Tensor, float]:
        per_latent = torch.rand(n_latents, generator=generator).square() * 2  # some carry much, some little
        return scale * per_latent * torch.rand(batch, n_latents, generator=generator) * 2, threshold

    return [
        (torch.tensor([[0.0, 2.0, 0.1], [1.5, 4.0, 0.1]]), 1.0),
        draw(4, 4, 0.5),
        draw(5, 3, 0.25),
        draw(3, 8, 0.5),
        draw(1, 4, 0.3),
        draw(64, 16, 0.5),
        (torch.zeros(3, 5), 0.2),  # collapsed
        draw(6, 4, 0.0),
        draw(4, 2, 0.1, scale=20.0),
        (torch.tensor([[0.9, 0.1, 0.1, 0.1]] * 3), 0.5),  # one latent carries it all
    ]


FREE_BITS = Exercise(
    reference=free_bits,
    statement="Free bits: kl (B, D) holds the KL in nats of each example and latent. The KL term of the loss, a "
    "scalar, when every latent costs at least the number threshold, measured by its mean over the batch.",
    nudge="Three steps: a mean, a threshold, a sum. In which order, so that a latent may cost little for one example "
    "and much for another?",
    right="collapsed latents and gradients included: below the threshold a latent costs the same whatever it does, so "
    "nothing pushes it down further.",
    inputs=kl_tables,
    differentiate=("kl",),
    wrong=[
        (
            lambda kl, least: free_bits(kl.detach(), least),
            "No gradient comes back to the KL, so no latent is pushed, not even one above the threshold. Something "
            "cuts the path: `.item()`, `float`, `detach`, `no_grad` or numpy.",
        ),
        (
            lambda kl, least: kl.clamp(min=least).mean(0).sum(),
            "You apply the threshold to each example, before the mean over the batch. Then a latent is charged for "
            "every example that needs little of it: the mean comes first.",
        ),
        (
            lambda kl, least: kl.sum(1).mean().clamp(min=least),
            "You compare the whole KL with the threshold. It holds for each latent: otherwise one latent uses up the "
            "allowance and the others may collapse.",
        ),
        (
            lambda kl, least: kl.sum(1).mean().clamp(min=least * kl.shape[1]),
            "You compare the whole KL with D thresholds. One latent that carries much then frees the others to "
            "collapse: the threshold holds for each of them.",
        ),
        (
            lambda kl, least: kl.sum(1).clamp(min=least).mean(),
            "You compare the KL of each example, all latents together, with the threshold. It holds for each latent, "
            "after the mean over the batch.",
        ),
        (
            lambda kl, least: kl.mean(0).clamp(max=least).sum(),
            "You take the smaller one (`min`, or `clamp(max=…)`). Then a latent that carries much pays no more for "
            "it; the threshold is the least that it costs.",
        ),
        (
            lambda kl, least: (kl.mean(0) - least).clamp(min=0).sum(),
            "You subtract the threshold. The gradient is the same, but the value is not: a latent within its allowance "
            "costs the threshold, and the loss stays an upper bound of −log p.",
        ),
        (
            lambda kl, least: (kl.mean(0) + least).sum(),
            "You add the threshold to every latent. That changes no gradient, and cures nothing: the larger of the two "
            "is meant.",
        ),
        (
            lambda kl, least: torch.where(kl.mean(0) > least, kl.mean(0), 0.0).sum(),
            "A latent below the threshold costs nothing in yours. It costs the threshold; otherwise the loss jumps by "
            "it as soon as the latent carries more.",
        ),
        (lambda kl, least: kl.mean(0).sum(), "The threshold does not appear: this is the plain KL."),
        (lambda kl, least: kl.mean(0).clamp(min=least).mean(), "You average over the latents. Their KLs add up."),
        (
            lambda kl, least: kl.sum(0).clamp(min=least).sum(),
            "You sum over the batch before the threshold. A larger batch would then meet it more easily: the mean.",
        ),
        (
            lambda kl, least: kl.mean(1).clamp(min=least).sum(),
            "You average over the latents and apply the threshold to examples. Dimension 0 is the batch: mean over it, "
            "threshold for each latent, then the sum.",
        ),
        (
            lambda kl, least: kl.mean().clamp(min=least),
            "You compare the mean over everything with the threshold. It holds for each latent, and the latents' KLs "
            "add up.",
        ),
    ],
)

# ---- active_units --------------------------------------------------------------------------------------------------


def active_units(mu: Tensor, threshold: float) -> Tensor:
    # A latent is used if its mean moves from example to example: the variance over the data, dimension 0.
    return mu.var(dim=0) > threshold


def encoded_data(generator: Generator) -> list[tuple[Tensor, float]]:
    def draw(n: int, spreads: list[float], means: list[float], threshold: float) -> tuple[Tensor, float]:
        eps = torch.randn(n, len(spreads), generator=generator)
        eps = (eps - eps.mean(0)) / eps.std(0)
        return torch.tensor(means) + torch.tensor(spreads) * eps, threshold

    return [
        (torch.tensor([[1.0, 0.5, -1.0], [-1.0, 0.5, 1.0], [1.0, 0.6, 0.0], [-1.0, 0.4, 0.5]]), 0.1),
        draw(4, [1.0, 0.05, 0.5, 0.001], [0.0, 0.0, 2.0, 3.0], 0.01),
        draw(50, [0.05, 1.0, 0.0, 0.2, 0.9], [0.0, 0.0, 0.3, 1.0, -1.0], 0.01),
        draw(20, [0.7, 0.3, 0.6], [0.0, 1.5, -1.5], 0.3),
        draw(500, [0.02, 0.05, 0.15, 0.8, 0.001, 0.011], [0.0, -2.0, 0.0, 0.05, 0.0, 0.05], 0.01),
        draw(100, [0.5, 0.05], [0.0, 0.0], 0.01),
        draw(30, [2.0, 3.0, 0.5], [0.0, 5.0, 5.0], 2.0),
        (torch.full((6, 4), 0.5), 0.01),  # every posterior is the same: all collapsed
        draw(40, [0.05, 0.5] * 4, [3000.0, -4000.0] * 4, 0.01),  # so far from 0 that mu² swallows the variance
    ]


def mask_of(statistic: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    return lambda mu, threshold: statistic(mu) > threshold


ACTIVE_UNITS = Exercise(
    reference=active_units,
    statement="Which latents are in use: from mu (N, D), the means of q(z|x) of N examples, True for each latent whose "
    "mean has a variance over the data above threshold, which is a variance, too, and above 0. (D,).",
    nudge="A collapsed latent has the same posterior for every x. Which number of its column in mu is then 0?",
    right="latents that lie far from 0 and never move included: they are the same for every x, and say nothing of it.",
    inputs=encoded_data,
    wrong=[
        (
            lambda mu, least: mu.var(1) > least,
            "You take the variance over the latents of one example, dimension 1. The question is whether a latent "
            "moves from example to example: dimension 0.",
        ),
        (
            mask_of(lambda mu: mu.std(0)),
            "You compare the standard deviation (or the variance with the squared threshold). The threshold is one of "
            "variances, and below 1 the root is larger.",
        ),
        (
            mask_of(lambda mu: mu.mean(0).abs()),
            "You compare the size of the latent's mean. One that sits far from 0 and never moves says nothing of x; "
            "one that moves around 0 does.",
        ),
        (
            mask_of(lambda mu: mu.square().mean(0) - mu.mean(0).square()),
            "E[mu²] − E[mu]² is the variance on paper. Where mu lies far from 0 it is a small difference of large "
            "numbers, and rounding decides: subtract the mean first, then square, or call `var`.",
        ),
        (mask_of(lambda mu: mu.mean(0)), "You compare the latent's mean. Whether it moves is told by its variance."),
        (
            mask_of(lambda mu: mu.square().mean(0)),
            "You compare the mean of mu². That is large for a latent that sits far from 0 without moving: subtract the "
            "mean first, as the variance does.",
        ),
        (mask_of(lambda mu: (mu - mu.mean(0)).square().sum(0)), "You compare the sum of squares. Divide it by N."),
        (lambda mu, least: mu.var() > least, "This is one variance of all numbers. Each latent has its own: dim=0."),
        (lambda mu, least: active_units(mu, least).sum(), "This is how many are in use. Which ones is asked, (D,)."),
        (lambda mu, least: active_units(mu, least).float().mean(), "This is the share in use. Which ones is asked."),
        (lambda mu, least: mu.var(0), "These are the variances. Compare them with the threshold."),
        (
            lambda mu, least: active_units(mu, least).nonzero().flatten(),
            "These are the places of the active ones. True or False for each latent is asked, (D,).",
        ),
    ],
)

# ---- spherical_interpolation ---------------------------------------------------------------------------------------


def spherical_interpolation(a: Tensor, b: Tensor, t: float) -> Tensor:
    # ω is the angle between the directions of a and b. Shoemake 1985. As ω → 0 the weights become 1 − t and t.
    cosine = a.double() @ b.double() / (a.double().norm() * b.double().norm())  # acos loses half of the digits near ±1
    omega = cosine.clamp(-1, 1).acos()
    if not omega.sin() > 1e-6:  # parallel or opposite, or one of them 0: no plane to turn in
        return (1 - t) * a + t * b
    return (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / omega.sin()


Cosine = Callable[[Tensor, Tensor], Tensor]
COSINES = [
    lambda a, b: a @ b / (a.norm() * b.norm()),
    lambda a, b: (a / a.norm()) @ (b / b.norm()),
    lambda a, b: cosine_similarity(a, b, dim=0),
]


def ends_of_arcs(generator: Generator) -> list[tuple[Tensor, Tensor, float]]:
    def draw(n_latents: int, t: float, scale: float = 1.0) -> tuple[Tensor, Tensor, float]:
        a, b = (torch.randn(n_latents, generator=generator) for _ in range(2))
        return a, scale * b, t

    def parallel(n_latents: int, cosine: Cosine, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
        """Vectors whose cosine is rounded to a number above 1, as that of every fifth pair is."""
        a = torch.randn(n_latents, generator=generator)
        while cosine(a.to(dtype), 2 * a.to(dtype)) <= 1:
            a = torch.randn(n_latents, generator=generator)
        return a, 2 * a, 0.25

    a = torch.randn(4, generator=generator)
    return [
        (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 1 / 3),  # a right angle
        (torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8]), 0.5),
        draw(2, 0.25),
        draw(3, 0.7, scale=3.0),  # of different lengths
        draw(16, 0.4),
        draw(64, 0.5, scale=0.5),
        draw(8, 0.0),
        draw(8, 1.0),
        (torch.tensor([0.6, 0.8, 0.0]), torch.tensor([-0.8, 0.5, 0.1]), 0.1),
        (torch.tensor([0.1, 0.02]), torch.tensor([0.09, 0.05]), 0.3),  # short
        (a, a + 0.3 * torch.randn(4, generator=generator), 0.6),
        (torch.tensor([2.0, 0.0, 0.0]), torch.tensor([6.0, 0.0, 0.0]), 0.25),  # parallel
        (torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), 0.5),  # the same
        *[parallel(n, *by) for n in (3, 16) for by in product(COSINES, (torch.float32, torch.float64))],
    ]


def angle(a: Tensor, b: Tensor) -> Tensor:
    return cosine_similarity(a, b, dim=0).clamp(-1, 1).acos()


def straight(a: Tensor, b: Tensor, t: float) -> Tensor:
    return (1 - t) * a + t * b


def arc_weights(omega: Tensor, t: float) -> tuple[Tensor, Tensor]:
    return ((1 - t) * omega).sin() / omega.sin(), (t * omega).sin() / omega.sin()


def slerp(of: Cosine = angle, weights: Callable[[Tensor, float], tuple] = arc_weights) -> Callable[..., Tensor]:
    """Another angle than that between a and b, or other weights; the straight line where they are parallel."""

    def interpolate(a: Tensor, b: Tensor, t: float) -> Tensor:
        if angle(a, b) < 1e-3:
            return straight(a, b, t)
        of_a, of_b = weights(of(a, b), t)
        return of_a * a + of_b * b

    return interpolate


def without_clamp(cosine: Cosine, a: Tensor, b: Tensor, t: float) -> Tensor:
    omega = cosine(a, b).acos()
    return straight(a, b, t) if omega.sin() < 1e-3 else without_parallel(cosine, a, b, t)


def without_parallel(cosine: Cosine, a: Tensor, b: Tensor, t: float) -> Tensor:
    of_a, of_b = arc_weights(cosine(a, b).acos(), t)
    return of_a * a + of_b * b


def with_small_constant(a: Tensor, b: Tensor, t: float) -> Tensor:
    omega = angle(a, b)
    return (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / (omega.sin() + 1e-8)


def by_product(a: Tensor, b: Tensor, t: float, *, angle: Callable[[Tensor], Tensor], least: float) -> Tensor:
    """a·b in the place of the cosine; the straight line for angles up to `least`."""
    omega = angle(a @ b)
    of_a, of_b = (1 - t, t) if omega <= least else arc_weights(omega, t)
    return of_a * a + of_b * b


NOT_OF_LENGTH_ONE = (
    "You take acos of a·b without dividing by the lengths. That is the angle only where both have length 1; divide "
    "each by its norm first."
)
NOT_CLAMPED = (
    "acos of a cosine that rounding has brought above 1 is {yours}: that happens to parallel vectors. `.clamp(-1, 1)` "
    "comes before it."
)
NOT_STRAIGHT = (
    "Right until a and b are parallel: sin ω is 0 there (or the cosine is rounded above 1), and you get {yours}. As "
    "ω → 0 the weights become 1 − t and t, the straight line."
)
OF_LENGTH_ONE = (
    "You give a vector of length 1: only the direction is right. Normalise for the angle; the weights are applied to a "
    "and b as they are."
)

SPHERICAL_INTERPOLATION = Exercise(
    reference=spherical_interpolation,
    statement="Spherical interpolation from a to b, (D,) each, at the number t in [0, 1] (Shoemake 1985): the weighted "
    "sum of a and b whose weights, for vectors of the same length, turn a towards b by t times the angle ω between "
    "them. The same weights serve where the lengths differ; parallel vectors are joined by the straight line. Neither "
    "is 0, and they are never opposite.",
    nudge="ω is the angle between the directions, a/|a| and b/|b|. At t the arc has turned by tω, and (1 − t)ω are "
    "left: write the point as a combination of a and b, with sines.",
    right="parallel vectors included. Between ends of the same length it keeps that length; the straight line passes "
    "nearer to 0, where a prior of many latents puts hardly any z.",
    inputs=ends_of_arcs,
    atol=1e-4,  # acos loses half of the digits where the vectors are nearly parallel
    rtol=1e-3,
    wrong=[
        (straight, "This is the straight line. It passes nearer to 0 than the ends do: turn instead."),
        (partial(by_product, angle=lambda product: product.acos(), least=-1.0), NOT_OF_LENGTH_ONE),
        (partial(by_product, angle=lambda product: product.clamp(-1, 1).acos(), least=-1.0), NOT_OF_LENGTH_ONE),
        (partial(by_product, angle=lambda product: product.clamp(-1, 1).acos(), least=1e-4), NOT_OF_LENGTH_ONE),
        (slerp(lambda a, b: (a @ b / a.norm()).clamp(-1, 1).acos()), "You divide a·b by one length alone, not both."),
        (slerp(lambda a, b: cosine_similarity(a, b, dim=0)), "You take the cosine for the angle, which is acos of it."),
        (slerp(lambda a, b: angle(a, b).rad2deg()), "Your angle is in degrees, and `sin` takes radians."),
        (slerp(lambda a, b: cosine_similarity(a, b, dim=0).clamp(-1, 1).asin()), "The angle is acos of the cosine."),
        (lambda a, b, t: spherical_interpolation(a, b, 1 - t), "t and 1 − t are exchanged: yours begins with b."),
        (lambda a, b, t: spherical_interpolation(normalize(a, dim=0), normalize(b, dim=0), t), OF_LENGTH_ONE),
        (lambda a, b, t: normalize(spherical_interpolation(a, b, t), dim=0), OF_LENGTH_ONE),
        (lambda a, b, t: normalize(straight(a, b, t), dim=0), OF_LENGTH_ONE + " And yours is the straight line's."),
        (
            lambda a, b, t: normalize(straight(a, b, t), dim=0) * ((1 - t) * a.norm() + t * b.norm()),
            "You stretch the straight line to the length of the arc. It then turns fast in the middle and slowly at "
            "the ends: the weights are those of sines, (1 − t)ω and tω.",
        ),
        (slerp(weights=lambda o, t: (((1 - t) * o).sin(), (t * o).sin())), "The division by sin ω is missing."),
        (
            slerp(weights=lambda o, t: (((1 - t) * o).sin() / o, (t * o).sin() / o)),
            "You divide by ω. The weights are divided by sin ω, so that at t = 0 the weight of a is 1.",
        ),
        (
            slerp(weights=lambda o, t: ((t * o).cos(), (t * o).sin())),
            "cos(tω) a + sin(tω) b is an arc only where b stands at a right angle to a. For other angles: sines of "
            "(1 − t)ω and tω over sin ω.",
        ),
        (
            lambda a, b, t: math.cos(t * math.pi / 2) * a + math.sin(t * math.pi / 2) * b,
            "You always turn by a right angle, as two draws of many latents nearly do. The angle of these a and b is "
            "what counts: it does not appear.",
        ),
        (
            lambda a, b, t: math.sqrt(1 - t) * a + math.sqrt(t) * b,
            "√(1 − t) and √t keep the length of vectors at a right angle. The angle of these a and b does not appear, "
            "and the turn is not even.",
        ),
        *[(partial(without_clamp, cosine), NOT_CLAMPED) for cosine in COSINES],
        *[(partial(without_parallel, cosine), NOT_STRAIGHT) for cosine in COSINES],
        (with_small_constant, "A small constant in the denominator makes {yours} of parallel vectors."),
        (
            lambda a, b, t: a if angle(a, b) < 1e-3 else spherical_interpolation(a, b, t),
            "Where a and b are parallel you return a. They may differ in length: take the straight line there.",
        ),
    ],
)

# ---- attribute_vector ----------------------------------------------------------------------------------------------


def attribute_vector(z: Tensor, has: Tensor) -> Tensor:
    # From the mean of those without the attribute to the mean of those with it.
    return z[has].mean(dim=0) - z[~has].mean(dim=0)


def labelled_latents(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n: int, n_latents: int, n_with: int) -> tuple[Tensor, Tensor]:
        has = torch.zeros(n, dtype=torch.bool)
        has[torch.randperm(n, generator=generator)[:n_with]] = True
        z = torch.randn(n, n_latents, generator=generator)
        return z + 1.5 * has[:, None] * torch.randn(n_latents, generator=generator) + 0.5, has

    return [
        (torch.tensor([[1.0, 2.0], [3.0, 2.0], [-1.0, 1.0], [0.0, 1.0]]), torch.tensor([True, True, False, True])),
        draw(4, 4, 2),
        draw(6, 3, 1),
        draw(7, 2, 5),
        draw(100, 8, 30),
        draw(31, 5, 16),
        draw(9, 4, 8),
    ]


def of_groups(statistic: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, has: statistic(z[has]) - statistic(z[~has])


ATTRIBUTE_VECTOR = Exercise(
    reference=attribute_vector,
    statement="The direction (D,) in which z has to be moved to give an image an attribute: from latents z (N, D) and "
    "has (N,), True where an image has it. Added to the z of images without it, it should on average give those with "
    "it.",
    nudge="Two groups of latents, with and without. Where does the middle of each lie, and which way leads from one to "
    "the other?",
    right="rare attributes included. Each group counts by its own mean, however many it holds; what both share "
    "cancels.",
    inputs=labelled_latents,
    wrong=[
        (
            lambda z, has: z[has].mean(0) - z.mean(0),
            "You subtract the mean of all images. The attribute is partly in there already, so the step is too short: "
            "subtract the mean of those without it.",
        ),
        (
            lambda z, has: z.mean(0) - z[~has].mean(0),
            "You begin with the mean of all images. Those without the attribute are in there as well, so the step is "
            "too short: the mean of those with it.",
        ),
        (of_groups(lambda z: z.sum(0)), "These are sums: the larger group wins. Each group counts by its mean."),
        (
            lambda z, has: (z[has].sum(0) - z[~has].sum(0)) / len(z),
            "You divide both sums by N (a mean over rows set to 0 does that, too). Each group has a size of its own: "
            "`z[has]` picks its rows.",
        ),
        (
            of_groups(lambda z: z.median(0).values),
            "You take medians. On average z + v should land on the other group: that is the difference of means.",
        ),
        (
            lambda z, has: normalize(attribute_vector(z, has), dim=0),
            "You cut it to length 1. How far the groups lie apart is part of the answer: a full step adds the "
            "attribute once.",
        ),
        (lambda z, has: attribute_vector(z, has) / 2, "This is half of the way from one mean to the other."),
        (lambda z, has: z[has].mean(0), "This is the mean of those with it. Subtract the mean of the others."),
        (lambda z, has: z[has].mean(0) + z[~has].mean(0), "You add the means. Their difference is what leads across."),
        (
            lambda z, has: z[has.long()].mean(0) - z[1 - has.long()].mean(0),
            "has was made a number, so it picks rows 0 and 1 again and again. As bool it picks the rows where it is "
            "True.",
        ),
        (
            lambda z, has: ((z - z.mean(0)) * (has.float() - has.float().mean())[:, None]).mean(0),
            "This is the covariance of z with the attribute. Divided by the variance of `has` it would be the "
            "difference of means; without, rare attributes look small.",
        ),
    ],
)

# ---- importance_mean -----------------------------------------------------------------------------------------------


def importance_mean(log_w: Tensor, values: Tensor) -> Tensor:
    # Each draw counts by its share w_i / Σ_j w_j among the k of its example: a softmax of the log-weights over draws.
    share = log_w.softmax(dim=0)  # (k, B)
    return (share[:, :, None] * values).sum(dim=0)


def weighted_draws(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(k: int, batch: int, n_features: int, shift: float = -1.0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        log_w = scale * torch.randn(k, batch, generator=generator) + shift
        return log_w, torch.rand(k, batch, n_features, generator=generator)

    return [
        (torch.tensor([[0.25], [0.75]]).log() - 1, torch.tensor([[[4.0, 0.0]], [[8.0, 1.0]]])),
        draw(4, 4, 4),
        draw(5, 3, 2),
        draw(1, 3, 2),  # one draw counts whole, whatever its weight
        (torch.full((4, 2), -3.0), torch.rand(4, 2, 3, generator=generator)),  # all count the same
        draw(50, 10, 16, scale=3.0),
        draw(6, 3, 2, shift=-2000.0),
        draw(6, 3, 2, shift=500.0),
        (torch.tensor([[0.0, -2000.0], [-1.0, -2001.0]]), torch.rand(2, 2, 3, generator=generator)),  # far apart
        (
            torch.tensor([[-1000.0, 500.0, -2.0], [0.0, -2000.0, -math.inf], [-3000.0, 2.0, -1.0]]),
            torch.rand(3, 3, 2, generator=generator),
        ),
    ]


def by_shares(share: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Σ_i share(log_w)_i values_i."""
    return lambda log_w, values: (share(log_w)[:, :, None] * values).sum(0)


def shares_shifted(log_w: Tensor, by: Callable[[Tensor], Tensor], small: float = 0.0) -> Tensor:
    w = (log_w - by(log_w)).exp()
    return w / (w.sum(0) + small)


UNDERFLOWING_SHARES = (
    "Right for small log-weights; exp underflows to 0 at −2000 nats (or overflows), and 0/0 makes {yours}. `softmax` "
    "takes the largest out first, which changes no share."
)

IMPORTANCE_MEAN = Exercise(
    reference=importance_mean,
    statement="Importance resampling: k draws for each of B examples, log_w (k, B) their log-weights up to a constant "
    "of each example, numbers of some thousands or −inf, values (k, B, D) what each draw stands for, such as pixels. "
    "The self-normalised mean of the values, (B, D).",
    nudge="The weights are known up to a factor for each example, which is why they have to be divided by something. "
    "By what, so that draws that all agree on a value give that value?",
    right="log-weights of −2000 included. A constant added to the log-weights of an example changes nothing.",
    inputs=weighted_draws,
    atol=5e-4,  # float32 keeps four decimals of 2000
    rtol=1e-3,
    wrong=[
        (
            by_shares(torch.exp),
            "The weights are not normalised: draws that all agree on a value would not give that value. Divide by the "
            "sum of the weights of the same example.",
        ),
        (by_shares(lambda w: w.exp() / len(w)), "You average w · value. Divide by the sum of the weights, not by k."),
        (lambda w, x: x.mean(0), "The weights do not appear: a draw that explains nothing of x counts as much as any."),
        (
            by_shares(lambda w: w.softmax(1)),
            "Your weights sum to 1 over the examples, dimension 1. The k draws of one example, dimension 0, share "
            "its 1.",
        ),
        (
            by_shares(lambda w: w.flatten().softmax(0).view_as(w)),
            "Your weights sum to 1 over the whole table. Each example shares out its own 1 among its k draws, "
            "dimension 0.",
        ),
        *[
            (by_shares(lambda w, by=by: shares_shifted(w, by)), WRONG_SHIFT)
            for by in (torch.max, torch.mean, lambda w: w.mean(0), lambda w: w.amin(0))
        ],
        *[(by_shares(lambda w, c=small: shares_shifted(w, torch.max, c)), WRONG_SHIFT) for small in SMALL],
        (by_shares(lambda w: w.exp() / w.exp().sum(0)), UNDERFLOWING_SHARES),
        (by_shares(lambda w: w.double().exp() / w.double().exp().sum(0)), UNDERFLOWING_SHARES),
        *[
            (
                by_shares(lambda w, c=small: w.exp() / (w.exp().sum(0) + c)),
                "A small constant in the denominator: where all weights underflow, the mean becomes {yours}. Take the "
                "largest log-weight out first (`softmax`), and no constant is needed.",
            )
            for small in SMALL
        ],
        (
            by_shares(lambda w: w / w.sum(0)),
            "You share out the log-weights themselves, without exp. Their constant is arbitrary, so these shares mean "
            "nothing; the larger in size, the less a draw explains.",
        ),
        (by_shares(lambda w: (-w).softmax(0)), "The sign of the log-weights is turned: the worst draw counts most."),
        (
            by_shares(lambda w: w.softmax(0) / len(w)),
            "You normalise and then divide by k again (a `mean` in the place of a `sum`). The shares sum to 1 already.",
        ),
        (by_shares(lambda w: one_hot(w.argmax(0), len(w)).T), "You take the best draw alone. Every draw counts."),
        (lambda w, x: (w.softmax(0)[:, :, None] * x).sum(1), "You sum over the examples. Draws lie along dimension 0."),
        (lambda w, x: w.softmax(0)[:, :, None] * x, "These are the weighted draws. Their sum over the draws is asked."),
        (lambda w, x: w.softmax(0), "These are the shares of the draws, (k, B). Weigh the values with them."),
    ],
)

# ---- straight_through ----------------------------------------------------------------------------------------------


def straight_through(z: Tensor, code: Tensor) -> Tensor:
    # Forward: the code. Backward: code − z is a constant, so the gradient goes to z as if nothing had been replaced.
    return z + (code - z).detach()


def quantised(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n: int, n_features: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(n, n_features, generator=generator)
        return z, z.round() + 0.25

    z, _ = draw(3, 2)
    return [
        (torch.tensor([[0.25, 1.5], [-1.0, 0.5]]), torch.tensor([[0.0, 1.0], [-1.0, 1.0]])),
        draw(4, 4),
        draw(5, 2),
        draw(1, 3),
        (z, z.clone()),  # on its code already
        draw(64, 8),
    ]


NO_WAY_BACK_TO_Z = (
    "No gradient comes back to z; all of it goes to the code. The choice of the nearest code has no derivative, so the "
    "encoder would learn nothing: the gradient has to skip it, and go to z as if z had been passed on."
)
ALSO_TO_THE_CODE = (
    "The gradient goes to z, as it should, and to the code as well. The codes learn from a term of their own; `detach` "
    "ends the code's path here."
)
TURNED_AND_ALSO_TO_THE_CODE = (
    "The gradient comes back to z with the wrong sign, and goes to the code as well: the wrong z is held fast. In "
    "z + (code − z) that is the bracket; the z in front of it stays free."
)
VALUE_OF_Z = (
    "Your value is z, and the decoder has to see the code. Begin with z and add what is missing, code − z, held fast; "
    "in code + (z − code) the two are exchanged."
)

STRAIGHT_THROUGH = Exercise(
    reference=straight_through,
    statement="The straight-through estimator of a vector-quantised VAE: from z and its nearest code, (N, D) each, the "
    "value of the code, with the gradient going back to z unchanged and to the code not at all.",
    nudge="Write the code as z + (code − z). Which part may let a gradient through, and which one has to be held fast "
    "(`detach`)?",
    right="gradients included: forwards it is the code, backwards it looks like z.",
    inputs=quantised,
    differentiate=("z", "code"),
    wrong=[
        (lambda z, code: code * 1, NO_WAY_BACK_TO_Z),
        (lambda z, code: z + (code - z), NO_WAY_BACK_TO_Z),
        (
            lambda z, code: code.detach(),
            "No gradient comes back at all: either `detach` (or `no_grad`) is around everything, or z is added and "
            "taken away again, so that it cancels. Hold code − z fast as a whole, z inside it as well, and leave the "
            "z in front of it free.",
        ),
        (lambda z, code: z + code - z.detach(), ALSO_TO_THE_CODE),
        (
            lambda z, code: code.detach() + z.detach() - z,
            "The gradient comes back to z with the wrong sign: z is subtracted, and its detached copy added. The other "
            "way round.",
        ),
        (lambda z, code: code + z.detach() - z, TURNED_AND_ALSO_TO_THE_CODE),
        (lambda z, code: z.detach() + (code - z), TURNED_AND_ALSO_TO_THE_CODE),
        (lambda z, code: 2 * z + (code - 2 * z).detach(), "The gradient comes back to z doubled. It passes unchanged."),
        (lambda z, code: z * 1, VALUE_OF_Z),
        (lambda z, code: code + (z - code).detach(), VALUE_OF_Z),
        (lambda z, code: z - (code - z).detach(), "You subtract code − z, and land on the other side of z."),
        (lambda z, code: code - z, "This is the way from z to the code. Start from z: z + (code − z)."),
    ],
)

EXERCISES = [
    LEVEL_PROBABILITY,
    IW_BOUND,
    FREE_BITS,
    ACTIVE_UNITS,
    SPHERICAL_INTERPOLATION,
    ATTRIBUTE_VECTOR,
    IMPORTANCE_MEAN,
    STRAIGHT_THROUGH,
]
