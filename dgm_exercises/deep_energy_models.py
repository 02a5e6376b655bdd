"""Exercises of notebook 03: Langevin dynamics at a temperature, three ways to train an energy, adding energies.

A step of Langevin dynamics is x ← x − η ∇E(x) + σ ε with T = σ² / 2η; η is called step_size, and the score is −∇E.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from dgm_exercises.engine import Exercise

# ---- langevin_step -------------------------------------------------------------------------------------------------


def langevin_step(x: Tensor, score: Tensor, step_size: float, temperature: float, eps: Tensor) -> Tensor:
    # Uphill in log p by η · score, and noise whose variance is 2ηT: that makes the temperature σ²/2η equal to T.
    return x + step_size * score + math.sqrt(2 * step_size * temperature) * eps


def walks(generator: Generator) -> list[tuple[Tensor, Tensor, float, float, Tensor]]:
    def draw(*shape: int, step_size: float, temperature: float = 1.0) -> tuple[Tensor, Tensor, float, float, Tensor]:
        x, score, eps = (torch.randn(shape, generator=generator) for _ in range(3))
        return x, 3 * score, step_size, temperature, eps

    easy = torch.tensor([0.0, 2.0]), torch.tensor([5.0, -5.0])
    return [
        (*easy, 0.02, 1.0, torch.tensor([1.0, 2.0])),
        (*easy, 0.02, 4.0, torch.tensor([1.0, 2.0])),
        draw(5, 2, step_size=0.1),
        draw(6, 2, step_size=0.1, temperature=0.25),
        draw(3, 1, 4, 4, step_size=0.01, temperature=4.0),
        draw(6, 3, step_size=2.0, temperature=0.5),
        draw(1, 2, step_size=0.3, temperature=0.0),
    ]


def move(drift: Callable[[float, float], float], noise: Callable[[float, float], float]) -> Callable[..., Tensor]:
    """x + drift(η, T) score + noise(η, T) ε."""
    return lambda x, score, eta, T, eps: x + drift(eta, T) * score + noise(eta, T) * eps


def right_drift(eta: float, T: float) -> float:
    return eta


def right_noise(eta: float, T: float) -> float:
    return math.sqrt(2 * eta * T)


def zero(eta: float, T: float) -> float:
    return 0.0


LANGEVIN_STEP = Exercise(
    reference=langevin_step,
    statement="One step of Langevin dynamics from x, whose chains draw from p_T ∝ exp(−E/T): the drift is step_size "
    "times the score −∇E(x), given with the shape of x; eps is standard normal noise of that shape, to be scaled and "
    "added.",
    nudge="x ← x − η ∇E(x) + σ ε runs at the temperature T = σ² / 2η. Solve this for σ. And which sign has the score?",
    right="at T = 0 too, where it is plain descent. The smaller the step, the nearer the chains come to p_T.",
    inputs=walks,
    wrong=[
        (
            move(lambda eta, T: -eta, right_noise),
            "You walk towards high energy: the sign of the drift is turned, E for −E. The score is −∇E already; it "
            "points to where p is larger, and is added.",
        ),
        (
            move(right_drift, zero),
            "There is no noise in your step. All chains then slide into the nearest minimum of E and stay there: "
            "that finds modes and draws nothing.",
        ),
        (
            move(right_drift, lambda eta, T: math.sqrt(eta * T)),
            "Your noise has the variance ηT, and the temperature is σ² / 2η: half of what is asked. Noise √η goes with "
            "a step that is halved, (η/2) · score; with η · score the noise is larger.",
        ),
        (
            move(right_drift, lambda eta, T: math.sqrt(eta)),
            "Your noise √η goes with a step that is halved, (η/2) · score. With the drift η · score it gives "
            "T = σ² / 2η = ½, whatever T is asked: solve that equation for σ.",
        ),
        (
            move(lambda eta, T: 2 * eta, right_noise),
            "You double the drift: σ² / 2η is then half of the temperature asked. The 2 belongs to the variance of the "
            "noise, and the drift is η · score.",
        ),
        (
            move(lambda eta, T: eta / 2, right_noise),
            "You halve the drift, and keep the noise of a whole step: the chains run twice as hot as asked. With "
            "T = σ² / 2η the drift is η · score.",
        ),
        (
            move(lambda eta, T: eta / 2, lambda eta, T: math.sqrt(eta * T)),
            "The temperature is right, but this is half a step: the form (η/2) · score + √η ε, in which η means twice "
            "as much. Here the drift is η · score.",
        ),
        (
            move(lambda eta, T: eta / 2, lambda eta, T: math.sqrt(eta)),
            "This is the form (η/2) · score + √η ε, in which η means twice as much, and it always runs at T = 1. Here "
            "the drift is η · score, and T is given.",
        ),
        (
            move(right_drift, lambda eta, T: 2 * eta * T),
            "2ηT is the variance of the noise. eps is multiplied by the standard deviation, its root.",
        ),
        (
            move(right_drift, lambda eta, T: math.sqrt(2 * eta) * T),
            "T stands outside of the root: then the variance, which sets the temperature, has T² in it.",
        ),
        (
            move(right_drift, lambda eta, T: math.sqrt(2 * eta)),
            "The temperature does not appear in your step: it always runs at T = 1.",
        ),
        (
            move(lambda eta, T: eta / T if T else 0.0, lambda eta, T: math.sqrt(2 * eta)),
            "You divide the score by T and leave the noise as at T = 1. Chains draw from p_T like this, too, but with "
            "another step, and T = 0 divides by 0. Here the drift is η · score, and T sets the noise.",
        ),
        (
            move(lambda eta, T: eta / T if T else 0.0, right_noise),
            "The temperature comes in twice. With the drift η · score, all of it belongs to the noise: T = σ² / 2η.",
        ),
        (
            move(right_drift, lambda eta, T: 1.0),
            "The size of your noise does not depend on step_size. Over a time of 1 there are 1/η steps, whose noises "
            "add up by their variances: each has to have a variance in proportion to η.",
        ),
    ],
)

# ---- langevin_temperature ------------------------------------------------------------------------------------------


def langevin_temperature(sigma: float, step_size: float) -> float:
    # The chains draw from exp(−E/T) / Z where σ² = 2ηT.
    return sigma**2 / (2 * step_size)


def settings(generator: Generator) -> list[tuple[float, float]]:
    return [(0.2, 0.02), (1.0, 0.25), (0.1, 0.5), (2.0, 1.0), (0.005, 10.0), (0.01, 10.0), (3.0, 0.1), (0.0, 1.0)]


LANGEVIN_TEMPERATURE = Exercise(
    reference=langevin_temperature,
    statement="The temperature T of Langevin dynamics x ← x − η ∇E(x) + σ ε, from sigma and η = step_size, both "
    "numbers.",
    nudge="At T = 1 the noise is σ = √(2η). Noise of twice the size heats how much: what doubles with T, σ or σ²?",
    right="the common recipe of step 10 and noise 0.005 among them, which is T ≈ 10⁻⁶. That is descent, with a little "
    "noise.",
    inputs=settings,
    atol=1e-12,
    wrong=[
        (
            lambda sigma, step_size: sigma / (2 * step_size),
            "sigma is not squared. Noise is counted by its variance: twice the sigma is four times the temperature.",
        ),
        (
            lambda sigma, step_size: sigma**2 / step_size,
            "Twice too hot. With the drift η ∇E, and not (η/2) ∇E, σ = √η gives T = ½: the step is not halved here.",
        ),
        (
            lambda sigma, step_size: sigma**2 / 2 * step_size,
            "`sigma**2 / 2 * step_size` divides by 2 and multiplies by the step. Brackets: both divide.",
        ),
        (
            lambda sigma, step_size: sigma**2 / 2,
            "step_size does not appear in your answer. The same noise is hotter beside a small drift.",
        ),
    ],
)

# ---- contrastive_loss ----------------------------------------------------------------------------------------------


def contrastive_loss(energy_data: Tensor, energy_model: Tensor) -> Tensor:
    # −log p(x) = E(x) + log Z, and the derivative of log Z is a mean of −∇E over the model: E(data) down, E(model) up.
    return energy_data.mean() - energy_model.mean()


def batches_of_energies(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n_data: int, n_model: int, scale: float = 1.0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
        data, model = (scale * torch.randn(n, generator=generator) for n in (n_data, n_model))
        return data + shift, model + shift

    return [
        (torch.tensor([1.0, 3.0]), torch.tensor([2.0, 7.0])),
        (torch.tensor([2.0, 5.0]), torch.tensor([-1.0, 1.0])),
        draw(4, 4),
        draw(3, 8),
        draw(16, 5, scale=5.0),
        draw(1, 1),
        draw(6, 4, shift=-20.0),
        draw(5, 9, scale=200.0),
    ]


CUT = "A `detach`, `.data`, `.item()`, `no_grad`, numpy or `torch.tensor(…)` cuts the path."

CONTRASTIVE_LOSS = Exercise(
    reference=contrastive_loss,
    statement="The scalar whose gradient is that of the mean −log p(x): from the energies (B,) of the data and (M,) of "
    "draws from the model, at T = 1.",
    nudge="Training should make the data probable. Whose energy does it lower, then, and whose does it raise?",
    right="gradients included. Its gradient is the likelihood's; its value is not −log p, and near 0 means only that "
    "data and chains look alike.",
    inputs=batches_of_energies,
    atol=1e-4,  # differences of means of hundreds, in float32
    differentiate=("energy_data", "energy_model"),
    wrong=[
        (
            lambda data, model: data.mean() - model.mean().detach(),
            "No gradient comes back to the energies of the chains, so nothing raises E where the model draws: it falls "
            "everywhere. The energy of x⁻ needs its gradient; only x⁻ itself does not.",
        ),
        (
            lambda data, model: data.mean().detach() - model.mean(),
            "No gradient comes back to the energies of the data, so nothing lowers them: the draws are pushed away, "
            "and that is all. " + CUT,
        ),
        (
            lambda data, model: data.sum() - model.sum(),
            "These are sums, which do not balance with other numbers of data and chains: each side is a mean.",
        ),
        (
            lambda data, model: (data.sum() - model.sum()) / len(data),
            "You divide both sums by the size of the data. There are M chains: their side is a mean of its own.",
        ),
        (
            lambda data, model: (data.mean() - model.mean()).abs(),
            "You take the absolute value. Where the data already have less energy than the chains, that drives them "
            "apart in the wrong direction: this loss may be negative.",
        ),
        (
            lambda data, model: data.mean() + model.mean(),
            "You add the energies. Lowering all changes nothing: what the data gain, the model's draws have to lose.",
        ),
        (
            lambda data, model: data.mean(),
            "The model's draws do not appear. Then E falls everywhere without end: log Z would rise with it, and the "
            "draws stand for its derivative.",
        ),
        (
            lambda data, model: data.mean() + (-model).logsumexp(0) - math.log(len(model)),
            "You put log of the mean exp(−E) of the chains in the place of their mean, as if they were states to sum "
            "over, each with a weight. Chains are draws from p already: the derivative of log Z is their plain mean.",
        ),
        (
            lambda data, model: softplus(data.mean() - model.mean()),
            "You put a bound on the difference. The derivative of log Z is a plain mean over the model's draws: where "
            "it flattens, the likelihood's gradient is lost.",
        ),
    ],
)

# ---- loss_gradient -------------------------------------------------------------------------------------------------


def loss_gradient(theta: Tensor, x: Tensor, chains: Tensor, step_size: float, eps: Tensor) -> Tensor:
    # ∇E(x) = θx moves the chains. ∂E/∂θ = x²/2 at fixed x: x⁻ is treated as data, whatever θ has done to it (detach).
    x_negative = chains - step_size * theta * chains + math.sqrt(2 * step_size) * eps  # (n,)
    return x.square().mean() / 2 - x_negative.square().mean() / 2


def springs(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, float, Tensor]]:
    def draw(n_data: int, n_chains: int, step_size: float) -> tuple[Tensor, Tensor, Tensor, float, Tensor]:
        theta = 0.5 + 3 * torch.rand((), generator=generator)
        x, chains, eps = (2 * torch.randn(n, generator=generator) for n in (n_data, n_chains, n_chains))
        return theta.requires_grad_(), x, chains, step_size, eps / 2

    easy = (
        torch.tensor(0.5, requires_grad=True),
        torch.tensor([0.0, 2.0]),
        torch.tensor([1.0, -2.0]),
        0.02,
        torch.tensor([1.0, 0.0]),
    )
    return [easy, draw(4, 4, 0.1), draw(3, 8, 0.05), draw(10, 2, 0.2), draw(64, 100, 0.01)]


Spring = Callable[[Tensor, Tensor, float, Tensor], Tensor]


def negatives(theta: Tensor, chains: Tensor, step_size: float, eps: Tensor) -> Tensor:
    return chains - step_size * theta * chains + math.sqrt(2 * step_size) * eps


def with_negatives(draw: Spring) -> Callable[..., Tensor]:
    return lambda theta, x, *rest: x.square().mean() / 2 - draw(theta, *rest).square().mean() / 2


def through_the_chain(theta: Tensor, x: Tensor, chains: Tensor, step_size: float, eps: Tensor) -> Tensor:
    """What ∂x⁻/∂θ = −η chains adds to the derivative of E(x⁻)."""
    return -(theta * negatives(theta, chains, step_size, eps) * step_size * chains).mean()


LOSS_GRADIENT = Exercise(
    reference=loss_gradient,
    statement="The energy E(x) = theta x²/2 has one parameter, theta, which requires a gradient. chains (n,) take one "
    "Langevin step at T = 1, with step_size and the given noise eps (n,), and become the negatives x⁻. The derivative "
    "by theta of the maximum likelihood loss, mean E(x) − mean E(x⁻), for data x (B,): a scalar.",
    nudge="The loss stands for −log p, where x⁻ is any draw from p. Does a change of theta move x⁻ there, or does it "
    "only change the energy at x⁻? By autograd: where does the graph have to end?",
    right="with more and with fewer chains than data. The chains are treated as data: no gradient through their steps.",
    inputs=springs,
    wrong=[
        (
            lambda *a: loss_gradient(*a) - through_the_chain(*a),
            "You differentiate through the chain: x⁻ depends on theta, and that added a term. −log p has no such term "
            "(and over a hundred steps it would hold a hundred graphs): x⁻ is a draw. End its graph with `detach`.",
        ),
        (
            lambda theta, *rest: theta * loss_gradient(theta, *rest),
            "This is the loss, {yours}: the energies still hold theta. Its derivative by theta is asked.",
        ),
        (
            lambda *a: 2 * loss_gradient(*a),
            "The ½ of the energy is lost: the derivative of theta x²/2 by theta is x²/2.",
        ),
        (
            lambda theta, x, chains, step_size, eps: (
                theta * (x.mean() - negatives(theta, chains, step_size, eps).mean())
            ),
            "You differentiate by x: theta · x moves the chains. The gradient that trains is by theta, at fixed x.",
        ),
        (
            with_negatives(lambda theta, chains, step_size, eps: chains),
            "Your chains have not moved: x⁻ is where they are after the Langevin step.",
        ),
        (
            with_negatives(lambda theta, chains, step_size, eps: chains - step_size * theta * chains),
            "There is no noise in your Langevin step: the chains slide towards 0, and their x² is too small.",
        ),
        (
            with_negatives(lambda theta, chains, step_size, eps: negatives(-theta, chains, step_size, eps)),
            "Your chains climb: the sign of their drift is turned, E for −E. They go down the energy, −η theta x.",
        ),
        (
            with_negatives(
                lambda theta, chains, step_size, eps: negatives(theta, chains, step_size, eps / math.sqrt(2))
            ),
            "Your noise √η goes with a step that is halved: with the drift η ∇E, T = ½. At T = 1, σ² / 2η = 1.",
        ),
        (
            lambda theta, x, chains, step_size, eps: (
                x.square().mean() / 2 + negatives(theta, chains, step_size, eps).square().mean() / 2
            ),
            "You add the two sides. The loss is E(x) − E(x⁻): what the data gain, the negatives have to lose.",
        ),
        (
            lambda theta, x, chains, step_size, eps: (
                x.square().sum() / 2 - negatives(theta, chains, step_size, eps).square().sum() / 2
            ),
            "These are sums. Each side is a mean over its own number of examples.",
        ),
    ],
)

# ---- denoising_loss ------------------------------------------------------------------------------------------------


def denoising_loss(score: Tensor, eps: Tensor, sigma: float) -> Tensor:
    # The score of N(x̃; x, σ²) at x̃ = x + σε is −ε/σ: the difference s + ε/σ, times σ, squared, summed over an example.
    return (sigma * score + eps).square().flatten(start_dim=1).sum(dim=1) / 2


def noisy_examples(generator: Generator) -> list[tuple[Tensor, Tensor, float]]:
    def draw(*shape: int, sigma: float) -> tuple[Tensor, Tensor, float]:
        eps = torch.randn(shape, generator=generator)
        return (torch.randn(shape, generator=generator) - eps) / sigma, eps, sigma

    return [
        (torch.tensor([[2.0, -4.0], [0.0, 6.0]]), torch.tensor([[1.0, 1.0], [0.0, -1.0]]), 0.5),
        draw(4, 4, sigma=0.3),
        draw(5, 2, sigma=2.0),
        draw(3, 1, 4, 4, sigma=0.1),
        draw(1, 3, sigma=1.0),
        (torch.tensor([[-2.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, -2.0], [0.0, -1.0]]), 0.5),  # the exact score
    ]


def half_square(difference: Tensor) -> Tensor:
    return difference.square().flatten(1).sum(1) / 2


DENOISING_LOSS = Exercise(
    reference=denoising_loss,
    statement="From the model's scores s at x̃ = x + σε, of shape (B, …), the noise eps of that shape and the number "
    "sigma: ½ σ² times the squared distance of s from the score of N(x̃; x, σ² I), one value per example, (B,).",
    nudge="log N(x̃; x, σ² I) = −|x̃ − x|² / 2σ² + const. Differentiate it by x̃, and put in x̃ − x = σε.",
    right="gradients and images included. It is 0 for s = −ε/σ, which no function of x̃ can know: the best one is the "
    "mean of −ε/σ given x̃, the score of the blurred data.",
    inputs=noisy_examples,
    differentiate=("score",),
    wrong=[
        (
            lambda score, eps, sigma: half_square(sigma * score - eps),
            "The sign of eps is turned: your score would point along the noise, away from the data. It has to point "
            "back, to where x̃ is more probable.",
        ),
        (
            lambda score, eps, sigma: half_square(score + eps),
            "sigma does not appear. The smaller the noise, the steeper its density, and the larger its score: "
            "differentiate log N by x̃, and see what is left of sigma.",
        ),
        (
            lambda score, eps, sigma: half_square(score + eps / sigma),
            "This is ½ ‖s + ε/σ‖², without the factor σ². Right, and the form of the first papers, but its size runs "
            "away as 1/σ²; with σ² it is comparable between noises.",
        ),
        (
            lambda score, eps, sigma: half_square(score + eps / sigma**2),
            "You divide eps by σ². The score is −(x̃ − x)/σ², and x̃ − x is σε: one σ cancels.",
        ),
        (
            lambda score, eps, sigma: (sigma * score + eps).square().flatten(1).mean(1),
            "You average over the dimensions of the example, and leave out the ½. A squared distance is a sum.",
        ),
        (
            lambda score, eps, sigma: (sigma * score + eps).square().flatten(1).mean(1) / 2,
            "You average over the dimensions of the example. A squared distance is their sum; the batch comes later.",
        ),
        (
            lambda score, eps, sigma: 2 * half_square(sigma * score + eps),
            "The ½ is missing. With it, the loss has the size of the negative log-density of a Gaussian.",
        ),
        (
            lambda score, eps, sigma: (sigma * score + eps).flatten(1).norm(dim=1),
            "This is the distance, and not its square: the best s would be a median of −ε/σ instead of its mean.",
        ),
        (
            lambda score, eps, sigma: (sigma * score + eps).square().sum(-1) / 2,
            "You sum over the last dimension alone. An image has more: all but the first belong to the example.",
        ),
    ],
)

# ---- nce_loss ------------------------------------------------------------------------------------------------------


def nce_loss(log_p_data: Tensor, log_noise_data: Tensor, log_p_noise: Tensor, log_noise_noise: Tensor) -> Tensor:
    # The log-odds that x is data are log p(x) − log p_noise(x). −log σ(a) = log(1 + exp(−a)) = softplus(−a).
    loss_data = torch.nn.functional.softplus(log_noise_data - log_p_data).mean()
    loss_noise = torch.nn.functional.softplus(log_p_noise - log_noise_noise).mean()
    return loss_data + loss_noise


def contrasts(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    def draw(n: int, scale: float = 1.0, shift: float = -2.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return tuple(scale * torch.randn(n, generator=generator) + shift for _ in range(4))

    easy = ([-1.0, -2.0], [-3.0, -2.0], [-5.0, -1.0], [-2.0, -2.0])
    return [
        tuple(map(torch.tensor, easy)),
        draw(4),
        draw(1),
        draw(32, scale=3.0),
        draw(10, shift=-1000.0),  # densities underflow in many dimensions; their ratio does not
        draw(10, shift=300.0, scale=2.0),
        draw(10, scale=1000.0),
    ]


Contrast = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def on_logits(loss: Callable[[Tensor, Tensor], Tensor]) -> Contrast:
    """A loss of the log-odds that data, and noise, are data."""
    return lambda p_data, noise_data, p_noise, noise_noise: loss(p_data - noise_data, p_noise - noise_noise)


def two_sides(data: Tensor, noise: Tensor) -> Tensor:
    return softplus(-data).mean() + softplus(noise).mean()


def by_densities(p_data: Tensor, noise_data: Tensor, p_noise: Tensor, noise_noise: Tensor) -> Tensor:
    data = p_data.exp() / (p_data.exp() + noise_data.exp())
    noise = noise_noise.exp() / (p_noise.exp() + noise_noise.exp())
    return -data.log().mean() - noise.log().mean()


def by_sigmoid(data: Tensor, noise: Tensor) -> Tensor:
    return -data.sigmoid().log().mean() - (1 - noise.sigmoid()).log().mean()


SIGMOID_UNDERFLOWS = (
    "Right for moderate odds; where the classifier is sure and wrong, a sigmoid rounds to 0 or 1, or exp overflows, "
    "and the loss becomes {yours}. log(1 + exp(a)) is about a there: `softplus` and `logsigmoid` know that."
)
NCE_LOSS = Exercise(
    reference=nce_loss,
    statement="Noise-contrastive estimation with as much noise as data: from log p of the model and log p_noise, at "
    "data and at noise, (B,) each: the mean of −log P(data | x) over the data plus the mean of −log P(noise | x) over "
    "the noise, in nats. log_noise_data is log p_noise at the data. "
    "Log-densities may be large.",
    nudge="By Bayes' rule P(data | x) = p / (p + p_noise). Divide by p: which function of log p − log p_noise is it?",
    right="gradients and densities of e^−1000 included. For p = p_noise it is 2 log 2 = 1.386: nothing can be told "
    "apart. A p that does not sum to 1 pays for it here, so log Z can be learnt.",
    inputs=contrasts,
    differentiate=("log_p_data", "log_p_noise"),
    wrong=[
        (
            lambda p_data, noise_data, p_noise, noise_noise: two_sides(
                p_data - noise_data, p_noise.detach() - noise_noise
            ),
            "No gradient comes back to log p at the noise, so nothing lowers p there. The noise and its density are "
            "given; the model's log p needs its gradient at the noise as well.",
        ),
        (
            lambda p_data, noise_data, p_noise, noise_noise: two_sides(
                p_data.detach() - noise_data, p_noise - noise_noise
            ),
            "No gradient comes back to log p at the data, so nothing raises p there. " + CUT,
        ),
        (
            lambda p_data, noise_data, p_noise, noise_noise: two_sides(p_data, p_noise),
            "The noise density does not appear: log p itself is your logit, as if p_noise were 1 everywhere. What "
            "tells data from noise is the ratio p / p_noise.",
        ),
        (
            lambda p_data, noise_data, p_noise, noise_noise: two_sides(p_data - noise_data, p_noise),
            "The noise density stands in one of the two logits only. Both sides ask the same classifier: log p − "
            "log p_noise, at data and at noise alike.",
        ),
        (
            on_logits(lambda data, noise: softplus(data).mean() + softplus(-noise).mean()),
            "The labels are exchanged (or the sign of the log-odds): the loss is small where data look like noise.",
        ),
        (
            on_logits(lambda data, noise: softplus(-data).mean() + softplus(-noise).mean()),
            "Both sides have the label data. The noise has the other: −log P(noise | x) = −log(1 − P(data | x)).",
        ),
        (
            on_logits(lambda data, noise: softplus(-data).mean()),
            "This is the data's side alone: a p that is large everywhere would win. The noise's side holds it down.",
        ),
        (
            on_logits(lambda data, noise: two_sides(data, noise) / 2),
            "This is half of it: your mean runs over all 2B examples, as a classifier's loss does. The same p makes it "
            "smallest; here the loss is the sum of two means, one for each side.",
        ),
        (
            on_logits(lambda data, noise: softplus(-data).mean() - softplus(noise).mean()),
            "You subtract the noise's side. Both are −log of a probability that should be large: both have a plus.",
        ),
        (
            on_logits(lambda data, noise: noise.mean() - data.mean()),
            "You use the log-odds themselves, without the logistic function: that loss has no lower bound, and "
            "examples that are told apart long since still pull. −log of a probability is asked.",
        ),
        (
            by_densities,
            "Right while the densities are ordinary numbers; exp(−1000) is 0 in floats, and the ratio of two such "
            "densities becomes {yours}. Their logarithms stay ordinary: subtract them, and stay with logarithms.",
        ),
        (on_logits(by_sigmoid), SIGMOID_UNDERFLOWS),
        (
            on_logits(lambda data, noise: -data.sigmoid().log().mean() - (-noise).sigmoid().log().mean()),
            SIGMOID_UNDERFLOWS,
        ),
        (
            on_logits(lambda data, noise: (1 + (-data).exp()).log().mean() + (1 + noise.exp()).log().mean()),
            SIGMOID_UNDERFLOWS,
        ),
    ],
)

# ---- mala_log_ratio ------------------------------------------------------------------------------------------------


def mala_log_ratio(
    x: Tensor, x_new: Tensor, energy: Tensor, energy_new: Tensor, score: Tensor, score_new: Tensor, step_size: float
) -> Tensor:
    # log of p(x′) q(x | x′) / p(x) q(x′ | x), with the Langevin proposal q(x′ | x) = N(x′; x + η score, 2η).
    there = -(x_new - x - step_size * score).square() / (4 * step_size)
    back = -(x - x_new - step_size * score_new).square() / (4 * step_size)
    return energy - energy_new + back - there


def proposals(generator: Generator) -> list[tuple]:
    def draw(n: int, step_size: float, temper: float = 1.0) -> tuple:
        """A proposal from the energy x⁴/4: score −x³."""
        x = temper * torch.randn(n, generator=generator)
        x_new = x - step_size * x**3 + math.sqrt(2 * step_size) * torch.randn(n, generator=generator)
        return x, x_new, x**4 / 4, x_new**4 / 4, -(x**3), -(x_new**3), step_size

    x, x_new = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    return [
        (x, x_new, x.square() / 2, x_new.square() / 2, -x, -x_new, 0.25),  # E = x²/2
        draw(9, 0.1),
        draw(12, 0.5),
        draw(20, 0.02),
        draw(50, 0.2, temper=1.5),
        draw(8, 0.001, temper=5.0),  # energies of hundreds: no density is left in floats
        (x, x, x, x, -x, -x, 0.1),  # a proposal that stays
    ]


def ratio(
    energies: float = 1, back: float = 1, there: float = 1, variance: Callable[[float], float] = lambda eta: 2 * eta
) -> Callable[..., Tensor]:
    """The log ratio with other weights of its three parts, or another variance of the proposal."""

    def log_ratio(x, x_new, energy, energy_new, score, score_new, eta):
        forward = -(x_new - x - eta * score).square() / (2 * variance(eta))
        backward = -(x - x_new - eta * score_new).square() / (2 * variance(eta))
        return energies * (energy - energy_new) + back * backward - there * forward

    return log_ratio


def with_scores(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    return lambda x, x_new, e, e_new, score, score_new, eta: mala_log_ratio(
        x, x_new, e, e_new, *change(score, score_new), eta
    )


MALA_LOG_RATIO = Exercise(
    reference=mala_log_ratio,
    statement="Metropolis-adjusted Langevin on a line, T = 1: log of [p(x′) q(x | x′)] / [p(x) q(x′ | x)], (n,), for "
    "chains at x with the proposals x_new = x′, drawn from q(x′ | x) = N(x′; x + step_size · score, 2 · step_size). "
    "Energies and scores are given at x and at x_new, (n,) each.",
    nudge="Four logarithms: log p at both ends (Z cancels), and two Gaussians of the same variance, one for the way "
    "there and one for the way back. The mean of the way back starts at x′ with the score there.",
    right="a proposal that stays included, where the ratio is 1. Accepted with probability min(1, ratio), the chains "
    "have no error left that depends on the step.",
    inputs=proposals,
    atol=1e-3,  # differences of energies of hundreds, in float32
    wrong=[
        (
            ratio(back=0, there=0),
            "The proposals' densities are left out: that is Metropolis' rule for symmetric proposals (without their "
            "drift they cancel, too). A Langevin step is easier downhill: q(x | x′) / q(x′ | x) corrects for it.",
        ),
        (
            ratio(back=-1, there=-1),
            "The proposals are exchanged: in the ratio, the way back q(x | x′) is on top, and the way there below.",
        ),
        (ratio(energies=-1), "The energies have the wrong sign (E for −E): log p(x′) − log p(x) is E(x) − E(x′)."),
        (ratio(back=0), "The way back, q(x | x′), is missing."),
        (
            ratio(variance=lambda eta: eta),
            "Your proposal has the variance η. A Langevin step at T = 1 adds √(2η) ε, so its variance is 2η, and the "
            "exponent's denominator twice that.",
        ),
        (
            ratio(variance=lambda eta: 4 * eta**2),
            "You take 2η for the standard deviation of the proposal. It is the variance: do not square it again.",
        ),
        (
            ratio(variance=lambda eta: eta**2),
            "You take η for the standard deviation of the proposal. A Langevin step at T = 1 adds √(2η) ε.",
        ),
        (
            with_scores(lambda score, score_new: (score, score)),
            "Both ways use the score at x. The way back starts at x′ and drifts with the score there.",
        ),
        (
            with_scores(lambda score, score_new: (score / 2, score_new / 2)),
            "Your proposals drift by (η/2) · score, the form whose noise is √η ε. Here the mean is x + η · score.",
        ),
        (
            with_scores(lambda score, score_new: (-score, -score_new)),
            "Your proposals drift towards high energy: the score is −∇E already, and is added to x.",
        ),
        (
            lambda *a: mala_log_ratio(*a).clamp(max=0),
            "You cut at 0: that is log of the probability of acceptance, min(1, ratio). The ratio itself is asked.",
        ),
    ],
)

# ---- composed_energy -----------------------------------------------------------------------------------------------


def composed_energy(energy_class: Tensor, energy_style: Tensor, energy_all: Tensor) -> Tensor:
    # Bayes: p(x | a, b) ∝ p(a | x) p(b | x) p(x), and p(a | x) ∝ p(x | a) / p(x): so p(x | a) p(x | b) / p(x).
    return energy_class + energy_style - energy_all


def pairs_of_conditions(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    def draw(n: int, scale: float = 1.0, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(scale * torch.randn(n, generator=generator) + shift for _ in range(3))

    return [
        (torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0]), torch.tensor([0.5, 1.0])),
        draw(5),
        draw(1),
        draw(100, scale=5.0),
        draw(8, shift=-1000.0),
    ]


COMPOSED_ENERGY = Exercise(
    reference=composed_energy,
    statement="Three energy models give E of p(x | class), of p(x | style) and of p(x), each (B,). Given x, class and "
    "style are independent. The energy (B,) of p(x | class, style), with no constant added.",
    nudge="Write p(x | a, b) with Bayes' rule, and then p(a | x) with Bayes' rule once more. Which densities of x "
    "stand above the fraction line, and which below?",
    right="whatever the zeros of the energies. Each of the two conditions holds p(x) once; together it counts once.",
    inputs=pairs_of_conditions,
    wrong=[
        (
            lambda a, b, everything: a + b,
            "A product of the two densities counts p(x) twice: each of them already holds what any x must have. What "
            "both share is to be counted once.",
        ),
        (
            lambda a, b, everything: (a + b) / 2,
            "This is the mean of the energies, the geometric mean of the densities: neither condition then counts "
            "whole, and p(x) is in it by accident.",
        ),
        (lambda a, b, everything: a, "The style does not appear: this is the energy of p(x | class) alone."),
        (lambda a, b, everything: b, "The class does not appear: this is the energy of p(x | style) alone."),
        (
            lambda a, b, everything: a - everything,
            "The style does not appear: this is −log p(class | x), but for a constant.",
        ),
        (
            lambda a, b, everything: a + b + everything,
            "You multiply by p(x) once more. Each condition holds it already, together twice: divide one out.",
        ),
        (
            lambda a, b, everything: a + b - 2 * everything,
            "You divide by p(x) twice: this is −log of p(class | x) p(style | x). x must still look like data.",
        ),
        (
            lambda a, b, everything: a - b,
            "This is a difference: x fits the class and avoids the style. Both are to hold.",
        ),
        (
            lambda a, b, everything: -torch.logaddexp(-a, -b),
            "This is the mixture: x is to please one of the two conditions, exp(−E_a) + exp(−E_b). For both at once "
            "the densities are multiplied, and energies add.",
        ),
        (
            lambda a, b, everything: a * b,
            "You multiply the energies. Densities multiply; what becomes of a product under −log?",
        ),
    ],
)

EXERCISES = [
    LANGEVIN_TEMPERATURE,
    LANGEVIN_STEP,
    MALA_LOG_RATIO,
    CONTRASTIVE_LOSS,
    LOSS_GRADIENT,
    DENOISING_LOSS,
    NCE_LOSS,
    COMPOSED_ENERGY,
]
