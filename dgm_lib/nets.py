"""Networks: what the models of the course are built of. They know nothing of the models.

Images are (B, C, H, W) floats in [0, 1]. Every network ends in a plain linear or convolutional layer: what its output
means (logits, a mean and a log-variance, an energy, what a critic says) is for the model to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from dgm_lib import checks


class MLP(nn.Sequential):
    """Fully connected layers: MLP(64, 128, 10) maps (B, …) with 64 numbers an example to (B, 10).

    A tuple as the last size shapes the output: MLP(16, 128, (1, 8, 8)) gives images (B, 1, 8, 8).
    """

    def __init__(self, *sizes: int | tuple[int, ...], activation: Callable[[], nn.Module] = nn.SiLU):
        *inner, last = sizes
        widths = [*inner, prod(last) if isinstance(last, tuple) else last]
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), activation()]
        layers.pop()  # no activation after the last layer
        if isinstance(last, tuple):
            layers.append(nn.Unflatten(1, last))
        super().__init__(*layers)


class ConvEncoder(nn.Sequential):
    """Image to vector: (B, C, H, W) -> (B, n_out). Each of two convolutions halves height and width."""

    def __init__(self, shape: tuple[int, int, int], n_out: int, width: int = 32):
        h, w = _quarter(shape)
        super().__init__(
            nn.Conv2d(shape[0], width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (B, 2w, H/2, W/2)
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 4, stride=2, padding=1),  # (B, 2w, H/4, W/4)
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * h * w, n_out),
        )


class ConvDecoder(nn.Sequential):
    """Vector to image: (B, n_in) -> (B, C, H, W), the mirror of `ConvEncoder`.

    Transposed convolutions whose kernel (4) is a multiple of their stride (2) leave no checkerboard pattern.
    """

    def __init__(self, n_in: int, shape: tuple[int, int, int], width: int = 32):
        h, w = _quarter(shape)
        super().__init__(
            nn.Linear(n_in, 2 * width * h * w),
            nn.Unflatten(1, (2 * width, h, w)),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, 2 * width, 4, stride=2, padding=1),  # (B, 2w, H/2, W/2)
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),  # (B, w, H, W)
            nn.SiLU(),
            nn.Conv2d(width, shape[0], 3, padding=1),
        )


# ---- generators and critics ----------------------------------------------------------------------------------------


class DCGenerator(nn.Sequential):
    """Latents to image: (B, n_latents) -> (B, C, H, W), the generator of Radford, Metz & Chintala 2016.

    Batch norm and ReLU after each layer but the last, which is left as it is. A label goes in as more latents:
    Labelled(DCGenerator(n_latents + K, shape), K).
    """

    def __init__(self, n_latents: int, shape: tuple[int, int, int], width: int = 64):
        h, w = _quarter(shape)
        super().__init__(
            nn.Linear(n_latents, 2 * width * h * w, bias=False),  # batch norm takes the mean off, a bias with it
            nn.Unflatten(1, (2 * width, h, w)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),  # (B, w, H/2, W/2)
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, shape[0], 4, stride=2, padding=1),  # (B, C, H, W)
        )


class DCCritic(nn.Module):
    """Image to one number: (B, C, H, W) -> (B, 1), head(body(x)); body(x) are its features, (B, n_features).

    Radford, Metz & Chintala 2016, without their batch norm: with it what the critic says of an example would depend on
    the rest of the batch, and a penalty on its gradient at one example would have no meaning. Gulrajani et al. 2017.
    """

    def __init__(self, shape: tuple[int, int, int], width: int = 64):
        super().__init__()
        h, w = _quarter(shape)
        self.n_features = 2 * width * h * w
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], width, 4, stride=2, padding=1),  # (B, w, H/2, W/2)
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (B, 2w, H/4, W/4)
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.n_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class ProjectionCritic(nn.Module):
    """A critic that is told the label: D(x, y) = w·φ(x) + b + e_y·φ(x). Miyato & Koyama 2018, eq. 3, with a linear ψ.

    body: φ, (B, …) -> (B, n_features), such as DCCritic(shape).body. y: (B,) labels; (B, …), (B,) -> (B, 1).
    The e_y start at zero: one critic for all classes.
    """

    def __init__(self, body: nn.Module, n_features: int, n_classes: int):
        super().__init__()
        self.body, self.n_classes = body, n_classes
        self.head = nn.Linear(n_features, 1)
        self.embedding = nn.Embedding(n_classes, n_features)
        nn.init.zeros_(self.embedding.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        features = self.body(x)  # (B, F)
        label = self.embedding(checks.as_index(y, self.n_classes))  # (B, F)
        return self.head(features) + (label * features).sum(1, keepdim=True)


LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


def spectrally_normed(net: nn.Module) -> nn.Module:
    """Divides the weights of each layer by their largest singular value, found by power iteration. In place; the net.

    A critic of such layers, with activations of slope ≤ 1, changes by at most a bounded multiple of ‖x − x′‖. A layer
    counts as the matrix (outputs, everything else). Miyato et al. 2018, eq. 8 and algorithm 1.
    """
    for layer in [layer for layer in net.modules() if isinstance(layer, LAYERS)]:
        if is_parametrized(layer, "weight"):
            continue
        if not layer.weight.any():  # a residual block starts at zero, which cannot be divided by its norm
            layer.reset_parameters()
        spectral_norm(layer)
    return net


# ---- labels --------------------------------------------------------------------------------------------------------


class Labelled(nn.Module):
    """A network that is told a label, as K more inputs, all 0 but the label's: net(x with K more channels or numbers).

    x: (B, C, H, W) or (B, D); y: (B,) labels. flat: images are flattened first, so that K numbers are added and not K
    images, which is what a fully connected net needs.
    """

    def __init__(self, net: nn.Module, n_classes: int, *, flat: bool = False):
        super().__init__()
        self.net, self.n_classes, self.flat = net, n_classes, flat

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.flatten(1) if self.flat else x
        label = one_hot(checks.as_index(y, self.n_classes), self.n_classes).to(x)  # (B, K)
        return self.net(torch.cat([x, label.view(*label.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])], 1))


def given(x: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
    """The arguments of a network that may be told the label."""
    return (x,) if y is None else (x, checks.usual(y))


# ---- what models ask of networks -----------------------------------------------------------------------------------


def n_parameters(model: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextmanager
def on_trial(model: nn.Module) -> Iterator[None]:
    """For running networks once on zeros, so that a misfit is said before any training: no layer learns from them."""
    model.eval()
    with torch.no_grad():
        yield
    model.train()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradient for the module's parameters while only ∇_x is wanted; they get it back whatever happens."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def one_number(values: Tensor, n: int, what: str) -> Tensor:
    """What a network says of n examples, (n, 1) or (n,), as (n,). Raises ValueError for anything else."""
    if isinstance(values, Tensor) and values.shape in ((n,), (n, 1)):
        return values.reshape(n)
    said = f"{what} of {n} examples {checks.shaped(values)}"
    raise ValueError(f"{said}: it must be one number an example, ({n},) or ({n}, 1); let the network end in one unit")


def one_logit_a_class(logits: Tensor, n: int, n_classes: int, what: str) -> Tensor:
    """What a classifier says of n examples, (n, K). Raises ValueError for another shape."""
    if logits.shape != (n, n_classes):
        gives = f"{what} gives {tuple(logits.shape[1:])} an example"
        raise ValueError(f"{gives}: it must end in {n_classes} logits, one a class")
    return logits


def mean_and_log_var(out: Tensor, n: int, n_latents: int, what: str) -> tuple[Tensor, Tensor]:
    """What an encoder says of n examples, (n, 2D), as two of (n, D). Raises ValueError for another shape."""
    if out.shape != (n, 2 * n_latents):
        raise ValueError(
            f"{what} gives {tuple(out.shape[1:])} an example, and the prior has {n_latents} latents: it must end in "
            f"{2 * n_latents} numbers, a mean and a log-variance for each"
        )
    mean, log_var = out.chunk(2, 1)
    return mean, log_var


def of_one(shape: torch.Size, n: int, what: str) -> torch.Size:
    """The shape of one example, of what was made of n. Raises ValueError where there are not n of them."""
    if shape[:1] != (n,):
        raise ValueError(f"{what} of {n} examples has the shape {tuple(shape)}: let it keep the batch, ({n}, …)")
    return shape[1:]


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Says what torch's own message, which knows matrices only, is about; it stays the cause."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{what}: let its sizes fit; the error above this one shows the layer") from error


def _quarter(shape: tuple[int, int, int]) -> tuple[int, int]:
    height, width = shape[1:]
    if height % 4 or width % 4:
        raise ValueError(f"height and width must be multiples of 4, not {height}×{width}: pad or crop the images")
    return height // 4, width // 4
