"""The scripted source through `kit run`: its joules are the file's, and it is labelled wherever it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import KitError
from harness.meter.sources.base import Wanted
from harness.meter.sources.scripted import discover
from tests.meter.runs import Sealed, environment, kit, run_program

HEAD = "time_s,device,power_mw,energy_mj\n"


def script(folder: Path, seconds: int = 120) -> Path:
    """A device that draws 150 W and one without a counter that draws 50 W, ten rows a second."""
    path = folder / "load.csv"
    rows = [f"{k / 10},0,150000,{15_000 * k}\n{k / 10},1,50000,\n" for k in range(10 * seconds)]
    path.write_text(HEAD + "".join(rows))
    return path


def test_a_run_of_it_has_the_files_joules_and_says_so(lab_dir: Path, tmp_path: Path) -> None:
    env = environment(None, lab_dir, {"COLUMNS": "160"})
    out, file = tmp_path / "run", script(tmp_path)
    source = f"scripted:{file}"
    done = kit("run", "--cpu", "none", "--source", source, "--out", out, "--", "sleep", "1", env=env)
    assert done.returncode == 0, done.stderr
    assert "scripted (load.csv) (simulated; energy counter" in done.stderr
    assert (
        "(simulated)" in done.stderr and "Simulated: " in done.stderr and "Labels: simulated" in done.stderr
    )
    run = Sealed(out)
    assert run.manifest["labels"] == ["simulated"] and run.manifest["boundary"]["gpu"] == "simulated"
    assert str(tmp_path) not in json.dumps(run.manifest["hardware"])
    assert {row["source"] for row in run.rows("counters")} == {"scripted"}
    (stage,) = run.stages
    first, second = stage["device_energy_j"]
    spans = [
        (end - start) / 1e6
        for start, end in zip(stage["device_start_us"], stage["device_end_us"], strict=True)
    ]
    assert first == pytest.approx(150 * spans[0], rel=0.02)
    assert second == pytest.approx(50 * spans[1], rel=0.02)
    verdict = json.loads(kit("validate", "--format", "json", out, env=env).stdout)
    labels = {label["id"] for label in verdict["comparability"]["labels"]}
    assert {"C401", "C408"} <= labels and not verdict["comparability"]["rankable"]
    assert verdict["valid"] and not verdict["findings"]


def test_a_relative_file_is_the_one_of_the_folder_where_the_meter_was_made(tmp_path: Path) -> None:
    script(tmp_path)
    code = """
    import os, time
    from pathlib import Path
    from harness import Meter
    meter = Meter(out="mine", cpu="none", sources=("scripted:load.csv",))
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    with meter, meter.stage("evaluate"):
        time.sleep(0.5)
    """
    run_program(Path("unused"), code, env=environment(None, tmp_path), cwd=str(tmp_path))
    (stage,) = Sealed(tmp_path / "mine").stages
    assert len(stage["device_energy_j"]) == 2 and not list((tmp_path / "elsewhere").iterdir())


def test_a_sampler_that_takes_over_goes_on_where_the_other_was(tmp_path: Path) -> None:
    wanted = Wanted(argument=str(script(tmp_path)))
    first = discover(wanted).devices[0]
    again = discover(Wanted(argument=wanted.argument, known=[[0, str(int(first.uuid) - 60_000_000)]])).devices
    before = first.read().energy
    after = again[0].read().energy
    assert before is not None and after is not None and after - before >= 150_000 * 60


def test_past_its_last_row_nothing_is_known(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text(HEAD + "0,0,1000,5\n0.0001,0,1000,6\n")
    reading = discover(Wanted(argument=str(path))).devices[0].read()
    while reading.energy is not None:
        reading = discover(Wanted(argument=str(path), known=[[0, "0"]])).devices[0].read()
    assert reading.power_mw is None and reading.errors == {"energy": 1, "instant": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("", "no rows"),
        ("time,device\n0,0\n", "row 2"),
        (HEAD + "0,0,1,1\n0,0,1,1\n", "row 3"),
        (HEAD + "0,0,1.5,1\n", "row 2"),
        (HEAD + "inf,0,1,1\n", "row 2"),
        (HEAD + "0,-1,1,1\n", "row 2"),
    ],
)
def test_a_file_that_is_no_script_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "script.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KitError) as caught:
        discover(Wanted(argument=str(path)))
    assert says in caught.value.message and caught.value.where == str(path)


def test_what_is_not_there_is_refused(lab_dir: Path, tmp_path: Path) -> None:
    env = environment(None, lab_dir)
    for arguments in (
        ("--source", "scriptd:x.csv"),
        ("--source", "scripted"),
        ("--source", f"scripted:{tmp_path / 'none.csv'}"),
        ("--cpu", "nvml"),
    ):
        done = kit("run", *arguments, "--", "true", env=env)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
