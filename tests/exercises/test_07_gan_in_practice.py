"""Answers to the exercises of notebook 07, right ones in other forms and wrong ones as learners write them."""

import math
from functools import partial

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import detached, penalty_by_backward, plain, reference

from dgm_exercises import find, judge

# ---- ways to write them ---------------------------------------------------------------------------------------------


def penalty_in_a_loop(critic, real, fake, alpha):
    penalties = []
    for x, made, a in zip(real, fake, alpha):
        point = (a * x + (1 - a) * made)[None].requires_grad_()
        (gradient,) = torch.autograd.grad(critic(point), point, create_graph=True)
        penalties.append((gradient.square().sum().sqrt() - 1) ** 2)
    return penalties


def frechet_by_matrices(mu_1, var_1, mu_2, var_2):
    from scipy.linalg import sqrtm

    a, b = (np.diag(var.double().numpy()) for var in (var_1, var_2))
    way = (mu_1.double() - mu_2.double()).numpy()
    return way @ way + np.trace(a + b - 2 * sqrtm(a @ b).real)


def precision_in_loops(real, made, k):
    def radius(point):
        return sorted(math.dist(point, other) for other in real)[k]

    radii = [radius(point) for point in real]
    return sum(any(math.dist(x, c) <= r for c, r in zip(real, radii)) for x in made) / len(made)


def precision_without_itself(real, made, k):
    distances = torch.cdist(real, real).fill_diagonal_(torch.inf)
    radii = distances.sort(1).values[:, k - 1]
    return (torch.cdist(made, real) - radii <= 0).sum(1).gt(0).double().mean()


def hinge_of_biggan(real, fake, *, sign=1.0):
    zero = torch.zeros(())
    critic = sign * (torch.minimum(zero, -1 + real).mean() + torch.minimum(zero, -1 - fake).mean())
    return critic, -fake.mean()


def last_layer_of_a_classifier(raw):
    return F.softmax(raw.view(len(raw), -1), dim=1).view(raw.shape)


def recall(real, made, k):
    return precision_without_itself(made, real, k)


def precision_around_itself(real, made, k):
    radii = torch.cdist(real, real).topk(k, largest=False).values[:, -1]
    return (torch.cdist(made, real) <= radii).any(1).float().mean()


def power_iteration(W):
    v = torch.ones(W.shape[1]) + 0.1 * torch.arange(W.shape[1])
    for _ in range(300):
        v = F.normalize(W.T @ F.normalize(W @ v, dim=0), dim=0)
    return torch.linalg.vector_norm(W @ v)


def hinge_by_where(real, fake):
    lacking = torch.where(real < 1, 1 - real, 0.0).mean() + torch.where(fake > -1, fake + 1, 0.0).mean()
    return lacking, (-fake).mean()


def penalty_by_vjp(critic, real, fake, alpha):
    x = torch.lerp(fake, real, alpha.reshape(-1, *[1] * (real.dim() - 1)))
    scores, pullback = torch.func.vjp(critic, x)
    return (pullback(torch.ones_like(scores))[0].pow(2).sum((1, 2, 3)).sqrt() - 1).pow(2)


def precision_by_ranks(real, made, k):
    tree = torch.linalg.vector_norm(real[:, None].double() - real.double(), dim=2)
    tree[range(len(real)), range(len(real))] = -1  # itself first
    radii = tree.sort(dim=0).values[k]
    return np.mean([bool(((x - real).double().norm(dim=1) <= radii).any()) for x in made])


def power_iteration_unrooted(W):
    v = torch.ones(W.shape[1]) + 0.1 * torch.arange(W.shape[1])
    for _ in range(300):
        v = F.normalize(W.T @ (W @ v), dim=0)
    return v @ (W.T @ (W @ v))


def precision_without_zeros(real, made, k):
    distance = torch.cdist(real, real)
    distance[distance == 0] = math.inf
    return (torch.cdist(made, real) <= distance.sort(1).values[:, k - 1]).any(1).double().mean()


