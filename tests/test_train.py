"""`fit` beyond its contract: early stopping, divergence and the way back, Ctrl-C, checkpoints that are damaged."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from families import build, points
from torch import nn

from dgm_lib import checkpoint, runtime
from dgm_lib.checkpoint import CheckpointError
from dgm_lib.datasets import Split
from dgm_lib.samplers import ChainError
from dgm_lib.train import DivergenceError, EarlyStopping, History, Objective, averaged, fit


class Slope(nn.Module):
    """A model whose gradient is known: loss = w · mean(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def loss(self, x, y=None):
        return self.w * x.mean()


def constant_data(n=8):
    return Split(torch.ones(n, 2), torch.zeros(n, dtype=torch.long))


def sgd(model, rate=0.1):
    return torch.optim.SGD(model.parameters(), rate)


def test_one_step_of_sgd_is_the_textbooks():
    model = Slope()
    history = fit(model, {"loss": Objective(model.loss, sgd(model))}, constant_data().batches(8), 1)
    assert model.w.item() == pytest.approx(1.0 - 0.1 * 1.0)  # w − η dL/dw
    assert history["loss"] == [1.0]


def test_fit_equals_a_loop_written_by_hand():
    by_fit, by_hand = build("softmax classifier"), build("softmax classifier")
    fit(by_fit.model, by_fit.objectives, by_fit.split.batches(32, seed=5), 3)
    batches, objective = by_hand.split.batches(32, seed=5), by_hand.objectives["cross-entropy"]
    for _ in range(3):
        for x, y in batches:
            objective.optimizer.zero_grad()
            objective.loss(x, y).backward()
            objective.optimizer.step()
    for a, b in zip(by_fit.model.parameters(), by_hand.model.parameters()):
        assert torch.equal(a, b)


def test_clipping_limits_the_step():
    model = Slope()
    objective = Objective(model.loss, sgd(model), clip=0.25)
    fit(model, {"loss": objective}, constant_data().batches(8), 1)
    assert model.w.item() == pytest.approx(1.0 - 0.1 * 0.25)


def test_averaged_weights_follow_the_formula():
    model = Slope()
    ema = averaged(model, decay=0.5)
    fit(model, {"loss": Objective(model.loss, sgd(model))}, constant_data().batches(4), 1, ema=ema)
    # two steps, to 0.9 and 0.8; the first update copies, the second averages
    assert ema.module.w.item() == pytest.approx(0.5 * 0.9 + 0.5 * 0.8)


def test_early_stopping_restores_the_best_state():
    model = Slope()
    quality = iter([5.0, 3.0, 4.0, 4.0, 4.0, 0.0])
    seen = []

    def on_epoch():
        seen.append(model.w.item())
        assert not model.training
        return {"validation": next(quality)}

    objectives = {"loss": Objective(model.loss, sgd(model))}
    stop = EarlyStopping("validation", patience=3)
    history = fit(model, objectives, constant_data().batches(8), 50, on_epoch=on_epoch, stop=stop)
    assert history["validation"] == [5.0, 3.0, 4.0, 4.0, 4.0]
    assert history.best_epoch == 1
    assert model.w.item() == seen[1]


def test_early_stopping_survives_a_resume(tmp_path):
    values = [5.0, 3.0, 4.0, 4.0, 4.0, 4.0]
    options = {"stop": EarlyStopping("validation", patience=3), "checkpoint": tmp_path / "c.pt"}
    weights = {}
    for name, stages in {"unbroken": [9], "broken": [3, 9]}.items():
        quality = iter(values)
        for number, epochs in enumerate(stages):
            model = Slope()
            fit(
                model,
                {"loss": Objective(model.loss, sgd(model))},
                constant_data().batches(8),
                epochs,
                on_epoch=lambda quality=quality: {"validation": next(quality)},
                resume=number > 0,
                **options,
            )
        weights[name] = model.w.item()
    assert weights["unbroken"] == weights["broken"] == pytest.approx(0.8)


def train_slope(epochs, *, quality=None, rate=0.1, **options):
    """A run whose `validation` in epoch k is `quality[k]`; returns the model and its history."""
    model = Slope()
    on_epoch = (lambda: {"validation": next(quality)}) if quality is not None else None
    objectives = {"loss": Objective(model.loss, sgd(model, rate))}
    return model, fit(model, objectives, constant_data().batches(8), epochs, on_epoch=on_epoch, **options)


@pytest.mark.parametrize("before", [None, EarlyStopping("loss"), EarlyStopping("validation", maximize=True)])
def test_a_stop_given_at_resume_counts_from_there(tmp_path, before):
    """Epoch 2 had the best value, but its state was not kept for this stop."""
    options = {"quality": iter([5.0, 1.0, 6.0, 4.0, 3.0, 4.0, 4.0, 0.0]), "checkpoint": tmp_path / "c.pt"}
    train_slope(3, stop=before, **options)
    stop = EarlyStopping("validation", patience=2)
    train_slope(4, stop=stop, resume=True, **options)
    model, history = train_slope(20, stop=stop, resume=True, **options)
    assert history["validation"] == [5.0, 1.0, 6.0, 4.0, 3.0, 4.0, 4.0]
    assert history.best_epoch == 4
    assert model.w.item() == pytest.approx(1 - 5 * 0.1)


def test_a_resume_without_the_stop_does_not_go_back_to_its_best_state(tmp_path):
    options = {"quality": iter([1.0, 2.0, 3.0]), "checkpoint": tmp_path / "c.pt"}
    train_slope(2, stop=EarlyStopping("validation"), **options)
    model, history = train_slope(3, resume=True, **options)
    assert model.w.item() == pytest.approx(1 - 3 * 0.1)
    assert history.best_epoch is None


def test_a_quantity_new_at_resume_can_be_stopped_on(tmp_path):
    train_slope(2, checkpoint=tmp_path / "c.pt")
    options = {"quality": iter([2.0, 1.0, 3.0]), "stop": EarlyStopping("validation", patience=1)}
    model, history = train_slope(9, checkpoint=tmp_path / "c.pt", resume=True, **options)
    assert history["validation"] == pytest.approx([math.nan, math.nan, 2.0, 1.0, 3.0], nan_ok=True)
    assert history.best_epoch == 3
    assert model.w.item() == pytest.approx(1 - 4 * 0.1)


def test_what_an_epoch_lacks_is_nan_so_that_places_stay_epochs():
    model = Slope()
    sometimes = iter([{}, {"a": 1.0}, None, {"a": 2.0, "b": 3.0}])
    objectives = {"w": Objective(model.loss, sgd(model)), "rare": Objective(model.loss, sgd(model), every=3)}
    history = fit(model, objectives, constant_data().batches(8), 4, on_epoch=lambda: next(sometimes))
    nan = math.nan
    assert history["a"] == pytest.approx([nan, 1.0, nan, 2.0], nan_ok=True)
    assert history["b"] == pytest.approx([nan, nan, nan, 3.0], nan_ok=True)
    assert [math.isnan(value) for value in history["rare"]] == [True, True, False, True]


def test_early_stopping_waits_for_the_first_finite_value():
    values = [math.nan, math.nan, math.nan, 2.0, math.nan, 3.0]
    history = train_slope(9, quality=iter(values), stop=EarlyStopping("validation", patience=2))[1]
    assert len(history) == 6
    assert history.best_epoch == 3


def test_early_stopping_can_maximize_and_ignores_nan():
    history = History({"accuracy": [0.5, math.nan, 0.9, 0.8]}, [1.0] * 4)
    assert EarlyStopping("accuracy", maximize=True).best_epoch(history) == 2


def test_early_stopping_names_the_quantities_that_exist():
    model = Slope()
    objectives = {"loss": Objective(model.loss, sgd(model))}
    with pytest.raises(ValueError, match=r"no quantity 'acuracy'.*recorded are: loss"):
        fit(model, objectives, constant_data().batches(8), 2, stop=EarlyStopping("acuracy"))


class Cliff(nn.Module):
    """A loss that turns bad when the weight has come too far: what a learning rate too large does."""

    def __init__(self, bad: float) -> None:
        super().__init__()
        self.w, self.bad = nn.Parameter(torch.tensor(0.0)), bad

    def loss(self, x, y=None):
        return self.w * self.bad if self.w > 2.65 else -self.w * x.mean()


@pytest.mark.parametrize(("bad", "word"), [(math.nan, "nan"), (math.inf, "inf"), (1e9, r"2\.7e\+09")])
def test_divergence_says_which_loss_where_and_what_to_try(bad, word):
    model = Cliff(bad)
    objectives = {"-log p": Objective(model.loss, sgd(model))}
    with pytest.raises(DivergenceError, match=rf"'-log p' became {word} at step 28 \(epoch 14\).*learning rate.*0\.1"):
        fit(model, objectives, constant_data().batches(4), 20)


def test_divergence_goes_back_to_the_last_good_state_with_half_the_rate(tmp_path):
    model = Cliff(math.nan)
    objective = Objective(model.loss, sgd(model))
    options = {"checkpoint": tmp_path / "c.pt", "retries": 2}
    history = fit(model, {"loss": objective}, constant_data().batches(4), 14, **options)
    # 13 epochs of two steps of 0.1 reach w = 2.6; the 14th diverges in its second step, and half of its steps does not
    assert history.restarts == 1
    assert len(history) == 14
    assert objective.optimizer.param_groups[0]["lr"] == 0.05
    assert model.w.item() == pytest.approx(2.6 + 2 * 0.05)


def test_divergence_without_end_is_raised_after_the_retries(tmp_path):
    model = Slope()
    broken = Objective(lambda x, y: model.loss(x) * math.nan, sgd(model))
    with pytest.raises(DivergenceError, match="nan at step 1"):
        fit(model, {"loss": broken}, constant_data().batches(8), 3, checkpoint=tmp_path / "c.pt", retries=2)
    assert broken.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 4)
    assert model.w.item() == 1.0 or not model.w.isfinite()


