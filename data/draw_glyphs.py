"""Draws data/glyphs/sheet.png: the signed distance field of every glyph, from the typefaces that matplotlib carries.

It was run once. Other versions of FreeType move an outline by a fraction of a pixel, so a new sheet makes a new data
set: its SHA-256 stands in the data card, and tests pin the images that follow from it.

    python data/draw_glyphs.py
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, features
from scipy.ndimage import distance_transform_edt

from dgm_lib.datasets.glyph_renderer import CELL, CLASSES, TYPEFACES, UNIT

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SHEET = Path(__file__).parent / "glyphs" / "sheet.png"
FINE = 16  # fine pixels to a base pixel
HEIGHT, ROOM = 32, 43  # base pixels: a glyph's height, and the most that width + height / 2 may be, to turn and lean


def main() -> None:
    rows = [np.hstack([field(character, typeface) for character in CLASSES]) for typeface in TYPEFACES]
    SHEET.parent.mkdir(exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(SHEET, optimize=True)
    print(SHEET, SHEET.stat().st_size, "bytes, SHA-256", hashlib.sha256(SHEET.read_bytes()).hexdigest())
    print("matplotlib", matplotlib.__version__, "FreeType", features.version("freetype2"))


def field(character: str, typeface: str) -> np.ndarray:
    """(CELL, CELL) uint8: 128 + UNIT · distance to the outline in base pixels, more than 128 inside."""
    ink = np.asarray(centred(outline(character, typeface))) >= 128
    inside, outside = distance_transform_edt(ink), distance_transform_edt(~ink)
    distance = np.where(ink, inside - 0.5, 0.5 - outside) / FINE
    # the centre of a base pixel is the corner where the middle four of its fine pixels meet
    middle = slice(FINE // 2 - 1, FINE // 2 + 1)
    distance = distance.reshape(CELL, FINE, CELL, FINE)[:, middle, :, middle].mean((1, 3))
    return np.clip(np.rint(128 + UNIT * distance), 0, 255).astype(np.uint8)


def outline(character: str, typeface: str) -> Image.Image:
    """The character in grey, as large as may be, cropped to its ink."""
    path, size = FONTS / f"{typeface}.ttf", 256.0
    for _ in range(3):  # hinting makes extents a little uneven in the size
        left, top, right, bottom = ink_box(character, ImageFont.truetype(path, size))
        height, width = bottom - top, right - left
        size *= FINE * min(HEIGHT / height, ROOM / (width + height / 2))
    font = ImageFont.truetype(path, size)
    left, top, right, bottom = ink_box(character, font)
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, font=font, fill=255)
    return image


def ink_box(character: str, font: ImageFont.FreeTypeFont) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the ink when the text is drawn at (0, 0)."""
    return tuple(map(int, font.getbbox(character)))


def centred(image: Image.Image) -> Image.Image:
    """The image in the middle of a cell."""
    cell = Image.new("L", (CELL * FINE, CELL * FINE))
    cell.paste(image, ((cell.width - image.width) // 2, (cell.height - image.height) // 2))
    return cell


if __name__ == "__main__":
    main()
