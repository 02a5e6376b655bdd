"""Answers to the exercises of notebook 10, right ones in other forms and wrong ones as learners write them."""

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import reference
from torch.distributions import Categorical, kl_divergence

from dgm_exercises import find
from dgm_lib.datasets import imbalance
from dgm_lib.models import classify
from dgm_lib.models.joint_vae import product_of_normals

# ---- ways to write them ---------------------------------------------------------------------------------------------


def bound_in_loops(bounds, logits):
    rows = []
    for row, a in zip(bounds, logits):
        log_q = a - a.logsumexp(0)
        rows.append(sum(log_q[k].exp() * (row[k] - log_q[k]) for k in range(len(row))))
    return torch.stack(rows)


def bound_below_the_best(bounds, logits):
    """log Σ exp(bound) − KL(q ‖ the posterior of the bounds)."""
    log_p, log_q = bounds.log_softmax(1), logits.log_softmax(1)
    return bounds.logsumexp(1) - (log_q.exp() * (log_q - log_p)).sum(1)


def weighted_in_loops(logits, y, counts):
    total = 0
    for a, c in zip(logits, y.tolist()):
        total = total + counts.sum().item() / (len(counts) * counts[c].item()) * (a.logsumexp(0) - a[c])
    return total / len(y)


def weighted_by_the_training_set(logits, y, counts):
    training = torch.repeat_interleave(torch.arange(len(counts)), counts)
    weights = imbalance.class_weights(training, len(counts))
    return F.cross_entropy(logits, y, weight=weights, reduction="none").mean()


def balanced_by_sklearn(predicted, y, n_classes):
    from sklearn.metrics import recall_score

    return recall_score(y.numpy(), predicted.numpy(), labels=np.unique(y.numpy()), average="macro")


def balanced_by_weights(predicted, y, n_classes):
    weights = 1 / y.bincount(minlength=n_classes)[y].double()
    return (weights * (predicted == y)).sum() / weights.sum()


def balanced_by_a_table(predicted, y, n_classes):
    table = np.zeros((n_classes, n_classes))
    np.add.at(table, (y.numpy(), predicted.numpy()), 1)
    return np.nanmean(table.diagonal() / table.sum(1))


def split_by_sets(source, is_copy, held_out):
    held = set(held_out.tolist())
    pool = list(zip(source.tolist(), is_copy.tolist()))
    return [s not in held for s, _ in pool], [s in held and not copy for s, copy in pool]


def split_in_a_loop(source, is_copy, held_out):
    training, test = torch.ones_like(is_copy), torch.zeros_like(is_copy)
    for photograph in held_out:
        training[source == photograph] = False
        test[(source == photograph) & ~is_copy] = True
    return training, test


def standardised_by_sklearn(x, training):
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit(x[training].numpy()).transform(x.numpy())


def standardised_in_a_loop(x, training):
    columns = []
    for column in x.T:
        centred = column - column[training].mean()
        sigma = centred[training].square().mean().sqrt()
        columns.append(centred / sigma if len(column[training].unique()) > 1 else centred)
    return torch.stack(columns, 1)


def standardised_in_double(x, training):
    """Sums of a few float32 numbers are exact in double, so that a constant feature has the spread 0."""
    rows = x[training].double()
    sigma = (rows - rows.mean(0)).square().mean(0).sqrt()
    return (x.double() - rows.mean(0)) / sigma.masked_fill(sigma == 0, 1)


def standardised_by_extremes(x, training):
    rows = x[training].numpy()
    scale = np.where(np.ptp(rows, axis=0) > 0, rows.std(axis=0), 1)
    return (x.numpy() - rows.mean(axis=0)) / scale


def experts_one_by_one(mu, log_var):
    """Each expert corrects what is known so far."""
    mean, var = torch.zeros(mu.shape[1:]), torch.ones(mu.shape[1:])
    for m, v in zip(mu, log_var.exp()):
        gain = var / (var + v)
        mean, var = mean + gain * (m - mean), (1 - gain) * var
    return mean, var.log()


