"""A linear VAE against PPCA, whose log p is exact: how far does training end from what the ELBO could be?

With linear networks and Gaussian noise, the posterior is a Gaussian with a linear mean and a constant covariance, so
that the encoder can be exact and the best ELBO is PPCA's log p. Lucas, Tucker, Grosse & Norouzi 2019.
"""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from benchmarks.harness import Measurement
from dgm_lib import datasets, runtime
from dgm_lib.datasets import Data
from dgm_lib.distributions import NormalNoise, StandardNormal
from dgm_lib.models.ppca import PPCA
from dgm_lib.models.vae import VAE
from dgm_lib.nets import MLP
from dgm_lib.objective import adam
from dgm_lib.train import fit

LATENTS, EPOCHS, BATCH, RATE = 8, 800, 100, 3e-2


def linear_vae_gap(runs: int) -> Measurement:
    """|PPCA's exact mean log p − the linear VAE's mean ELBO| of the test digits, in nats, a run a seed."""
    digits = datasets.load("digits")
    train, test = points(digits.train.x), points(digits.test.x)
    ppca = PPCA.fit(train.double(), LATENTS).requires_grad_(False)
    exact = {name: ppca.log_prob(x.double()).mean().item() for name, x in (("train", train), ("test", test))}
    gaps: dict[str, list[float]] = {"train": [], "test": []}
    seconds = []
    for seed in range(runs):
        started = perf_counter()
        vae = trained(digits, seed)
        seconds.append(perf_counter() - started)
        gaps["train"].append(exact["train"] - exact_elbo(vae, train))
        gaps["test"].append(exact["test"] - exact_elbo(vae, test))
    note = f"PPCA's log p {exact['test']:.4f}; in training, where it is the maximum, {max(gaps['train']):.3f} at most; "
    note += f"{LATENTS} latents, {EPOCHS} epochs, {sum(seconds) / runs:.0f} s a run"
    return Measurement([abs(gap) for gap in gaps["test"]], range(runs), note, summary=max)


def points(levels: Tensor) -> Tensor:
    """Images of levels 0 … 16 as points of 64 numbers in [0, 1]."""
    return levels.flatten(1).float() / 16


def trained(digits: Data, seed: int) -> VAE:
    """From random weights; EPOCHS and RATE were chosen on the validation digits."""
    runtime.seed_everything(seed)
    vae = VAE(MLP(64, 2 * LATENTS), MLP(LATENTS, 64), StandardNormal(LATENTS), NormalNoise())
    objective = adam(vae.loss, vae, RATE, epochs=EPOCHS)
    batches = digits.train.batches(BATCH, seed=seed, transform=points)
    fit(vae, {"-ELBO": objective}, batches, EPOCHS, seed=seed, progress=False)
    return vae


@torch.no_grad()
def exact_elbo(vae: VAE, x: Tensor) -> float:
    """The mean ELBO without a draw: for a linear decoder, E_q[log p(x|z)] = log p(x|μ) − Σ_d Var_d ‖w_d‖² / 2σ²."""
    q = vae.posterior(x)
    lost = q.variance @ vae.decoder[1].weight.square().sum(0) / (2 * (2 * vae.pixels.log_sigma).exp())
    return (vae.likelihood(q.mean).log_prob(x) - lost - vae.kl(q, q.mean)).double().mean().item()
