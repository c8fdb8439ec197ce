"""The wheel works away from the checkout, and setup says what to do where it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from harness import __version__
from harness.spec import protocol_digest

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
    assert kit.stdout == f"kit {__version__}, protocol 1.0.0 (sha256 {protocol_digest()[:16]})\n"


def test_sdist_makes_the_same_wheel_and_carries_what_its_tests_need(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the build backend is in requirements/dev.lock: make setup-dev")
    build = [sys.executable, "-m", "hatchling", "build", "-d", tmp_path]
    subprocess.run([*build, "-t", "sdist"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run([*build, "-t", "wheel"], cwd=ROOT, check=True, capture_output=True)
    [sdist], [wheel] = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    for name in ("REUSE.toml", "LICENSES/MIT.txt", "tests/lab", "artifacts/claims.yaml", "requirements"):
        assert (source / name).exists(), name
    again = tmp_path / "again"
    subprocess.run([*build[:-1], again, "-t", "wheel"], cwd=source, check=True, capture_output=True)
    assert zipfile.ZipFile(wheel).namelist() == zipfile.ZipFile(again / wheel.name).namelist()


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


def stamped_environment(tmp_path: Path, level: str, locks: list[str]) -> tuple[Path, dict[str, str]]:
    """A copy of the project whose .venv bears a valid stamp, answers setup's questions and can do no more."""
    source = copy_of_project(tmp_path / "source")
    binary = source / ".venv" / "bin" / "python"
    binary.parent.mkdir(parents=True)
    binary.write_text(
        "#!/bin/sh\n"
        'case "$2" in *sys.prefix*) echo 3.11 here;; *metadata*) echo $FAKE_TORCH;; *) exit 1;; esac\n'
    )
    binary.chmod(0o755)
    files = " ".join(f"requirements/{lock}.lock" for lock in locks)
    key = subprocess.run(
        f"{{ echo 3.11 here && cat {files} pyproject.toml; }} | sha256sum | cut -d' ' -f1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=source,
    ).stdout
    (source / ".venv" / f".stamp-{level}").write_text(key)
    [pin] = re.findall(
        r"^torch==(\S+)", (source / "requirements" / "torch-cpu.lock").read_text(), re.MULTILINE
    )
    environment = {name: value for name, value in os.environ.items() if name != "TORCH"}
    return source, environment | {"PYTHON": "/nonexistent", "FAKE_TORCH": pin}


@pytest.mark.parametrize(
    ("stamp", "locks", "served"),
    [
        ("base", ["base"], ["base"]),
        ("dev", ["dev", "factors"], ["base", "dev"]),
        ("train", ["torch-cpu", "train", "punkt"], ["base", "train"]),
        (
            "test",
            ["torch-cpu", "train", "punkt", "dev", "peers", "factors"],
            ["base", "dev", "train", "test"],
        ),
    ],
)
def test_setup_with_a_valid_stamp_needs_nothing(
    tmp_path: Path, stamp: str, locks: list[str], served: list[str]
) -> None:
    source, environment = stamped_environment(tmp_path, stamp, locks)

    def setup(level: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [source / "scripts" / "setup.sh", level]
        return subprocess.run(command, capture_output=True, text=True, env=environment | more)

    for level in served:
        done = setup(level)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), level
    for level in {"base", "dev", "train", "test"} - set(served):
        assert "needs Python 3.11" in setup(level).stderr, level
    # The other build of torch is another environment; an environment without torch is no worse than dev.
    if "train" in locks:
        assert "needs Python 3.11" in setup("train", TORCH="cuda").stderr

    (source / "requirements" / f"{locks[-1]}.lock").open("a").write("# changed\n")
    done = setup(stamp)
    assert done.returncode == 2
    assert "needs Python 3.11" in done.stderr


def test_setup_without_torch_serves_the_tests_from_the_dev_lock(tmp_path: Path) -> None:
    source, environment = stamped_environment(tmp_path, "dev", ["dev", "factors"])
    setup = source / "scripts" / "setup.sh"
    environment["TORCH"] = "none"
    done = subprocess.run([setup, "test"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run([setup, "train"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "training needs torch, and TORCH=none forbids it" in done.stderr


def test_setup_never_fetches_the_cuda_build_for_want_of_the_cpu_build(tmp_path: Path) -> None:
    source, environment = stamped_environment(tmp_path, "base", ["base"])
    calls = tmp_path / "calls"
    refusal = "ERROR: No matching distribution found for torch==2.13.0+cpu"
    (source / ".venv" / "bin" / "python").write_text(
        f'#!/bin/sh\necho "$@" >>{calls}\n'
        f'case "$*" in *metadata*) ;; *torch-cpu.lock*) echo "{refusal}"; exit 1;; esac\n'
    )
    done = subprocess.run(
        [source / "scripts" / "setup.sh", "train"],
        capture_output=True,
        text=True,
        env=environment | {"TORCH": "cpu"},
    )
    assert done.returncode == 2
    assert "pip sees no CPU build of torch" in done.stderr
    assert "TORCH=cuda" in done.stderr
    installs = [line for line in calls.read_text().splitlines() if "pip install" in line]
    assert [("torch-cpu.lock" in line, "torch-cuda.lock" in line) for line in installs] == [
        (False, False),  # setuptools
        (True, False),
    ]
