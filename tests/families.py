"""Whatever trains, each as a small builder: the contract tests run over all of them. A new family adds a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from dgm_lib.datasets import Split
from dgm_lib.distributions import NormalNoise, StandardNormal, logistic_pixels
from dgm_lib.models.energy import EnergyModel, NoiseContrast
from dgm_lib.models.gan import GAN, WASSERSTEIN, gradient_penalty
from dgm_lib.models.joint_energy import JointEnergyModel, LogitEnergy
from dgm_lib.models.joint_vae import JointVAE, Labels, Modality
from dgm_lib.models.mixtures import GaussianMixture
from dgm_lib.models.ppca import PPCA
from dgm_lib.models.rbm import RBM, BinaryUnits
from dgm_lib.models.semi_gan import SemiGAN
from dgm_lib.models.semi_supervised import M2
from dgm_lib.models.vae import VAE
from dgm_lib.models.vae_gan import VAEGAN
from dgm_lib.models.vq_vae import VQVAE
from dgm_lib.nets import MLP, ConvEncoder, DCCritic, Labelled, ProjectionCritic
from dgm_lib.train import Objective


@dataclass
class Family:
    """A model with the objectives that train it, and data that it can be trained on."""

    model: nn.Module
    objectives: dict[str, Objective]
    split: Split
    draws: bool = True  # whether a loss of it draws random numbers


def adam(module: nn.Module, rate: float = 1e-2) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), rate)


def points(n: int = 96) -> Split:
    centre = torch.randint(0, 2, (n,))
    return Split(torch.randn(n, 2) * 0.3 + 2 * centre[:, None].float(), centre)


def pictures(n: int = 96) -> Split:
    y = torch.randint(0, 3, (n,))
    return Split((torch.rand(n, 1, 8, 8) * 4 + 4 * y[:, None, None, None]).to(torch.uint8), y, levels=17)


def classifier(net: nn.Module) -> Family:
    return Family(
        net, {"cross-entropy": Objective(lambda x, y: cross_entropy(net(x), y), adam(net))}, pictures(), draws=False
    )


def mixture() -> Family:
    split = points()
    model = GaussianMixture.start(split.x, 2)
    return Family(model, {"-log p": Objective(model.loss, adam(model))}, split, draws=False)


def ppca() -> Family:
    split = points()
    model = PPCA.start(split.x, 1)
    return Family(model, {"-log p": Objective(model.loss, adam(model))}, split, draws=False)


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


def rbm(n_chains: int) -> Family:
    x, y = torch.randint(0, 2, (96, 6)).float(), torch.zeros(96).long()
    model = RBM.start(BinaryUnits(6), 4, x, n_chains=n_chains)
    return Family(model, {"contrast": Objective(model.loss, adam(model))}, Split(x, y))


def energy_model() -> Family:
    """Langevin chains, with gradients in x, run inside the loss."""
    model = EnergyModel(MLP(2, 16, 1), (2,), n_chains=32, steps=3, step_size=0.05, penalty=0.1)
    return Family(model, {"contrast": Objective(model.loss, adam(model, 1e-3))}, points())


def noise_contrast() -> Family:
    model = NoiseContrast(MLP(2, 16, 1), StandardNormal(2))
    return Family(model, {"contrast": Objective(model.loss, adam(model))}, points())


def vae(*, draws: int = 1) -> Family:
    grey = partial(logistic_pixels, levels=17)
    model = VAE(MLP(64, 16, 8), MLP(4, 16, (2, 8, 8)), StandardNormal(4), grey, draws=draws)
    return Family(model, {"-ELBO": Objective(model.loss, adam(model))}, pictures())


def conditional_vae() -> Family:
    """Networks that are told the label of each picture."""
    encoder, decoder = Labelled(ConvEncoder((4, 8, 8), 8, width=4), 3), Labelled(MLP(7, 16, (2, 8, 8)), 3)
    model = VAE(encoder, decoder, StandardNormal(4), partial(logistic_pixels, levels=17), n_classes=3)
    return Family(model, {"-ELBO": Objective(model.loss, adam(model))}, pictures())


def vq_vae() -> Family:
    split = pictures()
    model = VQVAE(MLP(64, 16, (4, 2, 2)), MLP(16, 16, (2, 8, 8)), partial(logistic_pixels, levels=17), 8, (4, 2, 2))
    model.revive(split.scaled())
    return Family(model, {"-log p(x|z), codes": Objective(model.loss, adam(model))}, split, draws=False)


def adversaries(model: GAN, split: Split, *, every: int = 1) -> Family:
    """`every`: critic's turns to one of the generator."""
    objectives = {
        "critic": Objective(model.critic_loss, adam(model.critic)),
        "generator": Objective(model.generator_loss, adam(model.generator), every=every),
    }
    return Family(model, objectives, split)


def gan() -> Family:
    return adversaries(GAN(MLP(2, 16, 2), MLP(2, 16, 1), StandardNormal(2)), points())


