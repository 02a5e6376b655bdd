"""Exercises of notebook 10: labels that are missing, classes that are rare, copies that leak, experts, a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Generator, Tensor

from dgm_lib.exercises.engine import Exercise

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


def by_entr(bounds: Tensor, logits: Tensor) -> Tensor:
    q = logits.softmax(1)
    return (q * bounds).sum(1) + torch.special.entr(q).sum(1)


UNLABELLED_BOUND = Exercise(
    reference=unlabelled_bound,
    statement="The bound of log p(x) for images without a label: bounds (B, K) are lower bounds of log p(x, y) for "
    "every class y, with log p(y) in them, logits (B, K) those of q(y|x). The bound that this q(y|x) gives, (B,), in "
    "nats; training will differentiate it by both.",
    nudge="The label is a latent variable with K values. Write the ELBO with it, E_q[log p(x, y) − log q(y|x)]: its "
    "expectation is a sum over the classes.",
    right="gradients included. The closer q(y|x) comes to p(y|x), the tighter it is: images without a label teach the "
    "classifier too.",
    inputs=bounds_and_logits,
    differentiate=("bounds", "logits"),
    atol=1e-4,
    wrong=[
        (
            lambda bounds, logits: unlabelled_bound(bounds, logits).detach(),
            "No gradient comes back at all (numpy, `.item()`, `detach` or `no_grad`?), so images without a label "
            "teach nothing.",
        ),
        (
            lambda bounds, logits: unlabelled_bound(bounds, logits.detach()),
            "No gradient comes back to the logits: q(y|x), the classifier, learns nothing from images without a label. "
            "(With weights q that are cut off, what comes through log q alone cancels.)",
        ),
        (
            lambda bounds, logits: unlabelled_bound(bounds.detach(), logits),
            "No gradient comes back to the bounds: the model of x learns nothing from images without a label.",
        ),
        (
            lambda bounds, logits: (logits.softmax(1).detach() * bounds).sum(1) + entropy(logits.log_softmax(1)),
            "The gradient of the logits comes through the entropy alone, since the weights of the bounds are cut off: "
            "q(y|x) would become uniform, whatever the bounds say.",
        ),
        (
            lambda bounds, logits: (logits.softmax(1) * bounds).sum(1) + entropy(logits.log_softmax(1)).detach(),
            "No gradient comes back through the entropy, so q(y|x) would end on one class, as if the entropy had been "
            "forgotten.",
        ),
        (
            by_entr,
            "Where a probability is 0 in float32, the gradient of q log q by way of the softmax is 0 · inf = nan. "
            "`log_softmax` keeps log q finite, and its gradient.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1)),
            "The entropy of q(y|x) is forgotten: this is the expected bound of log p(x, y) alone. Training would make "
            "q(y|x) sure of one class, right or wrong.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds + log_q)).sum(1)),
            "The entropy has the wrong sign: under the sum stands bound − log q(y|x), so that doubt raises the bound.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1) + 2 * entropy(log_q)),
            "The entropy counts twice. Under the sum over the classes there is one −log q(y|x).",
        ),
        (by_log_q(lambda bounds, log_q, q: entropy(log_q)), "This is the entropy of q(y|x) alone, without the bounds."),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1) + entropy(log_q) / math.log(2)),
            "The entropy is in bits (`log2`) beside bounds in nats. Use the natural logarithm.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: -(q * (bounds - log_q)).sum(1)),
            "This is its negative, the loss. The bound itself is asked, which training raises.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: -(q * bounds).sum(1)),
            "This is the expected loss, with the sign turned and without the entropy of q(y|x). The bound is "
            "Σ_y q(y|x) · bound + H.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: -(q * bounds).sum(1) + entropy(log_q)),
            "The bounds have the sign of losses in yours, the entropy that of a bound. Both are added: Σ_y q(y|x) · "
            "bound + H.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (log_q - bounds).sum(1)),
            "Each class counts the same, and the sign is turned. The expectation under q(y|x) is asked.",
        ),
        (
            lambda bounds, logits: bounds.amax(1),
            "You take the largest of the bounds. The label is not known: each class counts by q(y|x), and the entropy "
            "is added.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: bounds.amax(1) + entropy(log_q)),
            "You take the largest of the bounds. The label is not known: each class counts by q(y|x).",
        ),
        (
            by_log_q(lambda bounds, log_q, q: likeliest(bounds, log_q)),
            "You take the bound of the class that q(y|x) finds likeliest, as if it were the label. Each class counts "
            "by its probability; argmax has no gradient either.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: likeliest(bounds, log_q) + entropy(log_q)),
            "You take the bound of the class that q(y|x) finds likeliest, as if it were the label. Each class counts "
            "by its probability; argmax has no gradient either.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: likeliest(bounds - log_q, log_q)),
            "You take the term of the class that q(y|x) finds likeliest, as if it were the label. The expectation "
            "runs over all classes.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (bounds - log_q).amax(1)),
            "You take the largest of bound − log q(y|x). The expectation under q(y|x) runs over all classes.",
        ),
        (
            lambda bounds, logits: bounds.mean(1),
            "You average the bounds: each class counts the same. Each counts by q(y|x), and the entropy is added.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: bounds.mean(1) + entropy(log_q)),
            "You average the bounds: each class counts the same. Each counts by q(y|x).",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (bounds - log_q).mean(1)),
            "You average over the classes, as if all were equally probable. The expectation is under q(y|x).",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds - log_q)).mean(1)),
            "You divide by K as well (a `mean` in the place of a `sum`). The probabilities sum to 1 already.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).mean(1) + entropy(log_q)),
            "The bounds are divided by K as well (a `mean` in the place of a `sum`). The probabilities sum to 1 "
            "already.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1) - (q * log_q).mean(1)),
            "The entropy is divided by K (a `mean` in the place of a `sum`): H = −Σ q log q.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (bounds - log_q).sum(1)),
            "You sum over the classes without the weights q(y|x). The expectation is a weighted sum.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: bounds.sum(1) + entropy(log_q)),
            "You sum the bounds of all classes, as if each image had every label. Each counts by q(y|x).",
        ),
        (
            lambda bounds, logits: bounds.sum(1),
            "You sum the bounds of all classes, as if each image had every label. Each counts by q(y|x), and the "
            "entropy is added.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1) - log_q.sum(1)),
            "log q(y|x) is subtracted without its weight. The entropy is −Σ q log q.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds - log_q).mean(1)),
            "log q(y|x) is subtracted without its weight, and K divides. The entropy is −Σ q log q.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds - log_q)).sum(1) - math.log(q.shape[1])),
            "You are log K below: log p(y) of a uniform prior is added a second time (a KL from the prior in the "
            "place of the entropy?). The bounds hold it already.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1) - math.log(q.shape[1])),
            "You add log p(y), which the bounds hold already, and leave the entropy of q(y|x) out.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds - log_q)).sum(1) + math.log(q.shape[1])),
            "You are log K above: log p(y) is taken out of the bounds. It belongs to log p(x, y).",
        ),
        (
            lambda bounds, logits: bounds.logsumexp(1),
            "This is log Σ_y exp(bound), the best that any q(y|x) could give; but q(y|x) does not appear, so the "
            "classifier would learn nothing. The one that this q(y|x) gives is asked.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (bounds + log_q).logsumexp(1)),
            "This is log Σ_y q(y|x) exp(bound): q(y|x) stands there as if it were a prior. The logarithm belongs "
            "inside of the expectation, and log q(y|x) is subtracted.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (bounds + log_q).logsumexp(1) + entropy(log_q)),
            "The logarithm stands outside of the expectation, log Σ q exp(bound), which is too high. Average the "
            "bounds themselves.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (bounds - log_q).logsumexp(1)),
            "`logsumexp` of bound − log q(y|x): the terms are logarithms to be averaged under q(y|x), not to be "
            "turned into probabilities and summed.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: bounds.logsumexp(1) + entropy(log_q)),
            "`logsumexp` leaves q(y|x) out of the first part: it is Σ_y q(y|x) · bound.",
        ),
        (
            lambda bounds, logits: (bounds + logits).logsumexp(1),
            "You add logits and bounds under a `logsumexp`. q(y|x), the softmax of the logits, is the weight of an "
            "expectation: Σ_y q(y|x) (bound − log q(y|x)).",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (log_q * bounds).sum(1)),
            "The weights are log q(y|x). The expectation weighs by q(y|x) itself, and the entropy is added.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (log_q + bounds).sum(1)),
            "You add log q(y|x) to the bounds, without weights. The expectation weighs each class by q(y|x).",
        ),
        (
            lambda bounds, logits: bounds.exp().sum(1).log(),
            "This is log Σ_y exp(bound), where exp underflows, and q(y|x) does not appear. The expectation under "
            "q(y|x) is asked.",
        ),
        (
            lambda bounds, logits: bounds.exp().mean(1).log(),
            "This is the logarithm of the mean of exp(bound). q(y|x) does not appear.",
        ),
        (
            lambda bounds, logits: bounds.logsumexp(1) - math.log(bounds.shape[1]),
            "This is the logarithm of the mean of exp(bound). q(y|x) does not appear.",
        ),
        (
            lambda bounds, logits: (logits.softmax(1) * (bounds - logits)).sum(1),
            "You subtract the logits. They are log q(y|x) only up to a constant: `log_softmax` first.",
        ),
        (
            lambda bounds, logits: (logits.softmax(1) * bounds).sum(1) - (logits * logits.exp()).sum(1),
            "The entropy is taken of the logits. They are no probabilities: softmax first.",
        ),
        (
            lambda bounds, logits: (logits * bounds).sum(1),
            "The logits are the weights in yours. q(y|x) is their softmax, and its entropy is added.",
        ),
        (
            lambda bounds, logits: (logits.exp() * (bounds - logits)).sum(1),
            "exp(logits) does not sum to 1. q(y|x) is the softmax of the logits.",
        ),
        (
            lambda bounds, logits: (logits.sigmoid() * (bounds - torch.nn.functional.logsigmoid(logits))).sum(1),
            "A sigmoid decides on each class by itself, and its values do not sum to 1. The classes exclude each "
            "other: softmax.",
        ),
        (
            lambda bounds, logits: (logits.softmax(0) * (bounds - logits.log_softmax(0))).sum(1),
            "Your softmax runs over the images of the batch, dimension 0. The classes lie along dimension 1.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds - log_q)).sum(0)),
            "You sum over the images of the batch, dimension 0. The classes lie along dimension 1.",
        ),
        (
            lambda bounds, logits: (bounds.softmax(1) * bounds).sum(1),
            "The weights are a softmax of the bounds. They are q(y|x), the softmax of the logits.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (bounds.softmax(1) * (bounds - log_q)).sum(1)),
            "The weights are a softmax of the bounds. They are q(y|x), the softmax of the logits.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (bounds.softmax(1) * bounds).sum(1) + entropy(log_q)),
            "The weights of the bounds are their own softmax. They are q(y|x), the softmax of the logits.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1) + entropy(bounds.log_softmax(1))),
            "The entropy is that of the softmax of the bounds. The entropy of q(y|x) is asked, from the logits.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1) + entropy(log_q).mean()),
            "The entropy is averaged over the batch. Each image has its own, (B,).",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1) + math.log(q.shape[1])),
            "You add log K, the largest entropy that there is. That of q(y|x) is asked, −Σ q log q.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds - q)).sum(1)),
            "q(y|x) is subtracted where its logarithm belongs: bound − log q(y|x).",
        ),
        (
            lambda bounds, logits: unlabelled_bound(bounds, logits.softmax(1)),
            "The softmax comes twice. The logits become q(y|x) by one.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * bounds).sum(1)[:, None] + entropy(log_q)),
            "Each image meets the entropies of all others, (B, B): one of the two parts is (B, 1), a `keepdim`?",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds - log_q)).sum(1).mean()),
            "This is the mean over the batch. One bound for each image is asked, (B,).",
        ),
        (
            by_log_q(lambda bounds, log_q, q: (q * (bounds - log_q)).sum()),
            "This is the sum over batch and classes. One bound for each image is asked, (B,).",
        ),
        (
            by_log_q(lambda bounds, log_q, q: q * (bounds - log_q)),
            "These are the terms of the classes, (B, K). Their sum over the classes is asked.",
        ),
        (
            by_log_q(lambda bounds, log_q, q: bounds - log_q),
            "These are bound − log q(y|x) for each class. Their expectation under q(y|x) is asked.",
        ),
        (
            lambda bounds, logits: (logits.softmax(1) * (bounds - logits.softmax(1).log())).sum(1),
            "A probability that is 0 in float32 gives 0 · log 0 = nan. `log_softmax` works with the logits and stays "
            "finite.",
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
        (100 * torch.eye(3), torch.tensor([1, 2, 0]), torch.tensor([10, 20, 30])),
    ]


Weighted = Callable[[Tensor, Tensor, Tensor], Tensor]


def nll_of(logits: Tensor, y: Tensor) -> Tensor:
    """−log p(y|x), (B,) nats."""
    return -logits.log_softmax(1).gather(1, y[:, None]).squeeze(1)


def by_weights(weights: Callable[[Tensor], Tensor]) -> Weighted:
    """The mean of the weighted terms, for weights of the classes that depend on their counts."""
    return lambda logits, y, counts: (weights(counts.float())[y] * nll_of(logits, y)).mean()


def by_terms(value: Callable[[Tensor, Tensor], Tensor]) -> Weighted:
    """A function of the right weights of the examples and of their −log p(y|x), (B,) each."""
    return lambda logits, y, counts: value(balanced(counts)[y], nll_of(logits, y))


def balanced(counts: Tensor) -> Tensor:
    return counts.sum() / (len(counts) * counts)


def normalised(weights: Tensor, counts: Tensor) -> Tensor:
    """Scaled so that the mean over the examples of the training set is 1."""
    return weights * counts.sum() / (weights * counts).sum()


def mean_of_class_means(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    nll = nll_of(logits, y)
    return torch.stack([nll[y == c].mean() for c in y.unique()]).mean()


def by_the_batch(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    seen = y.bincount(minlength=len(counts))
    return (len(y) / (len(counts) * seen[y]) * nll_of(logits, y)).mean()


BY_COUNT = (
    "Frequent classes weigh more in yours: the weights grow with the counts. They are inversely proportional to them."
)
SQUARE_ROOT = (
    "Your weights fall with the square root of the counts, a milder correction that some use. Inversely proportional "
    "is asked."
)

BALANCED_CROSS_ENTROPY = Exercise(
    reference=balanced_cross_entropy,
    statement="The cross-entropy with weights for rare classes: logits (B, K), y (B,), and counts (K,), the examples "
    "of each class in the training set. The weight of a class is inversely proportional to its count, and the mean "
    "weight over all examples of the training set is 1. The mean over the B examples of weight × −log p(y|x), nats.",
    nudge="Let the weight be a / n_c. Its mean over the training set is Σ n_c (a / n_c) / N: which a makes that 1? "
    "Then weights[y] has one weight for each example.",
    right="gradients included, and a batch of one. In the mean over the training set every class has the same say, "
    "1/K, and the step size keeps its meaning.",
    inputs=batches_with_counts,
    differentiate=("logits",),
    wrong=[
        (
            lambda logits, y, counts: balanced_cross_entropy(logits, y, counts).detach(),
            "No gradient comes back to the logits (numpy, `.item()`, `detach` or `no_grad`?), so training changes "
            "nothing.",
        ),
        (
            by_weights(torch.ones_like),
            "All classes weigh the same in yours: the ordinary cross-entropy, in which rare classes hardly count.",
        ),
        (by_weights(lambda n: n), BY_COUNT + " They are the counts themselves."),
        (by_weights(lambda n: n / n.sum()), BY_COUNT + " They are the shares of the classes."),
        (by_weights(lambda n: len(n) * n / n.sum()), BY_COUNT + " The fraction N / (K n_c) stands upside down."),
        (by_weights(lambda n: normalised(n, n)), BY_COUNT),
        (by_weights(lambda n: n / n.max()), BY_COUNT),
        (
            lambda logits, y, counts: (counts[y] * nll_of(logits, y)).sum() / counts[y].sum(),
            BY_COUNT + " (And torch's weighted mean divides by those of the batch: divide by B.)",
        ),
        (
            by_weights(lambda n: 1 / n),
            "Your weights are 1 / count, not scaled: the larger the training set, the smaller the loss. Scale them to "
            "the mean 1 over its examples.",
        ),
        (
            lambda logits, y, counts: (nll_of(logits, y) / counts[y]).sum(),
            "You sum −log p(y|x) / count, as if the batch were the training set. Scale the weights to the mean 1 over "
            "the training set, and take the mean over the batch.",
        ),
        (
            lambda logits, y, counts: (len(y) / (len(counts) * counts[y]) * nll_of(logits, y)).mean(),
            "You scale as if the batch were the training set (Σ −log p / (K count) over it, or its size as N). N is "
            "the number of examples of the training set, the sum of counts, and the mean runs over B.",
        ),
        (
            by_weights(lambda n: n.sum() / n),
            "Your weights are N / count. Each class then adds N in total over the training set, so their mean is K: "
            "divide by K.",
        ),
        (
            by_weights(lambda n: (1 / n) / (1 / n).sum()),
            "Your weights sum to 1 over the classes. Their mean over the examples of the training set is to be 1.",
        ),
        (
            by_weights(lambda n: len(n) * (1 / n) / (1 / n).sum()),
            "The mean of your weights over the classes is 1 (their sum is K). The mean over the examples of the "
            "training set is to be 1, where frequent classes come often.",
        ),
        (
            by_weights(lambda n: n.max() / n),
            "Your most frequent class has the weight 1. The mean weight over the examples of the training set is to "
            "be 1.",
        ),
        (
            by_weights(lambda n: n.min() / n),
            "Your rarest class has the weight 1. The mean weight over the examples of the training set is to be 1.",
        ),
        (
            by_weights(lambda n: n.median() / n),
            "You scale by the median of the counts. The mean weight over the examples of the training set is to be 1.",
        ),
        (
            by_weights(lambda n: n.quantile(0.5) / n),
            "You scale by the median of the counts. The mean weight over the examples of the training set is to be 1.",
        ),
        (by_weights(lambda n: n**-0.5), SQUARE_ROOT + " (Nor are yours scaled.)"),
        (by_weights(lambda n: (n.sum() / n).sqrt()), SQUARE_ROOT),
        (by_weights(lambda n: balanced(n).sqrt()), SQUARE_ROOT),
        (by_weights(lambda n: normalised(n**-0.5, n)), SQUARE_ROOT),
        (by_weights(lambda n: n**-0.5 / (n**-0.5).sum()), SQUARE_ROOT),
        (by_weights(lambda n: n**-0.5 / (n**-0.5).mean()), SQUARE_ROOT),
        (
            by_weights(lambda n: (1 / n).softmax(0)),
            "You take a softmax of 1 / count, which makes all weights nearly the same. Scale them instead: their mean "
            "over the examples of the training set is to be 1.",
        ),
        (
            by_weights(lambda n: (n.sum() - n) / n),
            "Your weights are the others' count over the class's own, as `pos_weight` of two classes. Inversely "
            "proportional is asked: a / count.",
        ),
        (
            by_weights(lambda n: 1 / n / (1 / n).norm()),
            "The squares of your weights sum to 1. Their mean over the examples of the training set is to be 1.",
        ),
        (
            by_weights(lambda n: balanced(n).square()),
            "Your weights are squared. Inversely proportional to the counts is asked.",
        ),
        (
            by_weights(lambda n: 1 - n / n.sum()),
            "Your weights are 1 − share. That is hardly more for one example in a thousand than for one in ten: "
            "inversely proportional is asked.",
        ),
        (
            by_weights(lambda n: normalised(1 - n / n.sum(), n)),
            "Your weights are 1 − share. That is hardly more for one example in a thousand than for one in ten: "
            "inversely proportional is asked.",
        ),
        (
            by_weights(lambda n: -(n / n.sum()).log()),
            "Your weights are −log share. Inversely proportional to the counts is asked.",
        ),
        (
            lambda logits, y, counts: ((counts.sum() // (len(counts) * counts))[y] * nll_of(logits, y)).mean(),
            "Your weights are whole numbers: `//` cuts their fractions off, and frequent classes weigh 0. Divide "
            "with `/`.",
        ),
        (
            by_terms(lambda weights, nll: (weights * nll).sum() / weights.sum()),
            "You divide by the sum of the weights in the batch, as torch's `cross_entropy(…, weight=…)` does. Then a "
            "batch of one rare example weighs no more than another batch. Divide by B.",
        ),
        (
            by_terms(lambda weights, nll: (weights * nll).sum()),
            "This is the sum over the batch. The mean is asked: divide by B.",
        ),
        (
            by_terms(lambda weights, nll: weights * nll),
            "These are the terms of the examples, (B,). Their mean is asked.",
        ),
        (
            by_terms(lambda weights, nll: -(weights * nll).mean()),
            "The sign is turned: minimising it would make the labels improbable.",
        ),
        (
            by_terms(lambda weights, nll: weights.mean() * nll.mean()),
            "The mean weight multiplies the mean term (or each weight meets each term, (B, B)?). Multiply example by "
            "example, then take the mean.",
        ),
        (
            lambda logits, y, counts: (balanced(counts)[logits.argmax(1)] * nll_of(logits, y)).mean(),
            "Your weights are those of the predicted classes. They belong to the labels: weights[y].",
        ),
        (
            lambda logits, y, counts: -(balanced(counts) * logits.log_softmax(1)).sum(1).mean(),
            "Every class of every example counts in yours. Only the log-probability of the label does.",
        ),
        (
            lambda logits, y, counts: (balanced(counts)[y] * nll_of(logits, y)).sum() / len(counts),
            "You divide by the number of classes. The mean over the examples of the batch is asked: divide by B.",
        ),
        (
            lambda logits, y, counts: (balanced(counts)[y] * nll_of(logits, y)).mean() / len(counts),
            "You divide by B and by K, as `mean` does with one-hot labels, (B, K). The mean over the B examples is "
            "asked.",
        ),
        (
            lambda logits, y, counts: -(balanced(counts) * logits.log_softmax(1)).mean(),
            "Every class of every example counts in yours. Only the log-probability of the label does.",
        ),
        (
            lambda logits, y, counts: balanced(counts).mean() * nll_of(logits, y).mean(),
            "You multiply by the mean weight of the classes. Each example has the weight of its own class: weights[y].",
        ),
        (
            lambda logits, y, counts: nll_of(logits * balanced(counts), y).mean(),
            "You multiply the logits by the weights. The weight belongs in front of −log p(y|x), after the softmax.",
        ),
        (
            lambda logits, y, counts: nll_of(logits + counts.float().log(), y).mean(),
            "You add log counts to the logits, the adjustment of logits (Menon et al. 2021), another remedy. Here the "
            "terms are weighted.",
        ),
        (
            lambda logits, y, counts: nll_of(logits - counts.float().log(), y).mean(),
            "You subtract log counts from the logits, which moves the prediction to another prior. Here the terms are "
            "weighted.",
        ),
        (
            mean_of_class_means,
            "You average within each class of the batch, then over its classes. A batch that holds some of the classes "
            "would count as much as one with the rare ones: the weights come from counts, and the mean runs over B.",
        ),
        (
            lambda logits, y, counts: (
                (balanced(y.bincount(minlength=len(counts)).clamp(min=1)))[y] * nll_of(logits, y)
            ).mean(),
            "Your weights come from the classes of the batch. Those of the training set are asked: counts.",
        ),
        (by_the_batch, "Your weights come from the classes of the batch. Those of the training set are asked: counts."),
        (
            lambda logits, y, counts: (-balanced(counts)[y] * logits.gather(1, y[:, None]).squeeze(1)).mean(),
            "The logit of the label stands where −log p(y|x) belongs: `log_softmax` is missing.",
        ),
        (
            lambda logits, y, counts: (-balanced(counts)[y] * (-nll_of(logits, y)).exp()).mean(),
            "You weigh −p(y|x), without the logarithm.",
        ),
        (
            lambda logits, y, counts: (
                -balanced(counts)[y] * logits.log_softmax(0).gather(1, y[:, None]).squeeze(1)
            ).mean(),
            "Your softmax runs over the batch, dimension 0. The classes lie along dimension 1.",
        ),
        (
            lambda logits, y, counts: (
                balanced(counts)[y] * -logits.softmax(1).gather(1, y[:, None]).squeeze(1).log()
            ).mean(),
            "Where the probability of the label is 0 in float32, its logarithm is infinite. `log_softmax` works with "
            "the logits and stays finite.",
        ),
        (
            lambda logits, y, counts: (balanced(counts)[y] * nll_of(logits.softmax(1), y)).mean(),
            "The softmax comes twice: `cross_entropy` and `log_softmax` want the logits as they are.",
        ),
        (
            lambda logits, y, counts: (balanced(counts)[y] * nll_of(logits, y)).mean() / math.log(2),
            "This is in bits. The course counts in nats: the natural logarithm.",
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
        draw(60, [0.8, 0.15, 0.05], right=0.2),
    ]


Confusion = Callable[[Tensor], Tensor]


def confusion(predicted: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """How often each class (row) is predicted as each (column), (K, K)."""
    return (y * n_classes + predicted).bincount(minlength=n_classes**2).view(n_classes, n_classes).double()


def by_confusion(value: Confusion) -> Callable[[Tensor, Tensor, int], Tensor]:
    return lambda predicted, y, n_classes: value(confusion(predicted, y, n_classes))


def recalls(table: Tensor) -> Tensor:
    """(K,), nan for a class without an example."""
    return table.diag() / table.sum(1)


def precisions(table: Tensor) -> Tensor:
    """(K,), nan for a class that is never predicted."""
    return table.diag() / table.sum(0)


def f1(table: Tensor) -> Tensor:
    """(K,), nan for a class that is neither there nor predicted."""
    return 2 * table.diag() / (table.sum(0) + table.sum(1))


def jaccard(table: Tensor) -> Tensor:
    return table.diag() / (table.sum(0) + table.sum(1) - table.diag())


def finite(values: Tensor) -> Tensor:
    return values[values.isfinite()]


def of_present(value: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A function of the recalls of the classes that y holds."""
    return by_confusion(lambda table: value(finite(recalls(table))))


