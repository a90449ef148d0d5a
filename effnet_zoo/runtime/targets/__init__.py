"""The table of targets: what runs models as engines, and what they can be exported to. It imports no torch.

A new target is a class in one of these modules and its place in `TARGETS`.
"""

from effnet_zoo.runtime.targets.litert import LiteRt
from effnet_zoo.runtime.targets.onnx import Onnx
from effnet_zoo.runtime.targets.openvino import OpenVino
from effnet_zoo.runtime.targets.pytorch import AotInductor, Eager, TorchExport, TorchScript
from effnet_zoo.runtime.targets.target import Target

ONNX, OPENVINO = Onnx(), OpenVino()

TARGETS: tuple[Target, ...] = (Eager(), ONNX, OPENVINO, TorchExport(), AotInductor(), TorchScript(), LiteRt())

ENGINES = {target.engine: target for target in TARGETS if target.engine}
"""By name, what `effnet_zoo.engine` can run a model by."""

FORMATS = {target.format: target for target in TARGETS if target.format}
"""By name, what `effnet_zoo.export` can write."""

READABLE: dict[str, Onnx | OpenVino] = {target.suffix: target for target in (ONNX, OPENVINO)}
"""By suffix, the files that can be opened safely, without torch. PyTorch's files are programs, which run code when they
are loaded."""

ONNX_RUNTIMES: dict[str, Onnx | OpenVino] = {target.engine: target for target in (ONNX, OPENVINO)}
"""By name, the engines that run ONNX files."""
