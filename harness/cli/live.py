"""A running run in words for a terminal, and as OpenMetrics on the loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from textwrap import wrap

from harness.accounting.rounding import quantity
from harness.audit.live_run import Snapshot
from harness.errors import KitError

LATE_S = 5.0
"""A reading this old is worth a word: the protocol's period is half a second."""
_UNITS = ("joules", "watts", "seconds", "tokens")
_HARD = "\0"
"""Stands for a space at which no line breaks."""
_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def pieces(now: Snapshot) -> list[str]:
    """The figures beside stage, time and tokens, each short enough for any terminal."""
    from harness.cli.console import duration

    mark = "~" if now.estimated else ""
    found = [f"{mark}{quantity(watts, 'W')} {source}" for source, watts in now.watts.items()]
    found += [f"{mark}{quantity(joules, 'J')} {source}" for source, joules in now.joules.items()]
    if now.per_token is not None and now.counted is not None:
        found.append(f"{mark}{quantity(now.per_token, 'J')}/token {now.counted.removeprefix('tokens_')}")
    if now.per_s is not None:
        found.append(f"{now.per_s:,.0f} tokens/s")
    if now.progress is not None:
        found.append(f"{now.progress[0]:,} of {now.progress[1]:,}")
    if now.eta_s is not None:
        found.append(f"ETA {duration(now.eta_s)}")
    if now.last_sample_s is None:
        found.append("no sample yet")
    elif now.last_sample_s > LATE_S:
        found.append(f"NO SAMPLE FOR {now.last_sample_s:.0f} s")
    else:
        found.append("samples come")
    if now.warnings:
        found.append(f"{now.warnings} warning{'s' if now.warnings > 1 else ''}")
    return found


def packed(words: list[str], width: int) -> list[str]:
    """Pieces in lines of at most `width` characters, none of them broken unless it is longer by itself."""
    whole = "  ".join(word.replace(" ", _HARD) for word in words)
    return [line.replace(_HARD, " ") for line in wrap(whole, width, break_on_hyphens=False)]


def openmetrics(now: Snapshot, run: str) -> str:
    """A snapshot in the OpenMetrics text format; what is unknown is left out."""
    lines: list[str] = []

    def metric(name: str, kind: str, about: str, samples: dict[str, float]) -> None:
        unit = name.rsplit("_", 1)[-1]
        if samples:
            lines.append(f"# TYPE {name} {kind}")
            lines.extend([f"# UNIT {name} {unit}"] if unit in _UNITS else [])
            lines.append(f"# HELP {name} {about}")
            end = "_total" if kind == "counter" else ""
            lines.extend(f"{name}{end}{{{labels}}} {value:.9g}" for labels, value in samples.items())

    base = f'run="{_label(run)}"'
    if now.stage is not None:
        stage = f'{base},stage="{_label(now.stage[0])}",kind="{_label(now.stage[1])}",attempt="{now.attempt}"'
        estimated = f'estimated="{str(now.estimated).lower()}"'
        joules = {f'{stage},source="{_label(s)}",{estimated}': j for s, j in now.joules.items()}
        watts = {f'{stage},source="{_label(s)}",{estimated}': w for s, w in now.watts.items()}
        tokens = {f'{stage},count="{_label(n.removeprefix("tokens_"))}"': c for n, c in now.tokens.items()}
        metric("kit_stage_elapsed_seconds", "gauge", "Time since the stage began.", {stage: now.elapsed_s})
        metric("kit_stage_energy_joules", "counter", "Metered since the stage began.", joules)
        metric("kit_power_watts", "gauge", "Mean of the last seconds.", watts)
        metric("kit_stage_tokens", "counter", "Reported by the stage.", dict(tokens))
        if now.eta_s is not None:
            metric("kit_stage_left_seconds", "gauge", "At the stage's mean rate.", {stage: now.eta_s})
    if now.last_sample_s is not None:
        metric("kit_sample_age_seconds", "gauge", "Age of the newest reading.", {base: now.last_sample_s})
    metric("kit_warnings", "counter", "Events of the run that are no information.", {base: now.warnings})
    return "\n".join([*lines, "# EOF", ""])


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class MetricsServer:
    """Serves the newest snapshot at http://127.0.0.1:PORT/metrics; nothing outside this machine reaches it.

    Raises:
        KitError: The port is taken.
    """

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path in ("/", "/metrics")
                body = text().encode() if found else b"/metrics is here\n"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", _TYPE if found else "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise KitError(
                f"port {port} cannot be used: {error.strerror}", where="--openmetrics", fix="another port"
            ) from None
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
