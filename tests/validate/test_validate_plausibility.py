"""Level 3: each rule fires on what no real machine shows, and stays silent on what one does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harness.bundle import SeriesKey
from harness.validate import validate, validate_many
from harness.validate.claims import peak_flops
from harness.validate.findings import Hit
from harness.validate.power_signal import look_at
from harness.validate.registry import CHECKS
from tests.accounting.synthetic import Run, S, Stage, make_run
from tests.validate.forgery import Edit, Forger
from tests.validate.full_run import write_full
from tests.validate.runs import fired, one
from tests.validate.tamper import edit_manifest, edit_rows, rewrite, set_column

LONG = (
    Stage("rest", "idle", 2.0, 42.0, 80.0),
    Stage("train", "student_train", 42.0, 242.0, 600.0, tokens=10**6),
)


def real_run(seed: int = 5, *, stages: tuple[Stage, ...] = LONG, **options: Any) -> Run:
    """A run that claims to be real: its readings carry noise, as a card's do."""
    run = make_run(stages, end_s=stages[-1].end_s + 3, **options)
    run.manifest["labels"] = []
    run.manifest["method"] = "sft"
    noise = np.random.default_rng(seed).normal(0, 300, run.power["power_mw"].shape)
    run.power["power_mw"] = (run.power["power_mw"] + np.rint(noise)).astype(np.int32)
    return run


def level3(folder: Path) -> set[str]:
    """Ids of level 3 findings; nothing else may be wrong, or the test shows another thing than it says."""
    report = validate(folder, threads=1)
    assert {f.level for f in report.findings} <= {3}, report.findings
    return {f.id for f in report.findings}


def spoil(tmp_path: Path, change: Callable[[Run], Any]) -> set[str]:
    run = real_run()
    change(run)
    return level3(run.write(tmp_path / "run"))


def working(run: Run, device: int = 0) -> np.ndarray:
    """Samples of the train stage on a device."""
    return (
        (run.power["device_id"] == device)
        & (run.power["mono_us"] > 1045 * S)
        & (run.power["mono_us"] < 1240 * S)
    )


def test_a_real_run_is_clean(tmp_path: Path) -> None:
    assert spoil(tmp_path, lambda run: None) == set()


def test_power_above_the_limit(tmp_path: Path) -> None:
    """Readings of 600 W under a limit of 500 W: 1.15 x 500 W = 575 W."""

    def lower(run: Run) -> None:
        for device in run.manifest["hardware"]["devices"]:
            device["power_limit_mw"] = 500_000

    assert spoil(tmp_path, lower) == {"E301"}
    found = one(tmp_path / "run", "E301")
    assert found.count == pytest.approx(2 * 400, abs=4)
    edit_manifest(
        tmp_path / "run", lambda m: [d.update(power_limit_mw=540_000) for d in m["hardware"]["devices"]]
    )
    assert "E301" not in fired(tmp_path / "run")


def test_a_few_readings_above_the_limit(tmp_path: Path) -> None:
    """A short run has few readings: one of them above the limit is regulation, ten are not."""

    def raise_some(count: int) -> set[str]:
        run = real_run(stages=(Stage("train", "student_train", 2.0, 42.0, 600.0, tokens=10**6),), devices=1)
        run.power["power_mw"][20 : 20 + count] = 820_000
        return fired(run.write(tmp_path / str(count)))

    assert "E301" not in raise_some(1)
    assert "E301" in raise_some(10)


def test_power_below_idle(tmp_path: Path) -> None:
    """A working card at half of what it drew in the idle stage."""

    def halve(run: Run) -> None:
        tail = (run.power["mono_us"] > 1243 * S) | (run.power["mono_us"] < 1002 * S)
        run.power["power_mw"][tail] //= 2

    assert spoil(tmp_path, halve) == {"W302"}


