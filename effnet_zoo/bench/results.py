"""Measurements as they are kept: a JSON file of records, into which newer ones are merged. Nothing here needs torch."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from effnet_zoo import documents
from effnet_zoo.atomic_io import file_errors, read_text, write_text
from effnet_zoo.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measurement with all that a reader needs to repeat it.

    Attributes:
        measure: A key of `plan.MEASURES`.
        subject: What of: the variant, its input, the device.
        command: What was typed.
        date: Of the measurement, in UTC, as ISO 8601 has it.
        machine: As `machine.describe` gives it.
        versions: By distribution.
        data: What the measure's `measure` gave.
    """

    measure: str
    subject: str
    command: str
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    data: dict[str, Any]

    @property
    def key(self) -> str:
        """Its name in a file of results: a newer one of the same name takes its place."""
        return f"{self.measure}: {self.subject}"

    def as_plain(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return dataclasses.asdict(self)


class Data(TypedDict, total=False):
    """What every measure's data may have; each has more of its own, which is kept as it is.

    Keys:
        case: What was measured.
        rounds: How often everyone had a turn.
        results: Figures by contestant.
        ratios: By what they are to, a ratio for each contestant.
        absent: Who is not installed, and why.
        refused: Who failed, or computed something else, and why.
        notes: What is to be known of a contestant.
        ceiling: What the machine does at most, in operations or bytes a second.
    """

    case: dict[str, Any]
    rounds: int
    results: dict[str, dict[str, Any]]
    ratios: dict[str, dict[str, float]]
    absent: dict[str, str]
    refused: dict[str, str]
    notes: dict[str, str]
    ceiling: dict[str, float]


def read(path: Path) -> list[Record]:
    """Reads the records of a file; there are none if it does not exist.

    Raises:
        InputError: If it cannot be read, or is something else. The message names the field.
    """
    with file_errors(path):
        if not path.exists():
            return []
    source = f"{path}: not a file that `effnet-zoo bench --out` wrote"
    records = documents.from_json(read_text(path), list[Record], source, InputError)
    for record in records:
        documents.from_plain(record.data, Data, f"{source}: {record.key}", InputError)
    return records


def merged(older: Iterable[Record], newer: Iterable[Record]) -> list[Record]:
    """All records, the newer of each key, in the order in which the keys first came."""
    return list({record.key: record for records in (older, newer) for record in records}.values())


def merge_into(path: Path, newer: Iterable[Record]) -> list[Record]:
    """Merges records into a file, which is written whole or stays as it was, and returns all that are in it.

    Raises:
        InputError: If the file is something else, or cannot be written.
    """
    records = merged(read(path), newer)
    text = json.dumps([record.as_plain() for record in records], indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{text}\n")
    return records
