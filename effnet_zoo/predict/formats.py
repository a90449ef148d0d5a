"""Rows of a result file in three formats, written as they come and read back: CSV, JSON lines, Parquet.

CSV and JSON lines are appended to, and a last line that was cut off is removed first. Parquet cannot be appended to:
its rows wait in ``NAME.parts/`` until they are joined at the end.
"""

import csv
import errno
import io
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from effnet_zoo import documents
from effnet_zoo.atomic_io import file_errors, open_regular, write_text, written_whole
from effnet_zoo.errors import InputError, first_line, quoted
from effnet_zoo.images.finding import digest
from effnet_zoo.predict.tables import Column, Facts, Row

if TYPE_CHECKING:
    import pyarrow

_LONGEST_ROW = 16 << 20
"""Bytes of a row at most: a file of another program may have no line end at all."""

_PART_ROWS, _PART_SECONDS = 4096, 60.0
"""A part of a Parquet file is written when it has this many rows or is this old. A crash loses less than a part."""


@dataclass(frozen=True)
class OutputFiles:
    """A result file, and the files beside it."""

    path: Path

    @property
    def run_json(self) -> Path:
        """The file with the `Facts`."""
        return self.path.with_name(f"{self.path.name}.run.json")

    @property
    def parts(self) -> Path:
        """The folder with rows of a Parquet file that are not joined yet."""
        return self.path.with_name(f"{self.path.name}.parts")

    def exist(self) -> bool:
        """Return whether there are rows already."""
        return self.path.exists() or self.parts.exists()


class _StoredRow(msgspec.Struct):
    """What is read back of a row."""

    path: str
    error: str | None = None


