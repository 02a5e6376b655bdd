"""Mixtures: densities by integration and enumeration, gaps by conditioning, EM against scikit-learn and the gradient;
and what holds of probabilistic PCA as well.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from helpers import close, conditioned, descend, slanted_vectors, some_known
from torch.distributions import MultivariateNormal

from dgm_lib import datasets
from dgm_lib.models.baselines import IndependentPixels, NaiveBayes
from dgm_lib.models.em import em
from dgm_lib.models.mixtures import (
    CategoricalMixture,
    GaussianMixture,
    diagonal,
    first_responsibilities,
    full,
    spherical,
    spread_centres,
)
from dgm_lib.models.ppca import PPCA

FORMS = {"full": full, "diag": diagonal, "spherical": spherical}


every_form = pytest.mark.parametrize("form", FORMS)
D, M = 5, 2


@pytest.fixture(scope="module")
def vectors():
    return slanted_vectors()


@pytest.fixture(scope="module")
def points():
    """300 points around three centres, of different sizes and slants, float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    x[:100] = x[:100] @ torch.tensor([[1.0, 0.8], [0.0, 0.3]], dtype=torch.float64)
    x[100:180] = 0.4 * x[100:180] + torch.tensor([3.0, 0.0])
    x[180:] = x[180:] * torch.tensor([0.3, 1.0]) + torch.tensor([0.0, 4.0])
    return x


def example_mixture():
    model = GaussianMixture(2, 2).double()
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    mu = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    covariance = torch.tensor([[[1.0, 0.6], [0.6, 0.5]], [[0.2, 0.0], [0.0, 0.7]]])
    model.set_parameters(weights, mu, covariance)
    return model


# ---- mixture of Gaussians: the density -----------------------------------------------------------------------------


def test_density_integrates_to_1_and_gives_the_moments():
    side = torch.linspace(-8, 10, 601, dtype=torch.float64)
    x, cell = torch.cartesian_prod(side, side), (side[1] - side[0]) ** 2
    model = example_mixture()
    p = model.log_prob(x).exp() * cell
    mean = 0.3 * model.mu[0] + 0.7 * model.mu[1]
    close(p.sum(), 1.0, atol=1e-9, rtol=0)
    close(p @ x, mean, atol=1e-9, rtol=0)
    spread = model.mu - mean
    covariance = torch.einsum("k,kij->ij", torch.tensor([0.3, 0.7]).double(), model.covariance())
    covariance = covariance + 0.3 * spread[0].outer(spread[0]) + 0.7 * spread[1].outer(spread[1])
    close((p[:, None] * (x - mean)).mT @ (x - mean), covariance.detach(), atol=1e-6, rtol=0)


def test_posterior_is_bayes_rule(points):
    model = example_mixture()
    covariance = model.covariance()
    joint = [w * MultivariateNormal(model.mu[k], covariance[k]).log_prob(points).exp() for k, w in ((0, 0.3), (1, 0.7))]
    close(model.log_prob(points).exp(), sum(joint))
    close(model.posterior(points), torch.stack(joint, 1) / sum(joint)[:, None])
    close(model.loss(points), -sum(joint).log().mean())


def test_samples_have_the_moments_of_the_mixture():
    torch.manual_seed(0)
    model, n = example_mixture(), 50_000
    x = model.sample(n)
    assert x.shape == (n, 2)
    assert x.dtype == torch.float64
    first = model.posterior(x)[:, 0]
    assert abs(first.mean() - 0.3) < 5 * (0.21 / n) ** 0.5
    for moment in (lambda x: x, lambda x: x**2, lambda x: x[:, :1] * x[:, 1:]):
        side = torch.linspace(-8, 10, 301, dtype=torch.float64)
        grid, cell = torch.cartesian_prod(side, side), (side[1] - side[0]) ** 2
        expected = (model.log_prob(grid).exp() * cell) @ moment(grid)
        assert ((moment(x).mean(0) - expected).abs() < 5 * moment(x).std(0) / n**0.5 + 1e-6).all()


