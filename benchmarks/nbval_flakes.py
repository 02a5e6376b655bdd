"""How many runs of nbval over the notebooks fail: their stored outputs must hold with one thread and with two."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.harness import ROOT, Measurement
from run import NBVAL, TWO_WORKERS
from tools.execute import find


def failures(threads: int) -> int:
    """1 where a run of nbval with this many threads fails, and then what it said; 0 where all cells agree."""
    workers = TWO_WORKERS if threads == 1 else []  # two workers with two threads each would fight over two cores
    command = [sys.executable, *NBVAL, *workers, "-q", *map(str, find([]))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=ROOT, env=environment, **pipes)
    if done.returncode:
        print(f"nbval failed with {threads} threads:\n{done.stdout}", file=sys.stderr, flush=True)
    return int(done.returncode != 0)


def measure(runs: int) -> Measurement:
    """Runs with one thread and with two in turn, `runs` in all."""
    if not find([]):
        raise FileNotFoundError("there is no notebook in notebooks/: nothing to compare")
    failed = [failures(threads=1 + run % 2) for run in range(runs)]
    one, two = sum(failed[::2]), sum(failed[1::2])
    return Measurement(failed, note=f"{one} with one thread, {two} with two, of {runs} runs", summary=sum)
