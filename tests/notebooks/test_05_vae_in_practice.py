"""What notebook 05 states as equations, each against a sum over all levels, a closed form or autograd."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from broken_library import instead_of
from helpers import close, normal
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import binary_cross_entropy_with_logits

from dgm_lib.distributions import (
    NormalNoise,
    StandardNormal,
    categorical_pixels,
    logistic_mixture_pixels,
    logistic_pixels,
)
from dgm_lib.models.ppca import PPCA
from dgm_lib.models.vae import VAE
from dgm_lib.nets import MLP

# ---- pixels --------------------------------------------------------------------------------------------------------

LEVELS = torch.arange(17).double() / 16


@pytest.mark.parametrize("logit", [0.0, 2.0, -4.0])
def test_cross_entropy_of_grey_levels_is_no_probability(logit):
    """Σ_k p^x (1−p)^(1−x) over x = k/16 is a geometric series, (1 − p) (1 − r^17)/(1 − r) with r = (p/(1−p))^(1/16)."""
    logits = torch.full((17,), logit, dtype=torch.float64)
    total = (-binary_cross_entropy_with_logits(logits, LEVELS, reduction="none")).exp().sum()
    p, r = 1 / (1 + math.exp(-logit)), math.exp(logit / 16)
    close(total, 8.5 if logit == 0 else (1 - p) * (1 - r**17) / (1 - r))
    assert total > 4


@pytest.mark.parametrize(
    ("pixels", "channels"),
    [
        (partial(logistic_pixels, levels=17), 2),
        (partial(logistic_mixture_pixels, levels=17, n_components=3), 9),
        (partial(categorical_pixels, levels=17), 17),
    ],
)
def test_the_honest_likelihoods_sum_to_one(pixels, channels):
    out = normal(5, channels, 2, 2)
    log_p = pixels(out).log_prob(LEVELS.view(17, 1, 1, 1, 1).expand(17, 5, 1, 2, 2))
    close(log_p.exp().sum(0), torch.ones(5, 1, 2, 2))


# ---- what the KL is weighed with -----------------------------------------------------------------------------------


def small_vae(**options):
    torch.manual_seed(0)
    return VAE(MLP(6, 8), MLP(4, 6), StandardNormal(4), NormalNoise(0.5), **options).double()


def test_the_loss_with_beta_is_no_bound():
    """It is −ELBO + (β − 1) KL."""
    vae, x = small_vae(beta=4.0), normal(5, 6)
    torch.manual_seed(1)
    loss = vae.loss(x)
    torch.manual_seed(1)
    reconstruction, kl = vae.elbo_terms(x)
    close(loss, (kl - reconstruction + 3 * kl).mean())
    assert loss > (kl - reconstruction).mean() + 1e-3


def test_below_the_threshold_nothing_pushes_a_latent_down():
    """With free bits above every KL, the gradient of the loss is that of the reconstruction alone."""
    x, weights = normal(5, 6), []
    for options in ({"beta": 8.0, "free_bits": 1e3}, {"beta": 0.0}, {"beta": 8.0}):
        vae = small_vae(**options)
        torch.manual_seed(2)
        weights.append(torch.autograd.grad(vae.loss(x), vae.encoder[1].weight)[0])
    close(weights[0], weights[1])
    assert (weights[0] - weights[2]).abs().max() > 1e-3


def test_a_rotation_of_the_latents_is_the_same_model():
    """p(z) = p(Rz), so a decoder that turns back gives the same p(x, z): nothing in the data chooses the axes."""
    turn = torch.linalg.qr(normal(4, 4)).Q
    z, weight = normal(7, 4, seed=1), normal(6, 4, seed=2)
    prior = StandardNormal(4).double()
    close(prior.log_prob(z @ turn), prior.log_prob(z))
    turned = weight @ turn
    close(turned @ turned.T, weight @ weight.T)


# ---- bounds --------------------------------------------------------------------------------------------------------


def test_groups_of_the_same_draws_tighten_the_bound():
    """Nested groups obey Jensen draw by draw: the notebook's curve can only fall."""
    log_w = 3 * normal(1000, 20)
    bounds = [(log_w.view(-1, k, 20).logsumexp(1) - math.log(k)).mean(0) for k in (1, 2, 10, 50, 100, 500, 1000)]
    assert all((b >= a).all() for a, b in pairwise(bounds))


def test_the_bound_arrives_at_log_p_of_a_linear_model():
    """q is wider than the posterior; ELBO < bound with 10 draws < log p, which 3,000 draws meet within 0.01 nats."""
    weight, mu, sigma = normal(5, 2), normal(5, seed=1), 0.5
    x = normal(4, 5, seed=2)
    log_p = MultivariateNormal(mu, weight @ weight.T + sigma**2 * torch.eye(5).double()).log_prob(x)
    inner = weight.T @ weight + sigma**2 * torch.eye(2).double()
    vae = VAE(MLP(5, 4), MLP(2, 5), StandardNormal(2), NormalNoise(sigma)).double()
    with torch.no_grad():
        vae.decoder[1].weight.copy_(weight)
        vae.decoder[1].bias.copy_(mu)
        to_mean = torch.linalg.solve(inner, weight.T)
        vae.encoder[1].weight.copy_(torch.cat([to_mean, torch.zeros(2, 5).double()]))
        wide = (4 * sigma**2 * inner.inverse()).diagonal().log()
        vae.encoder[1].bias.copy_(torch.cat([-to_mean @ mu, wide]))
        torch.manual_seed(0)
        elbo = torch.stack([vae.elbo(x) for _ in range(300)]).mean(0)
        ten = torch.stack([vae.iw_bound(x, 10) for _ in range(300)]).mean(0)
        many = torch.stack([vae.iw_bound(x, 3000) for _ in range(20)]).mean(0)
    assert (elbo < ten).all()
    assert (ten < log_p).all()
    close(many, log_p, atol=0.01, rtol=0)


