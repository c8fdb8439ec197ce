"""The logit cache on disk: layout to the byte, any number of workers, kills, damage, and reading."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from harness.distill.cache_folder import read_manifest, shard_plan
from harness.distill.cache_format import CacheSpec, RowBlock
from harness.distill.cache_writer import CacheWriter
from harness.distill.logit_cache import CacheReader, CacheRows, main
from harness.errors import KitError
from harness.models.losses import TeacherRows, kd_loss
from tests.distill.logit_cache_lab import (
    FINGERPRINT,
    SPEC,
    digests,
    join,
    label_counts,
    rows_of_example,
    write_cache,
)

SPECS = {
    "17-bit ids": SPEC,
    "16-bit ids": CacheSpec(1000, 20),
    "19-bit ids": CacheSpec(400_000, 13, temperatures=(1.5, 2.0, 4.0)),
    "no temperature": CacheSpec(100_352, 8, temperatures=()),
    "nucleus": CacheSpec(100_352, 30, "nucleus", eps=0.02),
    "nucleus, 19 bits": CacheSpec(400_000, 9, "nucleus", (4.0,), eps=0.02),
    "sample": CacheSpec(100_352, 50, "sample", seed=1),
    "sample, many draws": CacheSpec(900, 300, "sample", (2.0,), seed=1),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cache")
    write_cache(out)
    return out


def expected_rows(spec: CacheSpec, indices: list[int]) -> RowBlock:
    return join([rows_of_example(spec, index, int(label_counts()[index])) for index in indices])


def assert_equal(rows: CacheRows, spec: CacheSpec, expected: RowBlock) -> None:
    length = np.full(len(expected.ids), spec.k) if expected.lengths is None else expected.lengths
    used = torch.from_numpy(np.arange(spec.k) < length[:, None])
    assert rows.ids.dtype == torch.int32 and rows.logp.dtype == torch.float32
    assert torch.equal(rows.ids[used], torch.from_numpy(expected.ids)[used])
    assert (rows.ids[~used] == 0).all() and (rows.logp[~used] == -torch.inf).all()
    assert torch.equal(rows.target, torch.from_numpy(expected.target.astype(np.int64)))
    assert torch.equal(rows.target_logp, torch.from_numpy(expected.target_logp).float())
    if spec.mode == "sample":
        assert expected.counts is not None
        weights = torch.from_numpy(expected.counts).float() / spec.k
        assert torch.allclose(rows.logp[used].exp(), weights[used], rtol=1e-5)
        assert (rows.log_tail == -torch.inf).all() and rows.a_t == {}
        return
    assert torch.equal(rows.logp[used], torch.from_numpy(expected.logp).float()[used])
    assert torch.equal(rows.log_tail, torch.from_numpy(expected.log_tail))
    assert list(rows.a_t) == list(spec.temperatures)
    for column, value in enumerate(spec.temperatures):
        assert torch.equal(rows.a_t[value], torch.from_numpy(expected.a_t[:, column].copy()))


@pytest.mark.parametrize("name", SPECS)
def test_rows_come_back_in_any_order_across_shards(tmp_path: Path, name: str) -> None:
    spec = SPECS[name]
    write_cache(tmp_path, spec)
    reader = CacheReader.open(tmp_path, verify=True)
    assert len(reader) == 40 and len(reader.records) > 5 and reader.spec == spec
    order = random.Random(1)
    for indices in ([0], [39, 0, 7, 7, 21], order.sample(range(40), 40), list(range(3))):
        expected = expected_rows(spec, indices)
        assert_equal(reader.rows(indices, expected.target), spec, expected)
    assert reader.rows([]).ids.shape == (0, spec.k)
    with pytest.raises(IndexError, match="40"):
        reader.rows([3, 40])


def test_a_label_position_takes_431_bytes(cache: Path) -> None:
    """Counted from the files: what is left after the header and 16 bytes an example (plus 8 a shard)."""
    assert SPEC.bytes_per_position == 431
    rows = 0
    for record in read_manifest(cache).values():
        data = (cache / record.name).read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        examples = record.last - record.first
        assert len(data) - header - 16 * examples - 8 == 431 * record.rows
        rows += record.rows
    assert rows == label_counts().sum() == CacheReader.open(cache).positions


def test_header_and_index_vanish_in_a_large_shard(tmp_path: Path) -> None:
    """At the reference's 357 labels an example the whole file stays within 0.1 bytes of 431."""
    counts = np.full(60, 357, dtype=np.int64)
    block = join([rows_of_example(SPEC, 0, 357)])
    plan = shard_plan(counts, 1 << 20)
    with CacheWriter(
        tmp_path, SPEC, plan, FINGERPRINT, label_counts=counts, keys=lambda a, b: np.zeros(b - a, np.uint64)
    ) as writer:
        writer.begin(plan[0])
        for index in range(60):
            writer.put(block, [(index, 357)])
        writer.finish()
    reader = CacheReader.open(tmp_path)
    assert 431 <= reader.bytes / reader.positions < 431.1