@every_form
def test_covariances_keep_their_form_whatever_the_parameters(form):
    torch.manual_seed(0)
    model = GaussianMixture(3, 4, form=FORMS[form]).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=2)
    covariance = model.covariance().detach()
    assert (torch.linalg.eigvalsh(covariance) > 0).all()
    free = (covariance.abs() > 1e-12).sum((1, 2)).tolist()
    assert free == [16 if form == "full" else 4] * 3
    if form == "spherical":
        close(covariance, covariance[:, :1, :1] * torch.eye(4))


# ---- mixture of Gaussians: EM --------------------------------------------------------------------------------------


def precisions(covariance, form):
    inverse = torch.linalg.inv(covariance)
    variances = inverse.diagonal(dim1=1, dim2=2)
    return {"full": inverse, "diag": variances, "spherical": variances[:, 0]}[form].numpy()


@every_form
def test_em_takes_the_steps_of_scikit_learn(form, points):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as Reference

    model = GaussianMixture.start(points, 3, form=FORMS[form], seed=1)
    start = {
        "weights_init": model.logits.detach().softmax(0).numpy(),
        "means_init": model.mu.detach().clone().numpy(),
        "precisions_init": precisions(model.covariance().detach(), form),
    }
    reference = Reference(3, covariance_type=form, max_iter=25, tol=0, reg_covar=0, **start)
    with pytest.warns(ConvergenceWarning):
        reference.fit(points.numpy())
    em(model, points, steps=25, tolerance=-math.inf)
    close(model.logits.softmax(0).detach(), reference.weights_, atol=1e-6, rtol=0)
    close(model.mu.detach(), reference.means_, atol=1e-6, rtol=0)
    close(torch.as_tensor(precisions(model.covariance().detach(), form)), reference.precisions_, atol=1e-6, rtol=1e-6)
    close(model.log_prob(points).detach(), reference.score_samples(points.numpy()), atol=1e-6, rtol=0)
    close(model.posterior(points).detach(), reference.predict_proba(points.numpy()), atol=1e-6, rtol=0)


@every_form
@pytest.mark.parametrize("floor", [1e-4, 0.2])
def test_em_never_lowers_the_likelihood(form, floor, points):
    """Also where the floor binds: the M-step is then still the best among the covariances that are allowed."""
    model = GaussianMixture.start(points, 4, form=FORMS[form], floor=floor)
    history = em(model, points, steps=60, tolerance=-math.inf)
    assert len(history) == 60
    assert min(b - a for a, b in pairwise(history)) > -1e-12
    assert history[-1] > history[0] + 0.01
    assert history[-1] == pytest.approx(model.log_prob(points).mean().item(), abs=1e-3)
    smallest = torch.linalg.eigvalsh(model.covariance().detach()).min()
    limit = floor * points.var(0, correction=0).mean()
    assert smallest >= limit - 1e-9
    assert (smallest < limit + 1e-9) == (floor == 0.2)


@every_form
def test_where_em_stops_the_gradient_vanishes(form, points):
    model = GaussianMixture.fit(points, 3, form=FORMS[form], steps=2000, tolerance=1e-14)
    model.loss(points).backward()
    for parameter in model.parameters():
        assert parameter.grad.abs().max() < 1e-5


def test_em_stops_when_a_step_gains_less_than_the_tolerance(points):
    model = GaussianMixture.start(points, 3)
    history = em(model, points, steps=500, tolerance=1e-3)
    gains = [b - a for a, b in pairwise(history)]
    assert gains[-1] < 1e-3 <= min(gains[:-1])
    assert history[-1] == model.log_prob(points).mean().item()


def test_one_component_is_the_sample_mean_and_covariance(points):
    model = GaussianMixture.fit(points, 1)
    close(model.mu[0].detach(), points.mean(0))
    close(model.covariance()[0].detach(), torch.cov(points.T, correction=0))


def test_gradient_descent_reaches_what_em_reaches(points):
    model = GaussianMixture.start(points, 3)
    descend(model, points)
    by_em = GaussianMixture.fit(points, 3, steps=2000, tolerance=1e-12)
    close(model.loss(points), by_em.loss(points), atol=1e-5, rtol=0)


