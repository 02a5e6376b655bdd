"""The hybrid against its two parents: without game and features a VAE, and a critic whose features are known."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from helpers import close, seeded
from torch import nn
from torch.nn.functional import softplus

from dgm_lib.datasets import Split
from dgm_lib.distributions import MixturePrior, NormalNoise, StandardNormal, bernoulli_pixels, logistic_pixels
from dgm_lib.models.gan import HINGE, LEAST_SQUARES, NON_SATURATING, WASSERSTEIN, gradient_penalty, r1
from dgm_lib.models.vae import VAE
from dgm_lib.models.vae_gan import VAEGAN
from dgm_lib.nets import MLP, DCCritic, Labelled, ProjectionCritic
from dgm_lib.train import Objective, averaged, fit


class LinearCritic(nn.Module):
    """φ(x) = A x, D(x) = w·φ(x) + b."""

    def __init__(self, n_features=5):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, n_features, bias=False))
        self.head = nn.Linear(n_features, 1)

    def forward(self, x):
        return self.head(self.body(x))


def small_vae(prior=None, **options):
    prior = prior or StandardNormal(3)
    decoder = nn.Sequential(MLP(3, 16, (1, 8, 8)), nn.Sigmoid())
    return VAE(MLP(64, 16, 6), decoder, prior, NormalNoise(0.5), **options)


def small(prior=None, *, critic=None, seed=0, beta=1.0, **options):
    torch.manual_seed(seed)
    return VAEGAN(small_vae(prior, beta=beta), critic or LinearCritic(), **options).double()


def conditional(n_classes=3, **options):
    torch.manual_seed(0)
    encoder = Labelled(MLP(64 * (1 + n_classes), 16, 6), n_classes)
    decoder = Labelled(nn.Sequential(MLP(3 + n_classes, 16, (1, 8, 8)), nn.Sigmoid()), n_classes)
    critic = ProjectionCritic(MLP(64, 16), 16, n_classes)
    nn.init.normal_(critic.embedding.weight)
    vae = VAE(encoder, decoder, StandardNormal(3), NormalNoise(0.5), n_classes=n_classes)
    return VAEGAN(vae, critic, **options).double()


def images(n=6, seed=1):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def turns(model):
    return {"critic": model.critic_loss, "decoder": model.decoder_loss, "encoder": model.encoder_loss}


def players(model):
    """The parameters of each."""
    vae = model.vae
    return {
        "critic": list(model.critic.parameters()),
        "decoder": [*vae.decoder.parameters(), *vae.pixels.parameters()],
        "encoder": [*vae.encoder.parameters(), *vae.prior.parameters()],
    }


def objectives(model, rate=1e-3):
    adam = partial(torch.optim.Adam, lr=rate, betas=(0.5, 0.99))
    return {name: Objective(turns(model)[name], adam(own)) for name, own in players(model).items()}


def made(model, x, y=None, seed=3):
    """z, x̂ and x̃ as a turn draws them after this seed."""
    torch.manual_seed(seed)
    z = model.vae.posterior(x, y).rsample()
    sampled = model.vae.prior.sample(len(x))
    return z, model.vae.likelihood(z, y).mean, model.vae.likelihood(sampled, y).mean


def inputs_of(module):
    """A list that grows by what the module is asked."""
    seen = []
    module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return seen


# ---- a VAE ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [lambda: StandardNormal(3), lambda: MixturePrior(2, 3)])
@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_with_pixels_alone_it_is_the_vae(prior, beta):
    """The loss of the encoder is −ELBO; the gradients of both players are those of the VAE's one loss."""
    model = small(prior(), beta=beta, pixel_weight=1, feature_weight=0, game_weight=0)
    x = images()
    loss = seeded(lambda: model.vae.loss(x))
    own = {name: parameters for name, parameters in players(model).items() if name != "critic"}
    expected = {name: torch.autograd.grad(loss, parameters, retain_graph=True) for name, parameters in own.items()}
    close(seeded(lambda: model.encoder_loss(x)), loss)
    close(seeded(lambda: model.decoder_loss(x)), -seeded(lambda: model.vae.elbo_terms(x))[0].mean())
    asked = inputs_of(model.critic)
    for name, parameters in own.items():
        gradients = torch.autograd.grad(seeded(lambda name=name: turns(model)[name](x)), parameters)
        for gradient, known in zip(gradients, expected[name]):
            assert known.any()
            close(gradient, known)
    assert not asked  # a game without weight is not played


