"""Answers to the exercises of notebook 03, right ones in other forms and wrong ones as learners write them."""

import math
from functools import partial

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import loss_gradient_by_backward, plain, softplus_by_cases
from torch import nn
from torch.distributions import Bernoulli, Normal

from dgm_exercises import find

# ---- ways to write them ---------------------------------------------------------------------------------------------


def loss_gradient_by_autograd(theta, x, chains, step_size, eps, *, end=torch.Tensor.detach):
    def energy(x):
        return theta * x**2 / 2

    theta, chains = theta.requires_grad_(), chains.requires_grad_()
    (slope,) = torch.autograd.grad(energy(chains).sum(), chains, create_graph=True)
    x_negative = end(chains - step_size * slope + (2 * step_size) ** 0.5 * eps)
    (gradient,) = torch.autograd.grad(energy(x).mean() - energy(x_negative).mean(), theta)
    return gradient


def loss_gradient_in_numpy(theta, x, chains, step_size, eps):
    theta, x, chains, eps = (value.numpy() for value in (theta, x, chains, eps))
    x_negative = chains - step_size * theta * chains + np.sqrt(2 * step_size) * eps
    return (x**2).mean() / 2 - (x_negative**2).mean() / 2


def denoising_loss_by_autograd(score, eps, sigma):
    x_noisy = (sigma * eps).requires_grad_()  # x = 0
    (target,) = torch.autograd.grad(Normal(0.0, sigma).log_prob(x_noisy).sum(), x_noisy)
    return sigma**2 / 2 * ((score - target) ** 2).reshape(len(score), -1).sum(1)


def nce_loss_of_one_classifier(log_p_data, log_noise_data, log_p_noise, log_noise_noise):
    logits = torch.cat([log_p_data - log_noise_data, log_p_noise - log_noise_noise])
    labels = torch.cat([torch.ones_like(log_p_data), torch.zeros_like(log_p_noise)])
    return 2 * F.binary_cross_entropy_with_logits(logits, labels)


def mala_log_ratio_by_distributions(x, x_new, energy, energy_new, score, score_new, step_size):
    sigma = math.sqrt(2 * step_size)
    there = Normal(x + step_size * score, sigma).log_prob(x_new)
    back = Normal(x_new + step_size * score_new, sigma).log_prob(x)
    return (-energy_new + back) - (-energy + there)


def euler_maruyama(x, score, step_size, temperature, eps):
    return x + 0.5 * step_size * score + step_size**0.5 * temperature**0.5 * eps


loss_gradient_through_the_chain = partial(loss_gradient_by_autograd, end=lambda x: x)


def loss_gradient_backward_through_the_chain(theta, x, chains, step_size, eps):
    x_negative = chains - step_size * theta * chains + math.sqrt(2 * step_size) * eps
    (theta * x**2 / 2).mean().sub((theta * x_negative**2 / 2).mean()).backward()
    return theta.grad


def mala_with_one_score(x, x_new, energy, energy_new, score, score_new, step_size):
    return mala_log_ratio_by_distributions(x, x_new, energy, energy_new, score, score, step_size)


def mala_with_sigma(sigma):
    def log_ratio(x, x_new, energy, energy_new, score, score_new, step_size):
        there = Normal(x + step_size * score, sigma(step_size)).log_prob(x_new)
        back = Normal(x_new + step_size * score_new, sigma(step_size)).log_prob(x)
        return energy - energy_new + back - there

    return log_ratio


def metropolis(x, x_new, energy, energy_new, score, score_new, step_size):
    return torch.log(torch.exp(-energy_new) / torch.exp(-energy))


def contrast_under_no_grad(energy_data, energy_model):
    with torch.no_grad():
        return energy_data.mean() - energy_model.mean()


def contrast_as_a_new_tensor(energy_data, energy_model):
    return torch.tensor((energy_data.mean() - energy_model.mean()).item(), requires_grad=True)


