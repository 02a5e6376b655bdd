"""The judges: those that come with the course are what its README says, others are trained once and kept."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from functools import partial
from hashlib import sha256

import numpy as np
import pytest
import torch

from dgm_lib import datasets
from dgm_lib.datasets import Data, paths
from dgm_lib.datasets.formats import DataError
from dgm_lib.measures import judges, metrics
from dgm_lib.measures.judges import Judge, Recipe
from dgm_lib.measures.two_sample import control, frechet_distance, precision_recall

QUICK = Recipe(epochs=1, width=2, n_features=5)
NAMES = tuple(judges.SHIPPED)


@pytest.fixture(scope="module")
def loaded():
    return {name: judges.load(name) for name in NAMES}


@pytest.fixture(scope="module")
def data():
    return {name: datasets.load(name) for name in NAMES}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DGM_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def few():
    """A data set of 120 digits."""
    digits = datasets.load("digits")
    parts = [split.take(slice(0, n)) for split, n in ((digits.train, 80), (digits.validation, 20), (digits.test, 20))]
    return replace(digits, name="few", train=parts[0], validation=parts[1], test=parts[2])


# ---- the judges that come with the course --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_judge_is_as_good_as_it_says(name, loaded, data):
    judge = loaded[name]
    for split, stated in ((data[name].validation, judge.validation_accuracy), (data[name].test, judge.test_accuracy)):
        assert metrics.accuracy(judge, split.batches(500)) == pytest.approx(stated.item(), abs=0.003)
        assert (judge.labels(split.scaled()) == split.y).float().mean() == pytest.approx(stated.item(), abs=0.003)


def test_the_readme_states_the_files_and_what_they_are_worth(loaded):
    text = (paths.data_folder() / "features" / "README.md").read_text(encoding="utf-8")
    for name, judge in loaded.items():
        content = (paths.data_folder() / "features" / f"{name}.npz").read_bytes()
        (row,) = re.findall(rf"^\| `{name}` .*$", text, re.MULTILINE)
        assert sha256(content).hexdigest() in row
        assert f"| {judge.validation_accuracy:.1%} | {judge.test_accuracy:.1%} |".replace("%", " %") in row
        assert len(content) <= 400_000


@pytest.mark.parametrize("name", NAMES)
def test_features_are_centred_and_in_one_unit(name, loaded, data):
    h = loaded[name].features(data[name].train.scaled())
    assert h.shape == (len(data[name].train), 64)
    assert h.dtype == torch.float32
    assert h.mean(0).abs().max() < 0.02
    assert h.var(0).mean() == pytest.approx(1, abs=0.01)


def test_features_repeat_and_do_not_depend_on_the_company(loaded, data):
    judge, x = loaded["digits"], data["digits"].test.scaled()
    h = judge.features(x)
    assert torch.equal(h, judge.features(x))
    assert torch.equal(h, judges.load("digits").features(x))
    torch.testing.assert_close(judge.features(x[100:130]), h[100:130], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(judge.features(x.double()), h)
    assert judge.features(x[:0]).shape == (0, 64)


def test_a_judge_is_frozen_and_lets_gradients_through(loaded, data):
    judge, x = loaded["digits"], data["digits"].test.scaled()[:3].requires_grad_()
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    (gradient,) = torch.autograd.grad(judge(x).sum(), x)
    assert gradient.abs().sum() > 0
    assert not judge.features(x).requires_grad  # a measure needs no graph


def test_a_judge_sees_noise_as_low_quality_and_missing_classes_as_low_variety(loaded, data):
    judge, split = loaded["glyphs"], data["glyphs"].test
    x, h = split.scaled(), judge.features(split.scaled())
    assert min(control(precision_recall, h, 1000)) > 0.8
    real, other, label = h[:1000], h[1000:], split.y[1000:]
    noisy = judge.features(
        (x[1000:] + 0.3 * torch.randn(x[1000:].shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    )
    good, bad, few_classes = (precision_recall(real, made) for made in (other, noisy, other[label < 12]))
    assert bad.precision < good.precision - 0.2
    assert few_classes.precision > good.precision - 0.1
    assert few_classes.recall < good.recall - 0.2
    distances = [frechet_distance(real, made) for made in (other, noisy, other[label < 12])]
    assert min(distances[1:]) > 3 * distances[0]


def test_images_that_a_judge_does_not_know_are_refused(loaded):
    judge = loaded["digits"]
    with pytest.raises(ValueError, match=r"expected float images of shape \(B, 1, 8, 8\)"):
        judge.features(torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match="expected float images"):
        judge.features(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    for value in (-1.0, 1.01, torch.nan):
        x = torch.zeros(2, 1, 8, 8)
        x[1, 0, 3, 3] = value
        with pytest.raises(ValueError, match=rf"1 of 128 pixels are outside of \[0, 1\], the first is {value:g}"):
            judge.labels(x)
    judge.features(torch.full((1, 1, 8, 8), 1 + 1e-6))  # rounding


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path, loaded):
    path = tmp_path / "digits.npz"
    np.savez(path, **judges.to_arrays(loaded["digits"]))
    return path


def test_a_file_comes_back_as_it_was_written(shipped, loaded):
    judge = judges.read(shipped, judges.SHIPPED["digits"])
    for name, value in loaded["digits"].state_dict().items():
        assert torch.equal(judge.state_dict()[name], value)


def test_no_damage_gives_another_judge(shipped, loaded):
    """One byte in five hundred is changed, one at a time: the file is refused, or what it holds is the same."""
    whole, refused = shipped.read_bytes(), 0
    for place in range(0, len(whole), max(1, len(whole) // 500)):
        shipped.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            judge = judges.read(shipped, judges.SHIPPED["digits"])
        except DataError:
            refused += 1
        else:
            same = loaded["digits"].state_dict()
            assert all(torch.equal(value, same[name]) for name, value in judge.state_dict().items())
    assert refused > 400


def test_a_damaged_missing_or_foreign_file_is_one_sentence(shipped, loaded):
    recipe, whole = judges.SHIPPED["digits"], shipped.read_bytes()
    for content in (b"", b"x" * 100, whole[: len(whole) // 2]):
        shipped.write_bytes(content)
        with pytest.raises(DataError, match=r"digits.npz is no whole judge of the course .* get the course again"):
            judges.read(shipped, recipe)
    with pytest.raises(DataError, match=r"nothing\.npz, a judge of the course, is missing"):
        judges.read(shipped.with_name("nothing.npz"), recipe)
    arrays = judges.to_arrays(loaded["digits"])
    spoilt = {
        "not finite": {**arrays, "centre": arrays["centre"] * np.float16("nan")},
        "size mismatch": {**arrays, "head.1.weight": arrays["head.1.weight"][:5]},
        "Missing key": {name: value for name, value in arrays.items() if name != "unit"},
        "recipe": {name: value for name, value in arrays.items() if name != "recipe"},
        "it was made by .*epochs=7": {**arrays, "recipe": np.array(str(Recipe(epochs=7)))},
    }
    for message, content in spoilt.items():
        np.savez(shipped, **content)
        with pytest.raises(DataError, match=f"(?s){message}"):
            judges.read(shipped, recipe)


# ---- other data sets -----------------------------------------------------------------------------------------------


def test_a_judge_is_trained_once_and_kept_under_its_recipe(few, cache, monkeypatch):
    first = judges.judge_of(few, QUICK)
    (file,) = cache.iterdir()
    assert re.fullmatch(r"judge-few-[0-9a-f]{16}", file.name)
    darker = replace(few, train=replace(few.train, x=few.train.x // 2))
    fewer = replace(few, train=few.train.take(slice(0, 79)))
    for data, recipe in ((few, replace(QUICK, seed=1)), (fewer, QUICK), (darker, QUICK)):
        judges.judge_of(data, recipe)
    assert len(list(cache.iterdir())) == 4
    monkeypatch.setattr(judges, "train", None)  # nothing is trained again
    again = judges.judge_of(few, QUICK)
    x = few.test.scaled()
    assert torch.equal(first.features(x), again.features(x))
    assert torch.equal(first.test_accuracy, again.test_accuracy)
    assert not again.training


def test_a_damaged_cache_is_made_anew(few, cache):
    first = judges.judge_of(few, QUICK)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert torch.equal(judges.judge_of(few, QUICK).features(few.test.scaled()), first.features(few.test.scaled()))


def test_a_judge_learns_from_training_data_only(few):
    wrong = [replace(split, x=split.levels - 1 - split.x, y=(split.y + 1) % 10) for split in (few.validation, few.test)]
    spoilt = replace(few, validation=wrong[0], test=wrong[1])
    one, other = (judges.train(data, QUICK).state_dict() for data in (few, spoilt))
    for name in one:
        if "accuracy" not in name:
            assert torch.equal(one[name], other[name]), name


def test_it_learns():
    digits = datasets.load("digits")
    judge = judges.train(digits, Recipe(epochs=20, width=8, n_features=16))
    assert judge.validation_accuracy > 0.8
    assert judge.test_accuracy == pytest.approx(metrics.accuracy(judge, digits.test.batches(100)), abs=0.003)
    h = judge.features(digits.train.scaled())
    assert h.mean(0).abs().max() < 0.02
    assert h.var(0).mean() == pytest.approx(1, abs=0.01)


def test_random_numbers_go_on_as_if_no_judge_had_been_made(few, cache):
    def draws():
        return torch.rand(1).item(), np.random.rand(), random.random()

    def seed():
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)

    seed()
    expected = draws()
    for make in (lambda: judges.judge_of(few, QUICK),) * 2 + (lambda: judges.load("digits"),):
        seed()
        make()
        assert draws() == expected


def test_any_images_with_classes_have_a_judge(cache, monkeypatch):
    patches = datasets.load("patches", size=8, n=60)
    monkeypatch.setattr(datasets, "load", lambda name: patches)
    monkeypatch.setattr(judges, "judge_of", partial(judges.judge_of, recipe=QUICK))
    judge = judges.load("patches")
    assert isinstance(judge, Judge)
    assert judge.features(patches.test.scaled()).shape == (5, 5)
    assert judge.labels(patches.test.scaled()).max() < 2


@pytest.mark.parametrize("name", ["two_moons", "words"])
def test_what_is_no_image_has_no_judge(name):
    with pytest.raises(ValueError, match=f"{name} has no judge"):
        judges.judge_of(datasets.load(name))


def test_a_single_class_has_no_judge():
    data = datasets.load("glyphs", n=12, classes="A")
    assert isinstance(data, Data)
    with pytest.raises(ValueError, match="at least two classes"):
        judges.judge_of(data)


def test_training_images_are_varied_each_in_its_own_way():
    still = Recipe(shift=0)
    x = torch.zeros(500, 1, 8, 8)
    x[:, :, 3:5, 3:5] = 1  # a square in the middle
    torch.testing.assert_close(judges.varied(x, still), x)
    torch.manual_seed(0)
    moved = judges.varied(x, Recipe(shift=1.5))
    torch.testing.assert_close(moved.sum((1, 2, 3)), torch.full((500,), 4.0))  # whole, wherever it is
    for rows_or_columns in (2, 3):
        centres = (moved.sum(rows_or_columns) @ torch.arange(8.0) / 4 - 3.5).flatten()
        assert centres.abs().max() == pytest.approx(1.5, abs=0.1)
        assert centres.std() == pytest.approx(3 / math.sqrt(12), rel=0.1)
    turned = judges.varied(x, Recipe(shift=0, turn=45))
    assert (turned[:, 0, 3, 3] <= 1).all()
    torch.testing.assert_close(turned, turned.flip(2, 3))  # about the middle
    sized = judges.varied(x, Recipe(shift=0, size=0.5)).sum((1, 2, 3))
    assert sized.min() < 2.5
    assert sized.max() > 5
    bar = torch.zeros(500, 1, 8, 8)
    bar[..., 3:5] = 1
    turned = judges.varied(bar, Recipe(shift=0, turn=20))
    columns = turned @ torch.arange(8.0) / turned.sum(3)
    assert (columns - 3.5)[:, 0, 6].abs().max() == pytest.approx(2.5 * math.tan(math.radians(20)), abs=0.1)
    leaning = judges.varied(bar, Recipe(shift=0, lean=0.5))
    columns = leaning @ torch.arange(8.0) / leaning.sum(3)
    assert (columns - 3.5)[:, 0, 7].abs().max() == pytest.approx(0.5 * 3.5, abs=0.1)
    torch.testing.assert_close(columns[:, 0, 7] - 3.5, 3.5 - columns[:, 0, 0], rtol=0, atol=1e-4)
