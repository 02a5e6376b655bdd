"""Generative adversarial networks: a generator makes examples of noise, a critic tells them from data.

min_G max_D  E_p[log σ(D(x))] + E_z[log(1 − σ(D(G(z))))]      Goodfellow et al. 2014, eq. 1, where D stands for σ(D)

D(x), one number an example, is the critic's logit for data. Against a generator whose examples have the density q the
best critic is D = log p − log q, so that σ(D) = p/(p + q). If q = p that is ½ everywhere, and the value of the game is
−log 4 ≈ −1.3863 nats: the critic's loss, its negative, is log 4.

Other games keep the two players and change what each lowers: see `Game`. None of them gives a p(x) to ask for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dgm_lib import checks
from dgm_lib.distributions import StandardNormal
from dgm_lib.nets import MLP, Labelled, ProjectionCritic, explained, frozen, given, on_trial, one_number

Critic = Callable[[Tensor], Tensor]
Penalty = Callable[[Critic, Tensor, Tensor], Tensor]

# ---- games ---------------------------------------------------------------------------------------------------------


class Game(NamedTuple):
    """What each player lowers, given what the critic says of examples: (B,) numbers in, (B,) losses out.

    critic: of data and of what the generator made. generator: of what the generator made.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(x)) − log(1 − σ(D(x̃))), in nats; softplus(−a) is −log σ(a) without overflow."""
    return softplus(-real) + softplus(fake)


def lowered(fake: Tensor) -> Tensor:
    """log(1 − σ(D(x̃))), in nats."""
    return -softplus(fake)


def raised(fake: Tensor) -> Tensor:
    """−log σ(D(x̃)), in nats."""
    return softplus(-fake)


def squares(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * ((real - 1).square() + fake.square())


def square(fake: Tensor) -> Tensor:
    return 0.5 * (fake - 1).square()


def margins(real: Tensor, fake: Tensor) -> Tensor:
    return (1 - real).relu() + (1 + fake).relu()


def gap(real: Tensor, fake: Tensor) -> Tensor:
    return fake - real


# Goodfellow et al. 2014, eq. 1: one value, which the generator lowers. Where the critic is sure, a = D(x̃) ≪ 0, its
# gradient is gone: d/da log(1 − σ(a)) = −σ(a). At equilibrium the critic's loss is log 4 nats.
SATURATING = Game(cross_entropy, lowered)
# Ibid., section 3: the generator lowers −log σ(a), whose gradient is largest there: d/da (−log σ(a)) = σ(a) − 1.
# The critic's loss is the same.
NON_SATURATING = Game(cross_entropy, raised)
# Mao et al. 2017, eq. 9: squared distance to 1 for data, to 0 for what was made. ¼ at equilibrium.
LEAST_SQUARES = Game(squares, square)
# Lim & Ye 2017; Miyato et al. 2018, eqs. 16 and 17: what lies beyond its margin no longer counts. 2 at equilibrium.
HINGE = Game(margins, torch.neg)
# Arjovsky, Chintala & Bottou 2017, eq. 2: for a critic with slopes ≤ 1, minus the loss is at most the Wasserstein
# distance. A penalty or spectral norm must keep the slopes. 0 at equilibrium.
WASSERSTEIN = Game(gap, torch.neg)


# ---- penalties -----------------------------------------------------------------------------------------------------


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """(‖∇D(x̂)‖ − 1)² at x̂ = αx + (1 − α)x̃: (B, …) -> (B,). Gulrajani et al. 2017, eq. 3.

    One α ~ U(0, 1) an example, so that x̂ lies on the line between the two; the norm is over all of the example.
    """
    alpha = torch.rand(len(real), *[1] * (real.dim() - 1), dtype=real.dtype, device=real.device)
    gradient = gradient_at(critic, fake + alpha * (real - fake))
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square()


def r1(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """½ ‖∇D(x)‖² on data: (B, …) -> (B,). Mescheder et al. 2018, eq. 9, whose γ is then the penalty's weight."""
    return 0.5 * gradient_at(critic, real).flatten(1).square().sum(1)


