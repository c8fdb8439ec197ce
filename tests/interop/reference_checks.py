"""What the import tests look at in a result and a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.bundle import Bundle
from harness.interop.write import ImportResult
from harness.validate import validate

US = 1_000_000
Make = Callable[..., ImportResult]


def only(result: ImportResult) -> dict[str, Any]:
    """The one row of stages."""
    (row,) = result.stages
    return row


def assert_valid(result: ImportResult) -> None:
    """No finding of levels 0-2, but that a log has no sample times, or that two stages ran at once."""
    report = validate(result.folder, levels=(0, 1, 2))
    findings = [finding for finding in report.findings if finding.id not in ("E221", "W240")]
    assert not findings, "\n".join(f"{finding.id} {finding.message}" for finding in findings)


def events(result: ImportResult, kind: str) -> list[dict[str, Any]]:
    """Details of the events of a kind."""
    return [json.loads(row["detail"]) for row in result.events if row["kind"] == kind]


def everything(folder: Path) -> str:
    """Every text a bundle holds: the manifest, all string columns, all footers."""
    bundle = Bundle.open(folder)
    texts = [(folder / "manifest.json").read_text()]
    for name in bundle.protocol.tables:
        texts += [str(bundle.footer(path)) for path in bundle.files(name)]
        table = bundle.table(name)
        texts += [
            str(v)
            for c in table.schema
            if "string" in str(c.type)
            for v in set(map(str, table[c.name].to_pylist()))
        ]
    return "\n".join(texts)
