"""Answers to the exercises of notebook 04, right ones in other forms and wrong ones as learners write them."""

import math

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import detached, draw_with_new_tensors
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from dgm_exercises import find

# ---- ways to write them ---------------------------------------------------------------------------------------------


def ppca_mean_by_the_covariance_of_x(x, W, mu, sigma):
    x, W, mu = x.double(), W.double(), mu.double()
    return (x - mu) @ torch.linalg.inv(W @ W.T + sigma**2 * torch.eye(len(W))).T @ W


def ppca_mean_by_least_squares(x, W, mu, sigma):
    x, W, mu = (value.numpy().astype(np.float64) for value in (x, W, mu))
    rows = np.vstack([W / sigma, np.eye(W.shape[1])])  # |x − μ − Wz|² / σ² + |z|²
    target = np.hstack([(x - mu) / sigma, np.zeros((len(x), W.shape[1]))])
    return np.linalg.lstsq(rows, target.T, rcond=None)[0].T


def elbo_gap_in_loops(log_joint, q):
    gaps = []
    for row, weights in zip(log_joint, q):
        elbo = sum(w * (joint - w.log()) for joint, w in zip(row, weights) if w > 0)
        gaps.append(torch.logsumexp(row, 0) - elbo)
    return gaps


def log_sum_exp_by(largest):
    def elbo_gap(log_joint, q):
        top = largest(log_joint)
        log_p = (log_joint - top).exp().sum(1).log() + top.flatten()
        return log_p - (q * log_joint - torch.xlogy(q, q)).sum(1)

    return elbo_gap


def gaussian_log_likelihood_in_numpy(x, mean, sigma):
    z = (x.numpy().astype(float) - mean.numpy()) / sigma
    return -0.5 * (z**2 + np.log(2 * np.pi * sigma**2)).sum(-1)


def kl_by_distributions(mu, log_var):
    q = Normal(mu, torch.exp(0.5 * log_var))
    return kl_divergence(Independent(q, 1), Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1))


def elbo_gap_in_numpy(log_joint, q):
    log_p = np.logaddexp.reduce(log_joint.numpy(), axis=1)
    return log_p - (q * log_joint - torch.xlogy(q, q)).sum(1).numpy()


def reversed_kl_with(small):
    def elbo_gap(log_joint, q):
        p = torch.softmax(log_joint, 1)
        return (p * (p.log() - (q + small).log())).sum(1) if small else (p * torch.log(p / q)).sum(1)

    return elbo_gap


def draw_under_no_grad(mu, log_var, eps):
    with torch.no_grad():
        return mu + eps * torch.exp(log_var / 2)


