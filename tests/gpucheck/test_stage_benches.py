"""The section of the models in miniature over the lab's NVML, and its verdicts on made-up figures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.doctor.inventory import GpuFacts, shorten_uuids
from harness.errors import KitError
from harness.gpucheck import stage_benches
from harness.gpucheck.check import PREDICTED_HEADER, Bench, Expectation
from harness.gpucheck.loader import Load, OrderedProgram
from harness.planning.cards import find_card
from harness.planning.cases import Case, card_cases, miniature_cases
from harness.planning.sums import memory_of, work_of
from tests.lab import Const, LabConfig, LabDevice, Refresh
from tests.lab.fixtures import lab_dir  # noqa: F401

pytest.importorskip("torch")
pytest.importorskip("transformers")

LAB = LabConfig((LabDevice((Const(300.0),), counter=Refresh(50_000, 10_000)),))


@pytest.fixture
def bench(lab_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:  # noqa: F811
    for name, value in LAB.env(lab_dir).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with Load(sys.executable, "numpy") as load:
        yield Bench(tmp_path, load, rehearsal=True, scale=0.05, say=lambda text: None)


def verdicts(expectations: Sequence[Expectation]) -> dict[str, str]:
    return {expectation.id: expectation.verdict for expectation in expectations}


@pytest.mark.slow
def test_a_miniature_runs_through_the_stages_own_code(bench: Bench) -> None:
    result = stage_benches.run_stage_benches(bench)
    assert result.data["failed"] == result.data["left_out"] == {} and result.data["card"] is None
    found = {entry["id"]: entry for entry in result.data["cases"]}
    wanted = {case.id: case for case in miniature_cases()}
    assert list(found) == list(wanted) and {case.stage for case in wanted.values()} == {
        "student_train",
        "teacher_logits",
        "teacher_generate",
    }
    for name, entry in found.items():
        case, measured = wanted[name], entry["measured"]
        work, shape = work_of(case), case.shape
        assert measured["parameters"] == shape.parameters
        assert measured["weight_bytes"] == 2 * shape.parameters == entry["stated_memory_bytes"]["weights"]
        if case.stage == "student_train":
            # Weights and the optimizer's state are all that stands: gradients come and go with a step.
            standing = measured["weight_bytes"] + measured["state_bytes"]
            assert standing == entry["stated_memory_bytes"]["standing"]
        steps, seconds = measured["steps"], measured["seconds"]
        assert entry["tokens"] == steps * work.tokens and measured["billed_s"] >= seconds
        assert entry["tokens_per_s"] == pytest.approx(entry["tokens"] / seconds)
        # 300 W, whatever is done: what is billed is the window's length.
        assert measured["energy_j"] == pytest.approx(300.0 * measured["billed_s"], rel=0.005)
        assert entry["j_per_token"] == measured["energy_j"] / entry["tokens"]
        flops = work.model_flops * steps
        assert entry["pj_per_flop"] == pytest.approx(1e12 * measured["energy_j"] / flops)
        assert entry["mfu"] is entry["roofline_s"] is entry["memory_ratio"] is None
    assert verdicts(result.expectations) == {
        "models_complete": "pass",
        **dict.fromkeys(("models_memory", "models_card", "models_mfu"), "not run"),
        **dict.fromkeys(("models_pj", "models_j_per_token"), "not run"),
    }
    assert "the work ran on the CPU" in result.text
    assert [len(rows) for _, _, rows in result.tables] == [4, 4]


def test_a_case_that_breaks_leaves_the_others_and_one_without_time_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = miniature_cases()[2]
    # 7 is no number of heads for a width of 120.
    broken = replace(fine, model="broken", shape=replace(fine.shape, heads=7))
    late = replace(fine, model="late")
    monkeypatch.setattr(stage_benches, "miniature_cases", lambda: [broken, fine, late])
    left = iter([stage_benches.RESERVE_S + 1] * 2)
    monkeypatch.setattr(Bench, "left_s", lambda bench: next(left, stage_benches.RESERVE_S - 1))
    result = stage_benches.run_stage_benches(bench)
    assert [entry["id"] for entry in result.data["cases"]] == [fine.id]
    assert list(result.data["failed"]) == [broken.id] and list(result.data["left_out"]) == [late.id]
    assert "less than" in result.data["left_out"][late.id]
    assert verdicts(result.expectations)["models_complete"] == "fail"
    assert broken.id in result.text


def test_a_case_without_time_left_is_no_pass() -> None:
    figure = {"id": "fine", "case": {"stage": "student_train"}}
    figure |= {bar.key: None for bar in stage_benches._BARS}
    for late, verdict in (([], "pass"), (["late"], "not run")):
        results = stage_benches.CaseResults(left_out={"late": "less than 150 s left"}, late=late)
        complete = stage_benches.judge([figure], results, hopper=False)[0]
        assert complete.verdict == verdict and "late left out: less than" in complete.observed


def test_cases_after_a_program_that_does_not_start_again_are_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = miniature_cases()[2]
    broken, after = (
        replace(fine, model="broken", shape=replace(fine.shape, heads=7)),
        replace(fine, model="z"),
    )
    monkeypatch.setattr(stage_benches, "miniature_cases", lambda: [broken, after])
    start, starts = stage_benches._start, iter([True])

    def once(bench: Bench) -> OrderedProgram:
        if next(starts, False):
            return start(bench)
        raise KitError("no more")

    monkeypatch.setattr(stage_benches, "_start", once)
    result = stage_benches.run_stage_benches(bench)
    assert list(result.data["failed"]) == [broken.id] and list(result.data["left_out"]) == [after.id]
    assert "no more" in result.data["left_out"][after.id]


def test_an_interpreter_without_cuda_or_packages_is_a_reason(bench: Bench, tmp_path: Path) -> None:
    on_card = replace(bench, rehearsal=False)
    result = stage_benches.run_stage_benches(on_card)
    assert set(verdicts(result.expectations).values()) == {"not run"}
    assert {expectation.observed for expectation in result.expectations} == {"torch sees no CUDA device"}

    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    bench.load.python = str(bare)
    result = stage_benches.run_stage_benches(bench)
    assert set(verdicts(result.expectations).values()) == {"not run"}
    assert "ended early" in result.expectations[0].observed or "No module" in result.expectations[0].observed


def figures(case: Case, **changes: float | None) -> dict[str, Any]:
    """A case on an H100 at half of the roofline's speed, 600 W and the memory that is stated."""
    card = find_card("NVIDIA H100 80GB HBM3")
    assert card is not None
    work, stated = work_of(case), memory_of(case)
    seconds = 2 * 10 * work.floor_s(card)
    values: dict[str, float | None] = {
        "steps": 10,
        "head_copy": False,
        "seconds": seconds,
        "parameters": case.shape.parameters,
        "weight_bytes": stated.weights,
        "state_bytes": 0,
        "allocated_peak_bytes": stated.tensors,
        "card_bytes": stated.tensors + 1_000_000_000,
        "energy_j": 600.0 * seconds,
        "energy_j_low": 590.0 * seconds,
        "energy_j_high": 610.0 * seconds,
        "billed_s": seconds,
        **changes,
    }
    return stage_benches.compare(case, values, card)


