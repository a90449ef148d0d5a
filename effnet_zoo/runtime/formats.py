"""The formats: how a model becomes each, and what runs it again to be compared."""

import copy
import importlib
import importlib.util
import shutil
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.errors import ArgumentError, EngineError, MissingExtraError, WeightsError, first_line
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.child import run_in_child
from effnet_zoo.runtime.interface import DTYPES, Deployed, Interface, own_size
from effnet_zoo.runtime.record import KEY, Record
from effnet_zoo.runtime.sessions import Run, onnxruntime_run, openvino_core, openvino_model, openvino_run
from effnet_zoo.runtime.stored import store, stored

EXAMPLES = 2
"""Images that a model is exported with: with one, exporters take the batch for fixed."""

PLACE = f"{KEY}.place"
"""An empty file in PyTorch's archives, beside which the record goes: where that is differs between torch's versions."""

Shape = tuple[int | None, ...]
"""What a graph declares of a tensor, the batch first; None where it takes any size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a file says before it is run.

    Attributes:
        record: Its record, as JSON; None if it has none.
        given: The shape of its images.
        wanted: The shape of its outputs.
    """

    record: str | None
    given: Shape
    wanted: Shape


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
        """Checks that such a file can be made here.

        Raises:
            MissingExtraError: If a package is missing.
            ArgumentError: If the format has no such dtype or input.
        """
        if interface.dtype not in self.dtypes:
            raise ArgumentError(f"{self.name} has no {interface.dtype}: expected {' or '.join(self.dtypes)}")
        self.check_installed()

    def check_installed(self) -> None:
        """Checks that its packages are there.

        Raises:
            MissingExtraError: If one is not.
        """
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(
                    f"{self.name} needs {package}, which is not installed: pip install 'effnet-zoo[{self.extra}]'"
                )

    @abstractmethod
    def build(self, model: EfficientNet, record: Record, folder: Path) -> Any:
        """Returns the model in the format, without its record, from which files can be saved.

        Args:
            model: In eval mode; it stays as it is.
            record: What goes in and comes out.
            folder: An empty folder, which is there as long as files are saved.
        """

    @abstractmethod
    def save(self, built: Any, record: Record, path: Path) -> None:
        """Writes what was built, with its record, to a path with the format's suffix."""

    @abstractmethod
    def run(self, path: Path, device: torch.device) -> Run:
        """Returns what computes the outputs of a file."""


class Readable(Format):
    """A format that is data: other programs' files of it can be opened without running what is in them."""

    @abstractmethod
    def declared(self, path: Path) -> Declared:
        """Returns what a file says of itself.

        Raises:
            WeightsError: If its runtime cannot read it.
        """


class Onnx(Readable):
    """ONNX, with short operator lists and padding inside each Conv."""

    name = "onnx"
    help = "an ONNX graph of a dozen operators"
    suffix = ".onnx"
    packages = ("onnx", "onnxruntime")
    extra = "onnxruntime"

    def build(self, model: EfficientNet, record: Record, folder: Path) -> Any:  # noqa: ARG002
        writer = importlib.import_module("effnet_zoo.runtime.graph")
        proto = writer.onnx_model(model, record.interface, record.images)
        importlib.import_module("onnx").checker.check_model(proto, full_check=True)
        return proto

    def save(self, built: Any, record: Record, path: Path) -> None:
        write_onnx(built, record, path)

    def run(self, path: Path, device: torch.device) -> Run:  # noqa: ARG002
        return onnxruntime_run(path, torch.get_num_threads())

    def declared(self, path: Path) -> Declared:
        runtime = importlib.import_module("onnxruntime")
        try:
            options = runtime.SessionOptions()
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own kinds, which have no base
            raise WeightsError(f"{path}: not an ONNX file that ONNX Runtime reads: {first_line(error)}") from None
        given, wanted = (
            tuple(side if isinstance(side, int) else None for side in ends[0].shape)
            for ends in (session.get_inputs(), session.get_outputs())
        )
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        return Declared(record=text, given=given, wanted=wanted)


def write_onnx(proto: Any, record: Record, path: Path) -> None:
    """Writes a graph with its record, and what other readers look for under names of their own."""
    helper = importlib.import_module("onnx").helper
    plain = {"license": record.provenance.get("license"), "origin_url": record.provenance.get("origin_url")}
    helper.set_model_props(proto, {KEY: record.to_json(), **{key: value for key, value in plain.items() if value}})
    path.write_bytes(proto.SerializeToString())


class OpenVinoIr(Readable):
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

    def build(self, model: EfficientNet, record: Record, folder: Path) -> Any:  # noqa: ARG002
        writer = importlib.import_module("effnet_zoo.runtime.graph")
        interface = record.interface.computing_in("float32")
        return openvino_model(writer.onnx_model(model, interface, record.images))

    def save(self, built: Any, record: Record, path: Path) -> None:
        built.set_rt_info(record.to_json(), [KEY])
        openvino = importlib.import_module("openvino")
        openvino.save_model(built, str(path), compress_to_fp16=record.interface.dtype == "float16")

    def run(self, path: Path, device: torch.device) -> Run:  # noqa: ARG002
        return openvino_run(path, torch.get_num_threads())

    def declared(self, path: Path) -> Declared:
        try:
            graph = openvino_core().read_model(str(path))
        except RuntimeError as error:
            raise WeightsError(f"{path}: not an OpenVINO IR that OpenVINO reads: {first_line(error)}") from None
        text = graph.get_rt_info([KEY]).astype(str) if graph.has_rt_info([KEY]) else None
        given, wanted = (
            tuple(side.get_length() if side.is_static else None for side in ends[0].partial_shape)
            for ends in (graph.inputs, graph.outputs)
        )
        return Declared(record=text, given=given, wanted=wanted)


