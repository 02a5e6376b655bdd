"""Exercises of notebook 05: a likelihood for grey pixels, tighter bounds, collapse, editing in the space of latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn.functional import cosine_similarity, normalize, one_hot

from dgm_lib.exercises.engine import Exercise

# ---- level_probability ---------------------------------------------------------------------------------------------


def level_probability(loc: Tensor, scale: Tensor, k: Tensor, levels: int) -> Tensor:
    # The logistic distribution function at both edges of the level's bin; the outermost bins reach to −∞ and ∞.
    below = torch.sigmoid(((k - 0.5) / (levels - 1) - loc) / scale)
    above = torch.sigmoid(((k + 0.5) / (levels - 1) - loc) / scale)
    below = torch.where(k == 0, 0.0, below)
    above = torch.where(k == levels - 1, 1.0, above)
    return above - below


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


def normalised_densities(loc: Tensor, scale: Tensor, k: Tensor, levels: int) -> Tensor:
    every = logistic_density(loc[..., None], scale[..., None], torch.arange(levels) / (levels - 1))
    return logistic_density(loc, scale, k / (levels - 1)) / every.sum(-1)


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
        (
            between(bin_of, last=False, by=torch.sigmoid),
            "The upper tail is missing: the last level takes everything above its lower edge.",
        ),
        (
            between(bin_of, first=False, by=torch.sigmoid),
            "The lower tail is missing: level 0 takes everything below its upper edge.",
        ),
        (
            lambda loc, scale, k, levels: logistic_density(loc, scale, k / (levels - 1)) / (levels - 1),
            "This is the density at the level times the width of the bin. It comes near where the curve is flat; a "
            "probability is the difference of the distribution function at the bin's edges, tails included.",
        ),
        (
            lambda loc, scale, k, levels: logistic_density(loc, scale, k / (levels - 1)),
            "This is a density, {yours}, which may be above 1. The probability of a level is the difference of the "
            "distribution function at the edges of its bin.",
        ),
        (
            normalised_densities,
            "You divide the densities at the levels by their sum. They sum to 1 then, but a probability is the area "
            "over the bin, and what lies beyond black or white belongs to the ends.",
        ),
        (
            lambda loc, scale, k, levels: ((k / (levels - 1) - loc) / scale).sigmoid(),
            "This is the probability of level k or less, up to half a bin. Subtract what lies below the bin.",
        ),
        (
            lambda loc, scale, k, levels: torch.where(
                k == levels - 1, 1.0, (((k + 0.5) / (levels - 1) - loc) / scale).sigmoid()
            ),
            "This is the probability of level k or any lower one. Subtract what lies below the bin.",
        ),
        (between(lambda k, levels: (k / (levels - 1), (k + 1) / (levels - 1)), by=torch.sigmoid), HALF_A_BIN),
        (between(lambda k, levels: ((k - 1) / (levels - 1), k / (levels - 1)), by=torch.sigmoid), HALF_A_BIN),
        (between(lambda k, levels: (k / (levels - 1), (k + 0.5) / (levels - 1)), by=torch.sigmoid), HALF_A_BIN),
        (between(lambda k, levels: ((k - 1) / (levels - 1), (k + 1) / (levels - 1)), by=torch.sigmoid), TOO_WIDE),
        (
            between(lambda k, levels: (k / (levels - 1) - 1 / levels, k / (levels - 1) + 1 / levels), by=torch.sigmoid),
            TOO_WIDE,
        ),
        (
            between(lambda k, levels: ((k - 0.5) / levels, (k + 0.5) / levels), by=torch.sigmoid),
            "You put level k at k/levels. The brightest level is levels − 1 and lies at 1: divide by levels − 1.",
        ),
        (
            between(
                lambda k, levels: (k / (levels - 1) - 0.5 / levels, k / (levels - 1) + 0.5 / levels), by=torch.sigmoid
            ),
            "Your bins are 1/levels wide, and the levels lie 1/(levels − 1) apart: there are gaps between the bins.",
        ),
        (
            between(lambda k, levels: (k / levels, (k + 1) / levels), by=torch.sigmoid),
            "You cut [0, 1] into equal bins, k/levels to (k + 1)/levels. Here black lies at 0 and white at 1, in the "
            "middle of their bins.",
        ),
        (
            between(lambda k, levels: (k - 0.5, k + 0.5), by=torch.sigmoid),
            IN_LEVELS,
        ),
        (
            between(lambda k, levels: (k - 0.5, k + 0.5), first=False, last=False, by=torch.sigmoid),
            IN_LEVELS + " And the tails are missing.",
        ),
        (
            lambda loc, scale, k, levels: level_probability(loc, scale / (levels - 1), k, levels),
            "You count in levels and have turned loc into levels, but scale is left in pixels: it takes the factor "
            "levels − 1 as well.",
        ),
        (
            between(lambda k, levels: (k / (levels - 1) - 0.5, k / (levels - 1) + 0.5), by=torch.sigmoid),
            "You take ½ for half a level. In the unit of pixels levels lie 1/(levels − 1) apart, and half a level is "
            "half of their distance: 1/(2 (levels − 1)).",
        ),
        (
            between(bin_of, by=lambda u: torch.special.ndtr(u)),
            "You use the Gaussian's distribution function. The logistic's is the sigmoid.",
        ),
        (
            between(bin_of, by=lambda u: (u.tanh() + 1) / 2),
            "Your curve is twice too steep: (1 + tanh u)/2 is σ(2u).",
        ),
        (
            lambda loc, scale, k, levels: level_probability(loc, 1 / scale, k, levels),
            "You multiply by the scale. A wide distribution has a large scale: distances are divided by it.",
        ),
        (
            lambda loc, scale, k, levels: level_probability(loc, scale.square(), k, levels),
            "You divide by scale². The scale is a width, like a standard deviation and unlike a variance.",
        ),
        (
            lambda loc, scale, k, levels: level_probability(loc, scale.exp(), k, levels),
            "You take exp of the scale. It is the scale itself here, not its logarithm.",
        ),
        (
            lambda loc, scale, k, levels: level_probability(loc, torch.ones_like(scale), k, levels),
            "scale does not appear: distances from loc are divided by it.",
        ),
        (
            lambda loc, scale, k, levels: -level_probability(loc, scale, k, levels),
            "The sign is turned: the upper edge comes first, then what lies below is subtracted.",
        ),
        (
            lambda loc, scale, k, levels: level_probability(loc, scale, k, levels).log(),
            "This is the logarithm of the probability. The probability itself is asked.",
        ),
        (
            lambda loc, scale, k, levels: level_probability(loc, scale, levels - 1 - k, levels),
            "Levels run the wrong way, or the two tails are exchanged: level 0 is the darkest.",
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
    ]


ONE_MAXIMUM = (
    "You take out the largest log-weight of the whole table before exp. An example whose draws all lie far below it "
    "underflows to 0, and you get {yours}: take the largest of each example, not of the whole batch (over dimension 0)."
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
    "of k draws of z.",
    nudge="The weights average p(x). So the bound is a logarithm of a mean: which of the two comes first?",
    right="log-weights of −2000 nats included. For k = 1 it is the ELBO; in the mean it rises with k, towards "
    "log p(x).",
    inputs=log_weights,
    atol=1e-3,  # float32 keeps four decimals of 2000
    rtol=1e-5,
    wrong=[
        (
            lambda log_w: log_w.mean(0),
            "This is the mean of the logarithms: the ELBO, estimated with k draws. More draws make it less noisy and "
            "no tighter. The mean comes first, then the logarithm.",
        ),
        (
            lambda log_w: log_w.logsumexp(0),
            "You sum the weights without dividing by k: − log k is missing, and your bound may lie above log p(x).",
        ),
        (
            lambda log_w: log_w.logsumexp(0) + math.log(len(log_w)),
            "You add log k. A mean divides the sum by k; in logarithms that is minus log k.",
        ),
        (
            lambda log_w: log_w.logsumexp(0) / len(log_w),
            "You divide the logarithm by k. The sum is divided by k, so log k is subtracted from its logarithm.",
        ),
        (
            lambda log_w: log_w.logsumexp(0) - len(log_w),
            "You subtract k. Among logarithms, dividing by k is subtracting log k.",
        ),
        (
            lambda log_w: log_w.logsumexp(0) - math.log(log_w.shape[1]),
            "You subtract log B, the size of the batch. The mean is over the k draws.",
        ),
        (lambda log_w: log_w.logsumexp(1) - math.log(log_w.shape[1]), WRONG_AXIS),
        (lambda log_w: log_w.logsumexp(1) - math.log(len(log_w)), WRONG_AXIS),
        (lambda log_w: log_w.logsumexp(1), WRONG_AXIS + " And no size is divided by."),
        (lambda log_w: log_w.mean(1), WRONG_AXIS + " And yours is the mean of logarithms."),
        (
            lambda log_w: log_w.flatten().logsumexp(0) - math.log(log_w.numel()),
            "You put draws and examples into one mean. Each example has a bound of its own: (B,).",
        ),
        (
            lambda log_w: iw_bound(log_w).mean(),
            "This is the mean over the batch. One bound for each example is asked, (B,).",
        ),
        (
            lambda log_w: -iw_bound(log_w),
            "The sign is turned: this is the loss. The bound itself is asked.",
        ),
        (lambda log_w: (log_w - log_w.max()).exp().mean(0).log() + log_w.max(), ONE_MAXIMUM),
        (lambda log_w: log_w.exp().mean(0).log(), UNDERFLOWING),
        (lambda log_w: log_w.double().exp().mean(0).log(), UNDERFLOWING),
        *[
            (
                lambda log_w, small=small: (log_w.exp().mean(0) + small).log(),
                "A small constant inside the logarithm decides alone where all weights are smaller, and you get "
                "{yours}. Take the largest log-weight out of the sum first, and no constant is needed.",
            )
            for small in (1e-6, 1e-8, 1e-10, 1e-12, 1e-20, 1e-30)
        ],
        (
            lambda log_w: (log_w - log_w.amax(0)).exp().mean(0).log(),
            "The largest log-weight was taken out of the sum and never put back: add it after the logarithm.",
        ),
        (
            lambda log_w: (log_w - log_w.max()).exp().mean(0).log(),
            "The largest log-weight was taken out of the sum and never put back: add it after the logarithm. And take "
            "the largest of each example, not of the whole batch.",
        ),
        (
            lambda log_w: log_w.amax(0),
            "You take the best draw alone. That is above the bound by up to log k, and may lie above log p(x): a mean "
            "over all k is meant.",
        ),
        (
            lambda log_w: log_w.amax(0) - math.log(len(log_w)),
            "You take the best draw in the place of the sum. The other weights count too: logsumexp.",
        ),
        (
            lambda log_w: (log_w.softmax(0) * log_w).sum(0),
            "You weigh the logarithms with their softmax. That is an average of log-weights which favours the good "
            "draws, and no bound: the weights themselves are averaged, each with 1/k.",
        ),
        (
            lambda log_w: iw_bound(log_w).exp(),
            "This is the mean of the weights, an estimate of p(x). Its logarithm is asked.",
        ),
        (
            lambda log_w: -((-log_w).logsumexp(0) - math.log(len(log_w))),
            "You average 1/w. The weights themselves average p(x): exp(+log_w).",
        ),
        (
            lambda log_w: log_w.quantile(0.5, dim=0),
            "You take the median. Only the mean of the weights is unbiased for p(x): the rare large ones count.",
        ),
        (
            lambda log_w: iw_bound(log_w) / math.log(2),
            "Yours is in bits: 1.4427 times the reference. Take the natural logarithm for nats.",
        ),
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
            lambda kl, threshold: free_bits(kl.detach(), threshold),
            "No gradient comes back to the KL, so no latent is pushed, not even one above the threshold. Something "
            "cuts the path: `.item()`, `float`, `detach`, `no_grad` or numpy.",
        ),
        (
            lambda kl, threshold: kl.clamp(min=threshold).mean(0).sum(),
            "You apply the threshold to each example, before the mean over the batch. Then a latent is charged for "
            "every example that needs little of it: the mean comes first.",
        ),
        (
            lambda kl, threshold: kl.clamp(min=threshold).sum(),
            "You apply the threshold to each example, and sum over the batch. The mean over the batch comes first.",
        ),
        (
            lambda kl, threshold: kl.sum(1).mean().clamp(min=threshold),
            "You compare the whole KL with the threshold. It holds for each latent: otherwise one latent uses up the "
            "allowance and the others may collapse.",
        ),
        (
            lambda kl, threshold: kl.sum(1).mean().clamp(min=threshold * kl.shape[1]),
            "You compare the whole KL with D thresholds. One latent that carries much then frees the others to "
            "collapse: the threshold holds for each of them.",
        ),
        (
            lambda kl, threshold: kl.sum(1).clamp(min=threshold).mean(),
            "You compare the KL of each example, all latents together, with the threshold. It holds for each latent, "
            "after the mean over the batch.",
        ),
        (
            lambda kl, threshold: kl.mean(0).clamp(max=threshold).sum(),
            "You take the smaller one (`min`, or `clamp(max=…)`). Then a latent that carries much pays no more for "
            "it; the threshold is the least that it costs.",
        ),
        (
            lambda kl, threshold: (kl.mean(0) - threshold).clamp(min=0).sum(),
            "You subtract the threshold. The gradient is the same, but the value is not: a latent within its allowance "
            "costs the threshold, and the loss stays an upper bound of −log p.",
        ),
        (
            lambda kl, threshold: (kl - threshold).clamp(min=0).mean(0).sum(),
            "You subtract the threshold from each example. A latent costs at least the threshold, after the mean over "
            "the batch.",
        ),
        (
            lambda kl, threshold: (kl.mean(0) + threshold).sum(),
            "You add the threshold to every latent. That changes no gradient, and cures nothing: the larger of the two "
            "is meant.",
        ),
        (
            lambda kl, threshold: torch.where(kl.mean(0) > threshold, kl.mean(0), 0.0).sum(),
            "A latent below the threshold costs nothing in yours. It costs the threshold; otherwise the loss jumps by "
            "it as soon as the latent carries more.",
        ),
        (
            lambda kl, threshold: kl.mean(0).sum(),
            "The threshold does not appear: this is the plain KL.",
        ),
        (
            lambda kl, threshold: kl.mean(0).clamp(min=threshold).mean(),
            "You average over the latents. Their KLs add up.",
        ),
        (
            lambda kl, threshold: kl.mean(0).clamp(min=threshold),
            "These are the values of each latent. The loss has their sum.",
        ),
        (
            lambda kl, threshold: kl.sum(0).clamp(min=threshold).sum(),
            "You sum over the batch before the threshold. A larger batch would then meet it more easily: the mean.",
        ),
        (
            lambda kl, threshold: kl.sum(0).clamp(min=threshold).sum() / len(kl),
            "You compare the batch's sum with the threshold, and divide by B afterwards. The mean comes first.",
        ),
        (
            lambda kl, threshold: kl.mean(1).clamp(min=threshold).sum(),
            "You average over the latents and apply the threshold to examples. Dimension 0 is the batch: mean over it, "
            "threshold for each latent, then the sum.",
        ),
        (
            lambda kl, threshold: kl.mean().clamp(min=threshold),
            "You compare the mean over everything with the threshold. It holds for each latent, and the latents' KLs "
            "add up.",
        ),
        (
            lambda kl, threshold: kl.amax(0).clamp(min=threshold).sum(),
            "You take the largest KL of the batch for each latent. Its mean over the batch is meant.",
        ),
        (
            lambda kl, threshold: kl.mean(0).clamp(min=threshold * math.log(2)).sum(),
            "You take the threshold for bits. Whatever the name says, it is in nats here.",
        ),
        (
            lambda kl, threshold: -free_bits(kl, threshold),
            "The sign is turned: this is a cost, and is added to the loss.",
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
    ]


def mask_of(statistic: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    return lambda mu, threshold: statistic(mu) > threshold


ACTIVE_UNITS = Exercise(
    reference=active_units,
    statement="Which latents are in use: from mu (N, D), the means of q(z|x) of N examples, True for each latent whose "
    "mean has a variance over the data above threshold, (D,).",
    nudge="A collapsed latent has the same posterior for every x. Which number of its column in mu is then 0?",
    right="latents that lie far from 0 and never move included: they are the same for every x, and say nothing of it.",
    inputs=encoded_data,
    wrong=[
        (
            lambda mu, threshold: mu.var(1) > threshold,
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
            mask_of(lambda mu: mu.mean(0)),
            "You compare the latent's mean over the data. Whether it moves is told by its variance.",
        ),
        (
            mask_of(lambda mu: mu.square().mean(0)),
            "You compare the mean of mu². That is large for a latent that sits far from 0 without moving: subtract the "
            "mean first, as the variance does.",
        ),
        (
            mask_of(lambda mu: mu.abs().mean(0)),
            "You compare the mean of |mu|. A latent that sits far from 0 without moving says nothing of x: the "
            "variance is asked.",
        ),
        (
            mask_of(lambda mu: mu.abs().amax(0)),
            "You compare the largest |mu|. A latent is in use if it moves, over the data as a whole: its variance.",
        ),
        (
            mask_of(lambda mu: mu.amax(0) - mu.amin(0)),
            "You compare the range. One unusual example would make a latent active: the variance over the data is "
            "asked.",
        ),
        (
            mask_of(lambda mu: (mu - mu.mean(0)).abs().mean(0)),
            "You compare the mean distance from the mean. The variance has the squares of these distances.",
        ),
        (
            mask_of(lambda mu: (mu - mu.mean(0)).square().sum(0)),
            "You compare the sum of squares. It grows with the number of examples: divide by it.",
        ),
        (
            lambda mu, threshold: mu.var() > threshold,
            "This is one variance of all numbers. Each latent has its own: over dimension 0.",
        ),
        (
            lambda mu, threshold: ~active_units(mu, threshold),
            "These are the collapsed ones, below the threshold. True stands for a latent that is in use.",
        ),
        (
            lambda mu, threshold: active_units(mu, threshold).sum(),
            "This is how many are in use. Which ones is asked: True or False for each latent, (D,).",
        ),
        (
            lambda mu, threshold: active_units(mu, threshold).float().mean(),
            "This is the share that is in use. Which ones is asked: True or False for each latent, (D,).",
        ),
        (
            lambda mu, threshold: mu.var(0),
            "These are the variances. Compare them with the threshold: True or False for each latent.",
        ),
        (
            lambda mu, threshold: active_units(mu, threshold).nonzero().flatten(),
            "These are the places of the active ones. True or False for each latent is asked, (D,).",
        ),
        (
            lambda mu, threshold: mu.abs() > threshold,
            "You compare each mean by itself, (N, D). Whether a latent moves shows over the data: one value for each.",
        ),
        (
            mask_of(lambda mu: mu.var(0).square()),
            "You square the variance. `var` is squared already.",
        ),
        (
            lambda mu, threshold: torch.ones(mu.shape[1]),
            "All latents are active in yours, whatever the data. Compare the variance over the examples.",
        ),
    ],
)

# ---- spherical_interpolation ---------------------------------------------------------------------------------------


def spherical_interpolation(a: Tensor, b: Tensor, t: float) -> Tensor:
    # The angle ω is that between the directions of a and b. Shoemake 1985. As ω → 0 the weights become 1 − t and t.
    cosine = (a / a.norm()) @ (b / b.norm())
    omega = cosine.clamp(-1, 1).acos()
    if omega.sin() < 1e-4:
        return (1 - t) * a + t * b
    return (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / omega.sin()


def ends_of_arcs(generator: Generator) -> list[tuple[Tensor, Tensor, float]]:
    def draw(n_latents: int, t: float, scale: float = 1.0) -> tuple[Tensor, Tensor, float]:
        a, b = (torch.randn(n_latents, generator=generator) for _ in range(2))
        return a, scale * b, t

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
    ]


def angle(a: Tensor, b: Tensor) -> Tensor:
    return cosine_similarity(a, b, dim=0).clamp(-1, 1).acos()


def straight(a: Tensor, b: Tensor, t: float) -> Tensor:
    return (1 - t) * a + t * b


def by_weights(weights: Callable[[Tensor, float], tuple]) -> Callable[..., Tensor]:
    """Other weights of a and b than those of the arc; the straight line where a and b are parallel."""

    def interpolate(a: Tensor, b: Tensor, t: float) -> Tensor:
        omega = angle(a, b)
        if omega.sin() < 1e-4:
            return straight(a, b, t)
        of_a, of_b = weights(omega, t)
        return of_a * a + of_b * b

    return interpolate


def arc_weights(omega: Tensor, t: float) -> tuple[Tensor, Tensor]:
    return ((1 - t) * omega).sin() / omega.sin(), (t * omega).sin() / omega.sin()


def with_angle(of: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The arc's weights for another angle; the straight line where its sine is 0."""

    def interpolate(a: Tensor, b: Tensor, t: float) -> Tensor:
        omega = of(a, b)
        if omega.sin().abs() < 1e-4:
            return straight(a, b, t)
        of_a, of_b = arc_weights(omega, t)
        return of_a * a + of_b * b

    return interpolate


