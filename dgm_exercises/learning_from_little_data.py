"""Exercises of notebook 10: labels that are missing, classes that are rare, copies that leak, experts, a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dgm_exercises.engine import Exercise

# ---- unlabelled_bound ----------------------------------------------------------------------------------------------


def unlabelled_bound(bounds: Tensor, logits: Tensor) -> Tensor:
    # log Σ_y p(x, y) ≥ Σ_y q(y|x) (log p(x, y) − log q(y|x)); log_softmax keeps log q finite where q is 0 in float32.
    log_q = logits.log_softmax(1)  # (B, K)
    return (log_q.exp() * (bounds - log_q)).sum(1)


def bounds_and_logits(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n: int, n_classes: int, level: float = -3.0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        bounds, logits = (torch.randn(n, n_classes, generator=generator) for _ in range(2))
        return level + 2 * bounds, scale * logits

    sure = torch.tensor([[300.0, 0.0, 1.0], [0.5, -200.0, 0.0]])  # probabilities that are 0 in float32
    return [
        (torch.tensor([[-2.0, -5.0]]), torch.tensor([[0.75, 0.25]]).log()),
        (torch.tensor([[-2.0, -5.0], [-1.0, -4.0]]), torch.tensor([[2.0, 1.0], [0.0, -1.0]])),
        draw(4, 3),
        draw(3, 3, scale=2.0),
        draw(6, 10, level=-40.0),
        draw(5, 4, level=-300.0, scale=0.5),
        (draw(2, 3)[0], sure),
        (100 * draw(2, 3)[0], sure),  # bounds that are hundreds of nats apart
    ]


Bound = Callable[[Tensor, Tensor], Tensor]


def by_log_q(value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Bound:
    """A function of the bounds, of log q(y|x) and of q(y|x), (B, K) each."""

    def bound(bounds: Tensor, logits: Tensor) -> Tensor:
        log_q = logits.log_softmax(1)
        return value(bounds, log_q, log_q.exp())

    return bound


def entropy(log_q: Tensor) -> Tensor:
    return -(log_q.exp() * log_q).sum(1)


def likeliest(bounds: Tensor, log_q: Tensor) -> Tensor:
    """The bound of the class of which q is surest, (B,)."""
    return bounds.gather(1, log_q.argmax(1, keepdim=True)).squeeze(1)


BY_ARGMAX = (
    "You take the bound of the class that q(y|x) finds likeliest, as if it were the label. Each class counts by its "
    "probability, and the entropy is added; argmax has no gradient either."
)

UNLABELLED_BOUND = Exercise(
    reference=unlabelled_bound,
    statement="The bound of log p(x) for images without a label: bounds (B, K) are lower bounds of log p(x, y) for "
    "every class y, with log p(y) in them, logits (B, K) those of q(y|x), which may be sure. The bound that this "
    "q(y|x) gives, (B,), in nats; training will differentiate it by both.",
    nudge="The label is a latent variable with K values. Write the ELBO with it, E_q[log p(x, y) − log q(y|x)]: its "
    "expectation is a sum over the classes.",
    right="gradients included. The closer q(y|x) comes to p(y|x), the tighter it is: images without a label teach the "
    "classifier too.",
    inputs=bounds_and_logits,
    differentiate=("bounds", "logits"),
    atol=1e-4,
    wrong=[
        (
            lambda bounds, logits: unlabelled_bound(bounds, logits.detach()),
            "No gradient comes back to the logits: q(y|x) learns nothing from images without a label.",
        ),
        (
            lambda bounds, logits: unlabelled_bound(bounds.detach(), logits),
            "No gradient comes back to the bounds: the model of x learns nothing from images without a label.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q.detach() * bounds).sum(1) + entropy(log_q)),
            "The gradient of the logits comes through the entropy alone: q(y|x) would become uniform.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1) + entropy(log_q).detach()),
            "No gradient comes back through the entropy, so q(y|x) would end on one class.",
        ),
        (
            lambda bounds, logits: (logits.softmax(1) * bounds + torch.special.entr(logits.softmax(1))).sum(1),
            "Where a probability is 0, the gradient of q log q is 0 · inf = nan. `log_softmax` keeps log q finite.",
        ),
        (
            lambda bounds, logits: (logits.softmax(1) * (bounds - logits.softmax(1).log())).sum(1),
            "A probability that is 0 in float32 gives 0 · log 0 = nan. `log_softmax` stays finite.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1)),
            "The entropy of q(y|x) is forgotten: training would make q(y|x) sure of one class, right or wrong.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds + log_q)).sum(1)),
            "The entropy has the wrong sign: under the sum stands bound − log q(y|x), so that doubt raises the bound.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: bounds.amax(1)),
            "You take the largest of the bounds. Each class counts by q(y|x), and the entropy is added.",
        ),
        (by_log_q(lambda bounds, log_q, q: likeliest(bounds, log_q)), BY_ARGMAX),
        (by_log_q(lambda bounds, log_q, q: likeliest(bounds, log_q) + entropy(log_q)), BY_ARGMAX),
        (
            by_log_q(lambda bounds, log_q, q: bounds.mean(1) + entropy(log_q)),
            "You average the bounds: each class counts the same. Each counts by q(y|x).",
        ),
        (
            by_log_q(lambda bounds, log_q, q: bounds.logsumexp(1)),
            "This is log Σ_y exp(bound), but q(y|x) does not appear. The bound that this q(y|x) gives is asked.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (bounds + log_q).logsumexp(1)),
            "This is log Σ_y q(y|x) exp(bound), as if it were a prior. The logarithm belongs inside.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds - log_q)).sum(1) - math.log(q.shape[1])),
            "You are log K below: log p(y) of a uniform prior is added a second time. The bounds hold it.",
        ),
        (
            lambda bounds, logits: (logits.softmax(1) * (bounds - logits)).sum(1),
            "You subtract the logits. They are log q(y|x) only up to a constant: `log_softmax` first.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1)[:, None] + entropy(log_q)),
            "Each image meets the entropies of all others, (B, B): one of the two parts is (B, 1), a `keepdim`?",
        ),
    ],
)

# ---- balanced_cross_entropy ----------------------------------------------------------------------------------------


def balanced_cross_entropy(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    # Weights a / n_c have the mean Σ n_c (a / n_c) / N = a K / N over the training set, which is 1 for a = N / K.
    weights = counts.sum() / (len(counts) * counts)  # (K,)
    nll = -logits.log_softmax(1)[torch.arange(len(y)), y]  # (B,) nats
    return (weights[y] * nll).mean()


def batches_with_counts(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    def draw(n: int, counts: list[int], scale: float = 1.5) -> tuple[Tensor, Tensor, Tensor]:
        counts = torch.tensor(counts)
        y = torch.multinomial(counts.float(), n, replacement=True, generator=generator)
        return scale * torch.randn(n, len(counts), generator=generator), y, counts

    easy = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return [
        (easy, torch.tensor([0, 1, 0, 0]), torch.tensor([90, 10])),
        draw(8, [500, 100, 20]),
        draw(3, [40, 30, 5]),
        draw(1, [7, 200, 30, 3]),
        draw(16, [90, 5, 40, 300, 12, 9, 33, 100, 64, 2], scale=3.0),
        draw(6, [50, 50, 50]),  # balanced already: the ordinary cross-entropy
        (300 * torch.eye(3), torch.tensor([1, 2, 0]), torch.tensor([10, 20, 30])),  # sure, and wrong
    ]


Weighted = Callable[[Tensor, Tensor, Tensor], Tensor]


def nll_of(logits: Tensor, y: Tensor) -> Tensor:
    """−log p(y|x), (B,) nats."""
    return -logits.log_softmax(1).gather(1, y[:, None]).squeeze(1)


def by_weights(weights: Callable[[Tensor], Tensor]) -> Weighted:
    """The mean of the weighted terms, for weights of the classes that depend on their counts."""
    return lambda logits, y, counts: (weights(counts.to(logits.dtype))[y] * nll_of(logits, y)).mean()


def by_terms(value: Callable[[Tensor, Tensor], Tensor]) -> Weighted:
    """A function of the right weights of the examples and of their −log p(y|x), (B,) each."""
    return lambda logits, y, counts: value(balanced(counts)[y], nll_of(logits, y))


def balanced(counts: Tensor) -> Tensor:
    return counts.sum() / (len(counts) * counts)


BY_COUNT = (
    "Frequent classes weigh more in yours: the weights grow with the counts. They are inversely proportional to them."
)
SQUARE_ROOT = (
    "Your weights fall with the square root of the counts, a milder correction that some use. Inversely proportional "
    "is asked."
)
OVER_TRAINING = " Their mean over the examples of the training set is to be 1, where frequent classes come often."

BALANCED_CROSS_ENTROPY = Exercise(
    reference=balanced_cross_entropy,
    statement="The cross-entropy with weights for rare classes: logits (B, K), which may be hundreds, y (B,), and "
    "counts (K,), the examples of each class in the training set. The weight of a class is inversely proportional to "
    "its count, and the mean weight over all examples of the training set is 1. The mean over the B examples of "
    "weight × −log p(y|x), nats; training differentiates it by the logits.",
    nudge="Let the weight be a / n_c. Its mean over the training set is Σ n_c (a / n_c) / N: which a makes that 1? "
    "Then weights[y] has one weight for each example.",
    right="gradients included, and a batch of one. In the mean over the training set every class has the same say, "
    "1/K, and the step size keeps its meaning.",
    inputs=batches_with_counts,
    differentiate=("logits",),
    wrong=[
        (
            by_weights(torch.ones_like),
            "All classes weigh the same in yours: the ordinary cross-entropy, in which rare classes hardly count.",
        ),
        (by_weights(lambda n: n), BY_COUNT),
        (by_weights(lambda n: n / n.sum()), BY_COUNT),
        (lambda logits, y, counts: (counts[y] * nll_of(logits, y)).sum() / counts[y].sum(), BY_COUNT),
        (
            by_terms(lambda weights, nll: (weights * nll).sum() / weights.sum()),
            "You divide by the sum of the weights in the batch, as `cross_entropy(…, weight=…)` does. Divide by B.",
        ),
        (
            by_weights(lambda n: 1 / n),
            "Your weights are 1 / count, not scaled: the larger the training set, the smaller the loss."
            + OVER_TRAINING,
        ),
        (
            by_weights(lambda n: n.sum() / n),
            "Your weights are N / count, so their mean over the training set is K: divide by K.",
        ),
        (by_weights(lambda n: (1 / n) / (1 / n).sum()), "Your weights sum to 1 over the classes." + OVER_TRAINING),
        (
            by_weights(lambda n: (1 / n) / (1 / n).mean()),
            "The mean of your weights over the classes is 1 (their sum is K)." + OVER_TRAINING,
        ),
        (by_weights(lambda n: (n.sum() / n).sqrt()), SQUARE_ROOT),
        (
            lambda logits, y, counts: ((counts.sum() // (len(counts) * counts))[y] * nll_of(logits, y)).mean(),
            "Your weights are whole numbers: `//` cuts their fractions off. Divide with `/`.",
        ),
        (
            by_terms(lambda weights, nll: weights.mean() * nll.mean()),
            "Each weight meets each term, (B, B), as (B,) · (B, 1) does. Multiply example by example, then the mean.",
        ),
        (
            lambda logits, y, counts: nll_of(logits * balanced(counts), y).mean(),
            "You multiply the logits by the weights. The weight belongs in front of −log p(y|x), after the softmax.",
        ),
        (
            lambda logits, y, counts: (len(y) / (len(counts) * y.bincount()[y]) * nll_of(logits, y)).mean(),
            "Your weights come from the classes of the batch. Those of the training set are asked: counts.",
        ),
        (
            lambda logits, y, counts: (
                balanced(counts)[y] * -logits.softmax(1).gather(1, y[:, None]).squeeze(1).log()
            ).mean(),
            "A probability that is 0 in float32 has the logarithm −inf. `log_softmax` works with the logits.",
        ),
        (
            lambda logits, y, counts: (balanced(counts)[y] * nll_of(logits.softmax(1), y)).mean(),
            "The softmax comes twice: `cross_entropy` and `log_softmax` want the logits as they are.",
        ),
    ],
)

# ---- balanced_accuracy ---------------------------------------------------------------------------------------------


def balanced_accuracy(predicted: Tensor, y: Tensor, n_classes: int) -> Tensor:
    # The recall of each class by itself; a class that y does not hold has none, and would be 0/0.
    present = [c for c in range(n_classes) if (y == c).any()]
    recalls = [(predicted[y == c] == c).float().mean() for c in present]
    return torch.stack(recalls).mean()


def predictions_and_labels(generator: Generator) -> list[tuple[Tensor, Tensor, int]]:
    def draw(n: int, shares: list[float], right: float = 0.7) -> tuple[Tensor, Tensor, int]:
        y = torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator)
        guess = torch.randint(len(shares), (n,), generator=generator)
        return torch.where(torch.rand(n, generator=generator) < right, y, guess), y, len(shares)

    rare = torch.tensor([0] * 8 + [1, 1])
    return [
        (torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 0]), rare, 2),
        (torch.zeros(10, dtype=torch.int64), rare, 2),  # always the frequent class
        draw(40, [0.7, 0.2, 0.1]),
        draw(200, [0.3, 0.3, 0.02, 0.1, 0.28], right=0.6),
        draw(30, [0.5, 0.0, 0.3, 0.2], right=0.5),  # a class that y does not hold, though it is predicted
        (torch.tensor([2, 2, 0, 1, 1]), torch.tensor([2, 2, 0, 1, 0]), 5),
        (torch.tensor([1, 1, 2, 1]), torch.tensor([1, 1, 1, 1]), 3),
        (torch.tensor([2]), torch.tensor([2]), 4),
        draw(60, [0.8, 0.15, 0.05], right=0.2),
    ]


Confusion = Callable[[Tensor], Tensor]


def by_confusion(value: Confusion) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A function of how often each class (row) is predicted as each (column), (K, K)."""

    def measure(predicted: Tensor, y: Tensor, n_classes: int) -> Tensor:
        table = (y * n_classes + predicted).bincount(minlength=n_classes**2)
        return value(table.view(n_classes, n_classes).double())

    return measure


