"""Energy models: any network that gives one number an example defines p(x) = exp(−E(x)/T) / Z.

Z is out of reach, and there are three ways around it:

maximum likelihood   ∇(−log p(x)) = ∇E(x)/T − E_{x⁻~p}[∇E(x⁻)]/T, with x⁻ from Langevin chains    EnergyModel.loss
score matching       fit ∇_x log p = −∇_x E, in which Z does not occur                             two functions
noise contrast       tell data from noise of known density; log Z is learnt like a weight          NoiseContrast

All energies are in nats. Du & Mordatch 2019; Vincent 2011; Song et al. 2019; Gutmann & Hyvärinen 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dgm_lib import checks
from dgm_lib.nets import explained, frozen, one_number
from dgm_lib.samplers import (
    Box,
    Law,
    check_energy,
    check_schedule,
    independent_metropolis,
    langevin,
    score_of,
    value_and_score,
)

Energy = Callable[[Tensor], Tensor]


class EnergyModel(nn.Module):
    """A network (B, *shape) -> (B, 1) as an energy, trained by maximum likelihood with persistent Langevin chains.

    A step of the chains is x ← x − η ∇E(x) + σ ε with η = step_size and σ = √(2ηT): they are at temperature T, and
    T = 1 is the model's own. box: walls (low, high) for the chains, which then start uniform in it, else from N(0, I).
    restart: share of chains that begin anew before each batch, so that the model also learns the way from noise.
    jump: a law that each chain is offered a draw from before each batch, by a Metropolis rule that keeps p. In a few
    dimensions this carries chains between modes that no Langevin step crosses; in many, no offer is taken.
    penalty: weight of E(x)² on data and chains, which holds the energy's zero and its slope; 0 leaves them free.
    """

    def __init__(
        self,
        net: nn.Module,
        shape: Sequence[int],
        *,
        n_chains: int = 128,
        steps: int = 20,
        step_size: float = 0.01,
        temperature: float = 1.0,
        restart: float = 0.05,
        penalty: float = 0.0,
        box: Box | None = None,
        jump: Law | None = None,
    ):
        super().__init__()
        check_schedule(steps, step_size, temperature)
        checks.check_whole(1, n_chains=n_chains)
        checks.check_positive(temperature=temperature)
        checks.check_weight(restart=restart, penalty=penalty)
        checks.check_box(box)
        if restart > 1:
            raise ValueError(f"restart is {restart:g}: it is a share of the chains, so at most 1")
        self.net: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter faster for small convolutions
        self.shape, self.box = torch.Size(shape), box
        self.steps, self.step_size, self.temperature = steps, step_size, temperature
        self.restart, self.penalty, self.jump = restart, penalty, jump
        self.register_buffer("chains", torch.empty(n_chains, *shape, dtype=checks.own_type(net)))
        self.chains.copy_(self.noise(n_chains))
        with explained(f"the network does not take examples of shape {tuple(shape)}"):
            check_energy(self.energy(self.chains[:2]), min(2, n_chains))

    def noise(self, n: int) -> Tensor:
        """Where chains begin: (n, *shape)."""
        checks.check_whole(0, n=n)
        eps = self.chains.new_empty(n, *self.shape)
        return eps.uniform_(*self.box) if self.box else eps.normal_()

    def energy(self, x: Tensor) -> Tensor:
        """E(x): (B, *shape) -> (B,) nats. Raises ValueError for another shape or another number of outputs."""
        checks.check_examples(x, self.shape, self)
        return one_number(self.net(x), len(x), "the energy")

    def score(self, x: Tensor) -> Tensor:
        """−∇_x E(x), the score at T = 1: the shape of x, without a graph."""
        checks.check_examples(x, self.shape, self)
        with frozen(self.net):
            return value_and_score(self.energy, x)[1]

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean of (E(x) − E(x⁻)) / T, x⁻ the chains after `steps` more steps, + penalty: the gradient of −log p."""
        self.check_data(x)
        e_data, e_model = self.energy(torch.cat([x, self.move_chains()])).split([len(x), len(self.chains)])
        contrast = (e_data.mean() - e_model.mean()) / self.temperature
        return contrast + self.penalty * (e_data.square().mean() + e_model.square().mean())

    def move_chains(self) -> Tensor:
        """Restarts some chains, moves all of them on, keeps them; (n_chains, *shape)."""
        anew = (torch.rand(len(self.chains), device="cpu") < self.restart).nonzero().squeeze(1)  # no GPU is waited for
        self.chains[anew.to(self.chains.device)] = self.noise(len(anew))
        if self.jump is not None:
            with torch.no_grad():
                self.chains.copy_(independent_metropolis(self.energy, self.chains, self.jump, self.temperature)[0])
        self.chains.copy_(self.walk(self.chains, self.steps))
        return self.chains.clone()  # autograd keeps it while the next batch moves the chains

    def walk(self, x: Tensor, steps: int, energy: Energy | None = None) -> Tensor:
        """`steps` Langevin steps from x, with the step size and temperature of training; energy: by default its own."""
        settings = {"step_size": self.step_size, "temperature": self.temperature, "box": self.box}
        with frozen(self.net):
            return langevin(score_of(energy or self.energy), x, steps=steps, **settings)

    def sample(self, n: int, *, steps: int | None = None, energy: Energy | None = None) -> Tensor:
        """(n, *shape): n new chains from noise after `steps` steps, by default as many as a chain lives in training."""
        life = self.steps / self.restart if self.restart else 50 * self.steps
        return self.walk(self.noise(n), round(life) if steps is None else steps, energy)

    def check_data(self, x: Tensor) -> None:
        """Raises ValueError unless x is a batch to learn from: of the chains' shape and type, and inside of the box."""
        checks.check_batch(x, self.shape, self)
        checks.check_inside(x, self.box)


