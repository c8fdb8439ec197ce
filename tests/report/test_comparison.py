"""One run against another: the verdict, N*, T*, Q, and what may not be compared."""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import replace

import pytest
from click.testing import CliRunner

from harness.cli.breakeven import cmd as breakeven
from harness.cli.report import cmd
from harness.journal.scores import eval_row
from harness.report.comparison import against, against_lines, spreads_beside
from harness.report.figures import figures
from harness.report.formats import as_dict
from harness.report.model import Options, build
from harness.report.scores import suite_scores
from harness.report.study import entries
from tests.accounting.synthetic import Stage, make_run
from tests.report.test_page import page_of
from tests.report.test_report import text_of


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
    assert (
        blind.reuse is None and blind.no_reuse == "the energy of a GPU or of a service elsewhere is unknown"
    )
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
    assert tie.verdict == "no order in energy: within the intervals neither is better for certain"


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


def asked(report, scores, *, digest="a" * 64, teacher=0.5, judge=None):
    """The report with one benchmark of which every item's score is known."""
    named = {"benchmark": "b", "metric": "m", "subject": "student", "filter": "none"}
    spread = statistics.stdev(scores) / len(scores) ** 0.5
    given = {**named, "suite": "s", "score_unit": "fraction", "n_items": len(scores), "judge_id": judge}
    given |= {"items_sha256": digest, "stderr": spread, "aggregation": "mean"}
    sides = {"student": statistics.fmean(scores), "teacher": teacher}
    rows = [{**eval_row({**given, "subject": s, "score": v}), "stage_uid": 1} for s, v in sides.items()]
    items = [{**named, "stage_uid": 1, "item": n, "score": v, "group": None} for n, v in enumerate(scores)]
    return replace(report, scores=suite_scores(rows, items))


def test_students_on_the_same_items_are_compared_item_by_item(tmp_path):
    kd, sft = (build(path) for path in distilled_and_direct(tmp_path, (520, 630)))
    hard = [0.05 + 0.1 * (n % 9) for n in range(90)]
    above = [score + 0.02 + 0.01 * (n % 2) for n, score in enumerate(hard)]
    found = against(asked(kd, above), asked(sft, hard))
    assert found.q_gap is not None and found.q_gap.verdict == "better"
    assert found.q_gap.difference.best == pytest.approx(0.025 / 0.5)
    lines = dict(against_lines(found))
    assert lines["Q less that"].startswith("+0.050 (") and lines["Q less that"].endswith(
        "item by item: better"
    )
    # Dearer and better: neither dominates. The separate intervals of Q overlap, and alone would say tie.
    assert found.verdict == "neither is better in energy and Q"
    both = asked(kd, above).scores[0].quality, asked(sft, hard).scores[0].quality
    assert both[0].interval.low < both[1].interval.high
    back = against(asked(kd, hard), asked(sft, above))
    assert back.q_gap.verdict == "worse" and back.verdict == "that run is better in energy and Q"
    assert against(asked(kd, hard), asked(sft, hard)).q_gap.verdict == "tie"
    for other in (
        asked(sft, hard, digest="b" * 64),
        asked(sft, hard, teacher=0.6),
        asked(sft, hard, judge="j"),
        asked(sft, hard[1:]),
    ):
        assert against(asked(kd, above), other).q_gap is None


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


def test_repeats_in_both_runs_give_a_break_even_in_cpu_seconds(tmp_path):
    reports = []
    for name, teacher in (("kd", [Stage("teacher", "teacher_logits", 10, 60, 440)]), ("sft", [])):
        students = [
            Stage(f"train-{k}", "student_train", 70 + 50 * k, 110 + 50 * k, 500, tokens=500) for k in (0, 1)
        ]
        run = on_one_device(make_run((*teacher, *students), end_s=180, devices=1))
        run.manifest["method"] = name
        reports.append(build(run.write(tmp_path / name), Options(reference_tokens=1000)))
    assert against(*reports).even_cpu is None
    for report, seconds in zip(
        reports,
        ({"teacher": 100.0, "train-0": 79.0, "train-1": 81.0}, {"train-0": 99.0, "train-1": 101.0}),
        strict=True,
    ):
        for line in report.lines:
            line.row["process_cpu_s"] = seconds[line.row["name"]]
    found = against(*reports)
    # 100 s for two students that save 20 s each.
    assert found.even_cpu.ratio == pytest.approx(2.5) and found.repeats == 2
    data = as_dict(replace(reports[0], against=found))["against"]["break_even_cpu_seconds"]
    assert data["reuses"] == pytest.approx(2.5) and data["repeats"] == 2
    text = " ".join(text_of(replace(reports[0], against=found)).split())
    assert "N* by CPU time" in text and "CPU seconds, 2 repeats of each student" in text


def test_equal_work_gets_no_verdict_that_chance_could_give(tmp_path):
    """Terminal, N* of two runs, page and figures say the same of students with as many positions each."""

    def run(name, watts, positions):
        teacher = [Stage("teacher", "teacher_logits", 10, 60, 440)] if name.startswith("kd") else []
        student = Stage("train", "student_train", 70, 170, watts, tokens=1000)
        made = on_one_device(make_run((*teacher, student), end_s=180, devices=1))
        made.manifest |= {"method": name.partition("-")[0], "name": name}
        made.stages[-1]["tokens_positions"] = positions
        return made.write(tmp_path / name)

    def said(kd, sft):
        runner = CliRunner()
        data = json.loads(runner.invoke(cmd, [str(kd), "--against", str(sft), "--format", "json"]).output)
        withheld = data["against"]["break_even"]["withheld"]
        shown = " ".join(runner.invoke(breakeven, [str(kd), str(sft)]).output.split())
        assert (f"N* no verdict: {withheld}" in shown) == (withheld is not None)
        _, page = page_of([kd, sft], tmp_path / "page.html")
        (entry, *_) = entries([build(kd), build(sft)], spreads_beside([kd, sft]))
        figure = next(f for f in figures([entry])[0] if f.name == "amortization")
        row = figure.rows[-1]
        assert (f"No verdict for {entry.name}: {withheld}." in figure.caption) == (withheld is not None)
        assert (row["break_even"] is None) == (withheld is not None) == ("no verdict" in row["case"])
        assert page["pairs"][0]["boundary"]["all"]["withheld"] == entry.even.withheld == withheld
        return withheld

    kd, sft, fewer = run("kd-1b", 600, 5000), run("sft-1b", 630, 5000), run("kd-2b", 600, 4000)
    assert said(kd, sft) == "equal work, and run-to-run spread is not known"
    assert said(fewer, sft) is None  # it trained less: that is no chance
    run("sft-1b-again1", 625, 5000)
    # 0.56 % of standard deviation: two runs differ by 10 % by chance (t 12.7 of one degree of freedom).
    assert said(kd, sft) == "equal work, and the difference is within run-to-run spread"
    run("sft-1b-again1", 630, 5000)
    assert said(kd, sft) is None
    again = run("sft-1b-again1", 625, 4990)
    assert said(kd, sft) == "equal work, and run-to-run spread is not known"
    (again / "manifest.json").write_text("{", encoding="utf-8")
    assert said(kd, sft) == "equal work, and run-to-run spread is not known"
    shutil.rmtree(again)
    shutil.copytree(sft, again)  # a copy is no repeat
    assert said(kd, sft) == "equal work, and run-to-run spread is not known"
    shutil.rmtree(again)
    run("kd-1b-again1", 590, 5000), run("kd-2b-again1", 600, 3999)  # a neighbour that says nothing hides none
    assert said(kd, sft) == "equal work, and the difference is within run-to-run spread"
