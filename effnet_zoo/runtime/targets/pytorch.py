"""PyTorch itself: the model as it is, and what torch.export, its compiler, TorchScript and LiteRT make of it."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.errors import ArgumentError, EngineError, first_line
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.child import run_in_child
from effnet_zoo.runtime.deployed import TORCH_DTYPES, Deployed, own_size
from effnet_zoo.runtime.metadata import COMPUTE_DTYPES, KEY, Interface, Metadata
from effnet_zoo.runtime.targets.target import Target, TensorFunction, on_tensors
from effnet_zoo.zoo.preprocessing import Preprocessing

EXAMPLES = 2
"""Images that a model is exported with. With one, exporters would take the batch for fixed."""

MARKER = f"{KEY}.place"
"""An empty file in PyTorch's archives, beside which the metadata go. Where that is differs between torch's versions."""


class Eager(Target):
    """PyTorch as it is, with batch norm folded. It has no file: folding takes less time than reading one."""

    engine = "eager"
    devices = ("cpu", "cuda", "mps", "xpu")
    engine_dtypes = COMPUTE_DTYPES

    def load_engine(self, model: EfficientNet, path: Path, *, threads: int, dtype: str) -> TensorFunction:
        optimized = optimize(model, TORCH_DTYPES[dtype])
        device = optimized.conv_stem.weight.device
        return lambda images: optimized(images.to(device, TORCH_DTYPES[dtype])).to(torch.float32)


class Program(Target):
    """A file that PyTorch writes, in a child process: see `effnet_zoo.runtime.child`."""

    devices: tuple[str, ...] = ("cpu", "cuda", "mps", "xpu")

    def build(self, model: EfficientNet, interface: Interface, how: Preprocessing | None, folder: Path) -> Path:
        """Return the path of a file without metadata."""
        optimized = optimize(model, TORCH_DTYPES[interface.dtype])
        device = self.device_for(model.conv_stem.weight.device)
        # Not channels last, of which torch.export warns. Convolutions follow the images' layout anyway.
        deployed = Deployed(optimized, interface, how).eval().to(device).to(memory_format=torch.contiguous_format)
        shape = (EXAMPLES, *interface.image_shape(model.in_chans, interface.size or own_size(model)))
        images = torch.zeros(shape, dtype=torch.uint8 if interface.pixels else torch.float32, device=device)
        path = folder / f"program{self.suffix}"
        threads = torch.get_num_threads()  # compiled code is for so many
        # What the compiler keeps would otherwise lie in the shared /tmp, where it is found and run again.
        private = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
        try:
            run_in_child(self.write_in_child, deployed, images, interface, path, threads, environment=private)
        except EngineError as error:
            raise EngineError(f"building for {self.format} failed: {error}: nothing was written") from error
        return path

    def device_for(self, device: torch.device) -> torch.device:
        """Return where a file runs that is made of a model on a device: there if it can, else on the processor."""
        return device if device.type in self.devices else torch.device("cpu")

    def write_in_child(
        self, deployed: Deployed, images: Tensor, interface: Interface, path: Path, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        with torch.no_grad():
            self.write(deployed, images, interface, path)

    def write(self, deployed: Deployed, images: Tensor, interface: Interface, path: Path) -> None:
        """Write the program of a folded model behind its interface, exported with some images."""
        raise NotImplementedError

    def save(self, built: Path, path: Path, metadata: Metadata | None = None) -> None:
        shutil.copyfile(built, path)
        if metadata:
            with zipfile.ZipFile(path, "a") as archive:
                marker = next(name for name in archive.namelist() if name.endswith(f"/{MARKER}"))
                archive.writestr(f"{marker.removesuffix(MARKER)}{KEY}", metadata.to_json())

    def open_program(self, path: Path, device: torch.device, threads: int) -> TensorFunction:
        """Return a function of contiguous images on a device that runs a file."""
        raise NotImplementedError

    def load(self, path: Path, device: torch.device, threads: int) -> TensorFunction:
        place = self.device_for(device)
        program = self.open_program(path, place, threads)
        return lambda images: program(images.to(place).contiguous())


def exported_program(deployed: Deployed, images: Tensor, interface: Interface) -> Any:
    """Return torch.export's program, with any batch, and any height and width if the interface takes them."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if interface.any_size:
        rows, columns = (1, 2) if interface.pixels == "nhwc" else (2, 3)
        # From 33: torch takes a size of 1 for special, and 32 pixels are one cell in the end.
        smallest = MIN_SIZE + 1
        axes |= {rows: torch.export.Dim("height", min=smallest), columns: torch.export.Dim("width", min=smallest)}
    return torch.export.export(deployed, (images,), dynamic_shapes=(axes,))


