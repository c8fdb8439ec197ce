"""Entries whose checksum holds and whose content makes no sense: set aside and said, or refused in words."""

from __future__ import annotations

import copy
import json
import random
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.audit.late_reports import take_late_reports
from harness.bundle.reader import Bundle
from harness.bundle.seal import recover
from harness.errors import KitError
from harness.journal.records import MAGIC, read_journal
from harness.journal.schema import RECORDS, problem
from tests.lab import Const, FakePowercap, LabConfig, LabDevice, Zone
from tests.lab.fixtures import lab_dir
from tests.meter.runs import environment

__all__ = ["lab_dir"]
TRIALS = 60
ODD = (None, -1, 0, 1, 10**30, 2**62, 1.5, float("nan"), "x", "", [], {}, True, [None], {"a": 1}, "é" * 50)

PROGRAM = """
import os, shutil, sys, time
from harness import Meter

out, keep = sys.argv[1:]
with Meter(out=out, cpu="rapl", period_ms=50) as meter:
    session = meter._session
    with meter.stage("preprocess") as stage:
        stage.add_tokens(processed=20)
        stage.event("checkpoint", step=1)
        made = {"artifact_id": "sha256:" + "a" * 64, "name": "x", "kind": "file", "bytes": 3}
        made |= {"origin_run_id": None, "origin_energy_j": None}
        session.artifact(session.stage.uid, "produced", made)
        time.sleep(0.3)
    with meter.stage("evaluate") as stage:
        begun = time.monotonic_ns() // 1000
        time.sleep(0.1)
        session.begin_child("part", "evaluate", begun)
        session.end_child("part", "completed", time.monotonic_ns() // 1000)
        scores = {"item_scores": [0, 1], "item_sha256": ["a" * 64, "b" * 64]}
        stage.add_eval("gsm8k", 0.5, suite="mine", metric="em", **scores)
        time.sleep(0.3)
    with meter.stage("student_train") as stage:
        stage.add_tokens(trained=5)
        session.flush_tokens()
        time.sleep(0.3)
        shutil.copytree(os.path.join(out, "journal"), keep)  # as a kill of everything leaves it
"""

Frames = list[tuple[int, bytes]]


@pytest.fixture(scope="module")
def journals(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Frames]:
    """Name to entries of the journals of a run with two GPUs and RAPL that was killed in its third stage."""
    folder = tmp_path_factory.mktemp("odd")
    with FakePowercap(folder / "powercap", [Zone("package-0", (Const(50.0),))]) as cpu:
        env = environment(LabConfig((LabDevice(), LabDevice())), lab_dir, cpu.env())
        words = [sys.executable, "-c", PROGRAM, str(folder / "run"), str(folder / "kept")]
        subprocess.run(words, env=env, check=True)
    return {
        path.name: [(frame.kind, frame.payload) for frame in read_journal(path)]
        for path in sorted((folder / "kept").glob("*.jnl"))
    }


def write(folder: Path, journals: dict[str, Frames]) -> Path:
    (folder / "journal").mkdir(parents=True)
    for name, frames in journals.items():
        parts = [struct.pack("<IIB", len(p), zlib.crc32(p, kind), kind) + p for kind, p in frames]
        (folder / "journal" / name).write_bytes(b"".join([MAGIC, *parts]))
    return folder


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in ((*above, key), *places(one, (*above, key)))]