def test_data_on_a_line_and_doubled_examples_do_not_break_the_fit():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    model = GaussianMixture.fit(x, 4, floor=1e-4)  # the mean variance is 1/2
    assert model.log_prob(x).isfinite().all()
    assert torch.linalg.eigvalsh(model.covariance().detach().double()).min() > 0.49e-4


def test_data_that_are_all_alike_do_not_break_the_fit():
    x = torch.ones(5, 2)
    model = GaussianMixture.fit(x, 2, floor=1e-4)
    assert model.log_prob(x).isfinite().all()
    close(model.covariance().detach(), 1e-4 * torch.eye(2).expand(2, 2, 2))


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_unit_of_the_data_does_not_matter(unit, points):
    """Only the density changes, by the unit for each dimension; the floor changes with the data."""
    model, other = (GaussianMixture.fit(x, 20, floor=1e-2, steps=30) for x in (points, points * unit))
    close(other.posterior(points * unit).detach(), model.posterior(points).detach())
    close(other.log_prob(points * unit).detach(), model.log_prob(points).detach() - 2 * math.log(unit))


def test_the_start_does_not_care_where_the_data_lie(points):
    """In float32, 100 000 away from the origin: squared distances are then rounded to about 1000."""
    x = (points * 64).round().float() / 64  # exact also far away
    near, far = (first_responsibilities(x + offset, 5, seed=0) for offset in (0.0, 1e5))
    assert (near == far).double().mean() > 0.99


def test_component_that_nobody_wants_starts_anew(points):
    model = GaussianMixture(2, 2).double()
    r = torch.stack([torch.ones(300), torch.zeros(300)], 1).double()
    model.m_step(points, r)
    close(model.mu[1].detach(), points.mean(0))
    close(model.logits.softmax(0).detach(), [1.0, 0.0])
    assert model.log_prob(points).isfinite().all()


def test_single_precision_agrees_with_double(points):
    single, double = (GaussianMixture.fit(x, 3, steps=10, tolerance=-math.inf) for x in (points.float(), points))
    assert single.log_prob(points.float()).dtype == torch.float32
    close(single.log_prob(points.float()).detach(), double.log_prob(points).detach(), atol=1e-3, rtol=1e-3)


# ---- gaps: mixture of Gaussians ------------------------------------------------------------------------------------


@every_form
def test_mixture_with_gaps_is_bayes_rule_on_the_marginals(form, vectors):
    model, known = GaussianMixture.fit(vectors, 3, form=FORMS[form]), some_known(40)
    filled, log_prob, r = (use(vectors[:40], known) for use in (model.fill_in, model.log_prob, model.posterior))
    weights, covariance = model.logits.softmax(0), model.covariance()
    for row, (x, mask) in enumerate(zip(vectors, known)):
        mean, log_p = zip(*[conditioned(mu, sigma, x, mask) for mu, sigma in zip(model.mu, covariance)])
        joint = weights * torch.stack(log_p).exp()
        close(log_prob[row].exp(), joint.sum())
        close(r[row], joint / joint.sum())
        close(filled[row], ((joint / joint.sum()) @ torch.stack(mean)).detach())
    assert torch.equal(filled[known[:40]], vectors[:40][known[:40]])


def test_mixture_fills_in_what_integration_gives():
    """E[x_2 | x_1] = ∫ x_2 p(x_1, x_2) dx_2 / p(x_1)."""
    model, x_2 = example_mixture(), torch.linspace(-12, 14, 5001, dtype=torch.float64)
    for x_1 in (-1.0, 0.7, 3.0):
        p = model.log_prob(torch.stack([torch.full_like(x_2, x_1), x_2], 1)).exp()
        point, known = torch.tensor([[x_1, math.nan]], dtype=torch.float64), torch.tensor([True, False])
        close(model.fill_in(point, known)[0, 1], (x_2 @ p / p.sum()).detach(), atol=1e-9, rtol=0)
        close(model.log_prob(point, known).exp()[0], p.sum() * (x_2[1] - x_2[0]), atol=1e-9, rtol=0)


