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
from effnet_zoo.errors import ArgumentError, LedgerError, did_you_mean, quoted
from effnet_zoo.zoo.preprocessing import (
    CROP_MODES,
    INTERPOLATIONS,
    Preprocessing,
    is_finite,
    is_whole,
)

_PACKAGE = Path(__file__).parents[1]
FOLDER = next(folder for folder in (_PACKAGE / "weights", _PACKAGE.parent / "weights") if folder.is_dir())

LICENCE = "[a-z0-9][a-z0-9.+-]*"
"""An SPDX identifier in lower case, as the Hub wants it."""


def check_licence(licence: object) -> None:
    """Checks that a licence is an identifier.

    Raises:
        ArgumentError: If it is not.
    """
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
    """One entry. Field meanings are at the top of the ledger files; exactly one of `hub_id` and `shipped` is set."""

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
        """Where the weights come from, in words."""
        if self.shipped:
            return f"the distribution {self.shipped.package}"
        return f"{self.hub_id}@{self.revision or 'main'} on the Hugging Face Hub"

    @property
    def reported_at_eval_size(self) -> Reported | None:
        """What is reported for the evaluation size."""
        return next((r for r in self.reported if r.size == self.preprocessing.size[0]), None)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _number(value: Any) -> bool:
    return is_finite(value) and value > 0


def _channels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_number(v) and v < 1 for v in value)


def _reported(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict)
        and row.keys() == {"size", "top1", "top5"}
        and is_whole(row["size"])
        and _number(row["top1"])
        and _number(row["top5"])
        and row["top1"] <= row["top5"] <= 100
        for row in value
    )


Check = tuple[Callable[[Any], bool], str]

_REQUIRED: dict[str, Check] = {
    "num_classes": (is_whole, "a whole number of at least 1"),
    "train_size": (is_whole, "a side in pixels"),
    "eval_size": (is_whole, "a side in pixels"),
    "crop_pct": (lambda v: _number(v) and v <= 1, "a share above 0 and up to 1"),
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
    """Reads a ledger file's text into checkpoints by variant and tag, in the file's order.

    Args:
        text: TOML.
        file: What to call the file in errors.

    Raises:
        LedgerError: Naming file, entry and key, if anything is not as the schema says.
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
    return Checkpoint(
        variant=variant,
        tag=tag,
        default=entry.get("default", False),
        hub_id=entry.get("hub_id"),
        revision=entry.get("revision"),
        sha256=entry.get("sha256"),
        shipped=Shipped(**{key: entry[key] for key in _SHIPPED}) if is_shipped else None,
        num_classes=entry["num_classes"],
        train_size=entry["train_size"],
        preprocessing=preprocessing,
        license=entry["license"],
        source=entry["source"],
        training_data=entry["training_data"],
        recipe=entry["recipe"],
        reported=tuple(Reported(**row) for row in entry.get("reported", [])),
    )


@functools.cache
def load() -> dict[str, dict[str, Checkpoint]]:
    """The whole ledger, by variant and tag.

    Raises:
        LedgerError: If a file is not as the schema says, or two files declare the same variant.
        FileError: If a file cannot be read, or is not UTF-8 text.
    """
    ledger: dict[str, dict[str, Checkpoint]] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        part = parse(atomic_io.read_text(path), path.name)
        if twice := sorted(ledger.keys() & part.keys()):
            raise LedgerError(f"{path.name}: {', '.join(twice)}: declared in another file already")
        ledger |= part
    return ledger
