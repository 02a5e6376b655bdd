"""Measures of samples against closed forms and against another library on the same features."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from importlib.metadata import version

import torch
from torch import Tensor, nn

from benchmarks.harness import Measurement
from benchmarks.vae_speed import download
from dgm_lib import datasets
from dgm_lib.datasets.paths import cache_folder
from dgm_lib.measures import judges
from dgm_lib.measures.two_sample import frechet_distance

VERSION = "1.9.0"  # of torchmetrics
D = 64


# ---- two Gaussians -------------------------------------------------------------------------------------------------


def gaussians(seed: int) -> tuple[Tensor, Tensor, float]:
    """Two sets of features with given means and covariances, exactly, and the distance in closed form.

    The second law is the first one moved by x → T x + c with a symmetric T > 0: the gradient of a convex function, so
    that no other map is cheaper, and the distance is E|x − T x − c|². Brenier 1991. The covariances do not commute.
    """
    generator = torch.Generator().manual_seed(seed)
    root, half, c = (torch.randn(shape, generator=generator).double() for shape in ((D, D), (D, D), (D,)))
    t = half @ half.T / D + 0.1 * torch.eye(D)
    exact = ((torch.eye(D) - t) @ root).square().sum() + c.square().sum()
    corners = math.sqrt((2 * D - 1) / 2) * torch.cat([torch.eye(D), -torch.eye(D)]).double()  # of mean 0, covariance 1
    return corners @ root.T, corners @ (t @ root).T + c, exact.item()


# ---- torchmetrics --------------------------------------------------------------------------------------------------


class AsTheyAre(nn.Module):
    """What torchmetrics is given in place of Inception: its images are features already."""

    num_features = D

    def forward(self, x: Tensor) -> Tensor:
        return x


def theirs(a: Tensor, b: Tensor) -> float:
    """By the public class FrechetInceptionDistance, in float64."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=AsTheyAre())
    for x, real in ((a, True), (b, False)):
        distance.update(x.double(), real=real)
    return distance.compute().item()


def install() -> None:
    """Puts torchmetrics on the path, downloading it once, without torch. Raises RuntimeError where that fails."""
    folder = cache_folder() / f"torchmetrics-{VERSION}"
    if not (folder / "complete").exists():
        download(folder, "--no-deps", f"torchmetrics=={VERSION}", "lightning-utilities")
        (folder / "complete").touch()
    sys.path.append(str(folder))  # at the end: nothing of ours is hidden
    importlib.import_module("torchmetrics.image.fid")
    if version("torchmetrics") != VERSION:
        raise RuntimeError(f"torchmetrics {version('torchmetrics')} is on the path before {VERSION}: uninstall it")


# ---- the measurement -----------------------------------------------------------------------------------------------


def samples(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features to compare on: draws of two Gaussians, and glyphs against noisy glyphs and against other glyphs."""
    generator = torch.Generator().manual_seed(seed)
    mix, a, b = (torch.randn(shape, generator=generator) for shape in ((D, D), (5000, D), (3000, D)))
    yield a, b @ mix + 1
    judge, x = judges.load("glyphs"), datasets.load("glyphs").test.scaled()
    x = x[torch.randperm(len(x), generator=generator)]
    noisy = (x[1000:] + 0.2 * torch.randn(x[1000:].shape, generator=generator)).clamp(0, 1)
    real = judge.features(x[:1000])
    yield real, judge.features(noisy)
    yield real, judge.features(x[1000:])


def frechet_error(runs: int) -> Measurement:
    """The larger of two relative differences: from the closed form, and from torchmetrics on the same features."""
    install()
    from_exact, from_theirs = [], []
    for seed in range(runs):
        a, b, exact = gaussians(seed)
        from_exact.append(max(abs(frechet_distance(x, y) / exact - 1) for x, y in ((a, b), (b, a))))
        pairs = [(frechet_distance(x, y), theirs(x, y)) for x, y in [(a, b), *samples(seed)]]
        from_theirs.append(max(abs(ours / other - 1) for ours, other in pairs))
    note = f"{max(from_exact):.1g} from the closed form of Gaussians with {D} features, {max(from_theirs):.1g} from "
    note += f"FrechetInceptionDistance of torchmetrics {VERSION} on those, on draws of Gaussians and on glyphs"
    return Measurement([max(pair) for pair in zip(from_exact, from_theirs)], range(runs), note, summary=max)
