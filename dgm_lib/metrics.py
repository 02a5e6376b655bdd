"""The rulers of the course: what a model is worth on data that it has not seen, and how sure that figure is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dgm_lib.checks import check_known

ROUNDING = 1e-3  # nats by which float32 may put a bound above the likelihood that it equals
PAIRS = 2**24  # distances that nearest_distance holds at a time: 64 MB


def per_example(function: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """`function(x)`, one number an example, over all batches: (N,) on the CPU."""
    with torch.no_grad():
        return torch.cat([function(x).cpu() for x, _ in batches])


def nats(log_prob: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean of −log p(x) in nats per example, and the standard error of that mean (nan for one example).

    log_prob: (B, …) -> (B,), an exact log-likelihood or a lower bound of it; then the figure is an upper bound.
    """
    values = -per_example(log_prob, batches).double()
    deviation = values.std().item() if len(values) > 1 else math.nan  # one example says nothing of it
    return values.mean().item(), deviation / math.sqrt(len(values))


def bits_per_dim(log_prob: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean of −log₂ p(x) per dimension: nats / (D ln 2)."""
    values = per_example(lambda x: log_prob(x) / x[0].numel(), batches).double()
    return -values.mean().item() / math.log(2)


def accuracy(classify: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of examples whose largest score belongs to their label; classify: (B, …) -> (B, K) scores."""
    return hits(classify, batches).mean().item()


def hits(classify: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """(N,) 1.0 where the largest score belongs to the label, 0.0 elsewhere: for `bootstrap_interval`."""
    with torch.no_grad():
        return torch.cat([(classify(x).argmax(1) == y).float().cpu() for x, y in batches])


def logits_of(classify: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The logits (N, K) and the labels (N,) of all batches, on the CPU, without a graph: what `calibration` takes."""
    with torch.no_grad():
        pairs = [(classify(x).cpu(), y.cpu()) for x, y in batches]
    logits, y = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat(y)


def balanced_accuracy(predicted: Tensor, y: Tensor, n_classes: int) -> float:
    """The mean over classes of the share of their examples that is named right: (N,), (N,) labels -> 0 … 1.

    A rare class counts as much as a frequent one. Raises ValueError for a class without an example.
    """
    shares = class_shares(y, n_classes)
    if predicted.shape != y.shape:
        raise ValueError(f"{tuple(predicted.shape)} labels are predicted for {tuple(y.shape)}: they must be as many")
    empty = (shares == 0).nonzero()
    if len(empty):
        raise ValueError(f"class {int(empty[0])} has no example, so no share of it is right: leave it out of n_classes")
    right = torch.bincount(y, (predicted == y).double(), minlength=n_classes) / len(y)
    return (right / shares).mean().item()


def bootstrap_interval(values: Tensor, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """An interval for the mean of `values` (N,): quantiles of the means of resampled data. Efron 1979."""
    rows = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(seed))
    means = values.cpu().double()[rows].mean(1)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return low, high


# ---- bounds of a likelihood ----------------------------------------------------------------------------------------


def elbo_gap(
    log_prob: Callable[[Tensor], Tensor], elbo: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Mean of log p(x) − ELBO(x) in nats per example, and the standard error of that mean.

    Where both are of one model, it is the mean of KL(q(z|x) ‖ p(z|x)): what is lost by a posterior that is not exact.
    log_prob, elbo: (B, …) -> (B,); the ELBO may be an estimate, or any other lower bound.
    Raises ValueError if it lies above log p by more than five standard errors: it is then no bound of it.
    """
    gap, error = nats(lambda x: elbo(x) - log_prob(x), batches)
    if gap < -(5 * error + ROUNDING):
        raise ValueError(
            f"the ELBO lies {-gap:.4g} nats above log p, standard error {error:.2g}: it is no bound of it; "
            "are both of the same model, of the same x, and in nats?"
        )
    return gap, error


def rate_distortion(
    elbo_terms: Callable[[Tensor], tuple[Tensor, Tensor]], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Rate KL(q(z|x) ‖ p(z)) and distortion −E_q log p(x|z), the means in nats per example; their sum is −ELBO.

    elbo_terms: (B, …) -> E_q log p(x|z) and the KL, (B,) each. For x of entropy H, H − distortion ≤ I(x; z) ≤ rate.
    Alemi et al. 2018, section 2.
    """
    terms = per_example(lambda x: torch.stack(elbo_terms(x), 1), batches).double()  # (N, 2)
    reconstruction, kl = terms.mean(0).tolist()
    return kl, -reconstruction


# ---- missing pixels ------------------------------------------------------------------------------------------------


def masked_error(x: Tensor, filled: Tensor, known: Tensor) -> Tensor:
    """Mean squared error of what was filled in, over the missing pixels only: (B, …) -> (B,), in the unit of x squared.

    known: bool, True where x was given, broadcast to x. Raises ValueError for an example in which nothing is missing.
    """
    if filled.shape != x.shape:
        raise ValueError(f"filled has the shape {tuple(filled.shape)} and x {tuple(x.shape)}: they must agree")
    check_known(known, x)
    missing = ~known.expand_as(x).flatten(1)
    complete = (~missing.any(1)).nonzero()
    if len(complete):
        raise ValueError(f"nothing is missing in example {int(complete[0])}: leave it out")
    squared = (filled - x).flatten(1).square()
    return torch.where(missing, squared, 0).sum(1) / missing.sum(1)


# ---- unusual inputs ------------------------------------------------------------------------------------------------


def auroc(inliers: Tensor, outliers: Tensor) -> float:
    """How well a score, higher for the unusual, tells (N,) inliers from (M,) outliers: 1 perfect, 0.5 chance.

    The probability that an outlier scores above an inlier, a tie counting half: exact, by ranks. Mann & Whitney 1947.
    Raises ValueError for a score that is NaN.
    """
    _check_scores("inliers", inliers)
    _check_scores("outliers", outliers)
    ranked, scores = inliers.cpu().double().sort().values, outliers.cpu().double()
    below, not_above = (torch.searchsorted(ranked, scores, right=right).sum().item() for right in (False, True))
    return (below + not_above) / (2 * len(inliers) * len(outliers))


def fpr_at(inliers: Tensor, outliers: Tensor, tpr: float = 0.95) -> float:
    """The share of outliers (M,) that pass the lowest threshold below which at least `tpr` of inliers (N,) lie.

    The score is higher for the unusual, as in `auroc`. FPR95 of Liang, Li & Srikant 2018, whose positives are inliers.
    """
    _check_scores("inliers", inliers)
    _check_scores("outliers", outliers)
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is {tpr:g}: it must be above 0 and at most 1")
    n_passed = max(1, math.ceil(tpr * len(inliers) - 1e-9))  # 1e-9: 0.95 · 100 is not exactly 95
    threshold = inliers.double().sort().values[n_passed - 1]
    return (outliers.double() <= threshold.to(outliers.device)).double().mean().item()


def _check_scores(name: str, scores: Tensor) -> None:
    if scores.dim() != 1 or not len(scores):
        raise ValueError(f"the scores of {name} have the shape {tuple(scores.shape)}: they must be (N,), at least one")
    if scores.isnan().any():
        raise ValueError(f"{int(scores.isnan().sum())} of {len(scores)} scores of {name} are NaN, which have no rank")


def nearest_distance(train: Tensor, x: Tensor, k: int = 1) -> Tensor:
    """Euclidean distance of each row of x to its k-th nearest of train, (N, …), (M, …) -> (M,): a score of novelty."""
    train, x = train.flatten(1), x.flatten(1)
    if train.shape[1] != x.shape[1]:
        raise ValueError(f"train has {train.shape[1]} numbers a row and x has {x.shape[1]}: they must be as many")
    if not 1 <= k <= len(train):
        raise ValueError(f"k is {k}: it must be from 1 to the {len(train)} rows of train")
    return torch.cat([_distances(train, rows, k) for rows in x.split(max(1, PAIRS // len(train)))])


def class_distances(train: Tensor, y: Tensor, x: Tensor, n_classes: int) -> Tensor:
    """Euclidean distance of each row of x to its nearest of each class: (N, …), (N,), (M, …) -> (M, K).

    The class of the least is what 1-NN says. Cover & Hart 1967. Raises ValueError for a class without an example.
    """
    empty = (class_shares(y, n_classes) == 0).nonzero()
    if len(empty):
        raise ValueError(f"class {int(empty[0])} has no example, so none is the nearest: leave it out of n_classes")
    return torch.stack([nearest_distance(train[y == c], x) for c in range(n_classes)], 1)


def _distances(train: Tensor, rows: Tensor, k: int) -> Tensor:
    """nearest_distance of some rows. cdist is fast and rounds to about a thousandth: it names the neighbour only."""
    neighbour = torch.cdist(rows, train).topk(k, largest=False).indices[:, -1]
    return (rows - train[neighbour]).square().sum(1).sqrt()


# ---- samples -------------------------------------------------------------------------------------------------------


def class_entropy(y: Tensor, n_classes: int) -> float:
    """Entropy in nats of how the labels (N,) spread over the classes: ln K if evenly, 0 if all are of one class."""
    return torch.special.entr(class_shares(y, n_classes)).sum().item()


def class_shares(y: Tensor, n_classes: int) -> Tensor:
    """The share of each class among labels (N,): (K,) float64, of sum 1."""
    if y.dim() != 1 or not len(y):
        raise ValueError(f"labels have the shape {tuple(y.shape)}: they must be (N,), at least one")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"labels go from {y.min()} to {y.max()}: they must lie in 0 … {n_classes - 1}")
    return torch.bincount(y, minlength=n_classes).double() / len(y)


# ---- densities in the plane ----------------------------------------------------------------------------------------

LogDensity = Callable[[Tensor], Tensor]


def kl_on_grid(log_p: LogDensity, log_q: LogDensity, points: Tensor, cell: float) -> float:
    """KL(p ‖ q) in nats of two densities in the plane, (n, 2) -> (n,), each known up to a constant of its own.

    Both are normalised on the grid, which must hold all of p. points, cell: the centres (n, 2) of cells and the area
    of one, as plots.plane_grid returns them.
    """
    p, q = (values - _log_sum(values, cell) for values in (_on_grid(log_p, points), _on_grid(log_q, points)))
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0).sum().item() * cell  # 0 log 0 = 0


def log_z_on_grid(log_f: LogDensity, points: Tensor, cell: float) -> float:
    """log ∫ f(x) dx in nats, the integral as a sum over the grid; points and cell as in `kl_on_grid`."""
    return _log_sum(_on_grid(log_f, points), cell).item()


def _log_sum(values: Tensor, cell: float) -> Tensor:
    return values.logsumexp(0) + math.log(cell)


def _on_grid(log_f: LogDensity, points: Tensor) -> Tensor:
    """log f at the points, without a graph: (n,) float64 on the CPU. Raises ValueError where it has no integral."""
    with torch.no_grad():
        values = log_f(points)
    if values.shape != points.shape[:1]:
        raise ValueError(f"log f of {len(points)} points has the shape {tuple(values.shape)}: it must be one a point")
    if values.isnan().any() or values.max().isinf():
        raise ValueError("log f is NaN or +∞ somewhere on the grid, or −∞ everywhere: it has no integral there")
    return values.cpu().double()
