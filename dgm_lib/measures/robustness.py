"""How a classifier fares where an opponent may change each pixel by at most a radius ε: ‖x′ − x‖∞ ≤ ε."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dgm_lib import checks

Classify = Callable[[Tensor], Tensor]


def pgd(
    classify: Classify,
    x: Tensor,
    y: Tensor,
    radius: float,
    *,
    steps: int = 20,
    step_size: float | None = None,
    box: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> Tensor:
    """Projected gradient ascent from a random start: (B, …) -> (B, …) at most `radius` from x and within the box.

    classify: (B, …) -> (B, K) logits, in evaluation mode. Each step moves every pixel by `step_size`, 2.5 radius/steps
    if none is given. Madry et al. 2018, eq. 2 and section 5, with a margin for the loss: the cross-entropy of a
    classifier that is very sure is flat, and an opponent that follows it would take that for safety. Of x and all
    points on the way, the one of the greatest margin is returned.
    Raises ValueError for a radius below 0 and for x outside of the box.
    """
    check_attack(x, radius, steps, box)
    low, high = (x - radius).clamp(min=box[0]), (x + radius).clamp(max=box[1])
    size = 2.5 * radius / steps if step_size is None else step_size
    checks.check_weight(step_size=size)
    u = torch.rand(x.shape, generator=checks.seeded(seed), device="cpu").to(x)
    best, greatest = x.detach().clone(), margin(classify(x), y).detach()
    worse = low + u * (high - low)
    for step in range(steps + 1):
        values, gradient = margin_and_gradient(classify, worse, y)
        greater = values > greatest
        best[greater], greatest = worse[greater], torch.where(greater, values, greatest)  # NaN is no margin
        if step < steps:
            worse = torch.clamp(worse + size * gradient.sign().nan_to_num(), low, high)
    return best


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The greatest wrong logit less the right one: (B, K), (B,) -> (B,), > 0 if misread. Carlini & Wagner 2017, f₆."""
    checks.check_scores(logits, len(y))
    y = checks.as_labels(y, len(logits), logits.shape[1]).to(logits.device)
    right = one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(right, -torch.inf).amax(1) - logits[right]


def margin_and_gradient(classify: Classify, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The margin, (B,), and its gradient in x, (B, …)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = margin(classify(x), y)
        if not values.requires_grad:
            raise ValueError("the logits have no gradient in x: leave no_grad, detach and argmax out of it")
        (gradient,) = torch.autograd.grad(values.sum(), x, allow_unused=True, materialize_grads=True)
    return values.detach(), gradient


def robustness_curve(
    classify: Classify,
    x: Tensor,
    y: Tensor,
    radii: Sequence[float],
    *,
    steps: int = 20,
    box: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> list[float]:
    """The accuracy that is left under `pgd` at each radius, radii ascending; a radius of 0 is no attack.

    What misleads at a small radius is allowed at a greater one, so the curve never rises. It is an upper bound of the
    accuracy against the best opponent.
    """
    if list(radii) != sorted(radii):
        raise ValueError(f"the radii {list(radii)} must ascend: sort them")
    y = checks.as_tensor(y, "y")
    if not len(x) or len(y) != len(x):
        raise ValueError(f"{len(x)} examples have {len(y)} labels: they must be as many, and at least one")
    right, curve = torch.ones(len(x), dtype=torch.bool, device=x.device), []
    for radius in radii:
        if right.any():
            standing = right.nonzero().squeeze(1)
            attacked = pgd(classify, x[standing], y[standing], radius, steps=steps, box=box, seed=seed)
            with torch.no_grad():
                right[standing] = checks.named(classify(attacked)) == y[standing]
        curve.append(right.float().mean().item())
    return curve


def check_attack(x: Tensor, radius: float, steps: int, box: tuple[float, float]) -> None:
    """Raises ValueError for what is no attack."""
    checks.check_examples(x, "…")
    checks.check_weight(radius=radius)
    checks.check_whole(1, steps=steps)
    outside = x[~((x >= box[0]) & (x <= box[1]))]
    if len(outside):
        pixel, low, high = outside[0].item(), *box
        raise ValueError(f"a pixel is {pixel:g}, outside of the box {low:g} … {high:g}: scale x, or give its box")
