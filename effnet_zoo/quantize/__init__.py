"""Post-training int8: rounded with care, measured beside float32, and not written if it disagrees too often."""

from effnet_zoo.quantize.core import Quantized, quantize
from effnet_zoo.quantize.recipes import RECIPES

__all__ = ["RECIPES", "Quantized", "quantize"]
