"""Independent Laplace coordinates.   p(x) = Π_i exp(−|x_i − μ_i| / b_i) / 2b_i.   Laplace 1774.

Log-probabilities are in nats per example.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Laplace

from dgm_lib import checks


class LaplacePoints(nn.Module):
    """p(x) for points x of shape (B, D), D = n_features. Raises ValueError for n_features < 1."""

    def __init__(self, n_features: int):
        super().__init__()
        checks.check_whole(1, n_features=n_features)
        self.mu = nn.Parameter(torch.zeros(n_features))
        self.log_b = nn.Parameter(torch.zeros(n_features))

    def distribution(self) -> Independent:
        """p over points (B, D)."""
        return Independent(Laplace(self.mu, self.log_b.exp(), validate_args=False), 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, D) -> (B,) nats; the logarithm of a density, so it may be positive."""
        checks.check_examples(x, self.mu.shape, self, "points")
        return self.distribution().log_prob(x)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean of −log p(x): a scalar in nats."""
        checks.check_batch(x, self.mu.shape, self)
        return -self.log_prob(x).mean()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, D)."""
        checks.check_whole(0, n=n)
        return self.distribution().sample((n,))
