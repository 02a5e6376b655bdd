"""Exercises of notebook 06: the critic of two densities, each player's loss and turn, two divergences, lost modes.

A critic's output is a logit: sigmoid(D(x)) is the probability that x is real, where real and made are equally many.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from dgm_exercises.engine import Exercise

# ---- networks that are their own weight ----------------------------------------------------------------------------


class Network(Tensor):
    """A network that is its own weight: a function for the learner, and for `check` an argument like any other tensor,
    to be copied, shown and differentiated by.
    """

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):  # two kinds of them may meet, as in torch.cat
        return super().__torch_function__(function, (cls,), args, kwargs or {})


class LinearCritic(Network):
    """D(x) = w · x, (B,)."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.as_subclass(Tensor)


class ShiftingGenerator(Network):
    """G(z) = z + theta, (B, D)."""

    def __call__(self, z: Tensor) -> Tensor:
        return z + self.as_subclass(Tensor)


# ---- optimal_critic ------------------------------------------------------------------------------------------------


def optimal_critic(log_p: Tensor, log_q: Tensor) -> Tensor:
    # p/(p + q) = 1/(1 + q/p) = σ(log p − log q): densities that underflow never appear, only the ratio of the two.
    return torch.sigmoid(log_p - log_q)


def pairs_of_densities(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n: int, scale: float = 1.0, shift: float = -1.0) -> tuple[Tensor, Tensor]:
        return tuple(scale * torch.randn(n, generator=generator) + shift for _ in range(2))

    return [
        (torch.tensor([0.3, 0.1, 0.2]).log(), torch.tensor([0.1, 0.1, 0.6]).log()),
        draw(4),
        draw(1),
        draw(16, scale=1.5),
        (torch.tensor([-1.0, -math.inf, 0.0]), torch.tensor([-math.inf, -2.0, -1.0])),  # where one of them never is
        draw(6, shift=-1000.0),  # densities underflow in many dimensions; their ratio does not
        draw(6, shift=300.0),
        (torch.tensor([0.0, -1000.0, -2000.0]), torch.tensor([-1.0, -999.0, -2000.5])),  # examples far apart
        (torch.tensor([800.0, -900.0]), torch.tensor([-100.0, 0.0])),  # beyond doubt
    ]


Density = Callable[[Tensor, Tensor], Tensor]


def of_densities(value: Density) -> Density:
    """A function of p and q themselves."""
    return lambda log_p, log_q: value(log_p.exp(), log_q.exp())


def of_logit(value: Callable[[Tensor], Tensor]) -> Density:
    """A function of log p − log q."""
    return lambda log_p, log_q: value(log_p - log_q)


def shifted(by: Density) -> Density:
    """p/(p + q) of densities from which a common factor was taken."""
    return lambda log_p, log_q: of_densities(lambda p, q: p / (p + q))(
        log_p - by(log_p, log_q), log_q - by(log_p, log_q)
    )


SMALL = 1e-6, 1e-8, 1e-10, 1e-12  # what learners add against log 0 and 0/0
DENSITIES_UNDERFLOW = (
    "Right while the densities are ordinary numbers; exp(−1000) is 0 in floats (and e^300 infinite), and the ratio of "
    "two such densities becomes {yours}. Divide by p on paper: only log p − log q is left."
)