def gap_of_shifted(by):
    def gap(joint, q):
        level = by(joint)
        log_p = torch.log(torch.sum(torch.exp(joint - level), 1, keepdim=True)) + level
        return (q * (log_p - joint)).sum(1) + torch.xlogy(q, q).sum(1)

    return gap


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "ppca_posterior_mean": [
        ppca_mean_by_the_covariance_of_x,
        ppca_mean_by_least_squares,
        lambda x, W, mu, sigma: (x - mu) @ W @ torch.inverse(W.T @ W + sigma**2 * torch.eye(W.size(1))),
        lambda x, W, mu, sigma: (
            torch.linalg.solve(W.T @ W / sigma**2 + torch.eye(W.size(1)), W.T @ (x - mu).T / sigma**2).T
        ),
        lambda x, W, mu, s: (
            torch.cholesky_solve(
                W.T @ (x - mu).T, torch.linalg.cholesky(W.T @ W + torch.diag(torch.full((W.shape[1],), s * s)))
            ).mT
        ),
        lambda x, W, mu, s: (
            (x - mu) @ W @ torch.linalg.inv(W.T.double() @ W.double() + s**2 * np.eye(W.size(1))).float()
        ),
    ],
    "elbo_gap": [
        elbo_gap_in_loops,
        log_sum_exp_by(lambda log_joint: log_joint.amax(1, keepdim=True)),
        lambda log_joint, q: log_joint.logsumexp(1) - (q * log_joint).sum(1) + torch.xlogy(q, q).sum(1),
        lambda log_joint, q: F.kl_div(log_joint.log_softmax(1), q, reduction="none").sum(1),
        lambda log_joint, q: log_joint.logsumexp(1) - (q * (log_joint - q.clamp(min=1e-12).log())).sum(1),
        lambda joint, q: (F.kl_div(joint.log_softmax(-1), q, reduction="none")).sum(-1),
        lambda joint, q: joint.double().logsumexp(1) - (q * joint).sum(1) - torch.special.entr(q).sum(1),
    ],
    "gaussian_log_likelihood": [
        lambda x, mean, sigma: Normal(mean, sigma).log_prob(x).sum(-1),
        lambda x, mean, sigma: (
            -F.mse_loss(mean, x, reduction="none").sum(1) / (2 * sigma**2)
            - 0.5 * x.shape[1] * math.log(2 * math.pi * sigma**2)
        ),
        lambda x, mean, sigma: MultivariateNormal(mean.double(), sigma**2 * torch.eye(x.size(1)).double()).log_prob(x),
        lambda x, m, s: Independent(Normal(m, torch.tensor(s)), 1).log_prob(x),
        lambda x, m, s: (
            -F.gaussian_nll_loss(m, x, torch.full_like(x, s * s), full=True, eps=0, reduction="none").sum(1)
        ),
        lambda x, m, s: [Normal(b, s).log_prob(a).sum() for a, b in zip(x, m.double())],
    ],
    "split_head": [
        lambda out: (out[:, : out.shape[1] // 2], out[:, out.shape[1] // 2 :]),
        lambda out: out.split(out.size(1) // 2, dim=-1),
        lambda out: out.view(len(out), 2, -1).unbind(1),
        lambda out: list(out.double().tensor_split(2, dim=1)),
        lambda out: out.unflatten(1, (2, -1)).unbind(1),
        lambda out: torch.tensor_split(out, 2, -1),
    ],
    "reparameterise": [
        lambda mu, log_var, eps: mu + log_var.exp().sqrt() * eps,
        lambda mu, log_var, eps: torch.addcmul(mu, torch.exp(0.5 * log_var), eps),
        lambda mu, log_var, eps: Normal(mu.double(), log_var.exp() ** 0.5).mean + eps * torch.exp(log_var / 2),
        lambda mu, log_var, eps: [m + eps[i] * log_var[i].div(2).exp() for i, m in enumerate(mu)],
        lambda mu, v, eps: torch.lerp(mu, mu + eps, torch.exp(v / 2)),
        lambda mu, v, eps: mu + eps * torch.pow(math.e, 0.5 * v),
    ],
    "kl_to_standard_normal": [
        kl_by_distributions,
        lambda mu, log_var: -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp(), dim=1),
        lambda mu, log_var: (torch.expm1(log_var.double()) - log_var + mu.double() ** 2).sum(-1) / 2,
        lambda mu, log_var: [sum((m**2 + v.exp() - 1 - v) / 2 for m, v in zip(*row)) for row in zip(mu, log_var)],
        lambda mu, v: (mu**2 / 2 + v.exp() / 2 - v / 2 - 0.5).sum(-1),
        lambda mu, v: torch.einsum("bd,bd->b", mu, mu) / 2 + (torch.expm1(v) - v).sum(1) / 2,
        lambda m, v: ((m.double() ** 2 + v.double().exp() - v.double() - 1) / 2).sum(1),
    ],
    "negative_elbo": [
        lambda log_p, kl: kl.mean() - log_p.sum() / len(log_p),
        lambda log_p, kl: -(log_p.sum(dim=(1, 2, 3)) - kl).mean(),
        lambda log_p, kl: sum(k - row.sum() for row, k in zip(log_p.double(), kl)) / len(kl),
        lambda log_p, kl: torch.stack([kl.double().sum(), -log_p.double().sum()]).sum() / len(kl),
        lambda p, kl: torch.mean(kl - torch.einsum("bchw->b", p)),
        lambda p, kl: kl.mean() - p.mean() * p[0].numel(),
    ],
}

SEEN = [
    ("ppca_posterior_mean", lambda x, W, mu, s: torch.linalg.lstsq(W, (x - mu).mT).solution.mT, "least squares"),
    ("ppca_posterior_mean", lambda x, W, mu, s: (x - mu) @ W @ torch.inverse(W.T @ W + s * torch.eye(W.size(1))), "σ²"),
    ("ppca_posterior_mean", lambda x, W, mu, s: ppca_mean_by_least_squares(x - x.mean(0), W, 0 * mu, s), "this batch"),
    ("elbo_gap", lambda joint, q: (q * (torch.log(q + 1e-8) - torch.log(joint.softmax(1) + 1e-8))).sum(1), "log of 0"),
    ("elbo_gap", lambda joint, q: -torch.special.entr(q).sum(1) - (q * torch.log(joint.softmax(1))).sum(1), "log of 0"),
    ("elbo_gap", gap_of_shifted(lambda joint: joint.mean(1, keepdim=True)), "not the largest number of each row"),
    ("elbo_gap", gap_of_shifted(lambda joint: joint.min(1, keepdim=True).values), "not the largest number of each"),
    ("elbo_gap", gap_of_shifted(torch.max), "not the largest number of each row"),
    (
        "gaussian_log_likelihood",
        lambda x, m, s: (-((x - m) ** 2) / (2 * s**2) - np.log(s**2) - np.log(2 * np.pi) / 2).sum(1),
        "twice log σ",
    ),
    (
        "gaussian_log_likelihood",
        lambda x, m, s: (-((x - m) ** 2) / (2 * s**2) - np.log(s) - np.log(2 * np.pi)).sum(1),
        "log 2π without its ½",
    ),
    ("gaussian_log_likelihood", lambda x, m, s: F.mse_loss(x, m), "squared error, not a log-likelihood"),
    (
        "gaussian_log_likelihood",
        lambda x, m, s: Normal(0, s).log_prob(x * 0).sum(1) - (x * x - 2 * x * m + m * m).sum(1) / 2 / s**2,
        "on input 9 of 9",
    ),
    ("split_head", lambda out: (out[:, ::2], out[:, 1::2]), "interleaved"),
    ("split_head", lambda out: out.split(2, dim=1), "how long each piece is"),
    ("split_head", lambda out: (out.chunk(2, 1)[0], torch.exp(out.chunk(2, 1)[1] / 2)), "You give the standard dev"),
    ("reparameterise", lambda mu, v, eps: torch.addcmul(mu, v.exp(), eps), "the variance"),
    ("reparameterise", lambda mu, v, eps: mu + eps, "log_var does not appear"),
    ("reparameterise", lambda mu, v, eps: Normal(mu, 1.0).mean + v.mul(0.5) * eps, "exp is missing"),
    (
        "kl_to_standard_normal",
        lambda mu, v: kl_divergence(Normal(mu, v.exp()), Normal(0.0, 1.0)).sum(1),
        "take log_var for log σ",
    ),
    (
        "kl_to_standard_normal",
        lambda mu, v: kl_divergence(Normal(mu, (v / 2).exp()), Normal(0.0, 1.0)).mean(1),
        "average",
    ),
    ("kl_to_standard_normal", lambda mu, v: (mu**2 + v.exp() - 1 - 0.5 * v).sum(1) * 0.5, "You subtract log σ"),
    ("negative_elbo", lambda p, kl: -(p.mean((1, 2, 3)) - kl).mean(), "average log p over the pixels"),
    ("negative_elbo", lambda p, kl: p.sum((1, 2, 3)).mean() - kl.mean(), "the wrong sign. Look for the minus"),
    ("negative_elbo", lambda p, kl: (p.abs().sum((1, 2, 3)) + kl).mean(), "absolute value"),
    ("ppca_posterior_mean", lambda x, W, mu, sigma: torch.linalg.lstsq(W, (x - mu).T).solution.T, "least squares"),
    (
        "ppca_posterior_mean",
        lambda x, W, mu, sigma: ppca_mean_by_the_covariance_of_x(x, W, mu, sigma**0.5),
        "σ stands where σ² belongs",
    ),
    ("ppca_posterior_mean", lambda x, W, mu, sigma: ppca_mean_by_least_squares(x, W, 0 * mu, sigma), "not centre"),
    ("elbo_gap", lambda joint, q: (q * (torch.log(q) - joint)).sum(-1), "−ELBO, the KL from q to p(x, z)"),
    ("elbo_gap", lambda joint, q: F.kl_div(q.log(), joint.softmax(1), reduction="none").sum(1), "other direction"),
    ("elbo_gap", lambda joint, q: -elbo_gap_in_numpy(joint, q), "the wrong sign. Look for the minus"),
    ("elbo_gap", lambda joint, q: torch.log(joint.exp().sum(1)) - (q * (joint - q.log())).sum(1), "underflows to 0"),
    ("elbo_gap", log_sum_exp_by(torch.max), "not the largest number of each row"),
    ("elbo_gap", reversed_kl_with(0), "other direction"),
    ("elbo_gap", reversed_kl_with(1e-12), "other direction"),
    ("elbo_gap", lambda joint, q: (torch.xlogy(q, q) - q * joint.log_softmax(1)).mean(1), "average over the K"),
    ("elbo_gap", lambda joint, q: (q * (q.log() - joint.log_softmax(1))).mean(1), "average over the K"),
    ("gaussian_log_likelihood", lambda x, m, s: -((x - m) ** 2).sum(1), "squared error, not a log-likelihood"),
    (
        "gaussian_log_likelihood",
        lambda x, m, s: (-0.5 * ((x - m) / s) ** 2 + math.log(s) - 0.5 * math.log(2 * math.pi)).sum(1),
        "log σ has the wrong sign",
    ),
    ("gaussian_log_likelihood", lambda x, m, s: F.mse_loss(m, x, reduction="none").mean(1), "squared error, not"),
    ("gaussian_log_likelihood", lambda x, m, s: -0.5 * (((x - m) / s) ** 2).sum(1), "normalising constant is missing"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m, s).log_prob(x).mean(1), "average over the pixels"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m, s**2).log_prob(x).sum(1), "squared twice"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m, s**0.5).log_prob(x).sum(1), "take sigma for the variance"),
    ("gaussian_log_likelihood", lambda x, m, s: -Normal(m, s).log_prob(x).sum(1), "the wrong sign. Look for the minus"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m, s).log_prob(x).exp().prod(1).log(), "14 σ and more"),
    ("split_head", lambda out: out.view(len(out), -1, 2).unbind(-1), "interleaved"),
    ("split_head", lambda out: [out[:, : out.shape[1] // 2]] * 2, "one head serves for both"),
    ("split_head", lambda out: torch.sigmoid(out).chunk(2, 1), "squash the numbers"),
    ("split_head", lambda out: (out.chunk(2, 1)[0], F.softplus(out.chunk(2, 1)[1])), "softplus makes your log_var"),
    ("split_head", lambda out: (out.chunk(2, 1)[0], out.chunk(2, 1)[1].exp()), "You give the variance"),
    ("split_head", lambda out: out.split(2, 1), "how long each piece is"),
    ("split_head", lambda out: torch.split(out, 2, dim=-1), "how long each piece is"),
    ("split_head", lambda out: out[:, : out.shape[1] // 2], "This is mu alone"),
    ("split_head", lambda out: out.chunk(2, 1)[1], "This is log_var alone"),
    ("split_head", lambda out: out, "still in one tensor"),
    ("split_head", lambda out: out.view(len(out), 2, -1), "still in one tensor"),
    ("reparameterise", lambda mu, v, eps: mu, "There is no noise"),
    ("reparameterise", lambda mu, v, eps: mu + torch.exp(v) * eps, "exp(log_var), the variance"),
    ("reparameterise", lambda mu, v, eps: mu + v * eps, "log_var itself"),
    ("reparameterise", lambda mu, v, eps: torch.sigmoid(mu + torch.exp(v / 2) * eps), "squash z"),
    ("reparameterise", lambda mu, v, eps: torch.sigmoid(mu) + torch.sigmoid(v).div(2).exp() * eps, "squash z"),
    (
        "kl_to_standard_normal",
        lambda mu, v: 0.5 * (1 + v - mu.pow(2) - v.exp()).sum(1),
        "the wrong sign. Look for the minus",
    ),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(1 + v - mu**2 - v**2, 1), "log_var² stands"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(1 + v - mu**2 - torch.exp(0.5 * v), 1), "standard dev"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.mean(1 + v - mu**2 - v.exp()), "batch and latents at once"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.mean(1 + v - mu**2 - v.exp(), 1), "average over the latents"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(1 + v - mu**2 - v.exp()), "one sum over the latents"),
    ("kl_to_standard_normal", lambda mu, v: -torch.sum(1 + v - mu**2 - v.exp(), 1), "The ½ is missing"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(v - mu**2 - v.exp(), 1), "The −1 is missing"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(1 - v - mu**2 - v.exp(), 1), "log_var has the wrong sign"),
    (
        "kl_to_standard_normal",
        lambda mu, v: 0.5 * (torch.sum(mu**2 + v.exp() - v, 1) - 1),
        "once for the whole example",
    ),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * (1 + torch.sum(v - mu**2 - v.exp(), 1)), "once for the whole"),
    ("kl_to_standard_normal", lambda mu, v: kl_by_distributions(mu, v) / math.log(2), "Bits are a fine unit"),
    ("kl_to_standard_normal", lambda mu, v: kl_by_distributions(mu, 2 * v), "log_var for log σ"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * (1 + v - mu**2 - v.exp()), "their sum over the last dimension"),
    ("negative_elbo", lambda log_p, kl: -log_p.mean() + kl.mean(), "average log p over the pixels"),
    ("negative_elbo", lambda log_p, kl: (log_p.flatten(1).sum(1) - kl).mean(), "the wrong sign. Look for the minus"),
    ("negative_elbo", lambda log_p, kl: -log_p.sum() + kl.sum(), "a sum where the mean is asked"),
    ("negative_elbo", lambda log_p, kl: -log_p.sum((1, 2, 3)).mean() - kl.mean(), "The KL has the wrong sign"),
    ("negative_elbo", lambda log_p, kl: -log_p.sum((1, 2, 3)).mean() + 0.5 * kl.mean(), "The KL is halved"),
]

CUT_OFF = [
    ("kl_to_standard_normal", detached("kl_to_standard_normal", *(0, 1)), "nothing holds the posterior near the prior"),
    ("kl_to_standard_normal", detached("kl_to_standard_normal", *(1,)), "to be less certain"),
    ("kl_to_standard_normal", detached("kl_to_standard_normal", *(0,)), "pulls z towards 0"),
    ("negative_elbo", detached("negative_elbo", *(1,)), "nothing holds the posterior near the prior"),
    ("gaussian_log_likelihood", gaussian_log_likelihood_in_numpy, "No gradient comes back to mean,"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m.detach(), s).log_prob(x).sum(1), "comes back to mean,"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m.data, s).log_prob(x).sum(1).tolist(), "comes back to mean,"),
    ("reparameterise", lambda mu, v, eps: mu.numpy() + np.exp(v.numpy() / 2) * eps.numpy(), "to mu or log_var"),
    ("reparameterise", lambda mu, v, eps: (mu + (v / 2).exp() * eps).tolist(), "to mu or log_var"),
    ("reparameterise", lambda mu, v, eps: Normal(mu + (v / 2).exp() * eps, 1e-9).sample(), "to mu or log_var"),
    ("reparameterise", draw_under_no_grad, "to mu or log_var"),
    ("reparameterise", draw_with_new_tensors, "comes back to log_var"),
    ("reparameterise", lambda mu, v, eps: mu + torch.exp(v.data / 2) * eps, "comes back to log_var"),
    ("reparameterise", lambda mu, v, eps: mu.data + torch.exp(v / 2) * eps, "comes back to mu:"),
    ("split_head", lambda out: out.detach().chunk(2, 1), "back to the encoder"),
    ("split_head", lambda out: np.split(out.numpy(), 2, axis=1), "back to the encoder"),
    ("split_head", lambda out: (out.chunk(2, 1)[0].detach(), out.chunk(2, 1)[1]), "comes back through mu"),
    ("split_head", lambda out: (out.chunk(2, 1)[0], out.chunk(2, 1)[1].data), "comes back through log_var"),
    (
        "negative_elbo",
        lambda log_p, kl: (kl - log_p.sum((1, 2, 3))).mean().item(),
        "No gradient comes back to log_p_pixels or kl,",
    ),
    (
        "negative_elbo",
        lambda log_p, kl: np.mean(kl.numpy() - log_p.flatten(1).sum(1).numpy()),
        "No gradient comes back to log_p_pixels or kl,",
    ),
    ("negative_elbo", lambda log_p, kl: kl.mean().item() - log_p.sum() / len(kl), "comes back to the KL"),
    ("negative_elbo", lambda log_p, kl: (kl - log_p.data.sum((1, 2, 3))).mean(), "comes back to log p"),
]

