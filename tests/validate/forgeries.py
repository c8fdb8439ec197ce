"""Forgeries by somebody who has the kit's code: the kit makes every digest and derived column again.

Each kind edits a rankable bundle. It is material where a figure of the report or a score moves by more than
its interval. What it must not do is stay rankable in the class of the original: it is refused (an error of
levels 0 to 3), loses its rank (a label), or stands in another class, where nobody compares it with the
original. Kinds with `unseen` are those that no software can see, with what answers them.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.bundle import Bundle, BundleWriter, canonical_json
from harness.bundle.derive import derive_bundle
from harness.validate import Report, validate_many
from harness.validate.waivers import Waiver
from tests.accounting.synthetic import EPOCH_US, S, join, make_run
from tests.validate import full_run
from tests.validate.forgery import difference, figures

Row = dict[str, Any]
TABLES = ("power", "counters", "events", "artifacts", "stages", "evals", "eval_items")
SENSOR = "a sensor lowered before it is read: wall meters, replication"
TOGETHER = "what all instruments say, forged together: replication"
ANSWERS = "answers forged with their scores: replication"
LEFT_OUT = "what was left out everywhere: replication, wall meters"
RENAMED = "a pipeline declared as another one from end to end: its joules stay in the total; replication"
MOVED = "where a boundary is: its joules stay in the total, a tenth of them in no stage at most; replication"
TOLERANCE = "less than the tolerance between two instruments (4.2): wall meters"


@dataclass
class Draft:
    """A bundle as rows, to be edited and written again.

    Attributes:
        beside: folders of bundles that are validated together with the forged one.
        waivers: what the forger hands in as explained.
        others: bundles to make of other drafts, by name.
    """

    manifest: Row
    tables: dict[str, list[Row]]
    waivers: tuple[Waiver, ...] = ()
    others: list[Draft] = field(default_factory=list)

    def rows(self, table: str, **where: Any) -> list[Row]:
        """Rows of a table with these values."""
        return [r for r in self.tables[table] if all(r[k] == v for k, v in where.items())]

    def stage(self, name: str, attempt: int = 1) -> Row:
        """The row of a stage."""
        return self.rows("stages", name=name, attempt=attempt)[0]

    def drop(self, table: str, gone: Callable[[Row], bool]) -> None:
        """Take rows out."""
        self.tables[table] = [r for r in self.tables[table] if not gone(r)]

    def copy(self) -> Draft:
        """Another draft with the same rows."""
        return copy.deepcopy(self)

    def write(self, folder: Path) -> Path:
        """Write the bundle with the kit's own code: derived columns, digests, order."""
        shutil.rmtree(folder, ignore_errors=True)
        writer = BundleWriter(folder, run_id=self.manifest["run_id"])
        for name in TABLES:
            writer.write_table(name, self.tables[name])
        manifest = {
            k: v for k, v in self.manifest.items() if k not in ("protocol_version", "schema_id", "files")
        }
        writer.write_manifest(manifest)
        writer = BundleWriter(folder, run_id=self.manifest["run_id"])
        fresh = derive_bundle(Bundle.open(folder)).stages
        for name in TABLES:
            writer.write_table(name, fresh if name == "stages" else self.tables[name])
        writer.write_manifest(manifest)
        return folder

    @staticmethod
    def read(folder: Path) -> Draft:
        """The rows of a bundle; `unattributed` ones are made again."""
        bundle = Bundle.open(folder)
        tables = {name: bundle.table(name).to_pylist() for name in TABLES}
        tables["stages"] = [r for r in tables["stages"] if r["stage"] != "unattributed"]
        return Draft(json.loads((folder / "manifest.json").read_bytes()), tables)


@dataclass(frozen=True)
class Kind:
    """One kind of forgery."""

    name: str
    group: str
    words: str
    forge: Callable[[Draft], None]
    base: str = "full"
    unseen: str | None = None
    quick: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of a forgery."""

    kind: Kind
    moved: str
    rules: tuple[str, ...]
    outcome: str

    @property
    def holds(self) -> bool:
        """Whether it is as the suite claims: seen, or not material, or on the list of what cannot be seen."""
        return self.outcome != "passes" or not self.moved or self.kind.unseen is not None


KINDS: list[Kind] = []


def kind(
    group: str, words: str, *, base: str = "full", unseen: str | None = None, quick: bool = False
) -> Callable[[Callable[[Draft], None]], Callable[[Draft], None]]:
    """Register a forgery under its function's name."""

    def register(forge: Callable[[Draft], None]) -> Callable[[Draft], None]:
        name = forge.__name__.replace("_", "-")
        KINDS.append(Kind(name, group, words, forge, base, unseen, quick))
        return forge

    return register


class Suite:
    """The untouched bundles, and a place for the forged ones."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._bases: dict[str, tuple[Draft, dict[str, tuple[float | None, float]], Report]] = {}

    def base(self, name: str) -> tuple[Draft, dict[str, tuple[float | None, float]], Report]:
        """A bundle to forge, its figures and what validation says of it."""
        if name not in self._bases:
            folder = BASES[name](self._work / f"base-{name}").write(self._work / f"base-{name}")
            report = validate_many([folder], threads=1)[0]
            self._bases[name] = Draft.read(folder), figures(folder), report
        return self._bases[name]

    def judge(self, kind: Kind) -> Verdict:
        """Make a forgery and see what becomes of it."""
        base, before, untouched = self.base(kind.base)
        draft = base.copy()
        kind.forge(draft)
        folder = draft.write(self._work / "forged")
        beside = [other.write(self._work / f"beside-{n}") for n, other in enumerate(draft.others)]
        try:
            moved = difference(before, figures(folder))
        except Exception as error:
            moved = f"no report: {type(error).__name__}"
        if draft.others and not moved:
            moved = "shown beside another run"
        report = validate_many([folder, *beside], threads=1, waivers=draft.waivers)[0]
        rules = tuple(dict.fromkeys(f.id for f in report.findings if f.severity == "error"))
        found = report.comparability
        if report.errors or found is None:
            return Verdict(kind, moved, rules, "refused")
        if not found.rankable:
            return Verdict(
                kind, moved, tuple(dict.fromkeys(r.split()[0] for r in found.reasons)), "loses rank"
            )
        assert untouched.comparability is not None
        if not untouched.comparability.rankable:
            return Verdict(kind, moved or "became rankable", (), "passes")
        if found.digest != untouched.comparability.digest:
            return Verdict(kind, moved, (), "other class")
        return Verdict(kind, moved, (), "passes")


PIPELINE = (
    ("prepare", "preprocess"), ("cache", "teacher_logits"), ("train", "student_train"), ("eval", "evaluate"),
)  # fmt: skip
WATTS = {"package-0": 90, "package-1": 60, "dram-0": 12, "core-0": 70, "psys": 300}
CACHE = "sha256:" + "cd" * 32
CORPUS = "sha256:" + "ab" * 32


def full_base(folder: Path) -> Draft:
    """Two sessions on two GPUs with RAPL; declared, counted, scored."""
    return _declared(Draft.read(full_run.write_full(folder)))


def estimated_base(folder: Path) -> Draft:
    """The same stages where the CPU's energy is an estimate."""
    options: dict[str, Any] = {"codecarbon": True}
    first = make_run(full_run.STAGES, end_s=121.0, **options)
    run = join(first, make_run(full_run.AGAIN, end_s=99.0, session=1, mono0=4_000 * S, **options))
    run.manifest["labels"] = ["cpu_estimated"]
    again = next(r for r in run.stages if r["name"] == "train" and r["session"] == 1)
    again["attempt"] = 2
    full_run._add_noise(run, 5)
    draft = Draft.read(run.write(folder))
    whole = Draft.read(full_run.write_full(folder.with_name(folder.name + "-scored")))
    for name in ("evals", "eval_items"):
        draft.tables[name] = whole.tables[name]
    draft.manifest["reference_tokens"] = full_run.REFERENCE_TOKENS
    for row in draft.tables["stages"]:
        row["token_denominator"] = full_run.REFERENCE_TOKENS
    return draft


