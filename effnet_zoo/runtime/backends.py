"""What can run a model: each backend turns one into an artefact on disk, and an artefact into a function of images."""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from effnet_zoo.errors import ArgumentError, MissingExtraError
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.child import run_in_child
from effnet_zoo.runtime.interface import DTYPES, Interface, Size
from effnet_zoo.runtime.sessions import (
    Run,
    onnxruntime_optimized,
    onnxruntime_run,
    openvino_core,
    openvino_model,
    openvino_run,
    package_version,
)

EXAMPLES = 2
"""Images that a model is traced with: with one, exporters take the batch for fixed."""


class Backend(ABC):
    """A way to run models.

    Attributes:
        name: What it is called.
        packages: Modules it needs beyond this package's own; their extra has the backend's name.
        devices: Kinds of device it runs on.
        dtypes: What it computes in.
        filename: Of its artefact; empty if it makes none.
        patient: Whether an artefact takes so long to make that it is only made when asked for.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    filename: ClassVar[str] = ""
    patient: ClassVar[bool] = False

    def check(self, device: str, dtype: str) -> None:
        """Whether it can run here.

        Raises:
            MissingExtraError: If a package is missing.
            ArgumentError: If it does not run on such a device, or compute in such a dtype.
            EngineError: If a package does not start.
        """
        if device not in self.devices:
            raise ArgumentError(f"engine {self.name} runs on {' or '.join(self.devices)}, and the model is on {device}")
        if dtype not in self.dtypes:
            raise ArgumentError(f"engine {self.name} has no {dtype}: expected {' or '.join(self.dtypes)}")
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(
                    f"engine {self.name} needs {package}, which is not installed: pip install 'effnet-zoo[{self.name}]'"
                )

    def facts(self, device: torch.device) -> dict[str, Any]:  # noqa: ARG002
        """Returns what an artefact, and its speed, depend on besides the model and the processor."""
        return {package: package_version(package) for package in self.packages}

    @abstractmethod
    def export(self, model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:
        """Write the artefact, if the backend makes one, into a folder that is there."""

    @abstractmethod
    def load(self, model: EfficientNet, dtype: str, folder: Path, threads: int) -> Run:
        """What runs the artefact in a folder, or the model itself if the backend makes none."""


class Eager(Backend):
    """PyTorch as it is, with batch norm folded."""

    name = "eager"
    devices = ("cpu", "cuda", "mps", "xpu")
    dtypes = tuple(DTYPES)

    def export(self, model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:
        """Nothing: folding takes less time than reading a file would."""

    def load(self, model: EfficientNet, dtype: str, folder: Path, threads: int) -> Run:  # noqa: ARG002
        optimized = optimize(model, DTYPES[dtype])
        device = optimized.conv_stem.weight.device

        def run(images: Tensor) -> Tensor:
            return optimized(images.to(device, DTYPES[dtype])).to(images.device, torch.float32)

        return run


class Inductor(Backend):
    """PyTorch's compiler, ahead of time: the artefact is machine code for this processor, made in a minute or so."""

    name = "inductor"
    devices = ("cpu", "cuda", "xpu")
    dtypes = tuple(DTYPES)
    filename = "model.pt2"
    patient = True

    def facts(self, device: torch.device) -> dict[str, Any]:
        # The compiler writes the number of threads into its loops.
        facts: dict[str, Any] = {"threads": torch.get_num_threads()}
        if device.type == "cuda":
            facts["gpu"] = [torch.cuda.get_device_name(device), *torch.cuda.get_device_capability(device)]
        return facts

    def export(self, model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:
        optimized = optimize(model, DTYPES[dtype])
        weight = optimized.conv_stem.weight
        images = torch.zeros(EXAMPLES, optimized.in_chans, *size, device=weight.device, dtype=weight.dtype)
        # What the compiler keeps would otherwise lie in the shared /tmp, where it is found and run again.
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(folder.with_name("inductor"))}
        path = str(folder / self.filename)
        run_in_child(_compile, optimized, images, path, torch.get_num_threads(), environment=environment)

    def load(self, model: EfficientNet, dtype: str, folder: Path, threads: int) -> Run:  # noqa: ARG002
        compiled = torch._inductor.aoti_load_package(str(folder / self.filename))
        device = model.conv_stem.weight.device

        def run(images: Tensor) -> Tensor:
            contiguous = images.to(device, DTYPES[dtype]).contiguous()
            outputs: Tensor = compiled(contiguous)
            return outputs.to(images.device, torch.float32)

        return run


def _compile(network: EfficientNet, images: Tensor, path: str, threads: int) -> None:
    torch.set_num_threads(threads)
    with torch.no_grad():
        program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs={"freezing": True})


class OnnxRuntime(Backend):
    """ONNX Runtime on the processor."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx")
    filename = "model.onnx"

    def export(self, model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:
        graph = importlib.import_module("effnet_zoo.runtime.graph").onnx_model(model, Interface(size=size, dtype=dtype))
        onnxruntime_optimized(graph.SerializeToString(), folder / self.filename)

    def load(self, model: EfficientNet, dtype: str, folder: Path, threads: int) -> Run:  # noqa: ARG002
        return onnxruntime_run(folder / self.filename, threads, optimized=True)


class OpenVino(Backend):
    """OpenVINO on the processor."""

    name = "openvino"
    packages = ("openvino", "onnx")
    dtypes = ("float32", "bfloat16")
    filename = "model.xml"

    def check(self, device: str, dtype: str) -> None:
        super().check(device, dtype)
        if dtype == "bfloat16" and "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ArgumentError("engine openvino: this processor does not compute in bfloat16: expected float32")

    def export(self, model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:  # noqa: ARG002
        graph = importlib.import_module("effnet_zoo.runtime.graph").onnx_model(model, Interface(size=size))
        openvino = importlib.import_module("openvino")
        openvino.save_model(openvino_model(graph), str(folder / self.filename), compress_to_fp16=False)

    def load(self, model: EfficientNet, dtype: str, folder: Path, threads: int) -> Run:  # noqa: ARG002
        return openvino_run(folder / self.filename, threads, dtype)


BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (Eager(), Inductor(), OnnxRuntime(), OpenVino())}
