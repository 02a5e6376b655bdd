"""Answers to the exercises of notebook 08, right ones in other forms and wrong ones as learners write them."""

from functools import partial

import answers
import numpy as np
import torch
import torch.nn.functional as F
from answers import softplus_by_cases
from torch.distributions import Independent, Normal

from dgm_exercises import find, judge

# ---- ways to write them ---------------------------------------------------------------------------------------------


def three_by_cases(kl, rec, real, reconstructed, sampled, gamma):
    decoder = gamma * rec.mean() + softplus_by_cases(-reconstructed).mean() + softplus_by_cases(-sampled).mean()
    critic = sum(softplus_by_cases(a).mean() for a in (-real, reconstructed, sampled))
    return kl.mean() + rec.mean(), decoder, critic


def best_by_newton(candidates, weights):
    """One Newton step from 0 on a quadratic error ends at its minimum."""
    guess = torch.zeros_like(candidates[0], dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        errors = (candidates.double() - guess).square().flatten(1).sum(1)
        (slope,) = torch.autograd.grad(weights.double() @ errors, guess)
    return -slope / (2 * weights.double().sum())


def sharpness_by_convolution(x):
    pixels = x.flatten(0, 1)[:, None].double()
    kernels = torch.tensor([[-1.0, 1.0]]).double()
    maps = [F.conv2d(pixels, kernel.view(1, 1, *kernel.shape)) for kernel in (kernels, kernels.T)]
    return sum(table.square().mean((1, 2, 3)).view(len(x), -1).mean(1) for table in maps)


def sharpness_in_loops(x):
    values = []
    for image in x.double():
        pairs = [[(image[:, i] - image[:, i + 1]) for i in range(image.shape[1] - 1)]]
        pairs.append([(image[:, :, j] - image[:, :, j + 1]) for j in range(image.shape[2] - 1)])
        values.append(sum(torch.stack(kind).square().mean().item() for kind in pairs))
    return values


def features_by_density(phi, x, x_hat):
    a, b = phi(x).flatten(1), phi(x_hat).flatten(1)
    density = Independent(Normal(b, torch.ones_like(b)), 1)
    return density.log_prob(b.detach()) - density.log_prob(a)


def features_by_products(phi, x, x_hat):
    way = (phi(x_hat) - phi(x)).reshape(len(x), -1)
    return torch.einsum("bf,bf->b", way, way) / 2


def bce(logits, label):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def hybrid(critic, x, x_hat, sample, *, held=torch.Tensor.detach, label=0.0):
    return bce(critic(x), 1.0) + bce(critic(held(x_hat)), label) + bce(critic(sample.detach()), 0.0)


def hybrid_without_a_graph(critic, x, x_hat, sample):
    with torch.no_grad():
        made = [image.clone() for image in (x_hat, sample)]
    return -F.logsigmoid(critic(x)).mean() - sum(F.logsigmoid(-critic(image)).mean() for image in made)


def hybrid_in_one_batch(critic, x, x_hat, sample):
    logits = critic(torch.cat([x, x_hat.detach(), sample.detach()]))
    real, *made = logits.split([len(x), len(x_hat), len(sample)])
    return F.softplus(real.neg()).mean() + sum(F.softplus(part).mean() for part in made)


def three_players_by_labels(kl, reconstruction, real, reconstructed, sampled, gamma):
    made = torch.stack([reconstructed, sampled])
    critic = bce(real, 1.0) + 2 * bce(made, 0.0)
    return (kl + reconstruction).mean(), (gamma * reconstruction).mean() + 2 * bce(made, 1.0), critic


def players(kl, rec, real, reconstructed, sampled, gamma, *, deceive=1.0, sign=1.0, share=0.0, twice=1.0):
    game = sign * (bce(reconstructed, deceive) + bce(sampled, deceive))
    critic = twice * bce(real, 1.0) + bce(reconstructed, 0.0) + bce(sampled, 0.0)
    return kl.mean() + rec.mean() + share * game, gamma * rec.mean() + game, critic


def players_by_logsigmoid(kl, rec, real, reconstructed, sampled, gamma):
    right, wrong = (lambda a: -F.logsigmoid(a).mean()), (lambda a: -F.logsigmoid(-a).mean())
    decoder = gamma * rec.sum() / len(rec) + right(reconstructed) + right(sampled)
    return torch.stack([(kl + rec).mean(), decoder, right(real) + wrong(reconstructed) + wrong(sampled)])


def neighbours(x):
    return (x[..., 1:], x[..., :-1]), (x[:, :, 1:], x[:, :, :-1])


def hybrid_by_probabilities(critic, x, x_hat, sample):
    real, *made = (torch.sigmoid(critic(image)) for image in (x, x_hat.detach(), sample.detach()))
    return -torch.log(real).mean() - sum(torch.log(1 - p).mean() for p in made)


def players_by_probabilities(kl, rec, real, reconstructed, sampled, gamma):
    p, q, r = real.sigmoid(), reconstructed.sigmoid(), sampled.sigmoid()
    critic = -(p.log().mean() + (1 - q).log().mean() + (1 - r).log().mean())
    return kl.mean() + rec.mean(), gamma * rec.mean() - q.log().mean() - r.log().mean(), critic


def hybrid_with(critic, x, x_hat, sample, *, small=0.0, pool=False):
    made = critic(torch.cat([x_hat, sample]).detach())
    if pool:
        return bce(critic(x), 1.0) + bce(made, 0.0)
    real = critic(x).sigmoid()
    made = [part.sigmoid() for part in made.split([len(x_hat), len(sample)])]
    return -(real + small).log().mean() - sum((1 - p + small).log().mean() for p in made)


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "sharpness": [
        lambda x: [(np.diff(i, axis=2) ** 2).mean() + (np.diff(i, axis=1) ** 2).mean() for i in x.numpy()],
        sharpness_by_convolution,
        sharpness_in_loops,
        lambda x: torch.diff(x, dim=-1).pow(2).mean((1, 2, 3)) + torch.diff(x, dim=-2).pow(2).mean((1, 2, 3)),
        lambda x: sum((np.diff(x.numpy(), axis=axis) ** 2).mean((1, 2, 3)) for axis in (2, 3)),
        lambda x: sum(F.mse_loss(a, b, reduction="none").flatten(1).mean(1) for a, b in neighbours(x)),
    ],
    "feature_reconstruction": [
        lambda phi, x, x_hat: F.mse_loss(phi(x_hat), phi(x), reduction="none").flatten(1).sum(1) / 2,
        features_by_density,
        features_by_products,
        lambda phi, x, x_hat: [0.5 * torch.sum((a - b) ** 2) for a, b in zip(phi(x).detach(), phi(x_hat))],
    ],
    "three_players": [three_by_cases, three_players_by_labels, players, players_by_logsigmoid],
    "best_reconstruction": [
        best_by_newton,
        lambda candidates, weights: torch.einsum("k,k...->...", weights, candidates),
        lambda candidates, weights: np.average(candidates.numpy(), axis=0, weights=weights.numpy()),
        lambda candidates, weights: sum(w * x for w, x in zip(weights, candidates.double())),
        lambda candidates, weights: (weights @ candidates.flatten(1)).view(candidates.shape[1:]),
        lambda candidates, weights: (candidates.movedim(0, -1) * weights).sum(-1),
    ],
    "hybrid_critic_loss": [
        hybrid,
        hybrid_without_a_graph,
        hybrid_in_one_batch,
        lambda critic, x, x_hat, sample: (
            F.softplus(-critic(x)).mean() + sum(F.softplus(critic(made.data)).mean() for made in (sample, x_hat))
        ),
    ],
    "balanced_weight": [
        lambda rec, game: torch.linalg.vector_norm(rec) / torch.linalg.vector_norm(game),
        lambda rec, game: (rec.square().sum() / game.square().sum()).sqrt(),
        lambda rec, game: np.linalg.norm(rec.numpy().ravel()) / np.linalg.norm(game.numpy().ravel()),
        lambda rec, game: torch.dist(rec, 0 * rec) / torch.dist(game, 0 * game),
        lambda rec, game: ((rec.flatten() @ rec.flatten()).log() / 2 - (game * game).sum().log() / 2).exp(),
    ],
}

