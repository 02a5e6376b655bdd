"""What two processes do when they are not given the same: test_runtime.py runs this under torchrun, case after case.

Each case trains; what came of it, a record or an error, is kept by name. A case that left the group out of step would
spoil or hang the next ones.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD
from torch.utils.data import BatchSampler, DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from dgm_lib import runtime
from dgm_lib.samplers import ChainError
from dgm_lib.train import EarlyStopping, Objective, fit

RANK, _ = runtime.start_processes()
FOLDER = Path(sys.argv[1])


class StrangeError(Exception):
    """One that cannot be made again from its words."""

    def __init__(self, a: int, b: int):
        super().__init__(f"{a} and {b}")


def raising(error: Exception, rank: int = 1, call: int = 1):
    """A function that raises in its call of this number, in one process only."""
    calls = []

    def act(*_):
        calls.append(1)
        if rank == RANK and len(calls) == call:
            raise error

    return act


def play(
    n=3,
    *,
    dtype=torch.float32,
    epochs=2,
    act=None,
    width=1,
    rate=0.1,
    names=("a",),
    every=(1, 1),
    frozen=False,
    clip=None,
    **options,
):
    """n batches, or one number a process; what each player's loss is disturbed by; returns the record."""
    net = nn.Linear(width, 1).to(dtype)
    net.bias.requires_grad_(not frozen)
    loss = lambda x: (act(x) if act else None, net(x).square().mean())[1]  # noqa: E731
    players = {name: Objective(loss, SGD(net.parameters(), rate), every=k, clip=clip) for name, k in zip(names, every)}
    batches = options.pop("batches", None) or [torch.ones(4, width)] * (n[RANK] if isinstance(n, tuple) else n)
    history = fit(net, players, batches, epochs, progress=False, **options)
    return {"values": history.values, "restarts": history.restarts, "w": net.weight.tolist()}


def interrupted_batches(call):
    fails = raising(OSError("disk gone"), call=call)
    for _ in range(6):
        fails()
        yield torch.ones(4, 1)


class FailingSGD(SGD):
    fails = staticmethod(raising(ZeroDivisionError("step"), call=3))

    def step(self, closure=None):
        self.fails()
        return super().step(closure)


def failing_optimizer():
    net = nn.Linear(1, 1)
    players = {name: Objective(lambda x: net(x).square().mean(), FailingSGD(net.parameters(), 0.1)) for name in "ab"}
    return fit(net, players, [torch.ones(4, 1)] * 6, 2, progress=False).values


def thawed_in_one():
    net = nn.Linear(1, 1)
    objective = Objective(lambda x: net(x).square().mean(), SGD(net.parameters(), 0.1))
    freeze = lambda: {} if RANK else (net.bias.requires_grad_(False), {})[1]  # noqa: E731
    return fit(net, {"a": objective}, [torch.ones(4, 1)] * 3, 3, on_epoch=freeze, progress=False).values


def float64_in_one():
    net, kind = nn.Linear(1, 1), torch.float64 if RANK else torch.float32
    objective = Objective(lambda x: net(x).square().mean().to(kind), SGD(net.parameters(), 0.1))
    return fit(net, {"a": objective}, [torch.ones(4, 1)] * 3, 2, progress=False).values


def sampled(wrap):
    """The examples that each process sees in each of two epochs, by a DistributedSampler that shuffles."""
    data = TensorDataset(torch.arange(8.0)[:, None])
    sampler, seen = DistributedSampler(data, seed=3), []
    loader = DataLoader(data, **wrap(sampler))
    play(batches=loader, act=lambda x: seen.append(x.flatten().tolist()))
    both = runtime.gather([seen[0] + seen[1], seen[2] + seen[3]])
    return [sorted(both[0][epoch] + both[1][epoch]) for epoch in range(2)] + [both[0][0] != both[0][1]]


