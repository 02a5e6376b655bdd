"""Few labels and rare classes: what is drawn, what is made, and the gradient of distillation by hand."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.nn.functional import cross_entropy

from dgm_lib import checks
from dgm_lib.datasets.imbalance import class_weights, few_labels, imbalanced, oversample, smote
from dgm_lib.datasets.mixed_batches import MixedBatches
from dgm_lib.models.classify import distillation
from dgm_lib.nets import MLP
from dgm_lib.train import Objective, fit

close = torch.testing.assert_close


def labels(*counts):
    """So many examples of each class, in a mixed order."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]


# ---- which examples ------------------------------------------------------------------------------------------------


def test_few_labels_holds_as_many_of_each_class_as_asked_for():
    y = labels(30, 50, 20)
    rows = few_labels(y, 7, 3, seed=0)
    assert y[rows].bincount().tolist() == [7, 7, 7]
    assert len(rows.unique()) == 21
    assert torch.equal(rows, few_labels(y, 7, 3, seed=0))
    assert not torch.equal(rows, few_labels(y, 7, 3, seed=1))


def test_every_example_is_drawn_equally_often():
    y = labels(10, 5)
    times = torch.cat([few_labels(y, 3, 2, seed) for seed in range(500)]).bincount(minlength=15)
    expected = torch.where(y == 0, 150.0, 300.0)
    share = expected / 500
    assert ((times - expected).abs() < 4.5 * (500 * share * (1 - share)).sqrt()).all()


def test_the_smaller_draw_is_part_of_the_larger():
    y = labels(30, 50, 20)
    assert set(few_labels(y, 5, 3, seed=4).tolist()) < set(few_labels(y, 15, 3, seed=4).tolist())


def test_imbalanced_keeps_the_counts():
    y = labels(30, 50, 20)
    assert y[imbalanced(y, (30, 1, 5), seed=0)].bincount().tolist() == [30, 1, 5]


def test_a_class_with_too_few_examples_is_named():
    y = labels(30, 4, 20)
    with pytest.raises(ValueError, match="class 1 has 4 examples, and 5 are asked for"):
        few_labels(y, 5, 3, seed=0)
    with pytest.raises(ValueError, match="class 3 has 0 examples, and 1 are asked for"):
        few_labels(y, 1, 4, seed=0)
    with pytest.raises(ValueError, match="0 examples of class 2 are asked for"):
        imbalanced(y, (3, 3, 0), seed=0)
    with pytest.raises(ValueError, match="a label is 2, but the 2 classes"):
        few_labels(y, 1, 2, seed=0)
    with pytest.raises(ValueError, match=r"int64.*float32"):
        few_labels(y.float(), 1, 3, seed=0)


# ---- rare classes --------------------------------------------------------------------------------------------------


def test_class_weights_make_classes_count_alike_and_an_example_1():
    y = labels(30, 50, 20)
    weights = class_weights(y, 3)
    close(weights * y.bincount(), torch.full((3,), 100 / 3))
    close(weights[y].mean(), torch.tensor(1.0))


def test_weighting_equals_repeating():
    """The cross-entropy of a rare class weighted k times is that of the class repeated k times."""
    torch.manual_seed(0)
    y = labels(40, 4)
    logits = torch.randn(44, 2)
    rows = oversample(y, 2, to=40, seed=0)
    close(cross_entropy(logits, y, class_weights(y, 2)), cross_entropy(logits[rows], y[rows]))


def test_oversampling_repeats_what_is_rare_and_equally_often():
    y = labels(40, 7)
    rows = oversample(y, 2, to=30, seed=0)
    assert y[rows].bincount().tolist() == [40, 30]
    assert torch.equal(rows[:47], torch.arange(47))
    times = rows.bincount()[y == 1]
    assert set(times.tolist()) == {4, 5}


def test_an_empty_class_has_no_weight_and_no_neighbours():
    y = labels(5, 0, 5)
    for ask in (
        lambda: class_weights(y, 3),
        lambda: oversample(y, 3, to=5, seed=0),
        lambda: smote(torch.randn(10, 2), y, 3, to=5, seed=0),
    ):
        with pytest.raises(ValueError, match="class 1 has no example"):
            ask()


