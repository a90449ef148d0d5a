"""What can run a model: each backend turns one into an artefact on disk, and an artefact into a function of images."""

import functools
import importlib
import importlib.util
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from effnet_zoo.engines.streams import Plan
from effnet_zoo.errors import ArgumentError, MissingExtraError
from effnet_zoo.folding import optimize
from effnet_zoo.model import EfficientNet

Run = Callable[[Tensor], Tensor]
"""Float32 images (n, channels, height, width) of one size, n free, to float32 outputs (n, outputs)."""

Size = tuple[int, int]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

EXAMPLES = 2
"""Images that a model is traced with: with one, exporters take the batch for fixed."""


class Backend(ABC):
    """A way to run models.

    Attributes:
        name: What it is called.
        packages: Distributions it needs beyond this package's own.
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

    def versions(self) -> dict[str, str]:
        """Of the packages that an artefact, and its speed, depend on."""
        return {package: metadata.version(package) for package in self.packages}

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

    def export(self, model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:
        optimized = optimize(model, DTYPES[dtype])
        weight = optimized.conv_stem.weight
        images = torch.zeros(EXAMPLES, optimized.in_chans, *size, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            program = torch.export.export(optimized, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(folder / self.filename), inductor_configs={"freezing": True}
            )

    def load(self, model: EfficientNet, dtype: str, folder: Path, threads: int) -> Run:  # noqa: ARG002
        compiled = torch._inductor.aoti_load_package(str(folder / self.filename))
        device = model.conv_stem.weight.device

        def run(images: Tensor) -> Tensor:
            contiguous = images.to(device, DTYPES[dtype]).contiguous()
            outputs: Tensor = compiled(contiguous)
            return outputs.to(images.device, torch.float32)

        return run


class OnnxRuntime(Backend):
    """ONNX Runtime on the processor."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx", "onnxscript")
    filename = "model.onnx"
    oldest_torch = "2.9"  # whose exporter and today's onnxscript understand each other; those of 2.6 do not

    def check(self, device: str, dtype: str) -> None:
        super().check(device, dtype)
        if torch.torch_version.TorchVersion(torch.__version__) < self.oldest_torch:
            raise MissingExtraError(
                f"engine {self.name} needs torch {self.oldest_torch}, found {torch.__version__}: "
                "pip install --upgrade torch torchvision"
            )

    def export(self, model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:  # noqa: ARG002
        images = torch.zeros(EXAMPLES, model.in_chans, *size)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts, about each other
            program = torch.onnx.export(
                optimize(model, torch.float32),
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["outputs"],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),  # bounds are nothing that ONNX would know of
                verbose=False,
            )
            assert program is not None
            program.save(str(folder / self.filename))

    def load(self, model: EfficientNet, dtype: str, folder: Path, threads: int) -> Run:  # noqa: ARG002
        runtime = importlib.import_module("onnxruntime")
        pool = ThreadPoolExecutor(threads, thread_name_prefix="effnet_zoo-onnxruntime")

        @functools.cache
        def session(threads: int) -> Any:
            options = runtime.SessionOptions()
            options.intra_op_num_threads = threads
            return runtime.InferenceSession(str(folder / self.filename), options, providers=["CPUExecutionProvider"])

        session(1)  # so that a damaged file is found here

        def run(images: Tensor) -> Tensor:
            plan = Plan.of(len(images), threads)
            pixels, one = images.contiguous().numpy(), session(plan.threads)  # one serves any number of streams
            if plan.streams == 1:
                return torch.from_numpy(one.run(None, {"images": pixels})[0])
            parts = pool.map(lambda part: one.run(None, {"images": pixels[part]})[0], plan.chunks(len(images)))
            return torch.from_numpy(numpy.concatenate(list(parts)))

        return run


class OpenVino(Backend):
    """OpenVINO on the processor. It compiles for one shape, so a last part that is smaller is filled up with zeros."""

    name = "openvino"
    packages = ("openvino",)
    dtypes = ("float32", "bfloat16")
    filename = "model.xml"

    def check(self, device: str, dtype: str) -> None:
        super().check(device, dtype)
        if dtype == "bfloat16" and "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ArgumentError("engine openvino: this processor does not compute in bfloat16: expected float32")

    def export(self, model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:  # noqa: ARG002
        openvino = importlib.import_module("openvino")
        images = torch.zeros(EXAMPLES, model.in_chans, *size)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it traces, which torch deprecates
            converted = openvino.convert_model(optimize(model, torch.float32), example_input=images)
        converted.reshape([-1, *images.shape[1:]])
        openvino.save_model(converted, str(folder / self.filename), compress_to_fp16=False)

    def load(self, model: EfficientNet, dtype: str, folder: Path, threads: int) -> Run:  # noqa: ARG002
        openvino, core = importlib.import_module("openvino"), openvino_core()
        graph = core.read_model(str(folder / self.filename))
        channels, height, width = (axis.get_length() for axis in graph.input(0).partial_shape[1:])
        outputs = graph.output(0).partial_shape[1].get_length()

        @functools.cache
        def queue(plan: Plan) -> Any:
            shaped = graph.clone()
            shaped.reshape([plan.chunk, channels, height, width])
            settings = {
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
                "NUM_STREAMS": plan.streams,
                "INFERENCE_NUM_THREADS": plan.streams * plan.threads,
                "CACHE_DIR": str(folder / "compiled"),
            }
            requests = openvino.AsyncInferQueue(core.compile_model(shaped, "CPU", settings), plan.streams)
            requests.set_callback(_keep)
            return requests

        def run(images: Tensor) -> Tensor:
            plan = Plan.of(len(images), threads)
            pixels, requests = images.contiguous().numpy(), queue(plan)
            if len(images) == plan.chunk:  # handing it to another thread would only take time
                return torch.from_numpy(requests[0].infer([pixels], share_inputs=True)[0])
            kept = numpy.empty((len(images), outputs), numpy.float32)
            for part in plan.chunks(len(images)):
                given = pixels[part]
                if missing := plan.chunk - len(given):
                    given = numpy.concatenate([given, numpy.zeros((missing, *given.shape[1:]), given.dtype)])
                requests.start_async([given], (kept, part), share_inputs=True)
            requests.wait_all()
            return torch.from_numpy(kept)

        return run


@functools.cache
def openvino_core() -> Any:
    """One for the process.

    Each installs a signal stack of its own, and freeing two in turn leaves a freed one behind, on which the next signal
    that Python handles, of a child that ends or of Ctrl-C, crashes.
    """
    return importlib.import_module("openvino").Core()


def _keep(request: Any, place: tuple[Any, slice]) -> None:
    kept, part = place
    kept[part] = request.get_output_tensor(0).data[: part.stop - part.start]


BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (Eager(), Inductor(), OnnxRuntime(), OpenVino())}
