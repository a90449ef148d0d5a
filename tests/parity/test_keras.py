"""Against keras.applications on its torch backend: its models' files, read without it, and ours loaded by it.

The networks are compared from the stem on, in float64. What its models do in front of the stem is compared apart: even
there Keras has its constants in float32.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported

import dataclasses
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import keras
import numpy as np
import pytest
import timm
import torch
from keras.src.applications import efficientnet, efficientnet_v2
from keras.src.backend.common import dtypes
from keras.src.utils import file_utils
from torch import Tensor

from effnet_zoo import EfficientNet, Images, convert
from effnet_zoo.arch.spec import ArchSpec, variant_spec
from effnet_zoo.checkpoints.keras import KerasFile, hdf5, layers, reading
from effnet_zoo.checkpoints.keras import read_keras_file as read
from effnet_zoo.checkpoints.keras import write_keras_file as write
from effnet_zoo.checkpoints.keras.surroundings import Normalisation
from effnet_zoo.errors import MissingExtraError, WeightsError
from effnet_zoo.layouts.keras import KERAS_V1, KERAS_V2, MODELS
from effnet_zoo.layouts.keytable import KeyTable, role_of
from effnet_zoo.numerics import relative_error
from effnet_zoo.transfer import opening
from effnet_zoo.zoo import catalogue
from tests.parity import common

# Keras' own: its torch backend turns variables into arrays by a protocol that NumPy 2 has extended.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

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


def test_keras_is_set_up_as_these_tests_need_it() -> None:
    assert keras.backend.backend() == "torch"
    assert keras.config.image_data_format() == "channels_last"


def test_no_model_is_left_out() -> None:
    theirs = {name for name in dir(keras.applications) if name.startswith("EfficientNet")}
    assert theirs == set(MODELS) == {*WHOLE, *REDUCED}


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


# Logits.


@pytest.mark.parametrize("name", WHOLE)
def test_logits(name: str, tmp_path: Path) -> None:
    table, arch = table_of(name), spec_of(name)
    path = tmp_path / "theirs.weights.h5"
    with dtype_policy(torch.float32):
        draw(build(name, common.SMALL), seed=SEED).save_weights(path)
    state = read(path).state
    ours = ours_with(table.to_ours(state, arch), arch)
    for dtype, size in (
        (torch.float64, common.TINY),
        (torch.float64, common.SMALL),
        (torch.float32, common.SMALL),
    ):
        with dtype_policy(dtype):
            theirs = build(name, size)
            theirs.load_weights(path)
            assert_agree(ours, theirs, size, dtype)


@pytest.mark.parametrize("name", REDUCED)
def test_reduced_logits(name: str, tmp_path: Path) -> None:
    arch, path = reduced_spec(name), tmp_path / "theirs.weights.h5"
    with dtype_policy(torch.float64):
        theirs = draw(build_reduced(name, common.TINY))
        theirs.save_weights(path)
        ours = ours_with(table_of(name).to_ours(read(path).state, arch), arch)
        assert_agree(ours, theirs, common.TINY, torch.float64)


@pytest.fixture(scope="module", params=["EfficientNetB0", "EfficientNetV2B0"])
def theirs(request: pytest.FixtureRequest) -> Any:
    model = draw(build(request.param, common.TINY))
    model.compile(optimizer=keras.optimizers.Adam(use_ema=True), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_holds_the_same(theirs: Any, suffix: str, tmp_path: Path) -> None:
    found = read(saved(theirs, tmp_path / f"theirs{suffix}"))
    assert_holds(found, of_layers(theirs))
    whole = suffix != ".weights.h5"
    assert (found.normalisation is None) != whole
    assert found.classifier_activation == ("linear" if whole else None)
    assert found.input_size == (common.TINY if whole else None)
    optimizer = [reason for key, reason in found.dropped.items() if key.startswith("optimizer")]
    assert len(optimizer) == len(theirs.optimizer.variables)
    assert all(reason.startswith("state of the optimizer") for reason in optimizer)
    assert all(("moving averages (use_ema)" in reason) == whole for reason in optimizer)
    rest = {key: reason for key, reason in found.dropped.items() if not key.startswith("optimizer")}
    in_front = {key: reading.PREPARES for key in of_layers(theirs) if key.startswith("normalization")}
    assert len(rest) == len(in_front)
    assert set(rest.values()) <= {reading.PREPARES}


def test_a_file_without_names_is_read_by_position(theirs: Any, tmp_path: Path) -> None:
    path = without_names(saved(theirs, tmp_path / "theirs.weights.h5"))
    assert_holds(read(path), of_layers(theirs))


def test_keras_2_names_are_read(theirs: Any, tmp_path: Path) -> None:
    """Weights alone as tf.keras writes them: kernel:0, depthwise_kernel:0, and a number where a name was taken."""
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name for layer in theirs.layers]
        for key, value in of_layers(theirs).items():
            layer, variable = key.split("/")
            variable = f"depthwise_{variable}" if "dwconv" in layer else variable
            file[f"{layer}/{layer}_1/{variable}:0"] = value
    assert_holds(read(path), of_layers(theirs))


def test_a_float16_and_a_bfloat16_file_keep_their_dtype(tmp_path: Path) -> None:
    for policy, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        path = tmp_path / f"{policy}.weights.h5"
        with h5py.File(path, "w") as file:
            layer = file.create_group("layers/conv2d/vars")
            layer.attrs["name"] = "stem_conv"
            value = torch.arange(27.0).view(3, 3, 3, 1).to(dtype)
            raw = value.view(torch.int16).numpy().view("V2") if dtype is torch.bfloat16 else value.numpy()
            layer.create_dataset("0", data=raw).attrs["dtype"] = policy
        (tensor,) = read(path).state.values()
        assert tensor.dtype == dtype
        assert torch.equal(tensor, value)


# Keys of every model, without allocating any.


@pytest.fixture(scope="module")
def unallocated() -> dict[str, list[tuple[str, str, dict[str, tuple[int, ...]]]]]:
    """Of every model its layers with variables: class, name, and the shapes."""
    models = {}
    for name in MODELS:
        with keras.device("meta"):
            model = getattr(keras.applications, name)(weights=None)
        models[name] = [
            (type(layer).__name__, layer.name, {variable.name: tuple(variable.shape) for variable in layer.weights})
            for layer in model.layers
            if layer.weights
        ]
    return models


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_shapes_of_every_model(name: str, unallocated: Any) -> None:
    table, arch = MODELS[name][0], spec_of(name)
    with common.unallocated():
        ours = EfficientNet(arch)
    expected = {key: tuple(tensor.shape) for key, tensor in table.to_theirs(ours.state_dict(), arch).items()}
    given = {
        f"{layer}/{variable}": shape
        for kind, layer, variables in unallocated[name]
        for variable, shape in variables.items()
        if kind != "Normalization"
    }
    assert given == expected


@pytest.mark.parametrize("name", MODELS)
def test_layers_of_each_class_are_in_our_order(name: str, unallocated: Any) -> None:
    """What a file without names is read by."""
    expected = layers.layers_by_class(MODELS[name][0], spec_of(name))
    for group, kind in (
        ("conv2d", "Conv2D"),
        ("depthwise_conv2d", "DepthwiseConv2D"),
        ("batch_normalization", "BatchNormalization"),
    ):
        assert [layer for other, layer, _ in unallocated[name] if other == kind] == expected[group]


def test_no_two_models_have_as_many_layers_and_the_same_widths() -> None:
    looks = set()
    for table, name in MODELS.values():
        arch = catalogue.models()[name].spec
        numbers = [len(layers) for layers in layers.layers_by_class(table, arch).values()]
        looks.add((*numbers, arch.stem_filters, arch.head_filters))
    assert len(looks) == len(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_tensors_map_both_ways(name: str) -> None:
    table, arch = MODELS[name][0], spec_of(name)
    with common.unallocated():
        ours = EfficientNet(arch).state_dict()
    back = table.to_ours(table.to_theirs(ours, arch), arch)
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in ours.items()}


# What stands in front of the network.


def assert_normalisation_is_theirs(model: Any, found: KerasFile) -> None:
    """What their own layers make of a random image, to the rounding of float32."""
    assert found.normalisation is not None
    mean, std = (np.asarray(values) for values in found.normalisation)
    front = keras.Model(model.inputs[0], stem_of(model).input)
    images = pixels(model.input_shape[1:3])
    wanted = theirs_on(front, images, torch.float64).numpy()
    ours = (images / 255 - mean) / std
    np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("EfficientNetB0", ".keras"),
        ("EfficientNetB0", ".h5"),
        ("EfficientNetV2B0", ".h5"),
        ("EfficientNetV2S", ".keras"),
    ],
)
def test_normalisation_is_what_their_layers_compute(name: str, suffix: str, tmp_path: Path) -> None:
    with dtype_policy(torch.float64):
        model = headless(name, common.TINY)
        assert_normalisation_is_theirs(model, read(saved(model, tmp_path / f"theirs{suffix}")))


def headless(name: str, size: common.Size) -> Any:
    """Up to the first block, which is all that preprocessing needs."""
    whole = build(name, size, include_top=False)
    return draw(keras.Model(whole.inputs, whole.get_layer("stem_bn").output))


def test_normalisation_with_imagenet_weights_has_a_second_rescaling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their code divides by the standard deviation twice over its root: the variance in the file is the deviation."""
    arch = spec_of("EfficientNetB0")
    ours = common.drawn(lambda: EfficientNet(arch))
    mean, std = IMAGENET
    released = tmp_path / "released.weights.h5"
    write(released, ours.state_dict(), arch, normalisation=(mean, tuple(value**0.5 for value in std)))
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: released)
    theirs = keras.applications.EfficientNetB0(input_shape=(224, 224, 3), classifier_activation=None)
    found = read(saved(theirs, tmp_path / "theirs.keras"))
    assert found.normalisation is not None
    np.testing.assert_allclose(found.normalisation, IMAGENET, rtol=1e-6)  # the variance is float32 in the file
    assert_normalisation_is_theirs(theirs, found)
    assert_agree_from_pixels(ours.eval(), theirs, (224, 224), found.normalisation)


