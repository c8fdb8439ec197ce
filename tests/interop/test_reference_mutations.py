"""Damaged logs: whatever bytes are changed, an import ends in a bundle or in an error that names the file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.errors import KitError
from harness.interop.reference.importer import import_reference
from tests.interop.reference_checks import assert_valid
from tests.interop.reference_logs import T0, HarnessRun, emission, even_rows, snapshot, stage_record

PIECES = (
    b"", b"0", b"-1", b"1e308", b"-1e-300", b"NaN", b"null", b"[]", b"{}", b'"', b",", b"\n", b"\x00",
    b"\xff", b"999999999999999999999", b"true", b"1769400000.5", b'"x"', b"timestamp", b"-0.0", b"Infinity",
)  # fmt: skip


def write_logs(root: Path) -> list[Path]:
    run = HarnessRun(root)
    return [
        run.stage(stage_record("kd_1b", seconds=20.0)),
        run.stage(snapshot("kd_2b", 200, seconds=10, start_time=T0 + 50, end_time=T0 + 60)),
        run.power("kd_2b", even_rows(T0 + 50, 12, [200.0, 100.0])),
        run.environment("kd_1b"),
        run.config("kd_1b"),
        run.emissions(emission("kd_1b", seconds=20.0), emission("kd_3b", seconds=20.0)),
        run.summary(stage_record("kd_1b", seconds=20.0)),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Replace a number, or cut, or overwrite some bytes."""
    start = rng.randrange(len(data))
    if rng.random() < 0.7:
        stops = b",:]}\n\r "
        while start and data[start - 1 : start] not in [bytes([s]) for s in stops]:
            start -= 1
        end = start
        while end < len(data) and data[end] not in stops:
            end += 1
    else:
        end = min(len(data), start + rng.choice([0, 1, 5, 10**6]))
    return data[:start] + rng.choice(PIECES) + data[end:]


@pytest.mark.parametrize("seed", range(5))
def test_every_mutation_ends_in_a_bundle_or_a_named_error(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    files = write_logs(tmp_path / "logs")
    originals = {path: path.read_bytes() for path in files}
    refused = 0
    for round_ in range(40):
        path = rng.choice(files)
        path.write_bytes(mutate(originals[path], rng))
        try:
            result = import_reference(tmp_path / "logs", tmp_path / f"bundle{round_}")
        except KitError as error:
            refused += 1
            assert error.where, str(error)
        else:
            assert_valid(result)
            for row in result.stages:
                energy = row["gpu_energy_j"]
                assert energy is None or 0 <= row["gpu_energy_j_low"] <= energy <= row["gpu_energy_j_high"]
        path.write_bytes(originals[path])
    assert 0 < refused < 40
