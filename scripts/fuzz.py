"""Mutates pipeline files, bundles and journals, and counts what no reader foresaw.

    python scripts/fuzz.py                          10,000 + 5,000 + 2,000 mutations, for the night
    python scripts/fuzz.py --yaml 500 --bundles 500 --journals 500 --seed 1

A pipeline file ends as a plan or as an error of the kit (KitError), a bundle in findings, a report or
an error, a journal in a sealed bundle or an error. Everything else, an endless one included, is
`unexpected`: it is printed with its seed, and the exit code is 1. Half of the pipeline files must make a
plan, or little is tried.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from harness.errors import KitError

MOST_S = 60
"""Seconds after which a mutation counts as endless."""
PIPELINE = """protocol: "1.0"
name: sweep
method: kd
reference_tokens: 30000000
labels: [base]
pue: 1.25
sampling: {period_ms: 100}
vars: {lr: 1e-4, root: "${pipeline_dir}/x", deep: "${vars.root}/y-${vars.lr}"}
env: {A: "1", B: "${env.HOME:-none}"}
stages:
  - {name: cache, kind: teacher_logits, command: teach, outputs: ["${run_dir}/cache"]}
  - name: train
    kind: student_train
    matrix: {size: [1b, 7b], alpha: [0.5, 1.0]}
    command: "train ${stages.cache.out} --out ${outputs.out} --lr ${vars.lr} $${shell} '${vars.deep}'"
    env: {C: "${matrix.size}"}
    inputs: {cache: "${stages.cache.out}"}
    outputs: {out: "${run_dir}/${stage_name}"}
    timeout: 2h
    tokens: {trained: 10}
  - {name: judge, kind: x-judge, command: ["./judge", "${stages.train[*].out}"]}
"""
TEXTS = [
    *(
        "",
        " ",
        "x",
        "${",
        "${run_dir}",
        "$${",
        "${vars.lr}",
        "${env.X:-}",
        "../..",
        "/",
        "~",
        "\u2028",
        "\u202e",
    ),
    *(
        "<",
        "<x",
        "=1+1",
        "[/]",
        "a" * 5000,
        "null",
        "1e999",
        "\x1b[2J",
        "9" * 30,
        "2024-01-01",
        "NO",
        "\ud800",
    ),
    *("\u202e", "\ud800", "\0", "${stages.cache.out}"),
]
NUMBERS = [0, 1, -1, 2, 127, 255, 2**15, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63), 0.5, -0.0, 1e308]
ODD: list[Any] = [None, True, [], {}, [None], float("nan"), float("inf")]
PLAIN = ["a", "b-2", "0.5", "x y", "7", "run", "logs/a"]


def mutate_pipeline(rng: random.Random) -> bytes:
    """A pipeline file with one or two changes of structure, or of bytes; mild ones and wild ones."""
    document = yaml.safe_load(PIPELINE)
    if rng.random() < 0.1:
        data = bytearray(PIPELINE.encode())
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    for _ in range(rng.randint(1, 2)):
        holder, key = rng.choice(list(places(document)))
        match rng.randrange(8):
            case 0:
                holder[key] = rng.choice([*TEXTS, *NUMBERS, None, True, [], {}, ["x"], {"a": "b"}])
            case 1:
                del holder[key]
                if not document:
                    break
            case 2 if isinstance(holder, dict):
                holder[rng.choice(TEXTS)] = holder[key]
            case 3 | 4:
                document.setdefault("vars", {})
                if isinstance(document["vars"], dict):
                    document["vars"][rng.choice("abcdefgh")] = rng.choice(
                        [*PLAIN, *NUMBERS, "${vars.lr}", "$${x}"]
                    )
            case 5:
                document["labels"] = rng.sample(["a", "b", "c-1", "d"], rng.randint(0, 4))
            case 6 if isinstance(document.get("stages"), list) and document["stages"]:
                stage = rng.choice(document["stages"])
                if isinstance(stage, dict):
                    stage[rng.choice(["retries", "timeout", "command"])] = rng.choice([1, 2, 3])
            case _:
                document["env"] = {rng.choice("ABC"): rng.choice([*PLAIN, "${env.HOME:-x}"])}
    return yaml.safe_dump(document, allow_unicode=rng.random() < 0.5, sort_keys=False).encode(
        "utf-8", "replace"
    )


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) of a document."""
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], dict | list) and holder[key]:
                waiting.append(holder[key])


