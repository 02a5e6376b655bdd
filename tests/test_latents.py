"""What latents hold, against channels of known capacity, enumeration and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from dgm_lib import datasets
from dgm_lib.distributions import StandardNormal
from dgm_lib.measures import latents


def normal_quantiles(n):
    """n numbers spread like N(0, 1)."""
    return Normal(0, 1).icdf((torch.arange(n) + 0.5).double() / n)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- how much of x -------------------------------------------------------------------------------------------------


def test_active_units_are_those_that_the_data_move():
    up_and_down = torch.tensor([1.0, -1.0, 1.0, -1.0])  # variance 4/3
    mu = up_and_down[:, None] * torch.tensor([0.0, 0.086, 0.087, 3.0]) + 5  # 0.01 · 3/4 lies between 0.086² and 0.087²
    assert latents.active_units(mu).tolist() == [False, False, True, True]
    assert latents.active_units(mu, 1.0).tolist() == [False, False, False, True]


def test_a_variance_needs_two_examples():
    with pytest.raises(ValueError, match="mu has 1 row: a variance over the data needs at least 2"):
        latents.active_units(torch.zeros(1, 3))


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_a_gaussian_channel_has_the_capacity_that_shannon_gave(noise):
    """z = x + noise: I = ½ log(1 + 1/s²), and q(z) = N(0, 1 + s²)."""
    mu = normal_quantiles(1000)[:, None]
    log_var = torch.full_like(mu, 2 * math.log(noise))
    parts = latents.split_rate(mu, log_var, samples=20)
    assert parts.mutual_information.shape == parts.marginal_kl.shape == (1000,)
    assert parts.mutual_information.mean().item() == pytest.approx(0.5 * math.log1p(noise**-2), abs=0.02)
    assert parts.marginal_kl.mean().item() == pytest.approx(0.5 * (noise**2 - math.log1p(noise**2)), abs=0.02)
    q, wide = Normal(mu, noise), Normal(0.0, math.sqrt(1 + noise**2))
    rate = kl_divergence(q, Normal(0.0, 1.0)).mean().item()
    assert sum(parts).mean().item() == pytest.approx(rate, abs=0.02)
    fitting = latents.split_rate(mu, log_var, lambda z: wide.log_prob(z).sum(1), samples=20)
    assert fitting.marginal_kl.mean().item() == pytest.approx(0, abs=1e-3)
    assert torch.equal(fitting.mutual_information, parts.mutual_information)


def test_codes_far_apart_tell_which_example_it_was_and_equal_ones_tell_nothing():
    mu = 100.0 * torch.eye(7)[:, :5]
    apart = latents.split_rate(mu, torch.zeros(7, 5)).mutual_information
    assert apart[:5].tolist() == pytest.approx([math.log(7)] * 5, abs=1e-9)
    assert apart[5:].tolist() == pytest.approx([math.log(7 / 2)] * 2, abs=1e-9)  # the last two share a code
    same = latents.split_rate(torch.ones(7, 5), torch.ones(7, 5)).mutual_information
    assert same.tolist() == pytest.approx([0] * 7, abs=1e-9)


def test_information_is_the_integral_over_z():
    mu, log_var = torch.tensor([[-1.0], [0.5], [2.0]]).double(), torch.tensor([[0.0], [-2.0], [0.5]]).double()
    z = torch.linspace(-15, 15, 30_001).double()
    q, prior = Normal(mu, (log_var / 2).exp()).log_prob(z), Normal(0, 1).log_prob(z)  # (3, …), (…,)
    marginal = q.logsumexp(0) - math.log(3)
    information, kl = ((q.exp() * (part * 1e-3)).sum(1) for part in (q - marginal, marginal - prior))
    # each example 500 times: the same q(z), and more draws
    parts = latents.split_rate(mu.repeat(500, 1), log_var.repeat(500, 1), samples=20)
    torch.testing.assert_close(parts.mutual_information.view(500, 3).mean(0), information, atol=0.02, rtol=0)
    torch.testing.assert_close(parts.marginal_kl.view(500, 3).mean(0), kl, atol=0.08, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_information_never_exceeds_log_n_and_few_examples_show_too_little(seed):
    """The mean over sets of 8 lies below I of the channel, ½ log 2; were x left out of q(z), it would lie above."""
    codes = draws(200, 8, 1, seed=seed)
    information = [latents.split_rate(mu, torch.zeros(8, 1), seed=i)[0] for i, mu in enumerate(codes)]
    assert torch.stack(information).max() <= math.log(8) + 1e-9
    assert 0.2 < torch.stack(information).mean() < math.log(2) / 2 - 0.02
    assert latents.split_rate(30 * codes[0], torch.zeros(8, 1))[0].max() <= math.log(8) + 1e-9


def test_the_aggregate_posterior_is_a_mixture_also_in_chunks(monkeypatch):
    mu, log_var, z = draws(50, 3) + 3, 2 * draws(50, 3, seed=1) - 3, draws(20, 3, seed=2) + 3
    components = Independent(Normal(mu, (log_var / 2).exp()), 1)
    expected = MixtureSameFamily(Categorical(torch.ones(50).double()), components).log_prob(z)
    for pairs in (1, 170, 2**22):
        monkeypatch.setattr(latents, "NUMBERS", pairs)
        torch.testing.assert_close(latents.log_aggregate(z, mu, log_var), expected, rtol=1e-10, atol=0)


def test_a_prior_is_asked_in_the_type_of_the_model_and_other_random_numbers_stay():
    mu, seen = draws(5, 2).float().requires_grad_(), []
    centre = torch.zeros(2, requires_grad=True)  # a prior that is learnt

    def log_prior(z):
        seen.append(z.dtype)
        return StandardNormal(2).log_prob(z - centre)

    state = torch.get_rng_state()
    given = latents.split_rate(mu, torch.zeros(5, 2), log_prior)
    assert torch.equal(torch.get_rng_state(), state)
    assert seen == [torch.float32]
    assert not given.marginal_kl.requires_grad
    assert torch.equal(given.marginal_kl, latents.split_rate(mu, torch.zeros(5, 2)).marginal_kl)
    assert not torch.equal(given[0], latents.split_rate(mu, torch.zeros(5, 2), seed=1)[0])


def test_what_is_no_gaussian_posterior_is_refused():
    mu = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"mu has the shape \(4, 2\) and log_var \(4, 1\): they must agree"):
        latents.split_rate(mu, mu[:, :1])
    with pytest.raises(ValueError, match=r"log_var\[1, 0\] is -inf: every number must be finite"):
        latents.split_rate(mu, torch.where(torch.arange(4)[:, None] == 1, -math.inf, mu))
    with pytest.raises(ValueError, match="samples is 0: it must be a whole number ≥ 1"):
        latents.split_rate(mu, mu, samples=0)
    with pytest.raises(ValueError, match=r"mu has the shape \(4,\): it must be \(N, D\)"):
        latents.active_units(mu[:, 0])
    with pytest.raises(ValueError, match="z has 3 latents and mu has 2"):
        latents.log_aggregate(torch.zeros(1, 3), mu, mu)


# ---- which factors -------------------------------------------------------------------------------------------------


def two_factors(n=2000, seed=0):
    a, b = torch.rand(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    return {"a": a, "b": b}


@pytest.mark.parametrize("seed", range(3))
def test_one_latent_for_each_factor_has_the_gap_1(seed):
    """Also if it is turned around and bent, with a factor of 65 steps, and beside latents of noise."""
    v = two_factors(seed=seed)
    v["b"] = (v["b"] * 65).round() / 65
    z = torch.stack([-v["b"], draws(2000, seed=seed + 10), v["a"] ** 3, draws(2000, seed=seed + 20)], 1)
    mean, gaps = latents.mutual_information_gap(z, v)
    assert list(gaps) == ["a", "b"]
    assert min(gaps.values()) > 0.98
    assert max(gaps.values()) <= 1.01
    assert mean == pytest.approx(sum(gaps.values()) / 2, abs=1e-12)
    shares = latents.factor_information(z, v)
    assert shares["a"].argmax() == 2
    assert shares["b"].argmax() == 0


@pytest.mark.parametrize("seed", range(3))
def test_factors_that_are_spread_evenly_have_the_gap_0(seed):
    v = two_factors(seed=seed)
    z = torch.stack([v["a"] + v["b"], v["a"] - v["b"]], 1)  # turned by 45°
    mean, _ = latents.mutual_information_gap(z, v)
    assert abs(mean) < 0.03
    each = torch.stack(list(latents.factor_information(z, v).values()))
    assert each.min() > 0.1  # uniform factors: I = ½ nat of log 20, less what the bins lose
    assert each.max() < 0.5 / math.log(20)


@pytest.mark.parametrize("seed", range(3))
def test_noise_tells_nothing_though_its_counts_do(seed):
    """400 cells filled by 500 examples: the plain estimate gives noise a tenth of the entropy."""
    v = two_factors(500, seed)
    noise = draws(500, 6, seed=seed + 10)
    shares = torch.stack(list(latents.factor_information(noise, v).values()))
    assert abs(shares.mean()) < 0.01
    codes = torch.stack([latents._equal_bins(column, 20) for column in noise.T.contiguous()], 1)
    plain = latents._information(codes, latents._equal_bins(v["a"], 20)).mean() / math.log(20)
    assert plain > 0.09
    assert latents.mutual_information_gap(noise, v)[0] < 0.03


def test_information_and_its_chance_are_those_of_scikit_learn():
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    v = torch.randint(7, (300,), generator=torch.Generator().manual_seed(0))
    z = v + 2 * draws(300)
    bins = z.argsort().argsort().numpy() * 5 // 300
    information, chance = mutual_info_score(bins, v), expected_mutual_information(contingency_matrix(bins, v), 300)
    entropy = mutual_info_score(v, v)
    expected = (information - chance) / (entropy - chance)
    share = latents.factor_information(z[:, None], {"v": v}, bins=5, shuffles=1000)["v"]
    assert share.item() == pytest.approx(expected, abs=1e-3)
    assert chance / entropy > 0.02  # so that it would be seen
    codes = torch.from_numpy(bins)[:, None]
    assert latents._information(codes, v).item() == pytest.approx(information, abs=1e-12)


def test_information_of_correlated_gaussians_is_that_in_closed_form():
    """I = −½ log(1 − ρ²); twenty bins see a little less of it."""
    a, b = draws(2, 20_000)
    share = latents.factor_information(torch.stack([0.8 * a + 0.6 * b, b], 1), {"a": a})["a"]
    assert share[0].item() * math.log(20) == pytest.approx(-math.log(0.6), abs=0.03)
    assert abs(share[1]) < 0.002


def test_classes_are_taken_by_their_values_and_equal_latents_by_one_bin():
    v = torch.arange(36).repeat_interleave(60)  # more classes than bins; sorted: a tie broken by position would tell
    z = torch.stack([v.double(), torch.ones(36 * 60).double(), (v % 2).double()], 1)
    shares = latents.factor_information(z, {"class": v, "odd": (v % 2).float(), "even": v % 2 == 0}, bins=100)
    assert shares["class"][0].item() == pytest.approx(1, abs=1e-9)
    assert shares["class"][2].item() == pytest.approx(math.log(2) / math.log(36), abs=0.01)
    for name in ("odd", "even"):
        assert shares[name].tolist() == pytest.approx([1, 0, 1], abs=1e-9)
    assert shares["class"][1].item() == pytest.approx(0, abs=1e-9)


def test_few_numbers_are_taken_by_their_values_however_rare():
    """In 98 % of the examples v is 0; bins of as many examples each would take the four other values for one."""
    v = torch.cat([torch.zeros(1960), torch.arange(1.0, 5.0).repeat(10)])
    binary = -0.98 * math.log(0.98) - 0.02 * math.log(0.02)  # what the bins of z can tell of it
    share = latents.factor_information(v[:, None], {"v": v})["v"].item()
    assert share == pytest.approx(binary / (binary + 0.02 * math.log(4)), abs=0.01)
    assert latents.factor_information(v[:, None], {"v": v}, bins=4)["v"].item() == pytest.approx(1, abs=1e-9)


def test_factors_of_which_nothing_can_be_said_are_refused():
    z, v = draws(100, 2), draws(100)
    for factors, message in (
        ({"scale": torch.ones(100)}, r"factor 'scale' is \[1.0\] in every example"),
        ({"scale": v[:50]}, r"factor 'scale' has the shape \(50,\): it must be 100 numbers"),
        ({"scale": torch.where(v > 2, math.nan, v)}, "without NaN"),
        ({"scale": v}, "100 examples are too few for 20 bins and factor 'scale': shuffled, a latent still seems to"),
        ({}, "there is no factor"),
    ):
        with pytest.raises(ValueError, match=message):
            latents.mutual_information_gap(z, factors)
    with pytest.raises(ValueError, match="z has 1 latent: a gap between the best two needs at least 2"):
        latents.mutual_information_gap(z[:, :1], {"scale": v})
    with pytest.raises(ValueError, match="bins is 1 and shuffles 10"):
        latents.mutual_information_gap(z, {"scale": v}, bins=1)
    with pytest.raises(ValueError, match=r"z has the shape \(100,\): it must be \(N, D\)"):
        latents.mutual_information_gap(v, {"scale": v})


# ---- how plainly: linear probes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    data = datasets.load("digits")
    return data.train.scaled().flatten(1), data.train.y, data.test.scaled().flatten(1), data.test.y


@pytest.mark.parametrize("n", [40, 1000])
@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_r2_is_that_of_scikit_learn(digits, n, ridge):
    """Pixels of digits: some are constant, many vary together, and 40 examples are fewer than they are."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    x, _, x_test, _ = digits
    weight = draws(64).float()
    t, t_test = (torch.tanh(rows @ weight / 4) + 3 for rows in (x[:n], x_test))
    scaler = StandardScaler().fit(x[:n].double())
    model = Ridge(alpha=ridge * n).fit(scaler.transform(x[:n].double()), t.double())
    expected = model.score(scaler.transform(x_test.double()), t_test.double())
    assert latents.probe_r2(x[:n], t, x_test, t_test, ridge=ridge) == pytest.approx(expected, abs=1e-9)


