"""The locks agree with pyproject.toml and with each other, and name nothing but packages and hashes."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
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
LOCKED_EXTRAS = {
    "base": ["build"],
    "dev": ["build", "test", "lint", "lock"],
    "train": ["build", "train", "eval", "plot"],
}
LOCKS = [*LOCKED_EXTRAS, "generate", "image", "peers", "punkt", "torch-cpu", "torch-cuda"]
IMPORT_NAMES = {"nvidia-ml-py": "pynvml", "pyyaml": "yaml", "ruamel-yaml": "ruamel"}
# Which parts may import what the extras bring, and what. Everything else runs on the base list.
EXTRA_IMPORTS = {
    "distill": {
        "accelerate",
        "datasets",
        "jinja2",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
    },
    "models": {"datasets", "jinja2", "torch", "transformers", "vllm"},
    "report": {"fontTools", "ttf_opensans", "vl_convert"},
    "gpucheck": {"safetensors", "torch", "transformers"},
    # if_verifiable: a benchmark added as CONTRIBUTING.md shows.
    "evaluation": {
        "datasets",
        "if_verifiable",
        "langdetect",
        "lm_eval",
        "nltk",
        "sklearn",
        "torch",
        "transformers",
    },
    "fetch": {"httpx2", "huggingface_hub"},
}


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


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_exact_and_hashed(lock: str) -> None:
    found = entries(lock)
    assert len(found) > (30 if lock in LOCKED_EXTRAS else 0)
    for pin, hashes in found:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
        assert hashes, f"{pin} has no hash"
        assert pin.url is None


@pytest.mark.parametrize("lock", LOCKED_EXTRAS)
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


@pytest.mark.parametrize("lock", ["generate", "image", "peers"])
def test_lock_on_top_of_others_satisfies_its_extra(lock: str) -> None:
    locked = {
        **versions("base"),
        **versions("dev"),
        **versions("train"),
        **versions("torch-cuda"),
        **versions(lock),
    }
    for requirement in map(Requirement, EXTRAS[lock]):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: make lock"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_one_pin_a_package_for_every_python(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    for lock in LOCKS:
        names = [
            canonicalize_name(pin.name)
            for pin, _ in entries(lock)
            if pin.marker is None or pin.marker.evaluate(environment)
        ]
        assert len(names) == len(set(names))


def test_every_lock_holds_every_base_pin() -> None:
    for lock in LOCKED_EXTRAS:
        assert versions("base").items() <= versions(lock).items()


@pytest.mark.parametrize("one", LOCKS)
@pytest.mark.parametrize("other", LOCKS)
def test_shared_pins_agree(one: str, other: str) -> None:
    mine, theirs = versions(one), versions(other)
    public = {
        name: (mine[name].partition("+")[0], theirs[name].partition("+")[0])
        for name in mine.keys() & theirs.keys()
    }
    assert not {name: pair for name, pair in public.items() if pair[0] != pair[1]}


def torch_hashes(lock: str) -> set[str]:
    [hashes] = [hashes for pin, hashes in entries(lock) if pin.name == "torch"]
    return set(hashes)


def test_both_builds_of_torch_are_locked_apart_and_together() -> None:
    cpu, cuda = torch_hashes("torch-cpu"), torch_hashes("torch-cuda")
    assert cpu and cuda and not cpu & cuda
    assert torch_hashes("train") == cpu | cuda
    # A lock that asks for the local version cannot be satisfied by the registry's wheel.
    assert versions("torch-cpu") == {"torch": versions("train")["torch"] + "+cpu"}
    listed = [
        line.split("  ") for line in (ROOT / "requirements" / "torch-cpu.sha256").read_text().splitlines()
    ]
    assert {digest for digest, _ in listed} == cpu
    for python in ("311", "312", "313"):
        assert [name for _, name in listed if f"-cp{python}-" in name and "x86_64" in name]


def test_the_cpu_build_brings_no_cuda_library() -> None:
    cuda = {canonicalize_name(pin.name) for pin, _ in entries("torch-cuda")}
    assert {"nvidia-cublas", "nvidia-nccl-cu13", "triton"} <= cuda
    assert cuda & set(versions("train")) == {"torch"}
    assert not [name for name in versions("train") if re.match(r"nvidia-(?!ml-py$)|cuda-|triton$", name)]


def test_lock_script_refuses_to_leave_out_a_library_that_others_want() -> None:
    split_torch = runpy.run_path(str(ROOT / "scripts" / "lock.py"))["split_torch"]
    blocks = {"triton": "triton==1 \\\n    --hash=sha256:00\n    # via\n    #   torch\n    #   fastkernels\n"}
    with pytest.raises(SystemExit, match=r"triton is left out .* \{'fastkernels'\} wants it"):
        split_torch(blocks)


def test_base_lock_is_light() -> None:
    heavy = {
        "torch",
        "transformers",
        "datasets",
        "vllm",
        "lm-eval",
        "fonttools",
        "matplotlib",
        "pytest",
        "ruff",
        "uv",
    }
    assert not heavy & set(versions("base"))


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_place(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    assert not re.search(r"://|--index|--find-links|(?<![\w.])/\w|[A-Za-z]:\\\\", text)


@pytest.mark.parametrize(
    "line", ["--index-url x", "    # from /srv/wheels", "a @ file://b", "a @ https://host/a.whl"]
)
def test_lock_script_refuses_a_place(line: str) -> None:
    check_clean = runpy.run_path(str(ROOT / "scripts" / "lock.py"))["check_clean"]
    check_clean(
        Path("x.lock"), "a==1 \\\n    --hash=sha256:00\n    # via\n    #   -c requirements/base.lock\n"
    )
    with pytest.raises(SystemExit, match=r"x\.lock:2 names a place"):
        check_clean(Path("x.lock"), f"a==1\n{line}\n")


def test_package_imports_only_what_its_install_brings() -> None:
    base = [canonicalize_name(Requirement(item).name) for item in PROJECT["dependencies"]]
    allowed = (
        {IMPORT_NAMES.get(name, name) for name in base}
        | set(sys.stdlib_module_names)
        | {"harness", "pydantic_core"}
    )
    for path in sorted((ROOT / "harness").rglob("*.py")):
        part = path.relative_to(ROOT / "harness").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            foreign = {name.partition(".")[0] for name in names} - allowed - EXTRA_IMPORTS.get(part, set())
            assert not foreign, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} imports {foreign}"


def test_no_command_imports_an_extra_at_its_top() -> None:
    code = (
        "import importlib, pkgutil, sys; import harness.cli\n"
        "for module in pkgutil.iter_modules(harness.cli.__path__):\n"
        "    importlib.import_module(f'harness.cli.{module.name}')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "click" in done.stdout.split()
    assert not set().union(*EXTRA_IMPORTS.values()) & set(done.stdout.split())