def experts_by_softmax(mu, log_var):
    """The weights of the means, the prior's first, are a softmax of the log-precisions."""
    log_p = torch.cat([torch.zeros(1, *mu.shape[1:]), -log_var])
    return (log_p.softmax(0)[1:] * mu).sum(0), -torch.logsumexp(log_p, 0)


def experts_in_natural_parameters(mu, log_var):
    eta, lam = torch.zeros(mu.shape[1:]), torch.ones(mu.shape[1:])
    for m, v in zip(mu, log_var):
        eta, lam = eta + m / v.exp(), lam + 1 / v.exp()
    return eta / lam, lam.reciprocal().log()


def experts_of_the_library(mu, log_var):
    prior = torch.zeros(1, *mu.shape[1:])
    joint = product_of_normals(torch.cat([prior, mu]), torch.cat([prior, log_var]))
    return joint.mean, joint.variance.log()


def distilled_by_cross_entropies(student, teacher, temperature):
    p = (teacher / temperature).softmax(1)
    ours, its_own = (F.cross_entropy(logits / temperature, p, reduction="none") for logits in (student, teacher))
    return temperature**2 * (ours - its_own)


def distilled_in_torch(student, teacher, temperature):
    terms = F.kl_div(F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1), reduction="none")
    return temperature**2 * terms.sum(-1)


def q_of(logits):
    return logits.softmax(1)


def entropy_of(logits):
    return Categorical(logits=logits).entropy()


def balanced(counts):
    return counts.sum() / (len(counts) * counts)


def at_random(source, is_copy, held_out):
    test = torch.randperm(len(source)) < len(held_out)
    return ~test, test


def averaged(mu, log_var):
    return mu.mean(0), log_var.exp().mean(0).log()


def without_the_prior(mu, log_var):
    precision = 1 / log_var.exp()
    return (precision * mu).sum(0) / precision.sum(0), -precision.sum(0).log()


def kl_div(student, teacher, temperature, *, reduction="none", square=2):
    log_q, p = (student / temperature).log_softmax(1), (teacher / temperature).softmax(1)
    return F.kl_div(log_q, p, reduction=reduction) * temperature**square


def weighed_by(mu, log_var, precision_of):
    precision = precision_of(log_var)
    total = 1 + precision.sum(0)
    return (precision * mu).sum(0) / total, -total.log()


def balanced_without_the_unpredicted(predicted, y, n_classes):
    both = [c for c in range(n_classes) if c in y and c in predicted]
    return torch.stack([(predicted[y == c] == c).double().mean() for c in both]).mean()


def standardised_where_the_spread_is_not_0(x, training):
    sigma = x[training].std(dim=0, unbiased=False)
    sigma[sigma == 0] = 1
    return (x - x[training].mean(dim=0)) / sigma


