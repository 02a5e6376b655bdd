"""Sets the course up and runs it; needs nothing but Python.

    python run.py course [NAME ...]   execute the notebooks in order, into notebooks/executed/
    python run.py lab                 open JupyterLab
    python run.py test                lint, library tests, and the notebooks against their stored outputs
    python run.py lint                only the first of these: rules, layout and types of the code
    python run.py store [NAME ...]    execute notebooks in place: the one way in which stored outputs are made
    python run.py bench [ID ...]      measure the figures of benchmarks/README.md
    python run.py elsewhere [OPTION]  what would differ on other processors and with other seeds; --help says more

The first start makes .venv and installs the versions of constraints.txt into it; later ones find it ready.
"""

# An older Python must be able to read this file, to say that it is too old: no syntax newer than 3.6.

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path

OLDEST = (3, 11)
NEWEST = (3, 14)
GB_NEEDED = 3

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "set-up.sha256"

# nbval leaves files open, so warnings are no errors here. Without loadscope a notebook's cells are split over workers.
NBVAL = ["-m", "pytest", "-o", "filterwarnings=default", "--nbval", "--nbval-current-env"]
NBVAL += ["--nbval-cell-timeout", "600", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg"]
TWO_WORKERS = ["-n", "2", "--dist", "loadscope"]
LINT = {
    "lint": ["-m", "ruff", "check", "."],
    "format": ["-m", "ruff", "format", "--check", "."],
    "types": ["-m", "pyrefly", "check", "--python-interpreter-path", str(PYTHON)],
}

say = partial(print, flush=True)


def main(arguments: list) -> int:
    """Sets up and does the job that the first argument names; returns the exit code."""
    if arguments[:1] in (["-h"], ["--help"]):
        say(__doc__)
        return 0
    if not arguments or arguments[0] not in JOBS:
        print(f"There is no job {arguments[0]!r}." if arguments else "Which job?", file=sys.stderr)
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if sys.version_info < OLDEST:
            return call([*newer_python(), str(ROOT / "run.py"), *arguments])
        set_up()
        return JOBS[arguments[0]](arguments[1:])
    except KeyboardInterrupt:
        return 130


# ---- a Python that is new enough -----------------------------------------------------------------------------------


def newer_python() -> list:
    """The command that starts a Python which is new enough; ends with a sentence where there is none."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        for command in [f"python3.{minor}"], ["py", f"-3.{minor}"]:
            if version_of(command) >= OLDEST:
                return command
    sys.exit(
        "The course needs Python 3.11 or newer, this is Python {}.{}, and no newer one is on the PATH: "
        "install one from https://www.python.org/downloads/ and run this again.".format(*sys.version_info)
    )


def version_of(command: list) -> tuple:
    """The version of a Python, such as (3, 11, 7); () where the command starts none."""
    code = "import sys; print(*sys.version_info[:3])"
    try:
        said = subprocess.check_output([*command, "-S", "-c", code], stderr=subprocess.DEVNULL)
        return tuple(map(int, said.split()))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return ()


# ---- .venv ---------------------------------------------------------------------------------------------------------


def set_up() -> None:
    """Makes .venv and installs into it, unless that was done for these very versions and this folder."""
    version = version_of([str(PYTHON)])
    if version >= OLDEST and STAMP.is_file() and STAMP.read_text() == fingerprint(version):
        return
    started = time.time()
    if version < OLDEST:
        check_disk()
        say("Making .venv ...")
        make_venv()
        version = version_of([str(PYTHON)])
    say("Installing into .venv, once: some minutes and about 1.5 GB, more where torch brings its CUDA parts ...")
    install()
    STAMP.write_text(fingerprint(version))
    say(f"Set up in {time.time() - started:.0f} s.\n")


def fingerprint(version: tuple) -> str:
    """A hash of all that an install depends on. The folder too: the library is installed as a link to it."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join([*parts, repr(version).encode(), str(ROOT).encode()])).hexdigest()


def check_disk() -> None:
    """Ends with a sentence where the disk is too full for an install."""
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < GB_NEEDED:
        sys.exit(
            f"Too little disk: the course needs about {GB_NEEDED} GB here (8 GB with the CUDA build of torch), and "
            f"{free:.1f} GB are free. Make room, or move the course to another disk, and run this again."
        )


def make_venv() -> None:
    """An empty .venv, by uv where it is there and by the standard library otherwise."""
    try:
        VENV.mkdir(exist_ok=True)
    except OSError as error:
        sys.exit(f"Cannot make .venv here ({error.strerror}): run this in a copy of the course that is your own.")
    uv = shutil.which("uv")
    if uv:
        quietly([uv, "venv", "--seed", "--clear", "--python", sys.executable, str(VENV)])
    elif not importlib.util.find_spec("ensurepip"):
        sys.exit(
            "This Python cannot make .venv, because its module ensurepip is not installed: on Debian or Ubuntu, run "
            "`sudo apt install python3-venv`; elsewhere, put uv on the PATH. Then run this again."
        )
    else:
        quietly([sys.executable, "-m", "venv", "--clear", str(VENV)])


def install() -> None:
    """The library, in place, with all that its jobs need, in the versions of constraints.txt."""
    if STAMP.exists():
        STAMP.unlink()  # an install that is interrupted must be seen as one
    what = ["-c", "constraints.txt", "-e", ".[test]"]
    uv = shutil.which("uv")
    if uv:
        links = ",".join(os.environ.get("PIP_FIND_LINKS", "").split())
        variables = {"UV_FIND_LINKS": links} if links and "UV_FIND_LINKS" not in os.environ else {}
        quietly([uv, "pip", "install", "--python", str(PYTHON), *what], **variables)
    else:
        quietly([str(PYTHON), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *what])


def quietly(command: list, **variables: str) -> None:
    """Runs a command without its chatter; where it fails, ends with its last lines and what to do."""
    lines = deque(maxlen=500)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=str(ROOT), env={**os.environ, **variables}, **pipes) as process:
        for line in process.stdout:
            lines.append(line.decode(errors="replace").rstrip())
            show_status(lines[-1])
    show_status("")
    if process.returncode:
        print(*list(lines)[-12:], sep="\n", file=sys.stderr)
        sys.exit("\n" + remedy("\n".join(lines)))


