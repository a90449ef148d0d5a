"""Files and folders that are written completely or not at all, and errors that name the file and say what to do.

The package opens, writes, hashes and locks files through this module only. Every refusal is a `FileError`.
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
from io import BufferedReader
from pathlib import Path

from effnet_zoo.errors import FileError, quoted

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TEXT_LIMIT = 16 << 20
"""Largest number of bytes in a text file. The class names of ImageNet-21k take 2 MB."""

TEMPORARY = ".effnet-zoo-"
"""Beginning of every temporary name. No file or folder of this name is needed while no process of this package runs."""

_MOST_WRITERS = 1000
"""Largest number of processes that write beside the same path at the same time."""

_POLL = 0.05
"""Seconds between two attempts to take a lock that another process holds."""

_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}

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
"""For the usual errors of the operating system, what they mean and what to do."""


@contextmanager
def file_errors(path: str | Path) -> Iterator[None]:
    """Turn an OSError inside the block into a `FileError`. It names `path` where the OSError names no file."""
    if not isinstance(path, str | os.PathLike):
        raise FileError(f"{quoted(path)}: expected a path, a text or pathlib.Path")
    try:
        yield
    except OSError as error:
        raise FileError(explained(error, path)) from error
    except ValueError as error:
        if "null byte" in str(error) or "null character" in str(error):
            raise FileError(f"{path}: a name cannot hold a NUL character") from None
        raise


def explained(error: OSError, path: str | Path) -> str:
    """Return the file, the reason of an OSError, and what to do."""
    # A copy or a move has two names: the second one is written.
    names = (name for name in (error.filename2, error.filename) if isinstance(name, str | os.PathLike))
    place = os.fspath(next(names, path))
    reason = _ADVICE.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    folder, name = os.path.split(place)
    if name.startswith(TEMPORARY):
        return f"{path}: nothing can be created in {folder}: {reason}"
    return f"{place or repr('')}: {reason}"


def user_path(text: str, name: str) -> Path:
    """Return a path with ``~`` replaced by the home folder. `name` is the environment variable that holds the path."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise FileError(f"{name}={text}: there is no such user: expected a folder") from None


