"""What a figure is, and how a measurement becomes a row of results.json and a line of README.md's table."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

import torch

from dgm_lib.measures.ruler import between

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results.json"
README = HERE / "README.md"
MARKERS = "<!-- table: made from results.json -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Measurement:
    """One value a run, in the figure's unit.

    summary: what makes the figure of the values. holds: whether the goal is reached, where the value does not say it.
    """

    values: Sequence[float]
    seeds: Sequence[int] = ()
    note: str = ""
    holds: bool | None = None
    summary: Callable[[Sequence[float]], float] = median


@dataclass(frozen=True)
class Figure:
    """A number that the project promises.

    goal: a bound such as "≥ 0.95" or "≤ 300", or words where `measure` itself says whether it holds.
    measure: measure(runs) does it that many times.
    """

    id: str
    what: str
    goal: str
    unit: str
    measure: Callable[[int], Measurement]
    runs: int = 5


def reaches(goal: str, value: float) -> bool:
    """Whether a value keeps a bound such as "≥ 0.95". Raises ValueError where the goal is not a bound."""
    sign, _, bound = goal.partition(" ")
    if sign not in ("≥", "≤"):
        raise ValueError(f"the goal {goal!r} is not a bound such as '≥ 0.95': the measurement must say if it holds")
    return value >= float(bound) if sign == "≥" else value <= float(bound)


def alternate(runs: int, *measures: Callable[[int], float]) -> list[tuple[float, ...]]:
    """The values of each measure, called as measure(seed) in turn: A B A B …, so that a slow spell hits all of them.

    One turn before them warms up and is not counted.
    """
    for measure in measures:
        measure(0)
    turns = [[measure(seed) for measure in measures] for seed in range(runs)]
    return list(zip(*turns))


# ---- results.json --------------------------------------------------------------------------------------------------


def as_row(figure: Figure, measurement: Measurement, command: str) -> dict:
    """The row of results.json that says what was measured, how, and on what."""
    value = measurement.summary(measurement.values)
    return {
        "id": figure.id,
        "value": significant(value),
        "unit": figure.unit,
        "goal": figure.goal,
        "holds": reaches(figure.goal, value) if measurement.holds is None else measurement.holds,
        "spread": [significant(min(measurement.values)), significant(max(measurement.values))],
        "runs": len(measurement.values),
        "seeds": list(measurement.seeds),
        "command": command,
        "device": device_in_words(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "note": measurement.note,
    }


def significant(value: float) -> float:
    """The value to four significant digits: more of them would only be noise."""
    return float(f"{value:.4g}")


def device_in_words() -> str:
    """What the figures were measured on, such as "2 CPU cores (x86_64, AVX512)"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def read_rows() -> list[dict]:
    """The rows measured so far, in the order of their ids."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def store(row: dict) -> None:
    """Puts the row in the place of the one with its id; the other rows stay."""
    rows = [other for other in read_rows() if other["id"] != row["id"]] + [row]
    rows.sort(key=lambda row: row["id"])
    replace(RESULTS, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


def replace(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new one, never half of it."""
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


# ---- README.md -----------------------------------------------------------------------------------------------------


def table(figures: Sequence[Figure], rows: list[dict]) -> str:
    """The Markdown table of all figures, with what was measured last."""
    measured = {row["id"]: row for row in rows}
    lines = ["| figure | what | goal | measured | spread | holds | on |", "|---|---|---|---|---|---|---|"]
    for figure in figures:
        cells = [f"`{figure.id}`", figure.what, figure.goal, *measured_cells(measured.get(figure.id))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measured_cells(row: dict | None) -> list[str]:
    """The cells measured, spread, holds and on of a row; dashes where nothing was measured yet."""
    if row is None:
        return ["–"] * 4
    low, high = row["spread"]
    measured = f"{row['value']:g} {row['unit']}" + (f"; {row['note']}" if row["note"] else "")
    on = f"{row['device']}, torch {row['torch']}, {row['date']}"
    return [measured, f"{low:g}–{high:g} in {row['runs']} runs", "yes" if row["holds"] else "**no**", on]


def write_table(figures: Sequence[Figure]) -> None:
    """Makes README.md's table anew from results.json."""
    replace(README, between(README.read_text(encoding="utf-8"), MARKERS, table(figures, read_rows())))
