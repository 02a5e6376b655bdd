"""Is a classifier right as often as it says? All take logits (N, K) and labels (N,), of data that it has not seen."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dgm_lib.checks import check_labels

COLDEST, HOTTEST = 1e-2, 1e3  # what `fit_temperature` looks at


class Reliability(NamedTuple):
    """For each bin of confidence, (bins,): its mean, the share of right answers, and how many examples it holds.

    An empty bin has a mean and a share of NaN.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor


def negative_log_likelihood(logits: Tensor, y: Tensor) -> Tensor:
    """−log p(y|x): (N,) nats."""
    check_logits(logits, y)
    return cross_entropy(logits, y, reduction="none")


def reliability(logits: Tensor, y: Tensor, bins: int = 15) -> Reliability:
    """Examples sorted by their confidence max_c p(c|x) into bins of the same width, upper edges included.

    Guo et al. 2017, eq. 2.
    """
    check_logits(logits, y)
    if bins < 1:
        raise ValueError(f"bins is {bins}: it must be at least 1")
    confidence, label = logits.double().softmax(1).max(1)
    right = (label == y).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)[1:-1]
    which = torch.bucketize(confidence, edges)
    count = torch.bincount(which, minlength=bins)
    sums = (torch.zeros(bins).to(confidence).index_add_(0, which, values) for values in (confidence, right))
    return Reliability(*(total / count for total in sums), count)


def expected_calibration_error(logits: Tensor, y: Tensor, bins: int = 15) -> float:
    """Mean over examples of |accuracy − confidence| of their bin, from 0 to 1. Guo et al. 2017, eq. 3.

    With few examples it lies above 0 for a calibrated classifier, too: a share of ten examples is not exact.
    """
    confidence, accuracy, count = reliability(logits, y, bins)
    gaps = torch.where(count > 0, (accuracy - confidence).abs(), 0)
    return (gaps * count).sum().item() / len(y)


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """T for which softmax(logits / T) gives the labels the greatest likelihood; accuracy does not change.

    Fit it on validation data. Guo et al. 2017, section 4.2. The likelihood is concave in 1/T, so that its slope is
    halved upon, for T in 0.01 … 1000. Where all labels are right it grows without end as T falls, and 1 is given: such
    data say nothing against the logits as they are.
    """
    check_logits(logits, y)
    logits = logits.detach().double()
    if (logits.argmax(1) == y).all():
        return 1.0
    lead = logits.gather(1, y[:, None]) - logits  # of the right class over each, (N, K)
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(60):
        middle = (low + high) / 2
        slope = ((logits / math.exp(middle)).softmax(1) * lead).sum()  # of the log-likelihood, in 1/T
        low, high = (low, middle) if slope >= 0 else (middle, high)
    return math.exp((low + high) / 2)


def check_logits(logits: Tensor, y: Tensor) -> None:
    """Raises ValueError unless these are N ≥ 1 rows of logits without NaN, and their labels."""
    if logits.dim() != 2 or not len(logits) or not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype} of shape {tuple(logits.shape)}: they must be floats (N, K), N ≥ 1")
    if logits.isnan().any():
        raise ValueError(f"{int(logits.isnan().any(1).sum())} of {len(logits)} rows of logits hold a NaN")
    check_labels(y, len(logits), logits.shape[1])
