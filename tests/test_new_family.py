"""CONTRIBUTING.md's steps for a new family, followed in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

EXAMPLE = ROOT / "tests" / "new_family"
TESTS = ("conftest.py", "families.py", "test_contract.py", "test_floors.py")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The library and the tests that every family passes, with the example added."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "tests").mkdir()
    for name in ("dgm_lib", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cache"))
    for name in ("pyproject.toml", *(f"tests/{name}" for name in TESTS)):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(EXAMPLE / "laplace.py", folder / "dgm_lib" / "models")
    shutil.copy(EXAMPLE / "test_laplace.py", folder / "tests")
    with (folder / "tests" / "families.py").open("a", encoding="utf-8") as families:
        families.write((EXAMPLE / "families.py").read_text(encoding="utf-8"))
    return folder


def run_tests(folder: Path, *options: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8").stdout


def test_the_steps_are_enough(project):
    said = run_tests(project, "tests", "-k", "Laplace or laplace or floors")
    assert re.search(r"\d+ passed", said), said
    assert "failed" not in said, said
    assert int(re.search(r"(\d+) passed", said)[1]) >= 5 + 3 + 1  # of the contract, its own, of the floors


def test_a_family_that_forgets_its_part_of_the_contract_is_refused(project):
    path = project / "dgm_lib" / "models" / "laplace.py"
    source = path.read_text(encoding="utf-8")
    try:
        path.write_text(source.replace("return -self.log_prob(x).mean()", "return -self.log_prob(x)"), encoding="utf-8")
        assert "failed" in run_tests(project, "tests/test_contract.py", "-k", "Laplace", "-x")
    finally:
        path.write_text(source, encoding="utf-8")
