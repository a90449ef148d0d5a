"""Result files with a row an image, written as they go and taken up again: CSV, JSON lines, Parquet.

Beside a file, ``NAME.run.json`` keeps what its rows depend on, so that rows of two models never meet in one file. CSV
and JSON lines are appended to, and a last line that was cut off is removed first. Parquet cannot be appended to: its
rows wait in ``NAME.parts/`` until they are joined at the end.
"""

import csv
import io
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from effnet_zoo.atomic_io import written_whole
from effnet_zoo.errors import InputError, MissingExtraError
from effnet_zoo.images import digest

if TYPE_CHECKING:
    import pyarrow

Row = Mapping[str, Any]
"""Values by column. Each has a ``path``, and either an ``error`` or the rest."""

SUFFIXES = (".csv", ".jsonl", ".parquet")

_PART_ROWS, _PART_SECONDS = 4096, 60.0
"""A part of a Parquet file is written when it has so many rows or is so old: what is done again after a crash."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, what its values are, and how many there are in one where it holds a list of numbers."""

    name: str
    kind: Literal["text", "whole", "real", "reals"]
    width: int = 1


def check_output(path: Path, *, resume: bool, force: bool) -> None:
    """Whether a file of this name can be written, told before any work.

    Raises:
        InputError: If its suffix is none of ours, or it is there already and neither resume nor force is wanted.
        MissingExtraError: If it takes a package that is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise InputError(f"{path}: expected a file to write, but this is a folder")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingExtraError(
                f"{path}: Parquet needs pyarrow, which is not installed: pip install 'effnet-zoo[parquet]'"
            ) from None
    if (path.exists() or _parts(path).exists()) and not (resume or force):
        raise InputError(f"{path}: there already: continue it with --resume, or replace it with --force")


def open_rows(path: Path, columns: Sequence[Column], facts: Mapping[str, Any], *, resume: bool = False) -> "Rows":
    """A file to write rows to; one that is there is continued with resume, and replaced without.

    Args:
        path: Where to; the suffix tells the format, see `check_output`.
        columns: What a row has. JSON lines take any object with a ``path``.
        facts: What the rows depend on, as JSON can hold it.
        resume: Keep the rows that are there.

    Raises:
        InputError: If what is there was made otherwise, or cannot be read.
    """
    made_by = path.with_name(f"{path.name}.run.json")
    facts = {**facts, "columns": [[column.name, column.kind, column.width] for column in columns]}
    if resume and (path.exists() or _parts(path).exists()):
        _check_facts(path, made_by, facts)
    else:
        shutil.rmtree(_parts(path), ignore_errors=True)
        path.unlink(missing_ok=True)
        with written_whole(made_by) as beside:
            beside.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    formats: dict[str, Callable[[Path, Sequence[Column]], Rows]]
    formats = {".csv": _Csv, ".jsonl": _JsonLines, ".parquet": _Parquet}
    return formats[path.suffix](path, columns)


class Rows(ABC):
    """A result file that is open for more rows. As a context it is closed in the end, and joined unless it failed.

    Attributes:
        done: The `digest` of each path that has its row already.
        failed: How many of these rows have an error.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self.path, self.columns = path, columns
        self.done: set[bytes] = set()
        self.failed = 0

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; they are with the operating system, or in a part to be, when this returns."""

    @abstractmethod
    def close(self, *, whole: bool) -> None:
        """Write what is left; if the run is whole, the file is as well."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(whole=kind is None)

    def _recall(self, path: str, error: str | None) -> None:
        self.done.add(digest(Path(path)))
        self.failed += bool(error)


class _Lines(Rows):
    """Rows as lines of text, each written whole or, when killed, cut off."""

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        super().__init__(path, columns)
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        whole = 0
        for number, record in enumerate(self._records()):
            try:
                self._read(number, record)
            except (ValueError, KeyError, IndexError, TypeError):
                self._file.close()
                raise InputError(f"{path}: row {number + 1} is none of ours: {record[:80]!r}: use --force") from None
            whole += len(record)
        self._file.truncate(whole)

    def write(self, rows: Sequence[Row]) -> None:
        waiting = memoryview("".join(map(self._line, rows)).encode())
        while waiting:
            waiting = waiting[self._file.write(waiting) :]

    def close(self, *, whole: bool) -> None:  # noqa: ARG002
        self._file.close()

    def _records(self) -> Iterator[bytes]:
        """Lines that have their end."""
        with io.BufferedReader(io.FileIO(self.path)) as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield line

    @abstractmethod
    def _read(self, number: int, record: bytes) -> None: ...

    @abstractmethod
    def _line(self, row: Row) -> str: ...


