"""How long notebooks take, each from a cold kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def together(*names: str) -> Callable[[int], Measurement]:
    """A measure of the notebooks' seconds one after the other."""
    return lambda runs: measured(names, runs, sum)


def each(*names: str) -> Callable[[int], Measurement]:
    """A measure of the slowest notebook's seconds."""
    return lambda runs: measured(names, runs, max)


def measured(names: Sequence[str], runs: int, joined: Callable[[Sequence[float]], float]) -> Measurement:
    """Executes all of them, one after the other, `runs` times; a run's value is its seconds, joined."""
    turns = [[seconds(name) for name in names] for _ in range(runs)]
    notes = [f"{name}: {median(column):.0f} s" for name, column in zip(names, zip(*turns))]
    return Measurement([joined(turn) for turn in turns], note=", ".join(notes))
