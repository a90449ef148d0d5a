"""Keep the files of engines in a cache, by the hash of everything that they were made of.

These files are run. Only their owner can write to the cache. Each folder has the SHA-256 of its files, which are
compared before anything reads the files. A folder appears whole and never changes; a wrong one is made again.
"""

import functools
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import torch

from effnet_zoo import __version__, atomic_io
from effnet_zoo.checkpoints.cache import HOME
from effnet_zoo.documents import from_json
from effnet_zoo.errors import EffnetZooError, FileError

HASHES = "record.json"
"""The file that has the hashes of the other files in its folder."""

ADVICE = f"{HOME} names another folder, and engine(backend='eager') needs none"

WAIT = 3600.0
"""Seconds to wait for another process that makes the same files: as long as the slowest may take, see `child`."""

_ABOUT_PROCESSOR = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
    *("isa", "uarch"),
)
"""Lines of Linux' /proc/cpuinfo that name a processor, on x86, ARM and RISC-V; others change, such as its frequency."""


class _Hashes(msgspec.Struct, forbid_unknown_fields=True):
    files: dict[str, str]


def cache_key(ingredients: Mapping[str, Any]) -> str:
    """Return a hash of JSON values, and of the versions of this package and torch, and of the processor."""
    everything = {**ingredients, "effnet_zoo": __version__, "torch": torch.__version__, "processor": processor()}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def processor() -> list[str]:
    """Return the texts that name this machine's processor, its model and what it can do."""
    lines = []
    with suppress(OSError, UnicodeDecodeError):  # only Linux has the file
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
        lines = [line for line in first.splitlines() if line.partition(":")[0].strip() in _ABOUT_PROCESSOR]
    return [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability(), *lines]


def cached_files(key: str, write: Callable[[Path], None]) -> Path:
    """Return the folder of a key, and first make it if it is not there or its files do not have their hashes.

    One of several processes makes it, and the others wait. `write` gets an empty folder, and writes files into it.
    Raise FileError if other users can write to the cache, or the system refuses to write there.
    """
    with _place_of(key) as place:
        if _is_sound(place):
            return place
        with atomic_io.exclusive(place, WAIT):
            if not _is_sound(place):
                _discard(place)
                with atomic_io.folder_written_whole(place) as draft:
                    write(draft)
                    hashes = {path.name: atomic_io.sha256(path) for path in draft.iterdir()}
                    with atomic_io.file_errors(place):
                        (draft / HASHES).write_bytes(msgspec.json.encode(_Hashes(hashes)))
        return place


def discard_files(key: str) -> None:
    """Remove the folder of a key, if it exists. A process that has mapped its files keeps them."""
    with _place_of(key) as place:
        _discard(place)


@contextmanager
def _place_of(name: str) -> Iterator[Path]:
    """Yield a path in ``$EFFNET_ZOO_HOME/engines``, or in ``effnet-zoo/engines`` in the user's cache folder."""
    try:
        if home := os.environ.get(HOME):
            folder = atomic_io.user_path(home, HOME)
        else:
            cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
            folder = atomic_io.user_path(cache, "XDG_CACHE_HOME") / "effnet-zoo"
        yield atomic_io.private_folder(folder / "engines") / name
    except FileError as error:
        if ADVICE in str(error):  # an engine was made while its folder was
            raise
        raise FileError(f"the cache of engines: {error}; {ADVICE}") from error


def _discard(place: Path) -> None:
    with atomic_io.scratch_beside(place) as beside, atomic_io.file_errors(place), suppress(FileNotFoundError):
        place.rename(beside / "discarded")


def _is_sound(place: Path) -> bool:
    """Return whether a folder holds the files whose hashes it has, and no others."""
    with suppress(EffnetZooError, OSError):
        if place.is_symlink():
            return False
        hashes = from_json(atomic_io.read_text(place / HASHES), _Hashes, str(place), FileError).files
        found = {entry.name: entry.is_file(follow_symlinks=False) for entry in os.scandir(place)}
        return (
            all(found.values())
            and found.keys() == {HASHES, *hashes}
            and all(atomic_io.sha256(place / name) == digest for name, digest in hashes.items())
        )
    return False
