"""Samplers against closed forms, quadrature and enumeration; diagnostics against AR(1) chains and against ArviZ.

Where there is chance, seeds are fixed and tolerances are four standard errors or more. Beside each stands how far off
the usual mistakes would be.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from dgm_lib.samplers import (
    ChainError,
    anneal,
    autocorrelation,
    block_gibbs,
    effective_sample_size,
    geometric,
    gibbs,
    independent_metropolis,
    langevin,
    mala,
    reflect_,
    score_of,
    split_r_hat,
    value_and_score,
)

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])
TEMPERATURES = pytest.mark.parametrize("temperature", [1.0, 0.25, 4.0])
ARGUMENTS = {"steps": 3, "step_size": 0.01}


def bowl(x):
    """E(x) = |x|²/2, whose density is N(0, T): (n, …) -> (n,)."""
    return 0.5 * x.flatten(1).square().sum(1)


def two_wells(x):
    """E(x) = (x² − 1)² + x/2 in one dimension, (n, 1) -> (n,): two wells, the left one deeper."""
    return ((x.square() - 1).square() + 0.5 * x)[:, 0]


def minus(x):
    """The score of `bowl`."""
    return -x


def within(values, expected, errors=4.0):
    """Whether the mean of independent values is the expected one, up to so many standard errors."""
    values = values.double().flatten()
    return abs(values.mean().item() - expected) < errors * values.std().item() / math.sqrt(len(values))


def expectation(energy, f, *, temperature=1.0, low=-6.0, high=6.0):
    """E[f(x)] under exp(−E/T) on [low, high], by quadrature in one dimension."""
    x = torch.linspace(low, high, 20_001, dtype=torch.float64)
    p = torch.softmax(-energy(x[:, None]) / temperature, 0)
    return (p @ f(x)).item()


# ---- energies and scores -------------------------------------------------------------------------------------------


def test_the_score_is_minus_the_gradient():
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    values, score = value_and_score(lambda x: (x**3).flatten(1).sum(1), x)
    torch.testing.assert_close(values, (x**3).flatten(1).sum(1))
    torch.testing.assert_close(score, -3 * x**2)
    torch.testing.assert_close(score_of(bowl)(x), -x)
    torch.testing.assert_close(score_of(lambda x: x.flatten(1).sum(1))(x), -torch.ones_like(x))
    assert not any(t.requires_grad for t in (values, score, x))


def test_parameters_keep_their_gradients_and_their_flags():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 1))
    net[0].bias.requires_grad_(False)
    net[2].weight.grad = torch.full_like(net[2].weight, 7.0)
    energy = lambda x: net(x)[:, 0]  # noqa: E731
    x = torch.randn(3, 2)
    langevin(score_of(energy), x, **ARGUMENTS)
    mala(energy, x, **ARGUMENTS)
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]
    assert (net[2].weight.grad == 7).all()
    assert all(p.grad is None for p in net.parameters() if p is not net[2].weight)


def test_chains_have_no_graph_even_if_the_score_has_one():
    net = nn.Linear(2, 2)
    assert not langevin(net, torch.randn(3, 2), **ARGUMENTS).requires_grad
    x = torch.randn(3, 2, requires_grad=True)
    assert not langevin(minus, x, **ARGUMENTS).requires_grad
    assert not mala(bowl, x, **ARGUMENTS)[0].requires_grad
    draw = lambda x: net(x)  # noqa: E731
    assert not block_gibbs(draw, draw, x, steps=2).requires_grad


def test_autocast_does_not_reach_the_chains():
    torch.manual_seed(0)
    net = nn.Linear(2, 1)
    x = torch.randn(3, 2)
    expected = score_of(lambda x: net(x).square()[:, 0])(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
        score = score_of(lambda x: net(x).square()[:, 0])(x)
    torch.testing.assert_close(score, expected, rtol=0, atol=0)


SAMPLERS = {
    "langevin": lambda x: langevin(minus, x, steps=25, step_size=0.1),
    "langevin in a box": lambda x: langevin(minus, x, steps=25, step_size=0.1, box=(-4, 4)),
    "mala": lambda x: mala(bowl, x, steps=25, step_size=0.1)[0],
    "mala in a box": lambda x: mala(bowl, x, steps=25, step_size=0.1, box=(-4, 4))[0],
    "gibbs": lambda x: gibbs(bowl, (x > 0).to(x), sweeps=3),
    "independent": lambda x: independent_metropolis(bowl, x, Gaussian(x))[0],
}


class Gaussian:
    """A Law: N(0, σ² I) with the shape of x."""

    def __init__(self, like, sigma=1.0):
        self.shape, self.sigma = like.shape[1:], sigma

    def log_prob(self, x):
        return Normal(0.0, self.sigma).log_prob(x).flatten(1).sum(1)

    def sample(self, n):
        return self.sigma * torch.randn(n, *self.shape)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_repeats_the_chains_and_their_start_stays(name, dtype):
    start = torch.linspace(-1, 1, 12, dtype=dtype).view(4, 3)
    kept, ends = start.clone(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        ends.append(SAMPLERS[name](start))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert torch.equal(start, kept)
    assert (ends[0].dtype, ends[0].shape) == (dtype, start.shape)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_chains_are_no_problem(name):
    assert SAMPLERS[name](torch.zeros(0, 3)).shape == (0, 3)


def test_no_steps_leave_the_chains_where_they_are():
    x = torch.randn(3, 2)
    assert torch.equal(langevin(minus, x, steps=0, step_size=0.1), x)
    states, accepted = mala(bowl, x, steps=0, step_size=0.1)
    assert torch.equal(states, x)
    assert accepted == 0
    assert torch.equal(gibbs(bowl, (x > 0).float(), sweeps=0), (x > 0).float())
    assert torch.equal(block_gibbs(minus, minus, x, steps=0), x)


# ---- Langevin ------------------------------------------------------------------------------------------------------


@SEEDS
@TEMPERATURES
@pytest.mark.parametrize("steps", [3, 40])
def test_langevin_on_a_gaussian_is_its_ar1_chain(steps, temperature, seed):
    """x ← (1 − η) x + √(2ηT) ε has the variance T / (1 − η/2) (1 − (1 − η)^2k) after k steps from one point.

    With 100,000 draws a standard error is 0.45 % of it. Noise √(ηT) would halve it, a step η/2 beside noise √(ηT)
    would miss it by 5 % after 40 steps and by 43 % after three, and without noise it is 0.
    """
    torch.manual_seed(seed)
    eta = 0.2
    x = langevin(minus, torch.full((20_000, 1, 5), 3.0), steps=steps, step_size=eta, temperature=temperature)
    mean = 3 * (1 - eta) ** steps
    assert within(x, mean)
    assert within((x - mean).square(), temperature / (1 - eta / 2) * (1 - (1 - eta) ** (2 * steps)))


def test_langevin_at_temperature_0_is_descent():
    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(langevin(minus, x, steps=5, step_size=0.1, temperature=0), 0.9**5 * x)


@SEEDS
def test_langevin_of_a_network_is_the_loop_written_out(seed):
    torch.manual_seed(seed)
    net, x = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1)).double(), torch.randn(6, 3).double()
    torch.manual_seed(seed)
    y = x.clone()
    for _ in range(15):
        y.requires_grad_()
        (slope,) = torch.autograd.grad(net(y).sum(), y)
        y = (y - 0.05 * slope + math.sqrt(2 * 0.05 * 0.5) * torch.randn_like(y)).detach()
    torch.manual_seed(seed)
    energy = lambda x: net(x).squeeze(1)  # noqa: E731
    torch.testing.assert_close(langevin(score_of(energy), x, steps=15, step_size=0.05, temperature=0.5), y)


# ---- Metropolis-adjusted Langevin ----------------------------------------------------------------------------------


@SEEDS
@TEMPERATURES
def test_mala_has_the_exact_variance_at_a_large_step(temperature, seed):
    """At η = 0.5 unadjusted Langevin is 33 % too wide. A standard error is 0.7 % here."""
    torch.manual_seed(seed)
    start = torch.full((20_000, 2), 2.0)
    x, accepted = mala(bowl, start, steps=60, step_size=0.5, temperature=temperature)
    assert within(x, 0)
    assert within(x.square(), temperature)
    assert 0.5 < accepted < 0.99


@SEEDS
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("box", [None, (-1.2, 0.7)])
def test_mala_draws_from_two_wells_also_in_a_box(box, temperature, seed):
    """Against quadrature. Without the ratio of the proposals, each moment is 9 to 80 standard errors off."""
    torch.manual_seed(seed)
    x, _ = mala(two_wells, torch.zeros(20_000, 1), steps=150, step_size=0.15, temperature=temperature, box=box)
    low, high = box or (-6.0, 6.0)
    assert low <= x.min()
    assert x.max() <= high
    for f in (lambda x: x, torch.square, lambda x: (x > 0).double()):
        assert within(f(x), expectation(two_wells, f, temperature=temperature, low=low, high=high))


@SEEDS
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_mala_accepts_as_often_as_on_paper(temperature, seed):
    """On a Gaussian the logarithm of the ratio is η (x² − x'²) / 4T. One step from the law itself, by quadrature."""
    torch.manual_seed(seed)
    n, eta = 100_000, 1.5
    side = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    x, eps = torch.cartesian_prod(side, side).T
    p = torch.softmax(-0.5 * (x**2 + eps**2), 0)
    proposal = (1 - eta) * x + math.sqrt(2 * eta) * eps  # all of it times √T, which leaves the ratio
    expected = (p @ (eta / 4 * (x**2 - proposal**2)).exp().clamp(max=1)).item()
    start = math.sqrt(temperature) * torch.randn(n, 1)
    moved, accepted = mala(bowl, start, steps=1, step_size=eta, temperature=temperature)
    assert accepted == pytest.approx((moved != start).float().mean().item())
    assert abs(accepted - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_mala_accepts_small_steps_and_refuses_wild_ones():
    torch.manual_seed(0)
    x = torch.randn(500, 10)
    assert mala(bowl, x, steps=20, step_size=1e-5)[1] > 0.999
    states, accepted = mala(bowl, x, steps=20, step_size=100.0)
    assert accepted == 0
    assert torch.equal(states, x)


def test_mala_refuses_where_the_energy_is_not_a_number():
    torch.manual_seed(0)
    x, _ = mala(lambda x: bowl(x) + 0 * x.log()[:, 0], torch.ones(1000, 1), steps=50, step_size=0.5)
    assert x.min() > 0
    assert within(x, math.sqrt(2 / math.pi))  # half a Gaussian


# ---- walls ---------------------------------------------------------------------------------------------------------


def test_reflection_by_hand():
    x = torch.tensor([[-0.25, 0.0, 0.5, 1.0, 1.25, 2.25, -1.5, 7.75]])
    torch.testing.assert_close(reflect_(x, (0, 1)), torch.tensor([[0.25, 0.0, 0.5, 1.0, 0.75, 0.25, 0.5, 0.25]]))
    x = torch.tensor([[-1.5, -1.0, 0.25, 1.5, 3.5, -4.5]], dtype=torch.float64)
    torch.testing.assert_close(reflect_(x, (-1, 1)), torch.tensor([[-0.5, -1.0, 0.25, 0.5, -0.5, -0.5]]).double())


@pytest.mark.parametrize("box", [(-0.1, 0.2), (0.0, 1.0), (-1.0, 1.0), (3.3, 7.7)])
def test_reflection_leaves_nobody_outside_and_the_inside_alone(box):
    """In float32 −0.1 + 0.3 is beyond 0.2: without care, chains could not be taken up again where they ended."""
    low, high = box
    x = torch.cat([torch.linspace(3 * low - high, 3 * high - low, 9999), torch.linspace(high - 1e-6, high + 1e-6, 999)])
    y = reflect_(x.clone(), box)
    assert ((y >= low) & (y <= high)).all()
    inside = (x >= low) & (x <= high)
    torch.testing.assert_close(y[inside], x[inside], rtol=0, atol=1e-6)


@SEEDS
def test_reflected_langevin_without_a_slope_is_uniform(seed):
    """Largest gap between the distribution functions, times √n: above 2.2 in 1 of 10,000 cases. Clamped: 20."""
    torch.manual_seed(seed)
    x = langevin(torch.zeros_like, torch.full((20_000, 1), 3.0), steps=60, step_size=0.5, box=(-1, 3))
    ranks = (torch.arange(20_000) + 0.5) / 20_000
    assert ((x[:, 0].sort().values + 1) / 4 - ranks).abs().max() * math.sqrt(20_000) < 2.2
    assert within(x, 1)
    assert within((x - 1).square(), 16 / 12)


@SEEDS
@TEMPERATURES
def test_reflected_langevin_is_the_truncated_gaussian(temperature, seed):
    """Up to the error of the step, which is below 0.006 here. Wrapped around: 0.09 to 0.38 off. Clamped: up to 0.08."""
    torch.manual_seed(seed)
    box = (-0.5, 2.0)
    x = langevin(minus, torch.zeros(20_000, 2), steps=400, step_size=0.01, temperature=temperature, box=box)
    for f in (lambda x: x, torch.square):
        expected = expectation(bowl, f, temperature=temperature, low=box[0], high=box[1])
        assert abs(f(x.double()).mean().item() - expected) < 4 * f(x).std().item() / 200 + 0.006


# ---- jumps and schedules -------------------------------------------------------------------------------------------


@SEEDS
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_independent_metropolis_keeps_the_law_and_crosses_walls(temperature, seed):
    """All chains begin in the shallow well. Without their density, mean squares are 14 standard errors off."""
    torch.manual_seed(seed)
    x, law = torch.ones(20_000, 1), Gaussian(torch.ones(1, 1), sigma=1.5)
    for _ in range(40):
        x, accepted = independent_metropolis(two_wells, x, law, temperature)
    assert 0.2 < accepted < 0.8
    for f in (lambda x: x, torch.square, lambda x: (x > 0).double()):
        assert within(f(x), expectation(two_wells, f, temperature=temperature))


def test_jumps_drawn_from_the_law_itself_are_all_taken():
    torch.manual_seed(0)
    x = torch.randn(200, 3, dtype=torch.float64)
    jumped, accepted = independent_metropolis(bowl, x, Gaussian(x))
    assert accepted == 1
    assert jumped.dtype == x.dtype
    with pytest.raises(ValueError, match=r"the energy of 200 examples has the shape \(200, 200\)"):
        independent_metropolis(lambda x: bowl(x)[:, None], x, Gaussian(x))


def test_a_geometric_schedule_has_equal_ratios_and_keeps_its_ends():
    torch.testing.assert_close(torch.tensor(geometric(8, 0.5, 5)), torch.tensor([8, 4, 2, 1, 0.5]))
    for *wrong, says in (
        (1, 0, 5, "last is 0"),
        (-1, 1, 5, "first is -1"),
        (math.nan, 1, 5, "first is nan"),
        (1, 2, 1, "n is 1"),
    ):
        with pytest.raises(ValueError, match=says):
            geometric(*wrong)


def test_annealing_goes_through_the_temperatures_in_order():
    seen = []

    def sampler(x, *, temperature):
        seen.append(temperature)
        return 2 * x

    assert anneal(sampler, torch.ones(1), iter([3.0, 2.0, 1.0])).item() == 8
    assert seen == [3.0, 2.0, 1.0]


def test_annealed_chains_find_the_deep_well_that_cold_ones_miss():
    """A wall of 20 nats lies between the wells, and chains begin in the shallow one."""
    torch.manual_seed(0)
    score, start = score_of(lambda x: 20 * two_wells(x)), torch.full((500, 1), 0.9)
    sampler = partial(langevin, score, steps=30, step_size=1e-3)
    assert (langevin(score, start, steps=30 * 20, step_size=1e-3) < 0).float().mean() < 0.02
    assert (anneal(sampler, start, geometric(20, 1, 20)) < 0).float().mean() > 0.7


# ---- Gibbs ---------------------------------------------------------------------------------------------------------


def every_state(n):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * n)


def shares(x):
    """How often each of the 2^D states occurs among rows of bits, in the order of every_state."""
    places = 2 ** torch.arange(x.shape[1] - 1, -1, -1)
    return torch.bincount((x.long() * places).sum(1), minlength=2 ** x.shape[1]) / len(x)


def assert_shares(x, p):
    """Each within 4.5 standard errors of its probability: of 16, one would be out once in 9,000 times."""
    gap = (shares(x) - p).abs() / (p * (1 - p) / len(x)).sqrt()
    assert gap.max() < 4.5


def boltzmann(seed):
    """E(x) = −bᵀx − xᵀW x / 2 of four units, with random b and W."""
    generator = torch.Generator().manual_seed(seed)
    b, w = torch.randn(4, generator=generator), torch.randn(4, 4, generator=generator)
    w = (w + w.T).fill_diagonal_(0)
    return lambda x: -x @ b - 0.5 * (x @ w * x).sum(1)


@SEEDS
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gibbs_is_the_boltzmann_distribution_by_enumeration(temperature, seed):
    energy = boltzmann(seed)
    torch.manual_seed(seed)
    x = gibbs(energy, torch.zeros(40_000, 4), sweeps=30, temperature=temperature)
    assert_shares(x, torch.softmax(-energy(every_state(4)) / temperature, 0))


def test_one_update_is_the_conditional():
    """One unit, E(1) − E(0) = 1 at T = 0.5: p(1) = σ(−2). The energy is a view of the states, as it may be."""
    torch.manual_seed(0)
    x = gibbs(lambda x: x[:, 0], torch.ones(50_000, 1), sweeps=1, temperature=0.5)
    assert within(x, 1 / (1 + math.exp(2)))


def layers(seed):
    """The conditionals and p(v) of a machine with three visible and two hidden units and weights W."""
    w = 2 * torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
    draw_hidden = lambda v: torch.bernoulli(torch.sigmoid(v @ w))  # noqa: E731
    draw_visible = lambda h: torch.bernoulli(torch.sigmoid(h @ w.T))  # noqa: E731
    log_p = (every_state(3) @ w @ every_state(2).T).logsumexp(1)
    return draw_hidden, draw_visible, log_p


@SEEDS
def test_block_gibbs_is_the_machine_by_enumeration(seed):
    draw_hidden, draw_visible, log_p = layers(seed)
    torch.manual_seed(seed)
    x = block_gibbs(draw_hidden, draw_visible, torch.zeros(40_000, 3), steps=60)
    assert_shares(x, log_p.softmax(0))


@SEEDS
def test_clamped_units_stay_and_the_others_follow_their_conditional(seed):
    draw_hidden, draw_visible, log_p = layers(seed)
    torch.manual_seed(seed)
    start, known = torch.tensor([1.0, 0.0, 0.0]).expand(40_000, 3), torch.tensor([True, False, False])
    x = block_gibbs(draw_hidden, draw_visible, start, steps=60, known=known)
    assert (x[:, 0] == 1).all()
    assert_shares(x[:, 1:], log_p[4:].softmax(0))  # the states with a first unit of 1
    each = torch.rand(5, 3) < 0.5
    start = torch.bernoulli(torch.full((5, 3), 0.5))
    x = block_gibbs(draw_hidden, draw_visible, start, steps=3, known=each)
    assert torch.equal(x[each], start[each])


# ---- diagnostics ---------------------------------------------------------------------------------------------------


def ar1(T, n, rho, seed):
    """n stationary chains x_t = ρ x_t−1 + √(1 − ρ²) ε, (T, n)."""
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(T, n, generator=generator, dtype=torch.float64)
    rows = [eps[0]]
    for row in eps[1:]:
        rows.append(rho * rows[-1] + math.sqrt(1 - rho**2) * row)
    return torch.stack(rows)


def waves(T, n, rho, shift=0.0, drift=0.0):
    """Chains that need no generator: an AR(1) filter over sin k², each chain moved by `shift`, all by `drift`."""
    noise = torch.arange(T * n, dtype=torch.float64).view(n, T).T.square().sin()
    rows = [noise[0]]
    for row in noise[1:]:
        rows.append(rho * rows[-1] + row)
    return torch.stack(rows) + shift * torch.arange(n) + drift * torch.arange(T).double()[:, None] / T


def test_autocorrelation_is_the_sum_written_out():
    trace = ar1(30, 3, 0.7, seed=0) + torch.tensor([0.0, 5.0, -9.0])
    c = trace - trace.mean(0)
    sums = torch.stack([(c[: 30 - t] * c[t:]).sum() for t in range(30)])
    torch.testing.assert_close(autocorrelation(trace), sums / sums[0])


@SEEDS
@pytest.mark.parametrize("rho", [0.9, 0.5, 0.0, -0.5])
def test_autocorrelation_of_an_ar1_chain_is_a_power(rho, seed):
    """Bartlett 1946: the standard error at any lag is at most √((1 + ρ²) / (1 − ρ²) / n T)."""
    rho_t = autocorrelation(ar1(4000, 10, rho, seed))[:8]
    error = math.sqrt((1 + rho**2) / (1 - rho**2) / 40_000)
    assert (rho_t - rho ** torch.arange(8)).abs().max() < 4 * error + 2 * 10 / 4000  # and the mean, taken off


@SEEDS
@pytest.mark.parametrize(("rho", "tolerance"), [(0.9, 0.25), (0.5, 0.1), (0.0, 0.08), (-0.5, 0.25)])
def test_effective_sample_size_of_an_ar1_chain(rho, tolerance, seed):
    """n T (1 − ρ) / (1 + ρ). The tolerance is four deviations over 20 seeds; for ρ < 0 it is known to be too large."""
    exact = 50_000 * (1 - rho) / (1 + rho)
    assert effective_sample_size(ar1(1000, 50, rho, seed)) == pytest.approx(exact, rel=tolerance)


# T, n, ρ, shift, drift: arviz.ess(x, method="mean") and arviz.rhat(x, method="split") of ArviZ 0.23.4, x = waves(…).T
ARVIZ = [
    ((500, 4, 0.9), 155.72474584430918, 1.0009695149195383),
    ((500, 4, 0.0), 1940.7954650762167, 0.9981614323621159),
    ((500, 4, -0.6), 6602.059991327962, 0.998030044523575),
    ((333, 3, 0.5), 340.974499347197, 0.9983378050299406),
    ((400, 1, 0.7), 72.09729267359002, None),  # ArviZ wants two chains for R̂
    ((500, 4, 0.5, 1.0), 6.231795429562774, 1.7693338912959804),
    ((500, 4, 0.5, 0.0, 4.0), 7.6734759750501045, 1.4721149980181778),
    ((10, 2, 0.3), 26.020599913279625, 1.04313714196872),
    ((40, 4, 0.99), 6.973016982243117, 1.8651787394528316),
    ((2000, 2, -0.95), 14408.23996531185, 0.9995034443727012),  # the bound, log₁₀(n T) times n T
]


@pytest.mark.parametrize(("arguments", "size", "r_hat"), ARVIZ)
def test_diagnostics_are_those_of_arviz(arguments, size, r_hat):
    trace = waves(*arguments)
    assert effective_sample_size(trace) == pytest.approx(size, rel=1e-9)
    assert effective_sample_size(7 - 3 * trace) == pytest.approx(size, rel=1e-9)
    if r_hat is not None:
        assert split_r_hat(trace) == pytest.approx(r_hat, rel=1e-9)
        assert split_r_hat(7 - 3 * trace) == pytest.approx(r_hat, rel=1e-9)


def test_r_hat_by_hand():
    """Halves with the means 0, 4 and the variance 2: W = 2, B/T = 8, so the total is W/2 + 8 = 9."""
    assert split_r_hat(torch.tensor([[-1.0], [1.0], [3.0], [5.0]])) == pytest.approx(math.sqrt(9 / 2))


def test_chains_that_are_stuck_apart_are_seen():
    trace = torch.tensor([0.0, 0.0, 5.0, 5.0]).expand(100, 4).clone()
    trace[50, 0] += 1e-3
    assert split_r_hat(trace) > 100
    assert effective_sample_size(trace) < 8


@pytest.mark.parametrize("diagnose", [autocorrelation, effective_sample_size, split_r_hat])
@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (torch.randn(9), r"shape \(T, n\), T ≥ 4 draws of each of n chains, got \(9,\)"),
        (torch.randn(3, 9), r"got \(3, 9\)"),
        (torch.tensor([[1.0], [2.0], [math.nan], [1.0]]), "NaN or an infinite number"),
        (torch.arange(5.0).expand(9, 5), "never changes"),
    ],
)
def test_traces_that_say_nothing_are_refused(diagnose, trace, message):
    with pytest.raises(ValueError, match=message):
        diagnose(trace)


