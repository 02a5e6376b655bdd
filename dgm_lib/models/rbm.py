"""Restricted Boltzmann machine: two layers of units, with connections only between them.

E(v, h) = E_0(v) − bᵀv − cᵀh − vᵀW h,   p(v, h) = exp(−E(v, h)) / Z,   h binary,
E_0(v) = 0 for binary visible units, |v|²/2σ² for Gaussian ones. With the hidden units summed out:

F(v) = E_0(v) − bᵀv − Σ_j softplus(c_j + (vᵀW)_j),   p(v) = exp(−F(v)) / Z.

Smolensky 1986; Hinton 2002. Welling, Rosen-Zvi & Hinton 2005 for units of other kinds. All energies are in nats.

Examples x are (B, *shape); v is the same in rows, (B, D). A field is what a unit feels of the other layer, its own bias
included: b + W h or c + vᵀW.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal
from torch.nn.functional import logsigmoid, softplus
from torch.utils.checkpoint import checkpoint

from dgm_lib import checks
from dgm_lib.distributions import Whole
from dgm_lib.samplers import block_gibbs, full_precision

WIDEST = 20  # units that log_z enumerates: a million states
ROWS = 2**14  # states that it looks at together

# ---- visible units -------------------------------------------------------------------------------------------------


class BinaryUnits(nn.Module):
    """Units 0 or 1: p(v_i = 1 | field) = σ(field_i). shape: that of an example, such as (1, 8, 8), or a number."""

    def __init__(self, shape: int | Sequence[int]):
        super().__init__()
        self.shape = as_shape(shape)

    def distribution(self, field: Tensor) -> Distribution:
        return Bernoulli(logits=field, validate_args=False)

    def draw(self, field: Tensor) -> Tensor:
        return bits(field)

    def base_energy(self, v: Tensor) -> Tensor:
        """E_0: (B, D) -> (B,)."""
        return v.new_zeros(len(v))

    def log_normalizer(self, field: Tensor) -> Tensor:
        """log Σ_v exp(field·v − E_0(v)): (…, D) -> (…)."""
        return softplus(field).sum(-1)

    def field_of_mean(self, v: Tensor) -> Tensor:
        """The field under which independent units have the mean of the data: (N, D) -> (D,)."""
        return torch.logit((v.sum(0) + 0.5) / (len(v) + 1))  # half a count of each kind: no unit is ruled out

    def check(self, v: Tensor) -> None:
        checks.soon(checks.check_binary, v)


class GaussianUnits(nn.Module):
    """Real-valued units with noise of a fixed standard deviation: p(v_i | field) = N(σ² field_i, σ²).

    The hidden units explain what is above this noise: standardise the data first, then choose sigma below 1.
    """

    def __init__(self, shape: int | Sequence[int], sigma: float = 1.0):
        super().__init__()
        checks.check_positive(sigma=sigma)
        self.shape = as_shape(shape)
        self.sigma = sigma

    def distribution(self, field: Tensor) -> Distribution:
        return Normal(self.sigma**2 * field, self.sigma, validate_args=False)

    def draw(self, field: Tensor) -> Tensor:
        return self.distribution(field).sample()

    def base_energy(self, v: Tensor) -> Tensor:
        """E_0: (B, D) -> (B,)."""
        return v.square().sum(1) / (2 * self.sigma**2)

    def log_normalizer(self, field: Tensor) -> Tensor:
        """log ∫ exp(field·v − E_0(v)) dv: (…, D) -> (…)."""
        return (0.5 * (self.sigma * field).square() + 0.5 * math.log(2 * math.pi * self.sigma**2)).sum(-1)

    def field_of_mean(self, v: Tensor) -> Tensor:
        """The field under which independent units have the mean of the data: (N, D) -> (D,)."""
        return v.mean(0) / self.sigma**2

    def check(self, v: Tensor) -> None:
        checks.check_examples(v, self.shape, what="Gaussian units")
        checks.check_inside(v)


# ---- the machine ---------------------------------------------------------------------------------------------------


class RBM(nn.Module):
    """RBM(BinaryUnits((1, 8, 8)), 64): a layer of visible units and n_hidden binary ones.

    steps: Gibbs steps to the negative examples of `loss`.
    n_chains: 0 starts them at the data, contrastive divergence CD-k (Hinton 2002); otherwise so many chains go on from
    step to step, persistent contrastive divergence (Tieleman 2008). Their hidden units are the buffer `chains`,
    (n_chains, n_hidden); likelihood(chains).mean shows what they dream of.
    """

    def __init__(self, visible: BinaryUnits | GaussianUnits, n_hidden: int, *, steps: int = 1, n_chains: int = 0):
        super().__init__()
        checks.check_whole(1, n_hidden=n_hidden, steps=steps)
        checks.check_whole(0, n_chains=n_chains)
        n_visible = prod(visible.shape)
        self.visible, self.steps = visible, steps
        self.weight = nn.Parameter(0.01 * torch.randn(n_visible, n_hidden))
        self.visible_bias = nn.Parameter(torch.zeros(n_visible))
        self.hidden_bias = nn.Parameter(torch.zeros(n_hidden))
        self.register_buffer("base_bias", torch.zeros(n_visible))  # where AIS and new chains begin: independent units
        self.register_buffer("chains", bits(torch.zeros(n_chains, n_hidden)))

    @classmethod
    def start(
        cls, visible: BinaryUnits | GaussianUnits, n_hidden: int, x: Tensor, *, steps: int = 1, n_chains: int = 0
    ) -> RBM:
        """A machine that begins as independent units with the mean of x, (N, *shape): it then has less to learn."""
        model = cls(visible, n_hidden, steps=steps, n_chains=n_chains)
        model = model.to(x) if isinstance(x, Tensor) and x.is_floating_point() else model
        field = visible.field_of_mean(model.rows(x).detach())
        checks.check_some(x)
        model.base_bias.copy_(field)
        model.visible_bias.data.copy_(field)
        return model

    def rows(self, x: Tensor) -> Tensor:
        """Examples as the machine takes them, (B, *shape) -> (B, D). Raises ValueError for another shape or kind."""
        checks.check_examples(x, self.visible.shape, self)
        self.visible.check(x)
        return x.flatten(1)

    # -- conditionals

    def hidden_field(self, v: Tensor) -> Tensor:
        """c + vᵀW, the logits of the hidden units: (B, D) -> (B, n_hidden)."""
        return torch.addmm(self.hidden_bias, v, self.weight).to(v)  # bfloat16 is too coarse to draw from

    def visible_field(self, h: Tensor) -> Tensor:
        """b + W h: (B, n_hidden) -> (B, D)."""
        return torch.addmm(self.visible_bias, h, self.weight.T)

    def posterior(self, x: Tensor) -> Distribution:
        """p(h | x), exact: the hidden units are independent once x is known. Its mean, (B, n_hidden), is a feature."""
        return Whole(Bernoulli(logits=self.hidden_field(self.rows(x))), 1)

    def likelihood(self, h: Tensor) -> Distribution:
        """p(x | h) over examples (B, *shape), given the hidden units, (B, n_hidden)."""
        checks.check_examples(h, self.hidden_bias.shape, self, "hidden units")
        field = self.visible_field(h).view(-1, *self.visible.shape)
        return Whole(self.visible.distribution(field), len(self.visible.shape))

    def draw_hidden(self, v: Tensor) -> Tensor:
        return bits(self.hidden_field(v))

    def draw_visible(self, h: Tensor) -> Tensor:
        return self.visible.draw(self.visible_field(h))

    # -- energies and probabilities

    def energy(self, x: Tensor, h: Tensor) -> Tensor:
        """E(v, h) of examples (B, *shape) and hidden units (B, n_hidden): (B,) nats."""
        checks.check_examples(h, self.hidden_bias.shape, self, "hidden units")
        v = self.rows(x)
        return self.visible.base_energy(v) - v @ self.visible_bias - (self.hidden_field(v) * h).sum(1)

    def free_energy(self, x: Tensor) -> Tensor:
        """F(v) = −log Σ_h exp(−E(v, h)): (B, *shape) -> (B,) nats."""
        v = self.rows(x)
        return self._free_energy(v, self.hidden_field(v))

    def _free_energy(self, v: Tensor, field: Tensor) -> Tensor:
        return self.visible.base_energy(v) - v @ self.visible_bias - softplus(field).sum(1)

    def log_z(self) -> Tensor:
        """log Z in nats by enumeration of a layer, exact and with a gradient. Raises ValueError beyond 20 units."""
        n_visible, n_hidden = self.weight.shape
        by_visible = isinstance(self.visible, BinaryUnits) and n_visible < n_hidden
        width = n_visible if by_visible else n_hidden
        if width > WIDEST:
            sums = f"exact log Z would enumerate the 2^{width} states of a layer of {width} units"
            raise ValueError(f"{sums}, and does so up to {WIDEST}: estimate it with ais()")
        other = self._hidden_summed_out if by_visible else self._visible_summed_out
        if 2**width > ROWS:  # keep no graph but that of one part: a million states would take gigabytes
            other = partial(checkpoint, other, use_reentrant=False)
        return torch.cat([other(states) for states in every_state(width, self.weight)]).logsumexp(0)

    def _hidden_summed_out(self, v: Tensor) -> Tensor:
        return -self._free_energy(v, self.hidden_field(v))

    def _visible_summed_out(self, h: Tensor) -> Tensor:
        return h @ self.hidden_bias + self.visible.log_normalizer(self.visible_field(h))

    @torch.no_grad()
    def ais(self, *, steps: int = 1000, n_chains: int = 100, level: float = 0.95) -> LogZ:
        """log Z by annealed importance sampling, from independent units (β = 0) to the machine (β = 1).

        b_β = (1−β) b_0 + β b, and W and c times β; a chain's weight multiplies p_β'(v)/p_β(v) over the steps, p not
        normalised. Its mean over chains is unbiased for Z, so the logarithm tends to be too small where chains
        disagree: take steps until `effective_chains` is a good share of them. RBM.start gives a base near the data.
        Neal 2001; Salakhutdinov & Murray 2008, section 4.1.
        """
        checks.check_whole(1, steps=steps)
        checks.check_whole(2, n_chains=n_chains)
        if not 0 < level < 1:
            raise ValueError(f"level is {level:g}: it must be between 0 and 1, such as 0.95")
        change = self.visible_bias - self.base_bias
        v = self.visible.draw(self.base_bias.expand(n_chains, -1))
        added = []  # to the logarithm of each chain's weight, (n_chains,) a step
        falling = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device="cpu")
        betas = 1 - falling**2  # denser towards 1, where chains lag most
        for before, beta in pairwise(betas.tolist()):
            field = self.hidden_field(v)  # (n_chains, n_hidden)
            added.append((beta - before) * (v @ change) + (softplus(beta * field) - softplus(before * field)).sum(1))
            h = bits(beta * field)
            v = self.visible.draw(self.base_bias + beta * (change + h @ self.weight.T))
        log_z_0 = self.visible.log_normalizer(self.base_bias) + self.weight.shape[1] * math.log(2)
        log_w = torch.stack(added).cpu().double().sum(0)  # on the CPU, as not every device has float64
        return log_mean(log_w + float(log_z_0), level)

    def log_prob(self, x: Tensor, log_z: Tensor | float | None = None) -> Tensor:
        """−F(x) − log Z: (B, *shape) -> (B,) nats; of pixels if they are binary, of a density if they are Gaussian.

        log_z: an estimate, such as `ais().value`; without it, the exact one is computed.
        """
        return -self.free_energy(x) - (self.log_z() if log_z is None else log_z)

    def pseudo_log_likelihood(self, x: Tensor) -> Tensor:
        """Σ_i log p(v_i | all others): (B, *shape) -> (B,) nats. Needs no Z. Besag 1975. For binary units only."""
        if not isinstance(self.visible, BinaryUnits):
            raise ValueError("the pseudo-likelihood is made for binary units: for Gaussian ones, use log_prob")
        v = self.rows(x)
        field = self.hidden_field(v)
        at_v = softplus(field).sum(1)
        total = torch.zeros_like(at_v)
        for i in range(v.shape[1]):
            flip = 1 - 2 * v[:, i]  # what is added to v_i where it becomes the other value
            flipped = softplus(field + flip[:, None] * self.weight[i]).sum(1)
            total = total + logsigmoid(at_v - flipped - flip * self.visible_bias[i])
        return total

    # -- learning and sampling

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean of F(data) − F(negatives), whose gradient is that of −log p(v), but for the chains' shortness."""
        v = self.rows(x)
        checks.check_some(v)
        with full_precision(x.device.type):  # bfloat16 would drown a small difference of two means
            both = torch.cat([v, self._negatives(v)])
            field = self.hidden_field(both)
            if len(self.chains):
                self.chains.copy_(bits(field[len(v) :].detach()))
            share = torch.full_like(both[:, 0], 1 / len(v))
            share[len(v) :] = -1 / (len(both) - len(v))
            return self._free_energy(both, field) @ share  # the mean of the data less that of the negatives

    @torch.no_grad()
    def _negatives(self, v: Tensor) -> Tensor:
        """Rows after `steps` Gibbs steps, from where the chains are if there are any, else from the data v."""
        v = self.draw_visible(self.chains if len(self.chains) else self.draw_hidden(v))
        return block_gibbs(self.draw_hidden, self.draw_visible, v, steps=self.steps - 1)

    @torch.no_grad()
    def gibbs(self, x: Tensor, *, steps: int, known: Tensor | None = None) -> Tensor:
        """Chains that start at x, (B, *shape) -> (B, *shape). known: bool, True where x is held fixed."""
        v = self.rows(x)
        checks.check_whole(0, steps=steps)
        known = None if known is None else checks.check_known(known, x).flatten(1)
        return block_gibbs(self.draw_hidden, self.draw_visible, v, steps=steps, known=known).view_as(x)

    @torch.no_grad()
    def fill_in(self, x: Tensor, known: Tensor, *, steps: int = 200, burn_in: int = 50) -> Tensor:
        """E[v | the known units], by Gibbs with those held fixed: (B, *shape) -> (B, *shape), known units as in x.

        The mean over `steps` steps of E[v | h], after `burn_in` that are thrown away. Units that are not known begin
        at random: what x holds there does not matter. known: bool, broadcast against x.
        """
        checks.check_whole(1, steps=steps)
        checks.check_whole(0, burn_in=burn_in)
        checks.check_examples(x, self.visible.shape, self)
        mask = checks.check_known(known, x).flatten(1)
        given = self.rows(torch.where(mask.view_as(x), x, 0))
        v = torch.where(mask, given, self.visible.draw(self.base_bias.expand_as(given)))
        total = torch.zeros_like(given)
        for step in range(burn_in + steps):
            field = self.visible_field(self.draw_hidden(v))
            if step >= burn_in:
                total += self.visible.distribution(field).mean
            v = torch.where(mask, given, self.visible.draw(field))
        return torch.where(mask, given, total / steps).view_as(x)

    @torch.no_grad()
    def sample(self, n: int, *, steps: int = 1000) -> Tensor:
        """(n, *shape): n chains that start as independent units and take `steps` Gibbs steps."""
        checks.check_whole(0, n=n)
        v = self.visible.draw(self.base_bias.expand(n, -1))
        return block_gibbs(self.draw_hidden, self.draw_visible, v, steps=steps).view(n, *self.visible.shape)


