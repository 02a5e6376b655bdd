"""Joint energy model: a classifier's logits f(x)[y] read as energies, E(x, y) = −f(x)[y].

p(x, y) = exp(f(x)[y]) / Z,    p(x) = Σ_y p(x, y) = exp(−E(x)) / Z   with   E(x) = −log Σ_y exp(f(x)[y])

p(y|x) = exp(f(x)[y]) / Σ_y' exp(f(x)[y']) is the softmax of every classifier. What a softmax forgets, the height of all
logits together, says here how likely x is. −log p(x, y) = −log p(y|x) − log p(x): the first term is cross-entropy, the
second is learnt with Langevin chains as in `energy`. Grathwohl et al. 2020, eqs. 5 to 8.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dgm_lib import checks
from dgm_lib.models.energy import EnergyModel
from dgm_lib.nets import one_logit_a_class
from dgm_lib.samplers import ChainError


class LogitEnergy(nn.Module):
    """The energy of a classifier (B, …) -> (B, K) logits: E(x) = −logsumexp_y f(x)[y], (B, …) -> (B,) nats."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return -self.classifier(x).logsumexp(1)


class JointEnergyModel(nn.Module):
    """JointEnergyModel(EnergyModel(LogitEnergy(net), (1, 8, 8), box=(0, 1)), 10), for a net that gives ten logits.

    density: p(x), with the chains, their step and their temperature. At T = 1 the loss of weight 1 is −log p(x, y); at
    another T it is p_T(x) ∝ exp(−E(x)/T) that the chains draw from, while p(y|x) stays the softmax at T = 1.
    weight: of −log p(x) beside −log p(y|x); 0 trains a plain classifier, and moves no chain.
    widest_gap: nats that E(data)/T and E(chains)/T may be apart, in the mean. Beyond it, or where a chain or an energy
    is not finite, the run has diverged and `loss` is infinite: fit(…, checkpoint=…, retries=…) then goes back to its
    last good epoch, chains included, with half the learning rate. A healthy run of digits stays below 10 nats; where
    the limit is far wider, the state that is kept may be lost already.
    Raises ValueError for a density without logits, or with another number of them.
    """

    def __init__(self, density: EnergyModel, n_classes: int, *, weight: float = 1.0, widest_gap: float = 20.0):
        super().__init__()
        checks.check_whole(1, n_classes=n_classes)
        checks.check_weight(weight=weight)
        if not widest_gap > 0:
            raise ValueError(f"widest_gap is {widest_gap:g}: it must be positive; math.inf for no limit")
        if not isinstance(density.net, LogitEnergy):
            name = type(density.net).__name__
            raise ValueError(f"the energy is a {name}, which has no logits: give EnergyModel(LogitEnergy(net), …)")
        self.density, self.n_classes = density, n_classes
        self.weight, self.widest_gap = weight, widest_gap
        with torch.no_grad():
            one_logit_a_class(self(density.chains[:1]), 1, n_classes, "the net")

    def forward(self, x: Tensor) -> Tensor:
        """Logits f(x), (B, K), in nats."""
        checks.check_examples(x, self.density.shape, self)
        return self.density.net.classifier(x)

    def posterior(self, x: Tensor) -> Tensor:
        """p(y|x), (B, K)."""
        return self(x).softmax(1)

    def energy(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """E(x), or with labels E(x, y): (B,) nats, both with the same unknown zero."""
        if y is None:
            return self.density.energy(x)
        checks.check_labels(y, len(x), self.n_classes)
        return -self(x).gather(1, checks.usual(y)[:, None]).squeeze(1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """−log p(y|x) + weight · ((E(x) − E(x⁻)) / T + penalty), means over data and chains x⁻: a scalar in nats.

        Infinite where the run has diverged; a gradient that is finite stays so.
        """
        self.density.check_data(x)
        checks.check_labels(y, len(x), self.n_classes)
        if not self.weight:
            return cross_entropy(self(x), y)
        try:
            chains = self.density.move_chains()
        except ChainError:
            return cross_entropy(self(x), y) + math.inf
        logits = self(torch.cat([x, chains]))  # one pass for both terms
        classes = cross_entropy(logits[: len(x)], y)  # −log p(y|x)
        e_data, e_model = (-logits.logsumexp(1)).split([len(x), len(chains)])
        gap = (e_data.mean() - e_model.mean()) / self.density.temperature  # its gradient is that of −log p(x)
        penalty = self.density.penalty * (e_data.square().mean() + e_model.square().mean())
        diverged = torch.where(gap.detach().abs() <= self.widest_gap, 0.0, math.inf)  # NaN is not ≤ either
        return classes + self.weight * (gap + penalty) + diverged

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """(n, *shape) from p(x), or with labels y (n,) each from p(x|y) ∝ exp(f(x)[y]): new chains from noise.

        steps: by default as many as a chain lives in training. Raises ChainError where one diverges.
        """
        if y is None:
            return self.density.sample(n, steps=steps)
        checks.check_labels(y, n, self.n_classes)
        return self.density.sample(n, steps=steps, energy=partial(self.energy, y=y))