def test_a_conditional_one_is_the_conditional_vae():
    model = conditional(pixel_weight=1, feature_weight=0, game_weight=0)
    x, y = images(), torch.tensor([0, 1, 2, 0, 1, 2])
    close(seeded(lambda: model.encoder_loss(x, y)), seeded(lambda: model.vae.loss(x, y)))


# ---- errors in the critic's features -------------------------------------------------------------------------------


@pytest.mark.parametrize(("feature_weight", "pixel_weight"), [(1, 0), (0.3, 0), (0.3, 2)])
def test_errors_of_reconstruction_are_those_written_by_hand(feature_weight, pixel_weight):
    """½ ‖A (x − x̂)‖² summed over the features, and −log p(x|z) at the same z; with the KL for the encoder alone."""
    model = small(feature_weight=feature_weight, pixel_weight=pixel_weight, game_weight=0, beta=1.5)
    x = images()
    z, reconstruction, _ = made(model, x)
    seen = (x - reconstruction).flatten(1) @ model.critic.body[1].weight.T
    error = feature_weight * 0.5 * seen.square().sum(1) - pixel_weight * model.vae.likelihood(z).log_prob(x)
    kl = model.vae.kl(model.vae.posterior(x), z)
    whole = {"decoder": error.mean(), "encoder": (error + 1.5 * kl).mean()}
    for name, expected in whole.items():
        loss = seeded(lambda name=name: turns(model)[name](x))
        close(loss, expected)
        own = players(model)[name][:2]
        known = torch.autograd.grad(expected, own, retain_graph=True)
        for gradient, right in zip(torch.autograd.grad(loss, own), known):
            assert right.any()
            close(gradient, right)


def test_features_of_every_place_are_summed():
    """(B, F, H, W) features count as F·H·W of them."""
    flat, maps = LinearCritic(12), LinearCritic(12)
    maps.body.append(nn.Unflatten(1, (3, 2, 2)))
    maps.head = nn.Sequential(nn.Flatten(), maps.head)
    models = [small(critic=critic, game_weight=0) for critic in (flat, maps)]
    models[1].critic.body[1].load_state_dict(models[0].critic.body[1].state_dict())
    losses = [seeded(lambda model=model: model.encoder_loss(images())) for model in models]
    close(losses[0], losses[1])


def test_a_perfect_reconstruction_costs_only_the_kl():
    model = small(game_weight=0)
    x = seeded(lambda: made(model, images())[1]).detach()
    model.vae.decoder = nn.Sequential(nn.Flatten(), Constant(x))
    close(model.decoder_loss(x), 0.0)
    close(model.encoder_loss(x), model.vae.kl(model.vae.posterior(x), None).mean())


class Constant(nn.Module):
    """Says the same of whatever it is asked."""

    def __init__(self, x):
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self, z):
        return self.x


def test_what_has_no_weight_is_not_computed():
    """Grey pixels have no probability under Bernoulli, and this critic no `body`: neither is asked for."""
    torch.manual_seed(0)
    vae = VAE(MLP(64, 16, 6), MLP(3, 16, (1, 8, 8)), StandardNormal(3), bernoulli_pixels)
    x = images().float()
    for model in (VAEGAN(vae, LinearCritic()), VAEGAN(vae, MLP(64, 1), feature_weight=0)):
        assert all(turn(x).isfinite() for turn in turns(model).values())
    with pytest.raises(ValueError, match="a pixel is"):
        VAEGAN(vae, LinearCritic(), pixel_weight=1).decoder_loss(x)


# ---- the game ------------------------------------------------------------------------------------------------------

GAMES = {"non-saturating": NON_SATURATING, "least squares": LEAST_SQUARES, "hinge": HINGE, "Wasserstein": WASSERSTEIN}
every_game = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)