def test_an_unadapted_normalization_is_the_identity(tmp_path: Path) -> None:
    with dtype_policy(torch.float32):
        whole = build("EfficientNetB0", common.TINY)
        model = keras.Model(whole.inputs, whole.get_layer("stem_bn").output)
    found = read(saved(model, tmp_path / "theirs.keras"))
    assert found.normalisation == ((0.0,) * 3, (1.0,) * 3)


def test_a_model_without_preprocessing_does_not_say_how_images_are_prepared(tmp_path: Path) -> None:
    whole = build("EfficientNetV2B0", common.TINY, include_preprocessing=False)
    model = keras.Model(whole.inputs, whole.get_layer("stem_bn").output)
    assert read(saved(model, tmp_path / "theirs.keras")).normalisation is None


FRONTS: dict[str, list[Any]] = {
    "scaled to -1..1 outside": [keras.layers.Rescaling(1 / 127.5, offset=-1)],
    "lists": [keras.layers.Rescaling([0.1, 0.2, 0.3], offset=[1.0, 2.0, 3.0])],
    "arrays": [keras.layers.Rescaling(np.array([0.1, 0.2, 0.3]), offset=np.float64(2))],
    "constants": [keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])],
    "one constant": [keras.layers.Normalization(mean=3.0, variance=4.0, axis=None)],
    "augmented": [keras.layers.RandomFlip(), keras.layers.RandomContrast(0.1), keras.layers.Rescaling(0.25)],
}


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_layers_in_front_are_part_of_the_normalisation(front: list[Any], tmp_path: Path) -> None:
    layers = [keras.layers.deserialize(keras.layers.serialize(layer)) for layer in front]
    image = keras.Input((*common.TINY, 3))
    model = keras.Model(image, small_stem()(keras.Sequential(layers)(image)))
    assert_normalisation_is_theirs(model, read(saved(model, tmp_path / "theirs.keras")))


