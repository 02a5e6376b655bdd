"""What notebook 02 states as equations, each against enumeration, autograd or a closed form."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from broken_library import instead_of
from helpers import close, normal, states
from torch.nn.functional import softplus

from dgm_lib.models.baselines import NaiveBayes
from dgm_lib.models.mixtures import CategoricalMixture
from dgm_lib.models.rbm import RBM, BinaryUnits


def random_rbm(n_visible, n_hidden, seed=0):
    machine = RBM(BinaryUnits(n_visible), n_hidden).double()
    with torch.no_grad():
        machine.weight.copy_(normal(n_visible, n_hidden, seed=seed))
        machine.visible_bias.copy_(normal(n_visible, seed=seed + 1))
        machine.hidden_bias.copy_(normal(n_hidden, seed=seed + 2))
    return machine


def joint_energy(machine, v, h):
    """E(v, h) of every pair, (n, m), written as the notebook writes it: −bᵀv − cᵀh − vᵀWh."""
    return -(v @ machine.visible_bias)[:, None] - (h @ machine.hidden_bias) - v @ machine.weight @ h.T


# ---- from energy to probability ------------------------------------------------------------------------------------


def four_units():
    """The three rules: a black pixel costs 0.5, two in a column earn 2, any other pair costs 1. Pixels 01 over 23."""
    v = states(4)
    energy = 0.5 * v.sum(1)
    for i, j in combinations(range(4), 2):
        energy += (-2 if (i, j) in ((0, 2), (1, 3)) else 1) * v[:, i] * v[:, j]
    return v, energy


def test_the_sixteen_states_of_four_units():
    """Z by counting states of each energy on paper: 2 e + 1 + 4 e^−½ + 4 e^−3/2 + 5 e^−2."""
    _, energy = four_units()
    z = 2 * math.exp(1) + 1 + 4 * math.exp(-0.5) + 4 * math.exp(-1.5) + 5 * math.exp(-2)
    close((-energy).logsumexp(0), math.log(z))
    assert (round(z, 4), round(math.log(z), 4), round(math.exp(1) / z, 4)) == (10.4319, 2.3449, 0.2606)


def test_temperature_goes_from_the_minima_to_all_alike():
    _, energy = four_units()
    for temperature, entropy in {0.01: math.log(2), 1e5: math.log(16)}.items():
        p = (-energy / temperature).softmax(0)
        close(-torch.special.xlogy(p, p).sum(), entropy, atol=1e-4, rtol=0)
    hot, cold = ((-energy / t).softmax(0) for t in (1.0, 0.25))
    close((hot**4) / (hot**4).sum(), cold)  # dividing the energy by T is raising p to the power 1/T


def weights_and_biases(n, seed=0):
    w = normal(n, n, seed=seed)
    return torch.triu(w, 1) + torch.triu(w, 1).T, normal(n, seed=seed + 1)


def flip_matrix(p, v, i):
    """The transition of one visit of Gibbs to unit i, (2^n, 2^n): row now, column next."""
    same_others = (v[:, None] == v).sum(2) >= v.shape[1] - (v[:, None, i] != v[:, i]).long()
    kernel = same_others * p
    return kernel / kernel.sum(1, keepdim=True)


def test_a_unit_given_all_others_is_a_sigmoid_of_its_field_and_its_visit_keeps_p():
    (w, b), v = weights_and_biases(5), states(5)
    p = (0.5 * ((v @ w) * v).sum(1) + v @ b).softmax(0)
    for i in range(5):
        kernel = flip_matrix(p, v, i)
        on = (kernel * v[:, i]).sum(1)  # p(v_i = 1 | all others), by Bayes' rule
        close(on, torch.sigmoid(b[i] + v @ w[i]))
        close(p @ kernel, p)
    sweep = torch.linalg.multi_dot([flip_matrix(p, v, i) for i in range(5)])
    close(torch.linalg.matrix_power(sweep, 500), p.expand(32, 32), atol=1e-6, rtol=0)  # from any start


def test_half_the_sum_of_differences_is_the_largest_error_on_any_set():
    p, q = normal(6).softmax(0), normal(6, seed=1).softmax(0)
    sets = states(6)
    close((sets @ (p - q)).max(), (p - q).abs().sum() / 2)


# ---- Hopfield ------------------------------------------------------------------------------------------------------


def test_descent_never_goes_uphill():
    """A unit that takes the sign of its field changes E(s) = −Σ_{i≠j} w_ij s_i s_j / 2D by −(s' − s) field / D ≤ 0."""
    patterns = normal(3, 10).sign()
    w = (patterns.T @ patterns).fill_diagonal_(0)
    s = states(10) * 2 - 1
    energy = lambda s: -((s @ w) * s).sum(1) / 20  # noqa: E731
    for i in range(10):
        moved, field = s.clone(), s @ w[i]
        moved[:, i] = torch.where(field > 0, 1.0, -1.0)
        close(energy(moved) - energy(s), -(moved[:, i] - s[:, i]) * field / 10)
        assert (energy(moved) <= energy(s) + 1e-12).all()


def test_a_heated_unit_of_plus_and_minus_one_draws_with_twice_its_field():
    """p(s_i = 1) = σ(2 Σ_j w_ij s_j / DT) is the ratio of Boltzmann weights at temperature T."""
    w, _ = weights_and_biases(6)
    s, temperature = states(6) * 2 - 1, 0.7
    energy = lambda s: -((s @ w) * s).sum(1) / 12  # noqa: E731
    for i in range(6):
        on, off = s.clone(), s.clone()
        on[:, i], off[:, i] = 1, -1
        weights = torch.stack([-energy(on), -energy(off)]) / temperature
        close(torch.sigmoid(2 * (s @ w[i]) / (6 * temperature)), weights.softmax(0)[0])


def test_units_of_plus_and_minus_one_are_the_same_machine():
    """With v = (s + 1)/2, −½ sᵀws = −½ vᵀ(4w)v + vᵀ(2w1) − ½ 1ᵀw1: other weights, biases and a constant."""
    w, _ = weights_and_biases(6)
    v, ones = states(6), torch.ones(6).double()
    s = 2 * v - 1
    by_s = -0.5 * ((s @ w) * s).sum(1)
    close(by_s, -0.5 * ((v @ (4 * w)) * v).sum(1) + v @ (2 * w @ ones) - 0.5 * ones @ w @ ones)


# ---- learning ------------------------------------------------------------------------------------------------------


def test_two_phases_are_the_gradient_of_log_p_also_with_connections_within_layers():
    """A Boltzmann machine of 3 visible and 3 hidden units, every pair connected: ⟨s_i s_j⟩ clamped − free."""
    w, b = weights_and_biases(6)
    w.requires_grad_(), b.requires_grad_()
    s = states(6)
    log_joint = (0.5 * ((s @ w) * s).sum(1) + s @ b).view(8, 8)  # (v, h)
    data = torch.tensor([1, 1, 4, 6])
    log_p = (log_joint.logsumexp(1) - log_joint.logsumexp((0, 1)))[data].mean()
    by_w, by_b = torch.autograd.grad(log_p, (w, b))

    clamped = torch.zeros(8, 8).double()
    for row in data:
        clamped[row] += log_joint[row].detach().softmax(0) / len(data)  # data for v, p(h|v) for h
    free = log_joint.detach().flatten().softmax(0)
    difference = clamped.flatten() - free
    phases = torch.einsum("n,ni,nj->ij", difference, s, s).fill_diagonal_(0)
    close(by_w.fill_diagonal_(0), phases / 2)  # w_ij and w_ji are one weight, that autograd sees as two halves
    close(by_b, difference @ s)


def test_layers_of_an_rbm_are_independent_given_each_other():
    machine, v, h = random_rbm(4, 3), states(4), states(3)
    log_p = -joint_energy(machine, v, h)  # (16, 8), up to log Z
    p_h = (log_p.softmax(1)[:, None] * h.T).sum(2)  # p(h_j = 1 | v)
    close(p_h, torch.sigmoid(machine.hidden_bias + v @ machine.weight))
    product = (p_h[:, None] * h + (1 - p_h[:, None]) * (1 - h)).prod(2)
    close(product, log_p.softmax(1))
    p_v = torch.einsum("vh,vi->hi", log_p.softmax(0), v)
    close(p_v, torch.sigmoid(machine.visible_bias + h @ machine.weight.T))


def test_free_energy_sums_out_the_hidden_units_and_one_layer_is_enough_for_z():
    machine, v, h = random_rbm(5, 3), states(5), states(3)
    log_p = -joint_energy(machine, v, h)
    minus_f = v @ machine.visible_bias + (1 + (machine.hidden_bias + v @ machine.weight).exp()).log().sum(1)
    close(minus_f, log_p.logsumexp(1))
    close(-machine.free_energy(v), minus_f)
    other = h @ machine.hidden_bias + softplus(machine.visible_bias + h @ machine.weight.T).sum(1)
    close(minus_f.logsumexp(0), log_p.flatten().logsumexp(0))
    close(other.logsumexp(0), log_p.flatten().logsumexp(0))
    close(machine.log_z(), log_p.flatten().logsumexp(0))


def means(p_v, v, machine):
    """⟨v hᵀ⟩, ⟨v⟩ and ⟨h⟩ under p(v) p(h|v)."""
    h = torch.sigmoid(machine.hidden_bias + v @ machine.weight)
    return [torch.einsum("n,ni,nj->ij", p_v, v, h), p_v @ v, p_v @ h]


def test_gradient_of_an_rbm_and_of_its_loss():
    """For weights and biases: data − model; the gradient of F(data) − F(model) is the same with the other sign."""
    machine, v = random_rbm(4, 3), states(4)
    data = v[[0, 3, 3, 9]]
    parameters = [machine.weight, machine.visible_bias, machine.hidden_bias]
    exact = torch.autograd.grad(machine.log_prob(data).mean(), parameters)
    p_model = machine.log_prob(v).exp().detach()
    p_data = torch.bincount(torch.tensor([0, 3, 3, 9]), minlength=16).double() / 4
    for by_autograd, awake, asleep in zip(exact, means(p_data, v, machine), means(p_model, v, machine)):
        close(by_autograd, awake - asleep)
    contrast = machine.free_energy(data).mean() - p_model @ machine.free_energy(v)
    for by_loss, by_autograd in zip(torch.autograd.grad(contrast, parameters), exact):
        close(by_loss, -by_autograd)


def gibbs_matrix(machine, v, h):
    """p(v' | v) of one step of block Gibbs, (2^n, 2^n)."""
    log_p = -joint_energy(machine, v, h)
    return (log_p.softmax(1) @ log_p.softmax(0).T).detach()


def test_expected_cd_is_biased_and_the_bias_vanishes_as_chains_forget_the_data():
    """The mean of CD-k's gradient, exactly: chains from the data after k steps. Larger weights, slower forgetting."""
    v, h = states(5), states(3)
    p_data = (2 * normal(32)).softmax(0)
    memory, biases = [], []
    for scale in (0.5, 1, 2, 4):
        machine = random_rbm(5, 3)
        with torch.no_grad():
            machine.weight.mul_(scale)
            machine.visible_bias.copy_(-machine.weight.sum(1) / 2)  # every unit as often on as off
            machine.hidden_bias.copy_(-machine.weight.sum(0) / 2)
        step = gibbs_matrix(machine, v, h)
        p_model = machine.log_prob(v).exp().detach()
        close(p_model @ step, p_model)
        exact = means(p_data - p_model, v, machine)[0]
        after = [p_data @ torch.linalg.matrix_power(step, k) for k in (1, 10, 100_000)]
        bias = [(means(p_data - p, v, machine)[0] - exact).norm().item() for p in after]
        assert bias[0] > bias[1] > bias[2]
        assert bias[0] > 1e-3
        assert bias[2] < 1e-6
        biases.append(bias[1])
        memory.append(torch.linalg.eigvals(step).abs().sort().values[-2].item())
    assert memory == sorted(memory)
    assert biases == sorted(biases)


@pytest.mark.parametrize(
    ("side", "different", "best", "alike"), [(4, 30, -3.3791, -11.0904), (3, 14, -2.5993, -6.2383)]
)
def test_bars_and_stripes(side, different, best, alike):
    """2 · 2^side images, of which all white and all black come about twice."""
    rows = states(side)[:, :, None].expand(-1, side, side)
    images = torch.cat([rows, rows.mT]).flatten(1)
    unique, count = images.unique(dim=0, return_counts=True)
    n = 2 * 2**side
    assert (len(images), len(unique), count.max().item()) == (n, different, 2)
    share = count.double() / n
    close((share * share.log()).sum(), -((n - 4) / n * math.log(n) + 4 / n * math.log(n / 2)))
    assert round((share * share.log()).sum().item(), 4) == best
    assert round(-(side**2) * math.log(2), 4) == alike


# ---- annealed importance sampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_weights_of_ais_average_z_over_z_0_for_any_number_of_steps(steps):
    """All paths summed by matrices: E[w] = Z / Z_0 exactly, and E[log w] ≤ log Z / Z_0. One step is importance
    sampling.
    """
    machine, v, h = random_rbm(3, 2), states(3), states(2)
    start = random_rbm(3, 2)
    start.weight.data.zero_(), start.hidden_bias.data.zero_()
    log_f, kernels = [], []
    for beta in torch.linspace(0, 1, steps + 1).tolist():
        at_beta = random_rbm(3, 2)
        for theta, first, last in zip(at_beta.parameters(), start.parameters(), machine.parameters()):
            theta.data.copy_((1 - beta) * first + beta * last)
        log_f.append(-at_beta.free_energy(v).detach())
        kernels.append(gibbs_matrix(at_beta, v, h))
    log_z, log_z_0 = log_f[-1].logsumexp(0), log_f[0].logsumexp(0)
    p = log_f[0].softmax(0)  # of the states, and below of the states weighed
    weighed, mean_log_w = p, 0.0
    for before, after, kernel in zip(log_f, log_f[1:], kernels[1:]):
        mean_log_w += p @ (after - before)
        weighed, p = (weighed * (after - before).exp()) @ kernel, p @ kernel
    close(weighed.sum(), (log_z - log_z_0).exp())
    assert mean_log_w < log_z - log_z_0
    if steps == 1:
        close((log_f[0].softmax(0) * (log_f[1] - log_f[0]).exp()).sum(), (log_z - log_z_0).exp())


def test_the_librarys_weights_average_z():
    machine = random_rbm(6, 4)
    torch.manual_seed(0)
    for steps in (1, 3, 30):
        run = machine.ais(steps=steps, n_chains=20_000)
        ratio = (run.log_weights - machine.log_z().detach()).exp()
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / 20_000**0.5
        close(torch.tensor(run.effective_chains).double(), ratio.sum() ** 2 / ratio.square().sum(), rtol=1e-4, atol=0)


# ---- the two rulers ------------------------------------------------------------------------------------------------


def test_levels_given_black_or_white_make_a_model_of_levels():
    """p(x) = p(binary x) Π_i p(x_i | black or white) sums to one over all images, here of 2 pixels with 5 levels."""
    p_binary = normal(4).softmax(0)  # 00, 01, 10, 11
    counts = torch.tensor([[3.0, 1, 2, 5, 1], [1, 1, 4, 2, 2]]).double()
    black = torch.arange(5) >= 2
    table = torch.where(black, counts / counts[:, black].sum(1, True), counts / counts[:, ~black].sum(1, True))
    x = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    binary = (x >= 2).long()
    p = p_binary[2 * binary[:, 0] + binary[:, 1]] * table[0, x[:, 0]] * table[1, x[:, 1]]
    close(p.sum(), 1.0)
    for n, probability in enumerate(p_binary):  # and its black-and-white version is what it was
        close(p[2 * binary[:, 0] + binary[:, 1] == n].sum(), probability)


def test_uniform_models_of_the_two_rulers():
    assert round(64 * math.log(2), 1) == 44.4
    assert round(64 * math.log(17), 1) == 181.3


# ---- filling in ----------------------------------------------------------------------------------------------------


def test_clamped_gibbs_draws_from_the_conditional_of_the_missing():
    """p(missing | known) is what a clamped step keeps, and `fill_in` comes near its mean."""
    machine, v = random_rbm(5, 3), states(5)
    known = torch.tensor([True, False, True, False, False])
    given = torch.tensor([1.0, 0, 0, 0, 0]).double()
    fits = (v[:, known] == given[known]).all(1)
    p = machine.log_prob(v).exp().detach() * fits
    p = p / p.sum()
    free_step = gibbs_matrix(machine, v, states(3))
    # a clamped step: h ~ p(h|v), the missing ~ p(v|h), the known put back
    target = (v * ~known + given * known) @ (2.0 ** torch.arange(4, -1, -1)).double()
    clamped = torch.zeros(32, 32).double().index_add_(1, target.long(), free_step)
    close(p @ clamped, p)
    torch.manual_seed(0)
    x = given.expand(400, 5)
    filled = machine.fill_in(x, known, steps=500)
    close(filled[:, known], x[:, known])
    error = filled.std(0) / 400**0.5
    assert ((filled.mean(0) - p @ v)[~known].abs() < 5 * error[~known]).all()


def test_conditional_mean_of_a_mixture():
    """Components weighed by the known pixels only, against the sum over all completions."""
    torch.manual_seed(0)
    mixture = CategoricalMixture(3, (1, 2, 2), 2).double()
    mixture.logits.data.normal_(), mixture.pixel_logits.data.normal_()
    every = states(4).view(-1, 1, 2, 2)
    known = torch.tensor([True, False, False, True]).view(1, 2, 2)
    x = every[9]
    log_p = mixture.pixel_logits.detach().log_softmax(-1)  # (3, 1, 2, 2, 2)
    each = torch.where(x > 0.5, log_p[..., 1], log_p[..., 0])
    r = (mixture.logits.detach() + (each * known).flatten(1).sum(1)).softmax(0)
    by_formula = torch.einsum("k,kchw->chw", r, log_p[..., 1].exp())
    fits = ((every == x) | ~known).flatten(1).all(1)
    p = mixture.log_prob(every).exp().detach() * fits
    by_enumeration = torch.einsum("n,nchw->chw", p / p.sum(), every)
    close(by_formula[~known], by_enumeration[~known])


def test_naive_bayes_of_two_levels_is_a_mixture():
    """The rivals are refitted on black and white: with the classes as components, they are one family."""
    x, y = states(4).view(-1, 1, 2, 2), torch.arange(16) % 3
    naive_bayes = NaiveBayes.fit(x, y, 2, 3)
    mixture = CategoricalMixture(3, (1, 2, 2), 2).double()
    mixture.logits.data.copy_(naive_bayes.log_prior), mixture.pixel_logits.data.copy_(naive_bayes.log_p)
    close(mixture.log_prob(x).detach(), naive_bayes.log_prob(x))
    close(mixture.log_prob(x).exp().sum().detach(), 1.0)


# ---- awake and asleep ----------------------------------------------------------------------------------------------


def log_bernoulli(x, logits):
    return (x * logits - softplus(logits)).sum(-1)


def helmholtz(n_visible=4, n_hidden=3):
    W, b, c = normal(n_hidden, n_visible), normal(n_visible, seed=1), normal(n_hidden, seed=2)
    R, d = normal(n_visible, n_hidden, seed=3), normal(n_hidden, seed=4)
    return [theta.requires_grad_() for theta in (W, b, c, R, d)]


def test_log_bernoulli_is_the_logarithm_of_coins():
    x, logits = states(3), normal(3)
    p = torch.sigmoid(logits)
    close(log_bernoulli(x, logits), (p**x * (1 - p) ** (1 - x)).prod(1).log())


def test_bound_of_the_helmholtz_machine_is_log_p_less_the_kl_of_its_guess():
    W, b, c, R, d = (theta.detach() for theta in helmholtz())
    v, h = states(4), states(3)
    log_joint = log_bernoulli(h, c) + log_bernoulli(v[:, None], h @ W + b)  # (16, 8)
    close(log_joint.exp().sum(), 1.0)  # Z = 1
    log_q = log_bernoulli(h, (v @ R + d)[:, None])
    bound = (log_q.exp() * (log_joint - log_q)).sum(1)
    kl = (log_q.exp() * (log_q - log_joint.log_softmax(1))).sum(1)  # KL(q(h|v) ‖ p(h|v))
    close(bound, log_joint.logsumexp(1) - kl)
    assert (kl > 0).all()


def test_both_phases_of_wake_sleep_are_delta_rules():
    """Wake: the gradient of log p(v, h) by the generative weights. Sleep: of log q(h|v) by those of recognition."""
    W, b, c, R, d = helmholtz()
    v, h = states(4)[[1, 6, 11]], states(3)[[2, 5, 7]]
    wake = log_bernoulli(h, c).mean() + log_bernoulli(v, h @ W + b).mean()
    surprise = v - torch.sigmoid(h @ W + b)
    for by_autograd, rule in zip(
        torch.autograd.grad(wake, (W, b, c)),
        (h.T @ surprise / 3, surprise.mean(0), (h - torch.sigmoid(c)).mean(0)),
    ):
        close(by_autograd, rule)
    sleep = log_bernoulli(h, v @ R + d).mean()
    surprise = h - torch.sigmoid(v @ R + d)
    for by_autograd, rule in zip(torch.autograd.grad(sleep, (R, d)), (v.T @ surprise / 3, surprise.mean(0))):
        close(by_autograd, rule)


def test_sleep_improves_the_guess_in_the_other_direction_of_kl():
    """Over all dreams, the mean of −log q(h|v) is Σ_v p(v) KL(p(h|v) ‖ q(h|v)) and what q cannot change."""
    W, b, c, R, d = (theta.detach() for theta in helmholtz())
    v, h = states(4), states(3)
    log_joint = log_bernoulli(h, c) + log_bernoulli(v[:, None], h @ W + b)
    log_q, p = log_bernoulli(h, (v @ R + d)[:, None]), log_joint.exp()
    log_posterior = log_joint.log_softmax(1)
    kl = (p * (log_posterior - log_q)).sum()
    close(-(p * log_q).sum(), kl - (p * log_posterior).sum())


# ---- a break of the library that the notebook must notice ----------------------------------------------------------


@instead_of(RBM.free_energy, turns="p(v) summed over all 64 images: 1.0000")
def hidden_units_at_their_best(free_energy, machine, x):
    """The least energy over h, where h must be summed out."""
    return machine.energy(x, (machine.posterior(x).mean > 0.5).to(x))