def half_detached(score, eps, sigma):
    difference = (sigma * score + eps).flatten(1)
    return (difference * difference.detach()).sum(1) / 2


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "langevin_step": [
        lambda x, score, step_size, temperature, eps: (
            x + step_size * score + (2 * step_size * temperature) ** 0.5 * eps
        ),
        lambda x, score, step_size, temperature, eps: (
            x.numpy() + step_size * score.numpy() + np.sqrt(2 * step_size) * np.sqrt(temperature) * eps.numpy()
        ),
    ],
    "langevin_temperature": [
        lambda sigma, step_size: sigma * sigma / step_size / 2,
        lambda sigma, step_size: torch.tensor(sigma) ** 2 / (2 * torch.tensor(step_size)),
    ],
    "contrastive_loss": [
        lambda energy_data, energy_model: -(energy_model.mean() - energy_data.mean()),
        lambda energy_data, energy_model: energy_data.double().sum() / energy_data.numel() - energy_model.mean(),
        lambda energy_data, energy_model: sum(energy_data) / len(energy_data) - sum(energy_model) / len(energy_model),
    ],
    "loss_gradient": [
        loss_gradient_by_autograd,
        partial(loss_gradient_by_backward, parameter=lambda theta: theta.clone().requires_grad_()),
        partial(loss_gradient_by_backward, parameter=lambda theta: nn.Parameter(theta.detach())),
        loss_gradient_in_numpy,
    ],
    "denoising_loss": [
        denoising_loss_by_autograd,
        lambda score, eps, sigma: 0.5 * (sigma * score + eps).flatten(1).norm(dim=1) ** 2,
    ],
    "nce_loss": [
        nce_loss_of_one_classifier,
        lambda p, q, p_noise, q_noise: -F.logsigmoid(p - q).mean() - F.logsigmoid(q_noise - p_noise).mean(),
        lambda p, q, p_noise, q_noise: (torch.logaddexp(p, q) - p + torch.logaddexp(p_noise, q_noise) - q_noise).mean(),
        lambda p, q, pn, qn: softplus_by_cases(q - p).mean() + softplus_by_cases(pn - qn).mean(),
        lambda p, q, pn, qn: -(Bernoulli(logits=p - q).log_prob(p * 0 + 1) - F.softplus(pn - qn)).mean(),
    ],
    "mala_log_ratio": [mala_log_ratio_by_distributions],
    "composed_energy": [
        lambda a, b, both: a - both + b,
        lambda a, b, both: torch.stack([a, b, -both]).sum(0),
        lambda a, b, both: both + (a - both) + (b - both),
    ],
}

SEEN = [
    ("langevin_step", euler_maruyama, "half a step"),
    ("langevin_step", lambda x, s, eta, T, eps: x - eta * s + (2 * eta * T) ** 0.5 * eps, "towards high energy"),
    ("langevin_step", lambda x, s, eta, T, eps: x + eta * s, "no noise"),
    ("langevin_step", lambda x, s, eta, T, eps: x + 2 * eta * s + (2 * eta * T) ** 0.5 * eps, "double the drift"),
    ("langevin_step", lambda x, s, eta, T, eps: x + eta * s / T + np.sqrt(2 * eta) * eps, "divide the score by T"),
    ("langevin_temperature", lambda sigma, eta: sigma / (2 * eta), "not squared"),
    ("langevin_temperature", lambda sigma, eta: (2 * eta) / (sigma * sigma), "one over the reference"),
    ("contrastive_loss", lambda data, model: model.mean() - data.mean(), "the wrong sign. Look for the minus"),
    ("contrastive_loss", lambda data, model: abs(data.mean() - model.mean()), "absolute value"),
    ("loss_gradient", loss_gradient_through_the_chain, "End its graph"),
    ("loss_gradient", loss_gradient_backward_through_the_chain, "End its graph"),
    ("loss_gradient", lambda *a: -loss_gradient_by_autograd(*a), "the wrong sign. Look for the minus"),
    ("loss_gradient", lambda t, x, *a: loss_gradient_by_autograd(t, x, *a[:2], 0 * a[2]), "no noise"),
    ("denoising_loss", lambda s, eps, sigma: 0.5 * ((sigma * s - eps) ** 2).flatten(1).sum(1), "sign of eps"),
    ("denoising_loss", lambda s, eps, sigma: 0.5 * ((s + eps / sigma) ** 2).flatten(1).sum(1), "without the factor σ²"),
    ("denoising_loss", lambda s, eps, sigma: F.mse_loss(sigma * s, -eps), "shape"),
    (
        "nce_loss",
        lambda p, q, pn, qn: -torch.log(torch.sigmoid(p - q)).mean() + F.softplus(pn - qn).mean(),
        "rounds to 0",
    ),
    ("nce_loss", lambda p, q, pn, qn: nce_loss_of_one_classifier(p, q, pn, qn) / 2, "half of it"),
    (
        "nce_loss",
        lambda p, q, pn, qn: -(F.logsigmoid(p - q) + F.logsigmoid(qn - pn)).mean() / 2,
        "over all 2B examples",
    ),
    ("nce_loss", lambda p, q, pn, qn: F.softplus(q - p).mean() - F.softplus(pn - qn).mean(), "subtract the noise's"),
    ("nce_loss", lambda p, q, pn, qn: nce_loss_of_one_classifier(q, p, qn, pn), "labels are exchanged"),
    (
        "nce_loss",
        lambda p, q, pn, qn: nce_loss_of_one_classifier(p, 0 * q, pn, 0 * qn),
        "noise density does not appear",
    ),
    ("mala_log_ratio", metropolis, "symmetric proposals"),
    ("mala_log_ratio", lambda *a: -mala_log_ratio_by_distributions(*a), "the wrong sign. Look for the minus"),
    ("mala_log_ratio", lambda x, new, e, e_new, s, s_new, eta: e - e_new, "symmetric proposals"),
    ("mala_log_ratio", mala_with_one_score, "starts at x′ and drifts with the score there"),
    ("mala_log_ratio", mala_with_sigma(lambda eta: 2 * eta), "do not square it again"),
    ("mala_log_ratio", mala_with_sigma(lambda eta: eta), "η for the standard deviation"),
    (
        "mala_log_ratio",
        lambda x, n, e, f, s, t, eta: mala_log_ratio_by_distributions(x, n, e, f, s / 2, t / 2, eta),
        "√η",
    ),
    ("composed_energy", lambda a, b, both: a + b, "counts p(x) twice"),
    ("composed_energy", lambda a, b, both: a + b - 2 * both, "divide by p(x) twice"),
    ("composed_energy", lambda a, b, both: (a - both) + (b - both), "divide by p(x) twice"),
    ("composed_energy", lambda a, b, both: a - both - (both - b), "divide by p(x) twice"),
    ("composed_energy", lambda a, b, both: a, "style does not appear"),
    ("composed_energy", lambda a, b, both: a - both, "−log p(class | x)"),
    ("composed_energy", lambda a, b, both: b.clone(), "class does not appear"),
    ("composed_energy", lambda a, b, both: -torch.stack([-a, -b]).logsumexp(0), "mixture"),
]

