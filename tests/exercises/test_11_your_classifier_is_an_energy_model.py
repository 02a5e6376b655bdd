"""Answers to the exercises of notebook 11, right ones in other forms and wrong ones as learners write them."""

import math
from functools import reduce
from itertools import product

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import reference
from torch.distributions import Categorical

from dgm_exercises import find, judge
from dgm_exercises import your_classifier_is_an_energy_model as joint_energy
from dgm_lib.measures import novelty

# ---- ways to write them ---------------------------------------------------------------------------------------------


def joint_loss_by_log_p(net, x, y, x_model):
    """−log p(x, y) at once: −f(x)[y], and log Z by the chains."""
    return net(x_model.detach()).logsumexp(1).mean() - net(x)[range(len(y)), y].mean()


def joint_loss_in_two_passes(net, x, y, x_model):
    def energy(x):
        return -torch.logsumexp(net(x), dim=1)

    return F.nll_loss(net(x).log_softmax(1), y) + (energy(x).mean() - energy(x_model.data).mean())


def class_score_by_backward(net, x, y):
    x = x.clone().requires_grad_()
    net(x)[torch.arange(len(y)), y].sum().backward()
    return x.grad


def class_score_by_bayes(net, x, y):
    """∇ log p(x|y) = ∇ log p(y|x) + ∇ log p(x)."""
    x = x.detach().clone().requires_grad_()
    logits = net(x)
    total = logits.log_softmax(1)[range(len(y)), y].sum() + logits.logsumexp(1).sum()
    return torch.autograd.grad(total, x)[0]


def class_score_in_a_loop(net, x, y):
    scores = []
    for image, label in zip(x, y):
        image = image[None].clone().requires_grad_()
        scores.append(torch.autograd.grad(net(image)[0, label], image)[0][0])
    return scores


def pgd_by_difference(net, x_adv, x, y, radius, step_size):
    x_adv = x_adv.clone().requires_grad_()
    F.cross_entropy(net(x_adv), y, reduction="sum").backward()
    way = (x_adv.detach() + step_size * x_adv.grad.sign() - x).clamp(-radius, radius)
    return (x + way).clamp(0, 1)


def pgd_by_walls(net, x_adv, x, y, radius, step_size):
    x_adv = x_adv.detach().requires_grad_()
    loss = -net(x_adv).log_softmax(1)[range(len(y)), y].mean()
    moved = x_adv + step_size * torch.sign(torch.autograd.grad(loss, x_adv)[0])
    return torch.maximum(torch.minimum(moved, (x + radius).clamp(max=1)), (x - radius).clamp(min=0)).detach()


def auroc_by_ranks(usual, unusual):
    from scipy.stats import mannwhitneyu

    return mannwhitneyu(unusual.numpy(), usual.numpy()).statistic / (len(usual) * len(unusual))


def auroc_by_sklearn(usual, unusual):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(np.r_[np.zeros(len(usual)), np.ones(len(unusual))], torch.cat([usual, unusual]).numpy())


def auroc_in_loops(usual, unusual):
    count = sum((b > a) + (a == b) / 2 for a in usual.tolist() for b in unusual.tolist())
    return count / len(usual) / len(unusual)


def rollback_in_a_loop(energy_data, energy_model, limit):
    for epoch, (a, b) in enumerate(zip(energy_data.tolist(), energy_model.tolist())):
        if not (math.isfinite(a) and math.isfinite(b)) or abs(a - b) > limit:
            return epoch - 1
    return len(energy_data) - 1


def not_sound(gap, limit):
    return bool(gap.isnan() | gap.isinf() | (gap > limit) | (gap < -limit))


def rollback_in_numpy(energy_data, energy_model, limit):
    gap = energy_data.numpy() - energy_model.numpy()
    broken = ~np.isfinite(gap) | (np.abs(gap) > limit)
    return np.append(broken, True).argmax() - 1


def margin_of(logits, y):
    others = logits.scatter(1, y[:, None], -math.inf)
    return logits.gather(1, y[:, None]).squeeze(1) - others.max(1).values


