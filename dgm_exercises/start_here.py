"""Exercises of notebook 00: pixels as numbers, the loss of a classifier, its gradient, its accuracy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dgm_exercises.engine import Exercise

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
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), 256),  # all black
    ]


STRETCHED = (
    "These numbers depend on which pictures happen to share the batch: its own darkest and brightest pixels became "
    "the ends of the scale. The scale belongs to the data set: 0 … levels − 1."
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
            "You divide by the number of levels. Counting starts at 0: the brightest, levels − 1, has to become 1.",
        ),
        (
            lambda x, levels: x / 255,
            "255 is the brightest level of 8-bit pictures only. With 17 levels, as in the digits, everything would "
            "be nearly black: the scale has to follow `levels`.",
        ),
        (
            lambda x, levels: x / 16,
            "16 is right for the 17 levels of the digits and for nothing else: the scale has to follow `levels`.",
        ),
        (
            lambda x, levels: x / levels - 1,
            "`x / levels - 1` divides first and subtracts 1 afterwards, so your pixels are negative. Brackets!",
        ),
        (lambda x, levels: x.float(), "These are still the levels themselves: nothing has been divided yet."),
        (
            lambda x, levels: 2 * x.float() / (levels - 1) - 1,
            "Your values run from −1 to 1. Some models want that, and say so; here black is 0.",
        ),
        (lambda x, levels: (x.float() - x.min()) / (x.max() - x.min()), STRETCHED),
        (lambda x, levels: x / x.max(), STRETCHED),
        (lambda x, levels: (x.float() - x.float().mean()) / x.float().std(correction=0), STANDARDISED),
        (lambda x, levels: (x.float() - x.float().mean()) / x.float().std(), STANDARDISED),
    ],
)

# ---- cross_entropy -------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    # log p(y) = logit of y − log Σ_k exp(logit k). Without its largest logit a row has the same probabilities, nothing
    # overflows, and no digit is lost where logits are large.
    shifted = logits - logits.amax(dim=1, keepdim=True)
    log_p = shifted - shifted.logsumexp(dim=1, keepdim=True)  # (B, K)
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
        (torch.tensor([[200.0, 201.0], [0.0, 1.0], [-200.0, -199.0]]), torch.tensor([0, 1, 1])),  # rows far apart
        (torch.tensor([[0.0, 40.0], [-30.0, 30.0], [-20.0, 0.0]]), torch.tensor([0, 0, 0])),  # sure, and wrong
    ]


def log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(1)[torch.arange(len(labels)), labels]


def one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)


def label_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return logits[torch.arange(len(labels)), labels]


def without_its_maximum(logits: Tensor, labels: Tensor) -> Tensor:
    return ((logits - logits.amax(1, keepdim=True)).logsumexp(1) - label_logit(logits, labels)).mean()


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

CROSS_ENTROPY = Exercise(
    reference=cross_entropy,
    statement="From logits (B, K) and labels (B,), the mean over the batch of −log p(label), in nats. Logits may be "
    "large. In torch, gradients come back through it to the logits.",
    nudge="First make log-probabilities of each row: which number do you subtract from its logits so that the "
    "exponentials sum to 1? Then pick one entry per row.",
    right="the large logits included. A classifier that only guesses among K classes pays log K nats: "
    "2.303 for ten digits.",
    inputs=classifications,
    atol=1e-4,  # float32 keeps 6e-5 of a logit of 1000
    differentiate=("logits",),
    numbers_too=True,
    wrong=[
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
        (
            lambda logits, labels: -log_probability(logits, labels).mean() / logits.shape[1],
            "You average over the K classes as well: each example has one term, its label's. Divide by B, not B · K.",
        ),
        (
            lambda logits, labels: -log_probability(logits, labels).sum() / logits.shape[1],
            "You divide the sum by the number of classes, K. It has one term for each example, so divide by B.",
        ),
        (
            without_its_maximum,
            "The largest logit is subtracted in one place only. Taken out of the sum before exp, it has to be added "
            "back after the log, or be taken off the label's logit as well.",
        ),
        (lambda logits, labels: -label_logit(logits, labels).log().mean(), LOG_OF_LOGITS),
        (lambda logits, labels: -label_logit(logits / logits.sum(1, keepdim=True), labels).log().mean(), LOG_OF_LOGITS),
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
        (lambda logits, labels: torch.distributions.Categorical(logits=logits).entropy().mean(), LABELS_UNUSED),
        (
            lambda logits, labels: -logits.log_softmax(0)[torch.arange(len(labels)), labels].mean(),
            "Your probabilities sum to 1 down each column. They have to along each row, over the classes: dimension 1.",
        ),
        (
            lambda logits, labels: -label_logit(logits.exp() / logits.exp().sum(1, keepdim=True), labels).log().mean(),
            "Right as long as the logits are small; at 1000, exp overflows or underflows and the loss becomes "
            "{yours}. Look up the log-sum-exp trick: subtract each row's largest logit before exp.",
        ),
        (
            lambda logits, labels: -label_logit(logits.softmax(1), labels).log().mean(),
            "Right until something underflows to 0 before its logarithm is taken: e^−1000 is 0 in floats. Form log p "
            "directly, as the logit minus the logsumexp of its row (`log_softmax`).",
        ),
    ],
)

# ---- cross_entropy_gradient ----------------------------------------------------------------------------------------


def cross_entropy_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    # ∂/∂logit_k of log Σ exp is p_k; of −logit_label it is −1 at the label. The mean over the batch brings 1/B.
    gradient = logits.softmax(dim=1)  # (B, K)
    gradient[torch.arange(len(labels)), labels] -= 1
    return gradient / len(labels)


def one_from(place: Callable[[Tensor], tuple | Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The gradient where the labels are subtracted at this place of it."""

    def gradient(logits: Tensor, labels: Tensor) -> Tensor:
        gradient = logits.softmax(1)
        gradient[place(labels)] -= 1
        return gradient / len(labels)

    return gradient


