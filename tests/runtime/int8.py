"""Networks and images for the tests of int8."""

import torch
from torch import Tensor

from effnet_zoo import EfficientNet
from effnet_zoo.numerics import damp, randomise, settle, shallow
from effnet_zoo.zoo import catalogue

LITE0 = "effnet_zoo_lite0.pypi_in1k"


SIZE = 64


def network(name: str = "effnet_zoo_b0") -> EfficientNet:
    """A shallow variant with drawn weights, ten classes and preprocessing of its own."""
    model = EfficientNet(shallow(catalogue.models()[name].spec), num_classes=10)
    settle(damp(randomise(model, seed=0)), drawn(8))
    how = {"input_size": (3, SIZE, SIZE), "test_input_size": None, "num_classes": 10}
    model.pretrained_cfg = {**EfficientNet.from_name(name).pretrained_cfg, **how}
    return model


def drawn(count: int, size: tuple[int, int] = (SIZE, SIZE)) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count))
