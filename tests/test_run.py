"""The two commands' own logic: nothing is installed here. And the job that executes notebooks, on small ones."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import nbformat
import pytest
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dgm_lib.measures import ruler

SOURCE = (ROOT / "run.py").read_text(encoding="utf-8")


@pytest.fixture
def run(run_script, tmp_path, monkeypatch):
    """run.py in an empty project, where neither uv nor an install is in reach."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(f"contents of {name}")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(run_script, "ROOT", tmp_path)
    monkeypatch.setattr(run_script, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run_script, "PYTHON", tmp_path / ".venv" / "python")
    monkeypatch.setattr(run_script, "STAMP", tmp_path / ".venv" / "stamp")
    monkeypatch.setattr(run_script.shutil, "which", lambda name: None)
    return run_script


@pytest.fixture
def started(run, monkeypatch):
    """The commands that an install would start, with their variables; .venv gets a Python as soon as one makes it."""
    commands = []

    def quietly(command, **variables):
        commands.append((command, variables))
        if "venv" in command:
            run.PYTHON.touch()

    monkeypatch.setattr(run, "quietly", quietly)
    monkeypatch.setattr(run, "version_of", lambda command: (3, 11, 7) if run.PYTHON.exists() else ())
    return commands


# ---- an old Python -------------------------------------------------------------------------------------------------


def test_an_old_python_can_read_the_file():
    tree = ast.parse(SOURCE, feature_version=(3, 6))
    hints = [node.annotation for node in ast.walk(tree) if isinstance(node, ast.arg) and node.annotation]
    hints += [node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.returns]
    assert all(isinstance(hint, (ast.Name, ast.Constant)) for hint in hints)  # `list[str]` fails when 3.8 reads it


def test_only_the_standard_library_is_needed():
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.fixture
def old_python(run, monkeypatch):
    monkeypatch.setattr(run, "sys", SimpleNamespace(version_info=(3, 9, 6), exit=sys.exit))


def test_an_old_python_hands_over_to_the_newest_that_works(run, old_python, monkeypatch):
    there = {"python3.12": (3, 12, 1), "python3.11": (3, 11, 7)}
    monkeypatch.setattr(run, "version_of", lambda command: there.get(command[0], ()))
    monkeypatch.setattr(run, "call", lambda command: command)
    assert run.main(["test", "-x"]) == ["python3.12", str(run.ROOT / "run.py"), "test", "-x"]


def test_without_a_newer_python_one_sentence_says_so(run, old_python, monkeypatch):
    monkeypatch.setattr(run, "version_of", lambda command: ())
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer, this is Python 3\.9, .* install one"):
        run.main(["course"])


def test_a_name_on_the_path_that_starts_no_python_has_no_version(run, tmp_path):
    assert run.version_of([sys.executable]) == sys.version_info[:3]
    assert run.version_of([str(tmp_path / "missing")]) == ()
    assert run.version_of([sys.executable, "-c", "raise SystemExit(1)"]) == ()  # a shim without its Python
    assert run.version_of([sys.executable, "-c", "print('no number')"]) == ()


# ---- the first word ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "said"), [(["curse"], "There is no job 'curse'."), ([], "Which job?")])
def test_a_job_that_does_not_exist_gives_the_usage(run, capsys, words, said):
    assert run.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert all(f"python run.py {job}" in error for job in run.JOBS)


def test_help_is_no_error(run, capsys):
    assert run.main(["--help"]) == 0
    assert "python run.py course" in capsys.readouterr().out


def test_the_job_gets_the_further_words_after_the_set_up(run, monkeypatch):
    order = []
    monkeypatch.setattr(run, "set_up", lambda: order.append("set up"))
    monkeypatch.setitem(run.JOBS, "bench", lambda words: order.append(words) or 7)
    assert run.main(["bench", "a", "b"]) == 7
    assert order == ["set up", ["a", "b"]]


