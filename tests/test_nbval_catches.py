"""nbval compares: it fails when the library is broken on purpose, at an output, and passes when it is not.

The library is copied, one line of the copy is changed, and a notebook is run against the copy with the command of
`python run.py test`. A small notebook shows it for the command; MUTATIONS do so for the notebooks of the course.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_notebook

# One or more a notebook: (notebook, file of dgm_lib, what stands there once, what takes its place).
MUTATIONS: list[tuple[str, str, str, str]] = [
    ("00_start_here.ipynb", "datasets/core.py", "(levels - 1)", "(levels + 1)"),
    (
        "01_what_is_a_generative_model.ipynb",
        "models/baselines.py",
        "return self.log_prior + log_prob_by_class",
        "return self.log_prior - log_prob_by_class",
    ),
    (
        "02_boltzmann_machines.ipynb",
        "models/rbm.py",
        "return self.visible.base_energy(v) - v @ self.visible_bias - softplus(field).sum(1)",
        "return self.visible.base_energy(v) - v @ self.visible_bias - field.sum(1)",
    ),
    (
        "03_deep_energy_models.ipynb",
        "samplers.py",
        "x.add_(uphill, alpha=step_size)",
        "x.add_(uphill, alpha=0.5 * step_size)",
    ),
    ("04_latent_variables.ipynb", "models/ppca.py", "/ (x.shape[1] - n_latents)", "/ x.shape[1]"),
    ("04_latent_variables.ipynb", "models/vae.py", "z = q.rsample()", "z = q.sample()"),
    (
        "05_vae_in_practice.ipynb",
        "models/vae.py",
        "(self.beta * kl - reconstruction).mean()",
        "(kl - reconstruction).mean()",
    ),
    ("06_adversarial_learning.ipynb", "models/gan.py", "dim=1) - 1).square()", "dim=1) - 2).square()"),
    (
        "07_gan_in_practice.ipynb",
        "checks.py",
        "{high if first <= low else low:g}",
        "{low if first <= low else high:g}",
    ),
    ("08_vae_gan.ipynb", "models/vae_gan.py", "self.game_weight * game).mean()", "0 * game).mean()"),
    (
        "09_generative_classifiers.ipynb",
        "models/classify.py",
        "for c in range(self.n_classes)], 1) + self.prior.log()",
        "for c in range(self.n_classes)], 1)",
    ),
    ("10_learning_from_little_data.ipynb", "models/joint_vae.py", "mu).sum(0), -log_total)", "mu).sum(0), log_total)"),
    (
        "11_your_classifier_is_an_energy_model.ipynb",
        "models/joint_energy.py",
        "steps=steps, energy=partial(self.energy, y=y))",
        "steps=steps)",
    ),
]

SMALL = "small.ipynb"
SMALL_CELLS = [
    "import torch\n\nfrom dgm_lib.datasets import core",
    'print("a number that moves ≈", torch.rand(()).item())\nprint("levels as floats:", core.scale(torch.arange(3), 3))',
]
SMALL_MUTATION = (SMALL, "datasets/core.py", "(levels - 1)", "(levels + 1)")


@pytest.fixture(scope="module")
def small_notebook(notebook_runner: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook that uses the library, executed and stored as the course's own are."""
    path = tmp_path_factory.mktemp("notebooks") / SMALL
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in SMALL_CELLS]), path)
    run = notebook_runner.execute(path)
    assert run.failure == ""
    notebook_runner.write(run.notebook, path)
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the library and of its data, to be broken at will."""
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    for folder in ("dgm_exercises", "dgm_lib"):
        copy = shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def nbval(run_script: ModuleType, notebook: Path, library: Path) -> subprocess.CompletedProcess:
    """Runs nbval as `python run.py test` does, on one notebook and this library, up to the first failure."""
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment |= {"PYTHONPATH": str(library.parent), "TQDM_DISABLE": "1", "PYTHONUTF8": "1"}
    environment.setdefault("DGM_CACHE", str(ROOT / "data" / "cache"))
    command = [sys.executable, *run_script.NBVAL, "-x", "--color=no", "-p", "no:cacheprovider", str(notebook)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")


def break_(library: Path, file: str, old: str, new: str) -> None:
    path = library / file
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {file}: the mutation is out of date"
    path.write_text(source.replace(old, new), encoding="utf-8")


def test_nbval_passes_on_the_library_as_it_is(run_script, small_notebook, library):
    result = nbval(run_script, small_notebook, library)
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout


@pytest.mark.parametrize(("notebook", "file", "old", "new"), [SMALL_MUTATION, *MUTATIONS])
def test_nbval_fails_on_a_broken_library(run_script, small_notebook, library, notebook, file, old, new):
    break_(library, file, old, new)
    path = small_notebook if notebook == SMALL else ROOT / "notebooks" / notebook
    result = nbval(run_script, path, library)
    assert result.returncode == 1, result.stdout
    assert "Cell outputs differ" in result.stdout, result.stdout
    assert "Cell execution caused an exception" not in result.stdout, result.stdout
