"""Exercises of notebooks 04 to 07: what is right is accepted however it is written, and each mistake is named."""

import math
import re
from functools import partial
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from dgm_exercises import adversarial_learning, find, gan_in_practice, judge, latent_variables, vae_in_practice
from dgm_lib import distributions

ALL = [
    exercise
    for notebook in (latent_variables, vae_in_practice, adversarial_learning, gan_in_practice)
    for exercise in notebook.EXERCISES
]


def plain(message: str) -> str:
    return " ".join(message.split())


# ---- right answers -------------------------------------------------------------------------------------------------


def kl_by_torch(p, q):
    terms = F.kl_div(q.log(), p, reduction="none")
    return torch.where(p > 0, terms, torch.zeros(())).sum(-1)


def ppca_mean_by_the_covariance_of_x(x, W, mu, sigma):
    x, W, mu = x.double(), W.double(), mu.double()
    return (x - mu) @ torch.linalg.inv(W @ W.T + sigma**2 * torch.eye(len(W))).T @ W


def ppca_mean_by_least_squares(x, W, mu, sigma):
    x, W, mu = (value.numpy().astype(np.float64) for value in (x, W, mu))
    rows = np.vstack([W / sigma, np.eye(W.shape[1])])  # |x − μ − Wz|² / σ² + |z|²
    target = np.hstack([(x - mu) / sigma, np.zeros((len(x), W.shape[1]))])
    return np.linalg.lstsq(rows, target.T, rcond=None)[0].T


def elbo_gap_in_loops(log_joint, q):
    gaps = []
    for row, weights in zip(log_joint, q):
        elbo = sum(w * (joint - w.log()) for joint, w in zip(row, weights) if w > 0)
        gaps.append(torch.logsumexp(row, 0) - elbo)
    return gaps


def log_sum_exp_by(largest):
    def elbo_gap(log_joint, q):
        top = largest(log_joint)
        log_p = (log_joint - top).exp().sum(1).log() + top.flatten()
        return log_p - (q * log_joint - torch.xlogy(q, q)).sum(1)

    return elbo_gap


def gaussian_log_likelihood_in_numpy(x, mean, sigma):
    z = (x.numpy().astype(float) - mean.numpy()) / sigma
    return -0.5 * (z**2 + np.log(2 * np.pi * sigma**2)).sum(-1)


def kl_by_distributions(mu, log_var):
    q = Normal(mu, torch.exp(0.5 * log_var))
    return kl_divergence(Independent(q, 1), Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1))


def level_probability_without_rounding(loc, scale, k, levels):
    loc, scale = loc.double(), scale.double()
    a, b = (((k + side) / (levels - 1) - loc) / scale for side in (0.5, -0.5))
    a, b = a.masked_fill(k == levels - 1, torch.inf), b.masked_fill(k == 0, -torch.inf)
    return torch.sigmoid(-b) - torch.sigmoid(-a)


def level_probability_of_the_library(loc, scale, k, levels):
    x = k.double() / (levels - 1)
    return distributions.DiscretizedLogistic(loc.double(), scale.double().log(), levels).log_prob(x).exp()


def slerp_in_numpy(a, b, t):
    a, b = a.numpy(), b.numpy()
    omega = np.arccos(np.clip(np.dot(a / np.linalg.norm(a), b / np.linalg.norm(b)), -1, 1))
    if np.sin(omega) == 0:
        return (1 - t) * a + t * b
    return np.sin((1 - t) * omega) / np.sin(omega) * a + np.sin(t * omega) / np.sin(omega) * b


def slerp_by_threshold(a, b, t):
    cosine = F.cosine_similarity(a, b, dim=0)
    if cosine > 0.9995:
        return torch.lerp(a, b, t)
    omega = torch.arccos(cosine)
    return (a * torch.sin(omega - t * omega) + b * torch.sin(t * omega)) / torch.sin(omega)


def attribute_vector_by_regression(z, has):
    inputs = torch.stack([torch.ones(len(z)), has.float()], 1).double()
    return torch.linalg.lstsq(inputs, z.double()).solution[1]


def importance_mean_in_loops(log_w, values):
    rows = []
    for b in range(log_w.shape[1]):
        w = np.exp(log_w[:, b].numpy() - log_w[:, b].max().item())
        rows.append(sum(w[i] * values[i, b].numpy() for i in range(len(w))) / w.sum())
    return np.stack(rows)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, code):
        return code.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def critic_loss_by_labels(real, fake):
    bce = F.binary_cross_entropy_with_logits
    return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))


def critic_turn_without_a_graph(critic, generator, x, z):
    with torch.no_grad():
        fake = generator(z)
    return critic_loss_by_labels(critic(x), critic(fake))


def js_in_loops(p, q):
    def kl(a, b):
        return sum(u * math.log(u / v) for u, v in zip(a, b) if u > 0)

    mixtures = ((p + q) / 2).tolist()
    return [(kl(a, m) + kl(b, m)) / 2 for a, b, m in zip(p.tolist(), q.tolist(), mixtures)]


def js_by_scipy(p, q):
    from scipy.spatial.distance import jensenshannon

    return np.nan_to_num(jensenshannon(p.double().numpy(), q.double().numpy(), axis=1)) ** 2


def wasserstein_by_scipy(x, y):
    from scipy.stats import wasserstein_distance

    return wasserstein_distance(x.double().numpy(), y.double().numpy())


def wasserstein_by_assignment(x, y):
    from scipy.optimize import linear_sum_assignment

    cost = np.abs(x.double().numpy()[:, None] - y.double().numpy())
    return cost[linear_sum_assignment(cost)].mean()


def modes_in_loops(x, centres, radius):
    return len({k for point in x for k, centre in enumerate(centres) if math.dist(point, centre) <= radius})


def penalty_by_backward(critic, real, fake, alpha, *, create_graph=True, image=lambda alpha: alpha.view(-1, 1, 1, 1)):
    x = fake + image(alpha) * (real - fake)
    x.requires_grad_()
    scores = critic(x)
    (gradient,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=create_graph)
    return (gradient.view(len(x), -1).norm(2, dim=1) - 1) ** 2


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


def normalised_naively(weights):
    return weights / weights.sum(-1, keepdim=True)


def elbo_gap_in_numpy(log_joint, q):
    log_p = np.logaddexp.reduce(log_joint.numpy(), axis=1)
    return log_p - (q * log_joint - torch.xlogy(q, q)).sum(1).numpy()


def reversed_kl_with(small):
    def elbo_gap(log_joint, q):
        p = torch.softmax(log_joint, 1)
        return (p * (p.log() - (q + small).log())).sum(1) if small else (p * torch.log(p / q)).sum(1)

    return elbo_gap


def shares_with_one_maximum(log_w, values):
    w = torch.exp(log_w - torch.max(log_w)).unsqueeze(-1)
    return (w * values).sum(0) / w.sum(0)


def density_times_width(loc, scale, k, levels):
    u = torch.exp(-(k / (levels - 1) - loc) / scale)
    return u / (scale * (1 + u) ** 2) / (levels - 1)


def logistic_share(loc, scale, below, above, levels):
    below, above = (torch.sigmoid((edge / (levels - 1) - loc) / scale) for edge in (below, above))
    return above - below


def levels_counted(loc, scale, k, levels):
    above = torch.where(k == levels - 1, 1.0, torch.sigmoid((k + 0.5 - loc) / scale))
    return above - torch.where(k == 0, 0.0, torch.sigmoid((k - 0.5 - loc) / scale))


def half_a_level_counted(loc, scale, k, levels):
    x = k / (levels - 1)
    above = torch.where(k < levels - 1, torch.sigmoid((x + 0.5 - loc) / scale), 1.0)
    return above - torch.where(k > 0, torch.sigmoid((x - 0.5 - loc) / scale), 0.0)


def slerp_in_degrees(a, b, t):
    omega = np.degrees(np.arccos(np.clip(F.cosine_similarity(a, b, dim=0).item(), -1, 1)))
    if omega == 0:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * omega) * a + np.sin(t * omega) * b) / np.sin(omega)


def slerp_of_the_product(a, b, t):
    omega = torch.arccos(torch.dot(a, b))
    return (torch.sin((1 - t) * omega) * a + torch.sin(t * omega) * b) / torch.sin(omega)


def slerp_of_the_clipped_product(a, b, t, *, least=0.0):
    omega = torch.arccos(torch.clip(a @ b, -1, 1))
    if omega <= least:
        return torch.lerp(a, b, t)
    return torch.sin((1 - t) * omega) / torch.sin(omega) * a + torch.sin(t * omega) / torch.sin(omega) * b


def slerp_undefended(a, b, t):
    omega = torch.arccos(torch.dot(a / torch.norm(a), b / torch.norm(b)))
    return (torch.sin((1 - t) * omega) * a + torch.sin(t * omega) * b) / torch.sin(omega)


def bce_of_logits(a, label):
    return F.binary_cross_entropy_with_logits(a, torch.full_like(a, label))


def bce_of_probabilities(a, label):
    return F.binary_cross_entropy(torch.sigmoid(a), torch.full_like(a, label))


def turn(critic, generator, x, z, *, fake=torch.Tensor.detach, real=1.0, made=0.0, squash=lambda a: a):
    logits = squash(critic(x)), squash(critic(fake(generator(z))))
    return bce_of_logits(logits[0], real) + bce_of_logits(logits[1], made)


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


def draw_under_no_grad(mu, log_var, eps):
    with torch.no_grad():
        return mu + eps * torch.exp(log_var / 2)


def draw_with_new_tensors(mu, log_var, eps):
    sigma = torch.tensor([[math.exp(v / 2) for v in row] for row in log_var.tolist()])
    return mu + sigma * eps


