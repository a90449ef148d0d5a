"""Result files with a row an image, written as they go and taken up again: CSV, JSON lines, Parquet.

Beside a file, ``NAME.run.json`` keeps what its rows depend on, so that rows of two models never meet in one file. CSV
and JSON lines are appended to, and a last line that was cut off is removed first. Parquet cannot be appended to: its
rows wait in ``NAME.parts/`` until they are joined at the end.

One process at a time holds an output, from `reserved` to its end. A process that is killed at any moment leaves rows
that the next one continues.
"""

import csv
import errno
import io
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from effnet_zoo import documents
from effnet_zoo.atomic_io import (
    check_destination,
    exclusive,
    file_errors,
    open_regular,
    read_text,
    write_text,
    written_whole,
)
from effnet_zoo.errors import InputError, MissingExtraError, first_line, quoted
from effnet_zoo.images.paths import digest
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    import pyarrow

Row = Mapping[str, Any]
"""Values by column. Each has a ``path``, and either an ``error`` or the rest."""

_LONGEST_ROW = 16 << 20
"""Bytes of a row at most: a file that is not ours may have no line end at all."""

_PART_ROWS, _PART_SECONDS = 4096, 60.0
"""A part of a Parquet file is written when it has so many rows or is so old: what is done again after a crash."""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A column: its name, what its values are, and how many there are in one where it holds a list of numbers."""

    name: str
    kind: Literal["text", "whole", "real", "reals"]
    width: int = 1


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the rows of a file depend on: the content of ``NAME.run.json``.

    Attributes:
        effnet_zoo: What is computed.
        model: Name of the model, or path of an exported file.
        weights: SHA-256 that stands for the weights.
        preprocessing: How images are prepared.
        orientation: Whether images are turned as their EXIF orientation says.
        dtype: What the model computes in.
        topk: Classes a row.
        columns: Of the file.
    """

    effnet_zoo: Literal["predicting", "embedding"]
    model: str
    weights: str
    preprocessing: Preprocessing
    orientation: bool
    dtype: str
    topk: int | None = None
    columns: tuple[Column, ...]


class _Named(msgspec.Struct):
    """What is read back of a row."""

    path: str
    error: str | None = None


@contextmanager
def reserved(path: Path, *, resume: bool = False, force: bool = False) -> Iterator["Output"]:
    """Holds a result file for this process until the block ends, before the work whose results it shall have.

    Args:
        path: Where to; the suffix tells the format.
        resume: Keep the rows that are there.
        force: Replace what is there, as soon as there are rows to replace it with.

    Raises:
        InputError: If the suffix is of no format, the file is there already and neither resume nor force is wanted,
            another process holds it, or the system refuses to write there.
        MissingExtraError: If the format needs a package that is not installed.
    """
    if path.suffix not in _FORMATS:
        raise InputError(f"{path}: expected a file that ends in {', '.join(_FORMATS)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingExtraError(
                f"{path}: Parquet needs pyarrow, which is not installed: pip install 'effnet-zoo[parquet]'"
            ) from None
    output = Output(check_destination(path), resume=resume, force=force)
    if output.path.is_dir():
        raise InputError(f"{path}: expected a file to write, found a folder")
    if output.path.exists():
        open_regular(output.path).close()
    check_destination(output.run_json)  # the longest of the names beside it
    with exclusive(output.path):
        if output.exists() and not (resume or force):
            raise InputError(f"{path}: there already: continue it with --resume, or replace it with --force")
        yield output


class Output:
    """A result file that this process holds: see `reserved`.

    Attributes:
        path: Where it is, without symbolic links.
        resume: Whether the rows that are there are kept.
        force: Whether they are replaced.
        run_json: The file beside it with what its rows depend on.
        parts: The folder beside it with the rows of a Parquet file that are not joined yet.
    """

    def __init__(self, path: Path, *, resume: bool, force: bool) -> None:
        self.path, self.resume, self.force = path, resume, force
        self.run_json = path.with_name(f"{path.name}.run.json")
        self.parts = path.with_name(f"{path.name}.parts")

    def exists(self) -> bool:
        """Returns whether there are rows already."""
        return self.path.exists() or self.parts.exists()

    @contextmanager
    def rows(self, facts: Facts) -> Iterator["Rows"]:
        """Yields the rows, open for more. They are closed when the block ends, and joined unless it raises.

        Raises:
            InputError: If the rows that are kept depend on other facts, or cannot be read.
        """
        rows = _FORMATS[self.path.suffix](self, facts)
        if self.resume and self.exists():
            self._check_facts(facts)
            rows.recall()
        try:
            yield rows
        except BaseException:
            rows.close(whole=False)
            raise
        rows.close(whole=True)

    def _check_facts(self, facts: Facts) -> None:
        if not self.run_json.exists():
            raise InputError(f"{self.path}: without {self.run_json.name} nobody knows how it was made: use --force")
        try:
            there = documents.from_json(read_text(self.run_json), Facts, str(self.run_json), InputError)
        except InputError as error:
            raise InputError(f"{error}: choose another name or --force") from None
        old, new = _flat(there), _flat(facts)
        if changed := [name for name in new | old if old.get(name) != new.get(name)]:
            differences = (f"{name} was {quoted(old.get(name))} and is {quoted(new.get(name))}" for name in changed)
            raise InputError(
                f"{self.path}: made otherwise, so it is not continued: {'; '.join(differences)}: choose another name "
                "or --force"
            )


