"""The command line of a stage: a YAML file, then flags, into one typed configuration.

    python -m harness.distill.student_train --config student.yaml --lr 5e-5 --out runs/student

A configuration is a frozen dataclass (`field(metadata={"help": ...})`) or a pydantic model
(`Field(description=...)`); its field names are the keys of the file and the flags.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import KitError
from harness.files import write_json
from harness.models.quick_start import skip_unused_imports

Config = TypeVar("Config")

_REQUIRED = object()


@dataclass(frozen=True)
class Field:
    """One field of a configuration as the command line shows it."""

    name: str
    annotation: Any
    default: Any
    doc: str

    @property
    def required(self) -> bool:
        """Whether neither the class nor the field gives a default."""
        return self.default is _REQUIRED


def fields_of(cls: type[Any]) -> list[Field]:
    """The fields of a configuration class, in their order.

    Raises:
        TypeError: `cls` is neither a dataclass nor a pydantic model.
    """
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        result = []
        for item in dataclasses.fields(cls):
            default = item.default
            if default is dataclasses.MISSING:
                factory = item.default_factory
                default = _REQUIRED if factory is dataclasses.MISSING else factory()
            result.append(Field(item.name, hints[item.name], default, str(item.metadata.get("help", ""))))
        return result
    if hasattr(cls, "model_fields"):
        return [
            Field(
                name,
                info.annotation,
                _REQUIRED if info.is_required() else info.get_default(call_default_factory=True),
                info.description or "",
            )
            for name, info in cls.model_fields.items()
        ]
    raise TypeError(f"{cls.__name__} is neither a dataclass nor a pydantic model")


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
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("--help", "-h") for word in arguments):
        print(help_text(cls))
        raise SystemExit(0)
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    flags: list[tuple[str, str | None]] = _flags(arguments)
    for name, text in flags:
        if name == "config":
            if text is None:
                raise KitError("--config needs a file", where="command line", expected="--config FILE.yaml")
            loaded = _load(Path(text))
            _check_names(cls, loaded, text)
            _merge(values, loaded)
            places.update(dict.fromkeys(loaded, text))
    for name, text in flags:
        if name != "config":
            _set_flag(cls, values, name, text)
            places[name.split(".")[0]] = "command line"
    return validate(cls, values, places)


def validate(cls: type[Config], values: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Config:
    """Check plain values and build the configuration from them.

    Args:
        cls: The configuration class.
        values: Field name to value as YAML or JSON gives it.
        places: Where each value came from, for the error.

    Raises:
        KitError: Every value that does not fit, one line each.
    """
    from pydantic import TypeAdapter, ValidationError

    _check_names(cls, values, "configuration")
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            location = ".".join(str(part) for part in problem["loc"])
            place = (places or {}).get(str(problem["loc"][0]) if problem["loc"] else "", "configuration")
            if problem["type"] == "missing":
                lines.append(f"{location}: is required (--{location} VALUE)")
            else:
                lines.append(f"{location} ({place}): {problem['msg']}, found {problem['input']!r}")
        raise KitError(
            "\n".join(lines), where=cls.__name__, fix="`--help` lists the fields and their types"
        ) from None


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


def help_text(cls: type[Any]) -> str:
    """What `--help` prints: one entry a field with its type, its default and its doc."""
    module = sys.modules.get(cls.__module__)
    name = getattr(getattr(module, "__spec__", None), "name", None) or cls.__module__
    first = (cls.__doc__ or "").strip().split("\n\n")[0]
    lines = [f"python -m {name} --config FILE.yaml [--field value ...]", "", " ".join(first.split()), ""]
    for item in fields_of(cls):
        default = "required" if item.required else f"default {_shown(item.default)}"
        lines.append(f"  --{item.name} ({_type_name(item.annotation)}, {default})")
        if item.doc:
            lines.append(f"      {item.doc}")
    return "\n".join(lines)


def _flags(arguments: list[str]) -> list[tuple[str, str | None]]:
    result: list[tuple[str, str | None]] = []
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        if not word.startswith("--") or word == "--":
            raise KitError(f"unexpected argument {word!r}", where="command line", expected="--field value")
        name, equals, text = word[2:].partition("=")
        value: str | None = text if equals else None
        if not equals and position < len(arguments) and not arguments[position].startswith("--"):
            value = arguments[position]
            position += 1
        result.append((name.replace("-", "_"), value))
    return result


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KitError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KitError(f"is not YAML: {' '.join(str(error).split())}", where=str(path)) from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise KitError(f"holds a {type(loaded).__name__}", where=str(path), expected="a mapping of fields")
    return {str(key): value for key, value in loaded.items()}


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _set_flag(cls: type[Any], values: dict[str, Any], name: str, text: str | None) -> None:
    head, _, rest = name.partition(".")
    known = {item.name: item for item in fields_of(cls)}
    if head not in known:
        raise KitError(f"--{name}: no such field{_guess(head, known)}", where="command line", fix=_HELP)
    if rest:
        inner = _nested(known[head].annotation)
        if inner is None:
            raise KitError(f"--{name}: {head} has no fields of its own", where="command line", fix=_HELP)
        below = values.get(head)
        values[head] = dict(below) if isinstance(below, dict) else {}
        _set_flag(inner, values[head], rest, text)
        return
    values[head] = _read(known[head].annotation, name, text)


def _read(annotation: Any, name: str, text: str | None) -> Any:
    """A flag's text as the value pydantic is to check: structure is parsed here, scalars there."""
    options = _options(annotation)
    if text is None:
        if bool in options:
            return True
        raise KitError(f"--{name} needs a value", where="command line", fix=_HELP)
    if type(None) in options and text.strip().lower() in ("null", "none", "~"):
        return None
    if any((typing.get_origin(option) or option) in (list, tuple, dict) for option in options):
        import yaml

        try:
            if text.lstrip().startswith(("[", "{")):
                return yaml.safe_load(text)
            return [yaml.safe_load(part) for part in text.split(",")] if text.strip() else []
        except yaml.YAMLError as error:
            raise KitError(f"--{name}: {' '.join(str(error).split())}", where="command line") from None
    return text


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _nested(annotation: Any) -> type[Any] | None:
    for option in _options(annotation):
        if isinstance(option, type) and (dataclasses.is_dataclass(option) or hasattr(option, "model_fields")):
            return option
    return None


def _check_names(cls: type[Any], values: Mapping[str, Any], place: str) -> None:
    known = {item.name: item for item in fields_of(cls)}
    for key, value in values.items():
        if key not in known:
            raise KitError(f"unknown field {key!r}{_guess(key, known)}", where=place, fix=_HELP)
        inner = _nested(known[key].annotation)
        if inner is not None and isinstance(value, dict):
            _check_names(inner, value, f"{place}: {key}")


def _guess(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word.casefold().replace("-", "_"), list(known), n=1, cutoff=0.6)
    return f". Did you mean {close[0]!r}?" if close else ""


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(option) for option in typing.get_args(annotation))
    options = _options(annotation)
    if len(options) > 1:
        return " | ".join("null" if option is type(None) else _type_name(option) for option in options)
    if typing.get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "").replace("pathlib.", "")
    return "text" if annotation is str else getattr(annotation, "__name__", str(annotation))


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


_HELP = "`--help` lists the fields"
