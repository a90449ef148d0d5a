"""Measurements as they are kept: a JSON file of records, into which newer ones are merged. Nothing here needs torch."""

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_zoo.atomic_io import written_whole
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


def read(path: Path) -> list[Record]:
    """The records of a file; none if it is not there.

    Raises:
        InputError: If it is something else.
    """
    if path.is_dir():
        raise InputError(f"{path}: expected a file of results, but this is a folder")
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise TypeError
        return [Record(**entry) for entry in entries]
    except (ValueError, TypeError):
        raise InputError(f"{path}: not a file that `effnet-zoo bench --out` wrote: give it another name") from None


def merged(older: Iterable[Record], newer: Iterable[Record]) -> list[Record]:
    """All records, the newer of each key, in the order in which the keys first came."""
    return list({record.key: record for records in (older, newer) for record in records}.values())


def merge_into(path: Path, newer: Iterable[Record]) -> list[Record]:
    """Merge records into a file, which is written whole or stays as it was; it gives all that are in it.

    Raises:
        InputError: If the file is something else.
    """
    records = merged(read(path), newer)
    with written_whole(path) as beside:
        text = json.dumps([record.as_plain() for record in records], indent=1, ensure_ascii=False)
        beside.write_text(f"{text}\n", encoding="utf-8")
    return records


def check_writable(folder: Path, option: str) -> None:
    """Whether a folder is there or can be made, told before any work.

    Raises:
        InputError: If there is a file in its place or in its way, or it cannot be written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{option} {there}: expected a folder, but this is a file")
    if not os.access(there, os.W_OK):
        raise InputError(f"{option} {there}: this folder cannot be written to: give another")