@pytest.mark.parametrize("name", ["17-bit ids", "nucleus", "sample"])
def test_a_shard_is_plain_safetensors(tmp_path: Path, name: str) -> None:
    spec = SPECS[name]
    write_cache(tmp_path, spec)
    record = read_manifest(tmp_path)["shard-00001.safetensors"]
    arrays = load_file(tmp_path / record.name)
    expected = expected_rows(spec, list(range(record.first, record.last)))
    assert {n: (a.dtype, a.shape) for n, a in arrays.items()} == {
        n: (np.dtype(d), s)
        for n, (d, s) in spec.fields(record.rows, record.last - record.first, record.entries).items()
    }
    assert np.array_equal(np.diff(arrays["offsets"]), label_counts()[record.first : record.last])
    assert arrays["example_key"].tolist() == [2**63 + i for i in range(record.first, record.last)]
    assert np.array_equal(arrays["target"], expected.target)
    if name == "17-bit ids":
        high = np.unpackbits(arrays["ids_hi"], axis=1, count=spec.k).astype(np.int32)
        assert np.array_equal(arrays["ids_lo"] + (high << 16), expected.ids)
    else:
        assert expected.lengths is not None
        used = np.arange(spec.k) < expected.lengths[:, None]
        assert np.array_equal(arrays["row_len"], expected.lengths)
        high = np.unpackbits(arrays["ids_hi"], count=record.entries).astype(np.int32)
        assert np.array_equal(arrays["ids_lo"] + (high << 16), expected.ids[used])
        assert np.array_equal(arrays["logp"], expected.logp[used])


def test_the_plan_cuts_between_examples() -> None:
    counts = np.array([5, 3, 4, 100, 1, 1, 1], dtype=np.int64)
    plan = shard_plan(counts, 8)
    assert [(shard.first, shard.last, shard.rows) for shard in plan] == [
        (0, 2, 8),
        (2, 3, 4),
        (3, 4, 100),
        (4, 7, 3),
    ]
    assert shard_plan(counts, 10**9)[0].rows == 115 and shard_plan(counts[:0], 8) == []


@pytest.mark.parametrize("workers", [2, 3, 16])
def test_any_number_of_workers_at_once_leaves_the_same_files(
    cache: Path, tmp_path: Path, workers: int
) -> None:
    children = [start(tmp_path, worker, workers) for worker in range(workers)]
    assert [child.communicate(timeout=60) and child.returncode for child in children] == [0] * workers
    assert digests(tmp_path) == digests(cache)


def test_killed_at_random_moments_and_run_again_gives_the_same_bits(cache: Path, tmp_path: Path) -> None:
    """Twenty kills, most of them while rows arrive or a shard is written; every run goes on where it can."""
    moments = random.Random(3)
    finished = digests(cache)
    killed = left_over = partly = 0
    for number in range(20):
        out = tmp_path / str(number // 4)
        child = start(out, 0, 1, pause_s=0.01)
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        # Counted in shards, not in seconds: a busy machine gets as far.
        while child.poll() is None and not (
            len(list(out.glob("shard-*"))) >= number % 4 and any(out.glob(".shard-*"))
        ):
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.05))
        child.send_signal(signal.SIGKILL)
        killed += child.wait(60) == -signal.SIGKILL
        child.stdout.close()
        found = digests(out) if out.exists() else {}
        shards = [name for name in found if name.startswith("shard-")]
        partly += 0 < len(shards) < len(read_manifest(cache))
        left_over += any(name.startswith(".shard-") for name in found)
        assert all(found[name] == finished[name] for name in shards)
    assert killed >= 12 and left_over >= 3 and partly >= 3
    for number in range(5):
        write_cache(tmp_path / str(number))
        assert digests(tmp_path / str(number)) == finished


