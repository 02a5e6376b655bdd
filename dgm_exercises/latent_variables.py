"""Exercises of notebook 04: what is exact in probabilistic PCA, the ELBO and its gap, the parts of a VAE's loss.

q(z|x) = N(mu, diag exp log_var) stands against the prior N(0, I); all of it is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from dgm_exercises.engine import Exercise

SMALL = 1e-6, 1e-8, 1e-10, 1e-12  # what learners add against log 0

# ---- ppca_posterior_mean -------------------------------------------------------------------------------------------


def ppca_posterior_mean(x: Tensor, W: Tensor, mu: Tensor, sigma: float) -> Tensor:
    # The posterior is Gaussian with the precision WᵀW/σ² + I and the mean M⁻¹ Wᵀ(x − μ), M = WᵀW + σ² I.
    M = W.T @ W + sigma**2 * torch.eye(W.shape[1]).to(W)  # (n_latents, n_latents)
    return torch.linalg.solve(M, W.T @ (x - mu).T).T


def factor_models(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, float]]:
    def draw(batch: int, n_features: int, n_latents: int, sigma: float) -> tuple[Tensor, Tensor, Tensor, float]:
        W = torch.randn(n_features, n_latents, generator=generator)
        mu = 2 * torch.randn(n_features, generator=generator)
        z, eps = (torch.randn(batch, width, generator=generator) for width in (n_latents, n_features))
        return mu + z @ W.T + sigma * eps, W, mu, sigma

    unused = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])  # the second latent has no part in x
    return [
        (torch.tensor([[3.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0], [1.0]]), torch.tensor([1.0, 1.0]), 2.0),
        draw(4, 4, 4, 0.5),
        draw(5, 4, 2, 1.5),
        draw(4, 6, 3, 1.0),
        draw(1, 3, 1, 0.3),
        draw(50, 64, 8, 2.0),
        draw(4, 2, 3, 0.8),  # more latents than features
        (torch.randn(3, 3, generator=generator), unused, torch.ones(3), 0.5),
    ]


def gram(W: Tensor) -> Tensor:
    return W.T @ W


def eye(W: Tensor) -> Tensor:
    return torch.eye(W.shape[1])


def solved(matrix: Callable[[Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """matrix(W, σ)⁻¹ Wᵀ(x − μ)."""
    return lambda x, W, mu, sigma: torch.linalg.solve(matrix(W, sigma), W.T @ (x - mu).T).T


WITHOUT_NOISE = (
    "This is the projection W⁺(x − μ), least squares: it takes M = WᵀW and trusts x as if there were no noise. "
    "σ² I belongs into M; it pulls the mean towards 0, where the prior has it."
)

PPCA_POSTERIOR_MEAN = Exercise(
    reference=ppca_posterior_mean,
    statement="Probabilistic PCA: z ~ N(0, I), x = W z + μ + σ ε. The posterior mean E[z | x], (B, n_latents), of x "
    "(B, D), with W (D, n_latents), mu (D,) and the number sigma, the standard deviation of the noise.",
    nudge="Write −log p(x|z) − log p(z) as a function of z, set its derivative to 0 and solve: a posterior that is "
    "Gaussian has its mean where it is highest. Which matrix stands before z?",
    right="a latent that W does not use included: it keeps its prior mean 0. The noise pulls all of them towards 0, so "
    "this is not the projection of PCA.",
    inputs=factor_models,
    atol=1e-4,  # what float32 keeps of a solve, by whichever of the formulas
    rtol=1e-3,
    wrong=[
        (solved(lambda W, s: gram(W)), WITHOUT_NOISE),
        (lambda x, W, mu, s: (x - mu) @ torch.linalg.pinv(W).T, WITHOUT_NOISE),
        (
            lambda x, W, mu, s: ppca_posterior_mean(x, W, torch.zeros_like(mu), s),
            "You do not centre x: z explains how x departs from μ, so Wᵀ acts on x − μ.",
        ),
        (
            lambda x, W, mu, s: ppca_posterior_mean(x, W, x.mean(0), s),
            "You centre x by the mean of this batch. What z means would then depend on who shares the batch: μ is a "
            "parameter of the model.",
        ),
        (
            solved(lambda W, s: gram(W) + s * eye(W)),
            "σ stands where σ² belongs: M = WᵀW + σ² I. sigma is the noise's standard deviation, and Gaussians count "
            "by variances.",
        ),
        (
            solved(lambda W, s: gram(W) + s**2),
            "σ² was added to every entry of WᵀW. The noise is independent in each direction: σ² on the diagonal alone, "
            "σ² times the identity.",
        ),
        (solved(lambda W, s: gram(W) + eye(W)), "M = WᵀW + I is that of σ = 1: WᵀW/σ² + I times σ² is WᵀW + σ² I."),
        (
            solved(lambda W, s: gram(W) / s**2 + eye(W)),
            "You divide WᵀW by σ², but not the Wᵀ(x − μ) beside it. Either both carry 1/σ², or M = WᵀW + σ² I.",
        ),
        (
            lambda x, W, mu, s: ppca_posterior_mean(x, W, mu, s) / s**2,
            "Wᵀ(x − μ) carries 1/σ² and M does not: M = WᵀW + σ² I has been multiplied by σ² already.",
        ),
        (
            lambda x, W, mu, s: (x - mu) @ W,
            "This is Wᵀ(x − μ) alone, how much x resembles each column of W. M⁻¹ is missing: long or similar columns "
            "count too much.",
        ),
        (
            lambda x, W, mu, s: (x - mu) @ W / s**2,
            "This is Wᵀ(x − μ)/σ². It still has to be multiplied by the posterior covariance, (WᵀW/σ² + I)⁻¹.",
        ),
        (
            lambda x, W, mu, s: ppca_posterior_mean(x, W, mu, s) @ W.T + mu,
            "This is the reconstruction W E[z|x] + μ, in the space of x. The mean of z is asked.",
        ),
        (
            lambda x, W, mu, s: (x - mu) @ W @ torch.diag(1 / (W.square().sum(0) + s**2)),
            "You divide by |w|² + σ² of each column, as if the columns of W were orthogonal. Similar columns explain "
            "the same part of x: the whole matrix M = WᵀW + σ² I has to be inverted.",
        ),
    ],
)

# ---- elbo_gap ------------------------------------------------------------------------------------------------------


def elbo_gap(log_joint: Tensor, q: Tensor) -> Tensor:
    # log p(x) − ELBO = KL(q ‖ p(z|x)). Where q is 0 the term is 0, since q log q → 0.
    log_posterior = log_joint - log_joint.logsumexp(dim=1, keepdim=True)  # log p(z|x), (B, K)
    terms = q * (q.log() - log_posterior)
    return torch.where(q > 0, terms, 0.0).sum(dim=1)


def tables(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(batch: int, n_states: int, shift: float = -2.0) -> tuple[Tensor, Tensor]:
        log_joint, logits = (1.5 * torch.randn(batch, n_states, generator=generator) for _ in range(2))
        return log_joint + shift, logits.softmax(1)

    log_joint, _ = draw(3, 5)
    return [
        (torch.tensor([[0.1, 0.3], [0.2, 0.05]]).log(), torch.tensor([[0.5, 0.5], [0.9, 0.1]])),
        draw(4, 4),
        draw(3, 6),
        draw(6, 2),
        draw(1, 3),
        (log_joint, log_joint.softmax(1)),  # q is the posterior
        draw(20, 10),
        (log_joint, torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0.2, 0, 0, 0.8]])),
        draw(3, 5, shift=-1000.0),
        (torch.tensor([[0.0, -1.0], [-2000.0, -2001.0]]), torch.tensor([[0.5, 0.5], [0.9, 0.1]])),  # far apart
        (torch.tensor([[0.0, -50.0, -2000.0], [-700.0, 3.0, -90.0]]), torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])),
        (torch.tensor([[0.0, -95.0, -1.0], [-1.0, -120.0, 0.0]]), torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])),
    ]


def elbo_of(log_joint: Tensor, q: Tensor) -> Tensor:
    return (q * log_joint - torch.xlogy(q, q)).sum(1)


def log_p_of(log_joint: Tensor) -> Tensor:
    return log_joint.logsumexp(1)


def log_p_shifted(log_joint: Tensor, by: Callable[[Tensor], Tensor]) -> Tensor:
    return (log_joint - by(log_joint)).exp().sum(1).log() + by(log_joint).flatten()


def reversed_kl(log_joint: Tensor, q: Tensor, small: float = 0.0) -> Tensor:
    log_posterior = log_joint.log_softmax(1)
    return (log_posterior.exp() * (log_posterior - (q + small).log())).sum(1)


def without_zeros_of_q(log_joint: Tensor, q: Tensor) -> Tensor:
    log_posterior = log_joint.log_softmax(1)
    return torch.where(q > 0, log_posterior.exp() * (log_posterior - q.log()), 0.0).sum(1)


ZERO_TIMES_INFINITY = (
    "Right as long as q > 0. Where q is 0, the computer makes 0 · (−inf) = nan of q log q, whose limit is 0. "
    "`torch.where` or `torch.xlogy` can say so."
)
REVERSED = (
    "This is KL(p(z|x) ‖ q), the other direction. In the ELBO the mean is taken under q, so it is in the gap too."
)
WRONG_SHIFT = (
    "What you take out before exp is not the largest number of each row: where numbers lie far apart, exp underflows "
    "to 0 or overflows, and you get {yours}. Take the largest of each example, as `logsumexp` does."
)
UNDERFLOWING = (
    "Right for small numbers; exp(−1000) underflows to 0 and you get {yours}. log p(x) of an image is such a number: "
    "stay with logarithms (`logsumexp`, `log_softmax`)."
)
LOG_OF_POSTERIOR = (
    "You compute the posterior and then its logarithm. Where a z is far less probable than another, that is the log of "
    "0, or of a small constant added to it, and you get {yours}. `log_softmax` never leaves the logarithms."
)


def by_posterior(small: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda log_joint, q: (torch.xlogy(q, q) - q * (log_joint.softmax(1) + small).log()).sum(1)


ELBO_GAP = Exercise(
    reference=elbo_gap,
    statement="z has K states, and log_joint (B, K) holds log p(x, z) for each x and all of them, numbers down to "
    "−2000. q (B, K) is a guess at the posterior, rows summing to 1, zeros allowed. The gap log p(x) − ELBO of each x: "
    "(B,) nats.",
    nudge="log p(x) is a sum over z. The ELBO is the mean, under q, of log p(x, z) − log q(z). Or in one step: which "
    "KL is the gap?",
    right="zeros of q and log-probabilities of −2000 included. It is KL(q ‖ p(z|x)): 0 only where q is the posterior.",
    inputs=tables,
    atol=1e-3,  # a difference of numbers near 1000, in float32
    rtol=1e-4,
    wrong=[
        (elbo_of, "This is the ELBO itself. The gap is what it lacks of log p(x), the log of the sum over z."),
        (
            lambda joint, q: -elbo_of(joint, q),
            "This is −ELBO, the KL from q to p(x, z), which does not sum to 1 over z. Divide it by p(x) first: that "
            "makes the posterior of it, and adds log p(x).",
        ),
        (lambda joint, q: log_p_of(joint), "This is log p(x), and q does not appear. Subtract the ELBO of this q."),
        *[(lambda joint, q, c=small: reversed_kl(joint, q, c), REVERSED) for small in (0.0, *SMALL)],
        (without_zeros_of_q, REVERSED),
        (
            lambda joint, q: log_p_of(joint) - (q * joint).sum(1),
            "The entropy of q is missing: the ELBO is the mean of log p(x, z) − log q(z). Without it the gap is not 0 "
            "even for the exact posterior.",
        ),
        (
            lambda joint, q: log_p_of(joint) - (q * joint + torch.xlogy(q, q)).sum(1),
            "The entropy of q has the wrong sign: the ELBO is the mean of log p(x, z) − log q(z), with a minus.",
        ),
        (
            lambda joint, q: (q.log() - joint.log_softmax(1)).sum(1),
            "The terms are not weighted. A mean under q is asked: each log q/p(z|x) times q.",
        ),
        (
            lambda joint, q: elbo_gap(joint, q) / q.shape[1],
            "You average over the K states. The weights q already make a mean of the terms, so they are summed.",
        ),
        (
            lambda joint, q: elbo_gap(joint, q) - math.log(q.shape[1]),
            "You average p(x, z) over the states where log p(x) is the log of their sum: the gap is log K too small, "
            "and negative for a good q.",
        ),
        (
            lambda joint, q: joint.amax(1) - elbo_of(joint, q),
            "You take the best z for all of p(x). log p(x) is the log of the sum over every z.",
        ),
        (
            lambda joint, q: torch.xlogy(q, q).sum(1) - (q * joint.log_softmax(0)).sum(1),
            "Your posterior sums to 1 over the batch, dimension 0. The states of z lie along dimension 1.",
        ),
        (lambda joint, q: (q * (q.log() - joint.log_softmax(1))).sum(1), ZERO_TIMES_INFINITY),
        *[
            (lambda joint, q, by=by: log_p_shifted(joint, by) - elbo_of(joint, q), WRONG_SHIFT)
            for by in (torch.max, torch.mean, lambda row: row.mean(1, keepdim=True), lambda row: row.amin(1, True))
        ],
        *[(by_posterior(small), LOG_OF_POSTERIOR) for small in (0.0, *SMALL)],
        (lambda joint, q: joint.exp().sum(1).log() - elbo_of(joint, q), UNDERFLOWING),
        (
            lambda joint, q: joint.exp().sum(1).log() - (q * (joint - q.log())).sum(1),
            UNDERFLOWING + " " + ZERO_TIMES_INFINITY,
        ),
        (
            lambda joint, q: (q * (q / joint.softmax(1)).log()).sum(1),
            ZERO_TIMES_INFINITY + " And a quotient of probabilities underflows: take the difference of logarithms.",
        ),
    ],
)

# ---- gaussian_log_likelihood ---------------------------------------------------------------------------------------


def gaussian_log_likelihood(x: Tensor, mean: Tensor, sigma: float) -> Tensor:
    # log N(x; m, σ²) = −(x − m)²/2σ² − log σ − ½ log 2π for each of the D pixels, which are independent: a sum.
    log_p = -(((x - mean) / sigma) ** 2) / 2 - math.log(sigma) - math.log(2 * math.pi) / 2  # (B, D)
    return log_p.sum(dim=1)


def reconstructions(generator: Generator) -> list[tuple[Tensor, Tensor, float]]:
    def draw(batch: int, n_features: int, sigma: float, off: float = 1.0) -> tuple[Tensor, Tensor, float]:
        mean, eps = (torch.randn(batch, n_features, generator=generator) for _ in range(2))
        return mean + off * sigma * eps, mean, sigma

    exact = torch.rand(3, 5, generator=generator)
    return [
        (torch.tensor([[1.0, 3.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [4.0, 1.0]]), 2.0),
        draw(4, 4, 0.5),
        draw(5, 3, 1.0),
        draw(2, 6, 3.0),
        draw(1, 4, 0.2),
        (exact, exact, 0.1),  # nothing to reconstruct better: a positive number, as densities may be above 1
        draw(16, 64, 0.1),
        draw(4, 8, 0.01, off=100.0),
        (exact + 1000, exact.flip(0) + 1000, 1.0),  # far from 0: (x − m)², not x² − 2xm + m²
    ]


def by_squares(value: Callable[[Tensor, int, float], Tensor]) -> Callable[..., Tensor]:
    """A function of the squared errors summed over an example, (B,), of D and of σ."""
    return lambda x, mean, sigma: value((x - mean).square().sum(1), x.shape[1], sigma)


LOG_2_PI = math.log(2 * math.pi)


def log_norm(sigma: float) -> float:
    """½ log 2πσ², of one pixel."""
    return math.log(sigma) + LOG_2_PI / 2


MSE = (
    "This is a squared error, not a log-likelihood: sigma does not appear. Without σ nobody knows how many nats an "
    "error costs, and beside a KL in nats it has no weight that means anything."
)
NO_CONSTANT = (
    "The normalising constant is missing: this is the exponent alone, so exp of it does not integrate to 1. Every "
    "pixel costs ½ log 2πσ² more; without it a larger σ would always look better."
)

GAUSSIAN_LOG_LIKELIHOOD = Exercise(
    reference=gaussian_log_likelihood,
    statement="log p(x|z) for a decoder that gives the mean of independent Gaussian pixels: from x and mean, (B, D) "
    "each, and the standard deviation sigma, a number: one value for each example, (B,) nats, with a gradient by mean.",
    nudge="Take the logarithm of the density of one Gaussian: an exponent and a normalising constant. Then D pixels, "
    "whose densities multiply.",
    right="errors of a hundred σ included. It is a density, so it may be positive; the squared error is only one part "
    "of it, and σ says how much that counts.",
    inputs=reconstructions,
    differentiate=("mean",),
    atol=1e-4,  # float32 sums of hundreds
    wrong=[
        (by_squares(lambda e, n, s: -e), MSE),
        (by_squares(lambda e, n, s: e), MSE),
        (by_squares(lambda e, n, s: -e / n), MSE),
        (by_squares(lambda e, n, s: e / n), MSE),
        (by_squares(lambda e, n, s: -e / 2), MSE),
        (by_squares(lambda e, n, s: e.mean() / n), MSE),
        (by_squares(lambda e, n, s: -e / (2 * s**2)), NO_CONSTANT),
        (
            by_squares(lambda e, n, s: -e / (2 * s**2) - n * math.log(s)),
            "½ log 2π is missing for each pixel. It changes no gradient, but nats are compared with those of other "
            "likelihoods.",
        ),
        (
            by_squares(lambda e, n, s: -e / (2 * s**2) - n * LOG_2_PI / 2),
            "log σ is missing for each pixel. A wide Gaussian is low: without this term a larger σ would always look "
            "better.",
        ),
        (
            by_squares(lambda e, n, s: -e / (2 * s**2) - log_norm(s)),
            "The normalising constant comes once for each of the D pixels; you have it once for the whole example.",
        ),
        (
            by_squares(lambda e, n, s: -(e / (2 * s**2) + n * log_norm(s)) / n),
            "You average over the pixels. They are independent, so their densities multiply and the logarithms are "
            "summed; an average is worth one pixel beside a KL that is summed.",
        ),
        (
            by_squares(lambda e, n, s: -e / (2 * s**2) - n * (LOG_2_PI / 2 - math.log(s))),
            "log σ has the wrong sign: the density is divided by σ, so log σ is subtracted. As you have it, a larger "
            "σ would always look better.",
        ),
        (
            by_squares(lambda e, n, s: -e / (2 * s) - n * log_norm(s)),
            "σ stands where σ² belongs: errors are measured in units of σ and then squared, so the exponent divides "
            "by 2σ².",
        ),
        (
            by_squares(lambda e, n, s: -e / (2 * s) - n * (math.log(s) + LOG_2_PI) / 2),
            "You take sigma for the variance. It is the standard deviation: σ² in the exponent, log σ² in the "
            "constant.",
        ),
        (
            by_squares(lambda e, n, s: -e / (2 * s**2) - n * (math.log(s) + LOG_2_PI) / 2),
            "Your constant is ½ log 2πσ. The variance stands in it: ½ log 2πσ², which is log σ + ½ log 2π.",
        ),
        (
            by_squares(lambda e, n, s: -e / (2 * s**4) - n * (2 * math.log(s) + LOG_2_PI / 2)),
            "sigma is squared twice. It is the standard deviation; if a Normal asks for a scale, give σ and not σ².",
        ),
        (by_squares(lambda e, n, s: -e / s**2 - n * log_norm(s)), "The ½ of the exponent is missing: −(x − m)² / 2σ²."),
        (
            by_squares(lambda e, n, s: -e / (2 * s**2) - 2 * n * log_norm(s)),
            "The constant is log 2πσ², twice what it is: the density is divided by the root of 2πσ².",
        ),
        (
            by_squares(lambda e, n, s: -e / (2 * s**2) - n * (2 * math.log(s) + LOG_2_PI / 2)),
            "You subtract log σ², twice log σ, beside ½ log 2π: the ½ belongs to both, ½ log σ² = log σ.",
        ),
        (
            by_squares(lambda e, n, s: -e / (2 * s**2) - n * (math.log(s) + LOG_2_PI)),
            "You subtract log 2π without its ½: the density is divided by σ √2π, the root of 2πσ².",
        ),
        (
            lambda x, mean, s: ((-(((x - mean) / s) ** 2) / 2).exp() / math.exp(log_norm(s))).log().sum(1),
            "Right near the mean; at 14 σ and more the density underflows to 0 and its logarithm becomes {yours}. "
            "Write the logarithm down yourself: the exp cancels.",
        ),
    ],
)

# ---- split_head ----------------------------------------------------------------------------------------------------


def split_head(out: Tensor) -> tuple[Tensor, Tensor]:
    # The first half of the encoder's numbers is mu, the second log_var, neither bounded: (B, 2D) -> two of (B, D).
    mu, log_var = out.chunk(2, dim=1)
    return mu, log_var


def encodings(generator: Generator) -> list[tuple[Tensor]]:
    def draw(batch: int, n_latents: int) -> tuple[Tensor]:
        return (2 * torch.randn(batch, 2 * n_latents, generator=generator),)

    return [
        (torch.tensor([[1.0, -2.0, 0.5, -3.0], [4.0, 5.0, -1.0, 2.0]]),),
        draw(4, 2),
        draw(2, 1),
        draw(6, 3),
        draw(1, 4),
        draw(64, 16),
    ]


def squashed(mean: Callable[[Tensor], Tensor] | None, log_variance: Callable[[Tensor], Tensor] | None) -> Callable:
    """The two halves, either one passed through a function."""

    def halves(out: Tensor) -> Tensor:
        mu, log_var = split_head(out)
        return torch.stack([mean(mu) if mean else mu, log_variance(log_var) if log_variance else log_var])

    return halves


ONE_HEAD = (
    "mu and log_var are the same numbers: one head serves for both. Then a latent's mean fixes its uncertainty; each "
    "needs a half of its own."
)
SQUASHED = (
    "You squash the numbers (sigmoid or tanh). The mean may lie anywhere, and a log-variance must be able to fall far "
    "below 0, or no posterior can be sharp: the last layer has no activation."
)

IN_ONE_PIECE = (
    "The numbers are all there and in order, but still in one tensor, a row for each example. A pair is asked: mu "
    "(B, D) first, then log_var (B, D)."
)

SPLIT_HEAD = Exercise(
    reference=split_head,
    statement="The encoder ends in 2D numbers for each example, (B, 2D): the first D are mu, the last D log_var. Both, "
    "as a pair, (B, D) each.",
    nudge="Cut along dimension 1, in the middle. Does anything have to be done to the numbers? Which values may a mean "
    "have, and which the logarithm of a variance?",
    right="one latent and sixteen, gradients included. Both may have any sign; exp makes a variance of the second one "
    "where it is needed.",
    inputs=encodings,
    differentiate=("out",),
    wrong=[
        (
            squashed(torch.detach, torch.detach),
            "No gradient comes back to the encoder, so it learns nothing. A `detach`, `no_grad`, `.data`, numpy or "
            "`torch.tensor(…)` cuts the path; cutting the numbers in halves needs none of these.",
        ),
        (
            squashed(torch.detach, None),
            "No gradient comes back through mu: the encoder would never learn where z should be. Something cuts the "
            "path there (`detach`, `no_grad`, `.data`).",
        ),
        (
            squashed(None, torch.detach),
            "No gradient comes back through log_var: the encoder would never learn how uncertain to be. Something cuts "
            "the path there (`detach`, `no_grad`, `.data`).",
        ),
        (
            lambda out: torch.stack(out.split(2, 1)),
            "`split(2, 1)` makes pieces of 2 numbers, right for D = 2 alone: it asks how long each piece is, and "
            "`chunk` how many there are. Two pieces of D numbers are meant.",
        ),
        (lambda out: split_head(out)[0], "This is mu alone. A pair is asked, mu and log_var."),
        (lambda out: split_head(out)[1], "This is log_var alone. A pair is asked, mu and log_var."),
        (lambda out: out, IN_ONE_PIECE),
        (lambda out: out.reshape(len(out), 2, -1), IN_ONE_PIECE),
        (lambda out: torch.stack([split_head(out)[0]] * 2), ONE_HEAD),
        (lambda out: torch.stack([split_head(out)[1]] * 2), ONE_HEAD),
        (lambda out: torch.stack(split_head(out)[::-1]), "The halves are exchanged: mu comes first, then log_var."),
        (
            lambda out: torch.stack([out[:, 0::2], out[:, 1::2]]),
            "You take every other number: the halves are interleaved. Here the first D belong to mu and the last D to "
            "log_var.",
        ),
        (
            lambda out: out.reshape(2, len(out), -1),
            "Your halves mix examples: a `view` or `reshape` runs through the rows in order. Each row is to be cut in "
            "the middle: dimension 1.",
        ),
        (
            lambda out: torch.stack(out.chunk(2, 0)),
            "You cut the batch in halves, dimension 0. Each example has numbers of both kinds: cut along dimension 1.",
        ),
        *[(squashed(*pair), SQUASHED) for f in (torch.sigmoid, torch.tanh) for pair in ((f, f), (f, None), (None, f))],
        (
            squashed(None, softplus),
            "softplus makes your log_var positive. The variance has to be positive, and exp(log_var) is; its logarithm "
            "may be negative, and a posterior that knows something has it so.",
        ),
        (squashed(None, torch.relu), "Your log_var is never negative (relu): no posterior is narrower than the prior."),
        (squashed(None, torch.exp), "You give the variance, exp(log_var). Its logarithm is asked, as it is."),
        (
            squashed(None, lambda v: (v / 2).exp()),
            "You give the standard deviation, exp(log_var / 2). The log-variance is asked, as it is.",
        ),
    ],
)

# ---- reparameterise ------------------------------------------------------------------------------------------------


def reparameterise(mu: Tensor, log_var: Tensor, eps: Tensor) -> Tensor:
    # σ = exp(½ log σ²). eps carries all the chance, so z is a smooth function of mu and log_var.
    return mu + (log_var / 2).exp() * eps


def posteriors_with_noise(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    def draw(batch: int, n_latents: int, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var, eps = (torch.randn(batch, n_latents, generator=generator) for _ in range(3))
        return mu, 1.5 * log_var + shift, eps

    easy = [[0.0, 1.0], [2.0, -1.0]], [[2.0, 1.0], [-1.0, 0.5]], [[1.0, -1.0], [0.5, 2.0]]
    mu, _, eps = draw(3, 4)
    return [
        tuple(map(torch.tensor, easy)),
        draw(4, 4),
        draw(5, 2),
        draw(1, 3),
        (mu, torch.full_like(mu, -20.0), eps),  # a posterior that is almost certain
        draw(3, 2, shift=5.0),  # every log_var above 0
        draw(64, 16),
    ]


def with_noise(scale: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """mu + scale(log_var) · eps."""
    return lambda mu, log_var, eps: mu + scale(log_var) * eps


def shared_noise(noise: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda mu, log_var, eps: reparameterise(mu, log_var, noise(eps))


SQUASHED_Z = (
    "You squash z, or what it is made of (sigmoid or tanh). The prior N(0, I) reaches beyond any bound, so z has to be "
    "able to, and the KL of the loss is computed without the squashing."
)

REPARAMETERISE = Exercise(
    reference=reparameterise,
    statement="A draw z from q(z|x) = N(mu, diag exp log_var), made of the standard normal noise eps that is given; "
    "all are (B, D). Training has to reach mu and log_var through z.",
    nudge="Stretch the noise, then move it. By the variance or by the standard deviation? And how do you get that one "
    "from log σ²?",
    right="gradients included: z is a function of mu and log_var in which chance is only an input, so training can "
    "differentiate it.",
    inputs=posteriors_with_noise,
    differentiate=("mu", "log_var"),
    wrong=[
        (
            lambda mu, v, eps: reparameterise(mu, v.detach(), eps),
            "No gradient comes back to log_var: the reconstruction never teaches the encoder how uncertain to be. "
            "Something cuts the path there (`detach`, `no_grad`, `.data`).",
        ),
        (
            lambda mu, v, eps: reparameterise(mu.detach(), v, eps),
            "No gradient comes back to mu: the reconstruction never teaches the encoder where z should be. Something "
            "cuts the path there (`detach`, `no_grad`, `.data`).",
        ),
        (
            lambda mu, v, eps: mu,
            "There is no noise in your z: this is mu. The decoder then never meets a z that it has not been shown, and "
            "what is trained is a plain autoencoder.",
        ),
        (with_noise(torch.exp), "You stretch the noise by exp(log_var), the variance. Its root is σ = exp(½ log_var)."),
        (
            with_noise(lambda v: v),
            "You stretch the noise by log_var itself. It is a logarithm, and may be negative: exp makes a variance of "
            "it, and half of it a standard deviation.",
        ),
        (with_noise(lambda v: v / 2), "You stretch the noise by log σ. exp is missing: σ = exp(½ log_var)."),
        (with_noise(lambda v: v.exp() / 2), "The ½ stands outside of exp. Half of the variance is not its root."),
        (with_noise(lambda v: (-v / 2).exp()), "You divide the noise by σ: a certain encoder gets a lot of noise."),
        (with_noise(torch.ones_like), "log_var does not appear: the encoder cannot say how certain it is."),
        (lambda mu, v, eps: (v / 2).exp() * eps, "mu does not appear: your z knows nothing about where x lies."),
        (lambda mu, v, eps: mu + (v / 2).exp(), "eps does not appear: you always go one σ up. σ multiplies the noise."),
        (
            lambda mu, v, eps: (mu + eps) * (v / 2).exp(),
            "You stretch mu as well. Stretch the noise first, then move it by mu.",
        ),
        (lambda mu, v, eps: mu * (v / 2).exp() + eps, "You stretch mu and leave the noise as it is: σ multiplies eps."),
        (lambda mu, v, eps: reparameterise(mu, v, eps).sigmoid(), SQUASHED_Z),
        (lambda mu, v, eps: reparameterise(mu, v, eps).tanh(), SQUASHED_Z),
        (lambda mu, v, eps: reparameterise(mu.sigmoid(), v.sigmoid(), eps), SQUASHED_Z),
        (lambda mu, v, eps: reparameterise(mu.sigmoid(), v, eps), SQUASHED_Z),
        (shared_noise(lambda eps: eps[:1]), "All examples share the noise of the first. Each has its own: all of eps."),
        (
            shared_noise(lambda eps: eps[:, :1]),
            "All latents of an example share one number of noise. q has independent latents: all of eps.",
        ),
    ],
)

# ---- kl_to_standard_normal -----------------------------------------------------------------------------------------


def kl_to_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    # KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − 1 − log σ²) for one latent. They are independent in both: a sum over D.
    return (mu.square() + log_var.exp() - 1 - log_var).sum(dim=1) / 2


def gaussian_posteriors(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(batch: int, n_latents: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        mu, log_var = (scale * torch.randn(batch, n_latents, generator=generator) for _ in range(2))
        return mu, log_var

    wide = 0.2 + torch.rand(4, 3, generator=generator)
    return [
        (torch.tensor([[0.0, 0.0], [1.0, -2.0]]), torch.tensor([[1.0, 1.0], [0.0, -1.0]])),
        draw(4, 4),
        draw(5, 2),
        draw(1, 3),
        (torch.zeros(3, 4), torch.zeros(3, 4)),  # the posterior is the prior
        (torch.zeros(4, 3), wide),  # every log_var above 0
        draw(2, 6, scale=3.0),
        (torch.full((2, 2), 10.0), torch.tensor([[-20.0, 5.0], [-10.0, 0.0]])),
        draw(64, 16),
    ]


def summed(term: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """½ Σ_d term(mu, log_var)."""
    return lambda mu, log_var: term(mu, log_var).sum(1) / 2


KL_TO_STANDARD_NORMAL = Exercise(
    reference=kl_to_standard_normal,
    statement="KL(N(mu, diag exp log_var) ‖ N(0, I)) of each example, in nats: mu and log_var are (B, D) each, the "
    "result is (B,). It is a part of the loss, so its gradients are compared as well.",
    nudge="For one latent it is the mean, under q, of log q(z) − log p(z): two Gaussian logarithms, of which E[z²] = "
    "μ² + σ² is all that you need. Then D latents, independent in both.",
    right="gradients, and posteriors almost certain and very wide, included. It is 0 only at mu = 0, log_var = 0: the "
    "price in nats for what z tells of x.",
    inputs=gaussian_posteriors,
    differentiate=("mu", "log_var"),
    wrong=[
        (
            lambda mu, v: kl_to_standard_normal(mu, v).detach(),
            "No gradient comes back to mu or log_var, so nothing holds the posterior near the prior. A `detach`, "
            "`no_grad`, `.data`, numpy or `.item()` cuts the path.",
        ),
        (
            lambda mu, v: kl_to_standard_normal(mu, v.detach()),
            "No gradient comes back to log_var: the prior never tells the encoder to be less certain. Something cuts "
            "the path there (`detach`, `no_grad`, `.data`).",
        ),
        (
            lambda mu, v: kl_to_standard_normal(mu.detach(), v),
            "No gradient comes back to mu: the prior never pulls z towards 0. Something cuts the path there "
            "(`detach`, `no_grad`, `.data`).",
        ),
        (
            summed(lambda mu, v: mu.square() + v.square() - 1 - v),
            "log_var² stands where the variance belongs. σ² = exp(log_var): the name says log.",
        ),
        (
            summed(lambda mu, v: mu.square() + (v / 2).exp() - 1 - v),
            "You have exp(½ log_var), the standard deviation, where the variance belongs.",
        ),
        (summed(lambda mu, v: mu.square() + v.exp() - 1 - v / 2), "You subtract log σ, the half of log_var = log σ²."),
        (summed(lambda mu, v: mu.square() + (2 * v).exp() - 1 - 2 * v), "You take log_var for log σ. It is log σ²."),
        (
            summed(lambda mu, v: mu.square() + v - 1 - v.log()),
            "You take log_var for the variance itself. It is the variance's logarithm, and may be negative: exp "
            "makes σ² of it, and no log is left to take.",
        ),
        (summed(lambda mu, v: mu + v.exp() - 1 - v), "mu is not squared: below 0 it would earn nats."),
        (lambda mu, v: 2 * kl_to_standard_normal(mu, v), "The ½ is missing: a Gaussian's logarithm has one."),
        (summed(lambda mu, v: mu.square() + v.exp() - v), "The −1 is missing: at mu = 0, log_var = 0 the KL is 0."),
        (
            lambda mu, v: ((mu.square() + v.exp() - v).sum(1) - 1) / 2,
            "The 1 is subtracted once for the whole example. Each latent has one of its own: it belongs inside the sum "
            "over D.",
        ),
        (
            summed(lambda mu, v: mu.square() + v.exp() - 1 + v),
            "log_var has the wrong sign: −½ (1 + log_var − …). It is the entropy of q, which the KL subtracts; as you "
            "have it, q would be driven to certainty.",
        ),
        (summed(lambda mu, v: v.exp() - 1 - v), "mu does not appear: a posterior far from the prior costs nothing."),
        (summed(lambda mu, v: mu.square()), "log_var does not appear: this is the KL of a q with variance 1."),
        (
            summed(lambda mu, v: mu.square() + v.exp() - 1),
            "log_var itself is missing: it is the entropy of q, and without it a q of variance 0 would cost least.",
        ),
        (summed(lambda mu, v: v + (1 + mu.square()) / v.exp() - 1), "This is KL(N(0, I) ‖ q), the other direction."),
        (
            lambda mu, v: kl_to_standard_normal(mu, v) / mu.shape[1],
            "You average over the latents. q and the prior are products over them, so their KLs are summed; the mean "
            "makes the prior D times too weak.",
        ),
        (
            lambda mu, v: kl_to_standard_normal(mu, v).sum(),
            "This is one sum over the latents and the batch. One value for each example is asked, (B,): sum over "
            "dimension 1 alone.",
        ),
        (
            lambda mu, v: kl_to_standard_normal(mu, v).mean() / mu.shape[1],
            "You average over batch and latents at once (`torch.mean`). The latents of an example are summed, and each "
            "example keeps its value.",
        ),
        (lambda mu, v: kl_to_standard_normal(mu.T, v.T), "You sum over the batch. The latents lie along dimension 1."),
    ],
)

# ---- negative_elbo -------------------------------------------------------------------------------------------------


def negative_elbo(log_p_pixels: Tensor, kl: Tensor) -> Tensor:
    # The pixels are independent given z: log p(x|z) is their sum, and only examples are averaged.
    reconstruction = log_p_pixels.flatten(start_dim=1).sum(dim=1)  # (B, C, H, W) -> (B,)
    return (kl - reconstruction).mean()


def parts_of_the_loss(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(*shape: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        log_p = -scale * torch.rand(shape, generator=generator)
        return log_p, 5 * torch.rand(shape[0], generator=generator)

    easy = torch.tensor([[-1.0, -2.0, 0.0, -1.0], [-3.0, 0.0, -1.0, 0.0]]).view(2, 1, 2, 2)
    return [
        (easy, torch.tensor([3.0, 1.0])),
        draw(4, 1, 4, 4),
        draw(3, 3, 2, 5),
        draw(5, 2, 3, 3, scale=3.0),
        draw(1, 3, 4, 2),
        (draw(4, 3, 4, 4)[0], torch.zeros(4)),  # a collapsed posterior
        draw(32, 1, 8, 8),
        (3 * torch.rand(4, 2, 3, 3, generator=generator), torch.rand(4, generator=generator)),  # densities above 1
    ]


def loss_of(parts: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of log p(x|z), (B,), and the KL, (B,)."""
    return lambda log_p, kl: parts(log_p.flatten(1).sum(1), kl)


