"""Answers to the exercises of notebook 09, right ones in other forms and wrong ones as learners write them."""

import math
from functools import reduce
from itertools import product

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import reference
from torch.distributions import Categorical, MultivariateNormal, Normal

from dgm_exercises import find
from dgm_lib.measures import calibration
from dgm_lib.models.classify import ClassGaussians, change_prior

# ---- ways to write them ---------------------------------------------------------------------------------------------


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


def loss_at(T, inside, logits, y):
    return F.cross_entropy(logits[inside] / T, y[inside]).item()


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


def shares_after_softmax(logits, old, new):
    p = logits.softmax(1) * new / old
    return p / p.sum(1, keepdim=True)


def calibration_by_place(probs, y, bins, place):
    confidence, label = probs.max(1)
    right, k = (label == y).float(), place(confidence, bins)
    parts = [(right[k == i].mean() - confidence[k == i].mean()).abs() * (k == i).float().mean() for i in k.unique()]
    return sum(parts)


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
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
        lambda a, prior: np.logaddexp.reduce(a.double().numpy() + np.log(prior.double().numpy()), axis=1),
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
        lambda p, y, n: calibration_by_place(p, y, n, lambda c, n: (c * n).ceil() - 1),
        lambda p, y, n: calibration_by_place(p, y, n, lambda c, n: (c * n).floor().clamp(max=n - 1)),
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
    "posterior_range": [
        range_over_all_corners,
        range_in_loops,
        lambda *a: torch.stack(range_in_loops(*a)),
        range_by_logsigmoid,
        lambda low, high, prior: [1 / (1 + odds) for odds in odds_against(low, high, prior)],
    ],
}

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
]

REFUSED = [
    ("log_evidence", lambda a, prior: (a + (prior + 1e-8).log()).logsumexp(1)),
    ("bayes_posterior", lambda a, prior: F.normalize(a.sum(2).softmax(1) * prior, p=1)),
    ("shifted_posterior", lambda a, old, new: a.softmax(1) * new / old / (a.softmax(1) * new / old).sum(1, True)),
    ("honest_test_loss", lambda a, y, s, T: min(F.cross_entropy(a[s == 2] / t, y[s == 2]) for t in T)),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


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
