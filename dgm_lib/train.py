"""One training loop for every model of the course: one player, two players, or a player that runs MCMC inside its loss.

`fit` does not know what it trains. It is given the players (`Objective`), plays their turns batch by batch, and keeps
what a long run needs: a record, early stopping, checkpoints that are whole, and a way back when a loss diverges.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm_lib import checkpoint, runtime

CHECK_EVERY = 20  # steps between looks at the losses: a look makes a GPU wait
EXPLOSION = 1e4  # a loss this many times larger than at the start has diverged


class DivergenceError(RuntimeError):
    """A loss became NaN or infinite, or exploded."""


@dataclass
class Objective:
    """One player's turn: what it lowers, and the optimizer that holds its parameters.

    loss: called with the batch, `loss(x, y)`; returns a scalar in nats, the mean over the batch.
    every: play on every k-th batch only (five critic steps to one of the generator: generator every=5).
    clip: largest norm of the gradient, None for no limit.
    scheduler: a schedule of the learning rate; `fit` steps it once an epoch and keeps it in the checkpoint.
    """

    loss: Callable[..., Tensor]
    optimizer: Optimizer
    every: int = 1
    clip: float | None = None
    scheduler: LRScheduler | None = None

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, LBFGS):
            raise ValueError("LBFGS computes the loss several times a step, which fit does not; take Adam or SGD")

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that this player moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def turn(self, batch: tuple[Tensor, ...], bf16: bool = False) -> Tensor:
        """One step of the optimizer on one batch; returns the loss, without its graph."""
        parameters = self.parameters()
        with runtime.autocast(parameters[0].device, bf16):
            loss = self.loss(*batch)
        self.optimizer.zero_grad()  # right before backward: erases what another player's turn left
        loss.backward()
        runtime.average_gradients(parameters)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict:
        """What a checkpoint keeps of this player; `kind` says into what it can be loaded."""
        sizes = [len(group["params"]) for group in self.optimizer.param_groups]
        kind = f"{type(self.optimizer).__name__} of {' + '.join(map(str, sizes))} tensors"
        if self.scheduler is None:
            return {"kind": kind, "optimizer": self.optimizer.state_dict()}
        kind += f" with {type(self.scheduler).__name__}"
        return {"kind": kind, "optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Takes up what `state_dict` kept."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])

    def lower_rate(self, factor: float) -> None:
        """Multiplies the learning rate, also where the schedule starts from it."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
        if self.scheduler is not None:
            self.scheduler.base_lrs = [factor * rate for rate in self.scheduler.base_lrs]


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when `quantity` has had no new best for `patience` epochs; `fit` then restores the best state."""

    quantity: str
    patience: int = 10
    maximize: bool = False

    def best_epoch(self, history: History, since: int = 0) -> int | None:
        """The epoch, from 0, with the best finite value of those from `since` on; None if there is none yet."""
        if self.quantity not in history.values:
            raise ValueError(f"no quantity {self.quantity!r} to stop on; recorded are: {', '.join(history.values)}")
        sign = -1 if self.maximize else 1
        costs = {epoch: sign * value for epoch, value in enumerate(history[self.quantity])}
        finite = [epoch for epoch in range(since, len(history)) if math.isfinite(costs[epoch])]
        return min(finite, key=costs.__getitem__, default=None)

    def is_over(self, history: History, since: int = 0) -> bool:
        """Whether the patience is used up."""
        if len(history) <= since:
            return False
        best = self.best_epoch(history, since)
        return best is not None and len(history) - 1 - best >= self.patience


@dataclass
class History:
    """What `fit` recorded: `history["-ELBO"]` is a list with one number an epoch, the mean over its batches.

    It is NaN in an epoch in which the player had no turn or `on_epoch` did not return the quantity.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    interrupted: bool = False
    restarts: int = 0

    def __getitem__(self, name: str) -> list[float]:
        return self.values[name]

    def __len__(self) -> int:
        return len(self.seconds)

    def add(self, quantities: dict[str, float], seconds: float) -> None:
        """Records one epoch."""
        for name in {**self.values, **quantities}:
            column = self.values.setdefault(name, [math.nan] * len(self))
            column.append(float(quantities.get(name, math.nan)))
        self.seconds.append(seconds)


