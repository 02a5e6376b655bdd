"""Measures of two samples against hand-made points, plain loops, closed forms, and what they are under equal laws."""

from __future__ import annotations

import math
from statistics import fmean as mean
from statistics import stdev

import numpy as np
import pytest
import torch
from helpers import normal
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dgm_lib import neighbours
from dgm_lib.measures import two_sample
from dgm_lib.measures.two_sample import (
    by_neighbours,
    control,
    frechet_distance,
    kernel_distance,
    precision_recall,
    two_sample_accuracy,
)

MEASURES = frechet_distance, kernel_distance, precision_recall, two_sample_accuracy


# ---- the Fréchet distance ------------------------------------------------------------------------------------------


def features(mu, root):
    """Rows whose mean is mu (D,) and whose covariance is root · rootᵀ (D, D), exactly."""
    D = len(mu)
    corners = math.sqrt((2 * D - 1) / 2) * torch.cat([torch.eye(D), -torch.eye(D)]).double()
    return torch.as_tensor(mu).double() + corners @ torch.as_tensor(root).double().T


def test_the_features_of_these_tests_have_the_moments_asked_for():
    root = torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double()
    torch.testing.assert_close(features([3.0, 4.0], root).T.cov(), root @ root.T)


def test_frechet_distance_of_gaussians_in_closed_form():
    """One dimension: (μ₁−μ₂)² + (σ₁−σ₂)². Where the covariances commute, so for each of their common directions."""
    one = frechet_distance(features([1.0], [[2.0]]), features([4.0], [[0.5]]))
    assert one == pytest.approx(9 + 1.5**2, abs=1e-12)
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 0.1])
    expected = 25 + (a - b).square().sum().item()
    diagonal = frechet_distance(features([0.0, 0.0, 0.0], a.diag()), features([3.0, 0.0, 4.0], b.diag()))
    assert diagonal == pytest.approx(expected, abs=1e-6)
    turn = torch.linalg.qr(normal(3, 3)).Q
    turned = [features(mu, turn @ s.double().diag()) for mu, s in (([0.0] * 3, a), ([3.0, 0.0, 4.0], b))]
    assert frechet_distance(*turned) == pytest.approx(expected, abs=1e-6)


def test_frechet_distance_of_covariances_that_do_not_commute_in_closed_form():
    """Moved by x → T x, T symmetric and positive: no map is cheaper, E|x − T x|² = Tr (1 − T) Σ (1 − T)."""
    root, t = normal(16, 16), normal(16, 16, seed=1)
    t = t @ t.T / 16
    expected = ((torch.eye(16) - t) @ root).square().sum().item() + 4
    found = frechet_distance(features([0.0] * 16, root), features([0.5] * 16, t @ root))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rows", [9, 200])
def test_frechet_distance_is_that_of_scipy(rows):
    from scipy.linalg import sqrtm

    a, b = normal(rows, 8), normal(150, 8, seed=1) @ normal(8, 8, seed=2) + 1
    one, two = np.cov(a.T), np.cov(b.T)
    reference = (a.mean(0) - b.mean(0)).square().sum().item() + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert frechet_distance(a, b) == pytest.approx(reference, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-12)
    assert frechet_distance(a.float(), b.float()) == pytest.approx(reference, rel=1e-5)


def test_frechet_distance_of_large_samples_is_that_of_their_laws():
    a, b = normal(400_000, 2), normal(400_000, 2, seed=1) * torch.tensor([2.0, 0.5]) + torch.tensor([3.0, 0.0])
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 0.25, rel=5e-3)


def test_frechet_distance_to_itself_is_0_also_where_features_are_constant():
    x = normal(30, 8)
    x[:, 3:5] = 7
    assert 0 <= frechet_distance(x, x) < 1e-12


def test_too_few_samples_for_a_covariance_are_refused_with_their_number():
    message = "the Fréchet distance of 64 features needs at least 65 examples of each sample, and b has 64"
    with pytest.raises(ValueError, match=message):
        frechet_distance(normal(65, 64), normal(64, 64))
    assert frechet_distance(normal(65, 64), normal(65, 64, seed=1)) > 0


# ---- the kernel distance -------------------------------------------------------------------------------------------


def mmd(a, b):
    """Unbiased, as a double loop over pairs of different examples."""
    k = lambda x, y: (float(x @ y) / len(x) + 1) ** 3  # noqa: E731
    within = [mean(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) for s in (a, b)]
    return sum(within) - 2 * mean(k(x, y) for x in a for y in b)


