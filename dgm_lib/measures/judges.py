"""The judges of the course: for each data set one classifier, whose last hidden layer is where samples are compared.

A distance between samples is one in the eyes of a judge, so the judge must be the same wherever distances are compared.
Those of `digits` and `glyphs` come with the course, in `data/features/`; others are trained once and kept in the cache.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from dgm_lib import checks, datasets, runtime
from dgm_lib.datasets import Data, cache, paths
from dgm_lib.datasets.formats import DataError
from dgm_lib.measures import metrics
from dgm_lib.nets import ConvEncoder
from dgm_lib.train import Objective, fit

BATCH = 100  # images that a judge looks at together: what fits a cache is twice as fast
FORMAT = 1  # to be raised with every change of what the same recipe gives
ROUNDING = 1e-4  # by which float32 may leave [0, 1]


@dataclass(frozen=True)
class Recipe:
    """How a judge is made. What is chosen here is chosen on validation data, and a part of the judge's name."""

    epochs: int = 10
    width: int = 16  # channels of the first convolution; the others have twice as many
    n_features: int = 64
    dropout: float = 0.2
    batch_size: int = 100
    rate: float = 2e-3  # of Adam, falling to 0 along a cosine
    shift: float = 1.0  # how a training image may be changed, each way: moved by pixels,
    turn: float = 0.0  # turned by degrees,
    size: float = 0.0  # made larger or smaller by this share,
    lean: float = 0.0  # sheared by pixels a row
    seed: int = 0


USUAL = Recipe()
SHIPPED = {  # data/train_judges.py made them
    "digits": Recipe(epochs=200, width=32, dropout=0.3, turn=15, size=0.15, lean=0.2),
    "glyphs": Recipe(epochs=15),
}


