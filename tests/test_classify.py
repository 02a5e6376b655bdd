"""Bayes' rule against enumeration, shifted priors against enumeration, gaps against the marginal of the Gaussian."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from helpers import close
from torch import nn
from torch.distributions import MultivariateNormal
from torch.nn.functional import one_hot

from dgm_lib.models.classify import (
    BayesClassifier,
    ClassGaussians,
    Classifier,
    change_prior,
    class_prior,
    estimate_prior,
    per_class,
)
from dgm_lib.nets import MLP

K, WORDS = 3, 4
PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


@pytest.fixture
def tables():
    """p(x|c), (K, 2^4), of a binary vector x whose bits depend on each other: drawn at random, all of them."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(K, 2**WORDS, generator=generator, dtype=torch.float64).mul(2).softmax(1)


@pytest.fixture
def every_x():
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * WORDS)


def index(x):
    return (x @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)).long()


def look_up(tables):
    return lambda x, y: tables[y, index(x)].log()


def joint(tables, prior):
    """p(x, c) of every x, (2^4, K), by enumeration."""
    return torch.stack([torch.stack([prior[c] * tables[c, i] for c in range(K)]) for i in range(2**WORDS)])


# ---- Bayes' rule ---------------------------------------------------------------------------------------------------


def test_posteriors_and_evidence_are_those_of_the_enumeration(tables, every_x):
    model = BayesClassifier(look_up(tables), K, PRIOR)
    expected = joint(tables, PRIOR)
    close(model(every_x), expected.log(), atol=1e-12, rtol=0)
    close(model.posterior(every_x), expected / expected.sum(1, keepdim=True), atol=1e-12, rtol=0)
    close(model.log_prob(every_x), expected.sum(1).log(), atol=1e-12, rtol=0)
    close(model.log_prob(every_x).exp().sum(), 1.0, atol=1e-12, rtol=0)  # p(x) is a distribution


def test_a_single_precision_posterior_is_exact_to_a_millionth(tables, every_x):
    model = BayesClassifier(look_up(tables.float()), K, PRIOR.float())
    expected = joint(tables, PRIOR)
    close(model.posterior(every_x).double(), expected / expected.sum(1, keepdim=True), atol=1e-6, rtol=0)


def test_without_a_prior_all_classes_are_as_likely(tables, every_x):
    model = BayesClassifier(look_up(tables), K)
    close(model(every_x), joint(tables, torch.full((K,), 1 / 3)).log(), atol=1e-6, rtol=0)


def test_another_prior_needs_no_training_and_leaves_the_first_as_it_was(tables, every_x):
    first, new = BayesClassifier(look_up(tables), K, PRIOR), torch.tensor([0.7, 0.3, 0.0])
    second = first.with_prior(new)
    expected = joint(tables, new.double())
    close(second.posterior(every_x), expected / expected.sum(1, keepdim=True), atol=1e-7, rtol=0)
    assert torch.equal(first.prior, PRIOR)
    assert (second.posterior(every_x)[:, 2] == 0).all()


def test_one_model_a_class_is_called_for_its_own_rows_only(tables, every_x):
    called = []

    def model_of(c):
        return lambda x: called.append((c, len(x))) or tables[c, index(x)].log()

    y = torch.tensor([2, 0, 2, 0, 0, 2] + [2] * 10)
    log_likelihood = per_class([model_of(c) for c in range(K)])
    close(log_likelihood(every_x, y), look_up(tables)(every_x, y))
    assert called == [(0, 3), (2, 13)]


