"""Write schema/* of the newest protocol for readers that speak no YAML, and generated parts of PROTOCOL.md.

python scripts/make_schemas.py            # writes
python scripts/make_schemas.py --check    # writes nothing; 1 and a list if a file differs
python scripts/make_schemas.py --freeze   # writes, and protocol/1.0.sha256 too: the protocol from now on
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.spec import Column, Protocol, TableSpec, current_version, frozen_list, json_schema, load_protocol
from harness.spec.document import DocumentField

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_KEY_WORDS = {
    "protocol_major": "major version of the protocol it was written by",
    "gpu_models": "models and number of the GPUs billed",
    "boundary": "state of every component (1.2)",
    "cpu_energy_method": "method of the CPU energy (4.3)",
    "reference_tokens": "reference denominator (4.5)",
    "suite_id": "suite and judge (4.8)",
    "power_limit": "power limit as a share of the factory's",
    "shared_node": "whether somebody else's work ran on the devices",
}


def wanted(version: str | None = None) -> dict[Path, str]:
    """Every generated file with the text it is to have."""
    version = version or current_version()
    protocol = load_protocol(version)
    folder = ROOT / "protocol" / version / "schema"
    prose = ROOT / "PROTOCOL.md"
    files = {folder / name: text for name, text in schema_files(protocol).items()}
    return {**files, prose: protocol_text(prose.read_text(encoding="utf-8"), protocol)}


def schema_files(protocol: Protocol) -> dict[str, str]:
    """Path below `protocol/<version>/schema/` to text."""
    files = {f"{name}.schema.json": _json(json_schema(name, protocol.version)) for name in protocol.tables}
    files["manifest.schema.json"] = _json(json_schema("manifest", protocol.version))
    files["arrow.json"] = _arrow_text(protocol)
    files["tables.md"] = "\n".join(_document(protocol)) + "\n"
    return files


def protocol_text(text: str, protocol: Protocol) -> str:
    """PROTOCOL.md with its generated parts as the definitions want them.

    Raises:
        KeyError: A part has a name that nothing generates.
    """
    parts = {
        "stage_kinds": _stage_kinds(protocol),
        "sources": _sources(protocol),
        "comparability": _comparability(protocol),
    }
    return _BLOCK.sub(lambda match: match[1] + parts[match[2]] + match[4], text)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _arrow_text(protocol: Protocol) -> str:
    """Every table's Arrow fields as JSON, one field a line."""
    tables = []
    for name, table in protocol.tables.items():
        fields = ",\n".join(f"  {json.dumps(_arrow(column))}" for column in table.columns)
        tables.append(f" {json.dumps(name)}: [\n{fields}\n ]")
    return "{\n" + ",\n".join(tables) + "\n}\n"


def _arrow(column: Column) -> dict[str, Any]:
    """A field of the Arrow schema, in words that need no Arrow."""
    metadata = {"PARQUET:field_id": str(column.field_id)}
    if column.unit is not None:
        metadata["unit"] = column.unit
    return {"name": column.name, "type": column.type, "nullable": column.nullable, "metadata": metadata}


def _stage_kinds(protocol: Protocol) -> str:
    roles = ("teacher", "student", "serves", "scores", "judge", "idle", "derived")
    rows = [
        f"| `{kind.name}` | {kind.doc} | {kind.inside or ''} "
        f"| {', '.join(role for role in roles if getattr(kind, role))} |"
        for kind in protocol.stage_kinds
    ]
    head = "| kind | what it is | what is inside | properties |"
    return "\n".join(["", head, "|---|---|---|---|", *rows, "", ""])


def _sources(protocol: Protocol) -> str:
    rows = [
        f"| `{s.name}` | {', '.join(s.parts)} | {' and '.join(s.reads)} | {s.unit} | {s.state} | "
        f"{'' if s.rank is None else s.rank} | {s.doc} |"
        for s in protocol.sources
    ]
    head = "| source | parts | reads | counter in | state | rank | what it is |"
    return "\n".join(["", head, "|---|---|---|---|---|---|---|", *rows, "", ""])


def _comparability(protocol: Protocol) -> str:
    rows = [f"- `{name}`: {_KEY_WORDS[name]}" for name in protocol.comparability.key]
    return "\n".join(["", *rows, "", ""])


def _document(protocol: Protocol) -> Iterator[str]:
    yield f"# Tables and manifest of protocol {protocol.version}"
    yield ""
    yield "Generated from `tables/*.yaml` and `manifest.yaml` by `scripts/make_schemas.py`."
    yield "Types are Arrow's; a `?` admits null; *derived* columns are recomputed by every reader."
    for table in protocol.tables.values():
        yield from _table(table)
    yield ""
    yield f"## {protocol.manifest.clause} manifest.json"
    yield ""
    yield protocol.manifest.doc
    yield ""
    yield "| field | type | unit | meaning |"
    yield "|---|---|---|---|"
    yield from _fields(protocol.manifest.fields, "")


def _table(table: TableSpec) -> Iterator[str]:
    yield ""
    yield f"## {table.clause} {table.table}"
    yield ""
    yield f"{table.doc.strip()} Key: {', '.join(f'`{name}`' for name in table.key)}."
    yield ""
    yield "| clause | column | type | unit | meaning |"
    yield "|---|---|---|---|---|"
    for column in table.columns:
        kind = column.type + "?" * column.nullable
        yield f"| {column.clause} | `{column.name}` | {kind} | {column.unit or ''} | {_meaning(column)} |"


def _meaning(column: Column) -> str:
    words = f" One of {', '.join(f'`{word}`' for word in column.enum)}." if column.enum else ""
    marks = " *Derived.*" if column.derived else ""
    marks += "" if column.stability == "stable" else f" *{column.stability.capitalize()}.*"
    return f"{column.doc}{words}{marks}"


def _fields(fields: tuple[DocumentField, ...], above: str) -> Iterator[str]:
    for field in fields:
        path = f"{above}{field.name}"
        kind = field.type + "?" * field.nullable
        words = f" One of {', '.join(f'`{word}`' for word in field.enum)}." if field.enum else ""
        yield f"| `{path}` | {kind} | {field.unit or ''} | {field.doc}{words} |"
        yield from _fields(field.fields, f"{path}{'[]' if field.type == 'list<object>' else ''}.")


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    parser.add_argument("--freeze", action="store_true", help="write the digests of the protocol's files too")
    options = parser.parse_args()
    version = current_version()
    files = wanted(version)
    there = {path: path.read_text(encoding="utf-8") if path.exists() else None for path in files}
    strays = set((ROOT / "protocol" / version / "schema").glob("*")) - set(files)
    differ = [path for path, text in files.items() if there[path] != text]
    for path in sorted({*differ, *strays}):
        print(path.relative_to(ROOT))
    if options.check:
        return 1 if differ or strays else 0
    for path in differ:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    for path in strays:
        path.unlink()
    if options.freeze:
        folder = ROOT / "protocol" / version
        folder.with_name(f"{version}.sha256").write_text(frozen_list(folder), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