OPTIMAL_CRITIC = Exercise(
    reference=optimal_critic,
    statement="Half of all examples are real, with density p, half are made, with density q. From log p(x) and "
    "log q(x), (B,) each, numbers of some thousands, of which one may be −inf: the probability that x is real, which "
    "is what the best possible critic says. (B,).",
    nudge="Bayes' rule with a prior of ½ for each side. Then divide by p above and below: which function of "
    "log p − log q is it?",
    right="densities of e^−1000 included. The logit of the best critic is log p − log q: it knows the ratio of the two "
    "densities and nothing else about them.",
    inputs=pairs_of_densities,
    atol=5e-5,  # float32 keeps four decimals of 1000, on which a formula that stays in logarithms may pass
    wrong=[
        (of_densities(lambda p, q: p / (p + q)), DENSITIES_UNDERFLOW),
        (of_densities(lambda p, q: 1 / (1 + q / p)), DENSITIES_UNDERFLOW),
        *[
            (
                shifted(by),
                "What you take out before exp is the same for all examples. Where they lie far apart, both densities "
                "of one underflow to 0 and 0/0 makes {yours}: only log p − log q of each example is needed.",
            )
            for by in (lambda a, b: torch.maximum(a.max(), b.max()), lambda a, b: a.max(), lambda a, b: b.max())
        ],
        (
            of_logit(lambda a: a.exp() / (1 + a.exp())),
            "Right for moderate ratios; beyond e^88 exp overflows and inf/inf makes {yours}. `torch.sigmoid` of "
            "log p − log q does not.",
        ),
        *[
            (
                of_densities(lambda p, q, c=small: p / (p + q + c)),
                "A small constant in the denominator: where both densities are smaller than it, as in many dimensions, "
                "everything looks made and you return {yours}. Only log p − log q is needed.",
            )
            for small in SMALL
        ],
        (of_logit(lambda a: a), "This is the best critic's logit, log p − log q. The probability is asked."),
        (of_logit(torch.exp), "This is p/q, the odds, which may be any positive number. A probability is p/(p + q)."),
        (of_logit(lambda a: (-a).exp()), "This is q/p. The probability of real is p/(p + q)."),
        (of_densities(lambda p, q: p), "This is p(x), and q does not appear. The critic compares the two."),
        (
            lambda log_p, log_q: log_p / (log_p + log_q),
            "You divide the logarithms. The densities themselves stand in p/(p + q); of their logarithms the "
            "difference counts.",
        ),
        (
            of_densities(lambda p, q: (p / q).sigmoid()),
            "The sigmoid is taken of the ratio, which is never negative: your critic never says less than ½. The "
            "sigmoid wants the ratio's logarithm.",
        ),
        (of_logit(lambda a: (a > 0).float()), "This is a decision, 0 or 1. How sure the best critic can be is asked."),
        (of_logit(lambda a: (a / 2).tanh()), "This is (p − q)/(p + q), from −1 to 1. A probability is p/(p + q)."),
    ],
)

# ---- critic_loss ---------------------------------------------------------------------------------------------------


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    # −log σ(a) = softplus(−a) for the real ones, −log(1 − σ(a)) = softplus(a) for those that were made.
    loss_real = torch.nn.functional.softplus(-real).mean()
    loss_fake = torch.nn.functional.softplus(fake).mean()
    return loss_real + loss_fake


def pairs_of_logits(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n_real: int, n_fake: int, scale: float = 1.0, shift: float = 0.5) -> tuple[Tensor, Tensor]:
        real = scale * torch.randn(n_real, generator=generator) + shift
        return real, scale * torch.randn(n_fake, generator=generator) - shift

    sure = torch.tensor([150.0, -900.0, 300.0]), torch.tensor([-800.0, 120.0, -250.0])
    return [
        (torch.tensor([2.0, 0.5]), torch.tensor([-1.0, 1.5])),
        draw(4, 4),
        draw(1, 1),
        draw(32, 32, scale=1.5),
        draw(3, 8),  # the two sides need not be equally many
        draw(10, 2, shift=-1.0),
        (torch.zeros(5), torch.zeros(5)),  # nothing can be told apart: log 4
        sure,  # and sometimes wrong
    ]


Losses = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real).mean() + softplus(fake).mean()


def by_probabilities(real: Tensor, fake: Tensor) -> Tensor:
    return -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()


def as_one_batch(real: Tensor, fake: Tensor) -> Tensor:
    return torch.cat([softplus(-real), softplus(fake)]).mean()


CUT = "Something cuts the path there (`detach`, `no_grad`, `.data`, `.item()`)."
SIGMOID_TWICE = (
    "The sigmoid is applied twice: probabilities were fed to a loss that expects logits (`…_with_logits`, or a "
    "softplus of a sigmoid). However good or bad the critic is, that stays between 1.006 and 2.006. Give it the logits."
)
SAME_LABEL_REAL = (
    "Real and made have the same label, 1: a critic that calls everything real is best for you. What was made has the "
    "label 0."
)
SAME_LABEL_FAKE = (
    "Real and made have the same label, 0: a critic that calls everything made is best for you. Real ones have the "
    "label 1."
)
SIGMOID_UNDERFLOWS = (
    "Right for moderate logits; where the critic is sure and wrong, a sigmoid rounds to 0 or 1, or exp overflows, and "
    "the loss becomes {yours}. log(1 + exp(a)) is about a there: `softplus` and `logsigmoid` know that."
)

