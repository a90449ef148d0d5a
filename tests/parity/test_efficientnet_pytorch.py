"""Against efficientnet_pytorch and its Lite fork, whose files and method names users come with."""

import dataclasses
from pathlib import Path
from typing import Any

import efficientnet_lite_pytorch
import efficientnet_pytorch
import pytest
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.arch.spec import ArchSpec, variant_spec
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.numerics import relative_error
from effnet_zoo.zoo import catalogue
from tests.parity import common

TABLE = LAYOUTS["efficientnet_pytorch"].table
WHOLE = ("b0", "b1", "b2", "b3", "b4")
REDUCED = ("b5", "b6", "b7", "b8", "l2")
LITE = ("lite0", "lite1", "lite2", "lite3", "lite4")

# At the remaining size the maps before the logits are compared.
SIZES = [size for size in common.SIZES if size != common.SMALL]

DEPTH = 0.4
"""Depth coefficient of the reduced ones: B0's stages with one or two blocks, and their own width."""


def test_no_variant_is_left_out() -> None:
    v1 = {name.removeprefix("effnet_zoo_") for name in common.all_names() if "_v2_" not in name}
    edgetpu = {"es", "em", "el"}  # neither library knows them
    assert v1 - edgetpu == {*WHOLE, *REDUCED, *LITE}


def build(name: str, **options: Any) -> nn.Module:
    """Theirs with padding computed for each input; by default it is fixed for the variant's own size."""
    library = efficientnet_lite_pytorch if name in LITE else efficientnet_pytorch
    options.setdefault("image_size", None)
    model = library.EfficientNet.from_name(f"efficientnet-{name}", **options)
    assert isinstance(model, nn.Module)
    return model


def reduced_spec(name: str) -> ArchSpec:
    family = catalogue.find_variant(f"efficientnet-{name}").family
    variant = next(variant for variant in family.variants if variant.name == name)
    return variant_spec(family, dataclasses.replace(variant, depth=DEPTH))


Pair = tuple[EfficientNet, nn.Module]


@pytest.fixture(scope="module", params=WHOLE)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return whole_pair(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=LITE)
def lite_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return whole_pair(request.param, tmp_path_factory)


def whole_pair(name: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    # SiLU is rounded otherwise there, and a deep network of drawn weights can magnify that: by the first draw B3 would
    # use up half of float32's tolerance.
    theirs = common.drawn(lambda: build(name), seed=2 if name == "b3" else 0)
    folder = tmp_path_factory.mktemp("efficientnet_pytorch")
    return common.from_file(f"efficientnet-{name}", theirs.state_dict(), folder), theirs


@pytest.fixture(scope="module", params=REDUCED)
def reduced_pair(request: pytest.FixtureRequest) -> Pair:
    theirs = common.drawn(lambda: build(request.param, depth_coefficient=DEPTH))
    return common.from_state(reduced_spec(request.param), theirs.state_dict()), theirs


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits(pair: Pair, size: common.Size) -> None:
    common.assert_logits_agree(*pair, size)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_lite_logits(lite_pair: Pair, size: common.Size) -> None:
    common.assert_logits_agree(*lite_pair, size)


def test_features_and_endpoints(pair: Pair) -> None:
    common.assert_agree(*pair, common.SMALL, features_and_endpoints, features_and_endpoints)


def test_lite_features(lite_pair: Pair) -> None:
    common.assert_agree(*lite_pair, common.SMALL, features, features)


def test_reduced_logits(reduced_pair: Pair) -> None:
    common.assert_logits_agree(*reduced_pair, common.TINY)


def test_reduced_features_and_endpoints(reduced_pair: Pair) -> None:
    common.assert_agree(*reduced_pair, common.SMALL, features_and_endpoints, features_and_endpoints)


def features_and_endpoints(model: Any, x: Tensor) -> list[Tensor]:
    endpoints = model.extract_endpoints(x)
    assert list(endpoints) == [f"reduction_{number}" for number in range(1, 7)]
    return [*features(model, x), *endpoints.values()]


def features(model: Any, x: Tensor) -> list[Tensor]:
    return [model.extract_features(x)]  # the fork has no extract_endpoints


@pytest.mark.parametrize("name", ["b0", "lite0"])
def test_at_its_own_size_with_fixed_padding(name: str, tmp_path: Path) -> None:
    size = EfficientNet.get_image_size(f"efficientnet-{name}")
    theirs = common.drawn(lambda: build(name, image_size=size))
    ours = common.from_file(f"efficientnet-{name}", theirs.state_dict(), tmp_path)
    common.assert_logits_agree(ours, theirs, (size, size))


@pytest.mark.parametrize("name", [*WHOLE, *REDUCED, *LITE])
def test_keys_map_both_ways(name: str) -> None:
    arch = catalogue.find_variant(f"efficientnet-{name}").spec
    with common.unallocated():
        theirs, model = build(name), EfficientNet(arch)
    state = theirs.state_dict()
    ours = TABLE.to_ours(state, arch)
    expected = model.state_dict()
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in ours.items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in expected.items()
    }
    back = TABLE.to_theirs(ours, arch)
    assert list(back) == list(state)
    assert all(back[key] is tensor for key, tensor in state.items())


@pytest.mark.parametrize("name", ["b0", "lite0"])
def test_ours_run_in_theirs(name: str) -> None:
    model = catalogue.find_variant(f"efficientnet-{name}")
    ours = common.drawn(lambda: EfficientNet(model.spec), seed=3)
    theirs = build(name)
    theirs.load_state_dict(TABLE.to_theirs(ours.state_dict(), model.spec), strict=True)
    common.assert_logits_agree(ours, theirs.eval(), common.SMALL)


@pytest.mark.parametrize("name", ["b0", "lite0"])
def test_a_training_step_moves_the_statistics_alike(name: str, tmp_path: Path) -> None:
    theirs = common.drawn(lambda: build(name, drop_connect_rate=0.0, dropout_rate=0.0))
    state = theirs.state_dict()
    ours = common.from_file(f"efficientnet-{name}", state, tmp_path, drop_rate=0.0, drop_path_rate=0.0)
    theirs.double().train()
    ours.double().train()
    x = common.images(common.SMALL, torch.float64)
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)) <= common.TOLERANCE[torch.float64]
    moved = TABLE.to_ours(theirs.state_dict(), ours.arch)
    for key, tensor in ours.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            assert relative_error(moved[key], tensor) <= common.TOLERANCE[torch.float64], key
