"""Image files, found one by one and read ahead by worker threads, so that memory does not depend on how many there are.

Reading gives what `eval_transform` sees before it normalises, within one grey level: torchvision's JPEG decoder gives
Pillow's pixels, and torch's uint8 resize is Pillow's, several times faster, but for ties that it rounds the other way.
Threads suffice, because both run without the interpreter's lock.
"""

import glob
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode
from torchvision.transforms.functional import center_crop, pil_to_tensor, to_pil_image

from effnet_zoo.atomic_io import TEMPORARY, file_errors, open_regular, read_bytes
from effnet_zoo.errors import FileError, InputError, printable
from effnet_zoo.images.paths import digest, path_text
from effnet_zoo.images.transform import (
    LARGEST_FILE,
    LARGEST_RESIZED,
    as_rgb,
    open_image,
    opened,
    orientation_of,
    reading,
    resized,
    resized_size,
    suffixes,
)
from effnet_zoo.zoo.preprocessing import Preprocessing

_SLASHES = tuple(filter(None, (os.sep, os.altsep)))

_MOST_REASONS = 20
"""Kinds of skipped entries that are told apart."""

_LONGEST_NAME = 1 << 15
"""Bytes of a line of a list at most: more than any system takes as a path. As a URI it may be three times as long, and
Python's csv reads back 131,072 characters."""

_EXACT_REDUCTION = 3
"""How much smaller, at least, each side becomes where torch resizes. Two ties rounded the other way, one in each pass,
make two grey levels where a source pixel weighs much; here it weighs a third, and that many ties do not meet."""


@dataclass
class Skipped:
    """Counts what `find_images` leaves out of folders.

    Attributes:
        counts: How many entries were left out, for each reason.
    """

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str) -> None:
        """Counts one more entry."""
        if reason not in self.counts and len(self.counts) >= _MOST_REASONS:  # each file may have its own suffix
            reason = "of other suffixes"
        self.counts[reason] = self.counts.get(reason, 0) + 1

    @property
    def total(self) -> int:
        """Entries left out, for all reasons."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        """Returns a line such as "skipped 3 entries of folders: 2 .txt, 1 broken link"."""
        reasons = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none"
        return printable(f"skipped {self.total} {'entry' if self.total == 1 else 'entries'} of folders: {listed}")


def find_images(
    patterns: Sequence[str], from_list: str | None = None, *, skipped: Skipped | None = None
) -> Iterator[Path]:
    """Yields the files that paths, folders, globs and a list name, in this order, found as they are drawn.

    A folder stands for the files in it and below whose suffix is one of `preprocess.suffixes`, sorted. Links to
    folders are followed, unless they lead to a folder that is around them. A path that is named itself is taken
    whatever its suffix. Each path comes once: where one could come twice, the `digest` of each is remembered.

    An entry that cannot be looked at, and a folder that cannot be listed, comes itself, so that reading it says why.

    Args:
        patterns: Paths, folders or globs.
        from_list: A text file with a path a line, ``-`` for standard input. What it names is not looked at.
        skipped: Counts, while files are drawn, what is left out of folders.

    Raises:
        InputError: At once, if a path or glob matches nothing, a folder holds no image, or there is no such list.
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
            left_out = f", {skipped}" if skipped.total else ""
            raise InputError(f"{pattern}: no image in this folder{left_out}: expected files such as .jpg, .png or .tif")
        return
    try:
        with file_errors(pattern):
            os.lstat(pattern)
    except FileError as error:
        if next(_globbed(pattern, skipped), None) is not None:
            return
        if isinstance(error.__cause__, FileNotFoundError):
            raise InputError(f"{pattern}: there is no such file or folder, and as a glob it matches none") from None
        raise


def _expanded(pattern: str, skipped: Skipped) -> Iterator[Path]:
    for name in [pattern] if os.path.lexists(pattern) else _globbed(pattern, skipped):
        path = Path(name)
        if os.path.isdir(path):
            yield from _walk(path, skipped)
        else:
            yield path


