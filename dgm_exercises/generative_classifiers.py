"""Exercises of notebook 09: Bayes' rule, another prior, calibration, missing pixels, honest figures, bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dgm_exercises.engine import Exercise


def shares(generator: Generator, k: int) -> Tensor:
    """A prior that is far from even, (K,)."""
    return torch.randn(k, generator=generator).mul(1.2).softmax(0)


def normalised(p: Tensor) -> Tensor:
    return p / p.sum(1, keepdim=True)


SMALL_CONSTANT = (
    "A small constant keeps a share from being 0, so that a class that never occurs gets a posterior, here nearly all "
    "of it. log 0 = −inf does no harm: softmax and logsumexp give that class 0."
)
BATCH_MAX = (
    "The largest number of the whole batch is taken out before exp: a row that lies far below it underflows. Each row "
    "has its own largest: dimension 1, `keepdim=True`."
)
COLUMN_MAX = (
    "The largest of each column is taken out, dimension 0, another number for each class, which changes their odds. "
    "One number for all classes of an example: the largest of its row, dimension 1."
)
NOT_THE_LARGEST = (
    "The least or the mean of a row is taken out before exp, so that a class far above it overflows. Take the row's "
    "largest out: then every exponent is 0 or less."
)


# ---- bayes_posterior -----------------------------------------------------------------------------------------------


def bayes_posterior(log_p: Tensor, prior: Tensor) -> Tensor:
    # Independent pixels multiply, so logarithms add. softmax subtracts the largest before exp: e^-1000 never appears.
    log_joint = log_p.sum(2) + prior.log()  # log p(x|c) p(c), (B, K)
    return log_joint.softmax(1)


def pixels_by_class(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(batch: int, k: int, d: int, usual: float = -1.0) -> tuple[Tensor, Tensor]:
        """log p(x|c) of the classes differ by a few nats, as large as they are."""
        log_p = usual + torch.randn(batch, k, d, generator=generator) / math.sqrt(d)
        return log_p, shares(generator, k)

    easy = torch.tensor([[[0.5, 0.8], [0.5, 0.5]]]).log(), torch.tensor([0.2, 0.8])
    liked = torch.tensor([0.0, 40.0, 0.0])[:, None]  # the class that never occurs fits best, by 200 nats
    never = draw(4, 3, 5)[0] + liked, torch.tensor([0.3, 0.0, 0.7])
    dark = draw(6, 10, 64, usual=-16.0)  # log p(x|c) ≈ −1000: its exp is 0
    bright = draw(5, 4, 36, usual=10.0)  # a density may be large, too
    mixed = torch.tensor([[-250.0] * 3, [-1.0] * 3, [75.0] * 3, [-250.0, -1.0, -1.0]])[..., None]
    mixed = mixed + draw(4, 3, 4)[0], torch.tensor([0.2, 0.5, 0.3])  # sizes of all kinds, in one batch and in one row
    return [easy, draw(3, 3, 3), draw(5, 2, 6), never, dark, bright, mixed, draw(1, 5, 4), draw(4, 4, 10)]


Posterior = Callable[[Tensor, Tensor], Tensor]


def of_sum(value: Posterior) -> Posterior:
    """A function of log p(x|c), (B, K), and the prior."""
    return lambda log_p, prior: value(log_p.sum(2), prior)


def of_joint(value: Callable[[Tensor], Tensor]) -> Posterior:
    """A function of log p(x|c) p(c), (B, K)."""
    return lambda log_p, prior: value(log_p.sum(2) + prior.log())


def exp_and_divide(taken_out: Callable[[Tensor], Tensor]) -> Posterior:
    """The right rule by exp, after a number has been taken out of log p(x|c) p(c)."""
    return of_joint(lambda joint: normalised((joint - taken_out(joint)).exp()))


BAYES_POSTERIOR = Exercise(
    reference=bayes_posterior,
    statement="Bayes' rule: log_p (B, K, D) holds log p(x_d|c), in nats, of each example, class and pixel, and the "
    "pixels are independent given the class; prior (K,) holds p(c). The posterior probabilities p(c|x), (B, K), also "
    "where a class of prior 0 fits best by hundreds of nats.",
    nudge="What does a product of probabilities become in logarithms? Stay there until the last step: e^-1000 is 0 in "
    "a computer, and the largest of a row may be subtracted first. Which function does all that?",
    right="where every p(x|c) is too small for a computer, and where a class never occurs. A network's softmax is the "
    "same rule: its logits stand for log p(x|c) p(c), up to a number for each x.",
    inputs=pixels_by_class,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            of_sum(lambda log_p, prior: log_p.softmax(1)),
            "The prior is forgotten: p(x|c) are compared without p(c), as if all classes were equally frequent.",
        ),
        (
            of_sum(lambda log_p, prior: (log_p + prior).softmax(1)),
            "The prior is added without its logarithm. The product p(x|c) p(c) is a sum of logarithms, of both.",
        ),
        (
            of_sum(lambda log_p, prior: (log_p * prior).softmax(1)),
            "You multiply log p(x|c) by p(c). It is p(x|c) that is multiplied: in logarithms, log p(c) is added.",
        ),
        (
            of_sum(lambda log_p, prior: (log_p - prior.log()).softmax(1)),
            "You divide by the prior: the sign of log p(c) is flipped, so rare classes are preferred.",
        ),
        (
            of_sum(lambda log_p, prior: normalised(log_p.exp() * prior)),
            "exp comes before the normalisation: e^-1000 is 0 in a computer, e^1000 infinite, and 0/0 nan. `softmax`.",
        ),
        (
            of_sum(lambda log_p, prior: normalised(log_p.softmax(1) * prior)),
            "The prior comes in after the softmax. Where a class that never occurs fits best, the others are 0 by "
            "then, and 0/0 is nan. Add log p(c) first, then one softmax.",
        ),
        (
            of_sum(lambda log_p, prior: log_p.softmax(1) * prior),
            "You normalise before the prior comes in, so your rows do not sum to 1. Normalise as the last step.",
        ),
        (
            lambda log_p, prior: (log_p.mean(2) + prior.log()).softmax(1),
            "The logarithms are averaged over the pixels. Independent pixels multiply: a sum.",
        ),
        (
            lambda log_p, prior: (log_p + prior.log()[:, None]).sum(2).softmax(1),
            "The prior is counted once for each pixel. An image has one class: add log p(c) once, after the sum.",
        ),
        (
            lambda log_p, prior: (log_p + prior.log()[:, None]).softmax(1).mean(2),
            "You average the posteriors of single pixels. They are evidence for one class: sum their logarithms.",
        ),
        (
            of_joint(lambda joint: joint.softmax(0)),
            "You normalise over the batch: the columns sum to 1. Each example has one class, so its row does.",
        ),
        (
            of_joint(torch.sigmoid),
            "A sigmoid asks of each class by itself, yes or no. One of K classes is the true one: softmax over all.",
        ),
        (
            of_joint(lambda joint: (joint == joint.amax(1, keepdim=True)).float()),
            "You give all to the most probable class. The probabilities are asked: they say how sure that is.",
        ),
        (of_joint(lambda joint: joint * 1), "This is log p(x|c) p(c). Divide by p(x), the sum over the classes."),
        (exp_and_divide(torch.max), BATCH_MAX),
        (exp_and_divide(lambda joint: joint.amax(0)), COLUMN_MAX),
        (exp_and_divide(lambda joint: joint.amin(1, keepdim=True)), NOT_THE_LARGEST),
        (exp_and_divide(lambda joint: joint.mean(1, keepdim=True)), NOT_THE_LARGEST),
        (of_sum(lambda a, prior: normalised((a + prior.log() - a.mean(1, keepdim=True)).exp())), NOT_THE_LARGEST),
        (of_sum(lambda log_p, prior: (log_p + (prior + 1e-8).log()).softmax(1)), SMALL_CONSTANT),
    ],
)

# ---- log_evidence --------------------------------------------------------------------------------------------------


def log_evidence(log_likelihood: Tensor, prior: Tensor) -> Tensor:
    # p(x) = Σ_c p(x|c) p(c). logsumexp takes the largest out of the sum first, so nothing underflows.
    return (log_likelihood + prior.log()).logsumexp(1)


def likelihoods_by_class(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(batch: int, k: int, usual: float = -3.0) -> tuple[Tensor, Tensor]:
        return usual + 1.5 * torch.randn(batch, k, generator=generator), shares(generator, k)

    easy = torch.tensor([[0.5, 0.1]]).log(), torch.tensor([0.2, 0.8])
    never = draw(4, 3)[0] + torch.tensor([0.0, 0.0, 200.0]), torch.tensor([0.4, 0.6, 0.0])
    mixed = torch.tensor([[-1000.0] * 3, [-5.0] * 3, [300.0] * 3, [-1000.0, -5.0, -4.0]])
    mixed = mixed + draw(4, 3)[0], torch.tensor([0.2, 0.5, 0.3])  # sizes of all kinds, in one batch and in one row
    return [easy, draw(3, 3), draw(5, 2), never, draw(6, 10, usual=-1000.0), draw(4, 5, usual=500.0), mixed, draw(1, 4)]


def taken_out(number: Callable[[Tensor], Tensor]) -> Posterior:
    """The right sum by exp, after a number has been taken out of log p(x|c), (…, 1), and put back."""

    def evidence(log_p: Tensor, prior: Tensor) -> Tensor:
        level = number(log_p)
        return (log_p + prior.log() - level).exp().sum(1).log() + level.flatten()

    return evidence


LOG_EVIDENCE = Exercise(
    reference=log_evidence,
    statement="log p(x) of a class model: log_likelihood (B, K) holds log p(x|c) in nats, thousands of either sign, "
    "prior (K,) holds p(c). log Σ_c p(x|c) p(c) for each example, (B,), also where a class of prior 0 fits best by "
    "hundreds of nats.",
    nudge="The classes are mutually exclusive: their joint probabilities p(x|c) p(c) add up. What is log Σ exp called?",
    right="where every p(x|c) underflows. It lies below the largest log p(x|c), and its threshold asks whether x is "
    "like any class at all, which no posterior can say.",
    inputs=likelihoods_by_class,
    atol=1e-4,
    rtol=1e-6,
    wrong=[
        (
            lambda log_p, prior: log_p.logsumexp(1),
            "The prior is missing: this is log Σ p(x|c), and Σ_c p(x|c) alone is no density; it integrates to K.",
        ),
        (
            lambda log_p, prior: (log_p + prior).logsumexp(1),
            "The prior is added without its logarithm. The product p(x|c) p(c) is a sum of two logarithms.",
        ),
        (
            lambda log_p, prior: (log_p - prior.log()).logsumexp(1),
            "You divide by the prior: the sign of log p(c) is flipped.",
        ),
        (
            lambda log_p, prior: log_p.amax(1),
            "This is log p(x|c) of the best class. p(x) sums over all of them, each with its share.",
        ),
        (
            lambda log_p, prior: (log_p + prior.log()).amax(1),
            "Only the best class is counted: max in place of the sum, too small by up to log K.",
        ),
        (
            lambda log_p, prior: log_p @ prior,
            "This is Σ p(c) log p(x|c), never above log Σ p(c) p(x|c) (Jensen). The logarithm comes last.",
        ),
        (
            lambda log_p, prior: (log_p + prior.log()).sum(1),
            "You sum the logarithms: that is the product over the classes. Probabilities are added, inside the log.",
        ),
        (
            lambda log_p, prior: log_p.exp() @ prior,
            "This is p(x), which is 0 or infinite in a computer for an image. Its logarithm is asked: `logsumexp`.",
        ),
        (
            lambda log_p, prior: (log_p.exp() @ prior).log(),
            "exp comes before the logarithm: e^-1000 is 0 in a computer and e^500 infinite. `logsumexp`.",
        ),
        (
            lambda log_p, prior: (log_p + prior.log()).logsumexp(0),
            "You sum over the batch. The classes, in the columns, are summed out; an example keeps its number.",
        ),
        (
            lambda log_p, prior: (log_p.softmax(1) @ prior).log(),
            "A softmax has normalised each row first: how large p(x|c) are, which is what was asked, is gone.",
        ),
        (
            lambda log_p, prior: (log_p.softmax(1) @ prior).log() + log_p.logsumexp(1),
            "The prior comes in after exp. Where a class that never occurs fits best, the others are 0 by then, and "
            "the log of their sum is −inf. Add log p(c) first; the largest that is taken out is that of the sums.",
        ),
        (taken_out(torch.max), BATCH_MAX),
        (lambda log_p, prior: (log_p + prior.log() - log_p.amax(0)).exp().sum(1).log() + log_p.amax(1), COLUMN_MAX),
        (taken_out(lambda log_p: log_p.amin(1, keepdim=True)), NOT_THE_LARGEST),
        (taken_out(lambda log_p: log_p.mean(1, keepdim=True)), NOT_THE_LARGEST),
        *(
            (
                lambda log_p, prior, small=small: (log_p + prior.clamp(min=small).log()).logsumexp(1),
                "A small constant keeps a share from being 0, so that a class that never occurs is counted. log 0 = "
                "−inf does no harm: logsumexp gives that class 0.",
            )
            for small in (1e-12, 1e-10, 1e-8, 1e-6, 1e-3)
        ),
    ],
)

# ---- shifted_posterior ---------------------------------------------------------------------------------------------


def shifted_posterior(logits: Tensor, old: Tensor, new: Tensor) -> Tensor:
    # p(x|c) ∝ p_old(c|x) / p_old(c) has not changed: the old share goes, the new one comes, and softmax normalises.
    return (logits + new.log() - old.log()).softmax(1)


def classifiers_elsewhere(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    def draw(batch: int, k: int, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        logits = shift + 1.5 * torch.randn(batch, k, generator=generator)
        return logits, shares(generator, k), shares(generator, k)

    easy = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log(), torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.9])
    logits, old, _ = draw(4, 3)
    gone = logits + torch.tensor([0.0, 0.0, 20.0]), old, torch.tensor([0.5, 0.5, 0.0])  # what was sure is no more
    far = torch.tensor([[0.0, 1.0, 300.0], [2.0, 0.0, -300.0]]), *gone[1:]  # nothing is left of the others in floats
    same = draw(3, 4)
    mixed = torch.tensor([[500.0] * 3, [-500.0] * 3, [0.0] * 3, [500.0, -500.0, 499.0]]) + draw(4, 3)[0]
    return [
        easy,
        draw(3, 3),
        draw(5, 2),
        gone,
        far,
        draw(6, 10, shift=300.0),
        draw(4, 5, shift=-400.0),
        (mixed, torch.tensor([0.3, 0.2, 0.5]), torch.tensor([0.2, 0.7, 0.1])),  # sizes of all kinds in one batch
        (same[0], same[1], same[1]),
        draw(1, 4),
    ]


Shift = Callable[[Tensor, Tensor, Tensor], Tensor]


def of_p(value: Shift) -> Shift:
    """A function of the old posterior, and the two priors."""
    return lambda logits, old, new: value(logits.double().softmax(1), old, new)  # no underflow hides the mistake


def by_exp_of_logits(taken_out: Callable[[Tensor], Tensor | float]) -> Shift:
    """The right rule by exp, after a number has been taken out of the logits."""
    return lambda logits, old, new: normalised((logits - taken_out(logits)).exp() * new / old)


SHIFTED_POSTERIOR = Exercise(
    reference=shifted_posterior,
    statement="A classifier's logits (B, K), numbers of any size whose softmax is p(c|x) where the classes have the "
    "shares old (K,). The posterior probabilities (B, K) where they have the shares new (K,), and p(x|c) is as it was.",
    nudge="By Bayes' rule each old posterior is p(x|c) old(c), up to a number for each x. Which factor has to go, "
    "which one comes, and what makes the rows sum to 1 again?",
    right="for logits far from 0, and where a class has died out. No network was trained again; but the new shares had "
    "to be known.",
    inputs=classifiers_elsewhere,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            of_p(lambda p, old, new: p),
            "This is the posterior under the old shares: nothing has been corrected. If the shares change, so does it.",
        ),
        *(
            (answer, "You multiply by the new shares, and the old ones are still in it. Divide by old as well.")
            for answer in (
                of_p(lambda p, old, new: normalised(p * new)),
                lambda logits, old, new: torch.nn.functional.normalize(logits.softmax(1) * new, p=1),  # 0 for 0/0
            )
        ),
        (
            of_p(lambda p, old, new: normalised(p / old)),
            "You take the old shares out and put none in. Multiply by new as well.",
        ),
        (
            of_p(lambda p, old, new: normalised(p * old / new)),
            "The fraction stands upside down: new / old is the factor. A class that has become more frequent gains.",
        ),
        (of_p(lambda p, old, new: p * new / old), "You do not normalise again: your rows do not sum to 1."),
        (
            of_p(lambda p, old, new: p * new),
            "The old shares are still in it, and your rows do not sum to 1: p · new / old, then normalise.",
        ),
        (
            of_p(lambda p, old, new: (p * new / old).softmax(1)),
            "A softmax of probabilities: it belongs to logarithms. Divide the rows by their sum.",
        ),
        (
            lambda logits, old, new: (logits + new - old).softmax(1),
            "Logits are logarithms: add log new − log old, not the shares themselves.",
        ),
        (
            lambda logits, old, new: (logits * new / old).softmax(1),
            "You multiply the logits. They are logarithms: a factor new / old of the probabilities is a sum there.",
        ),
        (
            lambda logits, old, new: logits + new.log() - old.log(),
            "These are right as logits. The posterior probabilities are asked: one softmax is missing.",
        ),
        (
            lambda logits, old, new: (logits + new.log() - old.log()).softmax(0),
            "The softmax runs over the batch. Each row sums to 1: over the classes.",
        ),
        *(
            (
                lambda logits, old, new, sum_to_one=sum_to_one: sum_to_one(logits.softmax(1) * new / old),
                "The shares come in after the softmax. Where a class that has died out fits best, the others are 0 by "
                "then, and 0/0 is left. Add log new − log old first, then one softmax.",
            )
            for sum_to_one in (normalised, lambda p: torch.nn.functional.normalize(p, p=1))  # nan and 0 for 0/0
        ),
        (
            by_exp_of_logits(lambda logits: 0.0),
            "e^300 is infinite in a computer and e^-400 is 0. `softmax` subtracts the largest first.",
        ),
        (by_exp_of_logits(torch.max), BATCH_MAX),
        (by_exp_of_logits(lambda logits: logits.amax(0)), COLUMN_MAX),
        (by_exp_of_logits(lambda logits: logits.amin(1, keepdim=True)), NOT_THE_LARGEST),
        (by_exp_of_logits(lambda logits: logits.mean(1, keepdim=True)), NOT_THE_LARGEST),
        *(
            (lambda logits, old, new, e=e: (logits + (new + e).log() - old.log()).softmax(1), SMALL_CONSTANT)
            for e in (1e-12, 1e-10, 1e-8, 1e-6)
        ),
    ],
)

# ---- calibration_error ---------------------------------------------------------------------------------------------


def calibration_error(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    # One prediction is right or wrong; of many at confidence 0.8, a share of 0.8 should be right. So: in intervals.
    confidence, label = probs.max(1)
    gap = (label == y).to(probs.dtype) - confidence  # (N,)
    edges = torch.linspace(0, 1, bins + 1, dtype=probs.dtype)[1:-1]
    place = torch.bucketize(confidence, edges)  # interval of each prediction; an upper edge belongs to it
    total = probs.new_zeros(bins).index_add(0, place, gap)  # sum of the gaps: count · (accuracy − mean confidence)
    return total.abs().sum() / len(y)


def predictions(generator: Generator) -> list[tuple[Tensor, Tensor, int]]:
    def draw(n: int, k: int, bins: int, scale: float = 1.5, honest: float = 1.0) -> tuple[Tensor, Tensor, int]:
        """honest: the share of labels drawn from the probabilities; the others are any."""
        probs = (scale * torch.randn(n, k, generator=generator)).softmax(1)
        drawn = torch.multinomial(probs, 1, generator=generator).squeeze(1)
        other = torch.randint(k, (n,), generator=generator)
        return probs, torch.where(torch.rand(n, generator=generator) < honest, drawn, other), bins

    easy = torch.tensor([[0.75, 0.25], [0.875, 0.125], [0.25, 0.75], [0.375, 0.625]]), torch.tensor([0, 1, 1, 0]), 1
    two = torch.tensor([[0.4, 0.35, 0.25], [0.7, 0.2, 0.1], [0.05, 0.9, 0.05]]), torch.tensor([0, 1, 1]), 2
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.3], [0.45, 0.55]]), torch.tensor([0, 0, 1, 1]), 5
    return [
        easy,
        two,
        sure,
        draw(3, 3, 15),
        draw(40, 4, 15),
        draw(60, 10, 15, scale=3.0, honest=0.7),
        draw(200, 3, 10, scale=2.5, honest=0.5),
        draw(30, 2, 4),
    ]


Calibration = Callable[[Tensor, Tensor, int], Tensor]


def in_bins(
    value: Callable[[Tensor, Tensor, Tensor, int], object],
    confidence: Callable[[Tensor, Tensor], Tensor] = lambda probs, y: probs.amax(1),
) -> Calibration:
    """A function of count, accuracy and mean confidence of the intervals that are not empty, and of their number."""

    def measure(probs: Tensor, y: Tensor, bins: int) -> object:
        sure, right = confidence(probs, y), (probs.argmax(1) == y).float()
        place = ((sure * bins).ceil().long() - 1).clamp(0, bins - 1)
        table = [(place == b) for b in range(bins) if (place == b).any()]
        count = torch.tensor([float(inside.sum()) for inside in table])
        return value(count, *(torch.stack([v[inside].mean() for inside in table]) for v in (right, sure)), bins)

    return measure


def ece(count: Tensor, accuracy: Tensor, confidence: Tensor, bins: int) -> Tensor:
    return ((accuracy - confidence).abs() * count).sum() / count.sum()


def ece_of(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    return in_bins(ece)(probs, y, bins)


def of_all(value: Callable[[Tensor, Tensor], Tensor]) -> Calibration:
    """A function of right or wrong, and of the confidence, of each prediction."""
    return lambda probs, y, bins: value((probs.argmax(1) == y).float(), probs.amax(1))


def in_parts(parts: Callable[[Tensor, int], list[Tensor]]) -> Calibration:
    """The mean distance over other intervals: places or masks made of the confidences and the number of intervals."""

    def measure(probs: Tensor, y: Tensor, bins: int) -> Tensor:
        gap = (probs.argmax(1) == y).float() - probs.amax(1)
        gaps = [gap[part] for part in parts(probs.amax(1), bins)]
        return sum(len(g) / len(y) * g.mean().abs() for g in gaps)

    return measure


def with_the_empty(confidence: Tensor, bins: int) -> list[Tensor]:
    place = ((confidence * bins).ceil() - 1).clamp(0, bins - 1)
    return [place == b for b in range(bins)]


def with_middles(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    place = (probs.amax(1) * bins).ceil().long() - 1
    gap = (probs.argmax(1) == y).to(probs.dtype) - (place + 0.5) / bins
    return probs.new_zeros(bins).index_add(0, place, gap).abs().sum() / len(y)


def without_the_sure(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    inside = probs.amax(1) < 1
    return ece_of(probs[inside], y[inside], bins) * inside.float().mean()


CALIBRATION_ERROR = Exercise(
    reference=calibration_error,
    statement="The expected calibration error of probs (N, K) with labels y (N,): confidence is the largest "
    "probability; sort the predictions into `bins` intervals of equal width, (0, 1/bins] to (1 − 1/bins, 1]; average "
    "|accuracy − mean confidence| of the intervals that hold any, weighted by their numbers. A scalar.",
    nudge="Three numbers for each interval: how many predictions, which share of them is right, and how sure they were "
    "in the mean. Work the first input out by hand: it has one interval.",
    right="empty intervals and confidence 1 included. With few predictions it is above 0 for a calibrated classifier, "
    "too: an accuracy of four predictions is a noisy one.",
    inputs=predictions,
    wrong=[
        (
            in_bins(lambda n, accuracy, confidence, bins: (accuracy - confidence).abs().mean()),
            "All intervals count alike in yours. Weight each by its number of predictions.",
        ),
        (
            in_bins(lambda n, accuracy, confidence, bins: (accuracy - confidence).abs().sum() / bins),
            "You divide by the number of intervals, the empty ones counted. Weight each by its number over N.",
        ),
        (
            in_bins(lambda n, accuracy, confidence, bins: (accuracy - confidence).abs().max()),
            "This is the largest distance, the maximum calibration error. The weighted mean is asked.",
        ),
        (
            in_bins(lambda n, accuracy, confidence, bins: ((accuracy - confidence) * n).sum() / n.sum()),
            "The differences keep their signs, so that too sure and too timid cancel. Take |…| of each interval.",
        ),
        (
            in_bins(lambda n, accuracy, confidence, bins: ((confidence - accuracy) * n).sum() / n.sum()),
            "The differences keep their signs, so that too sure and too timid cancel. Take |…| of each interval.",
        ),
        (
            of_all(lambda right, confidence: (right.mean() - confidence.mean()).abs()),
            "One interval for all: too sure here and too timid there cancel. Compare interval by interval.",
        ),
        (
            of_all(lambda right, confidence: (right - confidence).abs().mean()),
            "You take |right − confidence| of each prediction by itself. Average within each interval first.",
        ),
        (
            in_bins(ece, confidence=lambda probs, y: probs.gather(1, y[:, None]).squeeze(1)),
            "Your confidence is the probability of the true label. It is the largest probability of the row.",
        ),
        (
            in_parts(lambda confidence, bins: [part for part in confidence.argsort().tensor_split(bins) if len(part)]),
            "Your intervals hold equally many predictions. Here they are equally wide, from 0 to 1.",
        ),
        (
            in_parts(with_the_empty),
            "The mean over an empty interval is nan, and 0 · nan is nan. Leave such intervals out: `if inside.any()`.",
        ),
        (
            lambda probs, y, bins: ece_of(probs, y, 15),
            "You always use 15 intervals. Their number is the argument bins.",
        ),
        (
            lambda probs, y, bins: ece_of(probs, y, bins + 1),
            "You have one interval too many: `linspace(0, 1, bins + 1)` has the edges of `bins` intervals.",
        ),
        (with_middles, "You compare the accuracy with the middle of the interval. The mean confidence in it is asked."),
        (without_the_sure, "Predictions of confidence exactly 1 fall out of your last interval. It includes 1."),
        (
            lambda probs, y, bins: ece_of(probs.softmax(1), y, bins),
            "probs are probabilities already: another softmax makes them all nearly alike.",
        ),
        (
            lambda probs, y, bins: in_bins(
                lambda n, _, confidence, bins: ece(n, (probs.argmax(1)[:, None] == y).float().mean(), confidence, bins)
            )(probs, y, bins),
            "Each prediction meets each label, as (N, 1) == (N,) does. `argmax` and `max` without `keepdim`.",
        ),
    ],
)

# ---- known_log_likelihood ------------------------------------------------------------------------------------------


def known_log_likelihood(x: Tensor, known: Tensor, mu: Tensor, cov: Tensor) -> Tensor:
    # Integrated out, a pixel just leaves: of the mean its entry, of the covariance (not its inverse) row and column.
    values = []
    for row, seen in zip(x, known):
        z, s = row[seen] - mu[seen], cov[seen][:, seen]
        distance = z @ torch.linalg.solve(s, z)
        values.append(-0.5 * (distance + torch.logdet(s) + len(z) * math.log(2 * math.pi)))
    return torch.stack(values)


def images_with_gaps(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    def draw(
        batch: int, d: int, share: float = 0.6, far: float = 1.0, sigma: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        root = torch.randn(d, d, generator=generator) / math.sqrt(d)
        mu, cov = torch.randn(d, generator=generator), sigma**2 * (root @ root.T + 0.3 * torch.eye(d))
        known = torch.rand(batch, d, generator=generator) < share
        x = mu + sigma * far * torch.randn(batch, d, generator=generator)
        return torch.where(known, x, 7.0), known, mu, cov  # 7: far from every mean

    easy = (
        torch.tensor([[1.0, 5.0]]),
        torch.tensor([[True, False]]),
        torch.tensor([0.0, 0.5]),
        torch.tensor([[2.0, 1.0], [1.0, 2.0]]),
    )
    x, known, mu, cov = draw(4, 3)
    nothing = torch.where(torch.arange(4)[:, None] == 2, False, known)
    return [
        easy,
        draw(3, 4),
        draw(5, 3, share=1.1),
        (x, nothing, mu, cov),
        draw(4, 4),
        draw(6, 9, 0.5, far=5.0),
        draw(2, 60, 0.9, sigma=0.1),  # det Σ ≈ 1e-130
        draw(1, 5, 0.8),
    ]


Masked = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
LOG_2_PI = math.log(2 * math.pi)


def log_normal(z: Tensor, precision: Tensor, log_det: Tensor, n: float) -> Tensor:
    """log N of z = x − μ, with the inverse of a covariance, the log of its determinant and the number of pixels."""
    return -0.5 * (z @ precision @ z + log_det + n * LOG_2_PI)


def density(z: Tensor, s: Tensor) -> Tensor:
    return log_normal(z, s.inverse(), s.logdet(), len(z))


def row_by_row(value: Masked) -> Masked:
    """A function of one image at a time: x (D,), known (D,), mu, cov."""
    return lambda x, known, mu, cov: torch.stack([value(row, seen, mu, cov) for row, seen in zip(x, known)])


def of_known(value: Callable[[Tensor, Tensor, int], Tensor]) -> Masked:
    """A function of x − μ and Σ of the known pixels of one image, and of D."""
    return row_by_row(lambda x, seen, mu, cov: value((x - mu)[seen], cov[seen][:, seen], len(mu)))


def filled(fill: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Masked:
    """The density of whole images, whose missing pixels are filled first."""
    return row_by_row(lambda x, seen, mu, cov: density(torch.where(seen, x, fill(x, seen, mu, cov)) - mu, cov))


def conditional_mean(x: Tensor, seen: Tensor, mu: Tensor, cov: Tensor) -> Tensor:
    return mu + cov[:, seen] @ torch.linalg.solve(cov[seen][:, seen], (x - mu)[seen])


def with_precision(of_determinant: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Masked:
    """Known rows and columns of Σ⁻¹, and a log det of (that, Σ, known)."""

    def value(x: Tensor, seen: Tensor, mu: Tensor, cov: Tensor) -> Tensor:
        precision = cov.inverse()[seen][:, seen]
        return log_normal((x - mu)[seen], precision, of_determinant(precision, cov, seen), int(seen.sum()))

    return row_by_row(value)


def of_root(z: Tensor, root: Tensor) -> Tensor:
    """log N of z = x − μ, for a lower triangular root of the covariance."""
    white = torch.linalg.solve_triangular(root.tril(), z[:, None], upper=False)
    return -0.5 * (white.square().sum() + len(z) * LOG_2_PI) - root.diagonal().log().sum()


KNOWN_LOG_LIKELIHOOD = Exercise(
    reference=known_log_likelihood,
    statement="log p of the known pixels of each image under N(mu, cov), in nats, the others integrated out: x (B, D), "
    "known (B, D) bool, True where seen, mu (D,), cov (D, D), whose determinant may be 0 in float32. (B,); 0 for an "
    "image of which nothing is known.",
    nudge="The known pixels are Gaussian themselves. What are their mean and their covariance? Each image has a mask "
    "of its own, so a loop over the images is fine: `cov[seen][:, seen]`.",
    right="with everything known, with nothing known, and whatever stands in the gaps. That is how a generative "
    "classifier reads an image with holes: nothing has to be filled in, or trained again.",
    inputs=images_with_gaps,
    atol=1e-3,
    rtol=1e-4,
    wrong=[
        (
            filled(lambda x, seen, mu, cov: mu),
            "The missing pixels are filled with their mean and scored, as if seen there. Take them out, of cov, too.",
        ),
        (
            filled(lambda x, seen, mu, cov: torch.zeros_like(x)),
            "The missing pixels are filled with 0 and scored, as if they had been seen black. Take them out.",
        ),
        (
            filled(lambda x, seen, mu, cov: x),
            "You score what stands in the gaps, and known does not appear. It means nothing: take those pixels out.",
        ),
        (
            filled(conditional_mean),
            "Either the missing pixels are filled with the best guess and scored as if they had been seen, or "
            "determinant and constant are those of all D pixels: both give this number. Both belong to the known "
            "pixels alone.",
        ),
        (
            with_precision(lambda precision, cov, seen: -precision.logdet()),
            "You take the known rows and columns of the inverse. Cut the covariance first, then invert.",
        ),
        (row_by_row(lambda x, seen, mu, cov: density(x[seen], cov[seen][:, seen])), "The mean is not subtracted."),
        (
            row_by_row(lambda x, seen, mu, cov: of_root((x - mu)[seen], torch.linalg.cholesky(cov)[seen][:, seen])),
            "You cut the Cholesky factor of cov, whose rows mix missing pixels in. Cut cov first, then factorise.",
        ),
        (
            lambda x, known, mu, cov: of_known(lambda z, s, d: density(z, s))(x, known[:1].expand_as(known), mu, cov),
            "All images share the mask of the first. Each misses pixels of its own.",
        ),
        (
            of_known(lambda z, s, d: density(z, s) if len(z) else torch.tensor(-math.inf)),
            "An image of which nothing is known has −inf in yours, as if it were impossible. Nothing said: log 1 = 0.",
        ),
        (
            of_known(lambda z, s, d: log_normal(z, s.inverse(), s.det().log(), len(z))),
            "The determinant comes before its logarithm: of dozens of pixels it is 0 in float32. `logdet`.",
        ),
        (
            of_known(lambda z, s, d: density(z, s.diagonal().diag())),
            "You take the known pixels as independent: only the diagonal of cov counts. The covariances belong to it.",
        ),
        (
            of_known(lambda z, s, d: log_normal(z, s, s.logdet(), len(z))),
            "The distance is zᵀ Σ z. Divided by the variance, not multiplied: zᵀ Σ⁻¹ z.",
        ),
        (
            of_known(lambda z, s, d: density(z, s) + s.logdet() / 2),
            "The determinant is missing: a wide Gaussian has to be lower than a narrow one.",
        ),
        (
            of_known(lambda z, s, d: density(z, s) - s.logdet() / 2),
            "The determinant comes in by its root: ½ log det Σ.",
        ),
        (
            of_known(lambda z, s, d: density(z, s) + len(z) * LOG_2_PI / 2),
            "The constant is missing, ½ log 2π for each known pixel. Between classes it cancels, in log p(x) not.",
        ),
        (
            of_known(lambda z, s, d: log_normal(z, s.inverse(), s.logdet(), 1)),
            "The constant ½ log 2π is counted once. It belongs to each known pixel.",
        ),
        (of_known(lambda z, s, d: density(z, s) - z @ s.inverse() @ z / 2), "The ½ before the distance is missing."),
        (
            of_known(lambda z, s, d: of_root(z, s)),
            "cov stands where a Cholesky factor (`scale_tril`) belongs. Give it as `covariance_matrix`.",
        ),
    ],
)

# ---- honest_test_loss ----------------------------------------------------------------------------------------------


def honest_test_loss(logits: Tensor, y: Tensor, split: Tensor, temperatures: Tensor) -> Tensor:
    # Chosen on validation: on training data a network is surer than it should be, and the test data are for the end.
    def loss(T: Tensor, inside: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits[inside] / T, y[inside])

    best = torch.stack([loss(T, split == 1) for T in temperatures]).argmin()
    return loss(temperatures[best], split == 2)


def trained_networks(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    def draw(
        sizes: list[int],
        k: int,
        temperatures: list[float],
        sure: tuple[float, ...] = (9.0, 3.0, 4.0),
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits as a network gives them: surest of what it has learnt."""
        split = torch.arange(3).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes), generator=generator)]
        y = torch.randint(k, (len(split),), generator=generator)
        signal = torch.tensor(sure)[split][:, None] * torch.nn.functional.one_hot(y, k)
        noise = torch.tensor([1.0, 2.5, 1.8])[split][:, None] * torch.randn(len(y), k, generator=generator)
        return scale * (signal + noise), y, split, torch.tensor(temperatures)

    easy = (
        torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [2.0, 0.0], [0.0, 1.0]]),
        torch.tensor([0, 0, 1, 0, 0, 1]),
        torch.tensor([0, 0, 1, 1, 2, 2]),
        torch.tensor([0.5, 1.0, 4.0]),
    )
    return [
        easy,
        draw([20, 12, 15], 3, [1.0, 0.25, 4.0, 2.0, 1.5]),
        draw([30, 30, 30], 10, [0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0]),
        draw([40, 10, 20], 5, [8.0, 3.0, 2.0, 1.5, 1.0, 0.5], sure=(6.0, 2.0, 5.0)),
        draw([12, 8, 8], 4, [0.25, 0.5, 1.0, 2.0, 4.0], sure=(1.5, 4.0, 1.0)),
        draw([25, 60, 20], 3, [4.0, 0.6, 1.2, 2.4, 9.0], sure=(5.0, 3.0, 3.0)),
        draw([20, 30, 40], 4, [2.0, 1.0, 0.5], sure=(4.0, 2.0, 2.0), scale=100.0),  # far too sure, at each of them
    ]


