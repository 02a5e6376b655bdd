"""Pixel likelihoods sum to 1 over their levels, agree with independent formulas, and refuse what is off the grid."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from dgm_lib.checks import check_labels
from dgm_lib.distributions import (
    CategoricalPixels,
    DiscretizedLogistic,
    MixturePrior,
    NormalNoise,
    StandardNormal,
    bernoulli_pixels,
    categorical_pixels,
    diagonal_normal,
    discretized_logistic_mixture,
    logistic_mixture_pixels,
    logistic_pixels,
    to_levels,
)

LEVELS = (2, 17, 256)


def build(kind, levels, batch=(3, 4)):
    """A likelihood of each kind with parameters far from trivial, in double precision."""
    draw = torch.Generator().manual_seed(levels)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    if kind == "bernoulli":
        return bernoulli_pixels(3 * normal(*batch))
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
    torch.testing.assert_close(bernoulli_pixels(logits).log_prob(x), Bernoulli(logits=logits).log_prob(x))


def test_bernoulli_takes_0_and_1_and_what_is_them_but_for_rounding():
    likelihood = bernoulli_pixels(torch.randn(3))
    exact = likelihood.log_prob(torch.tensor([0.0, 1.0, 1.0]))
    assert torch.equal(likelihood.log_prob(torch.tensor([1e-3, 0.999, 1.0])), exact)
    assert torch.equal(likelihood.log_prob(torch.tensor([0, 1, 1], dtype=torch.uint8)), exact)
    for grey in (0.3, 0.5, 0.7, -1.0, 2.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"a pixel is {grey:g}, not k/1 with"):
            likelihood.log_prob(torch.tensor([0.0, grey, 1.0]))


def test_bernoulli_stays_exact_at_any_logit_and_its_gradient_is_the_error():
    logits = torch.tensor([-1e4, -30.0, 0.3, 30.0, 1e4], requires_grad=True)
    for x in (0.0, 1.0):
        log_p = bernoulli_pixels(logits).log_prob(torch.tensor(x))
        (gradient,) = torch.autograd.grad(log_p.sum(), logits)
        torch.testing.assert_close(log_p, torch.nn.functional.logsigmoid(logits * (2 * x - 1)))
        torch.testing.assert_close(gradient, x - torch.sigmoid(logits))


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
    for kind, name in (("bernoulli", "BernoulliPixels(2 levels"), ("mixture", "DiscretizedLogistic(2 levels")):
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


# ---- what a decoder gives ------------------------------------------------------------------------------------------

DECODED = [  # function, numbers for each channel of the image, levels
    (bernoulli_pixels, 1, 2),
    (partial(categorical_pixels, levels=5), 5, 5),
    (partial(logistic_pixels, levels=5), 2, 5),
    (partial(logistic_mixture_pixels, levels=5, n_components=3), 9, 5),
]
every_function = pytest.mark.parametrize(("pixels", "n", "levels"), DECODED)


@every_function
def test_decoded_pixels_have_the_shape_of_images_and_sum_to_one(pixels, n, levels):
    torch.manual_seed(0)
    likelihood = pixels(torch.randn(3, 2 * n, 4, 5, dtype=torch.float64))  # images of 2 channels
    assert likelihood.batch_shape == (3, 2, 4, 5)
    assert likelihood.sample().shape == likelihood.mean.shape == (3, 2, 4, 5)
    total = likelihood.log_prob(grid(levels, 4)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


@every_function
def test_the_numbers_of_a_channel_lie_together(pixels, n, levels):
    """The first n are those of the first channel: alone, they say the same of it."""
    torch.manual_seed(0)
    out = torch.randn(3, 2 * n, 4, 5)
    both, first, second = pixels(out), pixels(out[:, :n]), pixels(out[:, n:])
    torch.testing.assert_close(both.mean, torch.cat([first.mean, second.mean], 1))


def test_decoded_numbers_mean_what_they_are_called():
    torch.manual_seed(0)
    x = grid(5, 4).float()
    out = torch.randn(1, 5, 1, 1)
    torch.testing.assert_close(categorical_pixels(out, 5).log_prob(x).flatten(), out.flatten().log_softmax(0))
    loc, log_scale = torch.tensor(0.2), torch.tensor(-0.7)
    out = torch.stack([loc, log_scale]).view(1, 2, 1, 1)
    expected = DiscretizedLogistic(0.5 + loc, log_scale - 2, 5).log_prob(x)
    torch.testing.assert_close(logistic_pixels(out, 5).log_prob(x), expected)
    torch.testing.assert_close(bernoulli_pixels(out).log_prob(torch.ones(())), torch.nn.functional.logsigmoid(out))
    logits, locs, log_scales = torch.randn(3, 2)
    out = torch.cat([logits, locs, log_scales]).view(1, 6, 1, 1)
    parts = DiscretizedLogistic(torch.tensor([1 / 3, 2 / 3]) + locs, log_scales - 2, 5).log_prob(x.view(5, 1))
    expected = (logits.log_softmax(0) + parts).logsumexp(1)
    torch.testing.assert_close(logistic_mixture_pixels(out, 5, 2).log_prob(x).flatten(), expected)


def test_a_decoder_that_says_nothing_says_grey():
    """All its outputs 0, as at the start of training: no level is far more probable than the others."""
    for pixels, n, levels in DECODED:
        likelihood = pixels(torch.zeros(1, n, 1, 1))
        torch.testing.assert_close(likelihood.mean.item(), 0.5)
        assert likelihood.log_prob(grid(levels, 4).float()).exp().min() > 0.2 / levels
    means = logistic_mixture_pixels(torch.zeros(1, 9, 1, 1), 5, 3).component_distribution.loc.flatten()
    torch.testing.assert_close(means, torch.tensor([0.25, 0.5, 0.75]))  # and no two components are alike


@pytest.mark.parametrize(("pixels", "n"), [(f, n) for f, n, _ in DECODED[1:]])
@pytest.mark.parametrize("change", [lambda n: (2, n + 1, 4, 4), lambda n: (2, n), lambda n: (n, 4, 4)])
def test_a_decoder_with_another_number_of_channels_is_refused(pixels, n, change):
    shape = change(n)
    with pytest.raises(ValueError) as error:
        pixels(torch.zeros(shape))
    assert f"the decoder gives {shape[1:]} an image, and this likelihood takes {n} channels" in str(error.value)


def test_normal_noise_is_torchs_normal_and_learns_one_sigma():
    torch.manual_seed(0)
    noise, out, x = NormalNoise(0.3), torch.randn(500, 2), torch.randn(500, 2)
    torch.testing.assert_close(noise(out).log_prob(x), Normal(out, 0.3).log_prob(x))
    assert [p.shape for p in noise.parameters()] == [()]
    optimizer = torch.optim.Adam(noise.parameters(), 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (-noise(out).log_prob(x).mean()).backward()
        optimizer.step()
    torch.testing.assert_close(noise.log_sigma.exp(), (x - out).square().mean().sqrt(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_a_sigma_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match=f"sigma is {sigma:g}: it must be positive"):
        NormalNoise(sigma)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 4]), "a label is 4, but the 4 classes are 0 … 3"),
        (torch.tensor([-1, 0]), "a label is -1, but the 4 classes are 0 … 3"),
        (torch.tensor([0, 1, 2]), r"expected 2 labels of type int64, one an image, got torch.int64 of shape \(3,\)"),
        (torch.tensor([0.0, 1.0]), "expected 2 labels of type int64, one an image, got torch.float32"),
    ],
)
def test_labels_are_checked(y, message):
    check_labels(torch.tensor([0, 3]), 2, 4)
    with pytest.raises(ValueError, match=message):
        check_labels(y, 2, 4)


# ---- priors --------------------------------------------------------------------------------------------------------


def test_mixture_prior_is_the_sum_of_its_gaussians():
    torch.manual_seed(0)
    prior = MixturePrior(3, 2).double()
    for p in prior.parameters():
        torch.nn.init.normal_(p)
    z, weights = torch.randn(7, 2).double(), prior.logits.softmax(0)
    gaussians = MultivariateNormal(prior.mu, prior.log_var.exp().diag_embed())
    expected = (weights * gaussians.log_prob(z[:, None]).exp()).sum(1).log()
    torch.testing.assert_close(prior.log_prob(z), expected)
    prior.log_prob(z).sum().backward()
    assert all(p.grad.any() for p in prior.parameters())
    n = 50_000
    draws = prior.sample(n)
    mean = weights @ prior.mu
    square = weights @ (prior.mu**2 + prior.log_var.exp())
    assert draws.shape == (n, 2)
    assert ((draws.mean(0) - mean).abs() < 4.5 * draws.std(0) / n**0.5).all()
    assert (((draws**2).mean(0) - square).abs() < 4.5 * (draws**2).std(0) / n**0.5).all()


def test_mixture_prior_begins_spread_and_as_wide_as_the_standard_normal():
    torch.manual_seed(0)
    prior = MixturePrior(1000, 3)
    torch.testing.assert_close(prior.logits, torch.zeros(1000))
    torch.testing.assert_close(prior.log_var, torch.zeros(1000, 3))
    torch.testing.assert_close(prior.mu.std(0), torch.ones(3), atol=0.1, rtol=0)
    with pytest.raises(ValueError, match="n_components is 0: it must be a whole number ≥ 1"):
        MixturePrior(0, 3)


def test_diagonal_normal_takes_the_logarithm_of_the_variance():
    mu, log_var, z = torch.randn(3, 4, 2).double()
    expected = MultivariateNormal(mu, log_var.exp().diag_embed()).log_prob(z)
    torch.testing.assert_close(diagonal_normal(mu, log_var).log_prob(z), expected)


def test_standard_normal_prior():
    prior = StandardNormal(3)
    z = torch.zeros(2, 3)
    torch.testing.assert_close(prior.log_prob(z), torch.full((2,), -1.5 * math.log(2 * math.pi)))
    assert prior.sample(5).shape == (5, 3)
    assert prior.double().sample(5).dtype == torch.float64  # moves with its model


# ---- bytes and half precision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("value", [0, 1])
def test_levels_are_no_pixels(dtype, levels, value):
    with pytest.raises(ValueError, match=rf"the pixels are {dtype}: these are levels.* by {levels - 1}") as refused:
        to_levels(torch.full((3,), value, dtype=dtype), levels)
    assert "a pixel is 0," not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("levels", [2, 5, 17, 64, 256, 1000])
def test_half_precision_gives_its_levels_back_or_says_that_it_cannot(dtype, levels):
    """A pixel near 1 is rounded by up to eps/2, which is (L − 1) eps/2 levels: they stay apart below a quarter."""
    k = torch.arange(levels)
    x = (k.float() / (levels - 1)).to(dtype)
    if (levels - 1) * torch.finfo(dtype).eps / 2 > 0.25:
        with pytest.raises(ValueError, match=f"{dtype} cannot tell {levels} levels apart"):
            to_levels(x, levels)
    else:
        assert torch.equal(to_levels(x, levels), k)
