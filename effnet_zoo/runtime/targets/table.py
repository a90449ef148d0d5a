"""The table of targets: what runs models as engines, and what they can be exported to.

A new target is a class in one of these modules and its place in `TARGETS`.
"""

from effnet_zoo.runtime.targets.onnx import ONNX, OPENVINO
from effnet_zoo.runtime.targets.pytorch import AotInductor, Eager, LiteRt, TorchExport, TorchScript
from effnet_zoo.runtime.targets.target import Target

TARGETS: tuple[Target, ...] = (Eager(), ONNX, OPENVINO, TorchExport(), AotInductor(), TorchScript(), LiteRt())

ENGINES = {target.engine: target for target in TARGETS if target.engine}
"""By name, what `effnet_zoo.engine` can run a model by."""

FORMATS = {target.format: target for target in TARGETS if target.format}
"""By name, what `effnet_zoo.export` can write."""
