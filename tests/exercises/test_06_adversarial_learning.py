"""Answers to the exercises of notebook 06, right ones in other forms and wrong ones as learners write them."""

import math
from functools import partial
from itertools import permutations

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import detached, kl_by_torch, softplus_by_cases

from dgm_exercises import find

# ---- ways to write them ---------------------------------------------------------------------------------------------


def critic_loss_by_labels(real, fake):
    bce = F.binary_cross_entropy_with_logits
    return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))


def bce_of_logits(a, label):
    return F.binary_cross_entropy_with_logits(a, torch.full_like(a, label))


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


def bce_of_probabilities(a, label):
    return F.binary_cross_entropy(torch.sigmoid(a), torch.full_like(a, label))


def turn(critic, generator, x, z, *, fake=torch.Tensor.detach, real=1.0, made=0.0, squash=lambda a: a):
    logits = squash(critic(x)), squash(critic(fake(generator(z))))
    return bce_of_logits(logits[0], real) + bce_of_logits(logits[1], made)


def wasserstein_by_areas(x, y):
    """The area between the two distribution functions."""
    edges = torch.cat([x, y]).sort().values
    share = [(sample[:, None] <= edges[:-1]).double().mean(0) for sample in (x, y)]
    return ((share[0] - share[1]).abs() * edges.diff()).sum()


def critic_of_shifted(by):
    def critic(log_p, log_q):
        p, q = (torch.exp(log - by(log_p, log_q)) for log in (log_p, log_q))
        return p / (p + q)

    return critic


def modes_of_a_share(x, centres, radius):
    return ((torch.cdist(x, centres) <= radius).double().mean(0) >= 0.01).sum()


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "optimal_critic": [
        lambda log_p, log_q: torch.stack([log_p, log_q]).softmax(0)[0],
        lambda log_p, log_q: (log_p - torch.logaddexp(log_p, log_q)).exp(),
        lambda log_p, log_q: 1 / (1 + np.exp(log_q.double().numpy() - log_p.double().numpy())),
        lambda log_p, log_q: [0.5 + 0.5 * math.tanh(a / 2) for a in (log_p - log_q).tolist()],
        lambda p, q: F.logsigmoid(p - q).exp(),
        lambda p, q: 1 / (1 + (q - p).exp()),
        lambda a, b: torch.softmax(torch.stack([a, b]), 0)[0],
        lambda a, b: (a - torch.logaddexp(a, b)).exp(),
    ],
    "critic_loss": [
        critic_loss_by_labels,
        lambda real, fake: -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean(),
        lambda real, fake: F.softplus(torch.neg(real)).sum() / len(real) + (fake - F.logsigmoid(fake)).mean(),
        lambda real, fake: torch.logaddexp(-real, torch.zeros(())).mean() + torch.logaddexp(fake, 0 * fake).mean(),
        lambda r, f: -(F.logsigmoid(r).mean() + F.logsigmoid(-f).mean()),
        lambda r, f: bce_of_logits(r, 1.0) + F.softplus(f).sum() / f.numel(),
        lambda r, f: softplus_by_cases(-r).mean() + softplus_by_cases(f).mean(),
        lambda r, f: sum(F.softplus(-a) for a in r) / len(r) + sum(F.softplus(a) for a in f) / len(f),
    ],
    "generator_loss": [
        lambda fake: F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake)),
        lambda fake: -F.logsigmoid(fake).sum() / fake.numel(),
        lambda fake: torch.logaddexp(-fake.double(), torch.zeros(())).mean(),
        lambda fake: (F.softplus(fake) - fake).mean(),
        lambda f: bce_of_logits(f, 1.0),
        lambda f: F.cross_entropy(torch.stack([0 * f, f], 1), torch.ones(len(f)).long()),
        lambda f: softplus_by_cases(-f).mean(),
    ],
    "critic_turn": [
        critic_turn_without_a_graph,
        lambda critic, generator, x, z: critic_loss_by_labels(critic(x.detach()), critic(generator(z).data)),
        lambda critic, generator, x, z: (
            F.softplus(critic(generator(z).detach())).mean() - F.logsigmoid(critic(x)).mean()
        ),
        lambda D, G, x, z: F.softplus(-D(x)).mean() + F.softplus(D(torch.Tensor.detach(G(z)))).mean(),
        lambda D, G, x, z: bce_of_logits(D(x), 1.0) + bce_of_logits(D(G(z.detach()).detach()), 0.0),
    ],
    "js_divergence": [
        js_in_loops,
        js_by_scipy,
        lambda p, q: (
            torch.special.entr((p + q) / 2).sum(1) - (torch.special.entr(p) + torch.special.entr(q)).sum(1) / 2
        ),
        lambda p, q: (kl_by_torch(p, (p + q) / 2) + kl_by_torch(q, (p + q) / 2)) / 2,
        lambda p, q: sum(F.kl_div(((p + q) / 2).log(), side, reduction="none").nansum(1) for side in (p, q)) / 2,
        lambda p, q: (
            torch.where(p > 0, p * (2 * p / (p + q)).log(), 0)
            .add(torch.where(q > 0, q * (2 * q / (p + q)).log(), 0))
            .sum(1)
            / 2
        ),
        lambda p, q: (torch.special.entr((p + q) / 2) - torch.special.entr(torch.stack([p, q])).mean(0)).sum(1),
    ],
    "wasserstein_1d": [
        wasserstein_by_scipy,
        wasserstein_by_assignment,
        lambda x, y: F.l1_loss(torch.sort(x, descending=True).values, torch.sort(y, descending=True).values),
        lambda x, y: np.mean(np.abs(np.sort(x.numpy()) - np.sort(y.numpy()))),
        wasserstein_by_areas,
        lambda x, y: torch.linalg.vector_norm(x.sort()[0] - y.sort()[0], 1) / x.numel(),
        lambda x, y: sum(abs(a - b) for a, b in zip(sorted(x.tolist()), sorted(y.tolist()))) / len(x),
    ],
    "modes_covered": [
        modes_in_loops,
        lambda x, centres, radius: (torch.cdist(centres, x).min(1).values <= radius).sum(),
        lambda x, centres, radius: ((x[:, None] - centres).square().sum(-1) <= radius**2).any(0).double().sum(),
        lambda x, centres, radius: int(((x[None] - centres[:, None]).norm(dim=2).amin(1) <= radius).sum()),
        lambda x, centres, radius: sum(bool(((x - c).norm(dim=1) <= radius).any()) for c in centres),
        lambda x, c, r: sum(any(np.linalg.norm(a - b) <= r for a in x.numpy()) for b in c.numpy()),
    ],
}

