"""kit validate and kit explain: what people and programs are shown, and waivers."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from harness.cli.explain import cmd as explain_command
from harness.cli.main import main
from harness.cli.validate import cmd
from harness.errors import KitError
from harness.leaderboard.rules import submission_rules
from harness.validate.findings import Hit
from harness.validate.registry import finding, load_rules
from harness.validate.waivers import Waiver, apply_waivers, load_waivers
from tests.accounting.synthetic import Stage
from tests.validate.full_run import write_full
from tests.validate.runs import row
from tests.validate.tamper import edit_rows
from tests.validate.test_validate_plausibility import real_run


def run(*args: object) -> Result:
    return CliRunner().invoke(cmd, [str(arg) for arg in args])


def spoil(bundle: Path) -> None:
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j=1.0))


@pytest.fixture(scope="module")
def doubtful_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose power samples say 8 % more than its counters: W303 for two stages, E304 for the whole."""
    stages = (
        Stage("warm", "preprocess", 2.0, 72.0, 500.0),
        Stage("train", "student_train", 72.0, 152.0, 600.0, tokens=10**6),
    )
    made = real_run(stages=stages, devices=1)
    made.power["power_mw"] = (made.power["power_mw"] * 1.08).astype("int32")
    return made.write(tmp_path_factory.mktemp("doubtful") / "run")


@pytest.fixture
def doubtful(doubtful_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(doubtful_run, tmp_path / "run"))


def test_text(bundle: Path) -> None:
    good = run(bundle)
    assert good.exit_code == 0
    assert "holds" in good.output
    assert "L4 comparability ✓" in good.output
    assert "C401 simulated" in good.output
    assert "Not to be ranked" in good.output
    spoil(bundle)
    bad = run(bundle)
    assert bad.exit_code == 1
    assert "E203 derived-differs" in bad.output
    assert "at stake: 48.40 kJ" in bad.output
    assert "Fix:" in bad.output
    assert not [line for line in (good.output + bad.output).splitlines() if line.endswith(" ")]
    assert run(bundle / "no").exit_code == 2
    assert run(bundle, "--level", 1).exit_code == 0


def test_json(bundle: Path) -> None:
    spoil(bundle)
    data = json.loads(run(bundle, "--format", "json").output)
    assert data["valid"] is False
    assert data["findings"][0]["joules_at_stake_j"] == pytest.approx(48_399, abs=1)
    assert data["comparability"]["rankable"] is False
    assert data["comparability"]["class_sha256"]
    two = json.loads(run(bundle, bundle, "--format", "json").output)
    assert [item["folder"] for item in two] == [str(bundle)] * 2


def test_each_bundle_of_a_folder_is_checked(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "all" / "a")
    write_full(tmp_path / "all" / "deep" / "b")  # another run: a copy would spoil both
    (tmp_path / "all" / "unsealed" / "journal").mkdir(parents=True)
    spoil(tmp_path / "all" / "deep" / "b")
    done = run(tmp_path / "all", "--format", "json")
    found = {Path(one["folder"]).name: one["valid"] for one in json.loads(done.output)}
    assert found == {"a": True, "b": False, "unsealed": False}
    assert done.exit_code == 2


def sarif_of(*args: object) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(run(*args, "--format", "sarif").output)
    schema = json.loads((Path(__file__).parent / "sarif_subset.json").read_text())
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(log)
    return log