def recall_of_union(predicted, y, n_classes):
    seen = [c for c in range(n_classes) if (y == c).any() or (predicted == c).any()]
    return torch.stack([((predicted == c) & (y == c)).sum() / max(1, int((y == c).sum())) for c in seen]).mean()


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "unlabelled_bound": [
        bound_in_loops,
        bound_below_the_best,
        lambda b, a: torch.einsum("bk,bk->b", a.softmax(-1), b) + Categorical(logits=a).entropy(),
        lambda b, a: (a.softmax(1) * (b - a)).sum(1) + a.logsumexp(1),
        lambda b, a: (a.softmax(1) * (b - (a.softmax(1) + 1e-12).log())).sum(1),
        lambda b, a: -F.kl_div(b, a.log_softmax(1), reduction="none", log_target=True).sum(1),
        lambda b, a: F.cross_entropy(a, a.softmax(1), reduction="none") + (a.softmax(1) * b).sum(1),
        lambda b, a: ((b - (log_q := a - a.logsumexp(1, True))) * log_q.exp()).sum(-1),
        lambda b, a: b.logsumexp(1) - (a.softmax(1) * (a.log_softmax(1) - b.log_softmax(1))).sum(1),
    ],
    "balanced_cross_entropy": [
        weighted_in_loops,
        weighted_by_the_training_set,
        lambda a, y, n: F.cross_entropy(a, y, weight=n.float().mean() / n, reduction="sum") / len(y),
        lambda a, y, n: -(F.one_hot(y, len(n)) * (n.sum() / n / len(n)) * F.log_softmax(a, -1)).sum(-1).mean(),
        lambda a, y, n: -(Categorical(logits=a).log_prob(y) * (n.sum() / (len(n) * n))[y]).mean(),
        lambda a, y, n: torch.dot(F.cross_entropy(a, y, reduction="none"), n.float().mean() / n[y]) / len(y),
        lambda a, y, n: F.nll_loss(a.log_softmax(1), y, weight=1 / n, reduction="sum") * n.sum() / (len(n) * len(y)),
        lambda a, y, n: F.cross_entropy(a, y, n.sum() / (len(n) * n), reduction="sum") / len(y),
    ],
    "balanced_accuracy": [
        balanced_by_sklearn,
        balanced_by_weights,
        balanced_by_a_table,
        lambda p, y, n: torch.nanmean(torch.stack([(p[y == c] == c).float().mean() for c in range(n)])),
        lambda p, y, n: np.mean([np.mean(p.numpy()[y.numpy() == c] == c) for c in set(y.tolist())]),
        lambda p, y, n: (r := y[p == y].bincount(minlength=n) / y.bincount(minlength=n))[r == r].mean(),
    ],
    "split_by_source": [
        split_by_sets,
        split_in_a_loop,
        lambda s, c, h: torch.stack([torch.isin(s, h, invert=True), torch.isin(s, h) * ~c]),
        lambda s, c, h: (~np.isin(s.numpy(), h.numpy()), np.isin(s.numpy(), h.numpy()) & ~c.numpy()),
        lambda s, c, h: ((s[:, None] != h).all(1).long(), ((s[:, None] == h).any(1) & ~c).long()),
        lambda s, c, h: (torch.tensor([i not in h for i in s]), torch.tensor([i in h and not k for i, k in zip(s, c)])),
        lambda s, c, h: (torch.isin(s, s[~torch.isin(s, h)]), torch.isin(s, h).logical_xor(torch.isin(s, h) & c)),
    ],
    "standardise_by_training": [
        standardised_by_sklearn,
        standardised_in_a_loop,
        standardised_in_double,
        standardised_by_extremes,
    ],
    "product_of_experts": [
        experts_one_by_one,
        experts_of_the_library,
        lambda mu, v: torch.stack([(mu / v.exp()).sum(0) / (1 + (-v).exp().sum(0)), -(-v).exp().sum(0).log1p()]),
        lambda mu, v: (
            (np.exp(-v.numpy()) * mu.numpy()).sum(0) / (1 + np.exp(-v.numpy()).sum(0)),
            -np.log(1 + np.exp(-v.numpy()).sum(0)),
        ),
        experts_by_softmax,
        experts_in_natural_parameters,
    ],
    "distillation_loss": [
        classify.distillation,
        distilled_by_cross_entropies,
        distilled_in_torch,
        lambda s, t, T: distilled_in_torch(s.double(), t.double(), T),
        lambda s, t, T: [
            T * T * (F.softmax(b / T, 0) * ((b / T).log_softmax(0) - (a / T).log_softmax(0))).sum()
            for a, b in zip(s, t)
        ],
        lambda s, t, T: (
            F.kl_div(*((a / T).log_softmax(1) for a in (s, t)), reduction="none", log_target=True).sum(1) * T**2
        ),
        lambda s, t, T: (
            T**2 * F.kl_div(F.log_softmax(s / T, 1), F.log_softmax(t / T, 1), log_target=True, reduction="none").sum(1)
        ),
    ],
}

