"""The glyphs: the same everywhere, with factors that are what they say."""

import hashlib
import importlib.util
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgm_lib import datasets
from dgm_lib.datasets import glyphs, paths
from dgm_lib.datasets.glyph_renderer import CELL

PINNED = "8e1681619244e9488af8ce530a4ab9dd30a84cca3cfd608528a9975509928dc8"
PINNED_SMALL = "e26afc5c354f168c5724601d62c15615577243417d59415ca1b6e48f9bec38bd"
BAR = {"class": glyphs.CLASSES.index("I"), "typeface": glyphs.TYPEFACES.index("DejaVuSans")}  # one upright stroke
RING = {"class": glyphs.CLASSES.index("O"), "typeface": glyphs.TYPEFACES.index("DejaVuSans")}  # no ends, no corners


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return datasets.load("glyphs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DGM_CACHE", str(tmp_path))
    return tmp_path


def splits(data):
    return data.train, data.validation, data.test


def digest(data):
    """SHA-256 of all images and all factors, in the order of their names."""
    tensors = [
        t for split in splits(data) for t in (split.x, split.y, *(split.factors[k] for k in sorted(split.factors)))
    ]
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


# ---- the same everywhere -------------------------------------------------------------------------------------------


def test_form(data):
    assert [len(split) for split in splits(data)] == [20_000, 2000, 2000]
    assert all(split.x.shape[1:] == (1, 28, 28) and split.x.dtype == torch.uint8 for split in splits(data))
    assert (data.levels, data.classes) == (256, tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    assert torch.equal(data.train.y, data.train.factors["class"])
    assert set(data.train.factors) == {"class", "typeface", "rotation", "shear", "scale", "stroke", "x", "y"}


def test_bytes_are_pinned(data):
    assert digest(data) == PINNED


@pytest.mark.parametrize("threads", ["1", "2"])
def test_bytes_do_not_depend_on_threads(threads, tmp_path):
    script = (
        "from dgm_lib import datasets; import test_glyphs; print(test_glyphs.digest(datasets.load('glyphs', n=600)))"
    )
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "DGM_CACHE": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == PINNED_SMALL


def test_render_gives_the_same_images(data):
    for split in splits(data):
        assert torch.equal(glyphs.render(split.factors), split.x)


def test_no_rounding_of_an_angle_is_near_a_tie():
    """The last bit of cos and sin differs between libraries; it must never decide where the rounded value falls."""
    radians = np.deg2rad(np.arange(-360 * 8, 360 * 8 + 1) / 8)
    scaled = np.concatenate([np.cos(radians), np.sin(radians)]) * 2**14
    assert np.abs(scaled - np.floor(scaled) - 0.5).min() > 1e-6


def test_sheet_is_what_the_script_draws():
    """Only nearly: versions of FreeType differ by a fraction of a base pixel, which is 14 levels."""
    spec = importlib.util.spec_from_file_location("draw_glyphs", paths.data_folder() / "draw_glyphs.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sheet = np.asarray(Image.open(paths.data_folder() / "glyphs" / "sheet.png")).astype(int)
    for character, typeface in [("A", "DejaVuSans"), ("7", "cmtt10")]:
        row, column = glyphs.TYPEFACES.index(typeface) * CELL, glyphs.CLASSES.index(character) * CELL
        cell = sheet[row : row + CELL, column : column + CELL]
        assert np.abs(script.field(character, typeface) - cell).max() <= 14


def test_card_names_the_sheet():
    sheet = (paths.data_folder() / "glyphs" / "sheet.png").read_bytes()
    assert len(sheet) < 2**20
    assert hashlib.sha256(sheet).hexdigest() in paths.card("glyphs")


# ---- factors -------------------------------------------------------------------------------------------------------


def moments(x):
    """Ink in pixels, and the mean and covariance of its place: columns to the right, rows downwards."""
    ink = x[:, 0].double() / 255
    place = torch.arange(28, dtype=torch.float64) - 13.5
    total = ink.sum((1, 2))
    column, row = (ink.sum(1) @ place) / total, (ink.sum(2) @ place) / total
    u, v = place - column[:, None], place - row[:, None]
    across = (ink.sum(1) * u**2).sum(1) / total
    down = (ink.sum(2) * v**2).sum(1) / total
    both = torch.einsum("nij,ni,nj->n", ink, v, u) / total
    return total, column, row, across, down, both


def test_x_and_y_shift_the_image():
    shift = torch.tensor([0.0, 1.5, -2.0, 0.25])
    still, right, down = (glyphs.render(RING | more) for more in ({}, {"x": shift}, {"y": shift}))
    torch.testing.assert_close(moments(right)[1] - moments(still)[1], shift.double(), atol=0.05, rtol=0)
    torch.testing.assert_close(moments(down)[2] - moments(still)[2], shift.double(), atol=0.05, rtol=0)
    assert torch.equal(glyphs.render(RING | {"x": 2, "y": -3}), still.roll((-3, 2), (2, 3)))


def test_rotation_is_counter_clockwise():
    angle = torch.tensor([-40.0, -15.0, -7.5, 0.0, 3.0, 15.0, 30.0])
    _, _, _, across, down, both = moments(glyphs.render(BAR | {"rotation": angle}))
    # the long axis, from the vertical; rows grow downwards, so a positive covariance leans to the left at the top
    leaning = torch.rad2deg(0.5 * torch.atan2(2 * both, down - across))
    torch.testing.assert_close(leaning, angle.double(), atol=0.25, rtol=0)


@pytest.mark.parametrize("typeface", [0, 13, 20])
def test_a_quarter_turn_is_rot90(typeface):
    glyph = {"class": torch.arange(36), "typeface": typeface}
    turned = glyphs.render(glyph | {"rotation": 90}).int()
    assert (turned - glyphs.render(glyph).rot90(1, (2, 3)).int()).abs().max() <= 4


def test_shear_moves_rows_in_proportion_to_their_height():
    shear = torch.tensor([-0.5, -0.1875, 0.0, 0.125, 0.25])
    _, _, _, _, down, both = moments(glyphs.render(BAR | {"shear": shear}))
    torch.testing.assert_close(-both / down, shear.double(), atol=0.01, rtol=0)


def test_scale_multiplies_the_size():
    scale = torch.tensor([0.75, 1.0, 1.25, 1.5])
    _, _, _, across, down, _ = moments(glyphs.render(RING | {"scale": scale}))
    torch.testing.assert_close((down / down[1]).sqrt(), scale.double(), rtol=0.02, atol=0)
    torch.testing.assert_close((across / across[1]).sqrt(), scale.double(), rtol=0.02, atol=0)
    rows = (glyphs.render(BAR)[0, 0].amax(1) > 127).sum()
    assert rows == 14


def test_stroke_is_the_change_of_thickness():
    stroke = torch.tensor([0.0, 0.25, 0.5, 1.0])
    thickness = glyphs.render(BAR | {"stroke": stroke})[:, 0, 13].double().sum(1) / 255
    torch.testing.assert_close(thickness - thickness[0], stroke.double(), atol=0.02, rtol=0)


def test_every_glyph_gains_ink_with_stroke():
    strokes = [
        glyphs.render(every_glyph() | {"stroke": stroke}).long().sum((1, 2, 3)) for stroke in (-0.25, 0.25, 0.75)
    ]
    assert (strokes[0] < strokes[1]).all()
    assert (strokes[1] < strokes[2]).all()


def every_glyph():
    pairs = torch.cartesian_prod(torch.arange(21), torch.arange(36))
    return {"typeface": pairs[:, 0], "class": pairs[:, 1]}


def test_no_glyph_is_cut_off():
    """Under the extremes of all factors together, the outermost pixels never hold more than half ink."""
    extremes = [glyphs.RANGES[name] for name in ("rotation", "shear", "x", "y")]
    for rotation, shear, x, y in itertools.product(*extremes):
        warp = {"rotation": rotation, "shear": shear, "x": x, "y": y, "scale": 5 / 4, "stroke": 3 / 4}
        image = glyphs.render(every_glyph() | warp)
        image[..., 1:-1, 1:-1] = 0
        assert image.max() < 128


def test_factors_are_independent_and_uniform(data):
    n = len(data.train)
    table = torch.stack([data.train.factors[name].double() for name in ("class", *glyphs.RANGES)])
    assert (table.corrcoef() - torch.eye(len(table))).abs().max() < 5 / math.sqrt(n)
    for name, (least, greatest) in glyphs.RANGES.items():
        values = data.train.factors[name].double()
        assert (values.min(), values.max()) == (least, greatest)
        deviation = (values.mean() - (least + greatest) / 2) / (greatest - least)
        assert abs(deviation) < 5 / math.sqrt(12 * n)


def test_every_character_is_told_from_the_others():
    """A check that the typefaces hold letters and digits: the mean image of a class is nearest to its own members."""
    images = glyphs.render(every_glyph()).view(21, 36, 784).float()
    nearest = torch.cdist(images.view(-1, 784), images.mean(0)).argmin(1)
    assert (nearest == torch.arange(36).repeat(21)).float().mean() > 0.9


# ---- options -------------------------------------------------------------------------------------------------------


def test_classes_and_balance():
    data = datasets.load("glyphs", n=1200, classes="BA7", balance=[6, 3, 1])
    assert data.classes == ("B", "A", "7")
    assert data.train.y.bincount().tolist() == [600, 300, 100]
    assert data.test.y.bincount().tolist() == [60, 30, 10]
    assert data.train.factors["class"].unique().tolist() == [7, 10, 11]
    assert torch.equal(torch.tensor([11, 10, 7])[data.train.y], data.train.factors["class"])


def test_equal_balance_is_as_equal_as_can_be(data):
    for split in splits(data):
        counts = split.y.bincount(minlength=36)
        assert counts.max() - counts.min() == 1


def test_the_seed_decides():
    first, other = (datasets.load("glyphs", n=120, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.train.x, other.train.x)
    assert not torch.equal(first.validation.x, first.test.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 11}, "n is 11"),
        ({"classes": "0a"}, "no class 'a'"),
        ({"classes": "00"}, "only once"),
        ({"classes": ""}, "at least one"),
        ({"classes": "01", "balance": [1, 2, 3]}, "3 numbers for 2 classes"),
        ({"classes": "01", "balance": [1, -1]}, "≥ 0"),
        ({"classes": "01", "balance": [0, 0]}, "not all of them 0"),
        ({"classes": "01", "balance": [1, math.nan]}, "nan"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        datasets.load("glyphs", **options)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"rotation": 3}, "must hold 'class'"),
        ({"class": 3, "angle": 3}, "no factor 'angle'"),
        ({"class": 36}, "class is 36"),
        ({"class": 3, "scale": torch.tensor([1, 0.2])}, "scale is 0.2"),
        ({"class": 3, "shear": math.nan}, "shear is nan"),
    ],
)
def test_bad_factors_are_named(factors, message):
    with pytest.raises(ValueError, match=message):
        glyphs.render(factors)


