"""Exported files: in every format the outputs of the model, which the file itself says; and the command."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from effnet_zoo import EfficientNet, eval_transform, export, preprocessing_of
from effnet_zoo.errors import (
    ArgumentError,
    MissingExtraError,
)
from effnet_zoo.images.decoding import open_image
from effnet_zoo.numerics import relative_error
from effnet_zoo.predict.prediction import predict
from effnet_zoo.runtime.exported import Exported
from effnet_zoo.runtime.metadata import KEY, Metadata
from effnet_zoo.runtime.targets.onnx import OPENVINO
from effnet_zoo.runtime.targets.table import FORMATS
from tests.parity.photos import PHOTOS
from tests.runtime.drawn import LITE0, network, small
from tests.shell import Run

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
        "openvino": OPENVINO.open_session(path, 1)(some.numpy()),
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


def test_a_model_whose_layers_were_changed_is_exported_as_it_is(tmp_path: Path) -> None:
    model = small(in_chans=1, output_stride=16)
    model.act2 = nn.GELU()
    done = export(model, tmp_path / "it.pt2", format="torch", size=64)
    assert done.metadata.proof["error"] < 1e-5


def test_a_classifier_of_zeros_is_exported(tmp_path: Path) -> None:
    model = small()
    with torch.no_grad():
        model.get_parameter("classifier.weight").zero_()
        model.get_parameter("classifier.bias").zero_()
    assert export(model, tmp_path / "it.onnx", size=64).metadata.proof["error"] == 0


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
