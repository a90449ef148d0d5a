"""Small models and random images for the tests of this folder."""

from typing import Any

import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.network.model import build_model
from effnet_zoo.numerics import randomise, shallow
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
