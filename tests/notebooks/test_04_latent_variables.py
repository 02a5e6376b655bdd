"""What notebook 04 states as equations, each against quadrature, autograd or a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from broken_library import instead_of
from helpers import close, normal
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.distributions.kl import kl_divergence

from dgm_lib.datasets import dequantize
from dgm_lib.distributions import CategoricalPixels, StandardNormal
from dgm_lib.models.ppca import PPCA
from dgm_lib.models.vae import VAE
from dgm_lib.nets import MLP


def hermite(n, dimensions):
    """Nodes (n^d, d) and weights of N(0, I): exact for polynomials of degree below 2n."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    grid = torch.cartesian_prod(*[nodes] * dimensions).view(-1, dimensions)
    return grid, torch.cartesian_prod(*[weights] * dimensions).view(-1, dimensions).prod(1)


def standard(n):
    return MultivariateNormal(torch.zeros(n).double(), torch.eye(n).double())


def line(extent=12.0, n=6001):
    z = torch.linspace(-extent, extent, n, dtype=torch.float64)
    return z, (z[1] - z[0]).item()


# ---- probabilistic PCA ---------------------------------------------------------------------------------------------

W, MU, SIGMA = normal(5, 2, seed=7), normal(5, seed=1), 0.7
X = MU + normal(3, 2, seed=2) @ W.T + SIGMA * normal(3, 5, seed=3)
M = W.T @ W + SIGMA**2 * torch.eye(2)
MARGINAL = MultivariateNormal(MU, W @ W.T + SIGMA**2 * torch.eye(5))
POSTERIOR = MultivariateNormal(torch.linalg.solve(M, W.T @ (X - MU).T).T, SIGMA**2 * M.inverse())


def log_joint(z, x, weight=W):
    """log p(x, z): (…, n), (…, 5) -> (…)."""
    return Normal(z @ weight.T + MU, SIGMA).log_prob(x).sum(-1) + Normal(0, 1).log_prob(z).sum(-1)


def log_joint_on_a_grid():
    z, width = line(8.0, 401)
    grid = torch.cartesian_prod(z, z)
    return grid, log_joint(grid[:, None], X) + 2 * math.log(width)  # (n, 3), the area of a cell included


def test_the_integral_over_z_and_the_posterior():
    """p(x) = N(μ, WWᵀ + σ²I) and p(z|x) = N(M⁻¹Wᵀ(x−μ), σ²M⁻¹), by adding up a plane of latents."""
    grid, joint = log_joint_on_a_grid()
    close(joint.logsumexp(0), MARGINAL.log_prob(X))
    shares = joint.softmax(0)
    mean = shares.T @ grid
    close(mean, POSTERIOR.mean)
    second = torch.einsum("nb,ni,nj->bij", shares, grid, grid) - mean[:, :, None] * mean[:, None]
    close(second, POSTERIOR.covariance_matrix.expand(3, 2, 2))


def test_the_library_has_the_same_model():
    model = PPCA(2, 5).double()
    model.set_parameters(W, MU, torch.tensor(SIGMA**2).double())
    close(model.log_prob(X).detach(), MARGINAL.log_prob(X))
    close(model.posterior(X).mean.detach(), POSTERIOR.mean)


def likeliest(x, n):
    """Eigenvectors scaled by √(λ − σ²), with σ² the mean of what is left over."""
    variances, directions = torch.linalg.eigh(torch.cov(x.T, correction=0))
    variances, directions = variances.flip(0), directions.flip(1)
    noise = variances[n:].mean()
    return x.mean(0), directions[:, :n] * (variances[:n] - noise).sqrt(), noise


def test_maximum_likelihood_in_closed_form():
    """Its gradient is zero, three hundred models around it are less likely, scikit-learn has the same."""
    from sklearn.decomposition import PCA

    x = normal(200, 3, seed=4) @ normal(3, 6, seed=5) + 0.5 * normal(200, 6, seed=6) + 1
    mu, weight, noise = likeliest(x, 2)
    parameters = [mu.clone().requires_grad_(), weight.clone().requires_grad_(), noise.clone().requires_grad_()]

    def log_p(mu, weight, noise):
        return MultivariateNormal(mu, weight @ weight.T + noise * torch.eye(6).double()).log_prob(x).mean()

    best = log_p(*parameters)
    for gradient in torch.autograd.grad(best, parameters):
        close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)
    for seed in range(300):
        step = 0.1 * normal(19, seed=seed)
        moved = log_p(mu + step[:6], weight + step[6:18].view(6, 2), noise * (1 + step[18]))
        assert moved < best
    assert best.item() == pytest.approx(PCA(2).fit(x.numpy()).score(x.numpy()), rel=1e-3)  # it divides by N − 1
    close(PPCA.fit(x, 2).log_prob(x).mean().detach(), best.detach())


