"""Files and folders: opened if they are regular, written whole or not at all, hashed, locked.

All file work of the package goes through here, so that what the operating system refuses is a `FileError` that names
the file and says what to do.
"""

import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from effnet_zoo.errors import FileError, quoted

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TEXT_LIMIT = 16 << 20
"""Bytes of a configuration, a list or another text at most. The class names of ImageNet-21k take 2 MB."""

_CHUNK = 1 << 20
"""Bytes hashed at a time: few enough to stay in the processor's cache, enough that threads seldom wait for Python."""

_ADVICE = {
    errno.ENOENT: "there is no such file or folder",
    errno.EISDIR: "expected a file, found a folder",
    errno.ENOTDIR: "expected a folder, found a file in its path",
    errno.EACCES: "permission denied: change its permissions, or name another place",
    errno.EPERM: "not permitted: change its permissions, or name another place",
    errno.EROFS: "the file system is read-only: name another place",
    errno.ENOSPC: "the disk is full: free some space, or name another place",
    errno.EDQUOT: "the disk quota is used up: free some space, or name another place",
    errno.ENAMETOOLONG: "the name is too long: expected a shorter one",
    errno.EEXIST: "something else has this name already: remove it, or name another place",
    errno.ELOOP: "its symbolic links lead in a circle: name the file itself",
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n`",
}
"""What the usual refusals mean, and what to do."""


@contextmanager
def file_errors(path: str | Path) -> Iterator[None]:
    """Turns an OSError inside the block into a `FileError` that names the file.

    Args:
        path: What to name where the system's error names no file.
    """
    try:
        yield
    except OSError as error:
        raise FileError(explained(error, path)) from error
    except ValueError as error:
        if "null byte" in str(error) or "null character" in str(error):
            raise FileError(f"{path}: a name cannot hold a NUL character") from None
        raise


def explained(error: OSError, path: str | Path) -> str:
    """Returns what an OSError means: the file, the reason, and what to do."""
    # Of a copy or a move, the second name is the one that is written.
    names = (name for name in (error.filename2, error.filename) if isinstance(name, str | os.PathLike))
    place = next(names, path)
    reason = _ADVICE.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return f"{os.fspath(place) or repr('')}: {reason}"


def user_path(text: str, name: str) -> Path:
    """Returns a path with ``~`` replaced by the home folder.

    Args:
        text: The path.
        name: What to call it in errors, such as an environment variable.

    Raises:
        FileError: If the user after ``~`` does not exist.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise FileError(f"{name}={text}: there is no such user: expected a folder") from None


def _check_path(path: object) -> None:
    if not isinstance(path, str | os.PathLike):
        raise FileError(f"{quoted(path)}: expected a path, a text or pathlib.Path")


# reading


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file to read bytes. A FIFO, a socket or a device would hang, or never end, and is refused.

    Raises:
        FileError: If it does not exist, may not be read, or is no regular file.
    """
    _check_path(path)
    with file_errors(path):
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "", path)
            raise FileError(f"{path}: expected a regular file, found a {_kind(mode)}")
        return os.fdopen(descriptor, "rb")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")


def read_bytes(path: str | Path, limit: int = TEXT_LIMIT) -> bytes:
    """Returns the content of a regular file of at most `limit` bytes.

    Raises:
        FileError: If it is larger, cannot be read, or is no regular file.
    """
    with open_regular(path) as file, file_errors(path):
        size = os.fstat(file.fileno()).st_size
        content = b""
        if size <= limit:
            content = file.read(size + 1)  # not the limit: Python takes the memory for as many bytes as it is asked for
            if len(content) > size:  # it grows, or is one of those that say 0, as in /proc
                content += file.read(limit + 1 - len(content))
    if max(size, len(content)) > limit:
        raise FileError(f"{path}: {max(size, len(content))} bytes: expected at most {limit}")
    return content


def read_text(path: str | Path, limit: int = TEXT_LIMIT) -> str:
    """Returns the UTF-8 text of a regular file, without the byte order mark if it has one.

    Raises:
        FileError: If it is not UTF-8, larger than `limit` bytes, cannot be read, or is no regular file.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected UTF-8 text, found the byte {error.object[error.start]:#04x}") from None


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a regular file, in hex.

    Raises:
        FileError: If it cannot be read, or is no regular file.
    """
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK)
    view = memoryview(buffer)
    with open_regular(path) as file, file_errors(path):
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(view[:count])
    return digest.hexdigest()


# writing


def check_destination(path: str | Path) -> Path:
    """Checks that a file or folder can be written at a path, before the work that is to be written there.

    Returns:
        The path without symbolic links: what is written through a link replaces what the link points to.

    Raises:
        FileError: If a part of the path is a file, its folder cannot be written to, or a name is too long.
    """
    _check_path(path)
    if not os.fspath(path) or str(path) == ".":
        raise FileError(f"{quoted(os.fspath(path))}: expected the name of a file or folder to write")
    with file_errors(path):
        place = Path(os.path.realpath(path))
        nearest = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
        if nearest.is_symlink():  # realpath leaves only those that lead in a circle
            raise OSError(errno.ELOOP, "", str(path))
        nearest = nearest.parent if nearest == place else nearest
        if not nearest.is_dir():
            raise FileError(f"{path}: {nearest} is a file: expected a folder")
        longest = os.pathconf(nearest, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        for part in place.relative_to(nearest).parts:
            if (length := len(os.fsencode(part))) > longest:
                raise FileError(f"{path}: a name of {length} bytes: expected at most {longest}")
        try:
            os.rmdir(tempfile.mkdtemp(prefix=TEMPORARY, dir=nearest))  # only trying tells what the system allows
        except OSError as error:
            reason = explained(OSError(error.errno, error.strerror), nearest)
            raise FileError(f"{path}: nothing can be made in {reason}") from error
    return place


TEMPORARY = ".effnet-zoo-"
"""How every temporary name begins: such a file or folder is of no use once no process of this package runs."""


_MOST_WRITERS = 1000
"""Processes that write beside the same path at the same time, at most."""


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which is removed with its content when the block ends.

    It is on the same file system as `path`, so that a file in it can be moved there at once. What a killed process
    left of its own folder is removed when the same `path` is written again.

    Raises:
        FileError: If the folder cannot be made, or `check_destination` refuses the path.
    """
    place = check_destination(path)  # where nothing can be made, no lock can be had either, however often it is tried
    with file_errors(path):
        place.parent.mkdir(parents=True, exist_ok=True)
        # Not the name itself: it may be as long as a name can be.
        mark = hashlib.blake2b(os.fsencode(place.name), digest_size=6).hexdigest()
    for number in range(_MOST_WRITERS):
        folder = place.parent / f"{TEMPORARY}{mark}-{number}"
        with _held(folder.with_suffix(".lock")) as mine:
            if mine:
                with file_errors(path):
                    if folder.exists():
                        shutil.rmtree(folder)
                    folder.mkdir()
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                return
    raise FileError(
        f"{path}: {_MOST_WRITERS} processes are writing it, or its file system has no locks: name another place"
    )


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a path of the same name to write to. The file takes the place of `path` when the block ends.

    If the block raises, nothing changes. A symbolic link stays, and what it points to is replaced.

    Raises:
        FileError: If the system refuses to write or to replace the file.
    """
    with scratch_beside(path) as folder, file_errors(path):
        place = Path(os.path.realpath(path))
        draft = folder / place.name
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())  # else a crash of the machine could leave an empty file of the right name
        draft.replace(place)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all.

    Raises:
        FileError: If the system refuses.
    """
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill. It takes the place of `path` when the block ends.

    If the block raises, nothing changes.

    Raises:
        FileError: If something is at `path` already, other than an empty folder, or the system refuses.
    """
    place = check_destination(path)
    with file_errors(path):
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise FileError(f"{path}: expected a folder that does not exist yet, or is empty: nothing is overwritten")
        if place in (here := Path.cwd(), *here.parents):
            raise FileError(f"{path}: expected a new folder, found the current one or one around it: name another")
    with scratch_beside(path) as folder:
        draft = folder / "draft"
        draft.mkdir()
        yield draft
        with file_errors(path):
            draft.rename(place)  # of an empty folder, rename takes the place


# locks and private folders


_POLL = 0.05
"""Seconds after which a lock that another process holds is tried again."""


@contextmanager
def _held(path: Path, seconds: float = 0) -> Iterator[bool]:
    """Yields whether a lock file got free within some seconds and is held now, until the block or the process ends."""
    until = time.monotonic() + seconds
    with file_errors(path):
        while (descriptor := _locked(path)) is None and time.monotonic() < until:
            time.sleep(_POLL)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            with suppress(OSError):  # while it is held: whoever opened it meanwhile sees that it is gone
                path.unlink()
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Returns a descriptor that holds a lock file, or None if another one does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if sys.platform == "win32":
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # the one who held it removed it before this one was locked: nobody else would see it


@contextmanager
def exclusive(path: Path, seconds: float = 0) -> Iterator[None]:
    """Holds a file or folder for this process alone, by a lock beside it that dies with the process.

    Args:
        path: What to hold.
        seconds: How long to wait if another process, or another thread of this one, holds it.

    Raises:
        FileError: If it is still held after that, or the lock cannot be made.
    """
    with file_errors(path):
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        mark = hashlib.blake2b(os.fsencode(place.name), digest_size=6).hexdigest()
    with _held(place.parent / f"{TEMPORARY}{mark}.lock", seconds) as mine:
        if not mine:
            raise FileError(f"{path}: another process is writing it: wait for its end, or name another file")
        yield


def private_folder(path: Path) -> Path:
    """Makes a folder that only its owner can read and write (mode 0700), or checks the one that exists.

    Raises:
        FileError: If it belongs to another user, others can write to it, or it cannot be made.
    """
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
    if not hasattr(os, "geteuid"):  # Windows: a folder in the user's profile is the user's
        return path
    if found.st_uid != os.geteuid():
        raise FileError(f"{path}: expected a folder of your own, found one of user {found.st_uid}: name another place")
    if found.st_mode & 0o022:
        raise FileError(
            f"{path}: others can write to it (mode {stat.S_IMODE(found.st_mode):04o}), and what lies in it is run: "
            f"expected mode 0700: empty it, then `chmod 700 {path}`"
        )
    return path