PIXELS_AVERAGED = (
    "You average log p over the pixels while the KL is summed over the latents. That is the ELBO with a β as large as "
    "the number of pixels: the posterior collapses. Sum over C, H and W; average over the batch alone."
)

NEGATIVE_ELBO = Exercise(
    reference=negative_elbo,
    statement="The loss of a VAE, a scalar in nats for an example: from log p of each pixel given z, (B, C, H, W), and "
    "the KL of each example, (B,).",
    nudge="The ELBO of one example first: which part is a sum over pixels, and which sign has the KL? Then the mean "
    "over the batch, and what a loss has to do.",
    right="colour images, a collapsed posterior and gradients included. Pixels are summed, examples averaged: only so "
    "are both parts nats of the same image.",
    inputs=parts_of_the_loss,
    differentiate=("log_p_pixels", "kl"),
    wrong=[
        (
            lambda p, kl: negative_elbo(p.detach(), kl),
            "No gradient comes back to log p, so nothing learns to reconstruct: training would only bring the "
            "posterior to the prior. Something cuts the path there (`.item()`, `detach`, `.data`).",
        ),
        (
            lambda p, kl: negative_elbo(p, kl.detach()),
            "No gradient comes back to the KL, so nothing holds the posterior near the prior: a plain autoencoder is "
            "trained. Something cuts the path there (`.item()`, `detach`, `.data`).",
        ),
        (lambda p, kl: kl.mean() - p.mean(), PIXELS_AVERAGED),
        (lambda p, kl: kl.mean() - p.sum((2, 3)).mean(), "You average over the channels. C, H and W are all summed."),
        (lambda p, kl: kl.mean() - p.sum(1).mean(), "You average over rows and columns. C, H and W are all summed."),
        (
            loss_of(lambda p, kl: kl.mean() - p.sum()),
            "log p is summed over the batch and the KL averaged: the KL then counts B times too little. Both are "
            "averaged over the batch.",
        ),
        (
            loss_of(lambda p, kl: kl.sum() - p.mean()),
            "The KL is summed over the batch and log p averaged: the KL then counts B times too much. Both are "
            "averaged over the batch.",
        ),
        (
            loss_of(lambda p, kl: -(p + kl).mean()),
            "The KL has the wrong sign: your loss falls when the posterior leaves the prior. ELBO = log p(x|z) − KL, "
            "and the loss is its negative.",
        ),
        (loss_of(lambda p, kl: (p + kl).mean()), "log p(x|z) has the wrong sign. The loss is −log p(x|z) + KL."),
        (loss_of(lambda p, kl: (kl / 2 - p).mean()), "The KL is halved. Its ½ is in the closed form already."),
        (loss_of(lambda p, kl: -p.mean()), "The KL does not appear: this trains a plain autoencoder."),
        (loss_of(lambda p, kl: kl.mean()), "The reconstruction does not appear: yours knows nothing of x."),
        (loss_of(lambda p, kl: p - kl), "These are the ELBOs of each example. The loss is the negative of their mean."),
        (
            lambda p, kl: negative_elbo(p, kl) / p[0].numel(),
            "You divide everything by the number of pixels. Nats for a pixel are a good figure to report, but the loss "
            "is in nats for an example.",
        ),
        (
            lambda p, kl: kl.mean() + p.abs().flatten(1).sum(1).mean(),
            "You take the absolute value of log p. A density may be above 1 and its logarithm positive; then this "
            "turns the sign.",
        ),
    ],
)

EXERCISES = [
    PPCA_POSTERIOR_MEAN,
    ELBO_GAP,
    GAUSSIAN_LOG_LIKELIHOOD,
    SPLIT_HEAD,
    REPARAMETERISE,
    KL_TO_STANDARD_NORMAL,
    NEGATIVE_ELBO,
]
