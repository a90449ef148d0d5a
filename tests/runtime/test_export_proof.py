"""Export: only a file that was compared with the model is published, and nothing else is ever left behind."""

import errno
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from effnet_zoo import EfficientNet, export
from effnet_zoo.atomic_io import sha256
from effnet_zoo.errors import (
    ArgumentError,
    EngineError,
    FileError,
    InputError,
    MissingExtraError,
    UnknownNameError,
)
from effnet_zoo.runtime import deployed
from effnet_zoo.runtime.deployed import metadata_of
from effnet_zoo.runtime.metadata import Interface, Metadata
from effnet_zoo.runtime.targets import pytorch
from effnet_zoo.runtime.targets.onnx import Onnx
from effnet_zoo.runtime.targets.table import FORMATS
from effnet_zoo.runtime.targets.target import Target
from tests.runtime.drawn import network, small


def test_a_model_in_training_stays_so_and_is_not_changed(tmp_path: Path) -> None:
    model = network("effnet_zoo_b0")
    model.train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    export(model, tmp_path / "it.onnx", size=64)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


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

    def spoiled_second(self: Target, built: Any, path: Path, metadata: Metadata) -> None:
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


def test_too_little_memory_is_not_a_fault_of_the_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Onnx, "build", fail)
    with pytest.raises(MemoryError):
        export(small(), tmp_path / "m.onnx", size=64)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "it.onnx"

    def slow(model: EfficientNet, interface: Interface) -> Metadata:
        path.write_text("of another process")
        return metadata_of(model, interface)

    monkeypatch.setattr(deployed, "metadata_of", slow)
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
