"""The VAE of several modalities where everything is known: linear decoders with Gaussian noise, and one label."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from helpers import agree, close, seeded, set_linear
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from dgm_lib.datasets import Split
from dgm_lib.distributions import MixturePrior, NormalNoise, StandardNormal, logistic_pixels
from dgm_lib.models.joint_vae import JointVAE, Labels, Modality, product_of_normals
from dgm_lib.nets import MLP
from dgm_lib.train import Objective, fit

SIGMA = {"left": 0.7, "right": 0.4}
SIZES = {"left": 3, "right": 4}


def linear_modality(name, shift):
    """x = W z + b + σ ε, W with orthogonal columns: p(x|z) as a function of z is a Gaussian with independent z."""
    n, sigma = SIZES[name], SIGMA[name]
    w = torch.linalg.qr(torch.randn(n, 2).double()).Q * torch.tensor([1.5, 0.6])
    b, norm = torch.randn(n).double(), (w**2).sum(0)
    encoder, decoder = nn.Linear(n, 4).double(), nn.Linear(2, n).double()
    set_linear(decoder, w, b)
    to_mean = w.mT / norm[:, None]
    set_linear(
        encoder,
        torch.cat([to_mean, torch.zeros_like(to_mean)]),
        torch.cat([shift - to_mean @ b, (sigma**2 / norm).log()]),
    )
    return Modality(encoder, decoder, NormalNoise(sigma))


def linear_model(seed=0, shift=0.0):
    """q is the exact posterior where shift is 0; else its experts are off by it."""
    torch.manual_seed(seed)
    return JointVAE({name: linear_modality(name, shift) for name in SIZES}, StandardNormal(2)).double()


def exact(model, *names):
    """p of these modalities together, one after the other."""
    layers = [model.modalities[name].decoder for name in names]
    w, b = torch.cat([layer.weight for layer in layers]).detach(), torch.cat([layer.bias for layer in layers]).detach()
    noise = torch.cat([torch.full((SIZES[name],), SIGMA[name] ** 2) for name in names]).double()
    return MultivariateNormal(b, w @ w.mT + noise.diag())


def pairs(model, n=5, seed=1):
    torch.manual_seed(seed)
    return model.sample(n)


@torch.no_grad()
def many(f, n, x):
    """f(**x) n times, each with its own draw: (n, B)."""
    torch.manual_seed(2)
    return f(**{name: values.repeat(n, 1) for name, values in x.items()}).view(n, -1)


# ---- the product of experts ----------------------------------------------------------------------------------------


def test_the_product_of_normals_is_the_normalised_product_of_the_densities():
    torch.manual_seed(0)
    mu, log_var = torch.randn(3, 1, 1).double(), torch.randn(3, 1, 1).double()
    grid = torch.linspace(-15, 15, 60_001).double()
    product = Normal(mu, (log_var / 2).exp()).log_prob(grid).sum(0).exp().flatten()
    product /= torch.trapezoid(product, grid)
    close(product_of_normals(mu, log_var).base_dist.log_prob(grid[:, None, None]).exp().flatten(), product)


def test_an_expert_of_infinite_variance_says_nothing():
    torch.manual_seed(0)
    mu, log_var = torch.randn(3, 5, 2), torch.randn(3, 5, 2)
    log_var[1] = math.inf
    q, without = product_of_normals(mu, log_var), product_of_normals(mu[[0, 2]], log_var[[0, 2]])
    close(q.mean, without.mean)
    close(q.variance, without.variance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("log_var", [-100.0, -90.0, -50.0, 0.0, 50.0, 90.0, 100.0])
def test_the_product_of_normals_needs_no_precision_that_overflows(log_var, prior, dtype):
    torch.manual_seed(0)
    mu = torch.randn(3, 4, 2, dtype=dtype)
    log_vars = log_var + torch.randn(3, 4, 2, dtype=dtype)
    if prior:  # beside experts that are far surer than it, or far less sure
        mu[0], log_vars[0] = 0, 0
    mu.requires_grad_()
    log_vars.requires_grad_()
    q = product_of_normals(mu, log_vars)
    precision = (-log_vars.detach().double()).exp()  # float64 holds e^±100
    expected = (precision * mu.detach()).sum(0) / precision.sum(0)
    # A weight is exp of a difference of numbers near 100, each rounded to half an eps of its size.
    slack = 400 * torch.finfo(dtype).eps
    close(q.mean.double(), expected, atol=slack, rtol=slack)
    close(q.base_dist.scale.double(), precision.sum(0).rsqrt(), atol=0, rtol=slack)  # its square is 0 in float32
    for gradient in torch.autograd.grad(q.rsample().sum(), (mu, log_vars)):
        assert gradient.isfinite().all()


def test_the_prior_is_one_of_the_experts():
    """Precisions 1 + 1/v_1 + 1/v_2, and the prior's mean 0 counts with 1."""
    model = linear_model(shift=0.3)
    x = pairs(model)
    (m1, v1), (m2, v2) = ((mu, log_var.exp()) for mu, log_var in (model._expert(name, x[name]) for name in SIZES))
    q = model.posterior(**x)
    close(q.variance, 1 / (1 + 1 / v1 + 1 / v2))
    close(q.mean, (m1 / v1 + m2 / v2) / (1 + 1 / v1 + 1 / v2))


