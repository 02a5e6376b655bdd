"""Figures: what a row says, that results.json loses nothing, that README.md shows it, that peers do the same job."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.neural_network import BernoulliRBM
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.optim import SGD

from benchmarks import __main__ as benchmarks
from benchmarks import (
    fit_speed,
    gan_figures,
    gan_speed,
    harness,
    langevin_speed,
    nbval_flakes,
    notebook_seconds,
    odd_inputs,
    rbm_accuracy,
    rbm_speed,
    two_processes,
)
from benchmarks.harness import MARKERS, Figure, Measurement
from dgm_lib import datasets
from dgm_lib.datasets.published import DataError
from dgm_lib.measures.ruler import between
from dgm_lib.models.energy import EnergyModel
from dgm_lib.models.rbm import RBM, BinaryUnits
from dgm_lib.train import Objective, fit

KEYS = {"id", "value", "unit", "goal", "holds", "spread", "seeds", "command", "device", "torch", "date"}
SPEED = Figure("speed", "how fast", "≥ 2", "×", lambda runs: Measurement([3.0, 1.0, 2.0][:runs], range(runs)), runs=3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty place for results.json and README.md, and one figure that takes no time."""
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(harness, "README", tmp_path / "README.md")
    harness.README.write_text("head\n" + "\n".join(harness.MARKERS) + "\ntail\n", encoding="utf-8")
    monkeypatch.setattr(benchmarks, "FIGURES", (SPEED,))
    monkeypatch.setattr(benchmarks, "BY_ID", {"speed": SPEED})
    return tmp_path


# ---- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goal", "value", "holds"),
    [("≥ 0.95", 0.95, True), ("≥ 0.95", 0.9499, False), ("≤ 300", 300, True), ("≤ 300", 301, False), ("≤ 0", 0, True)],
)
def test_a_goal_is_a_bound_that_may_be_met_exactly(goal, value, holds):
    assert harness.reaches(goal, value) is holds


def test_a_goal_in_words_needs_a_verdict():
    with pytest.raises(ValueError, match="'equal weights' is not a bound"):
        harness.reaches("equal weights", 1.0)
    figure = Figure("pair", "two", "equal weights", "×", lambda runs: Measurement([1.0]))
    assert harness.as_row(figure, Measurement([1.0], holds=False), "")["holds"] is False


def test_a_row_holds_the_median_its_spread_and_where_it_was_measured():
    row = harness.as_row(SPEED, SPEED.measure(3), "command")
    assert row.keys() >= KEYS
    assert (row["value"], row["spread"], row["holds"], row["seeds"]) == (2.0, [1.0, 3.0], True, [0, 1, 2])
    assert re.fullmatch(r"\d+ CPU cores \(\w+, \w+\)", row["device"])


def test_a_verdict_is_made_before_the_value_is_rounded():
    nearly = harness.as_row(SPEED, Measurement([1.99999]), "")
    assert (nearly["value"], nearly["holds"]) == (2.0, False)


# ---- results.json and README.md ------------------------------------------------------------------------------------


def test_measuring_again_replaces_the_row_and_keeps_the_others(folder):
    other = {**harness.as_row(SPEED, SPEED.measure(3), ""), "id": "another"}
    harness.store(other)
    assert benchmarks.main(["speed"]) == 0
    assert benchmarks.main(["speed", "--runs", "2"]) == 0
    rows = harness.read_rows()
    assert [row["id"] for row in rows] == ["another", "speed"]
    assert rows[0] == other
    assert (rows[1]["runs"], rows[1]["command"]) == (2, "python run.py bench speed --runs 2")


def test_the_readme_follows_results_json(folder):
    benchmarks.main(["speed"])
    text = harness.README.read_text(encoding="utf-8")
    assert text.startswith("head\n")
    assert text.endswith("\ntail\n")
    assert "| `speed` | how fast | ≥ 2 | 2 × | 1–3 in 3 runs | yes |" in text
    benchmarks.main(["--table"])
    assert harness.README.read_text(encoding="utf-8") == text


def test_a_trial_stores_nothing(folder, capsys):
    assert benchmarks.main(["speed", "--trial"]) == 0
    assert "2 ×, holds" in capsys.readouterr().out
    assert not harness.RESULTS.exists()


def test_a_failed_write_leaves_the_old_file(folder, monkeypatch):
    harness.store({"id": "old"})
    monkeypatch.setattr(harness.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        harness.store({"id": "new"})
    assert harness.read_rows() == [{"id": "old"}]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "results.json"]


def test_a_missed_goal_is_an_exit_status(folder):
    assert benchmarks.main(["speed"]) == 0
    missed = Figure("speed", "how fast", "≥ 4", "×", SPEED.measure)
    benchmarks.BY_ID["speed"] = missed
    assert benchmarks.main(["speed"]) == 1
    assert harness.read_rows()[0]["holds"] is False


def test_without_ids_every_figure_is_listed(folder, capsys):
    assert benchmarks.main([]) == 0
    assert re.match(r"speed +≥ 2 +not measured yet", capsys.readouterr().out)


