"""The formats: how a model becomes each, and what runs it again to be compared."""

import copy
import importlib
import importlib.util
import os
import warnings
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from effnet_zoo.errors import ArgumentError, EngineError, MissingExtraError, WeightsError, first_line
from effnet_zoo.export.record import KEY, Record
from effnet_zoo.folding import optimize
from effnet_zoo.graphs.interface import DTYPES, Deployed, Interface, own_size
from effnet_zoo.graphs.runtimes import Run, onnxruntime_run, openvino_core, openvino_model, openvino_run
from effnet_zoo.model import EfficientNet
from effnet_zoo.spec import MIN_SIZE

EXAMPLES = 2
"""Images that a model is exported with: with one, exporters take the batch for fixed."""


class Format(ABC):
    """A kind of file.

    Attributes:
        name: What it is called.
        help: What it is, in words.
        suffix: Of its file.
        packages: Distributions it needs beyond this package's own.
        extra: Which of our extras has them.
        dtypes: What it can compute in.
        companions: Suffixes of files that lie beside it.
        follows_device: Whether a file runs where its model was, and not on the processor.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16")
    companions: ClassVar[tuple[str, ...]] = ()
    follows_device: ClassVar[bool] = False

    def check(self, interface: Interface) -> None:
        """Whether such a file can be made here.

        Raises:
            MissingExtraError: If a package is missing.
            ArgumentError: If the format has no such dtype or input.
        """
        if interface.dtype not in self.dtypes:
            raise ArgumentError(f"{self.name} has no {interface.dtype}: expected {' or '.join(self.dtypes)}")
        self.check_installed()

    def check_installed(self) -> None:
        """Whether its packages are there.

        Raises:
            MissingExtraError: If one is not.
        """
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(
                    f"{self.name} needs {package}, which is not installed: pip install 'effnet-zoo[{self.extra}]'"
                )

    @abstractmethod
    def build(self, model: EfficientNet, record: Record) -> Any:
        """The model in the format, in memory."""

    @abstractmethod
    def save(self, built: Any, record: Record, path: Path) -> None:
        """Write what was built, with its record, to a path with the format's suffix."""

    @abstractmethod
    def run(self, path: Path, device: torch.device) -> Run:
        """What computes the outputs of a file."""


class Onnx(Format):
    """ONNX, with short operator lists and padding inside each Conv."""

    name = "onnx"
    help = "an ONNX graph of a dozen operators"
    suffix = ".onnx"
    packages = ("onnx", "onnxruntime")
    extra = "onnxruntime"

    def build(self, model: EfficientNet, record: Record) -> Any:
        writer = importlib.import_module("effnet_zoo.graphs.writer")
        proto = writer.onnx_model(model, record.interface, record.images)
        importlib.import_module("onnx").checker.check_model(proto, full_check=True)
        return proto

    def save(self, built: Any, record: Record, path: Path) -> None:
        write_onnx(built, record, path)

    def run(self, path: Path, device: torch.device) -> Run:  # noqa: ARG002
        return onnxruntime_run(path, torch.get_num_threads())

    def read_record(self, path: Path) -> Record:
        """What a file says of itself; its weights are not read twice.

        Raises:
            WeightsError: If it is damaged, or no file of ours.
        """
        runtime = importlib.import_module("onnxruntime")
        try:
            options = runtime.SessionOptions()
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own kinds, which have no base
            raise WeightsError(f"{path}: not an ONNX file that ONNX Runtime reads: {first_line(error)}") from None
        return Record.from_json(session.get_modelmeta().custom_metadata_map.get(KEY), str(path))


def write_onnx(proto: Any, record: Record, path: Path) -> None:
    """Write a graph with its record, and what other readers look for under names of their own."""
    helper = importlib.import_module("onnx").helper
    plain = {"license": record.provenance.get("license"), "origin_url": record.provenance.get("origin_url")}
    helper.set_model_props(proto, {KEY: record.to_json(), **{key: value for key, value in plain.items() if value}})
    path.write_bytes(proto.SerializeToString())