def _declared(draft: Draft) -> Draft:
    manifest = draft.manifest
    manifest["pipeline"] = {
        "name": "synthetic", "method": "kd",
        "stages": [{"name": name, "kind": kind, "inputs": {}, "outputs": {}} for name, kind in PIPELINE],
    }  # fmt: skip
    blank = dict.fromkeys(("missed_ticks", "jitter_p50_us", "jitter_p95_us", "jitter_max_us", "scheduling"))
    for session in (0, 1):
        mine = draft.rows("power", session=session, device_id=0)
        wall = (mine[-1]["mono_us"] - mine[0]["mono_us"]) / 1e6 + 0.6
        entry = {
            **blank,
            "session": session,
            "ticks": len(mine),
            "sampler_cpu_s": 0.2,
            "sampler_wall_s": wall,
        }
        manifest["sampling"]["sessions"].append(entry)
    cache, train = draft.stage("cache"), draft.stage("train", 2)
    cache["produces"], train["consumes"] = [CACHE], sorted([CACHE, *train["consumes"]])
    for row, role in ((cache, "produced"), (train, "consumed")):
        draft.tables["artifacts"].append(
            {
                "artifact_id": CACHE, "name": "logits", "kind": "folder", "bytes": 99,
                "stage_uid": row["stage_uid"],
                "role": role, "origin_run_id": None, "origin_energy_j": None,
            }
        )  # fmt: skip
    for row in draft.tables["evals"]:
        row["model_sha256"] = ("aa" if row["subject"] == "student" else "bb") * 32
    return draft


BASES: dict[str, Callable[[Path], Draft]] = {"full": full_base, "estimated": estimated_base}


# Tools of the forger.


def scale_power(draft: Draft, factor: float, when: Callable[[Row], bool] = lambda row: True) -> None:
    """Power readings, those at boundaries and ticks too."""
    for row in (*draft.tables["power"], *draft.rows("counters", source="nvml")):
        if row["power_mw"] is not None and when(row):
            row["power_mw"] = round(row["power_mw"] * factor)
        if row.get("power_average_mw") is not None and when(row):
            row["power_average_mw"] = round(row["power_average_mw"] * factor)


def scale_counter(draft: Draft, factor: float, when: Callable[[Row], bool] = lambda row: True) -> None:
    """The GPU counter's rises, from the first reading of each device and session on."""
    for rows, name in _counter_rows(draft):
        rows.sort(key=lambda pair: pair[0]["mono_us"])
        last: int | None = None
        new = 0
        for row, column in rows:
            if row[column] is None:
                continue
            if last is None:
                new = row[column]
            else:
                new += round((row[column] - last) * (factor if when(row) else 1.0))
            last, row[column] = row[column], new
        assert name


def _counter_rows(draft: Draft) -> list[tuple[list[tuple[Row, str]], tuple[int, int]]]:
    groups: dict[tuple[int, int], list[tuple[Row, str]]] = {}
    for row in draft.tables["power"]:
        groups.setdefault((row["device_id"], row["session"]), []).append((row, "energy_counter_mj"))
    for row in draft.rows("counters", source="nvml"):
        groups.setdefault((row["device_id"], row["session"]), []).append((row, "value"))
    return [(rows, key) for key, rows in groups.items()]


def null_power(draft: Draft, when: Callable[[Row], bool] = lambda row: True) -> None:
    """Failed reads."""
    for row in draft.tables["power"]:
        if when(row):
            row["power_mw"] = None


def null_counter(draft: Draft) -> None:
    """No counter anywhere."""
    for rows, _ in _counter_rows(draft):
        for row, column in rows:
            row[column] = None


def within(row: Row, stage: Row) -> bool:
    """Whether a reading is of a stage's time."""
    same = row["session"] == stage["session"]
    return bool(same and stage["mono_start_us"] <= row["mono_us"] <= stage["mono_end_us"])


def remove_stage(draft: Draft, row: Row, *, boundaries: bool) -> None:
    """A stage's row with its edges, events and, if asked, the boundaries that nobody else has."""
    uid = row["stage_uid"]
    draft.drop("stages", lambda r: r["stage_uid"] == uid)
    draft.drop("artifacts", lambda r: r["stage_uid"] == uid)
    draft.drop("events", lambda r: r["stage_uid"] == uid)
    renumber(draft)
    if boundaries:
        held = {
            (r["session"], r[f"boundary_{side}"]) for r in draft.tables["stages"] for side in ("start", "end")
        }
        mine = {(row["session"], row[f"boundary_{side}"]) for side in ("start", "end")} - held
        draft.drop("counters", lambda r: (r["session"], r["boundary"]) in mine)


def renumber(draft: Draft) -> None:
    """Events in a row, as a writer leaves them."""
    for number, row in enumerate(draft.tables["events"]):
        row["event_id"] = number


def report(draft: Draft, stage: Row, name: str, factor: float) -> None:
    """Token reports and the column, multiplied alike."""
    total = 0
    for row in draft.rows("events", kind="stage_tokens", stage_uid=stage["stage_uid"]):
        detail = json.loads(row["detail"])
        if name in detail:
            detail[name] = round(detail[name] * factor)
            total += detail[name]
            row["detail"] = canonical_json(detail).decode()
    stage[name] = total


def rescore(
    draft: Draft, subject: str, change: Callable[[list[float | None], Row], list[float | None]]
) -> None:
    """Items of a subject, and its scores from them."""
    for row in draft.rows("evals", subject=subject):
        items = draft.rows("eval_items", subject=subject, benchmark=row["benchmark"], metric=row["metric"])
        new = change([item["score"] for item in items], row)
        for item, score in zip(items, new, strict=True):
            item["score"] = score
        good = np.array([score for score in new if score is not None])
        row["score"], row["stderr"] = float(good.mean()), float(good.std(ddof=1) / len(good) ** 0.5)


