"""What the mathematics promises of Laplace coordinates."""

import math

import pytest
import torch

from dgm_lib.models.laplace import LaplacePoints


def test_it_integrates_to_1():
    """The trapezoidal rule errs by h²/12 times the jump of p′ at the kink, 1/b², and by the tails, e^−30."""
    model, h = LaplacePoints(1), 1e-3
    x = torch.arange(-30, 30, h, dtype=torch.float64)[:, None]
    total = model.double().log_prob(x).exp().sum() * h
    assert abs(total - 1) < h**2 / 12 * 1.1


def test_at_its_likeliest_mu_is_the_median_and_b_the_mean_distance():
    x = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    model = LaplacePoints(1).double()
    model.mu.data.fill_(1.0)
    model.log_b.data.fill_(math.log(5 / 3))
    best = model.loss(x).item()
    assert best == pytest.approx(math.log(2 * 5 / 3) + 1)
    for name, p in model.named_parameters():
        for change in (-0.1, 0.1):
            p.data += change
            assert model.loss(x) > best, name
            p.data -= change


def test_a_size_that_makes_no_sense_is_named():
    with pytest.raises(ValueError, match="n_features is 0"):
        LaplacePoints(0)
