"""Networks: what the models of the course are built of. They know nothing of the models.

Images are (B, C, H, W) floats in [0, 1]. Every network ends in a plain linear or convolutional layer: what its output
means (logits, a mean and a log-variance, an energy) is for the model to say.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod

from torch import Tensor, nn


class MLP(nn.Sequential):
    """Fully connected layers: MLP(64, 128, 10) maps (B, …) with 64 numbers an example to (B, 10).

    A tuple as the last size shapes the output: MLP(16, 128, (1, 8, 8)) gives images (B, 1, 8, 8).
    """

    def __init__(self, *sizes: int | tuple[int, ...], activation: Callable[[], nn.Module] = nn.SiLU):
        *inner, last = sizes
        widths = [*inner, prod(last) if isinstance(last, tuple) else last]
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), activation()]
        layers.pop()  # no activation after the last layer
        if isinstance(last, tuple):
            layers.append(nn.Unflatten(1, last))
        super().__init__(*layers)


class ConvEncoder(nn.Sequential):
    """Image to vector: (B, C, H, W) -> (B, n_out). Each of two convolutions halves height and width."""

    def __init__(self, shape: tuple[int, int, int], n_out: int, width: int = 32):
        h, w = _quarter(shape)
        super().__init__(
            nn.Conv2d(shape[0], width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (B, 2w, H/2, W/2)
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 4, stride=2, padding=1),  # (B, 2w, H/4, W/4)
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * h * w, n_out),
        )


class ConvDecoder(nn.Sequential):
    """Vector to image: (B, n_in) -> (B, C, H, W), the mirror of `ConvEncoder`.

    Transposed convolutions whose kernel (4) is a multiple of their stride (2) leave no checkerboard pattern.
    """

    def __init__(self, n_in: int, shape: tuple[int, int, int], width: int = 32):
        h, w = _quarter(shape)
        super().__init__(
            nn.Linear(n_in, 2 * width * h * w),
            nn.Unflatten(1, (2 * width, h, w)),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, 2 * width, 4, stride=2, padding=1),  # (B, 2w, H/2, W/2)
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),  # (B, w, H, W)
            nn.SiLU(),
            nn.Conv2d(width, shape[0], 3, padding=1),
        )


class ResidualBlock(nn.Module):
    """x + f(x), f two 3×3 convolutions. Its last layer starts at zero, so that the block starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.f = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        nn.init.zeros_(self.f[-1].weight)
        nn.init.zeros_(self.f[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class ResidualNet(nn.Sequential):
    """Image to vector through residual blocks: (B, C, H, W) -> (B, n_out); halves the image after each block."""

    def __init__(self, shape: tuple[int, int, int], n_out: int, width: int = 32, blocks: int = 2):
        layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1)]
        for _ in range(blocks):
            layers += [ResidualBlock(width), nn.AvgPool2d(2)]
        h, w = (side // 2**blocks for side in shape[1:])
        if min(h, w) < 1:
            raise ValueError(f"{blocks} blocks halve an image of {shape[1]}×{shape[2]} to nothing: take fewer")
        super().__init__(*layers, nn.SiLU(), nn.Flatten(), nn.Linear(width * h * w, n_out))


def n_parameters(model: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _quarter(shape: tuple[int, int, int]) -> tuple[int, int]:
    height, width = shape[1:]
    if height % 4 or width % 4:
        raise ValueError(f"height and width must be multiples of 4, not {height}×{width}: pad or crop the images")
    return height // 4, width // 4
