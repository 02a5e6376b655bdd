"""The semi-supervised GAN where all can be counted by hand, and its K logits against the K + 1 that they stand for."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from helpers import close
from torch import nn

from dgm_lib.datasets.mixed_batches import MixedBatches
from dgm_lib.distributions import StandardNormal
from dgm_lib.models.semi_gan import SemiGAN
from dgm_lib.nets import MLP
from dgm_lib.train import Objective, fit

D, F, K = 3, 5, 4


class Constant(nn.Module):
    """Makes the same example of every z."""

    def __init__(self, x: torch.Tensor):
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.x.expand(len(z), *self.x.shape)


def table(**settings):
    """f(x) = x, of two numbers: an example is its own logits. The generator makes (0, log 2), so that Z = 3."""
    generator = Constant(torch.tensor([0.0, math.log(2)]))
    return SemiGAN(generator, nn.Identity(), nn.Identity(), StandardNormal(D), 2, **settings)


def model(**settings):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(2, F), nn.SiLU())
    return SemiGAN(nn.Linear(D, 2), body, nn.Linear(F, K), StandardNormal(D), K, **settings).double()


def mixed(n=6):
    """As many examples with a label as without one, in no order."""
    torch.manual_seed(1)
    return torch.randn(2 * n, 2).double(), torch.stack([torch.arange(n) % K, torch.full((n,), -1)], 1).flatten()


def gradients(loss, module):
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


# ---- the critic ----------------------------------------------------------------------------------------------------

# Labelled: logits (0, log 3), so p(y=1|x) = ¾. Unlabelled: (log 4, log 5), so Z = 9 and p(data|x) = 0.9. Made: Z = 3.
BY_HAND = torch.tensor([[0.0, math.log(3)], [math.log(4), math.log(5)]]), torch.tensor([1, -1])
ENTROPY = -(4 / 9 * math.log(4 / 9) + 5 / 9 * math.log(5 / 9))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, -math.log(3 / 4) - math.log(0.9) - math.log(1 / 4)),
        ({"weight": 0.0}, -math.log(3 / 4)),
        ({"weight": 0.5, "entropy": 2.0}, -math.log(3 / 4) - 0.5 * math.log(0.9 / 4) + 2 * ENTROPY),
    ],
)
def test_the_critics_loss_is_that_computed_by_hand(settings, expected):
    close(table(**settings).critic_loss(*BY_HAND), expected)


def test_the_gradient_of_the_critics_loss_is_that_computed_by_hand():
    """Of the logits: p(y|x) − [y] with a label, (p(data|x) − 1) p(y|x) without one."""
    x = BY_HAND[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(table().critic_loss(x, BY_HAND[1]), x)
    close(gradient, [[1 / 4, 3 / 4 - 1], [-0.1 * 4 / 9, -0.1 * 5 / 9]])


def test_k_logits_are_k_plus_one_with_a_last_one_of_zero():
    """A softmax over the classes and "made", as GANs of K + 1 classes have it: the same loss and the same gradient."""
    gan, (x, y) = model(), mixed()
    torch.manual_seed(2)
    loss = gan.critic_loss(x, y)
    torch.manual_seed(2)
    made = gan.sample((y < 0).sum())
    log_p = partial(_log_p_with_made, gan)
    unlabelled = log_p(x[y < 0])[:, :K].logsumexp(1)  # log Σ_y p(y|x)
    given_data = log_p(x[y >= 0])[:, :K].log_softmax(1)  # p(y|x, data)
    other = -given_data.gather(1, y[y >= 0, None]).mean() - unlabelled.mean() - log_p(made)[:, K].mean()
    close(loss, other)
    close(gradients(loss, gan), gradients(other, gan))


def _log_p_with_made(gan, x):
    return torch.cat([gan(x), torch.zeros(len(x), 1)], 1).log_softmax(1)


def test_critic_values_are_the_logit_of_data_against_made():
    gan, (x, _) = model(), mixed()
    close(gan.critic_values(x).sigmoid(), gan(x).exp().sum(1) / (gan(x).exp().sum(1) + 1))
    close(gan.posterior(x).sum(1), torch.ones(len(x)))


def test_without_a_labelled_example_only_data_and_made_ones_are_told_apart():
    gan = table()
    close(gan.critic_loss(BY_HAND[0][1:], BY_HAND[1][1:]), -math.log(0.9 / 4))


def test_the_critics_loss_does_not_move_the_generator():
    gan = model()
    assert not gradients(gan.critic_loss(*mixed()), gan.generator).any()


# ---- the generator -------------------------------------------------------------------------------------------------


def test_the_generator_matches_the_mean_features_of_unlabelled_data():
    """Made: (0, log 2). The labelled row must not count; the mean over two features, gradient 2 (made − data) / 2."""
    gan = table()
    x, y = torch.tensor([[9.0, 9.0], [1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, -1, -1])
    loss = gan.generator_loss(x, y)
    close(loss, (2**2 + math.log(2) ** 2) / 2)
    close(gradients(loss, gan.generator), [-2.0, math.log(2)])


def test_the_generators_loss_leaves_the_critic_alone():
    gan = model()
    gan.generator_loss(*mixed()).backward()
    assert all(p.grad is None for p in [*gan.body.parameters(), *gan.head.parameters()])
    assert all(p.grad is not None for p in gan.generator.parameters())
    assert all(p.requires_grad for p in gan.parameters())


# ---- training ------------------------------------------------------------------------------------------------------


def test_unlabelled_examples_teach_the_classes():
    """Two long clusters side by side, one label left in the lower, one right in the upper: labels alone cut across."""
    torch.manual_seed(0)
    y = torch.arange(1000) % 2
    x = torch.stack([4 * torch.rand(1000) - 2, 1.5 * y - 0.75 + 0.1 * torch.randn(1000)], 1)
    labelled = torch.tensor([[-1.0, -0.75], [1.0, 0.75]]), torch.tensor([0, 1])
    batches = MixedBatches(*labelled, x, batch_labelled=2, batch_unlabelled=100, seed=0)

    def wrong(weight):
        torch.manual_seed(0)
        body = nn.Sequential(MLP(2, 32, 32), nn.SiLU())
        gan = SemiGAN(MLP(2, 32, 2), body, nn.Linear(32, 2), StandardNormal(2), 2, weight=weight)
        adam = partial(torch.optim.Adam, lr=1e-2, betas=(0.5, 0.99))
        players = {
            "critic": Objective(gan.critic_loss, adam([*body.parameters(), *gan.head.parameters()])),
            "generator": Objective(gan.generator_loss, adam(gan.generator.parameters())),
        }
        fit(gan, players, batches, 30, progress=False)
        return (gan(x).argmax(1) != y).float().mean().item()

    assert wrong(0.0) > 0.2
    assert wrong(1.0) < 0.03


# ---- what is let in ------------------------------------------------------------------------------------------------


def test_networks_that_do_not_fit_are_refused():
    prior = StandardNormal(D)
    with pytest.raises(ValueError, match="does not take the 3 latents"):
        SemiGAN(nn.Linear(2, 2), nn.Linear(2, F), nn.Linear(F, K), prior, K)
    with pytest.raises(ValueError, match=r"do not take the examples \(2,\)"):
        SemiGAN(nn.Linear(D, 2), nn.Linear(3, F), nn.Linear(F, K), prior, K)
    with pytest.raises(ValueError, match=r"gives \(5,\) an example: it must end in 4 logits"):
        SemiGAN(nn.Linear(D, 2), nn.Linear(2, F), nn.Linear(F, 5), prior, K)


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"entropy": math.nan}, {"weight": math.inf}])
def test_weights_that_make_no_loss_are_refused(settings):
    with pytest.raises(ValueError, match="must be ≥ 0 and finite"):
        model(**settings)


@pytest.mark.parametrize("loss", ["critic_loss", "generator_loss"])
def test_labels_that_do_not_exist_are_refused(loss):
    gan, (x, y) = model(), mixed()
    with pytest.raises(ValueError, match="a label is -2"):
        getattr(gan, loss)(x, torch.where(y < 0, -2, y))
    with pytest.raises(ValueError, match="mix in some whose label is −1"):
        getattr(gan, loss)(x[y >= 0], y[y >= 0])
    with pytest.raises(ValueError, match="4"):
        getattr(gan, loss)(x, y.clamp(min=K))
    with pytest.raises(ValueError):
        getattr(gan, loss)(x, y[:-1])


def test_examples_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 2\)"):
        model()(torch.zeros(3, 3))
