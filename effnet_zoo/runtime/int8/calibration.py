"""Read the images that int8 is calibrated with, and other images that it is compared on."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from effnet_zoo.errors import InputError
from effnet_zoo.images.finding import Skipped, find_images

FEWEST = 8
"""Smallest number of images to calibrate with, and to compare on: fewer show nothing."""

Read = Callable[[Path], Tensor]
"""A function from an image file to a tensor as the quantized file takes it, without batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Image files with their tensors.

    Attributes:
        calibration: Images that ranges and rounding are computed from.
        comparison: Images that float32 and int8 are compared on.
        labels: The class of each image to compare on; None if unknown.
        unreadable: How many files could not be read.
    """

    calibration: Mapping[Path, Tensor]
    comparison: Mapping[Path, Tensor]
    labels: tuple[int, ...] | None
    unreadable: int

    @classmethod
    def of(
        cls, calib: Path, evaluation: Path | None, read: Read, *, most: int, classes: Sequence[str] | None
    ) -> "Images":
        """Read at most `most` images to calibrate with, and four times as many to compare on.

        Those to compare on are from the folder `evaluation`, or others of the first folder if that is None. They lie in
        folders with the names of `classes`, in the order of the outputs, unless that is None.

        Raises:
            InputError: If too few images can be read, the folders share files, or a folder is not a class.
        """
        root, skipped = evaluation or calib, Skipped()
        calibration, bad = _readable(calib, read, most if evaluation else most * 5, skipped)
        if evaluation is None:
            # At least a fifth is for calibration, and half of few images.
            count = min(most, max(FEWEST, len(calibration) // 5, min(len(calibration) // 2, most // 2)))
            every = list(calibration.items())
            calibration, comparison = dict(every[:count]), dict(every[count:])
        else:
            comparison, worse = _readable(evaluation, read, most * 4, skipped)
            bad += worse
            if shared := {path.resolve() for path in calibration} & {path.resolve() for path in comparison}:
                raise InputError(
                    f"{min(shared)} is both calibrated with and compared on: expected two folders without common files"
                )
        for folder, part, use in ((calib, calibration, "calibrate with"), (root, comparison, "compare on")):
            if len(part) < FEWEST:
                left_out = f", {skipped}" if skipped else ""
                raise InputError(
                    f"{folder}: {len(part)} images to {use}, {bad} cannot be read{left_out}: expected at least "
                    f"{FEWEST} of them, and some hundreds for figures to trust"
                )
        labels = _labels(comparison, root, classes) if classes is not None else None
        return cls(calibration=calibration, comparison=comparison, labels=labels, unreadable=bad)


def batches(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield images in batches, each made when it is asked for. Images of several sizes come one by one."""
    images = list(images)
    if len({image.shape for image in images}) > 1:
        size = 1
    for start in range(0, len(images), size):
        some = images[start : start + size]
        yield some[0][None] if len(some) == 1 else torch.stack(some)  # of one, no copy


def _readable(folder: Path, read: Read, most: int, skipped: Skipped) -> tuple[dict[Path, Tensor], int]:
    """Return at most `most` readable images of a folder, in a fixed random order, and how many were unreadable."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images")
    paths = sorted(find_images([str(folder)], skipped=skipped))
    random.Random(0).shuffle(paths)
    found, bad = dict[Path, Tensor](), 0
    for path in paths:
        try:
            found[path] = read(path)
        except InputError:
            bad += 1
        if len(found) == most:
            break
    return found, bad


def _labels(paths: Iterable[Path], root: Path, classes: Sequence[str]) -> tuple[int, ...]:
    numbers = {name: number for number, name in enumerate(classes)}
    labels = []
    for path in paths:
        name = path.relative_to(root).parts[0]
        if name not in numbers or path.parent == root:
            raise InputError(f"{path}: expected a folder for each class, such as {root / classes[0]}")
        labels.append(numbers[name])
    return tuple(labels)
