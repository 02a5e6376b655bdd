"""What every family does with what it is not made for: the right value, or one sentence with value and remedy."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle

import pytest
import torch
from families import FAMILIES, build
from torch import Tensor, nn

from dgm_lib import checks
from dgm_lib.distributions import MixturePrior, NormalNoise, StandardNormal
from dgm_lib.models import energy, gan
from dgm_lib.models.energy import EnergyModel, NoiseContrast, ReconstructionEnergy
from dgm_lib.models.gan import GAN, gradient_penalty, r1
from dgm_lib.models.joint_energy import JointEnergyModel, LogitEnergy
from dgm_lib.models.rbm import RBM, BinaryUnits, GaussianUnits
from dgm_lib.models.vae import VAE, VampPrior
from dgm_lib.models.vq_vae import VQVAE
from dgm_lib.nets import MLP
from dgm_lib.samplers import block_gibbs, gibbs, independent_metropolis, langevin, mala, score_of

# Families whose networks are torch's own and get nothing of the library's in between, and those of other files.
OTHERS = ("softmax classifier", "convolutional classifier", "mixture of Gaussians", "probabilistic PCA", "two players")
MODELS = [name for name in FAMILIES if name not in OTHERS]
every_model = pytest.mark.parametrize("name", MODELS)

RAW = (  # words of torch's own messages, in which there is no remedy
    "mat1",
    "cat()",
    "division by zero",
    "does not require grad",
    "cannot reshape",
    "out of range",
    "expected scalar type",
    "not implemented for",
    "Inference tensor",
    "should be the same",
    "must be the same size",
    "has no attribute",
    "format string",
)


def refused(call, *errors: type[Exception], says: str = "") -> None:
    """The call raises one sentence of the library's own."""
    with pytest.raises(errors or ValueError, match=says or None) as caught:
        call()
    assert not any(word in str(caught.value) for word in RAW), str(caught.value)


def batch(family) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return next(iter(family.split.batches(12)))


def losses(family) -> list:
    return [objective.loss for objective in family.objectives.values()]


def takes(method, name: str) -> bool:
    return name in inspect.signature(method).parameters


PER_EXAMPLE = (
    "elbo", "iw_bound", "log_weight", "posterior", "reconstruct", "energy", "score", "log_prob", "logit",
    "critic_values", "free_energy", "pseudo_log_likelihood", "gibbs", "codes", "encode", "class_elbos", "joint_elbo",
    "fill_in",
)  # fmt: skip


def per_example(family, x: Tensor, y: Tensor) -> dict:
    """The methods that say something of each example, as calls with x."""
    calls, model = {}, family.model
    if type(model).__name__ == "JointVAE":
        names = ("elbo", "posterior", "iw_bound", "translate")
        first = {"iw_bound": (3,), "translate": ("image", 2)}
        return {
            name: (lambda name=name: getattr(model, name)(*first.get(name, ()), image=x, label=y)) for name in names
        }
    for name in PER_EXAMPLE:
        method = getattr(model, name, None)
        if method is None or takes(method, "h"):
            continue
        more = {}
        if getattr(model, "n_classes", None) and takes(method, "y") and name != "energy":
            more["y"] = y.clamp(min=0)
        if name == "iw_bound":
            more["k"] = 3
        if name == "gibbs":
            more["steps"] = 2
        if name == "fill_in":
            more |= {"known": torch.ones_like(x, dtype=torch.bool)}
            more |= {"rounds": 1, "k": 2} if takes(method, "rounds") else {"steps": 2, "burn_in": 1}
        calls[name] = lambda method=method, more=more: method(x, **more)
    return calls


def size(value) -> int:
    return value.batch_shape[0] if isinstance(value, torch.distributions.Distribution) else len(value)


# ---- no example ----------------------------------------------------------------------------------------------------


@every_model
def test_a_mean_over_no_example_is_refused(name):
    family = build(name)
    x, y = batch(family)
    for loss in losses(family):
        refused(lambda loss=loss: loss(x[:0], y[:0]), says="the batch is empty")
    for method in {"usage", "perplexity"} & set(dir(family.model)):
        refused(lambda method=method: getattr(family.model, method)(x[:0]), says="the batch is empty")