def test_mixture_with_gaps_in_single_precision_on_digits():
    """Σ is nearly singular: pixels at the border hardly vary. What float32 keeps of the parameters, both solve alike.

    What is left is that each log-joint is rounded once, and the shares of the components with them. One that is far
    behind the best has no share, however it is rounded.
    """
    x = datasets.load("digits").train.scaled().flatten(1)[:300]
    model, known = GaussianMixture.fit(x, 5, steps=5), some_known(300, n_features=64)
    assert model.log_prob(x, known).dtype == torch.float32
    single = model.log_prob(x, known), model.fill_in(x, known)
    double = model.double().log_prob(x.double(), known), model.fill_in(x.double(), known)
    rounding = 4 * torch.finfo(torch.float32).eps * double[0].abs().max().item()  # nats
    assert rounding < 1e-3
    close(single[0].double(), double[0], atol=rounding, rtol=0)
    close(single[1].double(), double[1], atol=2 * rounding * x.abs().max().item(), rtol=0)


# ---- starts --------------------------------------------------------------------------------------------------------


def test_centres_are_drawn_by_squared_distance():
    """Of 0, 1 and 3: after 0 comes 1 with probability 1/10, after 1 comes 0 with 1/5, after 3 comes 0 with 9/13."""
    x, n = torch.tensor([[0.0], [1.0], [3.0]]), 3000
    drawn = [tuple(spread_centres(x, 2, seed).flatten().int().tolist()) for seed in range(n)]
    for pair, p in {
        (0, 1): 1 / 30,
        (0, 3): 9 / 30,
        (1, 0): 1 / 15,
        (1, 3): 4 / 15,
        (3, 0): 3 / 13,
        (3, 1): 4 / 39,
    }.items():
        assert abs(drawn.count(pair) / n - p) < 5 * (p * (1 - p) / n) ** 0.5, pair