SEEN = [
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
    ("generator_loss", lambda f: bce_of_probabilities(f, 1.0), "puts such a ceiling there"),
    ("generator_loss", lambda f: -torch.mean(f), "Wasserstein or hinge game"),
    ("critic_turn", partial(turn, made=1.0), "same label, 1"),
    ("critic_turn", partial(turn, real=0.0), "same label, 0"),
    ("critic_turn", partial(turn, real=0.0, made=1.0), "labels are exchanged"),
    ("critic_turn", partial(turn, squash=torch.sigmoid), "sigmoid is applied twice"),
    ("critic_turn", lambda *a: -turn(*a), "the wrong sign. Look for the minus"),
    ("critic_turn", lambda d, g, x, z: bce_of_logits(d(g(z)), 1.0), "the generator's loss, and so its turn"),
    ("js_divergence", lambda p, q: kl_by_torch(p, q), "This is KL(p ‖ q), infinite where q is 0"),
    ("js_divergence", lambda p, q: js_by_scipy(p, q) ** 0.5, "Jensen–Shannon distance"),
    ("js_divergence", lambda p, q: js_by_scipy(p, q) / np.log(2), "log2 in place of the natural"),
    ("wasserstein_1d", lambda x, y: F.l1_loss(x, y), "same place of the list"),
    ("wasserstein_1d", lambda x, y: F.mse_loss(x.sort()[0], y.sort()[0]), "W₂²"),
    ("wasserstein_1d", lambda x, y: np.abs(x.numpy().mean() - y.numpy().mean()), "distance of the means"),
    ("wasserstein_1d", lambda x, y: torch.cdist(x[:, None], y[:, None]).min(1).values.mean(), "several may go"),
    ("modes_covered", lambda x, c, r: torch.cdist(x, c).argmin(1).unique().numel(), "however far away"),
    ("modes_covered", lambda x, c, r: (torch.cdist(x, c).min(1).values <= r).sum(), "count samples that are near"),
]

CUT_OFF = [
    ("critic_loss", detached("critic_loss", *(0,)), "the logits of the real ones"),
    ("generator_loss", detached("generator_loss", *(0,)), "the generator learns nothing"),
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
]

REFUSED = [
    ("optimal_critic", lambda a, b: (a - b).clamp(-5, 5).sigmoid()),
    ("optimal_critic", lambda a, b: (a.exp() + 1e-8) / (a.exp() + b.exp() + 2e-8)),
    ("critic_loss", lambda r, f: -r.sigmoid().clamp(1e-7, 1).log().mean() + F.softplus(f).mean()),
    ("critic_loss", lambda r, f: F.softplus(-r).mean() + F.softplus(f.detach()).mean()),
    ("generator_loss", lambda f: F.softplus(-f).clamp(max=20).mean()),
    ("critic_turn", lambda D, G, x, z: F.softplus(-D(x)).mean() + F.softplus(D(G(z.detach()))).mean()),
    ("critic_turn", lambda D, G, x, z: (F.softplus(-D(x)).sum() + F.softplus(D(G(z).detach())).sum()) / len(x)),
    ("wasserstein_1d", lambda x, y: (x.sort().values - y.sort().values).abs().sum() / max(1, len(x) - 1)),
    ("modes_covered", lambda x, c, r: ((x[:, None] - c).abs().amax(-1) <= r).any(0).sum()),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_right_values_without_their_gradients_are_wrong = answers.cut_off(CUT_OFF)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


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


def test_no_sample_of_the_inputs_is_in_or_out_by_rounding():
    """Each lies off the border of a ball, or on it by numbers that are exact."""
    for x, centres, radius in find("modes_covered").draw_inputs():
        beyond = (torch.cdist(x, centres) - radius).abs()
        assert ((beyond > 1e-3 * radius) | (beyond == 0)).all()
    for real, made, k in find("precision").draw_inputs():
        radii = torch.cdist(real, real).sort(1).values[:, k]
        beyond = (torch.cdist(made, real) - radii).abs()
        assert ((beyond > 1e-4 * radii) | (beyond == 0)).all()
