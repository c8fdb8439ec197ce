"""`kit breakeven`: figures with units, the cases by sign, and which input moves the result."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.advice.breakeven import parse_energy, reuse_lines, reuse_sensitivity, serving_lines
from harness.cli.main import cli
from harness.errors import KitError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deciding.md"


@pytest.mark.parametrize(
    ("text", "best", "half"),
    [
        ("11kWh", 39.6e6, 0),
        ("11±0.5kWh", 39.6e6, 1.8e6),
        ("11 kWh +- 0.5", 39.6e6, 1.8e6),
        ("6.3kWh±3%", 22.68e6, 0.6804e6),
        ("6.3+-3%kWh", 22.68e6, 0.6804e6),
        ("1e3 J", 1000, 0),
        ("-2kJ", -2000, 0),
    ],
)
def test_a_figure_with_its_unit(text: str, best: float, half: float) -> None:
    found = parse_energy(text, "--teacher")
    assert (found.best, found.best - found.low, found.high - found.best) == pytest.approx((best, half, half))


@pytest.mark.parametrize("text", ["11", "kWh", "11 kg", "1±2±3J", "11kWh5", "nanJ", "±3J"])
def test_no_figure_is_an_error_that_says_what_is_one(text: str) -> None:
    with pytest.raises(KitError, match=r"--teacher.*is no energy"):
        parse_energy(text, "--teacher")


@pytest.mark.parametrize("text", ["1e308kWh", "1e15MWh", "1J±1e300%", "1J±1e308", "1e-300J", "-1e22J"])
def test_no_more_than_there_is_and_no_less_than_can_be_told(text: str) -> None:
    with pytest.raises(KitError, match=r"--teacher.*is no energy"):
        parse_energy(text, "--teacher")


def test_joules_of_a_token_that_no_model_needs_are_refused() -> None:
    with pytest.raises(KitError, match=r"--serving.*per served token"):
        serving_lines(parse_energy("11kWh", ""), (1e-300, 0.0))


def test_the_smallest_difference_moves_n_star_most() -> None:
    figures = [parse_energy(text, "") for text in ("11kWh", "6.3kWh", "5.2kWh")]
    moved = reuse_sensitivity(*figures)
    assert list(moved) == ["baseline", "student", "teacher"]
    # d ln N* / d ln B = -B / (B - S), and so on: finite differences of 1 %.
    assert list(moved.values()) == pytest.approx([-100 * 0.063 / 1.163, 100 * 0.052 / 1.048, 1.0])
    assert "N* = 10.0 reuses" in reuse_lines(*figures)[0]


def test_cases_by_sign() -> None:
    same = [parse_energy(text, "") for text in ("11kWh", "5kWh", "6kWh")]
    assert reuse_lines(*same) == [
        "N* = never: no number of reuses is enough",
        "Why: the student saves nothing, so nothing pays it back.",
    ]
    cheaper = serving_lines(parse_energy("-2kJ", ""), (1.0, 2.0))
    assert "cheaper to train and dearer to serve" in cheaper[1]
    assert "T* = 3.96e+07" in serving_lines(parse_energy("11kWh", ""), (2.0, 1.0))[0]


def test_the_command_says_what_is_missing() -> None:
    run = CliRunner().invoke
    found = run(cli, ["breakeven", "--teacher", "11kWh", "--baseline", "6.3kWh", "--student", "5.2kWh"])
    assert found.exit_code == 0 and "; in whole reuses 10\n" in found.output
    assert "missing: --student" in run(cli, ["breakeven", "--teacher", "1J", "--baseline", "1J"]).output
    assert "--extra and --serving" in run(cli, ["breakeven"]).output


EXAMPLES = re.findall(r"^    kit (.+)$", PAGE.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("example", "shown"), list(zip(EXAMPLES, ["SFT 7B, Q 0.90", "-5.4 %", "T* = 2.38e+07"], strict=True))
)
def test_the_examples_of_the_page_print_what_it_says(example: str, shown: str) -> None:
    found = CliRunner().invoke(cli, shlex.split(example))
    assert found.exit_code == 0 and shown in found.output