def test_kernel_distance_is_a_double_loop(monkeypatch):
    a, b = normal(9, 4), normal(7, 4, seed=1) + 0.5
    monkeypatch.setattr(neighbours, "PAIRS", 20)  # blocks of a few rows
    assert kernel_distance(a, b)[0] == pytest.approx(mmd(a, b), rel=1e-12)
    assert kernel_distance(a.float(), b.float())[0] == pytest.approx(mmd(a.float(), b.float()), rel=1e-5)


def test_the_error_of_the_kernel_distance_is_the_jackknife():
    a, b = normal(6, 3), normal(5, 3, seed=1) + 1
    variance = 0.0
    for side, n in ((a, 6), (b, 5)):
        without = [torch.cat([side[:i], side[i + 1 :]]) for i in range(n)]
        values = [mmd(rest, b) if side is a else mmd(a, rest) for rest in without]
        variance += (n - 1) / n * sum((value - mean(values)) ** 2 for value in values)
    assert kernel_distance(a, b)[1] == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_kernel_distance_of_equal_laws_is_0_in_the_mean_and_the_error_is_not_too_small():
    found = [kernel_distance(normal(40, 3, seed=2 * i), normal(50, 3, seed=2 * i + 1)) for i in range(300)]
    values, errors = zip(*found)
    assert abs(mean(values)) < 4 * stdev(values) / math.sqrt(300)
    assert min(values) < 0
    assert 1 < math.sqrt(mean(error**2 for error in errors)) / stdev(values) < 2


def test_the_error_of_the_kernel_distance_is_the_spread_where_laws_differ():
    found = [kernel_distance(normal(100, 3, seed=2 * i), normal(100, 3, seed=2 * i + 1) + 1) for i in range(300)]
    values, errors = zip(*found)
    assert math.sqrt(mean(error**2 for error in errors)) == pytest.approx(stdev(values), rel=0.15)
    assert min(values) > 0


# ---- quality and variety -------------------------------------------------------------------------------------------


def column(*numbers):
    return torch.tensor(numbers)[:, None]


def test_precision_and_recall_by_hand():
    """Balls with k = 1: real [−1, 1], [0, 2], [−2, 8] around 3 … and so on, see the comments."""
    real, made = column(0.0, 1.0, 3.0), column(1.5, 6.0, 6.5)
    # radii of real: 1, 1, 2; its balls: [−1, 1], [0, 2], [1, 5]. Of made: 4.5, 0.5, 0.5; [−3, 6], [5.5, 6.5], [6, 7]
    assert precision_recall(real, made, 1) == (pytest.approx(1 / 3), 1.0)
    # k = 2, radii of real: 3, 2, 3; balls [−3, 3], [−1, 3], [0, 6]: the border belongs to the ball
    assert precision_recall(real, made, 2)[0] == pytest.approx(2 / 3)


def loops(real, made, k):
    """Precision and recall as they are defined, pair by pair."""
    distance = lambda x, y: math.dist(x.tolist(), y.tolist())  # noqa: E731

    def radii(sample):
        others = [[distance(x, y) for j, y in enumerate(sample) if j != i] for i, x in enumerate(sample)]
        return [sorted(row)[k - 1] for row in others]

    in_real = [[distance(x, y) <= r for x, r in zip(real, radii(real))] for y in made]
    in_made = [[distance(x, y) <= r for y, r in zip(made, radii(made))] for x in real]
    return mean(map(any, in_real)), mean(map(any, in_made))


@pytest.mark.parametrize("pairs", [1, 100, 2**22])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbours_are_those_of_plain_loops(pairs, k, monkeypatch):
    monkeypatch.setattr(neighbours, "PAIRS", pairs)
    real, made = normal(40, 3), 1.3 * normal(30, 3, seed=1) + 0.4
    found = precision_recall(real, made, k)
    assert tuple(found) == pytest.approx(loops(real, made, k))
    assert 0.2 < min(found) < 1


def test_copies_lie_at_the_border_of_the_balls_of_what_they_copy():
    """Distances by a product of matrices, which depend on the order of their terms, miss some of them."""
    real = normal(3000, 16)
    made = real[torch.randperm(3000, generator=torch.Generator().manual_seed(1))]
    assert precision_recall(real, made, 1) == (1.0, 1.0)


def clusters(n, modes, seed):
    """n points of eight clusters on a ring, or of the first few of them."""
    angle = torch.arange(n) % modes * (2 * math.pi / 8)
    return 10 * torch.stack([angle.cos(), angle.sin()], 1) + normal(n, 2, seed=seed)