ALTERNATIVES = {
    "ppca_posterior_mean": [
        ppca_mean_by_the_covariance_of_x,
        ppca_mean_by_least_squares,
        lambda x, W, mu, sigma: (x - mu) @ W @ torch.inverse(W.T @ W + sigma**2 * torch.eye(W.size(1))),
        lambda x, W, mu, sigma: (
            torch.linalg.solve(W.T @ W / sigma**2 + torch.eye(W.size(1)), W.T @ (x - mu).T / sigma**2).T
        ),
    ],
    "elbo_gap": [
        elbo_gap_in_loops,
        log_sum_exp_by(lambda log_joint: log_joint.amax(1, keepdim=True)),
        lambda log_joint, q: log_joint.logsumexp(1) - (q * log_joint).sum(1) + torch.xlogy(q, q).sum(1),
        lambda log_joint, q: F.kl_div(log_joint.log_softmax(1), q, reduction="none").sum(1),
        lambda log_joint, q: log_joint.logsumexp(1) - (q * (log_joint - q.clamp(min=1e-12).log())).sum(1),
    ],
    "gaussian_log_likelihood": [
        lambda x, mean, sigma: Normal(mean, sigma).log_prob(x).sum(-1),
        lambda x, mean, sigma: (
            -F.mse_loss(mean, x, reduction="none").sum(1) / (2 * sigma**2)
            - 0.5 * x.shape[1] * math.log(2 * math.pi * sigma**2)
        ),
        lambda x, mean, sigma: MultivariateNormal(mean.double(), sigma**2 * torch.eye(x.size(1)).double()).log_prob(x),
    ],
    "split_head": [
        lambda out: (out[:, : out.shape[1] // 2], out[:, out.shape[1] // 2 :]),
        lambda out: out.split(out.size(1) // 2, dim=-1),
        lambda out: out.view(len(out), 2, -1).unbind(1),
        lambda out: list(out.double().tensor_split(2, dim=1)),
    ],
    "reparameterise": [
        lambda mu, log_var, eps: mu + log_var.exp().sqrt() * eps,
        lambda mu, log_var, eps: torch.addcmul(mu, torch.exp(0.5 * log_var), eps),
        lambda mu, log_var, eps: Normal(mu.double(), log_var.exp() ** 0.5).mean + eps * torch.exp(log_var / 2),
        lambda mu, log_var, eps: [m + eps[i] * log_var[i].div(2).exp() for i, m in enumerate(mu)],
    ],
    "kl_to_standard_normal": [
        kl_by_distributions,
        lambda mu, log_var: -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp(), dim=1),
        lambda mu, log_var: (torch.expm1(log_var.double()) - log_var + mu.double() ** 2).sum(-1) / 2,
        lambda mu, log_var: [sum((m**2 + v.exp() - 1 - v) / 2 for m, v in zip(*row)) for row in zip(mu, log_var)],
    ],
    "negative_elbo": [
        lambda log_p, kl: kl.mean() - log_p.sum() / len(log_p),
        lambda log_p, kl: -(log_p.sum(dim=(1, 2, 3)) - kl).mean(),
        lambda log_p, kl: sum(k - row.sum() for row, k in zip(log_p.double(), kl)) / len(kl),
        lambda log_p, kl: torch.stack([kl.double().sum(), -log_p.double().sum()]).sum() / len(kl),
    ],
    "level_probability": [level_probability_without_rounding, level_probability_of_the_library],
    "iw_bound": [
        lambda log_w: torch.logsumexp(log_w - math.log(len(log_w)), 0),
        lambda log_w: (log_w - log_w.max(0).values).exp().mean(0).log() + log_w.max(0).values,
        lambda log_w: [(c.double() - max(c)).exp().mean().log() + max(c) for c in log_w.T],
    ],
    "free_bits": [
        lambda kl, threshold: torch.maximum(kl.mean(0), torch.tensor(threshold)).sum(),
        lambda kl, threshold: F.relu(kl.double().mean(0) - threshold).sum() + threshold * kl.shape[1],
        lambda kl, threshold: sum(max(column.mean(), torch.tensor(threshold)) for column in kl.T),
        lambda kl, threshold: torch.where(kl.mean(0) > threshold, kl.mean(0), threshold).sum(),
    ],
    "active_units": [
        lambda mu, threshold: mu.var(0, correction=0) > threshold,
        lambda mu, threshold: (mu.numpy().var(axis=0) > threshold).tolist(),
        lambda mu, threshold: torch.cov(mu.T).diagonal() > threshold,
        lambda mu, threshold: (mu - mu.mean(0)).square().mean(0).sqrt() > threshold**0.5,
    ],
    "spherical_interpolation": [slerp_in_numpy, slerp_by_threshold],
    "attribute_vector": [
        attribute_vector_by_regression,
        lambda z, has: z[has.numpy()].numpy().mean(0) - z[~has].numpy().mean(0),
        lambda z, has: (
            (z * has[:, None]).sum(0) / has.sum() - (z * has.logical_not()[:, None]).sum(0) / (len(z) - has.sum())
        ),
    ],
    "importance_mean": [
        importance_mean_in_loops,
        lambda log_w, values: torch.einsum("kb,kbd->bd", F.softmax(log_w, 0), values),
        lambda log_w, values: (values.double() * (log_w - log_w.logsumexp(0)).exp()[..., None]).sum(0),
    ],
    "straight_through": [
        StraightThrough.apply,
        lambda z, code: code.detach() + z - z.detach(),
        lambda z, code: z - (z - code).detach(),
        lambda z, code: [row + (c - row).detach() for row, c in zip(z.double(), code)],
    ],
    "optimal_critic": [
        lambda log_p, log_q: torch.stack([log_p, log_q]).softmax(0)[0],
        lambda log_p, log_q: (log_p - torch.logaddexp(log_p, log_q)).exp(),
        lambda log_p, log_q: 1 / (1 + np.exp(log_q.double().numpy() - log_p.double().numpy())),
        lambda log_p, log_q: [0.5 + 0.5 * math.tanh(a / 2) for a in (log_p - log_q).tolist()],
    ],
    "critic_loss": [
        critic_loss_by_labels,
        lambda real, fake: -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean(),
        lambda real, fake: F.softplus(torch.neg(real)).sum() / len(real) + (fake - F.logsigmoid(fake)).mean(),
        lambda real, fake: torch.logaddexp(-real, torch.zeros(())).mean() + torch.logaddexp(fake, 0 * fake).mean(),
    ],
    "generator_loss": [
        lambda fake: F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake)),
        lambda fake: -F.logsigmoid(fake).sum() / fake.numel(),
        lambda fake: torch.logaddexp(-fake.double(), torch.zeros(())).mean(),
        lambda fake: (F.softplus(fake) - fake).mean(),
    ],
    "critic_turn": [
        critic_turn_without_a_graph,
        lambda critic, generator, x, z: critic_loss_by_labels(critic(x.detach()), critic(generator(z).data)),
        lambda critic, generator, x, z: (
            F.softplus(critic(generator(z).detach())).mean() - F.logsigmoid(critic(x)).mean()
        ),
    ],
    "js_divergence": [
        js_in_loops,
        js_by_scipy,
        lambda p, q: (
            torch.special.entr((p + q) / 2).sum(1) - (torch.special.entr(p) + torch.special.entr(q)).sum(1) / 2
        ),
        lambda p, q: (kl_by_torch(p, (p + q) / 2) + kl_by_torch(q, (p + q) / 2)) / 2,
    ],
    "wasserstein_1d": [
        wasserstein_by_scipy,
        wasserstein_by_assignment,
        lambda x, y: F.l1_loss(torch.sort(x, descending=True).values, torch.sort(y, descending=True).values),
        lambda x, y: np.mean(np.abs(np.sort(x.numpy()) - np.sort(y.numpy()))),
    ],
    "modes_covered": [
        modes_in_loops,
        lambda x, centres, radius: (torch.cdist(centres, x).min(1).values <= radius).sum(),
        lambda x, centres, radius: ((x[:, None] - centres).square().sum(-1) <= radius**2).any(0).double().sum(),
    ],
    "generator_output": [
        torch.sigmoid,
        lambda raw: (torch.tanh(raw / 2) + 1) / 2,
        lambda raw: 1 / (1 + torch.exp(-raw)),
        lambda raw: F.logsigmoid(raw.double()).exp(),
        lambda raw: torch.stack([raw, torch.zeros_like(raw)]).softmax(0)[0],
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
    ],
    "gradient_penalty": [penalty_by_backward, penalty_in_a_loop],
    "spectral_norm": [
        lambda W: torch.linalg.matrix_norm(W, 2),
        lambda W: np.linalg.norm(W.numpy(), 2),
        lambda W: torch.linalg.svdvals(W)[0],
        lambda W: torch.linalg.eigvalsh((W @ W.T).double())[-1].sqrt(),
    ],
    "projection_score": [
        lambda features, y, weight, embedding: (features * (weight + embedding[y])).sum(-1),
        lambda features, y, weight, embedding: torch.einsum("bd,bd->b", features, F.embedding(y, embedding) + weight),
        lambda features, y, weight, embedding: (features @ (embedding + weight).T)[range(len(y)), y],
        lambda features, y, weight, embedding: [x @ weight + x @ embedding[c] for x, c in zip(features, y)],
    ],
    "frechet_of_gaussians": [
        frechet_by_matrices,
        lambda mu_1, var_1, mu_2, var_2: (
            torch.dist(mu_1, mu_2) ** 2 + (var_1 + var_2 - 2 * (var_1 * var_2).sqrt()).sum()
        ),
        lambda mu_1, var_1, mu_2, var_2: (
            ((mu_1 - mu_2).numpy() ** 2).sum() + ((np.sqrt(var_1) - np.sqrt(var_2)) ** 2).sum()
        ),
    ],
    "precision": [precision_in_loops, precision_without_itself],
}


