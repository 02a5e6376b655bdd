"""Exercises of notebook 08: why a VAE blurs and how to see it, errors in feature space, three players with two games.

Encoder and decoder are a VAE, whose kl and reconstruction are (B,) nats; the game is played with the critic's logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, softplus

from dgm_exercises.adversarial_learning import LinearCritic, Network
from dgm_exercises.engine import Exercise

# ---- best_reconstruction -------------------------------------------------------------------------------------------


def best_reconstruction(candidates: Tensor, weights: Tensor) -> Tensor:
    # The expected squared error Σ_k w_k ‖x_k − x̂‖² is least where its gradient is 0: at the mean Σ_k w_k x_k.
    return torch.tensordot(weights, candidates, dims=1)


def possible_truths(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(n: int, *shape: int) -> tuple[Tensor, Tensor]:
        candidates = torch.rand(n, *shape, generator=generator)
        return candidates, torch.randn(n, generator=generator).softmax(0)

    stroke = torch.eye(3)[:, None, None].expand(3, 1, 3, 3).clone()  # of three rows, upright
    impossible = draw(4, 1, 3, 2)[0], torch.tensor([0.5, 0.0, 0.5, 0.0])
    return [
        (stroke, torch.tensor([0.5, 0.3, 0.2])),  # a stroke in one of three places
        draw(4, 1, 4, 4),
        draw(3, 3, 2, 5),
        draw(5, 6),  # vectors
        draw(3, 3),
        draw(1, 1, 2, 2),
        impossible,
        draw(10, 1, 6, 6),
    ]


Answer = Callable[[Tensor, Tensor], Tensor]


def weighted(weigh: Callable[[Tensor], Tensor]) -> Answer:
    return lambda candidates, weights: best_reconstruction(candidates, weigh(weights))


def weighted_median(candidates: Tensor, weights: Tensor) -> Tensor:
    values, order = candidates.sort(dim=0)
    first = (weights[order].cumsum(0) >= 0.5).int().argmax(0, keepdim=True)
    return values.gather(0, first)[0]


def expected_errors(candidates: Tensor, weights: Tensor) -> Tensor:
    return best_reconstruction((candidates - best_reconstruction(candidates, weights)).square(), weights)


BEST_RECONSTRUCTION = Exercise(
    reference=best_reconstruction,
    statement="A latent z tells the decoder that x is one of K truths, candidates (K, …), with the probabilities "
    "weights (K,), which sum to 1. The one answer (…), of the shape of a truth, with the least expected squared error.",
    nudge="Write the expected error of an answer x̂ down, Σ_k w_k ‖x_k − x̂‖², and set its derivative by an entry of x̂ "
    "to 0.",
    right="one candidate and ten, vectors and images. A stroke in one of three places becomes three pale ones: the "
    "blur of a VAE is the best answer to the question that a squared error asks.",
    inputs=possible_truths,
    wrong=[
        (
            lambda candidates, weights: candidates[weights.argmax()],
            "This is the most probable image: sharp, but where another was meant it pays for the pixels of both.",
        ),
        (
            weighted(lambda weights: torch.full_like(weights, 1 / len(weights))),
            "All candidates count the same in yours. The more probable ones count more: weights.",
        ),
        (weighted(torch.ones_like), "This is the sum of the candidates. Each counts by its probability."),
        (
            weighted(lambda weights: weights.square() / weights.square().sum()),
            "You square the weights. The error is squared, not its probability.",
        ),
        (
            weighted_median,
            "This is the median of each pixel, which has the least absolute error. A squared error wants the mean.",
        ),
        (
            lambda candidates, weights: (best_reconstruction(candidates, weights) > 0.5).float(),
            "You round to black or white. That is sharp again, and its expected error is larger.",
        ),
        (
            lambda candidates, weights: candidates * weights.view(-1, *[1] * (candidates.ndim - 1)),
            "These are the weighted candidates. Their sum is asked.",
        ),
        (
            expected_errors,
            "This is the expected error of each pixel, which even the best answer has. The answer itself is asked.",
        ),
    ],
)

# ---- sharpness -----------------------------------------------------------------------------------------------------


def sharpness(x: Tensor) -> Tensor:
    # Pixels and their neighbours to the right, and below: two tables of differences, one narrower, one lower.
    right = (x[:, :, :, 1:] - x[:, :, :, :-1]).square().mean(dim=(1, 2, 3))  # (B,)
    below = (x[:, :, 1:, :] - x[:, :, :-1, :]).square().mean(dim=(1, 2, 3))
    return right + below


def sharp_and_blurred(generator: Generator) -> list[tuple[Tensor]]:
    def draw(*shape: int) -> tuple[Tensor]:
        return (torch.rand(shape, generator=generator),)

    stripes = (torch.arange(6) % 2).float().expand(1, 1, 4, 6)
    ramp = torch.linspace(0, 1, 5)[:, None].expand(2, 1, 5, 3)
    return [
        (torch.tensor([[[[0.0, 1.0, 1.0], [0.5, 0.5, 0.0]]]]),),
        draw(4, 1, 4, 4),
        draw(3, 3, 4, 5),
        (stripes.clone(),),
        (ramp.clone(),),
        (torch.full((2, 1, 3, 3), 0.7),),  # flat: 0
        draw(5, 1, 8, 4),
        draw(2, 2, 2, 9),
    ]


Measure = Callable[[Tensor], Tensor]


def by_differences(value: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """A function of the differences to the right (B, C, H, W−1) and downwards (B, C, H−1, W)."""
    return lambda x: value(x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :])


def each(table: Tensor) -> Tensor:
    """The mean over all but the batch."""
    return table.flatten(1).mean(1)


SHARPNESS = Exercise(
    reference=sharpness,
    statement="How sharp each image of x (B, C, H, W) is, (B,): the mean squared difference of pixels that are "
    "neighbours in a row plus the mean squared difference of those that are neighbours in a column, each over all "
    "such pairs of the image, in all channels.",
    nudge="`x[..., 1:]` and `x[..., :-1]` have the same shape, and stand one pixel apart. How does one step downwards "
    "look? Then: what is squared, and over what is the mean?",
    right="stripes, colour and flat images included. A blur lowers it and noise raises it: compare it with that of the "
    "data, for more is not always better.",
    inputs=sharp_and_blurred,
    wrong=[
        (
            by_differences(lambda right, below: each(right.square())),
            "Only neighbours in a row are compared: horizontal stripes are flat for you. Those in a column are added.",
        ),
        (
            by_differences(lambda right, below: each(below.square())),
            "Only neighbours in a column are compared: vertical stripes are flat for you. Those in a row are added.",
        ),
        (
            by_differences(lambda right, below: each(right.abs()) + each(below.abs())),
            "You take absolute differences, the total variation: ramp and edge are the same for it. Square them.",
        ),
        (
            by_differences(lambda right, below: each(right) + each(below)),
            "The differences are not squared: edges up and down cancel.",
        ),
        (
            by_differences(lambda right, below: each(right).square() + each(below).square()),
            "The square comes after the mean, when edges up and down have cancelled. Square first.",
        ),
        (
            by_differences(lambda right, below: torch.cat([right.flatten(1), below.flatten(1)], 1).square().mean(1)),
            "You take one mean over the pairs of both kinds. Each kind has its own mean, and the two are added.",
        ),
        (
            by_differences(lambda right, below: each(right[..., :-1, :].square() + below[..., :, :-1].square())),
            "The last row and column are left out: an image has H · (W − 1) pairs in rows and (H − 1) · W in columns.",
        ),
        (
            by_differences(lambda right, below: right.square().flatten(1).sum(1) + below.square().flatten(1).sum(1)),
            "These are sums over the pairs, which grow with the image. Means are asked.",
        ),
        (
            lambda x: each((x - x.roll(1, 3)).square()) + each((x - x.roll(1, 2)).square()),
            "Pixels at opposite edges are compared (`torch.roll` goes round). They are no neighbours.",
        ),
        (
            lambda x: (
                each((x[..., 1:] - x[..., :-1]).square()) * (1 - 1 / x.shape[3])
                + each((x[..., 1:, :] - x[..., :-1, :]).square()) * (1 - 1 / x.shape[2])
            ),
            "You divide by the number of pixels. A row of W pixels has W − 1 pairs.",
        ),
        (
            lambda x: x.flatten(1).var(1, correction=0),
            "This is the variance of the pixels, which a shuffle leaves as it is: neighbours have to be compared.",
        ),
    ],
)

# ---- feature_reconstruction ----------------------------------------------------------------------------------------


class Maps(Network):
    """φ(x) = tanh of a convolution, (B, F, H − 1, W − 1), with kernels (F, C, 2, 2)."""

    def __call__(self, x: Tensor) -> Tensor:
        return conv2d(x, self.as_subclass(Tensor)).tanh()


class Units(Network):
    """φ(x) = tanh of a linear layer, (B, F), with weights (F, C·H·W)."""

    def __call__(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.as_subclass(Tensor).T).tanh()


def feature_reconstruction(phi: torch.nn.Module, x: Tensor, reconstruction: Tensor) -> Tensor:
    # −log N(φ(x); φ(x̂), I), but for its constant: ½ the squared error, summed over all features of an example.
    difference = phi(x) - phi(reconstruction)  # (B, …)
    return difference.square().flatten(1).sum(dim=1) / 2


def images_with_features(generator: Generator) -> list[tuple[Network, Tensor, Tensor]]:
    def pair(batch: int, *shape: int, off: float = 0.5) -> tuple[Tensor, Tensor]:
        x, noise = (torch.rand(batch, *shape, generator=generator) for _ in range(2))
        return x, x + off * (noise - x)

    def weights(n_features: int, *shape: int) -> Tensor:
        return torch.randn(n_features, *shape, generator=generator)

    return [
        (weights(1, 1, 2, 2).as_subclass(Maps), *pair(2, 1, 2, 3)),
        (weights(3, 1, 2, 2).as_subclass(Maps), *pair(4, 1, 4, 4)),
        (weights(5, 12).as_subclass(Units), *pair(3, 3, 2, 2)),  # features without places
        (weights(4, 3, 2, 2).as_subclass(Maps), *pair(3, 3, 5, 4)),
        (weights(2, 1, 2, 2).as_subclass(Maps), *pair(1, 1, 3, 3, off=1.0)),
        (weights(2, 1, 2, 2).as_subclass(Maps), *pair(2, 1, 3, 3, off=0.0)),  # perfect: 0
        (weights(3, 4).as_subclass(Units), *pair(3, 1, 2, 2)),  # B = F
        (weights(6, 1, 2, 2).as_subclass(Maps), *pair(8, 1, 8, 8)),
    ]


def of_features(value: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A function of φ(x) and φ(x̂)."""
    return lambda phi, x, reconstruction: value(phi(x), phi(reconstruction))