def test_the_shortest_trace_and_whole_numbers_are_taken():
    assert math.isfinite(effective_sample_size(torch.tensor([[0], [1], [1], [0]])))
    assert math.isfinite(split_r_hat(torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]])))


@pytest.mark.parametrize("T", [4, 5, 6, 7, 8, 9, 10, 12, 20])
@pytest.mark.parametrize("n", [2, 50])
def test_short_traces_of_chains_that_are_stuck_are_not_worth_more_than_their_draws(T, n):
    """Each chain keeps its own place, but for a hair: n draws of it, whatever T."""
    generator = torch.Generator().manual_seed(0)
    trace = torch.randn(n, generator=generator) + 1e-3 * torch.randn(T, n, generator=generator)
    assert effective_sample_size(trace) < T * n / 2
    assert split_r_hat(trace) > 10


@pytest.mark.parametrize("T", [4, 5, 6, 8])
def test_short_traces_of_independent_draws_are_worth_about_their_number(T):
    """In the median over many traces; one alone may err by a factor of two."""
    sizes = [effective_sample_size(torch.randn(T, 100, generator=torch.Generator().manual_seed(i))) for i in range(50)]
    assert 0.5 * 100 * T < sorted(sizes)[25] < 2 * 100 * T


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.bool])
def test_traces_of_any_type_lists_and_arrays_are_taken(dtype):
    trace = torch.randint(2, (30, 4), generator=torch.Generator().manual_seed(0))
    for diagnose in (lambda t: autocorrelation(t).tolist(), effective_sample_size, split_r_hat):
        expected = diagnose(trace.double())
        assert diagnose(trace.to(dtype)) == diagnose(trace.tolist()) == diagnose(trace.numpy()) == expected
        for wrong, message in ((trace[:, :0], r"got \(30, 0\)"), ("trace", "the trace is a str")):
            with pytest.raises(ValueError, match=message):
                diagnose(wrong)


