"""The VQ-VAE where all codes and all images can be counted: 9 codes of 16 images."""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import pytest
import torch
from helpers import close
from torch import nn

from dgm_lib.datasets import Split
from dgm_lib.distributions import bernoulli_pixels, logistic_pixels
from dgm_lib.models.baselines import IndependentPixels, PixelChain
from dgm_lib.models.mixtures import CategoricalMixture
from dgm_lib.models.vq_vae import VQVAE
from dgm_lib.nets import MLP, ConvEncoder
from dgm_lib.train import Objective, fit


def tiny(seed=0, **options):
    """Binary images (1, 2, 2) by two codes of three: latents (2, 1, 2). A decoder with strong opinions."""
    torch.manual_seed(seed)
    vae = VQVAE(MLP(4, 8, (2, 1, 2)), MLP(4, 8, (1, 2, 2)), bernoulli_pixels, 3, (2, 1, 2), **options)
    with torch.no_grad():
        vae.decoder[-2].weight *= 8
        vae.encoder[-2].weight *= 8
    return vae


def every(shape, levels):
    """All images of this shape: (L^D, *shape)."""
    return torch.tensor(list(product(range(levels), repeat=math.prod(shape)))).view(-1, *shape) / (levels - 1)


IMAGES, CODES = every((1, 2, 2), 2), every((1, 1, 2), 3)


def chain(codes):
    return PixelChain.fit(codes, 3)


def mixture(codes):
    return CategoricalMixture.fit(codes, 2, 3)


def independent(codes):
    return IndependentPixels.fit(codes, 3)


PRIORS = (None, independent, chain, mixture)


def tiny_with(prior, seed=0):
    vae = tiny(seed)
    if prior is not None:
        vae.prior = prior(vae.codes(IMAGES))
    return vae


def log_p(vae):
    """log p(x) of all 16 images, by the sum over all 9 codes."""
    with torch.no_grad():
        joint = [vae.likelihood(z[None]).log_prob(IMAGES) + vae.log_prior(z[None]) for z in CODES]
        return torch.stack(joint).logsumexp(0)


# ---- the bound -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prior", PRIORS)
def test_elbo_is_a_bound_on_the_sum_over_all_codes(prior, seed):
    vae = tiny_with(prior, seed)
    with torch.no_grad():
        close(vae.log_prior(CODES).exp().sum(), 1.0)
        close(log_p(vae).exp().sum(), 1.0)
        elbo, exact = vae.elbo(IMAGES), log_p(vae)
        assert (elbo < exact).all()
        # the term of the chosen codes and no other
        terms = torch.stack([vae.likelihood(z[None]).log_prob(IMAGES) + vae.log_prior(z[None]) for z in CODES])
        chosen = (vae.codes(IMAGES) == CODES[:, None]).flatten(2).all(2)
    assert chosen.sum(0).tolist() == [1] * 16
    close(elbo, terms.mT[chosen.mT])


def test_without_a_prior_all_codes_are_alike():
    vae = tiny()
    close(vae.log_prior(CODES), torch.full((9,), -math.log(9)))
    close(vae.log_prior(CODES), IndependentPixels((1, 1, 2), 3).log_prob(CODES))


@pytest.mark.parametrize("prior", PRIORS)
def test_samples_have_the_probabilities_of_p(prior):
    vae, n = tiny_with(prior), 20_000
    torch.manual_seed(1)
    x = vae.sample(n)
    assert x.shape == (n, 1, 2, 2)
    shares = (x[:, None] == IMAGES).flatten(2).all(2).float().mean(0)
    p = log_p(vae).exp()
    assert ((shares - p).abs() < 4.5 * (p * (1 - p) / n).sqrt() + 1e-4).all()


def test_reconstruction_is_the_mean_given_the_codes():
    vae = tiny()
    k = vae.nearest(vae.encode(IMAGES))
    close(vae.reconstruct(IMAGES), torch.sigmoid(vae.decoder(vae.codebook[k].movedim(-1, 1))).detach())


# ---- codes ---------------------------------------------------------------------------------------------------------


