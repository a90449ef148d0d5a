"""JSON and TOML documents from outside, read into a type.

msgspec refuses what JSON does not allow (NaN, a number out of range, text after the end), a field of another type, and
too many levels. An error names the file, the field, what was found and what was expected.
"""

import math
import re
import tomllib
from typing import Any, TypeVar

import msgspec

from effnet_zoo.errors import EffnetZooError, quoted

Kind = TypeVar("Kind")

_FAILURES = (msgspec.MsgspecError, RecursionError, ValueError, TypeError, SystemError)
"""What msgspec raises. Before version 0.22 it loses some RecursionErrors, and Python raises SystemError."""


def from_json(content: str | bytes, kind: type[Kind], source: str, error: type[EffnetZooError]) -> Kind:
    """Return a JSON document as an object of a type.

    Args:
        content: The document, in UTF-8.
        kind: A dataclass, a `msgspec.Struct`, or a type such as ``dict[str, str]``.
        source: The name of the document in errors, such as its path.
        error: The class of the error.

    Raises:
        EffnetZooError: Of the class `error`, if the document is not JSON or not of the type.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except _FAILURES as failure:
        raise error(_explained(failure, source)) from None


def from_toml(content: str, kind: type[Kind], source: str, error: type[EffnetZooError]) -> Kind:
    """Return a TOML document as an object of a type. The arguments are those of `from_json`."""
    try:
        value = tomllib.loads(content)
    except (ValueError, RecursionError) as failure:
        raise error(f"{source}: expected TOML: {failure or type(failure).__name__}") from None
    return from_plain(value, kind, source, error)


def from_plain(value: Any, kind: type[Kind], source: str, error: type[EffnetZooError]) -> Kind:
    """Return dicts, lists, texts and numbers as an object of a type. The arguments are those of `from_json`."""
    try:
        return msgspec.convert(value, type=kind)
    except _FAILURES as failure:
        raise error(_explained(failure, source)) from None


def _explained(failure: Exception, source: str) -> str:
    if isinstance(failure, RecursionError | SystemError):
        return f"{source}: objects and lists inside each other: expected fewer levels"
    if isinstance(failure, EffnetZooError):  # raised by a type of this package, which checks its own values
        return f"{source}: {failure}"
    message = str(failure)
    if isinstance(failure, msgspec.ValidationError):
        message, _, place = message.partition(" - at `$")
        field = place.rstrip("`").lstrip(".")
        message = re.sub(r"`([^`]*)`", r"\1", message)
        expected = re.fullmatch(r"Expected (.*), got (.*)", message)
        said = f"expected {expected[1]}, found {expected[2]}" if expected else message[:1].lower() + message[1:]
        return f"{source}: {f'{field}: ' if field else ''}{said}"
    message = message.removeprefix("JSON is malformed: ")
    return f"{source}: expected JSON: {message[:1].lower()}{message[1:]}"


def check_finite(value: Any, name: str, error: type[EffnetZooError]) -> None:
    """Check that all numbers in lists and dicts are finite: JSON has no others.

    Raises:
        EffnetZooError: Of the class `error`, naming the place of the number.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{name}: expected a finite number, found {quoted(value)}")
    if isinstance(value, dict):
        for key, item in value.items():
            check_finite(item, f"{name}.{key}", error)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_finite(item, f"{name}[{index}]", error)
