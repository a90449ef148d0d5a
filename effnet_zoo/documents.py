"""JSON and TOML documents from outside, read into a type.

msgspec refuses what JSON does not allow (NaN, a number out of range, text after the end), a field of another type, and
too many levels. An error names the file, the field, what was found and what was expected. `source` is the name of the
document in errors, such as its path, and `error` is the class of the error.
"""

import math
import re
import tomllib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from effnet_zoo.errors import EffnetZooError, quoted

Kind = TypeVar("Kind")


def from_json(content: str | bytes, kind: type[Kind], source: str, error: type[EffnetZooError]) -> Kind:
    """Return a JSON document as an object of a type: a dataclass, a `msgspec.Struct`, ``dict[str, str]``, ..."""
    return _read(lambda: msgspec.json.decode(content, type=kind), source, error)


def from_toml(content: str, kind: type[Kind], source: str, error: type[EffnetZooError]) -> Kind:
    """Return a TOML document as an object of a type."""
    try:
        value = tomllib.loads(content)
    except (ValueError, RecursionError) as failure:
        raise error(f"{source}: expected TOML: {failure or type(failure).__name__}") from None
    return from_plain(value, kind, source, error)


def from_plain(value: Any, kind: type[Kind], source: str, error: type[EffnetZooError]) -> Kind:
    """Return dicts, lists, texts and numbers as an object of a type."""
    return _read(lambda: msgspec.convert(value, type=kind), source, error)


def _read(read: Callable[[], Kind], source: str, error: type[EffnetZooError]) -> Kind:
    try:
        return read()
    except (RecursionError, SystemError):  # before version 0.22, msgspec loses some RecursionErrors
        message = "objects and lists inside each other: expected fewer levels"
    except msgspec.ValidationError as failure:
        text, _, place = _lower(str(failure)).partition(" - at `$")
        text = re.sub(r"^expected (.*), got ", r"expected \1, found ", text.replace("`", ""))
        field = place.strip("`.")
        message = f"{field}: {text}" if field else text
    except (msgspec.MsgspecError, ValueError, TypeError) as failure:
        message = f"expected JSON: {_lower(str(failure).removeprefix('JSON is malformed: '))}"
    raise error(f"{source}: {message}") from None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def check_finite(value: Any, name: str, error: type[EffnetZooError]) -> None:
    """Raise `error` with the place of a number in lists and dicts that is not finite: JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{name}: expected a finite number, found {quoted(value)}")
    if isinstance(value, dict):
        for key, item in value.items():
            check_finite(item, f"{name}.{key}", error)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_finite(item, f"{name}[{index}]", error)
