"""Every exercise accepts what is right, however it is written, and answers each usual mistake with its own hint."""

import ast
import inspect
import io
import json
import math
import re
import subprocess
import sys
from contextlib import contextmanager, redirect_stdout
from functools import partial
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np
import pytest
import test_exercises_04_07
import test_exercises_classification
import test_exercises_little_data
import test_exercises_vae_gan
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

import dgm_exercises as exercises
from dgm_exercises import Exercise, check, engine, find, hint, judge, solution
from dgm_exercises.engine import attempt
from dgm_exercises.engine.gradients import with_gradients
from dgm_exercises.engine.values import as_tensor, show, show_pair
from dgm_lib import runtime

ALL = [exercise for notebook in exercises.NOTEBOOKS for exercise in notebook.EXERCISES]
FUNCTIONS = [exercise for exercise in ALL if exercise.inputs]
VALUES = [exercise for exercise in ALL if not exercise.inputs]
LOSSES = [exercise for exercise in FUNCTIONS if exercise.differentiate]


def by_name(case):
    return case.name if isinstance(case, Exercise) else None


def plain(message: str) -> str:
    return " ".join(message.split())


def reference_of(exercise):
    """A right answer: the reference, or its value."""
    return exercise.reference if exercise.inputs else exercise.reference()


# ---- right answers -------------------------------------------------------------------------------------------------


def cross_entropy_in_numpy(logits, labels):
    logits = logits.numpy().astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_z = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float(np.mean([log_z[i] - logits[i, label] for i, label in enumerate(labels.tolist())]))


def gradient_by_autograd(logits, labels):
    logits = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    return gradient


def kl_in_loops(p, q):
    def one(p, q):
        if any(b == 0 < a for a, b in zip(p, q)):
            return math.inf
        return sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)

    rows = [one(a, b) for a, b in zip(p.reshape(-1, p.shape[-1]).tolist(), q.reshape(-1, q.shape[-1]).tolist())]
    return torch.tensor(rows, dtype=torch.float64).reshape(p.shape[:-1])


def kl_by_torch(p, q):
    terms = F.kl_div(q.log(), p, reduction="none")
    return torch.where(p > 0, terms, torch.zeros(())).sum(-1)


def fit_by_scipy(x):
    from scipy.stats import norm

    return norm.fit(x.double().numpy())


def responsibilities_by_distributions(x, weights, mu, sigma):
    joint = weights.log() + Normal(mu, sigma).log_prob(x[:, None])
    return Categorical(logits=joint).probs


def responsibilities_by_a_mixture(x, weights, mu, sigma):
    """Categorical keeps a probability from being 0."""
    mixture = torch.distributions.MixtureSameFamily(Categorical(weights), Normal(mu, sigma))
    joint = Categorical(weights).logits + Normal(mu, sigma).log_prob(x[:, None])
    return (joint - mixture.log_prob(x)[:, None]).exp()


def markov_in_a_loop(x, initial, transition):
    total = initial[x[0]].log().item()
    for now, following in pairwise(x):
        probability = transition[now, following].item()
        total += math.log(probability) if probability > 0 else -math.inf
    return total


def hmm_scaled(x, initial, transition, emission):
    initial, transition, emission = initial.double(), transition.double(), emission.double()
    alpha, total = initial * emission[:, x[0]], 0.0
    for symbol in [*x[1:].tolist(), None]:
        scale = alpha.sum()
        total = total + scale.log()
        if symbol is not None:
            alpha = (alpha / scale) @ transition * emission[:, symbol]
    return total


def free_energy_over_all_h(v, W, b, c):
    every_h = torch.tensor(list(product([0.0, 1.0], repeat=len(c))), dtype=torch.float64)
    v, W, b, c = v.double(), W.double(), b.double(), c.double()
    energy = -(v @ b)[:, None] - every_h @ c - v @ W @ every_h.T  # (B, 2^n_hidden)
    return -(-energy).logsumexp(1)


def gibbs_in_numpy(v, W, b, c, u_h, u_v):
    def on(field, u):
        return (u < 0.5 + 0.5 * np.tanh(field / 2)).astype(float)

    v, W, b, c, u_h, u_v = (value.numpy().astype(float) for value in (v, W, b, c, u_h, u_v))
    return on(b + on(c + v @ W, u_h) @ W.T, u_v)


def rbm_gradient_by_autograd(v, v_negative, W, c):
    def free_energy(x):
        return -F.softplus(x @ W + c).sum(1)  # b·x has no W in it

    W = W.requires_grad_()
    (gradient,) = torch.autograd.grad(free_energy(v_negative).mean() - free_energy(v).mean(), W)
    return gradient


def rbm_gradient_in_a_loop(v, v_negative, W, c):
    def mean(x):
        return sum(torch.outer(row, torch.sigmoid(row @ W + c)) for row in x) / len(x)

    return mean(v) - mean(v_negative)


def loss_gradient_by_autograd(theta, x, chains, step_size, eps, *, end=torch.Tensor.detach):
    def energy(x):
        return theta * x**2 / 2

    theta, chains = theta.requires_grad_(), chains.requires_grad_()
    (slope,) = torch.autograd.grad(energy(chains).sum(), chains, create_graph=True)
    x_negative = end(chains - step_size * slope + (2 * step_size) ** 0.5 * eps)
    (gradient,) = torch.autograd.grad(energy(x).mean() - energy(x_negative).mean(), theta)
    return gradient


def loss_gradient_by_backward(theta, x, chains, step_size, eps, *, parameter=lambda theta: theta):
    theta = parameter(theta)
    x_negative = chains - step_size * theta * chains + math.sqrt(2 * step_size) * eps
    loss = (theta * x**2 / 2).mean() - (theta * x_negative.detach() ** 2 / 2).mean()
    loss.backward()
    return theta.grad


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


def critic_loss_by_labels(real, fake):
    bce = F.binary_cross_entropy_with_logits
    return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))


def penalty_by_backward(critic, real, fake, alpha, *, create_graph=True, image=lambda alpha: alpha.view(-1, 1, 1, 1)):
    x = fake + image(alpha) * (real - fake)
    x.requires_grad_()
    scores = critic(x)
    (gradient,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=create_graph)
    return (gradient.view(len(x), -1).norm(2, dim=1) - 1) ** 2


ALTERNATIVES = {
    "scale_pixels": [
        lambda x, levels: x / (levels - 1),
        lambda x, levels: x.numpy() / (levels - 1),
        lambda x, levels: torch.linspace(0, 1, levels, dtype=torch.float64)[x.long()],
    ],
    "cross_entropy": [
        F.cross_entropy,
        cross_entropy_in_numpy,
        lambda logits, labels: F.nll_loss(logits.log_softmax(1), labels),
        lambda logits, labels: -Categorical(logits=logits.double()).log_prob(labels).mean(),
    ],
    "cross_entropy_gradient": [
        gradient_by_autograd,
        lambda logits, labels: (logits.softmax(1) - F.one_hot(labels, logits.shape[1])).numpy() / len(labels),
    ],
    "accuracy": [
        lambda logits, labels: (logits.max(1).indices == labels).double().mean(),
        lambda logits, labels: np.mean(logits.numpy().argmax(1) == labels.numpy()),
        lambda logits, labels: sum(row.argmax() == label for row, label in zip(logits, labels)) / len(labels),
    ],
    "kl_divergence": [kl_in_loops, kl_by_torch, lambda p, q: (p.xlogy(p) - p.xlogy(q)).sum(-1)],
    "fit_gaussian": [
        fit_by_scipy,
        lambda x: torch.stack([x.mean(), x.std(correction=0)]),
        lambda x: (x.numpy().mean(), x.numpy().std()),
        lambda x: np.array([x.mean(), (x.double().square().mean() - x.double().mean() ** 2).clamp(0).sqrt()]),
    ],
    "responsibilities": [responsibilities_by_distributions],
    "markov_log_prob": [
        markov_in_a_loop,
        lambda x, initial, transition: torch.cat([initial[x[:1]], transition[x[:-1], x[1:]]]).log().sum(),
    ],
    "hmm_log_prob": [hmm_scaled],
    "log_partition": [
        lambda f: torch.log(torch.exp(f.amin(-1, keepdim=True) - f).sum(-1)) - f.amin(-1),
        lambda f: np.logaddexp.reduce(-f.numpy().astype(np.float64), axis=-1),
    ],
    "binary_table_size": [236, torch.tensor([236.01]), math.log10(2**784), 784 * 0.30103],
    "cost_of_noise": [6.9, 6.91, 6.907, -math.log(0.001), np.log(1000), np.float32(math.log(1000))],
    "boltzmann_probabilities": [
        lambda energies, temperature: (-energies.double() / temperature).softmax(-1),
        lambda energies, temperature: Categorical(logits=-energies / temperature).probs,
        lambda energies, temperature: (
            -energies / temperature - (-energies / temperature).logsumexp(-1, keepdim=True)
        ).exp(),
        lambda energies, temperature: F.softmin(energies / temperature, dim=-1).numpy(),
    ],
    "free_energy": [
        free_energy_over_all_h,
        lambda v, W, b, c: -(v @ b) - torch.logaddexp(v @ W + c, torch.zeros(())).sum(-1),
        lambda v, W, b, c: -np.logaddexp(0, v.numpy() @ W.numpy() + c.numpy()).sum(1) - v.numpy() @ b.numpy(),
    ],
    "gibbs_step": [
        gibbs_in_numpy,
        lambda v, W, b, c, u_h, u_v: u_v < torch.sigmoid(F.linear((u_h < torch.sigmoid(v @ W + c)).float(), W, b)),
    ],
    "rbm_gradient": [rbm_gradient_by_autograd, rbm_gradient_in_a_loop],
    "ais_log_z": [
        lambda log_weights, log_z_0: torch.logsumexp(log_weights + log_z_0, 0) - math.log(len(log_weights)),
        lambda log_weights, log_z_0: np.logaddexp.reduce(log_weights.numpy()) - np.log(len(log_weights)) + log_z_0,
        lambda log_weights, log_z_0: (log_weights - log_weights.max()).exp().mean().log() + log_weights.max() + log_z_0,
    ],
    "persistent_start": ["Chains", " chains"],
    "log_z_terms": [16.0, torch.tensor(16), np.log2(65536)],
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
    ],
    "mala_log_ratio": [mala_log_ratio_by_distributions],
    "composed_energy": [
        lambda a, b, both: a - both + b,
        lambda a, b, both: torch.stack([a, b, -both]).sum(0),
        lambda a, b, both: both + (a - both) + (b - both),
    ],
}