SOFTMAX_FORGOTTEN = (
    "You subtract the labels from the logits themselves. The derivative of log Σ exp is a probability: the softmax of "
    "the logits, and then minus 1 at the label."
)

CROSS_ENTROPY_GRADIENT = Exercise(
    reference=cross_entropy_gradient,
    statement="The gradient (B, K) of the mean cross-entropy with respect to the logits, without autograd. Logits may "
    "be large.",
    nudge="Write one example's loss as log Σ_k exp(logit_k) − logit_label and differentiate the two terms one by one.",
    right="the large logits included. What the model believes minus what is true, over B: each row sums to 0.",
    inputs=classifications,
    wrong=[
        (
            lambda logits, labels: one_hot(logits, labels) - logits.softmax(1),
            "The sign is flipped, and the 1/B of the mean is missing: this is downhill, for the sum over the batch.",
        ),
        (
            lambda logits, labels: logits.softmax(1) / len(labels),
            "The labels do not appear in your gradient: this is the derivative of log Σ exp alone. −logit_label has "
            "a derivative too, at one place in each row.",
        ),
        (
            lambda logits, labels: -one_hot(logits, labels) / len(labels),
            "This is the derivative of −logit_label alone. The normaliser log Σ exp also depends on every logit: "
            "each row of the whole gradient sums to 0, yours to a negative number.",
        ),
        (
            lambda logits, labels: (logits.softmax(1) - one_hot(logits, labels)) / logits.numel(),
            "You divide by B · K. The loss is a mean over B examples: the K logits of one belong to its one loss.",
        ),
        (
            lambda logits, labels: (logits.softmax(1) - one_hot(logits, labels)) / logits.shape[1],
            "You divide by the number of classes, K. The loss is a mean over the B examples: divide by B.",
        ),
        (lambda logits, labels: (logits - one_hot(logits, labels)) / len(labels), SOFTMAX_FORGOTTEN),
        (lambda logits, labels: logits - one_hot(logits, labels), SOFTMAX_FORGOTTEN),
        (
            lambda logits, labels: (logits.softmax(0) - one_hot(logits, labels)) / len(labels),
            "Your softmax runs down the columns. Each example has its own distribution over the classes: dimension 1.",
        ),
        (
            one_from(lambda labels: (slice(None), labels)),
            "`gradient[:, labels] -= 1` subtracts at every label of the batch, in every row. One entry per row is "
            "meant: pair the rows with `torch.arange(B)`, or use a one-hot matrix.",
        ),
        (
            one_from(lambda labels: labels),
            "`gradient[labels] -= 1` subtracts from whole rows, those whose numbers are the labels. One entry of every "
            "row is meant: `gradient[torch.arange(B), labels] -= 1`, or a one-hot matrix.",
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
    # The predicted class is the largest logit's, the first of equal ones; no softmax is needed, for it keeps the order.
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
        (torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 2])),  # every class alike: the first counts
        (torch.tensor([[1.0, 2.0, 2.0], [2.0, 1.0, 2.0], [0.0, 3.0, 3.0]]), torch.tensor([2, 0, 1])),
    ]


def with_ties(logits: Tensor, labels: Tensor) -> Tensor:
    return (label_logit(logits, labels) >= logits.amax(1)).double().mean()


ACCURACY = Exercise(
    reference=accuracy,
    statement="The share, between 0 and 1, of the examples whose largest logit is that of the label; of equal largest "
    "logits the first counts, as in `argmax`.",
    nudge="Find each row's predicted class first, then compare B predictions with B labels.",
    right="batches of one, and ties. Ten equally common classes give a guesser 0.1: compare with that first.",
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
            lambda logits, labels: (logits.argmax(1, keepdim=True) == labels).double().mean(),
            "Your predictions are (B, 1) and the labels (B,): `==` spreads them to (B, B) and compares every example "
            "with every label. Drop the `keepdim`, or `squeeze(1)`.",
        ),
        (
            with_ties,
            "You count a tie as right. A network that gives every class the same logit would be right every time; one "
            "class is predicted for each example, the first of equal ones.",
        ),
        (
            lambda logits, labels: (logits.argmax(1) == labels).sum() / logits.shape[1],
            "You divide by the number of classes, K. The share is of the B examples.",
        ),
        (
            lambda logits, labels: (logits.max(1).values == labels).double().mean(),
            "You compare the labels with the size of the largest logit, not with its place. `max` gives the value, "
            "`argmax` (or the second thing that `max(dim=1)` returns) gives the class.",
        ),
        (
            lambda logits, labels: (logits.argmax(1) == labels).sum() // len(labels),
            "Only 0 and 1: a division `//` rounds everything between down, and `all()` asks whether all are right.",
        ),
        (
            lambda logits, labels: log_probability(logits, labels).exp().mean(),
            "This is the mean probability of the label. For the accuracy an example is right or wrong, however sure.",
        ),
    ],
)

EXERCISES = [SCALE_PIXELS, CROSS_ENTROPY, CROSS_ENTROPY_GRADIENT, ACCURACY]
