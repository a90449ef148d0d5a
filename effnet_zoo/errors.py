"""The errors that this package raises on purpose: one base class, and one class for each kind of cause.

A message says what was found, what was expected and what to do. Where Python has a class for the mistake
(``ValueError``, ``TypeError``, ``LookupError``), the error is one of that class too, and generic handlers work.
"""

import difflib
from collections.abc import Iterable

LONGEST_MESSAGE = 2000
"""Largest number of characters in a message."""

LONGEST_QUOTE = 80
"""Largest number of characters in a quoted value. A value from a file can have millions."""


class EffnetZooError(Exception):
    """Base class of all errors of effnet_zoo.

    Parts of a message can come from files and command lines: control characters and line ends are escaped, and a
    message of more than `LONGEST_MESSAGE` characters is shortened.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(printable(message), LONGEST_MESSAGE))


class SpecError(EffnetZooError, ValueError):
    """An architecture (block string, row, stage or numeric setting) that cannot be built."""


class ArgumentError(EffnetZooError, TypeError, ValueError):
    """A keyword that does not exist, or a value that it does not accept."""


class UnknownNameError(EffnetZooError, LookupError, ValueError):
    """A name of a model, tag, feature or device that does not exist."""


class LedgerError(EffnetZooError, ValueError):
    """An entry in ``weights/*.toml`` that does not fit the schema."""


class WeightsError(EffnetZooError, RuntimeError):
    """Weights that are missing, cannot be read, are not the declared ones, or do not fit the model."""


class HubError(WeightsError):
    """The Hugging Face Hub or a mirror cannot be reached, or refuses."""


class ConflictError(HubError):
    """A repository on the Hub that somebody else has changed in the meantime."""


class MissingFileError(HubError):
    """A file that a repository on the Hub does not have."""


class InputError(EffnetZooError, ValueError):
    """An image, tensor or path that cannot be used as input."""


class FileError(InputError):
    """A file or folder that the operating system refuses, that is not regular, or that another process holds."""


class EngineError(EffnetZooError, RuntimeError):
    """An engine that cannot be made on this machine, or whose outputs differ from the model's."""


class MissingExtraError(EffnetZooError, ImportError):
    """An optional package that is not installed."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: str) -> str:
    """Return text in which control characters, line ends and bytes that are not UTF-8 are escaped by backslashes."""
    # os.fsdecode keeps a byte of a file name that is not UTF-8 as a surrogate, \udc80 to \udcff.
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode().replace("\\udc", "\\x") for c in text)
    return "".join(escaped)


def shortened(text: str, length: int) -> str:
    """Return text of at most `length` characters. It says how many characters of its middle are left out."""
    if len(text) <= length:
        return text
    mark = f"...({len(text) - length} characters left out)..."
    kept = max(length - len(mark), 0)
    return text[: kept - kept // 3] + mark + text[len(text) - kept // 3 :]


def quoted(value: object) -> str:
    """Return the repr of a value, shortened to `LONGEST_QUOTE` characters."""
    try:
        return shortened(repr(value), LONGEST_QUOTE)
    except ValueError:  # Python does not write integers of thousands of digits
        return "a number of thousands of digits"
    except Exception:  # a __repr__ of another package
        return f"a {type(value).__name__}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return a question that suggests the known names nearest to `name`, or an empty text."""
    if not isinstance(name, str):
        return ""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
