"""Whatever trains, each as a small builder: the contract tests run over all of them. A new family adds a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from dgm_lib.datasets import Split
from dgm_lib.latent import GaussianMixture
from dgm_lib.nets import MLP, ResidualNet
from dgm_lib.train import Objective


@dataclass
class Family:
    """A model with the objectives that train it, and data that it can be trained on."""

    model: nn.Module
    objectives: dict[str, Objective]
    split: Split


def adam(module: nn.Module, rate: float = 1e-2) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), rate)


def points(n: int = 96) -> Split:
    centre = torch.randint(0, 2, (n,))
    return Split(torch.randn(n, 2) * 0.3 + 2 * centre[:, None].float(), centre)


def pictures(n: int = 96) -> Split:
    y = torch.randint(0, 3, (n,))
    return Split((torch.rand(n, 1, 8, 8) * 4 + 4 * y[:, None, None, None]).to(torch.uint8), y, levels=17)


def classifier(net: nn.Module) -> Family:
    return Family(net, {"cross-entropy": Objective(lambda x, y: cross_entropy(net(x), y), adam(net))}, pictures())


def mixture() -> Family:
    split = points()
    model = GaussianMixture.start(split.x, 2)
    return Family(model, {"-log p": Objective(model.loss, adam(model))}, split)


class TwoPlayers(nn.Module):
    """The smallest GAN: what `fit` must cope with when two optimizers share a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = MLP(2, 16, 2), MLP(2, 16, 1)

    def sample(self, n: int) -> Tensor:
        return self.generator(torch.randn(n, 2))

    def critic_loss(self, x: Tensor, y: Tensor) -> Tensor:
        real, fake = self.critic(x), self.critic(self.sample(len(x)).detach())
        ones = torch.ones_like(real)
        return binary_cross_entropy_with_logits(real, ones) + binary_cross_entropy_with_logits(fake, 0 * ones)

    def generator_loss(self, x: Tensor, y: Tensor) -> Tensor:
        return softplus(-self.critic(self.sample(len(x)))).mean()


def two_players() -> Family:
    model = TwoPlayers()
    objectives = {
        "critic": Objective(model.critic_loss, adam(model.critic)),
        "generator": Objective(model.generator_loss, adam(model.generator), every=2, clip=1.0),
    }
    return Family(model, objectives, points())


class ChainsInside(nn.Module):
    """The smallest energy model with persistent chains: MCMC, with gradients in x, runs inside the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = MLP(2, 16, 1)
        self.register_buffer("chains", torch.randn(32, 2))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        chains = self.chains
        with torch.enable_grad():
            for _ in range(3):
                chains = chains.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.energy(chains).sum(), chains)
                chains = chains - 0.05 * gradient + 0.1**0.5 * torch.randn_like(chains)
        self.chains.copy_(chains.detach())
        e_data, e_model = self.energy(x), self.energy(self.chains.clone())
        return e_data.mean() - e_model.mean() + 0.1 * (e_data**2).mean()


def chains_inside() -> Family:
    model = ChainsInside()
    return Family(model, {"contrast": Objective(model.loss, adam(model, 1e-3))}, points())


FAMILIES: dict[str, Callable[[], Family]] = {
    "softmax classifier": lambda: classifier(MLP(64, 3)),
    "residual classifier": lambda: classifier(ResidualNet((1, 8, 8), 3, width=8)),
    "mixture of Gaussians": mixture,
    "two players": two_players,
    "chains inside": chains_inside,
}


def build(name: str, seed: int = 0) -> Family:
    """The family, the same at each call."""
    torch.manual_seed(seed)
    return FAMILIES[name]()