def test_names_are_unique_and_every_exercise_has_another_right_answer():
    names = [exercise.name for exercise in ALL]
    assert len(names) == len(set(names))
    files = (test_exercises_04_07, test_exercises_vae_gan, test_exercises_classification, test_exercises_little_data)
    assert set(ALTERNATIVES).union(*(file.ALTERNATIVES for file in files)) == set(names)


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_reference_is_right(exercise):
    verdict = engine.judge(exercise, reference_of(exercise))
    assert verdict.status == "right", verdict.message
    assert verdict.message.startswith(f"✓ {exercise.name}: ")
    assert plain(exercise.right) in plain(verdict.message)


@pytest.mark.parametrize(("name", "answer"), [(name, a) for name, answers in ALTERNATIVES.items() for a in answers])
def test_alternative_is_right(name, answer):
    verdict = judge(name, answer)
    assert verdict.status == "right", verdict.message


def test_hmm_reference_is_the_sum_over_all_paths():
    for x, initial, transition, emission in find("hmm_log_prob").draw_inputs()[:5]:
        total = 0.0
        for path in product(range(len(initial)), repeat=len(x)):
            first = initial[path[0]]
            steps = math.prod(float(transition[i, j]) for i, j in pairwise(path))
            total += float(first) * steps * math.prod(float(emission[k, s]) for k, s in zip(path, x))
        assert find("hmm_log_prob").reference(x, initial, transition, emission) == pytest.approx(
            math.log(total), abs=1e-5
        )


def test_predictions_hold():
    p, noise = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0])  # the worst noise: never where p is
    lost = find("kl_divergence").reference(p, 0.001 * p + 0.999 * noise)
    assert lost.item() == pytest.approx(find("cost_of_noise").reference(), abs=1e-5)


# The exercises on energies: what is promised of each reference, on spaces where it can be computed.


def small_machine(seed):
    generator = torch.Generator().manual_seed(seed)
    W, b, c = (2 * torch.randn(shape, generator=generator) for shape in ((3, 2), 3, 2))
    every_v = torch.tensor(list(product([0.0, 1.0], repeat=3)))
    return W, b, c, every_v, (-find("free_energy").reference(every_v, W, b, c)).softmax(0)


def frequencies_after(step, seed, n=200_000):
    """How often each of the 8 states occurs after one step of chains that begin with the machine's own p(v)."""
    W, b, c, every_v, p = small_machine(seed)
    generator = torch.Generator().manual_seed(seed)
    v = every_v[torch.multinomial(p, n, replacement=True, generator=generator)]
    v = step(v, W, b, c, torch.rand(n, 2, generator=generator), torch.rand(n, 3, generator=generator))
    return torch.bincount((v @ torch.tensor([4.0, 2.0, 1.0])).long(), minlength=8) / n, p


@pytest.mark.parametrize("seed", range(3))
def test_gibbs_step_keeps_the_machines_distribution_and_mean_field_does_not(seed):
    exercise = find("gibbs_step")
    (mean_field,) = [wrong for wrong, hint in exercise.wrong if "pass on the probabilities" in hint]
    after, p = frequencies_after(exercise.reference, seed)
    torch.testing.assert_close(after, p, atol=0.005, rtol=0)  # four standard deviations
    after, p = frequencies_after(mean_field, seed)
    assert (after - p).abs().max() > 0.02


def test_no_unit_of_the_gibbs_inputs_is_decided_by_rounding():
    for v, W, b, c, u_h, u_v in find("gibbs_step").draw_inputs():
        p_h = (c + v @ W).sigmoid()
        p_v = (b + (u_h < p_h).float() @ W.T).sigmoid()
        assert min((u_h - p_h).abs().min(), (u_v - p_v).abs().min()) > 1e-6


def test_rbm_gradient_with_the_models_own_states_is_that_of_the_likelihood():
    W, b, c, every_v, p = small_machine(0)
    data, W = every_v[[1, 1, 6]], W.requires_grad_()
    free_energy = find("free_energy").reference
    log_z = (-free_energy(every_v, W, b, c)).logsumexp(0)
    (truth,) = torch.autograd.grad((-free_energy(data, W, b, c) - log_z).mean(), W)
    negatives = every_v[torch.multinomial(p, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))]
    estimate = find("rbm_gradient").reference(data, negatives, W.detach(), c)
    torch.testing.assert_close(estimate, truth, atol=0.005, rtol=0)


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


# ---- known wrong answers -------------------------------------------------------------------------------------------


def is_readable(verdict) -> bool:
    """Whether what `check` prints of it is a few short lines, without an address or a traceback."""
    with redirect_stdout(io.StringIO()) as printed:
        exercises._print(verdict.message)
    text = printed.getvalue()
    short = 1 <= text.count("\n") <= 6 and max(map(len, text.splitlines())) <= 110
    return short and "0x" not in text and "Traceback" not in text


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_every_wrong_answer_gets_its_own_hint_in_a_few_lines(exercise):
    for answer, own in exercise.wrong:
        verdict = engine.judge(exercise, answer)
        assert verdict.status == "wrong", own
        assert verdict.message.startswith(f"✗ {exercise.name}: ")
        for part in re.split(r"\{\w+\}", own):  # what stands between the fields
            assert plain(part) in plain(verdict.message)
        assert not re.search(r"\{\w+\}", verdict.message)
        assert is_readable(verdict), verdict.message


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=by_name)
def test_inputs_separate_all_wrong_answers(exercise):
    """Without the leniency about infinities, and in both directions: no two mistakes look alike on every input."""
    inputs = exercise.draw_inputs()
    compared = [lambda function: function] + [exercise.differentiated] * bool(exercise.differentiate)
    seen = [[[outcome(way(f), args) for args in inputs] for way in compared] for f, _ in exercise.wrong]
    for (one, (_, its_hint)), (other, (_, another)) in combinations(zip(seen, exercise.wrong), 2):
        assert its_hint == another or not all(map(looks_like, one, other)), (its_hint, another)


def looks_like(one, other) -> bool:
    """In value and shape on every input."""
    return all(
        a is not None and b is not None and a.shape == b.shape and torch.allclose(a, b, 1e-5, 1e-5, equal_nan=True)
        for a, b in zip(one, other)
    )


def outcome(function, arguments) -> Tensor | None:
    try:
        return as_tensor(function(*arguments))
    except (RuntimeError, IndexError, attempt.Refused):
        return None


@pytest.mark.parametrize("exercise", VALUES, ids=by_name)
def test_wrong_values_differ(exercise):
    """By more than float32 loses: log 999, given in full, is not log 1000, though 6.91 may be either."""
    values = [value for value, _ in exercise.wrong]
    for one, other in combinations([*values, exercise.reference()], 2):
        if not isinstance(one, str):
            assert not math.isclose(one, other, rel_tol=10 * engine.GIVEN_IN_FULL, abs_tol=2e-5), (one, other)


# As a learner would write them, none taken from the lists of the exercises: (name, answer, words of the hint)
def naive_responsibilities_with_equal_weights(x, weights, mu, sigma):
    density = torch.exp(Normal(mu, sigma).log_prob(x.unsqueeze(1)))
    return density / density.sum(1, keepdim=True)


def cross_entropy_written_in_steps(logits, labels, reduce):
    exponentials = torch.exp(logits)
    return reduce(torch.log(exponentials.sum(1)) - logits[range(len(labels)), labels])


def best_path(x, initial, transition, emission):
    delta = initial * emission[:, x[0]]
    for symbol in x[1:]:
        delta = (delta[:, None] * transition).max(0).values * emission[:, symbol]
    return delta.max().log()


def hmm_with_rows_and_columns_exchanged(x, initial, transition, emission):
    alpha = initial * emission[:, x[0]]
    for symbol in x[1:]:
        alpha = emission[:, symbol] * (transition @ alpha)
    return alpha.sum().log()


def hmm_with_wrong_table(x, initial, transition, emission):
    alpha = initial * emission[x[0]]  # raises as soon as the table is not square
    for symbol in x[1:]:
        alpha = alpha @ transition * emission[symbol]
    return alpha.sum().log()


