"""Two players whose best moves are known: losses by hand, gradients in closed form, the optimal critic, penalties."""

from __future__ import annotations

import hashlib
import io
import math
import tarfile
from copy import deepcopy
from functools import partial

import pytest
import torch
from helpers import close
from torch import nn
from torch.distributions import Normal

from dgm_lib import datasets
from dgm_lib.datasets import Split, published
from dgm_lib.distributions import MixturePrior, StandardNormal
from dgm_lib.models.gan import (
    GAN,
    HINGE,
    LEAST_SQUARES,
    NON_SATURATING,
    SATURATING,
    WASSERSTEIN,
    gradient_at,
    gradient_penalty,
    r1,
)
from dgm_lib.nets import MLP, DCCritic, DCGenerator, Labelled, ProjectionCritic
from dgm_lib.train import Objective, averaged, fit

GAMES = {
    "saturating": SATURATING,
    "non-saturating": NON_SATURATING,
    "least squares": LEAST_SQUARES,
    "hinge": HINGE,
    "Wasserstein": WASSERSTEIN,
}
every_game = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)


def small_gan(*, seed=0, **options):
    torch.manual_seed(seed)
    return GAN(MLP(2, 16, 2), MLP(2, 16, 1), StandardNormal(2), **options)


def conditional_gan(n_classes=3):
    torch.manual_seed(0)
    critic = ProjectionCritic(MLP(64, 16), 16, n_classes)
    nn.init.normal_(critic.embedding.weight)
    generator = Labelled(MLP(4 + n_classes, 16, (1, 8, 8)), n_classes)
    return GAN(generator, critic, StandardNormal(4), box=(0, 1), n_classes=n_classes)


def players(gan, rate=1e-3):
    adam = partial(torch.optim.Adam, lr=rate, betas=(0.5, 0.99))
    return {
        "critic": Objective(gan.critic_loss, adam(gan.critic.parameters())),
        "generator": Objective(gan.generator_loss, adam(gan.generator.parameters())),
    }


def gradients(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def linear_critic(weight):
    """D(x) = w·x + 0.3, so that ∇D = w everywhere."""
    return lambda x: (x * weight).flatten(1).sum(1) + 0.3


# ---- games ---------------------------------------------------------------------------------------------------------

SIGMA = {a: 1 / (1 + math.exp(-a)) for a in (2.0, -1.0, 0.5, 3.0)}
REAL, FAKE = (2.0, -1.0), (0.5, 3.0)
BY_HAND = {  # what the critic lowers for (2, 0.5) and (−1, 3), what the generator lowers for 0.5 and 3
    "saturating": (
        [-math.log(SIGMA[2.0]) - math.log(1 - SIGMA[0.5]), -math.log(SIGMA[-1.0]) - math.log(1 - SIGMA[3.0])],
        [math.log(1 - SIGMA[0.5]), math.log(1 - SIGMA[3.0])],
    ),
    "non-saturating": (
        [-math.log(SIGMA[2.0]) - math.log(1 - SIGMA[0.5]), -math.log(SIGMA[-1.0]) - math.log(1 - SIGMA[3.0])],
        [-math.log(SIGMA[0.5]), -math.log(SIGMA[3.0])],
    ),
    "least squares": ([0.5 * (1 + 0.25), 0.5 * (4 + 9)], [0.125, 2.0]),
    "hinge": ([0 + 1.5, 2 + 4.0], [-0.5, -3.0]),
    "Wasserstein": ([-1.5, 4.0], [-0.5, -3.0]),
}


@pytest.mark.parametrize("name", GAMES)
def test_losses_are_those_computed_by_hand(name):
    critic, generator = BY_HAND[name]
    close(GAMES[name].critic(torch.tensor(REAL), torch.tensor(FAKE)), critic)
    close(GAMES[name].generator(torch.tensor(FAKE)), generator)


@pytest.mark.parametrize(
    ("game", "logit", "critic"),
    [(SATURATING, 0, math.log(4)), (NON_SATURATING, 0, math.log(4)), (LEAST_SQUARES, 0.5, 0.25), (HINGE, 0.4, 2)],
)
def test_at_equilibrium_the_critics_loss_is_known(game, logit, critic):
    """Where data and made examples are alike, the critic says the same of all; log 4 is minus the value of the game."""
    same = torch.full((5,), float(logit))
    close(game.critic(same, same), [critic] * 5)


@pytest.mark.parametrize("game", [SATURATING, LEAST_SQUARES, HINGE])
def test_where_data_and_fakes_are_alike_no_constant_does_better(game):
    logits = torch.linspace(-3, 3, 601)
    best = {SATURATING: math.log(4), LEAST_SQUARES: 0.25, HINGE: 2.0}[game]
    close(game.critic(logits, logits).min(), best)


def test_gradients_of_the_two_generator_losses_in_the_logit():
    """−σ(a) and σ(a) − 1: the first is gone where the critic is sure, the second is largest there."""
    a = torch.tensor([-30.0, -2.0, 0.0, 2.0], requires_grad=True)
    for game, expected in ((SATURATING, -torch.sigmoid(a)), (NON_SATURATING, torch.sigmoid(a) - 1)):
        (slope,) = torch.autograd.grad(game.generator(a).sum(), a)
        close(slope, expected.detach())
    assert SATURATING.generator(a)[0].abs() < 1e-12


@every_game
def test_no_loss_overflows(game):
    a = torch.tensor([-1e4, 1e4], requires_grad=True)
    total = game.critic(a, a.flip(0)).sum() + game.generator(a).sum()
    total.backward()
    assert total.isfinite()
    assert a.grad.isfinite().all()


@every_game
def test_each_player_pulls_its_own_way(game):
    """The critic wants data up and fakes down, the generator fakes up."""
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    up, down = torch.autograd.grad(game.critic(real, fake).sum(), (real, fake), allow_unused=True)
    assert (up < 0).all()
    assert (down >= 0).all()
    (pull,) = torch.autograd.grad(game.generator(fake).sum(), fake)
    assert (pull < 0).all()


# ---- the optimal critic --------------------------------------------------------------------------------------------


class Shifted(nn.Module):
    """G(z) = 1.5 z + shift: q is a Gaussian."""

    def __init__(self, shift):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([shift]))

    def forward(self, z):
        return 1.5 * z + self.shift


