"""How long notebooks take, each from a cold kernel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.harness import ROOT, Measurement
from tools.execute import execute, find, main


def seconds(name: str) -> float:
    """The time from the start of a notebook's kernel to its end. Raises RuntimeError where a cell fails."""
    (path,) = find([name])
    run = execute(path)
    if run.failure:
        raise RuntimeError(f"{path.stem} does not run to its end, so it has no time: {run.failure}")
    return run.seconds


def slowest(runs: int) -> Measurement:
    """Executes all notebooks with one thread, one after the other, `runs` times; a run's value is the slowest one's."""
    os.environ["OMP_NUM_THREADS"] = "1"
    names = [path.stem[:2] for path in find([])]
    turns = [[seconds(name) for name in names] for _ in range(runs)]
    notes = [f"{name}: {median(column):.0f} s" for name, column in zip(names, zip(*turns))]
    return Measurement([max(turn) for turn in turns], note=", ".join(notes))


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


def test_minutes(runs: int) -> Measurement:
    """The test command, set up: minutes; how long library tests and notebooks took. Raises where a test fails."""
    minutes, notes = [], []
    for _ in range(runs):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "run.py", "test"], cwd=ROOT, capture_output=True, encoding="utf-8")
        minutes.append((time.perf_counter() - started) / 60)
        if done.returncode:
            raise RuntimeError(f"a test fails, so the tests have no time: {done.stdout[-2000:]}")
        notes += re.findall(r"(?m)^(library tests|notebooks) +([\d.]+ s)", done.stdout)
    return Measurement(minutes, note=", ".join(map(" ".join, notes)))
