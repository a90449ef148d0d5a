"""The ledger: ``weights/*.toml`` read into frozen objects, every key and type checked.

The files lie at the top of the repository so that people read them; a wheel carries them inside the package.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_zoo import atomic_io, documents
from effnet_zoo.arch.checks import is_number, is_whole
from effnet_zoo.errors import ArgumentError, LedgerError, did_you_mean, quoted
from effnet_zoo.zoo.preprocessing import CROP_MODES, INTERPOLATIONS, Preprocessing

_PACKAGE = Path(__file__).parents[1]
FOLDER = next(folder for folder in (_PACKAGE / "weights", _PACKAGE.parent / "weights") if folder.is_dir())

LICENCE = "[a-z0-9][a-z0-9.+-]*"
"""Regular expression of an SPDX identifier in lower case, as the Hub spells licences."""


def check_licence(licence: object) -> None:
    """Raise ArgumentError unless a licence is an SPDX identifier in lower case."""
    if not isinstance(licence, str) or not re.fullmatch(LICENCE, licence):
        raise ArgumentError(f"license {quoted(licence)}: expected an SPDX identifier in lower case, such as apache-2.0")


REPORTED_SOURCE = "timm results-imagenet.csv, October 2025"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """Accuracy in percent on ImageNet-1k validation at a square input of `size`, as published elsewhere."""

    size: int
    top1: float
    top5: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A weight file inside an installable distribution: `file` in `package`, which our extra `extra` installs."""

    package: str
    file: str
    extra: str
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One entry. The top of the ledger files explains the fields; exactly one of `hub_id` and `shipped` is set."""

    variant: str
    tag: str
    num_classes: int
    train_size: int
    preprocessing: Preprocessing
    license: str
    source: str
    training_data: str
    recipe: str
    default: bool = False
    hub_id: str | None = None
    revision: str | None = None
    sha256: str | None = None
    shipped: Shipped | None = None
    reported: tuple[Reported, ...] = ()

    @property
    def name(self) -> str:
        """``variant.tag``."""
        return f"{self.variant}.{self.tag}"

    @property
    def origin(self) -> str:
        """The place the weights come from, in words."""
        if self.shipped:
            return f"the distribution {self.shipped.package}"
        return f"{self.hub_id}@{self.revision or 'main'} on the Hugging Face Hub"

    @property
    def reported_at_eval_size(self) -> Reported | None:
        """The accuracy reported for the evaluation size; None if there is none."""
        return next((r for r in self.reported if r.size == self.preprocessing.size[0]), None)


Check = tuple[Callable[[Any], bool], str]
"""Whether a value is as expected, and what is expected in words."""


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _up_to(most: float) -> Callable[[Any], bool]:
    return lambda value: is_number(value) and 0 < value <= most


def _channels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(is_number(v) and 0 < v < 1 for v in value)


def _reported(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict)
        and row.keys() == {"size", "top1", "top5"}
        and is_whole(row["size"], least=1)
        and _up_to(100)(row["top5"])
        and _up_to(row["top5"])(row["top1"])
        for row in value
    )


_at_least_1 = functools.partial(is_whole, least=1)
_text = _matches(r"(?s).*\S.*")

_SHIPPED = ("package", "file", "extra", "layout")
_OPTIONAL: dict[str, Check] = {
    "default": (lambda value: value is True, "true, or left out"),
    "reported": (_reported, "a list of { size, top1, top5 }, in percent, top1 not above top5"),
    "hub_id": (_matches(r"[\w.-]+/[\w.-]+"), "owner/name"),
    "revision": (_matches("[0-9a-f]{40}"), "a commit of 40 hex digits"),
    "sha256": (_matches("[0-9a-f]{64}"), "64 hex digits, never a prefix"),
    **dict.fromkeys(_SHIPPED, (_text, "a text")),
}
_REQUIRED: dict[str, Check] = {
    "num_classes": (_at_least_1, "a whole number of at least 1"),
    "train_size": (_at_least_1, "a side in pixels"),
    "eval_size": (_at_least_1, "a side in pixels"),
    "crop_pct": (_up_to(1), "a share above 0 and up to 1"),
    "crop_mode": (CROP_MODES.__contains__, " or ".join(CROP_MODES)),
    "interpolation": (INTERPOLATIONS.__contains__, " or ".join(INTERPOLATIONS)),
    "mean": (_channels, "three numbers between 0 and 1"),
    "std": (_channels, "three numbers between 0 and 1"),
    "license": (_matches(LICENCE), "an SPDX identifier in lower case"),
    "source": (_matches(r"https://[^\s/]+\.[^\s/]+(/\S*)?"), "an https address"),
    "training_data": (_text, "what the weights have seen"),
    "recipe": (_text, "how they were trained"),
}
_KNOWN = {**_REQUIRED, **_OPTIONAL}


def parse(text: str, file: str) -> dict[str, dict[str, Checkpoint]]:
    """Return the checkpoints of a ledger file's text by variant and tag, in the file's order.

    A `LedgerError` names the file, the entry and the key that is not as `weights/README.md` says.
    """
    ledger: dict[str, dict[str, Checkpoint]] = {}
    for variant, tags in documents.from_toml(text, dict[str, Any], file, LedgerError).items():
        if not isinstance(tags, dict) or not all(isinstance(entry, dict) for entry in tags.values()):
            raise LedgerError(f"{file}: [{variant}]: expected tables named variant.tag")
        ledger[variant] = {tag: _checkpoint(variant, tag, entry, file) for tag, entry in tags.items()}
        if sum(checkpoint.default for checkpoint in ledger[variant].values()) != 1:
            raise LedgerError(f"{file}: {variant}: expected exactly one entry with default = true")
    return ledger


def _checkpoint(variant: str, tag: str, entry: dict[str, Any], file: str) -> Checkpoint:
    where = f"{file}: [{variant}.{tag}]"
    for key, value in entry.items():
        if key not in _KNOWN:
            raise LedgerError(f"{where}: unknown key {quoted(key)}.{did_you_mean(key, _KNOWN)}")
        holds, expected = _KNOWN[key]
        if not holds(value):
            raise LedgerError(f"{where}: {key} = {quoted(value)}: expected {expected}")
    is_shipped = "package" in entry
    needed = (*_SHIPPED, "sha256") if is_shipped else ("hub_id",)
    if missing := [key for key in (*_REQUIRED, *needed) if key not in entry]:
        raise LedgerError(f"{where}: missing {', '.join(missing)}")
    foreign = ("hub_id", "revision") if is_shipped else _SHIPPED
    if clash := sorted(entry.keys() & set(foreign)):
        raise LedgerError(f"{where}: {', '.join(clash)} beside {needed[0]}: one origin only")
    size = [entry["eval_size"]] * 2
    preprocessing = documents.from_plain({**entry, "size": size}, Preprocessing, where, LedgerError)
    parts = {"variant": variant, "tag": tag, "preprocessing": preprocessing, "shipped": entry if is_shipped else None}
    return documents.from_plain({**entry, **parts}, Checkpoint, where, LedgerError)


@functools.cache
def load() -> dict[str, dict[str, Checkpoint]]:
    """Return the whole ledger, by variant and tag. A variant is in one file only."""
    ledger: dict[str, dict[str, Checkpoint]] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        part = parse(atomic_io.read_text(path), path.name)
        if twice := sorted(ledger.keys() & part.keys()):
            raise LedgerError(f"{path.name}: {', '.join(twice)}: declared in another file already")
        ledger |= part
    return ledger