def precision_by_expanded_squares(real, made, k):
    def squares(a, b):
        return (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T

    radii = squares(real, real).sort(1).values[:, k]
    return (squares(made, real) <= radii).any(1).double().mean()


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "generator_output": [
        torch.sigmoid,
        lambda raw: (torch.tanh(raw / 2) + 1) / 2,
        lambda raw: 1 / (1 + torch.exp(-raw)),
        lambda raw: F.logsigmoid(raw.double()).exp(),
        lambda raw: torch.stack([raw, torch.zeros_like(raw)]).softmax(0)[0],
        torch.special.expit,
        lambda raw: torch.exp(-F.softplus(-raw)),
        lambda a: torch.exp(F.logsigmoid(a.double())),
    ],
    "hinge_losses": [
        lambda real, fake: (
            -torch.minimum(torch.zeros(()), -1 + real).mean() - (-1 - fake).clamp(max=0).mean(),
            fake.neg().mean(),
        ),
        lambda real, fake: [(1 - real).clamp(min=0).mean() + F.relu(fake + 1).mean(), -fake.sum() / len(fake)],
        lambda real, fake: torch.stack(
            [F.hinge_embedding_loss(-fake, -torch.ones_like(fake)) + F.relu(1 - real).mean(), -fake.mean()]
        ),
        hinge_by_where,
        lambda r, f: (F.relu(1 - r).mean() + F.relu(1 + f).mean(), torch.mean(-f)),
        lambda r, f: [F.hinge_embedding_loss(torch.cat([r]), -torch.ones_like(r)) + F.relu(1 + f).mean(), -f.mean()],
    ],
    "gradient_penalty": [
        penalty_by_backward,
        penalty_in_a_loop,
        penalty_by_vjp,
        partial(penalty_by_backward, image=lambda alpha: alpha[:, None, None, None]),
    ],
    "spectral_norm": [
        lambda W: torch.linalg.matrix_norm(W, 2),
        lambda W: np.linalg.norm(W.numpy(), 2),
        lambda W: torch.linalg.svdvals(W)[0],
        lambda W: torch.linalg.eigvalsh((W @ W.T).double())[-1].sqrt(),
        power_iteration,
        lambda W: torch.linalg.norm(W, ord=2),
    ],
    "projection_score": [
        lambda features, y, weight, embedding: (features * (weight + embedding[y])).sum(-1),
        lambda features, y, weight, embedding: torch.einsum("bd,bd->b", features, F.embedding(y, embedding) + weight),
        lambda features, y, weight, embedding: (features @ (embedding + weight).T)[range(len(y)), y],
        lambda features, y, weight, embedding: [x @ weight + x @ embedding[c] for x, c in zip(features, y)],
        lambda f, y, w, e: torch.linalg.vecdot(f, w + e[y]),
        lambda f, y, w, e: f.matmul(w) + f.matmul(e.T).gather(1, y[:, None])[:, 0],
        lambda h, y, w, e: ((F.one_hot(y, len(e)).double() @ e.double() + w) * h).sum(1),
    ],
    "frechet_of_gaussians": [
        frechet_by_matrices,
        lambda mu_1, var_1, mu_2, var_2: (
            torch.dist(mu_1, mu_2) ** 2 + (var_1 + var_2 - 2 * (var_1 * var_2).sqrt()).sum()
        ),
        lambda mu_1, var_1, mu_2, var_2: (
            ((mu_1 - mu_2).numpy() ** 2).sum() + ((np.sqrt(var_1) - np.sqrt(var_2)) ** 2).sum()
        ),
        lambda m, a, n, b: F.mse_loss(m, n, reduction="sum") + F.mse_loss(a.sqrt(), b.sqrt(), reduction="sum"),
        lambda m, a, n, b: torch.cat([m - n, a**0.5 - b**0.5]).norm() ** 2,
    ],
    "precision": [
        precision_in_loops,
        precision_without_itself,
        precision_by_ranks,
        lambda real, made, k: precision_in_loops(real.double(), made.double(), k),
    ],
}

