"""EfficientNet V1: B0-B8 and L2, Lite and EdgeTPU, as block strings and coefficient rows.

A block string is one stage: r repeats, k kernel, s stride (height and width), e expansion, i input and o output
filters, se squeeze-excite ratio of the input filters, c1 fused (expansion and depthwise convolution are one), noskip.

Sources, all in github.com/tensorflow/tpu/tree/master/models/official/efficientnet:
``efficientnet_builder.py``, ``lite/efficientnet_lite_builder.py``, ``edgetpu/efficientnet_edgetpu_builder.py``.
"""

from effnet_zoo.arch.declaration import Family, Variant

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
# fmt: on

Row = tuple[str, float, float, int, float]


def _variants(stages: tuple[str, ...], rows: tuple[Row, ...]) -> tuple[Variant, ...]:
    return tuple(
        Variant(name=name, stages=stages, width=width, depth=depth, train_size=size, eval_size=size, dropout=dropout)
        for name, width, depth, size, dropout in rows
    )


FAMILIES = (
    Family(
        title="EfficientNet",
        paper="1905.11946",
        timm_prefix="effnet_zoo_",
        hub_prefix="efficientnet_",
        variants=_variants(V1, V1_ROWS),
    ),
    Family(
        title="EfficientNet-Lite",
        paper="https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html",
        timm_prefix="effnet_zoo_",
        hub_prefix="efficientnet_",
        activation="relu6",
        scale_ends=False,
        variants=_variants(LITE, LITE_ROWS),
    ),
    Family(
        title="EfficientNet-EdgeTPU",
        paper="https://research.google/blog/efficientnet-edgetpu-creating-accelerator-optimized-neural-networks-with-automl/",
        timm_prefix="effnet_zoo_",
        hub_prefix="efficientnet_",
        activation="relu",
        first_expansion_as_declared=True,
        variants=_variants(EDGETPU, EDGETPU_ROWS),
    ),
)