def gradient_at(net, x, y, loss):
    x = x.detach().clone().requires_grad_()
    loss(net(x), y).backward()
    return x.grad


def pgd(net, x_adv, x, y, radius, step_size, *, centre=None, sign=1.0, unit=torch.sign, loss=F.cross_entropy):
    gradient = gradient_at(net, x_adv, y, loss)
    centre = x if centre is None else centre(x_adv)
    moved = x_adv + sign * step_size * unit(gradient)
    return torch.max(torch.min(moved, centre + radius), centre - radius).clamp(0, 1)


def free(logits):
    return -logits.logsumexp(1)


def jem(net, x, y, x_model, *, held=torch.detach, sign=1.0, energy=free, label=F.cross_entropy):
    contrast = energy(net(x)).mean() - energy(net(held(x_model))).mean()
    return label(net(x), y) + sign * contrast


def rolled_back(energy_data, energy_model, limit, *, broken):
    gaps = [(a - b) for a, b in zip(energy_data.tolist(), energy_model.tolist())]
    return next((i - 1 for i, gap in enumerate(gaps) if broken(gap, limit)), len(gaps) - 1)


def rolled_back_where(energy_data, energy_model, limit, *, asked):
    broken = asked(energy_data, energy_model) | ((energy_data - energy_model).abs() > limit)
    return broken.tolist().index(True) - 1 if broken.any() else len(broken) - 1


def area_by_ranks(usual, unusual):
    both = torch.cat([usual, unusual])
    ranks = torch.empty_like(both)
    ranks[both.argsort()] = torch.arange(1, len(both) + 1.0)
    n, m = len(usual), len(unusual)
    return (ranks[n:].sum() - m * (m + 1) / 2) / (n * m)


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "energy_of_logits": [
        lambda logits: -torch.logsumexp(logits.double(), -1),
        lambda logits: -(logits - logits.amax(1, keepdim=True)).exp().sum(1).log() - logits.amax(1),
        lambda logits: logits.log_softmax(1)[:, 0] - logits[:, 0],
        lambda logits: [-torch.logsumexp(row, 0) for row in logits],
        lambda logits: -reduce(torch.logaddexp, logits.unbind(1)),
        lambda logits: F.cross_entropy(logits, logits.argmax(1), reduction="none").neg() - logits.amax(1),
        lambda a: -(a.softmax(1) * a).sum(1) - Categorical(logits=a).entropy(),
        lambda a: -F.cross_entropy(a, a.argmax(1), reduction="none") - a.amax(1),
    ],
    "joint_loss": [
        joint_loss_by_log_p,
        joint_loss_in_two_passes,
        lambda net, x, y, m: jem(net, x, y, m, held=lambda m: m.data.clone()),
        lambda net, x, y, m: (
            -Categorical(logits=net(x)).log_prob(y).mean()
            - torch.logsumexp(net(x), -1).sum() / len(x)
            + torch.logsumexp(net(m.detach()), -1).sum() / len(m)
        ),
    ],
    "class_score": [
        class_score_by_backward,
        class_score_by_bayes,
        class_score_in_a_loop,
        lambda net, x, y: gradient_at(net, x, y, lambda a, y: (a * F.one_hot(y, a.shape[1])).sum()),
        lambda net, x, y: gradient_at(net, x, y, lambda a, y: len(y) * a[torch.arange(len(y)), y].mean()),
    ],
    "pgd_step": [
        pgd_by_difference,
        pgd_by_walls,
        lambda *a: pgd(*a),
        lambda *a: pgd(*a, loss=lambda a, y: (a.logsumexp(1) - a[range(len(y)), y]).sum()),
    ],
    "novelty_auroc": [
        auroc_by_ranks,
        auroc_by_sklearn,
        auroc_in_loops,
        novelty.auroc,
        lambda usual, unusual: ((unusual[:, None] - usual).sign().mean() + 1) / 2,
        lambda usual, unusual: torch.stack([((e > usual).double() + (e >= usual)).mean() / 2 for e in unusual]).mean(),
        lambda u, v: (torch.sign(v.double()[:, None] - u).mean() + 1) / 2,
    ],
    "rollback_epoch": [
        rollback_in_a_loop,
        rollback_in_numpy,
        lambda a, b, limit: int(((a - b).abs().le(limit) & a.isfinite() & b.isfinite()).long().cumprod(0).sum()) - 1,
        lambda a, b, limit: min([t for t in range(len(a)) if not_sound(a[t] - b[t], limit)], default=len(a)) - 1,
    ],
}

