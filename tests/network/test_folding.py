"""Folding: the same function of the images, with every part of the model's interface, from an untouched original."""

import copy
import dataclasses
import io

import pytest
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet, optimize
from effnet_zoo.errors import ArgumentError
from effnet_zoo.network.devices import devices
from effnet_zoo.network.model import EfficientNetFeatures
from effnet_zoo.numerics import randomise, relative_error, settle, shallow
from effnet_zoo.selftest import ERROR_LIMITS
from effnet_zoo.zoo import catalogue

NAMES = list(catalogue.models())


def network(name: str = "effnet_zoo_b0", **changes: object) -> EfficientNet:
    """A variant with a block a stage and drawn weights, batch norm's statistics too."""
    arch = dataclasses.replace(shallow(catalogue.models()[name].spec), **changes)  # type: ignore[arg-type]
    model = EfficientNet(arch, num_classes=7)
    randomise(model, seed=0)
    return model.eval()


def images(height: int = 65, width: int = 98, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 64), (65, 98)])
def test_every_variant_computes_the_same_in_float64(name: str, size: tuple[int, int]) -> None:
    model = network(name).double()
    some = images(*size).double()
    with torch.no_grad():
        assert relative_error(optimize(model)(some), model(some)) < 1e-12


def test_symmetric_padding_stays_symmetric() -> None:
    model = network(padding="symmetric").double()
    with torch.no_grad():
        assert relative_error(optimize(model)(images().double()), model(images().double())) < 1e-12
        assert relative_error(model(images().double()), network().double()(images().double())) > 1e-3


@pytest.mark.parametrize("name", ["effnet_zoo_b0", "effnet_zoo_lite0", "effnet_zoo_v2_s"])
def test_float32_of_whole_networks_loses_nothing(name: str) -> None:
    model = randomise(EfficientNet.from_name(name), seed=0)
    settle(model, images(128, 128, 8))
    with torch.no_grad():
        expected = copy.deepcopy(model).double().eval()(images(96, 96).double())
        assert relative_error(optimize(model)(images(96, 96)), expected) <= 1e-5


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("dtype", list(ERROR_LIMITS))
def test_dtypes_on_every_device(device: str, dtype: torch.dtype) -> None:
    model = network()
    optimized = optimize(model.to(device), dtype)
    assert {parameter.dtype for parameter in optimized.parameters()} == {dtype}
    with torch.no_grad():
        outputs = optimized(images().to(device, dtype))
        expected = model.cpu().double()(images().double())
    assert outputs.device.type == device
    assert relative_error(outputs, expected) <= ERROR_LIMITS[dtype]


def test_the_original_stays_as_it_is() -> None:
    model = network().train()
    model.set_grad_checkpointing()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimized = optimize(model, torch.bfloat16)
    assert model.training
    assert model.grad_checkpointing
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    mine = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not mine & {tensor.data_ptr() for tensor in optimized.state_dict().values()}


def test_the_copy_only_infers() -> None:
    optimized = optimize(network(drop_rate=0.5, drop_path_rate=0.5).train())
    expected = optimized(images())
    assert not expected.requires_grad
    assert not any(isinstance(module, nn.BatchNorm2d) for module in optimized.modules())
    assert torch.equal(optimized.train()(images()), expected)
    assert optimized.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_gradient_of_the_image_is_still_right() -> None:
    model = network().double()
    gradients = []
    for each in (model, optimize(model)):
        some = images().double().requires_grad_()
        each(some).square().sum().backward()
        assert some.grad is not None
        gradients.append(some.grad)
    assert relative_error(gradients[1], gradients[0]) < 1e-12


def test_the_models_methods_are_all_there() -> None:
    model = network()
    optimized = optimize(model)
    with torch.no_grad():
        head, pyramid, logits = model.forward_intermediates(images(), return_logits=True)
        its_head, its_pyramid, its_logits = optimized.forward_intermediates(images(), return_logits=True)
        assert torch.allclose(optimized.forward_head(its_head, pre_logits=True), head.mean((2, 3)), atol=1e-4)
    for ours, theirs in zip([its_head, *its_pyramid, its_logits], [head, *pyramid, logits], strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_a_feature_pyramid_is_folded_too() -> None:
    model = EfficientNetFeatures(shallow(catalogue.models()["effnet_zoo_v2_s"].spec), out_indices=(1, 3))
    randomise(model, seed=0).eval()
    with torch.no_grad():
        for ours, theirs in zip(optimize(model)(images()), model(images()), strict=True):
            assert relative_error(ours, theirs) < 1e-5


def test_parts_that_a_user_replaced_are_kept() -> None:
    model = network()
    model.classifier = nn.Sequential(nn.Linear(1280, 5), nn.Tanh())
    model.get_submodule("blocks.1.0").act1 = nn.Hardswish()
    with torch.no_grad():
        assert relative_error(optimize(model)(images()), model(images())) < 1e-5


def test_scripted_pickled_and_copied() -> None:
    optimized = optimize(network())
    buffer = io.BytesIO()
    torch.save(optimized, buffer)
    buffer.seek(0)
    with torch.no_grad():
        expected = optimized(images())
        assert torch.equal(torch.load(buffer, weights_only=False)(images()), expected)
        assert torch.equal(copy.deepcopy(optimized)(images()), expected)
        assert relative_error(torch.jit.script(optimized)(images()), expected) < 1e-5
        assert torch.equal(optimize(optimized)(images()), expected)


class Scaled(nn.Conv2d):
    """Its weight is not what it convolves with."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_what_cannot_be_folded_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match="expected a model of this package, found Linear"):
        optimize(nn.Linear(1, 1))  # type: ignore[type-var]
    with pytest.raises(ArgumentError, match="dtype=torch.int8: expected torch.float32"):
        optimize(network(), torch.int8)
    with pytest.raises(ArgumentError, match="meta device: expected one with weights"):
        optimize(EfficientNet.from_name("effnet_zoo_b0", device="meta"))
    model = network()
    model.get_submodule("blocks.1.0").conv_pw = Scaled(16, 96, 1, bias=False)
    with pytest.raises(ArgumentError, match=r"cannot fold blocks\.1\.0\.bn1"):
        optimize(model)
    model = network()
    model.conv_head.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(ArgumentError, match="cannot fold bn2"):
        optimize(model)
    model = network()
    model.bn1.track_running_stats, model.bn1.running_mean, model.bn1.running_var = False, None, None
    with pytest.raises(ArgumentError, match="cannot fold bn1"):
        optimize(model)