def without_parallel(a: Tensor, b: Tensor, t: float) -> Tensor:
    of_a, of_b = arc_weights(angle(a, b), t)
    return of_a * a + of_b * b


def guarded_by(small: float, a: Tensor, b: Tensor, t: float) -> Tensor:
    omega = angle(a, b)
    return (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / (omega.sin() + small)


def with_product(dtype: torch.dtype, a: Tensor, b: Tensor, t: float) -> Tensor:
    """acos of a·b for the angle, the straight line where it is 0. Where it is π, sin ω is what rounding leaves of 0."""
    a, b = a.to(dtype), b.to(dtype)
    omega = (a @ b).clamp(-1, 1).acos()
    if omega < 1e-4:
        return straight(a, b, t)
    of_a, of_b = arc_weights(omega, t)
    return of_a * a + of_b * b


def direction_of_arc(a: Tensor, b: Tensor, t: float) -> Tensor:
    return spherical_interpolation(normalize(a, dim=0), normalize(b, dim=0), t)


ANGLE_OF_PRODUCT = (
    "You take acos of a·b without dividing by the lengths. That is the angle only where both have length 1; divide "
    "each by its norm first."
)
NOT_DIVIDED = "The division by sin ω is missing: at t = 0 the weight of a has to be 1."
OF_LENGTH_ONE = (
    "You give a vector of length 1: only the direction is right. Normalise for the angle; the weights are applied to a "
    "and b as they are."
)

SPHERICAL_INTERPOLATION = Exercise(
    reference=spherical_interpolation,
    statement="Spherical interpolation from a to b, (D,) each, at the number t in [0, 1] (Shoemake 1985): the weighted "
    "sum of a and b whose weights, for vectors of the same length, turn a towards b by t times the angle ω between "
    "them. The same weights serve where the lengths differ; parallel vectors are joined by the straight line.",
    nudge="ω is the angle between the directions, a/|a| and b/|b|. At t the arc has turned by tω, and (1 − t)ω are "
    "left: write the point as a combination of a and b, with sines.",
    right="parallel vectors included. Between ends of the same length it keeps that length; the straight line passes "
    "nearer to 0, where a prior of many latents puts hardly any z.",
    inputs=ends_of_arcs,
    atol=1e-4,  # acos loses half of the digits where the vectors are nearly parallel
    rtol=1e-3,
    wrong=[
        (
            straight,
            "This is the straight line. It passes nearer to 0 than both ends do, where a prior of many latents has "
            "hardly any mass: turn instead.",
        ),
        (with_angle(lambda a, b: (a @ b).clamp(-1, 1).acos()), ANGLE_OF_PRODUCT),
        (with_angle(lambda a, b: (a @ b).acos()), ANGLE_OF_PRODUCT),
        *[(partial(with_product, dtype), ANGLE_OF_PRODUCT) for dtype in (torch.float32, torch.float64)],
        (
            with_angle(lambda a, b: (a @ b / a.norm()).clamp(-1, 1).acos()),
            "You divide a·b by one of the lengths alone. The cosine of the angle is a·b / |a||b|.",
        ),
        (
            with_angle(lambda a, b: (a @ b / (a.norm() * b.norm()) ** 2).clamp(-1, 1).acos()),
            "You divide a·b by the squares of the lengths. The cosine of the angle is a·b / |a||b|.",
        ),
        (
            with_angle(lambda a, b: cosine_similarity(a, b, dim=0)),
            "You take the cosine for the angle. acos of it is the angle.",
        ),
        (
            with_angle(lambda a, b: 1 - cosine_similarity(a, b, dim=0)),
            "You take 1 − cosine for the angle. acos of the cosine is the angle.",
        ),
        (
            with_angle(lambda a, b: angle(a, b).rad2deg()),
            "Your angle is in degrees, and `sin` takes radians.",
        ),
        (
            with_angle(lambda a, b: cosine_similarity(a, b, dim=0).clamp(-1, 1).asin()),
            "You take asin of the cosine. The angle is acos of it.",
        ),
        (
            lambda a, b, t: spherical_interpolation(a, b, 1 - t),
            "t and 1 − t are exchanged: at t = 0 it has to be a, and yours is b.",
        ),
        (
            direction_of_arc,
            OF_LENGTH_ONE,
        ),
        (lambda a, b, t: normalize(spherical_interpolation(a, b, t), dim=0), OF_LENGTH_ONE),
        (lambda a, b, t: normalize(straight(a, b, t), dim=0), OF_LENGTH_ONE + " And yours is the straight line's."),
        (
            lambda a, b, t: direction_of_arc(a, b, t) * ((1 - t) * a.norm() + t * b.norm()),
            "You interpolate direction and length apart. That is a way, too; here the arc's weights are applied to a "
            "and b as they are, which differs where their lengths do.",
        ),
        (
            lambda a, b, t: normalize(straight(a, b, t), dim=0) * ((1 - t) * a.norm() + t * b.norm()),
            "You stretch the straight line to the length of the arc. It then turns fast in the middle and slowly at "
            "the ends: the weights are those of sines, (1 − t)ω and tω.",
        ),
        (
            by_weights(lambda omega, t: (((1 - t) * omega).sin(), (t * omega).sin())),
            NOT_DIVIDED,
        ),
        (
            lambda a, b, t: ((1 - t) * angle(a, b)).sin() * a + (t * angle(a, b)).sin() * b,
            NOT_DIVIDED + " And parallel vectors need the straight line.",
        ),
        (
            by_weights(lambda omega, t: (((1 - t) * omega).sin() / omega, (t * omega).sin() / omega)),
            "You divide by ω. The weights are divided by sin ω, so that at t = 0 the weight of a is 1.",
        ),
        (
            by_weights(lambda omega, t: ((t * omega).cos(), (t * omega).sin())),
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
        (
            by_weights(lambda omega, t: (1 - (t * omega).sin() / omega.sin(), (t * omega).sin() / omega.sin())),
            "Your weights sum to 1, so the point lies on the straight line. a has a weight of its own: sin((1 − t)ω) / "
            "sin ω.",
        ),
        (
            by_weights(lambda omega, t: ((t * omega).cos(), ((1 - t) * omega).cos())),
            "You have cosines where sines belong: that is right for a right angle alone. At t = 0 the weight of b has "
            "to be 0.",
        ),
        (
            by_weights(lambda omega, t: tuple(reversed(arc_weights(omega, t)))),
            "t and 1 − t are exchanged: at t = 0 it has to be a, and yours is b.",
        ),
        (
            without_parallel,
            "Right until a and b are parallel: sin ω is 0 there, and you get {yours}. As ω → 0 the weights become "
            "1 − t and t, the straight line.",
        ),
        *[
            (
                lambda a, b, t, small=small: guarded_by(small, a, b, t),
                "A small constant in the denominator makes {yours} of parallel vectors. Their weights become 1 − t and "
                "t: a case of its own.",
            )
            for small in (1e-6, 1e-7, 1e-8, 1e-10, 1e-12)
        ],
        (
            lambda a, b, t: a if angle(a, b).sin() < 1e-4 else spherical_interpolation(a, b, t),
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
            lambda z, has: -attribute_vector(z, has),
            "The sign is turned: yours takes the attribute away. From those without to those with.",
        ),
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
        (
            of_groups(lambda z: z.sum(0)),
            "These are sums: the larger group wins. Each group counts by its mean.",
        ),
        (
            lambda z, has: (z[has].sum(0) - z[~has].sum(0)) / len(z),
            "You divide both sums by N (a mean over rows set to 0 does that, too). Each group has a size of its own: "
            "`z[has]` picks its rows.",
        ),
        (
            lambda z, has: (z[has].sum(0) - z[~has].sum(0)) / has.sum(),
            "You divide both sums by the number with the attribute. The others have a number of their own.",
        ),
        (
            of_groups(lambda z: z.median(0).values),
            "You take medians. On average z + v should land on the other group: that is the difference of means.",
        ),
        (
            of_groups(lambda z: z.quantile(0.5, dim=0)),
            "You take medians. On average z + v should land on the other group: that is the difference of means.",
        ),
        (
            lambda z, has: normalize(attribute_vector(z, has), dim=0),
            "You cut it to length 1. How far the groups lie apart is part of the answer: a full step adds the "
            "attribute once.",
        ),
        (
            lambda z, has: attribute_vector(z, has) / 2,
            "This is half of the way. Added to the mean of those without, it should reach the mean of those with.",
        ),
        (
            lambda z, has: z[has].mean(0),
            "This is the mean of those with the attribute alone. It also holds what all images share: subtract the "
            "mean of the others.",
        ),
        (
            lambda z, has: z[has].mean(0) + z[~has].mean(0),
            "You add the means. What leads from one group to the other is their difference.",
        ),
        (
            lambda z, has: attribute_vector(z, has) / z.std(0),
            "You divide by the standard deviation. The step is to be made in z as it is.",
        ),
        (
            lambda z, has: attribute_vector(z, has).abs(),
            "You take absolute values. A direction has signs: without them it leads elsewhere.",
        ),
        (
            lambda z, has: attribute_vector(z, has).norm(),
            "This is the distance of the two means. The vector itself is asked, (D,).",
        ),
        (
            lambda z, has: attribute_vector(z, has).mean(),
            "You average over the latents as well. One number for each latent is asked, (D,): mean over dimension 0.",
        ),
        (
            lambda z, has: z[has.long()].mean(0) - z[1 - has.long()].mean(0),
            "has was made a number, so it picks rows 0 and 1 again and again. As bool it picks the rows where it is "
            "True.",
        ),
        (
            lambda z, has: z[has][0] - z[~has][0],
            "You compare one image of each group. They differ in much else; the means of the groups differ in what "
            "the attribute changes.",
        ),
        (
            lambda z, has: ((z - z.mean(0)) * (has.float() - has.float().mean())[:, None]).mean(0),
            "This is the covariance of z with the attribute. Divided by the variance of `has` it would be the "
            "difference of means; without, rare attributes look small.",
        ),
        (
            lambda z, has: z + attribute_vector(z, has),
            "These are the moved latents. The vector itself is asked, (D,).",
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
    ]


def by_shares(share: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Σ_i share(log_w)_i values_i."""
    return lambda log_w, values: (share(log_w)[:, :, None] * values).sum(0)


def shares_by_one_maximum(log_w: Tensor, small: float = 0.0) -> Tensor:
    w = (log_w - log_w.max()).exp()
    return w / (w.sum(0) + small)


ONE_MAXIMUM_OF_SHARES = (
    "You take out the largest log-weight of the whole table before exp. For an example whose draws all lie far below "
    "it, every exp underflows to 0 and you get {yours}: take the largest of each example, not of the whole batch (over "
    "dimension 0)."
)
UNDERFLOWING_SHARES = (
    "Right for small log-weights; exp underflows to 0 at −2000 nats (or overflows), and 0/0 makes {yours}. `softmax` "
    "takes the largest out first, which changes no share."
)

IMPORTANCE_MEAN = Exercise(
    reference=importance_mean,
    statement="Importance resampling: k draws for each of B examples, log_w (k, B) their log-weights up to a constant "
    "of each example, values (k, B, D) what each draw stands for, such as pixels. The self-normalised mean of the "
    "values, (B, D).",
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
        (
            by_shares(lambda log_w: log_w.exp() / len(log_w)),
            "You average w · value. That needs weights whose mean is 1; these are known up to a constant, so divide by "
            "their own sum.",
        ),
        (
            lambda log_w, values: values.mean(0),
            "The weights do not appear: this is the plain mean. A draw that explains nothing of x would count as much "
            "as one that explains it.",
        ),
        (
            by_shares(lambda log_w: log_w.softmax(1)),
            "Your weights sum to 1 over the examples, dimension 1. The k draws of one example, dimension 0, share "
            "its 1.",
        ),
        (
            by_shares(lambda log_w: log_w.flatten().softmax(0).view_as(log_w)),
            "Your weights sum to 1 over the whole table. Each example shares out its own 1 among its k draws, "
            "dimension 0.",
        ),
        *[
            (by_shares(lambda log_w, small=small: shares_by_one_maximum(log_w, small)), ONE_MAXIMUM_OF_SHARES)
            for small in (0.0, 1e-8, 1e-10, 1e-12, 1e-20)
        ],
        (by_shares(lambda log_w: log_w.exp() / log_w.exp().sum(0)), UNDERFLOWING_SHARES),
        (by_shares(lambda log_w: log_w.double().exp() / log_w.double().exp().sum(0)), UNDERFLOWING_SHARES),
        *[
            (
                by_shares(lambda log_w, small=small: log_w.exp() / (log_w.exp().sum(0) + small)),
                "A small constant in the denominator: where all weights underflow, the mean becomes {yours}. Take the "
                "largest log-weight out first (`softmax`), and no constant is needed.",
            )
            for small in (1e-6, 1e-8, 1e-10, 1e-12, 1e-20)
        ],
        (
            by_shares(lambda log_w: log_w / log_w.sum(0)),
            "You share out the log-weights themselves, without exp. Their constant is arbitrary, so these shares mean "
            "nothing; the larger in size, the less a draw explains.",
        ),
        (by_shares(lambda log_w: log_w), "You multiply with the log-weights. exp makes weights of them; then divide."),
        (
            by_shares(lambda log_w: log_w.log_softmax(0)),
            "You multiply with the logarithms of the shares. exp is missing: `softmax`.",
        ),
        (
            by_shares(lambda log_w: (-log_w).softmax(0)),
            "The sign of the log-weights is turned: the worst draw counts most in yours.",
        ),
        (
            by_shares(lambda log_w: log_w.softmax(0) / len(log_w)),
            "You normalise and then divide by k again (a `mean` in the place of a `sum`). The shares sum to 1 already.",
        ),
        *[
            (by_shares(best), "You take the best draw alone. Every draw counts, by its share of the weights.")
            for best in (
                lambda log_w: (log_w == log_w.amax(0)) / 1.0,
                lambda log_w: one_hot(log_w.argmax(0), len(log_w)).T,
            )
        ],
        (
            by_shares(lambda log_w: log_w.sigmoid() / log_w.sigmoid().sum(0)),
            "You use a sigmoid. A weight is exp(log_w), and their shares are a softmax.",
        ),
        (
            by_shares(lambda log_w: (log_w / 2).softmax(0)),
            "You take the roots of the weights. They count as they are.",
        ),
        (
            by_shares(lambda log_w: (2 * log_w).softmax(0)),
            "You square the weights. They count as they are.",
        ),
        (
            lambda log_w, values: (log_w.softmax(0)[:, :, None] * values).sum(1),
            "You sum over the examples, dimension 1. The draws lie along dimension 0; one row for each example "
            "remains.",
        ),
        (
            lambda log_w, values: log_w.softmax(0)[:, :, None] * values,
            "These are the weighted draws, (k, B, D). Their sum over the draws is asked.",
        ),
        (
            lambda log_w, values: importance_mean(log_w, values).mean(0),
            "This is the mean over the examples as well. Each has its own: (B, D).",
        ),
        (
            lambda log_w, values: importance_mean(log_w, values).sum(0),
            "You sum over the examples as well. Each has its own mean: (B, D).",
        ),
        (
            lambda log_w, values: log_w.softmax(0),
            "These are the shares of the draws, (k, B). Weigh the values with them.",
        ),
        (
            lambda log_w, values: values.quantile(0.5, dim=0),
            "You take the median of the draws, and the weights do not appear.",
        ),
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
        (
            lambda z, code: 2 * z + (code - 2 * z).detach(),
            "The gradient comes back to z doubled. It should pass as if z itself had been passed on.",
        ),
        (
            lambda z, code: (z + code) / 2 + ((code - z) / 2).detach(),
            "Half of the gradient goes to z and half to the code. All of it belongs to z.",
        ),
        (lambda z, code: z * 1, VALUE_OF_Z),
        (lambda z, code: code + (z - code).detach(), VALUE_OF_Z),
        (
            lambda z, code: z - (code - z).detach(),
            "You subtract code − z, and land on the other side of z. z + (code − z) is the code.",
        ),
        (
            lambda z, code: z + code.detach(),
            "You add the code to z. What has to be added is the difference, code − z.",
        ),
        (lambda z, code: code - z, "This is the way from z to the code. Start from z: z + (code − z)."),
        (
            lambda z, code: (z + code) / 2,
            "This is the middle between z and the code. The decoder has to see the code itself.",
        ),
        (
            lambda z, code: (z - code.detach()).square() + (z.detach() - code).square(),
            "These are the terms of the loss that draw codes and encodings together. What is passed on to the decoder "
            "is asked.",
        ),
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
