"""The layouts of keras.applications' EfficientNetB0..B7 (efficientnet.py) and EfficientNetV2B0..B3, S, M, L (_v2.py).

A key is ``layer/variable``, as `effnet_zoo.checkpoints.keras` reads it from any of Keras' files, for example
``block2a_expand_conv/kernel``. Kernels have height and width first: (h, w, in, out), a depthwise one (h, w, channels,
1), a dense one (in, out).

Both generations pad as TensorFlow's SAME does. V1 has padding layers whose width is fixed when the model is built: its
logits are ours at the size that it was built for. Built for any size (``input_shape=(None, None, 3)``), it pads wrongly
at odd sizes.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from effnet_zoo.arch.blocks import BlockKind
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts.keytable import Form, Forms, KeyTable
from effnet_zoo.layouts.layout import FLOAT32_TOLERANCE, Layout, NetworkDescription, Reference, archs_named

KERAS_FORMS: Forms = {
    "conv": {"weight": Form(name="kernel", axes=(2, 3, 1, 0))},
    "depthwise": {"weight": Form(name="kernel", axes=(2, 3, 0, 1))},
    "squeeze": {"weight": Form(name="kernel", axes=(2, 3, 1, 0)), "bias": Form(name="bias")},
    "norm": {
        "weight": Form(name="gamma"),
        "bias": Form(name="beta"),
        "running_mean": Form(name="moving_mean"),
        "running_var": Form(name="moving_variance"),
    },
    "linear": {"weight": Form(name="kernel", axes=(1, 0)), "bias": Form(name="bias")},
}

_EXPAND, _SE, _PROJECT = ("expand_conv", "expand_bn"), ("se_reduce", "se_expand"), ("project_conv", "project_bn")


def _table(name: str, blocks: Mapping[BlockKind, tuple[str, ...]]) -> KeyTable:
    network = ("stem_conv", "stem_bn", "top_conv", "top_bn", "predictions")
    prefix = "block{stage}{letter}_"
    return KeyTable(name=name, network=network, block=prefix, blocks=blocks, forms=KERAS_FORMS, separator="/")


KERAS_V1 = _table(
    "keras",
    {
        "mbconv": (*_EXPAND, "dwconv", "bn", *_SE, *_PROJECT),
        "separable": ("dwconv", "bn", *_SE, *_PROJECT),
    },
)
KERAS_V2 = _table(
    "keras_v2",
    {
        "mbconv": (*_EXPAND, "dwconv2", "bn", *_SE, *_PROJECT),
        "fused": (*_EXPAND, *_PROJECT),
        "conv": _PROJECT,
    },
)

MODELS: dict[str, tuple[KeyTable, str]] = {
    **{f"EfficientNetB{size}": (KERAS_V1, f"effnet_zoo_b{size}") for size in range(8)},
    **{f"EfficientNetV2B{size}": (KERAS_V2, f"effnet_zoo_v2_b{size}") for size in range(4)},
    **{f"EfficientNetV2{size}": (KERAS_V2, f"effnet_zoo_v2_{size.lower()}") for size in "SML"},
}
"""Every EfficientNet of keras.applications, with its keys and our variant's name."""

PIXELS = {KERAS_V1.name: 255.0, KERAS_V2.name: 1.0}
"""The factor from normalised images to what the network takes once its weights leave images alone: V1 scales by 1/255
first."""

_LOGITS = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy
name, classes, weights, images, logits = sys.argv[1:]
images = numpy.load(images)
plain = {"include_preprocessing": False} if "V2" in name else {}
build = getattr(keras.applications, name)
model = build(weights=None, input_shape=images.shape[1:], classes=int(classes), classifier_activation=None, **plain)
model.load_weights(weights)
numpy.save(logits, model.predict(images, verbose=0))
"""
"""A program of its own, because Keras fixes its backend for a whole process."""


def _reference(table: KeyTable, network: NetworkDescription) -> Reference | None:
    name = next((theirs for theirs, found in MODELS.items() if found == (table, network.variant.name)), None)
    if name is None or network.in_chans != 3 or not network.num_classes or not importlib.util.find_spec("keras"):
        return None
    run = partial(_logits, name, network.num_classes, PIXELS[table.name])
    return Reference(distribution="keras", tolerance=FLOAT32_TOLERANCE, logits_of_file=run)


def _logits(name: str, num_classes: int, factor: float, weights: Path, images: Tensor) -> Tensor:
    """Run a network of keras.applications; its weights must include a normalisation that changes nothing, for V1."""
    with TemporaryDirectory(prefix="effnet-zoo-") as folder:
        pixels, logits = Path(folder, "images.npy"), Path(folder, "logits.npy")
        np.save(pixels, (images * factor).float().permute(0, 2, 3, 1).numpy())
        command = [sys.executable, "-W", "ignore", "-c", _LOGITS, name, str(num_classes)]
        ran = subprocess.run([*command, weights, pixels, logits], capture_output=True, text=True, check=False)
        if ran.returncode:
            reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise WeightsError(f"Keras could not run {name} to compare with: {reason}")
        return torch.from_numpy(np.load(logits))


def _layout(table: KeyTable, call: str, *aliases: str) -> Layout:
    return Layout(
        table=table,
        archs=archs_named(*(name for found, name in MODELS.values() if found is table)),
        convention="SAME padding, batch norm eps 1e-3; images resized whatever the aspect, bilinear",
        loads_with=f"keras.applications: {call}.load_weights('DIR/model.weights.h5')",
        aliases=aliases,
        reference=partial(_reference, table),
        filename="model.weights.h5",
    )


V1_LAYOUT = _layout(KERAS_V1, "EfficientNetB*(weights=None)")
V2_LAYOUT = _layout(KERAS_V2, "EfficientNetV2*(weights=None, include_preprocessing=False)", KERAS_V1.name)
