"""What notebook 07 states as equations, each against quadrature or a direct count."""

from __future__ import annotations

import pytest
import torch
from broken_library import instead_of
from helpers import close
from torch.distributions import Normal

from dgm_lib import checks
from dgm_lib.measures import two_sample
from dgm_lib.measures.two_sample import frechet_distance, precision_recall
from dgm_lib.nets import ProjectionCritic


@pytest.mark.parametrize(("a", "b"), [((0.0, 1.0), (1.0, 2.0)), ((-1.0, 0.5), (2.0, 0.5)), ((0.0, 3.0), (0.0, 1.0))])
def test_the_frechet_distance_is_the_squared_wasserstein_distance_of_gaussians(a, b):
    """On a line mass is carried quantile by quantile: ∫ (F⁻¹(u) − G⁻¹(u))² du = (μ₁ − μ₂)² + (σ₁ − σ₂)²."""
    u = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
    quantiles = [Normal(*(torch.tensor(v, dtype=torch.float64) for v in law)).icdf(u) for law in (a, b)]
    carried = (quantiles[0] - quantiles[1]).square().mean()
    close(carried, (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2, rtol=1e-3, atol=1e-4)
    assert frechet_distance(quantiles[0][:, None], quantiles[1][:, None]) == pytest.approx(carried.item(), rel=1e-3)


def test_the_general_formula_is_that_of_coordinates_where_they_are_independent():
    """Tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) = Σ_d (σ₁ − σ₂)²; a rotation of both changes nothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).mT  # now of covariance I, to rounding
    one, two = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([2.0, 2.0, 1.5]).double()
    shift = torch.tensor([0.3, -1.0, 0.0]).double()
    expected = (shift.square().sum() + (one - two).square().sum()).item()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    for rotation in (torch.eye(3).double(), turn):
        distance = frechet_distance(x * one @ rotation, (x * two + shift) @ rotation)
        assert distance == pytest.approx(expected, rel=1e-9)


def test_precision_and_recall_by_hand():
    """Balls of radius 1 around 0, 1, 2, 3 (k = 1); those made at 10 and 30 have balls of radius 20."""
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    made = torch.tensor([[0.5], [10.0], [30.0]])
    precision, recall = precision_recall(real, made, k=1)
    assert precision == pytest.approx(1 / 3)  # 0.5 lies in a ball; 10 and 30 do not
    assert recall == 1.0  # the ball around 0.5, of radius 9.5, holds all of them


def test_projection():
    """D(x, y) = wᵀφ(x) + b + e_yᵀφ(x)."""
    torch.manual_seed(0)
    critic = ProjectionCritic(torch.nn.Linear(4, 5), 5, 3)
    torch.nn.init.normal_(critic.embedding.weight)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    phi = critic.body(x)
    by_hand = [critic.head.weight[0] @ f + critic.head.bias[0] + critic.embedding.weight[c] @ f for f, c in zip(phi, y)]
    close(critic(x, y).squeeze(1), torch.stack(by_hand))


# ---- breaks of the library that the notebook must notice -----------------------------------------------------------


@instead_of(two_sample.frechet_distance, turns="fewer letters, larger distance: True", batches=5)
def distance_with_its_sign_turned(distance, a, b):
    return -distance(a, b)


@instead_of(checks.check_inside, turns="a batch in [−1, 1] is refused: x holds -1", batches=1)
def walls_without_a_guard(check_inside, x, box):
    """Numbers outside of the box are learnt from, and nobody says so."""