@pytest.mark.parametrize("names", [("left",), ("right",), ("left", "right")])
def test_the_posterior_of_a_linear_model_is_that_of_conditioning(names):
    model = linear_model()
    x = pairs(model)
    joint, given = exact(model, *names), torch.cat([x[name] for name in names], 1)
    w = torch.cat([model.modalities[name].decoder.weight for name in names]).detach()
    gain = w.mT @ joint.precision_matrix  # of z, whose prior is N(0, I)
    q = model.posterior(**{name: x[name] for name in names})
    close(q.mean.detach(), (given - joint.mean) @ gain.mT)
    close(q.variance.detach(), (torch.eye(2).double() - gain @ w).diagonal().expand(5, 2))


# ---- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("left",), ("left", "right")])
def test_with_the_exact_posterior_every_bound_is_log_p(names):
    model = linear_model()
    x = {name: values for name, values in pairs(model).items() if name in names}
    log_p = exact(model, *names).log_prob(torch.cat(list(x.values()), 1))
    close(model.iw_bound(1, **x).detach(), log_p)  # log p(x, z) − log q(z|x), whatever z is
    agree(many(model.elbo, 2000, x), log_p)


def test_the_joint_elbo_is_below_log_p_by_the_kl_and_more_draws_come_nearer():
    model = linear_model(shift=0.25)
    x = pairs(model)
    log_p = exact(model, *SIZES).log_prob(torch.cat(list(x.values()), 1))
    gap = torch.distributions.kl_divergence(model.posterior(**x), linear_model().posterior(**x)).detach()
    assert (gap > 0.1).all()
    agree(many(model.elbo, 2000, x), log_p - gap)
    few, more = (many(partial(model.iw_bound, k), 500, x).mean(0) for k in (5, 100))
    assert (log_p - gap < few).all()
    assert (few < more).all()
    close(more, log_p, atol=0.05, rtol=0)


def test_the_loss_is_minus_the_joint_bound_and_that_of_each_modality_alone():
    model = linear_model(shift=0.5)
    x = pairs(model)
    torch.manual_seed(3)
    by_hand = -sum(model.elbo(**{n: x[n] for n in names}) for names in (("left", "right"), ("left",), ("right",)))
    torch.manual_seed(3)
    close(model.loss(x["left"], x["right"]), by_hand.mean())


def test_a_weight_counts_in_the_loss_and_not_in_the_bound():
    model, weighted = linear_model(shift=0.5), linear_model(shift=0.5)
    weighted.modalities["right"].weight = 3.0
    x = pairs(model)
    elbo, same, loss, more = (
        seeded(f, *x.values()) for f in (bound(model), bound(weighted), model.loss, weighted.loss)
    )
    close(same, elbo)
    terms = seeded(lambda *_: [reconstruction(model, x, names) for names in (("left", "right"), ("left",), ("right",))])
    close(more - loss, -2 * sum(each.get("right", torch.zeros(5)).mean() for each in terms))


