"""Breaks of the library that a notebook must notice, made in its kernel: `break_("balanced_accuracy_is_plain")`.

Each names what it replaces as Python does, so a rename in the library is an error here, at import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dgm_lib import samplers, train
from dgm_lib.datasets import core
from dgm_lib.measures import metrics, two_sample
from dgm_lib.measures.judges import Judge
from dgm_lib.models import gan
from dgm_lib.models.baselines import IndependentPixels
from dgm_lib.models.classify import BayesClassifier
from dgm_lib.models.joint_energy import JointEnergyModel
from dgm_lib.models.ppca import PPCA
from dgm_lib.models.rbm import RBM
from dgm_lib.models.vae import VAE

BREAKS: dict[str, tuple[Callable, Callable]] = {}  # name -> what is replaced, what stands there instead
calls: dict[str, int] = {}  # of each break that was made


def instead_of(original: Callable) -> Callable:
    """Registers a break: a function that is called with the original and with the original's own arguments."""

    def register(broken: Callable) -> Callable:
        BREAKS[broken.__name__] = (original, broken)
        return broken

    return register


def break_(name: str) -> None:
    """Puts a break in place, wherever the library holds the original."""
    original, broken = BREAKS[name]
    calls[name] = 0

    @wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return broken(original, *args, **kwargs)

    owner, _, attribute = original.__qualname__.rpartition(".")
    if owner:
        setattr(getattr(sys.modules[original.__module__], owner), attribute, replacement)
    for module in [module for place, module in sys.modules.items() if place.startswith("dgm_")]:
        for known in [known for known, value in vars(module).items() if value is original]:
            setattr(module, known, replacement)


def shorten_training(n_batches: int) -> None:
    """Breaks nothing: one epoch of so few batches, for claims that hold of a network which hardly learnt."""

    @instead_of(train.fit)
    def few_batches(fit, model, objectives, batches, epochs, **options):
        return fit(model, objectives, list(islice(batches, n_batches)), 1, **options)

    break_(few_batches.__name__)


# ---- breaks --------------------------------------------------------------------------------------------------------


@instead_of(core.scale)
def nothing(scale, x, levels):
    """Breaks nothing, to show that what notices a break is the break."""
    return scale(x, levels)


@instead_of(core.scale)
def one_level_too_many(scale, x, levels):
    return scale(x, levels + 1)


@instead_of(IndependentPixels.log_prob)
def nothing_is_impossible(log_prob, model, x):
    """The small number that learners add within a logarithm."""
    return log_prob(model, x).clamp(min=-1000)


@instead_of(RBM.free_energy)
def hidden_units_at_their_best(free_energy, machine, x):
    """The least energy over h, where h must be summed out."""
    return machine.energy(x, (machine.posterior(x).mean > 0.5).to(x))


@instead_of(samplers.langevin)
def half_a_drift(langevin, score, x, **options):
    return langevin(lambda x: 0.5 * score(x), x, **options)


@instead_of(PPCA.set_parameters)
def noise_averaged_over_all_directions(set_parameters, model, weight, mu, var):
    n_features, n_latents = weight.shape
    set_parameters(model, weight, mu, var * (n_features - n_latents) / n_features)


@instead_of(VAE.log_weight)
def every_draw_is_the_mean(log_weight, vae, x, y=None):
    q = vae.posterior(x, y)
    return vae.likelihood(q.mean, y).log_prob(x) + vae.prior.log_prob(q.mean) - q.log_prob(q.mean)


@instead_of(gan.gradient_penalty)
def slope_of_two(penalty, critic, real, fake):
    return (gan.gradient_at(critic, fake).flatten(1).norm(dim=1) - 2).square()


@instead_of(two_sample.frechet_distance)
def distance_with_its_sign_turned(distance, a, b):
    return -distance(a, b)


@instead_of(Judge.features)
def judge_that_sees_blurred_pixels(features, judge, x):
    return avg_pool2d(x, 7, stride=3).flatten(1)


@instead_of(BayesClassifier.forward)
def bayes_without_the_prior(forward, model, x):
    return forward(model, x) - model.prior.log()


@instead_of(metrics.balanced_accuracy)
def balanced_accuracy_is_plain(balanced, predicted, y, n_classes):
    return (predicted == y).double().mean().item()


@instead_of(JointEnergyModel.loss)
def divergence_that_nobody_sees(loss, model, x: Tensor, y: Tensor):
    value = loss(model, x, y)
    return torch.where(value.isfinite(), value, 0 * model(x).sum())