def test_ctrl_c_ends_quietly(run, monkeypatch, capsys):
    monkeypatch.setattr(run, "set_up", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run.main(["course"]) == 130
    assert capsys.readouterr() == ("", "")


def test_make_and_ci_are_short_forms_of_the_same_jobs(run):
    makefile = (ROOT / "Makefile").read_text()
    assert f".PHONY: {' '.join(run.JOBS)}\n" in makefile
    assert "run.py $@" in makefile
    assert "python3 run.py test" in (ROOT / ".ci" / "run").read_text()


# ---- .venv ---------------------------------------------------------------------------------------------------------


def test_the_first_start_installs_and_the_second_does_nothing(run, started):
    run.set_up()
    (venv, _), (install, _) = started
    assert venv[:3] == [sys.executable, "-m", "venv"]
    assert install[1:4] == ["-m", "pip", "install"]
    assert install[-4:] == ["-c", "constraints.txt", "-e", ".[test]"]
    run.set_up()
    assert len(started) == 2


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_versions_are_installed_into_the_same_venv(run, started, name):
    run.set_up()
    (run.ROOT / name).write_text("changed")
    run.set_up()
    assert len(started) == 3
    assert "install" in started[-1][0]


def test_a_venv_that_one_made_oneself_is_kept(run, started):
    run.VENV.mkdir()
    run.PYTHON.touch()
    run.set_up()
    assert [command[1:4] for command, _ in started] == [["-m", "pip", "install"]]


def test_a_venv_without_a_working_python_is_made_anew(run, started):
    run.set_up()
    run.PYTHON.unlink()
    run.set_up()
    assert "venv" in started[2][0]
    assert "--clear" in started[2][0]


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_a_half_finished_install_is_done_again(run, started, monkeypatch, end):
    run.set_up()
    (run.ROOT / "constraints.txt").write_text("changed")
    whole = run.quietly
    monkeypatch.setattr(run, "quietly", lambda command, **variables: (_ for _ in ()).throw(end))
    with pytest.raises(end):
        run.set_up()
    monkeypatch.setattr(run, "quietly", whole)
    (run.ROOT / "constraints.txt").write_text("contents of constraints.txt")  # even where the old stamp would fit
    run.set_up()
    assert len(started) == 3


def test_an_install_depends_on_versions_python_and_folder(run, tmp_path, monkeypatch):
    first = run.fingerprint((3, 11, 7))
    assert run.fingerprint((3, 11, 7)) == first
    assert run.fingerprint((3, 12, 1)) != first
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (moved / name).write_bytes((tmp_path / name).read_bytes())
    monkeypatch.setattr(run, "ROOT", moved)
    assert run.fingerprint((3, 11, 7)) != first


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"PIP_FIND_LINKS": "a b"}, {"UV_FIND_LINKS": "a,b"}),
        ({"PIP_FIND_LINKS": "a", "UV_FIND_LINKS": "c"}, {}),
    ],
)
def test_uv_is_used_where_it_is_there_and_sees_the_same_links(run, started, monkeypatch, given, expected):
    monkeypatch.setattr(run.shutil, "which", lambda name: "/bin/uv" if name == "uv" else None)
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    run.set_up()
    (venv, _), (install, variables) = started
    assert venv[:2] == ["/bin/uv", "venv"]
    assert install[:5] == ["/bin/uv", "pip", "install", "--python", str(run.PYTHON)]
    assert variables == expected


# ---- what may be missing -------------------------------------------------------------------------------------------


def test_too_little_disk_is_said_before_anything_is_made(run, started, monkeypatch):
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: SimpleNamespace(free=1.2e9))
    with pytest.raises(SystemExit, match=r"needs about 3 GB .* 1\.2 GB are free\. Make room"):
        run.set_up()
    assert not started
    assert not run.VENV.exists()


def test_a_folder_that_cannot_be_written_is_said(run, started):
    run.VENV.write_text("a file where the folder should be")
    with pytest.raises(SystemExit, match=r"Cannot make \.venv here \(.+\): run this in a copy"):
        run.set_up()
    assert not started


def test_debian_without_its_venv_package_is_said(run, started, monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="sudo apt install python3-venv"):
        run.set_up()
    assert not started