class _Torch(Format):
    """A format that PyTorch writes, in a process of its own: see `effnet_zoo.runtime.child`."""

    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16", "float16")
    follows_device = True

    def build(self, model: EfficientNet, record: Record, folder: Path) -> Any:
        """Returns the path of a file without a record."""
        interface, program = record.interface, folder / f"program{self.suffix}"
        store(optimize(model, DTYPES[interface.dtype]), folder)
        try:
            run_in_child(
                _write_program,
                self.name,
                str(folder),
                record.to_json(),
                list(interface.size or own_size(model)),
                str(program),
                torch.get_num_threads(),  # compiled code is for so many
                # What the compiler keeps would otherwise lie in a folder that all share, and be run again from there.
                environment={"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")},
            )
        except EngineError as error:
            raise EngineError(f"export to {self.name} failed: {error}: nothing was written") from error
        return program

    @abstractmethod
    def write(self, deployed: Deployed, images: tuple[Tensor], interface: Interface, path: Path) -> None:
        """Writes a model's program: what the child does.

        Args:
            deployed: The folded model behind its interface.
            images: Some to export it with.
            interface: What goes in and comes out.
            path: The file.
        """

    def save(self, built: Any, record: Record, path: Path) -> None:
        shutil.copyfile(built, path)
        with zipfile.ZipFile(path, "a") as archive:
            place = next(name for name in archive.namelist() if name.endswith(f"/{PLACE}"))
            archive.writestr(f"{place.removesuffix(PLACE)}{KEY}", record.to_json())


def _write_program(name: str, folder: str, record: str, size: list[int], path: str, threads: int) -> None:
    """Writes a format's program of the model in a folder. It runs in a child, and is given JSON's types."""
    torch.set_num_threads(threads)
    kind, known = FORMATS[name], Record.from_json(record, name)
    assert isinstance(kind, _Torch)
    interface, model = known.interface, stored(Path(folder))
    device = model.conv_stem.weight.device
    # Not channels last, of which torch.export warns; convolutions follow the images' layout anyway.
    deployed = Deployed(model, interface, known.images).eval().to(device)
    shape = (EXAMPLES, *interface.image_shape(model.in_chans, (size[0], size[1])))
    images = torch.zeros(shape, dtype=torch.uint8 if interface.pixels else torch.float32, device=device)
    with torch.no_grad():
        kind.write(deployed, (images,), interface, Path(path))


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

    def write(self, deployed: Deployed, images: tuple[Tensor], interface: Interface, path: Path) -> None:
        torch.export.save(exported_program(deployed, images, interface), path, extra_files={PLACE: ""})

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

    def write(self, deployed: Deployed, images: tuple[Tensor], interface: Interface, path: Path) -> None:
        program = exported_program(deployed, images, interface)
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )
        except Exception as error:  # whatever the compiler stumbles over: no C++ compiler, no header
            raise EngineError(f"cannot compile here: {first_line(error)}: expected a C++ compiler") from error
        with zipfile.ZipFile(path, "a") as archive:
            top = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{top}/extra/{PLACE}", "")

    def run(self, path: Path, device: torch.device) -> Run:  # noqa: ARG002
        return torch._inductor.aoti_load_package(str(path))


class TorchScript(_Torch):
    """TorchScript, which PyTorch keeps for those who have it in use."""

    name = "torchscript"
    help = "TorchScript, for torch.jit.load and libtorch; PyTorch itself now prefers torch.export"
    suffix = ".ts"

    def write(self, deployed: Deployed, images: tuple[Tensor], interface: Interface, path: Path) -> None:  # noqa: ARG002
        torch.jit.save(torch.jit.freeze(torch.jit.script(deployed)), str(path), _extra_files={PLACE: ""})

    def run(self, path: Path, device: torch.device) -> Run:
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

    def build(self, model: EfficientNet, record: Record, folder: Path) -> Any:
        return super().build(copy.deepcopy(model).cpu(), record, folder)

    def write(self, deployed: Deployed, images: tuple[Tensor], interface: Interface, path: Path) -> None:  # noqa: ARG002
        (some,) = images
        path.write_bytes(importlib.import_module("litert_torch").convert(deployed, (some[:1],)).model_content())

    def save(self, built: Any, record: Record, path: Path) -> None:
        schema = importlib.import_module("ai_edge_litert.schema_py_generated")
        tools = importlib.import_module("ai_edge_litert.tools.flatbuffer_utils")
        content = tools.read_model_from_bytearray(bytearray(built.read_bytes()))
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
    """Returns torch.export's program, with any batch, and any height and width if the interface takes them."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if interface.any_size:
        rows, columns = (1, 2) if interface.pixels == "nhwc" else (2, 3)
        # From 33: torch takes a size of 1 for special, and 32 pixels are one cell in the end.
        smallest = MIN_SIZE + 1
        axes |= {rows: torch.export.Dim("height", min=smallest), columns: torch.export.Dim("width", min=smallest)}
    return torch.export.export(deployed, images, dynamic_shapes=(axes,))


FORMATS: dict[str, Format] = {
    one.name: one for one in (Onnx(), OpenVinoIr(), TorchExport(), AotInductor(), TorchScript(), LiteRt())
}
