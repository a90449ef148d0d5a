"""The table of targets: what runs models as engines, and what they can be exported to. It imports no torch.

A new target is a class in one of these modules and its place in `TARGETS`.
"""

from effnet_zoo.runtime.targets.litert import LiteRt
from effnet_zoo.runtime.targets.onnx import Onnx
from effnet_zoo.runtime.targets.openvino import OpenVino
from effnet_zoo.runtime.targets.pytorch import AotInductor, Eager, TorchExport, TorchScript
from effnet_zoo.runtime.targets.target import DataTarget, FileTarget, Target

__all__ = ["ENGINES", "FORMATS", "ONNX_RUNTIMES", "READABLE", "TARGETS"]

TARGETS: tuple[Target, ...] = (
    Eager(),
    Onnx(),
    OpenVino(),
    TorchExport(),
    AotInductor(),
    TorchScript(),
    LiteRt(),
)

ENGINES = {target.engine: target for target in TARGETS if target.engine}
"""By name, what `effnet_zoo.engine` can run a model by."""

FORMATS = {target.format: target for target in TARGETS if isinstance(target, FileTarget)}
"""By name, what `effnet_zoo.export` can write."""

READABLE = {target.suffix: target for target in TARGETS if isinstance(target, DataTarget)}
"""By suffix, the files that can be opened safely. PyTorch's files are programs, which run code when they are loaded."""

ONNX_RUNTIMES = {target.engine: target for target in READABLE.values()}
"""By name, the engines that run ONNX files."""