def test_chains_that_moved_once_are_seen():
    """Both halves are constant: no variance within, and R̂ without bound."""
    assert split_r_hat(torch.tensor([0.0, 0, 1, 1])[:, None]) == math.inf
    assert math.isfinite(effective_sample_size(torch.tensor([0.0, 0, 1, 1])[:, None]))


# ---- bad input -----------------------------------------------------------------------------------------------------

START = torch.zeros(4, 3)
BOTH = pytest.mark.parametrize("sampler", [partial(langevin, minus), partial(mala, bowl)], ids=["langevin", "mala"])


@BOTH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": 0.0}, "step_size is 0: it must be positive"),
        ({"step_size": -0.1}, "step_size is -0.1: it must be positive"),
        ({"step_size": math.nan}, "step_size is nan: it must be positive"),
        ({"step_size": math.inf}, "step_size is inf: it must be positive"),
        ({"temperature": -1.0}, "temperature is -1: it must be ≥ 0"),
        ({"temperature": math.nan}, "temperature is nan: it must be ≥ 0"),
        ({"steps": -1}, "steps is -1: it must be a whole number ≥ 0"),
        ({"box": (1.0, 1.0)}, r"box is \(1.0, 1.0\): it must be \(low, high\)"),
        ({"box": (1.0, 2.0)}, r"chains start at 0 … 0, outside of the box \(1.0, 2.0\): clamp them first"),
        (
            {"x": torch.zeros(4)},
            r"chains are floats of shape \(n, …\), one row a chain, got torch.float32 of shape \(4,\)",
        ),
        ({"x": torch.zeros(4, 3).long()}, r"chains are floats .* got torch.int64 of shape \(4, 3\)"),
        ({"x": START.index_fill(0, torch.tensor(2), math.nan)}, "chain 2 starts with a coordinate that is NaN"),
        ({"x": START.index_fill(0, torch.tensor(1), math.inf)}, "chain 1 starts with a coordinate that is NaN"),
    ],
)
def test_bad_arguments_are_refused_before_any_step(sampler, arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler(**{"x": START, **ARGUMENTS, **arguments})


def test_mala_at_temperature_0_points_to_langevin():
    with pytest.raises(ValueError, match="take langevin for plain descent"):
        mala(bowl, START, **ARGUMENTS, temperature=0)


@pytest.mark.parametrize("energy", [lambda x: x, lambda x: bowl(x)[:, None], lambda x: bowl(x).sum()])
def test_an_energy_with_more_or_less_than_one_number_an_example_is_refused(energy):
    for run in (
        lambda: langevin(score_of(energy), START, **ARGUMENTS),
        lambda: mala(energy, START, **ARGUMENTS),
        lambda: gibbs(energy, START, sweeps=1),
    ):
        with pytest.raises(
            ValueError, match=r"the energy of 4 examples has the shape .* one number an example, \(4,\)"
        ):
            run()


def test_a_score_of_another_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"the score of chains \(4, 3\) has the shape \(4,\): .* give score_of\(energy\)"
    ):
        langevin(bowl, START, **ARGUMENTS)


