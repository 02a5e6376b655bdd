"""Models with a hidden cause that can be summed out, so that their likelihood is exact.

PPCA       p(x) = ∫ p(z) p(x|z) dz, where z ~ N(0, I) says how far x lies along each of M directions.
Mixtures   p(x) = Σ_z p(z) p(x|z), where z = 1 … K says which component x comes from.

They are fitted by expectation–maximisation, or by gradient through `loss`. Log-probabilities are in nats per example.
Where x has gaps, `known` says so: bool, True where x is known, broadcast against x. What x holds elsewhere does not
matter, and log p(x) is then that of the known entries, the others integrated out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.nn.functional import one_hot, pad

from dgm_lib import checks
from dgm_lib.distributions import CategoricalPixels, StandardNormal, drawn, log_prob_by_class, posterior_of, to_levels
from dgm_lib.gaussians import covariance_of, of_known
from dgm_lib.models.em import em
from dgm_lib.neighbours import distances

# ---- probabilistic PCA ---------------------------------------------------------------------------------------------


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
        u = 2 * torch.rand(model.weight.shape, generator=checks.seeded(seed), dtype=torch.float64) - 1
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
        var, zero = self.log_var.exp(), torch.zeros_like(self.prior.mu)
        precision = torch.eye(len(zero)).to(zero) + gram(self.weight, mask) / var
        scale_tril = MultivariateNormal(zero, precision_matrix=precision, validate_args=False).scale_tril
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


def check_points(x: Tensor, n_features: int) -> None:
    """Raises ValueError unless x is (B, n_features), floats and finite."""
    checks.check_examples(x, (n_features,), what="points")
    checks.check_finite(x)


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


# ---- mixtures: where EM begins -------------------------------------------------------------------------------------


def first_responsibilities(x: Tensor, n_components: int, seed: int) -> Tensor:
    """Where EM begins: each example belongs mostly to the nearest of K seeded centres. (N, D) -> (N, K).

    It belongs a little to every other, too, so that no component begins as a spike on a single example.
    """
    x = x - x.mean(0)  # far from the origin, float32 would round the distances away
    nearest = distances(x, spread_centres(x, n_components, seed)).argmin(1)
    return 0.9 * one_hot(nearest, n_components).to(x) + 0.1 / n_components


def spread_centres(x: Tensor, n_centres: int, seed: int) -> Tensor:
    """Examples that lie far from each other: the start of k-means++. (N, D) -> (K, D). Arthur & Vassilvitskii 2007.

    Each is drawn with probability proportional to its squared distance from the nearest one so far.
    """
    if not 1 <= n_centres <= len(x):
        raise ValueError(f"{n_centres} components cannot be told apart by {len(x)} examples: ask for 1 … {len(x)}")
    generator = checks.seeded(seed)
    centres = x[torch.randint(len(x), (1,), generator=generator)]
    for _ in range(n_centres - 1):
        squared_distance = distances(x, centres).square().amin(1) + torch.finfo(x.dtype).tiny
        # what torch.multinomial does, but by `rand`, whose numbers are the same in every version of torch
        exponential = -torch.log1p(-torch.rand(len(x), generator=generator, dtype=torch.float64))
        drawn = (squared_distance.cpu() / exponential).argmax().item()
        centres = torch.cat([centres, x[None, drawn]])
    return centres


# ---- mixture of Gaussians ------------------------------------------------------------------------------------------


Form = Callable[[Tensor], Tensor]


def full(covariance: Tensor) -> Tensor:
    """Any covariance: (…, D, D), unchanged."""
    return covariance


def diagonal(covariance: Tensor) -> Tensor:
    """Features that do not vary together: (…, D, D), what is off the diagonal set to 0."""
    return covariance.diagonal(dim1=-2, dim2=-1).diag_embed()


def spherical(covariance: Tensor) -> Tensor:
    """The same variance in all directions: (…, D, D), a multiple of I."""
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    return variances.mean(-1, keepdim=True).expand_as(variances).diag_embed()


class GaussianMixture(nn.Module):
    """p(x) = Σ_k w_k N(x; μ_k, Σ_k), for points x of shape (B, D).

    form: `full`, `diagonal` or `spherical`, the covariances that are allowed.
    floor: EM gives no covariance an eigenvalue below this share of the data's mean variance; without one, a component
    that shrinks onto one example has an infinite likelihood.
    """

    def __init__(self, n_components: int, n_features: int, *, form: Form = full, floor: float = 1e-4):
        super().__init__()
        checks.check_whole(1, n_components=n_components, n_features=n_features)
        checks.check_weight(floor=floor)
        self.form, self.floor = form, floor
        self.logits = nn.Parameter(torch.zeros(n_components))  # log w_k, up to a constant
        self.mu = nn.Parameter(torch.zeros(n_components, n_features))
        self.factor = nn.Parameter(torch.zeros(n_components, n_features, n_features))  # see scale_tril

    @classmethod
    def start(
        cls, x: Tensor, n_components: int, *, form: Form = full, floor: float = 1e-4, seed: int = 0
    ) -> GaussianMixture:
        """A mixture that is spread over x, (N, D), ready for EM or for training by gradient."""
        check_points(x, x.shape[-1])
        x = checks.at_least_float32(x)
        model = cls(n_components, x.shape[1], form=form, floor=floor).to(x)
        model.m_step(x, first_responsibilities(x, n_components, seed))
        return model

    @classmethod
    def fit(
        cls,
        x: Tensor,
        n_components: int,
        *,
        form: Form = full,
        floor: float = 1e-4,
        seed: int = 0,
        steps: int = 200,
        tolerance: float = 1e-4,
    ) -> GaussianMixture:
        """`start`, then `em`."""
        model = cls.start(x, n_components, form=form, floor=floor, seed=seed)
        em(model, x, steps=steps, tolerance=tolerance)
        return model

    def scale_tril(self) -> Tensor:
        """L_k with Σ_k = L_k L_kᵀ, lower triangular: (K, D, D). Its diagonal is positive, whatever `factor` is."""
        return self._scale_tril(self.factor)

    def _scale_tril(self, factor: Tensor) -> Tensor:
        return self.form(factor.tril(-1) + factor.diagonal(dim1=-2, dim2=-1).exp().diag_embed())

    def covariance(self) -> Tensor:
        """Σ_k: (K, D, D)."""
        scale_tril = self.scale_tril()
        return scale_tril @ scale_tril.mT

    def components(self) -> MultivariateNormal:
        """The K Gaussians."""
        return MultivariateNormal(self.mu, scale_tril=self.scale_tril(), validate_args=False)

    def log_joint(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """log w_k N(x; μ_k, Σ_k): (B, D) -> (B, K) nats."""
        if known is not None:
            return self._given(x, known)[0]
        check_points(x, self.mu.shape[1])
        return self.logits.log_softmax(0) + self.components().log_prob(x[:, None].to(self.mu.dtype))

    def log_prob(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """(B, D) -> (B,) nats; the logarithm of a density, so it may be positive."""
        return self.log_joint(x, known).logsumexp(1)

    def posterior(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """The responsibilities p(z=k|x): (B, K)."""
        return self.log_joint(x, known).softmax(1)

    @torch.no_grad()
    def fill_in(self, x: Tensor, known: Tensor) -> Tensor:
        """E[x | the known entries] = Σ_k p(k | them) E[x | them, k], exact: (B, D) -> (B, D), known entries as in x."""
        log_joint, mean = self._given(x, known)
        return torch.where(known, x, (log_joint.softmax(1)[..., None] * mean).sum(1))

    def _given(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k N(x_known; …), (B, K) nats, and each component's E[x | x_known], (B, K, D)."""
        x, mask = only_known(x, known, self.mu.shape[1], self.mu.dtype)
        scale_tril = self._scale_tril(checks.as_double(self.factor))  # Σ_k may be nearly singular: see `of_known`
        each = [of_known(x, torch.atleast_2d(mask), mu, tril @ tril.mT) for mu, tril in zip(self.mu, scale_tril)]
        log_prob, mean = (torch.stack(values, 1) for values in zip(*each, strict=True))
        return self.logits.log_softmax(0) + log_prob, mean

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return -self.log_prob(x).mean()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, D): first the component, then the point."""
        z = drawn(self.logits, n)
        eps = torch.randn(n, self.mu.shape[1], 1, dtype=self.mu.dtype, device=self.mu.device)
        return self.mu[z] + (self.scale_tril()[z] @ eps).squeeze(-1)

    @torch.no_grad()
    def e_step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x), (N,), and the responsibilities, (N, K)."""
        log_joint = self.log_joint(x)
        return log_joint.logsumexp(1), log_joint.softmax(1)

    @torch.no_grad()
    def m_step(self, x: Tensor, r: Tensor) -> None:
        """Share, mean and covariance of each component, where an example counts r_nk times. Bishop 2006, 9.24–26."""
        x = x.to(self.mu.dtype)
        r = r + torch.finfo(r.dtype).eps  # a component that nobody wants starts anew, as wide as the data
        n = r.sum(0)  # (K,)
        mu = r.mT @ x / n[:, None]  # (K, D)
        covariance = torch.stack([covariance_of(x, r_k) for r_k in r.mT])
        variance = x.var(0, correction=0).mean().item() or 1.0  # 1: data that are all alike have no unit
        self.set_parameters(n / n.sum(), mu, raise_eigenvalues(self.form(covariance), self.floor * variance))

    @torch.no_grad()
    def set_parameters(self, weights: Tensor, mu: Tensor, covariance: Tensor) -> None:
        """The parameters as the textbook writes them: w (K,), μ (K, D), Σ (K, D, D) positive definite."""
        scale_tril = torch.linalg.cholesky(covariance.cpu().double())  # float32 fails where Σ is nearly singular
        log_diagonal = scale_tril.diagonal(dim1=-2, dim2=-1).log().diag_embed()
        self.logits.copy_(weights.log())
        self.mu.copy_(mu)
        self.factor.copy_(scale_tril.tril(-1) + log_diagonal)


