"""`fit` beyond its contract: early stopping, divergence and the way back, Ctrl-C, checkpoints that are damaged."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from families import build, points
from torch import nn

from dgm_lib import checkpoint, runtime
from dgm_lib.checkpoint import CheckpointError
from dgm_lib.datasets import Split
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


def press_after(n):
    """A loss that presses Ctrl-C in its n-th call."""
    calls = []

    def press(x, y):
        calls.append(1)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGINT) if os.name != "nt" else signal.raise_signal(signal.SIGINT)
        return calls

    return press


def test_ctrl_c_stops_after_the_batch_and_keeps_model_and_checkpoint(tmp_path):
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


def test_a_second_ctrl_c_stops_at_once():
    model = Slope()

    def loss(x, y):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return model.loss(x)

    with pytest.raises(KeyboardInterrupt):
        fit(model, {"loss": Objective(loss, sgd(model))}, constant_data().batches(4), 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
        resume("residual classifier")
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

    import numpy as np

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