def test_every_exercise_has_another_right_answer():
    assert set(ALTERNATIVES) == {exercise.name for exercise in ALL}


@pytest.mark.parametrize(("name", "answer"), [(name, a) for name, answers in ALTERNATIVES.items() for a in answers])
def test_alternative_is_right(name, answer):
    verdict = judge(name, answer)
    assert verdict.status == "right", verdict.message


# ---- further forms of right answers, and what only an edge tells apart -----------------------------------------------


def slerp_by_rotation(a, b, t):
    """Turns the direction of a towards b in their plane, and shares out the rest that unequal lengths leave."""
    u, v = F.normalize(a.double(), dim=0), F.normalize(b.double(), dim=0)
    omega = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if omega < 1e-6:
        return a + t * (b - a)
    side = F.normalize(v - (u @ v) * u, dim=0)
    turned = (t * omega).cos() * u + (t * omega).sin() * side
    return a.norm() * turned + (b.norm() - a.norm()) * (t * omega).sin() / omega.sin() * v


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


def wasserstein_by_areas(x, y):
    """The area between the two distribution functions."""
    edges = torch.cat([x, y]).sort().values
    share = [(sample[:, None] <= edges[:-1]).double().mean(0) for sample in (x, y)]
    return ((share[0] - share[1]).abs() * edges.diff()).sum()


FURTHER = {
    "ppca_posterior_mean": [
        lambda x, W, mu, s: (
            torch.cholesky_solve(
                W.T @ (x - mu).T, torch.linalg.cholesky(W.T @ W + torch.diag(torch.full((W.shape[1],), s * s)))
            ).mT
        ),
        lambda x, W, mu, s: (
            (x - mu) @ W @ torch.linalg.inv(W.T.double() @ W.double() + s**2 * np.eye(W.size(1))).float()
        ),
    ],
    "elbo_gap": [
        lambda joint, q: (F.kl_div(joint.log_softmax(-1), q, reduction="none")).sum(-1),
        lambda joint, q: joint.double().logsumexp(1) - (q * joint).sum(1) - torch.special.entr(q).sum(1),
    ],
    "gaussian_log_likelihood": [
        lambda x, m, s: Independent(Normal(m, torch.tensor(s)), 1).log_prob(x),
        lambda x, m, s: (
            -F.gaussian_nll_loss(m, x, torch.full_like(x, s * s), full=True, eps=0, reduction="none").sum(1)
        ),
    ],
    "split_head": [lambda out: out.unflatten(1, (2, -1)).unbind(1), lambda out: torch.tensor_split(out, 2, -1)],
    "reparameterise": [
        lambda mu, v, eps: torch.lerp(mu, mu + eps, torch.exp(v / 2)),
        lambda mu, v, eps: mu + eps * torch.pow(math.e, 0.5 * v),
    ],
    "kl_to_standard_normal": [
        lambda mu, v: (mu**2 / 2 + v.exp() / 2 - v / 2 - 0.5).sum(-1),
        lambda mu, v: torch.einsum("bd,bd->b", mu, mu) / 2 + (torch.expm1(v) - v).sum(1) / 2,
    ],
    "negative_elbo": [
        lambda p, kl: torch.mean(kl - torch.einsum("bchw->b", p)),
        lambda p, kl: kl.mean() - p.mean() * p[0].numel(),
    ],
    "level_probability": [
        lambda loc, s, k, n: (
            torch.where(k == n - 1, 1, torch.special.expit(((k + 0.5) / (n - 1) - loc) / s))
            - torch.where(k == 0, 0, torch.special.expit(((k - 0.5) / (n - 1) - loc) / s))
        ),
        lambda loc, s, k, n: (
            (
                torch.where(k > 0, (((k - 0.5) / (n - 1) - loc) / s / 2).tanh(), -1)
                - torch.where(k < n - 1, (((k + 0.5) / (n - 1) - loc) / s / 2).tanh(), 1)
            )
            / -2
        ),
    ],
    "iw_bound": [
        lambda w: (w - w.amax(0)).exp().sum(0).log() + w.amax(0) - math.log(w.size(0)),
        lambda w: w[:1].squeeze(0) if len(w) == 1 else torch.logcumsumexp(w, 0)[-1] - np.log(len(w)),
    ],
    "free_bits": [
        lambda kl, thr: (kl.mean(0) - thr).clamp(min=0).add(thr).sum(),
        lambda kl, thr: F.threshold(kl.mean(0), thr, thr).sum(),
    ],
    "active_units": [
        lambda mu, thr: (mu - mu.mean(0)).pow(2).mean(0) > thr,
        lambda mu, thr: np.std(mu.double().numpy(), axis=0, ddof=1) ** 2 > thr,
    ],
    "spherical_interpolation": [slerp_by_rotation, lambda a, b, t: slerp_in_numpy(a.double(), b.double(), t)],
    "attribute_vector": [
        lambda z, has: torch.stack([z[has == side].mean(0) for side in (False, True)]).diff(dim=0)[0],
        lambda z, has: (has / has.sum() - (~has) / (~has).sum()) @ z,
    ],
    "importance_mean": [
        lambda w, x: ((w - w.max(0).values).exp()[..., None] * x).sum(0) / (w - w.max(0).values).exp().sum(0)[:, None],
        lambda w, x: torch.bmm(w.T.softmax(1)[:, None], x.transpose(0, 1)).squeeze(1),
    ],
    "straight_through": [
        lambda z, code: code.detach() + (z - z.detach()),
        lambda z, code: torch.where(torch.ones_like(z) > 0, (code - z).detach(), 0) + z,
    ],
    "optimal_critic": [
        lambda p, q: F.logsigmoid(p - q).exp(),
        lambda p, q: 1 / (1 + (q - p).exp()),
    ],
    "critic_loss": [
        lambda r, f: -(F.logsigmoid(r).mean() + F.logsigmoid(-f).mean()),
        lambda r, f: bce_of_logits(r, 1.0) + F.softplus(f).sum() / f.numel(),
    ],
    "generator_loss": [
        lambda f: bce_of_logits(f, 1.0),
        lambda f: F.cross_entropy(torch.stack([0 * f, f], 1), torch.ones(len(f)).long()),
    ],
    "critic_turn": [
        lambda D, G, x, z: F.softplus(-D(x)).mean() + F.softplus(D(torch.Tensor.detach(G(z)))).mean(),
        lambda D, G, x, z: bce_of_logits(D(x), 1.0) + bce_of_logits(D(G(z.detach()).detach()), 0.0),
    ],
    "js_divergence": [
        lambda p, q: sum(F.kl_div(((p + q) / 2).log(), side, reduction="none").nansum(1) for side in (p, q)) / 2,
        lambda p, q: (
            torch.where(p > 0, p * (2 * p / (p + q)).log(), 0)
            .add(torch.where(q > 0, q * (2 * q / (p + q)).log(), 0))
            .sum(1)
            / 2
        ),
    ],
    "wasserstein_1d": [
        wasserstein_by_areas,
        lambda x, y: torch.linalg.vector_norm(x.sort()[0] - y.sort()[0], 1) / x.numel(),
    ],
    "modes_covered": [
        lambda x, centres, radius: int(((x[None] - centres[:, None]).norm(dim=2).amin(1) <= radius).sum()),
        lambda x, centres, radius: sum(bool(((x - c).norm(dim=1) <= radius).any()) for c in centres),
    ],
    "generator_output": [torch.special.expit, lambda raw: torch.exp(-F.softplus(-raw))],
    "hinge_losses": [hinge_by_where, lambda r, f: (F.relu(1 - r).mean() + F.relu(1 + f).mean(), torch.mean(-f))],
    "gradient_penalty": [penalty_by_vjp, partial(penalty_by_backward, image=lambda alpha: alpha[:, None, None, None])],
    "spectral_norm": [power_iteration, lambda W: torch.linalg.norm(W, ord=2)],
    "projection_score": [
        lambda f, y, w, e: torch.linalg.vecdot(f, w + e[y]),
        lambda f, y, w, e: f.matmul(w) + f.matmul(e.T).gather(1, y[:, None])[:, 0],
    ],
    "frechet_of_gaussians": [
        lambda m, a, n, b: F.mse_loss(m, n, reduction="sum") + F.mse_loss(a.sqrt(), b.sqrt(), reduction="sum"),
        lambda m, a, n, b: torch.cat([m - n, a**0.5 - b**0.5]).norm() ** 2,
    ],
    "precision": [precision_by_ranks, lambda real, made, k: precision_in_loops(real.double(), made.double(), k)],
}


@pytest.mark.parametrize(("name", "answer"), [(name, a) for name, answers in FURTHER.items() for a in answers])
def test_another_form_is_right(name, answer):
    verdict = judge(name, answer)
    assert verdict.status == "right", verdict.message


def shifted_by(by):
    """A logarithm of a mean of weights, of which something else than the largest was taken out before exp."""

    def bound(log_w):
        level = by(log_w)
        return torch.log(torch.mean(torch.exp(log_w - level), 0)) + level

    return bound


def shares_less(by):
    def mean(log_w, values):
        w = torch.exp(log_w - by(log_w)).unsqueeze(2)
        return (w * values).sum(0) / w.sum(0)

    return mean


def gap_of_shifted(by):
    def gap(joint, q):
        level = by(joint)
        log_p = torch.log(torch.sum(torch.exp(joint - level), 1, keepdim=True)) + level
        return (q * (log_p - joint)).sum(1) + torch.xlogy(q, q).sum(1)

    return gap