class _JsonLines(_Lines):
    def _read(self, number: int, record: bytes) -> None:  # noqa: ARG002
        row = json.loads(record)
        self._recall(row["path"], row.get("error"))

    def _line(self, row: Row) -> str:
        return json.dumps(row, ensure_ascii=False) + "\n"


class _Csv(_Lines):
    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._heading = [name for column in columns for name in _names(column)]
        super().__init__(path, columns)
        if not path.stat().st_size:
            self._file.write(_csv_line(self._heading).encode())

    def _records(self) -> Iterator[bytes]:
        # A name may have a line end in it; the record goes on until its quotes are paired.
        record = b""
        for line in super()._records():
            record += line
            if record.count(b'"') % 2 == 0:
                yield record
                record = b""

    def _read(self, number: int, record: bytes) -> None:
        (row,) = csv.reader([record.decode()])
        if len(row) != len(self._heading) or (number == 0 and row != self._heading):
            raise ValueError(row)
        if number:
            self._recall(row[0], row[1])

    def _line(self, row: Row) -> str:
        values: list[Any] = []
        for column in self.columns:
            value = row.get(column.name)
            values += [value] if column.kind != "reals" else [""] * column.width if value is None else value
        return _csv_line(values)


class _Parquet(Rows):
    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        import pyarrow

        super().__init__(path, columns)
        types = {
            "text": pyarrow.string(),
            "whole": pyarrow.int32(),
            "real": pyarrow.float32(),
            "reals": pyarrow.list_(pyarrow.float32()),
        }
        self._schema = pyarrow.schema([(column.name, types[column.kind]) for column in columns])
        self._folder = _parts(path)
        self._waiting: list[pyarrow.Table] = []
        self._since = time.monotonic()
        if path.exists():
            self._recall_file(path)
        self._parts = []
        for part in sorted(self._folder.glob("*.parquet")):
            if self._recall_file(part):
                self._parts.append(part)
            else:  # joined already, but the run was killed before it could remove it
                part.unlink()
        self._next = int(self._parts[-1].stem) + 1 if self._parts else 0

    def write(self, rows: Sequence[Row]) -> None:
        import pyarrow

        self._waiting.append(pyarrow.Table.from_pylist(rows, schema=self._schema))
        if sum(map(len, self._waiting)) >= _PART_ROWS or time.monotonic() - self._since >= _PART_SECONDS:
            self._flush()

    def close(self, *, whole: bool) -> None:
        self._flush()
        if whole and (self._parts or not self.path.exists()):
            self._join()
        if whole:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _flush(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if self._waiting:
            part = self._folder / f"{self._next:08}.parquet"
            with written_whole(part) as beside:
                parquet.write_table(pyarrow.concat_tables(self._waiting), beside)
            self._parts.append(part)
            self._next += 1
            self._waiting = []
        self._since = time.monotonic()

    def _join(self) -> None:
        from pyarrow import parquet

        with written_whole(self.path) as beside, parquet.ParquetWriter(beside, self._schema) as writer:
            for part in [self.path] * self.path.exists() + self._parts:
                for table in _row_groups(part):
                    writer.write_table(table)

    def _recall_file(self, path: Path) -> bool:
        """Remember its rows, unless the first is known: then all are, and False is returned."""
        for table in _row_groups(path, ["path", "error"]):
            paths, errors = (table.column(name).to_pylist() for name in ("path", "error"))
            if path != self.path and paths and digest(Path(paths[0])) in self.done:
                return False
            for each, error in zip(paths, errors, strict=True):
                self._recall(each, error)
        return True


def _row_groups(path: Path, columns: list[str] | None = None) -> Iterator["pyarrow.Table"]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                yield file.read_row_group(index, columns)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}: use --force") from None


def _parts(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


def _names(column: Column) -> Iterable[str]:
    return [column.name] if column.kind != "reals" else (f"f{index:04}" for index in range(column.width))


def _csv_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    # With this end it quotes a \r too, which would end a row for readers; the row itself ends as text files do.
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _check_facts(path: Path, made_by: Path, facts: Mapping[str, Any]) -> None:
    try:
        there = json.loads(made_by.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path}: {made_by.name} does not tell what it was made with: use --force") from None
    wanted = json.loads(json.dumps(facts))
    if changed := [key for key in sorted(there.keys() | wanted.keys()) if there.get(key) != wanted.get(key)]:
        differences = "; ".join(f"{key} was {there.get(key)!r} and is {wanted.get(key)!r}" for key in changed)
        raise InputError(
            f"{path}: made otherwise, so it is not continued: {differences}: choose another name or --force"
        )
