"""What the notebooks found, in one file, so that all models of the course stand on one ruler.

A notebook says what it measured with `record`. The job that executes notebooks names the file in DGM_RESULTS; where
nobody names one, nothing is written. The table in README.md is made of that file, and no number is typed by hand.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

Rows = Mapping[str, Mapping[str, float]]  # model -> figure -> value

FIGURES = {
    "nats": ("nats", ".1f"),
    "error": ("error, %", ".1f"),
    "ece": ("ECE", ".3f"),
    "frechet": ("Fréchet distance", ".2f"),
    "train_seconds": ("seconds to train", ".1f"),
    "sample_seconds": ("seconds for 1,000 samples", ".2f"),
}


def record(notebook: str, rows: Rows) -> None:
    """Adds rows such as {"naive Bayes": {"nats": 99.8}} to what a notebook, such as "01", found on `digits`.

    nats: per test image of the discrete pixels, a bound where the model has no more. error: % of the test images.
    ece: expected calibration error. frechet: from the test images, in the features of the judge of digits.
    train_seconds, sample_seconds: on the machine that stored the notebook.
    Raises ValueError for a figure that is not one of these, or not finite: it would stand in the table.
    """
    for model, figures in rows.items():
        for figure, value in figures.items():
            if figure not in FIGURES:
                raise ValueError(f"{model} has a figure {figure!r}: the ruler knows {', '.join(FIGURES)}")
            if not math.isfinite(value):
                raise ValueError(f"{figure} of {model} is {value}: leave out what could not be measured")
    file = os.environ.get("DGM_RESULTS")
    if file:
        results = read(Path(file))
        results.setdefault(notebook, {})
        for model, figures in rows.items():
            results[notebook].setdefault(model, {}).update(figures)
        write(Path(file), results)


def read(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Notebook -> model -> figure -> value; empty where there is no file yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, results: Mapping[str, Rows]) -> None:
    """Stores what `read` gives back, notebooks in order, five significant digits: more of them would only be noise."""
    rounded = {
        notebook: {
            model: {figure: float(f"{value:.5g}") for figure, value in figures.items()}
            for model, figures in results[notebook].items()
        }
        for notebook in sorted(results)
    }
    path.write_text(json.dumps(rounded, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def markdown(results: Mapping[str, Rows]) -> str:
    """The table of all models, one line each with the notebooks that it is from: the fewest nats first, then errors."""
    merged: dict[str, dict[str, float]] = {}
    found_in: dict[str, list[str]] = {}
    for notebook, rows in sorted(results.items()):
        for model, figures in rows.items():
            merged.setdefault(model, {}).update(figures)
            found_in.setdefault(model, []).append(notebook)
    shown = [figure for figure in FIGURES if any(figure in figures for figures in merged.values())]
    lines = [
        f"| model | {' | '.join(FIGURES[figure][0] for figure in shown)} | notebook |",
        f"|---|{'---:|' * len(shown)}---|",
    ]
    for model in sorted(merged, key=lambda model: [merged[model].get(figure, math.inf) for figure in FIGURES]):
        cells = [
            format(merged[model][figure], FIGURES[figure][1]) if figure in merged[model] else "" for figure in shown
        ]
        lines.append(f"| {model} | {' | '.join(cells)} | {', '.join(found_in[model])} |")
    return "\n".join(lines)


def between(text: str, markers: tuple[str, str], made: str) -> str:
    """A text with `made` between its two markers. Raises ValueError unless each of them stands there once."""
    begin, end = markers
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the text must hold the lines {begin!r} and {end!r} once each")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{made}\n\n{end}{rest.partition(end)[2]}"
