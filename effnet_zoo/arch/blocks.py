"""One block of a network with every number resolved: it is built, named by layouts, and its cost counted."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["mbconv", "separable", "fused", "conv"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """One block.

    Attributes:
        kind: ``mbconv`` (expand 1x1, depthwise, project), ``separable`` (MBConv with expansion 1, which has no expand
            convolution), ``fused`` (expand kxk, project) or ``conv`` (fused with expansion 1: a single kxk
            convolution).
        mid_filters: Filters inside: in_filters times the expansion.
        kernel: Side of the depthwise or fused convolution; `stride` and `dilation` are of the same convolution.
        se_filters: Squeeze width; 0 for no squeeze-excite.
        skip: Whether the input is added to the output.
        drop_path: Probability of dropping the residual branch for a sample.
    """

    kind: BlockKind
    in_filters: int
    mid_filters: int
    out_filters: int
    kernel: int
    stride: int
    dilation: int
    se_filters: int
    skip: bool
    drop_path: float

    def convolutions(self) -> Iterator[Convolution]:
        """Yield the convolutions in order."""
        if self.kind == "conv":
            yield Convolution(self.in_filters, self.out_filters, self.kernel, self.stride)
            return
        if self.kind == "fused":
            yield Convolution(self.in_filters, self.mid_filters, self.kernel, self.stride)
        else:
            if self.kind == "mbconv":
                yield Convolution(self.in_filters, self.mid_filters)
            yield Convolution(1, self.mid_filters, self.kernel, self.stride)  # depthwise
        if self.se_filters:
            yield Convolution(self.mid_filters, self.se_filters, on_pooled=True)
            yield Convolution(self.se_filters, self.mid_filters, on_pooled=True)
        yield Convolution(self.mid_filters, self.out_filters)
