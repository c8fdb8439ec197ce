"""The judge: labels, orders, ratings, what cannot be read; pairs and dialogues made of its judgements."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import KitError
from harness.evaluation import dialogues, length_control, pairwise
from harness.evaluation.cache import AnswerCache
from harness.evaluation.items import Item, read_items
from harness.evaluation.judge import (
    LABELS,
    Judge,
    PairAsked,
    ReplyAsked,
    label_tokens,
    read_rating,
    weights_digest,
)
from harness.evaluation.judge_check import known_judges, published, worth
from harness.evaluation.judging import check_template, prompts_digest
from harness.evaluation.lm_eval_model import CountedModel
from harness.evaluation.suites import Benchmark, Data, JudgeSpec, read_suite, suite_file
from harness.models.generation import TokenWork
from tests.distill import generation_lab as lab
from tests.distill import pocket_fixtures
from tests.evaluation.said import BENCHMARKS, NO_DATA

torch.set_num_threads(1)
needs_data = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=NO_DATA)
SAMPLES = BENCHMARKS.parent / "samples" / "alpaca_lc" / "instruction_difficulty_recovered.csv"
SPEC = JudgeSpec(name="stub", method="template", dtype="float32", max_new_tokens=32)
PAIRS = Benchmark(
    name="pairs", adapter="pairwise", metric="win_rate", unit="percent", max_new_tokens=8,
    data=Data(source="pocket", split="pairs"),
)  # fmt: skip
TALKS = Benchmark(
    name="talks", adapter="dialogues", metric="rating", unit="rating_1_10", floor=1.0, max_new_tokens=8,
    aggregation="group_mean", skip_first=("SC",), data=Data(source="pocket", split="dialogues"),
)  # fmt: skip


class Tokenizer:
    """Characters as tokens."""

    name_or_path = "characters"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


class Encoder:
    tokenizer = Tokenizer()

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        return Tokenizer().encode("".join(f"<{m['role']}>{m['content']}" for m in messages))


class Model:
    """Says what a test tells it to, by the prompt's text."""

    max_length = 10_000

    def __init__(self, likely: Any = None, texts: Any = None) -> None:
        self.likely, self.texts = likely, texts
        self.asked: list[str] = []

    def next_tokens(self, prompts: list[list[int]], count: int) -> list[list[tuple[int, float]]]:
        read = ["".join(map(chr, prompt)) for prompt in prompts]
        self.asked += read
        return [[(ord(t), math.log(p)) for t, p in self.likely(text).items()] for text in read]

    def chat_answers(self, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
        read = ["".join(map(chr, prompt)) for prompt in prompts]
        self.asked += read
        return [self.texts(text) for text in read]


def judge(**options: Any) -> Judge:
    return Judge(SPEC, Model(**options), Encoder(), "d" * 64)


def pairs(count: int) -> list[Item]:
    rows = (
        {"dataset": "x", "instruction": f"i{n}", "output": "base", "generator": "b"} for n in range(count)
    )
    return [Item(str(n), row) for n, row in enumerate(rows)]


def test_a_pair_is_decided_by_the_label_of_whichever_was_first() -> None:
    # The judge likes "mine" with probability 0.8 wherever it is shown; 0.1 goes elsewhere.
    def likely(text: str) -> dict[str, float]:
        first = text.index("mine") < text.index("base")
        return {"m": 0.72 if first else 0.18, "M": 0.18 if first else 0.72, "x": 0.1}

    items = pairs(40)
    stub = judge(likely=likely)
    (found,) = pairwise.judge_answers(PAIRS, items, [["mine"]] * 40, stub, None)
    assert found.score == pytest.approx(80.0) and found.unit == "percent" and found.n_scored == 40
    assert found.judge == "stub@dddddddddddd"
    first = [pairwise.shown_first(item, SPEC.seed) for item in items]
    assert 8 < sum(first) < 32 and first == [pairwise.shown_first(item, SPEC.seed) for item in items]
    assert first != [pairwise.shown_first(item, 1) for item in items]
    # A judge that looks at the place alone is found out, and gains the model nothing.
    biased = judge(likely=lambda text: {"m": 0.9, "M": 0.1})
    asked = [PairAsked("i", "mine", "base", shown) for shown in first]
    shares = biased.preferences(asked)
    assert pairwise.first_preferred(asked, shares) == pytest.approx(0.9)


def test_in_both_orders_a_bias_of_place_cancels_and_is_said() -> None:
    # Worth 0.6 in truth; whichever comes first gets 0.3 more.
    def likely(text: str) -> dict[str, float]:
        return {"m": 0.9, "M": 0.1} if text.index("mine") < text.index("base") else {"m": 0.7, "M": 0.3}

    items = pairs(7)
    spec = SPEC.model_copy(update={"orders": "both"})
    assert JudgeSpec.model_validate(spec.model_dump()).orders == "both"
    stub = Judge(spec, Model(likely=likely), Encoder(), "d" * 64)
    (found,) = pairwise.judge_answers(PAIRS, items, [["mine"]] * 7, stub, None)
    assert found.score == pytest.approx(60.0) and found.n_scored == 7
    assert found.first_preferred == pytest.approx(0.8)
    (drawn,) = pairwise.judge_answers(PAIRS, items, [["mine"]] * 7, judge(likely=likely), None)
    assert {round(score or 0.0) for score in drawn.item_scores} <= {90, 30} and drawn.score != found.score

    # One order that cannot be read: no score of the other alone.
    def half(text: str) -> dict[str, float]:
        return {"x": 1.0} if text.index("mine") < text.index("base") and "\ni3\n" in text else likely(text)

    items = pairs(200)
    stub = Judge(spec, Model(likely=half), Encoder(), "d" * 64)
    (found,) = pairwise.judge_answers(PAIRS, items, [["mine"]] * 200, stub, None)
    assert found.item_scores[3] is None and found.n_scored == 199


def test_neither_label_is_unparsed_and_counted_and_voids_the_score_when_common() -> None:
    items = pairs(200)

    def likely(bad: tuple[str, ...]) -> Any:
        return lambda text: {"x": 0.9} if any(f"\n{b}\n" in text for b in bad) else {"M": 0.5}

    (found,) = pairwise.judge_answers(
        PAIRS, items, [["mine"]] * 200, judge(likely=likely(("i3", "i4"))), None
    )
    assert (found.n_items, found.n_scored) == (200, 198) and found.item_scores[3] is None
    # One label alone: the other has probability 0.
    assert set(found.item_scores) == {0.0, 100.0, None}
    (found,) = pairwise.judge_answers(
        PAIRS, items, [["mine"]] * 200, judge(likely=likely(("i3", "i4", "i5"))), None
    )
    assert found.score is None and found.void == "3 of 200 comparisons could not be read"


def test_a_judge_is_checked_against_annotations_in_both_orders() -> None:
    rows = [
        {
            "instruction": f"i{n}",
            "output_1": "short",
            "output_2": "much longer" if n < 8 else "tiny",
            "preference": p,
        }
        for n, p in enumerate([2.0] * 6 + [1.0] * 4)
    ]

    # Likes length, and the first place a little.
    def likely(text: str) -> dict[str, float]:
        answers = [part.partition("\n</answer>")[0] for part in text.split('">\n')[1:]]
        long_first = len(answers[0]) > len(answers[1])
        return {"m": 0.75 if long_first else 0.35, "M": 0.25 if long_first else 0.65}

    found = worth(judge(likely=likely), rows)
    assert (found.pairs, found.unparsed) == (10, 0)
    assert found.agreement == 0.8 and found.longer_preferred == 1.0 and found.longer_annotated == 0.8
    assert found.first_preferred == pytest.approx((0.75 + 0.35) / 2) and found.same_in_both_orders == 1.0
    # Knows one label only, so that place alone decides: that is no agreement, whatever the annotations say.
    placed = worth(judge(likely=lambda text: {"M": 0.6}), [row | {"preference": 1.0} for row in rows])
    assert (placed.agreement, placed.longer_preferred, placed.same_in_both_orders) == (0.5, 0.5, 0.0)
    assert placed.first_preferred == 0.0
    tied = worth(judge(likely=lambda text: {"m": 0.4, "M": 0.4}), rows)
    assert (tied.agreement, tied.longer_preferred, tied.same_in_both_orders) == (0.5, 0.5, 1.0)
    with pytest.raises(KitError, match="none of 10 pairs"):
        worth(judge(likely=lambda text: {"x": 1.0}), rows)
    assert {row["judge"] for row in known_judges()} >= {"humans", "llama3_70b_fn"}
    assert all(40 < row["agreement_pct"] < 80 for row in known_judges())  # percents, not fractions
    assert "agrees with humans on 67.5 % (published), prefers the longer answer in 79%" in published(
        "llama3_70b_fn@1"
    )
    assert "nothing is published" in published("stub@dddddddddddd")


def test_labels_must_be_single_tokens() -> None:
    class Split(Tokenizer):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [1, 2]

    assert label_tokens(Tokenizer()) == tuple(map(ord, LABELS))
    with pytest.raises(KitError, match="in one token each"):
        label_tokens(Split())


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Fine. Rating: [[7]]", 7),
        ("As in [1] and [[2]], Rating: [[10]]", 10),
        ("Rating: [[3]] no, Rating: [[ 4 ]]", 4),
        ("Rating: [[0]]", None),
        ("Rating: [[99]]", None),
        ("Rating: 7", None),
        ("[[7]]", None),
        ("", None),
    ],
)
def test_a_rating_is_the_last_one_from_1_to_10(text: str, rating: int | None) -> None:
    assert read_rating(text) == rating


