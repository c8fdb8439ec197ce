"""2,000 seeded mutations of valid pipeline files: a plan or a KitError that names the file, nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.audit.plan import describe, load_plan
from harness.audit.recorded import CommandDigests
from harness.errors import KitError

pytestmark = pytest.mark.fuzz

MUTATIONS = 2000
ROOT = Path(__file__).resolve().parents[2]

SMALL = b"""protocol: "1.0"
name: small
method: sft
stages:
  - {name: one, kind: prerun, command: "echo ${run_dir}", outputs: "${run_dir}/a"}
  - {name: two, kind: judge, command: [cat, "${stages.one.out}"], inputs: ["${stages.one.out}"]}
"""
SWEEP = b"""protocol: 1.0
name: sweep-1
method: kd
region: NO
reference_tokens: 30000000
labels: [base]
pue: 1.25
devices: [0, GPU-1a]
sampling: {period_ms: 100}
vars: {lr: 1e-4, root: "${pipeline_dir}/x", deep: "${vars.root}/y-${vars.lr}"}
env: &env {A: "1", B: "${env.HOME:-none}"}
stages:
  - name: cache
    kind: teacher_logits
    command: teach
    outputs: ["${run_dir}/cache"]
  - name: train
    kind: student_train
    matrix: {size: [1b, 7b], alpha: [0.5, 1.0], hours: [2h]}
    command: >-
      python train.py ${stages.cache.out} --out ${outputs.out}
      --lr ${vars.lr} $${shell} '${vars.deep}'
    env: {<<: *env, C: "${matrix.size}"}
    inputs: {cache: "${stages.cache.out}"}
    outputs: {out: "${run_dir}/${stage_name}", log: "logs/${stage_name}"}
    timeout: ${matrix.hours}
    retries: 2
    tokens: {trained: 10, denominator: 30_000_000}
  - name: judge
    kind: x-judge
    cwd: ${pipeline_dir}/.
    command: ["./judge", "${stages.train[size=7b,alpha=1,hours=2h].log}", "${stages.train[*].out}"]
    inputs: ["${stages.train[*].out}", "${pipeline_dir}/data.txt"]
