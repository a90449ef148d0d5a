"""Write result files, a row an image, while the results come, and continue them after an interruption.

Beside a file, ``NAME.run.json`` keeps what its rows depend on, so that rows of two models never meet in one file. One
process at a time holds an output, from `reserved` to its end. A process that is killed at any moment leaves rows that
the next one continues. CSV and JSON lines are here, Parquet in a module of its own.
"""

import csv
import dataclasses
import functools
import io
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from effnet_zoo import documents
from effnet_zoo.atomic_io import check_destination, exclusive, file_errors, open_regular, read_text, write_text
from effnet_zoo.errors import InputError, first_line, quoted
from effnet_zoo.images.finding import digest, path_text
from effnet_zoo.predict.prediction import Embedding, Prediction
from effnet_zoo.zoo.preprocessing import Preprocessing

_LONGEST_ROW = 16 << 20
"""Largest number of bytes in a row: a file of another program may have no line end at all."""

ResultRow = Mapping[str, Any]
"""Values by column. Each row has a ``path``, and either an ``error`` or the other columns."""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A column: its name, the kind of its values, and the length of each value that is a list of numbers."""

    name: str
    kind: Literal["text", "whole", "real", "reals"]
    width: int = 1


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The facts that the rows of a file depend on: the content of ``NAME.run.json``.

    Attributes:
        effnet_zoo: What is computed.
        model: Name of the model, or path of an exported file.
        weights: SHA-256 that stands for the weights.
        topk: Classes a row; None for features.
    """

    effnet_zoo: Literal["predicting", "embedding"]
    model: str
    weights: str
    preprocessing: Preprocessing
    orientation: bool
    dtype: str
    topk: int | None = None
    columns: tuple[Column, ...]


def columns(topk: int | None, features: int) -> tuple[Column, ...]:
    """Return the columns of a file of `topk` classes a row, or, if that is None, of so many features."""
    found = [Column("path", "text"), Column("error", "text")]
    if topk is None:
        return (*found, Column("feature", "reals", features))
    kinds: dict[str, Literal["whole", "text", "real"]] = {"index": "whole", "label": "text", "probability": "real"}
    found += [Column(f"{name}_{place}", kind) for place in range(1, topk + 1) for name, kind in kinds.items()]
    return tuple(found)


def as_row(result: Prediction | Embedding) -> ResultRow:
    """Return a result as a row of a CSV or Parquet file."""
    row: dict[str, Any] = {"path": path_text(result.path), "error": result.error}
    if isinstance(result, Embedding):
        return row if result.values is None else row | {"feature": result.values.tolist()}
    for place, guess in enumerate(result.guesses, 1):
        row |= {f"{name}_{place}": value for name, value in dataclasses.asdict(guess).items()}
    return row


def as_json(result: Prediction | Embedding, **described: Any) -> dict[str, Any]:
    """Return a result as a JSON object: its path, what describes it, and what was found, or the error."""
    answer: dict[str, Any] = {"path": path_text(result.path), **described}
    if result.error is not None:
        return answer | {"error": result.error}
    if isinstance(result, Embedding):
        assert result.values is not None
        return answer | {"feature": result.values.tolist()}
    return answer | {"classes": [dataclasses.asdict(guess) for guess in result.guesses]}


@contextmanager
def reserved(path: Path, *, resume: bool = False, force: bool = False) -> Iterator["Output"]:
    """Hold a result file for this process until the block ends. Enter the block before the work begins.

    Rows that are there are kept with `resume`, and replaced with `force` as soon as there are new ones. Raise
    InputError if they are neither, the suffix has no format, or the file cannot be written or is held by another
    process. Raise MissingExtraError if the format needs a package that is not installed.
    """
    formats: dict[str, type[Output]] = {".csv": _Csv, ".jsonl": _Lines}
    if path.suffix == ".parquet":
        from effnet_zoo.predict.parquet import Parquet

        formats[".parquet"] = Parquet
    elif path.suffix not in formats:
        raise InputError(f"{path}: expected a file that ends in .csv, .jsonl, .parquet")
    output = formats[path.suffix](check_destination(path), resume=resume, force=force)
    if output.path.exists():
        open_regular(output.path).close()
    check_destination(output.run_json)  # the longest of the names beside it
    with exclusive(output.path):
        if output.exists() and not (resume or force):
            raise InputError(f"{path}: there already: continue it with --resume, or replace it with --force")
        yield output


class StoredRow(msgspec.Struct):
    """The fields of a row that are read back."""

    path: str
    error: str | None = None


