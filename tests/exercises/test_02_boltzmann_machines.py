"""Answers to the exercises of notebook 02, right ones in other forms and wrong ones as learners write them."""

import math
from itertools import product

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import normalised_naively, reference, softplus_by_cases
from torch.distributions import Categorical

from dgm_exercises import find, judge

# ---- ways to write them ---------------------------------------------------------------------------------------------


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


def free_energy_by_cases(v, W, b, c):
    return -(v @ b) - softplus_by_cases(c + v @ W).sum(1)


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
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
        free_energy_by_cases,
        lambda v, W, b, c: free_energy_by_cases(v, W, b, c).numpy(),
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
}

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
    ("persistent_start", "Data", "That is contrastive divergence"),
    ("persistent_start", "noise", "never arrive"),
    ("log_z_terms", 65536, "The exponent k was asked"),
    ("log_z_terms", 64, "try the other way"),
    ("log_z_terms", 80, "need not be enumerated"),
]

REFUSED = [
    ("boltzmann_probabilities", lambda e, T: normalised_naively((-e).softmax(-1) ** (1 / T))),
    ("boltzmann_probabilities", lambda e, T: ((-e).softmax(-1).log() / T).softmax(-1)),
    ("free_energy", lambda v, W, b, c: reference("free_energy")(v, W.detach(), b, c)),
    ("free_energy", lambda v, W, b, c: reference("free_energy")(v, W, b, c).detach()),
    ("ais_log_z", lambda w, base: (w.exp().mean() + 1e-8).log() + base),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


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


def ais_from(shift):
    return lambda w, base: (w - shift(w)).exp().mean().log() + shift(w).squeeze() + base


@pytest.mark.parametrize("shift", [torch.mean, torch.min, torch.median, lambda w: w[0]])
def test_ais_is_refused_where_another_weight_than_the_largest_is_taken_out(shift):
    assert judge("ais_log_z", ais_from(shift)).status == "wrong"
