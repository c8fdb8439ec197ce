"""The load check: does what the kit computes from a model agree with the model's own logits?

The kit runs a model's body over packed rows and its head apart (`forward`, `head`). For an architecture in
which that is not the same, training goes on and is wrong. So every model, teacher and student alike, is
compared when it is loaded: two examples longer than any window of attention that matters, packed as the stage
will pack them, against each example alone under the model's plain attention. No list decides; docs/models.md
shows the result for families at tiny size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import KitError
from harness.models.batches import IGNORED, Batch, Mode
from harness.models.forward import (
    Attention,
    Way,
    label_states,
    takes_positions,
    use_attention,
    ways,
    windows_of,
)
from harness.models.head import Head, LogitPass, heads_of

SHORT = 24
"""Tokens of a probe where no window matters."""
LOOK = 8
"""Positions compared at the beginning and at the end of each example."""
EXACT, NARROW = (1e-4, 1e-4), (0.25, 0.02)
"""Largest accepted differences as shares of the logits' spread, for 32 and for 16 bits: from the model's own
logits, example by example; and of packed examples from those alone, or twice the first if that is more."""


@dataclass(frozen=True)
class Prepared:
    """A model that agrees with itself.

    Attributes:
        model: The model, its attention set.
        way: How its rows are kept apart.
        attention: Name of its attention in transformers.
        head: Its head.
        difference: Largest difference from its own logits, as a share of their spread.
    """

    model: Any
    way: Way
    attention: str
    head: Head
    difference: float

    def describe(self) -> dict[str, Any]:
        """How the model is run, for a log."""
        return {
            "model": type(self.model).__name__,
            "way": self.way,
            "attention": self.attention,
            "head": self.head.words() or None,
            "difference": self.difference,
        }

    def states(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [P, d] before each label of a batch, and the labels [P]; see `label_states`."""
        return label_states(self.model, batch, self.way)


@torch.no_grad()
def prepare(
    model: Any, *, attention: Attention = "auto", batching: Mode = "packed", seq_len: int
) -> Prepared:
    """Set a model up for packed rows, in the first way that agrees with its own logits.

    Args:
        model: A causal language model on its device; its mode, training or not, is left as it is.
        attention: A way to insist on; auto takes the first that agrees.
        batching: How rows will be made.
        seq_len: Positions of a row: windows of attention that are longer do not matter.

    Raises:
        KitError: None agrees; says in what they differ.
    """
    training = model.training
    model.eval()
    try:
        examples = _examples(model, seq_len)
        own, alone = _own(model, examples)
        heads = [(_difference(_grouped(LogitPass(one)(alone)), own), one) for one in heads_of(model)]
        _, head = min(heads, key=lambda pair: pair[0])
        bounds = NARROW if head.weight.element_size() < 4 else EXACT
        reasons = []
        if batching == "packed" and not takes_positions(model):
            reasons.append("it takes no positions, so it cannot be told where an example begins")
        else:
            for way, name in ways(model, attention):
                found = _tried(model, LogitPass(head), examples, batching, way, name, own, bounds)
                if isinstance(found, float):
                    return Prepared(model, way, name, head, found)
                reasons.append(f"{'varlen' if way == 'varlen' else f'{way}, {name}'}: {found}")
    finally:
        model.train(training)
    raise KitError(
        "what the kit computes from this model is not what the model says. " + "; ".join(reasons),
        where=type(model).__name__,
        expected="a model whose packed examples do not see each other and whose logits are its last hidden "
        "state times one matrix, with at most a bias, a factor and a soft cap (docs/models.md)",
        fix="batching: bucketed, one example a row" if batching == "packed" else "another model",
    )


def _tried(
    model: Any,
    logits: LogitPass,
    examples: list[torch.Tensor],
    batching: Mode,
    way: Way,
    name: str,
    own: _Logits,
    bounds: tuple[float, float],
) -> float | str:
    """The largest difference of one way of attention, or what is wrong with it."""

    def looked_at(*rows: list[torch.Tensor]) -> torch.Tensor:
        states, _ = label_states(model, _batch(rows), way)
        count = len(examples[0]) - 1
        starts = range(0, len(states), count)
        return torch.cat([states[start:][some] for start in starts for some in _ends(count)])

    try:
        use_attention(model, name)
        alone = _grouped(logits(torch.cat([looked_at([example]) for example in examples])))
        rows = [examples] if batching == "packed" else [[example] for example in examples]
        together = _grouped(logits(looked_at(*rows)))
    except Exception as error:  # whatever somebody else's model raises says that it cannot
        return " ".join(str(error).split())[:120]
    noise = _difference(alone, own)
    if noise > bounds[0]:
        begins = max(_apart(a, b) for a, b in zip(alone["begins"], own["begins"], strict=True))
        what = "logits are not the last hidden state times the output matrix"
        if begins <= bounds[0]:
            what = "the ends of long examples differ: a window of attention is missing"
        return f"{what} (off by {noise:.2g})"
    apart = _difference(together, alone)
    if apart > max(bounds[1], 2 * noise):
        return f"an example sees the others of its row (off by {apart:.2g})"
    return max(noise, apart)


