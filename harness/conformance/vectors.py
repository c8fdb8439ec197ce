"""The vectors of a protocol version, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.spec import version_folder

Vector = Mapping[str, Any]

_TEXTS = ("id", "clause", "op", "result")
_RESULTS = ("valid", "invalid", "acceptable")


def vector_files(version: str | None = None) -> list[Path]:
    """Files of vectors, one for each family, by name.

    Raises:
        KitError: There are none.
    """
    folder = version_folder(version) / "vectors"
    found = sorted(path for path in folder.glob("*.json") if not path.name.endswith(".schema.json"))
    if not found:
        raise KitError("holds no conformance vectors", where=str(folder), fix="reinstall the package")
    return found


def load_vectors(version: str | None = None) -> list[dict[str, Any]]:
    """Every vector, with its family beside it, files by name and vectors in the order of their file.

    Raises:
        KitError: A file cannot be read, or two vectors have one id.
    """
    vectors: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for path in vector_files(version):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            family, found = str(document["family"]), list(document["vectors"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KitError(f"is no file of vectors: {error}", where=str(path)) from None
        for vector in found:
            check_vector(vector, path.name)
            if vector["id"] in seen:
                raise KitError(f"id {vector['id']!r} was used in {seen[vector['id']]}", where=path.name)
            seen[vector["id"]] = path.name
            vectors.append({"family": family, **vector})
    return vectors


def check_vector(vector: object, where: str) -> None:
    """Refuse what is no vector.

    Raises:
        KitError: A member is missing or of the wrong kind.
    """
    if not isinstance(vector, dict):
        raise KitError("a vector is a JSON object", where=where)
    name = vector.get("id", "(no id)")
    lost = [key for key in _TEXTS if not isinstance(vector.get(key), str)]
    if not isinstance(vector.get("input"), dict):
        lost.append("input")
    if lost:
        raise KitError(f"vector {name}: {lost[0]!r} is missing or of the wrong kind", where=where)
    if vector["result"] not in _RESULTS:
        raise KitError(
            f"vector {name}: result {vector['result']!r}",
            where=where,
            expected=f"one of {', '.join(_RESULTS)}",
        )
    if (vector["result"] == "invalid") == isinstance(vector.get("expected"), dict):
        raise KitError(
            f"vector {name}: result {vector['result']} and `expected` contradict each other",
            where=where,
            expected="`expected` in valid and acceptable vectors, and only there",
        )