class OpenVinoIr(Format):
    """OpenVINO's own format, a graph and its weights in two files."""

    name = "openvino"
    help = "OpenVINO IR, an .xml and its .bin; float16 is of the stored weights"
    suffix = ".xml"
    packages = ("openvino", "onnx")
    extra = "openvino"
    companions = (".bin",)

    def check(self, interface: Interface) -> None:
        super().check(interface)
        if interface.resize:
            raise ArgumentError(
                "openvino reads no antialiased resizing from a graph: expected images resized before, or --format onnx"
            )

    def build(self, model: EfficientNet, record: Record) -> Any:
        writer = importlib.import_module("effnet_zoo.graphs.writer")
        interface = record.interface.computing_in("float32")
        return openvino_model(writer.onnx_model(model, interface, record.images))

    def save(self, built: Any, record: Record, path: Path) -> None:
        built.set_rt_info(record.to_json(), [KEY])
        openvino = importlib.import_module("openvino")
        openvino.save_model(built, str(path), compress_to_fp16=record.interface.dtype == "float16")

    def run(self, path: Path, device: torch.device) -> Run:  # noqa: ARG002
        return openvino_run(path, torch.get_num_threads())

    def read_record(self, path: Path) -> Record:
        """What a file says of itself.

        Raises:
            WeightsError: If it is damaged, or no file of ours.
        """
        try:
            graph = openvino_core().read_model(str(path))
        except RuntimeError as error:
            raise WeightsError(f"{path}: not an OpenVINO IR that OpenVINO reads: {first_line(error)}") from None
        text = graph.get_rt_info([KEY]).astype(str) if graph.has_rt_info([KEY]) else None
        return Record.from_json(text, str(path))


class _Torch(Format):
    """What PyTorch itself runs."""

    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16", "float16")
    follows_device = True

    def deployed(self, model: EfficientNet, record: Record) -> tuple[Deployed, tuple[Tensor]]:
        """The folded model behind its interface, and images to export it with."""
        interface = record.interface
        # Not channels last, of which torch.export warns; convolutions follow the images' layout anyway.
        faster = optimize(model, DTYPES[interface.dtype]).to(memory_format=torch.contiguous_format)
        deployed = Deployed(faster, interface, record.images).eval().to(model.conv_stem.weight.device)
        size = interface.size or own_size(model)
        shape = (EXAMPLES, *interface.image_shape(model.in_chans, size))
        dtype = torch.uint8 if interface.pixels else torch.float32
        return deployed, (torch.zeros(shape, dtype=dtype, device=model.conv_stem.weight.device),)


class TorchExport(_Torch):
    """A graph of PyTorch's core operators."""

    name = "torch"
    help = "torch.export's program, for torch.export.load"
    suffix = ".pt2"
    resizes_since = "2.9"  # 2.6 exports antialiased resizing, but as something else

    def check(self, interface: Interface) -> None:
        super().check(interface)
        if interface.resize and torch.torch_version.TorchVersion(torch.__version__) < self.resizes_since:
            raise ArgumentError(
                f"torch resizes inside since torch {self.resizes_since}, found {torch.__version__}: expected images "
                "resized before, or a newer torch"
            )

    def build(self, model: EfficientNet, record: Record) -> Any:
        return exported_program(*self.deployed(model, record), record.interface)

    def save(self, built: Any, record: Record, path: Path) -> None:
        torch.export.save(built, path, extra_files={KEY: record.to_json()})

    def run(self, path: Path, device: torch.device) -> Run:  # noqa: ARG002
        return torch.export.load(path).module()


class AotInductor(_Torch):
    """Machine code for this processor or GPU, which needs no Python."""

    name = "aotinductor"
    help = "AOTInductor's package of machine code for this kind of processor, from torch's compiler"
    suffix = ".pt2"

    def check(self, interface: Interface) -> None:
        super().check(interface)
        if interface.resize:
            raise ArgumentError(
                "aotinductor takes minutes to compile antialiased resizing: expected images resized before, or another "
                "format"
            )

    def build(self, model: EfficientNet, record: Record) -> Any:
        with torch.no_grad():
            program = exported_program(*self.deployed(model, record), record.interface)
        try:
            return torch._inductor.aoti_compile_and_package(program, inductor_configs={"freezing": True})
        except Exception as error:  # whatever the compiler stumbles over: no C++ compiler, no header
            raise EngineError(
                f"aotinductor: cannot compile here: {first_line(error)}: expected a C++ compiler"
            ) from error

    def save(self, built: Any, record: Record, path: Path) -> None:
        path.write_bytes(Path(built).read_bytes())
        with zipfile.ZipFile(path, "a") as archive:
            top = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{top}/extra/{KEY}", record.to_json())

    def run(self, path: Path, device: torch.device) -> Run:  # noqa: ARG002
        return torch._inductor.aoti_load_package(str(path))


