"""Converting weights: what a file is, there and back without a bit changed, the proof, and the command."""

import dataclasses
import itertools
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import efficientnet_pytorch
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from effnet_zoo import EfficientNet, create_model
from effnet_zoo.checkpoints import config_json
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.errors import ArgumentError, EffnetZooError, UnknownNameError, WeightsError
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.identify import identify
from effnet_zoo.layouts.keytable import State
from effnet_zoo.numerics import randomise, relative_error
from effnet_zoo.transfer.conversion import Images, convert, fitting_layout, with_overrides
from effnet_zoo.transfer.opening import open_package
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import image_fields
from tests.parity import common
from tests.shell import Run

with warnings.catch_warnings():
    # geffnet compiles its activations with torch.jit.script when it is imported.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
    import geffnet

# Keras's have tests of their own.
TORCH = {name: layout for name, layout in LAYOUTS.items() if not name.startswith("keras")}
NETWORKS = [(layout, name) for layout in TORCH for name in TORCH[layout].archs()]
HALVES = Images(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def unproven() -> Any:
    """Leave the proof out where a test is about something else: it takes most of the time."""
    with patch("effnet_zoo.transfer.conversion.prove", return_value=None):
        yield


def refused(run: Run, message: str, *arguments: str | Path) -> None:
    """The command says no in one line, and leaves no folder."""
    (out,) = [value for option, value in itertools.pairwise(arguments) if option == "--out"]
    siblings = set(Path(out).parent.iterdir())
    code, said, err = run("convert", *arguments)
    assert (code, said) == (1, "")
    assert err.startswith("effnet-zoo: ")
    assert err.count("\n") == 1
    assert message in err
    assert set(Path(out).parent.iterdir()) == siblings


def meta_state(layout: str, name: str, **options: Any) -> State:
    """A state dict of a layout that takes no memory."""
    arch = TORCH[layout].archs()[name]
    with common.unallocated():
        return TORCH[layout].table.to_theirs(EfficientNet(arch, **options).state_dict(), arch)


def weights(layout: str, name: str, **options: Any) -> State:
    """One with drawn values."""
    arch = TORCH[layout].archs()[name]
    model = common.drawn(lambda: EfficientNet(arch, **options), seed=1)
    return {key: tensor.contiguous() for key, tensor in TORCH[layout].table.to_theirs(model.state_dict(), arch).items()}


def write(path: Path, state: State) -> Path:
    save_file(state, path, metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small network of each layout: five classes."""
    folder = tmp_path_factory.mktemp("files")
    names = {"effnetv2_port": "effnetv2_port_s"}
    return {
        layout: write(
            folder / f"{layout}.safetensors", weights(layout, names.get(layout, "effnet_zoo_b0"), num_classes=5)
        )
        for layout in TORCH
    }


# What a file is.


def test_every_variant_of_every_layout_is_known() -> None:
    assert set(TORCH["effnet_zoo"].archs()) == set(catalogue.models())
    counts = {layout: len(TORCH[layout].archs()) for layout in TORCH}
    assert counts == {
        "effnet_zoo": len(catalogue.models()),
        "efficientnet_pytorch": 15,
        "torchvision": 11,
        "transformers": 8,
        "effnetv2_port": 5,
    }


@pytest.mark.parametrize(
    "options",
    [{}, {"num_classes": 7, "in_chans": 4}, {"num_classes": 0, "in_chans": 1}, {"global_pool": "catavgmax"}],
    ids=["as declared", "other ends", "no classifier", "catavgmax"],
)
@pytest.mark.parametrize(("layout", "name"), NETWORKS)
def test_layout_variant_classes_and_channels_are_told_from_keys_and_shapes(
    layout: str, name: str, options: dict[str, Any]
) -> None:
    state = meta_state(layout, name, **options)
    with common.unallocated():
        found = identify(state, "a file")
    assert (found.layout.name, found.name) == (layout, name)
    assert found.num_classes == options.get("num_classes", 1000)
    assert found.in_chans == options.get("in_chans", 3)
    assert found.global_pool == options.get("global_pool", "avg")


@pytest.mark.parametrize("layout", TORCH)
def test_files_from_before_batch_norm_counted_are_known_and_the_count_is_0(layout: str) -> None:
    name = next(iter(TORCH[layout].archs()))
    whole = meta_state(layout, name)
    old = {key: value for key, value in whole.items() if "num_batches" not in key}
    found = identify(old, "a file")
    ours = found.layout.table.to_ours(old, found.arch)
    assert found.name == name
    assert ours.keys() == EfficientNet(found.arch, device="meta").state_dict().keys()
    assert {value.item() for key, value in ours.items() if "num_batches" in key} == {0}


def changed(layout: str, name: str, changes: dict[str, Tensor | None], **options: Any) -> State:
    state = {**meta_state(layout, name, **options), **changes}
    return {key: value for key, value in state.items() if value is not None}


def hollow(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            lambda: changed("effnet_zoo", "effnet_zoo_b3", {"blocks.2.1.bn1.bias": None}),
            "a file is no network of effnet_zoo: the nearest, effnet_zoo_b3, differs in 1 tensors "
            "(blocks.2.1.bn1.bias is missing)",
        ),
        (
            lambda: changed("torchvision", "effnet_zoo_v2_m", {"features.0.2.weight": hollow(1)}),
            "is no network of torchvision: the nearest, effnet_zoo_v2_m, differs in 1 tensors "
            "(features.0.2.weight is left over)",
        ),
        (
            # The same keys as b2 and b1: the shapes decide which is nearer.
            lambda: changed("efficientnet_pytorch", "effnet_zoo_b2", {"_bn0.bias": hollow(40)}),
            "the nearest, effnet_zoo_b2, differs in 1 tensors (_bn0.bias is (40,) in our order of axes, instead of "
            "(32,))",
        ),
        (
            lambda: changed("effnetv2_port", "effnetv2_port_s", {"classifier.bias": None}),
            "the nearest, effnetv2_port_s, differs in 1 tensors (classifier.bias is missing)",
        ),
        (
            lambda: changed("transformers", "effnet_zoo_b0", {"classifier.weight": None}),
            "the nearest, effnet_zoo_b0, differs in 1 tensors (classifier.bias is without the rest of the classifier)",
        ),
        (
            lambda: changed("effnet_zoo", "effnet_zoo_b0", {"classifier.weight": hollow(10, 1281)}),
            "the nearest, effnet_zoo_b0, differs in 2 tensors (classifier.weight is (10, 1281) in our order of axes, "
            "instead of (10, 1280); classifier.bias is (1000,) in our order of axes, instead of (10,))",
        ),
        (
            lambda: changed("effnet_zoo", "effnet_zoo_b0", {"conv_stem.weight": hollow(32, 0, 3, 3)}),
            "differs in 1 tensors (conv_stem.weight is (32, 0, 3, 3)",
        ),
        (lambda: {"features.0.0.weight": hollow(16, 3, 3, 3)}, "is no network of"),
        (
            lambda: {"layer1.0.conv1.weight": hollow(64, 64, 3, 3), "fc.weight": hollow(10, 512)},
            "a file: the keys (fc.weight, layer1.0.conv1.weight, ...) are of no known layout: expected those of "
            "effnet_zoo, efficientnet_pytorch, torchvision",
        ),
    ],
)
def test_a_near_miss_names_the_nearest_network_and_how_it_differs(state: Callable[[], State], message: str) -> None:
    with pytest.raises(WeightsError) as caught:
        identify(state(), "a file")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_fits_two_networks_is_asked_about() -> None:
    b0 = TORCH["effnet_zoo"].archs()["effnet_zoo_b0"]
    twice = dataclasses.replace(TORCH["effnet_zoo"], archs=lambda: {"one": b0, "other": b0})
    with patch.dict("effnet_zoo.layouts.identify.LAYOUTS", {"effnet_zoo": twice}):
        with pytest.raises(WeightsError, match="a file fits one of effnet_zoo and other of effnet_zoo: say which"):
            identify(meta_state("effnet_zoo", "effnet_zoo_b0"), "a file")
        assert identify(meta_state("effnet_zoo", "effnet_zoo_b0"), "a file", among=["other"]).name == "other"


# There and back.


@pytest.mark.parametrize(("layout", "name"), NETWORKS)
def test_every_key_goes_to_every_layout_that_has_the_network_and_back(layout: str, name: str) -> None:
    arch = TORCH[layout].archs()[name]
    state = meta_state(layout, name)
    ours = TORCH[layout].table.to_ours(state, arch)
    for other in TORCH.values():
        if name in other.archs():
            theirs = other.table.to_theirs(ours, arch)
            back = TORCH[layout].table.to_theirs(other.table.to_ours(theirs, arch), arch)
            assert len(theirs) == len(state)
            assert [(key, value.shape, value.dtype) for key, value in back.items()] == [
                (key, value.shape, value.dtype) for key, value in state.items()
            ]


PAIRS = [
    *[
        (one, other, "effnet_zoo_b0")
        for one in ("effnet_zoo", "efficientnet_pytorch", "transformers")
        for other in ("effnet_zoo", "efficientnet_pytorch", "transformers")
        if one != other
    ],
    ("torchvision", "effnet_zoo", "effnet_zoo_b0"),
    ("effnetv2_port", "effnet_zoo", "effnetv2_port_s"),
]
"""What holds the same numerics, or can be told them: only this package's own layout can be told a padding."""


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize(("layout", "other", "name"), PAIRS)
def test_weights_go_there_and_back_without_a_bit_changed(
    files: dict[str, Path], tmp_path: Path, layout: str, other: str, name: str
) -> None:
    there = convert(str(files[layout]), tmp_path / "there", to=other, images=HALVES)
    assert (there.layout, there.variant) == (layout, name)
    source = tmp_path / "there" if other in ("effnet_zoo", "transformers") else tmp_path / "there" / "model.safetensors"
    back = convert(str(source), tmp_path / "back", to=layout, images=HALVES)
    assert back.layout == other
    assert back.num_classes == 5
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == files[layout].read_bytes()
    assert (tmp_path / "there" / "model.safetensors").read_bytes() != files[layout].read_bytes()


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_dtype_of_each_tensor_survives(tmp_path: Path, dtype: torch.dtype) -> None:
    state = weights("efficientnet_pytorch", "effnet_zoo_b0", num_classes=2)
    state = {
        key: value.to(dtype) if value.is_floating_point() and "_bn" not in key else value
        for key, value in state.items()
    }
    write(tmp_path / "a.safetensors", state)
    convert(str(tmp_path / "a.safetensors"), tmp_path / "b")
    convert(str(tmp_path / "b"), tmp_path / "c", to="efficientnet_pytorch")
    assert (tmp_path / "c" / "model.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.parametrize(("layout", "name"), [(layout, name) for layout, name in NETWORKS if layout == "effnetv2_port"])
def test_a_network_that_is_no_variant_finds_its_way_back_by_its_tensors(layout: str, name: str) -> None:
    arch = dataclasses.replace(TORCH[layout].archs()[name], image_size=300, drop_rate=0.5)
    package = Bundle(source="a folder", variant=config_json.CUSTOM, arch=arch, options={}, state={})
    fitting_layout(package, layout, [TORCH[layout]])
    with pytest.raises(WeightsError, match="a folder is effnet_zoo_custom, which torchvision does not have: it has ef"):
        fitting_layout(package, "torchvision", [TORCH["torchvision"]])


# The proof, and what others make of what is written.


def logits(model: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        out = model.eval().double()(x)
    assert isinstance(out, Tensor)
    return out


def library(name: str, num_classes: int = 5, in_chans: int = 3) -> nn.Module:
    """A network of another library."""
    built: Any
    if name == "efficientnet_pytorch":
        built = efficientnet_pytorch.EfficientNet.from_name(
            "efficientnet-b0", num_classes=num_classes, in_channels=in_chans, image_size=None
        )
    elif name == "torchvision":
        built = torchvision.models.efficientnet_b0(num_classes=num_classes)
    elif name == "geffnet":
        built = geffnet.create_model("tf_efficientnet_b0", num_classes=num_classes, in_chans=in_chans)
    else:
        built = timm.create_model(name, num_classes=num_classes, in_chans=in_chans)
    model: nn.Module = randomise(built, seed=2)
    return model


@pytest.mark.parametrize(
    ("name", "layout", "options"),
    [
        ("efficientnet_pytorch", "efficientnet_pytorch", []),
        ("torchvision", "torchvision", []),
        ("geffnet", "effnet_zoo", ["--like", "effnet_zoo_b0.aa_in1k"]),
        ("efficientnet_b0", "effnet_zoo", ["--like", "effnet_zoo_b0", "--padding", "symmetric", "--bn-eps", "1e-5"]),
    ],
)
def test_what_is_written_computes_what_the_source_did(
    run: Run, tmp_path: Path, name: str, layout: str, options: list[str]
) -> None:
    theirs = library(name)
    torch.save({"epoch": 3, "state_dict": theirs.state_dict()}, tmp_path / "last.pth.tar")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    code, out, err = run(
        *("convert", tmp_path / "last.pth.tar", "--out", tmp_path / "out", "--json"),
        *("--classes", tmp_path / "names.txt", "--license", "mit", *options),
    )
    assert code == 0, err
    said = json.loads(out)
    assert (said["layout"], said["variant"], said["num_classes"]) == (layout, "effnet_zoo_b0", 5)
    assert said["to"] == "effnet_zoo"
    assert said["seen"][-1] == "took 'state_dict'"
    assert said["labels"] == ["ant", "bee", "cat", "dog", "eel"]
    assert "timm" in said["proof"]["against"]
    assert layout == "effnet_zoo" or layout in said["proof"]["against"]
    assert said["proof"]["error"] <= 1e-10
    x = common.images((97, 130), torch.float64)
    wanted = logits(theirs, x)
    for model in (
        timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True),
        create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True),
        open_package(str(tmp_path / "out")).model(),
    ):
        assert relative_error(logits(model, x), wanted) <= 1e-10
        assert model.pretrained_cfg["license"] == "mit"
        assert list(model.pretrained_cfg["label_names"]) == said["labels"]
        assert list(model.pretrained_cfg["mean"]) == said["preprocessing"]["mean"]
    again = open_package(str(tmp_path / "out"))
    assert again.labels == ("ant", "bee", "cat", "dog", "eel")
    assert again.record["license"] == "mit"
    assert any("relative error" in note for note in again.record["notes"])


def test_a_proof_that_fails_writes_nothing(run: Run, tmp_path: Path) -> None:
    torch.save(library("efficientnet_pytorch").state_dict(), tmp_path / "b0.pth")
    refused(
        run,
        "b0.pth: the logits differ from those of efficientnet_pytorch 0.7",
        *(tmp_path / "b0.pth", "--out", tmp_path / "out", "--padding", "symmetric"),
    )


@pytest.mark.parametrize("layout", ["effnet_zoo", "efficientnet_pytorch", "torchvision", "transformers"])
def test_networks_without_classifier_or_of_other_channels_are_proven_too(tmp_path: Path, layout: str) -> None:
    for options in ({"num_classes": 0}, {"num_classes": 3, "in_chans": 2}):
        path = write(tmp_path / "a.safetensors", weights(layout, "effnet_zoo_b0", **options))
        out = tmp_path / f"{options['num_classes']}"
        package = convert(str(path), out, to=layout, images=HALVES if layout == "effnet_zoo" else None)
        assert package.proof is not None
        assert package.proof.error <= 1e-10
        assert package.num_classes == options["num_classes"]


def test_another_pooling_or_output_stride_is_proven_against_timm_and_refused_elsewhere(tmp_path: Path) -> None:
    model = timm.create_model("tf_efficientnet_b0", num_classes=3, global_pool="catavgmax", output_stride=16)
    args = {"global_pool": "catavgmax", "output_stride": 16}
    save_for_hf(randomise(model, seed=3), tmp_path / "a", model_args=args)
    package = convert(str(tmp_path / "a"), tmp_path / "b")
    assert package.proof is not None
    assert package.proof.error <= 1e-10
    x = common.images((97, 130), torch.float64)
    written = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True)
    assert relative_error(logits(written, x), logits(model, x)) <= 1e-10
    with pytest.raises(
        WeightsError, match="has output_stride 16, which efficientnet_pytorch does not have: its logits"
    ):
        convert(str(tmp_path / "a"), tmp_path / "c", to="efficientnet_pytorch")
    torch.save(weights("effnet_zoo", "effnet_zoo_b0", num_classes=3, global_pool="catavgmax"), tmp_path / "d.pth")
    with pytest.raises(WeightsError, match="has catavgmax pooling, which transformers does not have: its logits"):
        convert(str(tmp_path / "d.pth"), tmp_path / "c", to="transformers", images=HALVES)
    assert not (tmp_path / "c").exists()


def test_a_checkpoint_of_the_ledger_goes_where_its_library_is(tmp_path: Path) -> None:
    package = convert("effnet_zoo_lite0.pypi_in1k", tmp_path / "out", to="efficientnet_pytorch")
    assert package.proof is not None
    assert "efficientnet_lite_pytorch" in package.proof.against
    assert package.proof.error <= 1e-10
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["variant"] == "effnet_zoo_lite0"
    # Without batch norm's counters in the source, 0 is written.
    assert load_file(tmp_path / "out" / "model.safetensors")["_fc.weight"].shape == (1000, 1280)


@pytest.fixture(scope="module")
def golden(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Golden outputs of the port's network: right, wrong, and none at all."""
    image = common.images((65, 96), torch.float32).double()  # as it is saved
    right = logits(with_overrides(open_package(str(files["effnetv2_port"])), HALVES).model(), image)
    contents = {
        "right": {"image": image.float(), "logits": right.float()},
        "wrong": {"image": image.float(), "logits": right.float() * 1.01},
        "swapped": {"image": image.float(), "logits": right.float().flip(0)},
        "of other classes": {"image": image.float(), "logits": right.float()[:, :4]},
        "of one number": {"image": image.float(), "logits": right.float()[:1, :1]},
        "of another image": {"image": image.float()[:, :1], "logits": right.float()},
        "flat": {"image": image.float().flatten(), "logits": right.float()},
        "without logits": {"image": image.float()},
    }
    folder = tmp_path_factory.mktemp("golden")
    paths = {name: folder / f"{name}.safetensors" for name in contents}
    for name, content in contents.items():
        save_file({key: value.contiguous() for key, value in content.items()}, paths[name])
    paths["no file"] = folder / "no file.safetensors"
    paths["no safetensors"] = folder / "text.safetensors"
    paths["no safetensors"].write_text("hello")
    return paths


def test_a_right_golden_output_is_the_proof(
    run: Run, files: dict[str, Path], golden: dict[str, Path], tmp_path: Path
) -> None:
    given = ("--mean", "0.5", "--std", "0.5", "--golden", golden["right"])
    code, out, err = run("convert", files["effnetv2_port"], "--out", tmp_path / "out", *given)
    assert code == 0, err
    assert "effnetv2_port_s in the layout of effnetv2_port, 5 classes" in out
    assert "assumed: symmetric padding, batch norm eps 1e-5" in out
    assert "against right.safetensors at 65x96" in out
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architecture"] == "effnet_zoo_custom"
    assert written["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]
    source = with_overrides(open_package(str(files["effnetv2_port"])), HALVES).model()
    x = common.images(common.TINY, torch.float64)
    for model in (
        timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True),
        create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True),
    ):
        assert relative_error(logits(model, x), logits(source, x)) <= 1e-10


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("wrong", "the logits differ from those of wrong.safetensors by a relative 9.9e-03, more than 1e-03: nothing"),
        ("swapped", "the logits differ from those of swapped.safetensors"),
        ("of other classes", "logits (2, 4): expected (n, 3, height, width) and (n, 5)"),
        ("of one number", "logits (1, 1): expected"),
        ("of another image", "image is (2, 1, 65, 96)"),
        ("flat", "image is (37440,)"),
        ("without logits", "expected a safetensors file with 'image' and 'logits': 'logits'"),
        ("no file", "expected a safetensors file with 'image' and 'logits'"),
        ("no safetensors", "expected a safetensors file with 'image' and 'logits'"),
    ],
)
def test_a_golden_output_that_is_not_met_writes_nothing(
    run: Run, files: dict[str, Path], golden: dict[str, Path], tmp_path: Path, kind: str, message: str
) -> None:
    given = ("--mean", "0.5", "--std", "0.5", "--golden", golden[kind])
    refused(run, message, files["effnetv2_port"], "--out", tmp_path / "out", *given)