SEEN = [
    ("unlabelled_bound", lambda b, a: (q_of(a) * b).sum(1) + torch.special.entr(q_of(a)).sum(1), "0 · inf = nan"),
    ("unlabelled_bound", lambda b, a: (q_of(a) * b).sum(1), "entropy of q(y|x) is forgotten"),
    ("unlabelled_bound", lambda b, a: (q_of(a) * b).sum(1) - entropy_of(a), "entropy has the wrong sign"),
    ("unlabelled_bound", lambda b, a: -(q_of(a) * b).sum(1) - entropy_of(a), "the wrong sign. Look for the minus"),
    ("unlabelled_bound", lambda b, a: b.max(1).values, "largest of the bounds"),
    ("unlabelled_bound", lambda b, a: b[range(len(b)), a.argmax(1)] + entropy_of(a), "finds likeliest"),
    ("unlabelled_bound", lambda b, a: b.mean(1) + entropy_of(a), "average the bounds"),
    ("unlabelled_bound", lambda b, a: torch.logsumexp(b, 1), "but q(y|x) does not appear"),
    ("unlabelled_bound", lambda b, a: (q_of(a) * b.exp()).sum(1).log(), "as if it were a prior"),
    (
        "unlabelled_bound",
        lambda b, a: (q_of(a) * (b - np.log(b.shape[1]))).sum(1) + entropy_of(a),
        "log p(y) of a uniform prior is added a second time",
    ),
    ("unlabelled_bound", lambda b, a: (q_of(a) * (b - q_of(a).log())).sum(1), "0 · log 0 = nan"),
    ("unlabelled_bound", lambda b, a: (q_of(a) * (b - a)).sum(1), "You subtract the logits"),
    ("balanced_cross_entropy", lambda a, y, n: F.cross_entropy(a, y), "rare classes hardly count"),
    ("balanced_cross_entropy", lambda a, y, n: F.cross_entropy(a, y, weight=n.float()), "Frequent classes weigh more"),
    ("balanced_cross_entropy", lambda a, y, n: F.cross_entropy(a, y, weight=1 / n), "divide by the sum of the weights"),
    ("balanced_cross_entropy", lambda a, y, n: F.cross_entropy(a, y, weight=balanced(n)), "Divide by B"),
    (
        "balanced_cross_entropy",
        lambda a, y, n: F.cross_entropy(a, y, weight=(n / n.sum()).rsqrt(), reduction="none").mean(),
        "square root of the counts",
    ),
    (
        "balanced_cross_entropy",
        lambda a, y, n: F.cross_entropy(a, y, weight=(1 / n) / (1 / n).sum(), reduction="none").mean(),
        "sum to 1 over the classes",
    ),
    ("balanced_cross_entropy", lambda a, y, n: F.cross_entropy(a * balanced(n), y), "multiply the logits"),
    ("balanced_accuracy", lambda p, y, n: (p == y).float().mean(), "the plain accuracy"),
    ("balanced_accuracy", lambda p, y, n: sum((y[p == c] == c).float().mean() for c in range(n)) / n, "precision"),
    (
        "balanced_accuracy",
        lambda p, y, n: np.mean([((p == c) & (y == c)).sum() / max(1, (y == c).sum()) for c in range(n)]),
        "counts as 0 in yours",
    ),
    ("balanced_accuracy", lambda p, y, n: sum((p[y == c] == c).float().mean() for c in range(n)) / n, "0/0 = nan"),
    ("split_by_source", lambda s, c, h: (~torch.isin(s, h), torch.isin(s, h)), "test set has augmented copies"),
    (
        "split_by_source",
        lambda s, c, h: (~(torch.isin(s, h) & ~c), torch.isin(s, h) & ~c),
        "Copies of test photographs are in your training set",
    ),
    ("split_by_source", lambda s, c, h: (torch.isin(s, h), ~torch.isin(s, h)), "The sides are exchanged"),
    ("split_by_source", at_random, "Called again with the same input"),
    ("standardise_by_training", lambda x, t: (x - x.mean(0)) / x.std(0), "those of all examples"),
    ("standardise_by_training", lambda x, t: (x - x[t].mean(0)) / x[t].std(0, correction=0), "has the spread 0"),
    ("standardise_by_training", lambda x, t: (x - x[t].mean(0)) / x[t].std(0).clamp(min=1e-6), "divides by N − 1"),
    (
        "standardise_by_training",
        lambda x, t: torch.where(x[t].amax(0) > x[t].amin(0), standardised_in_a_loop(x, t), x),
        "stays as it is in yours",
    ),
    ("product_of_experts", lambda mu, v: ((mu / v).sum(0) / (1 / v).sum(0), 1 / (1 / v).sum(0)), "for the variance"),
    ("product_of_experts", averaged, "The variances are averaged"),
    ("product_of_experts", averaged, "The mean is the plain average"),
    ("product_of_experts", without_the_prior, "The mean leaves the prior out"),
    ("product_of_experts", lambda mu, v: weighed_by(mu, v, lambda v: (-2 * v).exp()), "log_var is taken for log σ"),
    ("product_of_experts", lambda mu, v: weighed_by(mu, v, lambda v: (-v / 2).exp()), "You weigh by 1/σ"),
    ("product_of_experts", lambda mu, v: weighed_by(mu, v, torch.exp), "who knows least"),
    (
        "product_of_experts",
        lambda mu, v: (experts_by_softmax(mu, v)[0], experts_by_softmax(mu, v)[1].exp()),
        "the variance in the second place",
    ),
    ("unlabelled_bound", lambda b, a: (q_of(a) * b).sum(1, keepdim=True) + entropy_of(a), "(B, B)"),
    ("unlabelled_bound", lambda b, a: b[range(len(b)), a.argmax(1)], "finds likeliest"),
    ("unlabelled_bound", lambda b, a: -bound_below_the_best(b, a), "the wrong sign. Look for the minus"),
    (
        "balanced_cross_entropy",
        lambda a, y, n: (-a.softmax(1)[range(len(y)), y].log() * balanced(n)[y]).mean(),
        "has the logarithm −inf",
    ),
    (
        "balanced_cross_entropy",
        lambda a, y, n: (-a.log_softmax(1).gather(1, y[:, None]) * balanced(n)[y]).mean(),
        "as (B,) · (B, 1) does",
    ),
    (
        "balanced_cross_entropy",
        lambda a, y, n: F.cross_entropy(a.softmax(1), y, weight=balanced(n), reduction="none").mean(),
        "The softmax comes twice",
    ),
    (
        "balanced_accuracy",
        lambda p, y, n: np.mean([((p == c) == (y == c)).float().mean() for c in range(n)]),
        "the others count as right",
    ),
    ("balanced_accuracy", balanced_without_the_unpredicted, "never predicted is left out"),
    (
        "balanced_accuracy",
        lambda p, y, n: (
            sum((p[y == c] == c).float().mean() if c in y else 0 for c in {*p.tolist(), *y.tolist()})
            / len({*p.tolist(), *y.tolist()})
        ),
        "predicted but does not occur",
    ),
    ("split_by_source", lambda s, c, h: split_by_sets(s, ~c, h), "is_copy the wrong way round"),
    ("split_by_source", lambda s, c, h: split_in_a_loop(s, c, h[-1:]), "Only the last"),
    ("split_by_source", lambda s, c, h: (~torch.isin(s, h) & ~c, torch.isin(s, h) & ~c), "are missing"),
    ("standardise_by_training", standardised_where_the_spread_is_not_0, "often not quite that number"),
    (
        "standardise_by_training",
        lambda x, t: (x - x[t].mean(0)) / (x[t].std(0, correction=0) + 1e-8),
        "or by hardly more",
    ),
    (
        "standardise_by_training",
        lambda x, t: (x - x[t].mean()) / x[t].std(correction=0),
        "One mean and one spread",
    ),
    ("distillation_loss", lambda s, t, T: kl_div(s, t, T, square=1).sum(1), "The factor is T in yours"),
    (
        "distillation_loss",
        lambda s, t, T: F.cross_entropy(s / T, q_of(t / T), reduction="none") * T**2,
        "cross-entropy",
    ),
    ("distillation_loss", lambda s, t, T: kl_div(s, t, T, reduction="mean"), "over batch and classes"),
    ("distillation_loss", lambda s, t, T: kl_div(s, t, T).sum(1) / T**2, "T² is forgotten"),
    ("distillation_loss", lambda s, t, T: kl_div(t, s, T).sum(1), "the wrong way round"),
    (
        "distillation_loss",
        lambda s, t, T: T**2 * (q_of(t / T) * (q_of(t / T) / q_of(s / T)).log()).sum(1),
        "0 · log 0 = nan",
    ),
    ("distillation_loss", lambda s, t, T: kl_div(s, t, T).mean(1), "average over the classes"),
    ("distillation_loss", lambda s, t, T: kl_div(s, t, T, reduction="batchmean"), "mean over the batch"),
    ("distillation_loss", lambda s, t, T: T**2 * kl_div(s, T * t, T, square=0).sum(1), "Only the student is softened"),
    ("distillation_loss", lambda s, t, T: T**2 * kl_div(T * s, t, T, square=0).sum(1), "Only the teacher is softened"),
    (
        "distillation_loss",
        lambda s, t, T: F.cross_entropy(s, t.argmax(1), reduction="none"),
        "the teacher finds likeliest",
    ),
    (
        "distillation_loss",
        lambda s, t, T: T**2 * kl_divergence(Categorical(logits=t / T), Categorical(logits=s / T)),
        "its logarithm is infinite",
    ),
]

