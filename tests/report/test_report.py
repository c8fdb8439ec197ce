"""The report says what the raw rows give, in every format, whatever the bundle says of itself."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import jsonschema
import pytest
from click.testing import CliRunner

from harness.accounting import Interval
from harness.accounting.rounding import quantity
from harness.cli.report import cmd
from harness.cli.schema import cmd as schema_command
from harness.errors import KitError
from harness.journal.scores import eval_row
from harness.report.comparison import against
from harness.report.formats import as_dict, to_csv, to_json, to_markdown
from harness.report.model import Options, build
from harness.report.scores import suite_scores
from harness.report.terminal import bar, print_report, spread
from tests.accounting.synthetic import DEFAULT, S, Stage, make_run
from tests.validate.tamper import edit_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(rapl=True).write(tmp_path_factory.mktemp("report") / "run")


def text_of(report, width=80, encoding="utf-8"):
    from rich.console import Console

    class Out(io.StringIO):
        @property
        def encoding(self):
            return encoding

    out = Out()
    print_report(report, Console(file=out, width=width, highlight=False))
    return out.getvalue()


def truth_j(stage, run=make_run(rapl=True)):  # noqa: B008
    seconds = stage.end_s - stage.start_s
    return sum(run.energy_j(d, stage.start_s, stage.end_s) for d in (0, 1)) + seconds * (150 + 12)


def test_figures_are_those_of_the_raw_rows(folder):
    report = build(folder)
    for line, stage in zip(report.lines, DEFAULT, strict=True):
        assert line.energy.best == pytest.approx(truth_j(stage), abs=0.1)
        assert line.energy.low <= truth_j(stage) <= line.energy.high
    whole = sum(make_run().energy_j(d, 1, 255) for d in (0, 1)) + 254 * 162
    assert report.totals.it.best == pytest.approx(whole, abs=0.1)
    shares = [line.share for line in report.lines] + [report.unattributed.share]
    assert sum(shares) == pytest.approx(1.0, abs=1e-9)
    assert report.changed == []


def test_a_changed_summary_is_named_and_not_believed(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "run")

    def lie(rows):
        next(r for r in rows if r["name"] == "train").update(gpu_energy_j=1000.0)

    edit_rows(copy, "stages", lie)
    report = build(copy)
    assert report.lines[2].row["gpu_energy_j"] == pytest.approx(121_000, abs=0.01)
    (change,) = report.changed
    assert (change.column, change.stored, change.joules) == (
        "gpu_energy_j",
        1000.0,
        pytest.approx(120_000, abs=0.01),
    )
    text = " ".join(text_of(report).split())
    assert "differs from its raw rows in 1 values, by up to 120.0 kJ" in text
    assert as_dict(report)["differences"][0]["column"] == "gpu_energy_j"


def test_json_carries_units_and_no_nan(folder):
    report = build(folder, Options(pue=1.2, region="FRA", amortize=10, reference_tokens=30_000_000))
    data = json.loads(to_json(report))
    whole = data["totals"]["it_energy_j"]
    assert data["totals"]["it_energy_kwh"] == pytest.approx(whole / 3.6e6)
    assert (
        data["totals"]["gpu_energy_j_low"]
        <= data["totals"]["gpu_energy_j"]
        <= data["totals"]["gpu_energy_j_high"]
    )
    assert data["totals"]["gpu_sensor_half_width_j"] == pytest.approx(0.05 * data["totals"]["gpu_energy_j"])
    assert data["facility"]["facility_energy_j"] == pytest.approx(1.2 * whole)
    newest = data["carbon"][0]
    assert newest["co2e_kg"] == pytest.approx(1.2 * whole / 3.6e6 * newest["intensity_g_co2e_per_kwh"] / 1000)
    assert newest["year"] > data["carbon"][1]["year"]
    assert data["per_token"]["energy_j_per_reference_token"] == pytest.approx(whole / 30e6)
    teacher = truth_j(DEFAULT[1])
    assert data["reuse"]["full_energy_j"] == pytest.approx(whole)
    assert data["reuse"]["marginal_energy_j"] == pytest.approx(whole - teacher, abs=0.2)
    assert data["reuse"]["amortized_energy_j"] == pytest.approx(whole - 0.9 * teacher, abs=0.2)
    numbers = re.findall(r'"(\w+)": -?\d', to_json(report))
    unitless = {"stage_uid", "parent_uid", "attempt", "session", "row", "year", "pue", "reuses", "device_id"}
    unitless |= {"samples", "missed_samples", "cpu_count", "rows_missing_or_extra", "share_of_it_energy"}
    unitless |= {"gpu_sensor_rel", "gpu_rows_unknown", "cpu_rows_unknown", "dram_rows_unknown"}
    counts = {"trained", "processed", "positions", "reference"}
    for key in set(numbers) - unitless - counts:
        assert re.search(r"_(j|kwh|kg|us|mw|mib|token)(_low|_high)?$|tokens_|_g_co2e_per_kwh$", key), key


def test_unknown_is_null_dash_or_empty_never_zero(tmp_path):
    run = make_run(devices=0, codecarbon=True)
    report = build(run.write(tmp_path / "run"))
    data = as_dict(report)
    assert data["totals"]["gpu_energy_j"] is None
    assert data["stages"][0]["gpu_energy_j"] is None
    line = next(csv.DictReader(io.StringIO(to_csv(report))))
    assert line["gpu_energy_j"] == ""
    text = text_of(report)
    assert "No GPU was metered; GPU energy is absent, not zero." in text
    assert "GPU " not in text.split("total")[0].replace("no GPU", "")
    assert "estimate (TDP x load of the process), between nothing and twice it" in " ".join(text.split())
    assert re.search(r"DRAM energy is a constant of [\d.]+ W, .*: \d+% of the total", " ".join(text.split()))


@pytest.mark.parametrize("width", [60, 70, 80, 120])
def test_j_per_token_stays_and_long_names_differ(width, tmp_path):
    names = [f"distill-the-student-with-cached-logits-at-temperature-{i}" for i in (1, 2)]
    stages = [
        Stage(name, "student_train", 2.0 + 90 * i, 82.0 + 90 * i, 600.0, tokens=10**6)
        for i, name in enumerate(names)
    ]
    text = text_of(build(make_run(stages=stages, rapl=True).write(tmp_path / "run")), width=width)
    table = text.split("total")[0].splitlines()
    assert max(map(len, table)) <= width
    assert "J/token" in text
    rows = [line.split() for line in table if line.lstrip().startswith("dist")]
    assert len({row[0] for row in rows}) == len(rows) == 2
    assert all("0.1098" in row for row in rows)


def test_the_json_report_has_a_version_and_a_schema(folder):
    data = json.loads(to_json(build(folder)))
    assert data["report_version"] == "1.0"
    schema = json.loads(CliRunner().invoke(schema_command, ["report"]).output)
    check = jsonschema.Draft202012Validator(schema)
    check.validate(data)
    data["stages"][0]["gpu_energy_j"] = "12 J"
    del data["totals"]
    assert len(list(check.iter_errors(data))) == 2


def test_a_thousand_of_a_unit_is_one_of_the_next():
    assert re.fullmatch(r"1\.0+ J", quantity(0.99999, "J"))
    assert re.fullmatch(r"1\.0+ kJ", quantity(999.96, "J"))
    assert quantity(0.9996, "J", 0.98, 1.02) == "1.000 J"
    assert quantity(998.9, "J") == "998.9 J"
    assert quantity(0.0, "J") == "0 J"


def test_estimates_print_no_more_digits_than_they_have(tmp_path):
    text = text_of(build(make_run(devices=0, codecarbon=True).write(tmp_path / "run")))
    cells = re.findall(r"~(\S+)", text)
    assert cells
    assert all(len(cell.strip("0")) <= 2 for cell in cells), cells


def test_nothing_measured_still_reports(tmp_path):
    run = make_run(devices=0)
    run.counters.clear()
    text = text_of(build(run.write(tmp_path / "run"), Options(pue=1.1, region="USA", amortize=3)))
    assert "unknown: nothing was measured" in text
    assert "train" in text


@pytest.mark.parametrize("width", [80, 100, 120, 132, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(folder, width):
    text = text_of(build(folder, Options(pue=1.2, region="USA", amortize=4)), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for figure in ("10.00", "78.60", "121.0", "32.16", "2.431", "244.2", "6.000", "38.10", "0.1372"):
        assert figure in text
    assert text.count("█") > 4


def test_bars_are_proportional_and_never_vanish():
    assert bar(1.0, 10) == "█" * 10
    assert bar(0.5, 10) == "█" * 5
    assert bar(0.51, 10) == "█" * 5 + "▏"
    assert bar(0.0001, 10) == "▏"
    assert bar(0.0, 10) == bar(None, 10) == ""
    assert bar(0.5, 10, ascii_only=True) == "#####"


def test_a_terminal_without_blocks_gets_plain_text(folder):
    text = text_of(build(folder), encoding="ascii")
    assert text.isascii()
    assert "####" in text


def test_failures_children_flags_and_gaps_are_said(tmp_path):
    stages = (
        Stage("outer", "student_train", 10, 90, 300, tokens=1000),
        Stage("inner", "evaluate", 30, 40, 300),
        Stage("eval", "evaluate", 90, 100, 300, status="failed"),
        Stage("eval", "evaluate", 100, 140, 300),
    )
    run = make_run(stages, end_s=150, devices=1)
    run.stages[1]["parent_uid"] = 0
    run.stages[3]["attempt"] = 2
    run.manifest.update(method="sft", status="partial")
    run.power["power_mw_valid"][(run.power["mono_us"] > 1050 * S) & (run.power["mono_us"] < 1070 * S)] = False
    run.stages[0]["flags"] = ["shared_gpu", "strange_thing"]
    report = build(run.write(tmp_path / "run"))
    assert [(line.row["name"], line.depth) for line in report.lines] == [
        ("outer", 0),
        ("inner", 1),
        ("eval", 0),
        ("eval", 0),
    ]
    assert report.totals.it.best == pytest.approx(
        sum(run.energy_j(0, a, b) for a, b in ((1, 150),)), abs=0.01
    )
    text = " ".join(text_of(report).split())
    assert "✗ eval" in text
    assert "eval #2" in text
    assert "20.5 s without samples (6.150 kJ by interpolation)" in text
    assert "another process used a metered GPU" in text
    assert "strange thing" in text
    assert "3.000 kJ went into attempts that did not complete" in text
    assert "The run is partial" in text
    assert "±5%" in text
    assert as_dict(report)["stages"][1]["parent_uid"] == 0


def test_markdown_and_csv(folder, tmp_path):
    run = make_run(
        (Stage("a|b *c*", "student_train", 10, 90, 300, tokens=5), Stage("=1+1", "evaluate", 90, 95, 200)),
        end_s=100,
    )
    report = build(run.write(tmp_path / "run"))
    text = to_markdown(report)
    assert "a\\|b \\*c\\*" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert [r["name"] for r in rows] == ["a|b *c*", "'=1+1", "unattributed"]
    assert float(rows[0]["gpu_energy_j"]) == pytest.approx(80 * 610, abs=0.01)


def test_escape_sequences_in_names_do_not_reach_the_terminal(tmp_path):
    run = make_run((Stage("evil\x1b[2J\u202e", "evaluate", 10, 90, 300),), end_s=100)
    run.manifest.update(name="x\x1b[31m", method="sft", labels=["\x1b]0;t\x07"])
    text = text_of(build(run.write(tmp_path / "run")))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x07" not in text


def test_inherited_artifacts_enter_full_and_amortized(tmp_path):
    run = make_run((Stage("train", "student_train", 10, 90, 300),), end_s=100, devices=1)
    run.stages[0]["consumes"] = ["sha256:ab"]
    edge = {"artifact_id": "sha256:ab", "name": "cache", "kind": "folder", "bytes": 1, "stage_uid": 0}
    origin = {"origin_run_id": "01J00000000000000000000000", "origin_energy_j": 50_000.0}
    run.artifacts.append({**edge, "role": "consumed", **origin})
    report = build(run.write(tmp_path / "run"), Options(amortize=5))
    own = report.totals.it.best
    assert (report.reuse.marginal.best, report.reuse.amortized.best, report.reuse.full.best) == pytest.approx(
        (own, own + 10_000, own + 50_000)
    )


def test_an_unknown_origin_is_not_a_free_teacher(tmp_path):
    _, sft = distilled_and_direct(tmp_path, (520, 630))
    run = make_run((Stage("train", "student_train", 10, 90, 300, tokens=1000),), end_s=100, devices=1)
    run.stages[0]["consumes"] = ["sha256:ab"]
    edge = {"artifact_id": "sha256:ab", "name": "cache", "kind": "folder", "bytes": 1, "stage_uid": 0}
    origin = {"origin_run_id": "01J00000000000000000000000", "origin_energy_j": None}
    run.artifacts.append({**edge, "role": "consumed", **origin})
    report = build(run.write(tmp_path / "run"), Options(amortize=4))
    assert report.reuse is None and "cache is unknown" in report.no_reuse
    assert "reuse no figure: what another run paid for cache is unknown" in " ".join(text_of(report).split())
    assert as_dict(report)["reuse_reason"] == report.no_reuse
    found = against(report, build(sft))
    assert (found.ours, found.even.case) == (None, "undefined")
    assert found.verdict == "not comparable: an energy is unknown"
    assert any("cache of this run is unknown" in doubt for doubt in found.doubts)


def distilled_and_direct(tmp_path, watts, *, device="ab" * 16, **options):
    """Two runs whose students draw `watts` for 100 s; the first one has a teacher of 50 s x 440 W."""
    teacher = (Stage("teacher", "teacher_logits", 10, 60, 440),)
    student = [Stage("train", "student_train", 70, 170, w, tokens=1000) for w in watts]
    folders = []
    for name, stages in (("kd", (*teacher, student[0])), ("sft", (student[1],))):
        run = on_one_device(make_run(stages, end_s=180, devices=1, **options), device)
        run.manifest["method"] = name
        folders.append(run.write(tmp_path / name))
    return folders


def on_one_device(run, device="ab" * 16):
    """The run on the device and machine of this name; None for one that nobody names."""
    for entry in (run.manifest["hardware"], *run.manifest["hardware"]["devices"]):
        entry["scale_id"] = device
    return run


def direct(tmp_path, name, watts=520, tokens=1000, **options):
    """One run of direct training."""
    stages = (Stage("train", "student_train", 70, 170, watts, tokens=tokens),)
    run = on_one_device(make_run(stages, end_s=180, devices=1, **options))
    run.manifest["method"] = "sft"
    return run.write(tmp_path / name)


def test_against_direct_training(tmp_path):
    kd, sft = distilled_and_direct(tmp_path, (520, 630))
    runner = CliRunner()
    shown = " ".join(runner.invoke(cmd, [str(kd), "--against", str(sft)]).output.split())
    # 22 kJ / (63 - 52 kJ) = 2; with 3 % on both students 22 / (64.89 - 50.44) to 22 / (61.11 - 53.56).
    assert "reuses until the teacher has paid for itself" in shown
    assert "±3% on both of them it would be 2.00 (1.52 to 2.91)" in shown
    assert "that run is better in energy" in shown
    data = json.loads(runner.invoke(cmd, [str(kd), "--against", str(sft), "--format", "json"]).output)
    even = data["against"]["break_even"]
    assert (even["case"], even["reuses_whole"]) == ("finite", 2)
    assert even["reuses"] == pytest.approx(2.0, abs=1e-3)
    assert even["reuses_low"] < 2.0 < even["reuses_high"] < 2.01
    assert data["against"]["doubts"] == []
    alone = json.loads(runner.invoke(cmd, [str(kd), "--format", "json"]).output)
    assert alone["against"] is None


def test_no_ratio_is_formed_from_a_lower_bound(tmp_path):
    kd, sft = distilled_and_direct(tmp_path, (520, 630))
    run = make_run(
        (Stage("train", "student_train", 70, 170, 630, tokens=1000),), end_s=180, devices=1, rapl=True
    )
    run.manifest["method"] = "sft"
    run.power["power_mw_valid"][:] = run.power["energy_counter_mj_valid"][:] = False
    for reading in run.counters:
        if reading["source"] == "nvml":
            reading["value"] = reading["power_mw"] = None
    blind = build(run.write(tmp_path / "blind"), Options(amortize=3, reference_tokens=1000))
    assert blind.totals.it.best == pytest.approx(179 * 162)
    assert not blind.per_token and not blind.lines[0].per_token
    assert blind.reuse is None and blind.no_reuse == "the energy of a GPU is unknown"
    text = " ".join(text_of(blind).split())
    assert "IT energy at least 29.00 kJ" in text
    priced = build(tmp_path / "blind", Options(pue=1.2, region="DEU"))
    text = " ".join(text_of(priced).split())
    assert "facility energy at least 34.8" in text and "CO2e at least " in text
    assert as_dict(blind)["totals"]["it_energy_is_lower_bound"]
    kd, sft = distilled_and_direct(tmp_path / "rapl", (520, 630), rapl=True)
    found = against(build(kd, Options(reference_tokens=1000)), blind, (0.9, 0.4))
    assert found.even.case == found.serving.case == "undefined"
    assert found.verdict == "not comparable: an energy is unknown"
    assert "the energy of a GPU of that run is unknown" in found.doubts
    assert against(build(kd), build(sft)).even.case == "finite"
    assert not as_dict(build(sft))["totals"]["it_energy_is_lower_bound"]


def test_tokens_until_a_dearer_training_has_paid(tmp_path):
    kd, sft = distilled_and_direct(tmp_path, (520, 520))
    runner = CliRunner()
    shown = " ".join(
        runner.invoke(cmd, [str(kd), "--against", str(sft), "--serving", "0.9", "0.4"]).output.split()
    )
    # The teacher's 50 s at 440 W instead of 80 W of idle: 18 kJ more, half a joule less a token.
    assert "T* 36000" in shown
    assert "served tokens until this run's extra energy is saved" in shown
    arguments = [str(kd), "--against", str(sft), "--serving", "0.4", "0.9", "--format", "json"]
    never = json.loads(runner.invoke(cmd, arguments).output)["against"]["serving_tokens"]
    assert (never["case"], never["tokens"]) == ("never", None)
    assert runner.invoke(cmd, [str(kd), "--serving", "0.9", "0.4"]).exit_code == 2


def test_against_says_never_tie_and_what_is_not_comparable(tmp_path):
    kd, sft = distilled_and_direct(tmp_path, (630, 520))
    found = against(build(kd), build(sft))
    assert found.even.case == found.moved.case == "never" and found.moved.resolved
    assert found.verdict == "that run is better in energy"
    itself = against(build(sft), build(sft))
    assert (itself.verdict, itself.differences) == (None, ["they are one run"])
    assert itself.even.case == "undefined"  # no teacher's output is used here
    mixed = against(build(kd), build(direct(tmp_path, "estimated", codecarbon=True)))
    assert any("codecarbon" in doubt for doubt in mixed.doubts)
    assert mixed.verdict is None and "CPU energy is absent here and estimated there" in mixed.differences
    # A tenth of a joule more than the other: less than the two idle ends of either are known to.
    near = build(direct(tmp_path, "near", 520.001))
    tie = against(replace(near, manifest=near.manifest | {"method": "kd"}), build(sft))
    assert tie.verdict == "a tie in energy: the intervals allow no order"


def test_what_may_not_be_compared_has_no_verdict_and_says_why(tmp_path):
    kd, sft = distilled_and_direct(tmp_path, (520, 630))
    report, other = build(kd), build(sft)
    shown = CliRunner().invoke(cmd, [str(sft), "--against", str(kd)]).output
    assert "no verdict" in shown and shown.index("the methods are sft here and kd there") > 0
    assert "N*" not in shown
    for change, why in (
        ({"token_counts": {"trained": 10}}, "trained tokens are 1000 here and 10 there"),
        ({"student_bytes": 7_000}, "the students' checkpoints have 1000 bytes here and 7000 there"),
        (
            {"token_counts": {"reference": 9}},
            "reference tokens are unknown here and 9 there",
        ),
    ):
        found = against(replace(report, student_bytes=1_000), replace(other, **change))
        assert found.differences == [why] and found.verdict is None and found.even.case == "undefined"


def test_one_device_cancels_and_two_do_not(tmp_path):
    """22 kJ / (63 - 52 kJ): what 5 % of a sensor does to it depends on whose sensor it is."""
    one = against(*(build(p) for p in distilled_and_direct(tmp_path / "one", (520, 630))))
    two = against(*(build(p) for p in distilled_and_direct(tmp_path / "two", (520, 630), device=None)))
    assert one.even.resolved and one.even.high < 2.01 and one.times.high / one.times.low < 1.001
    # 22 x 0.95 / (63 x 1.05 - 52 x 0.95) and 22 x 1.05 / (63 x 0.95 - 52 x 1.05).
    assert (two.even.low, two.even.high) == pytest.approx((1.249, 4.40), rel=5e-3)
    assert two.times.high / two.times.low == pytest.approx((1.05 / 0.95) ** 2, rel=1e-3)


def test_the_scale_of_an_estimate_is_common_to_both_runs(tmp_path):
    kd, sft = (build(p) for p in distilled_and_direct(tmp_path, (520, 520), codecarbon=True))
    found = against(kd, sft)
    assert found.times.low > 1 and found.verdict == "that run is better in energy"


def test_a_data_set_that_direct_training_uses_too_is_not_the_teachers(tmp_path):
    """The log types what was inherited; one that does not is read by what the other run consumes."""
    paid = {"corpus": ("preprocess", 5_000.0), "cache": ("teacher_logits", 22_000.0)}
    for typed in (True, False):
        reports = []
        for method, watts, used in (("kd", 520, ("corpus", "cache")), ("sft", 630, ("corpus",))):
            student = (Stage("train", "student_train", 70, 170, watts, tokens=1000),)
            run = on_one_device(make_run(student, end_s=180, devices=1))
            run.manifest["method"] = method
            for name in used:
                kind, joules = paid[name]
                edge = {"artifact_id": f"sha256:{name}", "name": name, "kind": "folder", "bytes": 1}
                origin = {"origin_run_id": "01J00000000000000000000000", "origin_energy_j": joules}
                run.artifacts.append({**edge, "stage_uid": 0, "role": "consumed", **origin})
                parts = [{"scales": ["gain " + "ab" * 16], "best": joules, "low": joules, "high": joules}]
                detail = {
                    "artifact_id": f"sha256:{name}",
                    **origin,
                    "origin_stage": kind,
                    "origin_parts": parts,
                }
                event = {**run.events[0], "event_id": len(run.events), "kind": "x-artifact_origin"}
                if typed:
                    run.events.append({**event, "detail": json.dumps(detail)})
            reports.append(build(run.write(tmp_path / f"{method}-{typed}"), Options(amortize=4)))
        found = against(*reports)
        assert found.even.ratio == pytest.approx(2.0, abs=1e-3)
        assert (found.even.high < 2.01) == typed
        assert found.ours.best - found.theirs.best == pytest.approx(22_000 - 11_000, rel=1e-3)
        reuse = reports[0].reuse
        if typed:
            assert reuse.full.best - reuse.marginal.best == pytest.approx(22_000)
            assert reports[1].reuse is None and "no teacher's output" in reports[1].no_reuse


@pytest.mark.parametrize("method", ["kd", "synthetic_sft", "sft"])
def test_a_teacher_inside_the_student_is_shared_by_nobody(tmp_path, method):
    run = make_run((Stage("train", "student_train", 10, 90, 300),), end_s=100, devices=1)
    run.manifest["method"] = method
    report = build(run.write(tmp_path / "run"), Options(amortize=4))
    assert report.reuse is None
    text = " ".join(text_of(report).split())
    assert ("told from the student's" in text) == (method != "sft")
    assert ("the run uses no teacher's output" in text) == (method == "sft")


def scored(report, q, *, suite="s", stderr=0.001, judge=None):
    """The report with one benchmark of which the teacher has 0.5 and the student `q` times that."""
    given = {"benchmark": "b", "metric": "m", "score_unit": "fraction", "n_items": 100, "suite": suite}
    sides = {"student": 0.5 * q, "teacher": 0.5}
    rows = [
        {**eval_row({**given, "subject": s, "score": v, "stderr": stderr, "judge_id": judge}), "stage_uid": 1}
        for s, v in sides.items()
    ]
    return replace(report, scores=suite_scores(rows))


def test_q_is_compared_within_one_suite_and_judge_and_with_its_error(tmp_path):
    kd, sft = (build(path) for path in distilled_and_direct(tmp_path, (520, 630)))
    energy = "that run is better in energy"
    good, poor = scored(kd, 0.9), scored(sft, 0.6)
    assert against(good, poor).verdict == "neither is better in energy and Q"
    assert not against(good, poor).doubts
    other = against(good, scored(sft, 0.6, suite="t"))
    assert other.verdict is None and other.differences == ["the suites are s here and t there"]
    for unlike, why in (
        (scored(sft, 0.6, judge="j"), "by different judges"),
        (scored(sft, 0.6, stderr=None), "is not known"),
    ):
        found = against(good, unlike)
        assert found.verdict == energy
        assert any(why in doubt for doubt in found.doubts)
    assert against(good, sft).differences == ["the suites are s here and none there"]
    # A held-out loss is of no suite: that only one run has it makes them no less alike.
    loss = scored(kd, 0.7, suite="heldout").scores
    assert not against(replace(good, scores=[*good.scores, *loss]), poor).doubts


def test_a_training_stage_without_a_count_leaves_no_joules_per_token(tmp_path):
    stages = (
        Stage("a", "student_train", 10, 30, 300, tokens=1000),
        Stage("b", "student_train", 40, 100, 300),
    )
    report = build(make_run(stages, end_s=110, devices=1).write(tmp_path / "run"))
    assert "trained" not in report.per_token and "trained" in report.lines[0].per_token
    assert "J/token of the run is unknown: b counted no tokens." in " ".join(text_of(report).split())


def test_spread_is_one_figure_or_two():
    assert spread(Interval(10_000.0, 9_995.0, 10_005.0)) == "± 5 J"
    assert spread(Interval(10_000.0, 9_000.0, 14_000.0)) == "-1.0 kJ / +4 kJ"


def test_command(folder, tmp_path):
    runner = CliRunner()
    assert "train" in runner.invoke(cmd, [str(folder)]).output
    assert json.loads(runner.invoke(cmd, [str(folder), "--format", "json"]).output)["name"] == "synthetic"
    assert runner.invoke(cmd, [str(folder), "--format", "csv"]).output.startswith("stage_uid,")
    assert isinstance(runner.invoke(cmd, [str(folder), "--pue", "0.5"]).exception, KitError)
    assert runner.invoke(cmd, [str(folder), "--amortize", "0"]).exit_code == 2
    assert isinstance(runner.invoke(cmd, [str(tmp_path)]).exception, KitError)


def test_values_out_of_all_reason_are_an_error_with_a_next_step(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "run")
    edit_rows(copy, "stages", lambda rows: [{**r, "device_ids": [0, 1, 2]} for r in rows])
    try:
        build(copy)
    except KitError as error:
        assert "kit validate" in str(error)
