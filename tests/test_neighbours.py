"""Distances against float64, wherever the data lie; measures that do not move with the origin."""

from __future__ import annotations

import pytest
import torch

from dgm_lib import neighbours
from dgm_lib.datasets import imbalance
from dgm_lib.measures import latents, novelty, two_sample
from dgm_lib.models import mixtures

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
AWAY = 1e4


def grid(n, width, seed=0, dtype=torch.float32):
    """Numbers of eight binary digits behind the point: float32 keeps them exactly, also 10,000 away."""
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return ((256 * x).round() / 256).to(dtype)


def brute(x, train):
    return (x[:, None].double() - train.double()).square().sum(2).sqrt()


@pytest.mark.parametrize("pairs", [1, 50, 2**22])
@pytest.mark.parametrize("shift", [0.0, AWAY, -1e5])
@pytest.mark.parametrize("width", [1, 3, 200])
def test_the_nearest_are_those_of_float64_wherever_the_data_lie(shift, width, pairs, monkeypatch):
    monkeypatch.setattr(neighbours, "PAIRS", pairs)
    x, train = ((grid(n, width, seed) + shift) for seed, n in enumerate((9, 40)))
    train[:3] = train[0] - 4096  # two clouds: no centre lies in both
    far, indices = neighbours.nearest(x, train, 4)
    expected = brute(x, train)
    torch.testing.assert_close(far.double(), expected.sort(1).values[:, :4], rtol=1e-5, atol=0)
    torch.testing.assert_close(expected.gather(1, indices), far.double(), rtol=1e-5, atol=0)


def test_no_row_is_its_own_neighbour_and_a_copy_is():
    x = torch.cat([grid(20, 5), grid(20, 5)[:4]]) + AWAY
    far, indices = neighbours.nearest(x, x, 2, among_themselves=True)
    assert (indices != torch.arange(24)[:, None]).all()
    assert (far[:4, 0] == 0).all()
    assert indices[:4, 0].tolist() == [20, 21, 22, 23]
    torch.testing.assert_close(
        far.double(), (brute(x, x) + torch.eye(24) * 1e9).sort(1).values[:, :2], rtol=1e-5, atol=0
    )


def test_no_rows_have_no_neighbours():
    far, indices = neighbours.nearest(torch.zeros(0, 3), grid(5, 3), 2)
    assert far.shape == indices.shape == (0, 2)


@pytest.mark.parametrize("pairs", [1, 50, 2**22])
@pytest.mark.parametrize("shift", [0.0, AWAY])
@pytest.mark.parametrize("width", [1, 3, 100])
@pytest.mark.parametrize("dtype", FLOATS[2:])
def test_who_lies_in_a_ball_is_as_in_float64_and_the_border_belongs_to_it(dtype, width, shift, pairs, monkeypatch):
    """Sixteenths: sums of 100 squared differences are exact in float32, too, and many distances are equal."""
    monkeypatch.setattr(neighbours, "PAIRS", pairs)
    x, centres = ((16 * grid(n, width, seed, dtype)).round() / 16 + shift for seed, n in enumerate((60, 40)))
    x[:20] = centres[:20]
    radii = brute(centres, centres).sort(1).values[:, 2]
    radii[::2] = brute(centres[::2], x[20:]).amin(1)  # these balls end at an x
    expected = (brute(x, centres) <= radii).any(1)
    assert torch.equal(neighbours.inside(x, centres, radii.to(dtype)), expected)


def test_the_ball_around_a_copy_may_have_no_width_and_that_around_huge_numbers_overflow():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    assert neighbours.inside(x, x, torch.zeros(3)).all()
    assert neighbours.inside(x, x[:1], torch.tensor([4.9])).tolist() == [True, True, False]
    assert neighbours.inside(x, x[:1], torch.tensor([5.0])).all()
    huge = 1e30 * x[1:]  # squares are ∞ in float32: nobody can tell, and the border belongs to the ball
    far, _ = neighbours.nearest(huge, huge, 1, among_themselves=True)
    assert neighbours.inside(huge, huge, far[:, 0]).all()


def test_equal_distances_share_the_places_that_are_left():
    far = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    expected = [[0, 1 / 3, 1 / 3, 1 / 3, 1], [0, 0, 0, 1, 1], [0.4] * 5]
    torch.testing.assert_close(neighbours.neighbour_shares(far, 2), torch.tensor(expected))


# ---- what is built on them -----------------------------------------------------------------------------------------


def second_nearest(x):
    return novelty.nearest_distance(x[:60], x[60:], 2)


