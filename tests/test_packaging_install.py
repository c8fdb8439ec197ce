"""The wheel works away from the checkout, and setup says what to do where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from harness import __version__

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def copy_of_project(target: Path) -> Path:
    """What a build needs, apart from the checkout, so that no build product lands in it."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, target)
    for name in ("harness", "protocol", "requirements", "scripts"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_installed_wheel_carries_the_protocol(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the build backend is in requirements/dev.lock: make setup-dev")
    source = copy_of_project(tmp_path / "source")
    offline = ["--no-index", "--no-deps"]
    subprocess.run([*PIP, "wheel", *offline, "--no-build-isolation", "-w", tmp_path, source], check=True)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name == f"distill_energy_kit-{__version__}-py3-none-any.whl"

    names = zipfile.ZipFile(wheel).namelist()
    shipped = {
        name.removeprefix("harness/_protocol/") for name in names if name.startswith("harness/_protocol/")
    }
    assert shipped == {
        str(path.relative_to(ROOT / "protocol")) for path in (ROOT / "protocol").rglob("*") if path.is_file()
    }
    assert "harness/py.typed" in names
    assert not [name for name in names if not name.startswith(("harness/", "distill_energy_kit-"))]

    shutil.rmtree(source)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run([*PIP, "--python", venv / "bin" / "python", "install", *offline, wheel], check=True)
    # Dependencies come from the running environment; its path files, and so the checkout, are not read.
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    code = (
        "import harness; from harness.spec import load_protocol; "
        "print(harness.__file__); print(load_protocol('1.0').version); print(*load_protocol('1.0').tables)"
    )
    done = subprocess.run(
        [venv / "bin" / "python", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    file, version, tables = done.stdout.splitlines()
    assert Path(file).is_relative_to(venv)
    assert version.startswith("1.0")
    assert {"power", "stages", "counters", "events", "artifacts"} <= set(tables.split())

    kit = subprocess.run([venv / "bin" / "kit", "--version"], capture_output=True, text=True, env=environment)
    assert kit.stdout == f"kit {__version__}\n"


def run_setup(tmp_path: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/setup.sh in a copy with a stand-in interpreter, a shell script of that text."""
    source = copy_of_project(tmp_path / "source")
    stand_in = tmp_path / "python3"
    stand_in.write_text(f"#!/bin/sh\n{python}\n")
    stand_in.chmod(0o755)
    return subprocess.run(
        [source / "scripts" / "setup.sh", "base"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": str(stand_in)},
    )


def test_setup_names_the_remedy_for_an_old_python(tmp_path: Path) -> None:
    done = run_setup(tmp_path, 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    assert done.returncode == 2
    assert "needs Python 3.11 or newer; found: Python 3.9.2" in done.stderr
    assert "apt-get install -y python3.11 python3.11-venv" in done.stderr


def test_setup_names_the_remedy_for_a_missing_venv_module(tmp_path: Path) -> None:
    done = run_setup(tmp_path, f'case "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac')
    assert done.returncode == 2
    assert f"apt-get install -y python{sys.version_info[0]}.{sys.version_info[1]}-venv" in done.stderr


def test_setup_with_a_valid_stamp_needs_nothing(tmp_path: Path) -> None:
    source = copy_of_project(tmp_path / "source")
    binary = source / ".venv" / "bin" / "python"
    binary.parent.mkdir(parents=True)
    # Answers the question for the key and fails at everything else, an installation above all.
    binary.write_text('#!/bin/sh\ncase "$2" in *sys.prefix*) echo 3.11 here;; *) exit 1;; esac\n')
    binary.chmod(0o755)
    key = subprocess.run(
        "{ echo 3.11 here && cat requirements/dev.lock pyproject.toml; } | sha256sum | cut -d' ' -f1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=source,
    ).stdout
    (source / ".venv" / ".stamp-dev").write_text(key)
    for level in ("dev", "base"):
        done = subprocess.run([source / "scripts" / "setup.sh", level], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    (source / "requirements" / "dev.lock").open("a").write("# changed\n")
    done = subprocess.run(
        [source / "scripts" / "setup.sh", "dev"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": "/nonexistent"},
    )
    assert done.returncode == 2
    assert "needs Python 3.11" in done.stderr
