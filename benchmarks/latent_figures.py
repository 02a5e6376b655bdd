"""Probabilistic PCA against scikit-learn's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.harness import Measurement
from dgm_lib import datasets
from dgm_lib.models.ppca import PPCA

LATENTS = 1, 4, 16, 40


def train_and_test(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Points to learn from and points to score, float64: digits, patches, and a Gaussian with random covariance."""
    for data in (datasets.load("digits"), datasets.load("patches", size=8, seed=seed)):
        yield data.train.scaled().flatten(1).double(), data.test.scaled().flatten(1).double()
    generator = torch.Generator().manual_seed(seed)
    mix, eps = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((50, 50), (3000, 50)))
    yield (eps @ mix).split([2000, 1000])


def scores_of_scikit_learn(train: Tensor, test: Tensor, n_latents: int) -> Tensor:
    """log p of the test points under scikit-learn's maximum-likelihood model, (B,) nats.

    It divides variances by N − 1, so its own model is not the likeliest: all of them are taken times (N − 1) / N.
    """
    from sklearn.decomposition import PCA

    reference = PCA(n_latents, svd_solver="full").fit(train.numpy())
    reference.explained_variance_ *= 1 - 1 / len(train)
    reference.noise_variance_ *= 1 - 1 / len(train)
    return torch.as_tensor(reference.score_samples(test.numpy()))


@torch.no_grad()
def ppca_vs_sklearn(runs: int) -> Measurement:
    """The largest |difference of log p| / |log p| of all test points of all data sets and numbers of latents."""
    largest, single = [], []
    for seed in range(runs):
        errors = []
        for train, test in train_and_test(seed):
            for n_latents in LATENTS:
                expected = scores_of_scikit_learn(train, test, n_latents)
                apart = PPCA.fit(train, n_latents).log_prob(test) - expected
                errors.append(float((apart / expected).abs().max()))
                apart = PPCA.fit(train.float(), n_latents).log_prob(test.float()) - expected
                single.append(float(apart.abs().max()))
        largest.append(max(errors))
    latents = ", ".join(map(str, LATENTS))
    note = (
        f"digits, patches and a random Gaussian, {latents} latents, float64; in float32 {max(single):.1g} nats at most"
    )
    return Measurement(largest, range(runs), note, summary=max)