@every_game
def test_the_critic_sees_data_reconstructions_and_samples(game):
    model = small(game=game)
    x = images()
    _, reconstruction, sample = made(model, x)
    seen = inputs_of(model.critic)
    loss = seeded(lambda: model.critic_loss(x))
    for image, expected in zip(seen, (x, reconstruction, sample), strict=True):
        assert not image.requires_grad
        close(image, expected.detach())
    a, b, c = (model.critic(image).squeeze(1) for image in (x, reconstruction, sample))
    close(loss, (game.critic(a, b) + game.critic(a, c)).mean())


@every_game
def test_the_decoder_plays_with_reconstructions_and_samples(game):
    model = small(game=game, feature_weight=0, game_weight=0.7)
    x = images()
    _, *fakes = made(model, x)
    expected = 0.7 * sum(game.generator(model.critic(image).squeeze(1)).mean() for image in fakes)
    loss = seeded(lambda: model.decoder_loss(x))
    close(loss, expected)
    own = list(model.vae.decoder.parameters())
    for gradient, known in zip(torch.autograd.grad(loss, own), torch.autograd.grad(expected, own)):
        assert known.any()
        close(gradient, known)


def test_the_games_in_nats():
    """Cross-entropies, that of data twice. A critic that says 0 of everything pays 2 log 4, the decoder 2 log 2."""
    model = small(feature_weight=0)
    x = images()
    a, b, c = (model.critic(image).squeeze(1) for image in (x, *made(model, x)[1:]))
    close(seeded(lambda: model.critic_loss(x)), (2 * softplus(-a) + softplus(b) + softplus(c)).mean())
    nn.init.zeros_(model.critic.head.weight)
    nn.init.zeros_(model.critic.head.bias)
    close(model.critic_loss(x), 2 * math.log(4))
    close(model.decoder_loss(x), 2 * math.log(2))


def test_the_encoder_takes_no_part_in_the_game():
    x = images()
    losses = [seeded(lambda w=w: small(game_weight=w).encoder_loss(x)) for w in (0.0, 1.0, 50.0)]
    close(losses[1], losses[0])
    close(losses[2], losses[0])


@pytest.mark.parametrize("penalty", [r1, gradient_penalty])
def test_a_penalty_is_added_to_the_critics_loss(penalty):
    x = images()
    losses = []
    for weight in (0.0, 5.0):
        model = small(game=WASSERSTEIN, penalty=penalty, penalty_weight=weight)
        losses.append(seeded(lambda model=model: model.critic_loss(x)))
    norm = (model.critic.head.weight @ model.critic.body[1].weight).norm()
    expected = (norm - 1) ** 2 if penalty is gradient_penalty else 0.5 * norm**2
    close(losses[1] - losses[0], 5 * expected.detach())


def test_a_penalty_looks_at_data_and_samples():
    asked = []

    def penalty(critic, real, fake):
        asked.extend([real, fake, critic(real)])
        return real.new_zeros(len(real))

    model = small(penalty=penalty)
    x = images()
    _, _, sample = made(model, x)
    seeded(lambda: model.critic_loss(x))
    for image, expected in zip(asked, (x, sample.detach(), model.critic(x).squeeze(1)), strict=True):
        close(image, expected)
    assert not asked[1].requires_grad


def test_labels_reach_all_three():
    model = conditional()
    x, y = images(), torch.tensor([0, 1, 2, 0, 1, 2])
    told = {}
    for name, module in {"encoder": model.vae.encoder, "decoder": model.vae.decoder, "critic": model.critic}.items():
        told[name] = []
        module.register_forward_pre_hook(lambda module, inputs, name=name: told[name].append(inputs[1].tolist()))
    for turn in turns(model).values():
        turn(x, y)
    assert {name: len(labels) for name, labels in told.items()} == {"encoder": 2, "decoder": 3, "critic": 5}
    assert all(labels == y.tolist() for each in told.values() for labels in each)


# ---- turns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0)])
@pytest.mark.parametrize("turn", ["critic", "decoder", "encoder"])
def test_each_loss_has_a_gradient_for_its_own_player_only(turn, weights):
    feature, pixel, game = weights
    model = small(MixturePrior(2, 3), feature_weight=feature, pixel_weight=pixel, game_weight=game)
    x = images()
    for again in range(2):  # in a round, then with images of its own
        if not again:
            model.critic_loss(x)
        model.zero_grad()
        turns(model)[turn](x).backward()
        for name, parameters in players(model).items():
            if name != turn:
                assert all(p.grad is None for p in parameters), name
        without = {id(model.vae.pixels.log_sigma)} if not pixel else set()
        assert all(p.grad is not None and p.grad.any() for p in players(model)[turn] if id(p) not in without)
    assert all(p.requires_grad for p in model.parameters())


