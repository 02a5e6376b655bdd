"""The models that are learnt by counting: tables against counts by hand, probabilities against every possible image."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import log

import pytest
import torch
from helpers import close

from dgm_lib import datasets
from dgm_lib.models.baselines import IndependentPixels, NaiveBayes, PixelChain

SHAPE, LEVELS, CLASSES = (1, 2, 3), 3, 2
MODELS = ("independent pixels", "naive Bayes", "pixel chain")
every_model = pytest.mark.parametrize("name", MODELS)


def levels_to_images(k):
    return k.double().view(-1, *SHAPE) / (LEVELS - 1)


@pytest.fixture(scope="module")
def every_image():
    """All 3^6 images, (729, 1, 2, 3)."""
    return levels_to_images(torch.cartesian_prod(*[torch.arange(LEVELS)] * 6))


@pytest.fixture(scope="module")
def sample():
    """200 images whose pixels depend on each other, and their labels."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(200, generator=generator) < 0.25).long()
    k = torch.randint(LEVELS, (200, 6), generator=generator)
    k[:, 1] = torch.where(y == 0, k[:, 0], k[:, 1])
    k[:, 4] = k[:, 1]
    return levels_to_images(k), y


def untrained(name):
    return {
        "independent pixels": lambda: IndependentPixels(SHAPE, LEVELS),
        "naive Bayes": lambda: NaiveBayes(SHAPE, LEVELS, CLASSES),
        "pixel chain": lambda: PixelChain(SHAPE, LEVELS, bins=2),
    }[name]()


def fitted(name, x, y):
    return {
        "independent pixels": lambda: IndependentPixels.fit(x, LEVELS),
        "naive Bayes": lambda: NaiveBayes.fit(x, y, LEVELS, CLASSES),
        "pixel chain": lambda: PixelChain.fit(x, LEVELS, bins=2, strength=5),
    }[name]()


# ---- what every model promises -------------------------------------------------------------------------------------


@every_model
def test_probabilities_of_all_images_sum_to_1(name, every_image, sample):
    model = fitted(name, *sample)
    close(model.log_prob(every_image).exp().sum(), 1.0)


@every_model
def test_untrained_model_is_uniform(name, every_image):
    model = untrained(name).double()
    close(model.log_prob(every_image), [-6 * log(LEVELS)] * len(every_image))


@every_model
def test_samples_come_as_often_as_their_probability_says(name, every_image, sample):
    torch.manual_seed(0)
    model, n = fitted(name, *sample), 40_000
    drawn = Counter(map(tuple, (model.sample(n).flatten(1) * (LEVELS - 1)).long().tolist()))
    assert sum(drawn.values()) == n
    observed = torch.tensor([drawn[tuple(k)] for k in (every_image.flatten(1) * (LEVELS - 1)).long().tolist()])
    expected = n * model.log_prob(every_image).exp()
    assert ((observed - expected).abs() < 5 * expected.sqrt() + 1).all()
    chi_squared, freedom = ((observed - expected) ** 2 / expected).sum(), len(every_image) - 1
    assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5


@every_model
def test_tables_are_saved_and_loaded(name, every_image, sample, tmp_path):
    model = fitted(name, *sample)
    assert not list(model.parameters())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = untrained(name).double()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(again.log_prob(every_image), model.log_prob(every_image))


@every_model
def test_single_precision_agrees_with_double(name, every_image, sample):
    x, y = sample
    single, double = fitted(name, x.float(), y), fitted(name, x, y)
    assert single.sample(2).dtype == single.log_prob(every_image.float()).dtype == torch.float32
    assert double.sample(2).dtype == torch.float64
    close(single.log_prob(every_image.float()), double.log_prob(every_image), atol=1e-5, rtol=1e-5)


@every_model
def test_what_is_no_batch_of_scaled_images_is_refused(name, sample):
    x, y = sample
    model = fitted(name, x, y)
    for use in (model.log_prob, lambda x: fitted(name, x, y)):
        with pytest.raises(ValueError, match=r"a pixel is 0\.3, not k/2"):
            use(torch.where(x == 0.5, 0.3, x))
        with pytest.raises(ValueError, match=r"a pixel is nan"):
            use(torch.where(x == 0.5, torch.nan, x))
        with pytest.raises(ValueError, match=r"got torch.uint8 of shape \(200, 1, 2, 3\): .*Split.scaled"):
            use((x * 2).byte())
        with pytest.raises(ValueError, match=r"got torch.float64 of shape \(200, 6\)"):
            use(x.flatten(1))
    with pytest.raises(ValueError, match=r"of shape \(B, 1, 2, 3\).* got torch.float64 of shape \(200, 1, 3, 2\)"):
        model.log_prob(x.mT)


@every_model
def test_no_images_give_no_figures(name, sample):
    x, y = sample
    assert fitted(name, x, y).log_prob(x[:0]).shape == (0,)


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_counted_in_single_precision(name, dtype, sample):
    """bfloat16 counts 256, 256, 256, …"""
    x, y = sample[0].repeat(10, 1, 1, 1), sample[1].repeat(10)
    half, single = fitted(name, x.to(dtype), y), fitted(name, x.float(), y)
    assert torch.equal(half.log_prob(x.to(dtype)), single.log_prob(x.float()))


