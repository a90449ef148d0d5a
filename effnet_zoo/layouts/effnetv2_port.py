"""Keys of the one-file PyTorch port of EfficientNetV2 (github.com/d-li14/efficientnetv2.pytorch, effnetv2.py).

Squeeze-excite is two linear layers there, and everything before the head convolution is one list, the stem first.
"""

from effnet_zoo.layouts.keytable import AS_IN_TORCH, Form, KeyTable

TABLE = KeyTable(
    name="effnetv2_port",
    network={
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": "conv.0",
        "bn2": "conv.1",
        "classifier": "classifier",
    },
    block="features.{next}.conv.",
    blocks={
        "mbconv": {
            "conv_pw": "0",
            "bn1": "1",
            "conv_dw": "3",
            "bn2": "4",
            "se.conv_reduce": "6.fc.0",
            "se.conv_expand": "6.fc.2",
            "conv_pwl": "7",
            "bn3": "8",
        },
        "fused": {
            "conv_exp": "0",
            "bn1": "1",
            "conv_pwl": "3",
            "bn2": "4",
        },
    },
    forms={**AS_IN_TORCH, "squeeze": {"weight": Form(name="weight", flat=True), "bias": Form(name="bias")}},
)
