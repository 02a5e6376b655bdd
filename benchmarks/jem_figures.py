"""The joint energy model of digits against the same network trained plainly, and its guard.

Both see the same digits, moved by up to a pixel and blurred by N(0, τ²), and both are averages over the same number of
steps. What differs is the weight of −log p(x) in the loss. It and all else were chosen on validation digits. The blur
alone makes a network harder to mislead, so the comparison is made at two of them: τ = 0.1, and τ = 0.2 in the note.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import process_time

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.harness import Measurement
from dgm_lib import datasets, runtime
from dgm_lib.datasets import Split
from dgm_lib.datasets.augmentation import shifted
from dgm_lib.measures import metrics, novelty
from dgm_lib.measures.calibration import expected_calibration_error, fit_temperature, negative_log_likelihood
from dgm_lib.measures.robustness import pgd
from dgm_lib.models.energy import EnergyModel
from dgm_lib.models.joint_energy import JointEnergyModel, LogitEnergy
from dgm_lib.nets import ConvEncoder
from dgm_lib.objective import adam
from dgm_lib.train import History, averaged, fit

SHAPE, K, THREADS = (1, 8, 8), 10, 1
BLUR, MORE_BLUR = 0.1, 0.2  # the density is one of blurred digits, on which chains can walk
EPOCHS, WEIGHT, RADIUS, ATTACK = 150, 0.1, 0.1, 50
WILD = 0.3  # a learning rate with which no run gets far


def blurred(levels: Tensor, blur: float) -> Tensor:
    x = shifted(datasets.core.scale(levels, 17))
    return (x + blur * torch.randn_like(x)).clamp(-3 * blur, 1 + 3 * blur)  # the walls of the chains, below


def joint_model(weight: float, blur: float) -> JointEnergyModel:
    """Chains at T = 1, five steps a batch; the step is half of the blur's variance, and the box holds what it adds."""
    density = EnergyModel(
        LogitEnergy(ConvEncoder(SHAPE, K)),
        SHAPE,
        n_chains=64,
        steps=5,
        step_size=blur**2 / 2,
        restart=0.02,
        box=(-3 * blur, 1 + 3 * blur),
    )
    return JointEnergyModel(density, K, weight=weight)


def trained(
    weight: float, seed: int, blur: float = BLUR, *, epochs: int = EPOCHS, rate: float = 2e-3, retries: int = 5
) -> tuple[JointEnergyModel, History]:
    """The model with its averaged weights; a weight of 0 is the same network trained plainly."""
    runtime.seed_everything(seed)
    model, split = joint_model(weight, blur), datasets.load("digits").train
    how = {"betas": (0.9, 0.99), "weight_decay": 0.01, "clip": 10.0}
    objective = adam(model.loss, model, rate, epochs=epochs, **how)
    average, batches = averaged(model, 0.98), split.batches(100, seed=seed, transform=partial(blurred, blur=blur))
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "run.pt"
        options = {"seed": seed, "ema": average, "checkpoint": kept, "retries": retries, "progress": False}
        history = fit(model, {"−log p": objective}, batches, epochs, **options)
    return average.module, history


# ---- four rulers ---------------------------------------------------------------------------------------------------


def unusual(split: Split, letters: Split) -> dict[str, Tensor]:
    """Inputs that are no digits, as many as the split has: (N, 1, 8, 8)."""
    x, generator = split.scaled(), torch.Generator().manual_seed(0)
    glyphs = avg_pool2d(letters.scaled()[letters.y >= 10][: len(x), :, 6:22, 6:22], 2)  # in the frame of the digits
    return {
        "noise": torch.randint(17, x.shape, generator=generator) / 16,
        "letters": (glyphs * 16).round() / 16,
        "turned by 90°": x.rot90(1, (2, 3)),
        "upside down": x.flip(2),
        "shuffled": x.flatten(1)[:, torch.randperm(64, generator=generator)].view_as(x),
    }