def bound(model):
    return lambda left, right: model.elbo(left=left, right=right)


def reconstruction(model, x, names):
    """E_q[log p(x_i|z)] of each of these modalities, with one draw."""
    x = {name: x[name] for name in names}
    z = model.posterior(**x).rsample()
    return {name: model.likelihood(name, z).log_prob(values) for name, values in x.items()}


# ---- what is missing -----------------------------------------------------------------------------------------------


def test_an_example_that_is_missing_counts_as_not_given():
    model = linear_model(shift=0.5)
    x = pairs(model)
    some = {**x, "right": x["right"].clone()}
    some["right"][2] = math.nan
    q, both, left = model.posterior(**some), model.posterior(**x), model.posterior(left=x["left"])
    close(q.mean[[0, 1, 3, 4]], both.mean[[0, 1, 3, 4]])
    close(q.mean[2], left.mean[2])
    close(q.variance[2], left.variance[2])
    agree(many(model.elbo, 5000, some)[:, 2], many(model.elbo, 50_000, {"left": x["left"]})[:, 2].mean())


def test_what_is_missing_gives_finite_gradients_and_none_of_its_own():
    model = linear_model()
    x = pairs(model)
    model.loss(x["left"], torch.full_like(x["right"], math.nan)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients.values())
    assert not gradients["modalities.right.encoder.weight"].any()
    assert gradients["modalities.left.encoder.weight"].any()


# ---- translation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "to"), [("left", "right"), ("right", "left")])
def test_a_translation_is_the_conditional_mean(given, to):
    model = linear_model()
    x = pairs(model)[given]
    joint, n = exact(model, given, to), SIZES[given]
    gain = joint.covariance_matrix[n:, :n] @ joint.covariance_matrix[:n, :n].inverse()
    conditional = joint.mean[n:] + (x - joint.mean[:n]) @ gain.mT
    torch.manual_seed(4)
    agree(model.translate(to, 1, **{given: x.repeat(3000, 1)}).view(3000, 5, -1), conditional)
    close(model.translate(to, 1000, **{given: x}), conditional, atol=0.1, rtol=0)


def label_model(weight=1.0):
    """x = z + σ ε, and a label whose logits are linear in z: p(y|x) is an integral over one z."""
    torch.manual_seed(0)
    encoder, decoder, logits = nn.Linear(1, 2).double(), nn.Linear(1, 1).double(), nn.Linear(1, 3).double()
    set_linear(decoder, torch.ones(1, 1), torch.zeros(1))
    set_linear(encoder, torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, math.log(0.5**2)]))
    set_linear(logits, torch.tensor([[-2.0], [0.0], [2.0]]), torch.tensor([0.0, 0.5, 0.0]))
    label = Modality(nn.Embedding(3, 2), logits, Labels, weight)
    return JointVAE({"x": Modality(encoder, decoder, NormalNoise(0.5)), "label": label}, StandardNormal(1)).double()


def test_the_probabilities_of_a_label_are_those_of_the_integral():
    model = label_model()
    x = torch.tensor([[-1.0], [0.3], [2.0]]).double()
    z = torch.linspace(-8, 8, 4001).double()
    log_joint = Normal(0.0, 1.0).log_prob(z) + Normal(z, 0.5).log_prob(x)  # (3, grid)
    by_z = model.modalities["label"].decoder(z[:, None]).softmax(1).detach()
    expected = log_joint.softmax(1) @ by_z
    torch.manual_seed(0)
    draws = model.translate("label", 1, x=x.repeat(3000, 1)).view(3000, 3, 3)
    close(draws.sum(2), torch.ones(3000, 3))
    agree(draws, expected)


def test_an_image_of_a_label_is_drawn_through_the_posterior_given_the_label():
    model = label_model()
    y = torch.tensor([0, 2])
    torch.manual_seed(0)
    draws = model.translate("x", 1, label=y.repeat(2000)).view(2000, 2, 1)  # x is z, in the mean
    agree(draws, model.posterior(label=y).mean.detach())
    close(draws.std(0), model.posterior(label=y).stddev, rtol=0.1, atol=0)


