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
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm_lib import checkpoint, checks, runtime
from dgm_lib.objective import Objective
from dgm_lib.samplers import ChainError

CHECK_EVERY = 20  # steps between looks at the losses: a look makes a GPU wait
EXPLOSION = 1e4  # a loss this many times larger than at the start has diverged


class DivergenceError(RuntimeError):
    """A loss or a weight became NaN or infinite, a loss exploded, or a chain inside a loss ran away."""


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when `quantity` has had no new best for `patience` epochs; `fit` then restores the best state."""

    quantity: str
    patience: int = 10
    maximize: bool = False

    def __post_init__(self) -> None:
        checks.check_whole(1, patience=self.patience)

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
    retries: how often to go back, with half the learning rate, when a run diverges: to the last state of the file in
        which every player has had a good loss, for one that the last step has spoilt would spoil the run again.
    on_epoch: called after each epoch with model and ema in evaluation mode; the quantities it returns are recorded,
        with several processes the mean over those that return it.
    Raises DivergenceError, which says what diverged, where and what to try, CheckpointError, and ValueError for what
    cannot be trained. What one process raises, all raise.
    """
    run = Run(model, objectives, ema, stop, checkpoint)
    run.start(epochs, seed, resume, retries)
    with CtrlC() as pressed, progress_bar(epochs, batches, progress) as bar:
        try:
            while run.epoch < epochs and not run.is_over() and not pressed:
                runtime.seed_everything(seed, run.epoch, runtime.rank())
                started = time.perf_counter()
                try:
                    losses = play_epoch(run, batches, bf16, pressed, bar)
                except DivergenceError:
                    if run.restarts >= retries:
                        raise
                    run.go_back()
                    continue
                if not pressed:
                    run.finish_epoch(losses, on_epoch, started)
        finally:
            run.finish(bool(pressed))
    return run.history


def play_epoch(run: Run, batches: Iterable, bf16: bool, pressed: CtrlC, bar) -> dict[str, float]:
    """Every batch once, every player's turn on it; returns each objective's mean loss."""
    run.model.train()
    epoch = Epoch(run, bf16)
    with checks.seldom():
        for batch in epoch.batches(batches):
            run.step += 1
            for name, objective in run.objectives.items():
                if run.step % objective.every == 0:
                    epoch.turn(name, objective, batch)
            if run.ema is not None:
                run.ema.update_parameters(run.model)
            bar.update()
            if pressed:
                break
        return epoch.mean_losses()


def batches_of(batches: Iterable, epoch: int) -> Iterator[tuple]:
    """The batches of one epoch, as tuples. What must know which epoch it is, is told: a DataLoader's sampler, too."""
    inner = getattr(batches, "batch_sampler", None)
    for part in (batches, getattr(batches, "dataset", None), getattr(batches, "sampler", None), inner):
        for knows in (part, getattr(part, "sampler", None)):
            if hasattr(knows, "set_epoch"):
                knows.set_epoch(epoch)
    batch = None
    for batch in batches:
        yield checks.as_batch(batch)
    if batch is None:
        raise ValueError(
            f"epoch {epoch + 1} had no batch: the batches are used up or empty; "
            "give something that can be looped over once an epoch"
        )