def recalls(table: Tensor) -> Tensor:
    """(K,), nan for a class without an example."""
    return table.diag() / table.sum(1)


def precisions(table: Tensor) -> Tensor:
    """(K,), nan for a class that is never predicted."""
    return table.diag() / table.sum(0)


def one_against_all(table: Tensor) -> Tensor:
    """The accuracy of the question whether an example is of the class, (K,)."""
    return 1 - (table.sum(0) + table.sum(1) - 2 * table.diag()) / table.sum()


PRECISION = (
    "You divide by how often a class is predicted: that is precision. Recall divides by how often it occurs, so that "
    "its share of found examples comes out."
)
NUMBER_RIGHT = (
    "You divide the number of right ones by the number of classes. Each class is divided by its own number of examples "
    "first."
)

BALANCED_ACCURACY = Exercise(
    reference=balanced_accuracy,
    statement="Balanced accuracy of predicted (N,) against y (N,), classes 0 … n_classes − 1: the mean over the "
    "classes of recall, the share of a class's examples that are predicted as it. A class without an example in y is "
    "left out of the mean. A scalar, 0 … 1.",
    nudge="Take the examples of one class, y == c: which share of them is right? Then the mean over the classes that "
    "occur in y.",
    right="classes that do not occur included. Who always says the most frequent of K classes gets 1/K.",
    inputs=predictions_and_labels,
    wrong=[
        (
            by_confusion(lambda table: table.diag().sum() / table.sum()),
            "This is the plain accuracy: each example counts the same. Each class counts the same here.",
        ),
        (by_confusion(lambda table: precisions(table).mean()), PRECISION),
        (by_confusion(lambda table: precisions(table).nanmean()), PRECISION),
        (by_confusion(lambda table: precisions(table).nan_to_num().mean()), PRECISION),
        (
            by_confusion(lambda table: recalls(table).nan_to_num().mean()),
            "A class without an example counts as 0 in yours. It has no recall: leave it out of the mean.",
        ),
        (
            by_confusion(lambda table: recalls(table).mean()),
            "A class without an example gives 0/0 = nan. It has no recall: leave it out of the mean.",
        ),
        (
            by_confusion(lambda table: recalls(table).nan_to_num()[(table.sum(1) + table.sum(0)) > 0].mean()),
            "A class that is predicted but does not occur in y counts as 0 in yours. It has no recall: leave it out.",
        ),
        (
            by_confusion(lambda table: recalls(table)[table.sum(0) > 0].nanmean()),
            "A class that is never predicted is left out in yours. It occurs, so its recall is 0, and it counts.",
        ),
        (by_confusion(lambda table: table.diag().sum() / (table.sum(1) > 0).sum()), NUMBER_RIGHT),
        (
            by_confusion(lambda table: one_against_all(table).mean()),
            "You compare over all examples, so the others count as right. Look at those with y == c alone.",
        ),
        (
            by_confusion(lambda table: (2 * table.diag() / (table.sum(0) + table.sum(1))).nanmean()),
            "This is the mean of the F1 scores, which mix recall with precision. Recall alone is asked.",
        ),
    ],
)