def squeeze(draft: Draft, factor: float) -> None:
    """Every clock runs slower by a factor."""
    first = {s: min(r["mono_us"] for r in draft.rows("power", session=s)) for s in (0, 1)}

    def moved(at: int, session: int) -> int:
        return first[session] + round((at - first[session]) * factor)

    for name in ("power", "counters", "events"):
        for row in draft.tables[name]:
            row["mono_us"] = moved(row["mono_us"], row["session"])
            row["t_us"] = row["mono_us"] + EPOCH_US
    for row in draft.tables["stages"]:
        for side in ("start", "end"):
            row[f"mono_{side}_us"] = moved(row[f"mono_{side}_us"], row["session"])
            row[f"t_{side}_us"] = row[f"mono_{side}_us"] + EPOCH_US
            row[f"device_{side}_us"] = [row[f"mono_{side}_us"]] * len(row["device_ids"])


def cut(draft: Draft, seconds: int = 30) -> None:
    """Half a minute of the training taken out: its rows, and everything behind it earlier and lower."""
    train = draft.stage("train", 2)
    begin, length = train["mono_start_us"] + 10 * S, seconds * S
    gone = lambda r: r["session"] == 1 and begin <= r["mono_us"] < begin + length  # noqa: E731
    later = lambda r: r["session"] == 1 and r["mono_us"] >= begin + length  # noqa: E731
    for rows, (_, session) in _counter_rows(draft):
        if session == 1:
            inside = [row[column] for row, column in rows if gone(row)]
            for row, column in rows:
                if later(row):
                    row[column] -= max(inside) - min(inside) + 305_000
    for row in draft.rows("counters", source="rapl", session=1):
        if later(row):
            row["value"] = (row["value"] - seconds * WATTS[row["zone"]] * 10**6) % row["range"]
    draft.drop("counters", lambda r: gone(r) and r["boundary"] is None)
    draft.drop("power", gone)
    for name in ("power", "counters", "events"):
        for row in draft.tables[name]:
            if later(row):
                row["mono_us"], row["t_us"] = row["mono_us"] - length, row["t_us"] - length
    for row in draft.rows("stages", session=1):
        for side in ("start", "end"):
            if row[f"mono_{side}_us"] > begin:
                row[f"mono_{side}_us"] -= length
                row[f"t_{side}_us"] -= length
                row[f"device_{side}_us"] = [at - length for at in row[f"device_{side}_us"]]


def recount(draft: Draft) -> None:
    """The sampler's own figures made to fit the rows."""
    for entry in draft.manifest["sampling"]["sessions"]:
        mine = draft.rows("power", session=entry["session"], device_id=0)
        entry["ticks"] = len(mine)
        entry["sampler_wall_s"] = (mine[-1]["mono_us"] - mine[0]["mono_us"]) / 1e6 + 0.6


def rename(draft: Draft, name: str, kind: str, *, declared: bool) -> None:
    """A stage of another kind, in the declared pipeline too if asked."""
    for row in draft.rows("stages", name=name):
        row["stage"] = kind
    for entry in draft.manifest["pipeline"]["stages"] if declared else ():
        if entry["name"] == name:
            entry["kind"] = kind


def origin(draft: Draft, run_id: str | None, joules: float | None) -> None:
    """What was paid for the corpus, in the row and in the event."""
    for row in draft.rows("artifacts", artifact_id=CORPUS):
        row["origin_run_id"], row["origin_energy_j"] = run_id, joules
    for row in draft.rows("events", kind="x-artifact_origin"):
        detail = {"artifact_id": CORPUS, "origin_run_id": run_id, "origin_energy_j": joules}
        row["detail"] = canonical_json({k: v for k, v in detail.items() if v is not None}).decode()


def another(draft: Draft, seed: int = 9) -> Draft:
    """An honest run of the same kind: other readings, another clock and name."""
    made = draft.copy()
    rng = np.random.default_rng(seed)
    for row in made.tables["power"]:
        row["power_mw"] = max(1, row["power_mw"] + int(rng.normal(0, 400)))
    for row in made.tables["stages"]:
        row["clock_id"] = "beef"
    made.manifest["run_id"] = "01J00000000000000000000077"
    return made


def maker(draft: Draft, run_id: str) -> Draft:
    """A run whose teacher stage made the corpus."""
    made = another(draft)
    made.manifest["run_id"] = run_id
    made.drop("artifacts", lambda r: r["artifact_id"] == CORPUS)
    made.drop("events", lambda r: r["kind"] == "x-artifact_origin")
    renumber(made)
    train, cache = made.stage("train", 2), made.stage("cache")
    train["consumes"] = [CACHE]
    cache["produces"] = sorted([CACHE, CORPUS])
    made.tables["artifacts"].append(
        {
            "artifact_id": CORPUS, "name": "corpus", "kind": "folder", "bytes": 9,
            "stage_uid": cache["stage_uid"],
            "role": "produced", "origin_run_id": None, "origin_energy_j": None,
        }
    )  # fmt: skip
    return made


def waive(*rules: str) -> tuple[Waiver, ...]:
    """Ten letters for each rule."""
    return tuple(Waiver(rule, "looked into") for rule in rules)


# Instruments.


@kind("instruments", "the counter halved, power as it was")
def counter_halved(d: Draft) -> None:
    scale_counter(d, 0.5)


@kind("instruments", "the counter halved and no rows of power", quick=True)
def counter_halved_power_emptied(d: Draft) -> None:
    scale_counter(d, 0.5)
    d.tables["power"] = []


@kind("instruments", "the counter halved and every power reading null")
def counter_halved_power_nulled(d: Draft) -> None:
    scale_counter(d, 0.5)
    null_power(d)


@kind("instruments", "the counter halved in the training and power null there", quick=True)
def counter_halved_in_a_gap(d: Draft) -> None:
    train = d.stage("train", 2)
    scale_counter(d, 0.5, lambda r: within(r, train))
    null_power(d, lambda r: within(r, train))


@kind("instruments", "the counter halved in half of the training and power null there")
def counter_halved_in_half_a_stage(d: Draft) -> None:
    train = d.stage("train", 2)
    middle = (train["mono_start_us"] + train["mono_end_us"]) // 2
    inside = lambda r: within(r, train) and r["mono_us"] > middle  # noqa: E731
    scale_counter(d, 0.5, inside)
    null_power(d, inside)


@kind("instruments", "the counter 23 % below the integral, evenly")
def counter_smoothed(d: Draft) -> None:
    scale_counter(d, 0.77)


@kind("instruments", "the counter 23 % low in the training alone")
def counter_smoothed_in_a_stage(d: Draft) -> None:
    train = d.stage("train", 2)
    scale_counter(d, 0.77, lambda r: within(r, train))


@kind("instruments", "the counter 8 % low")
def counter_a_little_low(d: Draft) -> None:
    scale_counter(d, 0.92)


@kind("instruments", "the counter 4 % low", unseen=TOLERANCE)
def counter_inside_the_tolerance(d: Draft) -> None:
    scale_counter(d, 0.96)


@kind("instruments", "the counter halved, its rules waived", quick=True)
def counter_halved_and_waived(d: Draft) -> None:
    scale_counter(d, 0.5)
    d.waivers = waive("E304", "W303", "E305", "W306", "W307")


