"""How far the small CNN of notebook 09 comes that is told of gaps, if it is trained for longer than there is time for.

Digits with half of the pixels missing at random, under the notebook's five masks. The network, its masks in training
and its rate are the notebook's; only the number of epochs is another.
"""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.classify_figures import THREADS, K, beside, in_words, wrong
from benchmarks.harness import Measurement
from dgm_lib import datasets
from dgm_lib.datasets import Split
from dgm_lib.models.classify import Classifier
from dgm_lib.objective import adam
from dgm_lib.train import fit

WIDTH, MASKS, SHORT, LONG = 32, 5, 100, 300


def block(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.SiLU()]


def network() -> Classifier:
    layers = [*block(2, WIDTH), *block(WIDTH, 2 * WIDTH), nn.MaxPool2d(2), *block(2 * WIDTH, 2 * WIDTH)]
    layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8 * WIDTH, K)]
    return Classifier(nn.Sequential(*layers), K)


def trained(split: Split, epochs: int, seed: int) -> Classifier:
    """Sees fresh gaps in each batch, between 20 and 80 % of the pixels of an image."""
    torch.manual_seed(seed)
    model = network()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        share = 0.2 + 0.6 * torch.rand(len(x), 1, 1, 1)
        return model.loss(beside(x, torch.rand_like(x) > share), y)

    objective = adam(loss, model, 4e-3, epochs=epochs, weight_decay=0.05)
    fit(model, {"-log p(y|x)": objective}, split.batches(100, seed=seed), epochs, seed=seed, progress=False)
    return model.eval().requires_grad_(False)


def masks(x: Tensor) -> list[Tensor]:
    """The notebook's: True where a pixel is known."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(x.shape, generator=generator) > 0.5 for _ in range(MASKS)]


def measure(runs: int) -> Measurement:
    """Error in % on test digits after 300 epochs, and beside it after the 100 of the notebook."""
    torch.set_num_threads(THREADS)
    data = datasets.load("digits")
    x, y = data.test.scaled(), data.test.y
    found: dict[int, list[Tensor]] = {SHORT: [], LONG: []}
    for seed in range(runs):
        for epochs, costs in found.items():
            model = trained(data.train, epochs, seed)
            costs.append(torch.stack([wrong(model(beside(x, known)), y) for known in masks(x)]).mean(0))
    values = {epochs: [each.mean().item() for each in costs] for epochs, costs in found.items()}
    note = f"{in_words(torch.stack(found[LONG]).mean(0))}, interval over test images; after {SHORT} epochs "
    note += f"{median(values[SHORT]):.1f} % ({min(values[SHORT]):.1f}–{max(values[SHORT]):.1f})"
    return Measurement(values[LONG], range(runs), note, holds=True)
