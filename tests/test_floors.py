"""The floors of the library: a room imports only from rooms below its own, so that each idea can be read alone.

A room is a file of `dgm_lib`, or one of its folders. The folders are the floors: models do not know how they are
trained or measured, and what trains, loads or measures does not know what it is given.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

TOOLS = {"runtime", "nets", "distributions", "samplers", "gaussians", "neighbours"}
LOOP = {"checkpoint", "objective", "train"}
# What each room may import, beside itself.
FLOORS = {
    "checks": set(),
    **{name: {"checks"} for name in TOOLS},
    "models": TOOLS | {"checks"},
    "datasets": TOOLS | {"checks"},
    **{name: TOOLS | LOOP | {"checks"} for name in LOOP},
    "plots": {"checks", "train"},
    "measures": TOOLS | LOOP | {"checks", "datasets"},
    "doctor": {"runtime", "datasets"},
    "__main__": {"doctor", "datasets"},
    "__init__": set(),
}
HEAVY = ("sklearn", "pooch", "IPython", "scipy", "matplotlib", "pandas", "requests")


# ---- who imports whom ----------------------------------------------------------------------------------------------


def room(path: Path) -> str:
    """The room that a file belongs to: train for train.py, datasets for datasets/core.py."""
    return path.parts[0].removesuffix(".py")


def imports(source: str, path: Path) -> Iterator[str]:
    """The rooms that a source imports, at its head or inside its functions."""
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
        yield from (name.split(".")[0] for name in names if name.startswith(("dgm_exercises", "tools")))


def violations(sources: dict[Path, str]) -> list[str]:
    """What breaks the floors, in a tree of files: path below dgm_lib -> source."""
    found = []
    for path, source in sources.items():
        here = room(path)
        if here not in FLOORS:
            found.append(f"{path} stands on no floor: name it in FLOORS")
        else:
            allowed = FLOORS[here] | {here, "__version__"}
            found += [f"{path} imports {there}" for there in imports(source, path) if there not in allowed]
    return found


def test_the_library_keeps_its_floors():
    files = sorted((ROOT / "dgm_lib").rglob("*.py"))
    sources = {path.relative_to(ROOT / "dgm_lib"): path.read_text(encoding="utf-8") for path in files}
    assert {room(path) for path in sources} == set(FLOORS)
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nets.py", "from dgm_lib.models import vae"),  # upwards
        ("nets.py", "from dgm_lib import runtime"),  # beside
        ("models/vae.py", "import dgm_lib.train"),  # a model that knows the trainer
        ("models/vae.py", "from dgm_lib.measures import two_sample"),
        ("train.py", "def f():\n    from dgm_lib.models.vae import VAE"),  # a trainer that knows a model, well hidden
        ("measures/two_sample.py", "from dgm_lib import models"),
        ("measures/two_sample.py", "from dgm_lib import plots"),
        ("datasets/core.py", "from ..models import vae"),
        ("datasets/core.py", "from dgm_exercises import check"),
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
        ("models/vae.py", "from dgm_lib import distributions, nets"),
        ("models/vae_gan.py", "from dgm_lib.models.vae import VAE\nfrom dgm_lib.models.gan import GAN"),
        ("datasets/core.py", "from dgm_lib import runtime\nfrom . import paths\nfrom .toy2d import load"),
        ("train.py", "from dgm_lib import checkpoint, runtime"),
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
    """Every module that a notebook imports; plots comes last, as it may import matplotlib."""
    files = [path.relative_to(ROOT) for path in sorted((ROOT / "dgm_lib").rglob("*.py"))]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    names = [name for name in names if name not in ("dgm_lib.doctor", "dgm_lib.__main__")]
    return sorted(names, key=lambda name: (name == "dgm_lib.plots", name))


def test_importing_the_library_stays_light():
    command = [sys.executable, "-c", IMPORT_ALL, " ".join(HEAVY), *light_modules()]
    loaded = json.loads(subprocess.check_output(command, cwd=ROOT, text=True))
    plots = loaded.pop("dgm_lib.plots")
    assert {name: heavy for name, heavy in loaded.items() if heavy} == {}
    assert plots == ["matplotlib"]
