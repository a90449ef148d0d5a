"""The model contract: what timm, efficientnet_pytorch's users and torch's tools expect of every registered model."""

import copy
import dataclasses
import io
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from effnet_zoo import ArchSpec, EfficientNet, EfficientNetFeatures, Scaling
from effnet_zoo.arch.efficientnet import V1
from effnet_zoo.errors import ArgumentError, InputError, SpecError
from effnet_zoo.network.layers import Layers, SqueezeExcite
from effnet_zoo.network.model import build_model
from effnet_zoo.numerics import randomise, relative_error, shallow
from effnet_zoo.zoo import catalogue

NAMES = list(catalogue.models())
FAMILIES = ["effnet_zoo_b0", "effnet_zoo_lite0", "effnet_zoo_es", "effnet_zoo_v2_s", "effnet_zoo_v2_b0"]
"""One of each lineage: what does not depend on width and depth is tested on these."""


def small(name: str, repeats: int = 1, **options: Any) -> EfficientNet:
    """A variant with its real widths but few blocks, weights and statistics random, in eval mode."""
    model = build_model(shallow(catalogue.models()[name].spec, repeats), **{"num_classes": 11, **options})
    assert isinstance(model, EfficientNet)
    return randomise(model, seed=0).eval()


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def gradients(model: nn.Module) -> Tensor:
    """The gradients of all parameters, as one vector."""
    found = [parameter.grad for parameter in model.parameters()]
    return torch.cat([grad.flatten() for grad in found if grad is not None])


@contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """The sizes of what autograd keeps for backward."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes


# Every variant at full size, on the meta device: nothing is computed, every shape is.


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


# Every variant with its real widths and one block a stage: what it computes.


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


@pytest.mark.parametrize("name", NAMES)
def test_script_trace_pickle_and_deepcopy(name: str) -> None:
    model = small(name)
    x = images(2, 3, 65, 97)
    expected = model(x)
    scripted = torch.jit.script(model)
    traced = torch.jit.trace(model, images(1, 3, 64, 64))  # another size and batch than it is run with
    for other in (scripted, traced, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert relative_error(other(x), expected) <= 1e-6
    saved = io.BytesIO()
    torch.jit.save(scripted, saved)
    saved.seek(0)
    assert relative_error(torch.jit.load(saved)(x), expected) <= 1e-6


# What does not depend on the variant, once a lineage.


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_compiles_as_one_graph_in_training_and_inference(name: str, checkpointing: bool) -> None:
    model = small(name, drop_path_rate=0.0, drop_rate=0.0).double()
    model.set_grad_checkpointing(checkpointing)
    reference = copy.deepcopy(model)
    x = images(2, 3, 65, 96).double()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(x), reference(x)) <= 1e-10
    if checkpointing or name in ("effnet_zoo_b0", "effnet_zoo_v2_s"):
        model.train()
        reference.train()
        compiled(x).square().sum().backward()
        reference(x).square().sum().backward()
        # All at once: a bias in front of another batch norm has a gradient of zero, which alone is only rounding.
        assert relative_error(gradients(model), gradients(reference)) <= 1e-8
        for key, buffer in reference.named_buffers():
            assert torch.allclose(model.get_buffer(key), buffer, rtol=1e-10, atol=0), key


@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_exporters_take_the_model_as_it_is(dynamo: bool, tmp_path: Path) -> None:
    if dynamo and torch.torch_version.TorchVersion(torch.__version__) < "2.9":
        pytest.skip("the exporter of torch before 2.9 and today's onnxscript do not understand each other")
    model, x = small("effnet_zoo_b0"), images(2, 3, 64, 97)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        torch.onnx.export(model, (x,), str(tmp_path / "model.onnx"), dynamo=dynamo, input_names=["x"], verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert relative_error(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model(x)) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_export_with_dynamic_batch_height_and_width_survives_saving(name: str) -> None:
    model = small(name)
    dim = torch.export.Dim
    # From 33: torch treats a size of 1 as special, and 32 pixels are one cell at the end.
    shapes = {0: dim("batch"), 2: dim("height", min=33, max=4096), 3: dim("width", min=33, max=4096)}
    program = torch.export.export(model, (images(2, 3, 64, 96),), dynamic_shapes=(shapes,))
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    loaded = torch.export.load(saved).module()
    for size in ((1, 3, 33, 47), (3, 3, 128, 225)):
        x = images(*size)
        assert relative_error(loaded(x), model(x)) <= 1e-6, size


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_changes_neither_gradients_nor_statistics(name: str) -> None:
    plain = small(name, repeats=2).double().train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x = images(4, 3, 65, 96).double()
    kept_bytes = []
    for model in (plain, saving):
        torch.manual_seed(3)  # the same paths dropped
        with saved_bytes() as kept:
            loss = model(x).square().sum()
        loss.backward()
        kept_bytes.append(sum(kept))
    for (key, ours), theirs in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad), key
    assert all(torch.equal(ours, saving.get_buffer(key)) for key, ours in plain.named_buffers())
    assert {int(norm.num_batches_tracked or 0) for norm in batch_norms(saving)} == {1}
    assert kept_bytes[1] < 0.5 * kept_bytes[0]


def test_timm_moves_statistics_twice_where_this_does_once() -> None:
    # Why `checkpointed` exists: should this fail one day, timm has mended it and the claim has to go.
    theirs = timm.create_model("tf_efficientnet_b0").train()
    theirs.set_grad_checkpointing()
    theirs(images(2, 3, 64, 64)).sum().backward()
    assert 2 in {int(norm.num_batches_tracked or 0) for norm in batch_norms(theirs)}


def test_checkpointing_works_for_feature_pyramids() -> None:
    features = EfficientNetFeatures(shallow(catalogue.models()["effnet_zoo_b0"].spec)).train()
    features.set_grad_checkpointing()
    torch.autograd.backward([m.sum() for m in features(images(2, 3, 64, 64))])
    assert {int(norm.num_batches_tracked or 0) for norm in batch_norms(features)} == {1}


@pytest.mark.parametrize("name", FAMILIES)
def test_sync_batch_norm_conversion_keeps_weights_and_output(name: str) -> None:
    model = small(name)
    x = images(2, 3, 65, 96)
    expected, keys = model(x), list(model.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert list(converted.state_dict()) == keys
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) == len(batch_norms(model))
    assert torch.equal(converted(x), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_stages_stay_in_eval_and_learn_nothing(name: str) -> None:
    model = small(name, repeats=2)
    model.freeze(stages=2)
    model = copy.deepcopy(pickle.loads(pickle.dumps(model)))  # it must not be forgotten
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    frozen = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith(frozen), key
    assert not any(module.training for module in (model.bn1, *model.blocks[1].modules()))
    assert model.blocks[2].training
    model.unfreeze()
    assert all(p.requires_grad for p in model.parameters())
    assert all(norm.training for norm in batch_norms(model))


def test_freezing_everything_leaves_the_head() -> None:
    model = small("effnet_zoo_b0")
    model.freeze()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"conv_head", "bn2", "classifier"}
    for stages in (8, "2", 2.0, True):
        with pytest.raises(ArgumentError, match="from 0 .* to 7"):
            model.freeze(stages=stages)  # type: ignore[arg-type]


def test_squeeze_excite_mean_is_safe_in_float16() -> None:
    arch = catalogue.models()["effnet_zoo_b0"].spec
    squeeze = randomise(SqueezeExcite(16, 4, Layers(arch, None, None)), seed=0)
    x = (images(2, 16, 32, 32).abs() + 100).half()
    assert x.double().sum((2, 3)).min() > torch.finfo(torch.float16).max
    x.requires_grad_()
    out = squeeze.half()(x)
    out.float().mean().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert relative_error(out, squeeze.double()(x.detach().double())) <= 2e-3


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_forward_and_backward_on_large_activations(name: str, dtype: torch.dtype) -> None:
    model = small(name).to(dtype).train()
    x = (images(2, 3, 64, 64) * 1000).to(dtype).requires_grad_()
    out = model(x)
    out.float().mean().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_autocast_runs_in_bfloat16() -> None:
    model = small("effnet_zoo_b0")
    x = images(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, model(x)) <= 4e-2


# SAME padding and numerics.


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


# Users' own networks, and their ways in.


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


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_rte": 0.1}, "unknown keyword 'drop_rte'.*Did you mean 'drop_rate'"),
        ({"in_channels": 1}, "unknown keyword 'in_channels'.*Here it is called in_chans"),
        ({"pad_type": "same"}, "Here it is called padding"),
        ({"num_classes": -1}, "num_classes=-1: expected a whole number of at least 0"),
        ({"num_classes": 1.5}, "num_classes=1.5"),
        ({"num_classes": "5"}, "num_classes='5': expected a whole number of at least 0, up to 999999"),
        ({"num_classes": 2**63}, "num_classes=9223372036854775808: expected a whole number"),
        ({"num_classes": True}, "num_classes=True: expected a whole number"),
        ({"in_chans": 0}, "in_chans=0: expected a whole number of at least 1"),
        ({"in_chans": 3.0}, "in_chans=3.0: expected a whole number of at least 1"),
        ({"global_pool": "median"}, "global_pool='median': expected one of 'avg'"),
        ({"global_pool": ["avg"]}, "global_pool=..avg..: expected one of 'avg'"),
        ({"dtype": []}, "dtype=..: expected torch.float32, torch.float64"),
        ({"dtype": "float32"}, "dtype='float32': expected torch.float32"),
        ({"dtype": torch.int8}, "dtype=torch.int8: expected torch.float32"),
        ({"device": 5}, "device=5: expected a torch.device or its name"),
        ({"device": "gpu"}, "device='gpu': .*: expected a device of this machine"),
        ({"features_only": "yes"}, "features_only='yes': expected True or False"),
        ({"features_only": True, "out_indices": "012"}, "levels '012': expected some of 0 to 4"),
        ({"features_only": True, "out_indices": [None]}, "levels .None.: expected some of 0 to 4"),
        ({"features_only": True, "out_indices": 10**12}, "levels 10*: expected some of 0 to 4"),
        ({"global_pool": ""}, "a classifier needs pooled features"),
        ({"out_indices": (1,)}, "out_indices without features_only"),
        ({"features_only": True, "out_indices": (5,)}, "levels .5.: expected some of 0 to 4"),
        ({"features_only": True, "out_indices": ()}, "levels ..: expected some of 0 to 4"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        timm.create_model("effnet_zoo_b0", **{"device": "meta", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "valid"}, "padding='valid': expected same or symmetric"),
        ({"act_layer": "rellu"}, "activation='rellu': expected silu or relu or relu6. Did you mean 'relu'"),
        ({"bn_eps": 0}, "bn_eps=0: expected a number from 1e-12 to 1"),
        ({"bn_eps": float("nan")}, "bn_eps=nan: expected a number from 1e-12 to 1"),
        ({"drop_rate": 1.5}, "drop_rate=1.5: expected a number from 0 to 1"),
        ({"drop_rate": "x"}, "drop_rate='x': expected a number from 0 to 1"),
        ({"drop_path_rate": []}, "drop_path_rate=..: expected a number from 0 to 1"),
        ({"act_layer": nn.SiLU}, "activation=.*SiLU.*: expected silu or relu or relu6"),
        ({"output_stride": 16.0}, "output_stride=16.0: expected 8, 16, 32"),
        ({"output_stride": []}, "output_stride=..: expected 8, 16, 32"),
        ({"output_stride": 4}, "output_stride=4: expected 8, 16, 32"),
    ],
)
def test_numerics_that_cannot_be_built_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        timm.create_model("effnet_zoo_b0", device="meta", **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 31, 64), "31x64 pixels: expected at least 32x32"),
        ((1, 3, 64, 31), "64x31 pixels: expected at least 32x32"),
        ((1, 4, 64, 64), "expected .batch, 3, height, width.; for other channels build the model with in_chans"),
        ((3, 64, 64), "input of shape .3, 64, 64."),
    ],
)
def test_inputs_that_cannot_be_used_are_named(shape: tuple[int, ...], message: str) -> None:
    model = small("effnet_zoo_b0")
    for call in (model, model.forward_features, model.forward_intermediates, model.extract_endpoints):
        with pytest.raises(InputError, match=message):
            call(torch.zeros(shape))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "input of torch.uint8: expected the model's torch.float32"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.float64), "input of torch.float64: expected the model's torch.float32"),
        (torch.zeros(1, 3, 64, 64).numpy(), "input of type ndarray: expected a torch.Tensor"),
        (None, "input of type NoneType: expected a torch.Tensor"),
    ],
    ids=["uint8", "float64", "numpy", "None"],
)
def test_inputs_of_another_type_are_named(x: Any, message: str) -> None:
    model, compiled = small("effnet_zoo_b0"), torch.compile(small("effnet_zoo_b0"), backend="eager")
    for call in (model, model.forward_features, EfficientNetFeatures(model.arch), compiled):
        with pytest.raises(InputError, match=message):
            call(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16)).isfinite().all()
        with pytest.raises(InputError, match="expected"):
            model(x if not torch.is_tensor(x) or x.dtype != torch.float64 else x.long())


def test_a_name_is_no_network() -> None:
    wrong: list[Any] = ["effnet_zoo_b0", [], None]
    for build in (EfficientNet, EfficientNetFeatures, build_model):
        for arch in wrong:
            with pytest.raises(ArgumentError, match="expected an ArchSpec"):
                build(arch)


def test_operators_are_traced_by_fx() -> None:
    model = small("effnet_zoo_b0")
    graph = make_fx(model, tracing_mode="fake", _allow_non_fake_inputs=True)(images(2, 3, 64, 64))
    x = images(2, 3, 64, 64, seed=2)
    assert relative_error(graph(x), model(x)) <= 1e-6


def test_the_smallest_input_works() -> None:
    assert small("effnet_zoo_b0")(images(1, 3, 32, 32)).isfinite().all()


def test_intermediates_that_cannot_be_given_are_refused() -> None:
    model, x = small("effnet_zoo_b0"), images(1, 3, 64, 64)
    with pytest.raises(ArgumentError, match="expected 'NCHW'"):
        model.forward_intermediates(x, output_fmt="NLC")
    with pytest.raises(ArgumentError, match="return_logits needs the whole run"):
        model.forward_intermediates(x, stop_early=True, return_logits=True)
