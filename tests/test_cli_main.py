"""The `kit` command: light to start, and every outcome an exit code and a message one can act on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

from harness import __version__
from harness.cli.main import COMMANDS, GROUPS, Entry, main
from harness.errors import KitError

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    "numpy",
    "pyarrow",
    "pydantic",
    "rich",
    "torch",
    "codecarbon",
    "pandas",
    "yaml",
    "psutil",
    "pynvml",
    "requests",
}

Register = Callable[[Callable[[], None]], None]


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Puts a command `boom` in the table that runs the given function."""

    def register(body: Callable[[], None]) -> None:
        module = ModuleType("fake_boom_command")
        module.cmd = click.command("boom")(body)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_boom_command", module)
        monkeypatch.setitem(COMMANDS, "boom", Entry("fake_boom_command:cmd", "Fails as told"))

    return register


def loaded_after(code: str) -> tuple[set[str], str]:
    """Top-level modules a fresh interpreter holds after `code`, and what it printed."""
    tail = "\nimport sys; print('|'.join({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stderr.strip().splitlines()[-1].split("|")), done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-h"], []])
def test_help_and_version_load_nothing_heavy(arguments: list[str]) -> None:
    modules, out = loaded_after(f"from harness.cli.main import main; main({arguments!r})")
    assert out or not arguments
    # The version names the protocol's, which is read from its folder.
    assert not modules & (HEAVY - {"yaml"} if arguments == ["--version"] else HEAVY)


SLOW = {"pandas", "pydantic", "psutil", "ruamel", "cloudpickle", "email", "pydoc", "torch"}
"""Modules whose import would be a large part of a short command's CPU time."""


@pytest.mark.parametrize(
    "words",
    [
        ["validate", str(ROOT / "tests" / "protocol" / "examples" / "1.0")],
        ["report", str(ROOT / "tests" / "protocol" / "examples" / "1.0")],
        ["run", "--cpu", "none", "--", "true"],
    ],
    ids=lambda words: words[0],
)
def test_a_short_command_loads_what_it_uses(words: list[str]) -> None:
    code = f"from harness.cli.main import main\ntry: main({words!r})\nexcept SystemExit: pass"
    modules, _ = loaded_after(code)
    assert "pyarrow" in modules
    assert not modules & SLOW
    later = "\nimport pandas; assert pandas.DataFrame"
    assert "pandas" in loaded_after(code + later)[0]


def test_what_stood_in_while_pyarrow_was_loaded_is_gone() -> None:
    loaded_after(
        "import inspect\n"
        "from harness.cli.quick_start import light_pyarrow; light_pyarrow()\n"
        "import ssl, textwrap, pyarrow.compute as pc\n"
        "from inspect import signature\n"
        "assert signature(light_pyarrow).parameters == {} and signature is inspect.signature\n"
        "assert textwrap.dedent(' a') == 'a' and ssl.SSLContext\n"
        "assert pc.add(1, 2).as_py() == 3 and pc.round(1.26, ndigits=1).as_py() == 1.3"
    )


def test_a_name_is_shown_as_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    from harness.cli.console import make_console

    make_console().print("stage :fire:")
    assert capsys.readouterr().err == "stage :fire:\n"


def test_importing_the_package_loads_nothing_at_all() -> None:
    modules, _ = loaded_after("import harness, harness.cli, harness.errors")
    assert not modules & (HEAVY | {"click"})


@pytest.mark.parametrize("columns", [80, 120])
def test_help_lists_every_command_under_its_purpose(columns: int) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": str(columns)},
    ).stdout
    assert max(map(len, out.splitlines())) <= columns
    sections = re.findall(r"^(\S.*):\n((?:  .*\n)+)", out, flags=re.MULTILINE)
    listed = {title: re.findall(r"^  (\w+) {2,}\S", body, flags=re.MULTILINE) for title, body in sections}
    listed.pop("Options")
    assert listed == {title: list(group) for title, group in GROUPS.items()}


def test_a_command_has_one_purpose_and_maintainers_come_last() -> None:
    assert len(COMMANDS) == sum(map(len, GROUPS.values()))
    assert list(COMMANDS)[-4:] == ["schema", "conformance", "lock", "health"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"kit {__version__}, protocol 1.0.0 (sha256 ")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: kit {name}" in capsys.readouterr().out


