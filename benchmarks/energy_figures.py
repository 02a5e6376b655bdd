"""Deep energy models: densities in the plane against the truth, samples of digits, and unusual inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import Measurement
from dgm_lib import datasets, plots, runtime
from dgm_lib.datasets import Data
from dgm_lib.measures import metrics, novelty
from dgm_lib.measures.two_sample import frechet_distance
from dgm_lib.models.baselines import NaiveBayes
from dgm_lib.models.energy import EnergyModel, NoiseContrast, ReconstructionEnergy, denoising_score_matching
from dgm_lib.models.mixtures import GaussianMixture
from dgm_lib.nets import MLP, ConvEncoder
from dgm_lib.objective import adam
from dgm_lib.train import averaged, fit

# ---- densities in the plane ----------------------------------------------------------------------------------------

Energy = Callable[[Tensor], Tensor]
EPOCHS = 80


def maximum_likelihood(data: Data, seed: int) -> Energy:
    """Langevin chains that may jump to draws of a wide Gaussian, so that they reach every mode."""
    law = GaussianMixture.fit(data.train.x, 1).requires_grad_(False)
    model = EnergyModel(plane_net(), (2,), n_chains=500, steps=10, step_size=0.005, restart=0.0, jump=law)
    train(model, model.loss, data, seed)
    return model.energy


def score_matching(data: Data, seed: int) -> Energy:
    """Denoising, with noise that falls from 1 to 0.1: the wide noise tells how much mass each mode has."""
    net, state = plane_net(), {"sigma": 1.0}

    def energy(x: Tensor) -> Tensor:
        return net(x).squeeze(1)

    def narrower() -> None:
        state["sigma"] = max(0.1, state["sigma"] * 0.1 ** (1 / (0.9 * EPOCHS)))

    train(net, lambda x, y: denoising_score_matching(energy, x, state["sigma"]).mean(), data, seed, narrower)
    return energy


def noise_contrast(data: Data, seed: int) -> Energy:
    """Against one Gaussian with the mean and covariance of the data."""
    model = NoiseContrast(plane_net(), GaussianMixture.fit(data.train.x, 1).requires_grad_(False))
    train(model, model.loss, data, seed)
    return model.energy


def plane_net() -> nn.Module:
    return MLP(2, 64, 64, 64, 1)


def train(
    model: nn.Module, loss: Callable[..., Tensor], data: Data, seed: int, on_epoch: Callable[[], None] | None = None
) -> None:
    objective = adam(loss, model, 5e-3, epochs=EPOCHS)
    fit(model, {"loss": objective}, data.train.batches(500, seed=seed), EPOCHS, seed=seed, on_epoch=on_epoch)


def density_kl(runs: int) -> Measurement:
    """KL(data ‖ model) on a grid, the worst of two data sets and three ways to train, a run a seed."""
    points, cell = plots.plane_grid(6.0, 300)
    found: dict[str, list[float]] = {}
    for seed in range(runs):
        for name in ("two_moons", "eight_gaussians"):
            data = datasets.load(name, n=20_000, seed=seed)
            for method in (maximum_likelihood, score_matching, noise_contrast):
                runtime.seed_everything(seed)
                energy = method(data, seed)
                kl = metrics.kl_on_grid(data.log_prob, lambda x, energy=energy: -energy(x), points, cell)
                found.setdefault(f"{method.__name__.replace('_', ' ')}, {name.replace('_', ' ')}", []).append(kl)
    note = "; ".join(f"{name} {median(values):.3f} (at most {max(values):.3f})" for name, values in found.items())
    return Measurement([max(values) for values in zip(*found.values())], range(runs), note, summary=max)


# ---- digits --------------------------------------------------------------------------------------------------------

BLUR = 0.15  # the model is one of digits with so much noise, which a chain can walk on


def digits_model(seed: int) -> EnergyModel:
    """Half a minute of maximum likelihood; the settings were chosen on the validation digits."""
    net = ReconstructionEnergy(MLP(64, 512, (1, 8, 8)), sigma=0.2)
    return train_digits(
        EnergyModel(net, (1, 8, 8), n_chains=100, steps=5, step_size=0.01, restart=0.005, box=(-1.0, 2.0)), seed, 400
    )


def cold_model(seed: int) -> EnergyModel:
    """As published notebooks have it: 20 steps of size 1 from fresh noise, with σ = 0.01, so T = σ²/2η = 0.00005."""
    net = MLP(64, 256, 256, 1, activation=nn.ELU)
    settings = {"step_size": 1.0, "temperature": 5e-5, "restart": 1.0, "penalty": 0.1}
    return train_digits(EnergyModel(net, (1, 8, 8), n_chains=100, steps=20, box=(-1.0, 2.0), **settings), seed, 100)


def train_digits(model: EnergyModel, seed: int, epochs: int) -> EnergyModel:
    """The model with its averaged weights."""
    digits = datasets.load("digits")
    how = {"betas": (0.5, 0.999), "weight_decay": 0.1, "clip": 10.0}
    objective = adam(model.loss, model, 1e-3, epochs=epochs, **how)
    average = averaged(model, 0.99)
    batches = digits.train.batches(100, seed=seed, transform=blurred)
    fit(model, {"-log p": objective}, batches, epochs, seed=seed, ema=average)
    return average.module


def blurred(levels: Tensor) -> Tensor:
    x = datasets.core.scale(levels, 17)
    return x + BLUR * torch.randn_like(x)


def repaired(model: EnergyModel, x: Tensor) -> Tensor:
    """E[clean | blurred] = x + s² ∇log p(x), an exact identity for the true density. Efron 2011, eq. 2.8."""
    return (x + BLUR**2 * model.score(x)).clamp(0, 1)


class Judge(nn.Module):
    """A classifier of digits, trained with shifts by one pixel; its last hidden layer is the space of features."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(ConvEncoder((1, 8, 8), 32), nn.SiLU()), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        down, right = torch.randint(3, (2,)).tolist()
        return F.cross_entropy(self(F.pad(x, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]), y)

    def entropy(self, x: Tensor) -> float:
        """Of the classes that it sees in x, in nats."""
        with torch.no_grad():
            return metrics.class_entropy(self(x).argmax(1), 10)

    def distance(self, x: Tensor, reference: Tensor) -> float:
        with torch.no_grad():
            return frechet_distance(self.body(x), self.body(reference))


