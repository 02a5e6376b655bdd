"""Networks give the shapes that they promise, for every image size of the course."""

from __future__ import annotations

import pytest
import torch

from dgm_lib.nets import MLP, ConvDecoder, ConvEncoder, ResidualBlock, ResidualNet, n_parameters

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 16, 16), (3, 32, 32)]


@pytest.mark.parametrize("shape", SHAPES)
def test_image_networks_map_to_vectors_and_back(shape):
    x = torch.rand(2, *shape)
    assert ConvEncoder(shape, 10, width=4)(x).shape == (2, 10)
    assert ResidualNet(shape, 10, width=4)(x).shape == (2, 10)
    assert ConvDecoder(5, shape, width=4)(torch.rand(2, 5)).shape == (2, *shape)
    channels, h, w = shape
    assert MLP(channels * h * w, 16, 10)(x).shape == (2, 10)
    assert MLP(5, 16, shape)(torch.rand(2, 5)).shape == (2, *shape)


def test_mlp_without_hidden_layer_is_linear():
    net = MLP(3, 2)
    a, b = torch.rand(4, 3), torch.rand(4, 3)
    torch.testing.assert_close(net(a) + net(b) - net(torch.zeros(4, 3)), net(a + b))
    assert n_parameters(net) == 3 * 2 + 2


def test_a_residual_block_starts_as_the_identity():
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(ResidualBlock(4)(x), x)


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="multiples of 4, not 30×30"):
        ConvEncoder((1, 30, 30), 4)
    with pytest.raises(ValueError, match="4 blocks halve an image of 8×8 to nothing"):
        ResidualNet((1, 8, 8), 4, blocks=4)