def test_missing_entries():
    """E[x_m | x_o] = W_m E[z | x_o] + μ_m, against the conditional of the joint Gaussian and against the library."""
    known = torch.tensor([True, False, True, True, False])
    seen = W[known]
    z = torch.linalg.solve(seen.T @ seen + SIGMA**2 * torch.eye(2), seen.T @ (X[:, known] - MU[known]).T).T
    cov = MARGINAL.covariance_matrix
    regression = torch.linalg.solve(cov[known][:, known], cov[known][:, ~known])
    expected = MU[~known] + (X[:, known] - MU[known]) @ regression
    close(z @ W[~known].T + MU[~known], expected)
    model = PPCA(2, 5).double()
    model.set_parameters(W, MU, torch.tensor(SIGMA**2).double())
    close(model.fill_in(X, known)[:, ~known].detach(), expected)


def test_a_density_of_spread_levels_bounds_the_probability_of_a_level():
    """log P(k) ≥ E_u log p((k + u)/17) − log 17, and P sums to 1; log 16 is the change of unit of one pixel."""
    p = Normal(torch.tensor(0.4).double(), 0.2)
    edges = p.cdf(torch.linspace(0, 1, 18).double())
    inside = edges[-1] - edges[0]
    probability = (edges[1:] - edges[:-1]).log()
    u = (torch.arange(2000).double() + 0.5) / 2000
    bound = p.log_prob((torch.arange(17)[:, None] + u) / 17).mean(1) - math.log(17)
    assert (bound <= probability).all()
    assert (probability - bound).max() > 1e-4
    assert probability.exp().sum().item() == pytest.approx(inside.item())
    spread = dequantize(17)(torch.full((1000, 1), 5))
    assert spread.min() > 5 / 17
    assert spread.max() < 6 / 17
    close(p.log_prob(p.mean) - Normal(16 * p.mean, 16 * p.stddev).log_prob(16 * p.mean), math.log(16))


# ---- the ELBO ------------------------------------------------------------------------------------------------------


def elbo(q, x, weight=W):
    """Reconstruction minus KL to the prior, the reconstruction by quadrature: it is a polynomial of degree 2."""
    eps, share = hermite(4, 2)
    z = q.mean + torch.einsum("nj,bij->nbi", eps, q.scale_tril)
    reconstruction = share @ Normal(z @ weight.T + MU, SIGMA).log_prob(x).sum(-1)
    return reconstruction - kl_divergence(q, standard(2))


@pytest.mark.parametrize("seed", range(5))
def test_the_gap_is_the_kl_to_the_posterior(seed):
    factor = normal(2, 2, seed=seed).tril(-1) + normal(2, seed=seed + 10).exp().diag()
    q = MultivariateNormal(normal(3, 2, seed=seed + 20), scale_tril=factor.expand(3, 2, 2))
    gap = MARGINAL.log_prob(X) - elbo(q, X)
    assert (gap > 0).all()
    close(gap, kl_divergence(q, POSTERIOR))


def test_the_gap_is_zero_at_the_posterior_and_so_is_the_variance():
    exact = MultivariateNormal(POSTERIOR.mean, POSTERIOR.covariance_matrix.expand(3, 2, 2))
    close(elbo(exact, X), MARGINAL.log_prob(X))
    z = normal(50, 3, 2, seed=9)
    close(log_joint(z, X) - exact.log_prob(z), MARGINAL.log_prob(X).expand(50, 3))


def test_the_gap_where_everything_can_be_summed():
    """Five states of z: Jensen's bound, and log p − KL to the posterior, are the same number."""
    joint, q = normal(5).exp() / 20, normal(5, seed=1).softmax(0)
    bound = (q * (joint / q).log()).sum()
    posterior = joint / joint.sum()
    assert bound < joint.sum().log()
    close(bound, joint.sum().log() - (q * (q / posterior).log()).sum())