class ReconstructionEnergy(nn.Module):
    """E(x) = ‖x − f(x)‖² / 2σ² for a network f that maps an example to its own shape: (B, …) -> (B,).

    Low where f can repair what it sees. It grows like the square of the distance, so that chains never run away, which
    a plain last layer does not promise. Zhao, Mathieu & LeCun 2017; Salimans & Ho 2021 for training it as an energy.
    """

    def __init__(self, net: nn.Module, sigma: float):
        super().__init__()
        checks.check_positive(sigma=sigma)
        self.net, self.sigma = net, sigma

    def forward(self, x: Tensor) -> Tensor:
        repaired = self.net(x)
        if repaired.shape != x.shape:
            raise ValueError(f"the net maps {tuple(x.shape)} to {tuple(repaired.shape)}: it must keep the shape")
        return (x - repaired).flatten(1).square().sum(1) / (2 * self.sigma**2)


# ---- score matching ------------------------------------------------------------------------------------------------


def score_with_graph(energy: Energy, x: Tensor) -> Tensor:
    """−∇_x E(x), through which a loss can be differentiated: the shape of x."""
    with checks.leaf(x) as detached:
        x = x if x.requires_grad else detached
        values = energy(x)
        check_energy(values, len(x))
        (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True)
        return -gradient


def denoising_score_matching(energy: Energy, x: Tensor, sigma: float) -> Tensor:
    """½ ‖σ s(x + σε) + ε‖², (B, …) -> (B,): the score of the data blurred by N(0, σ²). Vincent 2011, eq. 9, times σ².

    Its smallest value is reached where exp(−E) is proportional to the blurred density, not to the data's own.
    """
    checks.check_positive(sigma=sigma)
    checks.check_examples(x, "…")
    eps = torch.randn_like(x)
    return 0.5 * (sigma * score_with_graph(energy, x + sigma * eps) + eps).flatten(1).square().sum(1)


