"""Devices, seeds, and two processes that must end with the same weights."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
from conftest import ROOT

from dgm_lib import runtime


def pretend(monkeypatch, *kinds, gpus=1):
    monkeypatch.delenv("DGM_DEVICE", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)


@pytest.mark.parametrize(
    ("kinds", "chosen"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda:0"), (("cuda", "mps"), "cuda:0")]
)
def test_the_fastest_device_that_is_there(monkeypatch, kinds, chosen):
    pretend(monkeypatch, *kinds)
    assert runtime.device() == torch.device(chosen)


def test_the_environment_overrides_and_an_argument_overrides_it(monkeypatch):
    pretend(monkeypatch, "cuda", "mps", gpus=4)
    monkeypatch.setenv("DGM_DEVICE", "cuda:3")
    assert runtime.device() == torch.device("cuda:3")
    assert runtime.device("cpu") == torch.device("cpu")
    assert runtime.device(torch.device("cpu")) == torch.device("cpu")


def test_each_process_takes_its_own_gpu(monkeypatch):
    pretend(monkeypatch, "cuda", gpus=2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runtime.device() == torch.device("cuda:1")


def test_on_the_cpu_a_notebook_begins_without_a_default_device(monkeypatch):
    pretend(monkeypatch)
    assert runtime.begin(5) == torch.device("cpu")
    drawn = torch.rand(3)
    runtime.seed_everything(5)
    assert torch.equal(torch.rand(3), drawn)
    with runtime.on_cpu():
        assert torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize("choice", ["cuda", "mps", "tpu", "cpu:7", "cuda:x"])
def test_a_device_that_is_not_there_is_an_error_that_lists_what_is(monkeypatch, choice):
    pretend(monkeypatch)
    monkeypatch.setenv("DGM_DEVICE", choice)
    with pytest.raises(ValueError, match=f"DGM_DEVICE is '{choice}', but here there is only: cpu"):
        runtime.device()
    with pytest.raises(ValueError, match="the device asked for is 'gpu'"):
        runtime.device("gpu")
    for choice in (0, torch.device("meta"), "cuda:x"):
        with pytest.raises(ValueError, match="here there is only"):
            runtime.device(choice)


def test_near_seeds_give_unrelated_streams():
    seeds = {runtime.derive_seed(seed, epoch, rank) for seed in range(9) for epoch in range(9) for rank in range(9)}
    assert len(seeds) == 9**3
    assert runtime.derive_seed(1, 2) != runtime.derive_seed(2, 1)
    assert runtime.derive_seed(0, 0, 0) == 6375474604893067239  # the same on every machine


def test_autocast_is_bfloat16_where_the_device_has_it(monkeypatch):
    cpu = torch.device("cpu")
    product = lambda: (torch.ones(4, 4) @ torch.ones(4, 4)).dtype  # noqa: E731
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(runtime, "has_native_bf16", lambda where, native=native: native)
        with runtime.autocast(cpu):
            assert product() == dtype
        with runtime.autocast(cpu, enabled=False):
            assert product() == torch.float32


def test_alone_nothing_is_started_and_means_are_the_values_themselves():
    assert runtime.start_processes() == (0, 1)
    assert runtime.mean_values({"a": 1.5}) == {"a": 1.5}
    x = torch.tensor([1.0])
    assert runtime.mean_over_processes(x) is x
    runtime.stop_processes()


TRAINING = """
    import sys
    from pathlib import Path
    import torch
    from torch import nn
    from dgm_lib import runtime
    from dgm_lib.datasets import Split
    from dgm_lib.nets import MLP
    from dgm_lib.train import Objective, averaged, fit

    rank, n = runtime.start_processes()
    path = Path(sys.argv[1])

    def shared():
        torch.manual_seed(rank)                               # other initial weights in each process
        model = MLP(2, 8, 1)
        torch.manual_seed(7)
        data = Split(torch.randn(64, 2), torch.arange(64))
        seen = []
        def loss(x, y):
            seen.extend(y.tolist())
            return (model(x)[:, 0] - x.sum(1)).square().mean()
        objective = Objective(loss, torch.optim.SGD(model.parameters(), 0.05))
        history = fit(model, {"error": objective}, data.batches(8, shuffle=False), 3, on_epoch=lambda: {"rank": rank})
        return {"weights": model.state_dict(), "seen": seen, "history": history.values, "n": n}

    class Chain(nn.Module):
        '''A state of its own in each process, and a parameter that only process 0 uses.'''
        def __init__(self):
            super().__init__()
            self.w, self.v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(()))
            self.register_buffer("chain", torch.zeros(2))
        def loss(self, x, y):
            self.chain.add_(torch.randn(2))
            loss = (self.w * self.chain).mean() + (self.w - x).square().mean()
            return loss + self.v if runtime.rank() == 0 else loss

    def chains(epochs, **options):
        model = Chain()
        ema = averaged(model)
        objective = Objective(model.loss, torch.optim.SGD(model.parameters(), 0.05))
        batches = Split(torch.ones(16, 2), torch.arange(16)).batches(4)
        fit(model, {"l": objective}, batches, epochs, ema=ema, **options)
        return {"model": model.state_dict(), "ema": ema.state_dict()}

    result = {"shared": shared(), "unbroken": chains(3)}
    chains(1, checkpoint=path / "run.ckpt")
    result["resumed"] = chains(3, checkpoint=path / "run.ckpt", resume=True)
    torch.save(result, path / f"{rank}.pt")
    runtime.stop_processes()
