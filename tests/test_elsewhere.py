"""What would differ on another machine is found: a mark that was forgotten, a claim that holds for one seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools import elsewhere

OTHER_STREAM = "seeds+1000"
MATHEMATICS = "import torch\n\nx = torch.arange(300 * 300).view(300, 300).sin()\n"
DRAWS = "import torch\n\ntorch.manual_seed(0)\nx = torch.rand(100)\n"
OWN_STREAM = "import torch\n\nx = torch.rand(100, generator=torch.Generator().manual_seed(0))\n"
FIT = (
    "from torch import nn\nfrom torch.optim import SGD\nfrom dgm_lib.train import Objective, fit\n\n"
    "net = nn.Linear(3, 1)\nnoise = lambda x: (net(x + torch.randn_like(x)) ** 2).mean()\n"
    "import torch\n\nx = fit(net, {'a': Objective(noise, SGD(net.parameters(), 0.1))}, [torch.ones(4, 3)], 1)['a'][0]\n"
)
DATA = "from dgm_lib import datasets\n\nx = datasets.load('two_moons', n=100).train.x.sum()\n"
ORDER = "from dgm_lib import datasets\n\nx = next(iter(datasets.load('digits').train.batches(10)))[1].tolist()\n"


def cell(*said: str, source: str = "", tags: tuple[str, ...] = ()):
    outputs = [new_output("stream", name="stdout", text="\n".join(said) + "\n")] if said else []
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def lines(before, after) -> list[tuple[int, str, str]]:
    return [tuple(line) for line in elsewhere.moved(new_notebook(cells=before), new_notebook(cells=after))]


# ---- comparing -----------------------------------------------------------------------------------------------------


def test_a_line_that_moved_is_named_with_its_cell():
    before = [cell("a"), cell("loss ≈ 1.2, below 2: True", "counted 17")]
    after = [cell("a"), cell("loss ≈ 2.2, below 2: False", "counted 18")]
    assert lines(before, after) == [
        (2, "loss ≈ #, below 2: True", "loss ≈ #, below 2: False"),
        (2, "counted 17", "counted 18"),
    ]


def test_what_may_move_is_not_named():
    before = [
        cell("loss ≈ 1.2 ± 0.1"),
        cell("a word", tags=("nbval-ignore-output",)),
        cell("drawn", source="# NBVAL_SKIP"),
    ]
    after = [cell("loss ≈ 7 ± 3"), cell("another", tags=("nbval-ignore-output",)), cell("else", source="# NBVAL_SKIP")]
    assert lines(before, after) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (["a", "b"], ["b"], [(1, "a", "")]),
        (["a"], ["a", "b"], [(1, "", "b")]),
        (["first ≈ 1", "second ≈ 2"], ["second ≈ 1", "first ≈ 2"], None),  # rows in a measured order
        ([], ["a"], [(1, "", "a")]),
    ],
)
def test_lines_that_come_or_go_or_change_places_are_named(old, new, found):
    named = lines([cell(*old)], [cell(*new)])
    assert named == found if found else named


def test_other_outputs_are_compared_and_pictures_are_not():
    def shown(text: str, png: str):
        output = new_output("display_data", {"text/plain": text, "image/png": png})
        return new_code_cell("", outputs=[output])

    assert lines([shown("one", "A")], [shown("one", "B")]) == []
    assert lines([shown("one", "A")], [shown("two", "A")]) == [(1, "one", "two")]


# ---- executing -----------------------------------------------------------------------------------------------------


def stored(folder: Path, *sources: str) -> Path:
    """A notebook, executed and stored as the course's own are."""
    path = folder / "small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    run = elsewhere.execute.execute(path)
    assert run.failure == ""
    elsewhere.execute.write(run.notebook, path)
    return path


def calculates_otherwise(place: str) -> bool:
    """Whether this processor can calculate as the place asks; one without these instructions cannot."""
    code = MATHEMATICS + "print((x @ x).sum().item())"
    environments = [os.environ | elsewhere.environment_of(name) for name in ("usual-1", place)]
    said = [subprocess.check_output([sys.executable, "-c", code], env=environment) for environment in environments]
    return said[0] != said[1]


def test_a_mark_that_was_forgotten_is_found_by_another_arithmetic(tmp_path):
    path = stored(tmp_path, MATHEMATICS + "print('sum', (x @ x).sum().item())", "print('sum ≈', (x @ x).sum().item())")
    found = elsewhere.look(path, elsewhere.environment_of("sse-1"))
    if not found and not calculates_otherwise("sse-1"):
        pytest.skip("this processor has one arithmetic only")
    (line,) = found
    assert line.cell == 1
    assert line.stored.startswith("sum")


def test_a_mark_or_a_claim_that_holds_for_one_seed_is_found_by_other_seeds(tmp_path):
    """Whoever draws: the notebook, a generator of its own, training, the order of batches. The data stay."""
    claim = "print(f'mean ≈ {x.mean():.4f}, below 1: {bool(x.mean() < 1)}, this: {bool(x[0] > 0.49)}')"
    moving = [DRAWS + "print(x)", OWN_STREAM + "print(x)", FIT + "print(x)", ORDER + "print(x)", DRAWS + claim]
    staying = [DATA + "print(x)", DRAWS + claim.replace(", this: {bool(x[0] > 0.49)}", "")]
    path = stored(tmp_path, *moving, *staying)
    found = elsewhere.look(path, elsewhere.environment_of(OTHER_STREAM))
    assert sorted({line.cell for line in found}) == [1, 2, 3, 4, 5]
    assert [line.found[-11:] for line in found if line.cell == 5] == ["this: False"]


def test_a_cell_that_fails_elsewhere_is_found(tmp_path):
    path = stored(tmp_path, "import os\n\nassert 'DGM_SHIFT' not in os.environ, 'elsewhere'")
    (line,) = elsewhere.look(path, elsewhere.environment_of(OTHER_STREAM))
    assert "AssertionError: elsewhere" in line.found


# ---- command -------------------------------------------------------------------------------------------------------


def test_places_are_arithmetics_with_threads_and_shifts_of_seeds():
    names = list(elsewhere.places())
    assert len(names) == 4 * 2 + 5
    assert {"usual-1", "usual-2", "sse-1", "sse-2", "seeds+5000"} <= set(names)
    assert elsewhere.environment_of("sse-1,seeds+1000")["DGM_SHIFT"] == "1000"
    assert elsewhere.environment_of("sse-1,seeds+1000")["MKL_CBWR"] == "COMPATIBLE"
    assert elsewhere.environment_of("strict")["DGM_DEVICE"] == "strict"


def test_the_tests_run_in_the_arithmetic_and_with_the_seeds_that_they_set(monkeypatch):
    environments = []

    def run(command, env, **options):
        environments.append(env)
        return subprocess.CompletedProcess(command, 1, "== 3 failed, 5 passed, 1 error in 2 s ==")

    monkeypatch.setattr(elsewhere.subprocess, "run", run)
    assert elsewhere.tests_in("sse-2,seeds+1000") == 4
    assert environments[0]["ATEN_CPU_CAPABILITY"] == "default"
    assert environments[0]["DGM_SHIFT"] == "0"


def test_a_place_that_is_not_there_is_one_sentence():
    command = [sys.executable, "-m", "tools.elsewhere", "--in", "mars"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no place 'mars'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_notebook_that_is_not_there_is_one_sentence(capsys):
    assert elsewhere.main(["--in", "usual-1", "99"]) == 2
    assert "'99' names 0 notebooks" in capsys.readouterr().err
