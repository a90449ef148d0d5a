"""A small weight file of each layout, and a folder with one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import image_fields
from tests.transfer.states import TORCH, weights, write


@pytest.fixture
def unproven() -> Any:
    """Leave the proof out where a test is about something else: it takes most of the time."""
    with patch("effnet_zoo.transfer.conversion.prove", return_value=None):
        yield


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
