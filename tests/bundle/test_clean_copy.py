"""`kit scrub`: a clean copy that holds, and a rule that tells what is private in a stranger's bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.bundle import Bundle, Scrubber
from harness.bundle.clean import SCRUBBED, clean_copy
from harness.cli.scrub import cmd
from harness.errors import KitError
from harness.validate import validate
from tests.accounting.synthetic import Stage, make_run
from tests.validate.tamper import edit_manifest, edit_rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = Stage("cache", "teacher_logits", 2, 5, 600, tokens=9)
    stages = (cache, Stage("train", "student_train", 5, 8, 500))
    return make_run(stages, devices=1, end_s=9.0, rapl=True).write(tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture
def leaky(tiny: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny, tmp_path / "run"))
    command = "curl -u me:hunter2 https://x.example.org/a?token=q7zvwk; MYPASS=hunter2 /home/bob/x.sh"
    edit_manifest(folder, lambda m: m.update(pipeline={"command": command}, labels=["on gpu7"]))
    edit_rows(folder, "events", lambda rows: [{**row, "detail": '{"a":"--pw hunter2"}'} for row in rows])
    return folder


def found(folder: Path, rule: str) -> list[str]:
    return [hit.observed for f in validate(folder, (0, 1)).findings if f.id == rule for hit in f.hits]


def test_the_rule_says_where_and_not_what(leaky: Path, tiny: Path) -> None:
    assert found(tiny, "W115") == []
    said = found(leaky, "W115")
    assert said == ["detail: <secret>", "pipeline.command: <path>, <secret>"]


def test_a_clean_copy_holds_and_keeps_the_joules(leaky: Path, tmp_path: Path) -> None:
    before = Bundle.open(leaky).table("stages")
    taken = clean_copy(leaky, tmp_path / "clean", Scrubber(hosts=("gpu7",)))
    events = Bundle.open(leaky).rows("events")
    assert taken == [f"events.detail: {events}", "manifest.labels: 1", "manifest.pipeline: 1"]
    copy = Bundle.open(tmp_path / "clean")
    assert copy.table("stages").equals(before)
    assert copy.manifest["labels"] == ["on <host>", SCRUBBED]
    assert copy.manifest["run_id"] == Bundle.open(leaky).manifest["run_id"]
    text = (tmp_path / "clean" / "manifest.json").read_text() + str(copy.table("events").to_pylist())
    assert not any(word in text for word in ("hunter2", "gpu7", "bob", "q7zvwk"))
    assert not {f.id for f in validate(tmp_path / "clean", (0, 1)).findings}


def test_nothing_is_overwritten_and_a_clean_bundle_is_not_labelled(tiny: Path, tmp_path: Path) -> None:
    assert clean_copy(tiny, tmp_path / "copy", Scrubber()) == []
    assert SCRUBBED not in Bundle.open(tmp_path / "copy").manifest["labels"]
    with pytest.raises(KitError, match="there already"):
        clean_copy(tiny, tmp_path / "copy", Scrubber())


def test_the_command(leaky: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cmd, [str(leaky), "--out", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert "taken from manifest.pipeline: 1" in done.output and "hunter2" not in done.output


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\u202eb", "zero\u200bwidth", "n" * 401])
def test_names_show_and_are_bounded(tiny: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "run"))
    edit_manifest(folder, lambda m: m.update(labels=[name]))
    edit_rows(folder, "stages", lambda rows: rows[0].update(name=name))
    said = found(folder, "E114")
    assert len(said) == 2 and all(each.isprintable() and len(each) < 200 for each in said)
