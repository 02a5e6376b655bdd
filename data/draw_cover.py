"""Draws the picture at the head of the README: six sets of points and, below each, its exact density.

python data/draw_cover.py
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from dgm_lib import datasets, plots


def main() -> None:
    fig, axes = plots.panels(2 * len(datasets.TOY2D), columns=len(datasets.TOY2D), size=(2.0, 2.0))
    for above, below, name in zip(axes, axes[len(datasets.TOY2D) :], datasets.TOY2D):
        toy = datasets.load(name)
        plots.points(above, toy.train.x[:2000], toy.train.y[:2000])
        plots.density(below, toy.log_prob)
        for ax in (above, below):
            plots.bare(ax)
            ax.set(xlabel="", ylabel="")
    fig.savefig(Path(__file__).with_name("points_and_densities.png"), dpi=80)


if __name__ == "__main__":
    main()
