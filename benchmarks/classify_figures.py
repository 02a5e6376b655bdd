"""Who names the digits of other writers right, with all pixels and with half of them; and Bayes' rule by enumeration.

Each choice (deformations, components, floor, networks, epochs) was made by cross-validation over blocks of writers of
the training digits and on the validation digits. What one road is allowed, the others are told with it, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean, median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness import Measurement
from dgm_lib import datasets
from dgm_lib.datasets import Split
from dgm_lib.datasets.augmentation import masked, shifted
from dgm_lib.measures import metrics
from dgm_lib.measures.calibration import expected_calibration_error, fit_temperature
from dgm_lib.measures.judges import Recipe, varied
from dgm_lib.models.classify import BayesClassifier, ClassGaussians, Classifier, change_prior, per_class
from dgm_lib.models.mixtures import GaussianMixture
from dgm_lib.objective import adam
from dgm_lib.train import fit

THREADS, K = 1, 10
Change = Callable[[Tensor], Tensor]

# ---- Bayes' rule ---------------------------------------------------------------------------------------------------


def bayes_rule_error(runs: int) -> Measurement:
    """The largest error of a posterior in single precision, under the prior of training and under another one.

    The model is drawn at random: three classes of binary vectors of four bits, all 16 of which are enumerated.
    """
    return Measurement([posterior_error(seed) for seed in range(runs)], range(runs), summary=max)


def posterior_error(seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    tables = (2 * torch.randn(3, 16, generator=generator, dtype=torch.float64)).softmax(1)  # p(x|c)
    old, new = torch.randn(2, 3, generator=generator, dtype=torch.float64).softmax(1)
    every_x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    number = (every_x @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    model = BayesClassifier(lambda x, y: tables.float()[y, number].log(), 3, old.float())
    shifted_prior = change_prior(model(every_x), old.float(), new.float()).softmax(1)
    found = [model.posterior(every_x), model.with_prior(new.float()).posterior(every_x), shifted_prior]
    joint = [(prior[:, None] * tables).mT for prior in (old, new, new)]  # p(x, c), (16, 3)
    exact = [values / values.sum(1, keepdim=True) for values in joint]
    return max((a.double() - b).abs().max().item() for a, b in zip(found, exact, strict=True))


# ---- the generative road -------------------------------------------------------------------------------------------

# By cross-validation: what deforms more has the better likelihood of the class with all pixels, and not with half.
STRONGLY, MILDLY = (Recipe(shift=0.7, turn=turn, size=more, lean=more) for turn, more in ((15, 0.15), (10, 0.1)))
COPIES, COMPONENTS = 20, 8


class Mixtures(NamedTuple):
    """How the mixtures of a class are made; floor: the least variance in any direction, as a share of the mean."""

    recipe: Recipe
    floor: float
    members: int


ALL_PIXELS = Mixtures(STRONGLY, 0.2, members=6)
WITH_GAPS = Mixtures(MILDLY, 0.15, members=3)  # every image takes matrices of its own


def deformed(split: Split, recipe: Recipe, copies: int) -> tuple[Tensor, Tensor]:
    """The digits, and copies that are moved, turned, sized and leaned a little at random: x, y."""
    x = split.scaled()
    return torch.cat([x, *(varied(x, recipe) for _ in range(copies))]), split.y.repeat(copies + 1)


def class_mixtures(split: Split, how: Mixtures, seed: int) -> list[list[GaussianMixture]]:
    """For each class, mixtures of Gaussians that differ in the copies that they learn from and in where EM begins."""
    models: list[list[GaussianMixture]] = [[] for _ in range(K)]
    for member in range(10 * seed, 10 * seed + how.members):
        torch.manual_seed(member)
        x, y = deformed(split, how.recipe, COPIES)
        for c in range(K):
            points = x[y == c].flatten(1)
            model = GaussianMixture.fit(points, COMPONENTS, floor=how.floor, seed=member, steps=15, tolerance=1e-2)
            models[c].append(model.requires_grad_(False))
    return models


def log_mean(models: Sequence[GaussianMixture], x: Tensor, known: Tensor | None = None) -> Tensor:
    """The mean of their densities, itself a mixture, of what is known of images (B, 1, 8, 8): (B,) nats."""
    log_probs = torch.stack([model.log_prob(x.flatten(1), known) for model in models])
    return log_probs.logsumexp(0) - math.log(len(models))


def by_bayes(models: list[list[GaussianMixture]], x: Tensor, known: Tensor | None = None) -> Tensor:
    """Logits (N, K) of images, of which known (N, 1, 8, 8) says what can be seen."""
    rows = [slice(i, i + 100) for i in range(0, len(x), 100)]  # gaps of its own take each image K D² numbers a class
    seen = [None if known is None else known[part].flatten(1) for part in rows]
    return torch.cat(
        [
            BayesClassifier(per_class([partial(log_mean, of_class, known=gaps) for of_class in models]), K)(x[part])
            for part, gaps in zip(rows, seen, strict=True)
        ]
    )


# ---- the networks --------------------------------------------------------------------------------------------------

EPOCHS, RATE = 60, 2e-3


def cnn(channels: int = 1) -> Classifier:
    """Three convolutions and two layers more: 188,000 parameters."""
    net = nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Dropout(0.15)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.3)),
        *(nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Dropout(0.3)),
        nn.Linear(128, K),
    )
    return Classifier(net, K)


def trained(split: Split, change: Change, seed: int, *, channels: int = 1, epochs: int = EPOCHS) -> Classifier:
    """A network that sees each image changed anew in each epoch."""
    torch.manual_seed(seed)
    model = cnn(channels)
    objective = adam(lambda x, y: model.loss(change(x), y), model, RATE, epochs=epochs)
    batches = split.batches(100, seed=seed, drop_last=True)
    fit(model, {"-log p(y|x)": objective}, batches, epochs, seed=seed, progress=False)
    return model.requires_grad_(False)


# ---- what is reported ----------------------------------------------------------------------------------------------


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """(N,) 100 where the label is missed, 0 elsewhere: its mean is the error in %."""
    return 100 * (logits.argmax(1) != y).double()


def calibrated_ece(validation: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """ECE on the test digits, the temperature fitted on the validation digits; each is (logits, y)."""
    return expected_calibration_error(test[0] / fit_temperature(*validation), test[1])


def in_words(errors: Tensor) -> str:
    """The mean of what each test image costs (N,), and its interval."""
    low, high = metrics.bootstrap_interval(errors)
    return f"{errors.mean().item():.1f} % ({low:.1f}–{high:.1f})"


# ---- all pixels ----------------------------------------------------------------------------------------------------

SHRINKAGE = 0.2


@torch.no_grad()
def generative_digits_error(runs: int) -> Measurement:
    """Error in % of the class mixtures, each learnt from digits and their deformed copies, on the test digits."""
    torch.set_num_threads(THREADS)
    data = datasets.load("digits")
    x_validation, x = data.validation.scaled(), data.test.scaled()
    errors, eces = [], []
    for seed in range(runs):
        models = class_mixtures(data.train, ALL_PIXELS, seed)
        logits = by_bayes(models, x)
        validation = by_bayes(models, x_validation), data.validation.y
        errors.append(wrong(logits, data.test.y))
        eces.append(calibrated_ece(validation, (logits, data.test.y)))
    values = [each.mean().item() for each in errors]
    note = f"{in_words(torch.stack(errors).mean(0))}, interval over test images; ECE {median(eces):.3f} "
    note += f"({min(eces):.3f}–{max(eces):.3f}); " + gaussians_in_words(data)
    return Measurement(values, range(runs), note, holds=median(values) <= 2.5 and median(eces) <= 0.02)


def gaussians_in_words(data: datasets.Data) -> str:
    """One Gaussian a class, of the digits as they are."""
    gaussians = ClassGaussians.fit(data.train.scaled(), data.train.y, K, shrinkage=SHRINKAGE)
    model = BayesClassifier(gaussians.log_likelihood, K)
    logits = model(data.test.scaled())
    ece = calibrated_ece((model(data.validation.scaled()), data.validation.y), (logits, data.test.y))
    return f"one Gaussian a class, not deformed, {in_words(wrong(logits, data.test.y))}, ECE {ece:.3f}"


def cnn_digits_error(runs: int) -> Measurement:
    """Error in % of a CNN whose training digits are moved by up to one pixel, on the test digits.

    Told beside: that of all runs together, whose probabilities are averaged, and that of the CNN whose digits are
    deformed as those of the mixtures are.
    """
    torch.set_num_threads(THREADS)
    data = datasets.load("digits")
    found = {
        name: networks(data, change, runs)
        for name, change in (("moved", shifted), ("deformed", partial(varied, recipe=STRONGLY)))
    }
    errors, eces, together = found["moved"]
    values = [each.mean().item() for each in errors]
    note = f"{in_words(torch.stack(errors).mean(0))}, interval over test images; ECE {mean(eces):.3f}; all together "
    note += f"{in_words(together)}; "
    errors, eces, together = found["deformed"]
    note += f"deformed as the class mixtures' digits {in_words(torch.stack(errors).mean(0))}, ECE {mean(eces):.3f}, "
    note += f"all together {in_words(together)}"
    return Measurement(values, range(runs), note)


def networks(data: datasets.Data, change: Change, runs: int) -> tuple[list[Tensor], list[float], Tensor]:
    """What each network costs on each test image, its ECE, and what their mean probability costs."""
    errors, eces, posteriors = [], [], []
    for seed in range(runs):
        model = trained(data.train, change, seed)
        validation, test = (
            metrics.logits_of(model, split.batches(500, shuffle=False)) for split in (data.validation, data.test)
        )
        errors.append(wrong(*test))
        eces.append(calibrated_ece(validation, test))
        posteriors.append((test[0] / fit_temperature(*validation)).softmax(1))
    return errors, eces, wrong(torch.stack(posteriors).mean(0), data.test.y)


# ---- half of the pixels --------------------------------------------------------------------------------------------

MASKS = 5


def missing_pixels_error(runs: int) -> Measurement:
    """Error in % on test digits of which half of the pixels are missing at random, the mean of five fixed masks.

    The missing pixels are integrated out of the class mixtures, exactly.
    """
    torch.set_num_threads(THREADS)
    data = datasets.load("digits")
    x = data.test.scaled()
    known = [half(x, seed) for seed in range(MASKS)]
    found: dict[str, list[Tensor]] = {}
    eces = []
    for seed in range(runs):
        errors, ece = integrated_out(data, known, seed)
        eces.append(ece)
        for name, costs in {"mixtures": errors, **rivals(data, known, seed)}.items():
            found.setdefault(name, []).append(costs)
    values = [each.mean().item() for each in found["mixtures"]]
    words = {name: in_words(torch.stack(costs).mean(0)) for name, costs in found.items()}
    note = f"{words.pop('mixtures')}, interval over test images, ECE {mean(eces):.3f}; "
    note += ", ".join(f"{name} {figure}" for name, figure in words.items())
    return Measurement(values, range(runs), note)


def half(x: Tensor, seed: int) -> Tensor:
    """A mask of half of the pixels, (N, 1, 8, 8), bool, True where a pixel is known."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def over_masks(classify: Callable[[Tensor, Tensor], Tensor], split: Split, known: list[Tensor]) -> Tensor:
    """Logits for each mask: (masks, N, K)."""
    with torch.no_grad():
        return torch.stack([classify(split.scaled(), mask) for mask in known])


