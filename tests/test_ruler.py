"""What the notebooks record, and what README.md shows of it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, load_script
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dgm_lib.measures import ruler

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def showcase():
    return load_script(ROOT / "tools" / "showcase.py")


# ---- recording -----------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    monkeypatch.setenv("DGM_RESULTS", str(path))
    return path


def test_rows_of_several_cells_and_notebooks_come_together(file):
    ruler.record("04", {"VAE": {"nats": 87.654321}, "PPCA": {"nats": 154.3}})
    ruler.record("04", {"VAE": {"frechet": 0.5}})
    ruler.record("01", {"naive Bayes": {"nats": 99.8, "error": 14.8}})
    assert ruler.read(file) == {
        "01": {"naive Bayes": {"nats": 99.8, "error": 14.8}},
        "04": {"VAE": {"nats": 87.654, "frechet": 0.5}, "PPCA": {"nats": 154.3}},
    }
    assert list(ruler.read(file)) == ["01", "04"]


def test_who_runs_a_notebook_by_hand_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("DGM_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    ruler.record("01", {"naive Bayes": {"nats": 99.8}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"GAN": {"bits": 1.0}}, "GAN has a figure 'bits': the ruler knows nats, error, ece"),
        ({"GAN": {"nats": float("nan")}}, "nats of GAN is nan: leave out what could not be measured"),
        ({"GAN": {"error": float("inf")}}, "error of GAN is inf"),
    ],
)
def test_what_the_ruler_does_not_know_is_refused_and_nothing_is_lost(file, rows, said):
    ruler.record("07", {"VAE": {"nats": 1.0}})
    with pytest.raises(ValueError, match=re.escape(said)):
        ruler.record("07", rows)
    assert ruler.read(file) == {"07": {"VAE": {"nats": 1}}}


# ---- the table -----------------------------------------------------------------------------------------------------


def test_the_table_has_a_line_a_model_and_a_column_a_figure_that_is_known():
    found = {
        "01": {"naive Bayes": {"nats": 99.84}, "uniform": {"nats": 181.3}},
        "09": {"1-NN": {"error": 4.7}, "naive Bayes": {"error": 14.77}},
    }
    assert ruler.markdown(found).splitlines() == [
        "| model | nats | error, % | notebook |",
        "|---|---:|---:|---|",
        "| naive Bayes | 99.8 | 14.8 | 01, 09 |",
        "| uniform | 181.3 |  | 01 |",
        "| 1-NN |  | 4.7 | 09 |",
    ]


def test_a_text_is_put_between_its_markers_which_must_stand_once():
    assert ruler.between("a <x> old <y> b", ("<x>", "<y>"), "new") == "a <x>\n\nnew\n\n<y> b"
    for text in ("a <x> b", "<x> <y> <y>", ""):
        with pytest.raises(ValueError, match="must hold the lines '<x>' and '<y>' once each"):
            ruler.between(text, ("<x>", "<y>"), "new")


# ---- README.md -----------------------------------------------------------------------------------------------------


def test_the_readme_shows_what_the_notebooks_found(showcase):
    text = showcase.README.read_text(encoding="utf-8")
    assert showcase.shown(text) == text
    assert ruler.read(showcase.RESULTS)


def test_what_is_recorded_stands_in_the_stored_outputs(showcase):
    """A figure of results.json that its notebook does not print has not been seen by any reader of it."""
    for notebook, rows in ruler.read(showcase.RESULTS).items():
        (path,) = (path for path in NOTEBOOKS if path.name.startswith(notebook))
        printed = printed_numbers(nbformat.read(path, as_version=4))
        for model, figures in rows.items():
            for figure, value in figures.items():
                if not figure.endswith("seconds"):  # a notebook rounds them as it likes
                    shown = format(value, ruler.FIGURES[figure][1])
                    assert shown in printed, f"{notebook}: {figure} of {model}, {shown}, stands in no output"


def printed_numbers(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return set(re.findall(r"\d+\.\d+", " ".join(output.get("text", "") for output in outputs)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_each_notebook_has_its_picture_in_the_readme(showcase, path):
    stored = showcase.poster(nbformat.read(path, as_version=4))
    picture = showcase.PICTURES / f"{path.stem}.png"
    assert stored is not None, f"tag a cell of {path.name} with {showcase.POSTER!r}"
    assert picture.read_bytes() == stored.png
    text = showcase.README.read_text(encoding="utf-8")
    assert f"notebooks/pictures/{picture.name}" in text
    assert f"notebooks/{path.name}" in text


def test_a_poster_is_the_first_figure_of_the_tagged_cell(showcase):
    png = new_output("display_data", data={"image/png": "aGFsbG8="})
    cells = [new_markdown_cell("a"), new_code_cell("1", outputs=[new_output("stream", text="a"), png])]
    notebook = new_notebook(cells=cells)
    assert showcase.poster(notebook) is None
    cells[1].metadata["tags"] = ["poster"]
    assert showcase.poster(notebook) == (b"hallo", "")


def test_a_line_of_the_map_is_the_notebooks_own(showcase):
    notebook = new_notebook(cells=[new_markdown_cell("# 07 · A b\n\n## The question\n\n**Why $x$?** Because.")])
    assert showcase.row(Path("07_a.ipynb"), notebook) == "| [07 A b](notebooks/07_a.ipynb) |  | Why $x$? |"
    notebook.metadata["topics"] = "This; that"
    picture = new_output("display_data", data={"image/png": "aGFsbG8="}, metadata={"image/png": {"alt": 'a "b"'}})
    notebook.cells.append(new_code_cell("1", outputs=[picture], metadata={"tags": ["poster"]}))
    image = """<img src="notebooks/pictures/07_a.png" width="260" alt="a 'b'">"""
    assert showcase.row(Path("07_a.ipynb"), notebook).split(" | ")[1:] == [image, "Why $x$? This; that |"]
