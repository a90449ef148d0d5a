"""Files written whole or not at all, and hashed."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effnet_zoo.errors import InputError

_CHUNK = 1 << 20
"""Bytes hashed at a time: few enough to stay in the processor's cache, enough that threads seldom wait for Python."""


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes its place when the block ends, and is removed if it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which is removed with all that is left in it when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    beside.mkdir()
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill; it takes its place when the block ends, and is removed if it raises.

    Raises:
        InputError: If there is something at `path` already, other than an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: expected a folder that does not exist yet, or is empty: nothing is overwritten")
    with folder_beside(path) as beside:
        yield beside
        if path.exists():
            path.rmdir()
        beside.rename(path)
