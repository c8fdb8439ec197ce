"""kit import codecarbon: runs counted once, IT energies, no GPU where there is none, doubts in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli.import_ import cmd
from harness.errors import KitError
from harness.interop.codecarbon import import_codecarbon
from harness.interop.write import ImportResult
from harness.validate import validate
from tests.interop.reference_logs import EMISSION_COLUMNS, HarnessRun, emission

KWH = 3.6e6
SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "samples" / "codecarbon"
Make = Callable[..., ImportResult]


@pytest.fixture
def load(tmp_path: Path) -> Make:
    """Writes rows as an emissions.csv and imports it."""

    def make(*rows: dict[str, Any], **options: Any) -> ImportResult:
        columns = EMISSION_COLUMNS
        for name in ("run_id", "pue"):
            columns += "" if name in columns.split(",") else f",{name}"
        path = HarnessRun(tmp_path / "run").emissions(*rows, columns=columns)
        return import_codecarbon(path, tmp_path / "out", **options)

    return make


def test_rows_of_one_run_go_on_counting(load: Make) -> None:
    flushed = [
        emission("a", seconds=s, ended=f"2026-01-25T23:0{m}:40", run_id="r1", pue=1.0)
        for s, m in ((100.0, 1), (200.0, 3), (300.0, 5))
    ]
    result = load(*flushed, emission("b", ended="2026-01-26T01:00:00", run_id="r2"))
    first, second = result.stages
    assert (first["name"], first["status"], first["gpu_energy_j"]) == (
        "a",
        "completed",
        pytest.approx(60_000),
    )
    assert first["t_end_us"] - first["t_start_us"] == 301_500_000
    assert "codecarbon_flushed" in first["flags"]
    assert "codecarbon_flushed" not in second["flags"]
    assert validate(result.folder, threads=1).errors == 0


@pytest.mark.parametrize(
    "second",
    [
        {"energy_consumed": 0.001},
        {"gpu_energy": 0.001, "cpu_energy": 0.9, "energy_consumed": 0.902},
        {"ended": "2026-01-26T04:00:00"},
    ],
    ids=["less energy", "less of a part", "another start"],
)
def test_rows_that_do_not_go_on_counting_are_refused(second: dict[str, Any], load: Make) -> None:
    later = {"seconds": 200.0, "ended": "2026-01-25T23:03:20", "run_id": "r1", **second}
    with pytest.raises(KitError, match=r"run r1 has .* kWh after 201\.5 s"):
        load(emission("a", seconds=100.0, run_id="r1"), emission("a", **later))


def test_tasks_of_a_run_are_stages_of_their_own(tmp_path: Path) -> None:
    rows = [
        {**emission("p", seconds=s, ended=f"2026-01-25T23:{m}:00", run_id="r1"), "task_name": name}
        for name, s, m in (("load", 30.0, 10), ("train", 20.0, 20), ("train", 10.0, 30))
    ]
    path = HarnessRun(tmp_path / "run").emissions(*rows, columns=f"task_name,{EMISSION_COLUMNS}")
    found = [(row["name"], row["gpu_energy_j"]) for row in import_codecarbon(path, tmp_path / "out").stages]
    joules = [6000.0, 4000.0, 2000.0]
    assert found == [(n, pytest.approx(j)) for n, j in zip(("load", "train", "train"), joules, strict=True)]


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"gpu_energy": 0.000_02, "gpu_power": 200.0}, "energy_contradicts_power"),
        ({"duration": 101_500.0}, "energy_contradicts_power"),
        ({"gpu_count": "", "gpu_model": ""}, "gpus_not_named"),
        ({"energy_consumed": 0.0}, "parts_differ_from_total"),
    ],
    ids=["MWh for kWh", "ms for s", "GPU energy of no GPU", "no total"],
)
def test_figures_that_contradict_each_other_are_doubted(
    changes: dict[str, Any], flag: str, load: Make
) -> None:
    right, wrong = load(
        emission("right", run_id="r1", gpu_power=200.0),
        emission("wrong", **{"run_id": "r2", "ended": "2026-02-25T23:01:40", **changes}),
    ).stages
    if right["name"] == "wrong":
        right, wrong = wrong, right
    assert (flag in right["flags"], flag in wrong["flags"]) == (False, True)


@pytest.mark.parametrize(
    ("count", "model", "named"),
    [
        (2, "1 x NVIDIA A1001 x NVIDIA V100", ["unknown", "unknown"]),
        (1, "8 x NVIDIA A100", ["NVIDIA A100"]),
        ("", "2 x NVIDIA A100", ["NVIDIA A100", "NVIDIA A100"]),
    ],
    ids=["two models", "one of eight is tracked", "no count"],
)
def test_cards(count: int | str, model: str, named: list[str], load: Make) -> None:
    result = load(emission("a", gpu_count=count, gpu_model=model))
    devices = json.loads((result.folder / "manifest.json").read_text())["hardware"]["devices"]
    assert [device["model"] for device in devices] == named


def test_no_gpu_is_no_device(load: Make) -> None:
    result = load(emission("a", gpu_count=0, gpu_model="", gpu_energy=0.0, energy_consumed=21.0 * 100 / KWH))
    (row,) = result.stages
    assert (row["device_ids"], row["gpu_energy_j"], row["gpu_energy_method"]) == ([], None, "absent")
    assert "gpu_unknown" not in row["flags"]
    assert row["cpu_energy_j"] == pytest.approx(2_000.0)
    assert validate(result.folder, threads=1).errors == 0


def test_a_gpu_that_shows_nothing_is_unknown(load: Make) -> None:
    (row,) = load(emission("a", gpu_energy=0.0)).stages
    assert (row["device_ids"], row["gpu_energy_j"]) == ([0], None)
    assert "gpu_unknown" in row["flags"]


@pytest.mark.parametrize("in_parts", [True, False])
def test_pue_is_taken_out(in_parts: bool, load: Make) -> None:
    factor = 1.5 if in_parts else 1.0
    parts = {f"{n}_energy": w * 100 * factor / KWH for n, w in (("cpu", 20), ("gpu", 200), ("ram", 1))}
    (row,) = load(emission("a", **parts, energy_consumed=221.0 * 100 * 1.5 / KWH, pue=1.5)).stages
    assert row["gpu_energy_j"] == pytest.approx(20_000.0)
    assert "pue_removed" in row["flags"]
    assert "parts_differ_from_total" not in row["flags"]


def test_overlapping_runs_are_doubted(load: Make) -> None:
    rows = (emission("a", run_id="r1"), emission("b", run_id="r2", ended="2026-01-25T23:02:10"))
    assert all("overlaps_another" in row["flags"] for row in load(*rows).stages)


@pytest.mark.parametrize(
    ("ended", "options", "end_s"),
    [
        ("2026-01-25T23:00:00", {}, 1769382000),
        ("2026-01-25T23:00:00", {"utc_offset_h": -5}, 1769382000 + 5 * 3600),
        ("2026-01-25T23:00:00+02:00", {}, 1769382000 - 2 * 3600),
        ("2026-01-25T23:00:00Z", {"utc_offset_h": 3}, 1769382000),
    ],
)
def test_times(ended: str, options: dict[str, Any], end_s: int, load: Make) -> None:
    (row,) = load(emission("a", ended=ended), **options).stages
    assert row["t_end_us"] == end_s * 1_000_000
    assert ("time_zone_unknown" in row["flags"]) == (ended[-1] == "0" and "+" not in ended and not options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{head}\n{row}{row}\n", "cells"),
        ("{head}\n{row},x\n", "cells"),
        ("{head}\n", "no run with a duration"),
        ("a;b\n", "header"),
        ("{head},pue\n{row},2\n", "each once"),
    ],
)
def test_damage_is_refused_with_its_place(text: str, words: str, tmp_path: Path) -> None:
    path = HarnessRun(tmp_path).emissions(emission("a"))
    head, row = path.read_text().splitlines()
    path.write_text(text.format(head=head, row=row))
    done = CliRunner().invoke(cmd, ["codecarbon", str(path), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, KitError)
    assert words in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"ended": "0001-01-01T00:00:01"},
        {"ended": "9999-12-31T23:59:59"},
        {"duration": 1e14},
        {"pue": 1.5, "energy_consumed": ""},
    ],
)
def test_a_row_that_cannot_be_is_refused_with_its_line(changes: dict[str, Any], load: Make) -> None:
    with pytest.raises(KitError, match=r"emissions\.csv:2: "):
        load(emission("a", **changes))


@pytest.mark.skipif(not SAMPLES.exists(), reason="third-party samples are not beside the project")
@pytest.mark.parametrize(
    ("name", "stages"), [("boamps_codecarbon_file.csv", 104), ("v2_examples_emissions.csv", 21)]
)
def test_published_files(name: str, stages: int, tmp_path: Path) -> None:
    result = import_codecarbon(SAMPLES / name, tmp_path / "out")
    assert len(result.stages) == stages
    assert validate(result.folder, threads=1).errors == 0