def test_codes_are_levels_that_the_likelihood_reads_back():
    vae = tiny()
    codes = vae.codes(IMAGES)
    assert codes.shape == (16, 1, 1, 2)
    k = vae.nearest(vae.encode(IMAGES))
    close(codes[:, 0], k / 2)
    vae.decoder = nn.Identity()
    vae.shape = torch.Size((2, 1, 2))
    close(vae.likelihood(codes).base_dist.logits, vae.vectors(k))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_is_nearest(offset):
    """Also far from the origin, where the squares are 10⁸ times as large as the distances."""
    torch.manual_seed(0)
    vae = VQVAE(MLP(4, (6, 3, 2)), MLP(36, (1, 2, 2)), bernoulli_pixels, 50, (6, 3, 2))
    with torch.no_grad():
        vae.codebook += offset
    vectors = torch.randn(200, 6, 3, 2) + offset
    difference = vectors.double().movedim(1, -1)[..., None, :] - vae.codebook.double()
    expected = difference.square().sum(-1).argmin(-1)
    assert vae.nearest(vectors).shape == (200, 3, 2)
    assert torch.equal(vae.nearest(vectors), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(vae.nearest(vectors), expected)


def test_bfloat16_matrices_leave_nats_in_float32():
    vae = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert vae.encoder(IMAGES).dtype == torch.bfloat16  # the matrices are
        kinds = vae.encode(IMAGES), vae.likelihood(CODES).mean, vae.elbo(IMAGES), vae.loss(IMAGES)
    assert {kind.dtype for kind in kinds} == {torch.float32}


# ---- the loss ------------------------------------------------------------------------------------------------------


def gradients(vae, x):
    vae.zero_grad()
    vae.loss(x).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in vae.named_parameters()}


def test_loss_is_three_sums():
    vae = tiny(commitment=0.7)
    with torch.no_grad():
        e = vae.encode(IMAGES)
        c = vae.codebook[vae.nearest(e)].movedim(-1, 1)
        squares = (e - c).square().sum((1, 2, 3))
        expected = (1.7 * squares - vae.likelihood(vae.codes(IMAGES)).log_prob(IMAGES)).mean()
    close(vae.loss(IMAGES), expected)
    close(vae.loss(IMAGES, torch.zeros(16)), expected)


def test_the_encoder_gets_the_gradient_of_its_code_straight_through():
    """As if coding were the identity: d loss / d e is what the decoder says at c."""
    vae = tiny(commitment=0.0)
    e = vae.encode(IMAGES)
    c = vae.vectors(vae.nearest(e)).detach().requires_grad_()
    assert not torch.equal(c, e)
    loss = -bernoulli_pixels(vae.decoder(c)).log_prob(IMAGES).flatten(1).sum(1).mean()
    (at_the_code,) = torch.autograd.grad(loss, c)
    names, parameters = zip(*vae.encoder.named_parameters())
    expected = torch.autograd.grad(e, parameters, at_the_code)
    found = gradients(vae, IMAGES)
    for name, gradient in zip(names, expected):
        assert gradient.any()
        close(found[f"encoder.{name}"], gradient)


def test_the_codebook_is_pulled_to_the_vectors_and_by_nothing_else():
    for commitment in (0.0, 3.0):
        vae = tiny(commitment=commitment)
        vectors = vae.encode(IMAGES).detach().movedim(1, -1).reshape(-1, 2)
        k = vae.nearest(vae.encode(IMAGES)).flatten()
        expected = torch.stack([2 * (vae.codebook[j] - vectors[k == j]).sum(0) / 16 for j in range(3)])
        close(gradients(vae, IMAGES)["codebook"], expected)


def test_commitment_pulls_the_vectors_to_their_codes_and_nothing_else():
    without, with_it = (gradients(tiny(commitment=c), IMAGES) for c in (0.0, 3.0))
    vae = tiny()
    e = vae.encode(IMAGES)
    c = vae.vectors(vae.nearest(e)).detach()
    names, parameters = zip(*vae.encoder.named_parameters())
    expected = torch.autograd.grad(e, parameters, 3 * 2 * (e - c) / 16)
    for name, gradient in zip(names, expected):
        close(with_it[f"encoder.{name}"] - without[f"encoder.{name}"], gradient, atol=1e-5, rtol=1e-4)
    for name in without:
        if not name.startswith("encoder"):
            close(with_it[name], without[name])


