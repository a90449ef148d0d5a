"""Images to the tensors that a checkpoint was trained for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray
from PIL import Image

from effnet_zoo.errors import ArgumentError, InputError, quoted
from effnet_zoo.images.decoding import as_rgb, image_errors
from effnet_zoo.images.resizing import resized
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pixels = NDArray[numpy.uint8]
"""One image as uint8 (height, width, channels)."""


def eval_transform(how: Preprocessing, *, orientation: bool = True) -> "Callable[[Image.Image], Tensor]":
    """Return a function from a PIL image to a float32 tensor (channels, height, width), normalised.

    The image, of any mode, is converted to RGB as `as_rgb` defines it, or to grey for a checkpoint of one channel. It
    is resized with antialiasing until it covers floor(size / crop_pct), and its middle is cropped. The function raises
    `InputError` if its argument is not a PIL image, or is one that cannot be decoded or converted.

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


def normalised(pixels: Sequence[Pixels], how: Preprocessing) -> NDArray[numpy.float32]:
    """Return images as one float32 batch (n, channels, height, width), computed as ToTensor and Normalize do.

    Args:
        pixels: Images uint8 (height, width, channels) of one size, as `Reader` gives them.
        how: The checkpoint's preprocessing.

    Raises:
        InputError: If the images are something else.
    """
    batch = _stacked(pixels, len(how.mean)).transpose(0, 3, 1, 2).astype(numpy.float32, order="C")
    batch /= numpy.float32(255)
    batch -= numpy.array(how.mean, numpy.float32).reshape(-1, 1, 1)
    batch /= numpy.array(how.std, numpy.float32).reshape(-1, 1, 1)
    return batch


def normalised_tensor(
    pixels: Sequence[Pixels], how: Preprocessing, *, device: "torch.device | str", dtype: "torch.dtype"
) -> "Tensor":
    """Return what `normalised` computes as a tensor, computed in float32 on a device and rounded to a dtype.

    Raises:
        InputError: If the images are not uint8 (height, width, channels) of one size.
    """
    import torch

    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (how.mean, how.std))
    stacked = torch.from_numpy(_stacked(pixels, len(how.mean))).to(device)
    batch = stacked.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return batch.div_(255).sub_(mean).div_(std).to(dtype)


def _stacked(pixels: Sequence[Pixels], channels: int) -> Pixels:
    images = list(pixels)
    for image in images:
        if not isinstance(image, numpy.ndarray) or image.dtype != numpy.uint8 or image.shape != images[0].shape:
            found = f"{image.dtype} {image.shape}" if isinstance(image, numpy.ndarray) else type(image).__name__
            raise InputError(f"{found}: expected arrays uint8 (height, width, {channels}) of one size")
    if not images or images[0].ndim != 3 or images[0].shape[2] != channels:
        found = str(images[0].shape) if images else "no images"
        raise InputError(f"{found}: expected at least one image (height, width, {channels})")
    return numpy.stack(images)
