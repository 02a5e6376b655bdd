"""`load(name)` gives a data set: `data.train`, `data.validation`, `data.test`, all offline unless told otherwise."""

from __future__ import annotations

from importlib import import_module
from inspect import signature

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
    """The data set of this name. `options` are those of its loader, such as load("glyphs", n=1000).

    Raises ValueError for a name or an option that does not exist; the message lists those that do.
    """
    if name not in MODULES:
        raise ValueError(f"there is no data set {name!r}; there are: {', '.join(NAMES)}")
    loader = import_module(f"dgm_lib.datasets.{MODULES[name]}").load
    known = [option for option in signature(loader).parameters if option != "name"]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"load({name!r}) has no option {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
    return loader(name, **options)
