"""What a model that leaves PyTorch takes and gives, and the same within PyTorch, to be compared with."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.errors import ArgumentError, quoted
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.zoo.preprocessing import Preprocessing, preprocessing_of

Size = tuple[int, int]
Pixels = Literal["nhwc", "nchw"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What goes in and what comes out; outputs are float32, (n, outputs), whatever is computed in.

    Attributes:
        size: Height and width of the images that the network sees; None for any.
        pixels: None for float32 images as the checkpoint wants them, (n, channels, height, width); ``nhwc`` or ``nchw``
            for uint8 ones, 0 to 255, that are normalised inside.
        resize: Whether uint8 images may be of any size, and are resized and cropped inside.
        softmax: Whether probabilities come out instead of logits.
        dtype: What is computed in, a key of `DTYPES`.

    Raises:
        ArgumentError: If they do not fit together, or the size is less than 32 pixels.
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
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise ArgumentError(f"dtype {quoted(self.dtype)}: expected {', '.join(DTYPES)}")

    @property
    def any_size(self) -> bool:
        """Whether images of every height and width are taken."""
        return self.size is None or self.resize

    def output_name(self, model: EfficientNet) -> str:
        """What comes out."""
        if not model.num_classes:
            return "features"
        return "probabilities" if self.softmax else "logits"

    def computing_in(self, dtype: str) -> "Interface":
        """The same in another dtype."""
        return dataclasses.replace(self, dtype=dtype)

    def image_shape(self, channels: int, size: Size) -> tuple[int, ...]:
        """(channels, height, width) or (height, width, channels), as `pixels` has it."""
        return (*size, channels) if self.pixels == "nhwc" else (channels, *size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resizing:
    """How images of any size are resized and cropped inside a graph, as `preprocess.eval_transform` does it.

    Attributes:
        size: Height and width that are kept.
        cover: Height and width that the image is resized to, or that it covers if its aspect is kept.
        keeps_aspect: Whether it is.
        mode: ``bicubic`` or ``bilinear``, antialiased.
    """

    size: Size
    cover: Size
    keeps_aspect: bool
    mode: str

    @classmethod
    def of(cls, how: Preprocessing) -> "Resizing":
        """That of a checkpoint.

        Raises:
            ArgumentError: If no graph can do it: other than square sizes, or nearest neighbours.
        """
        height, width = how.size
        keeps_aspect = how.crop_mode != "squash"
        if how.interpolation not in ("bicubic", "bilinear") or (keeps_aspect and height != width):
            raise ArgumentError(
                f"resizing inside: {how.interpolation} to {height}x{width}, {how.crop_mode}: expected bicubic or "
                "bilinear, and a square size unless images are squashed; resize before the model instead"
            )
        cover = (math.floor(height / how.crop_pct), math.floor(width / how.crop_pct))
        return cls(size=how.size, cover=cover, keeps_aspect=keeps_aspect, mode=how.interpolation)


class Deployed(nn.Module):
    """A model behind an `Interface`: the definition that every exported file is held to.

    Args:
        model: A classifier.
        interface: What goes in and comes out.
        how: The checkpoint's preprocessing; only looked at for uint8 images.
    """

    def __init__(self, model: EfficientNet, interface: Interface, how: Preprocessing | None) -> None:
        super().__init__()
        self.model = model
        self.dtype = DTYPES[interface.dtype]
        self.pixels, self.nhwc = interface.pixels is not None, interface.pixels == "nhwc"
        self.resize, self.softmax = interface.resize, interface.softmax
        self.mode, self.keeps_aspect = "bilinear", True
        self.cover, self.size = (0, 0), (0, 0)
        scale, shift = scale_and_shift(model, interface, how)
        self.scale = nn.Buffer(scale, persistent=False)
        self.shift = nn.Buffer(shift, persistent=False)
        if interface.resize:
            assert how is not None
            assert interface.size is not None
            resizing = Resizing.of(dataclasses.replace(how, size=interface.size))
            self.mode, self.keeps_aspect = resizing.mode, resizing.keeps_aspect
            self.cover, self.size = resizing.cover, resizing.size

    def forward(self, images: Tensor) -> Tensor:
        if self.pixels:
            if self.nhwc:
                images = images.permute(0, 3, 1, 2)
            images = images.to(torch.float32)
            if self.resize:
                images = self._resized(images)
            images = images * self.scale + self.shift
        outputs = self.model(images.to(self.dtype)).to(torch.float32)
        return outputs.softmax(1) if self.softmax else outputs

    def _resized(self, images: Tensor) -> Tensor:
        height, width = self.cover
        if self.keeps_aspect:
            short = min(images.shape[2], images.shape[3])
            height, width = height * images.shape[2] // short, width * images.shape[3] // short
        # Across, then down, as Pillow does it: what bicubic overshoots is cut off after each.
        images = F.interpolate(images, (images.shape[2], width), mode=self.mode, antialias=True).clamp(0.0, 255.0)
        images = F.interpolate(images, (height, width), mode=self.mode, antialias=True).clamp(0.0, 255.0)
        top, left = _middle(height - self.size[0]), _middle(width - self.size[1])
        return images[:, :, top : top + self.size[0], left : left + self.size[1]]


def own_size(model: EfficientNet) -> Size:
    """That of the checkpoint's images, or the architecture's."""
    if model.pretrained_cfg:
        return preprocessing_of(model.pretrained_cfg).size
    return (model.arch.image_size, model.arch.image_size)


def _middle(spare: int) -> int:
    """Half, a half of an odd number rounded to even as torchvision's crop does."""
    return spare // 2 + spare % 4 // 3


def scale_and_shift(model: EfficientNet, interface: Interface, how: Preprocessing | None) -> tuple[Tensor, Tensor]:
    """Float32 (channels, 1, 1) each: pixel * scale + shift is what the network sees; 1 and 0 without pixels.

    Raises:
        ArgumentError: If pixels are to be normalised, and nobody knows how.
    """
    if interface.pixels is None:
        return torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    if how is None or len(how.mean) != model.in_chans:
        raise ArgumentError(
            f"normalising inside: this model's mean and std for {model.in_chans} channels are not known: "
            "expected them in its pretrained_cfg"
        )
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (how.mean, how.std))
    return (1 / (255 * std)).float(), (-mean / std).float()
