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


@dataclass(frozen=True, slots=True)
class Variant:
    """One model: a row of its family's table.

    `stages` and `stem` are before scaling; `width` and `depth` multiply filters and repeats. `size` is the side in
    pixels of the square input at which the paper reports accuracy; a checkpoint's own sizes are in the ledger.
    `dropout` is the rate in front of the classifier.
    """

    name: str
    stages: Stages
    stem: int
    width: float
    depth: float
    size: int
    dropout: float


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

V1_VARIANTS = (
    #       name  stages stem  width  depth  size  dropout
    Variant("b0", V1,     32,   1.0,   1.0,   224,   0.2),
    Variant("b1", V1,     32,   1.0,   1.1,   240,   0.2),
    Variant("b2", V1,     32,   1.1,   1.2,   260,   0.3),
    Variant("b3", V1,     32,   1.2,   1.4,   300,   0.3),
    Variant("b4", V1,     32,   1.4,   1.8,   380,   0.4),
    Variant("b5", V1,     32,   1.6,   2.2,   456,   0.4),
    Variant("b6", V1,     32,   1.8,   2.6,   528,   0.5),
    Variant("b7", V1,     32,   2.0,   3.1,   600,   0.5),
    Variant("b8", V1,     32,   2.2,   3.6,   672,   0.5),
    Variant("l2", V1,     32,   4.3,   5.3,   800,   0.5),
)
LITE_VARIANTS = (
    #       name     stages stem  width  depth  size  dropout
    Variant("lite0", LITE,   32,   1.0,   1.0,   224,   0.2),
    Variant("lite1", LITE,   32,   1.0,   1.1,   240,   0.2),
    Variant("lite2", LITE,   32,   1.1,   1.2,   260,   0.3),
    Variant("lite3", LITE,   32,   1.2,   1.4,   280,   0.3),
    Variant("lite4", LITE,   32,   1.4,   1.8,   300,   0.3),
)
EDGETPU_VARIANTS = (
    #       name  stages  stem  width  depth  size  dropout
    Variant("es", EDGETPU, 32,   1.0,   1.0,   224,   0.2),
    Variant("em", EDGETPU, 32,   1.0,   1.1,   240,   0.2),
    Variant("el", EDGETPU, 32,   1.2,   1.4,   300,   0.3),
)
V2_VARIANTS = (
    #       name  stages stem  width  depth  size  dropout
    Variant("s",  V2_S,   24,   1.0,   1.0,   384,   0.2),
    Variant("m",  V2_M,   24,   1.0,   1.0,   480,   0.3),
    Variant("l",  V2_L,   32,   1.0,   1.0,   480,   0.4),
    Variant("xl", V2_XL,  32,   1.0,   1.0,   512,   0.4),
)
V2_BASE_VARIANTS = (
    #       name  stages  stem  width  depth  size  dropout
    Variant("b0", V2_BASE, 32,   1.0,   1.0,   224,   0.2),
    Variant("b1", V2_BASE, 32,   1.0,   1.1,   240,   0.2),
    Variant("b2", V2_BASE, 32,   1.1,   1.2,   260,   0.3),
    Variant("b3", V2_BASE, 32,   1.2,   1.4,   300,   0.3),
)
# fmt: on

FAMILIES = (
    Family(title="EfficientNet", paper="1905.11946", variants=V1_VARIANTS),
    Family(
        title="EfficientNet-Lite",
        paper="https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html",
        variants=LITE_VARIANTS,
        scaling={"scale_ends": False},
        numerics={"activation": "relu6"},
    ),
    Family(
        title="EfficientNet-EdgeTPU",
        paper="https://research.google/blog/efficientnet-edgetpu-creating-accelerator-optimized-neural-networks-with-automl/",
        variants=EDGETPU_VARIANTS,
        # The first block string says i24, the stem gives 32.
        numerics={"activation": "relu", "first_expansion_as_declared": True},
    ),
    Family(
        title="EfficientNetV2",
        paper="2104.00298",
        timm_prefix="effnet_zoo_v2_",
        hub_prefix="efficientnetv2_",
        variants=V2_VARIANTS,
    ),
    Family(
        title="EfficientNetV2-B",
        paper="2104.00298",
        timm_prefix="effnet_zoo_v2_",
        hub_prefix="efficientnetv2_",
        variants=V2_BASE_VARIANTS,
        # The V2 code rounds to the nearest multiple of 8 and, unlike V1's, never corrects upwards.
        scaling={"round_limit": 0.0},
    ),
)
