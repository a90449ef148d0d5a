"""Quantized files: figures that are true, and nothing written where labels change."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import onnxruntime.quantization
import pytest
import torch
from PIL import Image
from torch import Tensor

from effnet_zoo import EfficientNet, optimize, quantize
from effnet_zoo.checkpoints.creation import create_classifier
from effnet_zoo.errors import ArgumentError, EngineError, InputError, MissingExtraError, UnknownNameError
from effnet_zoo.images.decoding import open_image
from effnet_zoo.images.transform import eval_transform
from effnet_zoo.numerics import relative_error
from effnet_zoo.predict.prediction import predict
from effnet_zoo.runtime.deployed import Deployed
from effnet_zoo.runtime.exported import Exported
from effnet_zoo.runtime.int8 import quantization
from effnet_zoo.runtime.int8.recipes import layers
from effnet_zoo.runtime.int8.rounding import LEVELS, observe, round_weights, simulated
from effnet_zoo.runtime.metadata import Interface, Metadata
from effnet_zoo.runtime.targets.onnx import Onnx
from effnet_zoo.zoo.preprocessing import preprocessing_of
from tests.runtime.int8 import LITE0, SIZE, network
from tests.shell import Run


def test_the_file_computes_what_was_simulated(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    model = network()
    done = quantize(model, tmp_path / "it.onnx", folders[0], evaluation=folders[1], recipe="int8", min_agreement=0.01)
    graph = onnx.load(tmp_path / "it.onnx")
    onnx.checker.check_model(graph, full_check=True)
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    makers = {output: node for node in graph.graph.node for output in node.output}
    for node in graph.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            pixels, weight = (makers[name] for name in node.input[:2])
            assert (pixels.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
            stored = tensors[weight.input[0]]
            assert stored.data_type == onnx.TensorProto.INT8
            # A scale an output channel, and no rounding of the rounded: the largest of each is 127.
            values = numpy.abs(onnx.numpy_helper.to_array(stored).reshape(stored.dims[0], -1)).max(1)
            assert set(values) == {LEVELS}
            assert len(onnx.numpy_helper.to_array(tensors[weight.input[1]])) == stored.dims[0]
        elif node.op_type in ("Sigmoid", "Mul", "Add", "GlobalAveragePool"):
            assert all(makers[name].op_type != "DequantizeLinear" for name in node.input if name in makers)
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    some = torch.stack([transform(open_image(path)) for path in sorted(folders[1].iterdir())[:16]])
    folded = optimize(model)
    calibration = [transform(open_image(path))[None] for path in sorted(folders[0].iterdir())]
    seen = observe(Deployed(folded, Interface(), None), calibration)
    round_weights(folded, seen)
    with torch.inference_mode(), simulated(folded, layers(folded), seen):
        expected = folded(some)
    session = onnxruntime.InferenceSession(str(tmp_path / "it.onnx"), providers=["CPUExecutionProvider"])
    outputs = torch.from_numpy(session.run(None, {"images": some.numpy()})[0])
    with torch.inference_mode():
        exact = model(some)
    # Not the same roundings, which a last bit turns over, but as much error.
    assert 0.7 < relative_error(outputs, exact) / relative_error(expected, exact) < 1.4
    assert done[0].figures["error"] < 0.4


@pytest.mark.slow
def test_lite0_keeps_its_labels_in_a_quarter_of_the_size(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model = EfficientNet.from_pretrained(LITE0)
    path = tmp_path / "lite0.onnx"
    (done,) = quantize(model, path, folders[0], evaluation=folders[1], min_agreement=0.96)
    figures = done.figures
    assert figures["agreement"] >= 0.96
    assert figures["error"] < 0.06
    assert figures["size_ratio"] <= 0.27
    assert (figures["calibrated_on"], figures["compared_on"]) == (100, 200)
    assert figures["bytes"]["int8"] == pytest.approx(path.stat().st_size, rel=0.02)  # figures are in the file itself
    # What it says is what another run of the file finds.
    photos = sorted(folders[1].iterdir())
    both = [list(predict(one, photos, topk=1)) for one in (model, Exported(path))]
    same = [a.guesses[0].index == b.guesses[0].index for a, b in zip(*both, strict=True)]
    assert abs(sum(same) / len(same) - figures["agreement"]) < 0.015
    assert Exported(path).metadata == done.metadata
    assert all(cost < figures["error"] for cost in figures["groups"].values())


def test_accuracy_is_told_where_folders_are_classes(tmp_path: Path) -> None:
    model = network()
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    draw = numpy.random.default_rng(0)
    names = [f"class-{number}" for number in range(10)]
    right = 0
    for part in ("calib", "eval"):
        for number in range(24):
            image = Image.fromarray(draw.integers(0, 256, (SIZE, SIZE, 3), dtype=numpy.uint8))
            with torch.inference_mode():
                label = int(model(transform(image)[None]).argmax())
            if number % 4 == 0:  # a quarter in a wrong folder
                label = (label + 1) % 10
            elif part == "eval":
                right += 1
            (tmp_path / part / names[label]).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / part / names[label] / f"{number}.png")
    (done,) = quantize(
        model,
        tmp_path / "it.onnx",
        tmp_path / "calib",
        evaluation=tmp_path / "eval",
        classes=names,
        recipe="int8",
        min_agreement=0.01,
    )
    assert done.figures["accuracy"]["float32"] == pytest.approx(right / 24)
    with pytest.raises(InputError, match="expected a folder for each class, such as"):
        quantize(model, tmp_path / "new.onnx", tmp_path / "calib", classes=[f"other-{n}" for n in range(10)])


@pytest.mark.parametrize(("pixels", "softmax"), [("nhwc", True), ("nchw", False)])
def test_pixels_are_taken_as_in_export(pixels: Any, softmax: bool, tmp_path: Path, folders: tuple[Path, Path]) -> None:
    model = network("effnet_zoo_lite0")
    (done,) = quantize(
        model, tmp_path / "it.onnx", folders[0], recipe="int8", min_agreement=0.1, pixels=pixels, softmax=softmax
    )
    assert done.figures["compared_on"] == 50  # of a hundred, half are calibrated with
    photos = sorted(folders[1].iterdir())[:20]
    both = [list(predict(one, photos, topk=1)) for one in (model, Exported(tmp_path / "it.onnx"))]
    assert sum(a.guesses[0].index == b.guesses[0].index for a, b in zip(*both, strict=True)) >= 14


def worse(quantized: tuple[dict[str, Any], dict[str, Tensor]], agreement: float) -> Any:
    figures, outputs = quantized
    return {**figures, "agreement": agreement}, outputs


def test_nothing_is_written_where_labels_change_and_a_search_goes_on(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = quantization._Trial.measured
    agreements = {"int8": 0.5, "front-4": 0.97, "front-8": 0.99, "front-8-head": 1.0}
    monkeypatch.setattr(
        quantization._Trial,
        "measured",
        lambda self, recipe, path: worse(tell(self, recipe, path), agreements[recipe.name]),
    )
    model, path = network("effnet_zoo_lite0"), tmp_path / "it.onnx"
    path.write_text("what was there before")
    (done,) = quantize(model, path, folders[0], recipe="front-4", force=True)
    assert (done.recipe, done.path) == ("front-4", None)
    assert path.read_text() == "what was there before"
    tried = quantize(model, path, folders[0], search=True, force=True)
    assert [(one.recipe, one.path is not None) for one in tried] == [
        ("int8", False),
        ("front-4", False),
        ("front-8", True),
    ]
    assert Exported(path).metadata.quantization["recipe"] == "front-8"
    assert [file.name for file in tmp_path.iterdir()] == ["it.onnx"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"recipe": "front"}, UnknownNameError, "unknown recipe 'front'.*Did you mean 'front-"),
        ({"min_agreement": 98}, ArgumentError, "min_agreement=98: expected more than 0 and at most 1"),
        ({"classes": ["a"]}, ArgumentError, r"classes=\['a'\]: expected a list of 10 names, one for each output"),
        ({"size": 16}, ArgumentError, "size=16: expected a side, or height and width, of 32 to 8192"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    with pytest.raises(kind, match=message):
        quantize(network("effnet_zoo_lite0"), tmp_path / "it.onnx", folders[0], **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"recipe": []}, UnknownNameError, r"unknown recipe \[\]: expected int8, front-4"),
        ({"min_agreement": "x"}, ArgumentError, "min_agreement='x': expected more than 0 and at most 1"),
        ({"min_agreement": float("nan")}, ArgumentError, "min_agreement=nan: expected more than 0"),
        ({"min_agreement": True}, ArgumentError, "min_agreement=True: expected more than 0"),
        ({"images": True}, ArgumentError, "images=True: expected how many to calibrate with, at least 8"),
        ({"images": 7}, ArgumentError, "images=7: expected how many to calibrate with, at least 8"),
        ({"images": 50.0}, ArgumentError, r"images=50\.0: expected how many"),
        ({"classes": "0123456789"}, ArgumentError, "classes='0123456789': expected a list of 10 names"),
        ({"classes": list(range(10))}, ArgumentError, r"classes=\[0, 1.*: expected a list of 10 names"),
        ({"size": 64.0}, ArgumentError, r"size=64\.0: expected a side"),
        ({"pixels": 3}, ArgumentError, "pixels=3: expected nhwc, nchw"),
        ({"search": "no"}, ArgumentError, "search='no': expected True or False"),
        ({"force": None}, ArgumentError, "force=None: expected True or False"),
    ],
)
def test_values_of_other_types_are_refused(
    options: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        quantize(network("effnet_zoo_lite0"), tmp_path / "it.onnx", tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("once")
def test_a_file_may_have_any_name_and_loggers_are_left_alone(
    few: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters: list[Any] = []
    monkeypatch.setattr(logging.Logger, "addFilter", lambda self, one: filters.append(one))
    path = tmp_path / "float32.onnx"  # as the float32 file is called that it is compared with
    (done,) = quantize(network("effnet_zoo_lite0"), path, few, recipe="int8", min_agreement=0.01, images=8)
    assert done.path == path
    assert Exported(path).metadata == done.metadata
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert (filters, caplog.records) == ([], [])  # the quantizer warns by the root logger, which is everybody's


@pytest.mark.usefixtures("once")
def test_what_a_runtime_raises_is_an_error_of_this_package(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED\nand much more")

    message = r"quantize failed: \[ONNXRuntimeError\] : 9 : NOT_IMPLEMENTED: nothing was written$"
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime.quantization, "quantize_static", fails)
        with pytest.raises(EngineError, match=message):
            quantize(network("effnet_zoo_lite0"), tmp_path / "it.onnx", few, images=8)
    monkeypatch.setattr(Onnx, "open_session", lambda self, file, threads: fails)
    with pytest.raises(EngineError, match=message):
        quantize(network("effnet_zoo_lite0"), tmp_path / "it.onnx", few, images=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("once")
def test_the_file_that_is_published_is_the_one_that_was_compared(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Onnx.save

    def spoiled(self: Onnx, graph: Any, path: Path, metadata: Metadata | None = None) -> None:
        bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "classifier.bias")
        values = onnx.numpy_helper.to_array(bias).copy()
        values[0] += 1e-3
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        save(self, graph, path, metadata)

    monkeypatch.setattr(Onnx, "save", spoiled)
    with pytest.raises(
        EngineError, match="quantize, .*: the file with its proof computes something else than the file"
    ):
        quantize(network("effnet_zoo_lite0"), tmp_path / "it.onnx", few, min_agreement=0.01, images=8)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_not_quantized(few: Path, tmp_path: Path) -> None:
    model = network("effnet_zoo_lite0")
    with torch.no_grad():
        model.get_parameter("classifier.bias")[0] = float("nan")
    with pytest.raises(EngineError, match="quantize: the model's own outputs are not finite"):
        quantize(model, tmp_path / "it.onnx", few, images=8)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_say_nothing_are_refused(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    model, out = network("effnet_zoo_lite0"), tmp_path / "it.onnx"
    with pytest.raises(InputError, match="missing: expected a folder of images"):
        quantize(model, out, tmp_path / "missing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no image in this folder"):
        quantize(model, out, empty)
    for number in range(20):
        (empty / f"{number}.jpg").write_text("not an image")
    with pytest.raises(InputError, match="0 images to calibrate with, 20 cannot be read: expected at least 8"):
        quantize(model, out, empty)
    with pytest.raises(InputError, match="is both calibrated with and compared on"):
        quantize(model, out, folders[0], evaluation=folders[0])
    assert not out.exists()


def test_a_model_without_classes_or_preprocessing_is_refused(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    with pytest.raises(ArgumentError, match="expected a classifier of this package"):
        quantize(EfficientNet.from_name("effnet_zoo_lite0", num_classes=0), tmp_path / "it.onnx", folders[0])
    model = network("effnet_zoo_lite0")
    model.pretrained_cfg = {}
    with pytest.raises(ArgumentError, match="how this model's images are prepared is not known"):
        quantize(model, tmp_path / "it.onnx", folders[0])


def test_a_missing_quantizer_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    monkeypatch.setattr(Onnx, "packages", ("onnx", "no_such_runtime"))
    with pytest.raises(MissingExtraError, match=r"needs no_such_runtime, .* pip install 'effnet-zoo\[onnxruntime\]'"):
        quantize(network("effnet_zoo_lite0"), tmp_path / "it.onnx", folders[0])


@pytest.mark.slow
def test_the_command_writes_figures_and_fails_where_labels_change(
    run: Run, tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["quantize", LITE0, "--calib", folders[0], "--eval", folders[1], "--images", "16"]
    code, out, err = run(*arguments, "--out", "it.onnx", "--min-agreement", "1", "--recipe", "int8")
    assert code == 1
    assert re.search(r"same label: 9\d\.\d% of 64 images; .* calibrated on 16 others", out)
    assert err.count("\n") == 1
    assert re.search(
        r"expected 100.0%: nothing was written; most is lost in (\w+( \d)?, ){2}\w+( \d)?; try --search", err
    )
    assert list(tmp_path.iterdir()) == []
    code, out, err = run(*arguments, "--out", "it.onnx", "--min-agreement", "0.9", "--json")
    assert (code, err) == (0, "")
    (answer,) = json.loads(out)
    assert answer["agreement"] >= 0.9
    assert answer["path"] == "it.onnx"


def test_the_command_refuses_what_does_not_fit(
    run: Run, tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("it.onnx").write_text("somebody's")
    for extra, complaint in (
        (["--out", "it.onnx"], "there is something already: name another"),
        (["--out", "new.onnx", "--search", "--recipe", "int8"], "--recipe is one, --search tries all"),
        (["--out", "new.xml"], "expected a name that ends in .onnx"),
        (["--out", "new.onnx", "--labelled"], "the model has no class names of its own: give --classes"),
    ):
        code, out, err = run("quantize", LITE0, "--calib", few, *extra)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert complaint in err
    assert Path("it.onnx").read_text() == "somebody's"


@pytest.mark.slow
def test_a_trained_network_with_squeeze_excite_and_silu_does_not_collapse(tmp_path: Path) -> None:
    digits = pytest.importorskip("benchmarks.digits", reason="scikit-learn, which ships the digits, is not installed")
    digits.main(tmp_path)
    model = create_classifier(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    (done,) = quantize(
        model,
        tmp_path / "int8.onnx",
        tmp_path / "train",
        evaluation=tmp_path / "test",
        classes=[str(digit) for digit in range(10)],
        recipe="int8",
        min_agreement=0.9,
    )
    accuracy = done.figures["accuracy"]
    assert accuracy["float32"] > 0.85
    assert accuracy["int8"] > accuracy["float32"] - 0.02