SEEN = [
    ("energy_of_logits", lambda a: -(a - a.max()).exp().sum(1).log() - a.max(), "of the whole batch"),
    ("energy_of_logits", lambda a: -(a.exp().sum(1) + 1e-8).log(), "puts such a ceiling there"),
    ("energy_of_logits", lambda a: torch.logsumexp(a, -1), "the wrong sign. Look for the minus"),
    ("energy_of_logits", lambda a: -a.max(-1).values, "best class alone"),
    ("energy_of_logits", lambda a: -F.log_softmax(a, -1).logsumexp(-1), "all your energies are 0"),
    ("energy_of_logits", lambda a: -torch.log(torch.exp(a).mean(-1)), "log K nats"),
    ("joint_loss", lambda *a: jem(*a, sign=-1.0), "sign of the contrast is flipped"),
    ("joint_loss", lambda *a: jem(*a, energy=lambda logits: logits.logsumexp(1)), "or that of the energy"),
    ("joint_loss", lambda net, x, y, m: jem(net, x, y, m) + F.cross_entropy(net(x), y), "counted twice"),
    ("joint_loss", lambda *a: jem(*a, energy=lambda logits: -logits.amax(1)), "−max of the logits"),
    (
        "class_score",
        lambda net, x, y: -gradient_at(net, x, y, lambda a, y: a[range(len(y)), y].sum()),
        "the wrong sign. Look for the minus",
    ),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, F.cross_entropy), "the mean cross-entropy"),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, lambda a, y: a[:, y].sum()), "is a table (B, B)"),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, lambda a, y: a.logsumexp(1).sum()), "the score of p(x)"),
    ("pgd_step", lambda *a: pgd(*a, sign=-1.0), "You descend"),
    ("pgd_step", lambda *a: pgd(*a, unit=lambda gradient: gradient), "sign is missing"),
    ("pgd_step", lambda *a: pgd(*a, centre=lambda x_adv: x_adv), "The cube stays"),
    ("pgd_step", lambda net, x_adv, x, *rest: pgd(net, x, x, *rest), "as in FGSM"),
    ("novelty_auroc", lambda usual, unusual: auroc_by_ranks(unusual, usual), "one minus the reference"),
    ("novelty_auroc", lambda usual, unusual: auroc_by_ranks(-usual, -unusual), "one minus the reference"),
    ("novelty_auroc", lambda usual, unusual: (unusual > usual[:, None]).float().mean(), "Ties count 0"),
    ("rollback_epoch", lambda *a: rolled_back(*a, broken=lambda gap, limit: abs(gap) > limit), "passes as sound"),
    ("rollback_epoch", lambda *a: rolled_back(*a, broken=lambda gap, limit: not gap <= limit), "of the data above"),
    ("rollback_epoch", lambda *a: rolled_back(*a, broken=lambda gap, limit: not abs(gap) <= limit), "inf <= inf"),
    (
        "rollback_epoch",
        lambda *a: rolled_back(*a, broken=lambda gap, limit: gap > limit),
        "You forgot the absolute value",
    ),
    ("rollback_epoch", lambda *a: rolled_back_where(*a, asked=lambda a, b: a.isnan() | b.isnan()), "is no nan"),
    ("rollback_epoch", lambda *a: rollback_in_a_loop(*a) + 1, "first broken epoch itself"),
    ("rollback_epoch", lambda *a: rolled_back_where(*a, asked=lambda a, b: a.isinf() | b.isinf()), "lets it pass"),
    ("rollback_epoch", lambda *a: rolled_back_where(*a, asked=lambda a, b: ~a.isfinite()), "Only one of the two"),
    ("energy_of_logits", lambda a: -torch.log(torch.exp(a).sum(1)), "e^2000 is infinite"),
    ("energy_of_logits", lambda a: -(a - a.mean(1, keepdim=True)).logsumexp(1), "input"),
    ("energy_of_logits", lambda a: -a.sum(-1), "not multiplied"),
    ("joint_loss", lambda *a: jem(*a, energy=lambda logits: -logits.exp().sum(1).log()), "a sum is infinite"),
    ("joint_loss", lambda *a: jem(*a, label=lambda a, y: F.nll_loss(a.softmax(1).log(), y)), "or a probability 0"),
    ("joint_loss", lambda *a: jem(*a, label=lambda a, y: F.cross_entropy(a.softmax(1), y)), "softmax is applied twice"),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, lambda a, y: a[range(len(y)), y].mean()), "divided by B"),
    ("class_score", lambda net, x, y: gradient_at(net, x, y, lambda a, y: a.max(1).values.sum()), "the largest logit"),
    (
        "class_score",
        lambda net, x, y: gradient_at(net, x, y, lambda a, y: a.log_softmax(1)[range(len(y)), y].sum()),
        "more certain",
    ),
    ("pgd_step", lambda *a: pgd(*a, loss=lambda a, y: -margin_of(a, y).sum()), "along the margin"),
    ("pgd_step", lambda *a: pgd(*a, loss=lambda a, y: -a.softmax(1)[range(len(y)), y].log().sum()), "logarithm nan"),
    ("pgd_step", lambda *a: pgd(*a, loss=lambda a, y: F.cross_entropy(a.softmax(1), y)), "you give it probabilities"),
    ("novelty_auroc", lambda usual, unusual: (unusual[:, None] >= usual).float().mean(), "Ties count 1"),
    ("novelty_auroc", lambda usual, unusual: (unusual[:, None] - usual).sign().mean(), "2 · AUROC − 1"),
    ("novelty_auroc", lambda usual, unusual: max(r := auroc_in_loops(usual, unusual), 1 - r), "looks better"),
]