def test_training_finds_four_pictures():
    """Four patterns, equally often: with four codes, log p(x) = −log 4, and nothing can be better."""
    torch.manual_seed(0)
    patterns = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.uint8).view(
        4, 1, 2, 2
    )
    split = Split(patterns.repeat(16, 1, 1, 1), torch.zeros(64).long(), levels=2)
    vae = VQVAE(MLP(4, 16, (2, 1, 1)), MLP(2, 16, (1, 2, 2)), bernoulli_pixels, 4, (2, 1, 1))
    x = split.scaled()
    optimizer = torch.optim.Adam(vae.parameters(), 2e-2)
    objective = Objective(vae.loss, optimizer)
    fit(vae, {"loss": objective}, split.batches(16), 40, on_epoch=lambda: {"revived": vae.revive(x)})
    close(vae.elbo(x).mean(), -math.log(4), atol=0.05, rtol=0)
    assert vae.perplexity(x) == pytest.approx(4, abs=1e-4)


# ---- use of the codes ----------------------------------------------------------------------------------------------


def points_on_a_line(n_codes):
    """An encoder that is the identity on one number, and a codebook to be set by hand."""
    vae = VQVAE(nn.Identity(), nn.Identity(), bernoulli_pixels, n_codes, (1, 1, 1))
    with torch.no_grad():
        vae.codebook.copy_(torch.arange(n_codes)[:, None])
    return vae


def on_the_line(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_usage_and_perplexity_by_hand():
    vae = points_on_a_line(4)
    close(vae.usage(on_the_line(0.1, 0.2, 1.1, 2.9)), [0.5, 0.25, 0, 0.25])
    assert vae.perplexity(on_the_line(0.1, 0.2, 1.1, 2.9)) == pytest.approx(2**1.5)
    assert vae.perplexity(on_the_line(0.1, 0.2)) == pytest.approx(1)
    assert vae.perplexity(on_the_line(0.0, 1.0, 2.0, 3.0)) == pytest.approx(4)


def test_codes_that_nothing_uses_begin_anew_at_vectors():
    vae = points_on_a_line(5)
    x = on_the_line(0.1, 0.2, 0.3, 3.9, 4.1)  # codes 1, 2 and 3 are unused
    assert vae.revive(x) == 3
    codebook = vae.codebook.detach().flatten()
    assert codebook[0] == 0
    assert codebook[4] == 4
    new = codebook[1:4].tolist()
    assert len(set(new)) == 3
    assert set(new) <= set(x.flatten().tolist())
    assert vae.codebook.requires_grad
    assert (vae.usage(x)[1:4] > 0).all()
    other = points_on_a_line(5)
    other.revive(x)
    close(other.codebook, vae.codebook)
    different = []
    for seed in range(5):
        other = points_on_a_line(5)
        other.revive(x, seed=seed)
        different.append(tuple(other.codebook.flatten().tolist()))
    assert len(set(different)) > 1


def test_missed_vectors_are_drawn_by_their_squared_distance():
    """One free code, and vectors at 1, 2 and 3 from code 0: shares 1/14, 4/14 and 9/14 over many seeds."""
    x, n = on_the_line(-1.0, -2.0, -3.0, 0.0), 1400
    vae = points_on_a_line(2)
    drawn = []
    for seed in range(n):
        with torch.no_grad():
            vae.codebook[1] = 50
        assert vae.revive(x, seed=seed) == 1
        drawn.append(-round(vae.codebook[1].item()))
    counts = torch.bincount(torch.tensor(drawn), minlength=4)
    expected = torch.tensor([0, 100, 400, 900])
    assert ((counts - expected).abs() < 4.5 * (expected * (1 - expected / n)).sqrt() + 1e-9).all()


def test_every_place_of_every_example_counts_as_one_vector():
    torch.manual_seed(0)
    vae = VQVAE(nn.Identity(), nn.Identity(), bernoulli_pixels, 30, (5, 3, 2))
    x = torch.randn(2, 5, 3, 2)
    vectors = {tuple(x[b, :, i, j].tolist()) for b in range(2) for i in range(3) for j in range(2)}
    with torch.no_grad():
        vae.codebook[0] = 0
        vae.codebook[1:] = 100  # all are nearest to code 0
    close(vae.usage(x), torch.eye(30)[0])
    assert vae.revive(x) == 12
    assert {tuple(row) for row in vae.codebook[1:13].tolist()} == vectors
    close(vae.usage(x), [0.0] + [1 / 12] * 12 + [0.0] * 17)


def test_where_all_codes_are_used_none_is_revived_and_too_few_vectors_revive_as_many():
    vae = points_on_a_line(3)
    assert vae.revive(on_the_line(0.0, 1.0, 2.0)) == 0
    close(vae.codebook.flatten(), [0.0, 1, 2])
    assert vae.revive(on_the_line(0.25)) == 1
    close(vae.codebook.flatten(), [0.0, 0.25, 2])


# ---- saving --------------------------------------------------------------------------------------------------------


def test_a_prior_set_later_is_saved_and_moves_with_the_model():
    vae = tiny_with(independent)
    assert "prior.log_p" in vae.state_dict()
    other = tiny(seed=5, prior=IndependentPixels((1, 1, 2), 3))
    other.load_state_dict(vae.state_dict())
    close(other.elbo(IMAGES), vae.elbo(IMAGES))
    assert vae.double().elbo(IMAGES.double()).dtype == torch.float64


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda nets: VQVAE(*nets, bernoulli_pixels, 1, (2, 1, 2)), r"n_codes is 1: "),
        (lambda nets: VQVAE(*nets, bernoulli_pixels, 3, (2, 0, 2)), r"latents is \(2, 0, 2\)"),
        (lambda nets: VQVAE(*nets, bernoulli_pixels, 3, (2, 2)), r"latents is \(2, 2\)"),
        (
            lambda nets: VQVAE(*nets, bernoulli_pixels, 3, (2, 1, 2), commitment=-0.5),
            "commitment is -0.5: it must be ≥ 0",
        ),
        (lambda nets: VQVAE(*nets, bernoulli_pixels, 3, (2, 1, 2), commitment=math.nan), "commitment is nan"),
        (lambda nets: VQVAE(*nets, bernoulli_pixels, 3, (2, 1, 3)), r"the networks do not fit latents of \(2, 1, 3\)"),
        (
            lambda nets: VQVAE(nets[0], nets[1], partial(logistic_pixels, levels=17), 3, (2, 1, 2)),
            r"the decoder gives \(1, 2, 2\) an image, and this likelihood takes 2 channels",
        ),
        (
            lambda nets: VQVAE(MLP(4, (2, 2, 1)), nets[1], bernoulli_pixels, 3, (2, 1, 2)),
            r"the encoder gives \(2, 2, 1\) an example, and latents is \(2, 1, 2\)",
        ),
        (
            lambda nets: VQVAE(ConvEncoder((1, 8, 8), 4), nets[1], bernoulli_pixels, 3, (2, 1, 2)),
            r"the networks do not fit latents of \(2, 1, 2\) an example: ",
        ),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build((MLP(4, (2, 1, 2)), MLP(4, (1, 2, 2))))


