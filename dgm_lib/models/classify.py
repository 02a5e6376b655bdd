"""Two roads to p(y|x): a network that gives it directly, and Bayes' rule on a generative model of each class.

p(c|x) = p(x|c) p(c) / p(x),   p(x) = Σ_c p(x|c) p(c)

A bound of log p(x|c) stands for it where nothing exact is known. What is called logits here is (B, K) nats, a number
for each class whose softmax is p(c|x). Labels are int64, 0 … K−1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dgm_lib import checks
from dgm_lib.distributions import posterior_of
from dgm_lib.gaussians import covariance_of, log_normal, of_known
from dgm_lib.nets import explained, one_logit_a_class, one_number

LogLikelihood = Callable[[Tensor, Tensor], Tensor]


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
        return one_logit_a_class(checks.at_least_float32(self.net(x)), len(x), self.n_classes, "the network")

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean of −log p(y|x), in nats."""
        checks.check_labels(y, len(x), self.n_classes)
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
        checks.check_whole(1, n_classes=n_classes)
        if prior is None:
            prior = torch.full((n_classes,), 1 / n_classes)
        checks.check_prior(prior, n_classes)
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
        return posterior_of(self(x))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log Σ_c p(x|c) p(c), or a bound of it: (B, …) -> (B,) nats."""
        return self(x).logsumexp(1)

    def with_prior(self, prior: Tensor) -> BayesClassifier:
        """The same likelihoods with another p(c): nothing is trained anew."""
        checks.check_prior(prior, self.n_classes)
        return BayesClassifier(self.log_likelihood, self.n_classes, prior.to(self.prior))


def per_class(log_probs: Sequence[Callable[[Tensor], Tensor]]) -> LogLikelihood:
    """log p(x|y) of one model a class: class c has log_probs[c], (B, …) -> (B,) nats."""
    return partial(_one_model_a_class, tuple(log_probs))  # unlike a function made here, it can be pickled


def _one_model_a_class(log_probs: Sequence[Callable[[Tensor], Tensor]], x: Tensor, y: Tensor) -> Tensor:
    y = checks.as_labels(y, len(x), len(log_probs))
    return by_class(y, lambda c, rows: log_probs[c](x[rows]))


def by_class(y: Tensor, values: Callable[[int, Tensor], Tensor]) -> Tensor:
    """values(c, rows), one a row, for the rows of each class c that occurs among labels (B,), put in order: (B,)."""
    classes = y.unique().tolist() or [0]  # of no example, class 0 says the type
    rows = [(y == c).nonzero().squeeze(1) for c in classes]
    found = [values(c, rows_of_c) for c, rows_of_c in zip(classes, rows, strict=True)]
    found = torch.cat([one_number(f, len(r), "the log-likelihood") for f, r in zip(found, rows, strict=True)])
    return found[torch.cat(rows).argsort()]


# ---- priors --------------------------------------------------------------------------------------------------------


def class_prior(y: Tensor, n_classes: int) -> Tensor:
    """p(c) as the share of each class among labels (N,): (K,). Raises ValueError for a class that was never seen."""
    return checks.class_counts(y, n_classes).to(torch.get_default_dtype()) / len(y)  # 0 would rule it out for ever


def change_prior(logits: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Logits of any classifier that learnt under the prior `old`, as they are under `new`: log p(c|x) + log new/old.

    Exact where only p(c) differs and p(x|c) does not. Saerens, Latinne & Decaestecker 2002, eq. 2.4.
    logits: (B, K); old, new: (K,), old without a zero.
    """
    if logits.dim() != 2:
        raise ValueError(f"logits have the shape {tuple(logits.shape)}: they must be (B, K), one a class")
    checks.check_prior(old, logits.shape[1])
    checks.check_prior(new, logits.shape[1])
    if not old.all():
        c = int(old.argmin())
        raise ValueError(f"the old prior of class {c} is 0, so nothing is said of it: give that of the training")
    return logits + (new.log() - old.log()).to(logits)


