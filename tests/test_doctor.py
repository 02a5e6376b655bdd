"""The doctor sees each thing that can be wrong, names a remedy, and shows no path of the machine."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
from conftest import ROOT
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from dgm_lib import __main__ as command
from dgm_lib import datasets, doctor, runtime
from dgm_lib.datasets import paths, published
from dgm_lib.datasets.formats import DataError

LOAD = datasets.load


@pytest.fixture(autouse=True)
def healthy(monkeypatch, tmp_path):
    """A machine with room, whatever this one has, and with data that load at once."""
    monkeypatch.setattr(doctor, "LEAST_MEMORY_GB", 0)
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 0)
    monkeypatch.delenv("DGM_DEVICE", raising=False)
    monkeypatch.delenv("DGM_DATA_MIRROR", raising=False)
    monkeypatch.setenv("DGM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load", lambda name, **options: None)


def raising(error):
    def function(*arguments, **options):
        raise error

    return function


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.checkup()}


# ---- all is well ---------------------------------------------------------------------------------------------------


def test_a_healthy_machine_is_called_so(capsys):
    assert doctor.report() is True
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "All is well."
    assert all(line.startswith("✓ ") for line in lines[:-2])
    assert len(lines) <= 24  # one screen
    assert max(map(len, lines)) <= 120


def test_every_value_begins_in_the_same_column(capsys):
    found = doctor.checkup()
    doctor.report()
    lines = capsys.readouterr().out.splitlines()
    assert len({line.index(finding.value[:9]) for line, finding in zip(lines, found)}) == 1


def test_what_is_found_is_what_is_there(monkeypatch):
    found = findings()
    assert found["Python"].value == "{}.{}.{}".format(*sys.version_info)
    assert found["torch"].value.startswith(sys.modules["torch"].__version__)
    assert re.fullmatch(r"[\d.]+ GB, [\d.]+ GB free", found["memory"].value)
    assert re.search(r"numpy \d+\.\d+.*, jupyterlab \d", found["packages"].value)
    monkeypatch.setenv("DGM_DEVICE", "cpu")
    assert doctor.device().value.startswith("cpu: DGM_DEVICE says so")


def test_no_path_of_the_machine_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(datasets, "load", raising(OSError(2, "No such file", "/home/somebody/data")))
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda *a: SimpleNamespace(argv=["/home/x/bin/python"]))
    monkeypatch.setenv("DGM_DEVICE", "warp")
    doctor.report()
    said = capsys.readouterr().out
    assert not re.search(r"(?<!\w)/\w|[A-Z]:\\", said)
    assert str(ROOT) not in said


def test_published_sets_are_optional_and_named_as_here_or_not(monkeypatch):
    monkeypatch.setattr(published, "is_present", lambda name: name == "mnist")
    found = doctor.downloads()
    here, absent = found.value.split("; ")
    assert found.ok
    assert here == "mnist"
    assert absent.startswith("fashion_mnist, kmnist, cifar10 not fetched")


def test_the_embedded_sets_are_really_loaded(monkeypatch):
    loaded = []
    monkeypatch.setattr(datasets, "load", lambda name, **options: loaded.append(name))
    assert doctor.embedded_data().ok
    assert set(loaded) == {name for name, module in datasets.MODULES.items() if module != "published"}


# ---- each thing that can be wrong ----------------------------------------------------------------------------------

WRONG = {
    "Python": (doctor, "sys", SimpleNamespace(version_info=(3, 10, 1), executable=sys.executable, stdout=sys.stdout)),
    "data": (datasets, "load", raising(DataError("a file is damaged"))),
    "memory": (doctor, "LEAST_MEMORY_GB", 10**6),
    "disk": (doctor, "LEAST_DISK_GB", 10**9),
    "kernel": (KernelSpecManager, "get_kernel_spec", raising(NoSuchKernel("python3"))),
    "packages": (doctor, "requires", raising(PackageNotFoundError("dgm-lib"))),
    "numpy": (doctor, "requires", lambda name: ["numpy>=99"]),
    "a-package-that-is-not-there": (doctor, "requires", lambda name: ["a-package-that-is-not-there>=1"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_thing_that_is_wrong_is_seen_alone_and_has_a_remedy(name, monkeypatch, capsys):
    monkeypatch.setattr(*WRONG[name])
    wrong = [finding for finding in doctor.checkup() if not finding.ok]
    assert [finding.name for finding in wrong] == [name]
    assert wrong[0].remedy
    if name != "Python":
        assert doctor.report() is False
        assert f"Remedy: {wrong[0].remedy}" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_wrong(monkeypatch):
    monkeypatch.setenv("DGM_DEVICE", "warp")
    found = findings()["device"]
    assert not found.ok
    assert "'warp'" in found.value
    assert "cpu" in found.remedy


def test_a_cache_that_cannot_be_made_is_wrong(monkeypatch):
    monkeypatch.setattr(paths, "cache_folder", raising(PermissionError(13, "Permission denied")))
    assert not doctor.disk().ok
    assert "DGM_CACHE" in doctor.disk().remedy


@pytest.mark.parametrize(
    ("started", "ok"),
    [
        (sys.executable, True),
        (os.path.join(os.path.dirname(sys.executable), "python3"), True),  # another name in the same environment
        ("python", True),  # Jupyter takes the Python that asks
        (os.path.join(os.path.dirname(sys.executable) + "-of-another", "python"), False),
    ],
)
def test_the_kernel_must_start_this_python(started, ok, monkeypatch):
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda *a: SimpleNamespace(argv=[started]))
    assert doctor.kernel().ok is ok


# What a broken installation says where a package is imported; the finding that names it, and in which words.
BROKEN_TORCH = {
    "missing library": ('raise OSError("libcudart.so: cannot open")', "OSError"),
    "other error": ("None.version", "AttributeError"),
    "no such instruction": ("import os; os.kill(os.getpid(), 4)", "ends with code"),
}
BROKEN_PACKAGES = {
    "PIL": ('raise ImportError("DLL load failed", name="PIL")', "data", "ImportError of PIL"),
    "psutil": ('raise RuntimeError("no /proc")', "memory", "RuntimeError"),
    "packaging": ("1 / 0", "packages", "ZeroDivisionError"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One for all processes, so that the data are drawn once."""
    return tmp_path_factory.mktemp("cache")


