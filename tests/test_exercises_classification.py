"""Exercises of notebooks 09 and 11: what is right is accepted however it is written, and each mistake is named."""

import math
import re
from functools import reduce
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, MultivariateNormal, Normal

from dgm_exercises import find, generative_classifiers, judge
from dgm_exercises import your_classifier_is_an_energy_model as joint_energy
from dgm_lib.measures import calibration, novelty
from dgm_lib.models.classify import ClassGaussians, change_prior

ALL = generative_classifiers.EXERCISES + joint_energy.EXERCISES


def plain(message: str) -> str:
    return " ".join(message.split())


def reference(name):
    return find(name).reference


# ---- right answers -------------------------------------------------------------------------------------------------


def posterior_in_numpy(log_p, prior):
    with np.errstate(divide="ignore"):
        joint = log_p.double().numpy().sum(axis=2) + np.log(prior.double().numpy())
    weights = np.exp(joint - joint.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def posterior_in_loops(log_p, prior):
    rows = []
    for table in log_p:
        joint = [sum(pixels) + math.log(p) if p > 0 else -math.inf for pixels, p in zip(table.tolist(), prior.tolist())]
        rows.append(
            [1 / sum(math.exp(min(other - own, 700)) for other in joint) if own > -math.inf else 0 for own in joint]
        )
    return torch.tensor(rows)


def evidence_by_the_likeliest_class(log_likelihood, prior):
    posterior = reference("bayes_posterior")(log_likelihood[..., None].double(), prior.double())
    largest, label = posterior.max(1)
    return log_likelihood[range(len(label)), label] + prior[label].log() - largest.log()


def evidence_with_its_maximum(joint):
    largest = joint.max(1).values
    return largest + torch.log(torch.exp(joint - largest[:, None]).sum(1))


def shifted_by_bayes(logits, old, new):
    return reference("bayes_posterior")((logits - old.log())[..., None], new)


def calibration_in_loops(probs, y, bins):
    confidence, label = probs.max(1)
    total = 0.0
    for low in range(bins):
        inside = (confidence > low / bins) & (confidence <= (low + 1) / bins)
        if inside.any():
            accuracy = (label[inside] == y[inside]).double().mean()
            total += inside.sum() / len(y) * (accuracy - confidence[inside].mean()).abs()
    return total


def calibration_by_histograms(probs, y, bins):
    confidence, right = probs.amax(1).numpy(), (probs.argmax(1) == y).numpy()
    edges = np.linspace(0, 1, bins + 1)
    sums = [np.histogram(confidence, edges, weights=weights.astype(float))[0] for weights in (right, confidence)]
    return np.abs(sums[0] - sums[1]).sum() / len(y)


def calibration_by_bucketize(probs, y, bins):
    confidence, label = probs.double().max(1)
    place = torch.bucketize(confidence, torch.linspace(0, 1, bins + 1)[1:-1].double())
    member = F.one_hot(place, bins).double()
    count = member.sum(0).clamp(min=1)
    gap = (member.T @ (label == y).double()) / count - (member.T @ confidence) / count
    return (gap.abs() * count / len(y)).sum()


def calibration_by_sorting(probs, y, bins):
    """Runs of equal intervals among the sorted confidences."""
    confidence, order = probs.amax(1).sort()
    right = (probs.argmax(1) == y)[order].double()
    _, counts = (confidence * bins).ceil().unique_consecutive(return_counts=True)
    parts = zip(right.split(counts.tolist()), confidence.split(counts.tolist()))
    return sum(abs(r.sum() - c.double().sum()) for r, c in parts) / len(y)


def known_by_distributions(x, known, mu, cov):
    return [
        MultivariateNormal(mu[seen], cov[seen][:, seen]).log_prob(row[seen]) if seen.any() else torch.zeros(())
        for row, seen in zip(x, known)
    ]


def known_in_one_batch(x, known, mu, cov):
    both = known[:, :, None] & known[:, None]
    cov = torch.where(both, cov, torch.eye(len(mu)))  # a missing pixel: independent, of variance 1, at distance 0
    z = torch.where(known, x - mu, 0.0)
    root = torch.linalg.cholesky(cov)
    white = torch.linalg.solve_triangular(root, z[..., None], upper=False).squeeze(-1)
    log_det = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
    return -0.5 * (white.square().sum(1) + log_det + known.sum(1) * math.log(2 * math.pi))


def known_by_scipy(x, known, mu, cov):
    from scipy.stats import multivariate_normal

    x, known, mu, cov = (value.numpy() for value in (x, known, mu, cov))
    return [
        multivariate_normal.logpdf(row[seen], mu[seen], cov[np.ix_(seen, seen)]) if seen.any() else 0.0
        for row, seen in zip(x, known)
    ]


def known_by_schur_complement(x, known, mu, cov):
    precision, values = cov.double().inverse(), []
    for row, seen in zip(x.double(), known):
        a, b, c = precision[seen][:, seen], precision[seen][:, ~seen], precision[~seen][:, ~seen]
        marginal, z = a - b @ torch.linalg.solve(c, b.T), row[seen] - mu[seen]
        values.append(0.5 * (torch.logdet(marginal) - z @ marginal @ z - len(z) * math.log(2 * math.pi)))
    return values


def known_by_eigenvalues(x, known, mu, cov):
    values = []
    for row, seen in zip(x.double(), known):
        scale, axes = torch.linalg.eigh(cov.double()[seen][:, seen])
        z = axes.T @ (row - mu)[seen]
        values.append(Normal(torch.zeros_like(z), scale.sqrt()).log_prob(z).sum())
    return values


def known_pixel_by_pixel(x, known, mu, cov):
    """The chain rule: each known pixel given the known ones before it."""
    values = []
    for row, seen in zip(x.double(), known):
        z, s, total = (row - mu.double())[seen], cov.double()[seen][:, seen], torch.zeros((), dtype=torch.float64)
        for i in range(len(z)):
            gain = torch.linalg.solve(s[:i, :i], s[:i, i])
            total += Normal(gain @ z[:i], (s[i, i] - gain @ s[:i, i]).sqrt()).log_prob(z[i])
        values.append(total)
    return values


def honest_in_loops(logits, y, split, temperatures):
    def loss(which, T):
        rows = [(row / T, label) for row, label, part in zip(logits.double(), y, split) if part == which]
        return sum((row.logsumexp(0) - row[label]).item() for row, label in rows) / len(rows)

    return loss(2, min(temperatures.tolist(), key=lambda T: loss(1, T)))


def honest_in_one_table(logits, y, split, temperatures, *, log=lambda log_p: log_p):
    table = log(Categorical(logits=logits / temperatures[:, None, None]).log_prob(y))  # (M, N)
    return -table[table[:, split == 1].mean(1).argmax()][split == 2].mean()


def range_over_all_corners(lower, upper, prior):
    """The posterior wherever each class is at one of its ends; 1e4 nats stand for infinity."""
    lower, upper = lower.double(), upper.double().clamp(max=1e4)
    corners = torch.tensor(list(product([False, True], repeat=len(prior))))[:, None]
    posteriors = (torch.where(corners, upper, lower) + prior.double().log()).softmax(2)
    return posteriors.amin(0), posteriors.amax(0)


def range_in_loops(lower, upper, prior):
    lowest, highest = torch.zeros_like(lower), torch.zeros_like(lower)
    for c in range(len(prior)):
        for end, mine, others in ((lowest, lower, upper), (highest, upper, lower)):
            joint = others.clone()
            joint[:, c] = mine[:, c]
            end[:, c] = (joint.clamp(max=5e3) + prior.log()).softmax(1)[:, c]
    return lowest, highest


def odds_against(lower, upper, prior):
    """exp(rest − own), for the lowest and for the highest; at most 1e300."""
    low, high = (a.double() + prior.double().log() for a in (lower, upper))
    rest = lambda a, c: a[:, [k for k in range(len(prior)) if k != c]].logsumexp(1)  # noqa: E731
    for own, others in ((low, high), (high, low)):
        yield torch.stack([(rest(others, c) - own[:, c]).clamp(max=690).exp() for c in range(len(prior))], 1)


def range_by_logsigmoid(lower, upper, prior):
    return torch.stack([F.logsigmoid(-odds.log()).exp() for odds in odds_against(lower, upper, prior)])


def joint_loss_by_log_p(net, x, y, x_model):
    """−log p(x, y) at once: −f(x)[y], and log Z by the chains."""
    return net(x_model.detach()).logsumexp(1).mean() - net(x)[range(len(y)), y].mean()


def joint_loss_in_two_passes(net, x, y, x_model):
    def energy(x):
        return -torch.logsumexp(net(x), dim=1)

    return F.nll_loss(net(x).log_softmax(1), y) + (energy(x).mean() - energy(x_model.data).mean())


def class_score_by_backward(net, x, y):
    x = x.clone().requires_grad_()
    net(x)[torch.arange(len(y)), y].sum().backward()
    return x.grad


def class_score_by_bayes(net, x, y):
    """∇ log p(x|y) = ∇ log p(y|x) + ∇ log p(x)."""
    x = x.detach().clone().requires_grad_()
    logits = net(x)
    total = logits.log_softmax(1)[range(len(y)), y].sum() + logits.logsumexp(1).sum()
    return torch.autograd.grad(total, x)[0]


def class_score_in_a_loop(net, x, y):
    scores = []
    for image, label in zip(x, y):
        image = image[None].clone().requires_grad_()
        scores.append(torch.autograd.grad(net(image)[0, label], image)[0][0])
    return scores


def pgd_by_difference(net, x_adv, x, y, radius, step_size):
    x_adv = x_adv.clone().requires_grad_()
    F.cross_entropy(net(x_adv), y, reduction="sum").backward()
    way = (x_adv.detach() + step_size * x_adv.grad.sign() - x).clamp(-radius, radius)
    return (x + way).clamp(0, 1)


def pgd_by_walls(net, x_adv, x, y, radius, step_size):
    x_adv = x_adv.detach().requires_grad_()
    loss = -net(x_adv).log_softmax(1)[range(len(y)), y].mean()
    moved = x_adv + step_size * torch.sign(torch.autograd.grad(loss, x_adv)[0])
    return torch.maximum(torch.minimum(moved, (x + radius).clamp(max=1)), (x - radius).clamp(min=0)).detach()


def auroc_by_ranks(usual, unusual):
    from scipy.stats import mannwhitneyu

    return mannwhitneyu(unusual.numpy(), usual.numpy()).statistic / (len(usual) * len(unusual))


def auroc_by_sklearn(usual, unusual):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(np.r_[np.zeros(len(usual)), np.ones(len(unusual))], torch.cat([usual, unusual]).numpy())


def auroc_in_loops(usual, unusual):
    count = sum((b > a) + (a == b) / 2 for a in usual.tolist() for b in unusual.tolist())
    return count / len(usual) / len(unusual)


def rollback_in_a_loop(energy_data, energy_model, limit):
    for epoch, (a, b) in enumerate(zip(energy_data.tolist(), energy_model.tolist())):
        if not (math.isfinite(a) and math.isfinite(b)) or abs(a - b) > limit:
            return epoch - 1
    return len(energy_data) - 1


def not_sound(gap, limit):
    return bool(gap.isnan() | gap.isinf() | (gap > limit) | (gap < -limit))


def rollback_in_numpy(energy_data, energy_model, limit):
    gap = energy_data.numpy() - energy_model.numpy()
    broken = ~np.isfinite(gap) | (np.abs(gap) > limit)
    return np.append(broken, True).argmax() - 1


ALTERNATIVES = {
    "bayes_posterior": [
        posterior_in_numpy,
        posterior_in_loops,
        lambda log_p, prior: Categorical(logits=log_p.sum(-1) + torch.log(prior)).probs,
        lambda log_p, prior: torch.stack([(pixels.sum(1) + prior.log()).softmax(0) for pixels in log_p]),
        lambda log_p, prior: [Categorical(logits=row).probs for row in (log_p.sum(2) + prior.log()).unbind()],
        lambda log_p, prior: (log_p.sum(2) + prior.log()).log_softmax(-1).exp(),
        lambda log_p, prior: F.softmax(torch.einsum("bkd->bk", log_p.double()) + prior.log(), dim=1),
        lambda log_p, prior: (log_p + prior.log()[:, None] / log_p.shape[2]).sum(2).softmax(1),
    ],
    "log_evidence": [
        evidence_by_the_likeliest_class,
        lambda log_p, prior: np.logaddexp.reduce(log_p.double().numpy() + np.log(prior.numpy()), axis=1),
        lambda log_p, prior: evidence_with_its_maximum(log_p.double() + prior.double().log()),
        lambda log_p, prior: reduce(torch.logaddexp, (log_p + prior.log()).unbind(1)),
        lambda log_p, prior: torch.logsumexp(log_p.double() + prior.double().log(), dim=-1),
        lambda log_p, prior: [torch.logsumexp(row + prior.log(), 0) for row in log_p],
    ],
    "shifted_posterior": [
        shifted_by_bayes,
        lambda logits, old, new: F.normalize(logits.double().softmax(1) * new / old, p=1, dim=1, eps=0),
        lambda logits, old, new: (logits.log_softmax(1) + (new / old).log()).softmax(1),
        lambda logits, old, new: (p := logits.double().softmax(1) * (new / old)) / p.sum(1)[:, None],
        lambda logits, old, new: Categorical(logits=logits - torch.log(old / new)).probs.numpy(),
        lambda logits, old, new: ((a := logits + (new / old).log()) - a.logsumexp(1, keepdim=True)).exp(),
        lambda logits, old, new: [F.softmax(row + torch.log(new) - torch.log(old), 0) for row in logits],
    ],
    "calibration_error": [
        calibration_in_loops,
        calibration_by_histograms,
        calibration_by_bucketize,
        lambda probs, y, bins: calibration.expected_calibration_error(probs.log(), y, bins),
        calibration_by_sorting,
        lambda probs, y, bins: (
            np.abs(
                np.bincount(
                    np.ceil(probs.amax(1).double().numpy() * bins).astype(int),
                    (probs.argmax(1) == y).double().numpy() - probs.amax(1).double().numpy(),
                )
            ).sum()
            / len(y)
        ),
    ],
    "known_log_likelihood": [
        known_by_distributions,
        known_in_one_batch,
        known_by_scipy,
        known_by_schur_complement,
        known_by_eigenvalues,
        known_pixel_by_pixel,
    ],
    "honest_test_loss": [
        honest_in_loops,
        honest_in_one_table,
        lambda a, y, split, T: loss_at(T[int(np.argmin([loss_at(t, split == 1, a, y) for t in T]))], split == 2, a, y),
        lambda a, y, split, T: min((loss_at(t, split == 1, a, y), loss_at(t, split == 2, a, y)) for t in T)[1],
    ],
    "energy_of_logits": [
        lambda logits: -torch.logsumexp(logits.double(), -1),
        lambda logits: -(logits - logits.amax(1, keepdim=True)).exp().sum(1).log() - logits.amax(1),
        lambda logits: logits.log_softmax(1)[:, 0] - logits[:, 0],
        lambda logits: [-torch.logsumexp(row, 0) for row in logits],
        lambda logits: -reduce(torch.logaddexp, logits.unbind(1)),
        lambda logits: F.cross_entropy(logits, logits.argmax(1), reduction="none").neg() - logits.amax(1),
    ],
    "joint_loss": [
        joint_loss_by_log_p,
        joint_loss_in_two_passes,
        lambda net, x, y, m: jem(net, x, y, m, held=lambda m: m.data.clone()),
        lambda net, x, y, m: (
            -Categorical(logits=net(x)).log_prob(y).mean()
            - torch.logsumexp(net(x), -1).sum() / len(x)
            + torch.logsumexp(net(m.detach()), -1).sum() / len(m)
        ),
    ],
    "class_score": [
        class_score_by_backward,
        class_score_by_bayes,
        class_score_in_a_loop,
        lambda net, x, y: gradient_at(net, x, y, lambda a, y: (a * F.one_hot(y, a.shape[1])).sum()),
        lambda net, x, y: gradient_at(net, x, y, lambda a, y: len(y) * a[torch.arange(len(y)), y].mean()),
    ],
    "pgd_step": [
        pgd_by_difference,
        pgd_by_walls,
        lambda *a: pgd(*a),
        lambda *a: pgd(*a, loss=lambda a, y: (a.logsumexp(1) - a[range(len(y)), y]).sum()),
    ],
    "novelty_auroc": [
        auroc_by_ranks,
        auroc_by_sklearn,
        auroc_in_loops,
        novelty.auroc,
        lambda usual, unusual: ((unusual[:, None] - usual).sign().mean() + 1) / 2,
        lambda usual, unusual: torch.stack([((e > usual).double() + (e >= usual)).mean() / 2 for e in unusual]).mean(),
    ],
    "rollback_epoch": [
        rollback_in_a_loop,
        rollback_in_numpy,
        lambda a, b, limit: int(((a - b).abs().le(limit) & a.isfinite() & b.isfinite()).long().cumprod(0).sum()) - 1,
        lambda a, b, limit: min([t for t in range(len(a)) if not_sound(a[t] - b[t], limit)], default=len(a)) - 1,
    ],
    "posterior_range": [
        range_over_all_corners,
        range_in_loops,
        lambda *a: torch.stack(range_in_loops(*a)),
        range_by_logsigmoid,
        lambda low, high, prior: [1 / (1 + odds) for odds in odds_against(low, high, prior)],
    ],
}


def test_every_exercise_has_another_right_answer():
    assert set(ALTERNATIVES) == {exercise.name for exercise in ALL}


@pytest.mark.parametrize(("name", "answer"), [(name, a) for name, answers in ALTERNATIVES.items() for a in answers])
def test_alternative_is_right(name, answer):
    verdict = judge(name, answer)
    assert verdict.status == "right", verdict.message


# ---- what is promised of each reference, where it can be computed --------------------------------------------------


def tiny_model(seed, k=3):
    """Three binary pixels: log p(x_d|c) of all eight images, (8, K, 3), and two priors."""
    generator = torch.Generator().manual_seed(seed)
    on = 0.05 + 0.9 * torch.rand(k, 3, generator=generator, dtype=torch.float64)
    every_x = torch.tensor(list(product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    log_p = torch.where(every_x[:, None] == 1, on, 1 - on).log()
    return log_p, *(torch.rand(2, k, generator=generator, dtype=torch.float64) + 0.05).softmax(1)


@pytest.mark.parametrize("seed", range(3))
def test_bayes_rule_is_that_of_the_enumerated_table(seed):
    log_p, old, new = tiny_model(seed)
    joint, elsewhere = (log_p.exp().prod(2) * prior for prior in (old, new))
    assert joint.sum() == pytest.approx(1)
    posterior = reference("bayes_posterior")(log_p, old)
    torch.testing.assert_close(posterior, joint / joint.sum(1, keepdim=True), atol=1e-12, rtol=0)
    evidence = reference("log_evidence")(log_p.sum(2), old)
    torch.testing.assert_close(evidence.exp(), joint.sum(1), atol=1e-12, rtol=0)
    shifted = reference("shifted_posterior")(posterior.log(), old, new)
    torch.testing.assert_close(shifted, elsewhere / elsewhere.sum(1, keepdim=True), atol=1e-12, rtol=0)
    torch.testing.assert_close(shifted, change_prior(posterior.log(), old, new).softmax(1))


def test_calibration_error_by_hand_and_no_confidence_lies_on_an_edge():
    error = reference("calibration_error")
    probs = torch.tensor([[0.8, 0.2]]).repeat(10, 1)
    y = torch.tensor([0] * 8 + [1] * 2)
    assert error(probs, y, 15) == pytest.approx(0, abs=1e-6)
    assert error(probs, 1 - y, 15) == pytest.approx(0.6)
    two = torch.cat([probs, torch.tensor([[0.1, 0.9]]).repeat(30, 1)])  # right by 0.2 − 0.8 and 1 − 0.9
    assert error(two, torch.cat([1 - y, torch.ones(30).long()]), 15) == pytest.approx((10 * 0.6 + 30 * 0.1) / 40)
    for probs, _, bins in find("calibration_error").draw_inputs():
        place = probs.amax(1).double() * bins
        inner = place.round().clamp(1, bins - 1) if bins > 1 else torch.zeros(())
        assert (place - inner).abs().min() > 1e-4
        assert probs.topk(2, 1).values.diff(dim=1).abs().min() > 1e-4


def test_missing_pixels_are_integrated_out():
    mu, cov = torch.tensor([0.3, -0.2]), torch.tensor([[1.0, 0.7], [0.7, 0.8]])
    grid = torch.linspace(-12, 12, 4801)
    x = torch.stack([torch.full_like(grid, 0.9), grid], 1)
    value = reference("known_log_likelihood")
    both = value(x, torch.ones_like(x).bool(), mu, cov)
    integral = torch.trapezoid(both.exp(), grid).log()
    one = value(x[:1], torch.tensor([[True, False]]), mu, cov)
    torch.testing.assert_close(one[0], integral, atol=1e-4, rtol=0)
    torch.testing.assert_close(one[0], Normal(0.3, 1.0).log_prob(torch.tensor(0.9)))


def test_known_log_likelihood_is_that_of_the_library():
    for x, known, mu, cov in find("known_log_likelihood").draw_inputs():
        gaussians = ClassGaussians(mu[None], cov[None])
        expected = gaussians.log_likelihood(x, torch.zeros(len(x)).long(), known)
        torch.testing.assert_close(reference("known_log_likelihood")(x, known, mu, cov), expected, atol=1e-3, rtol=1e-4)


def loss_at(T, inside, logits, y):
    return F.cross_entropy(logits[inside] / T, y[inside]).item()


def test_the_honest_figure_is_never_below_the_best_and_no_choice_is_a_tie():
    for logits, y, split, temperatures in find("honest_test_loss").draw_inputs():
        honest = reference("honest_test_loss")(logits, y, split, temperatures)
        assert honest >= min(loss_at(T, split == 2, logits, y) for T in temperatures) - 1e-6
        best, second = sorted(loss_at(T, split == 1, logits, y) for T in temperatures)[:2]
        assert second - best > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_every_posterior_within_the_bounds_lies_in_the_range_and_its_ends_are_reached(seed):
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    upper = lower + torch.rand(4, 3, generator=generator, dtype=torch.float64)
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    lowest, highest = reference("posterior_range")(lower, upper, prior)
    inside = lower + torch.rand(5000, 4, 3, generator=generator, dtype=torch.float64) * (upper - lower)
    posteriors = (inside + prior.log()).softmax(2)
    assert (posteriors >= lowest).all()
    assert (posteriors <= highest).all()
    assert (posteriors.amin(0) - lowest).max() < 0.05
    assert (highest - posteriors.amax(0)).max() < 0.05


def small_joint_model(seed):
    """A network on all four images of two binary pixels: net, every x, log p(x, y)."""
    generator = torch.Generator().manual_seed(seed)
    net = joint_energy.network(generator, 3, 1, 1, 2, scale=1.5)
    every_x = torch.tensor(list(product([0.0, 1.0], repeat=2))).view(4, 1, 1, 2)
    logits = net(every_x).as_subclass(torch.Tensor)
    return net, every_x, logits - logits.logsumexp((0, 1))


def test_energy_of_logits_is_that_of_the_enumerated_model():
    net, every_x, log_joint = small_joint_model(0)
    energy = reference("energy_of_logits")(net(every_x)).as_subclass(torch.Tensor)
    torch.testing.assert_close((-energy).softmax(0), log_joint.exp().sum(1))


@pytest.mark.parametrize("seed", range(3))
def test_joint_loss_with_the_models_own_chains_has_the_gradient_of_the_likelihood(seed):
    net, every_x, log_joint = small_joint_model(seed)
    x, y = every_x[[0, 1, 3, 3, 2]], torch.tensor([0, 2, 1, 1, 0])

    def likelihood(net, x, y):
        all_logits = net(every_x)
        return all_logits.logsumexp((0, 1)) - net(x)[range(len(y)), y].mean()

    p = log_joint.exp().sum(1)
    drawn = every_x[torch.multinomial(p, 200_000, replacement=True, generator=torch.Generator().manual_seed(seed))]
    gradients = []
    for value in (lambda net: likelihood(net, x, y), lambda net: reference("joint_loss")(net, x, y, drawn)):
        weight = net.detach().clone().requires_grad_()
        gradients.append(torch.autograd.grad(value(weight), weight)[0].as_subclass(torch.Tensor))
    torch.testing.assert_close(*gradients, atol=0.02, rtol=0)


def test_scores_of_the_classes_average_to_that_of_x():
    """∇ log p(x) = Σ_y p(y|x) ∇ log p(x|y), as p(y) does not depend on x."""
    net, x, _ = find("class_score").draw_inputs()[2]
    scores = [reference("class_score")(net, x, torch.full((len(x),), c)) for c in range(len(net))]
    weights = net(x).softmax(1).T[..., None, None, None]
    together = (weights * torch.stack(scores)).sum(0).as_subclass(torch.Tensor)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(-reference("energy_of_logits")(net(leaf)).sum(), leaf)
    torch.testing.assert_close(together, expected.as_subclass(torch.Tensor))


def test_attack_stays_where_it_may_and_no_sign_is_decided_by_rounding():
    for net, x_adv, x, y, radius, step_size in find("pgd_step").draw_inputs():
        assert (x_adv - x).abs().max() <= radius + 1e-6
        moved = reference("pgd_step")(net, x_adv, x, y, radius, step_size)
        assert (moved - x).abs().max() <= radius + 1e-6
        assert moved.min() >= 0
        assert moved.max() <= 1
        for start in (x, x_adv):
            slope = joint_energy.slope(net, start, y).abs()
            assert slope[slope > 0].min() > 1e-5
        small = reference("pgd_step")(net, x_adv, x_adv, y, 1e-3, 1e-3)
        assert F.cross_entropy(net(small), y) >= F.cross_entropy(net(x_adv), y)


@pytest.mark.parametrize("lead", [20.0, 200.0, 3000.0])
def test_a_class_that_never_occurs_takes_nothing_however_well_it_fits(lead):
    log_likelihood = torch.tensor([[-3.0, -2.0 + lead, -4.0], [1.0, lead, 0.0]])
    prior = torch.tensor([0.25, 0.0, 0.75])
    possible = [0, 2]
    posterior = reference("bayes_posterior")(log_likelihood[..., None], prior)
    torch.testing.assert_close(posterior[:, 1], torch.zeros(2))
    expected = reference("bayes_posterior")(log_likelihood[:, possible, None], prior[possible])
    torch.testing.assert_close(posterior[:, possible], expected)
    torch.testing.assert_close(reference("shifted_posterior")(log_likelihood, torch.ones(3) / 3, prior), posterior)
    evidence = reference("log_evidence")(log_likelihood, prior)
    torch.testing.assert_close(evidence, reference("log_evidence")(log_likelihood[:, possible], prior[possible]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [1, 2, 5, 10, 15])
def test_an_upper_edge_belongs_to_its_interval_and_a_confidence_of_one_to_the_last(bins, dtype):
    edges = torch.linspace(0, 1, bins + 1, dtype=dtype)[1:]
    edges = edges[edges > 0.5]
    above = torch.nextafter(edges[-1], edges.new_tensor(2.0))  # what rounding makes of 1
    for confidence in (*edges, above):
        inside = confidence - 0.4 / bins  # in the same interval, if it is the upper edge that belongs to it
        probs = torch.stack([confidence, inside])
        probs = torch.stack([probs, 1 - probs], 1)
        if (probs.amax(1) != probs[:, 0]).any():
            continue
        error = reference("calibration_error")(probs, torch.tensor([0, 1]), bins)
        torch.testing.assert_close(error, (probs[:, 0].mean() - 0.5).abs())  # one is right, of two


def test_energies_that_are_both_infinite_are_a_tie():
    usual, unusual = torch.tensor([1.0, math.inf]), torch.tensor([math.inf, 0.0])
    assert reference("novelty_auroc")(usual, unusual) == pytest.approx((1 + 0.5 + 0 + 0) / 4)


@pytest.mark.parametrize("limit", [0.5, 10.0, math.inf])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["data", "model", "both"])
def test_an_energy_that_is_not_finite_breaks_an_epoch_whatever_the_limit(limit, bad, which):
    data, model = torch.zeros(5), torch.zeros(5)
    data[3] = bad if which != "model" else 0.0
    model[3] = bad if which != "data" else 0.0
    assert reference("rollback_epoch")(data, model, limit) == 2
    assert reference("rollback_epoch")(data[:3], model[:3], limit) == 2


def test_references_are_right_where_the_default_dtype_is_double():
    torch.set_default_dtype(torch.float64)
    try:
        for exercise in ALL:
            verdict = judge(exercise.name, exercise.reference)
            assert verdict.status == "right", verdict.message
    finally:
        torch.set_default_dtype(torch.float32)


# ---- mistakes as a learner would write them, none taken from the lists of the exercises ----------------------------


def naive_bayes_by_exp(log_p, prior):
    joint = torch.exp(log_p).prod(dim=2) * prior
    return joint / joint.sum(dim=1, keepdim=True)


def by_exp_less(joint, level):
    weights = torch.exp(joint - level)
    return weights / weights.sum(1, keepdim=True)


def calibration_with_empty_intervals(probs, y, bins):
    confidence, label = probs.max(1)
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        gap = (label == y)[inside].float().mean() - confidence[inside].mean()
        total += inside.float().mean() * gap.abs()
    return total


def known_or_impossible(x, known, mu, cov):
    values = known_by_distributions(x, known, mu, cov)
    return [value if seen.any() else torch.tensor(-math.inf) for value, seen in zip(values, known)]


def range_by_softmax(lower, upper, prior):
    ends = []
    for own, others in ((lower, upper), (upper, lower)):
        corners = [others.index_copy(1, torch.tensor([c]), own[:, [c]]) for c in range(len(prior))]
        ends.append(torch.stack([(corner + prior.log()).softmax(1)[:, c] for c, corner in enumerate(corners)], 1))
    return ends


def calibration_with(probs, y, bins, *, confidence=None, weigh=lambda n, total: n / total, distance=abs):
    confidence = probs.max(1).values if confidence is None else confidence
    total = 0.0
    for low in torch.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins + 1e-7)
        if inside.any():
            accuracy = (probs.argmax(1) == y)[inside].float().mean()
            total += weigh(int(inside.sum()), len(y)) * distance(accuracy - confidence[inside].mean())
    return total


def calibration_of_all_pairs(probs, y, bins):
    confidence, right = probs.amax(1), probs.argmax(1, keepdim=True) == y  # (N, N)
    places = (confidence * bins).ceil()
    rows = [
        (right.float().mean() - confidence[places == b].mean()).abs() * (places == b).sum() for b in places.unique()
    ]
    return sum(rows) / len(y)


def known_by_the_determinant(x, known, mu, cov):
    values = []
    for row, k in zip(x, known):
        z, s = (row - mu)[k], cov[k][:, k]
        values.append(-(z @ torch.linalg.inv(s) @ z + torch.log(torch.linalg.det(2 * math.pi * s))) / 2)
    return values


def prior_after_the_softmax(log_p, prior):
    weights = log_p.sum(2).softmax(1) * prior
    return weights / weights.sum(1, keepdim=True)


def range_by_exp(lower, upper, prior):
    low, high = lower.exp() * prior, upper.exp() * prior
    return low / (low + high.sum(1, keepdim=True) - high), high / (high + low.sum(1, keepdim=True) - low)


def margin_of(logits, y):
    others = logits.scatter(1, y[:, None], -math.inf)
    return logits.gather(1, y[:, None]).squeeze(1) - others.max(1).values


def known_as_whole_images(x, known, mu, cov, *, fill):
    return MultivariateNormal(mu, cov).log_prob(torch.where(known, x, fill(mu)))


def known_by_the_precision(x, known, mu, cov):
    precision = torch.linalg.inv(cov)
    return [
        MultivariateNormal(mu[k], precision_matrix=precision[k][:, k]).log_prob(row[k]) if k.any() else torch.zeros(())
        for row, k in zip(x, known)
    ]


def best_loss(logits, y, split, temperatures, *, on, reported=2):
    chosen = min(temperatures, key=lambda T: F.cross_entropy(logits[split == on] / T, y[split == on]))
    return F.cross_entropy(logits[split == reported] / chosen, y[split == reported])


def gradient_at(net, x, y, loss):
    x = x.detach().clone().requires_grad_()
    loss(net(x), y).backward()
    return x.grad


def pgd(net, x_adv, x, y, radius, step_size, *, centre=None, sign=1.0, unit=torch.sign, loss=F.cross_entropy):
    gradient = gradient_at(net, x_adv, y, loss)
    centre = x if centre is None else centre(x_adv)
    moved = x_adv + sign * step_size * unit(gradient)
    return torch.max(torch.min(moved, centre + radius), centre - radius).clamp(0, 1)


def free(logits):
    return -logits.logsumexp(1)


def jem(net, x, y, x_model, *, held=torch.detach, sign=1.0, energy=free, label=F.cross_entropy):
    contrast = energy(net(x)).mean() - energy(net(held(x_model))).mean()
    return label(net(x), y) + sign * contrast


def rolled_back(energy_data, energy_model, limit, *, broken):
    gaps = [(a - b) for a, b in zip(energy_data.tolist(), energy_model.tolist())]
    return next((i - 1 for i, gap in enumerate(gaps) if broken(gap, limit)), len(gaps) - 1)


def rolled_back_where(energy_data, energy_model, limit, *, asked):
    broken = asked(energy_data, energy_model) | ((energy_data - energy_model).abs() > limit)
    return broken.tolist().index(True) - 1 if broken.any() else len(broken) - 1


def shares_after_softmax(logits, old, new):
    p = logits.softmax(1) * new / old
    return p / p.sum(1, keepdim=True)


SEEN = [
    ("bayes_posterior", lambda log_p, prior: torch.softmax(log_p.sum(-1), dim=-1), "The prior is forgotten"),
    ("bayes_posterior", lambda log_p, prior: F.softmax(log_p.sum(2) + prior, dim=1), "without its logarithm"),
    ("bayes_posterior", naive_bayes_by_exp, "exp comes before the normalisation"),
    (
        "bayes_posterior",
        lambda log_p, prior: F.softmax(log_p.mean(-1) + torch.log(prior), 1),
        "averaged over the pixels",
    ),
    ("bayes_posterior", lambda log_p, prior: F.softmax(log_p.sum(-1) + torch.log(prior), 0), "over the batch"),
    ("bayes_posterior", lambda log_p, prior: F.softmax(log_p.sum(-1) + (prior + 1e-8).log(), 1), "small constant"),
    ("bayes_posterior", lambda log_p, prior: (log_p + prior.log()[None, :, None]).sum(2).softmax(1), "for each pixel"),
    (
        "bayes_posterior",
        lambda log_p, prior: by_exp_less(log_p.sum(2) + prior.log(), (log_p.sum(2) + prior.log()).max()),
        "of the whole batch",
    ),
    (
        "bayes_posterior",
        lambda log_p, prior: by_exp_less(log_p.sum(2) + prior.log(), log_p.sum(2).mean(1, keepdim=True)),
        "The least or the mean of a row",
    ),
    (
        "bayes_posterior",
        lambda log_p, prior: F.one_hot((log_p.sum(2) + prior.log()).argmax(1), len(prior)),
        "all to the most probable class",
    ),
    ("log_evidence", lambda a, prior: torch.logsumexp(a, -1), "The prior is missing"),
    ("log_evidence", lambda a, prior: ((a - a.max()).exp() @ prior).log() + a.max(), "of the whole batch"),
    ("log_evidence", lambda a, prior: (a + prior.clamp(min=1e-3).log()).logsumexp(1), "keeps a share from being 0"),
    ("log_evidence", lambda a, prior: torch.log((torch.exp(a) * prior).sum(-1)), "e^-1000 is 0"),
    ("log_evidence", lambda a, prior: (a + prior.log()).max(1).values, "max in place of the sum"),
    ("log_evidence", lambda a, prior: (a * prior).sum(1), "Jensen"),
    ("log_evidence", lambda a, prior: (a + prior.log()).logsumexp(1).mean(), "mean over all of them"),
    ("shifted_posterior", lambda a, old, new: F.softmax(a + torch.log(new), -1), "the old ones are still in it"),
    ("shifted_posterior", lambda a, old, new: F.normalize(a.softmax(1) * new / old, p=1), "come in after the softmax"),
    ("shifted_posterior", shares_after_softmax, "come in after the softmax"),
    ("shifted_posterior", lambda a, old, new: F.softmax(a + torch.log(old / new), -1), "stands upside down"),
    ("shifted_posterior", lambda a, old, new: F.softmax(a, -1) * new / old, "do not normalise again"),
    ("shifted_posterior", lambda a, old, new: F.softmax(a + new - old, -1), "not the shares themselves"),
    (
        "shifted_posterior",
        lambda a, old, new: by_exp_less(a + new.log() - old.log(), a.max()),
        "of the whole batch",
    ),
    ("calibration_error", calibration_with_empty_intervals, "The mean over an empty interval is nan"),
    ("calibration_error", lambda p, y, bins: calibration_with(p, y, bins, distance=float), "keep their signs"),
    ("calibration_error", lambda p, y, bins: calibration_with(p, y, bins, weigh=lambda n, N: 1 / bins), "empty ones"),
    (
        "calibration_error",
        lambda p, y, bins: calibration_with(p, y, bins, confidence=p[range(len(y)), y]),
        "the probability of the true label",
    ),
    ("calibration_error", lambda p, y, bins: calibration_with(p, y, 15), "always use 15"),
    ("known_log_likelihood", lambda *a: known_as_whole_images(*a, fill=lambda mu: mu), "filled with their mean"),
    ("known_log_likelihood", lambda *a: known_as_whole_images(*a, fill=torch.zeros_like), "seen black"),
    ("known_log_likelihood", known_by_the_precision, "of the inverse"),
    ("known_log_likelihood", known_or_impossible, "as if it were impossible"),
    (
        "honest_test_loss",
        lambda a, y, split, T: min(F.cross_entropy(a / t, y) for t in T),
        "split does not appear",
    ),
    ("honest_test_loss", lambda *a: best_loss(*a, on=0), "chosen on the training data"),
    ("honest_test_loss", lambda *a: best_loss(*a, on=2), "chosen on the test data"),
    ("honest_test_loss", lambda *a: best_loss(*a, on=1, reported=1), "You report the validation loss"),
    (
        "posterior_range",
        lambda low, high, prior: ((low + prior.log()).softmax(1), (high + prior.log()).softmax(1)),
        "uses the same bound for all classes",
    ),
    ("posterior_range", lambda low, high, prior: range_in_loops(low, high, torch.ones_like(prior)), "prior is missing"),
    ("posterior_range", lambda *a: range_in_loops(*a)[::-1], "exchanged"),
    ("posterior_range", range_by_softmax, "a softmax of ∞ is nan"),
    ("posterior_range", lambda *a: [end.nan_to_num() for end in range_by_softmax(*a)], "makes a 0 of nan"),
    ("energy_of_logits", lambda a: -(a - a.max()).exp().sum(1).log() - a.max(), "of the whole batch"),
    ("energy_of_logits", lambda a: -(a.exp().sum(1) + 1e-8).log(), "puts such a ceiling there"),
    ("energy_of_logits", lambda a: torch.logsumexp(a, -1), "the wrong sign. Look for the minus"),
    ("energy_of_logits", lambda a: -a.max(-1).values, "best class alone"),
    ("energy_of_logits", lambda a: -F.log_softmax(a, -1).logsumexp(-1), "all your energies are 0"),
    ("energy_of_logits", lambda a: -torch.log(torch.exp(a).mean(-1)), "log K nats"),
    ("joint_loss", lambda *a: jem(*a, sign=-1.0), "sign of the contrast is flipped"),
    ("joint_loss", lambda *a: jem(*a, energy=lambda logits: logits.logsumexp(1)), "or that of the energy"),
    ("joint_loss", lambda net, x, y, m: jem(net, x, y, m) + F.cross_entropy(net(x), y), "counted twice"),
    ("joint_loss", lambda *a: jem(*a, energy=lambda logits: -logits.amax(1)), "−max of the logits"),
    (
        "class_score",
        lambda net, x, y: -gradient_at(net, x, y, lambda a, y: a[range(len(y)), y].sum()),
        "the wrong sign. Look for the minus",
    ),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, F.cross_entropy), "the mean cross-entropy"),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, lambda a, y: a[:, y].sum()), "is a table (B, B)"),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, lambda a, y: a.logsumexp(1).sum()), "the score of p(x)"),
    ("pgd_step", lambda *a: pgd(*a, sign=-1.0), "You descend"),
    ("pgd_step", lambda *a: pgd(*a, unit=lambda gradient: gradient), "sign is missing"),
    ("pgd_step", lambda *a: pgd(*a, centre=lambda x_adv: x_adv), "The cube stays"),
    ("pgd_step", lambda net, x_adv, x, *rest: pgd(net, x, x, *rest), "as in FGSM"),
    ("novelty_auroc", lambda usual, unusual: auroc_by_ranks(unusual, usual), "one minus the reference"),
    ("novelty_auroc", lambda usual, unusual: auroc_by_ranks(-usual, -unusual), "one minus the reference"),
    ("novelty_auroc", lambda usual, unusual: (unusual > usual[:, None]).float().mean(), "Ties count 0"),
    ("rollback_epoch", lambda *a: rolled_back(*a, broken=lambda gap, limit: abs(gap) > limit), "passes as sound"),
    ("rollback_epoch", lambda *a: rolled_back(*a, broken=lambda gap, limit: not gap <= limit), "of the data above"),
    ("rollback_epoch", lambda *a: rolled_back(*a, broken=lambda gap, limit: not abs(gap) <= limit), "inf <= inf"),
    (
        "rollback_epoch",
        lambda *a: rolled_back(*a, broken=lambda gap, limit: gap > limit),
        "You forgot the absolute value",
    ),
    ("rollback_epoch", lambda *a: rolled_back_where(*a, asked=lambda a, b: a.isnan() | b.isnan()), "is no nan"),
    ("rollback_epoch", lambda *a: rollback_in_a_loop(*a) + 1, "first broken epoch itself"),
    ("rollback_epoch", lambda *a: rolled_back_where(*a, asked=lambda a, b: a.isinf() | b.isinf()), "lets it pass"),
    ("rollback_epoch", lambda *a: rolled_back_where(*a, asked=lambda a, b: ~a.isfinite()), "Only one of the two"),
    ("bayes_posterior", prior_after_the_softmax, "The prior comes in after the softmax"),
    ("bayes_posterior", lambda log_p, prior: prior_after_the_softmax(log_p, prior + 1e-10), "small constant"),
    ("bayes_posterior", lambda log_p, prior: log_p.sum(2).softmax(1) * prior, "do not sum to 1"),
    ("log_evidence", lambda a, prior: (F.softmax(a, 1) @ prior).log() + a.logsumexp(1), "The prior comes in after exp"),
    ("log_evidence", lambda a, prior: ((a - a.amax(1)[:, None]).exp() @ prior).log() + a.amax(1), "comes in after exp"),
    ("log_evidence", lambda a, prior: torch.log(torch.exp(a) @ prior + 1e-12), "Stay with logarithms"),
    ("shifted_posterior", lambda a, old, new: F.normalize(a.softmax(1) / old, p=1, dim=1), "put none in"),
    (
        "shifted_posterior",
        lambda a, old, new: F.normalize(a.softmax(1) * new, p=1, dim=1),
        "the old ones are still in it",
    ),
    ("shifted_posterior", lambda a, old, new: (a.softmax(1) * new / old).softmax(1), "A softmax of probabilities"),
    ("calibration_error", calibration_of_all_pairs, "as (N, 1) == (N,) does"),
    ("calibration_error", lambda p, y, bins: calibration_with(p, y, bins + 1), "one interval too many"),
    ("calibration_error", lambda p, y, bins: calibration_with(p, y, 1), "One interval for all"),
    ("known_log_likelihood", known_by_the_determinant, "comes before its logarithm"),
    (
        "known_log_likelihood",
        lambda x, k, mu, cov: known_in_one_batch(x, k, mu, cov.diag().diag()),
        "only the diagonal",
    ),
    (
        "known_log_likelihood",
        lambda x, k, mu, cov: known_in_one_batch(x, k, mu, cov) + k.sum(1) * math.log(2 * math.pi) / 2,
        "The constant is missing",
    ),
    ("honest_test_loss", lambda a, y, split, T: F.cross_entropy(a[split == 2], y[split == 2]), "test loss at T = 1"),
    ("honest_test_loss", lambda a, y, split, T: best_loss(a, y, split, 1 / T, on=1), "multiplied by T"),
    ("honest_test_loss", lambda *a: honest_in_one_table(*a, log=lambda p: p.exp().log()), "works with the logits"),
    ("posterior_range", range_by_exp, "Stay with logsumexp"),
    (
        "posterior_range",
        lambda low, high, prior: (F.softmax(low, 1), F.softmax(high, 1)),
        "And the prior is missing",
    ),
    ("posterior_range", lambda *a: (range_in_loops(*a)[0], 1 - range_in_loops(*a)[0]), "not 1 minus the lowest"),
    ("energy_of_logits", lambda a: -torch.log(torch.exp(a).sum(1)), "e^2000 is infinite"),
    ("energy_of_logits", lambda a: -(a - a.mean(1, keepdim=True)).logsumexp(1), "input"),
    ("energy_of_logits", lambda a: -a.sum(-1), "not multiplied"),
    ("joint_loss", lambda *a: jem(*a, energy=lambda logits: -logits.exp().sum(1).log()), "a sum is infinite"),
    ("joint_loss", lambda *a: jem(*a, label=lambda a, y: F.nll_loss(a.softmax(1).log(), y)), "or a probability 0"),
    ("joint_loss", lambda *a: jem(*a, label=lambda a, y: F.cross_entropy(a.softmax(1), y)), "softmax is applied twice"),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, lambda a, y: a[range(len(y)), y].mean()), "divided by B"),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, lambda a, y: a.max(1).values.sum()), "the largest logit"),
    (
        "class_score",
        lambda net, x, y: gradient_at(net, x, y, lambda a, y: a.log_softmax(1)[range(len(y)), y].sum()),
        "more certain",
    ),
    ("pgd_step", lambda *a: pgd(*a, loss=lambda a, y: -margin_of(a, y).sum()), "along the margin"),
    ("pgd_step", lambda *a: pgd(*a, loss=lambda a, y: -a.softmax(1)[range(len(y)), y].log().sum()), "logarithm nan"),
    ("pgd_step", lambda *a: pgd(*a, loss=lambda a, y: F.cross_entropy(a.softmax(1), y)), "you give it probabilities"),
    ("novelty_auroc", lambda usual, unusual: (unusual[:, None] >= usual).float().mean(), "Ties count 1"),
    ("novelty_auroc", lambda usual, unusual: (unusual[:, None] - usual).sign().mean(), "2 · AUROC − 1"),
    ("novelty_auroc", lambda usual, unusual: max(r := auroc_in_loops(usual, unusual), 1 - r), "looks better"),
]


