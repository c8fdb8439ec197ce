"""What artifacts/claims.yaml writes: docs/claims.md, tables of README and docs/artifact.md, make's help.

Each function takes a text and returns it as it is to be; scripts/verify_claims.py compares and writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import KitError

ROOT = Path(__file__).resolve().parents[1]
COLD_START = ROOT / "artifacts" / "evidence" / "cold_start.json"
STATUSES = ("recomputed", "pocket", "imported", "reported", "not available")

INTRO = """\
# Claims of the paper and what stands behind them here

Written by `python scripts/verify_claims.py --write` from artifacts/claims.yaml; `make verify-claims` derives
what needs no GPU again and exits with 1 where it does not come out. *Recomputed* follows from the published
values by our accounting, *pocket* from the recorded runs in artifacts/runs and says nothing about OLMo-2,
*imported* from a trace that others published, where it is at hand (artifacts/claims.yaml has its sha256),
*reported* is as published and waits for a paper-size run, *not available* is in no public source. Inputs are
those with the sha256 in artifacts/claims.yaml. *Measured by* is the command that measures the value anew;
[artifact.md](artifact.md#hardware-time-cost) says which of them need a GPU and how long each takes."""

Value = float | str | bool | None


@dataclass(frozen=True)
class Outcome:
    """One claim beside what came out; `holds` is None where nothing can be derived here."""

    claim: Mapping[str, Any]
    found: Value
    holds: bool | None


def shown(value: Value, claim: Mapping[str, Any]) -> str:
    """A value with the claim's unit, four digits of it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:.4g} {claim.get('unit', '')}".strip()


def claims_page(outcomes: Sequence[Outcome]) -> str:
    """docs/claims.md."""
    counts = {status: sum(o.claim["status"] == status for o in outcomes) for status in STATUSES}
    lines = [
        *INTRO.splitlines(),
        "",
        f"{len(outcomes)} claims: "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
        + ".",
        "",
        "| claim | where | status | expected | here | measured by |",
        "|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        claim = o.claim
        expected = shown(claim.get("expected"), claim)
        expected += f", ± {claim['tolerance']:g}" if claim.get("tolerance") else ""
        # A page that is the same with and without the traces at hand.
        found = "from the trace" if claim["status"] == "imported" else shown(o.found, claim)
        command = f"`{claim['command']}`" if "command" in claim else ""
        cells = [claim["claim"], claim["where"], claim["status"], expected, found, command]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def commands_table(commands: Sequence[Mapping[str, Any]]) -> str:
    """What each command needs and takes."""
    rows = ["| Command | Needs a GPU | Hardware | Takes | Disk, network |", "|---|---|---|---|---|"]
    for row in commands:
        cells = [
            "yes" if row["needs_gpu"] else "no",
            row["hardware"],
            _cold(row, "takes"),
            _cold(row, "disk"),
        ]
        rows.append(f"| `make {row['target']}` | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def results_table(commands: Sequence[Mapping[str, Any]]) -> str:
    """README's table: what each target makes, where it was run, its time and its disk."""
    rows = ["| Target | Makes | Run so far | Takes | Disk |", "|---|---|---|---|---|"]
    for row in commands:
        if "makes" in row:
            cells = [row["makes"], row["run"], _cold(row, "takes"), _cold(row, "disk")]
            rows.append(f"| `make {row['target']}` | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def cold_start_table() -> str:
    """README's two commands from nothing, as they were timed, and where."""
    found = json.loads(COLD_START.read_text(encoding="utf-8"))
    rows = ["| from nothing | minutes | MB on disk |", "|---|---|---|"]
    rows += [
        f"| `make {r['target']}` | {r['minutes']:.1f} | {r['megabytes']:,.0f} |" for r in found["targets"]
    ]
    told = f"The second after the first; {found['where']}. Commit {found['commit'][:7]}, {found['date']}."
    return "\n".join([*rows, "", told, ""])


def _cold(row: Mapping[str, Any], field: str) -> str:
    text = str(row[field])
    if "{" not in text:
        return text
    found = json.loads(COLD_START.read_text(encoding="utf-8"))
    [timed] = [entry for entry in found["targets"] if entry["target"] == row["target"]]
    return text.format(minutes=f"{timed['minutes']:.1f}", megabytes=f"{timed['megabytes']:,.0f}")


def between(text: str, mark: str, table: str, name: str) -> str:
    """A page with another table between `<!-- MARK: ... -->` and `<!-- end of MARK -->`.

    Raises:
        KitError: The marks are not there.
    """
    found = re.fullmatch(rf"(.*<!-- {mark}:[^\n]*-->\n)(.*)(<!-- end of {mark} -->.*)", text, re.DOTALL)
    if found is None:
        raise KitError(
            f"has lost the marks of its {mark}",
            where=name,
            expected=f"<!-- {mark}: ... -->, <!-- end of {mark} -->",
        )
    return found[1] + table + found[3]


def makefile(text: str, commands: Sequence[Mapping[str, Any]]) -> str:
    """The Makefile with each target's help.

    Raises:
        KitError: It has no such target.
    """
    for row in commands:
        if "help" in row:
            target = row["target"].partition(" ")[0]
            pattern = rf"^({target}:[^#\n]*## ).*"
            text, count = re.subn(pattern, rf"\g<1>{row['help']}", text, flags=re.MULTILINE)
            if count != 1:
                raise KitError(f"has no target {target} with a help", where="Makefile")
    return text