PIP_OFFLINE = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(<pip>: Failed to
establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/hatchling/
ERROR: Could not find a version that satisfies the requirement hatchling>=1.26 (from versions: none)
ERROR: No matching distribution found for hatchling>=1.26"""
UV_OFFLINE = """error: Request failed after 3 retries
  Caused by: error sending request for url
  Caused by: client error (Connect)
  Caused by: dns error"""


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (PIP_OFFLINE, "registry cannot be reached"),
        (UV_OFFLINE, "registry cannot be reached"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("error: failed to create file: Permission denied (os error 13)", "Cannot write here"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build for this Python"),
        ("  × No solution found when resolving dependencies", "no build for this Python"),
        ("ERROR: ResolutionImpossible: for help visit", "no build for this Python"),
        ("Segmentation fault", "for the reason above"),
    ],
)
def test_a_failed_install_names_its_remedy(run, output, sentence):
    assert sentence in run.remedy(output)


def test_a_failing_command_shows_its_last_lines_and_a_remedy(run, capfd):
    code = "print(*range(100), 'Read-only file system', sep='\\n'); raise SystemExit(3)"
    with pytest.raises(SystemExit, match="Cannot write here"):
        run.quietly([sys.executable, "-c", code])
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.split("\n")[:2] == ["89", "90"]


def test_a_command_that_succeeds_says_nothing(run, capfd, monkeypatch):
    run.quietly([sys.executable, "-c", "import os; assert os.environ['A'] == 'b'; print('chatter')"], A="b")
    assert capfd.readouterr() == ("", "")


# ---- jobs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def called(run, monkeypatch):
    """The commands that a job would run, without the Python in front, each with its other arguments; all succeed."""
    commands = []
    monkeypatch.setattr(run, "call", lambda command, *a, **k: commands.append((command[1:], a, k)) or 0)
    return commands


def test_course_ends_by_saying_where_to_look(run, called, capsys):
    assert run.course(["01"]) == 0
    assert called[0][0] == ["tools/execute.py", "--to", "notebooks/executed", "01"]
    assert "in notebooks/executed." in capsys.readouterr().out


def test_lab_opens_in_the_notebooks_folder_with_the_options(run, called):
    run.lab(["--no-browser"])
    assert called == [(["-m", "jupyterlab", "--no-browser"], (), {"cwd": run.ROOT / "notebooks"})]


def test_store_executes_in_place_on_the_reference_device_and_renews_the_readme(run, called):
    run.store(["00"])
    assert called == [
        (["tools/execute.py", "--in-place", "00"], (), {"DGM_DEVICE": "cpu"}),
        (["tools/showcase.py"], (), {}),
    ]


def test_bench_passes_the_ids_on(run, called):
    run.bench(["import-seconds"])
    assert called[0][0] == ["-m", "benchmarks", "import-seconds"]


def test_every_step_of_the_tests_runs_even_after_a_failure(run, monkeypatch, capsys):
    (run.ROOT / "notebooks" / "00_a.ipynb").touch()
    (run.ROOT / "notebooks" / "executed").mkdir()
    (run.ROOT / "notebooks" / "executed" / "00_a.ipynb").touch()
    commands = []
    monkeypatch.setattr(run, "call", lambda command, **k: commands.append(command[1:]) or int("ruff" in command))
    assert run.test(["-k", "vae"]) == 1
    lint, layout, types, library, notebooks = commands
    assert lint == ["-m", "ruff", "check", "."]
    assert layout == ["-m", "ruff", "format", "--check", "."]
    assert types[:3] == ["-m", "pyrefly", "check"]
    assert library == ["-m", "pytest", "-n", "2", "-k", "vae"]
    assert notebooks[-1] == "notebooks/00_a.ipynb"
    assert [word for word in notebooks if "ipynb" in word] == ["notebooks/00_a.ipynb"]
    assert {"--nbval", "--nbval-current-env", "loadscope"} <= set(notebooks)
    assert "-k" not in notebooks
    summary = capsys.readouterr().out.strip().splitlines()[-5:]
    assert [line.split()[-1] for line in summary] == ["FAILED", "FAILED", "passed", "passed", "passed"]


def test_lint_runs_what_the_tests_begin_with(run, called):
    assert run.lint([]) == 0
    assert [command[0] for command in called] == list(run.LINT.values())


def test_without_a_notebook_the_rest_is_tested(run, called, capsys):
    assert run.test([]) == 0
    assert len(called) == 4
    assert "There is no notebook yet" in capsys.readouterr().out


@pytest.mark.parametrize(("wanted", "threads"), [(None, "1"), ("2", "2")])
def test_each_worker_has_one_thread_or_as_many_as_wanted_and_no_bars(run, called, monkeypatch, wanted, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if wanted:
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    run.test([])
    assert all(variables == {"OMP_NUM_THREADS": threads, "TQDM_DISABLE": "1"} for _, _, variables in called)


def test_a_command_gets_its_folder_and_variables_and_no_backend(run, monkeypatch, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    code = (
        "import os, sys; sys.exit(0 if os.environ['A'] == 'b' and os.environ['PYTHONUTF8'] == '1' "
        "and 'MPLBACKEND' not in os.environ and os.path.samefile('.', sys.argv[1]) else 9)"
    )
    assert run.call([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, A="b") == 0
    assert run.call([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, A="c") == 9


@pytest.mark.skipif(os.name == "nt", reason="signals end processes on POSIX only")
def test_a_killed_command_has_the_exit_code_of_a_shell(run):
    assert run.call([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


DRIVER = '''
import run, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may ignore it; a child would, too
child = """
import time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("tidied up")
"""
run.set_up = lambda: None
run.JOBS["course"] = lambda words: run.call([sys.executable, "-c", child])
sys.exit(run.main(["course"]))
'''


@pytest.mark.skipif(os.name == "nt", reason="a test cannot press Ctrl-C in a Windows console")
def test_ctrl_c_lets_the_command_tidy_up_first():
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, signal.SIGINT)
            said, error = process.communicate(timeout=60)
        finally:  # whatever was wrong: nothing may go on
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, said, error) == (130, "tidied up\n", "")


# ---- executing notebooks -------------------------------------------------------------------------------------------

GOOD = [
    'print("one")\nprint("two")\nblock = bytearray(200_000_000)',
    "import os\n\nprint(os.path.basename(os.getcwd()), os.environ['TQDM_DISABLE'], 'Agg' in os.environ['MPLBACKEND'])",
]
FAILING = ["1 + 1", '{}["key"]', "2 + 2"]
NOISY = ['import sys\n\nprint("a warning", file=sys.stderr)']
TAGGED = ["1 / 0"]


@pytest.fixture(scope="module")
def stored(notebook_runner, tmp_path_factory):
    """A good notebook and three bad ones, executed in place: their folder, what they were before, the exit code."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name, sources in {"good": GOOD, "failing": FAILING, "noisy": NOISY, "tagged": TAGGED}.items():
        cells = [new_markdown_cell("# A title"), *[new_code_cell(source) for source in sources]]
        cells[1].metadata["execution"] = {"iopub.execute_input": "2020-01-01T00:00:00Z"}
        if name == "tagged":
            cells[1].metadata["tags"] = ["raises-exception"]
        nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    before = {path.stem: path.read_bytes() for path in folder.iterdir()}
    code = notebook_runner.main(["--in-place", *[str(folder / f"{name}.ipynb") for name in before]])
    return SimpleNamespace(folder=folder, before=before, code=code)


def read(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def test_a_stored_notebook_holds_outputs_and_nothing_of_the_machine(stored):
    notebook = read(stored.folder / "good.ipynb")
    before = nbformat.reads(stored.before["good"].decode(), as_version=4)
    _, first, second = notebook.cells
    assert [output.text for output in first.outputs] == ["one\ntwo\n"]
    assert second.outputs[0].text == f"{stored.folder.name} 1 False\n"
    assert [first.execution_count, second.execution_count] == [1, 2]
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in before.cells]
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert notebook.metadata.language_info == {"name": "python"}
    assert notebook.metadata.kernelspec.name == "python3"


def test_a_notebook_with_an_error_or_stderr_is_not_stored(stored):
    assert stored.code == 1
    refused = ["failing", "noisy", "tagged"]
    for name in refused:
        assert (stored.folder / f"{name}.ipynb").read_bytes() == stored.before[name]
    assert {path.name for path in stored.folder.iterdir()} == {f"{name}.ipynb" for name in ["good", *refused]}


def test_storing_again_changes_no_byte(stored, notebook_runner, capsys):
    once = (stored.folder / "good.ipynb").read_bytes()
    assert notebook_runner.main(["--in-place", str(stored.folder / "good.ipynb")]) == 0
    assert (stored.folder / "good.ipynb").read_bytes() == once
    name, seconds, _, megabytes, _ = capsys.readouterr().out.split()
    assert name == "good"
    assert float(seconds) > 0
    assert 200 < float(megabytes) < 1000  # the cell's block, and not much more


def test_a_course_goes_on_after_a_failing_notebook_and_says_which_cell(stored, notebook_runner, tmp_path, capsys):
    paths = [str(stored.folder / f"{name}.ipynb") for name in ("failing", "noisy")]
    (tmp_path / "torn.ipynb").write_text("{")
    paths.insert(0, str(tmp_path / "torn.ipynb"))
    assert notebook_runner.main(["--to", str(tmp_path / "executed"), *paths]) == 1
    said = capsys.readouterr().out
    assert "torn" in said
    assert "not appear to be JSON" in said
    assert "code cell 2: KeyError: 'key'" in said
    _, one, two, three = read(tmp_path / "executed" / "failing.ipynb").cells
    assert one.outputs[0].data["text/plain"] == "2"
    assert two.outputs[0].output_type == "error"
    assert not three.outputs
    assert read(tmp_path / "executed" / "noisy.ipynb").cells[1].outputs[0].name == "stderr"


def test_what_a_notebook_records_is_kept_beside_it_in_the_place_of_what_it_had_recorded(notebook_runner, tmp_path):
    path = tmp_path / "01_a.ipynb"
    ruler.write(tmp_path / "results.json", {"00": {"a": {"nats": 1}}, "01": {"gone": {"nats": 2}}})
    source = 'from dgm_lib.measures import ruler\n\nruler.record("01", {"b": {"nats": 3.0}})'
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    assert notebook_runner.main(["--in-place", str(path)]) == 0
    assert ruler.read(tmp_path / "results.json") == {"00": {"a": {"nats": 1}}, "01": {"b": {"nats": 3}}}
    assert notebook_runner.main(["--to", str(tmp_path / "executed"), str(path)]) == 0
    assert ruler.read(tmp_path / "executed" / "results.json") == {"01": {"b": {"nats": 3}}}


def test_a_course_runs_two_notebooks_at_a_time_and_reports_them_in_order(
    notebook_runner, tmp_path, monkeypatch, capsys
):
    """Each waits for what the other one writes, so that neither would end alone."""
    monkeypatch.setattr(notebook_runner.os, "cpu_count", lambda: 2)
    for name, other in (("01", "02"), ("02", "01")):
        source = (
            "import time\nfrom pathlib import Path\n\nfrom dgm_lib.measures.ruler import record\n\n"
            f"Path({str(tmp_path / name)!r}).touch()\n"
            f"while not Path({str(tmp_path / other)!r}).exists():\n    time.sleep(0.05)\n"
            f"record({name!r}, {{'model': {{'nats': 1.0}}}})"
        )
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), tmp_path / f"{name}_a.ipynb")
    paths = [str(tmp_path / f"{name}_a.ipynb") for name in ("01", "02")]
    assert notebook_runner.main(["--to", str(tmp_path / "executed"), *paths]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["01_a", "02_a"]
    assert list(ruler.read(tmp_path / "executed" / "results.json")) == ["01", "02"]


def test_a_kernel_that_dies_and_a_cell_that_hangs_are_named(notebook_runner, tmp_path):
    for name, source in {"dies": "import os\n\nos._exit(3)", "hangs": "while True:\n    pass"}.items():
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), tmp_path / name)
    assert "code cell 1: the kernel died" in notebook_runner.execute(tmp_path / "dies").failure
    assert notebook_runner.execute(tmp_path / "hangs", cell_seconds=1).failure == "code cell 1: it ran longer than 1 s"


def test_notebooks_are_found_by_how_their_names_begin(notebook_runner, monkeypatch, tmp_path):
    monkeypatch.setattr(notebook_runner, "FOLDER", tmp_path)
    paths = [tmp_path / "00_start_here.ipynb", tmp_path / "01_densities.ipynb"]
    for path in paths:
        path.touch()
    assert notebook_runner.find([]) == paths
    assert notebook_runner.find(["01", "00_start", "01"]) == paths[::-1]
    assert notebook_runner.find([str(paths[0])]) == paths[:1]
    with pytest.raises(ValueError, match="'02' names 0 notebooks, not one; there are: 00_start_here, 01_densities"):
        notebook_runner.find(["02"])
    with pytest.raises(ValueError, match="'0' names 2 notebooks"):
        notebook_runner.find(["0"])