@kind("instruments", "counter and power halved together", unseen=SENSOR)
def both_halved(d: Draft) -> None:
    scale_counter(d, 0.5)
    scale_power(d, 0.5)


@kind("instruments", "power null everywhere, the counter as it was")
def power_nulled(d: Draft) -> None:
    null_power(d)


@kind("instruments", "the counter taken away, power halved")
def counter_dropped_power_halved(d: Draft) -> None:
    null_counter(d)
    scale_power(d, 0.5)


@kind("instruments", "the same, and the card is said to have no counter", unseen=SENSOR)
def counter_denied_power_halved(d: Draft) -> None:
    counter_dropped_power_halved(d)
    for device in d.manifest["hardware"]["devices"]:
        device["counter_supported"] = False


@kind("instruments", "the same on a card that is known to have one")
def counter_denied_on_a_known_card(d: Draft) -> None:
    counter_denied_power_halved(d)
    for device in d.manifest["hardware"]["devices"]:
        device["model"] = "NVIDIA H100 80GB HBM3"


@kind("instruments", "one power all along, the counter made to fit")
def power_constant(d: Draft) -> None:
    for rows, (device, session) in _counter_rows(d):
        start = min(row["mono_us"] for row, _ in rows)
        for row, column in rows:
            row[column] = 10**6 + (row["mono_us"] - start) * 300 // 1000
        assert device >= 0 and session >= 0
    for row in (*d.tables["power"], *d.rows("counters", source="nvml")):
        row["power_mw"] = 300_000


@kind("instruments", "the counter set back in the training, with its event, and power halved there")
def counter_reset_power_halved(d: Draft) -> None:
    train = d.stage("train", 2)
    for rows, (_, session) in _counter_rows(d):
        for row, column in rows:
            if session == 1 and row["mono_us"] > train["mono_start_us"] + 30 * S:
                row[column] -= 100_000_000
    scale_power(d, 0.5, lambda r: within(r, train))
    event = {**d.tables["events"][0], "kind": "counter_reset", "session": 1, "device_id": 0}
    d.tables["events"] += [event, {**event, "device_id": 1}]
    renumber(d)


@kind("instruments", "the counter stands still through the training, power halved")
def counter_stuck_power_halved(d: Draft) -> None:
    train = d.stage("train", 2)
    scale_counter(d, 0.0, lambda r: within(r, train))
    scale_power(d, 0.5, lambda r: within(r, train))


@kind("instruments", "a power reading below 0 in each stage")
def power_negative(d: Draft) -> None:
    for stage in d.tables["stages"]:
        row = next(r for r in d.tables["power"] if r["session"] == stage["session"] and within(r, stage))
        row["power_mw"] = -row["power_mw"]


@kind("instruments", "the counter at one boundary moved by 2 kJ")
def boundary_value_moved(d: Draft) -> None:
    for row in d.rows("counters", source="nvml", boundary=3):
        row["value"] -= 2_000_000


@kind("instruments", "negative half-widths of the boundaries")
def uncertainty_negative(d: Draft) -> None:
    for row in d.tables["counters"]:
        row["uncertainty_us"] = -row["uncertainty_us"]


@kind("instruments", "power in milliwatts read as if of tenths: all instruments by ten")
def tenth_of_everything(d: Draft) -> None:
    scale_counter(d, 0.002)
    scale_power(d, 0.002)


@kind("instruments", "a card that draws twice what its vendor lets it")
def card_above_its_power(d: Draft) -> None:
    scale_counter(d, 2.0)
    scale_power(d, 2.0)
    for device in d.manifest["hardware"]["devices"]:
        device.update(
            model="NVIDIA H100 80GB HBM3", power_limit_mw=1_400_000, default_power_limit_mw=1_400_000
        )
    for row in d.tables["power"]:
        row["power_limit_mw"] = 1_400_000


# CPU and DRAM.


def _measured(d: Draft) -> None:
    d.manifest["boundary"].update(cpu="measured", dram="measured")
    d.manifest["labels"] = []


def _as_rapl(d: Draft, factor: float) -> None:
    _measured(d)
    for row in d.rows("counters", source="codecarbon"):
        zone = "package-0" if row["zone"] == "cpu" else "dram-0"
        row.update(source="rapl", zone=zone, method="immediate", range=262_143_328_850)
        row["value"] = None if row["value"] is None else round(row["value"] * factor)
    d.tables["counters"].sort(
        key=lambda r: (r["source"], r["device_id"] or 0, r["zone"] or "", r["session"], r["mono_us"])
    )


@kind("cpu", "an estimate called measured in the manifest", base="estimated", quick=True)
def estimate_called_measured(d: Draft) -> None:
    _measured(d)


@kind("cpu", "the estimate's rows renamed to rapl, 2 mW", base="estimated")
def estimate_renamed_low(d: Draft) -> None:
    _as_rapl(d, 0.002 / 35)


@kind("cpu", "the estimate's rows renamed to rapl, as they are", base="estimated", unseen=TOGETHER)
def estimate_renamed(d: Draft) -> None:
    _as_rapl(d, 1.0)


@kind("cpu", "RAPL by a thousandth")
def rapl_by_a_thousandth(d: Draft) -> None:
    for row in d.rows("counters", source="rapl"):
        row["value"] //= 1000


@kind("cpu", "RAPL halved", unseen=SENSOR)
def rapl_halved(d: Draft) -> None:
    for row in d.rows("counters", source="rapl"):
        row["value"] = round((row["value"] + (row["range"] or 0)) * 0.5)
        row["range"] = None if row["range"] is None else row["range"] // 2


@kind("cpu", "one of two packages left out", unseen=LEFT_OUT)
def package_left_out(d: Draft) -> None:
    d.drop("counters", lambda r: r["zone"] == "package-1")


@kind("cpu", "CPU and DRAM left out and said to be absent")
def cpu_left_out(d: Draft) -> None:
    d.drop("counters", lambda r: r["source"] == "rapl")
    d.manifest["boundary"].update(cpu="absent", dram="absent")


@kind("cpu", "CPU left out, still called measured")
def cpu_left_out_unsaid(d: Draft) -> None:
    d.drop("counters", lambda r: r["source"] == "rapl")


# Time and sampling.


@kind("time", "half a minute of the training cut out, the sampler's count as it was", quick=True)
def time_cut(d: Draft) -> None:
    cut(d)


@kind("time", "the same, and the sampler's count made to fit", unseen=TOGETHER)
def time_cut_and_recounted(d: Draft) -> None:
    cut(d)
    recount(d)


@kind("time", "every clock slower by a tenth")
def clock_slower(d: Draft) -> None:
    squeeze(d, 0.9)


@kind("time", "the same, counted again and with another period")
def clock_slower_recounted(d: Draft) -> None:
    squeeze(d, 0.9)
    recount(d)
    d.manifest["sampling"]["nominal_period_us"] = 450_000


@kind("time", "every clock faster by a tenth, so that watts fall")
def clock_faster(d: Draft) -> None:
    squeeze(d, 1.1)
    recount(d)
    scale_counter(d, 0.9)


