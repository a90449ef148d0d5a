"""The layout of efficientnet_pytorch 0.7.1, and of its fork efficientnet_lite_pytorch 0.1.0 (model.py in both).

Blocks are numbered through the whole network. Example of a key: ``_blocks.1._depthwise_conv.weight``.
"""

from importlib import import_module

from torch import nn

from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.layouts.layout import B0_TO_B7, Layout, NetworkDescription, Reference, archs_named, uncropped
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing

OF_FORK = tuple(f"effnet_zoo_lite{number}" for number in range(5))
"""The networks of efficientnet_lite_pytorch."""

_SE = ("_se_reduce", "_se_expand")
TABLE = KeyTable(
    name="efficientnet_pytorch",
    network=("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc"),
    block="_blocks.{index}.",
    blocks={
        "mbconv": ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", *_SE, "_project_conv", "_bn2"),
        "separable": ("_depthwise_conv", "_bn1", *_SE, "_project_conv", "_bn2"),
    },
)


def _preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of examples/imagenet/main.py: bicubic to the variant's size, without a crop.

    The fork's networks are prepared as their checkpoints in the ledger. AdvProp's files have the same keys, and need
    mean and standard deviation 0.5: nothing in a file tells them apart.
    """
    if name in OF_FORK:
        return catalogue.models()[name].default.preprocessing
    return uncropped(name, "center", "bicubic")


def _reference(network: NetworkDescription) -> Reference | None:
    try:
        library = import_module("efficientnet_lite_pytorch" if network.variant.name in OF_FORK else TABLE.name)
    except ImportError:
        return None
    module: nn.Module = library.EfficientNet.from_name(
        network.variant.hub_name.replace("_", "-"),
        in_channels=network.in_chans,
        num_classes=max(1, network.num_classes),
        image_size=None,  # else the padding is fixed for one size
        batch_norm_epsilon=network.arch.bn_eps,
    )
    if not network.num_classes:
        module._fc = nn.Identity()
    return Reference(distribution=library.__name__, module=module)


LAYOUT = Layout(
    table=TABLE,
    archs=archs_named(*B0_TO_B7, "effnet_zoo_b8", "effnet_zoo_l2", *OF_FORK),
    convention="SAME padding, batch norm eps 1e-3; mean and std of ImageNet (AdvProp's files, which look the same: 0.5 "
    "and 0.5)",
    loads_with="efficientnet_pytorch: EfficientNet.from_name(NAME).load_state_dict(load_file('DIR/model.safetensors'))",
    preprocessing=_preprocessing,
    reference=_reference,
)
