"""How often a training step asks its device for a number: each time a GPU would have to be waited for."""

from __future__ import annotations

import sys

import torch

from benchmarks.harness import ROOT, Measurement
from dgm_lib import checks

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools" / "startup")]


def measure(runs: int) -> Measurement:
    """The most that a family asks in one step between two looks at the losses, on the strict device."""
    import strict_device
    from families import FAMILIES, build

    torch.set_default_device("strict")
    asked = {}
    for name in FAMILIES:
        family = build(name)
        first, second = list(family.split.batches(32))[:2]
        with checks.seldom():
            for objective in family.objectives.values():
                objective.turn(first)
            before = strict_device.n_reads()
            for objective in family.objectives.values():
                objective.turn(second)
            asked[name] = strict_device.n_reads() - before
    some = ", ".join(f"{name} {n}" for name, n in asked.items() if n) or "none"
    return Measurement([max(asked.values())] * runs, note=f"{len(asked)} families; with reads: {some}")
