"""Answers to the exercises of notebook 05, right ones in other forms and wrong ones as learners write them."""

import math
from functools import partial
from itertools import pairwise

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import detached, normalised_naively, reference

from dgm_exercises import find
from dgm_lib import distributions

# ---- ways to write them ---------------------------------------------------------------------------------------------


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


def slerp_by_rotation(a, b, t):
    """Turns the direction of a towards b in their plane, and shares out the rest that unequal lengths leave."""
    u, v = F.normalize(a.double(), dim=0), F.normalize(b.double(), dim=0)
    omega = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if omega < 1e-6:
        return a + t * (b - a)
    side = F.normalize(v - (u @ v) * u, dim=0)
    turned = (t * omega).cos() * u + (t * omega).sin() * side
    return a.norm() * turned + (b.norm() - a.norm()) * (t * omega).sin() / omega.sin() * v


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


def slerp_without_clamp(a, b, t):
    omega = torch.acos(torch.dot(a, b) / (torch.linalg.norm(a) * torch.linalg.norm(b)))
    if omega < 1e-3:
        return (1 - t) * a + t * b
    return (torch.sin((1 - t) * omega) * a + torch.sin(t * omega) * b) / torch.sin(omega)


def slerp_of_units(a, b, t):
    return slerp_by_rotation(a / a.norm(), b / b.norm(), t)


def adding_after(shift):
    return lambda w: (w - shift(w)).exp().mean(0).log() + shift(w)


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "level_probability": [
        level_probability_without_rounding,
        level_probability_of_the_library,
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
        lambda log_w: torch.logsumexp(log_w - math.log(len(log_w)), 0),
        lambda log_w: (log_w - log_w.max(0).values).exp().mean(0).log() + log_w.max(0).values,
        lambda log_w: [(c.double() - max(c)).exp().mean().log() + max(c) for c in log_w.T],
        lambda w: (w - w.amax(0)).exp().sum(0).log() + w.amax(0) - math.log(w.size(0)),
        lambda w: w[:1].squeeze(0) if len(w) == 1 else torch.logcumsumexp(w, 0)[-1] - np.log(len(w)),
        lambda w: torch.stack([column.logsumexp(0) for column in w.T]) - np.log(len(w)),
    ],
    "free_bits": [
        lambda kl, threshold: torch.maximum(kl.mean(0), torch.tensor(threshold)).sum(),
        lambda kl, threshold: F.relu(kl.double().mean(0) - threshold).sum() + threshold * kl.shape[1],
        lambda kl, threshold: sum(max(column.mean(), torch.tensor(threshold)) for column in kl.T),
        lambda kl, threshold: torch.where(kl.mean(0) > threshold, kl.mean(0), threshold).sum(),
        lambda kl, thr: (kl.mean(0) - thr).clamp(min=0).add(thr).sum(),
        lambda kl, thr: F.threshold(kl.mean(0), thr, thr).sum(),
    ],
    "active_units": [
        lambda mu, threshold: mu.var(0, correction=0) > threshold,
        lambda mu, threshold: (mu.numpy().var(axis=0) > threshold).tolist(),
        lambda mu, threshold: torch.cov(mu.T).diagonal() > threshold,
        lambda mu, threshold: (mu - mu.mean(0)).square().mean(0).sqrt() > threshold**0.5,
        lambda mu, thr: (mu - mu.mean(0)).pow(2).mean(0) > thr,
        lambda mu, thr: np.std(mu.double().numpy(), axis=0, ddof=1) ** 2 > thr,
    ],
    "spherical_interpolation": [
        slerp_in_numpy,
        slerp_by_threshold,
        slerp_by_rotation,
        lambda a, b, t: slerp_in_numpy(a.double(), b.double(), t),
    ],
    "attribute_vector": [
        attribute_vector_by_regression,
        lambda z, has: z[has.numpy()].numpy().mean(0) - z[~has].numpy().mean(0),
        lambda z, has: (
            (z * has[:, None]).sum(0) / has.sum() - (z * has.logical_not()[:, None]).sum(0) / (len(z) - has.sum())
        ),
        lambda z, has: torch.stack([z[has == side].mean(0) for side in (False, True)]).diff(dim=0)[0],
        lambda z, has: (has / has.sum() - (~has) / (~has).sum()) @ z,
    ],
    "importance_mean": [
        importance_mean_in_loops,
        lambda log_w, values: torch.einsum("kb,kbd->bd", F.softmax(log_w, 0), values),
        lambda log_w, values: (values.double() * (log_w - log_w.logsumexp(0)).exp()[..., None]).sum(0),
        lambda w, x: ((w - w.max(0).values).exp()[..., None] * x).sum(0) / (w - w.max(0).values).exp().sum(0)[:, None],
        lambda w, x: torch.bmm(w.T.softmax(1)[:, None], x.transpose(0, 1)).squeeze(1),
        lambda w, x: torch.einsum("kb,kbd->bd", w.double().softmax(0), x.double()),
    ],
    "straight_through": [
        StraightThrough.apply,
        lambda z, code: code.detach() + z - z.detach(),
        lambda z, code: z - (z - code).detach(),
        lambda z, code: [row + (c - row).detach() for row, c in zip(z.double(), code)],
        lambda z, code: code.detach() + (z - z.detach()),
        lambda z, code: torch.where(torch.ones_like(z) > 0, (code - z).detach(), 0) + z,
    ],
}

SEEN = [
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

CUT_OFF = [
    ("free_bits", detached("free_bits", *(0,)), "no latent is pushed"),
    ("iw_bound", lambda log_w: np.logaddexp.reduce(log_w.numpy(), axis=0) - np.log(len(log_w)), "back to log_w,"),
    ("iw_bound", lambda log_w: torch.logsumexp(log_w.data, 0) - math.log(len(log_w)), "back to log_w,"),
    ("iw_bound", lambda w: (w - w.amax(0)).exp().mean(0).log() + w.amax(0).detach(), "cuts it off, or changes it?"),
    ("iw_bound", lambda w: (w - w.amax(0).detach()).exp().mean(0).log() + w.amax(0), "cuts it off, or changes it?"),
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
]

REFUSED = [
    ("iw_bound", adding_after(torch.max)),
    ("iw_bound", lambda w: torch.logsumexp(w.clamp(min=-1e3), 0) - math.log(len(w))),
    ("iw_bound", lambda w: (w.softmax(0).detach() * w).sum(0)),
    ("importance_mean", lambda w, x: (w - w.max()).exp().div((w - w.max()).exp().sum(0))[..., None].mul(x).sum(0)),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_right_values_without_their_gradients_are_wrong = answers.cut_off(CUT_OFF)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


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