@pytest.mark.parametrize(("name", "answer", "words"), SEEN)
def test_mistake_is_recognised_as_a_learner_writes_it(name, answer, words):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert words in plain(verdict.message), verdict.message


CUT_OFF = [
    (lambda *a: jem(*a, held=lambda x: x), "kept through the chains"),
    (lambda *a: jem(*a, held=torch.clone), "kept through the chains"),
    (lambda *a: jem(*a).item(), "No gradient comes back to net,"),
    (lambda net, x, y, m: jem(net, x, y, m) - F.cross_entropy(net(x), y) + F.cross_entropy(net(x).data, y), "no label"),
    (
        lambda net, x, y, m: (
            F.cross_entropy(net(x), y) - net(x).logsumexp(1).mean() + net(m).logsumexp(1).mean().detach()
        ),
        "only x_model itself",
    ),
]


@pytest.mark.parametrize(("answer", "words"), CUT_OFF)
def test_right_values_of_the_joint_loss_without_its_gradients_are_wrong(answer, words):
    verdict = judge("joint_loss", answer)
    assert verdict.status == "wrong"
    assert re.search("value is right, but on input 1 of", plain(verdict.message))
    assert words in plain(verdict.message).replace("Only", "only")


def test_scores_are_found_where_the_notebook_has_switched_gradients_off():
    with torch.no_grad():
        for name in ("class_score", "pgd_step", "joint_loss"):
            assert judge(name, reference(name)).status == "right"