def test_an_unknown_id_is_one_sentence(folder, capsys):
    with pytest.raises(SystemExit):
        benchmarks.main(["sped"])
    assert "there is no figure 'sped'; there are: speed, or: all" in capsys.readouterr().err


def test_the_committed_readme_shows_the_committed_results():
    text = harness.README.read_text(encoding="utf-8")
    assert between(text, MARKERS, harness.table(benchmarks.FIGURES, harness.read_rows())) == text


def test_the_committed_rows_are_whole():
    goals = {figure.id: figure.goal for figure in benchmarks.FIGURES}
    for row in harness.read_rows():
        assert row.keys() >= KEYS
        assert row["goal"] == goals[row["id"]]
        assert row["spread"][0] <= row["spread"][1]
        assert row["command"].startswith(f"python run.py bench {row['id']}")


# ---- what is compared does the same job ----------------------------------------------------------------------------


def test_the_loss_is_the_negative_elbo():
    model, x = fit_speed.VAE(), fit_speed.random_images(5).scaled().round()
    torch.manual_seed(1)
    loss = model.loss(x)
    mu, log_var = model.encoder(x.flatten(1)).chunk(2, 1)
    q = Independent(Normal(mu, (0.5 * log_var).exp()), 1)
    torch.manual_seed(1)
    z = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
    likelihood = Independent(Bernoulli(logits=model.decoder(z)), 1)
    prior = Independent(Normal(torch.zeros(20), torch.ones(20)), 1)
    elbo = likelihood.log_prob(x.flatten(1)) - kl_divergence(q, prior)
    torch.testing.assert_close(loss, -elbo.mean())


def test_the_pil_images_are_the_tensors_that_fit_sees():
    split = fit_speed.random_images(7)
    images = fit_speed.PILImages(split)
    x = torch.stack([images[row][0] for row in range(len(images))])
    torch.testing.assert_close(x, split.scaled())


def test_fit_and_the_bare_loop_end_at_the_same_weights():
    """On one batch without noise in its loss, both are the same steps."""
    split = fit_speed.random_images(8)
    ends = []
    for bare in (True, False):
        torch.manual_seed(0)
        model = fit_speed.VAE()
        optimizer = SGD(model.parameters(), 1e-3)
        model.loss = lambda x, y=None, model=model: model.encoder(x.flatten(1)).square().sum(1).mean()
        batches = split.batches(8, shuffle=False)
        if bare:
            fit_speed.bare_loop(model, optimizer, (x for _ in range(3) for x, _ in batches))
        else:
            fit(model, {"loss": Objective(model.loss, optimizer)}, batches, epochs=3)
        ends.append(model.encoder[0].weight)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_turns_alternate_after_a_warm_up():
    calls = []

    def measure(name):
        return lambda seed: calls.append(name + str(seed)) or len(calls)

    values = harness.alternate(2, measure("A"), measure("B"))
    assert calls == ["A0", "B0", "A0", "B0", "A1", "B1"]
    assert values == [(3, 5), (4, 6)]


def test_a_fingerprint_sees_one_bit():
    model = fit_speed.VAE()
    before = two_processes.fingerprint(model)
    assert two_processes.fingerprint(model) == before
    weight = model.encoder[0].bias.data
    weight[0] = torch.nextafter(weight[0], torch.tensor(1.0))
    assert two_processes.fingerprint(model) != before


def test_flakes_are_summed_over_both_thread_counts(monkeypatch, capsys):
    """With the threads that were asked for, over the notebooks that there are."""
    seen = []
    monkeypatch.setattr(nbval_flakes, "find", lambda names: ["one.ipynb"])

    def run(command, env, **_):
        assert command[-1] == "one.ipynb"
        seen.append(env["OMP_NUM_THREADS"])
        return SimpleNamespace(returncode=int(len(seen) == 4), stdout="a cell differs")

    monkeypatch.setattr(nbval_flakes.subprocess, "run", run)
    measurement = nbval_flakes.measure(6)
    assert seen == ["1", "2"] * 3
    assert measurement.summary(measurement.values) == 1
    assert measurement.note == "0 with one thread, 1 with two, of 6 runs"
    assert "a cell differs" in capsys.readouterr().err


def test_without_notebooks_nothing_is_counted_as_passed(monkeypatch):
    monkeypatch.setattr(nbval_flakes, "find", lambda names: [])
    with pytest.raises(FileNotFoundError, match="nothing to compare"):
        nbval_flakes.measure(2)


def test_the_files_of_odd_inputs_are_there():
    assert [name for name in odd_inputs.FILES if not (harness.ROOT / "tests" / f"test_{name}.py").exists()] == []


def test_a_notebook_that_fails_has_no_time(monkeypatch):
    stopped = SimpleNamespace(seconds=1.0, failure="code cell 3: ValueError: x")
    monkeypatch.setattr(notebook_seconds, "find", lambda names: [Path(f"{names[0]}_topic.ipynb")])
    monkeypatch.setattr(notebook_seconds, "execute", lambda path: stopped)
    with pytest.raises(RuntimeError, match=r"00_topic does not run to its end.*code cell 3"):
        notebook_seconds.seconds("00")


