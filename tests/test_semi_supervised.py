"""M2 where everything is known: Gaussians with a mean for each class, whose p(z|x, y) and p(y|x) have closed forms."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import close, set_linear
from torch import nn
from torch.distributions import MultivariateNormal
from torch.nn.functional import cross_entropy

from dgm_lib.distributions import MixturePrior, NormalNoise, StandardNormal, logistic_pixels
from dgm_lib.models.semi_supervised import M2, OnLatents
from dgm_lib.models.vae import VAE
from dgm_lib.nets import MLP, Labelled
from dgm_lib.train import Objective, fit

SIGMA, FEATURES, LATENTS, CLASSES = 0.7, 4, 2, 3
PRIOR = torch.tensor([0.5, 0.3, 0.2]).double()


def unit_gaussian(n_latents):
    """N(0, I) as a prior without a closed form: each draw of an exact q then gives log p(x|y) itself, without noise."""
    prior = MixturePrior(1, n_latents)
    with torch.no_grad():
        prior.mu.zero_()
    return prior


def gaussian_m2(*, q_shift=0.0, y_shift=0.0, **options):
    """p(y) = PRIOR, x = W z + b_y + σ ε, W with orthogonal columns. q(z|x, y) and q(y|x) are exact unless shifted.

    q_shift: what the mean of q(z|x, y) has too much. y_shift: what the logit of the first class has too much.
    """
    torch.manual_seed(0)
    w = torch.linalg.qr(torch.randn(FEATURES, LATENTS, dtype=torch.float64)).Q * torch.tensor([1.5, 0.8]).double()
    b = torch.randn(CLASSES, FEATURES).double()
    variance = 1 / (1 + (w**2).sum(0) / SIGMA**2)  # of p(z|x, y): (D,)
    to_mean = variance[:, None] * w.mT / SIGMA**2
    zeros = torch.zeros(LATENTS, FEATURES + CLASSES).double()
    encoder, decoder = nn.Linear(FEATURES + CLASSES, 2 * LATENTS).double(), nn.Linear(LATENTS + CLASSES, FEATURES)
    by_mean = torch.cat([to_mean, -to_mean @ b.mT], 1)
    set_linear(encoder, torch.cat([by_mean, zeros]), torch.cat([torch.full((LATENTS,), q_shift), variance.log()]))
    set_linear(decoder.double(), torch.cat([w, b.mT], 1), torch.zeros(FEATURES))
    precision = torch.linalg.inv(covariance(w))
    classifier = nn.Linear(FEATURES, CLASSES).double()
    bias = PRIOR.log() - 0.5 * (b @ precision * b).sum(1) + y_shift * torch.eye(CLASSES)[0]
    set_linear(classifier, b @ precision, bias)
    networks = Labelled(encoder, CLASSES), Labelled(decoder, CLASSES)
    vae = VAE(*networks, unit_gaussian(LATENTS), NormalNoise(SIGMA), n_classes=CLASSES).double()
    return M2(vae, classifier, PRIOR, **options)


def covariance(w):
    return w @ w.mT + SIGMA**2 * torch.eye(len(w)).double()


@torch.no_grad()
def log_joint(m2, x):
    """log p(x, y) for each class, exactly: (B, K)."""
    weight = m2.vae.decoder.net.weight
    w, b = weight[:, :LATENTS], weight[:, LATENTS:].mT
    by_class = MultivariateNormal(b, covariance(w))  # K of them
    return by_class.log_prob(x[:, None]) + PRIOR.log()


def examples(m2, n=6):
    torch.manual_seed(1)
    return m2.sample(n)


def labels(*y):
    return torch.tensor(y)


# ---- the bounds, where log p is known ------------------------------------------------------------------------------


def test_with_exact_posteriors_both_bounds_are_tight():
    m2 = gaussian_m2()
    x = examples(m2)
    exact = log_joint(m2, x)
    for c in range(CLASSES):
        close(m2.joint_elbo(x, torch.full((len(x),), c)), exact[:, c])
    close(m2.elbo(x), exact.logsumexp(1))
    close(m2.posterior(x), exact.softmax(1))


def test_what_a_wrong_q_of_the_label_costs_is_its_kl():
    m2 = gaussian_m2(y_shift=1.5)
    x = examples(m2)
    exact = log_joint(m2, x)
    log_p_y, log_q = exact.log_softmax(1), m2(x).log_softmax(1)
    kl = (log_q.exp() * (log_q - log_p_y)).sum(1)
    assert (kl > 0.01).any()
    close(m2.elbo(x), exact.logsumexp(1) - kl)


def test_what_a_wrong_q_of_the_latents_costs_is_its_kl():
    """Equal covariances: the KL is half the shift's square over the variances, whatever x and y."""
    m2 = gaussian_m2(q_shift=0.2)
    x = examples(m2, 2).repeat_interleave(20_000, 0)
    exact = log_joint(m2, x)
    variance = m2.vae.posterior(x[:1], labels(0)).variance
    kl = 0.5 * (0.2**2 / variance).sum()
    gap = exact.logsumexp(1) - m2.elbo(x)
    for part in gap.detach().view(2, -1):
        assert (part.mean() - kl).abs() < 4.5 * part.std() / len(part) ** 0.5
    joint = exact[:, 2] - m2.joint_elbo(x, torch.full((len(x),), 2))
    assert (joint.detach().mean() - kl).abs() < 4.5 * joint.detach().std() / len(joint) ** 0.5