def made_by_smote(k=2, to=200):
    torch.manual_seed(0)
    y = labels(60, 8, 3)
    x = torch.randn(71, 2).double() + 3 * y[:, None]
    return x, y, *smote(x, y, 3, to=to, k=k, seed=0)


def test_smote_fills_each_class_and_leaves_what_was_there():
    x, y, more_x, more_y = made_by_smote(to=50)
    assert more_y.bincount().tolist() == [60, 50, 50]
    assert torch.equal(more_x[:71], x)
    assert torch.equal(more_y[:71], y)
    assert torch.equal(smote(x, y, 3, to=50, k=2, seed=0)[0], more_x)
    assert not torch.equal(smote(x, y, 3, to=50, k=2, seed=1)[0], more_x)


@pytest.mark.parametrize("c", [1, 2])
def test_smote_points_lie_on_segments_to_near_neighbours_of_their_class(c):
    """And on all of them, spread evenly: k = 2 nearest neighbours, found here by sorting."""
    x, y, more_x, more_y = made_by_smote(to=2000)
    members, new = x[y == c], more_x[71:][more_y[71:] == c]
    ends = [(i, j) for i in range(len(members)) for j in (members - members[i]).square().sum(1).argsort()[1:3].tolist()]
    start, stop = (members[list(side)] for side in zip(*ends))  # (S, 2): a segment for each example and neighbour
    along = ((new[:, None] - start) * (stop - start)).sum(2) / (stop - start).square().sum(1)  # (n, S)
    off = (start + along[..., None].clamp(0, 1) * (stop - start) - new[:, None]).square().sum(2)
    nearest = off.argmin(1)
    assert off.min(1).values.max() < 1e-20
    assert set(map(frozenset, ends)) == {frozenset(ends[s]) for s in nearest.tolist()}
    u = along.gather(1, nearest[:, None])
    assert abs(u.mean() - 0.5) < 0.03
    assert abs(u.var() - 1 / 12) < 0.01


def test_smote_takes_images_and_says_what_it_cannot_do():
    y = labels(6, 2)
    x, _ = smote(torch.rand(8, 1, 4, 4), y, 2, to=6, seed=0)
    assert x.shape == (12, 1, 4, 4)
    with pytest.raises(ValueError, match="class 1 has one example"):
        smote(torch.rand(7, 2), labels(6, 1), 2, to=6, seed=0)
    with pytest.raises(ValueError, match=r"x is torch\.uint8"):
        smote(torch.zeros(8, 2, dtype=torch.uint8), y, 2, to=6, seed=0)
    with pytest.raises(ValueError, match="k is 0"):
        smote(torch.rand(8, 2), y, 2, to=6, k=0, seed=0)


# ---- labelled and unlabelled examples together ---------------------------------------------------------------------


def mixed(n_labelled=5, n_unlabelled=23, **options):
    """Labelled examples 0, 1, …, whose label is their number; unlabelled ones 100, 101, …"""
    x = torch.arange(n_labelled).float()[:, None]
    others = 100 + torch.arange(n_unlabelled).float()[:, None]
    return MixedBatches(
        x, torch.arange(n_labelled), others, **{"batch_labelled": 2, "batch_unlabelled": 6, "seed": 0} | options
    )


def test_a_mixed_batch_holds_both_and_labels_stay_with_their_examples():
    batches = list(mixed())
    assert len(batches) == len(mixed()) == 3
    for x, y in batches:
        assert torch.equal(x[:2, 0].long(), y[:2])
        assert (x[2:] >= 100).all()
        assert (y[2:] == checks.NO_LABEL).all()
        assert len(x) == len(y) == 8
        assert y.dtype == torch.int64


def test_unlabelled_examples_come_once_an_epoch_and_labelled_ones_equally_often():
    x, y = map(torch.cat, zip(*mixed(n_unlabelled=24, batch_labelled=5)))
    assert x[y == -1].flatten().sort().values.tolist() == list(range(100, 124))
    assert y[y >= 0].bincount().tolist() == [4] * 5


