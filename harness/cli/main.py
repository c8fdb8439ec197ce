"""The command `kit`: subcommands by purpose, each imported only when it is called, and one place for errors.

Exit codes: 0 fine, 1 findings or a failed stage, 2 input that cannot be read, wrong usage or a fault of the
kit, 130 interrupted, 141 the reader of the output went away (as a shell reports SIGPIPE).
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from harness import __version__
from harness.ending import leave, silence
from harness.errors import KitError
from harness.text import lines_shown, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_UNUSABLE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_MEANS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}


class Entry(NamedTuple):
    """Where a subcommand lives and what `kit --help` says of it without importing it."""

    target: str
    """`module:attribute` of the click command."""
    help: str
    """One line, no full stop needed."""


GROUPS: dict[str, dict[str, Entry]] = {
    "Measure": {
        "audit": Entry("harness.cli.audit:cmd", "Run a pipeline stage by stage and log its energy."),
        "run": Entry("harness.cli.run:cmd", "Meter one command, as `time` does."),
        "watch": Entry("harness.cli.watch:cmd", "Look at a run that is going on."),
        "recover": Entry("harness.cli.recover:cmd", "Seal what a killed or crashed run left behind."),
        "evaluate": Entry("harness.cli.evaluate:cmd", "Score a model on a suite of benchmarks, metered."),
        "import": Entry("harness.cli.import_:cmd", "Turn logs of other tools into a bundle."),
    },
    "Look": {
        "report": Entry("harness.cli.report:cmd", "Show where the joules of a run went."),
        "compare": Entry("harness.cli.compare:compare", "Set several runs beside each other."),
        "runs": Entry("harness.cli.compare:runs", "List the runs below a folder."),
        "figures": Entry("harness.cli.figures:cmd", "Draw runs for a paper: figures and LaTeX tables."),
        "factors": Entry(
            "harness.cli.factors:cmd", "Show grid intensities and PUE values with their sources."
        ),
    },
    "Decide": {
        "advise": Entry("harness.cli.advise:cmd", "Say which student to build, and what to change first."),
        "breakeven": Entry(
            "harness.cli.breakeven:cmd", "Say after how many reuses or served tokens distilling pays."
        ),
    },
    "Check": {
        "validate": Entry("harness.cli.validate:cmd", "Check a run's bundle against the protocol."),
        "scrub": Entry("harness.cli.scrub:cmd", "Write a bundle again without what names people or secrets."),
        "explain": Entry("harness.cli.explain:cmd", "Say what a finding of validate means and what to do."),
    },
    "Reproduce": {
        "preflight": Entry(
            "harness.cli.preflight:cmd", "Find every problem of a profile or pipeline before it starts."
        ),
        "artifacts": Entry(
            "harness.cli.artifacts:cmd", "Find caches and synthetic sets that fit a recipe: reuse them."
        ),
        "plan": Entry("harness.cli.plan:cmd", "Say what a profile will take: time, energy, memory."),
        "reproduce": Entry(
            "harness.cli.reproduce:cmd", "Run the paper's experiments and compare the tables."
        ),
    },
    "Share": {
        "submit": Entry("harness.cli.submit:cmd", "Make a leaderboard submission from runs."),
        "leaderboard": Entry(
            "harness.cli.leaderboard:cmd", "Check submissions and build the leaderboard's site."
        ),
    },
    "Set up": {
        "doctor": Entry("harness.cli.doctor:cmd", "Say what can be measured here and how to fix the rest."),
        "fetch": Entry(
            "harness.cli.fetch:cmd", "Get the models and data of a reproduction, before measuring."
        ),
    },
    "For maintainers": {
        "schema": Entry("harness.cli.schema:cmd", "Print the JSON Schema of a file format."),
        "conformance": Entry(
            "harness.cli.conformance:cmd", "Run the test vectors against the kit or another program."
        ),
        "lock": Entry("harness.cli.lock:cmd", "Look up the revisions of models and data again."),
        "health": Entry("harness.cli.health:cmd", "Check that this installation or image is whole."),
    },
}
"""What a person wants -> the commands for it, in the order of `kit --help`."""

COMMANDS: dict[str, Entry] = {name: entry for group in GROUPS.values() for name, entry in group.items()}
"""Every command by name."""


class LazyGroup(click.Group):
    """A click group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of `GROUPS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None for a name that is not in the table."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module_name, attribute = entry.target.split(":")
        command: click.Command = getattr(import_module(module_name), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the nearest name.

        Raises:
            click.UsageError: The name is not a command.
        """
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"no such command {name!r}.{_guess(name)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by group from the table, so that the help needs no import."""
        width = max(map(len, COMMANDS))
        for title, entries in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.help) for name, entry in entries.items()])


def _guess(name: str) -> str:
    """A hint for a mistyped command: the nearest name, or `audit` for a pipeline file."""
    if name.endswith((".yaml", ".yml")):
        return f" Did you mean `kit audit {name}`?"
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), COMMANDS, n=1, cutoff=0.5)
    return f" Did you mean `kit {near[0]}`?" if near else f" Commands: {', '.join(COMMANDS)}."


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`kit COMMAND --help` explains a command. First time here: `kit doctor`.",
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, asked: _say_version(ctx) if asked else None,
    help="Show the version of the kit, and version and digest of its protocol.",
)
@click.option(
    "--protocol-root",
    envvar="KIT_PROTOCOL_ROOT",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Folder of protocol versions.  [env: KIT_PROTOCOL_ROOT; default: the kit's own]",
)
@click.pass_context
def cli(ctx: click.Context, protocol_root: str | None) -> None:
    """Audit the energy of LLM distillation pipelines, stage by stage, by a versioned protocol."""
    if protocol_root is not None:
        before = os.environ.get("KIT_PROTOCOL_ROOT")
        ctx.call_on_close(lambda: _set_root(before))
        _set_root(protocol_root)  # for child processes too, whatever folder they run in


def _say_version(ctx: click.Context) -> None:
    from harness.spec import load_protocol, protocol_digest

    click.echo(f"kit {__version__}, protocol {load_protocol().version} (sha256 {protocol_digest()[:16]})")
    ctx.exit()


def _set_root(folder: str | None) -> None:
    os.environ.pop("KIT_PROTOCOL_ROOT", None)
    if folder is not None:
        os.environ["KIT_PROTOCOL_ROOT"] = folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run `kit` and turn every outcome into an exit code; a traceback is shown only with KIT_DEBUG=1.

    Returns:
        The exit code (see the module's docstring).
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(args)
        sys.stdout.flush()
    except BrokenPipeError as error:
        if not _reader_is_gone():
            _report_fault(error)
            return EXIT_UNUSABLE
        silence(sys.stdout)
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        click.echo(f"kit: {error.filename or 'the output'}: cannot be written: {error.strerror}", err=True)
        silence(sys.stdout)
        return EXIT_UNUSABLE
    return code


def _dispatch(args: list[str]) -> int:
    """Parse and run; every error but a broken pipe or a full disk ends as a message on stderr and a code."""
    try:
        if "_KIT_COMPLETE" in os.environ:
            cli.main(args, prog_name="kit", complete_var="_KIT_COMPLETE")
        # Not `cli.main()`: it would turn a broken pipe into exit code 1, which here means findings.
        with cli.make_context("kit", args) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("kit: interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KitError as error:
        _show_traceback_if_asked()
        click.echo(f"kit: {lines_shown(str(error))}", err=True)
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            _show_traceback_if_asked()
            click.echo(f"kit: {shown(error.filename)}: cannot be used: {error.strerror}", err=True)
        elif isinstance(error, OSError) and error.errno in _NO_MEANS:
            _show_traceback_if_asked()
            click.echo(f"kit: this machine gives the kit no more: {error.strerror} (ulimit -a)", err=True)
        else:
            _report_fault(error)
        return EXIT_UNUSABLE
    return 0


def _report_fault(error: Exception) -> None:
    """Say that the kit itself is at fault and how to see where."""
    if not _show_traceback_if_asked():
        first_line = next(iter(str(error).splitlines()), "")
        click.echo(f"kit: unexpected {type(error).__name__}: {shown(first_line)}", err=True)
        click.echo("  This is a fault of the kit, not of your input.", err=True)
        click.echo("  fix: run the same command with KIT_DEBUG=1, which shows the traceback", err=True)


def _show_traceback_if_asked() -> bool:
    if os.environ.get("KIT_DEBUG", "") in ("", "0"):
        return False
    from traceback import print_exc

    print_exc()
    return True


def _reader_is_gone() -> bool:
    """Whether nobody reads our output any more; another pipe (to the sampler, say) may be what broke."""
    from select import POLLERR, poll

    watch = poll()
    watch.register(sys.stdout.fileno(), 0)
    return any(event & POLLERR for _, event in watch.poll(0))


def run() -> NoReturn:
    """`kit` as a program."""
    leave(main())


if __name__ == "__main__":
    run()