def test_a_module_belongs_to_the_classifier_and_gradients_reach_x():
    class Centres(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Parameter(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))

        def forward(self, x, y):
            return -0.5 * (x - self.mu[y]).square().sum(1)

    model = BayesClassifier(Centres(), 2)
    assert list(model.state_dict()) == ["prior", "log_likelihood.mu"]
    x = torch.tensor([[1.5, 3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[0, 1] - model(x)[0, 0], x)
    close(gradient, [[2.0, 0.0]])  # of log p(x|1) − log p(x|0), which is linear


def test_what_no_class_can_make_has_no_posterior(tables, every_x):
    model = BayesClassifier(lambda x, y: torch.where(x[:, 0] > 0, 0.0, -torch.inf), K)
    with pytest.raises(ValueError, match="example 0 has probability 0"):
        model.posterior(every_x)


def test_a_likelihood_of_another_shape_is_refused(every_x):
    with pytest.raises(ValueError, match=r"the log-likelihood of 16 examples has the shape \(16, 4\)"):
        BayesClassifier(lambda x, y: x, K)(every_x)


# ---- priors --------------------------------------------------------------------------------------------------------


def test_a_changed_prior_is_that_of_the_enumeration_for_any_classifier(tables, every_x):
    new = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    old = joint(tables, PRIOR)
    logits = (old / old.sum(1, keepdim=True)).log() + 7  # as a network gives them: the constant says nothing
    expected = joint(tables, new)
    found = change_prior(logits, PRIOR, new).softmax(1)
    close(found, expected / expected.sum(1, keepdim=True), atol=1e-12, rtol=0)


@pytest.mark.parametrize("truth", [[0.6, 0.3, 0.1], [0.05, 0.05, 0.9]])
def test_an_unknown_prior_is_found_where_the_posteriors_are_exact(truth, tables, every_x):
    """Infinite data: every x counts as often as it is probable, in whole numbers."""
    truth = torch.tensor(truth, dtype=torch.float64)
    times = (joint(tables, truth).sum(1) * 5_000).round().long()
    logits = joint(tables, PRIOR).log().repeat_interleave(times, 0)
    close(estimate_prior(logits, PRIOR, steps=2000, tolerance=1e-9), truth, atol=0.005, rtol=0)
    close(estimate_prior(logits, PRIOR, steps=1), logits.softmax(1).mean(0))  # EM's first step


def test_class_prior_counts_shares():
    close(class_prior(torch.tensor([0, 2, 2, 1]), 3), [0.25, 0.25, 0.5])


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ([0.5, 0.3, 0.1], r"the prior sums to 0\.9: it must sum to 1, so divide it by its sum"),
        ([0.8, 0.5, -0.3], r"the prior of class 2 is -0\.3: a probability must be ≥ 0"),
        ([float("nan"), 0.5, 0.5], "the prior of class 0 is nan"),
        ([0.5, 0.5], r"the prior is torch\.float32 of shape \(2,\): it must be 3 floats"),
        ([1, 0, 0], r"the prior is torch\.int64 of shape \(3,\): it must be 3 floats"),
    ],
)
def test_what_is_no_prior_is_refused_everywhere(prior, message, tables):
    prior, logits = torch.tensor(prior), torch.zeros(2, 3)
    for use in (
        lambda: BayesClassifier(look_up(tables), 3, prior),
        lambda: BayesClassifier(look_up(tables), 3).with_prior(prior),
        lambda: change_prior(logits, prior, torch.full((3,), 1 / 3)),
        lambda: change_prior(logits, torch.full((3,), 1 / 3), prior),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_a_class_never_seen_is_named():
    with pytest.raises(ValueError, match="class 1 has no example among 3 labels"):
        class_prior(torch.tensor([0, 2, 0]), 3)
    with pytest.raises(ValueError, match="class 3 has no example among 3 labels"):
        ClassGaussians.fit(torch.rand(3, 2), torch.tensor([0, 1, 2]), 4)
    with pytest.raises(ValueError, match="the old prior of class 1 is 0"):
        change_prior(torch.zeros(1, 2), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))


def test_labels_of_another_type_or_class_are_refused():
    x, model = torch.rand(3, 2), Classifier(MLP(2, 3), 3)
    gaussians = ClassGaussians(torch.zeros(3, 2), torch.eye(2).repeat(3, 1, 1))
    for use in (
        lambda y: model.loss(x, y),
        lambda y: class_prior(y, 3),
        lambda y: gaussians.log_likelihood(x, y),
        lambda y: per_class([lambda x: x[:, 0]] * 3)(x, y),
        lambda y: ClassGaussians.fit(x, y, 3),
    ):
        with pytest.raises(ValueError, match=r"expected 3 labels of type int64, one an image, got torch\.float32"):
            use(torch.tensor([0.0, 1.0, 2.0]))
        with pytest.raises(ValueError, match="a label is 3, but the 3 classes are 0 … 2"):
            use(torch.tensor([0, 1, 3]))


# ---- a network -----------------------------------------------------------------------------------------------------


def test_loss_is_minus_the_log_posterior_of_the_label_and_smoothing_spreads_it():
    torch.manual_seed(0)
    net, x, y = MLP(4, 3), torch.rand(5, 4), torch.tensor([0, 2, 1, 1, 0])
    posterior = Classifier(net, 3).posterior(x)
    close(Classifier(net, 3).loss(x, y), -posterior.log().gather(1, y[:, None]).mean())
    spread = 0.9 * one_hot(y, 3) + 0.1 / 3
    close(Classifier(net, 3, smoothing=0.1).loss(x, y), -(spread * posterior.log()).sum(1).mean())


