"""Glyphs and MNIST drawn by a GAN and by a VAE, judged on the same features after the same seconds.

Both are told the class, and have two hidden layers of WIDTH units in each network. The generator has batch norm between
them; the decoder of the VAE has none, with which its distance was several times as large. Real images are SAMPLES that
nobody trained on: glyphs drawn from another seed, the first ones of MNIST's test set. Recipes were compared on unseen
images of a validation split, with one seed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.harness import Measurement
from dgm_lib import datasets
from dgm_lib.datasets import Batches, Split
from dgm_lib.datasets.published import DataError
from dgm_lib.distributions import BernoulliPixels, StandardNormal
from dgm_lib.measures import judges
from dgm_lib.measures.judges import Judge
from dgm_lib.measures.two_sample import frechet_distance, precision_recall
from dgm_lib.models.gan import GAN
from dgm_lib.models.vae import VAE
from dgm_lib.nets import MLP, Labelled, ProjectionCritic
from dgm_lib.train import History, Objective, averaged, fit

THREADS, SAMPLES = 1, 5000
SHAPE, WIDTH, LATENTS, BATCH, RATE, DECAY = (1, 28, 28), 512, 32, 64, 1e-3, 0.995
GAN_ROUNDS = 12_500

# ---- what is learnt, and who judges it -----------------------------------------------------------------------------


class Task(NamedTuple):
    """train: what models see. real: SAMPLES images that they do not see, with labels; judge: looks at both."""

    train: Split
    real: Split
    judge: Judge
    n_classes: int


def glyphs(part: str = "test") -> Task:
    """part: of the unseen images; "validation" for choices."""
    data = datasets.load("glyphs")
    unseen = datasets.load("glyphs", n=12 * SAMPLES, seed=1)  # a twelfth of them is the test split
    return Task(data.train, getattr(unseen, part), judges.load("glyphs"), len(data.classes))


def mnist(part: str = "test") -> Task:
    """Ends with a sentence that says how to get MNIST where it is missing."""
    try:
        data = datasets.load("mnist")
    except DataError as error:
        sys.exit(f"This figure needs MNIST, and the course does not: {error}")
    real = getattr(data, part).take(slice(SAMPLES))
    return Task(data.train, real, judges.judge_of(data), len(data.classes))


class Judged(NamedTuple):
    """A sample against the real images."""

    distance: float
    precision: float
    recall: float

    def __str__(self) -> str:
        return f"{self.distance:.2f}, precision {self.precision:.2f}, recall {self.recall:.2f}"


Draw = Callable[[int, Tensor], Tensor]  # how many, their labels -> images


@torch.no_grad()
def judged(task: Task, draw: Draw, seed: int) -> Judged:
    """SAMPLES images, with the labels of as many training images."""
    torch.manual_seed(seed)
    y = task.train.y[torch.randperm(len(task.train))[:SAMPLES]]
    return compared(task.judge.features(task.real.scaled()), task.judge.features(draw(SAMPLES, y)))


def compared(real: Tensor, made: Tensor) -> Judged:
    return Judged(frechet_distance(made, real), *precision_recall(real, made))


def among_themselves(task: Task) -> Judged:
    """What a perfect model would reach: as many training images in the place of samples."""
    torch.manual_seed(0)
    rows = torch.randperm(len(task.train))[:SAMPLES]
    return judged(task, lambda n, y: task.train.take(rows).scaled(), seed=0)


# ---- networks ------------------------------------------------------------------------------------------------------


def generator(n_classes: int) -> nn.Module:
    """Latents and label to image, (B, D), (B,) -> (B, 1, 28, 28)."""
    layers: list[nn.Module] = []
    for n_in in (LATENTS + n_classes, WIDTH):
        layers += [nn.Linear(n_in, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU()]
    return Labelled(nn.Sequential(*layers, MLP(WIDTH, SHAPE)), n_classes)


def critic(n_classes: int) -> nn.Module:
    def leaky() -> nn.Module:
        return nn.LeakyReLU(0.2)

    body = nn.Sequential(MLP(28 * 28, WIDTH, WIDTH, activation=leaky), leaky())
    return ProjectionCritic(body, WIDTH, n_classes)


def encoder(n_classes: int) -> nn.Module:
    return Labelled(MLP(28 * 28 + n_classes, WIDTH, WIDTH, 2 * LATENTS), n_classes, flat=True)


class GreyPixels(BernoulliPixels):
    """Grey pixels as probabilities of ink: log_prob is the mean of log p over black-and-white images drawn of them."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, one number a pixel."""
        return -binary_cross_entropy_with_logits(self.logits, x, reduction="none")