class Quadratic(nn.Module):
    """a(x) = w·(1, x, x²): the form of log p − log q for two Gaussians."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return torch.cat([torch.ones_like(x), x, x**2], 1) @ self.w


@pytest.mark.parametrize("seed", range(3))
def test_a_trained_critic_is_the_logarithm_of_the_ratio_of_densities(seed):
    torch.manual_seed(seed)
    p, q = Normal(1.0, 1.0), Normal(-0.5, 1.5)
    gan = GAN(Shifted(-0.5), Quadratic(), StandardNormal(1))
    x = p.sample((20_000, 1))
    optimizer = torch.optim.Adam(gan.critic.parameters(), 0.05)
    player = Objective(gan.critic_loss, optimizer, scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8))
    fit(gan, {"critic": player}, Split(x, torch.zeros(len(x)).long()).batches(1000), 15, seed=seed)
    grid = torch.linspace(-2, 3, 51)[:, None]
    with torch.no_grad():
        close(gan.critic_values(grid), (p.log_prob(grid) - q.log_prob(grid))[:, 0], atol=0.1, rtol=0)


def test_the_value_of_the_game_is_minus_log_4_where_the_generator_is_right():
    """G(z) has the density of the data, and D = ½ everywhere: both losses are then exact, whatever is drawn."""
    gan = GAN(Shifted(0.0), Quadratic(), StandardNormal(1))
    x = 1.5 * torch.randn(64, 1)
    close(-gan.critic_loss(x), -1.3863, atol=1e-4, rtol=0)
    close(-gan.critic_loss(x), -math.log(4))
    close(gan.generator_loss(x), math.log(2))
    gan.critic_loss(x).backward()
    mean_gradient = gan.critic.w.grad.abs()  # nothing to learn but the noise of 64 draws
    assert (mean_gradient < torch.tensor([1e-6, 1.0, 3.0])).all()


# ---- penalties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("norm", [0.0, 0.25, 1.0, 7.0])
def test_the_gradient_penalty_of_a_linear_critic_is_known(shape, norm):
    """The norm is over all of an example: over the last axis alone it would be a sum of many others."""
    torch.manual_seed(0)
    direction = torch.randn(shape).double()
    weight = norm * direction / direction.norm()
    real, fake = torch.rand(2, 5, *shape).double()
    penalty = gradient_penalty(linear_critic(weight), real, fake)
    assert penalty.shape == (5,)
    close(penalty, torch.full((5,), (norm - 1) ** 2), atol=1e-6, rtol=0)


def test_one_alpha_an_example():
    """Each x̂ lies on the line between its two ends: all its coordinates have gone the same part of the way."""
    torch.manual_seed(0)
    real, fake = torch.rand(2, 6, 3, 4, 4).double()
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    gradient_penalty(critic, real, fake)
    alpha = ((seen[0] - fake) / (real - fake)).flatten(1)  # (6, 48)
    close(alpha, alpha[:, :1].expand(-1, 48))
    assert ((alpha >= 0) & (alpha <= 1)).all()
    assert len(alpha[:, 0].unique()) == 6


def test_the_gradient_penalty_of_a_quadratic_critic_shows_where_it_looks():
    """D = ½‖x‖² has the slope ‖x̂‖: between 0 and x, that is α‖x‖, uniform."""
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 2.0]]).expand(50_000, 2)
    penalty = gradient_penalty(lambda x: 0.5 * x.square().sum(1), x, torch.zeros_like(x))
    close(penalty.mean(), 1 / 3, atol=0.01, rtol=0)  # ∫ (2α − 1)² dα


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8)])
def test_r1_is_half_the_squared_slope_at_the_data(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape).double()
    real, fake = torch.rand(2, 5, *shape).double()
    close(r1(linear_critic(weight), real, fake), (0.5 * weight.square().sum()).expand(5))
    close(r1(lambda x: 0.5 * x.flatten(1).square().sum(1), real, fake), 0.5 * real.flatten(1).square().sum(1))


@pytest.mark.parametrize("penalty", [gradient_penalty, r1])
def test_a_penalty_is_added_to_the_critics_loss_and_can_be_learnt_from(penalty):
    gan = GAN(nn.Linear(2, 2), nn.Linear(2, 1), StandardNormal(2), WASSERSTEIN, penalty=penalty, penalty_weight=5.0)
    x = torch.randn(8, 2)
    torch.manual_seed(1)
    loss = gan.critic_loss(x)
    norm = gan.critic.weight.norm()
    expected = (norm - 1) ** 2 if penalty is gradient_penalty else 0.5 * norm**2
    gan.penalty = None
    torch.manual_seed(1)
    contrast = gan.critic_loss(x)
    close(loss - contrast, 5 * expected.detach())
    (slope,) = torch.autograd.grad(loss - contrast, gan.critic.weight)
    (known,) = torch.autograd.grad(5 * expected, gan.critic.weight)
    close(slope, known, atol=1e-5, rtol=1e-4)


def test_a_gradient_at_an_example_keeps_its_graph_even_where_none_is_kept():
    with torch.no_grad():
        gradient = gradient_at(lambda x: x.square().sum(1), torch.ones(2, 3))
    assert gradient.requires_grad
    close(gradient.detach(), torch.full((2, 3), 2.0))


# ---- turns ---------------------------------------------------------------------------------------------------------


@every_game
def test_in_each_turn_the_other_player_gets_no_gradient(game):
    gan = small_gan(game=game)
    x = torch.randn(8, 2)
    gan.critic_loss(x).backward()
    assert all(p.grad is None for p in gan.generator.parameters())
    assert any(p.grad.any() for p in gan.critic.parameters())
    gan.zero_grad()
    for _ in range(2):  # with the examples of the critic's turn, then with new ones
        gan.generator_loss(x).backward()
        assert all(p.grad is None for p in gan.critic.parameters())
        assert all(p.grad.any() for p in gan.generator.parameters())
    assert all(p.requires_grad for p in gan.parameters())


def test_reused_examples_give_the_gradient_of_new_ones_from_the_same_noise():
    x = torch.randn(8, 2)
    found = []
    for same_batch in (True, False):
        gan = small_gan()
        objectives = players(gan, 0.1)
        torch.manual_seed(1)
        objectives["critic"].turn((x,))
        if not same_batch:
            torch.manual_seed(1)
        gan.generator_loss(x if same_batch else x.clone()).backward()
        found.append(gradients(gan.generator))
    for name, gradient in found[0].items():
        close(gradient, found[1][name])


class Counting(nn.Module):
    """A generator that counts how often it is asked."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, *inputs):
        self.calls += 1
        return self.net(*inputs)


