"""Opening and inspecting weights: what is read of a file and of the configs beside it, and what is refused."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

from effnet_zoo.errors import ArgumentError, UnknownNameError, WeightsError
from effnet_zoo.numerics import randomise, relative_error
from effnet_zoo.transfer.opening import open_package
from tests.parity import common
from tests.shell import Run
from tests.transfer.states import TORCH, library, logits, refused, weights, write


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tf_efficientnet_b0", {}),
        ("efficientnet_b0", {}),
        ("efficientnet_lite0", {}),
        ("efficientnet_es", {}),
        ("tf_efficientnetv2_b0", {"in_chans": 1}),
        ("efficientnet_b0", {"pad_type": "same", "bn_eps": 1e-3, "act_layer": "relu"}),
    ],
    ids=str,
)
def test_timms_folders_are_read_with_the_numerics_of_their_name_and_arguments(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    model = randomise(timm.create_model(name, num_classes=3, **options), seed=5)
    save_for_hf(model, tmp_path, model_args=options)
    package = open_package(str(tmp_path))
    x = common.images((65, 96), torch.float64)[:, : options.get("in_chans", 3)]
    assert relative_error(logits(package.model(), x), logits(model, x)) <= 1e-10
    assert package.num_classes == 3
    assert package.images is not None
    assert package.images.size == model.pretrained_cfg.get("test_input_size", model.pretrained_cfg["input_size"])[1:]
    assert package.record.get("license") == model.pretrained_cfg.get("license")  # older timm names none


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_args": {"se_layer": "eca"}}, "model_args se_layer: expected some of act_layer, bn_eps"),
        ({"model_args": {"pad_type": "reflect"}}, "padding='reflect': expected same or symmetric"),
        ({"model_args": {"bn_eps": -1}}, "bn_eps=-1: expected a number from 1e-12 to 1"),
        ({"model_args": {"arch": {}}}, "and model_args arch too: expected one of them"),
        ({"architecture": "resnet50"}, "architecture 'resnet50' is not a network of this package"),
        ({"architecture": 5}, "config.json: architecture: expected str, found int"),
        ({"architecture": "effnet_zoo_custom", "model_args": {"arch": {"stages": 5}}}, "not a network's fields"),
        ({"architecture": "tf_efficientnet_b1"}, "does not fit the model"),
        ({"num_classes": 6}, "does not fit the model: 2 of another shape (classifier.bias (5,) instead of (6,)"),
    ],
    ids=str,
)
def test_a_config_that_does_not_describe_the_weights_is_refused(
    run: Run, folder: Callable[..., str], tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    refused(run, message, folder(**content), "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"strides": "all"}, "config.json: strides: expected array, found str"),
        ({"batch_norm_eps": [1]}, "config.json: batch_norm_eps: expected float"),
        ({"id2label": {"0": 5}}, "config.json: id2label[...]: expected str, found int"),
    ],
    ids=str,
)
def test_a_config_of_transformers_with_a_field_of_another_type_is_refused(
    run: Run, files: dict[str, Path], tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(files["transformers"])
    (folder / "config.json").write_text(json.dumps({"model_type": "efficientnet", **content}))
    refused(run, message, folder, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "config.json: expected JSON: "),
        (b"[]", "config.json: expected object, found array"),
        (b'{"a":' * 100_000, "config.json: objects and lists inside each other: expected fewer levels"),
        (b'{"model_type": NaN}', "config.json: expected JSON: "),
        (b"\xff", "config.json: expected UTF-8 text"),
    ],
)
def test_a_config_that_is_no_document_is_refused(folder: Callable[..., str], text: bytes, message: str) -> None:
    place = Path(folder())
    (place / "config.json").write_bytes(text)
    with pytest.raises(WeightsError, match=re.escape(message)):
        open_package(str(place))


def test_class_names_of_another_number_are_nobodys(folder: Callable[..., str]) -> None:
    assert open_package(folder(label_names=["ant", "bee"])).labels is None


def test_a_variant_that_contradicts_the_config_is_refused(folder: Callable[..., str]) -> None:
    place = folder()
    assert open_package(place, variant="efficientnet-b0").variant == "effnet_zoo_b0"
    with pytest.raises(WeightsError, match="its config.json says effnet_zoo_b0, not effnet_zoo_b1"):
        open_package(place, variant="effnet_zoo_b1")


@pytest.mark.parametrize("layout", TORCH)
def test_inspect_says_what_a_file_is_and_what_of_that_is_assumed(run: Run, files: dict[str, Path], layout: str) -> None:
    variant = "effnetv2_port_s" if layout == "effnetv2_port" else "effnet_zoo_b0"
    said = json.loads(run("inspect", files[layout], "--json")[1])
    assert (said["layout"], said["variant"], said["num_classes"], said["in_chans"]) == (layout, variant, 5, 3)
    assert f"keys of {layout}" in said["seen"]
    assert f"every shape of {variant}" in said["seen"]
    (assumed,) = said["assumed"]
    assert "eps" in assumed
    assert "padding" in assumed
    assert (said["preprocessing"] is None) == (layout in ("effnet_zoo", "effnetv2_port"))
    code, out, _ = run("inspect", files[layout])
    assert code == 0
    rows = {line[:10].strip(): line[10:].strip() for line in out.splitlines()}
    assert (rows["layout"], rows["variant"], rows["classes"], rows["channels"]) == (layout, variant, "5", "3")
    assert assumed in rows["assumed"]
    assert rows["left out"] == "nothing"
    assert ("unknown: give convert --mean" in rows["images"]) == (said["preprocessing"] is None)


def test_inspect_names_what_is_left_out(run: Run, tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in weights("effnet_zoo", "effnet_zoo_b0", num_classes=2).items()}
    torch.save({**state, "n_averaged": torch.tensor(3)}, tmp_path / "average.pth")
    said = json.loads(run("inspect", tmp_path / "average.pth", "--json")[1])
    assert said["dropped"] == {"n_averaged": "a counter of torch's AveragedModel"}
    assert "stripped 'module.'" in said["seen"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: torch.save(torchvision.models.resnet18().state_dict(), path), "are of no known layout: expected"),
        (lambda path: torch.save(torchvision.models.mobilenet_v2().state_dict(), path), "is no network of"),
        (lambda path: torch.save({"epoch": 3}, path), "expected a flat dict of tensors"),
        (lambda path: torch.save(nn.Linear(2, 2), path), "it asks for torch.nn.modules.linear.Linear"),
        (lambda path: path.write_bytes(b"hello"), "is neither a whole safetensors file nor one of plain tensors"),
        (lambda path: path.write_bytes(b""), "is neither a whole safetensors file nor one of plain tensors"),
        (lambda path: path.mkdir(), "expected model.safetensors or one weight file, found none"),
        (lambda path: None, "expected a weight file, a folder with one, a repository as owner/name, or a checkpoint"),
    ],
    ids=["resnet", "mobilenet", "no weights", "a model", "text", "nothing", "a folder", "no file"],
)
def test_what_is_no_known_checkpoint_is_one_line_and_no_folder(
    run: Run, tmp_path: Path, make: Callable[[Path], Any], message: str
) -> None:
    make(tmp_path / "file.pth")
    refused(run, message, tmp_path / "file.pth", "--out", tmp_path / "out")
    code, out, err = run("inspect", tmp_path / "file.pth")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err


def test_a_damaged_archive_is_one_line_and_no_folder(run: Run, tmp_path: Path) -> None:
    torch.save({"state_dict": {"conv_stem.weight": torch.ones(3)}}, tmp_path / "bad.pth")
    content = bytearray((tmp_path / "bad.pth").read_bytes())
    content[content.index(b"PK\x01\x02") + 1] = 0  # the directory at its end
    (tmp_path / "bad.pth").write_bytes(content)
    message = "bad.pth is neither a whole safetensors file nor one of plain tensors"
    refused(run, message, tmp_path / "bad.pth", "--out", tmp_path / "out")


def test_a_config_of_transformers_beside_other_keys_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(files["effnetv2_port"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "efficientnet"}))
    with pytest.raises(WeightsError, match="config.json is transformers', but the weights have the keys of effnetv2_p"):
        open_package(str(tmp_path))


def test_a_truncated_checkpoint_is_one_line_and_no_folder(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    content = files["torchvision"].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    refused(
        run, "cut.safetensors is not a whole safetensors file", tmp_path / "cut.safetensors", "--out", tmp_path / "out"
    )


def test_tensors_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    """A quantised file, say: its whole numbers are no weights without their scales."""
    state = weights("effnet_zoo", "effnet_zoo_b0", num_classes=2)
    for dtype in (torch.int8, torch.complex64, torch.bool):
        write(
            tmp_path / "a.safetensors",
            {**state, "blocks.1.0.conv_pw.weight": state["blocks.1.0.conv_pw.weight"].to(dtype)},
        )
        with pytest.raises(WeightsError, match=f"blocks.1.0.conv_pw.weight is {dtype}: expected floating point"):
            open_package(str(tmp_path / "a.safetensors"))


TUNED = {"classifier.1.weight": torch.ones(6, 1280), "classifier.1.bias": torch.ones(6), "neck.norm": torch.ones(3)}


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A fine-tuned network with a head of its own."""
    state = weights("effnet_zoo", "effnet_zoo_b0", num_classes=0)
    return write(tmp_path / "tuned.safetensors", {**state, **TUNED})


