"""Against keras.applications on its torch backend: its models' files, read without it, and ours loaded by it.

The networks are compared from the stem on, in float64. What its models do in front of the stem is compared apart: even
there Keras has its constants in float32.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import keras
import pytest
import timm
import torch

from effnet_zoo import EfficientNet, Images, convert
from effnet_zoo.checkpoints.keras import layers
from effnet_zoo.checkpoints.keras.reading import read_keras_file as read
from effnet_zoo.checkpoints.keras.writing import write_keras_file as write
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts.keras import KERAS_V1, KERAS_V2, MODELS
from effnet_zoo.layouts.keytable import role_of
from effnet_zoo.numerics import relative_error
from effnet_zoo.zoo import catalogue
from tests.parity import common
from tests.parity.keras_models import (
    CLASSES,
    DRAWN,
    IMAGENET,
    REDUCED,
    SEED,
    WHOLE,
    assert_agree,
    assert_agree_from_pixels,
    assert_holds,
    build,
    build_reduced,
    draw,
    dtype_policy,
    of_layers,
    ours_with,
    reduced_spec,
    spec_of,
    table_of,
)

# Keras' own: its torch backend turns variables into arrays by a protocol that NumPy 2 has extended.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def test_keras_is_set_up_as_these_tests_need_it() -> None:
    assert keras.backend.backend() == "torch"
    assert keras.config.image_data_format() == "channels_last"


def test_no_model_is_left_out() -> None:
    theirs = {name for name in dir(keras.applications) if name.startswith("EfficientNet")}
    assert theirs == set(MODELS) == {*WHOLE, *REDUCED}


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


@pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetV2B0"])
def test_theirs_load_what_is_written(name: str, tmp_path: Path) -> None:
    table, arch = table_of(name), spec_of(name)
    ours = common.drawn(lambda: EfficientNet(arch, num_classes=CLASSES))
    path = tmp_path / "ours.weights.h5"
    write(path, ours.state_dict(), arch, normalisation=DRAWN)
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
    write(path, ours, arch)
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
    ours = common.drawn(lambda: EfficientNet(arch)).state_dict()
    first, second = tmp_path / "first.weights.h5", tmp_path / "second.weights.h5"
    write(first, ours, arch, normalisation=DRAWN)
    found = read(first)
    back = table.to_ours(found.state, arch)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in ours.items())
    write(second, back, arch, normalisation=DRAWN)
    assert second.read_bytes() == first.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]


def test_a_network_without_a_classifier_is_written_without(tmp_path: Path) -> None:
    arch = spec_of("EfficientNetV2B0")
    state = common.drawn(lambda: EfficientNet(arch)).state_dict()
    bare = {key: tensor for key, tensor in state.items() if not key.startswith("classifier.")}
    path = tmp_path / "ours.weights.h5"
    write(path, bare, arch)
    theirs = build("EfficientNetV2B0", common.TINY, include_top=False)
    theirs.load_weights(path)
    assert_holds(read(path), of_layers(theirs))


def test_half_precision_is_written_in_float32(tmp_path: Path) -> None:
    arch = spec_of("EfficientNetV2B0")
    state = common.drawn(lambda: EfficientNet(arch)).bfloat16().state_dict()
    write(tmp_path / "ours.weights.h5", state, arch)
    found = read(tmp_path / "ours.weights.h5").state["stem_conv/kernel"]
    assert found.dtype == torch.float32
    assert torch.equal(found.permute(3, 2, 0, 1), state["conv_stem.weight"].float())


def test_what_keras_could_not_load_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "ours.weights.h5"
    v1, lite = spec_of("EfficientNetB0"), catalogue.models()["effnet_zoo_lite0"].spec
    with common.unallocated():
        state = {key: torch.zeros(tensor.shape) for key, tensor in EfficientNet(v1).state_dict().items()}
    with pytest.raises(WeightsError, match="keras.applications has no such network: .*relu6"):
        write(path, state, lite, normalisation=IMAGENET)
    with pytest.raises(WeightsError, match="has no such network: .*1e-05"):
        write(path, state, dataclasses.replace(v1, bn_eps=1e-5), normalisation=IMAGENET)
    with pytest.raises(WeightsError, match="key 'head.weight' is not one of the effnet_zoo layout"):
        write(path, {**state, "head.weight": torch.zeros(1)}, v1, normalisation=IMAGENET)
    assert not any(tmp_path.iterdir())


def test_roles_and_classes_are_of_every_module() -> None:
    for table, name in MODELS.values():
        for ours in table.modules(catalogue.models()[name].spec):
            known = layers.VARIABLES[layers.CLASSES[role_of(ours)]]
            given = [form.name for form in table.forms[role_of(ours)].values()]
            assert list(known[: len(given)]) == given, "written in another order than Keras numbers them"


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