def counting_gan(**options):
    gan = small_gan(**options)
    gan.generator = Counting(gan.generator)
    return gan


def test_a_round_asks_the_generator_once():
    gan = counting_gan()
    split = Split(torch.randn(40, 2), torch.zeros(40).long())
    fit(gan, players(gan), split.batches(8), 2)
    assert gan.generator.calls == 10


@pytest.mark.parametrize(
    "other", ["used before", "another batch", "another size", "mode changed", "made without graph"]
)
def test_examples_are_not_reused(other):
    gan = counting_gan()
    x = torch.randn(8, 2)
    with torch.set_grad_enabled(other != "made without graph"):
        gan.critic_loss(x)
    if other == "used before":
        gan.generator_loss(x)
    if other == "mode changed":
        gan.train()
    before = gan.generator.calls
    gan.generator_loss({"another batch": torch.randn(8, 2), "another size": x[:4]}.get(other, x)).backward()
    assert gan.generator.calls == before + 1


def test_examples_are_not_reused_for_other_labels():
    gan = conditional_gan()
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    told = []
    gan.generator.register_forward_hook(lambda module, inputs, output: told.append(inputs[1].tolist()))
    gan.critic_loss(x, y)
    gan.generator_loss(x, y.flip(0)).backward()
    assert told == [[0, 1, 2, 0, 1, 2], [2, 1, 0, 2, 1, 0]]


