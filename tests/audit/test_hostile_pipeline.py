"""Pipeline files that were made to keep the reader busy: time grows with their length, no faster."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.audit.plan import load_plan
from harness.audit.yaml_source import parse
from harness.errors import KitError

SIZE = 100_000
HEAD = 'protocol: "1.0"\nname: a\nmethod: sft\n'
TAIL = '\nstages:\n  - {name: s, kind: prerun, command: ["true"]}\n'
MOST_CPU_S = 20.0
"""A hundred times what it takes; what is quadratic takes longer."""


def filled(unit: str) -> str:
    return unit * (SIZE // len(unit))


CASES = {
    "open": HEAD + f'vars: {{a: "{filled("${")}"}}' + TAIL,
    "open-names": HEAD + f'vars: {{a: "{filled("${x")}"}}' + TAIL,
    "escaped": HEAD + f'vars: {{a: "{filled("$${")}"}}' + TAIL,
    "unknown": HEAD + f'vars: {{a: "{filled("${vars.b}")}"}}' + TAIL,
    "unknown-each": HEAD + "vars:\n" + "".join(f"  k{i}: ${{vars.q{i}}}\n" for i in range(SIZE // 20)) + TAIL,
    "devices": HEAD + f"devices: [{','.join(map(str, range(SIZE // 12)))}]" + TAIL,
    "path": HEAD + TAIL.replace("command", f'inputs: "{"a/" * 30_000}", command'),
    "multiplied": HEAD
    + f'vars: {{a: "{"a" * 30_000}", b: "${{vars.a}}${{vars.a}}"}}'
    + TAIL.replace('["true"]', f"[{','.join(['x${vars.b}'] * 1500)}]"),
    "multiplied-by-a-matrix": HEAD
    + f'env: {{A: "{"a" * 60_000}"}}'
    + TAIL.replace("command", "matrix: {seed: [" + ",".join(map(str, range(2000))) + "]}, command"),
    "long-path": HEAD + TAIL.replace("command", f'outputs: "${{run_dir}}/{"a" * 50_000}", command'),
}


@pytest.mark.parametrize("name", CASES)
def test_no_text_takes_quadratic_time(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.yaml").write_text(CASES[name])
    begun = time.process_time()
    with pytest.raises(KitError) as caught:
        load_plan(tmp_path / "a.yaml", run_dir=tmp_path / "out", environ={})
    assert time.process_time() - begun < MOST_CPU_S
    assert len(str(caught.value)) < SIZE


def test_anchors_without_spaces_are_no_tag_search() -> None:
    begun = time.process_time()
    parse("a: [" + "&a," * 10_000 + "]", "a.yaml")
    assert time.process_time() - begun < MOST_CPU_S


@pytest.mark.parametrize("key", ["<", "<x", "<text>", "<<", "[key]", "<list>"])
@pytest.mark.parametrize("inside", [False, True])
def test_no_key_is_taken_for_a_tag_of_the_checker(tmp_path: Path, key: str, inside: bool) -> None:
    odd = f'"{key}": 1\n'
    text = HEAD + TAIL.replace("command", f'"{key}": 1, command') if inside else HEAD + odd + TAIL
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(KitError, match="is not a field") as caught:
        load_plan(tmp_path / "a.yaml", environ={})
    assert repr(key) in str(caught.value)
