"""Figures: colour-blind-safe, readable from the last row, labelled, and described in words for those who cannot see.

Each function returns a figure that `show(fig, alt)` puts into the notebook together with its description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections import register_projection
from torch import Tensor
from torch.nn.functional import pad

from dgm_lib import checks

if TYPE_CHECKING:
    from dgm_lib.train import History

# Okabe & Ito 2008: eight colours that people with any common form of colour blindness tell apart
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442"),
    "#000000",
)
COLORS = [BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK]
GREY = "#767676"
DENSITY = "cividis"  # even in brightness, and the same to colour-blind eyes

STYLE = {
    "axes.prop_cycle": plt.cycler(color=COLORS),
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 14,
    "axes.labelsize": 13,
    "figure.constrained_layout.use": True,
    "figure.dpi": 90,
    "font.size": 12,
    "grid.alpha": 0.3,
    "image.cmap": "gray",
    "legend.frameon": False,
    "lines.linewidth": 2.2,
}
plt.rcParams.update(STYLE)


# ---- tensors from any device ---------------------------------------------------------------------------------------


class TensorAxes(Axes):
    """Axes that draw tensors from any device, with or without a gradient. All axes are such, once this is imported."""

    name = "rectilinear"  # what pyplot makes where nothing else is asked for


def _takes_tensors(method: Callable) -> Callable:
    @wraps(method)
    def drawn(ax: Axes, *args: Any, **kwargs: Any) -> Any:
        return method(ax, *map(_fetched, args), **{key: _fetched(value) for key, value in kwargs.items()})

    return drawn


def _fetched(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_fetched(part) for part in value]
    return value.detach().cpu() if isinstance(value, Tensor) else value


_SHAPES = ("plot", "scatter", "bar", "barh", "hist", "imshow", "fill_between", "vlines", "text", "annotate")
_SPANS = ("axhline", "axvline", "axvspan")
for _name in (*_SHAPES, *_SPANS):
    setattr(TensorAxes, _name, _takes_tensors(getattr(Axes, _name)))
register_projection(TensorAxes)

# ---- figures -------------------------------------------------------------------------------------------------------


def show(fig: Figure, alt: str) -> None:
    """Puts the figure into the notebook with `alt`: one or two sentences that say what it shows."""
    from IPython.display import display

    if len(alt) < 20:
        raise ValueError(f"describe the figure for those who cannot see it: {alt!r} is too short")
    display(fig, metadata={"image/png": {"alt": alt}})
    plt.close(fig)


def panels(
    n: int, columns: int | None = None, *, size: tuple[float, float] = (3.6, 3.4), share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of n panels in a grid; `size` is the width and height of one of them, in inches."""
    columns = min(checks.whole("n", n, least=1), checks.whole("columns", columns or n, least=1))
    rows = ceil(n / columns)
    fig, grid = plt.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False, sharex=share, sharey=share
    )
    for ax in grid.flat[n:]:
        ax.axis("off")
    return fig, list(grid.flat[:n])


def images(x: Tensor, *, columns: int = 10, titles: Sequence[str] = (), size: float = 0.9) -> Figure:
    """A grid of images (N, C, H, W) with values in [0, 1]; titles, if any, one for each."""
    if x.dim() != 4 or not len(x):
        raise ValueError(f"images are (N, C, H, W), one or more; x is {tuple(x.shape)}: x[:, None] gives grey ones a C")
    if titles and len(titles) != len(x):
        raise ValueError(f"there are {len(titles)} titles for {len(x)} images: give one for each, or none")
    fig, axes = panels(len(x), columns, size=(size, size + (0.25 if titles else 0)))
    for i, ax in enumerate(axes):
        image(ax, x[i], titles[i] if titles else "")
    return fig


def rows(named: Mapping[str, Tensor], columns: int = 12, *, size: float = 0.8) -> Figure:
    """Rows of images with their names before them: the first `columns` of each (N, C, H, W), `size` inches wide each.

    A row is drawn as one picture: axes for each image would take longer than to make it.
    """
    fig, axes = panels(len(named), 1, size=(size * columns, size))
    for ax, (name, x) in zip(axes, named.items()):
        image(ax, _strip(x[:columns], columns))
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=12)
    return fig