def half_squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).sum(1) / 2


FEATURE_RECONSTRUCTION = Exercise(
    reference=feature_reconstruction,
    statement="The reconstruction term of the VAE-GAN: phi(x) gives the critic's features of images (B, C, H, W), any "
    "shape (B, …). −log of a Gaussian with σ = 1 around the features of the reconstruction, at those of x, without its "
    "constant: (B,) nats, which stand beside a KL that is summed over the latents. Training differentiates it by the "
    "reconstruction.",
    nudge="Both images go through phi. Then it is the squared error of a Gaussian, as in notebook 04: with which "
    "factor, and summed or averaged over the features?",
    right="gradients included. What counts as an error is now what the critic looks at; the ½ and the sum keep it in "
    "nats, beside the KL.",
    inputs=images_with_features,
    differentiate=("reconstruction",),
    wrong=[
        (
            lambda phi, x, reconstruction: half_squares(phi(x), phi(reconstruction)).detach(),
            "No gradient comes back to x̂, so neither encoder nor decoder learns. Only those of x may be detached.",
        ),
        (
            lambda phi, x, reconstruction: half_squares(x, reconstruction),
            "This is the error in pixels: phi does not appear. A squared error of pixels is what blurs.",
        ),
        (
            lambda phi, x, reconstruction: 2 * half_squares(x, reconstruction),
            "This is the error in pixels: phi does not appear. (And its ½ is missing.)",
        ),
        (
            lambda phi, x, reconstruction: phi(x - reconstruction).square().flatten(1).sum(1) / 2,
            "You take the features of the difference. Each image goes through phi by itself; then the difference.",
        ),
        (
            of_features(lambda a, b: 2 * half_squares(a, b)),
            "The ½ of the Gaussian is missing: −log N = ½ ‖φ(x) − φ(x̂)‖² + a constant.",
        ),
        (
            of_features(lambda a, b: (a - b).square().flatten(1).mean(1)),
            "You average over the features. They are summed, as the KL is over the latents. (And the ½ is missing.)",
        ),
        (
            of_features(lambda a, b: (a - b).square().flatten(1).mean(1) / 2),
            "You average over the features. The KL is summed over the latents, so the features are summed, too.",
        ),
        (
            of_features(lambda a, b: (a - b).square().mean()),
            "You average over features and batch at once (`mse_loss`). Half the sum over the features is asked: (B,).",
        ),
        (
            of_features(lambda a, b: (a - b).square().sum(1) / 2),
            "You sum over dimension 1 alone, and a map of places is left. `flatten(1)` first.",
        ),
        (
            of_features(lambda a, b: (a - b).abs().flatten(1).sum(1)),
            "These are absolute differences, a Laplace density. A Gaussian has half of the squares.",
        ),
        (
            of_features(lambda a, b: (a - b).flatten(1).norm(dim=1)),
            "This is the distance, the root of the sum of squares. A Gaussian has half of its square.",
        ),
        (
            of_features(lambda a, b: (a - b).flatten(1).sum(1).square() / 2),
            "You sum before the square, and differences of either sign cancel. Square each feature's first.",
        ),
        (
            of_features(lambda a, b: half_squares(a, b) + a[0].numel() * 0.9189385),
            "The constant of the Gaussian, ½ log 2π for each feature, is added. It is left out here.",
        ),
        (
            lambda phi, x, reconstruction: half_squares(phi(x), phi(reconstruction)) + half_squares(x, reconstruction),
            "The error in pixels is added. Only that of the features is asked.",
        ),
    ],
)

