"""Keys of keras.applications' EfficientNetB0..B7 and EfficientNetV2B0..B3, S, M, L (efficientnet.py, _v2.py).

A key is ``layer/variable``, as `effnet_zoo.checkpoints.keras_file` reads it from any of Keras' files. Kernels have
height and width first: (h, w, in, out), a depthwise one (h, w, channels, 1), a dense one (in, out).

Both pad as TensorFlow's SAME does, V1 with layers whose width is fixed when the model is built: its logits are ours at
the size that it was built for, and at no odd one if it was built for any (``input_shape=(None, None, 3)``).
"""

from effnet_zoo.layouts.keytable import Form, Forms, KeyTable

KERAS_FORMS: Forms = {
    "conv": {"weight": Form(name="kernel", axes=(2, 3, 1, 0))},
    "depthwise": {"weight": Form(name="kernel", axes=(2, 3, 0, 1))},
    "squeeze": {"weight": Form(name="kernel", axes=(2, 3, 1, 0)), "bias": Form(name="bias")},
    "norm": {
        "weight": Form(name="gamma"),
        "bias": Form(name="beta"),
        "running_mean": Form(name="moving_mean"),
        "running_var": Form(name="moving_variance"),
    },
    "linear": {"weight": Form(name="kernel", axes=(1, 0)), "bias": Form(name="bias")},
}

_NETWORK = {
    "conv_stem": "stem_conv",
    "bn1": "stem_bn",
    "conv_head": "top_conv",
    "bn2": "top_bn",
    "classifier": "predictions",
}

KERAS_V1 = KeyTable(
    name="keras",
    network=_NETWORK,
    block="block{stage}{letter}_",
    blocks={
        "mbconv": {
            "conv_pw": "expand_conv",
            "bn1": "expand_bn",
            "conv_dw": "dwconv",
            "bn2": "bn",
            "se.conv_reduce": "se_reduce",
            "se.conv_expand": "se_expand",
            "conv_pwl": "project_conv",
            "bn3": "project_bn",
        },
        "separable": {
            "conv_dw": "dwconv",
            "bn1": "bn",
            "se.conv_reduce": "se_reduce",
            "se.conv_expand": "se_expand",
            "conv_pw": "project_conv",
            "bn2": "project_bn",
        },
    },
    forms=KERAS_FORMS,
    separator="/",
)

KERAS_V2 = KeyTable(
    name="keras_v2",
    network=_NETWORK,
    block="block{stage}{letter}_",
    blocks={
        "mbconv": {
            "conv_pw": "expand_conv",
            "bn1": "expand_bn",
            "conv_dw": "dwconv2",
            "bn2": "bn",
            "se.conv_reduce": "se_reduce",
            "se.conv_expand": "se_expand",
            "conv_pwl": "project_conv",
            "bn3": "project_bn",
        },
        "fused": {
            "conv_exp": "expand_conv",
            "bn1": "expand_bn",
            "conv_pwl": "project_conv",
            "bn2": "project_bn",
        },
        "conv": {
            "conv": "project_conv",
            "bn1": "project_bn",
        },
    },
    forms=KERAS_FORMS,
    separator="/",
)

MODELS: dict[str, tuple[KeyTable, str]] = {
    **{f"EfficientNetB{size}": (KERAS_V1, f"effnet_zoo_b{size}") for size in range(8)},
    **{f"EfficientNetV2B{size}": (KERAS_V2, f"effnet_zoo_v2_b{size}") for size in range(4)},
    **{f"EfficientNetV2{size}": (KERAS_V2, f"effnet_zoo_v2_{size.lower()}") for size in "SML"},
}
"""Every EfficientNet of keras.applications, with its keys and our variant's name."""