"""
TOKENS = [
    *(b": ", b"- ", b"[", b"]", b"{", b"}", b"'", b'"', b"\n", b"  ", b"\t", b"#", b"|\n", b">-\n", b"? "),
    *(b"&a ", b"*a", b"*env", b"<<: ", b"!", b"!!str ", b"---\n", b"...\n", b"%YAML 9.9\n"),
    *(b"${", b"}", b"$${", b"${run_dir}", b"${vars.lr}", b"${vars.}", b"${env.X:-}", b"${stages.train.out}"),
    *(b"${stages.cache[*].out}", b"${stages.x[a=].0}", b"${stages.train[=].out}", b"${outputs.out}"),
    *(
        b"null",
        b"~",
        b"true",
        b".nan",
        b"-.inf",
        b"1e999",
        b"2024-01-01",
        b"9" * 30,
        b"0x1F",
        b"-0",
        b"1e-400",
    ),
    *(b"\x00", b"\xff", b"\xc3", b"\xf0\x9f\x92\xa9", b"\xe2\x80\xa8", b"\xef\xbb\xbf"),
    *(b'"\\ud800"', b'"\\UFFFFFFFF"', b'"\\x"', b"..", b"/", b"~/x", b"fuzz.yaml"),
    *(b"a" * 300, b"a/" * 3000),
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 10**30, 1.5, float("nan"), "", " ", "x", "${", "../..", "/", "\u2028", "a" * 5000),
    *("${run_dir}", "${vars.a}", {"a": "${vars.a}"}, ["${stages.train[*].out}"], list(range(2000))),
    *([], {}, [[]], [None], ["x", 1, True], {"": 1}, {"a": {"b": []}}, {"train": None}, {"size": ["1b"]}),
    *({"T": [1], "a": []}, {"T": 1}, {"T": [[1]]}, {"T": [1, 1.0]}, {"a b": [1]}),
]


def flip_byte(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] = rng.choice([rng.randrange(256), rng.randrange(32, 127)])
    return bytes(changed)


def change_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    here, there = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            del lines[here]
        case 1:
            lines.insert(there, lines[here])
        case 2:
            lines[here], lines[there] = lines[there], lines[here]
        case 3:
            lines[here] = b" " * rng.randrange(6) + lines[here].lstrip()
        case 4:
            lines = lines[:here]
        case _:
            lines[here] += lines[there]
    return b"\n".join(lines)


def change_tokens(data: bytes, rng: random.Random) -> bytes:
    words = re.findall(rb"\w+|\W", data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(words))
        match rng.randrange(3):
            case 0:
                words[place] = rng.choice(TOKENS)
            case 1:
                words.insert(place, rng.choice(TOKENS))
            case _:
                words[place] = rng.choice(words)
    return b"".join(words)


def change_structure(data: bytes, rng: random.Random) -> bytes:
    document = yaml.safe_load(data)
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        places += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    for _ in range(rng.randint(1, 2)):
        holder, key = rng.choice(places)
        if (isinstance(holder, list) and key >= len(holder)) or (
            isinstance(holder, dict) and key not in holder
        ):
            continue
        other, other_key = rng.choice(places)
        match rng.randrange(4):
            case 0:
                holder[key] = rng.choice(VALUES)
            case 1:
                del holder[key]
            case 2 if isinstance(holder, dict):
                holder[rng.choice(["stages", "matrix", "name", "vars", "inputs", "x", "env"])] = holder.pop(
                    key
                )
            case _ if isinstance(other, list) and other_key < len(other):
                holder[key] = yaml.safe_load(yaml.safe_dump(other[other_key]))
            case _:
                holder[key] = rng.choice(VALUES)
    return yaml.safe_dump(
        document, allow_unicode=rng.random() < 0.5, default_flow_style=rng.random() < 0.3
    ).encode()


LEVELS: list[Callable[[bytes, random.Random], bytes]] = [
    flip_byte,
    change_lines,
    change_tokens,
    change_structure,
]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.__name__)
def test_mutations_never_give_anything_but_a_plan_or_a_kit_error(
    tmp_path: Path, level: Callable[[bytes, random.Random], bytes]
) -> None:
    (tmp_path / "data.txt").touch()
    path = tmp_path / "fuzz.yaml"
    seeds = [SMALL, SWEEP, (ROOT / "examples" / "minimal.yaml").read_bytes()]
    options: list[dict[str, Any]] = [
        {},
        {},
        {},
        {"only": "train"},
        {"from_stage": "two"},
    ]
    rng = random.Random(level.__name__)
    plans, refusals = 0, 0
    digests = CommandDigests(tmp_path)
    for number in range(MUTATIONS // len(LEVELS)):
        data = level(rng.choice(seeds), rng)
        path.write_bytes(data)
        try:
            found = load_plan(path, run_dir=tmp_path / "out", environ={}, **rng.choice(options))
        except KitError as error:
            refusals += 1
            assert str(error).startswith(f"{path}:"), f"mutation {number}: {error}"
            assert re.search(r":\d+:\d+$", str(error.where)), error.where
        except Exception as error:
            raise AssertionError(f"mutation {number} gave {error!r} on {data!r}") from error
        else:
            plans += 1
            describe(found)
            found.as_dict(digests)
    # Were all refused or all accepted, the mutations would show little.
    assert plans >= 10
    assert refusals >= 100


def test_the_seeds_are_valid(tmp_path: Path) -> None:
    (tmp_path / "data.txt").touch()
    for seed, stages in ((SMALL, 2), (SWEEP, 6)):
        (tmp_path / "fuzz.yaml").write_bytes(seed)
        assert len(load_plan(tmp_path / "fuzz.yaml", environ={}).stages) == stages
