"""What a player may hold: it survives a checkpoint to the bit and a lowered rate, or it is refused when it is made."""

from __future__ import annotations

import math
from collections import deque
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim import lr_scheduler as schedules
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from dgm_lib.checkpoint import CheckpointError
from dgm_lib.objective import Objective, adam
from dgm_lib.train import fit

STEPS = 6
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")  # torch says so of chains in sequences


class Absolute(LRScheduler):
    """Sets the rate without a look at the optimizer's, by a function that it is given."""

    def __init__(self, optimizer, rate):
        self.rate, self.table, self.count = rate, {"rising": rate, "falling": rate}, np.float32(0.1)
        super().__init__(optimizer)

    def get_lr(self):
        self.count = self.count * np.float32(1.1)
        return [self.rate(self.last_epoch) * self.count for _ in self.optimizer.param_groups]


class Ramp:
    """A function with a state of its own."""

    def __init__(self):
        self.calls = np.int64(0)

    def __call__(self, epoch):
        self.calls += 1
        return 1 / (1 + self.calls)


def rising(epoch):
    return 1 + epoch


SCHEDULES = {
    "none": lambda o: None,
    "step": lambda o: schedules.StepLR(o, 2, np.float64(0.3)),
    "milestones": lambda o: schedules.MultiStepLR(o, [1, np.int64(3)], 0.5),
    "lambda": lambda o: schedules.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "lambda, numpy": lambda o: schedules.LambdaLR(o, lambda epoch: np.float32(0.9) ** epoch),
    "lambdas, one a group": lambda o: schedules.LambdaLR(o, [rising, partial(pow, 0.5)][: len(o.param_groups)]),
    "lambda with a state": lambda o: schedules.LambdaLR(o, Ramp()),
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda epoch: np.float32(0.7)),
    "constant": lambda o: schedules.ConstantLR(o, 0.5, 3),
    "linear": lambda o: schedules.LinearLR(o, 0.2, total_iters=4),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9),
    "polynomial": lambda o: schedules.PolynomialLR(o, 8, 2.0),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 5, eta_min=0.01),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 2, 2, eta_min=0.003),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.3, total_steps=STEPS),
    "three phases": lambda o: schedules.OneCycleLR(
        o, 0.3, total_steps=STEPS, three_phase=True, anneal_strategy="linear"
    ),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.2, step_size_up=2),
    "cyclic, falling": lambda o: schedules.CyclicLR(o, 0.01, 0.2, step_size_up=2, mode="exp_range", gamma=0.9),
    "cyclic by a function": lambda o: schedules.CyclicLR(o, 0.01, 0.2, 2, scale_fn=lambda x: 0.9**x),
    "averaging": lambda o: SWALR(o, 0.01, anneal_epochs=3),
    "absolute": lambda o: Absolute(o, lambda epoch: 0.1 + 0.01 * epoch),
    "sequence": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.5, total_iters=2), schedules.CosineAnnealingLR(o, 4)], [2]
    ),
    "chain": lambda o: schedules.ChainedScheduler([schedules.ConstantLR(o, 0.5, 2), schedules.ExponentialLR(o, 0.9)]),
    "chain of a closure": lambda o: schedules.ChainedScheduler(
        [schedules.LambdaLR(o, lambda epoch: 0.8**epoch), schedules.StepLR(o, 2, 0.5)]
    ),
    "sequence of a chain": lambda o: schedules.SequentialLR(
        o,
        [
            schedules.ChainedScheduler([schedules.ExponentialLR(o, 0.9), schedules.StepLR(o, 2, 0.5)]),
            schedules.LambdaLR(o, lambda epoch: 0.1 + epoch),
        ],
        [2],
    ),
}
OPTIMIZERS = {
    "SGD": lambda groups: SGD(groups, 0.1, momentum=0.9),
    "SGD, numpy": lambda groups: SGD(groups, np.float32(0.1), momentum=np.float64(0.9)),
    "Adam": lambda groups: Adam(groups, 0.1, betas=(np.float64(0.9), 0.99)),
    "AdamW": lambda groups: AdamW(groups, torch.tensor(0.1), amsgrad=True),
}
SOME = ("lambda, numpy", "lambdas, one a group", "cyclic", "sequence")
PAIRS = [(s, "SGD, numpy") for s in SCHEDULES] + [(s, o) for s in SOME for o in OPTIMIZERS if o != "SGD, numpy"]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def make(schedule="none", optimizer="SGD", groups=1, seed=0, dtype=torch.float32):
    """A network and its player."""
    torch.manual_seed(seed)
    net = nn.Linear(3, 1).to(dtype)
    parts = [[net.weight, net.bias]] if groups == 1 else [[net.weight], [net.bias]]
    chosen = OPTIMIZERS[optimizer]([{"params": part} for part in parts])
    loss = lambda x: (net(x) - 1).square().mean()  # noqa: E731
    return net, Objective(loss, chosen, scheduler=SCHEDULES[schedule](chosen))


