"""YAML with places: values as YAML 1.2 reads them, and every refusal at its line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.audit.yaml_source import load, parse, plain
from harness.errors import KitError


def test_values_are_read_as_yaml_1_2_does() -> None:
    text = "region: NO\nflag: true\nswitch: on\nrate: 1e-4\nbig: 30_000_000\nzip: 01234\ntime: 1:30\n"
    text += "none:\nat: '2024-01-01'\n"
    assert plain(parse(text, "p.yaml")) == {
        "region": "NO",
        "flag": True,
        "switch": "on",
        "rate": 1e-4,
        "big": 30_000_000,
        "zip": "01234",
        "time": "1:30",
        "none": None,
        "at": "2024-01-01",
    }


def test_numbers_remember_how_they_were_written() -> None:
    value = plain(parse("a: [1e-4, 0.50, 1_000]", "p.yaml"))["a"]
    assert [number.text for number in value] == ["1e-4", "0.50", "1_000"]
    assert value == [0.0001, 0.5, 1000]


def test_keys_and_values_know_their_place() -> None:
    node = parse("a: 1\nb:\n  - c:  x\n    d: [y, z]\n", "p.yaml")
    item = node.value["b"].value[0]
    assert str(item.value["c"].mark) == "p.yaml:3:9"
    assert str(item.value["c"].key_mark) == "p.yaml:3:5"
    assert str(item.value["d"].value[1].mark) == "p.yaml:4:12"


def test_anchors_and_merge_keys() -> None:
    text = "base: &b {x: 1, y: 2}\nsame: *b\nmore:\n  <<: *b\n  y: 3\nboth: {<<: [*b, {z: 4}], x: 0}\n"
    value = plain(parse(text, "p.yaml"))
    assert value["same"] == {"x": 1, "y": 2}
    assert value["more"] == {"x": 1, "y": 3}
    assert value["both"] == {"x": 0, "y": 2, "z": 4}


@pytest.mark.parametrize(
    ("data", "place", "found", "fix"),
    [
        (b"", "1:1", "the file is empty", "docs/pipeline_file.md"),
        (b"# only a comment\n", "1:1", "the file is empty", "docs/pipeline_file.md"),
        (b"- a\n- b\n", "1:1", "the top level is a list of 2", "docs/pipeline_file.md"),
        (b"just words\n", "1:1", "the top level is 'just words'", "docs/pipeline_file.md"),
        (b"a: 1\nb: 2\na: 3\n", "3:1", "the key 'a' stands here a second time (first at line 1)", "rename"),
        (
            b"s:\n  - k: 1\n    k: 2\n",
            "3:5",
            "the key 'k' stands here a second time (first at line 2)",
            "rename",
        ),
        (b"a:\n\tb: 1\n", "2:1", "cannot start any token", "tab"),
        (b"a: [1, 2\nb: 3\n", "2:2", "not YAML", "brackets"),
        (b"a: 'open\n", "2:1", "unexpected end of stream", "quotes"),
        (b"a: b: c\n", "1:5", "mapping values are not allowed here", "command: |"),
        (b"c: [x, ${run_dir}/y]\n", "1:9", "not YAML", "quote it"),
        (b"a: @x\n", "1:4", "cannot start any token", "quote the value"),
        (b"a: 1\n---\nb: 2\n", "2:1", "found another document", "---"),
        (b"a: 1\nb: caf\xe9\n", "2:7", "byte 0xe9 is not UTF-8", "iconv"),
        (b"a: 1\nb: x\x07y\n", "2:5", "U+0007", "delete"),
        (b'a: "\\0"\n', "1:4", "U+0000", "remove"),
        (b'a: "\\ud800"\n', "1:4", "U+D800", "remove"),
        (b'a: "\\UFFFFFFFF"\n', "1:1", "not YAML", "escapes"),
        (b"a: .nan\n", "1:4", ".nan is not a finite number", "leave the field out"),
        (b"a: [-.INF]\n", "1:5", "-.INF is not a finite number", "leave the field out"),
        (b"a: 1e999\n", "1:4", "1e999 is not a finite number", "leave the field out"),
        (b"a: 12345678901234567890\n", "1:4", "too large a number", "quote"),
        (b"a: 2024-05-01\n", "1:4", "2024-05-01 is an unquoted date", '"2024-05-01"'),
        (b"a: 2024-05-01T10:00:00Z\n", "1:4", "an unquoted date", "quotes"),
        (b"a: !!python/object:os.system x\n", "1:4", "the tag", "remove the tag"),
        (b"a: *nothing\n", "1:4", "undefined alias 'nothing'", "anchor"),
        (b"a: &x [*x]\n", "1:4", "nested too deeply", "alias inside its own anchor"),
        (b"? [a, b]\n: c\n", "1:3", "this key is no text", "'?'"),
        (b"{? : c}\n", "1:3", "this key is no text", "'?'"),
        (b"a: " + b"[" * 60 + b"]" * 60, "1:44", "nested too deeply", "'['"),
        (b"a: &a [" + b"x," * 400 + b"]\nb: [" + b"*a," * 150 + b"]\n", "1:550", "grows too large", "vars"),
    ],
)
def test_refusals(tmp_path: Path, data: bytes, place: str, found: str, fix: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(data)
    with pytest.raises(KitError) as caught:
        load(path, "p.yaml")
    assert caught.value.where == f"p.yaml:{place}"
    assert found in caught.value.message
    assert caught.value.expected
    assert fix in (caught.value.fix or "")


def test_billion_laughs_is_cut_short() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(KitError, match="grows too large"):
        parse("\n".join(lines), "p.yaml")


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("a: 1\n")
    with pytest.raises(KitError, match=r"no such file\. Did you mean 'pipeline\.yaml'\?"):
        load(tmp_path / "pipeline.yml")


def test_folder_and_huge_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="this is a directory"):
        load(tmp_path)
    (tmp_path / "big.yaml").write_text("a: 1\n" * 100_000)
    with pytest.raises(KitError, match="at most 262144 bytes"):
        load(tmp_path / "big.yaml")
