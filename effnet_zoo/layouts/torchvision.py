"""Keys of torchvision's efficientnet_b0..b7 and efficientnet_v2_s/m/l (models/efficientnet.py)."""

from effnet_zoo.layouts.keytable import KeyTable

TABLE = KeyTable(
    name="torchvision",
    network={
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": "features.{after}.0",
        "bn2": "features.{after}.1",
        "classifier": "classifier.1",
    },
    block="features.{stage}.{block}.block.",
    blocks={
        "mbconv": {
            "conv_pw": "0.0",
            "bn1": "0.1",
            "conv_dw": "1.0",
            "bn2": "1.1",
            "se.conv_reduce": "2.fc1",
            "se.conv_expand": "2.fc2",
            "conv_pwl": "3.0",
            "bn3": "3.1",
        },
        "separable": {
            "conv_dw": "0.0",
            "bn1": "0.1",
            "se.conv_reduce": "1.fc1",
            "se.conv_expand": "1.fc2",
            "conv_pw": "2.0",
            "bn2": "2.1",
        },
        "fused": {
            "conv_exp": "0.0",
            "bn1": "0.1",
            "conv_pwl": "1.0",
            "bn2": "1.1",
        },
        "conv": {
            "conv": "0.0",
            "bn1": "0.1",
        },
    },
)