def mutate_bundle(folder: Path, rng: random.Random) -> None:
    """One change: the manifest, a table's values or columns, a file's bytes, or what lies in its place."""
    manifest = folder / "manifest.json"
    table = rng.choice(sorted(folder.glob("*.parquet")))
    match rng.randrange(8):
        case 0 | 1:
            data = json.loads(manifest.read_bytes())
            for _ in range(rng.randint(1, 3)):
                holder, key = rng.choice(list(places(data)))
                holder[key] = rng.choice([*TEXTS, *NUMBERS, *ODD])
            manifest.write_bytes(json.dumps(data).encode("utf-8", "replace"))
        case 2:
            damage(manifest, rng)
        case 3:
            damage(table, rng)
        case 4 | 5:
            change_values(table, rng)
            relist(folder, table)
        case 6:
            change_columns(table, rng)
            relist(folder, table)
        case _:
            victim = rng.choice([table, manifest])
            victim.unlink()
            match rng.randrange(4):
                case 0:
                    os.mkfifo(victim)
                case 1:
                    victim.symlink_to(rng.choice(["/dev/zero", "/etc", "nowhere"]))
                case 2:
                    victim.mkdir()


def damage(path: Path, rng: random.Random) -> None:
    """Change, cut or repeat some bytes of a file."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 6)):
        spot = rng.randrange(len(data)) if data else 0
        match rng.randrange(4):
            case 0:
                del data[spot:]
            case 1:
                data[spot:spot] = data[spot : spot + rng.randrange(64)]
            case _ if data:
                data[spot] = rng.randrange(256)
    path.write_bytes(data)


def change_values(path: Path, rng: random.Random) -> None:
    """Put an odd value into some rows of a column."""
    table = pq.read_table(path)
    if not table.num_rows:
        return
    place = rng.randrange(table.num_columns)
    field, values = table.schema.field(place), table.column(place).to_pylist()
    for _ in range(rng.randint(1, 3)):
        spot = rng.randrange(len(values))
        odd = rng.choice([*TEXTS, *NUMBERS, None, float("nan"), float("inf")])
        values[spot] = [odd] if pa.types.is_list(field.type) else odd
    with contextlib.suppress(pa.ArrowException, OverflowError, TypeError, ValueError):
        pq.write_table(table.set_column(place, field, pa.array(values, field.type)), path)


def change_columns(path: Path, rng: random.Random) -> None:
    """Drop, repeat, rename or retype a column, or change the order or number of rows."""
    table = pq.read_table(path)
    place = rng.randrange(table.num_columns)
    name = table.schema.names[place]
    match rng.randrange(5):
        case 0:
            table = table.remove_column(place)
        case 1:
            table = table.append_column(name, table.column(place))
        case 2:
            table = table.set_column(place, "x-" + name, table.column(place))
        case 3:
            with contextlib.suppress(pa.ArrowException):
                table = table.set_column(place, name, table.column(place).cast(pa.string()))
        case _:
            rows = (
                rng.choices(range(table.num_rows), k=rng.randint(0, 2 * table.num_rows))
                if table.num_rows
                else []
            )
            table = table.take(pa.array(rows, pa.int64()))
    pq.write_table(table, path)


def relist(folder: Path, path: Path) -> None:
    """List a changed file with its new bytes, as a forger would."""
    import hashlib

    if not path.exists():
        return  # a value that Parquet cannot hold: the writer takes its file away
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for entry in manifest["files"]:
        if entry["path"] == path.name:
            data = path.read_bytes()
            rows = pq.read_metadata(path).num_rows
            entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), rows=rows)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def read_pipeline(folder: Path, rng: random.Random) -> str:
    """Mutate and plan."""
    from harness.audit.plan import describe, load_plan
    from harness.audit.recorded import CommandDigests

    path = folder / "fuzz.yaml"
    path.write_bytes(mutate_pipeline(rng))
    plan = load_plan(path, run_dir=folder / "out", environ={})
    describe(plan)
    plan.as_dict(CommandDigests(folder))
    return "plan"


def read_bundle(folder: Path, rng: random.Random) -> str:
    """Mutate, validate, and report in every format."""
    from rich.console import Console

    from harness.report import formats, terminal
    from harness.report.model import build
    from harness.validate import validate
    from harness.validate.sarif import workflow_commands
    from harness.validate.text import print_report

    mutate_bundle(folder, rng)
    found = validate(folder, threads=1)
    out = Console(file=io.StringIO(), width=100)
    print_report(found, out, where="run")
    json.dumps(found.as_dict())
    workflow_commands([found], ["run"])
    report = build(folder)
    terminal.print_report(report, out)
    for write in (formats.to_json, formats.to_markdown, formats.to_csv):
        write(report)
    return "report"


def read_journal(folder: Path, rng: random.Random) -> str:
    """Spoil a record or some bytes, read and seal."""
    from harness.audit.late_reports import take_late_reports
    from harness.bundle.seal import recover
    from harness.journal.records import read_journal as read
    from tests.journal.test_odd_records import spoil, write

    kept = sorted((folder / "journal").glob("*.jnl"))
    if rng.random() < 0.3:
        damage(rng.choice(kept), rng)
    else:
        frames = {path.name: [(frame.kind, frame.payload) for frame in read(path)] for path in kept}
        shutil.rmtree(folder / "journal")
        write(folder, spoil(frames, rng))
    take_late_reports(folder)
    recover(folder)
    return "sealed"


def seed_bundle(folder: Path) -> Path:
    """A small bundle to mutate."""
    from tests.accounting.synthetic import Stage, make_run

    cache = Stage("cache", "teacher_logits", 2, 5, 600, tokens=9)
    stages = (cache, Stage("train", "student_train", 5, 8, 500))
    return make_run(stages, devices=1, end_s=9.0, rapl=True).write(folder / "bundle")


def seed_journal(folder: Path) -> Path:
    """A run with made-up CPU counters that was killed in its third stage."""
    import subprocess

    from tests.journal.test_odd_records import PROGRAM
    from tests.lab import Const, FakePowercap, Zone

    kept = folder / "killed"
    kept.mkdir()
    with FakePowercap(folder / "powercap", [Zone("package-0", (Const(50.0),))]) as cpu:
        words = [sys.executable, "-c", PROGRAM, str(folder / "run"), str(kept / "journal")]
        subprocess.run(words, env={**os.environ, **cpu.env()}, check=True)
    return kept


def attempt(name: str, read: Callable[[Path, random.Random], str], folder: Path, seed: str) -> str:
    """One mutation; what came of it."""

    def endless(*_: object) -> None:
        raise TimeoutError(f"no end after {MOST_S} s")

    signal.signal(signal.SIGALRM, endless)
    signal.alarm(MOST_S)
    try:
        return read(folder, random.Random(seed))
    except KitError as error:
        str(error)
        return "KitError"
    except Exception as error:
        print(f"{name} {seed}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        return "unexpected"
    finally:
        signal.alarm(0)


def main() -> int:
    """Run the mutations and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--yaml", type=int, default=10_000)
    parser.add_argument("--bundles", type=int, default=5_000)
    parser.add_argument("--journals", type=int, default=2_000)
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        return run(Path(work), options)