def small_stem(name: str = "stem_conv") -> Any:
    return keras.layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name=name)


UNCLEAR: dict[str, list[Any]] = {
    "a function": [keras.layers.Rescaling(1 / 255), keras.layers.Lambda(lambda x: x)],
    "inverted": [keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0], invert=True)],
    "nothing left": [keras.layers.Rescaling(0.0)],
    "a random crop": [keras.layers.RandomCrop(*common.TINY), keras.layers.Rescaling(1 / 255)],
    "each pixel for itself": [keras.layers.Normalization(axis=(1, 2, 3))],
}


@pytest.mark.parametrize("front", UNCLEAR.values(), ids=UNCLEAR)
def test_other_layers_in_front_leave_the_normalisation_open(front: list[Any], tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((*common.TINY, 3)), *front, small_stem()])
    model.save(tmp_path / "theirs.keras")
    assert read(tmp_path / "theirs.keras").normalisation is None


# Fine-tuned models.


def fine_tuned(name: str, how: str) -> Any:
    base = build(name, common.TINY, include_top=False)
    base.trainable = False
    layers = keras.layers
    if how == "sequential":
        augment = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)], name="augment")
        pool, drop = layers.GlobalAveragePooling2D(), layers.Dropout(0.3)
        dense = layers.Dense(CLASSES, activation="softmax", name="flowers")
        return draw(keras.Sequential([keras.Input((*common.TINY, 3)), augment, base, pool, drop, dense]))
    image = keras.Input((*common.TINY, 3))
    x = layers.GlobalAveragePooling2D()(base(image, training=False))
    x = layers.Dense(CLASSES, name="flowers")(layers.Dropout(0.3)(x))
    return draw(keras.Model(image, layers.Activation("softmax", dtype="float32")(x)))


