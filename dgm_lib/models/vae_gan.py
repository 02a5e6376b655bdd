"""VAE and GAN at once: the decoder is the generator, and the critic's features say how far a reconstruction is from x.

encoder   β KL(q(z|x) ‖ p(z)) + reconstruction                         Larsen et al. 2016, eqs. 5 to 9 and algorithm 1
decoder   reconstruction + game_weight · (its game with x̂ + its game with x̃)
critic    its game with x and x̂ + its game with x and x̃
where     reconstruction = −pixel_weight · log p(x|z) + feature_weight · ½ ‖φ(x) − φ(x̂)‖²

x̂ is the mean of p(x|z) with z from q(z|x), x̃ that with z from the prior. φ is the critic up to its last layer, and the
error of features −log N(φ(x); φ(x̂), I) without its constant, eq. 8. What each player lowers is its own: there is no
common loss. KL and both errors are in nats an example, the game in what `gan` says of it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dgm_lib import checks
from dgm_lib.models.gan import NON_SATURATING, Game, Kept, Penalty
from dgm_lib.models.vae import VAE
from dgm_lib.nets import explained, frozen, given, on_trial, one_number

Made = tuple[Distribution, Tensor, Tensor]  # p(x|z), its mean x̂, and as many samples x̃: each (B, *shape)


class VAEGAN(nn.Module):
    """VAEGAN(vae, DCCritic((1, 28, 28))), for a VAE of images 28×28 whose p(x|z) has a mean:

    critic: (B, *shape) -> (B, 1) or (B,). Its attribute `body` is φ, (B, *shape) -> (B, …), all features summed over;
    without feature_weight it needs none. If the VAE has classes, it is told the label, as `ProjectionCritic` is.
    game: what decoder and critic lower. penalty: gradient_penalty or r1, added to the critic's loss penalty_weight
    times; a gradient penalty looks between x and x̃.
    feature_weight: 1/σ² of the Gaussian around the features. Sums over thousands of features are large beside a KL.
    It is trained with one `Objective` of critic_loss, one of decoder_loss and one of encoder_loss, in this order, whose
    optimizers hold the parameters of critic, vae.decoder (with vae.pixels, if it has any) and vae.encoder (with
    vae.prior). Bounds of log p(x) are those of `vae`.
    Raises ValueError where VAE, critic and classes do not fit each other.
    """

    def __init__(
        self,
        vae: VAE,
        critic: nn.Module,
        game: Game = NON_SATURATING,
        *,
        feature_weight: float = 1.0,
        pixel_weight: float = 0.0,
        game_weight: float = 1.0,
        penalty: Penalty | None = None,
        penalty_weight: float = 10.0,
    ):
        super().__init__()
        checks.check_weight(feature_weight=feature_weight, pixel_weight=pixel_weight, game_weight=game_weight)
        checks.check_weight(penalty_weight=penalty_weight)
        self.vae, self.critic, self.game = vae, critic, game
        self.feature_weight, self.pixel_weight, self.game_weight = feature_weight, pixel_weight, game_weight
        self.penalty, self.penalty_weight, self.n_classes = penalty, penalty_weight, vae.n_classes
        self._kept = Kept()
        self._check_parts()
        self._try_critic()

    def _check_parts(self) -> None:
        if self.vae.draws > 1 or self.vae.free_bits:
            has = f"the VAE has draws {self.vae.draws} and free_bits {self.vae.free_bits:g}"
            raise ValueError(f"{has}, which its own loss knows: this one has β KL with one draw, take 1 and 0")
        critic, told = f"critic ({type(self.critic).__name__})", getattr(self.critic, "n_classes", None)
        if told is not None and told != self.n_classes:
            has = f"the VAE has n_classes {self.n_classes}"
            raise ValueError(f"{has}, but the {critic} is made for {told}: make them agree")
        if self.feature_weight and not isinstance(getattr(self.critic, "body", None), nn.Module):
            take = "take one such as DCCritic or ProjectionCritic"
            raise ValueError(f"the {critic} has no network `body` of features: {take}, or feature_weight=0")

    def _try_critic(self) -> None:
        """Runs it once, so that a misfit is said before any training."""
        z = next(self.parameters(), torch.empty(0)).new_zeros(2, self.vae.prior.n_latents)
        y = None if self.n_classes is None else torch.tensor([0, self.n_classes - 1], device=z.device)
        told = "" if y is None else f" and the labels 0 … {self.n_classes - 1}"
        with on_trial(self):
            x = self.vae.likelihood(z, y).mean
            with explained(f"the critic does not take the examples {tuple(self.vae.shape)} of the VAE{told}"):
                self._judged(x, y)

    # -- the three losses

    def critic_loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The critic's losses with x against x̂ and with x against x̃, + penalty_weight · penalty: a scalar.

        Data count in both games: 2 log 4 nats where the critic can tell neither. (Larsen et al. count them once; the
        critic then leans to "made", and in the Wasserstein game it would without end.)
        """
        y = None if self.n_classes is None else y
        checks.check_batch(x, self.vae.shape, self)
        checks.check_inside(x)
        made = self._make(x, y)
        self._kept = Kept(x, y, made) if made[1].requires_grad else Kept()
        reconstruction, sample = (image.detach() for image in made[1:])
        real = self._values(x, y)
        loss = self.game.critic(real, self._values(reconstruction, y)) + self.game.critic(real, self._values(sample, y))
        if self.penalty is not None:
            loss = loss + self.penalty_weight * self.penalty(partial(self._values, y=y), x, sample)
        return loss.mean()

    def decoder_loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Reconstruction + game_weight times the generator's loss on x̂ and on x̃: a scalar, for the decoder alone.

        With neither features nor game the critic is not asked.
        """
        y = None if self.n_classes is None else y
        checks.check_some(x)
        likelihood, reconstruction, sample = self._kept.take(x, y) or self._make(x, y)
        with frozen(self.critic):
            if not self.game_weight:
                features = self._features(reconstruction) if self.feature_weight else None
                return self._error(x, likelihood, features).mean()
            values, features = self._judged(reconstruction, y)
            game = self.game.generator(values) + self.game.generator(self._values(sample, y))
            return (self._error(x, likelihood, features) + self.game_weight * game).mean()

    def encoder_loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """β KL + reconstruction: a scalar, for encoder and prior alone. With pixel_weight 1, feature_weight 0 −ELBO."""
        y = None if self.n_classes is None else y
        checks.check_some(x)
        q = self.vae.posterior(x, y)
        z = q.rsample()
        with frozen(self.vae.decoder), frozen(self._pixels()), frozen(self.critic):
            likelihood = self.vae.decode(z, y)
            features = self._features(likelihood.mean) if self.feature_weight else None
            return (self.vae.beta * self.vae.kl(q, z) + self._error(x, likelihood, features)).mean()

    def _error(self, x: Tensor, likelihood: Distribution, features: Tensor | None) -> Tensor:
        """The reconstruction, given φ(x̂), where the critic is frozen: (B,) nats. What has no weight is not computed."""
        error = x.new_zeros(len(x))
        if self.pixel_weight:
            error = error - self.pixel_weight * likelihood.log_prob(x)
        if self.feature_weight:
            error = error + self.feature_weight * 0.5 * (self._features(x) - features).square().sum(1)
        return error

    # -- what they are made of

    def _make(self, x: Tensor, y: Tensor | None) -> Made:
        """Reconstructions and samples, with a graph that ends at the decoder."""
        with torch.no_grad():
            z = self.vae.posterior(x, y).rsample()
        likelihood = self.vae.decode(z, y)
        return likelihood, likelihood.mean, self.vae.decode(self.vae.prior.sample(len(x)), y).mean

    def _values(self, x: Tensor, y: Tensor | None) -> Tensor:
        return one_number(checks.at_least_float32(self.critic(*given(x, y))), len(x), "what the critic says")

    def _features(self, x: Tensor) -> Tensor:
        """φ(x): (B, *shape) -> (B, F)."""
        return checks.at_least_float32(self.critic.body(x)).flatten(1)

    def _judged(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the critic says of x, (B,), and φ(x), (B, F), in one pass; no φ(x) without feature_weight."""
        if not self.feature_weight:
            return self._values(x, y), None
        seen: list[Tensor] = []
        hook = self.critic.body.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            values = self._values(x, y)
        finally:
            hook.remove()
        if not seen:
            raise ValueError("the critic never calls its `body`: what it says of x must be made of these features")
        return values, checks.at_least_float32(seen[0]).flatten(1)

    def _pixels(self) -> nn.Module:
        """What the likelihood learns, such as the σ of NormalNoise: it is the decoder's."""
        return self.vae.pixels if isinstance(self.vae.pixels, nn.Module) else nn.Identity()

    def train(self, mode: bool = True) -> VAEGAN:
        """As of any module. Nothing is kept beyond it, so that an epoch begins as it would after a resume."""
        self._kept = Kept()
        return super().train(mode)

    # -- use

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """(n, *shape): the mean of p(x|z), z from the prior; what the critic has seen. y: (n,) labels, with classes."""
        return self.vae.likelihood(self.vae.prior.sample(n), y).mean

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x|z] at the mean z of q(z|x): the shape of x."""
        return self.vae.reconstruct(x, y)
