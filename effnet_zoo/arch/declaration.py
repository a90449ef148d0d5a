"""What a family file declares: plain data, no behaviour and no torch."""

from dataclasses import dataclass
from typing import Literal

Padding = Literal["same", "symmetric"]
Activation = Literal["silu", "relu", "relu6"]
Stages = tuple[str, ...] | tuple[tuple[int, int, int, int, int], ...]
"""The stages of a network in one of two notations: block strings, or rows ``(t, c, n, s, fused)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model: a row of its family's table.

    `stem` and `stages` are before scaling; `width` and `depth` multiply filters and repeats. `train_size` and
    `eval_size` are the side in pixels of the square input the paper reports; a checkpoint's own sizes are in the
    ledger. `dropout` is the rate in front of the classifier.
    """

    name: str
    stages: Stages
    train_size: int
    eval_size: int
    dropout: float
    width: float = 1.0
    depth: float = 1.0
    stem: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The properties that all variants of a family share. The defaults are those of every official TensorFlow release.

    Attributes:
        title: The family's name for people.
        paper: arXiv id, or the address of the announcement where there is no paper.
        timm_prefix: Prefix of a variant's name in `timm.create_model`.
        hub_prefix: Prefix of a variant's name in `torch.hub.load`.
        variants: The rows.
        activation: Activation after every convolution except the projections.
        head: Filters of the 1x1 convolution before pooling, before scaling.
        scale_ends: Whether `width` also scales stem and head, and `depth` the first and last stage (Lite: no).
        round_limit: Share of the scaled filters that rounding to a multiple of 8 must keep.
        first_expansion_as_declared: Whether stage 1 expands as many filters as its block string declares, although the
            stem gives another number (EdgeTPU: the string declares i24, the stem gives 32).
        padding: ``same`` is TensorFlow's, ``symmetric`` PyTorch's k // 2.
        bn_eps: Batch norm epsilon.
        bn_momentum: Batch norm momentum in PyTorch's sense (TensorFlow's 0.99 is 0.01 here).
        drop_path: Stochastic depth rate that the last block approaches.
    """

    title: str
    paper: str
    timm_prefix: str
    hub_prefix: str
    variants: tuple[Variant, ...]
    activation: Activation = "silu"
    head: int = 1280
    scale_ends: bool = True
    round_limit: float = 0.9
    first_expansion_as_declared: bool = False
    padding: Padding = "same"
    bn_eps: float = 1e-3
    bn_momentum: float = 0.01
    drop_path: float = 0.2
