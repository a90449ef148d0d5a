"""One block of a network with every number resolved: what the engine builds and layouts name."""

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["mbconv", "separable", "fused", "conv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """One block.

    Attributes:
        kind: ``mbconv`` (expand 1x1, depthwise, project), ``separable`` (MBConv with expansion 1, which has no expand
            convolution), ``fused`` (expand kxk, project) or ``conv`` (fused with expansion 1: a single kxk
            convolution).
        in_filters: Filters of the input.
        mid_filters: Filters inside: in_filters times the expansion.
        out_filters: Filters of the output.
        kernel: Side of the depthwise or fused convolution.
        stride: Stride of the depthwise or fused convolution.
        dilation: Dilation of the depthwise or fused convolution.
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
