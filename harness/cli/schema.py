"""`kit schema NAME`: the JSON Schema of a file format, for editors and other implementations."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("schema")
@click.argument("name", default="pipeline")
def cmd(name: str) -> None:
    """Print the JSON Schema (2020-12) of NAME: pipeline, report, manifest, or one row of a table.

    An editor completes pipeline files with it: save it as pipeline.schema.json and begin the file with
    `# yaml-language-server: $schema=pipeline.schema.json`.
    """
    click.echo(json.dumps(_schema(name), indent=2, ensure_ascii=False))


def _schema(name: str) -> dict[str, Any]:
    from harness.audit.problems import guess
    from harness.errors import KitError

    if name == "pipeline":
        from harness.audit.pipeline import json_schema as pipeline_schema

        return pipeline_schema()
    if name == "report":
        from harness.report.formats import report_schema

        return report_schema()
    from harness.spec import json_schema, load_protocol

    known = ["pipeline", "report", "manifest", *load_protocol().tables]
    if name not in known:
        raise KitError(
            f"there is no schema {name!r}.{guess(name, known)}",
            expected=f"one of {', '.join(known)}",
            fix="kit schema pipeline",
        )
    return json_schema(name)
