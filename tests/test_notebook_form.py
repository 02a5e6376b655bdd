"""The form of every notebook: executed, described, compared, offline, and built the same way.

A check yields what is wrong with a notebook. Each is shown to fail on a notebook that is wrong in just its way.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

import nbformat
import pytest
from conftest import ROOT
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dgm_exercises.engine import MARKS
from tools.elsewhere import SANITIZER, compared_lines, sanitized, shown_texts
from tools.elsewhere import is_compared as nbval_looks_at

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

HEADINGS = (
    "The question",
    "What you will be able to do",
    "What goes wrong, and how to see it",
    "Exercises",
    "Summary",
    "References",
)
PREDICT = "**Predict first.**"
LEAST_ALT_TEXT = 20
LEAST_EXERCISES = 3
MOST_LINES = 30
MOST_BYTES = 1_500_000
LEAST_COMPARED = 0.6
ALLOWED_MAGICS: tuple[str, ...] = ()
RIGHT, WRONG = MARKS["right"], MARKS["wrong"]

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work|tmp)\b|\bC:\\")
NETWORK_MODULES = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "pooch", "requests", "socket", "urllib"}
NETWORK_CALLS = re.compile(r"fetch(_\w+)?|urlopen|urlretrieve|load_state_dict_from_url")


# ---- reading a notebook --------------------------------------------------------------------------------------------


def code_cells(notebook: NotebookNode) -> list[tuple[str, NotebookNode]]:
    """Each code cell with its name for a message."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [(f"code cell {number}", cell) for number, cell in enumerate(cells, start=1)]