@kind("time", "a period of eleven days hides gaps; counter halved where power is null")
def period_endless(d: Draft) -> None:
    d.manifest["sampling"]["nominal_period_us"] = 10**12
    counter_halved_in_half_a_stage(d)


@kind("time", "a period of 5 s hides gaps; counter halved where power is null")
def period_long(d: Draft) -> None:
    d.manifest["sampling"]["nominal_period_us"] = 5_000_000
    counter_halved_in_half_a_stage(d)


@kind("time", "the training closed 20 s early, before its own reports")
def stage_closed_early(d: Draft) -> None:
    _close(d, d.stage("train", 2), 20)


def _close(d: Draft, train: Row, seconds: int, *, reports: bool = False) -> None:
    for rows, (_, session) in _counter_rows(d):
        if session != train["session"]:
            continue
        own = [row for row, column in rows if column == "value" and row["boundary"] == train["boundary_end"]]
        at = train["mono_end_us"] - seconds * S
        before = max(
            (row for row, c in rows if c != "value" and row["mono_us"] <= at), key=lambda r: r["mono_us"]
        )
        for row in own:
            row["mono_us"], row["t_us"] = at, at + EPOCH_US
            row["value"] = (
                before["energy_counter_mj"] + before["power_mw"] * (at - before["mono_us"]) // 10**6
            )
    for row in d.rows("counters", source="rapl", session=train["session"], boundary=train["boundary_end"]):
        row["mono_us"] -= seconds * S
        row["t_us"] -= seconds * S
        row["value"] = (row["value"] - seconds * WATTS[row["zone"]] * 10**6) % row["range"]
    train["mono_end_us"] -= seconds * S
    train["t_end_us"] -= seconds * S
    train["device_end_us"] = [train["mono_end_us"]] * len(train["device_ids"])
    d.tables["counters"].sort(
        key=lambda r: (r["source"], -1 if r["device_id"] is None else r["device_id"], r["zone"] or "",
                       r["session"],
                       r["mono_us"], -1 if r["boundary"] is None else r["boundary"])
    )  # fmt: skip
    for row in d.rows("events", stage_uid=train["stage_uid"]) if reports else ():
        row["mono_us"] -= seconds * S
        row["t_us"] -= seconds * S


@kind("time", "the training closed 8 s early, its reports moved with it", unseen=MOVED)
def stage_closed_a_little_early(d: Draft) -> None:
    _close(d, d.stage("train", 2), 8, reports=True)


@kind("time", "the same, the reports moved with it")
def stage_closed_early_with_reports(d: Draft) -> None:
    _close(d, d.stage("train", 2), 20, reports=True)


@kind("time", "every boundary numbered again, the evaluation closed at its begin")
def stage_closed_at_once(d: Draft) -> None:
    _close(d, d.stage("eval"), 31)


# Stages.


@kind("stages", "the teacher's row taken out", quick=True)
def teacher_removed(d: Draft) -> None:
    remove_stage(d, d.stage("cache"), boundaries=False)


@kind("stages", "the same with its boundaries and its declaration")
def teacher_removed_everywhere(d: Draft) -> None:
    remove_stage(d, d.stage("cache"), boundaries=True)
    d.manifest["pipeline"]["stages"] = [s for s in d.manifest["pipeline"]["stages"] if s["name"] != "cache"]


@kind("stages", "the same, and its time and readings as well", unseen=LEFT_OUT)
def teacher_never_was(d: Draft) -> None:
    cache = d.stage("cache")
    begin = cache["mono_start_us"]
    remove_stage(d, d.stage("train", 1), boundaries=True)
    remove_stage(d, cache, boundaries=True)
    d.stage("train", 2)["attempt"] = 1
    for name in ("power", "counters"):
        d.drop(name, lambda r: r["session"] == 0 and r["mono_us"] > begin + S)
    d.manifest["pipeline"]["stages"] = [s for s in d.manifest["pipeline"]["stages"] if s["name"] != "cache"]
    recount(d)


@kind("stages", "the teacher called a wait")
def teacher_called_idle(d: Draft) -> None:
    rename(d, "cache", "idle", declared=True)


@kind("stages", "the same, without tokens and products")
def teacher_called_idle_without_work(d: Draft) -> None:
    cache = d.stage("cache")
    rename(d, "cache", "idle", declared=True)
    d.drop("events", lambda r: r["stage_uid"] == cache["stage_uid"])
    d.drop("artifacts", lambda r: r["artifact_id"] == CACHE)
    renumber(d)
    d.stage("train", 2)["consumes"] = [CORPUS]
    cache.update(tokens_processed=None, tokens_positions=None, produces=[])


@kind("stages", "the teacher called x-teacher_logits, undeclared")
def teacher_of_its_own_kind(d: Draft) -> None:
    rename(d, "cache", "x-teacher_logits", declared=False)


@kind("stages", "the same, declared so")
def teacher_of_its_own_kind_declared(d: Draft) -> None:
    rename(d, "cache", "x-teacher_logits", declared=True)


@kind("stages", "method sft, the teacher's logits still read")
def method_called_sft(d: Draft) -> None:
    d.manifest["method"] = "sft"
    d.manifest["pipeline"]["method"] = "sft"


@kind("stages", "the teacher called a sweep, method sft, declared so")
def teacher_called_sweep(d: Draft) -> None:
    rename(d, "cache", "sweep", declared=True)
    d.manifest["method"] = "sft"


@kind("stages", "the same, and the logits are read by nobody", unseen=RENAMED)
def teacher_called_sweep_unread(d: Draft) -> None:
    teacher_called_sweep(d)
    d.drop("artifacts", lambda r: r["artifact_id"] == CACHE)
    d.stage("cache")["produces"] = []
    d.stage("train", 2)["consumes"] = [CORPUS]


@kind("stages", "the failed attempt called a sweep")
def failure_called_sweep(d: Draft) -> None:
    d.stage("train", 1)["stage"] = "sweep"
    d.stage("train", 2)["attempt"] = 1


@kind("stages", "the failed attempt taken out")
def failure_removed(d: Draft) -> None:
    remove_stage(d, d.stage("train", 1), boundaries=False)
    d.stage("train", 2)["attempt"] = 1


@kind("stages", "the same with its boundaries")
def failure_removed_with_boundaries(d: Draft) -> None:
    remove_stage(d, d.stage("train", 1), boundaries=True)
    d.stage("train", 2)["attempt"] = 1


@kind("stages", "the failed attempt called completed")
def failure_called_completed(d: Draft) -> None:
    d.stage("train", 1)["status"] = "completed"


@kind("stages", "exit code 3 of a completed stage")
def exit_code_three(d: Draft) -> None:
    d.stage("train", 2)["exit_code"] = 3


@kind("stages", "the last training interrupted in a complete run")
def interrupted_called_complete(d: Draft) -> None:
    d.stage("train", 2)["status"] = "interrupted"


@kind("stages", "the evaluation inside the training, so that it is not added up")
def stage_hidden_in_a_parent(d: Draft) -> None:
    d.stage("eval")["parent_uid"] = d.stage("train", 2)["stage_uid"]


