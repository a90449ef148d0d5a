"""The declarations: every family and variant as data. Adding a model is one row in a table of this file.

V1 (B0-B8 and L2, Lite, EdgeTPU) is declared in block strings. A block string is one stage: r repeats, k kernel,
s stride (height and width), e expansion, i input and o output filters, se squeeze-excite ratio of the input filters,
c1 fused (expansion and depthwise convolution are one), noskip. Sources, all in
github.com/tensorflow/tpu/tree/master/models/official/efficientnet: ``efficientnet_builder.py``,
``lite/efficientnet_lite_builder.py``, ``edgetpu/efficientnet_edgetpu_builder.py``.

V2 is declared in rows ``(t, c, n, s, fused)``: t expansion, c output filters, n repeats, s stride of the first repeat,
fused 1 for Fused-MBConv and 0 for MBConv. The kernel is 3 everywhere. MBConv rows have squeeze-excite at a quarter of
the block's input, fused rows have none. A fused row with t = 1 is a single 3x3 convolution. (The original repository's
fifth column is SE, the inverse of `fused`.) Source: github.com/google/automl/blob/master/efficientnetv2/
effnetv2_configs.py; arXiv:2104.00298v3, table 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Padding = Literal["same", "symmetric"]
Activation = Literal["silu", "relu", "relu6"]
Row = tuple[int, int, int, int, int]
Stages = tuple[str, ...] | tuple[Row, ...]
"""The stages of a network in one of the two notations: block strings or rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model: a row of its family's table.

    `stem` and `stages` are before scaling; `width` and `depth` multiply filters and repeats. `size` is the side in
    pixels of the square input at which the paper reports accuracy; a checkpoint's own sizes are in the ledger.
    `dropout` is the rate in front of the classifier.
    """

    name: str
    stages: Stages
    size: int
    dropout: float
    width: float = 1.0
    depth: float = 1.0
    stem: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Variants, and the properties that they share.

    Attributes:
        title: The family's name for people.
        paper: arXiv id, or the address of the announcement where there is no paper.
        timm_prefix: Prefix of a variant's name in `timm.create_model`.
        hub_prefix: Prefix of a variant's name in `torch.hub.load`.
        scaling: Fields of `Scaling` that differ from its defaults.
        numerics: Fields of `ArchSpec` that differ from its defaults, which are those of the TensorFlow releases.
    """

    title: str
    paper: str
    variants: tuple[Variant, ...]
    timm_prefix: str = "effnet_zoo_"
    hub_prefix: str = "efficientnet_"
    scaling: Mapping[str, Any] = field(default_factory=dict)
    numerics: Mapping[str, Any] = field(default_factory=dict)


V1 = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)
LITE = tuple(block.removesuffix("_se0.25") for block in V1)
EDGETPU = (
    "r1_k3_s11_e4_i24_o24_c1_noskip",
    "r2_k3_s22_e8_i24_o32_c1",
    "r4_k3_s22_e8_i32_o48_c1",
    "r5_k5_s22_e8_i48_o96",
    "r4_k5_s11_e8_i96_o144",
    "r2_k5_s22_e8_i144_o192",
)
# fmt: off
V2_S = (
    # t    c   n  s  fused
    (1,   24,  2, 1, 1),
    (4,   48,  4, 2, 1),
    (4,   64,  4, 2, 1),
    (4,  128,  6, 2, 0),
    (6,  160,  9, 1, 0),
    (6,  256, 15, 2, 0),
)
V2_M = (
    # t    c   n  s  fused
    (1,   24,  3, 1, 1),
    (4,   48,  5, 2, 1),
    (4,   80,  5, 2, 1),
    (4,  160,  7, 2, 0),
    (6,  176, 14, 1, 0),
    (6,  304, 18, 2, 0),
    (6,  512,  5, 1, 0),
)
V2_L = (
    # t    c   n  s  fused
    (1,   32,  4, 1, 1),
    (4,   64,  7, 2, 1),
    (4,   96,  7, 2, 1),
    (4,  192, 10, 2, 0),
    (6,  224, 19, 1, 0),
    (6,  384, 25, 2, 0),
    (6,  640,  7, 1, 0),
)
V2_XL = (
    # t    c   n  s  fused
    (1,   32,  4, 1, 1),
    (4,   64,  8, 2, 1),
    (4,   96,  8, 2, 1),
    (4,  192, 16, 2, 0),
    (6,  256, 24, 1, 0),
    (6,  512, 32, 2, 0),
    (6,  640,  8, 1, 0),
)
V2_BASE = (
    # t    c   n  s  fused
    (1,   16,  1, 1, 1),
    (4,   32,  2, 2, 1),
    (4,   48,  2, 2, 1),
    (4,   96,  3, 2, 0),
    (6,  112,  5, 1, 0),
    (6,  192,  8, 2, 0),
)

