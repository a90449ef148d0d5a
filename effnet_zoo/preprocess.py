"""Images to the tensors a checkpoint was trained for."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, ToTensor
from torchvision.transforms.functional import resize as resize_image

from effnet_zoo.errors import ArgumentError, InputError, quoted
from effnet_zoo.ledger import Preprocessing

Transform = Callable[[Image.Image], Tensor]


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """Returns the inference preprocessing that a ``pretrained_cfg`` declares: its evaluation size, not training's.

    Raises:
        ArgumentError: If a part of it is missing, or cannot be computed with.
    """
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


def eval_transform(how: Preprocessing) -> Transform:
    """A function from a PIL image to a float32 tensor (3, height, width), normalised.

    The image is resized, antialiased, to cover floor(size / crop_pct), and cropped to the middle.
    """
    return Compose([_Resize(how), CenterCrop(list(how.size)), ToTensor(), Normalize(how.mean, how.std)])


def resized_size(how: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """What (height, width) an image of this size is resized to before it is cropped, in pixels."""
    to_height, to_width = (math.floor(side / how.crop_pct) for side in how.size)
    if how.crop_mode == "squash":
        return to_height, to_width
    if to_height == to_width:
        # As torchvision rounds, which knows only squares.
        short = min(height, width)
        return (to_height * height // short, to_height * width // short)
    ratio = min(height / to_height, width / to_width)
    return round(height / ratio), round(width / ratio)


@dataclass(frozen=True)
class _Resize:
    how: Preprocessing

    def __call__(self, image: Image.Image) -> Image.Image:
        size = resized_size(self.how, image.height, image.width)
        return resize_image(image, list(size), InterpolationMode(self.how.interpolation))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever reading and decoding a file raises, as an error that names it.

    Raises:
        InputError: If it is missing, unreadable, or not an image.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder: expected an image, or a folder that can be listed") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that Pillow can read") from None
    except Exception as error:  # on a broken file decoders raise whatever they stumble over: struct.error, IndexError
        raise InputError(f"{path}: cannot be read: {error}") from error


def open_image(path: Path) -> Image.Image:
    """An image file as RGB, whole.

    Raises:
        InputError: If it is missing, unreadable, or not an image.
    """
    with reading(path), Image.open(path) as image:
        return image.convert("RGB")


def normalised(pixels: Sequence[Tensor], how: Preprocessing) -> Tensor:
    """Images uint8 (3, height, width) as one float32 (n, 3, height, width): what ToTensor and Normalize compute."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (how.mean, how.std))
    batch = torch.stack(list(pixels)).to(torch.float32, memory_format=torch.contiguous_format)
    return batch.div_(255).sub_(mean).div_(std)
