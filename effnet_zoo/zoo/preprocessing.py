"""How an image becomes the input that a checkpoint was trained for."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effnet_zoo.errors import ArgumentError, quoted

CROP_MODES = ("center", "squash")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest")

LARGEST_SIDE = 8192
"""Pixels of an input's side at most, so that a wrong figure does not ask for all of the memory; L2, the largest,
takes 800."""
SMALLEST_CROP = 0.01
"""Smallest crop_pct: below, a photo would be resized to a hundred times the input's side before it is cropped."""
LARGEST_SCALE = 1e6
"""Largest mean and std, and 1 over the smallest std: float32 computes with all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an image becomes the input a checkpoint was trained for.

    Attributes:
        size: (height, width) of the input in pixels.
        crop_pct: Input size over the size the image is resized to before cropping.
        crop_mode: ``center`` keeps the aspect and crops the centre, ``squash`` resizes both sides.
        interpolation: ``bicubic`` or ``bilinear``, antialiased, or ``nearest``.
        mean: Of each channel scaled to 0..1, RGB.
        std: Likewise.

    Raises:
        ArgumentError: If a value cannot be computed with: wherever it comes from, it is refused here.
    """

    size: tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not is_sequence(self.size, 2) or not all(is_whole(side) and side <= LARGEST_SIDE for side in self.size):
            raise ArgumentError(f"size {quoted(self.size)}: expected height and width, 1 to {LARGEST_SIDE} pixels")
        if not is_finite(self.crop_pct) or not SMALLEST_CROP <= self.crop_pct <= 1:
            raise ArgumentError(f"crop_pct {quoted(self.crop_pct)}: expected a share from {SMALLEST_CROP} to 1")
        for field, known in (("crop_mode", CROP_MODES), ("interpolation", INTERPOLATIONS)):
            if getattr(self, field) not in known:
                raise ArgumentError(f"{field} {quoted(getattr(self, field))}: expected {' or '.join(known)}")
        if not is_sequence(self.mean) or not all(
            is_finite(value) and abs(value) <= LARGEST_SCALE for value in self.mean
        ):
            raise ArgumentError(f"mean {quoted(self.mean)}: expected a finite number for each channel")
        low, high = 1 / LARGEST_SCALE, LARGEST_SCALE
        if not is_sequence(self.std) or not all(is_finite(value) and low <= value <= high for value in self.std):
            raise ArgumentError(f"std {quoted(self.std)}: expected a number from {low:g} to {high:g} for each channel")
        if len(self.mean) != len(self.std):
            raise ArgumentError(f"mean has {len(self.mean)} channels and std {len(self.std)}: expected as many")


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """Returns the inference preprocessing that a ``pretrained_cfg`` declares: its evaluation size, not training's.

    Raises:
        ArgumentError: If a part of it is missing, or cannot be computed with.
    """
    if not isinstance(config, Mapping):
        raise ArgumentError(f"{quoted(config)}: expected a model's pretrained_cfg")
    fields = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
    if missing := [field for field in fields if config.get(field) is None]:
        raise ArgumentError(f"pretrained_cfg without {', '.join(missing)}: expected how images are prepared")
    size = config.get("test_input_size") or config["input_size"]
    for field, value, length in (("input_size", size, 3), ("mean", config["mean"], None), ("std", config["std"], None)):
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            raise ArgumentError(f"{field} {quoted(value)} of pretrained_cfg: expected a list of {length or 'numbers'}")
    return Preprocessing(
        size=tuple(size[1:]),
        crop_pct=config.get("test_crop_pct") or config["crop_pct"],
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def image_fields(preprocessing: Preprocessing, in_chans: int = 3) -> dict[str, Any]:
    """Return the fields of a ``pretrained_cfg`` that `preprocessing_of` reads, for images of `in_chans` channels."""
    return {
        "input_size": [in_chans, *preprocessing.size],
        "fixed_input_size": False,
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_sequence(value: Any, length: int | None = None) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and length in (None, len(value))
