"""Energy models on energies whose truth is known in closed form or by quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import close
from torch import nn
from torch.distributions import MixtureSameFamily, Normal

from dgm_lib.datasets import Split
from dgm_lib.distributions import StandardNormal
from dgm_lib.models import energy
from dgm_lib.models.energy import EnergyModel, NoiseContrast
from dgm_lib.models.mixtures import GaussianMixture
from dgm_lib.nets import MLP, ConvEncoder
from dgm_lib.samplers import independent_metropolis
from dgm_lib.train import Objective, fit


class Quadratic(nn.Module):
    """E(x) = Σ_i k_i x_i² / 2: with T = 1, a Gaussian of variances 1/k."""

    def __init__(self, *stiffness: float):
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(stiffness))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (0.5 * self.stiffness * x.square()).sum(1, keepdim=True)


def model(net=None, shape=(2,), **settings) -> EnergyModel:
    torch.manual_seed(0)
    return EnergyModel(net or MLP(2, 16, 1), shape, **settings)


# ---- the energy and its score --------------------------------------------------------------------------------------


def test_the_score_is_minus_the_slope_and_leaves_no_trace():
    net = Quadratic(1.0, 4.0)
    m = model(net)
    x = torch.randn(5, 2)
    close(m.score(x), -x * torch.tensor([1.0, 4.0]))
    assert not x.requires_grad
    assert not m.score(x).requires_grad
    assert net.stiffness.grad is None
    assert net.stiffness.requires_grad


def test_what_was_frozen_before_stays_frozen():
    m = model()
    m.net[1].weight.requires_grad_(False)
    m.score(torch.randn(3, 2))
    assert [p.requires_grad for p in m.net.parameters()] == [False, True, True, True]


def test_weights_get_their_gradients_back_when_a_chain_diverges():
    m = model(Quadratic(1.0, 1.0), step_size=1e3)
    with pytest.raises(RuntimeError, match="diverged"):
        m.walk(torch.randn(3, 2), 100)
    assert m.net.stiffness.requires_grad


def test_images_keep_their_energy_in_another_memory_format():
    torch.manual_seed(0)
    net = ConvEncoder((3, 8, 8), 1, width=4)
    x = torch.rand(6, 3, 8, 8)
    before = net(x).squeeze(1)
    close(model(net, (3, 8, 8)).energy(x), before)


# ---- maximum likelihood --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_gradient_is_data_minus_chains_over_the_temperature(temperature):
    """With the chains as they are after the step: nothing of the way there is differentiated."""
    m = model(Quadratic(1.0, 4.0), temperature=temperature, step_size=0.05, steps=7)
    x = torch.randn(10, 2)
    m.loss(x).backward()
    expected = (x.square().mean(0) / 2 - m.chains.square().mean(0) / 2) / temperature
    close(m.net.stiffness.grad, expected)


def test_the_penalty_is_the_mean_square_on_both_sides():
    m = model(Quadratic(1.0, 4.0), penalty=0.3)
    torch.manual_seed(1)
    x = torch.randn(10, 2)
    torch.manual_seed(2)
    with_penalty = m.loss(x)
    e_data, e_chains = m.energy(x), m.energy(m.chains)
    close(with_penalty, e_data.mean() - e_chains.mean() + 0.3 * ((e_data**2).mean() + (e_chains**2).mean()))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_maximum_likelihood_finds_the_variances(temperature):
    """p ∝ exp(−E/T), so the stiffness is T / variance. A chain at the wrong temperature would be off by that factor."""
    torch.manual_seed(0)
    x = torch.randn(4000, 2) * torch.tensor([1.0, 0.5])
    m = model(Quadratic(2.0, 2.0), n_chains=500, step_size=0.02, temperature=temperature, restart=0.0)
    optimizer = torch.optim.Adam(m.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    split = Split(x, torch.zeros(len(x)).long())
    fit(m, {"ml": Objective(m.loss, optimizer, scheduler=schedule)}, split.batches(200), 15)
    close(m.net.stiffness.detach() * x.var(0) / temperature, torch.ones(2), rtol=0.1, atol=0)


def test_chains_persist_move_and_are_saved():
    m = model(restart=0.0, steps=1, step_size=1e-4)
    before = m.chains.clone()
    m.loss(torch.randn(4, 2))
    moved = (m.chains - before).abs()
    assert 0 < moved.max() < 0.1
    other = model()
    other.load_state_dict(m.state_dict())
    assert torch.equal(other.chains, m.chains)


def test_every_chain_restarts_where_all_are_to():
    m = model(restart=1.0, steps=1, step_size=1e-6, box=(2.0, 3.0))
    before = m.chains.clone()
    m.move_chains()
    assert ((m.chains - before).abs() > 0.01).any(1).float().mean() > 0.9
    assert 2 <= m.chains.min() < m.chains.max() <= 3


def two_bumps(weight: float) -> MixtureSameFamily:
    weights = torch.distributions.Categorical(torch.tensor([weight, 1 - weight]))
    return MixtureSameFamily(weights, Normal(torch.tensor([-3.0, 3.0]), 0.3))


def test_jumps_keep_the_law_and_cross_what_langevin_does_not():
    """All chains begin in the bump of weight 0.3: without the Metropolis rule their share would go to about ½."""
    bumps, wide = two_bumps(0.3), GaussianMixture(1, 1)
    wide.factor.data.fill_(math.log(3.0))
    torch.manual_seed(0)
    x, rates = torch.full((4000, 1), -3.0), []
    for _ in range(60):
        x, rate = independent_metropolis(lambda x: -bumps.log_prob(x[:, 0]), x, wide)
        rates.append(rate)
    assert (x < 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    close(x[x > 0].std(), 0.3, rtol=0.05, atol=0)
    assert 0.05 < rates[-1] < 0.6


def test_jumps_are_offered_in_training():
    m = model(Quadratic(1.0, 1.0), jump=StandardNormal(2), step_size=1e-8, steps=1, restart=0.0)
    before = m.chains.clone()
    m.move_chains()  # the law is the model's own here: every jump is taken
    assert ((m.chains - before).abs() > 1e-3).all(1).float().mean() > 0.95


def test_samples_come_from_the_model():
    """A chain of 1,000 steps at η = 0.05: variance 1/k up to 1/(1 − ηk/2); the usual error, no √2, would halve it."""
    m = model(Quadratic(1.0, 4.0), step_size=0.05, steps=50, restart=0.05)
    torch.manual_seed(0)
    x = m.sample(4000)
    assert x.shape == (4000, 2)
    close(x.var(0), [1 / (1 - 0.025), 0.25 / (1 - 0.1)], rtol=0.1, atol=0)


# ---- score matching ------------------------------------------------------------------------------------------------


class Bent(nn.Module):
    """E(x) = a x² + b x⁴ + c x in one dimension: no Gaussian."""

    def __init__(self, a: float = 0.6, b: float = 0.1, c: float = 0.3):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([a, b, c], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c = self.theta
        return (a * x**2 + b * x**4 + c * x).squeeze(1)


def on_a_line(extent: float = 8.0, n: int = 4001) -> tuple[torch.Tensor, float]:
    x = torch.linspace(-extent, extent, n, dtype=torch.float64)
    return x[:, None], (x[1] - x[0]).item()


def test_denoising_has_the_gradient_of_matching_the_blurred_score():
    """Vincent 2011: the two losses differ by a constant. Gradient by quadrature against 200 draws a data point."""
    data, sigma, net = two_bumps(0.3), 0.5, Bent()
    grid, width = on_a_line()
    blurred = MixtureSameFamily(data.mixture_distribution, Normal(torch.tensor([-3.0, 3.0]), math.hypot(0.3, sigma)))
    at = grid.clone().requires_grad_()
    (true_score,) = torch.autograd.grad(blurred.log_prob(at).sum(), at)
    score = energy.score_with_graph(net, grid)
    explicit = (blurred.log_prob(grid).exp() * 0.5 * (score - true_score).square()).sum() * width * sigma**2
    (expected,) = torch.autograd.grad(explicit, net.theta)
    torch.manual_seed(0)
    x = data.sample((400_000, 1)).double()
    values = energy.denoising_score_matching(net, x, sigma)
    assert values.shape == (400_000,)
    (gradient,) = torch.autograd.grad(values.mean(), net.theta)
    close(gradient, expected, rtol=0.03, atol=0)


def test_slicing_has_the_mean_of_the_exact_loss():
    """½ ‖s‖² + tr ∇s of E = Σ k x²/2 is ½ Σ (k x)² − Σ k. Hyvärinen 2005, theorem 1."""
    k = torch.tensor([1.0, 4.0, 0.5])
    net = Quadratic(*k.tolist())
    x = torch.tensor([[0.3, -1.0, 2.0]])
    torch.manual_seed(0)
    values = energy.sliced_score_matching(lambda x: net(x).squeeze(1), x.expand(200_000, -1))
    close(values.mean().detach(), 0.5 * (k * x).square().sum() - k.sum(), rtol=0, atol=0.06)


def test_score_matching_is_least_at_the_truth():
    torch.manual_seed(0)
    x = torch.randn(100_000, 2) * torch.tensor([1.0, 0.5])
    for loss, variance in (
        (lambda e: energy.sliced_score_matching(e, x), [1.0, 0.25]),
        (lambda e: energy.denoising_score_matching(e, x, 0.5), [1.25, 0.5]),
    ):
        net = Quadratic(*(1 / v for v in variance))
        (gradient,) = torch.autograd.grad(loss(lambda x, net=net: net(x).squeeze(1)).mean(), net.stiffness)
        assert gradient.abs().max() < 0.02, gradient  # half the stiffness would give 0.1 and more


# ---- noise contrast ------------------------------------------------------------------------------------------------


def wide_noise() -> GaussianMixture:
    noise = GaussianMixture(1, 2)
    noise.factor.data.copy_(math.log(1.5) * torch.eye(2))
    return noise.requires_grad_(False)


@pytest.mark.parametrize("ratio", [1, 4])
def test_noise_contrast_learns_the_energy_and_log_z(ratio):
    """log Z of exp(−Σ k x²/2) is ½ Σ log(2π/k): exact."""
    torch.manual_seed(0)
    x = torch.randn(20_000, 2) * torch.tensor([1.0, 0.5])
    m = NoiseContrast(Quadratic(2.0, 2.0), wide_noise(), ratio=ratio)
    optimizer = torch.optim.Adam([p for p in m.parameters() if p.requires_grad], 0.03)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    split = Split(x, torch.zeros(len(x)).long())
    fit(m, {"nce": Objective(m.loss, optimizer, scheduler=schedule)}, split.batches(500), 15)
    k = m.net.stiffness.detach()
    close(k * x.var(0), torch.ones(2), rtol=0.08, atol=0)
    close(m.log_z.detach(), 0.5 * (2 * math.pi / k).log().sum(), rtol=0, atol=0.05)


def test_the_logit_is_that_of_bayes_rule():
    m = NoiseContrast(Quadratic(1.0, 4.0), wide_noise(), ratio=3)
    x = torch.randn(5, 2)
    data, noise = m.log_prob(x).exp(), m.noise_law.log_prob(x).exp()
    close(m.logit(x).sigmoid(), data / (data + 3 * noise))


# ---- composition ---------------------------------------------------------------------------------------------------


def test_composed_energies_are_sums_in_the_right_place():
    a, b = Quadratic(1.0, 4.0), Quadratic(3.0, 0.5)
    e_a, e_b = lambda x: a(x).squeeze(1), lambda x: b(x).squeeze(1)
    x = torch.randn(6, 2)
    p_a, p_b = (-e_a(x)).exp(), (-e_b(x)).exp()
    close((-energy.product(e_a, e_b)(x)).exp(), p_a * p_b)
    close((-energy.mixture(e_a, e_b)(x)).exp(), p_a + p_b)
    close((-energy.difference(e_a, e_b, 0.5)(x)).exp(), p_a / p_b.sqrt())


# ---- what is let in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": 0.0}, "step_size is 0"),
        ({"step_size": -1.0}, "step_size is -1"),
        ({"steps": -1}, "steps is -1"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"restart": 1.5}, "restart is 1.5"),
        ({"n_chains": 0}, "n_chains is 0"),
        ({"penalty": -0.1}, "penalty is -0.1"),
        ({"box": (1.0, 0.0)}, r"box is \(1.0, 0.0\)"),
        ({"net": MLP(2, 8, 3)}, r"has the shape \(2, 3\): it must be one number an example"),
        ({"net": nn.Identity()}, "one number an example"),
    ],
)
def test_bad_settings_are_named_before_any_time_is_spent(settings, message):
    with pytest.raises(ValueError, match=message):
        model(**settings)


def test_examples_of_another_shape_are_refused():
    m = model()
    for function in (m.energy, m.score, m.loss):
        with pytest.raises(ValueError, match=r"expected float examples of shape \(B, 2\), got .* \(4, 3\)"):
            function(torch.randn(4, 3))


def test_chains_of_another_shape_are_refused_by_the_checkpoint():
    with pytest.raises(RuntimeError, match="chains"):
        model(n_chains=8).load_state_dict(model(n_chains=9).state_dict())


def test_a_diverging_chain_is_named_with_its_step():
    m = model(Quadratic(1.0, 1.0), step_size=50.0)
    with pytest.raises(RuntimeError, match=r"chain \d+ diverged by step \d+ of 20"):
        m.loss(torch.randn(4, 2))


def test_noise_without_width_and_contrast_without_noise_are_refused():
    with pytest.raises(ValueError, match="sigma is 0"):
        energy.denoising_score_matching(model().energy, torch.randn(3, 2), 0.0)
    with pytest.raises(ValueError, match="ratio is 0"):
        NoiseContrast(MLP(2, 1), wide_noise(), ratio=0)
    with pytest.raises(ValueError, match="one number an example"):
        NoiseContrast(MLP(2, 4), wide_noise()).loss(torch.randn(3, 2))


def test_reconstruction_energy_is_the_squared_distance_and_grows_outwards():
    class Half(nn.Module):
        def forward(self, x):
            return 0.5 * x

    x = torch.randn(5, 1, 4, 4)
    close(energy.ReconstructionEnergy(Half(), 0.5)(x), (0.5 * x).square().sum((1, 2, 3)) / (2 * 0.25))
    with pytest.raises(ValueError, match="sigma is 0"):
        energy.ReconstructionEnergy(Half(), 0.0)
