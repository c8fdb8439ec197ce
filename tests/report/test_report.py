"""The report says what the raw rows give, in every format, whatever the bundle says of itself."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace

import jsonschema
import pytest
from click.testing import CliRunner

from harness.accounting import Interval
from harness.accounting.rounding import quantity
from harness.accounting.stage_scales import stated
from harness.cli.main import cli, main
from harness.cli.report import cmd
from harness.cli.schema import cmd as schema_command
from harness.errors import KitError
from harness.report.comparison import finite, stated_energy, whole_energy
from harness.report.formats import as_dict, to_csv, to_json, to_markdown
from harness.report.latex import beside_table, stage_table
from harness.report.model import Options, build
from harness.report.side_by_side import side_by_side
from harness.report.study import scales_of
from harness.report.terminal import _count, bar, print_report, spread, summary_lines
from harness.report.words import notes, summary_sentence
from tests.accounting.synthetic import DEFAULT, S, Stage, make_run
from tests.validate.tamper import edit_manifest, edit_rows


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


def test_a_figure_that_is_no_number_is_no_json(folder):
    with pytest.raises(KitError, match="no finite number"):
        to_json(replace(build(folder), peak_gpu_mib=float("nan")))


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


def test_a_column_that_does_not_fit_is_told(tmp_path):
    stages = [Stage("train-the-student-model", "student_train", 2.0, 82.0, 600.0, tokens=10**6)]
    report = build(make_run(stages=stages, rapl=True).write(tmp_path / "run"))
    for width in (46, 60, 80, 160):
        words = " ".join(text_of(report, width=width).split())
        table = words.split("total")[0]
        lost = [part.upper() for part in report.parts if f"{part.upper()} kJ" not in table]
        count = "1 column does" if len(lost) == 1 else f"{len(lost)} columns do"
        assert bool(lost) is (width < 160)
        told = f"{count} not fit ({', '.join(lost)}): a wider terminal, or --format json"
        assert (told if lost else "not fit") in words or not lost
        assert lost or "not fit" not in words


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
    assert [(stage["name"], stage["kind"]) for stage in data["stages"]] == [(s.name, s.kind) for s in DEFAULT]
    schema = json.loads(CliRunner().invoke(schema_command, ["report"]).output)
    check = jsonschema.Draft202012Validator(schema)
    check.validate(data)
    data["stages"][0]["gpu_energy_j"] = "12 J"
    del data["totals"]
    assert len(list(check.iter_errors(data))) == 2


def test_a_thousand_of_a_unit_is_one_of_the_next():
    for below, text in (
        (0.99999, "1.000 J"),
        (999.96, "1.000 kJ"),
        (9.99996, "10.00 J"),
        (99_999.7, "100.0 kJ"),
    ):
        assert quantity(below, "J") == quantity(below, "J", below, below) == text
    counts = {9_999: "9999", 99_999: "100 k", 999_999: "1 M", 1_234_567: "1.235 M", 999_999_999: "1 G"}
    assert [_count(number) for number in counts] == list(counts.values())
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


def test_a_narrow_table_leaves_out_the_part_with_the_fewest_joules(folder):
    report = build(folder)
    parts = {p: getattr(report.totals, p).energy_j for p in ("gpu", "cpu", "dram")}
    assert min(parts, key=parts.get) == "dram"
    assert re.findall("GPU|CPU|DRAM", text_of(report).splitlines()[3]) == ["GPU", "CPU"]
    little = replace(report.totals, gpu=replace(report.totals.gpu, energy_j=1.0))
    report = replace(report, totals=little)
    assert re.findall("GPU|CPU|DRAM", text_of(report).splitlines()[3]) == ["CPU", "DRAM"]


def test_bars_are_proportional_and_never_vanish():
    assert bar(1.0, 10) == "█" * 10
    assert bar(0.5, 10) == "█" * 5
    assert bar(0.51, 10) == "█" * 5 + "▏"
    assert bar(0.0001, 10) == "▏"
    assert bar(0.0, 10) == bar(None, 10) == ""
    assert bar(0.5, 10, ascii_only=True) == "#####"
    assert (
        bar(0.5, 0) == bar(0.5, 0, ascii_only=True) == ""
    )  # no room: one mark for all would say they are alike


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
    assert "co2e_kg" not in rows[0]
    placed = build(tmp_path / "run", Options(pue=1.5, region="ember-fra-2023"))
    row = next(csv.DictReader(io.StringIO(to_csv(placed))))
    grams = placed.carbon[0].factor.g_co2e_per_kwh
    assert float(row["co2e_kg"]) == pytest.approx(float(row["it_energy_j"]) / 3.6e6 * 1.5 * grams / 1e3)
    assert row["co2e_factor_id"] == "ember-fra-2023"


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


@pytest.mark.parametrize(
    ("scale", "least", "most"),
    [("gain card", 1.0, 1.0), ("estimate dram machine", 0.0, 2.0), (None, 0.0, 2.0)],
)
def test_inherited_joules_have_the_range_of_what_they_are(tmp_path, scale, least, most):
    """A sensor's gain stands beside an interval, an estimate's range in it; of bare joules nobody knows."""
    run = make_run((Stage("train", "student_train", 10, 90, 300),), end_s=100, devices=1)
    origin = {"origin_run_id": "01J00000000000000000000000", "origin_energy_j": 50_000.0}
    edge = {"artifact_id": "sha256:ab", "name": "cache", "kind": "folder", "bytes": 1, "stage_uid": 0}
    run.artifacts.append({**edge, "role": "consumed", **origin})
    if scale:
        parts = [{"scales": [scale], "best": 50_000.0, "low": 50_000.0, "high": 50_000.0}]
        detail = {
            "artifact_id": "sha256:ab",
            **origin,
            "origin_stage": "teacher_logits",
            "origin_parts": parts,
        }
        event = {**run.events[0], "event_id": len(run.events), "kind": "x-artifact_origin"}
        run.events.append({**event, "detail": json.dumps(detail)})
    report = build(run.write(tmp_path / "run"), Options(amortize=5))
    own, inherited = report.totals.it, report.inherited
    assert (inherited.best, inherited.low, inherited.high) == pytest.approx(
        (50_000, 50_000 * least, 50_000 * most)
    )
    whole, reuse = stated_energy(report), report.reuse
    assert (whole.low - own.low, whole.high - own.high) == pytest.approx((50_000 * least, 50_000 * most))
    assert (reuse.full.low - reuse.marginal.low, reuse.full.high - reuse.marginal.high) == pytest.approx(
        (50_000 * least, 50_000 * most)
    )
    # Page, figures and leaderboard start from the scales, the terminal from the rows: one interval.
    parts = whole_energy(report)
    assert parts is not None
    of_scales = stated(parts, scales_of([parts]))
    assert (of_scales.best, of_scales.low, of_scales.high) == pytest.approx(
        (whole.best, whole.low, whole.high)
    )


def test_a_training_stage_without_a_count_leaves_no_joules_per_token(tmp_path):
    stages = (
        Stage("a", "student_train", 10, 30, 300, tokens=1000),
        Stage("b", "student_train", 40, 100, 300),
    )
    report = build(make_run(stages, end_s=110, devices=1).write(tmp_path / "run"))
    assert "trained" not in report.per_token and "trained" in report.lines[0].per_token
    assert "J/token of the run is unknown: b counted no tokens." in " ".join(text_of(report).split())


def test_spread_is_one_figure_or_two():
    assert spread(Interval(10_000.0, 9_995.0, 10_005.0)) == "± 5.0 J"
    assert spread(Interval(10_000.0, 9_000.0, 14_000.0)) == "-1.0 kJ / +4.0 kJ"


def test_command(folder, tmp_path):
    runner = CliRunner()
    assert "train" in runner.invoke(cmd, [str(folder)]).output
    assert json.loads(runner.invoke(cmd, [str(folder), "--format", "json"]).output)["name"] == "synthetic"
    assert runner.invoke(cmd, [str(folder), "--format", "csv"]).output.startswith("stage_uid,")
    assert isinstance(runner.invoke(cmd, [str(folder), "--pue", "0.5"]).exception, KitError)
    assert runner.invoke(cmd, [str(folder), "--amortize", "0"]).exit_code == 2
    assert isinstance(runner.invoke(cmd, [str(tmp_path)]).exception, KitError)


def test_values_out_of_all_reason_are_an_error_with_a_next_step(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    edit_rows(copy, "stages", lambda rows: [{**r, "device_ids": [0, 1, 2]} for r in rows])
    try:
        build(copy)
    except KitError as error:
        assert "kit validate" in str(error)


def test_what_no_instrument_measured_says_so_in_every_total(tmp_path):
    folder = make_run(codecarbon=True).write(tmp_path / "run")
    report = build(folder)
    (total,) = [line for line in to_markdown(report).splitlines() if line.startswith("| **total**")]
    gpu, cpu, dram = re.findall(r"\*\*(~?)[\d.]+\*\*", total)
    assert (gpu, cpu, dram) == ("", "~", "~")
    assert "CPU, estimated (" in stage_table(report) and "GPU (" in stage_table(report)
    assert "synthetic (simulated, estimate) &" in beside_table([report])


def test_what_is_unknown_makes_the_rest_a_lower_bound(tmp_path):
    run = make_run(devices=1)
    run.artifacts = [
        {
            "artifact_id": "sha256:" + "0" * 64, "name": "cache", "kind": "file", "bytes": 1, "stage_uid": 2,
            "role": "consumed", "origin_run_id": "other", "origin_energy_j": None,
        }
    ]  # fmt: skip
    report = build(run.write(tmp_path / "run"))
    assert "What other runs paid for what it uses is unknown and not in it" in summary_sentence(report)
    unused = replace(report, unused_devices={3: 5.0, 4: None})
    assert any("no kernel ran there; at least 5.000 J of the total" in note for note in notes(unused))


def test_no_emissions_of_a_run_whose_energy_is_not_all_known(tmp_path):
    run = make_run(
        (Stage("train", "student_train", 2, 12, 300), Stage("eval", "evaluate", 12, 22, 300)), end_s=24
    )
    run.stages[1]["flags"] = ["work_elsewhere"]
    report = build(run.write(tmp_path / "run"), Options(region="FRA"))
    assert report.totals.incomplete and "at least" in dict(summary_lines(report))["CO2e"]
    assert side_by_side([report])[0].co2e_kg is None
    assert r"-- \\" in beside_table([report]).splitlines()[5]


COMMANDS = (
    ["report"], ["report", "--format", "json"], ["report", "--format", "markdown"], ["runs"],
)  # fmt: skip


@pytest.mark.parametrize(
    "detail", ["nope", "[]", "3", '{"report": 3, "event": "serving"}', '{"x": "judge_of_pairs"}']
)
@pytest.mark.parametrize("kind", ["x-artifact_origin", "source_absent", "stage_event"])
def test_a_detail_that_is_no_object_holds_nothing(kind, detail, tmp_path):
    folder = make_run(devices=1).write(tmp_path / "run")
    more = {"event_id": 99, "kind": kind, "severity": "warning", "detail": detail, "stage_uid": 1}
    edit_rows(folder, "events", lambda rows: rows.append({**rows[0], **more}))
    for command in COMMANDS:
        found = CliRunner().invoke(cli, [command[0], str(folder), *command[1:]])
        assert found.exit_code == 0, found.exception


@pytest.mark.parametrize("key", ["created_t_us", "hardware"])
@pytest.mark.parametrize("value", ["x", [3], 2**53 - 1, None])
def test_an_odd_value_of_a_manifest_is_no_fault_of_the_kit(key, value, tmp_path):
    folder = make_run(devices=1).write(tmp_path / "run")
    edit_manifest(folder, lambda manifest: manifest.update({key: value}))
    for command in (*COMMANDS, ["report", "--html", str(tmp_path / "page.html")]):
        found = CliRunner().invoke(cli, [command[0], str(folder), *command[1:]])
        assert found.exception is None or isinstance(found.exception, KitError | SystemExit)


def test_an_end_that_is_not_known_is_null_for_programs():
    assert finite(Interval(2.0, 1.0, float("inf"))) == {"best": 2.0, "low": 1.0, "high": None}


def test_what_cannot_be_written_is_named_and_no_fault_of_the_kit(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    for command in (
        ["report", str(folder), "--html", str(tmp_path / "file" / "page.html")],
        ["figures", str(folder), "--out", str(tmp_path / "file")],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"kit: {tmp_path}/file" in said and ": cannot be used: " in said and "fault" not in said