class Epoch:
    """The turns of one epoch, and their losses, which stay on the device and are looked at every few steps.

    Several processes: the message with a player's gradient also carries its loss, and whether a process has stopped,
    because its batches are used up or something in it raised. One that has stopped sends empty messages until all know.
    """

    def __init__(self, run: Run, bf16: bool):
        self.run, self.bf16 = run, bf16
        self.first, self.n_batches = run.step, 0
        self.error: Exception | None = None
        self.ended = False  # this process has no more batches
        self.over = False  # some process has stopped, and all know
        self.message: Tensor | None = None  # of the last turn: the loss and, in a group, the share that has stopped
        self.waiting: list[tuple[str, int, Tensor]] = []
        self.seen: dict[str, list[float]] = {name: [] for name in run.objectives}

    def batches(self, batches: Iterable) -> Iterator[tuple]:
        """This process's batches, until they are used up or a process has stopped."""
        own = batches_of(batches, self.run.epoch)
        while not self.over:
            batch = self._attempt(next, own, None)
            if batch is None:
                self.ended = True
                return
            self.n_batches += 1
            yield batch

    def turn(self, name: str, objective: Objective, batch: tuple | None) -> None:
        """One player's turn, or an empty message in place of it."""
        self.message = None
        if batch is not None and self.error is None:
            self._attempt(self._play, objective, batch)
        if self.message is None:
            self._average(objective.parameters(), stopped=True)
        self.waiting.append((name, self.run.step, self.message))
        if len(self.waiting) >= CHECK_EVERY:
            self.look()

    def _attempt(self, action: Callable, *arguments):
        """What the action returns. In a group, None where it raises: the others are waiting for this process."""
        try:
            return action(*arguments)
        except Exception as error:
            if runtime.n_processes() == 1:
                raise
            self.error = error

    def _play(self, objective: Objective, batch: tuple) -> None:
        try:
            objective.turn(batch, self.bf16, self._average)
        except ChainError as error:
            what = f"a chain in the loss {objective.name!r} diverged"
            raise DivergenceError(self.run.what_diverged(objective.name, what, self.run.step, f": {error}")) from error
        except (TypeError, ValueError, RuntimeError) as error:
            said = checks.what_is_wrong(error, objective.loss, batch, objective.parameters()[0].dtype)
            if said is None:
                raise
            raise ValueError(f"the loss of {objective.name!r} could not be computed: {said}") from error

    def _average(self, *gradients, stopped: bool = False) -> Tensor:
        self.message = runtime.average_gradients(*gradients, stopped=stopped)
        return self.message

    def _settle(self) -> None:
        try:
            checks.settle()
        except ChainError as error:
            name = self.waiting[-1][0] if self.waiting else next(iter(self.run.objectives))
            said = self.run.what_diverged(name, "a chain in a loss diverged", self.run.step, f" or before: {error}")
            raise DivergenceError(said) from error

    def look(self) -> None:
        """Reads the waiting losses, up to where a process has stopped; raises DivergenceError at the first bad one."""
        self._attempt(self._settle)  # what models have put off, so that a device is asked no oftener than here
        if not self.waiting:
            return
        messages = torch.stack([message.float() for _, _, message in self.waiting]).tolist()
        for (name, step, _), (value, *stopped) in zip(self.waiting, messages):
            if any(stopped):
                self.over = True
                break
            limit = EXPLOSION * (1 + abs(self.run.first_loss.get(name, value)))
            if not math.isfinite(value) or abs(value) > limit:
                start = f", having started at {self.run.first_loss[name]:.4g}" if name in self.run.first_loss else ""
                raise DivergenceError(
                    self.run.what_diverged(name, f"the loss {name!r} became {value:.4g}", step, start)
                )
            self.run.first_loss.setdefault(name, value)
            self.run.good.add(name)
            self.seen[name].append(value)
        self.waiting = []

    def mean_losses(self) -> dict[str, float]:
        """Each player's mean loss, once every process has come to its end of the epoch."""
        while runtime.n_processes() > 1 and not self.over:
            self.run.step += 1
            for name, objective in self.run.objectives.items():
                if self.run.step % objective.every == 0:
                    self.turn(name, objective, None)
                    self.over = self.over or self.message[1].item() == 1
        self.look()
        self.run.step = self.first + self.n_batches
        runtime.agree(self._outcome)
        return {name: sum(values) / len(values) if values else math.nan for name, values in self.seen.items()}

    def _outcome(self) -> dict:
        if self.error is not None:
            raise self.error
        self.run.check_weights()
        number = f"the number of batches in epoch {self.run.epoch + 1} (see drop_last, and DistributedSampler)"
        return {number: self.n_batches if self.ended else "more"} | self.run.players()


