"""The floors of the library: a file imports only from floors below its own, so that each idea can be read alone."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

FLOORS = (
    {"checks"},
    {"runtime", "nets", "distributions", "samplers", "em", "gaussians", "neighbours"},
    {
        *("rbm", "energy", "latent", "vae", "vq_vae", "gan", "vae_gan", "baselines", "sequences"),
        *("classify", "semi_supervised", "semi_gan", "joint_vae", "joint_energy"),
    },
    {
        *("datasets", "checkpoint", "objective", "train", "metrics", "two_sample", "representations", "plots"),
        *("calibration", "robustness", "augmentation", "results"),
    },
    {"exercises", "doctor", "features", "few_data"},
    {"__main__"},
)
# A model made of another one imports it; the loop writes checkpoints; curves are drawn of its history, named as a type.
BESIDE = {
    ("vae_gan", "vae"),
    ("vae_gan", "gan"),
    ("semi_supervised", "vae"),
    ("joint_energy", "energy"),
    ("objective", "checkpoint"),
    ("train", "checkpoint"),
    ("train", "objective"),
    ("plots", "train"),
}
# A model does not know how it is trained, and what trains, loads or measures does not know what it is given.
MODELS, KNOW_NO_MODEL = FLOORS[2], FLOORS[3]
HEAVY = ("sklearn", "pooch", "IPython", "scipy", "matplotlib", "pandas", "requests")


# ---- who imports whom ----------------------------------------------------------------------------------------------


def unit(path: Path) -> str:
    """The part of the library that a file belongs to: train for train.py, datasets for datasets/core.py."""
    return path.parts[0].removesuffix(".py")


def imports(source: str, path: Path) -> Iterator[str]:
    """The parts of the library that a source imports, at its head or inside its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ("dgm_lib", *path.parts[: len(path.parts) - node.level]) if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("dgm_lib."))


def floor(name: str) -> int | None:
    return next((number for number, names in enumerate(FLOORS) if name in names), None)


def violations(sources: dict[Path, str]) -> list[str]:
    """What breaks the floors, in a tree of files: path below dgm_lib -> source."""
    found = []
    for path, source in sources.items():
        here = unit(path)
        if path == Path("__init__.py"):
            found += [f"__init__.py imports {there}: it must stay empty" for there in imports(source, path)]
        elif floor(here) is None:
            found.append(f"{path} stands on no floor: name it in FLOORS")
        else:
            found += [f"{path} imports {there}" for there in imports(source, path) if not may_import(here, there)]
    return found


def may_import(here: str, there: str) -> bool:
    if here == there or (here, there) in BESIDE or there == "__version__":
        return True
    if here in KNOW_NO_MODEL and there in MODELS:
        return False
    return floor(there) is not None and floor(there) < floor(here)


def test_the_library_keeps_its_floors():
    files = sorted((ROOT / "dgm_lib").rglob("*.py"))
    sources = {path.relative_to(ROOT / "dgm_lib"): path.read_text(encoding="utf-8") for path in files}
    assert len(sources) > 5
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nets.py", "from dgm_lib import vae"),  # upwards
        ("nets.py", "from dgm_lib import runtime"),  # beside
        ("vae.py", "from dgm_lib.gan import Critic"),  # one family in another
        ("vae.py", "import dgm_lib.train"),  # a model that knows the trainer
        ("train.py", "def f():\n    from dgm_lib.vae import VAE"),  # a trainer that knows a model, well hidden
        ("metrics.py", "from dgm_lib import plots"),
        ("datasets/core.py", "from ..exercises import check"),
        ("datasets/core.py", "from dgm_lib.datasets.toy2d import load\nfrom dgm_lib import train"),
        ("doctor.py", "from dgm_lib import __main__"),
        ("__init__.py", "from dgm_lib.runtime import device"),
        ("helpers.py", ""),  # on no floor
        ("nets.py", "from dgm_lib import helpers"),
    ],
)
def test_a_broken_floor_is_seen(path, source):
    assert len(violations({Path(path): source})) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vae.py", "from dgm_lib import distributions, nets"),
        ("vae_gan.py", "from dgm_lib.vae import VAE\nfrom dgm_lib.gan import GAN"),
        ("datasets/core.py", "from dgm_lib import runtime\nfrom . import paths\nfrom .toy2d import load"),
        ("train.py", "from dgm_lib import checkpoint, runtime"),
        ("exercises/vae.py", "from dgm_lib import vae\nfrom dgm_lib.exercises import engine"),
        ("__main__.py", "from dgm_lib.doctor import report"),
        ("nets.py", "import torch\nfrom torch import nn"),
    ],
)
def test_a_kept_floor_is_let_through(path, source):
    assert violations({Path(path): source}) == []


# ---- what an import costs ------------------------------------------------------------------------------------------

IMPORT_ALL = """
import importlib, json, sys
loaded = {}
for name in sys.argv[2:]:
    before = set(sys.modules)
    importlib.import_module(name)
    loaded[name] = sorted({m.split(".")[0] for m in set(sys.modules) - before} & set(sys.argv[1].split()))
print(json.dumps(loaded))
"""


def light_modules() -> list[str]:
    """dgm_lib itself and every module up to those that know no model; plots comes last, as it may import matplotlib."""
    files = [path.relative_to(ROOT) for path in sorted((ROOT / "dgm_lib").rglob("*.py"))]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    names = [name for name in names if name == "dgm_lib" or floor(name.split(".")[1]) in (0, 1, 2, 3)]
    return sorted(names, key=lambda name: (name == "dgm_lib.plots", name))


def test_importing_the_library_stays_light():
    command = [sys.executable, "-c", IMPORT_ALL, " ".join(HEAVY), *light_modules()]
    loaded = json.loads(subprocess.check_output(command, cwd=ROOT, text=True))
    plots = loaded.pop("dgm_lib.plots")
    assert {name: heavy for name, heavy in loaded.items() if heavy} == {}
    assert plots == ["matplotlib"]