# What a target cannot hold.


@pytest.mark.parametrize(
    ("layout", "to", "options", "message"),
    [
        (
            "torchvision",
            "efficientnet_pytorch",
            [],
            "needs padding symmetric, and efficientnet_pytorch's effnet_zoo_b0",
        ),
        ("effnet_zoo", "torchvision", [], "needs padding same, and torchvision's effnet_zoo_b0 has symmetric"),
        ("effnet_zoo", "torchvision", ["--padding", "symmetric"], "needs bn_eps 0.001, and torchvision's"),
        ("effnet_zoo", "efficientnet_pytorch", ["--bn-eps", "1e-5"], "needs bn_eps 1e-05, and efficientnet_pytorch's"),
        ("effnet_zoo", "transformers", ["--padding", "symmetric"], "needs padding symmetric, and transformers's"),
        (
            "effnetv2_port",
            "torchvision",
            [],
            "is effnetv2_port_s, which torchvision does not have: it has effnet_zoo_b0",
        ),
        (
            "effnet_zoo",
            "effnetv2_port",
            [],
            "is effnet_zoo_b0, which effnetv2_port does not have: it has effnetv2_port_s",
        ),
    ],
)
def test_a_target_that_would_compute_something_else_is_refused(
    run: Run, files: dict[str, Path], tmp_path: Path, layout: str, to: str, options: list[str], message: str
) -> None:
    images = ("--mean", "0.5", "--std", "0.5")
    refused(run, message, files[layout], "--to", to, "--out", tmp_path / "out", *images, *options)