@pytest.mark.parametrize(("gain", "ids"), [(1.02, set()), (1.08, {"W303", "E304"}), (0.9, {"W303", "E304"})])
def test_counter_against_integral(tmp_path: Path, gain: float, ids: set[str]) -> None:
    """Power readings that are off by a gain; the bar is 5 % for a long stage of high power."""

    def scale(run: Run) -> None:
        run.power["power_mw"] = (run.power["power_mw"] * gain).astype(np.int32)

    assert spoil(tmp_path, scale) == ids


def test_a_low_power_stage_has_a_wider_bar(tmp_path: Path) -> None:
    """12 % at 85 W mean is below 15 %; the run as a whole is of low power, too."""
    run = real_run(stages=(Stage("wait", "preprocess", 2.0, 122.0, 80.0),))
    run.power["power_mw"] = (run.power["power_mw"] * 1.12).astype(np.int32)
    assert level3(run.write(tmp_path / "run")) == set()


def test_slow_sampling_and_gaps(tmp_path: Path) -> None:
    """Every fifth half second sampled: all periods are longer than twice the nominal one, and all is gap."""

    def thin(run: Run) -> None:
        keep = (np.arange(run.power["mono_us"].shape[0]) % 5) == 0
        run.power = {name: values[keep] for name, values in run.power.items()}

    stages = (LONG[0], Stage("train", "student_train", 42.0, 642.0, 600.0, tokens=10**6))
    run = real_run(stages=stages, devices=1)
    thin(run)
    assert level3(run.write(tmp_path / "run")) == {"W306", "W307"}
    assert one(tmp_path / "run", "W306").count == one(tmp_path / "run", "W306").count > 200


def test_a_constant_signal(tmp_path: Path) -> None:
    """A minute of one reading at 600 W; the same at idle power is nothing to remark on."""

    def flatten(run: Run) -> None:
        run.power["power_mw"][working(run)] = 600_000

    assert spoil(tmp_path, flatten) == {"E320"}
    assert one(tmp_path / "run", "E320").count == pytest.approx(390, abs=2)
    edit_manifest(tmp_path / "run", lambda m: m.update(labels=["simulated"]))
    assert fired(tmp_path / "run") == set()


@pytest.mark.parametrize("limit_mw", [700_000, None])
def test_a_constant_signal_without_a_limit(tmp_path: Path, limit_mw: int | None) -> None:
    """Without a power limit nothing tells a working card from one that stands still, and nothing is said."""

    def change(run: Run) -> None:
        run.power["power_mw"][working(run)] = 600_000
        for device in run.manifest["hardware"]["devices"]:
            device["power_limit_mw"] = limit_mw

    assert spoil(tmp_path, change) == ({"E320"} if limit_mw else set())