def test_nothing_is_run_twice_in_a_round():
    """The decoder for x̂ and x̃, and for x̂ once the decoder has moved; the critic for three, three and two."""
    model = small(pixel_weight=1).float()
    asked = {name: inputs_of(module) for name, module in model.named_modules() if name.endswith(("coder", "body"))}
    split = Split(images(40).float(), torch.zeros(40).long())
    fit(model, objectives(model), split.batches(8), 2)
    assert {name: len(inputs) / 10 for name, inputs in asked.items()} == {
        "vae.encoder": 2,
        "vae.decoder": 3,
        "critic.body": 8,
    }


def test_reused_images_give_the_gradient_of_new_ones_from_the_same_noise():
    x, found = images(), []
    for same_batch in (True, False):
        model = small(pixel_weight=1)
        torch.manual_seed(1)
        objectives(model, 0.1)["critic"].turn((x,))
        torch.manual_seed(1)
        loss = model.decoder_loss(x if same_batch else x.clone())
        found.append([loss, *torch.autograd.grad(loss, players(model)["decoder"])])
    for reused, new in zip(*found):
        close(reused, new)


@pytest.mark.parametrize("other", ["used before", "another batch", "mode changed", "made without graph"])
def test_images_are_not_reused(other):
    model = small()
    x = images()
    with torch.set_grad_enabled(other != "made without graph"):
        model.critic_loss(x)
    if other == "used before":
        model.decoder_loss(x)
    if other == "mode changed":
        model.train()
    asked = inputs_of(model.vae.decoder)
    model.decoder_loss(images(seed=2) if other == "another batch" else x).backward()
    assert len(asked) == 2


def test_images_are_not_reused_for_other_labels():
    model = conditional()
    x, y = images(), torch.tensor([0, 1, 2, 0, 1, 2])
    model.critic_loss(x, y)
    asked = inputs_of(model.vae.decoder)
    model.decoder_loss(x, y.flip(0))
    assert len(asked) == 2


def test_it_can_be_copied_in_the_middle_of_a_round():
    model = small()
    x = images()
    model.critic_loss(x)
    copy = deepcopy(model)
    averaged(model)
    copy.decoder_loss(x).backward()
    assert all(p.grad is None for p in model.parameters())
    model.decoder_loss(x).backward()


def test_trying_the_critic_teaches_the_networks_nothing():
    decoder = nn.Sequential(nn.Linear(3, 64), nn.BatchNorm1d(64), nn.Unflatten(1, (1, 8, 8)))
    vae = VAE(MLP(64, 16, 6), decoder, StandardNormal(3), NormalNoise())
    before = deepcopy(vae.state_dict())
    model = VAEGAN(vae, DCCritic((1, 8, 8), width=4))
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.training
    assert model.critic.training


def test_a_small_one_learns_to_draw_and_to_reconstruct():
    """Two kinds of images: a bright upper half, a bright lower half, with noise."""
    torch.manual_seed(0)
    y = torch.randint(2, (512,))
    halves = torch.stack(
        [torch.cat([torch.full((4, 8), a), torch.full((4, 8), b)]) for a, b in ((0.8, 0.2), (0.2, 0.8))]
    )
    x = halves[y][:, None] + 0.05 * torch.randn(512, 1, 8, 8)
    model = small(critic=DCCritic((1, 8, 8), width=4), feature_weight=0.1, pixel_weight=0.1).float()
    before = (model.reconstruct(x) - x).square().mean()
    fit(model, objectives(model, 4e-3), Split(x, y).batches(32), 10)
    assert (model.reconstruct(x) - x).square().mean() < 0.15 * before
    drawn = model.sample(500)
    nearest = (drawn[:, None] - halves[:, None]).square().flatten(2).mean(2).min(1)
    assert nearest.values.mean() < 0.035  # 0.09 between the two kinds and their mean
    assert 0.2 < nearest.indices.double().mean() < 0.8


