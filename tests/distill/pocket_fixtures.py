"""The pocket tokenizer, trained once for all tests of a process."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from harness.distill.pocket_tokenizer import train_tokenizer


@functools.cache
def tokenizer() -> Any:
    return train_tokenizer(examples_per_family=300)


def save(out: Path) -> Path:
    tokenizer().save_pretrained(str(out))
    return out
