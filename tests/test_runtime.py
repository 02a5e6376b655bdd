"""Devices, seeds, and two processes that must end with the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch

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


def test_each_process_takes_its_own_gpu(monkeypatch):
    pretend(monkeypatch, "cuda", gpus=2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runtime.device() == torch.device("cuda:1")


@pytest.mark.parametrize("choice", ["cuda", "mps", "tpu", "cpu:7", "cuda:x"])
def test_a_device_that_is_not_there_is_an_error_that_lists_what_is(monkeypatch, choice):
    pretend(monkeypatch)
    monkeypatch.setenv("DGM_DEVICE", choice)
    with pytest.raises(ValueError, match=f"DGM_DEVICE is '{choice}', but here there is only: cpu"):
        runtime.device()
    with pytest.raises(ValueError, match="the device asked for is 'gpu'"):
        runtime.device("gpu")


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
    import sys, torch
    from dgm_lib import runtime
    from dgm_lib.datasets import Split
    from dgm_lib.nets import MLP
    from dgm_lib.train import Objective, fit

    rank, n = runtime.start_processes()
    torch.manual_seed(rank)                                   # other initial weights in each process
    model = MLP(2, 8, 1)
    torch.manual_seed(7)
    data = Split(torch.randn(64, 2), torch.arange(64))
    seen = []
    def loss(x, y):
        seen.extend(y.tolist())
        return (model(x)[:, 0] - x.sum(1)).square().mean()
    objective = Objective(loss, torch.optim.SGD(model.parameters(), 0.05))
    history = fit(model, {"error": objective}, data.batches(8, shuffle=False), 3, on_epoch=lambda: {"rank": rank})
    result = {"weights": model.state_dict(), "seen": seen, "history": history.values, "n": n}
    torch.save(result, sys.argv[1] + f"/{rank}.pt")
    runtime.stop_processes()
"""


RESUME = """
    import sys
    from pathlib import Path
    import torch
    from torch import nn
    from dgm_lib import runtime
    from dgm_lib.datasets import Split
    from dgm_lib.train import Objective, averaged, fit

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

    rank, _ = runtime.start_processes()
    def train(epochs, **options):
        model = Chain()
        ema = averaged(model)
        objective = Objective(model.loss, torch.optim.SGD(model.parameters(), 0.05))
        batches = Split(torch.ones(16, 2), torch.arange(16)).batches(4)
        fit(model, {"l": objective}, batches, epochs, ema=ema, **options)
        return {"model": model.state_dict(), "ema": ema.state_dict()}

    path = Path(sys.argv[1]) / "run.ckpt"
    result = {"unbroken": train(3)}
    train(1, checkpoint=path)
    result["resumed"] = train(3, checkpoint=path, resume=True)
    torch.save(result, sys.argv[1] + f"/{rank}.pt")
    runtime.stop_processes()
"""


def run_twice(code, folder):
    """What each of two processes saved at the end of this code."""
    if sys.platform == "win32":
        pytest.skip("torchrun's store needs libuv, which torch for Windows lacks")
    script = folder / "training.py"
    script.write_text(textwrap.dedent(code))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DGM_DEVICE": "cpu"}
    command += [str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)  # a group can hang
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return run_twice(TRAINING, tmp_path_factory.mktemp("processes"))


def test_two_processes_resume_each_with_its_own_buffers_and_share_a_gradient_that_one_lacks(tmp_path):
    """Each has its chain, process 0 alone uses v: its gradient, 1 there and none here, is 1/2 in the mean."""
    first, second = run_twice(RESUME, tmp_path)
    for result in (first, second):
        for part in ("model", "ema"):
            for name, value in result["unbroken"][part].items():
                assert torch.equal(value, result["resumed"][part][name]), name
        assert result["unbroken"]["model"]["v"].item() == pytest.approx(1 - 6 * 0.05 / 2)
    assert not torch.equal(first["unbroken"]["model"]["chain"], second["unbroken"]["model"]["chain"])


def test_two_processes_share_the_data_and_end_with_the_same_weights_bit_for_bit(two_processes):
    first, second = two_processes
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

    two = two_processes[0]["weights"]
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