class TorchExport(Program):
    """A graph of PyTorch's core operators, for torch.export.load."""

    format = "torch"
    suffix = ".pt2"
    if torch.torch_version.TorchVersion(torch.__version__) < "2.9":
        cannot_resize = "exports antialiased resizing as something else before torch 2.9"

    def write(self, deployed: Deployed, images: Tensor, interface: Interface, path: Path) -> None:
        torch.export.save(exported_program(deployed, images, interface), path, extra_files={MARKER: ""})

    def open_program(self, path: Path, device: torch.device, threads: int) -> TensorFunction:
        return torch.export.load(path).module()


class AotInductor(Program):
    """AOTInductor's machine code for this kind of processor or GPU. Compiling takes half a minute and more."""

    engine = "inductor"
    format = "aotinductor"
    suffix = ".pt2"
    devices = ("cpu", "cuda", "xpu")
    engine_dtypes = COMPUTE_DTYPES
    cannot_resize = "takes minutes to compile antialiased resizing"
    slow_to_build = True

    def build_settings(self, device: torch.device) -> dict[str, Any]:
        # The compiler writes the number of threads into its loops.
        settings: dict[str, Any] = {"threads": torch.get_num_threads()}
        if device.type == "cuda":
            settings["gpu"] = [torch.cuda.get_device_name(device), *torch.cuda.get_device_capability(device)]
        return settings

    def write(self, deployed: Deployed, images: Tensor, interface: Interface, path: Path) -> None:
        program = exported_program(deployed, images, interface)
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )
        except Exception as error:  # many classes: there is no C++ compiler, or no header
            raise EngineError(f"cannot compile here: {first_line(error)}: expected a C++ compiler") from error
        with zipfile.ZipFile(path, "a") as archive:
            top = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{top}/extra/{MARKER}", "")

    def open_program(self, path: Path, device: torch.device, threads: int) -> TensorFunction:
        return torch._inductor.aoti_load_package(str(path))


class TorchScript(Program):
    """TorchScript, for torch.jit.load and libtorch. PyTorch keeps it for those who have it in use."""

    format = "torchscript"
    suffix = ".ts"

    def write(self, deployed: Deployed, images: Tensor, interface: Interface, path: Path) -> None:
        torch.jit.save(torch.jit.freeze(torch.jit.script(deployed)), str(path), _extra_files={MARKER: ""})

    def open_program(self, path: Path, device: torch.device, threads: int) -> TensorFunction:
        return torch.jit.load(str(path), map_location=device)


class LiteRt(Program):
    """LiteRT, formerly TensorFlow Lite, for phones and other small devices. Its files take one image at a time."""

    format = "litert"
    suffix = ".tflite"
    packages = ("litert_torch", "ai_edge_litert")
    extra = "litert"
    devices = ("cpu",)
    file_dtypes = ("float32",)

    def check_file(self, interface: Interface) -> None:
        super().check_file(interface)
        if interface.any_size:
            raise ArgumentError("litert converts for one size: expected images of that size, resized before")

    def write(self, deployed: Deployed, images: Tensor, interface: Interface, path: Path) -> None:
        import litert_torch

        path.write_bytes(litert_torch.convert(deployed, (images[:1],)).model_content())

    def save(self, built: Path, path: Path, metadata: Metadata | None = None) -> None:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        content = flatbuffer_utils.read_model_from_bytearray(bytearray(built.read_bytes()))
        if metadata:
            text, entry = schema.BufferT(), schema.MetadataT()
            text.data = numpy.frombuffer(metadata.to_json().encode(), numpy.uint8)
            content.buffers.append(text)
            entry.name, entry.buffer = KEY, len(content.buffers) - 1
            content.metadata = [*(content.metadata or ()), entry]
        flatbuffer_utils.write_model(content, str(path))

    def open_program(self, path: Path, device: torch.device, threads: int) -> TensorFunction:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
        ((given,), (wanted,)) = interpreter.get_input_details(), interpreter.get_output_details()

        def outputs_of(images: NDArray[Any]) -> NDArray[numpy.float32]:
            outputs = []
            for image in images:
                interpreter.set_tensor(given["index"], image[None])
                interpreter.invoke()
                outputs.append(interpreter.get_tensor(wanted["index"]))
            return numpy.concatenate(outputs)

        return on_tensors(outputs_of)
