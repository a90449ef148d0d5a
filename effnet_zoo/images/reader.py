"""Read image files to pixels, one by one or ahead by threads: decoding and resizing release the interpreter's lock."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy

from effnet_zoo.errors import InputError
from effnet_zoo.images.decoding import decoded, open_image, opened
from effnet_zoo.images.transform import LARGEST_RESIZED, Pixels, resized, resized_by_torch, resized_size
from effnet_zoo.zoo.preprocessing import Preprocessing

Resizer = Literal["torch", "pillow"]


def read_image(path: Path, how: Preprocessing, *, orientation: bool = True, resize: Resizer = "torch") -> Pixels:
    """Return the pixels of a file that `eval_transform` normalises, within one grey level, uint8 (*size, channels).

    Args:
        path: A regular file. InputError is raised if it is missing, unreadable, too large, or not an image.
        how: The checkpoint's preprocessing, of 1 or 3 channels.
        orientation: Whether the image is turned as its EXIF orientation says.
        resize: ``torch`` makes large images small several times faster than Pillow does. ``pillow`` gives the very
            pixels of `eval_transform`, and does not import torch, which takes more than a second.
    """
    with opened(path) as image:
        rgb, turn = decoded(image, orientation=orientation)
        small = resized_by_torch(rgb, how, turn) if resize == "torch" else None
        if small is None:
            small = resized(rgb if turn is None else rgb.transpose(turn), how)
        return numpy.array(small if len(how.mean) == 3 else small.convert("L")).reshape(*how.size, -1)


def read_whole(path: Path, how: Preprocessing, *, orientation: bool = True) -> Pixels:
    """Return the pixels of a file unchanged, uint8 (height, width, 3), for a model that resizes them itself.

    Raise InputError for the same reasons as `read_image`, or if the model would resize the image to too many pixels.
    """
    image = open_image(path, orientation=orientation)
    height, width = resized_size(how, image.height, image.width)
    if width * max(height, image.height) > LARGEST_RESIZED:
        raise InputError(
            f"{path}: an image of {image.width}x{image.height} pixels, which this model would resize to "
            f"{width}x{height}: expected at most {LARGEST_RESIZED} pixels then: crop it first"
        )
    return numpy.array(image)


def read_ahead(
    paths: Iterable[Path], read: Callable[[Path], Pixels], *, workers: int, ahead: int
) -> Iterator[tuple[Path, Pixels | InputError]]:
    """Yield each path with its pixels, or with the error of reading it, in order, while threads read the next files.

    At most `ahead` paths are drawn before their turn, so memory does not depend on how many there are.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="effnet_zoo-read")
    pending: deque[tuple[Path, Future[Pixels]]] = deque()

    def oldest() -> tuple[Path, Pixels | InputError]:
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