# ---- hybrid_critic_loss --------------------------------------------------------------------------------------------


def hybrid_critic_loss(critic: torch.nn.Module, x: Tensor, reconstruction: Tensor, sample: Tensor) -> Tensor:
    # Reconstructions and samples are data in the critic's turn: `detach` ends the path to encoder and decoder.
    loss_real = torch.nn.functional.softplus(-critic(x)).mean()
    loss_reconstruction = torch.nn.functional.softplus(critic(reconstruction.detach())).mean()
    loss_sample = torch.nn.functional.softplus(critic(sample.detach())).mean()
    return loss_real + loss_reconstruction + loss_sample


def three_kinds(generator: Generator) -> list[tuple[LinearCritic, Tensor, Tensor, Tensor]]:
    def draw(n_real: int, n_sampled: int, *shape: int, scale: float = 1.0) -> tuple:
        w = scale * torch.randn(torch.Size(shape).numel(), generator=generator)
        sizes = (n_real, n_real, n_sampled)
        x, eps, sample = (torch.randn(n, *shape, generator=generator) for n in sizes)
        return w.as_subclass(LinearCritic), x, x + 0.5 * eps, sample

    easy = [1.0, -2.0], [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.0, 0.5]], [[-1.0, 0.5], [0.0, 2.0]]
    w, *images = map(torch.tensor, easy)
    return [
        (w.as_subclass(LinearCritic), *(x.view(2, 1, 1, 2) for x in images)),
        draw(4, 4, 1, 2, 2),
        draw(3, 6, 1, 3, 2),
        draw(1, 1, 3, 1, 1),
        draw(4, 3, 1, 2, 3, scale=100.0),  # a critic that is sure: logits of hundreds, right and wrong
        draw(16, 32, 3, 2, 2),
    ]