def talk(number: int, task: str, turns: int) -> Item:
    history = [{"user": f"u{number}.{t}", "bot": f"gold{number}.{t}"} for t in range(turns)]
    return Item(str(number), {"task": task, "id": number, "history": history}, task)


def test_a_dialogue_scores_its_worst_turn_and_tasks_weigh_alike() -> None:
    items = [talk(0, "SC", 3), talk(1, "MR", 2), talk(2, "MR", 2)]
    assert [len(dialogues.judged_turns(TALKS, item)) for item in items] == [2, 2, 2]
    replies = [["r8", "r6"], ["r3", "r9"], ["r5", "r7"]]
    model = Model(texts=lambda text: f"Rating: [[{text.partition('<reply>')[2].strip()[1]}]]")
    stub = Judge(SPEC, model, Encoder(), "d" * 64)
    (found,) = dialogues.judge_answers(TALKS, items, replies, stub)
    assert found.item_scores == (6.0, 3.0, 5.0) and found.score == 5.0  # mean of 6 and of (3 + 5) / 2
    # Gold history, not the model's own replies; the benchmark's reply is shown where there is a right one.
    assert "Assistant: gold0.1" in model.asked[1] and "r8" not in model.asked[1]
    assert "A right reply" in model.asked[2] and "A right reply" not in model.asked[0]
    assert "self-correction" in model.asked[0]