def test_sarif(bundle: Path, tmp_path: Path) -> None:
    spoil(bundle)
    odd = bundle.rename(tmp_path / "a run #1")
    log = sarif_of(odd)
    rules = log["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(load_rules())
    results = log["runs"][0]["results"]
    assert {r["ruleId"] for r in results} >= {"E203", "C401"}
    for result in results:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    first = next(r for r in results if r["ruleId"] == "E203")
    assert first["level"] == "error"
    assert next(r for r in results if r["ruleId"] == "C401")["level"] == "note"
    where = first["locations"][0]
    assert where["physicalLocation"]["artifactLocation"]["uri"].endswith("/a%20run%20%231/stages.parquet")
    assert where["logicalLocations"][0]["fullyQualifiedName"] == "stages.parquet#row=2"
    assert first["properties"]["joules_at_stake_j"] == pytest.approx(48_399, abs=1)


def test_sarif_of_nothing_wrong_and_of_nothing_there(bundle: Path) -> None:
    assert {r["level"] for r in sarif_of(bundle)["runs"][0]["results"]} == {"note"}
    assert [r["ruleId"] for r in sarif_of(bundle / "no")["runs"][0]["results"]] == ["E001"]


_COMMAND = re.compile(r"::(error|warning|notice) file=([^,:]+),line=1,title=([^,:]+)::(.+)")


def test_github_annotations(bundle: Path) -> None:
    """One workflow command a finding, whatever a bundle's names hold."""
    edit_rows(
        bundle, "stages", lambda rows: row(rows, "train").update(name="x\n::error::y%0A", gpu_energy_j=1.0)
    )
    lines = run(bundle, "--format", "github").output.splitlines()
    found = [match for line in lines if (match := _COMMAND.fullmatch(line))]
    assert len(found) == len(lines)
    assert {match[1] for match in found} == {"error", "notice"}
    first = next(match for match in found if match[3] == "E203 derived-differs")
    assert first[2].endswith("/stages.parquet")
    assert "%250A" in first[4] and "At stake: 48399" in first[4] and "Fix: " in first[4]


def waive(folder: Path, waivers: Sequence[dict[str, str]]) -> Path:
    path = folder.parent / "waivers.yaml"
    path.write_text(json.dumps({"waivers": list(waivers)}))
    return path


REASON = "The power reading covers the whole module, the counter the GPU alone."


def test_a_waiver_file_is_looked_at_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "large").write_text("waivers: []" + " " * 300_000)
    for name, words in (
        ("pipe", "is a pipe"),
        ("link", "is a link"),
        ("large", "bytes"),
        ("none", "missing"),
    ):
        with pytest.raises(KitError, match=words):
            load_waivers(tmp_path / name, load_rules())


def test_waivers(doubtful: Path) -> None:
    assert run(doubtful).exit_code == 1
    file = waive(doubtful, [{"rule": "E304", "reason": REASON}, {"rule": "W303", "reason": REASON}])
    result = run(doubtful, "--waivers", file, "--format", "json")
    data = json.loads(result.output)
    assert result.exit_code == 0
    assert (data["errors"], data["warnings"], data["waived"]) == (0, 0, 2)
    assert {f["id"]: f["waived"] for f in data["findings"]} == {"E304": REASON, "W303": REASON}
    assert data["levels"]["3"] == "passed"
    text = run(doubtful, "--waivers", file).output
    assert "E304 run-counter-vs-integral waived" in text and "2 waived" in text
    assert REASON in " ".join(text.split())
    suppressed = [
        r for r in sarif_of(doubtful, "--waivers", file)["runs"][0]["results"] if "suppressions" in r
    ]
    assert {r["suppressions"][0]["justification"] for r in suppressed} == {REASON}
    assert "::error" not in run(doubtful, "--waivers", file, "--format", "github").output


def test_a_waiver_of_one_stage(doubtful: Path) -> None:
    """Two stages are in doubt: a waiver of one of them leaves the other in doubt, one of each waives both."""
    whole = {"rule": "E304", "reason": REASON}
    stage = {"rule": "W303", "stage": "train", "reason": REASON}
    one = json.loads(run(doubtful, "--waivers", waive(doubtful, [whole, stage]), "--format", "json").output)
    assert (one["warnings"], one["waived"]) == (1, 2)
    left = [f for f in one["findings"] if f["waived"] is None]
    assert [(f["id"], f["count"], f["observed"][:5]) for f in left] == [("W303", 1, "warm ")]
    other = {**stage, "stage": "warm", "reason": f"{REASON} So it does here."}
    file = waive(doubtful, [whole, stage, other])
    both = json.loads(run(doubtful, "--waivers", file, "--format", "json").output)
    assert (both["warnings"], both["waived"]) == (0, 3)
    reasons = {f["observed"].split()[0]: f["waived"] for f in both["findings"] if f["id"] == "W303"}
    assert reasons == {"train": REASON, "warm": other["reason"]}