def hmm_in_logarithms(x, initial, transition, emission, *, step, end, symbols=slice(1, None)):
    a, log_t, log_e = initial.log() + emission[:, x[0]].log(), transition.log(), emission.log()
    for symbol in x[symbols]:
        a = step(a, log_t) + log_e[:, symbol]
    return end(a)


def step_of_logs(a, log_t):
    return torch.logsumexp(a.unsqueeze(1) + log_t, dim=0)


def end_of_logs(a):
    return torch.logsumexp(a, dim=0)


hmm_stopping_early = partial(hmm_in_logarithms, step=step_of_logs, end=end_of_logs, symbols=slice(1, -1))
hmm_from_the_first_symbol = partial(hmm_in_logarithms, step=step_of_logs, end=end_of_logs, symbols=slice(None))
hmm_summing_logs = partial(hmm_in_logarithms, step=step_of_logs, end=torch.sum)
hmm_without_last_sum = partial(hmm_in_logarithms, step=step_of_logs, end=lambda a: a)
hmm_leaving_logarithms = partial(hmm_in_logarithms, step=step_of_logs, end=lambda a: a.exp().sum().log())


def hmm_along_the_row(*model):
    return hmm_in_logarithms(*model, step=lambda a, log_t: (a[:, None] + log_t).logsumexp(1), end=end_of_logs)


def hmm_adding_along_the_columns(*model):
    return hmm_in_logarithms(*model, step=lambda a, log_t: torch.logsumexp(a + log_t, 0), end=end_of_logs)


def hmm_multiplying_logs(*model):
    return hmm_in_logarithms(*model, step=lambda a, log_t: a @ log_t, end=end_of_logs)


def hmm_without_log(x, initial, transition, emission):
    a = initial + emission[:, x[0]].log()
    for symbol in x[1:]:
        a = step_of_logs(a, transition.log()) + emission[:, symbol].log()
    return end_of_logs(a)


def cross_entropy_without_the_maximum(logits, labels):
    log_z = (logits - logits.max(1, keepdim=True).values).exp().sum(1).log()
    return (log_z - logits[torch.arange(len(labels)), labels]).mean()


def log_partition_without_the_maximum(f):
    m = (-f).max(-1, keepdim=True).values
    return torch.log(torch.exp(-f - m).sum(-1))


def log_partition_of_shifted(f):
    f = f - f.min(-1, keepdim=True).values
    return torch.log(torch.exp(-f).sum(-1))


def log_partition_with_minimum_added(f):
    lowest = f.amin(-1, keepdim=True)
    return (lowest - f).exp().sum(-1).log() + lowest.squeeze(-1)


def responsibilities_in_logarithms(x, weights, mu, sigma, *, dim=1, log_prior):
    return torch.softmax(log_prior(weights) + Normal(mu, sigma).log_prob(x[:, None]), dim)


def kl_masked(p, q):
    terms = torch.where((p > 0) & (q > 0), p * (p / q).log(), torch.zeros(()))
    return terms.sum(-1)


def minus_one_hot(logits, labels):
    gradient = logits.clone()
    gradient[torch.arange(len(labels)), labels] -= 1
    return gradient


def normalised_naively(weights):
    return weights / weights.sum(-1, keepdim=True)


def gibbs_without_the_draw_of_h(v, W, b, c, u_h, u_v):
    p_h = torch.sigmoid(v @ W + c)
    p_v = torch.sigmoid(p_h @ W.t() + b)
    return torch.where(u_v < p_v, 1.0, 0.0)


def gibbs_upside_down(v, W, b, c, u_h, u_v):
    h = torch.where(u_h < torch.sigmoid(v @ W + c), 0.0, 1.0)
    return torch.where(u_v < torch.sigmoid(h @ W.T + b), 0.0, 1.0)


def gibbs_by_rounding(v, W, b, c, u_h, u_v):
    h = torch.sigmoid(v @ W + c).round()
    return torch.sigmoid(h @ W.T + b).round()


def rbm_gradient_with_one_less(v, v_negative, W, c):
    def covariance(x):
        return x.T @ torch.sigmoid(x @ W + c) / (len(x) - 1)

    return covariance(v) - covariance(v_negative)


def rbm_gradient_of_the_loss(v, v_negative, W, c):
    return -rbm_gradient_by_autograd(v, v_negative, W, c)


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


def bce_of_logits(a, label):
    return F.binary_cross_entropy_with_logits(a, torch.full_like(a, label))