def test_a_gan_can_be_copied_in_the_middle_of_a_round():
    gan = small_gan()
    x = torch.randn(8, 2)
    gan.critic_loss(x)
    copy = deepcopy(gan)
    averaged(gan)
    close(copy.critic_values(x), gan.critic_values(x))
    copy.generator_loss(x).backward()
    assert all(p.grad is None for p in gan.generator.parameters())
    gan.generator_loss(x).backward()


def test_batch_norm_sees_data_and_fakes_apart():
    """What the critic says of data must not depend on what was made beside it."""
    torch.manual_seed(0)
    critic = nn.Sequential(MLP(2, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 1))
    gan = GAN(MLP(2, 16, 2), critic, StandardNormal(2))
    seen = []
    critic.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    x = torch.randn(8, 2)
    for _ in range(2):
        gan.critic_loss(x)
    close(seen[0], seen[2])
    assert not torch.equal(seen[1], seen[3])


def test_trying_the_networks_teaches_them_nothing():
    critic = DCCritic((1, 8, 8), width=4)
    generator = DCGenerator(3, (1, 8, 8), width=4)
    before = deepcopy(generator.state_dict())
    GAN(generator, critic, StandardNormal(3))
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert generator.training


@pytest.mark.parametrize("game", [NON_SATURATING, HINGE])
def test_a_small_gan_learns_the_law_of_the_data(game):
    """A Gaussian with correlated coordinates: for three seeds the errors are below 0.06 and 0.15."""
    torch.manual_seed(0)
    x = torch.randn(2000, 2) @ torch.tensor([[1.0, 0.0], [0.6, 0.3]]) + torch.tensor([2.0, -1.0])
    gan = GAN(MLP(2, 32, 2), MLP(2, 64, 64, 1), StandardNormal(2), game, penalty=r1, penalty_weight=0.5)
    fit(gan, players(gan, 2e-3), Split(x, torch.zeros(2000).long()).batches(200), 25)
    made = gan.sample(5000)
    close(made.mean(0), x.mean(0), atol=0.15, rtol=0)
    close(made.mT.cov(), x.mT.cov(), atol=0.3, rtol=0)


# ---- samples -------------------------------------------------------------------------------------------------------


def test_samples_have_no_graph_and_lie_in_the_box():
    torch.manual_seed(0)
    gan = GAN(nn.Linear(3, 2), nn.Linear(2, 1), StandardNormal(3), box=(-2.0, 5.0))
    with torch.no_grad():
        gan.generator.weight.mul_(50)
    x = gan.sample(500)
    assert x.shape == (500, 2)
    assert not x.requires_grad
    assert (x.min(), x.max()) > (-2.001, 4.9)
    assert x.max() <= 5
    z = torch.randn(4, 3)
    close(gan.generate(z), -2 + 7 * torch.sigmoid(gan.generator(z)))
    assert gan.generate(z).requires_grad


def test_truncation_cuts_the_tails_of_the_latents():
    gan = GAN(nn.Identity(), nn.Linear(2, 1), StandardNormal(2))
    torch.manual_seed(0)
    z = gan.sample(20_000, truncation=0.7)
    assert z.abs().max() <= 0.7
    close(z.mean(), 0.0, atol=0.01, rtol=0)
    # the variance of N(0, 1) given |z| ≤ c is 1 − 2 c φ(c) / (2Φ(c) − 1)
    c, normal = torch.tensor(0.7), Normal(0.0, 1.0)
    variance = 1 - 2 * c * normal.log_prob(c).exp() / (2 * normal.cdf(c) - 1)
    close(z.var(), variance, atol=0.005, rtol=0)
    assert gan.sample(20_000).abs().max() > 3