@kind("stages", "a card billed by no stage")
def card_unbilled(d: Draft) -> None:
    for row in d.tables["stages"]:
        for name in ("device_ids", "device_start_us", "device_end_us"):
            row[name] = row[name][:1]


@kind("stages", "a card left out of the training")
def card_left_out_of_a_stage(d: Draft) -> None:
    row = d.stage("train", 2)
    for name in ("device_ids", "device_start_us", "device_end_us"):
        row[name] = row[name][:1]


@kind("stages", "a card left out everywhere: another class")
def card_left_out_everywhere(d: Draft) -> None:
    card_unbilled(d)
    for name in ("power", "counters"):
        d.drop(name, lambda r: r["device_id"] == 1)
    d.manifest["hardware"]["devices"].pop()


@kind("stages", "the first session taken out, its stages still declared")
def session_removed(d: Draft) -> None:
    gone = {r["stage_uid"] for r in d.rows("stages", session=0)}
    for name in ("power", "counters", "events", "stages"):
        d.drop(name, lambda r: r["session"] == 0)
    d.drop("artifacts", lambda r: r["stage_uid"] in gone)
    renumber(d)
    d.stage("train", 2)["attempt"] = 1
    d.stage("train", 1)["consumes"] = [CORPUS]
    d.drop("artifacts", lambda r: r["artifact_id"] == CACHE)


@kind("stages", "the same, declared as it is")
def session_removed_and_declared(d: Draft) -> None:
    session_removed(d)
    keep = {"train", "eval"}
    d.manifest["pipeline"]["stages"] = [s for s in d.manifest["pipeline"]["stages"] if s["name"] in keep]


# Tokens.


@kind("tokens", "trained tokens doubled in the column")
def tokens_doubled(d: Draft) -> None:
    d.stage("train", 2)["tokens_trained"] *= 2


@kind("tokens", "trained tokens doubled with their reports", quick=True)
def tokens_doubled_with_reports(d: Draft) -> None:
    report(d, d.stage("train", 2), "tokens_trained", 2)


@kind("tokens", "every count of the training doubled with its reports", unseen=TOGETHER)
def all_tokens_doubled(d: Draft) -> None:
    for name in ("tokens_trained", "tokens_processed", "tokens_positions"):
        report(d, d.stage("train", 2), name, 2)


@kind("tokens", "the same by ten thousand on a known card with a known model")
def tokens_beyond_the_roof(d: Draft) -> None:
    train = d.stage("train", 2)
    for name in ("tokens_trained", "tokens_processed", "tokens_positions"):
        report(d, train, name, 10_000)
    for device in d.manifest["hardware"]["devices"]:
        device["model"] = "NVIDIA H100 80GB HBM3"
    detail = {"event": "student_train", "report": {"parameters": 7_000_000_000}}
    event = {**d.rows("events", stage_uid=train["stage_uid"])[0], "kind": "stage_event"}
    d.tables["events"].append({**event, "detail": canonical_json(detail).decode()})
    renumber(d)


@kind("tokens", "the last report dropped, its tokens kept")
def report_dropped(d: Draft) -> None:
    train = d.stage("train", 2)
    last = d.rows("events", kind="stage_tokens", stage_uid=train["stage_uid"])[-1]
    d.tables["events"].remove(last)
    renumber(d)


@kind("tokens", "a reference denominator of 0")
def reference_zero(d: Draft) -> None:
    d.manifest["reference_tokens"] = 0
    for row in d.tables["stages"]:
        row["token_denominator"] = 0


@kind("tokens", "the reference doubled in the manifest")
def reference_doubled(d: Draft) -> None:
    d.manifest["reference_tokens"] *= 2


@kind("tokens", "the reference doubled everywhere: another class")
def reference_doubled_everywhere(d: Draft) -> None:
    d.manifest["reference_tokens"] *= 2
    for row in d.tables["stages"]:
        row["token_denominator"] *= 2


# Scores.


@kind("scores", "the student's score raised")
def score_raised(d: Draft) -> None:
    d.rows("evals", subject="student")[0]["score"] = 0.9


@kind("scores", "score and standard error raised, items taken out, called external")
def score_without_items(d: Draft) -> None:
    for row in d.rows("evals", subject="student"):
        row.update(aggregation="external", stderr=None, score=(row["score"] + row["score_max"]) / 2)
    d.drop("eval_items", lambda r: r["subject"] == "student")


@kind("scores", "answers made right, the score from them", unseen=ANSWERS)
def answers_forged(d: Draft) -> None:
    rescore(
        d,
        "student",
        lambda items, row: [None if s is None else row["score_max"] for s in items[:40]] + items[40:],
    )


@kind("scores", "the standard error by ten")
def error_shrunk(d: Draft) -> None:
    for row in d.tables["evals"]:
        row["stderr"] /= 10


@kind("scores", "the student's wrong items taken out")
def wrong_items_removed(d: Draft) -> None:
    for row in d.rows("evals", subject="student", metric="exact_match"):
        mine = d.rows("eval_items", subject="student", metric="exact_match")
        kept = [item for item in mine if item["score"] == 1.0]
        d.drop("eval_items", lambda r: r["subject"] == "student" and r["metric"] == "exact_match")
        for number, item in enumerate(kept):
            item["item"] = number
        d.tables["eval_items"] += kept
        hashes = canonical_json([item["item_sha256"] for item in kept])
        row.update(n_items=len(kept), n_scored=len(kept), score=1.0, stderr=0.0)
        row["items_sha256"] = hashlib.sha256(hashes).hexdigest()


def _other_questions(d: Draft, subjects: Sequence[str]) -> None:
    for row in d.tables["evals"]:
        if row["subject"] in subjects:
            items = d.rows("eval_items", subject=row["subject"], benchmark=row["benchmark"])
            for item in items:
                item["item_sha256"] = hashlib.sha256(
                    f"easy{row['benchmark']}{item['item']}".encode()
                ).hexdigest()
                item["score"] = None if item["score"] is None else row["score_max"]
            hashes = canonical_json([item["item_sha256"] for item in items])
            row["items_sha256"] = hashlib.sha256(hashes).hexdigest()
    for subject in subjects:
        rescore(d, subject, lambda items, row: items)


@kind("scores", "easier questions for the student, as many")
def questions_exchanged(d: Draft) -> None:
    _other_questions(d, ["student"])


@kind(
    "scores",
    "easier questions for both",
    unseen="a suite that nobody else ran: name it by its content (4.8), replication",
)
def questions_exchanged_for_both(d: Draft) -> None:
    _other_questions(d, ["student", "teacher"])


@kind("scores", "the same beside an honest run of the suite")
def questions_exchanged_beside(d: Draft) -> None:
    d.others.append(another(d))
    _other_questions(d, ["student", "teacher"])


@kind("scores", "the teacher's score lowered with its answers", unseen=ANSWERS)
def teacher_lowered(d: Draft) -> None:
    rescore(
        d, "teacher", lambda items, row: [None if s is None else (s + row["score_min"]) / 2 for s in items]
    )
    for row in d.rows("evals", subject="teacher", metric="exact_match"):
        row["metric"] = "exact_match"