_PLACES = ("begins", "ends")
_Logits = dict[str, list[torch.Tensor]]


def _examples(model: Any, seq_len: int) -> list[torch.Tensor]:
    """Two random examples of one length, [n] on the model's device."""
    config = model.config.get_text_config()
    longest = int(getattr(config, "max_position_embeddings", None) or seq_len)
    windows = [window for window in windows_of(model) if window < seq_len]
    length = min(max([SHORT, *(window + 2 * LOOK for window in windows)]), max(2 * LOOK + 1, longest))
    random = torch.Generator().manual_seed(0)
    vocabulary = int(config.vocab_size)
    # Away from the special tokens at the table's ends: some models treat padding tokens apart.
    low, high = (16, vocabulary - 16) if vocabulary > 64 else (3, vocabulary)
    device = next(model.parameters()).device
    return [torch.randint(low, high, (length,), generator=random).to(device) for _ in range(2)]


def _batch(rows: Sequence[list[torch.Tensor]]) -> Batch:
    """Rows of examples as a stage packs them, with padding at their ends; all positions but each example's
    first are labels."""
    width = max(sum(len(example) for example in row) for row in rows) + 4
    shape, device = (len(rows), width), rows[0][0].device
    ids = torch.full(shape, 3, device=device)
    labels = torch.full(shape, IGNORED, device=device)
    places = torch.arange(width, device=device).repeat(len(rows), 1)
    segments = torch.zeros(shape, dtype=torch.int64, device=device)
    counts: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row, start=1):
            end = start + len(example)
            ids[number, start:end], labels[number, start + 1 : end] = example, example[1:]
            segments[number, start:end] = segment
            places[number, start:] -= places[number, start].item()
            counts.append((len(counts), len(example) - 1))
            start = end
        places[number, start:] -= places[number, start].item()
    real = sum(len(example) for row in rows for example in row)
    return Batch(ids, labels, places, segments, counts, ids.numel(), real, real - len(counts))


def _own(model: Any, examples: list[torch.Tensor]) -> tuple[_Logits, torch.Tensor]:
    """The model's own logits of each example alone, under its plain attention, and the hidden states before
    its head.
    """
    before = model.config._attn_implementation
    use_attention(model, "eager")
    logits, states = [], []
    for example in examples:
        given = {"input_ids": example[None], "use_cache": False}
        logits.append(model(**given).logits[0, :-1])
        states.append(model.base_model(**given).last_hidden_state[0, :-1])
    use_attention(model, before)
    found = torch.cat([part[some].float() for part in logits for some in _ends(len(part))])
    if not bool(found.isfinite().all()):
        raise KitError(
            "the model gives no finite distribution",
            where=type(model).__name__,
            fix="check that its weights are whole",
        )
    return _grouped(found), torch.cat([part[some] for part in states for some in _ends(len(part))])


def _ends(count: int) -> tuple[slice, slice]:
    return slice(0, LOOK), slice(count - LOOK, count)


def _grouped(logits: torch.Tensor) -> _Logits:
    first, last, second, end = logits.view(4, LOOK, -1)
    return {"begins": [first, second], "ends": [last, end]}


def _difference(ours: _Logits, own: _Logits) -> float:
    """The largest over the places; of a place's positions the median, since one token that another expert
    takes is no fault."""
    return max(_apart(a, b) for place in _PLACES for a, b in zip(ours[place], own[place], strict=True))


def _apart(ours: torch.Tensor, own: torch.Tensor) -> float:
    spread = (own - own.mean(1, keepdim=True)).square().mean(1).sqrt().clamp(min=1e-12)
    return float(((ours - own).square().mean(1).sqrt() / spread).median())
