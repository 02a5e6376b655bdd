"""`import strict_device` gives torch a second device, "strict", on a machine that has none.

Its tensors lie in ordinary memory and the CPU does the work, with the CPU's random numbers; but an operation that is
given tensors of both devices is refused, as on a GPU. So results equal the CPU's, and what runs there puts its tensors
where they belong. `n_reads()` counts how often a number was asked for: each time a GPU would have to be waited for.

Raises ImportError where there is no C++ compiler. The first import compiles for a minute, into the folder of the cache.
It does not show other random streams, other rounding, speed, memory, or kernels that a real GPU lacks.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import torch
from torch.utils.cpp_extension import include_paths, library_paths

SOURCE = Path(__file__).with_suffix(".cpp")
NAME = "strict_device_extension"


def compiled() -> Path:
    """The compiled part, made where it is not there yet."""
    about = f"{torch.__version__} {sysconfig.get_config_var('EXT_SUFFIX')}".encode() + SOURCE.read_bytes()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dgm_strict_device"
    path = folder / hashlib.sha256(about).hexdigest()[:16] / f"{NAME}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")  # several processes may compile at once
        compile_to(part)
        part.replace(path)
    return path


def compile_to(path: Path) -> None:
    """Raises ImportError with the compiler's last words where it cannot."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise ImportError("the strict device needs a C++ compiler, c++ or g++: there is none here")
    folders = [*include_paths(), sysconfig.get_path("include")]
    command = [compiler, "-O1", "-std=c++20", "-shared", "-fPIC", "-w", f"-DTORCH_EXTENSION_NAME={NAME}"]
    command += [f"-I{folder}" for folder in folders] + [str(SOURCE), "-o", str(path)]
    command += [f"-L{folder}" for folder in library_paths()] + ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise ImportError(f"the strict device cannot be compiled here: {done.stderr[-1000:]}")


def install() -> ModuleType:
    """Makes the device known to torch as "strict"."""
    spec = importlib.util.spec_from_file_location(NAME, compiled())
    extension = importlib.util.module_from_spec(spec)
    torch.utils.rename_privateuse1_backend("strict")
    spec.loader.exec_module(extension)
    extension.install()
    device = ModuleType("torch.strict")
    device.is_available = lambda: os.environ.get("DGM_DEVICE") == "strict"  # for those who ask for it
    device.is_initialized = lambda: True
    device.device_count = lambda: 1
    device.current_device = lambda: 0
    device._is_in_bad_fork = lambda: False
    device.manual_seed = device.manual_seed_all = lambda seed: None  # torch itself seeds the CPU's generator
    device.get_rng_state = lambda *where: torch.get_rng_state()
    device.set_rng_state = lambda state, *where: torch.set_rng_state(state)
    device.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    torch._register_device_module("strict", device)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    return extension


n_reads = install().n_reads
