"""What runs a model on image files: an exported file, or an `EfficientNet` that torch or an engine computes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy
from numpy.typing import NDArray

from effnet_zoo.images.transform import Pixels
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

Run = Callable[["Tensor"], "Tensor"]
"""A function of float32 images (n, channels, height, width), on the model's device, that gives outputs (n, outputs)."""

Outputs = NDArray[numpy.float32]
"""Outputs of one image (outputs,), or of several (n, outputs)."""


class Runnable(Protocol):
    """Reads image files, and computes logits or features of them. Nothing of it needs torch.

    Attributes:
        num_classes: How many classes; 0 for features.
        head_hidden_size: How many features an image has.
        pretrained_cfg: Preprocessing and class names, as timm names them.
        preprocessing: How images are prepared.
        fingerprint: SHA-256, in hex, that stands for the weights.
        dtype: The name of the dtype that is computed in.
    """

    num_classes: int
    head_hidden_size: int
    pretrained_cfg: dict[str, Any]
    preprocessing: Preprocessing

    @property
    def fingerprint(self) -> str: ...
    @property
    def dtype(self) -> str: ...

    def read(self, path: Path, *, orientation: bool = True) -> Pixels:
        """Return an image file as uint8 (height, width, channels).

        Raises:
            InputError: If the file is missing, unreadable, too large, or not an image.
        """
        ...

    def __call__(self, pixels: Sequence[Pixels]) -> Outputs:
        """Return the outputs, float32 (n, outputs), of n images."""
        ...
