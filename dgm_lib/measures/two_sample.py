"""Two samples, one real and one made: are they of one law? Measures that need no likelihood, only features.

Features are (N, D) and (M, D), such as `judges.Judge.features` gives of images; all is counted in float64 on the CPU.
No measure here has a scale of its own: show it beside `control`, the same measure of real against real.
Every function raises ValueError for features that are not finite, for another D, and for too few samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from dgm_lib import checks
from dgm_lib.gaussians import covariance_of
from dgm_lib.neighbours import blocks, distances, inside, nearest, neighbour_shares

ROUNDING = 1e-9  # votes by which sharing them may err, far below the smallest lead

Value = TypeVar("Value")


def control(measure: Callable[[Tensor, Tensor], Value], real: Tensor, n: int, *, seed: int = 0) -> Value:
    """What a perfect model would reach: the measure of n real examples against n others, drawn from (N, …)."""
    real = checks.as_tensor(real, "real")
    if not 1 <= checks.whole("n", n) <= len(real) // 2:
        raise ValueError(f"n is {n}: two disjoint parts need {2 * n} real examples, 2 or more, of {len(real)}")
    rows = torch.randperm(len(real), generator=checks.seeded(seed), device="cpu")[: 2 * n].to(real.device)
    return measure(real[rows[:n]], real[rows[n:]])


# ---- distances -----------------------------------------------------------------------------------------------------


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) between the Gaussians fitted to features (N, D) and (M, D).

    It is the square of a distance, in the features' unit squared. Small samples make it larger: compare it with that
    of two real samples of the same sizes. Fewer than D + 1, of which no covariance has full rank, are refused.
    Dowson & Landau 1982; Heusel et al. 2017.
    """
    a, b = _features({"a": a, "b": b})
    _check_enough({"a": a, "b": b}, a.shape[1] + 1, f"the Fréchet distance of {a.shape[1]} features")
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    overlap = torch.linalg.matrix_norm(root_a @ root_b, "nuc")  # Tr (Σ₁Σ₂)^½: sum of the singular values of Σ₁^½ Σ₂^½
    distance = (a.mean(0) - b.mean(0)).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * overlap
    return max(distance.item(), 0.0)  # rounding may leave it a hair below


def _covariance_root(x: Tensor) -> Tensor:
    """The symmetric square root of the covariance of rows: (N, D) -> (D, D)."""
    values, vectors = torch.linalg.eigh(covariance_of(x, correction=1))
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def kernel_distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The squared maximum mean discrepancy E k(a, a') + E k(b, b') − 2 E k(a, b), and its standard error.

    k(x, y) = (xᵀy/D + 1)³, Bińkowski et al. 2018, section 4: made for features of about unit size, such as a judge's;
    of large ones it sees the largest only. The estimator is without bias, Gretton et al. 2012, eq. 3: for equal laws it
    is 0 in the mean, and so often below. The error is that of the jackknife, which errs on the large side (Efron &
    Stein 1981): by about √2 where the laws are equal.
    """
    a, b = _features({"a": a, "b": b})
    _check_enough({"a": a, "b": b}, 3, "the kernel distance")
    n, m = len(a), len(b)
    within_a, within_b = (_kernel_sums(x, x) - _kernel((x * x).sum(1), x) for x in (a, b))  # Σ over the others
    across_a, across_b = _kernel_sums(a, b), _kernel_sums(b, a)
    value = within_a.sum() / (n * (n - 1)) + within_b.sum() / (m * (m - 1)) - 2 * across_a.sum() / (n * m)
    variance = _jackknife(within_a, across_a, m) + _jackknife(within_b, across_b, n)
    return value.item(), variance.sqrt().item()


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    """Σ_j k(x_i, y_j): (N, D), (M, D) -> (N,)."""
    return torch.cat([_kernel(rows @ y.T, x).sum(1) for rows in blocks(x, y)])


def _kernel(products: Tensor, x: Tensor) -> Tensor:
    return (products / x.shape[1] + 1) ** 3


def _jackknife(within: Tensor, across: Tensor, m: int) -> Tensor:
    """The part of the variance that is owed to one sample: (n − 1) times that of the values without each example.

    within, across: (n,) kernel sums of each example with the others of its sample, and with the m of the other one.
    """
    n = len(within)
    without = (within.sum() - 2 * within) / ((n - 1) * (n - 2)) - 2 * (across.sum() - across) / ((n - 1) * m)
    return (n - 1) * without.var(correction=0)


# ---- quality and variety -------------------------------------------------------------------------------------------


class PrecisionRecall(NamedTuple):
    """Two shares, each 0 … 1."""

    precision: float  # of made examples that lie where real ones are
    recall: float  # of real examples that lie where made ones are


def precision_recall(real: Tensor, made: Tensor, k: int = 3) -> PrecisionRecall:
    """Are made examples like real ones, and are all kinds of real ones made?

    A sample is where the balls around its examples are, each as wide as the distance to the k-th nearest of the others.
    Kynkäänniemi et al. 2019, eq. 1 and 2. Both are below 1 for equal laws; one outlier with a wide ball raises them.
    """
    real, made = _features({"real": real, "made": made})
    _check_neighbours({"real": real, "made": made}, k)
    of_real, of_made = (nearest(x, x, k, among_themselves=True)[0][:, -1] for x in (real, made))
    precision, recall = inside(made, real, of_real), inside(real, made, of_made)
    return PrecisionRecall(precision.double().mean().item(), recall.double().mean().item())


# ---- a test --------------------------------------------------------------------------------------------------------

Classify = Callable[[Tensor, Tensor, Tensor], Tensor]  # training features (N, D), their labels, test features -> labels


class TwoSampleTest(NamedTuple):
    """What a classifier found that was trained to tell two samples apart."""

    accuracy: float  # share of held-out examples whose sample it named; 0.5 if it cannot tell
    p_value: float  # how probable so many hits are, or more, if both samples are of one law


def by_neighbours(train: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The majority of the ⌊√N⌋ nearest of N training examples, 0 where it is a draw: (N, D), (N,), (M, D) -> (M,).

    Examples that are as far as each other share the votes that are left.
    """
    k = math.isqrt(len(train))
    votes = [neighbour_shares(distances(rows, train), k) @ y.to(train) for rows in blocks(x, train)]
    return (torch.cat(votes) > k / 2 + ROUNDING).long()


