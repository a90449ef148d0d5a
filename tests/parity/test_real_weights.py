"""The one checkpoint that can be installed, Lite0, on real photos: against two other libraries and golden values.

The golden values are those of this package at the commit that wrote them, with `write_golden`:

    python -m tests.parity.test_real_weights
"""

import dataclasses
import json
from typing import Any

import efficientnet_lite_pytorch
import pytest
import timm
import torch
from torch import Tensor

from effnet_zoo import EfficientNet, atomic_io, eval_transform
from effnet_zoo.checkpoints import locate
from effnet_zoo.images.decoding import open_image
from effnet_zoo.numerics import relative_error
from effnet_zoo.zoo import catalogue
from tests.parity import common
from tests.parity.photos import GOLDEN, PHOTOS

NAME = "effnet_zoo_lite0.pypi_in1k"
CHECKPOINT = catalogue.find(NAME)[1]
GOLDEN_FILE = GOLDEN / "lite0.json"
GOLDEN_CLASSES = range(0, 1000, 125)
RTOL = 1e-5
"""Golden logits are computed in float64, so that the processor and the thread count do not matter, and written with
six digits, which costs 5e-7. What is left is Pillow: one pixel off by one in 256 moves a logit by more than this."""

# What a person sees, as ImageNet's classes: three kinds of cat, a cup of espresso, a missile, and gown or uniform.
SEEN = {
    "chelsea.png": {281, 282, 285},
    "coffee.png": {967},
    "rocket.jpg": {657},
    "grace_hopper.jpg": {400, 652},
}


def load() -> EfficientNet:
    model = timm.create_model(NAME, pretrained=True).eval()
    assert isinstance(model, EfficientNet)
    return model


@pytest.fixture(scope="module")
def model() -> EfficientNet:
    return load()


def photo(name: str, **changes: Any) -> Tensor:
    """A photo as the checkpoint wants it, but for the changes; a batch of one."""
    how = dataclasses.replace(CHECKPOINT.preprocessing, **changes)
    return eval_transform(how)(open_image(PHOTOS[name])).unsqueeze(0)


def batch(side: int) -> Tensor:
    return torch.cat([photo(name, size=(side, side)) for name in PHOTOS])


@pytest.mark.parametrize("side", [224, 191])
def test_logits_are_those_of_efficientnet_lite_pytorch(model: EfficientNet, side: int) -> None:
    path = locate.obtain(locate.of_checkpoint(CHECKPOINT))
    theirs = efficientnet_lite_pytorch.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(path), image_size=side
    ).eval()
    x = batch(side)
    with torch.inference_mode():
        assert relative_error(model(x), theirs(x)) <= common.TOLERANCE[torch.float32]


@pytest.mark.parametrize("side", [224, 191])
def test_logits_are_those_of_timm(model: EfficientNet, side: int) -> None:
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict(model.state_dict(), strict=True)
    x = batch(side)
    with torch.inference_mode():
        assert relative_error(model(x), theirs(x)) <= common.TOLERANCE[torch.float32]


@pytest.mark.parametrize("name", PHOTOS)
def test_what_is_seen(model: EfficientNet, name: str) -> None:
    with torch.inference_mode():
        assert model(photo(name)).argmax().item() in SEEN[name]


@pytest.fixture(scope="module")
def double_model() -> EfficientNet:
    return load().double()


@pytest.mark.parametrize("name", PHOTOS)
def test_golden_logits(double_model: EfficientNet, name: str) -> None:
    golden = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
    assert golden.keys() == PHOTOS.keys()
    expected = golden[name]
    sha256 = atomic_io.sha256(PHOTOS[name])
    assert sha256 == expected["sha256"], (
        f"{name} is not the photo that the golden values are of: its sha256 is {sha256}. The package that ships it has "
        "changed it; look at the picture, then write the golden values again as this file's docstring says"
    )
    found = golden_values(double_model, name)
    assert found["top5"] == expected["top5"]
    assert found["logits"].keys() == expected["logits"].keys() == {str(index) for index in GOLDEN_CLASSES}
    for index, logit in expected["logits"].items():
        assert found["logits"][index] == pytest.approx(logit, rel=RTOL), index


def golden_values(double_model: EfficientNet, name: str) -> dict[str, Any]:
    with torch.inference_mode():
        logits = double_model(photo(name).double())[0]
    return {
        "sha256": atomic_io.sha256(PHOTOS[name]),
        "top5": logits.topk(5).indices.tolist(),
        "logits": {str(index): float(f"{logits[index].item():.6g}") for index in GOLDEN_CLASSES},
    }


def write_golden() -> None:
    """Compute the golden values with the package as it is. Only for a change that is meant to change them."""
    double_model = load().double()
    values = {name: golden_values(double_model, name) for name in PHOTOS}
    GOLDEN_FILE.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def test_stem_statistics_confirm_the_declared_normalisation(model: EfficientNet) -> None:
    """Batch norm remembers what the stem gave in training, and so how its images were normalised.

    The README of the package that ships the weights uses ImageNet's mean and standard deviation.
    """
    declared = variance_ratio(model)
    readme = variance_ratio(model, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert CHECKPOINT.preprocessing.mean == CHECKPOINT.preprocessing.std == (0.5, 0.5, 0.5)
    assert 0.5 < declared < 2
    assert readme > 3


def variance_ratio(model: EfficientNet, **changes: Any) -> float:
    """Variance of the stem's output over the photos by the one remembered; the median over its filters."""
    x = torch.cat([photo(name, **changes) for name in PHOTOS])
    with torch.inference_mode():
        found = model.conv_stem(x).transpose(0, 1).flatten(1).var(dim=1)
    remembered = model.bn1.running_var
    assert isinstance(remembered, Tensor)
    return (found / remembered).median().item()


if __name__ == "__main__":
    write_golden()
