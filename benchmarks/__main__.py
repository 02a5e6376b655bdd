"""`python -m benchmarks` lists the figures; with their ids it measures them and stores what it found.

Each of several figures is measured in a process of its own, so that none finds the memory or the threads of another.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks import (
    classify_figures,
    device_reads,
    elsewhere_figures,
    energy_figures,
    exercise_lines,
    few_labels,
    fit_speed,
    gan_figures,
    gan_glyphs,
    gan_recipes,
    gan_speed,
    gap_cnn,
    grbm_patches,
    harness,
    house,
    hybrid_frechet,
    import_seconds,
    jem_figures,
    kill_resume,
    langevin_speed,
    latent_figures,
    linear_vae,
    nbval_flakes,
    notebook_seconds,
    odd_inputs,
    rare_classes,
    rbm_accuracy,
    rbm_speed,
    sample_figures,
    stream_resident,
    two_processes,
    vae_figures,
    vae_practice,
    vae_speed,
)
from benchmarks.harness import Figure, Measurement


def stream_resident_mb(runs: int) -> Measurement:
    """The measurement of benchmarks/stream_resident.py, repeated."""
    return Measurement([stream_resident.measure() for _ in range(runs)])


FIGURES = (
    Figure(
        "fit-vs-bare-loop",
        "`fit` on a VAE 784-400-20, batch 128, two threads: its images/s over a bare loop's on tensors in memory",
        "≥ 0.97",
        "×",
        fit_speed.against_bare_loop,
        runs=9,
    ),
    Figure(
        "fit-vs-dataloader",
        "the same over those of a `DataLoader` over PIL images, with the better of no worker and one",
        "≥ 2",
        "×",
        fit_speed.against_dataloader,
    ),
    Figure("import-seconds", "import of all of `dgm_lib`, beyond torch itself", "≤ 0.3", "s", import_seconds.measure),
    Figure(
        "stream-resident-mb",
        "resident memory above the model's while a 4 GB memory-mapped set streams by",
        "≤ 300",
        "MB",
        stream_resident_mb,
    ),
    Figure(
        "nbval-flakes",
        "runs of nbval over all notebooks that fail, half of them with one thread and half with two",
        "≤ 0",
        "failures",
        nbval_flakes.measure,
        runs=20,
    ),
    Figure(
        "nbval-processors",
        "library tests that fail and lines of notebooks that move, in four arithmetics with one thread and with two",
        "≤ 0",
        "failures",
        elsewhere_figures.processors,
        runs=8,
    ),
    Figure(
        "claims-other-seeds",
        "compared lines of all notebooks, claims among them, that are others where all seeds are shifted; five shifts",
        "≤ 0",
        "lines",
        elsewhere_figures.claims,
        runs=5,
    ),
    Figure(
        "open-cases",
        "tests that fail of those that say how what is odd is met: a right value, or one sentence with the remedy",
        "≤ 0",
        "failures",
        odd_inputs.measure,
        runs=1,
    ),
    Figure(
        "reads-per-step",
        "numbers that a training step asks its device for between two looks at the losses; of all families, the most",
        "≤ 0",
        "reads",
        device_reads.measure,
        runs=1,
    ),
    Figure(
        "exercise-lines", "lines of the exercises and their engine", "≤ 10500", "lines", exercise_lines.measure, runs=1
    ),
    Figure(
        "two-processes",
        "two processes under `torchrun` (gloo): their images/s over one process's with one thread",
        "equal weights",
        "×",
        two_processes.measure,
    ),
    Figure(
        "kill-resume",
        "`kill -9` at random moments of a training with checkpoints: resumed runs that are not the unbroken one to the "
        "last bit, or that find a broken file",
        "≤ 0",
        "trainings",
        kill_resume.measure,
        runs=30,
    ),
    Figure(
        "ais-error-nats",
        "AIS on RBMs of digits with 16 to 20 hidden units against enumeration: the largest error of 50 repeats a run",
        "≤ 0.2 nats, and the interval covers in ≥ 90 %",
        "nats",
        rbm_accuracy.ais_error,
    ),
    Figure(
        "rbm-gradient-error",
        "gradient of the exact log-likelihood of an RBM, written as two phases, against autograd, in float32",
        "≤ 1e-5",
        "relative",
        rbm_accuracy.gradient_error,
    ),
    Figure(
        "density-kl-2d",
        "KL(data ‖ model) on a grid: the worst of two moons and eight Gaussians, by maximum likelihood, denoising "
        "score matching and noise contrast",
        "≤ 0.05",
        "nats",
        energy_figures.density_kl,
        runs=3,
    ),
    Figure(
        "ebm-digits-frechet",
        "Fréchet distance of an energy model's digits from the test digits, on the features of a classifier",
        "class entropy ≥ 2.0 nats",
        "",
        energy_figures.digits_frechet,
        runs=3,
    ),
    Figure(
        "ebm-ood-auroc",
        "AUROC of the energy of digits, mean of noise, letters and digits rotated by 90°",
        "≥ 0.95",
        "",
        energy_figures.ood_auroc,
        runs=3,
    ),
    Figure(
        "langevin-vs-torchebm",
        "Langevin steps/s over torchebm 0.8.9's, batch 128, two threads; the smaller of conv net and MLP",
        "≥ 1.4",
        "×",
        langevin_speed.measure,
        runs=9,
    ),
    Figure(
        "rbm-vs-sklearn",
        "an RBM epoch with `fit`, 784-500, batch 100, persistent CD, over scikit-learn's BernoulliRBM in float32",
        "≥ 1.55 at no worse pseudo-likelihood",
        "×",
        rbm_speed.measure,
    ),
    Figure(
        "rbm-mnist-ais",
        "mean log p of the binarised MNIST test images by AIS, RBM with 500 hidden units, two cores",
        "≥ -92 within 20 minutes",
        "nats",
        rbm_accuracy.mnist_ais,
        runs=3,
    ),
    Figure(
        "grbm-patches-nats",
        "log p of whitened grey 8×8 test patches by an RBM with Gaussian units, above that of one full Gaussian",
        "≥ 0",
        "nats",
        grbm_patches.measure,
        runs=3,
    ),
    Figure(
        "ppca-vs-sklearn",
        "log p under PPCA in closed form against scikit-learn's, the largest difference",
        "≤ 1e-6",
        "relative",
        latent_figures.ppca_vs_sklearn,
        runs=3,
    ),
    Figure(
        "linear-vae-gap",
        "|PPCA's exact mean log p − a linear VAE's ELBO|, 8 latents, test digits, the worst seed",
        "≤ 0.05",
        "nats",
        linear_vae.linear_vae_gap,
        runs=3,
    ),
    Figure(
        "vae-digits-nats",
        "VAE on the test digits, importance-weighted bound with 1,000 draws",
        "≤ 84.0",
        "nats",
        vae_figures.digits_nats,
        runs=3,
    ),
    Figure(
        "vae-seconds-to-96.6",
        "seconds to train a VAE on digits whose −ELBO on the test digits is ≤ 96.6 nats",
        "≤ 3 s at ≤ 96.6 nats",
        "s",
        vae_figures.seconds_to_published,
    ),
    Figure(
        "vae-published-nats",
        "−ELBO of the test digits by the recipe of the VAE in the intro_dgm notebooks, rebuilt with this library",
        "within 1 nat of 96.6",
        "nats",
        vae_figures.published_nats,
        runs=3,
    ),
    Figure(
        "vae-mnist-nats",
        "−IW bound (k = 5,000) of the binarised MNIST test images, VAE with one stochastic layer, two cores",
        "≤ 89.8 within 30 minutes",
        "nats",
        vae_figures.mnist_nats,
        runs=1,
    ),
    Figure(
        "vae-vs-pythae",
        "VAE 784-400-20, batch 128, with `fit` over pythae 0.1.2's TrainingPipeline",
        "≥ 2 at no worse −ELBO",
        "×",
        vae_speed.measure,
    ),
    Figure(
        "attribute-rotation-error",
        "glyphs moved to a random angle by attribute arithmetic in a VAE: mean error by a regressor of the angle",
        "≤ 5 degrees, class kept in ≥ 90 %",
        "degrees",
        vae_practice.attribute_rotation_error,
        runs=3,
    ),
    Figure(
        "imputation-mse",
        "half of the pixels of the test digits missing: mean squared error of what the VAE fills in",
        "below PPCA's and mean imputation's",
        "squared ink",
        vae_practice.imputation_mse,
        runs=3,
    ),
    Figure(
        "frechet-error",
        "Fréchet distance against the closed form of two Gaussians, and against torchmetrics on the same features",
        "≤ 1e-4",
        "relative",
        sample_figures.frechet_error,
        runs=3,
    ),
    Figure(
        "critic-error",
        "σ(critic) after training against p/(p + q) on a grid, mean absolute error, the worse of two densities p",
        "≤ 0.02",
        "",
        gan_figures.critic_error,
        runs=3,
    ),
    Figure(
        "gradient-penalty-error",
        "gradient penalty of linear critics against (‖w‖ − 1)², the largest error; one alpha an example",
        "≤ 1e-6",
        "",
        gan_figures.gradient_penalty_error,
        runs=3,
    ),
    Figure(
        "modes-covered",
        "GAN on 8 and on 25 Gaussians: share of its samples within 3 σ of a mode, the worse of the two",
        "≥ 95 %, and no mode lost",
        "%",
        gan_figures.modes_covered,
        runs=3,
    ),
    Figure(
        "gan-steps-vs-peer",
        "DCGAN pair 28×28, batch 64, two threads: rounds/s of `fit` over those of torchgan 0.1.0",
        "≥ 1.2, and ≥ 0.95 of a bare loop's",
        "×",
        gan_speed.measure,
    ),
    Figure(
        "gan-recipes",
        "four ways to play on letters A to C, the same rounds: Fréchet distance of the one that validation chooses",
        "stated, of all four",
        "",
        gan_recipes.measure,
        runs=3,
    ),
    Figure(
        "gan-glyphs-frechet",
        "Fréchet distance of 5,000 glyphs by a GAN over that by a VAE trained as long, on the course's features",
        "≤ 0.5 at precision and recall ≥ 0.8",
        "×",
        gan_glyphs.glyphs_frechet,
        runs=3,
    ),
    Figure(
        "vae-gan-frechet",
        "hybrid of VAE and GAN on letters: its Fréchet distance over that of the VAE it began with, as many steps on",
        "≤ 0.7 at an error of reconstruction ≤ 1.25 times the VAE's",
        "×",
        hybrid_frechet.measure,
        runs=3,
    ),
    Figure(
        "gan-mnist",
        "Fréchet distance of a GAN's MNIST digits, on the features of the course's classifier",
        "measured",
        "",
        gan_glyphs.mnist_frechet,
        runs=3,
    ),
    Figure(
        "bayes-rule-error",
        "posteriors of the Bayes-rule classifier against enumeration on a tiny discrete model, the largest error",
        "≤ 1e-6",
        "",
        classify_figures.bayes_rule_error,
        runs=3,
    ),
    Figure(
        "generative-digits-error",
        "best generative classifier on the test digits, chosen without them",
        "≤ 2.5 % at an ECE ≤ 0.02",
        "%",
        classify_figures.generative_digits_error,
        runs=3,
    ),
    Figure(
        "cnn-digits-error",
        "plain CNN on the same digits, trained on shifts by one pixel",
        "≤ 2",
        "%",
        classify_figures.cnn_digits_error,
        runs=3,
    ),
    Figure(
        "missing-pixels-error",
        "half of the pixels of the test digits missing at random: error of the generative road",
        "≤ 10",
        "%",
        classify_figures.missing_pixels_error,
        runs=3,
    ),
    Figure(
        "gap-cnn-error",
        "the same for the small CNN of notebook 09, trained with gaps for 300 epochs, under the notebook's masks",
        "measured",
        "%",
        gap_cnn.measure,
        runs=3,
    ),
    Figure(
        "few-labels-error",
        "100 labels of glyphs: test error of a semi-supervised GAN over that of its critic with the labels alone",
        "≤ 0.7",
        "×",
        few_labels.few_labels_error,
        runs=3,
    ),
    Figure(
        "few-labels-mnist",
        "100 labels of MNIST: test error of the same GAN",
        "≤ 3.3",
        "%",
        few_labels.few_labels_mnist,
        runs=3,
    ),
    Figure(
        "jem-vs-plain",
        "joint energy model on digits against the same network trained plainly: accuracy gained under PGD at ε = 0.1",
        "better in it, in ECE and in OOD AUROC, at ≤ 1 point of accuracy",
        "points",
        jem_figures.jem_vs_plain,
        runs=3,
    ),
    Figure(
        "divergence-guard",
        "joint energy models made to diverge on purpose: how often the guard noticed, went back, and the run finished",
        "all finish",
        "restarts",
        jem_figures.divergence_guard,
        runs=3,
    ),
    Figure(
        "rare-classes",
        "rare classes, 1 : 50: balanced accuracy with generated examples less that of the best classical remedy",
        "measured, with intervals",
        "points",
        rare_classes.generated_over_classical,
        runs=5,
    ),
    Figure(
        "course-minutes",
        "the whole course as `python run.py course` executes it, once everything is set up",
        "≤ 5.5",
        "minutes",
        notebook_seconds.course_minutes,
        runs=1,
    ),
    Figure(
        "slowest-notebook-seconds",
        "each notebook executed from a cold kernel with one thread: the slowest of them",
        "≤ 75",
        "s",
        notebook_seconds.slowest,
        runs=3,
    ),
    Figure(
        "test-minutes",
        "`python run.py test`, once everything is set up",
        "≤ 9",
        "minutes",
        notebook_seconds.test_minutes,
        runs=1,
    ),
    Figure(
        "house",
        "rooms that a reader sees in the folder of `dgm_lib`: files and folders",
        "≤ 16",
        "rooms",
        house.rooms,
        runs=1,
    ),
    Figure(
        "library-lines",
        "lines of `dgm_lib`; public names without a use are named",
        "≤ 8000",
        "lines",
        house.lines,
        runs=1,
    ),
)
BY_ID = {figure.id: figure for figure in FIGURES}


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 where every goal asked for was reached, 1 where one was missed or could not be measured."""
    options = parse(arguments)
    if options.table:
        harness.write_table(FIGURES)
        return 0
    ids = list(BY_ID) if options.ids == ["all"] else options.ids
    if not ids:
        print(listing())
        return 0
    if len(ids) == 1:
        return 0 if measure(BY_ID[ids[0]], options.runs, options.trial) else 1
    return max([in_own_process(id, options) for id in ids])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line; ends with one sentence where an id does not exist."""
    parser = argparse.ArgumentParser(prog="python run.py bench", description="Measures the project's figures.")
    parser.add_argument("ids", nargs="*", metavar="ID", help="figures to measure, or: all; none lists them")
    parser.add_argument("--runs", type=int, help="how often to measure, instead of the figure's own number")
    parser.add_argument("--trial", action="store_true", help="print what was measured and store nothing")
    parser.add_argument("--table", action="store_true", help="only make README.md's table anew from results.json")
    options = parser.parse_args(arguments)
    unknown = [id for id in options.ids if id not in BY_ID and options.ids != ["all"]]
    if unknown:
        parser.error(f"there is no figure {unknown[0]!r}; there are: {', '.join(BY_ID)}, or: all")
    if options.runs is not None and options.runs < 1:
        parser.error(f"--runs is {options.runs}: it must be at least 1")
    return options


def listing() -> str:
    """One line a figure: its id, its goal, and what was measured last."""
    rows = {row["id"]: row for row in harness.read_rows()}
    width = max(map(len, BY_ID))
    return "\n".join(f"{figure.id:<{width}}  {figure.goal:<13}  {last(rows.get(figure.id))}" for figure in FIGURES)


def last(row: dict | None) -> str:
    """What a row says, in words."""
    if row is None:
        return "not measured yet"
    verdict = "holds" if row["holds"] else "does not hold"
    return f"{row['value']:g} {row['unit']}, {verdict} ({row['date']}, {row['device']})"


def measure(figure: Figure, runs: int | None, trial: bool) -> bool:
    """Measures, prints, and stores the row unless it is a trial; returns whether the goal is reached."""
    command = f"python run.py bench {figure.id}" + (f" --runs {runs}" if runs else "")
    row = harness.as_row(figure, figure.measure(runs or figure.runs), command)
    print(f"{figure.id}: {last(row)}; {row['spread'][0]:g}–{row['spread'][1]:g}. {row['note']}", flush=True)
    if not trial:
        harness.store(row)
        harness.write_table(FIGURES)
    return row["holds"]


def in_own_process(id: str, options: argparse.Namespace) -> int:
    """The exit status of `python -m benchmarks ID` with the same options."""
    runs = ["--runs", str(options.runs)] if options.runs else []
    trial = ["--trial"] if options.trial else []
    return subprocess.run([sys.executable, "-m", "benchmarks", id, *runs, *trial], cwd=harness.ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