REFUSED = [
    ("gaussian_log_likelihood", lambda x, m, s: (Normal(m, s).log_prob(x).exp() + 1e-8).log().sum(1)),
    ("gaussian_log_likelihood", lambda x, m, s: -F.gaussian_nll_loss(m, x, m * 0 + s**2, reduction="none").sum(1)),
    ("kl_to_standard_normal", lambda m, v: 0.5 * (m**2 + v.exp().clamp(max=1e3) - 1 - v).sum(1)),
    ("kl_to_standard_normal", lambda m, v: kl_divergence(Normal(m, v.exp()), Normal(0 * m, 1.0)).sum(1)),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_right_values_without_their_gradients_are_wrong = answers.cut_off(CUT_OFF)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


def test_parts_of_the_elbo_fit_together_and_the_exact_posterior_closes_the_gap():
    """One latent, so that its exact posterior is a Gaussian q: E_q log p(x|z), on a grid, minus the KL is log p(x)."""
    W, mu, sigma = torch.tensor([[1.5], [-0.5]]).double(), torch.tensor([1.0, 2.0]).double(), 0.7
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + mu
    M = W.T @ W + sigma**2 * torch.eye(1)
    mean = ppca_mean_by_the_covariance_of_x(x, W, mu, sigma)
    torch.testing.assert_close(
        find("ppca_posterior_mean").reference(x.float(), W.float(), mu.float(), sigma).double(), mean
    )
    log_var = (sigma**2 / M).log().expand(3, 1)
    eps = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    weights = Normal(0.0, 1.0).log_prob(eps).softmax(0)
    z = find("reparameterise").reference(mean, log_var, eps)  # (3, 2001)
    reconstruction = torch.stack(
        [
            find("gaussian_log_likelihood").reference(row.expand(len(eps), 2), mu + draws[:, None] @ W.T, sigma)
            @ weights
            for row, draws in zip(x, z)
        ]
    )
    kl = find("kl_to_standard_normal").reference(mean, log_var)
    loss = find("negative_elbo").reference(reconstruction.view(3, 1, 1, 1), kl)
    exact = MultivariateNormal(mu, W @ W.T + sigma**2 * torch.eye(2)).log_prob(x)
    torch.testing.assert_close(loss, -exact.mean(), atol=1e-6, rtol=1e-6)


def test_latents_of_ppca_are_most_probable_at_the_posterior_mean():
    for x, W, mu, sigma in find("ppca_posterior_mean").draw_inputs():
        z = find("ppca_posterior_mean").reference(x, W, mu, sigma).requires_grad_()
        log_joint = find("gaussian_log_likelihood").reference(x, z @ W.T + mu, sigma).sum() - z.square().sum() / 2
        (gradient,) = torch.autograd.grad(log_joint, z)
        assert gradient.abs().max() < 1e-2 * (x - mu).norm() / sigma**2


def test_elbo_gap_is_zero_for_the_posterior_alone():
    log_joint, _ = find("elbo_gap").draw_inputs()[2]
    posterior = log_joint.softmax(1)
    torch.testing.assert_close(find("elbo_gap").reference(log_joint, posterior), torch.zeros(3))
    assert (find("elbo_gap").reference(log_joint, posterior.roll(1, 1)) > 0.01).all()


def test_densities_and_probabilities_sum_to_one():
    grid = torch.linspace(-12, 12, 5001)[:, None]
    density = find("gaussian_log_likelihood").reference(grid, torch.full_like(grid, 0.4), 0.8).exp()
    assert density.sum() * 24 / 5000 == pytest.approx(1, abs=1e-4)
    for loc, scale in [(0.5, 0.1), (-0.3, 0.02), (1.2, 1.0)]:
        for levels in (2, 17, 256):
            every = torch.full((levels,), loc), torch.full((levels,), scale), torch.arange(levels), levels
            assert find("level_probability").reference(*every).sum() == pytest.approx(1, abs=1e-5)
