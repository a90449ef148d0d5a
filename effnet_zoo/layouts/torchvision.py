"""The layout of torchvision's efficientnet_b0..b7 and efficientnet_v2_s, m and l (models/efficientnet.py).

Example of a key: ``features.2.0.block.1.0.weight``.
"""

from torch import nn

from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.layouts.layout import B0_TO_B7, Layout, NetworkDescription, Reference, archs_named
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing

TABLE = KeyTable(
    name="torchvision",
    network=("features.0.0", "features.0.1", "features.{after}.0", "features.{after}.1", "classifier.1"),
    block="features.{stage}.{block}.block.",
    blocks={
        "mbconv": ("0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0", "3.1"),
        "separable": ("0.0", "0.1", "1.fc1", "1.fc2", "2.0", "2.1"),
        "fused": ("0.0", "0.1", "1.0", "1.1"),
        "conv": ("0.0", "0.1"),
    },
)

V2 = tuple(f"effnet_zoo_v2_{size}" for size in "sml")


def _their_name(hub_name: str) -> str:
    return hub_name.replace("efficientnetv2", "efficientnet_v2")


def _preprocessing(name: str) -> Preprocessing:
    """Return the transforms that torchvision names for its weights IMAGENET1K_V1."""
    from torchvision.models import get_model_weights

    weights = get_model_weights(_their_name(catalogue.models()[name].hub_name)).IMAGENET1K_V1
    transforms = weights.transforms()
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        size=(crop, crop),
        crop_pct=crop / resize,
        crop_mode="center",
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _reference(network: NetworkDescription) -> Reference:
    from torchvision import models

    module = models.get_model(_their_name(network.variant.hub_name), num_classes=max(1, network.num_classes))
    if not network.num_classes:
        module.classifier[1] = nn.Identity()
    stem = module.features[0][0]
    if stem.in_channels != network.in_chans:
        module.features[0][0] = nn.Conv2d(network.in_chans, stem.out_channels, 3, 2, 1, bias=False)
    return Reference(distribution="torchvision", module=module)


LAYOUT = Layout(
    table=TABLE,
    archs={
        **archs_named(*B0_TO_B7[:5], padding="symmetric", bn_eps=1e-5),
        **archs_named(*B0_TO_B7[5:], *V2, padding="symmetric", bn_eps=1e-3),
    },
    convention="symmetric padding, batch norm eps 1e-5 (B5 and up, and V2: 1e-3); images as for IMAGENET1K_V1",
    loads_with="torchvision: models.efficientnet_*().load_state_dict(load_file('DIR/model.safetensors'))",
    preprocessing=_preprocessing,
    reference=_reference,
)
