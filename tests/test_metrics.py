"""Rulers against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dgm_lib import metrics
from dgm_lib.datasets import Split


def ramp(n=10):
    return Split(torch.arange(n)[:, None].float(), torch.arange(n) % 2)


def test_nats_are_the_mean_and_its_standard_error():
    mean, error = metrics.nats(lambda x: -x[:, 0], ramp().batches(3))
    assert mean == pytest.approx(4.5)
    assert error == pytest.approx(math.sqrt(sum((i - 4.5) ** 2 for i in range(10)) / 9 / 10))


def test_one_example_has_no_standard_error():
    mean, error = metrics.nats(lambda x: -x[:, 0] - 3, ramp(1).batches(1))  # a warning would fail, see pyproject.toml
    assert mean == 3
    assert math.isnan(error)


def test_a_smaller_last_batch_does_not_count_more():
    for size in (1, 3, 7, 10):
        assert metrics.nats(lambda x: -x[:, 0], ramp().batches(size))[0] == pytest.approx(4.5)


def test_uniform_pixels_cost_log2_of_their_levels_in_bits():
    split = Split(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.zeros(6, dtype=torch.long), levels=17)
    log_prob = lambda x: torch.full((len(x),), -64 * math.log(17))  # noqa: E731
    assert metrics.bits_per_dim(log_prob, split.batches(4)) == pytest.approx(math.log2(17))


def test_accuracy_counts_hits():
    scores = lambda x: torch.stack([torch.zeros(len(x)), x[:, 0] - 4.5], 1)  # class 1 from 5 on  # noqa: E731
    # rows 0…4 are called 0, rows 5…9 are called 1; labels alternate 0, 1, …: hits are 0, 2, 4, 5, 7, 9
    assert metrics.accuracy(scores, ramp().batches(4)) == pytest.approx(0.6)


def test_bootstrap_interval_is_near_the_normal_one_and_repeats():
    torch.manual_seed(0)
    values = torch.randn(400)
    low, high = metrics.bootstrap_interval(values)
    half = 1.96 * values.std().item() / math.sqrt(400)
    assert low == pytest.approx(values.mean().item() - half, abs=0.015)
    assert high == pytest.approx(values.mean().item() + half, abs=0.015)
    assert (low, high) == metrics.bootstrap_interval(values)
    assert metrics.bootstrap_interval(torch.ones(5)) == (1.0, 1.0)