def test_seeds_repeat_and_leave_the_global_stream_alone(points):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    models = [GaussianMixture.start(points, 3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(models[0].mu, models[1].mu)
    assert not torch.equal(models[0].mu, models[2].mu)


def test_starts_are_alike_in_every_version_of_torch(points, monkeypatch):
    """Seeded `rand` and `randint` give the same numbers in all of them; the streams of others have changed."""
    for name in ("exponential_", "normal_", "uniform_", "multinomial"):
        monkeypatch.setattr(torch.Tensor, name, None)
    monkeypatch.setattr(torch, "multinomial", None)
    assert spread_centres(torch.arange(100.0)[:, None], 5, seed=0).flatten().tolist() == [44, 1, 20, 91, 75]


def test_no_examples_give_no_figures(points, images):
    gaussian, categorical = GaussianMixture.start(points, 2), CategoricalMixture.start(images[0], 2, LEVELS)
    for model, x in ((gaussian, points), (categorical, images[0])):
        assert model.log_prob(x[:0]).shape == (0,)
        assert model.posterior(x[:0]).shape == (0, 2)


def test_wrong_input_is_refused(points):
    model = GaussianMixture.start(points, 3)
    with pytest.raises(ValueError, match=r"of shape \(B, 2\), got torch.float64 of shape \(300, 1\): images become"):
        model.log_prob(points[:, :1])
    with pytest.raises(ValueError, match=r"got torch.int64 of shape \(300, 2\)"):
        GaussianMixture.fit(points.long(), 2)
    for value in (math.nan, math.inf):
        x = points.clone()
        x[7, 1] = value
        for use in (model.log_prob, lambda x: GaussianMixture.fit(x, 2)):
            with pytest.raises(ValueError, match=rf"x\[7, 1\] is {value}: every number must be finite"):
                use(x)
    with pytest.raises(ValueError, match="301 components cannot be told apart by 300 examples: ask for 1 … 300"):
        GaussianMixture.start(points, 301)


# ---- mixture of categorical pixels ---------------------------------------------------------------------------------


SHAPE, LEVELS = (1, 2, 2), 3


@pytest.fixture(scope="module")
def images():
    """400 images of two kinds, float64, and their kinds."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    k = torch.multinomial(p[y], 4, replacement=True, generator=generator)
    return (k.double() / 2).view(-1, *SHAPE), y


def test_probabilities_of_all_images_sum_to_1_and_samples_follow_them(images):
    torch.manual_seed(0)
    model = CategoricalMixture.fit(images[0], 3, LEVELS)
    every_k = torch.cartesian_prod(*[torch.arange(3)] * 4)
    p = model.log_prob(every_k.double().view(-1, *SHAPE) / 2).exp().detach()
    close(p.sum(), 1.0)
    drawn = (model.sample(20_000).flatten(1) * 2).long() @ torch.tensor([27, 9, 3, 1])
    share = torch.bincount(drawn, minlength=81) / 20_000
    assert ((share - p).abs() < 5 * (p / 20_000).sqrt() + 1e-4).all()


def test_categorical_posterior_is_bayes_rule(images):
    x = images[0][:30]
    model = CategoricalMixture.fit(images[0], 3, LEVELS)
    tables, weights = model.pixel_logits.softmax(-1).flatten(1, 3), model.logits.softmax(0)
    k = (x.flatten(1) * 2).long()
    joint = torch.stack([weights * torch.stack([tables[:, i, k[n, i]] for i in range(4)]).prod(0) for n in range(30)])
    close(model.log_prob(x).exp(), joint.sum(1))
    close(model.posterior(x), joint / joint.sum(1, keepdim=True))
    close(model.loss(x), -joint.sum(1).log().mean())


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_categorical_em_never_lowers_what_it_promises(alpha, images):
    x, _ = images
    model = CategoricalMixture.start(x, 3, LEVELS, alpha=alpha)
    objective = []
    for _ in range(50):
        log_prob, r = model.e_step(x)
        objective.append((log_prob.sum() + alpha * model.pixel_logits.log_softmax(-1).sum()).item())
        model.m_step(x, r)
    assert min(b - a for a, b in pairwise(objective)) > -1e-9
    assert objective[-1] > objective[0] + 1


def test_what_em_promises_is_not_the_likelihood_alone(images):
    """From a fit with a weak prior, a strong one leads uphill in their product and downhill in the likelihood."""
    x, _ = images
    model = CategoricalMixture.fit(x, 3, LEVELS, alpha=0.1)
    model.alpha = 20.0
    history = em(model, x, steps=5, tolerance=-math.inf)
    assert history[-1] < history[0] - 0.01


def test_where_categorical_em_stops_the_gradient_vanishes(images):
    model = CategoricalMixture.fit(images[0], 2, LEVELS, alpha=0, steps=3000, tolerance=1e-14)
    model.loss(images[0]).backward()
    assert max(parameter.grad.abs().max() for parameter in model.parameters()) < 1e-5


def test_known_components_are_naive_bayes_and_one_is_independent_pixels(images):
    x, y = images
    model = CategoricalMixture(2, SHAPE, LEVELS, alpha=0.5).double()
    model.m_step(x, torch.nn.functional.one_hot(y).double())
    close(model.pixel_logits.log_softmax(-1).detach(), NaiveBayes.fit(x, y, LEVELS, 2, alpha=0.5).log_p)
    one = CategoricalMixture.fit(x, 1, LEVELS, alpha=0.5)
    close(one.log_prob(x).detach(), IndependentPixels.fit(x, LEVELS, alpha=0.5).log_prob(x))


def test_hidden_kinds_are_found(images):
    x, y = images
    found = CategoricalMixture.fit(x, 2, LEVELS).posterior(x).argmax(1)
    agreement = (found == y).double().mean().item()
    assert max(agreement, 1 - agreement) > 0.95


def test_categorical_mixture_refuses_what_it_cannot_score(images):
    x, _ = images
    model = CategoricalMixture.fit(x, 2, LEVELS)
    with pytest.raises(ValueError, match=r"a pixel is 0\.25, not k/2"):
        model.log_prob(x / 2)
    with pytest.raises(ValueError, match=r"of shape \(B, 1, 2, 2\).* got torch.float64 of shape \(400, 4\)"):
        model.log_prob(x.flatten(1))
    with pytest.raises(ValueError, match=r"got torch.uint8"):
        CategoricalMixture.fit(x.byte(), 2, LEVELS)


def test_an_image_that_no_component_can_make_has_no_posterior(images):
    x = images[0][images[0].flatten(1).amax(1) < 1]  # without the last level
    model = CategoricalMixture.fit(x, 2, LEVELS, alpha=0)
    strange = torch.cat([x[:1], torch.ones_like(x[:1])])
    assert model.log_prob(strange).exp()[1] == 0
    for use in (model.posterior, model.e_step):
        with pytest.raises(ValueError, match="example 1 has probability 0 under the model"):
            use(strange)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_counted_in_single_precision(dtype, images):
    x = images[0].repeat(5, 1, 1, 1)
    half, single = (CategoricalMixture.fit(x.to(t), 2, LEVELS) for t in (dtype, torch.float32))
    assert torch.equal(half.log_prob(x.to(dtype)), single.log_prob(x.float()))


def test_categorical_mixture_on_digits_lies_between_the_ruler_and_the_chain():
    digits = datasets.load("digits")
    model = CategoricalMixture.fit(digits.train.scaled(), 10, 17, seed=2)
    assert 98 < model.loss(digits.test.scaled()).item() < 102  # independent pixels: 106.4, chain: 93.7


# ---- any type, nothing asked for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n_features", [1, 2])
def test_mixtures_are_fitted_in_at_least_single_precision(dtype, n_features, points):
    x = points[:, :n_features].to(dtype)
    wide = x.to(torch.promote_types(dtype, torch.float32))
    model, again = (GaussianMixture.fit(data, 2, steps=5) for data in (x, wide))
    assert model.mu.dtype == model.log_prob(x).dtype == wide.dtype
    known = torch.ones(n_features, dtype=torch.bool)
    for mask in (None, known):
        assert torch.equal(model.log_prob(x, mask), again.log_prob(wide, mask))
        close(model.log_prob(x.double(), mask).to(wide), again.log_prob(wide, mask))


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf])
def test_counts_below_0_are_refused(alpha, images):
    for make in (
        lambda: CategoricalMixture(2, SHAPE, LEVELS, alpha=alpha),
        lambda: CategoricalMixture.fit(images[0], 2, LEVELS, alpha=alpha),
    ):
        with pytest.raises(ValueError, match=f"alpha is {alpha:g}: it must be ≥ 0"):
            make()


def test_what_has_no_start_is_refused(points, images):
    for n in (0, -1, 301, 2.5):
        with pytest.raises(ValueError, match=r"components cannot be told apart|n_components is"):
            GaussianMixture.start(points, n)
    with pytest.raises(ValueError, match=r"seed is 0\.5"):
        GaussianMixture.start(points, 2, seed=0.5)
    model = CategoricalMixture.fit(images[0], 2, LEVELS)
    with pytest.raises(ValueError, match="a model is fitted to at least one example"):
        em(model, images[0][:0])


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_starts_far_away_are_those_at_home(offset, points):
    """Two clouds far from each other, and from the origin: no mean lies near both."""
    x = (points * 64).round().float() / 64
    x[150:] += 1e4
    here, there = (first_responsibilities(x + shift, 5, seed=0) for shift in (0.0, offset))
    assert torch.equal(here, there)


# ---- what holds of probabilistic PCA as well -----------------------------------------------------------------------


def both_models(vectors):
    return PPCA.fit(vectors, M), GaussianMixture.fit(vectors, 3)


@pytest.mark.parametrize("which", [0, 1], ids=["PPCA", "mixture"])
def test_masks_are_broadcast_and_what_they_hide_does_not_matter(which, vectors):
    model, known = both_models(vectors)[which], some_known(300)
    strange = torch.where(known, vectors, math.nan)
    one = torch.tensor([True, False, True, True, False])
    for x in (vectors, strange):
        assert torch.equal(model.fill_in(x, known), model.fill_in(vectors, known))
        assert torch.equal(model.log_prob(x, known), model.log_prob(vectors, known))
    for use in (model.fill_in, model.log_prob):
        close(use(vectors, one), use(vectors, one.expand(300, D)))
        close(use(vectors, one[None]), use(vectors, one))
    for everything in (torch.tensor(True), torch.ones(300, 1, dtype=torch.bool)):
        close(model.log_prob(vectors, everything), model.log_prob(vectors))
        assert torch.equal(model.fill_in(vectors, everything), vectors)


@pytest.mark.parametrize("which", [0, 1], ids=["PPCA", "mixture"])
def test_wrong_masks_are_refused(which, vectors):
    model = both_models(vectors)[which]
    hole = torch.where(torch.arange(300 * D).view(300, D) == 36, math.nan, vectors)
    for use in (model.fill_in, model.log_prob, model.posterior):
        with pytest.raises(ValueError, match=r"known has the shape \(3, 5\), which does not fit x \(300, 5\)"):
            use(vectors, torch.ones(3, D, dtype=torch.bool))
        with pytest.raises(
            ValueError, match=r"known has the type torch\.float64: it must be bool, True where x is known"
        ):
            use(vectors, torch.ones(D).double())
        with pytest.raises(ValueError, match=r"x\[7, 1\] is nan: every number must be finite"):
            use(hole, torch.ones(D, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"of shape \(B, 5\), got torch.float64 of shape \(300, 4\)"):
            use(vectors[:, :4], torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["PPCA", "Gaussian", "categorical"])
def test_parameters_are_saved_and_loaded(kind, vectors, points, images, tmp_path):
    if kind == "PPCA":
        x, model, again = vectors, PPCA.fit(vectors, M), PPCA(M, D).double()
    elif kind == "Gaussian":
        x, model, again = points, GaussianMixture.fit(points, 3), GaussianMixture(3, 2).double()
    else:
        x, model = images[0], CategoricalMixture.fit(images[0], 3, LEVELS)
        again = CategoricalMixture(3, SHAPE, LEVELS).double()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(again.log_prob(x), model.log_prob(x))


@pytest.mark.parametrize("kind", ["PPCA", "Gaussian", "categorical"])
def test_no_samples_are_none(kind, vectors, points, images):
    model = {
        "PPCA": lambda: PPCA.fit(vectors, M),
        "Gaussian": lambda: GaussianMixture.fit(points, 3),
        "categorical": lambda: CategoricalMixture.fit(images[0], 3, LEVELS),
    }[kind]()
    shape = {"PPCA": (D,), "Gaussian": (2,), "categorical": SHAPE}[kind]
    assert model.sample(0).shape == (0, *shape)
    assert model.sample(0).dtype == torch.float64
    assert model.log_prob(model.sample(0)).shape == (0,)
    for n in (-1, 2.5):
        with pytest.raises(ValueError, match=f"n is {n}: it must be a whole number ≥ 0"):
            model.sample(n)


@pytest.mark.parametrize("shape", [(300, 1), (300, D)])
@pytest.mark.parametrize("which", [0, 1], ids=["PPCA", "mixture"])
def test_masks_that_keep_or_lose_whole_rows(which, shape, vectors):
    model = both_models(vectors)[which]
    rows = (torch.arange(300) % 3 > 0)[:, None]
    known = rows.expand(shape)
    x = torch.where(rows, vectors, math.nan)
    close(model.log_prob(x, known), torch.where(rows[:, 0], model.log_prob(vectors), 0).detach())
    mean = model.mu if which == 0 else model.logits.softmax(0) @ model.mu
    close(model.fill_in(x, known), torch.where(rows, vectors, mean).detach())
    if which == 0:  # what is lost teaches nothing
        lost, kept = (PPCA.start(vectors, M) for _ in range(2))
        em(lost, x, known, steps=50, tolerance=-math.inf)
        em(kept, vectors[rows[:, 0]], steps=50, tolerance=-math.inf)
        close(lost.covariance(), kept.covariance().detach())