SEEN = [
    ("generator_output", lambda raw: torch.exp(raw) / (torch.exp(raw) + 1), "inf/inf"),
    ("generator_output", lambda raw: torch.tanh(raw), "[−1, 1]"),
    ("generator_output", lambda raw: torch.clip(raw, 0, 1), "A clamp"),
    ("hinge_losses", lambda r, f: (F.relu(1 - r).mean() + F.relu(1 + f).mean(), F.relu(1 - f).mean()), "has a margin"),
    ("hinge_losses", lambda r, f: (F.relu(1 - r.mean()) + F.relu(1 + f.mean()), -f.mean()), "before the hinge"),
    ("hinge_losses", lambda r, f: (F.relu(1 - r).mean() + F.relu(1 + f).mean(), f.mean()), "sign is turned"),
    (
        "gradient_penalty",
        lambda D, real, fake, alpha: penalty_by_backward(D, real, fake, alpha, image=lambda t: t[:, None]),
        "from row to row",
    ),
    ("gradient_penalty", lambda D, real, fake, alpha: penalty_by_backward(D, fake, real, alpha), "are exchanged"),
    ("gradient_penalty", lambda D, real, fake, alpha: penalty_by_backward(D, real, real, alpha), "real images alone"),
    ("spectral_norm", power_iteration_unrooted, "square of the reference"),
    ("spectral_norm", torch.norm, "Frobenius"),
    ("spectral_norm", lambda W: torch.linalg.svdvals(W)[-1], "smallest"),
    ("projection_score", lambda f, y, w, e: f @ w[:, None] + (f * e[y]).sum(1), "makes a table (B, B)"),
    ("projection_score", lambda f, y, w, e: f @ w + f @ e.T.sum(1), "all classes"),
    ("projection_score", lambda f, y, w, e: f @ w + e[y].sum(1), "without the features"),
    (
        "frechet_of_gaussians",
        lambda m, a, n, b: F.mse_loss(m, n) + F.mse_loss(a.sqrt(), b.sqrt()),
        "a mean where the sum is asked",
    ),
    ("frechet_of_gaussians", lambda m, a, n, b: ((m - n) ** 2).sum() + ((a - b) ** 2).sum(), "compare the variances"),
    ("frechet_of_gaussians", lambda m, a, n, b: torch.cat([m - n, a**0.5 - b**0.5]).norm(), "root of it"),
    ("precision", precision_without_zeros, "equal ones with the point itself"),
    ("precision", precision_by_expanded_squares, "agree"),
    ("precision", lambda real, made, k: precision_by_ranks(made, real, k), "this is recall"),
    ("generator_output", last_layer_of_a_classifier, "Pixels are no classes"),
    ("generator_output", lambda raw: F.softmax(raw, dim=1), "the channels of each pixel"),
    ("generator_output", lambda raw: torch.softmax(raw, dim=-1), "the pixels of each row"),
    ("generator_output", torch.tanh, "in [−1, 1]"),
    ("generator_output", lambda raw: torch.clip(raw, 0.0, 1.0), "A clamp (or relu)"),
    ("generator_output", F.hardsigmoid, "hard sigmoid"),
    ("hinge_losses", partial(hinge_of_biggan, sign=1.0), "critic's sign is turned"),
    ("hinge_losses", lambda r, f: (*hinge_of_biggan(r, f, sign=-1.0)[:1], F.relu(1 + f).mean()), "to be recognised"),
    (
        "hinge_losses",
        lambda r, f: [-loss for loss in hinge_of_biggan(r, f, sign=-1.0)],
        "the wrong sign. Look for the minus",
    ),
    ("hinge_losses", lambda r, f: (1 - r.mean() + 1 + f.mean(), -f.mean()), "The hinge is missing"),
    ("gradient_penalty", partial(penalty_by_backward, image=lambda alpha: alpha), "column to column"),
    ("gradient_penalty", partial(penalty_by_backward, image=lambda alpha: 1 - alpha[:, None, None, None]), "exchanged"),
    ("gradient_penalty", partial(penalty_by_backward, image=lambda alpha: 1.0), "at the real images alone"),
    ("gradient_penalty", lambda *a: penalty_by_backward(*a).mean(), "mean over all of them"),
    ("spectral_norm", torch.norm, "Frobenius norm"),
    ("spectral_norm", lambda W: np.linalg.norm(W), "Frobenius norm"),
    ("spectral_norm", lambda W: torch.linalg.eigvals(W).abs().max(), "largest eigenvalue, in size"),
    ("spectral_norm", lambda W: torch.linalg.eigvalsh(W.T @ W).max(), "square of the reference"),
    ("projection_score", lambda f, y, w, e: (f * e[y]).sum(1), "Only the class's part"),
    ("projection_score", lambda f, y, w, e: F.linear(f, e + w), "scores for every class"),
    ("frechet_of_gaussians", lambda m, a, n, b: ((m - n) ** 2).sum() + a.sum() + b.sum(), "cross term −2"),
    ("frechet_of_gaussians", lambda *a: np.sqrt(frechet_by_matrices(*a)), "This is the root of it"),
    ("frechet_of_gaussians", lambda m, a, n, b: (m - n).norm() + (a.sqrt() - b.sqrt()).square().sum(), "not squared"),
    ("precision", recall, "this is recall"),
    ("precision", precision_around_itself, "the nearest point of each is itself"),
    ("precision", lambda r, m, k: precision_in_loops(r, m, min(k + 1, len(r) - 1)), "one neighbour too large"),
]

