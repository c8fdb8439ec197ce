"""Submissions held against their raw samples, against each other and against what was accepted before."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.bundle import Bundle
from harness.leaderboard import say
from harness.leaderboard.check import check
from harness.leaderboard.examined import default_cache
from harness.report.model import build
from tests.leaderboard.runs import accepted, edit_entry, ids, kit, only, ranked_run, submitted
from tests.validate.tamper import edit_manifest, edit_rows


def test_two_good_rows_are_ranked_and_tie(board: Path, runs: list[Path]) -> None:
    done = check([board])
    assert [ids(e) for e in done.asked] == [set(), set()]
    for row, run in zip(done.rows, runs, strict=True):
        report = build(run)
        assert report.totals.it is not None and report.inherited is not None
        assert row["energy"][0] == pytest.approx(report.totals.it.best + report.inherited.best)
        assert row["level"] == "re-derived" and row["unranked"] == []
        quality = report.scores[0].quality
        assert quality is not None and row["q"][0] == quality.q
        # Same watts, same scores: neither may be called better.
        assert (row["rank"], row["rank_to"], row["of"]) == (1, 2, 2)
    assert done.rows[0]["class"] == done.rows[1]["class"]


def test_a_changed_summary_is_refused_by_recomputation(one: Path) -> None:
    def cheaper(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["gpu_energy_j"] *= 0.5

    edit_rows(one / "bundle", "stages", cheaper)
    edit_entry(one, lambda value: None, relist=True)
    entry = only(one)
    assert "E203" in ids(entry) and entry.row is not None and entry.row["unranked"]


def _change(name: str, factor: Callable[[int], float]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        def edit(rows: list[dict[str, Any]]) -> None:
            recorded = [row for row in rows if row["stage"] != "unattributed" and row["parent_uid"] is None]
            recorded.sort(key=lambda row: row["mono_start_us"])
            sums = dict.fromkeys(("gpu", "cpu", "dram"), 0.0)
            for number, row in enumerate(recorded):
                for part in sums:
                    column = f"{part}_energy_j"
                    sums[part] += row[column]
                    value = sums[part] if name == "cumulative" else row[column] * factor(number)
                    row |= {column: value, f"{column}_low": value, f"{column}_high": value}

        edit_rows(folder / "bundle", "stages", edit)
        edit_entry(folder, lambda value: None, relist=True)

    return apply


def _thousandfold(folder: Path) -> None:
    def counters(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["source"] == "nvml" and row["value"] is not None:
                row["value"] *= 1000

    def power(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["energy_counter_mj"] *= 1000

    edit_rows(folder / "bundle", "counters", counters)
    edit_rows(folder / "bundle", "power", power)
    edit_entry(folder, lambda value: None, relist=True)


def _mig(folder: Path) -> None:
    def counters(rows: list[dict[str, Any]]) -> None:
        seen = {(r["session"], r["mono_us"]): r["value"] for r in rows if r["device_id"] == 0}
        for row in rows:
            if row["device_id"] == 1:
                row["value"] = seen[row["session"], row["mono_us"]]

    edit_rows(folder / "bundle", "counters", counters)
    edit_entry(folder, lambda value: None, relist=True)


def _stated(**figures: float) -> Callable[[Path], None]:
    return lambda folder: edit_entry(folder, lambda value: value["stated"].update(figures))


def _stated_times(factor: float) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        report = build(folder / "bundle")
        assert report.totals.it is not None and report.inherited is not None
        own = (report.totals.it.best + report.inherited.best) / 3.6e6
        edit_entry(folder, lambda value: value["stated"].update(energy_kwh=own * factor))

    return apply


UNIT_FAULTS = {
    "counter a thousand times power": ("E511", _thousandfold),
    "grams as kilograms": ("E512", _stated(co2e_kg=12.0)),
    "one MIG counter repeated": ("E513", _mig),
    "PUE inside the stages": ("E514", _change("pue", lambda number: 1.58)),
    "PUE inside the stated total": ("E514", _stated_times(1.15)),
    "running totals as stages": ("E515", _change("cumulative", lambda number: 1.0)),
    "another total": ("E505", _stated_times(0.7)),
    "another Q": ("E505", _stated(quality=1.4)),
    "another rate": ("E505", _stated(energy_j_per_token=123.0)),
}


@pytest.mark.parametrize("name", UNIT_FAULTS)
def test_unit_faults_are_refused_by_name(name: str, one: Path) -> None:
    rule, spoil = UNIT_FAULTS[name]
    assert rule not in ids(only(one))
    spoil(one)
    entry = only(one)
    assert rule in ids(entry), entry.findings
    assert entry.row is None or "rank" not in entry.row


def test_true_statements_pass(one: Path) -> None:
    _stated_times(1.004)(one)
    assert ids(only(one)) == set()


def test_the_same_run_under_another_name_is_refused(board: Path, one: Path, runs: list[Path]) -> None:
    copy = shutil.copytree(one, board / "copycat" / one.name)
    edit_entry(copy, lambda value: value.update(lab="copycat"))
    entry = only(copy)
    assert ids(entry) == {"E506"} and "acme/" in next(f for f in entry.findings if f.id == "E506").observed
    assert ids(only(one)) == {"E506"}, "nobody knows which of two came first, unless one was accepted before"
    done = check([board], before=accepted(board, "copycat"))
    assert [(e.key.split("/")[0], ids(e)) for e in done.asked] == [("copycat", {"E506"})]


def test_a_block_of_somebody_elses_readings_is_found(board: Path, one: Path, tmp_path: Path) -> None:
    run = ranked_run(tmp_path / "third", 3)
    theirs = next((board / "zeta").iterdir())
    copied = Bundle.open(theirs / "bundle").table("power", ["power_mw"]).column("power_mw").to_pylist()

    def paste(rows: list[dict[str, Any]]) -> None:
        for number in range(100, 300):
            rows[number]["power_mw"] = copied[number]

    edit_rows(run, "power", paste)
    folder = submitted(run, tmp_path, "third")
    assert "E506" in ids(only(folder))


def test_edits_of_accepted_rows(board: Path, one: Path) -> None:
    before = accepted(board, "nobody")
    edit_entry(one, lambda value: value.update(title="a better title"))
    (entry,) = check([board], before=before).asked
    assert ids(entry) == set(), "words may change"

    other = build(one / "bundle").totals.it
    assert other is not None

    def longer(manifest: dict[str, Any]) -> None:
        manifest["reference_tokens"] = 1

    edit_manifest(one / "bundle", longer)
    edit_rows(one / "bundle", "artifacts", lambda rows: rows[0].update(origin_energy_j=99_999.0))
    edit_rows(one / "bundle", "events", lambda rows: None)
    edit_entry(one, lambda value: None, relist=True)
    (entry,) = check([board], before=before).asked
    assert "E507" in ids(entry)
    shutil.rmtree(one)
    (entry,) = check([board], before=before).asked
    assert ids(entry) == {"E508"} and entry.key.startswith("acme/")


def test_withdrawn_entries_stay_and_are_not_ranked(board: Path, one: Path) -> None:
    before = accepted(board, "nobody")
    edit_entry(one, lambda value: value.update(status="withdrawn", reason="the card was shared"))
    done = check([board], before=before)
    assert done.errors == 0
    row = next(row for row in done.rows if row["lab"] == "acme")
    assert "withdrawn: the card was shared" in row["unranked"] and "rank" not in row
    edit_entry(one, lambda value: value.update(reason=""))
    assert ids(only(one)) == {"E501"}


def test_replication_needs_another_laboratory_and_overlap(board: Path, one: Path) -> None:
    theirs = next((board / "zeta").iterdir())
    edit_entry(theirs, lambda value: value.update(replicates=f"acme/{one.name}"))
    done = check([board])
    assert {row["level"] for row in done.rows} == {"replicated"}
    assert done.rows[0]["replications"] == [{"key": f"zeta/{theirs.name}", "overlaps": True}]

    edit_entry(theirs, lambda value: value.update(replicates=f"zeta/{theirs.name}"))
    assert "E509" in ids(next(e for e in check([board]).asked if e.key.startswith("zeta")))


def test_supersedes_hides_the_older_row(board: Path, one: Path, tmp_path: Path) -> None:
    run = ranked_run(tmp_path / "again", 4)
    submitted(run, board.parent, "acme", supersedes=f"acme/{one.name}")
    rows = {row["key"]: row for row in check([board]).rows}
    old = rows[f"acme/{one.name}"]
    assert old["unranked"] == [f"superseded by {old['superseded_by']}"]
    assert old["superseded_by"].startswith("acme/")


def _link(folder: Path) -> None:
    (folder / "bundle" / "power.parquet").unlink()
    (folder / "bundle" / "power.parquet").symlink_to("/etc/passwd")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "bundle" / "notes.parquet")


def _huge(folder: Path) -> None:
    edit_entry(folder, lambda value: value["stated"].update(quality=1.0))
    path = folder / "submission.json"
    data = path.read_bytes()
    assert b'"quality":1}' in data
    path.write_bytes(data.replace(b'"quality":1}', b'"quality":1' + b"0" * 400 + b"}"))


def _spell(folder: Path, was: str, now: str) -> None:
    path = folder / "submission.json"
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, now))


SHAPES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a link": ("E502", _link),
    "a pipe": ("E502", _pipe),
    "a script": ("E502", lambda f: (f / "setup.py").write_text("print('run me')")),
    "a nested folder": (
        "E502",
        lambda f: (f / "bundle" / "a" / "b").mkdir(parents=True) or (f / "bundle/a/b/x").touch(),
    ),
    "an unlisted table": (
        "E502",
        lambda f: shutil.copy(f / "bundle/evals.parquet", f / "bundle/extra.parquet"),
    ),
    "a lost table": ("E502", lambda f: (f / "bundle" / "evals.parquet").unlink()),
    "other bytes": ("E502", lambda f: (f / "trace60s.parquet").write_bytes(b"x")),
    "another place": ("E502", lambda f: edit_entry(f, lambda v: v.update(lab="other"))),
    "a large file": ("E503", lambda f: (f / "bundle" / "power.parquet").write_bytes(bytes(8_000_001))),
    "no entry": ("E501", lambda f: (f / "submission.json").unlink()),
    "no JSON": ("E501", lambda f: (f / "submission.json").write_bytes(b"{" * 100_000)),
    "a huge number": ("E501", _huge),
    "NaN": ("E501", lambda f: (f / "submission.json").write_text('{"format": NaN}')),
    "a key twice": ("E501", lambda f: (f / "submission.json").write_text('{"lab": "a", "lab": "b"}')),
    "an unknown key": ("E501", lambda f: edit_entry(f, lambda v: v.update(run="rm -rf"))),
    "another licence": ("E501", lambda f: edit_entry(f, lambda v: v.update(licence="none"))),
    "a method nobody knows": ("E501", lambda f: edit_entry(f, lambda v: v.update(method="xxxxx"))),
    "another method than the run's": ("E501", lambda f: edit_entry(f, lambda v: v.update(method="other"))),
    "a token count beside a log": ("E501", lambda f: edit_entry(f, lambda v: v.update(reference_tokens=5))),
    "hardware beside a log": ("E501", lambda f: edit_entry(f, lambda v: v.update(hardware="8 x H100"))),
    "a turned text": ("E501", lambda f: edit_entry(f, lambda v: v.update(title="kd \u202e 1b"))),
    "a file outside": ("E501", lambda f: edit_entry(f, lambda v: v["files"][0].update(path="../../x"))),
    "a script's address": (
        "E501",
        lambda f: edit_entry(f, lambda v: v["files"][0].update(url="javascript:alert(1)")),
    ),
    "a figure beyond any float": (
        "E501",
        lambda f: edit_entry(f, lambda v: v["stated"].update(quality=1e305)),
    ),
    "more tokens than a float counts": (
        "E501",
        lambda f: _spell(f, '"reference_tokens":null', f'"reference_tokens":1{"0" * 400}'),
    ),
    "a home folder": ("E516", lambda f: edit_entry(f, lambda v: v.update(title="log in /home/jane/runs"))),
    "an address": ("E516", lambda f: edit_entry(f, lambda v: v.update(conflict="ask jane@example.com"))),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_refused(name: str, one: Path) -> None:
    rule, spoil = SHAPES[name]
    spoil(one)
    entry = only(one)
    assert rule in ids(entry), entry.findings
    assert entry.row is None


def _tar(path: Path, folder: Path, *odd: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, f"{folder.parent.name}/{folder.name}")
        for member in odd:
            tar.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member


ODD = {
    "a link": ("E504", _member("acme/x", tarfile.SYMTYPE, link="/etc/passwd")),
    "a hard link": ("E504", _member("acme/x", tarfile.LNKTYPE, link="../../etc/passwd")),
    "a device": ("E504", _member("acme/x", tarfile.CHRTYPE)),
    "a way out": ("E504", _member("../../etc/cron.d/x")),
    "a root": ("E504", _member("/etc/cron.d/x")),
    "a bomb": ("E503", _member("acme/zeros", size=41_000_000)),
}


@pytest.mark.parametrize("name", ODD)
def test_archives_are_looked_at_before_they_are_unpacked(name: str, one: Path, tmp_path: Path) -> None:
    rule, member = ODD[name]
    good = only(_tar(tmp_path / "good.tar.gz", one))
    assert ids(good) == set() and good.row is not None
    bad = only(_tar(tmp_path / "bad.tar.gz", one, member))
    assert rule in ids(bad) and bad.row is None
    assert not (tmp_path.parent / "etc").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: edit_manifest(f, lambda m: m.pop("created_t_us")),
        lambda f: edit_manifest(f, lambda m: m.update(factors=3)),
        lambda f: edit_rows(f, "events", lambda rows: rows[0].update(kind="x-artifact_origin", detail="[")),
        lambda f: edit_rows(f, "events", lambda rows: rows[0].update(kind="source_absent", detail="[]")),
    ],
)
def test_odd_values_in_one_bundle_never_stop_the_check_of_the_others(
    spoil: Callable[[Path], Any], board: Path, one: Path
) -> None:
    spoil(one / "bundle")
    edit_entry(one, lambda value: None, relist=True)
    done = check([board], cache=False)
    found = {entry.key.split("/")[0]: ids(entry) for entry in done.asked}
    assert found.keys() == {"acme", "zeta"} and not found["zeta"]
    assert "zeta" in {row["lab"] for row in done.rows}


def test_markdown_cannot_be_steered(one: Path) -> None:
    title = "<img src=x onerror=alert(1)> | **bold** [x](https://x.y) @everyone"
    edit_entry(one, lambda value: value.update(title=title, student=title, method="kd"))
    edit_manifest(one / "bundle", lambda m: m["hardware"].update(cpu_model=title))
    edit_entry(one, lambda value: None, relist=True)
    done = check([one])
    text = say.markdown(done.asked, done.rows)
    assert "everyone" in text
    assert not re.search(r"(?<!\\)(<img|\[x|\*\*b)|@everyone|https://x", text)
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()}
    assert bars <= {0, 8, 5}


def test_what_raises_a_level_is_told_from_what_keeps_a_row_out(one: Path) -> None:
    edit_entry(one, lambda value: value.update(status="withdrawn", reason="the card was shared"))
    done = check([one])
    said = [line.strip() for line in say.text(done.asked, done.rows, 10_000)]
    assert sum(line.startswith("to raise the level: ") for line in said) == 1
    assert "not ranked because: withdrawn: the card was shared" in said
    narrow = say.text(done.asked, done.rows, 50)
    assert max(len(line) for line in narrow if " " in line.strip()) <= 50
    assert " ".join(" ".join(narrow).split()) == " ".join(
        " ".join(say.text(done.asked, done.rows, 10_000)).split()
    )


def test_results_are_cached_by_content(one: Path) -> None:
    first = only(one)
    again = only(one)
    for name in ("row", "findings", "page", "scales", "digests", "known"):
        assert getattr(first, name) == getattr(again, name), name
    assert first.prints
    for was, now in zip(first.prints, again.prints, strict=True):
        assert np.array_equal(was.prints, now.prints)
        assert np.array_equal(was.around, now.around, equal_nan=True)
    kept = default_cache() / f"{first.digest}.kept"
    for cut in (40, kept.stat().st_size - 8):  # one that lost its end is computed again
        kept.write_bytes(kept.read_bytes()[:cut])
        assert only(one).row == first.row
    edit_entry(one, lambda value: value.update(title="other"))
    assert only(one).row != again.row


def test_a_digest_that_only_the_manifest_gets_wrong_is_found(one: Path) -> None:
    def forge(manifest: dict[str, Any]) -> None:
        manifest["files"][-1]["sha256"] = "0" * 64

    edit_manifest(one / "bundle", forge)
    edit_entry(one, lambda value: None, relist=True)
    assert "E003" in ids(only(one))


def test_formats(board: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(next((board / "acme").iterdir()) / "bundle/evals.parquet", board / "acme" / "stray.parquet")
    assert kit("leaderboard", "check", str(board), "--format", "github") == 1
    assert "::error file=" in capfd.readouterr().out
    assert kit("leaderboard", "check", str(board), "--format", "json") == 1
    data = json.loads(capfd.readouterr().out)
    assert {item["key"].split("/")[0]: item["accepted"] for item in data} == {
        "acme": True, "zeta": True, "stray.parquet": False,
    }  # fmt: skip
    assert kit("leaderboard", "check", str(board), "--format", "sarif") == 1
    results = json.loads(capfd.readouterr().out)["runs"][0]["results"]
    assert "E502" in {result["ruleId"] for result in results}


def test_a_score_without_its_error_is_not_ranked(one: Path) -> None:
    edit_rows(one / "bundle", "evals", lambda rows: [row.update(stderr=None) for row in rows] and None)
    edit_entry(one, lambda value: None, relist=True)
    entry = only(one)
    assert entry.row is not None and entry.row["q"] is not None
    assert any("how well Q is known" in reason for reason in entry.row["unranked"])


def test_raw_elsewhere_shows_the_minutes_and_is_not_ranked(
    runs: list[Path], tmp_path: Path, cache: Path
) -> None:
    folder = submitted(runs[0], tmp_path, "far")
    (folder / "bundle" / "power.parquet").unlink()

    def away(value: dict[str, Any]) -> None:
        listed = next(f for f in value["files"] if f["path"] == "bundle/power.parquet")
        listed["url"] = "https://example.org/power.parquet"

    edit_entry(folder, away)
    entry = only(folder)
    assert {f.id for f in entry.findings if f.severity == "warning"} == {"W517", "W518"}
    assert entry.row is not None and entry.row["level"] == "self-measured" and entry.page is not None
    assert len(json.loads(entry.page)["runs"][0]["traces"]) == 4, "two devices in two sessions"
    (folder / "trace60s.parquet").write_bytes(b"PAR1")
    edit_entry(folder, lambda value: None, relist=True)
    assert ids(only(folder)) == {"E501"}
