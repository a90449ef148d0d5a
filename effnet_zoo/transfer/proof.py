"""Converted weights compute what they did before: the source's own implementation is run beside ours.

Both compute in float64 on the same random image, so that what is left is rounding (below 1e-10) or a mistake.
"""

import importlib.util
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from effnet_zoo.arch.families import Activation
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints import config_json, keras_file
from effnet_zoo.checkpoints.bundle import Package, Proof
from effnet_zoo.checkpoints.statefile import read_safetensors
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts import keras
from effnet_zoo.layouts.layout import LAYOUTS
from effnet_zoo.numerics import relative_error
from effnet_zoo.zoo.catalogue import Model

TOLERANCE = 1e-6
"""Largest relative error that passes: far above float64's rounding, far below what a wrong constant changes."""

GOLDEN_TOLERANCE = 1e-3
"""For what was computed in float32: a golden output from elsewhere, or Keras, whose batch norm knows nothing finer."""

KERAS = (keras.KERAS_V1.name, keras.KERAS_V2.name)

SIZE = (97, 130)
"""(height, width) of the image: odd beside even, which shows how every map is padded."""

TRANSFORMERS_ACTIVATIONS: dict[Activation, str] = {"silu": "swish", "relu": "relu", "relu6": "relu6"}

Builder = Callable[[Package, Model], nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """Another library's network: the distribution that has it, and how to build it for a package."""

    distribution: str
    module: str
    build: Builder


def prove(package: Package, layout: str) -> Proof | None:
    """Run a layout's own implementation with the package's weights in that layout, and ours, on one random image.

    Returns:
        The proof, or None if the implementation is not installed or has no such network.

    Raises:
        WeightsError: If the logits differ.
    """
    model = config_json.variant_of(package.arch)
    if layout in KERAS:
        return _prove_by_keras(package, layout)
    implementation = _implementation(layout, package)
    if model is None or implementation is None:
        return None
    try:
        importlib.import_module(implementation.module)
    except ImportError:
        return None
    theirs = implementation.build(package, model)
    theirs.load_state_dict(LAYOUTS[layout].table.to_theirs(package.state, package.arch), strict=True)
    version = metadata.version(implementation.distribution)
    size = (model.spec.image_size,) * 2 if layout == "transformers" else SIZE  # it pads for one size only
    image = _image(package, size)
    return _compare(package, _run(theirs, image), image, f"{implementation.distribution} {version}", TOLERANCE)


_IN_KERAS = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy
name, classes, weights, image, logits = sys.argv[1:]
image = numpy.load(image)
plain = {"include_preprocessing": False} if "V2" in name else {}
build = getattr(keras.applications, name)
model = build(weights=None, input_shape=image.shape[1:], classes=int(classes), classifier_activation=None, **plain)
model.load_weights(weights)
numpy.save(logits, model.predict(image, verbose=0))
"""


def _prove_by_keras(package: Package, layout: str) -> Proof | None:
    """Run keras.applications' network, in a process of its own: Keras fixes its backend for a whole process."""
    name = next((theirs for theirs, (_, ours) in keras.MODELS.items() if ours == package.variant), None)
    there = importlib.util.find_spec("keras") and importlib.util.find_spec("h5py")
    if name is None or not there or package.options["in_chans"] != 3 or not package.num_classes:
        return None
    image = _image(package, SIZE)
    # V1's network scales pixels itself, by a layer that takes mean and std from the file: these leave images alone.
    neutral, scale = (((0.0,) * 3, (1.0,) * 3), 255.0) if layout == "keras" else (None, 1.0)
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        weights, images, logits = (Path(folder, file) for file in ("model.weights.h5", "image.npy", "logits.npy"))
        keras_file.write(weights, package.state, package.arch, normalisation=neutral)
        np.save(images, (image * scale).float().permute(0, 2, 3, 1).numpy())
        arguments = (name, str(package.num_classes), str(weights), str(images), str(logits))
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _IN_KERAS, *arguments], capture_output=True, text=True, check=False
        )
        if ran.returncode:
            reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise WeightsError(f"{package.source}: Keras could not run {name} to compare with: {reason}")
        theirs = torch.from_numpy(np.load(logits))
    return _compare(package, theirs, image, f"keras {metadata.version('keras')}", GOLDEN_TOLERANCE)


def prove_by_golden(package: Package, path: Path) -> Proof:
    """Compare with logits computed elsewhere: a safetensors file with ``image`` (NCHW, normalised) and ``logits``.

    Raises:
        WeightsError: If the file is not that, or the logits differ.
    """
    try:
        golden = read_safetensors(path)
        image, logits = golden["image"].double(), golden["logits"]
    except (WeightsError, KeyError) as error:
        raise WeightsError(f"{path}: expected a safetensors file with 'image' and 'logits': {error}") from None
    in_chans, outputs = package.options["in_chans"], package.num_classes or package.arch.head_filters
    if image.dim() != 4 or image.shape[1] != in_chans or logits.shape != (len(image), outputs):
        raise WeightsError(
            f"{path}: image is {tuple(image.shape)} and logits {tuple(logits.shape)}: expected (n, {in_chans}, height, "
            f"width) and (n, {outputs})"
        )
    return _compare(package, logits, image, path.name, GOLDEN_TOLERANCE)


