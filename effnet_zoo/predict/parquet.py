"""Write rows to a Parquet file. It cannot be appended to: they wait in ``NAME.parts/`` and are joined at the end."""

import errno
import functools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from effnet_zoo import documents
from effnet_zoo.atomic_io import open_regular, written_whole
from effnet_zoo.errors import InputError, MissingExtraError, first_line
from effnet_zoo.images.finding import digest
from effnet_zoo.predict.results import Output, Row, StoredRow

try:
    import pyarrow
    from pyarrow import parquet
except ImportError:
    raise MissingExtraError(
        "Parquet needs pyarrow, which is not installed: pip install 'effnet-zoo[parquet]'"
    ) from None

PART_ROWS, PART_SECONDS = 4096, 60.0
"""A part is written when it has this many rows or is this old. A crash loses less than a part."""

_TYPES = {
    "text": pyarrow.string(),
    "whole": pyarrow.int32(),
    "real": pyarrow.float32(),
    "reals": pyarrow.list_(pyarrow.float32()),
}


class Parquet(Output):
    """An output in Parquet: the file, and its parts until they are joined."""

    def __init__(self, path: Path, *, resume: bool, force: bool) -> None:
        super().__init__(path, resume=resume, force=force)
        self._files: list[Path] = []  # with rows, in order: the file itself, if it is continued, and its parts
        self._next = 0
        self._waiting: list[pyarrow.Table] = []
        self._since = time.monotonic()

    @functools.cached_property
    def _schema(self) -> "pyarrow.Schema":
        return pyarrow.schema([(column.name, _TYPES[column.kind]) for column in self.facts.columns])

    def _recalled(self) -> Iterator[StoredRow]:
        if self.path.exists():
            self._files.append(self.path)
            yield from self._rows_of(self.path)
        for part in sorted(self.parts.glob("*.parquet")):
            rows = list(self._rows_of(part))
            if rows and digest(rows[0].path) in self.done:  # joined, but the run was killed before it removed the part
                part.unlink()
                continue
            self._files.append(part)
            self._next = int(part.stem) + 1
            yield from rows

    def _create(self) -> None:
        self.parts.mkdir()

    def _append(self, rows: Sequence[Row]) -> None:
        self._waiting.append(pyarrow.Table.from_pylist(rows, schema=self._schema))
        if sum(map(len, self._waiting)) >= PART_ROWS or time.monotonic() - self._since >= PART_SECONDS:
            self._flush()

    def _close(self, *, whole: bool) -> None:
        self._flush()
        if whole:
            if self._files != [self.path]:
                self._join()
            shutil.rmtree(self.parts, ignore_errors=True)

    def _flush(self) -> None:
        if self._waiting:
            part = self.parts / f"{self._next:08}.parquet"
            with written_whole(part) as beside:
                parquet.write_table(pyarrow.concat_tables(self._waiting), beside)
            self._files.append(part)
            self._next += 1
            self._waiting = []
        self._since = time.monotonic()

    def _join(self) -> None:
        if self.path.exists() and self.path not in self._files:
            raise FileExistsError(errno.EEXIST, "another process has made this file meanwhile", str(self.path))
        with written_whole(self.path) as beside, parquet.ParquetWriter(beside, self._schema) as writer:
            for file in self._files:
                for table in self._row_groups(file):
                    writer.write_table(table)

    def _rows_of(self, path: Path) -> Iterator[StoredRow]:
        start = 0
        for table in self._row_groups(path, ["path", "error"]):
            place = f"{path}: rows from {start} on"
            yield from documents.from_plain(table.to_pylist(), list[StoredRow], place, InputError)
            start += len(table)

    def _row_groups(self, path: Path, columns: list[str] | None = None) -> Iterator["pyarrow.Table"]:
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
