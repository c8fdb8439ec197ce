"""Whether a model and a data set mean the same tokens by the same ids. No torch and no tokenizer is loaded.

Models of a family may have more rows than tokens, and not the same number of them (151,936 and 152,064):
rows that belong to no token are padding, and no difference. Another token under an id is another tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

from harness.errors import KitError


def vocabulary_of(folder: Path) -> dict[int, str] | None:
    """Id to token, from a folder's tokenizer.json or vocab.json; None where it has neither.

    Raises:
        KitError: The file cannot be read.
    """
    try:
        if (path := folder / "tokenizer.json").is_file():
            described = json.loads(path.read_text(encoding="utf-8"))
            tokens = described["model"]["vocab"]
            # Unigram lists pairs of token and score.
            named = tokens if isinstance(tokens, dict) else {pair[0]: i for i, pair in enumerate(tokens)}
            found = {int(number): str(token) for token, number in named.items()}
            return found | {int(one["id"]): str(one["content"]) for one in described.get("added_tokens", [])}
        if (path := folder / "vocab.json").is_file():
            read = json.loads(path.read_text(encoding="utf-8"))
            return {int(number): str(token) for token, number in read.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitError(f"no vocabulary that can be read ({error!r})", where=str(path)) from None
    return None


def check_vocabulary(model: Path, dataset: Path, *, rows: int | None = None) -> None:
    """Refuse a model whose tokenizer is another than the data set's; what has no tokenizer files is passed.

    Args:
        model: Model folder.
        dataset: Data set folder, with the tokenizer that it was made with in tokenizer/.
        rows: Of the model's embedding.

    Raises:
        KitError: Names the first id that means something else, or a token that the model has no row for.
    """
    ours = vocabulary_of(dataset / "tokenizer")
    if ours is None:
        return
    fix = "models of one tokenizer, and a data set made with it"
    if rows is not None and (highest := max(ours, default=0)) >= rows:
        raise KitError(
            f"{rows} rows for a tokenizer whose highest id is {highest}", where=str(model), fix=fix
        )
    theirs = vocabulary_of(model)
    if theirs is None or theirs == ours:
        return
    others = [number for number in ours.keys() & theirs if theirs[number] != ours[number]]
    if others:
        other = min(others)
        raise KitError(
            f"its tokenizer is another than the data set's: id {other} is {theirs[other]!r}",
            where=str(model),
            expected=f"{ours[other]!r}, as in {dataset.name}/tokenizer",
            fix=fix,
        )