def test_networks_and_smoothing_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"the network gives \(4,\) an example: it must end in 3 logits"):
        Classifier(MLP(5, 4), 3)(torch.rand(2, 5))
    for smoothing in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="smoothing is"):
            Classifier(MLP(5, 3), 3, smoothing=smoothing)


# ---- Gaussians -----------------------------------------------------------------------------------------------------


@pytest.fixture
def gaussians():
    """Two slanted Gaussians over five numbers, float64."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(2, 5, 5, generator=generator, dtype=torch.float64)
    mu = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    return ClassGaussians(mu, factor @ factor.mT + 0.1 * torch.eye(5))


def some_x(n, seed=1):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_missing_pixels_are_integrated_out(gaussians, monkeypatch):
    x, y = some_x(40), torch.arange(40) % 2
    known = torch.rand(40, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    known[0], known[1] = True, False
    expected = []
    for x_n, y_n, seen in zip(x, y, known, strict=True):
        mu, covariance = gaussians.mu[y_n][seen], gaussians.covariance[y_n][seen][:, seen]
        expected.append(MultivariateNormal(mu, covariance).log_prob(x_n[seen]) if seen.any() else torch.tensor(0.0))
    x = torch.where(known, x, torch.nan)  # what stands there must not matter
    close(gaussians.log_likelihood(x, y, known), torch.stack(expected), atol=1e-10, rtol=0)
    monkeypatch.setattr("dgm_lib.gaussians.NUMBERS", 3 * 25)  # in parts of three examples
    close(gaussians.log_likelihood(x, y, known), torch.stack(expected), atol=1e-10, rtol=0)


def test_a_known_whole_is_the_density_and_one_mask_serves_all(gaussians):
    x, y = some_x(7), torch.arange(7) % 2
    whole = gaussians.log_likelihood(x, y)
    expected = torch.stack(
        [MultivariateNormal(gaussians.mu[c], gaussians.covariance[c]).log_prob(x_n) for x_n, c in zip(x, y)]
    )
    close(whole, expected, atol=1e-10, rtol=0)
    close(gaussians.log_likelihood(x, y, torch.tensor(True)), whole, atol=1e-10, rtol=0)
    left = torch.tensor([True, True, False, False, False])
    close(gaussians.log_likelihood(x, y, left), gaussians.log_likelihood(x, y, left.expand(7, 5)), atol=1e-12, rtol=0)


def test_gaps_and_bayes_rule_go_together(gaussians):
    """Σ_c p(x_known|c) p(c), by hand, of images with masks of the shape of images."""
    prior = torch.tensor([0.3, 0.7], dtype=torch.float64)
    x, known = some_x(6).view(6, 1, 1, 5), torch.rand(6, 1, 1, 5, generator=torch.Generator().manual_seed(3)) < 0.6
    model = BayesClassifier(partial(gaussians.log_likelihood, known=known), 2, prior)
    by_class = [gaussians.log_likelihood(x, torch.full((6,), c), known) for c in range(2)]
    weighed = torch.stack([p * log_p.exp() for p, log_p in zip(prior, by_class, strict=True)], 1)
    close(model.posterior(x), weighed / weighed.sum(1, keepdim=True), atol=1e-12, rtol=0)


def test_fill_in_is_the_conditional_mean(gaussians):
    x, y = some_x(8), torch.arange(8) % 2
    known = torch.rand(8, 5, generator=torch.Generator().manual_seed(4)) < 0.5
    filled = gaussians.fill_in(torch.where(known, x, torch.nan), y, known)
    for row in range(8):
        seen, mu, covariance = known[row], gaussians.mu[y[row]], gaussians.covariance[y[row]]
        gain = covariance[~seen][:, seen] @ torch.linalg.pinv(covariance[seen][:, seen])
        close(filled[row][seen], x[row][seen])
        close(filled[row][~seen], mu[~seen] + gain @ (x[row][seen] - mu[seen]), atol=1e-9, rtol=0)


def test_fit_shrinks_as_friedman_says():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 3, generator=generator, dtype=torch.float64), torch.arange(30) % 2
    x[y == 1] *= torch.tensor([3.0, 1.0, 0.5])
    x[:2] += 1
    own = torch.stack([torch.cov(x[y == c].T, correction=0) for c in range(2)])
    pooled = own.mean(0)  # as many of each class
    half = 0.75 * own + 0.25 * pooled
    sphere = half.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(3)
    model = ClassGaussians.fit(x, y, 2, shrinkage=0.1, pooling=0.25)
    close(model.covariance, 0.9 * half + 0.1 * sphere, atol=1e-12, rtol=0)
    close(model.mu, torch.stack([x[y == c].mean(0) for c in range(2)]), atol=1e-12, rtol=0)
    assert ClassGaussians.fit(x.float(), y, 2).mu.dtype == torch.float32


def test_samples_have_the_moments_of_their_class(gaussians):
    torch.manual_seed(0)
    x = gaussians.sample(torch.ones(40_000, dtype=torch.long))
    close(x.mean(0), gaussians.mu[1], atol=0.06, rtol=0)
    close(torch.cov(x.T), gaussians.covariance[1], atol=0.2, rtol=0)


def test_gaussians_without_a_density_are_refused(gaussians):
    x, y = torch.arange(4.0)[:, None].repeat(1, 2), torch.tensor([0, 1, 0, 1])  # on a line
    with pytest.raises(ValueError, match="not positive definite, so there is no density: take more shrinkage"):
        ClassGaussians.fit(x, y, 2, shrinkage=0.0)
    for weights in ({"shrinkage": -0.1}, {"pooling": 1.5}):
        with pytest.raises(ValueError, match=r"they must lie in 0 … 1"):
            ClassGaussians.fit(x, y, 2, **weights)
    with pytest.raises(ValueError, match="an example holds 2 numbers, and the Gaussians 5"):
        gaussians.log_likelihood(x.double(), y)
    with pytest.raises(ValueError, match=r"known has the type torch\.float64"):
        gaussians.log_likelihood(some_x(4), y, torch.ones(4, 5).double())


# ---- one feature, one example, no spread ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_features", [1, 2, 5])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int64]
)
def test_gaussians_of_any_width_and_type_are_those_of_float64(n_features, dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 100, (30, n_features), generator=generator), torch.arange(30) % 2
    found, exact = (ClassGaussians.fit(data, y.int(), 2) for data in (x.to(dtype), x.double()))
    eps = torch.finfo(found.mu.dtype).eps
    condition = torch.linalg.cond(exact.covariance).max().item()
    close(found.covariance, exact.covariance, rtol=4 * eps, atol=4 * eps * float(exact.covariance.max()))
    scale = exact.log_likelihood(x.double(), y).abs().max().item() + n_features
    log_p = found.log_likelihood(x.to(dtype), y)
    close(log_p.double(), exact.log_likelihood(x.double(), y), rtol=0, atol=10 * eps * condition * scale)
    known = torch.rand(30, n_features, generator=generator) < 0.5
    close(
        found.log_likelihood(x.double(), y, known).double(),
        exact.log_likelihood(x.double(), y, known),
        rtol=0,
        atol=10 * eps * condition * scale,
    )


@pytest.mark.parametrize("n_features", [1, 4])
@pytest.mark.parametrize("shrinkage", [0.1, 0.9, 1.0])
def test_the_remedy_for_a_class_of_one_example_helps(n_features, shrinkage):
    """0.1 three times has a mean that is a hair beside it: a class of copies is one, too."""
    x = torch.randn(9, n_features, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for y, copies in ((torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2]), 1), (torch.arange(9) // 3, 3)):
        data = torch.where((y == 2)[:, None], 0.1, x)
        message = f"the {copies} examples of class 2 are all alike.* take pooling > 0"
        with pytest.raises(ValueError, match=message) as refused:
            ClassGaussians.fit(data, y, 3, shrinkage=shrinkage)
        assert "more shrinkage" not in str(refused.value)
        assert ClassGaussians.fit(data, y, 3, shrinkage=shrinkage, pooling=0.5).log_likelihood(data, y).isfinite().all()


@pytest.mark.parametrize("pooling", [0.0, 0.5, 1.0])
def test_where_no_class_has_two_examples_nothing_but_more_of_them_helps(pooling):
    with pytest.raises(ValueError, match=r"no class has two examples that differ.* give more examples"):
        ClassGaussians.fit(torch.randn(3, 4), torch.arange(3), 3, pooling=pooling)
    with pytest.raises(ValueError, match="no class has two examples that differ"):
        ClassGaussians.fit(torch.full((6, 2), 0.1), torch.arange(6) % 2, 2, pooling=pooling)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(value, gaussians):
    x, y = some_x(9), torch.arange(9) % 2
    x[3, 1] = value
    for use in (lambda: ClassGaussians.fit(x, y, 2), lambda: gaussians.log_likelihood(x, y)):
        with pytest.raises(ValueError, match=rf"x\[3, 1\] is {value}") as refused:
            use()
        assert "shrinkage" not in str(refused.value)
    known = x.isfinite()
    assert gaussians.log_likelihood(x, y, known).isfinite().all()


def test_masks_that_keep_or_lose_whole_rows(gaussians):
    x, y = some_x(6), torch.arange(6) % 2
    rows = torch.tensor([True, False] * 3)[:, None]
    whole = gaussians.log_likelihood(x, y)
    for known in (rows, rows.expand(6, 5)):
        close(gaussians.log_likelihood(x, y, known), torch.where(rows[:, 0], whole, 0), atol=1e-12, rtol=0)
        close(gaussians.fill_in(x, y, known), torch.where(rows, x, gaussians.mu[y]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_no_examples_have_no_figures(n_classes):
    gaussians = ClassGaussians(torch.zeros(n_classes, 2), torch.eye(2).repeat(n_classes, 1, 1))
    x, y = torch.zeros(0, 2), torch.zeros(0).long()
    assert gaussians.log_likelihood(x, y).shape == (0,)
    assert gaussians.log_likelihood(x, y, torch.zeros(0, 2).bool()).shape == (0,)
    assert gaussians.fill_in(x, y, torch.zeros(0, 2).bool()).shape == gaussians.sample(y).shape == (0, 2)
    model = BayesClassifier(per_class([lambda x: x[:, 0]] * n_classes), n_classes)
    assert model(x).shape == model.posterior(x).shape == (0, n_classes)


# ---- columns, certainty, pickles -----------------------------------------------------------------------------------


def test_columns_of_log_likelihoods_are_one_number_an_example_and_columns_of_labels_are_none():
    x, y = torch.rand(6, 2), torch.arange(6) % 2
    flat, column = (per_class([f, f]) for f in (lambda x: x[:, 0], lambda x: x[:, :1]))
    close(column(x, y), flat(x, y))
    close(BayesClassifier(column, 2)(x), BayesClassifier(flat, 2)(x))
    for wrong in (y[:, None], one_hot(y)):
        for use in (lambda y: flat(x, y), lambda y: class_prior(y, 2), lambda y: ClassGaussians.fit(x, y, 2)):
            with pytest.raises(ValueError, match="label"):
                use(wrong)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_whole_type_are_taken(dtype):
    y = torch.tensor([0, 2, 2, 1]).to(dtype)
    close(class_prior(y, 3), [0.25, 0.25, 0.5])
    assert per_class([lambda x: x[:, 0]] * 3)(torch.rand(4, 1), y).shape == (4,)


def test_certain_and_impossible_classes_count_in_an_unknown_prior():
    logits = torch.tensor([[torch.inf, 0.0], [-torch.inf, 0.0], [-torch.inf, 3.0], [5.0, -torch.inf]])
    close(estimate_prior(logits, torch.tensor([0.5, 0.5])), [0.5, 0.5])
    for wrong in (torch.full((3, 2), torch.nan), torch.zeros(0, 2), torch.zeros(3), torch.full((1, 2), -torch.inf)):
        with pytest.raises(ValueError, match="logits"):
            estimate_prior(wrong, torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"logits have the shape \(3,\)"):
        change_prior(torch.zeros(3), torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]))


def test_an_example_whose_likelihood_is_nan_has_no_posterior():
    with pytest.raises(ValueError, match="the log-probability of example 1 is NaN"):
        BayesClassifier(lambda x, y: torch.where(x[:, 0] > 0, torch.nan, 0.0), 2).posterior(
            torch.tensor([[0.0], [1.0]])
        )


def test_classifiers_can_be_pickled(gaussians):
    x = some_x(4)
    for model in (
        BayesClassifier(gaussians.log_likelihood, 2),
        BayesClassifier(per_class([partial(torch.sum, dim=1), partial(torch.mean, dim=1)]), 2),
        BayesClassifier(gaussians.log_likelihood, 2).with_prior(torch.tensor([0.3, 0.7])),
        Classifier(MLP(5, 3), 3).double(),
    ):
        close(pickle.loads(pickle.dumps(model))(x), model(x))