def specificities(table: Tensor) -> Tensor:
    others = table.sum() - table.sum(1)
    return (others - table.sum(0) + table.diag()) / others


def rescaled(values: Tensor) -> Tensor:
    return (values.mean() - 1 / len(values)) / (1 - 1 / len(values))


PLAIN = (
    "This is the plain accuracy: each example counts the same, so frequent classes decide. Each class counts the "
    "same here."
)
PRECISION = (
    "You divide by how often a class is predicted: that is precision. Recall divides by how often it occurs, so that "
    "its share of found examples comes out."
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
        (by_confusion(lambda table: table.diag().sum() / table.sum()), PLAIN),
        (
            by_confusion(lambda table: (recalls(table).nan_to_num() * table.sum(1)).sum() / table.sum(1).max()),
            "You weigh the recalls by how many examples the classes have. Each class counts the same.",
        ),
        (by_confusion(lambda table: finite(precisions(table)).mean()), PRECISION),
        (by_confusion(lambda table: precisions(table).nan_to_num().mean()), PRECISION),
        (
            by_confusion(lambda table: precisions(table).nan_to_num()[table.sum(1) > 0].mean()),
            PRECISION,
        ),
        (
            by_confusion(lambda table: precisions(table).nan_to_num()[(table.sum(1) + table.sum(0)) > 0].mean()),
            PRECISION,
        ),
        (
            by_confusion(lambda table: (precisions(table).nan_to_num() * table.sum(1)).sum() / table.sum()),
            PRECISION + " (And each class counts by its examples.)",
        ),
        (by_confusion(lambda table: precisions(table).mean()), PRECISION + " (And it is nan where nothing is.)"),
        (
            by_confusion(lambda table: recalls(table).nan_to_num().mean()),
            "A class without an example counts as 0 in yours, as if all of it had been missed. It has no recall: leave "
            "it out, and divide by the number of classes that occur.",
        ),
        (
            by_confusion(lambda table: recalls(table).nan_to_num()[(table.sum(1) + table.sum(0)) > 0].mean()),
            "A class that is predicted but does not occur in y counts as 0 in yours. It has no recall: leave it out.",
        ),
        (
            by_confusion(lambda table: recalls(table).nan_to_num(1.0).mean()),
            "A class without an example counts as 1 in yours. It has no recall: leave it out.",
        ),
        (
            by_confusion(lambda table: recalls(table).mean()),
            "A class without an example gives 0/0 = nan. It has no recall: leave it out of the mean.",
        ),
        (
            by_confusion(lambda table: finite(recalls(table))[table.sum(0)[table.sum(1) > 0] > 0].mean()),
            "A class that is never predicted is left out in yours. It occurs, so its recall is 0, and it counts.",
        ),
        (
            by_confusion(lambda table: finite(recalls(table)).sum() / (table.sum(0) > 0).sum()),
            "You divide by the number of classes that are predicted. Those that occur in y count.",
        ),
        (
            by_confusion(lambda table: table.diag().sum() / (table.sum(1) > 0).sum()),
            "You divide the number of right ones by the number of classes. Each class is divided by its own number of "
            "examples first.",
        ),
        (
            by_confusion(lambda table: table.diag().sum() / len(table)),
            "You divide the number of right ones by the number of classes. Each class is divided by its own number of "
            "examples first.",
        ),
        (
            by_confusion(lambda table: table.diag().sum() / table.sum() / len(table)),
            "You divide by all N examples for each class, then by the number of classes. A class is divided by its own "
            "number of examples.",
        ),
        (
            by_confusion(lambda table: table.diag().sum() / table.sum() / (table.sum(1) > 0).sum()),
            "You divide by all N examples for each class, then by the number of classes. A class is divided by its own "
            "number of examples.",
        ),
        (
            by_confusion(lambda table: (table.diag() / table.sum(1).clamp(min=1) / table.sum(1).clamp(min=1)).sum()),
            "You divide by the number of examples of a class twice. The recall of a class is its right ones over its "
            "examples.",
        ),
        (
            by_confusion(lambda table: finite(recalls(table)).sum() / table.sum()),
            "The recalls are divided by N. Their mean over the classes is asked.",
        ),
        (of_present(lambda values: values.sum()), "You add the recalls up. Their mean is asked."),
        (of_present(lambda values: values.min()), "This is the worst recall. The mean over the classes is asked."),
        (of_present(lambda values: values.max()), "This is the best recall. The mean over the classes is asked."),
        (
            of_present(lambda values: values.quantile(0.5)),
            "This is the median of the recalls. Their mean is asked.",
        ),
        (of_present(lambda values: values.median()), "This is the median of the recalls. Their mean is asked."),
        (
            of_present(lambda values: values.prod() ** (1 / len(values))),
            "This is the geometric mean of the recalls, 0 as soon as one class is missed. The ordinary mean is asked.",
        ),
        (of_present(lambda values: values.prod()), "This is the product of the recalls. Their mean is asked."),
        (
            of_present(lambda values: len(values) / (1 / values).sum()),
            "This is the harmonic mean of the recalls. The ordinary one is asked.",
        ),
        (
            of_present(lambda values: values.square().mean().sqrt()),
            "This is the root mean square of the recalls. The ordinary mean is asked.",
        ),
        (
            of_present(lambda values: values.floor().mean()),
            "The recalls are cut to whole numbers: `//`, or an integer tensor. Divide with `/`.",
        ),
        (
            of_present(lambda values: 1 - values.mean()),
            "This is the balanced error. The accuracy is one minus it.",
        ),
        (
            of_present(rescaled),
            "You rescale so that chance gives 0. Balanced accuracy is the mean of the recalls as it is.",
        ),
        (
            of_present(lambda values: 100 * values.mean()),
            "This is in percent. A share between 0 and 1 is asked.",
        ),
        (by_confusion(recalls), "These are the recalls of the classes. Their mean is asked."),
        (of_present(lambda values: values), "These are the recalls of the classes. Their mean is asked."),
        (
            by_confusion(lambda table: finite(f1(table)).mean()),
            "This is the mean of the F1 scores, which mix recall with precision. Recall alone is asked.",
        ),
        (
            by_confusion(lambda table: f1(table).nan_to_num().mean()),
            "This is the mean of the F1 scores, which mix recall with precision. Recall alone is asked.",
        ),
        (
            by_confusion(lambda table: f1(table)[table.sum(1) > 0].mean()),
            "This is the mean of the F1 scores, which mix recall with precision. Recall alone is asked.",
        ),
        (
            by_confusion(lambda table: finite(jaccard(table)).mean()),
            "You divide by all examples that are of the class or predicted as it (intersection over union). Recall "
            "divides by those of the class.",
        ),
        (
            by_confusion(lambda table: jaccard(table)[table.sum(1) > 0].mean()),
            "You divide by all examples that are of the class or predicted as it (intersection over union). Recall "
            "divides by those of the class.",
        ),
        (
            by_confusion(lambda table: finite(specificities(table)).mean()),
            "This is the share of the other classes' examples that are not called c, specificity. Recall looks at the "
            "examples of c.",
        ),
        (
            by_confusion(lambda table: (finite(recalls(table)).mean() + finite(specificities(table)).mean()) / 2),
            "You average recall and specificity, as for one class against the rest. Over several classes it is the "
            "mean of the recalls.",
        ),
        (
            by_confusion(lambda table: (1 - (table.sum(0) + table.sum(1) - 2 * table.diag()) / table.sum()).mean()),
            "You compare (predicted == c) with (y == c) over all examples, so the many others of each class count as "
            "right. Look at the examples with y == c alone.",
        ),
        (
            by_confusion(
                lambda table: (1 - (table.sum(0) + table.sum(1) - 2 * table.diag()) / table.sum())[
                    table.sum(1) > 0
                ].mean()
            ),
            "You compare (predicted == c) with (y == c) over all examples, so the many others of each class count as "
            "right. Look at the examples with y == c alone.",
        ),
        (
            by_confusion(lambda table: recalls(table)[1:].nanmean()),
            "Class 0 is left out in yours. The classes are 0 … n_classes − 1.",
        ),
        (
            by_confusion(lambda table: recalls(table)[:-1].nanmean()),
            "The last class is left out in yours. The classes are 0 … n_classes − 1.",
        ),
        (
            by_confusion(lambda table: recalls(table)[1]),
            "This is the recall of class 1 alone. The mean over all classes is asked.",
        ),
        (
            by_confusion(lambda table: recalls(table)[0]),
            "This is the recall of class 0 alone. The mean over all classes is asked.",
        ),
        (
            by_confusion(lambda table: finite(recalls(table)).mean().round()),
            "Your answer is rounded to a whole number.",
        ),
        (
            by_confusion(lambda table: (table.diag() / (table.sum(1) + 1e-8)).sum() / len(table)),
            "A class without an example counts as 0 in yours, as if all of it had been missed. It has no recall: leave "
            "it out, and divide by the number of classes that occur.",
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


def by_place(source: Tensor, is_copy: Tensor, held_out: Tensor) -> Masks:
    held = torch.isin(torch.arange(len(source)), held_out)
    return ~held, held & ~is_copy


def by_place_alone(source: Tensor, is_copy: Tensor, held_out: Tensor) -> Masks:
    held = torch.isin(torch.arange(len(source)), held_out)
    return ~held, held


def by_the_first(source: Tensor, is_copy: Tensor, held_out: Tensor) -> Masks:
    held = source == held_out[0]
    return ~held, held & ~is_copy


def at_the_end(source: Tensor, is_copy: Tensor, held_out: Tensor) -> Masks:
    """As many of the pool at the end as are asked for testing, whatever they come from."""
    test = torch.arange(len(source)) >= len(source) - len(held_out)
    return ~test, test


def at_the_front(source: Tensor, is_copy: Tensor, held_out: Tensor) -> Masks:
    """The same with the first images of the pool."""
    test = torch.arange(len(source)) < len(held_out)
    return ~test, test


LEAK = (
    "Copies of test photographs are in your training set: the model has seen what it is tested on, turned or shifted, "
    "and the test accuracy comes out too high. "
)

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
            by_held(lambda held, is_copy: (torch.ones_like(held), held)),
            "Your training set is the whole pool, the test photographs included.",
        ),
        (
            by_held(lambda held, is_copy: (~is_copy, held & ~is_copy)),
            "The test photographs are in your training set, and the copies of all others are not.",
        ),
        (
            by_held(lambda held, is_copy: (is_copy, held & ~is_copy)),
            LEAK + "It consists of all copies, and the photographs themselves are missing.",
        ),
        (
            by_held(lambda held, is_copy: (is_copy, ~is_copy)),
            LEAK + "You train on all copies and test on all photographs; held_out is not used.",
        ),
        (
            by_held(lambda held, is_copy: (~is_copy, is_copy)),
            "You train on all photographs and test on all copies of them; held_out is not used, and every test image "
            "has been seen in training.",
        ),
        (
            by_held(lambda held, is_copy: (~held, held)),
            "Your test set has augmented copies in it. It has to look like the data of which accuracy is claimed: the "
            "photographs themselves.",
        ),
        (
            by_held(lambda held, is_copy: (~held, held & is_copy)),
            "Your test set consists of the copies. The held-out photographs themselves are asked: `~is_copy`.",
        ),
        (
            by_held(lambda held, is_copy: (~held & ~is_copy, held & ~is_copy)),
            "The copies of the training photographs are missing in your training set. They leak nothing, and were "
            "made for it.",
        ),
        (
            by_held(lambda held, is_copy: (~held & ~is_copy, held)),
            "The copies are on the wrong side: those of training photographs are missing in training, those of test "
            "photographs are in the test set.",
        ),
        (
            by_held(lambda held, is_copy: (~held & is_copy, held & ~is_copy)),
            "Your training set has the copies alone. The photographs that they come from belong to it, too.",
        ),
        (
            by_held(lambda held, is_copy: (~held, ~is_copy)),
            "Your test set holds all photographs, those of the training set included.",
        ),
        (
            by_held(lambda held, is_copy: (~(held & is_copy), held & ~is_copy)),
            "You keep the copies of test photographs out of training, but not the test photographs themselves.",
        ),
        (
            by_held(lambda held, is_copy: (~held, held | ~is_copy)),
            "Your test set holds all that is held out or no copy. Both conditions have to hold: `&`, not `|`.",
        ),
        (
            by_held(lambda held, is_copy: (held & ~is_copy, ~held)),
            "The order is exchanged: the training set comes first.",
        ),
        (
            by_held(lambda held, is_copy: (held, ~held & ~is_copy)),
            "The sides are exchanged: you train on the photographs that are held out for testing.",
        ),
        (
            by_held(lambda held, is_copy: (held, ~held)),
            "The sides are exchanged: you train on the photographs that are held out for testing, and test on copies.",
        ),
        (
            by_held(lambda held, is_copy: (held, held & ~is_copy)),
            "Your training set consists of the held-out photographs and their copies, just those that it must not "
            "have: `~`.",
        ),
        (
            by_held(lambda held, is_copy: (~held, ~held & ~is_copy)),
            "Your test set consists of training photographs. Those that are held out belong there.",
        ),
        (
            by_held(lambda held, is_copy: (~held & is_copy, held)),
            "Your training set has the copies alone, without their photographs, and your test set has copies in it.",
        ),
        (
            by_held(lambda held, is_copy: (~held & is_copy, held & is_copy)),
            "You read is_copy the wrong way round: True is an augmented copy, False a photograph itself.",
        ),
        (
            by_held(lambda held, is_copy: (~held | ~is_copy, held & ~is_copy)),
            "You keep the copies of test photographs out of training, but not the test photographs themselves.",
        ),
        (
            by_held(lambda held, is_copy: (~held, held ^ is_copy)),
            "Your test set holds what is either held out or a copy. Held out and no copy is asked.",
        ),
        (
            by_place,
            "You compare held_out with the place of an image in the pool. Its numbers are those of photographs: "
            "source.",
        ),
        (
            by_place_alone,
            "You compare held_out with the place of an image in the pool. Its numbers are those of photographs: "
            "source. (And is_copy is not used.)",
        ),
        (
            by_the_first,
            "Only the first of the held-out photographs is held out in yours. `torch.isin` compares with all.",
        ),
        (
            at_the_end,
            "You split the pool as it lies, which is augmenting first and splitting afterwards: copies of one "
            "photograph are on both sides. held_out says which photographs to test on.",
        ),
        (
            at_the_front,
            "You split the pool as it lies, which is augmenting first and splitting afterwards: copies of one "
            "photograph are on both sides. held_out says which photographs to test on.",
        ),
        (
            by_held(lambda held, is_copy: ~held),
            "This is the training set's mask alone. The pair (training, test) is asked.",
        ),
        (
            by_held(lambda held, is_copy: held & ~is_copy),
            "This is the test set's mask alone. The training set's comes before it.",
        ),
        (
            lambda source, is_copy, held_out: by_the_first(source, is_copy, held_out[-1:]),
            "Only the last of the held-out photographs is held out in yours (is a mask overwritten in a loop?). "
            "`torch.isin` compares with all.",
        ),
        (
            by_held(lambda held, is_copy: (~held).long() + 2 * (held & ~is_copy).long()),
            "You give each image a number. Two masks (M,) are asked, (training, test).",
        ),
        (
            by_held(lambda held, is_copy: torch.stack([~held, held & ~is_copy], 1)),
            "The masks are right, but stacked as columns, (M, 2). The pair of two masks (M,) is asked.",
        ),
    ],
)