def test_a_rating_that_cannot_be_read_is_asked_for_once_more() -> None:
    def texts(text: str) -> str:
        if text.endswith(("Rating: [[4", "Rating: [[1")):
            return "0]]" if "<reply>\nten" in text else "]]"
        return (
            "Very good."
            if any(f"<reply>\n{reply}" in text for reply in ("odd", "lost", "ten"))
            else "Rating: [[9]]"
        )

    def asked(reply: str) -> ReplyAsked:
        return ReplyAsked("ability", "words", [{"role": "user", "content": "hello"}], reply, None)

    def likely(text: str) -> dict[str, float]:
        assert text.endswith("Rating: [[")
        return {
            "n": 0.6,
            **({} if "<reply>\nlost" in text else {"1" if "<reply>\nten" in text else "4": 0.2}),
        }

    stub = judge(texts=texts, likely=likely)
    assert stub.ratings([asked(reply) for reply in ("good", "odd", "lost", "ten")]) == [9, 4, None, 10]
    items = [talk(n, "CM", 1) for n in range(50)]
    replies = [["lost" if n == 0 else "good"] for n in range(50)]
    (found,) = dialogues.judge_answers(TALKS, items, replies, judge(texts=texts, likely=likely))
    assert found.score is None and found.void == "1 of 50 ratings could not be read"


