"""What `fit` promises, checked on whatever trains."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, build

from dgm_lib.train import averaged, fit

every_family = pytest.mark.parametrize("name", FAMILIES)


def train(family, epochs, **options):
    return fit(family.model, family.objectives, family.split.batches(32), epochs, **options)


def weights(family):
    return {name: value.clone() for name, value in family.model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@every_family
def test_every_parameter_moves_and_every_loss_is_recorded(name):
    family = build(name)
    before = weights(family)
    history = train(family, 3)
    moved = [n for n, p in family.model.named_parameters() if not torch.equal(p, before[n])]
    assert moved == [n for n, _ in family.model.named_parameters()]
    assert list(history.values) == list(family.objectives)
    assert all(len(history[n]) == 3 for n in family.objectives)


@every_family
def test_same_seed_same_weights_and_another_seed_others(name):
    runs = [build(name) for _ in range(3)]
    for family, seed in zip(runs, (1, 1, 2)):
        train(family, 2, seed=seed)
    assert_same(weights(runs[0]), weights(runs[1]))
    if runs[0].draws:
        assert any(not torch.equal(a, b) for a, b in zip(weights(runs[0]).values(), weights(runs[2]).values()))


@every_family
def test_resumed_run_equals_the_unbroken_one_bit_for_bit(name, tmp_path):
    unbroken, broken, resumed = build(name), build(name), build(name, seed=99)
    resumed.split = unbroken.split
    average = averaged(unbroken.model, 0.9)
    whole = train(unbroken, 4, ema=average)
    train(broken, 2, ema=averaged(broken.model, 0.9), checkpoint=tmp_path / "run.pt")
    torch.rand(7)  # what happens in between must not matter
    average_resumed = averaged(resumed.model, 0.9)
    history = train(resumed, 4, ema=average_resumed, checkpoint=tmp_path / "run.pt", resume=True)
    assert_same(weights(unbroken), weights(resumed))
    assert_same(average.state_dict(), average_resumed.state_dict())
    assert history.values == whole.values


@every_family
def test_loss_is_a_finite_scalar_that_leaves_its_batch_alone(name):
    family = build(name)
    x, y = next(iter(family.split.batches(32)))
    before = x.clone()
    for objective in family.objectives.values():
        loss = objective.loss(x, y)
        assert loss.shape == ()
        assert loss.isfinite()
    assert torch.equal(x, before)


@every_family
def test_model_is_left_in_evaluation_mode(name):
    family = build(name)
    train(family, 1)
    assert not family.model.training


def test_two_objectives_of_one_model_do_not_leave_gradients_in_each_other():
    """The critic's step must be what it would be had the generator never played."""
    together, alone = build("two players"), build("two players")
    x, y = next(iter(together.split.batches(32)))
    torch.manual_seed(0)
    together.objectives["generator"].loss(x, y).backward()  # leaves gradients in the critic
    torch.manual_seed(1)
    together.objectives["critic"].turn((x, y))
    torch.manual_seed(1)
    alone.objectives["critic"].turn((x, y))
    assert_same(together.model.critic.state_dict(), alone.model.critic.state_dict())


def test_a_player_with_every_k_plays_on_each_kth_batch_across_epochs():
    family = build("two players")
    turns = []
    family.objectives["generator"].every = 5
    loss = family.objectives["generator"].loss
    family.objectives["generator"].loss = lambda x, y: turns.append(1) or loss(x, y)
    train(family, 5)  # 3 batches an epoch: batches 5, 10 and 15 of 15
    assert len(turns) == 3
