"""`kit explain`: what a finding means and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.text import Text

    from harness.validate.registry import Rule

_LEVELS = {
    0: "0, container: the files are there and whole",
    1: "1, schema: columns and fields are those of the protocol",
    2: "2, accounting: the figures follow from the raw rows",
    3: "3, plausibility: a real machine could have shown this; may be waived with a reason",
    4: "4, comparability: a label, never a refusal",
    5: "5, submission: what the leaderboard asks beside a bundle that holds",
}
_SEVERITIES = {
    "error": "error: the bundle does not hold",
    "warning": "warning: read with care",
    "label": "label",
}


@click.command("explain")
@click.argument("rule_id", metavar="[RULE]", required=False)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--protocol", metavar="VERSION", help="Of this version of the protocol.  [default: the newest]")
def cmd(rule_id: str | None, form: str, protocol: str | None) -> None:
    """Explain the rule RULE, such as E214 or stage-overlap; without RULE, list them all.

    The ids are those that `kit validate` prints.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from harness.leaderboard.rules import submission_rules
    from harness.spec import load_protocol
    from harness.validate.registry import load_rules

    known = load_protocol(protocol)
    rules = {**load_rules(protocol), **submission_rules(protocol).by_id}
    chosen = list(rules.values()) if rule_id is None else [_find(rule_id, rules)]
    if form == "json":
        data = [{**asdict(rule), "clause_title": known.clauses.get(rule.clause)} for rule in chosen]
        click.echo(json.dumps(data if rule_id is None else data[0], indent=2, ensure_ascii=False))
        return
    if rule_id is None:
        for rule in chosen:
            click.echo(f"{rule.id}  {rule.title}")
    else:
        Console(highlight=False, emoji=False).print(_explanation(chosen[0], known.clauses))


def _find(rule_id: str, rules: Mapping[str, Rule]) -> Rule:
    """The rule with this id or name; another spelling gets the nearest one as a hint."""
    from harness.audit.problems import nearest
    from harness.errors import KitError

    by_name = {rule.name: rule for rule in rules.values()}
    word = rule_id.strip()
    found = rules.get(word.upper()) or by_name.get(word.lower())
    if found is not None:
        return found
    # The same number under another letter is meant more often than the nearest word.
    near = next((i for i in rules if i[1:] == word[1:]), None) or nearest(word, [*rules, *by_name])
    meant = by_name.get(near or "") or rules.get(near or "")
    fix = f"kit explain {meant.id}  ({meant.title})" if meant else "kit explain lists every rule"
    raise KitError(f"no rule {word!r}", expected="a rule id such as E214, or its name", fix=fix)


def _explanation(rule: Rule, clauses: Mapping[str, str]) -> Text:
    from rich.text import Text

    text = Text()
    text.append(f"{rule.id} {rule.name}\n", "bold")
    text.append(f"{rule.title[0].upper()}{rule.title[1:]}.\n\n")
    severity = _SEVERITIES[rule.severity]
    if rule.severity == "label":
        severity += ": keeps the run out of rankings" if rule.unrankable else ": for the reader"
    rows = [
        ("Why", rule.why),
        ("Fix", f"{rule.fix}."),
        ("Example", rule.example),
        ("Level", _LEVELS[rule.level]),
        ("Severity", severity),
        ("Clause", f"{rule.clause} {clauses.get(rule.clause, '')} (PROTOCOL.md)"),
    ]
    for number, (name, words) in enumerate(row for row in rows if row[1]):
        text.append("\n" if number else "")
        text.append(f"{name}: ", "bold")
        text.append(words)
    return text
