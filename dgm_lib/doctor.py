"""Is this machine ready for the course? One screen of findings, and a remedy for each thing that is wrong."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from packaging.requirements import Requirement

REINSTALL = "delete the folder .venv and run `python run.py lab` (with conda: `conda env update -f environment.yml`)"
LEAST_MEMORY_GB = 2
LEAST_DISK_GB = 1


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Words, numbers and versions only: no path of the machine."""

    name: str
    value: str
    ok: bool = True
    remedy: str = ""


def report() -> bool:
    """Prints all findings, aligned, and a remedy under each that is wrong; returns whether all is well."""
    findings = checkup()
    good, bad = marks()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{good if finding.ok else bad} {finding.name:<{width}}  {finding.value}")
        if not finding.ok:
            print(f"{'':<{len(good) + width + 3}}Remedy: {finding.remedy}")
    wrong = sum(not finding.ok for finding in findings)
    print(f"\n{wrong} to mend: see each remedy." if wrong else "\nAll is well.")
    return not wrong


def checkup() -> list[Finding]:
    """Looks at everything; nothing is changed, downloaded or installed."""
    findings = [python(), torch_build()]
    finders = {"memory": memory, "kernel": kernel}
    if findings[-1].ok:  # without torch the library cannot be imported
        library = {"device": device, "bfloat16": bfloat16, "data": embedded_data, "downloads": downloads, "disk": disk}
        finders = library | finders
    return [*findings, *(look(name, finder) for name, finder in finders.items()), *packages()]


def look(name: str, finder: Callable[[], Finding]) -> Finding:
    """What the finder finds. Where the looking itself fails, a package is broken: the doctor outlives it."""
    try:
        return finder()
    except Exception as error:
        return Finding(name, f"cannot be looked at ({kind(error)})", False, REINSTALL)


def kind(error: Exception) -> str:
    """The kind of an error, and the module where that names one: no path of the machine."""
    module = error.name if isinstance(error, ImportError) else None
    return type(error).__name__ + (f" of {module}" if module else "")


def marks() -> tuple[str, str]:
    """What stands before a finding: ✓ or ✗, in words of equal width where the console cannot write these."""
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok     ", "PROBLEM"
    return "✓", "✗"


# ---- Python and torch ----------------------------------------------------------------------------------------------


def python() -> Finding:
    """The version of Python, against the oldest that the library takes."""
    ok = sys.version_info >= (3, 11)
    return Finding("Python", "{}.{}.{}".format(*sys.version_info), ok, "install Python 3.11 or newer")


def torch_build() -> Finding:
    """The version of torch, and whether it can be imported at all."""
    tried = import_torch()
    if tried.returncode == 0:
        return Finding("torch", tried.stdout.strip().rpartition("\n")[2])
    last = tried.stderr.strip().rpartition("\n")[2].partition(":")[0].rpartition(".")[2]
    why = last if last.endswith(("Error", "Exception")) else f"Python ends with code {tried.returncode}"
    return Finding("torch", f"cannot be imported ({why})", False, REINSTALL)


@cache
def import_torch() -> subprocess.CompletedProcess:
    """Imports torch in a Python of its own, which may die of it where a library or the processor does not fit."""
    code = "import torch; print(f'{torch.__version__}, {torch.get_num_threads()} CPU threads')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", errors="replace")


def device() -> Finding:
    """The device that `runtime.device()` chooses, and why that one."""
    from dgm_lib import runtime

    there = runtime.available_devices()
    try:
        where = runtime.device()
    except ValueError as error:
        return Finding("device", str(error), False, f"unset DGM_DEVICE, or set it to one of: {', '.join(there)}")
    return Finding("device", f"{where}{_card(where)}: {_reason(there)}")


def _card(where: torch.device) -> str:
    import torch

    if where.type != "cuda":
        return ""
    card = torch.cuda.get_device_properties(where)
    return f" ({card.name}, {card.total_memory / 1e9:.0f} GB)"


def _reason(there: list[str]) -> str:
    if os.environ.get("DGM_DEVICE"):
        return "DGM_DEVICE says so"
    if "cuda" not in there and shutil.which("nvidia-smi"):
        return "this build of torch cannot use the NVIDIA driver that is here (see README.md)"
    return "the only one that torch can use here" if len(there) == 1 else f"the fastest of {', '.join(there)}"


def bfloat16() -> Finding:
    """Whether the device has bfloat16 in hardware; either is well."""
    from dgm_lib import runtime

    try:
        native = runtime.has_native_bf16(runtime.device())
    except ValueError:
        return Finding("bfloat16", "not known without a device")
    return Finding("bfloat16", "in hardware: autocast uses it" if native else "not in hardware: float32 is used")


# ---- data ----------------------------------------------------------------------------------------------------------


