"""Every family on a second device, which refuses tensors of another one and counts how often it is asked.

`test_strict_device.py` runs these in a process of their own: torch takes a device only before the first gradient.
"""

from __future__ import annotations

import pytest
import strict_device
import torch
from families import FAMILIES, build
from test_devices import MEASURES, TRACE, X, Y

from benchmarks.device_reads import asked_by
from dgm_lib import datasets, plots, runtime
from dgm_lib.models.energy import EnergyModel
from dgm_lib.nets import MLP
from dgm_lib.objective import adam
from dgm_lib.train import DivergenceError, averaged, fit

every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture
def there():
    """Inside a test, what is made without a device lies on the strict one."""
    torch.set_default_device("strict")
    yield
    torch.set_default_device(None)


def trained(name):
    family = build(name)
    average = averaged(family.model, 0.9)
    fit(family.model, family.objectives, family.split.batches(32), 3, ema=average)
    return {key: value.cpu() for key, value in average.state_dict().items()}


def test_it_refuses_tensors_of_both_devices(there):
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3) + torch.ones(3, device="cpu")
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=torch.Generator(device="cpu"))


def test_a_notebook_begins_there(monkeypatch):
    monkeypatch.setenv("DGM_DEVICE", "strict")
    try:
        assert "strict" in runtime.available_devices()
        assert runtime.begin(3).type == "strict"
        drawn = torch.rand(2)
        assert drawn.device.type == "strict"
        monkeypatch.setenv("DGM_DEVICE", "cpu")
        assert runtime.begin(3).type == "cpu"
        assert torch.equal(torch.rand(2), drawn.cpu())
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("name", ["two_moons", "digits", "glyphs", "patches", "words"])
def test_a_data_set_lies_there_and_is_the_same(there, name):
    options = {"n": 200} if name in ("glyphs", "patches") else {}
    found = datasets.load(name, **options)
    x, y = next(iter(found.train.batches(16, seed=1)))
    assert x.device.type == y.device.type == found.train.take(found.train.y.cpu() >= 0).x.device.type == "strict"
    torch.set_default_device(None)
    expected, _ = next(iter(datasets.load(name, **options).train.batches(16, seed=1)))
    assert torch.equal(x.cpu(), expected)


def test_fresh_points_and_glyphs_lie_there(there):
    moons = datasets.load("two_moons", n=100)
    assert moons.log_prob(moons.sample(7)).device.type == "strict"
    assert datasets.glyphs.render({"class": 3}).device.type == "strict"


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # NumPy says so to matplotlib, of tensors on the CPU as well
def test_tensors_are_drawn_from_there_and_with_gradients(there):
    x = torch.linspace(0, 1, 5, requires_grad=True)
    fig, ax = plots.plt.subplots()
    (line,) = ax.plot(x, x.square(), label="a curve")
    ax.bar([0, 1], [x[1], x[2]])
    ax.fill_between(x, 0 * x, x)
    ax.hist(x, bins=5)
    assert line.get_ydata()[-1] == 1
    plots.plt.close(fig)


def test_a_chain_that_diverges_there_is_a_divergence(there):
    """Its check waits for the next look at the losses."""
    model = EnergyModel(MLP(2, 8, 1), (2,), n_chains=8, steps=2, step_size=1e30)
    batches = datasets.load("two_moons", n=100).train.batches(10)
    with pytest.raises(DivergenceError, match=r"a chain in a loss diverged at step .* or before: .*coordinate"):
        fit(model, {"contrast": adam(model.loss, model, 1e-3)}, batches, 1)


@every_family
def test_a_family_trains_there_as_it_does_on_the_cpu(there, name):
    found = trained(name)
    torch.set_default_device(None)
    expected = trained(name)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


@every_family
def test_a_step_asks_the_device_for_no_number(there, name):
    """Each such question makes a GPU wait. Losses and checks are looked at together, every few steps."""
    assert asked_by(name, strict_device.n_reads) == 0


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_measure_there_is_that_on_the_cpu(there, measure):
    found = measure(*(part.to("strict") for part in (X, Y, TRACE)))
    torch.set_default_device(None)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(measure(X, Y, TRACE)))
