"""Models of keras.applications on its torch backend, drawn weights in them, and the comparison with ours."""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import keras
import numpy as np
import torch
from keras.src.applications import efficientnet, efficientnet_v2
from keras.src.backend.common import dtypes
from torch import Tensor

from effnet_zoo import EfficientNet
from effnet_zoo.arch.spec import ArchSpec, variant_spec
from effnet_zoo.checkpoints.keras.reading import KerasFile, Normalisation
from effnet_zoo.layouts.keras import KERAS_V1, KERAS_V2, MODELS
from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.numerics import relative_error
from effnet_zoo.zoo import catalogue
from tests.parity import common

WHOLE = ("EfficientNetB0", "EfficientNetV2B0")

REDUCED = tuple(name for name in MODELS if name not in WHOLE)

DEPTH = {KERAS_V1.name: 0.4, KERAS_V2.name: 0.2}
"""Depth coefficients of the reduced ones: one or a few blocks a stage, at their own width. Whole ones of the larger V2
models magnify the rounding of drawn weights a million times."""

SEED = 3
"""Of the draws tried, the one whose rounding in float32 V2B0 magnifies least: by another, beyond the tolerance."""

SUFFIXES = (".keras", ".h5", ".weights.h5")

CLASSES = 7

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

DRAWN = ((0.41, 0.52, 0.33), (0.21, 0.32, 0.27))
"""A normalisation that no code has as a constant."""

KERAS_DTYPES = {torch.float64: "float64", torch.float32: "float32"}


def spec_of(name: str) -> ArchSpec:
    return catalogue.models()[MODELS[name][1]].spec


def table_of(name: str) -> KeyTable:
    return MODELS[name][0]


def build(name: str, size: common.Size, **options: Any) -> Any:
    """A model of keras.applications that gives logits, for images of one size."""
    settings = {
        "classes": CLASSES,
        "classifier_activation": None,
        "input_shape": (*size, 3),
        "weights": None,
        **options,
    }
    return getattr(keras.applications, name)(**settings)


def build_reduced(name: str, size: common.Size) -> Any:
    """The same of another depth, as keras.applications itself builds its models."""
    _, variant = declared(name)
    settings: dict[str, Any] = {
        "width_coefficient": variant.width,
        "depth_coefficient": DEPTH[table_of(name).name],
        "default_size": 224,
        "classes": CLASSES,
        "classifier_activation": None,
        "input_shape": (*size, 3),
        "weights": None,
    }
    if table_of(name) is KERAS_V1:
        return efficientnet.EfficientNet(**settings)
    return efficientnet_v2.EfficientNetV2(**settings, name=f"efficientnetv2-{variant.name}")  # tells it the stages


def declared(name: str) -> tuple[Any, Any]:
    model = catalogue.models()[MODELS[name][1]]
    return model.family, next(row for row in model.family.variants if model.name.endswith(f"_{row.name}"))


def reduced_spec(name: str) -> ArchSpec:
    family, variant = declared(name)
    return variant_spec(family, dataclasses.replace(variant, depth=DEPTH[table_of(name).name]))