class Judge(nn.Module):
    """A classifier of images, (B, C, H, W) floats in [0, 1] -> (B, K) logits, that was trained on training data only.

    validation_accuracy, test_accuracy: shares of the images of its data set that it names right, scalars.
    """

    def __init__(self, shape: Sequence[int], n_classes: int, recipe: Recipe = USUAL):
        super().__init__()
        self.shape, self.recipe = tuple(shape), recipe
        self.body = nn.Sequential(ConvEncoder(self.shape, recipe.n_features, recipe.width), nn.SiLU())
        self.head = nn.Sequential(nn.Dropout(recipe.dropout), nn.Linear(recipe.n_features, n_classes))
        self.register_buffer("centre", torch.zeros(recipe.n_features))
        for name in ("unit", "validation_accuracy", "test_accuracy"):
            self.register_buffer(name, torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """−log p(y|x) in nats, mean over the batch, of images that are varied a little."""
        return cross_entropy(self(varied(x, self.recipe)), y)

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D), of mean 0, and of mean variance 1 over the features, for training images.

        One unit serves all of them, so that a feature which hardly varies does not count as much as one that does.
        """
        return self._in_parts(lambda part: (self.body(part) - self.centre) / self.unit, x)

    def labels(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N,), the likeliest class of each image."""
        return self._in_parts(lambda part: checks.named(self(part)), x)

    @torch.no_grad()
    def _in_parts(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Raises ValueError for images of another shape or outside of [0, 1]."""
        checks.check_examples(x, self.shape, what="images")
        wrong = x[~((x >= -ROUNDING) & (x <= 1 + ROUNDING))]
        if len(wrong):
            raise ValueError(f"{len(wrong)} of {x.numel()} pixels are outside of [0, 1], the first is {wrong[0]:.6g}")
        return torch.cat([function(part.to(self.centre)) for part in x.split(BATCH)])


def varied(x: Tensor, recipe: Recipe) -> Tensor:
    """Each image turned, sized, leaned and moved by amounts of its own, at random; what comes in at the border is 0."""

    def up_to(most: float) -> Tensor:
        return most * (2 * torch.rand(len(x), device=x.device) - 1)

    height, width = x.shape[2:]  # grids go from −1 to 1, so that a pixel is 2 / width across
    turn, size = up_to(math.radians(recipe.turn)), up_to(recipe.size).exp()
    across = torch.stack(
        [size * turn.cos(), up_to(recipe.lean) - size * turn.sin(), up_to(2 * recipe.shift / width)], 1
    )
    down = torch.stack([size * turn.sin(), size * turn.cos(), up_to(2 * recipe.shift / height)], 1)
    grid = affine_grid(torch.stack([across, down], 1), list(x.shape), align_corners=False)
    return grid_sample(x, grid, align_corners=False)


# ---- getting one ---------------------------------------------------------------------------------------------------


def load(name: str) -> Judge:
    """The judge of the data set of this name, with its default options; for others, such as fewer classes: `judge_of`.

    It is frozen and in evaluation mode. Raises DataError if the file of a judge that comes with the course is damaged.
    """
    if name in SHIPPED:
        return read(paths.data_folder() / "features" / f"{name}.npz", SHIPPED[name])
    return judge_of(datasets.load(name))


def judge_of(data: Data, recipe: Recipe = USUAL) -> Judge:
    """The judge that this recipe makes of this data set: trained when it is asked for first, then kept in the cache.

    Takes minutes where it is trained. Raises ValueError for data that are not images of at least two classes.
    """
    if data.train.x.dim() != 4 or len(data.classes) < 2:
        raise ValueError(f"{data.name} has no judge: a judge tells apart images of at least two classes")
    digest = sha256(f"{FORMAT} {recipe}".encode())
    for split in (data.train, data.validation, data.test):
        for tensor in (split.x, split.y):
            digest.update(f"{tensor.shape}".encode() + tensor.cpu().contiguous().numpy().tobytes())
    name = f"judge-{data.name}-{digest.hexdigest()[:16]}"
    return from_arrays(cache.arrays(name, lambda: to_arrays(train(data, recipe))), recipe)


def train(data: Data, recipe: Recipe) -> Judge:
    """A new judge, on the CPU, its weights rounded to float16, as they are kept. Minutes, on two cores."""
    with _own_randomness(recipe.seed):
        judge = Judge(data.train.x.shape[1:], len(data.classes), recipe)
        optimizer = Adam(judge.parameters(), recipe.rate, fused=True)
        objective = Objective(judge.loss, optimizer, scheduler=CosineAnnealingLR(optimizer, recipe.epochs))
        batches = data.train.batches(recipe.batch_size, seed=recipe.seed)
        fit(judge, {"-log p(y|x)": objective}, batches, recipe.epochs, seed=recipe.seed)
    judge = from_arrays(to_arrays(judge), recipe)
    h = judge.features(data.train.scaled())
    judge.centre.copy_(h.mean(0).half())
    judge.unit.copy_(h.var(0).mean().sqrt())
    for split, accuracy in ((data.validation, judge.validation_accuracy), (data.test, judge.test_accuracy)):
        accuracy.fill_(metrics.accuracy(judge, split.batches(BATCH, shuffle=False)))
    return judge


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """What follows is the same with a judge from the cache and with one that is trained first."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            runtime.seed_everything(seed)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


# ---- files ---------------------------------------------------------------------------------------------------------


def to_arrays(judge: Judge) -> dict[str, np.ndarray]:
    """All that a judge is: shape, recipe and weights. Scalars stay in float32, all else becomes float16."""
    weights = {name: value if value.dim() == 0 else value.half() for name, value in judge.state_dict().items()}
    return {
        "shape": np.array(judge.shape),
        "recipe": np.array(str(judge.recipe)),
        **{name: value.cpu().numpy() for name, value in weights.items()},
    }


def from_arrays(arrays: dict[str, np.ndarray], recipe: Recipe) -> Judge:
    """The judge of `to_arrays`. Raises ValueError, KeyError or RuntimeError where the arrays are not those of one."""
    if (made_by := str(arrays["recipe"])) != str(recipe):
        raise ValueError(f"it was made by {made_by}, not by {recipe}")
    weights = {
        name: torch.as_tensor(value).float() for name, value in arrays.items() if name not in ("shape", "recipe")
    }
    if not all(value.isfinite().all() for value in weights.values()):
        raise ValueError("it holds a weight that is not finite")
    with torch.device("meta"):  # no weights are drawn at random
        judge = Judge(arrays["shape"].tolist(), len(weights["head.1.bias"]), recipe)
    judge.load_state_dict(weights, assign=True)
    return judge.eval().requires_grad_(False)


def read(path: Path, recipe: Recipe) -> Judge:
    """The judge of a file that `data/train_judges.py` wrote."""
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return from_arrays(dict(stored), recipe)
    except FileNotFoundError as error:
        raise DataError(f"{path.name}, a judge of the course, is missing: get the course again") from error
    except Exception as error:  # bytes that were damaged can raise nearly anything
        raise DataError(
            f"{path.name} is no whole judge of the course ({error}): get the course again; "
            "a new judge, from data/train_judges.py, would be another ruler"
        ) from error