def test_a_conditional_gan_makes_what_it_is_told():
    gan = conditional_gan()
    y = torch.tensor([0, 2, 1, 1])
    assert gan.sample(4, y).shape == (4, 1, 8, 8)
    z = torch.randn(1, 4).expand(3, -1)
    x = gan.generate(z, torch.arange(3))
    assert not torch.equal(x[0], x[1])
    values = torch.stack([gan.critic_values(x, torch.full((3,), y)) for y in range(3)])
    assert values.shape == (3, 3)
    assert not torch.equal(values[0], values[1])


# ---- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_image_networks_play_a_round_grey_and_in_colour(shape):
    torch.manual_seed(0)
    generator, critic = DCGenerator(8, shape, width=4), DCCritic(shape, width=4)
    gan = GAN(generator, critic, StandardNormal(8), penalty=gradient_penalty, box=(0, 1))
    split = Split(torch.randint(0, 256, (16, *shape), dtype=torch.uint8), torch.zeros(16).long(), levels=256)
    before = deepcopy(gan.state_dict())
    history = fit(gan, players(gan), split.batches(8), 1)
    assert all(math.isfinite(history[name][0]) for name in ("critic", "generator"))
    assert all(not torch.equal(p, before[name]) for name, p in gan.named_parameters())
    assert gan.sample(3).shape == (3, *shape)


def cifar10(folder, monkeypatch):
    """CIFAR-10 in its binary format, of 24 noise images: a byte of label, then 3072 of colour, in a tar."""
    generator = torch.Generator().manual_seed(0)
    members = {}
    for name, n in (("data_batch_1.bin", 16), ("test_batch.bin", 8)):
        records = torch.randint(0, 256, (n, 3073), generator=generator, dtype=torch.uint8)
        records[:, 0] %= 10
        members[name] = records.numpy().tobytes()
    with tarfile.open(folder / "c.tar.gz", "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    packed = (folder / "c.tar.gz").read_bytes()
    hashes = {name: "md5:" + hashlib.md5(content).hexdigest() for name, content in members.items()}
    file = {"name": "c.tar.gz", "bytes": len(packed), "archive": hashlib.sha256(packed).hexdigest(), "content": hashes}
    entry = {**published.registry()["cifar10"], "train": 16, "test": 8, "validation": 4, "files": [file]}
    monkeypatch.setattr(published, "registry", lambda: {"cifar10": entry})
    monkeypatch.setenv("DGM_DATA_MIRROR", str(folder))
    monkeypatch.setenv("DGM_CACHE", str(folder / "cache"))
    return datasets.load("cifar10")


def test_cifar10_from_its_binary_file_to_a_round_of_both_players(tmp_path, monkeypatch):
    data = cifar10(tmp_path, monkeypatch)
    assert data.train.x.shape == (12, 3, 32, 32)
    torch.manual_seed(0)
    body = DCCritic((3, 32, 32), width=4)
    critic = ProjectionCritic(body.body, body.n_features, len(data.classes))
    generator = Labelled(DCGenerator(8 + 10, (3, 32, 32), width=4), 10)
    gan = GAN(generator, critic, StandardNormal(8), HINGE, box=(0, 1), n_classes=10)
    history = fit(gan, players(gan), data.train.batches(6), 1)
    assert math.isfinite(history["critic"][0])
    x = gan.sample(10, torch.arange(10))
    assert x.shape == (10, 3, 32, 32)
    assert ((x >= 0) & (x <= 1)).all()


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.01, -0.5, 255.0, math.nan])
def test_images_outside_the_generators_range_are_refused(value):
    gan = conditional_gan()
    x = torch.rand(4, 1, 8, 8)
    x[1, 0, 2, 3] = value
    remedy = "leave out" if math.isnan(value) else r".* in \[0, 1\]: scale x to that range"
    with pytest.raises(ValueError, match=rf"x holds {value:g}.*{remedy}") as error:
        gan.critic_loss(x, torch.zeros(4).long())
    assert "\n" not in str(error.value)


