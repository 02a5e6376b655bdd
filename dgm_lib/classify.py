"""Two roads to p(y|x): a network that gives it directly, and Bayes' rule on a generative model of each class.

p(c|x) = p(x|c) p(c) / p(x),   p(x) = Σ_c p(x|c) p(c)

A bound of log p(x|c) stands for it where nothing exact is known. What is called logits here is (B, K) nats, a number
for each class whose softmax is p(c|x). Labels are int64, 0 … K−1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dgm_lib.checks import at_least_float32, check_known, check_labels, check_possible, check_prior
from dgm_lib.nets import explained, one_number

LogLikelihood = Callable[[Tensor, Tensor], Tensor]
NUMBERS = 2**24  # of the covariances that are factorised together where each example has gaps of its own: 64 MB


# ---- a network -----------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """p(y|x) = softmax(net(x)). net: (B, …) -> (B, K) logits, such as ConvEncoder(shape, K).

    smoothing: the share of each label that `loss` spreads over all classes. Szegedy et al. 2016, section 7.
    """

    def __init__(self, net: nn.Module, n_classes: int, *, smoothing: float = 0.0):
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing:g}: it must be ≥ 0 and below 1, where no label would be left")
        self.net, self.n_classes, self.smoothing = net, n_classes, smoothing

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, K)."""
        logits = at_least_float32(self.net(x))
        if logits.shape != (len(x), self.n_classes):
            raise ValueError(
                f"the network gives {tuple(logits.shape)} for {len(x)} examples of {self.n_classes} classes: it must "
                f"end in {self.n_classes} numbers, one logit a class"
            )
        return logits

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean of −log p(y|x), in nats."""
        check_labels(y, len(x), self.n_classes)
        return cross_entropy(self(x), y, label_smoothing=self.smoothing)

    def posterior(self, x: Tensor) -> Tensor:
        """p(y|x): (B, K)."""
        return self(x).softmax(1)


# ---- Bayes' rule ---------------------------------------------------------------------------------------------------


class BayesClassifier(nn.Module):
    """p(c|x) ∝ p(x|c) p(c), of any generative model.

    log_likelihood: log p(x|y) or a bound of it, (B, …), (B,) -> (B,) nats: a conditional VAE's `elbo`, `per_class(…)`
    of a model for each class, `ClassGaussians`' log_likelihood. With a bound the posterior is not exact, and a class
    whose bound is looser loses. A module is moved and saved with the classifier, the method of one is not.
    prior: p(c), (K,), at most 1e-4 from the sum 1; even if none is given.
    """

    def __init__(self, log_likelihood: LogLikelihood | nn.Module, n_classes: int, prior: Tensor | None = None):
        super().__init__()
        if prior is None:
            prior = torch.full((n_classes,), 1 / n_classes)
        check_prior(prior, n_classes)
        self.log_likelihood, self.n_classes = log_likelihood, n_classes
        self.register_buffer("prior", prior)

    def forward(self, x: Tensor) -> Tensor:
        """log p(x|c) + log p(c) = log p(x, c): (B, K) nats, to be used as logits."""
        return torch.stack([self._log_likelihood(x, c) for c in range(self.n_classes)], 1) + self.prior.log()

    def _log_likelihood(self, x: Tensor, c: int) -> Tensor:
        y = torch.full((len(x),), c, dtype=torch.int64, device=x.device)
        return one_number(self.log_likelihood(x, y), len(x), "the log-likelihood")

    def posterior(self, x: Tensor) -> Tensor:
        """p(c|x): (B, K). Raises ValueError for an example that no class can make."""
        logits = self(x)
        check_possible(logits.logsumexp(1))
        return logits.softmax(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log Σ_c p(x|c) p(c), or a bound of it: (B, …) -> (B,) nats."""
        return self(x).logsumexp(1)

    def with_prior(self, prior: Tensor) -> BayesClassifier:
        """The same likelihoods with another p(c): nothing is trained anew."""
        check_prior(prior, self.n_classes)
        return BayesClassifier(self.log_likelihood, self.n_classes, prior.to(self.prior))