@pytest.mark.usefixtures("unproven")
def test_a_head_of_another_kind_is_left_out_when_asked_for_and_named(run: Run, tuned: Path, tmp_path: Path) -> None:
    options = (tuned, "--out", tmp_path / "out", "--like", "effnet_zoo_b0")
    refused(run, "its backbone is whole: convert --backbone-only takes it without the head", *options)
    code, out, err = run("convert", *options, "--backbone-only")
    assert code == 0, err
    assert "effnet_zoo_b0 in the layout of effnet_zoo, 0 classes" in out
    for key in TUNED:
        assert f"left out: {key} (not of the backbone)" in out
    written = open_package(str(tmp_path / "out"))
    assert written.num_classes == 0
    stored = load_file(tuned)
    assert written.state.keys() == stored.keys() - TUNED.keys()
    assert all(torch.equal(tensor, stored[key]) for key, tensor in written.state.items())


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("layout", TORCH)
def test_the_backbone_of_a_whole_network_can_be_had_alone(files: dict[str, Path], layout: str) -> None:
    package = open_package(str(files[layout]), backbone_only=True)
    assert package.num_classes == 0
    assert len(package.dropped) == 2
    assert not [key for key in package.state if key.startswith("classifier.")]


def test_a_checkpoint_beside_its_config_gives_its_backbone_alone(folder: Callable[..., str]) -> None:
    package = open_package(folder(label_names=["a", "b", "c", "d", "e"]), backbone_only=True)
    assert (package.num_classes, package.labels, len(package.dropped)) == (0, None, 2)
    assert open_package("effnet_zoo_lite0.pypi_in1k", backbone_only=True).num_classes == 0


