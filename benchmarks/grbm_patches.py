"""A Boltzmann machine with Gaussian visible units on patches of drawn pictures, against one full Gaussian.

The patches are grey, 8×8, and whitened: the Gaussian then is N(0, I), which is where the machine begins, so that all it
can gain is what is not Gaussian. log Z is exact, and training follows the exact gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Adam

from benchmarks.harness import Measurement
from dgm_lib import datasets
from dgm_lib.datasets import Split
from dgm_lib.distributions import StandardNormal
from dgm_lib.models.rbm import RBM, GaussianUnits
from dgm_lib.train import Objective, fit

HIDDEN, RATE, BATCH, EPOCHS = 12, 1e-2, 250, 40
SIGMAS = 1.0, 0.98, 0.96, 0.94  # of which the validation patches choose


def whitened() -> tuple[Split, Split, Split]:
    """Train, validation and test: rows with mean 0 and covariance I on the training rows; grey levels are spread."""
    data = datasets.load("patches", size=8)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for part in (data.train, data.validation, data.test):
        grey = part.scaled().mean(1).flatten(1)  # thirds of a level: three colours were added
        rows.append((grey + torch.rand(grey.shape, generator=generator) / (3 * data.levels)).double())
    mu, covariance = rows[0].mean(0), rows[0].T.cov()
    variances, directions = torch.linalg.eigh(covariance)
    map_ = directions / variances.sqrt()
    return tuple(Split(((x - mu) @ map_).float(), torch.zeros(len(x), dtype=torch.int64)) for x in rows)


def machine(split: Split, sigma: float, seed: int) -> RBM:
    torch.manual_seed(seed)
    model = RBM(GaussianUnits(split.x.shape[1], sigma), HIDDEN)
    with torch.no_grad():
        model.weight.mul_(10)
        model.hidden_bias.fill_(-2)  # a unit that is seldom on can be a tail
    objective = Objective(lambda x, y: -model.log_prob(x).mean(), Adam(model.parameters(), RATE))
    fit(model, {"-log p": objective}, split.batches(BATCH, seed=seed), EPOCHS, seed=seed, progress=False)
    return model


@torch.no_grad()
def gain(model: RBM, x: Tensor) -> float:
    """Mean log p(x) less that of N(0, I), in nats a patch: the whitening cancels."""
    return (model.log_prob(x) - StandardNormal(x.shape[1]).log_prob(x)).mean().item()


def measure(runs: int) -> Measurement:
    train, validation, test = whitened()
    values, chosen = [], []
    for seed in range(runs):
        models = [machine(train, sigma, seed) for sigma in SIGMAS]
        best = max(models, key=lambda model: gain(model, validation.x))
        values.append(gain(best, test.x))
        chosen.append(best.visible.sigma)
    with torch.no_grad():
        gaussian = StandardNormal(test.x.shape[1]).log_prob(test.x).mean().item()
    note = f"{HIDDEN} hidden units, exact log Z; sigma by validation: {', '.join(f'{s:g}' for s in chosen)}; "
    note += f"the Gaussian has {gaussian:.1f} nats on the whitened test patches"
    return Measurement(values, range(runs), note)
