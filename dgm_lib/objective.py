"""A player of a training: its loss, its optimizer, and the schedule of its learning rate.

What a player holds must survive a checkpoint to the bit, and its rate must be one that can be lowered. What cannot be
kept is refused when the player is made, not after an hour.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import LBFGS, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, SequentialLR

from dgm_lib import checkpoint, checks, runtime


@dataclass
class Objective:
    """One player's turn: what it lowers, and the optimizer that holds its parameters.

    loss: called with the batch, `loss(x, y)`; returns a scalar in nats, the mean over the batch.
    every: play on every k-th batch only (five critic steps to one of the generator: generator every=5).
    clip: largest norm of the gradient, None for no limit.
    scheduler: a schedule of the learning rate; `fit` steps it once an epoch and keeps it in the checkpoint.
    Raises ValueError for numbers that make no sense, and for what a checkpoint could not hold.
    """

    loss: Callable[..., Tensor]
    optimizer: Optimizer
    every: int = 1
    clip: float | None = None
    scheduler: LRScheduler | None = None
    name: str = field(default="loss", init=False)  # the one by which `fit` was given it

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, Optimizer):
            raise ValueError(f"the optimizer is {self.optimizer!r}: give one, such as Adam(model.parameters(), 1e-3)")
        if isinstance(self.optimizer, LBFGS):
            raise ValueError("LBFGS computes the loss several times a step, which fit does not; take Adam or SGD")
        if not callable(self.loss):
            raise ValueError(f"the loss is {self.loss!r}: give the function that computes it, such as model.loss")
        if not self.parameters():
            raise ValueError("the optimizer holds no parameter: there is nothing to move")
        checks.check_whole(1, every=self.every)
        if self.clip not in (None, math.inf):
            checks.check_positive(clip=self.clip)
        for schedule in schedules_in(self.scheduler):
            check_schedule(schedule, self.optimizer)
            schedule.lowered = getattr(schedule, "lowered", 1.0)  # by how much the rates are below the schedule's
        self._check_state()

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that this player moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def __str__(self) -> str:
        sizes = [p.numel() for p in self.parameters() if p.requires_grad]
        return f"{self.kind()} with {sizes} numbers, rates {self.rates()}, every={self.every}, clip={self.clip}"

    def moved(self) -> list[Tensor]:
        """The parameters, and what the optimizer keeps for them."""
        kept = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.parameters(), *(value for value in kept if isinstance(value, Tensor))]

    def rates(self) -> list[float]:
        """The learning rates, from the smallest."""
        return sorted({float(group["lr"]) for group in self.optimizer.param_groups})

    def turn(self, batch: tuple, bf16: bool = False, average: Callable = runtime.average_gradients) -> Tensor:
        """One step of the optimizer on one batch; returns the loss, without its graph."""
        parameters = self.parameters()
        with runtime.autocast(parameters[0].device, bf16):
            loss = checks.check_loss(self.loss(*batch), self.name)
        self.optimizer.zero_grad()  # right before backward: erases what another player's turn left
        loss.backward()
        loss = average(parameters, loss.detach())[0]  # over all processes
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        return loss

    def step_schedule(self) -> None:
        """The rates of the next epoch. The schedule does not see that rates were lowered, so all of them are."""
        if self.scheduler is not None:
            self._scale_rates(1 / self.scheduler.lowered)
            self.scheduler.step()
            self._scale_rates(self.scheduler.lowered)
            self._make_plain()

    def lower_rate(self, factor: float) -> None:
        """Multiplies the learning rate, and all that the schedule will set."""
        self._scale_rates(factor)
        if self.scheduler is not None:
            self.scheduler.lowered *= factor

    def _scale_rates(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["lr"] if factor != 1 else group["lr"]

    def kind(self) -> str:
        """The classes of the optimizer and of its schedules, and of how many tensors they are."""
        sizes = " + ".join(str(len(group["params"])) for group in self.optimizer.param_groups)
        schedules = [type(schedule).__name__ for schedule in schedules_in(self.scheduler)]
        return f"{type(self.optimizer).__name__} of {sizes} tensors" + " with " * bool(schedules) + ", ".join(schedules)

    def state_dict(self) -> dict:
        """What a checkpoint keeps of this player; `kind` says into what it can be loaded."""
        state = {"kind": self.kind(), "optimizer": self.optimizer.state_dict()}
        if self.scheduler is not None:
            state["scheduler"] = checkpoint.without_functions(self.scheduler.state_dict())
            state["lowered"] = self.scheduler.lowered
        return state

    def load_state_dict(self, state: dict) -> None:
        """Takes up what `state_dict` kept."""
        state = deepcopy(state)  # a step would change it
        self.optimizer.load_state_dict(state["optimizer"])
        for number, p in enumerate(self.parameters()):  # to the bit: torch has cast it to the parameter's type
            for key, kept in state["optimizer"]["state"].get(number, {}).items():
                if isinstance(kept, Tensor) and kept.dtype != self.optimizer.state[p][key].dtype:
                    self.optimizer.state[p][key] = kept.to(self.optimizer.state[p][key].device)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
            self.scheduler.lowered = state.get("lowered", 1.0)

    def _check_state(self) -> None:
        """Raises ValueError where a checkpoint of this player could not be read again."""
        try:
            self._make_plain()
            checkpoint.plain(self.state_dict(), "the player's state")
        except AttributeError as error:  # torch looks for the variables of a function that has none
            raise ValueError(
                f"the schedule cannot be kept ({error}): give it functions made by def or lambda"
            ) from None

    def _make_plain(self) -> None:
        """NumPy's numbers become Python's: a resumed run then calculates in the same types as an unbroken one."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for number, group in enumerate(self.optimizer.param_groups):
            group |= checkpoint.plain({key: group[key] for key in group if key != "params"}, "the optimizer's group")
            if isinstance(group["lr"], Tensor) and any(group["lr"] is rate for rate in rates[:number]):
                group["lr"] = group["lr"].clone()  # torch gives all groups one tensor, which a schedule would fill
        for schedule in schedules_in(self.scheduler):
            for holder in (schedule, *getattr(schedule, "lr_lambdas", ())):
                held = getattr(holder, "__dict__", None)
                for name, value in held.items() if isinstance(held, dict) else ():
                    with suppress(ValueError):  # functions, and the optimizer itself
                        held[name] = checkpoint.plain(value, name)