def test_r2_by_hand():
    z = draws(200, 3).float()
    t = z @ torch.tensor([1.0, -2.0, 0.0]) + 5
    assert latents.probe_r2(z[:100], t[:100], z[100:], t[100:], ridge=1e-9) == pytest.approx(1, abs=1e-9)
    stretched = z * torch.tensor([1000.0, 0.01, 1.0]) + 7
    plain, again = (latents.probe_r2(a[:100], t[:100], a[100:], t[100:]) for a in (z, stretched))
    assert plain == pytest.approx(again, abs=1e-6)
    shift = latents.probe_r2(z[:100], t[:100], z[100:], t[100:] + 50)  # far off, whatever the correlation
    assert shift < -100


@pytest.mark.parametrize(("n", "ridge"), [(50, 1e-3), (50, 0.1), (1000, 1e-3)])
def test_accuracy_is_that_of_scikit_learn(digits, n, ridge):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, x_test, y_test = digits
    reference = LogisticRegression(C=1 / (ridge * n), tol=1e-7, max_iter=10_000)
    model = make_pipeline(StandardScaler(), reference).fit(x[:n].double(), y[:n])
    expected = model.score(x_test.double(), y_test)
    measured = latents.probe_accuracy(x[:n], y[:n], x_test, y_test, ridge=ridge)
    assert measured == pytest.approx(expected, abs=1.5 / len(y_test))  # one example may lie between two classes
    assert measured == latents.probe_accuracy(x[:n], y[:n], x_test, y_test, ridge=ridge)