def _globbed(pattern: str, skipped: Skipped) -> Iterator[str]:
    """Yields what a glob matches, sorted folder by folder."""
    before, stars, after = pattern.partition("**")
    if not stars or (before and not before.endswith(_SLASHES)) or (after and not after.startswith(_SLASHES)):
        for _, names in itertools.groupby(glob.iglob(pattern), os.path.dirname):
            yield from sorted(names)
        return
    # Left to itself, glob follows links that lead back until the system stops it, 40 times over for each of them.
    for root in _globbed(before, skipped) if glob.has_magic(before) else [before or os.curdir]:
        for folder in _folders(root, skipped):
            yield from _globbed(os.path.join(glob.escape(folder), after.lstrip("".join(_SLASHES)) or "*"), skipped)


def _folders(root: str, skipped: Skipped) -> Iterator[str]:
    """Yields a folder and those below that are not hidden."""
    left = [root]
    while left:
        yield (folder := left.pop())
        try:
            below = [os.path.join(folder, name) for name in sorted(os.listdir(folder), reverse=True) if name[0] != "."]
        except OSError:
            skipped.add("folder that cannot be listed")
            continue
        left += [path for path in below if os.path.isdir(path) and not _why_not_followed(Path(path))]


def _walk(root: Path, skipped: Skipped) -> Iterator[Path]:
    """Yields the images in a folder and in those below, sorted. A folder that cannot be listed comes itself."""
    # Names are plain strings, as there may be a million: a folder's ends in a slash.
    levels: list[tuple[Path, list[str]]] = []
    folder: Path | None = root
    while folder or levels:
        if folder:
            try:
                levels.append((folder, sorted(_names(folder, skipped), reverse=True)))
            except OSError:
                yield folder
            folder = None
        while levels and not levels[-1][1]:
            levels.pop()
        if levels:
            inside, names = levels[-1]
            name = names.pop()
            if name.endswith("/"):
                folder = inside / name
            else:
                yield inside / name


def _names(folder: Path, skipped: Skipped) -> Iterator[str]:
    """Yields the names of the images and folders in a folder, and of what cannot be looked at."""
    known = suffixes()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # it may not be looked at, or its links lead in a circle: reading it says which
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


_MOST_LINKS = 4
"""Links in a path at most. Folders that link to each other lie in each other in ever more ways the deeper one looks."""


def _why_not_followed(folder: Path) -> str:
    """Returns why a folder is not looked into: following it would never end. Empty if it is."""
    if not folder.is_symlink():
        return ""
    if any(os.path.samefile(folder, outer) for outer in folder.parents):
        return "link to a folder around it"
    if sum(outer.is_symlink() for outer in folder.parents) >= _MOST_LINKS:
        return f"link behind {_MOST_LINKS} others"
    return ""


def _listed(source: str) -> Iterator[Path]:
    # A name may be any bytes but a line end, as the operating system gives them.
    with file_errors(source), sys.stdin.buffer if source == "-" else open_regular(source) as lines:
        while line := lines.readline(_LONGEST_NAME + 1):
            if len(line) > _LONGEST_NAME:
                raise InputError(f"{source}: a line of more than {_LONGEST_NAME} bytes: expected a path a line")
            if name := line.rstrip(b"\r\n"):
                yield Path(os.fsdecode(name))