@kind("scores", "the same beside an honest run with the same teacher", quick=True)
def teacher_lowered_beside(d: Draft) -> None:
    d.others.append(another(d))
    teacher_lowered(d)


@kind("scores", "scores by the stage that prepared the data")
def scored_by_another_stage(d: Draft) -> None:
    uid = d.stage("prepare")["stage_uid"]
    for name in ("evals", "eval_items"):
        for row in d.tables[name]:
            row["stage_uid"] = uid


@kind("scores", "the student's worst benchmark left out")
def benchmark_left_out(d: Draft) -> None:
    for name in ("evals", "eval_items"):
        d.drop(name, lambda r: r["subject"] == "student" and r["benchmark"] == "talking")


@kind("scores", "the same for the teacher, beside an honest run of the suite")
def benchmark_left_out_for_both(d: Draft) -> None:
    d.others.append(another(d))
    for name in ("evals", "eval_items"):
        d.drop(name, lambda r: r["benchmark"] == "talking")


@kind("scores", "another judge: another class")
def judge_renamed(d: Draft) -> None:
    for row in d.tables["evals"]:
        row["judge_id"] = "kind-judge@1"


# Lineage.


@kind("lineage", "an inherited energy lowered in the row")
def origin_lowered(d: Draft) -> None:
    d.rows("artifacts", artifact_id=CORPUS)[0]["origin_energy_j"] = 1.0


@kind(
    "lineage", "the same in its event too", unseen="a payer that is not there: the payer's bundle beside it"
)
def origin_lowered_everywhere(d: Draft) -> None:
    origin(d, full_run.ORIGIN_RUN, 1.0)


@kind("lineage", "the same with the payer's bundle beside it", quick=True)
def origin_lowered_beside_payer(d: Draft) -> None:
    d.others.append(maker(d, full_run.ORIGIN_RUN))
    origin_lowered_everywhere(d)


@kind("lineage", "an inherited energy claimed by another run than the one that made it and stands beside")
def origin_by_another_run(d: Draft) -> None:
    d.others.append(maker(d, "01J00000000000000000000088"))
    origin(d, "01J00000000000000000000099", 1.0)


@kind("lineage", "nobody paid for it, and the maker stands beside")
def origin_denied_beside_payer(d: Draft) -> None:
    d.others.append(maker(d, full_run.ORIGIN_RUN))
    d.drop("events", lambda r: r["kind"] == "x-artifact_origin")
    renumber(d)
    for row in d.rows("artifacts", artifact_id=CORPUS):
        row["origin_run_id"] = row["origin_energy_j"] = None


@kind("lineage", "an inherited energy unknown")
def origin_unknown(d: Draft) -> None:
    origin(d, full_run.ORIGIN_RUN, None)


@kind("lineage", "the artifact's row taken out, its event left")
def edge_removed(d: Draft) -> None:
    d.drop("artifacts", lambda r: r["artifact_id"] == CORPUS)
    d.stage("train", 2)["consumes"] = [CACHE]


@kind("lineage", "the same without the event", unseen=LEFT_OUT)
def edge_removed_everywhere(d: Draft) -> None:
    edge_removed(d)
    d.drop("events", lambda r: r["kind"] == "x-artifact_origin")
    renumber(d)


# Across bundles.


def vary_counter(d: Draft) -> None:
    """Rises that differ, as those of a real counter do; the made-up one draws one power all along."""
    rng = np.random.default_rng(12)
    for rows, _ in _counter_rows(d):
        rows.sort(key=lambda pair: pair[0]["mono_us"])
        last, new = None, 0
        for row, column in rows:
            if row[column] is None:
                continue
            new = row[column] if last is None else new + round((row[column] - last) * rng.normal(1, 0.02))
            last, row[column] = row[column], new


def _copy(d: Draft, run_id: str | None = "01J00000000000000000000077") -> None:
    original = d.copy()
    for row in original.tables["stages"]:
        row["clock_id"] = "beef"
    if run_id is not None:
        original.manifest["run_id"] = run_id
    d.others.append(original)


@kind("copies", "another run's readings")
def run_copied(d: Draft) -> None:
    _copy(d)


@kind("copies", "another run's readings under the same run id")
def run_copied_under_its_id(d: Draft) -> None:
    _copy(d, None)
    d.manifest["name"] = "another"


@kind("copies", "a milliwatt of noise", quick=True)
def run_copied_with_noise(d: Draft) -> None:
    _copy(d)
    rng = np.random.default_rng(4)
    for row in d.tables["power"]:
        row["power_mw"] += int(rng.integers(-1, 2))


@kind("copies", "a day later")
def run_copied_later(d: Draft) -> None:
    _copy(d)
    day = 86_400 * S
    for name in ("power", "counters", "events"):
        for row in d.tables[name]:
            row["mono_us"], row["t_us"] = row["mono_us"] + day, row["t_us"] + day
    for row in d.tables["stages"]:
        for side in ("start", "end"):
            for name in (f"mono_{side}_us", f"t_{side}_us"):
                row[name] += day
            row[f"device_{side}_us"] = [at + day for at in row[f"device_{side}_us"]]


@kind("copies", "power and counter by 0.97")
def run_copied_and_scaled(d: Draft) -> None:
    _copy(d)
    scale_power(d, 0.97)
    scale_counter(d, 0.97)


@kind("copies", "one card's power of another run, its devices exchanged")
def device_copied(d: Draft) -> None:
    _copy(d)
    one, two = d.rows("power", device_id=0), d.rows("power", device_id=1)
    rng = np.random.default_rng(5)
    for a, b in zip(one, two, strict=True):
        a["power_mw"] = b["power_mw"] - 10_000
        b["power_mw"] += int(rng.normal(0, 400))


@kind("copies", "one card's readings given to the other, with noise")
def device_copied_inside(d: Draft) -> None:
    rng = np.random.default_rng(6)
    for a, b in zip(d.rows("power", device_id=0), d.rows("power", device_id=1), strict=True):
        b["power_mw"] = a["power_mw"] + int(rng.integers(-1, 2))


@kind("copies", "readings of the second training pasted into the first")
def block_replayed(d: Draft) -> None:
    scale_counter(d, 0.98, lambda r: within(r, d.stage("train", 1)))
    good = [r for r in d.rows("power", session=1, device_id=0) if within(r, d.stage("train", 2))]
    for device in (0, 1):
        old = [r for r in d.rows("power", session=0, device_id=device) if within(r, d.stage("train", 1))]
        for a, b in zip(old, good, strict=False):
            a["power_mw"] = round(b["power_mw"] * (0.965 + 0.01 * device))


# Labels.


@kind("labels", "a card renamed to one of a lower power")
def card_renamed(d: Draft) -> None:
    for device in d.manifest["hardware"]["devices"]:
        device["model"] = "NVIDIA H100 PCIe"


@kind("labels", "replayed signals without their label")
def script_unlabelled(d: Draft) -> None:
    for row in d.rows("counters", source="nvml"):
        row["source"] = "scripted"
    d.tables["counters"].sort(key=lambda r: (r["source"], r["device_id"] is not None))