def test_labelled_examples_come_in_a_new_order_each_time_round():
    batches = mixed(n_labelled=8, batch_labelled=8)
    orders = [tuple(y[:8].tolist()) for _ in range(2) for _, y in batches]  # three times round in each of two epochs
    assert len(set(orders)) == 6


def test_an_epoch_follows_from_the_seed_and_its_number_alone():
    batches = mixed()
    first, second = list(batches), list(batches)
    batches.set_epoch(1)
    assert all(torch.equal(a, b) for again, then in zip(batches, second, strict=True) for a, b in zip(again, then))
    assert not torch.equal(first[0][0], second[0][0])
    assert not torch.equal(next(iter(mixed(seed=1)))[0], first[0][0])


def test_a_run_that_is_resumed_in_the_middle_equals_one_that_was_not(tmp_path):
    def run(epochs, **options):
        torch.manual_seed(0)
        net = MLP(1, 8, 5)
        loss = lambda x, y: cross_entropy(net(x / 100), y, ignore_index=-1) + net(x / 100).square().mean()  # noqa: E731
        objective = Objective(loss, torch.optim.Adam(net.parameters(), 1e-2))
        fit(net, {"loss": objective}, mixed(), epochs, progress=False, **options)
        return net

    whole = run(4)
    run(2, checkpoint=tmp_path / "run.pt")
    resumed = run(4, checkpoint=tmp_path / "run.pt", resume=True)
    for name, p in resumed.named_parameters():
        assert torch.equal(p, whole.get_parameter(name))


def test_a_transform_is_of_the_whole_batch():
    x, _ = next(iter(mixed(transform=lambda x: -x)))
    assert (x <= 0).all()
    assert (x[2:] <= -100).all()


def test_batches_that_cannot_be_filled_are_refused():
    with pytest.raises(ValueError, match="3 unlabelled examples do not fill a batch of 6"):
        mixed(n_unlabelled=3)
    with pytest.raises(ValueError, match="batch_size is 0"):
        mixed(batch_labelled=0)
    with pytest.raises(ValueError, match="2 labelled examples have 3 labels"):
        MixedBatches(
            torch.zeros(2, 1), torch.arange(3), torch.zeros(9, 1), batch_labelled=1, batch_unlabelled=3, seed=0
        )


# ---- distillation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_of_distillation_is_that_by_hand(temperature):
    """T (softmax(s/T) − softmax(t/T)); the teacher gets none."""
    torch.manual_seed(0)
    student, teacher = (3 * torch.randn(6, 4).double() for _ in range(2))
    student.requires_grad_()
    teacher.requires_grad_()
    distillation(student, teacher, temperature).sum().backward()
    close(
        student.grad, temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1)).detach()
    )
    assert teacher.grad is None


def test_distillation_is_a_kl_0_where_both_agree_and_cross_entropy_for_a_sure_teacher():
    torch.manual_seed(0)
    student = torch.randn(6, 4).double()
    close(distillation(student, student + 3, 2.0), torch.zeros(6).double())
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    sure = torch.nn.functional.one_hot(y, 4).double() * 1000
    close(distillation(student, sure, 1.0), cross_entropy(student, y, reduction="none"))


def test_hot_distillation_compares_centred_logits():
    """T → ∞: ½ ‖(s − s̄) − (t − t̄)‖² / K, whose gradient is eq. 4 of the paper."""
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    difference = student - student.mean(1, keepdim=True) - teacher + teacher.mean(1, keepdim=True)
    close(distillation(student, teacher, 1e4), difference.square().sum(1) / 8, rtol=1e-3, atol=0)


def test_distillation_names_bad_input():
    with pytest.raises(ValueError, match="temperature is 0"):
        distillation(torch.zeros(2, 3), torch.zeros(2, 3), 0.0)
    with pytest.raises(ValueError, match=r"the student's logits are \(2, 3\), the teacher's \(2, 4\)"):
        distillation(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)