Report = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TRAIN, VALIDATION, TEST = (0,), (1,), (2,)


def mean_loss(logits: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, y)


def error(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) != y).float().mean()


def of_labels(p: Tensor, y: Tensor) -> Tensor:
    return p.gather(1, y[:, None]).squeeze(1)


def report(
    choose_on: tuple[int, ...] = VALIDATION,
    report_on: tuple[int, ...] = TEST,
    *,
    least: Callable[[Tensor, Tensor], Tensor] = mean_loss,
    value: Callable[[Tensor, Tensor], Tensor] = mean_loss,
    scale: Callable[[Tensor, Tensor], Tensor] = torch.div,
) -> Report:
    """The value on one split at the temperature of the least value on another."""

    def run(logits: Tensor, y: Tensor, split: Tensor, temperatures: Tensor) -> Tensor:
        chosen, reported = (torch.isin(split, torch.tensor(parts)) for parts in (choose_on, report_on))
        scores = torch.stack([least(scale(logits[chosen], T), y[chosen]) for T in temperatures])
        return value(scale(logits[reported], temperatures[scores.argmin()]), y[reported])

    return run


def over_temperatures(value: Callable[[Tensor], Tensor]) -> Report:
    """A function of the test loss at each temperature."""

    def run(logits: Tensor, y: Tensor, split: Tensor, temperatures: Tensor) -> Tensor:
        inside = split == 2
        return value(torch.stack([mean_loss(logits[inside] / T, y[inside]) for T in temperatures]))

    return run


