"""What the rules look at: a bundle's manifest, the facts of its files, its small tables, the
recomputation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from harness.accounting import UNATTRIBUTED
from harness.accounting.counter import GPU_MAX_W, LIMIT_FACTOR
from harness.accounting.item_scores import ItemScores
from harness.bundle import Bundle
from harness.bundle.derive import Derived
from harness.bundle.reader import records
from harness.errors import KitError
from harness.spec import Protocol, available_versions, short_version
from harness.spec.document import Problem
from harness.spec.versions import verdict
from harness.validate.power_facts import SeriesFacts
from harness.validate.scan import FileFacts

EVAL_KEY = ("stage_uid", "subject", "benchmark", "metric", "filter")


@dataclass
class Context:
    """Everything that is known of a bundle under validation.

    Attributes:
        folder: bundle folder.
        manifest: parsed manifest.json; an empty dict when it cannot be read.
        manifest_bytes: as on disk.
        problem: why the manifest cannot be read.
        protocol: the protocol it is judged by; levels 2 and above see its tables in this version.
        version: the protocol that wrote it, by which levels 0 and 1 judge; None when that is unknown.
        files: facts of the listed files, in the order of the manifest.
        links: listed paths that are links or lead outside.
        recomputed: levels 2 and above only.
        notes: what a rule could not check, and why.
    """

    folder: Path
    protocol: Protocol
    version: Protocol | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    manifest_bytes: bytes = b""
    problem: str | None = None
    files: list[FileFacts] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    recomputed: Derived[SeriesFacts] | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """Listed files by path; entries that are not objects with a path are left to rule E103."""
        listed = self.manifest.get("files")
        found = [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
        return {e["path"]: e for e in found if isinstance(e.get("path"), str)}

    @cached_property
    def bundle(self) -> Bundle:
        """The bundle, opened without touching it."""
        return Bundle(self.folder, self.manifest, self.protocol, self.written, [])

    @property
    def written(self) -> Protocol:
        """The protocol whose container and schema the files must have."""
        return self.version or self.protocol

    @cached_property
    def manifest_problems(self) -> list[Problem]:
        """Every difference between the manifest and its definition."""
        return self.written.manifest.problems(self.manifest)

    @cached_property
    def verdict(self) -> str:
        """What a reader does with the manifest's protocol version: accept, warn or refuse (6.5)."""
        version = self.manifest.get("protocol_version")
        try:
            found = verdict(self.protocol.version, version if isinstance(version, str) else "")
        except KitError:
            return "refuse"
        # An older version is read by its own definition, which this protocol root may not have.
        there = found != "accept" or short_version(str(version)) in available_versions()
        return found if there else "refuse"

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """All rows of stages."""
        return self.bundle.records("stages")

    @property
    def recorded(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and row of the stages that somebody began; unattributed rows are derived."""
        return ((i, row) for i, row in enumerate(self.stages) if row["stage"] != UNATTRIBUTED)

    @property
    def imported(self) -> bool:
        """Whether the run says that it comes from another tool's log."""
        return "imported" in self.manifest["labels"]

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """All rows of events."""
        return self.bundle.records("events")

    @cached_property
    def artifacts(self) -> list[dict[str, Any]]:
        """All rows of artifacts."""
        return self.bundle.records("artifacts")

    @cached_property
    def evals(self) -> list[dict[str, Any]]:
        """All rows of evals."""
        return self.bundle.records("evals")

    @cached_property
    def item_sums(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """Key of evals -> items, scored, mean, min, max and stddev (population) of its rows in eval_items."""
        if not any(facts.rows for facts in self.files if facts.table.table == "eval_items"):
            return {}  # grouping loads half of pyarrow
        table = self.bundle.table("eval_items", [*EVAL_KEY, "item", "score"])
        kinds = ("count", "mean", "min", "max", "stddev")
        sums = table.group_by(list(EVAL_KEY)).aggregate([("item", "count"), *(("score", k) for k in kinds)])
        return {
            tuple(row[name] for name in EVAL_KEY): {
                "items": row["item_count"],
                "scored": row["score_count"],
                **{kind: row[f"score_{kind}"] for kind in kinds[1:]},
            }
            for row in sums.to_pylist()
        }

    def items_of(self, key: tuple[Any, ...]) -> list[dict[str, Any]]:
        """Rows of eval_items with this key, in stored order."""
        return self._items.get(key, [])

    def grouped(self, row: dict[str, Any]) -> ItemScores | None:
        """The items of a row of evals; None where none of them has a group."""
        items = self.items_of(tuple(row[name] for name in EVAL_KEY))
        groups = [item["group"] for item in items]
        if not any(groups) or row["aggregation"] == "external":
            return None
        return ItemScores([item["score"] for item in items], groups, row["aggregation"])

    @cached_property
    def _items(self) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
        found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        wanted = [*EVAL_KEY, "item", "item_sha256", "score", "group"]
        for batch in self.bundle.iter_batches("eval_items", wanted):
            for row in batch.to_pylist():
                found.setdefault(tuple(row[name] for name in EVAL_KEY), []).append(row)
        return found

    @property
    def facts(self) -> Derived[SeriesFacts]:
        """The recomputation; rules of level 2 and above run only when there is one."""
        assert self.recomputed is not None
        return self.recomputed

    @cached_property
    def limits_mw(self) -> dict[int, int | None]:
        """Power limit of each device by the manifest."""
        return {d["device_id"]: d.get("power_limit_mw") for d in self.manifest["hardware"]["devices"]}

    @cached_property
    def most_mw(self) -> dict[int, float]:
        """More than each device draws: 1.25 times the largest limit that may have been in force."""
        changed = any(row["kind"] == "power_limit_change" for row in self.events)
        found: dict[int, float] = {}
        for device in self.manifest["hardware"]["devices"]:
            limits = [device.get("power_limit_mw"), device.get("default_power_limit_mw") if changed else None]
            known = [limit for limit in limits if limit]
            found[device["device_id"]] = LIMIT_FACTOR * max(known) if known else GPU_MAX_W * 1000
        return found

    @cached_property
    def boundary_rows(self) -> list[dict[str, Any]]:
        """Rows of counters that belong to a boundary, and ticks of devices beside one."""
        columns = ["node_id", "source", "device_id", "session", "t_us", "mono_us", "value", "boundary"]
        found: list[dict[str, Any]] = []
        for batch in self.bundle.iter_batches("counters", [*columns, "method"], encoded=True):
            marked = pc.or_(pc.is_valid(batch.column("boundary")), pc.equal(batch.column("method"), "tick"))
            found += records(batch.filter(marked))
        return found

    def named(self, row: Mapping[str, Any]) -> str:
        """A stage row in words."""
        attempt = f", attempt {row['attempt']}" if row["attempt"] != 1 else ""
        return f"{row['name']} (stage_uid {row['stage_uid']}, session {row['session']}{attempt})"


def device_spans(row: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    """Device, start and end in us of each device's window of a stage."""
    return zip(row["device_ids"], row["device_start_us"], row["device_end_us"], strict=False)