def critic_of_shifted(by):
    def critic(log_p, log_q):
        p, q = (torch.exp(log - by(log_p, log_q)) for log in (log_p, log_q))
        return p / (p + q)

    return critic


def slerp_without_clamp(a, b, t):
    omega = torch.acos(torch.dot(a, b) / (torch.linalg.norm(a) * torch.linalg.norm(b)))
    if omega < 1e-3:
        return (1 - t) * a + t * b
    return (torch.sin((1 - t) * omega) * a + torch.sin(t * omega) * b) / torch.sin(omega)


def slerp_of_units(a, b, t):
    return slerp_by_rotation(a / a.norm(), b / b.norm(), t)


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


def modes_of_a_share(x, centres, radius):
    return ((torch.cdist(x, centres) <= radius).double().mean(0) >= 0.01).sum()


def detached(name, *places):
    """The reference, where the arguments at these places are held fast."""

    def answer(*arguments):
        return find(name).reference(*(a.detach() if i in places else a for i, a in enumerate(arguments)))

    return answer


REFUSED = [
    ("ppca_posterior_mean", lambda x, W, mu, s: torch.linalg.lstsq(W, (x - mu).mT).solution.mT, "least squares"),
    ("ppca_posterior_mean", lambda x, W, mu, s: (x - mu) @ W @ torch.inverse(W.T @ W + s * torch.eye(W.size(1))), "σ²"),
    ("ppca_posterior_mean", lambda x, W, mu, s: ppca_mean_by_least_squares(x - x.mean(0), W, 0 * mu, s), "this batch"),
    ("elbo_gap", lambda joint, q: (q * (torch.log(q + 1e-8) - torch.log(joint.softmax(1) + 1e-8))).sum(1), "log of 0"),
    ("elbo_gap", lambda joint, q: -torch.special.entr(q).sum(1) - (q * torch.log(joint.softmax(1))).sum(1), "log of 0"),
    ("elbo_gap", gap_of_shifted(lambda joint: joint.mean(1, keepdim=True)), "not the largest number of each row"),
    ("elbo_gap", gap_of_shifted(lambda joint: joint.min(1, keepdim=True).values), "not the largest number of each"),
    ("elbo_gap", gap_of_shifted(torch.max), "not the largest number of each row"),
    (
        "gaussian_log_likelihood",
        lambda x, m, s: (-((x - m) ** 2) / (2 * s**2) - np.log(s**2) - np.log(2 * np.pi) / 2).sum(1),
        "twice log σ",
    ),
    (
        "gaussian_log_likelihood",
        lambda x, m, s: (-((x - m) ** 2) / (2 * s**2) - np.log(s) - np.log(2 * np.pi)).sum(1),
        "log 2π without its ½",
    ),
    ("gaussian_log_likelihood", lambda x, m, s: F.mse_loss(x, m), "squared error, not a log-likelihood"),
    (
        "gaussian_log_likelihood",
        lambda x, m, s: Normal(0, s).log_prob(x * 0).sum(1) - (x * x - 2 * x * m + m * m).sum(1) / 2 / s**2,
        "on input 9 of 9",
    ),
    ("split_head", lambda out: (out[:, ::2], out[:, 1::2]), "interleaved"),
    ("split_head", lambda out: out.split(2, dim=1), "how long each piece is"),
    ("split_head", lambda out: (out.chunk(2, 1)[0], torch.exp(out.chunk(2, 1)[1] / 2)), "You give the standard dev"),
    ("reparameterise", lambda mu, v, eps: torch.addcmul(mu, v.exp(), eps), "the variance"),
    ("reparameterise", lambda mu, v, eps: mu + eps, "log_var does not appear"),
    ("reparameterise", lambda mu, v, eps: Normal(mu, 1.0).mean + v.mul(0.5) * eps, "exp is missing"),
    (
        "kl_to_standard_normal",
        lambda mu, v: kl_divergence(Normal(mu, v.exp()), Normal(0.0, 1.0)).sum(1),
        "take log_var for log σ",
    ),
    (
        "kl_to_standard_normal",
        lambda mu, v: kl_divergence(Normal(mu, (v / 2).exp()), Normal(0.0, 1.0)).mean(1),
        "average",
    ),
    ("kl_to_standard_normal", lambda mu, v: (mu**2 + v.exp() - 1 - 0.5 * v).sum(1) * 0.5, "You subtract log σ"),
    ("negative_elbo", lambda p, kl: -(p.mean((1, 2, 3)) - kl).mean(), "average log p over the pixels"),
    ("negative_elbo", lambda p, kl: p.sum((1, 2, 3)).mean() - kl.mean(), "the wrong sign. Look for the minus"),
    ("negative_elbo", lambda p, kl: (p.abs().sum((1, 2, 3)) + kl).mean(), "absolute value"),
    (
        "level_probability",
        lambda loc, s, k, n: (
            1 / (1 + torch.exp(-((k + 0.5) / (n - 1) - loc) / s))
            - 1 / (1 + torch.exp(-((k - 0.5) / (n - 1) - loc) / s))
        ),
        "without these tails",
    ),
    ("level_probability", lambda loc, s, k, n: level_probability_of_the_library(loc, s**2, k, n), "divide by scale²"),
    (
        "level_probability",
        lambda loc, s, k, n: level_probability_of_the_library(loc, s, k, n) + 1e-5,
        "A small constant added",
    ),
    ("iw_bound", shifted_by(torch.mean), "not the largest log-weight of each example"),
    ("iw_bound", shifted_by(lambda w: w.mean(0)), "not the largest log-weight of each example"),
    ("iw_bound", shifted_by(lambda w: w.min(0).values), "not the largest log-weight of each example"),
    ("iw_bound", lambda w: torch.log(w.exp().mean(0) + 1e-10), "puts such a ceiling there"),
    ("free_bits", lambda kl, thr: torch.maximum(kl, torch.tensor(thr)).mean(0).sum(), "the mean comes first"),
    ("free_bits", lambda kl, thr: F.relu(kl.mean(0) - thr).sum(), "You subtract the threshold"),
    ("free_bits", lambda kl, thr: kl.sum(1).mean().clamp(min=kl.size(1) * thr), "with D thresholds"),
    ("active_units", lambda mu, thr: (mu**2).mean(0) - mu.mean(0) ** 2 > thr, "rounding decides"),
    ("active_units", lambda mu, thr: np.std(mu.numpy(), axis=0) > thr, "threshold is one of variances"),
    ("active_units", lambda mu, thr: mu.abs().mean(0) > thr, "agree"),
    ("spherical_interpolation", slerp_without_clamp, "clamp(-1, 1)"),
    ("spherical_interpolation", slerp_of_units, "of length 1"),
    ("spherical_interpolation", lambda a, b, t: torch.lerp(a, b, t), "the straight line"),
    ("attribute_vector", lambda z, has: z[~has].mean(0) - z[has].mean(0), "the wrong sign. Look for the minus"),
    (
        "attribute_vector",
        lambda z, has: (has.float()[:, None] * z).mean(0) - (~has[:, None] * z).mean(0),
        "both sums by N",
    ),
    ("attribute_vector", lambda z, has: z[has].mean(0) - torch.mean(z, 0), "mean of all images"),
    ("importance_mean", shares_less(torch.mean), "not the largest log-weight of each example"),
    ("importance_mean", shares_less(lambda w: w.mean(0)), "not the largest log-weight of each example"),
    ("importance_mean", shares_less(lambda w: w.min(0).values), "not the largest log-weight of each example"),
    ("straight_through", lambda z, code: z + code - z.detach(), "to the code as well"),
    ("straight_through", lambda z, code: z - code.detach() + code, "the decoder has to see the code"),
    ("straight_through", lambda z, code: torch.lerp(z, code, 1.0), "all of it goes to the code"),
    ("optimal_critic", critic_of_shifted(lambda p, q: torch.cat([p, q]).max()), "the same for all examples"),
    ("optimal_critic", critic_of_shifted(lambda p, q: p.max()), "the same for all examples"),
    ("optimal_critic", lambda p, q: torch.exp(p - q) / (torch.exp(p - q) + 1), "beyond e^88"),
    ("optimal_critic", lambda p, q: 1 - torch.sigmoid(p - q), "one minus the reference"),
    ("critic_loss", lambda r, f: -torch.log(torch.sigmoid(r)).mean() + F.softplus(f).mean(), "a sigmoid rounds"),
    (
        "critic_loss",
        lambda r, f: -torch.log(torch.sigmoid(r)).mean() - torch.log(1 - torch.sigmoid(f)).mean(),
        "rounds",
    ),
    ("critic_loss", lambda r, f: bce_of_logits(torch.cat([r, -f]), 1.0), "one mean over real and made"),
    ("generator_loss", lambda f: torch.log(1 - torch.sigmoid(f) + 1e-8).mean(), "agree"),
    ("generator_loss", lambda f: -torch.log(torch.sigmoid(f)).mean(), "rounds to 0 or 1"),
    ("generator_loss", lambda f: -F.softplus(f).mean(), "saturating loss"),
    (
        "critic_turn",
        lambda D, G, x, z: (
            -torch.log(torch.sigmoid(D(x))).mean() - torch.log(1 - torch.sigmoid(D(G(z).detach()))).mean()
        ),
        "rounds to 0 or 1",
    ),
    (
        "critic_turn",
        lambda D, G, x, z: bce_of_probabilities(D(x), 1.0) + bce_of_probabilities(D(G(z).data), 0.0),
        "puts such a ceiling there",
    ),
    (
        "critic_turn",
        lambda D, G, x, z: bce_of_logits(D(x), 0.0) + bce_of_logits(D(G(z).data), 1.0),
        "labels are exchanged",
    ),
    ("js_divergence", lambda p, q: kl_by_torch(p, (p + q) / 2) + kl_by_torch(q, (p + q) / 2), "The ½ is missing"),
    ("js_divergence", lambda p, q: (kl_by_torch(p, q) + kl_by_torch(q, p)) / 2, "infinite where"),
    ("js_divergence", lambda p, q: (kl_by_torch(p, p + q) + kl_by_torch(q, p + q)) / 2, "sums to 2"),
    ("wasserstein_1d", lambda x, y: (x.sort().values - y.sort().values).mean().abs(), "distance of the means"),
    ("wasserstein_1d", lambda x, y: (torch.sort(x)[0] - torch.sort(y)[0]).mean(), "take absolute values"),
    ("wasserstein_1d", lambda x, y: F.mse_loss(x.sort()[0], y.sort()[0]).sqrt(), "This is W₂"),
    ("modes_covered", modes_of_a_share, "1 % of the samples"),
    ("modes_covered", lambda x, c, r: len(set(torch.cdist(x, c).argmin(1).tolist())), "nearest to some sample"),
    ("modes_covered", lambda x, c, r: ((x[:, None] - c).square().sum(-1) <= r).any(0).sum(), "squared distances"),
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
]