SEEN = [
    ("boltzmann_probabilities", lambda e, t: np.exp(-e.numpy() / t), "Z is missing"),
    ("boltzmann_probabilities", lambda e, t: F.softmax(e / t, -1), "Low energy means probable"),
    ("boltzmann_probabilities", lambda e, t: F.softmax(-e * t, -1), "You multiply by T"),
    ("boltzmann_probabilities", lambda e, t: F.softmax(-e / t, 0), "over the first dimension"),
    ("boltzmann_probabilities", lambda e, t: normalised_naively(torch.exp(-e.double() / t)), "lowest energy first"),
    ("boltzmann_probabilities", lambda e, t: F.softmin(e / t / t, -1), "T stands squared"),
    ("free_energy", lambda v, W, b, c: -v @ b - F.logsigmoid(v @ W + c).sum(1), "log-probability that it is off"),
    ("free_energy", lambda v, W, b, c: -v @ b - torch.sigmoid(v @ W + c).log().sum(1), "is off"),
    ("free_energy", lambda v, W, b, c: -v @ b - torch.logaddexp(c + v @ W, -c - v @ W).sum(1), "h = −1 and h = 1"),
    ("free_energy", lambda v, W, b, c: v @ b + F.softplus(v @ W + c).sum(1), "the wrong sign. Look for the minus"),
    ("free_energy", lambda v, W, b, c: -v @ b - torch.log(1 + torch.exp(v @ W + c)).sum(1), "exp(a) overflows"),
    (
        "free_energy",
        lambda v, W, b, c: -v @ b - torch.log1p(torch.exp((v @ W + c).double())).sum(1),
        "exp(a) overflows",
    ),
    ("free_energy", lambda v, W, b, c: -v @ b - (torch.sigmoid(v @ W + c) * (v @ W + c)).sum(1), "entropy"),
    ("free_energy", lambda v, W, b, c: -v @ b - (v @ W + c).sum(1), "Off is a state"),
    ("free_energy", lambda v, W, b, c: (-v @ b - F.softplus(v @ W + c).sum(1)).sum(), "over the batch too"),
    ("gibbs_step", gibbs_without_the_draw_of_h, "mean field"),
    ("gibbs_step", gibbs_by_rounding, "cut probabilities at ½"),
    ("gibbs_step", lambda v, W, b, c, u_h, u_v: gibbs_in_numpy(v, W, b, c, 1 - u_h, 1 - u_v), "above 1 − p"),
    ("gibbs_step", gibbs_upside_down, "u is above p, which"),
    ("gibbs_step", lambda v, W, b, c, u_h, u_v: gibbs_in_numpy(v, -W, -b, -c, u_h, u_v), "energy's sign is turned"),
    ("rbm_gradient", rbm_gradient_of_the_loss, "the wrong sign. Look for the minus"),
    ("rbm_gradient", lambda *a: rbm_gradient_in_a_loop(*a).T, "your answer is the transpose"),
    ("rbm_gradient", lambda v, n, W, c: rbm_gradient_in_a_loop(v, n, W, 0 * c), "c does not appear"),
    ("rbm_gradient", lambda v, n, W, c: rbm_gradient_in_a_loop(v, n, W, c) * len(v) / v.numel(), "`len(v)`"),
    ("rbm_gradient", rbm_gradient_with_one_less, "That is for variances"),
    ("ais_log_z", lambda w, base: w.mean() + base, "Jensen"),
    ("ais_log_z", lambda w, base: base + (w - w.mean()).exp().mean().log() + w.mean(), "not the largest one"),
    ("ais_log_z", lambda w, base: torch.exp(w - w[0]).mean().log() + w[0] + base, "not the largest one"),
    ("ais_log_z", lambda w, base: torch.exp(w - w[-1]).mean().log() + w[-1] + base, "not the largest one"),
    ("ais_log_z", lambda w, base: torch.exp(w - w.median()).mean().log() + w.median() + base, "not the largest one"),
    ("ais_log_z", lambda w, base: torch.log(torch.mean(torch.exp(w.double()))) + base, "overflows or underflows"),
    ("ais_log_z", lambda w, base: np.log(np.exp(base) * np.exp(w.numpy()).mean()), "overflows or underflows"),
    ("ais_log_z", lambda w, base: torch.logsumexp(w, 0) + base, "without dividing by n"),
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
    ("hmm_log_prob", hmm_along_the_row, "Each row of the transition sums to 1"),
    ("hmm_log_prob", hmm_adding_along_the_columns, "alpha[:, None]"),
    ("hmm_log_prob", hmm_multiplying_logs, "`@` multiplies and adds"),
    ("hmm_log_prob", hmm_stopping_early, "The last symbol is never looked at"),
    ("hmm_log_prob", hmm_from_the_first_symbol, "The first symbol counts twice"),
    ("hmm_log_prob", hmm_summing_logs, "add up logarithms over the states"),
    ("hmm_log_prob", partial(hmm_in_logarithms, step=step_of_logs, end=torch.max), "most probable last state"),
    ("hmm_log_prob", partial(hmm_in_logarithms, step=step_of_logs, end=lambda a: a[-1]), "not the last time"),
    ("hmm_log_prob", hmm_without_last_sum, "logarithms of the single terms"),
    ("hmm_log_prob", hmm_leaving_logarithms, "underflows to 0"),
    ("hmm_log_prob", hmm_without_log, "`initial` stands among logarithms"),
    ("log_partition", log_partition_without_the_maximum, "never put back"),
    ("log_partition", log_partition_of_shifted, "never put back"),
    ("log_partition", log_partition_with_minimum_added, "wrong sign"),
    ("log_partition", lambda f: -torch.logsumexp(f, -1), "in front of the logarithm"),
    ("cross_entropy", cross_entropy_without_the_maximum, "added back"),
    ("cross_entropy", lambda a, y: -a.log()[range(len(y)), y].mean(), "logarithm of the logits"),
    ("cross_entropy", lambda a, y: -(a.softmax(1) * a.log_softmax(1)).sum(1).mean(), "labels do not appear"),
    ("cross_entropy", lambda a, y: -a.log_softmax(1)[y].mean(), "takes whole rows"),
    ("cross_entropy", lambda a, y: F.nll_loss((a / a.sum(1, keepdim=True)).log(), y), "logarithm of the logits"),
    ("cross_entropy", lambda a, y: F.cross_entropy(a, y, reduction="sum") / a.shape[1], "number of classes"),
    ("cross_entropy_gradient", lambda a, y: minus_one_hot(a, y) / len(y), "from the logits themselves"),
    ("cross_entropy_gradient", minus_one_hot, "from the logits themselves"),
    ("cross_entropy_gradient", lambda a, y: minus_one_hot(a.softmax(1), y) / a.size(1), "number of classes"),
    ("accuracy", lambda a, y: (a.argmax() == y).float().mean(), "one number for the whole table"),
    ("accuracy", lambda a, y: (a.argmax(1) == y).all(), "`all()`"),
    ("accuracy", lambda a, y: (a.argmax(1) == y).sum() / a.size(1), "number of classes"),
    ("fit_gaussian", lambda x: (x.median(), x.std(unbiased=False)), "is the median"),
    ("fit_gaussian", lambda x: (x.mean(), (x - x.mean()).norm()), "distances are summed"),
    ("fit_gaussian", lambda x: (np.median(x.numpy()), x.numpy().std()), "is the median"),
    ("responsibilities", partial(responsibilities_in_logarithms, dim=0, log_prior=torch.log), "Your columns sum to 1"),
    ("responsibilities", partial(responsibilities_in_logarithms, log_prior=lambda w: w), "stand among logarithms"),
    ("markov_log_prob", lambda x, i, t: i[0].log() + t[x[:-1], x[1:]].log().sum(), "begins with x[0]"),
    ("markov_log_prob", lambda x, i, t: i[x[0]] + t[x[:-1], x[1:]].log().sum(), "without a logarithm: initial[x[0]]"),
    ("kl_divergence", kl_masked, "a mask"),
    ("cross_entropy", partial(cross_entropy_written_in_steps, reduce=torch.mean), "log-sum-exp"),
    ("cross_entropy", partial(cross_entropy_written_in_steps, reduce=torch.sum), "a sum where the mean is asked"),
    ("cross_entropy", lambda a, y: -torch.log(a.softmax(1)[range(len(y)), y]).mean(), "underflows to 0 before"),
    ("cross_entropy", lambda a, y: -a.softmax(1).clamp(min=1e-8)[range(len(y)), y].log().mean(), "ceiling"),
    ("cross_entropy", lambda a, y: F.cross_entropy(a, y, reduction="none"), "single terms"),
    ("cross_entropy", lambda a, y: F.cross_entropy(a.softmax(1), y).double(), "twice"),
    ("accuracy", lambda a, y: np.sum(a.numpy().argmax(1) == y.numpy()), "a sum where the mean is asked"),
    ("accuracy", lambda a, y: (a.argmax(0) == y).float().mean(), "down the columns"),
    ("accuracy", lambda a, y: (a.argmax(1) == y).float(), "single terms"),
    ("kl_divergence", lambda p, q: (p * (p.log() - q.log())).sum(-1), "0 · (−inf)"),
    ("kl_divergence", lambda p, q: ((p + 1e-9) * ((p + 1e-9) / (q + 1e-9)).log()).sum(-1), "calls impossible"),
    ("kl_divergence", lambda p, q: torch.nan_to_num(p * (p / q).log()).sum(-1), "calls impossible"),
    ("kl_divergence", lambda p, q: (p * (q / p).log()).sum(-1), "the wrong sign. Look for the minus"),
    ("kl_divergence", lambda p, q: kl_in_loops(p, q).mean(), "mean over all of them"),
    ("kl_divergence", lambda p, q: kl_in_loops(p, q).unsqueeze(-1), "keepdim"),
    ("fit_gaussian", lambda x: (np.mean(x.numpy()), np.std(x.numpy(), ddof=1)), "N − 1"),
    ("fit_gaussian", lambda x: torch.tensor([x.mean(), x.var(correction=0)]), "variance"),
    ("responsibilities", naive_responsibilities_with_equal_weights, "weights are missing"),
    ("responsibilities", responsibilities_by_a_mixture, "keeps a weight from being 0"),
    (
        "responsibilities",
        lambda x, w, mu, s: (w.clamp(min=1e-12).log() + Normal(mu, s).log_prob(x[:, None])).softmax(1),
        "keeps a weight from being 0",
    ),
    ("responsibilities", lambda *m: responsibilities_by_distributions(*m).T, "is the transpose"),
    ("markov_log_prob", lambda x, i, t: np.log(np.prod([i[x[0]], *t[x[:-1], x[1:]]])), "underflows"),
    ("hmm_log_prob", best_path, "Viterbi"),
    ("hmm_log_prob", hmm_with_rows_and_columns_exchanged, "wrong side"),
    ("hmm_log_prob", hmm_with_wrong_table, "emission table"),
    ("log_partition", lambda f: torch.exp(-f).mean(-1).log(), "mean of exp(−f)"),
    ("log_partition", lambda f: torch.exp(-f.double()).sum(-1).log(), "log-sum-exp"),
    ("log_partition", lambda f: torch.exp(f).sum(-1).log(), "exp(+f)"),
]


@pytest.mark.parametrize(("name", "answer", "words"), SEEN)
def test_mistake_is_recognised_as_a_learner_writes_it(name, answer, words):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert words in plain(verdict.message)
    assert is_readable(verdict)


def langevin_step_with_own_noise(x, score, step_size, temperature, eps):
    return x + step_size * score + math.sqrt(2 * step_size * temperature) * torch.randn_like(x)


def draw_with_own_noise(mu, log_var, eps):
    return Normal(mu, (log_var / 2).exp()).rsample()


def penalty_with_own_alpha(critic, real, fake, alpha):
    return penalty_by_backward(critic, real, fake, torch.rand(len(real)))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("langevin_step", langevin_step_with_own_noise),
        ("reparameterise", draw_with_own_noise),
        ("gradient_penalty", penalty_with_own_alpha),
    ],
)
def test_noise_of_ones_own_is_noticed(name, answer):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert "random numbers" in verdict.message


# ---- what is right on easy inputs only -----------------------------------------------------------------------------


def log_sum_exp_from(shift):
    """Of −f, with something else than each row's largest term taken out before exp."""
    return lambda f: (shift(f) - f).exp().sum(-1).log() - shift(f).squeeze(-1)


def cross_entropy_from(shift):
    return lambda a, y: ((a - shift(a)).exp().sum(1).log() + shift(a).squeeze(-1) - a[range(len(y)), y]).mean()


def shares_from(shift):
    return lambda e, T: normalised_naively((-(e - shift(e)) / T).exp())


def responsibilities_from(shift):
    def shares(x, weights, mu, sigma):
        log_joint = weights.log() + Normal(mu, sigma).log_prob(x[:, None])
        return normalised_naively((log_joint - shift(log_joint)).exp())

    return shares


def ais_from(shift):
    return lambda w, base: (w - shift(w)).exp().mean().log() + shift(w).squeeze() + base


SHIFTS = [torch.max, torch.mean, torch.min, lambda a: a.mean(-1, keepdim=True), lambda a: a[..., :1]]
SHIFTED = [
    ("log_partition", log_sum_exp_from, lambda f: f.amax(-1, keepdim=True)),
    ("cross_entropy", cross_entropy_from, lambda a: a.amin(-1, keepdim=True)),
    ("boltzmann_probabilities", shares_from, lambda e: e.amax(-1, keepdim=True)),
    ("responsibilities", responsibilities_from, lambda a: a.amin(-1, keepdim=True)),
]


@pytest.mark.parametrize(("name", "written", "opposite"), SHIFTED)
def test_a_shift_by_another_maximum_than_the_rows_own_is_refused(name, written, opposite):
    for shift in [*SHIFTS, opposite]:
        assert judge(name, written(shift)).status == "wrong"
    with_its_own = {"log_partition": torch.amin, "boltzmann_probabilities": torch.amin}.get(name, torch.amax)
    assert judge(name, written(lambda a: with_its_own(a, -1, keepdim=True))).status == "right"


