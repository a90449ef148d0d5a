"""EfficientNetV2: S, M, L, XL and B0-B3, as rows ``(t, c, n, s, fused)``.

t expansion, c output filters, n repeats, s stride of the first repeat, fused 1 for Fused-MBConv and 0 for MBConv. The
kernel is 3 everywhere; MBConv rows have squeeze-excite at a quarter of the block's input, fused rows have none; a fused
row with t = 1 is a single 3x3 convolution. (The original repository's fifth column is SE, the inverse of `fused`.)

Source: github.com/google/automl/blob/master/efficientnetv2/effnetv2_configs.py; arXiv:2104.00298v3, table 4.
"""

from effnet_zoo.arch.declaration import Family, Variant

# fmt: off
S = (
    # t    c   n  s  fused
    (1,   24,  2, 1, 1),
    (4,   48,  4, 2, 1),
    (4,   64,  4, 2, 1),
    (4,  128,  6, 2, 0),
    (6,  160,  9, 1, 0),
    (6,  256, 15, 2, 0),
)
M = (
    # t    c   n  s  fused
    (1,   24,  3, 1, 1),
    (4,   48,  5, 2, 1),
    (4,   80,  5, 2, 1),
    (4,  160,  7, 2, 0),
    (6,  176, 14, 1, 0),
    (6,  304, 18, 2, 0),
    (6,  512,  5, 1, 0),
)
L = (
    # t    c   n  s  fused
    (1,   32,  4, 1, 1),
    (4,   64,  7, 2, 1),
    (4,   96,  7, 2, 1),
    (4,  192, 10, 2, 0),
    (6,  224, 19, 1, 0),
    (6,  384, 25, 2, 0),
    (6,  640,  7, 1, 0),
)
XL = (
    # t    c   n  s  fused
    (1,   32,  4, 1, 1),
    (4,   64,  8, 2, 1),
    (4,   96,  8, 2, 1),
    (4,  192, 16, 2, 0),
    (6,  256, 24, 1, 0),
    (6,  512, 32, 2, 0),
    (6,  640,  8, 1, 0),
)
BASE = (
    # t    c   n  s  fused
    (1,   16,  1, 1, 1),
    (4,   32,  2, 2, 1),
    (4,   48,  2, 2, 1),
    (4,   96,  3, 2, 0),
    (6,  112,  5, 1, 0),
    (6,  192,  8, 2, 0),
)

ROWS = (
    # name  stages  stem  train  eval  dropout
    ("s",   S,       24,   300,   384,   0.2),
    ("m",   M,       24,   384,   480,   0.3),
    ("l",   L,       32,   384,   480,   0.4),
    ("xl",  XL,      32,   384,   512,   0.4),
)

BASE_ROWS = (
    # name   width  depth  train  eval  dropout
    ("b0",    1.0,   1.0,   192,   224,   0.2),
    ("b1",    1.0,   1.1,   192,   240,   0.2),
    ("b2",    1.1,   1.2,   208,   260,   0.3),
    ("b3",    1.2,   1.4,   240,   300,   0.3),
)
# fmt: on

FAMILIES = (
    Family(
        title="EfficientNetV2",
        paper="2104.00298",
        timm_prefix="effnet_zoo_v2_",
        hub_prefix="efficientnetv2_",
        variants=tuple(
            Variant(name=name, stages=stages, stem=stem, train_size=train, eval_size=eval_, dropout=dropout)
            for name, stages, stem, train, eval_, dropout in ROWS
        ),
    ),
    Family(
        title="EfficientNetV2-B",
        paper="2104.00298",
        timm_prefix="effnet_zoo_v2_",
        hub_prefix="efficientnetv2_",
        # The V2 code rounds to the nearest multiple of 8 and, unlike V1's, never corrects upwards.
        round_limit=0.0,
        variants=tuple(
            Variant(
                name=name, stages=BASE, width=width, depth=depth, train_size=train, eval_size=eval_, dropout=dropout
            )
            for name, width, depth, train, eval_, dropout in BASE_ROWS
        ),
    ),
)