def test_a_label_that_changes_nothing_makes_no_difference():
    """All labels share one draw: networks that do not look at the label give equal bounds, though each is noisy."""
    m2 = latents_m2()
    for net in (m2.vae.encoder.net, m2.vae.decoder.net):
        with torch.no_grad():
            net[1].weight[:, -2:] = 0  # what the label goes through
    x = torch.randn(5, 3)
    bounds = m2.class_elbos(x)
    close(bounds[:, 0], bounds[:, 1])
    assert not torch.allclose(bounds, m2.class_elbos(x))


def test_bounds_of_all_labels_are_those_of_each():
    m2 = gaussian_m2(q_shift=0.2)
    x = examples(m2, 1).expand(20_000, -1)
    bounds = m2.class_elbos(x).detach()
    for c in range(CLASSES):
        other = m2.joint_elbo(x, torch.full((len(x),), c)).detach()
        error = (bounds[:, c].var() / len(x) + other.var() / len(x)).sqrt()
        assert (bounds[:, c].mean() - other.mean()).abs() < 4.5 * error


def test_the_default_prior_is_uniform():
    m2 = gaussian_m2()
    uniform = M2(m2.vae, m2.classifier)
    x, y = examples(m2), labels(0, 1, 2, 0, 1, 2)
    close(m2.joint_elbo(x, y) - uniform.joint_elbo(x, y), (CLASSES * PRIOR).log()[y], rtol=0, atol=1e-6)


def test_samples_have_the_classes_of_the_prior_or_those_asked_for():
    m2 = gaussian_m2()
    torch.manual_seed(0)
    means = m2.vae.decoder.net.weight[:, LATENTS:].mT
    close(m2.sample(40_000).mean(0), PRIOR @ means, rtol=0, atol=0.05)
    close(m2.sample(20_000, torch.full((20_000,), 2)).mean(0), means[2], rtol=0, atol=0.05)


# ---- the loss ------------------------------------------------------------------------------------------------------


def test_loss_of_a_mixed_batch_is_that_of_its_equations():
    """Noise-free, as q(z|x, y) is exact; q(y|x) is not."""
    m2 = gaussian_m2(y_shift=0.7, alpha=3.0)
    x, y = examples(m2, 5), labels(-1, 2, -1, 0, -1)
    joint, log_q = log_joint(m2, x), m2(x).log_softmax(1)
    unlabelled = (log_q.exp() * (joint - log_q)).sum(1)
    bounds = [unlabelled[0], joint[1, 2], unlabelled[2], joint[3, 0], unlabelled[4]]
    close(m2.loss(x, y), -sum(bounds) / 5 - 3.0 * (log_q[1, 2] + log_q[3, 0]) / 2)
    order = labels(3, 0, 4, 1, 2)
    close(m2.loss(x[order], y[order]), m2.loss(x, y))