@pytest.mark.parametrize("shift", [torch.mean, torch.min, torch.median, lambda w: w[0]])
def test_ais_is_refused_where_another_weight_than_the_largest_is_taken_out(shift):
    assert judge("ais_log_z", ais_from(shift)).status == "wrong"


def hmm_with(table):
    return lambda x, *tables: find("hmm_log_prob").reference(x, *map(table, tables))


def markov_with(table):
    return lambda x, *tables: find("markov_log_prob").reference(x, *map(table, tables))


@pytest.mark.parametrize("small", [1e-6, 1e-8, 1e-10, 1e-12, 1e-20])
def test_a_small_constant_or_a_clamp_in_a_logarithm_is_refused(small):
    for name, written in (("hmm_log_prob", hmm_with), ("markov_log_prob", markov_with)):
        assert judge(name, written(lambda table: table + small)).status == "wrong"
        assert judge(name, written(lambda table: table.clamp(min=small))).status == "wrong"
    for answer in (
        lambda a, y: -(a.softmax(1) + small)[range(len(y)), y].log().mean(),
        lambda a, y: -a.softmax(1).clamp(min=small)[range(len(y)), y].log().mean(),
    ):
        assert judge("cross_entropy", answer).status == "wrong"
    assert judge("kl_divergence", lambda p, q: (p * ((p + small) / (q + small)).log()).sum(-1)).status == "wrong"
    nce = lambda p, q, pn, qn: -((p - q).sigmoid() + small).log().mean() + F.softplus(pn - qn).mean()  # noqa: E731
    assert judge("nce_loss", nce).status == "wrong"
    assert judge("log_partition", lambda f: ((-f).exp() + small).sum(-1).log()).status == "wrong"


def accuracy_of_ties(share):
    def accuracy(logits, labels):
        best = logits == logits.amax(1, keepdim=True)
        return share(best, labels).double().mean()

    return accuracy


EASY_ONLY = [
    ("accuracy", accuracy_of_ties(lambda best, y: best[range(len(y)), y])),
    ("accuracy", accuracy_of_ties(lambda best, y: best[range(len(y)), y] / best.sum(1))),
    ("accuracy", accuracy_of_ties(lambda best, y: best[range(len(y)), y] & (best.sum(1) == 1))),
    ("accuracy", lambda a, y: (a.shape[1] - 1 - a.flip(1).argmax(1) == y).double().mean()),
    ("fit_gaussian", lambda x: (x.mean(), (x.square().mean() - x.mean() ** 2).abs().sqrt())),
    ("fit_gaussian", lambda x: (x.numpy().mean(), np.sqrt((x.numpy() ** 2).mean() - x.numpy().mean() ** 2))),
    ("fit_gaussian", lambda x: (x.mean(), x.std(correction=0) if len(x) > 1 else torch.ones(()))),
    ("markov_log_prob", lambda x, i, t: i[x[0]].log() + t[x[1:-1], x[2:]].log().sum()),
    ("markov_log_prob", lambda x, i, t: i[x[0]].log() + (F.one_hot(x[1:], len(i)) * t[x[:-1]].log()).sum()),
    ("boltzmann_probabilities", lambda e, T: normalised_naively((-e).softmax(-1) ** (1 / T))),
    ("boltzmann_probabilities", lambda e, T: ((-e).softmax(-1).log() / T).softmax(-1)),
    ("mala_log_ratio", lambda x, n, e, f, s, t, h: torch.log((-f).exp() / (-e).exp()) + (e - e)),
    ("cross_entropy", lambda a, y: F.cross_entropy(a.detach(), y)),
    ("cross_entropy", lambda a, y: 2 * F.cross_entropy(a, y) - F.cross_entropy(a.detach(), y)),
    ("cross_entropy", lambda a, y: torch.tensor(F.cross_entropy(a, y).item())),
]


@pytest.mark.parametrize(("name", "answer"), EASY_ONLY)
def test_what_is_right_on_easy_inputs_only_is_refused(name, answer):
    assert judge(name, answer).status == "wrong"


# ---- gradients -----------------------------------------------------------------------------------------------------


def draw_with_new_tensors(mu, log_var, eps):
    sigma = torch.tensor([[math.exp(v / 2) for v in row] for row in log_var.tolist()])
    return mu + sigma * eps


def contrast_under_no_grad(energy_data, energy_model):
    with torch.no_grad():
        return energy_data.mean() - energy_model.mean()


def contrast_as_a_new_tensor(energy_data, energy_model):
    return torch.tensor((energy_data.mean() - energy_model.mean()).item(), requires_grad=True)


def half_detached(score, eps, sigma):
    difference = (sigma * score + eps).flatten(1)
    return (difference * difference.detach()).sum(1) / 2


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


@pytest.mark.parametrize(("name", "answer", "words"), CUT_OFF)
def test_right_values_without_the_right_gradients_are_wrong(name, answer, words):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert re.search("the (values are|value is) right, but on input 1 of", plain(verdict.message))
    assert words in plain(verdict.message)


def test_gradients_are_compared_where_the_notebook_has_switched_them_off():
    with torch.no_grad():
        assert judge("straight_through", find("straight_through").reference).status == "right"
        assert judge("straight_through", lambda z, code: code).status == "wrong"


def test_the_gradient_shown_is_that_of_the_argument_named():
    message = plain(judge("straight_through", lambda z, code: z + code - z.detach()).message)
    assert "the gradient of their sum by code at [0, 0] is 1, the reference's 0." in message
    message = plain(judge("reparameterise", draw_with_new_tensors).message)
    assert "by log_var at [0, 0] is 0, the reference's 1.359." in message  # ½ e of log_var = 2, eps = 1
    message = plain(judge("contrastive_loss", lambda data, model: data.mean() - model.data.mean()).message)
    assert "the value is right, but on input 1 of 8" in message
    assert "its gradient by energy_model at [0] is 0, the reference's -0.5." in message


def test_with_gradients_puts_value_and_gradients_in_a_row_in_the_order_asked():
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    row = with_gradients(lambda x, y: x.square() * y, [1, 0])(x, y)
    torch.testing.assert_close(row.float(), torch.cat([x.square() * y, x.square(), 2 * x * y]))
    assert not x.requires_grad
    torch.testing.assert_close(with_gradients(lambda x, y: 2 * y, [0])(x, y).float(), torch.cat([2 * y, 0 * x]))
    of_unlike_shapes = with_gradients(lambda x, y: x.mean() * y.sum(), [0, 1])(x, torch.ones(1, 3))
    torch.testing.assert_close(of_unlike_shapes.float(), torch.tensor([4.5, 1.5, 1.5, 1.5, 1.5, 1.5]))


def test_a_parameter_is_fresh_at_every_call_and_its_first_error_is_told():
    assert all(theta.requires_grad and theta.grad is None for theta, *_ in find("loss_gradient").draw_inputs())

    def loss_not_reduced(theta, x, chains, step_size, eps):
        (theta * x**2 / 2).backward()
        return theta.grad

    verdict = judge("loss_gradient", loss_not_reduced)
    assert verdict.status == "error"
    assert "only for scalar outputs" in plain(verdict.message)


# ---- not attempted -------------------------------------------------------------------------------------------------


def only_dots(logits, labels):
    """What the exercise's cell holds."""
    ...


def only_pass(logits, labels):
    pass


def not_implemented(logits, labels):
    raise NotImplementedError


def dots_returned(logits, labels):
    log_p = ...
    return log_p


def dots_computed_with(logits, labels):
    log_p = ...
    return -log_p.mean()


def dots_multiplied(logits, labels):
    return logits * ...


UNTOUCHED = [None, ..., only_dots, only_pass, not_implemented, dots_returned, dots_computed_with, dots_multiplied]


@pytest.mark.parametrize("answer", UNTOUCHED)
def test_untouched_is_neither_right_nor_wrong(answer, capsys):
    verdict = judge("cross_entropy", answer)
    assert verdict.status == "not attempted"
    assert verdict.message == "· cross_entropy: not attempted yet. Replace the ... in the cell above."
    assert check("cross_entropy", answer) is None
    assert capsys.readouterr().out == verdict.message + "\n"


@pytest.mark.parametrize("answer", [None, ...])
@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_no_answer_is_not_attempted(exercise, answer):
    assert engine.judge(exercise, answer).status == "not attempted"


def test_forgotten_return_is_named():
    def without_return(logits, labels):
        F.cross_entropy(logits, labels)

    verdict = judge("cross_entropy", without_return)
    assert verdict.status == "not attempted"
    assert "`return`" in verdict.message


# ---- answers that cannot be compared -------------------------------------------------------------------------------


def helper(log_p):
    return log_p[99]


def raises_in_helper(logits, labels):
    log_p = logits.log_softmax(1)
    return helper(log_p)


def raises_in_torch(logits, labels):
    return F.cross_entropy(logits, labels + 100)


RAISING = [(raises_in_helper, helper), (raises_in_torch, raises_in_torch), (partial(raises_in_helper), helper)]


@pytest.mark.parametrize(("answer", "place"), RAISING)
def test_exception_is_named_with_the_learners_own_line(answer, place):
    source, first = inspect.getsourcelines(place)
    verdict = judge("cross_entropy", answer)
    assert verdict.status == "error"
    assert f"IndexError in line {first + 1}, inside `{place.__name__}`: `{source[1].strip()}`" in verdict.message
    assert "logits = [[2, 0, -1], [0, 1, 3]], labels = [0, 1]" in verdict.message
    assert "Traceback" not in verdict.message
    assert "/" not in verdict.message


