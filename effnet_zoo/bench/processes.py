"""Fresh Python processes, each timed until it has printed its one line; one that fails says why."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence

from effnet_zoo.errors import EngineError

LIMIT = 900.0
"""Seconds that a process may take: a cold start that compiles takes some two minutes on two cores."""


def first_answer(
    program: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None, limit: float = LIMIT
) -> tuple[float, str]:
    """Runs a program in a fresh process.

    Args:
        program: Python code that prints one line.
        arguments: What it finds in ``sys.argv``.
        environment: Variables besides this process's.
        limit: Seconds it may take.

    Returns:
        Seconds until the line was there, and the line.

    Raises:
        EngineError: If the process fails, dies, prints nothing, or takes longer; with the last line that it said.
    """
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            late = threading.Timer(limit, process.kill)
            late.start()
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                seconds = time.perf_counter() - start
                process.communicate()
            finally:
                late.cancel()
                process.kill()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if time.perf_counter() - start >= limit:
        raise EngineError(f"the process was not done after {limit:g} seconds")
    if process.returncode or not line:
        raise EngineError(said[-1] if said else f"the process ended with status {process.returncode}")
    return seconds, line
