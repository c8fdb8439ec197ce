"""The files around the image hold to their rules and agree with each other; no engine is needed."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from harness import __version__
from harness.audit.plan import load_plan

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = [
    (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
    for line in re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    if line.strip()
]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/image.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    sys.modules.pop("image", None)
    return importlib.import_module("image")


def argument_of(instruction: str) -> list[str]:
    return [text for name, text in INSTRUCTIONS if name == instruction]


def test_nothing_is_pulled_before_the_file_is_read() -> None:
    assert "syntax=" not in "".join(line for line in DOCKERFILE.splitlines()[:1])
    assert not re.search(r"^#\s*(syntax|escape|check)=", DOCKERFILE, flags=re.MULTILINE)


def test_base_is_pinned_by_digest_and_every_stage_rests_on_it() -> None:
    assert re.fullmatch(r"BASE_IMAGE=nvidia/cuda:[\w.-]+@sha256:[0-9a-f]{64}", argument_of("ARG")[0])
    stages = {"${BASE_IMAGE}"}
    for text in argument_of("FROM"):
        source, _, name = text.split()
        assert source in stages or source == "runtime-${TORCH}", source
        stages.add(name)
    assert {"runtime-cpu", "runtime-cuda"} <= stages


def test_last_user_is_not_root_and_entry_point_is_the_command() -> None:
    assert argument_of("USER") == ["10001:10001"]
    assert argument_of("ENTRYPOINT") == ['["kit"]']
    assert argument_of("HEALTHCHECK")[0].endswith('CMD ["kit", "health"]')
    assert argument_of("VOLUME") == ['["/cache", "/runs"]']


def test_a_volume_never_hides_what_a_user_mounts() -> None:
    """A declared volume below /work would be laid over the runs in a mounted folder, and lost with --rm."""
    assert not [path for path in json.loads(argument_of("VOLUME")[0]) if Path(path).is_relative_to("/work")]


def test_packages_come_from_hashed_locks_alone() -> None:
    script = (ROOT / "containers" / "install.sh").read_text()
    assert script.count("install --require-hashes") == 1
    assert not re.search(r"pip install(?! --require-hashes)", script)
    for text in argument_of("RUN"):
        if "pip install" in text or "pip wheel" in text:
            assert "--no-index" in text and "--no-deps" in text, text


def test_caches_and_home_are_writable_for_every_user() -> None:
    [install] = [text for text in argument_of("RUN") if "install -d -m 1777" in text]
    assert re.search(r"-m 1777 /cache /runs /work/runs$", install)
    environment = " ".join(argument_of("ENV"))
    for name in ("KIT_CACHE", "HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT"):
        assert re.search(rf"\b{name}=/cache/", environment), name
    assert "HOME=/tmp" in environment


def test_only_what_the_build_reads_enters_the_context() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert lines[0] == "*"
    let_in = {line[1:].split("/*")[0] for line in lines if line.startswith("!")}
    read = {word for text in argument_of("COPY") if "--from" not in text for word in text.split()[:-1]}
    read |= set(re.findall(r"type=bind,source=([\w/]+)", DOCKERFILE))
    for source in read:
        inside = {entry for entry in let_in if entry == source or entry.startswith(source + "/")}
        assert inside or any(source.startswith(entry + "/") for entry in let_in), source
        assert (ROOT / source).exists(), source
    assert {entry.split("/")[0] for entry in let_in} == {source.split("/")[0] for source in read}
    assert (ROOT / "wheelhouse" / ".gitkeep").exists()


def test_no_wheel_is_kept_in_git() -> None:
    done = subprocess.run(
        ["git", "ls-files", "wheelhouse"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() in ([], ["wheelhouse/.gitkeep"])


def test_build_and_script_install_the_same_locks(image: ModuleType) -> None:
    script = (ROOT / "containers" / "install.sh").read_text()
    found = re.findall(r"^  (\w+)\) locks=\(([^)]*)\)", script, flags=re.MULTILINE)
    assert {torch: tuple(names.split()) for torch, names in found} == image.LOCKS
    for names in image.LOCKS.values():
        assert all((ROOT / "requirements" / f"{name}.lock").exists() for name in names)


def test_packages_without_a_wheel_are_the_same_as_in_setup() -> None:
    lists = [
        re.findall(r"without_wheel=(\S+)", (ROOT / name).read_text())
        for name in ("containers/install.sh", "scripts/setup.sh")
    ]
    assert lists[0] == lists[1] and len(lists[0]) == 1


def test_the_image_is_told_what_the_checkout_is(image: ModuleType) -> None:
    from harness.spec import load_protocol

    told = image.build_arguments("cpu", "base:local")
    assert told["KIT_VERSION"] == __version__
    assert told["PROTOCOL_VERSION"] == load_protocol().version
    assert told["BASE_IMAGE"] == "base:local"
    assert "BASE_IMAGE" not in image.build_arguments("cuda", None)
    declared = {word.partition("=")[0] for text in argument_of("ARG") for word in text.split()}
    assert set(told) | {"GIT_COMMIT", "GIT_DIRTY"} <= declared


def test_a_missing_cpu_wheel_names_the_remedy(
    image: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "WHEELHOUSE", tmp_path / "wheelhouse")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(image.BuildError, match=r"(?s)sees no CPU build of torch.*PIP_FIND_LINKS"):
        image.fetch_cpu_wheel("3.13")
    with pytest.raises(image.BuildError, match="lists no CPU build of torch for cp39"):
        image.fetch_cpu_wheel("3.9")


def test_without_a_builder_the_remedy_is_named(
    image: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(image.BuildError, match="make image-test"):
        image.builder()
    stand_in = tmp_path / "buildah"
    stand_in.write_text("#!/bin/sh\nexit 0\n")
    stand_in.chmod(0o755)
    assert image.builder() == [str(stand_in), "bud", "--format", "docker"]


def test_the_baked_example_is_a_pipeline(tmp_path: Path) -> None:
    [copied] = [text for text in argument_of("COPY") if "/work/examples" in text]
    assert copied == "examples /work/examples"
    plan = load_plan(ROOT / "examples" / "minimal.yaml", run_dir=tmp_path / "run")
    assert len(plan.stages) == 4


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_pins_actions_and_asks_for_the_least(path: Path) -> None:
    text = path.read_text()
    found: dict[Any, Any] = yaml.safe_load(text)
    assert found["permissions"] == {}
    for job in found["jobs"].values():
        assert job["permissions"] == {"contents": "read"}
        assert "uses" in job or job["timeout-minutes"] <= 120
        for step in job.get("steps", []):
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step
            for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
                assert target in TARGETS
            # What others write (titles, branch names) never becomes part of a script.
            assert "${{" not in step.get("run", "")
    assert len(re.findall(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", text, flags=re.MULTILINE)) == text.count("@")


def test_make_removes_runs_and_nothing_else(tmp_path: Path) -> None:
    """The names of its variables are common ones: what the environment has in them is somebody else's."""
    for name in ("theirs/thesis.txt", "runs/demo/reproduction.json", "runs/example/journal/stages.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "it's empty").mkdir()
    command = ["make", "-f", str(ROOT / "Makefile"), "-C", str(tmp_path), "clean-all"]
    told = {"DEMO": "theirs", "EXAMPLE": "theirs", "MAKEFLAGS": "", "PATH": os.environ["PATH"]}
    subprocess.run(command, env=told, check=True, capture_output=True)
    assert not list((tmp_path / "runs").iterdir())
    assert (tmp_path / "theirs" / "thesis.txt").exists()
    done = subprocess.run([*command, "EXAMPLE=theirs"], env=told, check=False, capture_output=True, text=True)
    assert done.returncode != 0 and "theirs holds no run" in done.stdout
    assert (tmp_path / "theirs" / "thesis.txt").exists()
    subprocess.run([*command, "EXAMPLE=it's empty"], env=told, check=True, capture_output=True)
    assert not (tmp_path / "it's empty").exists()


def test_workflows_are_test_image_and_release() -> None:
    assert [path.stem for path in WORKFLOWS] == ["image", "release", "submission", "test"]
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    for called in re.findall(r"uses: \./(\S+)", text):
        assert "workflow_call" in yaml.safe_load((ROOT / called).read_text())[True]


def test_compose_runs_hardened_and_without_a_network() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {"kit", "kit-cpu"} <= set(services)
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["network_mode"] == ("bridge" if name == "fetch" else "none")
        assert ".:/work" in service["volumes"]


def test_structure_rules_and_compose_agree_with_the_dockerfile() -> None:
    rules = yaml.safe_load((ROOT / "containers" / "structure.yaml").read_text())["metadataTest"]
    assert rules["user"] == argument_of("USER")[0]
    assert rules["workdir"] == argument_of("WORKDIR")[-1]
    assert rules["volumes"] == json.loads(argument_of("VOLUME")[0])
    [labels] = argument_of("LABEL")
    for rule in rules["labels"]:
        assert f"{rule['key']}=" in labels


def test_dev_container_names_a_stage_and_files_that_exist() -> None:
    found = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert any(text.endswith(f" AS {found['build']['target']}") for text in argument_of("FROM"))
    assert (ROOT / ".devcontainer" / found["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    for lock in re.findall(r"-r (\S+)", found["postCreateCommand"]):
        assert (ROOT / lock).exists()


@pytest.mark.parametrize("name", ["docs/containers.md", "containers/kit.def"])
def test_apptainer_never_runs_on_the_caches_of_a_read_only_image(name: str) -> None:
    runs = re.findall(r"^.*apptainer run .*", (ROOT / name).read_text(), flags=re.MULTILINE)
    assert runs
    for line in runs:
        [binds] = re.findall(r'--bind "([^"]*)"', line)
        assert "/cache" in [bind.partition(":")[2] for bind in binds.split(",")], line


def test_apptainer_definition_has_its_sections() -> None:
    text = (ROOT / "containers" / "kit.def").read_text()
    assert text.startswith("Bootstrap: docker-daemon\nFrom: kit:latest\n")
    assert {"%environment", "%runscript", "%test", "%help"} <= set(
        re.findall(r"^%\w+", text, flags=re.MULTILINE)
    )
    assert "--nv" in text
