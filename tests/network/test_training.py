"""Training: checkpointing, frozen stages, and half precision."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import timm
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNetFeatures
from effnet_zoo.errors import ArgumentError
from effnet_zoo.network.layers import Layers, SqueezeExcite
from effnet_zoo.numerics import randomise, relative_error, shallow
from effnet_zoo.zoo import catalogue
from tests.network.models import FAMILIES, batch_norms, images, small


@contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """The sizes of what autograd keeps for backward."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes


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