def _strip(x: Tensor, n: int) -> Tensor:
    """Images side by side with white around each, and white where there are fewer than n: (N, C, H, W) -> (C, h, w)."""
    if x.dim() != 4 or not len(x):
        raise ValueError(f"a row is of images (N, C, H, W), one or more; this one is {checks.kind(x)}")
    white, gap = float(x.shape[1] > 1), max(1, x.shape[-1] // 20)  # a single channel is ink, of which white has none
    x = pad(pad(x, [gap] * 4, value=white), [0] * 7 + [n - len(x)], value=white)
    return torch.cat(list(x), -1)


def image(ax: Axes, x: Tensor, title: str = "") -> None:
    """One image (C, H, W) with values in [0, 1]; a single channel is drawn as dark ink on white."""
    if x.dim() != 3 or len(x) not in (1, 3) or not x.is_floating_point():
        raise ValueError(
            f"an image is floats (C, H, W), C 1 or 3; this one is {checks.kind(x)}: Split.scaled gives such"
        )
    pixels = x.detach().cpu().float().clamp(0, 1)
    if len(pixels) == 1:
        ax.imshow(1 - pixels[0].numpy(), vmin=0, vmax=1, interpolation="nearest")
    else:
        ax.imshow(pixels.permute(1, 2, 0).numpy(), interpolation="nearest")  # (C, H, W) -> (H, W, C)
    bare(ax, title)


def bare(ax: Axes, title: str = "") -> None:
    """No ticks and no frame: for pictures, where position has no unit."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=11)


def curves(history: History, names: Sequence[str] = (), *, ylabel: str = "nats") -> Figure:
    """What `fit` recorded, a line a quantity; a dot marks the epoch whose state was kept."""
    missing = [name for name in names if name not in history.values]
    if missing or not history.values:
        recorded = ", ".join(history.values) or "none, as no epoch was played"
        raise ValueError(f"there is no curve of {missing or 'this history'}; recorded are: {recorded}")
    fig, ax = plt.subplots(figsize=(7, 4))
    for name in names or history.values:
        (line,) = ax.plot(range(1, len(history[name]) + 1), history[name], label=name)
        if history.best_epoch is not None:
            ax.plot(history.best_epoch + 1, history[name][history.best_epoch], "o", color=line.get_color(), ms=9)
    if history.best_epoch is not None:
        ax.plot([], [], "o", color=GREY, ms=9, label="the weights that were kept")
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.legend()
    return fig


def points(ax: Axes, x: Tensor, y: Tensor | None = None, *, title: str = "", extent: float = 4.0) -> None:
    """Points (N, 2) in the plane, coloured by label (N,) if there is one."""
    if x.dim() != 2 or x.shape[1] != 2 or (y is not None and y.shape != x.shape[:1]):
        labels = "" if y is None else f", y {tuple(y.shape)}"
        raise ValueError(f"points are (N, 2), labels (N,); x is {tuple(x.shape)}{labels}: choose two columns, x[:, :2]")
    color = BLUE if y is None else [COLORS[int(label) % len(COLORS)] for label in y]
    ax.scatter(*x.detach().cpu().float().T.numpy(), s=5, c=color, alpha=0.6, linewidths=0)
    _plane(ax, title, extent)


def density(
    ax: Axes,
    log_prob: Callable[[Tensor], Tensor],
    *,
    title: str = "",
    extent: float = 4.0,
    n: int = 160,
    device: torch.device | str | None = None,
) -> None:
    """exp(log p) of a density on the plane, evaluated on an n×n grid on `device`, by default torch's default one."""
    grid, _ = plane_grid(extent, n)
    with torch.no_grad():
        p = log_prob(grid if device is None else grid.to(device)).exp().float().cpu()
    if p.shape != (n * n,):
        raise ValueError(f"log_prob gave {tuple(p.shape)} for {n * n} points: it must give one number a point")
    ax.imshow(p.view(n, n).T.numpy(), origin="lower", extent=(-extent, extent, -extent, extent), cmap=DENSITY, vmin=0)
    _plane(ax, title, extent)
    ax.grid(False)


def plane_grid(extent: float = 4.0, n: int = 160) -> tuple[Tensor, float]:
    """The centres of n×n cells that tile [−extent, extent]², (n·n, 2), first coordinate slowest; the area of a cell."""
    side = 2 * extent / n
    centres = -extent + side * (torch.arange(n) + 0.5)
    return torch.cartesian_prod(centres, centres), side**2


def _plane(ax: Axes, title: str, extent: float) -> None:
    ax.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    if title:
        ax.set_title(title)


def table(
    ax: Axes, values: Tensor, *, xlabel: str, ylabel: str, xticks: Sequence[str] = (), yticks: Sequence[str] = ()
) -> None:
    """A matrix as colours, such as a transition matrix: one cell a number, with a bar that gives the scale."""
    if values.dim() != 2 or any(ticks and len(ticks) != n for ticks, n in zip((yticks, xticks), values.shape)):
        what = f"the matrix is {tuple(values.shape)}, with {len(yticks)} names of rows and {len(xticks)} of columns"
        raise ValueError(f"{what}: it must be (rows, columns), with one name for each or none")
    picture = ax.imshow(values.detach().cpu().float().numpy(), cmap=DENSITY, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(picture, ax=ax, shrink=0.8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if xticks:
        ax.set_xticks(range(len(xticks)), xticks)
    if yticks:
        ax.set_yticks(range(len(yticks)), yticks)
    ax.grid(False)


def ruler(results: Mapping[str, float], *, xlabel: str, baselines: Sequence[str] = (), start: float = 0.0) -> Figure:
    """Models on one ruler, the worst on top: a bar each, grey for the trivial baselines, with its figure beside it."""
    if not results or (strange := [name for name in results if not isfinite(results[name])]):
        what = f"the figure of {strange[0]!r} is {results[strange[0]]}" if results else "no model is given"
        raise ValueError(f"{what}: a ruler takes one finite number a model, and at least one model")
    names = sorted(results, key=results.__getitem__, reverse=True)
    fig, ax = plt.subplots(figsize=(9, 0.9 + 0.45 * len(names)))
    colors = [GREY if name in baselines else BLUE for name in names]
    bars = ax.barh(names, [results[name] - start for name in names], left=start, color=colors)
    ax.bar_label(bars, [f" {results[name]:.1f}" for name in names], fontsize=12)
    ax.set(xlabel=xlabel, xlim=(start, start + 1.12 * (results[names[0]] - start)))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return fig


def reliability_diagram(ax: Axes, reliability: tuple[Tensor, Tensor, Tensor], title: str = "") -> None:
    """Accuracy against confidence, a dot a bin whose area grows with its examples; on the diagonal, both agree.

    reliability: confidence, accuracy and count of each bin, as calibration.reliability gives them.
    """
    confidence, accuracy, count = (values.cpu().float() for values in reliability)
    filled = count > 0
    ax.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1.5, label="as sure as right")
    ax.plot(confidence[filled], accuracy[filled], color=BLUE, lw=1.2)
    ax.scatter(confidence[filled], accuracy[filled], 20 + 400 * count[filled] / count.sum(), color=BLUE, alpha=0.8)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal", xlabel="confidence", ylabel="share that is right")
    if title:
        ax.set_title(title)
