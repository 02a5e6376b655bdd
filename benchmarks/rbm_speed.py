"""Our RBM through `fit` against scikit-learn's, in images a second, and what both have learnt by then.

Both run persistent contrastive divergence with one Gibbs step on the same images, in float32, with the same size of
batch, number of chains, learning rate and size of first weights. Each starts as its users start it: scikit-learn's with
biases of 0, ours by `RBM.start` on a tenth of the images. The exact pseudo-likelihood of images that neither has seen
says what the time was worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median
from time import perf_counter

import torch
from sklearn.neural_network import BernoulliRBM
from torch import Tensor
from torch.optim import SGD

from benchmarks.harness import Measurement, alternate
from dgm_lib import datasets
from dgm_lib.datasets import Split
from dgm_lib.models.rbm import RBM, BinaryUnits
from dgm_lib.train import Objective, fit

HIDDEN, BATCH, RATE, EPOCHS, THREADS = 500, 100, 0.01, 3, 2


def binary_glyphs() -> tuple[Split, Tensor]:
    """20,000 drawn characters of 28×28 pixels 0 or 1, to train on, and 2,000 more as floats."""
    data = datasets.load("glyphs")
    x = (data.train.scaled() > 0.5).byte()
    return Split(x, data.train.y, levels=2), (data.test.scaled() > 0.5).float()


def ours(split: Split, seed: int) -> tuple[RBM, float]:
    """A new machine after EPOCHS epochs of `fit`, and the seconds that all of it took."""
    torch.manual_seed(seed)
    start = perf_counter()
    model = RBM.start(BinaryUnits(split.x.shape[1:]), HIDDEN, split.take(slice(0, 2000)).scaled(), n_chains=BATCH)
    objective = Objective(model.loss, SGD(model.parameters(), RATE, fused=True))
    fit(model, {"-log p": objective}, split.batches(BATCH, seed=seed), EPOCHS, seed=seed, progress=False)
    return model, perf_counter() - start


def theirs(split: Split, seed: int) -> tuple[RBM, float]:
    """The same of scikit-learn, and its weights in a machine of ours."""
    x = split.scaled().flatten(1).numpy()
    reference = BernoulliRBM(HIDDEN, learning_rate=RATE, batch_size=BATCH, n_iter=EPOCHS, random_state=seed)
    start = perf_counter()
    reference.fit(x)
    taken = perf_counter() - start
    return copied(reference, split.x.shape[1:]), taken


def copied(reference: BernoulliRBM, shape: Sequence[int]) -> RBM:
    """A machine of ours with the weights of a fitted one of scikit-learn's."""
    weight = torch.from_numpy(reference.components_.T)
    model = RBM(BinaryUnits(shape), weight.shape[1]).to(weight)
    model.weight.data.copy_(weight)
    model.visible_bias.data.copy_(torch.from_numpy(reference.intercept_visible_))
    model.hidden_bias.data.copy_(torch.from_numpy(reference.intercept_hidden_))
    return model


def measure(runs: int) -> Measurement:
    """scikit-learn's seconds over ours; holds at a median ≥ 1.55 with no worse pseudo-likelihood."""
    torch.set_num_threads(THREADS)
    split, held_out = binary_glyphs()
    mine, other = Contestant(ours, split, held_out), Contestant(theirs, split, held_out)
    taken, others = alternate(runs, mine.seconds, other.seconds)
    ratios = [b / a for a, b in zip(taken, others)]
    nats, other_nats = (mean(each.learnt.values()) for each in (mine, other))
    n = EPOCHS * len(split)
    note = f"{n / median(taken):,.0f} and {n / median(others):,.0f} images/s; pseudo-likelihood of held-out images "
    note += f"{nats:.2f} and {other_nats:.2f} nats after {EPOCHS} epochs"
    return Measurement(ratios, range(runs), note, holds=median(ratios) >= 1.55 and nats >= other_nats)


class Contestant:
    """One side: how long it trains, and for each seed the mean pseudo-likelihood that it reaches, in nats."""

    def __init__(self, train: Callable[[Split, int], tuple[RBM, float]], split: Split, held_out: Tensor):
        self.train, self.split, self.held_out = train, split, held_out
        self.learnt: dict[int, float] = {}

    def seconds(self, seed: int) -> float:
        model, taken = self.train(self.split, seed)
        with torch.no_grad():
            self.learnt[seed] = float(model.pseudo_log_likelihood(self.held_out).mean())
        return taken
