"""Six sets of points in the plane whose true density is known.   p(x) = 1/K Σ_y p(x|y),  y = 0 … K−1.

| name            | p(x given y)                                   | density                       |
|-----------------|------------------------------------------------|-------------------------------|
| two_moons       | Gaussian noise around a half circle, K = 2     | quadrature over the curve     |
| spirals         | Gaussian noise around an arm, K = 2            | quadrature over the curve     |
| rings           | Gaussian noise around a circle, K = 3          | exact: Bessel function I₀     |
| eight_gaussians | Gaussian, K = 8                                | exact                         |
| checkerboard    | uniform on a square, K = 8                     | exact; −∞ off the squares     |
| pinwheel        | Gaussian, turned by an angle f(‖x‖), K = 5     | exact: the turn has |det J| = 1 |

The error of the quadrature itself is below 1e-8 nats for x in [−5, 5]². In float32 rounding comes on top: below 1e-4
nats where log p > −12, more further out. A float64 x gives float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from dgm_lib import checks, runtime
from dgm_lib.datasets import paths
from dgm_lib.datasets.core import Data, Split


class Components(NamedTuple):
    """K densities in the plane.

    sample: (y (N,), generator) -> (N, 2), one draw from p(x|y) for each y.
    log_prob: x (B, 2) -> (B, K) nats, log p(x|y) for every y.
    """

    count: int
    sample: Callable[[Tensor, Generator | None], Tensor]
    log_prob: Callable[[Tensor], Tensor]


class Toy2D(Data):
    """A data set that knows the density it was drawn from: what a model of it can at best reach."""

    @property
    def components(self) -> Components:
        """The densities p(x|y), by the name of the set: functions cannot be pickled, names can."""
        return SETS[self.name]()

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (B,) nats, for points x (B, 2) on any device. It can be differentiated."""
        return self.component_log_prob(x).logsumexp(1) - math.log(self.components.count)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """log p(x|y) for every y, (B, K) nats: with equal p(y), its softmax over y is the exact p(y|x)."""
        checks.check_examples(x, (2,), what="points")
        return self.components.log_prob(checks.at_least_float32(x))

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n fresh points, (n, 2) float32; from torch's own stream where no generator is given."""
        with runtime.on_cpu():
            x, _ = _draw(self.components, checks.whole("n", n), generator)
        return x.to(torch.get_default_device())