def run(work: Path, options: argparse.Namespace) -> int:
    """Every kind in turn; 1 where something was unexpected or too few pipeline files made a plan."""
    kinds: list[tuple[str, int, Callable[[Path, random.Random], str], Callable[[Path], Path] | None]] = [
        ("yaml", options.yaml, read_pipeline, None),
        ("bundles", options.bundles, read_bundle, seed_bundle),
        ("journals", options.journals, read_journal, seed_journal),
    ]
    unexpected = 0
    for name, count, read, make in kinds:
        if not count:
            continue
        seed = make(work) if make else None
        begun, outcomes = time.process_time(), Counter[str]()
        for number in range(count):
            folder = work / "one"
            shutil.copytree(seed, folder) if seed else folder.mkdir()
            outcomes[attempt(name, read, folder, f"{options.seed}-{name}-{number}")] += 1
            shutil.rmtree(folder)
        unexpected += outcomes["unexpected"]
        shown = ", ".join(f"{word} {n}" for word, n in sorted(outcomes.items()) if word != "unexpected")
        took = time.process_time() - begun
        print(f"{name}: {count} mutations, {shown}, unexpected {outcomes['unexpected']}, {took:.0f} s of CPU")
        if name == "yaml" and 2 * outcomes["plan"] < count:
            print("yaml: fewer than half made a plan", file=sys.stderr)
            unexpected += 1
    return int(unexpected > 0)


if __name__ == "__main__":
    sys.exit(main())
