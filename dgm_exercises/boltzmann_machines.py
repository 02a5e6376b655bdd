"""Exercises of notebook 02: from energy to probability, and the restricted Boltzmann machine.

Its energy is E(v, h) = −b·v − c·h − vᵀW h, with W (D, n_hidden).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid, softplus

from dgm_exercises.engine import Exercise

# ---- boltzmann_probabilities ---------------------------------------------------------------------------------------


def boltzmann_probabilities(energies: Tensor, temperature: float) -> Tensor:
    # p = exp(−E/T) / Z. Counted from the lowest of its row, no energy overflows exp, nor loses digits in the division.
    lowest = energies.amin(dim=-1, keepdim=True)
    return (-(energies - lowest) / temperature).softmax(dim=-1)


def systems(generator: Generator) -> list[tuple[Tensor, float]]:
    def draw(*shape: int, temperature: float = 1.0, scale: float = 1.0, shift: float = 0.0) -> tuple[Tensor, float]:
        return scale * torch.randn(shape, generator=generator) + shift, temperature

    return [
        (torch.tensor([0.0, 1.0, 2.0]), 1.0),
        (torch.tensor([0.0, 1.0, 2.0]), 2.0),
        draw(4, temperature=0.5),
        draw(3, 4, temperature=3.0),
        draw(4, 4),
        draw(2, 3, 6, temperature=0.1),
        draw(2, 16, temperature=100.0),
        draw(5, 4, temperature=0.5, shift=1000.0),
        draw(5, 4, temperature=0.5, shift=-1000.0),
        draw(3, 8, temperature=4.0, scale=1000.0),
        draw(4, 6, temperature=1000.0, scale=1000.0),  # large energies that heat makes comparable
        (
            torch.tensor([[0.0, 0.0, 1.0], [1000.0, 1001.0, 1000.0], [-1000.0, 0.0, 1000.0]]),
            0.5,
        ),  # ties, rows far apart
    ]


def weights(energies: Tensor, temperature: float) -> Tensor:
    return (-energies / temperature).exp()


def normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


OVERFLOWING_WEIGHTS = (
    "Right for small energies; at ±1000, exp overflows or underflows and you get {yours}. Subtracting the lowest "
    "energy first changes no probability, and then nothing overflows (`softmax` does so)."
)
TEMPERATURE_AFTERWARDS = (
    "The temperature comes in after the normalisation, so the probabilities no longer sum to 1. It belongs to the "
    "energy: divide E by T first, exponentiate and normalise then."
)
BOLTZMANN_PROBABILITIES = Exercise(
    reference=boltzmann_probabilities,
    statement="The probabilities p ∝ exp(−E/T) of N states from their energies (…, N), at the temperature T; along "
    "the last dimension they sum to 1. Energies may be large.",
    nudge="Three steps: divide the energy by T, make a positive weight of each state, divide by the weights' sum.",
    right="energies of ±1000 included. Hot, all states become equally probable; cold, only the lowest is left.",
    inputs=systems,
    atol=1e-4,  # an exponent of 2000 keeps four decimals in float32, where the largest is not taken out first
    rtol=1e-3,
    wrong=[
        (
            lambda energies, temperature: (energies / temperature).softmax(-1),
            "Your states are the more probable the higher E: exp(+E/T). Low energy means probable: exp(−E/T).",
        ),
        (
            lambda energies, temperature: (-energies * temperature).softmax(-1),
            "You multiply by T. Then heat would sharpen the distribution; it has to flatten it: divide E by T.",
        ),
        (
            lambda energies, temperature: (-energies / temperature**2).softmax(-1),
            "T stands squared. The weight of a state is exp(−E/T): energies are counted in units of T itself.",
        ),
        (
            lambda energies, temperature: (-energies).softmax(-1),
            "Right at T = 1 only: the temperature does not appear in your answer.",
        ),
        (
            weights,
            "These are the weights exp(−E/T), which do not sum to 1. Z is missing: their sum along the last dimension.",
        ),
        (lambda energies, temperature: (-energies).softmax(-1) / temperature, TEMPERATURE_AFTERWARDS),
        (lambda energies, temperature: (-energies).softmax(-1) ** (1 / temperature), TEMPERATURE_AFTERWARDS),
        (lambda energies, temperature: normalised(weights(energies, temperature)), OVERFLOWING_WEIGHTS),
        (lambda energies, temperature: normalised(weights(energies.double(), temperature)), OVERFLOWING_WEIGHTS),
        (
            lambda energies, temperature: (
                weights(energies, temperature) / (weights(energies, temperature).sum(-1, keepdim=True) + 1e-12)
            ),
            "A small constant stands in your denominator. Where all weights underflow, the probabilities then sum to "
            "0. Subtract the lowest energy before exp, and no constant is needed.",
        ),
        (
            lambda energies, temperature: normalised(weights(energies - energies.amax(-1, keepdim=True), temperature)),
            "You subtract the highest energy, which belongs to the smallest weight: the others become exp of "
            "something large and overflow. Which state has the largest weight?",
        ),
        (
            lambda energies, temperature: (-energies / temperature).softmax(0),
            "Your answer sums to 1 over the first dimension. The states lie along the last; the others are a batch.",
        ),
        (
            lambda energies, temperature: normalised(energies),
            "You share out the energies themselves, without exp. Then adding a constant to all of them would change "
            "the probabilities, and energies of both signs would give negative ones.",
        ),
        (
            lambda energies, temperature: normalised((-energies).softmax(-1) ** (1 / temperature)),
            "Right on paper: p at T = 1, to the power 1/T. But at T = 1 a large energy has underflowed to p = 0, "
            "and no heat brings it back. Divide the energies by T before exp.",
        ),
    ],
)

# ---- free_energy ---------------------------------------------------------------------------------------------------


def free_energy(v: Tensor, W: Tensor, b: Tensor, c: Tensor) -> Tensor:
    # Σ_h exp(−E(v, h)) is a product over the hidden units: each is off, exp(0) = 1, or on, exp(a_j).
    # Its logarithm is a sum of log(1 + exp(a_j)); softplus is that function, without an overflow.
    a = c + v @ W  # (B, n_hidden)
    return -(v @ b) - torch.nn.functional.softplus(a).sum(dim=1)


def machine(generator: Generator, n_visible: int, n_hidden: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """W, b, c."""
    return tuple(
        scale * torch.randn(shape, generator=generator) for shape in ((n_visible, n_hidden), n_visible, n_hidden)
    )


def states(generator: Generator, *shape: int) -> Tensor:
    return (torch.rand(shape, generator=generator) < 0.5).float()


def first_machine() -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([1.0, -1.0]), torch.tensor([0.5, -2.0])


def machines(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    def draw(batch: int, n_visible: int, n_hidden: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return states(generator, batch, n_visible), *machine(generator, n_visible, n_hidden, scale)

    return [
        (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), *first_machine()),
        draw(4, 4, 4),
        draw(3, 5, 2),
        draw(2, 3, 6),
        draw(1, 4, 1),
        draw(20, 64, 16, scale=0.3),
        draw(5, 6, 4, scale=1000.0),
        (torch.zeros(1, 3), *machine(generator, 3, 2)),  # all visible units off
    ]


def energy_of(visible: Callable[[Tensor], Tensor], hidden: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """visible(b·v) + Σ hidden(a)."""
    return lambda v, W, b, c: visible(v @ b) + hidden(c + v @ W).sum(1)


def naive_softplus(a: Tensor) -> Tensor:
    return (1 + a.exp()).log()


FREE_ENERGY = Exercise(
    reference=free_energy,
    statement="For visible states v (B, D) of an RBM with W (D, n_hidden), b (D,), c (n_hidden,): F(v) in nats, (B,), "
    "with exp(−F(v)) = Σ_h exp(−E(v, h)) and E(v, h) = −b·v − c·h − vᵀW h. Weights may be large. In torch, gradients "
    "come back through it to W, b and c.",
    nudge="Take one hidden unit. What does it add to −E when it is on, and when it is off? Sum the two exponentials. "
    "Then several units: what becomes of a sum over all h when the exponent is a sum over j?",
    right="weights in the thousands included. None of the 2^n_hidden states of h need be listed: the logarithm of "
    "their sum is a sum of n_hidden terms.",
    inputs=machines,
    differentiate=("W", "b", "c"),
    numbers_too=True,
    wrong=[
        (
            energy_of(lambda e: -e, softplus),
            "The hidden units' term has the wrong sign: every way to be on makes v more probable, and lowers F.",
        ),
        (
            energy_of(lambda e: -e, lambda a: -softplus(-a)),
            "You have log(1 + exp(−a)) for each hidden unit: the energy of being on, where its negative belongs in "
            "the exponent. exp(−E) of a unit that is on is exp(+a).",
        ),
        (
            energy_of(lambda e: -e, lambda a: -logsigmoid(a)),
            "You subtract log σ(a), the log-probability that a unit is on. What each unit adds to −F is "
            "log(1 + exp(a)), which is −log σ(−a): minus the log-probability that it is off.",
        ),
        (
            energy_of(lambda e: -e, lambda a: -torch.logaddexp(a, -a)),
            "You sum over h = −1 and h = 1. A unit is 0 or 1 here: one that is off adds exp(0) = 1, not exp(−a).",
        ),
        (
            energy_of(lambda e: -e, lambda a: -a),
            "You have the energy with every hidden unit on: the sum of the a_j, without log(1 + exp). Off is a state "
            "too, and its exp(0) = 1 counts in the sum over h.",
        ),
        (
            energy_of(lambda e: -e, lambda a: -a.relu()),
            "This is the energy of the best h alone: a unit is on where a > 0. The other states of h add to the sum "
            "as well: log(1 + exp(a)) is more than max(0, a).",
        ),
        (
            energy_of(lambda e: -e, lambda a: -a * a.sigmoid()),
            "This is the mean energy, with σ(a) in the place of h. A free energy is lower than that by the entropy of "
            "h: take the logarithm of the sum over h, not the energy of the mean h.",
        ),
        (
            lambda v, W, b, c: -(v @ b) - (1 + (c + v @ W).exp()).sum(1).log(),
            "You take the logarithm after summing over the hidden units. The sum over all h is a product of 1 + "
            "exp(a_j), so the logarithm comes first, one for each unit.",
        ),
        (
            lambda v, W, b, c: -(v @ b) - softplus((c + v @ W).sum(1)),
            "You sum the a_j first and apply log(1 + exp) once, as if the hidden units were on or off together. Each "
            "has its own two states: the sum over h is a product over j, and its logarithm a sum of terms.",
        ),
        (
            energy_of(lambda e: -e, lambda a: -naive_softplus(a)),
            "Right for small weights; exp(a) overflows for large ones and you get {yours}. log(1 + exp(a)) is about a "
            "there: `softplus` or `logaddexp` know that.",
        ),
        (
            energy_of(torch.zeros_like, lambda a: -softplus(a)),
            "b does not appear in your answer: the visible units have an energy of their own, −b·v.",
        ),
        (
            lambda v, W, b, c: -(v @ b) - softplus(v @ W).sum(1),
            "c does not appear in your answer: a hidden unit that is on adds c_j to −E, beside its weights.",
        ),
        (
            lambda v, W, b, c: -(v @ c) - softplus(b + v @ W).sum(1),
            "b and c are exchanged: b belongs to the visible units, c to the hidden ones.",
        ),
        (
            lambda v, W, b, c: free_energy(v, W, b, c).sum(),
            "You sum over the batch too. The free energy belongs to one v: sum over dimension 1, and keep B values.",
        ),
    ],
)

# ---- gibbs_step ----------------------------------------------------------------------------------------------------


def gibbs_step(v: Tensor, W: Tensor, b: Tensor, c: Tensor, u_h: Tensor, u_v: Tensor) -> Tensor:
    # u < p happens with probability p. First all hidden units given v, then all visible ones given these states.
    h = (u_h < (c + v @ W).sigmoid()).float()  # (B, n_hidden)
    return (u_v < (b + h @ W.T).sigmoid()).float()


def chains(generator: Generator) -> list[tuple[Tensor, ...]]:
    def draw(n: int, n_visible: int, n_hidden: int, scale: float = 1.0) -> tuple[Tensor, ...]:
        v, model = states(generator, n, n_visible), machine(generator, n_visible, n_hidden, scale)
        return v, *model, *(torch.rand(n, width, generator=generator) for width in (n_hidden, n_visible))

    u_h, u_v = torch.tensor([[0.9, 0.6], [0.7, 0.1]]), torch.tensor([[0.8, 0.2], [0.6, 0.4]])
    return [
        (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), *first_machine(), u_h, u_v),
        draw(50, 6, 6),
        draw(20, 8, 3),
        draw(20, 4, 10),
        draw(1, 5, 2),
        draw(100, 64, 16, scale=0.3),
        draw(50, 5, 4, scale=1000.0),
    ]


Draw = Callable[[Tensor, Tensor], Tensor]


def drawn(a: Tensor, u: Tensor) -> Tensor:
    return (u < a.sigmoid()).float()


def probability(a: Tensor, u: Tensor) -> Tensor:
    return a.sigmoid()


def thresholded(a: Tensor, u: Tensor) -> Tensor:
    return (a > 0).float()


def above(a: Tensor, u: Tensor) -> Tensor:
    return (u > a.sigmoid()).float()


def from_the_top(a: Tensor, u: Tensor) -> Tensor:
    return (u > 1 - a.sigmoid()).float()


def uphill(a: Tensor, u: Tensor) -> Tensor:
    return drawn(-a, u)


def without_sigmoid(a: Tensor, u: Tensor) -> Tensor:
    return (u < a).float()


def plus_or_minus_one(a: Tensor, u: Tensor) -> Tensor:
    return 2 * drawn(a, u) - 1


def step(hidden: Draw, visible: Draw) -> Callable[..., Tensor]:
    return lambda v, W, b, c, u_h, u_v: visible(b + hidden(c + v @ W, u_h) @ W.T, u_v)


THRESHOLDED = (
    "You cut probabilities at ½ (a rounding does that too), so a unit of p = 0.6 is always on. It has to be on in 6 of "
    "10 draws: compare p with the uniform number, in both layers."
)

GIBBS_STEP = Exercise(
    reference=gibbs_step,
    statement="One step of block Gibbs sampling in an RBM: from v (B, D) to hidden states h, from h to the new v, "
    "(B, D) of 0 and 1. A unit becomes 1 where its number in u_h (B, n_hidden) or u_v (B, D), uniform in [0, 1), is "
    "below its probability.",
    nudge="p(h_j = 1 | v) = σ(c_j + (vᵀW)_j). How do you make a 0 or 1 of a probability and a uniform number? The "
    "second half is the same with the layers exchanged.",
    right="one chain and a hundred. Both layers were drawn: repeated, the step leaves the RBM's p(v) as it is.",
    inputs=chains,
    wrong=[
        (
            step(probability, drawn),
            "You pass on the probabilities of the hidden units (mean field), and u_h is not used. p(v | h) is given a "
            "state: a mean h carries more of v than its bits can, and the chain no longer draws from p(v). Draw h.",
        ),
        (
            step(drawn, probability),
            "These are the probabilities p(v = 1 | h). The chain's next state is drawn from them: 0 or 1, with u_v.",
        ),
        (
            step(probability, probability),
            "No random number is used: these are the mean-field equations, v → σ → σ. Without chance the chain runs "
            "into one fixed point. Draw 0 or 1 in both layers.",
        ),
        (step(thresholded, thresholded), THRESHOLDED),
        (step(thresholded, drawn), THRESHOLDED),
        (step(drawn, thresholded), THRESHOLDED),
        (
            step(above, above),
            "A unit is 1 where your u is above p, which happens with probability 1 − p. Which share of u is below p?",
        ),
        (
            step(from_the_top, from_the_top),
            "A unit of yours becomes 1 where u is above 1 − p. That happens with probability p as well, but the "
            "numbers are to be compared: take u below p.",
        ),
        (
            step(uphill, uphill),
            "Your units follow σ(−a): the energy's sign is turned, so states of high energy become probable. "
            "a = c + vᵀW is how much a unit lowers E by being on; what does that do to its probability?",
        ),
        (
            step(without_sigmoid, without_sigmoid),
            "You compare u with a itself, the log-odds of being on. The sigmoid makes a probability of it.",
        ),
        (step(plus_or_minus_one, plus_or_minus_one), "Your units are −1 and 1. In this machine a unit is 0 or 1."),
        (
            lambda v, W, b, c, u_h, u_v: drawn(b + drawn(c + v @ W, u_h) @ W, u_v),
            "On the way back W is used as on the way there. W_ij links v_i with h_j: back it is the transpose.",
        ),
        (
            lambda v, W, b, c, u_h, u_v: drawn(c + drawn(b + v @ W, u_h) @ W.T, u_v),
            "b and c are exchanged: b belongs to the visible units, c to the hidden ones.",
        ),
        (
            lambda v, W, b, c, u_h, u_v: drawn(b + drawn(c + v @ W, u_v) @ W.T, u_h),
            "u_h and u_v are exchanged: u_h is for the hidden units.",
        ),
        (
            lambda v, W, b, c, u_h, u_v: drawn(b + drawn(v @ W, u_h) @ W.T, u_v),
            "c does not appear in your step: the hidden units have a bias of their own.",
        ),
        (
            lambda v, W, b, c, u_h, u_v: drawn(drawn(c + v @ W, u_h) @ W.T, u_v),
            "b does not appear in your step: the visible units have a bias of their own.",
        ),
        (
            lambda v, W, b, c, u_h, u_v: drawn(b + v @ W.T, u_v),
            "Your new v comes from the old v, past the hidden units. Visible units are not linked to each other: given "
            "h, the old v no longer matters.",
        ),
        (
            lambda v, W, b, c, u_h, u_v: drawn(c + v @ W, u_h),
            "These are the hidden states, half of the step. From them the visible units are drawn.",
        ),
    ],
)

# ---- rbm_gradient --------------------------------------------------------------------------------------------------


def rbm_gradient(v: Tensor, v_negative: Tensor, W: Tensor, c: Tensor) -> Tensor:
    # −∂F/∂W_ij = v_i σ(a_j): its mean over the data, minus its mean over the model, for which the negatives stand.
    positive = v.T @ (c + v @ W).sigmoid() / len(v)  # (D, n_hidden)
    negative = v_negative.T @ (c + v_negative @ W).sigmoid() / len(v_negative)
    return positive - negative


def phases(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    def draw(batch: int, n_negative: int, n_visible: int, n_hidden: int, scale: float = 1.0) -> tuple[Tensor, ...]:
        W, _, c = machine(generator, n_visible, n_hidden, scale)
        return states(generator, batch, n_visible), states(generator, n_negative, n_visible), W, c

    W, _, c = first_machine()
    return [
        (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]), W, c),
        draw(4, 4, 4, 4),
        draw(5, 5, 3, 2),
        draw(3, 7, 4, 6),
        draw(9, 2, 6, 4),
        draw(100, 64, 30, 16, scale=0.3),
        draw(6, 4, 5, 3, scale=100.0),
        draw(1, 3, 4, 2),
    ]


def phase(v: Tensor, W: Tensor, c: Tensor, unit: Callable[[Tensor], Tensor] = torch.sigmoid) -> Tensor:
    return v.T @ unit(c + v @ W) / len(v)


def with_units(unit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda v, v_negative, W, c: phase(v, W, c, unit) - phase(v_negative, W, c, unit)


def product_of_means(v: Tensor, v_negative: Tensor, W: Tensor, c: Tensor) -> Tensor:
    positive, negative = (torch.outer(x.mean(0), (c + x @ W).sigmoid().mean(0)) for x in (v, v_negative))
    return positive - negative


RBM_GRADIENT = Exercise(
    reference=rbm_gradient,
    statement="The gradient by W, (D, n_hidden), of the mean log-likelihood of data v (B, D), when v_negative (M, D) "
    "stands for draws from the model: the hidden units are summed out exactly.",
    nudge="log p(v) = −F(v) − log Z. Differentiate F by W_ij first. The derivative of −log Z is a mean over the model "
    "of the same thing, with the other sign.",
    right="with more and with fewer negatives than data. Once the two phases agree, learning stops.",
    inputs=phases,
    wrong=[
        (
            lambda v, v_negative, W, c: len(v) * phase(v, W, c) - len(v_negative) * phase(v_negative, W, c),
            "Your phases are sums. The log-likelihood is averaged: each phase is a mean over its own examples.",
        ),
        (
            lambda v, v_negative, W, c: phase(v, W, c) - phase(v_negative, W, c) * len(v_negative) / len(v),
            "You divide both phases by B. The M negatives have a mean of their own, and M may differ.",
        ),
        (
            lambda v, v_negative, W, c: phase(v, W, c),
            "This is the data's phase alone. It would raise the weights without end: log Z grows with them too, and "
            "the negatives stand for its derivative.",
        ),
        (
            lambda v, v_negative, W, c: phase(v, W, c) + phase(v_negative, W, c),
            "You add the phases. Raising −F everywhere changes nothing: what the data gain, the negatives lose.",
        ),
        (
            with_units(lambda a: (a > 0).float()),
            "Your hidden units are cut at ½, or rounded. The derivative of log(1 + exp(a)) is σ(a) itself, the mean of "
            "h given v: no bit need be made of it here.",
        ),
        (
            with_units(lambda a: a),
            "You multiply v with a = c + vᵀW itself. The derivative of log(1 + exp(a)) is the sigmoid of a.",
        ),
        (
            lambda v, v_negative, W, c: rbm_gradient(v, v_negative, W, torch.zeros_like(c)),
            "c does not appear in your gradient: the probability of a hidden unit depends on its bias as well.",
        ),
        (
            lambda v, v_negative, W, c: (v - v_negative).T @ (c + v @ W).sigmoid() / len(v),
            "Both phases use the hidden units of the data. The negatives have their own: σ(c + v_negativeᵀW).",
        ),
        (
            product_of_means,
            "You average v and h apart and multiply the means. What counts is whether they are on together: the mean "
            "of the products, which a matrix product divided by B gives.",
        ),
        (
            lambda v, v_negative, W, c: rbm_gradient(v, v_negative, W, c) / len(W),
            "You divide by D as well, as `v.numel()` or a mean over all of v does. The means are over the examples "
            "alone, B of them and M: `len(v)`.",
        ),
        (
            lambda v, v_negative, W, c: (
                phase(v, W, c) * len(v) / (len(v) - 1)
                - phase(v_negative, W, c) * len(v_negative) / (len(v_negative) - 1)
            ),
            "You divide by B − 1 and M − 1. That is for variances; the mean of B examples divides by B.",
        ),
    ],
)

# ---- ais_log_z -----------------------------------------------------------------------------------------------------


def ais_log_z(log_weights: Tensor, log_z_0: float) -> Tensor:
    # The mean of the weights estimates Z / Z_0: log of that mean, by logsumexp so that nothing overflows, plus log Z_0.
    return log_z_0 + log_weights.logsumexp(dim=0) - math.log(len(log_weights))


def annealed_chains(generator: Generator) -> list[tuple[Tensor, float]]:
    def draw(n: int, log_z_0: float, shift: float = 0.0, scale: float = 1.0) -> tuple[Tensor, float]:
        return scale * torch.randn(n, generator=generator) + shift, log_z_0

    return [
        (torch.tensor([0.0, 1.0, 2.0, 5.0]), 3.0),
        draw(4, 0.5),
        draw(3, -2.0),
        draw(1, 10.0),
        draw(100, 55.5, shift=20.0, scale=2.0),
        (torch.full((8,), 1.5), 4.0),  # chains that agree
        draw(10, 44.4, shift=1000.0),
        draw(10, 44.4, shift=-1000.0),
        (torch.tensor([0.0, 1000.0, -1000.0]), 5.0),  # only the largest can be taken out of the sum
        draw(5, 1000.0),
        draw(5, -1000.0),
    ]


OVERFLOWING = (
    "Right for small weights; beyond some hundred nats exp overflows or underflows and log Z becomes {yours}. Log Z of "
    "an RBM of 500 units is such a number. Take the largest log-weight out of the sum first (`logsumexp`)."
)
NOT_THE_LARGEST = (
    "You take a log-weight, or their mean, out of the sum before exp, but it is not the largest one. Where chains lie "
    "far apart, exp of the others overflows or underflows, and log Z becomes {yours}. After subtracting the largest, "
    "no exponent is above 0."
)


def after_subtracting(choose: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    def log_mean_weight(log_weights: Tensor, log_z_0: float) -> Tensor:
        shift = choose(log_weights)
        return log_z_0 + (log_weights - shift).exp().mean().log() + shift

    return log_mean_weight


AIS_LOG_Z = Exercise(
    reference=ais_log_z,
    statement="From the log-weights (n,) of n chains of annealed importance sampling, whose weights average Z / Z_0, "
    "and log_z_0 of the distribution they began with: the estimate of log Z, in nats. Log-weights may be large.",
    nudge="Without logarithms: Z ≈ Z_0 · mean of the weights. Which of the steps is a logsumexp?",
    right="weights of e^1000 beside e^−1000 included. The mean of the weights is unbiased; its logarithm errs on the "
    "low side.",
    inputs=annealed_chains,
    wrong=[
        (
            lambda log_weights, log_z_0: log_z_0 + log_weights.mean(),
            "You average the log-weights. The weights themselves average Z / Z_0; the mean of their logarithms is "
            "lower, by Jensen's inequality, and the more so the more the chains differ.",
        ),
        (
            lambda log_weights, log_z_0: log_z_0 + log_weights.logsumexp(0),
            "You sum the weights without dividing by n: twice as many chains would add log 2. The mean is meant.",
        ),
        (
            lambda log_weights, log_z_0: log_weights.logsumexp(0) - math.log(len(log_weights)),
            "This is log Z − log Z_0: the weights know only the ratio. The first distribution has a Z_0 of its own.",
        ),
        (
            lambda log_weights, log_z_0: log_weights.logsumexp(0),
            "Two things are missing: the division of the sum by n, and log_z_0 of the first distribution.",
        ),
        (
            lambda log_weights, log_z_0: log_weights.mean(),
            "You average the log-weights, and leave out log_z_0. The mean is over the weights themselves, and "
            "estimates Z / Z_0.",
        ),
        (
            lambda log_weights, log_z_0: log_weights.logsumexp(0) - math.log(len(log_weights)) - log_z_0,
            "You subtract log_z_0. The weights average Z / Z_0, so to find Z you multiply by Z_0.",
        ),
        (lambda log_weights, log_z_0: log_z_0 + log_weights.exp().mean().log(), OVERFLOWING),
        (lambda log_weights, log_z_0: (math.exp(min(log_z_0, 709)) * log_weights.exp().mean()).log(), OVERFLOWING),
        (lambda log_weights, log_z_0: (log_z_0 + log_weights).exp().mean().log(), OVERFLOWING),
        (
            lambda log_weights, log_z_0: log_z_0 + (log_weights - log_weights.max()).exp().mean().log(),
            "The largest log-weight was taken out of the sum and never put back: add it after the logarithm.",
        ),
        (after_subtracting(torch.mean), NOT_THE_LARGEST),
        (after_subtracting(lambda log_weights: log_weights[0]), NOT_THE_LARGEST),
        (after_subtracting(torch.min), NOT_THE_LARGEST),
        (
            lambda log_weights, log_z_0: log_z_0 + log_weights.max(),
            "You take the largest weight alone. The estimate is the mean of all n; one weight that outweighs the "
            "others is a sign of too few steps.",
        ),
        (
            lambda log_weights, log_z_0: log_z_0 + (-log_weights).logsumexp(0) - math.log(len(log_weights)),
            "The sign of the log-weights is turned. A weight is exp(+log_weight): these are no energies.",
        ),
        (
            lambda log_weights, log_z_0: (log_z_0 * log_weights.exp().mean()).log(),
            "log_z_0 is a logarithm already, as its name says. In logarithms a factor Z_0 is a summand: add it.",
        ),
    ],
)

# ---- predictions ---------------------------------------------------------------------------------------------------


def persistent_start() -> str:
    # Persistent: the chains never stop. A step changes the weights little, so they are still nearly at p and move on.
    return "chains"


PERSISTENT_START = Exercise(
    reference=persistent_start,
    statement='Persistent contrastive divergence: where do the Gibbs steps for the next batch start? At its "data", '
    'at "noise", or where the "chains" of the last batch ended?',
    nudge="Wherever they start, only a few steps are taken before the weights change. From where are a few enough?",
    right="where they ended. The weights have moved little, so a few steps keep the chains near the model's p(v), and "
    "over the batches each becomes one long chain.",
    wrong=[
        (
            "data",
            "That is contrastive divergence, CD-k. After k steps the negatives are still near the data, so the model "
            "never sees its probable states that lie far from them. What would persist from batch to batch?",
        ),
        (
            "noise",
            "Restarted from noise, a few steps never arrive: the negatives are then not draws from p(v) but what k "
            "steps make of noise, and nothing persists. What is left over from the last batch, and is nearly at p(v)?",
        ),
    ],
)


def log_z_terms() -> float:
    # One layer is summed out in closed form, unit by unit. The other is enumerated: take the narrow one, 2^16 states.
    return math.log2(2 ** min(64, 16))


ONE_TERM_A_UNIT = "You count a term for each unit, or weight. Each state of a layer is a term: n units have 2^n states."
HOW_MANY = "The exponent k was asked, not the number of terms 2^k. And which layer can be summed out?"

LOG_Z_TERMS = Exercise(
    reference=log_z_terms,
    statement="An RBM has 64 visible and 16 hidden units, and its Z is computed exactly. Summing one layer out by its "
    "product, how many states of the other must be listed? Give the smallest k of 2^k.",
    nudge="The free energy sums out one layer, as a product over its units. Does anything forbid summing out the other "
    "one?",
    right="65,536 terms, one for each hidden state: given h, the visible units are summed out as the hidden ones were "
    "in F(v). The course's RBM enumerates layers of up to 20 units.",
    wrong=[
        (
            80,
            "2^80 are all states of both layers. Given one layer, the units of the other are independent: their sum is "
            "a product, so that layer need not be enumerated.",
        ),
        (
            64,
            "So it is with Σ_v exp(−F(v)): the hidden units are summed out, the visible ones enumerated. The energy is "
            "alike in both layers; try the other way.",
        ),
        (2**16, "The number of terms is right. The exponent k was asked, of 2^k."),
        (2**64, HOW_MANY),
        (2**80, HOW_MANY),
        (4, ONE_TERM_A_UNIT),
        (6, ONE_TERM_A_UNIT),
        (10, ONE_TERM_A_UNIT),
        (0, "Both layers cannot be summed out at once: the product over one layer needs the state of the other."),
    ],
)

EXERCISES = [BOLTZMANN_PROBABILITIES, FREE_ENERGY, GIBBS_STEP, RBM_GRADIENT, AIS_LOG_Z, PERSISTENT_START, LOG_Z_TERMS]
