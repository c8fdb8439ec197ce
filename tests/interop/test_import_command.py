"""`kit import reference` from the shell's side: what it prints, how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.main import main
from tests.interop.reference_logs import T0, HarnessRun, even_rows, stage_record


def test_it_lists_stages_doubts_and_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = HarnessRun(tmp_path / "logs")
    run.stage(stage_record("kd_1b"))
    run.power("logit_caching", even_rows(T0, 3600, [1000.0]))
    assert main(["import", "reference", str(run.root), "--out", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "imported 2 stage attempts" in out
    assert "1 kWh GPU (" in out
    assert "kind_guessed" in out
    assert "kit validate" in out
    assert (tmp_path / "b" / "manifest.json").is_file()


@pytest.mark.parametrize("broken", ["missing", "empty", "truncated"])
def test_what_cannot_be_imported_ends_with_2_and_no_traceback(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "logs"
    if broken != "missing":
        path.mkdir()
    if broken == "truncated":
        HarnessRun(path).stage(stage_record("kd_1b")).write_text('{"stage_id": "kd_1b", "gpu_')
    assert main(["import", "reference", str(path), "--out", str(tmp_path / "b")]) == 2
    err = capsys.readouterr().err
    assert "fix:" in err
    assert "Traceback" not in err
    assert "fault of the kit" not in err
