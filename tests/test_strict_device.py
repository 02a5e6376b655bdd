"""What `on_strict_device.py` tests, in a process that begins with the strict device."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join(map(str, (ROOT / "tools" / "startup", ROOT / "tests", ROOT)))
    environment = os.environ | {"PYTHONPATH": path, "DGM_DEVICE": "strict", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, encoding="utf-8"
    )


def test_families_measures_and_data_live_on_a_second_device():
    prepared = run("-c", "import strict_device")  # compiles it, where that was not done before
    if prepared.returncode:
        pytest.skip(prepared.stderr.strip().splitlines()[-1])
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/on_strict_device.py")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
