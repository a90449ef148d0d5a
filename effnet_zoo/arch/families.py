"""The declarations: every family and variant as data. Adding a model is one row in one of these files."""

from effnet_zoo.arch import efficientnet, efficientnetv2
from effnet_zoo.arch.declaration import Activation, Family, Padding, Stages, Variant

FAMILIES: tuple[Family, ...] = (*efficientnet.FAMILIES, *efficientnetv2.FAMILIES)

__all__ = ["FAMILIES", "Activation", "Family", "Padding", "Stages", "Variant"]
