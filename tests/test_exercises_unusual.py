"""Answers as unusual as learners write them: wrong ones that ordinary inputs do not tell apart, right ones in odd form.

Small constants and clamps, shifts by another maximum, ties, duplicates, broadcasting, detached parts; numpy, loops,
float64, torch.distributions and formulas with a kink.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from dgm_exercises import find, judge


def plain(message):
    return " ".join(message.split())


def reference(name):
    return find(name).reference


def calibration(probs, y, bins, place):
    confidence, label = probs.max(1)
    right, k = (label == y).float(), place(confidence, bins)
    parts = [(right[k == i].mean() - confidence[k == i].mean()).abs() * (k == i).float().mean() for i in k.unique()]
    return sum(parts)


def area_by_ranks(usual, unusual):
    both = torch.cat([usual, unusual])
    ranks = torch.empty_like(both)
    ranks[both.argsort()] = torch.arange(1, len(both) + 1.0)
    n, m = len(usual), len(unusual)
    return (ranks[n:].sum() - m * (m + 1) / 2) / (n * m)


def adding_after(shift):
    return lambda w: (w - shift(w)).exp().mean(0).log() + shift(w)


def recall_of_union(predicted, y, n_classes):
    seen = [c for c in range(n_classes) if (y == c).any() or (predicted == c).any()]
    return torch.stack([((predicted == c) & (y == c)).sum() / max(1, int((y == c).sum())) for c in seen]).mean()


WRONG = [
    ("scale_pixels", lambda x, levels: (x.float() - x.min()) / (levels - 1)),
    ("accuracy", lambda a, y: (a.argmax(1, keepdim=True) == y).float().mean()),
    ("accuracy", lambda a, y: (a.flip(1).argmax(1) == a.shape[1] - 1 - y).float().mean()),
    ("kl_divergence", lambda p, q: torch.nan_to_num(p * (p / q).log()).sum(-1)),
    ("kl_divergence", lambda p, q: F.kl_div((q + 1e-12).log(), p, reduction="none").sum(-1)),
    ("fit_gaussian", lambda x: (x.mean(), (x.var(correction=0) + 1e-6).sqrt())),
    ("fit_gaussian", lambda x: (x.mean(), x.std() if len(x) > 1 else torch.tensor(0.0))),
    ("responsibilities", lambda x, w, mu, s: ((w + 1e-8).log() + Normal(mu, s).log_prob(x[:, None])).softmax(1)),
    ("responsibilities", lambda x, w, mu, s: (Categorical(w).logits + Normal(mu, s).log_prob(x[:, None])).softmax(1)),
    ("responsibilities", lambda x, w, mu, s: (w.log() + Normal(mu, s).log_prob(x[:, None]).clamp(min=-1e4)).softmax(1)),
    ("log_partition", lambda f: (-f).logsumexp(-1).clamp(max=1e3)),
    ("free_energy", lambda v, W, b, c: reference("free_energy")(v, W.detach(), b, c)),
    ("free_energy", lambda v, W, b, c: reference("free_energy")(v, W, b, c).detach()),
    ("ais_log_z", lambda w, base: (w.exp().mean() + 1e-8).log() + base),
    ("nce_loss", lambda p, q, pn, qn: F.softplus(q - p).clamp(max=100).mean() + F.softplus(pn - qn).mean()),
    ("nce_loss", lambda p, q, pn, qn: (F.softplus(q - p) + F.softplus(pn - qn)).sum() / len(p) / 2),
    ("langevin_step", lambda x, score, h, T, eps: x.add_(h * score) + math.sqrt(2 * h * T) * eps),
    ("gaussian_log_likelihood", lambda x, m, s: (Normal(m, s).log_prob(x).exp() + 1e-8).log().sum(1)),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m.detach(), s).log_prob(x).sum(1)),
    ("gaussian_log_likelihood", lambda x, m, s: -F.gaussian_nll_loss(m, x, m * 0 + s**2, reduction="none").sum(1)),
    ("kl_to_standard_normal", lambda m, v: 0.5 * (m**2 + v.exp().clamp(max=1e3) - 1 - v).sum(1)),
    ("kl_to_standard_normal", lambda m, v: kl_divergence(Normal(m, v.exp()), Normal(0 * m, 1.0)).sum(1)),
    ("iw_bound", adding_after(torch.max)),
    ("iw_bound", lambda w: torch.logsumexp(w.clamp(min=-1e3), 0) - math.log(len(w))),
    ("iw_bound", lambda w: (w.softmax(0).detach() * w).sum(0)),
    ("importance_mean", lambda w, x: (w - w.max()).exp().div((w - w.max()).exp().sum(0))[..., None].mul(x).sum(0)),
    ("optimal_critic", lambda a, b: (a - b).clamp(-5, 5).sigmoid()),
    ("optimal_critic", lambda a, b: (a.exp() + 1e-8) / (a.exp() + b.exp() + 2e-8)),
    ("critic_loss", lambda r, f: -r.sigmoid().clamp(1e-7, 1).log().mean() + F.softplus(f).mean()),
    ("critic_loss", lambda r, f: F.softplus(-r).mean() + F.softplus(f.detach()).mean()),
    ("generator_loss", lambda f: F.softplus(-f).clamp(max=20).mean()),
    ("critic_turn", lambda D, G, x, z: F.softplus(-D(x)).mean() + F.softplus(D(G(z.detach()))).mean()),
    ("critic_turn", lambda D, G, x, z: (F.softplus(-D(x)).sum() + F.softplus(D(G(z).detach())).sum()) / len(x)),
    ("wasserstein_1d", lambda x, y: (x.sort().values - y.sort().values).abs().sum() / max(1, len(x) - 1)),
    ("modes_covered", lambda x, c, r: ((x[:, None] - c).abs().amax(-1) <= r).any(0).sum()),
    ("generator_output", lambda a: a.clamp(-10, 10).sigmoid()),
    ("hinge_losses", lambda r, f: (F.relu(1 - r).mean() + F.relu(1 + f.detach()).mean(), -f.mean())),
    ("spectral_norm", lambda W: W.abs().sum(1).max()),
    ("projection_score", lambda h, y, w, e: h @ w + (h * e[y]).sum()),
    ("projection_score", lambda h, y, w, e: h @ w + (h @ e.T)[range(len(y)), y].detach()),
    ("feature_reconstruction", lambda phi, x, x_hat: (phi(x) - phi(x_hat).detach()).square().flatten(1).sum(1) / 2),
    ("feature_reconstruction", lambda phi, x, x_hat: phi(x - x_hat).square().flatten(1).sum(1) / 2),
    ("balanced_weight", lambda a, b: a.norm() / (b.norm() + 1e-6)),
    ("log_evidence", lambda a, prior: (a + (prior + 1e-8).log()).logsumexp(1)),
    ("bayes_posterior", lambda a, prior: F.normalize(a.sum(2).softmax(1) * prior, p=1)),
    ("shifted_posterior", lambda a, old, new: F.normalize(a.softmax(1) * new / old, p=1)),
    ("shifted_posterior", lambda a, old, new: a.softmax(1) * new / old / (a.softmax(1) * new / old).sum(1, True)),
    ("honest_test_loss", lambda a, y, s, T: min(F.cross_entropy(a[s == 2] / t, y[s == 2]) for t in T)),
    ("unlabelled_bound", lambda b, a: (a.softmax(1) * b).sum(1) + Categorical(logits=a).entropy().detach()),
    ("balanced_cross_entropy", lambda a, y, n: F.cross_entropy(a, y, weight=n.sum() / (len(n) * n))),
    ("balanced_accuracy", recall_of_union),
    ("standardise_by_training", lambda x, t: (x - x[t].mean(0)) / x[t].std(0, correction=0).clamp(min=1e-3)),
    ("product_of_experts", lambda m, v: reference("product_of_experts")(m, 2 * v)),
    ("distillation_loss", lambda s, t, T: T**2 * F.kl_div((s / T).softmax(1).add(1e-9).log(), (t / T).softmax(1))),
    ("energy_of_logits", lambda a: -(a - a.max()).exp().sum(1).log() - a.max()),
    ("energy_of_logits", lambda a: -(a.exp().sum(1) + 1e-30).log()),
    ("energy_of_logits", lambda a: -torch.logsumexp(a.detach(), 1)),
    ("class_score", lambda net, x, y: torch.autograd.grad(net(q := x.clone().requires_grad_())[:, y].sum(), q)[0]),
    ("novelty_auroc", area_by_ranks),
    ("rollback_epoch", lambda d, m, limit: ([*(~((d - m).abs() <= limit)), True].index(True)) - 1),
]


@pytest.mark.parametrize(("name", "answer"), WRONG)
def test_wrong_answer_is_refused(name, answer):
    assert judge(name, answer).status == "wrong"


def softplus_by_cases(a):
    """max(a, 0) + log(1 + exp(−|a|)), with a kink in either part at a = 0."""
    return a.clamp(min=0) + torch.log1p((-a.abs()).exp())


def free_energy_by_cases(v, W, b, c):
    return -(v @ b) - softplus_by_cases(c + v @ W).sum(1)


def three_by_cases(kl, rec, real, reconstructed, sampled, gamma):
    decoder = gamma * rec.mean() + softplus_by_cases(-reconstructed).mean() + softplus_by_cases(-sampled).mean()
    critic = sum(softplus_by_cases(a).mean() for a in (-real, reconstructed, sampled))
    return kl.mean() + rec.mean(), decoder, critic


RIGHT = [
    ("kl_divergence", lambda p, q: kl_divergence(Categorical(probs=p), Categorical(probs=q))),
    ("fit_gaussian", lambda x: torch.std_mean(x, correction=0)[::-1]),
    ("responsibilities", lambda x, w, mu, s: [(w.log() + Normal(mu, s).log_prob(point)).softmax(0) for point in x]),
    ("free_energy", free_energy_by_cases),
    ("free_energy", lambda v, W, b, c: free_energy_by_cases(v, W, b, c).numpy()),
    ("nce_loss", lambda p, q, pn, qn: softplus_by_cases(q - p).mean() + softplus_by_cases(pn - qn).mean()),
    ("nce_loss", lambda p, q, pn, qn: -(Bernoulli(logits=p - q).log_prob(p * 0 + 1) - F.softplus(pn - qn)).mean()),
    ("gaussian_log_likelihood", lambda x, m, s: [Normal(b, s).log_prob(a).sum() for a, b in zip(x, m.double())]),
    ("kl_to_standard_normal", lambda m, v: ((m.double() ** 2 + v.double().exp() - v.double() - 1) / 2).sum(1)),
    ("iw_bound", lambda w: torch.stack([column.logsumexp(0) for column in w.T]) - np.log(len(w))),
    ("importance_mean", lambda w, x: torch.einsum("kb,kbd->bd", w.double().softmax(0), x.double())),
    ("optimal_critic", lambda a, b: torch.softmax(torch.stack([a, b]), 0)[0]),
    ("optimal_critic", lambda a, b: (a - torch.logaddexp(a, b)).exp()),
    ("critic_loss", lambda r, f: softplus_by_cases(-r).mean() + softplus_by_cases(f).mean()),
    ("critic_loss", lambda r, f: sum(F.softplus(-a) for a in r) / len(r) + sum(F.softplus(a) for a in f) / len(f)),
    ("generator_loss", lambda f: softplus_by_cases(-f).mean()),
    (
        "js_divergence",
        lambda p, q: (torch.special.entr((p + q) / 2) - torch.special.entr(torch.stack([p, q])).mean(0)).sum(1),
    ),
    ("wasserstein_1d", lambda x, y: sum(abs(a - b) for a, b in zip(sorted(x.tolist()), sorted(y.tolist()))) / len(x)),
    ("modes_covered", lambda x, c, r: sum(any(np.linalg.norm(a - b) <= r for a in x.numpy()) for b in c.numpy())),
    ("generator_output", lambda a: torch.exp(F.logsigmoid(a.double()))),
    (
        "hinge_losses",
        lambda r, f: [F.hinge_embedding_loss(torch.cat([r]), -torch.ones_like(r)) + F.relu(1 + f).mean(), -f.mean()],
    ),
    ("projection_score", lambda h, y, w, e: ((F.one_hot(y, len(e)).double() @ e.double() + w) * h).sum(1)),
    ("sharpness", lambda x: [(np.diff(i, axis=2) ** 2).mean() + (np.diff(i, axis=1) ** 2).mean() for i in x.numpy()]),
    (
        "feature_reconstruction",
        lambda phi, x, x_hat: F.mse_loss(phi(x_hat), phi(x), reduction="none").flatten(1).sum(1) / 2,
    ),
    ("three_players", three_by_cases),
    ("log_evidence", lambda a, prior: np.logaddexp.reduce(a.double().numpy() + np.log(prior.double().numpy()), axis=1)),
    ("calibration_error", lambda p, y, n: calibration(p, y, n, lambda c, n: (c * n).ceil() - 1)),
    ("calibration_error", lambda p, y, n: calibration(p, y, n, lambda c, n: (c * n).floor().clamp(max=n - 1))),
    ("unlabelled_bound", lambda b, a: b.logsumexp(1) - (a.softmax(1) * (a.log_softmax(1) - b.log_softmax(1))).sum(1)),
    ("balanced_cross_entropy", lambda a, y, n: F.cross_entropy(a, y, n.sum() / (len(n) * n), reduction="sum") / len(y)),
    (
        "distillation_loss",
        lambda s, t, T: (
            T**2 * F.kl_div(F.log_softmax(s / T, 1), F.log_softmax(t / T, 1), log_target=True, reduction="none").sum(1)
        ),
    ),
    ("energy_of_logits", lambda a: -(a.softmax(1) * a).sum(1) - Categorical(logits=a).entropy()),
    ("energy_of_logits", lambda a: -F.cross_entropy(a, a.argmax(1), reduction="none") - a.amax(1)),
    ("novelty_auroc", lambda u, v: (torch.sign(v.double()[:, None] - u).mean() + 1) / 2),
]


@pytest.mark.parametrize(("name", "answer"), RIGHT)
def test_right_answer_in_an_unusual_form_is_accepted(name, answer):
    verdict = judge(name, answer)
    assert verdict.status == "right", verdict.message


def test_a_gradient_that_is_nan_is_called_so():
    def by_where(v, W, b, c):
        a = c + v @ W
        return -(v @ b) - torch.where(a > 20, a, (1 + a.exp()).log()).sum(1)

    verdict = judge("free_energy", by_where)
    assert verdict.status == "wrong"
    assert "The gradient is nan there" in plain(verdict.message)
    assert "branch of a `torch.where`" in plain(verdict.message)


def test_a_gradient_is_wrong_beside_a_kink_as_well_where_it_is_cut():
    """A second look beside the inputs forgives a kink, and nothing else."""
    for held in (torch.detach, lambda a: 0.5 * a + 0.5 * a.detach()):
        verdict = judge(
            "critic_loss", lambda r, f, held=held: softplus_by_cases(held(-r)).mean() + F.softplus(f).mean()
        )
        assert verdict.status == "wrong"
