"""nbval compares: it fails where the library is broken on purpose, at an output, and passes where it is not.

For each break of the library in the files of `tests/notebooks`: what the claim that it turns needs is run twice in one
kernel by the command of `python run.py test`, first with the library as it is, then with the break. nbval must pass the
first and fail the second.
"""

from __future__ import annotations

import ast
import dis
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType

import nbformat
import pytest
from broken_library import BREAKS, nothing
from conftest import ROOT
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

# The notebooks, and for each break the one that must notice it.
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
for path in sorted((ROOT / "tests" / "notebooks").glob("test_*.py")):
    import_module(f"notebooks.{path.stem}")
NOTICED = {name: known.module.rpartition(".test_")[2] for name, known in BREAKS.items() if known.claim}
SMALL = [
    "import torch\n\nfrom dgm_lib.datasets import core",
    'print("a number that moves ≈", torch.rand(()).item())\nprint("levels as floats:", core.scale(torch.arange(3), 3))',
]
SMALL_CLAIM = "levels as floats"
IGNORED = {"tags": ["nbval-ignore-output"]}


# ---- the part of a notebook that a claim needs ---------------------------------------------------------------------


def names(cell: NotebookNode) -> tuple[set[str], set[str]]:
    """The names that a cell needs from others, and those that it makes or puts something into."""
    code = compile(cell.source, "a cell", "exec")
    needed, made = set(), set()
    for step in dis.get_instructions(code):
        if step.opname == "STORE_NAME":
            made.add(step.argval)
        elif step.opname == "LOAD_NAME" and step.argval not in made:
            needed.add(step.argval)
    return needed | (set(globals_within(code)) - made), made | set(filled(cell.source))


def filled(source: str) -> Iterator[str]:
    """The names of tables that get an entry: name[key] = value."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            yield node.value.id


def globals_within(code: CodeType) -> Iterator[str]:
    """The global names of all functions that a piece of code defines."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from (step.argval for step in dis.get_instructions(inner) if step.opname == "LOAD_GLOBAL")
            yield from globals_within(inner)


def printed(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def what_it_needs(notebook: NotebookNode, claim: str) -> list[NotebookNode]:
    """The cell that prints a claim, after those that make the names which it needs."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (place,) = [k for k, cell in enumerate(code) if claim in printed(cell)] or pytest.fail(f"no cell prints {claim!r}")
    found, (needed, _) = [code[place]], names(code[place])
    for cell in reversed(code[:place]):
        needs, makes = names(cell)
        if makes & needed:
            found.insert(0, cell)
            needed = (needed - makes) | needs
    return found


def twice(cells: list[NotebookNode], name: str, claim: str) -> NotebookNode:
    """A notebook that runs the cells as they are, breaks the library, and runs them again; compares both claims."""
    begin = f"import broken_library\nimport {BREAKS[name].module}"
    if batches := BREAKS[name].batches:
        begin += f"\nbroken_library.shorten_training({batches})"
    end = f"assert broken_library.calls[{name!r}], 'the break is never called'"
    run = [new_code_cell(cell.source, metadata=IGNORED) for cell in cells]
    run[-1].source = "%%capture told\n" + run[-1].source
    shown = new_code_cell(f"print(*[line for line in told.stdout.splitlines() if {claim!r} in line])")
    line = next(line for line in printed(cells[-1]).splitlines() if claim in line)
    shown.outputs = [new_output("stream", text=line + "\n")]
    code = [new_code_cell(begin), *run, shown, new_code_cell(f"broken_library.break_({name!r})"), *run, shown]
    copies = [deepcopy(cell) for cell in [*code, new_code_cell(end)]]
    for k, cell in enumerate(copies):
        cell.update(id=f"cell-{k}", execution_count=k + 1)  # nbval compares what was executed
    return new_notebook(cells=copies)


# ---- nbval ---------------------------------------------------------------------------------------------------------


def nbval(run_script: ModuleType, notebook: Path) -> tuple[list[int], str]:
    """Runs nbval as `python run.py test` does, on one notebook: the cells that fail, and what is said."""
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment |= {"PYTHONPATH": paths, "TQDM_DISABLE": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, *run_script.NBVAL, "-rfE", "--color=no", "-p", "no:cacheprovider", str(notebook)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    said = done.stdout + done.stderr
    assert done.returncode in (0, 1), said
    return [int(number) for number in re.findall(r"^FAILED .*::Cell (\d+)", said, re.MULTILINE)], said


@pytest.fixture(scope="module")
def small_notebook(notebook_runner: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook that uses the library, executed and stored as the course's own are."""
    path = tmp_path_factory.mktemp("notebooks") / "small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in SMALL]), path)
    run = notebook_runner.execute(path)
    assert run.failure == ""
    notebook_runner.write(run.notebook, path)
    return path


def test_nbval_passes_on_the_library_as_it_is(run_script, small_notebook):
    failed, said = nbval(run_script, small_notebook)
    assert failed == []
    assert "2 passed" in said


def test_a_break_that_breaks_nothing_is_not_noticed(run_script, small_notebook, tmp_path):
    cells = nbformat.read(small_notebook, as_version=4).cells
    nbformat.write(twice(cells, nothing.__name__, SMALL_CLAIM), tmp_path / "twice.ipynb")
    failed, said = nbval(run_script, tmp_path / "twice.ipynb")
    assert failed == [], said


def test_a_break_that_is_never_called_fails(run_script, small_notebook, tmp_path):
    cells = nbformat.read(small_notebook, as_version=4).cells
    elsewhere = next(name for name in NOTICED if BREAKS[name].original is not BREAKS[nothing.__name__].original)
    nbformat.write(twice(cells, elsewhere, SMALL_CLAIM), tmp_path / "twice.ipynb")
    failed, said = nbval(run_script, tmp_path / "twice.ipynb")
    assert failed == [8]
    assert "the break is never called" in said


def test_every_notebook_notices_a_break():
    assert sorted(set(NOTICED.values())) == NAMES


@pytest.mark.parametrize(("notebook", "name"), [(notebook, name) for name, notebook in NOTICED.items()])
def test_nbval_fails_where_the_library_is_broken(run_script, tmp_path, notebook, name):
    path, claim = ROOT / "notebooks" / f"{notebook}.ipynb", BREAKS[name].claim
    cells = what_it_needs(nbformat.read(path, as_version=4), claim)
    nbformat.write(twice(cells, name, claim), tmp_path / path.name)
    failed, said = nbval(run_script, tmp_path / path.name)
    assert failed == [2 * len(cells) + 3], said
    assert "Cell outputs differ" in said
    assert "Cell execution caused an exception" not in said
