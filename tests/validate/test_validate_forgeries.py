"""Coordinated forgeries by the kit's own code: a few kinds here, all of them by scripts/tamper.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.validate.likeness import pairs, power_and_rises
from tests.validate.forgeries import KINDS, Suite

PAGE = Path(__file__).resolve().parents[2] / "docs" / "forgeries.md"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    yield Suite(tmp_path_factory.mktemp("forgeries"))


def test_what_is_forged_was_rankable(suite: Suite) -> None:
    _, _, report = suite.base("full")
    assert report.findings == () and report.comparability is not None
    assert report.comparability.reasons == ()


@pytest.mark.parametrize("kind", [k for k in KINDS if k.quick], ids=lambda k: k.name)
def test_a_forgery_is_refused_or_loses_its_rank(suite: Suite, kind: object) -> None:
    verdict = suite.judge(kind)  # type: ignore[arg-type]
    assert verdict.outcome in ("refused", "loses rank"), verdict
    assert verdict.rules


def test_the_page_holds_every_kind() -> None:
    rows = re.findall(r"^\| \w+ \| .*\(`([a-z0-9-]+)`\) \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert {name for name, _ in rows} == {kind.name for kind in KINDS}
    unseen = {name for name, outcome in rows if outcome == "not seen"}
    assert unseen == {kind.name for kind in KINDS if kind.unseen}


def test_copies_are_found_by_the_counter_or_by_power() -> None:
    """Each hides one of the two; independent series share nothing."""
    rng = np.random.default_rng(3)
    power = rng.normal(600_000, 1500, (4, 900)).astype(np.int64)
    rises = rng.normal(300_000, 2000, (4, 900)).astype(np.int64)
    series = [power_and_rises(p, np.cumsum(r)) for p, r in zip(power, rises, strict=True)]
    assert pairs(series) == []
    hidden = power_and_rises(
        power[0] + rng.normal(0, 5000, 900).astype(np.int64), np.cumsum(rises[0] + rng.integers(-1, 2, 900))
    )
    scaled = power_and_rises(np.rint(power[1] * 0.97).astype(np.int64)[5:], np.cumsum(rises[3]))
    assert pairs([*series[:3], hidden, scaled]) == [(0, 3), (1, 4)]
