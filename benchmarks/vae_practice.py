"""What a VAE is good for, measured: glyphs turned by a requested angle, and missing pixels filled in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean, median

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from benchmarks.harness import Measurement
from benchmarks.vae_figures import THREADS, digits_model
from dgm_lib import datasets
from dgm_lib.datasets.core import Split
from dgm_lib.distributions import StandardNormal, logistic_pixels
from dgm_lib.measures import metrics
from dgm_lib.models.mixtures import GaussianMixture
from dgm_lib.models.ppca import PPCA
from dgm_lib.models.vae import VAE
from dgm_lib.nets import MLP, Labelled
from dgm_lib.objective import adam
from dgm_lib.train import fit

# ---- rotation ------------------------------------------------------------------------------------------------------

LATENTS, WIDTH, LEVELS, SIDE = 32, 512, 17, 14
VAE_EPOCHS, READER_EPOCHS, KNOB_EPOCHS = 50, 20, 15
GREATEST = 15.0  # degrees: the data turn no farther


def attribute_rotation_error(runs: int) -> Measurement:
    """Mean error in degrees where test digits and letters are moved to a random angle by attribute arithmetic.

    z' = z + m(r') − m(r): m is the mean latent of glyphs with the knobs r, r is read off z, and r' has the angle
    changed. Angle and class of what comes out are read by a network that saw training glyphs only. The error is that
    from the angle asked for, so that it holds what the reconstruction loses and what the reader misreads.
    """
    torch.set_num_threads(THREADS)
    data = datasets.load("glyphs")
    train, test = pooled(data.train), pooled(data.test)
    found = [rotated(train, test, seed) for seed in range(runs)]
    errors, kept = [each["edited"] for each in found], [each["kept"] for each in found]
    beside = {name: mean(each[name] for each in found) for name in found[0]}
    note = f"class kept in {min(kept):.1%} at least, read right in {beside['right']:.1%} before; mean errors: of the "
    note += f"reader {beside['reader']:.1f}°, after reconstruction {beside['reconstructed']:.1f}°, of the angle moved "
    note += f"by {beside['change']:.1f}°, along one straight direction {beside['straight']:.1f}°, with nothing done "
    note += f"{beside['nothing']:.1f}°"
    return Measurement(errors, range(runs), note, holds=median(errors) <= 5 and min(kept) >= 0.9)


def pooled(split: Split) -> Split:
    """14×14 pixels of 17 levels."""
    x = (avg_pool2d(split.x.float(), 2) * ((LEVELS - 1) / 255)).round()
    return Split(x.to(torch.uint8), split.y, LEVELS, split.factors)


@torch.no_grad()
def rotated(train: Split, test: Split, seed: int) -> dict[str, float]:
    """Mean errors in degrees, and shares of classes, of one reader and one VAE."""
    reader, vae = trained_reader(train, seed), trained_vae(train, seed)
    z, z_test = (vae.posterior(split.scaled(), split.y).mean for split in (train, test))
    truth = test.factors["rotation"].float()
    target = GREATEST * (2 * torch.rand(len(test), generator=torch.Generator().manual_seed(seed)) - 1)
    turn = target - truth
    ways = {
        "as it was": z_test,
        "curved": trained_knobs(z, train, seed).turned(z_test, test.y, turn),
        "straight": z_test + turn[:, None] * slope(z, train.factors["rotation"].float()),
    }
    read = {name: reader.read(vae.likelihood(way, test.y).mean) for name, way in ways.items()}
    read["original"] = reader.read(test.scaled())
    angle = {name: degrees for name, (_, degrees) in read.items()}
    return {
        "edited": error(angle["curved"], target),
        "straight": error(angle["straight"], target),
        "change": error(angle["curved"] - angle["as it was"], turn),
        "reconstructed": error(angle["as it was"], truth),
        "reader": error(angle["original"], truth),
        "nothing": error(truth, target),
        "right": (read["original"][0] == test.y).float().mean().item(),
        "kept": (read["curved"][0] == test.y).float().mean().item(),
    }


def error(found: Tensor, asked: Tensor) -> float:
    return (found - asked).abs().mean().item()


def slope(z: Tensor, r: Tensor) -> Tensor:
    """That of z, (N, D), in a linear regression on r, (N,): (D,)."""
    r = r - r.mean()
    return r @ (z - z.mean(0)) / (r @ r)


class Knobs(nn.Module):
    """r = h(z, y) reads the knobs of a glyph off its latents; m(r, y) is the mean latent of glyphs with these knobs."""

    NAMES = ("rotation", "shear", "scale", "stroke", "x", "y")

    def __init__(self, split: Split):
        super().__init__()
        values = torch.stack([split.factors[name].float() for name in self.NAMES], 1)
        self.register_buffer("unit", values.std(0))
        self.register_buffer("known", (values - values.mean(0)) / self.unit)
        self.h = Labelled(MLP(LATENTS + 36, 256, 256, len(self.NAMES)), 36, flat=True)
        self.m = Labelled(MLP(len(self.NAMES) + 36, 256, 256, LATENTS), 36, flat=True)

    def loss(self, z: Tensor, y: Tensor, row: Tensor) -> Tensor:
        r = self.known[row]
        return (self.h(z, y) - r).square().mean() + (self.m(r, y) - z).square().mean()

    def turned(self, z: Tensor, y: Tensor, degrees: Tensor) -> Tensor:
        """z' = z + m(r') − m(r), (B, D)."""
        r = self.h(z, y)
        changed = r.clone()
        changed[:, 0] += degrees / self.unit[0]
        return z + self.m(changed, y) - self.m(r, y)


def trained_knobs(z: Tensor, split: Split, seed: int) -> Knobs:
    torch.manual_seed(seed)
    knobs = Knobs(split)
    train_on_rows(knobs, lambda z, row: knobs.loss(z, split.y[row], row), Split(z, split.y), KNOB_EPOCHS, seed)
    return knobs


class Reader(nn.Module):
    """A network that says which of 36 classes a glyph is, and by how many degrees it is turned."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(MLP(SIDE**2, WIDTH, WIDTH), nn.SiLU(), nn.Dropout(0.2), nn.Linear(WIDTH, 37))

    def loss(self, x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
        logits, turned = self.net(x).split([36, 1], 1)
        return cross_entropy(logits, y) + 10 * (turned.squeeze(1) - angle / GREATEST).square().mean()

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class and degrees, each (N,)."""
        logits, turned = self.net(x).split([36, 1], 1)
        return logits.argmax(1), GREATEST * turned.squeeze(1)


def trained_reader(split: Split, seed: int) -> Reader:
    torch.manual_seed(seed)
    reader, angle = Reader(), split.factors["rotation"].float()
    train_on_rows(reader, lambda x, row: reader.loss(x, split.y[row], angle[row]), split, READER_EPOCHS, seed)
    return reader


def trained_vae(split: Split, seed: int) -> VAE:
    """It is told the class, so that z need not hold it."""
    torch.manual_seed(seed)
    vae = VAE(
        Labelled(MLP(SIDE**2 + 36, WIDTH, 2 * LATENTS), 36, flat=True),
        Labelled(MLP(LATENTS + 36, WIDTH, (2, SIDE, SIDE)), 36, flat=True),
        StandardNormal(LATENTS),
        partial(logistic_pixels, levels=LEVELS),
        n_classes=36,
    )
    train_on_rows(vae, lambda x, row: vae.loss(x, split.y[row]), split, VAE_EPOCHS, seed)
    return vae


@torch.enable_grad()
def train_on_rows(model: nn.Module, loss: Callable[..., Tensor], split: Split, epochs: int, seed: int) -> None:
    """Adam with a rate that falls to 0, on loss(x, row): the label of an example is its place in the split."""
    objective = adam(loss, model, 2e-3, epochs=epochs)
    rows = Split(split.x, torch.arange(len(split)), split.levels)
    fit(model, {"loss": objective}, rows.batches(100, seed=seed), epochs, seed=seed, progress=False)
    model.eval()


# ---- missing pixels ------------------------------------------------------------------------------------------------

DRAWS, ROUNDS = 50, 3
PPCA_LATENTS, COMPONENTS, FLOOR = 30, 20, 0.1  # those that fill in the validation digits best


def imputation_mse(runs: int) -> Measurement:
    """Mean squared error of a missing pixel, ink from 0 to 1: test digits with half of the pixels missing at random.

    The VAE is that of the figure vae-digits-nats. PPCA and a mixture of full Gaussians fill in exactly; the mixture is
    told beside, and the goal does not speak of it.
    """
    torch.set_num_threads(THREADS)
    data = datasets.load("digits")
    known_digits, x = data.train.scaled(), data.test.scaled()
    points = known_digits.flatten(1).double()
    ppca = PPCA.fit(points, PPCA_LATENTS).requires_grad_(False)
    mixture = GaussianMixture.fit(points, COMPONENTS, floor=FLOOR).requires_grad_(False)
    found: dict[str, list[float]] = {"VAE": [], "PPCA": [], "mean": [], "mixture": []}
    for seed in range(runs):
        model = digits_model(data.train, seed).eval()
        known = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
        start = torch.where(known, x, known_digits.mean(0))
        by_ppca, by_mixture = (
            exact.fill_in(x.flatten(1).double(), known.flatten(1)).view_as(x).float().clamp(0, 1)
            for exact in (ppca, mixture)
        )
        torch.manual_seed(seed)
        by_vae = model.fill_in(start, known, k=DRAWS, rounds=ROUNDS)
        for name, filled in zip(found, (by_vae, by_ppca, start, by_mixture)):
            found[name].append(metrics.masked_error(x, filled, known).mean().item())
    below = all(vae < min(by_ppca, by_mean) for vae, by_ppca, by_mean, _ in zip(*found.values()))
    mixtures = found["mixture"]
    note = (
        f"PPCA with {PPCA_LATENTS} latents {median(found['PPCA']):.4f}, mean {median(found['mean']):.4f}, mixture of "
    )
    note += f"{COMPONENTS} Gaussians {median(mixtures):.4f} ({min(mixtures):.4f}–{max(mixtures):.4f}); "
    note += f"{DRAWS} draws, {ROUNDS} rounds"
    return Measurement(found["VAE"], range(runs), note, holds=below)