SEEN = [
    ("best_reconstruction", lambda x, w: x[w.argmax()], "the most probable image"),
    ("best_reconstruction", lambda x, w: x.mean(0), "count the same"),
    ("best_reconstruction", lambda x, w: x.sum(0), "the sum of the candidates"),
    ("best_reconstruction", lambda x, w: torch.einsum("k,k...->...", w, x) / len(w), "a mean where the sum is asked"),
    ("best_reconstruction", lambda x, w: torch.einsum("k,k...->k...", w, x), "Their sum is asked"),
    ("best_reconstruction", lambda x, w: torch.einsum("k,k...->...", w, x).round(), "round to black or white"),
    ("sharpness", lambda x: x.diff(dim=3).pow(2).mean((1, 2, 3)), "neighbours in a row are compared"),
    (
        "sharpness",
        lambda x: x.diff(dim=3).abs().mean((1, 2, 3)) + x.diff(dim=2).abs().mean((1, 2, 3)),
        "total variation",
    ),
    (
        "sharpness",
        lambda x: sum((x - x.roll(1, d)).square().mean((1, 2, 3)) for d in (2, 3)),
        "`torch.roll` goes round",
    ),
    ("sharpness", lambda x: sum(x.diff(dim=d).mean((1, 2, 3)) ** 2 for d in (2, 3)), "square comes after the mean"),
    ("sharpness", lambda x: sum(x.diff(dim=d).square().mean() for d in (2, 3)), "over all of them"),
    ("sharpness", lambda x: sum(x.diff(dim=d).square().sum((1, 2, 3)) for d in (2, 3)), "sums over the pairs"),
    ("feature_reconstruction", lambda phi, x, x_hat: ((x - x_hat) ** 2).sum((1, 2, 3)) / 2, "error in pixels"),
    (
        "feature_reconstruction",
        lambda phi, x, x_hat: ((phi(x) - phi(x_hat)) ** 2).flatten(1).mean(1),
        "average over the features",
    ),
    ("feature_reconstruction", lambda phi, x, x_hat: F.mse_loss(phi(x_hat), phi(x)), "features and batch at once"),
    ("feature_reconstruction", lambda phi, x, x_hat: ((phi(x) - phi(x_hat)) ** 2).flatten(1).sum(1), "The ½ of the"),
    ("feature_reconstruction", lambda phi, x, x_hat: 0.5 * ((phi(x) - phi(x_hat)) ** 2).sum(1), "dimension 1 alone"),
    (
        "feature_reconstruction",
        lambda phi, x, x_hat: phi(x_hat - x).flatten(1).pow(2).sum(1) / 2,
        "features of the difference",
    ),
    ("feature_reconstruction", lambda phi, x, x_hat: (phi(x) - phi(x_hat)).flatten(1).norm(dim=1), "the distance"),
    ("hybrid_critic_loss", partial(hybrid, label=1.0), "Reconstructions have the label real"),
    ("hybrid_critic_loss", lambda c, x, *made: hybrid(c, x, *made) + bce(c(x), 1.0), "The data count twice"),
    ("hybrid_critic_loss", hybrid_by_probabilities, "0 in float32"),
    ("three_players", partial(players, deceive=0.0), "critic's labels for what it makes"),
    ("three_players", partial(players, deceive=0.0, sign=-1.0), "saturating, log(1 − D)"),
    ("three_players", partial(players, sign=-1.0), "log D makes its images look made"),
    ("three_players", partial(players, share=1.0), "posterior leaves the prior"),
    ("three_players", partial(players, twice=2.0), "data count twice in the critic's loss"),
    ("three_players", players_by_probabilities, "0 in float32"),
    ("three_players", lambda *a: players(*a[:5], 1.0), "gamma is missing"),
    ("balanced_weight", lambda rec, game: game.norm() / rec.norm(), "upside down"),
    ("balanced_weight", lambda rec, game: rec.norm() / (game.norm() + 1e-4), "small constant"),
    ("balanced_weight", lambda rec, game: torch.clamp(rec.norm() / game.norm(), 0.0, 1e4), "largest value"),
    ("balanced_weight", lambda rec, game: rec.abs().sum() / game.abs().sum(), "sums of absolute values"),
    ("balanced_weight", lambda rec, game: rec.pow(2).sum() / game.pow(2).sum(), "square of the reference"),
]