def test_one_code_bounds_the_sum_over_codes():
    log_joint = normal(6, 32)  # log p(x|z) + log p(z), for 32 codes
    assert (log_joint.gather(1, normal(6, 32, seed=1).argmax(1)[:, None])[:, 0] < log_joint.logsumexp(1)).all()


# ---- moving in the space of latents --------------------------------------------------------------------------------


def spherical(a, b, t):
    omega = torch.cosine_similarity(a, b, dim=1)[:, None].acos()
    return (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / omega.sin()


def test_spherical_interpolation_keeps_the_length_and_turns_evenly():
    a, b = (v / v.norm(dim=1, keepdim=True) for v in (normal(9, 16), normal(9, 16, seed=1)))
    omega = (a * b).sum(1).acos()
    for t in (0.0, 0.3, 0.5, 1.0):
        z = spherical(a, b, t)
        close(z.norm(dim=1), torch.ones(9))
        close((a * z).sum(1).clamp(-1, 1).acos(), t * omega, atol=1e-6, rtol=0)


def test_halfway_on_the_straight_line_draws_are_shorter_by_the_root_of_two():
    """(a + b)/2 of two draws of N(0, I) is N(0, I/2)."""
    a, b = normal(200_000, 16), normal(200_000, 16, seed=1)
    half = (a + b) / 2
    close(half.var(0), torch.full((16,), 0.5), atol=0.01, rtol=0)
    close(half.norm(dim=1).mean() / a.norm(dim=1).mean(), 0.5**0.5, atol=2e-3, rtol=0)


def test_the_direction_of_an_attribute():
    """The slope is the least-squares one; for a property that is there or not, it is the difference of two means."""
    z, r = normal(50, 3), normal(50, seed=1)
    slope = (r - r.mean()) @ (z - z.mean(0)) / (r - r.mean()).square().sum()
    fitted = torch.linalg.lstsq(torch.stack([r, torch.ones(50).double()], 1), z).solution[0]
    close(slope, fitted)
    has = (r > 0.3).double()
    slope = (has - has.mean()) @ (z - z.mean(0)) / (has - has.mean()).square().sum()
    close(slope, z[has == 1].mean(0) - z[has == 0].mean(0))


def test_a_mean_of_latents_given_all_knobs_is_the_slope_where_it_is_linear():
    """m(r') − m(r) = Δ · slope, if m is the least-squares map of knobs that do not hang together."""
    knobs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 2.0]).double()] * 3)  # every combination: uncorrelated
    z = normal(27, 4)
    m = torch.linalg.lstsq(torch.cat([knobs, torch.ones(27, 1).double()], 1), z).solution[:3]
    r = knobs[:, 1] - knobs[:, 1].mean()
    moved = torch.tensor([0.3, 1.2, -0.5]).double()
    changed = moved + torch.tensor([0.0, 0.7, 0.0]).double()
    close(changed @ m - moved @ m, 0.7 * (r @ (z - z.mean(0)) / (r @ r)))


def test_a_short_path_is_straight_where_the_decoder_is_linear():
    """Σ‖step‖² ≥ (Σ‖step‖)²/n, equal for even steps; its least is the straight line, evenly walked."""
    decoder, ends = normal(6, 2), normal(2, 2, seed=1)
    straight = ends[0] + torch.linspace(0, 1, 9).double()[:, None] * (ends[1] - ends[0])

    def squares(path):
        return (path.diff(dim=0) @ decoder.T).square().sum(1)

    close(squares(straight).sum(), squares(straight).sqrt().sum() ** 2 / 8)
    for seed in range(20):
        other = straight.clone()
        other[1:-1] += 0.1 * normal(7, 2, seed=seed)
        assert squares(other).sum() > squares(straight).sum()
        assert squares(other).sum() > squares(other).sqrt().sum() ** 2 / 8


# ---- missing pixels ------------------------------------------------------------------------------------------------


def test_weighted_draws_fill_in_what_is_missing():
    """Σ w E[x|z] / Σ w, w = p(x_known|z) p(z) / q(z), over a grid of z: PPCA's exact E[x | known pixels]."""
    model = PPCA(1, 4).double()
    weight, mu, var = normal(4, 1), normal(4, seed=1), torch.tensor(0.3).double()
    model.set_parameters(weight, mu, var)
    x, known = normal(1, 4, seed=2), torch.tensor([True, True, False, False])
    z = torch.linspace(-12, 12, 6001).double()[:, None]
    mean = z @ weight.T + mu
    log_known = Normal(mean[:, known], var.sqrt()).log_prob(x[:, known]).sum(1)
    log_w = log_known + Normal(0.0, 1.0).log_prob(z[:, 0])  # q is even on the grid: a constant
    close(log_w.softmax(0) @ mean[:, ~known], model.fill_in(x, known)[0, ~known].detach(), atol=1e-5, rtol=0)


# ---- breaks of the library that the notebook must notice -----------------------------------------------------------


@instead_of(VAE.log_weight, turns="1,000 draws win over 1 nat: True", batches=5)
def every_draw_is_the_mean(log_weight, vae, x, y=None):
    q = vae.posterior(x, y)
    return vae.likelihood(q.mean, y).log_prob(x) + vae.prior.log_prob(q.mean) - q.log_prob(q.mean)


@instead_of(VAE.loss, turns="β = 8 collapses at least half of them: True", batches=60)
def beta_is_forgotten(loss, vae, x, y=None):
    return -vae.elbo(x).mean()
