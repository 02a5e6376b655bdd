"""What several files of tests use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def close(actual: Tensor, expected: Any, **tolerances: float) -> None:
    """Two tensors agree as far as their type allows; numbers and lists take the type of the first."""
    expected = torch.as_tensor(expected, dtype=actual.dtype, device=actual.device)
    torch.testing.assert_close(actual, expected, **tolerances)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64, that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
