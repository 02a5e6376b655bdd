"""Rare classes, 1 : 50: what is worth more, images made by a conditional VAE or the remedies that are older than it?

Five of the ten digits of `glyphs` have FREQUENT training images each, the others RARE; which ones, the seed draws. All
that is learnt, the VAE included, is learnt from these images alone. The validation and test images are equally many of
each class, and more than one has where classes are rare: choices are made on the first, the others are looked at once.
Every classifier is the same network, trained for as many steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from math import radians
from statistics import mean, stdev
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from benchmarks.harness import Measurement
from benchmarks.vae_practice import LEVELS, SIDE, pooled
from dgm_lib import datasets
from dgm_lib.datasets.augmentation import shifted
from dgm_lib.datasets.core import Split
from dgm_lib.datasets.imbalance import class_weights, imbalanced, oversample, smote
from dgm_lib.distributions import StandardNormal, logistic_pixels
from dgm_lib.measures.metrics import balanced_accuracy
from dgm_lib.models.classify import Classifier, change_prior, class_prior
from dgm_lib.models.vae import VAE
from dgm_lib.nets import MLP, ConvEncoder, Labelled
from dgm_lib.objective import adam
from dgm_lib.train import fit

THREADS, CLASSES = 1, "0123456789"
K, FREQUENT, RARE = len(CLASSES), 500, 10
STEPS, BATCH, RATE, WIDTH = 800, 64, 2e-3, 16
VAE_STEPS, VAE_BATCH, LATENTS, HIDDEN = 2000, 100, 16, 256

Examples = tuple[Tensor, Tensor]  # (N, 1, SIDE, SIDE) floats and their labels
Augment = Callable[[Tensor], Tensor]

# ---- the task ------------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """train: few images of the classes `rare`. validation, test: equally many of each class."""

    seed: int
    train: Split
    validation: Split
    test: Split
    rare: Tensor


@cache
def drawn(seed: int) -> Task:
    data = datasets.load("glyphs", n=60_000, classes=CLASSES)
    rare = torch.randperm(K, generator=torch.Generator().manual_seed(seed))[: K // 2]
    counts = torch.full((K,), FREQUENT)
    counts[rare] = RARE
    train = data.train.take(imbalanced(data.train.y, counts.tolist(), seed))
    return Task(seed, pooled(train), pooled(data.validation), pooled(data.test), rare)


# ---- examples to train on ------------------------------------------------------------------------------------------


def as_drawn(task: Task) -> Examples:
    return task.train.scaled(), task.train.y


def repeated(task: Task, to: int = FREQUENT) -> Examples:
    part = task.train.take(oversample(task.train.y, K, to=to, seed=task.seed))
    return part.scaled(), part.y


def mixed(task: Task, to: int = FREQUENT) -> Examples:
    """Rare classes filled up with points between neighbours, SMOTE."""
    return smote(*as_drawn(task), K, to=to, seed=task.seed)


def generated(task: Task, to: int = FREQUENT) -> Examples:
    """Rare classes filled up with images that the conditional VAE made."""
    return joined(as_drawn(task), made(task, to - RARE))


def both(task: Task) -> Examples:
    """Each rare class half made and half repeated."""
    return joined(repeated(task, FREQUENT // 2), made(task, FREQUENT // 2))


def joined(*parts: Examples) -> Examples:
    x, y = map(torch.cat, zip(*parts))
    return x, y


@torch.no_grad()
def made(task: Task, n: int) -> Examples:
    """n mean images E[x|z, y], z ~ p(z), of each rare class y."""
    vae, y = conditional_vae(task.seed), task.rare.repeat_interleave(n)
    torch.manual_seed(task.seed)
    return vae.likelihood(vae.prior.sample(len(y)), y).mean, y


@cache
def conditional_vae(seed: int) -> VAE:
    """p(x|z, y), learnt from the training images, each class seen equally often.

    All classes share z and most of the weights: what the frequent ones show of slant, size and stroke is lent to the
    rare ones. Remedies that look at one class at a time cannot do that.
    """
    torch.manual_seed(seed)
    vae = VAE(
        Labelled(MLP(SIDE**2 + K, HIDDEN, 2 * LATENTS), K, flat=True),
        Labelled(MLP(LATENTS + K, HIDDEN, (2, SIDE, SIDE)), K, flat=True),
        StandardNormal(LATENTS),
        partial(logistic_pixels, levels=LEVELS),
        n_classes=K,
    )
    train(vae, vae.loss, repeated(drawn(seed)), shifted, VAE_STEPS, VAE_BATCH, seed)
    return vae


# ---- images changed at random --------------------------------------------------------------------------------------


def unchanged(x: Tensor) -> Tensor:
    return x


def warped(x: Tensor) -> Tensor:
    """Turned by up to 15°, sheared by up to 3/16, scaled by 3/4 … 5/4, moved by up to one pixel.

    The very factors by which `glyphs` was drawn, all but stroke and typeface: more than one knows elsewhere.
    """
    angle, shear, scale = (torch.empty(len(x)).uniform_(-limit, limit) for limit in (radians(15), 3 / 16, 1 / 4))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(len(x))
    turn = torch.stack([cos, -sin + shear, zero, sin, cos, zero], 1).view(-1, 2, 3) / (1 + scale)[:, None, None]
    turn[:, :, 2] = torch.empty(len(x), 2).uniform_(-2 / SIDE, 2 / SIDE)
    return grid_sample(x, affine_grid(turn, x.shape, align_corners=False), align_corners=False)


# ---- the remedies --------------------------------------------------------------------------------------------------


class Remedy(NamedTuple):
    """How a classifier is trained; by default, on images moved by up to a pixel.

    weighted: the loss counts each class alike. even: p(c) is made even by Bayes' rule after training; Menon et
    al. 2021, eq. 9. adjusted: τ log p(c) is added to the logits in the loss; the same, eq. 10, τ the value.
    """

    examples: Callable[[Task], Examples]
    augment: Augment = shifted
    weighted: bool = False
    adjusted: float = 0.0
    even: bool = False


CLASSICAL = {
    "plain": Remedy(as_drawn, unchanged),
    "shifts": Remedy(as_drawn),
    "weights": Remedy(as_drawn, weighted=True),
    "even prior": Remedy(as_drawn, even=True),
    "logit adjustment": Remedy(as_drawn, adjusted=1.0),
    "repeated": Remedy(repeated),
    "SMOTE": Remedy(mixed),
}
GENERATIVE = {
    "generated": Remedy(generated),
    "generated and repeated": Remedy(both),
    "fewer generated, logit adjustment": Remedy(partial(generated, to=FREQUENT // 5), adjusted=1.0),
}
# with images changed by the factors that drew them, which nobody would know of real ones; allowed to both
CLASSICAL_WARPED = CLASSICAL | {"repeated, warped": Remedy(repeated, warped)}
GENERATIVE_WARPED = GENERATIVE | {"generated and repeated, warped": Remedy(both, warped)}


def classifier(remedy: Remedy, task: Task) -> Classifier:
    x, y = remedy.examples(task)
    torch.manual_seed(task.seed)
    model = Classifier(nn.Sequential(nn.ZeroPad2d(1), ConvEncoder((1, SIDE + 2, SIDE + 2), K, WIDTH)), K)
    weights = class_weights(y, K) if remedy.weighted else None
    added = remedy.adjusted * class_prior(y, K).log()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(x) + added, y, weights)

    train(model, loss, (x, y), remedy.augment, STEPS, BATCH, task.seed)
    return model


@torch.enable_grad()
def train(
    model: nn.Module,
    loss: Callable[..., Tensor],
    examples: Examples,
    augment: Augment,
    steps: int,
    batch: int,
    seed: int,
) -> None:
    """About so many steps of Adam, with a rate that falls to 0."""
    split = Split(*examples)
    epochs = round(steps * batch / len(split))
    objective = adam(loss, model, RATE, epochs=epochs)
    batches = split.batches(batch, seed=seed, transform=augment)
    fit(model, {"loss": objective}, batches, epochs, seed=seed, progress=False)
    model.eval()


@torch.no_grad()
def named(model: Classifier, remedy: Remedy, task: Task, split: Split) -> Tensor:
    """The classes that it gives to the images of a split, (N,)."""
    logits = model(split.scaled())
    if remedy.even:
        logits = change_prior(logits, class_prior(task.train.y, K), torch.full((K,), 1 / K))
    return logits.argmax(1)


# ---- the figure ----------------------------------------------------------------------------------------------------


class Score(NamedTuple):
    """Balanced accuracy in percent."""

    validation: float
    test: float


def score(remedy: Remedy, task: Task) -> Score:
    model = classifier(remedy, task)
    parts = (task.validation, task.test)
    return Score(*(100 * balanced_accuracy(named(model, remedy, task, part), part.y, K) for part in parts))


Scores = dict[str, list[Score]]  # of each remedy, one a seed
PAIRS = ((GENERATIVE_WARPED, CLASSICAL_WARPED), (GENERATIVE, CLASSICAL))


def best(remedies: dict[str, Remedy], scores: Scores) -> str:
    """The one that names most validation images right, in the mean over the seeds."""
    return max(remedies, key=lambda name: mean(each.validation for each in scores[name]))


def differences(made: str, classical: str, scores: Scores) -> list[float]:
    return [a.test - b.test for a, b in zip(scores[made], scores[classical])]


def interval(values: list[float]) -> str:
    """The mean, and Student's 95 % interval for it over the seeds: which classes and images are rare, and the start."""
    from scipy.stats import t as student  # here, because it takes half a second

    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.1f} ({mean(values) - half:+.1f} to {mean(values) + half:+.1f})"


def generated_over_classical(runs: int) -> Measurement:
    """Balanced accuracy, points: the best remedy with generated images over the best without. Measured, not promised.

    Which is best, validation images say. Both may warp images by the factors that `glyphs` was drawn with; beside it
    stands the difference where neither may do more than move them by a pixel.
    """
    torch.set_num_threads(THREADS)
    every = CLASSICAL_WARPED | GENERATIVE_WARPED
    scores: Scores = {name: [score(remedy, drawn(seed)) for seed in range(runs)] for name, remedy in every.items()}
    warps, shifts = ((best(made, scores), best(old, scores)) for made, old in PAIRS)
    found = differences(*warps, scores)
    note = f"“{warps[0]}” over “{warps[1]}”, mean and 95 % interval over seeds {interval(found)}; where images may "
    note += f"only be moved by a pixel, “{shifts[0]}” over “{shifts[1]}” {interval(differences(*shifts, scores))}. "
    note += f"Balanced accuracy on test images, mean of {runs} seeds: "
    note += ", ".join(f"{name} {mean(each.test for each in of_seeds):.1f} %" for name, of_seeds in scores.items())
    return Measurement(found, range(runs), note, holds=True, summary=mean)