def integrated_out(data: datasets.Data, known: list[Tensor], seed: int) -> tuple[Tensor, float]:
    """What the class mixtures cost on each test image, the mean over masks, (N,), and their ECE."""
    models = class_mixtures(data.train, WITH_GAPS, seed)
    logits = over_masks(partial(by_bayes, models), data.test, known)
    y = data.test.y.repeat(len(known))
    masks = [half(data.validation.x, 100)]
    validation = over_masks(partial(by_bayes, models), data.validation, masks)[0], data.validation.y
    ece = calibrated_ece(validation, (logits.flatten(0, 1), y))
    return wrong(logits.flatten(0, 1), y).view(len(known), -1).mean(0), ece


def rivals(data: datasets.Data, known: list[Tensor], seed: int) -> dict[str, Tensor]:
    """The same of models that know about missing pixels: one Gaussian a class, networks, and a machine for vectors."""
    gaussians = ClassGaussians.fit(data.train.scaled(), data.train.y, K, shrinkage=SHRINKAGE)
    ways = {"one Gaussian a class, not deformed": partial(by_gaussians, gaussians)}
    for name, change in (("moved", shifted), ("deformed", partial(varied, recipe=MILDLY))):
        model = trained(data.train, partial(hidden, change), seed, channels=2, epochs=MASKED_EPOCHS)
        ways[f"CNN trained with fresh masks, {name}"] = lambda x, mask, model=model: model(beside(x, mask))
    ways["conditional mean and RBF-SVM, deformed"] = filled_and_read(data, seed)
    y = data.test.y
    return {
        name: torch.stack([wrong(logits, y) for logits in over_masks(way, data.test, known)]).mean(0)
        for name, way in ways.items()
    }


