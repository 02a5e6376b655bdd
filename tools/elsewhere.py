"""Is what is true here true elsewhere? Runs the course as other machines would.

    python -m tools.elsewhere [--in PLACE ...] [--tests] [NAME ...]

A place is an arithmetic with a number of threads, such as sse-2, or a shift of all
seeds, such as seeds+1000; without --in: all of them. One more is strict: a second device
that refuses tensors of another one, which needs a C++ compiler. In each, the notebooks
named (all of them without names) are executed and compared with their stored outputs as
nbval compares, and every line that moved is shown. --tests runs the library's tests, too,
under each arithmetic. Exits with 1 if anything moved or failed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode
from nbval.plugin import find_comment_markers, find_metadata_tags, get_sanitize_patterns

from tools import execute

ROOT = execute.FOLDER.parent
SANITIZER = ROOT / "tests" / "nbval_sanitize.cfg"

# Read when torch is loaded. Each makes one processor calculate like another one.
ARITHMETICS = {
    "usual": {},
    "compatible": {"MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "sse": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
}
THREADS = (1, 2)
SHIFTS = (1000, 2000, 3000, 4000, 5000)
CLAIM = ": True"


class Moved(NamedTuple):
    """A compared line that is another one elsewhere. Empty where there is none."""

    cell: int
    stored: str
    found: str

    @property
    def is_claim(self) -> bool:
        """Whether a claim that was stored does not hold."""
        return self.stored.count(CLAIM) > self.found.count(CLAIM)

    def __str__(self) -> str:
        return f"code cell {self.cell}: {self.stored!r} became {self.found!r}"


def places() -> dict[str, dict[str, str]]:
    """The environment of each place, by its name."""
    found = {
        f"{name}-{threads}": {**variables, "OMP_NUM_THREADS": str(threads)}
        for name, variables in ARITHMETICS.items()
        for threads in THREADS
    }
    return found | {f"seeds+{shift}": started(DGM_SHIFT=str(shift)) for shift in SHIFTS}


def started(**variables: str) -> dict[str, str]:
    """An environment that tools/startup/sitecustomize.py acts upon."""
    folders = [str(ROOT / "tools" / "startup"), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, folders))
    return {**variables, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def environment_of(place: str) -> dict[str, str]:
    """The environment of a place, or of two that are joined: sse-1,seeds+1000.

    Raises ValueError for a place that is not there.
    """
    known, joined = places() | {"strict": started(DGM_DEVICE="strict")}, {}
    for name in place.split(","):
        if name not in known:
            raise ValueError(f"there is no place {name!r}; there are: {', '.join(known)}")
        joined |= known[name]
    return joined


def prepare(variables: Mapping[str, str]) -> None:
    """Compiles the strict device, if it is asked for: a kernel would not wait.

    Raises ValueError where that cannot be done.
    """
    if variables.get("DGM_DEVICE") != "strict":
        return
    command = [sys.executable, "-c", "import strict_device"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1])


# ---- comparing -----------------------------------------------------------------------


def moved(stored: NotebookNode, found: NotebookNode) -> Iterator[Moved]:
    """Every line that nbval would find changed."""
    for number, (before, after) in enumerate(zip(code(stored), code(found)), start=1):
        if not is_compared(before):
            continue
        old, new = compared_lines(before), compared_lines(after)
        for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if tag != "equal":
                for k in range(max(b - a, d - c)):
                    yield Moved(
                        number,
                        *("".join(part[k : k + 1]) for part in (old[a:b], new[c:d])),
                    )


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_compared(cell: NotebookNode) -> bool:
    """Whether nbval compares what this cell says."""
    options = {
        **dict(find_metadata_tags(cell.metadata)),
        **dict(find_comment_markers(cell.source)),
    }
    return options.get("check", True) and not options.get("skip")


def compared_lines(cell: NotebookNode) -> list[str]:
    """What nbval compares of a cell's outputs, line by line, kind after kind."""
    kinds = {}
    for output in cell.outputs:
        for kind, text in shown_texts(output).items():
            kinds.setdefault(kind, []).append(text.rstrip("\n"))
    texts = [text for kind in sorted(kinds) for text in kinds[kind]]
    return sanitized("\n".join(texts)).splitlines()