def test_a_resume_without_retries_raises_though_the_file_had_some(tmp_path):
    model, path = Cliff(math.nan), tmp_path / "c.pt"
    batches = constant_data().batches(4)
    history = fit(model, {"l": Objective(model.loss, sgd(model))}, batches, 14, checkpoint=path, retries=1)
    assert history.restarts == 1
    broken = {"l": Objective(lambda x, y: model.loss(x) * math.nan, sgd(model))}
    for retries in (0, 1):
        with pytest.raises(DivergenceError):
            fit(model, broken, batches, 16, checkpoint=path, resume=True, retries=retries)
        assert broken["l"].optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 2**retries)


@pytest.mark.parametrize("per_epoch", [1, 2, 3, 7, 20, 27])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e9])
def test_a_retry_goes_back_to_a_state_that_has_been_tried(tmp_path, per_epoch, bad):
    """Wherever the bad step lies: if it is the last of an epoch, the state after it is good to look at and useless."""
    model = Cliff(bad)
    batches, epochs = [torch.ones(4, 2)] * per_epoch, 27 // per_epoch + 1  # the 27th step leads over the cliff, to 2.7
    players = {"l": Objective(model.loss, sgd(model))}
    history = fit(model, players, batches, epochs, checkpoint=tmp_path / "c", retries=4)
    assert 1 <= history.restarts <= 3  # the cliff is so near that half the rate may not be enough
    assert len(history) == epochs
    assert math.isfinite(history["l"][-1])


