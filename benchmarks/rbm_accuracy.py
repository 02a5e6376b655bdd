"""Restricted Boltzmann machines against what is exact: AIS and gradients by enumeration; and their log p on MNIST."""

from __future__ import annotations

import sys
from statistics import mean, median
from time import perf_counter

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LinearLR

from benchmarks.harness import Measurement
from dgm_lib import datasets
from dgm_lib.datasets import Split
from dgm_lib.datasets.published import DataError
from dgm_lib.models.rbm import RBM, BinaryUnits, every_state
from dgm_lib.train import Objective, averaged, fit

# ---- AIS against enumeration ---------------------------------------------------------------------------------------

REPEATS = 50


def machine_of_digits(n_hidden: int, seed: int, epochs: int = 60) -> RBM:
    """A machine that has learnt the binarised digits for a while, by persistent contrastive divergence."""
    train = datasets.load("digits").train
    split = Split((train.scaled() > 0.5).byte(), train.y, levels=2)
    torch.manual_seed(seed)
    model = RBM.start(BinaryUnits((1, 8, 8)), n_hidden, split.scaled(), n_chains=100)
    objective = Objective(model.loss, SGD(model.parameters(), 0.1))
    fit(model, {"-log p": objective}, split.batches(50, seed=seed), epochs, seed=seed)
    return model


@torch.no_grad()
def ais_error(runs: int) -> Measurement:
    """The largest |AIS − exact| of REPEATS repeats; run k is a machine with 16 + k mod 5 hidden units and seed k."""
    largest, covered = [], []
    for seed in range(runs):
        with torch.enable_grad():
            model = machine_of_digits(16 + seed % 5, seed)
        exact = float(model.log_z())
        estimates = [model.ais() for _ in range(REPEATS)]
        largest.append(max(abs(float(estimate.value) - exact) for estimate in estimates))
        covered.append(mean(estimate.low <= exact <= estimate.high for estimate in estimates))
    note = (
        f"the 95 % interval covers in {mean(covered):.1%} of {runs * REPEATS} repeats, {min(covered):.0%} in the worst "
    )
    note += f"run of {REPEATS}"
    holds = max(largest) <= 0.2 and mean(covered) >= 0.9
    return Measurement(largest, range(runs), note, holds=holds, summary=max)


# ---- gradient against enumeration ----------------------------------------------------------------------------------


def exact_gradient(model: RBM, x: Tensor) -> list[Tensor]:
    """∇ of the mean log p(x), x (B, D), for W, b and c: ⟨v hᵀ⟩, ⟨v⟩ and ⟨h⟩ of the data less those of p(v, h)."""
    v, h = (torch.cat(list(every_state(n, model.weight))) for n in model.weight.shape)
    log_joint = (v @ model.visible_bias)[:, None] + h @ model.hidden_bias + v @ model.weight @ h.T  # (2^D, 2^H)
    p = log_joint.flatten().softmax(0).view_as(log_joint)
    p_h = torch.sigmoid(model.hidden_bias + x @ model.weight)
    return [
        x.T @ p_h / len(x) - v.T @ p @ h,
        x.mean(0) - v.T @ p.sum(1),
        p_h.mean(0) - p.sum(0) @ h,
    ]


def gradient_error(runs: int) -> Measurement:
    """|autograd − enumeration| / |enumeration|, in float32 against float64, the largest of W, b and c."""
    errors = []
    for seed in range(runs):
        torch.manual_seed(seed)
        model = RBM(BinaryUnits(10), 8)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        x = torch.randint(2, (50, 10)).float()
        model.log_prob(x).mean().backward()
        gradients = [parameter.grad.double() for parameter in (model.weight, model.visible_bias, model.hidden_bias)]
        with torch.no_grad():
            exact = exact_gradient(model.double(), x.double())
        errors.append(max(float((a - b).norm() / b.norm()) for a, b in zip(gradients, exact)))
    return Measurement(errors, range(runs), "10 visible and 8 hidden units with standard normal weights", summary=max)


# ---- MNIST ---------------------------------------------------------------------------------------------------------

HIDDEN, BATCH, CHAINS, RATE, EPOCHS, DECAY = 500, 100, 100, 0.05, 100, 0.9995  # chosen on the validation images
STEPS, AIS_CHAINS = 20_000, 500


def binarised_mnist() -> tuple[Split, Tensor, Tensor]:
    """Images whose pixels are drawn once, each a 1 with its grey value as probability: train, validation, test.

    Salakhutdinov & Murray 2008. Ends with a sentence that says how to get MNIST where it is missing.
    """
    try:
        data = datasets.load("mnist")
    except DataError as error:
        sys.exit(f"This figure needs MNIST, and the course does not: {error}")
    generator = torch.Generator().manual_seed(0)
    parts = data.train, data.validation, data.test
    x = [(torch.rand(part.x.shape, generator=generator) < part.scaled()).byte() for part in parts]
    return Split(x[0], data.train.y, levels=2), x[1].float(), x[2].float()


def machine_of_mnist(split: Split, seed: int) -> RBM:
    """The average over the last epochs of persistent contrastive divergence, its learning rate falling to almost 0.

    The chains make the weights swing; their average is nats better than the last of them.
    """
    torch.manual_seed(seed)
    model = RBM.start(BinaryUnits(split.x.shape[1:]), HIDDEN, split.scaled(), n_chains=CHAINS)
    optimizer = SGD(model.parameters(), RATE, fused=True)
    objective = Objective(model.loss, optimizer, scheduler=LinearLR(optimizer, 1, 1 / EPOCHS, EPOCHS))
    average = averaged(model, DECAY)
    fit(model, {"-log p": objective}, split.batches(BATCH, seed=seed), EPOCHS, seed=seed, ema=average)
    return average.module


def mnist_ais(runs: int) -> Measurement:
    """Mean log p of the test images by AIS; a second AIS of half as many steps says how far it can be trusted."""
    split, _, test = binarised_mnist()
    values, minutes, apart, widths, shares = [], [], [], [], []
    for seed in range(runs):
        start = perf_counter()
        model = machine_of_mnist(split, seed)
        coarse, fine = model.ais(steps=STEPS // 2, n_chains=AIS_CHAINS), model.ais(steps=STEPS, n_chains=AIS_CHAINS)
        with torch.no_grad():
            values.append(float(model.log_prob(test, fine.value).mean()))
        minutes.append((perf_counter() - start) / 60)
        apart.append(abs(float(fine.value - coarse.value)))
        widths.append((fine.high - fine.low) / 2)
        shares.append(fine.effective_chains / AIS_CHAINS)
    note = (
        f"{median(minutes):.1f} minutes a run with {torch.get_num_threads()} threads; AIS of {STEPS:,} steps at most "
    )
    note += (
        f"± {max(widths):.2f}, at most {max(apart):.2f} nats from one of half as many, chains worth ≥ {min(shares):.0%}"
    )
    return Measurement(values, range(runs), note, holds=median(values) >= -92 and max(minutes) <= 20)
