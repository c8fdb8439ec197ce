"""How a run is cited: BibTeX of the log, of the paper whose protocol it follows, and of the kit."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from harness.report.model import RunReport
from harness.text import shown

PAPER = """@inproceedings{lambert2026resource,
  title     = {Towards Resource-Efficient {LLMs}: End-to-End Energy Accounting of Distillation Pipelines},
  author    = {Lambert, Katherine and Luccioni, Sasha},
  booktitle = {Proceedings of the 43rd International Conference on Machine Learning},
  volume    = {306},
  year      = {2026},
  note      = {arXiv:2605.13981}
}"""
"""The paper, as CITATION.cff names it."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def tex(text: str) -> str:
    """Any text as LaTeX prints it."""
    return re.sub(r"[\\{}$&#%_~^]", lambda mark: _SPECIAL[mark[0]], shown(text))


def citations(report: RunReport) -> str:
    """BibTeX of the run and of the paper."""
    manifest = report.manifest
    run_id = str(manifest.get("run_id"))
    start = min((int(line.row["t_start_us"]) for line in report.lines), default=0)
    year = datetime.fromtimestamp(start / 1e6, UTC).year if 0 < start < 4e15 else None
    lines = [
        f"@misc{{run-{run_id.lower()},",
        f"  title = {{Energy log of {tex(str(manifest.get('name')))}}},",
        f"  note  = {{Run {run_id}, accounting protocol {report.protocol_version}}},",
        *([f"  year  = {{{year}}},"] if year is not None and year >= 2000 else []),
        "}",
    ]
    return "\n".join(lines) + "\n\n" + PAPER + "\n"