def estimate_prior(logits: Tensor, old: Tensor, *, steps: int = 1000, tolerance: float = 1e-6) -> Tensor:
    """The likeliest p(c) of unlabelled examples, by EM: (N, K) logits under the prior `old` -> (K,).

    It trusts the logits to be calibrated, and stops once no share moves by more than `tolerance`. Ibid., eq. 2.9.
    """
    logits = checks.finite_above(logits)
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
        x = checks.as_rows(x, "x")
        checks.check_finite(x)
        points, y = checks.as_double(x), checks.as_labels(y, len(x), n_classes)
        prior = checks.class_counts(y, n_classes).to(points) / len(y)
        of_class = [points[y.to(points.device) == c] for c in range(n_classes)]
        covariance = torch.stack([covariance_of(members) for members in of_class])
        pooled = torch.einsum("k,kij->ij", prior, covariance)
        check_spread(of_class, pooling)
        covariance = (1 - pooling) * covariance + pooling * pooled
        variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        sphere = variance * torch.eye(points.shape[1]).to(points)
        mu = torch.stack([members.mean(0) for members in of_class])
        return cls(mu.to(x), ((1 - shrinkage) * covariance + shrinkage * sphere).to(x))

    def log_likelihood(self, x: Tensor, y: Tensor, known: Tensor | None = None) -> Tensor:
        """log p(x|y), or log p(x_known|y), the rest integrated out: (B, …), (B,) -> (B,) nats.

        known: bool, True where x is known, broadcast against x; what x holds elsewhere does not matter.
        """
        y, points, mask = self._points(x, y, known)
        if known is None:
            return by_class(y, lambda c, rows: log_normal(points[rows] - self.mu[c], self.scale_tril[c]))
        return by_class(y, lambda c, rows: self._of_known(c, points[rows], mask[rows])[0])

    def _of_known(self, c: int, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return of_known(points, mask, self.mu[c], self.covariance[c])

    def _points(self, x: Tensor, y: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (B,), x as (B, D) in the Gaussians' type, 0 where it is not known, and where it is, (B, D)."""
        y = checks.as_labels(y, len(x), len(self.mu))
        mask = torch.ones_like(x, dtype=torch.bool) if known is None else checks.check_known(known, x)
        points = checks.as_rows(torch.where(mask, x, 0), "x").to(self.mu.dtype)
        if points.shape[1] != self.mu.shape[1]:
            raise ValueError(f"an example holds {points.shape[1]} numbers, and the Gaussians {self.mu.shape[1]}")
        checks.check_finite(points)
        return y, points, mask.reshape(points.shape)

    @torch.no_grad()
    def fill_in(self, x: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """E[x | the known entries, y]: (B, …), (B,) -> (B, …), known entries as in x. Bishop 2006, 2.81."""
        y, points, mask = self._points(x, y, known)
        mean = torch.empty_like(points)
        for c in y.unique().tolist():
            mean[y == c] = self._of_known(c, points[y == c], mask[y == c])[1]
        return torch.where(known, x, mean.view_as(x))

    @torch.no_grad()
    def sample(self, y: Tensor) -> Tensor:
        """(B, D), an example of each label (B,)."""
        y = checks.as_labels(y, len(y), len(self.mu))
        eps = torch.randn(len(y), self.mu.shape[1], 1).to(self.mu)
        return self.mu[y] + (self.scale_tril[y] @ eps).squeeze(-1)


def check_spread(of_class: Sequence[Tensor], pooling: float) -> None:
    """Raises ValueError where the covariance of a class is 0: its sphere, too, has then the radius 0."""
    alike = [bool((members == members[0]).all()) for members in of_class]
    if all(alike):
        raise ValueError("no class has two examples that differ, so there is no covariance: give more examples")
    if pooling == 0 and any(alike):
        c = alike.index(True)
        what = f"the {len(of_class[c])} examples of class {c}"
        raise ValueError(f"{what} are all alike, so its covariance is 0: take pooling > 0, or give more examples")


# ---- from a large network to a small one ---------------------------------------------------------------------------


def distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² KL(p_T ‖ q_T), p_T and q_T the softmax of the teacher's and of the student's logits / T: (B, K) -> (B,) nats.

    T² keeps the gradient, T (q_T − p_T), of one size for every T: for a large T it is the difference of the centred
    logits over K. The teacher is not learnt. Hinton, Vinyals & Dean 2015, section 2.
    """
    checks.check_positive(temperature=temperature)
    if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
        said = f"the student's logits are {tuple(student_logits.shape)}, the teacher's {tuple(teacher_logits.shape)}"
        raise ValueError(f"{said}: they must speak of the same examples and classes")
    teacher = (teacher_logits.detach() / temperature).log_softmax(1)
    student = (student_logits / temperature).log_softmax(1)
    p = teacher.exp()
    return temperature**2 * torch.where(p > 0, p * (teacher - student), 0).sum(1)  # 0 log 0 = 0
