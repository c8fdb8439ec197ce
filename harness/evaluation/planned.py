"""What an evaluation will cost, before it starts: items, tokens, time and joules of each benchmark.

Tokens of prompts are counted with the model's own tokenizer (chat templates left out), answers at their cap.
Time is a guess: arithmetic at a share of what the device can do, measured for a moment on a CPU; joules
follow from a mean power that is assumed and said.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.evaluation.evaluate import Asked
from harness.evaluation.items import Item
from harness.planning.cards import Card, find_card

PUBLISHED_KWH = {"1b": 0.33, "13b": 1.08}
"""Evaluation energy a student, in kWh, from the published stage table."""
GPU_SHARE = 0.3
"""Share of a card's arithmetic that prompts reach."""
DECODE_SHARE = 0.5
"""Share of a card's bandwidth that decoding reaches."""
GPU_W = 620.0
"""Mean power of a GPU under such load: that of the published runs."""
CPU_W = 15.0
"""Mean power of a CPU by the estimate that stands in for a counter."""
_JUDGE_WORDS = 160
"""Tokens of a judge's instructions, about."""


@dataclass(frozen=True)
class Planned:
    """One benchmark, or the judging of it.

    Attributes:
        name: Of the benchmark.
        stage: evaluate or judge.
        items: Items asked.
        answers: Answers or judgements, or items where likelihoods are compared.
        prompt_tokens: About.
        generated_tokens: At most.
        seconds: A guess.
        joules: Of these seconds at the assumed power.
    """

    name: str
    stage: str
    items: int
    answers: int
    prompt_tokens: int
    generated_tokens: int
    seconds: float
    joules: float


@dataclass(frozen=True)
class Speed:
    """How fast a model runs here.

    Attributes:
        parameters: Of the model.
        flops: FLOP/s that prompts reach.
        step_s: Seconds of one decoding step of a batch.
        watts: Assumed mean power.
        words: What the guess rests on.
    """

    parameters: int
    flops: float
    step_s: float
    watts: float
    words: str

    def seconds(self, prompt_tokens: int, generated_tokens: int, batch_size: int) -> float:
        """Of prompts and answers."""
        reading_s = 2.0 * self.parameters * prompt_tokens / self.flops
        return reading_s + generated_tokens / batch_size * self.step_s


def card_here(device: str) -> Card | None:
    """The card that a device stands for; None for a CPU and for a card whose sheet is not known."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return None
    return find_card(torch.cuda.get_device_name())


def speed_of(model: Path, dtype: str, card: Card | None, batch_size: int) -> Speed:
    """What to expect of a model folder on a card, or on this machine's CPU."""
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    parameters = max(1, size // _stored_bytes(model))
    width = 4 if dtype == "float32" else 2
    if card is not None:
        words = f"{card.name} at {GPU_SHARE:.0%} of its arithmetic, {GPU_W:.0f} W"
        step_s = parameters * width / (DECODE_SHARE * card.bytes_per_s)
        return Speed(parameters, GPU_SHARE * card.flops, step_s, GPU_W, words)
    flops = cpu_flops()
    words = f"this CPU at {flops / 1e9:.0f} GFLOP/s (measured for a moment), {CPU_W:.0f} W"
    # Rows of a step are few: a step costs its arithmetic, at a worse share of what large products reach.
    return Speed(parameters, flops, 4.0 * 2.0 * parameters * batch_size / flops, CPU_W, words)


def _stored_bytes(model: Path) -> int:
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is not JSON"
        raise KitError(
            f"no model: config.json: {reason}",
            where=str(model),
            expected="a Hugging Face folder with config.json, safetensors and tokenizer",
        ) from None
    return 4 if "32" in str(config.get("dtype") or config.get("torch_dtype") or "bfloat16") else 2


def cpu_flops(seconds: float = 0.3) -> float:
    """FLOP/s of float32 products of matrices here, over a moment."""
    import torch

    size = 512
    left, right = torch.ones(size, size), torch.ones(size, size)
    torch.mm(left, right)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        torch.mm(left, right)
        count += 1
    return 2.0 * size**3 * count / (time.perf_counter() - begun)


def plan(
    asked: Sequence[Asked], tokenizer: Any, speed: Speed, judge: Speed | None, says: int, batch_size: int
) -> list[Planned]:
    """Plan benchmarks, and the judging of those that need a judge where one is given.

    Args:
        asked: Benchmarks with their items.
        tokenizer: The model's.
        speed: The model's.
        judge: The judge's speed; None where nothing is judged.
        says: Longest rating of the judge, tokens.
        batch_size: Answers said at once.
    """
    found = []
    for each in asked:
        prompts = _prompts(each)
        lengths = _lengths(tokenizer, prompts)
        generated = (each.benchmark.max_new_tokens or 0) * len(prompts)
        found.append(_planned(each, "evaluate", len(prompts), sum(lengths), generated, speed, batch_size))
        if each.benchmark.judged and judge is not None:
            shown = sum(lengths) + generated + _JUDGE_WORDS * len(prompts)
            said = 0
            if each.benchmark.adapter == "pairwise":
                shown += sum(_lengths(tokenizer, [item.content["output"] for item in each.items]))
            else:
                said = says * len(prompts)
            found.append(_planned(each, "judge", len(prompts), shown, said, judge, batch_size))
    return found


def _planned(
    each: Asked, stage: str, answers: int, prompt_tokens: int, generated: int, speed: Speed, batch_size: int
) -> Planned:
    seconds = speed.seconds(prompt_tokens, generated, batch_size)
    name, items = each.benchmark.name, len(each.items)
    return Planned(name, stage, items, answers, prompt_tokens, generated, seconds, seconds * speed.watts)


def _prompts(each: Asked) -> list[str]:
    """The text of every prompt, about; shots that a group shares are counted once."""
    if each.benchmark.adapter == "dialogues":
        from harness.evaluation.dialogues import history_before, judged_turns

        return [
            " ".join(turn["content"] for turn in history_before(item, number))
            for item in each.items
            for number in judged_turns(each.benchmark, item)
        ]
    texts = [_text(item) for item in each.items]
    if each.benchmark.shots is None:
        return texts
    count = each.benchmark.shots.count
    if each.benchmark.max_new_tokens is not None:
        shown = " ".join(_text(shot) for shot in each.shots[:count])
        return [f"{shown} {text}" for text in texts]
    first: set[str | None] = set()
    prompts = []
    for item, text in zip(each.items, texts, strict=True):
        shots = [_text(shot) for shot in each.shots if shot.group == item.group][:count]
        prompts.append(text if item.group in first else " ".join([*shots, text]))
        first.add(item.group)
    return prompts


def _text(item: Item) -> str:
    """What of an item is asked."""
    content = item.content
    parts = [content.get(name) for name in ("question", "prompt", "instruction")]
    return " ".join(str(part) for part in [*parts, *content.get("choices", ())] if part is not None)


def _lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    encoded = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [len(one.ids) for one in encoded]
