"""Keys of transformers' EfficientNetForImageClassification (models/efficientnet/modeling_efficientnet.py)."""

from effnet_zoo.layouts.keytable import KeyTable

_BODY = {
    "conv_dw": "depthwise_conv.depthwise_conv",
    "se.conv_reduce": "squeeze_excite.reduce",
    "se.conv_expand": "squeeze_excite.expand",
}

TABLE = KeyTable(
    name="transformers",
    network={
        "conv_stem": "efficientnet.embeddings.convolution",
        "bn1": "efficientnet.embeddings.batchnorm",
        "conv_head": "efficientnet.encoder.top_conv",
        "bn2": "efficientnet.encoder.top_bn",
        "classifier": "classifier",
    },
    block="efficientnet.encoder.blocks.{index}.",
    blocks={
        "mbconv": {
            "conv_pw": "expansion.expand_conv",
            "bn1": "expansion.expand_bn",
            **_BODY,
            "bn2": "depthwise_conv.depthwise_norm",
            "conv_pwl": "projection.project_conv",
            "bn3": "projection.project_bn",
        },
        "separable": {
            **_BODY,
            "bn1": "depthwise_conv.depthwise_norm",
            "conv_pw": "projection.project_conv",
            "bn2": "projection.project_bn",
        },
    },
)