def test_a_label_of_minus_one_is_missing():
    model = label_model()
    x, y = torch.tensor([[0.5], [0.5]]).double(), torch.tensor([1, -1])
    q = model.posterior(x=x, label=y)
    close(q.mean[1], model.posterior(x=x).mean[1])
    assert not torch.isclose(q.mean[0], q.mean[1])
    close(model.iw_bound(1, label=torch.tensor([-1, -1])), torch.zeros(2))


def test_it_learns_to_name_images_and_to_draw_names():
    """Four blots, one in each corner: the label follows from the image, and the image from the label."""
    torch.manual_seed(0)
    y = torch.arange(400) % 4
    x = torch.zeros(400, 1, 4, 4, dtype=torch.uint8)
    for c in range(4):
        x[y == c, :, 2 * (c // 2) : 2 * (c // 2) + 2, 2 * (c % 2) : 2 * (c % 2) + 2] = 1
    x = torch.where(torch.rand(x.shape) < 0.05, 1 - x, x)
    pixels = partial(logistic_pixels, levels=2)
    model = JointVAE(
        {
            "image": Modality(MLP(16, 32, 4), MLP(2, 32, (2, 4, 4)), pixels),
            "label": Modality(nn.Embedding(4, 4), MLP(2, 32, 4), Labels, weight=5.0),
        },
        StandardNormal(2),
    )
    objective = Objective(model.loss, torch.optim.Adam(model.parameters(), 1e-2))
    split = Split(x, y, levels=2)
    fit(model, {"-ELBO": objective}, split.batches(50), 40, progress=False)
    assert (model.translate("label", image=split.scaled()).argmax(1) == y).float().mean() > 0.95
    drawn = model.translate("image", label=torch.arange(4))
    assert [int(image[0, ::2, ::2].argmax()) for image in drawn] == [0, 1, 2, 3]


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_bad_input_is_named():
    model = linear_model()
    x = pairs(model)
    with pytest.raises(ValueError, match="no modality 'sound'; there are: left, right"):
        model.posterior(sound=x["left"])
    with pytest.raises(ValueError, match="no modality 'sound'"):
        model.translate("sound", left=x["left"])
    with pytest.raises(ValueError, match="nothing is given"):
        model.elbo()
    with pytest.raises(ValueError, match=r"expected float examples of 'right' of shape \(B, 4\), got .* \(5, 3\)"):
        model.elbo(left=x["left"], right=x["left"])
    with pytest.raises(ValueError, match=r"have {'left': 5, 'right': 4} examples: give as many of each"):
        model.elbo(left=x["left"], right=x["right"][1:])
    with pytest.raises(ValueError, match="1 batches are given for the modalities left, right"):
        model.loss(x["left"])
    with pytest.raises(ValueError, match="k is 0"):
        model.iw_bound(0, **x)
    with pytest.raises(ValueError, match="draws is 0"):
        model.translate("right", 0, left=x["left"])
    x["left"][0, 0] = math.nan
    with pytest.raises(ValueError, match="an example of 'left' holds some NaN"):
        model.elbo(**x)
    with pytest.raises(ValueError, match=r"a label is 3, but the 3 classes are 0 … 2"):
        label_model().posterior(label=torch.tensor([3]))
    with pytest.raises(ValueError, match="weight is 0"):
        label_model(weight=0)


def test_what_does_not_fit_together_is_said_at_once():
    def modality(n_encoder, n_decoder):
        return {"x": Modality(nn.Linear(3, n_encoder), nn.Linear(n_decoder, 3), NormalNoise())}

    with pytest.raises(ValueError, match=r"the encoder of 'x' gives .*must end in 4 numbers"):
        JointVAE(modality(2, 2), StandardNormal(2))
    with pytest.raises(ValueError, match="the decoder of 'x' does not take the 2 latents"):
        JointVAE(modality(4, 3), StandardNormal(2))
    with pytest.raises(ValueError, match="the prior is a MixturePrior"):
        JointVAE(modality(4, 2), MixturePrior(2, 2))
    with pytest.raises(ValueError, match="no modality"):
        JointVAE({}, StandardNormal(2))