def outputs(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    for name, cell in code_cells(notebook):
        for output in cell.outputs:
            yield name, output


def plain(cell: NotebookNode) -> str:
    """The source without the lines that are allowed though they are no Python."""
    return "\n".join(line for line in cell.source.splitlines() if line.strip() not in ALLOWED_MAGICS)


def tree(cell: NotebookNode) -> ast.Module:
    """The parsed source; empty where it does not parse, which is a problem of its own."""
    try:
        return ast.parse(plain(cell))
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def calls(cell: NotebookNode) -> list[tuple[str, ast.Call]]:
    """Each call with the last part of what is called: check(...), exercises.check(...) -> "check"."""
    found = [node for node in ast.walk(tree(cell)) if isinstance(node, ast.Call)]
    return [(getattr(node.func, "attr", getattr(node.func, "id", "")), node) for node in found]


def headings(notebook: NotebookNode, level: int) -> list[tuple[int, str]]:
    """(number of the cell, text) of each heading of a level, outside of code fences."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            prose = re.sub(r"^```.*?^```", "", cell.source, flags=re.MULTILINE | re.DOTALL)
            found += [(number, text.strip()) for text in re.findall(rf"^#{{{level}}} (.*)$", prose, re.MULTILINE)]
    return found


def section(notebook: NotebookNode, title: str) -> list[NotebookNode]:
    """The cells from a level-2 heading up to the next one."""
    starts = [*headings(notebook, 2), (len(notebook.cells), "")]
    return [cell for (start, text), (end, _) in pairwise(starts) if text == title for cell in notebook.cells[start:end]]


def is_compared(cell: NotebookNode) -> bool:
    """Whether nbval compares something that the cell says: not tagged, not a picture's name, not only ≈ numbers."""
    said = " ".join(compared_lines(cell)) if nbval_looks_at(cell) else ""
    return bool(re.search(r"\w", re.sub(r"≈ #|<Figure size .*?>", "", said)))


# ---- the checks ----------------------------------------------------------------------------------------------------


def is_valid(notebook: NotebookNode) -> Iterator[str]:
    if notebook.nbformat != 4:
        yield f"it is of nbformat {notebook.nbformat}, not 4"
        return
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield error.message


def is_executed_in_order(notebook: NotebookNode) -> Iterator[str]:
    for expected, (name, cell) in enumerate(code_cells(notebook), start=1):
        if cell.execution_count != expected:
            yield f"{name} has the execution count {cell.execution_count}: run `python run.py store`"


def is_stored_by_the_project(notebook: NotebookNode) -> Iterator[str]:
    if notebook.metadata.get("language_info") != {"name": "python"}:
        yield "it names a version of Python: run `python run.py store`"
    for name, cell in code_cells(notebook):
        if "execution" in cell.metadata:
            yield f"{name} carries the time of its execution: run `python run.py store`"


def has_no_error(notebook: NotebookNode) -> Iterator[str]:
    for name, output in outputs(notebook):
        if output.output_type == "error":
            yield f"{name} ends in {output.ename}: {output.evalue}"


def has_no_stderr(notebook: NotebookNode) -> Iterator[str]:
    for name, output in outputs(notebook):
        if output.output_type == "stream" and output.name != "stdout":
            yield f"{name} writes to {output.name}: {output.text[:200]}"


def figures_are_described(notebook: NotebookNode) -> Iterator[str]:
    for name, output in outputs(notebook):
        for kind in output.get("data", {}):
            alt = output.metadata.get(kind, {}).get("alt", "").strip()
            if kind.startswith("image/") and len(alt) < LEAST_ALT_TEXT:
                yield f"a figure of {name} has the alt text {alt!r}, shorter than {LEAST_ALT_TEXT} characters"


def has_one_title(notebook: NotebookNode) -> Iterator[str]:
    titles = headings(notebook, 1)
    if [number for number, _ in titles] != [0]:
        yield f"it needs one first-level heading, in its first cell; there are: {titles}"


def has_the_anatomy(notebook: NotebookNode) -> Iterator[str]:
    there = iter([text for _, text in headings(notebook, 2)])
    for heading in HEADINGS:
        if heading not in there:  # reads on from where the heading before it was found
            yield f"'## {heading}' is missing, or does not stand in the order {HEADINGS}"


def asks_for_a_prediction(notebook: NotebookNode) -> Iterator[str]:
    end = min([number for number, text in headings(notebook, 2) if text == "Exercises"], default=len(notebook.cells))
    before = notebook.cells[:end]
    asked = [n for n, cell in enumerate(before) if cell.cell_type == "markdown" and cell.source.startswith(PREDICT)]
    if not any(cell.cell_type == "code" for n in asked for cell in before[n:]):
        yield f"no text cell before the exercises begins with {PREDICT!r} and has an experiment after it"


def exercise_cells(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, list[str], bool]]:
    """Each code cell of the exercises, what it calls, and whether it has a `...` to fill in."""
    for cell in section(notebook, "Exercises"):
        if cell.cell_type == "code":
            gaps = [node for node in ast.walk(tree(cell)) if isinstance(node, ast.Constant) and node.value is Ellipsis]
            yield cell, [name for name, _ in calls(cell)], bool(gaps)


def has_exercises(notebook: NotebookNode) -> Iterator[str]:
    checks = sum(called.count("check") for _, called, has_gap in exercise_cells(notebook) if has_gap)
    if checks < LEAST_EXERCISES:
        yield f"{checks} of its exercises call check(...) on a `...`, not {LEAST_EXERCISES} or more"


def exercises_are_unsolved(notebook: NotebookNode) -> Iterator[str]:
    """A cell without a gap may only show how a wrong answer is met."""
    for cell, called, has_gap in exercise_cells(notebook):
        said = "".join(output.get("text", "") for output in cell.outputs)
        solved = RIGHT in said or not (has_gap or WRONG in said)
        if "solution" in called or ("check" in called and solved):
            yield f"this exercise is solved, or has no `...` to fill in: {cell.source[:200]}"


def names_no_machine_path(notebook: NotebookNode) -> Iterator[str]:
    texts = [cell.source for cell in notebook.cells]
    texts += [text for _, output in outputs(notebook) for text in shown_texts(output).values()]
    for text in texts:
        for match in MACHINE_PATH.finditer(text):
            yield f"a path of a machine: {text[match.start() : match.start() + 60]!r}"