def scores_of(model: JointEnergyModel) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is high for unusual inputs. For a plain network, the energy is the logsumexp score of Liu et al. 2020."""
    return {"energy": model.energy, "confidence": lambda x: -model.posterior(x).amax(1)}


@torch.no_grad()
def auroc_of(score: Callable[[Tensor], Tensor], x: Tensor, others: dict[str, Tensor]) -> dict[str, float]:
    return {name: novelty.auroc(score(x), score(other)) for name, other in others.items()}


def judged(model: JointEnergyModel, split: Split, others: dict[str, Tensor], score: str, tuned: float) -> dict:
    """Accuracy, calibration error (also at a temperature `tuned`), AUROC and accuracy under attack, as shares."""
    x, y = split.scaled(), split.y
    with torch.no_grad():
        logits = model(x)
        attacked = model(pgd(model, x, y, RADIUS, steps=ATTACK)).argmax(1) == y
    return {
        "accuracy": (logits.argmax(1) == y).float().mean().item(),
        "−log p(y|x)": negative_log_likelihood(logits, y).mean().item(),
        "ECE": expected_calibration_error(logits, y),
        "ECE, tempered": expected_calibration_error(logits / tuned, y),
        "AUROC": mean(auroc_of(scores_of(model)[score], x, others).values()),
        "PGD": attacked.float().mean().item(),
    }


def chosen(model: JointEnergyModel, split: Split, others: dict[str, Tensor]) -> tuple[str, float]:
    """The better score and the temperature of the softmax, by validation digits."""
    found = {name: mean(auroc_of(f, split.scaled(), others).values()) for name, f in scores_of(model).items()}
    with torch.no_grad():
        return max(found, key=found.get), fit_temperature(model(split.scaled()), split.y)


def compared(seed: int, blur: float = BLUR, on: str = "test") -> tuple[dict, dict]:
    """The rows of the plain network and of the joint model, on a split of the digits."""
    digits, glyphs = datasets.load("digits"), datasets.load("glyphs")
    held = unusual(digits.validation, glyphs.validation)
    split, others = getattr(digits, on), unusual(getattr(digits, on), getattr(glyphs, on))
    rows = []
    for weight in (0.0, WEIGHT):
        started = process_time()
        model, history = trained(weight, seed, blur)
        seconds = process_time() - started
        row = judged(model, split, others, *chosen(model, digits.validation, held))
        rows.append(row | {"CPU seconds": seconds, "restarts": history.restarts})
    return rows[0], rows[1]


def in_words(pairs: list[tuple[dict, dict]]) -> tuple[str, bool]:
    """Medians over seeds of both rows, and whether the joint model is better at no more than a point of accuracy."""
    plain, joint = ({name: median(row[name] for row in rows) for name in rows[0]} for rows in zip(*pairs))
    better = joint["ECE"] < plain["ECE"] and joint["AUROC"] > plain["AUROC"] and joint["PGD"] > plain["PGD"]
    found = "; ".join(f"{name} {joint[name]:.4g} against {plain[name]:.4g}" for name in joint)
    return found, better and joint["accuracy"] >= plain["accuracy"] - 0.01


def jem_vs_plain(runs: int) -> Measurement:
    """Accuracy under attack of the joint model less that of the plain network, in points; the rest in the note."""
    torch.set_num_threads(THREADS)
    pairs, blurrier = ([compared(seed, blur) for seed in range(runs)] for blur in (BLUR, MORE_BLUR))
    found, holds = in_words(pairs)
    note = f"medians of the joint model against the plain network: {found}. With a blur of {MORE_BLUR:g} for both: "
    return Measurement(
        [100 * (joint["PGD"] - plain["PGD"]) for plain, joint in pairs],
        range(runs),
        note + in_words(blurrier)[0],
        holds=holds,
    )


# ---- the guard -----------------------------------------------------------------------------------------------------


def divergence_guard(runs: int) -> Measurement:
    """Times that a run with a learning rate far too large went back; holds if each did, finished, and reads digits."""
    torch.set_num_threads(THREADS)
    digits, restarts, right = datasets.load("digits"), [], []
    for seed in range(runs):
        model, history = trained(WEIGHT, seed, epochs=30, rate=WILD, retries=12)
        restarts.append(history.restarts)
        right.append(metrics.accuracy(model, digits.validation.batches(500)))
    note = (
        f"learning rate {WILD:g}, 30 epochs, all finished; right on {min(right):.1%} of the validation digits or more"
    )
    return Measurement(restarts, range(runs), note, holds=min(restarts) >= 1 and min(right) >= 0.9)
