"""What is asked of Gaussians in several places: covariances of rows, densities, and what is known of a part."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_lib import checks

NUMBERS = 2**18  # of the covariances that are factorised together where each example has gaps of its own: 2 MB, a cache


def covariance_of(x: Tensor, weights: Tensor | None = None, *, correction: int = 0) -> Tensor:
    """The covariance of rows, of which each counts `weights` times: (N, D), (N,) -> (D, D), for one feature, too."""
    return torch.cov(x.mT, correction=correction, aweights=weights).view(x.shape[1], x.shape[1])


def log_normal(centred: Tensor, scale_tril: Tensor) -> Tensor:
    """log N(x; μ, LLᵀ) from x − μ, (B, D), and one L, (D, D): (B,) nats."""
    solved = torch.linalg.solve_triangular(scale_tril, centred.mT, upper=False).mT
    log_det = 2 * scale_tril.diagonal().log().sum()
    return -0.5 * (solved.square().sum(1) + log_det + centred.shape[1] * math.log(2 * math.pi))


def inverse_factor(precision: Tensor) -> Tensor:
    """L, lower triangular, with LLᵀ = P⁻¹ for positive definite P: (…, D, D). It asks a device for no number."""
    turned, _ = torch.linalg.cholesky_ex(precision.flip(-2, -1))
    eye = torch.eye(precision.shape[-1]).to(precision)
    return torch.linalg.solve_triangular(turned.flip(-2, -1).mT, eye, upper=False)


def of_known(x: Tensor, known: Tensor, mu: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """log N(x_known; …), (B,) nats, and E[x | x_known], (B, D), of one Gaussian. Bishop 2006, 2.81 and 2.98.

    x: (B, D). known: bool, (B, D), or (1, D) where all examples have the same gaps, and one matrix is factorised.
    In float64: Σ may be so narrow in some directions that float32, solving it, would keep no digit of the mean.
    """
    mu, covariance = checks.as_double(mu), checks.as_double(covariance)
    known = known.to(mu.device)
    centred = torch.where(known, x.to(mu) - mu, 0)
    part = max(1, NUMBERS // x.shape[1] ** 2) if len(known) > 1 else max(1, len(x))
    parts = [_of_known(c, m, covariance) for c, m in zip(centred.split(part), known.split(part))]
    log_prob, gain = (torch.cat(values).to(x) for values in zip(*parts, strict=True))
    return log_prob, gain + mu.to(x)


def _of_known(centred: Tensor, known: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """In the row and column of an unknown entry Σ becomes I: the known ones keep their density, others are apart."""
    both = known[:, :, None] & known[:, None]  # (B, D, D)
    factor = torch.linalg.cholesky(torch.where(both, covariance, torch.eye(len(covariance)).to(covariance)))
    solved = _solved(factor, centred)  # Σ⁻¹(x − μ), 0 where unknown
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = log_det + known.sum(-1).to(centred) * math.log(2 * math.pi)
    return -0.5 * ((centred * solved).sum(-1) + constant), solved @ covariance


def _solved(factor: Tensor, rows: Tensor) -> Tensor:
    """(LLᵀ)⁻¹ times each row, (B, D), with an L for each, (B, D, D), or one for all, (1, D, D)."""
    columns = rows.mT[None] if len(factor) == 1 else rows[..., None]
    halfway = torch.linalg.solve_triangular(factor, columns, upper=False)
    solved = torch.linalg.solve_triangular(factor.mT, halfway, upper=True)
    return solved[0].mT if len(factor) == 1 else solved.squeeze(-1)


def check_points(x: Tensor, n_features: int) -> None:
    """Raises ValueError unless x is (B, n_features), floats and finite."""
    checks.check_examples(x, (n_features,), what="points")
    checks.check_finite(x)


def only_known(
    x: Tensor, known: Tensor | None, n_features: int, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """x with zeros where it is not known, (B, D), and the mask: (B, D), or (D,) if it is the same for all examples."""
    if known is None:
        known = torch.ones(n_features, dtype=torch.bool, device=x.device)
    else:
        x = torch.where(checks.check_known(known, x), x, 0)
    check_points(x, n_features)
    x = x if dtype is None else x.to(dtype)
    return x, known.expand(n_features) if known.dim() < 2 else known.expand_as(x)
