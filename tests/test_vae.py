"""The VAE where everything is known: a linear decoder with Gaussian noise, whose p(x) and p(z|x) are Gaussians."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from helpers import agree, close, seeded, set_linear
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.distributions.kl import kl_divergence

from dgm_lib.datasets import Split
from dgm_lib.distributions import (
    MixturePrior,
    NormalNoise,
    StandardNormal,
    bernoulli_pixels,
    categorical_pixels,
    diagonal_normal,
    logistic_pixels,
)
from dgm_lib.models import vae as vae_module
from dgm_lib.models.vae import VAE, DeepPrior, VampPrior, split_draws
from dgm_lib.nets import MLP, ConvDecoder, ConvEncoder, Labelled
from dgm_lib.train import Objective, fit

SIGMA = 0.7


def linear_vae(seed=0, *, n_features=4, n_latents=2, shift=0.0, widen=0.0, prior=None, **options):
    """x = W z + b + σ ε, W with orthogonal columns, so that p(z|x) has independent latents and q can be equal to it.

    shift, widen: what q's mean and log-variance have too much.
    """
    torch.manual_seed(seed)
    columns = torch.linalg.qr(torch.randn(n_features, n_latents, dtype=torch.float64)).Q
    w, b = columns * torch.tensor([1.5, 0.8, 1.1][:n_latents]).double(), torch.randn(n_features).double()
    variance = 1 / (1 + (w**2).sum(0) / SIGMA**2)  # of p(z|x): (D,)
    to_mean = variance[:, None] * w.mT / SIGMA**2
    encoder, decoder = nn.Linear(n_features, 2 * n_latents).double(), nn.Linear(n_latents, n_features).double()
    set_linear(decoder, w, b)
    set_linear(
        encoder,
        torch.cat([to_mean, torch.zeros_like(to_mean)]),
        torch.cat([shift - to_mean @ b, variance.log() + widen]),
    )
    return VAE(encoder, decoder, prior or StandardNormal(n_latents), NormalNoise(SIGMA), **options).double()


def marginal(vae):
    """p(x) of `linear_vae`, exactly."""
    w = vae.decoder.weight.detach()
    return MultivariateNormal(vae.decoder.bias.detach(), w @ w.mT + SIGMA**2 * torch.eye(len(w)).double())


def examples(vae, n=5, seed=1):
    torch.manual_seed(seed)
    return vae.sample(n)


def digits_vae(prior=None, **options):
    """A small VAE of images with 17 levels, with the networks of a real one."""
    torch.manual_seed(0)
    return VAE(MLP(64, 16, 6), MLP(3, 16, (2, 8, 8)), prior or StandardNormal(3), grey(17), **options)


def grey(levels):
    return partial(logistic_pixels, levels=levels)


def digits(n=4, seed=0):
    return torch.randint(0, 17, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed)) / 16


# ---- the two parts of the ELBO -------------------------------------------------------------------------------------


def test_kl_in_closed_form_is_torchs_and_that_of_many_draws():
    vae = linear_vae()
    mu, log_var = torch.tensor([[0.5, -2.0]]).double(), torch.tensor([[-1.0, 0.3]]).double()
    q = diagonal_normal(mu, log_var)
    kl = vae.kl(q, q.sample())
    same = MultivariateNormal(mu, log_var.exp().diag_embed())
    close(kl, kl_divergence(same, MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())))
    close(kl, 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1))
    z = q.sample((20_000,))  # (n, 1, D)
    agree(q.log_prob(z) - vae.prior.log_prob(z), kl)


@pytest.mark.parametrize("seed", range(3))
def test_kl_to_a_mixture_is_unbiased(seed):
    """One latent, where the integral can be done on a grid."""
    torch.manual_seed(seed)
    prior = MixturePrior(3, 1).double()
    vae = linear_vae(n_latents=1, prior=prior)
    assert not vae.has_closed_form()
    q = diagonal_normal(torch.tensor([[0.4]]).double(), torch.tensor([[-1.0]]).double())
    z = torch.linspace(-8, 8, 4001).double()[:, None]
    log_q = q.log_prob(z[:, None]).squeeze(1)
    exact = (log_q.exp() * (log_q - prior.log_prob(z))).sum() * (z[1] - z[0])
    draws = q.sample((20_000,)).squeeze(1)
    assert exact > 0
    agree(vae.kl(q, draws), exact)


def test_elbo_is_reconstruction_minus_kl_and_its_terms_are_what_they_say():
    vae = linear_vae(shift=0.3, widen=0.5)
    x = examples(vae, 1)
    q, w, b = vae.posterior(x), vae.decoder.weight, vae.decoder.bias
    # E_q[log N(x; Wz + b, σ²)]: the residual at the mean, and what the spread of z adds
    mean, variance = q.mean, q.variance
    residual = (x - mean @ w.mT - b).square().sum(1) + (variance @ w.mT.square()).sum(1)
    expected = -0.5 * residual / SIGMA**2 - 4 * math.log(SIGMA * math.sqrt(2 * math.pi))
    reconstruction, kl = vae.elbo_terms(x.expand(20_000, -1))
    agree(reconstruction, expected[0].detach())
    close(kl, kl_divergence(q, vae.prior.distribution()).expand(20_000))
    torch.manual_seed(7)
    elbo = vae.elbo(x)
    torch.manual_seed(7)
    reconstruction, kl = vae.elbo_terms(x)
    close(elbo, reconstruction - kl)


# ---- the bounds, where log p(x) is known ---------------------------------------------------------------------------


def test_with_the_exact_posterior_there_is_no_gap():
    """log w = log p(x) for each draw, and any number of draws gives log p(x)."""
    vae = linear_vae()
    x = examples(vae)
    exact = marginal(vae).log_prob(x)
    for _ in range(3):
        close(vae.log_weight(x), exact)
    for k in (1, 2, 7):
        close(vae.iw_bound(x, k), exact)
    agree(vae.elbo(x.repeat(4000, 1)).view(4000, 5), exact)


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_is_the_kl_to_the_exact_posterior(seed):
    vae, exact = linear_vae(seed, shift=0.4, widen=-0.8), linear_vae(seed)
    x = examples(vae)
    gap = kl_divergence(vae.posterior(x), exact.posterior(x))
    assert (gap > 0.3).all()
    agree(vae.elbo(x.repeat(10_000, 1)).view(-1, 5), (marginal(vae).log_prob(x) - gap).detach())


@pytest.mark.parametrize("seed", range(3))
def test_more_draws_tighten_the_bound_up_to_log_p(seed):
    vae = linear_vae(seed, shift=0.4, widen=0.5)
    x, n = examples(vae), 2000
    exact = marginal(vae).log_prob(x)
    means = torch.stack([vae.iw_bound(x.repeat(n, 1), k).view(n, 5).mean(0) for k in (1, 3, 30)]).detach()
    assert (means.diff(dim=0) > 0).all()  # gaps of 0.8, 0.3 and 0.03 nats: far more than the noise of n draws
    assert (means <= exact).all()
    with torch.no_grad():
        close(vae.iw_bound(x, 30_000), exact, atol=0.03, rtol=0)


def test_weights_are_unbiased_for_p():
    vae = linear_vae(shift=0.4, widen=0.5)
    x = examples(vae)
    log_w = vae.log_weight(x.repeat(20_000, 1)).view(-1, 5)
    agree((log_w - marginal(vae).log_prob(x)).exp(), torch.ones(5))


def test_one_draw_of_the_weighted_bound_is_the_elbo_in_the_mean():
    vae = linear_vae(shift=0.4, widen=0.5)
    x = examples(vae, 1).expand(20_000, -1)
    agree(vae.iw_bound(x, 1) - vae.elbo(x), 0)


def test_training_a_linear_vae_ends_at_the_exact_optimum():
    """By gradient alone, from small random weights: the bound comes within 0.02 nats of the exact log p of its own."""
    torch.manual_seed(0)
    truth = linear_vae()
    x = truth.sample(2000).float()
    vae = VAE(nn.Linear(4, 4), nn.Linear(2, 4), StandardNormal(2), NormalNoise(1.0))
    optimizer = torch.optim.Adam(vae.parameters(), 2e-2)
    fit(vae, {"-ELBO": Objective(vae.loss, optimizer)}, Split(x, torch.zeros(2000).long()).batches(100), 40)
    with torch.no_grad():
        w, sigma = vae.decoder.weight, vae.pixels.log_sigma.exp()
        own = MultivariateNormal(vae.decoder.bias, w @ w.mT + sigma**2 * torch.eye(4)).log_prob(x).mean()
        best = MultivariateNormal(x.mean(0), x.mT.cov()).log_prob(x).mean()  # no rank: at least as good
        elbo = vae.elbo(x.repeat(20, 1)).mean()
    assert elbo < own + 0.01
    assert own - elbo < 0.02
    assert best - own < 0.02


# ---- chunks --------------------------------------------------------------------------------------------------------


def rows_decoded(vae):
    """A list that grows by the number of latents that are decoded together."""
    rows = []
    vae.decoder.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    return rows


@pytest.mark.parametrize(("k", "n", "rows"), [(1, 5, 8), (7, 5, 8), (100, 5, 35), (3, 50, 8)])
def test_chunks_hold_every_draw_once_and_no_more_rows_than_allowed(k, n, rows, monkeypatch):
    monkeypatch.setattr(vae_module, "ROWS", rows)
    with torch.no_grad():
        parts = split_draws(k, n)
        assert sum(parts) == k
        assert max(parts) * n <= max(rows, n)
        vae = linear_vae()
        x = examples(vae, n)
        decoded = rows_decoded(vae)
        close(vae.iw_bound(x, k), marginal(vae).log_prob(x))
    assert decoded == [n * part for part in parts]
    assert split_draws(k, n) == [k]  # with a gradient


def test_chunks_do_not_change_the_law_of_the_bound(monkeypatch):
    vae = linear_vae(shift=0.4, widen=0.5)
    x = examples(vae, 1).expand(4000, -1)
    with torch.no_grad():
        whole = vae.iw_bound(x, 6)
        monkeypatch.setattr(vae_module, "ROWS", 8000)
        decoded = rows_decoded(vae)
        parts = vae.iw_bound(x, 6)
    assert decoded == [8000] * 3
    agree(parts - whole, 0)
    agree((parts - parts.mean()) ** 2 - (whole - whole.mean()) ** 2, 0)


# ---- what is minimised ---------------------------------------------------------------------------------------------


def test_loss_is_minus_the_mean_elbo():
    vae, x = digits_vae(), digits()
    close(seeded(lambda: vae.loss(x)), -seeded(lambda: vae.elbo(x)).mean())
    close(seeded(lambda: vae.loss(x, torch.zeros(4).long())), -seeded(lambda: vae.elbo(x)).mean())


@pytest.mark.parametrize("prior", [lambda: StandardNormal(3), lambda: MixturePrior(2, 3)])
def test_beta_weighs_the_kl_and_nothing_else(prior):
    x = digits().double()
    losses, elbos = [], []
    for beta in (0.0, 1.0, 3.0):
        vae = digits_vae(seeded(prior), beta=beta).double()
        losses.append(seeded(lambda vae=vae: vae.loss(x)))
        elbos.append(seeded(lambda vae=vae: vae.elbo(x)))
        reconstruction, kl = seeded(lambda vae=vae: vae.elbo_terms(x))
    close(losses[0], -reconstruction.mean())
    close(losses[1] - losses[0], kl.mean())
    close(losses[2] - losses[0], 3 * kl.mean())
    close(elbos[2], elbos[1])


def test_a_latent_below_the_free_bits_feels_no_kl():
    """Two latents with 0.02 and 2.6 nats; the threshold of 0.5 lies between. Weights: nothing but the mean."""
    q_mean = torch.tensor([0.2, math.sqrt(2 * 2.6)]).double()
    grads = {}
    for free_bits in (0.0, 0.5):
        vae = linear_vae(free_bits=free_bits, beta=2.0)
        set_linear(vae.encoder, torch.zeros(4, 4), torch.cat([q_mean, torch.zeros(2)]))
        set_linear(vae.decoder, torch.zeros(4, 2), torch.zeros(4))  # so that the reconstruction says nothing about q
        x = torch.zeros(3, 4).double()
        loss = vae.loss(x)
        loss.backward()
        grads[free_bits] = vae.encoder.bias.grad
        kl = torch.tensor([0.5 * 0.2**2, 2.6]).double()
        reconstruction = Independent(Normal(torch.zeros(4).double(), SIGMA), 1).log_prob(x[0])
        close(loss, 2 * kl.clamp(min=free_bits).sum() - reconstruction)
    close(grads[0.0][:2], 2 * q_mean)
    close(grads[0.5][:2], 2 * q_mean * torch.tensor([0, 1]))


def test_free_bits_count_the_mean_over_the_batch():
    """One example with 0 nats and one with 2 in the same latent: 1 in the mean, above 0.9, so nothing is free."""
    vae = linear_vae(n_latents=1, free_bits=0.9)
    set_linear(vae.encoder, [[1.0, 0, 0, 0], [0.0, 0, 0, 0]], [0.0, 0.0])
    set_linear(vae.decoder, torch.zeros(4, 1), torch.zeros(4))
    x = torch.tensor([[0.0, 0, 0, 0], [2.0, 0, 0, 0]]).double()
    plain = linear_vae(n_latents=1)
    plain.load_state_dict(vae.state_dict())
    close(vae.loss(x), plain.loss(x))


def test_with_draws_the_loss_is_minus_the_weighted_bound():
    vae, x = digits_vae(draws=5), digits()
    close(seeded(lambda: vae.loss(x)), -seeded(lambda: vae.iw_bound(x, 5)).mean())
    seeded(lambda: vae.loss(x)).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in vae.parameters())


@pytest.mark.parametrize("kind", ["plain", "mixture", "deep", "draws", "free bits"])
def test_gradients_are_those_of_the_seeded_loss(kind):
    """Central differences at the same draws: the way through z is not cut anywhere, in any of the losses."""
    build = {
        "plain": lambda: linear_vae(shift=0.3),
        "mixture": lambda: linear_vae(shift=0.3, prior=MixturePrior(3, 2)),
        "deep": lambda: deep_linear_vae()[0],
        "draws": lambda: linear_vae(shift=0.3, draws=4),
        "free bits": lambda: linear_vae(shift=0.3, free_bits=0.2),
    }
    vae = build[kind]()
    x, h = examples(vae), 1e-5
    seeded(lambda: vae.loss(x)).backward()
    for name, p in vae.named_parameters():
        entry, gradient = p.detach().view(-1)[:1], p.grad.view(-1)[0]
        entry += h
        above = seeded(lambda: vae.loss(x))
        entry -= 2 * h
        below = seeded(lambda: vae.loss(x))
        entry += h
        close((above - below) / (2 * h), gradient, rtol=1e-5, atol=1e-7, msg=name)


# ---- use -----------------------------------------------------------------------------------------------------------


def test_samples_have_the_moments_of_p():
    vae = linear_vae()
    n = 40_000
    x, law = seeded(lambda: vae.sample(n)), marginal(vae)
    assert x.shape == (n, 4)
    agree(x, law.mean)
    centred = x - law.mean
    agree(centred[:, :, None] * centred[:, None, :], law.covariance_matrix)


def test_reconstruction_is_the_mean_at_the_mean():
    vae = linear_vae()
    x = examples(vae)
    close(vae.reconstruct(x), vae.decoder(vae.posterior(x).mean).detach())
    assert not vae.reconstruct(x).requires_grad


def conditional_mean(law, x, known):
    """E[x | the known entries] of a Gaussian, for one row."""
    gaps, cov = ~known, law.covariance_matrix
    filled = x.clone()
    step = torch.linalg.solve(cov[known][:, known], x[known] - law.mean[known])
    filled[gaps] = law.mean[gaps] + cov[gaps][:, known] @ step
    return filled


@pytest.mark.parametrize("seed", range(3))
def test_gaps_are_filled_with_the_exact_conditional_mean(seed):
    """q is wide here, so that it covers p(z | what is known); each row has gaps of its own, the last nothing else."""
    vae = linear_vae(seed, widen=1.5)
    x, law = examples(vae, 6), marginal(vae)
    known = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    expected = torch.stack([conditional_mean(law, *row) for row in zip(x, known)])
    start = torch.where(known, x, law.mean)
    filled = vae.fill_in(start, known, k=40_000, rounds=2)
    close(filled[known], x[known], atol=0, rtol=0)
    close(filled, expected, atol=0.05, rtol=0)
    assert (start - expected).abs().max() > 0.5


def test_gaps_are_filled_alike_in_chunks(monkeypatch):
    vae = linear_vae(widen=1.0)
    x, known = examples(vae, 3), torch.tensor([True, True, False, False])
    whole = vae.fill_in(x, known, k=20_000, rounds=1)
    monkeypatch.setattr(vae_module, "ROWS", 3 * 999)
    decoded = rows_decoded(vae)
    close(vae.fill_in(x, known, k=20_000, rounds=1), whole, atol=0.05, rtol=0)
    assert decoded == [3 * 999] * 20 + [3 * 20]


def test_what_stands_in_a_gap_is_a_start_and_nothing_else():
    """With a q that does not look at x, nothing remains of it, be it a level or not."""
    vae, x = digits_vae(), digits()
    for p in vae.encoder.parameters():
        nn.init.zeros_(p)
    known = torch.arange(8) < 5  # the columns on the left
    filled = [seeded(lambda gap=gap: vae.fill_in(torch.where(known, x, gap), known, k=5)) for gap in (0.0, 0.123, 3.0)]
    close(filled[1], filled[0], atol=0, rtol=0)
    close(filled[2], filled[0], atol=0, rtol=0)
    close(filled[0][..., :5], x[..., :5], atol=0, rtol=0)


def test_the_start_matters_through_q_and_rounds_forget_it():
    vae = linear_vae()
    x, known = examples(vae), torch.tensor([True, True, False, False])
    wrong = torch.where(known, x, x + 5)
    once, often = (seeded(lambda r=r: vae.fill_in(wrong, known, k=500, rounds=r)) for r in (1, 30))
    expected = torch.stack([conditional_mean(marginal(vae), row, known) for row in x])
    assert (often - expected).abs().mean() < 0.5 * (once - expected).abs().mean()


# ---- classes -------------------------------------------------------------------------------------------------------


def conditional_vae():
    torch.manual_seed(0)
    encoder, decoder = Labelled(ConvEncoder((4, 8, 8), 6, width=4), 3), Labelled(MLP(6, 16, (2, 8, 8)), 3)
    return VAE(encoder, decoder, StandardNormal(3), grey(17), n_classes=3)


def test_a_conditional_vae_uses_its_label_everywhere():
    vae, x = conditional_vae(), digits(3)
    here, there = torch.tensor([0, 1, 2]), torch.tensor([1, 1, 2])  # the first label is another
    with torch.no_grad():
        for bound in (vae.elbo, vae.log_weight, partial(vae.iw_bound, k=4), vae.reconstruct, vae.posterior):
            values = [seeded(lambda y=y, bound=bound: bound(x, y=y)) for y in (here, there)]
            a, b = (v.mean if isinstance(v, Independent) else v for v in values)
            assert not torch.equal(a[0], b[0])
            close(a[1:], b[1:])
    known = torch.rand(8, 8) < 0.5
    a, b = (seeded(lambda y=y: vae.fill_in(x, known, y, k=4)) for y in (here, there))
    assert not torch.equal(a[0], b[0])
    close(a[1:], b[1:])
    a, b = (seeded(lambda y=y: vae.sample(3, y)) for y in (here, there))
    assert not torch.equal(a[0], b[0])
    assert torch.equal(a[1:], b[1:])


def test_each_draw_is_scored_with_the_label_of_its_example():
    """The decoder says where x is by the label alone, and q is exact: so every k gives log p(x|y)."""
    decoder = nn.Linear(2 + 3, 4)
    encoder = nn.Linear(4 + 3, 4)
    offset = torch.tensor([[0.0, 10.0, -10.0]]).expand(4, 3)
    set_linear(decoder, torch.cat([torch.zeros(4, 2), offset], 1), torch.zeros(4))
    set_linear(encoder, torch.zeros(4, 7), torch.zeros(4))
    vae = VAE(Labelled(encoder, 3), Labelled(decoder, 3), StandardNormal(2), NormalNoise(1.0), n_classes=3)
    x, y = torch.randn(4, 4), torch.tensor([0, 1, 2, 1])
    expected = Independent(Normal(offset[0][y][:, None].expand(4, 4), 1.0), 1).log_prob(x)
    for k in (1, 5):
        close(vae.iw_bound(x, k, y), expected)
    with torch.no_grad():
        close(vae.iw_bound(x, 20_000, y), expected)  # in parts
        close(vae.fill_in(x, torch.zeros(4).bool(), y)[:, 0], offset[0][y])


def test_the_label_has_a_gradient_of_its_own():
    vae = conditional_vae()
    vae.loss(digits(3), torch.tensor([0, 0, 2])).backward()
    by_label = vae.decoder.net[1].weight.grad[:, 3:].abs().sum(0)
    assert (by_label > 0).tolist() == [True, False, True]


# ---- learnt priors -------------------------------------------------------------------------------------------------


def vamp_vae():
    torch.manual_seed(0)
    encoder = MLP(64, 16, 6)
    return VAE(encoder, MLP(3, 16, (2, 8, 8)), VampPrior(encoder, digits(5, seed=9)), grey(17))


def test_vamp_prior_is_the_mean_of_posteriors():
    vae = vamp_vae()
    z = torch.randn(10, 3)
    each = vae.posterior(digits(5, seed=9)).log_prob(z[:, None])  # (10, K)
    close(vae.prior.log_prob(z), each.exp().mean(1).log())
    q = vae.posterior(digits(5, seed=9))
    draws = seeded(lambda: vae.prior.sample(40_000))
    agree(draws, q.mean.mean(0).detach())
    agree(draws**2, (q.variance + q.mean**2).mean(0).detach())


def test_vamp_prior_shares_the_encoder():
    vae = vamp_vae()
    assert vae.prior.encoder is vae.encoder
    names = [name for name, _ in vae.named_parameters()]
    assert len(names) == len({id(p) for p in vae.parameters()}) == 4 + 4 + 1  # two MLPs and the inputs
    z = torch.randn(7, 3)
    (-vae.prior.log_prob(z).mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.encoder.parameters())
    assert vae.prior.inputs.grad.any()


def test_vamp_prior_is_saved_loaded_and_resumed_as_one(tmp_path):
    data = Split((digits(32) * 16).byte(), torch.zeros(32).long(), levels=17).batches(8)
    runs = []
    for epochs, path in (((4,), "a.pt"), ((2, 4), "b.pt")):
        for total in epochs:
            vae = vamp_vae()  # the second call starts anew, and goes on from the file
            objective = Objective(vae.loss, torch.optim.Adam(vae.parameters(), 1e-2))
            fit(vae, {"-ELBO": objective}, data, total, checkpoint=tmp_path / path, resume=True)
        runs.append(vae.state_dict())
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name
    other = vamp_vae()
    other.load_state_dict(runs[0])
    assert other.prior.encoder is other.encoder
    close(seeded(lambda: other.elbo(digits())), seeded(lambda: vae.elbo(digits())))


def deep_linear_vae(seed=0):
    """x = W₁ z₁ + b₁ + σ ε, z₁ = W₂ z₂ + b₂ + σ ε: three Gaussian levels, and no q that is exact."""
    inner = linear_vae(seed, n_features=3, n_latents=2, widen=0.3)
    outer = linear_vae(seed + 10, n_features=4, n_latents=3, prior=DeepPrior(inner), shift=0.2)
    w, prior = outer.decoder.weight.detach(), marginal(inner)
    covariance = w @ prior.covariance_matrix @ w.mT + SIGMA**2 * torch.eye(4)
    return outer, MultivariateNormal(w @ prior.mean + outer.decoder.bias.detach(), covariance)


@pytest.mark.parametrize("seed", range(3))
def test_two_levels_are_unbiased_for_their_exact_p(seed):
    vae, law = deep_linear_vae(seed)
    x = law.mean + 0.5 * seeded(lambda: torch.randn(3, 4))
    with torch.no_grad():
        weights = (vae.log_weight(x.repeat(100_000, 1)).view(-1, 3) - law.log_prob(x)).exp()
        agree(weights, torch.ones(3))
        bounds = [vae.iw_bound(x.repeat(4000, 1), k).view(-1, 3).mean(0) for k in (1, 4, 16)]
        assert (torch.stack([*bounds, law.log_prob(x)]).diff(dim=0) > 0).all()
        close(vae.iw_bound(x, 100_000), law.log_prob(x), atol=0.1, rtol=0)


def test_samples_of_two_levels_have_the_exact_moments():
    vae, law = deep_linear_vae()
    x = seeded(lambda: vae.sample(40_000))
    agree(x, law.mean)
    centred = x - law.mean
    agree(centred[:, :, None] * centred[:, None, :], law.covariance_matrix)


def test_every_level_learns():
    vae, law = deep_linear_vae()
    vae.loss(law.sample((6,))).backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.parameters())


# ---- precision, saving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build", [digits_vae, vamp_vae, partial(digits_vae, draws=4), partial(digits_vae, free_bits=0.1)]
)
def test_bfloat16_matrices_leave_nats_in_float32(build):
    vae, x = build(), digits(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert vae.encoder(x).dtype == torch.bfloat16  # the matrices are
        q, z = vae.posterior(x), vae.prior.sample(16)
        values = seeded(lambda: vae.elbo(x))
        loss = seeded(lambda: vae.loss(x))
        kinds = (z, q.mean, q.log_prob(z), vae.likelihood(z).mean, vae.likelihood(z).log_prob(x), values, loss)
    assert {kind.dtype for kind in kinds} == {torch.float32}
    close(values, seeded(lambda: vae.elbo(x)), rtol=5e-3, atol=0)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in vae.parameters())


def test_state_dict_goes_round():
    vae, x = linear_vae(3), examples(linear_vae(3))
    other = linear_vae(4)
    other.load_state_dict(vae.state_dict())
    close(seeded(lambda: other.elbo(x)), seeded(lambda: vae.elbo(x)))
    assert "pixels.log_sigma" in vae.state_dict()


def test_a_trial_of_the_networks_leaves_no_trace():
    norm, dropout = nn.BatchNorm1d(16), nn.Dropout(0.5)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), norm, dropout, nn.Linear(16, 6))
    torch.manual_seed(5)
    vae = VAE(encoder, MLP(3, (2, 8, 8)), StandardNormal(3), grey(17))
    assert not norm.running_mean.any()
    assert norm.training
    assert dropout.training
    assert vae.shape == (1, 8, 8)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: digits_vae(beta=-1.0), "beta is -1: "),
        (lambda: digits_vae(beta=math.nan), "beta is nan: "),
        (lambda: digits_vae(beta=math.inf), "beta is inf: "),
        (lambda: digits_vae(free_bits=-0.5), "free_bits is -0.5: "),
        (lambda: digits_vae(free_bits=math.nan), "free_bits is nan: "),
        (lambda: digits_vae(draws=0), "draws is 0: "),
        (lambda: digits_vae(draws=5, beta=2.0), "beta is 2 and free_bits 0: with draws > 1 there is no KL"),
        (lambda: digits_vae(draws=5, free_bits=0.1), "beta is 1 and free_bits 0.1: with draws > 1"),
        (lambda: digits_vae(MixturePrior(2, 3), free_bits=0.1), "a MixturePrior has no KL for each latent"),
        (lambda: digits_vae(StandardNormal(4)), "the decoder does not take the 4 latents of the prior"),
        (
            lambda: VAE(MLP(64, 10), MLP(4, (2, 8, 8)), StandardNormal(4), grey(17)),
            r"the encoder gives \(10,\) an example, and the prior has 4 latents: it must end in 8 numbers",
        ),
        (
            lambda: VAE(ConvEncoder((1, 8, 8), 8), ConvDecoder(4, (3, 8, 8)), StandardNormal(4), grey(17)),
            r"the decoder gives \(3, 8, 8\) an image, and this likelihood takes 2 channels for each channel",
        ),
        (
            lambda: VAE(ConvEncoder((1, 8, 8), 8), ConvDecoder(4, (4, 8, 8)), StandardNormal(4), grey(17)),
            r"the encoder does not take the examples \(2, 8, 8\) that the decoder makes",
        ),
        (
            lambda: VAE(MLP(64, 8), MLP(4, (2, 8, 8)), StandardNormal(4), grey(17), n_classes=3),
            "the decoder does not take the 4 latents of the prior: let its sizes fit",
        ),
        (lambda: DeepPrior(digits_vae()), r"this VAE is one of examples \(1, 8, 8\): the prior must be one of vectors"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("method", ["elbo", "loss", "posterior", "reconstruct", "log_weight"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.zeros(4, 8, 8),
            r"expected float examples of shape \(B, 1, 8, 8\), got torch.float32 of shape \(4, 8, 8\)",
        ),
        (torch.zeros(4, 3, 8, 8), r"got torch.float32 of shape \(4, 3, 8, 8\)"),
        (torch.zeros(4, 1, 8, 9), r"got torch.float32 of shape \(4, 1, 8, 9\)"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), r"got torch.uint8 of shape \(4, 1, 8, 8\)"),
    ],
)
def test_examples_of_another_shape_or_type_are_refused(method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(digits_vae(), method)(x)


@pytest.mark.parametrize(
    ("pixels", "channels"), [(bernoulli_pixels, 1), (grey(17), 2), (partial(categorical_pixels, levels=17), 17)]
)
@pytest.mark.parametrize("bound", ["elbo", "loss", "log_weight"])
def test_pixels_off_the_grid_are_refused(pixels, channels, bound):
    vae = VAE(MLP(64, 6), MLP(3, (channels, 8, 8)), StandardNormal(3), pixels)
    with pytest.raises(ValueError, match=r"a pixel is 0.3, not k/"):
        getattr(vae, bound)(torch.full((2, 1, 8, 8), 0.3))


@pytest.mark.parametrize("k", [0, -3])
def test_fewer_than_one_draw_is_refused(k):
    vae, x = digits_vae(), digits()
    with pytest.raises(ValueError, match=f"k is {k}: it must be a whole number ≥ 1"):
        vae.iw_bound(x, k)
    known = torch.ones(8, 8).bool()
    with pytest.raises(ValueError, match=f"k is {k}: it must be a whole number ≥ 1"):
        vae.fill_in(x, known, k=k)
    with pytest.raises(ValueError, match=f"rounds is {k}: it must be a whole number ≥ 1"):
        vae.fill_in(x, known, rounds=k)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 1, 3]), "a label is 3, but the 3 classes are 0 … 2"),
        (torch.tensor([0, -1, 1]), "a label is -1, but the 3 classes"),
        (torch.tensor([0, 1]), "expected 3 labels of type int64"),
        (torch.zeros(3), "expected 3 labels of type int64, one an image, got torch.float32"),
        (None, "this VAE is conditioned on one of 3 classes: give the labels y"),
    ],
)
@pytest.mark.parametrize("method", ["elbo", "loss", "posterior", "reconstruct", "sample"])
def test_labels_that_are_wrong_or_missing_are_refused(method, y, message):
    vae = conditional_vae()
    with pytest.raises(ValueError, match=message):
        getattr(vae, method)(3 if method == "sample" else digits(3), y)


def test_labels_for_a_vae_without_classes_are_refused():
    vae, y = digits_vae(), torch.zeros(4).long()
    with pytest.raises(ValueError, match="this VAE has no classes: leave y out"):
        vae.elbo(digits(), y)
    with pytest.raises(ValueError, match="this VAE has no classes"):
        vae.sample(4, y)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (torch.ones(8, 9).bool(), r"known has the shape \(8, 9\), which does not fit x"),
        (torch.ones(3, 1, 8, 8).bool(), r"known has the shape \(3, 1, 8, 8\), which does not fit x"),
        (torch.ones(1, 4, 1, 8, 8).bool(), r"known has the shape \(1, 4, 1, 8, 8\)"),
        (torch.ones(8, 8), r"known has the type torch\.float32: it must be bool"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(known, message):
    with pytest.raises(ValueError, match=message):
        digits_vae().fill_in(digits(), known)


def test_gaps_that_hold_no_number_and_images_without_channels_are_refused():
    vae, x = digits_vae(), digits()
    with pytest.raises(ValueError, match="x holds NaN or ∞: begin the gaps with numbers"):
        vae.fill_in(x.masked_fill(x > 0.5, math.nan), x <= 0.5)
    with pytest.raises(ValueError, match=r"got torch.float32 of shape \(4, 8, 8\)"):
        vae.fill_in(x[:, 0], x[:, 0] > 0.5)