@pytest.mark.parametrize(("name", "how"), [("EfficientNetB0", "sequential"), ("EfficientNetV2B0", "functional")])
def test_fine_tuned_models_are_read(name: str, how: str, tmp_path: Path) -> None:
    table, arch = table_of(name), spec_of(name)
    model = fine_tuned(name, how)
    wanted = theirs_on(model, pixels(common.TINY), torch.float32)
    whole = read(saved(model, tmp_path / "theirs.keras"))
    assert whole.normalisation is not None
    assert whole.classifier_activation == "softmax"
    assert whole.input_size == common.TINY
    ours = ours_with(table.to_ours(whole.state, arch), arch)
    out = from_pixels(ours, pixels(common.TINY), whole.normalisation).softmax(1)
    assert relative_error(out, wanted) <= common.TOLERANCE[torch.float32]
    others = [saved(model, tmp_path / f"theirs{suffix}") for suffix in (".h5", ".weights.h5")]
    unnamed = without_names(saved(model, tmp_path / "unnamed.weights.h5"))
    for path in (*others, unnamed):
        found = read(path)
        assert found.state.keys() == whole.state.keys()
        assert all(torch.equal(found.state[key], tensor) for key, tensor in whole.state.items()), path


def test_a_file_without_a_classifier_is_read_without(tmp_path: Path) -> None:
    found = read(saved(build("EfficientNetB0", common.TINY, include_top=False), tmp_path / "theirs.keras"))
    assert "top_bn/gamma" in found.state
    assert not any(key.startswith("predictions") for key in found.state)
    assert found.classifier_activation is None


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


