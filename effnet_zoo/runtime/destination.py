"""Where an exported file goes: checked before the work, held while it lasts, and filled in one step at its end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effnet_zoo.atomic_io import check_destination, exclusive, file_errors, scratch_beside
from effnet_zoo.errors import ArgumentError, InputError, quoted
from effnet_zoo.runtime.targets.target import FileTarget


def checked_path(path: str | Path, target: FileTarget, *, force: bool) -> Path:
    """Check that a file of a target can be written at a path, and return the path.

    Raises:
        ArgumentError: If it is no path.
        InputError: If there is a file already and `force` is false, the suffix is another, or nothing can be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"path={quoted(path)}: expected a path")
    place = Path(path)
    if place.suffix != target.suffix:
        raise InputError(f"{place}: expected a name that ends in {target.suffix}, for format {target.format}")
    if target.companions and place.is_symlink():
        raise InputError(
            f"{place}: a symbolic link, and {target.format} writes files that lie side by side: name the file itself"
        )
    for suffix in (target.suffix, *target.companions):
        taken = place.with_suffix(suffix)
        check_destination(taken)
        if taken.is_dir() or (taken.exists() and not force):
            raise InputError(f"{taken}: there is something already: name another, or replace a file with --force")
    return place


@contextmanager
def destination(path: Path, target: FileTarget, *, force: bool) -> Iterator[Path]:
    """Hold a path for this process alone, and yield an empty folder beside it.

    Raises:
        InputError: If another process writes it, or has written it meanwhile, or the system refuses.
    """
    with exclusive(path), scratch_beside(path) as scratch, file_errors(path):
        checked_path(path, target, force=force)
        yield scratch


def move_into_place(draft: Path, path: Path, target: FileTarget) -> int:
    """Move a file, and the files that belong to it, to a destination, and return how many bytes they have."""
    files = [draft.with_suffix(suffix) for suffix in (*target.companions, target.suffix)]
    total = 0
    for file in files:
        with file.open("rb") as content:
            os.fsync(content.fileno())  # else a crash of the machine could leave an empty file of the right name
            total += os.fstat(content.fileno()).st_size
    if target.companions:
        path.unlink(missing_ok=True)  # an old graph must not be found beside new weights
    for file in files:  # the one that people open comes last
        file.replace(os.path.realpath(path.with_suffix(file.suffix)))
    return total
