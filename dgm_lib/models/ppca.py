"""Probabilistic PCA.   p(x) = ∫ p(z) p(x|z) dz, where z ~ N(0, I) says how far x lies along each of M directions.

The hidden cause can be integrated out, so the likelihood is exact. Fitted in closed form, by expectation–maximisation,
or by gradient through `loss`. Log-probabilities are in nats per example.
Where x has gaps, `known` says so: bool, True where x is known, broadcast against x. What x holds elsewhere does not
matter, and log p(x) is then that of the known entries, the others integrated out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.nn.functional import pad

from dgm_lib import checks
from dgm_lib.distributions import StandardNormal
from dgm_lib.gaussians import check_points, inverse_factor, only_known


class PPCA(nn.Module):
    """p(z) = N(0, I), p(x|z) = N(Wz + μ, σ²I), so p(x) = N(μ, WWᵀ + σ²I), for points x of shape (B, D).

    z is (B, M) with M = n_latents < D. Tipping & Bishop 1999; Bishop 2006, section 12.2. Only M×M matrices are
    factorised: one for all examples, or one for each where each has gaps of its own.
    """

    def __init__(self, n_latents: int, n_features: int):
        super().__init__()
        if not 1 <= checks.whole("n_latents", n_latents) < checks.whole("n_features", n_features):
            asked = f"n_latents is {n_latents} for {n_features} features"
            raise ValueError(f"{asked}: it must be 1 … {n_features - 1}, because σ² is what no latent explains")
        self.prior = StandardNormal(n_latents)
        self.weight = nn.Parameter(torch.eye(n_features, n_latents))  # W; at 0 its gradient would vanish
        self.mu = nn.Parameter(torch.zeros(n_features))
        self.log_var = nn.Parameter(torch.zeros(()))  # log σ²

    @classmethod
    def fit(cls, x: Tensor, n_latents: int) -> PPCA:
        """The likeliest model of x, (N, D), in closed form. Tipping & Bishop 1999, eq. 7 and 8, with R = I.

        Raises ValueError where it does not exist: data that M latents explain without noise.
        """
        check_points(x, x.shape[-1])
        model = cls(n_latents, x.shape[1]).to(checks.at_least_float32(x))
        check_enough(x, torch.ones_like(x, dtype=torch.bool))
        points = x.cpu().double()
        mu = points.mean(0)
        triangle = torch.linalg.qr(points - mu, mode="r").R  # singular values and directions as the data, fewer rows
        _, singular_values, directions = torch.linalg.svd(triangle, full_matrices=False)
        variances = singular_values.square() / len(x)  # along each direction, the largest first
        var = variances[n_latents:].sum() / (x.shape[1] - n_latents)
        check_noise(var, variances.sum() / x.shape[1], n_latents, checks.at_least_float32(x).dtype)
        weight = directions.mT[:, :n_latents] * (variances[:n_latents] - var).clamp(min=0).sqrt()
        largest = weight.gather(0, weight.abs().argmax(0, keepdim=True))
        model.set_parameters(weight * largest.sign(), mu, var)  # a direction may point either way: its peak is positive
        return model

    @classmethod
    def start(cls, x: Tensor, n_latents: int, known: Tensor | None = None, *, seed: int = 0) -> PPCA:
        """A model with the mean and the variance of x, (N, D), in random directions, ready for `em` or for gradients.

        Seeded `rand` gives the same start in every version of torch. Half of the variance is noise.
        """
        x, mask = only_known(x, known, x.shape[-1])
        x = checks.at_least_float32(x)
        model = cls(n_latents, x.shape[1]).to(x)
        check_enough(x, mask)
        n = mask.expand_as(x).sum(0)
        mu = x.sum(0) / n
        variance = torch.where(mask, x - mu, 0).square().sum() / n.sum()
        check_noise(variance, variance, n_latents, x.dtype)
        u = 2 * torch.rand(model.weight.shape, generator=checks.seeded(seed), device="cpu", dtype=torch.float64) - 1
        model.set_parameters(u.to(mu) * (1.5 * variance / n_latents).sqrt(), mu, variance / 2)  # u has the variance 1/3
        return model

    @torch.no_grad()
    def set_parameters(self, weight: Tensor, mu: Tensor, var: Tensor) -> None:
        """The parameters as the textbook writes them: W (D, M), μ (D,), σ² > 0."""
        self.weight.copy_(weight)
        self.mu.copy_(mu)
        self.log_var.copy_(var.log())

    def covariance(self) -> Tensor:
        """WWᵀ + σ²I: (D, D)."""
        return self.weight @ self.weight.mT + self.log_var.exp() * torch.eye(len(self.mu)).to(self.mu)

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z) over points (B, D), given z, (B, M)."""
        return Independent(Normal(z @ self.weight.mT + self.mu, (0.5 * self.log_var).exp(), validate_args=False), 1)

    def posterior(self, x: Tensor, known: Tensor | None = None) -> MultivariateNormal:
        """p(z|x), exact: N(M⁻¹Wᵀ(x − μ), σ²M⁻¹) with M = WᵀW + σ²I. Bishop 2006, 12.41–42.

        Given the known entries only, W keeps their rows.
        """
        return self._posterior(*only_known(x, known, len(self.mu), self.mu.dtype))

    def log_prob(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """(B, D) -> (B,) nats; the logarithm of a density, so it may be positive. 0 where nothing is known."""
        x, mask = only_known(x, known, len(self.mu), self.mu.dtype)
        return self._log_prob(x, mask, self._posterior(x, mask))

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return -self.log_prob(x).mean()

    @torch.no_grad()
    def fill_in(self, x: Tensor, known: Tensor) -> Tensor:
        """E[x | the known entries], exact: (B, D) -> (B, D), known entries as in x."""
        return torch.where(known, x, self.likelihood(self.posterior(x, known).mean).mean)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, D): first z, then x."""
        checks.check_whole(0, n=n)
        return self.likelihood(self.prior.sample(n)).sample()

    # -- expectation–maximisation

    @torch.no_grad()
    def e_step(self, x: Tensor, known: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """log p(x), (N,); what is known, E[z], (N, M), and the covariance of z, (N, M, M). Bishop 2006, 12.54–55."""
        x, mask = only_known(x, known, len(self.mu), self.mu.dtype)
        q = self._posterior(x, mask)
        return self._log_prob(x, mask, q), (mask, q.mean, q.covariance_matrix)

    @torch.no_grad()
    def m_step(self, x: Tensor, expected: tuple[Tensor, Tensor, Tensor]) -> None:
        """A regression of each feature on z, over the examples where it is known. Bishop 2006, 12.56–57.

        There, all is known, and μ is the mean of the data; with gaps, μ is fitted together with W: z gets a last
        entry 1, whose weight is the change of μ.
        """
        (mask, z, covariance), x = expected, x.to(self.mu.dtype)
        check_enough(x, mask)
        centred = torch.where(mask, x - self.mu, 0)
        z = pad(z, (0, 1), value=1.0)  # (N, M + 1)
        moments = pad(covariance, (0, 1, 0, 1)) + z[:, :, None] * z[:, None]  # E[z zᵀ], (N, M + 1, M + 1)
        seen = mask.mT.to(z) if mask.dim() == 2 else z.new_ones(1, len(x))  # which examples each feature learns from
        moments = (seen @ moments.flatten(1)).unflatten(1, moments.shape[1:])  # (D, M + 1, M + 1), or one for all
        solution = torch.linalg.solve(moments, (centred.mT @ z)[..., None]).squeeze(-1)  # (D, M + 1)
        weight, change, n_known = solution[:, :-1], solution[:, -1], mask.expand_as(x).sum()
        residual = torch.where(mask, centred - z @ solution.mT, 0)
        var = (residual.square().sum() + (gram(weight, mask) * covariance).sum()) / n_known
        check_noise(var, centred.square().sum() / n_known, weight.shape[1], z.dtype)
        self.set_parameters(weight, self.mu + change, var)

    # -- on what `only_known` returns

    def _posterior(self, x: Tensor, mask: Tensor) -> MultivariateNormal:
        var = self.log_var.exp()
        scale_tril = inverse_factor(torch.eye(self.weight.shape[1]).to(self.weight) + gram(self.weight, mask) / var)
        evidence = torch.where(mask, x - self.mu, 0) @ self.weight / var  # (B, M)
        mean = (evidence[:, None] @ scale_tril @ scale_tril.mT).squeeze(1)
        return MultivariateNormal(mean, scale_tril=scale_tril, validate_args=False)

    def _log_prob(self, x: Tensor, mask: Tensor, posterior: MultivariateNormal) -> Tensor:
        """log p(x) = log p(x|z) + log p(z) − log p(z|x), Bayes' rule, which holds at any z.

        At the posterior mean no large numbers cancel: it is what the matrix inversion lemma makes of the covariance.
        """
        z = posterior.mean
        log_likelihood = self.likelihood(z).base_dist.log_prob(x).where(mask, 0).sum(1)
        log_det = posterior.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_peak = -0.5 * z.shape[1] * math.log(2 * math.pi) - log_det  # log p(z|x) where it is highest
        return log_likelihood + self.prior.distribution().base_dist.log_prob(z).sum(1) - log_peak


def gram(weight: Tensor, mask: Tensor) -> Tensor:
    """WᵀW over the known features: (D, M) and the mask, (D,) or (B, D) -> (M, M) or (B, M, M)."""
    products = weight[:, :, None] * weight[:, None]  # (D, M, M)
    return (mask.to(weight) @ products.flatten(1)).unflatten(-1, products.shape[1:])


def check_enough(x: Tensor, mask: Tensor) -> None:
    if len(x) < 2:
        raise ValueError(f"a variance cannot be learnt from {len(x)} examples: give 2 or more")
    if never := checks.first(~torch.atleast_2d(mask).any(0)):
        raise ValueError(f"feature {never[0]} is known in no example: leave it out")


def check_noise(var: Tensor, variance: Tensor, n_latents: int, dtype: torch.dtype) -> None:
    """Raises ValueError where σ² is 0 beside the data's mean variance, up to rounding: the density is then infinite."""
    if var <= torch.finfo(dtype).eps * variance:
        left = f"{n_latents} latents leave the noise σ² = {var:.3g} of the data's mean variance {variance:.3g}"
        raise ValueError(f"{left}, so the likelihood has no maximum: ask for fewer latents, or add noise to x")
