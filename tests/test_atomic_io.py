"""Files that appear whole or not at all, and refusals of the operating system in words."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effnet_zoo.atomic_io import (
    check_destination,
    exclusive,
    file_errors,
    folder_written_whole,
    open_regular,
    private_folder,
    read_bytes,
    read_text,
    scratch_beside,
    sha256,
    user_path,
    write_text,
    written_whole,
)
from effnet_zoo.errors import FileError, InputError

LONG = "n" * 250


def test_a_file_appears_when_the_block_ends_and_nothing_is_left_beside(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "out.txt"
    with written_whole(path) as draft:
        draft.write_text("whole")
        assert draft.name == path.name
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_writing_needs_no_attempt_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: pytest.fail("a folder was made only to see whether it can be"))
    write_text(tmp_path / "out.txt", "text")
    with folder_written_whole(tmp_path / "folder") as draft:
        (draft / "file").write_text("")
    assert {path.name for path in tmp_path.iterdir()} == {"out.txt", "folder"}


def test_a_block_that_raises_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("before")
    with pytest.raises(LookupError), written_whole(path) as draft:  # noqa: PT012  # it is the block that is tested
        draft.write_text("half")
        raise LookupError
    with pytest.raises(FileError, match="no such file"), written_whole(path):
        pass  # nothing was written
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_a_name_can_be_is_written(tmp_path: Path) -> None:
    for name in (LONG, "ä" * 125):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"
    (tmp_path / "dangling").symlink_to("elsewhere/new")
    write_text(tmp_path / "dangling", "new")
    assert (tmp_path / "elsewhere" / "new").read_text() == "new"


def test_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    with scratch_beside(tmp_path / "out") as first, scratch_beside(tmp_path / "out") as second:
        assert first != second
        (first / "mine").write_text("")
        assert not list(second.iterdir())
    assert not list(tmp_path.iterdir())


def test_many_threads_write_one_file_whole(tmp_path: Path) -> None:
    path, errors = tmp_path / "out", []
    texts = [str(number) * 10_000 for number in range(8)]

    def write(text: str) -> None:
        try:
            for _ in range(5):
                write_text(path, text)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


WRITES_AND_WAITS = """
import sys, time
from pathlib import Path
import _effnet_zoo_command  # as the command, which imports no torch
from effnet_zoo import atomic_io
with getattr(atomic_io, sys.argv[1])(Path(sys.argv[2])) as draft:
    if draft is not None and draft.is_dir():
        (draft / "half").write_text("half")
    print("in it", flush=True)
    time.sleep(60)
