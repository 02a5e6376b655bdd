"""pyproject.toml, constraints.txt and environment.yml say the same; and the tests stay on this machine."""

from __future__ import annotations

import re
import socket
import tomllib
from itertools import chain

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]
TORCH = "2.13.0"


def direct_dependencies() -> list[Requirement]:
    """All that pyproject.toml names itself, whichever extra it is for."""
    lines = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    return [Requirement(line) for line in lines if Requirement(line).name != PROJECT["name"]]


def pinned(name: str) -> list[str]:
    """The versions that the constraints give a package; several where they depend on Python or the system."""
    return [next(iter(pin.specifier)).version for pin in PINS if pin.name == name]


# ---- constraints.txt -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needed", direct_dependencies(), ids=lambda needed: needed.name)
def test_each_direct_dependency_is_pinned_inside_its_range(needed):
    versions = pinned(needed.name)
    assert versions
    assert all(needed.specifier.contains(version) for version in versions)


def test_each_line_pins_one_version():
    assert all([clause.operator for clause in pin.specifier] == ["=="] for pin in PINS)
    assert not any("*" in str(pin.specifier) for pin in PINS)


def test_torch_is_pinned_to_the_version_that_the_course_was_made_with():
    assert pinned("torch") == [TORCH]


def test_each_python_and_system_gets_one_version_of_a_package():
    environments = [
        {"python_version": python, "python_full_version": full, "sys_platform": system, "os_name": name}
        for python, full in (("3.11", "3.11.0"), ("3.11", "3.11.9"), ("3.12", "3.12.1"), ("3.14", "3.14.0"))
        for system, name in (("linux", "posix"), ("darwin", "posix"), ("win32", "nt"))
    ]
    for environment in environments:
        names = [pin.name for pin in PINS if pin.marker is None or pin.marker.evaluate(environment)]
        assert len(names) == len(set(names))
        assert {needed.name for needed in direct_dependencies()} <= set(names)


@pytest.mark.parametrize("name", ["constraints.txt", "environment.yml"])
def test_nothing_names_an_address_or_a_path(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|file:|@ |--(extra-)?index-url|--find-links|(^|\s)[~./]*/|\\", text)


# ---- environment.yml -----------------------------------------------------------------------------------------------


def conda_part() -> dict[str, str]:
    """Name -> version of what conda itself installs."""
    lines = [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]
    return {name: version for name, _, version in (line.partition("=") for line in lines)}


def pip_part() -> list[str]:
    return next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))


def test_conda_installs_only_python_and_pip_from_one_channel():
    assert set(conda_part()) == {"python", "pip"}
    assert ENVIRONMENT["channels"] == ["conda-forge"]


def test_the_python_of_conda_is_one_that_pyproject_takes_and_the_constraints_were_made_for():
    python = conda_part()["python"]
    assert re.fullmatch(r"3\.\d+", python)  # Binder reads a minor version, no range
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    assert f"--python-version {python} " in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_pip_installs_there_what_run_py_installs(run_script, monkeypatch):
    """The lines of a requirements file mean to pip what the same words mean on its command line."""
    commands = []
    monkeypatch.setattr(run_script, "quietly", lambda command, **variables: commands.append(command))
    monkeypatch.setattr(run_script, "STAMP", ROOT / "no-such-file")
    run_script.install()
    words = [word for line in pip_part() for word in line.split()]
    assert words == ["-c", "constraints.txt", "-e", ".[test]"]
    assert commands[0][-len(words) :] == words


def test_the_extra_that_is_installed_exists_and_brings_the_notebooks():
    extra = re.fullmatch(r"-e \.\[(\w+)\]", pip_part()[-1]).group(1)
    brought = [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    assert [needed.extras for needed in brought if needed.name == PROJECT["name"]] == [{"notebooks"}]


# ---- the tests themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_a_test_cannot_reach_the_network(method):
    with socket.socket() as there, pytest.raises(AssertionError, match=r"tried to reach 192\.0\.2\.1"):
        getattr(there, method)(("192.0.2.1", 80))  # an address that is kept for examples


def test_a_test_can_reach_its_own_server():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
