"""Finds the protocol's folder, says which version of it is the current one, reads and checks a version."""

from __future__ import annotations

import difflib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.errors import KitError
from harness.spec.model import Protocol

_BaseLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_BaseLoader):  # type: ignore[misc, valid-type]
    """YAML lets the last of two equal keys win in silence; a definition given twice is an error here."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping",
                    node.start_mark,
                    f"key {key!r} given twice",
                    key_node.start_mark,
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


ROOT_VARIABLE = "KIT_PROTOCOL_ROOT"
"""Environment variable that names another folder of protocol versions; `kit --protocol-root` sets it."""

_FOLDER = re.compile(r"\d+\.\d+", re.ASCII)


def protocol_root() -> Path:
    """Folder that holds one folder a protocol version.

    The one that `KIT_PROTOCOL_ROOT` names, else the package's data when installed, else the checkout's.

    Raises:
        KitError: There is no such folder.
    """
    if chosen := os.environ.get(ROOT_VARIABLE):
        if not Path(chosen).is_dir():
            raise KitError("is no folder", where=f"{ROOT_VARIABLE}={chosen}", expected="protocol versions")
        return Path(chosen).absolute()
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "_protocol", package.parent / "protocol"):
        if candidate.is_dir():
            return candidate
    raise KitError(
        "the protocol definitions are missing from this installation",
        where=str(package),
        expected=f"{package / '_protocol'} (installed) or {package.parent / 'protocol'} (checkout)",
        fix="reinstall the package: pip install --force-reinstall distill-energy-kit",
    )


def available_versions(root: Path | None = None) -> list[str]:
    """Versions (`major.minor`) of a protocol root, oldest first."""
    found = [p.name for p in (root or protocol_root()).iterdir() if (p / "protocol.yaml").is_file()]
    return sorted(filter(_FOLDER.fullmatch, found), key=lambda name: tuple(map(int, name.split("."))))


def current_version(root: Path | None = None) -> str:
    """The newest version (`major.minor`) of a protocol root: what is written, and meant where none is named.

    Raises:
        KitError: The root holds no version.
    """
    root = root or protocol_root()
    versions = available_versions(root)
    if not versions:
        raise KitError("holds no protocol version", where=str(root), expected="folders such as 1.0")
    return versions[-1]


def short_version(version: str) -> str:
    """`major.minor` of a version; its patch changes words only."""
    return ".".join(version.split(".")[:2])


def version_folder(version: str | None = None, *, root: Path | None = None) -> Path:
    """Folder of a version, the current one by default.

    Raises:
        KitError: The root does not have this version.
    """
    root = root or protocol_root()
    short = short_version(version or current_version(root))
    known = available_versions(root)
    if short not in known:
        near = difflib.get_close_matches(short, known, n=1, cutoff=0.1)
        raise KitError(
            f"protocol version {version!r} is not known to this installation",
            expected=f"one of {', '.join(known) or '(none installed)'}",
            fix=f"use version {near[0] if near else known[-1]}" if known else "reinstall the package",
        )
    return root / short


def load_protocol(version: str | None = None, *, root: Path | None = None) -> Protocol:
    """Read a protocol version; the result is cached and immutable.

    Args:
        version: `major.minor`, or a full `major.minor.patch`; the current one by default.
        root: Folder of protocol versions; `protocol_root()` by default.

    Raises:
        KitError: The version does not exist, or one of its files is not as the models want it.
    """
    return _load(version_folder(version, root=root))


@cache
def _load(folder: Path) -> Protocol:
    data = read_yaml(folder / "protocol.yaml")
    names = data.get("tables")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise KitError("tables is not a list of names", where=str(folder / "protocol.yaml"))
    data["tables"] = {name: read_yaml(folder / "tables" / f"{name}.yaml") for name in names}
    data["manifest"] = read_yaml(folder / "manifest.yaml")
    for name, table in data["tables"].items():
        if table.get("table") != name:
            raise KitError(
                f"defines table {table.get('table')!r}",
                where=str(folder / "tables" / f"{name}.yaml"),
                expected=f"table: {name}",
            )
    for described in (*data["tables"].values(), data["manifest"]):
        _fill_enums(described, data)
    try:
        return Protocol.model_validate(data)
    except ValidationError as error:
        raise _explain(error, folder) from None


def _fill_enums(described: dict[str, Any], data: dict[str, Any]) -> None:
    """Fill in the enums that are lists of protocol.yaml.

    An enum that is one word is the list of that name, stage kinds with `x-` words too; `$methods.PART` in one
    stands for the methods of the sources of that part.
    """
    sources = [source for source in data.get("sources") or () if isinstance(source, dict)]
    for entry in described.get("columns") or described.get("fields") or ():
        enum = entry.get("enum")
        if isinstance(enum, str):
            entry["enum"] = [item.get("name") for item in data.get(enum) or ()]
            if enum == "stage_kinds":
                entry["enum"].append(f"{data.get('extension_prefix')}*")
        elif isinstance(enum, list):
            entry["enum"] = [new for word in enum for new in _methods(word, sources)]


def _methods(word: Any, sources: list[dict[str, Any]]) -> list[Any]:
    if not isinstance(word, str) or not word.startswith("$methods."):
        return [word]
    part = word.removeprefix("$methods.")
    return [source["method"] for source in sources if part in source["parts"] and source.get("method")]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; duplicate keys, other top-level values and syntax errors are KitErrors."""
    try:
        data = yaml.load(path.read_bytes(), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise KitError("file is missing", where=str(path), fix="reinstall the package") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KitError(f"not readable as YAML: {error}", where=str(path)) from None
    if not isinstance(data, dict):
        raise KitError("holds no mapping at its top level", where=str(path))
    return data


def _explain(error: ValidationError, folder: Path) -> KitError:
    """First problem of a validation error in words: which file, which key, what was found."""
    first = error.errors(include_url=False)[0]
    location = list(first["loc"])
    file = folder / "protocol.yaml"
    if location[:1] == ["tables"] and len(location) > 1:
        file, location = folder / "tables" / f"{location[1]}.yaml", location[2:]
    elif location[:1] == ["manifest"]:
        file, location = folder / "manifest.yaml", location[1:]
    dotted = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        message = f"unknown key {dotted!r}"
    elif first["type"] == "missing":
        message = f"key {dotted!r} is missing"
    elif first["type"] == "value_error":  # a sentence of the models' own
        message = ": ".join(part for part in (dotted, str(first["ctx"]["error"])) if part)
    else:
        message = f"{dotted}: {first['msg']} (found {_short(first['input'])})"
    more = error.error_count() - 1
    return KitError(message + (f"; {more} more like it" if more else ""), where=str(file))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
