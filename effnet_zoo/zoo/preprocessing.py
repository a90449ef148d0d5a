"""How an image becomes the input that a checkpoint was trained for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effnet_zoo.arch.checks import is_number, is_whole
from effnet_zoo.errors import ArgumentError, quoted

CROP_MODES = ("center", "squash")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest")

LARGEST_SIDE = 8192
"""Largest side of an input in pixels, so that a wrong number does not use up the memory; L2, the largest, takes 800."""
SMALLEST_CROP = 0.01
"""Smallest crop_pct, at which a photo is resized to a hundred times the input's side before it is cropped."""
LARGEST_SCALE = 1e6
"""Largest mean and std, and 1 over the smallest std. float32 can compute with all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The steps from an image to the input that a checkpoint was trained for.

    Attributes:
        size: (height, width) of the input in pixels.
        crop_pct: Size of the input over the size that the image is resized to before it is cropped.
        crop_mode: ``center`` keeps the aspect ratio and crops the centre, ``squash`` resizes both sides.
        interpolation: ``bicubic`` or ``bilinear``, both antialiased, or ``nearest``.
        mean: Mean of each channel, RGB, where values are from 0 to 1.
        std: Standard deviation of each channel.

    Raises:
        ArgumentError: If a value is outside its bounds.
    """

    size: tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not _are_within(self.size, 1, LARGEST_SIDE) or len(self.size) != 2 or not all(map(is_whole, self.size)):
            raise ArgumentError(f"size {quoted(self.size)}: expected height and width, 1 to {LARGEST_SIDE} pixels")
        if not is_number(self.crop_pct) or not SMALLEST_CROP <= self.crop_pct <= 1:
            raise ArgumentError(f"crop_pct {quoted(self.crop_pct)}: expected a share from {SMALLEST_CROP} to 1")
        for field, known in (("crop_mode", CROP_MODES), ("interpolation", INTERPOLATIONS)):
            if getattr(self, field) not in known:
                raise ArgumentError(f"{field} {quoted(getattr(self, field))}: expected {' or '.join(known)}")
        if not _are_within(self.mean, -LARGEST_SCALE, LARGEST_SCALE):
            raise ArgumentError(f"mean {quoted(self.mean)}: expected a finite number for each channel")
        low, high = 1 / LARGEST_SCALE, LARGEST_SCALE
        if not _are_within(self.std, low, high):
            raise ArgumentError(f"std {quoted(self.std)}: expected a number from {low:g} to {high:g} for each channel")
        if len(self.mean) != len(self.std):
            raise ArgumentError(f"mean has {len(self.mean)} channels and std {len(self.std)}: expected as many of both")


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing for inference that a ``pretrained_cfg`` declares, at its evaluation size.

    Raises:
        ArgumentError: If a field is missing or outside its bounds.
    """
    if not isinstance(config, Mapping):
        raise ArgumentError(f"{quoted(config)}: expected a model's pretrained_cfg")
    fields = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
    if missing := [field for field in fields if config.get(field) is None]:
        raise ArgumentError(
            f"pretrained_cfg without {', '.join(missing)}: expected a checkpoint's, which says how images are prepared"
        )
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


def _are_within(values: object, low: float, high: float) -> bool:
    """Return whether a value is a tuple of one or more numbers from `low` to `high`."""
    return isinstance(values, tuple) and bool(values) and all(is_number(v) and low <= v <= high for v in values)
