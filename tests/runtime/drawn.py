"""Networks with drawn weights, and images for them, for the tests of graphs and exported files."""

from typing import Any

import onnx
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.numerics import damp, randomise, relative_error, settle, shallow
from effnet_zoo.runtime.metadata import Size
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing

LITE0 = "effnet_zoo_lite0.pypi_in1k"


WHOLE = ("effnet_zoo_b0", "effnet_zoo_lite0", "effnet_zoo_v2_s")


SIZES: tuple[Size, ...] = ((64, 64), (65, 98), (97, 66), (33, 47))


STATIC = {"Conv", "Sigmoid", "Mul", "Add", "Clip", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}
"""Operators of a graph, whatever its size."""


def network(name: str, **options: Any) -> EfficientNet:
    """A variant with drawn weights, whole or with two blocks a stage."""
    spec = catalogue.models()[name].spec
    arch = spec if name in WHOLE else shallow(spec, 2)
    model = EfficientNet(arch, **{"num_classes": 7, **options})
    return settle(damp(randomise(model, seed=0)), images((64, 64), 4, model.in_chans))


def small(**options: Any) -> EfficientNet:
    """A network of a block a stage, for what is not about the network."""
    model = EfficientNet(shallow(catalogue.models()["effnet_zoo_lite0"].spec), **{"num_classes": 7, **options})
    return settle(damp(randomise(model, seed=0)), images((64, 64), 4, model.in_chans))


def images(size: Size, count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(1))


def operators(graph: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in graph.graph.node}


def error_of(model: nn.Module, run: Any, some: Tensor) -> float:
    with torch.inference_mode():
        return relative_error(run(some), model(some))


HOW = Preprocessing(
    size=(64, 64),
    crop_pct=0.875,
    crop_mode="center",
    interpolation="bicubic",
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
)


def pixels(size: Size, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, *size, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