def doctor_of_a_machine(folder, cache, **variables) -> list[str]:
    """What the doctor says of an ill machine, in a process of its own where modules of the folder come first."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONUTF8": "1", "DGM_CACHE": str(cache)}
    command = [sys.executable, "-m", "dgm_lib", "doctor"]
    done = subprocess.run(command, cwd=ROOT, env=environment | variables, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert done.stderr == ""
    assert "✓ Python" in done.stdout
    return done.stdout.splitlines()


def assert_is_reported(lines, name, kind):
    """One finding of this name, in these words, with the remedy for a broken package."""
    (at,) = [i for i, line in enumerate(lines) if line.startswith(f"✗ {name} ")]
    assert kind in lines[at]
    assert f"Remedy: {doctor.REINSTALL}" in lines[at + 1]


def install(folder, packages):
    for name, source in packages.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(source)


@pytest.mark.parametrize("case", BROKEN_TORCH)
def test_a_broken_torch_is_reported_and_mended_by_a_new_install(tmp_path, cache, case):
    source, kind = BROKEN_TORCH[case]
    install(tmp_path, {"torch": source})
    assert_is_reported(doctor_of_a_machine(tmp_path, cache), "torch", kind)


def test_broken_packages_are_reported_each_and_mended_by_a_new_install(tmp_path, cache):
    install(tmp_path, {name: source for name, (source, *_) in BROKEN_PACKAGES.items()})
    lines = doctor_of_a_machine(tmp_path, cache)
    for _, name, kind in BROKEN_PACKAGES.values():
        assert_is_reported(lines, name, kind)
    assert len([line for line in lines if line.startswith("✗ ")]) == len(BROKEN_PACKAGES)
    assert not any("get the folders data" in line for line in lines)


def test_data_that_need_a_broken_package_are_mended_by_a_new_install(tmp_path, cache):
    install(tmp_path, {"sklearn": 'raise ImportError("DLL load failed")'})
    lines = doctor_of_a_machine(tmp_path, cache)
    assert_is_reported(lines, "data", "ImportError")
    assert not any("get the folders data" in line for line in lines)


@pytest.mark.parametrize(
    "spec", ['{"argv": [', '{"argv": [], "display_name": "x", "language": "python"}', "[]", '{"argv": 1}', "\0"]
)
def test_a_damaged_kernel_is_reported(tmp_path, monkeypatch, spec):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(spec)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    (wrong,) = [finding for finding in doctor.checkup() if not finding.ok]
    assert wrong.name == "kernel"
    assert wrong.remedy.startswith("run `python -m ipykernel install")


@pytest.mark.parametrize("cache", ["file", "file/below"])
def test_a_cache_that_cannot_be_is_reported_once(tmp_path, monkeypatch, capsys, cache):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets, "load", LOAD)
    monkeypatch.setenv("DGM_CACHE", str(tmp_path / cache))
    assert doctor.report() is False
    lines = capsys.readouterr().out.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("✗ ")]
    assert lines[at].startswith("✗ disk ")
    assert "Remedy: set DGM_CACHE" in lines[at + 1]
    assert str(tmp_path) not in "".join(lines)


@pytest.mark.parametrize(("module", "name"), [("psutil", "memory"), ("jupyter_client.kernelspec", "kernel")])
def test_without_the_notebooks_packages_the_doctor_still_answers(module, name, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert [finding.name for finding in doctor.checkup() if not finding.ok] == [name]


def test_a_card_that_this_torch_cannot_use_is_mentioned(monkeypatch):
    monkeypatch.setattr(runtime, "available_devices", lambda: ["cpu"])
    monkeypatch.setattr(doctor.shutil, "which", lambda program: program)
    assert doctor.device().ok  # a CPU build may be what was wanted
    assert "cannot use the NVIDIA driver" in doctor.device().value


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_without_the_marks_gets_words(encoding, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 10**9)
    assert doctor.report() is False
    console.flush()
    lines = console.buffer.getvalue().decode(encoding).splitlines()
    assert lines[0].startswith("ok      Python  ")
    assert any(line.startswith("PROBLEM disk  ") for line in lines)


# ---- python -m dgm_lib ---------------------------------------------------------------------------------------------


def test_the_command_ends_with_1_and_a_remedy_and_no_traceback(tmp_path, cache):
    lines = doctor_of_a_machine(tmp_path, cache, DGM_DEVICE="warp")
    assert any("Remedy: unset DGM_DEVICE" in line for line in lines)


def test_doctor_ends_with_0_where_all_is_well(capsys):
    assert command.main(["doctor"]) == 0


def test_data_lists_each_set_with_what_it_is(capsys):
    assert command.main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(datasets.NAMES)
    assert not [line for line in lines if "missing" in line or len(line.split()) < 2]


def test_fetch_downloads_each_set(monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(published, "fetch", fetched.append)
    assert command.main(["fetch", "mnist", "kmnist"]) == 0
    assert fetched == ["mnist", "kmnist"]
    assert capsys.readouterr().out == "mnist is in the cache.\nkmnist is in the cache.\n"


@pytest.mark.parametrize(
    "error", [DataError("no mirror answers: try later"), ValueError("no such set"), OSError("full")]
)
def test_a_failed_download_is_one_sentence_on_stderr(error, monkeypatch, capsys):
    monkeypatch.setattr(published, "fetch", raising(error))
    assert command.main(["fetch", "mnist"]) == 1
    assert capsys.readouterr() == ("", f"{error}\n")


def test_an_interrupted_download_ends_quietly(monkeypatch, capsys):
    monkeypatch.setattr(published, "fetch", raising(KeyboardInterrupt()))
    assert command.main(["fetch", "mnist"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", [[], ["cure"], ["fetch"]])
def test_a_wrong_command_line_gives_the_usage(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(words)
    assert "usage: python -m dgm_lib" in capsys.readouterr().err