def test_no_command_module_loads_an_extra() -> None:
    imports = "; ".join(f"import {entry.target.partition(':')[0]}" for entry in COMMANDS.values())
    modules, _ = loaded_after(imports)
    assert not modules & {
        "torch",
        "transformers",
        "datasets",
        "vllm",
        "lm_eval",
        "fontTools",
        "vl_convert",
        "codecarbon",
    }


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("adit", "kit audit"),
        ("VALIDATE", "kit validate"),
        ("reprot", "kit report"),
        ("my_pipeline.yaml", "kit audit my_pipeline.yaml"),
        ("zzzz", "Commands: audit, run"),
    ],
)
def test_unknown_command_names_the_nearest(typed: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    err = capsys.readouterr().err
    assert typed in err
    assert hint in err


@pytest.mark.parametrize("code", [1, 2])
def test_kit_error_is_a_message_and_its_code(
    boom: Register, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        raise KitError(
            "no manifest", where="runs/x", expected="a bundle", fix="kit recover runs/x", exit_code=code
        )

    boom(body)
    assert main(["boom"]) == code
    err = capsys.readouterr().err
    assert err == "kit: runs/x: no manifest\n  expected: a bundle\n  fix: kit recover runs/x\n"


def test_a_fault_is_short_unless_debugging(
    boom: Register, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> None:
        raise ZeroDivisionError("first line\nsecond line")

    boom(body)
    assert main(["boom"]) == 2
    err = capsys.readouterr().err
    assert "ZeroDivisionError: first line\n" in err
    assert "KIT_DEBUG=1" in err
    assert "Traceback" not in err

    monkeypatch.setenv("KIT_DEBUG", "1")
    assert main(["boom"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_interrupt_is_130(
    boom: Register, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        raise error

    boom(body)
    assert main(["boom"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_exit_code_of_a_command_is_kept(boom: Register) -> None:
    boom(lambda: click.get_current_context().exit(1))
    assert main(["boom"]) == 1
    boom(lambda: sys.exit(1))
    with pytest.raises(SystemExit, match="1"):
        main(["boom"])


def test_a_reader_that_went_away_is_no_complaint() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed_pipe:
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli.main", "--help"],
            stdout=closed_pipe,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    "words",
    [["--version"], ["explain"], ["validate", "tests/protocol/examples/1.0"]],
    ids=lambda words: words[0],
)
def test_a_full_disk_behind_the_output_is_no_fault_of_the_kit(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli.main", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
        )
    assert (done.returncode, done.stderr) == (
        2,
        "kit: the output: cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("EDQUOT", "kit: the output: cannot be written: Disk quota exceeded\n"),
        ("EMFILE", "kit: this machine gives the kit no more: Too many open files (ulimit -a)\n"),
    ],
)
def test_what_the_machine_refuses_is_no_fault_of_the_kit(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "refused.py").write_text(
        "import click, errno, os\n@click.command()\ndef cmd():\n"
        f"    raise OSError(errno.{name}, os.strerror(errno.{name}))\n"
    )
    code = (
        "import sys; from harness.cli import main as m\n"
        "m.COMMANDS['boom'] = m.Entry('refused:cmd', '')\nsys.exit(m.main(['boom']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "KIT_DEBUG": ""},
    )
    assert (done.returncode, done.stderr) == (2, told)


def test_another_broken_pipe_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "fake_pipe.py").write_text(
        "import click\n@click.command()\ndef cmd():\n    raise BrokenPipeError('sampler')\n"
    )
    code = (
        "import sys; from harness.cli import main as m\n"
        "m.COMMANDS['boom'] = m.Entry('fake_pipe:cmd', '')\nsys.exit(m.main(['boom']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert done.returncode == 2
    assert "BrokenPipeError: sampler" in done.stderr


def test_bad_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--versoin"]) == 2
    assert "--version" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["import", "codecarbon", "e.csv", "--out", "o", "--utc-offset", "nan"],
        ["breakeven", "--extra", "10kWh", "--serving", "inf", "1"],
        ["breakeven", "--teacher", "1e400kWh", "--baseline", "1kWh", "--student", "1kWh"],
        ["advise", "--published", "--cost", "nan", "--per-kwh", "1"],
    ],
    ids=lambda words: " ".join(words[-2:]),
)
def test_a_number_of_an_option_is_finite(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "no finite number" in said or "is no energy" in said