MASKED_EPOCHS = 300  # after 100 the error on validation digits still falls


def by_gaussians(gaussians: ClassGaussians, x: Tensor, known: Tensor) -> Tensor:
    return BayesClassifier(partial(gaussians.log_likelihood, known=known), K)(x)


def hidden(change: Change, x: Tensor) -> Tensor:
    """What a network that knows about missing pixels sees of images in training: half of each, a new half each time."""
    return beside(*masked(change(x), 0.5))


def beside(x: Tensor, known: Tensor) -> Tensor:
    """The known pixels, and the mask as a second channel: (N, 2, H, W)."""
    return torch.cat([torch.where(known, x, 0), known.to(x)], 1)


FILL_COMPONENTS, FILL_FLOOR, SVM_COPIES, SVM_C = 20, 0.1, 4, 10.0


def filled_and_read(data: datasets.Data, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """E[x | known] under a mixture of Gaussians of all digits, read by a support vector machine."""
    from sklearn.svm import SVC

    torch.manual_seed(seed)
    x, y = deformed(data.train, MILDLY, SVM_COPIES)
    mixture = GaussianMixture.fit(data.train.scaled().flatten(1), FILL_COMPONENTS, floor=FILL_FLOOR, seed=seed)
    machine = SVC(C=SVM_C).fit(x.flatten(1).numpy(), y.numpy())

    def classify(x: Tensor, known: Tensor) -> Tensor:
        filled = mixture.fill_in(x.flatten(1), known.flatten(1))
        return torch.from_numpy(machine.decision_function(filled.numpy()))

    return classify