class Rows(ABC):
    """The rows of a result file, open for more.

    Args:
        files: Where they are.
        facts: What they depend on.
        replace: Whether old rows are removed as soon as there is a new one.

    Attributes:
        done: The `digest` of each path that has its row already.
        failed: How many of these rows have an error.
    """

    def __init__(self, files: OutputFiles, facts: Facts, *, replace: bool) -> None:
        self.files, self.facts, self.replace = files, facts, replace
        self.done: set[bytes] = set()
        self.failed = 0
        self._begun = False

    def recall(self) -> None:
        """Read the rows that are there, to continue them.

        Raises:
            InputError: If they are not rows that this package wrote.
        """
        with file_errors(self.files.path):
            self._recall()
        self._begun = True

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows. CSV and JSON lines are with the operating system when this returns; Parquet's rows may wait.

        Raises:
            FileError: If the system refuses.
        """
        with file_errors(self.files.path):
            self._begin()
            self._append(rows)

    def close(self, *, whole: bool) -> None:
        """Write the rows that wait. If the run is whole, make the file whole too.

        Raises:
            FileError: If the system refuses.
        """
        with file_errors(self.files.path):
            if whole:
                self._begin()
            if self._begun:
                self._end(whole=whole)

    def _begin(self) -> None:
        """Make the file, once there are rows. Wherever this is killed, old rows are never taken for new ones."""
        if self._begun:
            return
        if self.replace:
            self.files.path.unlink(missing_ok=True)
            if self.files.parts.exists():
                shutil.rmtree(self.files.parts)
        write_text(self.files.run_json, msgspec.json.format(msgspec.json.encode(self.facts), indent=1).decode() + "\n")
        self._create()
        self._begun = True

    def _remember(self, path: str, error: str | None) -> None:
        self.done.add(digest(path))
        self.failed += bool(error)

    @abstractmethod
    def _recall(self) -> None: ...

    @abstractmethod
    def _create(self) -> None:
        """Make the file or folder for the rows. Fail if another process has made it meanwhile."""

    @abstractmethod
    def _append(self, rows: Sequence[Row]) -> None: ...

    @abstractmethod
    def _end(self, *, whole: bool) -> None: ...


class _Lines(Rows):
    """Rows as lines of text. A process that is killed can leave the last line cut off."""

    heading = ""
    """The first line; JSON lines have no heading."""

    def _recall(self) -> None:
        path, whole = self.files.path, 0
        for number, record in enumerate(self._records()):
            try:
                self._read(number, record)
            except (ValueError, csv.Error) as error:
                raise InputError(f"{path}: row {number + 1}: {first_line(error)}: replace it with --force") from None
            whole += len(record)
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole)
        if not whole:
            self._put(self.heading)

    def _create(self) -> None:
        self._file = self.files.path.open("xb", buffering=0)
        self._put(self.heading)

    def _append(self, rows: Sequence[Row]) -> None:
        self._put("".join(map(self._line, rows)))

    def _put(self, text: str) -> None:
        waiting = memoryview(text.encode())
        while waiting:
            waiting = waiting[self._file.write(waiting) :]

    def _end(self, *, whole: bool) -> None:  # noqa: ARG002
        with self._file:
            os.fsync(self._file.fileno())

    def _records(self) -> Iterator[bytes]:
        """Yield the lines that have a line end."""
        with open_regular(self.files.path) as file:
            while (line := file.readline(_LONGEST_ROW)).endswith(b"\n"):
                yield line
            if len(line) == _LONGEST_ROW:
                raise InputError(
                    f"{self.files.path}: a line of more than {_LONGEST_ROW} bytes: replace it with --force"
                )

    @abstractmethod
    def _read(self, number: int, record: bytes) -> None: ...

    @abstractmethod
    def _line(self, row: Row) -> str: ...


class _JsonLines(_Lines):
    def _read(self, number: int, record: bytes) -> None:  # noqa: ARG002
        row = documents.from_json(record, _StoredRow, quoted(record), InputError)
        self._remember(row.path, row.error)

    def _line(self, row: Row) -> str:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


class _Csv(_Lines):
    def __init__(self, files: OutputFiles, facts: Facts, *, replace: bool) -> None:
        super().__init__(files, facts, replace=replace)
        self._names = [name for column in facts.columns for name in _names(column)]
        self.heading = _csv_line(self._names)

    def _records(self) -> Iterator[bytes]:
        # A path may have a line end in it: a record ends with the line where its quotes are paired.
        record = b""
        for line in super()._records():
            record += line
            if record.count(b'"') % 2 == 0:
                yield record
                record = b""
            elif len(record) > _LONGEST_ROW:
                raise InputError(f"{self.files.path}: quotes that are not paired: replace it with --force")

    def _read(self, number: int, record: bytes) -> None:
        (row,) = csv.reader([record.decode()])
        if number == 0 and row != self._names:
            raise ValueError(f"expected the heading {quoted(self.heading)}, found {quoted(record)}")
        if len(row) != len(self._names):
            raise ValueError(f"expected {len(self._names)} values, found {len(row)}: {quoted(record)}")
        if number:
            self._remember(row[0], row[1])

    def _line(self, row: Row) -> str:
        values: list[Any] = []
        for column in self.facts.columns:
            value = row.get(column.name)
            values += [value] if column.kind != "reals" else [""] * column.width if value is None else value
        return _csv_line(values)


class _Parquet(Rows):
    def __init__(self, files: OutputFiles, facts: Facts, *, replace: bool) -> None:
        import pyarrow

        super().__init__(files, facts, replace=replace)
        types = {
            "text": pyarrow.string(),
            "whole": pyarrow.int32(),
            "real": pyarrow.float32(),
            "reals": pyarrow.list_(pyarrow.float32()),
        }
        self._schema = pyarrow.schema([(column.name, types[column.kind]) for column in facts.columns])
        self._waiting: list[pyarrow.Table] = []
        self._since = time.monotonic()
        self._joined: list[Path] = []
        self._parts: list[Path] = []

    def _recall(self) -> None:
        if self.files.path.exists():
            self._recall_file(self.files.path)
            self._joined = [self.files.path]
        for part in sorted(self.files.parts.glob("*.parquet")):
            if self._recall_file(part):
                self._parts.append(part)
            else:  # it is joined already, but the run was killed before it removed the part
                part.unlink()

    def _create(self) -> None:
        self.files.parts.mkdir()

    def _append(self, rows: Sequence[Row]) -> None:
        import pyarrow

        self._waiting.append(pyarrow.Table.from_pylist(rows, schema=self._schema))
        if sum(map(len, self._waiting)) >= _PART_ROWS or time.monotonic() - self._since >= _PART_SECONDS:
            self._flush()

    def _end(self, *, whole: bool) -> None:
        self._flush()
        if whole and (self._parts or not self._joined):
            self._join()
        if whole:
            shutil.rmtree(self.files.parts, ignore_errors=True)

    def _flush(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if self._waiting:
            number = int(self._parts[-1].stem) + 1 if self._parts else 0
            part = self.files.parts / f"{number:08}.parquet"
            with written_whole(part) as beside:
                parquet.write_table(pyarrow.concat_tables(self._waiting), beside)
            self._parts.append(part)
            self._waiting = []
        self._since = time.monotonic()

    def _join(self) -> None:
        from pyarrow import parquet

        path = self.files.path
        if path.exists() and not self._joined:
            raise FileExistsError(errno.EEXIST, "another process has made this file meanwhile", str(path))
        with written_whole(path) as beside, parquet.ParquetWriter(beside, self._schema) as writer:
            for part in self._joined + self._parts:
                for table in self._row_groups(part):
                    writer.write_table(table)

    def _recall_file(self, path: Path) -> bool:
        """Remember the rows of a file. Return False if it is a part whose first row, and thus every row, is known."""
        start = 0
        for table in self._row_groups(path, ["path", "error"]):
            rows = documents.from_plain(
                table.to_pylist(), list[_StoredRow], f"{path}: rows from {start} on", InputError
            )
            if path != self.files.path and rows and digest(rows[0].path) in self.done:
                return False
            for row in rows:
                self._remember(row.path, row.error)
            start += len(rows)
        return True

    def _row_groups(self, path: Path, columns: list[str] | None = None) -> Iterator["pyarrow.Table"]:
        import pyarrow
        from pyarrow import parquet

        try:
            with open_regular(path) as source, parquet.ParquetFile(source) as file:
                if not file.schema_arrow.equals(self._schema):
                    found = ", ".join(file.schema_arrow.names)
                    raise InputError(f"{path}: other columns than this run writes: {found}: replace it with --force")
                for index in range(file.num_row_groups):
                    yield file.read_row_group(index, columns)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(
                f"{path}: cannot be read as Parquet: {first_line(error)}: replace it with --force"
            ) from None


FORMATS: dict[str, type[Rows]] = {".csv": _Csv, ".jsonl": _JsonLines, ".parquet": _Parquet}
"""The formats by suffix."""


def _names(column: Column) -> Iterable[str]:
    return [column.name] if column.kind != "reals" else (f"f{index:04}" for index in range(column.width))


def _csv_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    # With this line end the writer quotes \r too, which readers would take for the end of the row.
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"
