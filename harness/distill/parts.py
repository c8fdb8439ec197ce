"""Parts of a stage, such as one benchmark: rows of their own under the stage's, with their tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from harness.api import synchronize_devices
from harness.distill.reporting import report_event, report_tokens
from harness.meter.clocks import mono_us
from harness.models.generation import TokenWork


@contextmanager
def part(name: str, kind: str, work: TokenWork) -> Iterator[None]:
    """A part of the running stage; what is added to `work` inside is reported as its tokens.

    Args:
        name: Of the part's row.
        kind: Its stage kind.
        work: Counts of the whole program so far.
    """
    before = TokenWork(work.processed, work.positions, work.generated)
    status = "failed"
    metered = bool(os.environ.get("KIT_EVENTS"))
    if metered:
        synchronize_devices()
        report_event("substage_begin", name=name, kind=kind, mono_us=mono_us())
    try:
        yield
        status = "completed"
    finally:
        report_tokens(
            processed=work.processed - before.processed,
            positions=work.positions - before.positions,
            generated=work.generated - before.generated,
        )
        if metered:
            synchronize_devices(quiet=True)
            report_event("substage_end", name=name, status=status, mono_us=mono_us())
