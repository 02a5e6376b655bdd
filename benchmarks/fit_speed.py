"""`fit` against a bare loop and against a `DataLoader` over PIL images, in images a second.

All of them train the same network on the same numbers. They differ in how they come by their batches and in what the
loop does around a step. The DataLoader is measured as PyTorch's own VAE example and torchvision's MNIST use it.
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


def seconds(train: Callable[[VAE, Optimizer], None], seed: int, fused: bool = True) -> float:
    """How long one epoch of `train` takes on a new model."""
    torch.manual_seed(seed)
    model = VAE()
    optimizer = Adam(model.parameters(), 1e-3, fused=fused)
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
    """As torchvision's MNIST does it: an image is made when it is asked for, and then made a tensor (`ToTensor`)."""

    def __init__(self, split: Split):
        self.pixels, self.labels = split.x[:, 0], split.y.tolist()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.pixels[row].numpy())
        pixels = torch.from_numpy(np.array(image)).view(28, 28, 1).permute(2, 0, 1).contiguous()  # (1, 28, 28) uint8
        return pixels.float().div(255), self.labels[row]


def published_loop(model: VAE, optimizer: Optimizer, batches: Iterable[Tensor]) -> None:
    """The steps of PyTorch's own VAE example, which adds up the loss of each batch."""
    total = 0.0
    for x in batches:
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        total += loss.item()
        optimizer.step()


def loader_seconds(images: PILImages, seed: int, fused: bool) -> float:
    """One epoch over a DataLoader, with no worker or with one: whichever is faster.

    fused=False is the published example: plain Adam, and `published_loop`. fused=True gives it what `fit` has.
    """
    loop = bare_loop if fused else published_loop

    def with_workers(workers: int) -> float:
        loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers)
        return seconds(lambda model, optimizer: loop(model, optimizer, (x for x, _ in loader)), seed, fused)

    return min(with_workers(0), with_workers(1))


def against_bare_loop(runs: int) -> Measurement:
    """The price of what `fit` does beyond the steps."""
    torch.set_num_threads(THREADS)
    split = random_images()
    x = split.scaled()
    ours, theirs = alternate(runs, lambda seed: fit_seconds(split, seed), lambda seed: bare_seconds(x, seed))
    return Measurement(
        ratios(theirs, ours), range(runs), f"{speed('fit', ours)}, {speed('bare loop', theirs)} images/s"
    )


def against_dataloader(runs: int) -> Measurement:
    """The gain of keeping data as tensors, against the loop that published examples show."""
    torch.set_num_threads(THREADS)
    split = random_images()
    images = PILImages(split)
    ours, published, fused = alternate(
        runs,
        lambda seed: fit_seconds(split, seed),
        lambda seed: loader_seconds(images, seed, fused=False),
        lambda seed: loader_seconds(images, seed, fused=True),
    )
    note = f"{speed('fit', ours)}, {speed('published loop', published)} images/s; "
    note += f"{median(ratios(fused, ours)):.2f} × where that loop has fused Adam, too"
    return Measurement(ratios(published, ours), range(runs), note)


def ratios(theirs: list[float], ours: list[float]) -> list[float]:
    """How many times faster than theirs ours is, run by run."""
    return [b / a for a, b in zip(ours, theirs)]


def speed(name: str, taken: list[float]) -> str:
    """A name and its median images a second."""
    return f"{name} {N / median(taken):,.0f}"
