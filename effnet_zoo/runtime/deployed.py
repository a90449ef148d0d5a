"""The PyTorch definition that other runtimes are compared with, the comparison, and what is known of a model."""

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
    """A model behind an `Interface`.

    Args:
        model: A classifier.
        interface: What goes in and comes out.
        preprocessing: The checkpoint's, with the interface's size; only needed for uint8 images.

    Raises:
        ArgumentError: If the model's preprocessing is not known, or cannot be done inside.
    """

    def __init__(self, model: EfficientNet, interface: Interface, preprocessing: Preprocessing | None) -> None:
        super().__init__()
        self.model = model
        self.dtype = TORCH_DTYPES[interface.dtype]
        self.pixels, self.nhwc = interface.pixels is not None, interface.pixels == "nhwc"
        self.resize, self.softmax = interface.resize, interface.softmax
        self.mode, self.keeps_aspect = "bilinear", True
        self.cover, self.size = (0, 0), (0, 0)
        scale, shift = scale_and_shift(preprocessing, model.in_chans) if self.pixels else ([1.0], [0.0])
        self.scale = nn.Buffer(torch.tensor(scale, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.shift = nn.Buffer(torch.tensor(shift, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        if interface.resize:
            assert preprocessing is not None
            self.mode, self.keeps_aspect = preprocessing.interpolation, preprocessing.crop_mode != "squash"
            self.cover, self.size = covered_size(preprocessing), preprocessing.size

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


def covered_size(preprocessing: Preprocessing) -> Size:
    """Return the height and width that images inside a graph are resized to, or cover if their aspect ratio is kept.

    Raise ArgumentError if a graph cannot do it.
    """
    (height, width), mode = preprocessing.size, preprocessing.interpolation
    if mode not in ("bicubic", "bilinear") or (preprocessing.crop_mode != "squash" and height != width):
        raise ArgumentError(
            f"resizing inside: {mode} to {height}x{width}, {preprocessing.crop_mode}: expected bicubic or "
            "bilinear, and a square size unless images are squashed; resize before the model instead"
        )
    return math.floor(height / preprocessing.crop_pct), math.floor(width / preprocessing.crop_pct)


def scale_and_shift(preprocessing: Preprocessing | None, channels: int) -> tuple[list[float], list[float]]:
    """Return two numbers a channel: the network sees ``pixel * scale + shift`` of a pixel from 0 to 255.

    Raise ArgumentError if mean and std of these channels are not known.
    """
    if preprocessing is None or len(preprocessing.mean) != channels:
        raise ArgumentError(
            f"normalising inside: this model's mean and std for {channels} channels are not known: "
            "expected them in its pretrained_cfg"
        )
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    return [1 / (255 * std) for _, std in pairs], [-mean / std for mean, std in pairs]


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
    if model.pretrained_cfg:
        return preprocessing_of(model.pretrained_cfg).size
    return (model.arch.image_size, model.arch.image_size)


def checked_size(size: int | Size | list[int], name: str = "size") -> Size:
    """Return height and width of a side, or of height and width. Raise ArgumentError if one is out of its range."""
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and MIN_SIZE <= side <= LARGEST_SIDE for side in sides):
        raise ArgumentError(
            f"{name}={quoted(size)}: expected a side, or height and width, of {MIN_SIZE} to {LARGEST_SIDE} pixels"
        )
    return sides[0], sides[1]


def check_has_weights(model: EfficientNet, caller: str) -> None:
    """Raise ArgumentError if a model is on the meta device."""
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ArgumentError(f"{caller}: the model is on the meta device: expected one with weights, load them first")


def metadata_of(model: EfficientNet, interface: Interface) -> Metadata:
    """Return what is known of a model, as it will be read back from a file.

    Raise WeightsError if the model's ``pretrained_cfg`` has values that metadata cannot hold.
    """
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
