"""What notebook 00 states as equations, each against what it says in other words."""

from __future__ import annotations

import math

import torch
from broken_library import instead_of
from helpers import close

from dgm_lib.datasets import core


def test_cross_entropy_is_the_mean_surprise_and_its_gradient_what_was_said_minus_what_was_true():
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    y = torch.tensor([3, 0, 9, 9, 1])
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    loss = torch.nn.functional.cross_entropy(logits, y)
    close(loss, -p[torch.arange(5), y].log().mean())
    (gradient,) = torch.autograd.grad(loss, logits)
    close(gradient, (p - torch.eye(10)[y]) / 5)
    close(torch.nn.functional.cross_entropy(torch.zeros(2, 10), y[:2]), math.log(10))  # 2.3026: knowing nothing


# ---- a break of the library that the notebook must notice ----------------------------------------------------------


@instead_of(core.scale, turns="smallest pixel: 0.0   largest: 1.0")
def one_level_too_many(scale, x, levels):
    return scale(x, levels + 1)