def judged(loss: Callable[[Tensor, Tensor, Tensor], Tensor], held: str = "rs") -> Callable:
    """A loss of the critic's logits for real, reconstructed and sampled images. held: r, s of those held fast."""

    def critic_loss(critic: Callable, x: Tensor, reconstruction: Tensor, sample: Tensor) -> Tensor:
        reconstruction = reconstruction.detach() if "r" in held else reconstruction
        sample = sample.detach() if "s" in held else sample
        return loss(critic(x), critic(reconstruction), critic(sample))

    return critic_loss


def three_means(real: Tensor, reconstructed: Tensor, sampled: Tensor) -> Tensor:
    return softplus(-real).mean() + softplus(reconstructed).mean() + softplus(sampled).mean()


HYBRID_CRITIC_LOSS = Exercise(
    reference=hybrid_critic_loss,
    statement="The critic's turn in a VAE-GAN: critic(x) gives one logit for each image, which may be hundreds. It "
    "sees real x and reconstructions, (B, C, H, W), and samples from the prior, (M, C, H, W), the last two as they "
    "come from the decoder, with their graph. The sum of three means of −log of the probability of the right answer, "
    "in nats, whose gradient is for the critic alone.",
    nudge="Three times a cross-entropy with a known label: which of the three images are real? And from which of them "
    "would a gradient go back into another player?",
    right="gradients included: none reaches decoder or encoder, whose aim is the opposite. At logits of 0 it is "
    "3 log 2 = 2.079.",
    inputs=three_kinds,
    differentiate=("critic", "reconstruction", "sample"),
    wrong=[
        (
            judged(three_means, held=""),
            "The gradient of the critic's loss goes back through reconstructions and samples into the decoder, which "
            "would learn to be recognised. End both graphs with `detach`, before the critic sees them.",
        ),
        (
            judged(three_means, held="s"),
            "The gradient goes back through the reconstructions, into decoder and encoder. They are data in this turn.",
        ),
        (
            judged(three_means, held="r"),
            "The gradient goes back through the samples, into the decoder. They are data in this turn.",
        ),
        (
            judged(lambda *logits: three_means(*logits).detach()),
            "No gradient comes back to the critic, in its own turn. Only the images are held fast.",
        ),
        (
            judged(lambda real, reconstructed, sampled: three_means(real, reconstructed.detach(), sampled.detach())),
            "You detach what the critic says of reconstructions and samples, so it never learns what they look like. "
            "Detach the images, before the critic sees them.",
        ),
        (
            judged(lambda real, *made: softplus(-real).mean() + three_means(real, *made)),
            "The data count twice, as in the library, which plays two games. Here each mean is added once.",
        ),
        (
            judged(lambda real, rec, sampled: three_means(real, rec, sampled) - rec.mean()),
            "Reconstructions have the label real in yours. They come out of the decoder: their label is made.",
        ),
        (
            judged(lambda real, rec, sampled: three_means(-real, rec, sampled)),
            "All three have the same label, made: a critic that calls everything made is best for you.",
        ),
        (
            judged(lambda real, rec, sampled: three_means(-real, -rec, -sampled)),
            "The labels are exchanged: the critic would learn to call real ones made.",
        ),
        (
            judged(lambda real, rec, sampled: softplus(-real).mean() + softplus(sampled).mean()),
            "The reconstructions do not appear. They keep the critic busy near the data.",
        ),
        (
            judged(lambda real, rec, sampled: softplus(-real).mean() + softplus(rec).mean()),
            "The samples do not appear: the critic would never see what the prior makes.",
        ),
        (
            judged(lambda *logits: three_means(*(a.sigmoid() for a in logits))),
            "The sigmoid is applied twice: probabilities were fed to a loss that expects logits.",
        ),
        (
            judged(
                lambda real, *made: -sum(p.log().mean() for p in (real.sigmoid(), *(1 - a.sigmoid() for a in made)))
            ),
            "The rule is right, but where the critic is sure and wrong its probability is 0 in float32, and the log of "
            "it infinite. `softplus` works with the logit: −log σ(a) = softplus(−a).",
        ),
        (
            judged(lambda real, *made: softplus(-real).mean() + sum(softplus(a).mean() for a in made) / 2),
            "You average the two kinds of made images. Here all three means are added.",
        ),
        (
            judged(lambda real, *made: torch.cat([softplus(-real), *map(softplus, made)]).mean()),
            "You take one mean over all images. Each kind has a mean of its own, and the three are added.",
        ),
        (
            judged(lambda real, *made: sum(a.mean() for a in made) - real.mean()),
            "These are the logits themselves. −log of a probability is asked.",
        ),
    ],
)

