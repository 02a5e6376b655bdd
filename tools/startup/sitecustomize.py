"""Makes this Python another machine: other random streams, or a second device.

Python reads this file at its start where the folder is on PYTHONPATH. DGM_SHIFT shifts
every seed. What the course draws as its data, and the inputs of its exercises, are the
same on every machine, so they stay. DGM_DEVICE=strict brings the strict device.
"""

import os
import sys

SHIFT = int(os.environ.get("DGM_SHIFT", "0"))
FIXED = (
    "dgm_lib.datasets.toy2d",
    "dgm_lib.datasets.glyphs",
    "dgm_lib.datasets.patches",
    "dgm_exercises",
)


def shift_seeds() -> None:
    import torch

    seed_all = torch.manual_seed

    class Generator(torch.Generator):
        def manual_seed(self, seed):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            return super().manual_seed(seed if caller.startswith(FIXED) else seed + SHIFT)

    torch.Generator = Generator
    torch.manual_seed = torch.random.manual_seed = lambda seed: seed_all(seed + SHIFT)


if SHIFT:
    shift_seeds()
if os.environ.get("DGM_DEVICE") == "strict":
    import strict_device  # noqa: F401
