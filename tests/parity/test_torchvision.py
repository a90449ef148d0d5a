"""Against torchvision's models, which pad symmetrically and differ among themselves in epsilon."""

import dataclasses
from typing import Any

import pytest
import torchvision
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.numerics import shallow
from effnet_zoo.zoo import catalogue
from tests.parity import common

TABLE = LAYOUTS["torchvision"].table
# Theirs, ours, and the epsilon that torchvision trained it with.
MODELS = {
    **{f"efficientnet_b{number}": (f"efficientnet_b{number}", 1e-5) for number in range(5)},
    **{f"efficientnet_b{number}": (f"efficientnet_b{number}", 1e-3) for number in range(5, 8)},
    **{f"efficientnet_v2_{size}": (f"efficientnetv2_{size}", 1e-3) for size in "sml"},
}
REDUCED = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_m", "efficientnet_v2_l")
WHOLE = tuple(name for name in MODELS if name not in REDUCED)
Pair = tuple[EfficientNet, nn.Module]


def test_no_model_is_left_out() -> None:
    assert set(torchvision.models.list_models(include="efficientnet*")) == set(MODELS)


def build(name: str, *, reduced: bool = False) -> nn.Module:
    model = getattr(torchvision.models, name)()
    if reduced:
        common.keep_blocks(model.features, range(1, len(model.features) - 1))  # stem first, head last
    assert isinstance(model, nn.Module)
    return model


def epsilon(model: nn.Module) -> float:
    """The one epsilon of all batch norms."""
    (eps,) = {layer.eps for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)}
    return eps


@pytest.mark.parametrize("name", MODELS)
def test_keys_map_both_ways(name: str) -> None:
    arch = catalogue.find_variant(MODELS[name][0]).spec
    with common.unallocated():
        theirs, model = build(name), EfficientNet(arch)
    assert epsilon(theirs) == MODELS[name][1]
    state = theirs.state_dict()
    ours = TABLE.to_ours(state, arch)
    expected = model.state_dict()
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in ours.items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in expected.items()
    }
    back = TABLE.to_theirs(ours, arch)
    assert list(back) == list(state)
    assert all(back[key] is tensor for key, tensor in state.items())


@pytest.fixture(scope="module", params=WHOLE)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    theirs = common.drawn(lambda: build(request.param))
    folder = tmp_path_factory.mktemp("torchvision")
    overrides: Any = {"padding": "symmetric", "bn_eps": epsilon(theirs)}
    return common.from_file(MODELS[request.param][0], theirs.state_dict(), folder, **overrides), theirs


@pytest.fixture(scope="module", params=REDUCED)
def reduced_pair(request: pytest.FixtureRequest) -> Pair:
    theirs = common.drawn(lambda: build(request.param, reduced=True))
    arch = shallow(catalogue.find_variant(MODELS[request.param][0]).spec, common.KEPT)
    arch = dataclasses.replace(arch, padding="symmetric", bn_eps=epsilon(theirs))
    return common.from_state(arch, theirs.state_dict()), theirs


@pytest.mark.parametrize("size", [size for size in common.SIZES if size != common.SMALL], ids=str)
def test_logits(pair: Pair, size: common.Size) -> None:
    common.assert_logits_agree(*pair, size)


@pytest.mark.parametrize("size", [common.SMALL, common.TINY], ids=str)
def test_reduced_logits(reduced_pair: Pair, size: common.Size) -> None:
    common.assert_logits_agree(*reduced_pair, size)


def test_features(pair: Pair) -> None:
    def of_ours(model: Any, x: Tensor) -> list[Tensor]:
        return [model.forward_features(x)]

    def of_theirs(model: Any, x: Tensor) -> list[Tensor]:
        return [model.features(x)]

    common.assert_agree(*pair, common.SMALL, of_ours, of_theirs)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_s"])
def test_ours_run_in_theirs(name: str) -> None:
    theirs = build(name)
    spec = catalogue.find_variant(MODELS[name][0]).spec
    arch = dataclasses.replace(spec, padding="symmetric", bn_eps=epsilon(theirs))
    ours = common.drawn(lambda: EfficientNet(arch), seed=3)
    theirs.load_state_dict(TABLE.to_theirs(ours.state_dict(), arch), strict=True)
    common.assert_logits_agree(ours, theirs.eval(), common.TINY)
