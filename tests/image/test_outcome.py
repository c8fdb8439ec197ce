"""What `make image-test` says and returns, without an engine."""

from __future__ import annotations

import importlib
import re
import sys
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
    assert "after 0 of 2 checks; left out: first check, broken check" in told
    assert "promises" not in told

    broken = program.run_checks(None, [first_check, broken_check], deadline=float("inf"))
    assert program.conclude(broken, 1.0, required=False) == 1
    assert "the image is broken: broken check" in capsys.readouterr().out
