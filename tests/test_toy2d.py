"""The densities of the toy sets against integrals on a grid, against their own samples, and against other formulas."""

import math

import pytest
import torch

from dgm_lib import datasets
from dgm_lib.datasets import TOY2D

STEP = 0.05  # two steps or more to the narrowest standard deviation: sums over the grid are then exact to 1e-7


@pytest.fixture(scope="module", params=TOY2D)
def data(request):
    return datasets.load(request.param)


@pytest.fixture(scope="module")
def components(data):
    """exp log p(x|y) at the middles of 200 × 200 small squares that cover [−5, 5]²: (40000, K)."""
    axis = torch.arange(-5 + STEP / 2, 5, STEP, dtype=torch.float64)
    return data.component_log_prob(torch.cartesian_prod(axis, axis)).exp()


@pytest.fixture(scope="module")
def density(components):
    return components.mean(1)


def test_log_prob_is_that_of_the_equal_mixture(data):
    x = data.test.x[:100].double()
    torch.testing.assert_close(data.log_prob(x).exp(), data.component_log_prob(x).exp().mean(1))


def test_form(data):
    assert [len(split) for split in (data.train, data.validation, data.test)] == [10_000, 2000, 2000]
    assert data.train.x.dtype == torch.float32
    assert data.levels is None
    assert data.train.x.abs().max() < 5
    assert (data.train.x.abs() > 4).any(1).float().mean() < 1e-3
    counts = data.train.y.bincount(minlength=len(data.classes))
    expected = 10_000 / len(data.classes)
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected)


def test_each_component_integrates_to_one(components):
    masses = components.sum(0) * STEP**2
    torch.testing.assert_close(masses, torch.ones_like(masses), atol=2e-5, rtol=0)


def test_mean_log_prob_of_samples_is_minus_the_entropy(data, density):
    minus_entropy = (torch.xlogy(density, density).sum() * STEP**2).item()
    log_prob = data.log_prob(data.train.x)
    standard_error = log_prob.std().item() / math.sqrt(len(log_prob))
    assert log_prob.mean().item() == pytest.approx(minus_entropy, abs=4 * standard_error + 1e-6)
    assert f"{-minus_entropy:.3f} |" in data.card


def test_samples_follow_the_density(data, density):
    """A χ² test on squares of side 1/2; squares with fewer than 5 expected points are joined into one."""
    cells = density.view(20, 10, 20, 10).sum((1, 3)).flatten() * STEP**2
    x = data.sample(20_000, torch.Generator().manual_seed(3)).double()
    counts = ((x + 5) / 0.5).floor().long() @ torch.tensor([20, 1])
    counts, expected = counts.bincount(minlength=400).double(), 20_000 * cells
    full = expected >= 5
    rest_counts, rest = counts[~full].sum(), expected[~full].sum()
    chi2 = ((counts - expected).square() / expected)[full].sum() + (rest_counts - rest) ** 2 / rest.clamp(min=1)
    degrees = int(full.sum())
    assert chi2 < degrees + 5 * math.sqrt(2 * degrees)


def test_labels_are_the_components(data):
    """With equal p(y), the mean of p(y|x) at the true y must agree with the mean of Σ_y p(y|x)²."""
    posterior = data.component_log_prob(data.test.x.double()).softmax(1)
    at_label = posterior[torch.arange(len(posterior)), data.test.y]
    agreement = at_label - posterior.square().sum(1)
    assert agreement.mean().abs() < 5 * agreement.std() / math.sqrt(len(agreement)) + 1e-6
    assert at_label.mean() > 1.5 / len(data.classes)


def test_the_seed_decides(data):
    again, other = (datasets.load(data.name, seed=seed) for seed in (0, 1))
    assert torch.equal(data.train.x, again.train.x)
    assert torch.equal(data.test.y, again.test.y)
    assert not torch.equal(data.train.x, other.train.x)
    assert not torch.equal(data.train.x[:2000], data.test.x)
    first, second = (data.sample(5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)


def test_float32_is_close_to_float64(data):
    x = data.test.x
    difference = data.log_prob(x).double() - data.log_prob(x.double())
    assert data.log_prob(x).dtype == torch.float32
    assert difference[data.log_prob(x) > -12].abs().max() < 1e-4


@pytest.mark.parametrize("name", [name for name in TOY2D if name != "checkerboard"])
def test_score_is_the_slope_of_log_prob(name):
    x = datasets.load(name, n=100).train.x.double().requires_grad_()
    log_prob = datasets.load(name, n=100).log_prob
    (score,) = torch.autograd.grad(log_prob(x).sum(), x)
    for axis in torch.eye(2, dtype=torch.float64):
        slope = (log_prob(x + 1e-5 * axis) - log_prob(x - 1e-5 * axis)) / 2e-5
        torch.testing.assert_close(score @ axis, slope, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["two_moons", "spirals"])
def test_quadrature_against_a_finer_one(name):
    """The few Gauss-Legendre nodes against Simpson's rule in 400,000 steps along each curve, also far away."""
    corners = torch.tensor([[-5.0, -5], [5, 5], [5, -5], [0, 0], [-5, 0]])
    x = torch.cat([corners, 10 * torch.rand(15, 2, generator=torch.Generator().manual_seed(0)) - 5]).double()
    v = torch.linspace(0, 1, 400_001, dtype=torch.float64)
    simpson = torch.tensor([2.0, 4.0], dtype=torch.float64).repeat(200_001)[:400_001] / (3 * 400_000)
    simpson[[0, -1]] /= 2
    if name == "two_moons":
        angle, sigma, density = math.pi * v, 0.2, torch.ones_like(v)
        curve = 2 * torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    else:
        angle, sigma, density = 3 * math.pi * v, 0.12, 2 * v  # v = √u, so p(v) = 2v
        curve = 3.4 * v[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    log_weights = (simpson * density).log() - math.log(2 * math.pi * sigma**2)
    actual = datasets.load(name, n=5).component_log_prob(x)
    for column, points in enumerate((curve, -curve)):
        square = torch.stack([(point - points).square().sum(1) for point in x])
        expected = (log_weights - square / (2 * sigma**2)).logsumexp(1)
        torch.testing.assert_close(actual[:, column], expected, atol=1e-7, rtol=0)


def test_rings_against_the_mean_over_the_circle():
    """The Bessel function is an integral over the angle; equally spaced angles integrate it to rounding."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.1], [-2.1, 0.4], [3.0, 3.0]], dtype=torch.float64)
    angle = torch.arange(4000, dtype=torch.float64) * (2 * math.pi / 4000)
    circles = [r * torch.stack([angle.cos(), angle.sin()], 1) for r in (1.0, 2.0, 3.0)]
    square = torch.stack([(x[:, None] - circle).square().sum(-1) for circle in circles], 1)  # (4, 3, 4000)
    expected = (-square / (2 * 0.12**2)).logsumexp(-1) - math.log(2 * math.pi * 0.12**2 * 4000)
    torch.testing.assert_close(datasets.load("rings", n=5).component_log_prob(x), expected, atol=1e-9, rtol=0)


def test_checkerboard_is_minus_infinity_off_the_squares():
    log_prob = datasets.load("checkerboard", n=5).log_prob
    expected = torch.tensor([-math.log(32), -math.inf, -math.inf])
    torch.testing.assert_close(log_prob(torch.tensor([[1.0, 1.0], [1.0, -1.0], [4.5, 3.0]])), expected)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="n is 4"):
        datasets.load("rings", n=4)
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        datasets.load("rings", n=5).log_prob(torch.zeros(3, 1))
