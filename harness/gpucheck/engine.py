"""The section of the engine: vLLM on the 1B's shape with random weights, where it is installed.

Run as a program (`python -m harness.gpucheck.engine`), it is the child that holds the engine.
"""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

from harness.gpucheck.check import Bench, SectionResult, judged, predicted_row
from harness.gpucheck.load import Obey, serve
from harness.gpucheck.loader import OrderedProgram
from harness.gpucheck.metered import MeteredRun
from harness.gpucheck.stage_benches import planned_s
from harness.gpucheck.stage_program import olmo2_config
from harness.meter.helper import package_environ
from harness.models.shapes import OLMO2
from harness.planning.cards import find_card
from harness.planning.cases import Case
from harness.planning.steps import Efficiency

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 256, 300, 256
_LEAST_S = 90.0  # vLLM takes about a minute to start
_EXPECTED = ("engine", "vLLM answers every prompt to its end", f"{PROMPTS} answers of {NEW_TOKENS} tokens")


def engine(bench: Bench) -> SectionResult:
    """One queue of prompts: tokens a second, joules a token, and how far the plan of it was off."""
    python = bench.load.python
    asked = [python, "-c", "import importlib.util, sys; sys.exit(not importlib.util.find_spec('vllm'))"]
    if bench.rehearsal or subprocess.run(asked, check=False).returncode:
        why = "a rehearsal has no device" if bench.rehearsal else "vLLM is not installed beside torch"
        return SectionResult((judged(*_EXPECTED, why, None),))
    if bench.left_s() < _LEAST_S:
        why = f"{bench.left_s():.0f} s of the check's time were left, {_LEAST_S:.0f} s are needed"
        return SectionResult((judged(*_EXPECTED, why, None),))
    from harness import Meter

    out, command = bench.folder / "engine", [python, "-P", "-m", "harness.gpucheck.engine"]
    with OrderedProgram(command, "the program that runs vLLM", package_environ()) as worker:
        worker.ask({"op": "build"}, bench.left_s())
        with Meter(out=out, name="engine", cpu="none") as meter, meter.stage("answers", kind="x-engine"):
            done = worker.ask({"op": "run"}, bench.left_s())
        version = worker.name
    (row,) = MeteredRun.read(out).stages
    energy, tokens, seconds = row["gpu_energy_j"], done["tokens"], done["seconds"]
    observed = f"{done['answers']} answers, {tokens} tokens, {tokens / seconds:.0f} a second; {version}"
    complete = done["answers"] == PROMPTS and tokens == PROMPTS * NEW_TOKENS
    card = find_card(bench.gpus[0].model) if len(bench.gpus) == 1 else None
    predicted = []
    if card is not None:
        shape, said = OLMO2["1b"], NEW_TOKENS
        case = Case("teacher_generate", "1b", shape, rows=PROMPTS, seq_len=PROMPT_TOKENS, new_tokens=said)
        planned = planned_s(case, card, "vllm")
        watts = Efficiency().of("watts", case.stage).likely * card.watts
        predicted = [predicted_row("vllm_1b (queue)", (planned, seconds), (planned * watts, energy))]
    data = {**done, "engine": version, "gpu_energy_j": energy}
    return SectionResult((judged(*_EXPECTED, observed, complete),), data, predicted=predicted)


def start() -> tuple[dict[str, Any], Obey]:
    """Find vLLM; the engine itself is started by the order `build`."""
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    vllm: Any = importlib.import_module("vllm")
    engines: list[Any] = []

    def obey(order: dict[str, Any]) -> dict[str, Any]:
        if order["op"] == "build":
            engines.append(_build(vllm))
            _answers(vllm, engines[0], 4)  # graphs and kernels are ready
            return {}
        before, begun = _preemptions(engines[0]), time.monotonic()
        answers = _answers(vllm, engines[0], PROMPTS)
        return {
            "seconds": time.monotonic() - begun,
            "answers": len(answers),
            "tokens": sum(answers),
            "preemptions": _preemptions(engines[0]) - before,
        }

    return {"backend": f"vLLM {vllm.__version__}"}, obey


def _build(vllm: Any) -> Any:
    with tempfile.TemporaryDirectory(prefix="kit-engine-") as folder:
        told = {"architectures": ["Olmo2ForCausalLM"], "dtype": "bfloat16"}
        olmo2_config(OLMO2["1b"], 2048, **told).save_pretrained(folder)
        return vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=2048,
            disable_log_stats=False,
            seed=0,
        )


def _answers(vllm: Any, llm: Any, count: int) -> list[int]:
    """Tokens of each answer."""
    draw = random.Random(0)
    prompts = [
        {"prompt_token_ids": [draw.randrange(OLMO2["1b"].vocabulary) for _ in range(PROMPT_TOKENS)]}
        for _ in range(count)
    ]
    settings = vllm.SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False, temperature=1.0)
    return [len(output.outputs[0].token_ids) for output in llm.generate(prompts, settings, use_tqdm=False)]


def _preemptions(llm: Any) -> int:
    return int(sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions"))


if __name__ == "__main__":
    sys.exit(serve(start))
