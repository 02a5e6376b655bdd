"""Trains the judges that come with the course, data/features/NAME.npz, and says how good they are.

It was run once a judge. Where floating-point numbers are rounded otherwise, another judge comes out, and what one says
cannot be compared with what the other says: tests pin the files by the SHA-256 that stand in data/features/README.md.

    python data/train_judges.py digits glyphs
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import numpy as np

from dgm_lib import datasets
from dgm_lib.measures import judges

FOLDER = Path(__file__).parent / "features"


def main(names: list[str]) -> None:
    for name in names or judges.SHIPPED:
        start = perf_counter()
        judge = judges.train(datasets.load(name), judges.SHIPPED[name])
        path = FOLDER / f"{name}.npz"
        np.savez(path, **judges.to_arrays(judge))
        print(f"{name}: validation {judge.validation_accuracy:.2%}, test {judge.test_accuracy:.2%} right,", end=" ")
        print(f"{path.stat().st_size:,} bytes, {perf_counter() - start:.0f} s,", end=" ")
        print("SHA-256", sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main(sys.argv[1:])
