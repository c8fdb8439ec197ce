"""Write the digest of a published image into README.md and CITATION.cff; the release workflow does.

    python scripts/release_digest.py HOST/OWNER/kit@sha256:...

The digest is known once the image is pushed, after the tag: the two files with it in are a change on top.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = re.compile(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}")
README_MARKS = ("<!-- image -->", "<!-- end of image -->")
CITATION_MARKS = ("# image, by scripts/release_digest.py\n", "# end of image\n")


def between(text: str, marks: tuple[str, str], new: str) -> str:
    """A text with something else between two marks.

    Raises:
        SystemExit: They are not there, each once.
    """
    if [text.count(mark) for mark in marks] != [1, 1]:
        raise SystemExit(f"release_digest: expected {marks[0].strip()} and {marks[1].strip()}, each once")
    head, _, rest = text.partition(marks[0])
    return f"{head}{marks[0]}{new}{marks[1]}{rest.partition(marks[1])[2]}"


def main() -> int:
    """Write both files, or neither."""
    words = sys.argv[1:]
    if len(words) != 1 or not REFERENCE.fullmatch(words[0]):
        print(f"release_digest: no image by digest: {' '.join(words)}", file=sys.stderr)
        return 2
    readme, citation = ROOT / "README.md", ROOT / "CITATION.cff"
    identifier = (
        f"identifiers:\n  - type: other\n    value: {words[0]}\n    description: The container image\n"
    )
    texts = {
        readme: between(readme.read_text("utf-8"), README_MARKS, f"`docker pull {words[0]}`"),
        citation: between(citation.read_text("utf-8"), CITATION_MARKS, identifier),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
