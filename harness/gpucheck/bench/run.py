"""Runs the sections one after another; a section that breaks is a failed expectation, not the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness import __version__
from harness.doctor.inventory import Nvml
from harness.errors import KitError
from harness.gpucheck.bench import sections as _sections  # noqa: F401  (they register themselves)
from harness.gpucheck.bench.model import SECTIONS, Bench, Expectation, SectionResult

KIND = "gpu-check/1"


@dataclass(frozen=True)
class CheckResult:
    """The whole check.

    Attributes:
        sections: (name, title, seconds taken, result) in the order they ran.
        load: What made the work.
    """

    nvml: Nvml
    load: str
    rehearsal: bool
    sections: tuple[tuple[str, str, float, SectionResult], ...]

    @property
    def expectations(self) -> list[Expectation]:
        """Those of all sections."""
        return [expectation for *_, result in self.sections for expectation in result.expectations]

    @property
    def failed(self) -> list[Expectation]:
        """Those that do not hold."""
        return [expectation for expectation in self.expectations if expectation.verdict == "fail"]

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object; nothing in it names a host, a user or a path."""
        return {
            "kind": KIND,
            "rehearsal": self.rehearsal,
            "kit_version": __version__,
            "driver": self.nvml.driver,
            "cuda": self.nvml.cuda,
            "gpus": [{"device_id": gpu.index, "model": gpu.model} for gpu in self.nvml.selected],
            "load": self.load,
            "failed": [expectation.id for expectation in self.failed],
            "sections": [
                {
                    "name": name,
                    "title": title,
                    "seconds": round(seconds, 1),
                    "expectations": [expectation.as_json() for expectation in result.expectations],
                    "data": result.data,
                }
                for name, title, seconds, result in self.sections
            ],
        }


def run_sections(bench: Bench, nvml: Nvml, only: Sequence[str] = ()) -> CheckResult:
    """Run all sections, or those named in `only`.

    Raises:
        KitError: There is no section of a name in `only`.
    """
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        raise KitError(f"there is no section {unknown[0]!r}", expected=f"one of {', '.join(SECTIONS)}")
    done = []
    for name, (title, run) in SECTIONS.items():
        if only and name not in only:
            continue
        bench.say(f"{name}: {title.lower()}")
        begun = time.monotonic()
        try:
            result = run(bench)
        except Exception as error:
            what = f"{type(error).__name__}: {error}" if not isinstance(error, KitError) else error.message
            broken = Expectation(
                f"{name}_ran", f"The section {name} runs to its end", "it does", what, "fail"
            )
            result = SectionResult((broken,))
        bench.results[name] = result
        done.append((name, title, time.monotonic() - begun, result))
        for expectation in result.expectations:
            bench.say(f"  {expectation.verdict:7} {expectation.title}: {expectation.observed}")
    return CheckResult(nvml, bench.load.name, bench.rehearsal, tuple(done))
