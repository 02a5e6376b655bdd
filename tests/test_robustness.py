"""The attack against the best one, which is known for a linear classifier."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dgm_lib.measures.robustness import margin, pgd, robustness_curve

RADIUS = 0.1


@pytest.fixture
def linear():
    """It cannot tell the class of an even grey, so that both are given to images around it."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 2)
    layer.bias.data = -layer.weight.detach().sum(1) / 2
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return 0.2 + 0.6 * torch.rand(20, 1, 4, 4, generator=generator), torch.arange(20) % 2  # no wall within the radius


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_classifier_is_attacked_in_the_best_way(linear, images, seed):
    """The margin rises by ε‖w‖₁, along the sign of its gradient w, and by nothing that is allowed can it rise more."""
    x, y = images
    w = linear[1].weight[1] - linear[1].weight[0]
    sign = torch.where(y == 0, 1.0, -1.0)[:, None, None, None] * w.sign().view(1, 1, 4, 4)
    attacked = pgd(linear, x, y, RADIUS, seed=seed)
    torch.testing.assert_close(attacked, x + RADIUS * sign, atol=1e-6, rtol=0)
    rise = margin(linear(attacked), y) - margin(linear(x), y)
    torch.testing.assert_close(rise, RADIUS * w.abs().sum().expand(20), atol=1e-5, rtol=0)


