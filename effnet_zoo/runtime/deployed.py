"""The PyTorch definition that every exported file is compared with, and what is known of the model behind it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnet_zoo.checkpoints import config_json
from effnet_zoo.checkpoints.pretrained_cfg import known_of
from effnet_zoo.checkpoints.statefile import fingerprint
from effnet_zoo.errors import ArgumentError
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.interface import COMPUTE_DTYPES, Interface, Resizing, Size, at_size, scale_and_shift
from effnet_zoo.runtime.metadata import Metadata
from effnet_zoo.zoo.class_names import class_names
from effnet_zoo.zoo.preprocessing import Preprocessing, preprocessing_of

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in COMPUTE_DTYPES}


class Deployed(nn.Module):
    """A model behind an `Interface`.

    Args:
        model: A classifier.
        interface: What goes in and comes out.
        preprocessing: The checkpoint's; only needed for uint8 images.

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
            resizing = Resizing.of(at_size(preprocessing, interface.size))
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


def _middle(spare: int) -> int:
    """Return half of a number; a half of an odd number is rounded to even, as torchvision's crop does."""
    return spare // 2 + spare % 4 // 3


def own_size(model: EfficientNet) -> Size:
    """Return the size of the checkpoint's images, or the architecture's if there is no checkpoint."""
    if model.pretrained_cfg:
        return preprocessing_of(model.pretrained_cfg).size
    return (model.arch.image_size, model.arch.image_size)


def check_has_weights(model: EfficientNet, caller: str) -> None:
    """Check that a model is not on the meta device.

    Raises:
        ArgumentError: If it is.
    """
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ArgumentError(f"{caller}: the model is on the meta device: expected one with weights, load them first")


def metadata_of(model: EfficientNet, interface: Interface) -> Metadata:
    """Return what is known of a model, as it will be read back from a file.

    Raises:
        WeightsError: If the model's ``pretrained_cfg`` has values that metadata cannot hold.
    """
    known, cfg = known_of(model), model.pretrained_cfg
    names = class_names(model.num_classes, known.labels or cfg.get("label_names")) if model.num_classes else []
    numbered = bool(names) and names[0] == "class 0"
    variant = config_json.variant_of(model.arch)
    architecture = variant.name if variant else config_json.CUSTOM
    made = Metadata(
        model=".".join(filter(None, (architecture, known.claims.get("tag")))),
        weights=fingerprint(model.state_dict()),
        interface=interface,
        images=at_size(preprocessing_of(cfg), interface.size) if "mean" in cfg else None,
        output=interface.output_of(model.num_classes),
        outputs=model.num_classes or model.head_hidden_size,
        labels=() if numbered else tuple(names),
        provenance=known.claims,
    )
    return Metadata.from_json(made.to_json(), made.model)
