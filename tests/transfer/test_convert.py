"""Converting weights: there and back without a bit changed, the proof, and what the user says."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from effnet_zoo import create_model
from effnet_zoo.checkpoints import config_json
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.errors import ArgumentError, EffnetZooError, WeightsError
from effnet_zoo.numerics import randomise, relative_error
from effnet_zoo.transfer.conversion import convert, fitting_layout, with_overrides
from effnet_zoo.transfer.opening import open_package
from tests.parity import common
from tests.shell import Run
from tests.transfer.states import (
    HALVES,
    NETWORKS,
    TORCH,
    library,
    logits,
    refused,
    weights,
    write,
)

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
    arch = dataclasses.replace(TORCH[layout].archs[name], image_size=300, drop_rate=0.5)
    package = Bundle(source="a folder", variant=config_json.CUSTOM, arch=arch, options={}, state={})
    fitting_layout(package, layout, [TORCH[layout]])
    with pytest.raises(WeightsError, match="a folder is effnet_zoo_custom, which torchvision does not have: it has ef"):
        fitting_layout(package, "torchvision", [TORCH["torchvision"]])


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
        ("wrong", "the logits differ from those of wrong.safetensors by a relative 9.9e-03: expected at most 1e-03"),
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
        ("torchvision", ["--to", "keras3"], "unknown layout 'keras3': expected effnet_zoo,"),
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


@pytest.mark.parametrize(
    "options", [{"out": None}, {"to": 5}, {"to": []}, {"labels": 5.5}, {"golden": 5.5}, {"licence": b"x"}], ids=str
)
def test_arguments_of_other_types_are_refused(files: dict[str, Path], tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(EffnetZooError, match="expected"):
        convert(str(files["effnet_zoo"]), options.pop("out", tmp_path / "out"), images=HALVES, **options)
    assert not list(tmp_path.iterdir())


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
