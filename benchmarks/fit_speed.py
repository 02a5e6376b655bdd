"""`fit` against a bare loop and against a `DataLoader` over PIL images, in images a second.

All of them train the same network with the same fused Adam on the same numbers. They differ in how they come by their
batches and in what the loop does around a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import Measurement, alternate
from dgm_lib.datasets.core import Split
from dgm_lib.train import Objective, fit

N, BATCH, THREADS = 60_000, 128, 2


class VAE(nn.Module):
    """784-400-20 with Bernoulli pixels.   log p(x) ≥ E_q[log p(x|z)] − KL(q(z|x) ‖ p(z)).   Kingma & Welling 2014."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 2 * 20))
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−ELBO of x (B, 1, 28, 28), in nats."""
        x = x.flatten(1)  # (B, 784)
        mu, log_var = self.encoder(x).chunk(2, 1)  # each (B, 20)
        z = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
        negative_log_likelihood = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
        kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1)
        return (negative_log_likelihood + kl).mean()


def random_images(n: int = N) -> Split:
    """Images of MNIST's shape and number whose pixels mean nothing: only the time counts."""
    torch.manual_seed(0)
    return Split(torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8), torch.randint(10, (n,)), levels=256)


def seconds(train: Callable[[VAE, Optimizer], None], seed: int) -> float:
    """How long one epoch of `train` takes on a new model."""
    torch.manual_seed(seed)
    model = VAE()
    optimizer = Adam(model.parameters(), 1e-3, fused=True)
    start = perf_counter()
    train(model, optimizer)
    return perf_counter() - start


def bare_loop(model: VAE, optimizer: Optimizer, batches: Iterable[Tensor]) -> None:
    """Nothing but the steps: no bar, no metrics, no checks."""
    for x in batches:
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()


def fit_seconds(split: Split, seed: int) -> float:
    """One epoch of `fit`."""

    def train(model: VAE, optimizer: Optimizer) -> None:
        fit(model, {"-ELBO": Objective(model.loss, optimizer)}, split.batches(BATCH, seed=seed), epochs=1, seed=seed)

    return seconds(train, seed)


def bare_seconds(x: Tensor, seed: int) -> float:
    """One epoch of the bare loop over floats in memory, in the order of a permutation."""

    def train(model: VAE, optimizer: Optimizer) -> None:
        bare_loop(model, optimizer, (x.index_select(0, rows) for rows in torch.randperm(len(x)).split(BATCH)))

    return seconds(train, seed)


class PILImages(Dataset):
    """The images as published examples keep them; each is made a tensor when it is asked for."""

    def __init__(self, split: Split):
        self.images = [Image.fromarray(x.numpy()) for x in split.x[:, 0]]
        self.labels = split.y.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(np.array(self.images[row]))  # (28, 28) uint8
        return pixels.unsqueeze(0).float() / 255, self.labels[row]


def loader_seconds(images: PILImages, seed: int) -> float:
    """One epoch of the bare loop over a DataLoader, with no worker or with one: whichever is faster."""

    def with_workers(workers: int) -> float:
        loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers)
        return seconds(lambda model, optimizer: bare_loop(model, optimizer, (x for x, _ in loader)), seed)

    return min(with_workers(0), with_workers(1))


def against(peer: str, peer_seconds: Callable[[int], float], split: Split, runs: int) -> Measurement:
    """fit's images a second over the peer's, run by run."""
    torch.set_num_threads(THREADS)
    ours, theirs = alternate(runs, lambda seed: fit_seconds(split, seed), peer_seconds)
    speeds = f"fit {N / median(ours):,.0f}, {peer} {N / median(theirs):,.0f} images/s"
    return Measurement([b / a for a, b in zip(ours, theirs)], range(runs), speeds)


def against_bare_loop(runs: int) -> Measurement:
    """The price of what `fit` does beyond the steps."""
    split = random_images()
    x = split.scaled()
    return against("bare loop", lambda seed: bare_seconds(x, seed), split, runs)


def against_dataloader(runs: int) -> Measurement:
    """The gain of keeping data as tensors."""
    split = random_images()
    images = PILImages(split)
    return against("DataLoader", lambda seed: loader_seconds(images, seed), split, runs)