def test_the_probe_stands_at_the_minimum_of_its_loss(digits):
    """Its weights, not only what they decide, are those of scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    x, y, _, _ = digits
    z = x[:200, 10:30].double()
    weight, _ = latents._logistic_regression(z, y[:200], 10, 0.01)
    reference = LogisticRegression(C=1 / (0.01 * 200), tol=1e-10, max_iter=10_000).fit(z, y[:200])
    torch.testing.assert_close(weight, torch.from_numpy(reference.coef_.T), atol=2e-3, rtol=0)


def test_labels_need_not_be_consecutive_and_unknown_ones_are_never_met():
    z = torch.tensor([[-2.0, 1.0], [-1.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    y = torch.tensor([3, 3, 9, 9])
    with torch.no_grad():  # as it is called after an evaluation
        assert latents.probe_accuracy(z, y, z, y) == 1
        assert latents.probe_accuracy(z, y, z, torch.tensor([0, 3, 1, 9])) == 0.5


def test_what_cannot_be_probed_is_refused():
    z, t, y = draws(6, 2), draws(6), torch.arange(6) % 2
    for probe, told in ((latents.probe_r2, t), (latents.probe_accuracy, y)):
        with pytest.raises(ValueError, match="z_train has 2 latents and z_test has 1"):
            probe(z, told, z[:, :1], told)
        with pytest.raises(
            ValueError, match=r"from 6 rows of z_test has the shape \(5,\): it must be 6 finite numbers"
        ):
            probe(z, told, z, told[:5])
        with pytest.raises(ValueError, match="ridge is 0: it must be above 0"):
            probe(z, told, z, told, ridge=0)
        with pytest.raises(ValueError, match=r"z_test\[0, 0\] is nan"):
            probe(z, told, z * math.nan, told)
    with pytest.raises(ValueError, match="from 6 rows of z_train"):
        latents.probe_r2(z, t / 0, z, t)
    with pytest.raises(ValueError, match="every test target is 2: R² compares with their variance, which is 0"):
        latents.probe_r2(z, t, z, torch.full((6,), 2.0))
    with pytest.raises(ValueError, match=r"y_train holds 1 classes of type torch\.int64: give integers of at least 2"):
        latents.probe_accuracy(z, y * 0, z, y)
    with pytest.raises(ValueError, match=r"of type torch\.float64"):
        latents.probe_accuracy(z, t, z, t)


def test_a_probe_that_finds_no_minimum_says_so(monkeypatch):
    monkeypatch.setattr(torch.optim.LBFGS, "step", lambda self, loss: loss())
    with pytest.raises(
        RuntimeError, match=r"the probe did not reach its minimum, its gradient is still .*: raise ridge"
    ):
        latents.probe_accuracy(draws(6, 2), torch.arange(6) % 2, draws(6, 2), torch.arange(6) % 2)


# ---- which neighbourhoods ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 10, 49])
@pytest.mark.parametrize("pairs", [1, 1000, 2**22])
def test_trustworthiness_is_that_of_scikit_learn(k, pairs, monkeypatch):
    from sklearn.manifold import trustworthiness

    monkeypatch.setattr(latents, "NUMBERS", pairs)
    x = draws(100, 3, 4)
    for z in (x.flatten(1)[:, :2] + 0.1 * draws(100, 2, seed=1), draws(100, 2, seed=2)):
        ours, swapped = latents.trustworthiness(x, z, k), latents.trustworthiness(z, x.flatten(1), k)
        assert ours == pytest.approx(trustworthiness(x.flatten(1), z, n_neighbors=k), abs=1e-12)
        assert swapped == pytest.approx(trustworthiness(z, x.flatten(1), n_neighbors=k), abs=1e-12)


def test_a_copy_keeps_all_neighbours_and_noise_about_half():
    x = draws(300, 5)
    assert latents.trustworthiness(x, 3 * x + 1) == 1
    assert latents.trustworthiness(x, draws(300, 5, seed=1)) == pytest.approx(0.5, abs=0.02)


def test_equal_distances_share_the_lowest_rank():
    """On a square, both neighbours are nearest: whichever of them z names, it is trusted, and the far corner is not."""
    x = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [9, 9], [9, 10]])
    z = torch.tensor([[0.0], [1.0], [3.0], [7.0], [20.0], [21.0]])
    assert latents.trustworthiness(torch.from_numpy(x).double(), z, 1) == 1
    crossed = z[[0, 2, 1, 3, 4, 5]]  # corners 0 and 2 become neighbours, each the third of the other: rank 3 − 1 = 2
    # of 0 and 1 the nearest are 2 and 2, of 2 it is 0, of 3 it is 1 (rank 3): excess 2 + 0 + 2 + 2
    expected = 1 - 2 * 6 / (6 * (12 - 3 - 1))
    assert latents.trustworthiness(torch.from_numpy(x).double(), crossed, 1) == pytest.approx(expected)


def test_neighbourhoods_that_do_not_exist_are_refused():
    x = draws(20, 3)
    for k in (0, 10):
        with pytest.raises(ValueError, match=f"k is {k}: it must be at least 1 and below half of the 20 examples"):
            latents.trustworthiness(x, x, k)
    with pytest.raises(ValueError, match="x has 20 rows and z has 19"):
        latents.trustworthiness(x, x[1:])
    with pytest.raises(ValueError, match=r"x\[0, 0\] is inf"):
        latents.trustworthiness(x / 0 * x.sign(), x)


# ---- very narrow posteriors, constants, columns --------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("log_var", [-38.0, -60.0, -200.0, -1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_posteriors_that_do_not_overlap_tell_exactly_which_example_it_was(scale, log_var, dtype):
    """Where they are e^(−log_var/2) apart, the others' share of q(z) underflows: log N is left, to rounding."""
    mu = (scale * draws(50, 4)).to(dtype)
    if log_var == -38 and scale == 1e-3:
        mu = 10 * mu  # so that 10⁻⁸ of noise are still far less than what separates two of 50
    found = latents.split_rate(mu, torch.full((50, 4), log_var, dtype=dtype), samples=2).mutual_information
    torch.testing.assert_close(found, torch.full((50,), math.log(50), dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("numbers", [1, 100, 2**22])
def test_narrow_and_wide_posteriors_go_together_also_in_parts(numbers, monkeypatch):
    monkeypatch.setattr(latents, "NUMBERS", numbers)
    mu, log_var = 1e3 + draws(20, 3), torch.linspace(-40, 2, 60).view(20, 3).double()
    z = mu + draws(20, 3, seed=1) * (log_var / 2).exp()
    components = Independent(Normal(mu, (log_var / 2).exp()), 1)
    expected = MixtureSameFamily(Categorical(torch.ones(20).double()), components).log_prob(z)
    torch.testing.assert_close(latents.log_aggregate(z, mu, log_var), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4 / 3])
def test_a_latent_that_is_constant_but_for_rounding_has_no_unit(constant):
    """The mean of equal numbers may be a hair beside them, and the deviation not 0."""
    z, t = draws(60, 1), draws(60)
    with_constant = torch.cat([z, torch.full((60, 1), constant).double()], 1)
    for measure, targets in ((latents.probe_r2, t), (latents.probe_accuracy, (t > 0).long())):
        plain, found = (measure(a[:40], targets[:40], a[40:], targets[40:]) for a in (z, with_constant))
        assert found == pytest.approx(plain, abs=1e-9)
    with pytest.raises(ValueError, match="every test target is"):
        latents.probe_r2(z[:40], t[:40], z[40:], torch.full((20,), constant).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8])