CUT_OFF = [
    ("hinge_losses", detached("hinge_losses", *(0, 1)), "No gradient comes back to real or fake,"),
    ("hinge_losses", detached("hinge_losses", *(0,)), "No gradient comes back to real,"),
    ("generator_output", detached("generator_output", *(0,)), "No gradient comes back to raw,"),
    ("projection_score", lambda f, y, w, e: f @ w + (f * e[y].detach()).sum(1), "comes back to embedding,"),
    ("projection_score", lambda f, y, w, e: f @ w.data + (f * e.data[y]).sum(1), "to weight or embedding,"),
    ("projection_score", lambda f, y, w, e: f.detach() @ w + (f * e[y]).sum(1), "which one cuts it off, or changes"),
    ("gradient_penalty", partial(penalty_by_backward, create_graph=False), "`create_graph=True` keeps"),
    ("gradient_penalty", lambda *a: penalty_by_backward(*a).detach(), "`create_graph=True` keeps"),
    (
        "generator_output",
        lambda raw: torch.from_numpy(1 / (1 + np.exp(-raw.numpy()))),
        "No gradient comes back to raw,",
    ),
]

REFUSED = [
    ("generator_output", lambda a: a.clamp(-10, 10).sigmoid()),
    ("hinge_losses", lambda r, f: (F.relu(1 - r).mean() + F.relu(1 + f.detach()).mean(), -f.mean())),
    ("spectral_norm", lambda W: W.abs().sum(1).max()),
    ("projection_score", lambda h, y, w, e: h @ w + (h * e[y]).sum()),
    ("projection_score", lambda h, y, w, e: h @ w + (h @ e.T)[range(len(y)), y].detach()),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_right_values_without_their_gradients_are_wrong = answers.cut_off(CUT_OFF)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


def test_both_losses_of_the_hinge_game_send_their_gradient():
    def with_fixed_fakes(real, fake):
        critic, _ = find("hinge_losses").reference(real, fake.detach())
        return critic, -fake.mean()

    def with_fixed_generator(real, fake):
        critic, generator = find("hinge_losses").reference(real, fake)
        return critic, generator.item()

    assert "detached in its turn" in plain(judge("hinge_losses", with_fixed_fakes).message)
    assert judge("hinge_losses", with_fixed_generator).status == "wrong"


def test_a_matrix_of_zeros_stretches_nothing():
    assert reference("spectral_norm")(torch.zeros(3, 2)) == 0
    for size in (1e-12, 1e-3, 1e6):
        W = size * torch.tensor([[3.0, 0.0], [4.0, 0.0]])
        assert reference("spectral_norm")(W).item() == pytest.approx(5 * size, rel=1e-6)


def test_equal_points_are_neighbours_whatever_their_place():
    for place in (0.0, 1000.0):  # products of matrices would not give 0 between equal points there
        real = place + torch.cat([torch.arange(30.0), torch.arange(30.0)])[:, None].expand(60, 3)
        assert reference("precision")(real, real + 0.25, 1) == 0  # each ball is a point
        assert reference("precision")(real, real, 1) == 1
        assert reference("precision")(real, real + 0.25, 2) == 1


def test_gradient_penalty_of_a_linear_critic_is_that_of_its_slope():
    real, fake, alpha = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2), torch.rand(3)
    for slope in (0.0, 0.5, 1.0, 3.0):
        weight = slope * F.normalize(torch.tensor([1.0, -2.0, 0.5, 3.0]), dim=0)
        found = find("gradient_penalty").reference(lambda x, w=weight: x.flatten(1) @ w, real, fake, alpha)
        torch.testing.assert_close(found, torch.full((3,), (slope - 1) ** 2), atol=1e-6, rtol=1e-6)


def test_a_divided_layer_stretches_nothing_by_more_than_one():
    v = torch.randn(1000, 30, generator=torch.Generator().manual_seed(0))
    for (W,) in find("spectral_norm").draw_inputs():
        rows = F.normalize(v[:, : W.shape[1]], dim=1)
        assert ((rows @ W.T).norm(dim=1) / find("spectral_norm").reference(W)).max() < 1 + 1e-5
