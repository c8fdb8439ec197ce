"""What `make image-test` says and returns, without an engine."""

from __future__ import annotations

import importlib
import re
import sys
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/image_test.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr("signal.signal", lambda *words: None)
    return importlib.import_module("image_test")


def skip(*words: Any) -> None:
    raise sys.modules["image_test"].Skipped("no engine")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--require"], 1)])
def test_a_skip_is_a_failure_where_the_test_is_required(
    options: list[str],
    code: int,
    program: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "test", skip)
    monkeypatch.setattr(sys, "argv", ["image_test.py", *options])
    assert program.main() == code
    assert capsys.readouterr().out == "image-test: skipped: no engine\n"


def test_the_workflow_requires_the_test() -> None:
    text = (ROOT / ".github" / "workflows" / "image.yml").read_text()
    assert re.search(r'make image-test ARGS="[^"]*--require\b', text)


def test_a_check_left_out_is_named_and_no_promise_is_called_kept(
    program: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def first_check(bench: object) -> None:
        tried.append("first")

    def broken_check(bench: object) -> None:
        raise AssertionError("x")

    every = program.run_checks(None, [first_check], deadline=float("inf"))
    assert program.conclude(every, 1.0, required=True) == 0
    assert "holds what it promises: 1 checks" in capsys.readouterr().out

    late = program.run_checks(None, [first_check, broken_check], deadline=0.0)
    assert tried == ["first"]
    assert [program.conclude(late, 1.0, required=required) for required in (False, True)] == [0, 1]
    told = capsys.readouterr().out
    assert "0 of 2 checks; left out: first check, broken check" in told
    assert "promises" not in told

    broken = program.run_checks(None, [first_check, broken_check], deadline=float("inf"))
    assert program.conclude(broken, 1.0, required=False) == 1
    assert "the image is broken: broken check" in capsys.readouterr().out


def test_an_engine_interrupted_while_it_starts_is_ended(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    class Slow:
        def __init__(self, folder: Path, library: Path) -> None:
            pass

        def start(self) -> None:
            program.end(15, None)

        def stop(self) -> None:
            ended.append(True)

    monkeypatch.setattr(program, "ENGINES", {"docker": Slow})
    monkeypatch.setattr(program, "install", lambda programs: None)
    with pytest.raises(SystemExit) as caught, ExitStack() as stack:
        program.start_engine("auto", tmp_path, tmp_path / "library", stack)
    assert caught.value.code == 128 + 15
    assert ended == [True]


def test_an_engine_can_be_ended_before_it_started_and_twice(program: ModuleType, tmp_path: Path) -> None:
    for name, make in program.ENGINES.items():
        engine = make(tmp_path / name, tmp_path / "library")
        engine.stop()
        engine.stop()


def test_podman_writes_its_own_leftover_again_and_leaves_that_of_others(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("podman", "buildah", "runc"):
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text("#!/bin/sh\n")
        stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CONTAINERS_CONF", "")
    leftover = tmp_path / "cdi" / "kit-image-test.yaml"
    leftover.parent.mkdir()
    leftover.write_text("old")
    engine = program.ENGINES["podman"](tmp_path / "podman", tmp_path / "library")
    monkeypatch.setattr(engine, "cdi", leftover)
    engine.start()
    assert str(tmp_path / "library") in leftover.read_text()
    engine.stop()
    assert not leftover.exists()
    other = leftover.with_name("nvidia.yaml")
    other.write_text("theirs")
    second = program.ENGINES["podman"](tmp_path / "podman", tmp_path / "library")
    monkeypatch.setattr(second, "cdi", leftover)
    with pytest.raises(program.Skipped, match="describes GPUs already"):
        second.start()
    second.stop()
    assert other.read_text() == "theirs"


def test_dockerd_shares_neither_configuration_nor_containers_with_another(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "bin" / "dockerd"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent))
    monkeypatch.setattr("image_engine._client_that_builds", lambda: "/bin/false")
    (stand_in.parent / "unshare").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (stand_in.parent / "unshare").chmod(0o755)
    seen = namespaces_of(program, tmp_path, offline=False) | namespaces_of(program, tmp_path, offline=True)
    assert len(seen) == 4 and not seen & {"moby", "plugins.moby", "k8s.io", "default"}


def namespaces_of(program: ModuleType, tmp_path: Path, *, offline: bool) -> set[str]:
    engine = program.ENGINES["docker"](tmp_path / f"docker{offline}", tmp_path / "library", offline=offline)
    with pytest.raises(program.Skipped) as caught:
        engine.start()
    [words] = [line.split() for line in str(caught.value).splitlines()]
    given = dict(pairwise(words))
    assert Path(given["--config-file"]).read_text() == "{}\n"
    return {given["--containerd-namespace"], given["--containerd-plugins-namespace"]}
