"""Exercises of notebook 09: Bayes' rule, another prior, calibration, missing pixels, honest figures, bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dgm_lib.exercises.engine import Exercise


def shares(generator: Generator, k: int) -> Tensor:
    """A prior that is far from even, (K,)."""
    return torch.randn(k, generator=generator).mul(1.2).softmax(0)


def each(builder: Callable, by_hint: dict[str, Callable]) -> list[tuple[Callable, str]]:
    """Known wrong answers, made of what differs in them, with their hints."""
    return [(builder(value), hint) for hint, value in by_hint.items()]


def normalised(p: Tensor) -> Tensor:
    return p / p.sum(1, keepdim=True)


def above_zero() -> list[Callable[[Tensor], Tensor]]:
    """What is done to shares against log 0: a small constant is added, or they are clamped to one."""
    added = [lambda p, small=small: p + small for small in SMALL]
    clamped = [lambda p, small=small: p.clamp(min=small) for small in SMALL]
    return added + clamped


SMALL = (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
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
    liked = torch.tensor([0.0, 4.0, 0.0])[:, None]  # the class that never occurs fits best, by 20 nats
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


def less_then_exp(taken_out: Callable[[Tensor], Tensor]) -> Posterior:
    """The same after a number of log p(x|c), without the prior, which may be 0."""
    return of_sum(lambda log_p, prior: normalised((log_p - taken_out(log_p)).exp() * prior))


PIXEL_BY_PIXEL = (
    "You apply Bayes' rule to each pixel and average its posteriors. The pixels are evidence for one and the same "
    "class: their log-likelihoods add up, then comes the softmax."
)

PRIOR_SLIPS = {
    "The prior is forgotten: "
    "p(x|c) are compared without p(c), as if all classes were equally frequent.": lambda log_p, prior: log_p.softmax(1),
    "The prior is added without its logarithm. "
    "The product p(x|c) p(c) is a sum of logarithms, of both.": lambda log_p, prior: (log_p + prior).softmax(1),
    "You multiply log p(x|c) by p(c). It is p(x|c) "
    "that is multiplied: in logarithms, log p(c) is added.": lambda log_p, prior: (log_p * prior).softmax(1),
    "You divide by the prior: the sign of log p(c) is flipped, so rare classes are preferred.": lambda log_p, prior: (
        log_p - prior.log()
    ).softmax(1),
    "The rule is right, but exp comes before the normalisation: e^-1000 is 0 in a computer and e^1000 infinite, and "
    "0/0 is nan. Normalise in logarithms: `softmax` subtracts "
    "the largest first.": lambda log_p, prior: (log_p.exp() * prior) / (log_p.exp() * prior).sum(1, keepdim=True),
    "You normalise before the prior comes in, so your rows do not sum to 1. "
    "Normalise p(x|c) p(c), as the last step.": lambda log_p, prior: log_p.softmax(1) * prior,
    "You correct for an uneven prior, and do not normalise again: your rows do not sum to 1.": lambda log_p, prior: (
        log_p.softmax(1) * prior * log_p.shape[1]
    ),
    "You average the prior with what the image says. "
    "Bayes' rule multiplies them, and normalises.": lambda log_p, prior: (log_p.softmax(1) + prior) / 2,
    "A softmax is applied to probabilities, not to logarithms. "
    "Sum log p(x|c) and log p(c), then one softmax.": lambda log_p, prior: (log_p.softmax(1) + prior.log()).softmax(1),
    "You normalise before the prior comes in, and give logarithms. "
    "One softmax, as the last step, does both.": lambda log_p, prior: log_p.log_softmax(1) + prior.log(),
    "The prior's logarithm is log2, beside natural ones. Use `log`.": lambda log_p, prior: (
        log_p + prior.log2()
    ).softmax(1),
    "The prior is counted twice. log p(c) is added once.": lambda log_p, prior: (log_p + 2 * prior.log()).softmax(1),
}
JOINT_SLIPS = {
    "You normalise over the batch: the columns sum to 1. Each example has one class, so its row does.": lambda joint: (
        joint.softmax(0)
    ),
    "You normalise over all numbers of the batch at once. Each example has a posterior of its own: "
    "its row sums to 1.": lambda joint: joint.flatten().softmax(0).view_as(joint),
    "These are the logarithms of the posterior. Its probabilities are asked.": lambda joint: joint.log_softmax(1),
    "A sigmoid asks of each class by itself, yes or no. "
    "One of K classes is the true one: softmax over all.": torch.sigmoid,
    "You divide logarithms by their sum. It is the probabilities that are divided by theirs, so here a logsumexp is "
    "subtracted.": lambda joint: joint / joint.sum(1, keepdim=True),
    "You give all to the most probable class. The probabilities are asked: they say how sure that is.": lambda joint: (
        joint == joint.amax(1, keepdim=True)
    ).float(),
    "This is one number an example, of the best class. A probability for each class is asked, (B, K).": lambda joint: (
        joint.amax(1)
    ),
    "This is the most probable class. A probability for each class is asked, (B, K).": lambda joint: joint.argmax(1),
    "This is the probability of the best class alone. One for each class is asked, (B, K).": lambda joint: (
        joint.softmax(1).amax(1)
    ),
    "The sign is flipped: your most probable class is the least likely one.": lambda joint: (-joint).softmax(1),
    "exp comes before the normalisation: e^-1000 is 0 in a computer, and the constant below only hides 0/0. Normalise "
    "in logarithms: `softmax`.": lambda joint: joint.exp() / (joint.exp().sum(1, keepdim=True) + 1e-8),
}

BAYES_SLIPS = {
    "The logarithms are averaged over the pixels. Independent pixels multiply: a sum. The mean is the D-th part of "
    "the evidence, and the prior decides nearly alone.": lambda log_p, prior: (log_p.mean(2) + prior.log()).softmax(1),
    "The logarithms are averaged over the pixels, where independent pixels multiply: "
    "a sum. And the prior is missing.": lambda log_p, prior: log_p.mean(2).softmax(1),
    "The prior is counted once for each pixel. An image has one class: "
    "add log p(c) once, after the sum.": lambda log_p, prior: (log_p + prior.log()[:, None]).sum(2).softmax(1),
    "You normalise each pixel by itself, and not their product: your rows do not sum to 1. Normalise once, as the "
    "last step.": lambda log_p, prior: log_p.softmax(1).prod(2) * prior,
    "Only the likeliest pixel counts in yours. All pixels are evidence: sum their logarithms.": lambda log_p, prior: (
        log_p.amax(2) + prior.log()
    ).softmax(1),
    "You add up the probabilities of the pixels (`logsumexp`). Independent pixels multiply: "
    "sum the logarithms.": lambda log_p, prior: (log_p.logsumexp(2) + prior.log()).softmax(1),
    "The whole exponent is divided by D (a mean?), which makes all posteriors more alike. Independent pixels "
    "multiply: a sum.": lambda log_p, prior: ((log_p.sum(2) + prior.log()) / log_p.shape[2]).softmax(1),
}

BAYES_POSTERIOR = Exercise(
    reference=bayes_posterior,
    statement="Bayes' rule: log_p (B, K, D) holds log p(x_d|c), in nats, of each example, class and pixel, and the "
    "pixels are independent given the class; prior (K,) holds p(c). The posterior probabilities p(c|x), (B, K).",
    nudge="What does a product of probabilities become in logarithms? Stay there until the last step: e^-1000 is 0 in "
    "a computer, and the largest of a row may be subtracted first. Which function does all that?",
    right="where every p(x|c) is too small for a computer, and where a class never occurs. A network's softmax is the "
    "same rule: its logits stand for log p(x|c) p(c), up to a number for each x.",
    inputs=pixels_by_class,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            lambda log_p, prior: (log_p + prior.log()[:, None]).softmax(1).mean(2),
            PIXEL_BY_PIXEL,
        ),
        (lambda log_p, prior: log_p.softmax(1).mean(2), PIXEL_BY_PIXEL + " (And the prior is missing.)"),
        (
            lambda log_p, prior: log_p.softmax(1).mean(2) * prior,
            PIXEL_BY_PIXEL + " (And what comes out has to be normalised.)",
        ),
        (lambda log_p, prior: normalised(log_p.softmax(1).mean(2) * prior), PIXEL_BY_PIXEL),
        (of_joint(lambda joint: joint * 1), "This is log p(x|c) p(c). Divide by p(x), the sum over the classes."),
        (of_joint(torch.exp), "This is p(x|c) p(c), which is not normalised (and often 0). Divide by p(x)."),
        (exp_and_divide(torch.max), BATCH_MAX),
        (exp_and_divide(lambda joint: joint.amax(0)), COLUMN_MAX),
        (exp_and_divide(lambda joint: joint.amin(1, keepdim=True).clamp(min=-1e9)), NOT_THE_LARGEST),
        (exp_and_divide(lambda joint: joint.clamp(min=-1e9).mean(1, keepdim=True)), NOT_THE_LARGEST),
        (less_then_exp(lambda log_p: log_p.amin(1, keepdim=True)), NOT_THE_LARGEST),
        (less_then_exp(lambda log_p: log_p.mean(1, keepdim=True)), NOT_THE_LARGEST),
        *((of_sum(lambda a, prior, f=f: (a + f(prior).log()).softmax(1)), SMALL_CONSTANT) for f in above_zero()),
        *each(of_sum, PRIOR_SLIPS),
        *each(of_joint, JOINT_SLIPS),
        *((answer, hint) for hint, answer in BAYES_SLIPS.items()),
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
    never = draw(4, 3)[0] + torch.tensor([0.0, 0.0, 20.0]), torch.tensor([0.4, 0.6, 0.0])
    mixed = torch.tensor([[-1000.0] * 3, [-5.0] * 3, [300.0] * 3, [-1000.0, -5.0, -4.0]])
    mixed = mixed + draw(4, 3)[0], torch.tensor([0.2, 0.5, 0.3])  # sizes of all kinds, in one batch and in one row
    return [
        easy,
        draw(3, 3),
        draw(5, 2),
        never,
        draw(6, 10, usual=-1000.0),
        draw(4, 5, usual=500.0),
        mixed,
        draw(1, 4),
    ]


EXP_FIRST = (
    "The sum is right, but exp comes before the logarithm: e^-1000 is 0 in a computer and e^500 infinite. `logsumexp` "
    "takes the largest term out first."
)


def taken_out(number: Callable[[Tensor], Tensor]) -> Posterior:
    """The right sum by exp, after a number has been taken out of log p(x|c), (…, 1), and put back."""

    def evidence(log_p: Tensor, prior: Tensor) -> Tensor:
        level = number(log_p)
        return ((log_p - level).exp() @ prior).log() + level.flatten()

    return evidence


def row_max_out(log_p: Tensor, prior: Tensor) -> Tensor:
    return ((log_p - log_p.amax(1, keepdim=True)).exp() @ prior).log()


EVIDENCE_SLIPS = {
    "The prior is missing: this is log Σ p(x|c), and Σ_c p(x|c) "
    "alone is no density; it integrates to K.": lambda log_p, prior: log_p.logsumexp(1),
    "You average over the classes as if each had the share 1/K. Their shares are in prior.": lambda log_p, prior: (
        log_p.logsumexp(1) - math.log(log_p.shape[1])
    ),
    "The prior is added without its logarithm. "
    "The product p(x|c) p(c) is a sum of two logarithms.": lambda log_p, prior: (log_p + prior).logsumexp(1),
    "You multiply log p(x|c) by p(c) inside. It is p(x|c) that is multiplied: add log p(c).": lambda log_p, prior: (
        log_p * prior
    ).logsumexp(1),
    "You divide by the prior: the sign of log p(c) is flipped.": lambda log_p, prior: (log_p - prior.log()).logsumexp(
        1
    ),
    "This is log p(x|c) of the best class. p(x) sums over all of them, each with its share.": lambda log_p, prior: (
        log_p.amax(1)
    ),
    "Only the best class is counted: max in place of the sum. That is close where one class is sure, and too small by "
    "up to log K where not.": lambda log_p, prior: (log_p + prior.log()).amax(1),
    "You average log p(x|c). It is the probabilities that are averaged, with the weights p(c).": lambda log_p, prior: (
        log_p.mean(1)
    ),
    "This is the mean of the logarithms, Σ p(c) log p(x|c), which is never above log Σ p(c) p(x|c) (Jensen). The "
    "logarithm comes last.": lambda log_p, prior: log_p @ prior,
    "You sum the logarithms: that is the product over the classes. "
    "Probabilities are added, inside the log.": lambda log_p, prior: (log_p + prior.log()).sum(1),
    "You sum the logarithms: that is the product over the classes, and the prior is missing.": lambda log_p, prior: (
        log_p.sum(1)
    ),
    "This is p(x), which is 0 or infinite in a computer for an image. "
    "Its logarithm is asked: `logsumexp`.": lambda log_p, prior: log_p.exp() @ prior,
    "You sum over the batch. The classes, in the columns, "
    "are summed out; an example keeps its number.": lambda log_p, prior: (log_p + prior.log()).logsumexp(0),
    "You sum over the batch as well. One number for each example is asked, (B,).": lambda log_p, prior: (
        log_p + prior.log()
    ).logsumexp((0, 1)),
    "You average log p(x|c) with the posterior as weights. p(x) is Σ_c p(x|c) "
    "p(c), and the logarithm last.": lambda log_p, prior: ((log_p + prior.log()).softmax(1) * log_p).sum(1),
    "This is the log of the largest posterior: how sure the class is. p(x) is what the posterior was divided by, and "
    "says how usual x is.": lambda log_p, prior: (log_p + prior.log()).log_softmax(1).amax(1),
    "You take the logsumexp of probabilities. It belongs to logarithms: log p(x|c) + log p(c).": lambda log_p, prior: (
        (log_p + prior.log()).softmax(1).logsumexp(1)
    ),
    "These are log p(x|c) p(c), one a class. Sum the classes out: `logsumexp`.": lambda log_p, prior: (
        log_p + prior.log()
    ),
    "You average over the classes after the prior has weighted them: "
    "log K nats are missing. (And exp underflows.)": lambda log_p, prior: (log_p + prior.log()).exp().mean(1).log(),
    "You divide by K though the prior has weighted the classes already: log K nats are missing.": lambda log_p, prior: (
        (log_p + prior.log()).logsumexp(1) - math.log(log_p.shape[1])
    ),
    "This is −log p(x), a loss. log p(x) is asked.": lambda log_p, prior: -(log_p + prior.log()).logsumexp(1),
    "Both signs are flipped: this is near the least class, a soft minimum.": lambda log_p, prior: (
        -(-log_p - prior.log()).logsumexp(1)
    ),
    "These are bits. The course counts in nats.": lambda log_p, prior: (log_p + prior.log()).logsumexp(1) / math.log(2),
    "This is log p(x|c) of the most probable class. p(x) sums over all classes, each "
    "with its share.": lambda log_p, prior: log_p.gather(1, (log_p + prior.log()).argmax(1, keepdim=True)).squeeze(1),
    "You average the logarithms log p(x|c) "
    "p(c). Probabilities are added, inside the log: `logsumexp`.": lambda log_p, prior: (log_p + prior.log()).mean(1),
    "These are the logarithms of the posterior, which log p(x) has been taken out of. log p(x) is what normalises: "
    "`logsumexp`.": lambda log_p, prior: (log_p + prior.log()).log_softmax(1),
    "A softmax has normalised each row first: "
    "how large p(x|c) are, which is what was asked, is gone.": lambda log_p, prior: (log_p.softmax(1) @ prior).log(),
    "You average log p(x|c) p(c) with the posterior as weights. p(x) is the sum itself: the entropy of the posterior "
    "is "
    "missing.": lambda log_p, prior: ((log_p + prior.log()).softmax(1) * (log_p + prior.log()).clamp(min=-1e9)).sum(1),
    "This is log p(x|c) of the most frequent class. "
    "p(x) sums over all classes, each with its share.": lambda log_p, prior: log_p[:, prior.argmax()],
    "The largest of each row is taken out before exp, and then subtracted again. "
    "It is added after the log.": lambda log_p, prior: row_max_out(log_p, prior) - log_p.amax(1),
}

LOG_EVIDENCE = Exercise(
    reference=log_evidence,
    statement="log p(x) of a class model: log_likelihood (B, K) holds log p(x|c) in nats, prior (K,) holds p(c). "
    "log Σ_c p(x|c) p(c) for each example, (B,).",
    nudge="The classes are mutually exclusive: their joint probabilities p(x|c) p(c) add up. What is log Σ exp called?",
    right="where every p(x|c) underflows. It lies below the largest log p(x|c), and its threshold asks whether x is "
    "like any class at all, which no posterior can say.",
    inputs=likelihoods_by_class,
    atol=1e-4,
    rtol=1e-6,
    wrong=[
        (lambda log_p, prior: (log_p.exp() @ prior).log(), EXP_FIRST),
        (
            lambda log_p, prior: (log_p.softmax(1) * prior).logsumexp(1),
            "You take the logsumexp of probabilities. It belongs to logarithms: log p(x|c) + log p(c).",
        ),
        (row_max_out, "The largest of each row is taken out before exp, and not added again after the log."),
        (taken_out(torch.max), BATCH_MAX),
        (
            lambda log_p, prior: ((log_p - log_p.amax(0)).exp() @ prior).log() + log_p.amax(1),
            COLUMN_MAX,
        ),
        (taken_out(lambda log_p: log_p.amin(1, keepdim=True)), NOT_THE_LARGEST),
        (taken_out(lambda log_p: log_p.mean(1, keepdim=True)), NOT_THE_LARGEST),
        *(
            (
                lambda log_p, prior, f=f: (log_p + f(prior).log()).logsumexp(1),
                SMALL_CONSTANT.replace(", here nearly all of it", ""),
            )
            for f in above_zero()
        ),
        *((answer, hint) for hint, answer in EVIDENCE_SLIPS.items()),
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
    gone = logits + torch.tensor([0.0, 0.0, 20.0]), old, torch.tensor([0.5, 0.5, 0.0])
    same = draw(3, 4)
    mixed = torch.tensor([[500.0] * 3, [-500.0] * 3, [0.0] * 3, [500.0, -500.0, 499.0]]) + draw(4, 3)[0]
    return [
        easy,
        draw(3, 3),
        draw(5, 2),
        gone,
        draw(6, 10, shift=300.0),
        draw(4, 5, shift=-400.0),
        (mixed, torch.tensor([0.3, 0.2, 0.5]), torch.tensor([0.2, 0.7, 0.1])),  # sizes of all kinds in one batch
        (same[0], same[1], same[1]),
        draw(1, 4),
    ]


Shift = Callable[[Tensor, Tensor, Tensor], Tensor]


def of_p(value: Shift) -> Shift:
    """A function of the old posterior, and the two priors."""
    return lambda logits, old, new: value(logits.softmax(1), old, new)


def by_exp_of_logits(taken_out: Callable[[Tensor], Tensor | float]) -> Shift:
    """The right rule by exp, after a number has been taken out of the logits."""
    return lambda logits, old, new: normalised((logits - taken_out(logits)).exp() * new / old)


def with_factor(factor: Callable[[Tensor, Tensor], Tensor]) -> Shift:
    """The logarithm of a factor of the two priors is added to the logits."""
    return lambda logits, old, new: (logits + factor(old, new).log()).softmax(1)


SHIFT_SLIPS = {
    "This is the posterior under the old shares: "
    "nothing has been corrected. If the shares change, so does it.": lambda p, old, new: p,
    "You multiply by the new shares, and the old ones are still in it: the classifier learnt them from its training "
    "data. Divide by old as well.": lambda p, old, new: normalised(p * new),
    "You take the old shares out and put none in: this is the posterior for equally frequent classes. Multiply by new "
    "as well.": lambda p, old, new: normalised(p / old),
    "You divide by the new shares. Those are multiplied; the old ones are divided by.": lambda p, old, new: normalised(
        p / new
    ),
    "You multiply by the old shares, which the posterior holds already. "
    "Divide by old, multiply by new.": lambda p, old, new: normalised(p * old),
    "The fraction stands upside down: new / old is the factor. "
    "A class that has become more frequent gains.": lambda p, old, new: normalised(p * old / new),
    "You multiply by both. The old shares are in the posterior already, and have to go: "
    "divide by them.": lambda p, old, new: normalised(p * old * new),
    "You do not normalise again: your rows do not sum to 1.": lambda p, old, new: p * new / old,
    "The old shares are still in it, and your rows do not sum to 1: "
    "p · new / old, then normalise.": lambda p, old, new: p * new,
    "You normalise the factors new / old. What has to sum to 1 is each row of the result.": lambda p, old, new: (
        p * (new / old) / (new / old).sum()
    ),
    "You normalise over the batch: the columns sum to 1. The rows have to.": lambda p, old, new: (
        (p * new / old) / (p * new / old).sum(0)
    ),
    "You normalise over the whole batch at once. Each row has to sum to 1.": lambda p, old, new: (
        (p * new / old) / (p * new / old).sum()
    ),
    "You divide by the largest of a row. Divide by the row's sum.": lambda p, old, new: (
        (p * new / old) / (p * new / old).amax(1, keepdim=True)
    ),
    "A softmax of probabilities: it belongs to logarithms. Add log new − log old to the logits, or divide the rows by "
    "their sum.": lambda p, old, new: (p * new / old).softmax(1),
    "You add logarithms to probabilities. Add them to the logits.": lambda p, old, new: (
        p + new.log() - old.log()
    ).softmax(1),
    "You divide by the shares that the classifier predicts in this batch. The shares that it was trained with are to "
    "go: old.": lambda p, old, new: normalised(p * new / p.mean(0)),
    "You add the change of the shares to the posterior, which may even make it negative. "
    "It is a factor: new / old.": lambda p, old, new: normalised(p + new - old),
    "You average posterior and new shares. Bayes' rule multiplies: by new / old.": lambda p, old, new: (p + new) / 2,
    "These are the new shares, whatever x is. "
    "What the image says has to stay: p(c|x) · new / old.": lambda p, old, new: new.expand_as(p),
    "You take the old shares out, put none in, and do not normalise: "
    "p · new / old, then by the row's sum.": lambda p, old, new: p / old,
    "You divide the rows by their Euclidean length (`normalize` without p=1). "
    "Divide by their sum.": lambda p, old, new: p * new / old / (p * new / old).norm(dim=1, keepdim=True),
}

LOGIT_SLIPS = {
    "Logits are logarithms: add log new − log old, not the shares themselves.": lambda logits, old, new: (
        logits + new - old
    ).softmax(1),
    "You multiply the logits. They are logarithms: "
    "a factor new / old of the probabilities is a sum there.": lambda logits, old, new: (logits * new / old).softmax(1),
    "You multiply the logits, which are logarithms, and do not normalise.": lambda logits, old, new: logits * new / old,
    "These are right as logits. The posterior probabilities are asked: "
    "one softmax is missing.": lambda logits, old, new: logits + new.log() - old.log(),
    "These are logarithms of the posterior. Its probabilities are asked.": lambda logits, old, new: (
        logits + new.log() - old.log()
    ).log_softmax(1),
    "The softmax runs over the batch. Each row sums to 1: over the classes.": lambda logits, old, new: (
        logits + new.log() - old.log()
    ).softmax(0),
    "You correct by half: √(new / old). The whole factor is asked.": lambda logits, old, new: (
        logits + (new.log() - old.log()) / 2
    ).softmax(1),
    "The rule is right, but e^300 is infinite in a computer and e^-400 is 0. Only differences of logits matter: "
    "`softmax` subtracts the largest first.": by_exp_of_logits(lambda logits: 0.0),
    "This is the most probable class. The probabilities of all classes are asked, (B, K).": lambda logits, old, new: (
        logits + new.log() - old.log()
    ).argmax(1),
    "You multiply the logits, which are logarithms, and divide them by their sum. The probabilities, their softmax, "
    "are what the factor new / old belongs to.": lambda logits, old, new: normalised(logits * new / old),
    "A sigmoid asks of each class by itself, yes or no. The posterior "
    "under old is the softmax of the logits.": lambda logits, old, new: normalised(logits.sigmoid() * new / old),
    "exp(logits) is no posterior, and your rows do not sum to 1: log new − log old is added to the logits, and one "
    "softmax normalises.": lambda logits, old, new: logits.exp() * new / old,
    "The old shares are still in it: divide by old as well. "
    "And e^300 is infinite in a computer: `softmax`.": lambda logits, old, new: normalised(logits.exp() * new),
}

SHIFTED_POSTERIOR = Exercise(
    reference=shifted_posterior,
    statement="A classifier's logits (B, K), whose softmax is p(c|x) where the classes have the shares old (K,). The "
    "posterior probabilities (B, K) where they have the shares new (K,), and p(x|c) is as it was.",
    nudge="By Bayes' rule each old posterior is p(x|c) old(c), up to a number for each x. Which factor has to go, "
    "which one comes, and what makes the rows sum to 1 again?",
    right="for logits far from 0, and where a class has died out. No network was trained again; but the new shares had "
    "to be known.",
    inputs=classifiers_elsewhere,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (by_exp_of_logits(torch.max), BATCH_MAX),
        (by_exp_of_logits(lambda logits: logits.amax(0)), COLUMN_MAX),
        (by_exp_of_logits(lambda logits: logits.amin(1, keepdim=True)), NOT_THE_LARGEST),
        (by_exp_of_logits(lambda logits: logits.mean(1, keepdim=True)), NOT_THE_LARGEST),
        *((with_factor(lambda old, new, f=f: f(new) / f(old)), SMALL_CONSTANT) for f in above_zero()),
        *((with_factor(lambda old, new, f=f: f(new) / old), SMALL_CONSTANT) for f in above_zero()),
        *((with_factor(lambda old, new, f=f: f(new / old)), SMALL_CONSTANT) for f in above_zero()),
        *each(of_p, SHIFT_SLIPS),
        *((answer, hint) for hint, answer in LOGIT_SLIPS.items()),
    ],
)

# ---- calibration_error ---------------------------------------------------------------------------------------------


def calibration_error(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    # One prediction is right or wrong; of many at confidence 0.8, a share of 0.8 should be right. So: in intervals.
    confidence, label = probs.max(1)
    gap = (label == y).float() - confidence  # (N,)
    place = (confidence * bins).ceil().long() - 1  # interval of each prediction
    total = torch.zeros(bins).index_add(0, place, gap)  # sum of the gaps: count · (accuracy − mean confidence)
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


def of_all(value: Callable[[Tensor, Tensor], Tensor]) -> Calibration:
    """A function of right or wrong, and of the confidence, of each prediction."""
    return lambda probs, y, bins: value((probs.argmax(1) == y).float(), probs.amax(1))


def ece(count: Tensor, accuracy: Tensor, confidence: Tensor, bins: int) -> Tensor:
    return ((accuracy - confidence).abs() * count).sum() / count.sum()


def in_parts(parts: Callable[[Tensor, int], list[Tensor]]) -> Calibration:
    """The mean distance over other intervals: places or masks made of the confidences and the number of intervals."""

    def measure(probs: Tensor, y: Tensor, bins: int) -> Tensor:
        gap = (probs.argmax(1) == y).float() - probs.amax(1)
        gaps = [gap[part] for part in parts(probs.amax(1), bins)]
        return sum(len(g) / len(y) * g.mean().abs() for g in gaps)

    return measure


def equally_many(confidence: Tensor, bins: int) -> list[Tensor]:
    return [part for part in confidence.argsort().tensor_split(bins) if len(part)]


def least_to_largest(confidence: Tensor, bins: int) -> list[Tensor]:
    """Intervals between the least and the largest confidence."""
    least, width = confidence.min(), (confidence.max() - confidence.min()) / bins
    place = (((confidence - least) / width).ceil() - 1).nan_to_num().clamp(0, bins - 1)
    return [place == b for b in range(bins) if (place == b).any()]


def with_the_empty(confidence: Tensor, bins: int) -> list[Tensor]:
    place = ((confidence * bins).ceil() - 1).clamp(0, bins - 1)
    return [place == b for b in range(bins)]


def class_by_class(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    each = []
    for c in range(probs.shape[1]):
        place = ((probs[:, c] * bins).ceil().long() - 1).clamp(min=0)
        gaps = torch.zeros(bins).index_add(0, place, (y == c).float() - probs[:, c])
        each.append(gaps.abs().sum() / len(y))
    return torch.stack(each)


def of_the_label(probs: Tensor, y: Tensor) -> Tensor:
    return probs.gather(1, y[:, None]).squeeze(1)


def with_middles(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    confidence = ((probs.amax(1) * bins).ceil() - 0.5) / bins
    place = (probs.amax(1) * bins).ceil().long() - 1
    gap = (probs.argmax(1) == y).float() - confidence
    return torch.zeros(bins).index_add(0, place, gap).abs().sum() / len(y)


def without_the_sure(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    inside = probs.amax(1) < 1
    return ece_of(probs[inside], y[inside], bins) * inside.float().mean()


def ece_of(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    return in_bins(ece)(probs, y, bins)


def from_the_least(probs: Tensor, y: Tensor, bins: int) -> Tensor:
    least = 1 / probs.shape[1]
    confidence = probs.amax(1)
    place = (((confidence - least) / (1 - least) * bins).ceil().long() - 1).clamp(0, bins - 1)
    gap = (probs.argmax(1) == y).float() - confidence
    return torch.zeros(bins).index_add(0, place, gap).abs().sum() / len(y)


INTERVAL_SLIPS = {
    "All intervals that hold any count alike, one with a single prediction as much as one with hundreds. Weight each "
    "by its number of predictions.": lambda n, accuracy, confidence, bins: (accuracy - confidence).abs().mean(),
    "You divide the sum of the distances by the number of intervals, the empty ones counted. Weight each by its "
    "number of predictions over N.": lambda n, accuracy, confidence, bins: (accuracy - confidence).abs().sum() / bins,
    "You sum the distances. Their mean, weighted by the number of predictions, "
    "is asked.": lambda n, accuracy, confidence, bins: (accuracy - confidence).abs().sum(),
    "This is the largest distance, the maximum calibration error. "
    "The weighted mean is asked.": lambda n, accuracy, confidence, bins: (accuracy - confidence).abs().max(),
    "The differences keep their signs, so that too sure in one interval and too timid in another cancel: all that is "
    "left is accuracy − mean confidence. Take the absolute "
    "value of each interval.": lambda n, accuracy, confidence, bins: ((accuracy - confidence) * n).sum() / n.sum(),
    "The differences keep their signs, so that too sure in one interval and too timid in another cancel. Take the "
    "absolute "
    "value of each interval.": lambda n, accuracy, confidence, bins: ((confidence - accuracy) * n).sum() / n.sum(),
    "Only intervals that are too sure count in yours. Too timid is an error of "
    "calibration as well.": lambda n, accuracy, confidence, bins: ((confidence - accuracy).relu() * n).sum() / n.sum(),
    "The distances are squared. Their absolute value is asked.": lambda n, accuracy, confidence, bins: (
        ((accuracy - confidence).square() * n).sum() / n.sum()
    ),
    "This is the root of the mean of squared distances. Their absolute values "
    "are averaged.": lambda n, accuracy, confidence, bins: (((accuracy - confidence) ** 2 * n).sum() / n.sum()).sqrt(),
}
OVERALL_SLIPS = {
    "One interval for all: too sure here and too timid there cancel. "
    "Compare interval by interval.": lambda right, confidence: (right.mean() - confidence.mean()).abs(),
    "You take |right − confidence| of each prediction by itself. A prediction of confidence 0.8 is right or wrong, "
    "never 0.8: average within each interval first, "
    "then take the distance.": lambda right, confidence: (right - confidence).abs().mean(),
    "This is the mean squared difference of each prediction, a Brier score. Average within each interval first, then "
    "take the distance.": lambda right, confidence: (right - confidence).square().mean(),
    "This is the error rate. "
    "Calibration asks whether the classifier is right as often as it says.": lambda right, confidence: 1 - right.mean(),
    "This is the accuracy. "
    "Calibration asks whether the classifier is right as often as it says.": lambda right, confidence: right.mean(),
}

CALIBRATION_SLIPS = {
    "Your confidence is the probability of the true label. A classifier does not know that: its confidence is the "
    "largest probability of the row.": in_bins(ece, confidence=of_the_label),
    "Your confidence is the smallest probability of the row. The largest is asked.": in_bins(
        ece, confidence=lambda probs, y: probs.amin(1)
    ),
    "You go over every class and its probability, and average: the class-wise error. Here only the largest "
    "probability of each row counts.": lambda probs, y, bins: class_by_class(probs, y, bins).mean(),
    "You go over every class and its probability. Here "
    "only the largest probability of each row counts.": lambda probs, y, bins: class_by_class(probs, y, bins).sum(),
    "Your intervals hold equally many predictions. Here they are equally wide, from 0 to 1.": in_parts(equally_many),
    "Your intervals divide the range from the least confidence to the largest. They go from 0 to 1, whatever the "
    "predictions are.": in_parts(least_to_largest),
    "The mean over an empty interval is nan, and 0 · nan is nan. Leave an interval out that holds no prediction: `if "
    "inside.any()`.": in_parts(with_the_empty),
    "Your intervals divide the range from 1/K to 1. "
    "They go from 0 to 1, and those below 1/K stay empty.": from_the_least,
    "You always use 10 intervals. Their number is the argument bins.": lambda probs, y, bins: ece_of(probs, y, 10),
    "You always use 15 intervals. Their number is the argument bins.": lambda probs, y, bins: ece_of(probs, y, 15),
    "You have one interval too many: "
    "`linspace(0, 1, bins + 1)` has the edges of `bins` intervals.": lambda probs, y, bins: ece_of(probs, y, bins + 1),
    "You have one interval too few: `bins` intervals have bins + 1 edges.": lambda probs, y, bins: ece_of(
        probs, y, max(bins - 1, 1)
    ),
    "You compare the accuracy with the middle of the interval. Compare it with the mean confidence of the predictions "
    "that lie in it.": with_middles,
    "Predictions of confidence exactly 1 fall out of your last interval. It includes 1.": without_the_sure,
    "You weight by the number of predictions, but do not divide by N.": lambda probs, y, bins: (
        ece_of(probs, y, bins) * len(y)
    ),
    "This is 1 minus the error. 0 is well calibrated.": lambda probs, y, bins: 1 - ece_of(probs, y, bins),
    "probs are probabilities already: another softmax makes them all nearly alike.": lambda probs, y, bins: ece_of(
        probs.softmax(1), y, bins
    ),
    "This is the mean −log p(y|x). Calibration compares, "
    "interval by interval, how sure with how often right.": lambda probs, y, bins: -of_the_label(probs, y).log().mean(),
    "This is the Brier score. Calibration compares, interval by interval, how "
    "sure with how often right.": lambda probs, y, bins: (probs - torch.eye(probs.shape[1])[y]).square().sum(1).mean(),
}

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
            in_parts(lambda confidence, bins: confidence.argsort().chunk(bins)),
            "Your intervals hold equally many predictions. Here they are equally wide, from 0 to 1.",
        ),
        *each(in_bins, INTERVAL_SLIPS),
        *each(of_all, OVERALL_SLIPS),
        *((answer, hint) for hint, answer in CALIBRATION_SLIPS.items()),
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
    def draw(batch: int, d: int, share: float = 0.6, far: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        root = torch.randn(d, d, generator=generator) / math.sqrt(d)
        mu, cov = torch.randn(d, generator=generator), root @ root.T + 0.3 * torch.eye(d)
        known = torch.rand(batch, d, generator=generator) < share
        x = mu + far * torch.randn(batch, d, generator=generator)
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
        draw(1, 5, 0.8),
    ]


Masked = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def log_normal(z: Tensor, precision: Tensor, log_det: Tensor, n: float) -> Tensor:
    """log N of z = x − μ, with the inverse of a covariance, the log of its determinant and the number of pixels."""
    return -0.5 * (z @ precision @ z + log_det + n * math.log(2 * math.pi))


def row_by_row(value: Masked) -> Masked:
    """A function of one image at a time: x (D,), known (D,), mu, cov."""
    return lambda x, known, mu, cov: torch.stack([value(row, seen, mu, cov) for row, seen in zip(x, known)])


def of_known(value: Callable[[Tensor, Tensor, int], Tensor]) -> Masked:
    """A function of x − μ and Σ of the known pixels of one image, and of D."""
    return row_by_row(lambda x, seen, mu, cov: value((x - mu)[seen], cov[seen][:, seen], len(mu)))


def filled(fill: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Masked:
    """The density of whole images, whose missing pixels are filled first."""

    def value(x: Tensor, seen: Tensor, mu: Tensor, cov: Tensor) -> Tensor:
        z = torch.where(seen, x, fill(x, seen, mu, cov)) - mu
        return log_normal(z, cov.inverse(), cov.logdet(), len(mu))

    return row_by_row(value)


def conditional_mean(x: Tensor, seen: Tensor, mu: Tensor, cov: Tensor) -> Tensor:
    return mu + cov[:, seen] @ torch.linalg.solve(cov[seen][:, seen], (x - mu)[seen])


def with_precision(of_determinant: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Masked:
    """Known rows and columns of Σ⁻¹, and a log det of (that, Σ, known)."""

    def value(x: Tensor, seen: Tensor, mu: Tensor, cov: Tensor) -> Tensor:
        precision = cov.inverse()[seen][:, seen]
        return log_normal((x - mu)[seen], precision, of_determinant(precision, cov, seen), int(seen.sum()))

    return row_by_row(value)


def density(z: Tensor, s: Tensor) -> Tensor:
    return log_normal(z, s.inverse(), s.logdet(), len(z))


def of_root(z: Tensor, root: Tensor) -> Tensor:
    """log N of z = x − μ, for a lower triangular root of the covariance."""
    white = torch.linalg.solve_triangular(root.tril(), z[:, None], upper=False)
    return -0.5 * (white.square().sum() + len(z) * math.log(2 * math.pi)) - root.diagonal().log().sum()


LOG_2_PI = math.log(2 * math.pi)

DENSITY_SLIPS = {
    "The constant ½ log 2π is counted D times. It belongs to each pixel that is known.": lambda z, s, d: log_normal(
        z, s.inverse(), s.logdet(), d
    ),
    "You take the known pixels as independent: only the diagonal of cov counts. The covariances "
    "belong to it.": lambda z, s, d: log_normal(z, s.diagonal().reciprocal().diag(), s.diagonal().log().sum(), len(z)),
    "The distance is zᵀ Σ z. Divided by the variance, not multiplied: zᵀ Σ⁻¹ z.": lambda z, s, d: (
        -0.5 * (z @ s @ z + s.logdet() + len(z) * LOG_2_PI)
    ),
    "The distance is zᵀ z, without the covariance: zᵀ Σ⁻¹ z.": lambda z, s, d: (
        -0.5 * (z @ z + s.logdet() + len(z) * LOG_2_PI)
    ),
    "The ½ before the distance is missing.": lambda z, s, d: (
        -(z @ s.inverse() @ z) - 0.5 * (s.logdet() + len(z) * LOG_2_PI)
    ),
    "The determinant comes in by its root: ½ log det Σ.": lambda z, s, d: (
        -0.5 * (z @ s.inverse() @ z + len(z) * LOG_2_PI) - s.logdet()
    ),
    "The determinant is missing: a wide Gaussian has to be lower than a narrow one.": lambda z, s, d: (
        -0.5 * (z @ s.inverse() @ z + len(z) * LOG_2_PI)
    ),
    "The sign of log det Σ is flipped: a wide Gaussian has to be lower than a narrow one.": lambda z, s, d: (
        -0.5 * (z @ s.inverse() @ z - s.logdet() + len(z) * LOG_2_PI)
    ),
    "The constant is missing, ½ log 2π for each known pixel. "
    "Between classes it cancels, in log p(x) not.": lambda z, s, d: -0.5 * (z @ s.inverse() @ z + s.logdet()),
    "The constant ½ log 2π is counted once. It belongs to each known pixel.": lambda z, s, d: (
        -0.5 * (z @ s.inverse() @ z + s.logdet() + LOG_2_PI)
    ),
    "The sign of the constant is flipped: −½ log 2π for each known pixel.": lambda z, s, d: (
        -0.5 * (z @ s.inverse() @ z + s.logdet() - len(z) * LOG_2_PI)
    ),
    "This is the distance alone, −½ zᵀ Σ⁻¹ z. "
    "The determinant and the constant belong to a density, too.": lambda z, s, d: -0.5 * (z @ s.inverse() @ z),
    "You divide by the number of known pixels. Log-likelihoods are sums: an image of which more is "
    "seen says more.": lambda z, s, d: -0.5 * (z @ s.inverse() @ z + s.logdet() + len(z) * LOG_2_PI) / max(len(z), 1),
    "You scale up to D pixels. What was not seen says nothing: log p of the known pixels as it is.": lambda z, s, d: (
        -0.5 * (z @ s.inverse() @ z + s.logdet() + len(z) * LOG_2_PI) * d / max(len(z), 1)
    ),
    "This is −log p. log p is asked.": lambda z, s, d: -density(z, s),
    "These are twice the values: the ½ before distance, determinant and constant is missing.": lambda z, s, d: (
        2 * density(z, s)
    ),
    "½ stands before log det Σ twice. Outside of the bracket it is there for all three terms.": lambda z, s, d: (
        -0.5 * (z @ s.inverse() @ z + s.logdet() / 2 + len(z) * LOG_2_PI)
    ),
    "An image of which nothing is known has −inf in yours, as if it were impossible. Nothing seen, nothing said: the "
    "probability of no condition is 1, "
    "its logarithm 0.": lambda z, s, d: density(z, s) if len(z) else torch.tensor(-math.inf),
    "You divide by the number of known pixels, which may be 0. Log-likelihoods are sums: an image of which more is "
    "seen says more.": lambda z, s, d: density(z, s) / (len(z) or math.nan),
    "You divide by D. Log-likelihoods are sums over the pixels.": lambda z, s, d: density(z, s) / d,
    "cov stands where a Cholesky factor (`scale_tril`) belongs. Give it as `covariance_matrix`.": lambda z, s, d: (
        of_root(z, s)
    ),
    "cov is taken as its own inverse (`precision_matrix`?), in the distance and in the determinant. "
    "It is Σ.": lambda z, s, d: log_normal(z, s, -s.logdet(), len(z)),
    "The variances stand where standard deviations belong (`Normal(mu, cov.diagonal())`?), and the covariances are "
    "left out.": lambda z, s, d: density(z, s.diagonal().square().diag()),
    "This is the density. Its logarithm is asked.": lambda z, s, d: density(z, s).exp(),
}

MISSING_SLIPS = {
    "The missing pixels are filled with their mean and scored as if they had been seen there. That adds the density "
    "of pixels that nobody saw; take them out, of cov as well.": filled(lambda x, seen, mu, cov: mu),
    "The missing pixels are filled with 0 and scored as if they had been seen black. Take them out, of mu and cov as "
    "well.": filled(lambda x, seen, mu, cov: torch.zeros_like(x)),
    "You score what stands in the gaps, and known does not appear. It means nothing: take those pixels out.": filled(
        lambda x, seen, mu, cov: x
    ),
    "Either the missing pixels are filled with the best guess and scored as if they had been seen, or determinant and "
    "constant are those of all D pixels: "
    "both give this number. Both belong to the known pixels alone.": filled(conditional_mean),
    "You take the known rows and columns of the inverse. That holds the missing pixels at a value (conditioning); "
    "integrated out, they leave the covariance: "
    "cut it first, then invert.": with_precision(lambda precision, cov, seen: -precision.logdet()),
    "In the distance you cut the inverse of cov, in the determinant cov itself. "
    "Cut cov first, then invert.": with_precision(lambda precision, cov, seen: cov[seen][:, seen].logdet()),
    "You take the known rows and columns of the inverse, and the determinant of the whole. Cut cov to the known "
    "pixels first; then invert it and take its determinant.": with_precision(lambda precision, cov, seen: cov.logdet()),
    "You score the missing pixels. known is True where a pixel was seen.": row_by_row(
        lambda x, seen, mu, cov: density((x - mu)[~seen], cov[~seen][:, ~seen])
    ),
    "The mean is not subtracted.": row_by_row(lambda x, seen, mu, cov: density(x[seen], cov[seen][:, seen])),
}

KNOWN_LOG_LIKELIHOOD = Exercise(
    reference=known_log_likelihood,
    statement="log p of the known pixels of each image under N(mu, cov), in nats, the others integrated out: x (B, D), "
    "known (B, D) bool, True where seen, mu (D,), cov (D, D). (B,); 0 for an image of which nothing is known.",
    nudge="The known pixels are Gaussian themselves. What are their mean and their covariance? Each image has a mask "
    "of its own, so a loop over the images is fine: `cov[seen][:, seen]`.",
    right="with everything known, with nothing known, and whatever stands in the gaps. That is how a generative "
    "classifier reads an image with holes: nothing has to be filled in, or trained again.",
    inputs=images_with_gaps,
    atol=1e-3,
    rtol=1e-4,
    wrong=[
        (
            row_by_row(
                lambda x, seen, mu, cov: log_normal(
                    (x - mu)[seen], cov[seen][:, seen].inverse(), cov.logdet(), int(seen.sum())
                )
            ),
            "The determinant is that of the whole cov. Take that of the known rows and columns.",
        ),
        (
            row_by_row(lambda x, seen, mu, cov: of_root((x - mu)[seen], torch.linalg.cholesky(cov)[seen][:, seen])),
            "You cut the Cholesky factor of cov. Its rows mix the pixels before them, the missing ones too: cut cov "
            "first, then factorise.",
        ),
        (
            lambda x, known, mu, cov: row_by_row(
                lambda row, seen, mu, cov: density((row - mu)[seen], cov[seen][:, seen])
            )(x, known[:1].expand_as(known), mu, cov),
            "All images share the mask of the first. Each misses pixels of its own.",
        ),
        *each(of_known, DENSITY_SLIPS),
        *((answer, hint) for hint, answer in MISSING_SLIPS.items()),
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
    def draw(sizes: list[int], k: int, temperatures: list[float], sure: tuple[float, ...] = (9.0, 3.0, 4.0)) -> tuple:
        """Logits as a network gives them: surest of what it has learnt."""
        split = torch.arange(3).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes), generator=generator)]
        y = torch.randint(k, (len(split),), generator=generator)
        signal = torch.tensor(sure)[split][:, None] * torch.nn.functional.one_hot(y, k)
        noise = torch.tensor([1.0, 2.5, 1.8])[split][:, None] * torch.randn(len(y), k, generator=generator)
        return signal + noise, y, split, torch.tensor(temperatures)

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
    ]


Report = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TRAIN, VALIDATION, TEST = (0,), (1,), (2,)


def losses(logits: Tensor, y: Tensor) -> Tensor:
    """−log p(y|x) of each example, (N,)."""
    return -logits.log_softmax(1).gather(1, y[:, None]).squeeze(1)


def mean_loss(logits: Tensor, y: Tensor) -> Tensor:
    return losses(logits, y).mean()


def error(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) != y).float().mean()


def brier(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.softmax(1) - torch.eye(logits.shape[1])[y]).square().sum(1).mean()


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


def loss_on(splits: tuple[int, ...], pick: Callable[[Tensor], Tensor | float]) -> Report:
    """The loss on some splits at a temperature that no loss has a part in."""

    def run(logits: Tensor, y: Tensor, split: Tensor, temperatures: Tensor) -> Tensor:
        inside = torch.isin(split, torch.tensor(splits))
        return mean_loss(logits[inside] / pick(temperatures), y[inside])

    return run


def chosen_temperature(logits: Tensor, y: Tensor, split: Tensor, temperatures: Tensor) -> Tensor:
    inside = split == 1
    return temperatures[torch.stack([mean_loss(logits[inside] / T, y[inside]) for T in temperatures]).argmin()]


ON_ERROR = (
    "You choose by the number of errors. A temperature changes no error at all: all candidates tie, and the first one "
    "wins. Choose by −log p(y|x)."
)

REPORT_SLIPS = {
    "The temperature is chosen on the training data, where the network is surer than it should be elsewhere. Choose "
    "on data that it has not learnt from.": report(choose_on=TRAIN),
    "The temperature is chosen on the test data: this is the least test loss of all candidates, which is too good. "
    "The test data are for the figure alone; choose on validation data.": over_temperatures(torch.min),
    "The temperature is chosen on all the data, the test data among them. Choose on validation data.": report(
        choose_on=(0, 1, 2)
    ),
    "The test data take part in the choice. Choose on the validation data alone.": report(choose_on=(1, 2)),
    "The training data take part in the choice, and there the network is too sure. Choose on the validation data "
    "alone.": report(choose_on=(0, 1)),
    "You choose on training and test data, on all but the split that is made for it: 1 is validation.": report(
        choose_on=(0, 2)
    ),
    "You report the validation loss, by which the temperature was chosen: it is the least of the candidates, and so "
    "too good. The figure comes from the test data.": report(report_on=VALIDATION),
    "You report the training loss. "
    "The network has learnt from these data; the figure comes from the test data.": report(report_on=TRAIN),
    "You report the loss of all data, most of which were learnt from or chosen by. The test data alone.": report(
        report_on=(0, 1, 2)
    ),
    "The validation data are in your figure, and the temperature was chosen on them. The test data alone.": report(
        report_on=(1, 2)
    ),
    "Choice and figure are both from the training data. Choose on validation, report on test data.": report(
        choose_on=TRAIN, report_on=TRAIN
    ),
    "The splits are exchanged: 1 is validation, for the choice, and 2 test, for the figure.": report(
        choose_on=TEST, report_on=VALIDATION
    ),
    "This is a share of errors. The mean −log p(y|x) is asked.": report(choose_on=TEST, least=error, value=error),
    "This is the accuracy on the test data. The mean −log p(y|x) is asked.": report(
        value=lambda logits, y: 1 - error(logits, y)
    ),
    "You take the temperature of the largest validation loss. The least is asked: `argmin`.": report(
        least=lambda logits, y: -mean_loss(logits, y)
    ),
    "The logits are multiplied by T. They are divided: T > 1 makes a network less sure.": report(scale=torch.mul),
    "Choice and figure are both from all the data: split does not appear. "
    "Choose on validation, report on test data.": report(choose_on=(0, 1, 2), report_on=(0, 1, 2)),
    "Choice and figure are both from training and validation data. Choose on validation, report on test data.": report(
        choose_on=(0, 1), report_on=(0, 1)
    ),
    "You choose on training and validation data, and report the validation loss. Choose on validation, report on test "
    "data.": report(choose_on=(0, 1), report_on=VALIDATION),
    "The probabilities are divided by the temperature. It belongs before the softmax: logits / T.": report(
        scale=lambda logits, T: logits.softmax(1) / T
    ),
    "`cross_entropy` takes logits; you give it probabilities, so a softmax is applied twice.": report(
        value=lambda logits, y: mean_loss(logits.softmax(1), y)
    ),
    "The logarithm is missing: this is the mean probability of the label, with a minus.": report(
        value=lambda logits, y: -logits.softmax(1).gather(1, y[:, None]).mean()
    ),
    "This is the test loss at T = 1: the logits are not divided by the chosen temperature.": loss_on(
        TEST, lambda temperatures: 1.0
    ),
    "This is the temperature. The test loss at it is asked.": chosen_temperature,
    "You sum over the test data. The mean is asked, so that splits of any size compare.": report(
        value=lambda logits, y: losses(logits, y).sum()
    ),
    "These are the losses of the single test examples. Their mean is asked.": report(value=losses),
    "This is the mean of log p(y|x). A loss is its negative.": report(value=lambda logits, y: -mean_loss(logits, y)),
    "This is exp of the loss (the perplexity). The loss is asked, in nats.": report(
        value=lambda logits, y: mean_loss(logits, y).exp()
    ),
    "These are bits. The course counts in nats.": report(value=lambda logits, y: mean_loss(logits, y) / math.log(2)),
    "You average the test loss over the candidates. One of them is chosen, on validation data.": over_temperatures(
        torch.mean
    ),
    "This is the worst test loss. "
    "Choose one candidate, on validation data, and report its test loss.": over_temperatures(torch.max),
    "These are the test losses of all candidates, and whoever reads them takes the least. Choose first, on validation "
    "data; then measure once.": over_temperatures(lambda values: values),
    "You choose by the squared error of the probabilities (Brier). Choose by the mean −log p(y|x).": report(
        least=brier
    ),
    "You choose by the calibration error. With a few examples an interval it jumps about; choose by the mean −log "
    "p(y|x).": report(least=lambda logits, y: ece_of(logits.softmax(1), y, 15)),
    "Your choice always falls on the coldest candidate, so it is not made by −log p(y|x): the largest probability, or "
    "probabilities without their logarithm, "
    "grow as T falls.": report(least=lambda logits, y: -logits.softmax(1).amax(1).mean()),
    "You average the probabilities, then take the logarithm. It is −log p(y|x) that is averaged.": report(
        value=lambda logits, y: -(logits.softmax(1).gather(1, y[:, None])).mean().log()
    ),
    "You take the likeliest class in place of the label: a loss that cannot tell right from wrong.": report(
        value=lambda logits, y: -logits.log_softmax(1).amax(1).mean()
    ),
}

HONEST_TEST_LOSS = Exercise(
    reference=honest_test_loss,
    statement="logits (N, K), labels y (N,), split (N,): 0 training, 1 validation, 2 test. Choose the one of "
    "temperatures (M,) by which logits / T have the least mean −log p(y|x), on the split that is made for choices, and "
    "return the mean −log p(y|x) to print as the test loss. A scalar, nats.",
    nudge="The network has seen the training data, so it is surer there than elsewhere. And a figure by which "
    "something was chosen is too good. Which split is left for the choice, which for the figure?",
    right="chosen on validation data, measured once on test data. The least test loss of all candidates would be "
    "lower, and would not come true on new data.",
    inputs=trained_networks,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            report(least=error),
            ON_ERROR,
        ),
        *(
            (
                loss_on(TEST, pick),
                f"The temperature is {words} of temperatures, which no data have chosen. Choose on validation data.",
            )
            for words, pick in {
                "the mean": torch.mean,
                "the median": torch.median,
                "the last": lambda temperatures: temperatures[-1],
                "the largest": torch.max,
            }.items()
        ),
        *((answer, hint) for hint, answer in REPORT_SLIPS.items()),
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
    def draw(batch: int, k: int, usual: float = 0.0, unbounded: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Some classes are exact, some have a gap; of a share of them no upper bound is known."""
        lower = usual + torch.randn(batch, k, generator=generator)
        gap = (2 * torch.rand(batch, k, generator=generator) - 0.5).clamp(min=0)
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