diverging = {"retries": 2, "checkpoint": FOLDER / "chains.ckpt"}
CASES = {
    "all alike": lambda: play(),
    "quantity of one": lambda: play(on_epoch=lambda: None if RANK else {"q": 1.5}),
    "other quantities": lambda: play(on_epoch=lambda: {"q": 1.0, "r": 2.0} if RANK else {"r": 4.0, "s": 5.0}),
    "on_epoch in one": lambda: play(on_epoch=(lambda: {"q": 2.0}) if RANK else None),
    **{
        f"batches {n}": lambda n=n: play(n)
        for n in [(4, 5), (5, 4), (1, 2), (3, 40), (70, 3), (19, 20), (20, 21), (0, 3), (3, 0)]
    },
    "batches of rare players": lambda: play((4, 5), names="ab", every=(3, 7)),
    "batches of two players": lambda: play((30, 45), names="ab", every=(1, 2)),
    "no turn after the end": lambda: play((3, 4), every=(3, 1)),
    **{
        f"loss raises in call {call}": lambda call=call: play(6, act=raising(ZeroDivisionError("oh"), call=call))
        for call in (1, 3, 6, 7, 12)
    },
    "loss raises with two players": lambda: play(40, names="ab", act=raising(ValueError("bad x"), rank=0, call=2)),
    "both raise": lambda: play(3, act=(raising(ValueError("one"), 0), raising(TypeError("two"), 1))[RANK]),
    "strange error": lambda: play(act=raising(StrangeError(1, 2))),
    "batches raise": lambda: play(batches=interrupted_batches(3)),
    "on_epoch raises": lambda: play(on_epoch=raising(KeyError("lost"), rank=0, call=2)),
    "on_epoch returns no dict": lambda: play(on_epoch=lambda: 3 if RANK else {"q": 1.0}),
    "optimizer raises": failing_optimizer,
    "frozen in one after an epoch": thawed_in_one,
    "float64 in one": float64_in_one,
    "epochs": lambda: play(epochs=2 + RANK),
    "retries": lambda: play(retries=RANK, checkpoint=FOLDER / "r"),
    "checkpoint in one": lambda: play(checkpoint=FOLDER / "one" if RANK else None),
    "checkpoint is a folder": lambda: play(checkpoint=FOLDER),
    "resume in one": lambda: [play(checkpoint=FOLDER / "r2", resume=bool(k and RANK)) for k in range(2)],
    "resume of both": lambda: [play(checkpoint=FOLDER / "r3", epochs=k, resume=k > 1) for k in (1, 2)][1],
    "stop": lambda: play(stop=EarlyStopping("a", 1 + RANK)),
    "names": lambda: play(names=("a" if RANK else "b",)),
    "order": lambda: play(names=("ab", "ba")[RANK]),
    "number of players": lambda: play(names=("ab", "a")[RANK]),
    "every": lambda: play(every=(1 + RANK, 1)),
    "rate": lambda: play(rate=0.1 + RANK),
    "clip": lambda: play(clip=1.0 if RANK else None),
    "width": lambda: play(width=1 + RANK),
    "type": lambda: play(dtype=(torch.float32, torch.float64)[RANK]),
    "frozen in one": lambda: play(frozen=bool(RANK)),
    "wrong in one": lambda: play(epochs=-1 if RANK else 2),
    "nan in one": lambda: play(act=lambda x: x.mul_(math.nan) if RANK else None),
    "chain diverges in one": lambda: play(30, act=raising(ChainError("chain 3 is nan"), call=25)),
    "chain diverges in one, retried": lambda: play(30, act=raising(ChainError("chain 3"), call=25), **diverging),
    "sampler": lambda: sampled(lambda s: {"sampler": s, "batch_size": 2}),
    "batch sampler": lambda: sampled(lambda s: {"batch_sampler": BatchSampler(s, 2, drop_last=False)}),
    "all alike again": lambda: play(),
}


def averaged_by_hand():
    """What `average_gradients` does in a loop of one's own: the mean, where one process lacks the gradient."""
    a, b = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    ((a.sum() * (RANK + 1)) if RANK else (a + 3 * b).sum()).backward()
    runtime.average_gradients([a, b])
    return [a.grad.tolist(), b.grad.tolist()]


CASES["by hand"] = averaged_by_hand
outcomes = {}
for name, case in CASES.items():
    torch.manual_seed(0)
    try:
        outcomes[name] = case()
    except Exception as error:
        outcomes[name] = f"{type(error).__name__}: {error}"
(FOLDER / f"{RANK}.json").write_text(json.dumps(outcomes))