@every_model
def test_of_no_example_there_are_no_numbers(name):
    family = build(name)
    x, y = batch(family)
    family.model.eval()
    for method, call in per_example(family, x[:0], y[:0]).items():
        assert size(call()) == 0, method
    with torch.no_grad():
        for method, call in per_example(family, x[:0], y[:0]).items():
            assert size(call()) == 0, method


# ---- types ---------------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_floats_of_another_type_are_refused_with_both_types_and_the_way_out(name, dtype):
    family = build(name)
    x, y = batch(family)
    says = rf"{dtype} and the model calculates in torch.float32: give x.float\(\), or turn the model by model\."
    for loss in losses(family)[:1]:
        refused(lambda loss=loss: loss(x.to(dtype), y), says=says)
    for call in per_example(family, x.to(dtype), y).values():
        refused(call, says=says)


@every_model
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool], ids=str)
def test_bytes_and_integers_are_refused_with_their_type(name, dtype):
    family = build(name)
    x, y = batch(family)
    for loss in losses(family)[:1]:
        refused(lambda loss=loss: loss(x.to(dtype), y), says=f"expected float .*got {dtype}")
    for call in per_example(family, x.to(dtype), y).values():
        refused(call, says=f"expected float .*got {dtype}")


@every_model
@pytest.mark.parametrize(
    "make", [lambda x: x.numpy(), lambda x: x.tolist(), lambda x: None], ids=["array", "list", "None"]
)
def test_what_is_no_tensor_is_refused(name, make):
    family = build(name)
    x, y = batch(family)
    for loss in losses(family)[:1]:
        refused(lambda loss=loss: loss(make(x), y), says="got a ")


@every_model
def test_a_model_of_float64_takes_float64_throughout(name):
    family = build(name)
    x, y = batch(family)
    family.model.double()
    x = x.double() if name.startswith(("RBM", "energy", "noise", "GAN")) else (16 * x.double()).round() / 16
    for loss in losses(family):
        value = loss(x, y)
        assert value.dtype == torch.float64
        value.backward()
    for method, call in per_example(family, x, y).items():
        value = call()
        assert size(value) == len(x), method
        assert not isinstance(value, Tensor) or value.dtype == torch.float64, method
    if hasattr(family.model, "sample"):
        samples = drawn(family.model, 3)
        assert all(part.dtype in (torch.float64, torch.int64) for part in samples)


def test_networks_of_float64_make_chains_of_float64():
    model = EnergyModel(MLP(2, 8, 1).double(), (2,), n_chains=4, steps=1)
    assert model.chains.dtype == model.loss(torch.randn(3, 2).double()).dtype == torch.float64


# ---- values --------------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_data_that_are_no_numbers_are_refused(name, value):
    family = build(name)
    x, y = batch(family)
    x.view(-1)[7] = value
    if name == "VAE of two modalities" and math.isnan(value):
        refused(lambda: losses(family)[0](x, y), says="holds some NaN")
    refused(lambda: losses(family)[0](x, y))


