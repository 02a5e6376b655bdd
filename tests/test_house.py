"""The plan of the library: small rooms, short functions, and no public name that nobody uses."""

from __future__ import annotations

import ast

from benchmarks import house

# What part one has and no notebook shows yet.
TO_BE_SHOWN = {
    "measures/latents.py: log_aggregate",
    "measures/latents.py: split_rate",
    "measures/metrics.py: rate_distortion",
    "models/energy.py: sliced_score_matching",
    "models/vae.py: DeepPrior",
    "models/vae.py: VampPrior",
    "nets.py: ConvDecoder",
    "samplers.py: anneal",
    "samplers.py: geometric",
}


def test_every_public_name_is_used():
    assert set(house.unused_names()) == TO_BE_SHOWN


def test_what_is_a_use_and_what_is_none():
    tree = ast.parse("from a import f\nimport b\nb.g(h)\ni = 1")
    assert set(house.names(tree)) == {"b", "g", "h"}
    source = "X = 1\n_y = 2\ndef f(): ...\nclass C:\n    def g(self): ...\n    def _h(self): ..."
    assert dict(house.defined(ast.parse(source))) == {"X": "X", "f": "f", "C": "C", "g": "C.g"}


def test_rooms_are_few_and_functions_short():
    assert house.rooms(1).values[0] <= 16
    assert house.long_functions() == []


def test_a_long_function_is_seen(tmp_path, monkeypatch):
    doc = '    """Says\n\n    a lot."""\n'
    for name, lines in (("short", 39), ("long", 40)):
        (tmp_path / f"{name}.py").write_text(f"def {name}():\n{doc}" + "    x = 1\n" * (lines + 1))
    monkeypatch.setattr(house, "LIBRARY", tmp_path)
    monkeypatch.setattr(house, "ROOT", tmp_path)
    assert house.long_functions() == ["long.py: long"]
