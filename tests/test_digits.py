"""The digits are the stored ones, in the stored order and split."""

import hashlib

import pytest
import torch

from dgm_lib import datasets
from dgm_lib.models.baselines import IndependentPixels, NaiveBayes, PixelChain


@pytest.fixture(scope="module")
def data():
    return datasets.load("digits")


def test_counts_and_form(data):
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [1000, 350, 447]
    assert all(split.x.shape[1:] == (1, 8, 8) and split.x.dtype == torch.uint8 for split in splits)
    assert (data.levels, data.classes) == (17, tuple("0123456789"))
    assert int(data.train.x.max()) == 16
    assert data.train.y.bincount().tolist() == [99, 102, 100, 104, 98, 100, 101, 99, 98, 99]
    assert data.test.y.bincount().tolist() == [43, 46, 43, 45, 48, 45, 47, 44, 41, 45]


def test_pixels_are_the_stored_ones(data):
    x = torch.cat([split.x for split in (data.train, data.validation, data.test)])
    pinned = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
    assert hashlib.sha256(x.numpy().tobytes()).hexdigest() == pinned
    assert pinned in data.card


def test_labels_belong_to_the_images(data):
    """The nearest training image has the same label nearly always: 95.3 % of the test part, by the data card."""
    test, train = (split.x.flatten(1).float() for split in (data.test, data.train))
    nearest = torch.cdist(test, train).argmin(1)
    assert (data.train.y[nearest] == data.test.y).float().mean() == pytest.approx(0.953, abs=0.003)


def test_classifiers_find_test_harder_and_models_of_the_pixels_validation_as_the_card_says(data):
    train, x = data.train.x.flatten(1).float(), data.train.scaled()
    models = [
        IndependentPixels.fit(x, data.levels),
        NaiveBayes.fit(x, data.train.y, data.levels, 10),
        PixelChain.fit(x, data.levels),
    ]
    wrong, nats = [], []
    for split in (data.validation, data.test):
        nearest = torch.cdist(split.x.flatten(1).float(), train).argmin(1)
        wrong.append((data.train.y[nearest] != split.y).float().mean().item())
        nats.append([-model.log_prob(split.scaled()).mean().item() for model in models])
    assert wrong[0] < wrong[1]
    assert all(validation > test + 2 for validation, test in zip(*nats))