def test_loss_of_a_batch_with_all_labels_and_with_none():
    m2 = gaussian_m2(y_shift=0.7, alpha=0.5)
    x, y = examples(m2, 4), labels(0, 1, 2, 0)
    close(m2.loss(x, y), -m2.joint_elbo(x, y).mean() + 0.5 * cross_entropy(m2(x), y))
    close(m2.loss(x), -m2.elbo(x).mean())
    close(m2.loss(x, labels(-1, -1, -1, -1)), -m2.elbo(x).mean())


def test_who_teaches_the_classifier():
    """Labelled examples do through alpha alone, unlabelled ones through their bound."""
    m2 = gaussian_m2(y_shift=0.7, alpha=0.0)
    x = examples(m2, 4)
    for y, learns in ((labels(0, 1, 2, 0), False), (labels(-1, 1, 2, 0), True)):
        m2.zero_grad()
        m2.loss(x, y).backward()
        gradient = m2.classifier.bias.grad
        assert (gradient is not None and bool(gradient.abs().max() > 1e-6)) == learns


def test_at_exact_posteriors_the_unlabelled_bound_leaves_q_of_the_label_alone():
    m2 = gaussian_m2()
    m2.loss(examples(m2)).backward()
    close(m2.classifier.bias.grad, torch.zeros(CLASSES), rtol=0, atol=1e-7)  # σ was made in float32


def test_unlabelled_examples_find_the_border_that_two_labels_leave_open():
    """Two long groups side by side, one label at opposite ends of each: two labels alone put a slanted border."""
    torch.manual_seed(0)
    group = torch.randint(0, 2, (300,))
    x = torch.stack([0.3 * torch.randn(300) + 3.0 * group - 1.5, torch.randn(300)], 1)
    ends = torch.tensor([[-1.5, -2.0], [1.5, 2.0]])
    x, y = torch.cat([x, ends]), torch.cat([torch.full((300,), -1), torch.tensor([0, 1])])
    networks = Labelled(MLP(4, 8, 2), 2), Labelled(nn.Linear(3, 2), 2)
    m2 = M2(VAE(*networks, StandardNormal(1), NormalNoise(), n_classes=2), nn.Linear(2, 2), alpha=10.0)
    alone = nn.Linear(2, 2)
    losses = {m2: m2.loss, alone: lambda x, y: cross_entropy(alone(x[-2:]), y[-2:])}
    for model, loss in losses.items():
        fit(model, {"loss": Objective(loss, torch.optim.Adam(model.parameters(), 3e-2))}, [(x, y)] * 200, 1)
    right = [(model(x[:-2]).argmax(1) == group).float().mean() for model in losses]
    assert right[0] == 1
    assert right[1] < 0.99


# ---- on latents ----------------------------------------------------------------------------------------------------


class Softmax(nn.Module):
    """The least classifier that OnLatents takes."""

    def __init__(self, n_latents, n_classes):
        super().__init__()
        self.net = nn.Linear(n_latents, n_classes)

    def forward(self, z):
        return self.net(z)

    def loss(self, z, y):
        self.seen = z
        return cross_entropy(self(z), y)


def digits_vae(**options):
    torch.manual_seed(0)
    grey = partial(logistic_pixels, levels=17)
    encoder = nn.Sequential(MLP(64, 16), nn.Dropout(0.5), nn.Linear(16, 6))
    return VAE(encoder, MLP(3, 16, (2, 8, 8)), StandardNormal(3), grey, **options)