# ---- use -----------------------------------------------------------------------------------------------------------


def test_samples_and_reconstructions_are_means_without_a_graph():
    model = small()
    x = images()
    close(seeded(lambda: model.sample(5)), seeded(lambda: model.vae.decoder(model.vae.prior.sample(5))).detach())
    close(model.reconstruct(x), model.vae.reconstruct(x))
    assert not model.sample(5).requires_grad
    assert not model.reconstruct(x).requires_grad
    conditioned = conditional()
    y = torch.tensor([2, 0])
    assert conditioned.sample(2, y).shape == (2, 1, 8, 8)
    assert conditioned.reconstruct(x[:2], y).shape == (2, 1, 8, 8)


# ---- what is let in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"feature_weight": -1.0}, "feature_weight is -1: it must be ≥ 0 and finite"),
        ({"pixel_weight": math.nan}, "pixel_weight is nan"),
        ({"game_weight": math.inf}, "game_weight is inf"),
        ({"penalty_weight": -0.5}, "penalty_weight is -0.5"),
        (
            {"critic": MLP(64, 1)},
            r"the critic \(MLP\) has no network `body` .* such as DCCritic .* or feature_weight=0",
        ),
        ({"critic": MLP(64, 3), "feature_weight": 0}, r"what the critic says of 2 examples has the shape \(2, 3\)"),
        ({"critic": DCCritic((3, 8, 8), 4)}, r"the critic does not take the examples \(1, 8, 8\) of the VAE: "),
        ({"critic": MLP(65, 1), "feature_weight": 0}, r"the critic does not take the examples \(1, 8, 8\) of the VAE"),
        ({"critic": ProjectionCritic(MLP(64, 8), 8, 4)}, r"n_classes None, but the critic \(ProjectionCritic\) .* 4"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        small(**options)


def test_a_body_that_the_critic_does_not_use_is_refused():
    critic = LinearCritic()
    critic.forward = lambda x: x.flatten(1).sum(1)
    with pytest.raises(ValueError, match="the critic never calls its `body`"):
        small(critic=critic)


@pytest.mark.parametrize(
    ("critic", "says"),
    [
        (LinearCritic(), r"the critic does not take the examples \(1, 8, 8\) of the VAE and the labels 0 … 2: "),
        (ProjectionCritic(MLP(64, 8), 8, 4), r"the VAE has n_classes 3, but the critic .* made for 4: make them agree"),
    ],
)
def test_classes_that_disagree_are_refused(critic, says):
    with pytest.raises(ValueError, match=says):
        VAEGAN(conditional().vae.float(), critic)


@pytest.mark.parametrize("options", [{"draws": 3}, {"free_bits": 0.5}])
def test_a_vae_with_another_bound_is_refused(options):
    with pytest.raises(ValueError, match=r"which its own loss knows: this one has β KL with one draw, take 1 and 0"):
        VAEGAN(small_vae(**options), LinearCritic())


def test_labels_and_examples_that_do_not_fit_are_refused():
    model, plain = conditional(), small()
    x, y = images(), torch.tensor([0, 1, 2, 0, 1, 2])
    for turn in turns(model).values():
        with pytest.raises(ValueError, match="conditioned on one of 3 classes: give the labels y"):
            turn(x)
        with pytest.raises(ValueError, match="a label is 3, but the 3 classes are 0 … 2"):
            turn(x, y + 1)
        with pytest.raises(ValueError, match=r"expected float examples of shape \(B, 1, 8, 8\)"):
            turn(x[:, 0], y)
    for turn in turns(plain).values():
        assert turn(x, y).isfinite()  # labels of the batch go unused
    with pytest.raises(ValueError, match="this VAE has no classes"):
        plain.sample(6, y)


def test_pixels_off_their_levels_are_refused_where_they_count():
    torch.manual_seed(0)
    vae = VAE(MLP(64, 16, 6), MLP(3, 16, (2, 8, 8)), StandardNormal(3), partial(logistic_pixels, levels=17))
    with pytest.raises(ValueError, match="a pixel is"):
        VAEGAN(vae, LinearCritic(), pixel_weight=1).decoder_loss(images().float())
