"""The synthetic set on disk: every answer in a table, the kept ones as examples, and what they came from.

synthetic.parquet   one row for each prompt, kept or dropped and why; the recipe in its footer
examples.jsonl      kept answers in the Examples format
meta.json           recipe, counts, and the digest of examples.jsonl
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.distill.filters import AnswerFilter
from harness.distill.generation_journal import Answered, differences
from harness.distill.generation_prompts import Question
from harness.errors import KitError
from harness.files import write_bytes, write_json
from harness.models.generation import prompt_seed

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "task": pa.string(),
        "prompt": pa.string(),
        "response": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "prompt_tokens": pa.int32(),
        "n_tokens": pa.int32(),
        "finish_reason": pa.string(),
        "seed": pa.int64(),
        "kept": pa.bool_(),
        "drop_reason": pa.string(),
        "answer": pa.string(),
    }
)
PROVENANCE = "distill_energy.provenance"


def publish(
    out: Path,
    answers: Sequence[tuple[Question, Answered]],
    judge: AnswerFilter,
    *,
    seed: int,
    recipe: dict[str, Any],
) -> dict[str, Any]:
    """Judge every answer and write the set; `meta.json` comes last and makes it whole.

    Args:
        out: Folder of the set.
        answers: Every question with its answer, in the order of the rows.
        judge: Says which to keep.
        seed: The stage's.
        recipe: What the set was made from and with; recorded.

    Returns:
        What `meta.json` holds.

    Raises:
        KitError: No answer was kept.
    """
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    dropped: Counter[str] = Counter()
    for question, answered in answers:
        reason = judge.reason(question.task, answered.text, answered.token_ids, answered.finish_reason)
        rows.append(
            {
                "id": question.id,
                "task": question.task,
                "prompt": json.dumps(question.messages, ensure_ascii=False),
                "response": answered.text,
                "token_ids": list(answered.token_ids),
                "prompt_tokens": len(question.token_ids),
                "n_tokens": len(answered.token_ids),
                "finish_reason": answered.finish_reason,
                "seed": prompt_seed(seed, question.id),
                "kept": reason is None,
                "drop_reason": reason,
                "answer": question.answer,
            }
        )
        if reason is not None:
            dropped[reason] += 1
            continue
        messages = [*question.messages, {"role": "assistant", "content": answered.text}]
        example = {"id": question.id, "task": question.task, "messages": messages, "answer": question.answer}
        lines.append(json.dumps(example, ensure_ascii=False, sort_keys=True) + "\n")
    if not lines:
        raise KitError(
            f"no answer was kept; dropped: {dict(sorted(dropped.items()))}",
            where=str(out),
            fix="look at the teacher, or at --filters.*; the journal keeps what was generated",
            exit_code=1,
        )
    examples = "".join(lines).encode()
    meta = {
        **recipe,
        "content_digest": hashlib.sha256(examples).hexdigest(),
        "answers": len(rows),
        "kept": len(lines),
        "dropped": dict(sorted(dropped.items())),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "generated_tokens": sum(row["n_tokens"] for row in rows),
        "kept_tokens": sum(row["n_tokens"] for row in rows if row["kept"]),
    }
    (out / "meta.json").unlink(missing_ok=True)
    _write_table(out / "synthetic.parquet", rows, meta)
    write_bytes(out / "examples.jsonl", examples)
    write_json(out / "meta.json", meta)
    return meta


def _write_table(path: Path, rows: list[dict[str, Any]], provenance: dict[str, Any]) -> None:
    schema = SCHEMA.with_metadata({PROVENANCE: json.dumps(provenance, sort_keys=True)})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def find_finished(out: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """`meta.json` of a whole set of this recipe; None where there is no set.

    Raises:
        KitError: A set of another recipe: it is never overwritten.
    """
    try:
        meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise KitError(
            f"meta.json cannot be read ({error})", where=str(out), fix="remove the folder"
        ) from None
    wanted = json.loads(json.dumps(recipe))
    other = differences({name: meta.get(name) for name in wanted}, wanted)
    if other:
        raise KitError(
            f"holds a set of other settings: {'; '.join(other)}",
            where=str(out),
            fix="choose another --out, or remove the folder",
        )
    assert isinstance(meta, dict)
    return meta
