"""The check's result as files: JSON to compute with, Markdown to read."""

from __future__ import annotations

import json
import re
from pathlib import Path

from harness import __version__
from harness.gpucheck.bench.run import CheckResult
from harness.gpucheck.probe.figures import HONESTY

_REHEARSAL = "REHEARSAL: the work ran on the CPU; nothing here says anything about a GPU."


def write_result(result: CheckResult, folder: Path) -> tuple[Path, Path]:
    """Write `<model>-<driver>.json` and `.md` into `folder`; a rehearsal's names say so.

    Returns:
        The two files.
    """
    models = sorted({gpu.model or "gpu" for gpu in result.nvml.selected}) or ["gpu"]
    stem = _slug("-".join([*models, result.nvml.driver or "unknown"]))
    if result.rehearsal:
        stem = f"rehearsal-{stem}"
    folder.mkdir(parents=True, exist_ok=True)
    data, text = folder / f"{stem}.json", folder / f"{stem}.md"
    data.write_text(json.dumps(result.as_json(), indent=1) + "\n", encoding="utf-8")
    text.write_text(as_markdown(result), encoding="utf-8")
    return data, text


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def as_markdown(result: CheckResult) -> str:
    """The readable report."""
    models = ", ".join(f"{gpu.index}: {gpu.model}" for gpu in result.nvml.selected)
    title = "GPU check (rehearsal)" if result.rehearsal else "GPU check"
    lines = [f"# {title}: {models}", ""]
    if result.rehearsal:
        lines += [f"**{_REHEARSAL}**", ""]
    verdicts = [expectation.verdict for expectation in result.expectations]
    lines += [
        f"Driver {result.nvml.driver}, CUDA {result.nvml.cuda}, kit {__version__}, load by {result.load}. "
        f"{verdicts.count('pass')} expectations hold, {verdicts.count('fail')} do not, "
        f"{verdicts.count('not run')} could not be tried.",
        "",
        "| expectation | bar | observed | verdict |",
        "|---|---|---|---|",
    ]
    for expectation in result.expectations:
        mark = {"pass": "holds", "fail": "**does not hold**", "not run": "not tried"}[expectation.verdict]
        lines.append(f"| {expectation.title} | {expectation.bar} | {expectation.observed} | {mark} |")
    for name, heading, seconds, section in result.sections:
        lines += ["", f"## {heading}", "", f"Section `{name}`, {seconds:.0f} s."]
        for caption, header, rows in section.tables:
            lines += ["", f"{caption}:", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
            lines += [f"| {' | '.join(row)} |" for row in rows]
        if section.text:
            lines += ["", "```", section.text, "```"]
    return "\n".join([*lines, "", HONESTY, ""])
