"""Fresh processes, each timed until it has printed its line or has ended. A process that fails says why."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effnet_zoo.errors import EngineError, MissingExtraError

LIMIT = 900.0
"""Seconds that a process may take: a cold start that compiles takes some two minutes on two cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The output of a process, the seconds until its first line, and the seconds until its end."""

    text: str
    first_line: float
    seconds: float


def python(program: str, *arguments: str) -> list[str]:
    """Return the command line that runs Python code with arguments in this interpreter."""
    return [sys.executable, "-W", "ignore", "-c", program, *arguments]


def own_bytecode(folder: str) -> dict[str, str]:
    """Return variables with which a process keeps its bytecode in a folder: an editable install may have none."""
    return {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}


def answer_of(command: Sequence[str], environment: Mapping[str, str] | None = None, limit: float = LIMIT) -> Answer:
    """Run a command in a fresh process.

    Args:
        command: The program and its arguments.
        environment: Variables besides this process's.
        limit: Seconds it may take.

    Raises:
        MissingExtraError: If the last line of its traceback says that a package is not installed.
        EngineError: If it fails otherwise, dies, or takes longer; with the last line that it wrote.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            late = threading.Timer(limit, process.kill)
            late.start()
            try:
                assert process.stdout is not None
                text = process.stdout.readline()
                first_line = time.perf_counter() - start
                text += process.communicate()[0]
                seconds = time.perf_counter() - start
            finally:
                late.cancel()
                process.kill()
        errors.seek(0)
        written = errors.read().strip().splitlines()
    if seconds >= limit:
        raise EngineError(f"the process had not ended after {limit:g} seconds")
    if process.returncode:
        last = written[-1] if written else f"the process ended with status {process.returncode}"
        raise (MissingExtraError if _says_absent(last) else EngineError)(last)
    return Answer(text=text, first_line=first_line, seconds=seconds)


def _says_absent(line: str) -> bool:
    kind = line.partition(":")[0].rpartition(".")[2]
    return kind in ("ImportError", "ModuleNotFoundError", "MissingExtraError")
