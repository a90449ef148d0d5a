"""Round weights to int8 one by one. The weights that are rounded later make up for each rounding error.

This is GPTQ (arXiv:2210.17323). It makes the error of the layer's output on real images small, not the error of each
weight. The second moments of the layer's inputs give that error. Rounding each weight to the nearest number loses three
times as much in EfficientNet-Lite0.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnet_zoo.network.layers import SameConv2d
from effnet_zoo.runtime.deployed import Deployed
from effnet_zoo.runtime.int8.recipes import layers

LEVELS = 127
"""Levels of int8 on each side of zero."""

DAMPING = 0.01
"""Share of the mean of the moments' diagonal that is added to it, because moments of few images are not exact."""

POSITIONS = 196
"""Largest number of positions of a map that moments are computed from. Neighbours are alike; other images add more."""


@dataclass(slots=True)
class Statistics:
    """Statistics of a layer's inputs: their range with zero in it, and the moments that `_rounded` takes.

    Attributes:
        moments: Sums of the products of two inputs, float64 (groups, inputs, inputs).
        count: How many products each sum has.
    """

    low: float = 0.0
    high: float = 0.0
    moments: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    count: int = 0

    def see(self, layer: nn.Conv2d | nn.Linear, x: Tensor) -> None:
        """Add the inputs of one run."""
        self.low, self.high = min(self.low, x.amin().item()), max(self.high, x.amax().item())
        rows = _rows(layer, x)
        rows = rows[:, :: -(-rows.shape[1] // POSITIONS)]
        self.moments = self.moments + (rows.transpose(1, 2) @ rows).double()
        self.count += rows.shape[1]


def to_uint8(x: Tensor, low: float, high: float) -> Tensor:
    """Return values rounded to 256 steps of a range, as `QuantizeLinear` and `DequantizeLinear` do. Zero is a step."""
    scale = max(high - low, 1e-12) / 255
    zero = round(-low / scale)
    return (((x / scale + zero).round_().clamp_(0, 255)) - zero) * scale


@torch.inference_mode()
def observe(deployed: Deployed, batches: Iterable[Tensor]) -> dict[str, Statistics]:
    """Run images through a folded model, and return statistics of each layer's inputs, by the layer's name.

    Ranges reach to the extremes. Cutting off rare values makes the squared error smaller, but cost more in the
    classifier than it gained elsewhere.
    """
    found = {name: Statistics() for name in layers(deployed.model)}
    with _hooked(deployed.model, found, lambda name, layer, given: found[name].see(layer, given[0])):
        for images in batches:
            deployed(images)
    return found


@torch.no_grad()
def round_weights(model: nn.Module, statistics: Mapping[str, Statistics]) -> None:
    """Replace weights by multiples of a 127th of the largest weight of their output channel, which stays the same."""
    for name, layer in layers(model).items():
        layer.weight.copy_(_rounded(layer.weight, statistics[name].moments / statistics[name].count))


@contextmanager
def simulated(model: nn.Module, names: Iterable[str], statistics: Mapping[str, Statistics]) -> Iterator[None]:
    """Round the inputs of some layers to uint8, as the quantized file does, while the block runs."""
    with _hooked(model, names, lambda name, _, given: to_uint8(given[0], statistics[name].low, statistics[name].high)):
        yield


@contextmanager
def _hooked(model: nn.Module, names: Iterable[str], hook: Callable[..., Any]) -> Iterator[None]:
    """Call `hook` with name, layer and arguments before these layers run. What it returns replaces the arguments."""
    found = layers(model)
    hooks = [found[name].register_forward_pre_hook(partial(hook, name)) for name in names]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _rows(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """Return what a layer multiplies its weights with, (groups, rows, inputs), one row for each output position."""
    if isinstance(layer, nn.Linear):
        return x[None]
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1):
        return x.permute(0, 2, 3, 1).reshape(1, -1, x.shape[1])
    padding = cast("tuple[int, int]", layer.padding)
    if isinstance(layer, SameConv2d):
        (top, left), even = padding, [1 - side % 2 for side in x.shape[2:]]
        x, padding = F.pad(x, [left - even[1], left, top - even[0], top]), (0, 0)
    patches = F.unfold(x, layer.kernel_size, dilation=layer.dilation, padding=padding, stride=layer.stride)
    groups = layer.groups
    return (
        patches.view(len(x), groups, -1, patches.shape[2])
        .permute(1, 0, 3, 2)
        .reshape(groups, -1, patches.shape[1] // groups)
    )


def _rounded(weight: Tensor, moments: Tensor) -> Tensor:
    """Return a weight (outputs, inputs / groups, ...) rounded for inputs with moments (groups, inputs, inputs)."""
    groups, size, _ = moments.shape
    left = weight.double().reshape(groups, -1, size).clone()
    scale = left.abs().amax(2).clamp_min(1e-12) / LEVELS
    largest = left.abs().argmax(2, keepdim=True)
    sign = left.sign()
    keeps = torch.zeros_like(left, dtype=torch.bool).scatter_(2, largest, value=True)
    damping = moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12) * DAMPING
    damped = moments + torch.eye(size, dtype=moments.dtype) * damping[:, None, None]
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    result = torch.empty_like(left)
    for column in range(size):
        value = left[:, :, column]
        rounded = (value / scale).round().clamp(-LEVELS, LEVELS)
        # The largest weight keeps its value, because the quantizer computes the scale from it.
        rounded = torch.where(keeps[:, :, column], LEVELS * sign[:, :, column], rounded) * scale
        result[:, :, column] = rounded
        error = (value - rounded) / factor[:, column, column, None]
        left[:, :, column:] -= error[:, :, None] * factor[:, column, None, column:]
    return result.reshape(weight.shape).to(weight.dtype)