def test_a_player_that_seldom_plays_must_have_tried_a_state_too(tmp_path):
    """The critic's turns are good on every state; the generator's first turn, in the sixth epoch, is on a bad one."""
    model = Slope()
    calls, states = [], []

    def generator(x, y):
        calls.append(model.w.item())
        return model.loss(x) * (math.nan if len(calls) == 2 else 1.0)

    players = {
        "critic": Objective(lambda x, y: model.loss(x), sgd(model)),
        "generator": Objective(generator, sgd(model), every=4),
    }
    look = lambda: states.append(model.w.item())  # noqa: E731
    history = fit(model, players, constant_data().batches(8), 9, on_epoch=look, checkpoint=tmp_path / "c", retries=1)
    assert history.restarts == 1
    assert states[:7] == pytest.approx([0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2])  # the eighth epoch has the bad turn
    assert states[7] == pytest.approx(0.7 - 0.05 - 0.05)  # from 0.7, which the fourth epoch has tried
    assert len(history) == 9


class Root(nn.Module):
    """A loss that is finite at 0, where its gradient is not: the weight is NaN after the step, and no loss says so."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))

    def loss(self, x, y=None):
        return torch.where(self.w > 0, self.w.sqrt(), 0).mean() + (self.other * x.mean()).mean()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
@pytest.mark.parametrize("options", [{}, {"checkpoint": "c"}, {"ema": True}, {"stop": EarlyStopping("l")}], ids=str)
@pytest.mark.parametrize("epochs", [1, 2])
def test_weights_that_became_nan_in_the_last_step_are_noticed(tmp_path, kind, options, epochs):
    model = Root()
    options = dict(options)
    if "checkpoint" in options:
        options["checkpoint"] = tmp_path / "c"
    if "ema" in options:
        options["ema"] = averaged(model)
    if epochs == 2:  # the first epoch is good: what is kept of it must stay so
        good = iter([True])
        loss = lambda x, y: model.other.mean() if next(good, False) else model.loss(x)  # noqa: E731
    else:
        loss = model.loss
    with pytest.raises(DivergenceError, match=rf"the weights of 'l' became nan at step {epochs} \(epoch {epochs}\)"):
        fit(model, {"l": Objective(loss, kind(model.parameters(), 0.1))}, constant_data().batches(8), epochs, **options)
    assert not model.training
    if (tmp_path / "c").exists():
        assert all(t.isfinite().all() for t in torch.load(tmp_path / "c")["model"].values())
    if "stop" in options and epochs == 2:
        assert model.w.isfinite().all()  # back at the best epoch


def test_what_the_optimizer_keeps_must_be_finite_too():
    """The square of a gradient of 1e21 is infinite in float32: Adam would never move this weight again."""
    model = Slope()
    steep = Objective(lambda x, y: 1e21 * (model.w - model.w.detach()) + 1, torch.optim.Adam(model.parameters(), 0.1))
    with pytest.raises(DivergenceError, match="the weights of 'l' became inf"):
        fit(model, {"l": steep}, constant_data().batches(8), 1)


def test_an_average_that_is_spoilt_is_noticed():
    model = Slope()
    ema, calls = averaged(model, 0.5), []

    def loss(x, y):
        calls.append(1)
        if len(calls) == 3:  # mends the weight, and not the average of it
            model.w.data.fill_(1.0)
        return model.loss(x) * (math.inf if len(calls) == 2 else 1) if len(calls) != 2 else (model.w * 0).sqrt()

    with pytest.raises(DivergenceError, match="the averaged weights became nan"):
        fit(model, {"l": Objective(loss, sgd(model))}, constant_data(16).batches(4), 1, ema=ema)


def test_weights_that_became_nan_are_mended_by_a_retry(tmp_path):
    model = Root()
    fails = iter([False, False, True])
    loss = lambda x, y: model.loss(x, y) if next(fails, False) else model.other.mean()  # noqa: E731
    objective = Objective(loss, sgd(model))
    history = fit(model, {"l": objective}, constant_data().batches(8), 5, checkpoint=tmp_path / "c", retries=1)
    assert history.restarts == 1
    assert model.other.tolist() == pytest.approx([1 - (2 * 0.1 + 3 * 0.05) / 2] * 2)
    assert objective.optimizer.param_groups[0]["lr"] == 0.05


def test_infinite_numbers_that_no_player_moves_are_no_divergence():
    model = Slope()
    model.register_buffer("mask", torch.full((2, 2), -math.inf))
    model.frozen = nn.Parameter(torch.tensor(math.nan), requires_grad=False)
    fit(model, {"l": Objective(model.loss, torch.optim.SGD([model.w], 0.1))}, constant_data().batches(8), 2)
    assert model.w.item() == pytest.approx(0.8)


@pytest.mark.parametrize("call", [1, 3, 25])
def test_a_chain_that_diverges_in_a_loss_is_retried_as_a_loss_that_does(tmp_path, call):
    model, calls = Slope(), []

    def loss(x, y):
        calls.append(1)
        if len(calls) == call:
            raise ChainError("chain 3 is nan at step 10: a smaller step size")
        return model.loss(x)

    objective = Objective(loss, sgd(model, 0.01))
    history = fit(model, {"l": objective}, constant_data(30).batches(1), 2, checkpoint=tmp_path / "c", retries=1)
    assert history.restarts == 1
    assert model.w.item() == pytest.approx(1 - 60 * 0.005, abs=1e-5)
    calls.clear()
    words = rf"a chain in the loss 'l' diverged at step {call} .*: chain 3 is nan at step 10.*retries=1"
    with pytest.raises(DivergenceError, match=words):
        fit(model, {"l": objective}, constant_data(30).batches(1), 2, checkpoint=tmp_path / "c")
    assert not model.training


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_whatever_ends_a_run_the_model_is_left_in_evaluation_mode(error):
    model = Slope()

    def loss(x, y):
        raise error

    with pytest.raises(error):
        fit(model, {"l": Objective(loss, sgd(model))}, constant_data().batches(8), 1)
    assert not model.training


@pytest.mark.parametrize("first", [math.inf, math.nan])
def test_a_first_loss_that_is_not_finite_diverges_too(first):
    model = Slope()
    broken = {"loss": Objective(lambda x, y: model.loss(x) * first, sgd(model))}
    with pytest.raises(DivergenceError, match=r"'loss' became (inf|nan) at step 1 \(epoch 1\)\. Try"):
        fit(model, broken, constant_data().batches(8), 3)


def test_after_a_divergence_the_model_is_back_at_its_best_and_the_file_is_named(tmp_path):
    model = Cliff(math.nan)
    objectives = {"loss": Objective(model.loss, sgd(model))}
    quality = iter([3.0, 1.0] + [2.0] * 20)
    options = {"on_epoch": lambda: {"q": next(quality)}, "stop": EarlyStopping("q", 99), "checkpoint": tmp_path / "c"}
    with pytest.raises(DivergenceError, match=r"retries=1 .*back at its best epoch, 2\. c holds .* after epoch 13"):
        fit(model, objectives, constant_data().batches(4), 20, **options)
    assert model.w.item() == pytest.approx(4 * 0.1)
    assert not model.training


@pytest.mark.parametrize("batches", [iter([torch.ones(4, 2)] * 3), []])
def test_batches_that_are_used_up_or_empty_are_one_sentence(batches):
    model = Slope()
    with pytest.raises(ValueError, match=r"epoch [12] had no batch: the batches are used up or empty"):
        fit(model, {"loss": Objective(model.loss, sgd(model))}, batches, 3)


def test_averaged_model_is_in_evaluation_mode_when_it_is_looked_at():
    model = nn.Sequential(nn.Dropout(0.5), Slope())
    ema, modes = averaged(model), []
    look = lambda: modes.append((model.training, ema.module[0].training))  # noqa: E731
    fit(model, {"w": Objective(model[1].loss, sgd(model))}, constant_data().batches(8), 2, ema=ema, on_epoch=look)
    assert modes == [(False, False)] * 2
    assert not ema.module[0].training


def test_a_schedule_is_stepped_once_an_epoch_and_survives_a_resume(tmp_path):
    def train(epochs, **options):
        model = Slope()
        optimizer = sgd(model)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
        objectives = {"loss": Objective(model.loss, optimizer, scheduler=schedule)}
        fit(model, objectives, constant_data().batches(4), epochs, **options)
        return model.w.item()

    assert train(4) == pytest.approx(1 - 2 * 0.1 * (1 + 1 / 2 + 1 / 3 + 1 / 4))
    train(2, checkpoint=tmp_path / "c.pt")
    assert train(4, checkpoint=tmp_path / "c.pt", resume=True) == train(4)
    with pytest.raises(CheckpointError, match="SGD of 1 tensors with LambdaLR there, SGD of 1 tensors here"):
        train_slope(5, checkpoint=tmp_path / "c.pt", resume=True)


def test_going_back_halves_the_rate_of_a_schedule_too(tmp_path):
    model = Cliff(math.nan)
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    objectives = {"l": Objective(model.loss, optimizer, scheduler=schedule)}
    fit(model, objectives, constant_data().batches(4), 14, checkpoint=tmp_path / "c.pt", retries=1)
    assert model.w.item() == pytest.approx(2.6 + 2 * 0.05)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)  # after the schedule's step


def test_lbfgs_is_refused_in_one_sentence():
    model = Slope()
    with pytest.raises(ValueError, match="LBFGS computes the loss several times a step"):
        Objective(model.loss, torch.optim.LBFGS(model.parameters()))


def test_retries_and_resume_need_a_checkpoint():
    model = Slope()
    objectives = {"loss": Objective(model.loss, sgd(model))}
    for options in ({"retries": 1}, {"resume": True}):
        with pytest.raises(ValueError, match="checkpoint=PATH"):
            fit(model, objectives, constant_data().batches(8), 1, **options)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: what starts the tests may ignore it, as a background job does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_after(n):
    """A loss that presses Ctrl-C in its n-th call."""
    calls = []

    def press(x, y):
        calls.append(1)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGINT) if os.name != "nt" else signal.raise_signal(signal.SIGINT)
        return calls

    return press


def test_ctrl_c_stops_after_the_batch_and_keeps_model_and_checkpoint(tmp_path, ctrl_c):
    model = Slope()
    press = press_after(5)
    objective = Objective(lambda x, y: press(x, y) and model.loss(x), sgd(model))
    history = fit(model, {"loss": objective}, constant_data().batches(4), 9, checkpoint=tmp_path / "c.pt")
    assert history.interrupted
    assert len(history) == 2
    assert model.w.item() == pytest.approx(1.0 - 5 * 0.1)  # the batch in which it was pressed is finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = Slope()
    again = Objective(resumed.loss, sgd(resumed))
    history = fit(resumed, {"loss": again}, constant_data().batches(4), 9, checkpoint=tmp_path / "c.pt", resume=True)
    assert len(history) == 9
    assert not history.interrupted
    assert resumed.w.item() == pytest.approx(1.0 - 18 * 0.1, abs=1e-5)


def test_a_second_ctrl_c_stops_at_once(ctrl_c):
    model = Slope()

    def loss(x, y):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return model.loss(x)

    with pytest.raises(KeyboardInterrupt):
        fit(model, {"loss": Objective(loss, sgd(model))}, constant_data().batches(4), 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_fit_leaves_ctrl_c_as_it_was_where_python_does_not_handle_it(ctrl_c, handler):
    """A background job is started with Ctrl-C ignored: it is meant for what runs in the foreground."""
    signal.signal(signal.SIGINT, handler)
    model, press = Slope(), press_after(2)
    loss = (lambda x, y: press(x, y) and model.loss(x)) if handler == signal.SIG_IGN else model.loss
    history = fit(model, {"loss": Objective(loss, sgd(model))}, constant_data().batches(4), 2)
    assert len(history) == 2
    assert not history.interrupted
    assert signal.getsignal(signal.SIGINT) == handler


def test_fit_works_outside_the_main_thread():
    model, done = Slope(), []
    objectives = {"loss": Objective(model.loss, sgd(model))}
    thread = threading.Thread(target=lambda: done.append(fit(model, objectives, constant_data().batches(8), 1)))
    thread.start()
    thread.join()
    assert len(done) == 1


def test_damaged_foreign_and_unsafe_checkpoints_are_refused(tmp_path):
    family = build("softmax classifier")
    path = tmp_path / "c.pt"
    batches = family.split.batches(32)
    fit(family.model, family.objectives, batches, 1, checkpoint=path)
    whole = path.read_bytes()

    def resume(name="softmax classifier"):
        other = build(name)
        fit(other.model, other.objectives, other.split.batches(32), 2, checkpoint=path, resume=True)

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"c\.pt is no whole checkpoint"):
        resume()
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        resume()
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"belongs to another model: .* missing"):
        resume("convolutional classifier")
    torch.save(Slope(), path)  # an object, which would have to be unpickled
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        resume()


def test_checkpoints_of_another_kind_are_one_sentence(tmp_path):
    path = tmp_path / "c.pt"
    train_slope(1, checkpoint=path)
    state = torch.load(path, weights_only=True)

    def refused(changed, match):
        torch.save(changed, path)
        with pytest.raises(CheckpointError, match=match):
            train_slope(2, checkpoint=path, resume=True)

    refused([1, 2], "holds no 'model'")
    refused(state | {"model": 3}, "holds no 'model'")
    refused({key: value for key, value in state.items() if key != "optimizers"}, "holds no 'optimizers'")
    refused(state | {"model": state["model"] | {"v": torch.ones(2)}}, r"another model: v is \(2,\) there, missing here")
    torch.save(state, path)
    model = Slope()
    adam = {"loss": Objective(model.loss, torch.optim.Adam(model.parameters()))}
    with pytest.raises(CheckpointError, match="for 'loss': SGD of 1 tensors there, Adam of 1 tensors here"):
        fit(model, adam, constant_data().batches(8), 2, checkpoint=path, resume=True)


def test_damaged_bytes_are_one_sentence_wherever_they_are(tmp_path):
    path = tmp_path / "c.pt"
    train_slope(1, checkpoint=path)
    whole = path.read_bytes()
    for place in range(0, len(whole) // 2, 7):
        path.write_bytes(whole[:place] + bytes(16) + whole[place + 16 :])
        try:
            train_slope(2, checkpoint=path, resume=True)
        except CheckpointError:
            continue


def test_a_file_that_cannot_be_read_is_not_to_be_deleted(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", denied)
    with pytest.raises(CheckpointError, match=r"^cannot read the checkpoint c\.pt: Permission denied$"):
        checkpoint.load(tmp_path / "c.pt", {}, {})


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"model": {}, "optimizers": {}, "value": 1})

    def half(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"model": {}, "optimizers": {}, "value": 2})
    monkeypatch.undo()
    assert checkpoint.load(path, {}, {})["value"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("left", [b"", b"half of a file"])
def test_what_a_killed_write_leaves_is_harmless(tmp_path, left):
    train_slope(2, checkpoint=tmp_path / "c.pt")
    (tmp_path / "c.pt.part").write_bytes(left)
    model, _ = train_slope(4, checkpoint=tmp_path / "c.pt", resume=True)
    assert model.w.item() == train_slope(4)[0].w.item()
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("path", ["~/run/c.pt", "~/c.pt"])
def test_a_checkpoint_in_the_home_folder(tmp_path, monkeypatch, path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    train_slope(1, checkpoint=path)
    assert (tmp_path / path.removeprefix("~/")).exists()
    assert not (tmp_path / "~").exists()
    assert len(train_slope(2, checkpoint=path, resume=True)[1]) == 2


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "is a folder: name a file in it"),
        (".", "is a folder"),
        ("file/c.pt", r"cannot write the checkpoint c\.pt: (Not a directory|File exists)"),
        ("file/deep/c.pt", "cannot write the checkpoint"),
        ("x" * 300, "cannot write the checkpoint x*: File name too long"),
        ("~nobody-of-this-name/c.pt", "names no file"),
        (3, "the checkpoint is 3, which names no file"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    model = Slope()
    with pytest.raises(CheckpointError, match=words):
        fit(model, {"loss": Objective(model.loss, sgd(model))}, constant_data().batches(8), 1, checkpoint=path)
    assert model.w.item() == 1
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_model_that_a_checkpoint_cannot_hold_is_refused_before_training(tmp_path):
    class Extra(Slope):
        def get_extra_state(self):
            return iter([])

    model = Extra()
    with pytest.raises(ValueError, match=r"\['_extra_state'\] is a list_iterator, which a checkpoint cannot hold"):
        fit(model, {"l": Objective(model.loss, sgd(model))}, constant_data().batches(8), 1, checkpoint=tmp_path / "c")
    assert model.w.item() == 1


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(state, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint c\.pt: No space left on device; free"):
        checkpoint.save(tmp_path / "c.pt", {})
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
    import resource, signal, sys, torch
    from pathlib import Path
    from dgm_lib import checkpoint

    path = Path(sys.argv[1])
    checkpoint.save(path, {"optimizers": {}, "value": 1})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        checkpoint.save(path, {"optimizers": {}, "value": torch.zeros(100_000)})
    except checkpoint.CheckpointError as error:
        print(error)
    print(checkpoint.load(path, {}, {})["value"], [file.name for file in path.parent.iterdir()])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files to set there")
def test_a_disk_that_is_really_full_leaves_the_old_checkpoint(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "c.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, left = done.stdout.splitlines()
    assert said == "cannot write the checkpoint c.pt: File too large; free space, or name another file"
    assert left == "1 ['c.pt']"


def test_bf16_runs_and_is_close():
    exact, rounded = build("softmax classifier"), build("softmax classifier")
    a = fit(exact.model, exact.objectives, exact.split.batches(32), 2)
    b = fit(rounded.model, rounded.objectives, rounded.split.batches(32), 2, bf16=True)
    assert b["cross-entropy"] == pytest.approx(a["cross-entropy"], rel=0.05)


def test_batches_may_be_any_iterable_of_tensors():
    model = Slope()
    fit(model, {"loss": Objective(model.loss, sgd(model))}, [torch.ones(4, 2)] * 3, 2)
    assert model.w.item() == pytest.approx(1 - 6 * 0.1)


def test_the_seed_reaches_python_numpy_and_torch():
    import random

    draws = []
    for _ in range(2):
        runtime.seed_everything(1, 2, 3)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    runtime.seed_everything(1, 2, 4)
    assert draws[0] == draws[1] != (random.random(), np.random.rand(), torch.rand(1).item())


def test_points_are_shuffled_anew_each_epoch():
    batches = points().batches(96)
    first, second = (next(iter(batches))[1] for _ in range(2))
    assert not torch.equal(first, second)


# ---- what is let in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(({"epochs": value}, "epochs is") for value in (-1, -3, math.nan, math.inf, 2.5, "3", None, [2])),
        *(({"seed": value}, "seed is") for value in (-1, 1.5, "0", None)),
        *(({"retries": value}, "retries is") for value in (-1, 0.5, "1", None)),
        *(({"objectives": value}, "objectives") for value in ({}, [], None, "loss", {"a": 1}, {"a": lambda x: x})),
        ({"model": "net"}, "the model is a str"),
        ({"ema": averaged(nn.Linear(3, 1))}, "ema averages another model"),
    ],
)
def test_what_fit_is_given_is_checked(options, words):
    model = Slope()
    given = {"model": model, "objectives": {"l": Objective(model.loss, sgd(model))}, "epochs": 1} | options
    with pytest.raises(ValueError, match=words):
        fit(batches=constant_data().batches(8), **given)
    assert model.w.item() == 1


def test_one_objective_without_a_name_and_a_name_that_is_none():
    model = Slope()
    objective = Objective(model.loss, sgd(model))
    for objectives in (objective, {1: objective}, [objective]):
        with pytest.raises(ValueError, match=r"objectives (is|holds) .*Objective"):
            fit(model, objectives, constant_data().batches(8), 1)


def test_what_was_changed_in_an_objective_is_checked_too():
    model = Slope()
    objective = Objective(model.loss, sgd(model))
    objective.every = 0
    with pytest.raises(ValueError, match="every is 0"):
        fit(model, {"l": objective}, constant_data().batches(8), 1)


@pytest.mark.parametrize("patience", [0, -1, 2.5, None])
def test_a_patience_that_is_none_is_refused(patience):
    with pytest.raises(ValueError, match="patience is"):
        EarlyStopping("loss", patience)


@pytest.mark.parametrize("epochs", [0, np.int64(2), 3])
def test_whole_numbers_of_every_kind_are_taken(epochs):
    model = Slope()
    history = fit(model, {"l": Objective(model.loss, sgd(model))}, constant_data().batches(8), epochs, seed=np.int32(4))
    assert len(history) == epochs


LOSSES = {
    "of shape (8,)": lambda error: error,
    "of shape (1,)": lambda error: error.mean().view(1),
    "of shape (1, 1)": lambda error: error.mean().view(1, 1),
    "of shape (0,)": lambda error: error[:0],
    "a float": lambda error: error.mean().item(),
    "a tuple": lambda error: (error.mean(), 0),
    "a dict": lambda error: {"loss": error.mean()},
    "a NoneType": lambda error: None,
    "a ndarray": lambda error: error.detach().numpy(),
    "without a graph": lambda error: error.mean().detach(),
    "a number without a graph": lambda error: torch.tensor(3),
    "complex64": lambda error: error.mean() * 1j,
}


@pytest.mark.parametrize("words", LOSSES)
def test_a_loss_that_is_no_scalar_with_a_graph_names_the_player(words):
    model = nn.Linear(2, 1)
    bad = Objective(lambda x, y: LOSSES[words](model(x)[:, 0].square()), sgd(model))
    with pytest.raises(ValueError, match=rf"the loss of 'critic' is .*{re.escape(words)}"):
        fit(model, {"critic": bad}, constant_data().batches(8), 1)
    assert not model.training


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_is_one_sentence(context):
    model = Slope()
    with pytest.raises(ValueError, match=r"without a graph: .*no_grad or inference_mode"), context():
        fit(model, {"l": Objective(model.loss, sgd(model))}, [torch.ones(4, 2)], 1)


def test_losses_of_every_precision_are_taken():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        model = Slope().to(dtype)
        fit(model, {"l": Objective(model.loss, sgd(model))}, [torch.ones(4, 2, dtype=dtype)] * 2, 2)
        assert model.w.item() == pytest.approx(0.6, rel=4 * torch.finfo(dtype).eps)  # four steps, each rounded once


X = np.ones((4, 2), np.float32)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"x": torch.ones(4, 2)}, "a batch is a dict"),
        (X, "a batch is an array"),
        ((X, X), "a batch is a tuple of arrays"),
        ([torch.ones(4, 2), X], "a batch is a list of arrays"),
        ("ab", "a batch is a str"),
        (3.0, "a batch is a float"),
        (None, "a batch is a NoneType"),
        (iter([torch.ones(2)]), "a batch is a list_iterator"),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_a_batch_of_something_else_is_one_sentence(batch, words, before):
    model = Slope()
    batches = [torch.ones(4, 2)] * before + [batch]
    with pytest.raises(ValueError, match=f"^{words}: give a tensor x or a tuple"):
        fit(model, {"l": Objective(model.loss, sgd(model))}, batches, 1)


@pytest.mark.parametrize(
    "batch", [torch.ones(4, 2), (torch.ones(4, 2),), [torch.ones(4, 2), None], (torch.ones(4, 2), {"a": 1})]
)
def test_tensors_tuples_and_lists_are_batches(batch):
    model = Slope()
    fit(model, {"l": Objective(model.loss, sgd(model))}, [batch], 1)
    assert model.w.item() == pytest.approx(0.9)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_loss_that_takes_other_parts_is_one_sentence(parts):
    model = Slope()
    objective = Objective(lambda x, y: model.loss(x), sgd(model))
    with pytest.raises(ValueError, match=r"the loss of 'l' could not be computed: it takes \(x, y\), but a batch has"):
        fit(model, {"l": objective}, [(torch.ones(4, 2),) * parts], 1)


def test_an_error_inside_a_loss_is_not_explained_away():
    model = Slope()
    for error in (TypeError("unhashable type: 'list'"), RuntimeError("shapes do not fit"), ValueError("mine")):

        def loss(x, y, error=error):
            raise error

        with pytest.raises(type(error), match=str(error)):
            fit(model, {"l": Objective(loss, sgd(model))}, [(torch.ones(4, 2).double(), None)], 1)


@pytest.mark.parametrize("layers", [
    lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    lambda: nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)),
])  # fmt: skip
@pytest.mark.parametrize("sizes", [[8, 1], [1], [4, 4, 1]])
def test_a_batch_of_one_and_batch_normalisation_name_drop_last(layers, sizes):
    model = layers()
    objective = Objective(lambda x: model(x).square().mean(), sgd(model))
    with pytest.raises(
        ValueError, match=r"the loss of 'l' could not be computed: batch normalisation .*drop_last=True"
    ):
        fit(model, {"l": objective}, [torch.randn(n, 2) for n in sizes], 1)


@pytest.mark.parametrize(("model", "shape"), [
    (lambda: nn.Linear(2, 1), (4, 2)), (lambda: nn.Conv2d(2, 1, 1), (4, 2, 3, 3)),
    (lambda: nn.Conv1d(2, 1, 1), (4, 2, 3)),
    (lambda: nn.Bilinear(2, 2, 1), (4, 2)), (lambda: nn.LayerNorm(2), (4, 2)),
])  # fmt: skip
@pytest.mark.parametrize(("data", "parameters"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_data_of_another_precision_is_one_sentence(model, shape, data, parameters):
    net = model().to(parameters)
    call = (lambda x: net(x, x)) if isinstance(net, nn.Bilinear) else net
    objective = Objective(lambda x: call(x).square().mean(), sgd(net))
    words = f"a batch holds {data} and the parameters are {parameters}: convert the data, x.to("
    with pytest.raises(ValueError, match=re.escape(words)):
        fit(net, {"l": objective}, [torch.randn(shape).to(data)], 1)


@pytest.mark.parametrize(("returned", "words"), [
    (3.0, "on_epoch returned a float"), ([("a", 1.0)], "a list"), ({"a": None}, "a NoneType for 'a'"),
    ({"a": "high"}, "a str for 'a'"), ({"a": torch.ones(2)}, "a Tensor for 'a'"), ({"a": [1.0]}, "a list for 'a'"),
])  # fmt: skip
def test_what_on_epoch_returns_is_checked(returned, words):
    model = Slope()
    with pytest.raises(ValueError, match=words):
        fit(model, {"l": Objective(model.loss, sgd(model))}, constant_data().batches(8), 1, on_epoch=lambda: returned)


def test_numbers_of_every_kind_are_recorded():
    kinds = {"a": 1, "b": torch.tensor(2.0, requires_grad=True), "c": np.float32(3), "d": True}
    model = Slope()
    options = {"on_epoch": lambda: kinds}
    history = fit(model, {"l": Objective(model.loss, sgd(model))}, constant_data().batches(8), 2, **options)
    assert [history[name] for name in "abcd"] == [[1.0] * 2, [2.0] * 2, [3.0] * 2, [1.0] * 2]


class Told:
    """Something that must be told the epoch; what it was told is kept."""

    def __init__(self, *parts, **attributes):
        self.parts, self.told = parts, []
        vars(self).update(attributes)

    def set_epoch(self, epoch):
        self.told.append(epoch)

    def __iter__(self):
        return iter(self.parts)

    def __len__(self):
        return 4


@pytest.mark.parametrize("place", ["loader", "sampler", "batch_sampler", "sampler of the batch sampler"])
def test_whatever_must_be_told_the_epoch_is_told(place):
    data = torch.utils.data.TensorDataset(torch.ones(4, 2))
    told = Told(0, 1, 2, 3)
    loader = {
        "loader": lambda: Told(torch.ones(4, 2)),
        "sampler": lambda: torch.utils.data.DataLoader(data, 2, sampler=told),
        "batch_sampler": lambda: torch.utils.data.DataLoader(data, batch_sampler=Told([0, 1], [2, 3])),
        "sampler of the batch sampler": lambda: torch.utils.data.DataLoader(
            data, batch_sampler=torch.utils.data.BatchSampler(told, 2, False)
        ),
    }[place]()
    told = {"loader": loader, "batch_sampler": getattr(loader, "batch_sampler", None)}.get(place, told)
    model = Slope()
    fit(model, {"l": Objective(model.loss, sgd(model))}, loader, 3)
    assert list(dict.fromkeys(told.told)) == [0, 1, 2]
