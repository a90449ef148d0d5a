"""The model contract: what users of timm and efficientnet_pytorch expect of every registered model."""

import dataclasses
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effnet_zoo import ArchSpec, EfficientNet, EfficientNetFeatures, Scaling
from effnet_zoo.arch.families import V1
from effnet_zoo.network.layers import Layers
from effnet_zoo.network.model import build_model
from effnet_zoo.numerics import relative_error, shallow
from effnet_zoo.zoo import catalogue
from tests.network.models import NAMES, batch_norms, images, small


@pytest.mark.parametrize("name", NAMES)
def test_every_model_fulfils_the_contract(name: str) -> None:
    entry = catalogue.models()[name]
    model = timm.create_model(name, device="meta").eval()
    assert isinstance(model, EfficientNet)
    x = torch.empty(2, 3, 97, 130, device="meta")
    width = entry.spec.head_filters
    classes = entry.default.num_classes
    assert model(x).shape == (2, classes)
    assert model.num_classes == classes
    assert model.num_features == model.head_hidden_size == width
    assert model.forward_features(x).shape == (2, width, 4, 5)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, width)
    assert model.get_classifier() is model.classifier
    assert sum(p.numel() for p in model.parameters()) == entry.spec.parameters(num_classes=classes)
    assert model.pretrained_cfg["architecture"] == name
    assert model.pretrained_cfg["tag"] == entry.default.tag

    _, maps = model.forward_intermediates(x)
    assert [m.shape[1] for m in maps] == [level["num_chs"] for level in model.feature_info]
    assert [(m.shape[2], m.shape[3]) for m in maps] == [(49, 65), (25, 33), (13, 17), (7, 9), (4, 5)]
    assert [level["reduction"] for level in model.feature_info] == [2, 4, 8, 16, 32]
    for level in model.feature_info:
        model.get_submodule(level["module"])

    grouped = group_parameters(model, model.group_matcher(coarse=True))
    assert sorted(n for group in grouped.values() for n in group) == sorted(n for n, _ in model.named_parameters())
    assert len(grouped) == len(model.blocks) + 2

    model.reset_classifier(5, "max")
    assert model(x).shape == (2, 5)
    assert model.global_pool.pool_type == "max"
    model.reset_classifier(0, "")
    assert model(x).shape == (2, width, 4, 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("output_stride", "sizes"), [(16, [64, 32, 16, 8, 8]), (8, [64, 32, 16, 16, 16])])
def test_output_stride(name: str, output_stride: int, sizes: list[int]) -> None:
    features = timm.create_model(name, features_only=True, output_stride=output_stride, device="meta").eval()
    maps = features(torch.empty(1, 3, 128, 128, device="meta"))
    assert [m.shape[2] for m in maps] == sizes
    assert features.feature_info.reduction() == [128 // size for size in sizes]


@pytest.mark.parametrize("name", NAMES)
def test_multiply_accumulates_are_those_torch_counts(name: str) -> None:
    spec = catalogue.models()[name].spec
    model = EfficientNet(spec, device="meta").eval()
    size = spec.image_size // 32 * 32 + 1  # every map odd: on even ones torch counts the zeros that move a SAME kernel
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, size, size, device="meta"))
    assert counter.get_total_flops() == 2 * spec.macs(size=size)


@pytest.mark.parametrize("name", NAMES)
def test_drop_rates_are_the_declared_ones_and_can_be_changed(name: str) -> None:
    spec = catalogue.models()[name].spec
    model = timm.create_model(name, device="meta")
    assert model.head_drop.p == model.drop_rate == spec.drop_rate
    blocks = [block for stage in model.blocks for block in stage]
    for index, block in enumerate(blocks):
        expected = 0.2 * index / len(blocks) if block.skip else 0.0
        assert getattr(block.drop_path, "drop_prob", 0.0) == pytest.approx(expected)
    plain = timm.create_model(name, device="meta", drop_rate=0.0, drop_path_rate=0.0)
    assert plain.head_drop.p == 0
    assert all(isinstance(block.drop_path, nn.Identity) for stage in plain.blocks for block in stage)


