"""Against transformers' EfficientNetForImageClassification, which pads for the one size that its config names."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPImageProcessor,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    EfficientNetImageProcessor,
)

from effnet_zoo import EfficientNet, eval_transform
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.errors import WeightsError
from effnet_zoo.images.decoding import open_image
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.identify import identify
from effnet_zoo.layouts.layout import NetworkDescription
from effnet_zoo.layouts.transformers import config_of
from effnet_zoo.numerics import relative_error, shallow
from effnet_zoo.transfer.conversion import Images, convert
from effnet_zoo.transfer.opening import open_package
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing
from tests.parity import common
from tests.parity.photos import PHOTOS

LAYOUT = LAYOUTS["transformers"]
NAMES = tuple(LAYOUT.archs)
WHOLE = NAMES[:3]
REDUCED = NAMES[3:]
Pair = tuple[EfficientNet, Any]

# Of google/efficientnet-b0..b7: image size, width, depth, and the blocks whose padding is square.
PUBLISHED: dict[str, tuple[int, float, float, list[int]]] = {
    "effnet_zoo_b0": (224, 1.0, 1.0, []),
    "effnet_zoo_b1": (240, 1.0, 1.1, [16]),
    "effnet_zoo_b2": (260, 1.1, 1.2, [5, 8, 16]),
    "effnet_zoo_b3": (300, 1.2, 1.4, [5, 18]),
    "effnet_zoo_b4": (380, 1.4, 1.8, [6]),
    "effnet_zoo_b5": (456, 1.6, 2.2, [13, 27]),
    "effnet_zoo_b6": (528, 1.8, 2.6, [31]),
    "effnet_zoo_b7": (600, 2.0, 3.1, [18]),
}

GOOGLE: dict[str, Any] = {
    "do_center_crop": False,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "EfficientNetImageProcessor",
    "image_std": [0.47853944, 0.4732864, 0.47434163],
    "include_top": True,
    "resample": 0,
    "rescale_factor": 0.00392156862745098,
    "rescale_offset": False,
    "size": {"height": 224, "width": 224},
    "crop_size": {"height": 289, "width": 289},
}
"""preprocessor_config.json of google/efficientnet-b0: square roots of the standard deviations, to divide by twice."""


def settings(name: str, *, num_classes: int = 1000, in_chans: int = 3) -> dict[str, Any]:
    model = catalogue.models()[name]
    return config_of(NetworkDescription(variant=model, arch=model.spec, num_classes=num_classes, in_chans=in_chans))


def build(name: str, **fields: Any) -> EfficientNetForImageClassification:
    return EfficientNetForImageClassification(EfficientNetConfig(**{**settings(name), **fields}))


def logits(model: Any, x: Tensor) -> list[Tensor]:
    out = model(x)
    return [getattr(out, "logits", out)]


def assert_logits_agree(ours: nn.Module, theirs: nn.Module, size: common.Size) -> None:
    common.assert_agree(ours, theirs, size, logits, logits)


def test_no_model_is_left_out() -> None:
    assert set(NAMES) == set(PUBLISHED)


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_the_published_ones(name: str) -> None:
    size, width, depth, padding = PUBLISHED[name]
    config = EfficientNetConfig(**settings(name))
    assert (config.image_size, config.width_coefficient, config.depth_coefficient) == (size, width, depth)
    assert config.depthwise_padding == padding
    assert (config.batch_norm_eps, config.hidden_act, config.pooling_type) == (1e-3, "swish", "mean")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_classes", "in_chans"), [(1000, 3), (7, 4)])
def test_keys_map_both_ways(name: str, num_classes: int, in_chans: int) -> None:
    with common.unallocated():
        config = EfficientNetConfig(**settings(name, num_classes=num_classes, in_chans=in_chans))
        state = EfficientNetForImageClassification(config).state_dict()
        found = identify(state, "theirs")
        expected = EfficientNet(found.arch, num_classes=num_classes, in_chans=in_chans).state_dict()
    assert (found.layout.name, found.name) == ("transformers", name)
    assert (found.num_classes, found.in_chans) == (num_classes, in_chans)
    ours = found.layout.table.to_ours(state, found.arch)
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in ours.items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in expected.items()
    }
    back = LAYOUT.table.to_theirs(ours, found.arch)
    assert back.keys() == state.keys()
    assert all(back[key] is tensor for key, tensor in state.items())


@pytest.fixture(scope="module", params=WHOLE)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    theirs = common.drawn(lambda: build(request.param))
    folder = tmp_path_factory.mktemp("transformers")
    theirs.save_pretrained(folder)
    package = open_package(str(folder))
    assert package.variant == request.param
    model = package.model()
    (folder / "model.safetensors").unlink()
    return model, theirs


def test_logits(pair: Pair) -> None:
    assert_logits_agree(*pair, (pair[1].config.image_size,) * 2)


def alike(size: int) -> list[int]:
    """Small sizes at which every stride-2 block pads as it does at this one."""

    def parities(side: int) -> list[int]:
        return [-(-side // stride) % 2 for stride in (1, 2, 4, 8, 16)]

    return [side for side in range(34, 200) if parities(side) == parities(size)]


@pytest.fixture(scope="module", params=REDUCED)
def reduced_pair(request: pytest.FixtureRequest) -> Pair:
    arch = catalogue.models()[request.param].spec
    kept = [
        sum(stage.repeats for stage in arch.stages[:number]) + index
        for number, stage in enumerate(arch.stages)
        for index in range(min(stage.repeats, common.KEPT))
    ]

    def theirs_reduced() -> nn.Module:
        model = build(request.param)
        blocks = model.efficientnet.encoder.blocks
        model.efficientnet.encoder.blocks = nn.ModuleList([blocks[index] for index in kept])
        return model

    theirs = common.drawn(theirs_reduced)
    return common.from_state(shallow(arch, common.KEPT), theirs.state_dict()), theirs


def test_reduced_logits(reduced_pair: Pair) -> None:
    height, width, *_ = alike(reduced_pair[1].config.image_size)
    assert_logits_agree(*reduced_pair, (height, width))


def test_padding_is_for_one_size_only() -> None:
    """What the sizes above are chosen for: at another parity theirs pads differently, not ours."""
    theirs = common.drawn(lambda: build("effnet_zoo_b0"))
    ours = common.from_state(catalogue.models()["effnet_zoo_b0"].spec, theirs.state_dict())
    assert_logits_agree(ours, theirs, (64, 96))
    x = common.images((66, 96), torch.float32)
    with torch.inference_mode():
        assert relative_error(ours(x), theirs(x).logits) > 1e-3


# Folders.


@pytest.fixture(scope="module")
def b0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """B0 of three classes, as transformers saves it."""
    folder = tmp_path_factory.mktemp("b0")
    model = common.drawn(lambda: build("effnet_zoo_b0", id2label=NAMED, label2id={}), seed=4)
    model.save_pretrained(folder)
    return folder


NAMED = {0: "tench", 1: "goldfish", 2: "shark"}


def beside(b0: Path, folder: Path, processor: dict[str, Any] | None = None, **fields: Any) -> str:
    """The same weights beside other configs."""
    folder.mkdir(exist_ok=True)
    os.link(b0 / "model.safetensors", folder / "model.safetensors")
    config = json.loads((b0 / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)


@pytest.mark.parametrize(
    "fields",
    [{}, {"num_channels": 1, "batch_norm_eps": 1e-5, "hidden_act": "relu", "pooling_type": "max"}],
    ids=["as published", "everything else"],
)
def test_what_a_config_says_survives_there_and_back(tmp_path: Path, fields: dict[str, Any]) -> None:
    theirs = common.drawn(lambda: build("effnet_zoo_b0", num_labels=5, id2label=None, label2id=None, **fields), seed=4)
    theirs.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps(GOOGLE))
    package = convert(str(tmp_path / "a"), tmp_path / "b")
    assert package.num_classes == 5
    assert package.labels is None  # LABEL_0, LABEL_1, ... are transformers' way to say so
    assert package.proof is not None
    assert "timm" in package.proof.against
    assert "transformers" in package.proof.against
    convert(str(tmp_path / "b"), tmp_path / "c", to="transformers")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "c" / "model.safetensors").read_bytes()
    x = common.images((64, 64), torch.float64)[:, : fields.get("num_channels", 3)]
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "c").double().eval()
    with torch.inference_mode():
        wanted = theirs.double()(x).logits
        assert relative_error(loaded(x).logits, wanted) <= 1e-10
        assert relative_error(open_package(str(tmp_path / "b")).model().double()(x), wanted) <= 1e-10


def test_class_names_survive_there_and_back(b0: Path, tmp_path: Path) -> None:
    package = convert(beside(b0, tmp_path / "a", GOOGLE), tmp_path / "b")
    assert package.labels == tuple(NAMED.values())
    convert(str(tmp_path / "b"), tmp_path / "c", to="transformers")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "c")
    assert model.config.id2label == NAMED
    assert model.config.label2id == {name: index for index, name in NAMED.items()}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strides", [1, 2, 2, 2, 2, 1, 1]),
        ("depthwise_padding", [5]),
        ("hidden_act", "gelu"),
        ("pooling_type", "median"),
    ],
)
def test_what_no_tensor_shows_and_is_not_efficientnet_is_refused(
    b0: Path, tmp_path: Path, field: str, value: Any
) -> None:
    with pytest.raises(WeightsError, match=f"config.json: {field} .*: expected "):
        open_package(beside(b0, tmp_path, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_norm_eps", -1.0, "config.json: bn_eps=-1.0: expected a number from 1e-12 to 1"),
        ("batch_norm_eps", "x", "config.json: batch_norm_eps: expected float | null, found str"),
        ("pooling_type", 5, "config.json: pooling_type: expected str, found int"),
    ],
)
def test_a_value_that_no_network_has_is_refused_by_its_place(
    b0: Path, tmp_path: Path, field: str, value: Any, message: str
) -> None:
    with pytest.raises(WeightsError, match=re.escape(message)):
        open_package(beside(b0, tmp_path, **{field: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_std": [0.2, 0.0, 0.2]}, "preprocessor_config.json: std "),
        ({"image_std": "0.2"}, "preprocessor_config.json: image_std: expected array | null, found str"),
        ({"size": {"height": 10**9, "width": 224}}, "preprocessor_config.json: size "),
    ],
    ids=str,
)
def test_an_image_processor_with_values_that_are_none_is_refused(
    b0: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=re.escape(message)):
        open_package(beside(b0, tmp_path, {**GOOGLE, **changes}))


# Images.


def photo_through(processor: Any, photo: str) -> Tensor:
    pixels: Tensor = processor(images=open_image(PHOTOS[photo]), return_tensors="pt")["pixel_values"][0]
    return pixels


def assert_same_images(processor: Any, how: Preprocessing | None, *, tolerance: float) -> None:
    """Theirs resizes tensors, ours images: the same but for rounding of resized pixels to whole numbers.

    Of photos of other sizes a wanted pixel, or the middle, may lie exactly between two pixels: where the one rounds up
    and the other down.
    """
    assert how is not None
    for photo in ("chelsea.png", "coffee.png"):
        theirs, ours = photo_through(processor, photo), eval_transform(how)(open_image(PHOTOS[photo]))
        assert ours.shape == theirs.shape
        pixels = (ours - theirs).abs() * torch.tensor(how.std)[:, None, None] * 255
        assert pixels.max() <= tolerance, f"{photo}: {pixels.max()} of 255"


PROCESSORS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "google's": (EfficientNetImageProcessor, {}),
    "once": (EfficientNetImageProcessor, {"include_top": False, "image_std": [0.2, 0.3, 0.4]}),
    "bicubic": (EfficientNetImageProcessor, {"resample": 3}),
    "bilinear": (EfficientNetImageProcessor, {"resample": 2}),
    "cropped": (
        EfficientNetImageProcessor,
        {
            "resample": 3,
            "do_center_crop": True,
            "size": {"height": 254, "width": 254},  # 200 / (200 / 254) is a little less than 254
            "crop_size": {"height": 200, "width": 200},
        },
    ),
    "keeping the aspect": (
        CLIPImageProcessor,
        {
            "image_processor_type": "CLIPImageProcessor",
            "resample": 3,
            "do_center_crop": True,
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
        },
    ),
}


@pytest.mark.parametrize(("kind", "changes"), PROCESSORS.values(), ids=PROCESSORS)
def test_image_processors_are_read_as_they_compute(
    b0: Path, tmp_path: Path, kind: type[Any], changes: dict[str, Any]
) -> None:
    beside(b0, tmp_path, {**GOOGLE, **changes})
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, kind)
    # Nearest pixels are whole numbers already.
    tolerance = 0.01 if changes.get("resample", 0) == 0 else 2
    assert_same_images(processor, open_package(str(tmp_path)).images, tolerance=tolerance)
    # As transformers itself writes it, with whatever it adds.
    processor.save_pretrained(tmp_path)
    assert_same_images(processor, open_package(str(tmp_path)).images, tolerance=tolerance)


def test_googles_image_processor_divides_twice(b0: Path, tmp_path: Path) -> None:
    images = open_package(beside(b0, tmp_path, GOOGLE)).images
    assert images is not None
    assert images.std == pytest.approx((0.229, 0.224, 0.225), abs=1e-6)
    assert dataclasses.replace(images, std=(1.0, 1.0, 1.0)) == Preprocessing(
        size=(224, 224),
        crop_pct=1.0,
        crop_mode="squash",
        interpolation="nearest",
        mean=(0.485, 0.456, 0.406),
        std=(1.0, 1.0, 1.0),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"rescale_offset": True},
        {"rescale_factor": 1 / 127.5},
        {"do_normalize": False},
        {"do_resize": False},
        {"resample": 1},
        {"image_processor_type": "DPTImageProcessor"},
        {"size": 224},
        {"size": {"longest_edge": 224}},
    ],
    ids=str,
)
def test_an_image_processor_that_does_anything_else_is_asked_about(
    b0: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    source = beside(b0, tmp_path / "a", {**GOOGLE, **changes})
    assert open_package(source).images is None
    with pytest.raises(WeightsError, match="how its images are to be prepared is not in the file: .*--mean and --std"):
        convert(source, tmp_path / "b", to="transformers")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_mode": "squash"},
        {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "nearest"},
        {"interpolation": "bilinear", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    ],
    ids=str,
)
def test_written_image_processors_compute_what_the_package_says(
    b0: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    how = dataclasses.replace(catalogue.find("effnet_zoo_b0.aa_in1k")[1].preprocessing, **changes)
    with_images(b0, tmp_path / "b", how)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "b")
    assert_same_images(processor, how, tolerance=0.01 if how.interpolation == "nearest" else 2)
    assert open_package(str(tmp_path / "b")).images == how


def test_an_image_that_is_not_square_cannot_be_cropped_by_transformers(b0: Path, tmp_path: Path) -> None:
    how = dataclasses.replace(catalogue.find("effnet_zoo_b0.aa_in1k")[1].preprocessing, size=(224, 192))
    with pytest.raises(WeightsError, match=r"no image processor that crops \(224, 192\)"):
        with_images(b0, tmp_path / "b", how)
    assert not (tmp_path / "b").exists()


def with_images(source: Path, out: Path, how: Preprocessing) -> Bundle:
    """Convert to transformers with images prepared in a way that not all options express."""

    class Given(Images):
        def of(self, package: Bundle) -> Preprocessing:
            return how

    with patch("effnet_zoo.transfer.conversion.prove", return_value=None):  # proven above, and slow
        return convert(str(source), out, to="transformers", images=Given())
