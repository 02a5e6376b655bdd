"""A VAE of several modalities with one z behind all: image and label, image and tone. Each can be made of the others.

p(z, x_1, …, x_M) = p(z) Π_i p(x_i|z)
q(z|x_i, i ∈ S)   ∝ p(z) Π_{i ∈ S} q_i(z|x_i)    a product of experts, the prior one of them; Wu & Goodman 2018, eq. 3
log p(x_S)        ≥ E_q[Σ_{i ∈ S} log p(x_i|z)] − KL(q(z|x_S) ‖ p(z))    for any set S of modalities; the same, eq. 2

An expert is a Gaussian of z that says what x_i adds to the prior; one that is missing says nothing. So 2^M posteriors
need M encoders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from torch.distributions.kl import kl_divergence

from dgm_lib import checks
from dgm_lib.distributions import StandardNormal, Whole, diagonal_normal
from dgm_lib.nets import explained, mean_and_log_var, of_one, on_trial

# ---- what it is made of --------------------------------------------------------------------------------------------


class Modality(nn.Module):
    """One kind of observation of z, D latents: Modality(encoder, decoder, likelihood).

    encoder: examples (B, …) -> (B, 2D), the mean and the log-variance of the expert; nn.Embedding(K, 2D) for labels.
    decoder: (B, D) -> what `likelihood` makes a distribution over examples of, such as partial(logistic_pixels,
    levels=17), NormalNoise() or Labels.
    weight: of log p(x_i|z) in `loss`: a label has ln K nats, beside an image's hundreds. No bound is touched by it.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, likelihood: Callable[[Tensor], Distribution], weight: float = 1.0
    ):
        super().__init__()
        checks.check_positive(weight=weight)
        self.encoder, self.decoder, self.likelihood, self.weight = encoder, decoder, likelihood, weight

    def given(self, z: Tensor) -> Distribution:
        """p(x_i|z) over single numbers: (B, D) -> batch_shape (B, …)."""
        return self.likelihood(checks.at_least_float32(self.decoder(z)))


