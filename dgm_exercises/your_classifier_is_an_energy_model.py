"""Exercises of notebook 11: the energy in the logits, the joint loss, the score of a class, attack, novelty, guard."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from dgm_exercises.adversarial_learning import Network
from dgm_exercises.engine import Exercise
from dgm_exercises.generative_classifiers import BATCH_MAX, NOT_THE_LARGEST


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

ENERGY_OF_LOGITS = Exercise(
    reference=energy_of_logits,
    statement="Logits f(x), (B, K), thousands of either sign, read as p(x, y) = exp(f(x)[y]) / Z. The energy E(x), "
    "(B,) in nats, for which p(x) = exp(−E(x)) / Z with the same Z. Training differentiates it.",
    nudge="p(x) = Σ_y p(x, y). Write the sum as exp(−E(x)) and take the logarithm, without an overflow.",
    right="for logits of thousands, too. A number added to all logits of an example changes no p(y|x), and its energy "
    "by as much: that is what a plain classifier leaves open.",
    inputs=rows_of_logits,
    differentiate=("logits",),
    atol=1e-4,
    rtol=1e-6,
    wrong=[
        (
            lambda logits: -logits.amax(1),
            "This is the energy of the best class alone, −max f. p(x) sums over all labels.",
        ),
        (
            lambda logits: -logits.logsumexp(1) + math.log(logits.shape[1]),
            "You average over the labels where p(x) is their sum: log K nats are too many.",
        ),
        (
            lambda logits: -logits.mean(1),
            "You average the logits. Probabilities are summed over the labels: exp first, then the sum, then the log.",
        ),
        (
            lambda logits: -logits.sum(1),
            "You sum the logits, as if the labels were independent: their probabilities are summed, not multiplied.",
        ),
        (lambda logits: -logits.exp().sum(1).log(), OVERFLOW),
        (lambda logits: -logits.exp().sum(1), "The logarithm is missing: exp(−E) is the sum, so E is −log of it."),
        (
            lambda logits: -logits.log_softmax(1).logsumexp(1),
            "A softmax has normalised each row, so all your energies are 0. Take the logits as they are.",
        ),
        (
            lambda logits: -logits.softmax(1).logsumexp(1),
            "A softmax has normalised each row first. It forgets what was asked, the height of all logits together.",
        ),
        (
            lambda logits: -logits.log_softmax(1).amax(1),
            "This is −log p(y|x) of the best class: how sure the label is. The energy says how likely x is.",
        ),
        (
            lambda logits: torch.special.entr(logits.softmax(1)).sum(1),
            "This is the entropy of p(y|x): how unsure the label is. The energy says how likely x is.",
        ),
        (
            lambda logits: (-logits).logsumexp(1),
            "The minus stands inside: that is near −min f. It belongs before the logsumexp.",
        ),
        (
            lambda logits: -logits.logsumexp(0),
            "You sum over the batch. The labels, in the columns, are summed out; each example keeps its energy.",
        ),
        (lambda logits: -logits, "These are E(x, y) = −f(x)[y], one for each label. Sum the label out."),
        (taken_out(torch.max), BATCH_MAX),
        (taken_out(lambda logits: logits.mean(1, keepdim=True)), NOT_THE_LARGEST),
        (taken_out(lambda logits: logits.amin(1, keepdim=True)), NOT_THE_LARGEST),
    ],
)

# ---- joint_loss ----------------------------------------------------------------------------------------------------


def joint_loss(net: torch.nn.Module, x: Tensor, y: Tensor, x_model: Tensor) -> Tensor:
    # −log p(x) has the gradient of E(x) − E(x⁻), and x⁻ is a draw from p, not a function of the weights: detach.
    logits, logits_model = net(x), net(x_model.detach())
    energy, energy_model = -logits.logsumexp(1), -logits_model.logsumexp(1)
    return torch.nn.functional.cross_entropy(logits, y) + energy.mean() - energy_model.mean()


def labelled_and_chains(generator: Generator) -> list[tuple[CurvedLogits, Tensor, Tensor, Tensor]]:
    def draw(batch: int, chains: int, k: int, *shape: int, scale: float = 2.0) -> tuple:
        x, x_model = (torch.rand(n, *shape, generator=generator) for n in (batch, chains))
        y = torch.randint(k, (batch,), generator=generator)
        return network(generator, k, *shape, scale=scale), x, y, x_model

    easy = torch.tensor([[1.0], [0.0]]).as_subclass(CurvedLogits), torch.ones(1, 1, 1, 1), torch.tensor([1])
    return [
        (*easy, torch.full((1, 1, 1, 1), 0.5)),
        draw(3, 3, 4, 1, 2, 2),
        draw(4, 7, 3, 1, 3, 3),
        draw(6, 2, 10, 3, 2, 2),
        draw(5, 5, 2, 1, 3, 2),
        draw(6, 4, 5, 1, 3, 3, scale=20.0),  # logits of hundreds
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


def with_cross_entropy(value: Callable[[Tensor, Tensor], Tensor]) -> Joint:
    """The right energies beside something else, of the logits of the data and their labels."""

    def loss(net: CurvedLogits, x: Tensor, y: Tensor, x_model: Tensor) -> Tensor:
        energies = (energy_of_logits(net(images)).mean() for images in (x, x_model.detach()))
        return contrast(value(net(x), y), *energies)

    return loss


def of_label(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


JOINT_LOSS = Exercise(
    reference=joint_loss,
    statement="The loss −log p(x, y) = −log p(y|x) − log p(x) of a joint energy model: mean cross-entropy of net(x), "
    "(B, K), which may be hundreds, with labels y, plus mean E(x) less mean E(x_model), E = −logsumexp of the logits. "
    "x_model (M, C, H, W) are the ends of Langevin chains, on the graph of their steps; they count as data: no "
    "gradient goes into them. A scalar, nats.",
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
            "The gradient is kept through the chains and goes on into their steps. x_model.detach().",
        ),
        (
            parts(lambda ce, data, model: ce + data.mean() - model.mean().detach()),
            "You detach the energy of the chains, which never learns to rise. Only x_model itself is detached.",
        ),
        (
            parts(lambda ce, data, model: ce + data.mean().detach() - model.mean()),
            "The energy of the data is detached: nothing lowers it where the data are.",
        ),
        (
            parts(lambda ce, data, model: ce.detach() + data.mean() - model.mean()),
            "The cross-entropy is detached: the network learns no label.",
        ),
        (
            parts(lambda ce, data, model: ce - data.mean() + model.mean()),
            "The sign of the contrast is flipped (or that of the energy): E(data) falls, E(chains) rises.",
        ),
        (
            parts(lambda ce, data, model: ce + data.mean() + model.mean()),
            "The energy of the chains has a minus: it has to rise there, or all energies just fall.",
        ),
        (
            parts(lambda ce, data, model: ce + data.mean()),
            "The chains are missing: nothing holds the energy up elsewhere, so it falls without end.",
        ),
        (
            parts(lambda ce, data, model: ce),
            "This is the cross-entropy alone. (A softmax before the logsumexp makes all energies 0.)",
        ),
        (
            parts(lambda ce, data, model: data.mean() - model.mean()),
            "This is −log p(x) alone: the labels have no part in it. Add −log p(y|x), the cross-entropy.",
        ),
        (
            parts(lambda ce, data, model: 2 * ce + data.mean() - model.mean()),
            "The cross-entropy is counted twice. −f(x)[y] is E(x, y), which holds it; beside it stands E(x).",
        ),
        (
            parts(lambda ce, data, model: ce * len(data) + data.sum() - model.sum()),
            "Everything is summed. Means are asked: there may be more chains than data.",
        ),
        (
            parts(lambda ce, data, model: ce + (data.sum() - model.sum()) / len(data)),
            "Both energies are divided by B. The chains are M: each sum is divided by its own number.",
        ),
        (
            parts(contrast, energy=lambda logits: -logits.exp().sum(1).log()),
            "exp comes before a logarithm: a sum is infinite, or a probability 0. `logsumexp`, and `cross_entropy`.",
        ),
        (
            parts(contrast, energy=lambda logits: -logits.softmax(1).logsumexp(1)),
            "A softmax comes before the logsumexp, so that your energies hardly differ. The logits as they are.",
        ),
        (
            parts(contrast, energy=lambda logits: -logits.amax(1)),
            "Your energy is −max of the logits. p(x) sums over all labels: −logsumexp.",
        ),
        (
            with_cross_entropy(lambda logits, y: cross_entropy(logits.softmax(1), y)),
            "`cross_entropy` takes logits; you give it probabilities, so a softmax is applied twice.",
        ),
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
    def draw(batch: int, k: int, *shape: int, scale: float = 2.0) -> tuple[CurvedLogits, Tensor, Tensor]:
        x = torch.rand(batch, *shape, generator=generator)
        return network(generator, k, *shape, scale=scale), x, torch.randint(k, (batch,), generator=generator)

    easy = torch.tensor([[1.0, 2.0], [0.0, -1.0]]).as_subclass(CurvedLogits), torch.tensor([[[[1.0, 0.5]]]])
    return [
        (*easy, torch.tensor([0])),
        draw(3, 3, 1, 2, 2),
        draw(4, 10, 1, 3, 3),
        draw(6, 2, 3, 2, 2),
        draw(2, 5, 1, 4, 3),
        draw(5, 4, 1, 3, 3, scale=20.0),  # logits of hundreds
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


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """How far the logit of the label lies above the strongest other one, (B,)."""
    others = logits.masked_fill(torch.nn.functional.one_hot(y, logits.shape[1]).bool(), -math.inf)
    return of_label(logits, y) - others.amax(1)


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
            gradient_of(lambda logits, y: of_label(logits.log_softmax(1), y)),
            "This is ∇ log p(y|x), what makes the label more certain. log p(x|y) has the logit itself.",
        ),
        (
            gradient_of(lambda logits, y: cross_entropy(logits, y, reduction="sum")),
            "This is the gradient of the cross-entropy, −∇ log p(y|x). The score is the gradient of the logit f(x)[y].",
        ),
        (
            gradient_of(cross_entropy),
            "This is the gradient of the mean cross-entropy. That of the logit f(x)[y], image by image, is asked.",
        ),
        (
            gradient_of(lambda logits, y: of_label(logits.softmax(1), y)),
            "This is ∇ p(y|x), which fades where the network is sure. The gradient of the logit is asked.",
        ),
        (
            gradient_of(lambda logits, y: logits.logsumexp(1)),
            "This is the score of p(x), with the label summed out. Of p(x|y) it is the gradient of one logit, f(x)[y].",
        ),
        (
            gradient_of(lambda logits, y: logits),
            "You sum the logits of all classes. Only that of the image's class counts: f(x)[y].",
        ),
        (
            gradient_of(lambda logits, y: logits.amax(1)),
            "You take the largest logit, the class that the network guesses. The class asked for is y.",
        ),
        (
            gradient_of(lambda logits, y: logits[:, y]),
            "`logits[:, y]` is a table (B, B). One entry a row: `logits[range(B), y]` or `gather`.",
        ),
        (
            gradient_of(lambda logits, y: of_label(logits, y)[:1]),
            "Only the first image gets a gradient. Differentiate the sum over the batch: each image has its own.",
        ),
        (
            gradient_of(lambda logits, y: of_label(logits, y).mean()),
            "Your gradients are divided by B: they are those of a mean. Differentiate the sum over the batch.",
        ),
        (
            gradient_of(margin),
            "You subtract the strongest other logit: a margin, for attacks. log p(x|y) has f(x)[y] alone.",
        ),
        (of_score(torch.sign), "This is the sign of the gradient, for an attack. The score is the gradient itself."),
        (
            lambda net, x, y: of_label(net(x), y),
            "These are the logits f(x)[y]. Their gradients with respect to x are asked.",
        ),
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
    def draw(batch: int, k: int, radius: float, step_size: float, *shape: int, scale: float = 2.0) -> tuple:
        net = network(generator, k, *shape, scale=scale)
        blind = torch.rand(math.prod(shape), generator=generator) < 0.15  # pixels that the network does not look at
        net = net.as_subclass(Tensor).masked_fill(blind, 0.0).as_subclass(CurvedLogits)
        x = (1.6 * torch.rand(batch, *shape, generator=generator) - 0.3).clamp(0, 1)
        way = (2 * torch.rand(batch, *shape, generator=generator) - 1) * radius
        y = torch.randint(k, (batch,), generator=generator)
        return net, (x + way).clamp(0, 1), x, y, radius, step_size

    easy = torch.tensor([[1.0, -1.0], [0.0, 0.5]]).as_subclass(CurvedLogits)
    net, *images, _, radius, step_size = draw(4, 5, 0.1, 0.05, 1, 3, 3, scale=25.0)
    return [
        (easy, torch.tensor([[[[0.55, 0.5]]]]), torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0]), 0.1, 0.08),
        draw(3, 3, 0.2, 0.1, 1, 3, 3),
        draw(4, 10, 0.1, 0.03, 1, 4, 4),
        draw(6, 2, 0.3, 0.4, 3, 3, 2),  # a step longer than the radius
        draw(5, 4, 0.05, 0.02, 1, 5, 5),
        (net, *images, net(images[0]).argmin(1).as_subclass(Tensor), radius, step_size),  # a network that errs, surely
    ]


Attack = Callable[..., Tensor]


def slope(net: CurvedLogits, x: Tensor, y: Tensor, value: Callable[[Tensor, Tensor], Tensor] = cross_entropy) -> Tensor:
    return gradient_of(value)(net, x, y)


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


PGD_STEP = Exercise(
    reference=pgd_step,
    statement="One step of PGD: from x_adv, step_size along the sign of the gradient of the cross-entropy of "
    "net(x_adv), (B, K), which may be hundreds, with the true labels y, so that the loss grows; then back to at most "
    "radius from x in every pixel, and to [0, 1]. x_adv and x are (B, C, H, W).",
    nudge="Three lines: the gradient at x_adv, the step, and two clamps, one of which has tensors for its walls.",
    right="with a step longer than the radius, and pixels that the network does not look at. Twenty of these, from a "
    "random start, are the attack that a robust classifier has to stand.",
    inputs=attacks,
    wrong=[
        (
            attack(direction=lambda gradient: -gradient.sign()),
            "You descend: the loss falls and the picture becomes easier. An attack makes the loss grow.",
        ),
        (
            attack(direction=lambda gradient: gradient),
            "The sign is missing: you go along the gradient itself, which is tiny where the network is sure.",
        ),
        (
            attack(project=lambda moved, x, radius: moved.clamp(0, 1)),
            "Nothing holds x_adv within radius of x. Clamp to x − radius … x + radius.",
        ),
        (
            attack(project=lambda moved, x, radius: torch.clamp(moved, x - radius, x + radius)),
            "Pixels leave [0, 1]: a picture that does not exist. One more clamp.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: pgd_step(net, x_adv, x_adv, y, radius, step_size),
            "You project to the cube around x_adv, which moves along. The cube stays around the original x.",
        ),
        (
            attack(project=into_ball),
            "You project to a Euclidean ball. Here each pixel by itself is at most radius from that of x: a clamp.",
        ),
        (
            attack(value=lambda logits, y: cross_entropy(logits.softmax(1), y)),
            "`cross_entropy` takes logits; you give it probabilities, which turns the sign of some pixels.",
        ),
        (
            attack(value=lambda logits, y: -of_label(logits.softmax(1), y).log()),
            "A probability is 0 in float32, and the gradient of its logarithm nan. `cross_entropy` takes logits.",
        ),
        (
            attack(value=lambda logits, y: -margin(logits, y)),
            "You climb along the margin. The cross-entropy counts all other classes, each by its probability.",
        ),
        (
            attack(value=lambda logits, y: -of_label(logits, y)),
            "You only lower the logit of the true class. The cross-entropy raises the other classes as well.",
        ),
        (
            attack(value=lambda logits, y: cross_entropy(logits, logits.argmax(1))),
            "You use the class that the network guesses, which leads back to the truth where it errs: y.",
        ),
        (
            attack(direction=lambda gradient: 2 * (gradient > 0).float() - 1),
            "Where the gradient is 0 you step down. The sign of 0 is 0: a pixel without influence stays as it is.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: into_cube(
                x_adv + step_size * slope(net, x, y).sign(), x, radius
            ),
            "The gradient is taken at x, where the attack began. It is needed where it stands now: x_adv.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: pgd_step(net, x, x, y, radius, step_size),
            "x_adv does not appear: that is one step from x, as in FGSM. Go on from where the attack stands.",
        ),
        (
            lambda net, x_adv, x, y, radius, step_size: pgd_step(net, x_adv, x, y, radius, radius),
            "The step is as long as the radius. It is step_size.",
        ),
    ],
)

# ---- novelty_auroc -------------------------------------------------------------------------------------------------


def novelty_auroc(energy_usual: Tensor, energy_unusual: Tensor) -> Tensor:
    # All pairs: how often does the unusual one have the higher energy? No threshold is chosen, and no scale matters.
    usual, unusual = energy_usual, energy_unusual[:, None]
    return ((unusual > usual).double() + 0.5 * (unusual == usual)).mean()  # (M, N) pairs


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


ONE_BY_ONE = "You compare the first with the first, the second with the second. All N·M pairs count: `[:, None]`."

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
            of_pairs(lambda difference: torch.maximum(area(difference), area(-difference))),
            "You take whichever direction looks better. Below 0.5 the energy is wrong about these images.",
        ),
        (
            of_pairs(lambda difference: (difference > 0).double().mean()),
            "Ties count 0 in yours. A tie is a coin flip, one half: if all energies are equal, the AUROC is 0.5.",
        ),
        (
            of_pairs(lambda difference: (difference >= 0).double().mean()),
            "Ties count 1 in yours. A tie is a coin flip, one half: if all energies are equal, the AUROC is 0.5.",
        ),
        (
            by_argsort,
            "Ranks by argsort give tied values different ranks. A tie is one half: their mean rank, or all pairs.",
        ),
        (
            of_pairs(lambda difference: difference.sign().mean()),
            "This is 2 · AUROC − 1, the mean sign of the differences. A pair counts 1, ½ or 0; chance is 0.5.",
        ),
        (
            of_pairs(lambda difference: area(difference) * difference.numel()),
            "This is the number of pairs. Their share is asked: divide by N·M.",
        ),
        (
            of_pairs(torch.mean),
            "This is the difference of the mean energies, in nats. The AUROC counts pairs, whatever their distance.",
        ),
        (lambda usual, unusual: area((unusual[: len(usual)] - usual[: len(unusual)]).double()), ONE_BY_ONE),
        (lambda usual, unusual: (unusual[: len(usual)] > usual[: len(unusual)]).double().mean(), ONE_BY_ONE),
        (
            accuracy_at(lambda usual, unusual: 0.0),
            "This is the accuracy with a threshold at 0. The AUROC has no threshold: it counts pairs.",
        ),
        (
            lambda usual, unusual: (unusual > usual.mean()).double().mean(),
            "You count unusual ones above the mean of the usual. Every pair counts, not one with the mean.",
        ),
    ],
)

# ---- rollback_epoch ------------------------------------------------------------------------------------------------


def rollback_epoch(energy_data: Tensor, energy_model: Tensor, limit: float) -> int:
    # nan is not above a limit, nor is any number above one that is infinite: what is finite is asked by itself.
    finite = energy_data.isfinite() & energy_model.isfinite()  # (T,)
    broken = ~finite | ((energy_data - energy_model).abs() > limit)
    return int(broken.int().argmax()) - 1 if broken.any() else len(broken) - 1


def runs(generator: Generator) -> list[tuple[Tensor, Tensor, float]]:
    def draw(length: int, limit: float, changes: dict[int, tuple[float, float]]) -> tuple[Tensor, Tensor, float]:
        """Sound epochs, and the energies of some others: data and chains."""
        level = 20 * torch.randn(length, generator=generator)  # energies have no zero
        gap = (2 * torch.rand(length, generator=generator) - 1) * 0.9 * min(limit, 50.0)
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
        draw(6, math.inf, {2: (1e6, -1e6), 4: (2.0, math.inf)}),  # without a limit infinite is still not finite
        draw(5, math.inf, {3: (-math.inf, 1.0)}),
    ]


Guard = Callable[[Tensor, Tensor, float], object]


def before_first(broken: Callable[[Tensor, Tensor, float], Tensor], none: int = -1) -> Guard:
    """The epoch before the first broken one; counted from the end where none is."""

    def epoch(data: Tensor, model: Tensor, limit: float) -> int:
        found = broken(data, model, limit).nonzero()
        return int(found[0]) - 1 if len(found) else len(data) + none

    return epoch


def apart(gap: Callable[[Tensor, Tensor], Tensor]) -> Guard:
    """The right rule, with another gap."""
    return before_first(lambda data, model, limit: not_finite(data, model) | (gap(data, model) > limit))


def not_finite(data: Tensor, model: Tensor) -> Tensor:
    return ~(data.isfinite() & model.isfinite())


def of_broken(value: Callable[[Tensor], object]) -> Guard:
    """A function of which epochs are broken, (T,)."""
    return lambda data, model, limit: value(not_finite(data, model) | too_far(data, model, limit))


def first(broken: Tensor) -> int:
    """The first broken epoch; their number where none is."""
    return int(broken.nonzero()[0]) if broken.any() else len(broken)


def too_far(data: Tensor, model: Tensor, limit: float) -> Tensor:
    """Where the gap is above the limit: nan is not."""
    return (data - model).abs() > limit


ITSELF = "This is the first broken epoch itself. Go back to the one before: its weights are the last good ones."
DATA_ABOVE = "You forgot the absolute value: only energies of the data above those of the chains are found."
CHAINS_ABOVE = "You forgot the absolute value: only energies of the chains above those of the data are found."
AND_NAN = " And nan passes as sound: ask `isfinite`."
ONE_OF_THE_TWO = "Only one of the two energies is asked whether it is finite. Either may be nan alone."

ROLLBACK_EPOCH = Exercise(
    reference=rollback_epoch,
    statement="energy_data, energy_model (T,): mean energies after epochs 0 … T − 1. An epoch is broken if one of the "
    "two is not finite or they are more than limit apart, either way; limit may be infinite. The epoch to go back to: "
    "the last before the first broken one; T − 1 if none is broken; −1 if epoch 0 is.",
    nudge="First which epochs are broken, (T,) of True and False. What does `nan > limit` say? Then the first of them.",
    right="gaps that are nan, infinities of either sign and the limit itself included. After a broken epoch the "
    "chains are lost as well, so that they go back together with the weights.",
    inputs=runs,
    wrong=[
        (
            before_first(too_far),
            "nan is never greater than a limit, so it passes as sound. Ask `isfinite` of both energies.",
        ),
        (
            before_first(lambda data, model, limit: ~((data - model).abs() <= limit)),
            "Where limit is infinite an infinite energy passes as sound: inf <= inf. Ask `isfinite` of both energies.",
        ),
        (before_first(lambda *run: ~run[0].isfinite() | too_far(*run)), ONE_OF_THE_TWO),
        (before_first(lambda *run: ~run[1].isfinite() | too_far(*run)), ONE_OF_THE_TWO),
        (
            before_first(lambda *run: run[0].isinf() | run[1].isinf() | too_far(*run)),
            "nan is not infinite, so `isinf` lets it pass. Ask whether both energies are finite: `isfinite`.",
        ),
        (
            before_first(lambda *run: run[0].isnan() | run[1].isnan() | too_far(*run)),
            "An infinite energy is no nan, and passes where both are, or limit is. Ask `isfinite` of both.",
        ),
        (
            before_first(lambda *run: ~(run[0].isfinite() | run[1].isfinite()) | too_far(*run)),
            "An epoch is broken in yours only if BOTH energies are not finite. One of them is enough.",
        ),
        (apart(lambda data, model: data - model), DATA_ABOVE),
        (apart(lambda data, model: model - data), CHAINS_ABOVE),
        (before_first(lambda data, model, limit: ~(data - model <= limit)), DATA_ABOVE),
        (before_first(lambda data, model, limit: ~(model - data <= limit)), CHAINS_ABOVE),
        (before_first(lambda data, model, limit: data - model > limit), DATA_ABOVE + AND_NAN),
        (before_first(lambda data, model, limit: model - data > limit), CHAINS_ABOVE + AND_NAN),
        (
            before_first(lambda data, model, limit: not_finite(data, model) | ((data - model).abs() >= limit)),
            "A gap of exactly limit counts as broken in yours. More than limit is asked.",
        ),
        (
            apart(lambda data, model: torch.maximum(data.abs(), model.abs())),
            "You compare the energies themselves with the limit. An energy has no zero: the gap counts.",
        ),
        (of_broken(first), ITSELF),
        (of_broken(lambda broken: first(broken) if broken.any() else len(broken) - 1), ITSELF),
        (
            of_broken(lambda broken: int(broken.int().argmax()) - 1),
            "Where no epoch is broken you return −1: `argmax` of only False is 0. T − 1 is asked there.",
        ),
        (
            of_broken(lambda broken: first(broken) - 1 if broken.any() else len(broken)),
            "Where no epoch is broken you return T, but epochs are counted from 0: the last one is T − 1.",
        ),
        (
            of_broken(lambda broken: max(first(broken) - 1, 0)),
            "If epoch 0 is broken there is nothing to go back to: −1. You return epoch 0, whose weights are broken.",
        ),
        (
            of_broken(lambda broken: int((~broken).nonzero()[-1]) if (~broken).any() else -1),
            "This is the last sound epoch of all. The last one before the FIRST broken one is asked.",
        ),
    ],
)

EXERCISES = [ENERGY_OF_LOGITS, JOINT_LOSS, CLASS_SCORE, PGD_STEP, NOVELTY_AUROC, ROLLBACK_EPOCH]