def needs_no_network(notebook: NotebookNode) -> Iterator[str]:
    for name, cell in code_cells(notebook):
        for node in ast.walk(tree(cell)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (f"{name} imports {m}" for m in modules if m.split(".")[0] in NETWORK_MODULES)
        for called, call in calls(cell):
            if NETWORK_CALLS.fullmatch(called) or any(keyword.arg == "download" for keyword in call.keywords):
                yield f"{name} downloads: {ast.unparse(call)}"


def is_small(notebook: NotebookNode) -> Iterator[str]:
    size = len(json.dumps(notebook, indent=1, ensure_ascii=False).encode())
    if size > MOST_BYTES:
        yield f"it has {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6}"


def is_plain_python(notebook: NotebookNode) -> Iterator[str]:
    for name, cell in code_cells(notebook):
        if not cell.source.strip():
            yield f"{name} is empty"
        try:
            ast.parse(plain(cell))
        except SyntaxError as error:
            yield f"{name} is not plain Python (a magic, a shell escape?): {(error.text or '').strip()}"


def ends_no_line_with_a_semicolon(notebook: NotebookNode) -> Iterator[str]:
    for name, cell in code_cells(notebook):
        yield from (f"{name}: {line}" for line in cell.source.splitlines() if line.rstrip().endswith(";"))


def has_short_cells(notebook: NotebookNode) -> Iterator[str]:
    for name, cell in code_cells(notebook):
        if (n := lines_beside_imports(cell.source)) > MOST_LINES:
            yield f"{name} has {n} lines, more than {MOST_LINES}"


def lines_beside_imports(source: str) -> int:
    """How many lines a reader has to follow: a list of imports is long, and says one thing."""
    try:
        imports = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    except SyntaxError:  # a magic
        imports = []
    return len(source.splitlines()) - sum(node.end_lineno - node.lineno + 1 for node in imports)


def is_compared_for_the_most_part(notebook: NotebookNode) -> Iterator[str]:
    speaking = [(name, cell) for name, cell in code_cells(notebook) if cell.outputs]
    mute = [name for name, cell in speaking if not is_compared(cell)]
    if not speaking or len(mute) > (1 - LEAST_COMPARED) * len(speaking):
        yield f"nbval compares nothing in {len(mute)} of {len(speaking)} cells with output: {', '.join(mute)}"


CHECKS = (
    is_valid,
    is_executed_in_order,
    is_stored_by_the_project,
    has_no_error,
    has_no_stderr,
    figures_are_described,
    has_one_title,
    has_the_anatomy,
    asks_for_a_prediction,
    has_exercises,
    exercises_are_unsolved,
    names_no_machine_path,
    needs_no_network,
    is_small,
    is_plain_python,
    ends_no_line_with_a_semicolon,
    has_short_cells,
    is_compared_for_the_most_part,
)


def test_there_are_notebooks():
    assert NOTEBOOKS, "notebooks/ holds no notebook, so nothing of their form was tested"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_form(check, path):
    problems = list(check(nbformat.read(path, as_version=nbformat.NO_CONVERT)))
    assert not problems, "\n".join(problems)


def definitions(notebook: NotebookNode) -> dict[str, str]:
    """The functions and classes that a notebook defines: what each does -> its name."""
    cells = [cell for _, cell in code_cells(notebook) if "def " in cell.source or "class " in cell.source]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    found = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not is_asked(node)]
    return {"\n".join(map(ast.unparse, node.body)): node.name for node in found}