class Labels(Categorical):
    """A label, by its logits (B, K); its mean is the probabilities of the classes, (B, K)."""

    def __init__(self, logits: Tensor):
        super().__init__(logits=logits, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.probs


def product_of_normals(mu: Tensor, log_var: Tensor) -> Distribution:
    """The Gaussian ∝ Π_e N(z; μ_e, diag exp(log_var_e)): each (E, B, D) -> over (B, D).

    Precisions add up, and the means count with them; log_var = ∞ is an expert that says nothing. Hinton 2002, sect. 3.
    """
    log_total = (-log_var).logsumexp(0)  # the precisions themselves are infinite in float32 at log_var = −100
    return diagonal_normal(((-log_var - log_total).exp() * mu).sum(0), -log_total)


# ---- the model -----------------------------------------------------------------------------------------------------


class JointVAE(nn.Module):
    """JointVAE({"image": Modality(…), "label": Modality(…)}, StandardNormal(8)).

    Methods are given modalities by name, image=x, label=y; those that are not given are missing. Within a batch, an
    example lacks a modality where its label is −1, or all its numbers are NaN.
    Raises ValueError where modalities, networks and prior do not fit each other.
    """

    def __init__(self, modalities: dict[str, Modality], prior: StandardNormal):
        super().__init__()
        if not modalities:
            raise ValueError("there is no modality: give at least one")
        if not isinstance(prior, StandardNormal):
            raise ValueError(f"the prior is a {type(prior).__name__}: the product of experts needs StandardNormal")
        self.modalities, self.prior = nn.ModuleDict(modalities), prior
        self._try_networks()

    def _try_networks(self) -> None:
        """Runs all once, so that a misfit is said before any training; notes the shape of each modality."""
        z = next(self.parameters()).new_zeros(2, self.prior.n_latents)
        self.shapes: dict[str, torch.Size] = {}
        self.n_classes: dict[str, int | None] = {}  # of the modalities that are labels
        with on_trial(self):
            for name, modality in self.modalities.items():
                with explained(f"the decoder of {name!r} does not take the {z.shape[1]} latents of the prior"):
                    p = modality.given(z)
                    self.shapes[name] = of_one(p.batch_shape, 2, f"what the decoder of {name!r} makes")
                    self.n_classes[name] = p.logits.shape[-1] if isinstance(p, Categorical) else None
                self.posterior(**{name: torch.zeros_like(p.sample())})

    def posterior(self, **given: Tensor) -> Distribution:
        """q(z|what is given) over (B, D): posterior(image=x), posterior(image=x, label=y)."""
        return self._product({name: self._expert(name, x) for name, x in self._checked(given).items()})

    def _expert(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q_i, each (B, D); the log-variance is ∞ where x is missing."""
        there = present(x)
        with explained(f"the encoder of {name!r} does not take these examples"):
            out = checks.at_least_float32(self.modalities[name].encoder(filled(x, there)))
        mu, log_var = mean_and_log_var(out, len(x), self.prior.n_latents, f"the encoder of {name!r}")
        return mu, log_var.masked_fill(~there[:, None], math.inf)

    def _product(self, experts: dict[str, tuple[Tensor, Tensor]]) -> Distribution:
        mu, log_var = (torch.stack(each) for each in zip(*experts.values()))  # (E, B, D)
        standard = torch.zeros_like(mu[:1])  # the prior: mean 0, log-variance 0
        return product_of_normals(torch.cat([mu, standard]), torch.cat([log_var, standard]))

    def likelihood(self, name: str, z: Tensor) -> Distribution:
        """p(x_i|z) over whole examples of a modality, for latents (B, D)."""
        self._known([name])
        checks.check_examples(z, (self.prior.n_latents,), self, "latents")
        return Whole(self.modalities[name].given(z), len(self.shapes[name]))

    @torch.no_grad()
    def sample(self, n: int) -> dict[str, Tensor]:
        """n examples of each modality that belong together: z from the prior, then each x_i from p(x_i|z)."""
        z = self.prior.sample(n)
        return {name: self.likelihood(name, z).sample() for name in self.modalities}

    # -- bounds

    def elbo(self, **given: Tensor) -> Tensor:
        """An unbiased estimate, with one draw, of a bound of log p(what is given): (B,) nats."""
        given = self._checked(given)
        terms, kl = self._terms(given, {name: self._expert(name, x) for name, x in given.items()})
        return sum(terms.values()) - kl

    def iw_bound(self, k: int, /, **given: Tensor) -> Tensor:
        """The importance-weighted bound with k draws, (B,) nats: k → ∞ gives log p. Burda et al. 2016, eq. 8."""
        checks.check_whole(1, k=k)
        given, q = self._checked(given), self.posterior(**given)
        log_w = []
        for _ in range(k):
            z = q.rsample()
            reconstruction = sum(self._log_likelihood(name, x, z) for name, x in given.items())
            log_w.append(reconstruction + self.prior.log_prob(z) - q.log_prob(z))
        return torch.stack(log_w).logsumexp(0) - math.log(k)

    def _terms(self, given: dict[str, Tensor], experts: dict) -> tuple[dict[str, Tensor], Tensor]:
        """E_q[log p(x_i|z)] of each modality, with one draw, and KL(q ‖ p(z)): each (B,) nats."""
        q = self._product(experts)
        z = q.rsample()
        terms = {name: self._log_likelihood(name, x, z) for name, x in given.items()}
        return terms, kl_divergence(q.base_dist, self.prior.distribution().base_dist).sum(-1)

    def _log_likelihood(self, name: str, x: Tensor, z: Tensor) -> Tensor:
        """log p(x_i|z), (B,) nats; 0 where x is missing: what was not observed needs no explanation."""
        there = present(x)
        return self.likelihood(name, z).log_prob(filled(x, there)).masked_fill(~there, 0)

    def loss(self, *examples: Tensor) -> Tensor:
        """Mean of −ELBO of all modalities together, and of each alone, log p(x_i|z) weighted. Wu & Goodman 2018, eq. 4.

        examples: a batch of each modality, in the order in which the model was given them. Trained on complete pairs
        alone, q(z|x_i) would never have been asked for: so each modality is also encoded without the others.
        """
        if len(examples) != len(self.modalities):
            raise ValueError(f"{len(examples)} batches are given for the modalities {', '.join(self.modalities)}")
        given = self._checked(dict(zip(self.modalities, examples)))
        checks.check_some(examples[0])
        experts = {name: self._expert(name, x) for name, x in given.items()}
        sets = [list(given)] if len(given) == 1 else [list(given), *([name] for name in given)]
        total = 0
        for names in sets:
            terms, kl = self._terms({n: given[n] for n in names}, {n: experts[n] for n in names})
            total = total + kl - sum(self.modalities[name].weight * term for name, term in terms.items())
        return total.mean()

    # -- use

    @torch.no_grad()
    def translate(self, to: str, draws: int = 100, /, **given: Tensor) -> Tensor:
        """E[x_to | what is given], the mean of E[x_to|z] over draws z of q(z|given): for labels (B, K), probabilities.

        translate("label", image=x), translate("image", 1, label=y): with one draw, one of the images that fit.
        """
        checks.check_whole(1, draws=draws)
        self._known([to])
        q = self.posterior(**given)
        means = (self.likelihood(to, q.sample()).mean for _ in range(draws))
        return reduce(torch.add, means) / draws

    # -- what is let in

    def _known(self, names: list[str]) -> None:
        unknown = [name for name in names if name not in self.shapes]
        if unknown:
            raise ValueError(f"there is no modality {unknown[0]!r}; there are: {', '.join(self.shapes)}")

    def _checked(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        self._known(list(given))
        if not given:
            raise ValueError(f"nothing is given: give at least one of {', '.join(self.shapes)}")
        for name, x in given.items():
            self._check_modality(name, x)
        lengths = {name: len(x) for name, x in given.items()}
        if min(lengths.values()) < max(lengths.values()):
            raise ValueError(f"the modalities have {lengths} examples: give as many of each, missing ones as −1 or NaN")
        return given

    def _check_modality(self, name: str, x: Tensor) -> None:
        if self.n_classes[name]:
            n = len(x) if isinstance(x, Tensor) and x.dim() else 1
            checks.check_labels(x, n, self.n_classes[name], least=checks.NO_LABEL)
            return
        checks.check_examples(x, self.shapes[name], self, f"examples of {name!r}")
        checks.soon(_check_whole, filled(x, present(x)).isnan().any(), name)


def _check_whole(torn: Tensor, name: str) -> None:
    if torn:
        raise ValueError(f"an example of {name!r} holds some NaN: all of its numbers are missing, or none is")


# ---- what is missing -----------------------------------------------------------------------------------------------


def present(x: Tensor) -> Tensor:
    """Which examples are there, (B,) bool: not labels −1, and not those all of whose numbers are NaN."""
    return ~x.flatten(1).isnan().all(1) if x.is_floating_point() else x != checks.NO_LABEL


def filled(x: Tensor, there: Tensor) -> Tensor:
    """x with zeros, which networks and likelihoods can take, for the examples that are not there."""
    return x.masked_fill(~there.view(-1, *[1] * (x.dim() - 1)), 0)
