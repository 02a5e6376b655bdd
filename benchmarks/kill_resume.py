"""A training that is killed at a random moment and resumed, against the same one unbroken: equal to the last bit?

As a script, `python -m benchmarks.kill_resume KIND FILE`, this is the training that is to be killed. Each kind writes a
checkpoint an epoch, has a schedule and a running average, and retries; one has two players, one has chains as a buffer.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

from benchmarks.harness import ROOT, Measurement
from dgm_lib.datasets import Split
from dgm_lib.distributions import StandardNormal
from dgm_lib.models.energy import EnergyModel
from dgm_lib.models.gan import GAN
from dgm_lib.nets import MLP
from dgm_lib.train import Objective, averaged, fit

EPOCHS, WIDTH = 40, 128


def player(loss: Callable, net: nn.Module, every: int = 1) -> Objective:
    """Adam whose rate rises, then falls."""
    adam = Adam(net.parameters(), 1e-3)
    schedule = SequentialLR(adam, [LinearLR(adam, 0.1, total_iters=5), CosineAnnealingLR(adam, EPOCHS)], [5])
    return Objective(loss, adam, every=every, clip=10.0, scheduler=schedule)


def one_player() -> tuple[nn.Module, dict[str, Objective]]:
    """A regression; its schedule is a closure."""
    net = nn.Sequential(MLP(2, WIDTH, WIDTH), nn.Dropout(0.1), nn.Linear(WIDTH, 1))
    adam = Adam(net.parameters(), 1e-2)
    schedule = LambdaLR(adam, lambda epoch: 1 / (1 + epoch))
    return net, {"error": Objective(lambda x, y: (net(x) - x).square().mean(), adam, scheduler=schedule)}


def two_players() -> tuple[nn.Module, dict[str, Objective]]:
    gan = GAN(MLP(2, WIDTH, 2), MLP(2, WIDTH, 1), StandardNormal(2))
    return gan, {
        "critic": player(gan.critic_loss, gan.critic),
        "generator": player(gan.generator_loss, gan.generator, 3),
    }


def chains() -> tuple[nn.Module, dict[str, Objective]]:
    model = EnergyModel(MLP(2, WIDTH, 1), (2,), n_chains=64, steps=3, step_size=0.05, penalty=0.1)
    return model, {"contrast": player(model.loss, model)}


KINDS = {"one player": one_player, "two players": two_players, "chains": chains}


def train(kind: str, file: Path) -> None:
    """The training of this kind, to its end; it goes on from the file if that is there."""
    torch.manual_seed(0)
    data = Split(torch.randn(256, 2), torch.zeros(256, dtype=torch.int64))
    model, players = KINDS[kind]()
    options = {"ema": averaged(model, 0.9), "checkpoint": file, "resume": True, "retries": 1, "progress": False}
    fit(model, players, data.batches(64), EPOCHS, **options)


def state(file: Path) -> dict:
    """All that the file holds. Raises where it is broken."""
    return torch.load(file, weights_only=True)


def same(a: object, b: object) -> bool:
    """Whether two states are equal to the last bit, the seconds that epochs took aside."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(key == "seconds" or same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def kill(kind: str, file: Path, seconds: float) -> bool:
    """Starts the training in a process of its own and ends it by force; whether it was still running then."""
    command = [sys.executable, "-m", "benchmarks.kill_resume", kind, str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()  # it says when it begins
        time.sleep(seconds)
        process.kill()
    return process.returncode != 0


def outcome(kind: str, file: Path, unbroken: dict) -> str:
    """What came of a file that a killed training left: "same", "different" or "broken"."""
    try:
        if file.exists():
            state(file)
        train(kind, file)
        return "same" if same(state(file), unbroken) else "different"
    except Exception as error:
        print(f"{kind}: {type(error).__name__}: {error}", flush=True)
        return "broken"


def measure(kills: int) -> Measurement:
    """The trainings that were killed and did not come back to where the unbroken one came."""
    torch.set_num_threads(1)
    moments, outcomes, halves = random.Random(0), [], 0
    with TemporaryDirectory() as folder:
        whole, taken = {}, {}
        for kind in KINDS:
            started = time.perf_counter()
            train(kind, Path(folder) / f"{kind}.whole")
            whole[kind], taken[kind] = state(Path(folder) / f"{kind}.whole"), time.perf_counter() - started
        while len(outcomes) < kills:
            number = len(outcomes)
            kind, file = list(KINDS)[number % len(KINDS)], Path(folder) / str(number)
            if kill(kind, file, moments.uniform(0, taken[kind])):
                halves += file.with_name(file.name + ".part").exists()
                outcomes.append(outcome(kind, file, whole[kind]))
            file.unlink(missing_ok=True)
    note = f"{outcomes.count('different')} resumed runs that differ, {outcomes.count('broken')} broken files; "
    note += f"{halves} of {kills} kills fell into a write; {', '.join(KINDS)}"
    return Measurement([float(what != "same") for what in outcomes], range(kills), note, summary=sum)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("begins", flush=True)
    train(sys.argv[1], Path(sys.argv[2]))
