"""The 1,797 hand-written digits that come with scikit-learn: 8×8 pixels of 17 grey levels."""

from __future__ import annotations

import torch

from dgm_lib.datasets import paths
from dgm_lib.datasets.core import Data, Split

LEVELS = 17
TRAIN, VALIDATION, TEST = slice(0, 1000), slice(1000, 1350), slice(1350, 1797)


def load(name: str = "digits") -> Data:
    """x: (N, 1, 8, 8) uint8 levels 0 … 16; y: the digit. Split 1,000 / 350 / 447 in the stored order.

    The stored order keeps each writer's digits together, so most of the test part is by writers that training never
    saw. This is the split of Tomczak 2022 (Deep Generative Modeling), which makes numbers comparable.
    """
    from sklearn.datasets import load_digits

    stored = load_digits()
    x = torch.from_numpy(stored.images).to(torch.uint8).unsqueeze(1)
    whole = Split(x, torch.from_numpy(stored.target).long(), LEVELS)
    train, validation, test = (whole.take(rows) for rows in (TRAIN, VALIDATION, TEST))
    return Data(name, train, validation, test, tuple("0123456789"), paths.card("digits"))