def _compare(package: Package, theirs: Tensor, image: Tensor, against: str, tolerance: float) -> Proof:
    error = relative_error(_run(package.model(), image), theirs)
    if not error <= tolerance:
        raise WeightsError(
            f"{package.source}: the logits differ from those of {against} by a relative {error:.1e}, more than "
            f"{tolerance:.0e}: nothing was written"
        )
    return Proof(against=against, error=error, size=(image.shape[2], image.shape[3]))


def _run(model: nn.Module, image: Tensor) -> Tensor:
    with torch.inference_mode():
        out: Any = model.eval().double()(image)
    logits: Tensor = getattr(out, "logits", out)
    return logits


def _image(package: Package, size: tuple[int, int]) -> Tensor:
    shape = (1, package.options["in_chans"], *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _implementation(layout: str, package: Package) -> Implementation | None:
    if layout == "effnet_zoo":
        return Implementation(distribution="timm", module="timm", build=_timm)
    if package.options.get("output_stride") or _pooling(package) not in LAYOUTS[layout].pools:
        return None
    if layout == "efficientnet_pytorch":
        name = "efficientnet_lite_pytorch" if "lite" in package.variant else "efficientnet_pytorch"
        return Implementation(distribution=name, module=name, build=_efficientnet_pytorch)
    if layout == "torchvision":
        return Implementation(distribution="torchvision", module="torchvision.models", build=_torchvision)
    if layout == "transformers":
        return Implementation(distribution="transformers", module="transformers", build=_transformers)
    return None


def _pooling(package: Package) -> str:
    return package.options.get("global_pool", "avg")


def _timm(package: Package, model: Model) -> nn.Module:
    built: nn.Module = timm.create_model(
        model.upstream,
        num_classes=package.num_classes,
        in_chans=package.options["in_chans"],
        pad_type=config_json.PAD_TYPES[package.arch.padding],
        bn_eps=package.arch.bn_eps,
        act_layer=package.arch.activation,
        global_pool=_pooling(package),
        output_stride=package.options.get("output_stride") or 32,
    )
    return built


def _efficientnet_pytorch(package: Package, model: Model) -> nn.Module:
    library = importlib.import_module("efficientnet_lite_pytorch" if "lite" in model.name else "efficientnet_pytorch")
    built: nn.Module = library.EfficientNet.from_name(
        model.hub_name.replace("_", "-"),
        in_channels=package.options["in_chans"],
        num_classes=max(1, package.num_classes),
        image_size=None,
        batch_norm_epsilon=package.arch.bn_eps,
    )
    if not package.num_classes:
        built._fc = nn.Identity()
    return built


def _torchvision(package: Package, model: Model) -> nn.Module:
    from torchvision import models

    built: Any = models.get_model(
        model.hub_name.replace("efficientnetv2", "efficientnet_v2"), num_classes=max(1, package.num_classes)
    )
    if not package.num_classes:
        built.classifier[1] = nn.Identity()
    stem = built.features[0][0]
    if stem.in_channels != package.options["in_chans"]:
        built.features[0][0] = nn.Conv2d(package.options["in_chans"], stem.out_channels, 3, 2, 1, bias=False)
    module: nn.Module = built
    return module


def _transformers(package: Package, model: Model) -> nn.Module:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    built: nn.Module = EfficientNetForImageClassification(EfficientNetConfig(**transformers_config(package, model)))
    return built


def transformers_config(package: Package, model: Model) -> dict[str, Any]:
    """The fields of transformers' EfficientNetConfig for a network.

    It pads for one size, the variant's: where the input of a stride-2 block is odd there, ``depthwise_padding`` lists
    the block (convert_efficientnet_to_pytorch.py has the same lists).
    """
    variant = next(v for v in model.family.variants if model.family.timm_prefix + v.name == model.name)
    labels = package.labels or tuple(f"LABEL_{index}" for index in range(package.num_classes))
    return {
        "num_channels": package.options["in_chans"],
        "image_size": model.spec.image_size,
        "width_coefficient": variant.width,
        "depth_coefficient": variant.depth,
        "depthwise_padding": _odd_blocks(model.spec),
        "hidden_dim": package.arch.head_filters,
        "hidden_act": TRANSFORMERS_ACTIVATIONS[package.arch.activation],
        "pooling_type": "max" if _pooling(package) == "max" else "mean",
        "batch_norm_eps": package.arch.bn_eps,
        "dropout_rate": package.arch.drop_rate,
        "drop_connect_rate": package.arch.drop_path_rate,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _odd_blocks(arch: ArchSpec) -> list[int]:
    side, odd = math.ceil(arch.image_size / 2), []
    for index, block in enumerate(block for stage in arch.blocks() for block in stage):
        if block.stride == 2:
            if side % 2:
                odd.append(index)
            side = math.ceil(side / 2)
    return odd