def per_class(log_probs: Sequence[Callable[[Tensor], Tensor]]) -> LogLikelihood:
    """log p(x|y) of one model a class: class c has log_probs[c], (B, …) -> (B,) nats."""

    def log_likelihood(x: Tensor, y: Tensor) -> Tensor:
        check_labels(y, len(x), len(log_probs))
        return by_class(y, lambda c, rows: log_probs[c](x[rows]))

    return log_likelihood


def by_class(y: Tensor, values: Callable[[int, Tensor], Tensor]) -> Tensor:
    """values(c, rows), one a row, for the rows of each class c that occurs among labels (B,), put in order: (B,)."""
    classes = y.unique().tolist()
    rows = [(y == c).nonzero().squeeze(1) for c in classes]
    found = torch.cat([values(c, rows_of_c) for c, rows_of_c in zip(classes, rows, strict=True)])
    return found[torch.cat(rows).argsort()]


# ---- priors --------------------------------------------------------------------------------------------------------


def class_prior(y: Tensor, n_classes: int) -> Tensor:
    """p(c) as the share of each class among labels (N,): (K,). Raises ValueError for a class that was never seen."""
    check_labels(y, len(y), n_classes)
    counts = torch.bincount(y, minlength=n_classes)
    never = (counts == 0).nonzero()
    if len(never):
        raise ValueError(
            f"class {int(never[0])} has no example among {len(y)} labels: a share of 0 would rule it out for ever; "
            "give examples of it, fewer classes, or a prior of your own"
        )
    return counts.to(torch.get_default_dtype()) / len(y)