def test_weights_with_values_that_are_none_are_refused_by_convert_and_inspect(run: Run, tmp_path: Path) -> None:
    state = weights("torchvision", "effnet_zoo_b0", num_classes=2)
    state["features.0.1.running_var"][3] = -1
    path = write(tmp_path / "broken.safetensors", state)
    message = "broken.safetensors: bn1.running_var has a variance of -1: expected none below 0"
    refused(run, message, path, "--out", tmp_path / "out")
    code, _, err = run("inspect", path)
    assert code == 1
    assert message in err


def test_only_regular_files_are_opened(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    message = "pipe.safetensors: expected a regular file, found a FIFO"
    refused(run, message, tmp_path / "pipe.safetensors", "--out", tmp_path / "out")
    golden = (files["torchvision"], "--golden", tmp_path / "pipe.safetensors")
    refused(run, message, *golden, "--out", tmp_path / "out")


@pytest.mark.parametrize("name", ["nowhere/weights.pth", "nowhere/b0.safetensors"])
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"{name}: expected a weight file, a folder with one"):
        open_package(name)


def test_a_path_that_hides_a_checkpoint_is_asked_about(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "effnet_zoo_lite0.pypi_in1k"
    Path(name).write_bytes(files["effnet_zoo"].read_bytes())
    with pytest.raises(ArgumentError, match=rf"expected \./{name} for the path"):
        open_package(name)
    assert open_package(f"./{name}").num_classes == 5


@pytest.mark.parametrize("place", [None, 5, [], b"x"])
def test_a_place_is_a_text(place: Any) -> None:
    with pytest.raises(ArgumentError, match="expected a path, a repository's name or a checkpoint's"):
        open_package(place)


@pytest.mark.parametrize("name", ["effnet_zoo_b0", "efficientnet_b0", "efficientnet-b0"])
def test_a_variant_may_have_any_of_its_names(files: dict[str, Path], name: str) -> None:
    assert open_package(str(files["torchvision"]), variant=name).variant == "effnet_zoo_b0"


def test_the_average_is_taken_unless_told_otherwise_and_it_is_said(run: Run, tmp_path: Path) -> None:
    raw, average = (library("efficientnet_pytorch", num_classes=number).state_dict() for number in (2, 3))
    torch.save({"state_dict": raw, "state_dict_ema": average}, tmp_path / "last.pth")
    said = json.loads(run("inspect", tmp_path / "last.pth", "--json")[1])
    assert said["num_classes"] == 3
    assert "took 'state_dict_ema' (moving average), not 'state_dict'" in said["seen"]
    said = json.loads(run("inspect", tmp_path / "last.pth", "--json", "--no-ema")[1])
    assert said["num_classes"] == 2
    assert "took 'state_dict', not 'state_dict_ema'" in said["seen"]


def test_the_choice_of_the_average_is_said_beside_a_config_too(tmp_path: Path) -> None:
    state = weights("effnet_zoo", "effnet_zoo_b0", num_classes=2)
    torch.save({"state_dict": state, "state_dict_ema": state.copy()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "tf_efficientnet_b0", "num_classes": 2}))
    assert "took 'state_dict_ema' (moving average), not 'state_dict'" in open_package(str(tmp_path)).seen
