"""What every data set promises, and the batches that `fit` walks through."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from dgm_lib import datasets
from dgm_lib.datasets import Split, dequantize, paths
from dgm_lib.datasets.formats import DataError

EMBEDDED = (*datasets.TOY2D, "digits", "glyphs", "patches", "words")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    options = {"glyphs": {"n": 1200}}
    return lambda name: datasets.load(name, **options.get(name, {}))


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_data_set_keeps_the_interface(load, name):
    data = load(name)
    assert data.name == name
    assert len(data.card.splitlines()) > 3
    for split in (data.train, data.validation, data.test):
        assert len(split) > 0
        assert split.y.dtype == torch.int64
        assert split.y.max() < len(data.classes)
        assert set(split.factors) == set(data.train.factors)
        x, y = next(iter(split.batches(4)))
        assert len(x) == len(y) == 4
        if data.levels is not None:
            assert split.x.dtype == torch.uint8
            assert split.x.dim() == 4
            assert split.x.max().item() < data.levels  # .item(): 256 does not fit into uint8
            assert x.dtype == torch.float32
            assert 0 <= x.min() <= x.max() <= 1


@pytest.mark.parametrize("name", EMBEDDED)
def test_no_example_of_the_test_part_is_in_the_training_part(load, name):
    data = load(name)
    rows = lambda split: {x.numpy().tobytes() for x in split.x}  # noqa: E731
    assert not rows(data.train) & rows(data.test)


def numbered(n=10):
    return Split(torch.arange(n)[:, None].float(), torch.arange(n))


def test_an_epoch_visits_every_example_once_in_an_order_that_the_seed_gives():
    first = [y for _, y in numbered().batches(3, seed=1)]
    again = [y for _, y in numbered().batches(3, seed=1)]
    other = [y for _, y in numbered().batches(3, seed=2)]
    assert [len(y) for y in first] == [3, 3, 3, 1]
    assert torch.cat(first).sort().values.tolist() == list(range(10))
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert not torch.equal(torch.cat(first), torch.cat(other))


def test_set_epoch_gives_the_order_of_that_epoch_whatever_came_before():
    batches = numbered().batches(10)
    orders = [next(iter(batches))[1] for _ in range(3)]
    batches.set_epoch(1)
    assert torch.equal(next(iter(batches))[1], orders[1])
    assert not torch.equal(orders[0], orders[1])


def test_without_shuffling_the_order_is_the_stored_one_and_drop_last_drops():
    batches = numbered().batches(4, shuffle=False, drop_last=True)
    assert [y.tolist() for _, y in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(batches) == 2


def test_batches_are_scaled_from_levels_and_a_transform_replaces_that():
    levels = torch.arange(17, dtype=torch.uint8).view(17, 1, 1, 1)
    split = Split(levels, torch.zeros(17, dtype=torch.long), levels=17)
    x, _ = next(iter(split.batches(17, shuffle=False)))
    torch.testing.assert_close(x.flatten(), torch.arange(17) / 16)
    x, _ = next(iter(split.batches(17, shuffle=False, transform=lambda x: x)))
    assert x.dtype == torch.uint8
    x, _ = next(iter(split.batches(17, shuffle=False, transform=dequantize(17))))
    assert torch.equal((x * 17).floor().flatten().long(), torch.arange(17))


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24])
def test_dequantised_levels_stay_inside_their_bins(u, monkeypatch):
    """Whatever is drawn, for every number of levels that uint8 holds."""
    monkeypatch.setattr(torch, "rand", lambda shape, device: torch.full(shape, u))
    for levels in range(2, 257):
        k = torch.arange(levels, dtype=torch.uint8)
        x = dequantize(levels)(k)
        assert x.dtype == torch.float32
        for product in (x * levels, x.double() * levels):
            assert torch.equal(product.floor().long(), k.long())
            assert (product > k).all()


def test_dequantised_levels_are_spread_evenly():
    torch.manual_seed(0)
    u = dequantize(256)(torch.full((100_000,), 200, dtype=torch.uint8)).double() * 256 - 200
    share = torch.histc(u, 20, 0, 1) / len(u)
    assert ((share - 0.05).abs() < 5 * (0.05 / len(u)) ** 0.5).all()


def test_take_keeps_labels_and_factors_beside_their_examples():
    split = Split(torch.arange(5.0)[:, None], torch.arange(5), factors={"angle": torch.arange(5) * 10})
    part = split.take(split.y > 2)
    assert part.y.tolist() == [3, 4]
    assert part.factors["angle"].tolist() == [30, 40]
    assert len(split.take(slice(2))) == 2


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="x has 3 examples, but y has 2 labels"):
        Split(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="batch_size is 0"):
        numbered().batches(0)
    with pytest.raises(ValueError, match=r"no data set 'mnits'; there are: .*mnist"):
        datasets.load("mnits")
    with pytest.raises(ValueError, match=r"load\('digits'\) has no option 'sise'"):
        datasets.load("digits", sise=8)


def test_a_data_set_says_briefly_what_it_is(load):
    assert repr(load("digits")) == (
        "Data 'digits': x (1, 8, 8) uint8, 17 levels, 10 classes; train 1000, validation 350, test 447"
    )
    assert repr(numbered()) == "Split of 10: x (1,) float32"


def test_the_cache_moves_to_the_users_folder_where_the_course_is_read_only(tmp_path, monkeypatch):
    blocked = tmp_path / "a file, so no folder can be made in it"
    blocked.write_text("")
    monkeypatch.delenv("DGM_CACHE", raising=False)
    monkeypatch.setattr(paths, "data_folder", lambda: blocked)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    assert paths.cache_folder() == tmp_path / "dgm_lib"
    assert (tmp_path / "dgm_lib").is_dir()


# ---- other things than what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["glyphs", "two_moons", "pinwheel", "patches"])
@pytest.mark.parametrize(
    "options", [{"n": 1e3}, {"n": "1000"}, {"n": 3}, {"n": -1}, {"seed": 0.5}, {"seed": -1}], ids=str
)
def test_sizes_and_seeds_are_whole_numbers(name, options):
    ((option, value),) = options.items()
    with pytest.raises(ValueError, match=f"{option} is {value!r}: it must be a whole number ≥"):
        datasets.load(name, **options)


def test_a_number_of_numpy_is_a_number():
    assert len(datasets.load("rings", n=np.int64(100), seed=np.uint8(3)).train) == 100
    assert [len(y) for _, y in numbered().batches(np.int32(5))] == [5, 5]


@pytest.mark.parametrize("size", [2.5, "10", 0, -1, None, torch.tensor(1.5)])
def test_a_batch_size_is_a_whole_number(size):
    with pytest.raises(ValueError, match=r"batch_size is .*: it must be a whole number ≥ 1"):
        numbered().batches(size)


@pytest.mark.parametrize(
    ("x", "y", "levels", "words"),
    [
        (np.zeros((4, 1, 8, 8), np.uint8), torch.zeros(4), 17, "x is a ndarray: give a tensor"),
        (torch.zeros(4, 2), np.zeros(4), None, "y is a ndarray: give a tensor"),
        (torch.zeros(4, 2), [0, 1, 0, 1], None, "y is a list: give a tensor"),
        (torch.zeros(1), torch.tensor(1), None, "one row an example"),
        (torch.tensor(1.0), torch.zeros(1), None, "one row an example"),
        (torch.rand(4, 1, 2, 2), torch.zeros(4), 17, "scaled already take levels=None"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.int64), torch.zeros(4), 17, "of type torch.uint8"),
        (torch.full((4, 1, 2, 2), 17, dtype=torch.uint8), torch.zeros(4), 17, "levels is 17, and x holds 17"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4), 1, "with 2 to 256 levels"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4), 300, "with 2 to 256 levels"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4), 17.0, "levels is 17.0: it must be a whole number"),
    ],
)
def test_a_split_holds_tensors_that_fit_and_pixels_that_are_levels(x, y, levels, words):
    with pytest.raises(ValueError, match=words):
        Split(x, y, levels)


def test_a_teachers_logits_may_stand_in_place_of_labels():
    x, y = next(iter(Split(torch.zeros(4, 2), torch.rand(4, 10)).batches(3)))
    assert (x.shape, y.shape) == ((3, 2), (3, 10))


def test_factors_are_tensors_too():
    with pytest.raises(ValueError, match="angle is a list"):
        Split(torch.zeros(2, 2), torch.zeros(2), factors={"angle": [1, 2]})


@pytest.mark.parametrize("name", ["two_moons", "pinwheel", "digits", "words"])
def test_data_batches_and_densities_can_be_pickled_and_give_the_same(name):
    data = datasets.load(name)
    again = pickle.loads(pickle.dumps(data))
    transform = dequantize(17) if name == "digits" else None
    batches = pickle.loads(pickle.dumps(data.train.batches(10, transform=transform)))
    assert torch.equal(next(iter(batches))[1], next(iter(data.train.batches(10)))[1])
    assert torch.equal(next(iter(data.train.batches(10)))[0], next(iter(again.train.batches(10)))[0])
    if name in datasets.TOY2D:
        assert torch.equal(again.log_prob(data.test.x), data.log_prob(data.test.x))


@pytest.mark.parametrize("name", datasets.TOY2D)
def test_a_density_counts_in_floats_and_says_so(name):
    data = datasets.load(name, n=10)
    exact = data.log_prob(data.test.x)
    torch.testing.assert_close(data.log_prob(data.test.x.bfloat16().float()), data.log_prob(data.test.x.bfloat16()))
    assert data.log_prob(data.test.x[:0]).shape == (0,)
    assert exact.shape == (2,)
    assert data.sample(0).shape == (0, 2)
    for wrong in (data.test.x.long(), data.test.x[:, :1], data.test.x[0]):
        with pytest.raises(ValueError, match=r"float points of shape \(B, 2\)"):
            data.log_prob(wrong)
    with pytest.raises(ValueError, match=r"n is 2\.5"):
        data.sample(2.5)


# ---- the cache -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["~/cache", "~"])
def test_a_cache_may_lie_in_the_home_folder(tmp_path, monkeypatch, written):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGM_CACHE", written)
    assert paths.cache_folder() == tmp_path / written.removeprefix("~").lstrip("/")
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("inside", ["file", "file/below", "~nobody-of-this-name/cache"])
def test_a_cache_that_cannot_be_is_one_sentence_and_what_is_drawn_is_given_all_the_same(tmp_path, monkeypatch, inside):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DGM_CACHE", inside if inside.startswith("~") else str(tmp_path / inside))
    with pytest.raises(DataError, match="set DGM_CACHE to a folder of your own"):
        paths.cache_folder()
    with pytest.raises(DataError, match="DGM_CACHE"):
        datasets.load("mnist")
    with pytest.warns(UserWarning, match="is not kept"):
        assert len(datasets.load("glyphs", n=24).train) == 20