# ---- independent pixels --------------------------------------------------------------------------------------------


def test_a_pixel_has_its_own_smoothed_frequencies():
    x = torch.tensor([0.0, 0.0, 0.5, 1.0]).view(4, 1, 1, 1)
    model = IndependentPixels.fit(x, 3, alpha=0.5)
    close(model.log_prob(x).exp(), [2.5 / 5.5, 2.5 / 5.5, 1.5 / 5.5, 1.5 / 5.5])
    close(IndependentPixels.fit(x, 3, alpha=0).log_prob(x).exp(), [0.5, 0.5, 0.25, 0.25])  # maximum likelihood


# ---- naive Bayes ---------------------------------------------------------------------------------------------------


def test_joint_is_the_product_of_the_counted_shares(sample):
    x, y = sample
    model = NaiveBayes.fit(x, y, LEVELS, CLASSES, alpha=0.5)
    pixels, labels = (x.flatten(1) * 2).long().tolist(), y.tolist()

    def joint(image, label):
        members = [k for k, c in zip(pixels, labels) if c == label]
        p = (len(members) + 0.5) / (len(pixels) + 0.5 * CLASSES)
        for i, level in enumerate(image):
            p *= (sum(k[i] == level for k in members) + 0.5) / (len(members) + 0.5 * LEVELS)
        return p

    expected = torch.tensor([[joint(image, label) for label in range(CLASSES)] for image in pixels[:20]])
    close(model.log_joint(x[:20]).exp(), expected)
    close(model.log_prob(x[:20]).exp(), expected.sum(1))
    close(model.posterior(x[:20]), expected / expected.sum(1, keepdim=True))


def test_joint_summed_over_all_images_is_the_prior(every_image, sample):
    model = NaiveBayes.fit(*sample, LEVELS, CLASSES)
    close(model.log_joint(every_image).exp().sum(0), model.log_prior.exp())


def test_an_image_that_no_class_can_make_has_no_posterior():
    x = torch.tensor([0.0, 0.0, 0.5]).view(3, 1, 1, 1)
    model = NaiveBayes.fit(x, torch.tensor([0, 1, 1]), LEVELS, CLASSES, alpha=0)
    close(model.posterior(x), [[1 / 2, 1 / 2], [1 / 2, 1 / 2], [0, 1]])
    assert model.log_prob(torch.ones_like(x)).exp().tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"example 3 has probability 0 under the model.* fit with alpha > 0"):
        model.posterior(torch.cat([x, torch.ones_like(x)]))


def test_a_class_without_examples_is_uniform(every_image, sample):
    model = NaiveBayes.fit(*sample, LEVELS, CLASSES + 1, alpha=0.5)
    close(model.log_joint(every_image)[:, 2] - model.log_prior[2], [-6 * log(LEVELS)] * len(every_image))


def test_samples_of_a_class_follow_its_tables(sample):
    torch.manual_seed(0)
    model, n = NaiveBayes.fit(*sample, LEVELS, CLASSES), 20_000
    x = model.sample(n, torch.ones(n, dtype=torch.int64))
    share = torch.stack([(x == level / 2).double().mean(0) for level in range(LEVELS)], -1)
    assert ((share - model.log_p[1].exp()).abs() < 5 * (0.25 / n) ** 0.5).all()


def test_wrong_labels_are_refused(sample):
    x, y = sample
    with pytest.raises(ValueError, match="a label is 2, but the 2 classes are 0 … 1"):
        NaiveBayes.fit(x, y + 1, LEVELS, CLASSES)
    with pytest.raises(ValueError, match="a label is -1"):
        NaiveBayes.fit(x, y - 1, LEVELS, CLASSES)
    with pytest.raises(ValueError, match=r"expected 200 labels of type int64.* got torch.int64 of shape \(199,\)"):
        NaiveBayes.fit(x, y[1:], LEVELS, CLASSES)
    with pytest.raises(ValueError, match=r"got torch.float32 of shape \(200,\)"):
        NaiveBayes.fit(x, y.float(), LEVELS, CLASSES)
    with pytest.raises(ValueError, match="a label is 7"):
        NaiveBayes.fit(x, y, LEVELS, CLASSES).sample(2, torch.tensor([0, 7]))


# ---- pixel chain ---------------------------------------------------------------------------------------------------


def slow_pixel_chain(images, image, bins, alpha, strength):
    """p(image) by the definition: loops, dictionaries, and neighbours looked up one by one."""

    def neighbourhood(k, row, column):
        places = [(row, column - 1), (row - 1, column), (row - 1, column + 1), (row - 1, column - 1)]
        inside = [k[3 * r + c] if 0 <= r < 2 and 0 <= c < 3 else 0 for r, c in places]
        return tuple(round(level * (bins - 1) / (LEVELS - 1)) for level in inside)

    def estimate(features, base, weight, position, context, level):
        counted = Counter()
        for k in images:
            for i in range(6):
                if features(i, neighbourhood(k, *divmod(i, 3))) == features(position, context):
                    counted[k[i]] += 1
        return (counted[level] + weight * base) / (counted.total() + weight)

    p = 1.0
    for i, level in enumerate(image):
        here = (i, neighbourhood(image, *divmod(i, 3)), level)
        step = estimate(lambda i, c: i, 1 / LEVELS, alpha * LEVELS, *here)
        step = estimate(lambda i, c: c, step, strength, *here)
        step = estimate(lambda i, c: (i, c[:2]), step, strength, *here)
        p *= estimate(lambda i, c: (i, c), step, strength, *here)
    return p


