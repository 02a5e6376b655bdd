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
from torch.optim import Optimizer
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
    """

    loss: Callable[..., Tensor]
    optimizer: Optimizer
    every: int = 1
    clip: float | None = None

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


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when `quantity` has had no new best for `patience` epochs; `fit` then restores the best state."""

    quantity: str
    patience: int = 10
    maximize: bool = False

    def best_epoch(self, history: History) -> int:
        """The epoch, from 0, with the best finite value so far."""
        if self.quantity not in history.values:
            raise ValueError(f"no quantity {self.quantity!r} to stop on; recorded are: {', '.join(history.values)}")
        sign = -1 if self.maximize else 1
        costs = [sign * v if math.isfinite(v) else math.inf for v in history[self.quantity]]
        return min(range(len(costs)), key=costs.__getitem__)

    def is_over(self, history: History) -> bool:
        """Whether the patience is used up."""
        return len(history) > 0 and len(history) - 1 - self.best_epoch(history) >= self.patience


@dataclass
class History:
    """What `fit` recorded: `history["-ELBO"]` is a list with one number an epoch, the mean over its batches."""

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
        for name, value in quantities.items():
            self.values.setdefault(name, []).append(float(value))
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

    batches: loops over (x, y), once an epoch, such as `data.train.batches(128)`.
    seed: the random numbers of an epoch follow from (seed, epoch, process), so a resumed run equals an unbroken one.
    bf16: multiply matrices in bfloat16 where the device has it natively.
    ema: a running average of the weights, made by `averaged(model)`, updated after each batch.
    checkpoint: a file that holds the whole state of the run after each epoch; `resume` goes on from it if it exists.
    retries: how often to go back to the checkpoint with half the learning rate when a loss diverges.
    on_epoch: called after each epoch with the model in evaluation mode; the quantities it returns are recorded.
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
                if run.history.restarts == retries:
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
    for batch in batches:
        yield (batch,) if isinstance(batch, Tensor) else tuple(batch)


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
            limit = EXPLOSION * (1 + abs(self.run.first_loss.setdefault(name, value)))
            if not abs(value) <= limit:  # true for NaN as well
                raise DivergenceError(self.run.what_diverged(name, step, value))
            self.seen[name].append(value)
        self.waiting = []

    def means(self) -> dict[str, float]:
        self.look()
        return {name: sum(values) / len(values) for name, values in self.seen.items() if values}


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
        self.first_loss: dict[str, float] = {}
        self.best: dict | None = None

    def start(self, resume: bool, retries: int) -> None:
        if (resume or retries) and self.path is None:
            raise ValueError("resume and retries need a file to go back to: give fit(..., checkpoint=PATH)")
        if resume and self.path.exists():
            self.load()
        runtime.broadcast_weights(self.model)
        if retries and not self.history:
            self.save()  # so that even the first epoch has a state to go back to

    def is_over(self) -> bool:
        return self.stop is not None and len(self.history) > 0 and self.stop.is_over(self.history)

    def finish_epoch(self, losses: dict[str, float], on_epoch: Callable | None, started: float) -> None:
        self.model.eval()
        quantities = dict(losses)
        if on_epoch is not None:
            with torch.no_grad():
                quantities |= runtime.mean_values(on_epoch() or {})
        self.epoch += 1
        self.history.add(quantities, time.perf_counter() - started)
        if self.stop is not None and self.stop.best_epoch(self.history) == self.epoch - 1:
            self.best = {name: deepcopy(module.state_dict()) for name, module in self._modules().items()}
            self.history.best_epoch = self.epoch - 1
        if self.path is not None:
            self.save()

    def finish(self, interrupted: bool) -> None:
        self.history.interrupted = interrupted
        if self.best is not None and not interrupted:
            for name, module in self._modules().items():
                module.load_state_dict(self.best[name])
        self.model.eval()

    def what_diverged(self, name: str, step: int, value: float) -> str:
        rates = sorted({group["lr"] for group in self.objectives[name].optimizer.param_groups})
        back = (
            ", or retries=1 to go on from the last good epoch with half of it"
            if self.path
            else ", or a checkpoint to go back to"
        )
        return (
            f"the loss {name!r} became {value:.4g} at step {step} (epoch {self.epoch + 1}), having started at "
            f"{self.first_loss[name]:.4g}. Try a smaller learning rate (now {', '.join(f'{r:g}' for r in rates)}), "
            f"gradient clipping (Objective(..., clip=1.0)){back}."
        )

    def go_back(self) -> None:
        """Returns to the last good state, with half the learning rate for each time that this happened."""
        restarts = self.history.restarts + 1
        self.load()
        for objective in self.objectives.values():
            for group in objective.optimizer.param_groups:
                group["lr"] *= 0.5 ** (restarts - self.history.restarts)
        self.history.restarts = restarts

    def save(self) -> None:
        if runtime.rank() == 0:
            checkpoint.save(self.path, self._state())
        runtime.wait_for_all()

    def load(self) -> None:
        state = checkpoint.load(self.path, self._modules(), list(self.objectives))
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        for name, objective in self.objectives.items():
            objective.optimizer.load_state_dict(state["optimizers"][name])
        self.history = History(**state["history"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.first_loss, self.best = state["first_loss"], state["best"]

    def _state(self) -> dict:
        return {
            **{name: module.state_dict() for name, module in self._modules().items()},
            "optimizers": {name: objective.optimizer.state_dict() for name, objective in self.objectives.items()},
            "history": vars(self.history),
            "epoch": self.epoch,
            "step": self.step,
            "first_loss": self.first_loss,
            "best": self.best,
        }

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model} | ({"ema": self.ema} if self.ema is not None else {})


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