@pytest.mark.parametrize(
    "kinds", [("pool", "dense"), ("pool", "flatten", "drop", "dense"), ("pool", "dense", "softmax")]
)
def test_heads_that_ours_can_be(kinds: tuple[str, ...], tmp_path: Path) -> None:
    found = read(saved(small(*head_of(*kinds)), tmp_path / "theirs.keras"))
    assert found.state["predictions/kernel"].shape == (8, CLASSES)
    assert found.classifier_activation == ("softmax" if kinds[-1] == "softmax" else "linear")


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("pool", "relu", "dense"), r"\(dense\w*, dense\w*\): expected one dense layer"),
        (("pool", "norm", "dense"), r"no place for \(batch_normalization\w*\)"),
        (("max", "dense"), r"its head is \w+ \(GlobalMaxPooling2D\), \w+ \(Dense\): expected GlobalAveragePooling2D"),
        (("flatten", "dense"), r"its head is \w+ \(Flatten\)"),
        (("pool", "function", "dense"), r"\(Lambda\)"),
        (("pool", "relu", "softmax"), "two activations"),
    ],
    ids=str,
)
def test_other_heads_are_refused_by_name(kinds: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        read(saved(small(*head_of(*kinds)), tmp_path / "theirs.keras"))


def test_what_is_written_otherwise_inside_the_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.keras"
    with pytest.raises(WeightsError, match="layer stem_bn has epsilon 1e-05: expected keras.applications' 0.001"):
        read(saved(small(epsilon=1e-5), path))
    model = small()
    model.get_layer("top_activation").activation = keras.activations.relu
    with pytest.raises(WeightsError, match="layer top_activation has activation relu: expected swish"):
        read(saved(model, path))
    attention = keras.layers.Dropout(0.1, name="attention")
    with pytest.raises(WeightsError, match=r"layer attention \(Dropout\) is inside the network"):
        read(
            saved(
                keras.Sequential([keras.Input((16, 16, 3)), *small().layers[:3], attention, small_stem("top_conv")]),
                path,
            )
        )


# Ours, written for Keras.


@pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetV2B0"])
def test_theirs_load_what_is_written(name: str, tmp_path: Path) -> None:
    table, arch = table_of(name), spec_of(name)
    ours = common.drawn(lambda: EfficientNet(arch, num_classes=CLASSES))
    path = tmp_path / "ours.weights.h5"
    write(path, ours.state_dict(), arch, normalisation=DRAWN if table is KERAS_V1 else None)
    with dtype_policy(torch.float64):
        theirs = build(name, common.TINY)
        theirs.load_weights(path)
        assert_agree(ours.eval(), theirs, common.TINY, torch.float64)
    theirs = build(name, common.TINY)
    theirs.load_weights(path)
    assert_agree_from_pixels(ours, theirs, common.TINY, DRAWN if table is KERAS_V1 else IMAGENET)


def test_theirs_load_every_variable(tmp_path: Path) -> None:
    arch = spec_of("EfficientNetV2S")
    with common.unallocated():
        model = EfficientNet(arch, num_classes=CLASSES)
    ours = common.on_cpu(model).state_dict()
    for number, tensor in enumerate(ours.values()):
        tensor.fill_(number)
    path = tmp_path / "ours.weights.h5"
    write(path, ours, arch, normalisation=None)
    theirs = build("EfficientNetV2S", common.TINY)
    theirs.load_weights(path)
    path.unlink()  # pytest keeps temporary folders, and this is large
    for key, tensor in KERAS_V2.to_theirs(ours, arch).items():
        layer, variable = key.split("/")
        loaded = next(value for value in theirs.get_layer(layer).weights if value.name == variable)
        assert torch.equal(loaded.value, tensor), key


@pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetV2B0"])
def test_a_round_trip_changes_nothing(name: str, tmp_path: Path) -> None:
    table, arch = table_of(name), spec_of(name)
    normalisation = DRAWN if table is KERAS_V1 else None
    ours = common.drawn(lambda: EfficientNet(arch)).state_dict()
    first, second = tmp_path / "first.weights.h5", tmp_path / "second.weights.h5"
    write(first, ours, arch, normalisation=normalisation)
    found = read(first)
    back = table.to_ours(found.state, arch)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in ours.items())
    write(second, back, arch, normalisation=normalisation)
    assert second.read_bytes() == first.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]


def test_a_network_without_a_classifier_is_written_without(tmp_path: Path) -> None:
    arch = spec_of("EfficientNetV2B0")
    state = common.drawn(lambda: EfficientNet(arch)).state_dict()
    bare = {key: tensor for key, tensor in state.items() if not key.startswith("classifier.")}
    path = tmp_path / "ours.weights.h5"
    write(path, bare, arch, normalisation=None)
    theirs = build("EfficientNetV2B0", common.TINY, include_top=False)
    theirs.load_weights(path)
    assert_holds(read(path), of_layers(theirs))


def test_half_precision_is_written_in_float32(tmp_path: Path) -> None:
    arch = spec_of("EfficientNetV2B0")
    state = common.drawn(lambda: EfficientNet(arch)).bfloat16().state_dict()
    write(tmp_path / "ours.weights.h5", state, arch, normalisation=None)
    found = read(tmp_path / "ours.weights.h5").state["stem_conv/kernel"]
    assert found.dtype == torch.float32
    assert torch.equal(found.permute(3, 2, 0, 1), state["conv_stem.weight"].float())


