"""Markov chains that draw from p_T(x) ∝ exp(−E(x)/T), and what tells whether they have arrived.

Langevin    x ← x − η ∇E(x) + σ ε,   ε ~ N(0, I),   T = σ² / 2η
Gibbs       x_i ← a draw from p(x_i | all others), one unit or one layer after the other

Each sampler is a function of a callable and of the states x (n, …) of n chains side by side; it returns new states. An
energy gives (n,) nats; a score is −∇E, the shape of x. Chains are drawn without a graph, in the precision of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from dgm_lib import checks

LOOK_EVERY = 10  # steps between looks at the chains: a look makes a GPU wait
FAR = 1e6  # without walls, a coordinate beyond this has diverged

Box = tuple[float, float]


class ChainError(RuntimeError):
    """A chain became NaN or left the range in which it makes sense."""


# ---- energies ------------------------------------------------------------------------------------------------------


def score_of(energy: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function −∇E of an energy (n, …) -> (n,), by autograd; its values have no graph."""
    return partial(_score, energy)  # unlike a function made here, it can be pickled


def _score(energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return value_and_score(energy, x)[1]


def value_and_score(energy: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x), (n,), and −∇E(x), the shape of x. Raises ValueError if the energy is not one number an example."""
    with checks.leaf(x) as x, full_precision(x.device.type):
        values = energy(x)
        check_energy(values, len(x))
        (score,) = torch.autograd.grad(values, x, torch.full_like(values, -1))
    return values.detach(), score


def full_precision(device: str) -> AbstractContextManager:
    """Turns autocast off where it is on: entering its context costs a small network's step a tenth more time."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def check_energy(values: Tensor, n: int) -> None:
    """Raises ValueError unless values has the shape (n,)."""
    if not isinstance(values, Tensor) or values.shape != (n,):
        said = f"the energy of {n} examples {checks.shaped(values)}"
        raise ValueError(f"{said}: it must be one number an example, ({n},); let the network end in one unit, squeezed")


# ---- Langevin ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def langevin(
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    temperature: float = 1.0,
    box: Box | None = None,
) -> Tensor:
    """Unadjusted Langevin: `steps` times x ← x + η score(x) + √(2ηT) ε. Parisi 1981; Roberts & Tweedie 1996.

    It draws from p_T up to an error that vanishes with the step size η. T = 1 draws from p; a smaller T makes chains
    colder, and T = 0 is plain descent. box: walls (low, high) that every coordinate is reflected at.
    Raises ValueError for a step that is not positive, ChainError with the chain and the step where one diverges.
    """
    check_schedule(steps, step_size, temperature)
    check_chains(x, box)
    sigma = math.sqrt(2 * step_size * temperature)
    x = x.detach().clone()
    eps = torch.empty_like(x)
    for step in range(1, steps + 1):
        uphill = score(x)
        if step == 1:
            check_score(uphill, x)
        x.add_(uphill, alpha=step_size)
        if sigma:
            x.add_(eps.normal_(), alpha=sigma)
        look(x, step, steps, box)
        if box:
            reflect_(x, box)
    return x


@torch.no_grad()
def mala(
    energy: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    temperature: float = 1.0,
    box: Box | None = None,
) -> tuple[Tensor, float]:
    """Metropolis-adjusted Langevin: a Langevin step is a proposal, accepted or refused so that p_T is kept exactly.

    Returns the states and the share of proposals that were accepted; near 0.57 is best in many dimensions (Roberts &
    Rosenthal 1998). Outside of the box, and where the energy is NaN, p counts as 0: such a proposal is refused.
    Raises what langevin raises, and ChainError for a start whose energy is not finite. Roberts & Tweedie 1996.
    """
    check_schedule(steps, step_size, temperature)
    check_chains(x, box)
    if temperature == 0:
        raise ValueError("temperature is 0, where nothing is left to draw: take langevin for plain descent")
    x, sigma = x.detach().clone(), math.sqrt(2 * step_size * temperature)
    values, uphill = value_and_score(energy, x)
    check_start(values)
    check_score(uphill, x)
    accepted = torch.zeros((), device=x.device)  # stays there: asking for it would make a GPU wait
    for step in range(1, steps + 1):
        proposal = x + step_size * uphill + sigma * torch.randn_like(x)
        new_values, new_uphill = value_and_score(energy, proposal)
        log_ratio = (values - new_values) / temperature
        log_ratio += log_normal(x, proposal + step_size * new_uphill, sigma)  # the way back …
        log_ratio -= log_normal(proposal, x + step_size * uphill, sigma)  # … over the way there
        if box:
            log_ratio.masked_fill_(outside(proposal, box), -torch.inf)
        accept = torch.rand_like(log_ratio).log() < log_ratio  # (n,), False where the ratio is NaN
        x = torch.where(per_chain(accept, x), proposal, x)
        uphill = torch.where(per_chain(accept, x), new_uphill, uphill)
        values = torch.where(accept, new_values, values)
        accepted += accept.float().sum() / max(len(x), 1)
        look(x, step, steps, box)
    return x, float(accepted) / max(steps, 1)


