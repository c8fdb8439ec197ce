"""The command line of a stage: a YAML file, then flags, into one typed configuration.

    python -m harness.distill.student_train --config student.yaml --lr 5e-5 --out runs/student

A configuration is a frozen dataclass (`field(metadata={"help": ...})`); its field names are the keys of the
file and the flags. argparse takes the words apart, pydantic checks the values. (jsonargparse does both, but
spends seconds importing what the annotations name, and knows neither `1,2,4` nor `--max-steps`.)
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from harness.errors import KitError
from harness.files import write_json
from harness.models.quick_start import skip_unused_imports

Config = TypeVar("Config")

_HELP = "`--help` lists the fields and their types"
_FLAG = re.compile(r"(?<=^--)[^=]*")


def parse(cls: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Read a stage's configuration.

    Args:
        cls: The configuration class.
        argv: Arguments without the program's name; the process's own by default. `--config FILE` names a YAML
            file (several: later ones override earlier ones); every other flag sets a field and overrides the
            files. `--a.b` reaches into a nested configuration; a flag of a boolean needs no value; lists are
            written as `1,2,4` or `[1, 2, 4]`.

    Raises:
        KitError: A file that cannot be read, an unknown field (with the nearest guess), or a value that does
            not fit.
        SystemExit: `--help` was among the arguments; the fields have been printed.
    """
    given = sys.argv[1:] if argv is None else argv
    fields = _fields(cls)
    words = [_FLAG.sub(lambda found: found[0].replace("-", "_"), word) for word in given]
    flags, unknown = _parser(cls, fields).parse_known_args(words)
    for word in unknown:
        if not word.startswith("--"):
            raise KitError(f"unexpected argument {word!r}", where="command line", expected="--field value")
        _check_name(word[2:].partition("=")[0], fields, "command line")
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for path in flags.__dict__.pop("config"):
        loaded = _flat(_load(Path(path)), fields)
        for name in loaded:
            _check_name(name, fields, path)
        values |= loaded
        places |= dict.fromkeys(loaded, path)
    for name, text in vars(flags).items():
        values[name] = _structured(fields[name].annotation, name, text)
        places[name] = "command line"
    return _checked(cls, values, places)


def plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON values: what `config.json` holds."""
    from pydantic import TypeAdapter

    result = TypeAdapter(type(config)).dump_python(config, mode="json")
    assert isinstance(result, dict)
    return result


def write_config(config: Any, out: Path) -> Path:
    """Write the resolved configuration as `config.json` into a stage's output folder, which is created."""
    return write_json(out / "config.json", plain(config))


def run_stage(cls: type[Config], stage: Callable[[Config], object], argv: Sequence[str] | None = None) -> int:
    """A stage's `main`: parse, run, and turn errors into an exit code (0 fine, 1 or 2 as the error says)."""
    try:
        config = parse(cls, argv)
        skip_unused_imports()
        stage(config)
    except KitError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Field(typing.NamedTuple):
    annotation: Any
    default: str
    doc: str


def _fields(cls: type[Any], prefix: str = "") -> dict[str, _Field]:
    """Every field by its dotted name; a nested configuration comes before its own fields."""
    hints = typing.get_type_hints(cls)
    result: dict[str, _Field] = {}
    for item in dataclasses.fields(cls):
        name, annotation = prefix + item.name, hints[item.name]
        value = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        result[name] = _Field(annotation, _shown(value), str(item.metadata.get("help", "")))
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            result |= _fields(annotation, f"{name}.")
    return result


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise KitError(message, where="command line", fix=_HELP)


def _parser(cls: type[Any], fields: Mapping[str, _Field]) -> _Parser:
    module = sys.modules.get(cls.__module__)
    name = getattr(getattr(module, "__spec__", None), "name", None) or cls.__module__
    parser = _Parser(
        usage=f"python -m {name} --config FILE.yaml [--field value ...]",
        description=(cls.__doc__ or "").strip().split("\n\n")[0],
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=6, width=110),
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML file of fields")
    for name, field in fields.items():
        optional: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        shown = f"({_type_name(field.annotation)}, {field.default})"
        parser.add_argument(f"--{name}", metavar=shown, help=field.doc.replace("%", "%%"), **optional)
    return parser


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KitError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KitError(f"is not YAML: {' '.join(str(error).split())}", where=str(path)) from None
    if not isinstance(loaded, dict | None):
        raise KitError(f"holds a {type(loaded).__name__}", where=str(path), expected="a mapping of fields")
    return {str(key): value for key, value in (loaded or {}).items()}


def _flat(values: Mapping[str, Any], fields: Mapping[str, _Field], prefix: str = "") -> dict[str, Any]:
    """The values under dotted names, one of each field that has no fields of its own."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, dict) and any(other.startswith(f"{name}.") for other in fields)
        result |= _flat(value, fields, f"{name}.") if nested else {name: value}
    return result


def _structured(annotation: Any, name: str, text: str) -> Any:
    """A flag's text as the value pydantic is to check: structure is parsed here, scalars there."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if union else (annotation,)
    if type(None) in options and text.strip().lower() in ("null", "none", "~"):
        return None
    if not any((typing.get_origin(option) or option) in (list, tuple, dict) for option in options):
        return text
    if not text.lstrip().startswith(("[", "{")):
        return text.split(",") if text.strip() else []
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KitError(f"--{name}: {' '.join(str(error).split())}", where="command line") from None


def _checked(cls: type[Config], values: Mapping[str, Any], places: Mapping[str, str]) -> Config:
    """The configuration of values by dotted name; each value that does not fit is a line of the error."""
    from pydantic import TypeAdapter, ValidationError

    tree: dict[str, Any] = {}
    for name, value in values.items():
        *outer, last = name.split(".")
        branch = tree
        for part in outer:
            if not isinstance(branch.get(part), dict):
                branch[part] = {}
            branch = branch[part]
        branch[last] = value
    try:
        return TypeAdapter(cls).validate_python(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "missing":
                lines.append(f"{name}: is required (--{name} VALUE)")
            else:
                place = next((places[known] for known in places if name.startswith(known)), "configuration")
                lines.append(f"{name} ({place}): {problem['msg']}, found {problem['input']!r}")
        raise KitError("\n".join(lines), where=cls.__name__, fix=_HELP) from None


def _check_name(name: str, fields: Mapping[str, Any], place: str) -> None:
    if name not in fields:
        close = difflib.get_close_matches(name.casefold().replace("-", "_"), list(fields), n=1, cutoff=0.6)
        guess = f". Did you mean {close[0]!r}?" if close else ""
        raise KitError(f"unknown field {name!r}{guess}", where=place, fix=_HELP)


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(option) for option in typing.get_args(annotation))
    name = re.sub(r"\w[\w.]*\.", "", inspect.formatannotation(annotation))
    return name.replace("None", "null").replace("str", "text")


def _shown(default: Any) -> str:
    if default is dataclasses.MISSING:
        return "required"
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return f"default {'null' if default is None else text}"