def test_what_keras_could_not_load_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "ours.weights.h5"
    v1, v2, lite = spec_of("EfficientNetB0"), spec_of("EfficientNetV2B0"), catalogue.models()["effnet_zoo_lite0"].spec
    with common.unallocated():
        state = {key: torch.zeros(tensor.shape) for key, tensor in EfficientNet(v1).state_dict().items()}
    with pytest.raises(WeightsError, match="expected a name that ends in .weights.h5"):
        write(tmp_path / "ours.h5", state, v1, normalisation=IMAGENET)
    with pytest.raises(WeightsError, match="keras.applications has no such network: .*relu6"):
        write(path, state, lite, normalisation=IMAGENET)
    with pytest.raises(WeightsError, match="has no such network: .*1e-05"):
        write(path, state, dataclasses.replace(v1, bn_eps=1e-5), normalisation=IMAGENET)
    with pytest.raises(WeightsError, match="expected a normalisation for V1"):
        write(path, state, v1, normalisation=None)
    with pytest.raises(WeightsError, match="None for V2"):
        write(path, {}, v2, normalisation=IMAGENET)
    with pytest.raises(WeightsError, match=r"1 tensors are missing \(classifier.bias, ...\)"):
        write(path, {key: state[key] for key in state if key != "classifier.bias"}, v1, normalisation=IMAGENET)
    with pytest.raises(WeightsError, match="key 'head.weight' is not one of the effnet_zoo layout"):
        write(path, {**state, "head.weight": torch.zeros(1)}, v1, normalisation=IMAGENET)
    assert not any(tmp_path.iterdir())