class Rows(ABC):
    """The rows of a result file, open for more.

    Attributes:
        done: The `digest` of each path that has its row already.
        failed: How many of these rows have an error.
    """

    def __init__(self, output: Output, facts: Facts) -> None:
        self.output, self.facts = output, facts
        self.done: set[bytes] = set()
        self.failed = 0
        self._begun = False

    def recall(self) -> None:
        """Reads the rows that are there, to continue them.

        Raises:
            InputError: If they are not rows of this package.
        """
        with file_errors(self.output.path):
            self._recall()
        self._begun = True

    def write(self, rows: Sequence[Row]) -> None:
        """Appends rows; they are with the operating system, or in a part to be, when this returns.

        Raises:
            FileError: If the system refuses.
        """
        with file_errors(self.output.path):
            self._begin()
            self._append(rows)

    def close(self, *, whole: bool) -> None:
        """Writes what is left; if the run is whole, the file is as well.

        Raises:
            FileError: If the system refuses.
        """
        with file_errors(self.output.path):
            if whole:
                self._begin()
            if self._begun:
                self._end(whole=whole)

    def _begin(self) -> None:
        """Makes the file, once there are rows. A process that is killed here leaves no old row for a new one."""
        if self._begun:
            return
        output = self.output
        if output.force:
            output.path.unlink(missing_ok=True)
            if output.parts.exists():
                shutil.rmtree(output.parts)
        write_text(output.run_json, msgspec.json.format(msgspec.json.encode(self.facts), indent=1).decode() + "\n")
        self._create()
        self._begun = True

    def _remember(self, path: str, error: str | None) -> None:
        self.done.add(digest(path))
        self.failed += bool(error)

    @abstractmethod
    def _recall(self) -> None: ...

    @abstractmethod
    def _create(self) -> None:
        """Makes what rows are written to. A file that somebody else has put there meanwhile is refused."""

    @abstractmethod
    def _append(self, rows: Sequence[Row]) -> None: ...

    @abstractmethod
    def _end(self, *, whole: bool) -> None: ...


class _Lines(Rows):
    """Rows as lines of text, each written whole or, when killed, cut off."""

    heading = ""
    """The first line."""

    def _recall(self) -> None:
        path, whole = self.output.path, 0
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
        self._file = self.output.path.open("xb", buffering=0)
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
        """Yields the lines that have their end."""
        with open_regular(self.output.path) as file:
            while (line := file.readline(_LONGEST_ROW)).endswith(b"\n"):
                yield line
            if len(line) == _LONGEST_ROW:
                raise InputError(
                    f"{self.output.path}: a line of more than {_LONGEST_ROW} bytes: replace it with --force"
                )

    @abstractmethod
    def _read(self, number: int, record: bytes) -> None: ...

    @abstractmethod
    def _line(self, row: Row) -> str: ...


class _JsonLines(_Lines):
    def _read(self, number: int, record: bytes) -> None:  # noqa: ARG002
        row = documents.from_json(record, _Named, quoted(record), InputError)
        self._remember(row.path, row.error)

    def _line(self, row: Row) -> str:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


class _Csv(_Lines):
    def __init__(self, output: Output, facts: Facts) -> None:
        super().__init__(output, facts)
        self._names = [name for column in facts.columns for name in _names(column)]
        self.heading = _csv_line(self._names)

    def _records(self) -> Iterator[bytes]:
        # A name may have a line end in it; the record goes on until its quotes are paired.
        record = b""
        for line in super()._records():
            record += line
            if record.count(b'"') % 2 == 0:
                yield record
                record = b""
            elif len(record) > _LONGEST_ROW:
                raise InputError(f"{self.output.path}: quotes that are not paired: replace it with --force")

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
    def __init__(self, output: Output, facts: Facts) -> None:
        import pyarrow

        super().__init__(output, facts)
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
        if self.output.path.exists():
            self._recall_file(self.output.path)
            self._joined = [self.output.path]
        for part in sorted(self.output.parts.glob("*.parquet")):
            if self._recall_file(part):
                self._parts.append(part)
            else:  # joined already, but the run was killed before it could remove it
                part.unlink()

    def _create(self) -> None:
        self.output.parts.mkdir()

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
            shutil.rmtree(self.output.parts, ignore_errors=True)

    def _flush(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if self._waiting:
            number = int(self._parts[-1].stem) + 1 if self._parts else 0
            part = self.output.parts / f"{number:08}.parquet"
            with written_whole(part) as beside:
                parquet.write_table(pyarrow.concat_tables(self._waiting), beside)
            self._parts.append(part)
            self._waiting = []
        self._since = time.monotonic()

    def _join(self) -> None:
        from pyarrow import parquet

        path = self.output.path
        if path.exists() and not self._joined:
            raise FileExistsError(errno.EEXIST, "a file that somebody else has put there meanwhile", str(path))
        with written_whole(path) as beside, parquet.ParquetWriter(beside, self._schema) as writer:
            for part in self._joined + self._parts:
                for table in self._row_groups(part):
                    writer.write_table(table)

    def _recall_file(self, path: Path) -> bool:
        """Remembers its rows, unless the first is known: then all are, and False is returned."""
        start = 0
        for table in self._row_groups(path, ["path", "error"]):
            rows = documents.from_plain(table.to_pylist(), list[_Named], f"{path}: rows from {start} on", InputError)
            if path != self.output.path and rows and digest(rows[0].path) in self.done:
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


_FORMATS: dict[str, type[Rows]] = {".csv": _Csv, ".jsonl": _JsonLines, ".parquet": _Parquet}


def _flat(facts: Facts) -> dict[str, Any]:
    values = msgspec.to_builtins(facts)
    return values | values.pop("preprocessing")


def _names(column: Column) -> Iterable[str]:
    return [column.name] if column.kind != "reals" else (f"f{index:04}" for index in range(column.width))


def _csv_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    # With this end it quotes a \r too, which would end a row for readers; the row itself ends as text files do.
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"
