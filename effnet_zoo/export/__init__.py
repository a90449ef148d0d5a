"""Models that leave PyTorch, with what belongs to them, each run and compared before it is called done."""

from effnet_zoo.export.core import Export, export
from effnet_zoo.export.formats import FORMATS

__all__ = ["FORMATS", "Export", "export"]
