"""Other libraries' layouts: a literal key table each, what they fix beside their keys, and telling them apart."""

from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.layouts.layout import LAYOUTS, Layout

__all__ = ["LAYOUTS", "KeyTable", "Layout"]