def test_a_target_with_another_activation_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("tf_efficientnet_b0", num_classes=2, act_layer="relu")
    save_for_hf(model, tmp_path / "a", model_args={"act_layer": "relu"})
    with pytest.raises(WeightsError, match="needs activation relu, and efficientnet_pytorch's effnet_zoo_b0 has silu"):
        convert(str(tmp_path / "a"), tmp_path / "b", to="efficientnet_pytorch")


# timm's folders.


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


@pytest.fixture
def folder(files: dict[str, Path], tmp_path: Path) -> Callable[..., str]:
    """This package's B0 beside a config.json."""

    def make(**content: Any) -> str:
        path = tmp_path / "folder"
        path.mkdir()
        (path / "model.safetensors").symlink_to(files["effnet_zoo"])
        how = catalogue.find("effnet_zoo_b0")[1].preprocessing
        cfg = {**image_fields(how), "num_classes": 5}
        given = {"architecture": "tf_efficientnet_b0", "num_classes": 5, "pretrained_cfg": cfg, **content}
        (path / "config.json").write_text(json.dumps(given))
        return str(path)

    return make


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_args": {"se_layer": "eca"}}, "model_args se_layer: expected some of act_layer, bn_eps"),
        ({"model_args": {"pad_type": "reflect"}}, "padding=None: expected same or symmetric"),
        ({"model_args": {"bn_eps": -1}}, "bn_eps=-1: expected a number from 1e-12 to 1"),
        ({"architecture": "resnet50"}, "architecture 'resnet50' is not one of this package's"),
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


