"""Versions that a reader accepts."""

from __future__ import annotations

from vector_oracle.build import Family


def families() -> list[Family]:
    """Versions."""
    return [_versions()]


def _versions() -> Family:
    family = Family("versions", "What a reader does with documents of other versions.")

    def add(name: str, text: str, version: str, verdict: str, *flags: str, reader: str = "1.0.0") -> None:
        given = {"reader": reader, "document": version}
        family.valid(name, "6.5", "protocol_version", given, {"verdict": verdict}, text, *flags)

    add("same", "Its own.", "1.0.0", "accept")
    add("patch", "A patch changes words only.", "1.0.7", "accept", "MinorRefused")
    add("newer-minor", "A newer minor adds: read, with a warning.", "1.4.0", "warn", "MinorRefused")
    add("minor-as-number", "Minor 10 is newer than 9.", "1.10.0", "warn", "MinorRefused", reader="1.9.0")
    add(
        "older-minor",
        "An older minor lacks what came later: read.",
        "1.2.3",
        "accept",
        "MinorRefused",
        reader="1.10.0",
    )
    add("older-major", "Nothing leads from an older major version.", "0.9.0", "refuse", "MajorAccepted")
    add("newer-major", "A major change alters what a total means.", "2.0.0", "refuse", "MajorAccepted")
    add("far-major", "11 is not 1.", "11.0.0", "refuse", "MajorAccepted")
    for name, version in (("two-parts", "1.0"), ("letters", "1.x.0"), ("empty", ""), ("sign", "1.-1.0")):
        given = {"reader": "1.0.0", "document": version}
        text = "Not a version: major.minor.patch in digits."
        family.invalid(name, "6.5", "protocol_version", given, text)
    return family
