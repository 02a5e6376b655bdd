"""The joint energy model on a grid whose every probability is counted, on Gaussians, and made to diverge."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import close
from torch import nn
from torch.nn.functional import cross_entropy

from dgm_lib.datasets import Split
from dgm_lib.measures import metrics
from dgm_lib.models.energy import EnergyModel
from dgm_lib.models.joint_energy import JointEnergyModel, LogitEnergy
from dgm_lib.nets import MLP
from dgm_lib.train import DivergenceError, Objective, fit


class Table(nn.Module):
    """Logits of the points 0, 1, 2, … of a grid, any numbers: (B, 1) -> (B, K)."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[x[:, 0].round().long().clamp(0, len(self.logits) - 1)]


class Gaussians(nn.Module):
    """f(x)[y] = b_y − ‖x − μ_y‖² / 2σ²: at T = 1 class y is N(μ_y, σ² I), and p(y) = softmax(b)."""

    def __init__(self, mu: torch.Tensor, sigma: float, bias: torch.Tensor):
        super().__init__()
        self.mu, self.bias, self.sigma = nn.Parameter(mu), nn.Parameter(bias), sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bias - (x[:, None] - self.mu).square().sum(2) / (2 * self.sigma**2)


def model(net=None, shape=(2,), n_classes=3, *, weight=1.0, widest_gap=20.0, **settings) -> JointEnergyModel:
    torch.manual_seed(0)
    density = EnergyModel(LogitEnergy(net or MLP(2, 16, 3)), shape, **settings)
    return JointEnergyModel(density, n_classes, weight=weight, widest_gap=widest_gap)


def batch(n=10):
    torch.manual_seed(1)
    return torch.randn(n, 2), torch.arange(n) % 3


# ---- logits as energies --------------------------------------------------------------------------------------------


def test_the_softmax_is_the_share_of_each_joint_energy():
    m, (x, _) = model().double(), batch()
    x = x.double()
    joint = torch.stack([(-m.energy(x, torch.full((10,), y))).exp() for y in range(3)], 1)  # (B, K), times Z
    close(m(x).softmax(1), joint / joint.sum(1, keepdim=True))
    close(m.posterior(x), joint / joint.sum(1, keepdim=True))
    close(m.energy(x), -joint.sum(1).log())


def test_a_common_height_of_the_logits_changes_the_energy_and_no_class():
    low, high = model(Table(torch.zeros(4, 3)), (1,)), model(Table(torch.full((4, 3), 5.0)), (1,))
    x = torch.arange(4.0)[:, None]
    close(low.posterior(x), high.posterior(x))
    close(low.energy(x) - high.energy(x), torch.full((4,), 5.0))


# ---- the loss ------------------------------------------------------------------------------------------------------

COUNTS = torch.tensor([[1.0, 2.0, 1.0], [4.0, 1.0, 1.0], [1.0, 1.0, 6.0], [2.0, 3.0, 1.0]])  # of p(x, y), over 24


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_gradient_is_that_of_the_exact_log_probability(weight):
    """−log p(y|x) − weight · log p(x) by enumeration of p(x, y) = counts / 24; the chains hold each x as often as p."""
    m = model(Table(COUNTS.double().log()), (1,), weight=weight, n_chains=24)
    exact_chains = torch.repeat_interleave(torch.arange(4.0), COUNTS.sum(1).long())[:, None].double()
    m.density.move_chains = lambda: exact_chains
    x, y = torch.tensor([[0.0], [0.0], [2.0], [3.0], [1.0]]).double(), torch.tensor([1, 0, 2, 1, 1])
    (found,) = torch.autograd.grad(m.loss(x, y), m.density.net.classifier.logits)
    logits = COUNTS.double().log().requires_grad_()
    rows = x[:, 0].long()
    log_p = logits - logits.logsumexp((0, 1))  # log p(x, y) on the whole grid
    log_p_x = log_p.logsumexp(1)[rows]
    exact = -(log_p[rows, y] - log_p_x).mean() - weight * log_p_x.mean()
    (expected,) = torch.autograd.grad(exact, logits)
    close(found, expected, rtol=0, atol=1e-12)


