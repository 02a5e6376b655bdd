"""Exercises of notebook 00: pixels as numbers, the loss of a classifier, its gradient, its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dgm_lib.exercises.engine import Exercise

# ---- scale_pixels --------------------------------------------------------------------------------------------------


def scale_pixels(x: Tensor, levels: int) -> Tensor:
    # The levels are 0 … levels − 1, so the brightest one has to be divided by levels − 1 to become 1.
    return x.float() / (levels - 1)


def pictures(generator: Generator) -> list[tuple[Tensor, int]]:
    def draw(lowest: int, highest: int, *shape: int) -> Tensor:
        return torch.randint(lowest, highest + 1, shape, generator=generator, dtype=torch.uint8)

    return [
        (torch.tensor([0, 4, 8, 16], dtype=torch.uint8), 17),
        (torch.tensor([0, 51, 102, 255], dtype=torch.uint8), 256),
        (draw(0, 16, 3, 1, 8, 8), 17),
        (draw(0, 255, 2, 1, 8, 8), 256),
        (draw(0, 1, 2, 1, 8, 8), 2),
        (draw(0, 4, 5, 1, 4, 4), 5),
        (draw(3, 9, 4, 1, 8, 8), 17),  # a dark batch: neither black nor white occurs in it
        (torch.full((1, 1, 2, 2), 5, dtype=torch.uint8), 17),  # one grey
    ]


def stretched(x: Tensor, levels: int) -> Tensor:
    return (x.float() - x.min()) / (x.max() - x.min())


STRETCHED = (
    "These numbers depend on which pictures happen to share the batch: its own darkest and brightest pixels became "
    "the ends of the scale. The scale belongs to the data set: 0 … levels − 1."
)
WHOLE = (
    "All your values are whole numbers, so the grey between black and white is gone. `//` and integer tensors cut "
    "the fraction off: make x a float first."
)
STANDARDISED = (
    "This is standardising (mean 0, standard deviation 1). It is useful elsewhere, but it depends on the batch, and "
    "here black has to be 0 and white has to be 1."
)

SCALE_PIXELS = Exercise(
    reference=scale_pixels,
    statement="Turn uint8 pixel levels 0 … levels − 1 into floats, 0 for the darkest level and 1 for the brightest.",
    nudge="Which level is the brightest one when there are 17 of them? It has to land on 1 exactly.",
    right="dark batches and two-level pictures included. Level 0 is 0.0, the brightest is 1.0, whatever the batch.",
    inputs=pictures,
    wrong=[
        (
            lambda x, levels: x / levels,
            "You divide by the number of levels. Counting starts at 0, so the brightest level is levels − 1, and "
            "with your scale no pixel ever becomes 1.",
        ),
        (
            lambda x, levels: x / 255,
            "255 is the brightest level of 8-bit pictures only. With 17 levels, as in the digits, everything would "
            "be nearly black: the scale has to follow `levels`.",
        ),
        (
            lambda x, levels: x / 16,
            "You always divide by 16. That is right for the 17 levels of the digits and for nothing else: the scale "
            "has to follow `levels`.",
        ),
        (lambda x, levels: x // (levels - 1), WHOLE),
        (lambda x, levels: (x / (levels - 1)).round(), WHOLE),
        (lambda x, levels: x // levels, WHOLE),
        (
            lambda x, levels: x / levels - 1,
            "`x / levels - 1` divides first and subtracts 1 afterwards, so your pixels are negative. Brackets!",
        ),
        (lambda x, levels: x.float(), "These are still the levels themselves: nothing has been divided yet."),
        (
            lambda x, levels: 2 * x.float() / (levels - 1) - 1,
            "Your values run from −1 to 1. Some models want that, and say so; here black is 0.",
        ),
        (stretched, STRETCHED),
        (lambda x, levels: x / x.max(), STRETCHED),
        (lambda x, levels: (x.float() - x.float().mean()) / x.float().std(correction=0), STANDARDISED),
        (lambda x, levels: (x.float() - x.float().mean()) / x.float().std(), STANDARDISED),
    ],
)

# ---- cross_entropy -------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    # log p(y) = logit of y − log Σ_k exp(logit k). logsumexp subtracts the largest logit before exp, so that nothing
    # overflows.
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)  # (B, K)
    rows = torch.arange(len(labels))
    return -log_p[rows, labels].mean()  # one column in each row, then the mean over the batch


def classifications(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(batch: int, classes: int, scale: float = 2.0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
        logits = scale * torch.randn(batch, classes, generator=generator) + shift
        return logits, torch.randint(0, classes, (batch,), generator=generator)

    return [
        (torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])),
        draw(4, 4),
        draw(5, 3),
        draw(1, 4),
        draw(3, 2),
        draw(8, 10),
        draw(64, 10),
        draw(16, 10, scale=0.0),  # every class equally likely
        draw(16, 10, shift=20.0),
        draw(16, 10, shift=-20.0),
        draw(6, 5, scale=1000.0),
        draw(6, 5, shift=-1000.0),
    ]


def log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(1)[torch.arange(len(labels)), labels]


def one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)


def overflowing(logits: Tensor, labels: Tensor) -> Tensor:
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    return -probabilities[torch.arange(len(labels)), labels].log().mean()


def with_small_constant(small: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, labels: -(log_probability(logits, labels).exp() + small).log().mean()


def label_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return logits[torch.arange(len(labels)), labels]


def maximum_lost(logits: Tensor, labels: Tensor) -> Tensor:
    shifted = logits - logits.amax(1, keepdim=True)
    return (shifted.logsumexp(1) - label_logit(logits, labels)).mean()


def overall_maximum_lost(logits: Tensor, labels: Tensor) -> Tensor:
    return ((logits - logits.max()).logsumexp(1) - label_logit(logits, labels)).mean()


def maximum_counted_twice(logits: Tensor, labels: Tensor) -> Tensor:
    shifted = logits - logits.amax(1, keepdim=True)
    return (logits.logsumexp(1) - label_logit(shifted, labels)).mean()


def shares_of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    return -(label_logit(logits, labels) / logits.sum(1)).log().mean()


MAXIMUM_LOST = (
    "The largest logit is subtracted in one place only. Taken out of the sum before exp, it has to be added back after "
    "the log, or be taken off the label's logit as well."
)
LOG_OF_LOGITS = (
    "This is the logarithm of the logits, and they are no probabilities: they may be negative, where log gives nan. "
    "Their exp, divided by the sum of exp over the row, is a probability."
)
LABELS_UNUSED = (
    "The labels do not appear in your loss: it would be the same whatever is true. Of each row of log-probabilities, "
    "only the label's entry counts."
)
NO_LOGARITHM = (
    "This is made of probabilities, and no logarithm was taken. A probability of 0.01 and one of 0.0001 cost almost "
    "the same there; the cross-entropy is the mean of −log p(label)."
)
SMALL_CONSTANT = (
    "On ordinary logits you are right, but a small constant inside the log puts a ceiling on the loss: a confident "
    "mistake then has no gradient any more. Stay in logarithms (`log_softmax`, `logsumexp`) and none is needed."
)

CROSS_ENTROPY = Exercise(
    reference=cross_entropy,
    statement="From logits (B, K) and labels (B,), the mean over the batch of −log p(label), in nats.",
    nudge="First make log-probabilities of each row: which number do you subtract from its logits so that the "
    "exponentials sum to 1? Then pick one entry per row.",
    right="the large logits included. A classifier that only guesses among K classes pays log K nats: "
    "2.303 for ten digits.",
    inputs=classifications,
    wrong=[
        (
            lambda logits, labels: -log_probability(logits, labels).sum(),
            "Your loss grows with the batch: that is the sum over the examples. With the mean, the same learning "
            "rate suits every batch size.",
        ),
        (
            lambda logits, labels: -log_probability(logits, labels).mean() / math.log(2),
            "Your loss is in bits: 1.4427 times the reference. The course counts in nats, so take the natural "
            "logarithm, `log` and not `log2`.",
        ),
        (
            lambda logits, labels: -label_logit(logits, labels).mean(),
            "This is minus the label's logit, and the normaliser is missing. A logit becomes a log-probability only "
            "when log Σ exp of its row is subtracted; without that, larger logits would always look better.",
        ),
        (
            lambda logits, labels: torch.nn.functional.cross_entropy(logits.softmax(1), labels),
            "The softmax is applied twice: probabilities were fed to something that expects logits. Squeezed into "
            "[0, 1], they can never be far apart, and the loss can no longer come near 0.",
        ),
        (lambda logits, labels: 1 - log_probability(logits, labels).exp().mean(), NO_LOGARITHM),
        (lambda logits, labels: -log_probability(logits, labels).exp().mean(), NO_LOGARITHM),
        (lambda logits, labels: log_probability(logits, labels).exp().mean(), NO_LOGARITHM),
        (
            lambda logits, labels: log_probability(logits, labels).mean(),
            "This is the mean log-likelihood, {yours}: what we want to be large. A loss is what we want to be "
            "small, so it carries a minus.",
        ),
        (
            lambda logits, labels: -log_probability(logits, labels).mean() / logits.shape[1],
            "You average over the K classes as well. Only the label's own term is there, once per example: divide "
            "by B, not by B · K.",
        ),
        (
            lambda logits, labels: -log_probability(logits, labels).sum() / logits.shape[1],
            "You divide the sum by the number of classes, K. It has one term for each example, so divide by B.",
        ),
        (maximum_lost, MAXIMUM_LOST),
        (overall_maximum_lost, MAXIMUM_LOST),
        (maximum_counted_twice, MAXIMUM_LOST),
        (lambda logits, labels: -label_logit(logits, labels).log().mean(), LOG_OF_LOGITS),
        (shares_of_logits, LOG_OF_LOGITS),
        (
            lambda logits, labels: (logits.exp().sum(1) - label_logit(logits, labels)).mean(),
            "You subtract Σ exp itself. The normaliser of a log-probability is its logarithm, log Σ exp.",
        ),
        (
            lambda logits, labels: -log_probability(logits, labels).exp().mean().log(),
            "You average the probabilities and take the logarithm afterwards. By Jensen's inequality that is "
            "smaller than the mean of −log p: the logarithm comes first, one per example.",
        ),
        (
            lambda logits, labels: -logits.log_softmax(1)[:, labels].mean(),
            "`log_p[:, labels]` takes every label's column from every row, a (B, B) table. You want one entry per "
            "row: pair the rows with `torch.arange(B)`, or use `gather`.",
        ),
        (
            lambda logits, labels: -logits.log_softmax(1)[labels].mean(),
            "`log_p[labels]` takes whole rows, those whose numbers are the labels. You want one entry of each row: "
            "`log_p[torch.arange(B), labels]`, or `gather`.",
        ),
        (lambda logits, labels: -logits.log_softmax(1).mean(), LABELS_UNUSED),
        (lambda logits, labels: -logits.log_softmax(1).sum(1).mean(), LABELS_UNUSED),
        (lambda logits, labels: -logits.log_softmax(1).amax(1).mean(), LABELS_UNUSED),
        (lambda logits, labels: torch.distributions.Categorical(logits=logits).entropy().mean(), LABELS_UNUSED),
        (lambda logits, labels: logits.logsumexp(1).mean(), LABELS_UNUSED),
        (
            lambda logits, labels: (logits.logsumexp(1) + label_logit(logits, labels)).mean(),
            "You add the label's logit to log Σ exp. log p is the logit minus log Σ exp, and the loss is minus that.",
        ),
        (
            lambda logits, labels: -logits.log_softmax(0)[torch.arange(len(labels)), labels].mean(),
            "Your probabilities sum to 1 down each column, over the batch. They have to sum to 1 along each row, "
            "over the classes: dimension 1.",
        ),
        (
            overflowing,
            "Right as long as the logits are small; at 1000, exp overflows or underflows and the loss becomes "
            "{yours}. Look up the log-sum-exp trick: subtract each row's largest logit before exp.",
        ),
        (
            lambda logits, labels: -logits.softmax(1)[torch.arange(len(labels)), labels].log().mean(),
            "Right until something underflows to 0 before its logarithm is taken: e^−1000 is 0 in floats. Form log p "
            "directly, as the logit minus the logsumexp of its row (`log_softmax`).",
        ),
        *[(with_small_constant(small), SMALL_CONSTANT) for small in (1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-16)],
    ],
)

# ---- cross_entropy_gradient ----------------------------------------------------------------------------------------


def cross_entropy_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    # ∂/∂logit_k of log Σ exp is p_k; of −logit_label it is −1 at the label. The mean over the batch brings 1/B.
    gradient = logits.softmax(dim=1)  # (B, K)
    gradient[torch.arange(len(labels)), labels] -= 1
    return gradient / len(labels)


def one_from_every_label(logits: Tensor, labels: Tensor) -> Tensor:
    gradient = logits.softmax(1)
    gradient[:, labels] -= 1
    return gradient / len(labels)


SOFTMAX_FORGOTTEN = (
    "You subtract the labels from the logits themselves. The derivative of log Σ exp is a probability: the softmax of "
    "the logits, and then minus 1 at the label."
)

CROSS_ENTROPY_GRADIENT = Exercise(
    reference=cross_entropy_gradient,
    statement="The gradient (B, K) of the mean cross-entropy with respect to the logits, without autograd.",
    nudge="Write one example's loss as log Σ_k exp(logit_k) − logit_label and differentiate the two terms one by one.",
    right="the large logits included. What the model believes minus what is true, over B: each row sums to 0.",
    inputs=classifications,
    wrong=[
        (
            lambda logits, labels: (one_hot(logits, labels) - logits.softmax(1)) / len(labels),
            "The sign is flipped: this is the direction in which the loss falls. The gradient points uphill, and the "
            "optimiser does the stepping down.",
        ),
        (
            lambda logits, labels: one_hot(logits, labels) - logits.softmax(1),
            "The sign is flipped, and the 1/B of the mean is missing: this is downhill, for the sum over the batch.",
        ),
        (
            lambda logits, labels: logits.softmax(1) - one_hot(logits, labels),
            "This is the gradient of the sum over the batch. The loss is a mean over the B examples, so each row "
            "counts 1/B.",
        ),
        (
            lambda logits, labels: logits.softmax(1) / len(labels),
            "The labels do not appear in your gradient: this is the derivative of log Σ exp alone. −logit_label has "
            "a derivative too, at one place in each row.",
        ),
        (
            lambda logits, labels: logits.softmax(1),
            "This is the softmax itself. The labels do not appear in it yet, nor the 1/B of the mean.",
        ),
        (
            lambda logits, labels: -one_hot(logits, labels) / len(labels),
            "This is the derivative of −logit_label alone. The normaliser log Σ exp also depends on every logit: "
            "each row of the whole gradient sums to 0, yours to a negative number.",
        ),
        (
            lambda logits, labels: (logits.softmax(1) - one_hot(logits, labels)) / logits.numel(),
            "You divide by B · K. The loss is a mean over the B examples only; an example's K logits all belong to "
            "its one loss.",
        ),
        (
            lambda logits, labels: (logits.softmax(1) - one_hot(logits, labels)) / logits.shape[1],
            "You divide by the number of classes, K. The loss is a mean over the B examples: divide by B.",
        ),
        (lambda logits, labels: (logits - one_hot(logits, labels)) / len(labels), SOFTMAX_FORGOTTEN),
        (lambda logits, labels: logits - one_hot(logits, labels), SOFTMAX_FORGOTTEN),
        (
            lambda logits, labels: (logits.softmax(0) - one_hot(logits, labels)) / len(labels),
            "Your softmax runs down the columns, over the batch. Each example has its own distribution over the "
            "classes: dimension 1.",
        ),
        (
            one_from_every_label,
            "`gradient[:, labels] -= 1` subtracts at every label of the batch, in every row. One entry per row is "
            "meant: pair the rows with `torch.arange(B)`, or use a one-hot matrix.",
        ),
        (
            lambda logits, labels: (
                (logits.exp() / logits.exp().sum(1, keepdim=True) - one_hot(logits, labels)) / len(labels)
            ),
            "Right as long as the logits are small; at 1000, exp overflows or underflows and you get {yours}. "
            "`softmax` subtracts each row's largest logit first, which changes nothing but this.",
        ),
    ],
)

# ---- accuracy ------------------------------------------------------------------------------------------------------


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    # The predicted class is the largest logit's; no softmax is needed to find it, for it keeps the order.
    predicted = logits.argmax(dim=1)  # (B,)
    return (predicted == labels).float().mean()


def predictions(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(batch: int, classes: int, skill: float = 1.0) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, classes, (batch,), generator=generator)
        logits = torch.randn(batch, classes, generator=generator)
        logits[torch.arange(batch), labels] += skill
        return logits, labels

    return [
        (torch.tensor([[2.0, 0.5], [1.4, 1.3]]), torch.tensor([0, 0])),
        draw(3, 3),
        draw(10, 10, skill=2.0),
        draw(1, 5),
        draw(12, 3),
        draw(200, 10, skill=1.5),
        draw(20, 10, skill=50.0),  # all right
        draw(20, 10, skill=-50.0),  # all wrong
    ]


TOP_LOGIT = (
    "You compare the labels with the size of the largest logit, not with its place. `max` gives the value, `argmax` "
    "(or the second thing that `max(dim=1)` returns) gives the class."
)

ACCURACY = Exercise(
    reference=accuracy,
    statement="The share, between 0 and 1, of the examples whose largest logit is that of the label.",
    nudge="Find each row's predicted class first, then compare B predictions with B labels.",
    right="batches of one and of 200. Ten equally common classes give a guesser 0.1: compare with that first.",
    inputs=predictions,
    wrong=[
        (
            lambda logits, labels: (logits.argmax(0) == labels).double().mean(),
            "`argmax(0)` runs down the columns: it finds, for each class, the example that likes it best. The "
            "prediction for an example is along its row: dimension 1.",
        ),
        (
            lambda logits, labels: (logits.argmax() == labels).double().mean(),
            "`argmax()` without a dimension gives one number for the whole table: the place of its largest entry, "
            "counted through all rows. One prediction per row is needed: dimension 1.",
        ),
        (
            lambda logits, labels: (logits.argmax(1) == labels).sum() / logits.shape[1],
            "You divide by the number of classes, K. The share is of the B examples.",
        ),
        (
            lambda logits, labels: (logits.argmax(1) == labels).sum(),
            "This is how many are right, {yours}. The accuracy is their share of the batch.",
        ),
        (
            lambda logits, labels: 100 * (logits.argmax(1) == labels).double().mean(),
            "You return percent. A share between 0 and 1 is asked; the format `.1%` prints it as percent where that "
            "reads better.",
        ),
        (
            lambda logits, labels: (logits.argmax(1) != labels).double().mean(),
            "This is the error rate, {yours}: the share that is wrong. The accuracy is what is left.",
        ),
        (lambda logits, labels: (logits.max(1).values == labels).double().mean(), TOP_LOGIT),
        (lambda logits, labels: (logits.max(1).values.round() == labels).double().mean(), TOP_LOGIT),
        (
            lambda logits, labels: (logits.softmax(1).max(1).values.round() == labels).double().mean(),
            "You compare the labels with the top probability, rounded. A probability says how sure the model is, "
            "not of which class: `argmax` gives that.",
        ),
        (
            lambda logits, labels: (logits.argmax(1) == labels).sum() // len(labels),
            "Your values are only 0 and 1: a division `//` of integers rounds everything between down, and `all()` "
            "asks whether all are right.",
        ),
        (
            lambda logits, labels: log_probability(logits, labels).exp().mean(),
            "This is the mean probability of the label, which also counts how sure the model is. For the accuracy an "
            "example is right or wrong.",
        ),
    ],
)

EXERCISES = [SCALE_PIXELS, CROSS_ENTROPY, CROSS_ENTROPY_GRADIENT, ACCURACY]
