"""Finds the protocol's folder, says which version of it is the current one, reads and checks a version."""

from __future__ import annotations

import os
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from harness.errors import KitError
from harness.spec.model import Protocol
from harness.spec.strict import MISSING, UNKNOWN, Slip, build

_BaseLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_BaseLoader):  # type: ignore[misc, valid-type]
    """YAML lets the last of two equal keys win in silence; a definition given twice is an error here."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML; text, which is most of it, without looking up how text is made."""
        if node.tag == "tag:yaml.org,2002:str" and isinstance(node, yaml.ScalarNode):
            return node.value
        return super().construct_object(node, deep)

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
    places = _places(__file__)
    for candidate in places:
        if candidate.is_dir():
            return candidate
    raise KitError(
        "the protocol definitions are missing from this installation",
        where=str(places[0].parent),
        expected=f"{places[0]} (installed) or {places[1]} (checkout)",
        fix="reinstall the package: pip install --force-reinstall distill-energy-kit",
    )


@cache
def _places(module: str) -> tuple[Path, Path]:
    package = Path(module).resolve().parents[1]
    return package / "_protocol", package.parent / "protocol"


def available_versions() -> list[str]:
    """Versions (`major.minor`) of the protocol root, oldest first."""
    return list(_versions(protocol_root()))


def _versions(root: Path) -> tuple[str, ...]:
    return _versions_in(root, root.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _versions_in(root: Path, _changed_ns: int) -> tuple[str, ...]:
    found = [p.name for p in root.iterdir() if (p / "protocol.yaml").is_file()]
    order = sorted(filter(_FOLDER.fullmatch, found), key=lambda name: tuple(map(int, name.split("."))))
    return tuple(order)


def current_version() -> str:
    """The newest version (`major.minor`) of the root: what is written, and meant where none is named.

    Raises:
        KitError: The root holds no version.
    """
    return _newest(protocol_root())


def _newest(root: Path) -> str:
    versions = _versions(root)
    if not versions:
        raise KitError("holds no protocol version", where=str(root), expected="folders such as 1.0")
    return versions[-1]


def short_version(version: str) -> str:
    """`major.minor` of a version; its patch changes words only."""
    return ".".join(version.split(".")[:2])


def version_folder(version: str | None = None) -> Path:
    """Folder of a version, the current one by default.

    Raises:
        KitError: The root does not have this version.
    """
    root = protocol_root()
    if not version:
        return _folder(root, _newest(root))
    short, known = short_version(version), _versions(root)
    if short not in known:
        raise KitError(
            f"protocol version {version!r} is not known to this installation",
            expected=f"one of {', '.join(known) or '(none installed)'}",
            fix=f"use version {known[-1]}" if known else "reinstall the package",
        )
    return _folder(root, short)


@cache
def _folder(root: Path, version: str) -> Path:
    return root / version


def load_protocol(version: str | None = None) -> Protocol:
    """Read a protocol version; the result is cached and immutable.

    Args:
        version: `major.minor`, or a full `major.minor.patch`; the current one by default.

    Raises:
        KitError: The version does not exist, or one of its files is not as the models want it.
    """
    return _load(version_folder(version))


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
        return build(Protocol, data)
    except Slip as slip:
        raise _explain(slip, folder) from None


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


def _explain(slip: Slip, folder: Path) -> KitError:
    """A slip in words: which file, which key, what was found."""
    path, file = slip.path, folder / "protocol.yaml"
    if path[:1] == ("tables",) and len(path) > 1:
        file, path = folder / "tables" / f"{path[1]}.yaml", path[2:]
    elif path[:1] == ("manifest",):
        file, path = folder / "manifest.yaml", path[1:]
    dotted = ".".join(map(str, path))
    sentences = {UNKNOWN: f"unknown key {dotted!r}", MISSING: f"key {dotted!r} is missing"}
    told = sentences.get(slip.message) or ": ".join(part for part in (dotted, slip.message) if part)
    return KitError(told, where=str(file))