# ---- three_players -------------------------------------------------------------------------------------------------


def three_players(
    kl: Tensor, reconstruction: Tensor, real: Tensor, reconstructed: Tensor, sampled: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    softplus = torch.nn.functional.softplus  # −log σ(a) = softplus(−a)
    encoder = kl.mean() + reconstruction.mean()
    decoder = gamma * reconstruction.mean() + softplus(-reconstructed).mean() + softplus(-sampled).mean()
    critic = softplus(-real).mean() + softplus(reconstructed).mean() + softplus(sampled).mean()
    return encoder, decoder, critic


def hybrid_batches(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]]:
    def draw(batch: int, gamma: float, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
        kl, reconstruction = (scale * torch.rand(batch, generator=generator) for scale in (3.0, 20.0))
        real, reconstructed, sampled = (scale * torch.randn(batch, generator=generator) for _ in range(3))
        return kl, reconstruction, real + 1, reconstructed, sampled - 1, gamma

    easy = [1.0, 3.0], [10.0, 6.0], [2.0, 0.5], [0.5, -1.0], [-2.0, 1.0]
    return [
        (*map(torch.tensor, easy), 0.1),
        draw(4, 0.01),
        draw(3, 0.5),
        draw(1, 0.1),
        draw(6, 1.5, scale=200.0),  # a critic that is sure
        draw(32, 2.0),
    ]


def roles(encoder: Callable, decoder: Callable, critic: Callable) -> Callable[..., Tensor]:
    """Each player's loss, a function of the means (kl, reconstruction), of the three logits and of gamma."""

    def losses(kl, reconstruction, real, reconstructed, sampled, gamma):
        arguments = kl.mean(), reconstruction.mean(), real, reconstructed, sampled, gamma
        return torch.stack([player(*arguments) for player in (encoder, decoder, critic)])

    return losses


def right_encoder(kl, rec, *game):
    return kl + rec


def deceived(kl, rec, real, reconstructed, sampled, gamma):
    """The game's part of the decoder's loss."""
    return softplus(-reconstructed).mean() + softplus(-sampled).mean()


def right_decoder(*a):
    return a[5] * a[1] + deceived(*a)


def right_critic(kl, rec, real, reconstructed, sampled, gamma):
    return three_means(real, reconstructed, sampled)


def with_encoder(encoder: Callable) -> Callable[..., Tensor]:
    return roles(encoder, right_decoder, right_critic)


def with_decoder(decoder: Callable) -> Callable[..., Tensor]:
    return roles(right_encoder, decoder, right_critic)


def with_critic(critic: Callable) -> Callable[..., Tensor]:
    return roles(right_encoder, right_decoder, critic)


def by_probabilities(kl, rec, real, reconstructed, sampled, gamma):
    real, reconstructed, sampled = real.sigmoid(), reconstructed.sigmoid(), sampled.sigmoid()
    decoder = gamma * rec.mean() - reconstructed.log().mean() - sampled.log().mean()
    critic = -real.log().mean() - (1 - reconstructed).log().mean() - (1 - sampled).log().mean()
    return torch.stack([kl.mean() + rec.mean(), decoder, critic])


THREE_PLAYERS = Exercise(
    reference=three_players,
    statement="A VAE-GAN has three players (Larsen et al. 2016, algorithm 1). From kl and reconstruction, (B,) nats "
    "each, and the critic's logits for real, reconstructed and sampled images, (B,) each, which may be hundreds: the "
    "losses (encoder, decoder, critic), three scalars, with their gradients. The encoder minimises KL + "
    "reconstruction, the decoder gamma times the reconstruction plus its non-saturating loss on reconstructed and on "
    "sampled images (two means, added), the critic the sum of three means of its cross-entropies.",
    nudge="Who can change what? The decoder cannot change the KL, and the critic knows neither of the first two. Then "
    "the labels: what does each player want the critic to say?",
    right="in the order encoder, decoder, critic. Their aims differ, so there is no one loss to add up: three "
    "objectives, each with the parameters of one player.",
    inputs=hybrid_batches,
    differentiate=("kl", "reconstruction", "real", "reconstructed", "sampled"),
    wrong=[
        (
            with_encoder(lambda *a: right_encoder(*a) + deceived(*a)),
            "The encoder takes part in the game in yours: the posterior leaves the prior. KL + reconstruction is all.",
        ),
        (with_encoder(lambda *a: a[1]), "The encoder's KL is missing: nothing holds its codes near the prior."),
        (
            with_encoder(lambda *a: a[0] + a[5] * a[1]),
            "gamma weighs the encoder's reconstruction in yours. It balances two aims of the decoder.",
        ),
        (
            with_decoder(lambda *a: a[5] * a[1]),
            "The decoder takes no part in the game: this is a VAE beside which a critic is trained for nothing.",
        ),
        (
            with_decoder(deceived),
            "The decoder's reconstruction is missing: it may draw any image that deceives the critic.",
        ),
        (
            with_decoder(lambda *a: a[1] + deceived(*a)),
            "gamma is missing: it weighs the decoder's reconstruction against its game.",
        ),
        (
            with_decoder(lambda *a: a[1] + a[5] * deceived(*a)),
            "gamma weighs the decoder's game in yours. It weighs the reconstruction: a larger gamma stays closer to x.",
        ),
        (
            with_decoder(lambda *a: a[0] + right_decoder(*a)),
            "The KL stands in the decoder's loss. The decoder has no part in q(z|x): the term is the encoder's.",
        ),
        (
            with_decoder(lambda *a: a[5] * a[1] + softplus(a[3]).mean() + softplus(a[4]).mean()),
            "The decoder has the critic's labels for what it makes: it would learn to be recognised. It wants real.",
        ),
        (
            with_decoder(lambda *a: a[5] * a[1] - right_critic(*a)),
            "The decoder's game is the negative of the critic's loss, the saturating form (Larsen's −L_GAN, as the "
            "paper writes it). Where the critic is sure it is flat: −log of the probability of real is asked.",
        ),
        (
            with_decoder(lambda *a: a[5] * a[1] - softplus(a[3]).mean() - softplus(a[4]).mean()),
            "The decoder's game is saturating, log(1 − D): where the critic is sure it is flat. −log of the "
            "probability of real is asked.",
        ),
        (
            with_decoder(lambda *a: a[5] * a[1] - deceived(*a)),
            "The decoder's game has the wrong sign: minimising log D makes its images look made.",
        ),
        (
            with_decoder(lambda *a: a[5] * a[1] + softplus(-a[3]).mean()),
            "The decoder plays with reconstructed images alone: what it makes of the prior is never judged.",
        ),
        (
            with_decoder(lambda *a: a[5] * a[1] + softplus(-a[4]).mean()),
            "The decoder plays with sampled images alone. Reconstructed ones are judged as well.",
        ),
        (
            with_critic(lambda *a: right_critic(*a) - a[3].mean()),
            "Reconstructed images have the label real for your critic. They come out of the decoder.",
        ),
        (
            with_critic(lambda *a: softplus(-a[2]).mean() + right_critic(*a)),
            "The data count twice in the critic's loss, as in the library. Here each mean is added once.",
        ),
        (
            with_critic(lambda *a: right_critic(*a[:2], *(logit.sigmoid() for logit in a[2:5]), a[5])),
            "The sigmoid is applied twice in the critic's loss: probabilities were fed to a loss that expects logits.",
        ),
        (
            by_probabilities,
            "Where the critic is sure and wrong a probability is 0 in float32, and the log of it infinite. `softplus` "
            "works with the logit: −log σ(a) = softplus(−a).",
        ),
        (
            lambda *a: sum(three_players(*a)),
            "You add the three losses up, and those of critic and decoder would cancel. A triple is asked.",
        ),
    ],
)

# ---- balanced_weight -----------------------------------------------------------------------------------------------


def balanced_weight(gradient_reconstruction: Tensor, gradient_game: Tensor) -> Tensor:
    # λ ‖∇L_game‖ = ‖∇L_reconstruction‖: at the last layer, both losses then pull equally hard.
    return gradient_reconstruction.norm() / gradient_game.norm()


def pairs_of_gradients(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    def draw(*shape: int, ratio: float = 1.0, game: float = 1.0) -> tuple[Tensor, Tensor]:
        a, b = (torch.randn(shape, generator=generator) for _ in range(2))
        return game * ratio * a, game * b

    return [
        (torch.tensor([[3.0, 0.0], [0.0, -4.0]]), torch.tensor([[1.0, -2.0], [2.0, 0.0]])),
        draw(4, 4),
        draw(2, 3, ratio=20.0),
        draw(1, 5, ratio=0.01),
        draw(7, ratio=2.0),  # a bias
        draw(8, 6, ratio=3e4, game=1e-4),  # a game that is nearly over
        draw(3, 2, 3, 3, ratio=0.5),  # the kernels of a convolution
    ]


def ratio_of(size: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda reconstruction, game: size(reconstruction) / size(game)


ENTRY_BY_ENTRY = "You divide entry by entry. Each gradient has one norm, and those are divided."

BALANCED_WEIGHT = Exercise(
    reference=balanced_weight,
    statement="The decoder minimises L_reconstruction + λ L_game. From the gradients of the two losses by the same "
    "parameters, of the same shape and neither of them 0: the λ at which both pull equally hard, that is with "
    "gradients of the same Euclidean norm (Esser et al. 2021, eq. 7, without its small constant or a largest value). "
    "A scalar.",
    nudge="Write the condition down, λ times one norm equals the other, and solve it for λ. The norm is over all "
    "entries.",
    right="a convolution's kernels included. A weight that is right at the first step need not be so later: the norms "
    "change as the players learn.",
    inputs=pairs_of_gradients,
    wrong=[
        (
            lambda a, b: a.norm() / (b.norm() + 1e-4),
            "The small constant of the paper is in yours. Where the game's gradient is small it decides; leave it out.",
        ),
        (
            lambda a, b: (a.norm() / b.norm()).clamp(max=1e4),
            "You cut λ off at a largest value, as the code of the paper does. Here λ is the ratio, however large.",
        ),
        (ratio_of(lambda g: g.abs().sum()), "You divide the sums of absolute values. The Euclidean norm is asked."),
        (ratio_of(torch.sum), "You divide sums, in which entries of either sign cancel. The Euclidean norm is asked."),
        (
            lambda a, b: a.norm() / (a.norm() + b.norm()),
            "This is a share, between 0 and 1. λ multiplies the game alone: it is a ratio.",
        ),
        (lambda a, b: a.norm() - b.norm(), "This is the difference of the norms. λ is a factor."),
        (lambda a, b: (a / b).norm(), ENTRY_BY_ENTRY),
        (lambda a, b: (a / b).abs().mean(), ENTRY_BY_ENTRY),
        (
            ratio_of(lambda g: g.flatten(1).norm(dim=1) if g.ndim > 1 else g.abs()),
            "You have one λ for each row. It is a single number: the norm is over all entries.",
        ),
    ],
)

EXERCISES = [BEST_RECONSTRUCTION, SHARPNESS, FEATURE_RECONSTRUCTION, HYBRID_CRITIC_LOSS, THREE_PLAYERS, BALANCED_WEIGHT]