def by_class(x):
    return novelty.class_distances(x[:60], torch.arange(60) % 3, x[60:], 3)


def new_points(x):
    made = imbalance.smote(x, torch.arange(len(x)) % 3, 3, to=60, seed=0)[0]
    return made - x[0]  # relative to an example, wherever that lies


MEASURES = {
    "nearest distance": second_nearest,
    "by class": by_class,
    "precision and recall": lambda x: torch.tensor(two_sample.precision_recall(x[:60], x[60:])),
    "1-NN": lambda x: torch.tensor(two_sample.two_sample_accuracy(x[:60], x[60:])),
    "Fréchet": lambda x: torch.tensor(two_sample.frechet_distance(x[:60], x[60:] + 1)),
    "trustworthiness": lambda x: torch.tensor(latents.trustworthiness(x, x[:, :2], 5)),
    "SMOTE": new_points,
    "starts of EM": lambda x: mixtures.first_responsibilities(x, 4, seed=0),
}


@pytest.mark.parametrize("width", [2, 40])
@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_does_not_move_with_the_origin(name, width):
    """What float32 keeps of the inputs is exact here; a new point between two of them is rounded at its place."""
    x = grid(110, width)
    here, there = MEASURES[name](x), MEASURES[name](x + AWAY)
    rounding = torch.finfo(torch.float32).eps * AWAY
    torch.testing.assert_close(there, here, rtol=1e-6, atol=2 * rounding if name == "SMOTE" else 1e-6)


@pytest.mark.parametrize("dtype", [*WHOLE, torch.bool, *FLOATS])
def test_distances_of_any_numbers_are_those_of_floats(dtype):
    """Bytes wrap around where they are subtracted, and half precision stops at 2048."""
    x = torch.randint(0, 2 if dtype == torch.bool else 120, (30, 2, 3), generator=torch.Generator().manual_seed(0))
    x, y = x.to(dtype), torch.arange(30) % 2
    expected = brute(x[20:].flatten(1), x[:20].flatten(1))
    found = novelty.nearest_distance(x[:20], x[20:], 3)
    torch.testing.assert_close(found.double(), expected.sort(1).values[:, 2], rtol=1e-5, atol=0)
    found = novelty.class_distances(x[:20], y[:20].to(torch.int32), x[20:], 2)
    torch.testing.assert_close(found[:, 1].double(), expected[:, 1::2].amin(1), rtol=1e-5, atol=0)
    lists = novelty.nearest_distance(x[:20].double().tolist(), x[20:].double().numpy(), 3)
    torch.testing.assert_close(lists, expected.sort(1).values[:, 2], rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 4), (30, 1, 2, 2)])
def test_rows_of_any_shape_are_taken(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = brute(x[20:].reshape(10, -1), x[:20].reshape(20, -1)).amin(1)
    torch.testing.assert_close(novelty.nearest_distance(x[:20], x[20:]).double(), expected, rtol=1e-5, atol=0)
    assert novelty.nearest_distance(x[:20], x[:0]).shape == (0,)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_lies_nowhere_and_is_named(wrong):
    x = grid(10, 3)
    x[4, 1] = wrong
    for ask in (
        lambda: novelty.nearest_distance(x, grid(2, 3)),
        lambda: novelty.nearest_distance(grid(9, 3), x),
        lambda: imbalance.smote(x, torch.arange(10) % 2, 2, to=9, seed=0),
        lambda: latents.trustworthiness(grid(10, 3), x, 2),
    ):
        with pytest.raises(ValueError, match=rf"\w+\[4, 1\] is {wrong}"):
            ask()


# ---- ties ----------------------------------------------------------------------------------------------------------


def test_votes_that_tie_do_not_hang_on_the_order():
    train = torch.tensor([[0.0], [0.0], [0.0], [0.0], [1.0], [1.0], [1.0], [1.0], [1.0]])  # k = 3
    y = torch.tensor([1, 1, 1, 0, 0, 0, 1, 0, 0])
    x = torch.tensor([[0.0], [1.0], [0.5]])
    for order in (torch.arange(9), torch.arange(8, -1, -1)):
        # 3 of 4 say 1; 1 of 5 does; of all nine, 4 do
        assert two_sample.by_neighbours(train[order], y[order], x).tolist() == [1, 0, 0]


def test_a_collapsed_latent_is_trusted_alike_in_any_order():
    x = grid(40, 3)
    x = x[x[:, 0].argsort()]
    z = torch.zeros(40, 1)
    shuffled = x[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    expected = latents.trustworthiness(x, z, 5)
    assert latents.trustworthiness(shuffled, z, 5) == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(0.5, abs=0.1)
