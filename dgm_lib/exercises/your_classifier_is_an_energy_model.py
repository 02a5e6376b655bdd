"""Exercises of notebook 11: the energy in the logits, the joint loss, the score of a class, attack, novelty, guard."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from dgm_lib.exercises.adversarial_learning import Network
from dgm_lib.exercises.engine import Exercise
from dgm_lib.exercises.generative_classifiers import BATCH_MAX, NOT_THE_LARGEST, each


class CurvedLogits(Network):
    """f(x) = a + a²/2 with a = W x: logits (B, K) of images (B, C, H, W), with W (K, C·H·W)."""

    def __call__(self, x: Tensor) -> Tensor:
        a = x.flatten(1) @ self.as_subclass(Tensor).T
        return a + a.square() / 2


def network(generator: Generator, k: int, *shape: int, scale: float = 1.0) -> CurvedLogits:
    d = math.prod(shape)
    return (scale * torch.randn(k, d, generator=generator) / math.sqrt(d)).as_subclass(CurvedLogits)


# ---- energy_of_logits ----------------------------------------------------------------------------------------------


def energy_of_logits(logits: Tensor) -> Tensor:
    # p(x) = Σ_y exp(f(x)[y]) / Z = exp(−E(x)) / Z: the label is summed out, and the sum's logarithm is −E.
    return -logits.logsumexp(dim=1)


def rows_of_logits(generator: Generator) -> list[tuple[Tensor]]:
    def draw(batch: int, k: int, shift: float = 0.0) -> tuple[Tensor]:
        return (shift + 2 * torch.randn(batch, k, generator=generator),)

    easy = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    return [
        (easy,),
        draw(3, 3),
        draw(5, 2),
        draw(4, 10),
        draw(6, 4, shift=2000.0),
        draw(3, 5, shift=-500.0),
        (draw(4, 3)[0] + torch.tensor([[2000.0] * 3, [-500.0] * 3, [0.0] * 3, [900.0, -900.0, -5.0]]),),
        draw(1, 7),
    ]


Energy = Callable[[Tensor], Tensor]


def taken_out(number: Energy) -> Energy:
    """The right sum by exp, after a number has been taken out of the logits, (…, 1), and put back."""
    return lambda logits: -(logits - number(logits)).exp().sum(1).log() - number(logits).flatten()


OVERFLOW = (
    "The sum is right, but e^2000 is infinite in a computer and e^-500 is 0. `logsumexp` takes the largest out of the "
    "sum first."
)
OF_THE_LABEL = "This is the entropy of p(y|x), with one sign or the other: how unsure the label is."

ENERGY_SLIPS = {
    "This is log Σ exp f, so +log p(x) + log Z. The energy is its negative: low where x is likely.": lambda logits: (
        logits.logsumexp(1)
    ),
    "This is the energy of the best class alone, −max f. p(x) sums over all labels.": lambda logits: -logits.amax(1),
    "This is the best logit. p(x) sums over all labels, and an energy is low where x is likely.": lambda logits: (
        logits.amax(1)
    ),
    "You average over the labels where p(x) is their sum: log K nats are too many.": lambda logits: (
        -logits.logsumexp(1) + math.log(logits.shape[1])
    ),
    "You average over the labels where p(x) is their sum, and the sign is that of log p(x).": lambda logits: (
        logits.logsumexp(1) - math.log(logits.shape[1])
    ),
    "You average the logits. "
    "Probabilities are summed over the labels: exp first, then the sum, then the log.": lambda logits: -logits.mean(1),
    "You average the logits. Probabilities are summed over the labels: exp first, then the sum, then the log. And an "
    "energy is low where x is likely.": lambda logits: logits.mean(1),
    "You sum the logits, as if the labels were independent: "
    "their probabilities are summed, not multiplied.": lambda logits: -logits.sum(1),
    "You sum the logits, as if the labels were independent. Their probabilities are summed; and the energy has the "
    "other sign.": lambda logits: logits.sum(1),
    "The sign is that of log p(x); and e^2000 is infinite in a computer: `logsumexp`.": lambda logits: (
        logits.exp().sum(1).log()
    ),
    "The logarithm is missing: exp(−E) is the sum, so E is −log of it.": lambda logits: -logits.exp().sum(1),
    "This is Z p(x), which overflows. The energy is −log of it.": lambda logits: logits.exp().sum(1),
    "A softmax has normalised each row first, so all your energies are 0: it forgets just what was asked, the height "
    "of all logits together. Take the logits as they are.": lambda logits: -logits.log_softmax(1).logsumexp(1),
    "A softmax has normalised each row first. "
    "It forgets what was asked, the height of all logits together.": lambda logits: -logits.softmax(1).logsumexp(1),
    "This is −log p(y|x) of the best class: how sure the label is. A picture of nothing can be sure of its label; the "
    "energy says how likely x is.": lambda logits: -logits.log_softmax(1).amax(1),
    "This is the largest probability, with a minus: how sure the label is. The energy comes from the logits before "
    "the softmax.": lambda logits: -logits.softmax(1).amax(1),
    "This is 1 minus the confidence, a score of the label. "
    "The energy comes from the logits before the softmax.": lambda logits: 1 - logits.softmax(1).amax(1),
    "You sum −log p(y|x) over the labels. "
    "A softmax has taken out of the logits what is asked, their height.": lambda logits: -logits.log_softmax(1).sum(1),
    "You average −log p(y|x) over the labels. "
    "A softmax has taken out of the logits what is asked, their height.": lambda logits: -logits.log_softmax(1).mean(1),
    "The minus stands inside, too: "
    "that is near −min f with its sign turned. Only the logsumexp gets one.": lambda logits: -(-logits).logsumexp(1),
    "The largest logit of each row is taken out before exp, and not put back after the log.": lambda logits: (
        -(logits - logits.amax(1, keepdim=True)).exp().sum(1).log()
    ),
    "This is the mean logit under p(y|x), without its minus. The sum's logarithm is larger, by the entropy of the "
    "label.": lambda logits: -(logits.softmax(1) * logits).sum(1),
    "The minus stands inside: that is near −min f. It belongs before the logsumexp.": lambda logits: (
        -logits
    ).logsumexp(1),
    "You sum over the batch. "
    "The labels, in the columns, are summed out; each example keeps its energy.": lambda logits: -logits.logsumexp(0),
    "You sum over the batch as well. One energy for each example is asked, (B,).": lambda logits: (
        -logits.logsumexp((0, 1))
    ),
    "These are E(x, y) = −f(x)[y], one for each label. Sum the label out.": lambda logits: -logits,
    "You take Σ log(1 + exp f), the free energy of units that are each on or off. "
    "A label is one of K.": lambda logits: -torch.nn.functional.softplus(logits).sum(1),
    "This is the length of the vector of logits, with a minus. p(x) is a sum of exponentials.": lambda logits: (
        -logits.norm(dim=1)
    ),
    "This is the energy of the first label. Sum over all of them.": lambda logits: -logits[:, 0],
}

ENERGY_OF_LOGITS = Exercise(
    reference=energy_of_logits,
    statement="Logits f(x), (B, K), read as p(x, y) = exp(f(x)[y]) / Z. The energy E(x), (B,) in nats, for which "
    "p(x) = exp(−E(x)) / Z with the same Z.",
    nudge="p(x) = Σ_y p(x, y). Write the sum as exp(−E(x)) and take the logarithm, without an overflow.",
    right="for logits of thousands, too. A number added to all logits of an example changes no p(y|x), and its energy "
    "by as much: that is what a plain classifier leaves open.",
    inputs=rows_of_logits,
    atol=1e-4,
    rtol=1e-6,
    wrong=[
        (
            lambda logits: -logits.exp().sum(1).log(),
            OVERFLOW,
        ),
        (
            lambda logits: torch.special.entr(logits.softmax(1)).sum(1),
            OF_THE_LABEL + " The energy says how likely x is.",
        ),
        (
            lambda logits: -torch.special.entr(logits.softmax(1)).sum(1),
            OF_THE_LABEL + " The energy says how likely x is.",
        ),
        *(
            (lambda logits, small=small: -(logits.exp().sum(1) + small).log(), OVERFLOW)
            for small in (1e-12, 1e-8, 1e-6)
        ),
        (taken_out(torch.max), BATCH_MAX),
        (taken_out(lambda logits: logits.mean(1, keepdim=True)), NOT_THE_LARGEST),
        (taken_out(lambda logits: logits.amin(1, keepdim=True)), NOT_THE_LARGEST),
        *((answer, hint) for hint, answer in ENERGY_SLIPS.items()),
    ],
)

# ---- joint_loss ----------------------------------------------------------------------------------------------------


def joint_loss(net: torch.nn.Module, x: Tensor, y: Tensor, x_model: Tensor) -> Tensor:
    # −log p(x) has the gradient of E(x) − E(x⁻), and x⁻ is a draw from p, not a function of the weights: detach.
    logits, logits_model = net(x), net(x_model.detach())
    energy, energy_model = -logits.logsumexp(1), -logits_model.logsumexp(1)
    return torch.nn.functional.cross_entropy(logits, y) + energy.mean() - energy_model.mean()


def labelled_and_chains(generator: Generator) -> list[tuple[CurvedLogits, Tensor, Tensor, Tensor]]:
    def draw(batch: int, chains: int, k: int, *shape: int) -> tuple[CurvedLogits, Tensor, Tensor, Tensor]:
        x, x_model = (torch.rand(n, *shape, generator=generator) for n in (batch, chains))
        y = torch.randint(k, (batch,), generator=generator)
        return network(generator, k, *shape, scale=2.0), x, y, x_model

    easy = torch.tensor([[1.0], [0.0]]).as_subclass(CurvedLogits), torch.ones(1, 1, 1, 1), torch.tensor([1])
    return [
        (*easy, torch.full((1, 1, 1, 1), 0.5)),
        draw(3, 3, 4, 1, 2, 2),
        draw(4, 7, 3, 1, 3, 3),
        draw(6, 2, 10, 3, 2, 2),
        draw(5, 5, 2, 1, 3, 2),
    ]


Joint = Callable[[CurvedLogits, Tensor, Tensor, Tensor], Tensor]


def parts(
    value: Callable[[Tensor, Tensor, Tensor], Tensor], energy: Energy = energy_of_logits, held: bool = True
) -> Joint:
    """A function of the cross-entropy and of the energies of data and chains, (B,) and (M,)."""

    def loss(net: CurvedLogits, x: Tensor, y: Tensor, x_model: Tensor) -> Tensor:
        logits = net(x)
        x_model = x_model.detach() if held else x_model
        return value(cross_entropy(logits, y), energy(logits), energy(net(x_model)))

    return loss


def contrast(ce: Tensor, data: Tensor, model: Tensor) -> Tensor:
    return ce + data.mean() - model.mean()


def of_logits(value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Joint:
    """A function of the logits of the data, their labels and the logits of the chains."""
    return lambda net, x, y, x_model: value(net(x), y, net(x_model.detach()))


def of_label(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


def labelled_chains(logits: Tensor, y: Tensor, logits_model: Tensor) -> Tensor:
    """The chains get the labels of the data, over and over."""
    labels = y.repeat(len(logits_model))[: len(logits_model)]
    return -of_label(logits, y).mean() + of_label(logits_model, labels).mean()


CONTRAST_SLIPS = {
    "You detach the energy of the chains, so the network never learns to raise it there. Only x_model itself is "
    "detached, not what the network says of it.": lambda ce, data, model: ce + data.mean() - model.mean().detach(),
    "The energy of the data is detached: nothing lowers it where the data are.": lambda ce, data, model: (
        ce + data.mean().detach() - model.mean()
    ),
    "Both energies are detached: the value is that of the joint loss, the "
    "training that of a plain classifier.": lambda ce, data, model: ce + data.mean().detach() - model.mean().detach(),
    "The cross-entropy is detached: the network learns no label.": lambda ce, data, model: (
        ce.detach() + data.mean() - model.mean()
    ),
    "No gradient comes back to the network at all, so training changes nothing: `detach`, `item`, `no_grad` or numpy "
    "cuts the path.": lambda *terms: contrast(*terms).detach(),
    "The sign of the contrast is flipped (or that of the energy): the data's energy would rise and that of the chains "
    "fall. E(data) − E(chains) is what −log p(x) lowers.": lambda ce, data, model: ce - data.mean() + model.mean(),
    "The energy of the chains has a minus: it has to rise there, or all energies just fall.": lambda ce, data, model: (
        ce + data.mean() + model.mean()
    ),
    "The chains are missing: nothing holds the energy up elsewhere, so it falls without end.": lambda ce, data, model: (
        ce + data.mean()
    ),
    "The energy of the data is missing: nothing lowers it where the data are.": lambda ce, data, model: (
        ce - model.mean()
    ),
    "This is the cross-entropy alone, −log p(y|x). If you did add energies: a softmax before the logsumexp makes them "
    "all 0.": lambda ce, data, model: ce,
    "This is −log p(x) alone: the labels have no part in it. "
    "Add −log p(y|x), the cross-entropy.": lambda ce, data, model: data.mean() - model.mean(),
    "The cross-entropy is counted twice. If you used −f(x)[y] for the data: that is E(x, y), which holds −log p(y|x) "
    "already. Beside the cross-entropy stands E(x), "
    "without the label.": lambda ce, data, model: 2 * ce + data.mean() - model.mean(),
    "The sign of the cross-entropy is flipped. `cross_entropy` is −log p(y|x) already.": lambda ce, data, model: (
        -ce + data.mean() - model.mean()
    ),
    "You average the two parts. The logarithms of a product add up: −log p(y|x) − log p(x).": lambda ce, data, model: (
        (ce + data.mean() - model.mean()) / 2
    ),
    "You take the absolute value of the contrast. Its "
    "sign is what tells the energies which way to go.": lambda ce, data, model: ce + (data.mean() - model.mean()).abs(),
    "You square the contrast, which pulls both energies together. "
    "E(data) − E(chains) itself is lowered.": lambda ce, data, model: ce + (data.mean() - model.mean()).square(),
    "The energies are summed. Means are asked: there may be more chains than data.": lambda ce, data, model: (
        ce + data.sum() - model.sum()
    ),
    "Everything is summed. Means are asked: there may be more chains than data.": lambda ce, data, model: (
        ce * len(data) + data.sum() - model.sum()
    ),
    "The cross-entropy is summed over the batch, beside means of the energies. "
    "Its mean is asked.": lambda ce, data, model: ce * len(data) + data.mean() - model.mean(),
    "You cut the contrast off at 0. It may well be negative, and its sign "
    "is what tells the energies which way to go.": lambda ce, data, model: ce + (data.mean() - model.mean()).relu(),
    "Both energies are divided by B. The chains are M: "
    "each sum is divided by its own number.": lambda ce, data, model: ce + (data.sum() - model.sum()) / len(data),
}

JOINT_LOSS = Exercise(
    reference=joint_loss,
    statement="The loss −log p(x, y) = −log p(y|x) − log p(x) of a joint energy model: mean cross-entropy of net(x), "
    "(B, K), with labels y, plus mean E(x) less mean E(x_model), E = −logsumexp of the logits. x_model (M, C, H, W) "
    "are the ends of Langevin chains, on the graph of their steps; they count as data: no gradient goes into them. A "
    "scalar, nats.",
    nudge="Three means: two of the data, one of the chains. The data's energy has to fall, that of the chains to rise. "
    "And where does the path from the loss back to x_model end?",
    right="and so are the gradients: the network gets those of all three terms, the chains none. Softmax and energy "
    "share all weights, which is why one can help the other, and why it can also go wrong.",
    inputs=labelled_and_chains,
    differentiate=("net", "x_model"),
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            parts(contrast, held=False),
            "The gradient is kept through the chains: it goes on into x_model, and from there into the steps that "
            "made it. −log p(x) has no such term. x_model.detach().",
        ),
        (
            parts(contrast, energy=lambda logits: -logits.softmax(1).logsumexp(1)),
            "A softmax comes before the logsumexp, so that your energies hardly differ. The logits as they are.",
        ),
        (
            parts(contrast, energy=lambda logits: -logits.exp().sum(1)),
            "The logarithm is missing in your energy: −log Σ exp, −logsumexp.",
        ),
        (
            parts(contrast, energy=lambda logits: -logits.amax(1)),
            "Your energy is −max of the logits. p(x) sums over all labels: −logsumexp.",
        ),
        (
            parts(contrast, energy=lambda logits: -logits.mean(1)),
            "Your energy is the mean logit. p(x) sums the probabilities of all labels: −logsumexp.",
        ),
        (
            parts(contrast, energy=lambda logits: -logits.sum(1)),
            "Your energy is the sum of the logits. p(x) sums the probabilities of all labels: −logsumexp.",
        ),
        (
            of_logits(labelled_chains),
            "You use E(x, y) for the chains as well, with labels that are not theirs. Their label is summed out: "
            "−logsumexp.",
        ),
        (
            of_logits(lambda logits, y, model: cross_entropy(logits, y) + labelled_chains(logits, y, model)),
            "The cross-entropy is counted twice, E(x, y) holds it already; and the chains have no labels: −logsumexp.",
        ),
        (
            of_logits(
                lambda logits, y, model: (
                    cross_entropy(logits.softmax(1), y)
                    + energy_of_logits(logits).mean()
                    - energy_of_logits(model).mean()
                )
            ),
            "`cross_entropy` takes logits; you give it probabilities, so a softmax is applied twice.",
        ),
        (
            of_logits(
                lambda logits, y, model: (
                    torch.nn.functional.nll_loss(logits.softmax(1), y)
                    + energy_of_logits(logits).mean()
                    - energy_of_logits(model).mean()
                )
            ),
            "The logarithm of p(y|x) is missing: the mean probability of the label is not a cross-entropy.",
        ),
        (
            of_logits(
                lambda logits, y, model: cross_entropy(logits, y) - logits.logsumexp((0, 1)) + model.logsumexp((0, 1))
            ),
            "Your logsumexp runs over the batch as well. Each example has an energy; their mean is taken.",
        ),
        (
            of_logits(
                lambda logits, y, model: (
                    cross_entropy(logits, y) - logits.logsumexp(0).mean() + model.logsumexp(0).mean()
                )
            ),
            "Your logsumexp runs over the batch. It is the labels, in the columns, that are summed out.",
        ),
        *each(parts, CONTRAST_SLIPS),
    ],
)

# ---- class_score ---------------------------------------------------------------------------------------------------


def class_score(net: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    # log p(x|y) = f(x)[y] − log Z − log p(y), and only the first depends on x. The sum keeps the images apart.
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        chosen = net(x).gather(1, y[:, None])
        return torch.autograd.grad(chosen.sum(), x)[0]


def labelled_images(generator: Generator) -> list[tuple[CurvedLogits, Tensor, Tensor]]:
    def draw(batch: int, k: int, *shape: int) -> tuple[CurvedLogits, Tensor, Tensor]:
        x = torch.rand(batch, *shape, generator=generator)
        return network(generator, k, *shape, scale=2.0), x, torch.randint(k, (batch,), generator=generator)

    easy = torch.tensor([[1.0, 2.0], [0.0, -1.0]]).as_subclass(CurvedLogits), torch.tensor([[[[1.0, 0.5]]]])
    return [
        (*easy, torch.tensor([0])),
        draw(3, 3, 1, 2, 2),
        draw(4, 10, 1, 3, 3),
        draw(6, 2, 3, 2, 2),
        draw(2, 5, 1, 4, 3),
    ]


Score = Callable[[CurvedLogits, Tensor, Tensor], Tensor]


def gradient_of(value: Callable[[Tensor, Tensor], Tensor]) -> Score:
    """The gradient by x of the sum of a function of the logits and the labels."""

    def score(net: CurvedLogits, x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(value(net(x), y).sum(), x)[0]

    return score


def of_score(value: Callable[[Tensor], Tensor]) -> Score:
    return lambda net, x, y: value(class_score(net, x, y))


def without_label(logits: Tensor, y: Tensor) -> Tensor:
    others = torch.ones_like(logits).scatter(1, y[:, None], 0.0).bool()
    return logits.masked_fill(~others, -math.inf)


SCORE_SLIPS = {
    "This is ∇ log p(y|x), what makes the label more certain. log p(x|y) has the logit itself, without the softmax: "
    "the two differ by the score of p(x).": lambda logits, y: of_label(logits.log_softmax(1), y),
    "This is the gradient of the cross-entropy, −∇ log p(y|x). "
    "The score is the gradient of the logit f(x)[y].": lambda logits, y: cross_entropy(logits, y, reduction="sum"),
    "This is the gradient of the mean cross-entropy. The score is the gradient of the logit f(x)[y], of each image by "
    "itself.": cross_entropy,
    "This is the gradient of the mean of log p(y|x). The score is the gradient of the logit f(x)[y], of each image by "
    "itself.": lambda logits, y: -cross_entropy(logits, y),
    "Only the first image gets a gradient. "
    "Differentiate the sum over the batch: each image has its own.": lambda logits, y: of_label(logits, y)[:1],
    "You take the logarithm of the logit. The logit itself is log p(x, y), up to log Z.": lambda logits, y: of_label(
        logits, y
    ).log(),
    "You take the logarithm of the logits' sum. The logit itself is log p(x, y), up to log Z.": lambda logits, y: (
        of_label(logits, y).sum().log()
    ),
    "`logits[y]` picks images by their labels' numbers, with all logits. Of each row one: `logits[range(B), y]` or "
    "`gather`.": lambda logits, y: logits[y],
    "This is ∇ p(y|x), the gradient of a probability, which fades where the network is sure. The score is the "
    "gradient of the logit.": lambda logits, y: of_label(logits.softmax(1), y),
    "This is the score of p(x), with the label summed out. "
    "Of p(x|y) it is the gradient of one logit, f(x)[y].": lambda logits, y: logits.logsumexp(1),
    "This is ∇E(x), of all labels together and with the sign of an energy. "
    "The gradient of f(x)[y] is asked.": lambda logits, y: -logits.logsumexp(1),
    "You sum the logits of all classes. Only that of the image's class counts: f(x)[y].": lambda logits, y: logits,
    "You take the largest logit, the class that the network guesses. The class asked for is y.": lambda logits, y: (
        logits.amax(1)
    ),
    "`logits[:, y]` is a table (B, B): each image gets the labels of all others, too. One entry a row: "
    "`logits[range(B), y]` or `gather`.": lambda logits, y: logits[:, y],
    "All images get the label of the first. Each has its own.": lambda logits, y: logits[:, y[0]],
    "This is the gradient of the first logit. Each image has a class of its own, y.": lambda logits, y: logits[:, 0],
    "Your gradients are divided by B: they are those of a mean. Differentiate the sum over the batch, so that each "
    "image has its own.": lambda logits, y: of_label(logits, y).mean(),
    "The sign is flipped, and the mean over the batch divides each gradient by B.": lambda logits, y: (
        -of_label(logits, y).mean()
    ),
    "You subtract the mean logit. log p(x|y) is f(x)[y] and numbers that do not depend on x.": lambda logits, y: (
        of_label(logits, y) - logits.mean(1)
    ),
    "You subtract the strongest other logit: a margin, for attacks. log p(x|y) is f(x)[y] and numbers that do not "
    "depend on x.": lambda logits, y: of_label(logits, y) - without_label(logits, y).amax(1),
    "You subtract all other logits (logsumexp): the log-odds of the class. log p(x|y) is f(x)[y] and numbers that do "
    "not depend on x.": lambda logits, y: of_label(logits, y) - without_label(logits, y).logsumexp(1),
    "You add the score of p(x) to that of p(x, y), which holds it already.": lambda logits, y: (
        of_label(logits, y) + logits.logsumexp(1)
    ),
    "You subtract log p(x) from log p(y|x). By Bayes' rule it is added, "
    "and what is left is f(x)[y].": lambda logits, y: of_label(logits, y) - 2 * logits.logsumexp(1),
    "This is the gradient of p(x, y) "
    "· Z, not of its logarithm. The logit is the logarithm already.": lambda logits, y: of_label(logits, y).exp(),
    "You differentiate the square of the logit. The logit itself is log p(x, y), up to log Z.": lambda logits, y: (
        of_label(logits, y).square() / 2
    ),
}

CLASS_SCORE = Exercise(
    reference=class_score,
    statement="The score ∇_x log p(x|y) of each image and its class, the shape of x, where net(x) gives logits f(x), "
    "(B, K), and p(x, y) = exp(f(x)[y]) / Z.",
    nudge="log p(x|y) = log p(x, y) − log p(y). Which of its terms depends on x? `torch.autograd.grad` of a sum over "
    "the batch gives each image its own gradient.",
    right="without a Z and without p(y). Langevin steps along it draw images of one class, from the very network that "
    "tells classes apart.",
    inputs=labelled_images,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            of_score(torch.neg),
            "The sign is flipped: this is the gradient of the energy E(x, y) = −f(x)[y]. The score points to where x "
            "is more likely.",
        ),
        (of_score(torch.sign), "This is the sign of the gradient, for an attack. The score is the gradient itself."),
        (of_score(torch.abs), "This is the size of the gradient, as in a saliency map. The score has a sign."),
        (
            of_score(lambda score: score / score.flatten(1).norm(dim=1)[:, None, None, None]),
            "You cut the gradient to length 1. The score's length matters: Langevin goes far where p changes fast.",
        ),
        (
            lambda net, x, y: class_score(net, x, y) * x,
            "You multiply by x: a map of relevance. The score is the gradient alone.",
        ),
        (
            of_score(lambda score: score / 2),
            "The ½ belongs to some forms of Langevin's step. The score is the whole gradient.",
        ),
        (
            of_score(lambda score: score.sum(0)),
            "You sum over the batch. Each image has a score of its own.",
        ),
        (
            of_score(lambda score: score.flatten(1)),
            "The numbers are right, but the score has the shape of x, (B, C, H, W).",
        ),
        (
            lambda net, x, y: of_label(net(x), y),
            "These are the logits f(x)[y]. Their gradients with respect to x are asked.",
        ),
        (
            of_score(lambda score: score.flatten(1).norm(dim=1)),
            "This is the length of the score. The score is a picture, of the shape of x.",
        ),
        (
            lambda net, x, y: x + class_score(net, x, y),
            "You have taken a step already. The gradient alone is asked.",
        ),
        *each(gradient_of, SCORE_SLIPS),
    ],
)

# ---- pgd_step ------------------------------------------------------------------------------------------------------


def pgd_step(net: torch.nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, radius: float, step_size: float) -> Tensor:
    # The sign: all pixels go as far as the step lets them. Then back into the cube around x, not around x_adv.
    with torch.enable_grad():
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(net(x_adv), y), x_adv)
    moved = x_adv.detach() + step_size * gradient.sign()
    return torch.clamp(moved, x - radius, x + radius).clamp(0, 1)


def attacks(generator: Generator) -> list[tuple[CurvedLogits, Tensor, Tensor, Tensor, float, float]]:
    def draw(batch: int, k: int, radius: float, step_size: float, *shape: int) -> tuple:
        net = network(generator, k, *shape, scale=2.0)
        blind = torch.rand(math.prod(shape), generator=generator) < 0.15  # pixels that the network does not look at
        net = net.as_subclass(Tensor).masked_fill(blind, 0.0).as_subclass(CurvedLogits)
        x = (1.6 * torch.rand(batch, *shape, generator=generator) - 0.3).clamp(0, 1)
        way = (2 * torch.rand(batch, *shape, generator=generator) - 1) * radius
        y = torch.randint(k, (batch,), generator=generator)
        return net, (x + way).clamp(0, 1), x, y, radius, step_size

    easy = torch.tensor([[1.0, -1.0], [0.0, 0.5]]).as_subclass(CurvedLogits)
    return [
        (
            easy,
            torch.tensor([[[[0.55, 0.5]]]]),
            torch.tensor([[[[0.5, 0.5]]]]),
            torch.tensor([0]),
            0.1,
            0.08,
        ),
        draw(3, 3, 0.2, 0.1, 1, 3, 3),
        draw(4, 10, 0.1, 0.03, 1, 4, 4),
        draw(6, 2, 0.3, 0.4, 3, 3, 2),  # a step longer than the radius
        draw(5, 4, 0.05, 0.02, 1, 5, 5),
    ]


Attack = Callable[..., Tensor]


def slope(net: CurvedLogits, x: Tensor, y: Tensor, value: Callable[[Tensor, Tensor], Tensor] = cross_entropy) -> Tensor:
    return gradient_of(value)(net, x, y)


def length_one(gradient: Tensor) -> Tensor:
    return gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]


def into_cube(moved: Tensor, x: Tensor, radius: float) -> Tensor:
    return torch.clamp(moved, x - radius, x + radius).clamp(0, 1)


def into_ball(moved: Tensor, x: Tensor, radius: float) -> Tensor:
    way = moved - x
    norm = way.flatten(1).norm(dim=1)[:, None, None, None]
    return (x + way * (radius / norm).clamp(max=1)).clamp(0, 1)


def attack(
    direction: Callable[[Tensor], Tensor] = torch.sign,
    value: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    project: Callable[[Tensor, Tensor, float], Tensor] = into_cube,
) -> Attack:
    """A step of step_size along a direction made of the gradient of a value at x_adv, then a projection."""

    def step(net: CurvedLogits, x_adv: Tensor, x: Tensor, y: Tensor, radius: float, step_size: float) -> Tensor:
        return project(x_adv + step_size * direction(slope(net, x_adv, y, value)), x, radius)

    return step


def guessed(logits: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits, logits.argmax(1))


def next_label(logits: Tensor, y: Tensor) -> Tensor:
    return -cross_entropy(logits, (y + 1) % logits.shape[1])


def around_itself(net, x_adv, x, y, radius, step_size):
    return into_cube(x_adv + step_size * slope(net, x_adv, y).sign(), x_adv, radius)


ATTACK_SLIPS = {
    "You descend: the loss falls and the picture becomes easier. An attack makes the loss grow.": attack(
        direction=lambda gradient: -gradient.sign()
    ),
    "The sign is missing: you go along the gradient itself, which is tiny where the network is sure.": attack(
        direction=lambda gradient: gradient
    ),
    "You descend, and the sign of the gradient is not taken.": attack(direction=lambda gradient: -gradient),
    "You cut the gradient to length 1, the step of an attack in the Euclidean norm. In a cube every pixel goes a full "
    "step: the sign.": attack(direction=length_one),
    "Nothing holds x_adv within radius of x: after enough steps it may be any picture. Clamp to x − radius … x + "
    "radius.": attack(project=lambda moved, x, radius: moved.clamp(0, 1)),
    "Pixels leave [0, 1]: a picture that does not exist. One more clamp.": attack(
        project=lambda moved, x, radius: torch.clamp(moved, x - radius, x + radius)
    ),
    "Both clamps are missing: to radius around x, and to [0, 1].": attack(project=lambda moved, x, radius: moved),
    "You project to the cube around x_adv, which moves along, so step after step leads away. The cube stays around "
    "the original x.": around_itself,
    "You project to a Euclidean ball. Here each pixel by itself is at most radius from that of x: a clamp.": attack(
        project=into_ball
    ),
    "Only the upper wall x + radius holds. Pixels may fall by more than radius, too.": attack(
        project=lambda moved, x, radius: torch.minimum(moved, x + radius).clamp(0, 1)
    ),
    "Only the lower wall x − radius holds. Pixels may grow by more than radius, too.": attack(
        project=lambda moved, x, radius: torch.maximum(moved, x - radius).clamp(0, 1)
    ),
    "The difference is clamped to 0 … radius: pixels can only become brighter. −radius … radius.": attack(
        project=lambda moved, x, radius: (x + (moved - x).clamp(0, radius)).clamp(0, 1)
    ),
    "Pixels may be darker than 0. Clamp to [0, 1], on both sides (not to [−1, 1]).": attack(
        project=lambda moved, x, radius: torch.clamp(moved, x - radius, x + radius).clamp(-1, 1)
    ),
    "Pixels may be brighter than 1. Clamp to [0, 1] on both sides.": attack(
        project=lambda moved, x, radius: torch.clamp(moved, x - radius, x + radius).clamp(min=0)
    ),
    "You clamp the picture to −radius … radius. It is its distance from x that is at most radius.": attack(
        project=lambda moved, x, radius: moved.clamp(-radius, radius)
    ),
    "This is the disturbance alone, x′ − x. The disturbed picture is asked.": attack(
        project=lambda moved, x, radius: into_cube(moved, x, radius) - x
    ),
    "`cross_entropy` takes logits; you give it probabilities, which turns the sign of some pixels.": attack(
        value=lambda logits, y: cross_entropy(logits.softmax(1), y)
    ),
    "You raise the logit of the true class, which helps the network. The cross-entropy is to grow.": attack(
        value=of_label
    ),
    "You only lower the logit of the true class. The cross-entropy counts the other classes as well: "
    "they should rise.": attack(value=lambda logits, y: -of_label(logits, y)),
    "You use the class that the network guesses. Where it errs already, that leads back to the truth: the true labels "
    "y.": attack(value=guessed),
    "You go towards another label, a targeted attack. Here any error will do: away from y.": attack(value=next_label),
    "You raise log p(x). An attack on the label raises the cross-entropy with y.": attack(
        value=lambda logits, y: logits.logsumexp(1)
    ),
    "You raise the energy of x. An attack on the label raises the cross-entropy with y.": attack(
        value=lambda logits, y: -logits.logsumexp(1)
    ),
    "Where the gradient is negative you stay. The sign is −1 there.": attack(
        direction=lambda gradient: (gradient > 0).float()
    ),
    "Where the gradient is 0 you step down. The sign of 0 is 0: a pixel without influence stays as it is.": attack(
        direction=lambda gradient: 2 * (gradient > 0).float() - 1
    ),
    "Where the gradient is 0 you step up. The sign of 0 is 0: a pixel without influence stays as it is.": attack(
        direction=lambda gradient: 2 * (gradient >= 0).float() - 1
    ),
    "This is the sign of the gradient. Take the step, and project.": lambda net, x_adv, x, y, radius, step_size: slope(
        net, x_adv, y
    ).sign(),
}

PGD_STEP = Exercise(
    reference=pgd_step,
    statement="One step of PGD: from x_adv, step_size along the sign of the gradient of the cross-entropy of "
    "net(x_adv), (B, K), with the true labels y, so that the loss grows; then back to at most radius from x in every "
    "pixel, and to [0, 1]. x_adv and x are (B, C, H, W).",
    nudge="Three lines: the gradient at x_adv, the step, and two clamps, one of which has tensors for its walls.",
    right="with a step longer than the radius, and pixels that the network does not look at. Twenty of these, from a "
    "random start, are the attack that a robust classifier has to stand.",
    inputs=attacks,
    wrong=[
        (
            attack(direction=lambda gradient: gradient * len(gradient)),
            "The sign is missing: you go along the gradient itself, which is tiny where the network is sure.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: into_cube(
                x_adv + step_size * slope(net, x, y).sign(), x, radius
            ),
            "The gradient is taken at x, where the attack began. It is needed where it stands now: x_adv.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: into_cube(
                x + step_size * slope(net, x_adv, y).sign(), x, radius
            ),
            "You start again from x, so that the steps do not add up. Go on from x_adv.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: into_cube(x + step_size * slope(net, x, y).sign(), x, radius),
            "x_adv does not appear: that is one step from x, as in FGSM. Go on from where the attack stands.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: into_cube(
                x_adv + radius * slope(net, x_adv, y).sign(), x, radius
            ),
            "The step is as long as the radius. It is step_size.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: into_cube(x + radius * slope(net, x, y).sign(), x, radius),
            "This is FGSM: one step of the whole radius from x. PGD goes on from x_adv, by step_size.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: into_cube(
                x_adv + step_size * slope(net, x_adv, y).sign(), x, step_size
            ),
            "The half-width of your cube is step_size. It is radius.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: into_cube(
                x_adv + radius * slope(net, x_adv, y).sign(), x, step_size
            ),
            "radius and step_size are exchanged: the step is step_size, the half-width of the cube radius.",
        ),
        *((answer, hint) for hint, answer in ATTACK_SLIPS.items()),
    ],
)

# ---- novelty_auroc -------------------------------------------------------------------------------------------------


def novelty_auroc(energy_usual: Tensor, energy_unusual: Tensor) -> Tensor:
    # All pairs: how often does the unusual one have the higher energy? No threshold is chosen, and no scale matters.
    difference = energy_unusual[:, None] - energy_usual  # (M, N)
    return ((difference > 0).double() + 0.5 * (difference == 0)).mean()


def usual_and_unusual(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n: int, m: int, shift: float, scale: float = 1.0, usual: float = 0.0) -> tuple[Tensor, Tensor]:
        """Energies in quarters of a nat, so that some are tied."""
        values = (
            usual + scale * torch.randn(n, generator=generator),
            usual + shift + torch.randn(m, generator=generator),
        )
        return tuple((4 * value).round() / 4 for value in values)

    easy = torch.tensor([-3.0, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    tied = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([2.0, 3.0])
    return [
        easy,
        tied,
        draw(20, 30, 1.0),
        draw(15, 15, 0.5, scale=2.0),
        draw(40, 12, -1.0),  # lower energies for the unusual ones: it happens
        draw(25, 20, 1.5, usual=-900.0),
        (torch.tensor([5.0, 5.0]), torch.tensor([5.0, 5.0, 5.0])),
    ]


Auroc = Callable[[Tensor, Tensor], object]


def of_pairs(value: Callable[[Tensor], object]) -> Auroc:
    """A function of all differences unusual − usual, (M, N)."""
    return lambda usual, unusual: value(unusual[:, None].double() - usual)


def of_scores(change: Callable[[Tensor], Tensor]) -> Auroc:
    return lambda usual, unusual: novelty_auroc(change(usual), change(unusual))


def area(difference: Tensor) -> Tensor:
    return ((difference > 0).double() + 0.5 * (difference == 0)).mean()


def accuracy_at(threshold: Callable[[Tensor, Tensor], Tensor | float]) -> Auroc:
    def accuracy(usual: Tensor, unusual: Tensor) -> Tensor:
        wall = threshold(usual, unusual)
        return torch.cat([usual <= wall, unusual > wall]).double().mean()

    return accuracy


def by_argsort(usual: Tensor, unusual: Tensor) -> Tensor:
    ranks = torch.cat([usual, unusual]).argsort().argsort().double() + 1
    n, m = len(usual), len(unusual)
    return (ranks[n:].sum() - m * (m + 1) / 2) / (n * m)


def average_precision(usual: Tensor, unusual: Tensor) -> Tensor:
    found = [(unusual >= wall).sum() / ((unusual >= wall).sum() + (usual >= wall).sum()) for wall in unusual]
    return torch.stack(found).mean()


PAIR_SLIPS = {
    "The direction is flipped: you count pairs where the usual one has the higher energy (or you score by log p, "
    "which is high for the usual). Energy is high where x is unlikely.": lambda difference: area(-difference),
    "You take whichever direction looks better. That is chosen by the answer: a score below 0.5 means that the energy "
    "is wrong about these images.": lambda difference: torch.maximum(area(difference), area(-difference)),
    "Ties count 0 in yours. A tie is a coin flip, one half: "
    "if all energies are equal, the AUROC is 0.5.": lambda difference: (difference > 0).double().mean(),
    "Ties count 1 in yours (ranks by argsort do so, where the unusual ones stand behind). A tie is a coin flip, one "
    "half: if all energies are equal, the AUROC is 0.5.": lambda difference: (difference >= 0).double().mean(),
    "The direction is flipped, and ties count 0: one half is asked.": lambda difference: (
        (difference < 0).double().mean()
    ),
    "This is 2 · AUROC − 1, from −1 to 1, as is the mean sign of the differences. A pair counts 1, ½ or 0, and chance "
    "is 0.5.": lambda difference: 2 * area(difference) - 1,
    "This is the number of pairs. Their share is asked: divide by N·M.": lambda difference: (
        area(difference) * difference.numel()
    ),
    "You divide by N + M. There are N·M pairs.": lambda difference: (
        area(difference) * difference.numel() / sum(difference.shape)
    ),
    "You divide by N². There are N·M pairs.": lambda difference: (
        area(difference) * difference.shape[0] / difference.shape[1]
    ),
    "You divide by M². There are N·M pairs.": lambda difference: (
        area(difference) * difference.shape[1] / difference.shape[0]
    ),
    "This is the difference of the mean energies, in nats. "
    "The AUROC counts pairs, whatever their distance.": torch.mean,
    "This is a sigmoid of the difference of the means. "
    "The AUROC counts pairs, whatever their distance.": lambda difference: difference.mean().sigmoid(),
    "A sigmoid in place of the count: a pair 1 nat apart counts 0.73. It counts 1, however close.": lambda difference: (
        difference.sigmoid().mean()
    ),
    "You compare sizes of differences. Their sign is what counts.": lambda difference: area(difference.abs()),
    "You count unusual ones that lie above any usual one. Every pair counts.": lambda difference: (
        (difference > 0).any(1).double().mean()
    ),
    "This is the table of pairs. Its mean is asked.": lambda difference: (
        (difference > 0).double() + 0.5 * (difference == 0)
    ),
}
AUROC_SLIPS = {
    "You compare exp(−E), which is high for the usual (and over- or underflows). "
    "Energies are compared as they are.": of_scores(lambda energy: (-energy.double()).exp()),
    "You compare through exp(−E), which over- or underflows, so that all are tied. Only the order matters: compare "
    "the energies.": of_scores(lambda energy: -(-energy.float()).exp()),
    "You compare the first with the first, the second with the second. All N·M pairs count: "
    "`[:, None]`.": lambda usual, unusual: area((unusual[: len(usual)] - usual[: len(unusual)]).double()),
    "Ranks by argsort give tied values different ranks, as they happen to lie. A tie is one half: give tied values "
    "their mean rank, or compare all pairs.": by_argsort,
    "This is the balanced accuracy with a threshold at 0, a height that means nothing for an energy. The AUROC has no "
    "threshold.": lambda usual, unusual: ((unusual > 0).double().mean() + (usual <= 0).double().mean()) / 2,
    "You count usual ones below the mean of the unusual. "
    "Every pair counts, not one with the mean.": lambda usual, unusual: (unusual.mean() > usual).double().mean(),
    "You count usual ones below the median of the unusual. "
    "Every pair counts, not one with the median.": lambda usual, unusual: (unusual.median() > usual).double().mean(),
    "This is the accuracy with a threshold at the mean of the usual. The AUROC has no threshold.": accuracy_at(
        lambda usual, unusual: usual.mean()
    ),
    "This is the accuracy with a threshold at 0, a height that means nothing for an energy. The AUROC has no "
    "threshold.": accuracy_at(lambda usual, unusual: 0.0),
    "This is the accuracy with a threshold between the means. The AUROC has no threshold: "
    "it counts pairs.": accuracy_at(lambda usual, unusual: (usual.mean() + unusual.mean()) / 2),
    "This is the accuracy with a threshold at the median. The AUROC has no threshold: it counts pairs.": accuracy_at(
        lambda usual, unusual: torch.cat([usual, unusual]).median()
    ),
    "You count unusual ones above the mean of the usual. "
    "Every pair counts, not one with the mean.": lambda usual, unusual: (unusual > usual.mean()).double().mean(),
    "You count unusual ones above the median of the usual. "
    "Every pair counts, not one with the median.": lambda usual, unusual: (unusual > usual.median()).double().mean(),
    "You count unusual ones above all usual ones. Every pair counts.": lambda usual, unusual: (
        (unusual > usual.max()).double().mean()
    ),
    "This is the share found when 5 % of the usual ones are rejected. "
    "The AUROC goes over all thresholds.": lambda usual, unusual: (unusual > usual.quantile(0.95)).double().mean(),
    "This is the average precision, the area under another curve, which depends on how many unusual ones there are. "
    "The AUROC counts pairs.": average_precision,
}

NOVELTY_AUROC = Exercise(
    reference=novelty_auroc,
    statement="The AUROC of the energy as a score of novelty: energy_usual (N,), energy_unusual (M,). The share of all "
    "N·M pairs in which the unusual one has the higher energy, a tie counting one half. A scalar.",
    nudge="How many pairs are there in the first input? Count by hand. Then a table of all differences, (M, N).",
    right="ties and worse than chance included. Below 0.5 the energy calls the unusual images the more usual ones. "
    "That has to be reported, not turned round.",
    inputs=usual_and_unusual,
    wrong=[
        (
            lambda usual, unusual: (unusual[: len(usual)] > usual[: len(unusual)]).double().mean(),
            "You compare the first with the first, the second with the second. All N·M pairs count: `[:, None]`.",
        ),
        *each(of_pairs, PAIR_SLIPS),
        *((answer, hint) for hint, answer in AUROC_SLIPS.items()),
    ],
)

# ---- rollback_epoch ------------------------------------------------------------------------------------------------


def rollback_epoch(energy_data: Tensor, energy_model: Tensor, limit: float) -> int:
    # `not gap <= limit` is true of nan as well, where `gap > limit` is false. inf − inf is nan, too.
    sound = (energy_data - energy_model).abs() <= limit  # (T,)
    broken = (~sound).nonzero()
    return int(broken[0]) - 1 if len(broken) else len(sound) - 1


def runs(generator: Generator) -> list[tuple[Tensor, Tensor, float]]:
    def draw(length: int, limit: float, changes: dict[int, tuple[float, float]]) -> tuple[Tensor, Tensor, float]:
        """Sound epochs, and the energies of some others: data and chains."""
        level = 20 * torch.randn(length, generator=generator)  # energies have no zero
        gap = (2 * torch.rand(length, generator=generator) - 1) * 0.9 * limit
        data, model = level + gap / 2, level - gap / 2
        for epoch, (of_data, of_model) in changes.items():
            data[epoch], model[epoch] = of_data, of_model
        return data, model, limit

    return [
        (torch.tensor([0.0, 1.0, 2.0, 9.0]), torch.tensor([0.0, 2.0, 1.0, 1.0]), 5.0),
        draw(6, 10.0, {}),
        draw(8, 10.0, {4: (-3.0, 40.0), 6: (-60.0, 9.0)}),  # the chains are above: still broken; then sound, broken
        draw(7, 3.0, {3: (math.inf, math.inf), 4: (-math.inf, -math.inf)}),  # the gap is nan
        draw(9, 8.0, {5: (1.0, math.inf)}),
        draw(7, 8.0, {2: (math.nan, 3.0), 5: (40.0, 1.0)}),
        draw(7, 8.0, {4: (3.0, math.nan), 5: (40.0, 1.0)}),
        draw(6, 4.0, {3: (math.nan, math.nan)}),
        draw(5, 2.0, {0: (50.0, 1.0)}),
        draw(8, 4.0, {2: (3.0, -1.0), 5: (3.0, -math.inf)}),  # exactly at the limit is not beyond it
        draw(6, 5.0, {3: (-math.inf, -math.inf), 5: (30.0, 0.0)}),
        draw(6, 5.0, {2: (math.inf, math.inf), 4: (-80.0, 0.0)}),
        draw(1, 5.0, {}),
        draw(7, 6.0, {6: (-20.0, -50.0)}),
        draw(10, 6.0, {3: (500.0, 499.0), 7: (10.0, 90.0)}),  # high, but together
        draw(8, 0.5, {2: (1.0, 0.6), 5: (1.0, 1.6)}),
        draw(7, 5.0, {3: (20.0, -20.0)}),
    ]


Guard = Callable[[Tensor, Tensor, float], object]


def before_first(broken: Callable[[Tensor, Tensor, float], Tensor], none: int = -1) -> Guard:
    """The epoch before the first broken one; counted from the end where none is."""

    def epoch(data: Tensor, model: Tensor, limit: float) -> int:
        found = broken(data, model, limit).nonzero()
        return int(found[0]) - 1 if len(found) else len(data) + none

    return epoch


def is_broken(data: Tensor, model: Tensor, limit: float) -> Tensor:
    return ~((data - model).abs() <= limit)


def of_broken(value: Callable[[Tensor], object]) -> Guard:
    """A function of which epochs are broken, (T,)."""
    return lambda data, model, limit: value(is_broken(data, model, limit))


def first(broken: Tensor) -> int:
    """The first broken epoch; their number where none is."""
    return int(broken.nonzero()[0]) if broken.any() else len(broken)


def too_far(data: Tensor, model: Tensor, limit: float) -> Tensor:
    """Where the gap is above the limit: nan is not."""
    return (data - model).abs() > limit


ONE_OF_THE_TWO = "Only one of the two energies is asked whether it is finite. Either may be nan alone."
NAN_PASSES = (
    "nan is never greater than a limit, so an epoch whose energies are nan passes as sound (inf − inf is nan as well). "
    "Ask `isfinite`, or whether the gap is NOT at most the limit."
)

EPOCH_SLIPS = {
    "This is the first broken epoch itself. Go back to the one before: its weights are the last good ones.": first,
    "Where no epoch is broken you return −1: `argmax` of only False is 0. "
    "The last epoch, T − 1, is asked there.": lambda broken: int(broken.int().argmax()) - 1,
    "Where no epoch is broken you return 0, and would lose the whole run. "
    "The last epoch, T − 1, is asked there.": lambda broken: first(broken) - 1 if broken.any() else 0,
    "If epoch 0 is broken there is nothing to go back to: "
    "−1. You return epoch 0, whose weights are broken.": lambda broken: max(first(broken) - 1, 0),
    "This is the last sound epoch of all. After a broken epoch the energies may come together again by accident; what "
    "the run learnt is lost: "
    "the last one before the FIRST broken one.": lambda broken: int((~broken).nonzero()[-1]) if (~broken).any() else -1,
    "You go back from the last broken epoch. The first one decides: what followed was built on it.": lambda broken: (
        int(broken.nonzero()[-1]) - 1 if broken.any() else len(broken) - 1
    ),
    "You go back one epoch more than needed.": lambda broken: first(broken) - 2,
    "You count the sound epochs, those after the first broken one among them.": lambda broken: int((~broken).sum()) - 1,
    "You count the sound epochs. "
    "The place of the last one before the first broken is asked, counted from 0.": lambda broken: int((~broken).sum()),
    "This is the number of broken epochs. The place of the last one before them is asked.": lambda broken: int(
        broken.sum()
    ),
    "This says whether the run diverged. Which epoch does it go back to?": lambda broken: broken.any(),
    "This says of each epoch whether it is broken. Which one does the run go back to?": lambda broken: broken,
    "This says of each epoch whether it is sound. Which one does the run go back to?": torch.logical_not,
}
BROKEN_SLIPS = {
    "nan is not infinite, so `isinf` lets it pass. Ask whether both energies are finite: `isfinite`.": lambda *run: (
        run[0].isinf() | run[1].isinf() | too_far(*run)
    ),
    "Where both energies are infinite their gap is nan, which is greater than nothing, and neither is nan itself. Ask "
    "whether both are finite: `isfinite`.": lambda *run: run[0].isnan() | run[1].isnan() | too_far(*run),
    "An epoch is broken in yours only if BOTH energies are not finite. One of them is enough.": lambda *run: (
        ~(run[0].isfinite() | run[1].isfinite()) | too_far(*run)
    ),
    "Only energies of the data above those of the chains are found, and no nan. The chains can run away to high "
    "energies, too: "
    "the absolute value; and nan is never greater than anything.": lambda data, model, limit: data - model > limit,
    "Only energies of the chains above those of the data are found, and no nan. The other way is a divergence, too: "
    "the absolute value; and nan is never greater than anything.": lambda data, model, limit: model - data > limit,
    "Only energies of the data above those of the chains are found. The chains can run away to high energies, too: "
    "the absolute value.": lambda data, model, limit: ~(data - model <= limit),
    "Only energies of the chains above those of the data are found. The other way is a divergence, too: the absolute "
    "value.": lambda data, model, limit: ~(model - data <= limit),
    "A gap of exactly limit counts as broken in yours. More than limit is asked.": lambda data, model, limit: (
        ~((data - model).abs() < limit)
    ),
    "Only what is not finite is found. Energies more than limit apart are broken as well: it is there that a run can "
    "still be saved.": lambda data, model, limit: ~((data - model).isfinite()),
    "You compare the energies themselves with the limit. An energy has no zero: a number added to all changes no "
    "probability. "
    "It is the gap that counts.": lambda data, model, limit: ~((data.abs() <= limit) & (model.abs() <= limit)),
    "You compare the squared gap with the limit. The gap itself.": lambda data, model, limit: (
        ~((data - model).square() <= limit)
    ),
    "You compare with the square of the limit.": lambda data, model, limit: ~((data - model).abs() <= limit * limit),
    "You compare the sizes of the energies: 20 and −20 are 40 nats apart. The absolute value comes after the "
    "difference.": lambda data, model, limit: ~((data.abs() - model.abs()).abs() <= limit),
    "You add the two energies. Their difference is the gap.": lambda data, model, limit: (
        ~((data + model).abs() <= limit)
    ),
}

ROLLBACK_EPOCH = Exercise(
    reference=rollback_epoch,
    statement="energy_data, energy_model (T,): mean energies after epochs 0 … T − 1. An epoch is broken if one of the "
    "two is not finite or they are more than limit apart, either way. The epoch to go back to: the last before the "
    "first broken one; T − 1 if none is broken; −1 if epoch 0 is.",
    nudge="First which epochs are broken, (T,) of True and False. What does `nan > limit` say? Then the first of them.",
    right="gaps that are nan, infinities of either sign and the limit itself included. After a broken epoch the "
    "chains are lost as well, so that they go back together with the weights.",
    inputs=runs,
    wrong=[
        (
            before_first(too_far),
            NAN_PASSES,
        ),
        (before_first(lambda *run: ~run[0].isfinite() | too_far(*run)), ONE_OF_THE_TWO),
        (before_first(lambda *run: ~run[1].isfinite() | too_far(*run)), ONE_OF_THE_TWO),
        (
            of_broken(lambda broken: first(broken) if broken.any() else len(broken) - 1),
            "This is the first broken epoch itself. Go back to the one before: its weights are the last good ones.",
        ),
        (
            before_first(is_broken, none=0),
            "Where no epoch is broken you return T, but epochs are counted from 0: the last one is T − 1.",
        ),
        (
            lambda data, model, limit: int((data - model).abs().argmin()),
            "This is the epoch with the smallest gap. Training goes back to the last one before the first broken one.",
        ),
        (
            lambda data, model, limit: int((data - model).abs().nan_to_num(math.inf).argmin()),
            "This is the epoch with the smallest gap. Training goes back to the last one before the first broken one.",
        ),
        *each(of_broken, EPOCH_SLIPS),
        *each(before_first, BROKEN_SLIPS),
    ],
)

EXERCISES = [ENERGY_OF_LOGITS, JOINT_LOSS, CLASS_SCORE, PGD_STEP, NOVELTY_AUROC, ROLLBACK_EPOCH]
