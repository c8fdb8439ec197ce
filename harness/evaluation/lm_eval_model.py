"""A model in memory as lm-eval's LM: its prompts and cuts, our generation, likelihoods, counts and cache.

`HFLM` cuts prompts, stop strings and answers as it always does; the innermost calls are ours.
`model.generate` would feed finished rows to the batch's end, decode every row at every step to look for
stop strings, and say nothing about how many tokens it sampled. Its likelihoods run every prompt whole,
though five worked examples in front are the same for all items of a subject.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from harness.errors import KitError
from harness.evaluation.cache import AnswerCache
from harness.models.generation import TokenSampling, TokenWork, as_generation, end_tokens
from harness.models.generation_transformers import decode

SHARED_LEAST = 32
"""Tokens that prompts must have in common for their states to be computed once,"""
SAVED_LEAST = 256
"""and how many that must save in all: below it a forward pass more costs more than it spares."""
WIDEST = 1.5
"""Longest row over shortest row of a forward pass,"""
SHORT = 16
"""but for rows of up to so many tokens."""


logging.getLogger("lm_eval").setLevel(logging.ERROR)


class CountedModel(HFLM):  # type: ignore[misc]  # untyped
    """A model in memory as lm-eval's LM.

    Args:
        model: A causal language model in eval mode on its device.
        tokenizer: Its tokenizer, with a pad token.
        batch_size: Prompts a batch.
        work: What is done is added here.
        cache: Answers that are known; none by default.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int,
        work: TokenWork,
        cache: AnswerCache | None = None,
    ) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.work = work
        self.cache = cache or AnswerCache(None, {})
        self._ends = end_tokens(tokenizer, getattr(model, "generation_config", None))

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Likelihoods of continuations, without a progress bar beside ours."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Answer requests, batch by batch, without a progress bar beside ours."""
        asked = [{"prompt": r.args[0], "settings": _plain(r.args[1])} for r in requests]
        lengths = [len(self.tok_encode(r.args[0])) for r in requests]
        order = sorted(
            range(len(requests)), key=lambda i: (repr(asked[i]["settings"]), -lengths[i], asked[i]["prompt"])
        )
        answer = super().generate_until

        def compute(batch: list[int]) -> list[str]:
            return [str(text) for text in answer([requests[i] for i in batch], disable_tqdm=True)]

        return self.cache.in_batches(asked, order, int(self.batch_size), compute)

    def chat_answers(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Greedy answers to prompts of token ids, without the end token."""
        asked = [{"tokens": list(prompt), "max_new_tokens": max_new_tokens} for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), list(prompts[i])))

        def compute(batch: list[int]) -> list[str]:
            sampling = TokenSampling(max_new_tokens, temperature=0)
            answers, work = decode(self.model, [prompts[i] for i in batch], sampling, ends=self._ends)
            self.work.add(work)
            return [as_generation(self.tokenizer, answer, self._ends).text for answer in answers]

        return self.cache.in_batches(asked, order, int(self.batch_size), compute)

    def next_tokens(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[tuple[int, float]]]:
        """The likeliest next tokens of each prompt with their log-probabilities, likeliest first."""
        asked = [{"tokens": list(prompt), "next": count} for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), list(prompts[i])))

        @torch.inference_mode()
        def compute(batch: list[int]) -> list[list[list[float]]]:
            width = max(len(prompts[i]) for i in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.int64)
            for place, i in enumerate(batch):
                ids[place, : len(prompts[i])] = torch.tensor(prompts[i])
            last = [len(prompts[i]) - 1 for i in batch]
            kept = sorted(set(last))
            logits = self.model(
                input_ids=ids.to(self.device),
                use_cache=False,
                logits_to_keep=torch.tensor(kept, device=self.device),
            ).logits
            self.work.add(TokenWork(processed=sum(last) + len(batch), positions=len(batch) * width))
            found = []
            for place, end in enumerate(last):
                best = torch.log_softmax(logits[place, kept.index(end)].float(), dim=-1).topk(count)
                found.append([[int(t), float(v)] for t, v in zip(best.indices, best.values, strict=True)])
            return found

        answers = self.cache.in_batches(asked, order, int(self.batch_size), compute)
        return [[(int(token), float(value)) for token, value in answer] for answer in answers]

    def log_likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Sum of the log-probabilities of each continuation after its prompt, both as token ids."""
        requests = [(None, list(prompt), list(said)) for prompt, said in pairs]
        return [total for total, _ in self._loglikelihood_tokens(requests)]

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, whether greedy decoding would say it) of every continuation.

        Args:
            requests: ((context, continuation), tokens of the context, tokens of the continuation) each.
            disable_tqdm: There is no bar.
            override_bs: Not used.
        """
        pairs = [(list(context), list(said)) for _, context, said in requests]
        for context, said in pairs:
            if len(context) + len(said) > self.max_length + 1:
                raise KitError(
                    f"a prompt of {len(context)} tokens and an answer of {len(said)}",
                    where="likelihoods",
                    expected=f"{self.max_length} positions: a question that is cut is another question",
                )
        # One row serves every continuation that follows the same tokens.
        members: dict[tuple[int, ...], list[int]] = {}
        for number, (context, said) in enumerate(pairs):
            members.setdefault(tuple(context + said[:-1]), []).append(number)
        answers: list[Any] = [None] * len(pairs)
        # What shares a prefix is one batch of the cache: a resumed run sees the same ones.
        for group in _prefix_groups(sorted(members), int(self.batch_size)):
            numbers = [number for row in group for number in members[row]]
            asked = [{"tokens": pairs[n][0], "continuation": pairs[n][1]} for n in numbers]

            def compute(batch: list[int], numbers: list[int] = numbers) -> list[list[Any]]:
                found: dict[int, tuple[float, bool]] = {}
                self._score(numbers, pairs, found)
                return [list(found[numbers[place]]) for place in batch]

            values = self.cache.in_batches(asked, range(len(asked)), len(asked), compute)
            for number, value in zip(numbers, values, strict=True):
                answers[number] = value
        return [(float(total), bool(greedy)) for total, greedy in answers]

    @torch.inference_mode()
    def _score(
        self,
        numbers: list[int],
        pairs: list[tuple[list[int], list[int]]],
        found: dict[int, tuple[float, bool]],
    ) -> None:
        """Score continuations whose rows have a prefix in common: its states are computed once."""
        from transformers import DynamicCache

        rows = sorted({tuple(pairs[n][0] + pairs[n][1][:-1]) for n in numbers})
        # Of the shortest row a token is left, and no log-probability is asked for within the prefix.
        starts = [len(pairs[n][0]) - 1 for n in numbers]
        shared = min(_common(rows[0], rows[-1]), *starts, len(min(rows, key=len)) - 1)
        shared = shared if len(rows) > 1 and shared >= SHARED_LEAST else 0
        rows.sort(key=lambda row: (len(row), row))
        states = None
        if shared:
            prefix = torch.tensor([rows[0][:shared]], device=self.device)
            states = DynamicCache(config=self.model.config)
            self.model(input_ids=prefix, past_key_values=states, use_cache=True, logits_to_keep=1)
            self.work.add(TokenWork(processed=shared, positions=shared))
        for passed in _passes([len(row) - shared for row in rows], int(self.batch_size)):
            self._score_rows(rows[passed], shared, states, numbers, pairs, found)

    def _score_rows(
        self,
        rows: Sequence[tuple[int, ...]],
        shared: int,
        states: Any,
        numbers: Sequence[int],
        pairs: list[tuple[list[int], list[int]]],
        found: dict[int, tuple[float, bool]],
    ) -> None:
        width = max(len(row) for row in rows) - shared
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        for place, row in enumerate(rows):
            # Padding on the right: no token looks ahead, so none sees it.
            ids[place, : len(row) - shared] = torch.tensor(row[shared:])
        options: dict[str, Any] = {"use_cache": False}
        if states is not None:
            options = {"use_cache": True, "past_key_values": _repeated(states, len(rows), self.model.config)}
        positions = torch.arange(shared, shared + width).repeat(len(rows), 1)
        here = {row: place for place, row in enumerate(rows)}
        wanted = [n for n in numbers if tuple(pairs[n][0] + pairs[n][1][:-1]) in here]
        begins = {n: len(pairs[n][0]) - 1 - shared for n in wanted}
        # Logits of a vocabulary are large: only those places that some row asks for.
        kept = sorted({begins[n] + offset for n in wanted for offset in range(len(pairs[n][1]))})
        logits = self.model(
            input_ids=ids.to(self.device),
            position_ids=positions.to(self.device),
            logits_to_keep=torch.tensor(kept, device=self.device),
            **options,
        ).logits
        column = {position: number for number, position in enumerate(kept)}
        real = sum(len(row) - shared for row in rows)
        self.work.add(TokenWork(processed=real, positions=len(rows) * width))
        for n in wanted:
            context, said = pairs[n]
            columns = [column[begins[n] + offset] for offset in range(len(said))]
            scores = torch.log_softmax(logits[here[tuple(context + said[:-1])], columns].float(), dim=-1)
            target = torch.tensor(said, device=scores.device)
            total = scores.gather(1, target[:, None]).sum()
            found[n] = (float(total), bool((scores.argmax(dim=-1) == target).all()))

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Refused: no benchmark of a suite asks for it, and its tokens would go uncounted."""
        raise KitError("does not score whole texts", where="CountedModel")

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **settings: Any
    ) -> torch.Tensor:
        """Continue a left-padded batch [B, S] to at most max_length positions, greedily."""
        if settings.get("do_sample") or settings.get("temperature"):
            asked = {name: value for name, value in settings.items() if name != "attention_mask"}
            raise KitError(f"asks for sampling: {asked}", where="lm-eval task", expected="greedy answers")
        real = settings["attention_mask"].bool()
        prompts = [row[kept].tolist() for row, kept in zip(context.cpu(), real.cpu(), strict=True)]
        room = max_length - context.shape[1]
        answers, work = decode(
            self.model,
            prompts,
            TokenSampling(room, temperature=0),
            ends=self._ends,
            stop=self._stop_rule(stop),
        )
        self.work.add(work)
        width = max(len(answer) for answer in answers)
        pad = self.tokenizer.pad_token_id
        rows = torch.tensor([answer + [pad] * (width - len(answer)) for answer in answers])
        return torch.cat([context, rows.to(context.device)], dim=1)

    def _stop_rule(self, stop: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
        """Whether an answer's tail holds one of the stop strings; end tokens need no such look."""
        ends = {self.tokenizer.decode([token], skip_special_tokens=False) for token in self._ends}
        texts = [text for text in stop if text and text not in ends]
        if not texts:
            return None
        # A stop string may be said in other tokens than those it encodes to: look a little further back.
        reach = 2 + max(len(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        return lambda said: any(text in self.tokenizer.decode(said[-reach:]) for text in texts)


def _plain(settings: Any) -> dict[str, Any]:
    return {str(name): value for name, value in sorted(settings.items())}


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two rows begin with in common; of sorted rows, first and last have what all have."""
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return place
    return min(len(left), len(right))


def _prefix_groups(rows: Sequence[tuple[int, ...]], batch_size: int) -> list[list[tuple[int, ...]]]:
    """Sorted rows in runs that share at least half of a row and enough tokens; the rest in batches."""
    groups: list[list[tuple[int, ...]]] = []
    alone: list[tuple[int, ...]] = []
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and _common(rows[start], rows[stop]) >= max(
            SHARED_LEAST, len(rows[stop]) // 2
        ):
            stop += 1
        if (stop - start - 1) * _common(rows[start], rows[stop - 1]) >= SAVED_LEAST:
            groups.append(list(rows[start:stop]))
        else:
            alone += rows[start:stop]
        start = stop
    alone.sort(key=lambda row: (len(row), row))
    return groups + [alone[first : first + batch_size] for first in range(0, len(alone), batch_size)]


def _passes(lengths: Sequence[int], most: int) -> list[slice]:
    """Rising lengths in forward passes of at most `most` rows, padded by little."""
    starts = [0]
    for place, length in enumerate(lengths):
        if place - starts[-1] == most or length > max(SHORT, WIDEST * lengths[starts[-1]]):
            starts.append(place)
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(lengths)], strict=True)]


def _repeated(states: Any, rows: int, config: Any) -> Any:
    """A copy of a prefix's states for each row of a batch."""
    from transformers import DynamicCache

    copy = DynamicCache(config=config)
    for number, layer in enumerate(states.layers):
        copy.update(
            layer.keys.expand(rows, -1, -1, -1).contiguous(),
            layer.values.expand(rows, -1, -1, -1).contiguous(),
            number,
        )
    return copy
