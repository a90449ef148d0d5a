"""Every error this package raises on purpose: one base class, one subclass per kind of cause.

Each message names the thing that is wrong, what was expected and the next step. Where Python already has a class for
the mistake (``ValueError``, ``TypeError``, ``LookupError``), the error is that too, so generic handlers keep working.
"""

import difflib
from collections.abc import Iterable


class EffnetZooError(Exception):
    """Base of all errors raised by effnet_zoo."""


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


class EngineError(EffnetZooError, RuntimeError):
    """An engine that cannot be made of a model here, or that computes something else than the model."""


class MissingExtraError(EffnetZooError, ImportError):
    """An optional dependency that is not installed."""


def first_line(error: Exception) -> str:
    """The first line of an error, or its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that suggests the known names nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
