"""Define in PyTorch what other runtimes compute, compare outputs with it, and collect what is known of a model."""

import dataclasses
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.checkpoints import config_json
from effnet_zoo.checkpoints.pretrained_cfg import known_of
from effnet_zoo.checkpoints.statefile import fingerprint
from effnet_zoo.errors import ArgumentError, EngineError, quoted
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.metadata import COMPUTE_DTYPES, Interface, Metadata, Size
from effnet_zoo.zoo.class_names import class_names
from effnet_zoo.zoo.preprocessing import LARGEST_SIDE, Preprocessing, preprocessing_of

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in COMPUTE_DTYPES}


class Deployed(nn.Module):
    """A model behind an `Interface`. Only uint8 images need the preprocessing, which has the interface's size.

    Raise ArgumentError if the preprocessing is not known, or cannot be done inside.
    """

    def __init__(self, model: EfficientNet, interface: Interface, how: Preprocessing | None) -> None:
        super().__init__()
        self.model = model
        self.dtype = TORCH_DTYPES[interface.dtype]
        self.pixels, self.nhwc = interface.pixels is not None, interface.pixels == "nhwc"
        self.resize, self.softmax = interface.resize, interface.softmax
        self.mode, self.keeps_aspect = "bilinear", True
        self.cover, self.size = (0, 0), (0, 0)
        scale, shift = scale_and_shift(how, model.in_chans) if self.pixels else ([1.0], [0.0])
        self.scale = nn.Buffer(torch.tensor(scale, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.shift = nn.Buffer(torch.tensor(shift, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        if interface.resize:
            assert how is not None
            self.mode, self.keeps_aspect = how.interpolation, how.crop_mode != "squash"
            self.cover, self.size = covered_size(how), how.size

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


def _middle(spare: int) -> int:
    """Return half of a number; a half of an odd number is rounded to even, as torchvision's crop does."""
    return spare // 2 + spare % 4 // 3


def covered_size(how: Preprocessing) -> Size:
    """Return the height and width that a graph resizes images to, or that they cover if their aspect ratio is kept.

    Raise ArgumentError if a graph cannot do it.
    """
    height, width = how.size
    if how.interpolation == "nearest" or (how.crop_mode != "squash" and height != width):
        raise ArgumentError(
            f"resizing inside: {how.interpolation} to {height}x{width}, {how.crop_mode}: expected bicubic or "
            "bilinear, and a square size unless images are squashed; resize before the model instead"
        )
    return math.floor(height / how.crop_pct), math.floor(width / how.crop_pct)


def scale_and_shift(how: Preprocessing | None, channels: int) -> tuple[list[float], list[float]]:
    """Return two numbers a channel: the network sees ``pixel * scale + shift`` of a pixel from 0 to 255.

    Raise ArgumentError if mean and std of these channels are not known.
    """
    if how is None or len(how.mean) != channels:
        raise ArgumentError(
            f"normalising inside: this model's mean and std for {channels} channels are not known: "
            "expected them in its pretrained_cfg"
        )
    return [1 / (255 * std) for std in how.std], [-mean / std for mean, std in zip(how.mean, how.std, strict=True)]


def model_outputs(model: Callable[[Tensor], Tensor], batches: Iterable[Tensor], caller: str) -> list[Tensor]:
    """Return a model's outputs of batches, float32 on the processor. Raise EngineError if one is not finite."""
    with torch.inference_mode():
        outputs = [model(batch).float().cpu() for batch in batches]
    if not all(one.isfinite().all() for one in outputs):
        raise EngineError(
            f"{caller}: the model's own outputs are not finite on these images: expected weights without NaN or "
            "infinity, and activations that fit the dtype of the model: see verify"
        )
    return outputs


def error_of(outputs: Tensor, expected: Tensor) -> float:
    """Return the relative error of outputs, ||outputs - expected|| / ||expected||; infinite for another shape."""
    return relative_error(outputs, expected) if outputs.shape == expected.shape else float("inf")


def check_error(error: float, tolerance: float, who: str, hint: str) -> None:
    """Raise EngineError if the relative error of outputs is larger than a tolerance."""
    if not error <= tolerance:
        raise EngineError(
            f"{who}: outputs differ from the model's by a relative {error:.1e}: expected at most "
            f"{tolerance:.0e}; {hint}"
        )


def own_size(model: EfficientNet) -> Size:
    """Return the size of the checkpoint's images, or the architecture's if there is no checkpoint."""
    side = model.arch.image_size
    return preprocessing_of(model.pretrained_cfg).size if model.pretrained_cfg else (side, side)


def checked_size(size: int | Size | list[int]) -> Size:
    """Return height and width of a side, or of height and width, or raise ArgumentError if one is out of its range."""
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and MIN_SIZE <= side <= LARGEST_SIDE for side in sides):
        raise ArgumentError(
            f"size={quoted(size)}: expected a side, or height and width, of {MIN_SIZE} to {LARGEST_SIDE} pixels"
        )
    return sides


def check_has_weights(model: EfficientNet, caller: str) -> None:
    """Raise ArgumentError if a model is on the meta device."""
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ArgumentError(f"{caller}: the model is on the meta device: expected one with weights, load them first")


def metadata_of(model: EfficientNet, interface: Interface) -> Metadata:
    """Return what is known of a model, as it will be read back from a file.

    Raise ArgumentError if the model does not give one row an image, and WeightsError if its ``pretrained_cfg`` has
    values that metadata cannot hold.
    """
    if interface.softmax and not model.num_classes:
        raise ArgumentError("softmax: this model gives features: expected a classifier")
    if not model.num_classes and not model.global_pool.pool_type:
        raise ArgumentError("export: this model pools nothing: expected logits or pooled features")
    known, cfg = known_of(model), model.pretrained_cfg
    names = class_names(model.num_classes, known.labels or cfg.get("label_names")) if model.num_classes else []
    numbered = bool(names) and names[0] == "class 0"
    variant = config_json.variant_of(model.arch)
    architecture = variant.name if variant else config_json.CUSTOM
    images = preprocessing_of(cfg) if "mean" in cfg else None
    if images and interface.size:
        images = dataclasses.replace(images, size=interface.size)
    made = Metadata(
        model=".".join(filter(None, (architecture, known.claims.get("tag")))),
        weights=fingerprint(model.state_dict()),
        interface=interface,
        images=images,
        output=interface.output_of(model.num_classes),
        outputs=model.num_classes or model.head_hidden_size,
        labels=() if numbered else tuple(names),
        provenance=known.claims,
    )
    return Metadata.from_json(made.to_json(), made.model)
