"""What fails in other arithmetics and with other seeds: 0 of all is the promise."""

from __future__ import annotations

from benchmarks.harness import Measurement
from tools import elsewhere
from tools.execute import find

PLACES = ("sse-1", "usual-2", "avx2-1", "compatible-1", "sse-2", "usual-1", "avx2-2", "compatible-2")


def processors(runs: int) -> Measurement:
    """Lines of notebooks that move and tests that fail. Run k is in place k, the one that differs most first."""
    places = PLACES[:runs]
    moved = [len(elsewhere.notebooks_in(place, find([]))) for place in places]
    failed = [elsewhere.tests_in(place) for place in places]
    note = f"{sum(moved)} lines of notebooks, {sum(failed)} tests, in {', '.join(places)}"
    return Measurement([sum(both) for both in zip(moved, failed)], note=note, summary=sum)


def claims(runs: int) -> Measurement:
    """Compared lines that move where all seeds are shifted, a value for each shift: claims, and marks forgotten."""
    paths, shifts = find([]), elsewhere.SHIFTS[:runs]
    lines = [elsewhere.notebooks_in(f"seeds+{shift}", paths) for shift in shifts]
    flipped = sum(line.is_claim for part in lines for line in part)
    asked = sum(map(elsewhere.n_claims, paths))
    note = f"{flipped} of {asked} claims do not hold, {sum(map(len, lines)) - flipped} other lines move"
    return Measurement(list(map(len, lines)), shifts, note, summary=sum)
