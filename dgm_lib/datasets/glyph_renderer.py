"""From known factors to an image of a letter or digit, in whole numbers only: the same bytes on every machine.

The sheet data/glyphs/sheet.png holds one signed distance field for each typeface and character: how far a place lies
inside (+) or outside (−) the ink. The image of a glyph is the field, warped, moved by half the stroke and cut at 0.

    p = shift + scale · Rotation · Shear · q        q: place on the base glyph, p: place in the image, in pixels
    ink(p) = clip(1/2 + scale · distance(q) + stroke / 2, 0, 1)

Floating point enters twice: to put the factors on their grids, by products with powers of two, which are exact; and
for cos and sin, which are rounded to 1/2^14, so that the last bit, in which mathematics libraries differ, is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dgm_lib.datasets import paths

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TYPEFACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmti10", "cmss10", "cmtt10"),
)  # rows of the sheet; its columns are CLASSES

SIDE = 28  # pixels of an image
CELL = 46  # base pixels a side of a glyph's field: 16 to 7 pixels of an image at scale 1
UNIT = 14  # field levels to one base pixel of distance, so 32 to a pixel; 128 is the outline

# factor -> (steps to one unit, least, greatest, value when it is not given)
FACTORS = {
    "class": (1, 0, len(CLASSES) - 1, None),
    "typeface": (1, 0, len(TYPEFACES) - 1, 0),
    "rotation": (8, -360, 360, 0),
    "shear": (64, -1, 1, 0),
    "scale": (64, 0.5, 1.5, 1),
    "stroke": (16, -1, 1.5, 0),
    "x": (16, -SIDE, SIDE, 0),
    "y": (16, -SIDE, SIDE, 0),
}
CHUNK = 256  # images drawn at a time: the working arrays stay in the processor's cache


def render(factors: Mapping[str, Tensor | float]) -> Tensor:
    """The images of these factors, (N, 1, 28, 28) uint8: 0 is paper, 255 is ink.

    Each factor is a number or a tensor of N numbers; only "class" must be there.
    class: index in CLASSES. typeface: index in TYPEFACES (default 0).
    rotation: degrees, counter-clockwise. shear: columns to the right per row upwards, so positive leans like italics.
    scale: at 1 a glyph is 14 rows high, or less if it is wide. stroke: pixels by which lines are thicker.
    x, y: pixels to the right and downwards from the image's centre to that of the glyph's bounding box before warping.
    Rotation is rounded to 1/8, shear and scale to 1/64, stroke, x and y to 1/16.
    Raises ValueError for an unknown factor and for a value outside the range that FACTORS gives.
    """
    return torch.as_tensor(draw(on_grid(factors)))  # on torch's default device


def on_grid(factors: Mapping[str, Tensor | float]) -> dict[str, np.ndarray]:
    """Every factor as (N,) int64 steps of its grid."""
    if unknown := [name for name in factors if name not in FACTORS]:
        raise ValueError(f"there is no factor {unknown[0]!r}; there are: {', '.join(FACTORS)}")
    if "class" not in factors:
        raise ValueError(f"factors must hold 'class', an index in {CLASSES!r}")
    steps = [_steps(name, factors.get(name, FACTORS[name][3])) for name in FACTORS]
    return dict(zip(FACTORS, np.broadcast_arrays(*steps)))


def _steps(name: str, value: Tensor | float) -> np.ndarray:
    per_unit, least, greatest, _ = FACTORS[name]
    values = np.atleast_1d(torch.as_tensor(value).detach().cpu().double().numpy())
    wrong = values[~((values >= least) & (values <= greatest))]  # so that nan is wrong too
    if wrong.size:
        raise ValueError(f"{name} is {wrong[0]:g}: it must lie between {least} and {greatest}")
    return np.rint(values * per_unit).astype(np.int64)


def in_units(steps: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The factors (N,) of these steps: indices as int64, the rest as float32, which holds every step exactly."""
    indices = {name: torch.as_tensor(steps[name]) for name in ("class", "typeface")}
    return indices | {
        name: torch.as_tensor(steps[name]).float() / FACTORS[name][0] for name in FACTORS if name not in indices
    }


