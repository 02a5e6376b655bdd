"""Four ways to play the same game under one budget of rounds, as notebook 07 has them for one seed and one epoch.

The pair, the letters and the measures are those of the notebook: a conditional DCGAN on the letters A, B and C.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import LinearLR

from benchmarks.harness import Measurement
from dgm_lib import datasets
from dgm_lib.distributions import StandardNormal
from dgm_lib.measures import judges
from dgm_lib.measures.two_sample import frechet_distance, precision_recall
from dgm_lib.models.gan import GAN, HINGE, NON_SATURATING, WASSERSTEIN, gradient_penalty, r1
from dgm_lib.nets import DCCritic, DCGenerator, Labelled, ProjectionCritic, spectrally_normed
from dgm_lib.train import Objective, averaged, fit

LETTERS, SHAPE, LATENTS, WIDTH, EPOCHS, THREADS = "ABC", (1, 28, 28), 32, 16, 4, 1
WAYS = {
    "non-saturating": (NON_SATURATING, {}),
    "with R1": (NON_SATURATING, {"penalty": r1, "penalty_weight": 1.0}),
    "hinge, spectral norm": (HINGE, {}),
    "WGAN-GP": (WASSERSTEIN, {"penalty": gradient_penalty, "penalty_weight": 10.0}),
}


def trained(way: str, split: datasets.Split, seed: int) -> GAN:
    """The averaged weights after EPOCHS epochs of this way to play."""
    torch.manual_seed(seed)
    n = len(LETTERS)
    critic = DCCritic(SHAPE, WIDTH)
    critic = ProjectionCritic(critic.body, critic.n_features, n)
    if "spectral" in way:
        spectrally_normed(critic)
    game, options = WAYS[way]
    generator = Labelled(DCGenerator(LATENTS + n, SHAPE, WIDTH), n)
    gan = GAN(generator, critic, StandardNormal(LATENTS), game, box=(0, 1), n_classes=n, **options)
    players = {}
    for name, loss in (("critic", gan.critic_loss), ("generator", gan.generator_loss)):
        adam = Adam(getattr(gan, name).parameters(), 3e-3, betas=(0.5, 0.99), fused=True)
        players[name] = Objective(loss, adam, scheduler=LinearLR(adam, 1, 0.1, EPOCHS))
    average = averaged(gan, 0.995)
    fit(gan, players, split.batches(32, seed=seed, drop_last=True), EPOCHS, seed=seed, ema=average)
    return average.module


def measure(runs: int) -> Measurement:
    """The Fréchet distance of the way that is best on validation letters, on test letters; all ways in the note."""
    torch.set_num_threads(THREADS)
    data, judge = datasets.load("glyphs", classes=LETTERS), judges.load("glyphs")
    split = data.train.take(slice(10_000))
    told_valid, told_test = (judge.features(part.scaled()) for part in (data.validation, data.test))
    asked = torch.arange(len(data.test)) % len(LETTERS)
    found: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    for seed in range(runs):
        for way, rows in found.items():
            start = perf_counter()
            gan = trained(way, split, seed)
            seconds = perf_counter() - start
            made = judge.features(gan.sample(len(asked), asked))
            distances = [frechet_distance(made, told) for told in (told_valid, told_test)]
            rows.append((*distances, *precision_recall(told_test, made), seconds))
    middle = {way: [median(column) for column in zip(*rows)] for way, rows in found.items()}
    best = min(middle, key=lambda way: middle[way][0])
    each = "; ".join(
        f"{way} {row[1]:.2f} ({min(r[1] for r in found[way]):.2f}–{max(r[1] for r in found[way]):.2f}), precision "
        f"{row[2]:.2f}, recall {row[3]:.2f}, {row[4]:.0f} s"
        for way, row in middle.items()
    )
    rounds = EPOCHS * (len(split) // 32)
    note = f"{best}; after {rounds:,} rounds, {len(asked):,} samples: {each}"
    return Measurement([row[1] for row in found[best]], range(runs), note, holds=True)
