"""A VAE 784-400-20 through `fit` against pythae's through its TrainingPipeline, in images a second.

Both train the same layers from the same first weights on the same images in batches of the same size, with Adam at the
same rate. pythae is used as its documentation shows, with networks of one's own; it comes from the package index into
a folder of its own in the cache, with what it imports and without torch and NumPy, so that both run on those that are
here. The −ELBO of held-out images, computed by our VAE for both, says whether they have learnt the same.
"""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from torch import Tensor, nn

from benchmarks.harness import Measurement, alternate
from benchmarks.rbm_speed import binary_glyphs
from dgm_lib.datasets import Split
from dgm_lib.datasets.paths import cache_folder
from dgm_lib.distributions import StandardNormal, bernoulli_pixels
from dgm_lib.measures import metrics
from dgm_lib.models.vae import VAE
from dgm_lib.nets import MLP
from dgm_lib.objective import adam
from dgm_lib.train import fit

VERSION = "0.1.2"
HIDDEN, LATENTS, BATCH, RATE, EPOCHS, THREADS = 400, 20, 128, 1e-3, 5, 2


def new_model(seed: int) -> VAE:
    """784-400-20, its weights from the seed."""
    torch.manual_seed(seed)
    encoder = MLP(784, HIDDEN, 2 * LATENTS, activation=nn.ReLU)
    decoder = MLP(LATENTS, HIDDEN, (1, 28, 28), activation=nn.ReLU)
    return VAE(encoder, decoder, StandardNormal(LATENTS), bernoulli_pixels)


# ---- the two -------------------------------------------------------------------------------------------------------


def ours(model: VAE, split: Split, seed: int) -> None:
    objective = adam(model.loss, model, RATE)
    fit(model, {"-ELBO": objective}, split.batches(BATCH, seed=seed), EPOCHS, seed=seed)


def theirs(model: VAE, split: Split, seed: int, fused: bool = False) -> None:
    """pythae trains the networks of our model, in place; it gets the images as the floats that it works on."""
    from pythae.models import VAE as TheirVAE
    from pythae.models import VAEConfig
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainerConfig

    encoder, decoder = wrapped(model)
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce")
    with TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=EPOCHS,
            learning_rate=RATE,
            per_device_train_batch_size=BATCH,
            optimizer_params={"fused": True} if fused else None,
            seed=seed,
            no_cuda=True,
        )
        TrainingPipeline(TheirVAE(config, encoder, decoder), settings)(train_data=split.scaled())


def wrapped(model: VAE) -> tuple[nn.Module, nn.Module]:
    """Our encoder and decoder as pythae wants them: they return its ModelOutput, the decoder probabilities."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, net: nn.Module):
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> ModelOutput:
            mu, log_var = self.net(x).chunk(2, 1)
            return ModelOutput(embedding=mu, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self, net: nn.Module):
            super().__init__()
            self.net = net

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))

    return Encoder(model.encoder), Decoder(model.decoder)


# ---- getting pythae ------------------------------------------------------------------------------------------------


def install() -> None:
    """Puts pythae on the path, downloading it once. Raises RuntimeError where that fails."""
    folder = cache_folder() / f"pythae-{VERSION}"
    if not (folder / "complete").exists():
        download(folder, "--no-deps", f"pythae=={VERSION}", "imageio", "cloudpickle")
        download(folder, "pydantic")  # with its own few dependencies, none of which is torch or NumPy
        (folder / "complete").touch()
    sys.path.append(str(folder))  # at the end: nothing of ours is hidden
    importlib.import_module("pythae.pipelines")
    if version("pythae") != VERSION:
        raise RuntimeError(f"pythae {version('pythae')} is on the path before {VERSION}: uninstall it from here")


def download(folder: Path, *what: str) -> None:
    options = ["--no-input", "--disable-pip-version-check", "--upgrade", "--target", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, *what], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise RuntimeError(
            f"{what[-1]} could not be downloaded, which this figure needs once (3 MB in all): run it again with a "
            f"network, or with PIP_INDEX_URL set to a mirror. pip said: {last}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Bars and logs are made as users have them, and go nowhere."""
    logging.disable(logging.INFO)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


# ---- the measurement -----------------------------------------------------------------------------------------------


class Contestant:
    """One side: how long it trains, and for each seed the −ELBO that it reaches on held-out images, in nats."""

    def __init__(self, train: Callable[[VAE, Split, int], None], split: Split, held_out: Split):
        self.train, self.split, self.held_out = train, split, held_out
        self.learnt: dict[int, float] = {}

    def seconds(self, seed: int) -> float:
        model = new_model(seed)
        start = perf_counter()
        with quiet():
            self.train(model, self.split, seed)
        taken = perf_counter() - start
        self.learnt[seed] = metrics.nats(model.eval().elbo, self.held_out.batches(500, shuffle=False))[0]
        return taken


def measure(runs: int) -> Measurement:
    """pythae's seconds over ours; holds if the median is ≥ 2 and our −ELBO is at most half a nat above theirs."""
    torch.set_num_threads(THREADS)
    install()
    split, test = binary_glyphs()
    held_out = Split(test.byte(), torch.zeros(len(test), dtype=torch.int64), levels=2)
    sides = [Contestant(train, split, held_out) for train in (ours, theirs, partial(theirs, fused=True))]
    mine, other, other_fused = alternate(runs, *[side.seconds for side in sides])
    ratios, helped = ([b / a for a, b in zip(mine, others)] for others in (other, other_fused))
    nats, other_nats = (mean(side.learnt.values()) for side in sides[:2])
    n = EPOCHS * len(split)
    note = (
        f"{n / median(mine):,.0f} and {n / median(other):,.0f} images/s; {median(helped):.2f} × where pythae is given "
    )
    note += f"fused Adam, too; −ELBO of held-out images {nats:.2f} and {other_nats:.2f} nats after {EPOCHS} epochs"
    return Measurement(ratios, range(runs), note, holds=median(ratios) >= 2 and nats <= other_nats + 0.5)
