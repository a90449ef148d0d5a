"""Images to the tensors a checkpoint was trained for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from torchvision.transforms.functional import resize as resize_image

from effnet_zoo.errors import InputError
from effnet_zoo.ledger import Preprocessing

Transform = Callable[[Image.Image], Tensor]


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """The inference preprocessing that a model's ``pretrained_cfg`` declares: its evaluation size, not training's."""
    _, height, width = config.get("test_input_size") or config["input_size"]
    return Preprocessing(
        size=(height, width),
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
    height, width = (math.floor(side / how.crop_pct) for side in how.size)
    mode = InterpolationMode(how.interpolation)
    resize: Callable[[Image.Image], Image.Image]
    if how.crop_mode == "squash":
        resize = Resize([height, width], interpolation=mode)
    elif height == width:
        resize = Resize(height, interpolation=mode)
    else:
        resize = _Cover(height, width, mode)
    return Compose([resize, CenterCrop(list(how.size)), ToTensor(), Normalize(how.mean, how.std)])


@dataclass(frozen=True)
class _Cover:
    """Resize to the smallest size of the same aspect that covers height x width; torchvision only knows squares."""

    height: int
    width: int
    mode: InterpolationMode

    def __call__(self, image: Image.Image) -> Image.Image:
        ratio = min(image.height / self.height, image.width / self.width)
        return resize_image(image, [round(image.height / ratio), round(image.width / ratio)], self.mode)


def open_image(path: Path) -> Image.Image:
    """An image file as RGB, whole.

    Raises:
        InputError: If it is missing, unreadable, or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
