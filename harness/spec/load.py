"""Finds `protocol/` beside a checkout or inside an installed package, reads and checks it."""

from __future__ import annotations

import difflib
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


def protocol_root() -> Path:
    """Folder that holds one folder a protocol version: package data when installed, else the checkout's."""
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
    """Versions (`major.minor`) that this installation can read, oldest first."""
    found = [p.name for p in (root or protocol_root()).iterdir() if (p / "protocol.yaml").is_file()]
    return sorted(found, key=lambda name: [int(part) if part.isdigit() else 0 for part in name.split(".")])


def load_protocol(version: str = "1.0", *, root: Path | None = None) -> Protocol:
    """Read a protocol version; the result is cached and immutable.

    Args:
        version: `major.minor`, or a full `major.minor.patch` (the patch changes words only and is ignored).
        root: Folder of protocol versions; the installation's own by default.

    Raises:
        KitError: The version does not exist, or one of its files is not as the models want it.
    """
    return _load(".".join(str(version).split(".")[:2]), root or protocol_root())


@cache
def _load(version: str, root: Path) -> Protocol:
    folder = root / version
    if not (folder / "protocol.yaml").is_file():
        known = available_versions(root)
        near = difflib.get_close_matches(version, known, n=1, cutoff=0.1)
        raise KitError(
            f"protocol version {version!r} is not known to this installation",
            expected=f"one of {', '.join(known) or '(none installed)'}",
            fix=f"use version {near[0] if near else known[-1]}" if known else "reinstall the package",
        )
    data = read_yaml(folder / "protocol.yaml")
    names = data.get("tables")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise KitError("tables is not a list of names", where=str(folder / "protocol.yaml"))
    data["tables"] = {name: read_yaml(folder / "tables" / f"{name}.yaml") for name in names}
    _name_sources(data)
    data["manifest"] = read_yaml(folder / "manifest.yaml")
    for name, table in data["tables"].items():
        if table.get("table") != name:
            raise KitError(
                f"defines table {table.get('table')!r}",
                where=str(folder / "tables" / f"{name}.yaml"),
                expected=f"table: {name}",
            )
    try:
        return Protocol.model_validate(data)
    except ValidationError as error:
        raise _explain(error, folder) from None


def _name_sources(data: dict[str, Any]) -> None:
    """Fill in the enum `sources`, and `$methods.PART` in one: the methods of that part's sources."""
    sources = [source for source in data.get("sources") or () if isinstance(source, dict)]
    for table in data["tables"].values():
        for column in table.get("columns") or ():
            if column.get("enum") == "sources":
                column["enum"] = [source.get("name") for source in sources]
            elif isinstance(column.get("enum"), list):
                column["enum"] = [new for word in column["enum"] for new in _methods(word, sources)]


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
