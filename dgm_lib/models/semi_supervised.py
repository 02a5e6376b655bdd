"""Learning from few labels and many examples without one: the latents of a VAE as features, and the label as a latent.

M1    z ~ q(z|x) of a VAE that saw all examples; a classifier of z learns from the labels.    Kingma et al. 2014, eq. 1
M2    p(x, y, z) = p(y) p(z) p(x|z, y); where y is not known, it is one more latent with q(y|x).                  eq. 2
M1+M2 an M2 of the latents of an M1.                                                                        section 2.1

log p(x, y) ≥ ELBO(x, y) = E_q(z|x,y)[log p(x|z, y)] − KL(q(z|x, y) ‖ p(z)) + log p(y)                             eq. 6
log p(x)    ≥ Σ_y q(y|x) (ELBO(x, y) − log q(y|x))                                                                 eq. 7
loss          minus the mean of these bounds, + α · mean of −log q(y|x) over the examples with a label             eq. 9

In a batch (x, y) the label −1 means that it is not known. All bounds are in nats an example.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dgm_lib import checks
from dgm_lib.models.vae import VAE, repeated
from dgm_lib.nets import explained, on_trial, one_logit_a_class


class M2(nn.Module):
    """M2(vae, classifier), for a VAE with n_classes = K, whose networks are told the label:

    classifier: q(y|x), a network (B, *shape) -> (B, K) logits.
    prior: p(y), (K,) probabilities > 0, by default all equal.
    alpha: weight in `loss` of the cross-entropy of the labelled examples, beside the mean bound of one example: the α
    of eq. 9 is alpha · N, and the authors' is 0.1 · N. Without it only the unlabelled examples would teach q(y|x).
    Raises ValueError where VAE, classifier and prior do not fit each other.
    """

    def __init__(self, vae: VAE, classifier: nn.Module, prior: Tensor | None = None, *, alpha: float = 0.1):
        super().__init__()
        if vae.n_classes is None:
            raise ValueError("the VAE has no classes: make it with n_classes, and networks that are told the label")
        if vae.beta != 1 or vae.free_bits or vae.draws > 1:
            has = f"the VAE has beta {vae.beta:g}, free_bits {vae.free_bits:g} and draws {vae.draws}"
            raise ValueError(f"{has}, which its own loss knows: this one sums bounds of one draw, take 1, 0 and 1")
        checks.check_weight(alpha=alpha)
        self.vae, self.classifier, self.n_classes, self.alpha = vae, classifier, vae.n_classes, alpha
        self.register_buffer("log_prior", log_class_prior(prior, self.n_classes).to(next(vae.parameters())))
        self._try_classifier()

    def _try_classifier(self) -> None:
        """Runs it once, so that a misfit is said before any training."""
        x = self.log_prior.new_zeros(2, *self.vae.shape)
        takes = f"the classifier does not take the examples {tuple(self.vae.shape)} of the VAE"
        with on_trial(self.classifier), explained(takes):
            one_logit_a_class(self.classifier(x), 2, self.n_classes, "the classifier")

    # -- the model

    def forward(self, x: Tensor) -> Tensor:
        """Logits of q(y|x): (B, *shape) -> (B, K)."""
        checks.check_examples(x, self.vae.shape, self)
        return checks.at_least_float32(self.classifier(x))

    def posterior(self, x: Tensor) -> Tensor:
        """q(y|x), (B, K) probabilities."""
        return self(x).softmax(1)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """(n, *shape): y from p(y) unless (n,) labels are given, then z and x."""
        checks.check_whole(0, n=n)
        if y is None:  # multinomial draws no number less than 1
            y = torch.multinomial(self.log_prior.exp(), max(1, n), replacement=True)[:n]
        return self.vae.sample(n, y)

    # -- bounds

    def joint_elbo(self, x: Tensor, y: Tensor) -> Tensor:
        """An estimate of the bound of log p(x, y) with one draw of z: (B, *shape), (B,) -> (B,) nats."""
        return self.vae.elbo(x, y) + self.log_prior[y]

    def class_elbos(self, x: Tensor) -> Tensor:
        """`joint_elbo` with every label: (B, *shape) -> (B, K) nats.

        All labels share one ε in z = μ + σ ε. Each bound stays unbiased, and their differences, which are all that
        q(y|x) learns from, lose the noise of two draws, which is larger than what a label is worth.
        """
        k, n = self.n_classes, len(x)
        x, y = repeated(x, k), torch.arange(k, device=x.device).repeat_interleave(n)  # (K·B, *shape), (K·B,)
        q = self.vae.posterior(x, y)
        eps = torch.randn_like(q.mean[:n])
        z = q.mean + q.stddev * eps.repeat(k, 1)
        bounds = self.vae.decode(z, y).log_prob(x) - self.vae.kl(q, z) + self.log_prior[y]
        return bounds.view(k, n).mT

    def elbo(self, x: Tensor) -> Tensor:
        """An estimate of the bound of log p(x), with one draw of ε: (B, *shape) -> (B,) nats."""
        return self._sum_classes(x, self(x))

    def _sum_classes(self, x: Tensor, logits: Tensor) -> Tensor:
        """Σ_y q(y|x) (ELBO(x, y) − log q(y|x)), (B,): the label is summed over and not drawn, which has no noise."""
        log_q = logits.log_softmax(1)
        return (log_q.exp() * (self.class_elbos(x) - log_q)).sum(1)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean of minus the bounds over the batch, + alpha · mean cross-entropy over its labelled examples.

        y: (B,) labels, −1 where there is none; without y no example has one.
        """
        checks.check_batch(x, self.vae.shape, self)
        y = torch.full((len(x),), checks.NO_LABEL, device=x.device) if y is None else y
        checks.check_labels(y, len(x), self.n_classes, least=checks.NO_LABEL)
        there, missing = (y != checks.NO_LABEL).nonzero()[:, 0], (y == checks.NO_LABEL).nonzero()[:, 0]
        logits = self(x)  # of all together, so that a batch norm sees one batch
        loss = logits.new_zeros(())
        if len(there):
            loss = loss - self.joint_elbo(x[there], y[there]).sum() / len(x)
            loss = loss + self.alpha * cross_entropy(logits[there], y[there])
        if len(missing):
            loss = loss - self._sum_classes(x[missing], logits[missing]).sum() / len(x)
        return loss