@pytest.mark.parametrize(("name", "answer", "words"), REFUSED)
def test_what_only_an_edge_tells_apart_is_refused(name, answer, words):
    verdict = judge(name, answer)
    assert verdict.status == "wrong", verdict.message
    assert words in plain(verdict.message)


HELD = [
    ("kl_to_standard_normal", (0, 1), "nothing holds the posterior near the prior"),
    ("kl_to_standard_normal", (1,), "to be less certain"),
    ("kl_to_standard_normal", (0,), "pulls z towards 0"),
    ("hinge_losses", (0, 1), "No gradient comes back to real or fake,"),
    ("hinge_losses", (0,), "No gradient comes back to real,"),
    ("negative_elbo", (1,), "nothing holds the posterior near the prior"),
    ("critic_loss", (0,), "the logits of the real ones"),
    ("generator_loss", (0,), "the generator learns nothing"),
    ("free_bits", (0,), "no latent is pushed"),
    ("generator_output", (0,), "No gradient comes back to raw,"),
]


@pytest.mark.parametrize(("name", "places", "words"), HELD)
def test_a_loss_without_its_gradient_is_wrong(name, places, words):
    verdict = judge(name, detached(name, *places))
    assert verdict.status == "wrong", verdict.message
    assert words in plain(verdict.message)


def test_both_losses_of_the_hinge_game_send_their_gradient():
    def with_fixed_fakes(real, fake):
        critic, _ = find("hinge_losses").reference(real, fake.detach())
        return critic, -fake.mean()

    def with_fixed_generator(real, fake):
        critic, generator = find("hinge_losses").reference(real, fake)
        return critic, generator.item()

    assert "detached in its turn" in plain(judge("hinge_losses", with_fixed_fakes).message)
    assert judge("hinge_losses", with_fixed_generator).status == "wrong"


# ---- the references on their own edges -------------------------------------------------------------------------------


def reference(name):
    return find(name).reference


def test_a_matrix_of_zeros_stretches_nothing():
    assert reference("spectral_norm")(torch.zeros(3, 2)) == 0
    for size in (1e-12, 1e-3, 1e6):
        W = size * torch.tensor([[3.0, 0.0], [4.0, 0.0]])
        assert reference("spectral_norm")(W).item() == pytest.approx(5 * size, rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 3.3, -1.0, -3.3, 0.0])
@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_arc_between_vectors_without_a_plane_is_the_straight_line(n, scale):
    a = torch.randn(n, generator=torch.Generator().manual_seed(n))
    for t in (0.0, 0.3, 1.0):
        for ends in ((a, scale * a), (scale * a, a)):
            found = reference("spherical_interpolation")(*ends, t)
            assert found.dtype == a.dtype
            torch.testing.assert_close(found, (1 - t) * ends[0] + t * ends[1])


def test_arc_of_nearly_parallel_vectors_keeps_its_length():
    a, b = (torch.tensor([angle.cos(), angle.sin()]) for angle in torch.tensor([0.0, 1e-3]).double())
    middle = reference("spherical_interpolation")(a.float(), b.float(), 0.5)
    assert middle.norm().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_level_probabilities_are_exact_in_both_tails(dtype):
    """Mirrored, the picture is the same: 1 − σ(u) of a large u would be what rounding leaves of 1."""
    loc, scale, k = torch.tensor([0.0] * 3, dtype=dtype), torch.tensor([0.02] * 3, dtype=dtype), torch.tensor([2, 3, 4])
    bright = reference("level_probability")(loc, scale, k, 5)
    dark = reference("level_probability")(1 - loc, scale, 4 - k, 5)
    torch.testing.assert_close(bright, dark, rtol=50 * torch.finfo(dtype).eps * 50, atol=0)  # exp(u), |u| < 50
    assert (bright > 0).all()
    one = reference("level_probability")(torch.tensor([0.5]), torch.tensor([0.1]), torch.tensor([0]), 1)
    assert one == 1  # a single level takes both tails
    sharp = reference("level_probability")(torch.full((5,), 0.5), torch.full((5,), 1e-40), torch.arange(5), 5)
    assert sharp.tolist() == [0, 0, 1, 0, 0]


def test_weights_of_zero_are_no_trouble():
    log_w = torch.tensor([[-math.inf, 0.0], [-math.inf, -math.inf]])
    torch.testing.assert_close(reference("iw_bound")(log_w), torch.tensor([-math.inf, -math.log(2)]))
    values = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    assert reference("importance_mean")(log_w, values)[1] == 2


def test_equal_points_are_neighbours_whatever_their_place():
    for place in (0.0, 1000.0):  # products of matrices would not give 0 between equal points there
        real = place + torch.cat([torch.arange(30.0), torch.arange(30.0)])[:, None].expand(60, 3)
        assert reference("precision")(real, real + 0.25, 1) == 0  # each ball is a point
        assert reference("precision")(real, real, 1) == 1
        assert reference("precision")(real, real + 0.25, 2) == 1


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_reference_is_right_in_double_precision(exercise):
    torch.set_default_dtype(torch.float64)
    try:
        assert judge(exercise.name, exercise.reference).status == "right"
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_inputs_are_finite_in_what_the_text_calls_finite(exercise):
    may_be_infinite = {"iw_bound", "importance_mean", "optimal_critic"}
    for arguments in exercise.draw_inputs():
        tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
        assert exercise.name in may_be_infinite or all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_hints_are_about_twenty(exercise):
    assert len({hint for _, hint in exercise.wrong}) <= 22


# ---- what the references promise -----------------------------------------------------------------------------------


def test_parts_of_the_elbo_fit_together_and_the_exact_posterior_closes_the_gap():
    """One latent, so that its exact posterior is a Gaussian q: E_q log p(x|z), on a grid, minus the KL is log p(x)."""
    W, mu, sigma = torch.tensor([[1.5], [-0.5]]).double(), torch.tensor([1.0, 2.0]).double(), 0.7
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + mu
    M = W.T @ W + sigma**2 * torch.eye(1)
    mean = ppca_mean_by_the_covariance_of_x(x, W, mu, sigma)
    torch.testing.assert_close(
        find("ppca_posterior_mean").reference(x.float(), W.float(), mu.float(), sigma).double(), mean
    )
    log_var = (sigma**2 / M).log().expand(3, 1)
    eps = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    weights = Normal(0.0, 1.0).log_prob(eps).softmax(0)
    z = find("reparameterise").reference(mean, log_var, eps)  # (3, 2001)
    reconstruction = torch.stack(
        [
            find("gaussian_log_likelihood").reference(row.expand(len(eps), 2), mu + draws[:, None] @ W.T, sigma)
            @ weights
            for row, draws in zip(x, z)
        ]
    )
    kl = find("kl_to_standard_normal").reference(mean, log_var)
    loss = find("negative_elbo").reference(reconstruction.view(3, 1, 1, 1), kl)
    exact = MultivariateNormal(mu, W @ W.T + sigma**2 * torch.eye(2)).log_prob(x)
    torch.testing.assert_close(loss, -exact.mean(), atol=1e-6, rtol=1e-6)


def test_latents_of_ppca_are_most_probable_at_the_posterior_mean():
    for x, W, mu, sigma in find("ppca_posterior_mean").draw_inputs():
        z = find("ppca_posterior_mean").reference(x, W, mu, sigma).requires_grad_()
        log_joint = find("gaussian_log_likelihood").reference(x, z @ W.T + mu, sigma).sum() - z.square().sum() / 2
        (gradient,) = torch.autograd.grad(log_joint, z)
        assert gradient.abs().max() < 1e-2 * (x - mu).norm() / sigma**2


def test_elbo_gap_is_zero_for_the_posterior_alone():
    log_joint, _ = find("elbo_gap").draw_inputs()[2]
    posterior = log_joint.softmax(1)
    torch.testing.assert_close(find("elbo_gap").reference(log_joint, posterior), torch.zeros(3))
    assert (find("elbo_gap").reference(log_joint, posterior.roll(1, 1)) > 0.01).all()


def test_densities_and_probabilities_sum_to_one():
    grid = torch.linspace(-12, 12, 5001)[:, None]
    density = find("gaussian_log_likelihood").reference(grid, torch.full_like(grid, 0.4), 0.8).exp()
    assert density.sum() * 24 / 5000 == pytest.approx(1, abs=1e-4)
    for loc, scale in [(0.5, 0.1), (-0.3, 0.02), (1.2, 1.0)]:
        for levels in (2, 17, 256):
            every = torch.full((levels,), loc), torch.full((levels,), scale), torch.arange(levels), levels
            assert find("level_probability").reference(*every).sum() == pytest.approx(1, abs=1e-5)


