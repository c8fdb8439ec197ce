"""A run that goes on, read from its journals by whoever looks: in words and as OpenMetrics."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.audit.live_run import LiveRun, Snapshot
from harness.cli.live import MetricsServer, openmetrics, packed, pieces
from harness.cli.watch import cmd
from harness.errors import KitError
from harness.journal.records import KIND_POWER, JournalWriter
from harness.meter.clocks import mono_us
from tests.audit.test_live_energy import SECOND, power


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A stage of 100 s until now: 200 J before it, 500 J in it, 1,000 tokens, a third of its steps."""
    (tmp_path / "journal").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "train.2.err").write_text("loading 0/2\nstudent_train 20/60 steps, 99s elapsed\n")
    begun = mono_us() - 100 * SECOND
    runner = JournalWriter(tmp_path / "journal" / "000-000-runner.jnl")
    stage = {"session": 0, "stage_uid": 7, "mono_us": begun, "t_us": 0}
    started = {"type": "stage_start", **stage}
    runner.append_record({**started, "name": "train", "stage": "student_train", "attempt": 2})
    runner.append_record({**started, "name": "part", "stage": "evaluate", "attempt": 1, "parent_uid": 7})
    runner.append_record({"type": "stage_tokens", **stage, "tokens": {"tokens_trained": 1000}})
    runner.append_record({"type": "event", "kind": "x-odd", "severity": "warning", **stage})
    sampler = JournalWriter(tmp_path / "journal" / "000-001-sampler.jnl")
    rows = [(begun - 2 * SECOND, 0), (begun, 200_000), (begun + 50 * SECOND, 450_000), (mono_us(), 700_000)]
    sampler.append_rows(KIND_POWER, b"".join(power(0, at, 5_000, counter) for at, counter in rows))
    return tmp_path


def test_a_run_that_is_joined_late_is_charged_from_its_stage_on(run: Path) -> None:
    now = LiveRun(run).snapshot()
    assert now.stage == ("train", "student_train") and now.attempt == 2 and now.warnings == 1
    assert now.joules == {"gpu 0": pytest.approx(500)}
    assert now.elapsed_s >= 100 and now.tokens == {"tokens_trained": 1000}
    assert now.progress == (20, 60) and now.eta_s == pytest.approx(2 * now.elapsed_s)
    assert now.per_token == pytest.approx(0.5)
    assert now.watts["gpu 0"] == pytest.approx(500 / now.elapsed_s)
    assert now.last_sample_s is not None and now.last_sample_s >= 0


def test_the_end_of_a_stage_and_of_a_run_show(run: Path) -> None:
    live = LiveRun(run)
    assert live.snapshot().stage is not None and not live.over
    end = {"type": "stage_end", "session": 0, "stage_uid": 7, "mono_us": mono_us(), "status": "completed"}
    JournalWriter(run / "journal" / "000-002-more.jnl").append_record(end)
    now = live.snapshot()
    assert now.stage is None and not now.joules and now.last_sample_s is not None
    with pytest.raises(KitError, match="no run is going on"):
        LiveRun(run / "logs")


def test_the_page_is_openmetrics_on_the_loopback(run: Path) -> None:
    now = LiveRun(run).snapshot()
    server = MetricsServer(0, lambda: openmetrics(now, 'a "run"'))
    try:
        assert server.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(server.url) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            text = answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(server.url + "/else")
        with pytest.raises(KitError, match="cannot be used"):
            MetricsServer(int(server.url.split(":")[2].split("/")[0]), lambda: "")
    finally:
        server.close()
    assert text.endswith("# EOF\n")
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, flags=re.MULTILINE))
    samples = re.findall(r'^(\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)+)\} (\S+)$', text, flags=re.MULTILINE)
    assert len(samples) == len([line for line in text.splitlines() if not line.startswith("#")])
    for name, _, value in samples:
        family = name.removesuffix("_total")
        assert (kinds[family] == "counter") == name.endswith("_total") and float(value) >= 0
    found = {name: (labels, float(value)) for name, labels, value in samples}
    assert found["kit_stage_energy_joules_total"][1] == pytest.approx(500)
    assert r'run="a \"run\""' in found["kit_warnings_total"][0]
    assert found["kit_stage_tokens_total"][1] == 1000


@pytest.mark.parametrize("width", [40, 60, 100])
def test_words_fit_every_terminal(width: int) -> None:
    now = Snapshot(
        ("train", "student_train"), 1, 10.0, {"gpu 0": 1e6, "package-0": 5e3}, {"gpu 0": 650.0}, True,
        {"tokens_trained": 12}, 3.0, (1, 2), 10.0, 9.0, 2,
    )  # fmt: skip
    lines = list(packed(pieces(now), width))
    assert max(map(len, lines)) <= width
    said = "  ".join(lines)
    for word in ("~650.0 W gpu 0", "tokens/s", "1 of 2", "ETA 10.0 s", "NO SAMPLE FOR 9 s", "2 warnings"):
        assert word in said, said


def test_the_command_looks_at_a_run(run: Path) -> None:
    done = CliRunner().invoke(cmd, [str(run), "--once"])
    assert done.exit_code == 0 and done.output.startswith("train  ")
    for word in ("1,000 tokens trained", "W gpu 0", "J/token trained", "20 of 60", "ETA", "1 warning"):
        assert word in done.output
    refused = CliRunner().invoke(cmd, [str(run / "logs")])
    assert isinstance(refused.exception, KitError)


def test_a_run_whose_writers_are_gone_is_said_to_need_recovering(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    begun = mono_us() - 100 * SECOND
    runner = JournalWriter(tmp_path / "journal" / "000-000-runner.jnl")
    stage = {"type": "stage_start", "session": 0, "stage_uid": 0, "mono_us": begun, "t_us": 0}
    runner.append_record({**stage, "name": "train", "stage": "student_train", "attempt": 1})
    sampler = JournalWriter(tmp_path / "journal" / "000-001-sampler.jnl")
    sampler.append_rows(KIND_POWER, power(0, begun + SECOND, 5_000, 0))
    late = CliRunner().invoke(cmd, [str(tmp_path), "--once"]).output
    assert "NO SAMPLE FOR" in late and "kit recover" not in late, "somebody has the journals open"
    runner.close()
    sampler.close()
    assert f"kit recover {tmp_path}" in CliRunner().invoke(cmd, [str(tmp_path), "--once"]).output