class Output(ABC):
    """A result file that this process holds: see `reserved`.

    Attributes:
        path: Where it is, without symbolic links.
        run_json: The file beside it with the `Facts`.
        parts: The folder beside it with rows of a Parquet file that are not joined yet.
        done: The `digest` of each path that has its row already.
        failed: How many of these rows have an error.
    """

    facts: Facts

    def __init__(self, path: Path, *, resume: bool, force: bool) -> None:
        self.path = path
        self.run_json, self.parts = (path.with_name(f"{path.name}.{end}") for end in ("run.json", "parts"))
        self.done: set[bytes] = set()
        self.failed = 0
        self._resume, self._force, self._begun = resume, force, False

    def exists(self) -> bool:
        """Return whether there are rows already."""
        return self.path.exists() or self.parts.exists()

    @contextmanager
    def opened(self, facts: Facts) -> Iterator[None]:
        """Take rows that depend on these facts until the block ends. The file is whole then, unless the block raises.

        Raise InputError if the rows that are kept depend on other facts, or cannot be read.
        """
        self.facts = facts
        if self._resume and self.exists():
            self._check_facts()
            with file_errors(self.path):
                for row in self._recalled():
                    self.done.add(digest(row.path))
                    self.failed += bool(row.error)
            self._begun = True
        whole = False
        try:
            yield
            whole = True
        finally:
            with file_errors(self.path):
                if whole:
                    self._begin()
                if self._begun:
                    self._close(whole=whole)

    def write(self, rows: Sequence[ResultRow]) -> None:
        """Append rows. CSV and JSON lines are with the operating system when this returns; Parquet's rows may wait."""
        with file_errors(self.path):
            self._begin()
            self._append(rows)

    def _begin(self) -> None:
        """Make the file, once there are rows. Wherever this is killed, old rows are never taken for new ones."""
        if self._begun:
            return
        if self._force:
            self.path.unlink(missing_ok=True)
            if self.parts.exists():
                shutil.rmtree(self.parts)
        write_text(self.run_json, msgspec.json.format(msgspec.json.encode(self.facts), indent=1).decode() + "\n")
        self._create()
        self._begun = True

    def _check_facts(self) -> None:
        if not self.run_json.exists():
            missing = f"{self.run_json.name}, which says how it was made, is missing"
            raise InputError(f"{self.path}: {missing}: choose another name or --force")
        try:
            stored = documents.from_json(read_text(self.run_json), Facts, str(self.run_json), InputError)
        except InputError as error:
            raise InputError(f"{error}: choose another name or --force") from None
        old, new = _flat(stored), _flat(self.facts)
        if changed := [name for name in new | old if old.get(name) != new.get(name)]:
            differences = (f"{name} was {quoted(old.get(name))} and is {quoted(new.get(name))}" for name in changed)
            raise InputError(
                f"{self.path}: made with other settings, so it is not continued: {'; '.join(differences)}: choose "
                "another name or --force"
            )

    @abstractmethod
    def _recalled(self) -> Iterator[StoredRow]:
        """Yield the rows that are there, then make the file ready for more."""

    @abstractmethod
    def _create(self) -> None:
        """Make the file or folder for the rows. Fail if another process has made it meanwhile."""

    @abstractmethod
    def _append(self, rows: Sequence[ResultRow]) -> None: ...

    @abstractmethod
    def _close(self, *, whole: bool) -> None: ...


def _flat(facts: Facts) -> dict[str, Any]:
    values = msgspec.to_builtins(facts)
    return values | values.pop("preprocessing")


class _Lines(Output):
    """Rows as lines of text: JSON objects. A process that is killed can leave the last line cut off."""

    def _heading(self) -> str:
        return ""

    def _recalled(self) -> Iterator[StoredRow]:
        whole = 0
        for number, record in enumerate(self._records(), 1):
            try:
                row = self._parsed(number, record)
            except (ValueError, csv.Error) as error:
                raise InputError(f"{self.path}: row {number}: {first_line(error)}: replace it with --force") from None
            if row is not None:
                yield row
            whole += len(record)
        self._file = self.path.open("ab", buffering=0)
        self._file.truncate(whole)
        if not whole:
            self._put(self._heading())

    def _create(self) -> None:
        self._file = self.path.open("xb", buffering=0)
        self._put(self._heading())

    def _append(self, rows: Sequence[ResultRow]) -> None:
        self._put("".join(map(self._line, rows)))

    def _put(self, text: str) -> None:
        waiting = memoryview(text.encode())
        while waiting:
            waiting = waiting[self._file.write(waiting) :]

    def _close(self, *, whole: bool) -> None:  # noqa: ARG002
        with self._file:
            os.fsync(self._file.fileno())

    def _records(self) -> Iterator[bytes]:
        """Yield the lines that have a line end."""
        with open_regular(self.path) as file:
            while (line := file.readline(_LONGEST_ROW)).endswith(b"\n"):
                yield line
            if len(line) == _LONGEST_ROW:
                raise InputError(f"{self.path}: a line of more than {_LONGEST_ROW} bytes: replace it with --force")

    def _parsed(self, number: int, record: bytes) -> StoredRow | None:  # noqa: ARG002
        """Return the row in a record, or None if it is the heading. Raise ValueError if it is neither."""
        return documents.from_json(record, StoredRow, quoted(record), InputError)

    def _line(self, row: ResultRow) -> str:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


class _Csv(_Lines):
    """Rows as lines of values. Each number of a list has a column of its own."""

    @functools.cached_property
    def _names(self) -> list[str]:
        names: list[str] = []
        for column in self.facts.columns:
            several = column.kind == "reals"
            names += [f"f{index:04}" for index in range(column.width)] if several else [column.name]
        return names

    def _heading(self) -> str:
        return _csv_line(self._names)

    def _records(self) -> Iterator[bytes]:
        # A path may have a line end in it: a record ends with the line where its quotes are paired.
        record = b""
        for line in super()._records():
            record += line
            if record.count(b'"') % 2 == 0:
                yield record
                record = b""
            elif len(record) > _LONGEST_ROW:
                raise InputError(f"{self.path}: quotes that are not paired: replace it with --force")

    def _parsed(self, number: int, record: bytes) -> StoredRow | None:
        (row,) = csv.reader([record.decode()])
        if number == 1 and row != self._names:
            raise ValueError(f"expected the heading {quoted(self._heading())}, found {quoted(record)}")
        if len(row) != len(self._names):
            raise ValueError(f"expected {len(self._names)} values, found {len(row)}: {quoted(record)}")
        return StoredRow(row[0], row[1]) if number > 1 else None

    def _line(self, row: ResultRow) -> str:
        values: list[Any] = []
        for column in self.facts.columns:
            value = row.get(column.name)
            values += [value] if column.kind != "reals" else [""] * column.width if value is None else value
        return _csv_line(values)


def _csv_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    # With this line end the writer quotes \r too, which readers would take for the end of the row.
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"
