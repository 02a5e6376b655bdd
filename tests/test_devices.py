"""Measures of tensors on a device that has no float64 are those of the same tensors on the CPU."""

from __future__ import annotations

import pytest
import torch
from apple import Apple, gpu

from dgm_lib import checks, samplers
from dgm_lib.datasets import imbalance
from dgm_lib.measures import calibration, latents, metrics, novelty, two_sample
from dgm_lib.models import classify

GENERATOR = torch.Generator().manual_seed(0)
X, Y, TRACE = torch.randn(40, 3, generator=GENERATOR), torch.arange(40) % 3, torch.randn(60, 4, generator=GENERATOR)


def gaussians(x, y):
    return classify.ClassGaussians.fit(x, y, 3)


MEASURES = {
    "ece": lambda x, y, t: calibration.expected_calibration_error(x, y),
    "temperature": lambda x, y, t: calibration.fit_temperature(x, y),
    "nll": lambda x, y, t: calibration.negative_log_likelihood(x, y).tolist(),
    "accuracy": lambda x, y, t: metrics.accuracy(lambda x: 3 * x, [(x, y)]),
    "balanced accuracy": lambda x, y, t: metrics.balanced_accuracy(checks.named(x), y, 3),
    "class shares": lambda x, y, t: metrics.class_shares(y, 3).tolist(),
    "class entropy": lambda x, y, t: metrics.class_entropy(y, 3),
    "nats": lambda x, y, t: metrics.nats(lambda x: x.sum(1), [(x, y)]),
    "bits": lambda x, y, t: metrics.bits_per_dim(lambda x: x.sum(1), [(x, y)]),
    "gap": lambda x, y, t: metrics.elbo_gap(lambda x: x.sum(1), lambda x: x.sum(1) - 1, [(x, y)]),
    "rate": lambda x, y, t: metrics.rate_distortion(lambda x: (x.sum(1), x[:, 0]), [(x, y)]),
    "bootstrap": lambda x, y, t: metrics.bootstrap_interval(x[:, 0], draws=50),
    "auroc": lambda x, y, t: novelty.auroc(x[:, 0], x[:, 1]),
    "fpr": lambda x, y, t: novelty.fpr_at(x[:, 0], x[:, 1]),
    "nearest": lambda x, y, t: novelty.nearest_distance(x, x[:5], 2).tolist(),
    "by class": lambda x, y, t: novelty.class_distances(x, y, x[:5], 3).tolist(),
    "effective sample size": lambda x, y, t: samplers.effective_sample_size(t),
    "R̂": lambda x, y, t: samplers.split_r_hat(t),
    "autocorrelation": lambda x, y, t: samplers.autocorrelation(t).tolist(),
    "Fréchet": lambda x, y, t: two_sample.frechet_distance(x, x + 1),
    "kernel": lambda x, y, t: two_sample.control(two_sample.kernel_distance, x, 10),
    "precision": lambda x, y, t: two_sample.precision_recall(x, x + 1),
    "1-NN": lambda x, y, t: two_sample.two_sample_accuracy(x, x + 1),
    "active": lambda x, y, t: latents.active_units(x).tolist(),
    "rate parts": lambda x, y, t: latents.split_rate(x, x, lambda z: -z.square().sum(1)).marginal_kl.tolist(),
    "factors": lambda x, y, t: latents.factor_information(x, {"y": y}, bins=3)["y"].tolist(),
    "probe": lambda x, y, t: latents.probe_accuracy(x, y, x, y),
    "R²": lambda x, y, t: latents.probe_r2(x, x[:, 0], x, x[:, 0]),
    "trust": lambda x, y, t: latents.trustworthiness(x, x[:, :2], 3),
    "class Gaussians": lambda x, y, t: gaussians(x, y).log_likelihood(x, y).tolist(),
    "gaps": lambda x, y, t: gaussians(x, y).log_likelihood(x, y, x > 0).tolist(),
    "filled in": lambda x, y, t: gaussians(x, y).fill_in(x, y, x > 0).tolist(),
    "prior": lambda x, y, t: classify.class_prior(y, 3).tolist(),
    "estimated prior": lambda x, y, t: classify.estimate_prior(x, torch.full_like(x[0], 1 / 3)).tolist(),
    "SMOTE": lambda x, y, t: imbalance.smote(x, y, 3, to=20, seed=0)[0].tolist(),
    "oversampling": lambda x, y, t: imbalance.oversample(y, 3, to=20, seed=0).tolist(),
    "few labels": lambda x, y, t: imbalance.few_labels(y, 3, 3, seed=0).tolist(),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_needs_no_float64_of_the_device(name):
    measure = MEASURES[name]
    expected = measure(X, Y, TRACE)
    with Apple():
        found = measure(gpu(X), gpu(Y), gpu(TRACE))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))


def test_the_stand_in_refuses_what_the_device_would():
    with Apple():
        x = gpu(X)
        assert x.device.type == "mps"
        for use, error in (
            (x.double, TypeError),
            (lambda: x.to(torch.float64), TypeError),
            (lambda: x + X, RuntimeError),
            (lambda: x[:, 0].cumsum(0, dtype=torch.float64), TypeError),
        ):
            with pytest.raises(error):
                use()
        assert x.cpu().double().device.type == "cpu"
