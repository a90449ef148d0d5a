"""Against timm's own ``tf_`` models: the same contract, the same keys, the same numbers."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.numerics import randomise, relative_error, shallow
from effnet_zoo.zoo import catalogue
from tests.parity import common

# One of each family, and of those with scaling also one that is scaled. The V2 large models are not scaled.
REPRESENTATIVES = (
    "effnet_zoo_b0",
    "effnet_zoo_b3",
    "effnet_zoo_lite0",
    "effnet_zoo_es",
    "effnet_zoo_el",
    "effnet_zoo_v2_s",
    "effnet_zoo_v2_b0",
    "effnet_zoo_v2_b3",
)


def timm_name(name: str) -> str:
    return f"tf_{catalogue.models()[name].hub_name}"


NAMES = [name for name in common.all_names() if timm.is_model(timm_name(name))]


def with_file(name: str, state: dict[str, Tensor], folder: Path, **options: Any) -> Any:
    """Ours from timm's weights the way a timm user gets it."""
    path = folder / "timm.safetensors"
    save_file(state, path)
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options)
    path.unlink()
    return model.eval()


@pytest.fixture(scope="module", params=REPRESENTATIVES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[EfficientNet, nn.Module]:
    """Ours and timm's, whole, with the same weights."""
    theirs = common.drawn(lambda: timm.create_model(timm_name(request.param)))
    return with_file(request.param, theirs.state_dict(), tmp_path_factory.mktemp("timm")), theirs


@pytest.mark.parametrize("name", NAMES)
def test_layout_and_feature_info_are_the_same(name: str) -> None:
    with common.unallocated():
        ours, theirs = (timm.create_model(each) for each in (name, timm_name(name)))
    assert layout(ours) == layout(theirs)
    assert levels(ours) == levels(theirs)


# Where a stride becomes dilation is the same in a whole family; its filters are in the test above.
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_dilated_feature_info_is_the_same(name: str, output_stride: int) -> None:
    with common.unallocated():
        ours, theirs = (timm.create_model(each, output_stride=output_stride) for each in (name, timm_name(name)))
    assert levels(ours) == levels(theirs)
    assert {level["reduction"] for level in ours.feature_info} == {2, 4, 8, output_stride}


def layout(model: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(key, tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()]


def levels(model: Any) -> list[tuple[int, int, int]]:
    return [(level["stage"], level["num_chs"], level["reduction"]) for level in model.feature_info]


@pytest.mark.parametrize("size", common.SIZES[:2], ids=str)
def test_logits(pair: tuple[EfficientNet, nn.Module], size: common.Size) -> None:
    common.assert_logits_agree(*pair, size)


def test_features_and_pre_logits(pair: tuple[EfficientNet, nn.Module]) -> None:
    def outputs(model: Any, x: Tensor) -> list[Tensor]:
        features = model.forward_features(x)
        return [features, model.forward_head(features, pre_logits=True), model.forward_head(features)]

    common.assert_agree(*pair, common.TINY, outputs, outputs)


def test_every_level(pair: tuple[EfficientNet, nn.Module]) -> None:
    def outputs(model: Any, x: Tensor) -> list[Tensor]:
        last, maps = model.forward_intermediates(x)
        assert len(maps) == 5
        return [last, *maps, model.forward_head(last)]

    common.assert_agree(*pair, common.SMALL, outputs, outputs)


@pytest.fixture(scope="module", params=["effnet_zoo_b0", "effnet_zoo_es"])
def short_pair(request: pytest.FixtureRequest) -> tuple[EfficientNet, nn.Module]:
    """Ours and timm's, with few blocks, for what depth has no part in."""
    theirs = short_of_timm(request.param)
    return common.from_state(shallow(catalogue.models()[request.param].spec, common.KEPT), theirs.state_dict()), theirs


def short_of_timm(name: str, output_stride: int = 32) -> Any:
    def build() -> nn.Module:
        model = timm.create_model(timm_name(name), output_stride=output_stride)
        common.keep_blocks(model.blocks, range(len(model.blocks)))
        assert isinstance(model, nn.Module)
        return model

    return common.drawn(build)


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("indices", [None, 2, [0], [1], [2], [3], [4], [1, 3], [-1], [0, -2]], ids=str)
def test_forward_intermediates(
    short_pair: tuple[EfficientNet, nn.Module], indices: int | list[int] | None, stop_early: bool
) -> None:
    def outputs(model: Any, x: Tensor) -> list[Tensor]:
        last, maps = model.forward_intermediates(x, indices=indices, stop_early=stop_early)
        only = model.forward_intermediates(x, indices=indices, stop_early=stop_early, intermediates_only=True)
        return [last, *maps, *only]

    common.assert_agree(*short_pair, common.TINY, outputs, outputs, [torch.float64])


@pytest.mark.parametrize(
    ("name", "out_indices"),
    [
        *((name, (0, 1, 2, 3, 4)) for name in REPRESENTATIVES),
        *((name, indices) for name in ("effnet_zoo_b0", "effnet_zoo_es") for indices in ((1, 3), (4,), (0, -2))),
    ],
    ids=str,
)
def test_features_only(name: str, out_indices: Sequence[int], tmp_path: Path) -> None:
    theirs = common.drawn(lambda: timm.create_model(timm_name(name), features_only=True, out_indices=out_indices))
    ours = with_file(name, theirs.state_dict(), tmp_path, features_only=True, out_indices=out_indices)
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    common.assert_agree(ours, theirs, common.TINY, maps, maps, [torch.float64])


def maps(model: Any, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = model(x)
    return found


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_dilated_logits(name: str, output_stride: int) -> None:
    theirs = short_of_timm(name, output_stride)
    arch = shallow(catalogue.models()[name].spec, common.KEPT)
    ours = common.from_state(arch, theirs.state_dict(), output_stride=output_stride)
    common.assert_logits_agree(ours, theirs, common.SMALL)


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_in_both_directions(name: str) -> None:
    theirs = short_of_timm(name)
    ours = common.from_state(shallow(catalogue.models()[name].spec, common.KEPT), theirs.state_dict())
    common.assert_logits_agree(ours, theirs, common.SMALL)

    randomise(ours, seed=1)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    common.assert_agree(ours, theirs, common.TINY, common.logits, common.logits, [torch.float32])
    common.assert_same_state(ours.state_dict(), theirs.state_dict())
    randomise(theirs, seed=2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    common.assert_same_state(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", ["effnet_zoo_b0", "effnet_zoo_lite0", "effnet_zoo_es", "effnet_zoo_v2_b0"])
def test_a_training_step(name: str, tmp_path: Path) -> None:
    theirs = common.drawn(lambda: timm.create_model(timm_name(name), drop_rate=0.0, drop_path_rate=0.0))
    # timm builds with PyTorch's momentum unless told otherwise; ours is TensorFlow's, 0.01.
    ours = with_file(name, theirs.state_dict(), tmp_path, drop_rate=0.0, drop_path_rate=0.0, bn_momentum=0.1)
    outputs = [step(model.double()) for model in (ours, theirs)]
    assert relative_error(*outputs) <= common.TOLERANCE[torch.float64]
    mine, reference = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(reference)
    for key, wanted in reference.items():
        if key.endswith("num_batches_tracked"):
            assert mine[key] == wanted == 1
        else:
            assert relative_error(mine[key], wanted) <= common.TOLERANCE[torch.float64], key


def step(model: nn.Module) -> Tensor:
    """One step of gradient descent, with batch statistics; the output before it."""
    model.train()
    output: Tensor = model(common.images(common.TINY, torch.float64))
    output.square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return output.detach()


def test_momentum_is_tensorflows_unless_overridden(tmp_path: Path) -> None:
    theirs = common.drawn(lambda: timm.create_model("tf_efficientnet_b0"))
    build = functools.partial(with_file, "effnet_zoo_b0", theirs.state_dict(), tmp_path)
    moved = []
    for options in ({}, {"bn_momentum": 0.1}):
        ours = build(drop_rate=0.0, drop_path_rate=0.0, **options).double()
        before = ours.bn1.running_mean.clone()
        step(ours)
        moved.append(ours.bn1.running_mean - before)
    assert relative_error(moved[0] * 10, moved[1]) <= common.TOLERANCE[torch.float64]


def test_overrides_give_timms_pytorch_variant(tmp_path: Path) -> None:
    theirs = common.drawn(lambda: timm.create_model("efficientnet_b0", act_layer="relu"))
    overrides = {"padding": "symmetric", "bn_eps": 1e-5, "act_layer": "relu"}
    ours = with_file("effnet_zoo_b0", theirs.state_dict(), tmp_path, **overrides)
    for size in common.SIZES:
        common.assert_logits_agree(ours, theirs, size)
