"""Stage teacher_logits with a two-layer teacher: every row against a float64 pass over its example alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from harness.distill import teacher_logits
from harness.distill.cache_folder import example_key, read_manifest
from harness.distill.cache_writer_shard import ShardBuffer
from harness.distill.logit_cache import CacheReader
from harness.distill.teacher_logits import TeacherLogitsConfig, run, shard_batches
from harness.distill.teacher_logits_model import LogitTeacher, teacher_identity
from harness.errors import KitError
from harness.models.batches import Batcher
from harness.models.dataset import TokenDataset
from harness.models.support import prepare
from tests.distill.logit_cache_lab import digests
from tests.distill.token_examples import make_examples, write

EXAMPLES = 30
TEMPERATURES = (1.0, 2.0, 4.0)


def make_teacher(out: Path, seed: int = 0) -> Olmo2ForCausalLM:
    torch.manual_seed(seed)
    config = Olmo2Config(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        initializer_range=0.3,
    )
    model = Olmo2ForCausalLM(config).eval()
    model.save_pretrained(out)
    return model


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TeacherLogitsConfig:
    """Teacher, data set and settings; `out` is filled by a whole run."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("teacher")
    make_teacher(root / "teacher")
    write(root / "data", make_examples(EXAMPLES), make_examples(4, seed=9), seq_len=64, tokenizer_sha256="t")
    config = TeacherLogitsConfig(
        teacher=root / "teacher",
        dataset=root / "data",
        out=root / "cache",
        dtype="float32",
        device="cpu",
        micro_batch=2,
        chunk=7,
        shard_positions=80,
        threads=1,
    )
    run(config)
    return config


def dense(config: TeacherLogitsConfig, index: int) -> torch.Tensor:
    """float64 log-probabilities [labels, V] of one example, run alone through the model's own head."""
    model = Olmo2ForCausalLM.from_pretrained(config.teacher, dtype=torch.float64)
    example = TokenDataset.open(config.dataset, config.split).example(index)
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(example.input_ids.astype(np.int64))[None]).logits[0]
    places = torch.from_numpy(np.flatnonzero(example.label_mask)) - 1
    return torch.log_softmax(logits[places], dim=1)


def assert_rows_are_the_teachers(config: TeacherLogitsConfig, rtol: float = 1e-3) -> None:
    dataset = TokenDataset.open(config.dataset, config.split)
    reader = CacheReader.open(config.out, dataset_meta=dataset.meta, split=config.split, verify=True)
    keys = [key for shard in reader._shards for key in shard.arrays["example_key"].tolist()]
    assert keys == [example_key(example.id) for example in dataset]
    for index in (0, 7, len(dataset) - 1):
        example = dataset.example(index)
        rows = reader.rows([index], example.input_ids[example.label_mask])
        exact = dense(config, index)
        ids = rows.ids.long()
        assert torch.allclose(rows.logp.double(), exact.gather(1, ids), rtol=rtol, atol=rtol)
        assert torch.allclose(exact.gather(1, ids), exact.topk(reader.spec.k).values, rtol=rtol, atol=rtol)
        tail = torch.logsumexp(exact.scatter(1, ids, -torch.inf), dim=1)
        assert torch.allclose(rows.log_tail.double(), tail, rtol=rtol, atol=rtol)
        own = exact.gather(1, rows.target[:, None])[:, 0]
        assert torch.allclose(rows.target_logp.double(), own, rtol=rtol, atol=rtol)
        for temperature, a_t in rows.a_t.items():
            assert torch.allclose(
                a_t.double(), torch.logsumexp(exact / temperature, dim=1), rtol=rtol, atol=rtol
            )


def test_every_row_is_the_dense_distribution_that_predicts_its_label(base: TeacherLogitsConfig) -> None:
    assert len(read_manifest(base.out)) >= 4
    assert_rows_are_the_teachers(base)
    reader = CacheReader.open(base.out)
    assert reader.spec.k == 100 and reader.spec.temperatures == (2.0, 4.0)
    assert 1 > reader.kept_mass[1.0] > reader.kept_mass[2.0] > reader.kept_mass[4.0] > 0


