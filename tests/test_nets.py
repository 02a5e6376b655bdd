"""Networks give the shapes that they promise, for every image size of the course."""

from __future__ import annotations

import pytest
import torch
from helpers import close
from torch import nn

from dgm_lib.nets import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    DCCritic,
    DCGenerator,
    Labelled,
    ProjectionCritic,
    frozen,
    n_parameters,
    one_number,
    spectrally_normed,
)

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 16, 16), (3, 32, 32)]


@pytest.mark.parametrize("shape", SHAPES)
def test_image_networks_map_to_vectors_and_back(shape):
    x = torch.rand(2, *shape)
    assert ConvEncoder(shape, 10, width=4)(x).shape == (2, 10)
    assert ConvDecoder(5, shape, width=4)(torch.rand(2, 5)).shape == (2, *shape)
    channels, h, w = shape
    assert MLP(channels * h * w, 16, 10)(x).shape == (2, 10)
    assert MLP(5, 16, shape)(torch.rand(2, 5)).shape == (2, *shape)


def test_mlp_without_hidden_layer_is_linear():
    net = MLP(3, 2)
    a, b = torch.rand(4, 3), torch.rand(4, 3)
    torch.testing.assert_close(net(a) + net(b) - net(torch.zeros(4, 3)), net(a + b))
    assert n_parameters(net) == 3 * 2 + 2


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="multiples of 4, not 30×30"):
        ConvEncoder((1, 30, 30), 4)


# ---- generators and critics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_generators_make_images_of_which_critics_say_one_number(shape):
    z, x = torch.randn(2, 5), torch.rand(2, *shape)
    assert DCGenerator(5, shape, width=4)(z).shape == (2, *shape)
    critic = DCCritic(shape, width=4)
    assert critic(x).shape == (2, 1)
    assert critic.body(x).shape == (2, critic.n_features)
    close(critic.head(critic.body(x)), critic(x))


def test_what_comes_out_is_raw():
    """Both signs, and no wall: what it means is for the model to say."""
    torch.manual_seed(0)
    generator = DCGenerator(5, (1, 8, 8), width=4)
    with torch.no_grad():
        generator[-1].weight.mul_(100)
        x = generator(torch.randn(50, 5))
    assert x.min() < -2
    assert x.max() > 2


def test_a_critic_looks_at_each_example_alone():
    """Else the gradient at one example would hold that of others, and a penalty on it would mean nothing."""
    torch.manual_seed(0)
    critic = DCCritic((3, 8, 8), width=4)
    x = torch.rand(4, 3, 8, 8)
    close(critic(x)[:1], critic(x[:1]))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in critic.modules())


def test_sizes_that_cannot_be_doubled_to_are_refused():
    for make in (lambda shape: DCGenerator(4, shape), DCCritic):
        with pytest.raises(ValueError, match="multiples of 4, not 30×28"):
            make((1, 30, 28))


def test_a_projection_critic_is_its_formula():
    torch.manual_seed(0)
    body = MLP(6, 4)
    critic = ProjectionCritic(body, 4, 3)
    x, y = torch.randn(5, 6), torch.tensor([0, 2, 1, 1, 0])
    plain = critic.head(body(x))
    close(critic(x, y), plain)  # the classes start alike
    nn.init.normal_(critic.embedding.weight)
    expected = [
        critic.head.weight[0] @ phi + critic.head.bias[0] + critic.embedding.weight[label] @ phi
        for phi, label in zip(body(x), y)
    ]
    close(critic(x, y), torch.stack(expected)[:, None])


# ---- spectral norm -------------------------------------------------------------------------------------------------


def largest_singular_values(net, steps=200):
    """Of each layer as a matrix, after more power iterations than a training would make."""
    for layer in net.modules():
        if hasattr(layer, "parametrizations"):
            for _ in range(steps):
                layer.weight  # noqa: B018, each look in training mode is one step
    net.eval()
    layers = [layer for layer in net.modules() if hasattr(layer, "parametrizations")]
    rows = [layer.weight.mT if isinstance(layer, nn.Embedding) else layer.weight for layer in layers]
    rows = [w.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else w for layer, w in zip(layers, rows)]
    return torch.stack([torch.linalg.matrix_norm(w.flatten(1), 2) for w in rows]).detach()


@pytest.mark.parametrize(
    ("net", "n_layers"),
    [
        (lambda: DCCritic((3, 8, 8), width=4), 3),
        (lambda: ConvEncoder((1, 8, 8), 1, width=4), 4),
        (lambda: ProjectionCritic(MLP(6, 8, 4), 4, 3), 4),
        (lambda: DCGenerator(5, (1, 8, 8), width=4), 3),
    ],
)
def test_each_layer_has_the_largest_singular_value_one(net, n_layers):
    torch.manual_seed(0)
    net = net()
    assert spectrally_normed(net) is net
    close(largest_singular_values(net), torch.ones(n_layers), atol=1e-3, rtol=0)


def test_a_spectrally_normed_critic_has_slopes_below_one():
    """Of layers and activations that stretch nothing, nothing is stretched."""
    torch.manual_seed(0)
    net = spectrally_normed(MLP(2, 32, 32, 1, activation=nn.ReLU))
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.parametrizations.weight.original.mul_(20)
    largest_singular_values(net)
    a, b = torch.randn(2, 500, 2)
    assert ((net(a) - net(b)).abs().squeeze(1) <= (a - b).norm(dim=1) * 1.001).all()


def test_norming_twice_is_norming_once():
    torch.manual_seed(0)
    net = spectrally_normed(spectrally_normed(MLP(2, 8, 1)))
    assert [len(layer.parametrizations.weight) for layer in net if isinstance(layer, nn.Linear)] == [1, 1]


# ---- labels, and what models ask of networks -----------------------------------------------------------------------


def test_labelled_puts_the_label_behind_the_input():
    net = Labelled(nn.Identity(), 3)
    y = torch.tensor([2, 0])
    close(net(torch.ones(2, 1), y), [[1.0, 0, 0, 1], [1, 1, 0, 0]])
    image = net(torch.ones(2, 1, 2, 2), y)
    assert image.shape == (2, 4, 2, 2)
    close(image.amin((2, 3)), image.amax((2, 3)))
    close(image[..., 0, 0], [[1.0, 0, 0, 1], [1, 1, 0, 0]])
    flat = Labelled(nn.Identity(), 3, flat=True)(torch.full((2, 1, 2, 2), 5.0), y)
    close(flat, [[5.0, 5, 5, 5, 0, 0, 1], [5, 5, 5, 5, 1, 0, 0]])


def test_one_number_an_example():
    for values in (torch.ones(4, 1), torch.ones(4)):
        assert one_number(values, 4, "the energy").shape == (4,)
    for values in (torch.ones(4, 3), torch.ones(()), torch.ones(5), torch.ones(4, 1, 1), torch.ones(1, 4)):
        with pytest.raises(ValueError, match=r"the energy of 4 examples has the shape .* one number an example"):
            one_number(values, 4, "the energy")


def test_what_is_frozen_gets_no_gradient_and_thaws_whatever_happens():
    net = MLP(2, 3, 1)
    net[1].bias.requires_grad_(False)
    x = torch.randn(4, 2, requires_grad=True)
    with frozen(net):
        value = net(x).sum()
    value.backward()  # after the context: what counts is the pass forward
    assert x.grad.any()
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(RuntimeError, match="mat1"), frozen(net):
        net(torch.ones(2, 7))
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]
