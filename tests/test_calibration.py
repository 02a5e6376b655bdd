"""Bins counted by hand, and a temperature against the one that logits were made with."""

from __future__ import annotations

import math

import pytest
import torch

from dgm_lib.measures import calibration

# p(0|x) of two classes; the class named is 0 where p > ½
P = torch.tensor([0.95, 0.9, 0.75, 0.6, 0.45, 0.1], dtype=torch.float64)
LOGITS = torch.stack([P.log(), (1 - P).log()], 1)
Y = torch.tensor([0, 1, 0, 1, 1, 1])
# confidences 0.95 0.9 0.75 0.6 0.55 0.9; right: 1 0 1 0 1 1


def test_bins_by_hand():
    confidence, accuracy, count = calibration.reliability(LOGITS, Y, bins=5)  # (0.4, 0.6], (0.6, 0.8], (0.8, 1]
    assert count.tolist() == [0, 0, 2, 1, 3]
    torch.testing.assert_close(confidence[2:], torch.tensor([0.575, 0.75, 2.75 / 3], dtype=torch.float64))
    torch.testing.assert_close(accuracy[2:], torch.tensor([0.5, 1.0, 2 / 3], dtype=torch.float64))
    assert confidence[:2].isnan().all()
    expected = (2 * 0.075 + 1 * 0.25 + 3 * 0.25) / 6
    assert calibration.expected_calibration_error(LOGITS, Y, bins=5) == pytest.approx(expected, abs=1e-12)
    # one bin: the mean confidence 4.65 / 6 against 4 of 6
    assert calibration.expected_calibration_error(LOGITS, Y, bins=1) == pytest.approx(0.65 / 6, abs=1e-12)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    logits = torch.tensor([[0.0, 1e4], [1e4, 0.0]])
    assert calibration.expected_calibration_error(logits, torch.tensor([1, 0])) == 0
    assert calibration.expected_calibration_error(logits, torch.tensor([0, 1])) == 1


def test_a_classifier_that_says_what_it_knows_has_no_error():
    """Labels drawn from the stated probabilities: what is left is the chance of a finite sample."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40_000, 4, generator=generator)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    assert calibration.expected_calibration_error(logits, y) < 0.01
    assert calibration.expected_calibration_error(3 * logits, y) > 0.1


def test_negative_log_likelihood_by_hand():
    expected = -torch.tensor([0.95, 0.1, 0.75, 0.4, 0.55, 0.9], dtype=torch.float64).log()
    torch.testing.assert_close(calibration.negative_log_likelihood(LOGITS + 5, Y), expected)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 7.0])
def test_the_temperature_that_spoilt_the_logits_is_found(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50_000, 3, generator=generator)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    assert calibration.fit_temperature(temperature * logits, y) == pytest.approx(temperature, rel=0.02)


def test_no_other_temperature_is_likelier():
    best = calibration.fit_temperature(LOGITS, Y)
    mean = lambda t: calibration.negative_log_likelihood(LOGITS / t, Y).mean().item()  # noqa: E731
    assert mean(best) < min(mean(best * 1.01), mean(best / 1.01))


def test_logits_that_are_all_right_are_left_as_they_are():
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert calibration.fit_temperature(logits, torch.tensor([0, 1])) == 1
    assert calibration.fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(1000)  # worse than none


def test_what_are_no_logits_is_refused():
    wrong = [
        (torch.zeros(3), torch.zeros(3).long(), r"logits are torch\.float32 of shape \(3,\)"),
        (torch.zeros(0, 3), torch.zeros(0).long(), r"\(0, 3\): they must be floats \(N, K\), N ≥ 1"),
        (torch.full((2, 2), math.nan), torch.zeros(2).long(), "2 of 2 rows of logits hold a NaN"),
        (torch.zeros(2, 2), torch.zeros(2), r"expected 2 labels of type int64, one an image, got torch\.float32"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), "a label is 2, but the 2 classes are 0 … 1"),
    ]
    functions = (
        calibration.expected_calibration_error,
        calibration.fit_temperature,
        calibration.negative_log_likelihood,
        calibration.reliability,
    )
    for logits, y, message in wrong:
        for function in functions:
            with pytest.raises(ValueError, match=message):
                function(logits, y)
    with pytest.raises(ValueError, match="bins is 0: it must be a whole number ≥ 1"):
        calibration.reliability(LOGITS, Y, bins=0)


# ---- infinite logits, and any type ---------------------------------------------------------------------------------

INF = math.inf
MEASURES = {
    "ece": calibration.expected_calibration_error,
    "nats": lambda f, y: calibration.negative_log_likelihood(f, y).double().mean().item(),
    "confidence": lambda f, y: calibration.reliability(f, y, bins=1).confidence.item(),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_a_certain_class_has_probability_1_and_an_impossible_one_0(name, dtype, n_classes):
    """The same as logits so far apart that the softmax rounds to 1 and to 0."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, n_classes, generator=generator).to(dtype)
    y = torch.randint(n_classes, (30,), generator=generator)
    y[:10], y[10:20] = 1, 1
    infinite, finite = logits.clone(), logits.clone()
    infinite[:10, 1], finite[:10, 1] = INF, 2000
    infinite[10:20, 0], finite[10:20, 0] = -INF, -2000
    found, expected = MEASURES[name](infinite, y), MEASURES[name](finite, y)
    assert found == pytest.approx(expected, rel=4 * torch.finfo(torch.float32).eps, abs=1e-7)


