"""Random single edits of a valid bundle by a forger who gets every digest right, and whether they are caught.

An edit counts as material when it moves a figure of `kit report --format json` (or a score) by more than that
figure's interval, or takes a figure away. It is caught when levels 0 to 3 have an error or warning.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.bundle import Bundle, canonical_json, logical_digest
from harness.bundle.derive import derive_bundle
from harness.report.formats import as_dict
from harness.report.model import Options, build
from harness.spec import load_protocol
from harness.validate import validate

NUMERIC = ("int", "uint", "float64", "list<int", "list<float")
KINDS = ("scale", "offset", "digits", "sign", "null", "swap")
UTC_SLACK_US = 500_000
"""A time of day has no interval of its own; below this the protocol calls two clocks one (3.2)."""

_NOT_FIGURES = ("differences", "rows_missing_or_extra", "notes", "hardware", "labels", "flags", "boundary")
_FOLLOW = (
    "score_min",
    "score_max",
    "share_of_it_energy",
    "gpu_sensor_half_width_j",
    "stage_uid",
    "session",
    "attempt",
    "parent_uid",
)
"""Left out: remarks, names of things, and what is a quotient or share of other figures in the list."""

Figures = dict[str, tuple[float | None, float]]
"""Name of a figure -> value and the distance from it that does not matter."""


@dataclass(frozen=True)
class Edit:
    """One edit: of a table's column (`place` is row and list position), or of a field of the manifest."""

    table: str
    column: str
    place: tuple[int, ...]
    kind: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.table}.{self.column}{list(self.place)} {self.kind}: {self.before!r} -> {self.after!r}"


@dataclass(frozen=True)
class Outcome:
    """What an edit did and who noticed."""

    edit: Edit
    material: bool
    moved: str
    caught: tuple[str, ...]


