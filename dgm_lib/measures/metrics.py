"""The rulers of the course: what a model is worth on data that it has not seen, and how sure that figure is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from dgm_lib import checks

ROUNDING = 1e-3  # nats by which float32 may put a bound above the likelihood that it equals,
DIGITS = 1e-6  # and the share of the likelihood itself: some ten roundings
DRAWN = 2**22  # numbers that bootstrap_interval holds at a time: 32 MB

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def per_example(function: Callable[[Tensor], Tensor], batches: Batches) -> Tensor:
    """`function(x)`, one number an example, over all batches: (N,) on the CPU.

    Raises ValueError where there is no example, and where the function gives more numbers than one, or fewer.
    """
    return _together([_one_each(function(x), x).cpu() for x, _ in _pairs(batches)])


def _pairs(batches: Batches) -> Iterator[tuple[Tensor, Any]]:
    """(x, y) of each batch. Raises ValueError for batches that are no such pairs."""
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
            raise ValueError(f"a batch is a {type(batch).__name__}: give pairs of tensors (x, y), as Split.batches")
        yield tuple(batch)


def _together(parts: list[Tensor]) -> Tensor:
    """What was found of all batches, one after the other. Raises ValueError where that is nothing."""
    if not sum(map(len, parts)):
        raise ValueError("there is no example in the batches: give some, and an iterator once only")
    return torch.cat(parts)


def _one_each(values: Any, x: Tensor) -> Tensor:
    """What a function says of examples x (n, …), (n,) or (n, 1), as (n,). Raises ValueError for anything else."""
    values = checks.as_tensor(values, "what is measured of x")
    if values.shape not in ((len(x),), (len(x), 1)):
        said = f"what is measured of {len(x)} examples has the shape {tuple(values.shape)}"
        raise ValueError(f"{said}: it must be one number an example, ({len(x)},), such as .flatten(1).sum(1) gives")
    return values.flatten()


def nats(log_prob: Callable[[Tensor], Tensor], batches: Batches) -> tuple[float, float]:
    """Mean of −log p(x) in nats per example, and the standard error of that mean (nan for one example).

    log_prob: (B, …) -> (B,), an exact log-likelihood or a lower bound of it; then the figure is an upper bound.
    """
    return _mean_and_error(-checks.as_double(per_example(log_prob, batches)))


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of (N,) numbers and its standard error."""
    deviation = values.std().item() if len(values) > 1 else math.nan  # one example says nothing of it
    return values.mean().item(), deviation / math.sqrt(len(values))


def bits_per_dim(log_prob: Callable[[Tensor], Tensor], batches: Batches) -> float:
    """Mean of −log₂ p(x) per dimension: nats / (D ln 2)."""
    values = per_example(lambda x: checks.as_double(_one_each(log_prob(x), x)) / math.prod(x.shape[1:]), batches)
    return -values.mean().item() / math.log(2)


def accuracy(classify: Callable[[Tensor], Tensor], batches: Batches) -> float:
    """Share of examples whose largest score belongs to their label; classify: (B, …) -> (B, K) scores."""
    return hits(classify, batches).mean().item()


@torch.no_grad()
def hits(classify: Callable[[Tensor], Tensor], batches: Batches) -> Tensor:
    """(N,) 1.0 where the largest score belongs to the label, 0.0 elsewhere: for `bootstrap_interval`."""
    return _together([(checks.named(scores) == y).float().cpu() for scores, y in _scored(classify, batches)])


@torch.no_grad()
def logits_of(classify: Callable[[Tensor], Tensor], batches: Batches) -> tuple[Tensor, Tensor]:
    """The logits (N, K) and the labels (N,) of all batches, on the CPU, without a graph: what `calibration` takes."""
    found = [(scores.cpu(), y.cpu()) for scores, y in _scored(classify, batches)]
    return _together([scores for scores, _ in found]), _together([y for _, y in found])


