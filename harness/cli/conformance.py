"""`kit conformance`: the protocol's vectors, run against this kit or another implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import FiniteRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.conformance import Outcome


@click.command("conformance")
@click.option("--cmd", "command", metavar="CMD", help="Test this command instead of the kit.")
@click.option("--family", "families", multiple=True, help="Only this family; may be given again.")
@click.option(
    "--id", "identifiers", metavar="ID", multiple=True, help="Only this vector; may be given again."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=0.01),
    default=300.0,
    show_default=True,
    help="Longest wait for the answers of CMD, seconds.",
)
@click.option("--allow-unsupported", is_flag=True, help="An operation that CMD does not offer is no failure.")
def cmd(
    command: str | None,
    families: tuple[str, ...],
    identifiers: tuple[str, ...],
    form: str,
    timeout_s: float,
    allow_unsupported: bool,
) -> None:
    """Run the protocol's conformance vectors: inputs with the answers they must have.

    CMD reads a JSON object in each line, {"id", "op", "input"}, and answers each with one line: {"id",
    "output"}, {"id", "error"} where it refuses the input, or {"id", "unsupported": true}. Exit code 0: all
    pass, 1: some do not, 2: they cannot be run.
    """
    from harness.conformance import run_vectors
    from harness.conformance.external import external
    from harness.conformance.operations import answer

    vectors = _chosen(families, identifiers)
    outcomes = run_vectors(vectors, external(command, vectors, timeout_s) if command is not None else answer)
    if form == "json":
        import json

        click.echo(json.dumps(as_dict(outcomes, command), indent=2, ensure_ascii=False))
    else:
        for line in as_text(outcomes, command):
            click.echo(line)
    bad = {"fail"} if allow_unsupported else {"fail", "unsupported"}
    raise click.exceptions.Exit(int(any(outcome.verdict in bad for outcome in outcomes)))


def _chosen(families: Sequence[str], identifiers: Sequence[str]) -> list[dict[str, Any]]:
    """The vectors asked for.

    Raises:
        KitError: There is no such family or id.
    """
    from harness.audit.problems import nearest
    from harness.conformance import load_vectors
    from harness.errors import KitError

    vectors = load_vectors()
    for option, wanted, name in (("--family", families, "family"), ("--id", identifiers, "id")):
        known = list(dict.fromkeys(vector[name] for vector in vectors))
        for word in wanted:
            if word not in known:
                near = nearest(word, known)
                fix = f"{option} {near}" if near else "kit conformance --format json lists all"
                all_of_them = f"one of {', '.join(known)}" if name == "family" else None
                raise KitError(f"there is no {name} {word!r}", where=option, expected=all_of_them, fix=fix)
    return [
        vector
        for vector in vectors
        if (not families or vector["family"] in families) and (not identifiers or vector["id"] in identifiers)
    ]


def _counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return {word: sum(o.verdict == word for o in outcomes) for word in ("pass", "fail", "unsupported")}


def as_text(outcomes: Sequence[Outcome], command: str | None) -> list[str]:
    """The result for people: a line for each family, then every failure, then the operations not offered."""
    from harness.conformance.runner import show

    lines = []
    names = list(dict.fromkeys(outcome.family for outcome in outcomes))
    width = max(map(len, names), default=0)
    for name in names:
        mine = [outcome for outcome in outcomes if outcome.family == name]
        count = _counts(mine)
        text = f"{name.ljust(width)}  {count['pass']:>3} of {len(mine):>3} pass"
        text += "".join(f", {count[word]} {word}" for word in ("fail", "unsupported") if count[word])
        lines.append(text)
    for outcome in outcomes:
        if outcome.verdict != "fail":
            continue
        vector, notes = outcome.vector, outcome.vector.get("notes", {})
        lines += ["", f"FAIL {outcome.id}  clause {vector['clause']}  op {vector['op']}"]
        lines += [f"  {problem}" for problem in outcome.problems]
        lines.append(f"  input: {show(vector['input'], 200)}")
        if vector.get("flags"):
            lines.append(f"  caught by it: {', '.join(vector['flags'])}")
        lines += [f"  {word}: {notes[word]}" for word in ("bug", "description", "effect") if notes.get(word)]
    lost = sorted({str(o.vector["op"]) for o in outcomes if o.verdict == "unsupported"})
    if lost:
        lines += ["", f"not offered, so not tested: {', '.join(lost)}"]
    count = _counts(outcomes)
    whom = f" by {command}" if command else ""
    lines += ["", f"{count['pass']} of {len(outcomes)} vectors pass{whom}"]
    return lines


def as_dict(outcomes: Sequence[Outcome], command: str | None) -> dict[str, Any]:
    """The result for programs."""
    return {
        "implementation": command or "kit",
        "counts": _counts(outcomes),
        "vectors": [
            {
                "id": outcome.id,
                "family": outcome.family,
                "clause": outcome.vector["clause"],
                "op": outcome.vector["op"],
                "flags": list(outcome.vector.get("flags", [])),
                "verdict": outcome.verdict,
                "problems": list(outcome.problems),
                "expected": outcome.vector.get("expected"),
                "got": None if outcome.got is None else dict(outcome.got),
            }
            for outcome in outcomes
        ],
    }
