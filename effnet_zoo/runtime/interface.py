"""What an exported model takes and gives, as data. This module imports no torch."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.errors import ArgumentError, quoted
from effnet_zoo.zoo.preprocessing import LARGEST_SIDE, Preprocessing

Size = tuple[int, int]
"""Height and width in pixels."""

Pixels = Literal["nhwc", "nchw"]
Output = Literal["logits", "probabilities", "features"]

COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
"""Names of the dtypes that a model can compute in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What goes in and what comes out. Outputs are float32 (n, outputs), whatever dtype the model computes in.

    Attributes:
        size: Height and width of the images that the network sees; None for any.
        pixels: None for float32 images (n, channels, height, width) that are already normalised; ``nhwc`` or ``nchw``
            for uint8 images, 0 to 255, that are normalised inside.
        resize: Whether uint8 images may have any size, and are resized and cropped inside.
        softmax: Whether probabilities come out instead of logits.
        dtype: One of `COMPUTE_DTYPES`.

    Raises:
        ArgumentError: If the fields do not fit together, or a side is less than 32 pixels.
    """

    size: Size | None = None
    pixels: Pixels | None = None
    resize: bool = False
    softmax: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < MIN_SIZE:
            raise ArgumentError(f"size {self.size[0]}x{self.size[1]}: expected at least {MIN_SIZE}x{MIN_SIZE} pixels")
        if self.resize and (self.pixels is None or self.size is None):
            raise ArgumentError("resizing inside takes uint8 images and ends at one size: expected both")
        if not isinstance(self.dtype, str) or self.dtype not in COMPUTE_DTYPES:
            raise ArgumentError(f"dtype {quoted(self.dtype)}: expected {', '.join(COMPUTE_DTYPES)}")

    @property
    def any_size(self) -> bool:
        """Whether images of every height and width are taken."""
        return self.size is None or self.resize

    def output_of(self, num_classes: int) -> Output:
        """Return what comes out of a model with this number of classes."""
        if not num_classes:
            return "features"
        return "probabilities" if self.softmax else "logits"

    def image_shape(self, channels: int, size: Size) -> tuple[int, int, int]:
        """Return (channels, height, width) or (height, width, channels), depending on `pixels`."""
        return (*size, channels) if self.pixels == "nhwc" else (channels, *size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resizing:
    """How images of any size are resized and cropped inside a graph: as `eval_transform` does it.

    Attributes:
        size: Height and width that are kept.
        cover: Height and width that the image is resized to, or covers if its aspect ratio is kept.
        keeps_aspect: Whether the aspect ratio is kept.
        mode: ``bicubic`` or ``bilinear``, antialiased.
    """

    size: Size
    cover: Size
    keeps_aspect: bool
    mode: str

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> "Resizing":
        """Return the resizing of a checkpoint.

        Raises:
            ArgumentError: If a graph cannot do it: nearest neighbours, or a size that is not square unless images
                are squashed.
        """
        height, width = preprocessing.size
        keeps_aspect = preprocessing.crop_mode != "squash"
        mode = preprocessing.interpolation
        if mode not in ("bicubic", "bilinear") or (keeps_aspect and height != width):
            raise ArgumentError(
                f"resizing inside: {mode} to {height}x{width}, {preprocessing.crop_mode}: expected bicubic or "
                "bilinear, and a square size unless images are squashed; resize before the model instead"
            )
        cover = (math.floor(height / preprocessing.crop_pct), math.floor(width / preprocessing.crop_pct))
        return cls(size=preprocessing.size, cover=cover, keeps_aspect=keeps_aspect, mode=mode)


def checked_size(size: int | Size | list[int], name: str = "size") -> Size:
    """Return height and width of a side, or of height and width.

    Raises:
        ArgumentError: If it is of another type, or not of 32 to 8192 pixels. The message calls it `name`.
    """
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and MIN_SIZE <= side <= LARGEST_SIDE for side in sides):
        raise ArgumentError(
            f"{name}={quoted(size)}: expected a side, or height and width, of {MIN_SIZE} to {LARGEST_SIDE} pixels"
        )
    return sides[0], sides[1]


def scale_and_shift(preprocessing: Preprocessing | None, channels: int) -> tuple[list[float], list[float]]:
    """Return two numbers a channel: the network sees ``pixel * scale + shift`` of a pixel from 0 to 255.

    Raises:
        ArgumentError: If mean and std of these channels are not known.
    """
    if preprocessing is None or len(preprocessing.mean) != channels:
        raise ArgumentError(
            f"normalising inside: this model's mean and std for {channels} channels are not known: "
            "expected them in its pretrained_cfg"
        )
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    return [1 / (255 * std) for _, std in pairs], [-mean / std for mean, std in pairs]


def at_size(preprocessing: Preprocessing, size: Size | None) -> Preprocessing:
    """Return a preprocessing that ends at another size; None leaves it as it is."""
    return dataclasses.replace(preprocessing, size=size) if size else preprocessing