CRITIC_LOSS = Exercise(
    reference=critic_loss,
    statement="The critic's loss: from its logits for real examples and for made ones, (B,) and (M,), the mean of "
    "−log of the probability that it gives to the right answer over the real ones, plus the same mean over the made "
    "ones. A scalar, in nats.",
    nudge="Two classifications with known labels. The probability of real is σ(a), of made 1 − σ(a) = σ(−a). How does "
    "one take −log of a sigmoid without computing the sigmoid?",
    right="gradients, and logits of ±900, included. At logits of 0 it is log 4 = 1.386: a critic that cannot tell. "
    "Much below that, and the generator is losing.",
    inputs=pairs_of_logits,
    differentiate=("real", "fake"),
    wrong=[
        (
            lambda r, f: cross_entropy(r, f.detach()),
            "No gradient comes back to the logits of the made ones, so the critic never learns what they look like. It "
            "is the made images that are detached, before the critic sees them, not what the critic says of them.",
        ),
        (
            lambda r, f: cross_entropy(r.detach(), f),
            "No gradient comes back to the logits of the real ones, so the critic never learns what they look like. "
            + CUT,
        ),
        (lambda r, f: cross_entropy(r.sigmoid(), f.sigmoid()), SIGMOID_TWICE),
        (lambda r, f: softplus(-r).mean() + softplus(-f).mean(), SAME_LABEL_REAL),
        (lambda r, f: softplus(r).mean() + softplus(f).mean(), SAME_LABEL_FAKE),
        (
            lambda r, f: softplus(r).mean() + softplus(-f).mean(),
            "The labels are exchanged: your loss is small where real ones look made and made ones look real. That is "
            "what the generator would like.",
        ),
        (lambda r, f: softplus(-r).mean(), "This is the real half alone: a critic that calls all real would win."),
        (lambda r, f: softplus(f).mean(), "This is the made half alone: a critic that calls all made would win."),
        (lambda r, f: softplus(-f).mean(), "This is the generator's loss: the real ones do not appear."),
        (
            lambda r, f: cross_entropy(r, f) / 2,
            "This is half of it: the mean of the two halves. The same critic is best; here the halves are added, so "
            "that a critic that cannot tell stands at log 4.",
        ),
        (
            as_one_batch,
            "You take one mean over real and made together. It is half of what is asked, and where one side has more "
            "examples it counts more; each side has a mean of its own.",
        ),
        (lambda r, f: softplus(-r).sum() + softplus(f).sum(), "These are sums over the batch. Each side is a mean."),
        (
            lambda r, f: softplus(-r).mean() - softplus(f).mean(),
            "You subtract the half of the made ones. Both halves are −log of a probability that should be large, so "
            "both stand in the loss with a plus.",
        ),
        (
            lambda r, f: f.mean() - r.mean(),
            "These are differences of the logits themselves, the loss of a Wasserstein critic. Without a bound on its "
            "slope it has no least value; here −log of a probability is asked.",
        ),
        (lambda r, f: (1 - r).relu().mean() + (1 + f).relu().mean(), "This is the hinge loss. It is not in nats."),
        (
            lambda r, f: (1 - r.sigmoid()).mean() + f.sigmoid().mean(),
            "These are the probabilities of a mistake. A mistake made with certainty then costs hardly more than a "
            "doubtful one: −log of the right answer's probability is asked.",
        ),
        (
            lambda r, f: -r.log().mean() - (1 - f).log().mean(),
            "You take the logarithm of the logits, as if they were probabilities, and get {yours}. They may have any "
            "sign: a sigmoid makes probabilities of them.",
        ),
        (by_probabilities, SIGMOID_UNDERFLOWS),
        (lambda r, f: -r.sigmoid().log().mean() - (-f).sigmoid().log().mean(), SIGMOID_UNDERFLOWS),
        (lambda r, f: (1 + (-r).exp()).log().mean() + (1 + f.exp()).log().mean(), SIGMOID_UNDERFLOWS),
    ],
)

# ---- generator_loss ------------------------------------------------------------------------------------------------


def generator_loss(fake: Tensor) -> Tensor:
    # −log σ(a) = softplus(−a): the label of real ones on what was made. Its slope is largest where the critic is sure.
    return torch.nn.functional.softplus(-fake).mean()


def logits_of_made(generator: Generator) -> list[tuple[Tensor]]:
    return [(fake,) for _, fake in pairs_of_logits(generator)]


Loss = Callable[[Tensor], Tensor]


def averaged(loss: Loss) -> Loss:
    return lambda fake: loss(fake).mean()