def test_at_weight_one_the_loss_is_the_joint_energy_against_that_of_the_chains():
    m, (x, y) = model(temperature=1.0), batch()
    loss = m.loss(x, y)
    close(loss, m.energy(x, y).mean() - m.energy(m.density.chains).mean())


def test_each_term_of_the_loss_has_its_weight_temperature_and_penalty():
    m, (x, y) = model(weight=0.3, temperature=0.5, penalty=0.2), batch()
    loss = m.loss(x, y)
    e_data, e_model = m.energy(x), m.energy(m.density.chains)
    density = (e_data.mean() - e_model.mean()) / 0.5 + 0.2 * (e_data.square().mean() + e_model.square().mean())
    close(loss, cross_entropy(m(x), y) + 0.3 * density)


def test_without_weight_it_is_a_plain_classifier_whose_chains_rest():
    m, (x, y) = model(weight=0.0), batch()
    before = m.density.chains.clone()
    close(m.loss(x, y), cross_entropy(m(x), y))
    assert torch.equal(m.density.chains, before)


# ---- samples -------------------------------------------------------------------------------------------------------

MU, SIGMA, BIAS = torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.8, torch.tensor([0.8, 0.2]).log()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_of_a_class_have_its_moments(temperature):
    """p_T(x|y) = N(μ_y, T σ² I): a chain at step η has the variance T σ² / (1 − η/2σ²)."""
    m = model(Gaussians(MU, SIGMA, BIAS), n_classes=2, step_size=0.05, temperature=temperature)
    torch.manual_seed(0)
    y = torch.arange(4000) % 2
    x = m.sample(4000, y, steps=150)
    assert not x.requires_grad
    for c in range(2):
        of_class = x[y == c]
        close(of_class.mean(0), MU[c], rtol=0, atol=0.08)
        variance = temperature * SIGMA**2 / (1 - 0.05 / (2 * SIGMA**2))
        close(of_class.var(0), [variance, variance], rtol=0.1, atol=0)


def test_samples_of_no_class_are_of_the_mixture():
    m = model(Gaussians(MU, SIGMA, BIAS), n_classes=2, step_size=0.05)
    torch.manual_seed(0)
    x = m.sample(6000, steps=300)
    weights, mean = BIAS.exp(), BIAS.exp() @ MU
    close(x.mean(0), mean, rtol=0, atol=0.08)
    close(x.var(0), SIGMA**2 + weights @ (MU - mean).square(), rtol=0.1, atol=0)
    close(m.posterior(x).mean(0), weights, rtol=0, atol=0.04)


