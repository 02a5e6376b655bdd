"""Patches are cut where they say, and no pixel serves two splits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from dgm_lib import datasets


@pytest.mark.parametrize("size", [8, 16, 32])
def test_patches_are_cut_from_the_photographs(size):
    data = datasets.load("patches", size=size, n=120)
    photographs = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    assert [len(split) for split in (data.train, data.validation, data.test)] == [100, 10, 10]
    assert (data.levels, data.classes) == (256, ("china", "flower"))
    for split in (data.train, data.validation, data.test):
        assert split.x.shape[1:] == (3, size, size)
        rows, columns = split.factors["row"], split.factors["column"]
        for x, y, row, column in zip(split.x, split.y, rows, columns):
            patch = photographs[y][row : row + size, column : column + size]
            np.testing.assert_array_equal(x.permute(1, 2, 0), patch)


@pytest.mark.parametrize("size", [8, 32])
def test_splits_share_no_pixel_and_use_nearly_all(size):
    data = datasets.load("patches", size=size, n=48_000 if size == 8 else 12_000)
    used = torch.zeros(3, 2, 427, 640, dtype=torch.bool)
    for cover, split in zip(used, (data.train, data.validation, data.test)):
        for y, row, column in torch.stack([split.y, split.factors["row"], split.factors["column"]], 1).tolist():
            cover[y, row : row + size, column : column + size] = True
    assert used.sum(0).max() == 1
    shares = used.float().mean((1, 2, 3))
    assert (shares > 0.8 * torch.tensor([50, 10, 10]) / 70).all()  # corners of tiles are seldom hit


def test_the_seed_decides():
    first, again, other = (datasets.load("patches", n=60, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.x, again.train.x)
    assert not torch.equal(first.train.x, other.train.x)


@pytest.mark.parametrize(("options", "message"), [({"size": 7}, "size is 7"), ({"size": 33}, "33"), ({"n": 11}, "11")])
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        datasets.load("patches", **options)