def digits(n=4):
    return torch.randint(0, 17, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 16


def latents_m2():
    """M2 of vectors with three numbers, two classes."""
    networks = Labelled(MLP(5, 8, 4), 2), Labelled(MLP(4, 8, 3), 2)
    return M2(VAE(*networks, StandardNormal(2), NormalNoise(), n_classes=2), MLP(3, 8, 2))


def test_on_latents_trains_on_draws_and_classifies_by_means():
    model = OnLatents(digits_vae(), Softmax(3, 2))
    x, y = digits(), labels(0, 1, 1, 0)
    close(model(x), model.model(model.vae.posterior(x).mean))
    close(model.posterior(x).sum(1), torch.ones(4))
    torch.manual_seed(3)
    loss = model.loss(x, y)
    torch.manual_seed(3)
    z = model.vae.posterior(x).sample()
    close(model.model.seen, z)
    assert not torch.equal(z, model.latents(x))
    close(loss, cross_entropy(model.model(z), y))


def test_on_latents_the_vae_neither_learns_nor_drops_anything():
    model = OnLatents(digits_vae(), latents_m2())
    before = {name: value.clone() for name, value in model.vae.state_dict().items()}
    x, y = digits(), labels(0, 1, -1, -1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.1)
    start = [p.clone() for p in model.model.parameters()]
    fit(model, {"M1+M2": Objective(model.loss, optimizer)}, [(x, y)] * 3, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.vae.state_dict().items())
    assert all(not torch.equal(p, old) for p, old in zip(model.model.parameters(), start))
    model.train()
    assert model.model.training
    assert not model.vae.training
    close(model.latents(x), model.latents(x))  # with dropout they would differ


# ---- what is let in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (labels(0, -2), "a label is -2, but the 3 classes are 0 … 2, or −1 for no label"),
        (labels(0, 3), "a label is 3, but the 3 classes are 0 … 2"),
        (labels(0, 1).int(), "type int64"),
        (torch.tensor([0.0, -1.0]), "type int64"),
        (labels(0, 1, 2), "expected 2 labels"),
    ],
)
def test_labels_that_cannot_be(y, said):
    m2 = gaussian_m2()
    with pytest.raises(ValueError, match=said):
        m2.loss(examples(m2, 2), y)


def test_examples_of_another_shape():
    with pytest.raises(ValueError, match="expected float examples of shape"):
        gaussian_m2().loss(torch.zeros(2, 5).double(), labels(0, -1))


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        (torch.tensor([0.5, 0.3, 0.3]), "sums to 1.1"),
        (torch.tensor([0.5, 0.5, 0.0]), "of class 2 is 0: a class that never happens"),
        (torch.tensor([0.7, 0.6, -0.3]), "of class 2 is -0.3"),
        (torch.tensor([0.5, 0.5]), "it must be 3 floats, one a class"),
        (torch.tensor([0.5, 0.5, torch.nan]), "must be ≥ 0"),
    ],
)
def test_a_prior_that_is_none(prior, said):
    m2 = gaussian_m2()
    with pytest.raises(ValueError, match=said):
        M2(m2.vae, m2.classifier, prior)


@pytest.mark.parametrize("alpha", [-0.1, float("inf"), float("nan")])
def test_alpha_that_is_no_weight(alpha):
    with pytest.raises(ValueError, match="alpha is"):
        gaussian_m2(alpha=alpha)


def test_parts_that_do_not_fit():
    m2 = gaussian_m2()
    with pytest.raises(ValueError, match="must end in 3 logits"):
        M2(m2.vae, nn.Linear(FEATURES, 2).double())
    with pytest.raises(ValueError, match="does not take the examples"):
        M2(m2.vae, nn.Linear(FEATURES + 1, 3).double())
    with pytest.raises(ValueError, match="has no classes"):
        M2(digits_vae(), MLP(64, 3))
    with pytest.raises(ValueError, match="latents need one without"):
        OnLatents(m2.vae, Softmax(2, 3))
    with pytest.raises(ValueError, match="does not take the 3 latents"):
        OnLatents(digits_vae(), Softmax(4, 2))


@pytest.mark.parametrize("options", [{"beta": 2.0}, {"free_bits": 0.1}, {"draws": 2}])
def test_a_vae_whose_own_loss_is_no_single_bound(options):
    networks = Labelled(MLP(5, 8, 4), 2), Labelled(MLP(4, 8, 3), 2)
    vae = VAE(*networks, StandardNormal(2), NormalNoise(), n_classes=2, **options)
    with pytest.raises(ValueError, match="take 1, 0 and 1"):
        M2(vae, MLP(3, 2))