def batches(dtype=torch.float32):
    return list(torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(1)).to(dtype))


def train(net, player, epochs=STEPS, **options):
    """The weights after each epoch, and the rates in it."""
    seen = []

    def look():
        rates = [float(group["lr"]) for group in player.optimizer.param_groups]
        seen.append((rates, [p.tolist() for p in net.parameters()]))

    fit(net, {"a": player}, batches(net.weight.dtype), epochs, on_epoch=look, progress=False, **options)
    return seen


def same_state(a, b):
    """Whether two states are the same to the bit, in the same types."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_state, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(("schedule", "optimizer"), PAIRS)
def test_what_a_player_holds_survives_a_checkpoint_to_the_bit(schedule, optimizer, tmp_path):
    groups = 2 if "group" in schedule else 1
    whole, halves = make(schedule, optimizer, groups), make(schedule, optimizer, groups, seed=1)
    seen = train(*whole)
    start = train(*make(schedule, optimizer, groups), epochs=2, checkpoint=tmp_path / "c")
    assert start + train(*halves, checkpoint=tmp_path / "c", resume=True) == seen
    assert same_state(whole[1].state_dict(), halves[1].state_dict())


@every_schedule
@pytest.mark.parametrize("groups", [1, 2])
def test_a_lowered_rate_is_half_of_all_that_the_schedule_sets(schedule, groups, tmp_path):
    """Exactly half: multiplying by 1/2 does not round."""
    plain, lowered = make(schedule, groups=groups), make(schedule, groups=groups)
    train(*lowered, epochs=2, checkpoint=tmp_path / "c")
    lowered[1].lower_rate(0.5)
    rest = train(*plain)[2:]
    seen = train(*make(schedule, groups=groups), epochs=2)
    _, again = lowered
    for _ in range(2, STEPS):
        seen.append(([float(group["lr"]) for group in again.optimizer.param_groups], None))
        again.step_schedule()
    assert [rates for rates, _ in seen[2:]] == [[0.5 * rate for rate in rates] for rates, _ in rest]


@every_schedule
def test_going_back_halves_the_rate_of_every_schedule(schedule, tmp_path):
    """One loss in the fourth epoch is NaN, once: what follows is played at half the rate, also after a resume."""
    plain = train(*make(schedule))

    def run(net, player, epochs, resume):
        fails, loss = iter([1.0] * 10 + [math.nan]), player.loss
        player.loss = lambda x: loss(x) * (1.0 if resume else next(fails, 1.0))
        return train(net, player, epochs, checkpoint=tmp_path / "c", retries=1, resume=resume)

    seen = run(*make(schedule), 4, False) + run(*make(schedule, seed=1), STEPS, True)
    assert [rates for rates, _ in seen[:3]] == [rates for rates, _ in plain[:3]]
    assert [rates for rates, _ in seen[3:]] == [[0.5 * rate for rate in rates] for rates, _ in plain[3:]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_what_an_optimizer_keeps_in_another_type_comes_back_in_it(dtype, tmp_path):
    class Precise(SGD):
        """Sums of squares in float64, and a count in NumPy, whatever the parameters are."""

        @torch.no_grad()
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                state = self.state[p]
                state["squares"] = state.get("squares", 0) + p.grad.double() ** 2
                state["count"] = state.get("count", np.int64(0)) + 1
                p -= (0.1 * p.grad / (state["squares"].sqrt() + 1)).to(p.dtype)

    def player(seed):
        net, objective = make(seed=seed, dtype=dtype)
        return net, Objective(objective.loss, Precise(net.parameters(), 0.1))

    seen = train(*player(0))
    start = train(*player(0), epochs=2, checkpoint=tmp_path / "c")
    assert start + train(*player(1), checkpoint=tmp_path / "c", resume=True) == seen


class Wanting(LRScheduler):
    """A schedule that is told the loss, and not so when it is made."""

    def get_lr(self):
        return [0.1]

    def step(self, loss, *, epoch=None):
        super().step()

    def _initial_step(self):
        pass


class Holding(LRScheduler):
    def __init__(self, optimizer, held):
        self.held = held
        super().__init__(optimizer)

    def get_lr(self):
        return [0.1]


def optimizer():
    return SGD(nn.Linear(2, 1).parameters(), 0.1)


def with_group(value):
    net = nn.Linear(2, 1)
    return SGD([{"params": net.parameters(), "extra": value}], 0.1)


@pytest.mark.parametrize(
    ("make_schedule", "words"),
    [
        (schedules.ReduceLROnPlateau, "ReduceLROnPlateau wants more at a step than fit gives"),
        (lambda o: Wanting(o), "Wanting wants more at a step than fit gives"),
        (lambda o: schedules.StepLR(optimizer(), 1), "StepLR is a schedule of another optimizer"),
        (lambda o: schedules.LambdaLR(optimizer(), lambda epoch: 1), "schedule of another optimizer"),
        (
            lambda o: (lambda p: schedules.ChainedScheduler([schedules.StepLR(p, 1), schedules.ExponentialLR(p, 0.9)]))(
                optimizer()
            ),
            "ChainedScheduler is a schedule of another optimizer",
        ),
        (
            lambda o: (lambda s: (s._schedulers.append(schedules.StepLR(optimizer(), 1)), s)[1])(
                schedules.ChainedScheduler([schedules.StepLR(o, 1)])
            ),
            "StepLR is a schedule of another optimizer",
        ),
        (
            lambda o: schedules.SequentialLR(
                o, [schedules.StepLR(o, 1), schedules.ChainedScheduler([schedules.StepLR(o, 1)])], [2]
            ),
            "SequentialLR cannot begin a ChainedScheduler at a milestone",
        ),
        (lambda o: 0.1, "the scheduler is a float"),
        (lambda o: o, "the scheduler is a SGD"),
        (lambda o: schedules.StepLR, "the scheduler is a type"),
        (lambda o: schedules.LambdaLR(o, math.sqrt), "functions made by def or lambda"),
        (lambda o: Holding(o, schedules.StepLR(o, 1)), r"\['held'\] is a StepLR, which a checkpoint cannot hold"),
        (lambda o: Holding(o, nn.Linear(1, 1)), r"\['held'\] is a Linear"),
        (lambda o: Holding(o, [1, deque([2])]), r"\['held'\]\[1\] is a deque"),
        (lambda o: Holding(o, {"a": np.ones(3)}), r"\['held'\]\['a'\] is a ndarray"),
        (lambda o: Holding(o, np.random.default_rng(0)), r"\['held'\] is a Generator"),
        (lambda o: Holding(o, [1, rising]), r"\['held'\]\[1\] is a function"),
    ],
)
def test_a_schedule_that_fit_cannot_step_or_keep_is_refused(make_schedule, words):
    o = optimizer()
    with pytest.raises(ValueError, match=words):
        Objective(lambda x: x, o, scheduler=make_schedule(o))


@pytest.mark.parametrize(
    "value", [rising, deque([1]), np.ones(2), nn.Linear(1, 1), object()], ids=lambda v: type(v).__name__
)
def test_an_optimizer_that_cannot_be_kept_is_refused(value):
    with pytest.raises(ValueError, match=r"group\['extra'\] is a .*, which a checkpoint cannot hold"):
        Objective(lambda x: x, with_group(value))


@pytest.mark.parametrize(
    "value", [np.float32(0.1), np.int64(3), np.bool_(True), [np.float64(1)], {"a": (np.int8(1),)}, {1}]
)
def test_numpys_numbers_become_pythons(value):
    held = Objective(lambda x: x, with_group(value)).optimizer.param_groups[0]["extra"]
    assert held == value
    assert not isinstance(held, np.generic)


@pytest.mark.parametrize(("name", "value"), [
    *(("every", value) for value in (0, -1, 1.5, 2.0, math.nan, "2", None, True)),
    *(("clip", value) for value in (0, 0.0, -1.0, math.nan, -math.inf, "1", True)),
])  # fmt: skip
def test_a_number_that_makes_no_sense_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*: it must be (a whole|positive)"):
        Objective(lambda x: x, optimizer(), **{name: value})


@pytest.mark.parametrize("every", [1, np.int64(2)])
@pytest.mark.parametrize("clip", [None, 1, 0.5, np.float32(1), math.inf])
def test_numbers_that_make_sense_are_taken(every, clip):
    net, player = make()
    fit(net, {"a": Objective(player.loss, player.optimizer, every, clip)}, batches(), 2, progress=False)
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(("loss", "chosen", "words"), [
    (3.0, SGD, "the loss is 3.0"),
    (lambda x: x, lambda parameters, rate: None, "the optimizer is None"),
    (lambda x: x, lambda parameters, rate: SGD, "the optimizer is <class"),
    (lambda x: x, lambda parameters, rate: SGD([{"params": []}], rate), "holds no parameter"),
])  # fmt: skip
def test_what_is_no_loss_and_no_optimizer_is_refused(loss, chosen, words):
    with pytest.raises(ValueError, match=words):
        Objective(loss, chosen(nn.Linear(2, 1).parameters(), 0.1))


def test_a_one_cycle_schedule_that_is_too_short_is_refused_before_training():
    net, player = make("one cycle")
    with pytest.raises(ValueError, match=rf"the schedule of 'a' has {STEPS} steps, .* total_steps={STEPS + 1}"):
        train(net, player, STEPS + 1)


@pytest.mark.parametrize("there", ["step", "sequence", "chain"])
def test_a_checkpoint_of_other_schedules_is_refused(there, tmp_path):
    train(*make(there), epochs=1, checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"another optimizer for 'a': SGD of 2 tensors with .* there"):
        train(*make("sequence of a chain"), checkpoint=tmp_path / "c", resume=True)


def test_an_objective_can_be_made_again_of_what_it_holds():
    _, player = make("lambda")
    again = Objective(player.loss, player.optimizer, scheduler=player.scheduler)
    assert same_state(deepcopy(again.state_dict()), player.state_dict())


@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop])
def test_a_player_whose_parameters_are_not_in_the_model_is_named(kind):
    net, outside = nn.Linear(3, 1), nn.Parameter(torch.zeros(2))
    copy = deepcopy(net)
    for moved in (copy.parameters(), [*net.parameters(), outside], [{"params": net.weight}, {"params": copy.bias}]):
        bad = Objective(lambda x: net(x).mean(), kind(moved, 0.1))
        good = Objective(lambda x: net(x).mean(), kind(net.parameters(), 0.1))
        with pytest.raises(ValueError, match=r"'bad' moves a parameter of shape .* not in the model"):
            fit(net, {"good": good, "bad": bad}, batches(), 1, progress=False)


def test_players_may_move_parts_frozen_parts_and_buffers():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    net[0].requires_grad_(False)
    net.register_buffer("scale", torch.ones(1, requires_grad=True))
    before = net[0].weight.clone()
    loss = lambda x: (net(x) * net.scale - 1).square().mean()  # noqa: E731
    fit(net, {"a": Objective(loss, SGD([*net.parameters(), net.scale], 0.1))}, batches(), 2, progress=False)
    assert torch.equal(net[0].weight, before)
    assert net.scale.item() != 1


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_the_recipe_is_adamw_whose_rate_falls_to_0():
    net = nn.Linear(2, 1)
    net.bias.requires_grad_(False)
    loss = lambda x, y: net(x).square().mean()  # noqa: E731
    player = adam(loss, net, 0.1, epochs=4, betas=(0.5, 0.9), weight_decay=0.2, clip=3.0, every=2)
    assert player.parameters() == [net.weight]
    assert (player.clip, player.every) == (3.0, 2)
    (group,) = player.optimizer.param_groups
    assert (type(player.optimizer), group["betas"], group["weight_decay"]) == (AdamW, (0.5, 0.9), 0.2)
    rates = []
    for _ in range(4):
        rates += player.rates()
        player.turn((torch.ones(3, 2), None))
        player.step_schedule()
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 4)) for k in range(4)])
    assert player.rates() == pytest.approx([0], abs=1e-9)


def test_without_epochs_it_is_plain_adam():
    nets = [nn.Linear(2, 1) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    losses = [lambda x, y, net=net: net(x).square().mean() for net in nets]
    players = [adam(losses[0], nets[0], 0.1), Objective(losses[1], Adam(nets[1].parameters(), 0.1, fused=True))]
    for player in players:
        for _ in range(5):
            player.turn((torch.ones(3, 2), None))
    assert torch.equal(nets[0].weight, nets[1].weight)


def test_a_network_without_anything_to_train_is_refused():
    with pytest.raises(ValueError, match="the Linear has no parameter that may move"):
        adam(lambda x, y: x.sum(), nn.Linear(2, 1).requires_grad_(False), 0.1)
