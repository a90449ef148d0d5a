"""Options, architectures and inputs that cannot be used are refused by name."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from effnet_zoo import EfficientNet, EfficientNetFeatures
from effnet_zoo.errors import ArgumentError, InputError, SpecError
from effnet_zoo.network.model import build_model
from tests.network.models import images, small


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


def test_intermediates_that_cannot_be_given_are_refused() -> None:
    model, x = small("effnet_zoo_b0"), images(1, 3, 64, 64)
    with pytest.raises(ArgumentError, match="expected 'NCHW'"):
        model.forward_intermediates(x, output_fmt="NLC")
    with pytest.raises(ArgumentError, match="return_logits needs the whole run"):
        model.forward_intermediates(x, stop_early=True, return_logits=True)