def nan_from(step, chain=2):
    """A score that becomes NaN for one chain at one step."""
    steps = iter(range(1, 1000))

    def score(x):
        s = -x
        if next(steps) == step:
            s[chain, 1] = math.nan
        return s

    return score


@pytest.mark.parametrize("box", [None, (-4.0, 4.0)])
def test_a_chain_that_becomes_nan_is_named_with_the_step(box):
    """It is looked for at every tenth step and at the last."""
    for first, seen in ((2, 10), (10, 10), (11, 20), (22, 24), (24, 24)):
        with pytest.raises(ChainError, match=f"chain 2 diverged by step {seen} of 24: its largest coordinate is nan"):
            langevin(nan_from(first), START, steps=24, step_size=0.1, box=box)
    langevin(nan_from(25), START, steps=24, step_size=0.1, box=box)
    with pytest.raises(ChainError, match="the score of chain 2 at step 1 is NaN or infinite"):
        langevin(nan_from(1), START, steps=24, step_size=0.1, box=box)


def test_a_chain_that_blows_up_is_named_with_the_step():
    """|x| grows 11-fold a step, from 1 in chain 1 and from 0 in the others: beyond a million at the sixth."""
    start = START.index_fill(0, torch.tensor(1), 1.0)
    with pytest.raises(ChainError, match=r"chain 1 diverged by step 10 of 50: its largest coordinate is 2\.594e\+10"):
        langevin(lambda x: 10 * x, start, steps=50, step_size=1.0, temperature=0)
    langevin(lambda x: 10 * x, start, steps=5, step_size=1.0, temperature=0)