def shown_texts(output: NotebookNode) -> dict[str, str]:
    """What an output shows as text, by its kind; no pixels."""
    if output.output_type == "stream":
        return {output.name: output.text}
    data = output.get("data", {})
    return {kind: str(data[kind]) for kind in data if not re.match(r"image/(png|jpe?g|gif)", kind)}


def sanitized(text: str) -> str:
    """The text as nbval compares it."""
    for pattern, replacement in get_sanitize_patterns(SANITIZER.read_text(encoding="ascii")):
        text = re.sub(pattern, replacement, text)
    return text


# ---- command -------------------------------------------------------------------------


def look(path: Path, variables: Mapping[str, str]) -> list[Moved]:
    """What moves in a notebook where these variables are set; a failure counts, too."""
    run = execute.execute(path, environment=variables)
    failure = [Moved(0, "", run.failure)] if run.failure else []
    return failure + list(moved(nbformat.read(path, as_version=4), run.notebook))


def n_claims(path: Path) -> int:
    """How many claims a stored notebook prints."""
    cells = code(nbformat.read(path, as_version=4))
    return sum(line.count(CLAIM) for cell in cells for line in compared_lines(cell))


def notebooks_in(place: str, paths: Sequence[Path]) -> list[Moved]:
    """Executes the notebooks; prints and returns each line that moved."""
    variables = environment_of(place)
    found = []
    with ThreadPoolExecutor(at_a_time(variables)) as pool:
        looks = pool.map(partial(look, variables=variables), paths)
        for path, lines in zip(paths, looks):
            print(f"{place}  {path.stem}: {len(lines)} moved", flush=True)
            for line in lines:
                print(f"    {line}", flush=True)
            found += lines
    return found


def at_a_time(variables: Mapping[str, str]) -> int:
    """How many processes run at once: kernels with several threads fight over cores."""
    return execute.workers(ROOT) if variables["OMP_NUM_THREADS"] == "1" else 1


def tests_in(place: str) -> int:
    """Runs the library's tests in its arithmetic; returns how many failed.

    Tests of single draws hold for the seeds that they set, so seeds are not shifted.
    Those that break the library and run notebooks are left out: they are about nbval.
    """
    variables = environment_of(place) | {"DGM_SHIFT": "0", "TQDM_DISABLE": "1"}
    options = ["-q", "-n", str(min(2, at_a_time(variables)))]
    options += ["--ignore", "tests/test_nbval_catches.py", "tests"]
    command = [sys.executable, "-m", "pytest", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, **pipes)
    end = done.stdout.splitlines()[-20:]
    print(f"{place}  library tests", *end, sep="\n", flush=True)
    said = re.findall(r"(\d+) (?:failed|error)", done.stdout)
    return sum(map(int, said)) or int(done.returncode != 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Looks in each place; returns 1 if anything moved or failed."""
    options = parse(arguments)
    try:
        paths = execute.find(options.names)
        for place in options.places:
            prepare(environment_of(place))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{sum(map(n_claims, paths))} claims in {len(paths)} notebooks", flush=True)
    found = [line for place in options.places for line in notebooks_in(place, paths)]
    arithmetics = [place for place in options.places if not place.startswith("seeds")]
    failed = sum(map(tests_in, arithmetics)) if options.tests else 0
    claims = sum(line.is_claim for line in found)
    print(f"{len(found)} lines moved, {claims} of them claims; {failed} tests failed")
    return int(bool(found) or failed > 0)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Runs the course as other machines would.")
    parser.add_argument("--in", dest="places", action="append", metavar="PLACE", help="such as sse-2")
    parser.add_argument("--tests", action="store_true", help="the library's tests, too")
    parser.add_argument("names", nargs="*", metavar="NAME", help="how a name begins")
    options = parser.parse_args(arguments)
    options.places = options.places or list(places())
    return options


if __name__ == "__main__":
    sys.exit(main())