def show_status(line: str) -> None:
    """Shows a line in place of the last one, where somebody watches."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write("\r" + line.strip()[:width].ljust(width) + ("" if line else "\r"))
        sys.stdout.flush()


REMEDIES = (
    (
        ("no space left", "errno 28", "not enough space"),
        f"The disk is full: the course needs about {GB_NEEDED} GB (8 GB with the CUDA build of torch; README.md says "
        "how to do without), and the folder for temporary files (TMPDIR) fills too. Make room and run this again.",
    ),
    (
        ("connection", "name resolution", "name or service", "getaddrinfo", "unreachable", "dns error", "timed out"),
        "The package registry cannot be reached: check the network and the proxy (HTTPS_PROXY), or name a mirror "
        "(PIP_INDEX_URL; for uv UV_DEFAULT_INDEX). Then run this again: what was fetched is kept.",
    ),
    (
        ("permission denied", "read-only file system", "errno 13", "errno 30"),
        "Cannot write here: run this in a copy of the course that is your own.",
    ),
    (
        ("no matching distribution", "no solution found", "resolutionimpossible"),
        "A package has no build for this Python and system, or the mirror lacks it: use a 64-bit Python 3.11 to 3.14 "
        "on a system that README.md names. Delete the folder .venv and run this again with that Python.",
    ),
)


def remedy(output: str) -> str:
    """What to do about an install that said this."""
    for signs, sentence in REMEDIES:
        if any(sign in output.lower() for sign in signs):
            return sentence
    return "The install failed, for the reason above. Delete the folder .venv and run this again."


# ---- jobs ----------------------------------------------------------------------------------------------------------


def course(names: list) -> int:
    """Executes the notebooks into a folder of their own, and says how to go on."""
    code = call([str(PYTHON), "tools/execute.py", "--to", "notebooks/executed", *names])
    say("\nThe executed notebooks are in notebooks/executed. To read, change and run them: python run.py lab")
    return code


def lab(options: list) -> int:
    """JupyterLab, in the folder of the notebooks."""
    return call([str(PYTHON), "-m", "jupyterlab", *options], cwd=ROOT / "notebooks")


def store(names: list) -> int:
    """Executes notebooks in place, on the CPU, the reference device; then renews what README.md shows of them."""
    code = call([str(PYTHON), "tools/execute.py", "--in-place", *names], DGM_DEVICE="cpu")
    return call([str(PYTHON), "tools/showcase.py"]) or code


def bench(ids: list) -> int:
    """Measures figures."""
    return call([str(PYTHON), "-m", "benchmarks", *ids])


def elsewhere(options: list) -> int:
    """Notebooks and tests as other machines would run them."""
    return call([str(PYTHON), "-m", "tools.elsewhere", *options], DGM_DEVICE="cpu")


def lint(options: list) -> int:
    """Rules, layout and types of the code; no options."""
    return steps(LINT)


def test(options: list) -> int:
    """All that is tested, even after a failure; the options go to pytest over the library's tests."""
    notebooks = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb"))
    commands = {**LINT, "library tests": ["-m", "pytest", "-n", "2", *options]}
    if notebooks:
        commands["notebooks"] = [*NBVAL, *TWO_WORKERS, *notebooks]
    else:
        say("There is no notebook yet: nothing to compare.")
    return steps(commands)


def steps(commands: dict) -> int:
    """Runs all commands, says how each ended, and returns 1 if one failed."""
    results = {name: timed(name, command) for name, command in commands.items()}
    say("")
    for name, (code, seconds) in results.items():
        say(f"{name:<14}{seconds:7.1f} s  {'FAILED' if code else 'passed'}")
    return int(any(code for code, seconds in results.values()))


def timed(name: str, command: list) -> tuple:
    """Runs one step of the tests; returns its exit code and its seconds."""
    say(f"\n---- {name}")
    started = time.time()
    # One thread a worker: two workers with two threads each fight over two cores.
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    code = call([str(PYTHON), *command], OMP_NUM_THREADS=threads, TQDM_DISABLE="1")
    return code, time.time() - started


def call(command: list, cwd: Path = ROOT, **variables: str) -> int:
    """Runs a command to its end and returns its exit code. Ctrl-C reaches the command too, which tidies up first."""
    environment = {**os.environ, "PYTHONUTF8": "1", **variables}
    environment.pop("MPLBACKEND", None)  # a backend set for scripts would keep figures out of the notebooks
    process = subprocess.Popen(command, cwd=str(cwd), env=environment)
    interrupted = False
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


JOBS = {
    **{"course": course, "lab": lab, "test": test, "lint": lint},
    **{"store": store, "bench": bench, "elsewhere": elsewhere},
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
