"""The project as a package: what it asks for, and the wheel, installed where nothing else is."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fmaml_jax
from tests.commands import run_module

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("data_prep", "fmaml_jax")


def requirements(lines):
    found = map(Requirement, filter(None, (line.split("#")[0].strip() for line in lines)))
    return [each for each in found if each.marker is None or each.marker.evaluate()]


def pins():
    """The exact versions, by name."""
    files = ROOT.glob("requirements*.txt")
    lines = [line for file in files for line in file.read_text().splitlines()]
    return {canonicalize_name(each.name): each for each in requirements(lines)}


def asked_for():
    """What the package and its extras ask for, but for plugins of the version of JAX itself."""
    extras = PROJECT["optional-dependencies"]
    return requirements([*PROJECT["dependencies"], *extras["web"], *extras["hub"]])


def test_the_exact_versions_are_among_those_that_the_package_takes():
    exact = pins()
    for asked in asked_for():
        (version,) = exact[canonicalize_name(asked.name)].specifier
        assert asked.specifier.contains(version.version), asked


def test_all_that_is_imported_is_asked_for():
    imported = {
        name.split(".")[0]
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    } - {*sys.stdlib_module_names, *PACKAGES}
    # Of Gradio; and pandas if it is there.
    brought = {"anyio", "fastapi", "pandas", "starlette", "uvicorn"}
    asked = {canonicalize_name(each.name) for each in asked_for()} | brought
    of = packages_distributions()
    missing = {name for name in imported if not asked & {*map(canonicalize_name, of.get(name, ()))}}
    # Without the extra web, what it imports is of no distribution.
    web = {each.name for each in requirements(PROJECT["optional-dependencies"]["web"])}
    assert missing <= (brought | web) - of.keys()


def test_the_version_is_one():
    version = fmaml_jax.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    headings = re.findall(r"^## \[(\d.*)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == (version, str(citation["date-released"]))


def test_every_command_is_a_function():
    for place in PROJECT["scripts"].values():
        module, function = place.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_version_is_told_without_the_flags_that_are_required():
    done = run_module("data_prep.synthesise", "--version")
    assert (done.returncode, done.stdout) == (0, f"fmaml_jax {fmaml_jax.__version__}\n")


def test_make_keeps_the_environment_until_the_requirements_say_something_else(tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *venv*) rm -rf .venv && mkdir -p .venv/bin && '
        f"ln -s {shutil.which('true')} .venv/bin/pip ;; esac\n"
    )
    python.chmod(0o755)
    asked, made = tmp_path / "requirements.txt", tmp_path / ".venv" / "made"

    def make(now):
        os.utime(asked, (now, now))
        return subprocess.run(
            ["make", "venv", "PYTHON=./python"], cwd=tmp_path, capture_output=True, text=True
        )

    asked.write_text("numpy==2\n")
    later = tmp_path.stat().st_mtime + 1000
    assert make(later).returncode == 0
    made.touch()
    assert make(later + 1).returncode == 0
    assert made.exists()
    asked.write_text("numpy==3\n")
    assert make(later + 2).returncode == 0
    assert not made.exists()
    made.touch()
    (tmp_path / ".venv").rename(tmp_path / "elsewhere")
    (tmp_path / ".venv").symlink_to("elsewhere")
    asked.write_text("numpy==4\n")
    refused = make(later + 3)
    assert refused.returncode == 2
    assert ".venv is a link, and what it points to would be emptied" in refused.stdout
    assert made.exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the scripts of an environment that has the wheel, and what it asks for."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "--wheel-dir", folder, ROOT], check=True)
    environment = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    own = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "other.pth").write_text(f"{own}\n")
    (file,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install"]
    subprocess.run([*pip, "-q", "--no-deps", "--no-index", "--ignore-installed", file], check=True)
    return environment / "bin"


@pytest.fixture
def run(installed, tmp_path, monkeypatch):
    """Runs an installed command in an empty folder; its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(command, *arguments):
        done = subprocess.run(
            [installed / command, *map(str, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_packages(run):
    code = f"import {', '.join(PACKAGES)}; print({PACKAGES[1]}.__path__[0])"
    place = Path(run("python", "-c", code).strip())
    assert ROOT not in place.parents
    for package in PACKAGES:
        files = {
            path.relative_to(ROOT)
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert files
        assert not [file for file in files if not (place.parent / file).is_file()]
    presets = {path.name for path in (place / "presets").iterdir()}
    assert presets == {path.name for path in (ROOT / "experiments").glob("*.cfg")}


@pytest.mark.slow
def test_installed_commands_enrol_and_predict(run, trained, tmp_path):
    run_folder, speech = trained
    for label in ("anger", "sadness"):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for clip in speech.of(label)[:3]:
            os.symlink(clip, tmp_path / "clips" / label / clip.name)
    run("fmaml-enrol", f"--checkpoint={run_folder}", "--support=clips", "--out=my.model")
    found = json.loads(run("fmaml-predict", "--model=my.model", "--format=json", *speech.paths[:2]))
    assert [each["file"] for each in found["predictions"]] == [*map(str, speech.paths[:2])]


@pytest.mark.slow
@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_installed_commands_tell_their_version_and_flags(installed, run, command):
    assert run(command, "--version") == f"fmaml_jax {fmaml_jax.__version__}\n"
    module = PROJECT["scripts"][command].split(":")[0]
    flags = re.findall(
        r'DEFINE_\w+\(\s*"(\w+)"', Path(importlib.import_module(module).__file__).read_text()
    )
    done = subprocess.run([installed / command, "--help"], capture_output=True, text=True)
    missing = [
        name for name in flags if not re.search(rf"^ *--(\[no\])?{name}\b", done.stdout, re.M)
    ]
    assert not missing
    assert f"\nExample:\n  {command} " in done.stdout
