"""The ledger: ``weights/*.toml`` read into frozen objects, every key and type checked. Nothing here needs torch.

The files lie at the top of the repository so that people read them; a wheel carries them inside the package.
"""

import functools
import re
from collections.abc import Callable, Mapping
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
    default: bool
    hub_id: str | None
    revision: str | None
    sha256: str | None
    shipped: Shipped | None
    num_classes: int
    train_size: int
    preprocessing: Preprocessing
    license: str
    source: str
    training_data: str
    recipe: str
    reported: tuple[Reported, ...]

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


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _at_least_1(value: Any) -> bool:
    return is_whole(value, least=1)


def _up_to(most: float) -> Callable[[Any], bool]:
    return lambda value: is_number(value) and 0 < value <= most


def _channels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(is_number(v) and 0 < v < 1 for v in value)


def _reported(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict)
        and row.keys() == {"size", "top1", "top5"}
        and _at_least_1(row["size"])
        and _up_to(100)(row["top5"])
        and _up_to(row["top5"])(row["top1"])
        for row in value
    )


Check = tuple[Callable[[Any], bool], str]

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
_OPTIONAL: dict[str, Check] = {
    "default": (lambda v: v is True, "true, or left out"),
    "revision": (_matches("[0-9a-f]{40}"), "a commit of 40 hex digits"),
    "sha256": (_matches("[0-9a-f]{64}"), "64 hex digits, never a prefix"),
    "reported": (_reported, "a list of { size, top1, top5 }, in percent, top1 not above top5"),
}
_HUB: dict[str, Check] = {"hub_id": (_matches(r"[\w.-]+/[\w.-]+"), "owner/name")}
_SHIPPED: dict[str, Check] = dict.fromkeys(("package", "file", "extra", "layout"), (_text, "a text"))
_KNOWN = {**_REQUIRED, **_OPTIONAL, **_HUB, **_SHIPPED}


def parse(text: str, file: str) -> dict[str, dict[str, Checkpoint]]:
    """Return the checkpoints of a ledger file's text by variant and tag, in the file's order.

    Args:
        text: TOML.
        file: The file's name, for errors.

    Raises:
        LedgerError: If an entry is not as `weights/README.md` says; it names file, entry and key.
    """
    ledger: dict[str, dict[str, Checkpoint]] = {}
    for variant, tags in documents.from_toml(text, dict[str, Any], file, LedgerError).items():
        if not isinstance(tags, dict) or not all(isinstance(entry, dict) for entry in tags.values()):
            raise LedgerError(f"{file}: [{variant}]: expected tables named variant.tag")
        ledger[variant] = {tag: _checkpoint(variant, tag, entry, file) for tag, entry in tags.items()}
        if sum(checkpoint.default for checkpoint in ledger[variant].values()) != 1:
            raise LedgerError(f"{file}: {variant}: expected exactly one entry with default = true")
    return ledger


def _checkpoint(variant: str, tag: str, entry: Mapping[str, Any], file: str) -> Checkpoint:
    where = f"{file}: [{variant}.{tag}]"
    for key, value in entry.items():
        if key not in _KNOWN:
            raise LedgerError(f"{where}: unknown key {quoted(key)}.{did_you_mean(key, _KNOWN)}")
        holds, expected = _KNOWN[key]
        if not holds(value):
            raise LedgerError(f"{where}: {key} = {quoted(value)}: expected {expected}")
    is_shipped = "package" in entry
    place = {**_SHIPPED, "sha256": _OPTIONAL["sha256"]} if is_shipped else _HUB
    if missing := [key for key in (*_REQUIRED, *place) if key not in entry]:
        raise LedgerError(f"{where}: missing {', '.join(missing)}")
    foreign = {"hub_id", "revision"} if is_shipped else set(_SHIPPED)
    if clash := sorted(foreign & entry.keys()):
        raise LedgerError(
            f"{where}: {', '.join(clash)} beside {'package' if is_shipped else 'hub_id'}: one origin only"
        )
    try:
        preprocessing = Preprocessing(
            size=(entry["eval_size"], entry["eval_size"]),
            crop_pct=entry["crop_pct"],
            crop_mode=entry["crop_mode"],
            interpolation=entry["interpolation"],
            mean=tuple(entry["mean"]),
            std=tuple(entry["std"]),
        )
    except ArgumentError as error:
        raise LedgerError(f"{where}: {error}") from None
    keys = ("hub_id", "revision", "sha256", "license", "source", "training_data", "recipe")
    texts: dict[str, Any] = {key: entry.get(key) for key in keys}
    return Checkpoint(
        variant=variant,
        tag=tag,
        default=entry.get("default", False),
        shipped=Shipped(**{key: entry[key] for key in _SHIPPED}) if is_shipped else None,
        num_classes=entry["num_classes"],
        train_size=entry["train_size"],
        preprocessing=preprocessing,
        reported=tuple(Reported(**row) for row in entry.get("reported", [])),
        **texts,
    )


@functools.cache
def load() -> dict[str, dict[str, Checkpoint]]:
    """Return the whole ledger, by variant and tag.

    Raises:
        LedgerError: If an entry is malformed (see `parse`), or two files declare the same variant.
        FileError: If a file cannot be read, or is not UTF-8 text.
    """
    ledger: dict[str, dict[str, Checkpoint]] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        part = parse(atomic_io.read_text(path), path.name)
        if twice := sorted(ledger.keys() & part.keys()):
            raise LedgerError(f"{path.name}: {', '.join(twice)}: declared in another file already")
        ledger |= part
    return ledger
