"""Restricted Boltzmann machine: every figure against enumeration or quadrature, chains against transition matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import close, states
from sklearn.neural_network import BernoulliRBM
from torch.optim import SGD

from benchmarks.rbm_speed import copied
from dgm_lib.datasets import Split
from dgm_lib.models import rbm
from dgm_lib.models.rbm import RBM, BinaryUnits, GaussianUnits, LogZ, bits, log_mean
from dgm_lib.train import Objective, fit

D, H = 4, 3


def number(v):
    """The row of `states` that each v (B, n) is."""
    return (v @ 2 ** torch.arange(v.shape[1] - 1, -1, -1, dtype=v.dtype)).long()


def machine(n_visible=D, n_hidden=H, seed=0, **options):
    """A machine with weights that matter, in float64."""
    torch.manual_seed(seed)
    model = RBM(BinaryUnits(n_visible), n_hidden, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=1.2)
    return model.double()


def gaussian_machine(n_visible=2, sigma=0.7, n_hidden=H):
    torch.manual_seed(0)
    model = RBM(GaussianUnits(n_visible, sigma), n_hidden)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=1.0)
    model.base_bias.fill_(0.5)
    return model.double()


def joint(model):
    """exp(bᵀv + cᵀh + vᵀW h) / Z for all v and h: (2^D, 2^H), written out."""
    v, h = states(model.weight.shape[0]), states(model.weight.shape[1])
    table = (v @ model.visible_bias)[:, None] + h @ model.hidden_bias + v @ model.weight @ h.T
    return (table.exp() / table.exp().sum()).detach()


def transition(model):
    """T[v, v'] = Σ_h p(h|v) p(v'|h), of one Gibbs step: (2^D, 2^D)."""
    p = joint(model)
    return (p / p.sum(1, keepdim=True)) @ (p / p.sum(0)).T


def grid(n_dimensions, low=-14.0, high=14.0, n=1401):
    """Points and the size of their cells, for integrals."""
    side = torch.linspace(low, high, n, dtype=torch.float64)
    points = torch.cartesian_prod(*[side] * n_dimensions).view(-1, n_dimensions)
    return points, (side[1] - side[0]) ** n_dimensions


def assert_frequencies(drawn, p):
    """Rows of bits come as often as p (2^n,) says."""
    share = torch.bincount(number(drawn.double()), minlength=len(p)) / len(drawn)
    deviation = (p * (1 - p) / len(drawn)).sqrt()
    assert ((share - p).abs() < 5 * deviation + 1e-4).all(), (share - p).abs().max()


# ---- energies and probabilities ------------------------------------------------------------------------------------


def test_energy_is_the_sum_over_units_and_connections():
    model = machine()
    x, h = states(D)[[5, 15, 0]], states(H)[[2, 7, 6]]
    for E, v, h_ in zip(model.energy(x, h), x, h):
        expected = -sum(model.visible_bias[i] * v[i] for i in range(D)) - sum(model.hidden_bias * h_)
        expected -= sum(v[i] * model.weight[i, j] * h_[j] for i in range(D) for j in range(H))
        close(E, expected)


def test_gaussian_energy_has_a_parabola():
    model, h = gaussian_machine(), states(H)[[3, 6]]
    x = torch.tensor([[0.3, -1.2], [2.0, 0.1]], dtype=torch.float64)
    expected = (x**2).sum(1) / (2 * 0.7**2) - x @ model.visible_bias - h @ model.hidden_bias
    close(model.energy(x, h), expected - ((x @ model.weight) * h).sum(1))


@pytest.mark.parametrize("model", [machine(), gaussian_machine(D)], ids=["binary", "Gaussian"])
def test_free_energy_sums_the_hidden_units_out(model):
    x, h = states(D), states(H)
    E = model.energy(x.repeat_interleave(len(h), 0), h.repeat(len(x), 1)).view(len(x), len(h))
    close(model.free_energy(x), -(-E).logsumexp(1))


@pytest.mark.parametrize(("n_visible", "n_hidden"), [(4, 3), (3, 4), (4, 4), (1, 1), (5, 1)])
@pytest.mark.parametrize("rows", [2**14, 3])
def test_log_z_is_that_of_all_states_of_both_layers(n_visible, n_hidden, rows, monkeypatch):
    monkeypatch.setattr(rbm, "ROWS", rows)  # 3: states come in several parts
    model = machine(n_visible, n_hidden)
    v, h = states(n_visible), states(n_hidden)
    E = model.energy(v.repeat_interleave(len(h), 0), h.repeat(len(v), 1))
    close(model.log_z(), (-E).logsumexp(0))
    close(model.log_prob(v), joint(model).sum(1).log())
    close(model.log_prob(v).exp().sum(), 1.0)


def test_log_prob_of_images_takes_a_log_z_that_is_known():
    torch.manual_seed(0)
    model = RBM(BinaryUnits((1, 2, 2)), 3)
    x = states(4).float().view(-1, 1, 2, 2)
    close(model.log_prob(x).exp().sum(), 1.0)
    close(model.log_prob(x, 2.0), -model.free_energy(x) - 2)
    assert model.log_prob(x, model.log_z().double()).dtype == torch.float32


@pytest.mark.parametrize("n_dimensions", [1, 2])
@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_gaussian_density_integrates_to_1(n_dimensions, sigma):
    model = gaussian_machine(n_dimensions, sigma)
    x, cell = grid(n_dimensions)
    integral = ((-model.free_energy(x)).logsumexp(0) + cell.log()).detach()
    close(model.log_z(), integral, atol=1e-9, rtol=0)
    close((model.log_prob(x).exp() * cell).sum(), 1.0, atol=1e-9, rtol=0)


def test_gaussian_units_enumerate_the_hidden_layer_however_few_they_are():
    with pytest.raises(ValueError, match="a layer of 21 units"):
        RBM(GaussianUnits(2), 21).log_z()
    assert RBM(BinaryUnits(2), 21).log_z().isfinite()


def test_pseudo_likelihood_is_each_unit_given_all_others():
    model = machine()
    p = joint(model).sum(1)
    v = states(D)
    total = torch.zeros(len(v), dtype=torch.float64)
    for i in range(D):
        other = v.clone()
        other[:, i] = 1 - v[:, i]
        total += (p / (p + p[number(other)])).log()
    close(model.pseudo_log_likelihood(v), total)


def test_what_scikit_learn_has_learnt_is_the_same_in_a_machine_of_ours():
    x = bits(torch.zeros(60, D, dtype=torch.float64))
    reference = BernoulliRBM(H, learning_rate=0.5, batch_size=20, random_state=np.random.RandomState(0)).fit(x.numpy())
    model = copied(reference, [D])
    close(model.posterior(x).mean, reference.transform(x.numpy()))
    # its scores flip one unit, drawn at random, and take that D times: right in expectation
    drawn = torch.stack([torch.as_tensor(reference.score_samples(x.numpy())) for _ in range(400)])
    error = drawn.mean(0) - model.pseudo_log_likelihood(x).detach()
    assert (error.abs() < 5 * drawn.std(0) / 20).all()


# ---- conditionals and Gibbs steps ----------------------------------------------------------------------------------


def test_conditionals_are_those_of_the_joint():
    model, p = machine(), joint(machine())
    v, h = states(D), states(H)
    for i in range(len(v)):
        close(model.posterior(v[i : i + 1]).log_prob(h).exp(), p[i] / p[i].sum())
    for j in range(len(h)):
        close(model.likelihood(h[j : j + 1]).log_prob(v).exp(), p[:, j] / p[:, j].sum())


def test_gaussian_likelihood_is_proportional_to_the_joint():
    model = gaussian_machine()
    x, cell = grid(2, n=701)
    for h in states(H)[[0, 3, 7]][:, None]:
        p = (-model.energy(x, h)).softmax(0) / cell
        close(model.likelihood(h).log_prob(x).exp(), p, atol=1e-8, rtol=0)


def test_likelihood_gives_images():
    model = RBM(BinaryUnits((1, 2, 2)), 3)
    assert model.likelihood(torch.ones(5, 3)).mean.shape == (5, 1, 2, 2)
    assert model.likelihood(torch.ones(5, 3)).log_prob(torch.ones(5, 1, 2, 2)).shape == (5,)


def test_a_gibbs_step_is_the_transition_matrix_which_leaves_p_alone():
    model = machine()
    T, p = transition(model), joint(model).sum(1)
    close(p @ T, p)
    close((p[:, None] * T).T, p[:, None] * T)  # detailed balance
    torch.manual_seed(0)
    for i in (0, 6, 15):
        x = states(D)[i].expand(40_000, -1)
        assert_frequencies(model.gibbs(x, steps=1), T[i])
        assert_frequencies(model.gibbs(x, steps=2), (T @ T)[i])


def test_gaussian_gibbs_keeps_the_density():
    """Chains that start at draws from it, found by the hidden units first, keep its mean and second moments."""
    model, h = gaussian_machine(), states(H)
    p = (h @ model.hidden_bias + model.visible.log_normalizer(model.visible_field(h))).softmax(0).detach()
    torch.manual_seed(0)
    x = model.likelihood(h[torch.multinomial(p, 40_000, replacement=True)]).sample()
    points, cell = grid(2, n=701)
    density = (model.log_prob(points).exp() * cell).detach()
    for drawn in (x, model.gibbs(x, steps=3)):
        for moment in (lambda x: x, lambda x: x**2, lambda x: x.prod(1, keepdim=True)):
            values, expected = moment(drawn), density @ moment(points)
            assert ((values.mean(0) - expected).abs() < 5 * values.std(0) / 200).all()


def test_samples_follow_the_law_of_the_machine():
    torch.manual_seed(0)
    assert_frequencies(machine().sample(40_000, steps=60), joint(machine()).sum(1))


def test_clamped_gibbs_draws_from_the_conditional():
    model = machine()
    known = torch.tensor([True, False, True, False])
    x = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).expand(40_000, -1)
    torch.manual_seed(0)
    drawn = model.gibbs(x, steps=40, known=known)
    assert torch.equal(drawn[:, known], x[:, known])
    p = joint(model).sum(1)
    fits = (states(D)[:, 0] == 1) & (states(D)[:, 2] == 0)
    assert_frequencies(drawn, torch.where(fits, p, 0) / p[fits].sum())


# ---- filling in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_fill_in_is_the_conditional_expectation(seed):
    model = machine(seed=seed)
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    known = torch.tensor([[True, False, True, False], [False, False, False, True]])
    p, v = joint(model).sum(1), states(D)
    filled = model.fill_in(x.repeat(2000, 1), known.repeat(2000, 1), steps=100).view(2000, 2, D)
    for row in range(2):
        fits = (v[:, known[row]] == x[row, known[row]]).all(1)
        expected = (p[fits] @ v[fits]) / p[fits].sum()
        error = filled[:, row].mean(0) - expected
        assert (error.abs() < 5 * filled[:, row].std(0) / 2000**0.5 + 1e-12).all()
        assert torch.equal(filled[:, row, known[row]], x[row, known[row]].expand(2000, -1))


def test_gaussian_fill_in_is_the_conditional_expectation():
    model, x = gaussian_machine(), torch.tensor([0.8, math.nan], dtype=torch.float64)
    filled = model.fill_in(x.expand(4000, 2), torch.tensor([True, False]), steps=100)
    points = torch.stack([torch.full((4001,), 0.8), torch.linspace(-14, 14, 4001)], 1).double()
    expected = (-model.free_energy(points)).softmax(0) @ points[:, 1]
    assert (filled[:, 1].mean() - expected).abs() < 5 * filled[:, 1].std() / 4000**0.5
    assert (filled[:, 0] == 0.8).all()


def test_what_stands_in_unknown_pixels_does_not_matter():
    model = RBM(BinaryUnits((1, 2, 2)), 3)
    known = torch.tensor([[True, False], [True, True]])  # one mask for all images
    x = torch.ones(6, 1, 2, 2)
    strange = torch.where(known, x, math.nan)
    filled = []
    for image in (x, strange):
        torch.manual_seed(1)
        filled.append(model.fill_in(image, known, steps=5))
    assert torch.equal(*filled)
    assert filled[0].shape == x.shape


# ---- gradients -----------------------------------------------------------------------------------------------------


def exact_gradients(model, x):
    """∇ of the mean of log p(x): ⟨v hᵀ⟩_data − ⟨v hᵀ⟩_model, and the same for v and h alone, by enumeration."""
    p, v, h = joint(model), states(model.weight.shape[0]), states(model.weight.shape[1])
    p_h = p / p.sum(1, keepdim=True)  # p(h|v)
    data = torch.bincount(number(x.double()), minlength=len(v)).double() / len(x)
    at_data, at_model = data[:, None] * p_h, p
    contrast = at_data - at_model  # (2^D, 2^H)
    return v.T @ contrast @ h, v.T @ contrast.sum(1), contrast.sum(0) @ h


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("n_visible", "n_hidden"), [(8, 5), (5, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_the_exact_likelihood_is_data_minus_model(n_visible, n_hidden, seed, dtype, tolerance):
    single = machine(n_visible, n_hidden, seed).to(dtype)
    x = bits(torch.zeros(20, n_visible, dtype=dtype))
    single.log_prob(x).mean().backward()
    expected = exact_gradients(single.double(), x)
    for parameter, by_hand in zip((single.weight, single.visible_bias, single.hidden_bias), expected):
        assert (parameter.grad - by_hand).norm() <= tolerance * by_hand.norm()


def test_gradient_is_the_same_where_states_come_in_parts(monkeypatch):
    whole, parts = machine(6, 5), machine(6, 5)
    whole.log_z().backward()
    monkeypatch.setattr(rbm, "ROWS", 7)
    parts.log_z().backward()
    for a, b in zip(whole.parameters(), parts.parameters()):
        close(a.grad, b.grad)


@pytest.mark.parametrize("n_chains", [0, 5])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", [BinaryUnits, GaussianUnits])
def test_gradient_of_the_loss_is_the_textbook_s(n_chains, steps, kind):
    torch.manual_seed(0)
    model = RBM(kind(D), H, n_chains=n_chains, steps=steps).double()
    torch.nn.init.normal_(model.weight)
    v = bits(torch.zeros(7, D, dtype=torch.float64))
    torch.manual_seed(1)
    negatives = model._negatives(v)
    assert negatives.shape == (n_chains or 7, D)
    torch.manual_seed(1)
    loss = model.loss(v)
    loss.backward()
    close(loss, model.free_energy(v).mean() - model.free_energy(negatives).mean())
    h, h_negative = (torch.sigmoid(model.hidden_bias + x @ model.weight) for x in (v, negatives))
    close(model.weight.grad, negatives.T @ h_negative / len(negatives) - v.T @ h / 7)
    close(model.visible_bias.grad, negatives.mean(0) - v.mean(0))
    close(model.hidden_bias.grad, h_negative.mean(0) - h.mean(0))


# ---- chains --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_negatives_of_contrastive_divergence_are_steps_away_from_the_data(steps):
    model = machine(steps=steps)
    torch.manual_seed(0)
    for i in (0, 6):
        v = states(D)[i].expand(40_000, -1)
        assert_frequencies(model._negatives(v), torch.linalg.matrix_power(transition(model), steps)[i])
    assert model.chains.shape == (0, H)


@pytest.mark.parametrize("steps", [1, 3])
def test_persistent_chains_go_on_from_where_they_were(steps):
    """After t batches they are t · steps transitions from their start, whatever the data were."""
    model = machine(n_chains=40_000, steps=steps)
    p = joint(model)
    T = (p / p.sum(0)).T @ (p / p.sum(1, keepdim=True))  # h -> v -> h
    law = torch.full((2**H,), 2.0**-H, dtype=torch.float64)
    assert_frequencies(model.chains, law)
    torch.manual_seed(0)
    for _ in range(2):
        model.loss(states(D)[:3])
        law = law @ torch.linalg.matrix_power(T, steps)
        assert_frequencies(model.chains, law)


def test_negatives_are_drawn_with_the_weights_of_now():
    """A delay of one update makes the biases swing in early training."""
    model = RBM(BinaryUnits(D), H, n_chains=50)
    model.visible_bias.data.fill_(100.0)
    assert (model._negatives(torch.zeros(1, D)) == 1).all()


def test_a_step_of_the_optimizer_does_not_reach_the_chains():
    model = machine(n_chains=5)
    model.loss(states(D)).backward()
    assert not model.chains.requires_grad
    assert set(model.chains.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("options", [{}, {"steps": 5}, {"n_chains": 40}], ids=["CD-1", "CD-5", "PCD"])
@pytest.mark.parametrize("seed", range(3))
def test_training_raises_the_exact_likelihood(options, seed):
    """Of stripes: the columns of a 3×3 image are lit or dark as a whole, so 8 of 512 images occur."""
    torch.manual_seed(seed)
    x = states(3).float().repeat(20, 1)[:, None, None, :].expand(-1, 1, 3, 3).contiguous()
    model = RBM.start(BinaryUnits((1, 3, 3)), 6, x, **options)
    before = model.log_prob(x).mean().item()
    batches = Split(x, torch.zeros(len(x)).long()).batches(20)
    fit(model, {"-log p": Objective(model.loss, SGD(model.parameters(), 0.2))}, batches, epochs=60, seed=seed)
    after = model.log_prob(x).mean().item()
    assert before == pytest.approx(-9 * math.log(2), abs=0.01)
    assert -4.2 < after < -3 * math.log(2)  # the best that any model can do


def test_start_has_the_mean_of_the_data():
    torch.manual_seed(0)
    x = (torch.rand(500, 1, 2, 2) < torch.tensor([[0.1, 0.9], [0.5, 0.0]])).double()
    model = RBM.start(BinaryUnits((1, 2, 2)), 3, x, n_chains=7)
    independent = torch.sigmoid(model.base_bias).view(1, 2, 2)
    close(independent, (x.sum(0) + 0.5) / 501)
    assert torch.equal(model.base_bias, model.visible_bias)
    assert model.weight.dtype == model.chains.dtype == torch.float64
    gaussian = RBM.start(GaussianUnits((1, 2, 2), 0.5), 3, x)
    close(0.25 * gaussian.visible_bias.view(1, 2, 2), x.mean(0))


def test_autocast_does_not_reach_the_small_difference_of_two_means():
    ends = []
    for bf16 in (False, True):
        model = machine(n_chains=5).float()
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.loss(states(D).float())
        loss.backward()
        ends.append((loss, model.chains, model.weight.grad, model.visible_bias.grad))
    assert all(torch.equal(a, b) for a, b in zip(*ends))


def test_chains_are_saved_and_loaded(tmp_path):
    model, again = (machine(n_chains=6, seed=seed) for seed in (0, 1))
    model.loss(states(D))
    torch.save(model.state_dict(), tmp_path / "machine.pt")
    again.load_state_dict(torch.load(tmp_path / "machine.pt", weights_only=True))
    losses = []
    for each in (model, again):
        torch.manual_seed(2)
        losses.append(each.loss(states(D)))
    assert torch.equal(*losses)
    assert torch.equal(model.chains, again.chains)


# ---- AIS -----------------------------------------------------------------------------------------------------------


def small(kind, seed=0):
    model = machine(6, 5, seed) if kind == "binary" else gaussian_machine()
    if kind == "binary":
        model.base_bias.normal_()
    return model


every_kind = pytest.mark.parametrize("kind", ["binary", "Gaussian"])


def ratio(estimate, log_z):
    """How many standard errors the mean weight is from Z, Z taken as 1."""
    w = (estimate.log_weights - log_z.detach()).exp()
    return float((w.mean() - 1) / (w.std() / len(w) ** 0.5))


@every_kind
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_mean_weight_is_z_with_any_number_of_steps(kind, steps):
    """With few steps it holds only if each transition keeps its own distribution: long runs would hide it."""
    model = small(kind)
    if steps == 1 and kind == "binary":
        model.weight.data *= 0.3  # plain importance sampling: weights must not be too wild for the test
    torch.manual_seed(0)
    assert abs(ratio(model.ais(steps=steps, n_chains=100_000), model.log_z())) < 4


@every_kind
def test_ais_meets_enumeration(kind):
    for seed in range(3):
        model = small(kind, seed)
        torch.manual_seed(seed)
        estimate = model.ais(steps=300, n_chains=200)
        assert (estimate.value - model.log_z()).abs() < 0.05
        assert estimate.low < estimate.value < estimate.high
        assert estimate.effective_chains > 150


@every_kind
@pytest.mark.parametrize(("level", "least", "most"), [(0.95, 0.90, 1.0), (0.5, 0.35, 0.65)])
def test_the_interval_covers_as_often_as_it_says(kind, level, least, most):
    model = small(kind)
    log_z = model.log_z().item()
    torch.manual_seed(0)
    estimates = [model.ais(steps=30, n_chains=100, level=level) for _ in range(100)]
    assert least <= sum(e.low <= log_z <= e.high for e in estimates) / 100 <= most


def test_an_ais_that_forgets_the_base_is_found_out(monkeypatch):
    model = small("binary")
    log_z = model.log_z()
    monkeypatch.setattr(BinaryUnits, "log_normalizer", lambda self, field: 0.0)
    assert abs(ratio(model.ais(steps=4, n_chains=10_000), log_z)) > 20


def test_without_connections_one_step_is_exact():
    model = small("binary")
    model.weight.data.zero_()
    model.visible_bias.data.copy_(model.base_bias)
    estimate = model.ais(steps=1, n_chains=2)
    close(estimate.value, model.log_z())
    assert estimate.high - estimate.low < 1e-12


def test_the_log_mean_of_weights_and_how_many_count():
    estimate = log_mean(torch.tensor([0.0, math.log(3.0)], dtype=torch.float64), 0.95)
    close(estimate.value, math.log(2))
    deviation = 2**0.5 / 2 / 2**0.5  # of weights 1 and 3, relative to their mean 2
    assert estimate.high - estimate.value == pytest.approx(1.959964 * deviation)
    assert estimate.effective_chains == pytest.approx(16 / 10)
    assert log_mean(torch.zeros(8), 0.95).effective_chains == pytest.approx(8)
    assert LogZ(torch.tensor(0.0), 0, 0, torch.tensor([0.0, -1e9])).effective_chains == 1


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["loss", "free_energy", "log_prob", "posterior", "pseudo_log_likelihood"])
def test_data_that_are_not_the_units_are_refused(use):
    model = RBM(BinaryUnits((1, 2, 2)), 3)
    x = torch.ones(5, 1, 2, 2)
    for value in (0.5, math.nan, -1.0, math.inf):
        x[3, 0, 1, 1] = value
        with pytest.raises(ValueError, match=rf"a unit is {value:g}, not 0.0 or 1.0: binarise the data first"):
            getattr(model, use)(x)
    with pytest.raises(ValueError, match=r"expected float examples of .*, got torch\.uint8"):
        getattr(model, use)(torch.ones(5, 1, 2, 2).byte())
    with pytest.raises(ValueError, match=r"expected float examples of shape \(B, 1, 2, 2\), got .* \(5, 4\)"):
        getattr(model, use)(torch.ones(5, 4))


def test_data_that_are_no_density_s_are_refused():
    model = RBM(GaussianUnits(2), 3)
    with pytest.raises(ValueError, match="x holds nan: leave out what is NaN"):
        model.loss(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match=r"expected float examples of shape \(B, 2\), got torch.int64"):
        RBM.start(GaussianUnits(2), 3, torch.ones(4, 2).long())
    with pytest.raises(ValueError, match="pseudo-likelihood is made for binary units"):
        model.pseudo_log_likelihood(torch.ones(4, 2))


def test_grey_data_are_refused_at_the_start():
    with pytest.raises(ValueError, match=r"a unit is 0\.25, not 0.0 or 1.0"):
        RBM.start(BinaryUnits((1, 2, 2)), 3, torch.full((5, 1, 2, 2), 0.25))
    with pytest.raises(ValueError, match=r"expected float examples of shape \(B, 4\), got .* \(5, 1, 2, 2\)"):
        RBM.start(BinaryUnits(4), 3, torch.ones(5, 1, 2, 2))


@pytest.mark.parametrize(("n_visible", "n_hidden", "width"), [(784, 500, 500), (64, 21, 21), (21, 64, 21)])
def test_a_layer_too_wide_is_refused_with_its_width_and_the_way_out(n_visible, n_hidden, width):
    with pytest.raises(ValueError, match=rf"2\^{width} states of a layer of {width} units.* up to 20.*ais\(\)"):
        RBM(BinaryUnits(n_visible), n_hidden).log_z()


def test_masks_that_do_not_fit_are_refused():
    model, x = RBM(BinaryUnits((1, 2, 2)), 3), torch.ones(5, 1, 2, 2)
    for use in (lambda known: model.fill_in(x, known), lambda known: model.gibbs(x, steps=1, known=known)):
        with pytest.raises(ValueError, match=r"known has the shape \(3, 2\), which does not fit x \(5, 1, 2, 2\)"):
            use(torch.ones(3, 2, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"known has the type torch.float32: it must be bool"):
            use(torch.ones(5, 1, 2, 2))


def test_numbers_without_a_meaning_are_refused():
    x = torch.ones(2, 4)
    model = RBM(BinaryUnits(4), 3)
    refusals = {
        "n_hidden is 0: ": lambda: RBM(BinaryUnits(4), 0),
        "steps is 0: ": lambda: RBM(BinaryUnits(4), 3, steps=0),
        "n_chains is -1: ": lambda: RBM(BinaryUnits(4), 3, n_chains=-1),
        r"an example has the shape \(1, 0\)": lambda: BinaryUnits((1, 0)),
        "sigma is 0: it must be positive": lambda: GaussianUnits(4, 0.0),
        "sigma is nan": lambda: GaussianUnits(4, math.nan),
        "steps is 0: it must be a whole number ≥ 1": lambda: model.ais(steps=0),
        "n_chains is 1: it must be a whole number ≥ 2": lambda: model.ais(steps=5, n_chains=1),
        "level is 95: it must be between": lambda: model.ais(steps=5, level=95),
        "steps is 0: it must": lambda: model.fill_in(x, x > 0, steps=0),
        "burn_in is -1: ": lambda: model.fill_in(x, x > 0, burn_in=-1),
        "steps is -1": lambda: model.gibbs(x, steps=-1),
        r"expected float hidden units of shape \(B, 3\), got .* \(2, 4\)": lambda: model.energy(x, x),
        r"expected float hidden units of shape \(B, 3\), got .* \(3,\)": lambda: model.likelihood(torch.ones(3)),
    }
    for message, use in refusals.items():
        with pytest.raises(ValueError, match=message):
            use()