# ---- standardise_by_training ---------------------------------------------------------------------------------------


def standardise_by_training(x: Tensor, training: Tensor) -> Tensor:
    # All that is learnt is learnt from the training examples: here, where each feature lies and how far it spreads.
    mean = x[training].mean(0)  # (D,)
    sigma = x[training].std(0, correction=0)
    return (x - mean) / torch.where(sigma > 0, sigma, 1.0)


def features_and_masks(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n: int, n_features: int, n_training: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
        training = torch.randperm(n, generator=generator) < n_training
        x = 2 * torch.randn(n, n_features, generator=generator) + torch.arange(n_features)
        return torch.where(training[:, None], x, 1.5 * x + shift), training

    x, training = draw(6, 4, 4)
    dark = torch.where(training, 0.0, 3.0)  # a corner that is never inked in training
    return [
        (
            torch.tensor([[0.0, 1.0], [2.0, 5.0], [9.0, 2.0], [5.0, 3.0]]),
            torch.tensor([True, True, False, False]),
        ),
        draw(8, 3, 5),
        draw(5, 5, 3, shift=2.0),
        draw(40, 6, 30, shift=1.0),
        draw(7, 1, 2),
        (torch.cat([x, dark[:, None]], 1), training),
    ]


Standardised = Callable[[Tensor, Tensor], Tensor]


def spread(x: Tensor, correction: int = 0) -> Tensor:
    """Standard deviation of each feature, 1 where it is constant."""
    sigma = x.std(0, correction=correction)
    return torch.where(sigma > 0, sigma, 1.0)


def by_rows(rows: Callable[[Tensor, Tensor], Tensor], correction: int = 0) -> Standardised:
    """The right rule with the statistics of other rows."""
    return lambda x, training: (x - rows(x, training).mean(0)) / spread(rows(x, training), correction)


def by_training(value: Callable[[Tensor, Tensor], Tensor]) -> Standardised:
    """A function of all rows and of those of the training set."""
    return lambda x, training: value(x, x[training])


def each_by_itself(correction: int) -> Standardised:
    """Training and test set, each by its own statistics."""
    return lambda x, training: torch.where(
        training[:, None],
        by_rows(lambda x, training: x[training], correction)(x, training),
        by_rows(lambda x, training: x[~training], correction)(x, training),
    )


def training_alone(correction: int) -> Standardised:
    return lambda x, training: torch.where(
        training[:, None], by_rows(lambda x, training: x[training], correction)(x, training), x
    )


def divided_by_hardly_more(eps: float, correction: int) -> Standardised:
    return by_training(lambda x, rows: (x - rows.mean(0)) / rows.std(0, correction=correction).clamp(min=eps))


ALL_ROWS = (
    "The statistics are those of all examples, the test set's included: it has helped to prepare its own inputs, and "
    "is no longer unseen. Take those of the training set alone."
)
EACH = (
    "Training and test set are each shifted and scaled by their own statistics, so the same image would mean another "
    "thing in each. Those of the training set serve both."
)
TRAINING_ALONE = (
    "Only the training examples are shifted and scaled. The test examples go the same way, by the statistics of the "
    "training set."
)
N_MINUS_1 = " (And your variance divides by N − 1, torch's default; the mean squared deviation is `correction=0`.)"
HARDLY_MORE = (0.0, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-5**0.5)
CONSTANT = (
    "A feature that is constant in training has the spread 0, and you divide by it (or by hardly more). It is only "
    "shifted: divide by 1 there."
)

STANDARDISE_BY_TRAINING = Exercise(
    reference=standardise_by_training,
    statement="Features x (M, D) and the mask of the training set, training (M,): shift and scale each feature so that "
    "over the training examples its mean is 0 and its variance, the mean squared deviation, is 1; all examples in the "
    "same way, (M, D). A feature that is constant in training is only shifted.",
    nudge="x[training] holds the training examples: mean and standard deviation of each feature come from there, and "
    "are used for all rows.",
    right="a corner that is never inked in training included. Whatever is estimated, be it a mean, is estimated from "
    "the training set.",
    inputs=features_and_masks,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (by_rows(lambda x, training: x), ALL_ROWS),
        (by_rows(lambda x, training: x, 1), ALL_ROWS + N_MINUS_1),
        (
            by_rows(lambda x, training: x[~training]),
            "The statistics are those of the test set. Take those of the training set.",
        ),
        (
            by_rows(lambda x, training: x[~training], 1),
            "The statistics are those of the test set. Take those of the training set." + N_MINUS_1,
        ),
        (each_by_itself(0), EACH),
        (each_by_itself(1), EACH + N_MINUS_1),
        (training_alone(0), TRAINING_ALONE),
        (training_alone(1), TRAINING_ALONE + N_MINUS_1),
        (
            lambda x, training: (x - x.mean(0)) / spread(x[training]),
            "The mean is that of all examples, the test set's included. Take that of the training set alone.",
        ),
        (
            lambda x, training: (x - x[training].mean(0)) / spread(x),
            "The spread is that of all examples, the test set's included. Take that of the training set alone.",
        ),
        (
            by_training(lambda x, rows: (x - rows.mean(0)) / torch.where(rows.std(0) > 0, rows.std(0), 1.0)),
            "Your variance divides by N − 1 (torch's default). The mean squared deviation divides by N: "
            "`correction=0`.",
        ),
        *((divided_by_hardly_more(eps, 0), CONSTANT) for eps in HARDLY_MORE),
        *((divided_by_hardly_more(eps, 1), CONSTANT + N_MINUS_1) for eps in HARDLY_MORE),
        (
            by_training(lambda x, rows: (x - rows.mean(0)) / (rows.std(0, correction=0) + 1)),
            "You add 1 to every standard deviation. Only those that are 0 are replaced by 1.",
        ),
        (
            by_training(lambda x, rows: ((x - rows.mean(0)) / rows.std(0, correction=0)).nan_to_num(0, 0, 0)),
            "A feature that is constant in training is set to 0 in yours, in the test set too. It is only shifted.",
        ),
        (by_training(lambda x, rows: x - rows.mean(0)), "The features are shifted only. Divide by their spread, too."),
        (by_training(lambda x, rows: x / spread(rows)), "The features are scaled only. Subtract their means first."),
        (
            by_training(lambda x, rows: (x - rows.mean(0)) / spread(rows).square()),
            "You divide by the variance. The standard deviation, its root, makes the variance 1.",
        ),
        (
            by_training(lambda x, rows: (x - rows.mean(0)) * spread(rows)),
            "You multiply by the standard deviation. Dividing by it makes the variance 1.",
        ),
        (
            by_training(lambda x, rows: x / spread(rows) - rows.mean(0)),
            "You divide before the mean is subtracted, so that the mean is not 0 afterwards.",
        ),
        (
            lambda x, training: (x - (x * training[:, None]).mean(0)) / spread(x * training[:, None]),
            "The other rows count as zeros in your statistics (x times the mask). Pick the rows: x[training].",
        ),
        (
            by_training(lambda x, rows: (x + rows.mean(0)) / spread(rows)),
            "The mean is added. Subtract it.",
        ),
        (
            by_training(lambda x, rows: (x - rows.mean()) / rows.std(correction=0)),
            "One mean and one spread serve all features. Each feature has its own: over dimension 0 alone.",
        ),
        (
            lambda x, training: (x - x.mean()) / x.std(correction=0),
            "One mean and one spread serve all features, and they are those of all examples. Each feature has its own, "
            "from the training set.",
        ),
        (
            lambda x, training: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0),
            "Each example is standardised by itself, over its features. Each feature is, over the training examples: "
            "dimension 0.",
        ),
        (
            by_training(lambda x, rows: (x - rows.amin(0)) / (rows.amax(0) - rows.amin(0))),
            "You stretch the features to 0 … 1. Mean 0 and variance 1 are asked.",
        ),
        (
            by_training(lambda x, rows: (x - rows.quantile(0.5, dim=0)) / spread(rows)),
            "You subtract the median. The mean is asked.",
        ),
        (
            by_training(lambda x, rows: (x - rows.median(0).values) / spread(rows)),
            "You subtract the median. The mean is asked.",
        ),
        (
            by_training(lambda x, rows: (rows - rows.mean(0)) / spread(rows)),
            "These are the training examples alone. All examples are asked, (M, D).",
        ),
        (
            lambda x, training: ((x - x[training].mean(0)) / spread(x[training]))[~training],
            "These are the test examples alone. All examples are asked, (M, D).",
        ),
        (
            by_training(lambda x, rows: rows.mean(0)),
            "These are the means. The standardised features are asked, (M, D).",
        ),
    ],
)