def test_a_turn_without_a_rating_leaves_its_dialogue_without_a_score() -> None:
    assert dialogues.worst([7, None]) is None and dialogues.worst([7, 3]) == 3 and dialogues.worst([]) is None


def test_a_likelihood_judge_prefers_what_it_would_have_said() -> None:
    spec = JudgeSpec(name="teacher", method="likelihood", made_here=True, dtype="float32")
    model = lab.tiny_model(2)
    lm = CountedModel(model, pocket_fixtures.tokenizer(), batch_size=4, work=TokenWork())
    own = Judge(spec, lm, lab.encoder(), "e" * 64)
    (share,) = own.preferences([PairAsked("Sort the words: oak egg", "egg oak", "hat", True)])

    def dense(said: str) -> tuple[float, int]:
        tokenizer = pocket_fixtures.tokenizer()
        prompt = lab.encoder().prompt([{"role": "user", "content": "Sort the words: oak egg"}])
        answer = [*tokenizer.encode(said, add_special_tokens=False), tokenizer.eos_token_id]
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=torch.tensor([prompt + answer])).logits[0], dim=-1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        return sum(float(logp[p, t]) for p, t in zip(places, answer, strict=True)), len(answer)

    (ours, count), (theirs, _) = dense("egg oak"), dense("hat")
    assert share == pytest.approx(1 / (1 + math.exp(theirs - ours)), rel=1e-3)
    (rating,) = own.ratings(
        [ReplyAsked("", "", [{"role": "user", "content": "Sort the words: oak egg"}], "egg oak", None)]
    )
    assert rating == pytest.approx(1 + 9 * math.exp(ours / count), rel=1e-3)


def test_a_judge_is_the_one_the_suite_was_pinned_with(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="the judge's weights are"):
        Judge(SPEC.model_copy(update={"weights_sha256": "a" * 64}), Model(), Encoder(), "b" * 64)
    pinned = read_suite(suite_file("distill-5-mini")).judge
    assert pinned is not None
    check_template(pinned)
    with pytest.raises(KitError, match="the judge's prompts are"):
        check_template(pinned.model_copy(update={"template_sha256": "0" * 64}))
    assert len(prompts_digest()) == 64
    model = lab.save_teacher(tmp_path / "model")
    digest = weights_digest(model)
    (model / "config.json").write_text("{}")
    assert weights_digest(model) == digest  # of the weights alone
    with pytest.raises(KitError, match="holds no weights"):
        weights_digest(tmp_path)
    assert AnswerCache(None, {"judge": digest}).key({"a": 1}) != AnswerCache(None, {"judge": "x"}).key(
        {"a": 1}
    )


def test_lengths_are_taken_out_of_made_up_preferences() -> None:
    rng = np.random.default_rng(0)
    hard, gaps = rng.normal(0, 1, 600), rng.integers(-2000, 2000, 600)
    feature = np.tanh(gaps / gaps.std(ddof=1))
    # Of a judge that prefers length (the gap is baseline less model); at equal lengths the log-odds are -1.
    shares = 1 / (1 + np.exp(-(-1.5 * feature + 0.5 * hard - 1.0)))
    length, difficulty, bias = length_control.fit(list(shares), list(map(int, gaps)), hard)
    assert (length, difficulty, bias) == pytest.approx((-1.5, 0.5, -1.0), abs=0.1)
    assert length_control.predict(hard, 0.5, -1.0) == pytest.approx(
        100 * np.mean(1 / (1 + np.exp(1 - 0.5 * hard)))
    )
    with pytest.raises(KitError, match="do not fit a length control"):
        length_control.fit([0.5] * 3, [1, 2, 3], hard[:3])


