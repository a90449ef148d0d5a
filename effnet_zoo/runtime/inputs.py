"""Image files to what an exported graph takes. This module needs no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from effnet_zoo.images.reader import Resizer, read_image, read_whole
from effnet_zoo.images.transform import Pixels, normalised
from effnet_zoo.runtime.interface import Interface
from effnet_zoo.zoo.preprocessing import Preprocessing


def read_pixels(
    path: Path,
    interface: Interface,
    preprocessing: Preprocessing,
    *,
    orientation: bool = True,
    resize: Resizer = "torch",
) -> Pixels:
    """Return an image file as pixels, resized and cropped unless the graph does that.

    Args:
        path: An image file.
        interface: What the graph takes.
        preprocessing: How images are prepared.
        orientation: Whether the image is turned as its EXIF orientation says.
        resize: What resizes it, unless the graph does: see `read_image`.

    Raises:
        InputError: If it is missing, unreadable, too large, or not an image.
    """
    if interface.resize:
        return read_whole(path, preprocessing, orientation=orientation)
    return read_image(path, preprocessing, orientation=orientation, resize=resize)


def graph_input(pixels: Sequence[Pixels], interface: Interface, preprocessing: Preprocessing) -> NDArray[Any]:
    """Return images of one size as the batch that a graph takes: uint8, or float32 (n, channels, height, width)."""
    if interface.pixels is None:
        return normalised(pixels, preprocessing)
    batch = numpy.stack(pixels)
    return batch if interface.pixels == "nhwc" else numpy.ascontiguousarray(batch.transpose(0, 3, 1, 2))