def test_a_chain_that_leaps_over_many_boxes_is_named_with_the_step():
    """The walls would fold any leap back into the box, and hide that the slope has no bound."""
    start = START.index_fill(0, torch.tensor(1), 0.5)
    with pytest.raises(
        ChainError, match=r"chain 1 diverged by step 10 of 50: its largest coordinate is 5\de\+0[34]|5\d"
    ):
        langevin(lambda x: 1000 * x, start, steps=50, step_size=1.0, temperature=0, box=(-1.0, 1.0))
    langevin(lambda x: 10 * x, start, steps=50, step_size=1.0, temperature=0, box=(-1.0, 1.0))


def test_mala_on_a_slope_without_a_bottom_is_named_with_the_step():
    """Where the slope is the same everywhere, each proposal is accepted: 19,000 downhill a step."""
    start = START.double().index_fill(0, torch.tensor(1), 1e5)
    with pytest.raises(ChainError, match=r"chain 1 diverged by step 50 of 60: its largest coordinate is 1\.05e\+06"):
        mala(lambda x: -1.9e5 * x.sum(1), start, steps=60, step_size=0.1)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (lambda x: bowl(x) / (x[:, 0] != 3), "chain 1 starts where the energy is inf"),
        (lambda x: bowl(x) * x[:, 0].where(x[:, 0] != 3, math.nan), "chain 1 starts where the energy is nan"),
        (lambda x: bowl(x) + (x[:, 0] - 3).abs().sqrt(), "the score of chain 1 at step 1 is NaN or infinite"),
    ],
)
def test_mala_does_not_start_where_it_could_never_leave(energy, message):
    start = START.index_fill(0, torch.tensor(1), 3.0)
    with pytest.raises(ChainError, match=message):
        mala(energy, start, **ARGUMENTS)