CUT_OFF = [
    (
        "feature_reconstruction",
        lambda phi, x, x_hat: F.mse_loss(phi(x), phi(x_hat.detach()), reduction="none").flatten(1).sum(1) / 2,
        "neither encoder nor decoder",
    ),
    ("hybrid_critic_loss", partial(hybrid, held=lambda x_hat: x_hat), "back through the reconstructions, into"),
    ("hybrid_critic_loss", lambda *a: hybrid(*a).item(), "to the critic, in its own turn"),
    (
        "three_players",
        lambda *a: [float(loss) for loss in players(*a)],
        "No gradient comes back to kl or reconstruction or real or reconstructed or sampled,",
    ),
    ("three_players", lambda *a: players(*a[:3], a[3].detach(), *a[4:]), "No gradient comes back to reconstructed,"),
]

REFUSED = [
    ("feature_reconstruction", lambda phi, x, x_hat: (phi(x) - phi(x_hat).detach()).square().flatten(1).sum(1) / 2),
    ("feature_reconstruction", lambda phi, x, x_hat: phi(x - x_hat).square().flatten(1).sum(1) / 2),
    ("balanced_weight", lambda a, b: a.norm() / (b.norm() + 1e-6)),
    ("best_reconstruction", lambda x, w: (w.view(-1, 1, 1, 1) * x).sum(0)),
    ("sharpness", lambda x: sum(g.square().mean((1, 2, 3)) for g in torch.gradient(x, dim=(2, 3)))),
    ("hybrid_critic_loss", partial(hybrid_with, pool=True)),
    ("hybrid_critic_loss", partial(hybrid_with, small=1e-12)),
    ("hybrid_critic_loss", lambda c, x, *made: hybrid(c, x, *made) + hybrid(c, x, *made[::-1])),
    ("three_players", lambda *a: players(*a[:4], a[3], a[5])),
    ("balanced_weight", lambda rec, game: rec.norm() / (game.norm() + 1e-8)),
    ("balanced_weight", lambda rec, game: rec.norm(dim=-1).norm() / game.norm(p=1)),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_right_values_without_their_gradients_are_wrong = answers.cut_off(CUT_OFF)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


def test_features_that_are_no_images_end_what_sums_over_three_dimensions():
    verdict = judge("feature_reconstruction", lambda phi, x, x_hat: (phi(x) - phi(x_hat)).square().sum((1, 2, 3)) / 2)
    assert verdict.status == "error"


def test_the_mean_has_the_least_expected_error_and_is_less_sharp():
    for candidates, weights in find("best_reconstruction").draw_inputs():
        best = find("best_reconstruction").reference(candidates, weights).requires_grad_()
        error = weights @ (candidates - best).square().flatten(1).sum(1)
        (slope,) = torch.autograd.grad(error, best)
        torch.testing.assert_close(slope, torch.zeros_like(best), atol=1e-6, rtol=0)  # the error is convex in x̂
        if best.ndim == 3:  # an image
            sharp = find("sharpness").reference(torch.stack([best, *candidates]))
            assert sharp[0] <= weights @ sharp[1:] + 1e-6  # a convex measure: a blend is no sharper than its parts


def test_losses_of_the_three_players_are_those_of_the_two_games():
    _, _, real, reconstructed, sampled, gamma = find("three_players").draw_inputs()[1]
    zero = torch.zeros(4)
    encoder, decoder, critic = find("three_players").reference(zero, zero, real, reconstructed, sampled, gamma)
    made = [find("generator_loss").reference(fake) for fake in (reconstructed, sampled)]
    torch.testing.assert_close(decoder, sum(made))
    torch.testing.assert_close(critic, find("critic_loss").reference(real, reconstructed) + F.softplus(sampled).mean())
    assert encoder == 0


def test_the_weight_makes_both_gradients_equally_long():
    for rec, game in find("balanced_weight").draw_inputs():
        weight = find("balanced_weight").reference(rec, game)
        torch.testing.assert_close((weight * game).norm(), rec.norm())
