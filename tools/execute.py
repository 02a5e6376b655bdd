"""Executes notebooks from a cold kernel: the one way in which stored outputs are made.

    python tools/execute.py --to FOLDER [NAME …]   copies, as far as they run
    python tools/execute.py --in-place [NAME …]    stored where they are, unless
                                                       a cell fails or writes to stderr

NAME is a path, or how a notebook's name begins, such as 01; without names: all of them.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import NamedTuple

import nbformat
import psutil
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_core.utils import ensure_event_loop
from nbclient import NotebookClient, exceptions
from nbformat import NotebookNode

from dgm_lib.measures import ruler

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
CELL_SECONDS = 600
MOST_WORKERS = 4  # a kernel takes up to 1.5 GB
KERNEL = {
    "display_name": "Python 3 (ipykernel)",
    "language": "python",
    "name": "python3",
}


class Run(NamedTuple):
    """One execution of a notebook.

    peak_mb: the most memory that the kernel held, in 10⁶ bytes.
    notebook: with its new outputs.
    failure: the cell that stopped it and why, empty where it ran to its end.
    results: what it recorded, as dgm_lib/measures/ruler.py reads it.
    """

    seconds: float
    peak_mb: float
    notebook: NotebookNode
    failure: str = ""
    results: dict | None = None


def execute(
    path: Path | str,
    cell_seconds: int = CELL_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Runs every cell in a new kernel, in the notebook's folder; the file stays as is.

    cell_seconds: how long one cell may take. The kernel's start and end count as well.
    environment: variables that the kernel gets beside those that are set anyway.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name=KERNEL["name"],
        timeout=cell_seconds,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(Path(path).parent)}},
    )
    started = time.perf_counter()
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "results.json"
        environment = kernel_environment() | dict(environment or {}) | {"DGM_RESULTS": str(file)}
        # What cells write to stderr is an output; DEVNULL takes the kernel's own log.
        with client.setup_kernel(env=environment, stderr=DEVNULL):
            with watched_memory(client.km.provisioner.pid) as peak_mb:
                failure = run_cells(client)
            client.set_widgets_metadata()
        recorded = ruler.read(file)
    seconds = time.perf_counter() - started
    return Run(seconds, peak_mb(), with_stable_metadata(notebook), failure, recorded)


def kernel_environment() -> dict[str, str]:
    """The kernel's environment: no progress bars, figures in the notebook, one thread.

    The course's networks are too small to gain from more, and where anything else runs,
    threads that wait for each other take five times as long. OMP_NUM_THREADS overrules.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "TQDM_DISABLE": "1"}
    environment.pop("MPLBACKEND", None)
    return environment


def run_cells(client: NotebookClient) -> str:
    """Runs the cells up to the first that fails; returns which one and why, if any."""
    number = 0
    for index, cell in enumerate(client.nb.cells):
        number += cell.cell_type == "code"
        here = f"code cell {number}"
        try:
            client.execute_cell(cell, index, client.code_cells_executed + 1)
        except exceptions.CellExecutionError as error:
            return f"{here}: {error.ename}: {error.evalue}"
        except exceptions.CellTimeoutError:
            return f"{here}: it ran longer than {client.timeout} s"
        except (exceptions.CellControlSignal, exceptions.DeadKernelError):
            return f"{here}: the kernel died, most likely for want of memory"
    return ""


