"""Exercises of notebook 01: divergences, maximum likelihood, classical models, the normalising constant."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dgm_exercises.engine import Exercise

# ---- kl_divergence -------------------------------------------------------------------------------------------------


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    # KL(p ‖ q) = Σ p log(p/q). Where p is 0 the term is 0, since p log p → 0; where only q is 0 it is infinite.
    terms = p * (p.log() - q.log())  # (…, K)
    return torch.where(p > 0, terms, 0.0).sum(dim=-1)


def pairs_of_distributions(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).softmax(-1)

    same = draw(3, 5)
    return [
        (torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])),
        (draw(4), draw(4)),
        (draw(3, 5), draw(3, 5)),
        (draw(2, 3, 4), draw(2, 3, 4)),
        (draw(1, 6), draw(1, 6)),
        (same, same),
        (draw(50, 17), draw(50, 17)),
        (torch.tensor([0.0, 0.2, 0.8]), torch.tensor([0.3, 0.3, 0.4])),
        (torch.tensor([0.0, 0.4, 0.6]), torch.tensor([0.0, 0.5, 0.5])),
        (torch.tensor([0.3, 0.3, 0.4]), torch.tensor([0.0, 0.2, 0.8])),
    ]


def kl_clamped(p: Tensor, q: Tensor) -> Tensor:
    p, q = p.clamp(min=1e-12), q.clamp(min=1e-12)
    return (p * (p / q).log()).sum(-1)


DIFFERENCES = (
    "This measures p − q. A divergence of likelihoods compares by ratio: 0.001 for 0.1 is a worse mistake than 0.5 "
    "for 0.6, though the difference is the same."
)

CROSS_ENTROPY = (
    "This is the cross-entropy −Σ p log q, {yours}: it is not 0 even for q = p. Subtract the entropy of p, and what "
    "remains is the price of using q."
)

KL_DIVERGENCE = Exercise(
    reference=kl_divergence,
    statement="KL(p ‖ q) in nats of discrete distributions along the last dimension, (…, K) → (…); 0 · log 0 is 0.",
    nudge="It is the mean, under p, of how much more probable p finds an outcome than q does: a mean of log p/q.",
    right="zeros included. It is 0 only where p = q, and infinite where q rules out what p can do.",
    inputs=pairs_of_distributions,
    wrong=[
        (
            lambda p, q: kl_divergence(q, p),
            "This is KL(q ‖ p), the other direction. The mean is taken under the first one, p; maximum likelihood "
            "minimises this one with the data as p.",
        ),
        (
            lambda p, q: kl_divergence(p, q) / p.shape[-1],
            "You average over the K outcomes. The weights p already make a mean of the terms, so they are summed.",
        ),
        (
            lambda p, q: (p * (p / q).log()).sum(-1),
            "Right as long as p > 0. Where p is 0, the computer makes 0 · (−inf) = nan of it; the term's limit is 0. "
            "`torch.where` or `torch.xlogy` can say so.",
        ),
        (lambda p, q: -(p * q.log()).sum(-1), CROSS_ENTROPY),
        (lambda p, q: -torch.xlogy(p, q).sum(-1), CROSS_ENTROPY),
        (
            lambda p, q: (p.log() - q.log()).sum(-1),
            "The terms log p/q are not weighted. The mean is under p: outcomes that p finds likely count more.",
        ),
        (lambda p, q: (p - q).abs().sum(-1), DIFFERENCES),
        (lambda p, q: (p - q).square().sum(-1), DIFFERENCES),
        (
            lambda p, q: (kl_divergence(p, q) + kl_divergence(q, p)) / 2,
            "You average both directions. KL(p ‖ q) is not symmetric, and which direction is meant decides what a "
            "model learns: here the mean under p alone is asked.",
        ),
        (
            kl_clamped,
            "Right until q = 0 where p > 0. There q calls impossible what happens with probability p, and the KL is "
            "infinite; a clamp, a small constant or a mask turns that into {yours}, a number that only it decides.",
        ),
    ],
)

# ---- fit_gaussian --------------------------------------------------------------------------------------------------


def fit_gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    # Setting the derivatives of the log-likelihood to 0: mu is the mean, sigma² the mean squared distance from it.
    mu = x.mean()
    sigma = (x - mu).square().mean().sqrt()
    return mu, sigma


def samples(generator: Generator) -> list[tuple[Tensor]]:
    def draw(n: int, mu: float = 0.0, sigma: float = 1.0) -> tuple[Tensor]:
        return (mu + sigma * torch.randn(n, generator=generator),)

    return [
        (torch.tensor([0.0, 0.0, 0.0, 4.0]),),
        draw(2),
        draw(5, mu=-2.0),
        draw(20, sigma=100.0),
        draw(50, mu=3.0, sigma=0.5),
        draw(1000),
        (torch.rand(30, generator=generator).pow(3),),  # skewed: mean and median lie apart
        (torch.full((6,), 1.5),),
        (torch.full((7,), 0.1),),  # whose mean, in float32, need not be 0.1
        draw(1),
        (torch.tensor([4096.0, 4097.0]),),  # x² has more digits than float32 keeps
        draw(30, mu=10000.0),
    ]


def middle(x: Tensor) -> Tensor:
    return x.quantile(0.5)  # between the two middle ones where N is even; torch's median takes the lower


def root_mean_square(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


MEDIAN = (
    "Your mu is the median. It makes Σ |x − mu| smallest; the Gaussian's likelihood asks for the smallest Σ (x − mu)², "
    "and that is at the mean."
)
SUM_OF_SQUARES = (
    "Your second value grows with the number of points: the squared distances are summed. sigma is the root of their "
    "mean."
)

FIT_GAUSSIAN = Exercise(
    reference=fit_gaussian,
    statement="The mean and the standard deviation (mu, sigma) of the Gaussian under which the data x (N,) are most "
    "likely; they may lie close together and far from 0, and N may be 1.",
    nudge="Write the log-likelihood of N points, −N log sigma − Σ (x − mu)² / 2 sigma² + const, and find where its "
    "derivatives are 0.",
    right="two points and skewed data included. No other Gaussian gives these data a higher likelihood.",
    inputs=samples,
    wrong=[
        (
            lambda x: (x.mean(), (x.var(correction=0) * len(x) / (len(x) - 1)).sqrt()),
            "Your sigma divides by N − 1. That makes the variance unbiased, but it does not make the data most "
            "likely: maximum likelihood divides by N (`correction=0` in torch).",
        ),
        (
            lambda x: (x.mean(), x.var(correction=0)),
            "Your second value is the variance. sigma is its square root, in the same unit as x.",
        ),
        (
            lambda x: (x.median(), (x - x.median()).abs().mean()),
            "Median and mean distance are the maximum-likelihood fit of a Laplace distribution, whose density falls "
            "with |x − mu|. A Gaussian's falls with the square.",
        ),
        (lambda x: (x.mean(), (x - x.mean()).square().sum().sqrt()), SUM_OF_SQUARES),
        (lambda x: (x.mean(), (x - x.mean()).square().sum()), SUM_OF_SQUARES),
        (lambda x: (x.median(), x.std(correction=0)), MEDIAN),
        (lambda x: (middle(x), x.std(correction=0)), MEDIAN),
        (
            lambda x: (x.mean(), (x - x.mean()).abs().mean()),
            "Your sigma is the mean of |x − mu|. A Gaussian's distance is squared: average squares, take the root.",
        ),
        (
            lambda x: (x.mean(), root_mean_square(x)),
            "Your sigma is the root of the mean of x², the distance from 0. Measure the distance from mu.",
        ),
        (
            lambda x: (x.mean(), (x.square().mean() - x.mean().square()).clamp(min=0).sqrt()),
            "E[x²] − E[x]² is right on paper. Far from 0 both are large and nearly equal, and float32 keeps few of the "
            "digits in which they differ. Subtract mu first, and square then.",
        ),
        (
            lambda x: (x.mean(), x.std(correction=0) / math.sqrt(len(x))),
            "Your second value is sigma / √N, how uncertain the mean is. The data's spread does not shrink with N.",
        ),
    ],
)

# ---- responsibilities ----------------------------------------------------------------------------------------------


def responsibilities(x: Tensor, weights: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    # Bayes' rule: p(k|x) ∝ p(k) p(x|k). In logarithms, because far from all components every p(x|k) is 0 in floats.
    # The constant −½ log 2π is the same for every component, so it drops out.
    log_joint = weights.log() - sigma.log() - ((x[:, None] - mu) / sigma).square() / 2  # (N, K)
    return log_joint.softmax(dim=1)


def mixtures(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    def draw(n: int, components: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, mu = (2 * torch.randn(size, generator=generator) for size in (n, components))
        weights = torch.randn(components, generator=generator).softmax(0)
        return x, weights, mu, 0.5 + 1.5 * torch.rand(components, generator=generator)

    far = torch.tensor([0.5, 1000.0, -1000.0])
    return [
        (torch.tensor([0.0, 1.0]), torch.tensor([0.75, 0.25]), torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.5])),
        draw(5, 3),
        draw(4, 4),
        draw(1, 4),
        draw(100, 2),
        draw(10, 1),
        (far, torch.tensor([0.5, 0.5]), torch.tensor([0.0, 3.0]), torch.tensor([1.0, 2.0])),
        (torch.tensor([6.0, 9.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 10.0]), torch.tensor([1.0, 1.0])),
        (torch.tensor([1.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.0, 2.0]), torch.tensor([0.1, 0.1])),  # a tie
        # The component that explains these points best never occurs.
        (torch.tensor([0.0, 9.0]), torch.tensor([0.5, 0.5, 0.0]), torch.tensor([-8.0, -7.0, 9.0]), torch.ones(3)),
    ]


def joint(x: Tensor, weights: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return weights * torch.exp(-((x[:, None] - mu) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))


def log_density(x: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return -sigma.log() - ((x[:, None] - mu) / sigma).square() / 2 - math.log(2 * math.pi) / 2


def shared_by(log_joint: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *mixture: log_joint(*mixture).softmax(1)


OVER_THE_POINTS = (
    "Your columns sum to 1, over the data. Each point is shared out among the components, so each row has to: "
    "normalise over dimension 1."
)
WEIGHTS_WITHOUT_LOG = (
    "The weights themselves stand among logarithms. weight · density becomes log weight + log density there."
)

RESPONSIBILITIES = Exercise(
    reference=responsibilities,
    statement="For points x (N,) and a mixture of K Gaussians, weights, means mu, standard deviations sigma (K,), the "
    "matrix p(k|x), (N, K). Points may lie very far away, and weights may be 0.",
    nudge="Bayes' rule: how probable is component k, times how probable is x under it; then make each row sum to 1.",
    right="points a thousand standard deviations away included. Each row sums to 1: how the E step shares out a point.",
    inputs=mixtures,
    wrong=[
        (
            shared_by(lambda x, weights, mu, sigma: (weights + 1e-8).log() + log_density(x, mu, sigma)),
            "A small constant keeps a weight from being 0 (`Categorical` adds one), so that a component that never "
            "occurs explains a point near it. log 0 = −inf does no harm: softmax gives that component 0.",
        ),
        (
            shared_by(lambda x, weights, *normals: log_density(x, *normals)),
            "The weights are missing, as if all components were equally common. Bayes' rule multiplies p(x|k) by p(k).",
        ),
        (lambda x, weights, *normals: (weights.log() + log_density(x, *normals)).softmax(0), OVER_THE_POINTS),
        (shared_by(lambda x, weights, *normals: weights + log_density(x, *normals)), WEIGHTS_WITHOUT_LOG),
        (shared_by(lambda x, weights, *normals: weights * log_density(x, *normals)), WEIGHTS_WITHOUT_LOG),
        (joint, "This is the joint p(k) p(x|k), and its rows sum to p(x). Divide by that sum and each row sums to 1."),
        (
            lambda x, weights, *normals: weights.log() + log_density(x, *normals),
            "These are the logarithms of p(k) p(x|k). Each row still has to sum to 1: a softmax over dimension 1.",
        ),
        (
            lambda x, weights, *normals: weights * log_density(x, *normals).softmax(1),
            "The weights come after the normalisation, so the rows no longer sum to 1. Multiply first, then normalise.",
        ),
        (
            lambda *mixture: torch.nn.functional.one_hot(responsibilities(*mixture).argmax(1), len(mixture[1])),
            "You give each point wholly to its most probable component, as k-means does; p(k|x) keeps the doubt.",
        ),
        (
            lambda *mixture: joint(*mixture) / joint(*mixture).sum(1, keepdim=True),
            "Right near the data. Far away every p(x|k) underflows to 0 and you divide 0 by 0. Stay in logarithms: "
            "`log_joint - log_joint.logsumexp(...)`, or a softmax of it.",
        ),
        (
            lambda *mixture: joint(*mixture) / (joint(*mixture).sum(1, keepdim=True) + 1e-12),
            "Right near the data. Far away every p(x|k) underflows to 0, and the small constant in your denominator "
            "makes the row sum to 0 instead of 1. In logarithms nothing underflows.",
        ),
        (
            shared_by(lambda x, w, mu, sigma: w.log() - sigma.log() / 2 - (x[:, None] - mu) ** 2 / sigma / 2),
            "You use sigma as if it were the variance. Divide x − mu by it, the standard deviation, before you square.",
        ),
        (
            shared_by(lambda x, w, mu, sigma: w.log() + log_density(x, mu, sigma**2)),
            "You use the variance for the standard deviation, as `Normal(mu, sigma**2)` does: Normal is given sigma.",
        ),
        (
            shared_by(lambda x, w, mu, sigma: w.log() + log_density(x, mu, sigma) - sigma.log()),
            "You subtract log sigma² without its half. The factor is 1/sigma, and −log sigma = −½ log sigma².",
        ),
        (
            shared_by(lambda x, w, mu, sigma: w.log() - ((x[:, None] - mu) / sigma) ** 2 / 2),
            "The factor 1/sigma of the density is missing. It does not cancel: each component has its own sigma, and "
            "a wide one spreads its probability thinner.",
        ),
        (
            shared_by(lambda x, w, mu, sigma: w.log() - sigma.log() - ((x[:, None] - mu) / sigma) ** 2),
            "The exponent lacks its half: a Gaussian falls as exp(−(x − mu)² / 2 sigma²).",
        ),
    ],
)

# ---- markov_log_prob -----------------------------------------------------------------------------------------------


def markov_log_prob(x: Tensor, initial: Tensor, transition: Tensor) -> Tensor:
    # p(x) = p(x_1) Π p(x_t | x_{t−1}): the first symbol, then T − 1 steps, each from row "now" to column "next".
    now, following = x[:-1], x[1:]
    return initial[x[0]].log() + transition[now, following].log().sum()


def draw_rows(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator).softmax(-1)


def chains(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    def draw(length: int, symbols: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randint(0, symbols, (length,), generator=generator)
        return x, draw_rows(generator, symbols), draw_rows(generator, symbols, symbols)

    never_twice = torch.tensor([[0.0, 0.5, 0.5], [0.3, 0.0, 0.7], [0.9, 0.1, 0.0]])
    return [
        (torch.tensor([0, 1, 1]), torch.tensor([0.6, 0.4]), torch.tensor([[0.9, 0.1], [0.3, 0.7]])),
        draw(3, 3),
        draw(10, 3),
        draw(2, 4),
        draw(1, 4),
        draw(50, 5),
        draw(1000, 27),  # a page of text: its probability is far below the smallest float
        (torch.tensor([1, 0, 2, 0]), torch.tensor([0.2, 0.5, 0.3]), never_twice),
        (torch.tensor([1, 0, 0, 2]), torch.tensor([0.2, 0.5, 0.3]), never_twice),  # impossible: 0 after 0
        (torch.tensor([2, 0]), torch.tensor([0.4, 0.6, 0.0]), never_twice),  # an impossible beginning
    ]


def markov_prob(x: Tensor, initial: Tensor, transition: Tensor) -> Tensor:
    return initial[x[0]] * transition[x[:-1], x[1:]].prod()


def markov_clamped(x: Tensor, initial: Tensor, transition: Tensor) -> Tensor:
    return markov_log_prob(x, initial.clamp(min=1e-12), transition.clamp(min=1e-12))


MARKOV_LOG_PROB = Exercise(
    reference=markov_log_prob,
    statement="log p(x), in nats, of symbols x (T,) under a Markov chain; transition[i, j] = p(next is j | now is i). "
    "Sequences may be long, and of one symbol; where x cannot occur it is −inf.",
    nudge="The product rule: the first symbol's probability, times that of each next one given the one before. "
    "A logarithm makes a sum of it.",
    right="a text of 1,000 symbols and an impossible one included. Each symbol only asks the one before it.",
    inputs=chains,
    wrong=[
        (
            lambda x, initial, transition: markov_log_prob(x, initial, transition.T),
            "You read the table the wrong way round: rows are now, columns are next. transition[i, j] is the "
            "probability of j after i, so each row sums to 1.",
        ),
        (
            lambda x, initial, transition: transition[x[:-1], x[1:]].log().sum(),
            "The first symbol is free in your sum: nothing comes before it, so its probability is initial[x[0]].",
        ),
        (
            markov_prob,
            "This is the probability itself, {yours}. Its logarithm is asked: a sum of logs, for the product of "
            "1,000 factors is 0 in floats.",
        ),
        (
            lambda *chain: markov_prob(*chain).log(),
            "Right for short sequences. For 1,000 symbols the product underflows to 0, whose log is −inf: take the "
            "log of each factor and add them up.",
        ),
        (
            lambda x, initial, transition: markov_log_prob(x[:-1] if len(x) > 1 else x, initial, transition),
            "The last symbol does not count: T symbols have T − 1 transitions. Look where the loop or the slice ends.",
        ),
        (
            lambda x, initial, transition: initial[x[0]].log() + transition[x[1:-1], x[2:]].log().sum(),
            "The first transition is dropped, from x[0] to x[1]. Look where the loop, or the slice, begins.",
        ),
        (
            lambda x, initial, transition: markov_log_prob(x, initial[0].expand(len(initial)), transition),
            "initial[0] is the probability that a sequence begins with the symbol 0. This one begins with x[0].",
        ),
        (
            lambda x, initial, transition: markov_log_prob(x, initial.exp(), transition),  # log of exp: no log
            "The first symbol enters as a probability, without a logarithm: initial[x[0]].log().",
        ),
        (
            markov_clamped,
            "Right for every sequence that can occur. The one shown cannot, since the chain gives one of its steps "
            "probability 0: log p is −inf, and a clamp, a small constant or a mask turns it into {yours}.",
        ),
    ],
)

# ---- hmm_log_prob --------------------------------------------------------------------------------------------------


def hmm_log_prob(x: Tensor, initial: Tensor, transition: Tensor, emission: Tensor) -> Tensor:
    # The forward algorithm: alpha[k] = p(x_1 … x_t, state_t = k). Rabiner 1989, eqs. 19 to 21, in logarithms.
    log_alpha = initial.log() + emission[:, x[0]].log()  # (K,)
    for symbol in x[1:]:
        arriving = (log_alpha[:, None] + transition.log()).logsumexp(dim=0)  # sum over where the step came from
        log_alpha = arriving + emission[:, symbol].log()
    return log_alpha.logsumexp(dim=0)


def hidden_chains(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    def draw(length: int, states: int, symbols: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = torch.randint(0, symbols, (length,), generator=generator)
        tables = [draw_rows(generator, *shape) for shape in ((states,), (states, states), (states, symbols))]
        return x, *tables

    # No way leads from one state to the other, yet each symbol fits only one of them well.
    two_sources = torch.tensor(20 * [0] + 20 * [1]), torch.tensor([0.5, 0.5]), torch.eye(2)
    by_hand = [0, 1], [0.6, 0.4], [[0.7, 0.3], [0.4, 0.6]], [[0.9, 0.1], [0.2, 0.8]]
    return [
        tuple(map(torch.tensor, by_hand)),
        draw(6, 3, 3),
        draw(4, 4, 4),
        draw(1, 3, 5),
        draw(5, 3, 5),
        draw(12, 2, 7),
        draw(30, 4, 3),
        draw(20, 1, 4),  # one state: the symbols are independent
        draw(1000, 3, 5),
        (*two_sources, torch.tensor([[0.999, 0.001], [0.001, 0.999]])),
        (
            torch.tensor([1, 0, 0]),
            torch.tensor([0.0, 1.0]),
            torch.full((2, 2), 0.5),
            torch.tensor([[0, 1], [0.9, 0.1]]),
        ),
    ]


def hmm_underflowing(x: Tensor, initial: Tensor, transition: Tensor, emission: Tensor) -> Tensor:
    alpha = initial * emission[:, x[0]]
    for symbol in x[1:]:
        alpha = (alpha @ transition) * emission[:, symbol]
    return alpha.sum().log()


def arrive(log_alpha: Tensor, log_transition: Tensor) -> Tensor:
    return (log_alpha[:, None] + log_transition).logsumexp(0)


def forward(x: Tensor, initial: Tensor, transition: Tensor, emission: Tensor, *, step=arrive) -> Tensor:
    """log p(x, last state), (K,), with the step given: from log_alpha and log_transition to the next log_alpha."""
    log_alpha = initial.log() + emission[:, x[0]].log()
    for symbol in x[1:]:
        log_alpha = step(log_alpha, transition.log()) + emission[:, symbol].log()
    return log_alpha


def viterbi(*model: Tensor) -> Tensor:
    return forward(*model, step=lambda a, log_transition: (a[:, None] + log_transition).amax(0)).amax()


def stepping(step: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda *model: forward(*model, step=step).logsumexp(0)


HMM_LOG_PROB = Exercise(
    reference=hmm_log_prob,
    statement="log p(x), in nats, of symbols x (T,) under a hidden Markov model, by the forward algorithm; "
    "emission[i, s] = p(symbol s | state i). Sequences may be long, and the tables may hold zeros.",
    nudge="Keep one number per state: the probability of all symbols so far together with being in that state now. "
    "How does it change when one more symbol arrives?",
    right="a sequence of 1,000 symbols included. T · K² steps instead of a sum over K^T paths.",
    inputs=hidden_chains,
    wrong=[
        (
            viterbi,
            "This is the log-probability of the single best path (Viterbi). Many paths can make the same symbols, "
            "and p(x) is their sum: logsumexp in place of max, at every step and at the end.",
        ),
        (
            lambda x, *tables: hmm_log_prob(torch.cat([x[:1], x[2:]]), *tables),
            "The second symbol is never looked at, and its transition is dropped: after x[0] the loop runs over x[1:].",
        ),
        (
            lambda x, *tables: hmm_log_prob(torch.cat([x[:1], x]), *tables),
            "The first symbol counts twice: `initial` and its emission are the start, and the loop runs over x[1:].",
        ),
        (
            lambda x, *tables: hmm_log_prob(x[:-1] if len(x) > 1 else x, *tables),
            "The last symbol is never looked at. Look where your loop ends.",
        ),
        (
            stepping(lambda log_alpha, log_transition: (log_alpha[:, None] + log_transition).logsumexp(1)),
            "Your logsumexp runs over dimension 1, the next state. Each row of the transition sums to 1, so nothing "
            "moves: sum over dimension 0, where the step came from.",
        ),
        (
            stepping(lambda log_alpha, log_transition: (log_alpha + log_transition).logsumexp(0)),
            "`alpha + log_transition` lays alpha along the columns, the next states. It belongs to the rows, where the "
            "step comes from: alpha[:, None].",
        ),
        (
            stepping(lambda log_alpha, log_transition: log_alpha @ log_transition),
            "`@` multiplies and adds, and these are logarithms. There a product is a sum, and a sum is a logsumexp: "
            "(alpha[:, None] + log_transition).logsumexp(0).",
        ),
        (
            lambda *model: forward(*model).sum(),
            "You add up logarithms over the states. It is their probabilities that are added: logsumexp.",
        ),
        (
            lambda *model: forward(*model).amax(),
            "At the end you take the most probable last state alone. p(x) is the sum over all of them: logsumexp.",
        ),
        (
            lambda *model: forward(*model)[-1],
            "alpha[-1] is the last state, not the last time: alpha is that of the last symbol already. Sum it.",
        ),
        (
            lambda x, initial, *tables: hmm_log_prob(x, initial.exp(), *tables),  # log of exp: no log
            "`initial` stands among logarithms, without a log of its own.",
        ),
        (
            lambda x, initial, transition, emission: hmm_log_prob(x, initial, transition.T, emission),
            "You sum over the wrong side of the transition: rows are now, columns are next, so the sum runs over the "
            "rows, where the step came from (`alpha @ transition`).",
        ),
        (
            lambda x, initial, transition, emission: hmm_log_prob(x, initial, transition, emission.T),
            "You read the emission table the wrong way round: rows are states, columns are symbols, so a symbol s "
            "gives the column emission[:, s].",
        ),
        (
            hmm_underflowing,
            "Right for short sequences. For 1,000 symbols alpha underflows to 0: keep its logarithm (logsumexp), or "
            "rescale it at every step and add up the logs of the scales.",
        ),
        (
            lambda *model: hmm_log_prob(*model).exp(),
            "This is the probability itself, {yours}. Its logarithm is asked: after 1,000 symbols it is 0 in floats.",
        ),
    ],
)

# ---- log_partition -------------------------------------------------------------------------------------------------


def log_partition(f: Tensor) -> Tensor:
    # log Z = log Σ exp(−f). logsumexp takes the largest term out before exp, so that one term is exp(0) = 1.
    return (-f).logsumexp(dim=-1)


def energies(generator: Generator) -> list[tuple[Tensor]]:
    def draw(*shape: int, scale: float = 1.0, shift: float = 0.0) -> tuple[Tensor]:
        return (scale * torch.randn(shape, generator=generator) + shift,)

    return [
        (torch.tensor([0.0, 1.0, 2.0]),),
        (torch.zeros(4),),
        draw(5),
        draw(3, 4),
        draw(3, 3),
        draw(2, 3, 6, scale=3.0),
        draw(1),
        draw(2, 1024),
        draw(5, 4, shift=1000.0),
        draw(5, 4, shift=-1000.0),
        draw(3, 8, scale=1000.0),
        (torch.tensor([[1000.0, 1001.0], [0.0, 1.0], [-1000.0, -999.0]]),),  # rows far apart
    ]


MAXIMUM_LOST = (
    "The largest term was taken out of the sum before exp and never put back. Dividing every term by exp(m) takes m "
    "off log Z, so m has to be added after the logarithm."
)

LOG_PARTITION = Exercise(
    reference=log_partition,
    statement="log Z = log Σ exp(−f), in nats, from the values f (…, N) of all N states; the sum is over the last "
    "dimension. The values may be large.",
    nudge="Three steps, innermost first: the unnormalised probability exp(−f) of each state, their sum Z, its log.",
    right="energies of ±1000 included. Shifting f by c shifts log Z by −c, and no probability changes.",
    inputs=energies,
    wrong=[
        (
            lambda f: f.logsumexp(-1),
            "You sum exp(+f). Here low f means probable, as with an energy: the unnormalised probability is exp(−f).",
        ),
        (
            lambda f: (-f).logsumexp(-1) - math.log(f.shape[-1]),
            "You take the mean of exp(−f) over the states. Z is the sum: with four states of f = 0, log Z is log 4.",
        ),
        (
            lambda f: (-f).exp().sum(-1).log(),
            "Right for small f; at ±1000, exp overflows or underflows and log Z becomes {yours}. Take the largest "
            "term out of the sum first (log-sum-exp).",
        ),
        (lambda f: (-f - (-f).amax(-1, keepdim=True)).logsumexp(-1), MAXIMUM_LOST),
        (
            lambda f: (-f).logsumexp(-1) - 2 * (-f).amax(-1),
            "The largest term is put back with the wrong sign. With m = −min f, log Z = m + log Σ exp(−f − m).",
        ),
        (
            lambda f: (f.min() - f).exp().sum(-1).log() - f.min(),
            "You take out the largest term of the whole batch. Rows may lie far apart: in another row all terms then "
            "underflow to 0. Each row has a largest term of its own, `amax(-1, keepdim=True)`.",
        ),
        (
            lambda f: -f.logsumexp(-1),
            "You sum exp(+f) and put the minus in front of the logarithm. It belongs inside: Z = Σ exp(−f).",
        ),
        (
            lambda f: -f.sum(-1),
            "This is Σ −f, the logarithm of a product. exp and log do not cancel: Z adds up the exponentials.",
        ),
        (
            lambda f: (-f).logsumexp(0),
            "You sum over the first dimension. The states lie along the last one; the others are a batch.",
        ),
    ],
)

# ---- predictions ---------------------------------------------------------------------------------------------------


def binary_table_size() -> float:
    # 2 levels in each of 784 pixels: 2 · 2 · … · 2 = 2^784 images, and the table needs one number for each.
    return 784 * math.log10(2)


TAKE_LOG10 = "That is the number itself. Answer with its log10, which fits on a line."
SEPARATE_TABLES = (
    "That adds up 784 separate tables of 2 entries, one for each pixel: the model of independent pixels. Choices "
    "multiply: two pixels have 2 · 2 images, three have 2 · 2 · 2."
)
EXCHANGED = "Base and exponent are exchanged: each of the 784 pixels has 2 levels, not the other way round."

BINARY_TABLE_SIZE = Exercise(
    reference=binary_table_size,
    statement="How many entries has a table of p(x) over all 28×28 images of black and white pixels, one for each "
    "image? Answer with the log10 of the number.",
    nudge="How many images of one pixel are there? Of two pixels?",
    right="10^236 entries, where the observable universe has some 10^80 atoms. Every model in this course is a way "
    "around that table.",
    rtol=1e-3,
    wrong=[
        (
            784,
            "784 is the number of pixels, and log2 of the number of images. The base asked for is 10: by how many "
            "decimal digits does one more factor 2 lengthen a number?",
        ),
        (784 * math.log(2), "The right number, as a natural logarithm: divide by log 10 to count decimal places."),
        (2**784, TAKE_LOG10),
        (1e236, TAKE_LOG10),
        (2 * 784, SEPARATE_TABLES),
        (math.log10(2 * 784), SEPARATE_TABLES),
        (2 * math.log10(784), EXCHANGED),
        (784 * math.log10(256), "That would be pixels of 8 bits, with 256 levels. These are black or white."),
        (64 * math.log10(17), "That is the table of the 8×8 digits with 17 levels. Here 28 · 28 pixels have 2 levels."),
        (64 * math.log10(2), "Those would be images of 8×8 pixels. These have 28 · 28."),
    ],
)


def cost_of_noise() -> float:
    # q(x) = 0.001 p(x) + 0.999 noise(x) ≥ 0.001 p(x), so −log q(x) ≤ −log p(x) + log 1000, for every x.
    return math.log(1000)


SHARE_OF_NOISE = "That is how often it draws noise. The likelihood asks something else: how probable q makes a real x."

COST_OF_NOISE = Exercise(
    reference=cost_of_noise,
    statement="A model draws noise 999 times in 1,000, and a perfect sample, from p itself, once. At most how many "
    "nats per image does it lose against p, the perfect model?",
    nudge="Write the model as q(x) = share · p(x) + (1 − share) · noise(x). How small can q(x) be where p(x) is given?",
    right="log 1000 = 6.91 nats, out of a hundred for a digit. Likelihood hardly sees what the eye sees at once, and "
    "the other way round (Theis, van den Oord & Bethge 2016).",
    rtol=1.5e-3,
    wrong=[
        (0.999, SHARE_OF_NOISE),
        (999, SHARE_OF_NOISE),
        (1000, "Right: q(x) is at least p(x) / 1000. That is a factor; in nats it is its logarithm."),
        (3, "You took log10 of the factor 1000. In nats it is the natural logarithm."),
        (math.log2(1000), "That is in bits. In nats it is the natural logarithm."),
        (
            -math.log(0.999),
            "That is the cost of one noise in 1,000 (and nearly the share of good samples); here most is noise. What "
            "does a factor 0.001 in q(x) do to log q(x)?",
        ),
        (
            math.log(999),
            "Close. From q(x) ≥ share · p(x), the factor is one over the share of good samples; yours is bad to good.",
        ),
        (math.log(100), "That is for one good sample in 100. Here it is one in 1,000."),
        (-math.log(1000), "The size is right. The loss was asked, how many nats below, so it is positive."),
        (math.inf, "Were q(x) 0 somewhere, yes. But q(x) is never below share · p(x)."),
    ],
)


EXERCISES = [
    KL_DIVERGENCE,
    FIT_GAUSSIAN,
    RESPONSIBILITIES,
    MARKOV_LOG_PROB,
    HMM_LOG_PROB,
    LOG_PARTITION,
    BINARY_TABLE_SIZE,
    COST_OF_NOISE,
]