# Files that are not what they seem.


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A small whole file, to be damaged."""
    return saved(small(*head_of("pool", "dense")), tmp_path / "good.keras")


def weights_only(path: Path, variables: Mapping[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = list(variables)
        for key, value in variables.items():
            file[key] = value
    return path


STEM = {"stem_conv/kernel": np.zeros((3, 3, 3, 4), np.float32)}


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing.h5: there is no such file or folder: expected a weight file"):
        read(tmp_path / "missing.h5")
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(WeightsError, match="pipe.h5: expected a regular file, found a FIFO"):
        read(tmp_path / "pipe.h5")
    with pytest.raises(WeightsError, match=r"a folder: expected a file; a SavedModel .*model.save\('model.keras'\)"):
        read(tmp_path)
    for content in (b"", b"weights", b"\x80\x02}q\x00."):
        (tmp_path / "other.h5").write_bytes(content)
        with pytest.raises(WeightsError, match="other.h5: neither a zip nor an HDF5 file"):
            read(tmp_path / "other.h5")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_refused(share: float, suffix: str, tmp_path: Path) -> None:
    path = saved(small(*head_of("pool", "dense")), tmp_path / f"theirs{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=f"theirs{suffix}"):
        read(path)


def test_a_damaged_archive_is_refused(good: Path) -> None:
    content = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        middle = archive.getinfo("model.weights.h5").header_offset + 5000
    content[middle] ^= 0xFF
    good.write_bytes(content)
    with pytest.raises(WeightsError, match="is not a whole file of Keras: Bad CRC-32 .*save or download it again"):
        read(good)


def rezipped(path: Path, changed: Mapping[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """An archive with other content in some of its members, or without them."""
    with zipfile.ZipFile(path) as archive:
        members: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {**members, **changed}.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def test_a_compressed_archive_is_read(good: Path) -> None:
    before = read(good)
    after = read(rezipped(good, {}, zipfile.ZIP_DEFLATED))
    assert all(torch.equal(after.state[key], tensor) for key, tensor in before.state.items())


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_an_archive_that_unpacks_to_much_more_is_refused(member: str, good: Path) -> None:
    with pytest.raises(WeightsError, match=f"{member} in it would unpack to 64000000 bytes"):
        read(rezipped(good, {member: bytes(64_000_000)}, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"config.json": None}, "an archive without config.json: expected what model.save"),
        ({"model.weights.h5": None}, "an archive without model.weights.h5"),
        ({"config.json": b"{"}, "is not a whole file of Keras"),
        ({"config.json": b"[]"}, "its configuration: expected object, found array"),
        ({"config.json": b"[" * 100_000}, "is not a whole file of Keras"),
        ({"config.json": b'{"a":' * 100_000}, "is not a whole file of Keras"),
        ({"config.json": b'{"config": {"layers": [' * 100 + b"]}}" * 100}, "more than 32 models inside each other"),
        ({"config.json": b'{"config": 5}'}, "its configuration: config: expected object, found int"),
        ({"config.json": b'{"config": {"layers": 5}}'}, "its configuration: layers: expected array, found int"),
        ({"config.json": b'{"config": {"layers": []}}'}, "names other layers than its weights do"),
        ({"model.weights.h5": b"weights"}, "is not a whole file of Keras"),
    ],
    ids=str,
)
def test_a_malformed_archive_is_refused(changed: dict[str, bytes | None], message: str, good: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        read(rezipped(good, changed))


def test_a_configuration_of_other_layers_than_the_weights_is_refused(good: Path) -> None:
    with zipfile.ZipFile(good) as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"] = [layer for layer in config["config"]["layers"] if layer["class_name"] == "InputLayer"]
    # The names in the file remain, and the layers that they name have no place in the configuration.
    with pytest.raises(WeightsError, match="names other layers than its weights do: save the model again"):
        read(rezipped(good, {"config.json": json.dumps(config).encode()}))


def test_a_model_that_is_no_efficientnet_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    for suffix in SUFFIXES:
        path = saved(model, tmp_path / f"theirs{suffix}")
        with pytest.raises(WeightsError, match="expected (one|an) EfficientNet of keras.applications"):
            read(path)


def test_a_network_without_names_of_another_depth_is_refused(tmp_path: Path) -> None:
    path = without_names(saved(build_reduced("EfficientNetV2B1", common.TINY), tmp_path / "theirs.weights.h5"))
    with pytest.raises(WeightsError, match=r"its layers have no names, and no network .*model.save\('model.keras'\)"):
        read(path)


def test_two_networks_in_a_file_are_refused(tmp_path: Path) -> None:
    path = weights_only(tmp_path / "two.h5", {f"{model}/{key}": value for model in "ab" for key, value in STEM.items()})
    with pytest.raises(WeightsError, match="two layers are named stem_conv: expected one EfficientNet"):
        read(path)


def test_integers_are_refused(tmp_path: Path) -> None:
    path = weights_only(tmp_path / "quantised.h5", {"stem_conv/kernel": np.zeros((3, 3, 3, 4), np.int8)})
    with pytest.raises(WeightsError, match="stem_conv/kernel is of type int8: expected floating point; quantised"):
        read(path)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    value = np.arange(108, dtype=">f4").reshape(3, 3, 3, 4)
    found = read(weights_only(tmp_path / "big.h5", {"stem_conv/kernel": value}))
    assert found.state["stem_conv/kernel"].flatten().tolist() == list(range(108))


def test_declared_but_missing_data_are_refused(tmp_path: Path) -> None:
    path = weights_only(tmp_path / "bomb.h5", {})
    for options in ({}, {"chunks": (1, 1, 1, 1 << 16), "compression": "gzip"}):
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = ["stem_conv"]
            file.create_dataset("stem_conv/kernel", (3, 3, 1 << 14, 1 << 20), "f4", **options)
        with pytest.raises(WeightsError, match="stem_conv/kernel has .* bytes, of which the file holds next to none"):
            read(path)


def test_too_much_of_anything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights_only(tmp_path / "large.h5", STEM)
    monkeypatch.setattr(hdf5, "MAX_BYTES", 100)
    with pytest.raises(WeightsError, match="432 bytes of tensors: expected one network, 100 at most"):
        read(path)
    monkeypatch.setattr(hdf5, "MAX_ENTRIES", 1)
    with pytest.raises(WeightsError, match="more than 1 entries, or 64 groups"):
        read(path)


def test_a_group_that_holds_itself_ends(tmp_path: Path) -> None:
    path = weights_only(tmp_path / "loop.h5", STEM)
    with h5py.File(path, "r+") as file:
        file["stem_conv/again"] = file["stem_conv"]
    with pytest.raises(WeightsError, match="or 64 groups inside each other: expected the layers of"):
        read(path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1000))
    other = weights_only(tmp_path / "other.h5", STEM)
    path = weights_only(tmp_path / "theirs.h5", STEM)
    links: tuple[Any, ...] = (h5py.SoftLink("/stem_conv/kernel"), h5py.ExternalLink(other, "/stem_conv/kernel"))
    for link in links:
        with h5py.File(path, "r+") as file:
            file["link"] = link
        with pytest.raises(WeightsError, match="link is a link to elsewhere"):
            read(path)
        with h5py.File(path, "r+") as file:
            del file["link"]
    with h5py.File(path, "r+") as file:
        file.create_dataset("outside", (4,), "f4", external=[(str(secret), 0, 16)])
    with pytest.raises(WeightsError, match="outside is in another file"):
        read(path)


def test_nothing_in_a_file_is_executed(good: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(good) as archive:
        config = json.loads(archive.read("config.json"))
    witness = tmp_path / "executed"
    harmful = {"class_name": "__lambda__", "config": {"code": f"open({str(witness)!r}, 'w')"}}
    layer = {"module": "os", "class_name": "system", "config": {"name": "harm", "function": harmful}}
    config["config"]["layers"].insert(1, layer)
    assert read(rezipped(good, {"config.json": json.dumps(config).encode()})).normalisation is None
    assert not witness.exists()


def test_a_missing_h5py_names_the_extra(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    for action in (lambda: read(good), lambda: write(good, {}, spec_of("EfficientNetB0"), normalisation=None)):
        with pytest.raises(MissingExtraError, match=r"pip install 'effnet-zoo\[keras\]'"):
            action()


def test_roles_and_classes_are_of_every_module() -> None:
    for table, name in MODELS.values():
        for ours in table.modules(catalogue.models()[name].spec):
            known = layers.VARIABLES[layers.CLASSES[role_of(ours)]]
            given = [form.name for form in table.forms[role_of(ours)].values()]
            assert list(known[: len(given)]) == given, "written in another order than Keras numbers them"


# The whole way: a user's file, to a folder for timm, and back.


def test_a_file_becomes_a_folder_that_timm_loads_and_then_a_file_that_keras_loads(tmp_path: Path) -> None:
    build = partial(
        keras.applications.EfficientNetB0,
        weights=None,
        classes=CLASSES,
        classifier_activation=None,
        input_shape=(97, 130, 3),
    )
    theirs = build()
    theirs.save(tmp_path / "theirs.keras")
    package = convert(str(tmp_path / "theirs.keras"), tmp_path / "ours", images=Images(mean=DRAWN[0], std=DRAWN[1]))
    assert package.proof is not None
    assert "keras 3" in package.proof.against
    ours = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    x = common.images((97, 130), torch.float32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in DRAWN)
    pixels = ((x * std + mean) * 255).permute(0, 2, 3, 1).numpy()
    convert(str(tmp_path / "ours"), tmp_path / "back", to="keras")
    back = build()
    back.load_weights(tmp_path / "back" / "model.weights.h5")
    with torch.inference_mode():
        assert relative_error(ours(x), torch.from_numpy(back.predict(pixels, verbose=0))) <= 1e-4


def test_a_file_that_crashes_hdf5_is_refused_by_the_process_that_survives(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.applications.EfficientNetB0(weights=None, classes=2).save_weights(tmp_path / "model.weights.h5")
    monkeypatch.setattr(hdf5, "WALK", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(WeightsError, match="model.weights.h5 is not a whole HDF5 file: reading it crashes HDF5"):
        opening.open_package(str(tmp_path / "model.weights.h5"))


def test_a_walk_through_hdf5_has_a_limit_of_time_and_of_memory(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "model.weights.h5"
    with zipfile.ZipFile(good) as archive:
        place.write_bytes(archive.read("model.weights.h5"))
    monkeypatch.setattr(hdf5, "WALK_BYTES", 64 << 20)
    with pytest.raises(WeightsError, match=r"model.weights.h5 is not a whole HDF5 file: .*; save or download it again"):
        opening.open_package(str(place))
    monkeypatch.setattr(hdf5, "WALK", "import time; time.sleep(60)")
    monkeypatch.setattr(hdf5, "WALK_SECONDS", 0.2)
    with pytest.raises(WeightsError, match=r"model.weights.h5: reading it takes more than 0.2 s: expected a file of K"):
        opening.open_package(str(place))


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_the_backbone_is_taken_without_a_head_of_another_kind(suffix: str, tmp_path: Path) -> None:
    inner = keras.applications.EfficientNetB0(weights=None, include_top=False, pooling="avg")
    model = keras.Sequential([inner, keras.layers.Dense(7), keras.layers.ReLU(), keras.layers.Dense(3)])
    path = saved(model, tmp_path / f"model{suffix}")
    with pytest.raises(WeightsError, match="--backbone-only leaves"):
        opening.open_package(str(path))
    package = opening.open_package(str(path), backbone_only=True)
    assert package.num_classes == 0
    assert sorted(reason for reason in package.dropped.values()).count("not of the backbone") == 4