@contextmanager
def dtype_policy(dtype: torch.dtype) -> Iterator[None]:
    """Keras in one dtype: batch norm would else compute in float32, as 64 bits are narrowed where JAX narrows them."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(KERAS_DTYPES[dtype])
    try:
        with patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, {"float64": "float64"}):
            yield
    finally:
        keras.config.set_dtype_policy(before)


def draw(model: Any, seed: int = 0) -> Any:
    """All variables drawn as `effnet_zoo.numerics.randomise` draws ours; float32 can hold each."""
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        for variable in layer.variables if not hasattr(layer, "layers") else ():
            if variable.name == "count":
                continue
            shape, name = variable.shape, variable.name
            if name == "kernel":
                inputs = math.prod(shape[:2] if shape[-1] == 1 else shape[:-1])
                value = random.normal(size=shape) * (2 / inputs) ** 0.5
            elif name in ("moving_variance", "variance"):
                value = random.uniform(0.5, 2.0, shape)
            elif name == "gamma":
                value = random.uniform(0.5, 1.5, shape)
            else:
                value = random.normal(size=shape) * (0.1 if name == "bias" else 0.2)
            variable.assign(value.astype(np.float32))
    return model


def pixels(size: common.Size) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (2, *size, 3), dtype=np.uint8)


def theirs_on(model: Any, images: np.ndarray, dtype: torch.dtype) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(images.astype(KERAS_DTYPES[dtype]), training=False)
    return out.cpu()


def from_pixels(model: EfficientNet, images: np.ndarray, normalisation: Normalisation) -> Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in normalisation)
    with torch.inference_mode():
        return model.float()((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)


def ours_with(state: Mapping[str, Tensor], arch: ArchSpec) -> EfficientNet:
    with common.unallocated():
        model = EfficientNet(arch, num_classes=len(state["classifier.weight"]))
    common.on_cpu(model).load_state_dict(state, strict=True)
    return model.eval()


def assert_agree(ours: EfficientNet, theirs: Any, size: common.Size, dtype: torch.dtype) -> None:
    """Both from the stem on."""
    network = keras.Model(stem_of(theirs).input, theirs.output)
    images = common.images(size, dtype)
    wanted = theirs_on(network, images.permute(0, 2, 3, 1).numpy(), dtype)
    with torch.inference_mode():
        out = ours.to(dtype)(images)
    assert out.dtype == wanted.dtype == dtype
    assert out.shape == wanted.shape
    error = relative_error(out, wanted)
    assert error <= common.TOLERANCE[dtype], f"at {size} in {dtype}: relative error {error:.2e}"


def assert_agree_from_pixels(ours: EfficientNet, theirs: Any, size: common.Size, normalisation: Normalisation) -> None:
    wanted = theirs_on(theirs, pixels(size), torch.float32)
    error = relative_error(from_pixels(ours, pixels(size), normalisation), wanted)
    assert error <= common.TOLERANCE[torch.float32], f"relative error {error:.2e}"


def stem_of(model: Any) -> Any:
    return next(layer for layer in model.layers if layer.name in ("stem_conv_pad", "stem_conv"))


def without_names(path: Path) -> Path:
    """The file as Keras 3.0.5, 3.5.0 and 2.21 write it: layers are numbered, and nothing else."""
    with h5py.File(path, "r+") as file:
        for group in [*file.values()]:
            group.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    return path


def saved(model: Any, path: Path) -> Path:
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


def of_layers(model: Any) -> dict[str, np.ndarray]:
    """Its variables by layer, as its own code holds them."""
    return {
        f"{layer.name}/{variable.name}": keras.ops.convert_to_numpy(variable)
        for layer in model.layers
        for variable in layer.weights
    }


def assert_holds(found: KerasFile, variables: Mapping[str, np.ndarray]) -> None:
    network = {key: value for key, value in variables.items() if not key.startswith("normalization")}
    assert found.state.keys() == network.keys()
    for key, value in network.items():
        assert found.state[key].numpy().dtype == value.dtype
        np.testing.assert_array_equal(found.state[key].numpy(), value)


def small_stem(name: str = "stem_conv") -> Any:
    return keras.layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name=name)


def small(*head: Any, front: tuple[Any, ...] = (), **bn: Any) -> Any:
    """As much of a network as reading looks at: its first and its last layers by name, and a head."""
    layers = keras.layers
    network = [
        small_stem(),
        layers.BatchNormalization(name="stem_bn", **bn),
        layers.Activation("swish", name="stem_activation"),
        layers.Conv2D(8, 1, use_bias=False, name="top_conv"),
        layers.BatchNormalization(name="top_bn"),
        layers.Activation("swish", name="top_activation"),
    ]
    return keras.Sequential([keras.Input((16, 16, 3)), *front, *network, *head])


def head_of(*kinds: str) -> list[Any]:
    layers: dict[str, Any] = {
        "pool": keras.layers.GlobalAveragePooling2D,
        "max": keras.layers.GlobalMaxPooling2D,
        "flatten": keras.layers.Flatten,
        "norm": keras.layers.BatchNormalization,
        "softmax": keras.layers.Softmax,
        "function": lambda: keras.layers.Lambda(lambda x: x / 0),
        "drop": lambda: keras.layers.Dropout(0.5),
        "relu": lambda: keras.layers.Dense(8, activation="relu"),
        "dense": lambda: keras.layers.Dense(CLASSES),
    }
    return [layers[kind]() for kind in kinds]