GENERATOR_LOSS = Exercise(
    reference=generator_loss,
    statement="The non-saturating loss of the generator, a scalar in nats: the mean over the batch of −log of the "
    "probability that the critic gives to what was made being real. fake (M,) holds the critic's logits for it.",
    nudge="Whom does it want to deceive, about what? Then look at the slope of your loss where the critic is sure that "
    "it was made, a = −10: the generator has most to learn there.",
    right="gradients included. Where the critic is sure, a = −200, the slope is −1: the generator is told to move, "
    "just where the loss of the minimax game goes flat.",
    inputs=logits_of_made,
    differentiate=("fake",),
    wrong=[
        (
            averaged(lambda f: softplus(-f).detach()),
            "No gradient comes back to the logits, so the generator learns nothing. In its turn the path leads from "
            "the loss through the critic into the generator: no `detach`, no `no_grad`.",
        ),
        (
            averaged(lambda f: -softplus(f)),
            "This is log(1 − D), the saturating loss of the minimax game. Its slope is σ(a), about 0 where the critic "
            "is sure, which is how every generator begins. −log D has the same aim and a slope there.",
        ),
        (
            averaged(softplus),
            "This is the critic's loss on what was made. A generator trained on it learns to be recognised.",
        ),
        (
            averaged(lambda f: softplus(-f.sigmoid())),
            "The sigmoid is applied twice: a probability was fed to a loss that expects a logit. It cannot fall below "
            "0.313, and its slope is small everywhere. Give it the logit.",
        ),
        (
            averaged(lambda f: -f),
            "This is the mean logit, the generator's loss in a Wasserstein or hinge game. Here the critic's logit "
            "means a probability, and −log of it is asked.",
        ),
        (averaged(lambda f: -f.sigmoid()), "This is −D without a logarithm: flat where the critic is sure."),
        (lambda f: -f.sigmoid().mean().log(), "You average the probabilities first: a few good ones hide the bad."),
        (
            averaged(lambda f: -f.log()),
            "You take the logarithm of the logits, as if they were probabilities, and get {yours}. They may have any "
            "sign: a sigmoid makes a probability of them.",
        ),
        (averaged(lambda f: -f.sigmoid().log()), SIGMOID_UNDERFLOWS),
        (averaged(lambda f: (1 + (-f).exp()).log()), SIGMOID_UNDERFLOWS),
    ],
)

# ---- critic_turn ---------------------------------------------------------------------------------------------------


def critic_turn(critic: torch.nn.Module, generator: torch.nn.Module, x: Tensor, z: Tensor) -> Tensor:
    # What was made is data in this turn: its graph ends here, so the loss changes the critic and not the generator.
    fake = generator(z).detach()
    loss_real = torch.nn.functional.softplus(-critic(x)).mean()
    loss_fake = torch.nn.functional.softplus(critic(fake)).mean()
    return loss_real + loss_fake


def small_games(generator: Generator) -> list[tuple[LinearCritic, ShiftingGenerator, Tensor, Tensor]]:
    def game(w: Tensor, theta: Tensor, x: Tensor, z: Tensor) -> tuple[LinearCritic, ShiftingGenerator, Tensor, Tensor]:
        return w.as_subclass(LinearCritic), theta.as_subclass(ShiftingGenerator), x, z

    def draw(n_real: int, n_made: int, n_features: int) -> tuple[LinearCritic, ShiftingGenerator, Tensor, Tensor]:
        shapes = (n_features,), (n_features,), (n_real, n_features), (n_made, n_features)
        return game(*(torch.randn(shape, generator=generator) for shape in shapes))

    easy = [2.0, -1.0], [0.5, 1.0], [[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.5], [0.0, 2.0]]
    sure = [200.0, -100.0], [0.0, 1.0], [[1.0, 0.0], [0.0, 9.0], [4.0, 4.0]], [[-4.0, 0.0], [1.0, -1.0]]
    moderate = [draw(4, 4, 2), draw(3, 6, 4), draw(1, 1, 1), draw(32, 32, 8)]
    return [game(*map(torch.tensor, easy)), *moderate, game(*map(torch.tensor, sure))]


Turn = Callable[[Callable, Callable, Tensor, Tensor], Tensor]


def with_logits(loss: Losses) -> Turn:
    """A loss of the critic's logits for the real ones and for what was made, whose graph has ended."""
    return lambda critic, generator, x, z: loss(critic(x), critic(generator(z).detach()))


def on_made(made: Callable[[Callable, Tensor], Tensor]) -> Turn:
    """The right loss, when made(generator, z) is what the critic sees."""
    return lambda critic, generator, x, z: cross_entropy(critic(x), critic(made(generator, z)))