def test_dropped_modes_cost_recall_and_blur_costs_precision():
    real, all_modes = clusters(800, 8, 0), clusters(800, 8, 1)
    good, half = precision_recall(real, all_modes), precision_recall(real, clusters(800, 4, 2))
    assert min(good) > 0.95
    assert half.precision > 0.95
    assert half.recall == pytest.approx(0.5, abs=0.03)
    noisy = all_modes + 6 * normal(800, 2, seed=3)
    blurred = precision_recall(real, noisy)
    assert blurred.precision < 0.6
    assert blurred.recall > 0.95
    for worse in (clusters(800, 4, 2), noisy):
        assert frechet_distance(real, worse) > 20 * frechet_distance(real, all_modes)
        value, error = kernel_distance(real / 7, worse / 7)  # of about unit size
        assert value > 5 * error


def by_hyperplane(train, y, x):
    """A classifier of one's own: logistic regression on standardised features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return torch.from_numpy(model.fit(train.numpy(), y.numpy()).predict(x.numpy()))


# ---- the test ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classify", [by_neighbours, by_hyperplane])
def test_equal_laws_are_not_told_apart_and_p_values_are_those_of_chance(classify):
    """P(p ≤ α) ≤ α, and near it: hits are whole numbers, so p is not quite uniform."""
    runs = 200
    found = [
        two_sample_accuracy(normal(100, 2, seed=2 * i), normal(100, 2, seed=2 * i + 1), classify) for i in range(runs)
    ]
    accuracies, p_values = zip(*found)
    assert mean(accuracies) == pytest.approx(0.5, abs=4 * 0.05 / math.sqrt(runs))
    for alpha in (0.1, 0.25, 0.5, 0.75):
        share, error = mean(p <= alpha for p in p_values), math.sqrt(alpha * (1 - alpha) / runs)
        assert alpha - 0.12 - 3 * error < share < alpha + 3 * error


@pytest.mark.parametrize("classify", [by_neighbours, by_hyperplane])
def test_different_laws_are_told_apart(classify):
    """A shift by 2 in one of two dimensions: the best classifier is right in Φ(1) = 84 % of cases."""
    shift = torch.tensor([2.0, 0.0])
    accuracy, p_value = two_sample_accuracy(normal(2000, 2), normal(2500, 2, seed=1) + shift, classify)
    assert accuracy == pytest.approx(0.841, abs=0.03)
    assert p_value < 1e-20


def test_neighbours_see_a_difference_that_no_hyperplane_does():
    a, b = normal(400, 2), 3 * normal(400, 2, seed=1)
    assert two_sample_accuracy(a, b, by_neighbours).p_value < 1e-6
    assert two_sample_accuracy(a, b, by_hyperplane).p_value > 0.01


def test_the_p_value_is_that_of_fishers_test():
    from scipy.stats import fisher_exact

    for half, named_a, right_b in ((4, 0, 4), (10, 3, 8), (50, 20, 31), (50, 50, 50), (50, 1, 0)):
        table = [[right_b, half - right_b], [named_a, half - named_a]]  # rows: sample b, sample a; first: named b
        expected = fisher_exact(table, alternative="greater").pvalue
        assert two_sample._tail(right_b, right_b + named_a, half) == pytest.approx(expected, rel=1e-9)


def test_who_always_gives_the_same_answer_has_shown_nothing():
    always = lambda train, y, x: torch.ones(len(x), dtype=torch.long)  # noqa: E731
    assert two_sample_accuracy(normal(20, 2), normal(20, 2) + 9, always) == (0.5, pytest.approx(1.0))


def test_a_classifier_is_asked_about_examples_it_was_not_shown():
    a, b = torch.arange(11.0)[:, None], 100 + torch.arange(30.0)[:, None]
    seen = []

    def classify(train, y, x):
        seen.append((train.flatten().tolist(), y.tolist(), x.flatten().tolist()))
        return (x[:, 0] >= 100).long()

    assert two_sample_accuracy(a, b, classify).accuracy == 1.0
    ((train, y, x),) = seen
    assert not set(train) & set(x)
    assert [number >= 100 for number in train] == [label == 1 for label in y] == [False] * 5 + [True] * 5
    two_sample_accuracy(a, b, classify)
    two_sample_accuracy(a, b, classify, seed=1)
    assert seen[0] == seen[1] != seen[2]


# ---- real against real ---------------------------------------------------------------------------------------------


def test_the_control_takes_disjoint_parts_that_follow_from_the_seed():
    real = torch.arange(10.0)[:, None]
    parts = [control(lambda a, b: (a, b), real, 4, seed=seed) for seed in (0, 0, 1)]
    for a, b in parts:
        assert a.shape == b.shape == (4, 1)
        assert len(torch.cat([a, b]).unique()) == 8
    assert torch.equal(parts[0][0], parts[1][0])
    assert not torch.equal(parts[0][0], parts[2][0])
    for n in (0, 6):
        with pytest.raises(ValueError, match=f"n is {n}: two disjoint parts need {2 * n} real examples"):
            control(frechet_distance, real, n)


def test_every_measure_has_its_control():
    real = normal(400, 4)
    assert control(frechet_distance, real, 200) < 0.2
    value, error = control(kernel_distance, real, 200)
    assert abs(value) < 3 * error
    assert min(control(precision_recall, real, 200)) > 0.8
    assert control(two_sample_accuracy, real, 200).p_value > 0.01


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
def test_features_that_are_not_finite_are_refused(measure):
    for value in (math.nan, math.inf):
        bad = normal(20, 3)
        bad[7, 2] = bad[7, 1] = bad[9, 0] = value
        with pytest.raises(ValueError, match=rf"2 of 20 rows of \w+ hold a feature.*first is \w+\[7, 1\] = {value}"):
            measure(normal(20, 3), bad)
        with pytest.raises(ValueError, match="2 of 20 rows"):
            measure(bad, normal(20, 3))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", [(20, 4), (20,), (20, 3, 1), (20, 0)])
def test_features_of_other_shapes_are_refused(measure, shape):
    pairs = [(normal(20, 3), torch.ones(shape)), (torch.ones(shape), normal(20, 3))]
    for pair in pairs + [(torch.ones(shape), torch.ones(shape))] * (shape != (20, 4)):
        with pytest.raises(ValueError, match=r"they must be \(N, D\) and \(M, D\) with the same D"):
            measure(*pair)


@pytest.mark.parametrize(("measure", "needed"), [(frechet_distance, 4), (kernel_distance, 3), (two_sample_accuracy, 8)])
def test_too_few_examples_are_refused_with_their_number(measure, needed):
    measure(normal(needed, 3), normal(needed, 3, seed=1))
    for n, m in ((needed - 1, 20), (20, needed - 1), (0, 20)):
        with pytest.raises(ValueError, match=f"needs at least {needed} examples of each sample, and . has {min(n, m)}"):
            measure(normal(n, 3), normal(m, 3))


def test_a_number_of_neighbours_that_there_are_not_is_refused():
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k is {k} and real has 5 examples"):
            precision_recall(normal(5, 2), normal(9, 2), k)
    with pytest.raises(ValueError, match="k is 3 and made has 3 examples"):
        precision_recall(normal(9, 2), normal(3, 2))


# ---- any type, and classifiers that answer otherwise ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("measure", MEASURES)
def test_features_of_any_type_lists_and_arrays_are_taken(measure, dtype):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(2, (20, 3), generator=generator) for _ in range(2))
    expected = measure(a.double(), b.double())
    assert measure(a.to(dtype), b.to(dtype)) == expected
    assert measure(a.tolist(), b.double().numpy()) == expected
    for wrong in ("features", None, [[1.0], [2.0, 3.0]]):
        with pytest.raises(ValueError, match="that is no array of numbers: give a tensor"):
            measure(a, wrong)


@pytest.mark.parametrize("n_features", [1, 2])
def test_frechet_distance_of_few_features_is_that_in_closed_form(n_features):
    """Of one feature the covariance is a number: (μ₁ − μ₂)² + (σ₁ − σ₂)², for each feature on its own."""
    a, b = normal(50, n_features), 3 * normal(60, n_features, seed=1) + 1
    if n_features == 2:
        a[:, 1], b[:, 1] = 0, 2  # constants
    expected = ((a.mean(0) - b.mean(0)) ** 2 + (a.std(0) - b.std(0)) ** 2).sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: torch.zeros(n, 1),
        lambda n: torch.zeros(n, 1).long(),
        lambda n: torch.full((n,), 2),
        lambda n: torch.zeros(n),
    ],
    ids=["floats", "column", "two", "float labels"],
)
def test_a_classifier_that_names_no_samples_is_refused(answer):
    with pytest.raises(ValueError, match="label"):
        two_sample_accuracy(normal(20, 2), normal(20, 2), lambda train, y, x: answer(len(x)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_names_of_any_whole_type_are_taken(dtype):
    a, b = normal(40, 2), normal(40, 2, seed=1) + 1
    other = two_sample_accuracy(a, b, lambda *given: by_neighbours(*given).to(dtype))
    assert other == two_sample_accuracy(a, b)


@pytest.mark.parametrize(
    "measure",
    [
        lambda k: precision_recall(normal(9, 2), normal(9, 2), k),
        lambda k: control(frechet_distance, normal(9, 1), k),
    ],
)
def test_halves_of_neighbours_and_examples_are_refused(measure):
    with pytest.raises(ValueError, match=r"is 2\.5: it must be a whole number"):
        measure(2.5)