def draw(steps: Mapping[str, np.ndarray]) -> np.ndarray:
    """The images (N, 1, 28, 28) uint8 of factors given as steps of their grids, (N,) int64 each."""
    glyph = (steps["typeface"] * len(CLASSES) + steps["class"]).astype(np.int32)
    plan = np.stack([glyph, *_inverse(steps), steps["x"], steps["y"], steps["scale"], steps["stroke"]])
    images = np.empty((len(glyph), SIDE * SIDE), np.uint8)
    for start in range(0, len(glyph), CHUNK):
        rows = slice(start, start + CHUNK)
        images[rows] = _draw(*plan[:, rows, None].astype(np.int32))
    return images.reshape(-1, 1, SIDE, SIDE)


def _inverse(steps: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The matrix that takes a place in the image back to the base glyph, row by row, times 2^12 · 8/7.

    The 8/7 is there because 14 pixels are 32 base pixels, counted in halves. In the frame of an image, where y points
    down, Shear = (1, −s; 0, 1) and Rotation = (cos, sin; −sin, cos).
    """
    radians = np.deg2rad(steps["rotation"] / FACTORS["rotation"][0])
    cos, sin = (np.rint(f(radians) * 2**14).astype(np.int64) for f in (np.cos, np.sin))
    shear, scale = steps["shear"], steps["scale"]  # both in 1/64
    entries = (64 * cos + shear * sin, -64 * sin + shear * cos, 64 * sin, 64 * cos)  # times 2^20
    return [(8 * entry + 14 * scale) // (28 * scale) for entry in entries]  # over scale / 64, rounded


def _draw(glyph, xx, xy, yx, yy, x, y, scale, stroke) -> np.ndarray:
    """(n, 784) uint8 from columns (n, 1) int32."""
    u, v = _places()
    u, v = u - x, v - y  # 1/16 pixel, from the glyph's centre
    middle = (CELL // 2) * 256 - 128 + 256  # in the padded cell, where pixel k covers k − 1/2 … k + 1/2
    column = ((xx * u + xy * v) >> 7) + middle  # 1/256 base pixel
    row = ((yx * u + yy * v) >> 7) + middle
    distance = _interpolate(glyph, row, column)  # 1/2^13 pixel
    ink = distance * scale + (1 << 18) + (stroke << 14)  # 1/2^19
    return (np.clip(ink, 0, 1 << 19) * 255 + (1 << 18) >> 19).astype(np.uint8)


@cache
def _places() -> tuple[np.ndarray, np.ndarray]:
    """The centres of all pixels, columns and rows, (784,) int32, in 1/16 pixel from the image's centre."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.int32).reshape(2, -1)
    return 16 * columns + 8 - 8 * SIDE, 16 * rows + 8 - 8 * SIDE


def _interpolate(glyph: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The field between its pixels: bilinear, from places in 1/256 base pixel; the result is 256 times a level."""
    side = CELL + 2
    row, column = (np.clip(place, 0, (side - 1) * 256 - 1) for place in (row, column))
    down, right = row & 255, column & 255
    corner = glyph * side**2 + (row >> 8) * side + (column >> 8)
    field = _fields()
    upper = (field[corner] << 8) + right * (field[corner + 1] - field[corner])
    lower = (field[corner + side] << 8) + right * (field[corner + side + 1] - field[corner + side])
    return ((upper << 8) + down * (lower - upper)) >> 8


@cache
def _fields() -> np.ndarray:
    """All fields one after the other, int32, 0 at the outline, each with a frame of one pixel far outside."""
    from PIL import Image

    with Image.open(paths.data_folder() / "glyphs" / "sheet.png") as sheet:
        levels = np.asarray(sheet).astype(np.int32)
    cells = levels.reshape(len(TYPEFACES), CELL, len(CLASSES), CELL).swapaxes(1, 2) - 128
    return np.pad(cells, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-128).ravel()
