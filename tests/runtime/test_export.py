"""Exported files: short graphs that compute what the model does, in every runtime; nothing else is ever left behind."""

import dataclasses
import errno
import json
import os
import pickle
import re
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet, eval_transform, export, preprocessing_of
from effnet_zoo.atomic_io import sha256
from effnet_zoo.errors import (
    ArgumentError,
    EngineError,
    FileError,
    InputError,
    MissingExtraError,
    UnknownNameError,
    WeightsError,
)
from effnet_zoo.images.transform import open_image
from effnet_zoo.numerics import damp, randomise, relative_error, settle, shallow
from effnet_zoo.predict.prediction import predict
from effnet_zoo.runtime import export as export_module
from effnet_zoo.runtime.deployed import Deployed, metadata_of
from effnet_zoo.runtime.exported import Exported
from effnet_zoo.runtime.graph import onnx_model
from effnet_zoo.runtime.interface import Interface, Resizing, Size
from effnet_zoo.runtime.metadata import KEY, Metadata
from effnet_zoo.runtime.targets import FORMATS, pytorch
from effnet_zoo.runtime.targets.onnx import Onnx, onnxruntime_session
from effnet_zoo.runtime.targets.openvino import openvino_session
from effnet_zoo.runtime.targets.target import FileTarget, on_tensors
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing
from tests.parity.photos import PHOTOS
from tests.shell import Run

LITE0 = "effnet_zoo_lite0.pypi_in1k"
WHOLE = ("effnet_zoo_b0", "effnet_zoo_lite0", "effnet_zoo_v2_s")
SIZES: tuple[Size, ...] = ((64, 64), (65, 98), (97, 66), (33, 47))

STATIC = {"Conv", "Sigmoid", "Mul", "Add", "Clip", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}
"""Operators of a graph, whatever its size."""


def network(name: str, **options: Any) -> EfficientNet:
    """A variant with drawn weights, whole or with two blocks a stage."""
    spec = catalogue.models()[name].spec
    arch = spec if name in WHOLE else shallow(spec, 2)
    model = EfficientNet(arch, **{"num_classes": 7, **options})
    return settle(damp(randomise(model, seed=0)), images((64, 64), 4, model.in_chans))


def small(**options: Any) -> EfficientNet:
    """A network of a block a stage, for what is not about the network."""
    model = EfficientNet(shallow(catalogue.models()["effnet_zoo_lite0"].spec), **{"num_classes": 7, **options})
    return settle(damp(randomise(model, seed=0)), images((64, 64), 4, model.in_chans))


def images(size: Size, count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(1))


def operators(graph: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in graph.graph.node}


def error_of(model: nn.Module, run: Any, some: Tensor) -> float:
    with torch.inference_mode():
        return relative_error(run(some), model(some))


@pytest.fixture(scope="session")
def lite0() -> EfficientNet:
    return EfficientNet.from_pretrained(LITE0).eval()


# the graph, for every variant


@pytest.mark.parametrize("name", catalogue.models())
def test_every_variant_is_a_short_graph_of_the_same_function(name: str) -> None:
    model = network(name)
    for size in (None, (65, 98)):
        graph = onnx_model(model, Interface(size=size))
        onnx.checker.check_model(graph, full_check=True)
        assert operators(graph) <= STATIC
        assert not any(node.op_type == "BatchNormalization" for node in graph.graph.node)
        run = on_tensors(onnxruntime_session(graph.SerializeToString(), 1))
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
            run = on_tensors(onnxruntime_session(onnx_model(model, Interface(size=size)).SerializeToString(), 1))
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
    run = on_tensors(onnxruntime_session(onnx_model(model, Interface(dtype="float16")).SerializeToString(), 1))
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


# what goes in and comes out

HOW = Preprocessing(
    size=(64, 64),
    crop_pct=0.875,
    crop_mode="center",
    interpolation="bicubic",
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
)