def fit(
    model: nn.Module,
    objectives: dict[str, Objective],
    batches: Iterable,
    epochs: int,
    *,
    seed: int = 0,
    bf16: bool = False,
    ema: AveragedModel | None = None,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    retries: int = 0,
    on_epoch: Callable[[], dict[str, float] | None] | None = None,
    stop: EarlyStopping | None = None,
    progress: bool = True,
) -> History:
    """Trains until `epochs` epochs are done in all, or `stop` says so, or Ctrl-C; returns the record of the run.

    batches: can be looped over once an epoch and gives (x, y), such as `data.train.batches(128)`.
    seed: the random numbers of an epoch follow from (seed, epoch, process), so a resumed run equals an unbroken one.
    bf16: multiply matrices in bfloat16 where the device has it natively.
    ema: a running average of the weights, made by `averaged(model)`, updated after each batch.
    checkpoint: a file that holds the whole state of the run after each epoch; `resume` goes on from it if it exists.
        What the optimizer had, its learning rate included, then comes from the file. A schedule belongs in
        `Objective(..., scheduler=…)`; one that `on_epoch` steps is not kept. Buffers that differ between processes are
        kept for each; with another number of processes all get those of process 0. A `stop` other than the file's
        counts from the first epoch after the resume.
    retries: how often to go back to the checkpoint with half the learning rate when a loss diverges.
    on_epoch: called after each epoch with model and ema in evaluation mode; the quantities it returns are recorded.
    Raises DivergenceError, which says which loss, where and what to try, and CheckpointError.
    """
    run = Run(model, objectives, ema, stop, Path(checkpoint) if checkpoint else None)
    run.start(resume, retries)
    with CtrlC() as pressed, progress_bar(epochs, batches, progress) as bar:
        while run.epoch < epochs and not run.is_over() and not pressed:
            runtime.seed_everything(seed, run.epoch, runtime.rank())
            started = time.perf_counter()
            try:
                losses = play_epoch(run, batches, bf16, pressed, bar)
            except DivergenceError:
                if run.restarts >= retries:
                    run.finish(interrupted=False)
                    raise
                run.go_back()
                continue
            if not pressed:
                run.finish_epoch(losses, on_epoch, started)
    run.finish(bool(pressed))
    return run.history


def play_epoch(run: Run, batches: Iterable, bf16: bool, pressed: CtrlC, bar) -> dict[str, float]:
    """Every batch once, every player's turn on it; returns each objective's mean loss."""
    run.model.train()
    losses = Losses(run)
    for batch in epoch_of(batches, run.epoch):
        run.step += 1
        for name, objective in run.objectives.items():
            if run.step % objective.every == 0:
                losses.add(name, objective.turn(batch, bf16))
        if run.ema is not None:
            run.ema.update_parameters(run.model)
        bar.update()
        if pressed:
            break
    return losses.means()


def epoch_of(batches: Iterable, epoch: int) -> Iterator[tuple[Tensor, ...]]:
    """The batches of one epoch, as tuples; those that know `set_epoch` are told which epoch it is."""
    if hasattr(batches, "set_epoch"):
        batches.set_epoch(epoch)
    batch = None
    for batch in batches:
        yield (batch,) if isinstance(batch, Tensor) else tuple(batch)
    if batch is None:
        raise ValueError(
            f"epoch {epoch + 1} had no batch: the batches are used up or empty; "
            "give something that can be looped over once an epoch"
        )


