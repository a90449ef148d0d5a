"""Image files to what an exported graph takes. This module needs no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from effnet_zoo.images.reader import Reader, read_whole
from effnet_zoo.runtime.interface import Interface
from effnet_zoo.zoo.preprocessing import Preprocessing

ImagePixels = NDArray[numpy.uint8]
"""One image, (height, width, channels), 0 to 255."""


def read_pixels(
    path: Path, interface: Interface, preprocessing: Preprocessing, *, orientation: bool = True
) -> ImagePixels:
    """Return an image file as pixels, resized and cropped unless the graph does that.

    Args:
        path: An image file.
        interface: What the graph takes.
        preprocessing: How images are prepared.
        orientation: Whether the image is turned as its EXIF orientation says.

    Raises:
        InputError: If it is missing, unreadable, too large, or not an image.
    """
    if interface.resize:
        pixels = read_whole(path, preprocessing, orientation=orientation)
    else:
        pixels = Reader(preprocessing, orientation=orientation)(path)
    return numpy.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def graph_input(pixels: Sequence[ImagePixels], interface: Interface, preprocessing: Preprocessing) -> NDArray[Any]:
    """Return images of one size as the batch that a graph takes: uint8, or float32 (n, channels, height, width).

    The float32 values are those of torchvision's ToTensor and Normalize.
    """
    batch = numpy.stack(pixels)
    if interface.pixels == "nhwc":
        return batch
    batch = numpy.ascontiguousarray(batch.transpose(0, 3, 1, 2))
    if interface.pixels == "nchw":
        return batch
    mean, std = (
        numpy.array(values, numpy.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    normalised: NDArray[numpy.float32] = (batch.astype(numpy.float32) / numpy.float32(255) - mean) / std
    return normalised
