"""What notebook 01 states as equations, each against enumeration, autograd or a closed form."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from broken_library import instead_of
from helpers import close
from torch.distributions import MultivariateNormal, Normal

from dgm_lib import datasets
from dgm_lib.datasets import dequantize
from dgm_lib.models.baselines import IndependentPixels, NaiveBayes


def random_distributions(n, k, seed=0):
    """n distributions over k states, float64."""
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed)).double().log().softmax(1)


# ---- maximum likelihood and KL -------------------------------------------------------------------------------------


def test_derivatives_of_the_gaussian_log_likelihood_and_where_they_vanish():
    x = torch.tensor([0.3, -1.2, 2.5, 0.9]).double()
    mu, sigma = torch.tensor(0.4).double().requires_grad_(), torch.tensor(1.7).double().requires_grad_()
    by_mu, by_sigma = torch.autograd.grad(Normal(mu, sigma).log_prob(x).sum(), (mu, sigma))
    close(by_mu, ((x - mu) / sigma**2).sum())
    close(by_sigma, ((x - mu) ** 2 / sigma**3 - 1 / sigma).sum())
    best = (x.mean().requires_grad_(), x.std(correction=0).requires_grad_())
    for derivative in torch.autograd.grad(Normal(*best).log_prob(x).sum(), best):
        close(derivative, 0.0)


def test_cross_entropy_is_entropy_plus_kl_and_kl_is_not_negative():
    """Also where p has zeros: 0 log 0 is 0."""
    p, q = random_distributions(50, 6, seed=1), random_distributions(50, 6, seed=2)
    p[:25, 2] = 0
    p = p / p.sum(1, keepdim=True)
    cross_entropy, entropy = -torch.xlogy(p, q).sum(1), -torch.xlogy(p, p).sum(1)
    kl = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(1)
    close(cross_entropy, entropy + kl)
    assert (kl > 0).all()
    close(torch.nn.functional.kl_div(p[25:].log(), p[25:], reduction="none").sum(1), torch.zeros(25))


# ---- histogram and mixture -----------------------------------------------------------------------------------------


def test_histogram_is_a_density():
    """A share divided by an area, with a tenth of a point added to each cell, integrates to 1."""
    x = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)).double() * 4 - 2
    bins, area = 12, (4 / 12) ** 2
    cells = ((x + 2) / 4 * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(bins, bins).double().index_put_(tuple(cells.T), torch.ones(()).double(), accumulate=True)
    density = (counts + 0.1) / (len(x) + 0.1 * bins**2) / area
    close(counts.sum(), 500.0)
    close((density * area).sum(), 1.0)


def test_derivative_of_a_mixture_by_its_means():
    """Σ_i r_ik Σ_k⁻¹ (x_i − μ_k)."""
    generator = torch.Generator().manual_seed(0)
    x, mu = (torch.randn(n, 2, generator=generator).double() for n in (20, 3))
    roots = torch.randn(3, 2, 2, generator=generator).double()
    covariance, weights = roots @ roots.mT + torch.eye(2), torch.tensor([0.2, 0.5, 0.3]).double()
    mu.requires_grad_()
    log_joint = weights.log() + MultivariateNormal(mu, covariance).log_prob(x[:, None])  # (N, K)
    (gradient,) = torch.autograd.grad(log_joint.logsumexp(1).sum(), mu)
    r = log_joint.exp() / log_joint.exp().sum(1, keepdim=True)
    close(gradient, torch.einsum("nk,kij,nkj->ki", r, torch.linalg.inv(covariance), x[:, None] - mu))


# ---- the ruler -----------------------------------------------------------------------------------------------------


def test_a_model_of_99_percent_noise_loses_at_most_log_100():
    digits = datasets.load("digits")
    train, test = digits.train.scaled(), digits.test.scaled()
    good = NaiveBayes.fit(train, digits.train.y, 17, 10).double().log_prob(test)
    noise = IndependentPixels((1, 8, 8), 17).double().log_prob(test)
    close(noise, [-64 * math.log(17)] * len(test))
    lost = good - torch.logaddexp(good + math.log(0.01), noise + math.log(0.99))
    assert (lost <= math.log(100) + 1e-9).all()
    assert lost.mean() > math.log(100) - 1e-3  # noise itself helps no digit
    assert lost.mean() + (-good).mean() < 106.3  # and beats independent pixels


def test_dequantisation_bound():
    """log P(k) ≥ E_u[log p((k + u)/L)] − D log L, where P(k) is the mass of the cell: p(x) = Π_i 2 x_i, D = 2."""
    torch.manual_seed(0)
    levels, spread = 4, dequantize(4)
    for k in torch.tensor(list(product(range(levels), repeat=2)), dtype=torch.uint8):
        left, right = k.double() / levels, (k.double() + 1) / levels
        log_mass = (right**2 - left**2).log().sum()
        log_p = (2 * spread(k.expand(20_000, 2)).double()).log().sum(1)
        bound, error = log_p.mean() - 2 * math.log(levels), log_p.std() / len(log_p) ** 0.5
        exact = 2 * math.log(2) + sum(mean_log(a, b) for a, b in zip(left.tolist(), right.tolist()))
        assert exact - 2 * math.log(levels) < log_mass
        assert abs(bound - (exact - 2 * math.log(levels))) < 5 * error


def mean_log(a, b):
    """The mean of log x over [a, b]."""
    antiderivative = lambda x: x * math.log(x) - x if x else 0.0  # noqa: E731
    return (antiderivative(b) - antiderivative(a)) / (b - a)


def test_dequantisation_loses_nothing_where_the_density_is_flat_in_each_cell():
    table = random_distributions(1, 5)[0]
    x = dequantize(5)(torch.arange(5, dtype=torch.uint8).expand(100, 5))
    density = 5 * table[(x * 5).long()]
    close(density.log().mean(0) - math.log(5), table.log())


def test_density_changes_with_the_unit_by_log_k_for_each_dimension():
    """p_kX(kx) = p_X(x) / k^D: a Gaussian of levels 0 … 16 and of [0, 1]; 64 ln 16 = 177.4 nats for a whole image."""
    x, deviations = torch.randn(10, 64).double(), torch.linspace(0.5, 2, 64).double()
    in_levels = Normal(0, 16 * deviations).log_prob(16 * x).sum(1)
    close(in_levels, Normal(0, deviations).log_prob(x).sum(1) - 64 * math.log(16))
    assert 64 * math.log(16) == pytest.approx(177.4, abs=0.05)


# ---- Z and high dimensions -----------------------------------------------------------------------------------------


def log_z_by_enumeration(side, cost=0.8):
    x = torch.tensor(list(product((0, 1), repeat=side**2))).view(-1, side, side)
    differing = x.diff(dim=1).abs().sum((1, 2)) + x.diff(dim=2).abs().sum((1, 2))
    return torch.logsumexp(-cost * differing.double(), 0)


def log_z_by_transfer_matrix(side, cost=0.8):
    """Row by row: Z = 1ᵀ V (T V)^(side−1) 1, V the cost within a row and T that between two."""
    rows = torch.tensor(list(product((0, 1), repeat=side)))
    within = torch.exp(-cost * rows.diff(dim=1).abs().sum(1).double())
    between = torch.exp(-cost * (rows[:, None] - rows).abs().sum(2).double())
    z = within
    for _ in range(side - 1):
        z = within * (between @ z)
    return z.sum().log()


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_z_by_enumeration_is_z_by_transfer_matrix(side):
    close(log_z_by_enumeration(side), log_z_by_transfer_matrix(side))


def test_z_of_four_pixels_is_that_of_a_ring():
    close(log_z_by_enumeration(2), math.log((1 + math.exp(-0.8)) ** 4 + (1 - math.exp(-0.8)) ** 4))


def share_of_the_ball(d):
    """Volume of the unit ball over that of the cube around it, as notebook 01 computes it."""
    return math.exp(d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) - d * math.log(2))


def test_share_of_the_ball_in_its_cube():
    for d, share in {1: 1, 2: math.pi / 4, 3: math.pi / 6, 4: math.pi**2 / 32}.items():
        assert share_of_the_ball(d) == pytest.approx(share)
    torch.manual_seed(0)
    inside = (torch.rand(200_000, 4) * 2 - 1).norm(dim=1) < 1
    assert inside.double().mean().item() == pytest.approx(math.pi**2 / 32, abs=5 * (0.25 / 200_000) ** 0.5)


def test_a_standard_normal_lives_at_distance_sqrt_d():
    """E‖x‖ = √2 Γ((d+1)/2)/Γ(d/2), between √(d − 1/2) less a trifle and √d."""
    torch.manual_seed(0)
    for d in (1, 2, 10, 64, 1000):
        expected = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
        distance = torch.randn(4000, d).norm(dim=1)
        assert abs(distance.mean() - expected) < 5 * distance.std() / 4000**0.5
        assert abs(distance.std() - math.sqrt(d - expected**2)) < 0.05  # a shell whose thickness does not grow
        assert math.sqrt(d) * (1 - 1 / (3 * d)) < expected < math.sqrt(d) or d == 1


# ---- a break of the library that the notebook must notice ----------------------------------------------------------


@instead_of(IndependentPixels.log_prob, turns="test images of probability zero: 7 of 447")
def nothing_is_impossible(log_prob, model, x):
    """The small number that learners add within a logarithm."""
    return log_prob(model, x).clamp(min=-1000)