# ---- cache ---------------------------------------------------------------------------------------------------------


def test_cache_is_read_and_damage_is_repaired(cache, monkeypatch):
    expected = digest(datasets.load("glyphs", n=120))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    damaged = [b"", whole[:1000], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], b"x" * 100]
    for content in damaged:
        file.write_bytes(content)
        assert digest(datasets.load("glyphs", n=120)) == expected
        assert [path.name for path in cache.iterdir()] == [file.name]
    monkeypatch.setattr(glyphs, "draw", None)  # nothing is drawn again
    assert digest(datasets.load("glyphs", n=120)) == expected


def test_other_options_have_another_file(cache):
    for options in ({}, {"seed": 1}, {"classes": "01"}, {"classes": "10"}, {"classes": "01", "balance": [1, 2]}):
        datasets.load("glyphs", n=120, **options)
    assert len(list(cache.iterdir())) == 5


def test_without_a_place_to_keep_it_the_data_still_come(cache, monkeypatch):
    expected = digest(datasets.load("glyphs", n=120))
    blocked = cache / "a file"
    blocked.write_text("")
    monkeypatch.setenv("DGM_CACHE", str(blocked))
    with pytest.warns(UserWarning, match="DGM_CACHE can name another folder"):
        assert digest(datasets.load("glyphs", n=120)) == expected