def judge() -> Judge:
    runtime.seed_everything(0)
    model = Judge()
    fit(
        model,
        {"ce": adam(model.loss, model, 1e-3)},
        datasets.load("digits").train.batches(100),
        60,
    )
    return model


def digits_frechet(runs: int) -> Measurement:
    """Fréchet distance of as many samples as there are test digits, beside real ones and other models."""
    digits, critic = datasets.load("digits"), judge()
    test, n = digits.test.scaled(), len(digits.test)
    control = critic.distance(digits.train.scaled()[:n], test)
    naive = NaiveBayes.fit(digits.train.scaled(), digits.train.y, 17, 10)
    ours, cold, simple, entropies, cold_entropies, seconds = [], [], [], [], [], []
    for seed in range(runs):
        runtime.seed_everything(seed)
        started = perf_counter()
        model = digits_model(seed)
        seconds.append(perf_counter() - started)
        samples = repaired(model, model.sample(n))
        ours.append(critic.distance(samples, test))
        entropies.append(critic.entropy(samples))
        simple.append(critic.distance(naive.sample(n), test))
        bad = cold_model(seed).sample(n, steps=20).clamp(0, 1)
        cold.append(critic.distance(bad, test))
        cold_entropies.append(critic.entropy(bad))
    note = (
        f"training digits against test digits {control:.0f}; naive Bayes {median(simple):.0f}; cold chains from noise "
        f"{median(cold):.0f}, class entropy {median(cold_entropies):.2f}; ours: class entropy at least "
        f"{min(entropies):.2f} nats, training {median(seconds):.0f} s"
    )
    return Measurement(ours, range(runs), note, holds=min(entropies) >= 2.0)


def letters(split: datasets.Split, n: int) -> Tensor:
    """Capital letters of `glyphs` in the frame of the digits: 8×8, 17 levels."""
    x = split.scaled()[split.y >= 10][:n, :, 6:22, 6:22]
    return (F.avg_pool2d(x, 2) * 16).round() / 16


def shifts(x: Tensor, split: datasets.Split) -> dict[str, Tensor]:
    """Inputs that are no digits, as many as x, (N, 1, 8, 8)."""
    return {
        "noise": torch.randint(17, x.shape) / 16,
        "letters": letters(split, len(x)),
        "rotated by 90°": x.rot90(1, (2, 3)),
        "upside down": x.flip(2),
    }


def ood_auroc(runs: int) -> Measurement:
    """AUROC of the energy on the test digits, mean of noise, letters and rotated digits; mirrored ones in the note."""
    digits, glyphs = datasets.load("digits"), datasets.load("glyphs")
    train_x, test = digits.train.scaled(), digits.test.scaled()
    scores: list[dict[str, float]] = []
    for seed in range(runs):
        runtime.seed_everything(seed)
        unusual = shifts(test, glyphs.test)
        neighbours = table(lambda x: novelty.nearest_distance(train_x, x), test, unusual)
        model = digits_model(seed)
        with torch.no_grad():
            scores.append(table(model.energy, test, unusual))
    ours = [mean([row[name] for name in THREE]) for row in scores]
    theirs = mean([neighbours[name] for name in THREE])
    each = ", ".join(
        f"{name} {median([row[name] for row in scores]):.3f} (nearest neighbour {neighbours[name]:.3f})"
        for name in neighbours
    )
    better = "better" if median(ours) >= theirs else "not better"
    note = f"{each}; {better} than the nearest neighbour, whose mean of the first three is {theirs:.4f}"
    return Measurement(ours, range(runs), note)


THREE: Sequence[str] = ("noise", "letters", "rotated by 90°")


def table(score: Callable[[Tensor], Tensor], usual: Tensor, unusual: dict[str, Tensor]) -> dict[str, float]:
    return {name: novelty.auroc(score(usual), score(x)) for name, x in unusual.items()}