@pytest.mark.parametrize(("period_us", "judged"), [(500_000, True), (1_000, False)])
def test_one_value_for_less_than_a_minute(period_us: int, judged: bool) -> None:
    """A meter with a period of 1 ms reads one refresh a hundred times: many readings are no long time."""
    times = np.arange(400) * period_us
    for values in (np.full(400, 600_000), np.where(np.arange(400) // 40 % 2, 600_000, 500_000)):
        assert bool(list(_judged(times, values))) == judged


def _judged(times: np.ndarray, values: np.ndarray) -> Iterator[Hit]:
    """E320 on one series of a 700 W card."""
    period_us = int(times[1] - times[0])
    signal = look_at(times, values.astype(np.int32), np.ones(times.shape, bool), period_us=period_us)
    facts = SimpleNamespace(key=SeriesKey("node-00", 0, 0), signal=signal)
    manifest = {"labels": [], "sampling": {"nominal_period_us": period_us}}
    ctx = SimpleNamespace(manifest=manifest, facts=SimpleNamespace(seen=[facts]), limits_mw={0: 700_000})
    yield from CHECKS["E320"](ctx)  # type: ignore[arg-type]


def test_an_idle_card_may_stand_still(tmp_path: Path) -> None:
    run = real_run(stages=(Stage("wait", "preprocess", 2.0, 122.0, 80.0),))
    run.power["power_mw"][:] = np.where(run.power["device_id"] == 0, 80_000, 90_000)
    assert level3(run.write(tmp_path / "run")) == set()


def test_few_values(tmp_path: Path) -> None:
    def round_off(run: Run) -> None:
        run.power["power_mw"] = (run.power["power_mw"] // 10_000 * 10_000).astype(np.int32)
        # never constant for a minute: every other sample is one step higher
        run.power["power_mw"] += (np.arange(run.power["power_mw"].shape[0]) % 2 * 10_000).astype(np.int32)

    assert "E320" in spoil(tmp_path, round_off)


def test_whole_watts(tmp_path: Path) -> None:
    def coarse(run: Run) -> None:
        power = run.power["power_mw"]
        noise = np.rint(np.random.default_rng(9).normal(0, 12, power.shape)) * (power > 200_000)
        run.power["power_mw"] = (power // 1000 * 1000 + 1000 * noise).astype(np.int32)

    assert spoil(tmp_path, coarse) == {"W321"}


@pytest.mark.parametrize("length", [80, 200])
def test_a_replayed_block(tmp_path: Path, length: int) -> None:
    """A block of the working phase pasted over a later one is found with its length and its joules."""

    def paste(run: Run) -> None:
        at = np.flatnonzero(working(run))
        values = run.power["power_mw"]
        values[at[-length:]] = values[at[:length]]

    # 200 of 390 samples overlap their source by ten: what is found is what still agrees.
    assert spoil(tmp_path, paste) == {"E322"}
    found = one(tmp_path / "run", "E322")
    assert found.count >= min(length, 190)
    assert found.joules_at_stake == pytest.approx(600 * 0.5 * (found.count - 1), rel=0.01)


def test_a_copied_device(tmp_path: Path) -> None:
    """One device with the readings of the other."""

    def copy(run: Run) -> None:
        one_, two = run.power["device_id"] == 0, run.power["device_id"] == 1
        run.power["power_mw"][two] = run.power["power_mw"][one_]

    ids = spoil(tmp_path, copy)
    assert ids == {"E323"}
    assert "all the readings" in one(tmp_path / "run", "E323").observed


def test_noise_is_never_taken_for_a_copy(tmp_path: Path) -> None:
    """Forty thousand samples of rounded noise: no two windows of 64 agree by chance."""
    from harness.validate.power_signal import find_replay, fingerprints

    rng = np.random.default_rng(3)
    values = (600_000 + 1000 * np.rint(rng.normal(0, 30, 40_000))).astype(np.int32)
    times = np.arange(values.shape[0]) * 500_000
    assert find_replay(times, values, *fingerprints(values)) is None
    values[30_000:31_000] = values[1_000:2_000]
    found = find_replay(times, values, *fingerprints(values))
    assert found is not None
    assert (found.first_us, found.again_us, found.length) == (1_000 * 500_000, 30_000 * 500_000, 1_000)


def test_two_bundles_that_bill_one_gpu(tmp_path: Path) -> None:
    """Two meters on one machine see one clock and one counter; the next card's counter is another one."""
    for name, seed, more in (("a", 5, 0), ("b", 6, 0), ("c", 7, 10**12)):
        run = real_run(seed)
        run.power["energy_counter_mj"] += more
        for row in run.counters:
            row["value"] += more
        run.write(tmp_path / name)
    reports = validate_many([tmp_path / name for name in "abc"])
    found = [[f for f in report.findings if f.id == "E325"] for report in reports]
    assert [len(findings) for findings in found] == [1, 1, 0]
    assert str(reports[1].run_id) in found[0][0].observed and found[0][0].joules_at_stake > 1000


@pytest.mark.parametrize("end_s", [4.0, 42.0])
def test_more_energy_than_the_limit_allows(tmp_path: Path, end_s: float) -> None:
    """A counter of kilojoules where joules are possible, whatever the stage's length."""
    stages = (Stage("train", "student_train", 2.0, end_s, 600.0, tokens=10**6),)
    run = real_run(stages=stages, devices=1)
    assert "E314" not in fired(run.write(tmp_path / "right"))
    run = real_run(stages=stages, devices=1)
    run.derived = run.derive()
    run.derived[0]["device_energy_j"] = [1_030_000.0]
    assert "E314" in fired(run.write(tmp_path / "wrong"))


def test_the_same_readings_in_two_bundles(tmp_path: Path) -> None:
    """A copy under another run's name is found from either side; a run of its own is not."""
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run = real_run(seed)
        for row in run.stages:
            row["clock_id"] = f"boot-{name}"
        run.write(tmp_path / name)
    reports = validate_many([tmp_path / name for name in "abc"])
    assert [{f.id for f in report.findings} for report in reports] == [{"E324"}, {"E324"}, set()]
    assert [report.exit_code for report in reports] == [1, 1, 0]
    assert str(reports[0].run_id) in reports[1].findings[0].observed
    same = shutil.copytree(tmp_path / "a", tmp_path / "again")
    assert [r.findings for r in validate_many([tmp_path / "a", same])] == [(), ()]
    assert [r.findings for r in validate_many([tmp_path / "a", tmp_path / "b"], range(3))] == [(), ()]
    for name in "ab":
        edit_manifest(tmp_path / name, lambda m: m.update(labels=["simulated"]))
    assert [r.findings for r in validate_many([tmp_path / "a", tmp_path / "b"])] == [(), ()]


@pytest.mark.parametrize("rule_id", ["E203", "W309", "C409"])
def test_a_rule_that_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule_id: str) -> None:
    """Its own level did not hold; the levels around it did."""
    folder = real_run().write(tmp_path / "run")
    monkeypatch.setitem(CHECKS, rule_id, lambda ctx: [][1])
    report = validate(folder)
    assert [(f.id, f.level) for f in report.findings] == [("E299", int(rule_id[1]))]
    assert {level for level, word in report.levels.items() if word != "passed"} == {int(rule_id[1])}


def test_an_origin_that_paid_more_than_is_charged(tmp_path: Path) -> None:
    """The maker's stage took 200 s at 600 and 610 W: a consumer that charges less is refused."""
    artifact = {"artifact_id": "sha256:" + "1" * 64, "name": "cache", "kind": "folder", "bytes": 1}
    maker = real_run(6)
    maker.artifacts.append(
        {**artifact, "stage_uid": 1, "role": "produced", "origin_run_id": None, "origin_energy_j": None}
    )
    maker.stages[1]["produces"] = [artifact["artifact_id"]]
    maker.write(tmp_path / "maker")
    run_id = validate(tmp_path / "maker").run_id
    paid = 200 * (600 + 610)
    for name, energy in (("fair", paid + 0.5), ("cheap", paid - 1000.0)):
        consumer = real_run(7)
        for row in consumer.stages:
            row["clock_id"] = "another machine"
        consumer.stages[1]["consumes"] = [artifact["artifact_id"]]
        consumer.artifacts.append(
            {
                **artifact,
                "stage_uid": 1,
                "role": "consumed",
                "origin_run_id": run_id,
                "origin_energy_j": energy,
            }
        )
        consumer.write(tmp_path / name)
    fair = validate_many([tmp_path / "fair", tmp_path / "maker"])[0]
    cheap = validate_many([tmp_path / "maker", tmp_path / "cheap"])[1]
    assert fair.findings == ()
    assert [f.id for f in cheap.findings] == ["E229"]
    assert cheap.findings[0].joules_at_stake == pytest.approx(1000, abs=1)
    lower = validate_many([tmp_path / "maker", tmp_path / "cheap"], range(3))[1]
    assert [f.id for f in lower.findings] == ["E229"] and lower.levels[2] == "failed"


def fill(folder: Path, column: str, value: Callable[[pa.Table], Any]) -> None:
    rewrite(folder, "power", set_column(column, lambda t: pa.array(value(t), t.schema.field(column).type)))


def test_utilisation_and_power(tmp_path: Path) -> None:
    folder = real_run().write(tmp_path / "run")
    power = lambda t: np.asarray(t.column("power_mw"))  # noqa: E731
    fill(folder, "util_pct", lambda t: np.where(power(t) > 200_000, 100, 0))
    assert fired(folder) == set()
    fill(folder, "util_pct", lambda t: np.zeros(t.num_rows, int))
    assert fired(folder) == {"W309"}
    assert "while no kernel ran" in one(folder, "W309").observed
    fill(folder, "util_pct", lambda t: np.full(t.num_rows, 100))
    assert "idle power while kernels ran" in one(folder, "W309").observed


def test_the_limit_in_the_manifest(tmp_path: Path) -> None:
    folder = real_run().write(tmp_path / "run")
    fill(folder, "power_limit_mw", lambda t: np.full(t.num_rows, 700_000))
    assert fired(folder) == set()
    edit_manifest(folder, lambda m: m["hardware"]["devices"][1].update(power_limit_mw=650_000))
    assert fired(folder) == {"W308"}


def test_the_samplers_cost(tmp_path: Path) -> None:
    folder = real_run().write(tmp_path / "run")
    entry = dict.fromkeys(
        ("ticks", "missed_ticks", "jitter_p50_us", "jitter_p95_us", "jitter_max_us", "scheduling")
    )
    for cpu, ids in ((3.0, set()), (30.0, {"W310"})):
        stats = {**entry, "session": 0, "sampler_cpu_s": cpu, "sampler_wall_s": 245.0}
        edit_manifest(folder, lambda m, s=stats: m["sampling"].update(sessions=[s]))
        assert fired(folder) == ids


def test_time_between_two_samplers_is_no_time_that_was_cut_out(tmp_path: Path) -> None:
    run = real_run()
    lost = {"event_id": 1, "kind": "sampler_lost", "stage_uid": 1, "detail": None}
    run.events.append({**run.events[0], **lost})
    entry = dict.fromkeys(("missed_ticks", "jitter_p50_us", "jitter_p95_us", "jitter_max_us", "scheduling"))
    stats = {**entry, "ticks": None, "session": 0, "sampler_cpu_s": 0.1, "sampler_wall_s": 60.0}
    folder = run.write(tmp_path / "run")
    edit_manifest(folder, lambda m: m["sampling"].update(sessions=[stats]))
    assert "E245" not in fired(folder)
    edit_manifest(folder, lambda m: m["sampling"].update(sessions=[stats | {"sampler_wall_s": 900.0}]))
    assert "E245" in fired(folder), "no gap makes the samplers live longer than their rows"
    edit_manifest(folder, lambda m: m["sampling"].update(sessions=[stats]))
    edit_rows(folder, "events", lambda rows: [row for row in rows if row["kind"] != "sampler_lost"])
    assert "E245" in fired(folder)


def test_a_device_without_samples(tmp_path: Path) -> None:
    run = real_run()
    keep = run.power["device_id"] == 0
    run.power = {name: values[keep] for name, values in run.power.items()}
    assert {"E241", "E221"} <= fired(run.write(tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 1979),
        ("NVIDIA H100 NVL", 1671),
        ("NVIDIA H200", 1979),
        ("NVIDIA L40S", 733),
        ("NVIDIA L4", 501),
        ("Tesla T4", 260),
        ("Lab GPU", None),
    ],
)
def test_peaks_by_name(name: str, tflops: float | None) -> None:
    assert peak_flops(name) == (None if tflops is None else tflops * 1e12)


def test_more_tokens_than_the_hardware_can_do(tmp_path: Path) -> None:
    """Two H100 give 2 x 1979 TFLOP/s: in 200 s a model of 7e9 weights sees 5.65e7 tokens at most."""
    roof = 2 * 1979e12 * 200 / (2 * 7e9)
    folders = {}
    for name, tokens in (("under", int(0.99 * roof)), ("over", int(1.01 * roof))):
        run = real_run(stages=(LONG[0], Stage("train", "student_train", 42.0, 242.0, 600.0, tokens=tokens)))
        for device in run.manifest["hardware"]["devices"]:
            device["model"] = "NVIDIA H100 80GB HBM3"
        run.events.append(
            {
                **run.events[0], "event_id": 1, "kind": "stage_event", "stage_uid": 1,
                "mono_us": run.stages[1]["mono_end_us"],
                "detail": '{"event":"student_train","report":{"parameters":7000000000}}',
            }
        )  # fmt: skip
        folders[name] = run.write(tmp_path / name)
    assert fired(folders["under"]) == set()
    assert validate(folders["under"]).notes == ()
    assert fired(folders["over"]) == {"E330"}
    edit_rows(folders["over"], "events", lambda rows: [r for r in rows if r["kind"] != "stage_event"])
    report = validate(folders["over"])
    assert report.findings == ()
    assert "not checked: size unknown of the model of train" in report.notes[0]


@pytest.mark.parametrize(
    ("unit", "score", "scored", "suspect"),
    [("percent", 0.55, 60, True), ("percent", 55.0, 60, False), ("percent", 0.5, 200, False)],
)
def test_a_fraction_among_percentages(
    tmp_path: Path, unit: str, score: float, scored: int, suspect: bool
) -> None:
    folder = write_full(tmp_path / "run")

    def change(rows: list[dict[str, Any]]) -> None:
        target = next(r for r in rows if r["metric"] == "exact_match" and r["subject"] == "student")
        target.update(
            metric="other", score_unit=unit, score=score, score_min=0.0, score_max=100.0, stderr=None,
            n_items=scored, n_scored=scored, items_sha256=None, aggregation="external",
        )  # fmt: skip
        rows.sort(key=lambda r: (r["stage_uid"], r["subject"], r["benchmark"], r["metric"]))

    edit_rows(folder, "evals", change)
    edit_rows(
        folder,
        "eval_items",
        lambda rows: [r for r in rows if r["benchmark"] != "adding" or r["subject"] != "student"],
    )
    assert ("W331" in fired(folder)) == suspect


@pytest.mark.parametrize(("zone", "ids"), [("psys", set()), ("package-0", {"E312"})])
def test_a_platform_of_three_kilowatts(tmp_path: Path, zone: str, ids: set[str]) -> None:
    """psys counts the whole node, accelerators included; a package that draws as much is no package."""
    run = real_run(rapl=True)
    rows = [row for row in run.counters if row["zone"] == zone]
    for row in rows:
        row["range"] = None
        row["value"] = (row["mono_us"] - rows[0]["mono_us"]) * 3000
    assert fired(run.write(tmp_path / "run")) & {"E312"} == ids


@pytest.mark.parametrize(("gpu", "zone", "rule"), [(True, "package-0", "E312"), (False, "cpu", "W313")])
def test_one_reading_of_a_cpu_counter(tmp_path: Path, gpu: bool, zone: str, rule: str) -> None:
    """A forger who also derives everything again: the reading stands out of its own series."""
    folder = write_full(tmp_path / "run", gpu=gpu)
    forger = Forger(folder, tmp_path / "forged", rederive=True)
    rows = forger.tables["counters"].to_pylist()
    place = next(i for i, r in enumerate(rows) if r["zone"] == zone and r["boundary"] == 2)
    value = rows[place]["value"]
    outcome = forger.trial(Edit("counters", "value", (place,), "scale", value, value // 4))
    assert not outcome.material  # a zone's reading is left out, an estimate is good to a factor of two
    assert rule in outcome.caught
    assert "E203" not in outcome.caught
