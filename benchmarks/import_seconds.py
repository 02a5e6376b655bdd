"""How long `import dgm_lib` takes beyond torch itself: every module of the library, in fresh interpreters."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from statistics import median

import dgm_lib
from benchmarks.harness import ROOT, Measurement, alternate

PROGRAM = """
import sys, time, torch
from importlib import import_module
start = time.perf_counter()
for name in sys.argv[1:]:
    import_module(name)
print(time.perf_counter() - start)
"""


def modules() -> list[str]:
    """The modules of the library that one imports."""
    names = (module.name for module in pkgutil.iter_modules(dgm_lib.__path__))
    return [f"dgm_lib.{name}" for name in names if name != "__main__"]


def seconds(names: list[str]) -> float:
    """The time that a fresh interpreter, with torch loaded, takes to import these modules."""
    # Compiled modules are kept, as they are for every user: the warm-up turn writes them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", PROGRAM, *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def measure(runs: int) -> Measurement:
    """Imports everything, and beside it everything but plots, which alone needs matplotlib."""
    everything = modules()
    no_plots = [name for name in everything if name != "dgm_lib.plots"]
    full, light = alternate(runs, lambda _: seconds(everything), lambda _: seconds(no_plots))
    return Measurement(full, note=f"{1000 * median(light):.0f} ms without plots, which loads matplotlib")