@pytest.mark.parametrize("method", ["elbo", "loss", "codes", "reconstruct", "usage", "perplexity", "revive"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.zeros(4, 2, 2),
            r"expected float examples of shape \(B, 1, 2, 2\), got torch.float32 of shape \(4, 2, 2\)",
        ),
        (torch.zeros(4, 4, 1, 1), r"got torch.float32 of shape \(4, 4, 1, 1\)"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), r"got torch.uint8 of shape"),
    ],
)
def test_examples_of_another_shape_or_type_are_refused(method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(tiny(), method)(x)


@pytest.mark.parametrize("method", ["elbo", "loss"])
def test_pixels_off_the_grid_are_refused(method):
    with pytest.raises(ValueError, match=r"a pixel is 0.3, not k/1"):
        getattr(tiny(), method)(torch.full((2, 1, 2, 2), 0.3))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.full((2, 1, 1, 2), 0.3), "a pixel is 0.3, not k/2"),
        (torch.full((2, 1, 1, 2), 2.0), "a pixel is 2, not k/2"),
        (
            torch.zeros(2, 1, 2),
            r"expected float codes of shape \(B, 1, 1, 2\), got .* \(2, 1, 2\)",
        ),
        (
            torch.zeros(2, 2, 1, 2),
            r"expected float codes of shape \(B, 1, 1, 2\), got .* \(2, 2, 1, 2\)",
        ),
    ],
)
def test_codes_that_are_none_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        tiny().likelihood(codes)


def test_a_trial_of_the_networks_leaves_no_trace():
    norm = nn.BatchNorm1d(4)
    encoder = nn.Sequential(nn.Flatten(), norm, nn.Unflatten(1, (2, 1, 2)))
    vae = VQVAE(encoder, MLP(4, (1, 2, 2)), bernoulli_pixels, 3, (2, 1, 2))
    assert int(norm.num_batches_tracked) == 0
    assert norm.training
    assert vae.shape == (1, 2, 2)
