"""`load(name)` gives a data set: `data.train`, `data.validation`, `data.test`, all offline unless told otherwise."""

from __future__ import annotations

from importlib import import_module
from inspect import signature

import torch

from dgm_lib import runtime
from dgm_lib.datasets.core import Batches, Data, Split, dequantize, scale
from dgm_lib.datasets.formats import DataError
from dgm_lib.datasets.streaming import stream

__all__ = ["NAMES", "TOY2D", "Batches", "Data", "DataError", "Split", "dequantize", "load", "scale", "stream"]

TOY2D = ("two_moons", "rings", "eight_gaussians", "checkerboard", "spirals", "pinwheel")

# name -> the module of this package whose load(name, ...) makes it; imported only when asked for
MODULES = {
    **dict.fromkeys(TOY2D, "toy2d"),
    "digits": "digits",
    "glyphs": "glyphs",
    "patches": "patches",
    "words": "words",
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist", "cifar10"), "published"),
}
NAMES = tuple(MODULES)


def load(name: str, **options: object) -> Data:
    """The data set of this name, on torch's default device. `options` are its loader's, such as load("glyphs", n=1000).

    Raises ValueError for a name or an option that does not exist; the message lists those that do.
    """
    if name not in MODULES:
        raise ValueError(f"there is no data set {name!r}; there are: {', '.join(NAMES)}")
    loader = import_module(f"dgm_lib.datasets.{MODULES[name]}").load
    known = [option for option in signature(loader).parameters if option != "name"]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"load({name!r}) has no option {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
    with runtime.on_cpu():  # the same numbers on every machine
        data = loader(name, **options)
    where = torch.get_default_device()
    return data if where.type == "cpu" else data.to(where)