def log_normal(x: Tensor, mu: Tensor, sigma: float) -> Tensor:
    """log N(x; mu, σ² I), up to a constant: (n,) nats."""
    return -(x - mu).square().flatten(1).sum(1) / (2 * sigma**2)


class Law(Protocol):
    """A density that is known and can be sampled, such as a StandardNormal or a GaussianMixture."""

    def log_prob(self, x: Tensor) -> Tensor: ...

    def sample(self, n: int) -> Tensor: ...


@torch.no_grad()
def independent_metropolis(
    energy: Callable[[Tensor], Tensor], x: Tensor, law: Law, temperature: float = 1.0
) -> tuple[Tensor, float]:
    """Offers every chain a jump to a draw from `law`, accepted so that p_T is kept. Hastings 1970.

    Returns the states and the share of accepted jumps. It crosses any wall between modes, where the law puts enough
    of its draws on them: in a few dimensions.
    """
    checks.check_positive(temperature=temperature)
    jump = law.sample(len(x)).to(x)
    log_ratio = (energy(x) - energy(jump)) / temperature + law.log_prob(x) - law.log_prob(jump)
    check_energy(log_ratio, len(x))
    accept = torch.rand_like(log_ratio).log() < log_ratio
    return torch.where(per_chain(accept, x), jump, x), float(accept.float().sum()) / max(len(x), 1)


def reflect_(x: Tensor, box: Box) -> Tensor:
    """Folds every coordinate back into the box, as light between two mirrors; in place."""
    low, high = box
    period = 2 * (high - low)  # there and back
    x.sub_(low)
    x.sub_((x / period).round_(), alpha=period).abs_().add_(low)  # low + the distance to the nearest image of low
    return x.clamp_(low, high)  # rounding may leave a coordinate a hair beyond a wall


def geometric(first: float, last: float, n: int) -> list[float]:
    """n temperatures from first to last, each the same multiple of the one before: a schedule for `anneal`."""
    checks.check_whole(2, n=n)
    checks.check_positive(first=first, last=last)
    return [first * (last / first) ** (i / (n - 1)) for i in range(n)]


def anneal(sampler: Callable[..., Tensor], x: Tensor, temperatures: Iterable[float]) -> Tensor:
    """Runs sampler(x, temperature=T) at one temperature after the other, from hot to cold. Kirkpatrick et al. 1983.

    Hot chains cross the walls between modes. sampler: such as partial(langevin, score, steps=10, step_size=0.01).
    """
    for temperature in temperatures:
        x = sampler(x, temperature=temperature)
    return x


# ---- Gibbs ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def gibbs(energy: Callable[[Tensor], Tensor], x: Tensor, *, sweeps: int, temperature: float = 1.0) -> Tensor:
    """Units 0 or 1, one after the other: p(x_i = 1 | others) = σ((E(x_i = 0) − E(x_i = 1)) / T). Geman & Geman 1984.

    x: (n, D) floats 0 or 1. Works for any energy of binary units; where whole layers are independent, see block_gibbs.
    Raises ValueError for other states, ChainError for a start whose energy is not finite.
    """
    check_units(x)
    checks.check_whole(0, sweeps=sweeps)
    checks.check_positive(temperature=temperature)
    values = energy(x)
    check_energy(values, len(x))
    check_start(values)
    x = x.detach().clone()
    for i in list(range(x.shape[1])) * sweeps:
        off, on = x.clone(), x.clone()
        off[:, i], on[:, i] = 0, 1
        gain = energy(off) - energy(on)  # (n,)
        x[:, i] = (torch.rand_like(gain) < torch.sigmoid(gain / temperature)).to(x)
    return x


