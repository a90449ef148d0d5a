"""Images to the tensors a checkpoint was trained for."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

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

    The image is resized to floor(size / crop_pct), antialiased, and cropped to the middle.
    """
    scaled = [math.floor(side / how.crop_pct) for side in how.size]
    squash = how.crop_mode == "squash"
    resize = Resize(scaled if squash else max(scaled), interpolation=InterpolationMode(how.interpolation))
    return Compose([resize, CenterCrop(list(how.size)), ToTensor(), Normalize(how.mean, how.std)])


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
