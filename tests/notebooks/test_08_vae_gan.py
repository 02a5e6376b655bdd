"""What notebook 08 states as equations, each against sums over small tables or quadrature."""

from __future__ import annotations

import torch
from broken_library import instead_of
from helpers import close
from torch.distributions import Normal
from torch.nn.functional import avg_pool2d

from dgm_lib.measures.judges import Judge
from dgm_lib.models.vae_gan import VAEGAN


def truths(seed=0, k=5, d=7):
    """Candidates (k, d) and their probabilities (k,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(k, d, generator=generator, dtype=torch.float64)
    return x, torch.rand(k, generator=generator, dtype=torch.float64).softmax(0)


def expected_error(x, weights, answer):
    return weights @ (x - answer).square().sum(-1)


def test_the_mean_has_the_least_squared_error():
    """E‖x − a‖² = E‖x − Ex‖² + ‖Ex − a‖² for any answer a."""
    x, weights = truths()
    mean = weights @ x
    for answer in (torch.zeros(7).double(), x[2], mean + 0.1, mean):
        split = expected_error(x, weights, mean) + (mean - answer).square().sum()
        close(expected_error(x, weights, answer), split.item())


def test_another_truth_has_double_the_error():
    x, weights = truths(seed=1)
    pairs = (x[:, None] - x).square().sum(-1)  # all pairs of independent truths
    close(weights @ pairs @ weights, 2 * expected_error(x, weights, weights @ x).item())


def test_the_error_of_the_ramp_is_the_variance_of_a_pixel():
    """A step at a normal place: a pixel is 1 with the probability Φ, so its variance is Φ (1 − Φ)."""
    pixel = torch.tensor([-2.0, 0.3, 1.7], dtype=torch.float64)
    where = torch.linspace(-15, 15, 300_001, dtype=torch.float64)
    p = Normal(0.0, 1.5).log_prob(where).exp() * (where[1] - where[0])
    steps = (pixel[:, None] > where).double()
    mean = steps @ p
    close(mean, Normal(0.0, 1.5).cdf(pixel), atol=1e-4, rtol=0)
    close((steps - mean[:, None]).square() @ p, mean * (1 - mean), atol=1e-9, rtol=1e-6)


def test_a_gaussian_likelihood_is_squared_error():
    x, centre = truths()[0][:2]
    for sigma in (0.2, 1.0):
        here, there = (Normal(c, sigma).log_prob(x).sum() for c in (centre, centre + 0.3))
        errors = [(x - c).square().sum() for c in (centre, centre + 0.3)]
        close(here - there, ((errors[1] - errors[0]) / (2 * sigma**2)).item())


def test_smaller_features_have_a_smaller_error_and_nothing_else():
    a, b = truths()[0][:2]
    close((0.1 * a - 0.1 * b).square().sum(), 0.01 * (a - b).square().sum().item())


# ---- a break of the library that the notebook must notice ----------------------------------------------------------


@instead_of(Judge.features, turns="nearest for the judge: moved by a pixel", batches=2)
def judge_that_sees_blurred_pixels(features, judge, x):
    return avg_pool2d(x, 7, stride=3).flatten(1)


@instead_of(VAEGAN.decoder_loss, turns="decoder_loss ≈", batches=2)
def game_without_its_weight(decoder_loss, model, x, y=None):
    weight, model.game_weight = model.game_weight, 1.0
    loss = decoder_loss(model, x, y)
    model.game_weight = weight
    return loss
