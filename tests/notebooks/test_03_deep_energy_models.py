"""What notebook 03 states as equations, each against a closed form, quadrature or a recursion."""

from __future__ import annotations

import math

import pytest
import torch
from broken_library import instead_of
from helpers import close
from torch.distributions import Categorical, MixtureSameFamily, Normal

from dgm_lib import plots, samplers
from dgm_lib.measures import metrics


@pytest.mark.parametrize("temperature", [1.0, 0.25, 4.0])
@pytest.mark.parametrize("step_size", [0.05, 0.5, 1.0])
def test_the_variance_of_a_langevin_chain_in_a_bowl(step_size, temperature):
    """v = (1−η)² v + σ² settles at T / (1 − η/2), with T = σ²/2η."""
    sigma = math.sqrt(2 * step_size * temperature)
    v = 0.0
    for _ in range(2000):
        v = (1 - step_size) ** 2 * v + sigma**2
    assert v == pytest.approx(temperature / (1 - step_size / 2))
    assert temperature == pytest.approx(sigma**2 / (2 * step_size))


def line(extent=10.0, n=20_001):
    x = torch.linspace(-extent, extent, n, dtype=torch.float64)
    return x, (x[1] - x[0]).item()


def test_the_gradient_of_minus_log_p_is_data_minus_model():
    """E(x) = θ x²/2 + x⁴/4: ∂ log Z / ∂θ by autograd through quadrature is −E_p[x²/2]."""
    x, width = line()
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    log_z = (-(theta * x**2 / 2 + x**4 / 4)).logsumexp(0) + math.log(width)
    p = (-(theta * x**2 / 2 + x**4 / 4) - log_z).exp().detach() * width
    at = torch.tensor(1.3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(theta * at**2 / 2 + at**4 / 4 + log_z, theta)
    close(gradient, at**2 / 2 - (p * x**2 / 2).sum())


def test_one_step_of_the_score_is_the_mean_of_what_was_blurred():
    """E[x | x̃] = x̃ + s² ∇log p(x̃), against the posterior mean by quadrature, for a density that is no Gaussian."""
    s, bumps = (
        0.4,
        MixtureSameFamily(
            Categorical(torch.tensor([0.3, 0.7]).double()), Normal(*torch.tensor([[-1.0, 2.0], [0.3, 0.8]]).double())
        ),
    )
    x, width = line()
    noisy = torch.tensor([-1.4, 0.1, 0.6, 3.0], dtype=torch.float64, requires_grad=True)
    joint = (bumps.log_prob(x) + Normal(x, s).log_prob(noisy[:, None])).exp() * width  # (4, n)
    log_p = joint.sum(1).log()
    (score,) = torch.autograd.grad(log_p.sum(), noisy)
    posterior = joint.detach() / joint.detach().sum(1, keepdim=True)
    close(noisy.detach() + s**2 * score, (posterior * x).sum(1))


def test_the_best_classifier_of_data_against_noise_knows_the_ratio():
    """The logit that makes the cross-entropy smallest is log p − log q, point by point."""
    p, q = 0.2, 0.05
    logit = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    best = torch.tensor(math.log(p / q), dtype=torch.float64, requires_grad=True)

    def cross_entropy(logit):
        return p * torch.nn.functional.softplus(-logit) + q * torch.nn.functional.softplus(logit)

    close(torch.autograd.grad(cross_entropy(best), best)[0], 0.0)
    assert cross_entropy(best) < cross_entropy(logit)


def test_two_conditions_multiply_and_the_density_is_divided_out():
    """p(x | a, b) ∝ p(x|a) p(x|b) / p(x) where a and b are independent given x, by enumeration of five states."""
    p = torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25]).double()
    a, b = torch.tensor([0.9, 0.2, 0.5, 0.4, 0.7]).double(), torch.tensor([0.3, 0.8, 0.1, 0.6, 0.5]).double()
    truth = p * a * b / (p * a * b).sum()
    energies = [-(p * a / (p * a).sum()).log(), -(p * b / (p * b).sum()).log(), -p.log()]
    close((-(energies[0] + energies[1] - energies[2])).softmax(0), truth)
    assert ((-(energies[0] + energies[1])).softmax(0) - truth).abs().max() > 0.05


def test_a_grid_adds_up_z():
    """log ∫ exp(−|x|²/2) over the plane is log 2π."""
    points, cell = plots.plane_grid(6.0, 240)
    log_z = metrics.log_z_on_grid(lambda x: -x.square().sum(1) / 2, points, cell)
    assert log_z == pytest.approx(math.log(2 * math.pi), abs=1e-5)


# ---- a break of the library that the notebook must notice ----------------------------------------------------------


@instead_of(samplers.langevin, turns="Langevin as its formula says")
def half_a_drift(langevin, score, x, **options):
    return langevin(lambda x: 0.5 * score(x), x, **options)
