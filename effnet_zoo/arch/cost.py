"""The cost of a network: its parameters and multiply-accumulates, counted one convolution at a time."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from effnet_zoo.arch.blocks import BlockSpec


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution as its cost sees it: on the pooled map (squeeze-excite, classifier) with a bias, else with a norm.

    A depthwise convolution has one input for each filter.
    """

    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    on_pooled: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.kernel**2

    @property
    def parameters(self) -> int:
        """Learnable parameters: weights, and the bias or batch norm's scale and shift."""
        return self.weights + self.outputs * (1 if self.on_pooled else 2)


def block_convolutions(block: BlockSpec) -> Iterator[Convolution]:
    """Yield the convolutions of a block, in order."""
    if block.kind == "conv":
        yield Convolution(block.in_filters, block.out_filters, block.kernel, block.stride)
        return
    if block.kind == "fused":
        yield Convolution(block.in_filters, block.mid_filters, block.kernel, block.stride)
    else:
        if block.kind == "mbconv":
            yield Convolution(block.in_filters, block.mid_filters)
        yield Convolution(1, block.mid_filters, block.kernel, block.stride)  # depthwise: each filter has one input
    if block.se_filters:
        yield Convolution(block.mid_filters, block.se_filters, on_pooled=True)
        yield Convolution(block.se_filters, block.mid_filters, on_pooled=True)
    yield Convolution(block.mid_filters, block.out_filters)


def multiply_accumulates(convolutions: Iterable[Convolution], side: int) -> int:
    """Return the multiply-accumulates of convolutions in a row, for a square image with a side of `side` pixels."""
    total = 0
    for convolution in convolutions:
        side = math.ceil(side / convolution.stride)
        total += convolution.weights * (1 if convolution.on_pooled else side * side)
    return total
