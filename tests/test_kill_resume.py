"""Trainings that are killed and resumed, and that the measurement would notice a bit that differs or a broken file."""

from __future__ import annotations

import pytest
import torch

from benchmarks import kill_resume


def test_a_training_that_is_killed_comes_back_to_the_last_bit():
    assert kill_resume.measure(3).values == [0.0, 0.0, 0.0]


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(kill_resume, "EPOCHS", 3)


def changed(part):
    """One bit in a place of the file's state."""

    def change(state):
        place = state
        for key in part[:-1]:
            place = place[key]
        value = place[part[-1]]
        place[part[-1]] = value + 1 if not isinstance(value, torch.Tensor) else value.nextafter(value + 1)

    return change


PLACES = [
    ("model", "chains"),
    ("ema", "module.chains"),
    ("optimizers", "contrast", "optimizer", "state", 0, "exp_avg"),
    ("optimizers", "contrast", "scheduler", "last_epoch"),
    ("step",),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[-1])
def test_one_bit_that_differs_is_noticed(short, tmp_path, place):
    kill_resume.train("chains", tmp_path / "whole")
    whole, again = kill_resume.state(tmp_path / "whole"), kill_resume.state(tmp_path / "whole")
    assert kill_resume.same(again, whole)
    changed(place)(again)
    torch.save(again, tmp_path / "resumed")
    assert kill_resume.outcome("chains", tmp_path / "resumed", whole) == "different"


def test_a_broken_file_is_noticed_and_a_half_written_one_beside_it_is_harmless(short, tmp_path):
    kill_resume.train("chains", tmp_path / "whole")
    whole = kill_resume.state(tmp_path / "whole")
    half = (tmp_path / "whole").read_bytes()[:9000]
    (tmp_path / "a").write_bytes(half)
    (tmp_path / "b.part").write_bytes(half)
    assert [kill_resume.outcome("chains", tmp_path / name, whole) for name in "ab"] == ["broken", "same"]