"""


def skip_on_windows():
    if sys.platform == "win32":
        pytest.skip("the store of a group needs libuv, which torch for Windows lacks")


def torchrun(script, folder, seconds=300):
    """Runs a script in two processes, which get the folder; returns what they said. A group can hang."""
    skip_on_windows()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DGM_DEVICE": "cpu"}
    return subprocess.run(
        [*command, str(folder)], env=environment, capture_output=True, text=True, timeout=seconds, cwd=folder
    )


def by_hand(code, folder, seconds=120):
    """Runs code in two processes, in the environment that torchrun makes; their exit codes and what they said."""
    skip_on_windows()
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environment = os.environ | group | {"OMP_NUM_THREADS": "1", "DGM_DEVICE": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": folder}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)], env=environment | {"RANK": rank, "LOCAL_RANK": rank}, **pipes
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=seconds)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], said


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes saved at the end of TRAINING."""
    folder = tmp_path_factory.mktemp("processes")
    codes, said = by_hand(TRAINING, folder)
    assert codes == [0, 0], said
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_resume_each_with_its_own_buffers_and_share_a_gradient_that_one_lacks(two_processes):
    """Each has its chain, process 0 alone uses v: its gradient, 1 there and none here, is 1/2 in the mean."""
    for result in two_processes:
        for part in ("model", "ema"):
            for name, value in result["unbroken"][part].items():
                assert torch.equal(value, result["resumed"][part][name]), name
        assert result["unbroken"]["model"]["v"].item() == pytest.approx(1 - 6 * 0.05 / 2)
    first, second = (result["unbroken"]["model"]["chain"] for result in two_processes)
    assert not torch.equal(first, second)


def test_two_processes_share_the_data_and_end_with_the_same_weights_bit_for_bit(two_processes):
    first, second = (result["shared"] for result in two_processes)
    assert first["n"] == second["n"] == 2
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name])
    assert sorted(first["seen"][:32] + second["seen"][:32]) == list(range(64))  # every example once an epoch
    assert first["history"] == second["history"]
    assert first["history"]["rank"] == [0.5] * 3  # quantities are averaged: all processes decide alike


def test_averaged_gradients_are_the_gradients_of_the_joint_batch(two_processes):
    """Two processes with batches of 8 take the steps of one process with batches of 16."""
    from dgm_lib.datasets import Split
    from dgm_lib.nets import MLP

    two = two_processes[0]["shared"]["weights"]
    torch.manual_seed(0)  # the weights of process 0 are broadcast
    model = MLP(2, 8, 1)
    torch.manual_seed(7)
    data = Split(torch.randn(64, 2), torch.arange(64))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(3):
        for x, _y in data.batches(16, shuffle=False):
            optimizer.zero_grad()
            (model(x)[:, 0] - x.sum(1)).square().mean().backward()
            optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, two[name], rtol=1e-5, atol=1e-6)


# ---- two processes that are not given the same ---------------------------------------------------------------------