@pytest.mark.parametrize("bins", [2, 3, 9])
def test_chain_equals_its_definition(bins, sample):
    x = sample[0][:40]
    model = PixelChain.fit(x, LEVELS, bins=bins, alpha=0.5, strength=3)
    images = (x.flatten(1) * 2).long().tolist()
    expected = [slow_pixel_chain(images, image, min(bins, 3), 0.5, 3) for image in images[:8]]
    close(model.log_prob(x[:8]).exp(), expected)


def test_chain_learns_what_independent_pixels_cannot():
    """Two rows of three fair coins, the second a copy of the first: the second row costs nothing any more."""
    rows = torch.tensor(list(product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    x = torch.stack([rows, rows], 1)[:, None].repeat(500, 1, 1, 1)
    assert -IndependentPixels.fit(x, 2).log_prob(x).mean() == pytest.approx(6 * log(2), abs=1e-3)
    assert -PixelChain.fit(x, 2, strength=0.1).log_prob(x).mean() == pytest.approx(3 * log(2), abs=1e-2)


def test_channels_are_chains_of_their_own(sample):
    x, _ = sample
    model = PixelChain.fit(torch.cat([x, 1 - x], 1), LEVELS, bins=2, strength=5)
    other = x.roll(1, 0)
    total = model.log_prob(torch.cat([x, 1 - x], 1)) + model.log_prob(torch.cat([other, 1 - other], 1))
    mixed = model.log_prob(torch.cat([x, 1 - other], 1)) + model.log_prob(torch.cat([other, 1 - x], 1))
    close(mixed, total)
    assert model.sample(3).shape == (3, 2, 2, 3)


# ---- the ruler of the course ---------------------------------------------------------------------------------------


def test_figures_on_digits():
    digits = datasets.load("digits")
    train, test = digits.train.scaled(), digits.test.scaled()
    nats = {
        "uniform": IndependentPixels((1, 8, 8), 17),
        "independent": IndependentPixels.fit(train, 17),
        "naive Bayes": NaiveBayes.fit(train, digits.train.y, 17, 10),
        "chain": PixelChain.fit(train, 17),
    }
    error = (nats["naive Bayes"].posterior(test).argmax(1) != digits.test.y).double().mean()
    nats = {name: -model.log_prob(test).double().mean().item() for name, model in nats.items()}
    expected = {"uniform": 64 * log(17), "independent": 106.3652, "naive Bayes": 99.8022, "chain": 93.7211}
    assert nats == pytest.approx(expected, abs=1e-3)
    assert error == pytest.approx(66 / 447)


# ---- nothing asked for, and counts that are none -------------------------------------------------------------------


@every_model
def test_no_samples_are_none_and_halves_are_refused(name, sample):
    model = fitted(name, *sample)
    state = torch.get_rng_state()
    assert model.sample(0).shape == (0, *SHAPE)
    assert model.sample(0).dtype == model.log_p.dtype
    assert torch.equal(torch.get_rng_state(), state)
    assert model.log_prob(model.sample(0)).shape == (0,)
    for n in (-1, 2.5, "3"):
        with pytest.raises(ValueError, match=rf"n is {n!r}: it must be a whole number ≥ 0"):
            model.sample(n)


@pytest.mark.parametrize("alpha", [-1.0, -1e-9, float("nan"), float("inf")])
@every_model
def test_counts_below_0_are_refused(name, alpha, sample):
    x, y = sample
    fit = {
        "independent pixels": lambda **options: IndependentPixels.fit(x, LEVELS, **options),
        "naive Bayes": lambda **options: NaiveBayes.fit(x, y, LEVELS, CLASSES, **options),
        "pixel chain": lambda **options: PixelChain.fit(x, LEVELS, **options),
    }[name]
    with pytest.raises(ValueError, match=f"alpha is {alpha:g}: it must be ≥ 0 and finite"):
        fit(alpha=alpha)
    if name == "pixel chain":
        with pytest.raises(ValueError, match=f"strength is {alpha:g}"):
            fit(strength=alpha)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_whole_type_are_counted(dtype, sample):
    x, y = sample
    close(NaiveBayes.fit(x, y.to(dtype), LEVELS, CLASSES).log_p, NaiveBayes.fit(x, y, LEVELS, CLASSES).log_p)
    for wrong in (y[:, None], torch.nn.functional.one_hot(y)):
        with pytest.raises(ValueError, match="expected 200 labels"):
            NaiveBayes.fit(x, wrong, LEVELS, CLASSES)
