"""Derive every claim of artifacts/claims.yaml that needs no GPU again, and compare.

    python scripts/verify_claims.py            # one line a claim; exit code 1 where one does not come out
    python scripts/verify_claims.py --write    # write what follows: pages, make's help, digests
    python scripts/verify_claims.py --data DIR # third-party traces lie there; otherwise ../shared/data

A claim is derived from the published values (artifacts/paper) by the kit's accounting, from the logs of
recorded runs (artifacts/runs, by scripts/record_runs.py), or from traces that others published and whose
licence does not let us store them here: derived where the file is at hand, by its sha256. Nothing is trained.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import claims_pages
import make_seeds
import own_models
import record_runs
from claims_pages import STATUSES, Outcome, Value, between, shown

from harness.accounting.rounding import J_PER_KWH
from harness.advice.advise import Question, advise
from harness.advice.choices import published_choices
from harness.errors import KitError
from harness.experiments.documents import write_documents
from harness.experiments.paper import published, published_break_even
from harness.experiments.pipelines import Layout
from harness.experiments.profile import load_profile
from harness.experiments.reproduce import CLAIM, Request
from harness.experiments.results import Results, collect
from harness.experiments.tables import as_json, grid_of
from harness.files import file_digest
from harness.interop.reference.importer import import_reference
from harness.leaderboard.entry import ENTRY, Submission
from harness.spec.freeze import frozen_list

ROOT = Path(__file__).resolve().parents[1]
CLAIMS, PAGE = ROOT / "artifacts" / "claims.yaml", ROOT / "docs" / "claims.md"
RECORDED = ROOT / "artifacts" / "runs"
POCKET = RECORDED / "pocket"
DATA = ROOT.parent / "shared" / "data"


def stage_sum_kwh(regime: str, size: str) -> Value:
    """kWh of the published stages of a cell together."""
    total = published()[regime, size].total
    return None if total is None else total.best / J_PER_KWH


def per_token(regime: str, size: str) -> Value:
    """J/token of a published cell over the declared tokens."""
    energy = published()[regime, size].per_token
    return None if energy is None else energy.best


def relative(regime: str, size: str) -> Value:
    """Published energy of a cell over that of SFT of its size."""
    ours, theirs = (published()[key].energy_kwh for key in ((regime, size), ("sft", size)))
    return ours / theirs if ours and theirs else None


def teacher_share(regime: str, size: str) -> Value:
    """Published energy of the teacher's stage over the cell's total."""
    cell = published()[regime, size]
    return cell.teacher_kwh / cell.energy_kwh if cell.teacher_kwh and cell.energy_kwh else None


def n_star(regime: str, size: str) -> Value:
    """N* from the published stages."""
    even = published_break_even(regime, size)
    return None if even is None else even.ratio


def beaten(*by: str) -> Value:
    """Published cells of 7B and 13B that each of the named ones beats in energy and Q."""
    answer = advise(published_choices(), Question())
    return ", ".join(sorted(s.name for s in answer.standings if set(by) <= set(s.dominated_by)))


def on_frontier(name: str) -> Value:
    """Whether no published cell beats this one."""
    answer = advise(published_choices(), Question())
    return any(s.name == name and s.on_frontier for s in answer.standings)


def advice(reuses: int, budget_kwh: float) -> Value:
    """The published cell of highest Q under a budget."""
    answer = advise(published_choices(), Question(reuses=reuses, budget_j=budget_kwh * J_PER_KWH))
    return None if answer.best is None else answer.best.name


@cache
def _recorded(runs: str, target: str) -> Results:
    """The figures of a folder of recorded runs, from their logs, as `kit reproduce` collects them.

    Its profile lies beside them, where it is none of the kit's.
    """
    folder = RECORDED / runs
    own = sorted(folder.glob("*.yaml"))
    profile = load_profile(own[0] if own else runs)
    request = Request(target, record_runs.target_of(target, folder), profile, folder)
    return collect(request.profile, request.cells, Layout(folder.absolute(), {}))


def recorded_cells(runs: str, target: str) -> Value:
    """Figures of a recorded table that its logs do not give to nine digits; each is printed."""
    stored = json.loads((RECORDED / runs / "tables" / f"{target}.json").read_text(encoding="utf-8"))
    if not stored["cells"]:
        return None
    return _count(f"{runs} {target}", stored, _fresh(runs, target))


def record_cells(record: str, runs: str) -> Value:
    """Figures of artifacts/evidence/RECORD.json that the logs do not give to nine digits; each is printed."""
    stored = json.loads((ROOT / "artifacts/evidence" / f"{record}.json").read_text(encoding="utf-8"))
    table, folder = _fresh(runs, "table2"), RECORDED / runs / "runs"
    cells = {(cell["regime"], cell["size"]): cell for cell in table["cells"] if not cell.get("seed")}
    wanted: dict[str, Any] = {key: stored[key] for key in ("work", "run_spread", "teacher_heldout_loss")}
    fresh = {
        "work": own_models.work_of(folder),
        "run_spread": table["run_spread"],
        "teacher_heldout_loss": table["teacher"]["heldout_loss"],
    }
    for cell in stored["cells"]:
        found = cells[cell["regime"], cell["size"]]
        run = folder / f"{cell['regime'].replace('_', '-')}-{cell['size']}"
        train = own_models.stages(run, "student_train")
        name = f"{cell['regime']} {cell['size']}"
        # What the record has beside these is from files of the training that are not kept.
        wanted[name] = {key: value for key, value in cell.items() if key in found or key == "student_cpu_s"}
        fresh[name] = {key: found.get(key) for key in wanted[name]}
        fresh[name]["student_cpu_s"] = own_models.cpu_of(train)
    return _count(record, wanted, fresh)


def published_rows() -> Value:
    """Rows of the leaderboard's published lab that are not as artifacts/paper gives them; each is printed."""
    fresh = {f"{entry.lab}/{entry.id}": _row(entry) for entry in make_seeds.paper()}
    folders = (make_seeds.BOARD / "published-paper").iterdir()
    stored = {f"{path.parent.name}/{path.name}": _stored_row(path) for path in folders}
    return _count("submissions", stored, fresh)


