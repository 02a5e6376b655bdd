"""How long the exercises are, with the engine that judges answers to them."""

from __future__ import annotations

from benchmarks.harness import ROOT, Measurement

FOLDER = ROOT / "dgm_exercises"


def measure(runs: int) -> Measurement:
    """All lines of the folder, once: they do not change between runs."""
    paths = sorted(FOLDER.rglob("*.py"))
    lines = {str(path.relative_to(FOLDER)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    return Measurement([sum(lines.values())] * runs, note=", ".join(f"{name} {n}" for name, n in lines.items()))
