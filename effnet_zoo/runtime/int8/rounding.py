"""Weights rounded to int8 one by one, each rounding error made up for by the weights that are still to be rounded.

That is GPTQ (arXiv:2210.17323): what counts is not the error of a weight but that of the layer's output on real images,
which the second moments of its inputs tell. Rounding to the nearest loses three times as much in EfficientNet-Lite0.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnet_zoo.network.layers import SameConv2d
from effnet_zoo.runtime.int8.recipes import layers
from effnet_zoo.runtime.interface import Deployed

LEVELS = 127
"""Of int8, on each side of zero."""

DAMPING = 0.01
"""Added to the moments' diagonal, as a part of its mean: moments of few images are not to be trusted to the last."""


POSITIONS = 196
"""Of a map, at most, that moments are taken from: neighbours say much the same, another image says more."""


@dataclass(slots=True)
class Statistics:
    """What a layer's inputs were: their range, and their second moments (groups, inputs, inputs), float64.

    Attributes:
        low: The smallest, at most 0.
        high: The largest, at least 0.
        moments: Sums of products.
        count: Of how many.
    """

    low: float = 0.0
    high: float = 0.0
    moments: Tensor | None = None
    count: int = 0

    def see(self, layer: nn.Conv2d | nn.Linear, x: Tensor) -> None:
        """Take the inputs of one run into account."""
        self.low, self.high = min(self.low, x.amin().item()), max(self.high, x.amax().item())
        rows = _rows(layer, x)
        rows = rows[:, :: -(-rows.shape[1] // POSITIONS)]
        products = (rows.transpose(1, 2) @ rows).double()
        self.moments = products if self.moments is None else self.moments + products
        self.count += rows.shape[1]


def to_uint8(x: Tensor, low: float, high: float) -> Tensor:
    """Values rounded to 256 steps of a range, zero among them, as `QuantizeLinear` and back."""
    scale = max(high - low, 1e-12) / 255
    zero = round(-low / scale)
    return (((x / scale + zero).round_().clamp_(0, 255)) - zero) * scale


@torch.inference_mode()
def observe(deployed: Deployed, batches: Iterable[Tensor]) -> dict[str, Statistics]:
    """Run images through a folded model, and note what goes into each layer, by its name in the model.

    Ranges are those of the extremes: cutting off what is rare, which lessens the squared error, cost the classifier
    more than it gained elsewhere.
    """
    found = {name: Statistics() for name in layers(deployed.model)}

    def see(name: str, layer: nn.Conv2d | nn.Linear, given: tuple[Tensor]) -> None:
        found[name].see(layer, given[0])

    with _hooked(deployed.model, found, see):
        for images in batches:
            deployed(images)
    return found


@torch.no_grad()
def round_weights(model: nn.Module, statistics: Mapping[str, Statistics]) -> None:
    """Replace each layer's weights by multiples of a 127th of its output channel's largest, which itself stays."""
    for name, layer in layers(model).items():
        moments = statistics[name].moments
        assert moments is not None
        layer.weight.copy_(_rounded(layer.weight, moments / max(statistics[name].count, 1)))


@contextmanager
def simulated(model: nn.Module, names: Iterable[str], statistics: Mapping[str, Statistics]) -> Iterator[None]:
    """Let the inputs of some layers be rounded to uint8, as the quantized file rounds them."""

    def rounded(name: str, _: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        return (to_uint8(given[0], statistics[name].low, statistics[name].high),)

    with _hooked(model, names, rounded):
        yield


@contextmanager
def _hooked(model: nn.Module, names: Iterable[str], hook: Callable[..., Any]) -> Iterator[None]:
    """Let `hook` see, and perhaps replace, what goes into layers: it gets the name, the layer and its arguments."""
    found = layers(model)
    hooks = [found[name].register_forward_pre_hook(partial(hook, name)) for name in names]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _rows(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """What a layer multiplies its weights with, (groups, rows, inputs), for each output position a row."""
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
    """A weight (outputs, inputs / groups, ...) rounded for inputs of these moments (groups, inputs, inputs)."""
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
        # The largest keeps its value: a reader takes the scale from it.
        rounded = torch.where(keeps[:, :, column], LEVELS * sign[:, :, column], rounded) * scale
        result[:, :, column] = rounded
        error = (value - rounded) / factor[:, column, column, None]
        left[:, :, column:] -= error[:, :, None] * factor[:, column, None, column:]
    return result.reshape(weight.shape).to(weight.dtype)
