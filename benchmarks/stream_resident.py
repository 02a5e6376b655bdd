"""How much resident memory an epoch over a 4 GB file takes, above a process that holds torch, a model and its state.

The file is made on the spot, of real bytes (a sparse one would cost no pages), and removed afterwards.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPE = (1, 28, 28)
GIGABYTES = 4


def measure() -> float:
    """The rise of peak resident memory in MB (10^6 bytes) while one shuffled epoch of the 4 GB file streams by.

    The epoch runs in a process of its own. Raises RuntimeError if the disk has no room for the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        if free < 1.1e9 * GIGABYTES:
            raise RuntimeError(f"{folder} has {free / 1e9:.1f} GB free, but {1.1 * GIGABYTES:.1f} GB are needed")
        path = Path(folder) / "x.npy"
        write(path)
        answer = subprocess.run([sys.executable, __file__, path], stdout=subprocess.PIPE, text=True, check=True)
    return float(answer.stdout)


def write(path: Path) -> None:
    """A .npy file of images of noise, written piece by piece."""
    import numpy as np

    piece = np.random.default_rng(0).integers(0, 256, (20_000, *SHAPE), np.uint8)
    pieces = round(GIGABYTES * 1e9 / piece.nbytes)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (pieces * len(piece), *SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(pieces):
            piece.tofile(file)


def rise(path: Path) -> float:
    """Streams the file past a model in this process; the rise of its peak resident memory in MB."""
    import torch

    from dgm_lib.datasets import stream

    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 400), torch.nn.ReLU(), torch.nn.Linear(400, 784)
    )
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        (model(x) - x.flatten(1)).square().mean().backward()
        optimizer.step()

    for _ in range(5):
        step(torch.rand(128, *SHAPE))  # so that the model's gradients and the optimiser's state are in the state before
    with Peak() as peak:
        for i, (x, _) in enumerate(stream(path).batches(128)):
            if i % 50 == 0:  # a step on each batch would take minutes and add nothing
                step(x)
    return (peak.highest - peak.before) / 1e6


class Peak:
    """Watches the resident memory of this process, in bytes, every two milliseconds."""

    def __enter__(self) -> Peak:
        import threading

        import psutil

        self.resident = lambda: psutil.Process().memory_info().rss
        self.before = self.highest = self.resident()
        self.over = threading.Event()
        self.watch = threading.Thread(target=self._watch)
        self.watch.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.002):
            self.highest = max(self.highest, self.resident())

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.watch.join()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    print(rise(Path(sys.argv[1])))
