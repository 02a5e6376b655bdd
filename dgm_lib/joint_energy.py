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

from dgm_lib.checks import check_examples, check_labels
from dgm_lib.energy import EnergyModel
from dgm_lib.nets import frozen
from dgm_lib.samplers import ChainError, langevin, score_of


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
        if not 0 <= weight < math.inf or not widest_gap > 0:
            raise ValueError(f"weight is {weight:g}, widest_gap {widest_gap:g}: they must be ≥ 0, finite, and > 0")
        if not isinstance(density.net, LogitEnergy):
            raise ValueError(
                f"the density's energy is a {type(density.net).__name__}, which has no logits: give "
                "EnergyModel(LogitEnergy(net), …), for a net that ends in one logit a class"
            )
        self.density, self.n_classes = density, n_classes
        self.weight, self.widest_gap = weight, widest_gap
        with torch.no_grad():
            logits = self(density.chains[:2])
        if logits.dim() != 2 or logits.shape[1] != n_classes:
            raise ValueError(
                f"the net maps {len(logits)} examples to the shape {tuple(logits.shape)}: it must be one logit for "
                f"each of the {n_classes} classes, ({len(logits)}, {n_classes})"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Logits f(x), (B, K), in nats."""
        return self.density.net.classifier(x)

    def posterior(self, x: Tensor) -> Tensor:
        """p(y|x), (B, K)."""
        return self(x).softmax(1)

    def energy(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """E(x), or with labels E(x, y): (B,) nats, both with the same unknown zero."""
        if y is None:
            return self.density.energy(x)
        check_labels(y, len(x), self.n_classes)
        return -self(x).gather(1, y[:, None]).squeeze(1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """−log p(y|x) + weight · ((E(x) − E(x⁻)) / T + penalty), means over data and chains x⁻: a scalar in nats.

        Infinite where the run has diverged; a gradient that is finite stays so.
        """
        check_examples(x, self.density.shape)
        check_labels(y, len(x), self.n_classes)
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
        density = self.density
        if y is None:
            return density.sample(n, steps=steps)
        check_labels(y, n, self.n_classes)
        life = density.steps / density.restart if density.restart else 50 * density.steps
        settings = {"step_size": density.step_size, "temperature": density.temperature, "box": density.box}
        with frozen(self):
            score = score_of(partial(self.energy, y=y))
            return langevin(score, density.noise(n), steps=round(life) if steps is None else steps, **settings)
