"""Rulers against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from dgm_lib import neighbours, plots
from dgm_lib.checks import named
from dgm_lib.datasets import Split
from dgm_lib.measures import metrics, novelty


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


def test_logits_come_with_the_labels_of_their_rows():
    weight = torch.ones(2, requires_grad=True)
    logits, y = metrics.logits_of(lambda x: x * weight, ramp().batches(3))
    assert not logits.requires_grad
    assert torch.equal(logits[:, 0] % 2, y.float())  # the label of row i is i mod 2
    assert sorted(logits[:, 1].tolist()) == list(range(10))


def test_balanced_accuracy_by_hand():
    y, predicted = torch.tensor([0, 0, 0, 0, 1, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 0, 2])
    assert metrics.balanced_accuracy(predicted, y, 3) == pytest.approx((3 / 4 + 1 + 1 / 2) / 3)
    assert metrics.balanced_accuracy(torch.zeros(7).long(), y, 3) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="class 3 has no example"):
        metrics.balanced_accuracy(predicted, y, 4)
    with pytest.raises(ValueError, match=r"\(1,\) labels are predicted for \(7,\)"):
        metrics.balanced_accuracy(predicted[:1], y, 3)


# ---- bounds of a likelihood ----------------------------------------------------------------------------------------
# p(z) = N(0, 1), p(x|z) = N(z, 1): p(x) = N(0, 2), p(z|x) = N(x/2, 1/2), I(x; z) = ½ log 2


def channel(n=2000):
    """x (n, 1) whose mean, and nearly whose variance, are those of N(0, 2)."""
    x = Normal(0, math.sqrt(2)).icdf((torch.arange(n) + 0.5).double() / n)
    return Split(x[:, None], torch.zeros(n, dtype=torch.long))


def log_p(x):
    return Normal(0, math.sqrt(2)).log_prob(x[:, 0])


def terms(x, shift=0.0):
    """E_q[log p(x|z)] and KL(q ‖ p(z)) in closed form, where q is the posterior, shifted."""
    q = Normal(x[:, 0] / 2 + shift, math.sqrt(0.5))
    squared = (x[:, 0] - q.mean).square() + q.variance
    return -0.5 * (squared + math.log(2 * math.pi)), kl_divergence(q, Normal(0.0, 1.0))


def test_the_gap_is_the_kl_of_the_posteriors():
    for shift in (0.0, 0.3):
        elbo = lambda x, shift=shift: terms(x, shift)[0] - terms(x, shift)[1]  # noqa: E731
        gap, error = metrics.elbo_gap(log_p, elbo, channel().batches(300))
        assert gap == pytest.approx(shift**2, abs=1e-6)  # KL of two Gaussians of variance ½
        assert error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_of_an_estimated_elbo_is_found_within_its_error(seed):
    def elbo(x):
        q = Normal(x[:, 0] / 2 + 0.3, 1.0)
        z = q.sample()
        return Normal(z, 1.0).log_prob(x[:, 0]) + Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)

    torch.manual_seed(seed)
    exact = kl_divergence(Normal(0.3, 1.0), Normal(0.0, math.sqrt(0.5))).item()
    gap, error = metrics.elbo_gap(log_p, elbo, channel().batches(300))
    assert 0 < error < 0.05
    assert abs(gap - exact) < 4 * error


def test_what_lies_above_the_likelihood_is_no_bound():
    with pytest.raises(ValueError, match=r"the ELBO lies 0\.05 nats above log p, standard error .* no bound of it"):
        metrics.elbo_gap(log_p, lambda x: log_p(x) + 0.05, channel().batches(300))
    # rounding, and noise within its error, are let through: the figure may then be a hair below 0
    assert metrics.elbo_gap(log_p, lambda x: log_p(x) + 1e-4, channel().batches(300))[0] < 0
    noisy = metrics.elbo_gap(log_p, lambda x: log_p(x) + x[:, 0] + 0.05, channel(100).batches(300))
    assert noisy[0] == pytest.approx(-0.05)


def test_rate_and_distortion_bound_the_information_and_meet_it_with_the_exact_posterior():
    entropy, information = Normal(0, math.sqrt(2)).entropy().item(), math.log(2) / 2
    rate, distortion = metrics.rate_distortion(terms, channel().batches(300))
    assert rate == pytest.approx(information, abs=1e-3)
    assert entropy - distortion == pytest.approx(information, abs=1e-3)
    rate, distortion = metrics.rate_distortion(lambda x: terms(x, 0.3), channel().batches(300))
    assert entropy - distortion < information - 0.04
    assert rate > information + 0.04
    nats, _ = metrics.nats(lambda x: terms(x, 0.3)[0] - terms(x, 0.3)[1], channel().batches(300))
    assert rate + distortion == pytest.approx(nats, abs=1e-12)


# ---- missing pixels ------------------------------------------------------------------------------------------------


def test_masked_error_counts_the_missing_pixels_only():
    x = torch.zeros(2, 1, 2, 2)
    filled = torch.tensor([[[[9.0, 1.0], [2.0, 9.0]]], [[[3.0, 9.0], [math.nan, 9.0]]]])
    known = torch.tensor([[[[True, False], [False, True]]], [[[False, True], [True, True]]]])
    assert metrics.masked_error(x, filled, known).tolist() == [2.5, 9.0]
    upper = torch.tensor([[True, True], [False, False]])  # one mask for all
    assert metrics.masked_error(x[:1], filled[:1], upper).tolist() == [42.5]


def test_masks_that_do_not_fit_are_refused():
    x, known = torch.zeros(3, 1, 2, 2), torch.tensor([[True, False], [False, True]])
    with pytest.raises(ValueError, match=r"filled has the shape \(1, 2, 2\) and x \(3, 1, 2, 2\)"):
        metrics.masked_error(x, x[0], known)
    with pytest.raises(ValueError, match=r"known has the shape \(3, 2\), which does not fit x \(3, 1, 2, 2\)"):
        metrics.masked_error(x, x, torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"known has the type torch\.float32: it must be bool"):
        metrics.masked_error(x, x, known.float())
    known = known.expand(3, 1, 2, 2).clone()
    known[1] = True
    with pytest.raises(ValueError, match="nothing is missing in example 1"):
        metrics.masked_error(x, x, known)


# ---- unusual inputs ------------------------------------------------------------------------------------------------


def test_auroc_by_hand():
    inliers = torch.tensor([1.0, 2.0, 2.0])
    # pairs won: 2 over (1), ties with two 2s; 3 over all: (1 + 2/2 + 3) / 6
    assert novelty.auroc(inliers, torch.tensor([2.0, 3.0])) == 5 / 6
    assert novelty.auroc(inliers, torch.tensor([2.5, 9.0])) == 1
    assert novelty.auroc(inliers, torch.tensor([0.0])) == 0
    assert novelty.auroc(torch.ones(3), torch.ones(2)) == 0.5
    assert novelty.auroc(torch.tensor([-torch.inf, 0.0]), torch.tensor([0.0, torch.inf])) == 7 / 8


def test_fpr_by_hand():
    inliers = torch.arange(100.0).flip(0)  # 95 of them are ≤ 94
    outliers = torch.tensor([50.0, 94.0, 94.5, 200.0])
    assert novelty.fpr_at(inliers, outliers) == 0.5
    assert novelty.fpr_at(inliers, outliers, tpr=0.941) == 0.5  # 94.1 inliers cannot pass: 95 do
    assert novelty.fpr_at(inliers, outliers, tpr=0.94) == 0.25
    assert novelty.fpr_at(inliers, outliers, tpr=1.0) == 0.75
    assert novelty.fpr_at(torch.zeros(4), torch.zeros(2)) == 1  # ties cannot be told apart
    with pytest.raises(ValueError, match="tpr is 0: it must be above 0"):
        novelty.fpr_at(inliers, outliers, tpr=0)
    with pytest.raises(ValueError, match="scores of outliers are NaN"):
        novelty.fpr_at(inliers, torch.tensor([math.nan]))


@pytest.mark.parametrize("levels", [3, 1000])
def test_auroc_is_that_of_scikit_learn_with_and_without_ties(levels):
    from sklearn.metrics import roc_auc_score

    generator = torch.Generator().manual_seed(0)
    inliers = torch.randint(levels, (151,), generator=generator).float()
    outliers = torch.randint(levels, (70,), generator=generator).float() + levels // 3
    reference = roc_auc_score([0] * 151 + [1] * 70, torch.cat([inliers, outliers]).numpy())
    assert novelty.auroc(inliers, outliers) == pytest.approx(reference, abs=1e-12)
    assert novelty.auroc(outliers, inliers) == pytest.approx(1 - reference, abs=1e-12)


def test_scores_without_a_rank_are_refused():
    with pytest.raises(ValueError, match="1 of 2 scores of outliers are NaN"):
        novelty.auroc(torch.ones(3), torch.tensor([math.nan, 1.0]))
    with pytest.raises(ValueError, match=r"scores of inliers have the shape \(3, 1\)"):
        novelty.auroc(torch.ones(3, 1), torch.ones(2))
    with pytest.raises(ValueError, match=r"scores of outliers have the shape \(0,\)"):
        novelty.auroc(torch.ones(3), torch.ones(0))


def test_nearest_distance_by_hand_and_in_chunks(monkeypatch):
    train = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 1.0]]])
    x = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]]])
    for pairs in (1, 2**24):
        monkeypatch.setattr(neighbours, "PAIRS", pairs)
        for k, expected in ((1, [0.0, 3.0]), (2, [1.0, math.sqrt(10)]), (3, [5.0, 4.0])):
            torch.testing.assert_close(novelty.nearest_distance(train, x, k), torch.tensor(expected))


def test_nearest_distance_of_a_copy_is_0_and_others_are_those_of_float64():
    """cdist in float32 gives copies among these distances of up to 0.07: squares of 10⁴ are subtracted there."""
    generator = torch.Generator().manual_seed(0)
    train, x = (torch.rand(n, 1, 28, 28, generator=generator) + 3 for n in (300, 40))
    assert (novelty.nearest_distance(train, train[:50]) == 0).all()
    every = (x[:, None].double() - train.double()).flatten(2).norm(dim=2)
    torch.testing.assert_close(
        novelty.nearest_distance(train, x, 5).double(), every.sort(1).values[:, 4], rtol=1e-5, atol=0
    )


def test_nearest_distance_refuses_other_widths_and_too_many_neighbours():
    with pytest.raises(ValueError, match="train has 2 numbers a row and x has 3"):
        novelty.nearest_distance(torch.ones(4, 2), torch.ones(4, 3))
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k is {k}: it must be from 1 to the 4 rows"):
            novelty.nearest_distance(torch.ones(4, 2), torch.ones(1, 2), k)


# ---- samples -------------------------------------------------------------------------------------------------------


def test_class_entropy_by_hand():
    assert metrics.class_entropy(torch.arange(10), 10) == pytest.approx(math.log(10), abs=1e-15)
    assert metrics.class_entropy(torch.full((7,), 3), 10) == 0
    y = torch.tensor([0, 0, 2])
    assert metrics.class_entropy(y, 3) == pytest.approx(math.log(3) - 2 / 3 * math.log(2), abs=1e-15)
    assert metrics.class_entropy(y, 30) == metrics.class_entropy(y, 3)
    assert metrics.class_shares(y, 4).tolist() == [2 / 3, 0, 1 / 3, 0]


def test_labels_outside_of_the_classes_are_refused():
    for wrong in (torch.tensor([0, 3]), torch.tensor([-1, 2])):
        for measure in (metrics.class_entropy, metrics.class_shares):
            with pytest.raises(ValueError, match=r"labels go from .* they must lie in 0 … 2"):
                measure(wrong, 3)
    for shape in ((0,), (2, 1)):
        with pytest.raises(ValueError, match="they must be"):
            metrics.class_entropy(torch.zeros(shape, dtype=torch.long), 3)


# ---- densities in the plane ----------------------------------------------------------------------------------------


def two_gaussians():
    p = MultivariateNormal(torch.tensor([0.5, -0.3]), torch.tensor([[0.5, 0.2], [0.2, 0.4]]))
    return p, MultivariateNormal(torch.tensor([0.0, 0.2]), torch.tensor([[0.8, -0.1], [-0.1, 0.6]]))


def test_kl_on_a_grid_is_that_of_gaussians_whatever_their_constants():
    p, q = two_gaussians()
    grid = plots.plane_grid(6.0, 200)
    kl = metrics.kl_on_grid(lambda x: p.log_prob(x) + 300, lambda x: q.log_prob(x) - 5, *grid)
    assert kl == pytest.approx(kl_divergence(p, q).item(), abs=1e-5)
    back = metrics.kl_on_grid(q.log_prob, p.log_prob, *grid)
    assert back == pytest.approx(kl_divergence(q, p).item(), abs=1e-5)
    assert abs(back - kl) > 0.1
    assert metrics.kl_on_grid(p.log_prob, lambda x: p.log_prob(x) + 1, *grid) == pytest.approx(0, abs=1e-6)


def test_log_z_on_a_grid_is_the_logarithm_of_the_integral():
    p, _ = two_gaussians()
    for n in (150, 300):  # halved cells: a forgotten area would show
        assert metrics.log_z_on_grid(lambda x: p.log_prob(x) + 2.5, *plots.plane_grid(6.0, n)) == pytest.approx(
            2.5, abs=1e-6
        )
    flat = metrics.log_z_on_grid(lambda x: torch.zeros(len(x)), *plots.plane_grid(3.0, 10))
    assert flat == pytest.approx(math.log(36), abs=1e-14)  # summed in float64


def test_what_has_no_mass_costs_nothing_and_what_q_rules_out_costs_everything():
    grid = plots.plane_grid(1.0, 10)
    right = lambda x: torch.where(x[:, 0] > 0, 0.0, -torch.inf)  # noqa: E731
    flat = lambda x: torch.zeros(len(x))  # noqa: E731
    assert metrics.kl_on_grid(right, flat, *grid) == pytest.approx(math.log(2))
    assert metrics.kl_on_grid(right, right, *grid) == pytest.approx(0, abs=1e-12)
    assert metrics.kl_on_grid(flat, right, *grid) == math.inf


def test_a_grid_is_evaluated_without_a_graph():
    weight = torch.ones(2, requires_grad=True)
    seen = []

    def log_f(x):
        seen.append((x @ weight).requires_grad)
        return x @ weight

    metrics.kl_on_grid(log_f, log_f, *plots.plane_grid(1.0, 4))
    assert seen == [False, False]


@pytest.mark.parametrize(
    ("log_f", "message"),
    [
        (lambda x: x[:, :1], r"log f of 16 points has the shape \(16, 1\)"),
        (lambda x: x[:, 0] * math.nan, "NaN"),
        (lambda x: torch.full((16,), -math.inf), "−∞ everywhere"),
        (lambda x: 1 / x[:, 0].relu(), "\\+∞ somewhere"),
    ],
)
def test_what_is_no_log_density_is_refused(log_f, message):
    with pytest.raises(ValueError, match=message):
        metrics.log_z_on_grid(log_f, *plots.plane_grid(1.0, 4))


def test_the_nearest_of_each_class_is_1_nn():
    train, y = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    torch.testing.assert_close(novelty.class_distances(train, y, x, 2), torch.tensor([[0.0, 1.0], [3.0, 2.0]]))
    with pytest.raises(ValueError, match="class 2 has no example among 3 labels"):
        novelty.class_distances(train, y, x, 3)


# ---- what is no batch, no score and no label -----------------------------------------------------------------------

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
X, Y = torch.arange(6.0)[:, None], torch.tensor([0, 1, 0, 1, 1, 0])


def by_sign(x):
    """Class 1 for the odd ones: five of six are right."""
    return torch.cat([x % 2 == 0, x % 2 == 1], 1).float()


@pytest.mark.parametrize("dtype", [*WHOLE, torch.bool])
def test_labels_of_any_whole_type_are_taken(dtype):
    y = Y.to(dtype)
    assert metrics.hits(by_sign, [(X, y)]).tolist() == [1, 1, 1, 1, 0, 0]
    assert metrics.accuracy(by_sign, [(X, y)]) == pytest.approx(4 / 6)
    assert metrics.logits_of(by_sign, [(X, y)])[1].dtype == torch.int64
    assert metrics.class_shares(y, 2).tolist() == [0.5, 0.5]
    assert metrics.balanced_accuracy(y, y, 2) == 1
    assert metrics.balanced_accuracy(y.tolist(), y.numpy(), 2) == 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_scores_of_any_float_type_are_taken(dtype):
    assert metrics.accuracy(lambda x: by_sign(x).to(dtype), [(X, Y)]) == pytest.approx(4 / 6)


NO_LABELS = {
    "(N, 1)": Y[:, None],
    "one-hot": torch.nn.functional.one_hot(Y),
    "floats": Y.float(),
    "too few": Y[:5],
    "one": Y[0],
    "none": None,
    "words": ["a"] * 6,
}


@pytest.mark.parametrize("y", NO_LABELS.values(), ids=NO_LABELS)
def test_what_are_no_labels_does_not_broadcast(y):
    for measure in (metrics.accuracy, metrics.hits, metrics.logits_of):
        with pytest.raises(ValueError, match=r"labels|y is a"):
            measure(by_sign, [(X, y)])


@pytest.mark.parametrize("shape", [(6, 1), (6,), (), (1, 2), (5, 2), (6, 2, 1)])
def test_what_are_no_scores_does_not_broadcast(shape):
    for measure in (metrics.accuracy, metrics.hits, metrics.logits_of):
        with pytest.raises(ValueError, match=r"the classifier gives .* for 6 examples: it must give \(6, K\)"):
            measure(lambda x: torch.zeros(shape), [(X, Y)])


@pytest.mark.parametrize("score", [math.nan, -math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_classes", [2, 10])
def test_a_row_without_a_largest_score_names_no_class(score, dtype, n_classes):
    scores = torch.zeros(6, n_classes, dtype=dtype)
    scores[2:] = score
    assert named(scores).tolist() == [0, 0, -1, -1, -1, -1]
    assert metrics.accuracy(lambda x: scores, [(X, torch.zeros(6).long())]) == pytest.approx(2 / 6)
    assert metrics.balanced_accuracy(named(scores), torch.zeros(6).long(), 1) == pytest.approx(2 / 6)
    with pytest.raises(ValueError, match="labels go from -1 to 0"):
        metrics.class_shares(named(scores), n_classes)
    half = torch.zeros(1, n_classes, dtype=dtype)
    half[0, 0] = math.nan  # one score that is none spoils its row, as no other can be said to be the largest
    assert named(half).tolist() == [-1]
    assert named(torch.tensor([[0.0, math.inf], [-math.inf, 0.0]])).tolist() == [1, 1]


def one_number(x):
    return -x[:, 0]


@pytest.mark.parametrize(
    "batches",
    [[], [(X[:0], Y[:0])], iter([]), [X], X, [(X, Y, Y)], [None], [{"x": X, "y": Y}], (X, Y)],
    ids=["none", "no example", "used up", "x", "tensor", "triple", "None", "dict", "pair"],
)
def test_what_are_no_batches_is_one_sentence(batches):
    for measure in (
        lambda b: metrics.nats(one_number, b),
        lambda b: metrics.bits_per_dim(one_number, b),
        lambda b: metrics.accuracy(by_sign, b),
        lambda b: metrics.elbo_gap(one_number, one_number, b),
        lambda b: metrics.rate_distortion(lambda x: (x[:, 0], x[:, 0]), b),
        lambda b: metrics.logits_of(by_sign, b),
    ):
        with pytest.raises(ValueError, match=r"there is no example in the batches|a batch is a \w+: give pairs"):
            measure(batches)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("last", [(1, 4, 4), (4,), (2,)])
def test_a_number_for_each_pixel_or_one_for_all_is_none_an_example(n, last):
    x = torch.rand(n, *last)
    for log_prob in (lambda x: x, lambda x: x.sum(), lambda x: x.sum().item(), lambda x: x[:1].flatten(1).sum(1)):
        if n == 1 and log_prob(x) is not x and getattr(log_prob(x), "shape", ()) == (1,):
            continue  # of one example the last is right
        for measure in (
            lambda f: metrics.nats(f, [(x, None)]),
            lambda f: metrics.bits_per_dim(f, [(x, None)]),
            lambda f: metrics.elbo_gap(f, lambda x: x.flatten(1).sum(1), [(x, None)]),
            lambda f: metrics.elbo_gap(lambda x: x.flatten(1).sum(1), f, [(x, None)]),
            lambda f: metrics.rate_distortion(lambda x: (x.flatten(1).sum(1), f(x)), [(x, None)]),
        ):
            with pytest.raises(ValueError, match=r"it must be one number an example"):
                measure(log_prob)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_column_of_numbers_is_one_an_example(dtype):
    x = X.to(dtype)
    expected = metrics.nats(one_number, [(X, None)])
    assert metrics.nats(lambda x: -x, [(x, None)]) == expected
    assert metrics.nats(lambda x: -x[:, 0].double().numpy(), [(x, None)]) == expected
    gap, error = metrics.elbo_gap(lambda x: -x, lambda x: -x[:, 0] - 1, [(x, None)])  # (6, 1) − (6,) would be (6, 6)
    assert (gap, error) == (pytest.approx(1, abs=0.02), pytest.approx(0, abs=0.02))


@pytest.mark.parametrize("n", [1, 2, 100])
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_a_bound_above_the_likelihood_is_none_for_one_example_and_for_large_ones(n, size):
    x = torch.rand(n, 1) * size + size
    with pytest.raises(ValueError, match="it is no bound of it"):
        metrics.elbo_gap(lambda x: x, lambda x: x + 0.01 * size, [(x, None)])
    rounded = metrics.elbo_gap(lambda x: x, lambda x: x / 3 + x / 3 + x / 3, [(x, None)])[0]  # float32's own rounding
    assert abs(rounded) < 1e-6 * size
    with pytest.raises(ValueError, match="is NaN, or both are infinite"):
        metrics.elbo_gap(lambda x: x * math.nan, lambda x: x, [(x, None)])


def test_no_graph_is_kept_and_gradients_go_on_after_an_error():
    weight = torch.ones(1, requires_grad=True)
    assert not metrics.per_example(lambda x: (x * weight)[:, 0], [(X, None)]).requires_grad
    with pytest.raises(ValueError, match="one number an example") as raised:
        metrics.nats(lambda x: (x * weight).sum(), [(X, None)])
    assert torch.is_grad_enabled(), raised


@pytest.mark.parametrize("dtype", [*WHOLE, torch.bool, *FLOATS])
def test_scores_and_values_of_any_type_and_lists_are_ranked(dtype):
    inliers, outliers = torch.tensor([0, 1, 1]).to(dtype), torch.tensor([1, 1, 0]).to(dtype)
    expected = novelty.auroc(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert novelty.auroc(inliers, outliers) == novelty.auroc([0, 1, 1], [1.0, 1.0, 0.0]) == expected == 0.5
    assert novelty.fpr_at(inliers, outliers) == 1
    low, high = metrics.bootstrap_interval(inliers)
    assert (low, high) == metrics.bootstrap_interval([0.0, 1.0, 1.0]) == (0, 1)
    image = torch.tensor([[[[0, 1]]], [[[1, 0]]]]).to(dtype)
    known = torch.zeros(2, 1, 1, 2, dtype=torch.bool)
    assert metrics.masked_error(image, image.flip(0), known).tolist() == [1, 1]  # 0 − 1 is no 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 95}, "level is 95: it must lie between 0 and 1"),
        ({"level": 0.0}, "level is 0"),
        ({"level": math.nan}, "level is nan"),
        ({"draws": 0}, "draws is 0: it must be a whole number ≥ 1"),
        ({"draws": 2.5}, "draws is 2.5"),
        ({"seed": 0.5}, "seed is 0.5: it must be a whole number"),
        ({"seed": None}, "seed is None"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"values": torch.rand(0)}, r"values have the shape \(0,\)"),
        ({"values": torch.rand(3, 1)}, r"values have the shape \(3, 1\)"),
        ({"values": torch.tensor(1.0)}, r"values have the shape \(\)"),
        ({"values": torch.tensor([1.0, math.nan])}, "N ≥ 1 finite numbers"),
        ({"values": "mean"}, "values is a str"),
    ],
)
def test_intervals_of_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap_interval(**{"values": torch.rand(9), **options})


def test_intervals_of_many_values_are_drawn_in_parts(monkeypatch):
    values = torch.rand(50)
    whole = metrics.bootstrap_interval(values, draws=100)
    monkeypatch.setattr(metrics, "DRAWN", 333)
    assert metrics.bootstrap_interval(values, draws=100) == whole
    assert metrics.bootstrap_interval(torch.tensor([3.0])) == (3, 3)