def pixels(size: Size, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, *size, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_pixels_are_normalised_inside(layout: Any, softmax: bool) -> None:
    model, some = network("effnet_zoo_b0"), pixels((65, 98))
    interface = Interface(pixels=layout, softmax=softmax)
    graph = onnx_model(model, interface, HOW)
    assert operators(graph) <= STATIC | {"Cast", "Transpose", "Softmax"}
    given = some if layout == "nhwc" else some.permute(0, 3, 1, 2)
    outputs = on_tensors(onnxruntime_session(graph.SerializeToString(), 1))(given)
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
    run = on_tensors(onnxruntime_session(graph.SerializeToString(), 1))
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
        Resizing.of(dataclasses.replace(HOW, interpolation="nearest"))
    with pytest.raises(ArgumentError, match="mean and std for 3 channels are not known"):
        onnx_model(network("effnet_zoo_b0"), Interface(pixels="nhwc"))


# files, in every format


WAYS: dict[str, dict[str, Any]] = {
    "static": {},
    "dynamic": {"dynamic": True},
    "pixels": {"pixels": "nhwc", "softmax": True, "size": (192, 256)},
    "resize": {"pixels": "nchw", "resize": True},
    "float16": {"dtype": "float16"},
}


CASES = [
    # PyTorch's formats are built in processes of their own, which take some seconds each.
    pytest.param(name, way, marks=[pytest.mark.slow] * (name == "aotinductor" or ("torch" in name and way != "static")))
    for name in FORMATS
    for way in WAYS
]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_file_is_written_compared_and_says_so(name: str, way: str, lite0: EfficientNet, tmp_path: Path) -> None:
    path = tmp_path / f"lite0{FORMATS[name].suffix}"
    try:
        FORMATS[name].check_installed()
    except MissingExtraError as error:
        pytest.skip(str(error))
    if name == "litert" and way in ("dynamic", "resize", "float16"):
        with pytest.raises(ArgumentError, match="litert (converts for one size|has no float16)"):
            export(lite0, path, format=name, **WAYS[way])
        return
    old = torch.torch_version.TorchVersion(torch.__version__) < "2.9"
    if way == "resize" and name in ("openvino", "aotinductor", *(["torch"] if old else [])):
        with pytest.raises(ArgumentError, match="expected images resized before"):
            export(lite0, path, format=name, **WAYS[way])
        assert list(tmp_path.iterdir()) == []
        return
    done = export(lite0, path, format=name, **WAYS[way])
    assert {file.suffix for file in tmp_path.iterdir()} == {path.suffix, *FORMATS[name].companions}
    assert done.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert done.metadata.proof["error"] < (1e-4 if way != "float16" else 0.02)
    assert done.metadata.proof["photos"] >= len(PHOTOS)
    if way != "float16":
        assert done.metadata.proof["same_label"] == done.metadata.proof["photos"]
    assert done.metadata.labels[285] == "Egyptian cat"
    assert done.metadata.provenance["license"] == "apache-2.0"
    if name in ("onnx", "openvino"):
        found = list(predict(Exported(path), PHOTOS.values(), topk=1))
        expected = list(predict(lite0, PHOTOS.values(), topk=1))
        if way != "pixels":  # for another size, and other crops
            assert [one.guesses[0].label for one in found] == [one.guesses[0].label for one in expected]
        assert Exported(path).metadata == done.metadata


def test_a_program_of_torch_carries_its_record(lite0: EfficientNet, tmp_path: Path) -> None:
    for name in ("torch", "torchscript"):
        path = tmp_path / f"lite0{FORMATS[name].suffix}"
        done = export(lite0, path, format=name)
        extra: dict[str, Any] = {KEY: ""}
        if name == "torch":
            torch.export.load(path, extra_files=extra)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
                torch.jit.load(str(path), _extra_files=extra)
        assert Metadata.from_json(extra[KEY], "it") == done.metadata


def test_other_readers_give_photos_the_models_label(lite0: EfficientNet, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "lite0.onnx"
    export(lite0, path)
    transform = eval_transform(preprocessing_of(lite0.pretrained_cfg))
    some = torch.stack([transform(open_image(photo)) for photo in PHOTOS.values()])
    with torch.inference_mode():
        expected = lite0(some)
    opencv = cv2.dnn.readNetFromONNX(str(path))
    opencv.setInput(some[:1].numpy())
    theirs = {
        "onnxruntime": onnxruntime.InferenceSession(str(path)).run(None, {"images": some.numpy()})[0],
        "openvino": openvino_session(path, 1)(some.numpy()),
    }
    for name, logits in theirs.items():
        assert relative_error(torch.from_numpy(logits), expected) < 1e-5, name
    for photo, wanted in zip(some, expected, strict=True):
        opencv.setInput(photo[None].numpy())
        logits = torch.from_numpy(opencv.forward()[0].copy())
        assert relative_error(logits, wanted) < 1e-4
        assert logits.argmax() == wanted.argmax()


def test_features_and_classes_of_ones_own_are_exported(tmp_path: Path) -> None:
    model = network("effnet_zoo_b0", num_classes=0)
    model.pretrained_cfg = {**EfficientNet.from_name("effnet_zoo_b0").pretrained_cfg, "tag": None}
    done = export(model, tmp_path / "features.onnx", size=(65, 98))
    assert (done.metadata.output, done.metadata.outputs, done.metadata.labels) == ("features", 1280, ())
    model = network("effnet_zoo_b0", num_classes=2)
    model.pretrained_cfg = {**EfficientNet.from_name("effnet_zoo_b0").pretrained_cfg, "label_names": ["crow", "jay"]}
    done = export(model, tmp_path / "birds.onnx", size=64)
    assert done.metadata.labels == ("crow", "jay")
    (answer,) = predict(Exported(tmp_path / "birds.onnx"), [PHOTOS["chelsea.png"]], topk=2)
    assert {guess.label for guess in answer.guesses} == {"crow", "jay"}


def test_a_model_in_training_stays_so_and_is_not_changed(tmp_path: Path) -> None:
    model = network("effnet_zoo_b0")
    model.train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    export(model, tmp_path / "it.onnx", size=64)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


# refusals


def test_a_file_that_computes_something_else_is_not_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = network("effnet_zoo_b0")
    path = tmp_path / "it.onnx"
    export(model, path, size=64)
    before = path.read_bytes()

    def other(self: Onnx, built: Any, path: Path, metadata: Metadata | None = None) -> None:
        scale = next(tensor for tensor in built.graph.initializer if tensor.name == "conv_head.bias")
        scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * 1.01, scale.name))
        original(self, built, path, metadata)

    original = Onnx.save
    monkeypatch.setattr(Onnx, "save", other)
    with pytest.raises(EngineError, match=r"outputs differ from the model's by a relative .*: expected at most 1e-04"):
        export(model, path, size=64, force=True)
    assert [path.name] == [file.name for file in tmp_path.iterdir()]
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["onnx", "openvino", pytest.param("torchscript", marks=pytest.mark.slow)])
def test_the_file_that_is_published_is_the_one_that_was_proven(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, target = small(), FORMATS[name]
    path = tmp_path / f"it{target.suffix}"
    path.write_text("what was there before")
    saved: list[Path] = []
    save = type(target).save

    def other_model() -> EfficientNet:
        other = small()
        with torch.no_grad():
            other.get_parameter("classifier.bias")[0] += 1e-4  # far below the tolerance
        return other

    def spoiled_second(self: FileTarget, built: Any, path: Path, metadata: Metadata) -> None:
        saved.append(path)
        if len(saved) == 2:
            built = target.build(other_model(), metadata.interface, metadata.images, path.parent)
        save(self, built, path, metadata)

    monkeypatch.setattr(type(target), "save", spoiled_second)
    with pytest.raises(EngineError, match="computes something else than the file that was proven: nothing was written"):
        export(model, path, format=name, size=64, force=True)
    assert len(saved) == 2
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "what was there before"


def test_nothing_is_saved_after_the_published_file_was_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[str] = []
    ran: list[str] = []
    save, load = Onnx.save, Onnx.load

    def noted_save(self: Onnx, built: Any, path: Path, metadata: Metadata | None = None) -> None:
        done.append("saved")
        save(self, built, path, metadata)

    def noted_load(self: Onnx, path: Path, device: torch.device, threads: int) -> Any:
        done.append("run")
        ran.append(sha256(path))
        return load(self, path, device, threads)

    monkeypatch.setattr(Onnx, "save", noted_save)
    monkeypatch.setattr(Onnx, "load", noted_load)
    export(small(), tmp_path / "it.onnx", size=64)
    assert done == ["saved", "run", "saved", "run"]
    assert ran[-1] == sha256(tmp_path / "it.onnx")


@pytest.mark.slow
def test_other_models_run_while_one_is_exported(tmp_path: Path) -> None:
    # torch.export in this process would change `nn.Module` for all of its threads.
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()).eval()
    before = nn.Module.__call__, nn.Module.__getattr__, torch.backends.mkldnn.enabled
    seen, failures, ended = set(), [], threading.Event()

    def serve() -> None:
        while not ended.is_set():
            seen.add((nn.Module.__call__, nn.Module.__getattr__, torch.backends.mkldnn.enabled))
            try:
                other(torch.zeros(1, 3, 8, 8))
            except Exception as error:
                failures.append(error)

    server = threading.Thread(target=serve)
    server.start()
    try:
        export(small(), tmp_path / "it.pt2", format="torch", size=64)
    finally:
        ended.set()
        server.join()
    assert (seen, failures) == ({before}, [])


