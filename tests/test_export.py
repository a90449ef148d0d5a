"""Exported files: short graphs that compute what the model does, in every runtime; nothing else is ever left behind."""

import dataclasses
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet, catalog, eval_transform, export, preprocessing_of
from effnet_zoo.errors import (
    ArgumentError,
    EngineError,
    InputError,
    MissingExtraError,
    UnknownNameError,
    WeightsError,
)
from effnet_zoo.export import formats
from effnet_zoo.export.exported import Exported
from effnet_zoo.export.formats import FORMATS
from effnet_zoo.export.record import KEY, Record
from effnet_zoo.graphs.interface import Deployed, Interface, Resizing, Size
from effnet_zoo.graphs.runtimes import onnxruntime_run, openvino_run
from effnet_zoo.graphs.writer import onnx_model
from effnet_zoo.ledger import Preprocessing
from effnet_zoo.predict import predict
from effnet_zoo.preprocess import open_image
from effnet_zoo.selftest import damp, randomise, relative_error, settle, shallow
from tests.parity.photos import PHOTOS
from tests.shell import Run

LITE0 = "effnet_zoo_lite0.pypi_in1k"
WHOLE = ("effnet_zoo_b0", "effnet_zoo_lite0", "effnet_zoo_v2_s")
SIZES: tuple[Size, ...] = ((64, 64), (65, 98), (97, 66), (33, 47))

STATIC = {"Conv", "Sigmoid", "Mul", "Add", "Clip", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}
"""Operators of a graph, whatever its size."""


def network(name: str, **options: Any) -> EfficientNet:
    """A variant with drawn weights, whole or with two blocks a stage."""
    spec = catalog.models()[name].spec
    arch = spec if name in WHOLE else shallow(spec, 2)
    model = EfficientNet(arch, **{"num_classes": 7, **options})
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


@pytest.mark.parametrize("name", catalog.models())
def test_every_variant_is_a_short_graph_of_the_same_function(name: str) -> None:
    model = network(name)
    for size in (None, (65, 98)):
        graph = onnx_model(model, Interface(size=size))
        onnx.checker.check_model(graph, full_check=True)
        assert operators(graph) <= STATIC
        assert not any(node.op_type == "BatchNormalization" for node in graph.graph.node)
        run = onnxruntime_run(graph.SerializeToString(), 1)
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
    arch = dataclasses.replace(shallow(catalog.models()["effnet_zoo_b0"].spec), padding="symmetric")
    for pool in ("avg", "max", "avgmax", "catavgmax"):
        model = EfficientNet(arch, num_classes=5, global_pool=pool, output_stride=8, in_chans=1)
        settle(randomise(model, seed=1), images((64, 64), 4, 1))
        for size in (None, (65, 98)):
            run = onnxruntime_run(onnx_model(model, Interface(size=size)).SerializeToString(), 1)
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
    run = onnxruntime_run(onnx_model(model, Interface(dtype="float16")).SerializeToString(), 1)
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
    monkeypatch.setattr("effnet_zoo.graphs.writer.LIMIT", 10_000_000)
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
    outputs = onnxruntime_run(graph.SerializeToString(), 1)(given)
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
    run = onnxruntime_run(graph.SerializeToString(), 1)
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


EVERY = [pytest.param(name, marks=[pytest.mark.slow] * (name == "aotinductor")) for name in FORMATS]


WAYS: dict[str, dict[str, Any]] = {
    "static": {},
    "dynamic": {"dynamic": True},
    "pixels": {"pixels": "nhwc", "softmax": True, "size": (192, 256)},
    "resize": {"pixels": "nchw", "resize": True},
    "float16": {"dtype": "float16"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EVERY)
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
    assert done.record.proof["error"] < (1e-4 if way != "float16" else 0.02)
    assert done.record.proof["photos"] >= len(PHOTOS)
    if way != "float16":
        assert done.record.proof["same_label"] == done.record.proof["photos"]
    assert done.record.labels[285] == "Egyptian cat"
    assert done.record.provenance["license"] == "apache-2.0"
    if name in ("onnx", "openvino"):
        found = list(predict(Exported(path), PHOTOS.values(), topk=1))
        expected = list(predict(lite0, PHOTOS.values(), topk=1))
        if way != "pixels":  # for another size, and other crops
            assert [one.guesses[0].label for one in found] == [one.guesses[0].label for one in expected]
        assert Exported(path).record == done.record


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
        assert Record.from_json(extra[KEY], "it") == done.record


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
        "openvino": openvino_run(path, 1)(some).numpy(),
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
    assert (done.record.output, done.record.outputs, done.record.labels) == ("features", 1280, ())
    model = network("effnet_zoo_b0", num_classes=2)
    model.pretrained_cfg = {**EfficientNet.from_name("effnet_zoo_b0").pretrained_cfg, "label_names": ["crow", "jay"]}
    done = export(model, tmp_path / "birds.onnx", size=64)
    assert done.record.labels == ("crow", "jay")
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

    def other(built: Any, record: Record, path: Path) -> None:
        scale = next(tensor for tensor in built.graph.initializer if tensor.name == "conv_head.bias")
        scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * 1.01, scale.name))
        original(built, record, path)

    original = formats.write_onnx
    monkeypatch.setattr(formats, "write_onnx", other)
    with pytest.raises(EngineError, match=r"outputs differ from the model's by a relative .*: expected at most 1e-04"):
        export(model, path, size=64, force=True)
    assert [path.name] == [file.name for file in tmp_path.iterdir()]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"format": "onx"}, UnknownNameError, "unknown format 'onx'.*Did you mean 'onnx'"),
        ({"size": 224, "dynamic": True}, ArgumentError, "size is for one height and width, dynamic for any"),
        ({"size": 16}, ArgumentError, "size 16x16: expected at least 32x32"),
        ({"size": (64, 64, 3)}, ArgumentError, "expected a side, or height and width"),
        ({"pixels": "hwc"}, ArgumentError, "pixels='hwc': expected nhwc or nchw"),
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
    monkeypatch.setattr(formats.Onnx, "packages", ("onnx", "no_such_runtime"))
    with pytest.raises(MissingExtraError, match=r"pip install 'effnet-zoo\[onnxruntime\]'"):
        export(network("effnet_zoo_lite0"), tmp_path / "it.onnx", size=64)


def test_a_file_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(onnx_model(network("effnet_zoo_lite0"), Interface()).SerializeToString())
    with pytest.raises(WeightsError, match="no record of effnet-zoo in its metadata"):
        Exported(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not an ONNX file that ONNX Runtime reads"):
        Exported(path)
    with pytest.raises(InputError, match="there is no such file"):
        Exported(tmp_path / "missing.onnx")
    with pytest.raises(WeightsError, match="it: its record of effnet-zoo: model: expected str, found int"):
        Record.from_json('{"model": 1}', "it")


# the command


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
        (["export", LITE0, "--static", "16", "--force"], "size 16x16: expected at least 32x32"),
        (["export", LITE0, "--layout", "hwc"], "--layout hwc: expected nhwc or nchw"),
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