def test_the_walls_of_the_box_hold(linear):
    x, y = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(2)), torch.arange(20) % 2
    attacked = pgd(linear, x, y, 0.4)
    w = (linear[1].weight[1] - linear[1].weight[0]).view(1, 1, 4, 4)
    best = (x + 0.4 * torch.where(y == 0, 1.0, -1.0)[:, None, None, None] * w.sign()).clamp(0, 1)
    torch.testing.assert_close(attacked, best, atol=1e-6, rtol=0)
    torch.testing.assert_close(pgd(linear, x - 3, y, 0.4, box=(-3, -2)), pgd(linear, x, y, 0.4) - 3, atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_no_pixel_leaves_the_ball_and_no_attack_is_worse_than_none(steps):
    """A net whose gradient turns within the ball, and a step that overshoots."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 3)).requires_grad_(False)
    for p in net.parameters():
        p.mul_(4)
    x, y = torch.rand(50, 1, 4, 4), torch.randint(3, (50,))
    attacked = pgd(net, x, y, RADIUS, steps=steps, step_size=0.5)
    assert (attacked - x).abs().max() <= RADIUS + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert (margin(net(attacked), y) >= margin(net(x), y)).all()
    assert not attacked.requires_grad


def test_a_classifier_that_is_very_sure_is_misled_all_the_same(linear, images):
    """Logits so far apart that p(y|x) rounds to 1 have no gradient in the cross-entropy."""
    x, y = images
    sure = lambda x: 1e6 * linear(x)  # noqa: E731
    torch.testing.assert_close(pgd(sure, x, y, RADIUS), pgd(linear, x, y, RADIUS), atol=1e-6, rtol=0)


def test_the_curve_of_a_linear_classifier_is_exact(linear, images):
    x, _ = images
    y = linear(x).argmax(1)
    y[:3] = 1 - y[:3]
    reach = margin(linear(x), y).neg() / (linear[1].weight[1] - linear[1].weight[0]).abs().sum()  # ε that misleads
    between = reach.sort().values[2:].unfold(0, 2, 1).mean(1)[1::5].tolist()
    assert 0 < between[0] < between[-1] < 0.2  # no wall is met
    radii = [0.0, *between]
    expected = [(reach > radius).float().mean().item() for radius in radii]
    assert expected[0] == pytest.approx(0.85)
    assert robustness_curve(linear, x, y, radii) == expected


def test_where_every_change_helps_the_classifier_x_stays_as_it_is():
    peak = lambda x: torch.stack([(x - 0.5).abs().sum((1, 2, 3)), 0 * x[:, 0, 0, 0]], 1)  # noqa: E731
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.long)
    assert torch.equal(pgd(peak, x, y, RADIUS), x)


def test_what_misleads_within_a_small_radius_does_within_a_larger_one():
    """A classifier that is wrong in a thin shell only: a wide attack may miss what a narrow one found."""
    shell = lambda x: torch.stack([(x.flatten(1).mean(1) - 0.5).abs() - 0.045, 0 * x[:, 0, 0, 0]], 1).mul(-1)  # noqa: E731
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.long)
    curve = robustness_curve(shell, x, y, [0.0, 0.05, 0.3])
    assert curve == sorted(curve, reverse=True)
    assert curve[0] == 1
    assert robustness_curve(shell, x, 1 - y, [0.0, 0.1]) == [0.0, 0.0]  # nobody left to attack


def test_weights_get_no_gradient(linear, images):
    pgd(linear, *images, RADIUS)
    assert linear[1].weight.grad is None


def test_margin_by_hand():
    logits = torch.tensor([[1.0, 5.0, 2.0], [1.0, 5.0, 2.0]])
    assert margin(logits, torch.tensor([1, 2])).tolist() == [-3.0, 3.0]


def test_bad_attacks_are_refused(linear, images):
    x, y = images
    for radius in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"radius is {radius:g}: it must be ≥ 0"):
            pgd(linear, x, y, radius)
    with pytest.raises(ValueError, match="steps is 0"):
        pgd(linear, x, y, 0.1, steps=0)
    with pytest.raises(ValueError, match=r"outside of the box 0 … 1: scale x, or give its box"):
        pgd(linear, 16 * x, y, 0.1)
    with pytest.raises(ValueError, match=r"the radii \[0\.1, 0\.0\] must ascend"):
        robustness_curve(linear, x, y, [0.1, 0.0])
    with pytest.raises(ValueError, match=r"labels of type int64, one an image, got torch\.float32"):
        pgd(linear, x, y.float(), 0.1)


# ---- classifiers and labels that are none --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_whole_type_are_taken(linear, images, dtype):
    x, y = images
    assert robustness_curve(linear, x, y.to(dtype), [0.0, 0.1]) == robustness_curve(linear, x, y, [0.0, 0.1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_classifier_that_gives_no_scores_is_wrong_everywhere(value, images):
    x, y = images
    dead = lambda x: (x.flatten(1).sum(1, keepdim=True) * 0 + value).expand(-1, 2)  # noqa: E731
    expected = [0.5, 0.5] if value == math.inf else [0.0, 0.0]  # of two certain classes the first is named
    assert robustness_curve(dead, x, y, [0.0, 0.1]) == expected
    assert pgd(dead, x, y, RADIUS).isfinite().all()


def test_an_attack_goes_on_where_a_step_meets_nan(linear, images):
    """A classifier that is NaN for bright images: points there are no better, and none of them is returned."""
    x, y = images
    holes = lambda x: linear(x) * torch.where(x.mean((1, 2, 3)) > 0.5, math.nan, 1.0)[:, None]  # noqa: E731
    dark = 0.4 * x
    attacked = pgd(holes, dark, y, 0.3)
    assert attacked.isfinite().all()
    assert (margin(holes(attacked), y) >= margin(holes(dark), y)).all()


@pytest.mark.parametrize("shape", [(20, 1), (20,), (20, 1, 2)])
def test_columns_of_scores_and_of_labels_are_refused(shape, linear, images):
    x, y = images
    with pytest.raises(ValueError, match=r"the classifier gives .* for 20 examples"):
        pgd(lambda x: x.sum().expand(shape), x, y, RADIUS)
    for wrong in (y[:, None], nn.functional.one_hot(y)):
        with pytest.raises(ValueError, match="expected 20 labels of type int64"):
            robustness_curve(linear, x, wrong, [0.0])


def test_attacks_on_nothing_are_refused(linear, images):
    x, y = images
    for use, message in (
        (lambda: robustness_curve(linear, x[:0], y[:0], [0.0]), "0 examples have 0 labels"),
        (lambda: robustness_curve(linear, x, y[:3], [0.0]), "20 examples have 3 labels"),
        (lambda: pgd(linear, (255 * x).byte(), y, 8), r"expected float examples .* got torch\.uint8"),
        (lambda: pgd(linear, x, y, math.inf), "radius is inf"),
        (lambda: pgd(linear, x, y, 0.1, step_size=-1.0), "step_size is -1"),
        (lambda: pgd(linear, x, y, 0.1, step_size=math.nan), "step_size is nan"),
        (lambda: pgd(linear, x, y, 0.1, seed=0.5), "seed is 0.5"),
        (lambda: pgd(lambda x: linear(x).detach(), x, y, 0.1), "the logits have no gradient in x"),
    ):
        with pytest.raises(ValueError, match=message):
            use()
