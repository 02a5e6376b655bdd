"""What notebook 09 states as equations, each against enumeration, quadrature or an optimiser."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from broken_library import instead_of
from helpers import close
from torch.distributions import MultivariateNormal
from torch.nn.functional import logsigmoid

from dgm_lib.measures.calibration import expected_calibration_error, fit_temperature
from dgm_lib.models.baselines import NaiveBayes
from dgm_lib.models.classify import BayesClassifier, ClassGaussians, change_prior, estimate_prior
from dgm_lib.models.mixtures import GaussianMixture
from dgm_lib.models.rbm import RBM, GaussianUnits


def covariances(n, d, seed=0):
    """n covariances, (n, d, d), none of them near singular."""
    factor = torch.randn(n, d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.mT / d + 0.3 * torch.eye(d, dtype=torch.float64)


def class_gaussians(k=3, d=2, seed=0):
    mu = torch.randn(k, d, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return ClassGaussians(mu, covariances(k, d, seed))


def discrete_model(seed=0):
    """Three classes of the 16 images of four bits: log p(x|c), (3, 16), and the prior, (3,)."""
    generator = torch.Generator().manual_seed(seed)
    log_p = (2 * torch.randn(3, 16, generator=generator, dtype=torch.float64)).log_softmax(1)
    return log_p, torch.randn(3, generator=generator, dtype=torch.float64).softmax(0)


def by_table(log_p, prior):
    """A Bayes classifier of the numbers 0 … 15, given as floats (B, 1)."""
    return BayesClassifier(lambda x, y: log_p[y, x[:, 0].long()], 3, prior)


EVERY = torch.arange(16.0)[:, None]

# ---- Bayes' rule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_softmax_of_the_logits_is_bayes_rule(seed):
    log_p, prior = discrete_model(seed)
    joint = log_p.exp() * prior[:, None]  # p(x, c), (3, 16)
    model = by_table(log_p, prior)
    close(model(EVERY).softmax(1), (joint / joint.sum(0)).T)
    close(model.log_prob(EVERY), joint.sum(0).log())
    close(model.log_prob(EVERY).exp().sum(), 1.0)


def test_a_number_added_to_all_logits_changes_log_p_and_no_posterior():
    model = by_table(*discrete_model())
    moved = model(EVERY) + torch.randn(16, 1, dtype=torch.float64)
    close(moved.softmax(1), model.posterior(EVERY))
    assert (moved.logsumexp(1) - model.log_prob(EVERY)).abs().max() > 0.5


def test_one_covariance_for_all_gives_linear_logits():
    """w_c = Σ⁻¹μ_c, b_c = log p(c) − ½ μ_cᵀΣ⁻¹μ_c; and with two covariances no such w and b exist."""
    mu = class_gaussians(3, 4).mu
    sigma = covariances(1, 4)[0]
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    x = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    w = torch.linalg.solve(sigma, mu.T).T
    b = prior.log() - 0.5 * torch.einsum("ki,ki->k", mu, w)
    joint = torch.stack([MultivariateNormal(m, sigma).log_prob(x) for m in mu], 1) + prior.log()
    close((x @ w.T + b).softmax(1), joint.softmax(1))
    own = torch.stack([MultivariateNormal(m, s).log_prob(x) for m, s in zip(mu, covariances(3, 4))], 1)
    design = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], 1)
    lead = own[:, 0] - own[:, 1]
    left = lead - design @ torch.linalg.lstsq(design, lead[:, None]).solution[:, 0]
    assert left.abs().max() > 1


def test_log_z_of_a_class_machine():
    """exp(−F) of an RBM with one Gaussian unit integrates to its Z, so that −F − log Z is a log-density."""
    torch.manual_seed(0)
    rbm = RBM(GaussianUnits(1, 0.4), 3).double()
    with torch.no_grad():
        rbm.weight.normal_(0, 2)
        rbm.hidden_bias.normal_()
    v = torch.linspace(-12, 12, 100_001, dtype=torch.float64)[:, None]
    z = torch.trapezoid((-rbm.free_energy(v)).exp(), v[:, 0])
    close(rbm.log_z().detach(), z.log().item(), atol=1e-8, rtol=0)


# ---- how sure ------------------------------------------------------------------------------------------------------


def test_pixels_given_twice_double_every_log_likelihood():
    x = torch.randint(4, (60, 1, 3, 3), generator=torch.Generator().manual_seed(0)) / 3
    y = torch.arange(60) % 3
    once, twice = (NaiveBayes.fit(images, y, 4, 3) for images in (x, torch.cat([x, x], 3)))
    single = once.log_joint(x) - once.log_prior
    close(twice.log_joint(torch.cat([x, x], 3)) - twice.log_prior, 2 * single)


def test_calibration_error_by_hand_and_what_a_temperature_leaves():
    p = torch.tensor([0.95, 0.95, 0.65, 0.65, 0.65], dtype=torch.float64)
    logits = torch.stack([p, 1 - p], 1).log()
    y = torch.tensor([0, 1, 0, 1, 1])
    by_hand = 2 / 5 * abs(0.5 - 0.95) + 3 / 5 * abs(1 / 3 - 0.65)
    assert expected_calibration_error(logits, y, 10) == pytest.approx(by_hand)
    assert torch.equal((logits / fit_temperature(logits, y)).argmax(1), logits.argmax(1))


def test_averaging_over_pixels_is_a_temperature_of_their_number():
    log_p, prior = discrete_model()
    averaged = log_p.T / 64 + prior.log()
    close(averaged - prior.log(), (by_table(log_p, prior)(EVERY) - prior.log()) / 64)


# ---- what a critic knows -------------------------------------------------------------------------------------------


def best_critic(log_p, log_q, prior, start):
    """D(x, c), (3, 16), with the largest E_p log σ(D) + E_q log σ(−D); both draw classes with this prior."""
    d = start.clone().requires_grad_()
    exact = {"tolerance_grad": 1e-13, "tolerance_change": 1e-15}
    optimizer = torch.optim.LBFGS([d], max_iter=500, line_search_fn="strong_wolfe", **exact)

    def loss():
        optimizer.zero_grad()
        by_class = (log_p.exp() * logsigmoid(d) + log_q.exp() * logsigmoid(-d)).sum(1)
        (-prior @ by_class).backward()
        return -(prior @ by_class)

    optimizer.step(loss)
    return d.detach()


@pytest.mark.parametrize("perfect", [False, True])
def test_the_best_critic_that_is_told_the_class(perfect):
    """It is at log p(x|c) − log q(x|c), so that a perfect generator leaves it 0 for every class."""
    log_p, prior = discrete_model(0)
    log_q = log_p if perfect else discrete_model(1)[0]
    start = torch.randn(3, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    usual = (log_p.exp() + log_q.exp()) > 1e-3  # elsewhere the objective hardly feels the critic
    close(best_critic(log_p, log_q, prior, start)[usual], (log_p - log_q)[usual], atol=5e-3, rtol=0)


# ---- likely and typical --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 5, 64])
def test_the_mean_is_half_a_nat_a_dimension_likelier_than_draws(d):
    gaussian = MultivariateNormal(torch.zeros(d, dtype=torch.float64), covariances(1, d)[0])
    close(gaussian.log_prob(gaussian.mean) + gaussian.entropy(), d / 2)


# ---- missing pixels ------------------------------------------------------------------------------------------------

LINE = torch.linspace(-14, 14, 4001, dtype=torch.float64)


def with_second(x, values):
    """The points (x, value), for each value: (n, 2)."""
    return torch.stack([torch.full_like(values, x), values], 1)


def test_missing_entries_are_integrated_out():
    model = class_gaussians()
    known = torch.tensor([True, False])
    for c in range(3):
        y = torch.full_like(LINE, c, dtype=torch.int64)
        for x in (-0.7, 1.2):
            integral = torch.trapezoid(model.log_likelihood(with_second(x, LINE), y).exp(), LINE)
            given = torch.tensor([[x, 99.0]], dtype=torch.float64)
            close(model.log_likelihood(given, y[:1], known)[0], integral.log().item(), atol=1e-9, rtol=0)


def test_the_gap_is_filled_by_all_classes():
    """E[x_m|x_o] = Σ_c p(c|x_o) E[x_m|x_o, c] against the integral of x_m p(x_o, x_m)."""
    model, prior = class_gaussians(), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    mixture = GaussianMixture(3, 2).double()
    mixture.set_parameters(prior, model.mu, model.covariance)
    bayes = BayesClassifier(model.log_likelihood, 3, prior)
    known = torch.tensor([[True, False]])
    for x in (-0.7, 1.2):
        density = bayes.log_prob(with_second(x, LINE)).exp()
        mean = torch.trapezoid(LINE * density, LINE) / torch.trapezoid(density, LINE)
        given = torch.tensor([[x, 99.0]], dtype=torch.float64)
        close(mixture.fill_in(given, known)[0, 1], mean.item(), atol=1e-8, rtol=0)


# ---- another prior -------------------------------------------------------------------------------------------------


def test_another_prior_by_bayes_rule():
    log_p, old = discrete_model()
    new = torch.tensor([0.7, 0.0, 0.3], dtype=torch.float64)
    joint = log_p.exp() * new[:, None]
    close(change_prior(by_table(log_p, old)(EVERY), old, new).softmax(1), (joint / joint.sum(0)).T)
    close(by_table(log_p, old).with_prior(new)(EVERY).softmax(1), (joint / joint.sum(0)).T)


def test_the_shares_that_em_finds_are_the_likeliest():
    """With x in the shares that the true prior gives it, EM ends at that prior, and each step is likelier."""
    log_p, old = discrete_model()
    truth = torch.tensor([0.15, 0.6, 0.25], dtype=torch.float64)
    times = (2_000 * (truth @ log_p.exp())).round().long()
    logits = by_table(log_p, old)(EVERY).repeat_interleave(times, 0)
    x = torch.arange(16).repeat_interleave(times)
    found = estimate_prior(logits, old, steps=2000, tolerance=1e-9)
    close(found, truth, atol=5e-3, rtol=0)

    def log_likelihood(prior):
        return (log_p[:, x].T + prior.log()).logsumexp(1).mean().item()

    steps = [log_likelihood(estimate_prior(logits, old, steps=n)) for n in range(1, 20)]
    assert all(b >= a - 1e-12 for a, b in pairwise(steps))
    assert log_likelihood(found) >= log_likelihood(truth)


def test_leading_digits_have_shares_that_sum_to_1():
    assert sum(math.log10(1 + 1 / d) for d in range(1, 10)) == pytest.approx(1)


# ---- explanations --------------------------------------------------------------------------------------------------


def test_evidence_of_pixels_adds_up():
    model = class_gaussians(3, 6)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for c in range(3):
        d = x - model.mu[c]
        solved = torch.linalg.solve(model.covariance[c], d.T).T
        pixels = -0.5 * d * solved - torch.logdet(2 * math.pi * model.covariance[c]) / (2 * 6)
        close(pixels.sum(1), MultivariateNormal(model.mu[c], model.covariance[c]).log_prob(x))


@pytest.mark.parametrize("s", [0.1, 1.0])
def test_the_counterfactual_of_a_gaussian(s):
    """(Σ⁻¹ + I/s²)⁻¹ (Σ⁻¹μ + x/s²) has the greatest log N(x'; μ, Σ) − ‖x − x'‖²/2s²: gradient 0, and concave."""
    model = class_gaussians(1, 5)
    mu, sigma = model.mu[0], model.covariance[0]
    x = torch.randn(5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    eye = torch.eye(5, dtype=torch.float64)
    best = torch.linalg.solve(sigma.inverse() + eye / s**2, torch.linalg.solve(sigma, mu) + x / s**2)
    best.requires_grad_()
    value = MultivariateNormal(mu, sigma).log_prob(best) - (x - best).square().sum() / (2 * s**2)
    (gradient,) = torch.autograd.grad(value, best)
    close(gradient, torch.zeros(5), atol=1e-10, rtol=0)
    by_gap = mu + sigma @ torch.linalg.solve(sigma + s**2 * eye, x - mu)  # the same, written as the notebook has it
    close(best.detach(), by_gap)


# ---- a break of the library that the notebook must notice ----------------------------------------------------------


@instead_of(BayesClassifier.forward, turns="p(x) = Σ p(x|c) p(c), integrated: 1.000")
def bayes_without_the_prior(forward, model, x):
    return forward(model, x) - model.prior.log()
