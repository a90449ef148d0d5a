"""What a state dict is, told from its keys and shapes; and every key to every layout and back."""

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from effnet_zoo import EfficientNet
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts.identify import identify
from effnet_zoo.layouts.keytable import State
from effnet_zoo.zoo import catalogue
from tests.parity import common
from tests.transfer.states import (
    NETWORKS,
    TORCH,
    changed,
    hollow,
    meta_state,
)


def test_every_variant_of_every_layout_is_known() -> None:
    assert set(TORCH["effnet_zoo"].archs) == set(catalogue.models())
    counts = {layout: len(TORCH[layout].archs) for layout in TORCH}
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
    name = next(iter(TORCH[layout].archs))
    whole = meta_state(layout, name)
    old = {key: value for key, value in whole.items() if "num_batches" not in key}
    found = identify(old, "a file")
    ours = found.layout.table.to_ours(old, found.arch)
    assert found.name == name
    assert ours.keys() == EfficientNet(found.arch, device="meta").state_dict().keys()
    assert {value.item() for key, value in ours.items() if "num_batches" in key} == {0}


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
    b0 = TORCH["effnet_zoo"].archs["effnet_zoo_b0"]
    twice = dataclasses.replace(TORCH["effnet_zoo"], archs={"one": b0, "other": b0})
    with patch.dict("effnet_zoo.layouts.identify.LAYOUTS", {"effnet_zoo": twice}):
        with pytest.raises(WeightsError, match="a file fits one of effnet_zoo and other of effnet_zoo: say which"):
            identify(meta_state("effnet_zoo", "effnet_zoo_b0"), "a file")
        assert identify(meta_state("effnet_zoo", "effnet_zoo_b0"), "a file", among=["other"]).name == "other"


@pytest.mark.parametrize(("layout", "name"), NETWORKS)
def test_every_key_goes_to_every_layout_that_has_the_network_and_back(layout: str, name: str) -> None:
    arch = TORCH[layout].archs[name]
    state = meta_state(layout, name)
    ours = TORCH[layout].table.to_ours(state, arch)
    for other in TORCH.values():
        if name in other.archs:
            theirs = other.table.to_theirs(ours, arch)
            back = TORCH[layout].table.to_theirs(other.table.to_ours(theirs, arch), arch)
            assert len(theirs) == len(state)
            assert [(key, value.shape, value.dtype) for key, value in back.items()] == [
                (key, value.shape, value.dtype) for key, value in state.items()
            ]
