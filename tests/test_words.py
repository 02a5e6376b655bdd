"""The word list, its symbols, and a split that does not depend on the other words."""

import hashlib
import re
import shutil
from itertools import chain

import pytest
import torch

from dgm_lib import datasets
from dgm_lib.datasets import paths, words


@pytest.fixture(scope="module")
def data():
    return datasets.load("words")


def test_list_is_sorted_distinct_lower_case_words_of_3_to_10_letters():
    listed = (paths.data_folder() / "words.txt").read_text(encoding="ascii").splitlines()
    assert listed == sorted(set(listed))
    assert len(listed) >= 2000
    assert all(re.fullmatch("[a-z]{3,10}", word) for word in listed)


def test_card_names_the_list():
    content = (paths.data_folder() / "words.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() in paths.card("words")


def test_splits_are_the_list(data):
    listed = (paths.data_folder() / "words.txt").read_text(encoding="ascii").split()
    decoded = [words.decode(split.x) for split in (data.train, data.validation, data.test)]
    assert sorted(chain.from_iterable(decoded)) == listed
    assert [len(part) / len(listed) for part in decoded] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_every_word_ends_with_0(data):
    for split in (data.train, data.validation, data.test):
        assert split.x.dtype == torch.int64
        assert split.x.shape[1] == 11
        assert (split.x[:, -1] == 0).all()
        ended = (split.x == 0).long().cumsum(1) > 0
        assert torch.equal(split.x == 0, ended)  # after the first 0 there are only zeros
        assert (split.y == 0).all()
    assert data.symbols == ".abcdefghijklmnopqrstuvwxyz"
    assert (data.classes, data.levels) == (("word",), None)


def test_encode_and_decode_by_hand():
    x = words.encode(["cab", "zoo", "a"])
    assert x.tolist() == [[3, 1, 2, 0], [26, 15, 15, 0], [1, 0, 0, 0]]
    assert words.decode(x) == ["cab", "zoo", "a"]
    assert words.decode(torch.tensor([[3, 1, 2], [1, 0, 2]])) == ["cab", "a"]  # a model may write no end, or go on
    assert words.encode([]).shape == (0, 1)


def test_bad_words_and_symbols_are_named():
    with pytest.raises(ValueError, match=r"'Cab' holds 'C'"):
        words.encode(["cab", "Cab"])
    with pytest.raises(ValueError, match="got 3 to 27"):
        words.decode(torch.tensor([[3, 27]]))


def test_another_list_moves_no_word(data, tmp_path, monkeypatch):
    listed = (paths.data_folder() / "words.txt").read_text(encoding="ascii").split()
    shutil.copytree(paths.data_folder() / "cards", tmp_path / "cards")
    fewer = sorted([*listed[::3], "aaa", "zzz"])
    (tmp_path / "words.txt").write_text("\n".join(fewer), encoding="ascii")
    monkeypatch.setattr(paths, "data_folder", lambda: tmp_path)
    other = datasets.load("words")
    for part in ("train", "validation", "test"):
        before, after = (set(words.decode(getattr(d, part).x)) - {"aaa", "zzz"} for d in (data, other))
        assert after == before & set(fewer)
