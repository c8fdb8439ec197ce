"""The files of vectors: what the oracle writes, by their schema, complete, and described in their README."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.conformance import OPERATIONS, load_vectors, vector_files
from harness.errors import KitError
from harness.spec import load_protocol

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "protocol" / "1.0" / "vectors"
ORACLE = ROOT / "tests" / "oracle"

VECTORS = load_vectors()


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads((FOLDER / "vectors.schema.json").read_text())


def documents() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in vector_files()]


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.oracle.make", "--check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_files_are_what_the_oracle_writes(tmp_path):
    done = check()
    assert (done.returncode, done.stdout) == (0, "")


def test_check_sees_one_changed_digit_and_a_foreign_file(tmp_path):
    for path in FOLDER.glob("*.*"):
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace('"energy_j": 24000.0', '"energy_j": 24000.1'))
    (tmp_path / "mine.json").write_text("{}")
    done = check("--folder", str(tmp_path))
    assert done.returncode == 1
    assert "mine.json" in done.stdout and "24000.1" in done.stdout


def test_the_oracle_knows_nothing_of_the_kit():
    rooms = list(ORACLE.rglob("*.py"))
    assert len(rooms) > 10
    for path in rooms:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names = [name for name in names if not f"{name}.".startswith("tests.oracle.")]
            foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
            assert not foreign, (path.name, foreign)


def test_every_file_is_by_the_schema(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    for document in documents():
        jsonschema.validate(document, schema)


@pytest.mark.parametrize(
    "change",
    [
        {"result": "right"},
        {"result": "invalid"},
        {"flags": ["Twice", "Twice"]},
        {"flags": ["lower"]},
        {"notes": {}},
        {"clause": "four"},
        {"expected": {}},
        {"surplus": 1},
        {"tolerance": {"relative": 1}},
        {"input": []},
        {"id": "Has Spaces"},
    ],
)
def test_the_schema_refuses(schema, change):
    document = documents()[0]
    document["vectors"][0] = document["vectors"][0] | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_the_schema_wants_an_answer_of_a_valid_vector(schema):
    document = documents()[0]
    del document["vectors"][0]["expected"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_there_are_enough_and_every_operation_is_tested():
    assert len(VECTORS) >= 150
    assert {vector["op"] for vector in VECTORS} == set(OPERATIONS)
    assert Counter(vector["result"] for vector in VECTORS)["invalid"] >= 30
    least = Counter(vector["family"] for vector in VECTORS).most_common()[-1]
    assert least[1] >= 4, least


def test_clauses_exist():
    """A clause of a column (5.1.4) is written in its table."""
    protocol = load_protocol()
    known = set(protocol.clauses)
    for table in protocol.tables.values():
        known |= {column.clause for column in table.columns}
    assert {vector["clause"] for vector in VECTORS} <= known


def test_ids_begin_with_their_family():
    for vector in VECTORS:
        assert vector["id"].startswith(f"{vector['family']}-")


def test_the_first_flag_explains_the_vector():
    for document in documents():
        for vector in document["vectors"]:
            assert set(vector["flags"]) <= set(document["flags"])
            if vector["flags"]:
                bugs = {document["flags"][flag]["bug"] for flag in vector["flags"]}
                assert vector["notes"]["bug"] in bugs


def rows_of_readme() -> dict[str, tuple[str, str]]:
    text = (FOLDER / "README.md").read_text()
    table = text[text.index("| op | input | output |") :].split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {name.strip("`"): (given, answer) for name, given, answer in rows}


def test_readme_names_every_operation_and_every_member():
    rows = rows_of_readme()
    assert set(rows) == set(OPERATIONS)
    for vector in VECTORS:
        given, answer = rows[vector["op"]]
        if answer.startswith("as `"):
            answer = rows[answer.split("`")[1]][1]
        for name in vector["input"]:
            assert f"`{name}`" in given, (vector["id"], name)
        for name in vector.get("expected", {}):
            assert f"`{name}`" in answer, (vector["id"], name)


def test_readme_names_every_flag():
    text = (FOLDER / "README.md").read_text()
    named = set(re.findall(r"^\| `([A-Z]\w+)` \| \d+ \|", text, re.MULTILINE))
    assert named == {flag for vector in VECTORS for flag in vector["flags"]}


def test_published_answers_are_the_papers():
    """Figures of arXiv 2605.13981, written here once more by hand."""
    expected = {vector["id"]: vector.get("expected", {}) for vector in VECTORS}
    assert expected["published-sum-kd-1b"]["it_energy_j"] == pytest.approx(16.90 * 3.6e6)
    assert expected["published-denominator-sft-7b"] == {"tokens": 30_000_000, "j_per_token": 2.34}
    reuses = {cell: expected[f"published-reuses-{cell}"] for cell in ("kd-1b", "kd-13b", "syn-1b", "syn-13b")}
    assert {cell: round(found["ratio"], 2) for cell, found in reuses.items()} == {
        "kd-1b": 10.0,
        "kd-13b": 3.55,
        "syn-1b": 11.16,
        "syn-13b": 2.36,
    }
    assert [found["whole"] for found in reuses.values()] == [10, 4, 12, 3]


def test_rfc_8785_numbers_are_its_own():
    """Samples of RFC 8785, appendix B."""
    expected = {vector["id"]: vector.get("expected", {}).get("canonical") for vector in VECTORS}
    assert expected["canonical-json-number-smallest"] == "5e-324"
    assert expected["canonical-json-number-largest"] == "1.7976931348623157e+308"
    assert expected["canonical-json-number-digits-17"] == "295147905179352830000"
    assert expected["canonical-json-number-shortest"] == "333333333.3333333"
    assert expected["canonical-json-number-half-even"] == "1424953923781206.2"


def test_a_file_that_is_none_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "1.0" / "vectors"
    folder.mkdir(parents=True)
    (tmp_path / "1.0" / "protocol.yaml").touch()
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(tmp_path))
    with pytest.raises(KitError, match="no conformance vectors"):
        load_vectors()
    (folder / "one.json").write_text('{"vectors": 3}')
    with pytest.raises(KitError, match=r"one\.json: is no file of vectors"):
        load_vectors()
    vector = {"id": "one-a", "clause": "1", "op": "totals", "result": "valid", "input": {}, "expected": {}}
    (folder / "one.json").write_text(json.dumps({"family": "one", "vectors": [vector, vector]}))
    with pytest.raises(KitError, match="'one-a' was used in one"):
        load_vectors()
    for change, message in (({"op": 3}, "'op' is missing"), ({"result": "maybe"}, "maybe")):
        (folder / "one.json").write_text(json.dumps({"family": "one", "vectors": [vector | change]}))
        with pytest.raises(KitError, match=message):
            load_vectors()