@pytest.mark.parametrize("name", NAMES)
def test_pyramid_head_and_logits_in_one_call_equal_separate_calls(name: str) -> None:
    model = small(name).double()
    x = images(2, 3, 65, 96).double()
    with torch.inference_mode():
        head, maps, logits = model.forward_intermediates(x, return_logits=True)
        assert torch.equal(head, model.forward_features(x))
        assert torch.equal(head, model.extract_features(x))
        assert torch.equal(logits, model(x))
        endpoints = model.extract_endpoints(x)
        assert list(endpoints) == [f"reduction_{n}" for n in range(1, 7)]
        assert all(torch.equal(a, b) for a, b in zip(endpoints.values(), [*maps, head], strict=True))
        _, last_two = model.forward_intermediates(x, indices=2)
        assert all(torch.equal(a, b) for a, b in zip(last_two, maps[-2:], strict=True))
        early = model.forward_intermediates(x, indices=[0, -4], stop_early=True, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(early, maps[:2], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_features_only_gives_the_same_maps_and_builds_nothing_more(name: str) -> None:
    spec = shallow(catalogue.models()[name].spec)
    model = small(name)
    features = EfficientNetFeatures(spec, out_indices=(1, 3)).eval()
    kept = {key: value for key, value in model.state_dict().items() if key in features.state_dict()}
    features.load_state_dict(kept, strict=True)
    x = images(1, 3, 65, 96).requires_grad_()
    maps = features(x)
    _, expected = model.forward_intermediates(x, indices=[1, 3])
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
    assert features.feature_info.channels() == [m.shape[1] for m in maps]
    torch.autograd.backward([m.sum() for m in maps])
    assert [name for name, p in features.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(5, 8), (8, 5), (7, 7), (10, 10), (1, 2)])
def test_same_padding_is_tensorflows(kernel: int, size: tuple[int, int]) -> None:
    arch = catalogue.models()["effnet_zoo_b0"].spec
    conv = Layers(arch, None, torch.float64).conv(2, 3, kernel, stride=2)
    nn.init.normal_(conv.weight)
    x = images(1, 2, *size).double()
    # TensorFlow's rule, straight from its documentation of padding='SAME'.
    pads = []
    for side in reversed(size):
        total = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    expected = nn.functional.conv2d(nn.functional.pad(x, pads), conv.weight, stride=2)
    assert torch.allclose(conv(x), expected, rtol=1e-12, atol=1e-12)
    assert conv(x).shape[2:] == tuple(-(-side // 2) for side in size)


@pytest.mark.parametrize(
    ("option", "value"),
    [("padding", "symmetric"), ("bn_eps", 1e-5), ("act_layer", "relu")],
)
def test_numerics_can_be_overridden_and_matter(option: str, value: Any) -> None:
    model = small("effnet_zoo_b0")
    other = build_model(model.arch, num_classes=11, **{option: value}).eval()
    other.load_state_dict(model.state_dict())
    assert relative_error(other(images(1, 3, 64, 64)), model(images(1, 3, 64, 64))) > 1e-4


def test_batch_norm_numbers_are_the_specs() -> None:
    assert {(norm.eps, norm.momentum) for norm in batch_norms(small("effnet_zoo_b0"))} == {(1e-3, 0.01)}
    changed = timm.create_model("effnet_zoo_v2_b0", bn_eps=1e-5, bn_momentum=0.1, device="meta")
    assert {(norm.eps, norm.momentum) for norm in batch_norms(changed)} == {(1e-5, 0.1)}


def test_random_weights_follow_the_generator_and_keep_activations_in_range() -> None:
    torch.manual_seed(0)
    first = EfficientNet(catalogue.models()["effnet_zoo_b0"].spec)
    torch.manual_seed(0)
    second = EfficientNet(catalogue.models()["effnet_zoo_b0"].spec)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert 0.01 < first.train()(images(4, 3, 64, 64)).std() < 10


def test_a_network_from_a_users_own_strings_and_rows() -> None:
    spec = ArchSpec.from_blocks(["r1_k3_s22_e1_i16_o24", "r2_k5_s22_e4_i24_o40_se0.5"], stem=16, head=64)
    model = EfficientNet(dataclasses.replace(spec, activation="relu"), num_classes=3, in_chans=1).eval()
    assert model(images(1, 1, 40, 50)).shape == (1, 3)
    assert [level["module"] for level in model.feature_info] == ["act1", "blocks.0", "blocks.1"]
    _, maps = model.forward_intermediates(images(1, 1, 40, 50))
    assert [m.shape[1:] for m in maps] == [(16, 20, 25), (24, 10, 13), (40, 5, 7)]
    stem_only = EfficientNetFeatures(spec, out_indices=[0]).eval()
    assert [m.shape[1] for m in stem_only(images(1, 3, 40, 50))] == [16]
    assert not any(name.startswith("blocks") for name, _ in stem_only.named_parameters())
    wide = EfficientNet(ArchSpec.from_blocks(V1, scaling=Scaling(width=1.1, depth=1.2)), device="meta")
    assert wide.state_dict().keys() == timm.create_model("effnet_zoo_b2", device="meta").state_dict().keys()
    rows = EfficientNet(ArchSpec.from_rows([(1, 24, 1, 1, 1), (4, 48, 1, 2, 0)]), num_classes=2).eval()
    assert rows(images(1, 3, 32, 32)).shape == (1, 2)


def test_from_name_as_efficientnet_pytorch_writes_it() -> None:
    model = EfficientNet.from_name("efficientnet-b3", in_chans=1, num_classes=10, drop_rate=0.1, device="meta")
    assert model(torch.empty(1, 1, 64, 64, device="meta")).shape == (1, 10)
    assert model.head_drop.p == 0.1
    assert EfficientNet.get_image_size("efficientnet-b3") == 300
    assert EfficientNet.get_image_size("efficientnetv2-s") == 384


def test_users_may_replace_dropout_pooling_and_classifier() -> None:
    model = small("effnet_zoo_b0")
    model.head_drop = nn.Dropout(0.9)
    model.global_pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(1))
    model.classifier = nn.Linear(model.num_features, 4)
    assert model(images(1, 3, 64, 64)).shape == (1, 4)
    model.train()
    assert model.head_drop.training
    model.eval()
    assert not model.head_drop.training


def test_the_smallest_input_works() -> None:
    assert small("effnet_zoo_b0")(images(1, 3, 32, 32)).isfinite().all()