def test_independent_latents_have_the_variance_of_the_precisions_diagonal():
    """The best q has 1/Λ_ii, its gap is ½(Σ log Λ_ii − log det Λ); it is zero in the rotation of the eigenvectors."""
    precision = POSTERIOR.precision_matrix[0]
    best = MultivariateNormal(POSTERIOR.mean, (1 / precision.diagonal()).diag().expand(3, 2, 2))
    gap = MARGINAL.log_prob(X) - elbo(best, X)
    close(gap, (precision.diagonal().log().sum() - precision.logdet()).expand(3) / 2)
    for seed in range(100):
        changed = (best.variance[0] * (0.2 * normal(2, seed=seed)).exp()).diag().expand(3, 2, 2)
        assert (elbo(MultivariateNormal(POSTERIOR.mean, changed), X) < elbo(best, X)).all()
    turn = torch.linalg.eigh(W.T @ W).eigenvectors
    turned = W @ turn
    close(turned @ turned.T, W @ W.T)
    inner = turned.T @ turned / SIGMA**2 + torch.eye(2)
    straight = MultivariateNormal(POSTERIOR.mean @ turn, (1 / inner.diagonal()).diag().expand(3, 2, 2))
    close(elbo(straight, X, turned), MARGINAL.log_prob(X))
    assert gap.min() > 0.01


def test_a_rotation_in_equal_parts_makes_all_precisions_alike():
    """R of ± 1/√8 is a rotation; where WᵀW is diagonal, each latent of WR has the mean precision."""
    mix = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double() / 2**0.5
    rotation = torch.kron(torch.kron(mix, mix), mix)
    close(rotation.abs(), torch.full((8, 8), 8**-0.5).double())
    close(rotation @ rotation.T, torch.eye(8).double())
    close(torch.linalg.det(rotation), torch.tensor(1.0).double())
    w = torch.linalg.qr(normal(20, 8)).Q * torch.arange(8, 0, -1)
    turned = w @ rotation
    close(turned @ turned.T, w @ w.T)
    close((turned.T @ turned).diagonal(), (w.T @ w).diagonal().mean().expand(8))


def test_the_kl_to_the_prior():
    mu, log_var = torch.tensor([0.7, -1.5]).double(), torch.tensor([0.4, -2.0]).double()
    z, width = line()
    q = Normal(mu, (0.5 * log_var).exp())
    by_quadrature = (q.log_prob(z[:, None]).exp() * (q.log_prob(z[:, None]) - Normal(0, 1).log_prob(z)[:, None])).sum(0)
    close(0.5 * (mu**2 + log_var.exp() - log_var - 1), by_quadrature * width)


def test_more_draws_tighten_the_bound():
    """E log mean of k weights over all draws, where z has five states: it rises with k and stays below log p."""
    joint, q = normal(5).exp() / 20, normal(5, seed=1).softmax(0)
    log_w = (joint / q).log()
    bounds = []
    for k in (1, 2, 3):
        drawn = torch.cartesian_prod(*[torch.arange(5)] * k).view(-1, k)
        bounds.append((q[drawn].prod(1) * (log_w[drawn].logsumexp(1) - math.log(k))).sum().item())
    assert bounds[0] < bounds[1] < bounds[2] < joint.sum().log().item()


# ---- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_latents", [1, 2, 3])
def test_the_variance_of_two_gradients(n_latents):
    """f = ‖z‖² at θ = 1: both mean 2; variances 4 and 4D² + 14D + 12, by quadrature that is exact for polynomials."""
    eps, share = hermite(6, n_latents)
    z = 1 + eps
    theta = torch.ones(n_latents, dtype=torch.float64, requires_grad=True)
    log_q = Normal(theta, 1.0).log_prob(z).sum(1)
    (by_autograd,) = torch.autograd.grad((share * z.square().sum(1) * log_q).sum(), theta)
    close(by_autograd, torch.full((n_latents,), 2.0).double())
    score, pathwise = z.square().sum(1) * eps[:, 0], 2 * z[:, 0]
    close(share @ score, 2.0)
    close(share @ pathwise, 2.0)
    close(share @ pathwise**2 - 4, 4.0)
    close(share @ score**2 - 4, 4 * n_latents**2 + 14 * n_latents + 12)