def test_data_may_touch_the_walls_of_the_box():
    gan = conditional_gan()
    x = torch.rand(4, 1, 8, 8).round()
    assert gan.critic_loss(x, torch.zeros(4).long()).isfinite()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"critic": MLP(2, 8, 3)}, r"what the critic says of 2 examples has the shape \(2, 3\): it must be one number"),
        ({"critic": nn.Identity()}, r"has the shape \(2, 2\): it must be one number an example"),
        ({"critic": nn.Sequential(MLP(2, 1), nn.Flatten(0), nn.Unflatten(0, (1, 2)))}, "one number an example"),
        (
            {"critic": MLP(3, 8, 1)},
            r"the critic does not take the examples \(2,\) that the generator makes: let",
        ),
        ({"generator": MLP(2, 8, 5)}, r"the critic does not take the examples \(5,\) that the generator makes"),
        ({"prior": StandardNormal(7)}, "the generator does not take the 7 latents of the prior: let its sizes fit"),
        ({"n_classes": 3}, "the generator does not take the 2 latents of the prior and the labels 0 … 2: "),
        ({"generator": Labelled(MLP(5, 8, 2), 3)}, r"n_classes is None, but generator \(Labelled\) is made for 3"),
        ({"box": (1, 0)}, r"box is \(1, 0\)"),
        ({"box": (0, math.inf)}, r"box is \(0, inf\)"),
        ({"penalty_weight": -1.0}, "penalty_weight is -1"),
        ({"penalty_weight": math.nan}, "penalty_weight is nan"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, says):
    whole = {"generator": MLP(2, 8, 2), "critic": MLP(2, 8, 1), "prior": StandardNormal(2)}
    with pytest.raises(ValueError, match=says):
        GAN(**{**whole, **parts})


class Embedded(nn.Module):
    """A generator that looks its label up, and does not say how many there are."""

    def __init__(self, n_classes):
        super().__init__()
        self.look_up, self.net = nn.Embedding(n_classes, 4), MLP(4, 16, (1, 8, 8))

    def forward(self, z, y):
        return self.net(z + self.look_up(y))


@pytest.mark.parametrize(
    ("generator", "critic", "says"),
    [
        (3, 5, r"n_classes is 5, but generator \(Labelled\) is made for 3: make them agree"),
        (5, 3, r"n_classes is 5, but critic \(ProjectionCritic\) is made for 3: make them agree"),
        (9, 5, r"n_classes is 5, but generator \(Labelled\) is made for 9: make them agree"),
        (Embedded(3), 5, r"the generator does not take the 4 latents of the prior and the labels 0 … 4: "),
    ],
)
def test_class_counts_that_disagree_are_refused(generator, critic, says):
    if isinstance(generator, int):
        generator = Labelled(MLP(4 + generator, 16, (1, 8, 8)), generator)
    with pytest.raises(ValueError, match=says):
        GAN(generator, ProjectionCritic(MLP(64, 16), 16, critic), StandardNormal(4), n_classes=5)


def test_labels_and_examples_that_do_not_fit_are_refused():
    gan, plain = conditional_gan(), small_gan()
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4).long()
    for call in (gan.critic_loss, gan.generator_loss, gan.critic_values):
        with pytest.raises(ValueError, match="conditioned on one of 3 classes: give the labels y"):
            call(x)
        with pytest.raises(ValueError, match=r"a label is 3, but the 3 classes are 0 … 2"):
            call(x, y + 3)
        with pytest.raises(ValueError, match="expected 4 labels of type int64"):
            call(x, y[:3])
    with pytest.raises(ValueError, match="conditioned on one of 3 classes"):
        gan.sample(4)
    with pytest.raises(ValueError, match="this GAN has no classes"):
        plain.sample(4, y)
    with pytest.raises(
        ValueError, match=r"expected float examples of shape \(B, 1, 8, 8\), got torch.float32 of shape"
    ):
        gan.critic_loss(torch.rand(4, 8, 8), y)
    with pytest.raises(ValueError, match=r"expected float examples of shape \(B, 1, 8, 8\), got torch.uint8"):
        gan.critic_loss((16 * x).byte(), y)


@pytest.mark.parametrize("truncation", [0.0, -1.0, math.nan])
def test_a_truncation_that_cuts_everything_is_refused(truncation):
    with pytest.raises(ValueError, match=rf"truncation is {truncation:g} .* a positive number"):
        small_gan().sample(3, truncation=truncation)


def test_only_a_standard_normal_can_be_truncated():
    gan = GAN(MLP(2, 8, 2), MLP(2, 8, 1), MixturePrior(3, 2))
    assert gan.sample(3).shape == (3, 2)
    with pytest.raises(ValueError, match="the prior a MixturePrior: it cuts the tails of a StandardNormal"):
        gan.sample(3, truncation=1.0)
