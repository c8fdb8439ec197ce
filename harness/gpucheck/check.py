"""The GPU check: sections of known work on a real card, audited by the meter; a bar for every finding.

Only a real GPU gives these findings a meaning; a rehearsal (`scripts/gpu_check.py --cpu-rehearsal`) shows
that the programs work.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness import __version__
from harness.bundle import scrub, scrub_value
from harness.doctor.inventory import GpuFacts, Nvml
from harness.errors import KitError
from harness.gpucheck.loader import Load
from harness.gpucheck.probe.analyse import HONESTY

LIMIT_S = 480.0
"""The whole check is to end within eight minutes."""

_SHORTEST_S = 0.35
_REHEARSAL = "REHEARSAL: the work ran on the CPU; nothing here says anything about a GPU."
_MARKS = {"pass": "holds", "fail": "**does not hold**", "not run": "not tried"}

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Caption, header, rows."""


@dataclass(frozen=True)
class Expectation:
    """Something that should hold, the bar it is held to, and what was observed."""

    id: str
    title: str
    bar: str
    observed: str
    verdict: Literal["pass", "fail", "not run"]


def judged(id: str, title: str, bar: str, observed: str, holds: bool | None) -> Expectation:
    """An expectation; `holds` None for one that could not be tried."""
    return Expectation(id, title, bar, observed, "not run" if holds is None else "pass" if holds else "fail")


