"""Processes that write results and are killed: all are forked from one that has imported what they need.

Run as a program, this module is that one. It takes an order a line, as JSON, and answers with the number of the process
that does it, or of one that is waited for, with its exit status.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFUSED = 1
"""Exit status of the command for an error of the package, as `effnet_zoo.cli.main` gives it."""

ROWS = 200

PART_ROWS = 16
"""Rows of a part of a Parquet file here: many parts, and rows that are in none yet."""


def names() -> list[str]:
    """The paths of an output that is whole, in order, each once."""
    return [f'folder/"{number}",\n.jpg' for number in range(ROWS)]


@dataclass
class Nursery:
    """A program that has imported what its children need; see `nursery`."""

    process: "subprocess.Popen[str]"

    def start(self, kind: str, log: Path, **arguments: Any) -> int:
        """Starts a child, which writes what it says into a file, and returns its number."""
        return self._ask({"do": kind, "log": str(log), **arguments})

    def wait(self, number: int) -> int:
        """Waits for the end of a child, and returns its exit status; below 0 if a signal ended it."""
        return self._ask({"do": "wait", "number": number})

    def _ask(self, order: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@contextmanager
def nursery(*modules: str) -> Iterator[Nursery]:
    """Yields a program that has imported modules. The package's own names are not among them: they take torch."""
    # After the command's entry the package imports nothing by itself.
    code = "import _effnet_zoo_command; from tests.faults.writing import main; main()"
    command = [sys.executable, "-c", code, "effnet_zoo.predict.results", "pyarrow.parquet", *modules]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Nursery(process)
        finally:
            process.kill()


def main() -> None:
    """Does what orders on standard input say."""
    for module in sys.argv[1:]:
        __import__(module)
    for line in sys.stdin:
        order = json.loads(line)
        kind = order.pop("do")
        if kind == "wait":
            _, status = os.waitpid(order["number"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif not (answer := os.fork()):
            _child(kind, order)
        print(answer, flush=True)  # noqa: T201


def _child(kind: str, order: dict[str, Any]) -> None:
    log = os.open(order.pop("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    status: Any = 70
    try:
        if kind == "rows":
            _write(**order)
        else:
            _command(**order)
        status = 0
    except SystemExit as stopped:
        status = stopped.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _write(path: str, pause: float, options: dict[str, bool]) -> None:
    """Writes rows as the command does, in a pace of so many seconds a batch."""
    from effnet_zoo.errors import EffnetZooError
    from effnet_zoo.images.finding import digest
    from effnet_zoo.predict import parquet, results
    from tests.predict.test_results import FACTS, row

    def in_pieces(lines: Any, text: str) -> None:
        data = text.encode()
        for start in range(0, len(data), 16):
            lines._file.write(data[start : start + 16])
            time.sleep(pause / 20)

    def joined_slowly(output: Any, join: Any = parquet.Parquet._join) -> None:
        join(output)
        time.sleep(30 * pause)

    # A kill between two of the system's calls is rare: here it meets half a line, and parts that are joined already.
    vars(parquet).update(PART_ROWS=PART_ROWS)
    results._Lines._put = in_pieces  # type: ignore[assignment, method-assign]
    parquet.Parquet._join = joined_slowly  # type: ignore[assignment, method-assign]
    try:
        with results.reserved(Path(path), **options) as output, output.opened(FACTS):
            left = [name for name in names() if digest(name) not in output.done]
            for start in range(0, len(left), 5):
                time.sleep(pause)
                output.write([row(name) for name in left[start : start + 5]])
    except EffnetZooError as error:
        sys.stderr.write(f"effnet-zoo: {error}\n")
        sys.exit(REFUSED)


def _command(arguments: list[str]) -> None:
    from effnet_zoo.cli import main as command
    from effnet_zoo.predict import parquet

    vars(parquet).update(PART_ROWS=PART_ROWS)
    sys.argv = ["effnet-zoo", *arguments]
    command()