def with_stable_metadata(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs between machines: versions, times of cells."""
    notebook.metadata["kernelspec"] = dict(KERNEL)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


# ---- memory --------------------------------------------------------------------------


@contextmanager
def watched_memory(pid: int) -> Iterator[Callable[[], float]]:
    """Watches a process; gives a function that returns the most MB seen so far."""
    process, finished, seen = psutil.Process(pid), Event(), [0.0]

    def watch() -> None:
        last = False
        try:
            while not last:
                last = finished.wait(0.05)
                seen[0] = max(seen[0], resident_mb(process))
        except (psutil.NoSuchProcess, OSError):
            pass  # the process has ended: what was seen stands

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: seen[0]
    finally:
        finished.set()
        watcher.join()


def resident_mb(process: psutil.Process) -> float:
    """What a process held at most, where the system counts it; else what it holds."""
    memory = process.memory_info()
    most = getattr(memory, "peak_wset", memory.rss)  # peak_wset: Windows
    if sys.platform == "linux":
        status = Path(f"/proc/{process.pid}/status").read_text()
        peaks = re.findall(r"VmHWM:\s*(\d+) kB", status)
        most = max([most, *(1024 * int(peak) for peak in peaks)])
    return most / 1e6


# ---- files ---------------------------------------------------------------------------


def find(names: Sequence[str]) -> list[Path]:
    """The notebooks that the names mean, all of this folder's without names.

    Raises ValueError for a name that does not mean exactly one.
    """
    notebooks = sorted(FOLDER.glob("*.ipynb"))
    return list(dict.fromkeys(find_one(name, notebooks) for name in names)) or notebooks


def find_one(name: str, notebooks: list[Path]) -> Path:
    """The file of this name, or the one notebook whose name begins with it."""
    if Path(name).is_file():
        return Path(name)
    meant = [path for path in notebooks if path.name.startswith(Path(name).name)]
    if len(meant) != 1:
        there = ", ".join(path.stem for path in meant or notebooks) or "none"
        found = f"{name!r} names {len(meant)} notebooks, not one"
        raise ValueError(f"{found}; there are: {there}")
    return meant[0]


def write(notebook: NotebookNode, path: Path) -> None:
    """Writes beside the place, then moves: an interrupt leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    part.replace(path)


def keep(recorded: dict | None, path: Path) -> None:
    """Puts what a notebook recorded in the place of what it had recorded before."""
    if recorded:
        ruler.write(path, ruler.read(path) | recorded)


def stain(notebook: NotebookNode) -> str:
    """The first code cell with an output that is not to be stored, if there is one."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells, start=1):
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                end = output.text.strip()[-200:]
                return f"code cell {number} writes to stderr: {end}"
            if output.output_type == "error":  # allowed by a tag of the cell
                return f"code cell {number} ends in {output.ename}"
    return ""


# ---- command -------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Executes and writes; returns 1 if a notebook failed."""
    options = parse(arguments)
    try:
        paths = find(options.names)
        width = max((len(path.stem) for path in paths), default=0)
        with ThreadPoolExecutor(workers(options.to)) as pool:  # each drives a kernel
            done = zip(paths, pool.map(attempt, paths))
            failures = [report(path, run, options.to, width) for path, run in done]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    except (RuntimeError, NoSuchKernel) as error:
        remedy = "`python -m dgm_lib doctor` says what is wrong"
        print(f"\nno kernel starts ({error}): {remedy}", file=sys.stderr)
        return 1
    if not paths:
        print("there is no notebook yet", file=sys.stderr)
    return int(any(failures))


def workers(folder: Path | None) -> int:
    """How many notebooks run at a time: one where seconds are stored with them."""
    return min(MOST_WORKERS, os.cpu_count() or 1) if folder else 1


def attempt(path: Path) -> Run | str:
    """Executes; the reason where it cannot be executed at all."""
    try:
        return execute(path)
    except (ValueError, OSError) as error:
        return str(error)
    finally:
        ensure_event_loop().close()  # nbclient made it for this thread


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Executes notebooks in new kernels.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=Path, metavar="FOLDER", help="write copies there")
    where.add_argument("--in-place", action="store_true", help="store the outputs")
    parser.add_argument("names", nargs="*", metavar="NAME", help="how a name begins")
    return parser.parse_args(arguments)


def report(path: Path, run: Run | str, folder: Path | None, width: int) -> str:
    """Writes what was executed and prints a line; returns why it failed, if so."""
    print(f"{path.stem:<{width}}", end="")
    try:
        failure = run if isinstance(run, str) else stored(path, run, folder)
    except OSError as error:  # no place to write
        failure = str(error)
    if isinstance(run, Run):
        print(f"  {run.seconds:6.1f} s  {run.peak_mb:6,.0f} MB", end="")
    print(flush=True)
    if failure:
        kept = "" if folder else "\n    not stored: the file is as it was"
        print(f"    {failure}{kept}", flush=True)
    return failure


def stored(path: Path, run: Run, folder: Path | None) -> str:
    """Writes to the folder, or in place what may stand there; what is wrong with it."""
    failure = run.failure or ("" if folder else stain(run.notebook))
    if folder or not failure:
        place = folder / path.name if folder else path
        write(run.notebook, place)
        keep(run.results, place.with_name("results.json"))
    return failure


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(flush=True)
        os._exit(130)  # at once: kernels end with the process that started them
