"""Models run by the fastest means on the machine: plain PyTorch, compiled, or by another package's runtime."""

from effnet_zoo.engines.backends import BACKENDS
from effnet_zoo.engines.core import Engine, engine

__all__ = ["BACKENDS", "Engine", "engine"]
