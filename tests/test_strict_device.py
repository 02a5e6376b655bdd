"""What `on_strict_device.py` tests, in a process that begins with the strict device."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from tools import elsewhere


def test_families_measures_and_data_live_on_a_second_device():
    environment = elsewhere.environment_of("strict")
    try:
        elsewhere.prepare(environment)
    except ValueError as error:
        pytest.skip(str(error))
    path = os.pathsep.join([environment["PYTHONPATH"], str(ROOT / "tests"), str(ROOT)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/on_strict_device.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment | {"PYTHONPATH": path}, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
