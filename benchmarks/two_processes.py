"""Two processes under torchrun, joined by gloo, against one process with one thread: equal weights, images a second.

As a script, `torchrun --nproc-per-node 2 -m benchmarks.two_processes FOLDER`, this is one of the processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.fit_speed import BATCH, VAE, random_images
from benchmarks.harness import ROOT, Measurement, alternate
from dgm_lib import runtime
from dgm_lib.objective import adam
from dgm_lib.train import fit

N, EPOCHS = 30_000, 3
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def train(folder: Path, seed: int) -> None:
    """One process's part: trains, and leaves its time and its weights' fingerprint in the folder."""
    torch.set_num_threads(1)
    split = random_images(N)
    rank, n_processes = runtime.start_processes()
    torch.manual_seed(runtime.derive_seed(seed, rank))  # other weights in each: only `fit` can make them equal
    model = VAE()
    objective = adam(model.loss, model, 1e-3)
    history = fit(model, {"-ELBO": objective}, split.batches(BATCH, seed=seed), epochs=EPOCHS, seed=seed)
    visited = N // n_processes * n_processes
    report = {"images_per_second": visited / min(history.seconds), "weights": fingerprint(model)}
    (folder / f"{rank}.json").write_text(json.dumps(report))
    runtime.stop_processes()


def fingerprint(model: nn.Module) -> str:
    """A hash of every bit of the model's state."""
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in model.state_dict().values())).hexdigest()


def reports(launcher: list[str], seed: int) -> list[dict]:
    """What each process of one training run reports."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as folder:
        command = [sys.executable, *launcher, "-m", "benchmarks.two_processes", folder, str(seed)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]


def measure(runs: int) -> Measurement:
    """Two processes' images a second over one's, and whether every run left two equal models."""
    equal = []

    def one(seed: int) -> float:
        (report,) = reports([], seed)
        return report["images_per_second"]

    def two(seed: int) -> float:
        first, second = reports(TORCHRUN, seed)
        equal.append(first["weights"] == second["weights"])
        return first["images_per_second"]

    alone, joined = alternate(runs, one, two)
    note = f"{median(joined):,.0f} images/s in two processes, {median(alone):,.0f} in one with one thread"
    note += f"; weights equal bit for bit: {all(equal)}"
    return Measurement([b / a for a, b in zip(alone, joined)], range(runs), note, holds=all(equal))


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