def test_a_label_that_is_impossible_costs_everything_and_no_temperature_helps():
    logits, y = torch.tensor([[INF, 0.0], [0.0, 1.0], [2.0, -INF]]), torch.tensor([1, 1, 1])
    assert calibration.negative_log_likelihood(logits, y).tolist() == [
        INF,
        pytest.approx(math.log1p(math.exp(-1))),
        INF,
    ]
    assert calibration.reliability(logits, y, bins=1).accuracy.item() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"a logit of example 0 is \+∞, which no temperature changes"):
        calibration.fit_temperature(logits, y)
    with pytest.raises(ValueError, match="the label of example 1 is impossible"):
        calibration.fit_temperature(logits[1:], y[1:])


@pytest.mark.parametrize("temperature", [0.2, 3.0])
def test_impossible_classes_leave_the_temperature_as_it_is(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5000, 3, generator=generator)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    wider = torch.cat([temperature * logits, torch.full((5000, 1), -INF)], 1)
    expected = calibration.fit_temperature(temperature * logits, y)
    assert calibration.fit_temperature(wider, y) == pytest.approx(expected, rel=1e-9)


def test_ties_are_no_mistake_whichever_class_comes_first():
    logits = torch.tensor([[1.0, 1.0], [3.0, 0.0]])
    for y in ([0, 0], [1, 0]):
        assert calibration.fit_temperature(logits, torch.tensor(y)) == 1


@pytest.mark.parametrize("row", [[INF, INF], [-INF, -INF]])
@pytest.mark.parametrize("place", [0, 2])
def test_rows_that_say_nothing_are_named(row, place):
    logits = torch.zeros(3, 2)
    logits[place] = torch.tensor(row)
    for measure in (*MEASURES.values(), calibration.fit_temperature):
        with pytest.raises(ValueError, match=f"the logits of example {place} are .* say nothing of its class"):
            measure(logits, torch.zeros(3).long())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_whole_type_lists_and_arrays_are_taken(dtype):
    for name, measure in (*MEASURES.items(), ("temperature", calibration.fit_temperature)):
        expected = measure(LOGITS, Y)
        assert measure(LOGITS, Y.to(dtype)) == expected, name
        assert measure(LOGITS.tolist(), Y.tolist()) == expected, name
        assert measure(LOGITS.numpy(), Y.numpy()) == expected, name
        assert measure(LOGITS[:1], Y[:1]) == measure(LOGITS[:1].numpy(), [0]), name


@pytest.mark.parametrize(
    ("logits", "y"),
    [
        (torch.zeros(3, 1), torch.zeros(3).long()),
        (torch.zeros(3, 2), torch.zeros(3, 1).long()),
        (torch.zeros(3, 2), torch.zeros(3, 2).long()),
        (torch.zeros(3, 2).long(), torch.zeros(3).long()),
        (torch.zeros(3, 0), torch.zeros(3).long()),
        (torch.zeros(3, 2), None),
        ("logits", torch.zeros(3).long()),
    ],
    ids=["(N, 1)", "column", "one-hot", "whole logits", "no class", "no labels", "a word"],
)
def test_columns_and_one_hot_labels_do_not_broadcast(logits, y):
    for measure in (*MEASURES.values(), calibration.fit_temperature):
        with pytest.raises(ValueError, match=r"logits|labels|y is a"):
            measure(logits, y)
