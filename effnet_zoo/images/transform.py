"""Resize, crop and normalise images as a preprocessing says, by Pillow or, several times faster, by torch."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray
from PIL import Image

from effnet_zoo.errors import ArgumentError, InputError, quoted
from effnet_zoo.images.decoding import as_rgb, image_errors
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pixels = NDArray[numpy.uint8]
"""One image as uint8 (height, width, channels)."""

LARGEST_RESIZED = 1 << 25
"""Largest number of pixels, 134 MB of them, that an image is resized to before it is cropped. If there would be more,
for instance from an image of 1x10000 pixels, only the part that the crop keeps is computed."""

_EXACT_REDUCTION = 3
"""How many times shorter each side must become if torch resizes. Torch and Pillow round some ties differently. Each of
two passes can then differ by one grey level, and both together by two if one source pixel has a large weight. At this
reduction a source pixel weighs at most a third, and differences of two do not occur."""

_SIDEWAYS = [Image.Transpose[name] for name in ("TRANSPOSE", "TRANSVERSE", "ROTATE_90", "ROTATE_270")]


def eval_transform(how: Preprocessing, *, orientation: bool = True) -> "Callable[[Image.Image], Tensor]":
    """Return a function from a PIL image to a float32 tensor (channels, height, width), normalised.

    The image, of any mode, is converted to RGB by the rule in ``docs/use.md``, or to grey for a checkpoint of one
    channel. It is resized with antialiasing until it covers floor(size / crop_pct), and its middle is cropped. The
    function raises `InputError` if its argument is not a PIL image, or is one that cannot be decoded or converted.

    Args:
        how: The checkpoint's preprocessing.
        orientation: Whether the image is turned as its EXIF orientation says.

    Returns:
        A torchvision `Compose`.

    Raises:
        ArgumentError: If `how` is not a `Preprocessing` of 1 or 3 channels.
    """
    from torchvision.transforms import Compose, Normalize, ToTensor

    return Compose([_Cropped(how, orientation), ToTensor(), Normalize(how.mean, how.std)])


@dataclass(frozen=True)
class _Cropped:
    how: Preprocessing
    orientation: bool

    def __post_init__(self) -> None:
        if not isinstance(self.how, Preprocessing) or len(self.how.mean) not in (1, 3):
            raise ArgumentError(f"{quoted(self.how)}: expected the Preprocessing of a model of 1 or 3 channels")

    def __call__(self, image: Image.Image) -> Image.Image:
        if not isinstance(image, Image.Image):
            raise InputError(f"expected a PIL image, found {type(image).__name__}: make one with PIL.Image.fromarray")
        with image_errors(getattr(image, "filename", "") or "image"):
            cropped = resized(as_rgb(image, orientation=self.orientation), self.how)
        return cropped if len(self.how.mean) == 3 else cropped.convert("L")


def resized_size(how: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """Return the height and width in pixels that an image is resized to before it is cropped.

    Both sides are rounded as torchvision does, which knows square sizes only.
    """
    to_height, to_width = (math.floor(side / how.crop_pct) for side in how.size)
    if how.crop_mode == "squash":
        return to_height, to_width
    if to_height == to_width:
        short = min(height, width)
        return to_height * height // short, to_height * width // short
    ratio = min(height / to_height, width / to_width)
    return round(height / ratio), round(width / ratio)


def resized(image: Image.Image, how: Preprocessing) -> Image.Image:
    """Return an image resized by Pillow, antialiased, and cropped to the preprocessing's size."""
    height, width = resized_size(how, image.height, image.width)
    method = Image.Resampling[how.interpolation.upper()]
    # Pillow resizes the rows first, which keeps the height.
    if width * max(height, image.height) <= LARGEST_RESIZED:
        return _cropped(image.resize((width, height), method), how)
    kept_height, kept_width = how.size
    left, top = _crop_corner(width, height, how)
    down, across = image.height / height, image.width / width
    upper, lower = top * down, min((top + kept_height) * down, image.height)
    first, last = left * across, min((left + kept_width) * across, image.width)
    if kept_width * (lower - upper) > LARGEST_RESIZED:  # here the columns must be resized first
        image = image.resize((image.width, kept_height), method, (0, upper, image.width, lower))
        upper, lower = 0, kept_height
    return image.resize((kept_width, kept_height), method, (first, upper, last, lower))


