"""Pixel likelihoods sum to 1 over their levels, agree with independent formulas, and refuse what is off the grid."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent

from dgm_lib.distributions import (
    CategoricalPixels,
    DiscretizedLogistic,
    StandardNormal,
    bernoulli,
    discretized_logistic_mixture,
    to_levels,
)

LEVELS = (2, 17, 256)


def build(kind, levels, batch=(3, 4)):
    """A likelihood of each kind with parameters far from trivial, in double precision."""
    draw = torch.Generator().manual_seed(levels)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    if kind == "bernoulli":
        return bernoulli(3 * normal(*batch))
    if kind == "categorical":
        return CategoricalPixels(3 * normal(*batch, levels))
    if kind == "logistic":
        return DiscretizedLogistic(0.5 + normal(*batch), 2 * normal(*batch) - 2, levels)
    return discretized_logistic_mixture(normal(*batch, 5), 0.5 + normal(*batch, 5), 2 * normal(*batch, 5) - 2, levels)


def grid(levels, dims=2):
    return (torch.arange(levels, dtype=torch.float64) / (levels - 1)).view(-1, *[1] * dims)


KINDS = [("bernoulli", 2)] + [(kind, levels) for kind in ("categorical", "logistic", "mixture") for levels in LEVELS]


@pytest.mark.parametrize(("kind", "levels"), KINDS)
def test_probabilities_sum_to_one_over_all_levels(kind, levels):
    total = build(kind, levels).log_prob(grid(levels)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(3, 4, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("kind", "levels"), KINDS)
def test_mean_is_the_sum_over_levels(kind, levels):
    likelihood = build(kind, levels)
    expected = (likelihood.log_prob(grid(levels)).exp() * grid(levels)).sum(0)
    torch.testing.assert_close(likelihood.mean, expected)


@pytest.mark.parametrize(("kind", "levels"), [k for k in KINDS if k[1] < 256])
def test_samples_have_the_probabilities_that_log_prob_says(kind, levels):
    torch.manual_seed(0)
    likelihood, n = build(kind, levels, batch=(2,)), 20_000
    draws = to_levels(likelihood.sample((n,)), levels)  # (n, 2)
    frequency = torch.stack([(draws == k).double().mean(0) for k in range(levels)])
    probability = likelihood.log_prob(grid(levels, 1)).exp()
    assert ((frequency - probability).abs() < 4.5 * (probability / n).sqrt() + 1e-3).all()


def test_bernoulli_is_torchs():
    logits, x = torch.randn(5, 7), torch.randint(0, 2, (5, 7)).float()
    torch.testing.assert_close(bernoulli(logits).log_prob(x), Bernoulli(logits=logits).log_prob(x))


def test_discretized_logistic_is_the_difference_of_its_cdf_where_that_is_safe():
    loc, log_scale, levels = torch.tensor([0.4, 0.7]).double(), torch.tensor([-1.0, -2.0]).double(), 17
    x, half = grid(levels, 1), 0.5 / (levels - 1)
    cdf = lambda v: torch.sigmoid((v - loc) / log_scale.exp())  # noqa: E731
    upper, lower = cdf(x + half), cdf(x - half)
    upper[-1], lower[0] = 1.0, 0.0  # the edge bins take the tails
    expected = (upper - lower).log()
    torch.testing.assert_close(DiscretizedLogistic(loc, log_scale, levels).log_prob(x), expected)


def test_discretized_logistic_stays_finite_where_the_plain_difference_underflows():
    loc = torch.tensor([50.0, -50.0, 0.2, 1e6], requires_grad=True)
    log_scale = torch.tensor([-6.0, -6.0, -9.0, 8.0], requires_grad=True)
    log_p = DiscretizedLogistic(loc, log_scale, 256).log_prob(torch.tensor([0.0, 1.0, 200 / 255, 0.0]))
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert loc.grad.isfinite().all()
    assert log_scale.grad.isfinite().all()


@pytest.mark.parametrize("log_scale", [-1e4, -100, -90, -60, -20, 20, 60, 90, 100, 1e4])
@pytest.mark.parametrize("loc", [0.0, 0.3, 1.0, -50.0])
def test_discretized_logistic_stays_finite_at_any_scale(log_scale, loc):
    """float32, where e^90 is infinite; 0 and 1 are the edge bins, whose formula is another."""
    loc = torch.full((3,), loc, requires_grad=True)
    log_scale = torch.full((3,), float(log_scale), requires_grad=True)
    likelihood = DiscretizedLogistic(loc, log_scale, 256)
    log_p = likelihood.log_prob(torch.tensor([0.0, 100 / 255, 1.0]))
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert loc.grad.isfinite().all()
    assert log_scale.grad.isfinite().all()
    torch.testing.assert_close(likelihood.log_prob(grid(256, 1).float()).exp().sum(0), torch.ones(3))
    assert to_levels(likelihood.sample((10,)), 256).shape == (10, 3)


def test_very_wide_logistics_are_coins_between_the_edges_and_very_narrow_ones_one_level():
    wide, narrow = (DiscretizedLogistic(torch.tensor(0.3), torch.tensor(scale), 11) for scale in (100.0, -100.0))
    torch.testing.assert_close(wide.log_prob(grid(11, 0).float()).exp(), torch.eye(11)[[0, 10]].mean(0))
    torch.testing.assert_close(narrow.log_prob(grid(11, 0).float()).exp(), torch.eye(11)[3])


def test_likelihoods_can_be_printed():
    assert repr(CategoricalPixels(torch.zeros(2, 3, 17))) == "CategoricalPixels(17 levels, batch_shape (2, 3))"
    assert repr(build("logistic", 256)) == "DiscretizedLogistic(256 levels, batch_shape (3, 4))"
    for kind, name in (("bernoulli", "CategoricalPixels(2 levels"), ("mixture", "DiscretizedLogistic(2 levels")):
        assert name in repr(Independent(build(kind, 2), 1))


def test_images_are_scored_whole():
    likelihood = Independent(DiscretizedLogistic(torch.rand(6, 1, 8, 8), torch.zeros(6, 1, 8, 8), 17), 3)
    x = likelihood.sample()
    assert x.shape == (6, 1, 8, 8)
    assert likelihood.log_prob(x).shape == (6,)
    each = DiscretizedLogistic(likelihood.base_dist.loc, torch.zeros(()), 17).log_prob(x)
    torch.testing.assert_close(likelihood.log_prob(x), each.flatten(1).sum(1))


@pytest.mark.parametrize(
    ("x", "levels", "value"),
    [
        ([0.0, 0.5], 2, "0.5"),
        ([1.25], 17, "1.25"),
        ([-0.0625], 17, "-0.0625"),
        ([float("nan")], 17, "nan"),
        ([16.0], 17, "16"),
    ],
)
def test_a_value_off_the_grid_is_named(x, levels, value):
    with pytest.raises(ValueError, match=rf"a pixel is {value}, not k/{levels - 1} with"):
        to_levels(torch.tensor(x), levels)


def test_levels_come_back_from_floats():
    for levels in LEVELS:
        k = torch.arange(levels)
        assert torch.equal(to_levels(k.float() / (levels - 1), levels), k)


def test_standard_normal_prior():
    prior = StandardNormal(3)
    z = torch.zeros(2, 3)
    torch.testing.assert_close(prior.log_prob(z), torch.full((2,), -1.5 * math.log(2 * math.pi)))
    assert prior.sample(5).shape == (5, 3)
    assert prior.double().sample(5).dtype == torch.float64  # moves with its model