# reading


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file to read bytes. Refuse FIFOs, sockets and devices, where reading can block or never end."""
    with file_errors(path):
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "", path)
        raise FileError(f"{path}: expected a regular file, found a {_KINDS.get(stat.S_IFMT(mode), 'special file')}")


def read_bytes(path: str | Path, limit: int = TEXT_LIMIT) -> bytes:
    """Return the content of a regular file. Refuse a file of more than `limit` bytes."""
    with open_regular(path) as file, file_errors(path):
        size = os.fstat(file.fileno()).st_size
        content = b""
        if size <= limit:
            content = file.read(size + 1)  # not `limit`: Python allocates as many bytes as it is asked for
            if len(content) > size:  # the file grows, or says that it has 0 bytes, as files in /proc do
                content += file.read(limit + 1 - len(content))
    if max(size, len(content)) > limit:
        raise FileError(f"{path}: {max(size, len(content))} bytes: expected at most {limit}")
    return content


def read_text(path: str | Path, limit: int = TEXT_LIMIT) -> str:
    """Return the text of a regular UTF-8 file, without a byte order mark. Refuse more than `limit` bytes."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected UTF-8 text, found the byte {error.object[error.start]:#04x}") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal digits."""
    with open_regular(path) as file, file_errors(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


# writing


def check_destination(path: str | Path) -> Path:
    """Check that a file or folder can be written at a path, before the work whose result is written there.

    Return the path without symbolic links: writing through a link replaces the target of the link.
    """
    place = _destination(path)
    with file_errors(path):
        existing = next(folder for folder in place.parents if folder.is_dir())
        os.rmdir(tempfile.mkdtemp(prefix=TEMPORARY, dir=existing))  # permissions do not tell: only an attempt does
    return place


def _destination(path: str | Path) -> Path:
    """Return a path without symbolic links, after all checks but the attempt to write."""
    with file_errors(path):
        if os.fspath(path) in ("", "."):
            raise FileError(f"{quoted(os.fspath(path))}: expected the name of a file or folder to write")
        place = Path(os.path.realpath(path))
        nearest = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
        if nearest.is_symlink():  # realpath keeps only links that lead in a circle
            raise OSError(errno.ELOOP, "", str(path))
        nearest = nearest.parent if nearest == place else nearest
        if not nearest.is_dir():
            raise FileError(f"{path}: {nearest} is a file: expected a folder")
        longest = os.pathconf(nearest, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        for part in place.relative_to(nearest).parts:
            if (length := len(os.fsencode(part))) > longest:
                raise FileError(f"{path}: a name of {length} bytes: expected at most {longest}")
    return place


def _beside(place: Path, end: str) -> Path:
    """Return the temporary path that belongs to a path. A name itself may be as long as names can be."""
    return place.parent / f"{TEMPORARY}{hashlib.blake2b(os.fsencode(place.name), digest_size=6).hexdigest()}{end}"


@contextmanager
def scratch_beside(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, and remove it with its content when the block ends.

    The folder is on the file system of `path`: a file in it can be moved there in one step. The folder of a process
    that was killed is removed when the same `path` is written again.
    """
    place = _destination(path)
    with file_errors(path):
        place.parent.mkdir(parents=True, exist_ok=True)
    for number in range(_MOST_WRITERS):
        with _lock(_beside(place, f"-{number}.lock"), path) as held:
            if not held:
                continue
            folder = _beside(place, f"-{number}")
            with file_errors(path):
                if folder.exists():
                    shutil.rmtree(folder)
                folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
    raise FileError(f"{path}: {_MOST_WRITERS} processes write it, or its file system has no locks: name another place")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path of the same name to write to. The file replaces `path` when the block ends.

    If the block raises, nothing changes. If `path` is a symbolic link, the target of the link is replaced.
    """
    with scratch_beside(path) as folder, file_errors(path):
        place = Path(os.path.realpath(path))
        draft = folder / place.name
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a crash of the machine could leave an empty file of the right name
        draft.replace(place)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, completely or not at all."""
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def folder_written_whole(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder to fill. It replaces `path`, if that is empty or not there, when the block ends.

    If the block raises, nothing changes.
    """
    place = _destination(path)
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
            draft.rename(place)  # which replaces an empty folder


# locks and private folders


@contextmanager
def _lock(lock: Path, path: str | Path, seconds: float = 0) -> Iterator[bool]:
    """Try to take a lock file for some seconds. Yield whether it is held, until the block or the process ends."""
    until = time.monotonic() + seconds
    with file_errors(path):
        while (descriptor := _locked(lock)) is None and time.monotonic() < until:
            time.sleep(_POLL)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            with suppress(OSError):  # while it is held: a process that has opened it meanwhile sees that it is gone
                lock.unlink()
            os.close(descriptor)


def _locked(lock: Path) -> int | None:
    """Return a descriptor that holds a lock file, or None if another descriptor holds it."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
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
        os.close(descriptor)  # its holder removed it before this lock was taken: no other process would see this lock


@contextmanager
def exclusive(path: str | Path, seconds: float = 0) -> Iterator[None]:
    """Keep other processes and threads from writing a file or folder, by a lock beside it that ends with this process.

    If another one holds the lock, wait for it for this number of seconds, then raise FileError.
    """
    with file_errors(path):
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
    with _lock(_beside(place, ".lock"), path, seconds) as held:
        if not held:
            raise FileError(f"{path}: another process is writing it: wait for its end, or name another file")
        yield


def private_folder(path: Path) -> Path:
    """Create a folder that only its owner can read and write (mode 0700), or check the one that exists."""
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
    if not hasattr(os, "geteuid"):  # on Windows, a folder in the user's profile is the user's
        return path
    if found.st_uid != os.geteuid():
        raise FileError(f"{path}: expected a folder of your own, found one of user {found.st_uid}: name another place")
    if found.st_mode & 0o022:
        raise FileError(
            f"{path}: others can write to it (mode {stat.S_IMODE(found.st_mode):04o}), and its files are run: "
            f"expected mode 0700: empty it, then `chmod 700 {path}`"
        )
    return path