def test_iw_bound_rises_with_k_and_stays_below_log_p():
    """Exactly: the mean over all k-tuples of a latent with three states, each as probable as q makes it."""
    log_joint, q = torch.tensor([-1.0, -3.0, -2.0]), torch.tensor([0.2, 0.5, 0.3])
    bounds = []
    for k in (1, 2, 4, 8):
        draws = torch.cartesian_prod(*[torch.arange(3)] * k).view(-1, k).T  # (k, 3^k)
        bounds.append(find("iw_bound").reference((log_joint - q.log())[draws]) @ q[draws].prod(0))
    assert bounds[0] == pytest.approx((q * (log_joint - q.log())).sum().item(), abs=1e-5)
    assert all(one < other for one, other in pairwise([*bounds, log_joint.logsumexp(0)]))


def test_arc_turns_evenly_and_keeps_its_length():
    a, b = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([0.0, 5.0, 0.0])
    points = torch.stack([find("spherical_interpolation").reference(a, b, t) for t in (0, 0.25, 0.5, 0.75, 1)])
    torch.testing.assert_close(points.norm(dim=1), torch.full((5,), 5.0))
    turned = F.cosine_similarity(points[1:], points[:-1], dim=1).acos()
    torch.testing.assert_close(turned, torch.full((4,), math.pi / 8))


def test_attribute_lands_on_the_other_group_and_shares_ignore_constants():
    for z, has in find("attribute_vector").draw_inputs():
        moved = z[~has] + find("attribute_vector").reference(z, has)
        torch.testing.assert_close(moved.mean(0), z[has].mean(0), atol=1e-5, rtol=1e-5)
    log_w, values = find("importance_mean").draw_inputs()[2]
    shifted = find("importance_mean").reference(log_w + torch.tensor([5.0, -90.0, 0.5]), values)
    torch.testing.assert_close(find("importance_mean").reference(log_w, values), shifted, atol=1e-5, rtol=1e-4)


def test_free_bits_gives_no_gradient_below_its_threshold():
    kl = torch.tensor([[0.1, 2.0], [0.1, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(find("free_bits").reference(kl, 0.5), kl)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))


def test_no_unit_is_active_by_the_way_its_variance_is_counted():
    for mu, threshold in find("active_units").draw_inputs():
        with_n, with_n_minus_1 = (mu.var(0, correction=correction) for correction in (0, 1))
        assert ((with_n > 1.05 * threshold) | (with_n_minus_1 < threshold / 1.05)).all()


def test_no_critic_beats_the_optimal_one_and_its_loss_is_log_4_less_twice_the_divergence():
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]).double(), torch.tensor([0.1, 0.3, 0.4, 0.2]).double()

    def loss(D):
        return -torch.xlogy(p, D).sum() - torch.xlogy(q, 1 - D).sum()

    best = find("optimal_critic").reference(p.log(), q.log())
    js = find("js_divergence").reference(p[None], q[None])
    torch.testing.assert_close(loss(best)[None], math.log(4) - 2 * js)
    for other in torch.rand(200, 4, generator=torch.Generator().manual_seed(0)).double():
        assert loss(other) > loss(best)
    zeros = torch.zeros(3)
    torch.testing.assert_close(find("critic_loss").reference(zeros, zeros), torch.tensor(math.log(4)))


def test_only_the_non_saturating_loss_has_a_slope_where_the_critic_is_sure():
    exercise, fake = find("generator_loss"), torch.tensor([-10.0], requires_grad=True)
    (saturating,) = [wrong for wrong, hint in exercise.wrong if "the saturating loss of the minimax game" in hint]
    slopes = [torch.autograd.grad(loss(fake), fake)[0].item() for loss in (exercise.reference, saturating)]
    assert slopes[0] == pytest.approx(-1, abs=1e-4)
    assert -1e-4 < slopes[1] < 0  # the same direction, ten thousand times flatter


def test_wasserstein_is_the_least_of_all_plans():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        x, y = (torch.randn(5, generator=generator) for _ in range(2))
        least = min((x - y[list(order)]).abs().mean() for order in permutations(range(5)))
        torch.testing.assert_close(find("wasserstein_1d").reference(x, y), least)


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


def test_a_sample_on_the_edge_of_a_ball_lies_there_whatever_the_rounding():
    """Elsewhere none lies so near that rounding decides."""
    balls = [
        (torch.cdist(x, centres), torch.tensor(radius), x, centres) for x, centres, radius in drawn("modes_covered")
    ]
    for real, made, k in drawn("precision"):
        balls.append((torch.cdist(made, real), torch.cdist(real, real).sort(1).values[:, k], made, real))
    for distance, radius, *points in balls:
        on_edge = (distance - radius).abs() <= 1e-4 * radius
        assert torch.equal(distance[on_edge], radius.expand_as(distance)[on_edge])
        assert not on_edge.any() or all(torch.equal(4 * x, (4 * x).round()) for x in points)  # halves and quarters
    assert sum(bool((distance == radius).any()) for distance, radius, *_ in balls) >= 2  # each exercise asks for it


def drawn(name):
    return find(name).draw_inputs()


# ---- known wrong answers --------------------------------------------------------------------------------------------