def test_figures_on_a_card() -> None:
    case, card = card_cases()[2], find_card("NVIDIA H100 80GB HBM3")
    assert card is not None
    one, work = figures(case), work_of(case)
    assert one["roofline_share"] == pytest.approx(0.5)
    # Checkpointing does a third more than MFU counts, and the optimizer's step counts nothing.
    assert one["mfu"] == pytest.approx(0.5 * work.model_flops / (989.4e12 * work.floor_s(card)))
    assert 0.34 < one["mfu"] < 0.375
    assert one["j_per_token"] == pytest.approx(600.0 / one["tokens_per_s"])
    # J = F P / (MFU peak), section 3.4 of the reference.
    assert one["pj_per_flop"] == pytest.approx(1e12 * 600.0 / (one["mfu"] * 989.4e12))
    assert one["memory_ratio"] == 1.0
    # Torch before 2.8 keeps the teacher's output matrix a second time, in float32.
    logits = next(case for case in card_cases() if case.stage == "teacher_logits")
    more = figures(logits, head_copy=True)["stated_memory_bytes"]["tensors"] - memory_of(logits).tensors
    assert more == 4 * logits.shape.vocabulary * logits.shape.width
    unknown = stage_benches.compare(case, {**one["measured"], "energy_j": None}, None)
    assert unknown["mfu"] is unknown["roofline_share"] is unknown["j_per_token"] is None
    assert unknown["pj_per_flop"] is None


