"""What several files of tests use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal


def close(actual: Tensor, expected: Any, **tolerances: float) -> None:
    """Two tensors agree as far as their type allows; numbers and lists take the type of the first."""
    expected = torch.as_tensor(expected, dtype=actual.dtype, device=actual.device)
    torch.testing.assert_close(actual, expected, **tolerances)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64, that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(function: Callable, *arguments: Any, seed: int = 3) -> Any:
    """What a function gives after torch's own numbers were seeded."""
    torch.manual_seed(seed)
    return function(*arguments)


def agree(draws: Tensor, expected: Any, sigmas: float = 4.5) -> None:
    """The mean of many draws, (n, …), is `expected` as far as their spread allows."""
    draws = draws.detach().double()
    error = (draws.mean(0) - torch.as_tensor(expected).double()).abs()
    assert (error < sigmas * draws.std(0) / len(draws) ** 0.5 + 1e-9).all(), error


def states(n: int) -> Tensor:
    """All vectors of n bits, (2^n, n) float64; row i holds the digits of i, the highest first."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * n).view(-1, n)


@torch.no_grad()
def set_linear(layer: nn.Linear, weight: Any, bias: Any) -> None:
    """Gives a layer its numbers."""
    layer.weight.copy_(torch.as_tensor(weight))
    layer.bias.copy_(torch.as_tensor(bias))


def descend(model: nn.Module, x: Tensor) -> Tensor:
    """−log p at the end of a descent by L-BFGS."""
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, line_search_fn="strong_wolfe", tolerance_change=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        return loss

    return optimizer.step(closure)


# ---- gaps in vectors -----------------------------------------------------------------------------------------------


def slanted_vectors() -> Tensor:
    """300 points in five dimensions that vary most in two directions, float64."""
    generator = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(300, n, generator=generator, dtype=torch.float64) for n in (2, 5))
    weight = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    return z @ weight.T + 0.5 * eps * torch.linspace(0.5, 1.5, 5) + torch.arange(5)


def some_known(n: int, seed: int = 0, n_features: int = 5) -> Tensor:
    """A random mask whose first rows know everything, nothing, the first feature and all but the first."""
    known = torch.rand(n, n_features, generator=torch.Generator().manual_seed(seed)) < 0.5
    first = torch.arange(n_features) == 0
    known[:4] = torch.stack([first | True, first & False, first, ~first])
    return known


def conditioned(mu: Tensor, covariance: Tensor, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """E[x | x_known] and log p(x_known) of one point under a Gaussian, by its blocks. Bishop 2006, 2.81 and 2.98."""
    if not known.any():
        return mu, torch.zeros(())
    inside, across = covariance[known][:, known], covariance[:, known]
    mean = mu + across @ torch.linalg.inv(inside) @ (x - mu)[known]
    return torch.where(known, x, mean), MultivariateNormal(mu[known], inside).log_prob(x[known])