def test_the_controlled_rate_has_a_name_of_its_own_and_needs_all_items(tmp_path: Path) -> None:
    assert length_control.METRIC == "length_controlled_noreg"
    benchmark = PAIRS.model_copy(update={"also": (length_control.METRIC,)})
    path = tmp_path / length_control.DIFFICULTIES
    path.parent.mkdir(parents=True)
    path.write_text("index,instruction_difficulty\n" + "".join(f"{n},{(n % 7) / 7}\n" for n in range(805)))
    stub = judge(likely=lambda text: {"m": 0.6, "M": 0.3})
    replies = [["mine" * (n % 5 + 1)] for n in range(805)]
    found = pairwise.judge_answers(benchmark, pairs(805), replies, stub, tmp_path)
    assert [score.metric for score in found] == ["win_rate", length_control.METRIC]
    assert found[1].aggregation == "external" and found[1].n_scored == 805
    assert len(pairwise.judge_answers(benchmark, pairs(9), replies[:9], stub, tmp_path)) == 1
    path.write_text("index,instruction_difficulty\n5,0.1\n")
    with pytest.raises(KitError, match="holds no difficulties"):
        length_control.read_difficulties(path)


@needs_data
def test_the_published_annotations_give_the_published_win_rate() -> None:
    folder = BENCHMARKS / "alpaca_eval"
    rows = json.loads((folder / "FuseChat-Llama-3.2-1B-Instruct.annotations.json").read_text())
    items = read_items("alpaca_eval", "eval", BENCHMARKS)
    shares = {row["instruction"]: float(row["preference"]) - 1.0 for row in rows}

    def likely(text: str) -> dict[str, float]:
        instruction = text.partition("<instruction>\n")[2].partition("\n</instruction>")[0]
        first = "THE MODEL" in text.partition('<answer model="M">')[0]
        share = shares[instruction] if first else 1.0 - shares[instruction]
        return {"m": max(share, 1e-300), "M": max(1.0 - share, 1e-300)}

    model = Model(likely=likely)
    model.max_length = 10**7
    (found,) = pairwise.judge_answers(
        PAIRS, items, [["THE MODEL"]] * 805, Judge(SPEC, model, Encoder(), "d" * 64), None
    )
    assert found.score == pytest.approx(29.9219322658882, abs=1e-9) and found.n_scored == 805


@needs_data
@pytest.mark.skipif(
    not SAMPLES.exists(), reason="the recovered difficulties are not in ../shared/data/samples"
)
def test_the_prediction_gives_the_published_controlled_rates_and_our_fit_another() -> None:
    folder = BENCHMARKS / "alpaca_eval"
    hard = length_control.read_difficulties(SAMPLES)
    weights = {
        row[0]: (float(row[2]), float(row[3]))
        for row in list(csv.reader((folder / "length_controlled_v1_weights.csv").open()))[1:]
    }
    with (folder / "leaderboard_rows.csv").open() as stream:
        published = {row["name"]: float(row["length_controlled_winrate"]) for row in csv.DictReader(stream)}
    known = set(weights) & set(published)
    assert known == {"FuseChat-Llama-3.2-1B-Instruct", "FuseChat-Llama-3.2-3B-Instruct"}
    for name in known:
        assert length_control.predict(hard, *weights[name]) == pytest.approx(published[name], abs=0.01)
    rows = json.loads((folder / "FuseChat-Llama-3.2-1B-Instruct.annotations.json").read_text())
    shares = [float(row["preference"]) - 1.0 for row in rows]
    gaps = [len(row["output_1"]) - len(row["output_2"]) for row in rows]
    _, weight, bias = length_control.fit(shares, gaps, hard)
    # Without the published regularisation it is another figure: 26.03, not 25.27.
    assert length_control.predict(hard, weight, bias) == pytest.approx(26.03, abs=0.01)


@needs_data
def test_the_dialogues_are_those_of_the_benchmark() -> None:
    benchmark = {b.name: b for b in read_suite(suite_file("distill-5")).benchmarks}["mt_bench_101"]
    items = read_items("mt_bench_101", "test", BENCHMARKS)
    assert len(items) == 1388 and sum(len(item.content["history"]) for item in items) == 4208
    assert sum(len(dialogues.judged_turns(benchmark, item)) for item in items) == 3615
    assert {item.group for item in items} == set(dialogues.ABILITIES)
