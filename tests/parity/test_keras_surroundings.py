"""What stands in front of the network and behind it in a Keras model: preprocessing, and heads of fine-tuned models."""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras.src.utils import file_utils

from effnet_zoo import EfficientNet
from effnet_zoo.checkpoints.keras.reading import KerasFile
from effnet_zoo.checkpoints.keras.reading import read_keras_file as read
from effnet_zoo.checkpoints.keras.writing import write_keras_file as write
from effnet_zoo.errors import WeightsError
from effnet_zoo.numerics import relative_error
from tests.parity import common
from tests.parity.keras_models import (
    CLASSES,
    IMAGENET,
    assert_agree_from_pixels,
    build,
    draw,
    dtype_policy,
    from_pixels,
    head_of,
    ours_with,
    pixels,
    saved,
    small,
    small_stem,
    spec_of,
    stem_of,
    table_of,
    theirs_on,
    without_names,
)

# Keras' own: its torch backend turns variables into arrays by a protocol that NumPy 2 has extended.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


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


@pytest.mark.parametrize(
    "kinds", [("pool", "dense"), ("pool", "flatten", "drop", "dense"), ("pool", "dense", "softmax")]
)
def test_heads_that_ours_can_be(kinds: tuple[str, ...], tmp_path: Path) -> None:
    found = read(saved(small(*head_of(*kinds)), tmp_path / "theirs.keras"))
    assert found.state["predictions/kernel"].shape == (8, CLASSES)


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