@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("beyond", [-1.2, 1.001, 16.0, 255.0])
def test_data_outside_of_the_box_are_refused_with_the_value(box, beyond):
    inside = torch.rand(6, 1, 4, 4)
    x = inside.clone()
    x[3, 0, 1, 2] = beyond
    density = EnergyModel(MLP(16, 8, 1), (1, 4, 4), n_chains=4, steps=1, box=box)
    logits = EnergyModel(LogitEnergy(MLP(16, 8, 3)), (1, 4, 4), n_chains=4, steps=1, box=box)
    adversaries = GAN(MLP(2, 8, (1, 4, 4)), MLP(16, 8, 1), StandardNormal(2), box=box)
    joint, y = JointEnergyModel(logits, 3), torch.zeros(6).long()
    for loss in (density.loss, lambda x: joint.loss(x, y), adversaries.critic_loss):
        assert loss(inside).isfinite()
        refused(
            lambda loss=loss: loss(x), says=rf"x holds {beyond:g}, and the model knows numbers in \[{box[0]:g}, 1\]"
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("box", [(-0.30000000000000004, 1.3), (0.1, 0.7), (-1 / 3, 1 / 3)], ids=str)
def test_data_on_the_walls_are_inside_whatever_their_type_rounds_the_walls_to(box, dtype):
    walls = torch.tensor([[-9.0], [9.0]], dtype=dtype).clamp(*box)
    checks.check_inside(walls, box)
    refused(lambda: checks.check_inside(walls + 0.1, box))


# ---- labels --------------------------------------------------------------------------------------------------------

ODD_LABELS = {
    "(N, 1)": lambda y: y[:, None],
    "one-hot": lambda y: torch.eye(3)[y],
    "float": lambda y: y.float(),
    "int32": lambda y: y.int(),
    "too few": lambda y: y[1:],
    "too large": lambda y: y + 3,
    "below none": lambda y: y - 9,
    "list": lambda y: y.tolist(),
}
TOLD = [name for name in MODELS if any(word in name for word in ("conditional", "semi", "modalities", "joint energy"))]


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("odd", ODD_LABELS)
def test_labels_that_cannot_be_are_refused(name, odd):
    family = build(name)
    x, y = batch(family)
    y = ODD_LABELS[odd](y.clamp(min=0))
    for loss in losses(family):
        refused(lambda loss=loss: loss(x, y))


@pytest.mark.parametrize("name", TOLD)
def test_labels_that_are_wanted_are_asked_for(name):
    family = build(name)
    x, _ = batch(family)
    if name == "semi-supervised VAE":
        assert family.model.loss(x).isfinite()  # no example has one
    elif name in ("joint energy model", "semi-supervised GAN"):
        refused(lambda: losses(family)[0](x, None))
    elif name != "VAE of two modalities":
        refused(lambda: losses(family)[0](x), says="give the labels y")
        refused(lambda: family.model.sample(2), says="give the labels y")


@pytest.mark.parametrize("name", [name for name in MODELS if name not in TOLD])
def test_labels_that_nobody_wants_are_refused_where_they_are_given_by_name(name):
    family = build(name)
    x, y = batch(family)
    for method in ("elbo", "critic_values"):
        if hasattr(family.model, method) and takes(getattr(family.model, method), "y"):
            refused(lambda method=method: getattr(family.model, method)(x, y=y), says="has no classes: leave y out")


# ---- shapes --------------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("change", [lambda x: x[0], lambda x: x[..., 1:], lambda x: x[None], lambda x: x.sum()])
def test_examples_of_another_shape_are_refused(name, change):
    family = build(name)
    x, y = batch(family)
    for loss in losses(family)[:1]:
        refused(lambda loss=loss: loss(change(x), y))
    for call in per_example(family, change(x), y).values() if change(x).dim() else ():
        refused(call)


@every_model
@pytest.mark.parametrize("layout", ["non-contiguous", "channels last", "with a gradient"])
def test_the_layout_of_examples_does_not_matter(name, layout):
    family = build(name)
    x, y = batch(family)
    other = x.detach().clone()
    if layout == "non-contiguous":
        other = other.repeat_interleave(2, 0)[::2].transpose(-1, -2).contiguous().transpose(-1, -2)
    elif layout == "channels last" and x.dim() == 4:
        other = other.contiguous(memory_format=torch.channels_last)
    elif layout == "with a gradient":
        other.requires_grad_()
    values = []
    for examples in (x, other):
        model = copy.deepcopy(family)
        torch.manual_seed(0)
        values.append(torch.stack([loss(examples, y).detach() for loss in losses(model)]))
        for method, call in per_example(model, examples, y).items():
            assert size(call()) == len(x), method
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", ["VAE", "VAE, conditional", "RBM, persistent chains"])
def test_rows_that_are_known_whole_or_not_at_all(name, known):
    family = build(name)
    x, y = batch(family)
    mask = (torch.arange(len(x)) % 2 == 0).view(-1, *[1] * (x.dim() - 1)) if known else torch.zeros(1).bool()
    more = {"y": y} if name == "VAE, conditional" else {}
    filled = family.model.fill_in(x, mask, **more)
    assert filled.isfinite().all()
    assert filled.shape == x.shape
    rows = mask.expand_as(x).flatten(1).all(1)
    assert torch.equal(filled[rows], x[rows])
    flat = torch.ones(len(x), x[0].numel() + (x.dim() == 2), dtype=torch.bool)
    refused(lambda: family.model.fill_in(x, flat, **more), says="known has the shape")
    refused(lambda: family.model.fill_in(x, None, **more), says="known is a NoneType")


# ---- numbers -------------------------------------------------------------------------------------------------------


def drawn(model: nn.Module, n) -> list[Tensor]:
    """n samples, as a list of what belongs together."""
    told = getattr(model, "n_classes", None) and type(model).__name__ in ("VAE", "GAN")
    samples = model.sample(n, torch.zeros(n).long()) if told else model.sample(n)
    return list(samples.values()) if isinstance(samples, dict) else [samples]


@every_model
def test_no_samples_are_an_empty_tensor_of_the_right_shape(name):
    family = build(name)
    if not hasattr(family.model, "sample"):
        return
    for model in (family.model, family.model.eval()):
        none, some = drawn(model, 0), drawn(model, 2)
        assert [part.shape for part in none] == [(0, *part.shape[1:]) for part in some]
        assert [part.dtype for part in none] == [part.dtype for part in some]


@every_model
@pytest.mark.parametrize("n", [-1, 2.0, 2.5, math.nan, "3", None, True])
def test_a_number_of_samples_that_is_none_is_refused(name, n):
    model = build(name).model
    if hasattr(model, "sample"):
        refused(lambda: model.sample(n), says="n is ")


@pytest.mark.parametrize("n", [-1, 2.0, None])
@pytest.mark.parametrize(
    "prior",
    [StandardNormal(2), MixturePrior(3, 2), VampPrior(MLP(3, 4), torch.zeros(5, 3))],
    ids=lambda p: type(p).__name__,
)
def test_priors_count_as_models_do(prior, n):
    refused(lambda: prior.sample(n), says="n is ")
    assert prior.sample(0).shape == (0, 2)


def some_energy(**options) -> EnergyModel:
    return EnergyModel(MLP(2, 8, 1), (2,), **{"n_chains": 4, "steps": 1, **options})


def some_vae(**options) -> VAE:
    return VAE(MLP(3, 4), MLP(2, 3), StandardNormal(2), NormalNoise(), **options)


def some_gan(**options) -> GAN:
    return GAN(MLP(2, 3), MLP(3, 1), StandardNormal(2), **options)


def some_vq_vae(n_codes=4, latents=(2, 1, 2), **options) -> VQVAE:
    return VQVAE(MLP(3, 4, (2, 1, 2)), MLP(4, 3), NormalNoise(), n_codes, latents, **options)


WHOLE = {
    "n_chains": some_energy,
    "steps": some_energy,
    "draws": some_vae,
    "n_classes": some_vae,
    "n_codes": some_vq_vae,
    "k": lambda k: some_vae().iw_bound(torch.zeros(2, 3), k),
    "rounds": lambda rounds: some_vae().fill_in(torch.zeros(2, 3), torch.ones(2, 3).bool(), rounds=rounds),
    "n_hidden": lambda n_hidden: RBM(BinaryUnits(3), n_hidden),
    "n_latents": StandardNormal,
    "n_components": lambda n_components: MixturePrior(n_components, 2),
    "ratio": lambda ratio: NoiseContrast(MLP(2, 1), StandardNormal(2), ratio=ratio),
    "sweeps": lambda sweeps: gibbs(lambda x: x.sum(1), torch.zeros(2, 3), sweeps=sweeps),
    "burn_in": lambda burn_in: RBM(BinaryUnits(3), 2).fill_in(
        torch.ones(2, 3), torch.ones(2, 3).bool(), burn_in=burn_in
    ),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("number", [-1, 1.5, math.nan, math.inf, "2", [3]], ids=str)
def test_numbers_that_count_are_whole(name, number):
    refused(lambda: WHOLE[name](**{name: number}) if name != "n_latents" else WHOLE[name](number), says=f"{name} is ")


REAL = {
    "step_size": some_energy,
    "temperature": some_energy,
    "restart": some_energy,
    "penalty": some_energy,
    "beta": some_vae,
    "free_bits": some_vae,
    "penalty_weight": some_gan,
    "commitment": some_vq_vae,
    "sigma": NormalNoise,
    "weight": lambda weight: build("semi-supervised GAN").model.__class__(
        MLP(2, 3), MLP(3, 4), MLP(4, 2), StandardNormal(2), 2, weight=weight
    ),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("number", [-1, math.nan, math.inf, -math.inf, "1", None], ids=str)
def test_numbers_that_weigh_are_finite_and_not_negative(name, number):
    refused(lambda: REAL[name](**{name: number}), says=f"{name} is ")


@pytest.mark.parametrize("box", [(1.0, 0.0), (0.0, 0.0), (math.nan, 1.0), (0.0, math.inf), (0.0,)], ids=str)
def test_a_box_without_an_inside_is_refused(box):
    for make in (some_energy, some_gan):
        refused(lambda make=make: make(box=box), says="box is ")
    refused(lambda: langevin(torch.neg, torch.zeros(2, 3), steps=1, step_size=0.1, box=box), says="box is ")


# ---- gradients under inference mode --------------------------------------------------------------------------------


@every_model
def test_losses_and_samples_under_inference_mode_are_those_without(name):
    """Also where gradients are needed inside: scores of chains, and the penalty of a critic's slope."""
    values = []
    for mode in (torch.inference_mode, torch.no_grad):
        family = build(name)
        with mode():
            x, y = batch(family)
            torch.manual_seed(0)
            found = [loss(x, y) for loss in losses(family)]
            found += drawn(family.model, 2) if hasattr(family.model, "sample") else []
            for call in per_example(family, x, y).values():
                value = call()
                found += [value] if isinstance(value, Tensor) else []
        values.append([value.clone() for value in found])
    torch.testing.assert_close(*values, equal_nan=True)


@pytest.mark.parametrize("penalty", [gradient_penalty, r1])
def test_penalties_and_score_matching_under_inference_mode(penalty):
    net = some_energy()
    with torch.inference_mode():
        x = torch.randn(5, 2)
        assert penalty(net.energy, x, torch.randn(5, 2)).isfinite().all()
        assert energy.sliced_score_matching(net.energy, x).isfinite().all()
        assert energy.denoising_score_matching(net.energy, x, 0.1).isfinite().all()
        assert mala(net.energy, x, steps=2, step_size=0.1)[0].isfinite().all()


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_samples_of_a_class_by_energy_under_any_mode(around):
    model = build("joint energy model").model
    with around():
        assert model.sample(3, torch.tensor([0, 1, 2]), steps=2).shape == (3, 1, 8, 8)


# ---- what is kept --------------------------------------------------------------------------------------------------


@every_model
def test_a_model_can_be_pickled_and_copied_before_and_after_its_training(name):
    family = build(name)
    x, y = batch(family)
    for _ in range(2):
        by_pickle, copied = pickle.loads(pickle.dumps(family.model)), copy.deepcopy(family.model)
        buffer = io.BytesIO()
        torch.save(family.model, buffer)
        for other in (by_pickle, copied):
            for key, value in family.model.state_dict().items():
                assert torch.equal(other.state_dict()[key], value), key
        for objective in family.objectives.values():
            objective.turn((x, y))
        if hasattr(family.model, "sample"):
            drawn(family.model, 2)


@pytest.mark.parametrize("game", ["SATURATING", "NON_SATURATING", "LEAST_SQUARES", "HINGE", "WASSERSTEIN"])
def test_games_can_be_pickled(game):
    game = getattr(gan, game)
    assert pickle.loads(pickle.dumps(game)) == game


def test_energies_that_are_composed_can_be_pickled():
    one, two = some_energy(), some_energy()
    x = torch.randn(4, 2)
    for make in (energy.product, energy.mixture, energy.difference):
        composed = make(one.energy, two.energy)
        assert torch.equal(pickle.loads(pickle.dumps(composed))(x), composed(x))
    score = score_of(one.energy)
    assert torch.equal(pickle.loads(pickle.dumps(score))(x), score(x))


# ---- networks that give something else -----------------------------------------------------------------------------


class Gives(nn.Module):
    """A network that gives f(x), whatever it should."""

    def __init__(self, f):
        super().__init__()
        self.f, self.weight = f, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, *others: Tensor):
        return self.f(x.flatten(1) * self.weight)


ODD_OUTPUTS = {
    "(B, 5)": lambda x: x.new_zeros(len(x), 5),
    "a number": lambda x: x.sum(),
    "(1, B)": lambda x: x.new_zeros(1, len(x) + 1),
    "None": lambda x: None,
    "a tuple": lambda x: (x, x),
}


@pytest.mark.parametrize("odd", ODD_OUTPUTS)
def test_networks_that_give_something_else_are_refused(odd):
    net = Gives(ODD_OUTPUTS[odd])
    makers = {
        "energy": lambda: EnergyModel(net, (2,), n_chains=4),
        "joint energy": lambda: JointEnergyModel(EnergyModel(LogitEnergy(net), (2,), n_chains=4), 3),
        "reconstruction": lambda: EnergyModel(ReconstructionEnergy(net, 1.0), (2,), n_chains=4),
        "noise contrast": lambda: NoiseContrast(net, StandardNormal(2)).loss(torch.randn(3, 2)),
        "encoder": lambda: VAE(net, MLP(2, 3), StandardNormal(2), NormalNoise()),
        "decoder": lambda: VAE(MLP(3, 4), net, StandardNormal(2), NormalNoise()),
        "critic": lambda: GAN(MLP(2, 3), net, StandardNormal(2)),
        "generator": lambda: GAN(net, MLP(3, 1), StandardNormal(2)),
        "codes": lambda: VQVAE(net, MLP(4, 3), NormalNoise(), 4, (2, 1, 2)),
        "semi-supervised GAN": lambda: type(build("semi-supervised GAN").model)(
            MLP(2, 3), MLP(3, 4), net, StandardNormal(2), 3
        ),
    }
    for make in makers.values():
        refused(make)


# ---- the rest ------------------------------------------------------------------------------------------------------


def test_gaussian_units_refuse_what_is_no_density_s():
    model = RBM(GaussianUnits(3), 2)
    assert model.free_energy(torch.zeros(0, 3)).shape == (0,)
    refused(lambda: model.loss(torch.full((2, 3), math.inf)), says="x holds inf")


def test_no_chains_have_no_share_of_nan():
    x = torch.zeros(0, 2)
    assert mala(lambda x: x.square().sum(1), x, steps=2, step_size=0.1)[1] == 0
    assert independent_metropolis(lambda x: x.square().sum(1), x, StandardNormal(2))[1] == 0
    assert block_gibbs(torch.clone, torch.clone, x, steps=2).shape == (0, 2)


def test_ais_asks_no_device_for_float64(monkeypatch):
    """Where a device has none, as Apple's GPUs, the sum is made on the CPU."""
    model = RBM(BinaryUnits(6), 4)
    exact = model.log_z().detach().item()
    zeros = Tensor.new_zeros
    monkeypatch.setattr(Tensor, "new_zeros", lambda self, *a, dtype=None, **k: zeros(self, *a, **k))
    found = model.ais(steps=200, n_chains=100)
    assert found.log_weights.dtype == torch.float64
    assert found.log_weights.device.type == "cpu"
    assert float(found.value) == pytest.approx(exact, abs=0.05)


# ---- how often a device is asked -----------------------------------------------------------------------------------


class Elsewhere(Tensor):
    """A tensor that says that it lies on a device."""

    device = torch.device("meta")


def test_checks_on_a_device_wait_until_it_is_asked_anyway_and_none_is_lost():
    good, bad = (torch.full((3, 2), value).as_subclass(Elsewhere) for value in (0.5, 7.0))
    checks.check_inside(good, (0, 1))
    refused(lambda: checks.check_inside(bad, (0, 1)), says="x holds 7")  # outside of `seldom` at once
    with checks.seldom():
        refused(lambda: checks.check_inside(torch.full((3, 2), 7.0), (0, 1)), says="x holds 7")  # on the CPU at once
        checks.check_inside(good, (0, 1))
        checks.settle()
        checks.check_inside(bad, (0, 1))
        refused(checks.settle, says="x holds 7")
        checks.settle()  # once is enough
    with pytest.raises(ValueError, match="x holds 7"), checks.seldom():
        checks.check_inside(bad, (0, 1))
    refused(lambda: checks.check_inside(bad, (0, 1)), says="x holds 7")


def test_labels_whose_check_waits_can_be_looked_up():
    y = torch.tensor([0, 2, 5, -1])
    assert checks.as_index(y, 3) is y
    elsewhere = y.as_subclass(Elsewhere)
    with pytest.raises(ValueError, match="a label is 5, but the 3 classes are"), checks.seldom():  # noqa: PT012
        checks.check_condition(elsewhere, 4, 3, "VAE")
        assert checks.as_index(y, 3) is y
        assert checks.as_index(elsewhere, 3).tolist() == [0, 2, 2, 0]
