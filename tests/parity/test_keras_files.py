"""Files of Keras: every kind holds the same network, and what is damaged, hostile or of another kind is refused."""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch

from effnet_zoo.checkpoints.keras import hdf5, reading
from effnet_zoo.checkpoints.keras.reading import read_keras_file as read
from effnet_zoo.checkpoints.keras.writing import write_keras_file as write
from effnet_zoo.errors import FileError, MissingExtraError, WeightsError
from effnet_zoo.transfer import opening
from tests.parity import common
from tests.parity.keras_models import (
    SUFFIXES,
    assert_holds,
    build,
    build_reduced,
    draw,
    head_of,
    of_layers,
    saved,
    small,
    spec_of,
    without_names,
)

# Keras' own: its torch backend turns variables into arrays by a protocol that NumPy 2 has extended.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module", params=["EfficientNetB0", "EfficientNetV2B0"])
def theirs(request: pytest.FixtureRequest) -> Any:
    model = draw(build(request.param, common.TINY))
    model.compile(optimizer=keras.optimizers.Adam(use_ema=True), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_holds_the_same(theirs: Any, suffix: str, tmp_path: Path) -> None:
    found = read(saved(theirs, tmp_path / f"theirs{suffix}"))
    assert_holds(found, of_layers(theirs))
    whole = suffix != ".weights.h5"
    assert (found.normalisation is None) != whole
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
    with pytest.raises(FileError, match="missing.h5: there is no such file or folder"):
        read(tmp_path / "missing.h5")
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(FileError, match="pipe.h5: expected a regular file, found a FIFO"):
        read(tmp_path / "pipe.h5")
    with pytest.raises(FileError, match="expected a file, found a folder"):
        read(tmp_path)
    for content in (b"", b"weights", b"\x80\x02}q\x00."):
        (tmp_path / "other.h5").write_bytes(content)
        with pytest.raises(WeightsError, match="other.h5 is not a whole file of Keras: .*Expected what model.save"):
            read(tmp_path / "other.h5")
        with pytest.raises(WeightsError, match="other.h5 is neither a whole safetensors file nor one of plain tensors"):
            opening.open_package(str(tmp_path / "other.h5"))


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
    for action in (lambda: read(good), lambda: write(good, {}, spec_of("EfficientNetB0"))):
        with pytest.raises(MissingExtraError, match=r"pip install 'effnet-zoo\[keras\]'"):
            action()


def test_a_file_that_crashes_hdf5_is_refused_by_the_process_that_survives(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.applications.EfficientNetB0(weights=None, classes=2).save_weights(tmp_path / "model.weights.h5")
    monkeypatch.setattr(hdf5, "WALK", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(WeightsError, match="model.weights.h5 is not a whole HDF5 file: reading it crashes HDF5"):
        opening.open_package(str(tmp_path / "model.weights.h5"))


def test_an_hdf5_file_that_ends_as_an_archive_is_walked_through_too(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "model.weights.h5"
    with zipfile.ZipFile(good) as archive:
        place.write_bytes(archive.read("model.weights.h5") + good.read_bytes())
    monkeypatch.setattr(hdf5, "WALK", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(WeightsError, match="model.weights.h5 is not a whole HDF5 file: reading it crashes HDF5"):
        opening.open_package(str(place))


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