CRITIC_TURN = Exercise(
    reference=critic_turn,
    statement="The critic's turn, written by hand: critic(x) gives logits (B,), generator(z) makes M examples like x. "
    "From real x (B, D) and noise z (M, L): the loss of the critic, the two means of `critic_loss` added. Its gradient "
    "is for the critic: none of it may reach the generator.",
    nudge="Four lines: make examples, end their graph, ask the critic twice, add two means. Which tensor has to be "
    "detached: the noise, what was made of it, or what the critic says of it?",
    right="gradients included: the critic learns from both sides, and nothing of its loss reaches the generator, which "
    "would have learnt to be recognised.",
    inputs=small_games,
    differentiate=("critic", "generator"),
    wrong=[
        (
            on_made(lambda G, z: G(z)),
            "The gradient of the critic's loss reaches the generator, and would teach it to be recognised (its own "
            "`zero_grad` may hide that; the work of going back through it is lost in any case). End the graph of what "
            "was made, `generator(z).detach()`: detaching z is too early.",
        ),
        (
            lambda D, G, x, z: cross_entropy(D(x), D(G(z)).detach()),
            "You detach what the critic says of the made ones, so it never learns what they look like. Detach what was "
            "made, before the critic sees it.",
        ),
        (
            lambda D, G, x, z: cross_entropy(D(x).detach(), D(G(z)).detach()),
            "No gradient comes back to the critic at all, in its own turn: `no_grad` or `detach` is around everything. "
            "Only what was made is held fast.",
        ),
        (
            lambda D, G, x, z: cross_entropy(D(x).detach(), D(G(z).detach())),
            "No gradient comes back from the real ones: the critic would learn to call everything made. Only what was "
            "made is held fast.",
        ),
        (
            lambda D, G, x, z: cross_entropy(D(x).detach(), D(G(z))),
            "The wrong side is held fast: the real ones teach the critic nothing, and the gradient of the made ones "
            "reaches the generator. `detach` belongs to what was made.",
        ),
        (with_logits(lambda r, f: cross_entropy(r.sigmoid(), f.sigmoid())), SIGMOID_TWICE),
        (with_logits(by_probabilities), SIGMOID_UNDERFLOWS),
        (with_logits(lambda r, f: -r.sigmoid().log().mean() - (-f).sigmoid().log().mean()), SIGMOID_UNDERFLOWS),
        (with_logits(lambda r, f: softplus(-r).mean() + softplus(-f).mean()), SAME_LABEL_REAL),
        (with_logits(lambda r, f: softplus(r).mean() + softplus(f).mean()), SAME_LABEL_FAKE),
        (
            with_logits(lambda r, f: softplus(r).mean() + softplus(-f).mean()),
            "The labels are exchanged, or x and generator(z) are: the critic would learn to call real ones made.",
        ),
        (
            with_logits(lambda r, f: softplus(-f).mean()),
            "This is the generator's loss, and so its turn. The critic's has the label made for what was made, and a "
            "second half for the real ones.",
        ),
        (
            with_logits(lambda r, f: softplus(-r).mean()),
            "The made ones do not appear: a critic that calls everything real would win.",
        ),
        (
            with_logits(lambda r, f: softplus(f).mean()),
            "The real ones do not appear: a critic that calls everything made would win.",
        ),
        (on_made(lambda G, z: z), "The critic is shown the noise z itself. What is made of it is generator(z)."),
        (lambda D, G, x, z: cross_entropy(D(x), D(G(x).detach())), "The generator is fed with x. It takes noise: z."),
        (with_logits(as_one_batch), "You take one mean over both sides. Each has its own, and the two are added."),
    ],
)

# ---- js_divergence -------------------------------------------------------------------------------------------------


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    # ½ KL(p ‖ m) + ½ KL(q ‖ m), where m is the mixture. m is 0 only where both are: such terms are 0.
    m = (p + q) / 2
    kl_p = torch.xlogy(p, p) - torch.xlogy(p, m)
    kl_q = torch.xlogy(q, q) - torch.xlogy(q, m)
    return (kl_p + kl_q).sum(dim=-1) / 2