@torch.no_grad()
def block_gibbs(
    draw_other: Callable[[Tensor], Tensor],
    draw: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    steps: int,
    known: Tensor | None = None,
) -> Tensor:
    """Two layers in turn: other ~ p(other | x), then x ~ p(x | other), `steps` times.

    known: True where x is held fixed, broadcast to x; the rest is then drawn from its conditional given those. Raises
    ValueError for a mask that is not bool or does not fit.
    """
    checks.check_whole(0, steps=steps)
    if known is not None:
        checks.check_known(known, x)
    given = x
    for _ in range(steps):
        x = draw(draw_other(x))
        if known is not None:
            x = torch.where(known, given, x)
    return x


# ---- diagnostics ---------------------------------------------------------------------------------------------------


def autocorrelation(trace: Tensor) -> Tensor:
    """Correlation of a chain with itself t steps later, t = 0 … T−1, over all chains. (T, n) -> (T,), float64.

    Each chain's own mean is taken off, so chains that disagree do not show here: see split_r_hat.
    """
    covariance = autocovariance(check_trace(trace)).mean(1)  # (T,)
    return covariance / covariance[0]


def autocovariance(trace: Tensor) -> Tensor:
    """Σ_s (x_s − x̄)(x_s+t − x̄) / T of each chain, t = 0 … T−1: the biased estimate, whose tail is calm. (T, n)."""
    T = len(trace)
    spectrum = torch.fft.rfft(trace - trace.mean(0), 2 * T, dim=0)  # padded, so that the end does not meet the start
    return torch.fft.irfft(spectrum.abs().square(), 2 * T, dim=0)[:T] / T


