"""A DCGAN pair 28×28 through `fit` against torchgan's through its Trainer and a bare loop, in rounds a second.

A round is one step of each player on a batch of 64. All three train the same networks from the same first weights on
the same images, with the non-saturating loss and Adam at the same rate. The bare loop has every saving that ours has:
tensors in memory, fused Adam, the critic frozen in the generator's turn, the examples of the critic's turn used again.
torchgan is used as its documentation shows, with networks of one's own and a DataLoader over tensors; it comes from the
package index into a folder of its own in the cache. It imports torchvision to draw its images; a stub stands in.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from io import StringIO
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Measurement, alternate
from benchmarks.vae_speed import download
from dgm_lib import datasets, runtime
from dgm_lib.datasets import Split
from dgm_lib.datasets.paths import cache_folder
from dgm_lib.distributions import StandardNormal
from dgm_lib.models.gan import GAN
from dgm_lib.nets import DCCritic, DCGenerator, frozen
from dgm_lib.objective import adam
from dgm_lib.train import fit

VERSION = "0.1.0"
SHAPE, LATENTS, WIDTH = (1, 28, 28), 64, 64
BATCH, ROUNDS, THREADS = 64, 100, 2
ADAM = {"lr": 2e-4, "betas": (0.5, 0.999)}


def new_gan(seed: int) -> GAN:
    """A DCGAN pair, its weights from the seed."""
    torch.manual_seed(seed)
    return GAN(DCGenerator(LATENTS, SHAPE, WIDTH), DCCritic(SHAPE, WIDTH), StandardNormal(LATENTS), box=(0, 1))


# ---- the three -----------------------------------------------------------------------------------------------------


def ours(gan: GAN, split: Split, bf16: bool = False) -> None:
    objectives = {
        "critic": adam(gan.critic_loss, gan.critic, ADAM["lr"], betas=ADAM["betas"]),
        "generator": adam(gan.generator_loss, gan.generator, ADAM["lr"], betas=ADAM["betas"]),
    }
    fit(gan, objectives, split.batches(BATCH), 1, bf16=bf16)


def bare(gan: GAN, split: Split, bf16: bool = False) -> None:
    """What one writes by hand who knows every saving."""
    generator, critic = gan.generator.train(), gan.critic.train()
    for_critic, for_generator = (Adam(net.parameters(), **ADAM, fused=True) for net in (critic, generator))
    for rows in torch.randperm(len(split)).split(BATCH):
        x = split.x.index_select(0, rows).float().mul_(1 / (split.levels - 1))
        with runtime.autocast(x.device, bf16):
            made = torch.sigmoid(generator(torch.randn(len(x), LATENTS)))
            loss = softplus(-critic(x)).mean() + softplus(critic(made.detach())).mean()
        for_critic.zero_grad()
        loss.backward()
        for_critic.step()
        with runtime.autocast(x.device, bf16), frozen(critic):
            loss = softplus(-critic(made)).mean()
        for_generator.zero_grad()
        loss.backward()
        for_generator.step()


def theirs(gan: GAN, split: Split, fused: bool = False) -> None:
    """torchgan trains the networks of our model, in place."""
    from torchgan.losses import MinimaxDiscriminatorLoss, MinimaxGeneratorLoss
    from torchgan.trainer import Trainer

    optimizer = {"name": Adam, "args": {**ADAM, "fused": fused}}
    players = dict(zip(("generator", "discriminator"), wrapped(gan)))
    models = {name: {"name": lambda net=net: net, "optimizer": optimizer} for name, net in players.items()}
    loader = DataLoader(TensorDataset(split.scaled(), split.y), BATCH, shuffle=True)
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        places = {"checkpoints": f"{folder}/gan", "recon": folder}
        losses = [MinimaxDiscriminatorLoss(), MinimaxGeneratorLoss()]
        trainer = Trainer(models, losses, device=torch.device("cpu"), epochs=1, **places)
        trainer(loader)
    counts = [trainer.loss_information[f"{name}_iters"] for name in players]
    if counts != [len(loader)] * 2:
        raise RuntimeError(f"torchgan made {counts} steps with its players, not {len(loader)} with each")


def wrapped(gan: GAN) -> tuple[nn.Module, nn.Module]:
    """Our generator and critic as torchgan wants them."""
    from torchgan.models import Discriminator, Generator

    class TheirGenerator(Generator):
        def __init__(self, net: nn.Module):
            super().__init__(LATENTS)
            self.net = net

        def forward(self, z: Tensor) -> Tensor:
            return torch.sigmoid(self.net(z))

    class TheirDiscriminator(Discriminator):
        def __init__(self, net: nn.Module):
            super().__init__(SHAPE[0])
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    return TheirGenerator(gan.generator), TheirDiscriminator(gan.critic)


# ---- getting torchgan ----------------------------------------------------------------------------------------------


def install() -> None:
    """Puts torchgan on the path, downloading it once. Raises RuntimeError where that fails."""
    folder = cache_folder() / f"torchgan-{VERSION}"
    if not (folder / "complete").exists():
        download(folder, "--no-deps", f"torchgan=={VERSION}")
        (folder / "complete").touch()
    sys.path.append(str(folder))  # at the end: nothing of ours is hidden
    with torchvision_stub():
        importlib.import_module("torchgan.trainer")
    if version("torchgan") != VERSION:
        raise RuntimeError(f"torchgan {version('torchgan')} is on the path before {VERSION}: uninstall it from here")


@contextmanager
def torchvision_stub() -> Iterator[None]:
    """An empty torchvision for one import: torchgan's trainer uses it once an epoch, to draw a grid of images."""
    stubs = {name: ModuleType(name) for name in ("torchvision", "torchvision.models", "torchvision.utils")}
    stubs["torchvision"].models, stubs["torchvision"].utils = stubs["torchvision.models"], stubs["torchvision.utils"]
    stubs["torchvision.utils"].make_grid = lambda images, **_: images
    stubs["torchvision.utils"].save_image = lambda *_, **__: None
    known = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name, module in known.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


