"""The mathematics of notebook 10: learning from little data, each equation against enumeration or quadrature."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from broken_library import instead_of
from helpers import close
from torch import nn
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import cross_entropy, one_hot

from dgm_lib.datasets.imbalance import class_weights
from dgm_lib.distributions import NormalNoise, StandardNormal, diagonal_normal
from dgm_lib.measures import metrics
from dgm_lib.models.classify import distillation
from dgm_lib.models.joint_vae import product_of_normals
from dgm_lib.models.semi_supervised import M2
from dgm_lib.models.vae import VAE
from dgm_lib.nets import Labelled


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


# ---- labelled and unlabelled at once -------------------------------------------------------------------------------


def joint_log_prob(x, logits, mu, cov):
    """log p(x, c): (N, 2) -> (N, 2)."""
    return logits.log_softmax(0) + MultivariateNormal(mu, cov).log_prob(x[:, None])


def semi_supervised(x, y, logits, mu, cov):
    """Σ log p(x, y) over examples with a label + Σ log Σ_c p(x, c) over those without."""
    log_joint = joint_log_prob(x, logits, mu, cov)
    known = log_joint.gather(1, y.clamp(min=0)[:, None])[:, 0]
    return torch.where(y < 0, log_joint.logsumexp(1), known).sum()


def test_em_with_some_labels_climbs_to_a_point_where_the_gradient_is_zero(generator):
    """Responsibilities of labelled examples stay as they are; nothing else changes in EM of a mixture."""
    truth = torch.arange(200) % 2
    x = torch.randn(200, 2, generator=generator, dtype=torch.float64) + 2.0 * truth[:, None]
    y = torch.where(torch.arange(200) < 20, truth, -1)
    logits, mu, cov = torch.zeros(2).double(), x[:2].clone(), torch.eye(2).double().repeat(2, 1, 1)
    record = []
    for _ in range(300):
        record.append(semi_supervised(x, y, logits, mu, cov).item())
        r = torch.where((y < 0)[:, None], joint_log_prob(x, logits, mu, cov).softmax(1), one_hot(y.clamp(min=0), 2))
        n = r.sum(0)
        logits, mu = n.log(), r.T @ x / n[:, None]
        d = x[:, None] - mu
        cov = torch.einsum("nk,nki,nkj->kij", r, d, d) / n[:, None, None]
    assert min(b - a for a, b in pairwise(record)) > -1e-9
    parameters = [p.requires_grad_() for p in (logits, mu, cov)]
    for gradient in torch.autograd.grad(semi_supervised(x, y, *parameters), parameters):
        assert gradient.abs().max() < 1e-5
    assert record[-1] > record[0] + 10  # it went somewhere


def test_a_model_of_the_label_alone_learns_nothing_without_labels():
    """log Σ_c p(c|x) = 0 for any parameters, and so is its gradient."""
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    unlabelled = logits.log_softmax(1).logsumexp(1).sum()
    (gradient,) = torch.autograd.grad(unlabelled, logits)
    close(unlabelled.detach(), 0.0)
    close(gradient, torch.zeros(5, 3))


def test_the_best_guess_of_m2_is_bayes_rule():
    """Σ_c q_c (L_c − log q_c) ≤ log Σ_c exp L_c, with equality for q ∝ exp L."""
    torch.manual_seed(0)
    bounds = 3 * torch.randn(4, dtype=torch.float64)
    q = torch.softmax(torch.randn(1000, 4, dtype=torch.float64), 1)
    values = (q * (bounds - q.log())).sum(1)
    best = bounds.softmax(0)
    close((best * (bounds - best.log())).sum(), bounds.logsumexp(0))
    assert values.max() < bounds.logsumexp(0)


def test_the_bound_of_m2_by_quadrature():
    """Σ_y q(y|x) (L(x, y) − log q(y|x)) ≤ log Σ_y p(y) ∫ p(z) p(x|z, y) dz, every integral on a grid of one latent."""
    torch.manual_seed(0)
    encoder, decoder = (Labelled(nn.Linear(3, 2), 2), Labelled(nn.Linear(3, 1), 2))
    vae = VAE(encoder, decoder, StandardNormal(1), NormalNoise(0.7), n_classes=2).double()
    model = M2(vae, nn.Linear(1, 2).double(), torch.tensor([0.3, 0.7]).double())
    x = torch.tensor([[-1.0], [0.5], [2.0]]).double()
    z = torch.linspace(-10, 10, 8001, dtype=torch.float64)[:, None]
    log_cell = math.log(20 / 8000)
    exact, bounds = [], []
    with torch.no_grad():
        for c, share in enumerate((0.3, 0.7)):
            likelihood = vae.likelihood(z, torch.full((len(z),), c))
            log_joint = torch.stack([likelihood.log_prob(one.expand(len(z), 1)) for one in x])  # (3, grid)
            log_joint = log_joint + Normal(0.0, 1.0).log_prob(z[:, 0]) + math.log(share)
            q = vae.posterior(x, torch.full((3,), c))
            log_q = Normal(q.mean, q.stddev).log_prob(z.mT)  # (3, grid)
            exact.append(log_joint.logsumexp(1) + log_cell)
            bounds.append((log_q.exp() * (log_joint - log_q)).sum(1) * math.exp(log_cell))
        exact, bounds = torch.stack(exact).logsumexp(0), torch.stack(bounds, 1)
        log_q = model.classifier(x).log_softmax(1)
        bound = (log_q.exp() * (bounds - log_q)).sum(1)
        draws = model.elbo(x.repeat(20_000, 1)).view(20_000, 3)
    assert (bound < exact).all()
    assert ((draws.mean(0) - bound).abs() < 5 * draws.std(0) / 20_000**0.5).all()


# ---- rare classes, leaks, what samples can hold --------------------------------------------------------------------


def test_weights_make_the_loss_a_mean_over_classes(generator):
    """1/N Σ_i w_{y_i} ℓ_i = 1/K Σ_c (mean of ℓ over class c), with w_c = N / (K n_c)."""
    y = torch.tensor([0] * 7 + [1] * 2 + [2])
    logits = torch.randn(10, 3, generator=generator)
    loss = cross_entropy(logits, y, reduction="none")
    by_class = torch.stack([loss[y == c].mean() for c in range(3)])
    close((class_weights(y, 3)[y] * loss).mean(), by_class.mean())


def test_twins_across_the_split_name_labels_by_lot(generator):
    """Of 2N images, each there twice, with a share s in training, the twin of a test image is there: s·2N/(2N − 1)."""
    n, share, k = 2000, 0.75, 10
    source, lots = torch.arange(n).repeat(2), torch.randint(k, (n,), generator=generator)
    order = torch.randperm(2 * n, generator=generator)
    training, test = order[: int(share * 2 * n)], order[int(share * 2 * n) :]
    there = torch.isin(source[test], source[training])
    expected = share * 2 * n / (2 * n - 1)
    assert there.double().mean().item() == pytest.approx(expected, abs=0.04)
    guesses = torch.randint(k, (len(test),), generator=generator)
    right = torch.where(there, True, guesses == lots[source[test]]).double().mean().item()
    assert right == pytest.approx(expected + (1 - expected) / k, abs=0.04)


def mutual_information(joint):
    """Σ p log p / (p_a p_b) of a table, nats."""
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return (joint * (joint / independent).log()).sum()


def test_samples_hold_no_more_of_the_world_than_the_data(generator):
    """World → data → samples: I(world; samples) ≤ I(world; data), for any generator."""
    for _ in range(20):
        world = torch.rand(3, generator=generator, dtype=torch.float64)
        data = torch.rand(3, 4, generator=generator, dtype=torch.float64)
        made = torch.rand(4, 5, generator=generator, dtype=torch.float64) ** 4
        joint = (world / world.sum())[:, None] * data / data.sum(1, keepdim=True)
        through = joint @ (made / made.sum(1, keepdim=True))
        assert mutual_information(through) < mutual_information(joint)
    close(mutual_information(joint @ torch.eye(4).double()), mutual_information(joint))  # copies lose nothing


# ---- modalities, views, streams, students --------------------------------------------------------------------------


def test_a_product_of_experts_is_the_normalised_product_of_densities():
    """τ = 1 + Σ τ_i and μ = Σ τ_i μ_i / τ, against a product on a grid."""
    mu, tau = torch.tensor([1.5, -0.5]).double(), torch.tensor([4.0, 1.0]).double()
    z = torch.linspace(-10, 10, 100_001, dtype=torch.float64)
    log_p = Normal(0.0, 1.0).log_prob(z) + sum(Normal(m, t**-0.5).log_prob(z) for m, t in zip(mu, tau, strict=True))
    p = log_p.softmax(0)
    mean = (p * z).sum()
    variance = (p * (z - mean).square()).sum()
    close(mean, (tau * mu).sum() / (1 + tau.sum()), atol=1e-9, rtol=0)
    close(1 / variance, 1 + tau.sum(), atol=1e-6, rtol=0)
    experts = torch.cat([mu, torch.zeros(1)]).view(3, 1, 1), torch.cat([-tau.log(), torch.zeros(1)]).view(3, 1, 1)
    q = product_of_normals(*experts)
    close(q.mean.squeeze(), mean)
    close(q.variance.squeeze(), variance)


def expected_partner_loss(joint, score, n):
    """E of −log e^{s(a, b_1)} / Σ_j e^{s(a, b_j)}: (a, b_1) a pair, b_2 … b_n from p(b), all enumerated."""
    p_b, total = joint.sum(0), 0.0
    others = torch.cartesian_prod(*[torch.arange(joint.shape[1])] * (n - 1)).view(-1, n - 1)
    p_others = p_b[others].prod(1)
    for a in range(joint.shape[0]):
        for b in range(joint.shape[1]):
            all_scores = torch.cat([score[a, b].expand(len(others), 1), score[a][others]], 1)
            total = total + joint[a, b] * (p_others * (all_scores.logsumexp(1) - score[a, b])).sum()
    return total


def test_picking_the_partner_bounds_the_mutual_information(generator):
    """log N − E[ℓ] ≤ I(a; b); the loss is lowest at s = log p(b|a)/p(b), to which any function of a may be added."""
    joint = torch.rand(3, 3, generator=generator, dtype=torch.float64) ** 3
    joint = joint / joint.sum()
    ratio = (joint / (joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True))).log()
    information = mutual_information(joint)
    at_best = expected_partner_loss(joint, ratio, 4)
    assert math.log(4) - at_best < information
    assert math.log(2) - expected_partner_loss(joint, ratio, 2) < math.log(4) - at_best  # more candidates, tighter
    of_a = torch.randn(3, 1, generator=generator, dtype=torch.float64)
    close(expected_partner_loss(joint, ratio + of_a, 4), at_best)
    score = ratio.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_partner_loss(joint, score, 4), score)
    close(gradient, torch.zeros(3, 3), atol=1e-9, rtol=0)
    for _ in range(10):
        other = ratio + 0.5 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
        assert expected_partner_loss(joint, other, 4) > at_best


def test_asked_in_both_directions_only_a_constant_is_free(generator):
    joint = torch.rand(3, 3, generator=generator, dtype=torch.float64) ** 3
    joint = joint / joint.sum()
    ratio = (joint / (joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True))).log()

    def both_ways(score):
        return expected_partner_loss(joint, score, 3) + expected_partner_loss(joint.T, score.T, 3)

    at_best = both_ways(ratio)
    close(both_ways(ratio + 1.5), at_best)
    of_a = torch.randn(3, 1, generator=generator, dtype=torch.float64)
    assert both_ways(ratio + of_a) > at_best
    assert both_ways(ratio + of_a.T) > at_best


def test_a_score_of_unit_vectors_is_bounded(generator):
    """|f(a)ᵀ f(b) / T| ≤ 1/T, and both ends are reached."""
    f = torch.nn.functional.normalize(torch.randn(50, 4, generator=generator, dtype=torch.float64))
    scores = torch.cat([f, -f]) @ f.T / 0.2
    close(scores.max(), 5.0)
    close(scores.min(), -5.0)


def test_perfect_replay_weighs_all_tasks_alike():
    """p_t = 1/t new + (1 − 1/t) p_{t−1}: each of the first t tasks has 1/t."""
    weights = torch.zeros(6, dtype=torch.float64)
    for t in range(1, 7):
        weights = (1 - 1 / t) * weights + one_hot(torch.tensor(t - 1), 6) / t
        close(weights[:t], torch.full((t,), 1 / t))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_of_distillation(temperature):
    """∂/∂b_k T² KL = T (q_k − p_k)."""
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 5, 4, dtype=torch.float64)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(student, teacher, temperature).sum(), student)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    close(gradient, temperature * (q - p).detach())


def test_hot_distillation_compares_centred_logits():
    """T → ∞: the gradient becomes the difference of the centred logits over K."""
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 5, 4, dtype=torch.float64)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(student, teacher, 1e4).sum(), student)
    centred = [a - a.mean(1, keepdim=True) for a in (student.detach(), teacher)]
    close(gradient, (centred[0] - centred[1]) / 4, atol=1e-3, rtol=0)


# ---- breaks of the library that the notebook must notice -----------------------------------------------------------


@instead_of(metrics.balanced_accuracy, turns="balanced accuracy 0.500")
def balanced_accuracy_is_plain(balanced, predicted, y, n_classes):
    return (predicted == y).double().mean().item()


@instead_of(product_of_normals, turns="both say more than each: True", batches=5)
def variances_add_up(product, mu, log_var):
    """Where precisions do: each expert would make the answer less sure."""
    return diagonal_normal(product(mu, log_var).mean, log_var.logsumexp(0))
