"""ONNX graphs: short, and the same function as the model, for every variant, size and kind of input."""

import dataclasses
from typing import Any

import numpy
import onnx
import pytest
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet, eval_transform
from effnet_zoo.errors import (
    ArgumentError,
    EngineError,
)
from effnet_zoo.images.decoding import open_image
from effnet_zoo.numerics import randomise, relative_error, settle, shallow
from effnet_zoo.runtime.deployed import Deployed, covered_size
from effnet_zoo.runtime.graph import onnx_model
from effnet_zoo.runtime.metadata import Interface
from effnet_zoo.runtime.targets.onnx import ONNX
from effnet_zoo.runtime.targets.target import on_tensors
from effnet_zoo.zoo import catalogue
from tests.parity.photos import PHOTOS
from tests.runtime.drawn import HOW, SIZES, STATIC, WHOLE, error_of, images, network, operators, pixels


@pytest.mark.parametrize("name", catalogue.models())
def test_every_variant_is_a_short_graph_of_the_same_function(name: str) -> None:
    model = network(name)
    for size in (None, (65, 98)):
        graph = onnx_model(model, Interface(size=size))
        onnx.checker.check_model(graph, full_check=True)
        assert operators(graph) <= STATIC
        assert not any(node.op_type == "BatchNormalization" for node in graph.graph.node)
        run = on_tensors(ONNX.open_session(graph.SerializeToString(), 1))
        for some in SIZES if size is None else [size]:
            assert error_of(model, run, images(some)) < 1e-4, some


@pytest.mark.parametrize("name", WHOLE)
def test_a_graph_for_any_size_pads_in_its_convolutions(name: str) -> None:
    graph = onnx_model(network(name), Interface())
    strided = [node for node in graph.graph.node if any(a.name == "strides" and a.ints[0] == 2 for a in node.attribute)]
    assert len(strided) == 5
    for node in strided:
        assert onnx.helper.get_node_attr_value(node, "auto_pad") == b"SAME_UPPER"


def test_symmetric_padding_dilation_and_other_poolings_are_exported_too() -> None:
    arch = dataclasses.replace(shallow(catalogue.models()["effnet_zoo_b0"].spec), padding="symmetric")
    for pool in ("avg", "max", "avgmax", "catavgmax"):
        model = EfficientNet(arch, num_classes=5, global_pool=pool, output_stride=8, in_chans=1)
        settle(randomise(model, seed=1), images((64, 64), 4, 1))
        for size in (None, (65, 98)):
            run = on_tensors(ONNX.open_session(onnx_model(model, Interface(size=size)).SerializeToString(), 1))
            assert error_of(model, run, images((65, 98), channels=1)) < 1e-5


def test_nodes_are_called_after_modules() -> None:
    model = network("effnet_zoo_b0")
    modules = {name for name, module in model.named_modules() if type(module).__name__ in ("Conv2d", "SameConv2d")}
    nodes = {node.name for node in onnx_model(model, Interface()).graph.node}
    assert modules <= nodes