def load(name: str, *, n: int = 10_000, seed: int = 0) -> Toy2D:
    """n ≥ 5 training points, n // 5 for validation and n // 5 for testing. x: (N, 2) float32; y: the component."""
    checks.whole("n", n, least=5)  # or validation and test stay empty
    components = SETS[name]()
    seeds = (runtime.derive_seed(checks.whole("seed", seed), part) for part in range(3))
    generators = (Generator().manual_seed(seed) for seed in seeds)
    train, validation, test = (
        Split(*_draw(components, count, generator)) for count, generator in zip((n, n // 5, n // 5), generators)
    )
    classes = tuple(str(y) for y in range(components.count))
    return Toy2D(name, train, validation, test, classes, paths.card("toy2d"))


def _draw(components: Components, n: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
    y = torch.randint(components.count, (n,), generator=generator)
    return components.sample(y, generator), y


# ---- Gaussians -----------------------------------------------------------------------------------------------------


def eight_gaussians(radius: float = 3.0, sigma: float = 0.3) -> Components:
    """Eight round Gaussians on a circle."""
    angle = torch.arange(8) * (math.pi / 4)
    means = radius * torch.stack([angle.cos(), angle.sin()], 1)  # (8, 2)

    def sample(y: Tensor, generator: Generator | None) -> Tensor:
        return means[y] + sigma * torch.randn(len(y), 2, generator=generator)

    def log_prob(x: Tensor) -> Tensor:
        return _round_gaussian(x[:, None, :], means.to(x), sigma)

    return Components(8, sample, log_prob)


def pinwheel(radius: float = 2.0, along: float = 0.55, across: float = 0.18, twist: float = 0.6) -> Components:
    """Five long Gaussians set around a circle, then turned by an angle that grows with the distance from the centre.

    Each point keeps its distance r while it turns by f(r), so area is kept too: |det J| = 1, and undoing the turn
    gives the density. Johnson et al. 2016 (arXiv 1603.06277) turn by the first coordinate instead, which changes area.
    """
    directions = torch.arange(5) * (2 * math.pi / 5)

    def angle(x: Tensor) -> Tensor:
        return twist * torch.linalg.vector_norm(x, dim=-1)

    def sample(y: Tensor, generator: Generator | None) -> Tensor:
        spread = torch.tensor([along, across])
        x = torch.tensor([radius, 0.0]) + spread * torch.randn(len(y), 2, generator=generator)
        return _turn(x, angle(x) + directions[y])

    def log_prob(x: Tensor) -> Tensor:
        back = _turn(x[:, None, :], -angle(x)[:, None] - directions.to(x))  # (B, 5, 2)
        u, v = (back[..., 0] - radius) / along, back[..., 1] / across
        return -0.5 * (u.square() + v.square()) - math.log(2 * math.pi * along * across)

    return Components(5, sample, log_prob)


def _turn(x: Tensor, angle: Tensor) -> Tensor:
    """Points (…, 2) turned counter-clockwise about the origin."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]], -1)


def _round_gaussian(x: Tensor, mu: Tensor, sigma: float) -> Tensor:
    """log N(x; μ, σ²I), (…, 2) and (…, 2) -> (…)."""
    across, up = (x[..., i] - mu[..., i] for i in range(2))  # apart: a sum over a dimension of two takes twice the time
    return -(across.square() + up.square()) / (2 * sigma**2) - math.log(2 * math.pi * sigma**2)


# ---- circles -------------------------------------------------------------------------------------------------------


def rings(radii: tuple[float, ...] = (1.0, 2.0, 3.0), sigma: float = 0.12) -> Components:
    """Gaussian noise around circles.   p(x|y) = exp(−(‖x‖² + r²) / 2σ²) I₀(‖x‖ r / σ²) / 2πσ²."""
    r = torch.tensor(radii)

    def sample(y: Tensor, generator: Generator | None) -> Tensor:
        angle = 2 * math.pi * torch.rand(len(y), generator=generator)
        circle = r[y][:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        return circle + sigma * torch.randn(len(y), 2, generator=generator)

    def log_prob(x: Tensor) -> Tensor:
        distance, radius = torch.linalg.vector_norm(x, dim=1, keepdim=True), r.to(x)
        # i0e(s) = exp(−s) I₀(s) completes the square, so that nothing overflows
        bessel = torch.special.i0e(distance * radius / sigma**2).log()
        return -(distance - radius).square() / (2 * sigma**2) + bessel - math.log(2 * math.pi * sigma**2)

    return Components(len(radii), sample, log_prob)


# ---- squares -------------------------------------------------------------------------------------------------------


def checkerboard() -> Components:
    """Uniform on the eight dark squares, each 2 × 2, of a 4 × 4 board that covers [−4, 4]²."""
    corners = torch.tensor([[2.0 * i - 4, 2.0 * j - 4] for i in range(4) for j in range(4) if (i + j) % 2 == 0])

    def sample(y: Tensor, generator: Generator | None) -> Tensor:
        return corners[y] + 2 * torch.rand(len(y), 2, generator=generator)

    def log_prob(x: Tensor) -> Tensor:
        inside = x[:, None, :] - corners.to(x)  # (B, 8, 2)
        on_square = ((inside >= 0) & (inside <= 2)).all(-1)
        return torch.zeros(on_square.shape).to(x).masked_fill(~on_square, -math.inf) - math.log(4)

    return Components(8, sample, log_prob)


# ---- curves --------------------------------------------------------------------------------------------------------


def two_moons() -> Components:
    """Two interleaved half circles."""

    def curve(v: Tensor) -> Tensor:
        cos, sin = (math.pi * v).cos(), (math.pi * v).sin()
        upper, lower = torch.stack([cos - 0.5, sin - 0.25], -1), torch.stack([0.5 - cos, 0.25 - sin], -1)
        return 2 * torch.stack([upper, lower])

    return _around(curve, sigma=0.2, nodes=128)


def spirals(turns: float = 1.5, radius: float = 3.4) -> Components:
    """Two arms that start in the centre; √u as the place on an arm makes them about equally dense all along."""

    def curve(v: Tensor) -> Tensor:
        angle = 2 * math.pi * turns * v
        arm = radius * v[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
        return torch.stack([arm, -arm])

    return _around(curve, sigma=0.12, nodes=512, power=2)


def _around(curve: Callable[[Tensor], Tensor], sigma: float, nodes: int, power: int = 1) -> Components:
    """Gaussian noise around two curves.   p(x|y) = ∫₀¹ N(x; c_y(v), σ²I) k v^(k−1) dv,  with k = power: v = u^(1/k).

    curve: v (M,) in [0, 1] -> (2, M, 2), the points of both curves. nodes: how many v the quadrature takes.
    """

    def sample(y: Tensor, generator: Generator | None) -> Tensor:
        v = torch.rand(len(y), generator=generator) ** (1 / power)
        return curve(v)[y, torch.arange(len(y))] + sigma * torch.randn(len(y), 2, generator=generator)

    def log_prob(x: Tensor) -> Tensor:
        v, weights = _gauss_legendre(nodes)
        points, log_weights = curve(v).to(x), (weights * power * v ** (power - 1)).log().to(x)
        # 1024 points at a time: a few megabytes, however many there are
        return torch.cat([_mixture_log_prob(part, points, log_weights, sigma) for part in x.split(1024)])

    return Components(2, sample, log_prob)


def _mixture_log_prob(x: Tensor, points: Tensor, log_weights: Tensor, sigma: float) -> Tensor:
    """log Σ_m w_m N(x; points_ym, σ²I): x (B, 2), points (K, M, 2), log_weights (M,) give (B, K)."""
    return (_round_gaussian(x[:, None, None, :], points, sigma) + log_weights).logsumexp(-1)


@cache
def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """n nodes and weights on [0, 1], float64: exact for polynomials up to degree 2n − 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(nodes + 1) / 2, torch.from_numpy(weights) / 2


SETS = {make.__name__: cache(make) for make in (two_moons, rings, eight_gaussians, checkerboard, spirals, pinwheel)}
