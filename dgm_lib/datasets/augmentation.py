"""Examples changed at random in ways that leave their class as it is: (B, C, H, W) -> (B, C, H, W), seeded by torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from dgm_lib import checks


def shifted(x: Tensor, pixels: int = 1) -> Tensor:
    """Each image moved by −pixels … pixels along each axis, all equally likely; zeros flow in at the border."""
    _check_images(x)
    if not 0 <= pixels < min(x.shape[2:]):
        raise ValueError(f"pixels is {pixels} for images of {x.shape[2]}×{x.shape[3]}: it must be ≥ 0 and below both")
    checks.check_whole(0, pixels=pixels)
    down, right = torch.randint(2 * pixels + 1, (2, len(x), 1), device=x.device)
    rows = down + torch.arange(x.shape[2], device=x.device)  # (B, H) of the padded image
    columns = right + torch.arange(x.shape[3], device=x.device)
    padded = pad(x, [pixels] * 4).movedim(1, -1)  # (B, H, W, C)
    each = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None]].movedim(-1, 1).contiguous()


def masked(x: Tensor, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """x with zeros where pixels are taken away, and `known`, (B, 1, H, W), bool, True where they stay.

    share: the probability with which a pixel goes, alone and with all its channels.
    """
    _check_images(x)
    if not 0 <= share <= 1:
        raise ValueError(f"the share is {share:g}: it must lie in 0 … 1")
    known = torch.rand(len(x), 1, *x.shape[2:], device=x.device) >= share
    return x.masked_fill(~known, 0), known


def _check_images(x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"expected images (B, C, H, W), got the shape {tuple(x.shape)}: add the axes that lack")
