"""Mixtures.   p(x) = Σ_z p(z) p(x|z), where z = 1 … K says which component x comes from.

The hidden cause can be summed out, so the likelihood is exact. Fitted by expectation–maximisation, or by gradient
through `loss`. Log-probabilities are in nats per example.
Where x has gaps, `known` says so: bool, True where x is known, broadcast against x. What x holds elsewhere does not
matter, and log p(x) is then that of the known entries, the others integrated out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.nn.functional import one_hot

from dgm_lib import checks
from dgm_lib.distributions import CategoricalPixels, drawn, log_prob_by_class, posterior_of, to_levels
from dgm_lib.gaussians import check_points, covariance_of, of_known, only_known
from dgm_lib.models.em import em
from dgm_lib.neighbours import distances

# ---- where EM begins -----------------------------------------------------------------------------------------------


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
    centres = x[torch.randint(len(x), (1,), generator=generator, device="cpu")]
    for _ in range(n_centres - 1):
        squared_distance = distances(x, centres).square().amin(1) + torch.finfo(x.dtype).tiny
        # what torch.multinomial does, but by `rand`, whose numbers are the same in every version of torch
        exponential = -torch.log1p(-torch.rand(len(x), generator=generator, device="cpu", dtype=torch.float64))
        drawn = (squared_distance.cpu() / exponential).argmax()
        centres = torch.cat([centres, x[drawn][None]])
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
