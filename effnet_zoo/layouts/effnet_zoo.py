"""This package's own keys, which are those of timm 1.0 (models/efficientnet.py) and geffnet 1.0.2 too."""

from effnet_zoo.layouts.keytable import KeyTable

_NETWORK = ("conv_stem", "bn1", "conv_head", "bn2", "classifier")
_SE = ("se.conv_reduce", "se.conv_expand")

TABLE = KeyTable(
    name="effnet_zoo",
    network={name: name for name in _NETWORK},
    block="blocks.{before}.{block}.",
    blocks={
        "mbconv": {name: name for name in ("conv_pw", "bn1", "conv_dw", "bn2", *_SE, "conv_pwl", "bn3")},
        "separable": {name: name for name in ("conv_dw", "bn1", *_SE, "conv_pw", "bn2")},
        "fused": {name: name for name in ("conv_exp", "bn1", "conv_pwl", "bn2")},
        "conv": {name: name for name in ("conv", "bn1")},
    },
)
