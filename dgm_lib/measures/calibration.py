"""Is a classifier right as often as it says? All take logits (N, K) and labels (N,), of data that it has not seen.

A logit of −∞ is an impossible class, and one of +∞ a certain one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from dgm_lib import checks

COLDEST, HOTTEST = 1e-2, 1e3  # what `fit_temperature` looks at


class Reliability(NamedTuple):
    """For each bin of confidence, (bins,): its mean, the share of right answers, and how many examples it holds.

    An empty bin has a mean and a share of NaN.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor


def negative_log_likelihood(logits: Tensor, y: Tensor) -> Tensor:
    """−log p(y|x): (N,) nats; ∞ for a label that is impossible."""
    logits, y = checked(logits, y)
    return nll_loss(logits.log_softmax(1), y, reduction="none")


def reliability(logits: Tensor, y: Tensor, bins: int = 15) -> Reliability:
    """Examples sorted by max_c p(c|x) into bins of one width, upper edges included. Guo et al. 2017, eq. 2."""
    checks.check_whole(1, bins=bins)
    logits, y = checked(logits, y)
    p = checks.as_double(logits).softmax(1)
    confidence, right = p.amax(1), (checks.named(p) == y.to(p.device)).to(p)
    edges = torch.linspace(0, 1, bins + 1, dtype=p.dtype, device=p.device)[1:-1]
    which = torch.bucketize(confidence, edges)
    count = torch.bincount(which, minlength=bins)
    mean_of = lambda values: confidence.new_zeros(bins).index_add_(0, which, values) / count  # noqa: E731
    return Reliability(mean_of(confidence), mean_of(right), count)


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
    halved upon, for T in 0.01 … 1000. Where no label has a lower logit than another class, it grows without end as T
    falls, and 1 is given: such data say nothing against the logits as they are. Raises ValueError for a label that is
    impossible, and for a class that is certain, at every T.
    """
    certain = checks.first(checks.as_tensor(logits, "logits") == torch.inf)
    logits, y = checked(logits, y)
    if certain:
        raise ValueError(f"a logit of example {certain[0]} is +∞, which no temperature changes: leave it out")
    logits = checks.as_double(logits.detach())
    own = logits.gather(1, y.to(logits.device)[:, None])
    if impossible := checks.first(own[:, 0] == -torch.inf):
        raise ValueError(f"the label of example {impossible[0]} is impossible at every temperature: leave it out")
    lead = own - logits  # of the right class over each, (N, K)
    if (lead >= 0).all():
        return 1.0
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(60):
        middle = (low + high) / 2
        p = (logits / math.exp(middle)).softmax(1)
        slope = torch.where(p > 0, p * lead, 0).sum()  # of the log-likelihood, in 1/T
        low, high = (low, middle) if slope >= 0 else (middle, high)
    return math.exp((low + high) / 2)


def checked(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Floats (N, K) without +∞, and int64 labels on their device. Raises ValueError for what are none."""
    logits = checks.finite_above(logits)
    if logits.shape[1] < 2:
        raise ValueError(f"logits are of shape {tuple(logits.shape)}: at least 2 classes are to be told apart")
    return logits, checks.as_labels(y, len(logits), logits.shape[1]).to(logits.device)