def test_exception_after_a_known_mistake_does_not_hide_it():
    def minus_forgotten_and_too_short(logits, labels):
        return -F.cross_entropy(logits[:8], labels.reshape(8 if len(labels) > 8 else -1))

    verdict = judge("cross_entropy", minus_forgotten_and_too_short)
    assert verdict.status == "wrong"
    assert "the wrong sign. Look for the minus" in plain(verdict.message)
    assert "On input 7 it gives no value" in plain(verdict.message)


def changes_argument(logits, labels):
    logits -= logits.amax(1, keepdim=True)
    return F.cross_entropy(logits, labels)


CANNOT = [
    (changes_argument, "wrong", "changes its argument `logits` in place"),
    (lambda logits: logits, "error", "called with (logits, labels), but your function takes (logits)"),
    (lambda logits, labels: "1.17", "wrong", "returns a str"),
    (lambda logits, labels: {"loss": 1.0}, "wrong", "returns a dict"),
    (lambda logits, labels: (logits, labels), "wrong", "the shapes (2, 3), (2,)"),
    (lambda logits, labels: 1j * logits, "wrong", "returns a Tensor that cannot be compared: its numbers are complex"),
    (torch.tensor(1.17), "error", 'check("cross_entropy", my_cross_entropy)'),
    (3.0, "error", "not the float that it returns"),
    (lambda logits, labels: logits.nope, "error", "AttributeError"),
    (lambda logits, labels: 1 / 0, "error", "ZeroDivisionError"),
    (nn.Linear(3, 3), "error", "TypeError"),
]


@pytest.mark.parametrize(("answer", "status", "words"), CANNOT)
def test_what_cannot_be_compared_is_explained(answer, status, words):
    verdict = judge("cross_entropy", answer)
    assert verdict.status == status
    assert words in plain(verdict.message)
    assert is_readable(verdict)


def softmax_of_integers(logits, labels):
    return -logits.log_softmax(1)[range(len(labels)), labels.softmax(0)].mean()


def draw_of_booleans(logits, labels):
    return torch.bernoulli(logits > 0).mean()


def exchanged_arguments(logits, labels):
    return F.cross_entropy(labels, logits)


def module_without_forward(logits, labels):
    return nn.Module()(logits)


def raised_in_a_helper_of_the_library(logits, labels):
    return torch.utils.data.Dataset()[0]


@pytest.mark.parametrize("answer", [softmax_of_integers, draw_of_booleans])
def test_torchs_own_not_implemented_error_is_an_error_and_says_what_to_do(answer):
    verdict = judge("cross_entropy", answer)
    assert verdict.status == "error"
    assert "NotImplementedError in line" in plain(verdict.message)
    assert "takes no whole numbers and no booleans" in plain(verdict.message)


@pytest.mark.parametrize("answer", [exchanged_arguments, module_without_forward, raised_in_a_helper_of_the_library])
def test_only_the_learners_own_raise_is_not_attempted(answer):
    assert judge("cross_entropy", answer).status == "error"


@pytest.mark.parametrize(
    "value", [1j, np.complex64(1), torch.tensor([1.0 + 0j]), np.zeros(2, dtype=complex), (1j, 2.0), [torch.tensor(1j)]]
)
def test_complex_numbers_are_called_complex(value):
    message = plain(judge("cross_entropy", lambda logits, labels: value).message)
    assert "its numbers are complex" in message
    assert "is not a tensor" not in message


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=by_name)
def test_a_trailing_comma_is_named(exercise):
    verdict = engine.judge(exercise, lambda *arguments: (exercise.reference(*arguments),))
    assert verdict.status == "wrong"
    assert "a comma stands behind what it returns" in plain(verdict.message)


def narrowed(value, dtype):
    return tuple(part.to(dtype) for part in value) if isinstance(value, tuple) else torch.as_tensor(value).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("exercise", FUNCTIONS, ids=by_name)
def test_answers_of_sixteen_bits_are_right_or_told_so(exercise, dtype):
    verdict = engine.judge(exercise, lambda *arguments: narrowed(exercise.reference(*arguments), dtype))
    assert verdict.status == "right" or "16-bit numbers keep" in plain(verdict.message)


@pytest.mark.parametrize("noise", [1e-4, 5e-4])
@pytest.mark.parametrize("wrong_inputs", [1, 2, 5])
def test_rounding_is_not_called_a_constant_term(noise, wrong_inputs):
    def rounded(x):
        return moments(x) + noise * torch.linspace(-1, 1, len(x)) * (len(x) in (7, 5, 4, 2, 1)[:wrong_inputs])

    message = plain(engine.judge(exercise_of(moments), rounded).message)
    assert "constant term" not in message
    assert "constant factor" not in message


def test_all_inputs_are_counted_and_a_later_exception_is_told():
    def breaks_on_the_last(x):
        if len(x) == 7:
            raise ValueError("too long")
        return moments(x) + (len(x) == 5) * x[:, 0]

    message = plain(engine.judge(exercise_of(moments), breaks_on_the_last).message)
    assert "3 of 5 inputs agree already: what is special about this one?" in message
    assert "On input 5 it gives no value: ValueError in line" in message


def test_a_branch_without_return_is_an_error_of_that_input():
    verdict = engine.judge(exercise_of(moments), lambda x: moments(x) if len(x) < 5 else None)
    assert verdict.status == "error"
    assert "This was on input 3 of 5" in verdict.message


def sum_of_exponentials(x):
    return x.logsumexp(1)


def test_the_numbers_in_a_hint_are_those_of_an_input_on_which_it_is_true():
    """The first input differs as well: by rounding, which the known mistake may have and does not cause."""
    naive = (lambda x: x.exp().sum(1).log(), "exp overflows and you get {yours}.")
    inputs = lambda generator: [(torch.tensor([[60.0, 59.0]]),), (torch.tensor([[900.0, 0.0]]),)]  # noqa: E731
    exercise = Exercise(sum_of_exponentials, "", "", "", [naive], inputs, rtol=1e-9, atol=1e-9)
    verdict = engine.judge(exercise, lambda x: x.exp().sum(1).log() + 3e-5 * (x.amax(1) < 100))
    assert "exp overflows and you get [inf]" in verdict.message
    assert "on input 2 of 2" in verdict.message


def test_exchanged_parameters_are_noticed():
    verdict = judge("kl_divergence", lambda q, p: find("kl_divergence").reference(p, q))
    assert verdict.status == "error"
    assert "called with (p, q), but your function takes (q, p)" in verdict.message


# ---- side effects --------------------------------------------------------------------------------------------------


def gradient_left_behind(logits, labels):
    F.cross_entropy(logits.requires_grad_(), labels).backward()
    return logits.grad


def growing(logits, labels, *, seen=[]):  # noqa: B006
    seen.append(len(labels))
    return find("cross_entropy_gradient").reference(logits, labels) * (1 if len(seen) <= 12 else 2)


def noisy(logits, labels):
    return gradient_by_autograd(logits, labels) + 1e-3 * torch.randn(())


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("cross_entropy_gradient", gradient_left_behind, "`backward()` adds to the `grad` that is there"),
        ("loss_gradient", loss_gradient_by_backward, "`backward()` adds to the `grad` that is there"),
        ("cross_entropy_gradient", growing, "a variable outside?"),
        ("cross_entropy_gradient", noisy, "random numbers"),
    ],
)
def test_an_answer_that_changes_at_the_second_call_is_wrong(name, answer, words):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert words in plain(verdict.message)


def of_tensors(arguments):
    return [value for value in arguments if isinstance(value, Tensor) and value.is_floating_point()]


def with_own_backward(reference):
    def answer(*arguments):
        value = reference(*arguments)
        total = sum(row.sum() for row in value) if isinstance(value, tuple) else value.sum()
        total.backward()
        return value

    return answer


def switching_gradients_off(reference):
    def answer(*arguments):
        for value in of_tensors(arguments):
            value.requires_grad_(False)
        return reference(*arguments)

    return answer


def switching_autograd_off(reference):
    def answer(*arguments):
        torch.set_grad_enabled(False)
        return reference(*arguments)

    return answer


@pytest.mark.parametrize("spoil", [with_own_backward, switching_gradients_off, switching_autograd_off])
@pytest.mark.parametrize("exercise", LOSSES, ids=by_name)
def test_an_answer_that_meddles_with_gradients_gets_a_sentence(exercise, spoil):
    verdict = engine.judge(exercise, spoil(exercise.reference))
    assert verdict.status != "right"
    assert "RuntimeError" not in verdict.message or "leave it to the caller" in plain(verdict.message)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("spoil", [switching_gradients_off, switching_autograd_off])
@pytest.mark.parametrize("exercise", [exercise for exercise in FUNCTIONS if not exercise.differentiate], ids=by_name)
def test_meddling_with_gradients_breaks_no_other_exercise(exercise, spoil):
    verdict = engine.judge(exercise, spoil(exercise.reference))
    assert verdict.status == "right" or "RuntimeError" not in verdict.message


