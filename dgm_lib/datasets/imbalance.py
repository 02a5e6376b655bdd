"""Draws of few labels or of rare classes, and the remedies for rare classes.

Nothing here knows a model: indices and tensors go in, and come out. A draw follows from its seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgm_lib import checks
from dgm_lib.neighbours import nearest
from dgm_lib.runtime import derive_seed

# ---- which examples ------------------------------------------------------------------------------------------------


def few_labels(y: Tensor, n_per_class: int, n_classes: int, seed: int) -> Tensor:
    """Indices of n_per_class examples of each class, ascending: (n_per_class · K,).

    With one seed, a draw of fewer is part of a draw of more. Raises ValueError for a class that has too few.
    """
    return imbalanced(y, [n_per_class] * n_classes, seed)


def imbalanced(y: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Indices of counts[c] examples of each class c, ascending: (Σ counts,). Raises ValueError as `few_labels` does."""
    y = checks.as_labels(y, len(y), len(counts))
    order = torch.randperm(len(y), generator=_generator(seed), device="cpu").to(y.device)
    taken = [_first(order[y[order] == c], n, c) for c, n in enumerate(counts)]
    return torch.cat(taken).sort().values


def _first(rows: Tensor, n: int, c: int) -> Tensor:
    if checks.whole("count", n) < 1:
        raise ValueError(f"{n} examples of class {c} are asked for: at least 1, or the class is never seen")
    if n > len(rows):
        raise ValueError(f"class {c} has {len(rows)} examples, and {n} are asked for: ask for fewer")
    return rows[:n]


# ---- rare classes --------------------------------------------------------------------------------------------------


def class_weights(y: Tensor, n_classes: int) -> Tensor:
    """N / (K n_c) for each class, (K,): weighted so, each class counts alike, and an example 1 in the mean.

    cross_entropy(logits, y, weight) divides by the weights of its batch; a weighted mean over N examples does not.
    """
    return len(y) / (n_classes * checks.class_counts(y, n_classes).float())


def oversample(y: Tensor, n_classes: int, *, to: int, seed: int) -> Tensor:
    """Indices in which each class occurs at least `to` times, (N + those repeated,): all of y, then repetitions.

    Repetitions go round a class in random order, so that its examples occur equally often, but for one.
    """
    checks.check_whole(0, to=to)
    y = checks.as_labels(y, len(y), n_classes)
    generator, rows = _generator(seed), [torch.arange(len(y), device=y.device)]
    for c, n in enumerate(checks.class_counts(y, n_classes).tolist()):
        passes = [torch.randperm(n, generator=generator, device="cpu") for _ in range(0, to - n, n)]
        if passes:
            rows.append((y == c).nonzero().squeeze(1)[torch.cat(passes)[: to - n].to(y.device)])
    return torch.cat(rows)


def smote(x: Tensor, y: Tensor, n_classes: int, *, to: int, k: int = 5, seed: int) -> tuple[Tensor, Tensor]:
    """(x, y), followed by points between neighbours of one class, until each class has `to`. Chawla et al. 2002.

    A new point is x_i + u (x_j − x_i): x_i any example of the class, x_j one of its k nearest in the class (all, where
    there are fewer), u uniform on [0, 1]. Classes that have `to` examples get none. x: floats, (N, …).
    Raises ValueError for a class with one example, which has no neighbour.
    """
    if not x.is_floating_point():
        raise ValueError(f"x is {x.dtype}: a point between two others needs floats, as Split.scaled gives them")
    checks.check_whole(0, to=to)
    checks.check_whole(1, k=k)
    y = checks.as_labels(y, len(x), n_classes)
    checks.check_finite(x)
    generator, xs, ys = _generator(seed), [x], [y]
    for c, n in enumerate(checks.class_counts(y, n_classes).tolist()):
        if n >= to:
            continue
        if n == 1:
            raise ValueError(f"class {c} has one example, and nothing lies between it and a neighbour: take it out")
        xs.append(_between_neighbours(x[y == c], to - n, k, generator))
        ys.append(y.new_full((to - n,), c))
    return torch.cat(xs), torch.cat(ys)


def _between_neighbours(x: Tensor, n: int, k: int, generator: torch.Generator) -> Tensor:
    """n new points of one class, (n, …), from its examples (M, …)."""
    rows, k = checks.as_rows(x, "x"), min(k, len(x) - 1)
    _, neighbours = nearest(rows, rows, k, among_themselves=True)  # (M, k)
    neighbours = neighbours.sort(1).values  # so that a draw does not hang on who of them is nearer by a hair
    i = torch.randint(len(x), (n,), generator=generator, device="cpu").to(x.device)
    j = neighbours[i, torch.randint(k, (n,), generator=generator, device="cpu").to(x.device)]
    u = torch.rand(n, generator=generator, device="cpu").to(x).view(-1, *[1] * (x.dim() - 1))
    return x[i] + u * (x[j] - x[i])


def _generator(seed: int) -> torch.Generator:
    checks.check_whole(0, seed=seed)
    return checks.seeded(derive_seed(seed))