# ---- the measurement -----------------------------------------------------------------------------------------------


@dataclass
class Contestant:
    """One side: the seconds that its rounds take."""

    train: Callable[[GAN, Split], None]
    split: Split

    def seconds(self, seed: int) -> float:
        gan = new_gan(seed)
        torch.manual_seed(seed)
        start = perf_counter()
        self.train(gan, self.split)
        return perf_counter() - start


def measure(runs: int) -> Measurement:
    """torchgan's seconds over ours; holds if the median is ≥ 1.2 and the bare loop's over ours is ≥ 0.95."""
    torch.set_num_threads(THREADS)
    install()
    split = datasets.load("glyphs").train.take(slice(BATCH * ROUNDS))
    trainings = (ours, theirs, bare, partial(theirs, fused=True), partial(ours, bf16=True), partial(bare, bf16=True))
    taken = alternate(runs, *[Contestant(train, split).seconds for train in trainings])
    mine, other, by_hand, other_fused, mine_bf16, by_hand_bf16 = taken
    ratios, to_bare, to_fused, to_bare_bf16 = (
        [b / a for a, b in zip(*pair)]
        for pair in ((mine, other), (mine, by_hand), (mine, other_fused), (mine_bf16, by_hand_bf16))
    )
    note = (
        f"float32: {speeds(mine, other, by_hand)} rounds/s of fit, torchgan and the bare loop, {median(to_bare):.2f} × "
        f"the bare loop; {median(to_fused):.2f} × where torchgan is given fused Adam, too. bf16: "
        f"{speeds(mine_bf16, by_hand_bf16)} rounds/s of fit and the bare loop, {median(to_bare_bf16):.2f} ×"
    )
    return Measurement(ratios, range(runs), note, holds=median(ratios) >= 1.2 and median(to_bare) >= 0.95)


def speeds(*seconds: tuple[float, ...]) -> str:
    return ", ".join(f"{ROUNDS / median(values):.1f}" for values in seconds)