def two_sample_accuracy(a: Tensor, b: Tensor, classify: Classify = by_neighbours, *, seed: int = 0) -> TwoSampleTest:
    """Can a classifier, trained on half of the examples, name the sample of the other half? Lopez-Paz & Oquab 2017.

    As many examples of each are used as the smaller sample has. classify: `by_neighbours` as in that paper,
    or any other. The p-value is exact for every number of examples and every classifier: that of
    Fisher's test, of which the paper has the normal approximation. It says how sure a difference is, not how large.
    """
    a, b = _features({"a": a, "b": b})
    _check_enough({"a": a, "b": b}, 8, "the test")  # below, no outcome has a p-value under 0.05
    half = min(len(a), len(b)) // 2
    generator = checks.seeded(seed)
    (a_train, a_test), (b_train, b_test) = (
        x[torch.randperm(len(x), generator=generator, device="cpu")[: 2 * half]].split(half) for x in (a, b)
    )
    y = torch.arange(2, device="cpu").repeat_interleave(half)
    named = checks.as_labels(classify(torch.cat([a_train, b_train]), y, torch.cat([a_test, b_test])), 2 * half, 2).cpu()
    named_b, right_b = int(named.sum()), int(named[half:].sum())
    return TwoSampleTest((named == y).double().mean().item(), _tail(right_b, named_b, half))


def _tail(hits: int, drawn: int, half: int) -> float:
    """Probability of `hits` or more among `drawn` examples, drawn at random of `half` of each kind. Fisher 1922."""
    i = torch.arange(hits, min(drawn, half) + 1, dtype=torch.float64, device="cpu")
    log_p = _log_choose(half, i) + _log_choose(half, drawn - i) - _log_choose(2 * half, i.new_tensor(drawn))
    return min(log_p.logsumexp(0).exp().item(), 1.0)


def _log_choose(n: int, k: Tensor) -> Tensor:
    """Logarithm of the binomial coefficient; −∞ outside of 0 … n."""
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


# ---- what is let in ------------------------------------------------------------------------------------------------


def _features(samples: dict[str, Tensor]) -> list[Tensor]:
    """Both samples in float64 on the CPU."""
    samples = {name: checks.as_tensor(x, name) for name, x in samples.items()}
    shapes = [tuple(x.shape) for x in samples.values()]
    if any(len(shape) != 2 for shape in shapes) or len({shape[1] for shape in shapes}) > 1 or not shapes[0][1]:
        names, sizes = " and ".join(samples), " and ".join(map(str, shapes))
        raise ValueError(f"features {names} have the shapes {sizes}: they must be (N, D) and (M, D) with the same D")
    for name, x in samples.items():
        strange = ~x.isfinite()
        if strange.any():
            n, (i, j) = int(strange.any(1).sum()), checks.first(strange)
            hold = f"{n} of {len(x)} rows of {name} hold a feature that is NaN or infinite"
            raise ValueError(f"{hold}, the first is {name}[{i}, {j}] = {x[i, j].item()}")
    return [x.detach().cpu().double() for x in samples.values()]


def _check_enough(samples: dict[str, Tensor], needed: int, what: str) -> None:
    for name, x in samples.items():
        if len(x) < needed:
            raise ValueError(f"{what} needs at least {needed} examples of each sample, and {name} has {len(x)}")


def _check_neighbours(samples: dict[str, Tensor], k: int) -> None:
    for name, x in samples.items():
        if not 1 <= checks.whole("k", k) < len(x):
            raise ValueError(f"k is {k} and {name} has {len(x)} examples: k must be at least 1, and below that")