def test_a_model_in_use_is_not_put_in_eval_mode_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = small()
    model.train()
    model.bn1.eval()
    during: list[tuple[bool, bool]] = []
    build = Onnx.build

    def noted(self: Onnx, *arguments: Any) -> Any:
        during.append((model.training, model.bn1.training))
        return build(self, *arguments)

    monkeypatch.setattr(Onnx, "build", noted)
    export(model, tmp_path / "it.onnx", size=64)
    assert during == [(True, False)]
    assert (model.training, model.bn1.training) == (True, False)


def test_a_model_whose_layers_were_changed_is_exported_as_it_is(tmp_path: Path) -> None:
    model = small(in_chans=1, output_stride=16)
    model.act2 = nn.GELU()
    done = export(model, tmp_path / "it.pt2", format="torch", size=64)
    assert done.metadata.proof["error"] < 1e-5


def test_a_child_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dies(function: Any, *arguments: Any, environment: Any) -> None:
        raise EngineError("CppCompileError: C++ compile error")

    monkeypatch.setattr(pytorch, "run_in_child", dies)
    with pytest.raises(EngineError, match=r"building for torch failed: CppCompileError: .* error: nothing was written"):
        export(small(), tmp_path / "it.pt2", format="torch", size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"format": []}, UnknownNameError, r"unknown format \[\]: expected onnx, openvino"),
        ({"size": 224.0}, ArgumentError, r"size=224\.0: expected a side, or height and width"),
        ({"size": True}, ArgumentError, "size=True: expected a side"),
        ({"size": (64, "64")}, ArgumentError, r"size=\(64, '64'\): expected a side"),
        ({"size": 10**9}, ArgumentError, "size=1000000000: expected .* of 32 to 8192 pixels"),
        ({"size": 10**5000}, ArgumentError, "size=a number of thousands of digits: expected"),
        ({"pixels": 3}, ArgumentError, "pixels=3: expected nhwc, nchw"),
        ({"pixels": []}, ArgumentError, r"pixels=\[\]: expected nhwc, nchw"),
        ({"dtype": []}, ArgumentError, r"dtype=\[\]: expected float32, bfloat16, float16"),
        ({"dtype": torch.float32}, ArgumentError, r"dtype=torch\.float32: expected float32"),
        ({"softmax": "no"}, ArgumentError, "softmax='no': expected True or False"),
        ({"force": 1}, ArgumentError, "force=1: expected True or False"),
        ({"dynamic": None}, ArgumentError, "dynamic=None: expected True or False"),
    ],
)
def test_values_of_other_types_are_refused(
    options: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        export(small(), tmp_path / "it.onnx", **options)
    with pytest.raises(ArgumentError, match="path=3: expected a path"):
        export(small(), 3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def refusing(error: int) -> Any:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(error, os.strerror(error))

    return refuse


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = small()
    monkeypatch.setattr(Onnx, "build", refusing(errno.EIO))  # no work may be done
    monkeypatch.chdir(tmp_path)
    for path, message in (
        ("", "expected a name that ends in .onnx"),
        (".", "expected a name that ends in .onnx"),
        ("a" * 256 + ".onnx", "a name of 261 bytes: expected at most 255"),
        ("nul\0.onnx", "a name cannot hold a NUL character"),
    ):
        with pytest.raises(InputError, match=message):
            export(model, path, size=64)
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    with pytest.raises(FileError, match="symbolic links lead in a circle"):
        export(model, "loop.onnx", size=64, force=True)
    (tmp_path / "loop.onnx").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", refusing(errno.EROFS))
        with pytest.raises(FileError, match="the file system is read-only: name another place"):
            export(model, "it.onnx", size=64)
    (tmp_path / "link.xml").symlink_to("other.xml")
    with pytest.raises(
        InputError, match=r"link\.xml: a symbolic link, and openvino writes files that lie side by side"
    ):
        export(model, "link.xml", format="openvino", size=64)
    assert [file.name for file in tmp_path.iterdir()] == ["link.xml"]


def test_a_name_may_be_long_and_a_link_stays_a_link(tmp_path: Path) -> None:
    model = small()
    long = tmp_path / f"{'a' * 245}.onnx"
    export(model, long, size=64)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link.onnx"
    link.symlink_to(Path("elsewhere", "real"))
    done = export(model, link, size=64)
    assert (link.is_symlink(), done.path) == (True, link)
    assert (tmp_path / "elsewhere" / "real").stat().st_size == done.bytes
    assert sorted(file.name for file in tmp_path.iterdir()) == [long.name, "elsewhere", "link.onnx"]


def test_a_full_disk_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "it.onnx"
    path.write_text("what was there before")
    monkeypatch.setattr(Path, "write_bytes", refusing(errno.ENOSPC))
    with pytest.raises(FileError, match="the disk is full: free some space"):
        export(small(), path, size=64, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["it.onnx"]
    assert path.read_text() == "what was there before"


def test_a_file_that_appears_meanwhile_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "it.onnx"

    def slow(model: EfficientNet, interface: Interface) -> Metadata:
        path.write_text("of another process")
        return metadata_of(model, interface)

    monkeypatch.setattr(export_module, "metadata_of", slow)
    with pytest.raises(InputError, match="there is something already"):
        export(small(), path, size=64)
    assert path.read_text() == "of another process"


def test_weights_that_are_no_numbers_are_not_exported(tmp_path: Path) -> None:
    model = small()
    with torch.no_grad():
        model.get_parameter("classifier.bias")[0] = float("nan")
    with pytest.raises(EngineError, match="the model's own outputs are not finite"):
        export(model, tmp_path / "it.onnx", size=64)
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_of_zeros_is_exported(tmp_path: Path) -> None:
    model = small()
    with torch.no_grad():
        model.get_parameter("classifier.weight").zero_()
        model.get_parameter("classifier.bias").zero_()
    assert export(model, tmp_path / "it.onnx", size=64).metadata.proof["error"] == 0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"format": "onx"}, UnknownNameError, "unknown format 'onx'.*Did you mean 'onnx'"),
        ({"size": 224, "dynamic": True}, ArgumentError, "size is for one height and width, dynamic for any"),
        ({"size": 16}, ArgumentError, "size=16: expected a side, or height and width, of 32 to 8192"),
        ({"size": (64, 64, 3)}, ArgumentError, "expected a side, or height and width"),
        ({"pixels": "hwc"}, ArgumentError, "pixels='hwc': expected nhwc, nchw"),
        ({"resize": True}, ArgumentError, "resizing inside takes uint8 images"),
        ({"dtype": "bfloat16"}, ArgumentError, "onnx has no bfloat16: expected float32 or float16"),
        ({"format": "openvino"}, InputError, r"expected a name that ends in \.xml"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    options: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        export(network("effnet_zoo_lite0"), tmp_path / "new" / "it.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept_without_force(tmp_path: Path) -> None:
    model = network("effnet_zoo_lite0")
    path = tmp_path / "it.xml"
    path.with_suffix(".bin").write_text("mine")
    with pytest.raises(InputError, match=r"it\.bin: there is something already: name another, or .*--force"):
        export(model, path, format="openvino", size=64)
    export(model, path, format="openvino", size=64, force=True)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match=r"folder\.onnx: there is something already"):
        export(model, tmp_path / "folder.onnx", size=64, force=True)
    with pytest.raises(InputError, match=r"it\.xml is a file: expected a folder"):
        export(model, path / "it.onnx", size=64)


def test_a_missing_runtime_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Onnx, "packages", ("onnx", "no_such_runtime"))
    with pytest.raises(MissingExtraError, match=r"pip install 'effnet-zoo\[onnxruntime\]'"):
        export(network("effnet_zoo_lite0"), tmp_path / "it.onnx", size=64)


def test_a_file_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(onnx_model(network("effnet_zoo_lite0"), Interface()).SerializeToString())
    with pytest.raises(WeightsError, match="it has no metadata of effnet-zoo"):
        Exported(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not an ONNX file that ONNX Runtime reads"):
        Exported(path)
    with pytest.raises(InputError, match="there is no such file"):
        Exported(tmp_path / "missing.onnx")
    with pytest.raises(WeightsError, match="it: its metadata of effnet-zoo: model: expected str, found int"):
        Metadata.from_json('{"model": 1}', "it")


# records

PLAIN: dict[str, Any] = {
    "model": "effnet_zoo_b0",
    "weights": "0" * 64,
    "interface": {"size": [64, 64], "pixels": None, "resize": False, "softmax": False, "dtype": "float32"},
    "images": {**dataclasses.asdict(HOW), "size": [64, 64]},
    "output": "logits",
    "outputs": 7,
    "labels": [],
    "provenance": {},
    "proof": {},
    "quantization": {},
    "made_by": "0",
}


def test_a_record_is_read_as_it_was_written_and_later_fields_are_ignored() -> None:
    record = Metadata.from_json(json.dumps({**PLAIN, "of_a_later_version": [1]}), "it")
    assert record.interface == Interface(size=(64, 64))
    assert record.images == HOW
    assert Metadata.from_json(record.to_json(), "it") == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": 1e12}, "outputs: expected int, found float"),
        ({"outputs": 10**12}, "outputs: expected int <= 1000000"),
        ({"outputs": 0}, "outputs: expected int >= 1"),
        ({"outputs": "7"}, "outputs: expected int, found str"),
        ({"labels": ["crow"]}, "1 labels for 7 outputs: expected one for each, or none"),
        ({"labels": [1] * 7}, r"labels\[0\]: expected str, found int"),
        ({"labels": None}, "labels: expected array, found null"),
        ({"output": "guesses"}, "output: "),
        ({"output": "probabilities"}, "output probabilities: expected probabilities if, and only if, softmax"),
        ({"interface": {**PLAIN["interface"], "size": [64, 1e9]}}, r"interface\.size\[1\]: expected int, found float"),
        (
            {"interface": {**PLAIN["interface"], "size": [64, 999_999]}},
            r"images of \(64, 64\) for an input of \(64, 999999\): expected one",
        ),
        ({"interface": {**PLAIN["interface"], "size": 64}}, r"interface\.size: expected array"),
        ({"interface": {**PLAIN["interface"], "dtype": "int8"}}, "interface: dtype 'int8': expected float32"),
        ({"images": {**PLAIN["images"], "size": [99_999, 99_999]}}, "images: size .*: expected height and width, 1 to"),
        (
            {"images": {**PLAIN["images"], "std": [0, 1, 1]}},
            r"images: std \(0\.0, 1\.0, 1\.0\): expected a number from",
        ),
        ({"images": {**PLAIN["images"], "crop_pct": 1e-9}}, "images: crop_pct 1e-09: expected a share"),
        ({"images": [1]}, "images: expected object"),
        ({"provenance": 3}, "provenance: expected object, found int"),
    ],
)
def test_a_record_of_another_shape_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=rf"^it\.onnx: its metadata of effnet-zoo: {message}"):
        Metadata.from_json(json.dumps({**PLAIN, **change}), "it.onnx")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", '{"outputs": NaN}', "1", "{", "\0"])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(WeightsError, match=r"^it\.onnx: its metadata of effnet-zoo: "):
        Metadata.from_json(text, "it.onnx")


def test_a_record_is_always_json() -> None:
    record = dataclasses.replace(Metadata.from_json(json.dumps(PLAIN), "it"), proof={"error": float("inf")})
    with pytest.raises(WeightsError, match="metadata of effnet_zoo_b0 cannot be written as JSON"):
        record.to_json()
    model = small()
    model.pretrained_cfg = {"tag": "x", "license": Path("licence")}
    with pytest.raises(WeightsError, match="cannot be written as JSON: Object of type PosixPath"):
        metadata_of(model, Interface())


def with_record(path: Path, **change: Any) -> Path:
    """An ONNX file whose record was changed."""
    graph = onnx.load(path)
    (entry,) = (entry for entry in graph.metadata_props if entry.key == KEY)
    entry.value = json.dumps({**json.loads(entry.value), **change})
    changed = path.with_name("changed.onnx")
    changed.write_bytes(graph.SerializeToString())
    return changed


def test_a_record_that_is_not_true_of_its_graph_is_refused(tmp_path: Path) -> None:
    model = small()
    model.pretrained_cfg = {**EfficientNet.from_name("effnet_zoo_lite0").pretrained_cfg, "tag": None}
    path = tmp_path / "it.onnx"
    done = export(model, path, size=64)
    plain = json.loads(done.metadata.to_json())
    for change, message in (
        ({"outputs": 900_000}, "its metadata say outputs of shape 900000, its graph 7: export it again"),
        (
            {
                "interface": {**plain["interface"], "size": [8000, 8000]},
                "images": {**plain["images"], "size": [8000, 8000]},
            },
            "its metadata say images of shape 3x8000x8000, its graph 3x64x64",
        ),
        ({"interface": {**plain["interface"], "pixels": "nhwc"}}, "say images of shape 64x64x3, its graph 3x64x64"),
    ):
        with pytest.raises(WeightsError, match=message):
            Exported(with_record(path, **change))
    grey = small(in_chans=1)
    export(grey, tmp_path / "grey.onnx", size=64)
    with pytest.raises(WeightsError, match="its images are to be prepared is not in the file"):
        Exported(tmp_path / "grey.onnx")
    grey.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.5,), "std": (0.5,)}
    export(grey, tmp_path / "grey.onnx", size=64, force=True)
    with pytest.raises(WeightsError, match="its metadata say images of shape 3x64x64, its graph 1x64x64"):
        Exported(tmp_path / "grey.onnx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_an_exported_file_is_a_regular_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "it.onnx")
    with pytest.raises(FileError, match=r"it\.onnx: expected a regular file, found a FIFO"):
        Exported(tmp_path / "it.onnx")
    (tmp_path / "it.xml").write_text("<net/>")
    os.mkfifo(tmp_path / "it.bin")
    with pytest.raises(FileError, match=r"it\.bin: expected a regular file, found a FIFO"):
        Exported(tmp_path / "it.xml")


def test_another_weights_file_is_another_fingerprint(tmp_path: Path) -> None:
    model = small()
    model.pretrained_cfg = {**EfficientNet.from_name("effnet_zoo_lite0").pretrained_cfg, "tag": None}
    path = tmp_path / "it.xml"
    export(model, path, format="openvino", size=64)
    before = Exported(path).fingerprint
    weights = path.with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    assert Exported(path).fingerprint != before


# the command


def test_an_exported_file_is_copied_by_opening_it_again(lite0: EfficientNet, tmp_path: Path) -> None:
    export(lite0, tmp_path / "m.onnx")
    exported = Exported(tmp_path / "m.onnx")
    pixels = [numpy.zeros((224, 224, 3), numpy.uint8)]
    assert numpy.array_equal(pickle.loads(pickle.dumps(exported))(pixels), exported(pixels))


def test_an_exported_file_says_that_a_fork_has_no_threads(
    lite0: EfficientNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(lite0, tmp_path / "m.onnx")
    exported = Exported(tmp_path / "m.onnx")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(EngineError, match="this one was forked from it, without its threads: open it here"):
        exported([numpy.zeros((224, 224, 3), numpy.uint8)])


def test_a_classifier_without_bias_is_a_graph_too() -> None:
    model = network("effnet_zoo_b0")
    model.classifier = nn.Linear(model.num_features, 10, bias=False)
    run = on_tensors(onnxruntime_session(onnx_model(model, Interface(size=(64, 64))).SerializeToString(), 1))
    assert error_of(model, run, images((64, 64))) < 1e-5


def test_the_command_knows_every_format() -> None:
    # Of its own, as its help must not import torch.
    assert tuple(FORMATS) == sys.modules["effnet_zoo.cli.export"].FORMATS


def test_the_command_exports_and_predicts_from_the_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("export", LITE0, "--with-resize", "--with-softmax", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["path"] == f"{LITE0}.onnx"
    assert (tmp_path / answer["path"]).stat().st_size == answer["bytes"]
    assert answer["proof"]["same_label"] == answer["proof"]["photos"] > 0
    photo = str(PHOTOS["coffee.png"])
    classes = []
    for model in (answer["path"], LITE0):
        code, out, err = run("predict", photo, "--model", model, "--topk", "1", "--json")
        assert (code, err) == (0, "")
        classes.append(json.loads(out)[0]["classes"][0])
    assert classes[0]["label"] == classes[1]["label"] == "espresso"
    assert abs(classes[0]["probability"] - classes[1]["probability"]) < 0.01
    for arguments, complaint in (
        (["export", LITE0], "there is something already: name another, or replace a file with --force"),
        (["export", LITE0, "--format", "onx"], "unknown format 'onx': .* Did you mean 'onnx'"),
        (["export", LITE0, "--static", "224", "--dynamic"], "--static is for one size, --dynamic for any"),
        (["export", LITE0, "--static", "224x"], "--static 224x: expected height and width"),
        (
            ["export", LITE0, "--static", "16", "--force"],
            r"size=\(16, 16\): expected a side, or height and width, of 32",
        ),
        (["export", LITE0, "--layout", "hwc"], "--layout hwc: expected nhwc or nchw"),
        (["export", LITE0, "--out", ""], "an empty argument at '--out'"),
        (["export", LITE0, "--out", "."], "expected a name that ends in .onnx"),
        (["export", LITE0, "--out", f"{LITE0}.onnx/it.onnx"], "is a file: expected a folder"),
        (["export", "a" * 300], "a name of 305 bytes: expected at most 255"),
        (["export", "no_such", "--out", "it.onnx"], "no_such: expected a weight file, .* or a checkpoint"),
        (["predict", photo, "--model", answer["path"], "--engine", "eager"], "is run by its own runtime"),
        (["predict", photo, "--model", "missing.onnx"], "missing.onnx: there is no such file"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert re.search(complaint, err), err
    assert [path.name for path in tmp_path.iterdir()] == [f"{LITE0}.onnx"]


def test_the_command_embeds_with_a_file_of_features(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(EfficientNet.from_pretrained(LITE0, num_classes=0), "features.onnx")
    photo = str(PHOTOS["coffee.png"])
    found = []
    for model in ("features.onnx", LITE0):
        code, out, err = run("embed", photo, "--model", model, "--json")
        assert (code, err) == (0, "")
        found.append(torch.tensor(json.loads(out)[0]["feature"]))
    assert relative_error(*found) < 1e-4