def gradient_at(critic: Critic, x: Tensor) -> Tensor:
    """∇D(x), through which a loss can be differentiated: the shape of x.

    An example's gradient is its own only if the critic looks at each alone: no batch norm in it.
    """
    with checks.leaf(x) as x:
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient


# ---- the model -----------------------------------------------------------------------------------------------------


class Kept:
    """What was made in the critic's turn on a batch, for the next turn on this same batch. A copy keeps nothing.

    It is the same mathematics: only the critic has moved between the two turns, so these are draws of the generator as
    it is, and their graph, which torch cannot copy, holds its weights as they are. The critic has stepped on these very
    draws, as in any loop that draws z once a round. Another batch, such as an augmented copy, gets draws of its own.
    """

    def __init__(self, x: Tensor | None = None, y: Tensor | None = None, made: Any = None):
        self._of = x, y, made

    def take(self, x: Tensor, y: Tensor | None) -> Any:
        """What was made, or None; once, as after this turn the generator is another."""
        (of_x, of_y, made), self._of = self._of, (None, None, None)
        return made if of_x is x and of_y is y and torch.is_grad_enabled() else None

    def __reduce__(self) -> tuple:
        return Kept, ()


class GAN(nn.Module):
    """GAN(DCGenerator(64, (1, 28, 28)), DCCritic((1, 28, 28)), StandardNormal(64), box=(0, 1)), with D = 64 latents:

    generator: (B, D) -> (B, *shape). critic: (B, *shape) -> (B, 1) or (B,), any real number.
    prior: what z is drawn from; it has n_latents = D and sample(n).
    game: what the players lower. penalty: gradient_penalty or r1, added to the critic's loss penalty_weight times.
    box: (low, high) puts every coordinate between them, as pixels are: low + (high − low) σ(what the generator gives).
    n_classes: if given, both networks are called with a label, (z, y) and (x, y), and so is every method here. See
    `Labelled` and `ProjectionCritic`. Mirza & Osindero 2014.
    It is trained with one `Objective` of critic_loss and one of generator_loss, in this order; nothing else
    may move the generator between the two turns on a batch.
    Raises ValueError where networks, prior and classes do not fit each other.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        prior: nn.Module,
        game: Game = NON_SATURATING,
        *,
        penalty: Penalty | None = None,
        penalty_weight: float = 10.0,
        box: tuple[float, float] | None = None,
        n_classes: int | None = None,
    ):
        super().__init__()
        checks.check_weight(penalty_weight=penalty_weight)
        checks.check_box(box)
        if n_classes is not None:
            checks.check_whole(1, n_classes=n_classes)
        self.generator, self.critic, self.prior, self.game = generator, critic, prior, game
        self.penalty, self.penalty_weight, self.box, self.n_classes = penalty, penalty_weight, box, n_classes
        self._kept = Kept()
        self._check_classes()
        self._try_networks()

    def _check_classes(self) -> None:
        for name, module in self.named_modules():
            told = getattr(module, "n_classes", None)
            if told != self.n_classes and told is not None:
                what = f"{name or 'it'} ({type(module).__name__})"
                raise ValueError(f"n_classes is {self.n_classes}, but {what} is made for {told}: make them agree")

    def _try_networks(self) -> None:
        """Runs both once, so that a misfit is said before any training; notes the shape of an example."""
        z = next(self.parameters(), torch.empty(0)).new_zeros(2, self.prior.n_latents)
        y = None if self.n_classes is None else torch.tensor([0, self.n_classes - 1], device=z.device)
        told = "" if y is None else f" and the labels 0 … {self.n_classes - 1}"
        with on_trial(self):
            with explained(f"the generator does not take the {self.prior.n_latents} latents of the prior{told}"):
                x = self.generator(*given(z, y))
                self.shape = x.shape[1:]
            with explained(f"the critic does not take the examples {tuple(self.shape)} that the generator makes{told}"):
                values = self.critic(*given(x, y))
            one_number(values, 2, "what the critic says")

    # -- the model

    def generate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """G(z), for latents (B, D): (B, *shape), with a gradient."""
        checks.check_examples(z, (self.prior.n_latents,), self, "latents")
        checks.check_condition(y, len(z), self.n_classes, "GAN")
        return self._generate(z, y)

    def _generate(self, z: Tensor, y: Tensor | None) -> Tensor:
        x = self.generator(*given(z, y))
        if self.box is None:
            return x
        low, high = self.box
        return low + (high - low) * torch.sigmoid(checks.at_least_float32(x))

    def critic_values(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """D(x), what the critic says of examples (B, *shape): (B,), in the first two games a logit in nats."""
        checks.check_examples(x, self.shape, self)
        checks.check_condition(y, len(x), self.n_classes, "GAN")
        return self._values(x, y)

    def _values(self, x: Tensor, y: Tensor | None) -> Tensor:
        return one_number(checks.at_least_float32(self.critic(*given(x, y))), len(x), "what the critic says")

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, *, truncation: float | None = None) -> Tensor:
        """(n, *shape). y: (n,) labels, where the model has classes.

        truncation: latents from N(0, 1) cut at ±truncation: less varied, each more typical. Brock et al. 2019, 3.1.
        """
        z = self.prior.sample(n)
        if truncation is not None:
            if not (truncation > 0 and isinstance(self.prior, StandardNormal)):
                what = f"truncation is {truncation:g} and the prior a {type(self.prior).__name__}"
                raise ValueError(f"{what}: it cuts the tails of a StandardNormal at a positive number, so give one")
            nn.init.trunc_normal_(z, a=-truncation, b=truncation)
        return self.generate(z, y)

    # -- the two losses

    def critic_loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The critic's loss on data x and as many generated examples, + penalty_weight · penalty: a scalar.

        They pass the critic in two calls: in one, batch norm would mix their statistics, and what the critic says of
        data would depend on what was made beside it. y goes unused where the model has no classes.
        """
        y = None if self.n_classes is None else y
        checks.check_batch(x, self.shape, self)
        checks.check_inside(x, self.box)
        checks.check_condition(y, len(x), self.n_classes, "GAN")
        made = self._generate(self.prior.sample(len(x)), y)
        self._kept = Kept(x, y, made) if made.requires_grad else Kept()
        fake = made.detach()
        loss = self.game.critic(self._values(x, y), self._values(fake, y))
        if self.penalty is not None:
            loss = loss + self.penalty_weight * self.penalty(partial(self._values, y=y), x, fake)
        return loss.mean()

    def generator_loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The generator's loss on as many examples as x has, with the labels y where there are classes: a scalar.

        The critic's parameters get no gradient here: it is not their turn, and theirs is half of the work.
        """
        y = None if self.n_classes is None else y
        checks.check_some(x)
        fake = self._kept.take(x, y)
        fake = self.generate(self.prior.sample(len(x)), y) if fake is None else fake
        with frozen(self.critic):
            return self.game.generator(self._values(fake, y)).mean()

    def train(self, mode: bool = True) -> GAN:
        """As of any module. Nothing is kept beyond it, so that an epoch begins as it would after a resume."""
        self._kept = Kept()
        return super().train(mode)


def conditional_gan(n_latents: int, shape: Sequence[int], n_classes: int) -> GAN:
    """A GAN of small images and their classes, pixels in 0 … 1: fully connected networks, slopes kept by R1."""
    body = nn.Sequential(MLP(math.prod(shape), 256, 128), nn.SiLU())
    return GAN(
        Labelled(MLP(n_latents + n_classes, 128, 256, shape), n_classes),
        ProjectionCritic(body, 128, n_classes),
        StandardNormal(n_latents),
        box=(0, 1),
        n_classes=n_classes,
        penalty=r1,
        penalty_weight=1.0,
    )
