"""What a program may get wrong with `Meter`: it is told at once, and no figure or log suffers."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Meter
from harness.bundle.reader import Bundle
from harness.errors import KitError
from harness.meter.ranks import MAX_REPORT_BYTES
from harness.validate import validate


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Bundle.open(folder).table("stages").to_pylist()
    return [row for row in found if row["stage"] != "unattributed"]


def meter_in(folder: Path, **options: Any) -> Meter:
    return Meter(**{"out": folder, "devices": [], "cpu": "none", **options})


def test_odd_reports_leave_a_log_that_holds(tmp_path: Path) -> None:
    """One run for all of them: a log is sealed, holds, and has the figures that were right."""
    meter = meter_in(tmp_path / "run", name="a\nb\x00", labels="pocket", region="x\x1b[2J")
    barrier = threading.Barrier(2)
    refused: list[str] = []

    @meter.stage("evaluate")
    async def asynchronous() -> int:
        await asyncio.sleep(0.2)
        return 7

    def at_once(kind: str) -> None:
        barrier.wait()
        try:
            with meter.stage(kind) as stage:
                stage.add_tokens(trained=1)
                started.wait(5)
        except KitError as error:
            refused.append(str(error))
            started.set()

    with meter:
        with meter.stage("\ud800x" * 200, "student_train") as first:
            for count in (float("nan"), float("inf"), "x", [1], True, 1j):
                with pytest.raises(KitError, match="no token count"):
                    first.add_tokens(trained=count)  # type: ignore[arg-type]
            first.add_tokens(trained=5)
            first.event("words", text="\ud800", letters="x" * 50_000)
            with pytest.raises(KitError, match="bytes"):
                first.event("words", letters="x" * MAX_REPORT_BYTES)
        with meter.stage("student_train") as second:
            with pytest.raises(KitError, match="has ended"):
                first.add_tokens(trained=100)
            with pytest.raises(KitError, match="has ended"):
                first.event("late")
            second.add_tokens(trained=7)
        started = threading.Event()
        threads = [threading.Thread(target=at_once, args=(kind,)) for kind in ("preprocess", "prerun")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert asyncio.run(asynchronous()) == 7
    found = rows(tmp_path / "run")
    assert [row["tokens_trained"] for row in found] == [5, 7, 1, None]
    assert [row["status"] for row in found] == ["completed"] * 4
    assert len(refused) == 1 and "is still running" in refused[0]
    assert found[3]["mono_end_us"] - found[3]["mono_start_us"] >= 200_000
    assert validate(tmp_path / "run", threads=1).errors == 0
    assert Bundle.open(tmp_path / "run").manifest["labels"] == ["no_gpu", "pocket"]


def test_a_generator_is_no_stage(tmp_path: Path) -> None:
    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(KitError, match="with` block"):
        meter_in(tmp_path / "run").stage("evaluate")(generator)


@pytest.mark.parametrize("options", [{"reference_tokens": -1}, {"pue": float("nan")}, {"region": 5}])
def test_what_no_log_can_hold_is_refused_before_anything_is_measured(
    options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(KitError, match=f"run.{next(iter(options))}"):
        meter_in(tmp_path / "run", **options).start()
    assert not list((tmp_path / "run").glob("journal/*"))


def test_a_folder_that_no_table_can_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="no UTF-8"):
        meter_in(tmp_path / os.fsdecode(b"run\xff")).start()


def test_a_rank_alone_says_that_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    with meter_in(tmp_path / "run") as meter, meter.stage("evaluate") as stage:
        stage.add_tokens(processed=3)
    assert "nothing was measured: this is not local rank 0" in capsys.readouterr().err


def test_reports_that_nobody_can_take_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_EVENTS", str(tmp_path / "none" / "events"))
    with meter_in(tmp_path / "run") as meter, pytest.raises(KitError, match="unset KIT_EVENTS"):
        meter.stage("evaluate").__enter__()


def _never_closed(folder: str) -> None:
    meter = meter_in(Path(folder))
    meter.start()
    with meter.stage("evaluate") as stage:
        stage.add_tokens(processed=3)


def test_a_meter_that_nobody_closed_says_how_to_get_at_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_never_closed, args=(str(tmp_path / "run"),))
    child.start()
    child.join()
    assert f"`kit recover {tmp_path / 'run'}`" in capfd.readouterr().err
