"""Run an `EfficientNet` on image files, by torch or by an engine."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from effnet_zoo.checkpoints.statefile import fingerprint
from effnet_zoo.errors import ArgumentError, quoted
from effnet_zoo.images.reader import read_image
from effnet_zoo.images.transform import Pixels, normalised_tensor
from effnet_zoo.network.folding import in_eval
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.zoo.preprocessing import preprocessing_of

Run = Callable[[Tensor], Tensor]
"""A function of float32 images (n, channels, height, width), on the model's device, that gives outputs (n, outputs)."""


class TorchModel:
    """Runs an `EfficientNet`, of any device and dtype, on image files.

    It is run in eval mode, whatever mode it is in. An engine or another function `run` may compute its outputs instead.
    """

    def __init__(self, model: EfficientNet, run: Run | None) -> None:
        if not isinstance(model, EfficientNet):
            raise ArgumentError(f"{type(model).__name__}: expected a classifier of this package, or an exported one")
        if run is not None and not callable(run):
            raise ArgumentError(f"run={quoted(run)}: expected a function of images, such as an engine")
        self.model = model
        self.num_classes, self.head_hidden_size = model.num_classes, model.head_hidden_size
        self.pretrained_cfg = model.pretrained_cfg
        self.preprocessing = preprocessing_of(model.pretrained_cfg)
        channels = len(self.preprocessing.mean)
        if channels != model.in_chans or channels not in (1, 3):
            raise ArgumentError(
                f"a model of {model.in_chans} channels whose images have {channels}: expected 1 or 3 of both"
            )
        weight = model.conv_stem.weight
        self._device = weight.device
        # Engines take float32, whatever they compute in.
        self._taken = weight.dtype if run is None else torch.float32
        self.dtype = str(getattr(run, "dtype", weight.dtype)).removeprefix("torch.")
        self._run = run or (in_eval(model) if any(module.training for module in model.modules()) else model)

    @property
    def fingerprint(self) -> str:
        """SHA-256 that stands for the weights, computed when it is asked for."""
        return fingerprint(self.model.state_dict())

    def read(self, path: Path, *, orientation: bool = True) -> Pixels:
        """Return an image file as uint8 (height, width, channels), resized and cropped."""
        return read_image(path, self.preprocessing, orientation=orientation)

    @torch.inference_mode()
    def __call__(self, pixels: Sequence[Pixels]) -> NDArray[numpy.float32]:
        """Return the outputs, float32 (n, outputs), of n images."""
        images = normalised_tensor(pixels, self.preprocessing, device=self._device, dtype=self._taken)
        outputs: NDArray[numpy.float32] = self._run(images).to("cpu", torch.float32).numpy()
        return outputs
