"""Who signed a submission, who reviewed it, and who an unnamed laboratory turned out to be."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.files import file_digest
from harness.leaderboard import sigstore
from harness.leaderboard.entry import ENTRY, LAB, committed, read_json
from harness.leaderboard.examined import Examined
from harness.leaderboard.rules import found, submission_rules
from harness.leaderboard.shape import REVEAL, REVIEW, SIGNATURE, SIGSTORE
from harness.leaderboard.signing import ALLOWED, REVIEW_NAMESPACE, problem
from harness.leaderboard.sigstore import IDENTITIES
from harness.validate.findings import Finding


def signatures(folder: Path, done: Examined, names: Collection[str], allowed: Path | None) -> list[Finding]:
    """Who signed; a maintainer's signed review of raw samples raises a row that CI cannot re-derive."""
    assert done.row is not None
    findings = []
    known = allowed or Path(ALLOWED)
    done.row["signed"] = False
    by_key, by_login = SIGNATURE in names, SIGSTORE in names
    if not by_key and not by_login:
        findings.append(found("W518", SIGNATURE, f"no {SIGNATURE}", "a signature of the laboratory"))
    if by_key and (why := problem(folder / ENTRY, done.row["lab"], known)) is not None:
        findings.append(found("E510", SIGNATURE, why, f"a signature of {done.row['lab']}"))
    elif by_key:
        done.row["signed"] = known.is_file()
    if by_login:
        findings += _login(folder, done.row, known.with_name(IDENTITIES))
    if REVIEW in names:
        findings += _review(folder, done, known)
    if REVEAL in names:
        findings += _revealed(folder, done.row)
    return findings


def _login(folder: Path, row: dict[str, Any], identities: Path) -> list[Finding]:
    """A signature by Sigstore: what cannot be verified here is no signature, what fails is refused."""
    try:
        why = sigstore.problem(folder / ENTRY, row["lab"], identities)
    except KitError as error:
        why = " ".join(filter(None, ("not verified:", error.where, error.message)))
        return [] if row["signed"] else [found("W518", SIGSTORE, why, "a signature that was verified")]
    if why is not None:
        return [found("E510", SIGSTORE, why, f"a signature of {row['lab']}")]
    row["signed"] = True
    return []


def _revealed(folder: Path, row: dict[str, Any]) -> list[Finding]:
    """Who a pseudonymous laboratory is, if the salt proves it."""
    try:
        said = read_json(folder / REVEAL)
        lab, salt = str(said["lab"]), str(said["salt"])
    except (KitError, KeyError, TypeError):
        return [found("E510", REVEAL, "cannot be read", "lab and salt, as kit submit --embargo wrote them")]
    if not LAB.fullmatch(lab) or committed(salt, lab) != row["commitment"]:
        return [found("E510", REVEAL, "is not what was committed to", "the laboratory and salt of the entry")]
    row["revealed"] = lab
    return []


def _review(folder: Path, done: Examined, known: Path) -> list[Finding]:
    try:
        review = read_json(folder / REVIEW)
        who, level = str(review["by"]), str(review["level"])
        fits = review["submission_sha256"] == file_digest(folder / ENTRY)
        unranked, sound = [str(x) for x in review["unranked"]], review["errors"] == 0
        klass, text = str(review["class"]), str(review["class_text"])
    except (KitError, KeyError, TypeError):
        return [found("E510", REVIEW, "a review that cannot be read", "what check --raw writes")]
    why = (
        problem(folder / REVIEW, f"maintainer:{who}", known, REVIEW_NAMESPACE)
        if known.is_file()
        else "no list"
    )
    if why is not None or not fits:
        return [found("E510", REVIEW, why or "a review of other files", "a review signed by a maintainer")]
    assert done.row is not None
    if sound and level in {x.name for x in submission_rules().levels}:
        done.row |= {
            "level": level,
            "unranked": unranked,
            "class": klass,
            "class_text": text,
            "reviewed": who,
        }
    return []
