"""Exercises of notebook 07: what keeps a critic smooth, its classes, a generator's last layer, judging samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize, softplus

from dgm_exercises.adversarial_learning import CUT, Network
from dgm_exercises.engine import Exercise

# ---- gradient_penalty ----------------------------------------------------------------------------------------------


class SmoothCritic(Network):
    """D(x) = Σ_j log(1 + exp(w_j · x)), (B,), with w (n, C·H·W)."""

    def __call__(self, x: Tensor) -> Tensor:
        return softplus(x.flatten(1) @ self.as_subclass(Tensor).T).sum(1)


def gradient_penalty(critic: torch.nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    # One point of each line from real to made. `create_graph`: the penalty's own gradient has to reach the critic.
    with torch.enable_grad():
        mix = alpha[:, None, None, None]
        x = (mix * real + (1 - mix) * fake).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)  # (B, C, H, W)
        return (gradient.flatten(1).norm(dim=1) - 1).square()


def critics_between(generator: Generator) -> list[tuple[SmoothCritic, Tensor, Tensor, Tensor]]:
    def draw(batch: int, *shape: int, n: int = 3, scale: float = 0.5) -> tuple[SmoothCritic, Tensor, Tensor, Tensor]:
        weight = scale * torch.randn(n, math.prod(shape), generator=generator)
        real, fake = (torch.rand(batch, *shape, generator=generator) for _ in range(2))
        alpha = torch.rand(batch, generator=generator)
        return weight.as_subclass(SmoothCritic), real, 2 * fake - 1, alpha

    easy = torch.tensor([[1.0, 2.0]])

    return [
        (
            easy.as_subclass(SmoothCritic),
            torch.tensor([[[[1.0, 0.0]]]]),
            torch.tensor([[[[0.0, 2.0]]]]),
            torch.tensor([0.25]),
        ),
        draw(3, 1, 3, 3),  # as wide as the batch is large: an alpha for each column would fit, too
        draw(4, 3, 4, 4, scale=0.4),
        draw(5, 1, 4, 3, scale=0.1),  # too flat: the norm is below 1
        draw(1, 2, 3, 2),
        draw(8, 1, 6, 6, n=8),
    ]


Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


def mixed(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    alpha = alpha[:, None, None, None]
    return alpha * real + (1 - alpha) * fake


def slopes(critic: Callable, x: Tensor) -> Tensor:
    """∇_x D(x), (B, C, H, W), with its own graph."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]


def of_slopes(value: Callable[[Tensor], Tensor], mix: Mix = mixed) -> Callable[..., Tensor]:
    """A function of the gradients at the points mix(real, fake, alpha)."""
    return lambda critic, real, fake, alpha: value(slopes(critic, mix(real, fake, alpha)))


def length(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).norm(dim=1)


def penalty(gradient: Tensor) -> Tensor:
    return (length(gradient) - 1).square()


