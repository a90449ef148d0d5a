"""The way from a name to a model with weights: what it imports, and that its pretrained_cfg is timm's own."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from timm.models import PretrainedCfg, adapt_input_conv, get_pretrained_cfg

import effnet_zoo
from effnet_zoo.checkpoints.loading import adapt_stem
from effnet_zoo.checkpoints.pretrained_cfg import KnownFields, cfg_of_checkpoint
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import Checkpoint

CHECKPOINTS = [checkpoint for _, checkpoint in catalogue.checkpoints()]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.name)
def test_the_pretrained_cfg_of_a_checkpoint_is_what_timm_makes_of_it(checkpoint: Checkpoint) -> None:
    registered = get_pretrained_cfg(checkpoint.name)
    assert registered is not None
    assert cfg_of_checkpoint(checkpoint) == registered.to_dict()


def test_the_known_fields_are_timms() -> None:
    assert {field.name for field in dataclasses.fields(PretrainedCfg)} >= set(KnownFields.__struct_fields__)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_stem_is_adapted_as_timm_does(channels: int, dtype: torch.dtype) -> None:
    weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(adapt_stem(weight, channels), adapt_input_conv(channels, weight))


LIGHT = """
import sys, types
package = types.ModuleType("effnet_zoo")  # its __init__ registers with timm
package.__path__ = [{folder!r}]
sys.modules["effnet_zoo"] = package
from effnet_zoo.checkpoints.creation import create_model
model = create_model("effnet_zoo_lite0.pypi_in1k", pretrained=True)
assert model.load_report.matched
heavy = {{"timm", "torchvision", "httpx", "httpx2", "requests", "torch._dynamo", "huggingface_hub.file_download"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_a_model_is_loaded_without_timm_torchvision_and_the_hubs_client() -> None:
    code = LIGHT.format(folder=effnet_zoo.__path__[0])
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