def imported_row(trace: Path) -> Value:
    """Fields of a stored row that its trace does not give; each is printed."""
    entry = make_seeds.slimming(trace)
    return _count("submissions", _stored_row(make_seeds.BOARD / entry.lab / entry.id), _row(entry))


def _row(entry: Submission) -> Any:
    return json.loads(entry.to_bytes())


def _stored_row(folder: Path) -> Any:
    return json.loads((folder / ENTRY).read_bytes())


def _fresh(runs: str, target: str) -> Any:
    return json.loads(json.dumps(as_json(_recorded(runs, target), target)))


def _count(what: str, stored: Any, fresh: Any) -> float:
    """How many figures differ; each is printed."""
    wrong = list(differences(stored, fresh))
    for where, recorded, found in wrong:
        print(f"DIFFERS {what} {where}: {recorded} recorded, {found} derived")
    return float(len(wrong))


def pocket_dearer(regime: str) -> Value:
    """Whether every pocket cell of a regime surely takes more energy than SFT of its size."""
    results = _recorded("pocket", "table2")
    times = [results.relative(r) for r in grid_of(results) if r.cell.regime == regime]
    return bool(times) and all(t is not None and t.low > 1 for t in times)


@cache
def _imported(logs: Path) -> Mapping[str, float]:
    """GPU energy of the stages that an import of the authors' logs gives, kWh by name."""
    with tempfile.TemporaryDirectory() as folder:
        rows = import_reference(logs, Path(folder) / "bundle").stages
    return {row["name"]: row["gpu_energy_j"] / J_PER_KWH for row in rows if row["gpu_energy_j"] is not None}


def imported_kwh(logs: Path, stage: str) -> Value:
    """GPU energy of a stage of the authors' logs, kWh."""
    return _imported(logs).get(stage)


