"""Where engines keep what took time: artefacts by the hash of all they were made of, and which backend was fastest.

What lies here is run. The folder is its owner's alone, and each artefact lies beside the SHA-256 of its files, which is
compared before anything reads them. An artefact appears whole and never changes; a wrong one is made again.
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

from effnet_zoo import __version__
from effnet_zoo.atomic_io import (
    check_destination,
    exclusive,
    file_errors,
    folder_written_whole,
    private_folder,
    read_text,
    scratch_beside,
    sha256,
    user_path,
    write_text,
)
from effnet_zoo.checkpoints.cache import HOME
from effnet_zoo.documents import from_json
from effnet_zoo.errors import EffnetZooError, FileError

RECORD = "record.json"
"""What an artefact's folder says of its files."""

WAIT = 3600.0
"""Seconds to wait for another process that makes the same artefact: as long as the slowest may take, see `child`."""

_ABOUT_PROCESSOR = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
    *("isa", "uarch"),
)
"""Lines of Linux' /proc/cpuinfo that name a processor, on x86, ARM and RISC-V; others change, such as its frequency."""


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    files: dict[str, str]


class _Choice(msgspec.Struct):
    backend: str


def folder() -> Path:
    """Returns ``$EFFNET_ZOO_HOME/engines``, or ``effnet-zoo/engines`` in the user's cache folder.

    Raises:
        FileError: If a variable names a user who does not exist.
    """
    if home := os.environ.get(HOME):
        return user_path(home, HOME) / "engines"
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME") / "effnet-zoo" / "engines"


def key(facts: Mapping[str, Any]) -> str:
    """Returns a name for what depends on these facts, and on this package, torch and the processor."""
    everything = {**facts, "effnet_zoo": __version__, "torch": torch.__version__, "processor": processor()}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def processor() -> list[str]:
    """Returns what names this machine's processor: its model and what it can do."""
    lines = []
    with suppress(OSError, UnicodeDecodeError):  # only Linux has the file
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
        lines = [line for line in first.splitlines() if line.partition(":")[0].strip() in _ABOUT_PROCESSOR]
    return [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability(), *lines]


def artefact(name: str, make: Callable[[Path], None]) -> Path:
    """Returns the folder of an artefact, which is made if it is not there, or is not as its record says.

    Of several processes one makes it, and the others wait.

    Args:
        name: Its key.
        make: Writes its files into the empty folder that it is given; they lie in no folder of their own.

    Raises:
        FileError: If others can write to the cache, or the system refuses to write there.
    """
    with _place(name) as place:
        if _is_sound(place):
            return place
        with exclusive(place, WAIT):
            if not _is_sound(place):
                _discard(place)
                with folder_written_whole(place) as draft:
                    make(draft)
                    files = {path.name: sha256(path) for path in draft.iterdir()}
                    (draft / RECORD).write_bytes(msgspec.json.encode(_Record(files)))
        return place


def discard(name: str) -> None:
    """Removes an artefact, if it is there. Who has mapped its files keeps them."""
    with _place(name) as place:
        _discard(place)


def recalled(name: str) -> str | None:
    """Returns the backend that was remembered under a name, if any.

    Raises:
        FileError: If others can write to the cache, or nothing can be remembered there.
    """
    with _place(f"{name}.json") as place:
        if not place.exists():
            check_destination(place)
            return None
        with suppress(EffnetZooError):  # damaged: it is measured again
            return from_json(read_text(place), _Choice, str(place), FileError).backend
    return None


def remember(name: str, backend: str, seconds: Mapping[str, float]) -> None:
    """Notes which backend was fastest, and how long a batch took in each.

    Raises:
        FileError: If the system refuses.
    """
    with _place(f"{name}.json") as place:
        write_text(place, json.dumps({"backend": backend, "seconds": dict(seconds)}, indent=1) + "\n")


@contextmanager
def _place(name: str) -> Iterator[Path]:
    try:
        yield private_folder(folder()) / name
    except FileError as error:
        raise FileError(
            f"the cache of engines: {error}; {HOME} names another folder, and engine(backend='eager') needs none"
        ) from error


def _discard(place: Path) -> None:
    with scratch_beside(place) as beside, file_errors(place), suppress(FileNotFoundError):
        place.rename(beside / "discarded")


def _is_sound(place: Path) -> bool:
    """Whether an artefact's folder holds the files of its record, and no others."""
    with suppress(EffnetZooError, OSError):
        if place.is_symlink():
            return False
        record = from_json(read_text(place / RECORD), _Record, str(place), FileError)
        found = {entry.name: entry.is_file(follow_symlinks=False) for entry in os.scandir(place)}
        return (
            all(found.values())
            and found.keys() == {RECORD, *record.files}
            and all(sha256(place / name) == digest for name, digest in record.files.items())
        )
    return False
