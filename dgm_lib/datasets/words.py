"""About 3,000 common English words as rows of symbols: 0 ends a word, 1 … 26 are the letters a … z."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from dgm_lib.datasets import paths
from dgm_lib.datasets.core import Data, Split

SYMBOLS = ".abcdefghijklmnopqrstuvwxyz"  # the full stop stands for the end


def load(name: str = "words") -> Data:
    """The words of data/words.txt. x: (N, T) int64 symbols, T = longest word + 1; y: zeros, the one class "word".

    The part of a word follows from the word alone: one added to the list moves no other between the splits.
    """
    words = (paths.data_folder() / "words.txt").read_text(encoding="ascii").split()
    x, part = encode(words), torch.tensor([_tenth(word) for word in words])
    train, validation, test = (_split(x[rows]) for rows in (part > 1, part == 0, part == 1))
    return Data(name, train, validation, test, ("word",), paths.card("words"), SYMBOLS)


def encode(words: Sequence[str]) -> Tensor:
    """Words of a … z as symbols, (N, longest + 1) int64, filled up with the end symbol 0."""
    for word in words:
        if strange := set(word) - set(SYMBOLS[1:]):
            raise ValueError(f"{word!r} holds {min(strange)!r}: a word is made of the letters a to z in lower case")
    x = torch.zeros(len(words), max(map(len, words), default=0) + 1, dtype=torch.int64)
    for row, word in zip(x, words):
        row[: len(word)] = torch.tensor([SYMBOLS.index(letter) for letter in word])
    return x


def decode(x: Tensor) -> list[str]:
    """The words of symbols (N, T): each up to its first 0, or to the end of the row where there is none.

    Raises ValueError for symbols outside 0 … 26.
    """
    if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < len(SYMBOLS):
        raise ValueError(f"symbols lie between 0 and {len(SYMBOLS) - 1}, got {int(x.min())} to {int(x.max())}")
    return ["".join(SYMBOLS[symbol] for symbol in row).partition(".")[0] for row in x.tolist()]


def _tenth(word: str) -> int:
    """0 … 9, as good as random, the same for ever: Python's own hash changes with every process."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:8]) % 10


def _split(x: Tensor) -> Split:
    return Split(x, torch.zeros(len(x), dtype=torch.int64))
