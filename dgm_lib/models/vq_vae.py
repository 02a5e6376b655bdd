"""Vector-quantised VAE: the latents of an image are an image themselves, of codes 0 … K−1 that the encoder chooses.

log p(x) ≥ log p(x|z) + log p(z)      for any one z, hence for the z(x) that the encoder chooses

The codes are discrete, so p(x) = Σ_z p(x|z) p(z) is a sum, and each of its terms is smaller than it. As an ELBO: q(z|x)
is a point mass on z(x), its entropy is 0, and KL(q ‖ p) = −log p(z(x)). Nothing is drawn, and nothing is estimated.
(A point mass on a continuous z has the entropy −∞, and bounds nothing.) van den Oord, Vinyals & Kavukcuoglu 2017.

Codes go in and out as an image of K levels, (B, 1, h, w) floats k/(K−1): whatever is a model of such images, with
`log_prob` and `sample`, can be p(z). It is fitted to `codes(x)` when networks and codebook are learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import embedding

from dgm_lib import checks
from dgm_lib.distributions import Whole, to_levels
from dgm_lib.nets import explained, of_one, on_trial


class VQVAE(nn.Module):
    """VQVAE(encoder, decoder, partial(logistic_pixels, levels=17), n_codes=32, latents=(8, 2, 2)):

    encoder: examples (B, …) -> (B, D, h, w), with (D, h, w) = latents: at each of h·w places, a vector to be coded.
    decoder: (B, D, h, w), at each place the vector of its code -> what `pixels` makes a distribution over examples of.
    commitment: weight of what pulls the encoder's vectors towards their codes, β in eq. 3.
    prior: p(z), a model of images (1, h, w) of K levels, in nats; None: each code is as probable as any other. It may
    be set later, `vq_vae.prior = …`, and is not learnt by `loss`.
    Call `revive(x)` before training, and now and then in it: codes that are never chosen never learn.
    Raises ValueError where networks and latents do not fit each other.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        pixels: Callable[[Tensor], Distribution],
        n_codes: int,
        latents: tuple[int, int, int],
        *,
        commitment: float = 0.25,
        prior: nn.Module | None = None,
    ):
        super().__init__()
        checks.check_whole(2, n_codes=n_codes)
        checks.check_weight(commitment=commitment)
        if len(latents) != 3 or not all(isinstance(size, int) and size > 0 for size in latents):
            raise ValueError(f"latents is {latents}: it must be three whole sizes (D, h, w) ≥ 1")
        self.encoder, self.decoder, self.pixels, self.prior = encoder, decoder, pixels, prior
        self.commitment, self.latents = commitment, torch.Size(latents)
        self.codebook = nn.Parameter(torch.randn(n_codes, latents[0]))  # (K, D)
        self._try_networks()

    def _try_networks(self) -> None:
        """Runs both once, so that a misfit is said before any training; notes the shape of an example."""
        with on_trial(self):
            vectors = next(self.encoder.parameters(), self.codebook).new_zeros(2, *self.latents)
            with explained(f"the networks do not fit latents of {tuple(self.latents)} an example"):
                self.shape = of_one(self.pixels(self.decoder(vectors)).batch_shape, 2, "what the decoder makes")
                out = self.encoder(vectors.new_zeros(2, *self.shape)).shape
        if out[1:] != self.latents:
            raise ValueError(f"the encoder gives {tuple(out[1:])} an example, and latents is {tuple(self.latents)}")

    # -- the model

    def encode(self, x: Tensor) -> Tensor:
        """The vectors before they are coded: (B, *shape) -> (B, D, h, w)."""
        checks.check_examples(x, self.shape, self)
        return checks.at_least_float32(self.encoder(x))

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """The code nearest to each vector: (B, D, h, w) -> (B, h, w), 0 … K−1."""
        centre = self.codebook.mean(0)  # far from the origin, float32 would round the distances away
        codebook, rows = self.codebook - centre, vectors.movedim(1, -1) - centre
        with torch.autocast(rows.device.type, enabled=False):
            half_distance = codebook.square().sum(1) / 2 - rows @ codebook.mT  # ‖row‖²/2 is the same for all codes
        return half_distance.argmin(-1)

    def vectors(self, k: Tensor) -> Tensor:
        """What the codebook says for the codes: (B, h, w) -> (B, D, h, w)."""
        return embedding(k, self.codebook).movedim(-1, 1)

    def codes(self, x: Tensor) -> Tensor:
        """z(x), as an image of K levels: (B, *shape) -> (B, 1, h, w)."""
        return self._image(self.nearest(self.encode(x)))

    def _image(self, k: Tensor) -> Tensor:
        return k[:, None].to(self.codebook.dtype) / (len(self.codebook) - 1)

    def likelihood(self, codes: Tensor) -> Distribution:
        """p(x|z) over examples, for codes (B, 1, h, w)."""
        checks.check_examples(codes, (1, *self.latents[1:]), what="codes")
        return self._decode(self.vectors(to_levels(codes[:, 0], len(self.codebook))))

    def _decode(self, vectors: Tensor) -> Distribution:
        return Whole(self.pixels(checks.at_least_float32(self.decoder(vectors))), len(self.shape))

    def log_prior(self, codes: Tensor) -> Tensor:
        """log p(z): (B, 1, h, w) -> (B,) nats; −h·w·log K without a prior."""
        if self.prior is None:
            return codes.new_full(codes.shape[:1], -math.prod(self.latents[1:]) * math.log(len(self.codebook)))
        return self.prior.log_prob(codes)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, *shape): codes from the prior, then x from p(x|z)."""
        checks.check_whole(0, n=n)
        if self.prior is None:
            k = torch.randint(len(self.codebook), (n, *self.latents[1:]), device=self.codebook.device)
            return self.likelihood(self._image(k)).sample()
        return self.likelihood(self.prior.sample(n)).sample()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """E[x|z] at z = z(x): the shape of x."""
        return self.likelihood(self.codes(x)).mean

    # -- learning

    def elbo(self, x: Tensor) -> Tensor:
        """log p(x|z) + log p(z) at z = z(x), exactly: (B, *shape) -> (B,) nats, a bound on log p(x)."""
        codes = self.codes(x)
        return self.likelihood(codes).log_prob(x) + self.log_prior(codes)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean of −log p(x|z) + ‖sg(e) − c‖² + commitment · ‖e − sg(c)‖²: eq. 3, sg stops the gradient. A scalar.

        e are the encoder's vectors and c their codes'. The squares are summed over all places and dimensions, so that
        each term counts an example as its nats do; they are no nats themselves, and the whole is no bound.
        """
        e = self.encode(x)
        checks.check_some(x)
        c = self.vectors(self.nearest(e))
        straight = e + (c - e).detach()  # the value of c; its gradient goes to e, as if nothing had been coded
        codebook = (c - e.detach()).square().flatten(1).sum(1)
        commitment = (e - c.detach()).square().flatten(1).sum(1)
        return (codebook + self.commitment * commitment - self._decode(straight).log_prob(x)).mean()

    @torch.no_grad()
    def usage(self, x: Tensor) -> Tensor:
        """How often each code is chosen: (B, *shape) -> (K,) shares of all places of all examples."""
        checks.check_some(x)
        counts = torch.bincount(self.nearest(self.encode(x)).flatten(), minlength=len(self.codebook))
        return counts / counts.sum()

    def perplexity(self, x: Tensor) -> float:
        """exp of the entropy of `usage`: how many codes would carry as much, were each used alike. 1 … K."""
        return torch.special.entr(self.usage(x)).sum().exp().item()

    @torch.no_grad()
    def revive(self, x: Tensor, *, seed: int = 0) -> int:
        """Codes that no place of x uses begin anew, each at a vector of x; returns how many. Dhariwal et al. 2020, 3.1.

        A vector is drawn with probability proportional to its squared distance from its code: where codes are missed.
        seed: the vectors are drawn by it alone, so that processes that train together stay alike.
        """
        e = self.encode(x)
        distance = (e - self.vectors(self.nearest(e))).square().sum(1).flatten().cpu().double()  # (B*h*w,), squared
        exponential = -torch.log1p(
            -torch.rand(distance.shape, generator=torch.Generator().manual_seed(seed), device="cpu")
        )
        unused = (self.usage(x) == 0).nonzero().flatten()
        n = min(len(unused), int((distance > 0).sum()))
        rows = (distance / exponential).topk(n).indices.to(e.device)  # as torch.multinomial draws, without replacement
        self.codebook[unused[:n]] = e.movedim(1, -1).flatten(0, -2)[rows].to(self.codebook)
        return n