def new_vae(n_classes: int) -> VAE:
    decoder = Labelled(MLP(LATENTS + n_classes, WIDTH, WIDTH, SHAPE), n_classes)
    return VAE(encoder(n_classes), decoder, StandardNormal(LATENTS), GreyPixels, n_classes=n_classes)


# ---- training ------------------------------------------------------------------------------------------------------


def player(loss: Callable[..., Tensor], module: nn.Module, epochs: int, *, rate: float = RATE) -> Objective:
    """Adam as adversaries want it, its rate falling to 0 in the second half."""
    optimizer = Adam(module.parameters(), rate, (0.5, 0.99), fused=True)
    return Objective(loss, optimizer, scheduler=falling(optimizer, epochs))


def falling(optimizer: Optimizer, epochs: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda epoch: min(1.0, 2 * (1 - epoch / epochs)))


def trained_gan(task: Task, seed: int) -> tuple[GAN, float]:
    """The averaged weights, and the seconds that they took."""
    torch.manual_seed(seed)
    gan = GAN(
        generator(task.n_classes),
        critic(task.n_classes),
        StandardNormal(LATENTS),
        box=(0, 1),
        n_classes=task.n_classes,
    )
    epochs = GAN_ROUNDS // len(batches(task, seed))
    average = averaged(gan, DECAY)
    objectives = {
        "critic": player(gan.critic_loss, gan.critic, epochs),
        "generator": player(gan.generator_loss, gan.generator, epochs),
    }
    history = fit(gan, objectives, batches(task, seed), epochs, seed=seed, ema=average, progress=False)
    return average.module, sum(history.seconds)


def batches(task: Task, seed: int) -> Batches:
    return task.train.batches(BATCH, seed=seed, drop_last=True)


def trained_vae(task: Task, seed: int, epochs: int) -> tuple[VAE, History]:
    torch.manual_seed(seed)
    vae = new_vae(task.n_classes)
    average = averaged(vae, DECAY)
    objectives = {"-ELBO": player(vae.loss, vae, epochs)}
    history = fit(vae, objectives, batches(task, seed), epochs, seed=seed, ema=average, progress=False)
    return average.module, history


def vae_within(seconds: float, task: Task, seed: int) -> tuple[VAE, float]:
    """A VAE that is trained for as many epochs as fit into these seconds, and those that it took."""
    _, trial = trained_vae(task, seed, 2)
    vae, history = trained_vae(task, seed, max(1, round(seconds / trial.seconds[-1])))
    return vae, sum(history.seconds)


def mean_images(vae: VAE) -> Draw:
    """E[x|z], z from the prior: nearer to the real images than pixels drawn from p(x|z), which are black or white."""
    return lambda n, y: vae.likelihood(vae.prior.sample(n), y).mean


# ---- figures -------------------------------------------------------------------------------------------------------


def beside_vae(task: Task, runs: int) -> tuple[list[Judged], list[Judged], str]:
    """A GAN and a VAE for each seed, and what a note says of them."""
    torch.set_num_threads(THREADS)
    gans, vaes, minutes = [], [], []
    for seed in range(runs):
        gan, seconds = trained_gan(task, seed)
        vae, vae_seconds = vae_within(seconds, task, seed)
        gans.append(judged(task, gan.sample, seed))
        vaes.append(judged(task, mean_images(vae), seed))
        minutes.append((seconds / 60, vae_seconds / 60))
    best = among_themselves(task)
    times = median(each.distance for each in gans) / best.distance
    note = f"GAN {middle(gans)}; VAE, mean images, {middle(vaes)}; real images among themselves {best}: the GAN's "
    note += f"distance is {times:.1f} times theirs. Both are told the class; {median(a for a, _ in minutes):.1f} and "
    note += f"{median(b for _, b in minutes):.1f} minutes with {THREADS} thread"
    return gans, vaes, note


def middle(found: list[Judged]) -> Judged:
    return Judged(*map(median, zip(*found)))


def glyphs_frechet(runs: int) -> Measurement:
    """The GAN's Fréchet distance over the VAE's; holds if precision and recall are enough as well, for each seed."""
    gans, vaes, note = beside_vae(glyphs(), runs)
    ratios = [gan.distance / vae.distance for gan, vae in zip(gans, vaes)]
    enough = min(min(gan.precision, gan.recall) for gan in gans) >= 0.8
    return Measurement(ratios, range(runs), note, holds=max(ratios) <= 0.5 and enough)


def mnist_frechet(runs: int) -> Measurement:
    """The GAN's Fréchet distance on MNIST; nothing is to be reached."""
    gans, _, note = beside_vae(mnist(), runs)
    return Measurement([gan.distance for gan in gans], range(runs), note, holds=True)
