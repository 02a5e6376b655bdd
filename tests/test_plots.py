"""Figures carry their labels and their descriptions."""

from __future__ import annotations

import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")

from dgm_lib import plots
from dgm_lib.train import History


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plots.plt.close("all")


def test_show_stores_the_description_with_the_picture(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda fig, metadata: shown.append((fig, metadata)))
    fig = plots.images(torch.rand(3, 1, 8, 8))
    plots.show(fig, "Three random images of eight by eight pixels.")
    assert shown == [(fig, {"image/png": {"alt": "Three random images of eight by eight pixels."}})]
    assert not plots.plt.fignum_exists(fig.number)  # shown once, not again at the end of the cell
    with pytest.raises(ValueError, match="describe the figure"):
        plots.show(fig, "loss")


@pytest.mark.parametrize(("channels", "white"), [(1, 0.0), (3, 1.0)])
def test_rows_hold_the_first_images_of_each_side_by_side(channels, white):
    few, many = torch.rand(2, channels, 8, 8), torch.rand(9, channels, 8, 8)
    fig = plots.rows({"few": few, "many": many}, 4)
    assert [ax.get_ylabel() for ax in fig.axes] == ["few", "many"]
    for ax, x in zip(fig.axes, (few, many)):
        drawn = torch.tensor(ax.images[0].get_array().tolist())
        drawn = 1 - drawn[None] if channels == 1 else drawn.permute(2, 0, 1)
        cells = drawn.unfold(2, 10, 10).movedim(2, 0)  # (4, C, 10, 10): an image and a pixel of white around it
        torch.testing.assert_close(cells[: len(x), :, 1:-1, 1:-1], x[:4])
        cells[: len(x), :, 1:-1, 1:-1] = white
        assert (cells - white).abs().max() < 1e-6  # 1 − (1 − 0) is rounded


@pytest.mark.parametrize("x", [torch.rand(1, 8, 8), torch.rand(0, 1, 8, 8)])
def test_a_row_without_images_is_refused(x):
    with pytest.raises(ValueError, match="a row is of images"):
        plots.rows({"nothing": x})


def test_curves_mark_the_epoch_that_was_kept():
    fig = plots.curves(History({"train": [3.0, 2.0, 1.0], "validation": [3.0, 2.5, 2.7]}, [1.0] * 3, best_epoch=1))
    (ax,) = fig.axes
    assert ax.get_xlabel() == "epoch"
    assert ax.get_ylabel() == "nats"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "train",
        "validation",
        "the weights that were kept",
    ]
    dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in dots] == [(2, 2.0), (2, 2.5)]


def test_a_grid_of_cells_tiles_the_plane():
    grid, area = plots.plane_grid(extent=2.0, n=40)
    assert grid.shape == (1600, 2)
    assert area * len(grid) == pytest.approx(16.0)
    assert grid.mean(0).abs().max() < 1e-5


def test_density_puts_the_first_coordinate_to_the_right():
    _, (ax,) = plots.panels(1)
    plots.density(ax, lambda x: torch.where(x[:, 0] > 0, 0.0, -99.0), n=10)
    pixels = ax.images[0].get_array()
    assert pixels[:, 9].min() > 0.9 > 0.1 > pixels[:, 0].max()


def test_a_ruler_puts_the_worst_on_top_and_writes_each_figure():
    fig = plots.ruler({"good": 80.0, "bad": 106.4}, xlabel="nats an image", baselines=["bad"])
    (ax,) = fig.axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["bad", "good"]
    assert ax.yaxis_inverted()
    assert {text.get_text().strip() for text in ax.texts} == {"106.4", "80.0"}


def test_grey_images_are_dark_ink_on_white_and_colour_stays():
    _, (grey, colour) = plots.panels(2)
    plots.image(grey, torch.ones(1, 2, 2))
    plots.image(colour, torch.ones(3, 2, 2))
    assert grey.images[0].get_array().max() == 0
    assert colour.images[0].get_array().shape == (2, 2, 3)


