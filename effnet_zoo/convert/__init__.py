"""Key tables between this package's layout and others'. geffnet and timm have the same keys as this package."""

from effnet_zoo.convert import efficientnet_pytorch, torchvision
from effnet_zoo.convert.keytable import KeyTable

LAYOUTS: dict[str, KeyTable] = {table.name: table for table in (efficientnet_pytorch.TABLE, torchvision.TABLE)}

__all__ = ["LAYOUTS", "KeyTable"]
