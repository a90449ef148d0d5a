"""Our own stochastic depth, pooling and feature levels are those that timm's users know."""

from typing import Any

import pytest
import timm
import torch
from timm.layers import SelectAdaptivePool2d
from timm.layers import drop_path as timm_drop_path
from timm.models import FeatureInfo as TimmFeatureInfo
from timm.models import FeatureListNet

from effnet_zoo.network.layers import DropPath, GlobalPool
from effnet_zoo.network.options import GLOBAL_POOLS
from effnet_zoo.numerics import relative_error
from tests.network.models import FAMILIES, images, small


@pytest.mark.parametrize("pool_type", GLOBAL_POOLS)
def test_pooling_is_timms(pool_type: str) -> None:
    ours, theirs = GlobalPool(pool_type), SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type))
    x, scripted = images(2, 8, 5, 7), torch.jit.script(ours)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(scripted(x), theirs(x))
    assert (ours.pool_type, ours.feat_mult(), ours.is_identity()) == (
        theirs.pool_type,
        theirs.feat_mult(),
        theirs.is_identity(),
    )
    assert type(ours.flatten) is type(theirs.flatten)


@pytest.mark.parametrize("drop_prob", [0.0, 0.3, 1.0])
def test_dropped_paths_are_timms(drop_prob: float) -> None:
    ours, x = DropPath(drop_prob), images(64, 3, 2, 2)
    torch.manual_seed(0)
    dropped = ours(x)
    torch.manual_seed(0)
    assert torch.equal(dropped, timm_drop_path(x, drop_prob, True))
    assert torch.equal(ours.eval()(x), x)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3, 4), (1, 3), (-1,)])
@pytest.mark.parametrize("name", FAMILIES)
def test_feature_info_answers_as_timms(name: str, out_indices: tuple[int, ...]) -> None:
    model = timm.create_model(name, features_only=True, out_indices=out_indices, device="meta")
    ours: Any = model.feature_info
    theirs = TimmFeatureInfo([dict(level) for level in ours], tuple(sorted(index % 5 for index in out_indices)))
    assert ours.out_indices == theirs.out_indices
    assert ours.info == theirs.info
    assert len(ours) == len(theirs)
    assert ours[1] == theirs[1]
    for idx in (None, 2, [0, 4]):
        assert ours.channels(idx) == theirs.channels(idx)
        assert ours.reduction(idx) == theirs.reduction(idx)
        assert ours.module_name(idx) == theirs.module_name(idx)
        for keys in (None, ["num_chs", "reduction"]):
            assert ours.get_dicts(keys, idx) == theirs.get_dicts(keys, idx)


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_extracts_features_from_a_classifier(name: str) -> None:
    model, x = small(name).double(), images(1, 3, 64, 64).double()
    _, expected = model.forward_intermediates(x, indices=[1, 4])
    listed = FeatureListNet(model, out_indices=(1, 4), flatten_sequential=True)
    assert listed.feature_info.channels() == [level.shape[1] for level in expected]
    assert all(relative_error(a, b) <= 1e-12 for a, b in zip(listed(x), expected, strict=True))
