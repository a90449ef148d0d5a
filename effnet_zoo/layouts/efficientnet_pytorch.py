"""Keys of efficientnet_pytorch 0.7.1 and efficientnet_lite_pytorch 0.1.0 (model.py): blocks numbered through."""

from effnet_zoo.layouts.keytable import KeyTable

TABLE = KeyTable(
    name="efficientnet_pytorch",
    network={
        "conv_stem": "_conv_stem",
        "bn1": "_bn0",
        "conv_head": "_conv_head",
        "bn2": "_bn1",
        "classifier": "_fc",
    },
    block="_blocks.{index}.",
    blocks={
        "mbconv": {
            "conv_pw": "_expand_conv",
            "bn1": "_bn0",
            "conv_dw": "_depthwise_conv",
            "bn2": "_bn1",
            "se.conv_reduce": "_se_reduce",
            "se.conv_expand": "_se_expand",
            "conv_pwl": "_project_conv",
            "bn3": "_bn2",
        },
        "separable": {
            "conv_dw": "_depthwise_conv",
            "bn1": "_bn1",
            "se.conv_reduce": "_se_reduce",
            "se.conv_expand": "_se_expand",
            "conv_pw": "_project_conv",
            "bn2": "_bn2",
        },
    },
)
