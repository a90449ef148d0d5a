"""Measurements as they are kept: a JSON file, into which newer ones are merged. Nothing here needs torch."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from effnet_zoo import documents
from effnet_zoo.atomic_io import file_errors, read_text, write_text
from effnet_zoo.errors import InputError

OURS, BASELINE = "effnet_zoo", "timm"
"""The library of this package's contestants, and the contestant with which all are compared."""


def library_of(contestant: str) -> str:
    """Return the first word of a contestant's name."""
    return contestant.split()[0]


class Data(TypedDict, total=False):
    """The keys that the data of every measure may have. Further keys of a measure are kept as they are."""

    case: dict[str, Any]  # what was measured
    rounds: int  # how many turns each contestant had
    results: dict[str, dict[str, Any]]  # figures by contestant
    ratios: dict[str, dict[str, float]]  # by a contestant, how many times faster than it each contestant is
    absent: dict[str, str]  # contestants that are not installed or do not have the variant, and why
    refused: dict[str, str]  # contestants that failed or computed something else, and why
    notes: dict[str, str]  # what a reader has to know about a contestant
    ceiling: dict[str, float]  # what the machine does at most, in operations or bytes a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measurement with all that a reader needs to repeat it."""

    measure: str
    subject: str  # what was measured: the variant, its input, the device
    command: str
    date: str  # in UTC, as ISO 8601
    machine: dict[str, Any]
    versions: dict[str, str]  # by distribution
    data: dict[str, Any]  # see `Data`

    @property
    def key(self) -> str:
        """Return its name in a file: a newer measurement replaces an older one of the same name."""
        return f"{self.measure}: {self.subject}"


def read_results(path: Path) -> list[Measurement]:
    """Read the measurements of a file, if it exists. An InputError names the field of a file that is another."""
    with file_errors(path):
        if not path.exists():
            return []
    source = f"{path}: not a file that `effnet-zoo bench --out` wrote"
    measurements = documents.from_json(read_text(path), list[Measurement], source, InputError)
    for one in measurements:
        documents.from_plain(one.data, Data, f"{source}: {one.key}", InputError)
    return measurements


def merged(older: Iterable[Measurement], newer: Iterable[Measurement]) -> list[Measurement]:
    """Return all measurements, the newer of each key, in the order in which the keys first came."""
    return list({one.key: one for group in (older, newer) for one in group}.values())


def merge_results(path: Path, newer: Iterable[Measurement]) -> list[Measurement]:
    """Merge measurements into a file, which is written whole or stays as it was, and return all that are in it."""
    everything = merged(read_results(path), newer)
    text = json.dumps([dataclasses.asdict(one) for one in everything], indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{text}\n")
    return everything
