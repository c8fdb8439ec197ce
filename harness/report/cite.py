"""How a run is cited: BibTeX of the log, of the paper whose protocol it follows, and of the kit."""

from __future__ import annotations

import re

from harness.report.model import RunReport
from harness.report.words import utc
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


def citations(report: RunReport) -> str:
    """BibTeX of the run and of the paper."""
    manifest = report.manifest
    run_id = str(manifest.get("run_id"))
    start = utc(min((int(line.row["t_start_us"]) for line in report.lines), default=0))
    lines = [
        f"@misc{{run-{re.sub('[^a-z0-9]', '', run_id.lower())},",
        f"  title = {{Energy log of {shown(manifest.get('name'), 'latex')}}},",
        f"  note  = {{Run {shown(run_id, 'latex')}, accounting protocol {report.protocol.version}}},",
        *([f"  year  = {{{start.year}}},"] if start is not None else []),
        "}",
    ]
    return "\n".join(lines) + "\n\n" + PAPER + "\n"
