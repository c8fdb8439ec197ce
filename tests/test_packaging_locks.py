"""The locks agree with pyproject.toml and with each other, and name nothing but packages and hashes."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKED_EXTRAS = {"base": ["build"], "dev": ["build", "test", "lint", "lock"]}
IMPORT_NAMES = {"nvidia-ml-py": "pynvml", "pyyaml": "yaml"}


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """Pins of a lock with their hashes."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return [
        (Requirement(line.partition("--hash")[0]), re.findall(r"--hash=sha256:([0-9a-f]{64})(?= |$)", line))
        for line in lines
    ]


def versions(name: str) -> dict[str, str]:
    """Version of every package of a lock on this machine."""
    found: dict[str, str] = {}
    for pin, _ in entries(name):
        if pin.marker is None or pin.marker.evaluate():
            [specifier] = pin.specifier
            found[canonicalize_name(pin.name)] = specifier.version
    return found


@pytest.mark.parametrize("lock", ["base", "dev"])
def test_every_pin_is_exact_and_hashed(lock: str) -> None:
    found = entries(lock)
    assert len(found) > 30
    for pin, hashes in found:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
        assert hashes, f"{pin} has no hash"
        assert pin.url is None


@pytest.mark.parametrize("lock", ["base", "dev"])
def test_lock_satisfies_the_project(lock: str) -> None:
    locked = versions(lock)
    wanted = [
        *PROJECT["dependencies"],
        *BUILD,
        *(item for extra in LOCKED_EXTRAS[lock] for item in EXTRAS[extra]),
    ]
    for requirement in map(Requirement, wanted):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: make lock"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_one_pin_a_package_for_every_python(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    for lock in LOCKED_EXTRAS:
        names = [
            canonicalize_name(pin.name)
            for pin, _ in entries(lock)
            if pin.marker is None or pin.marker.evaluate(environment)
        ]
        assert len(names) == len(set(names))


def test_dev_lock_holds_every_base_pin() -> None:
    assert versions("base").items() <= versions("dev").items()


def test_base_lock_is_light() -> None:
    heavy = {
        "torch",
        "transformers",
        "datasets",
        "vllm",
        "lm-eval",
        "altair",
        "matplotlib",
        "pytest",
        "ruff",
        "uv",
    }
    assert not heavy & set(versions("base"))


@pytest.mark.parametrize("lock", ["base", "dev"])
def test_lock_names_no_place(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    assert not re.search(r"://|--index|--find-links|(?<![\w.])/\w|[A-Za-z]:\\\\", text)


@pytest.mark.parametrize(
    "line", ["--index-url x", "    # from /opt/wheels", "a @ file://b", "a @ https://host/a.whl"]
)
def test_lock_script_refuses_a_place(line: str) -> None:
    check_clean = runpy.run_path(str(ROOT / "scripts" / "lock.py"))["check_clean"]
    check_clean(
        Path("x.lock"), "a==1 \\\n    --hash=sha256:00\n    # via\n    #   -c requirements/base.lock\n"
    )
    with pytest.raises(SystemExit, match=r"x\.lock:2 names a place"):
        check_clean(Path("x.lock"), f"a==1\n{line}\n")


def test_package_imports_only_what_the_base_install_brings() -> None:
    base = [canonicalize_name(Requirement(item).name) for item in PROJECT["dependencies"]]
    allowed = (
        {IMPORT_NAMES.get(name, name) for name in base}
        | set(sys.stdlib_module_names)
        | {"harness", "pydantic_core"}
    )
    for path in sorted((ROOT / "harness").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            foreign = {name.partition(".")[0] for name in names} - allowed
            assert not foreign, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} imports {foreign}"