def test_training_finds_classes_that_are_known():
    """Two Gaussians of 1,500 and 500 points: means and p(y), of which cross-entropy alone fixes less."""
    torch.manual_seed(0)
    y = (torch.arange(2000) % 4 == 0).long()
    x = MU[y] + SIGMA * torch.randn(2000, 2)
    m = model(Gaussians(torch.zeros(2, 2), SIGMA, torch.zeros(2)), n_classes=2, step_size=0.03, n_chains=400)
    optimizer = torch.optim.Adam(m.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    fit(m, {"joint": Objective(m.loss, optimizer, scheduler=schedule)}, Split(x, y).batches(200), 12)
    found = m.density.net.classifier
    close(found.mu.detach(), torch.stack([x[y == c].mean(0) for c in range(2)]), rtol=0, atol=0.1)
    close(found.bias.detach().softmax(0), [0.75, 0.25], rtol=0, atol=0.04)


# ---- divergence ----------------------------------------------------------------------------------------------------


def moons_like() -> Split:
    torch.manual_seed(0)
    y = torch.arange(320) % 2
    return Split(0.3 * torch.randn(320, 2) + torch.where(y[:, None] == 1, 1.0, -1.0), y)


def wild(rate=10.0, widest_gap=20.0):
    """A learning rate far too large, and chains with long steps: within an epoch the energies run away."""
    m = model(MLP(2, 32, 2), n_classes=2, n_chains=64, steps=5, step_size=0.02, widest_gap=widest_gap)
    return m, Objective(m.loss, torch.optim.SGD(m.parameters(), rate))


def test_a_run_made_to_diverge_is_detected_rolled_back_and_finishes(tmp_path):
    m, objective = wild()
    split = moons_like()
    history = fit(
        m, {"joint": objective}, split.batches(32), 12, checkpoint=tmp_path / "run.pt", retries=8, progress=False
    )
    assert history.restarts >= 1
    assert objective.optimizer.param_groups[0]["lr"] == 10.0 * 0.5**history.restarts
    assert len(history) == 12
    assert all(math.isfinite(loss) for loss in history["joint"])
    assert m.density.chains.isfinite().all()
    assert metrics.accuracy(m, split.batches(320)) > 0.95
    with torch.no_grad():
        assert abs(m.energy(split.x).mean() - m.energy(m.density.chains).mean()) < 20


def test_without_retries_the_same_run_says_that_it_diverged():
    m, objective = wild()
    with pytest.raises(DivergenceError, match="'joint' became inf"):
        fit(m, {"joint": objective}, moons_like().batches(32), 12, progress=False)


def test_energies_too_far_apart_make_the_loss_infinite_and_not_the_gradient():
    """The chains are at N(0, I), the data where it is said; E grows like 2 ‖x − μ‖² there."""
    for offset, infinite in ((0.0, False), (5.0, True)):
        m, (x, y) = model(Gaussians(MU, 0.5, BIAS), n_classes=2, widest_gap=50.0, steps=1, step_size=1e-6), batch()
        loss = m.loss(x + offset, y.clamp(max=1))
        loss.backward()
        assert all(p.grad.isfinite().all() for p in m.parameters())
        assert loss.isinf().item() is infinite


def test_a_chain_that_diverges_makes_the_loss_infinite_and_stays_where_it_was():
    m, (x, y) = model(Gaussians(MU, 0.1, BIAS), n_classes=2, step_size=50.0, restart=0.0), batch()
    before = m.density.chains.clone()
    loss = m.loss(x, y.clamp(max=1))
    loss.backward()
    assert loss == math.inf
    assert all(p.grad.isfinite().all() for p in m.parameters())
    assert torch.equal(m.density.chains, before)


def test_weights_that_are_not_finite_are_divergence_too():
    m, (x, y) = model(), batch()
    with torch.no_grad():
        m.density.net.classifier[-1].bias[0] = math.nan
    assert not m.loss(x, y).isfinite()


# ---- what is let in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight is -1"),
        ({"weight": math.inf}, "weight is inf"),
        ({"widest_gap": 0.0}, "widest_gap is 0"),
        ({"n_classes": 4}, r"the net gives \(3,\) an example: it must end in 4 logits"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        model(**settings)


def test_a_density_without_logits_is_refused():
    with pytest.raises(ValueError, match="energy is a MLP, which has no logits"):
        JointEnergyModel(EnergyModel(MLP(2, 8, 1), (2,)), 3)


def test_wrong_examples_and_labels_are_named():
    m, (x, y) = model(), batch()
    with pytest.raises(ValueError, match=r"expected float examples of shape \(B, 2\)"):
        m.loss(torch.randn(10, 5), y)
    for function in (m.loss, m.energy, lambda x, y: m.sample(len(x), y, steps=1)):
        with pytest.raises(ValueError, match="a label is 3"):
            function(x, y + 1)
        with pytest.raises(ValueError, match="labels of type int64"):
            function(x, y.float())