def test_means_are_taken_in_float32_where_float16_would_overflow() -> None:
    model = network("effnet_zoo_b0")
    with torch.no_grad():  # what squeeze-excite sees first: 33 x 49 pixels of some 100 sum to more than float16 has
        model.get_parameter("blocks.0.0.bn1.bias").add_(100.0)
    settle(model, images((65, 98), 4))
    run = on_tensors(ONNX.open_session(onnx_model(model, Interface(dtype="float16")).SerializeToString(), 1))
    some = images((65, 98))
    with torch.inference_mode():
        assert relative_error(run(some), model(some)) < 0.1
    graph = onnx_model(model, Interface(dtype="float16"))
    # Not every runtime computes means in float16, so it must be seen in the graph that none may.
    makers = {node.output[0]: node for node in graph.graph.node}
    for node in graph.graph.node:
        if node.op_type == "GlobalAveragePool":
            assert onnx.helper.get_node_attr_value(makers[node.input[0]], "to") == onnx.TensorProto.FLOAT
    assert {tensor.data_type for tensor in graph.graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_a_layer_of_another_kind_is_refused_by_name() -> None:
    model = network("effnet_zoo_b0")
    model.act2 = nn.GELU()
    with pytest.raises(EngineError, match="act2 is GELU, which has no translation"):
        onnx_model(model, Interface())


def test_weights_beyond_protobufs_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_zoo.runtime.graph.LIMIT", 10_000_000)
    with pytest.raises(ArgumentError, match=r"0\.0\d GB of weights: expected at most .* export in float16"):
        onnx_model(network("effnet_zoo_b0"), Interface())


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_pixels_are_normalised_inside(layout: Any, softmax: bool) -> None:
    model, some = network("effnet_zoo_b0"), pixels((65, 98))
    interface = Interface(pixels=layout, softmax=softmax)
    graph = onnx_model(model, interface, HOW)
    assert operators(graph) <= STATIC | {"Cast", "Transpose", "Softmax"}
    given = some if layout == "nhwc" else some.permute(0, 3, 1, 2)
    outputs = on_tensors(ONNX.open_session(graph.SerializeToString(), 1))(given)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (HOW.mean, HOW.std))
    with torch.inference_mode():
        expected = model((some.permute(0, 3, 1, 2) / 255 - mean) / std)
        expected = expected.softmax(1) if softmax else expected
    assert relative_error(outputs, expected) < 1e-5
    assert relative_error(Deployed(model, interface, HOW)(given), expected) < 1e-5


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop", ["center", "squash"])
def test_images_are_resized_and_cropped_inside(mode: str, crop: str) -> None:
    how = dataclasses.replace(HOW, interpolation=mode, crop_mode=crop)
    model = network("effnet_zoo_b0")
    interface = Interface(size=how.size, pixels="nhwc", resize=True)
    graph = onnx_model(model, interface, how)
    onnx.checker.check_model(graph, full_check=True)
    run = on_tensors(ONNX.open_session(graph.SerializeToString(), 1))
    for size in ((300, 451), (451, 300), (129, 77), (40, 50)):
        assert error_of(Deployed(model, interface, how), run, pixels(size)) < 1e-4, size


@pytest.mark.parametrize("photo", PHOTOS)
def test_resizing_inside_gives_the_reference_preprocessing_within_a_grey_level(photo: str) -> None:
    how = dataclasses.replace(HOW, size=(224, 224), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    interface = Interface(size=how.size, pixels="nhwc", resize=True)

    class Seen(nn.Module):
        in_chans = 3

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    image = open_image(PHOTOS[photo])
    deployed = Deployed(Seen(), interface, how)  # type: ignore[arg-type]
    seen = deployed(torch.from_numpy(numpy.array(image))[None])
    assert (seen - eval_transform(how)(image).flatten()).abs().max() < 1.5  # Pillow rounds twice, by a half each


def test_only_what_fits_together_is_an_interface() -> None:
    with pytest.raises(ArgumentError, match="size 31x64: expected at least 32x32"):
        Interface(size=(31, 64))
    with pytest.raises(ArgumentError, match="takes uint8 images and ends at one size"):
        Interface(size=(64, 64), resize=True)
    with pytest.raises(ArgumentError, match="expected float32, bfloat16, float16"):
        Interface(dtype="int8")
    with pytest.raises(ArgumentError, match="nearest to 64x64, center: expected bicubic or"):
        covered_size(dataclasses.replace(HOW, interpolation="nearest"))
    with pytest.raises(ArgumentError, match="mean and std for 3 channels are not known"):
        onnx_model(network("effnet_zoo_b0"), Interface(pixels="nhwc"))


def test_a_classifier_without_bias_is_a_graph_too() -> None:
    model = network("effnet_zoo_b0")
    model.classifier = nn.Linear(model.num_features, 10, bias=False)
    run = on_tensors(ONNX.open_session(onnx_model(model, Interface(size=(64, 64))).SerializeToString(), 1))
    assert error_of(model, run, images((64, 64))) < 1e-5