def wgan_gp() -> Family:
    """Its critic ends without a bias: in the difference of two of its values a bias would be no parameter at all."""
    critic = nn.Sequential(MLP(2, 16, 16), nn.SiLU(), nn.Linear(16, 1, bias=False))
    model = GAN(MLP(2, 16, 2), critic, StandardNormal(2), WASSERSTEIN, penalty=gradient_penalty)
    return adversaries(model, points(160), every=5)  # five batches an epoch: one turn of the generator in each


def conditional_gan() -> Family:
    """Both players are told the label of each picture."""
    generator, critic = Labelled(MLP(7, 16, (1, 8, 8)), 3), ProjectionCritic(MLP(64, 16), 16, 3)
    return adversaries(GAN(generator, critic, StandardNormal(4), box=(0, 1), n_classes=3), pictures())


def vae_gan() -> Family:
    """Three players; σ of the pixels is the decoder's."""
    vae = VAE(MLP(64, 16, 8), MLP(4, 16, (1, 8, 8)), StandardNormal(4), NormalNoise())
    model = VAEGAN(vae, DCCritic((1, 8, 8), 4), pixel_weight=1.0)
    objectives = {
        "critic": Objective(model.critic_loss, adam(model.critic)),
        "decoder": Objective(model.decoder_loss, adam(nn.ModuleList([vae.decoder, vae.pixels]))),
        "encoder": Objective(model.encoder_loss, adam(vae.encoder)),
    }
    return Family(model, objectives, pictures())


def semi_supervised() -> Family:
    """Every other picture has no label."""
    split = pictures()
    split.y[::2] = -1
    encoder, decoder = Labelled(MLP(67, 16, 8), 3, flat=True), Labelled(MLP(7, 16, (2, 8, 8)), 3)
    vae = VAE(encoder, decoder, StandardNormal(4), partial(logistic_pixels, levels=17), n_classes=3)
    model = M2(vae, MLP(64, 16, 3))
    return Family(model, {"−bound": Objective(model.loss, adam(model))}, split)


def semi_gan() -> Family:
    """A critic with one logit a class; every other picture has no label."""
    split = pictures()
    split.y[::2] = -1
    generator = nn.Sequential(MLP(4, 16, (1, 8, 8)), nn.Sigmoid())
    model = SemiGAN(generator, MLP(64, 16), nn.Sequential(nn.SiLU(), nn.Linear(16, 3)), StandardNormal(4), 3)
    objectives = {
        "critic": Objective(model.critic_loss, adam(nn.ModuleList([model.body, model.head]))),
        "generator": Objective(model.generator_loss, adam(model.generator)),
    }
    return Family(model, objectives, split)


def joint_vae() -> Family:
    """A picture and its label as two observations of one z."""
    image = Modality(MLP(64, 16, 8), MLP(4, 16, (2, 8, 8)), partial(logistic_pixels, levels=17))
    label = Modality(nn.Embedding(3, 8), MLP(4, 16, 3), Labels, weight=10.0)
    model = JointVAE({"image": image, "label": label}, StandardNormal(4))
    return Family(model, {"−ELBO": Objective(model.loss, adam(model))}, pictures())


def joint_energy() -> Family:
    """A classifier of pictures whose logits are energies, with Langevin chains inside the loss."""
    density = EnergyModel(LogitEnergy(MLP(64, 16, 3)), (1, 8, 8), n_chains=16, steps=3, step_size=1e-3, box=(0, 1))
    model = JointEnergyModel(density, 3)
    return Family(model, {"-log p(x, y)": Objective(model.loss, adam(model, 1e-3))}, pictures())


FAMILIES: dict[str, Callable[[], Family]] = {
    "softmax classifier": lambda: classifier(MLP(64, 3)),
    "convolutional classifier": lambda: classifier(ConvEncoder((1, 8, 8), 3, width=8)),
    "mixture of Gaussians": mixture,
    "probabilistic PCA": ppca,
    "VAE": vae,
    "VAE, importance-weighted": lambda: vae(draws=3),
    "VAE, conditional": conditional_vae,
    "VQ-VAE": vq_vae,
    "two players": two_players,
    "GAN": gan,
    "GAN, Wasserstein with gradient penalty": wgan_gp,
    "GAN, conditional": conditional_gan,
    "VAE-GAN": vae_gan,
    "RBM, contrastive divergence": lambda: rbm(n_chains=0),
    "RBM, persistent chains": lambda: rbm(n_chains=32),
    "energy model": energy_model,
    "noise contrast": noise_contrast,
    "semi-supervised VAE": semi_supervised,
    "semi-supervised GAN": semi_gan,
    "VAE of two modalities": joint_vae,
    "joint energy model": joint_energy,
}


def build(name: str, seed: int = 0) -> Family:
    """The family, the same at each call."""
    torch.manual_seed(seed)
    return FAMILIES[name]()