def spoil(journals: dict[str, Frames], rng: random.Random) -> dict[str, Frames]:
    """One entry of one journal becomes odd."""
    spoilt = {name: list(frames) for name, frames in journals.items()}
    frames = spoilt[rng.choice(sorted(spoilt))]
    number = rng.choice([i for i, (kind, _) in enumerate(frames) if kind == 1])
    way = rng.random()
    if way < 0.8:
        record = copy.deepcopy(json.loads(frames[number][1]))
        *path, last = rng.choice(places(record))
        inner = record
        for key in path:
            inner = inner[key]
        if rng.random() < 0.2:
            del inner[last]
        else:
            inner[last] = rng.choice(ODD)
        frames[number] = (1, json.dumps(record).encode())
    elif way < 0.85:
        frames.insert(rng.randrange(len(frames)), frames[number])
    elif way < 0.9:
        del frames[number]
    elif way < 0.93:
        frames[number] = (1, rng.choice((b"[]", b"{", b"1", b"null", b"[" * 100_000, b"\xff")))
    elif way < 0.97:
        number = rng.randrange(len(frames))
        kind, payload = frames[number]
        if kind != 1:
            bad = bytearray(payload)
            for _ in range(rng.randint(1, 12)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            frames[number] = (kind, bytes(bad))
    else:
        frames.insert(number, (rng.choice((2, 3, 7, 0)), bytes(rng.randrange(1, 99))))
    return spoilt


def test_no_odd_entry_is_a_fault_of_the_kit(journals: dict[str, Frames], tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    for seed in range(TRIALS):
        folder = write(tmp_path / f"{seed}", spoil(journals, random.Random(f"odd {seed}")))
        before = {path.name: path.read_bytes() for path in (folder / "journal").iterdir()}
        try:
            take_late_reports(folder)
            recover(folder)
        except KitError as error:
            ends["refused"] += 1
            assert len(str(error)) > 20
            left = {path.name: path.read_bytes() for path in (folder / "journal").iterdir()}
            assert before.items() <= left.items(), "a refusal takes nothing away"
            continue
        kept = {path.name: path.read_bytes() for path in (folder / "journal").glob("*.damaged")}
        ends["set aside" if kept else "sealed"] += 1
        assert all(before[name.removesuffix(".damaged")] == content for name, content in kept.items())
        said = [e["detail"] or "" for e in Bundle.open(folder).table("events").to_pylist()]
        assert bool(kept) == any("odd_entries" in detail for detail in said)
    assert ends["set aside"] > ends["refused"] + ends["sealed"], ends
    assert ends["refused"] < TRIALS / 4, ends


def test_what_is_good_beside_an_odd_entry_is_sealed(journals: dict[str, Frames], tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", journals)
    recover(whole)
    spoilt = {name: list(frames) for name, frames in journals.items()}
    sampler = next(frames for name, frames in spoilt.items() if "sampler" in name)
    sampler.insert(len(sampler) // 2, (1, b'{"type": "sampler_stats", "ticks": "many"}'))
    sampler.insert(len(sampler) // 2 + 1, (2, b"\x00" * 13))
    odd = write(tmp_path / "odd", spoilt)
    recover(odd)
    rows, same = (Bundle.open(folder).table("stages").to_pylist() for folder in (whole, odd))
    assert [row["gpu_energy_j"] for row in rows] == [row["gpu_energy_j"] for row in same]
    assert len(rows) >= 4 and all(row["gpu_energy_j"] for row in rows)
    events = Bundle.open(odd).table("events").to_pylist()
    (said,) = [json.loads(e["detail"]) for e in events if e["kind"] == "journal_error"]
    assert said["odd_entries"] == 2 and "ticks is 'many'" in said["first"]


def test_every_record_that_is_written_is_known_and_fits(journals: dict[str, Frames]) -> None:
    found = [json.loads(p) for frames in journals.values() for kind, p in frames if kind == 1]
    assert [problem({**record, "later": {"field": 1}}) for record in found] == [None] * len(found)
    assert {record["type"] for record in found} >= {"run", "boundary", "stage_start", "stage_end", "eval"}
    assert problem({"type": "of a later version", "anything": [1]}) is None
    for record in found:
        for name, shape in RECORDS.get(record["type"], {}).items():
            if not name.endswith("~") and not str(shape).endswith("?"):
                assert problem({**record, name: None}), (record["type"], name)
