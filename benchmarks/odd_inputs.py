"""How many tests fail that say what happens with what nobody should give: a right value, or one clear sentence."""

from __future__ import annotations

import re
import subprocess
import sys

from benchmarks.harness import ROOT, Measurement

FILES = (
    *("odd_inputs", "objective", "train", "runtime", "neighbours", "devices", "metrics", "two_sample", "calibration"),
    *("classify", "ppca", "mixtures", "baselines", "latents", "datasets_core", "streaming", "plots", "doctor"),
)


def measure(runs: int) -> Measurement:
    """Failures of the tests in these files, `runs` times."""
    return Measurement([failures() for _ in range(runs)], note=f"{len(FILES)} files of tests", summary=sum)


def failures() -> int:
    """One run of pytest over the files."""
    files = [f"tests/test_{name}.py" for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *files]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = done.stdout.splitlines()[-1] if done.stdout else ""
    print(end, flush=True)
    said = sum(int(number) for number in re.findall(r"(\d+) (?:failed|error)", end))
    return said or int(done.returncode != 0)