# ---- any type, and what notebooks keep -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_type_are_taken(dtype):
    y = labels(30, 50, 20)
    for draw in (
        lambda y: few_labels(y, 5, 3, seed=0),
        lambda y: class_weights(y, 3),
        lambda y: oversample(y, 3, to=60, seed=0),
        lambda y: smote(torch.arange(200.0).view(100, 2) ** 1.5, y, 3, to=60, seed=0)[1],
    ):
        close(draw(y.to(dtype)), draw(y))


@pytest.mark.parametrize(
    "wrong", [lambda y: y[:, None], torch.nn.functional.one_hot, lambda y: y.float(), lambda y: None]
)
def test_columns_and_one_hot_labels_do_not_broadcast(wrong):
    y = labels(10, 10)
    x = torch.rand(20, 2)
    for draw in (
        lambda y: few_labels(y, 5, 2, seed=0) if y is not None else smote(x, y, 2, to=12, seed=0),
        lambda y: smote(x, y, 2, to=12, seed=0),
        lambda y: MixedBatches(
            x, torch.zeros(3, 1) if y is None else y.view(-1, 2), x, batch_labelled=1, batch_unlabelled=2, seed=0
        ),
    ):
        with pytest.raises(ValueError, match=r"label|y is a"):
            draw(wrong(y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_smote_in_any_float_type_lies_between_neighbours(dtype):
    x, y = torch.arange(12.0)[:, None].to(dtype), torch.zeros(12).long()
    made, _ = smote(x, y, 1, to=500, k=2, seed=0)
    assert made.dtype == dtype
    assert ((made >= 0) & (made <= 11)).all()


@pytest.mark.parametrize("k", [11, 500])
def test_smote_takes_all_neighbours_where_there_are_fewer(k):
    x, y = torch.rand(12, 2), torch.zeros(12).long()
    close(smote(x, y, 1, to=50, k=k, seed=0)[0], smote(x, y, 1, to=50, k=11, seed=0)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": 2.5}, "to is 2.5"),
        ({"to": -1}, "to is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": -1}, "seed is -1"),
        ({"k": 1.5}, "k is 1.5"),
    ],
)
def test_halves_of_examples_are_refused(options, message):
    x, y = torch.rand(12, 2), labels(8, 4)
    with pytest.raises(ValueError, match=message):
        smote(x, y, 2, **{"to": 8, "seed": 0, **options})
    if "k" not in options:
        with pytest.raises(ValueError, match=message):
            oversample(y, 2, **{"to": 8, "seed": 0, **options})


def test_examples_of_two_kinds_are_no_batch():
    """Bytes beside floats would be 255 times as bright."""
    for x, others in ((torch.zeros(4, 2).byte(), torch.zeros(9, 2)), (torch.zeros(4, 2), torch.zeros(9, 3))):
        with pytest.raises(ValueError, match="a batch holds one kind"):
            MixedBatches(x, torch.arange(4), others, batch_labelled=1, batch_unlabelled=3, seed=0)


def test_mixed_batches_can_be_pickled():
    for (x, y), (again_x, again_y) in zip(mixed(), pickle.loads(pickle.dumps(mixed())), strict=True):
        assert torch.equal(x, again_x)
        assert torch.equal(y, again_y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_that_the_teacher_rules_out_costs_nothing(dtype):
    student = torch.tensor([[1.0, 2.0, 0.5]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.3, -torch.inf, 0.1]], dtype=dtype)
    found = distillation(student, teacher, 2.0)
    finite = distillation(student, teacher.clamp(min=-1e4), 2.0)
    close(found, finite)
    close(*(torch.autograd.grad(value.sum(), student)[0] for value in (found, finite)))
    close(distillation(teacher, teacher, 1.0), torch.zeros(1, dtype=dtype))
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature is"):
            distillation(student, teacher, temperature)
    with pytest.raises(ValueError, match="must speak of the same examples and classes"):
        distillation(student[0], teacher[0], 1.0)
