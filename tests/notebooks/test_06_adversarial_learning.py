"""What notebook 06 states as equations, each against a sum over a grid, a linear programme or autograd."""

from __future__ import annotations

import math

import pytest
import torch
from broken_library import instead_of
from helpers import close
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.nn.functional import logsigmoid, softplus

from dgm_lib.models import gan


def tables(seed=0, n=4, k=6):
    """Two batches of discrete distributions, (n, k) each."""
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.randn(2, n, k, generator=generator, dtype=torch.float64).softmax(-1)
    return p, q


def kl(p, q):
    return (p * (p.log() - q.log())).sum(-1)


def jsd(p, q):
    return 0.5 * (kl(p, (p + q) / 2) + kl(q, (p + q) / 2))


# ---- the best critic -----------------------------------------------------------------------------------------------


def test_no_critic_is_better_than_the_ratio():
    """Ascent on V(D) over all tables of logits ends at log p − log q, where V = −log 4 + 2 JSD."""
    p, q = tables()
    logit = torch.zeros_like(p, requires_grad=True)

    def value():
        return (p * logsigmoid(logit) + q * logsigmoid(-logit)).sum(-1)

    optimizer = torch.optim.LBFGS([logit], max_iter=300, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        total = -value().sum()
        total.backward()
        return total

    optimizer.step(loss)
    close(logit.detach(), p.log() - q.log(), atol=1e-3, rtol=0)
    close(logit.detach().sigmoid(), p / (p + q), atol=1e-4, rtol=0)
    close(value().detach(), 2 * jsd(p, q) - math.log(4), atol=1e-8, rtol=0)


def test_the_divergence_lies_between_0_and_log_2():
    p, q = tables()
    assert (jsd(p, q) > 0).all()
    close(jsd(p, p), torch.zeros(4))
    apart = torch.eye(2, dtype=torch.float64) + 1e-300
    close(jsd(apart[0], apart[1]), math.log(2))


def test_at_rest_no_player_gains_by_moving_alone():
    """q = p and D = ½: V is −log 4, no table of logits is above it, and against this D every q has the same V."""
    p, q = tables()

    def value(logit, fakes):
        return (p * logsigmoid(logit) + fakes * logsigmoid(-logit)).sum(-1)

    shrug = torch.zeros_like(p)
    close(value(shrug, p), torch.full((4,), -math.log(4)))
    close(value(shrug, q), value(shrug, p))
    others = 3 * torch.randn(100, 1, *p.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (value(others, p) < value(shrug, p)).all()


@pytest.mark.parametrize("width", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("distance", [1.0, 3.0, 6.0])
def test_slope_of_the_best_logit_of_two_equal_gaussians(width, distance):
    """log p − log q falls everywhere by the distance over the variance."""
    x = torch.linspace(-1, 7, 9, dtype=torch.float64, requires_grad=True)
    data, fakes = (Normal(*torch.tensor([place, width], dtype=torch.float64)) for place in (0.0, distance))
    logit = data.log_prob(x) - fakes.log_prob(x)
    (slope,) = torch.autograd.grad(logit.sum(), x)
    close(slope, torch.full_like(slope, -distance / width**2), rtol=1e-9, atol=0)


# ---- the generator's loss ------------------------------------------------------------------------------------------


def test_slopes_of_the_two_losses():
    a = torch.linspace(-9, 9, 19, dtype=torch.float64, requires_grad=True)
    (saturating,) = torch.autograd.grad(torch.log(1 - a.sigmoid()).sum(), a)
    (other,) = torch.autograd.grad(-a.sigmoid().log().sum(), a)
    close(saturating, -a.detach().sigmoid())
    close(other, a.detach().sigmoid() - 1)


@pytest.mark.parametrize("width", [0.7, 1.1])
@pytest.mark.parametrize("parameter", ["shift", "width"])
def test_gradients_against_the_best_critic_are_those_of_divergences(width, parameter):
    """Arjovsky & Bottou 2017, theorem 2.5, on a line, for a shift and for a width of the fakes."""
    p = MixtureSameFamily(
        Categorical(torch.tensor([0.6, 0.4]).double()), Normal(*torch.tensor([[-1.5, 1.6], [0.5, 0.6]]).double())
    )
    x = torch.linspace(-9, 9, 9001, dtype=torch.float64)
    dx = (x[1] - x[0]).item()
    theta = torch.tensor([0.3, width], dtype=torch.float64, requires_grad=True)
    log_p, log_q = p.log_prob(x), Normal(*theta).log_prob(x)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    two_jsd = (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum() * dx
    reverse = (log_q.exp() * (log_q - log_p)).sum() * dx

    at = x.clone().requires_grad_()
    logit = p.log_prob(at) - Normal(0.3, width).log_prob(at)  # the critic is held as it is
    weight = log_q.detach().exp() * dx
    moves = {"shift": torch.ones_like(x), "width": (x - 0.3) / width}[parameter]  # how a fake at x moves with θ
    index = {"shift": 0, "width": 1}[parameter]
    for loss, divergence in ((logsigmoid(-logit), two_jsd), (-logsigmoid(logit), reverse - two_jsd)):
        (uphill,) = torch.autograd.grad(loss.sum(), at, retain_graph=True)
        (exact,) = torch.autograd.grad(divergence, theta, retain_graph=True)
        close((weight * uphill * moves).sum(), exact[index].item(), atol=1e-7, rtol=1e-6)


def test_the_non_saturating_divergence_is_one():
    """KL(q‖p) − 2 JSD(p‖q) = 2 KL(m‖p), 0 where q = p (Shannon et al. 2020)."""
    p, q = tables()
    twice = 2 * kl((p + q) / 2, p)
    close(kl(q, p) - 2 * jsd(p, q), twice)
    assert (twice > 0).all()
    close(2 * kl((p + p) / 2, p), torch.zeros(4))


def test_derivatives_with_the_critic_held_fixed():
    """With m = (p + q)/2: ∇ 2 JSD = ∫∇q (log q − log m) and ∇ 2 KL(m‖p) = ∫∇q (log m − log p)."""
    p, _ = tables()
    free = tables(seed=1)[0].log().requires_grad_()
    q = free.softmax(-1)
    m = (p + q) / 2
    fixed = q.detach()
    log_m = ((p + fixed) / 2).log()
    for divergence, said in (
        (2 * jsd(p, q), fixed.log() - log_m),
        (2 * kl(m, p), log_m - p.log()),
    ):
        (exact,) = torch.autograd.grad(divergence.sum(), free, retain_graph=True)
        (by_critic,) = torch.autograd.grad((q * said).sum(), free, retain_graph=True)
        close(by_critic, exact, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("k", range(1, 9))
def test_what_a_forgotten_heap_costs(k):
    """Of n equal heaps a generator makes k alike: the closed forms, and which loss minds more."""
    n = 8
    p = torch.full((n,), 1 / n, dtype=torch.float64)
    q = (torch.arange(n) < k).double() / k
    m = (p + q) / 2
    share, log_2 = k / n, math.log(2)
    two_jsd = torch.special.xlogy(p, p / m).sum() + torch.special.xlogy(q, q / m).sum()
    non_saturating = 2 * torch.special.xlogy(m, m / p).sum()
    here, there = math.log(2 / (1 + share)), math.log(2 / (1 + 1 / share))
    assert two_jsd.item() == pytest.approx(here + share * there + (1 - share) * log_2, abs=1e-14)
    expected = (1 + share) * math.log((1 + 1 / share) / 2) - (1 - share) * log_2
    assert non_saturating.item() == pytest.approx(expected, abs=1e-14)
    assert (non_saturating < two_jsd / 2) == (k == 7)
    assert (non_saturating > two_jsd) == (k == 1)


# ---- Wasserstein ---------------------------------------------------------------------------------------------------


def test_wasserstein_on_a_line_is_what_a_linear_programme_finds():
    """∫|F_p − F_q| dx against the least cost of carrying mass, and against the best critic with slope ≤ 1."""
    scipy = pytest.importorskip("scipy.optimize")
    x = torch.tensor([0.0, 0.4, 1.0, 2.5, 2.6, 4.0], dtype=torch.float64)
    for p, q in zip(*tables(n=3)):
        n, gaps = len(x), x.diff()
        by_functions = ((p - q).cumsum(0)[:-1].abs() * gaps).sum().item()
        cost = (x[:, None] - x).abs().flatten().numpy()
        rows = torch.eye(n).repeat_interleave(n, 1)
        columns = torch.eye(n).repeat(1, n)
        carried = scipy.linprog(cost, A_eq=torch.cat([rows, columns]).numpy(), b_eq=torch.cat([p, q]).numpy())
        slope = -(p - q).cumsum(0)[:-1].sign()  # of the critic between two places
        critic = torch.cat([x.new_zeros(1), (slope * gaps).cumsum(0)])
        assert by_functions == pytest.approx(carried.fun, rel=1e-8)
        assert abs((p * critic).sum() - (q * critic).sum()).item() == pytest.approx(carried.fun, rel=1e-8)


def test_two_points_apart():
    """KL is infinite, JSD log 2, the Wasserstein distance |θ|: by the limit of two narrow Gaussians."""
    x = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    dx = x[1] - x[0]
    for theta in (-2.0, 0.5, 3.0):
        p, q = Normal(x.new_zeros(()), 0.01), Normal(x.new_tensor(theta), 0.01)
        distance = ((p.cdf(x) - q.cdf(x)).abs().sum() * dx).item()
        assert distance == pytest.approx(abs(theta), rel=1e-4)
        assert torch.distributions.kl_divergence(p, q).item() == pytest.approx(theta**2 / 2e-4)  # ∞ as the width → 0


def test_what_a_penalised_critic_reports():
    """−sW + λ(s − 1)² is lowest at s = 1 + W/2λ."""
    s = torch.linspace(0, 4, 400_001, dtype=torch.float64)
    for weight, distance in ((10, 3.0), (1, 0.5)):
        best = s[(-s * distance + weight * (s - 1) ** 2).argmin()].item()
        assert best == pytest.approx(1 + distance / (2 * weight), abs=1e-5)


# ---- the Dirac GAN -------------------------------------------------------------------------------------------------


def test_the_motion_is_the_gradient_of_the_game():
    """V = f(0) + f(−ψθ) with f(t) = −log(1 + e^−t): the critic goes uphill, the generator downhill."""
    theta, psi = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.8, -1.3))
    value = -softplus(torch.zeros(())) - softplus(psi * theta)
    by_theta, by_psi = torch.autograd.grad(value, (theta, psi))
    close(-by_theta, (psi * torch.sigmoid(psi * theta)).item())
    close(by_psi, (-theta * torch.sigmoid(psi * theta)).item())


@pytest.mark.parametrize("h", [0.1, 0.3, 1.0])
def test_growth_of_a_round(h):
    """Eigenvalues of the linear map of one round at the equilibrium, where σ = ½."""
    gamma = 0.3
    at_once = torch.tensor([[1.0, h / 2], [-h / 2, 1.0]], dtype=torch.float64)
    critic = torch.tensor([[1.0, 0.0], [-h / 2, 1.0]], dtype=torch.float64)
    penalised = torch.tensor([[1.0, 0.0], [-h / 2, 1.0 - h * gamma]], dtype=torch.float64)
    generator = torch.tensor([[1.0, h / 2], [0.0, 1.0]], dtype=torch.float64)

    def growth(matrix):
        return torch.linalg.eigvals(matrix).abs().max().item()

    assert growth(at_once) == pytest.approx(math.sqrt(1 + h**2 / 4))
    assert growth(generator @ critic) == pytest.approx(1)
    assert growth(generator @ penalised) == pytest.approx(math.sqrt(1 - h * gamma))


def test_quality_of_the_data_and_the_floor_of_two_sigmoids():
    """P(‖x‖ ≤ 3σ) in the plane is 1 − e^(−9/2); a critic with two sigmoids cannot lose less than 1.0064 nats."""
    r = torch.linspace(0, 3, 300_001, dtype=torch.float64)
    close(torch.trapezoid(r * (-(r**2) / 2).exp(), r), 1 - math.exp(-4.5), atol=1e-8, rtol=0)
    squashed = torch.linspace(0, 1, 101, dtype=torch.float64)  # what the second sigmoid is given
    least = (softplus(-squashed).min() + softplus(squashed).min()).item()
    assert least == pytest.approx(math.log(1 + math.exp(-1)) + math.log(2))


# ---- a break of the library that the notebook must notice ----------------------------------------------------------


@instead_of(gan.gradient_penalty, turns="within 0.15 of 3.45: True")
def slope_of_two(penalty, critic, real, fake):
    return (gan.gradient_at(critic, fake).flatten(1).norm(dim=1) - 2).square()
