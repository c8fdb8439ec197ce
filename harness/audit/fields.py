"""The kinds of value a pipeline file holds, each with its reader, its error and its JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from harness.audit.problems import guess, show
from harness.errors import KitError
from harness.spec import available_versions, load_protocol

LONGEST_S = 366 * 86400.0

_SLUG = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
_ENV = r"[A-Za-z_][A-Za-z0-9_]*"
_AXIS = r"[A-Za-z][A-Za-z0-9_]{0,31}"
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?\Z", re.ASCII)
_DEVICE = re.compile(r"(?:GPU|MIG)-[A-Za-z0-9/-]+\Z")
WHOLE = "whole"
RECORDED = ("digest", WHOLE)
_DEVICE_WORDS = ("auto", "all", "none")
_TEMPLATE = {"type": "string", "pattern": r"\$\{"}


def refuse(message: str) -> PydanticCustomError:
    """An error whose text is shown as it is."""
    return PydanticCustomError("kit", "{message}", {"message": message})


def text_of(value: object) -> str:
    """A scalar as it goes into a command or a variable: numbers as written, booleans as true and false."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(getattr(value, "text", value))


def seconds(value: object) -> float:
    """Read a duration: a number of seconds, or text such as `90s`, `30m`, `2h`, `1h30m`, `2d`.

    Returns:
        Seconds, more than 0 and at most 366 days.

    Raises:
        PydanticCustomError: Anything else.
    """
    result: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        result = float(value)
    elif isinstance(value, str) and value and (match := _DURATION.match(value)):
        days, hours, minutes, rest = (float(part or 0) for part in match.groups())
        result = days * 86400 + hours * 3600 + minutes * 60 + rest
    if result is None or not 0 < result <= LONGEST_S:
        raise refuse(
            f"{show(value)} is not a duration. Allowed: a number of seconds above 0, or text such as 90s, "
            "30m, 2h, 1h30m or 2d, at most 366d."
        )
    return result