def raise_eigenvalues(covariance: Tensor, floor: float) -> Tensor:
    """The likeliest covariance among those without eigenvalues below `floor`: (…, D, D), float64 on the CPU.

    Directions stay: with this M-step, too, EM never lowers the likelihood. Ingrassia & Rocci 2007.
    """
    eigenvalues, directions = torch.linalg.eigh(covariance.cpu().double())
    return (directions * eigenvalues.clamp(min=floor).unsqueeze(-2)) @ directions.mT


def only_known(
    x: Tensor, known: Tensor | None, n_features: int, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """x with zeros where it is not known, (B, D), and the mask: (B, D), or (D,) if it is the same for all examples."""
    if known is None:
        known = torch.ones(n_features, dtype=torch.bool, device=x.device)
    else:
        x = torch.where(checks.check_known(known, x), x, 0)
    check_points(x, n_features)
    x = x if dtype is None else x.to(dtype)
    return x, known.expand(n_features) if known.dim() < 2 else known.expand_as(x)


# ---- mixture of categorical pixels ---------------------------------------------------------------------------------


class CategoricalMixture(nn.Module):
    """p(x) = Σ_k w_k Π_i p_ki(x_i), for images of L levels: naive Bayes whose classes are hidden.

    alpha: what is added to each count in the M-step, so that no level becomes impossible. EM then never lowers
    Σ_n log p(x_n) + α Σ_ki log p_ki, the logarithm of the posterior under a Dirichlet prior; log p(x) alone may fall.
    """

    def __init__(self, n_components: int, shape: Sequence[int], levels: int, *, alpha: float = 0.5):
        super().__init__()
        checks.check_whole(1, n_components=n_components, levels=levels)
        checks.check_weight(alpha=alpha)
        self.alpha = alpha
        self.logits = nn.Parameter(torch.zeros(n_components))  # log w_k, up to a constant
        self.pixel_logits = nn.Parameter(torch.zeros(n_components, *shape, levels))  # log p_ki, likewise

    @classmethod
    def start(
        cls, x: Tensor, n_components: int, levels: int, *, alpha: float = 0.5, seed: int = 0
    ) -> CategoricalMixture:
        """A mixture that is spread over the images x, (N, C, H, W), ready for EM or for training by gradient."""
        checks.check_examples(x, "CHW", what="images")
        x = checks.at_least_float32(x)
        model = cls(n_components, x.shape[1:], levels, alpha=alpha).to(x)
        model.m_step(x, first_responsibilities(x.flatten(1), n_components, seed))
        return model

    @classmethod
    def fit(
        cls,
        x: Tensor,
        n_components: int,
        levels: int,
        *,
        alpha: float = 0.5,
        seed: int = 0,
        steps: int = 200,
        tolerance: float = 1e-4,
    ) -> CategoricalMixture:
        """`start`, then `em`."""
        model = cls.start(x, n_components, levels, alpha=alpha, seed=seed)
        em(model, x, steps=steps, tolerance=tolerance)
        return model

    def log_joint(self, x: Tensor) -> Tensor:
        """log w_k + Σ_i log p_ki(x_i): (B, C, H, W) -> (B, K) nats."""
        return self.logits.log_softmax(0) + log_prob_by_class(x, self.pixel_logits)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B,) nats."""
        return self.log_joint(x).logsumexp(1)

    def posterior(self, x: Tensor) -> Tensor:
        """The responsibilities p(z=k|x): (B, K). Raises ValueError for an image that no component can make."""
        return posterior_of(self.log_joint(x))

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return -self.log_prob(x).mean()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, C, H, W): first the component, then every pixel."""
        return CategoricalPixels(self.pixel_logits[drawn(self.logits, n)]).sample()

    @torch.no_grad()
    def e_step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x), (N,), and the responsibilities, (N, K)."""
        log_joint = self.log_joint(x)
        log_prob = log_joint.logsumexp(1)
        checks.check_possible(log_prob)
        return log_prob, log_joint.softmax(1)

    @torch.no_grad()
    def m_step(self, x: Tensor, r: Tensor) -> None:
        """Share of each component, and its levels counted at each pixel: an example counts r_nk times."""
        levels = self.pixel_logits.shape[-1]
        k = to_levels(x, levels).flatten(1)  # (N, C*H*W)
        counts = torch.stack([r.mT @ (k == level).to(r) for level in range(levels)], -1) + self.alpha
        self.pixel_logits.copy_((counts / counts.sum(-1, keepdim=True)).log().view_as(self.pixel_logits))
        self.logits.copy_((r.sum(0) / len(r)).log())
