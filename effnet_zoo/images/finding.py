"""Find image files: those that paths, folders, globs and lists name, one by one."""

import glob
import hashlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from effnet_zoo.atomic_io import TEMPORARY, file_errors, open_regular
from effnet_zoo.errors import InputError, printable
from effnet_zoo.images.decoding import suffixes

_SLASHES = tuple(filter(None, (os.sep, os.altsep)))

_MOST_REASONS = 20
"""Largest number of reasons that are counted one by one: each skipped file may have a suffix of its own."""

_LONGEST_NAME = 1 << 15
"""Largest number of bytes in a line of a list: more than any system takes as a path. A path may be written as a URI,
three times as long, and Python's csv module reads back 131,072 characters."""

_MOST_LINKS = 4
"""Largest number of links to folders in a path. If folders link to each other, there is no end of longer paths."""


class Skipped(Counter[str]):
    """The number of entries of folders that `find_images` leaves out, by reason."""

    def add(self, reason: str) -> None:
        """Count one more entry."""
        self[reason if reason in self or len(self) < _MOST_REASONS else "of other suffixes"] += 1

    def __str__(self) -> str:
        """Return a line such as "skipped 3 entries of folders: 2 .txt, 1 broken link"."""
        reasons = sorted(self.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
        return printable(f"skipped {self.total()} {'entry' if self.total() == 1 else 'entries'} of folders: {listed}")


def find_images(
    patterns: Sequence[str], from_list: str | None = None, *, skipped: Skipped | None = None
) -> Iterator[Path]:
    """Yield the files that paths, folders, globs and a list name, in this order, each file once.

    Files are looked for while they are drawn. A folder stands for the files in it and in its subfolders whose suffix
    is one of `suffixes`, sorted. Links to folders are followed, except a link to a folder that contains it. A path
    that is named itself is taken whatever its suffix. An entry or a folder that cannot be read is yielded too, so
    that reading it gives the error.

    The list is a text file with one path a line, or ``-`` for standard input. Its paths are yielded unchecked.
    `skipped` counts the entries of folders that are left out. Raise InputError at once if a path or glob matches
    nothing, a folder has no image, or the list cannot be read.
    """
    patterns = list(dict.fromkeys(patterns))
    for pattern in patterns:
        _check(pattern)
    if from_list not in (None, "-"):
        open_regular(from_list).close()
    skipped = Skipped() if skipped is None else skipped
    found = itertools.chain.from_iterable(_expanded(pattern, skipped) for pattern in patterns)
    if from_list is not None:
        found = itertools.chain(found, _listed(from_list))
    unique = from_list is None and len(patterns) == 1 and "**" not in patterns[0]
    return found if unique else _each_once(found)


def _each_once(paths: Iterable[Path]) -> Iterator[Path]:
    seen: set[bytes] = set()
    for path in paths:
        if (key := digest(path_text(path))) not in seen:
            seen.add(key)
            yield path


def _check(pattern: str) -> None:
    skipped = Skipped()
    if os.path.isdir(pattern):
        if next(_walk(Path(pattern), skipped), None) is None:
            left_out = f", {skipped}" if skipped else ""
            raise InputError(f"{pattern}: no image in this folder{left_out}: expected files such as .jpg, .png or .tif")
    elif next(_globbed(pattern, skipped), None) is None:
        if glob.has_magic(pattern) and not os.path.lexists(pattern):  # a file may be named like a glob
            raise InputError(f"{pattern}: there is no such file or folder, and as a glob it matches no file")
        with file_errors(pattern):
            os.lstat(pattern)


def _expanded(pattern: str, skipped: Skipped) -> Iterator[Path]:
    for path in [pattern] if os.path.lexists(pattern) else _globbed(pattern, skipped):
        if os.path.isdir(path):
            yield from _walk(Path(path), skipped)
        else:
            yield Path(path)


def _globbed(pattern: str, skipped: Skipped) -> Iterator[str]:
    """Yield what a glob matches, sorted folder by folder."""
    before, stars, after = pattern.partition("**")
    if not stars or (before and not before.endswith(_SLASHES)) or (after and not after.startswith(_SLASHES)):
        for _, names in itertools.groupby(glob.iglob(pattern), os.path.dirname):
            yield from sorted(names)
        return
    # Python's glob would follow a link to a folder around it 40 times, until the system stops it.
    for root in _globbed(before, skipped) if glob.has_magic(before) else [before or os.curdir]:
        for folder in _folders(root, skipped):
            yield from _globbed(os.path.join(glob.escape(folder), after.lstrip("".join(_SLASHES)) or "*"), skipped)


def _folders(root: str, skipped: Skipped) -> Iterator[str]:
    """Yield a folder and the subfolders at any depth that are not hidden."""
    left = [root]
    while left:
        yield (folder := left.pop())
        try:
            below = [os.path.join(folder, name) for name in sorted(os.listdir(folder), reverse=True) if name[0] != "."]
        except OSError:  # files in it may still be read by their names
            skipped.add("folder that cannot be listed")
            continue
        left += [path for path in below if os.path.isdir(path) and not _why_not_followed(Path(path))]


def _walk(root: Path, skipped: Skipped) -> Iterator[Path]:
    """Yield the images in a folder and its subfolders, sorted. A folder that cannot be listed is yielded itself."""
    left = [(root, ["./"])]  # names are plain text, as there may be a million of them: a folder's ends in a slash
    while left:
        folder, names = left[-1]
        if not names:
            left.pop()
            continue
        name = names.pop()
        with suppress(OSError):
            if name.endswith("/"):
                left.append((folder / name, sorted(_names(folder / name, skipped), reverse=True)))
                continue
        yield folder / name


def _names(folder: Path, skipped: Skipped) -> Iterator[str]:
    """Yield the names of images and folders in a folder, and of entries that cannot be looked at."""
    known = suffixes()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # no permission, or links in a circle: reading it gives the error
                yield entry.name
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if is_folder and not (reason := _why_not_followed(folder / entry.name)):
                yield f"{entry.name}/"
            elif is_folder:
                skipped.add(reason)
            elif suffix in known and (is_file or entry.is_symlink()):
                yield entry.name
            elif is_file:
                skipped.add(suffix or "without a suffix")
            else:
                skipped.add("broken link" if entry.is_symlink() else "FIFO, socket or device")


def _why_not_followed(folder: Path) -> str:
    """Return why a link is not followed, or an empty text if it is followed. Paths would get longer without end."""
    if not folder.is_symlink():
        return ""
    if any(os.path.samefile(folder, outer) for outer in folder.parents):
        return "link to a folder around it"
    if sum(outer.is_symlink() for outer in folder.parents) >= _MOST_LINKS:
        return f"link behind {_MOST_LINKS} others"
    return ""


def _listed(source: str) -> Iterator[Path]:
    # The list is read as bytes: a path may have any bytes but a line end.
    with file_errors(source), sys.stdin.buffer if source == "-" else open_regular(source) as lines:
        while line := lines.readline(_LONGEST_NAME + 1):
            if len(line) > _LONGEST_NAME:
                raise InputError(f"{source}: a line of more than {_LONGEST_NAME} bytes: expected a path a line")
            if name := line.rstrip(b"\r\n"):
                yield Path(os.fsdecode(name))


def path_text(path: Path) -> str:
    """Return a path as text that result files can hold. Different paths give different texts.

    A path that is valid UTF-8 is given as it is, any other as its absolute ``file:`` URI, where the other bytes are
    percent escapes. No path is mistaken for a URI: pathlib turns two slashes into one, so no path has ``file://``.
    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return path.absolute().as_uri()
    return text


def digest(text: str) -> bytes:
    """Return 16 bytes that stand for the text of a path. Remembering a million paths takes some 100 MB."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
