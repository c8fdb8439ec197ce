"""Text from a file on its way out: every kind of output shows it and none obeys it."""

import csv
import html
import io
import json

import pytest
from rich.console import Console
from rich.text import Text

from harness.text import MAX_SHOWN, aligned, as_name, is_visible, json_shown, lines_shown, shown

NASTY = "\x1b\x07\x9b\u202e\u2066\u200b\ufeff\u00ad\ufe0f\u115f\x00\x7f\r\n\ud800\U000e0041"


@pytest.mark.parametrize("form", ["terminal", "markdown", "csv", "html", "latex", "annotation", "property"])
def test_nothing_invisible_gets_out(form: str) -> None:
    for char in NASTY:
        out = shown(f"a{char}b", form)
        assert is_visible(out) and len(out) > 3 and out[0] + out[-1] == "ab"
    assert len({shown(char, form) for char in NASTY}) == len(set(NASTY))
    assert "\n" not in shown(NASTY, form)


def test_plain_names_stay_as_they_are() -> None:
    for name in ("student 7B, β = 0.9", "Überlauf (2)", "2.5\u202fkJ ± 3", "蒸留", "x-sweep/lr=1e-4"):
        assert shown(name) == name


def test_a_long_text_is_cut_and_says_so() -> None:
    assert shown("a" * 50_000) == "a" * MAX_SHOWN + f"... ({50_000 - MAX_SHOWN} more characters)"
    assert len(shown("a" * 50_000, limit=None)) == 50_000


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", " =1", "\uff1d1"])
def test_csv_runs_no_formula(cell: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([shown(cell, "csv")])
    assert next(csv.reader([out.getvalue()])) == [f"'{cell}"]


def test_csv_lets_no_formula_in_behind_a_tab() -> None:
    assert shown("\t=1", "csv") == r"\t=1"


def test_html_is_text_again_when_parsed() -> None:
    text = """<script>alert('1')</script>"&amp;"""
    out = shown(text, "html")
    assert not set("<>\"'") & set(out) and html.unescape(out) == text


def test_latex_has_no_command_left() -> None:
    out = shown(r"\input{/etc/passwd} 100% $x_1^2$ #~&<>", "latex")
    assert out == (
        r"\textbackslash{}input\{/etc/passwd\} 100\% \$x\_1\textasciicircum{}2\$ \#\textasciitilde{}\&"
        r"\textless{}\textgreater{}"
    )


def test_markdown_makes_no_heading_link_cell_or_mention() -> None:
    assert shown("# a|b <b> [x](y) *z* `c` &lt; ~d~", "markdown") == (
        r"\# a\|b \<b\> \[x\](y) \*z\* \`c\` \&lt; \~d\~"
    )
    assert shown("1. a", "markdown") == r"1\. a" and shown("- a", "markdown") == r"\- a"
    assert shown("@me see https://x and www.x", "markdown") == (
        "@<!-- -->me see https:<!-- -->//x and www<!-- -->.x"
    )


def test_an_annotation_is_one_command() -> None:
    assert shown("50%0A\n::error::x", "annotation") == r"50%250A\n::error::x"
    assert shown("a:b,c", "property") == "a%3Ab%2Cc"


def test_rich_prints_markup_as_text() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(Text(shown("[/] [bold red]x[/]")))
    assert out.getvalue().strip() == "[/] [bold red]x[/]"


def test_json_means_the_same_and_shows_every_character() -> None:
    value = {"näme": NASTY.replace("\ud800", ""), "µ": "± 3\u202fJ"}
    document = json_shown(json.dumps(value, indent=2, ensure_ascii=False))
    assert json.loads(document) == value
    assert "näme" in document and all(is_visible(line.replace("\u202f", "")) for line in document.split("\n"))


def test_lines_of_a_message_stay_lines() -> None:
    assert lines_shown("a\x1b[2J\n  fix: b\r") == "a\\x1b[2J\n  fix: b\\r"


def test_a_name_that_a_log_may_hold() -> None:
    assert as_name("train-1") == "train-1"
    for text in ("a\x1b[2J", "\u202eb", "\x1b" * 300, "x" * 401, "x" * 400, "\u2800"):
        name = as_name(text)
        assert is_visible(name) and len(name) <= MAX_SHOWN


@pytest.mark.parametrize("width", [30, 45, 200])
def test_a_table_keeps_every_cell_in_a_narrow_terminal(width: int) -> None:
    rows = [
        ("run", "energy", "labels"),
        ("kd-1b", "270 J (0 to 540)", "cpu_estimated, no_gpu, pocket"),
        ("a", "", "x"),
    ]
    lines = aligned(rows, width)
    assert all(len(line) <= width for line in lines)
    assert " ".join(" ".join(rows[1]).split()) in " ".join(" ".join(lines).split())
    assert len(lines) == len(rows) if width == 200 else len(lines) > len(rows)
    assert any("270 J (0 to 540)" in line for line in lines)
