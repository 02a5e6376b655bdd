"""How long notebooks take, each from a cold kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.harness import Measurement
from tools.execute import execute, find, main


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


def course_minutes(runs: int) -> Measurement:
    """All notebooks as `python run.py course` executes them, after it has set everything up: minutes."""
    minutes = []
    for _ in range(runs):
        started = time.perf_counter()
        with TemporaryDirectory() as folder:
            if main(["--to", folder]):
                raise RuntimeError("a notebook does not run to its end, so the course has no time")
        minutes.append((time.perf_counter() - started) / 60)
    return Measurement(minutes, note=f"{len(find([]))} notebooks")