CUT_OFF = [
    ("contrastive_loss", lambda data, model: data.mean() - model.detach().mean(), "only x⁻ itself does not"),
    ("contrastive_loss", lambda data, model: data.mean() - model.data.mean(), "only x⁻ itself does not"),
    ("contrastive_loss", lambda data, model: data.detach().mean() - model.mean(), "the energies of the data"),
    (
        "contrastive_loss",
        lambda data, model: data.detach().mean() - model.detach().mean(),
        "No gradient comes back to energy_data or energy_model,",
    ),
    (
        "contrastive_loss",
        lambda data, model: data.mean().item() - model.mean().item(),
        "No gradient comes back to energy_data or energy_model,",
    ),
    (
        "contrastive_loss",
        lambda data, model: data.numpy().mean() - model.numpy().mean(),
        "No gradient comes back to energy_data or energy_model,",
    ),
    ("contrastive_loss", contrast_under_no_grad, "No gradient comes back to energy_data or energy_model,"),
    ("contrastive_loss", contrast_as_a_new_tensor, "No gradient comes back to energy_data or energy_model,"),
    (
        "denoising_loss",
        lambda s, eps, sigma: denoising_loss_by_autograd(s.detach(), eps, sigma),
        "No gradient comes back to score,",
    ),
    ("denoising_loss", half_detached, "which one cuts it off, or changes it?"),
    ("nce_loss", lambda p, q, pn, qn: nce_loss_of_one_classifier(p, q, pn.detach(), qn), "nothing lowers p there"),
    ("nce_loss", lambda p, q, pn, qn: nce_loss_of_one_classifier(p.data, q, pn, qn), "nothing raises p there"),
    (
        "nce_loss",
        lambda *a: nce_loss_of_one_classifier(*a).item(),
        "No gradient comes back to log_p_data or log_p_noise,",
    ),
]