# As a learner would write them, none taken from the lists of the exercises: (name, answer, words of the hint)
SEEN = [
    ("optimal_critic", lambda p, q: torch.exp(q) / (torch.exp(p) + torch.exp(q)), "one minus the reference"),
    ("optimal_critic", lambda p, q: np.exp(p.numpy()) / (np.exp(p.numpy()) + np.exp(q.numpy())), "exp(−1000) is 0"),
    ("optimal_critic", lambda p, q: torch.exp(p) / (torch.exp(p) + torch.exp(q) + 1e-8), "small constant in the"),
    ("optimal_critic", lambda p, q: p - q, "best critic's logit"),
    ("optimal_critic", lambda p, q: torch.exp(p - q), "p/q, the odds"),
    ("optimal_critic", lambda p, q: (p > q).float(), "This is a decision"),
    (
        "critic_loss",
        lambda r, f: bce_of_logits(torch.sigmoid(r), 1.0) + bce_of_logits(torch.sigmoid(f), 0.0),
        "sigmoid is applied twice",
    ),
    ("critic_loss", lambda r, f: bce_of_logits(r, 1.0) + bce_of_logits(f, 1.0), "same label, 1"),
    ("critic_loss", lambda r, f: bce_of_logits(r, 0.0) + bce_of_logits(f, 0.0), "same label, 0"),
    ("critic_loss", lambda r, f: bce_of_logits(r, 0.0) + bce_of_logits(f, 1.0), "labels are exchanged"),
    (
        "critic_loss",
        lambda r, f: F.logsigmoid(r).mean() + F.logsigmoid(-f).mean(),
        "the wrong sign. Look for the minus",
    ),
    ("critic_loss", lambda r, f: (bce_of_logits(r, 1.0) + bce_of_logits(f, 0.0)) / 2, "mean of the two halves"),
    (
        "critic_loss",
        lambda r, f: bce_of_probabilities(r, 1.0) + bce_of_probabilities(f, 0.0),
        "puts such a ceiling there",
    ),
    (
        "critic_loss",
        lambda r, f: -torch.log(torch.sigmoid(r)).mean() - torch.log(1 - torch.sigmoid(f)).mean(),
        "rounds to 0 or 1",
    ),
    (
        "critic_loss",
        lambda r, f: -torch.log(torch.sigmoid(r) + 1e-8).mean() - torch.log(1 - torch.sigmoid(f) + 1e-8).mean(),
        "ceiling",
    ),
    ("critic_loss", lambda r, f: -(torch.mean(r) - torch.mean(f)), "Wasserstein critic"),
    ("generator_loss", lambda f: -bce_of_logits(f, 0.0), "the saturating loss"),
    ("generator_loss", lambda f: torch.log(1 - torch.sigmoid(f)).mean(), "the saturating loss"),
    ("generator_loss", lambda f: bce_of_logits(f, 0.0), "critic's loss on what was made"),
    ("generator_loss", lambda f: -bce_of_logits(f, 1.0), "the wrong sign. Look for the minus"),
    ("generator_loss", lambda f: bce_of_logits(torch.sigmoid(f), 1.0), "sigmoid is applied twice"),
    ("generator_loss", lambda f: -torch.log(torch.sigmoid(f)).mean(), "rounds to 0 or 1"),
    ("generator_loss", lambda f: bce_of_probabilities(f, 1.0), "puts such a ceiling there"),
    ("generator_loss", lambda f: -torch.mean(f), "Wasserstein or hinge game"),
    ("critic_turn", partial(turn, made=1.0), "same label, 1"),
    ("critic_turn", partial(turn, real=0.0), "same label, 0"),
    ("critic_turn", partial(turn, real=0.0, made=1.0), "labels are exchanged"),
    ("critic_turn", partial(turn, squash=torch.sigmoid), "sigmoid is applied twice"),
    ("critic_turn", lambda *a: -turn(*a), "the wrong sign. Look for the minus"),
    ("critic_turn", lambda d, g, x, z: bce_of_logits(d(g(z)), 1.0), "the generator's loss, and so its turn"),
    ("js_divergence", lambda p, q: kl_by_torch(p, q), "This is KL(p ‖ q), infinite where q is 0"),
    ("js_divergence", lambda p, q: kl_by_torch(p, (p + q) / 2) + kl_by_torch(q, (p + q) / 2), "The ½ is missing"),
    ("js_divergence", lambda p, q: js_by_scipy(p, q) ** 0.5, "Jensen–Shannon distance"),
    ("js_divergence", lambda p, q: js_by_scipy(p, q) / np.log(2), "log2 in place of the natural"),
    ("wasserstein_1d", lambda x, y: F.l1_loss(x, y), "same place of the list"),
    ("wasserstein_1d", lambda x, y: F.mse_loss(x.sort()[0], y.sort()[0]), "W₂²"),
    ("wasserstein_1d", lambda x, y: np.abs(x.numpy().mean() - y.numpy().mean()), "distance of the means"),
    ("wasserstein_1d", lambda x, y: torch.cdist(x[:, None], y[:, None]).min(1).values.mean(), "several may go"),
    ("modes_covered", lambda x, c, r: torch.cdist(x, c).argmin(1).unique().numel(), "however far away"),
    ("modes_covered", lambda x, c, r: (torch.cdist(x, c).min(1).values <= r).sum(), "count samples that are near"),
    ("modes_covered", lambda x, c, r: ((x[:, None] - c).square().sum(-1) <= r).any(0).sum(), "squared distances"),
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
    ("frechet_of_gaussians", lambda m, a, n, b: ((m - n) ** 2).sum() + ((a - b) ** 2).sum(), "compare the variances"),
    ("frechet_of_gaussians", lambda *a: np.sqrt(frechet_by_matrices(*a)), "This is the root of it"),
    ("frechet_of_gaussians", lambda m, a, n, b: (m - n).norm() + (a.sqrt() - b.sqrt()).square().sum(), "not squared"),
    ("precision", recall, "this is recall"),
    ("precision", precision_around_itself, "the nearest point of each is itself"),
    ("precision", lambda r, m, k: precision_in_loops(r, m, min(k + 1, len(r) - 1)), "one neighbour too large"),
    ("ppca_posterior_mean", lambda x, W, mu, sigma: torch.linalg.lstsq(W, (x - mu).T).solution.T, "least squares"),
    (
        "ppca_posterior_mean",
        lambda x, W, mu, sigma: ppca_mean_by_the_covariance_of_x(x, W, mu, sigma**0.5),
        "σ stands where σ² belongs",
    ),
    ("ppca_posterior_mean", lambda x, W, mu, sigma: ppca_mean_by_least_squares(x, W, 0 * mu, sigma), "not centre"),
    ("elbo_gap", lambda joint, q: (q * (torch.log(q) - joint)).sum(-1), "−ELBO, the KL from q to p(x, z)"),
    ("elbo_gap", lambda joint, q: F.kl_div(q.log(), joint.softmax(1), reduction="none").sum(1), "other direction"),
    ("elbo_gap", lambda joint, q: -elbo_gap_in_numpy(joint, q), "the wrong sign. Look for the minus"),
    ("elbo_gap", lambda joint, q: torch.log(joint.exp().sum(1)) - (q * (joint - q.log())).sum(1), "underflows to 0"),
    ("elbo_gap", log_sum_exp_by(torch.max), "not the largest number of each row"),
    ("elbo_gap", reversed_kl_with(0), "other direction"),
    ("elbo_gap", reversed_kl_with(1e-12), "other direction"),
    ("elbo_gap", lambda joint, q: (torch.xlogy(q, q) - q * joint.log_softmax(1)).mean(1), "average over the K"),
    ("elbo_gap", lambda joint, q: (q * (q.log() - joint.log_softmax(1))).mean(1), "average over the K"),
    ("gaussian_log_likelihood", lambda x, m, s: -((x - m) ** 2).sum(1), "squared error, not a log-likelihood"),
    (
        "gaussian_log_likelihood",
        lambda x, m, s: (-0.5 * ((x - m) / s) ** 2 + math.log(s) - 0.5 * math.log(2 * math.pi)).sum(1),
        "log σ has the wrong sign",
    ),
    ("gaussian_log_likelihood", lambda x, m, s: F.mse_loss(m, x, reduction="none").mean(1), "squared error, not"),
    ("gaussian_log_likelihood", lambda x, m, s: -0.5 * (((x - m) / s) ** 2).sum(1), "normalising constant is missing"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m, s).log_prob(x).mean(1), "average over the pixels"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m, s**2).log_prob(x).sum(1), "squared twice"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m, s**0.5).log_prob(x).sum(1), "take sigma for the variance"),
    ("gaussian_log_likelihood", lambda x, m, s: -Normal(m, s).log_prob(x).sum(1), "the wrong sign. Look for the minus"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m, s).log_prob(x).exp().prod(1).log(), "14 σ and more"),
    ("split_head", lambda out: (out[:, ::2], out[:, 1::2]), "interleaved"),
    ("split_head", lambda out: out.view(len(out), -1, 2).unbind(-1), "interleaved"),
    ("split_head", lambda out: [out[:, : out.shape[1] // 2]] * 2, "one head serves for both"),
    ("split_head", lambda out: torch.sigmoid(out).chunk(2, 1), "squash the numbers"),
    ("split_head", lambda out: (out.chunk(2, 1)[0], F.softplus(out.chunk(2, 1)[1])), "softplus makes your log_var"),
    ("split_head", lambda out: (out.chunk(2, 1)[0], out.chunk(2, 1)[1].exp()), "You give the variance"),
    ("split_head", lambda out: out.split(2, 1), "how long each piece is"),
    ("split_head", lambda out: torch.split(out, 2, dim=-1), "how long each piece is"),
    ("split_head", lambda out: out[:, : out.shape[1] // 2], "This is mu alone"),
    ("split_head", lambda out: out.chunk(2, 1)[1], "This is log_var alone"),
    ("split_head", lambda out: out, "still in one tensor"),
    ("split_head", lambda out: out.view(len(out), 2, -1), "still in one tensor"),
    ("reparameterise", lambda mu, v, eps: mu, "There is no noise"),
    ("reparameterise", lambda mu, v, eps: mu + torch.exp(v) * eps, "exp(log_var), the variance"),
    ("reparameterise", lambda mu, v, eps: mu + v * eps, "log_var itself"),
    ("reparameterise", lambda mu, v, eps: torch.sigmoid(mu + torch.exp(v / 2) * eps), "squash z"),
    ("reparameterise", lambda mu, v, eps: torch.sigmoid(mu) + torch.sigmoid(v).div(2).exp() * eps, "squash z"),
    (
        "kl_to_standard_normal",
        lambda mu, v: 0.5 * (1 + v - mu.pow(2) - v.exp()).sum(1),
        "the wrong sign. Look for the minus",
    ),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(1 + v - mu**2 - v**2, 1), "log_var² stands"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(1 + v - mu**2 - torch.exp(0.5 * v), 1), "standard dev"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.mean(1 + v - mu**2 - v.exp()), "batch and latents at once"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.mean(1 + v - mu**2 - v.exp(), 1), "average over the latents"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(1 + v - mu**2 - v.exp()), "one sum over the latents"),
    ("kl_to_standard_normal", lambda mu, v: -torch.sum(1 + v - mu**2 - v.exp(), 1), "The ½ is missing"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(v - mu**2 - v.exp(), 1), "The −1 is missing"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * torch.sum(1 - v - mu**2 - v.exp(), 1), "log_var has the wrong sign"),
    (
        "kl_to_standard_normal",
        lambda mu, v: 0.5 * (torch.sum(mu**2 + v.exp() - v, 1) - 1),
        "once for the whole example",
    ),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * (1 + torch.sum(v - mu**2 - v.exp(), 1)), "once for the whole"),
    ("kl_to_standard_normal", lambda mu, v: kl_by_distributions(mu, v) / math.log(2), "Bits are a fine unit"),
    ("kl_to_standard_normal", lambda mu, v: kl_by_distributions(mu, 2 * v), "log_var for log σ"),
    ("kl_to_standard_normal", lambda mu, v: -0.5 * (1 + v - mu**2 - v.exp()), "their sum over the last dimension"),
    ("negative_elbo", lambda log_p, kl: -log_p.mean() + kl.mean(), "average log p over the pixels"),
    ("negative_elbo", lambda log_p, kl: (log_p.flatten(1).sum(1) - kl).mean(), "the wrong sign. Look for the minus"),
    ("negative_elbo", lambda log_p, kl: -log_p.sum() + kl.sum(), "a sum where the mean is asked"),
    ("negative_elbo", lambda log_p, kl: -log_p.sum((1, 2, 3)).mean() - kl.mean(), "The KL has the wrong sign"),
    ("negative_elbo", lambda log_p, kl: -log_p.sum((1, 2, 3)).mean() + 0.5 * kl.mean(), "The KL is halved"),
    ("level_probability", density_times_width, "density at the level times the width"),
    ("level_probability", lambda loc, s, k, n: logistic_share(loc, s, k - 0.5, k + 0.5, n), "tails the probabilities"),
    ("level_probability", lambda loc, s, k, n: 2 * logistic_share(loc, s, k - 0.5, k + 0.5, n), "No input agrees"),
    ("level_probability", levels_counted, "You count in levels"),
    ("level_probability", half_a_level_counted, "half a level is half of their distance"),
    ("iw_bound", lambda log_w: log_w.mean(0), "the ELBO, estimated with k draws"),
    (
        "iw_bound",
        lambda log_w: torch.log(torch.mean(torch.exp(log_w - log_w.max()), 0)) + log_w.max(),
        "not the largest log-weight of each example",
    ),
    ("iw_bound", lambda log_w: torch.log(torch.exp(log_w).mean(0)), "underflows to 0"),
    ("iw_bound", lambda log_w: np.log(np.exp(log_w.double().numpy()).mean(0)), "underflows to 0"),
    ("iw_bound", lambda log_w: torch.log(torch.exp(log_w).mean(0) + 1e-8), "puts such a ceiling there"),
    ("iw_bound", lambda log_w: log_w.max(0).values, "best draw alone"),
    ("iw_bound", lambda log_w: torch.logsumexp(log_w, 0), "without dividing by k"),
    ("iw_bound", lambda log_w: torch.logsumexp(log_w, 1) - math.log(log_w.shape[1]), "average over the examples"),
    ("free_bits", lambda kl, thr: torch.clamp(kl, min=thr).sum(1).mean(), "threshold to each example, before"),
    ("free_bits", lambda kl, thr: max(kl.sum(1).mean(), torch.tensor(thr)), "whole KL with the threshold"),
    ("free_bits", lambda kl, thr: torch.minimum(kl.mean(0), torch.tensor(thr)).sum(), "take the smaller one"),
    ("free_bits", lambda kl, thr: F.relu(kl.mean(0) - thr).sum(), "You subtract the threshold"),
    ("active_units", lambda mu, thr: mu.var(1) > thr, "latents of one example"),
    ("active_units", lambda mu, thr: mu.std(0) > thr, "compare the standard deviation"),
    ("active_units", lambda mu, thr: mu.mean(0).abs() > thr, "size of the latent's mean"),
    ("active_units", lambda mu, thr: (mu.var(0) > thr).sum(), "how many are in use"),
    ("spherical_interpolation", lambda a, b, t: torch.lerp(a, b, t), "This is the straight line"),
    ("spherical_interpolation", lambda a, b, t: slerp_by_threshold(b, a, t), "t and 1 − t are exchanged"),
    ("spherical_interpolation", slerp_in_degrees, "in degrees"),
    ("spherical_interpolation", slerp_of_the_product, "without dividing by the lengths"),
    ("spherical_interpolation", slerp_of_the_clipped_product, "without dividing by the lengths"),
    ("spherical_interpolation", partial(slerp_of_the_clipped_product, least=1e-4), "without dividing by the lengths"),
    ("spherical_interpolation", slerp_undefended, "Right until a and b are parallel"),
    ("spherical_interpolation", lambda a, b, t: F.normalize(slerp_by_threshold(a, b, t), dim=0), "length 1"),
    ("attribute_vector", lambda z, has: z[~has].mean(0) - z[has].mean(0), "the wrong sign. Look for the minus"),
    ("attribute_vector", lambda z, has: z[has].mean(0) - z.mean(0), "subtract the mean of all images"),
    ("attribute_vector", lambda z, has: F.normalize(z[has].mean(0) - z[~has].mean(0), dim=-1), "length 1"),
    ("importance_mean", lambda log_w, x: x.mean(0), "The weights do not appear"),
    ("importance_mean", shares_with_one_maximum, "not the largest log-weight of each example"),
    ("importance_mean", lambda log_w, x: x[log_w.argmax(0), range(log_w.shape[1])], "best draw alone"),
    ("importance_mean", lambda log_w, x: (log_w.exp()[..., None] * x).mean(0), "You average w · value"),
    ("importance_mean", lambda log_w, x: torch.einsum("kb,kbd->bd", log_w.softmax(-1), x), "over the examples"),
    (
        "importance_mean",
        lambda log_w, x: (normalised_naively(log_w.double().exp().T).T[..., None] * x).sum(0),
        "exp underflows to 0",
    ),
    ("straight_through", lambda z, code: z.detach() + (code - z), "the wrong z is held fast"),
]


@pytest.mark.parametrize(("name", "answer", "words"), SEEN)
def test_mistake_is_recognised_as_a_learner_writes_it(name, answer, words):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert words in plain(verdict.message)


# ---- gradients -----------------------------------------------------------------------------------------------------


CUT_OFF = [
    ("gaussian_log_likelihood", gaussian_log_likelihood_in_numpy, "No gradient comes back to mean,"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m.detach(), s).log_prob(x).sum(1), "comes back to mean,"),
    ("gaussian_log_likelihood", lambda x, m, s: Normal(m.data, s).log_prob(x).sum(1).tolist(), "comes back to mean,"),
    ("iw_bound", lambda log_w: np.logaddexp.reduce(log_w.numpy(), axis=0) - np.log(len(log_w)), "back to log_w,"),
    ("iw_bound", lambda log_w: torch.logsumexp(log_w.data, 0) - math.log(len(log_w)), "back to log_w,"),
    ("iw_bound", lambda w: (w - w.amax(0)).exp().mean(0).log() + w.amax(0).detach(), "cuts it off, or changes it?"),
    ("iw_bound", lambda w: (w - w.amax(0).detach()).exp().mean(0).log() + w.amax(0), "cuts it off, or changes it?"),
    ("projection_score", lambda f, y, w, e: f @ w + (f * e[y].detach()).sum(1), "comes back to embedding,"),
    ("projection_score", lambda f, y, w, e: f @ w.data + (f * e.data[y]).sum(1), "to weight or embedding,"),
    ("projection_score", lambda f, y, w, e: f.detach() @ w + (f * e[y]).sum(1), "which one cuts it off, or changes"),
    ("reparameterise", lambda mu, v, eps: mu.numpy() + np.exp(v.numpy() / 2) * eps.numpy(), "to mu or log_var"),
    ("reparameterise", lambda mu, v, eps: (mu + (v / 2).exp() * eps).tolist(), "to mu or log_var"),
    ("reparameterise", lambda mu, v, eps: Normal(mu + (v / 2).exp() * eps, 1e-9).sample(), "to mu or log_var"),
    ("reparameterise", draw_under_no_grad, "to mu or log_var"),
    ("reparameterise", draw_with_new_tensors, "comes back to log_var"),
    ("reparameterise", lambda mu, v, eps: mu + torch.exp(v.data / 2) * eps, "comes back to log_var"),
    ("reparameterise", lambda mu, v, eps: mu.data + torch.exp(v / 2) * eps, "comes back to mu:"),
    ("split_head", lambda out: out.detach().chunk(2, 1), "back to the encoder"),
    ("split_head", lambda out: np.split(out.numpy(), 2, axis=1), "back to the encoder"),
    ("split_head", lambda out: (out.chunk(2, 1)[0].detach(), out.chunk(2, 1)[1]), "comes back through mu"),
    ("split_head", lambda out: (out.chunk(2, 1)[0], out.chunk(2, 1)[1].data), "comes back through log_var"),
    (
        "negative_elbo",
        lambda log_p, kl: (kl - log_p.sum((1, 2, 3))).mean().item(),
        "No gradient comes back to log_p_pixels or kl,",
    ),
    (
        "negative_elbo",
        lambda log_p, kl: np.mean(kl.numpy() - log_p.flatten(1).sum(1).numpy()),
        "No gradient comes back to log_p_pixels or kl,",
    ),
    ("negative_elbo", lambda log_p, kl: kl.mean().item() - log_p.sum() / len(kl), "comes back to the KL"),
    ("negative_elbo", lambda log_p, kl: (kl - log_p.data.sum((1, 2, 3))).mean(), "comes back to log p"),
    ("free_bits", lambda kl, thr: kl.detach().mean(0).clamp(min=thr).sum(), "no latent is pushed"),
    ("free_bits", lambda kl, thr: kl.mean(0).clamp(min=thr).sum().item(), "no latent is pushed"),
    ("free_bits", lambda kl, thr: sum(max(float(row.mean()), thr) for row in kl.T), "no latent is pushed"),
    ("free_bits", lambda kl, thr: np.maximum(kl.numpy().mean(axis=0), thr).sum(), "no latent is pushed"),
    ("straight_through", lambda z, code: code, "comes back to z"),
    ("straight_through", lambda z, code: z + code.detach() - z, "so that it cancels"),
    ("straight_through", lambda z, code: (z + (code - z)).detach(), "at all"),
    ("straight_through", lambda z, code: code.numpy(), "at all"),
    ("straight_through", lambda z, code: code + (z - z.detach()), "to the code as well"),
    ("straight_through", lambda z, code: 0.9 * z + (code - 0.9 * z).detach(), "which one cuts it off, or changes it?"),
    ("critic_loss", lambda r, f: critic_loss_by_labels(r, f.detach()), "what the critic says of them"),
    ("critic_loss", lambda r, f: critic_loss_by_labels(r.data, f), "the logits of the real ones"),
    ("critic_loss", lambda r, f: critic_loss_by_labels(r, f).item(), "No gradient comes back to real or fake,"),
    ("generator_loss", lambda f: bce_of_logits(f.detach(), 1.0), "the generator learns nothing"),
    ("generator_loss", lambda f: np.logaddexp(0, -f.numpy()).mean(), "the generator learns nothing"),
    ("critic_turn", partial(turn, fake=lambda fake: fake), "reaches the generator, and would"),
    ("critic_turn", partial(turn, fake=lambda fake: fake.clone()), "reaches the generator, and would"),
    ("critic_turn", lambda d, g, x, z: turn(d, g, x, z.detach(), fake=lambda fake: fake), "detaching z is too early"),
    (
        "critic_turn",
        lambda d, g, x, z: critic_loss_by_labels(d(x), d(g(z)).detach()),
        "You detach what the critic says of the made ones",
    ),
    ("critic_turn", lambda *a: turn(*a).item(), "to the critic at all"),
    ("gradient_penalty", partial(penalty_by_backward, create_graph=False), "`create_graph=True` keeps"),
    ("gradient_penalty", lambda *a: penalty_by_backward(*a).detach(), "`create_graph=True` keeps"),
    (
        "generator_output",
        lambda raw: torch.from_numpy(1 / (1 + np.exp(-raw.numpy()))),
        "No gradient comes back to raw,",
    ),
]


@pytest.mark.parametrize(("name", "answer", "words"), CUT_OFF)
def test_right_values_without_the_right_gradients_are_wrong(name, answer, words):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert re.search("the (values are|value is) right, but on input 1 of", plain(verdict.message))
    assert words in plain(verdict.message)