# ---- product_of_experts --------------------------------------------------------------------------------------------


def product_of_experts(mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    # Densities multiply, so precisions 1/σ² add up, and the means weigh by them. The prior: precision 1, mean 0.
    precision = (-log_var).exp()  # (M, B, D)
    total = 1 + precision.sum(0)  # (B, D)
    return (precision * mu).sum(0) / total, -total.log()


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
Moment = tuple[Callable[[Tensor, Tensor], Tensor], str]  # of mu and the precisions, (M, B, D); with its hint

RIGHT_MEAN: Moment = (lambda mu, p: (p * mu).sum(0) / (1 + p.sum(0)), "The mean is right.")
RIGHT_VARIANCE: Moment = (lambda mu, p: 1 / (1 + p.sum(0)), "The variance is right.")

MEANS: list[Moment] = [
    (
        lambda mu, p: (p / p.sum(0) * mu).sum(0),
        "The mean leaves the prior out, which draws it to 0: 1 + Σ 1/σ² divides.",
    ),
    (lambda mu, p: mu.mean(0), "The mean is the plain average of the means. An expert counts by its precision, 1/σ²."),
    (
        lambda mu, p: mu.sum(0) / (len(mu) + 1),
        "The mean is the plain average of the means and the prior's 0. An expert counts by its precision, 1/σ².",
    ),
    (lambda mu, p: mu.sum(0), "The mean is the sum of the means. They are averaged, each by its precision, 1/σ²."),
    (
        lambda mu, p: (mu / p).sum(0) / (1 + (1 / p).sum(0)),
        "The mean weighs by the variances, so that who knows least has the last word. It weighs by 1/σ².",
    ),
    (
        lambda mu, p: (1 / p / (1 / p).sum(0) * mu).sum(0),
        "The mean weighs by the variances, without the prior, so that who knows least has the last word.",
    ),
    # rarer ones
    (
        lambda mu, p: (p * mu).sum(0) / (len(p) + p.sum(0)),
        "In the mean each expert brings a prior of its own, M of them.",
    ),
    (lambda mu, p: mu.prod(0), "The mean is the product of the means. It is the densities that multiply."),
    (lambda mu, p: (p * mu).sum(0), "The mean is not divided: Σ μ/σ² is the mean times the total precision."),
    (
        lambda mu, p: (p.sqrt() * mu).sum(0) / (1 + p.sqrt().sum(0)),
        "The mean weighs by 1/σ. The precision is one over the variance, exp(−log_var), without ½.",
    ),
]
VARIANCES: list[Moment] = [
    (lambda mu, p: 1 / p.sum(0), "The variance leaves the prior out: its precision, 1, is one of the sum."),
    (
        lambda mu, p: (1 / p).mean(0),
        "The variances are averaged. Precisions, 1/σ², add up: two experts together are surer than either.",
    ),
    (
        lambda mu, p: (1 + (1 / p).sum(0)) / (len(p) + 1),
        "The variances are averaged, the prior's too. Precisions, 1/σ², add up: two experts are surer than either.",
    ),
    (lambda mu, p: (1 / p).sum(0), "The variances add up. Precisions, 1/σ², do: two experts are surer than either."),
    (
        lambda mu, p: 1 + (1 / p).sum(0),
        "The variances add up, the prior's too. Precisions, 1/σ², do: two experts are surer than either.",
    ),
    (lambda mu, p: 1 / p.prod(0), "The precisions are multiplied (the log-variances summed). They add up."),
    (lambda mu, p: p.log().mean(0).neg().exp(), "The log-variances are averaged. The precisions, 1/σ², add up."),
    (
        lambda mu, p: 1 / (1 + (1 / p).sum(0)),
        "The variance adds up variances as if they were precisions, exp(−log_var).",
    ),
    (
        lambda mu, p: 1 / (1 / p).sum(0),
        "The variance adds up variances as if they were precisions, exp(−log_var), and leaves the prior out.",
    ),
    (lambda mu, p: 1 + p.sum(0), "The second is the logarithm of the precision. The log-variance is its negative."),
    (
        lambda mu, p: p.sum(0),
        "The second is the logarithm of the precision, without the prior. The log-variance is asked.",
    ),
    # rarer ones
    (lambda mu, p: 1 / (len(p) + p.sum(0)), "In the variance each expert brings a prior of its own, M of them."),
    (lambda mu, p: 1 / p.mean(0), "The precisions are averaged. They add up, each expert making the posterior surer."),
    (
        lambda mu, p: (len(p) + 1) / (1 + p.sum(0)),
        "The precisions are averaged, the prior's too. They add up, each expert making the posterior surer.",
    ),
    (
        lambda mu, p: 1 / (1 + p.mean(0)),
        "The precisions of the experts are averaged before the prior's is added. They add up.",
    ),
    (
        lambda mu, p: 1 / (1 + p.sqrt().sum(0)),
        "The variance adds up 1/σ. The precision is one over the variance, exp(−log_var), without ½.",
    ),
    (
        lambda mu, p: 1 / (1 + p.sum(0)).square(),
        "The variance is squared: the total of 1/σ² is one over σ², not over σ.",
    ),
]
TOGETHER: list[tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], str]] = [
    (
        lambda mu, p: (mu.mean(0), (1 / p).mean(0) + mu.square().mean(0) - mu.mean(0).square()),
        "These are mean and variance of a mixture of the experts, which any one of them may decide. In a product all "
        "have to agree.",
    ),
    (
        lambda mu, p: (
            (p * mu).sum(0) / (p.sum(0) - len(p) + 1),
            1 / (p.sum(0) - len(p) + 1),
        ),
        "You divide the prior out of each expert. Here the experts are without it: it enters once, and nothing is "
        "divided.",
    ),
    (
        lambda mu, p: ((p * mu).sum(0) / (len(p) + p.sum(0)), 1 / (len(p) + p.sum(0))),
        "Each expert brings a prior of its own in yours, M of them. The prior enters once.",
    ),
    (
        lambda mu, p: ((p.sqrt() * mu).sum(0) / (1 + p.sqrt().sum(0)), 1 / (1 + p.sqrt().sum(0))),
        "You weigh by 1/σ. The precision is one over the variance, exp(−log_var), without ½.",
    ),
    (
        lambda mu, p: ((p.sqrt() * mu).sum(0) / (1 + p.sqrt().sum(0)), 1 / (1 + p.sqrt().sum(0)).square()),
        "You weigh by 1/σ. The precision is one over the variance, exp(−log_var), without ½.",
    ),
    (
        lambda mu, p: ((p * mu).sum(0) / (1 + p.prod(0)), 1 / (1 + p.prod(0))),
        "The precisions of the experts are multiplied. They add up.",
    ),
    (
        lambda mu, p: ((p * mu).sum(0) / p.prod(0), 1 / p.prod(0)),
        "The precisions are multiplied. They add up, with 1 for the prior.",
    ),
    (
        lambda mu, p: ((p * mu).mean(0) / (1 + p.mean(0)), 1 / (1 + p.mean(0))),
        "You average over the experts before the prior is added (a `mean` in the place of a `sum`), so that all of "
        "them together weigh as one.",
    ),
    (
        lambda mu, p: ((p * mu).mean(0) / (1 + p.sum(0)), 1 / (1 + p.sum(0))),
        "The mean is divided by M as well (a `mean` in the place of a `sum`). The total precision divides already.",
    ),
    (
        lambda mu, p: ((p * mu).sum(0) * (1 + p.sum(0)), 1 / (1 + p.sum(0))),
        "The mean is multiplied by the total precision. It is divided by it.",
    ),
    (
        lambda mu, p: (mu.sum(0) / (1 + p.sum(0)), 1 / (1 + p.sum(0))),
        "The means are divided by the total precision, but not multiplied by their own first: Σ μ/σ².",
    ),
    (
        lambda mu, p: ((1 + (p * mu).sum(0)) / (1 + p.sum(0)), 1 / (1 + p.sum(0))),
        "The prior has the mean 1 in yours. Its mean is 0: it adds 1 to the precisions, and nothing to Σ μ/σ².",
    ),
    (
        lambda mu, p: ((p.square() * mu).sum(0) / (1 + p.square().sum(0)), 1 / (1 + p.square().sum(0))),
        "You square the variances: log_var is log σ² already, and the precision is exp(−log_var).",
    ),
    (
        lambda mu, p: ((-mu / p.log()).sum(0) / (1 - (1 / p.log()).sum(0)), 1 / (1 - (1 / p.log()).sum(0))),
        "You divide by the log-variance. The precision is one over the variance, exp(−log_var).",
    ),
    (
        lambda mu, p: ((p * mu).sum(1) / (1 + p.sum(1)), 1 / (1 + p.sum(1))),
        "You sum over the batch, dimension 1. The experts lie along dimension 0.",
    ),
    (
        lambda mu, p: (
            mu.gather(0, p.argmax(0, keepdim=True))[0],
            1 / p.amax(0),
        ),
        "You take the surest expert in each dimension. All count, by their precisions, and the prior does.",
    ),
]