# What the user says.


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--like", "effnet_zoo_b0.ap_in1k"], {"mean": [0.5] * 3, "std": [0.5] * 3, "size": [224, 224]}),
        (["--mean", "0.1,0.2,0.3", "--std", "0.4"], {"mean": [0.1, 0.2, 0.3], "std": [0.4] * 3, "size": [224, 224]}),
        (
            ["--like", "effnet_zoo_b0.aa_in1k", "--size", "320", "--crop-pct", "1.0", "--interpolation", "bilinear"],
            {"mean": [0.485, 0.456, 0.406], "size": [320, 320], "crop_pct": 1.0, "interpolation": "bilinear"},
        ),
    ],
)
def test_how_images_are_prepared_can_be_said(
    run: Run, files: dict[str, Path], tmp_path: Path, options: list[str], wanted: dict[str, Any]
) -> None:
    code, out, err = run("convert", files["effnet_zoo"], "--out", tmp_path / "out", "--json", *options)
    assert code == 0, err
    how = json.loads(out)["preprocessing"]
    assert {key: how[key] for key in wanted} == wanted
    written = timm.data.resolve_data_config(model=timm.create_model(f"local-dir:{tmp_path / 'out'}"))
    assert list(written["mean"]) == how["mean"]
    assert list(written["input_size"]) == [3, *how["size"]]
    assert written["crop_pct"] == how["crop_pct"]


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("effnet_zoo", [], "how its images are to be prepared is not in the file: say it with --mean and --std"),
        ("effnetv2_port", [], "how its images are to be prepared is not in the file: say it with --mean and --std"),
        ("effnet_zoo", ["--mean", "0.5"], "mean and std: expected both, or --like CHECKPOINT"),
        ("effnet_zoo", ["--mean", "0.5,0.5", "--std", "0.5"], "mean has 2 channels and std 3: expected as many"),
        ("effnet_zoo", ["--mean", "half", "--std", "0.5"], "--mean 'half': expected a number for each channel"),
        ("effnet_zoo", ["--mean", "0.5", "--std", "0"], "std (0.0, 0.0, 0.0): expected a number from 1e-06 to 1e+06"),
        ("torchvision", ["--interpolation", "cubic"], "interpolation 'cubic': expected bicubic or bilinear or nearest"),
        ("torchvision", ["--like", "effnet_zoo_b9"], "unknown model 'effnet_zoo_b9'"),
        ("torchvision", ["--padding", "valid"], "--padding valid: expected same or symmetric"),
        ("torchvision", ["--bn-eps", "0"], "bn_eps=0.0: expected a number from 1e-12 to 1"),
        ("torchvision", ["--to", "keras3"], "unknown layout 'keras3': expected one of effnet_zoo,"),
        ("torchvision", ["--variant", "effnet_zoo_b00"], "unknown model 'effnet_zoo_b00': expected"),
        (
            "torchvision",
            ["--variant", "effnet_zoo_lite0"],
            "has the keys of torchvision, effnetv2_port, which has no effnet_zoo_lite0",
        ),
        ("torchvision", ["--variant", "efficientnet_b1"], "does not fit the model"),
    ],
)
def test_an_option_that_does_not_fit_is_one_line_and_no_folder(
    run: Run, files: dict[str, Path], tmp_path: Path, layout: str, options: list[str], message: str
) -> None:
    refused(run, message, files[layout], "--out", tmp_path / "out", *options)