def chosen_temperature(logits: Tensor, y: Tensor, split: Tensor, temperatures: Tensor) -> Tensor:
    inside = split == 1
    return temperatures[torch.stack([mean_loss(logits[inside] / T, y[inside]) for T in temperatures]).argmin()]


HONEST_TEST_LOSS = Exercise(
    reference=honest_test_loss,
    statement="logits (N, K), which may be hundreds, labels y (N,), split (N,): 0 training, 1 validation, 2 test. "
    "Choose the one of temperatures (M,) by which logits / T have the least mean −log p(y|x), on the split that is "
    "made for choices, and return the mean −log p(y|x) to print as the test loss. A scalar, nats.",
    nudge="The network has seen the training data, so it is surer there than elsewhere. And a figure by which "
    "something was chosen is too good. Which split is left for the choice, which for the figure?",
    right="chosen on validation data, measured once on test data. The least test loss of all candidates would be "
    "lower, and would not come true on new data.",
    inputs=trained_networks,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            report(choose_on=TRAIN),
            "The temperature is chosen on the training data, where the network is too sure. Choose on validation.",
        ),
        (
            over_temperatures(torch.min),
            "The temperature is chosen on the test data, so the figure is too good. Choose on validation.",
        ),
        (
            report(choose_on=(0, 1, 2)),
            "The temperature is chosen on all the data, the test data among them. Choose on validation data.",
        ),
        (
            report(report_on=VALIDATION),
            "You report the validation loss, by which the choice was made. The figure comes from the test data.",
        ),
        (
            report(choose_on=(0, 1, 2), report_on=(0, 1, 2)),
            "Choice and figure are both from all the data: split does not appear. Validation, then test.",
        ),
        (
            report(choose_on=TEST, report_on=VALIDATION),
            "The splits are exchanged: 1 is validation, for the choice, and 2 test, for the figure.",
        ),
        (
            report(least=error),
            "You choose by the number of errors, which no temperature changes. Choose by −log p(y|x).",
        ),
        (report(scale=torch.mul), "The logits are multiplied by T. They are divided: T > 1 makes a network less sure."),
        (
            report(scale=lambda logits, T: logits.softmax(1) / T),
            "The probabilities are divided by the temperature. It belongs before the softmax: logits / T.",
        ),
        (
            report(scale=lambda logits, T: (logits / T).softmax(1)),
            "`cross_entropy` takes logits; you give it probabilities, so a softmax is applied twice.",
        ),
        (
            report(value=lambda logits, y: -of_labels(logits.softmax(1), y).log().mean()),
            "A probability is 0 in float32, and the log of it infinite. `cross_entropy` works with the logits.",
        ),
        (
            lambda logits, y, split, temperatures: mean_loss(logits[split == 2], y[split == 2]),
            "This is the test loss at T = 1: the logits are not divided by the chosen temperature.",
        ),
        (chosen_temperature, "This is the temperature. The test loss at it is asked."),
        (
            over_temperatures(lambda values: values),
            "These are the test losses of all candidates. Choose first, on validation data; then measure once.",
        ),
    ],
)

