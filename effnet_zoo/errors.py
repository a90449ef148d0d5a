"""Every error this package raises on purpose: one base class, one subclass per kind of cause.

Each message names the thing that is wrong, what was expected and the next step. Where Python already has a class for
the mistake (``ValueError``, ``TypeError``, ``LookupError``), the error is that too, so generic handlers keep working.
"""

import difflib
from collections.abc import Iterable

LONGEST_MESSAGE = 2000
"""Characters of a message at most."""

LONGEST_QUOTE = 80
"""Characters of a quoted value at most: a value from a file may be megabytes."""


class EffnetZooError(Exception):
    """Base of all errors raised by effnet_zoo.

    Args:
        message: One line for people. Characters that a terminal would obey are escaped, and a message of more than
            `LONGEST_MESSAGE` characters is shortened, because parts of it come from files and command lines.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(printable(message), LONGEST_MESSAGE))


class SpecError(EffnetZooError, ValueError):
    """An architecture description (block string, row, stage, numeric setting) that cannot be built."""


class ArgumentError(EffnetZooError, TypeError, ValueError):
    """A keyword that no model takes, or a value outside what it accepts."""


class UnknownNameError(EffnetZooError, LookupError, ValueError):
    """A model, tag, feature or device name that does not exist."""


class LedgerError(EffnetZooError, ValueError):
    """An entry in ``weights/*.toml`` that is not what the schema says."""


class WeightsError(EffnetZooError, RuntimeError):
    """Weights that are missing, unreadable, not the declared ones, or that do not fit the model."""


class HubError(WeightsError):
    """A Hugging Face Hub, or a mirror, that cannot be reached or refuses."""


class ConflictError(HubError):
    """A repository that somebody else changed in the meantime."""


class MissingFileError(HubError):
    """A file that a repository does not have."""


class InputError(EffnetZooError, ValueError):
    """An image, tensor or path that cannot be used as input."""


class FileError(InputError):
    """A file or folder that the operating system refuses, that is no regular file, or that another process holds."""


class EngineError(EffnetZooError, RuntimeError):
    """An engine that cannot be made of a model here, or that computes something else than the model."""


class MissingExtraError(EffnetZooError, ImportError):
    """An optional dependency that is not installed."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error, or its type's name if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: str) -> str:
    """Returns text with control characters, line ends and bytes that are not UTF-8 as backslash escapes."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def shortened(text: str, length: int) -> str:
    """Returns text of at most `length` characters; what is left out of the middle is counted."""
    if len(text) <= length:
        return text
    mark = f"...({len(text) - length} characters left out)..."
    kept = max(length - len(mark), 0)
    return text[: kept - kept // 3] + mark + text[len(text) - kept // 3 :]


def quoted(value: object) -> str:
    """Returns the repr of a value, shortened to `LONGEST_QUOTE` characters."""
    try:
        return shortened(repr(value), LONGEST_QUOTE)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return "a number of thousands of digits"
    except Exception:  # somebody's own __repr__
        return f"a {type(value).__name__}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns the end of a sentence that suggests the known names nearest to `name`, or an empty text."""
    if not isinstance(name, str):
        return ""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