def rivals(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return (low - rest(high, torch.amax)).sigmoid(), (high - rest(low, torch.amax)).sigmoid()


def sorted_ends(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return torch.minimum(one, other), torch.maximum(one, other)


def with_itself(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return (low - high.logsumexp(1, keepdim=True)).exp(), (high - low.logsumexp(1, keepdim=True)).exp()


def by_exp(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    low, high = low.exp(), high.exp()
    rest_low, rest_high = low.sum(1, keepdim=True) - low, high.sum(1, keepdim=True) - high
    return low / (low + rest_high), high / (high + rest_low)


def two_softmaxes(change: Callable[[Tensor, Tensor], Tensor] = lambda a, prior: a + prior.log()) -> list[Range]:
    """Each end with one bound for all classes, with several numbers in the place of infinity."""

    def run(limit: float) -> Range:
        return lambda lower, upper, prior: (
            change(lower, prior).softmax(1),
            change(upper.clamp(max=limit), prior).softmax(1),
        )

    return [run(limit) for limit in (math.inf, *FOR_INFINITY)]


def corner_softmaxes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The right corners, by a softmax, which is nan where a bound is infinite."""
    itself = torch.eye(low.shape[1], dtype=torch.bool)
    worst, best = torch.where(itself, low[:, None], high[:, None]), torch.where(itself, high[:, None], low[:, None])
    return tuple(corner.softmax(2).diagonal(dim1=1, dim2=2) for corner in (worst, best))


FOR_INFINITY = (1e3, 1e4, 1e5, 1e6, 1e9)
ONE_BOUND = (
    "Each end uses the same bound for all classes. A class does worst when it is at its lower bound and all others are "
    "at their upper ones."
)
INFINITE = (
    "The rule is right, but a softmax of ∞ is nan: ∞ − ∞. A class without an upper bound may take the whole posterior, "
    "1, and leave 0 to the others: a sigmoid of the difference to the rest gives that, or a case of its own."
)
ITSELF = (
    "The class itself stands in your denominator with its other bound. If its evidence is lower, it is so in numerator "
    "and denominator: only the OTHER classes are at their other end."
)

RANGE_SLIPS = {
    "`nan_to_num` makes a 0 of nan. That is right of the lowest; the highest of a class without an upper bound is 1, "
    "whatever the others are.": lambda low, high: tuple(end.nan_to_num() for end in corner_softmaxes(low, high)),
    "The numbers are right, but stacked as (B, K, 2). "
    "The pair (lowest, highest) is asked, (B, K) each.": lambda low, high: torch.stack(both_ends(low, high), -1),
    "Between 0 and 1 lies every probability. The bounds say more than that.": lambda low, high: (
        torch.zeros_like(low),
        torch.ones_like(low),
    ),
    "You compare the lower bounds as if they were the values. A looser bound is not a less likely class: the others "
    "may be as high as upper.": lambda low, high: (low.softmax(1), low.softmax(1)),
    "Lowest and highest are exchanged: (lowest, highest) is asked.": lambda low, high: both_ends(low, high)[::-1],
    "You compare with the strongest other class alone (max). All others add up: logsumexp.": rivals,
    "The highest is not 1 minus the lowest of the same class: it has a case of its own, the class at its upper bound "
    "and the "
    "others at their lower ones.": lambda low, high: ((low - rest(high)).sigmoid(), 1 - (low - rest(high)).sigmoid()),
    "You call 1 the highest of every class. That is so where upper is infinite; "
    "else the upper bound says more.": lambda low, high: ((low - rest(high)).sigmoid(), torch.ones_like(low)),
    "You call 0 the lowest of every class. That is so where another one has no upper bound; "
    "else the bounds say more.": lambda low, high: (torch.zeros_like(low), (high - rest(low)).sigmoid()),
    "In the highest the other classes are at their upper bounds. The class does best when they are at their lower "
    "ones.": lambda low, high: ((low - rest(high)).sigmoid(), (high - rest(high)).sigmoid()),
    "In the lowest the other classes are at their lower bounds. The class does worst when they are at their upper "
    "ones.": lambda low, high: ((low - rest(low)).sigmoid(), (high - rest(low)).sigmoid()),
    "These are the log-odds, log p/(1 − p). Probabilities are asked: one sigmoid is missing.": lambda low, high: (
        low - rest(high),
        high - rest(low),
    ),
    "These are the odds p/(1 − p). Probabilities are asked: a/(a + b), not a/b.": lambda low, high: (
        (low - rest(high)).exp(),
        (high - rest(low)).exp(),
    ),
    "These are logarithms. Probabilities are asked.": lambda low, high: tuple(
        torch.nn.functional.logsigmoid(d) for d in (low - rest(high), high - rest(low))
    ),
    "This is the lowest alone. Return both: (lowest, highest).": lambda low, high: (low - rest(high)).sigmoid(),
    "This is the highest alone. Return both: (lowest, highest).": lambda low, high: (high - rest(low)).sigmoid(),
    "This is the range of log p(x). The range of p(c|x) is asked, of each class.": lambda low, high: (
        high.logsumexp(1) - low.logsumexp(1)
    ),
    "You normalise the rows. Each class has its own worst case, not all at once: the lowest ones sum to less than 1, "
    "the highest to more.": lambda low, high: tuple(end / end.sum(1, keepdim=True) for end in both_ends(low, high)),
    "Your highest is the posterior at the lower bounds. "
    "The class itself may be at its upper bound.": lambda low, high: (both_ends(low, high)[0], low.softmax(1)),
    "You take the middle of the bounds as the value. What is asked is how far off that can be.": lambda low, high: (
        (((low + high) / 2).clamp(max=1e6).softmax(1),) * 2
    ),
    "The rule is right, but e^-1000 is 0 in a computer and e^300 infinite, and 0/0 is nan. Stay with logarithms: "
    "logsumexp and sigmoid.": by_exp,
}

POSTERIOR_RANGE = Exercise(
    reference=posterior_range,
    statement="lower ≤ log p(x|c) ≤ upper, each (B, K) in nats; equal where a model is exact, upper infinite where "
    "only a bound below is known; prior (K,) > 0. The lowest and the highest p(c|x) that each class can have: "
    "(lowest, highest), each (B, K).",
    nudge="p(c|x) = p(x|c) p(c) / (the same + that of all other classes). Which end of each makes it smallest? The "
    "rest of a row is a logsumexp without the class itself, and a/(a + b) is a sigmoid of log a − log b.",
    right="where some are exact and some have no upper bound. An ELBO that beats the exact values of the others has "
    "won; one that loses to them has not lost yet: it may only be loose.",
    inputs=bounded,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        *((answer, ONE_BOUND) for answer in two_softmaxes()),
        *((answer, ONE_BOUND + " (And the prior is missing.)") for answer in two_softmaxes(lambda a, prior: a)),
        *(
            (
                lambda lower, upper, prior, answer=answer: sorted_ends(*answer(lower, upper, prior)),
                "You take the smaller and the larger of two posteriors, one with all lower and one with all upper "
                "bounds. There are worse cases: a class at its lower bound and all others at their upper ones.",
            )
            for answer in two_softmaxes()
        ),
        (of_joints(corner_softmaxes), INFINITE),
        (
            lambda lower, upper, prior: tuple(end * prior for end in both_ends(lower, upper)),
            "The prior comes in after the normalisation. It weighs each p(x|c) before: add log p(c) to both bounds.",
        ),
        (
            lambda lower, upper, prior: tuple(normalised(end * prior) for end in both_ends(lower, upper)),
            "The prior comes in after the normalisation. It weighs each p(x|c) before: add log p(c) to both bounds.",
        ),
        *(
            (
                of_joints(lambda low, high, t=t: (both_ends(low, high)[0], high.clamp(max=t).softmax(1))),
                "Your highest has all classes at their upper bounds. The class does best when the others are at their "
                "lower ones.",
            )
            for t in (math.inf, *FOR_INFINITY)
        ),
        (
            lambda lower, upper, prior: both_ends(lower, upper),
            "The prior is missing: p(x|c) are compared without p(c).",
        ),
        (
            lambda lower, upper, prior: both_ends(lower + prior, upper + prior),
            "The prior is added without its logarithm.",
        ),
        (
            lambda lower, upper, prior: both_ends(lower - prior.log(), upper - prior.log()),
            "You divide by the prior: the sign of log p(c) is flipped.",
        ),
        (of_joints(with_itself), ITSELF),
        (of_joints(lambda low, high: tuple(end.clamp(0, 1) for end in with_itself(low, high))), ITSELF),
        (of_joints(lambda low, high: (low, high)), "These are log p(x|c) p(c). They are not normalised."),
        *each(of_joints, RANGE_SLIPS),
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
