"""Exported files read back: their metadata, held to one schema and to the graph, and what they compute."""

import dataclasses
import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
from PIL import Image

from effnet_zoo import EfficientNet, export
from effnet_zoo.errors import (
    EngineError,
    FileError,
    InputError,
    WeightsError,
)
from effnet_zoo.images import reader
from effnet_zoo.runtime.deployed import metadata_of
from effnet_zoo.runtime.exported import Exported
from effnet_zoo.runtime.graph import onnx_model
from effnet_zoo.runtime.metadata import KEY, Interface, Metadata
from effnet_zoo.runtime.targets import onnx as onnx_targets
from tests.runtime.drawn import HOW, network, small


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
        ({"interface": {**PLAIN["interface"], "dtype": "int8"}}, "interface: dtype='int8': expected float32"),
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
    with pytest.raises(WeightsError, match="it does not say how its images are prepared"):
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


def test_an_exported_file_is_copied_by_opening_it_again(lite0: EfficientNet, tmp_path: Path) -> None:
    export(lite0, tmp_path / "m.onnx")
    exported = Exported(tmp_path / "m.onnx")
    pixels = [numpy.zeros((224, 224, 3), numpy.uint8)]
    assert numpy.array_equal(pickle.loads(pickle.dumps(exported))(pixels), exported(pixels))


def test_threads_that_come_first_together_share_a_session(
    lite0: EfficientNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(lite0, tmp_path / "m.onnx")
    made: list[tuple[object, ...]] = []
    session = onnx_targets._session

    def slow(*args: Any, **options: Any) -> Any:
        made.append(args)
        time.sleep(0.3)  # long enough for every thread to come
        return session(*args, **options)

    monkeypatch.setattr(onnx_targets, "_session", slow)
    run = onnx_targets.ONNX.open_session(tmp_path / "m.onnx", 2)
    image = numpy.zeros((1, 3, 224, 224), numpy.float32)
    with ThreadPoolExecutor(6) as pool:
        assert len(list(pool.map(run, [image] * 6))) == 6
    assert len(made) == len(set(made)) <= 2, "one for a thread, one for two"


def test_a_copy_resizes_as_the_original(lite0: EfficientNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("torch resized an image that Pillow was to resize")

    export(lite0, tmp_path / "m.onnx")
    Image.new("RGB", (1200, 1200), "green").save(tmp_path / "photo.png")
    copy = pickle.loads(pickle.dumps(Exported(tmp_path / "m.onnx", resize="pillow")))
    monkeypatch.setattr(reader, "resized_by_torch", refuse)
    assert copy.read(tmp_path / "photo.png").shape == (224, 224, 3)


def test_an_exported_file_says_that_a_fork_has_no_threads(
    lite0: EfficientNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(lite0, tmp_path / "m.onnx")
    exported = Exported(tmp_path / "m.onnx")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(EngineError, match="this one was forked from it, without its threads: open it here"):
        exported([numpy.zeros((224, 224, 3), numpy.uint8)])
