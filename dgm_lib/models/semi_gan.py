"""Semi-supervised GAN: the critic is the classifier, and what it learns from examples without a label is that they are.

With K logits f(x) read as negative energies, as in `joint_energy`, Z(x) = Σ_c exp f(x)[c], and

p(data|x) = Z(x) / (Z(x) + 1),   p(y|x) = exp(f(x)[y]) / Z(x)          Salimans et al. 2016, section 5

"Made" is one more class, of logit 0: K + 1 logits of a softmax say no more, as one of them can be taken off all. So
log Z(x) is the critic's logit for data, D of `gan`, and with softplus(a) = log(1 + exp a) the critic lowers

            mean over labelled x of    −log p(y|x)
+ weight  · mean over unlabelled x of  −log p(data|x) = softplus(log Z(x)) − log Z(x) = softplus(−log Z(x))
+ weight  · mean over made x̃ of        −log(1 − p(data|x̃)) = softplus(log Z(x̃))
+ entropy · mean over unlabelled x of  H(p(y|x)), in nats as all of them                as in Dai et al. 2017

The generator lowers ‖E_x φ(x) − E_z φ(G(z))‖² / F, with F features φ of the critic    Salimans et al. 2016, section 3.1
In a batch (x, y) the label −1 means that it is not known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from dgm_lib import checks
from dgm_lib.nets import explained, frozen, on_trial, one_logit_a_class


class SemiGAN(nn.Module):
    """SemiGAN(generator, body, head, StandardNormal(D), K):

    generator: (B, D) -> (B, *shape), in the range of the data, so for pixels with a sigmoid at the end.
    body: φ, (B, *shape) -> (B, F) features. head: (B, F) -> (B, K) logits. The classifier is head(body(x)).
    prior: what z is drawn from; it has n_latents = D and sample(n).
    weight: of the two terms that tell data from what was made. entropy: weight of the entropy of p(y|x); it hardens
    what the critic says already, so train on the labels alone first.
    It is trained with one `Objective` of critic_loss, whose optimizer has the parameters of body and head, and one of
    generator_loss. Noise in the body, as of dropout, is what keeps it from learning few labels by heart.
    Raises ValueError where the networks do not fit each other.
    """

    def __init__(
        self,
        generator: nn.Module,
        body: nn.Module,
        head: nn.Module,
        prior: nn.Module,
        n_classes: int,
        *,
        weight: float = 1.0,
        entropy: float = 0.0,
    ):
        super().__init__()
        checks.check_weight(weight=weight, entropy=entropy)
        checks.check_whole(1, n_classes=n_classes)
        self.generator, self.body, self.head, self.prior = generator, body, head, prior
        self.n_classes, self.weight, self.entropy = n_classes, weight, entropy
        self._try_networks()

    def _try_networks(self) -> None:
        """Runs them once, so that a misfit is said before any training; notes the shape of an example."""
        z = next(self.parameters()).new_zeros(2, self.prior.n_latents)
        with on_trial(self):
            with explained(f"the generator does not take the {self.prior.n_latents} latents of the prior"):
                x = self.generator(z)
                self.shape = x.shape[1:]
            with explained(f"body and head do not take the examples {tuple(self.shape)} that the generator makes"):
                one_logit_a_class(self.head(self.body(x)), 2, self.n_classes, "the head")

    def forward(self, x: Tensor) -> Tensor:
        """Logits f(x): (B, *shape) -> (B, K)."""
        checks.check_examples(x, self.shape, self)
        return checks.at_least_float32(self.head(self.body(x)))

    def posterior(self, x: Tensor) -> Tensor:
        """p(y|x), (B, K) probabilities."""
        return self(x).softmax(1)

    def critic_values(self, x: Tensor) -> Tensor:
        """log Z(x), the logit of p(data|x) and minus an energy: (B, *shape) -> (B,) nats."""
        return self(x).logsumexp(1)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, *shape)."""
        return self.generator(self.prior.sample(n))

    def critic_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of the module's docstring, with as many made examples as x has unlabelled ones: a scalar in nats.

        All pass the critic in one call, so it must look at each alone: no batch norm in it.
        """
        checks.check_batch(x, self.shape, self)
        checks.check_inside(x)
        there, missing = split_labels(y, len(x), self.n_classes)
        logits = self(torch.cat([x[there], x[missing], self.sample(len(missing))]))
        labelled, unlabelled, made = logits.split([len(there), len(missing), len(missing)])
        log_p = unlabelled.log_softmax(1)
        told_apart = softplus(-unlabelled.logsumexp(1)).mean() + softplus(made.logsumexp(1)).mean()
        loss = self.weight * told_apart - self.entropy * (log_p.exp() * log_p).sum(1).mean()
        return loss + cross_entropy(labelled, y[there]) if len(there) else loss

    def generator_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """‖mean φ(x) − mean φ(x̃)‖² / F over unlabelled data and as many made examples: a scalar. φ gets no gradient."""
        checks.check_batch(x, self.shape, self)
        _, missing = split_labels(y, len(x), self.n_classes)
        made = self.generator(self.prior.sample(len(missing)))
        with frozen(self.body):
            with torch.no_grad():
                wanted = checks.at_least_float32(self.body(x[missing])).mean(0)  # (F,)
            return (checks.at_least_float32(self.body(made)).mean(0) - wanted).square().mean()


def split_labels(y: Tensor, n: int, n_classes: int) -> tuple[Tensor, Tensor]:
    """Rows with a label, and rows without one: as many indices as there are of each, of the latter at least one."""
    checks.check_labels(y, n, n_classes, least=checks.NO_LABEL)
    there, missing = (y != checks.NO_LABEL).nonzero()[:, 0], (y == checks.NO_LABEL).nonzero()[:, 0]
    if not len(missing):
        raise ValueError("all examples of the batch have a label: mix in some whose label is −1, which the GAN is for")
    return there, missing
