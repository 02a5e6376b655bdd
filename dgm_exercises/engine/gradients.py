"""What training would send back through an answer: its gradients, beside its value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

import torch
from torch import Tensor

from dgm_exercises.engine.attempt import Refused
from dgm_exercises.engine.values import as_tensor

OWN_BACKWARD = (
    "the value is right, but your function calls `backward()` itself. Training does that once more, and then the graph "
    "is gone, or every gradient is there twice: return the value alone."
)


def with_gradients(function: Callable, by: Sequence[int]) -> Callable[..., Tensor]:
    """The function, giving its value and behind it the gradients of the value's sum, in one row of float64.

    by: places of the arguments to differentiate by. Where no path leads from the value back to an argument, its
    gradient is 0. Raises Refused where the function has called `backward` itself, or torch finds no way back.
    """

    @wraps(function)
    def value_and_gradients(*arguments: object) -> Tensor:
        leaves = {place: arguments[place].detach().requires_grad_() for place in by}
        with torch.enable_grad():
            value = _value(function, [leaves.get(i, argument) for i, argument in enumerate(arguments)], arguments)
            gradients = _gradients(value, list(leaves.values()))
        return torch.cat([as_tensor(part).flatten() for part in (value, *gradients)])

    return value_and_gradients


def _value(function: Callable, with_leaves: Sequence[object], arguments: Sequence[object]) -> object:
    try:
        return function(*with_leaves)
    except RuntimeError:  # numpy refuses a tensor that a gradient has to come back to: the path ends there
        return function(*arguments)


def _gradients(value: object, leaves: list[Tensor]) -> Sequence[Tensor]:
    if any(leaf.grad is not None for leaf in leaves):
        raise Refused("wrong", OWN_BACKWARD)
    if isinstance(value, list | tuple) and all(isinstance(row, Tensor) for row in value):
        value = torch.stack(list(value))
    reached = [leaf for leaf in leaves if leaf.requires_grad]  # an answer may have switched one off
    if not isinstance(value, Tensor) or not value.requires_grad or not reached:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = iter(_differentiated(value.sum(), reached))
    return [next(found) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves]


def _differentiated(total: Tensor, leaves: list[Tensor]) -> Sequence[Tensor]:
    try:
        return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    except RuntimeError as error:  # a tensor that the way back needs was overwritten, say
        first_line = str(error).splitlines()[0].split(";")[0]
        raise Refused("wrong", f"the value is right, but no gradient comes back through it: {first_line}.") from None