@kind("labels", "foreign processes seen, the node called one's own")
def guests_denied(d: Draft) -> None:
    event = {**d.tables["events"][0], "kind": "foreign_process", "device_id": 0}
    d.tables["events"].append(event)
    renumber(d)


@kind(
    "copies",
    "another run's power read again between its samples, the counter as the line between its readings",
)
def run_resampled(d: Draft) -> None:
    _copy(d)
    for device in (0, 1):
        for session in (0, 1):
            rows = d.rows("power", device_id=device, session=session)
            for a, b in itertools.pairwise(rows):
                a["power_mw"] = (a["power_mw"] + b["power_mw"]) // 2
                a["energy_counter_mj"] = (a["energy_counter_mj"] + b["energy_counter_mj"]) // 2


@kind("copies", "every second sample of another run")
def run_thinned(d: Draft) -> None:
    _copy(d)
    ticks = sorted({r["mono_us"] for r in d.tables["power"]})
    odd = set(ticks[1::2])
    d.drop("power", lambda r: r["mono_us"] in odd)
    d.manifest["sampling"]["nominal_period_us"] *= 2
    recount(d)


@kind("copies", "another run's readings with two watts of noise")
def run_copied_with_much_noise(d: Draft) -> None:
    vary_counter(d)
    _copy(d)
    rng = np.random.default_rng(8)
    for row in d.tables["power"]:
        row["power_mw"] += int(rng.normal(0, 2000))


@kind("copies", "the same of a counter that rises evenly", unseen=TOGETHER)
def run_copied_evenly_with_much_noise(d: Draft) -> None:
    _copy(d)
    rng = np.random.default_rng(8)
    for row in d.tables["power"]:
        row["power_mw"] += int(rng.normal(0, 2000))


@kind("copies", "another run's power backwards in time, one stage at a time", unseen=TOGETHER)
def run_reversed(d: Draft) -> None:
    _copy(d)
    for stage in d.tables["stages"]:
        for device in stage["device_ids"]:
            rows = [
                r for r in d.rows("power", device_id=device, session=stage["session"]) if within(r, stage)
            ]
            watts = [row["power_mw"] for row in rows]
            for row, power in zip(rows, reversed(watts), strict=True):
                row["power_mw"] = power


@kind("copies", "another run's counter alone, its power made up to fit")
def counter_copied(d: Draft) -> None:
    vary_counter(d)
    _copy(d)
    rng = np.random.default_rng(9)
    for row in d.tables["power"]:
        row["power_mw"] = round(row["power_mw"] * rng.normal(1, 0.03))


@kind("lineage", "the teacher borrowed: its stage, time and readings gone, its output inherited for 0 J")
def teacher_borrowed_for_nothing(d: Draft) -> None:
    teacher_never_was(d)
    _borrow(d, 0.0)


@kind("lineage", "the same for a joule", unseen="a payer that is not there: the payer's bundle beside it")
def teacher_borrowed_for_a_joule(d: Draft) -> None:
    teacher_never_was(d)
    _borrow(d, 1.0)


def _borrow(d: Draft, joules: float) -> None:
    run = "01J00000000000000000000066"
    for row in d.rows("artifacts", artifact_id=CACHE, role="consumed"):
        row["origin_run_id"], row["origin_energy_j"] = run, joules
    event = next(r for r in d.tables["events"] if r["kind"] == "x-artifact_origin")
    detail = {"artifact_id": CACHE, "origin_run_id": run, "origin_energy_j": joules}
    at = d.tables["events"].index(event)
    d.tables["events"].insert(at, {**event, "detail": canonical_json(detail).decode()})
    renumber(d)


@kind("lineage", "the run names itself as the payer of what it inherits")
def origin_is_itself(d: Draft) -> None:
    origin(d, d.manifest["run_id"], 1.0)


@kind("scores", "the student's model evaluated as the teacher, so that Q is 1")
def student_as_teacher(d: Draft) -> None:
    digest = d.rows("evals", subject="student")[0]["model_sha256"]
    for row in d.rows("evals", subject="teacher"):
        row["model_sha256"] = digest
    for row in d.rows("evals", subject="student"):
        mine = d.rows("eval_items", subject="student", benchmark=row["benchmark"], metric=row["metric"])
        theirs = d.rows("eval_items", subject="teacher", benchmark=row["benchmark"], metric=row["metric"])
        for a, b in zip(mine, theirs, strict=True):
            b["score"] = a["score"]
    rescore(d, "teacher", lambda items, row: items)


@kind("scores", "teacher and student exchanged", unseen="which of two models taught: replication")
def subjects_exchanged(d: Draft) -> None:
    other = {"teacher": "student", "student": "teacher"}
    for name in ("evals", "eval_items"):
        for row in d.tables[name]:
            row["subject"] = other.get(row["subject"], row["subject"])
        d.tables[name].sort(key=lambda r: [str(r[k]) for k in ("benchmark", "metric", "subject")])


@kind("scores", "percent written as a fraction of one, with its highest score")
def score_of_another_unit(d: Draft) -> None:
    for row in d.rows("evals", subject="student"):
        row["score_max"] = row["score_max"] / 2


@kind("tokens", "a denominator of its own for the training, declared, ten times the run's")
def denominator_declared(d: Draft) -> None:
    for row in d.rows("stages", name="train"):
        row["token_denominator"] = 10 * full_run.REFERENCE_TOKENS
    for entry in d.manifest["pipeline"]["stages"]:
        if entry["name"] == "train":
            entry["tokens"] = {"denominator": 10 * full_run.REFERENCE_TOKENS}


@kind("instruments", "the counter in joules, the power in watts: all by a thousandth")
def thousandth_of_everything(d: Draft) -> None:
    scale_power(d, 0.001)
    scale_counter(d, 0.001)


@kind("instruments", "power cut off at 450 W, the counter as it was")
def power_clipped(d: Draft) -> None:
    for row in (*d.tables["power"], *d.rows("counters", source="nvml")):
        if row["power_mw"] is not None:
            row["power_mw"] = min(row["power_mw"], 450_000)


@kind("stages", "the evaluation and its readings left out, its scores by the training")
def evaluation_left_out(d: Draft) -> None:
    train, gone = d.stage("train", 2), d.stage("eval")
    for row in d.tables["evals"]:
        row["stage_uid"] = train["stage_uid"]
    for row in d.tables["eval_items"]:
        if "stage_uid" in row:
            row["stage_uid"] = train["stage_uid"]
    remove_stage(d, gone, boundaries=True)
    d.manifest["pipeline"]["stages"] = [s for s in d.manifest["pipeline"]["stages"] if s["name"] != "eval"]


@kind("labels", "no GPU at all: the CPU's joules called a GPU's run")
def gpu_left_out(d: Draft) -> None:
    d.tables["power"] = []
    d.drop("counters", lambda r: r["source"] == "nvml")
    for row in d.tables["stages"]:
        row["device_ids"] = []
        row["device_start_us"], row["device_end_us"] = [], []