def by_norms(value: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A function of the lengths of the gradients, (B,)."""
    return of_slopes(lambda gradient: value(length(gradient)))


GRADIENT_PENALTY = Exercise(
    reference=gradient_penalty,
    statement="The gradient penalty of WGAN-GP for each example: critic(x) is (B,), real and fake are images "
    "(B, C, H, W), alpha (B,) says how much of the real one is in x̂ = alpha · real + (1 − alpha) · fake. "
    "(‖∇D(x̂)‖ − 1)² at each x̂, (B,); training will differentiate it by the critic's parameters.",
    nudge="One alpha for a whole image: which shape does it need beside (B, C, H, W)? The norm is over all pixels of "
    "an image. And `torch.autograd.grad` has an argument for gradients that will be differentiated once more.",
    right="the gradient that it sends to the critic included. A slope below 1 is punished as one above: the best "
    "critic of the Wasserstein distance has slope 1 between the two.",
    inputs=critics_between,
    differentiate=("critic",),
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            by_norms(lambda n: (n - 1).square().detach()),
            "No gradient of the penalty reaches the critic, so it is a number that nothing obeys. `create_graph=True` "
            "keeps the graph of the gradient; `detach`, `.data` and `no_grad` end it.",
        ),
        (
            of_slopes(penalty, lambda r, f, t: r),
            "The slope is taken at the real images alone. Training moves the made ones towards them, so it is needed "
            "on the way between the two: x̂ = alpha · real + (1 − alpha) · fake.",
        ),
        (
            of_slopes(penalty, lambda r, f, t: f),
            "The slope is taken at the made images alone. It is needed between them and the real ones: x̂ = "
            "alpha · real + (1 − alpha) · fake.",
        ),
        (
            of_slopes(penalty, lambda r, f, t: mixed(f, r, t)),
            "alpha and 1 − alpha are exchanged. With random numbers the law is the same; here alpha is given, and it "
            "is the share of the real image.",
        ),
        (of_slopes(penalty, lambda r, f, t: (r + f) / 2), "You always go half of the way: alpha does not appear."),
        (
            of_slopes(penalty, lambda r, f, t: t * r + (1 - t) * f),
            "Your alpha changes from column to column: (B,) beside (B, C, H, W) is spread along the width. One alpha "
            "an image, `alpha[:, None, None, None]`, or x̂ is not on the line between the two.",
        ),
        (
            of_slopes(penalty, lambda r, f, t: t[:, None] * r + (1 - t[:, None]) * f),
            "Your alpha changes from row to row: (B, 1) beside (B, C, H, W) is spread along the height. One alpha an "
            "image: it needs three dimensions of length 1.",
        ),
        (by_norms(torch.square), "This is ‖∇D‖², R1's penalty, which pulls the slope to 0. Here it is pulled to 1."),
        (
            by_norms(lambda n: (n.square() - 1).square()),
            "The norm is squared before 1 is subtracted (is a `sqrt` missing?): (‖∇D‖ − 1)² is asked.",
        ),
        (by_norms(lambda n: (n - 1).abs()), "You take the absolute value where the square is asked."),
        (by_norms(lambda n: n - 1), "The square is missing: a slope below 1 would be a reward."),
        (by_norms(lambda n: (n - 1).relu().square()), "Only slopes above 1 are punished. Here both sides are."),
        (by_norms(lambda n: n), "This is the norm of the gradient. Its squared distance from 1 is asked."),
        (by_norms(lambda n: 10 * (n - 1).square()), "You multiply by the weight 10. The penalty alone is asked."),
        (
            by_norms(lambda n: (n.mean() - 1).square()),
            "You average the norms before the square, so that a steep and a flat place cancel. Each example has a "
            "penalty of its own.",
        ),
        (
            by_norms(lambda n: (n / len(n) - 1).square()),
            "Your gradients are divided by B: they are those of the mean of the critic's outputs. Differentiate their "
            "sum (or give `grad_outputs` of ones), so that each example has its own slope.",
        ),
        (of_slopes(lambda g: (g.norm() - 1).square()), "Your norm runs over the whole batch. Each image has its own."),
        (
            of_slopes(lambda g: (g.norm(dim=1) - 1).square()),
            "Your norm runs over the channels alone, pixel by pixel. The gradient of an image is one vector of C·H·W "
            "numbers: `flatten(1)` first.",
        ),
        (
            of_slopes(lambda g: (g - 1).square().flatten(1).sum(1)),
            "You subtract 1 from each pixel's slope. The norm of all of them comes first, then 1 is subtracted.",
        ),
        (
            of_slopes(lambda g: (g.square().flatten(1).mean(1).sqrt() - 1).square()),
            "The squares are averaged over the pixels in your norm, so it shrinks as images grow. A norm is the root "
            "of their sum.",
        ),
        (lambda D, r, f, t: (D(mixed(r, f, t)) - 1).square(), "You punish the critic's value, not its gradient at x̂."),
    ],
)

# ---- spectral_norm -------------------------------------------------------------------------------------------------


def spectral_norm(W: Tensor) -> Tensor:
    # Power iteration: each round multiplies the part of v along the longest stretch by the most, whatever v was.
    v = torch.randn(W.shape[1], generator=torch.Generator().manual_seed(0)).to(W)
    for _ in range(200):
        u = W @ v
        v = W.T @ (u / u.norm().clamp(min=1e-30))  # a W of zeros leaves nothing to divide by
        v = v / v.norm().clamp(min=1e-30)
    return (W @ v).norm()


def matrices(generator: Generator) -> list[tuple[Tensor]]:
    def draw(n: int, m: int, stretches: list[float]) -> tuple[Tensor]:
        left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator)).Q for size in (n, m))
        k = len(stretches)
        return (left[:, :k] @ torch.diag(torch.tensor(stretches)) @ right[:, :k].T,)

    return [
        (torch.tensor([[3.0, 0.0], [4.0, 0.0]]),),
        (torch.tensor([[0.0, 2.0], [0.0, 0.0]]),),  # its eigenvalues are 0
        (torch.tensor([[0.0, -3.0], [2.0, 0.0]]),),  # and those of this one imaginary
        draw(4, 4, [3.0, 2.0, 1.0, 0.5]),
        draw(3, 5, [0.5, 0.3, 0.1]),
        draw(6, 2, [2.0, 1.0]),
        draw(20, 30, [1.5, 1.0, 1.0, 0.8, 0.1]),
        (torch.diag(torch.tensor([-5.0, 1.0])),),
        (torch.tensor([[2.0]]),),
        draw(4, 4, [1.5, 1.5, 1.5, 1.5]),  # every direction is stretched alike
        draw(5, 5, [300.0, 1.0, 0.0]),
    ]


Size = Callable[[Tensor], Tensor]


def by_singular_values(value: Size) -> Size:
    return lambda W: value(torch.linalg.svdvals(W))


def by_eigenvalues(value: Size) -> Size:
    return lambda W: value(torch.linalg.eigvals(W))


SPECTRAL_NORM = Exercise(
    reference=spectral_norm,
    statement="The spectral norm of a weight matrix W (n, m): the most by which it stretches a vector, max ‖W v‖ / "
    "‖v‖, which is its largest singular value. A scalar.",
    nudge="Which v is stretched most? Start anywhere, go there and back, v ← Wᵀ W v, and cut v to length 1; again and "
    "again. torch.linalg also knows the answer.",
    right="a matrix whose eigenvalues are all 0 included. A layer divided by it stretches nothing by more than 1: a "
    "critic of such layers, with relu between them, is nowhere steeper than 1.",
    inputs=matrices,
    atol=1e-4,
    rtol=1e-4,
    wrong=[
        (
            torch.linalg.matrix_norm,
            "This is the Frobenius norm, the root of the sum of all squares (torch's `norm` without an argument). It "
            "adds up the stretches of all directions; the largest alone is asked.",
        ),
        (
            by_eigenvalues(lambda e: e.abs().max()),
            "This is the largest eigenvalue, in size. An eigenvector keeps its direction, and the vector that is "
            "stretched most need not: it is the root of the largest eigenvalue of WᵀW. (And only square matrices have "
            "eigenvalues.)",
        ),
        (
            by_eigenvalues(lambda e: e.real.max()),
            "This is the largest eigenvalue. An eigenvector keeps its direction, and the vector that is stretched "
            "most need not: take WᵀW.",
        ),
        (by_singular_values(torch.sum), "This is the sum of the singular values. The largest is asked."),
        (by_singular_values(torch.min), "This is the smallest singular value: they are sorted downwards."),
        (by_singular_values(lambda s: s), "These are all singular values. The largest is asked."),
        (by_singular_values(lambda s: s.max() / s.min()), "This is the condition number. The largest one is asked."),
        (
            lambda W: W / torch.linalg.matrix_norm(W, 2),
            "This is the normalised matrix. The number that it was divided by is asked.",
        ),
        (lambda W: W.abs().max(), "This is the largest entry. A vector is stretched by many entries together."),
        (lambda W: W.norm(dim=0).max(), "This is the longest column. Other directions may be stretched more."),
    ],
)

# ---- hinge_losses --------------------------------------------------------------------------------------------------


def hinge_losses(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    # The critic stops pushing a score that is beyond its margin of 1; the generator is pushed always.
    critic = (1 - real).relu().mean() + (1 + fake).relu().mean()
    generator = -fake.mean()
    return critic, generator


def pairs_of_scores(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n_real: int, n_fake: int, scale: float = 1.5) -> tuple[Tensor, Tensor]:
        real, fake = (scale * torch.randn(n, generator=generator) for n in (n_real, n_fake))
        return real + 0.5, fake - 0.5

    return [
        (torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.25])),
        draw(4, 4),
        draw(3, 8),
        draw(1, 1),
        draw(64, 64),
        (torch.tensor([1.5, 3.0]), torch.tensor([-1.5, -4.0])),  # beyond the margin: the critic rests
        (torch.tensor([-2.0, -0.5]), torch.tensor([2.0, 0.5])),
    ]


Losses = Callable[[Tensor, Tensor], Tensor]


def both(critic: Losses, generator: Losses) -> Losses:
    return lambda real, fake: torch.stack([critic(real, fake), generator(real, fake)])


def hinged(real: Tensor, fake: Tensor) -> Tensor:
    return (1 - real).relu().mean() + (1 + fake).relu().mean()


def raised(real: Tensor, fake: Tensor) -> Tensor:
    return -fake.mean()


NO_HINGE = (
    "The hinge is missing in the critic's loss: scores that are beyond the margin still pull. max(0, ·) of 1 − D(x) "
    "and of 1 + D(G(z)) ends that."
)

HINGE_LOSSES = Exercise(
    reference=hinge_losses,
    statement="The hinge losses of both players, from the critic's scores for real examples (B,) and for made ones "
    "(M,): the critic's is the mean of max(0, 1 − D(x)) over the real ones plus that of max(0, 1 + D(G(z))) over the "
    "made ones, the generator's the mean of −D(G(z)), without a margin. The pair (critic's, generator's), both to be "
    "minimised; their gradients are compared as well.",
    nudge="How much does a real score of 0.3 lack? And one of 2? Write both cases with max(0, ·), then turn the sign "
    "for the made ones.",
    right="gradients, and a critic at rest, included. It gives no gradient to what it has told apart by a margin; the "
    "generator's loss has no hinge, or a good critic would leave it without one.",
    inputs=pairs_of_scores,
    differentiate=("real", "fake"),
    wrong=[
        (
            both(hinged, lambda *scores: raised(*scores).detach()),
            "No gradient of the generator's loss comes back to the scores of what it made, so it learns nothing. "
            + CUT,
        ),
        (
            both(lambda *scores: hinged(*scores).detach(), raised),
            "No gradient of the critic's loss comes back to the scores, so it learns nothing. " + CUT,
        ),
        (
            both(lambda r, f: hinged(r, f.detach()), raised),
            "The critic's loss sends no gradient back to the scores of the made ones. It is the made images that are "
            "detached in its turn, before the critic sees them, and not what it says of them.",
        ),
        (both(hinged, hinged), "The generator has the critic's loss: both would work for the critic."),
        (
            both(hinged, lambda r, f: (1 + f).relu().mean()),
            "The generator has the critic's loss on what it makes: it would learn to be recognised. It wants these "
            "scores high.",
        ),
        (
            both(hinged, lambda r, f: -hinged(r, f)),
            "The generator's loss is the negative of the critic's. Where the critic is at rest, it is flat: the "
            "generator would learn nothing just when it is losing. It is the mean score, with a minus.",
        ),
        (
            both(hinged, lambda r, f: -(1 + f).relu().mean()),
            "The generator's loss has the hinge of the critic. Where made ones score below −1 it is flat: the "
            "generator would learn nothing just when it is losing.",
        ),
        (both(hinged, lambda r, f: (1 - f).relu().mean()), "The generator's loss has a margin. Here it has none."),
        (both(hinged, lambda r, f: f.mean()), "The generator's sign is turned: it would make what looks made."),
        (both(lambda r, f: -hinged(r, f), raised), "The critic's sign is turned: min(0, D(x) − 1) needs a minus."),
        (both(lambda r, f: (1 + r).relu().mean() + (1 - f).relu().mean(), raised), "The critic's sides are exchanged."),
        (
            both(lambda r, f: (1 - r).relu().mean() + (1 - f).relu().mean(), raised),
            "Real and made have the same label for your critic: it would score both alike.",
        ),
        (
            both(lambda r, f: (1 + r).relu().mean() + (1 + f).relu().mean(), raised),
            "Real and made have the same label for your critic: it would score both alike.",
        ),
        (
            both(lambda r, f: (-r).relu().mean() + f.relu().mean(), raised),
            "The margin is missing: with max(0, −D(x)) a critic that says 0 of everything has nothing to pay.",
        ),
        (both(lambda r, f: f.mean() - r.mean(), raised), NO_HINGE),
        (both(lambda r, f: 2 + f.mean() - r.mean(), raised), NO_HINGE),
        (
            both(lambda r, f: softplus(-r).mean() + softplus(f).mean(), lambda r, f: softplus(-f).mean()),
            "These are the losses of the game with cross-entropies. Here scores are no logits: max(0, 1 − D(x)) and "
            "the mean score are asked.",
        ),
        (
            both(lambda r, f: (1 - r.mean()).relu() + (1 + f.mean()).relu(), raised),
            "You average the scores before the hinge: good ones then make up for bad ones. The mean comes last.",
        ),
        (
            both(lambda r, f: (1 - r).relu().sum() + (1 + f).relu().sum(), lambda r, f: -f.sum()),
            "These are sums over the batch. Each side is a mean.",
        ),
        (
            both(lambda r, f: hinged(r.sigmoid(), f.sigmoid()), lambda r, f: -f.sigmoid().mean()),
            "A sigmoid is applied to the scores, so none is ever beyond the margin. The hinge wants them as they are.",
        ),
        (lambda r, f: hinged(r, f), "This is the critic's loss alone. The generator's is asked beside it."),
    ],
)

# ---- generator_output ----------------------------------------------------------------------------------------------


def generator_output(raw: Tensor) -> Tensor:
    # Each pixel by itself, between black and white, with a slope everywhere: the inverse of the logit.
    return raw.sigmoid()


def raw_images(generator: Generator) -> list[tuple[Tensor]]:
    def draw(*shape: int, scale: float = 2.0) -> tuple[Tensor]:
        return (scale * torch.randn(shape, generator=generator),)

    return [
        (torch.tensor([[[[0.0, 2.0], [-1.0, 3.0]]]]),),
        draw(2, 1, 4, 4),
        draw(3, 3, 4, 5),
        draw(1, 1, 1, 3),
        draw(5, 3, 6, 6, scale=5.0),
        (torch.full((2, 1, 2, 2), -3.0),),  # all dark
        (torch.tensor([-30.0, 95.0, 1000.0, 0.5]).view(1, 1, 2, 2),),
    ]


Pixels = Callable[[Tensor], Tensor]


def over_all_pixels(raw: Tensor) -> Tensor:
    return raw.flatten(1).softmax(1).view_as(raw)


def stretched(raw: Tensor) -> Tensor:
    low, high = raw.flatten(1).amin(1), raw.flatten(1).amax(1)
    return (raw - low[:, None, None, None]) / (high - low)[:, None, None, None]


SOFTMAX = (
    "You end in a softmax, which chooses one of several classes: {where} sum to 1, so that what is bright darkens the "
    "rest. Pixels are no classes; each is bright or dark by itself."
)
CLAMPED = (
    "A clamp (or relu) cuts what lies outside: where the network says −3 the pixel is black, and its gradient 0, so no "
    "loss can ever brighten it. A curve that goes on rising is needed."
)

GENERATOR_OUTPUT = Exercise(
    reference=generator_output,
    statement="The last step of a generator: raw (B, C, H, W) holds any real numbers, large ones, too: the logit of "
    "the brightness of each pixel. The images, in [0, 1] like the data, (B, C, H, W).",
    nudge="Which function undoes logit(p) = log p/(1 − p)? Does a pixel's brightness depend on the other pixels?",
    right="gradients included. Made images have to live on the scale of the data: a critic tells another scale apart "
    "at the first glance, and then there is nothing to learn.",
    inputs=raw_images,
    differentiate=("raw",),
    wrong=[
        (over_all_pixels, SOFTMAX.replace("{where}", "all pixels of an image")),
        (lambda raw: raw.softmax(-1), SOFTMAX.replace("{where}", "the pixels of each row")),
        (
            lambda raw: raw.softmax(1),
            SOFTMAX.replace("{where}", "the channels of each pixel") + " With one channel, all are 1.",
        ),
        (
            lambda raw: raw.exp() / (1 + raw.exp()),
            "Right for moderate numbers; beyond 88 exp overflows, and inf/inf makes {yours} of the brightest pixels. "
            "`torch.sigmoid` does not.",
        ),
        (torch.tanh, "tanh leaves the images in [−1, 1]. The data live in [0, 1], and the critic sees that at once."),
        (lambda raw: (raw.tanh() + 1) / 2, "The scale is right, but (tanh a + 1)/2 is σ(2a), twice too steep."),
        (lambda raw: raw.clamp(0, 1), CLAMPED),
        (torch.relu, CLAMPED + " And nothing bounds yours above."),
        (lambda raw: (raw / 6 + 0.5).clamp(0, 1), "This is the hard sigmoid: no gradient where it is flat."),
        (lambda raw: raw * 1, "These are the raw numbers, which may lie anywhere. The images are in [0, 1]."),
        (stretched, "You stretch each image from its darkest to its brightest pixel: no pixel is bright by itself."),
        (
            lambda raw: (raw - raw.min()) / (raw.max() - raw.min()),
            "You stretch the batch from its darkest to its brightest pixel. What an image looks like would depend on "
            "who shares the batch.",
        ),
        (lambda raw: (raw > 0).float(), "You decide for black or white: a step has no slope, and the data are grey."),
        (lambda raw: 255 * raw.sigmoid(), "These are levels from 0 to 255. The data are scaled to [0, 1]."),
        (lambda raw: raw.sigmoid().sigmoid(), "The sigmoid is applied twice: no pixel is darker than ½."),
    ],
)

# ---- projection_score ----------------------------------------------------------------------------------------------


def projection_score(features: Tensor, y: Tensor, weight: Tensor, embedding: Tensor) -> Tensor:
    # One part asks whether x looks real, the other whether it looks like its class: an inner product with the class.
    any_class = features @ weight  # (B,)
    its_class = (features * embedding[y]).sum(dim=1)  # (B,)
    return any_class + its_class


def classified_features(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    def draw(batch: int, n_features: int, n_classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = torch.randn(batch, n_features, generator=generator)
        y = torch.randint(n_classes, (batch,), generator=generator)
        weight, embedding = (torch.randn(size, generator=generator) for size in (n_features, (n_classes, n_features)))
        return features, y, weight, embedding

    easy = [[1.0, 2.0], [0.0, -1.0]], [2, 0], [1.0, 0.5], [[3.0, 1.0], [0.0, 1.0], [-1.0, 2.0]]
    return [
        tuple(map(torch.tensor, easy)),
        draw(4, 4, 4),
        draw(5, 3, 6),
        draw(6, 2, 3),
        draw(1, 4, 2),
        draw(32, 16, 10),
    ]


PROJECTION_SCORE = Exercise(
    reference=projection_score,
    statement="The projection critic of a conditional GAN: features (B, D) of the images, their classes y (B,), a "
    "weight (D,) and one vector a class, embedding (K, D). The score: the inner product of the features with the "
    "weight plus the one with the vector of the image's class, (B,), with its gradients.",
    nudge="embedding[y] has one row for each image. Which numbers are multiplied, and over which dimension are they "
    "summed?",
    right="a batch of one included. The class enters through the features: an image of a good 3 that is called a 5 "
    "loses by the second part alone.",
    inputs=classified_features,
    differentiate=("features", "weight", "embedding"),
    wrong=[
        (lambda h, y, w, e: h @ w, "The class does not appear: the generator may make any class it likes."),
        (lambda h, y, w, e: (h * e[y]).sum(1), "Only the class's part is there. features · weight is missing."),
        (
            lambda h, y, w, e: h @ w + e[y].sum(1),
            "You add the numbers of the class's vector without the features: a constant for each class, whatever the "
            "image shows. An inner product is asked.",
        ),
        (
            lambda h, y, w, e: (h + e[y]) @ w,
            "You add the class's vector to the features. That is a constant for each class, whatever the image shows: "
            "an inner product of the two is asked.",
        ),
        (lambda h, y, w, e: (h @ w) * (h * e[y]).sum(1), "You multiply the two parts. They are added."),
        (
            lambda h, y, w, e: (h @ w)[:, None] + (h * e[y]).sum(1),
            "You add a column (B, 1) to a row (B,), which makes a table (B, B): keep both parts (B,), as "
            "`features @ weight` is.",
        ),
        (
            lambda h, y, w, e: (h @ w)[:, None] + h @ e.T,
            "These are the scores for every class, (B, K). Each image has one class: pick its own, y.",
        ),
        (
            lambda h, y, w, e: (h @ w)[:, None] + h @ e[y].T,
            "These are scores of each image with the class of every other one, (B, B). Multiply row by row, then sum "
            "over the features.",
        ),
        (lambda h, y, w, e: h @ w + (h @ e.T).sum(1), "You add up all classes. Only the image's own counts."),
        (lambda h, y, w, e: h @ w + (h @ e.T).amax(1), "You take the best class, not the one that it is said to be."),
        (
            lambda h, y, w, e: h @ w + (h @ e.T).log_softmax(1)[range(len(y)), y],
            "You take the log-probability of the class, as a critic with an auxiliary classifier does. The projection "
            "is the inner product itself.",
        ),
        (lambda h, y, w, e: h @ w + (h * e[y]).mean(1), "You average the class's part. An inner product is a sum."),
        (lambda h, y, w, e: (h * (w + e[y])).mean(1), "You average over the features. An inner product is a sum."),
        (
            lambda h, y, w, e: h @ w + (normalize(h) * normalize(e[y])).sum(1),
            "You take the cosine of features and class. The inner product keeps their lengths.",
        ),
        (lambda h, y, w, e: (1 + y) * (h @ w), "The number of a class is a name here, not a quantity."),
    ],
)

# ---- frechet_of_gaussians ------------------------------------------------------------------------------------------


def frechet_of_gaussians(mu_1: Tensor, var_1: Tensor, mu_2: Tensor, var_2: Tensor) -> Tensor:
    # ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½); with diagonal covariances the second part is Σ (σ₁ − σ₂)².
    between_means = (mu_1 - mu_2).square().sum()
    between_spreads = (var_1.sqrt() - var_2.sqrt()).square().sum()
    return between_means + between_spreads


def pairs_of_gaussians(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    def draw(n: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu_1, mu_2 = (torch.randn(n, generator=generator) for _ in range(2))
        var_1, var_2 = (scale * (0.1 + 2 * torch.rand(n, generator=generator)) for _ in range(2))
        return mu_1, var_1, mu_2, var_2

    mu, var, _, other = draw(4)
    return [
        tuple(map(torch.tensor, ([0.0, 1.0], [4.0, 1.0], [3.0, 1.0], [1.0, 9.0]))),
        draw(4),
        draw(1),
        draw(16, scale=4.0),
        (mu, var, mu.clone(), var.clone()),  # the same: 0
        (mu, var, mu.clone(), other),
        (mu, var, mu + 1, var.clone()),
        (mu, torch.zeros(4), mu + 0.5, other),  # a generator that always makes the same
    ]


Gaussians = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def of_parts(value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Gaussians:
    """A function of μ₁ − μ₂ and of the two variances."""
    return lambda mu_1, var_1, mu_2, var_2: value(mu_1 - mu_2, var_1, var_2)


def kl_of_gaussians(mu_1: Tensor, var_1: Tensor, mu_2: Tensor, var_2: Tensor) -> Tensor:
    return ((var_2 / var_1).log() + (var_1 + (mu_1 - mu_2).square()) / var_2 - 1).sum() / 2


FRECHET_OF_GAUSSIANS = Exercise(
    reference=frechet_of_gaussians,
    statement="The Fréchet distance of two Gaussians with independent features, from their means and variances, (D,) "
    "each: ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), a scalar in the unit of the features, squared, as it is reported.",
    nudge="The covariances are diagonal, so each feature has a term of its own: var₁ + var₂ − 2 √(var₁ var₂). Which "
    "square is that?",
    right="a generator without any spread included. It sees means and spreads alone: two distributions may agree in "
    "both and look nothing alike.",
    inputs=pairs_of_gaussians,
    wrong=[
        (of_parts(lambda way, a, b: way.square().sum() + (a + b).sum()), "The cross term −2 √(var₁ var₂) is missing."),
        (
            of_parts(lambda way, a, b: way.square().sum() + (a + b - (a * b).sqrt()).sum()),
            "The cross term comes once. It is −2 √(var₁ var₂), so that equal spreads cancel.",
        ),
        (
            of_parts(lambda way, a, b: way.square().sum() + (a + b + 2 * (a * b).sqrt()).sum()),
            "The cross term has the wrong sign: (σ₁ + σ₂)² is not 0 for equal spreads.",
        ),
        (
            of_parts(lambda way, a, b: way.square().sum() + (a + b - 2 * a * b).sum()),
            "The root is missing in the cross term: 2 √(var₁ var₂).",
        ),
        (
            of_parts(lambda way, a, b: way.square().sum() + a.sum() + b.sum() - 2 * (a.sum() * b.sum()).sqrt()),
            "You compare the total spreads, (√Σvar₁ − √Σvar₂)². Each feature has a spread of its own.",
        ),
        (
            of_parts(lambda way, a, b: (way.square().sum() + (a.sqrt() - b.sqrt()).square().sum()).sqrt()),
            "This is the root of it. The distance W₂ it is, but what is reported as the Fréchet distance is its "
            "square.",
        ),
        (
            of_parts(lambda way, a, b: way.norm() + (a.sqrt() - b.sqrt()).square().sum()),
            "The distance of the means is not squared.",
        ),
        (
            of_parts(lambda way, a, b: way.square().sum() + (a.sqrt() - b.sqrt()).abs().sum()),
            "The differences of the standard deviations are not squared.",
        ),
        (
            of_parts(lambda way, a, b: way.square().sum() + (a - b).square().sum()),
            "You compare the variances, (var₁ − var₂)². It is the standard deviations that are subtracted: "
            "var₁ + var₂ − 2 √(var₁ var₂) = (σ₁ − σ₂)².",
        ),
        (
            of_parts(lambda way, a, b: way.square().sum()),
            "The spreads do not appear: a generator that makes one image, the mean, would be perfect.",
        ),
        (
            of_parts(lambda way, a, b: (a + b).sum() - 2 * (a * b).sqrt().sum() + way.sum() ** 2),
            "You add up the differences of the means before the square: those of either sign cancel.",
        ),
        (kl_of_gaussians, "This is the KL divergence, infinite where one has no spread. No logarithm is in it."),
    ],
)

# ---- precision -----------------------------------------------------------------------------------------------------


def precision(real: Tensor, made: Tensor, k: int) -> Tensor:
    # A ball around each real one, out to its k-th nearest other: the (k+1)-th of all, since the first is itself.
    radius = (real[:, None] - real).norm(dim=-1).kthvalue(k + 1, dim=1).values  # (N,)
    inside = (made[:, None] - real).norm(dim=-1) <= radius  # (M, N)
    return inside.any(dim=1).float().mean()


def real_and_made(generator: Generator) -> list[tuple[Tensor, Tensor, int]]:
    def draw(
        n_real: int, n_made: int, n_features: int, k: int, shift: float = 0.0, scale: float = 1.0
    ) -> tuple[Tensor, Tensor, int]:
        real, made = (torch.randn(n, n_features, generator=generator) for n in (n_real, n_made))
        return real, scale * made + shift, k

    twice = (
        torch.tensor([[0.0], [0.0], [3.0], [3.0], [3.0], [8.0]]),
        torch.tensor([[0.5], [2.0], [4.0], [-4.0], [11.5], [0.0]]),  # the last one is a copy, in a ball of radius 0
    )
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([[-0.5], [1.75], [4.5], [12.0], [20.0]])
    return [
        (*line, 1),
        (*line, 2),
        draw(8, 8, 2, 1),
        draw(20, 12, 2, 3, shift=0.7),
        draw(12, 20, 3, 2, scale=0.3),  # collapsed to the middle: precise, and little else
        draw(12, 20, 3, 2, scale=3.0),
        draw(20, 15, 4, 1, shift=6.0),  # nothing like the data
        draw(20, 20, 2, 5, shift=1.0),
        (*twice, 1),  # equal points are neighbours at the distance 0
        (*twice, 2),
        tuple(10_000 + x if isinstance(x, Tensor) else x for x in draw(12, 20, 3, 2, shift=1.0)),  # far from 0
    ]


Sets = Callable[[Tensor, Tensor, int], Tensor]


def reach(x: Tensor, k: int) -> Tensor:
    """Distance from each point of x to its k-th nearest other point, (N,)."""
    return torch.cdist(x, x).kthvalue(k + 1, dim=1).values


def by_own_radii(radii: Callable[[Tensor, int], Tensor]) -> Sets:
    """Other radii, from the distances real to real (N, N) and k."""
    return lambda real, made, k: (torch.cdist(made, real) <= radii(torch.cdist(real, real), k)).any(1).float().mean()


def by_balls(value: Callable[[Tensor, Tensor, int], Tensor]) -> Sets:
    """A function of the distances made to real (M, N), of the radii of the real ones (N,) and of k."""
    return lambda real, made, k: value(torch.cdist(made, real), reach(real, k), k)


PRECISION = Exercise(
    reference=precision,
    statement="Improved precision: around each point of real (N, D) lies a ball that reaches to its k-th nearest other "
    "real point, k < N; equal points are others, at the distance 0. The share of the points of made (M, D) that lie in "
    "at least one of the balls, or on its border. A scalar from 0 to 1.",
    nudge="Two tables of distances: real to real for the radii, made to real for the question. Who is the nearest "
    "point of a real point, in the first table?",
    right="a collapsed set included: made in the middle of the data it is precise, and only recall, with real and made "
    "exchanged, tells what it leaves out.",
    inputs=real_and_made,
    wrong=[
        (lambda r, made, k: precision(made, r, k), "Real and made are exchanged: this is recall."),
        (
            by_balls(lambda d, radius, k: (d < radius).any(1).float().mean()),
            "A point on the border of a ball is left out, and a copy of a real point that stands twice with it: it "
            "counts.",
        ),
        (
            lambda r, made, k: precision(r, made, k - 1),
            "Your balls are one neighbour too small: in the table of distances real to real, the nearest point of each "
            "is itself, at the distance 0. With k = 1 nothing but a copy would count.",
        ),
        (
            by_own_radii(lambda d, k: d.masked_fill(d == 0, torch.inf).kthvalue(k, 1).values),
            "You leave out every real point at the distance 0, and so equal ones with the point itself. Only itself is "
            "left out: the (k+1)-th of all.",
        ),
        (
            lambda r, made, k: precision(r, made, min(k + 1, len(r) - 1)),
            "Your balls are one neighbour too large: the k-th nearest other point is the (k+1)-th of all, and no "
            "further.",
        ),
        (
            lambda r, made, k: (torch.cdist(made, r) <= reach(made, k)[:, None]).any(1).float().mean(),
            "The balls are drawn around the made points. They belong to the real ones, for it is the data that say "
            "where data lie.",
        ),
        (
            lambda r, made, k: (
                (torch.cdist(made, r) <= torch.cdist(r, made).kthvalue(k, dim=1).values).any(1).float().mean()
            ),
            "Your radii reach to the k-th nearest made point, so that every ball holds k of them. They reach to the "
            "k-th nearest other real point.",
        ),
        (
            by_balls(lambda d, r, k: (d.amin(1) <= r[d.argmin(1)]).float().mean()),
            "You ask the nearest real point alone. Another one, further away, may have a ball that is wide enough: "
            "at least one of all.",
        ),
        (by_balls(lambda d, r, k: (d <= r).all(1).float().mean()), "You ask for all balls. At least one is enough."),
        (
            by_balls(lambda d, r, k: (d <= r).any(0).float().mean()),
            "This is the share of balls that hold a made point: coverage. The share of made points is asked: `any` "
            "runs over the real ones.",
        ),
        (by_balls(lambda d, r, k: (d <= r).float().mean()), "This is the share of pairs. A made point counts once."),
        (by_balls(lambda d, r, k: (d <= r).sum() / (k * len(d))), "This is density. Here a made point counts once."),
        (
            by_balls(lambda d, r, k: (d <= r.mean()).any(1).float().mean()),
            "All balls have the same, mean radius in yours. Each real point has its own: where data are rare it is "
            "wide.",
        ),
        (by_balls(lambda d, r, k: (d.square() <= r).any(1).float().mean()), "Distances are squared, radii are not."),
    ],
)

EXERCISES = [
    GENERATOR_OUTPUT,
    HINGE_LOSSES,
    GRADIENT_PENALTY,
    SPECTRAL_NORM,
    PROJECTION_SCORE,
    FRECHET_OF_GAUSSIANS,
    PRECISION,
]