def test_gibbs_refuses_what_is_not_rows_of_bits():
    for x, message in (
        (torch.tensor([[0.0, 0.5]]), r"a unit is 0.5, not 0.0 or 1.0: binarise the data first"),
        (torch.tensor([[0.0, math.nan]]), "a unit is nan"),
        (torch.tensor([[0, 1]]), "the units are torch.int64"),
        (torch.tensor([[0, -3]]), "a unit is -3"),
        (torch.tensor([[True, False]]), "the units are torch.bool"),
        (torch.zeros(2, 1, 8, 8), r"the states have the shape \(2, 1, 8, 8\): they must be rows of units"),
        (torch.zeros(2), r"the states have the shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            gibbs(bowl, x, sweeps=1)
    for arguments in ({"sweeps": -1}, {"sweeps": 1, "temperature": 0.0}, {"sweeps": 1, "temperature": math.nan}):
        with pytest.raises(ValueError, match=r"sweeps is -1|temperature is (0|nan)"):
            gibbs(bowl, START, **arguments)
    with pytest.raises(ChainError, match="chain 0 starts where the energy is nan"):
        gibbs(lambda x: bowl(x) * math.nan, START, sweeps=1)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (torch.ones(3), "known has the type torch.float32: it must be bool"),
        (torch.ones(2, dtype=torch.bool), r"known has the shape \(2,\), which does not fit x \(4, 3\)"),
        (torch.ones(9, 4, 3, dtype=torch.bool), r"known has the shape \(9, 4, 3\), which does not fit x \(4, 3\)"),
    ],
)
def test_block_gibbs_refuses_a_mask_that_does_not_fit(known, message):
    with pytest.raises(ValueError, match=message):
        block_gibbs(minus, minus, START, steps=1, known=known)
    with pytest.raises(ValueError, match="steps is -1"):
        block_gibbs(minus, minus, START, steps=-1)
