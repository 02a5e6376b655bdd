"""The plan of the library, counted: rooms, lines, long functions, and public names that nobody uses."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import ROOT, Measurement

LIBRARY = ROOT / "dgm_lib"
LONGEST = 40
USERS = ("dgm_lib/**/*.py", "dgm_exercises/**/*.py", "benchmarks/*.py", "tools/**/*.py", "data/*.py")


def rooms(runs: int) -> Measurement:
    """Files and folders that a reader sees when the library's folder is opened."""
    found = sorted(p.stem for p in LIBRARY.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists())
    found.remove("__init__")
    note = f"{', '.join(found)}; functions over {LONGEST} lines: {len(long_functions())}"
    return Measurement([len(found)] * runs, note=note)


def lines(runs: int) -> Measurement:
    """Lines of the library, empty ones and docstrings included; public names without a use."""
    n = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules())
    return Measurement([n] * runs, note=f"public names without a use: {', '.join(unused_names()) or 'none'}")


def modules() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


def long_functions() -> list[str]:
    """Functions of more than so many lines, docstring aside."""
    found = []
    for path in modules():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                documented = ast.get_docstring(node) is not None
                first = node.body[0].end_lineno + 1 if documented else node.lineno
                if node.end_lineno - first + 1 > LONGEST:
                    found.append(f"{path.relative_to(ROOT)}: {node.name}")
    return found


def unused_names() -> list[str]:
    """Public functions, classes, methods and constants that nothing names but their own definition."""
    used = {path: Counter(names(tree)) for path, tree in trees()}
    return [
        f"{path.relative_to(LIBRARY)}: {qualified}"
        for path in modules()
        for name, qualified in defined(parsed(path))
        if not any(name in found for found in used.values())
    ]


def trees() -> Iterator[tuple[Path, ast.AST]]:
    """The code of whatever may use the library: modules, and the cells of notebooks."""
    for pattern in USERS:
        for path in sorted(ROOT.glob(pattern)):
            yield path, parsed(path)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield path, ast.parse("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))


def names(tree: ast.AST) -> Iterator[str]:
    """The names that are read: variables, attributes, what is imported; a re-export is no use."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def defined(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, qualified name) of each public definition."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node.name
            for part in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
                    yield part.name, f"{node.name}.{part.name}"
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    yield target.id, target.id


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