def test_class_names_must_be_as_many_as_classes(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    message = "2 class names for 5 classes of"
    refused(run, message, files["torchvision"], "--out", tmp_path / "out", "--classes", tmp_path / "names.txt")


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


# inspect.


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


# What is not an EfficientNet's weights, and what is in the way.


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


@pytest.mark.parametrize(
    "options", [{"out": None}, {"to": 5}, {"to": []}, {"labels": 5.5}, {"golden": 5.5}, {"licence": b"x"}], ids=str
)
def test_arguments_of_other_types_are_refused(files: dict[str, Path], tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(EffnetZooError, match="expected"):
        convert(str(files["effnet_zoo"]), options.pop("out", tmp_path / "out"), images=HALVES, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [None, 5, [], b"x"])
def test_a_place_is_a_text(place: Any) -> None:
    with pytest.raises(ArgumentError, match="expected a path, a repository's name or a checkpoint's"):
        open_package(place)


def test_weights_are_written_with_the_usual_permissions(files: dict[str, Path], tmp_path: Path) -> None:
    convert(str(files["effnet_zoo"]), tmp_path / "out", images=HALVES)
    modes = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1, "as config.json beside them"


@pytest.mark.parametrize("licence", ["Apache 2.0", "mit\n---", "x" * 10_000 + " "])
def test_a_licence_is_an_identifier(files: dict[str, Path], tmp_path: Path, licence: str) -> None:
    with pytest.raises(ArgumentError, match="expected an SPDX identifier"):
        convert(str(files["effnet_zoo"]), tmp_path / "out", images=HALVES, licence=licence)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["a folder with a file", "a file"])
def test_what_is_in_the_way_is_never_overwritten(run: Run, files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    kept = out / "kept" if kind == "a folder with a file" else out
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("precious")
    refused(run, "expected a folder that does not exist yet, or is empty", files["torchvision"], "--out", out)
    assert kept.read_text() == "precious"


@pytest.mark.usefixtures("unproven")
def test_an_empty_folder_is_filled(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code, out, err = run("convert", files["torchvision"], "--out", tmp_path / "out", "--to", "torchvision")
    assert code == 0, err
    assert "proof: none: no other implementation of it is installed" in out
    assert f"wrote {tmp_path / 'out'}: torchvision: models.efficientnet_*()" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "conversion.json"}


def test_every_error_here_is_the_packages_own() -> None:
    """The command turns those, and only those, into one line."""
    assert issubclass(WeightsError, EffnetZooError)
    assert issubclass(ArgumentError, EffnetZooError)
