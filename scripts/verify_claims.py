"""Derive every claim of artifacts/claims.yaml that needs no GPU again, and compare.

    python scripts/verify_claims.py            # one line a claim; exit code 1 where one does not come out
    python scripts/verify_claims.py --write    # write docs/claims.md and README's table of results
    python scripts/verify_claims.py --data DIR # third-party traces lie there; otherwise ../shared/data

A claim is derived from the published values (artifacts/paper) by the kit's accounting, from the logs of
recorded runs (artifacts/runs, by scripts/record_runs.py), or from traces that others published and whose
licence does not let us store them here: derived where the file is at hand, by its sha256. Nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from make_seeds import telemetry

from harness.accounting.rounding import J_PER_KWH
from harness.advice.advise import Question, advise
from harness.advice.choices import published_choices
from harness.errors import KitError
from harness.experiments.documents import write_documents
from harness.experiments.grid import target as target_named
from harness.experiments.paper import published, published_break_even
from harness.experiments.pipelines import Layout
from harness.experiments.profile import load_profile
from harness.experiments.reproduce import CLAIM, Request
from harness.experiments.results import Results, collect
from harness.experiments.tables import as_json, grid_of
from harness.files import file_digest
from harness.interop.reference.importer import import_reference

ROOT = Path(__file__).resolve().parents[1]
CLAIMS, PAGE = ROOT / "artifacts" / "claims.yaml", ROOT / "docs" / "claims.md"
RECORDED = ROOT / "artifacts" / "runs"
POCKET = RECORDED / "pocket"
DATA = ROOT.parent / "shared" / "data"
README, FIRST, LAST = ROOT / "README.md", "<!-- results: make verify-claims -->", "<!-- end of results -->"
STATUSES = ("recomputed", "pocket", "imported", "reported", "not available")

INTRO = """\
# Claims of the paper and what stands behind them here

Written by `python scripts/verify_claims.py --write` from artifacts/claims.yaml; `make verify-claims` derives
what needs no GPU again and exits with 1 where it does not come out. *Recomputed* follows from the published
values by our accounting, *pocket* from the recorded runs in artifacts/runs and says nothing about OLMo-2,
*imported* from a trace that others published, where it is at hand (artifacts/claims.yaml has its sha256),
*reported* is as published and waits for a paper-size run, *not available* is in no public source."""

Value = float | str | bool | None


@dataclass(frozen=True)
class Outcome:
    """One claim beside what came out; `holds` is None where nothing can be derived here."""

    claim: Mapping[str, Any]
    found: Value
    holds: bool | None


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
    request = Request(target, target_named(target), load_profile(own[0] if own else runs), folder)
    return collect(request.profile, request.cells, Layout(folder.absolute(), {}))


def recorded_cells(runs: str, target: str) -> Value:
    """Figures of a recorded table that its logs do not give to nine digits; each is printed."""
    stored = json.loads((RECORDED / runs / "tables" / f"{target}.json").read_text(encoding="utf-8"))
    fresh = json.loads(json.dumps(as_json(_recorded(runs, target), target)))
    if not stored["cells"]:
        return None
    wrong = list(differences(stored, fresh))
    for where, recorded, found in wrong:
        print(f"DIFFERS {runs} {target} {where}: {recorded} recorded, {found} from the logs")
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
    return telemetry(trace).counter_j / J_PER_KWH


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
        pocket_dearer,
        imported_kwh,
        counter_kwh,
    )
}


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def load(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """The claims, each with a known status, and a known check where it has one."""
    claims: list[dict[str, Any]] = _document(path)["claims"]
    for claim in claims:
        if claim["status"] not in STATUSES or claim.get("check", "relative") not in CHECKS:
            raise SystemExit(f"{path.name}: {claim['id']}: unknown status or check")
        derived = claim["status"] in ("recomputed", "pocket", "imported")
        if ("check" in claim) != derived or ("sha256" in claim) != (claim["status"] == "imported"):
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


def page(outcomes: Sequence[Outcome]) -> str:
    """docs/claims.md."""
    counts = {status: sum(o.claim["status"] == status for o in outcomes) for status in STATUSES}
    lines = [
        *INTRO.splitlines(),
        "",
        f"{len(outcomes)} claims: "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
        + ".",
        "",
        "| claim | where | status | expected | here | command |",
        "|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        claim = o.claim
        cells = [claim["claim"], claim["where"], claim["status"]]
        # A page that is the same with and without the traces at hand.
        found = "from the trace" if claim["status"] == "imported" else _shown(o.found, claim)
        cells += [_shown(claim.get("expected"), claim), found]
        cells.append(f"`{claim['command']}`" if "command" in claim else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def results_table(path: Path = CLAIMS) -> str:
    """README's table: what each target makes, where it was run, and how long it takes."""
    rows = ["| Target | Makes | Run so far | Takes |", "|---|---|---|---|"]
    for row in _document(path)["results"]:
        rows.append(f"| `make {row['target']}` | {row['makes']} | {row['run']} | {row['takes']} |")
    return "\n".join(rows) + "\n"


def readme(text: str) -> str:
    """README with the table between its marks.

    Raises:
        KitError: The marks are not there.
    """
    head, first, rest = text.partition(FIRST)
    _, last, tail = rest.partition(LAST)
    if not first or not last:
        raise KitError("has lost the marks of its table", where=README.name, expected=f"{FIRST} ... {LAST}")
    return f"{head}{FIRST}\n{results_table()}{LAST}{tail}"


def _shown(value: Value, claim: Mapping[str, Any]) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:.4g} {claim.get('unit', '')}".strip()


def stale(outcomes: Sequence[Outcome]) -> dict[Path, str]:
    """Pages that are not as they would be written, with the text they are to have.

    docs/claims.md comes with the recorded runs.
    """
    wanted = {README: readme(README.read_text(encoding="utf-8"))}
    wanted |= {PAGE: page(outcomes)} if recorded() else {}
    return {
        path: text
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main() -> int:
    """Verify, or write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--write",
        action="store_true",
        help="write docs/claims.md, README's table and, from their logs, the tables of recorded runs",
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help="third-party traces [default: ../shared/data]"
    )
    options = parser.parse_args()
    if options.write:
        for runs in ("pocket", "smollm2"):
            write_documents(
                _recorded(runs, "table2"), "table2", target_named("table2"), RECORDED / runs / "tables"
            )
    outcomes = [tried(claim, options.data) for claim in load()]
    for o in outcomes:
        verdict = {True: "ok", False: "DIFFERS", None: "-"}[o.holds]
        print(f"{verdict:8}{o.claim['id']:28}{_detail(o)}")
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
    return 1 if wrong or (pages and not options.write) else 0


def _detail(o: Outcome) -> str:
    if o.holds is None and o.claim["status"] == "imported":
        return f"skipped: {o.claim['trace']} is not at hand (--data DIR)"
    if o.holds is None and "check" in o.claim:
        return f"skipped: {POCKET.relative_to(ROOT)} is not recorded yet (scripts/record_runs.py)"
    if o.holds is None:
        return str(o.claim["status"])
    return f"expected {_shown(o.claim['expected'], o.claim)}, found {_shown(o.found, o.claim)}"


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KitError as error:
        print(f"verify-claims: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