V1_ROWS = (
    # name   width  depth  size  dropout
    ("b0",    1.0,   1.0,   224,   0.2),
    ("b1",    1.0,   1.1,   240,   0.2),
    ("b2",    1.1,   1.2,   260,   0.3),
    ("b3",    1.2,   1.4,   300,   0.3),
    ("b4",    1.4,   1.8,   380,   0.4),
    ("b5",    1.6,   2.2,   456,   0.4),
    ("b6",    1.8,   2.6,   528,   0.5),
    ("b7",    2.0,   3.1,   600,   0.5),
    ("b8",    2.2,   3.6,   672,   0.5),
    ("l2",    4.3,   5.3,   800,   0.5),
)
LITE_ROWS = (
    # name    width  depth  size  dropout
    ("lite0",  1.0,   1.0,   224,   0.2),
    ("lite1",  1.0,   1.1,   240,   0.2),
    ("lite2",  1.1,   1.2,   260,   0.3),
    ("lite3",  1.2,   1.4,   280,   0.3),
    ("lite4",  1.4,   1.8,   300,   0.3),
)
EDGETPU_ROWS = (
    # name   width  depth  size  dropout
    ("es",    1.0,   1.0,   224,   0.2),
    ("em",    1.0,   1.1,   240,   0.2),
    ("el",    1.2,   1.4,   300,   0.3),
)
V2_BASE_ROWS = (
    # name   width  depth  size  dropout
    ("b0",    1.0,   1.0,   224,   0.2),
    ("b1",    1.0,   1.1,   240,   0.2),
    ("b2",    1.1,   1.2,   260,   0.3),
    ("b3",    1.2,   1.4,   300,   0.3),
)
V2_ROWS = (
    # name  stages  stem  size  dropout
    ("s",   V2_S,    24,   384,   0.2),
    ("m",   V2_M,    24,   480,   0.3),
    ("l",   V2_L,    32,   480,   0.4),
    ("xl",  V2_XL,   32,   512,   0.4),
)
# fmt: on


def _scaled(stages: Stages, rows: tuple[tuple[str, float, float, int, float], ...]) -> tuple[Variant, ...]:
    return tuple(
        Variant(name=name, stages=stages, size=size, dropout=dropout, width=width, depth=depth)
        for name, width, depth, size, dropout in rows
    )


FAMILIES = (
    Family(title="EfficientNet", paper="1905.11946", variants=_scaled(V1, V1_ROWS)),
    Family(
        title="EfficientNet-Lite",
        paper="https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html",
        variants=_scaled(LITE, LITE_ROWS),
        scaling={"scale_ends": False},
        numerics={"activation": "relu6"},
    ),
    Family(
        title="EfficientNet-EdgeTPU",
        paper="https://research.google/blog/efficientnet-edgetpu-creating-accelerator-optimized-neural-networks-with-automl/",
        variants=_scaled(EDGETPU, EDGETPU_ROWS),
        # The first block string says i24, the stem gives 32.
        numerics={"activation": "relu", "first_expansion_as_declared": True},
    ),
    Family(
        title="EfficientNetV2",
        paper="2104.00298",
        timm_prefix="effnet_zoo_v2_",
        hub_prefix="efficientnetv2_",
        variants=tuple(
            Variant(name=name, stages=stages, size=size, dropout=dropout, stem=stem)
            for name, stages, stem, size, dropout in V2_ROWS
        ),
    ),
    Family(
        title="EfficientNetV2-B",
        paper="2104.00298",
        timm_prefix="effnet_zoo_v2_",
        hub_prefix="efficientnetv2_",
        variants=_scaled(V2_BASE, V2_BASE_ROWS),
        # The V2 code rounds to the nearest multiple of 8 and, unlike V1's, never corrects upwards.
        scaling={"round_limit": 0.0},
    ),
)