def pairs_of_tables(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(batch: int, n_states: int) -> tuple[Tensor, Tensor]:
        return tuple((1.5 * torch.randn(batch, n_states, generator=generator)).softmax(1) for _ in range(2))

    p, _ = draw(3, 5)
    zeros = [[0.5, 0.5, 0.0, 0.0], [0.0, 0.25, 0.75, 0.0]], [[0.0, 0.5, 0.5, 0.0], [0.3, 0.3, 0.2, 0.2]]
    return [
        (torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.1, 0.9]])),
        draw(4, 4),
        draw(3, 6),
        draw(1, 3),
        draw(16, 10),
        (p, p.clone()),
        tuple(map(torch.tensor, zeros)),
        (torch.eye(3), torch.eye(3).roll(1, 0)),  # disjoint: log 2, however far apart
    ]


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of each row, 0 log 0 being 0."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def to_mixture(value: Callable[[Tensor, Tensor], Tensor]) -> Density:
    """A function of KL(p ‖ m) and KL(q ‖ m)."""
    return lambda p, q: value(kl(p, (p + q) / 2), kl(q, (p + q) / 2))


ZERO_TIMES_INFINITY = (
    "Right as long as no probability is 0. There the computer makes 0 · (−inf) = nan of p log p, whose limit is 0. "
    "`torch.xlogy` or `torch.where` can say so."
)

JS_DIVERGENCE = Exercise(
    reference=js_divergence,
    statement="The Jensen–Shannon divergence of each pair of rows of p and q, (B, K) tables of probabilities, zeros "
    "allowed: the mean of the KL divergences from p and from q to their mixture m = ½(p + q). (B,) nats.",
    nudge="Two KL divergences, both to the same third distribution. Which terms are 0 log 0, and what are they worth?",
    right="zeros and disjoint tables included. Those give log 2, however far apart they lie: once the critic tells all "
    "apart, the divergence no longer says in which direction to go.",
    inputs=pairs_of_tables,
    wrong=[
        (kl, "This is KL(p ‖ q), infinite where q is 0 and p is not. Both go to the mixture."),
        (lambda p, q: kl(q, p), "This is KL(q ‖ p). Both go to the mixture m, one from p and one from q."),
        (
            lambda p, q: (kl(p, q) + kl(q, p)) / 2,
            "This is the mean of KL(p ‖ q) and KL(q ‖ p), infinite where one has a zero and the other has not. Both go "
            "to the mixture m = ½(p + q).",
        ),
        (lambda p, q: kl(p, q) + kl(q, p), "This is KL(p ‖ q) + KL(q ‖ p). Both go to the mixture m = ½(p + q)."),
        (to_mixture(lambda of_p, of_q: of_p + of_q), "The ½ is missing: the two KL divergences are averaged."),
        (to_mixture(lambda of_p, of_q: of_p), "This is KL(p ‖ m) alone. The one from q is averaged with it."),
        (to_mixture(lambda of_p, of_q: of_q), "This is KL(q ‖ m) alone. The one from p is averaged with it."),
        (lambda p, q: (kl((p + q) / 2, p) + kl((p + q) / 2, q)) / 2, "Your divergences start from the mixture."),
        (lambda p, q: (kl(p, p + q) + kl(q, p + q)) / 2, "Your mixture p + q sums to 2. It is ½(p + q)."),
        (
            lambda p, q: kl(p, p + q) + kl(q, p + q),
            "This is the value of the game at the best critic, 2 JS − log 4. It is −log 4 where p = q; the divergence "
            "itself is 0 there.",
        ),
        (lambda p, q: js_divergence(p, q).sqrt(), "This is the square root, the Jensen–Shannon distance, as in scipy."),
        (
            lambda p, q: (p - q).abs().sum(-1) / 2,
            "This is the total variation, half the sum of |p − q|. It has the same extremes in other units; two KL "
            "divergences to the mixture are asked.",
        ),
        (
            lambda p, q: ((p * (p / ((p + q) / 2)).log()).sum(-1) + (q * (q / ((p + q) / 2)).log()).sum(-1)) / 2,
            ZERO_TIMES_INFINITY,
        ),
        (
            lambda p, q: (
                torch.special.entr((p + q) / 2).sum(-1)
                - (torch.special.entr(p).sum(-1) + torch.special.entr(q).sum(-1))
            ),
            "The entropies of p and q are averaged, not added, before they are subtracted from that of the mixture.",
        ),
    ],
)

# ---- wasserstein_1d ------------------------------------------------------------------------------------------------


def wasserstein_1d(x: Tensor, y: Tensor) -> Tensor:
    # On a line the cheapest plan never crosses itself: the smallest goes to the smallest, and so on.
    return (x.sort().values - y.sort().values).abs().mean()


