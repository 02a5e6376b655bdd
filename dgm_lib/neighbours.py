"""Who lies near whom: Euclidean distances that are right wherever the data lie, and whatever they are copies of.

‖x − y‖² = ‖x‖² + ‖y‖² − 2 xᵀy is quick by a product of matrices, but large numbers cancel: far from the origin, what is
left is rounding. What is returned here is computed from differences.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PAIRS = 2**22  # pairs of rows that are compared at a time: 16 MB of float32


def blocks(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Rows of x, so many at a time that not more than PAIRS pairs with rows of y are held."""
    return iter(x.split(max(1, PAIRS // max(1, len(y)))))


def distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M). A copy lies at exactly the distance of what it copies."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def nearest(x: Tensor, train: Tensor, k: int, *, among_themselves: bool = False) -> tuple[Tensor, Tensor]:
    """Distances to the k nearest rows of train, ascending, and their indices: (M, D), (N, D) -> (M, k) each.

    among_themselves: x is train, and no row is its own neighbour.
    """
    centre, found = train.mean(0), []
    around = train - centre
    for i in blocks(torch.arange(len(x), device=x.device), train):
        maybe = _may_be_near(x[i] - centre, around, k + among_themselves)
        if among_themselves:
            maybe[torch.arange(len(i), device=i.device), i] = False
        found.append(_squared_distances(x[i], train, maybe).topk(k, largest=False))
    return torch.cat([f.values for f in found]).sqrt(), torch.cat([f.indices for f in found])


def inside(x: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Whether each row lies in at least one ball, or on its border: (M, D), (N, D), (N,) -> (M,) bool.

    radii: distances as `nearest` gives them. Only where a product of matrices cannot tell, differences are taken.
    """
    centre, found = centres.mean(0), []
    around, squares = centres - centre, radii.square()
    for rows in blocks(x, centres):
        about, error = _about(rows - centre, around)
        error += (x.shape[1] + 4) * torch.finfo(x.dtype).eps * squares  # a radius is rounded, too
        sure = (about + error <= squares).any(1)
        maybe = ~(about - error > squares) & ~sure[:, None]  # NaN, ∞ − ∞, is a maybe
        found.append(sure | (_squared_distances(rows, centres, maybe).sqrt() <= radii).any(1))
    return torch.cat(found)


def _may_be_near(x: Tensor, train: Tensor, k: int) -> Tensor:
    """Which rows of train may be among the k nearest: (m, D), (N, D) -> (m, N) bool, few of them where x is centred."""
    about, error = _about(x, train)
    return about - error <= (about + error).topk(k, largest=False).values[:, -1:]


def _about(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances by a product of matrices, and by how much they may err: (m, D), (N, D) -> (m, N) each.

    They err by less than (D + 4) eps (‖x‖² + ‖y‖²). Higham 2002, 3.1.
    """
    norms = x.square().sum(1, keepdim=True) + train.square().sum(1)
    return norms - 2 * x @ train.T, (x.shape[1] + 4) * torch.finfo(x.dtype).eps * norms


def _squared_distances(x: Tensor, train: Tensor, wanted: Tensor) -> Tensor:
    """By differences, ∞ where they are not wanted: (m, D), (N, D), (m, N) -> (m, N)."""
    i, j = wanted.nonzero(as_tuple=True)
    part = max(1, PAIRS // max(1, x.shape[1]))
    found = [(x[a] - train[b]).square().sum(1) for a, b in zip(i.split(part), j.split(part))]
    return torch.full_like(wanted, torch.inf, dtype=x.dtype).index_put_((i, j), torch.cat(found))


def neighbour_shares(far: Tensor, k: int) -> Tensor:
    """How much of each is one of the k nearest, by distances (m, N): 1 or 0; equals share the places that are left."""
    kth = far.topk(k, largest=False).values[:, -1:]
    closer, equal = far < kth, far == kth
    left = (k - closer.sum(1, keepdim=True)).to(far)
    return closer + equal * (left / equal.sum(1, keepdim=True))
