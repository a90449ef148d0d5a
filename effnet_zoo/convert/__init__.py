"""Other libraries' layouts: a literal key table each, what they fix beside their keys, and telling them apart."""

from effnet_zoo.convert.keytable import KeyTable
from effnet_zoo.convert.layouts import LAYOUTS, Layout

__all__ = ["LAYOUTS", "KeyTable", "Layout"]