def sliced_score_matching(energy: Energy, x: Tensor) -> Tensor:
    """½ ‖s(x)‖² + vᵀ∇(vᵀs(x)), v ~ N(0, I), (B, …) -> (B,). Song et al. 2019, eq. 8.

    The mean over v of the second term is the trace of ∇s, so no noise is added to the data. The network must have two
    derivatives: with ReLU the second term is 0 almost everywhere.
    """
    checks.check_examples(x, "…")
    with checks.leaf(x) as x:
        v = torch.randn_like(x)
        score = score_with_graph(energy, x)
        (slope,) = torch.autograd.grad((score * v).sum(), x, create_graph=True)
    return 0.5 * score.flatten(1).square().sum(1) + (v * slope).flatten(1).sum(1)


# ---- noise contrast ------------------------------------------------------------------------------------------------


class NoiseContrast(nn.Module):
    """Noise-contrastive estimation: a classifier of data against noise, whose logit is log p(x) − log p_noise(x).

    log p(x) = −E(x) − log_z, with log_z learnt; where the fit is good, it is the logarithm of ∫ exp(−E).
    ratio: noise examples for each one of the data. Gutmann & Hyvärinen 2010, eq. 8.
    """

    def __init__(self, net: nn.Module, noise: Law, *, ratio: int = 1):
        super().__init__()
        checks.check_whole(1, ratio=ratio)
        self.net, self.noise_law, self.ratio = net, noise, ratio
        self.log_z = nn.Parameter(torch.zeros(()))

    def energy(self, x: Tensor) -> Tensor:
        """E(x): (B, …) -> (B,) nats. Raises ValueError for another number of outputs."""
        checks.check_examples(x, "…", self)
        with explained(f"the network does not take examples of shape {tuple(x.shape[1:])}"):
            values = self.net(x)
        return one_number(values, len(x), "the energy")

    def log_prob(self, x: Tensor) -> Tensor:
        """−E(x) − log_z, (B, …) -> (B,) nats: it integrates to 1 only where the estimate is good."""
        return -self.energy(x) - self.log_z

    def logit(self, x: Tensor) -> Tensor:
        """log of the odds that x is data: log p(x) − log p_noise(x) − log ratio. (B,) nats."""
        return self.log_prob(x) - self.noise_law.log_prob(x) - math.log(self.ratio)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Cross-entropy of the two classes, an example of data with its `ratio` of noise: a scalar in nats."""
        checks.check_batch(x, "…", self)
        checks.check_inside(x)
        with torch.no_grad():
            noise = self.noise_law.sample(self.ratio * len(x)).to(x)
        return softplus(-self.logit(x)).mean() + self.ratio * softplus(self.logit(noise)).mean()


# ---- composition ---------------------------------------------------------------------------------------------------


def product(*energies: Energy) -> Energy:
    """x must please every one: exp(−Σ E_i), the product of the densities. Hinton 2002."""
    return partial(_product, energies)


def mixture(*energies: Energy) -> Energy:
    """x must please one of them: −log Σ exp(−E_i). Du, Li & Mordatch 2020. Each counts with its own Z."""
    return partial(_mixture, energies)


def difference(energy: Energy, other: Energy, weight: float = 1.0) -> Energy:
    """x must please the first and not the other: E − weight · E_other, the quotient of the densities."""
    return partial(_difference, energy, other, weight)


# Functions of the module, and not made in the three above, so that a composition can be pickled.


def _product(energies: Sequence[Energy], x: Tensor) -> Tensor:
    return torch.stack([energy(x) for energy in energies]).sum(0)


def _mixture(energies: Sequence[Energy], x: Tensor) -> Tensor:
    return -torch.stack([-energy(x) for energy in energies]).logsumexp(0)


def _difference(energy: Energy, other: Energy, weight: float, x: Tensor) -> Tensor:
    return energy(x) - weight * other(x)
