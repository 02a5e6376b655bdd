"""What README.md shows of the stored notebooks: their map, with a picture of each, and the ruler.

python tools/showcase.py   makes both anew, of what is stored
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbformat import NotebookNode

from dgm_lib.measures import ruler

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PICTURES = FOLDER / "pictures"
RESULTS = FOLDER / "results.json"
README = FOLDER.parent / "README.md"
MAP = "<!-- map: made from the notebooks -->", "<!-- end of map -->"
RULER = "<!-- ruler: made from results.json -->", "<!-- end of ruler -->"
POSTER = "poster"  # the tag of the cell whose figure stands in README.md


class Poster(NamedTuple):
    """A figure as a PNG, and what it shows, in words."""

    png: bytes
    alt: str


def poster(notebook: NotebookNode) -> Poster | None:
    """The first figure of the cell tagged `poster`."""
    for cell in notebook.cells:
        if POSTER in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    alt = output.metadata.get("image/png", {}).get("alt", "")
                    return Poster(base64.b64decode(output.data["image/png"]), alt)
    return None


def row(path: Path, notebook: NotebookNode) -> str:
    """A notebook's line of the map: its title, its picture, and the question in bold that it begins with.

    What follows the question, the topics, stands in the notebook's metadata.
    """
    title, question = re.search(r"# (.+?)\n.*?\*\*(.+?)\*\*", notebook.cells[0].source, re.DOTALL).groups()
    found, image = poster(notebook), ""
    if found:
        alt = found.alt.replace('"', "'")
        image = f'<img src="notebooks/pictures/{path.stem}.png" width="260" alt="{alt}">'
    says = f"{question} {notebook.metadata.get('topics', '')}".strip()
    return f"| [{title.replace(' · ', ' ')}](notebooks/{path.name}) | {image} | {says} |"


def shown(readme: str) -> str:
    """README.md's text with the map and with the table of what the notebooks found."""
    head = "| notebook | a picture from it | the one question it answers |\n|---|---|---|\n"
    table = head + "\n".join(row(path, notebook) for path, notebook in stored())
    return ruler.between(ruler.between(readme, MAP, table), RULER, ruler.markdown(ruler.read(RESULTS)))


def stored() -> Iterator[tuple[Path, NotebookNode]]:
    """The notebooks, in their order."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook: Any = nbformat.read(path, as_version=4)  # one, whatever its annotation says
        yield path, notebook


def main() -> None:
    """Writes the pictures, the map and the table."""
    PICTURES.mkdir(exist_ok=True)
    for path, notebook in stored():
        found = poster(notebook)
        if found:
            (PICTURES / f"{path.stem}.png").write_bytes(found.png)
    text = shown(README.read_text(encoding="utf-8"))
    README.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
