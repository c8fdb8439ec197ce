"""Configurations from files and flags, and what a stage reports."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from harness.distill.arguments import parse, plain, run_stage, write_config
from harness.distill.reporting import ProgressLine, duration, energy_so_far, report_event, report_tokens
from harness.errors import KitError


@dataclass(frozen=True)
class Inner:
    k: int = field(default=100, metadata={"help": "ids a position"})


@dataclass(frozen=True)
class Config:
    """Do a thing.

    More words.
    """

    out: Path = field(metadata={"help": "output folder"})
    lr: float = field(default=5e-5, metadata={"help": "rate"})
    temperatures: tuple[float, ...] = field(default=(2.0, 4.0), metadata={"help": "T"})
    mode: Literal["topk", "sample"] = "topk"
    limit: int | None = 3
    fast: bool = False
    cache: Inner = field(default_factory=Inner)


def read(*flags: str) -> Config:
    return parse(Config, list(flags))


def test_file_first_then_flags(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("out: x\nlr: 5e-5\nmode: sample\ncache: {k: 7}\n")
    second.write_text("lr: 1e-4\n")
    config = read("--config", str(first), "--config", str(second), "--limit", "none", "--fast", "--cache.k=8")
    assert config == Config(Path("x"), 1e-4, (2.0, 4.0), "sample", None, True, Inner(8))
    assert read("--out", "x", "--temperatures", "1,2").temperatures == (1.0, 2.0)
    assert read("--out", "x", "--temperatures", "[1, 2.5]").temperatures == (1.0, 2.5)
    assert read("--out=x", "--lr", "-1").lr == -1.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lrr", "1"], "unknown field 'lrr'. Did you mean 'lr'"),
        (["--out", "x", "--cache.kk", "1"], "Did you mean 'cache.k'"),
        (["--out", "x", "--lr.x", "1"], "unknown field 'lr.x'. Did you mean 'lr'"),
        (["--out"], "--out: expected one argument"),
        (["out"], "unexpected argument 'out'"),
        ([], "out: is required"),
        (
            ["--out", "x", "--mode", "top"],
            "mode (command line): Input should be 'topk' or 'sample', found 'top'",
        ),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_what_is_refused(flags, message):
    with pytest.raises(KitError) as error:
        read(*flags)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modes: topk", "unknown field 'modes'. Did you mean 'mode'"),
        ("cache: {q: 1}", "unknown field 'cache.q'"),
        ("- 1", "holds a list"),
        ("a: [", "is not YAML"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(KitError) as error:
        read("--config", str(path))
    assert message in str(error.value) and "c.yaml" in str(error.value)


def test_resolved_configuration_reads_back(tmp_path):
    config = read("--out", str(tmp_path), "--limit", "5")
    path = write_config(config, tmp_path)
    loaded = json.loads(path.read_text())
    assert loaded == plain(config) and loaded["cache"] == {"k": 100}
    assert parse(Config, ["--config", str(path)]) == config  # JSON is YAML
    assert [item.name for item in tmp_path.iterdir()] == ["config.json"]


def test_help_and_exit_codes(capsys):
    with pytest.raises(SystemExit) as leave:
        read("--help")
    assert leave.value.code == 0
    text = capsys.readouterr().out
    assert "Do a thing.\n" in text and "More words" not in text
    assert (
        "--out (Path, required)\n      output folder" in text
        and "--mode (topk | sample, default topk)" in text
    )
    assert "--limit (int | null, default 3)" in text
    assert run_stage(Config, lambda config: None, ["--out", "x"]) == 0
    assert run_stage(Config, lambda config: None, []) == 2

    def find(config: Config) -> None:
        raise KitError("found", exit_code=1)

    assert run_stage(Config, find, ["--out", "x"]) == 1
    assert "error: found" in capsys.readouterr().err


def test_reports_are_what_the_audit_reads(tmp_path, monkeypatch):
    from harness.audit.reports import ReportReader

    report_tokens(trained=1)  # nobody listens: nothing happens
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(path))
    report_tokens(trained=3, processed=5, positions=8)
    report_tokens()
    report_tokens(generated=2)
    report_event("evaluation", step=4, loss=math.nan, name="é", inner={"all": [1.5, math.inf]})
    first, second, third = ReportReader(path).read(final=True)
    assert first.tokens == {"tokens_trained": 3, "tokens_processed": 5, "tokens_positions": 8}
    assert second.tokens == {"tokens_generated": 2}
    detail = {"step": 4, "loss": None, "name": "é", "inner": {"all": [1.5, None]}}
    assert third.event == "evaluation" and third.detail == detail
    assert not any(report.problem for report in (first, second, third))
    with pytest.raises(ValueError, match="negative"):
        report_tokens(trained=-1)


def test_progress_line(tmp_path, monkeypatch):
    status = tmp_path / "status.json"
    stream = io.StringIO()
    progress = ProgressLine("student_train", 10, done=4, every_s=0.0, stream=stream)
    monkeypatch.setenv("KIT_STATUS", str(status))
    assert energy_so_far() is None
    status.write_text('{"energy_j": 1234.5}')
    progress.advance(2, tokens=100, note="loss 1.0")
    progress.close()
    line = stream.getvalue().splitlines()[0]
    assert line.startswith("student_train 6/10 steps, 0s elapsed, ETA 0s, ") and "tokens/s, 1,234 J" in line
    assert line.endswith("loss 1.0") and "\r" not in line
    status.write_text('{"energy_j": 0.4, "estimated": true}')
    assert progress.line().endswith(", ~0 J")
    for damaged in ("not yet", "[]", "{}", '{"energy_j": true}', '{"energy_j": NaN}', '{"energy_j": "1"}'):
        status.write_text(damaged)
        assert energy_so_far() is None
    assert [duration(s) for s in (59.4, 60, 185, 7620)] == ["59s", "1m00s", "3m05s", "2h07m"]
