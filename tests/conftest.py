"""What all tests share: one thread, no window, and no network."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

# Before torch is imported: workers with two threads each fight over two cores. OMP_NUM_THREADS overrules.
os.environ["MKL_NUM_THREADS"] = os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"

ROOT = Path(__file__).resolve().parents[1]
collect_ignore = ["new_family"]  # an example, which test_new_family.py adds to a copy of the project
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture
def run_script() -> ModuleType:
    """run.py as a module."""
    return load_script(ROOT / "run.py")


@pytest.fixture(scope="session")
def notebook_runner() -> ModuleType:
    """tools/execute.py as a module."""
    return load_script(ROOT / "tools" / "execute.py")


def load_script(path: Path) -> ModuleType:
    """A new module from a file that is in no package."""
    specification = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Connections may only go to this machine itself: whatever a test needs, it brings along."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _local_only(getattr(socket.socket, name)))
        yield


def _local_only(connect):
    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
            raise AssertionError(f"a test tried to reach {address[0]} over the network")
        return connect(self, address)

    return guarded