# ---- what the notebook has set -------------------------------------------------------------------------------------


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = [
    torch.no_grad,
    torch.inference_mode,
    partial(torch.set_grad_enabled, False),
    partial(default_dtype, torch.float64),
    partial(default_dtype, torch.bfloat16),
    partial(torch.device, "meta"),
    partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    partial(np.errstate, all="raise"),
]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_references_are_right_whatever_the_notebook_has_set(exercise, setting):
    answer = reference_of(exercise)
    with setting():
        before = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
        verdict = engine.judge(exercise, answer)
        after = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    assert verdict.status == "right", verdict.message
    assert before == after


IN_A_STRANGE_NOTEBOOK = """
import torch
torch.set_default_device("meta")
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
torch.manual_seed(3)
from dgm_exercises import NOTEBOOKS, engine, hint, solution
for exercise in (exercise for notebook in NOTEBOOKS for exercise in notebook.EXERCISES):
    right = engine.judge(exercise, exercise.reference if exercise.inputs else exercise.reference())
    assert right.status == "right", right.message
    wrong = engine.judge(exercise, exercise.wrong[0][0])
    assert wrong.status == "wrong", wrong.message
    hint(exercise.name)
    solution(exercise.name)
"""


def test_exercises_work_where_the_defaults_were_set_before_they_were_imported():
    done = subprocess.run([sys.executable, "-c", IN_A_STRANGE_NOTEBOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- the notebooks -------------------------------------------------------------------------------------------------

NOTEBOOK_FILES = sorted(Path(__file__).parent.parent.joinpath("notebooks").glob("[0-9][0-9]_*.ipynb"))
BY_NAME = {module.__name__.rpartition(".")[2]: module for module in exercises.NOTEBOOKS}
MODULES = [(path, BY_NAME.get(path.stem[3:])) for path in NOTEBOOK_FILES]


def by_file(case):
    return case.stem if isinstance(case, Path) else ""


def cells(path) -> list[tuple[str, str]]:
    """The type and the source of each cell."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]


def checks(path) -> list[tuple[str, ast.Module]]:
    """The name of each exercise that a notebook asks, and its cell: those with a `...` to fill in."""
    trees = [ast.parse(re.sub(r"(?m)^[%!].*$", "", source)) for kind, source in cells(path) if kind == "code"]
    return [
        (call.args[0].value, tree)
        for tree in trees
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "check"
        if any(isinstance(node, ast.Constant) and node.value is ... for node in ast.walk(tree))
    ]


def test_exercises_stand_in_files_named_like_their_notebooks():
    assert {path.stem[3:] for path in NOTEBOOK_FILES} == set(BY_NAME)


@pytest.mark.parametrize(("path", "module"), MODULES, ids=by_file)
def test_a_notebook_asks_the_exercises_of_its_file_each_once(path, module):
    assert sorted(name for name, _ in checks(path)) == sorted(exercise.name for exercise in module.EXERCISES)


@pytest.mark.parametrize(("path", "module"), MODULES, ids=by_file)
def test_arguments_in_the_notebook_are_those_of_the_reference(path, module):
    for name, tree in checks(path):
        if not find(name).inputs:
            continue
        (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert [argument.arg for argument in function.args.args] == find(name).argument_names, name


@pytest.mark.parametrize("path", NOTEBOOK_FILES, ids=by_file)
@pytest.mark.parametrize("word", ["hint", "solution"])
def test_hint_and_solution_are_named_where_the_exercises_begin(path, word):
    text = " ".join(source for kind, source in cells(path) if kind == "markdown")
    assert f'{word}("' in text.partition("## Exercises")[2], f"{path.name} does not name {word}(…)"


def test_long_and_addressed_messages_are_cut():
    def raises(logits, labels):
        raise ValueError(f"{object()} " + "very " * 200 + "\nsecond line")

    message = judge("cross_entropy", raises).message
    assert "0x" not in message
    assert "second line" not in message
    assert len(message) < 500


def test_value_exercises_explain_too():
    assert "for a value" in judge("binary_table_size", math.log10).message
    assert judge("binary_table_size", [1, 2]).status == "error"
    assert judge("binary_table_size", "many").status == "error"
    assert "too small" in judge("binary_table_size", 50).message
    assert "too large" in judge("binary_table_size", torch.tensor([900.0])).message
    assert "nan" in judge("binary_table_size", math.nan).message
    assert judge("binary_table_size", 2**7840).status == "wrong"
    assert "the sign is wrong" in judge("binary_table_size", -784 * math.log10(2)).message
    assert '"chains", "data", "noise"' in judge("persistent_start", "d").message
    assert judge("persistent_start", 3).status == "error"


VALUES_SEEN = [
    ("persistent_start", "Data", "That is contrastive divergence"),
    ("persistent_start", "noise", "never arrive"),
    ("log_z_terms", 65536, "The exponent k was asked"),
    ("log_z_terms", 64, "try the other way"),
    ("log_z_terms", 80, "need not be enumerated"),
    ("binary_table_size", 28 * 28, "784 is the number of pixels"),
    ("binary_table_size", 2**784, "the number itself"),
    ("binary_table_size", 10**236, "the number itself"),
    ("binary_table_size", 543, "natural logarithm"),
    ("cost_of_noise", -math.log(0.999), "here most is noise"),
    ("cost_of_noise", 0.001, "here most is noise"),
    ("cost_of_noise", math.log(999), "one over the share of good samples"),
    ("cost_of_noise", torch.tensor(999.0).log(), "one over the share of good samples"),
    ("cost_of_noise", 4.605, "one good sample in 100"),
    ("cost_of_noise", 9.97, "in bits"),
]


@pytest.mark.parametrize(("name", "answer", "words"), VALUES_SEEN)
def test_wrong_value_is_recognised(name, answer, words):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert words in verdict.message


STEPS = [math.exp, math.sqrt, math.log, math.log2, math.log10, lambda v: v * v, lambda v: 1 / v, lambda v: 1 - v]


@pytest.mark.parametrize("exercise", VALUES, ids=by_name)
def test_one_number_is_no_ground_for_guessing_a_step(exercise):
    """A function of the right value is either a known mistake or just too large or too small."""
    answer = exercise.reference()
    for step in STEPS if isinstance(answer, float) else []:
        message = engine.judge(exercise, step(answer)).message
        assert any(hint in message for _, hint in exercise.wrong) or " is too " in message


@pytest.mark.parametrize("exercise", VALUES, ids=by_name)
def test_a_wrong_value_does_not_give_the_right_one_away(exercise):
    answer = exercise.reference()
    if isinstance(answer, float):
        assert f"{answer:.4g}" not in engine.judge(exercise, 12345.0).message


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ValueError, match="'cros_entropy'; did you mean 'cross_entropy'"):
        check("cros_entropy", None)
    with pytest.raises(ValueError, match="there are: scale_pixels, cross_entropy"):
        solution("xyz")
    with pytest.raises(ValueError, match="name comes first"):
        check(F.cross_entropy, "cross_entropy")


# ---- what every exercise notices -----------------------------------------------------------------------------------


def moments(x):
    return x.square().mean(1) + 0.5


def some_matrices(generator):
    sizes = [(2, 3), (4, 4), (5, 2), (1, 3), (7, 6)]
    return [(torch.rand(size, generator=generator),) for size in sizes]


def softmaxed(x):
    return x.softmax(1)


def total(x):
    return x.sum()


def surprisal(x):
    return -8 * x.log()


def exercise_of(reference) -> Exercise:
    return Exercise(reference, "Statement.", "Nudge.", "all of them.", wrong=[], inputs=some_matrices)


calls = []

DETECTED = [
    (moments, lambda x: -moments(x), "wrong sign"),
    (moments, lambda x: moments(x) / math.log(2), "log2 in place of the natural"),
    (moments, lambda x: moments(x) / math.log(10), "log10 in place of the natural"),
    (moments, lambda x: moments(x) * math.log(2), "factor log 2 too many"),
    (moments, lambda x: moments(x) * len(x), "a sum where the mean is asked"),
    (moments, lambda x: moments(x) / len(x), "a mean where the sum is asked"),
    (moments, lambda x: 100 * moments(x), "percent"),
    (moments, lambda x: 1 - moments(x), "one minus the reference"),
    (moments, lambda x: moments(x).exp(), "a logarithm, is missing"),
    (moments, lambda x: (-moments(x)).exp(), "and then its negative"),
    (moments, lambda x: moments(x).log(), "one logarithm too many"),
    (moments, lambda x: moments(x).square(), "Is a square root missing"),
    (moments, lambda x: moments(x).sqrt(), "`sqrt` too many"),
    (moments, lambda x: 1 / moments(x), "upside down"),
    (moments, lambda x: moments(x).flip(0), "order along the last dimension is reversed"),
    (moments, lambda x: moments(x)[:, None], "dimension of length 1 should not be there"),
    (moments, lambda x: moments(x)[None], "first dimension of length 1"),
    (moments, lambda x: moments(x).mean(), "mean over all of them"),
    (moments, lambda x: moments(x).sum(), "sum over all of them"),
    (moments, lambda x: x.square() + 0.5, "their mean over the last dimension"),
    (moments, lambda x: (x.square() + 0.5) / x.shape[1], "their sum over the last dimension"),
    (moments, lambda x: moments(x.T), "Over which dimension do you reduce"),
    (moments, lambda x: torch.zeros(len(x) + 1), "Over which dimension do you reduce"),
    (moments, lambda x: 1.0005 * moments(x), "within 1 %"),
    (moments, lambda x: moments(x) * 3, "3 times the reference"),
    (moments, lambda x: moments(x) + math.log(2 * math.pi) / 2, "½ log 2π"),
    (moments, lambda x: moments(x) - 0.25, "the reference -0.25"),
    (surprisal, lambda x: -(x.pow(8) + 1e-8).log(), "such a ceiling"),
    (surprisal, lambda x: -x.pow(8).clamp(min=1e-5).log(), "such a ceiling"),
    (moments, lambda x: moments(x) // 1, "whole numbers"),
    (moments, lambda x: moments(x).bfloat16(), "16-bit numbers"),
    (moments, lambda x: moments(x) + 1e-3 * x[:, 0], "small constant"),
    (moments, lambda x: moments(x) + torch.rand(len(x)), "random numbers"),
    (moments, lambda x: moments(x) + (0.1 * x[:, 0] if len(x) < 5 else torch.rand(len(x))), "random numbers"),
    (moments, lambda x: moments(x) + len(calls) + (calls.append(x) or 0), "a variable outside"),
    (moments, lambda x: moments(x) / (x[:, 0] > 0.2), "infinite"),
    (moments, lambda x: (x - x).mean(1) / 0, "is nan there"),
    (moments, lambda x: moments(x) + (len(x) == 5) * x[:, 0], "4 of 5 inputs agree already: what is special"),
    (moments, lambda x: moments(x) + (len(x) > 4) * x[:, 0], "what do inputs 3 and 5 have in common"),
    (moments, lambda x: moments(x) + (len(x) != 5) * x[:, 0], "Only input 3 of 5 agrees, perhaps by accident. Work"),
    (moments, lambda x: moments(x) + (len(x) in (2, 4, 5)) * x[:, 0], "Only inputs 4 and 5 agree, perhaps by accident"),
    (moments, lambda x: moments(x) + (len(x) != 2) * x[:, 0], "Work input 2 out by hand"),
    (moments, lambda x: x.sin().mean(1), "No input agrees yet"),
    (softmaxed, lambda x: x.softmax(1).T, "rows and columns are exchanged"),
    (softmaxed, lambda x: x.softmax(1).mean(0), "one value per example"),
    (softmaxed, lambda x: x.softmax(1).sum(0), "one value per example"),
    (softmaxed, lambda x: x.softmax(1).mean(1), "asks you to keep"),
    (total, lambda x: x, "one number, their sum"),
    (total, lambda x: x.mean(1, keepdim=True) * x.shape[1], "one number, their sum"),
    (total, lambda x: x * x.numel(), "one number, their mean"),
    (total, lambda x: 1.5, "same for every input"),
]


@pytest.mark.parametrize(("reference", "answer", "words"), DETECTED)
def test_detectors_serve_every_exercise(reference, answer, words):
    verdict = engine.judge(exercise_of(reference), answer)
    assert verdict.status == "wrong"
    assert words in plain(verdict.message)


def markov_by_the_mean(x, initial, transition):
    steps = transition[x[:-1], x[1:]].log()
    return initial[x[0]].log() + steps.mean() * len(steps)  # one symbol: the mean of no steps


BREAKING = [
    ("cross_entropy", lambda a, y: a.log().sum(1).mean() + y.sum(), "is nan there"),
    ("cross_entropy", lambda a, y: -a.sigmoid().log()[range(len(y)), y].mean(), "No input agrees yet"),
    ("log_partition", lambda f: f.sqrt().sum(-1), "is nan there"),
    ("log_partition", lambda f: (-f).exp().mean(-1).log(), "mean of exp(−f)"),
    ("responsibilities", lambda x, w, mu, sigma: (x[:, None] - mu).sqrt() * w, "is nan there"),
    ("responsibilities", lambda x, w, mu, sigma: (x[:, None] - mu).log() * w, "is not finite there"),
    ("markov_log_prob", markov_by_the_mean, "is nan there"),
    ("kl_divergence", lambda p, q: (p * p / q).log().sum(-1), "Only input 10 of 10 agrees"),
]


@pytest.mark.parametrize(("name", "answer", "words"), BREAKING)
def test_the_input_shown_is_the_one_that_is_spoken_of(name, answer, words):
    message = plain(judge(name, answer).message)
    assert words in message
    returned = re.search("you return (.*?), the reference", message).group(1)
    shown = int(re.search(r"on input (\d+) of", message).group(1))
    arguments = find(name).draw_inputs()[shown - 1]
    broken = not answer(*arguments).isfinite().all()
    assert broken is ("there" in words)
    assert "nan" in returned or "nan" not in words
    assert "inf" in returned or "infinite" not in words


def test_the_shape_shown_is_the_one_that_is_spoken_of():
    message = engine.judge(exercise_of(moments), lambda x: moments(x) + x[0, 0] if len(x) < 5 else x.sum(0)).message
    assert "on input 3 of 5" in message
    assert "Over which dimension" in message


def test_infinite_truth_replaced_by_a_number_is_noticed():
    def log_share(x):
        return torch.where(x > 0.5, x.log(), -math.inf)

    verdict = engine.judge(exercise_of(log_share), lambda x: log_share(x).clamp(min=-20))
    assert "The true value is infinite there" in verdict.message


def test_detectors_stay_silent_about_right_answers_and_tolerance_counts():
    assert engine.judge(exercise_of(moments), lambda x: moments(x) + 1e-7).status == "right"
    assert engine.judge(exercise_of(moments), lambda x: moments(x) + 1e-3).status == "wrong"


# ---- answers of every kind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        lambda value: value.double(),
        lambda value: value.numpy(),
        lambda value: value.numpy().astype(np.float64),
        lambda value: value.tolist(),
        lambda value: tuple(value),
        lambda value: [entry.numpy() for entry in value],
        lambda value: nn.Parameter(value),
        lambda value: value.to(runtime.device()),
    ],
)
def test_every_kind_of_number_is_read(kind):
    assert engine.judge(exercise_of(moments), lambda x: kind(moments(x))).status == "right"


def test_as_tensor_reads_and_refuses():
    assert as_tensor(True) == 1
    assert as_tensor(17**640).isinf()
    assert as_tensor([[1, 2], (3, np.float32(4))]).tolist() == [[1, 2], [3, 4]]
    assert as_tensor([]).shape == (0,)
    assert as_tensor(np.array([True, False])).tolist() == [1, 0]
    for refused in ("1", 1j, None, np.array(["a"]), {1}, torch.tensor(1j)):
        with pytest.raises(TypeError):
            as_tensor(refused)
    with pytest.raises(ValueError, match=r"\(1,\), \(2,\)"):
        as_tensor([[1], [1, 2]])


def test_values_are_shown_short():
    assert show(torch.tensor([0.25, -1 / 3, math.inf, math.nan, -0.0])) == "[0.25, -0.3333, inf, nan, 0]"
    assert show(torch.tensor([[1, 2], [3, 4]])) == "[[1, 2], [3, 4]]"
    assert show(torch.zeros(3, 4)) == "a tensor of shape (3, 4)"
    assert show_pair(torch.tensor(1.00001), torch.tensor(1.00002)) == ("1.00001", "1.00002")


# ---- what is printed -----------------------------------------------------------------------------------------------


def printed_by(capsys, name, answer) -> str:
    check(name, answer)
    return capsys.readouterr().out


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_verdicts_are_repeatable(exercise, capsys):
    for answer in [reference_of(exercise), *(answer for answer, _ in exercise.wrong[:1])]:
        text = printed_by(capsys, exercise.name, answer)
        assert printed_by(capsys, exercise.name, answer) == text


@pytest.mark.parametrize("exercise", ALL, ids=by_name)
def test_hint_and_solution_print(exercise, capsys):
    hint(exercise.name)
    hinted = capsys.readouterr().out
    assert plain(exercise.statement) in plain(hinted)
    assert plain(exercise.nudge) in plain(hinted)
    solution(exercise.name)
    source = capsys.readouterr().out
    assert source.startswith(f"def {exercise.name}(")
    assert "#" in source
    assert len(source.splitlines()) <= 12


def test_solution_works_on_its_own(capsys):
    """What is printed can be pasted into a cell: it uses nothing but torch, math and Tensor."""
    for exercise in ALL:
        solution(exercise.name)
        scope = {"torch": torch, "math": math, "Tensor": Tensor}
        exec(capsys.readouterr().out, scope)
        pasted = scope[exercise.name]
        assert engine.judge(exercise, pasted if exercise.inputs else pasted()).status == "right"


def test_prints_and_warnings_of_the_learner_are_left_out(capsys):
    def noisy(logits, labels):
        print("shape", logits.shape)
        torch.tensor([1.0]).std()  # warns
        np.log(np.zeros(1))  # warns
        return -F.cross_entropy(logits, labels)

    text = printed_by(capsys, "cross_entropy", noisy)
    assert "shape torch" not in text
    assert "What your function prints is left out here." in text
    assert capsys.readouterr().err == ""


def test_check_leaves_the_random_stream_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for exercise in ALL:
        engine.judge(exercise, reference_of(exercise))
    judge("cross_entropy", lambda logits, labels: torch.manual_seed(0).initial_seed() + torch.rand(()))
    assert torch.equal(before, torch.get_rng_state())
