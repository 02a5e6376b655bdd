"""What README.md shows of the stored notebooks: a picture of each, and the ruler.

python tools/showcase.py   makes both anew, of what is stored
"""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dgm_lib.measures import ruler

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PICTURES = FOLDER / "pictures"
RESULTS = FOLDER / "results.json"
README = FOLDER.parent / "README.md"
MARKERS = "<!-- ruler: made from results.json -->", "<!-- end of ruler -->"
POSTER = "poster"  # the tag of the cell whose figure stands in README.md


def poster(notebook: NotebookNode) -> bytes | None:
    """The first figure of the cell tagged `poster`, as a PNG."""
    for cell in notebook.cells:
        if POSTER in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output.data["image/png"])
    return None


def shown(readme: str) -> str:
    """README.md's text with the table of what the notebooks found."""
    found = ruler.read(RESULTS)
    return ruler.between(readme, MARKERS, ruler.markdown(found))


def main() -> None:
    """Writes the pictures and the table."""
    PICTURES.mkdir(exist_ok=True)
    for path in sorted(FOLDER.glob("*.ipynb")):
        picture = poster(nbformat.read(path, as_version=4))
        if picture:
            (PICTURES / f"{path.stem}.png").write_bytes(picture)
    text = shown(README.read_text(encoding="utf-8"))
    README.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
