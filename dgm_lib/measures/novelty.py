"""How unusual an input is, and how well a score tells: ranks of scores, distances from the training set."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_lib import checks
from dgm_lib.neighbours import nearest


def auroc(inliers: Tensor, outliers: Tensor) -> float:
    """How well a score, higher for the unusual, tells (N,) inliers from (M,) outliers: 1 perfect, 0.5 chance.

    The probability that an outlier scores above an inlier, a tie counting half: exact, by ranks. Mann & Whitney 1947.
    """
    inliers, outliers = _ranked("inliers", inliers), _ranked("outliers", outliers)
    below, not_above = (torch.searchsorted(inliers, outliers, right=right).sum().item() for right in (False, True))
    return (below + not_above) / (2 * len(inliers) * len(outliers))


def fpr_at(inliers: Tensor, outliers: Tensor, tpr: float = 0.95) -> float:
    """The share of outliers (M,) that pass the lowest threshold below which at least `tpr` of inliers (N,) lie.

    The score is higher for the unusual, as in `auroc`. FPR95 of Liang, Li & Srikant 2018, whose positives are inliers.
    """
    inliers, outliers = _ranked("inliers", inliers), _ranked("outliers", outliers)
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is {tpr:g}: it must be above 0 and at most 1")
    n_passed = max(1, math.ceil(tpr * len(inliers) - 1e-9))  # 1e-9: 0.95 · 100 is not exactly 95
    return (outliers <= inliers[n_passed - 1]).double().mean().item()


def _ranked(name: str, scores: Tensor) -> Tensor:
    """The scores (N,), ascending, in float64 on the CPU."""
    scores = checks.as_tensor(scores, f"the scores of {name}")
    if scores.dim() != 1 or not len(scores):
        raise ValueError(f"the scores of {name} have the shape {tuple(scores.shape)}: they must be (N,), at least one")
    if scores.isnan().any():
        raise ValueError(f"{int(scores.isnan().sum())} of {len(scores)} scores of {name} are NaN, which have no rank")
    return scores.detach().cpu().double().sort().values


def nearest_distance(train: Tensor, x: Tensor, k: int = 1) -> Tensor:
    """Euclidean distance of each row of x to its k-th nearest of train, (N, …), (M, …) -> (M,): a score of novelty."""
    train, x = checks.as_rows(train, "train"), checks.as_rows(x, "x")
    if train.shape[1] != x.shape[1]:
        raise ValueError(f"train has {train.shape[1]} numbers a row and x has {x.shape[1]}: they must be as many")
    if not 1 <= checks.whole("k", k) <= len(train):
        raise ValueError(f"k is {k}: it must be from 1 to the {len(train)} rows of train")
    for name, rows in (("train", train), ("x", x)):
        checks.check_finite(rows, name)
    dtype = torch.promote_types(train.dtype, x.dtype)
    return nearest(x.to(dtype), train.to(dtype), k)[0][:, -1]


def class_distances(train: Tensor, y: Tensor, x: Tensor, n_classes: int) -> Tensor:
    """Euclidean distance of each row of x to its nearest of each class: (N, …), (N,), (M, …) -> (M, K).

    The class of the least is what 1-NN says. Cover & Hart 1967. Raises ValueError for a class without an example.
    """
    train, y = checks.as_tensor(train, "train"), checks.as_labels(y, len(train), n_classes)
    checks.class_counts(y, n_classes)
    return torch.stack([nearest_distance(train[y == c], x) for c in range(n_classes)], 1)