def test_resume_writes_only_what_is_missing_or_damaged(tmp_path: Path, cache: Path) -> None:
    shards = write_cache(tmp_path)
    assert shards == len(read_manifest(tmp_path)) and write_cache(tmp_path) == 0
    (tmp_path / "shard-00002.safetensors").unlink()
    flip(tmp_path / "shard-00003.safetensors", 5000)
    with (tmp_path / "shard-00004.safetensors").open("ab") as stream:
        stream.write(b"x")
    assert write_cache(tmp_path) == 3
    assert digests(tmp_path) == digests(cache)


def test_a_corrupted_byte_anywhere_names_the_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cache(tmp_path)
    path = tmp_path / "shard-00003.safetensors"
    for position in (0, 40, 2000, path.stat().st_size - 1):
        flip(path, position)
        with pytest.raises(KitError, match="shard-00003"):
            CacheReader.open(tmp_path, verify=True)
        with pytest.raises(KitError, match="shard-00003"):
            CacheReader.open(tmp_path).verify()
        assert main([str(tmp_path)]) == 1 and "shard-00003" in capsys.readouterr().err
        flip(path, position)
    assert main([str(tmp_path)]) == 0 and "every byte" in capsys.readouterr().out
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 1)
    with pytest.raises(KitError, match="shard-00003"):
        CacheReader.open(tmp_path)
    path.unlink()
    with pytest.raises(KitError, match=r"shard-00003\.safetensors is missing"):
        CacheReader.open(tmp_path)


def test_an_unfinished_cache_says_so(tmp_path: Path) -> None:
    write_cache(tmp_path, worker=0, workers=2)
    with pytest.raises(KitError, match=r"holds \d of \d shards"):
        CacheReader.open(tmp_path)
    with pytest.raises(KitError, match="no logit cache"):
        CacheReader.open(tmp_path / "nothing")
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(KitError, match=r"manifest\.jsonl:1"):
        CacheReader.open(tmp_path)


def test_a_mismatch_names_the_field(cache: Path, tmp_path: Path) -> None:
    CacheReader.open(cache, dataset_meta={"content_digest": "d", "seed": 1}, split="train")
    for arguments, field in (
        ({"dataset_meta": {"content_digest": "other"}}, "data.content_digest"),
        ({"dataset_meta": {"content_digest": "d", "tokenizer_sha256": "x"}}, "data.tokenizer_sha256"),
        ({"split": "validation"}, "data.split"),
        ({"expect": {"teacher": {"digest": "u"}}}, "teacher.digest"),
        ({"expect": {"spec": {"k": 50}}}, "spec.k"),
    ):
        with pytest.raises(KitError, match=f"another {field}"):
            CacheReader.open(cache, **arguments)  # type: ignore[arg-type]
    write_cache(tmp_path, worker=0, workers=2)
    before = digests(tmp_path)
    with pytest.raises(KitError, match=r"another spec\.temperatures"):
        write_cache(tmp_path, CacheSpec(100_352, 100, temperatures=(2.0,)))
    with pytest.raises(KitError, match="another shards"):
        write_cache(tmp_path, shard_positions=400)
    assert digests(tmp_path) == before