# ---- estimates of log Z --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogZ:
    """An estimate of log Z in nats, with an interval; log_weights (n,): one a chain, log Z is their log-mean-exp."""

    value: Tensor
    low: float
    high: float
    log_weights: Tensor

    @property
    def effective_chains(self) -> float:
        """1 / Σ w², w the normalised weights: how many chains the mean rests on, 1 … n. Near 1, believe no interval."""
        return 1 / float(self.log_weights.softmax(0).square().sum())


def log_mean(log_weights: Tensor, level: float) -> LogZ:
    """The logarithm of the mean of exp(log_weights), with an interval from their spread (the delta method)."""
    n = len(log_weights)
    value = log_weights.logsumexp(0) - math.log(n)
    deviation = (log_weights - value).exp().std() / math.sqrt(n)  # of the mean, relative to it
    half = float(Normal(0.0, 1.0).icdf(torch.tensor(0.5 + level / 2)) * deviation)
    return LogZ(value, float(value) - half, float(value) + half, log_weights)


# ---- helpers -------------------------------------------------------------------------------------------------------


def as_shape(shape: int | Sequence[int]) -> torch.Size:
    """The shape of an example. Raises ValueError where it has no unit."""
    sizes = (shape,) if isinstance(shape, Real) else tuple(shape)
    if not sizes or not all(isinstance(size, Integral) and size > 0 for size in sizes):
        raise ValueError(f"an example has the shape {sizes}: it must have at least one unit, and whole numbers of them")
    return torch.Size(sizes)


def bits(logits: Tensor) -> Tensor:
    """Draws of 0 or 1, with the probability σ(logits) of a 1."""
    return torch.rand_like(logits).lt_(torch.sigmoid(logits))


def every_state(n: int, like: Tensor) -> Iterator[Tensor]:
    """All 2^n vectors of n bits, (rows, n), some thousand rows at a time."""
    places = torch.arange(n, device=like.device)
    for first in range(0, 2**n, ROWS):
        numbers = torch.arange(first, min(first + ROWS, 2**n), device=like.device)
        yield ((numbers[:, None] >> places) & 1).to(like.dtype)