def effective_sample_size(trace: Tensor) -> float:
    """How many independent draws the n chains of T draws are worth for a mean. (T, n) -> number.

    n T / τ with τ = 1 + 2 Σ_t ρ_t, where what separates the chains counts as correlation. The sum runs while pairs
    ρ_2t + ρ_2t+1 are positive, and none counts for more than the one before it: Geyer 1992's initial monotone
    sequence, over split chains as in Vehtari et al. 2021, section 3.2. At most log₁₀(n T) times n T, for chains that
    swing from side to side; of fewer than ten draws, in which a swing looks like the mean that is taken off, n T.
    """
    halves = split(trace)
    T, n = halves.shape
    within, total = variances(halves)
    rho = 1 - (within - autocovariance(halves).mean(1)) / total  # (T,)
    rho[0] = 1
    usable = max(2, (T - 3) // 2 * 2)  # the last lags have too few products to tell; the first pair always counts
    pairs = rho[:usable].view(-1, 2).sum(1)
    positive = int((pairs > 0).long().cumprod(0).sum())
    tau = -1 + 2 * pairs[:positive].cummin(0).values.sum()
    tau += rho[2 * positive : 2 * positive + 1].clamp(min=0).sum()  # the pair that ends the sum may begin above 0
    return T * n / max(float(tau), 1 / math.log10(T * n) if T >= 5 else 1.0)


def split_r_hat(trace: Tensor) -> float:
    """How much wider all chains together are than each half of one: near 1 when they agree. (T, n) -> number.

    √(total variance / variance within). Above 1.01, run longer. Gelman et al. 2013, eq. 11.4; Vehtari et al. 2021.
    """
    within, total = variances(split(trace))
    return float((total / within).sqrt())


def split(trace: Tensor) -> Tensor:
    """Each chain cut in two: (T, n) -> (T // 2, 2 n), float64. A chain that drifts disagrees with itself."""
    trace = check_trace(trace)
    half = len(trace) // 2
    return torch.cat([trace[:half], trace[-half:]], 1)


def variances(trace: Tensor) -> tuple[Tensor, Tensor]:
    """The variance within chains, and the one of all of them: W and (T−1)/T W + B/T."""
    within = trace.var(0).mean()
    return within, (len(trace) - 1) / len(trace) * within + trace.mean(0).var()


# ---- what is let in ------------------------------------------------------------------------------------------------


def look(x: Tensor, step: int, steps: int, box: Box | None) -> None:
    """Every few steps, and at the last: raises ChainError if a chain is NaN or far from where it may be."""
    if step % LOOK_EVERY and step < steps:
        return
    limit = FAR if box is None else max(map(abs, box)) + 10 * (box[1] - box[0])
    checks.soon(_check_near, x.flatten(1).abs().amax(1), limit, f"step {step} of {steps}")


def _check_near(largest: Tensor, limit: float, when: str) -> None:
    """largest: the largest coordinate of each chain, (n,)."""
    inside = largest < limit  # False where it is NaN
    if not inside.all():
        chain = first_false(inside)
        what = f"chain {chain} diverged by {when}"
        raise ChainError(f"{what}: its largest coordinate is {largest[chain].item():.4g}; take a smaller step_size")


def check_chains(x: Tensor, box: Box | None) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
        raise ValueError(f"chains are floats of shape (n, …), one row a chain, got {checks.kind(x)}")
    checks.check_box(box)
    if len(x):
        checks.soon(_check_start_of, *x.detach().flatten(1).aminmax(dim=1), box)


def _check_start_of(least: Tensor, largest: Tensor, box: Box | None) -> None:
    """The least and the largest coordinate of each chain, (n,) each; NaN where there is one."""
    finite = least.isfinite() & largest.isfinite()
    if not finite.all():
        raise ValueError(f"chain {first_false(finite)} starts with a coordinate that is NaN or infinite")
    if box and outside(torch.stack([least, largest], 1), box).any():
        ends = f"{least.min():.4g} … {largest.max():.4g}"
        raise ValueError(f"chains start at {ends}, outside of the box {box}: clamp them first")


def check_start(values: Tensor) -> None:
    """Raises ChainError unless the energies (n,) at the start are finite: no chain would ever leave such a place."""
    if not values.isfinite().all():
        chain = first_false(values.isfinite())
        raise ChainError(f"chain {chain} starts where the energy is {values[chain].item():.4g}: look at the energy")


def check_score(score: Tensor, x: Tensor) -> None:
    if not isinstance(score, Tensor) or score.shape != x.shape:
        said = f"the score of chains {tuple(x.shape)} {checks.shaped(score)}"
        raise ValueError(f"{said}: it must have the chains' own; for an energy, give score_of(energy)")
    checks.soon(_check_finite_score, score.isfinite().flatten(1).all(1))


def _check_finite_score(finite: Tensor) -> None:
    if not finite.all():
        raise ChainError(f"the score of chain {first_false(finite)} at step 1 is NaN or infinite: look at the energy")


def check_schedule(steps: int, step_size: float, temperature: float) -> None:
    checks.check_whole(0, steps=steps)
    checks.check_positive(step_size=step_size)
    checks.check_weight(temperature=temperature)


def check_units(x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.dim() != 2:
        raise ValueError(f"the states {checks.shaped(x).replace('has', 'have')}: they must be rows of units, (n, D)")
    checks.check_binary(x)


def check_trace(trace: Tensor) -> Tensor:
    """(T, n) in float64. Raises ValueError where it says nothing."""
    trace = checks.as_tensor(trace, "the trace")
    if trace.dim() != 2 or len(trace) < 4 or not trace.numel():
        raise ValueError(f"a trace has the shape (T, n), T ≥ 4 draws of each of n chains, got {tuple(trace.shape)}")
    if not trace.isfinite().all():
        raise ValueError("the trace holds a NaN or an infinite number: look at the chains first")
    if (trace == trace[0]).all():
        raise ValueError("the trace never changes: chains that do not move say nothing about convergence")
    return checks.as_double(trace)


def per_chain(values: Tensor, x: Tensor) -> Tensor:
    """(n,) -> (n, 1, …), to broadcast against x."""
    return values.view(-1, *[1] * (x.dim() - 1))


def outside(x: Tensor, box: Box) -> Tensor:
    """(n,) True where a coordinate of the chain is beyond a wall."""
    return ((x < box[0]) | (x > box[1])).flatten(1).any(1)


def first_false(values: Tensor) -> int:
    """The first chain with a False among its values, (n, …)."""
    return int(values.reshape(len(values), -1).all(1).int().argmin())