class OnLatents(nn.Module):
    """A model of the latents of a VAE that is trained already, as a model of examples. The VAE stays as it is.

    OnLatents(vae, Classifier(MLP(D, 128, K), K)) is M1, OnLatents(vae, M2(…)) with an M2 of vectors (D,) is M1+M2.
    vae: one without classes. model: maps (B, D) to logits (B, K), and has loss(z, y).
    Training sees draws of q(z|x), which is how Kingma et al. 2014 pass on what q does not know; `forward` the mean.
    Raises ValueError where the model does not take the VAE's latents.
    """

    def __init__(self, vae: VAE, model: nn.Module):
        super().__init__()
        if vae.n_classes is not None:
            raise ValueError(f"the VAE is told one of {vae.n_classes} classes: its latents need one without")
        self.vae, self.model = vae.requires_grad_(False), model
        parameter = next(vae.parameters())
        with torch.no_grad(), explained(f"the model does not take the {vae.prior.n_latents} latents of the VAE"):
            model.eval()(parameter.new_zeros(2, vae.prior.n_latents))
        self.train()

    def train(self, mode: bool = True) -> OnLatents:
        """As any module's, but the VAE is never in training mode: it makes features, and no noise of dropout."""
        super().train(mode)
        self.vae.eval()
        return self

    @torch.no_grad()
    def latents(self, x: Tensor) -> Tensor:
        """The mean of q(z|x): (B, *shape) -> (B, D)."""
        return self.vae.posterior(x).mean

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, K)."""
        return self.model(self.latents(x))

    def posterior(self, x: Tensor) -> Tensor:
        """Probabilities of the classes, (B, K)."""
        return self(x).softmax(1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """That of the model, at draws z of q(z|x)."""
        with torch.no_grad():
            z = self.vae.posterior(x).sample()
        return self.model.loss(z, y)


# ---- what is let in ------------------------------------------------------------------------------------------------


def log_class_prior(prior: Tensor | None, n_classes: int) -> Tensor:
    """log p(y), (K,). Raises ValueError unless the prior is a distribution in which each class can happen."""
    if prior is None:
        return torch.full((n_classes,), -math.log(n_classes))
    checks.check_prior(prior, n_classes)
    if not prior.all():
        raise ValueError(f"the prior of class {int(prior.argmin())} is 0: a class that never happens has no bound")
    return prior.log()