# ---- split_by_source -----------------------------------------------------------------------------------------------


def split_by_source(source: Tensor, is_copy: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    # The photograph decides, not the image: all that comes from a held-out one stays out of training.
    held = torch.isin(source, held_out)  # (M,)
    return ~held, held & ~is_copy


def pools(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    def draw(n: int, copies: int, n_test: int, largest: int) -> tuple[Tensor, Tensor, Tensor]:
        names = torch.randperm(largest, generator=generator)[:n]
        extra = names[torch.randint(n, (copies,), generator=generator)]
        order = torch.randperm(n + copies, generator=generator)
        is_copy = torch.arange(n + copies) >= n
        return torch.cat([names, extra])[order], is_copy[order], names[-n_test:]

    easy = torch.tensor([7, 3, 3, 7, 1, 3, 1]), torch.tensor([False, False, True, True, False, True, True])
    return [
        (*easy, torch.tensor([3])),
        draw(6, 12, 2, 20),
        draw(5, 0, 2, 5),  # nothing was augmented
        draw(8, 24, 1, 8),
        draw(20, 60, 6, 100),
        draw(4, 9, 3, 30),
        (*easy, torch.tensor([1, 7])),
    ]


Masks = tuple[Tensor, Tensor]


def by_held(value: Callable[[Tensor, Tensor], object]) -> Callable[..., object]:
    """A function of two masks (M,): whether the photograph of an image is held out, and whether it is a copy."""
    return lambda source, is_copy, held_out: value(torch.isin(source, held_out), is_copy)


def split_at(test: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[..., Masks]:
    """A function of the places in the pool, of held_out and of M makes the test set; training is the rest."""

    def masks(source: Tensor, is_copy: Tensor, held_out: Tensor) -> Masks:
        inside = test(torch.arange(len(source)), held_out, len(source))
        return ~inside, inside

    return masks


LEAK = (
    "Copies of test photographs are in your training set: the model has seen what it is tested on, turned or shifted, "
    "and the test accuracy comes out too high. "
)
AS_IT_LIES = (
    "You split the pool as it lies, which is augmenting first and splitting afterwards: copies of one photograph are "
    "on both sides. held_out says which photographs to test on."
)
BY_PLACE = "You compare held_out with the place of an image in the pool. Its numbers are those of photographs: source."

SPLIT_BY_SOURCE = Exercise(
    reference=split_by_source,
    statement="Two masks over a pool of M images that holds augmented copies: source (M,) is the number of the "
    "photograph that an image comes from, is_copy (M,) whether it is an augmented copy of it, held_out (H,) the "
    "numbers of the photographs to test on. (training, test), (M,) each: for training all that has nothing of a "
    "held-out photograph in it, for testing the held-out photographs themselves, without copies.",
    nudge="Which images come from a held-out photograph, copies or not? `torch.isin` says it of each. These stay out "
    "of training; which of them are for testing?",
    right="a pool without copies included. Split first, augment afterwards, and none of this can happen.",
    inputs=pools,
    wrong=[
        (
            by_held(lambda held, is_copy: (~(held & ~is_copy), held & ~is_copy)),
            LEAK + "Training is not all but the test set: the photograph decides, source.",
        ),
        (
            by_held(lambda held, is_copy: (~held | is_copy, held)),
            LEAK + "And your test set has augmented copies in it.",
        ),
        (
            by_held(lambda held, is_copy: (torch.ones_like(held), held & ~is_copy)),
            "Your training set is the whole pool, the test photographs included.",
        ),
        (
            by_held(lambda held, is_copy: (~(held & is_copy), held & ~is_copy)),
            "You keep the copies of test photographs out of training, but not the test photographs themselves.",
        ),
        (
            by_held(lambda held, is_copy: (~held, held)),
            "Your test set has augmented copies in it. The photographs themselves are asked.",
        ),
        (
            by_held(lambda held, is_copy: (~held & ~is_copy, held & ~is_copy)),
            "The copies of the training photographs are missing. They leak nothing, and were made for training.",
        ),
        (
            by_held(lambda held, is_copy: (~held, held | ~is_copy)),
            "Your test set holds all that is held out or no copy. Both conditions have to hold: `&`, not `|`.",
        ),
        (by_held(lambda held, is_copy: (held, ~held)), "The sides are exchanged, and the test set has copies in it."),
        (
            by_held(lambda held, is_copy: (~held, held & is_copy)),
            "You read is_copy the wrong way round: True is an augmented copy, False a photograph itself.",
        ),
        (
            by_held(lambda held, is_copy: (~is_copy, is_copy)),
            "You train on all photographs and test on all copies of them; held_out is not used.",
        ),
        (
            lambda source, is_copy, held_out: split_by_source(source, is_copy, held_out[:1]),
            "Only the first of the held-out photographs is held out in yours. `torch.isin` compares with all.",
        ),
        (
            lambda source, is_copy, held_out: split_by_source(source, is_copy, held_out[-1:]),
            "Only the last of the held-out photographs is held out (a mask overwritten in a loop?). `torch.isin`.",
        ),
        (lambda source, *others: split_by_source(torch.arange(len(source)), *others), BY_PLACE),
        (split_at(lambda place, held_out, n: place >= n - len(held_out)), AS_IT_LIES),
    ],
)

# ---- standardise_by_training ---------------------------------------------------------------------------------------


def standardise_by_training(x: Tensor, training: Tensor) -> Tensor:
    # All that is learnt is learnt from the training examples: here, where each feature lies and how far it spreads.
    rows = x[training]
    mean, sigma = rows.mean(0), rows.std(0, correction=0)  # (D,)
    constant = rows.amax(0) == rows.amin(0)  # sigma need not be 0: the mean of equal floats is often another float
    return (x - mean) / sigma.masked_fill(constant, 1.0)


def features_and_masks(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n: int, n_features: int, n_training: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
        training = torch.randperm(n, generator=generator) < n_training
        x = 2 * torch.randn(n, n_features, generator=generator) + torch.arange(n_features)
        return torch.where(training[:, None], x, 1.5 * x + shift), training

    x, training = draw(6, 4, 4)
    same = torch.where(training, 1.0, 3.0)  # a corner that looks the same in all of training
    grey = torch.tensor([0.1, 0.3, 0.7, 1 / 3, 0.9, 1.1]).repeat(8, 1)  # so does each of these: no mean is that exact
    grey[7] += 0.8
    first_seven = torch.arange(8) < 7
    return [
        (torch.tensor([[0.0, 1.0], [2.0, 5.0], [9.0, 2.0], [5.0, 3.0]]), torch.tensor([True, True, False, False])),
        draw(8, 3, 5),
        draw(5, 5, 3, shift=2.0),
        draw(40, 6, 30, shift=1.0),
        draw(7, 1, 2),
        (torch.cat([x, same[:, None]], 1), training),
        (grey, first_seven),
        (grey[:, :1], first_seven),  # alone, a feature is summed in another order
        (grey[:, 2:3], first_seven),
    ]


Standardised = Callable[[Tensor, Tensor], Tensor]


def spread(rows: Tensor, correction: int = 0) -> Tensor:
    """Standard deviation of each feature, 1 where it is constant."""
    return rows.std(0, correction=correction).masked_fill(rows.amax(0) == rows.amin(0), 1.0)


def by_rows(rows: Callable[[Tensor, Tensor], Tensor], correction: int = 0) -> Standardised:
    """The right rule with the statistics of other rows."""
    return lambda x, training: (x - rows(x, training).mean(0)) / spread(rows(x, training), correction)


def by_training(value: Callable[[Tensor, Tensor], Tensor]) -> Standardised:
    """A function of all rows and of those of the training set."""
    return lambda x, training: value(x, x[training])


def each_by_itself(x: Tensor, training: Tensor) -> Tensor:
    """Training and test set, each by its own statistics."""
    its_own = by_rows(lambda x, training: x[~training])(x, training)
    return torch.where(training[:, None], standardise_by_training(x, training), its_own)


def divided_where(above: float, sigma: Callable[[Tensor], Tensor]) -> Standardised:
    """The right rule, with the standard deviation where it is above a number, and 1 elsewhere."""
    return by_training(lambda x, rows: (x - rows.mean(0)) / torch.where(sigma(rows) > above, sigma(rows), 1.0))


def divided_by_hardly_more(add: bool, eps: float, correction: int) -> Standardised:
    """Divided by the standard deviation and a small number, added to it or its least value."""

    def standardised(x: Tensor, training: Tensor) -> Tensor:
        sigma = x[training].std(0, correction=correction)
        return (x - x[training].mean(0)) / (sigma + eps if add else sigma.clamp(min=eps))

    return standardised


N_MINUS_1 = "Your variance divides by N − 1 (torch's default). The mean squared deviation divides by N: `correction=0`."
LEAKS = (
    "The statistics are those of all examples, the test set's included: it has helped to prepare its own inputs, and "
    "is no longer unseen. Take those of the training set alone."
)
CONSTANT = (
    "A feature that is constant in training has the spread 0, and you divide by it (or by hardly more). It is only "
    "shifted: divide by 1 there."
)
NOT_QUITE_0 = (
    "The mean of equal numbers is often not quite that number in float32, so the spread of a constant feature comes "
    "out as 1e-8, and you divide by it. Constant is a feature whose largest value is its least."
)

STANDARDISE_BY_TRAINING = Exercise(
    reference=standardise_by_training,
    statement="Features x (M, D) and the mask of the training set, training (M,): shift and scale each feature so that "
    "over the training examples its mean is 0 and its variance, the mean squared deviation, is 1; all examples in the "
    "same way, (M, D). A feature that is constant in training is only shifted, whatever rounding makes of its spread.",
    nudge="x[training] holds the training examples: mean and standard deviation of each feature come from there, and "
    "are used for all rows. And where all its values are equal?",
    right="a corner that looks the same in all of training included. Whatever is estimated, be it a mean, is estimated "
    "from the training set.",
    inputs=features_and_masks,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        *(
            (divided_by_hardly_more(add, eps, n), CONSTANT + n * " (And your variance divides by N − 1.)")
            for n in (0, 1)
            for eps in (0.0, 1e-12, 1e-8, 1e-6, 1e-5)
            for add in (True, False)
        ),
        (divided_where(0, lambda rows: rows.std(0, correction=0)), NOT_QUITE_0),
        (divided_where(0, lambda rows: (rows - rows.mean(0)).square().mean(0).sqrt()), NOT_QUITE_0),
        (by_rows(lambda x, training: x[training], correction=1), N_MINUS_1),
        (by_rows(lambda x, training: x), LEAKS),
        (by_rows(lambda x, training: x, correction=1), LEAKS),
        (
            by_rows(lambda x, training: x[~training]),
            "The statistics are those of the test set. Take those of the training set.",
        ),
        (
            each_by_itself,
            "Training and test set are each scaled by their own statistics. Those of the training set serve both.",
        ),
        (
            lambda x, training: torch.where(training[:, None], standardise_by_training(x, training), x),
            "Only the training examples are shifted and scaled. The test examples go the same way.",
        ),
        (
            by_training(lambda x, rows: torch.where(rows.amax(0) > rows.amin(0), (x - rows.mean(0)) / spread(rows), x)),
            "A feature that is constant in training stays as it is in yours. It is shifted, too: subtract its mean.",
        ),
        (
            by_training(lambda x, rows: (x - rows.mean(0)) / spread(rows) * (rows.amax(0) > rows.amin(0))),
            "A feature that is constant in training is set to 0 in yours, in the test set too. It is only shifted.",
        ),
        (
            by_training(lambda x, rows: (x - rows.mean(0)) / spread(rows).square()),
            "You divide by the variance. The standard deviation, its root, makes the variance 1.",
        ),
        (
            by_training(lambda x, rows: (x - rows.mean()) / rows.std(correction=0)),
            "One mean and one spread serve all features. Each feature has its own: over dimension 0 alone.",
        ),
    ],
)

# ---- product_of_experts --------------------------------------------------------------------------------------------


def product_of_experts(mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    # Densities multiply, so precisions 1/σ² add up, and the means weigh by them. The prior: precision 1, mean 0.
    prior = torch.zeros_like(log_var.sum(0))  # (B, D); also where M is 0
    log_total = torch.cat([prior[None], -log_var]).logsumexp(0)  # stays finite where a precision is e^100
    return ((-log_var - log_total).exp() * mu).sum(0), -log_total


def experts(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n_experts: int, *shape: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        return tuple(scale * torch.randn(n_experts, *shape, generator=generator) for _ in range(2))

    mu, log_var = draw(2, 2, 3)
    return [
        (torch.tensor([[[2.0]], [[-1.0]]]), torch.tensor([[[1.0]], [[0.25]]]).log()),
        draw(1, 2, 2),  # one modality, and the prior
        draw(2, 3, 2),
        draw(3, 3, 3, scale=1.5),
        draw(5, 1, 4),
        (mu, torch.stack([log_var[0], torch.full((2, 3), 20.0)])),  # an expert that knows nothing
        (torch.zeros(0, 2, 3), torch.zeros(0, 2, 3)),  # no modality: the prior
    ]


Experts = Callable[[Tensor, Tensor], object]  # of mu and log_var, (M, B, D)


def gaussian(moments: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Experts:
    """(mean, log-variance) from a function of mu and the precisions, (M, B, D), that gives mean and variance."""

    def moments_of(mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = moments(mu, (-log_var).exp())
        return mean, variance.log()

    return moments_of


def right_mean(mu: Tensor, p: Tensor) -> Tensor:
    return (p * mu).sum(0) / (1 + p.sum(0))


def right_variance(p: Tensor) -> Tensor:
    return 1 / (1 + p.sum(0))


def of_product(value: Callable[[Tensor, Tensor], object]) -> Experts:
    """A function of the right mean and log-variance."""
    return lambda mu, log_var: value(*product_of_experts(mu, log_var))


def as_variances(mu: Tensor, log_var: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    """The right rule, with the log-variances for variances, and with a prior of some precision."""
    total = prior + (1 / log_var).sum(0)
    return (mu / log_var).sum(0) / total, 1 / total


AS_VARIANCES = (
    "log_var is taken for the variance, in and out: the precision is exp(−log_var), and a logarithm is asked."
)
AS_LOG_SIGMA = "log_var is taken for log σ. The precision is exp(−log_var), without a 2."

PRODUCT_OF_EXPERTS = Exercise(
    reference=product_of_experts,
    statement="The joint posterior of M modalities, ∝ N(0, 1) · Π_m N(mu[m], exp(log_var[m])), independent in every "
    "dimension: mu and log_var (M, B, D), where M may be 0. The pair (mu, log_var) of this product, (B, D) each.",
    nudge="The logarithm of a Gaussian is −(z − μ)²/2σ², up to a constant. Add up these parabolas, that of the prior "
    "too: what stands before z², and what before z?",
    right="no modality at all included. A modality that is missing is left out of the product, and one that knows "
    "nothing changes nothing.",
    inputs=experts,
    wrong=[
        (
            gaussian(lambda mu, p: ((p * mu).sum(0) / p.sum(0), 1 / p.sum(0))),
            "The mean leaves the prior out, 1 + Σ 1/σ² divides, and so does the variance.",
        ),
        (
            gaussian(lambda mu, p: ((p * mu).sum(0) / p.sum(0), right_variance(p))),
            "The variance is right. The mean leaves the prior out: 1 + Σ 1/σ² divides.",
        ),
        (
            gaussian(lambda mu, p: (right_mean(mu, p), 1 / p.sum(0))),
            "The mean is right. The variance leaves the prior out: its precision, 1, is one of the sum.",
        ),
        (
            gaussian(lambda mu, p: ((p * mu).sum(0) / (len(p) + p.sum(0)), 1 / (len(p) + p.sum(0)))),
            "Each expert brings a prior of its own in yours, M of them. The prior enters once.",
        ),
        (
            gaussian(lambda mu, p: (mu.mean(0), (1 / p).mean(0))),
            "The mean is the plain average of the means. The variances are averaged, too. Precisions, 1/σ², add up.",
        ),
        (
            gaussian(lambda mu, p: (mu.mean(0), right_variance(p))),
            "The variance is right. The mean is the plain average of the means; an expert counts by 1/σ².",
        ),
        (
            gaussian(lambda mu, p: (right_mean(mu, p), (1 / p).sum(0))),
            "The mean is right. The variances add up in yours. Precisions, 1/σ², do.",
        ),
        (
            gaussian(lambda mu, p: ((mu / p).sum(0) / (1 + (1 / p).sum(0)), 1 / (1 + (1 / p).sum(0)))),
            "You weigh and add up variances, so that who knows least has the last word. Precisions: exp(−log_var).",
        ),
        (
            gaussian(lambda mu, p: ((p * mu).mean(0) / (1 + p.mean(0)), 1 / (1 + p.mean(0)))),
            "You average over the experts (a `mean` for a `sum`), so that all of them together weigh as one.",
        ),
        (
            gaussian(lambda mu, p: ((p * mu).sum(1) / (1 + p.sum(1)), 1 / (1 + p.sum(1)))),
            "You sum over the batch, dimension 1. The experts lie along dimension 0.",
        ),
        (
            gaussian(lambda mu, p: (right_mean(mu, p.sqrt()), right_variance(p.sqrt()))),
            "You weigh by 1/σ. The precision is one over the variance, exp(−log_var), without ½.",
        ),
        (gaussian(lambda mu, p: (right_mean(mu, p.square()), right_variance(p.square()))), AS_LOG_SIGMA),
        (
            gaussian(lambda mu, p: (right_mean(mu, p.square()), right_variance(p.square()).sqrt())),
            AS_LOG_SIGMA + " Nor has the result a ½.",
        ),
        (lambda mu, log_var: as_variances(mu, log_var, 1.0), AS_VARIANCES),
        (lambda mu, log_var: as_variances(mu, log_var, 0.0), AS_VARIANCES),
        (
            of_product(lambda mean, log_var: (mean, log_var.exp())),
            "This is the variance in the second place. Its logarithm is asked.",
        ),
        (
            of_product(lambda mean, log_var: (mean, log_var / 2)),
            "This is log σ in the second place. log σ² is asked, without ½.",
        ),
    ],
)

# ---- distillation_loss ---------------------------------------------------------------------------------------------


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    # KL(teacher ‖ student), both softened. log_softmax keeps log p finite where p is 0 in float32.
    log_p = (teacher / temperature).log_softmax(1)  # (B, K)
    log_q = (student / temperature).log_softmax(1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1)


def students_and_teachers(generator: Generator) -> list[tuple[Tensor, Tensor, float]]:
    def draw(n: int, n_classes: int, temperature: float, scale: float = 2.0) -> tuple[Tensor, Tensor, float]:
        student, teacher = (scale * torch.randn(n, n_classes, generator=generator) for _ in range(2))
        return student, teacher, temperature

    sure = torch.tensor([[400.0, 0.0, 1.0], [0.0, 0.5, -300.0]])  # probabilities that are 0 in float32
    student, teacher, _ = draw(3, 4, 3.0)
    return [
        (torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]]), 2.0),
        draw(4, 3, 2.0),
        draw(3, 3, 4.0, scale=4.0),
        draw(5, 10, 0.5),
        draw(2, 4, 1.0),
        (student, student + 1, 3.0),  # the same probabilities: 0
        (student, teacher, 10.0),
        (draw(2, 3, 2.0)[0], sure, 2.0),
        (sure, draw(2, 3, 2.0)[0], 2.0),
    ]


Distilled = Callable[[Tensor, Tensor, float], Tensor]


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1)


def by_softened(value: Callable[[Tensor, Tensor, float], Tensor]) -> Distilled:
    """A function of the softened log-probabilities of student and teacher, (B, K) each, and of T."""

    def loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        log_q, log_p = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
        return value(log_q, log_p, temperature)

    return loss


def by_probabilities(small: float) -> Distilled:
    """The right rule, with the logarithms taken of probabilities and a small constant."""
    return by_softened(
        lambda log_q, log_p, t: (
            t**2 * (log_p.exp() * ((log_p.exp() + small).log() - (log_q.exp() + small).log())).sum(1)
        )
    )


def by_temperatures(of_student: Callable[[float], float], of_teacher: Callable[[float], float]) -> Distilled:
    """The right rule, with other temperatures in the two softmaxes."""
    return lambda student, teacher, t: (
        t**2 * kl((teacher / of_teacher(t)).log_softmax(1), (student / of_student(t)).log_softmax(1))
    )


def hard_labels(student: Tensor, teacher: Tensor) -> Tensor:
    """−log q of the class that the teacher finds likeliest, (B,)."""
    return -student.log_softmax(1).gather(1, teacher.argmax(1, keepdim=True)).squeeze(1)


HARD = (
    "You train on the class that the teacher finds likeliest. What it knows of the other classes, which is what the "
    "student is to learn, is thrown away: use all of its probabilities."
)

DISTILLATION_LOSS = Exercise(
    reference=distillation_loss,
    statement="T² · KL(teacher ‖ student) for each example, (B,), in nats: the logits of both, (B, K), which may be "
    "hundreds, divided by the temperature T and put through a softmax, give the two distributions over the classes. "
    "Training will differentiate it by the student's logits.",
    nudge="First both log_softmax(logits / T). KL(p ‖ q) is an expectation under p: whose probabilities are the "
    "weights, when the student is to learn from the teacher?",
    right="gradients included, and a teacher that is quite sure. With a warm T small probabilities count, too: that a "
    "4 looks more like a 9 than like a 0.",
    inputs=students_and_teachers,
    differentiate=("student",),
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            by_softened(lambda log_q, log_p, t: kl(log_p, log_q)),
            "T² is forgotten: the gradient of the KL falls as 1/T², and a warm teacher would hardly be heard.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t * kl(log_p, log_q)),
            "The factor is T in yours. The gradient of the KL falls as 1/T², so the factor is T².",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * kl(log_q, log_p)),
            "The KL is the wrong way round: the weights are the teacher's. (`kl_div(a, b)` is KL(b ‖ a).)",
        ),
        (
            by_softened(lambda log_q, log_p, t: -(t**2) * (log_p.exp() * log_q).sum(1)),
            "This is the cross-entropy, which is not 0 where the two agree: subtract the teacher's entropy.",
        ),
        (
            by_temperatures(lambda t: 1.0, lambda t: t),
            "Only the teacher is softened. The student's logits are divided by T as well.",
        ),
        (
            by_temperatures(lambda t: t, lambda t: 1.0),
            "Only the student is softened. The teacher's logits are divided by T as well.",
        ),
        (by_temperatures(lambda t: 1.0, lambda t: 1.0), "The temperature stands in front alone, not in the softmax."),
        (lambda student, teacher, t: hard_labels(student, teacher), HARD),
        (lambda student, teacher, t: t**2 * hard_labels(student / t, teacher), HARD),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p - log_q)).mean(1)),
            "You average over the classes. A KL sums them: the probabilities are the weights.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * kl(log_p, log_q).mean()),
            "This is the mean over the batch (`batchmean`). One number for each example is asked, (B,).",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p - log_q)).mean()),
            "This is the mean over batch and classes (`kl_div` without a `reduction`). Sum over the classes: (B,).",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p - log_q.exp())).sum(1)),
            "log p is compared with q itself. `kl_div` wants the student's `log_softmax`.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p - log_q.exp().log())).sum(1)),
            "Where the student's probability is 0 in float32, its logarithm is infinite. `log_softmax` stays finite.",
        ),
        *(
            (
                by_probabilities(small),
                "A probability that is 0 in float32 gives log 0, and 0 · log 0 = nan. `log_softmax` works with the "
                "logits and stays finite; a small constant against log 0 gives another value.",
            )
            for small in (0.0, 1e-12, 1e-10, 1e-8, 1e-6)
        ),
    ],
)

EXERCISES = [
    UNLABELLED_BOUND,
    BALANCED_CROSS_ENTROPY,
    BALANCED_ACCURACY,
    SPLIT_BY_SOURCE,
    STANDARDISE_BY_TRAINING,
    PRODUCT_OF_EXPERTS,
    DISTILLATION_LOSS,
]