def pairs_of_samples(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n: int, shift: float = 0.0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        x, y = (torch.randn(n, generator=generator) for _ in range(2))
        return x, scale * y + shift

    x, _ = draw(6)
    return [
        (torch.tensor([3.0, 0.0, 1.0]), torch.tensor([5.0, 7.0, -1.0])),
        draw(4),
        draw(5, shift=0.5, scale=3.0),
        (torch.zeros(4), torch.full((4,), 2.5)),  # two point masses: their distance
        (x, x.flip(0)),  # the same sample
        (torch.tensor([1.0, 0.0, 1.0, -2.0]), torch.tensor([0.0, 1.0, -2.0, -2.0])),  # some points twice
        draw(1, shift=-1.0),
        draw(64, scale=0.3),
        draw(20, shift=10.0),
    ]


Samples = Callable[[Tensor, Tensor], Tensor]


def on_sorted(value: Callable[[Tensor], Tensor]) -> Samples:
    """A function of the differences of the sorted samples."""
    return lambda x, y: value(x.sort().values - y.sort().values)


WASSERSTEIN_1D = Exercise(
    reference=wasserstein_1d,
    statement="The Wasserstein-1 distance of two samples of equal size on a line, x (N,) and y (N,): the least mean "
    "distance by which the points of one have to be moved to become the other. A scalar, in the unit of x.",
    nudge="If two journeys cross, exchange their ends: do they get longer or shorter? So which point goes to which?",
    right="point masses included: theirs is the distance itself, with a slope wherever they lie. That is what the "
    "divergences of disjoint distributions lack.",
    inputs=pairs_of_samples,
    wrong=[
        (
            lambda x, y: (x - y).abs().mean(),
            "You move each point to the one that happens to stand at the same place of the list. A sample has no "
            "order: which plan is cheapest?",
        ),
        (
            lambda x, y: (x.sort().values - y.sort(descending=True).values).abs().mean(),
            "One sample is sorted upwards and the other downwards: that is the dearest plan.",
        ),
        (
            lambda x, y: (x.mean() - y.mean()).abs(),
            "This is the distance of the means. It is 0 for samples of equal means, whatever their spread: each point "
            "has to be moved.",
        ),
        (
            on_sorted(torch.mean),
            "Journeys to the left and to the right cancel, and the difference of the means is left. The distance of "
            "each counts: take absolute values before the mean.",
        ),
        (lambda x, y: y.mean() - x.mean(), "This is the difference of the means: 0 for samples of equal means."),
        (
            on_sorted(lambda way: way.square().mean()),
            "The distances are squared: this is W₂², where long journeys count more. W₁ takes them as they are.",
        ),
        (on_sorted(lambda way: way.square().mean().sqrt()), "This is W₂. W₁ is the mean of the distances themselves."),
        (lambda x, y: (x - y).square().mean(), "You compare points by their place in the list, and square. Sort both."),
        (
            lambda x, y: (x[:, None] - y).abs().amin(1).mean(),
            "Each point goes to its nearest one, so that several may go to the same. Each point of y has to be reached "
            "just once.",
        ),
        (lambda x, y: (x[:, None] - y).abs().amin(0).mean(), "Each y takes its nearest x. Each point is moved once."),
        (
            lambda x, y: (x[:, None] - y).abs().mean(),
            "This is the mean over all pairs, a plan that scatters every point over all others. It is not 0 even for "
            "the same sample.",
        ),
    ],
)

# ---- modes_covered -------------------------------------------------------------------------------------------------


def modes_covered(x: Tensor, centres: Tensor, radius: float) -> int:
    # A mode is covered by one sample within the radius; a thousand samples at the same mode are no better.
    distance = (x[:, None] - centres).norm(dim=-1)  # (N, K)
    return (distance <= radius).any(dim=0).sum().item()


def clouds(generator: Generator) -> list[tuple[Tensor, Tensor, float]]:
    def on_circle(n_modes: int, length: float) -> Tensor:
        angle = 2 * math.pi * torch.arange(n_modes) / n_modes
        return length * torch.stack([angle.cos(), angle.sin()], 1)

    def around(centres: Tensor, mode: list[int], far: list[float], radius: float) -> tuple[Tensor, Tensor, float]:
        """Samples at so many radii from the centres named, in random directions."""
        way = torch.randn(len(mode), centres.shape[1], generator=generator)
        way = way / way.norm(dim=1, keepdim=True)
        return centres[mode] + radius * torch.tensor(far)[:, None] * way, centres, radius

    rare = [0] * 296 + [1, 2, 2, 5]  # one sample of 300 covers a mode
    ring, many = on_circle(8, 2.0), 3 * torch.randn(6, 4, generator=generator)
    near = [0.3, 0.6, 0.9]
    return [
        (torch.tensor([[0.0, 0.1], [0.1, 0.1], [3.0, 0.5]]), torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]), 0.2),
        around(ring, [0, 0, 1, 2, 3, 3], [0.3, 0.9, 0.6, 1.3, 0.4, 1.8], 0.3),
        around(ring, [5] * 6, near + near, 0.2),  # collapsed to one mode
        around(ring, [5] * 4, [*near, 1.2], 0.2),
        around(ring, list(range(8)), [0.5] * 8, 0.3),
        around(ring, list(range(8)), [1.5] * 8, 0.25),  # near all of them, at none
        around(many, [0, 1, 1, 2, 4, 4, 5], [0.9, 0.9, 2.0, 1.2, 1.5, 0.2, 1.1], 0.5),
        around(many, [0, 1, 2, 3, 4], [0.9, 0.6, 1.2, 1.3, 0.9], 1.5),
        around(0.5 * ring, [0, 2, 4], [0.1, 0.2, 0.1], 0.9),  # modes so near that one sample serves two
        around(ring, rare, [0.5] * 299 + [2.5], 0.3),
        around(ring, [1, 2, 6, 7, 7], [0.8, 0.85, 0.9, 0.95, 2.0], 2.0 / 3),
        (torch.tensor([[0.0, 0.25], [3.0, 0.5]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]), 0.25),  # on the border
    ]


