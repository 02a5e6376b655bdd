"""How often a training step asks its device for a number: each time a GPU would have to be waited for."""

from __future__ import annotations

import sys

import torch

from benchmarks.harness import ROOT, Measurement
from dgm_lib import checks

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools" / "startup")]


def measure(runs: int) -> Measurement:
    """The most that a family asks in one step between two looks at the losses, on the strict device."""
    import strict_device  # before the first gradient
    from families import FAMILIES

    torch.set_default_device("strict")
    asked = {name: asked_by(name, strict_device.n_reads) for name in FAMILIES}
    some = ", ".join(f"{name} {n}" for name, n in asked.items() if n) or "none"
    return Measurement([max(asked.values())] * runs, note=f"{len(asked)} families; with reads: {some}")


def asked_by(name: str, n_reads) -> int:
    """How often a family's second step asks, all of its players together, where n_reads() counts."""
    from families import build

    family = build(name)
    first, second = list(family.split.batches(32))[:2]
    with checks.seldom():
        for objective in family.objectives.values():
            objective.turn(first)
        before = n_reads()
        for objective in family.objectives.values():
            objective.turn(second)
        return n_reads() - before
