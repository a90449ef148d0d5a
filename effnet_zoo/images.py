"""Image files, found one by one and read ahead by worker threads, so that memory does not depend on how many there are.

Reading gives what `eval_transform` sees before it normalises, within one grey level: torchvision's JPEG decoder gives
Pillow's pixels, and torch's uint8 resize is Pillow's, several times faster, but for ties that it rounds the other way.
Threads suffice, because both run without the interpreter's lock.
"""

import glob
import io
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, pil_to_tensor
from torchvision.transforms.functional import resize as resize_image

from effnet_zoo.errors import InputError
from effnet_zoo.ledger import Preprocessing
from effnet_zoo.paths import digest, path_text
from effnet_zoo.preprocess import open_image, reading, resized_size

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

_EXACT_REDUCTION = 3
"""How much smaller, at least, each side becomes where torch resizes. Two ties rounded the other way, one in each pass,
make two grey levels where a source pixel weighs much; here it weighs a third, and that many ties do not meet."""


def find_images(patterns: Sequence[str], from_list: str | None = None) -> Iterator[Path]:
    """The files that paths, folders, globs and a list name, in this order, found as they are drawn.

    A folder stands for the image files in it and below, told by their suffix, sorted; a file is taken whatever its
    suffix. Each file comes once: where one could come twice, the `digest` of each is remembered. A folder below that
    cannot be listed comes itself, so that reading it says why.

    Args:
        patterns: Paths, folders or globs.
        from_list: A text file with a path a line, ``-`` for standard input. What it names is not looked at.

    Raises:
        InputError: At once, if a path or glob matches nothing, a folder holds no image, or there is no such list.
    """
    patterns = list(dict.fromkeys(patterns))
    for pattern in patterns:
        _check(pattern)
    if from_list not in (None, "-") and not os.path.isfile(from_list):
        raise InputError(f"{from_list}: there is no such list: expected a text file with a path a line, or - for stdin")
    found = itertools.chain.from_iterable(map(_expanded, patterns))
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
    literal = Path(pattern)
    if literal.is_dir():
        if next(_walk(literal), None) is None:
            raise InputError(f"{literal}: no image in this folder: expected {', '.join(SUFFIXES)}")
    elif not literal.exists() and next(glob.iglob(pattern, recursive=True), None) is None:
        raise InputError(f"{pattern}: there is no such file or folder, and as a glob it matches none")


def _expanded(pattern: str) -> Iterator[Path]:
    literal = Path(pattern)
    if literal.exists():
        yield from _walk(literal) if literal.is_dir() else [literal]
        return
    # A glob comes folder by folder, each in no order.
    for _, names in itertools.groupby(glob.iglob(pattern, recursive=True), os.path.dirname):
        for path in map(Path, sorted(names)):
            yield from _walk(path) if path.is_dir() else [path]


def _walk(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            # Plain strings, as there may be a million: a folder's ends in a slash.
            names = [
                f"{entry.name}/" if is_folder else entry.name
                for entry in entries
                if (is_folder := entry.is_dir(follow_symlinks=False))
                or (entry.name.lower().endswith(SUFFIXES) and entry.is_file())
            ]
    except OSError:
        yield folder
        return
    names.sort(reverse=True)
    while names:
        name = names.pop()
        if name.endswith("/"):
            yield from _walk(folder / name)
        else:
            yield folder / name


def _listed(source: str) -> Iterator[Path]:
    # A name may be any bytes but a line end, as the operating system gives them.
    lines = sys.stdin.buffer if source == "-" else open(source, "rb")  # noqa: SIM115
    with lines:
        for line in lines:
            if name := line.rstrip(b"\r\n"):
                yield Path(os.fsdecode(name))


@dataclass(frozen=True)
class Reader:
    """Reads a file to the pixels that the model shall see, before they are normalised."""

    how: Preprocessing

    def __call__(self, path: Path) -> Tensor:
        """The image as uint8 (3, height, width), channels last in memory, of the preprocessing's size.

        Raises:
            InputError: If it is missing, unreadable, or not an image.
        """
        with reading(path):
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                pixels = self._resized(image, data)
        # A copy, as the rest of the image would stay with a view; numpy's, as torch would start threads for it.
        cropped = center_crop(pixels, list(self.how.size)).permute(1, 2, 0)
        return torch.from_numpy(numpy.array(cropped.numpy(), order="C")).permute(2, 0, 1)

    def _resized(self, image: Image.Image, data: bytes) -> Tensor:
        size = resized_size(self.how, image.height, image.width)
        mode = InterpolationMode(self.how.interpolation)
        reduction = min(image.height / size[0], image.width / size[1])
        if mode is InterpolationMode.NEAREST or reduction < _EXACT_REDUCTION:
            return pil_to_tensor(resize_image(image.convert("RGB"), list(size), mode))
        pixels = _decoded(image, data)
        if pixels is None:
            pixels = pil_to_tensor(image.convert("RGB"))
        return F.interpolate(pixels[None], size, mode=mode.value, antialias=True)[0]


def read_whole(path: Path) -> Tensor:
    """A file's pixels as they are, uint8 (3, height, width).

    Raises:
        InputError: If it is missing, unreadable, or not an image.
    """
    return pil_to_tensor(open_image(path))


def _decoded(image: Image.Image, data: bytes) -> Tensor | None:
    """Pixels of a JPEG as Pillow gives them, or None if Pillow itself must: CMYK, other formats, broken files."""
    # torchvision's operator itself: its wrapper warns at each call that it will be gone one day. Then Pillow decodes.
    operator = getattr(torch.ops.image, "decode_jpeg", None)
    if operator is None or image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return None
    try:
        return operator(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB.value, False)
    except RuntimeError:
        return None


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
