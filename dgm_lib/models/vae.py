"""Variational autoencoder: a network makes p(x|z), a second one guesses the posterior q(z|x) that learning needs.

log p(x) ≥ E_q[log p(x|z)] − KL(q(z|x) ‖ p(z))             the ELBO; Kingma & Welling 2014, eq. 3
log p(x) ≥ E log 1/k Σ_i p(x|z_i) p(z_i) / q(z_i|x)        the importance-weighted bound; Burda et al. 2016, eq. 8

All bounds are in nats an example: (B,). What p(x|z) is, the caller says: `pixels` is a function or a module that makes
a distribution over x of the decoder's output, such as partial(logistic_pixels, levels=17) or NormalNoise().
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.kl import kl_divergence

from dgm_lib import checks
from dgm_lib.distributions import StandardNormal, Whole, diagonal_normal, drawn_from, mixture
from dgm_lib.nets import explained, given, mean_and_log_var, of_one, on_trial

ROWS = 2**11  # examples times draws decoded together where no gradient is kept: what fits a cache is faster, too


class VAE(nn.Module):
    """VAE(encoder, decoder, StandardNormal(8), partial(logistic_pixels, levels=17)), with D = 8 latents:

    encoder: examples (B, …) -> (B, 2D), the mean and the log-variance of q(z|x), a Gaussian with independent latents.
    decoder: (B, D) -> what `pixels` makes a distribution over examples of.
    prior: p(z) with n_latents, log_prob and sample: StandardNormal, MixturePrior, VampPrior or DeepPrior.
    beta: weight of the KL in `loss`, 1 for a bound of log p; it never touches `elbo`. Higgins et al. 2017, eq. 4.
    free_bits: nats that each latent may carry at no cost in `loss`. Kingma et al. 2016, eq. 15.
    draws: k > 1 makes `loss` the importance-weighted bound with k draws.
    n_classes: if given, p(x|z, y) and q(z|x, y): both networks are called with a label, (x, y) and (z, y), and so is
    every method here. `Labelled` makes such a network of a plain one. Sohn, Lee & Yan 2015.
    Raises ValueError where networks, prior and likelihood do not fit each other.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: nn.Module,
        pixels: Callable[[Tensor], Distribution],
        *,
        beta: float = 1.0,
        free_bits: float = 0.0,
        draws: int = 1,
        n_classes: int | None = None,
    ):
        super().__init__()
        checks.check_weight(beta=beta, free_bits=free_bits)
        checks.check_whole(1, draws=draws)
        if n_classes is not None:
            checks.check_whole(1, n_classes=n_classes)
        if draws > 1 and (beta != 1 or free_bits):
            weights = f"beta is {beta:g} and free_bits {free_bits:g}"
            raise ValueError(f"{weights}: with draws > 1 there is no KL to weigh, take 1 and 0")
        self.encoder, self.decoder, self.prior, self.pixels = encoder, decoder, prior, pixels
        self.beta, self.free_bits, self.draws, self.n_classes = beta, free_bits, draws, n_classes
        if free_bits and not self.has_closed_form():
            name = type(prior).__name__
            raise ValueError(f"free_bits is {free_bits:g}: a {name} has no KL for each latent, as StandardNormal has")
        self._try_networks()

    def _try_networks(self) -> None:
        """Runs both once, so that a misfit is said before any training; notes the shape of an example."""
        z = next(self.parameters(), torch.empty(0)).new_zeros(2, self.prior.n_latents)
        y = None if self.n_classes is None else torch.zeros(2, dtype=torch.int64, device=z.device)
        with on_trial(self):
            with explained(f"the decoder does not take the {self.prior.n_latents} latents of the prior"):
                self.shape = of_one(self.pixels(self.decoder(*given(z, y))).batch_shape, 2, "what the decoder makes")
            with explained(f"the encoder does not take the examples {tuple(self.shape)} that the decoder makes"):
                self.posterior(z.new_zeros(2, *self.shape), y)

    # -- the model

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """q(z|x) over (B, D), for examples (B, *shape)."""
        checks.check_examples(x, self.shape, self)
        checks.check_condition(y, len(x), self.n_classes, "VAE")
        out = checks.at_least_float32(self.encoder(*given(x, y)))  # nats need more than bfloat16, should it run in that
        return diagonal_normal(*mean_and_log_var(out, len(x), self.prior.n_latents, "the encoder"))

    def likelihood(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|z) over examples, for latents (B, D). Its base_dist is that of single pixels."""
        checks.check_examples(z, (self.prior.n_latents,), self, "latents")
        checks.check_condition(y, len(z), self.n_classes, "VAE")
        return self.decode(z, y)

    def decode(self, z: Tensor, y: Tensor | None) -> Distribution:
        """`likelihood` of latents and labels that have been let in already: a look at labels makes a GPU wait."""
        return Whole(self.pixels(checks.at_least_float32(self.decoder(*given(z, y)))), len(self.shape))

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """(n, *shape): z from the prior, then x from p(x|z). y: (n,) labels, where the model has classes."""
        return self.likelihood(self.prior.sample(n), y).sample()

    # -- bounds

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """An unbiased estimate of the ELBO with one draw: (B, *shape) -> (B,) nats."""
        reconstruction, kl = self.elbo_terms(x, y)
        return reconstruction - kl

    def elbo_terms(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """E_q[log p(x|z)] and KL(q(z|x) ‖ p(z)), each (B,) nats: minus the distortion, and the rate."""
        q = self.posterior(x, y)
        z = q.rsample()
        return self.decode(z, y).log_prob(x), self.kl(q, z)

    def has_closed_form(self) -> bool:
        """Whether KL(q ‖ p(z)) is computed, and not estimated: only where the prior is a Gaussian like q."""
        return isinstance(self.prior, StandardNormal)

    def kl(self, q: Distribution, z: Tensor) -> Tensor:
        """KL(q ‖ p(z)), (B,) nats: in closed form where there is one, else log q(z) − log p(z) with z drawn from q."""
        if self.has_closed_form():
            return kl_divergence(q.base_dist, self.prior.distribution().base_dist).sum(-1)
        return q.log_prob(z) - self.prior.log_prob(z)

    def iw_bound(self, x: Tensor, k: int, y: Tensor | None = None) -> Tensor:
        """An unbiased estimate of the bound with k draws: (B, *shape) -> (B,) nats. k → ∞ gives log p."""
        checks.check_whole(1, k=k)
        q = self.posterior(x, y)
        log_w = []
        for part in split_draws(k, len(x)):
            likelihood, log_ratio = self._draw(q, y, part)
            log_w.append(likelihood.log_prob(repeated(x, part)).view(part, len(x)) + log_ratio)
        return torch.cat(log_w).logsumexp(0) - math.log(k)

    def log_weight(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x, z) − log q(z|x) with one draw z of q, (B,) nats: its exp is unbiased for p(x)."""
        return self.iw_bound(x, 1, y)

    def _draw(self, q: Distribution, y: Tensor | None, k: int) -> tuple[Distribution, Tensor]:
        """With k draws z of q for each example: p(x|z) over (k·B, *shape), and log p(z) − log q(z|x), (k, B) nats."""
        z = q.rsample((k,))  # (k, B, D)
        flat = z.flatten(0, 1)
        log_ratio = self.prior.log_prob(flat).view(z.shape[:2]) - q.log_prob(z)
        return self.decode(flat, None if y is None else y.repeat(k)), log_ratio

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean of −ELBO, with β and free bits if they are set; of minus the importance-weighted bound if draws > 1."""
        y = None if self.n_classes is None else y
        checks.check_batch(x, self.shape, self)
        if self.draws > 1:
            return -self.iw_bound(x, self.draws, y).mean()
        q = self.posterior(x, y)
        z = q.rsample()
        return self.beta * self._paid(q, z) - self.decode(z, y).log_prob(x).mean()

    def _paid(self, q: Distribution, z: Tensor) -> Tensor:
        """The mean KL of a batch; with free bits each latent's, but at least so much."""
        if not self.free_bits:
            return self.kl(q, z).mean()
        per_latent = kl_divergence(q.base_dist, self.prior.distribution().base_dist).mean(0)  # (D,)
        return per_latent.clamp(min=self.free_bits).sum()

    # -- use

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x|z] at the mean z of q(z|x): the shape of x."""
        return self.decode(self.posterior(x, y).mean, y).mean

    @torch.no_grad()
    def fill_in(self, x: Tensor, known: Tensor, y: Tensor | None = None, *, k: int = 100, rounds: int = 5) -> Tensor:
        """E[x | the known pixels], by importance resampling: (B, *shape), known pixels as in x.

        Draws of q(z|x) count as much as they explain the known pixels, w ∝ p(x_known|z) p(z) / q(z|x), and the mean of
        E[x|z] over them fills the gaps. q was made for whole examples: so the filled x goes in again, `rounds` times.
        What x holds in the gaps is where it begins: a mean image is better than noise. Mattei & Frellsen 2019, eq. 12.
        known: bool, True where x is known, broadcast against x.
        """
        checks.check_whole(1, k=k, rounds=rounds)
        checks.check_examples(x, self.shape, self)
        known = checks.check_known(known, x)
        if not x.isfinite().all():
            raise ValueError("x holds NaN or ∞: begin the gaps with numbers, such as the mean of the training examples")
        for _ in range(rounds):
            x = torch.where(known, x, self._weighted_mean(x, known, y, k))
        return x

    def _weighted_mean(self, x: Tensor, known: Tensor, y: Tensor | None, k: int) -> Tensor:
        """The mean of E[x|z] over k draws of q(z|x), each counted w times: the shape of x."""
        q = self.posterior(x, y)
        there = torch.where(known, x, 0)  # what is missing need not be a level
        mean, log_total = torch.zeros_like(x), x.new_full(x.shape[:1], -math.inf)
        for part in split_draws(k, len(x)):
            likelihood, log_ratio = self._draw(q, y, part)
            pixels = likelihood.base_dist
            log_p = torch.where(repeated(known, part), pixels.log_prob(repeated(there, part)), 0)
            log_w = log_p.flatten(1).sum(1).view(part, len(x)) + log_ratio
            before, log_total = log_total, torch.logaddexp(log_total, log_w.logsumexp(0))
            share = (before - log_total).exp().view(-1, *[1] * len(self.shape))  # of the draws before these
            new = torch.einsum("kb,kb...->b...", (log_w - log_total).exp(), pixels.mean.unflatten(0, (part, len(x))))
            mean = share * mean + new
        return mean


def repeated(x: Tensor, k: int) -> Tensor:
    """k copies of a batch, one after the other: (B, …) -> (k·B, …)."""
    return x.expand(k, *x.shape).flatten(0, 1)


def split_draws(k: int, n: int) -> list[int]:
    """k draws for each of n examples, in parts that fit into memory. With a gradient, all are kept anyway."""
    part = k if torch.is_grad_enabled() else max(1, ROWS // max(1, n))
    return [min(part, k - done) for done in range(0, k, part)]


# ---- learnt priors -------------------------------------------------------------------------------------------------


class VampPrior(nn.Module):
    """p(z) = 1/K Σ_k q(z|u_k): the posterior's mean over K learnt inputs u_k. Tomczak & Welling 2018, eq. 9.

    encoder: that of a VAE without classes. x: (K, *shape) examples to begin with; the u_k are free to leave the data.
    """

    def __init__(self, encoder: nn.Module, x: Tensor):
        super().__init__()
        self.encoder = encoder
        self.inputs = nn.Parameter(x.clone())
        with torch.no_grad():
            self.n_latents = encoder(x).shape[1] // 2

    def distribution(self) -> Distribution:
        mu, log_var = checks.at_least_float32(self.encoder(self.inputs)).chunk(2, 1)
        return mixture(torch.zeros_like(mu[:, 0]), mu, log_var)

    def log_prob(self, z: Tensor) -> Tensor:
        """(B, D) -> (B,) nats."""
        return self.distribution().log_prob(z)

    def sample(self, n: int) -> Tensor:
        """(n, D)."""
        return drawn_from(self.distribution(), n)


class DeepPrior(nn.Module):
    """A VAE of latents as the prior of another VAE: two levels, p(z₂) p(z₁|z₂) p(x|z₁). Rezende et al. 2014.

    Its p(z₁) has no closed form, so that log_prob is one draw's estimate: exp of it is unbiased for p(z₁), and a bound
    that is made of it stays a bound.
    """

    def __init__(self, vae: VAE):
        super().__init__()
        if len(vae.shape) != 1:
            raise ValueError(f"this VAE is one of examples {tuple(vae.shape)}: the prior must be one of vectors")
        self.vae, self.n_latents = vae, vae.shape[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """(B, D) -> (B,) nats."""
        return self.vae.log_weight(z)

    def sample(self, n: int) -> Tensor:
        """(n, D)."""
        return self.vae.sample(n)
