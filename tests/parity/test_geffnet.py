"""Against geffnet, whose keys are ours: the ``tf_`` models as they are, the others with the overrides they stand for."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effnet_zoo import EfficientNet, catalog
from effnet_zoo.families import Padding
from effnet_zoo.selftest import shallow
from tests.parity import common

with warnings.catch_warnings():
    # geffnet compiles its activations with torch.jit.script when it is imported.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
    import geffnet

V1 = [model.hub_name for name, model in catalog.models().items() if "_v2_" not in name]
WHOLE = ("efficientnet_b0", "efficientnet_lite0", "efficientnet_es")
NUMERICS: dict[str, tuple[Padding, float]] = {"tf_": ("same", 1e-3), "": ("symmetric", 1e-5)}


def test_geffnet_has_them_all() -> None:
    assert len(V1) == 18
    for prefix in NUMERICS:
        assert all(hasattr(geffnet, geffnet_name(prefix, name)) for name in V1)


def geffnet_name(prefix: str, name: str) -> str:
    # geffnet has TensorFlow's L2 only under the name of its checkpoint.
    return "tf_efficientnet_l2_ns" if (prefix, name) == ("tf_", "efficientnet_l2") else prefix + name


def build(prefix: str, name: str, *, reduced: bool = False) -> nn.Module:
    model = geffnet.create_model(geffnet_name(prefix, name))
    if reduced:
        common.keep_blocks(model.blocks, range(len(model.blocks)))
    assert isinstance(model, nn.Module)
    return model


@pytest.mark.parametrize("name", V1)
def test_state_dict_has_the_same_layout(name: str) -> None:
    with torch.device("meta"):
        theirs = build("tf_", name).state_dict()
    ours = EfficientNet(catalog.find_variant(name).spec, device="meta").state_dict()
    assert [(key, tensor.shape, tensor.dtype) for key, tensor in ours.items()] == [
        (key, tensor.shape, tensor.dtype) for key, tensor in theirs.items()
    ]


@pytest.fixture(scope="module", params=[(prefix, name) for prefix in NUMERICS for name in WHOLE], ids="".join)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[EfficientNet, Any]:
    prefix, name = request.param
    padding, bn_eps = NUMERICS[prefix]
    theirs = common.drawn(lambda: build(prefix, name))
    folder = tmp_path_factory.mktemp("geffnet")
    return common.from_file(name, theirs.state_dict(), folder, padding=padding, bn_eps=bn_eps), theirs


@pytest.mark.parametrize("size", common.SIZES, ids=str)
def test_logits(pair: tuple[EfficientNet, Any], size: common.Size) -> None:
    common.assert_logits_agree(*pair, size)


@pytest.mark.parametrize("prefix", NUMERICS)
@pytest.mark.parametrize("name", [name for name in V1 if name not in WHOLE])
def test_logits_of_every_other_variant_with_reduced_depth(prefix: str, name: str) -> None:
    padding, bn_eps = NUMERICS[prefix]
    arch = dataclasses.replace(
        shallow(catalog.find_variant(name).spec, common.KEPT), padding=padding, bn_eps=bn_eps
    )
    theirs = common.drawn(lambda: build(prefix, name, reduced=True))
    ours = common.from_state(arch, theirs.state_dict())
    for size in (common.SMALL, common.TINY):
        common.assert_logits_agree(ours, theirs, size)


def test_ours_run_in_theirs(tmp_path: Path) -> None:
    ours = common.drawn(lambda: EfficientNet.from_name("efficientnet_b0"), seed=3)
    theirs = build("tf_", "efficientnet_b0").eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    common.assert_logits_agree(ours, theirs, common.SMALL)