def _choice(what: str, choices: Sequence[str] | Callable[[], Sequence[str]]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        options = choices() if callable(choices) else choices
        text = text_of(value)
        if isinstance(value, dict | list) or value is None or text not in options:
            near = guess(text, options) if isinstance(value, str) else ""
            raise refuse(f"{show(value)} is not a {what}. Allowed: {', '.join(options)}.{near}")
        return text

    return read


def _kind(value: Any, info: ValidationInfo) -> str:
    protocol = load_protocol((info.context or {}).get("protocol"))
    try:
        # Idle waits are a setting of the pipeline.
        return protocol.check_kind(value if isinstance(value, str) else "", "kind", idle=False)
    except KitError as error:
        hint = f" {error.fix[0].upper()}{error.fix[1:]}" if error.fix else ""
        hint += "" if not hint or hint.endswith("?") else "."
        raise refuse(f"{show(value)} is not a stage kind. Allowed: {error.expected}.{hint}") from None


def _name(value: Any) -> str:
    if isinstance(value, dict | list) or value is None or not re.fullmatch(_SLUG, text_of(value), re.ASCII):
        raise refuse(
            f"{show(value)} cannot be a name. Allowed: 1 to 64 letters (a-z), digits, '-' and '_', "
            "the first a letter or digit."
        )
    return text_of(value)


def _env_name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(_ENV, value, re.ASCII):
        raise refuse(f"{show(value)} cannot name an environment variable. Allowed: letters, digits and '_'.")
    if value == "KIT_EVENTS":
        raise refuse("KIT_EVENTS is set by the kit for every stage. Choose another name.")
    return value


def _axis(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(_AXIS, value, re.ASCII):
        raise refuse(f"{show(value)} cannot name an axis. Allowed: letters, digits and '_', first a letter.")
    return value


def _scalar(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    raise refuse(f"{show(value)} stands where text, a number or true/false is expected.")


def _text_or_empty(value: Any) -> str:
    if value is None:
        raise refuse("the value is empty. Write '' if empty text is meant.")
    return text_of(_scalar(value))


def _text(value: Any) -> str:
    text = _text_or_empty(value)
    if not text.strip():
        raise refuse("the text is empty.")
    return text


def _whole(low: int, high: int, what: str) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value != int(value) or not low <= value <= high:
            raise refuse(f"{show(value)} is not {what}. Allowed: whole numbers from {low} to {high}.")
        return int(value)

    return read


def _pue(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1.0 <= value <= 10.0:
        raise refuse(
            f"{show(value)} is not a PUE (facility energy over IT energy). Allowed: numbers from 1.0 to 10.0."
        )
    return float(value)


def _device(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1024:
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 4:
        return int(value)
    if isinstance(value, str) and _DEVICE.match(value):
        return value
    raise refuse(f"{show(value)} is not a device. Allowed: an index from 0, GPU-<uuid> or MIG-<uuid>.")


def _device_word(value: Any) -> str:
    if value in _DEVICE_WORDS:
        return str(value)
    listed = isinstance(value, int | float) or re.fullmatch(r"[\d, ]+", str(value)) or "GPU-" in str(value)
    hint = f" Did you mean [{text_of(value)}]?" if listed and not isinstance(value, bool) else ""
    near = hint or (guess(value, _DEVICE_WORDS) if isinstance(value, str) else "")
    raise refuse(
        f"{show(value)} is no choice of devices. Allowed: auto, all, none, or a list of indices or UUIDs "
        f"such as [0, 1].{near}"
    )


TEXT, LIST, MAPPING = "\0text", "\0list", "\0mapping"
"""Forms of a field with several, as pydantic puts them into the location of an error: no key holds a NUL."""


def _form(value: Any) -> str | None:
    if isinstance(value, dict):
        return MAPPING
    if isinstance(value, list | tuple):
        return LIST
    return None if value is None else TEXT


def _one_of(expected: str) -> Discriminator:
    return Discriminator(_form, custom_error_type="kit_form", custom_error_message=expected)


def _schema(*forms: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*forms, _TEMPLATE]})


def _count(low: int) -> WithJsonSchema:
    return _schema({"type": "integer", "minimum": low})


_SCALARS = {"type": ["string", "number", "boolean"]}

Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{_SLUG}$"})]
EnvName = Annotated[
    str, BeforeValidator(_env_name), WithJsonSchema({"type": "string", "pattern": f"^{_ENV}$"})
]
Axis = Annotated[str, BeforeValidator(_axis), WithJsonSchema({"type": "string", "pattern": f"^{_AXIS}$"})]
Scalar = Annotated[Any, BeforeValidator(_scalar), WithJsonSchema(_SCALARS)]
Text = Annotated[str, BeforeValidator(_text), WithJsonSchema(_SCALARS)]
EnvText = Annotated[str, BeforeValidator(_text_or_empty), WithJsonSchema(_SCALARS)]
# An enum that is one word is filled by `pipeline.json_schema`: the protocol is read when it is asked for.
Protocol = Annotated[
    str,
    BeforeValidator(_choice("protocol version", available_versions)),
    WithJsonSchema({"enum": "protocols"}),
]
Method = Annotated[
    str,
    BeforeValidator(_choice("method", lambda: load_protocol().method_names)),
    _schema({"enum": "methods"}),
]
Kind = Annotated[
    str,
    BeforeValidator(_kind),
    _schema({"type": "string", "anyOf": [{"enum": "kinds"}, {"pattern": "^x-"}]}),
]
Pue = Annotated[float, BeforeValidator(_pue), _schema({"type": "number", "minimum": 1.0, "maximum": 10.0})]
Tokens = Annotated[int, BeforeValidator(_whole(0, 10**17, "a number of tokens")), _count(0)]
Denominator = Annotated[int, BeforeValidator(_whole(1, 10**17, "a number of tokens")), _count(1)]
Retries = Annotated[int, BeforeValidator(_whole(0, 100, "a number of retries")), _count(0)]
Period = Annotated[int, BeforeValidator(_whole(10, 60_000, "a period in ms")), _count(10)]
LogMb = Annotated[int, BeforeValidator(_whole(1, 1_000_000, "a size in MB")), _count(1)]
Recorded = Annotated[
    str, BeforeValidator(_choice("way to record commands", RECORDED)), _schema({"enum": list(RECORDED)})
]
Seconds = Annotated[
    float,
    BeforeValidator(seconds),
    _schema(
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^(\d+d)?(\d+h)?(\d+m)?(\d+(\.\d+)?s)?$", "minLength": 2},
    ),
]
Device = Annotated[
    int | str,
    BeforeValidator(_device),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}),
]
Devices = Annotated[
    Annotated[
        str,
        BeforeValidator(_device_word),
        _schema({"enum": list(_DEVICE_WORDS)}),
        Tag(TEXT),
    ]
    | Annotated[tuple[Device, ...], Field(min_length=1), Tag(LIST)],
    _one_of("auto, all, none, or a list of indices or UUIDs"),
]
Command = Annotated[
    Annotated[Text, Tag(TEXT)] | Annotated[tuple[EnvText, ...], Field(min_length=1), Tag(LIST)],
    _one_of("a command (text for a shell, or a list of words)"),
]
Paths = Annotated[
    Annotated[Text, Tag(TEXT)]
    | Annotated[tuple[Text, ...], Tag(LIST)]
    | Annotated[dict[Name, Text], Tag(MAPPING)],
    _one_of("a path, a list of paths, or a mapping from name to path"),
]
Matrix = Annotated[dict[Axis, Annotated[tuple[Scalar, ...], Field(min_length=1)]], Field(min_length=1)]