CUT_OFF = [
    ("joint_loss", lambda *a: jem(*a, held=lambda x: x), "kept through the chains"),
    ("joint_loss", lambda *a: jem(*a, held=torch.clone), "kept through the chains"),
    ("joint_loss", lambda *a: jem(*a).item(), "No gradient comes back to net,"),
    (
        "joint_loss",
        lambda net, x, y, m: jem(net, x, y, m) - F.cross_entropy(net(x), y) + F.cross_entropy(net(x).data, y),
        "no label",
    ),
    (
        "joint_loss",
        lambda net, x, y, m: (
            F.cross_entropy(net(x), y) - net(x).logsumexp(1).mean() + net(m).logsumexp(1).mean().detach()
        ),
        "Only x_model itself",
    ),
]

REFUSED = [
    ("energy_of_logits", lambda a: -(a.exp().sum(1) + 1e-30).log()),
    ("energy_of_logits", lambda a: -torch.logsumexp(a.detach(), 1)),
    ("class_score", lambda net, x, y: torch.autograd.grad(net(q := x.clone().requires_grad_())[:, y].sum(), q)[0]),
    ("novelty_auroc", area_by_ranks),
    ("rollback_epoch", lambda d, m, limit: ([*(~((d - m).abs() <= limit)), True].index(True)) - 1),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_right_values_without_their_gradients_are_wrong = answers.cut_off(CUT_OFF)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


def small_joint_model(seed):
    """A network on all four images of two binary pixels: net, every x, log p(x, y)."""
    generator = torch.Generator().manual_seed(seed)
    net = joint_energy.network(generator, 3, 1, 1, 2, scale=1.5)
    every_x = torch.tensor(list(product([0.0, 1.0], repeat=2))).view(4, 1, 1, 2)
    logits = net(every_x).as_subclass(torch.Tensor)
    return net, every_x, logits - logits.logsumexp((0, 1))


def test_energy_of_logits_is_that_of_the_enumerated_model():
    net, every_x, log_joint = small_joint_model(0)
    energy = reference("energy_of_logits")(net(every_x)).as_subclass(torch.Tensor)
    torch.testing.assert_close((-energy).softmax(0), log_joint.exp().sum(1))


@pytest.mark.parametrize("seed", range(3))
def test_joint_loss_with_the_models_own_chains_has_the_gradient_of_the_likelihood(seed):
    net, every_x, log_joint = small_joint_model(seed)
    x, y = every_x[[0, 1, 3, 3, 2]], torch.tensor([0, 2, 1, 1, 0])

    def likelihood(net, x, y):
        all_logits = net(every_x)
        return all_logits.logsumexp((0, 1)) - net(x)[range(len(y)), y].mean()

    p = log_joint.exp().sum(1)
    drawn = every_x[torch.multinomial(p, 200_000, replacement=True, generator=torch.Generator().manual_seed(seed))]
    gradients = []
    for value in (lambda net: likelihood(net, x, y), lambda net: reference("joint_loss")(net, x, y, drawn)):
        weight = net.detach().clone().requires_grad_()
        gradients.append(torch.autograd.grad(value(weight), weight)[0].as_subclass(torch.Tensor))
    torch.testing.assert_close(*gradients, atol=0.02, rtol=0)


def test_scores_of_the_classes_average_to_that_of_x():
    """∇ log p(x) = Σ_y p(y|x) ∇ log p(x|y), as p(y) does not depend on x."""
    net, x, _ = find("class_score").draw_inputs()[2]
    scores = [reference("class_score")(net, x, torch.full((len(x),), c)) for c in range(len(net))]
    weights = net(x).softmax(1).T[..., None, None, None]
    together = (weights * torch.stack(scores)).sum(0).as_subclass(torch.Tensor)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(-reference("energy_of_logits")(net(leaf)).sum(), leaf)
    torch.testing.assert_close(together, expected.as_subclass(torch.Tensor))


def test_attack_stays_where_it_may_and_no_sign_is_decided_by_rounding():
    for net, x_adv, x, y, radius, step_size in find("pgd_step").draw_inputs():
        assert (x_adv - x).abs().max() <= radius + 1e-6
        moved = reference("pgd_step")(net, x_adv, x, y, radius, step_size)
        assert (moved - x).abs().max() <= radius + 1e-6
        assert moved.min() >= 0
        assert moved.max() <= 1
        for start in (x, x_adv):
            slope = joint_energy.slope(net, start, y).abs()
            assert slope[slope > 0].min() > 1e-5
        small = reference("pgd_step")(net, x_adv, x_adv, y, 1e-3, 1e-3)
        assert F.cross_entropy(net(small), y) >= F.cross_entropy(net(x_adv), y)


def test_energies_that_are_both_infinite_are_a_tie():
    usual, unusual = torch.tensor([1.0, math.inf]), torch.tensor([math.inf, 0.0])
    assert reference("novelty_auroc")(usual, unusual) == pytest.approx((1 + 0.5 + 0 + 0) / 4)


@pytest.mark.parametrize("limit", [0.5, 10.0, math.inf])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["data", "model", "both"])
def test_an_energy_that_is_not_finite_breaks_an_epoch_whatever_the_limit(limit, bad, which):
    data, model = torch.zeros(5), torch.zeros(5)
    data[3] = bad if which != "model" else 0.0
    model[3] = bad if which != "data" else 0.0
    assert reference("rollback_epoch")(data, model, limit) == 2
    assert reference("rollback_epoch")(data[:3], model[:3], limit) == 2


def test_scores_are_found_where_the_notebook_has_switched_gradients_off():
    with torch.no_grad():
        for name in ("class_score", "pgd_step", "joint_loss"):
            assert judge(name, reference(name)).status == "right"