def adam(
    loss: Callable[..., Tensor],
    net: nn.Module,
    rate: float,
    *,
    epochs: int | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    clip: float | None = None,
    every: int = 1,
) -> Objective:
    """The recipe of this course: AdamW on what `net` lets train. Loshchilov & Hutter 2019, algorithm 2.

    epochs: if given, the rate falls to 0 over so many along half a cosine (ibid., section 4; Loshchilov & Hutter 2017,
    eq. 5); without, it stays. weight_decay 0 is plain Adam. For anything else, make an `Objective` by hand.
    """
    free = [p for p in net.parameters() if p.requires_grad]
    if not free:
        raise ValueError(f"the {type(net).__name__} has no parameter that may move: there is nothing to train")
    optimizer = AdamW(free, rate, betas=betas, weight_decay=weight_decay, fused=True)
    schedule = None if epochs is None else CosineAnnealingLR(optimizer, epochs)
    return Objective(loss, optimizer, every=every, clip=clip, scheduler=schedule)


def schedules_in(schedule: LRScheduler | None) -> Iterator[LRScheduler]:
    """The schedule and those that it is made of."""
    if schedule is not None:
        yield schedule
        for part in getattr(schedule, "_schedulers", ()):
            yield from schedules_in(part)


def check_schedule(schedule: object, optimizer: Optimizer) -> None:
    """Raises ValueError unless `fit` can step this schedule of this optimizer."""
    name = type(schedule).__name__
    if not isinstance(schedule, LRScheduler):
        raise ValueError(f"the scheduler is a {name}: give one of torch.optim.lr_scheduler")
    if schedule.optimizer is not optimizer:
        raise ValueError(f"{name} is a schedule of another optimizer: make it of the one that the objective has")
    for part in getattr(schedule, "_schedulers", ())[1:] if isinstance(schedule, SequentialLR) else ():
        if type(part).get_lr is LRScheduler.get_lr:
            raise ValueError(
                f"{name} cannot begin a {type(part).__name__} at a milestone: put the sequence into the chain"
            )
    try:
        inspect.signature(schedule.step).bind()
    except TypeError as error:
        raise ValueError(f"{name} wants more at a step than fit gives ({error}): take CosineAnnealingLR") from None
