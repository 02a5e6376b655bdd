"""Expectation–maximisation: one loop for every model whose likelihood can be raised by two steps. Dempster et al. 1977.

E-step: what is expected of the hidden causes of each example, under the parameters as they are?
M-step: which parameters fit the examples best, given what is expected?
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class TwoSteps(Protocol):
    """What `em` asks of a model. What is expected is the model's own affair: its M-step takes it as its E-step left it.

    An E-step that takes incomplete examples has a second argument: the mask of what is known.
    """

    def e_step(self, x: Tensor) -> tuple[Tensor, Any]:
        """log p(x), (N,) nats, and what is expected."""

    def m_step(self, x: Tensor, expected: Any) -> None:
        """Sets the parameters."""


def em(
    model: TwoSteps, x: Tensor, known: Tensor | None = None, *, steps: int = 200, tolerance: float = 1e-4
) -> list[float]:
    """Fits a model in place, until a step gains less than `tolerance`; returns log p(x) in nats per example.

    known: bool, True where x is known, for a model whose E-step takes it; log p is then that of the known entries.
    The likelihood never falls; where the M-step adds α to its counts, the likelihood times the prior never does, and
    log p(x) itself may. Dempster, Laird & Rubin 1977, theorem 1.
    """
    if not len(x):
        raise ValueError(f"x has the shape {tuple(x.shape)}: a model is fitted to at least one example")
    examples = (x,) if known is None else (x, known)
    history: list[float] = []
    for _ in range(steps):
        log_prob, expected = model.e_step(*examples)
        history.append(log_prob.mean().item())
        if len(history) > 1 and history[-1] - history[-2] < tolerance:
            break
        model.m_step(x, expected)
    return history