@dataclass(frozen=True)
class Reader:
    """Reads a file to the pixels that the model shall see, before they are normalised.

    Args:
        how: The checkpoint's preprocessing, of 1 or 3 channels.
        orientation: Whether images are turned as their EXIF orientation says.
    """

    how: Preprocessing
    orientation: bool = field(default=True, kw_only=True)

    def __call__(self, path: Path) -> Tensor:
        """Returns the image as uint8 (channels, height, width), channels last in memory, of the preprocessing's size.

        Raises:
            InputError: If it is missing, unreadable, too large, or not an image.
        """
        with reading(path):
            data = read_bytes(path, LARGEST_FILE)
            with opened(data) as image:
                pixels = self._decoded(image, data)
                if pixels is None:
                    pixels = pil_to_tensor(resized(as_rgb(image, orientation=self.orientation), self.how))
            if len(self.how.mean) == 1:
                pixels = pil_to_tensor(to_pil_image(pixels).convert("L"))
            # A copy, as the rest of the image would stay with a view; numpy's, as torch would start threads for it.
            cropped = numpy.array(pixels.permute(1, 2, 0).numpy(), order="C")
        return torch.from_numpy(cropped).permute(2, 0, 1)

    def _decoded(self, image: Image.Image, data: bytes) -> Tensor | None:
        """Returns a large JPEG's pixels, resized and cropped by torch; None where Pillow must: see `_EXACT_REDUCTION`.

        Pillow must read CMYK, other formats, and broken files too, of which it says what is wrong.
        """
        # torchvision's operator itself: its wrapper warns at each call that it will be gone. Then Pillow decodes.
        operator = getattr(torch.ops.image, "decode_jpeg", None)
        if operator is None or image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
            return None
        orientation = orientation_of(image) if self.orientation else 1
        lies = orientation >= 5  # on its side
        size = resized_size(self.how, *(image.size if lies else image.size[::-1]))
        height, width = size[::-1] if lies else size
        if self.how.interpolation == "nearest" or min(image.height / height, image.width / width) < _EXACT_REDUCTION:
            return None
        try:
            pixels = operator(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB.value, False)
        except RuntimeError:
            return None
        # Turned last, as it is then small. What is across first in the upright image is down first in one on its side.
        for step in ((height, image.width), (height, width)) if lies else ((height, width),):
            pixels = F.interpolate(pixels[None], step, mode=self.how.interpolation, antialias=True)[0]
        if lies:
            pixels = pixels.transpose(1, 2)
        return center_crop(pixels.flip(_FLIPPED[orientation]), list(self.how.size))


_FLIPPED = {1: (), 2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}
"""Dimensions to flip for an EXIF orientation, after height and width are exchanged for 5 to 8."""


def read_whole(path: Path, how: Preprocessing, *, orientation: bool = True) -> Tensor:
    """Returns a file's pixels as they are, uint8 (3, height, width), for a model that resizes them itself.

    Args:
        path: A regular file.
        how: What the model does with them.
        orientation: Whether the image is turned as its EXIF orientation says.

    Raises:
        InputError: If it is missing, unreadable, too large as it is or once it is resized, or not an image.
    """
    image = open_image(path, orientation=orientation)
    height, width = resized_size(how, image.height, image.width)
    if width * max(height, image.height) > LARGEST_RESIZED:
        raise InputError(
            f"{path}: an image of {image.width}x{image.height} pixels, which this model would resize to "
            f"{width}x{height}: expected at most {LARGEST_RESIZED} pixels then: crop it first"
        )
    return pil_to_tensor(image)


def read_ahead(
    paths: Iterable[Path], read: Callable[[Path], Tensor], *, workers: int, ahead: int
) -> Iterator[tuple[Path, Tensor | InputError]]:
    """Each path with what `read` gives or raises, in order, while threads read the next ones.

    No more than `ahead` paths are drawn before they are asked for, so memory does not depend on how many there are.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="effnet_zoo-read")
    pending: deque[tuple[Path, Future[Tensor]]] = deque()

    def oldest() -> tuple[Path, Tensor | InputError]:
        path, future = pending.popleft()
        try:
            return path, future.result()
        except InputError as error:
            return path, error

    try:
        for path in paths:
            pending.append((path, pool.submit(read, path)))
            if len(pending) > ahead:
                yield oldest()
        while pending:
            yield oldest()
    finally:
        pool.shutdown(cancel_futures=True)