class Forger:
    """Edits copies of one bundle.

    Args:
        folder: the untouched bundle; every table is one file.
        work: folder for the copies.
        rederive: whether the forger also derives the columns of `stages` again from what was edited.
    """

    def __init__(self, folder: Path, work: Path, *, rederive: bool = False) -> None:
        self._folder = folder
        self._work = work
        self._rederive = rederive
        self._protocol = load_protocol()
        self.tables = {name: pq.read_table(folder / f"{name}.parquet") for name in self._protocol.tables}
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        self.figures = figures(folder)

    def targets(self) -> list[tuple[str, str]]:
        """Every numeric column that has a value, numeric fields of the manifest, and counts inside events."""
        found = [
            (name, column.name)
            for name, table in self.tables.items()
            for column in self._protocol.tables[name].columns
            if column.type.startswith(NUMERIC) and table.column(column.name).null_count < table.num_rows
        ]
        found.append(("events", "detail"))
        return found + [("manifest", path) for path, _ in _leaves(self.manifest) if _editable(path)]

    def edit(self, rng: np.random.Generator, target: tuple[str, str]) -> Edit | None:
        """A random edit of a target; None when it would change nothing or not fit the column."""
        name, column = target
        kind = str(rng.choice(KINDS))
        if name == "manifest":
            before = dict(_leaves(self.manifest))[column]
            changed = _changed(rng, kind, before, before)
            return None if changed == before else Edit(name, column, (), kind, before, changed)
        if column == "detail":
            return self._detail_edit(rng, kind)
        table = self.tables[name].column(column)
        rows = [i for i, value in enumerate(table.to_pylist()) if value is not None and value != []]
        if not rows:
            return None
        row, other = (int(rng.choice(rows)) for _ in range(2))
        before, donor = table[row].as_py(), table[other].as_py()
        place: tuple[int, ...] = (row,)
        if isinstance(before, list):
            at = int(rng.integers(len(before)))
            after_item = _changed(rng, kind, before[at], donor[min(at, len(donor) - 1)])
            # A list without one of its values cannot be written; the list itself can be missing.
            after: Any = None if after_item is None else [*before[:at], after_item, *before[at + 1 :]]
            place = (row, at)
        else:
            after = _changed(rng, kind, before, donor)
        if after == before or not _fits(after, table.type):
            return None
        return Edit(name, column, place, kind, before, after)

    def _detail_edit(self, rng: np.random.Generator, kind: str) -> Edit | None:
        details = self.tables["events"].column("detail").to_pylist()
        rows = [
            i for i, text in enumerate(details) if text and any(_number(v) for v in json.loads(text).values())
        ]
        row = int(rng.choice(rows))
        detail = json.loads(details[row])
        name = str(rng.choice([key for key, value in detail.items() if _number(value)]))
        after = _changed(rng, kind, detail[name], detail[name])
        if after == detail[name]:
            return None
        changed = canonical_json({**detail, name: after}).decode()
        return Edit("events", "detail", (row,), kind, details[row], changed)

    def forge(self, edit: Edit) -> Path:
        """A copy of the bundle with the edit in it and every digest right."""
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._folder, self._work)
        manifest = json.loads(json.dumps(self.manifest))
        if edit.table == "manifest":
            _put(manifest, edit.column, edit.after)
        else:
            table = self.tables[edit.table]
            field = table.schema.field(edit.column)
            column = table.column(edit.column).combine_chunks()
            row = edit.place[0]
            new = pa.concat_arrays([column[:row], pa.array([edit.after], field.type), column[row + 1 :]])
            at = table.schema.get_field_index(edit.column)
            self._write(manifest, edit.table, table.set_column(at, field.with_nullable(True), new))
        (self._work / "manifest.json").write_bytes(canonical_json(manifest))
        derived = self._protocol.tables["stages"].derived
        if self._rederive and not (edit.table == "stages" and edit.column in derived):
            self._derive(manifest)
        return self._work

    def _derive(self, manifest: dict[str, Any]) -> None:
        try:
            rows = derive_bundle(Bundle.open(self._work)).stages
            table = pa.Table.from_pylist(rows, self._protocol.arrow_schema("stages"))
        except Exception:
            return  # rows out of all reason: the forger leaves the columns as they were
        meta = pq.ParquetFile(self._work / "stages.parquet").metadata.metadata
        self._write(manifest, "stages", table.replace_schema_metadata(meta))
        (self._work / "manifest.json").write_bytes(canonical_json(manifest))

    def _write(self, manifest: dict[str, Any], name: str, table: pa.Table) -> None:
        path = self._work / f"{name}.parquet"
        stored = pq.ParquetFile(path).metadata.metadata
        meta = {key: value for key, value in stored.items() if key.startswith(b"distill_energy.")}
        try:
            digest = logical_digest(table, self._protocol.arrow_schema(name))
        except Exception:
            digest = "0" * 64
        meta[b"distill_energy.logical_sha256"] = digest.encode()
        pq.write_table(table.replace_schema_metadata(meta), path)
        data = path.read_bytes()
        entry = next(e for e in manifest["files"] if e["path"] == path.name)
        entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), logical_sha256=digest)
        entry["rows"] = table.num_rows

    def trial(self, edit: Edit) -> Outcome:
        """Make the edit, see what it moves and who notices."""
        folder = self.forge(edit)
        try:
            moved = difference(self.figures, figures(folder))
        except Exception as error:
            moved = f"no report: {type(error).__name__}"
        report = validate(folder, levels=(0, 1, 2, 3), threads=1)
        return Outcome(edit, bool(moved), moved, tuple(dict.fromkeys(f.id for f in report.findings)))

    def trials(self, rng: np.random.Generator, count: int) -> Iterator[Outcome]:
        """`count` random edits, every target equally likely."""
        targets = self.targets()
        done = 0
        while done < count:
            edit = self.edit(rng, targets[int(rng.integers(len(targets)))])
            if edit is not None:
                done += 1
                yield self.trial(edit)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers of a JSON document with their dotted paths."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    elif _number(value):
        yield path, value


def _editable(path: str) -> bool:
    """Digests, sizes and row counts are the forger's to get right, not to edit."""
    return not path.startswith("files.")


