"""Breaks of the library that a notebook must notice, made in its kernel: `break_("balanced_accuracy_is_plain")`.

They stand in the files of `tests/notebooks`. Each names what it replaces as Python does, so a rename in the library is
an error there, at import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from itertools import chain, islice, repeat
from typing import Any

from dgm_lib import train
from dgm_lib.datasets import core


@dataclass(frozen=True)
class Break:
    """What is replaced, what stands there instead, and the claim of the notebook that it turns."""

    original: Callable
    broken: Callable
    claim: str  # a part of the line that the notebook prints
    batches: int | None  # of training, that do for it

    @property
    def module(self) -> str:
        """Where the break stands, to be imported in the kernel."""
        return self.broken.__module__


BREAKS: dict[str, Break] = {}
calls: dict[str, int] = {}  # of each break that was made


def instead_of(original: Callable, *, turns: str = "", batches: int | None = None) -> Callable:
    """Registers a break: a function that is called with the original and with the original's own arguments."""

    def register(broken: Callable) -> Callable:
        assert broken.__name__ not in BREAKS, f"there are two breaks {broken.__name__}"
        BREAKS[broken.__name__] = Break(original, broken, turns, batches)
        return broken

    return register


def break_(name: str) -> None:
    """Puts a break in place, wherever the library holds the original."""
    original, broken = BREAKS[name].original, BREAKS[name].broken
    calls[name] = 0

    @wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return broken(original, *args, **kwargs)

    owner, _, attribute = original.__qualname__.rpartition(".")
    if owner:
        setattr(getattr(sys.modules[original.__module__], owner), attribute, replacement)
    for module in [module for place, module in sys.modules.items() if place.startswith("dgm_")]:
        for known in [known for known, value in vars(module).items() if value is original]:
            setattr(module, known, replacement)


def shorten_training(n_batches: int) -> None:
    """Breaks nothing: one epoch of so many batches, for claims that hold of a network which hardly learnt."""

    @instead_of(train.fit)
    def few_batches(fit, model, objectives, batches, epochs, **options):
        over_and_over = chain.from_iterable(repeat(batches))
        return fit(model, objectives, list(islice(over_and_over, n_batches)), 1, **options)

    break_(few_batches.__name__)


@instead_of(core.scale)
def nothing(scale, x, levels):
    """Breaks nothing, to show that what notices a break is the break."""
    return scale(x, levels)