CUT_OFF = [
    ("unlabelled_bound", lambda b, a: (q_of(a).detach() * b).sum(1) + entropy_of(a), "through the entropy alone"),
    ("unlabelled_bound", lambda b, a: (q_of(a) * b).sum(1) + entropy_of(a).detach(), "back through the entropy"),
    ("unlabelled_bound", lambda b, a: (q_of(a) * b.detach()).sum(1) + entropy_of(a), "comes back to the bounds"),
    (
        "unlabelled_bound",
        lambda b, a: bound_below_the_best(b, a).tolist(),
        "No gradient comes back to bounds or logits,",
    ),
    ("balanced_cross_entropy", lambda a, y, n: weighted_in_loops(a, y, n).item(), "No gradient comes back to logits,"),
    ("distillation_loss", lambda s, t, T: kl_div(s.detach(), t, T).sum(1), "No gradient comes back to student,"),
]

REFUSED = [
    ("unlabelled_bound", lambda b, a: (a.softmax(1) * b).sum(1) + Categorical(logits=a).entropy().detach()),
    ("balanced_cross_entropy", lambda a, y, n: F.cross_entropy(a, y, weight=n.sum() / (len(n) * n))),
    ("balanced_accuracy", recall_of_union),
    ("standardise_by_training", lambda x, t: (x - x[t].mean(0)) / x[t].std(0, correction=0).clamp(min=1e-3)),
    ("product_of_experts", lambda m, v: reference("product_of_experts")(m, 2 * v)),
    ("distillation_loss", lambda s, t, T: T**2 * F.kl_div((s / T).softmax(1).add(1e-9).log(), (t / T).softmax(1))),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_right_values_without_their_gradients_are_wrong = answers.cut_off(CUT_OFF)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


def test_no_q_gives_a_better_bound_than_the_posterior_of_the_bounds():
    bound = find("unlabelled_bound").reference
    for bounds, logits in find("unlabelled_bound").draw_inputs():
        best = bound(bounds, bounds)
        torch.testing.assert_close(best, bounds.logsumexp(1))
        assert (bound(bounds, logits) <= best + 1e-4).all()


def test_every_class_has_the_same_say_over_the_training_set():
    counts = torch.tensor([60, 30, 10])
    y = torch.repeat_interleave(torch.arange(3), counts)
    logits = torch.zeros(100, 3, requires_grad=True)  # the same for all: each class loses log 3
    loss = find("balanced_cross_entropy").reference(logits, y, counts)
    torch.testing.assert_close(loss.item(), np.log(3), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.sum(0), torch.zeros(3), atol=1e-7, rtol=0)  # uniform is the best constant


def test_who_always_says_one_class_is_right_by_chance():
    y = torch.tensor([0] * 97 + [1, 2, 2])
    assert find("balanced_accuracy").reference(torch.zeros_like(y), y, 3) == pytest.approx(1 / 3)


def test_no_photograph_is_on_both_sides_of_the_split():
    for source, is_copy, held_out in find("split_by_source").draw_inputs():
        training, test = find("split_by_source").reference(source, is_copy, held_out)
        assert not set(source[training].tolist()) & set(source[test].tolist())
        assert sorted(source[test].tolist()) == sorted(held_out.tolist())


def test_product_of_experts_is_the_product_of_the_densities():
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    for mu, log_var in find("product_of_experts").draw_inputs():
        mean, variance = find("product_of_experts").reference(mu.double(), log_var.double())
        log_p = -(z**2) / 2 - ((z - mu.double()[..., None]) ** 2 / log_var.double().exp()[..., None]).sum(0) / 2
        p = log_p.softmax(-1)  # (B, D, n), on the grid
        torch.testing.assert_close((p * z).sum(-1), mean, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close((p * (z - mean[..., None]) ** 2).sum(-1), variance.exp(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [-100.0, -88.0, 100.0])
def test_experts_of_any_precision_have_a_finite_product(size):
    mu = torch.tensor([[[2.0, -1.0]], [[-3.0, 0.5]]])
    log_var = torch.tensor([[[size, size]], [[size, 0.0]]])
    mean, product = find("product_of_experts").reference(mu, log_var)
    expected = find("product_of_experts").reference(mu.double(), log_var.double())
    naive = (-log_var.double()).exp()  # in double e^100 is an ordinary number
    torch.testing.assert_close(expected[0], (naive * mu).sum(0) / (1 + naive.sum(0)))
    torch.testing.assert_close(expected[1], -(1 + naive.sum(0)).log())
    torch.testing.assert_close((mean.double(), product.double()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 7, 14, 100, 1001])
@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1 / 3, 1e-30, -1234.5678, 0.0])
@pytest.mark.parametrize("n_features", [1, 3])
def test_a_feature_that_is_constant_in_training_is_only_shifted(value, n, n_features, dtype):
    x = torch.full((n + 1, n_features), value, dtype=dtype)
    x[-1] += 0.8
    seen = find("standardise_by_training").reference(x, torch.arange(n + 1) < n)
    expected = (x - x[0]).clone()
    atol = float(n * torch.finfo(dtype).eps * abs(value))  # what the mean of n equal numbers loses
    torch.testing.assert_close(seen, expected, atol=atol, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_feature_that_spreads_little_is_not_taken_for_a_constant_one(scale):
    x = scale * torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    seen = find("standardise_by_training").reference(x, torch.tensor([True, True, True, False]))
    torch.testing.assert_close(seen[:3].square().mean(), torch.tensor(1.0))


def test_distillation_for_a_warm_teacher_is_the_squared_difference_of_the_logits():
    student, teacher = (torch.randn(4, 5, generator=torch.Generator().manual_seed(s)).double() for s in (0, 1))
    loss = find("distillation_loss").reference(student, teacher, 1e4)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(loss, centred.square().mean(1) / 2, atol=1e-3, rtol=1e-3)
