"""Probabilistic PCA: its density and its gaps by conditioning the joint Gaussian, its fit against closed forms, EM and
scikit-learn.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from helpers import close, conditioned, descend, slanted_vectors, some_known
from torch.distributions import MultivariateNormal

from dgm_lib.models.em import em
from dgm_lib.models.ppca import PPCA

D, M = 5, 2


@pytest.fixture(scope="module")
def vectors():
    return slanted_vectors()


# ---- the density ---------------------------------------------------------------------------------------------------


def example_ppca(seed=0, n_latents=M):
    generator = torch.Generator().manual_seed(seed)
    model = PPCA(n_latents, D).double()
    weight = torch.randn(D, n_latents, generator=generator, dtype=torch.float64)
    model.set_parameters(weight, torch.arange(D), torch.tensor(0.3))
    return model


@pytest.mark.parametrize("n_latents", [1, 2, D - 1])
def test_density_is_that_of_the_d_dimensional_gaussian(n_latents, vectors):
    model = example_ppca(n_latents=n_latents)
    covariance = model.weight @ model.weight.T + 0.3 * torch.eye(D)
    close(model.covariance(), covariance)
    expected = MultivariateNormal(model.mu, covariance).log_prob(vectors)
    close(model.log_prob(vectors), expected)
    close(model.loss(vectors), -expected.mean())


def test_posterior_is_the_joint_gaussian_conditioned(vectors):
    """(z, x) ~ N((0, μ), [[I, Wᵀ], [W, C]]); with gaps, x is its known part."""
    model, known = example_ppca(), some_known(30)
    latent, mu = torch.zeros(30, M, dtype=torch.bool), torch.cat([torch.zeros(M), model.mu])
    above = torch.cat([torch.eye(M), model.weight.T], 1)
    covariance = torch.cat([above, torch.cat([model.weight, model.covariance()], 1)])
    joint = torch.cat([torch.zeros(30, M), vectors[:30]], 1)
    for mask, q in ((known, model.posterior(vectors[:30], known)), (known | True, model.posterior(vectors[:30]))):
        for row, given in enumerate(torch.cat([latent, mask], 1)):
            expected, _ = conditioned(mu, covariance, joint[row], given)
            close(q.mean[row], expected[:M])
            across = covariance[:M, given]
            spread = torch.eye(M) - across @ torch.linalg.pinv(covariance[given][:, given]) @ across.T
            close(q.covariance_matrix[row], spread)


def test_bayes_rule_holds_at_every_z(vectors):
    model, z = example_ppca(), example_ppca(seed=1).prior.sample(300)
    joint = model.likelihood(z).log_prob(vectors) + model.prior.log_prob(z)
    close(joint - model.posterior(vectors).log_prob(z), model.log_prob(vectors))


def test_ppca_samples_have_its_mean_and_covariance():
    torch.manual_seed(0)
    model, n = example_ppca(), 50_000
    x = model.sample(n)
    assert x.shape == (n, D)
    assert x.dtype == torch.float64
    covariance = model.covariance().detach()
    variances = covariance.diagonal()
    assert ((x.mean(0) - model.mu).abs() < 5 * (variances / n).sqrt()).all()
    allowed = 5 * ((variances.outer(variances) + covariance**2) / n).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() < allowed).all()


# ---- the fit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_latents", [1, 2, D - 1])
def test_closed_form_is_the_maximum(n_latents, vectors):
    """Its gradient vanishes, and no step in any direction gains."""
    model = PPCA.fit(vectors, n_latents)
    best = model.loss(vectors)
    best.backward()
    assert max(parameter.grad.abs().max() for parameter in model.parameters()) < 1e-12
    values, variances = torch.linalg.eigvalsh(torch.cov(vectors.T, correction=0)).flip(0), model.covariance().detach()
    close(model.log_var.exp(), values[n_latents:].mean())
    close(torch.linalg.eigvalsh(variances).flip(0)[:n_latents], values[:n_latents])
    generator = torch.Generator().manual_seed(0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for size in (0.01, 0.1, 1.0):
        for _ in range(30):
            steps = {n: torch.randn(v.shape, generator=generator) * (n != "prior.mu") for n, v in start.items()}
            model.load_state_dict({name: value + size * steps[name] for name, value in start.items()})
            assert model.loss(vectors) > best


@pytest.mark.parametrize("n_latents", [1, 2, D - 1])
def test_em_and_gradients_arrive_at_the_closed_form(n_latents, vectors):
    best = PPCA.fit(vectors, n_latents)
    by_em, by_gradient = PPCA.start(vectors, n_latents), PPCA(n_latents, D).double()
    history = em(by_em, vectors, steps=3000, tolerance=1e-14)
    assert min(b - a for a, b in pairwise(history)) > -1e-12
    assert history[-1] > history[0] + 0.1
    assert history[-1] == pytest.approx(-best.loss(vectors).item(), abs=1e-9)
    close(by_em.covariance(), best.covariance().detach(), atol=1e-5, rtol=0)
    descend(by_gradient, vectors)
    close(by_gradient.covariance(), best.covariance().detach(), atol=1e-5, rtol=0)


def test_em_takes_the_steps_of_the_paper(vectors):
    """W ← S W (σ²I + M⁻¹ Wᵀ S W)⁻¹, σ² ← tr(S − S W M⁻¹ W'ᵀ) / D. Tipping & Bishop 1999, eq. 27 and 28."""
    model = PPCA.start(vectors, M)
    s = torch.cov(vectors.T, correction=0)
    w, var = model.weight.detach().clone(), model.log_var.detach().exp()
    for _ in range(5):
        inverse = torch.linalg.inv(w.T @ w + var * torch.eye(M))
        new = s @ w @ torch.linalg.inv(var * torch.eye(M) + inverse @ w.T @ s @ w)
        w, var = new, (s - s @ w @ inverse @ new.T).trace() / D
        em(model, vectors, steps=1)
        close(model.weight.detach(), w)
        close(model.log_var.detach().exp(), var)
        close(model.mu.detach(), vectors.mean(0))


@pytest.mark.parametrize(("n_latents", "n_examples"), [(1, 300), (2, 300), (4, 300), (2, 4)])
def test_ppca_scores_as_scikit_learn(n_latents, n_examples, vectors):
    """scikit-learn divides by N − 1, and takes the mean of the min(N, D) − M discarded variances that it kept."""
    from sklearn.decomposition import PCA

    x = vectors[:n_examples]
    reference = PCA(n_latents, svd_solver="full").fit(x.numpy())
    reference.explained_variance_ *= (n_examples - 1) / n_examples
    reference.noise_variance_ *= (n_examples - 1) / n_examples
    reference.noise_variance_ *= (min(n_examples, D) - n_latents) / (D - n_latents)
    model = PPCA.fit(x, n_latents)
    close(model.log_prob(vectors).detach(), reference.score_samples(vectors.numpy()), rtol=1e-9, atol=1e-9)
    directions = torch.linalg.qr(model.weight.detach()).Q
    close((directions.T @ torch.as_tensor(reference.components_).T).abs(), torch.eye(n_latents), atol=1e-7, rtol=0)


def test_each_direction_points_to_its_peak(vectors):
    """The singular value decomposition leaves the sign open: a fit would look otherwise on another machine."""
    for x in (vectors, -vectors):
        weight = PPCA.fit(x, 3).weight.detach()
        assert (weight.gather(0, weight.abs().argmax(0, keepdim=True)) > 0).all()


def test_ppca_seeds_repeat_and_leave_the_global_stream_alone(vectors, monkeypatch):
    for name in ("exponential_", "normal_", "uniform_", "multinomial"):  # not the same in every version of torch
        monkeypatch.setattr(torch.Tensor, name, None)
    monkeypatch.setattr(torch, "randn", None)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a, b, c = (PPCA.start(vectors, M, seed=seed).weight for seed in (0, 0, 1))
    PPCA.fit(vectors, M)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_ppca_in_single_precision_agrees_with_double(offset, vectors):
    """Also far from the origin, where float32 keeps four digits of the spread; what is rounded, both see rounded."""
    x, known = (vectors + offset).float(), some_known(300)
    for make in (lambda x: PPCA.fit(x, M), lambda x: after_em(x, known)):
        single, double = make(x), make(x.double())
        assert single.log_prob(x).dtype == torch.float32
        for mask in (None, known):
            close(single.log_prob(x, mask).double(), double.log_prob(x.double(), mask), atol=2e-3, rtol=1e-3)
        close(single.fill_in(x, known).double(), double.fill_in(x.double(), known), atol=2e-3, rtol=0)
    for single, double in zip(PPCA.fit(x, M).parameters(), PPCA.fit(x.double(), M).parameters()):
        assert torch.equal(single, double.float())  # the closed form is computed in float64


def after_em(x, known):
    model = PPCA.start(x, M, known)
    em(model, x, known, steps=20, tolerance=-math.inf)
    return model


# ---- gaps ----------------------------------------------------------------------------------------------------------


def test_gaps_are_filled_with_the_conditional_mean(vectors):
    model, known = example_ppca(), some_known(300)
    filled, log_prob = model.fill_in(vectors, known), model.log_prob(vectors, known)
    for row in range(60):
        mean, log_p = conditioned(model.mu, model.covariance(), vectors[row], known[row])
        close(filled[row], mean.detach())
        close(log_prob[row], log_p)
    assert torch.equal(filled[known], vectors[known])
    assert log_prob[1] == 0  # of nothing
    close(filled[1], model.mu.detach())


def test_the_gradient_of_a_marginal_does_not_see_what_is_hidden(vectors):
    model, known = example_ppca(), some_known(300)
    model.log_prob(torch.where(known, vectors, math.nan), known).mean().backward()
    by_lemma = [parameter.grad.clone() for parameter in model.parameters()]
    marginals = [conditioned(model.mu, model.covariance(), x, k)[1] for x, k in zip(vectors, known)]
    for gradient, expected in zip(by_lemma, torch.autograd.grad(sum(marginals) / 300, model.parameters())):
        close(gradient, expected)


def test_a_start_has_the_mean_and_the_variance_of_what_is_known(vectors):
    known = some_known(300)
    x = torch.where(known, vectors, math.nan)
    model = PPCA.start(x, M, known)
    close(model.mu.detach(), x.nanmean(0))
    close(2 * model.log_var.detach().exp(), (x - x.nanmean(0)).square().nanmean())
    spread = [PPCA.start(x, M, known, seed=seed).covariance().trace() for seed in range(200)]
    close(sum(spread).detach() / 200, D * (x - x.nanmean(0)).square().nanmean(), rtol=0.05, atol=0)


def test_em_with_gaps_climbs_to_where_the_gradient_vanishes(vectors):
    known = some_known(300)
    x = torch.where(known, vectors, math.nan)
    model = PPCA.start(x, M, known)
    history = em(model, x, known, steps=3000, tolerance=1e-14)
    assert min(b - a for a, b in pairwise(history)) > -1e-12
    assert history[-1] == pytest.approx(model.log_prob(x, known).mean().item(), abs=1e-12)
    model.log_prob(x, known).mean().backward()
    assert max(parameter.grad.abs().max() for parameter in model.parameters()) < 1e-5


def test_em_with_a_mask_that_hides_nothing_is_em(vectors):
    everything = torch.ones(300, D, dtype=torch.bool)
    one, other = (PPCA.start(vectors, M, mask) for mask in (None, everything))
    assert em(one, vectors, steps=20) == pytest.approx(em(other, vectors, everything, steps=20), rel=1e-12)
    close(one.covariance(), other.covariance().detach())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_em_learns_from_gaps_is_nearer_than_means_put_into_them(seed):
    """2000 points of a known model, 40 % of the entries missing: variances stay, where mean imputation shrinks them."""
    torch.manual_seed(seed)
    truth = example_ppca()
    x = truth.sample(2000)
    known = torch.rand(2000, D) < 0.6
    model = PPCA.start(x, M, known)
    em(model, x, known, steps=500, tolerance=1e-8)
    mean_filled = torch.where(known, x, torch.where(known, x, math.nan).nanmean(0))
    apart = [torch.dist(fit.covariance(), truth.covariance()).item() for fit in (model, PPCA.fit(mean_filled, M))]
    assert apart[0] < 0.3 * apart[1]
    close(model.mu.detach(), truth.mu.detach(), atol=0.2, rtol=0)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_ppca_refuses_what_it_cannot_learn_from(vectors):
    never = torch.ones(D, dtype=torch.bool).scatter(0, torch.tensor([3]), False)
    for n_latents in (0, D, D + 1):
        for make in (PPCA.fit, PPCA.start, lambda x, m: PPCA(m, D)):
            with pytest.raises(
                ValueError, match=rf"n_latents is {n_latents} for 5 features: it must be 1 … 4, because"
            ):
                make(vectors, n_latents)
    for make in (PPCA.fit, PPCA.start):
        with pytest.raises(ValueError, match="a variance cannot be learnt from 1 examples: give 2 or more"):
            make(vectors[:1], M)
        with pytest.raises(
            ValueError, match=r"of shape \(B, 1\), got torch.float64 of shape \(300, 5, 1\): images become"
        ):
            make(vectors[:, :, None], M)
        with pytest.raises(ValueError, match=r"got torch\.int64"):
            make(vectors.long(), M)
        with pytest.raises(
            ValueError, match=r"2 latents leave the noise σ² = 0 of the data's mean variance 0, so the l"
        ):
            make(torch.ones(5, D), M)
        with pytest.raises(ValueError, match=r"x\[7, 1\] is nan: every number must be finite"):
            make(torch.where(torch.arange(300 * D).view(300, D) == 36, math.nan, vectors), M)
    for use in (lambda: PPCA.start(vectors, M, never), lambda: em(example_ppca(), vectors, never)):
        with pytest.raises(ValueError, match="feature 3 is known in no example: leave it out"):
            use()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_latents", [2, 3])
def test_data_without_noise_have_no_likeliest_model(dtype, n_latents, vectors):
    """In a plane, and three examples in five dimensions, which lie in one."""
    flat = (vectors[:, :2] @ torch.tensor([[1.0, 2, 3, 4, 5], [1, 0, 1, 0, 1]]).double() + 1).to(dtype)
    for x in (flat, vectors[:3].to(dtype)):
        with pytest.raises(
            ValueError, match=f"{n_latents} latents leave the noise σ² = .*: ask for fewer latents, or add"
        ):
            PPCA.fit(x, n_latents)
        with pytest.raises(
            ValueError, match=f"{n_latents} latents leave the noise σ² = .*: ask for fewer latents, or add"
        ):
            em(PPCA.start(x, n_latents), x, steps=100_000, tolerance=-math.inf)
    assert PPCA.fit(flat, 1).log_prob(flat).isfinite().all()