def counter_kwh(trace: Path) -> Value:
    """Energy by the counters of a public telemetry trace, kWh."""
    return make_seeds.telemetry(trace).counter_j / J_PER_KWH


def differences(one: Any, other: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ, floats beyond nine digits, as (path, one, other); cells go by name."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from differences(one.get(key, ABSENT), other.get(key, ABSENT), f"{where} {key}".strip())
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, theirs, f"{where} {_cell_name(mine) or number}")
    elif not _same(one, other):
        yield where, one, other


ABSENT = "absent"


def _cell_name(cell: Any) -> str:
    names = ("regime", "size", "seed", "alpha", "temperature", "max_new_tokens", "prompts", "quantity")
    if not isinstance(cell, dict):
        return ""
    return " ".join(str(cell[name]) for name in names if cell.get(name) is not None)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)


CHECKS: dict[str, Callable[..., Value]] = {
    check.__name__: check
    for check in (
        stage_sum_kwh,
        per_token,
        relative,
        teacher_share,
        n_star,
        beaten,
        on_frontier,
        advice,
        recorded_cells,
        record_cells,
        published_rows,
        pocket_dearer,
        imported_kwh,
        counter_kwh,
        imported_row,
    )
}


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def load(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """The claims, each with a known status, and a known check, inputs and command where it has one."""
    document = _document(path)
    claims: list[dict[str, Any]] = document["claims"]
    commands = {f"make {row['target']}" for row in document["commands"]}
    for claim in claims:
        if not set(claim.get("inputs", ())) <= document["inputs"].keys():
            raise SystemExit(f"{path.name}: {claim['id']}: unknown inputs")
        if "command" in claim and claim["command"] not in commands:
            raise SystemExit(f"{path.name}: {claim['id']}: commands does not say what its command takes")
        if claim["status"] not in STATUSES or claim.get("check", "relative") not in CHECKS:
            raise SystemExit(f"{path.name}: {claim['id']}: unknown status or check")
        derived = claim["status"] in ("recomputed", "pocket", "imported")
        named = "inputs" in claim or "sha256" in claim
        if {"check" in claim, named} != {derived} or ("sha256" in claim) != (claim["status"] == "imported"):
            raise SystemExit(
                f"{path.name}: {claim['id']}: {claim['status']} and its check do not go together"
            )
    return claims


def recorded() -> bool:
    """Whether runs were recorded; a folder that is there and incomplete is an error."""
    return (POCKET / CLAIM).exists()


def outcome(claim: Mapping[str, Any], data: Path = DATA) -> Outcome:
    """Derive a claim and compare it within its tolerance, which includes its end.

    Raises:
        KitError: A trace is another than that of the claim.
    """
    if "check" not in claim or (claim["status"] == "pocket" and not recorded()):
        return Outcome(claim, None, None)
    of = list(claim["of"])
    if claim["status"] == "imported":
        trace = data / claim["trace"]
        if not trace.exists():
            return Outcome(claim, None, None)
        if (digest := file_digest(trace)) != claim["sha256"]:
            raise KitError(f"is another trace: {digest}", where=str(trace), expected=claim["sha256"])
        of[0] = data / of[0]
    found, expected = CHECKS[claim["check"]](*of), claim["expected"]
    if isinstance(expected, bool | str) or found is None or isinstance(found, bool | str):
        return Outcome(claim, found, found == expected)
    off = abs(found - expected)
    return Outcome(claim, found, off <= claim["tolerance"] or math.isclose(off, claim["tolerance"]))


def tried(claim: Mapping[str, Any], data: Path) -> Outcome:
    """The outcome; what goes wrong with one claim's files is no reason to leave out the others."""
    try:
        return outcome(claim, data)
    except KitError as error:
        return Outcome(claim, " ".join(str(error).split()), False)


def stale(outcomes: Sequence[Outcome]) -> dict[Path, str]:
    """Pages that are not as they would be written, with the text they are to have.

    docs/claims.md comes with the recorded runs.
    """
    commands = _document(CLAIMS)["commands"]
    readme, artifact, makefile = (ROOT / name for name in ("README.md", "docs/artifact.md", "Makefile"))
    tables = {
        "commands": claims_pages.commands_table(commands),
        "cold start": claims_pages.cold_start_table(),
    }
    appendix = artifact.read_text(encoding="utf-8")
    for mark, table in tables.items():
        appendix = between(appendix, mark, table, artifact.name)
    results = claims_pages.results_table(commands)
    wanted = {
        readme: between(readme.read_text(encoding="utf-8"), "results", results, readme.name),
        artifact: appendix,
        makefile: claims_pages.makefile(makefile.read_text(encoding="utf-8"), commands),
    }
    wanted |= {PAGE: claims_pages.claims_page(outcomes)} if recorded() else {}
    return {
        path: text
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def input_digest(path: Path) -> str:
    """sha256 of a file, or of what `sha256sum` says of the files of a folder, in order of their paths."""
    return hashlib.sha256(frozen_list(path).encode()).hexdigest() if path.is_dir() else file_digest(path)


def changed_inputs() -> dict[str, tuple[str, str]]:
    """Inputs that are not those of the claims: name to stated and found sha256."""
    stated = _document(CLAIMS)["inputs"]
    found = {
        name: (str(entry["sha256"]), input_digest(ROOT / entry["path"])) for name, entry in stated.items()
    }
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


def stamp_inputs(text: str, changed: Mapping[str, tuple[str, str]]) -> str:
    """claims.yaml with the digests of its inputs as they are."""
    for name, (stated, found) in changed.items():
        text = re.sub(rf"^(  {name}: .*sha256: ){stated}\}}", rf"\g<1>{found}}}", text, flags=re.MULTILINE)
    return text


def main() -> int:
    """Verify, or write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--write",
        action="store_true",
        help="write digests of inputs, pages, make's help and, from their logs, the tables of recorded runs",
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help="third-party traces [default: ../shared/data]"
    )
    options = parser.parse_args()
    if options.write:
        for runs in ("pocket", "smollm2"):
            target = record_runs.target_of("table2", RECORDED / runs)
            write_documents(_recorded(runs, "table2"), "table2", target, RECORDED / runs / "tables")
        CLAIMS.write_text(
            stamp_inputs(CLAIMS.read_text(encoding="utf-8"), changed_inputs()), encoding="utf-8"
        )
    if options.data != DATA and not options.data.is_dir():
        parser.error(f"--data {options.data}: is no folder")
    outcomes = [tried(claim, options.data) for claim in load()]
    for o in outcomes:
        verdict = {True: "ok", False: "DIFFERS", None: "-"}[o.holds]
        print(f"{verdict:8}{o.claim['id']:28}{_detail(o)}")
    changed = changed_inputs()
    for name, (_, found) in changed.items():
        print(f"DIFFERS input {name} has sha256 {found}. Next: python scripts/verify_claims.py --write")
    pages = stale(outcomes)
    for path, text in pages.items():
        if options.write:
            path.write_text(text, encoding="utf-8")
        else:
            print(f"DIFFERS {path.relative_to(ROOT)}. Next: python scripts/verify_claims.py --write")
    wrong = [o for o in outcomes if o.holds is False]
    print(
        f"{sum(o.holds is True for o in outcomes)} claims hold, {len(wrong)} do not, "
        f"{sum(o.holds is None for o in outcomes)} cannot be derived here"
    )
    return 1 if wrong or changed or (pages and not options.write) else 0


def _detail(o: Outcome) -> str:
    if o.holds is None and o.claim["status"] == "imported":
        return f"skipped: {o.claim['trace']} is not at hand (--data DIR)"
    if o.holds is None and "check" in o.claim:
        return f"skipped: {POCKET.relative_to(ROOT)} is not recorded yet (scripts/record_runs.py)"
    if o.holds is None:
        return str(o.claim["status"])
    return f"expected {shown(o.claim['expected'], o.claim)}, found {shown(o.found, o.claim)}"


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KitError as error:
        print(f"verify-claims: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