class Run:
    """Everything that a checkpoint holds: model, optimizers, averaged weights, record, best state."""

    def __init__(
        self,
        model: nn.Module,
        objectives: dict[str, Objective],
        ema: AveragedModel | None,
        stop: EarlyStopping | None,
        path: Path | str | None,
    ):
        self.model, self.objectives, self.ema, self.stop = model, objectives, ema, stop
        self.path = None if path is None else checkpoint.as_path(path)
        self.history = History()
        self.epoch = self.step = 0
        self.restarts = 0  # in this call; the history counts those of the whole run
        self.first_loss: dict[str, float] = {}
        self.best: dict | None = None
        self.since = 0  # the first epoch of which `stop` could keep the state
        self.newest: dict | None = None  # the state of the last epoch, as it is in the file
        self.tried: dict | None = None  # the last state from which every player has had a good loss
        self.good: set[str] = set()  # the players that have had one from the newest state

    def start(self, epochs: int, seed: int, resume: bool, retries: int) -> None:
        runtime.agree(lambda: self._check(epochs, seed, resume, retries))
        runtime.broadcast_weights(self.model)
        if resume and self.path.exists():
            self.load()
        if retries and not self.history:
            self.save()  # so that even the first epoch has a state to go back to

    def _check(self, epochs: int, seed: int, resume: bool, retries: int) -> dict:
        """Raises ValueError or CheckpointError for what cannot be; returns what must be alike in all processes."""
        for name, value in {"epochs": epochs, "seed": seed, "retries": retries}.items():
            checks.whole(name, value)
        if (resume or retries) and self.path is None:
            raise ValueError("resume and retries need a file to go back to: give fit(..., checkpoint=PATH)")
        self._check_players(epochs)
        if self.path is not None and runtime.rank() == 0:
            checkpoint.check_path(self.path)
            checkpoint.plain(self._state(), "the run's state")
        run = {"epochs": epochs, "retries": retries, "the checkpoint": self.path, "stop": self.stop}
        run |= {"the file to resume from is there": resume and self.path.exists(), "ema": self.ema is not None}
        run |= {
            f"{name} of the model": f"{tuple(tensor.shape)}, {tensor.dtype}"
            for name, tensor in self.model.state_dict().items()
        }
        return run | {"the list of objectives": list(self.objectives)} | self.players()

    def _check_players(self, epochs: int) -> None:
        """Raises ValueError unless each objective can be played, and moves what is in the model."""
        if not isinstance(self.model, nn.Module):
            raise ValueError(f"the model is a {type(self.model).__name__}: give the nn.Module that is trained")
        if not isinstance(self.objectives, dict) or not self.objectives:
            raise ValueError(f"objectives is {self.objectives!r}: give a dict, such as {{'loss': Objective(…)}}")
        for name, objective in self.objectives.items():
            if not isinstance(name, str) or not isinstance(objective, Objective):
                raise ValueError(f"objectives holds {name!r}: {objective!r}, but it must be a name and an Objective")
            objective.__post_init__()  # what was changed since it was made
            objective.name = name
            self._check_moved(objective)
            if isinstance(objective.scheduler, OneCycleLR) and epochs > objective.scheduler.total_steps:
                raise ValueError(
                    f"the schedule of {name!r} has {objective.scheduler.total_steps} steps, one an epoch, and fit is "
                    f"to run {epochs}: make it with total_steps={epochs}"
                )
        if self.ema is not None and not _alike(self.ema.module, self.model):
            raise ValueError("ema averages another model: make it by averaged(model), of the model given to fit")

    def _check_moved(self, objective: Objective) -> None:
        held = {id(tensor) for tensor in (*self.model.parameters(), *self.model.buffers())}
        for p in objective.parameters():
            if id(p) not in held:
                raise ValueError(
                    f"{objective.name!r} moves a parameter of shape {tuple(p.shape)} that is not in the model given to "
                    "fit, which would not be saved: make the optimizer of that model's own parameters, not of a "
                    "copy's, and put what else is learnt into the model"
                )

    def players(self) -> dict[str, str]:
        """Each player in words, which must be the same in all processes."""
        return {f"the player {name!r}": str(objective) for name, objective in self.objectives.items()}

    def is_over(self) -> bool:
        return self.stop is not None and self.stop.is_over(self.history, self.since)

    def finish_epoch(self, losses: dict[str, float], on_epoch: Callable | None, started: float) -> None:
        self._evaluation_mode()
        with torch.no_grad():
            measured = runtime.together(lambda: checks.check_quantities(on_epoch() if on_epoch is not None else None))
        quantities = losses | runtime.mean_values(measured[runtime.rank()])
        self.epoch += 1
        self.history.add(quantities, time.perf_counter() - started)
        for objective in self.objectives.values():
            objective.step_schedule()
        if self.stop is not None and self.stop.best_epoch(self.history, self.since) == self.epoch - 1:
            modules = {name: module.state_dict() for name, module in self._modules().items()}
            self.best = checkpoint.plain(modules, "the best state", copy=True)
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

    def check_weights(self) -> None:
        """Raises DivergenceError unless all that the players moved is finite: the last step of an epoch has no look."""
        held = {f"the weights of {name!r}": objective.moved() for name, objective in self.objectives.items()}
        if self.ema is not None:
            held["the averaged weights"] = [p for p in self.ema.parameters() if p.requires_grad]
        largest = torch.stack([_largest(tensors).cpu() for tensors in held.values()]).tolist()
        for what, name, value in zip(held, [*self.objectives, *self.objectives], largest):
            if not math.isfinite(value):
                raise DivergenceError(self.what_diverged(name, f"{what} became {value:.4g}", self.step))

    def what_diverged(self, name: str, what: str, step: int, more: str = "") -> str:
        """The sentence of a DivergenceError of this player, with what to try."""
        back = (
            f"retries={self.restarts + 1} to go on from the last good epoch with half of it"
            if self.path
            else "a checkpoint to go back to"
        )
        return (
            f"{what} at step {step} (epoch {self.epoch + 1}){more}. "
            f"Try a smaller learning rate (now {', '.join(f'{r:g}' for r in self.objectives[name].rates())}), "
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
        """Returns to the last state that was good to every player, with half the rate for each time that it did."""
        restarts = self.history.restarts + 1
        self.load(tried=self.good < set(self.objectives))
        for objective in self.objectives.values():
            objective.lower_rate(0.5 ** (restarts - self.history.restarts))
        self.history.restarts = restarts
        self.restarts += 1
        self.save()

    def save(self) -> None:
        """Writes the state after this epoch, and with it the last one that has been tried."""
        buffers = runtime.gather({name: _buffers(module) for name, module in self._modules().items()})
        if self.good >= set(self.objectives):
            self.tried = self.newest
        runtime.together(lambda: self._write(buffers) if runtime.rank() == 0 else None)
        self.good = set()

    def _write(self, buffers: list) -> None:
        self.newest = checkpoint.plain(self._state() | {"buffers": buffers}, "the run's state", copy=True)
        checkpoint.save(self.path, self.newest | {"tried": self.tried})

    def load(self, tried: bool = False) -> None:
        """Takes up the newest state of the file, or the last one that was tried, if there is one."""
        players = {name: objective.state_dict() for name, objective in self.objectives.items()}
        state = runtime.together(lambda: checkpoint.load(self.path, self._modules(), players))[runtime.rank()]
        self.tried = state.pop("tried", None)
        self.newest = self.tried if tried and self.tried is not None else state
        state, self.good = deepcopy(self.newest), set()
        same_group = len(state["buffers"]) == runtime.n_processes()
        own = state["buffers"][runtime.rank() if same_group else 0]
        for name, module in self._modules().items():
            module.load_state_dict(state[name] | own[name])
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


def _alike(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules have parameters of the same names and shapes."""
    first, second = ({name: p.shape for name, p in module.named_parameters()} for module in (a, b))
    return first == second


def _largest(tensors: list[Tensor]) -> Tensor:
    """The largest absolute value in floating-point tensors, NaN if there is one: (), without asking the device."""
    tensors = [tensor.detach() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    return nn.utils.get_total_norm([tensor for tensor in tensors if tensor.numel()] or [torch.zeros(1)], math.inf)


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that are saved: unlike parameters, they can differ between processes."""
    names = {name for name, _ in module.named_buffers()}
    return {name: tensor.cpu() for name, tensor in module.state_dict().items() if name in names}


def averaged(model: nn.Module, decay: float = 0.999) -> AveragedModel:
    """A running average of the model's weights for `fit(..., ema=…)`; sample from its `.module`."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


class CtrlC:
    """True once Ctrl-C was pressed: the first press asks to stop after the batch, a second one stops at once.

    Only where this process trains alone and in its main thread; a group of processes ends at once, as usual. Where
    Ctrl-C is ignored, as in a background job, it stays so: it is meant for what runs in the foreground.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __bool__(self) -> bool:
        return self.pressed

    def __enter__(self) -> CtrlC:
        deaf = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
        self.active = threading.current_thread() is threading.main_thread() and runtime.n_processes() == 1 and not deaf
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
