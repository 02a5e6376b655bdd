"""Langevin steps a second of ours against torchebm's, with the same network, batch, start and number of steps.

torchebm is used as its documentation shows: the energy as a BaseModel, the sampler LangevinDynamics. It comes from the
package index into a folder of its own in the cache, without what it depends on, so that both run on the torch that is
here. Before any time is taken, both must draw the same law on a Gaussian energy: torchebm's noise_scale 1 is our T = 1.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from benchmarks.harness import Measurement, alternate
from dgm_lib.datasets.paths import cache_folder
from dgm_lib.models.energy import EnergyModel

VERSION = "0.8.9"
BATCH, THREADS, STEP_SIZE = 128, 2, 1e-4

Chain = Callable[[], Tensor]
Sampler = Callable[[nn.Module, Tensor, int, float], Chain]  # (net, start, steps, step_size) -> what runs the chain


@dataclass(frozen=True)
class Case:
    """A network (B, *shape) -> (B, 1) that is the energy, and how many steps are timed."""

    name: str
    net: Callable[[], nn.Module]
    shape: tuple[int, ...]
    steps: int


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1),  # (B, 32, 14, 14)
        nn.SiLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),  # (B, 64, 7, 7)
        nn.SiLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),  # (B, 64, 4, 4)
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 1),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1))


CASES = Case("conv net on 28×28", conv_net, (1, 28, 28), 100), Case("MLP on 2-D", mlp, (2,), 2000)


# ---- the two -------------------------------------------------------------------------------------------------------


def ours(net: nn.Module, x: Tensor, steps: int, step_size: float) -> Chain:
    model = EnergyModel(net, x.shape[1:], step_size=step_size)
    return lambda: model.walk(x, steps)


def theirs(net: nn.Module, x: Tensor, steps: int, step_size: float) -> Chain:
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Energy(BaseModel):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).squeeze(-1)

    sampler = LangevinDynamics(model=Energy(), step_size=step_size, noise_scale=1.0)
    return lambda: sampler.sample(x=x, n_steps=steps)


def theirs_prepared(net: nn.Module, x: Tensor, steps: int, step_size: float) -> Chain:
    """torchebm with a network as EnergyModel prepares it: channels last, parameters frozen."""
    return theirs(deepcopy(net).to(memory_format=torch.channels_last).requires_grad_(False), x, steps, step_size)


def install() -> None:
    """Puts torchebm on the path, downloading it once. Raises RuntimeError where that fails."""
    folder = cache_folder() / f"torchebm-{VERSION}"
    if not (folder / "torchebm" / "__init__.py").exists():
        download(folder)
    sys.path.append(str(folder))  # at the end: nothing of ours is hidden
    found = importlib.import_module("torchebm").__version__
    if found != VERSION:
        raise RuntimeError(f"torchebm {found} is on the path before {VERSION}: uninstall it from this environment")


def download(folder: Path) -> None:
    what = ["--no-deps", "--no-input", "--disable-pip-version-check", "--target", str(folder), f"torchebm=={VERSION}"]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *what], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise RuntimeError(
            f"torchebm {VERSION} could not be downloaded, which this figure needs once (150 kB): run it again with a "
            f"network, or with PIP_INDEX_URL set to a mirror. pip said: {last}"
        )


class Bowl(nn.Module):
    """E(x) = |x|²/2, whose density is N(0, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1, keepdim=True)


def check_law(name: str, sampler: Sampler) -> None:
    """Raises RuntimeError unless the chains on N(0, 1) have the variance 1 / (1 − η/2), up to 5 standard errors."""
    torch.manual_seed(0)
    n, eta = 20_000, 0.2
    x = sampler(Bowl(), torch.zeros(n, 10), 60, eta)()
    exact, found = 1 / (1 - eta / 2), x.square().mean().item()
    if abs(found - exact) > 5 * exact * sqrt(2 / x.numel()):
        raise RuntimeError(f"{name} has the variance {found:.4f} on a Gaussian where Langevin has {exact:.4f}")


# ---- the measurement -----------------------------------------------------------------------------------------------


def seconds(sampler: Sampler, case: Case, seed: int) -> float:
    """How long a chain of `case.steps` steps takes, with the network and the start that follow from the seed."""
    torch.manual_seed(seed)
    net, x = case.net(), torch.rand(BATCH, *case.shape)
    run = sampler(net, x, case.steps, STEP_SIZE)
    start = perf_counter()
    run()
    return perf_counter() - start


def measure(runs: int) -> Measurement:
    """How many times faster we are, on the network where that is less."""
    torch.set_num_threads(THREADS)
    install()
    check_law("ours", ours)
    check_law("torchebm", theirs)
    samplers = ours, theirs, theirs_prepared
    turns = [lambda seed, s=s, case=case: seconds(s, case, seed) for case in CASES for s in samplers]
    taken = alternate(runs, *turns)
    ratios, notes = [], []
    for case, (mine, other, prepared) in zip(CASES, (taken[:3], taken[3:])):
        ratios.append([b / a for a, b in zip(mine, other)])
        speeds = [f"{case.steps / median(taken):,.0f}" for taken in (mine, other)]
        helped = median([b / a for a, b in zip(mine, prepared)])
        notes.append(
            f"{case.name}: {' and '.join(speeds)} steps/s, {median(ratios[-1]):.2f} ×, {helped:.2f} × where torchebm "
            "is given the network frozen and channels last, as we have it"
        )
    return Measurement(min(ratios, key=median), range(runs), "; ".join(notes))