def is_asked(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether the body is left to the reader."""
    return ast.unparse(node.body[-1]) == "..."


def defined_twice(notebooks: dict[str, NotebookNode]) -> list[str]:
    """What stands in two notebooks, and so belongs into the library."""
    seen, found = {}, []
    for path, notebook in notebooks.items():
        for what, name in definitions(notebook).items():
            if what in seen:
                found.append(f"{path} defines {name}, which {seen[what]} has already")
            seen[what] = path
    return found


def test_no_two_notebooks_define_the_same():
    assert defined_twice({path.stem: nbformat.read(path, as_version=nbformat.NO_CONVERT) for path in NOTEBOOKS}) == []


def test_what_two_notebooks_define_is_seen():
    first, second = (new_notebook(cells=[new_code_cell(f"def {f}(x):\n    return x + 1")]) for f in "fg")
    asked = new_notebook(cells=[new_code_cell("def my_f(x):\n    ...")])
    assert defined_twice({"1": first, "2": second}) == ["2 defines g, which 1 has already"]
    assert defined_twice({"1": first, "2": asked, "3": asked}) == []


# ---- each check fails where it should, and only there --------------------------------------------------------------


def text_output(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def figure_output(alt: str) -> NotebookNode:
    data = {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 640x480 with 1 Axes>"}
    return new_output("display_data", data, metadata={"image/png": {"alt": alt}})


def good_notebook() -> NotebookNode:
    """A notebook that is as it should be, so that one change makes it wrong in one way."""
    exercise = 'def answer(x):\n    return ...\n\n\ncheck("name", answer)'
    cells = [
        new_markdown_cell("# A title\n\n## The question\n\nWhat is it?\n\n```\n# no title\n```"),
        new_markdown_cell("## What you will be able to do\n\nThis and that, see https://example.org/home."),
        new_code_cell("import torch\n\nprint(torch.ones(1))", outputs=[text_output("tensor([1.])")]),
        new_code_cell("show(...)", outputs=[figure_output("A curve that falls from left to right")]),
        new_markdown_cell(f"{PREDICT} Up or down?"),
        new_code_cell("print(x)", outputs=[text_output("NLL ≈ 86.2, below naive Bayes: True")]),
        new_markdown_cell("## What goes wrong, and how to see it\n\nMuch."),
        new_markdown_cell("## Exercises\n\nThree."),
        new_code_cell('check("name", lambda x: -x)', outputs=[text_output(f"{WRONG} name: the sign is flipped")]),
        *[new_code_cell(exercise, outputs=[text_output(f"name: not attempted yet ({n})")]) for n in range(3)],
        new_markdown_cell("## Summary\n\nIt is so.\n\n## References\n\nA. Author 1999: a paper."),
    ]
    for count, cell in enumerate([cell for cell in cells if cell.cell_type == "code"], start=1):
        cell.execution_count = count
    return new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})


def in_code(number: int, **fields: object) -> Callable[[NotebookNode], None]:
    """A change of one code cell, counted from 1."""
    return lambda notebook: code_cells(notebook)[number - 1][1].update(fields)


def in_text(old: str, new: str) -> Callable[[NotebookNode], None]:
    """A change of the text cells."""

    def change(notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace(old, new)

    return change


def says(*texts: str) -> Callable[[NotebookNode], None]:
    """The first code cells print these texts instead."""

    def change(notebook: NotebookNode) -> None:
        for text, (_, cell) in zip(texts, code_cells(notebook)):
            cell.outputs = [text_output(text)]

    return change


SPOILED = [
    (is_valid, lambda notebook: notebook.update(nbformat=3)),
    (is_valid, in_code(1, colour="red")),
    (is_executed_in_order, in_code(1, execution_count=None)),
    (is_executed_in_order, in_code(2, execution_count=7)),
    (is_stored_by_the_project, lambda notebook: notebook.metadata.language_info.update(version="3.11.7")),
    (is_stored_by_the_project, in_code(1, metadata=NotebookNode(execution=NotebookNode(started="now")))),
    (has_no_error, lambda notebook: notebook.cells[3].outputs.append(new_output("error", ename="E", evalue="v"))),
    (has_no_stderr, lambda notebook: notebook.cells[2].outputs.append(text_output("a warning", "stderr"))),
    (figures_are_described, in_code(2, outputs=[figure_output("A curve")])),
    (figures_are_described, lambda notebook: notebook.cells[3].outputs[0].update(metadata=NotebookNode())),
    (has_one_title, in_text("# A title\n", "A title\n")),
    (has_one_title, in_text("Much.", "# Much")),
    (has_the_anatomy, in_text("## Summary", "## To sum up")),
    (has_the_anatomy, in_text("## The question", "### The question")),
    (has_the_anatomy, lambda notebook: notebook.cells.insert(1, notebook.cells.pop(6))),
    (asks_for_a_prediction, in_text(PREDICT, "Predict.")),
    (asks_for_a_prediction, lambda notebook: notebook.cells.insert(6, notebook.cells.pop(4))),
    (has_exercises, in_code(6, source="...")),
    (exercises_are_unsolved, in_code(4, outputs=[text_output("name: agrees with the reference")])),
    (exercises_are_unsolved, in_code(7, source='...\ncheck("name", f)\nsolution("name")')),
    (exercises_are_unsolved, in_code(7, outputs=[text_output(f"{RIGHT} name: agrees with the reference")])),
    (names_no_machine_path, says("in /home/somebody")),
    (names_no_machine_path, in_code(1, source='open("/tmp/x")')),
    (names_no_machine_path, in_text("Much.", "C:\\Users")),
    (needs_no_network, in_code(1, source="import urllib.request")),
    (needs_no_network, in_code(1, source="from requests import get")),
    (needs_no_network, in_code(1, source='load("mnist", download=True)')),
    (needs_no_network, in_code(1, source='published.fetch("mnist")')),
    (is_small, in_text("Much.", "x" * MOST_BYTES)),
    (is_plain_python, in_code(1, source="%matplotlib inline")),
    (is_plain_python, in_code(1, source="!pip list")),
    (is_plain_python, in_code(1, source="torch.randn?")),
    (is_plain_python, in_code(1, source="")),
    (ends_no_line_with_a_semicolon, in_code(1, source="plot(x);")),
    (has_short_cells, in_code(1, source="x = 1\n" * (MOST_LINES + 1))),
    (is_compared_for_the_most_part, says("≈ 1.5", "≈ 2.5", "≈ 3.5 ± 0.1")),
    (
        is_compared_for_the_most_part,
        lambda notebook: [in_code(n, outputs=[])(notebook) for n in range(1, 8)] + [in_code(4, source="x")(notebook)],
    ),
    (
        is_compared_for_the_most_part,
        lambda notebook: [in_code(n, metadata=NotebookNode(tags=["nbval-ignore-output"]))(notebook) for n in (1, 3)],
    ),
    (
        is_compared_for_the_most_part,
        lambda notebook: [in_code(n, source="# NBVAL_IGNORE_OUTPUT\nx")(notebook) for n in (1, 3)],
    ),
]


def failing_checks(notebook: NotebookNode) -> list[str]:
    return [check.__name__ for check in CHECKS if list(check(notebook))]


def test_a_good_notebook_passes_every_check():
    assert failing_checks(good_notebook()) == []


@pytest.mark.parametrize(("check", "spoil"), SPOILED, ids=[check.__name__ for check, _ in SPOILED])
def test_a_spoiled_notebook_fails_just_that_check(check, spoil):
    notebook = good_notebook()
    spoil(notebook)
    assert failing_checks(notebook) == [check.__name__]


def test_every_check_has_a_notebook_that_it_refuses():
    assert {check for check, _ in SPOILED} == set(CHECKS)


# ---- the sanitiser -------------------------------------------------------------------------------------------------

NUMBERS = ["86.2", "-1.3e-05", "−1.3", "+2E+10", "42,000", "1,234,567.5", "7", ".5", "inf", "-inf", "nan", "1.2 ± 0.3"]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_measured_number_becomes_the_same_whatever_it_is(number):
    assert (
        sanitized(f"test NLL ≈ {number} nats, below naive Bayes: True") == "test NLL ≈ # nats, below naive Bayes: True"
    )


def test_the_width_of_a_measured_number_does_not_matter():
    assert sanitized("≈  9.5|≈ 10.5|≈11.5") == "≈ #|≈ #|≈ #"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("≈ 86.", "≈ #."),
        ("≈ 86, 87", "≈ #, 87"),
        ("≈ 86.2, 87.3 ± 0.1", "≈ #, 87.3 ± 0.1"),
        ("≈ 1.2 ± sd", "≈ # ± sd"),
        ("≈ 12 %", "≈ # %"),
    ],
)
def test_only_the_number_itself_is_changed(text, left):
    assert sanitized(text) == left


@pytest.mark.parametrize("text", ["log Z = 86.2174", "0.5 ± 0.1", "≈ infinite", "≈ True", "x ≈ y", "≈", "a\n1.5\n"])
def test_all_else_is_left_as_it_is(text):
    assert sanitized(text) == text


def test_the_sanitiser_is_read_alike_in_every_encoding():
    assert SANITIZER.read_bytes().isascii()