def test_a_waiver_covers_no_hit_that_is_not_shown() -> None:
    """Six hits, five of them in one stage: the sixth is in another and stays, though no example shows it."""
    rules = load_rules()
    hits = [Hit("stages.parquet", f"{name} (stage_uid 1, session 0): x", "y") for name in ("a",) * 5 + ("b",)]
    waiver, idle = Waiver("W303", REASON, "a"), Waiver("W303", REASON, "a (stage_uid 1, session 0)")
    found, unused = apply_waivers([finding(rules["W303"], hits[0].file, hits)], [idle, waiver], rules)
    assert [(f.count, f.waived) for f in found] == [(5, REASON), (1, None)]
    assert unused == [idle]


def test_an_unused_waiver_is_a_warning(bundle: Path) -> None:
    file = waive(bundle, [{"rule": "E330", "reason": REASON}])
    result = run(bundle, "--waivers", file)
    assert result.exit_code == 0
    assert "W399 waiver-unused" in result.output
    assert "W399" not in run(bundle, "--waivers", file, "--level", 2).output


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"waivers": [{"rule": "E203", "reason": "it is small enough"}]}', "cannot be waived"),
        ('{"waivers": [{"rule": "C401", "reason": "it is small enough"}]}', "cannot be waived"),
        ('{"waivers": [{"rule": "E999", "reason": "it is small enough"}]}', "no rule 'E999'"),
        ('{"waivers": [{"rule": "W303"}]}', "gives no reason"),
        ('{"waivers": [{"rule": "W303", "reason": "ok"}]}', "gives no reason"),
        ('{"waivers": [{"rule": "W303", "reason": "it is small enough", "who": "me"}]}', "not a waiver"),
        ('{"waivers": [{"rule": "W303", "reason": "it is small enough", "stage": 3}]}', "no name"),
        ('{"waivers": ["W303"]}', "not a waiver"),
        ('{"waiver": []}', "no list"),
        ("[", "not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_bad_waiver_files(bundle: Path, capsys: pytest.CaptureFixture[str], content: str, says: str) -> None:
    file = bundle.parent / "w.yaml"
    file.write_text(content)
    assert main(["validate", str(bundle), "--waivers", str(file)]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown
    assert main(["validate", str(bundle), "--waivers", str(bundle.parent / "none.yaml")]) == 2


def test_judged_by_a_version(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bundle, "--protocol", "1.0").exit_code == 0
    assert main(["validate", str(bundle), "--protocol", "7.3"]) == 2
    assert "7.3" in capsys.readouterr().err


@pytest.mark.parametrize("rule_id", list(load_rules()))
def test_every_rule_is_explained(rule_id: str) -> None:
    shown = " ".join(CliRunner().invoke(explain_command, [rule_id]).output.split())
    rule = load_rules()[rule_id]
    for words in (
        rule_id,
        rule.name,
        rule.title[1:],
        rule.why,
        rule.fix,
        rule.example,
        f"Clause: {rule.clause} ",
    ):
        assert " ".join(words.split()) in shown
    assert rule.example


@pytest.mark.parametrize("spelling", ["E214", "e214", " E214 ", "stage-overlap", "Stage-Overlap"])
def test_explain_takes_ids_and_names(spelling: str) -> None:
    assert "E214 stage-overlap" in CliRunner().invoke(explain_command, [spelling]).output


@pytest.mark.parametrize(("word", "near"), [("W214", "E214"), ("E2140", "E214"), ("stage-overlapp", "E214")])
def test_an_unknown_rule_gets_the_nearest(word: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", word]) == 2
    assert f"kit explain {near}" in capsys.readouterr().err


def test_explain_lists_and_gives_json() -> None:
    listed = CliRunner().invoke(explain_command, []).output.splitlines()
    assert [line.split()[0] for line in listed] == [*load_rules(), *submission_rules().by_id]
    data = json.loads(CliRunner().invoke(explain_command, ["E214", "--format", "json"]).output)
    assert (data["id"], data["level"], data["clause_title"]) == ("E214", 2, "Billed window")
    whole = json.loads(CliRunner().invoke(explain_command, ["--format", "json"]).output)
    assert [rule["id"] for rule in whole] == [line.split()[0] for line in listed]