REFUSED = [
    ("mala_log_ratio", lambda x, n, e, f, s, t, h: torch.log((-f).exp() / (-e).exp()) + (e - e)),
    ("nce_loss", lambda p, q, pn, qn: F.softplus(q - p).clamp(max=100).mean() + F.softplus(pn - qn).mean()),
    ("nce_loss", lambda p, q, pn, qn: (F.softplus(q - p) + F.softplus(pn - qn)).sum() / len(p) / 2),
    ("langevin_step", lambda x, score, h, T, eps: x.add_(h * score) + math.sqrt(2 * h * T) * eps),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_right_values_without_their_gradients_are_wrong = answers.cut_off(CUT_OFF)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


def variance_of_chains(step, temperature, step_size=0.1, n=50_000):
    """Of long Langevin chains in the energy x²/2, all taking `step`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(n)
    for _ in range(100):
        x = step(x, -x, step_size, temperature, torch.randn(n, generator=generator))
    return x.var().item()


def test_langevin_runs_at_the_temperature_asked_and_the_wrong_ones_as_their_hints_say():
    exercise, slack = find("langevin_step"), 1 / (1 - 0.1 / 2)  # of a step of 0.1, exact: T / (1 − η/2)
    assert variance_of_chains(exercise.reference, 0.5) == pytest.approx(0.5 * slack, rel=0.03)
    doubled = next(wrong for wrong, hint in exercise.wrong if "double the drift" in hint)
    assert variance_of_chains(doubled, 0.5) == pytest.approx(0.25 / (1 - 0.2 / 2), rel=0.03)
    claims = {"gives T": 0.5, "half of what is asked": 0.25, "twice as hot": 1.0, "always runs at T = 1.": 1.0}
    for words, variance in claims.items():
        wrong = next(wrong for wrong, hint in exercise.wrong if words in plain(hint))
        assert variance_of_chains(wrong, 0.5) == pytest.approx(variance * slack, rel=0.05), words
    for sigma, step_size in [(0.2, 0.02), (0.5, 0.1)]:
        T = find("langevin_temperature").reference(sigma, step_size)
        x, zero = torch.zeros(3), torch.zeros(3)
        noise = exercise.reference(x, zero, step_size, T, torch.ones(3))
        torch.testing.assert_close(noise, torch.full((3,), sigma))


def test_denoising_and_contrast_have_the_values_that_they_promise():
    eps, p = torch.randn(3, 1, 4, 4), torch.randn(6)
    torch.testing.assert_close(find("denoising_loss").reference(-eps / 0.3, eps, 0.3), torch.zeros(3))
    torch.testing.assert_close(find("nce_loss").reference(p, p, p, p), torch.tensor(2 * math.log(2)))


def mean_square_after(log_ratio, steps=30, step_size=0.3, n=20_000):
    """Of Metropolis-adjusted chains with E = x⁴/4 that begin as draws from p; and the exact one."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.linspace(-4, 4, 2001)
    p = (-(grid**4) / 4).softmax(0)
    x = grid[torch.multinomial(p, n, replacement=True, generator=generator)]
    for _ in range(steps):
        x_new = x - step_size * x**3 + math.sqrt(2 * step_size) * torch.randn(n, generator=generator)
        ratio = log_ratio(x, x_new, x**4 / 4, x_new**4 / 4, -(x**3), -(x_new**3), step_size)
        x = torch.where(torch.rand(n, generator=generator).log() < ratio, x_new, x)
    return x.square().mean().item(), (p * grid**2).sum().item()


def test_chains_accepted_by_the_mala_ratio_keep_p_and_those_without_proposals_do_not():
    exercise = find("mala_log_ratio")
    (without_proposals,) = [wrong for wrong, hint in exercise.wrong if "densities are left out:" in hint]
    found, exact = mean_square_after(exercise.reference)
    assert found == pytest.approx(exact, abs=0.02)
    found, exact = mean_square_after(without_proposals)
    assert abs(found - exact) > 0.05


def test_gradient_with_the_models_own_chains_is_that_of_the_likelihood_and_not_through_the_chain():
    theta, step_size, generator = torch.tensor(2.0), 0.1, torch.Generator().manual_seed(0)
    chains, eps = torch.randn(200_000, generator=generator) / theta.sqrt(), torch.randn(200_000, generator=generator)
    x = torch.tensor([0.5, -1.0])
    truth = x.square().mean() / 2 - 1 / (2 * theta)  # of −log p = theta x²/2 − ½ log theta + const
    exercise = find("loss_gradient")
    kept = next(wrong for wrong, hint in exercise.wrong if "End its graph" in hint)
    arguments = theta, x, chains, step_size, eps
    assert abs(exercise.reference(*arguments) - truth) < 0.015  # 0.01 is the error of a step of this size
    assert abs(kept(*arguments) - truth) > 0.05


def test_composed_energy_is_that_of_both_conditions():
    p_x, p_a, p_b = torch.rand(5).softmax(0), torch.rand(5), torch.rand(5)  # p(x), p(a | x), p(b | x)
    energies = [-(p_a * p_x).log() + 1, -(p_b * p_x).log() - 2, -p_x.log() + 3]  # each with a zero of its own
    found = (-find("composed_energy").reference(*energies)).softmax(0)
    torch.testing.assert_close(found, p_a * p_b * p_x / (p_a * p_b * p_x).sum())