def _scored(classify: Callable[[Tensor], Tensor], batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores (B, K) and labels (B,) of each batch. Raises ValueError for scores and labels that are none."""
    for x, y in _pairs(batches):
        scores = checks.as_tensor(classify(x), "what the classifier says")
        checks.check_scores(scores, len(x))
        yield scores, checks.as_labels(y, len(x), scores.shape[1]).to(scores.device)


def balanced_accuracy(predicted: Tensor, y: Tensor, n_classes: int) -> float:
    """The mean over classes of the share of their examples that is named right: (N,), (N,) labels -> 0 … 1.

    A rare class counts as much as a frequent one. Raises ValueError for a class without an example.
    """
    predicted, y = checks.as_tensor(predicted, "predicted"), checks.as_tensor(y, "y")
    if predicted.shape != y.shape:
        raise ValueError(f"{tuple(predicted.shape)} labels are predicted for {tuple(y.shape)}: they must be as many")
    counts, y = checks.class_counts(y, n_classes), y.long()
    return (y[predicted.to(y.device) == y].bincount(minlength=n_classes).cpu() / counts.cpu()).mean().item()


def bootstrap_interval(values: Tensor, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """An interval for the mean of `values` (N,): quantiles of the means of resampled data. Efron 1979."""
    checks.check_whole(1, draws=draws)
    values = checks.as_tensor(values, "values")
    if values.dim() != 1 or not len(values) or not values.isfinite().all():
        raise ValueError(f"values have the shape {tuple(values.shape)}: they must be (N,), N ≥ 1 finite numbers")
    if not 0 < level < 1:
        raise ValueError(f"level is {level:g}: it must lie between 0 and 1, such as 0.95")
    values, generator, n = values.detach().cpu().double(), checks.seeded(seed), len(values)
    parts = torch.arange(draws, device="cpu").split(max(1, DRAWN // n))
    means = torch.cat(
        [values[torch.randint(n, (len(part), n), generator=generator, device="cpu")].mean(1) for part in parts]
    )
    tail = (1 - level) / 2
    low, high = torch.quantile(means, means.new_tensor([tail, 1 - tail])).tolist()
    return low, high


# ---- bounds of a likelihood ----------------------------------------------------------------------------------------


@torch.no_grad()
def elbo_gap(
    log_prob: Callable[[Tensor], Tensor], elbo: Callable[[Tensor], Tensor], batches: Batches
) -> tuple[float, float]:
    """Mean of log p(x) − ELBO(x) in nats per example, and the standard error of that mean.

    Where both are of one model, it is the mean of KL(q(z|x) ‖ p(z|x)): what is lost by a posterior that is not exact.
    log_prob, elbo: (B, …) -> (B,); the ELBO may be an estimate, or any other lower bound.
    Raises ValueError if it lies above log p by more than five standard errors: it is then no bound of it.
    """
    both = lambda x: torch.stack([_one_each(elbo(x), x), _one_each(log_prob(x), x)], 1)  # noqa: E731
    bound, exact = checks.as_double(_together([both(x).cpu() for x, _ in _pairs(batches)])).unbind(1)
    gap, error = _mean_and_error(exact - bound)
    rounding = ROUNDING + DIGITS * exact.abs().mean().item()
    if math.isnan(gap):
        raise ValueError("log p or the ELBO of an example is NaN, or both are infinite: there is no gap between them")
    if gap < -((0 if math.isnan(error) else 5 * error) + rounding):
        above = f"the ELBO lies {-gap:.4g} nats above log p, standard error {error:.2g}"
        raise ValueError(f"{above}: it is no bound of it; are both of the same model and x, and in nats?")
    return gap, error


@torch.no_grad()
def rate_distortion(elbo_terms: Callable[[Tensor], tuple[Tensor, Tensor]], batches: Batches) -> tuple[float, float]:
    """Rate KL(q(z|x) ‖ p(z)) and distortion −E_q log p(x|z), the means in nats per example; their sum is −ELBO.

    elbo_terms: (B, …) -> E_q log p(x|z) and the KL, (B,) each. For x of entropy H, H − distortion ≤ I(x; z) ≤ rate.
    Alemi et al. 2018, section 2.
    """
    terms = [torch.stack([_one_each(term, x).cpu() for term in elbo_terms(x)], 1) for x, _ in _pairs(batches)]  # (B, 2)
    reconstruction, kl = _together(terms).double().mean(0).tolist()
    return kl, -reconstruction


# ---- missing pixels ------------------------------------------------------------------------------------------------


def masked_error(x: Tensor, filled: Tensor, known: Tensor) -> Tensor:
    """Mean squared error of what was filled in, over the missing pixels only: (B, …) -> (B,), in the unit of x squared.

    known: bool, True where x was given, broadcast to x. Raises ValueError for an example in which nothing is missing.
    """
    if filled.shape != x.shape:
        raise ValueError(f"filled has the shape {tuple(filled.shape)} and x {tuple(x.shape)}: they must agree")
    missing = ~checks.check_known(known, x).reshape(len(x), math.prod(x.shape[1:]))
    if complete := checks.first(~missing.any(1)):
        raise ValueError(f"nothing is missing in example {complete[0]}: leave it out")
    filled, x = checks.at_least_float32(filled), checks.at_least_float32(x)  # bytes would wrap around
    squared = (filled - x).view_as(missing).square()
    return torch.where(missing, squared, 0).sum(1) / missing.sum(1)


# ---- samples -------------------------------------------------------------------------------------------------------


def class_entropy(y: Tensor, n_classes: int) -> float:
    """Entropy in nats of how the labels (N,) spread over the classes: ln K if evenly, 0 if all are of one class."""
    return torch.special.entr(class_shares(y, n_classes)).sum().item()


def class_shares(y: Tensor, n_classes: int) -> Tensor:
    """The share of each class among labels (N,): (K,) float64, of sum 1."""
    y = checks.as_tensor(y, "y")
    if y.dim() != 1 or not len(y) or y.is_floating_point():
        raise ValueError(f"labels are {y.dtype} of shape {tuple(y.shape)}: they must be whole numbers (N,), N ≥ 1")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"labels go from {y.min()} to {y.max()}: they must lie in 0 … {n_classes - 1}")
    return checks.as_double(torch.bincount(y.long(), minlength=n_classes)) / len(y)


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
        values = checks.as_tensor(log_f(points), "log f")
    if values.shape != points.shape[:1] or not len(points):
        raise ValueError(f"log f of {len(points)} points has the shape {tuple(values.shape)}: it must be one a point")
    if values.isnan().any() or values.max().isinf():
        raise ValueError("log f is NaN or +∞ somewhere on the grid, or −∞ everywhere: it has no integral there")
    return values.cpu().double()