def test_what_was_predicted_stands_beside_what_was_measured() -> None:
    card = find_card("NVIDIA H100 80GB HBM3")
    assert card is not None
    tried = [figures(case) for case in card_cases()]
    rows = stage_benches.predictions(tried, card)
    assert [row[0] for row in rows] == [case.id for case in card_cases()]
    assert {len(row) for row in rows} == {len(PREDICTED_HEADER)}
    first, planned = rows[0], stage_benches.planned_s(card_cases()[0], card)
    took = tried[0]["measured"]["seconds"] / 10
    assert first[1:4] == [f"{planned:.3f}", f"{took:.3f}", f"{took / planned - 1:+.0%}"]
    # 0.9 of 700 W was planned, 600 W were drawn.
    assert float(first[5]) == pytest.approx(600 * took, rel=0.01)
    assert float(first[4]) == pytest.approx(630 * planned, rel=0.01)
    assert first[9] == "+0%"
    unknown = stage_benches.predictions([figures(card_cases()[0], energy_j=None)], card)[0]
    assert unknown[5:7] == ["unknown", "unknown"]


def test_verdicts_on_a_card() -> None:
    def judge(found: list[dict[str, Any]], *, hopper: bool = True) -> dict[str, str]:
        return verdicts(stage_benches.judge(found, stage_benches.CaseResults(), hopper=hopper))

    tried = [figures(case) for case in card_cases()]
    assert set(judge(tried).values()) == {"pass"}
    elsewhere = judge(tried, hopper=False)
    assert elsewhere["models_pj"] == elsewhere["models_j_per_token"] == "not run"
    first, stated = card_cases()[0], memory_of(card_cases()[0])
    for name, change in {
        "models_memory": {"allocated_peak_bytes": round(1.11 * stated.tensors)},
        "models_card": {"card_bytes": stated.peak + 1},
        "models_mfu": {"seconds": 10 * work_of(first).model_flops / (0.24 * 989.4e12)},
    }.items():
        wrong = judge([figures(first, **change), *tried[1:]])
        assert [key for key, verdict in wrong.items() if verdict == "fail"] == [name]
    tokens = 10 * work_of(first).tokens
    assert judge([figures(first, energy_j=0.0199 * tokens)])["models_j_per_token"] == "pass"
    assert judge([figures(first, energy_j=0.0201 * tokens)])["models_j_per_token"] == "fail"
    assert judge([figures(first, energy_j=3.1e-12 * 10 * work_of(first).model_flops)])["models_pj"] == "fail"


def test_only_the_card_that_works_is_metered(bench: Bench) -> None:
    uuids = [f"GPU-{number}2345678-1234-1234-1234-123456789abc" for number in range(2)]
    worker = cast(OrderedProgram, SimpleNamespace(ready={"uuid": uuids[1]}))
    bench.gpus = tuple(GpuFacts(number, uuid=shorten_uuids(uuid)) for number, uuid in enumerate(uuids))
    assert stage_benches._devices(bench, worker) == [uuids[1]]
    bench.gpus = bench.gpus[:1]
    assert stage_benches._devices(bench, worker) is None


def test_a_rehearsals_cases_are_small() -> None:
    assert max(memory_of(case).tensors for case in miniature_cases()) < 10_000_000