BATCHES = "the number of batches in epoch 1 .* is {} in process 0 and {} in process 1"
# What each case of two_processes.py ends with, in both processes; None: a record.
ENDS = {
    "all alike": None,
    "quantity of one": None,
    "other quantities": None,
    "on_epoch in one": None,
    "batches (4, 5)": BATCHES.format(4, 5),
    "batches (5, 4)": BATCHES.format(5, 4),
    "batches (1, 2)": BATCHES.format(1, 2),
    "batches (3, 40)": BATCHES.format(3, "more"),
    "batches (70, 3)": BATCHES.format("more", 3),
    "batches (19, 20)": BATCHES.format(19, "(20|more)"),
    "batches (20, 21)": BATCHES.format(20, 21),
    "batches (0, 3)": "epoch 1 had no batch",
    "batches (3, 0)": "epoch 1 had no batch",
    "batches of rare players": BATCHES.format(4, 5),
    "batches of two players": BATCHES.format(30, "more"),
    "no turn after the end": BATCHES.format(3, 4),
    **{f"loss raises in call {call}": "ZeroDivisionError: oh$" for call in (1, 3, 6, 7, 12)},
    "loss raises with two players": "ValueError: bad x$",
    "both raise": "ValueError: one$",
    "strange error": "RuntimeError: StrangeError: 1 and 2$",
    "batches raise": "OSError: disk gone$",
    "on_epoch raises": "KeyError: 'lost'$",
    "on_epoch returns no dict": "on_epoch returned a int",
    "optimizer raises": "ZeroDivisionError: step$",
    "frozen in one after an epoch": "the player 'a' is .*1, 1.* in process",
    "float64 in one": None,
    "epochs": "epochs is 2 in process 0 and 3 in process 1",
    "retries": "retries is 0 in process 0 and 1 in process 1",
    "checkpoint in one": "the checkpoint is None in process 0 and .*one in process 1",
    "checkpoint is a folder": "CheckpointError: the checkpoint .* is a folder",
    "resume in one": "the file to resume from is there is False in process 0 and True in process 1",
    "resume of both": None,
    "stop": "stop is .*patience=1.* in process 0 and .*patience=2.* in process 1",
    "names": "objectives is .*b.* in process 0 and .*a.* in process 1",
    "order": "objectives is .*a.*b.* in process 0 and .*b.*a.* in process 1",
    "number of players": "objectives is .*a.*b.* in process 0 and .*a.* in process 1",
    "every": "every=1.* in process 0 and .*every=2.* in process 1",
    "rate": r"rates \[0.1\].* in process 0 and .*rates \[1.1\].* in process 1",
    "clip": "clip=None in process 0 and .*clip=1.0 in process 1",
    "width": r"weight of the model is \(1, 1\).* in process 0 and \(1, 2\).* in process 1",
    "type": "weight of the model is .*float32 in process 0 and .*float64 in process 1",
    "frozen in one": r"\[1, 1\] numbers.* in process 0 and .*\[1\] numbers.* in process 1",
    "wrong in one": "ValueError: epochs is -1",
    "nan in one": "DivergenceError: the loss 'a' became nan at step 1",
    "chain diverges in one": "DivergenceError: a chain in the loss 'a' diverged at step 25 .*: chain 3 is nan",
    "chain diverges in one, retried": None,
    "sampler": None,
    "batch sampler": None,
    "all alike again": None,
    "by hand": None,
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of each case in each of the two processes."""
    folder = tmp_path_factory.mktemp("cases")
    done = torchrun(ROOT / "tests" / "two_processes.py", folder)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_every_case_was_run(outcomes):
    assert list(outcomes[0]) == list(outcomes[1]) == list(ENDS)


@pytest.mark.parametrize("case", ENDS)
def test_two_processes_end_alike_whatever_differs_between_them(outcomes, case):
    first, second = (outcome[case] for outcome in outcomes)
    assert str(first) == str(second)
    assert isinstance(first, str) == (ENDS[case] is not None), first
    if ENDS[case] is not None:
        assert re.search(ENDS[case], first), first


def test_a_quantity_is_the_mean_over_the_processes_that_have_it(outcomes):
    of_one, others = (outcomes[0][case]["values"] for case in ("quantity of one", "other quantities"))
    assert of_one["q"] == [1.5, 1.5]
    assert [others[name] for name in "rsq"] == [[3.0, 3.0], [5.0, 5.0], [1.0, 1.0]]  # r: of both, 4 and 2


def test_gradients_are_averaged_in_a_loop_of_ones_own(outcomes):
    assert outcomes[1]["by hand"] == [[1.5, 1.5], [1.5, 1.5]]  # of 1 and 2; of 3 and none


def test_a_chain_that_diverges_in_one_process_is_retried_in_both(outcomes):
    assert outcomes[0]["chain diverges in one, retried"]["restarts"] == 1


@pytest.mark.parametrize("case", ["sampler", "batch sampler"])
def test_a_sampler_of_a_loader_is_told_the_epoch(outcomes, case):
    *epochs, other_order = outcomes[0][case]
    assert epochs == [list(range(8))] * 2  # each example once an epoch, over both processes
    assert other_order


LEFT = """
    import atexit, sys, torch
    from pathlib import Path
    from torch import distributed
    from dgm_lib import runtime

    def threads():
        names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
        print("THREADS", [name for name in names if "gloo" in name or "tcpstore" in name], flush=True)

    atexit.register(threads)  # what is registered first is called last
    rank, _ = runtime.start_processes()
    torch.optim.SGD([torch.ones(1, requires_grad=True)], 0.1).zero_grad()
    for _ in range(20):
        distributed.all_reduce(torch.ones(100_000))
    threads()
    print("DONE", flush=True)
    distributed.barrier()
    {end}
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise ValueError", 1)])
def test_a_process_leaves_its_group_however_it_ends(tmp_path, end, code):
    """A thread of the group that outlives the interpreter may abort the process, now and then: exit code −6."""
    codes, said = by_hand(LEFT.format(end=end), tmp_path)
    assert codes == [code, code], said
    assert all("DONE" in text for text in said)
    if sys.platform == "linux":
        for text in said:
            before, after = re.findall(r"THREADS (.*)", text)
            assert "gloo_tcp_loop" in before
            assert after == "[]"
