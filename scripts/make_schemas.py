"""Write schema/* of the newest protocol and the generated parts of PROTOCOL.md from its YAML files.

python scripts/make_schemas.py            # writes
python scripts/make_schemas.py --check    # writes nothing; 1 and a list if a file differs
python scripts/make_schemas.py --freeze   # writes, and protocol/1.0.sha256 too: the protocol from now on
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.spec import current_version, frozen_list, load_protocol
from harness.spec.publish import protocol_text, schema_files

ROOT = Path(__file__).resolve().parents[1]


def wanted(version: str | None = None) -> dict[Path, str]:
    """Every generated file with the text it is to have."""
    version = version or current_version()
    protocol = load_protocol(version)
    folder = ROOT / "protocol" / version / "schema"
    prose = ROOT / "PROTOCOL.md"
    files = {folder / name: text for name, text in schema_files(protocol).items()}
    return {**files, prose: protocol_text(prose.read_text(encoding="utf-8"), protocol)}


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
