"""The manifest's definition: its own checker and the JSON Schema derived from it agree."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest

from harness.spec import json_schema, load_protocol
from tests.bundle.make import manifest


def full_manifest() -> dict[str, Any]:
    entry = {"path": "power.parquet", "sha256": "a" * 64, "bytes": 1, "rows": 1, "logical_sha256": "b" * 64}
    return manifest() | {
        "protocol_version": "1.0.0",
        "schema_id": "manifest/1.0",
        "run_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "files": [entry | {"schema_id": "power/1.0"}],
    }


def put(value: Any, path: list[Any], new: Any) -> Any:
    value = copy.deepcopy(value)
    at = value
    for key in path[:-1]:
        at = at[key]
    if new is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return value


def test_a_right_manifest_has_no_problem() -> None:
    assert load_protocol().manifest.problems(full_manifest()) == []
    assert load_protocol().manifest.problems(put(full_manifest(), ["x-mine"], {"a": 1})) == []
    jsonschema.Draft202012Validator(json_schema("manifest")).validate(full_manifest())


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (["method"], "dpo", "method"),
        (["status"], None, "status"),
        (["run_id"], "01ARZ3NDEKTSV4RRFFQ69G5FAVX", "run_id"),
        (["run_id"], ..., "run_id"),
        (["hostname"], "n1", "hostname"),
        (["created_t_us"], 1.5, "created_t_us"),
        (["created_t_us"], True, "created_t_us"),
        (["labels"], "cpu", "labels"),
        (["labels"], ["a", 1], "labels"),
        (["hardware", "devices"], {}, "hardware.devices"),
        (["hardware", "devices", 0, "serial"], "1", "hardware.devices[0].serial"),
        (["hardware", "devices", 0, "mig"], "no", "hardware.devices[0].mig"),
        (["sampling", "sessions", 0], ..., None),
        (["sampling", "clock"], "WALL", "sampling.clock"),
        (["files", 0, "path"], "../power.parquet", "files[0].path"),
        (["files", 0, "path"], "power/part-1.parquet", "files[0].path"),
        (["files", 0, "sha256"], "a" * 63, "files[0].sha256"),
        (["boundary", "gpu"], "yes", "boundary.gpu"),
        (["factors"], None, "factors"),
    ],
)
def test_each_slip_is_found_by_the_checker_and_by_the_schema(
    path: list[Any], value: Any, name: str | None
) -> None:
    wrong = put(full_manifest(), path, value)
    problems = load_protocol().manifest.problems(wrong)
    valid = jsonschema.Draft202012Validator(json_schema("manifest")).is_valid(wrong)
    assert [p.path for p in problems] == ([name] if name else [])
    assert valid == (name is None)


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_object_is_no_manifest(value: object) -> None:
    assert load_protocol().manifest.problems(value)