def test_latents_of_any_type_lists_and_arrays_are_taken(dtype):
    z = torch.randint(0, 9, (60, 3), generator=torch.Generator().manual_seed(0))
    y = z[:, 0] // 3
    halves = lambda z, y: (z[:40], y[:40], z[40:], y[40:])  # noqa: E731
    for measure in (
        latents.active_units,
        lambda z: torch.stack(list(latents.split_rate(z, 0 * z))),
        lambda z: latents.factor_information(z, {"y": y}, bins=4)["y"],
        lambda z: torch.tensor(latents.probe_accuracy(*halves(z, y))),
        lambda z: torch.tensor(latents.probe_r2(*halves(z, y))),
        lambda z: torch.tensor(latents.trustworthiness(z, z[:, :2], 3)),
    ):
        expected = measure(z.double())
        torch.testing.assert_close(
            measure(z.to(dtype)), expected, rtol=1e-5 if dtype.is_floating_point else 1e-6, atol=1e-5
        )
    assert latents.active_units(z.tolist()).tolist() == latents.active_units(z.numpy()).tolist()


def test_columns_and_one_hot_labels_do_not_broadcast():
    z, y = draws(60, 3), torch.arange(60) % 2
    for wrong in (y[:, None], torch.nn.functional.one_hot(y)):
        with pytest.raises(ValueError, match="it must be 60 finite numbers"):
            latents.probe_accuracy(z, wrong, z, y)
        with pytest.raises(ValueError, match="it must be 60 numbers without NaN"):
            latents.factor_information(z, {"y": wrong})
    for options, message in (({"k": 2.5}, "k is 2.5"), ({"k": 0}, "k is 0")):
        with pytest.raises(ValueError, match=message):
            latents.trustworthiness(z, z, **options)