class Losses:
    """The losses of one epoch. They stay on the device and are looked at every few steps, by all processes at once."""

    def __init__(self, run: Run):
        self.run = run
        self.waiting: list[tuple[str, int, Tensor]] = []
        self.seen: dict[str, list[float]] = {name: [] for name in run.objectives}

    def add(self, name: str, loss: Tensor) -> None:
        self.waiting.append((name, self.run.step, loss))
        if len(self.waiting) >= CHECK_EVERY:
            self.look()

    def look(self) -> None:
        """Reads the waiting losses; raises DivergenceError at the first bad one."""
        if not self.waiting:
            return
        values = runtime.mean_over_processes(torch.stack([loss.float() for _, _, loss in self.waiting])).tolist()
        for (name, step, _), value in zip(self.waiting, values):
            limit = EXPLOSION * (1 + abs(self.run.first_loss.get(name, value)))
            if not math.isfinite(value) or abs(value) > limit:
                raise DivergenceError(self.run.what_diverged(name, step, value))
            self.run.first_loss.setdefault(name, value)
            self.seen[name].append(value)
        self.waiting = []

    def means(self) -> dict[str, float]:
        self.look()
        return {name: sum(values) / len(values) if values else math.nan for name, values in self.seen.items()}


class Run:
    """Everything that a checkpoint holds: model, optimizers, averaged weights, record, best state."""

    def __init__(
        self,
        model: nn.Module,
        objectives: dict[str, Objective],
        ema: AveragedModel | None,
        stop: EarlyStopping | None,
        path: Path | None,
    ):
        self.model, self.objectives, self.ema, self.stop, self.path = model, objectives, ema, stop, path
        self.history = History()
        self.epoch = self.step = 0
        self.restarts = 0  # in this call; the history counts those of the whole run
        self.first_loss: dict[str, float] = {}
        self.best: dict | None = None
        self.since = 0  # the first epoch of which `stop` could keep the state

    def start(self, resume: bool, retries: int) -> None:
        if (resume or retries) and self.path is None:
            raise ValueError("resume and retries need a file to go back to: give fit(..., checkpoint=PATH)")
        runtime.broadcast_weights(self.model)
        if resume and self.path.exists():
            self.load()
        if retries and not self.history:
            self.save()  # so that even the first epoch has a state to go back to

    def is_over(self) -> bool:
        return self.stop is not None and self.stop.is_over(self.history, self.since)

    def finish_epoch(self, losses: dict[str, float], on_epoch: Callable | None, started: float) -> None:
        self._evaluation_mode()
        quantities = dict(losses)
        if on_epoch is not None:
            with torch.no_grad():
                quantities |= runtime.mean_values(on_epoch() or {})
        self.epoch += 1
        self.history.add(quantities, time.perf_counter() - started)
        for objective in self.objectives.values():
            if objective.scheduler is not None:
                objective.scheduler.step()
        if self.stop is not None and self.stop.best_epoch(self.history, self.since) == self.epoch - 1:
            self.best = {name: deepcopy(module.state_dict()) for name, module in self._modules().items()}
            self.history.best_epoch = self.epoch - 1
        if self.path is not None:
            self.save()

    def finish(self, interrupted: bool) -> None:
        self.history.interrupted = interrupted
        if self.best is not None and not interrupted:
            for name, module in self._modules().items():
                module.load_state_dict(self.best[name])
        self._evaluation_mode()

    def _evaluation_mode(self) -> None:
        for module in self._modules().values():
            module.eval()

    def what_diverged(self, name: str, step: int, value: float) -> str:
        rates = sorted({group["lr"] for group in self.objectives[name].optimizer.param_groups})
        start = f", having started at {self.first_loss[name]:.4g}" if name in self.first_loss else ""
        back = (
            f"retries={self.restarts + 1} to go on from the last good epoch with half of it"
            if self.path
            else "a checkpoint to go back to"
        )
        return (
            f"the loss {name!r} became {value:.4g} at step {step} (epoch {self.epoch + 1}){start}. "
            f"Try a smaller learning rate (now {', '.join(f'{r:g}' for r in rates)}), "
            f"gradient clipping (Objective(..., clip=1.0)), or {back}.{self._last_good_state()}"
        )

    def _last_good_state(self) -> str:
        best = f" The model is back at its best epoch, {self.history.best_epoch + 1}." if self.best else ""
        if self.path is None or self.epoch == 0:
            return best
        return (
            f"{best} {self.path.name} holds the state after epoch {self.epoch}, learning rate included: "
            "resume it with retries, or start anew with a smaller one."
        )

    def go_back(self) -> None:
        """Returns to the last good state, with half the learning rate for each time that this happened."""
        restarts = self.history.restarts + 1
        self.load()
        for objective in self.objectives.values():
            objective.lower_rate(0.5 ** (restarts - self.history.restarts))
        self.history.restarts = restarts
        self.restarts += 1

    def save(self) -> None:
        buffers = runtime.gather({name: _buffers(module) for name, module in self._modules().items()})
        if runtime.rank() == 0:
            checkpoint.save(self.path, self._state() | {"buffers": buffers})
        runtime.wait_for_all()

    def load(self) -> None:
        players = {name: objective.state_dict() for name, objective in self.objectives.items()}
        state = checkpoint.load(self.path, self._modules(), players)
        same_group = len(state["buffers"]) == runtime.n_processes()
        own = state["buffers"][runtime.rank() if same_group else 0]
        for name, module in self._modules().items():
            state[name].update(own[name])
            module.load_state_dict(state[name])
        for name, objective in self.objectives.items():
            objective.load_state_dict(state["optimizers"][name])
        self.history = History(**state["history"])
        self.epoch, self.step, self.first_loss = state["epoch"], state["step"], state["first_loss"]
        self.best, self.since = state["best"], state["since"]
        if state["stop"] != self._stop():  # the best state is another stop's
            self.best, self.since, self.history.best_epoch = None, self.epoch, None

    def _state(self) -> dict:
        return {
            **{name: module.state_dict() for name, module in self._modules().items()},
            "optimizers": {name: objective.state_dict() for name, objective in self.objectives.items()},
            "history": vars(self.history),
            "epoch": self.epoch,
            "step": self.step,
            "first_loss": self.first_loss,
            "best": self.best,
            "since": self.since,
            "stop": self._stop(),
        }

    def _stop(self) -> list | None:
        return [self.stop.quantity, self.stop.maximize] if self.stop is not None else None

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model} | ({"ema": self.ema} if self.ema is not None else {})


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that are saved: unlike parameters, they can differ between processes."""
    names = {name for name, _ in module.named_buffers()}
    return {name: tensor.cpu() for name, tensor in module.state_dict().items() if name in names}


def averaged(model: nn.Module, decay: float = 0.999) -> AveragedModel:
    """A running average of the model's weights for `fit(..., ema=…)`; sample from its `.module`."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


class CtrlC:
    """True once Ctrl-C was pressed: the first press asks to stop after the batch, a second one stops at once.

    Only where this process trains alone and in its main thread; a group of processes ends at once, as usual.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __bool__(self) -> bool:
        return self.pressed

    def __enter__(self) -> CtrlC:
        self.active = threading.current_thread() is threading.main_thread() and runtime.n_processes() == 1
        if self.active:
            self.before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            signal.signal(signal.SIGINT, self.before)

    def _press(self, *_: object) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, self.before)


def progress_bar(epochs: int, batches: Iterable, wanted: bool):
    """A bar over all batches: in a notebook and a terminal; quiet in a file, in a test and in all processes but one."""
    from tqdm.auto import tqdm

    total = epochs * len(batches) if hasattr(batches, "__len__") else None
    quiet = not wanted or runtime.rank() > 0 or os.environ.get("TQDM_DISABLE") == "1"
    return tqdm(total=total, unit="batch", leave=False, disable=True if quiet else None)