@dataclass(frozen=True)
class SectionResult:
    """What a section found.

    Attributes:
        data: Its figures, units in the keys.
        tables: For the readable report.
        text: Further lines for it, printed as they are.
        predicted: Rows of the table at the report's end, by `predicted_row`.
    """

    expectations: Sequence[Expectation] = ()
    data: dict[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    text: str = ""
    predicted: Sequence[Sequence[str]] = ()


@dataclass
class Bench:
    """What a section works with.

    Attributes:
        folder: Where runs may be written; removed at the end.
        load: Makes the work; its memory is taken only while a section uses it.
        rehearsal: Whether this is a rehearsal without a real GPU.
        scale: Factor on every duration.
        say: Tells the person watching.
        gpus: The GPUs that the check may use.
        results: Of the sections before, by name.
        begun: When the check began, by the monotonic clock.
    """

    folder: Path
    load: Load
    rehearsal: bool
    scale: float
    say: Callable[[str], None]
    gpus: tuple[GpuFacts, ...] = ()
    results: dict[str, SectionResult] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def seconds(self, nominal: float) -> float:
        """A duration, scaled; never so short that a stage would lie within a few refreshes."""
        return max(_SHORTEST_S, nominal * self.scale)

    def left_s(self) -> float:
        """What is left of the time that the whole check may take."""
        return LIMIT_S * max(1.0, self.scale) - (time.monotonic() - self.begun)

    def predicted(self) -> list[Sequence[str]]:
        """What was predicted beside what was measured, of all sections so far."""
        return [row for done in self.results.values() for row in done.predicted]


Sections = Mapping[str, tuple[str, Callable[[Bench], SectionResult]]]
"""Title and function of each section by its name, in the order they run."""


def run_check(bench: Bench, nvml: Nvml, sections: Sections, only: Sequence[str], folder: Path) -> list[str]:
    """Run the sections, or those named in `only`, and write `<model>-<driver>.json` and `.md` into `folder`.

    A section that breaks is a failed expectation, not the end. A rehearsal's files say in their names that
    they are one.

    Returns:
        The ids of the expectations that do not hold.

    Raises:
        KitError: There is no section of a name in `only`.
    """
    unknown = [name for name in only if name not in sections]
    if unknown:
        raise KitError(f"there is no section {unknown[0]!r}", expected=f"one of {', '.join(sections)}")
    seconds: dict[str, float] = {}
    failed: list[str] = []
    stem = ""
    for name in [name for name in sections if not only or name in only]:
        title, run = sections[name]
        bench.say(f"{name}: {title.lower()}")
        begun = time.monotonic()
        try:
            result = run(bench)
        except Exception as error:
            what = error.message if isinstance(error, KitError) else f"{type(error).__name__}: {error}"
            broken = judged(f"{name}_ran", f"The section {name} runs to its end", "it does", what, False)
            result = SectionResult((broken,))
        bench.results[name] = result
        seconds[name] = time.monotonic() - begun
        for expectation in result.expectations:
            bench.say(f"  {expectation.verdict:7} {expectation.title}: {expectation.observed}")
        # After each section: who is cut off keeps what came before.
        failed, stem = _write(bench, nvml, sections, seconds, folder)
    if predicted := bench.predicted():
        bench.say(f"{_PREDICTED}:")
        for line in (PREDICTED_HEADER, *predicted):
            bench.say("  " + "  ".join(f"{cell:>11}" if n else f"{cell:<21}" for n, cell in enumerate(line)))
    bench.say(
        f"{len(failed) or 'no'} expectation{'s' * (len(failed) != 1)} failed; "
        f"see {folder / f'{stem}.md'} and {stem}.json"
    )
    return failed


def _write(
    bench: Bench, nvml: Nvml, sections: Sections, seconds: Mapping[str, float], folder: Path
) -> tuple[list[str], str]:
    """Write what there is so far; returns the ids that failed, and the files' name."""
    expectations = [one for done in bench.results.values() for one in done.expectations]
    failed = [one.id for one in expectations if one.verdict == "fail"]
    result_json = {
        "kind": "gpu-check/1",
        "rehearsal": bench.rehearsal,
        "kit_version": __version__,
        "driver": nvml.driver,
        "cuda": nvml.cuda,
        "gpus": [{"device_id": gpu.index, "model": gpu.model} for gpu in nvml.selected],
        "load": bench.load.name,
        "failed": failed,
        "sections": [
            {
                "name": name,
                "title": sections[name][0],
                "seconds": round(seconds[name], 1),
                "expectations": [asdict(expectation) for expectation in done.expectations],
                "data": done.data,
            }
            for name, done in bench.results.items()
        ],
    }
    models = sorted({gpu.model or "gpu" for gpu in nvml.selected}) or ["gpu"]
    stem = re.sub(r"[^a-z0-9.]+", "-", "-".join([*models, nvml.driver or "unknown"]).lower()).strip("-")
    stem = f"rehearsal-{stem}" if bench.rehearsal else stem
    folder.mkdir(parents=True, exist_ok=True)
    # What a library says when it fails may name a host, a user or a path.
    (folder / f"{stem}.json").write_text(
        json.dumps(scrub_value(result_json), indent=1) + "\n", encoding="utf-8"
    )
    (folder / f"{stem}.md").write_text(scrub(_markdown(result_json, bench)), encoding="utf-8")
    return failed, stem


def _markdown(result: Mapping[str, Any], bench: Bench) -> str:
    """The readable report."""
    gpus = ", ".join(f"{gpu['device_id']}: {gpu['model']}" for gpu in result["gpus"])
    lines = [f"# GPU check{' (rehearsal)' * bench.rehearsal}: {gpus}", ""]
    if bench.rehearsal:
        lines += [f"**{_REHEARSAL}**", ""]
    expectations = [one for section in bench.results.values() for one in section.expectations]
    verdicts = [expectation.verdict for expectation in expectations]
    lines += [
        f"Driver {result['driver']}, CUDA {result['cuda']}, kit {__version__}, load by {result['load']}. "
        f"{verdicts.count('pass')} expectations hold, {verdicts.count('fail')} do not, "
        f"{verdicts.count('not run')} could not be tried.",
        "",
    ]
    rows = [(one.title, one.bar, one.observed, _MARKS[one.verdict]) for one in expectations]
    lines += _table(("expectation", "bar", "observed", "verdict"), rows)
    for section in result["sections"]:
        done = bench.results[section["name"]]
        lines += ["", f"## {section['title']}", ""]
        lines += [f"Section `{section['name']}`, {section['seconds']:.0f} s."]
        for caption, header, body in done.tables:
            lines += ["", f"{caption}:", "", *_table(header, body)]
        if done.text:
            lines += ["", "```", done.text, "```"]
    lines += ["", HONESTY]
    if predicted := bench.predicted():
        lines += ["", f"## {_PREDICTED}", "", *_table(PREDICTED_HEADER, predicted)]
    return "\n".join([*lines, ""])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    # What a library says when it fails has lines and bars of its own.
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    first, *others = [f"| {' | '.join(row)} |" for row in cells]
    return [first, "|---" * len(header) + "|", *others]


def shown(value: float | None, form: str = "{:.2f}") -> str:
    """A figure in the given form; "unknown" where there is none."""
    return "unknown" if value is None else form.format(value)


def percent(share: float | None) -> str:
    """A share in per cent."""
    return shown(None if share is None else 100 * share, "{:.3g} %")


_PREDICTED = "Predicted against measured: a step of each case, the engine's whole queue"
PREDICTED_HEADER = (
    *("case", "s planned", "s measured", "off", "J planned", "J measured", "off"),
    *("GB stated", "GB measured", "off"),
)


def predicted_row(case: str, *pairs: tuple[float, float | None]) -> list[str]:
    """A row of `PREDICTED_HEADER`: what was planned, what was measured, and how far that is off.

    Args:
        case: What it is of.
        pairs: Planned and measured seconds, joules and GB, as far as they were planned.
    """
    row = [case]
    for said, found in pairs:
        off = None if found is None else found / said - 1
        row += [shown(said, "{:.3f}"), shown(found, "{:.3f}"), shown(off, "{:+.0%}")]
    return row + ["-"] * (len(PREDICTED_HEADER) - len(row))