def gaussian(moments: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Experts:
    """(mean, log-variance) from a function of mu and the precisions that gives mean and variance."""

    def moments_of(mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = moments(mu, (-log_var).exp())
        return mean, variance.log()

    return moments_of


def both_of(mean: Moment, variance: Moment) -> tuple[Experts, str]:
    hints = [hint for _, hint in (mean, variance)]
    return gaussian(lambda mu, p: (mean[0](mu, p), variance[0](mu, p))), " ".join(hints)


def of_product(value: Callable[[Tensor, Tensor], object]) -> Experts:
    """A function of the right mean and log-variance."""
    return lambda mu, log_var: value(*product_of_experts(mu, log_var))


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
        *((gaussian(moments), hint) for moments, hint in TOGETHER),
        *(both_of(RIGHT_MEAN, variance) for variance in VARIANCES),
        *(both_of(mean, RIGHT_VARIANCE) for mean in MEANS),
        (
            of_product(lambda mean, log_var: (mean, log_var.exp())),
            "This is the variance in the second place. Its logarithm is asked.",
        ),
        (
            of_product(lambda mean, log_var: (mean, (-log_var).exp())),
            "This is the precision in the second place. The logarithm of the variance is asked.",
        ),
        (
            of_product(lambda mean, log_var: (mean, log_var / math.log(2))),
            "The second is log2 of the variance. The course takes natural logarithms.",
        ),
        (
            of_product(lambda mean, log_var: (mean, log_var / 2)),
            "This is log σ in the second place. log σ² is asked, without ½.",
        ),
        (
            of_product(lambda mean, log_var: (mean, (log_var / 2).exp())),
            "This is the standard deviation in the second place. The logarithm of the variance is asked.",
        ),
        (
            lambda mu, log_var: (mu.mean(0), log_var.exp().mean(0)),
            "You average means and variances. Precisions, 1/σ², add up; and a log-variance is asked.",
        ),
        (
            lambda mu, log_var: (
                ((-log_var).exp() * mu).sum(0) / (-log_var).exp().sum(0),
                1 / (-log_var).exp().sum(0),
            ),
            "The prior is left out: its precision is 1, its mean 0. And this is the variance in the second place; its "
            "logarithm is asked.",
        ),
        (of_product(lambda mean, log_var: (log_var, mean)), "The order is exchanged: the mean comes first."),
        (of_product(lambda mean, log_var: mean), "This is the mean alone. The log-variance is asked beside it."),
        (of_product(lambda mean, log_var: log_var), "This is the log-variance alone. The mean comes before it."),
        *(both_of(mean, variance) for mean, variance in product(MEANS[:6], VARIANCES[:11])),
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


def by_temperatures(of_student: Callable[[float], float], of_teacher: Callable[[float], float]) -> Distilled:
    """The right rule, with other temperatures in the two softmaxes."""
    return lambda student, teacher, t: (
        t**2 * kl((teacher / of_teacher(t)).log_softmax(1), (student / of_student(t)).log_softmax(1))
    )


def middle(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log (p + q)/2."""
    return torch.logaddexp(log_p, log_q) - math.log(2)


def hard_labels(log_q: Tensor, log_p: Tensor) -> Tensor:
    """−log q of the class that the teacher finds likeliest, (B,)."""
    return -log_q.gather(1, log_p.argmax(1, keepdim=True)).squeeze(1)


NO_SQUARE = (
    "T² is forgotten: the gradient of the KL falls as 1/T², so that a warmer teacher would hardly be heard beside "
    "other losses."
)
HARD = (
    "You train on the class that the teacher finds likeliest. What it knows of the other classes, which is what the "
    "student is to learn, is thrown away: use all of its probabilities."
)

DISTILLATION_LOSS = Exercise(
    reference=distillation_loss,
    statement="T² · KL(teacher ‖ student) for each example, (B,), in nats: the logits of both, (B, K), divided by the "
    "temperature T and put through a softmax, give the two distributions over the classes. Training will "
    "differentiate it by the student's logits.",
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
            lambda student, teacher, t: distillation_loss(student, teacher, t).detach(),
            "No gradient comes back to the student (numpy, `.item()`, `detach` or `no_grad`?), so it learns nothing.",
        ),
        (by_softened(lambda log_q, log_p, t: kl(log_p, log_q)), NO_SQUARE),
        (
            by_softened(lambda log_q, log_p, t: t * kl(log_p, log_q)),
            "The factor is T in yours. The gradient of the KL falls as 1/T², so the factor is T².",
        ),
        (
            by_softened(lambda log_q, log_p, t: kl(log_p, log_q) / t**2),
            "You divide by T². It is the factor that makes up for the gradient's 1/T²: multiply.",
        ),
        (
            by_softened(lambda log_q, log_p, t: kl(log_p, log_q) / t),
            "You divide by T. The factor is T², which makes up for the gradient's 1/T².",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * kl(log_q, log_p)),
            "The KL is the wrong way round, KL(student ‖ teacher): the student could leave out what the teacher holds "
            "possible. The weights are the teacher's probabilities. (`kl_div(a, b)` is KL(b ‖ a).)",
        ),
        (
            by_softened(lambda log_q, log_p, t: kl(log_q, log_p)),
            "The KL is the wrong way round, KL(student ‖ teacher), and T² is forgotten.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (kl(log_p, log_q) + kl(log_q, log_p)) / 2),
            "You average both directions of the KL. The one with the teacher's probabilities as weights is asked.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (kl(log_p, log_q) + kl(log_q, log_p))),
            "You add both directions of the KL. The one with the teacher's probabilities as weights is asked.",
        ),
        (
            by_softened(lambda log_q, log_p, t: -(t**2) * kl(log_p, log_q)),
            "The sign is turned: a KL divergence is never negative.",
        ),
        (
            by_softened(lambda log_q, log_p, t: -(t**2) * (log_p.exp() * log_q).sum(1)),
            "This is the cross-entropy of teacher and student. Its gradient is the same, but it is not 0 where the two "
            "agree: subtract the teacher's entropy, which makes it the KL.",
        ),
        (
            by_softened(lambda log_q, log_p, t: -(log_p.exp() * log_q).sum(1)),
            "This is the cross-entropy of teacher and student, and T² is forgotten. The KL is 0 where the two agree.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * log_q).sum(1)),
            "This is Σ p log q, the negative of the cross-entropy of teacher and student. The KL is Σ p (log p − log "
            "q).",
        ),
        (
            by_softened(lambda log_q, log_p, t: -(t**2) * (log_q.exp() * log_p).sum(1)),
            "This is the cross-entropy with the student's probabilities as weights. KL(teacher ‖ student) is Σ p "
            "(log p − log q), with p the teacher's.",
        ),
        (
            by_temperatures(lambda t: 1.0, lambda t: t),
            "Only the teacher is softened. The student's logits are divided by T as well, or it would have to learn a "
            "temperature beside the classes.",
        ),
        (
            by_temperatures(lambda t: t, lambda t: 1.0),
            "Only the student is softened. The teacher's logits are divided by T as well: it is the teacher that is "
            "too sure.",
        ),
        (
            by_temperatures(lambda t: 1.0, lambda t: 1.0),
            "The temperature stands in front alone. The logits of both are divided by it before the softmax.",
        ),
        (
            lambda student, teacher, t: kl(teacher.log_softmax(1), student.log_softmax(1)),
            "The temperature does not appear. The logits of both are divided by T before the softmax, and T² stands "
            "in front.",
        ),
        (
            lambda student, teacher, t: kl((teacher / t).log_softmax(1), student.log_softmax(1)),
            "Only the teacher is softened, and T² is forgotten.",
        ),
        (
            lambda student, teacher, t: kl(teacher.log_softmax(1), (student / t).log_softmax(1)),
            "Only the student is softened, and T² is forgotten.",
        ),
        (
            by_temperatures(lambda t: 1 / t, lambda t: 1 / t),
            "You multiply the logits by T, which sharpens. Softening divides by it.",
        ),
        (
            by_temperatures(lambda t: t**2, lambda t: t**2),
            "You divide the logits by T². They are divided by T; T² is the factor in front.",
        ),
        (
            by_temperatures(lambda t: t**0.5, lambda t: t**0.5),
            "You divide the logits by √T. They are divided by T.",
        ),
        (
            lambda student, teacher, t: (
                (teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))).sum(1) * t
            ),
            "The temperature is taken after the softmax. It divides the logits, before it.",
        ),
        (
            lambda student, teacher, t: (
                t**2
                * (
                    torch.xlogy(teacher.softmax(1) / t, teacher.softmax(1) / t)
                    - teacher.softmax(1) / t * student.log_softmax(1) / t
                ).sum(1)
            ),
            "The temperature is taken after the softmax, so that the probabilities no longer sum to 1. It divides the "
            "logits, before it.",
        ),
        (
            lambda student, teacher, t: (
                t**2 * kl((teacher.softmax(1) / t).log_softmax(1), (student.softmax(1) / t).log_softmax(1))
            ),
            "The softmax comes twice, and the temperature between the two. It divides the logits.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p - log_q)).mean(1)),
            "You average over the classes. A KL sums them: the probabilities are the weights.",
        ),
        (
            by_softened(lambda log_q, log_p, t: (log_p.exp() * (log_p - log_q)).mean(1)),
            "You average over the classes where a KL sums them, and T² is forgotten.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p - log_q).sum(1)),
            "The weights are missing: the logarithms are averaged under the teacher's probabilities.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p - log_q).mean(1)),
            "The weights are missing: the logarithms are averaged under the teacher's probabilities.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * log_p.exp() * (log_p - log_q)),
            "These are the terms of the classes, (B, K). Their sum over the classes is asked.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * kl(log_p, log_q).mean()),
            "This is the mean over the batch (`batchmean`). One number for each example is asked, (B,).",
        ),
        (
            by_softened(lambda log_q, log_p, t: kl(log_p, log_q).mean()),
            "This is the mean over the batch (`batchmean`), without T². One number for each example is asked, (B,).",
        ),
        (
            by_softened(lambda log_q, log_p, t: -(t**2) * (log_p.exp() * log_q).sum(1).mean()),
            "This is the mean cross-entropy of the batch. The KL of each example is asked, (B,).",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * kl(log_p, log_q).sum()),
            "This is the sum over the batch. One number for each example is asked, (B,).",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p - log_q)).mean()),
            "This is the mean over batch and classes (`kl_div` without a `reduction`). One number for each example is "
            "asked, the sum over its classes.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (torch.xlogy(log_p, log_p) - log_p * log_q).sum(1)),
            "`kl_div` wants the teacher's probabilities, not their logarithms, unless it is told `log_target=True`.",
        ),
        (
            lambda student, teacher, t: -(teacher.softmax(1) * student.log_softmax(1)).sum(1),
            "This is the cross-entropy of teacher and student, and the temperature does not appear.",
        ),
        (
            lambda student, teacher, t: -(t**2) * ((teacher / t).softmax(1) * student.log_softmax(1)).sum(1),
            "This is a cross-entropy, and only the teacher is softened. The KL of both at the same temperature is "
            "asked.",
        ),
        (
            lambda student, teacher, t: -((teacher / t).softmax(1) * student.log_softmax(1)).sum(1),
            "This is a cross-entropy, and only the teacher is softened; T² is forgotten, too.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**3 * kl(log_p, log_q)),
            "The factor is T³ in yours. It is T².",
        ),
        (
            by_softened(
                lambda log_q, log_p, t: t**2 * (kl(log_p, middle(log_p, log_q)) + kl(log_q, middle(log_p, log_q))) / 2
            ),
            "This is the Jensen–Shannon divergence, which treats both alike. KL(teacher ‖ student) is asked.",
        ),
        (by_softened(lambda log_q, log_p, t: t**2 * hard_labels(log_q, log_p)), HARD),
        (by_softened(lambda log_q, log_p, t: hard_labels(log_q, log_p)), HARD),
        (lambda student, teacher, t: hard_labels(student.log_softmax(1), teacher), HARD),
        (lambda student, teacher, t: t**2 * hard_labels(student.log_softmax(1), teacher), HARD),
        (
            lambda student, teacher, t: (student - teacher).square().mean(1),
            "This is the squared difference of the logits, in the mean over the classes. Distillation comes near to "
            "half of it, for centred logits and a very large T; the KL is asked.",
        ),
        (
            lambda student, teacher, t: (student - teacher).square().sum(1),
            "This is the squared difference of the logits. Distillation comes near to it for a very large T, up to a "
            "factor and for centred logits; the KL is asked.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_q.exp() - log_p.exp()).square().sum(1)),
            "This is the squared difference of the probabilities. The KL compares their logarithms.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_q.exp() - log_p.exp()).abs().sum(1)),
            "This is the absolute difference of the probabilities. The KL compares their logarithms.",
        ),
        (
            lambda student, teacher, t: t**2 * ((teacher / t).softmax(1) * (teacher - student) / t).sum(1),
            "The logits stand where the logarithms belong: the log of the normalising sum is missing. `log_softmax`.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p - log_q.exp())).sum(1)),
            "log p is compared with q itself. `kl_div` wants the logarithm of the student's probabilities: "
            "`log_softmax`.",
        ),
        (
            lambda student, teacher, t: t**2 * kl((teacher / t).log_softmax(0), (student / t).log_softmax(0)),
            "Your softmax runs over the batch, dimension 0. The classes lie along dimension 1.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p - log_q)).sum(0)),
            "You sum over the batch, dimension 0. The classes lie along dimension 1.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p.exp().log() - log_q.exp().log())).sum(1)),
            "A probability that is 0 in float32 gives log 0, and 0 · log 0 = nan. `log_softmax` works with the logits "
            "and stays finite.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p.exp().log() - log_q)).sum(1)),
            "Where the teacher's probability is 0 in float32, 0 · log 0 = nan. `log_softmax` works with the logits and "
            "stays finite.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * (log_p.exp() * (log_p - log_q.exp().log())).sum(1)),
            "Where the student's probability is 0 in float32, its logarithm is infinite (`kl_divergence` of two "
            "Categorical gives that, too). `log_softmax` works with the logits and stays finite.",
        ),
        (
            by_softened(lambda log_q, log_p, t: t**2 * kl(log_p, log_q) / math.log(2)),
            "This is in bits. The course counts in nats: the natural logarithm.",
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