def test_a_training_batch_gets_its_rows_in_label_order(base: TeacherLogitsConfig) -> None:
    dataset = TokenDataset.open(base.dataset, "train")
    reader = CacheReader.open(base.out, dataset_meta=dataset.meta, split="train")
    for mode in ("packed", "bucketed"):
        batcher = Batcher(dataset, seq_len=64, micro_batch=3, seed=1, mode=mode)  # type: ignore[arg-type]
        for batch in batcher.epoch(0):
            rows = reader.rows_of(batch)
            assert torch.equal(rows.target, batch.labels[batch.labels != -100])
        following = torch.where(batch.labels >= 0, batch.input_ids.roll(-1, dims=1), batch.labels)
        moved = replace(batch, labels=following)
        with pytest.raises(KitError, match="the cache has"):
            reader.rows_of(moved)


@pytest.mark.parametrize(
    "changes",
    [
        {"batching": "bucketed", "micro_batch": 3},
        {"micro_batch": 1, "seq_len": 40},
        {"shard_positions": 10**6},
    ],
    ids=["bucketed", "one row", "one shard"],
)
def test_results_do_not_depend_on_what_shares_a_batch(
    base: TeacherLogitsConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = replace(base, out=tmp_path, **changes)
    run(config)
    assert_rows_are_the_teachers(config)
    one, other = CacheReader.open(base.out), CacheReader.open(tmp_path)
    everything = range(EXAMPLES)
    assert torch.allclose(one.rows(everything).log_tail, other.rows(everything).log_tail, atol=1e-4)
    assert torch.allclose(one.rows(everything).a_t[4.0], other.rows(everything).a_t[4.0], atol=1e-4)


def test_bfloat16_is_the_same_teacher_within_its_noise(base: TeacherLogitsConfig, tmp_path: Path) -> None:
    run(replace(base, out=tmp_path, dtype="bfloat16"))
    one, other = (
        CacheReader.open(base.out).rows(range(EXAMPLES)),
        CacheReader.open(tmp_path).rows(range(EXAMPLES)),
    )
    difference = (one.a_t[2.0] - other.a_t[2.0]).abs()
    assert 0 < float(difference.mean()) < 0.1
    assert float((one.ids[:, 0] == other.ids[:, 0]).float().mean()) > 0.85


@pytest.mark.parametrize("mode", ["nucleus", "sample"])
def test_other_modes_hold_the_same_distribution(base: TeacherLogitsConfig, tmp_path: Path, mode: str) -> None:
    config = replace(base, out=tmp_path / "a", mode=mode, eps=0.5, k=150)  # type: ignore[arg-type]
    run(config)
    run(replace(config, out=tmp_path / "b", worker=1, workers=2))
    run(replace(config, out=tmp_path / "b", worker=0, workers=2))
    assert without_config(tmp_path / "a") == without_config(tmp_path / "b")
    reader = CacheReader.open(config.out, verify=True)
    exact = dense(config, 3)
    if mode == "nucleus":
        rows = reader.rows([3])
        mass = (
            torch.where(rows.logp > -torch.inf, exact.gather(1, rows.ids.long()), -torch.inf).exp().sum(dim=1)
        )
        full = (rows.logp > -torch.inf).all(dim=1)
        assert (mass[~full] >= 0.5 - 1e-5).all() and (~full).any()
        assert torch.allclose(1 - mass, rows.log_tail.double().exp(), atol=1e-4)
        return
    for temperature in TEMPERATURES:
        rows = reader.rows([3], temperature=temperature)
        weights = rows.logp.double() / temperature
        if temperature != 1:
            weights = weights - rows.a_t[temperature].double()[:, None]
        used = rows.logp > -torch.inf
        counts = (weights - exact.gather(1, rows.ids.long()) * (1 / temperature - 1)).exp() * 150
        if temperature != 1:
            counts = counts * torch.logsumexp(exact / temperature, dim=1).exp()[:, None]
        assert torch.allclose(counts[used], counts[used].round(), rtol=0.02, atol=0.02)
        assert torch.allclose(
            torch.where(used, counts, 0).sum(dim=1), torch.tensor(150.0).double(), rtol=0.02
        )


def test_draws_do_not_depend_on_the_batch(base: TeacherLogitsConfig, tmp_path: Path) -> None:
    sample = replace(base, mode="sample", k=40, out=tmp_path / "a")
    run(sample)
    run(replace(sample, out=tmp_path / "b", batching="bucketed", shard_positions=10**6))
    run(replace(sample, out=tmp_path / "c", seed=1))
    a, b, c = (CacheReader.open(tmp_path / name).rows(range(EXAMPLES)).ids for name in "abc")
    assert float((a == b).float().mean()) > 0.95 > 0.5 > float((a == c).float().mean())


def test_workers_make_the_same_files_and_config_names_none(base: TeacherLogitsConfig, tmp_path: Path) -> None:
    for worker in (2, 0, 1):
        run(replace(base, out=tmp_path, worker=worker, workers=3))
    assert without_config(tmp_path) == without_config(base.out)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["worker"], config["workers"], config["k"]) == (0, 1, 100)


