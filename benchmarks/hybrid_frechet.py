"""The hybrid of VAE and GAN against the VAE that it began with, as notebook 08 has them for one seed.

Letters A, B and C; Gaussian pixels, whose squared error is what blurs. Both go on from the same trained VAE for as many
steps, the VAE as a hybrid whose game has no weight. The weight of the game was chosen on validation letters.
"""

from __future__ import annotations

from copy import deepcopy
from statistics import median

import torch
from torch import nn

from benchmarks.harness import Measurement
from dgm_lib import datasets
from dgm_lib.datasets import Data, Split
from dgm_lib.distributions import NormalNoise, StandardNormal
from dgm_lib.measures import judges
from dgm_lib.measures.two_sample import frechet_distance, precision_recall
from dgm_lib.models.vae import VAE
from dgm_lib.models.vae_gan import VAEGAN
from dgm_lib.nets import MLP, DCCritic, Labelled, ProjectionCritic
from dgm_lib.objective import adam
from dgm_lib.train import averaged, fit

LETTERS, SHAPE, LATENTS, WIDTH, GAME, THREADS = "ABC", (1, 28, 28), 32, 256, 100.0, 1
VAE_EPOCHS, EPOCHS = 14, 2


def trained_vae(split: Split, seed: int) -> VAE:
    torch.manual_seed(seed)
    n = len(LETTERS)
    encoder = Labelled(MLP(28 * 28 + n, WIDTH, WIDTH, 2 * LATENTS), n, flat=True)
    decoder = Labelled(nn.Sequential(MLP(LATENTS + n, WIDTH, WIDTH, SHAPE), nn.Sigmoid()), n)
    vae = VAE(encoder, decoder, StandardNormal(LATENTS), NormalNoise(0.2), n_classes=n)
    objective = adam(vae.loss, vae, 5e-3, epochs=VAE_EPOCHS)
    average = averaged(vae, 0.99)
    fit(vae, {"-ELBO": objective}, split.batches(128, seed=seed), VAE_EPOCHS, seed=seed, ema=average)
    return average.module


def played_on(vae: VAE, game_weight: float, split: Split, seed: int) -> VAEGAN:
    torch.manual_seed(seed)
    vae, critic = deepcopy(vae).train(), DCCritic(SHAPE, 16)
    critic = ProjectionCritic(critic.body, critic.n_features, len(LETTERS))
    critic.to(memory_format=torch.channels_last)
    model = VAEGAN(vae, critic, feature_weight=0.0, pixel_weight=1.0, game_weight=game_weight)
    parts = (
        ("critic", model.critic_loss, critic, 2e-3),
        ("decoder", model.decoder_loss, vae.decoder, 6e-4),
        ("encoder", model.encoder_loss, vae.encoder, 6e-4),
    )
    players = {name: adam(loss, net, rate, betas=(0.5, 0.99)) for name, loss, net, rate in parts}
    average = averaged(model, 0.99)
    fit(model, players, split.batches(64, seed=seed, drop_last=True), EPOCHS, seed=seed, ema=average)
    return average.module


def judged(model: VAEGAN, data: Data, judge: judges.Judge, seed: int) -> tuple[float, float, float, float]:
    """Fréchet distance, precision and recall of samples, and squared error of a reconstructed pixel; test letters."""
    torch.manual_seed(seed)
    x, y = data.test.scaled(), data.test.y
    told, made = judge.features(x), judge.features(model.sample(len(y), y))
    error = (model.reconstruct(x, y) - x).square().mean().item()
    return frechet_distance(made, told), *precision_recall(told, made), error


def measure(runs: int) -> Measurement:
    """The hybrid's Fréchet distance over the VAE's; holds if its error of reconstruction is at most 25 % larger."""
    torch.set_num_threads(THREADS)
    data, judge = datasets.load("glyphs", classes=LETTERS), judges.load("glyphs")
    split = data.train.take(slice(10_000))
    hybrids, vaes = [], []
    for seed in range(runs):
        start = trained_vae(split, seed)
        for found, weight in ((vaes, 0.0), (hybrids, GAME)):
            found.append(judged(played_on(start, weight, split, seed), data, judge, seed))
    ratios = [a[0] / b[0] for a, b in zip(hybrids, vaes)]
    worse = [a[3] / b[3] for a, b in zip(hybrids, vaes)]
    of_hybrid, of_vae = ([median(column) for column in zip(*rows)] for rows in (hybrids, vaes))
    note = (
        f"distances {of_hybrid[0]:.1f} and {of_vae[0]:.1f}, precision {of_hybrid[1]:.2f} and {of_vae[1]:.2f}, recall "
    )
    note += f"{of_hybrid[2]:.2f} and {of_vae[2]:.2f}; squared error of a reconstructed pixel {of_hybrid[3]:.4f} and "
    note += f"{of_vae[3]:.4f}, {min(worse):.2f} to {max(worse):.2f} times the VAE's. A VAE with binary pixels has a "
    note += "smaller distance than both, see gan-glyphs-frechet"
    return Measurement(ratios, range(runs), note, holds=median(ratios) <= 0.7 and max(worse) <= 1.25)