def embedded_data() -> Finding:
    """Whether the data sets that need no network load."""
    from dgm_lib import datasets

    small = {"glyphs": {"n": 100}}
    names = [name for name, module in datasets.MODULES.items() if module != "published"]
    broken = {}
    for name in names:
        try:
            with warnings.catch_warnings(action="ignore"):  # of a cache that cannot be: the disk's finding
                datasets.load(name, **small.get(name, {}))
        except Exception as error:
            broken[name] = error
    if broken:
        said = ", ".join(f"{name} ({kind(error)})" for name, error in broken.items())
        ours = (OSError, ValueError, datasets.DataError)  # what a missing or damaged file of the course raises
        again = any(isinstance(error, ours) for error in broken.values())
        remedy = "get the folders data and dgm_lib of the course again" if again else REINSTALL
        return Finding("data", f"not loading: {said}", False, remedy)
    kinds = dict.fromkeys("toy2d" if name in datasets.TOY2D else name for name in names)
    return Finding("data", f"{', '.join(kinds)}: all load without a network")


def downloads() -> Finding:
    """Which of the published data sets are on this machine; none has to be."""
    from dgm_lib.datasets import published

    try:
        here = [name for name in published.registry() if published.is_present(name)]
    except published.DataError:
        return Finding("downloads", "not known without a cache folder")
    absent = [name for name in published.registry() if name not in here]
    fetch = f"{', '.join(absent)} not fetched, and not needed (python -m dgm_lib fetch NAME)" if absent else ""
    return Finding("downloads", "; ".join(filter(None, [", ".join(here), fetch])))


# ---- machine -------------------------------------------------------------------------------------------------------


def memory() -> Finding:
    """Total memory, and how much of it programs can still have."""
    try:
        import psutil
    except ImportError:
        return Finding("memory", "not known: psutil is not installed", False, REINSTALL)
    total, free = psutil.virtual_memory().total / 1e9, psutil.virtual_memory().available / 1e9
    remedy = f"close other programs and notebooks: the course needs {LEAST_MEMORY_GB} GB"
    return Finding("memory", f"{total:.1f} GB, {free:.1f} GB free", free >= LEAST_MEMORY_GB, remedy)


def disk() -> Finding:
    """Free space where the course keeps its cache."""
    from dgm_lib.datasets import DataError, paths

    try:
        free = shutil.disk_usage(paths.cache_folder()).free / 1e9
    except (OSError, DataError) as error:
        why = getattr(error.__cause__ or error, "strerror", None) or kind(error)
        remedy = "set DGM_CACHE to a folder of your own"
        return Finding("disk", f"no cache folder can be made ({why})", False, remedy)
    remedy = f"make room for {LEAST_DISK_GB} GB, or set DGM_CACHE to a folder on another disk"
    return Finding("disk", f"{free:.1f} GB free", free >= LEAST_DISK_GB, remedy)


def kernel() -> Finding:
    """Whether the Jupyter kernel that notebooks ask for starts this Python, and not another one."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        return Finding("kernel", "Jupyter is not installed", False, REINSTALL)
    remedy = "run `python -m ipykernel install --sys-prefix` with the Python of the course"
    try:
        command = KernelSpecManager(log=silent()).get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Finding("kernel", "there is no kernel python3", False, remedy)
    except Exception as error:  # a kernel.json that is no JSON, or lacks what it must say
        return Finding("kernel", f"python3 is damaged ({kind(error)})", False, remedy)
    if not _is_this_python(command):
        return Finding("kernel", "python3 starts another Python than this one", False, remedy)
    return Finding("kernel", "python3 starts this Python")


def silent() -> logging.Logger:
    """Jupyter logs a damaged kernel with its traceback; here it is a finding."""
    logger = logging.Logger("doctor")
    logger.addHandler(logging.NullHandler())
    return logger


def _is_this_python(command: str) -> bool:
    """A bare name means the Python that asks; python and python3 of one environment are the same."""
    bare = Path(command).name == command and command.startswith("python")
    return bare or os.path.normcase(Path(command).parent) == os.path.normcase(Path(sys.executable).parent)


def packages() -> list[Finding]:
    """The packages that the course asks for: one line that names the main ones, and one for each that is wrong."""
    try:
        asked = _requirements()
    except ImportError:  # PackageNotFoundError is one
        return [Finding("packages", "dgm-lib is not installed", False, REINSTALL)]
    except Exception as error:
        return [Finding("packages", f"what is installed cannot be read ({kind(error)})", False, REINSTALL)]
    found = {requirement.name: _version(requirement.name) for requirement in asked}
    wrong = [r for r in asked if not found[r.name] or not r.specifier.contains(found[r.name], prereleases=True)]
    main = ("numpy", "matplotlib", "scikit-learn", "jupyterlab")
    main = [f"{name} {found[name]}" for name in main if found.get(name) and name not in [r.name for r in wrong]]
    return [Finding("packages", ", ".join(main) or "none of the main ones is as it should be")] + [
        Finding(r.name, f"{found[r.name] or 'not installed'}, but the course needs {r.specifier}", False, REINSTALL)
        for r in wrong
    ]


def _requirements() -> list[Requirement]:
    """What pyproject.toml asks for, with the notebooks' packages, on this system."""
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in requires("dgm-lib") or []]
    return [r for r in asked if r.marker is None or r.marker.evaluate({"extra": "notebooks"})]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