def test_of_all_notebooks_the_slowest_counts(monkeypatch):
    taken = iter([3.0, 5.0, 4.0, 2.0])
    paths = {"00": Path("00_a.ipynb"), "01": Path("01_b.ipynb")}
    monkeypatch.setattr(notebook_seconds, "find", lambda names: [paths[n] for n in names] or list(paths.values()))
    monkeypatch.setattr(notebook_seconds, "execute", lambda path: SimpleNamespace(seconds=next(taken), failure=""))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    slowest = notebook_seconds.slowest(2)
    assert (slowest.values, slowest.note) == ([5.0, 4.0], "00: 4 s, 01: 4 s")
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_a_failing_test_command_has_no_time(monkeypatch):
    done = SimpleNamespace(returncode=1, stdout="1 failed")
    monkeypatch.setattr(notebook_seconds.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(RuntimeError, match="a test fails, so the tests have no time: 1 failed"):
        notebook_seconds.test_minutes(1)
    done.returncode, done.stdout = (
        0,
        "lint 1.0 s passed\nlibrary tests  61.5 s  passed\nnotebooks     200.0 s  passed\n",
    )
    assert notebook_seconds.test_minutes(1).note == "library tests 61.5 s, notebooks 200.0 s"


# ---- peers do the same job -----------------------------------------------------------------------------------------


def test_a_machine_copied_from_scikit_learn_has_its_free_energy():
    x = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    reference = BernoulliRBM(3, batch_size=10, n_iter=3, learning_rate=0.5, random_state=0).fit(x.numpy())
    model = rbm_speed.copied(reference, (6,))
    expected = torch.from_numpy(reference._free_energy(x.numpy()))
    torch.testing.assert_close(model.free_energy(x), expected.to(model.weight.dtype))


def colder(net, x, steps, step_size):
    """A sampler at half of the temperature: the law of another density, in the same time."""
    model = EnergyModel(net, x.shape[1:], step_size=step_size, temperature=0.5)
    return lambda: model.walk(x, steps)


def test_a_sampler_of_another_law_is_not_timed():
    langevin_speed.check_law("ours", langevin_speed.ours)
    with pytest.raises(RuntimeError, match="colder has the variance"):
        langevin_speed.check_law("colder", colder)


def test_fit_and_the_bare_loop_of_a_gan_are_the_same_steps(monkeypatch):
    """With the same noise and order, both players end where they end by hand."""
    split = gan_speed.Split(torch.randint(256, (24, 1, 28, 28), dtype=torch.uint8), torch.zeros(24).long(), 256)
    noise = torch.randn(8, gan_speed.LATENTS)
    monkeypatch.setattr(gan_speed, "WIDTH", 4)
    monkeypatch.setattr(gan_speed, "BATCH", 8)
    ends = []
    for train in (gan_speed.ours, gan_speed.bare):
        gan = gan_speed.new_gan(0)
        gan.prior.sample = lambda n: noise
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *size: noise)
            patch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))
            train(gan, split)
        ends.append(gan.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name])
    assert not torch.equal(ends[0]["generator.0.weight"], gan_speed.new_gan(0).generator[0].weight)


def test_a_stub_of_torchvision_is_gone_after_the_import():
    before = "torchvision" in gan_speed.sys.modules
    with gan_speed.torchvision_stub():
        assert "torchvision.utils" in gan_speed.sys.modules
    assert ("torchvision" in gan_speed.sys.modules) is before


def test_modes_are_found_by_good_samples_only():
    modes = gan_figures.grid_of_gaussians()
    torch.manual_seed(0)
    count, share = modes.found(modes.draw(20_000))
    assert count == 25
    assert share == pytest.approx(1 - math.exp(-4.5), abs=0.005)  # a Rayleigh variable below 3
    assert modes.found(modes.means[:3] + torch.tensor([0.0, 0.149])) == (3, 1.0)
    assert modes.found(modes.means[:3] + torch.tensor([0.0, 0.151])) == (0, 0.0)


def test_the_eight_gaussians_are_those_of_the_data_set():
    modes, data = gan_figures.eight_gaussians(), datasets.load("eight_gaussians", n=5000)
    assert modes.found(data.train.x)[1] == pytest.approx(1 - math.exp(-4.5), abs=0.006)


def test_two_phases_are_the_gradient_of_the_enumerated_likelihood():
    torch.manual_seed(0)
    model, x = RBM(BinaryUnits(5), 3).double(), torch.randint(2, (7, 5)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.log_prob(x).mean().backward()
    parameters = model.weight, model.visible_bias, model.hidden_bias
    with torch.no_grad():
        exact = rbm_accuracy.exact_gradient(model, x)
    for parameter, gradient in zip(parameters, exact):
        torch.testing.assert_close(parameter.grad, gradient)


def test_without_mnist_a_sentence_says_what_to_do(monkeypatch):
    def missing(name):
        raise DataError("mnist is not here: run fetch")

    monkeypatch.setattr(rbm_accuracy.datasets, "load", missing)
    with pytest.raises(SystemExit, match=r"needs MNIST.*run fetch"):
        rbm_accuracy.binarised_mnist()