def _put(document: Any, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for part in parents:
        document = document[int(part)] if isinstance(document, list) else document[part]
    document[int(last) if isinstance(document, list) else last] = value


def _changed(rng: np.random.Generator, kind: str, value: Any, donor: Any) -> Any:
    whole = isinstance(value, int)
    if kind == "null":
        return None
    if kind == "swap":
        return donor
    if kind == "sign":
        return -value
    if kind == "digits":
        return _swap_digits(rng, value)
    if kind == "scale":
        new = value * float(rng.choice([0.001, 0.5, 0.9, 0.97, 1.03, 1.1, 2.0, 10.0, 1000.0]))
    else:
        size = 10 ** float(rng.uniform(-2, 1)) * max(abs(value), 1)
        new = value + float(rng.choice([-1, 1])) * size
    return round(new) if whole else new


def _swap_digits(rng: np.random.Generator, value: Any) -> Any:
    text = list(repr(value))
    places = [i for i, c in enumerate(text) if c.isdigit()]
    if len(places) < 2 or "e" in text or "." in text[: len(text) - len(places)]:
        return value
    i = int(rng.integers(len(places) - 1))
    a, b = places[i], places[i + 1]
    text[a], text[b] = text[b], text[a]
    digits = "".join(text)
    return int(digits) if isinstance(value, int) else float(digits)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def figures(folder: Path) -> Figures:
    """Every number a reader is given: the report's, and the scores."""
    report = as_dict(build(folder, Options(pue=1.2, amortize=4)))
    stages = {f"{s['name']}#{s['session']}#{s['attempt']}": s for s in report.pop("stages")}
    out: Figures = {}
    _collect({**{k: v for k, v in report.items() if k not in _NOT_FIGURES}, "stages": stages}, "", out)
    for row in Bundle.open(folder).table("evals").to_pylist():
        name = f"score.{row['subject']}.{row['benchmark']}.{row['metric']}.{row['filter']}"
        out[name] = row["score"], row["stderr"] or 0.0
        out[f"{name}.items"] = row["n_scored"], 0.0
    return out


def _collect(node: dict[str, Any], path: str, out: Figures) -> None:
    for key, value in node.items():
        name = f"{path}.{key}" if path else key
        if key in _FOLLOW or key in _NOT_FIGURES or key.endswith(("_low", "_high", "_sensor_rel")):
            continue
        if isinstance(value, dict):
            _collect(value, name, out)
        elif isinstance(value, list):
            _collect({str(i): item for i, item in enumerate(value) if isinstance(item, dict)}, name, out)
        elif value is None or _number(value):
            out[name] = value, _slack(key, value, node)


def _slack(key: str, value: float | None, node: dict[str, Any]) -> float:
    if value is None:
        return 0.0
    if key.startswith("t_"):
        return UTC_SLACK_US
    # The two instruments of a GPU have no interval of their own: that of the best value stands in.
    base = "gpu_energy_j" if key.startswith("gpu_energy_") else key
    best, low, high = (node.get(f"{base}{end}") for end in ("", "_low", "_high"))
    if best is None or low is None or high is None:
        return 1e-9 * abs(value)
    return max(float(best - low), float(high - best), 1e-9 * abs(value))


def difference(before: Figures, after: Figures) -> str:
    """The first figure that moved by more than it may, or went away or came; empty when none did."""
    for name in before.keys() | after.keys():
        (a, slack), (b, _) = before.get(name, (None, 0.0)), after.get(name, (None, 0.0))
        if a is None and b is None:
            continue
        if a is None or b is None or not math.isfinite(b) or abs(a - b) > slack:
            return f"{name}: {a} -> {b}"
    return ""


def table_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Edits, material edits, caught and escaped ones by column, as lines of text."""
    lines = [f"{'column':44} {'edits':>6} {'material':>9} {'caught':>7} {'escaped':>8}"]
    names = sorted({(o.edit.table, o.edit.column) for o in outcomes})
    for table, column in [*names, ("", "all")]:
        mine = [o for o in outcomes if column == "all" or (o.edit.table, o.edit.column) == (table, column)]
        material = [o for o in mine if o.material]
        caught = sum(bool(o.caught) for o in material)
        shown = f"{table}.{column}" if table else column
        lines.append(f"{shown:44} {len(mine):>6} {len(material):>9} {caught:>7} {len(material) - caught:>8}")
    return lines


__all__ = ["Edit", "Forger", "Outcome", "difference", "figures", "table_of"]
