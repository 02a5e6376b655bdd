"""How long notebooks 00 and 01 take together, each from a cold kernel."""

from __future__ import annotations

from statistics import median

from benchmarks.harness import Measurement
from notebooks.execute import execute, find


def seconds(name: str) -> float:
    """The time from the start of a notebook's kernel to its end. Raises RuntimeError where a cell fails."""
    (path,) = find([name])
    run = execute(path)
    if run.failure:
        raise RuntimeError(f"{path.stem} does not run to its end, so it has no time: {run.failure}")
    return run.seconds


def measure(runs: int) -> Measurement:
    """Executes both, one after the other, `runs` times."""
    times = [(seconds("00"), seconds("01")) for _ in range(runs)]
    first, second = (median(column) for column in zip(*times))
    return Measurement([sum(pair) for pair in times], note=f"00: {first:.0f} s, 01: {second:.0f} s")