Cover = Callable[[Tensor, Tensor, float], object]


def by_distance(value: Callable[[Tensor, float], object], p: float = 2.0) -> Cover:
    """A function of the distances (N, K) and the radius."""
    return lambda x, centres, radius: value(torch.linalg.vector_norm(x[:, None] - centres, p, dim=-1), radius)


def covered(distance: Tensor, radius: float) -> Tensor:
    return (distance <= radius).any(0).sum()


MODES_COVERED = Exercise(
    reference=modes_covered,
    statement="Of the modes of a mixture, with centres (K, D), how many have at least one of the samples x (N, D) "
    "within the distance radius, the border included? An integer.",
    nudge="A table of distances, samples by modes. Then two questions, one for each axis: which of them is asked with "
    "`any`, and which one is counted?",
    right="a collapsed generator included. A sample far from every mode covers none; how many samples are near one is "
    "another question, that of their quality.",
    inputs=clouds,
    wrong=[
        (by_distance(lambda d, r: (d < r).any(0).sum()), "A sample at just the radius is left out: the border counts."),
        (
            by_distance(lambda d, r: len(d.argmin(1).unique())),
            "You count the modes that are nearest to some sample, however far away. A sample between the modes, or far "
            "from all, covers none: the radius has to decide.",
        ),
        (
            by_distance(lambda d, r: (d <= r).any(1).sum()),
            "You count samples that are near a mode. A generator collapsed to one mode would score best: count the "
            "modes that have a sample, so `any` runs over samples.",
        ),
        (
            by_distance(lambda d, r: (d <= r).any(1).float().mean()),
            "This is the share of good samples, which a generator collapsed to one mode can have in full. Count the "
            "modes that have a sample.",
        ),
        (
            by_distance(lambda d, r: ((d <= r).float().mean(0) >= 0.01).sum()),
            "You ask for 1 % of the samples near a mode, as the notebook did above. Here a single one covers it, "
            "however many there are.",
        ),
        (
            by_distance(lambda d, r: (d <= r).sum()),
            "You count pairs of a sample and a mode. A mode counts once, however many samples are near it: `any` over "
            "the samples comes first.",
        ),
        (by_distance(lambda d, r: covered(d, r) / d.shape[1]), "This is a share of the modes. Their number is asked."),
        (by_distance(lambda d, r: (d <= r).all(0).sum()), "You ask all samples to be near a mode. One is enough."),
        (by_distance(lambda d, r: d.shape[1] - covered(d, r)), "These are the modes lost. The others are asked."),
        (
            by_distance(lambda d, r: covered(d.square(), r)),
            "You compare squared distances with the radius: below 1 that lets samples pass that are too far away. Take "
            "the root, or square the radius.",
        ),
        (by_distance(lambda d, r: covered(d, r**2)), "You compare distances with radius²: the square of one side."),
        (by_distance(covered, p=1.0), "You add up the differences of the coordinates, not the root of their squares."),
    ],
)

EXERCISES = [OPTIMAL_CRITIC, CRITIC_LOSS, GENERATOR_LOSS, CRITIC_TURN, JS_DIVERGENCE, WASSERSTEIN_1D, MODES_COVERED]