def change_prior(logits: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Logits of any classifier that learnt under the prior `old`, as they are under `new`: log p(c|x) + log new/old.

    Exact where only p(c) differs and p(x|c) does not. Saerens, Latinne & Decaestecker 2002, eq. 2.4.
    logits: (B, K); old, new: (K,), old without a zero.
    """
    check_prior(old, logits.shape[1])
    check_prior(new, logits.shape[1])
    ruled_out = (old == 0).nonzero()
    if len(ruled_out):
        raise ValueError(
            f"the old prior of class {int(ruled_out[0])} is 0: a classifier that ruled it out says nothing of it; "
            "give the prior that it was trained with"
        )
    return logits + (new.log() - old.log()).to(logits)


def estimate_prior(logits: Tensor, old: Tensor, *, steps: int = 1000, tolerance: float = 1e-6) -> Tensor:
    """The likeliest p(c) of unlabelled examples, by EM: (N, K) logits under the prior `old` -> (K,).

    It trusts the logits to be calibrated. Stops once no share moves by more than `tolerance`. Saerens et al. 2002,
    eq. 2.9.
    """
    prior = old.to(logits)
    for _ in range(steps):
        before, prior = prior, change_prior(logits, old, prior).softmax(1).mean(0)
        if (prior - before).abs().max() <= tolerance:
            break
    return prior


# ---- a Gaussian for each class -------------------------------------------------------------------------------------


class ClassGaussians(nn.Module):
    """p(x|c) = N(μ_c, Σ_c), for examples (B, …) of D numbers, with log p exact, of all of x or of what is known of it.

    mu: (K, D). covariance: (K, D, D), positive definite.
    """

    def __init__(self, mu: Tensor, covariance: Tensor):
        super().__init__()
        with explained("a covariance is not positive definite, so there is no density: take more shrinkage"):
            scale_tril = torch.linalg.cholesky(covariance)
        self.register_buffer("mu", mu)
        self.register_buffer("covariance", covariance)
        self.register_buffer("scale_tril", scale_tril)

    @classmethod
    def fit(
        cls, x: Tensor, y: Tensor, n_classes: int, *, shrinkage: float = 0.1, pooling: float = 0.0
    ) -> ClassGaussians:
        """The mean of each class, and its covariance, drawn towards that of all classes and towards a sphere.

        pooling: weight of the covariance within classes, the same for all; 1 is linear discriminant analysis.
        shrinkage: weight of a multiple of I with the same trace. Friedman 1989, eq. 16–18. Choose both on validation
        data. Raises ValueError for a class never seen, and for weights outside of 0 … 1.
        """
        if not (0 <= shrinkage <= 1 and 0 <= pooling <= 1):
            raise ValueError(f"shrinkage is {shrinkage:g} and pooling {pooling:g}: they must lie in 0 … 1")
        points = at_least_float32(x).flatten(1).double()
        prior = class_prior(y, n_classes).to(points)
        mu = torch.stack([points[y == c].mean(0) for c in range(n_classes)])
        covariance = torch.stack([torch.cov(points[y == c].mT, correction=0) for c in range(n_classes)])
        pooled = torch.einsum("k,kij->ij", prior, covariance)
        covariance = (1 - pooling) * covariance + pooling * pooled
        variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        sphere = variance * torch.eye(points.shape[1]).to(points)
        dtype = at_least_float32(x).dtype
        return cls(mu.to(dtype), ((1 - shrinkage) * covariance + shrinkage * sphere).to(dtype))

    def log_likelihood(self, x: Tensor, y: Tensor, known: Tensor | None = None) -> Tensor:
        """log p(x|y), or log p(x_known|y), the rest integrated out: (B, …), (B,) -> (B,) nats.

        known: bool, True where x is known, broadcast against x; what x holds elsewhere does not matter.
        """
        check_labels(y, len(x), len(self.mu))
        mask = None if known is None else check_known(known, x).flatten(1)
        points = x.flatten(1)
        if points.shape[1] != self.mu.shape[1]:
            raise ValueError(f"an example holds {points.shape[1]} numbers, and the Gaussians {self.mu.shape[1]}")
        return by_class(y, lambda c, rows: self._of_class(c, points[rows], None if mask is None else mask[rows]))

    def _of_class(self, c: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """log p(x|c), or of what the mask leaves of x: (n, D) -> (n,)."""
        if mask is None:
            return log_normal(x - self.mu[c], self.scale_tril[c], x.shape[1])
        part = max(1, NUMBERS // x.shape[1] ** 2)
        pairs = zip(x.split(part), mask.split(part), strict=True)
        return torch.cat([self._of_known(c, some, known) for some, known in pairs])

    def _of_known(self, c: int, x: Tensor, known: Tensor) -> Tensor:
        """In the row and column of an unknown entry Σ becomes I: the others keep their density. Bishop 2006, 2.98."""
        both = known[:, :, None] & known[:, None]  # (n, D, D)
        apart = torch.where(both, self.covariance[c], torch.eye(x.shape[1]).to(self.covariance))
        centred = torch.where(known, x - self.mu[c], 0)
        return log_normal(centred, torch.linalg.cholesky(apart), known.sum(1).to(x))

    @torch.no_grad()
    def fill_in(self, x: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """E[x | the known entries, y]: (B, …), (B,) -> (B, …), known entries as in x. Bishop 2006, 2.81."""
        check_labels(y, len(x), len(self.mu))
        mask = check_known(known, x).flatten(1)
        covariance, mu = self.covariance[y], self.mu[y]
        apart = torch.where(mask[:, :, None] & mask[:, None], covariance, torch.eye(mu.shape[1]).to(mu))
        centred = torch.where(mask, x.flatten(1) - mu, 0)
        solved = torch.where(mask, torch.linalg.solve(apart, centred), 0)  # Σ⁻¹(x − μ) over the known entries
        mean = mu + torch.einsum("bij,bj->bi", covariance, solved)
        return torch.where(known, x, mean.view_as(x))

    @torch.no_grad()
    def sample(self, y: Tensor) -> Tensor:
        """(B, D), an example of each label (B,)."""
        check_labels(y, len(y), len(self.mu))
        eps = torch.randn(len(y), self.mu.shape[1], 1).to(self.mu)
        return self.mu[y] + (self.scale_tril[y] @ eps).squeeze(-1)


def log_normal(centred: Tensor, scale_tril: Tensor, n: int | Tensor) -> Tensor:
    """log N(x; μ, LLᵀ) over n of the entries of x − μ, (B, D), the others of which are 0 beside an identity: (B,)."""
    if scale_tril.dim() == 2:  # one for all
        solved = torch.linalg.solve_triangular(scale_tril, centred.mT, upper=False).mT
    else:
        solved = torch.linalg.solve_triangular(scale_tril, centred[..., None], upper=False).squeeze(-1)
    log_det = 2 * scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (solved.square().sum(1) + log_det + n * math.log(2 * math.pi))