"""


def start(what: str, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITES_AND_WAITS, what, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in it\n"
    return process


def test_what_a_killed_process_left_goes_when_the_same_name_is_written_again(tmp_path: Path) -> None:
    killed = start("folder_written_whole", tmp_path / "out")
    alive = start("folder_written_whole", tmp_path / "out")
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.glob(".effnet-zoo-*"))) == 4
    try:
        with folder_written_whole(tmp_path / "out") as draft:
            assert not list(draft.iterdir())
            (draft / "whole").write_text("whole")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]
        left = sorted(path.name for path in tmp_path.glob(".effnet-zoo-*"))
        assert [name.rpartition("-")[2] for name in left] == ["1", "1.lock"], "those of the process that lives"
    finally:
        alive.kill()
        alive.communicate()


def test_one_writer_at_a_time_and_its_lock_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / LONG
    other = start("exclusive", path)
    with pytest.raises(FileError, match="another process is writing it: wait"), exclusive(path):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    with exclusive(path), pytest.raises(FileError, match="another process"), exclusive(path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with folder_written_whole(tmp_path / "empty") as draft:
        (draft / "file").write_text("")
    for taken in (tmp_path / "empty", tmp_path / "empty" / "file"):
        with pytest.raises(FileError, match="nothing is overwritten"), folder_written_whole(taken):
            pytest.fail("not before the work")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", str(tmp_path)):
        with (
            pytest.raises(FileError, match="the current one|expected the name of a file or folder"),
            folder_written_whole(Path(name)),
        ):
            pytest.fail("not before the work")
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "file" / "sub" / "out", "is a file: expected a folder"),
        (lambda folder: folder / ("n" * 256), "a name of 256 bytes: expected at most 255"),
        (lambda folder: folder / "new" / ("ä" * 128), "a name of 256 bytes: expected at most 255"),
        (lambda folder: folder / "loop" / "out", "symbolic links lead in a circle"),
        (lambda folder: folder / "loop", "symbolic links lead in a circle"),
        (lambda folder: folder / "a\0b", "NUL"),
        (lambda _: "", "expected the name of a file or folder"),
        (lambda _: ".", "expected the name of a file or folder"),
        (lambda _: Path(), "expected the name of a file or folder"),
        (lambda _: "/proc/1/nosuch/out", "/proc/1"),
    ],
    ids=[
        "under a file",
        "long",
        "long in bytes",
        "loop",
        "in a loop",
        "NUL",
        "empty",
        "dot",
        "empty path",
        "no permission",
    ],
)
def test_a_destination_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, make: Callable[[Path], str | Path], expected: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileError, match=expected):
        check_destination(make(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_destination_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    assert check_destination(tmp_path / "link") == tmp_path / "real"
    assert check_destination(str(tmp_path / "a" / "b" / LONG)) == tmp_path / "a" / "b" / LONG
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("write", [folder_written_whole, written_whole])
def test_where_no_file_can_be_made_is_refused_and_not_tried_for_ever(tmp_path: Path, write: Any) -> None:
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "below", tmp_path / ("x" * 300), Path()]
    places += [Path("/proc/out")] if Path("/proc").is_dir() else []
    for place in places:
        with pytest.raises(FileError), write(place):
            pytest.fail("the work began")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_names_the_file_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "out"

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(FileError, match=rf"^{re.escape(str(path))}: .*(free|name) ") as caught:
            write_text(path, "text")
    assert isinstance(caught.value, InputError)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileError, match=f"^where: {os.strerror(errno.EBADF)}"), file_errors("where"):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@pytest.fixture
def special(tmp_path: Path) -> dict[str, Path]:
    """Paths that are no regular files, by what they are."""
    os.mkfifo(tmp_path / "fifo")
    # The name of a socket has a hundred bytes at most.
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(tmp_path)
        try:
            server.bind("socket")
        finally:
            os.chdir(before)
    return {"FIFO": tmp_path / "fifo", "device": Path("/dev/zero"), "folder": tmp_path, "socket": tmp_path / "socket"}


@pytest.mark.parametrize("read", [open_regular, read_bytes, read_text, sha256])
@pytest.mark.parametrize("kind", ["FIFO", "device", "folder", "socket"])
def test_only_regular_files_are_opened_and_nothing_hangs(
    special: dict[str, Path], kind: str, read: Callable[[Path], object]
) -> None:
    start = time.monotonic()
    # Linux itself refuses to open a socket.
    with pytest.raises(FileError, match=rf"expected a regular file, found a {kind}|found a folder|No such device"):
        read(special[kind])
    assert time.monotonic() - start < 5


def test_a_file_larger_than_its_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a file with a hole, which takes no room
    with pytest.raises(FileError, match=r"1099511627776 bytes: expected at most 16777216"):
        read_text(path)
    with pytest.raises(FileError, match="expected at most 4"):
        read_bytes(Path("/proc/self/status"), 4)  # it says that it has 0 bytes


def test_text_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("\ufeffä".encode())
    assert read_text(tmp_path / "text") == "ä"
    (tmp_path / "text").write_bytes(b"ab\xe4")
    with pytest.raises(FileError, match="expected UTF-8 text, found the byte 0xe4"):
        read_text(tmp_path / "text")


def test_a_private_folder_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "private"
    before = os.umask(0)
    try:
        assert private_folder(path) == path
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o700
    assert private_folder(path) == path
    for mode in (0o720, 0o702, 0o777):
        path.chmod(mode)
        with pytest.raises(FileError, match=rf"others can write to it.*`chmod 700 {re.escape(str(path))}`"):
            private_folder(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="something else has this name already"):
        private_folder(tmp_path / "file")


def test_a_private_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = private_folder(tmp_path / "theirs")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(FileError, match="expected a folder of your own"):
        private_folder(path)


def test_a_home_that_does_not_exist_is_named() -> None:
    assert user_path("~/x", "NAME") == Path.home() / "x"
    with pytest.raises(FileError, match=r"^EFFNET_ZOO_HOME=~nosuchuser/x: there is no such user"):
        user_path("~nosuchuser/x", "EFFNET_ZOO_HOME")