def resized_by_torch(image: Image.Image, how: Preprocessing, turn: Image.Transpose | None) -> Image.Image | None:
    """Return an RGB image, given as it is stored, turned, resized by torch, and cropped; None if Pillow must do it.

    The pixels are those of `resized` within one grey level: torch's uint8 resize does what Pillow's does, but rounds
    some ties the other way.
    """
    sideways = turn in _SIDEWAYS
    upright = resized_size(how, *(image.size if sideways else image.size[::-1]))
    height, width = upright[::-1] if sideways else upright
    if how.interpolation == "nearest" or min(image.height / height, image.width / width) < _EXACT_REDUCTION:
        return None
    import torch
    from torch.nn import functional as F

    pixels = torch.from_numpy(_packed(image)).permute(2, 0, 1)[None]
    # The image is turned last, when it is small. The rows of the upright image, which Pillow resizes first, are columns
    # here if the image lies on its side.
    for size in ((height, image.width), (height, width)) if sideways else ((height, width),):
        pixels = F.interpolate(pixels, size, mode=how.interpolation, antialias=True)
    small = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    return _cropped(small if turn is None else small.transpose(turn), how)


def _packed(image: Image.Image) -> Pixels:
    """Return the pixels of an RGB image, uint8 (height, width, 3), in memory of their own that may be written to.

    numpy.asarray gives memory that torch warns of, and allocates it in thousands of pieces, which takes longer in
    threads: reading large photos with two threads would take a fifth longer.
    """
    file = io.BytesIO()
    image.save(file, "PPM")  # a header, then the pixels as they are
    count = image.height * image.width * 3
    return numpy.frombuffer(file.getbuffer(), numpy.uint8, offset=file.tell() - count).reshape(*image.size[::-1], 3)


def _cropped(image: Image.Image, how: Preprocessing) -> Image.Image:
    left, top = _crop_corner(image.width, image.height, how)
    return image.crop((left, top, left + how.size[1], top + how.size[0]))


def _crop_corner(width: int, height: int, how: Preprocessing) -> tuple[int, int]:
    """Return the left and top of the crop in the middle, rounded as torchvision does."""
    return round((width - how.size[1]) / 2), round((height - how.size[0]) / 2)


def normalised(pixels: Sequence[Pixels], how: Preprocessing) -> NDArray[numpy.float32]:
    """Return images of one size as a float32 batch (n, channels, height, width), computed as torchvision does."""
    batch = _stacked(pixels, how).transpose(0, 3, 1, 2).astype(numpy.float32, order="C")
    batch /= numpy.float32(255)
    batch -= numpy.array(how.mean, numpy.float32).reshape(-1, 1, 1)
    batch /= numpy.array(how.std, numpy.float32).reshape(-1, 1, 1)
    return batch


def normalised_tensor(
    pixels: Sequence[Pixels], how: Preprocessing, *, device: "torch.device | str", dtype: "torch.dtype"
) -> "Tensor":
    """Return what `normalised` computes as a tensor, computed in float32 on a device and rounded to a dtype."""
    import torch

    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (how.mean, how.std))
    stacked = torch.from_numpy(_stacked(pixels, how)).to(device)
    batch = stacked.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return batch.div_(255).sub_(mean).div_(std).to(dtype)


def _stacked(pixels: Sequence[Pixels], how: Preprocessing) -> Pixels:
    channels = len(how.mean)
    if not pixels:
        raise InputError(f"no images: expected at least one of (height, width, {channels})")
    for image in pixels:
        if not isinstance(image, numpy.ndarray) or image.dtype != numpy.uint8 or image.ndim != 3:
            found = f"{image.dtype} {image.shape}" if isinstance(image, numpy.ndarray) else type(image).__name__
            raise InputError(f"{found}: expected an image as uint8 (height, width, {channels})")
        if image.shape != (*pixels[0].shape[:2], channels):
            raise InputError(f"an image {image.shape}: expected (height, width, {channels}), and one size for all")
    return numpy.stack(pixels)