def test_workers_at_once_and_kills_at_random_moments_leave_the_same_files(
    base: TeacherLogitsConfig, tmp_path: Path
) -> None:
    """Processes forked from one that has imported everything, so that a kill falls into the work."""
    write(tmp_path / "data", make_examples(160), seq_len=64)
    words = [f"--{name}={getattr(base, name)}" for name in ("teacher", "dtype", "device")]
    words += [f"--dataset={tmp_path / 'data'}", "--micro_batch=1", "--shard_positions=120", "--threads=1"]
    report = subprocess.run(
        [sys.executable, "-c", _FORKS, str(tmp_path), *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    outcome = json.loads(report.stdout.splitlines()[-1])
    assert outcome["codes"] == [0, 0, 0] and outcome["killed"] >= 2
    alone = without_config(tmp_path / "alone")
    assert len(alone) > 10
    for name in ("together", "killed-0", "killed-1"):
        assert without_config(tmp_path / name) == alone


_FORKS = """
import json, os, random, signal, sys, time
from harness.distill.arguments import parse
from harness.distill.teacher_logits import TeacherLogitsConfig, run
import transformers.models.olmo2.modeling_olmo2

def fork(out, worker=0, workers=1):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            arguments = [*sys.argv[2:], f"--out={out}", f"--worker={worker}", f"--workers={workers}"]
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            run(parse(TeacherLogitsConfig, arguments))
            code = 0
        finally:
            os._exit(code)
    return child

root = sys.argv[1]
children = [fork(root + "/together", worker, 3) for worker in range(3)]
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
start = time.monotonic()
os.waitpid(fork(root + "/alone"), 0)

def files(out):
    return sum(len(names) for _, _, names in os.walk(out))

whole = files(root + "/alone")
a_file_s = (time.monotonic() - start) / whole
draw, killed = random.Random(1), 0
for number in range(4):
    out = f"{root}/killed-{number // 2}"
    goal = files(out) + draw.randint(1, whole // 4)
    child = fork(out)
    until = time.monotonic() + 120
    while files(out) < goal and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(draw.random() * a_file_s)
    os.kill(child, signal.SIGKILL)
    killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if number % 2 == 1:
        assert os.waitpid(fork(out), 0)[1] == 0
print(json.dumps({"codes": codes, "killed": killed}))
"""


def test_tokens_are_reported_as_they_are_processed(
    base: TeacherLogitsConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    config = tmp_path / "stage.yaml"
    config.write_text(
        f"teacher: {base.teacher}\ndataset: {base.dataset}\nout: {tmp_path / 'out'}\nthreads: 1\n"
    )
    monkeypatch.setattr(sys, "argv", ["teacher_logits", "--config", str(config), "--dtype", "float32"])
    assert teacher_logits.main() == 0
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    dataset = TokenDataset.open(base.dataset, "train")
    assert sum(line.get("tokens_processed", 0) for line in lines) == dataset.lengths.sum()
    positions = sum(line.get("tokens_positions", 0) for line in lines)
    assert dataset.lengths.sum() <= positions < 1.6 * dataset.lengths.sum()
    assert not any("tokens_trained" in line or "tokens_generated" in line for line in lines)
    (summary,) = (line for line in lines if line.get("event") == "logit_cache")
    assert summary["label_positions"] == dataset.label_counts.sum() and set(summary["kept_mass"]) == {
        "1",
        "2",
        "4",
    }
    output = capsys.readouterr()
    assert f"{dataset.label_counts.sum()}/{dataset.label_counts.sum()} positions" in output.err
    assert "% at T=4 of the teacher's mass" in output.out
    # A second run has nothing to do and loads no teacher.
    monkeypatch.setattr(LogitTeacher, "load", None)
    before = len(lines)
    assert teacher_logits.main() == 0
    assert len(events.read_text().splitlines()) == before + 1


def test_a_failing_writer_stops_the_run_and_the_next_one_goes_on(
    base: TeacherLogitsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = ShardBuffer.write

    def fail(self: ShardBuffer, temporary: Path, final: Path, note: dict[str, str]) -> object:
        if final.name == "shard-00002.safetensors":
            raise OSError(28, "No space left on device")
        return written(self, temporary, final, note)

    with monkeypatch.context() as patch:
        patch.setattr(ShardBuffer, "write", fail)
        with pytest.raises(KitError, match=r"shard-00002\.safetensors: cannot be written: No space left"):
            run(replace(base, out=tmp_path))
    assert sorted(read_manifest(tmp_path)) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    run(replace(base, out=tmp_path))
    assert without_config(tmp_path) == without_config(base.out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tail": "renormalised"}, "T=4 with tail"),
        ({"k": 2000}, "k=2000 of a vocabulary of 1024"),
        ({"worker": 1}, "worker 1 of 1"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"seq_len": 16}, "does not fit seq_len 16"),
        ({"device": "cuda"}, "no GPU"),
        ({"temperatures": (0.0, 1.0)}, "temperatures"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_work_is_refused(
    base: TeacherLogitsConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "device" in changes and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(KitError, match=message):
        run(replace(base, out=tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"micro_batch": 3}, "made_with.micro_batch"),
        ({"dtype": "bfloat16"}, "teacher.dtype"),
        ({"teacher_revision": "abc"}, "teacher.digest"),
        ({"k": 50}, "spec.k"),
        ({"split": "validation"}, "data.split"),
        ({"shard_positions": 81}, "shard_positions"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_going_on_with_other_settings_names_the_field(
    base: TeacherLogitsConfig, changes: dict[str, Any], field: str
) -> None:
    before = digests(base.out)
    with pytest.raises(KitError, match=f"another {field}"):
        run(replace(base, **changes))
    assert digests(base.out) == before


def test_a_teacher_of_another_vocabulary_or_head_or_without_numbers_is_refused(
    base: TeacherLogitsConfig, tmp_path: Path
) -> None:
    high = make_examples(3)
    high[1].input_ids[1] = 5000
    write(tmp_path / "data", high, seq_len=64)
    with pytest.raises(KitError, match="token 5000 in a data set for a teacher of 1024"):
        run(replace(base, dataset=tmp_path / "data", out=tmp_path / "a"))
    with pytest.raises(KitError, match="holds no teacher"):
        run(replace(base, teacher=tmp_path, out=tmp_path / "b"))
    model = make_teacher(tmp_path / "broken")
    with torch.no_grad():
        model.lm_head.weight[:, 0] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(KitError, match="no finite distribution"):
        run(replace(base, teacher=tmp_path / "broken", out=tmp_path / "c"))

    class Scaled(Olmo2ForCausalLM):
        def forward(self, **arguments: Any) -> Any:
            output = super().forward(**arguments)
            output.logits = output.logits / 2
            return output

    scaled = Scaled.from_pretrained(base.teacher)
    with pytest.raises(KitError, match="logits are not the last hidden state times the output matrix"):
        prepare(scaled, attention="block", seq_len=64)
    assert not list(tmp_path.glob("?/shard-*"))


def test_the_identity_of_a_teacher_is_its_content(tmp_path: Path) -> None:
    make_teacher(tmp_path / "one")
    make_teacher(tmp_path / "same")
    make_teacher(tmp_path / "other", seed=1)
    one, same, other = (teacher_identity(tmp_path / name, None) for name in ("one", "same", "other"))
    assert one == same != other and one.vocab_size == 1024
    # A hub cache: the blob's name is believed, its content not read.
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    (tmp_path / "one" / "model.safetensors").rename(blob)
    (tmp_path / "one" / "model.safetensors").symlink_to(blob)
    linked = teacher_identity(tmp_path / "one", None)
    blob.write_bytes(b"")
    assert teacher_identity(tmp_path / "one", None) == linked != same
    assert teacher_identity(tmp_path / "same", "r1") != teacher_identity(tmp_path / "same", "r2")


def test_batches_of_a_shard_hold_its_examples_once(base: TeacherLogitsConfig) -> None:
    dataset = TokenDataset.open(base.dataset, "train")
    (shard,) = teacher_logits.shard_plan(dataset.label_counts, 10**6)
    for batching in ("packed", "bucketed"):
        batches = list(shard_batches(dataset, shard, batching, 64, 4))
        seen = [index for batch in batches for index, _ in batch.example_rows]
        assert sorted(seen) == list(range(EXAMPLES))
        assert sum(batch.real_tokens for batch in batches) == dataset.lengths.sum()


def without_config(out: Path) -> dict[str, str]:
    """Every file but config.json, which holds the name of the folder."""
    return {name: digest for name, digest in digests(out).items() if name != "config.json"}