def test_a_reliability_diagram_leaves_empty_bins_out_and_says_its_axes():
    _, (ax,) = plots.panels(1)
    nan = float("nan")
    bins = torch.tensor([nan, 0.5, 0.9]), torch.tensor([nan, 0.25, 1.0]), torch.tensor([0, 1, 3])
    plots.reliability_diagram(ax, bins, "a net")
    (dots,) = ax.collections
    assert dots.get_offsets().ravel().tolist() == pytest.approx([0.5, 0.25, 0.9, 1.0])
    assert dots.get_sizes()[1] > dots.get_sizes()[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("confidence", "share that is right", "a net")


# ---- other things than what is asked for ---------------------------------------------------------------------------

ODD_IMAGES = {
    "none": torch.zeros(0, 1, 4, 4),
    "(N, H, W)": torch.zeros(3, 28, 28),
    "one image": torch.zeros(1, 28, 28),
    "rows": torch.zeros(3, 64),
    "two channels": torch.zeros(3, 2, 4, 4),
    "four channels": torch.zeros(3, 4, 4, 4),
    "channels last": torch.zeros(2, 28, 28, 3),
    "bytes": torch.zeros(3, 1, 4, 4, dtype=torch.uint8),
    "levels": torch.zeros(3, 1, 4, 4, dtype=torch.int64),
    "bools": torch.zeros(3, 1, 4, 4, dtype=torch.bool),
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_what_is_no_image_is_refused_with_its_shape(name):
    with pytest.raises(ValueError, match=r"\(.*(channel|C\b)"):
        plots.images(ODD_IMAGES[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_float_type_are_drawn(dtype, channels):
    x = torch.rand(2, channels, 4, 4).to(dtype)
    fig = plots.images(x.requires_grad_(), titles=["a", "b"])
    drawn = torch.as_tensor(fig.axes[0].images[0].get_array())
    expected = 1 - x[0, 0].detach().float() if channels == 1 else x[0].detach().float().movedim(0, -1)
    torch.testing.assert_close(drawn.float(), expected)


@pytest.mark.parametrize("n", [0, -1, 2.0, "3"])
def test_a_figure_has_a_whole_number_of_panels(n):
    with pytest.raises(ValueError, match=r"n is .*: it must be a whole number ≥ 1"):
        plots.panels(n)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(3, 3), None),
        (torch.zeros(6), None),
        (torch.zeros(3, 2), torch.zeros(2)),
        (torch.zeros(3, 2), torch.zeros(3, 1)),
        (torch.zeros(3, 2, 1), None),
    ],
)
def test_points_in_space_or_with_other_labels_are_refused(x, y):
    with pytest.raises(ValueError, match=r"points are \(N, 2\)"):
        plots.points(plots.panels(1)[1][0], x, y)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda ax: plots.images(torch.zeros(3, 1, 4, 4), titles=["a"]), "1 titles for 3 images"),
        (lambda ax: plots.ruler({}, xlabel="nats"), "at least one model"),
        (lambda ax: plots.ruler({"a": 1.0, "b": float("nan")}, xlabel="nats"), "'b' is nan"),
        (lambda ax: plots.ruler({"a": float("inf")}, xlabel="nats"), "'a' is inf"),
        (lambda ax: plots.curves(History({"a": [1.0]}, [1.0]), ["b"]), r"\['b'\]; recorded are: a"),
        (lambda ax: plots.curves(History()), "no epoch was played"),
        (lambda ax: plots.density(ax, lambda x: x.sum(), n=4), "for 16 points"),
        (lambda ax: plots.density(ax, lambda x: x, n=4), "for 16 points"),
        (lambda ax: plots.table(ax, torch.zeros(3), xlabel="a", ylabel="b"), "must be"),
        (lambda ax: plots.table(ax, torch.zeros(3, 2), xlabel="a", ylabel="b", xticks="abc"), "3 of columns"),
        (lambda ax: plots.table(ax, torch.zeros(3, 2), xlabel="a", ylabel="b", yticks="ab"), "2 names of rows"),
    ],
)
def test_a_figure_of_something_else_is_one_sentence(draw, words):
    with pytest.raises(ValueError, match=words):
        draw(plots.panels(1)[1][0])