# ---- posterior_range -----------------------------------------------------------------------------------------------


def posterior_range(lower: Tensor, upper: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    # The worst case of a class: its own evidence at its lowest, that of all others at their highest; and the reverse.
    itself = torch.eye(len(prior), dtype=torch.bool)
    lower, upper = lower + prior.log(), upper + prior.log()
    rest_low, rest_high = (a[:, None].masked_fill(itself, -math.inf).logsumexp(2) for a in (lower, upper))  # (B, K)
    return (lower - rest_high).sigmoid(), (upper - rest_low).sigmoid()


def bounded(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    def draw(
        batch: int, k: int, usual: float = 0.0, unbounded: float = 0.0, wide: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Some classes are exact, some have a gap; of a share of them no upper bound is known."""
        lower = usual + wide * torch.randn(batch, k, generator=generator)
        gap = wide * (2 * torch.rand(batch, k, generator=generator) - 0.5).clamp(min=0)
        endless = torch.rand(batch, k, generator=generator) < unbounded
        return lower, (lower + gap).masked_fill(endless, math.inf), shares(generator, k)

    easy = torch.tensor([[0.2, 0.1]]).log(), torch.tensor([[0.2, 0.3]]).log(), torch.tensor([0.5, 0.5])
    exact = draw(3, 4)
    return [
        easy,
        draw(3, 3),
        draw(5, 2),
        (exact[0], exact[0], exact[2]),  # both ends are the posterior
        draw(6, 10, usual=-1000.0),
        draw(4, 3, usual=300.0),
        draw(6, 4, wide=200.0),  # bounds that lie far apart
        draw(4, 4, unbounded=0.4),
    ]


Range = Callable[[Tensor, Tensor, Tensor], object]


def rest(a: Tensor, value: Callable[[Tensor, int], Tensor] = torch.logsumexp) -> Tensor:
    """Of each class, a reduction over all others: (B, K)."""
    itself = torch.eye(a.shape[1], dtype=torch.bool)
    return value(a[:, None].masked_fill(itself, -math.inf), 2)


def of_joints(value: Callable[[Tensor, Tensor], object]) -> Range:
    """A function of lower and upper, each with log p(c) added."""
    return lambda lower, upper, prior: value(lower + prior.log(), upper + prior.log())


def both_ends(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return (low - rest(high)).sigmoid(), (high - rest(low)).sigmoid()


def by_exp(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    low, high = low.exp(), high.exp()
    rest_low, rest_high = low.sum(1, keepdim=True) - low, high.sum(1, keepdim=True) - high
    return low / (low + rest_high), high / (high + rest_low)


def one_bound(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return low.softmax(1), high.softmax(1)


def corner_softmaxes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The right corners, by a softmax, which is nan where a bound is infinite."""
    itself = torch.eye(low.shape[1], dtype=torch.bool)
    worst, best = torch.where(itself, low[:, None], high[:, None]), torch.where(itself, high[:, None], low[:, None])
    return tuple(corner.softmax(2).diagonal(dim1=1, dim2=2) for corner in (worst, best))


FOR_INFINITY = 1e5  # nats: what a learner may write in its place
ONE_BOUND = (
    "Each end uses the same bound for all classes. A class does worst when it is at its lower bound and all others are "
    "at their upper ones."
)

POSTERIOR_RANGE = Exercise(
    reference=posterior_range,
    statement="lower ≤ log p(x|c) ≤ upper, each (B, K) in nats, which may lie hundreds of nats apart; equal where a "
    "model is exact, upper infinite where only a bound below is known; prior (K,) > 0. The lowest and the highest "
    "p(c|x) that each class can have: (lowest, highest), each (B, K).",
    nudge="p(c|x) = p(x|c) p(c) / (the same + that of all other classes). Which end of each makes it smallest? The "
    "rest of a row is a logsumexp without the class itself, and a/(a + b) is a sigmoid of log a − log b.",
    right="where some are exact and some have no upper bound. An ELBO that beats the exact values of the others has "
    "won; one that loses to them has not lost yet: it may only be loose.",
    inputs=bounded,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (of_joints(one_bound), ONE_BOUND),
        (of_joints(lambda low, high: one_bound(low, high.clamp(max=FOR_INFINITY))), ONE_BOUND),
        (lambda lower, upper, prior: one_bound(lower, upper), ONE_BOUND + " (And the prior is missing.)"),
        (
            of_joints(corner_softmaxes),
            "The rule is right, but a softmax of ∞ is nan. A sigmoid of the difference to the rest gives 1 and 0.",
        ),
        (
            of_joints(lambda low, high: tuple(end.nan_to_num() for end in corner_softmaxes(low, high))),
            "`nan_to_num` makes a 0 of nan. The highest of a class without an upper bound is 1.",
        ),
        (
            of_joints(by_exp),
            "e^-1000 is 0 in a computer, e^300 infinite, and 0/0 nan. Stay with logsumexp and sigmoid.",
        ),
        (
            lambda lower, upper, prior: both_ends(lower, upper),
            "The prior is missing: p(x|c) are compared without p(c).",
        ),
        (
            lambda lower, upper, prior: tuple(normalised(end * prior) for end in both_ends(lower, upper)),
            "The prior comes in after the normalisation. It weighs each p(x|c) before: add log p(c) to both bounds.",
        ),
        (
            of_joints(lambda low, high: both_ends(low, high)[::-1]),
            "Lowest and highest are exchanged: (lowest, highest) is asked.",
        ),
        (
            of_joints(
                lambda low, high: ((low - rest(high, torch.amax)).sigmoid(), (high - rest(low, torch.amax)).sigmoid())
            ),
            "You compare with the strongest other class alone (max). All others add up: logsumexp.",
        ),
        (
            of_joints(lambda low, high: ((low - rest(high)).sigmoid(), 1 - (low - rest(high)).sigmoid())),
            "The highest is not 1 minus the lowest: the class is at its upper bound, the others at their lower ones.",
        ),
        (
            of_joints(lambda low, high: ((low - rest(high)).sigmoid(), (high - rest(high)).sigmoid())),
            "In the highest the other classes are at their lower bounds, not at their upper ones.",
        ),
        (
            of_joints(lambda low, high: ((low - rest(low)).sigmoid(), (high - rest(low)).sigmoid())),
            "In the lowest the other classes are at their upper bounds, not at their lower ones.",
        ),
        (
            of_joints(
                lambda low, high: (
                    (low - high.logsumexp(1, keepdim=True)).exp(),
                    (high - low.logsumexp(1, keepdim=True)).exp(),
                )
            ),
            "The class itself stands in your denominator with its other bound. Only the OTHER classes do that.",
        ),
        (
            of_joints(lambda low, high: tuple(normalised(end) for end in both_ends(low, high))),
            "You normalise the rows. Each class has its own worst case, not all at once.",
        ),
    ],
)

EXERCISES = [
    BAYES_POSTERIOR,
    LOG_EVIDENCE,
    SHIFTED_POSTERIOR,
    CALIBRATION_ERROR,
    KNOWN_LOG_LIKELIHOOD,
    HONEST_TEST_LOSS,
    POSTERIOR_RANGE,
]