def test_labels_are_compared_at_every_read(cache: Path) -> None:
    reader = CacheReader.open(cache)
    target = expected_rows(SPEC, [30, 2]).target.copy()
    reader.rows([30, 2], torch.from_numpy(target))
    place = int(label_counts()[30]) + 1
    target[place] += 1
    with pytest.raises(KitError, match="label 1 of example 2 is"):
        reader.rows([30, 2], target)
    with pytest.raises(KitError, match="labels, the cache has"):
        reader.rows([30, 2], target[:-1])
    with pytest.raises(KitError, match="of example 2"):
        reader.rows([2, 30], np.roll(expected_rows(SPEC, [2, 30]).target, 1))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampled_rows_give_the_loss_the_gradient_of_the_estimator(tmp_path: Path, temperature: float) -> None:
    """d/dz of -T^2 sum_i w_i log q_i is T ((sum w) q - w), with w = count / draws * p_T / p_1."""
    spec = CacheSpec(900, 60, "sample", (2.0,), seed=1)
    write_cache(tmp_path, spec)
    indices = [4, 30]
    rows = CacheReader.open(tmp_path).rows(indices, temperature=temperature)
    stored = expected_rows(spec, indices)
    assert stored.counts is not None and stored.lengths is not None
    used = np.arange(spec.k) < stored.lengths[:, None]
    weight = np.where(used, stored.counts / spec.k, 0.0)
    if temperature != 1:
        shift = stored.logp.astype(np.float64) * (1 / temperature - 1) - stored.a_t[:, :1]
        weight = np.where(used, weight * np.exp(shift), 0.0)
    full = np.zeros((len(weight), 900))
    np.add.at(full, (np.arange(len(weight))[:, None], stored.ids), weight)
    # With the unit matrix as output matrix the hidden states are the logits.
    logits = torch.randn(len(weight), 900, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hidden = logits.clone().requires_grad_()
    teacher = TeacherRows.from_cache(rows)
    unit = torch.eye(900, dtype=torch.float64)
    kd_loss(hidden, unit, rows.target, teacher, alpha=0.0, temperature=temperature).total.backward()
    q = torch.softmax(logits / temperature, dim=1).numpy()
    assert hidden.grad is not None
    exact = temperature * (full.sum(axis=1, keepdims=True) * q - full)
    assert np.allclose(hidden.grad.numpy(), exact, rtol=1e-4, atol=1e-6)


def test_kept_mass_is_the_mean_over_all_positions(cache: Path) -> None:
    reader = CacheReader.open(cache)
    kept = expected_rows(SPEC, list(range(40))).kept.astype(np.float64).mean(axis=0)
    assert list(reader.kept_mass) == [1.0, 2.0, 4.0]
    assert np.allclose(list(reader.kept_mass.values()), kept)


def test_a_shard_of_zeroed_log_probabilities_is_refused_when_it_is_first_read(
    cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(cache, tmp_path / "zeroed")
    reader = CacheReader.open(tmp_path / "zeroed")
    path = tmp_path / "zeroed" / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    size = len(data)
    data[size // 2 : size // 2 + 5000] = bytes(5000)
    path.write_bytes(data)
    first, second = (record.first for record in list(read_manifest(tmp_path / "zeroed").values())[:2])
    reader.rows([first])
    with pytest.raises(KitError, match=r"shard-00001\.safetensors has sha256"):
        reader.rows([second])


def test_an_id_twice_in_a_row_is_an_error(tmp_path: Path) -> None:
    spec, counts = CacheSpec(1000, 5), np.array([2, 1], dtype=np.int64)
    plan = shard_plan(counts, 100)
    with CacheWriter(tmp_path, spec, plan, FINGERPRINT, label_counts=counts, keys=no_keys) as writer:
        writer.begin(plan[0])
        blocks = [rows_of_example(spec, index, int(count)) for index, count in enumerate(counts)]
        blocks[1].ids[0, 3] = blocks[1].ids[0, 0]
        writer.put(join(blocks), [(0, 2), (1, 1)])
        writer.finish()
    reader = CacheReader.open(tmp_path)
    reader.rows([0])
    with pytest.raises(KitError, match="an id twice in a row of example 1"):
        reader.rows([0, 1])


def test_the_mass_that_the_ids_hold_is_said_and_can_be_asked_for(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = CacheReader.open(cache)
    reader.kept_mass.update({1.0: 0.98, 4.0: 0.046})
    reader.check_kept_mass(1.0)
    assert not capsys.readouterr().err
    reader.check_kept_mass(4.0)
    assert "LITTLE MASS: the stored ids hold 4.6% of the teacher's mass at T=4" in capsys.readouterr().err
    with pytest.raises(KitError, match=r"hold 4\.6% of the teacher's mass at T=4(?s:.*)larger k"):
        reader.check_kept_mass(4.0, 0.5)


def test_temperatures_that_truncated_rows_cannot_serve_are_refused(cache: Path) -> None:
    reader = CacheReader.open(cache)
    for temperature, tail in ((1.0, "bucket"), (4.0, "bucket"), (2.0, "partial"), (1.5, "renormalised")):
        reader.check_temperature(temperature, tail)
    with pytest.raises(KitError, match="T=4 with tail 'renormalised'"):
        reader.check_temperature(4.0, "renormalised")
    with pytest.raises(KitError, match="no normaliser for T=3"):
        reader.check_temperature(3.0, "bucket")


def test_the_writers_failure_stops_the_caller_and_leaves_finished_shards(tmp_path: Path) -> None:
    counts = label_counts()
    plan = shard_plan(counts, 200)

    def fail() -> RowBlock:
        raise OSError(28, "No space left on device")

    started_s = time.monotonic()
    with (
        pytest.raises(KitError, match=r"shard-00000\.safetensors: cannot be written: No space left"),
        CacheWriter(tmp_path, SPEC, plan, FINGERPRINT, label_counts=counts, keys=no_keys) as writer,
    ):
        writer.begin(plan[0])
        for _ in range(1000):
            writer.put(fail, [(0, int(counts[0]))])
    assert time.monotonic() - started_s < 10
    assert read_manifest(tmp_path) == {}


def test_rows_that_are_no_distribution_or_not_the_shards_own_are_refused(tmp_path: Path) -> None:
    counts = label_counts()
    plan = shard_plan(counts, 200)
    good = rows_of_example(SPEC, 0, int(counts[0]))
    bad = {name: value.copy() for name, value in vars(good).items() if value is not None}
    bad["target_logp"][1] = np.nan
    example = plan[1].first
    cases = [
        (RowBlock(**bad), [(0, int(counts[0]))], "no finite distribution for example 0"),
        (good, [(0, int(counts[0]) - 1)], "label counts"),
        (
            rows_of_example(SPEC, example, int(counts[example])),
            [(example, int(counts[example]))],
            "does not hold",
        ),
        (join([good, good]), [(0, int(counts[0]))] * 2, "twice"),
    ]
    for block, rows, message in cases:
        with (
            pytest.raises((KitError, ValueError), match=message),
            CacheWriter(tmp_path, SPEC, plan, FINGERPRINT, label_counts=counts, keys=no_keys) as writer,
        ):
            writer.begin(plan[0])
            writer.put(block, rows)
            writer.finish()
    with (
        pytest.raises(ValueError, match="example 1 has no rows"),
        CacheWriter(tmp_path, SPEC, plan, FINGERPRINT, label_counts=counts, keys=no_keys) as writer,
    ):
        writer.begin(plan[0])
        writer.put(good, [(0, int(counts[0]))])
        writer.finish()
    assert not list(tmp_path.glob("shard-*"))


def test_two_processes_do_not_write_one_shard(tmp_path: Path) -> None:
    counts = label_counts()
    plan = shard_plan(counts, 200)
    with CacheWriter(tmp_path, SPEC, plan, FINGERPRINT, label_counts=counts, keys=no_keys) as first:
        first.begin(plan[0])
        with pytest.raises(KitError, match="another process is writing"):
            write_cache(tmp_path)


def test_specs_that_make_no_sense_are_refused() -> None:
    for arguments in (
        {"k": 0},
        {"k": 2000},
        {"temperatures": (1.0, 2.0)},
        {"temperatures": (4.0, 2.0)},
        {"mode": "nucleus"},
        {"mode": "sample"},
        {"eps": 0.1},
        {"mode": "nucleus", "eps": 1.5},
    ):
        with pytest.raises(KitError):
            CacheSpec(1000, **{"k": 10, **arguments})  # type: ignore[arg-type]
    assert CacheSpec.from_json(json.loads(json.dumps(SPEC.as_json()))) == SPEC


def test_reading_keeps_up_with_training() -> None:
    """A floor far below what an idle machine reaches, for one that others use too."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        counts = np.full(40, 357, dtype=np.int64)
        plan = shard_plan(counts, 1 << 20)
        block = rows_of_example(SPEC, 0, 357)
        with CacheWriter(
            Path(directory), SPEC, plan, FINGERPRINT, label_counts=counts, keys=no_keys
        ) as writer:
            writer.begin(plan[0])
            for index in range(40):
                writer.put(block, [(index, 357)])
            writer.finish()
        reader = CacheReader.open(directory)
        speeds = []
        for _ in range(10):
            start_s = time.process_time()
            for first in range(0, 40, 10):
                reader.rows(range(first, first + 10), np.tile(block.target, 10))
            speeds.append(40 * 357 / (time.process_time() - start_s))
        assert max(speeds) > 0.5e6


def no_keys(first: int, last: int) -> np.ndarray:
    return np.zeros(last - first, dtype=np.uint64)


def start(out: Path, worker: int, workers: int, pause_s: float = 0.0) -> subprocess.Popen[bytes]:
    words = [str(word) for word in (out, worker, workers, pause_s)]
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.distill.logit_cache_lab", *words]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE)


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ 0x10]))