class TorchScript(_Torch):
    """TorchScript, which PyTorch keeps for those who have it in use."""

    name = "torchscript"
    help = "TorchScript, for torch.jit.load and libtorch; PyTorch itself now prefers torch.export"
    suffix = ".ts"

    def build(self, model: EfficientNet, record: Record) -> Any:
        deployed, _ = self.deployed(model, record)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
            return torch.jit.freeze(torch.jit.script(deployed))

    def save(self, built: Any, record: Record, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
            torch.jit.save(built, str(path), _extra_files={KEY: record.to_json()})

    def run(self, path: Path, device: torch.device) -> Run:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
            return torch.jit.load(str(path), map_location=device)


class LiteRt(_Torch):
    """LiteRT, formerly TensorFlow Lite, for phones and the like; a file takes one image at a time."""

    name = "litert"
    help = "a LiteRT .tflite for one image at a time, by litert-torch"
    suffix = ".tflite"
    packages = ("litert_torch", "ai_edge_litert")
    extra = "litert"
    dtypes = ("float32",)
    follows_device = False

    def check(self, interface: Interface) -> None:
        super().check(interface)
        if interface.any_size:
            raise ArgumentError("litert converts for one size: expected images of that size, resized before")

    def build(self, model: EfficientNet, record: Record) -> Any:
        deployed, (images,) = self.deployed(copy.deepcopy(model).cpu(), record)
        os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
        return importlib.import_module("litert_torch").convert(deployed, (images[:1],)).model_content()

    def save(self, built: Any, record: Record, path: Path) -> None:
        schema = importlib.import_module("ai_edge_litert.schema_py_generated")
        tools = importlib.import_module("ai_edge_litert.tools.flatbuffer_utils")
        content = tools.read_model_from_bytearray(bytearray(built))
        text = schema.BufferT()
        text.data = numpy.frombuffer(record.to_json().encode(), numpy.uint8)
        content.buffers.append(text)
        entry = schema.MetadataT()
        entry.name, entry.buffer = KEY, len(content.buffers) - 1
        content.metadata = [*(content.metadata or ()), entry]
        tools.write_model(content, str(path))

    def run(self, path: Path, device: torch.device) -> Run:  # noqa: ARG002
        runtime = importlib.import_module("ai_edge_litert.interpreter")
        interpreter = runtime.Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
        ((given,), (wanted,)) = interpreter.get_input_details(), interpreter.get_output_details()

        def one(image: Tensor) -> Tensor:
            interpreter.set_tensor(given["index"], image[None].contiguous().numpy())
            interpreter.invoke()
            return torch.from_numpy(interpreter.get_tensor(wanted["index"]))

        return lambda images: torch.cat([one(image) for image in images])


def exported_program(deployed: Deployed, images: tuple[Tensor], interface: Interface) -> Any:
    """torch.export's program, with any batch, and any height and width if the interface takes them."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if interface.any_size:
        rows, columns = (1, 2) if interface.pixels == "nhwc" else (2, 3)
        # From 33: torch takes a size of 1 for special, and 32 pixels are one cell in the end.
        smallest = MIN_SIZE + 1
        axes |= {rows: torch.export.Dim("height", min=smallest), columns: torch.export.Dim("width", min=smallest)}
    with torch.no_grad():
        return torch.export.export(deployed, images, dynamic_shapes=(axes,))


FORMATS: dict[str, Format] = {
    one.name: one for one in (Onnx(), OpenVinoIr(), TorchExport(), AotInductor(), TorchScript(), LiteRt())
}