def test_the_mean_over_pixels_is_a_beta_of_their_number():
    """KL − mean over 64 pixels is the loss with β = 64, divided by 64: the same gradients up to that factor."""
    torch.manual_seed(0)
    vae = VAE(
        MLP(64, 6), MLP(3, (17, 8, 8)), StandardNormal(3), lambda out: CategoricalPixels(out.movedim(1, -1)[:, None])
    )
    x = torch.randint(17, (4, 1, 8, 8)) / 16
    torch.manual_seed(1)
    reconstruction, kl = vae.elbo_terms(x)
    slip = (kl - reconstruction / 64).mean()
    vae.beta = 64.0
    torch.manual_seed(1)
    close(vae.loss(x).detach() / 64, slip.detach())


# ---- the two parts of the gap, and the linear VAE ------------------------------------------------------------------


def test_the_gap_splits_in_two():
    """For PPCA with the best q of independent latents, and an encoder that is a little off, both parts are positive."""
    precision = POSTERIOR.precision_matrix[0]
    best = MultivariateNormal(POSTERIOR.mean, (1 / precision.diagonal()).diag().expand(3, 2, 2))
    encoder = MultivariateNormal(POSTERIOR.mean + 0.1, best.covariance_matrix)
    approximation, amortisation = MARGINAL.log_prob(X) - elbo(best, X), elbo(best, X) - elbo(encoder, X)
    assert approximation.min() > 0
    assert amortisation.min() > 0
    close(approximation + amortisation, kl_divergence(encoder, POSTERIOR))


def test_a_linear_vae_can_be_exact():
    """With principal directions as columns, an encoder that is linear in x has the posterior: ELBO = log p."""
    x = normal(200, 3, seed=4) @ normal(3, 6, seed=5) + 0.5 * normal(200, 6, seed=6) + 1
    mu, weight, noise = likeliest(x, 2)
    inner = weight.T @ weight + noise * torch.eye(2)
    vae = VAE(MLP(6, 4), MLP(2, 6), StandardNormal(2), lambda out: Normal(out, noise.sqrt())).double()
    with torch.no_grad():
        vae.decoder[1].weight.copy_(weight)
        vae.decoder[1].bias.copy_(mu)
        to_mean = torch.linalg.solve(inner, weight.T)
        vae.encoder[1].weight.copy_(torch.cat([to_mean, torch.zeros(2, 6).double()]))
        log_var = (noise * inner.inverse()).diagonal().log()
        vae.encoder[1].bias.copy_(torch.cat([-to_mean @ mu, log_var]))
        log_p = MultivariateNormal(mu, weight @ weight.T + noise * torch.eye(6).double()).log_prob(x)
        close(vae.iw_bound(x, 1), log_p)  # a single draw has no noise
        q = vae.posterior(x)
        lost = q.variance @ weight.square().sum(0) / (2 * noise)
        at_mean = Independent(Normal(q.mean @ weight.T + mu, noise.sqrt()), 1).log_prob(x)
        close(at_mean - lost - vae.kl(q, q.mean), log_p)  # the closed form that the notebook uses


@pytest.mark.parametrize("n_latents", [1, 2, 5])
def test_what_a_baseline_saves(n_latents):
    """f = ‖z‖², z ~ N(1, I), times z₁ − 1: the variance is 4D² + 14D + 12, and 6D + 12 with f − 2D. By moments.

    With ε = z − 1, f = A + B, where A = (1 + ε₁)² and B, the sum over the other coordinates, is independent of ε₁; each
    of its terms has the mean 2 and the variance 6.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    a, others = (1 + nodes) ** 2, n_latents - 1
    for baseline, expected in ((0, 4 * n_latents**2 + 14 * n_latents + 12), (2 * n_latents, 6 * n_latents + 12)):
        shifted = a + 2 * others - baseline  # B at its mean
        second = weights @ (nodes**2 * (shifted**2 + 6 * others))
        assert weights @ (nodes * shifted) == pytest.approx(2)  # the gradient, whatever the baseline
        assert second - 4 == pytest.approx(expected)


# ---- breaks of the library that the notebook must notice -----------------------------------------------------------


@instead_of(PPCA.set_parameters, turns="library: 12.6102 nats per test digit")
def noise_averaged_over_all_directions(set_parameters, model, weight, mu, var):
    n_features, n_latents = weight.shape
    set_parameters(model, weight, mu, var * (n_features - n_latents) / n_features)


@instead_of(VAE.loss, turns="within 0.2: True")
def no_gradient_through_z(loss, vae, x, y=None):
    """`sample` where `rsample` belongs."""
    q = vae.posterior(x)
    z = q.sample()
    return (vae.kl(q, z) - vae.likelihood(z).log_prob(x)).mean()
