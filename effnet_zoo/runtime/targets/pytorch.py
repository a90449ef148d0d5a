"""PyTorch itself: the model as it is, and the programs that torch.export, its compiler and TorchScript make of it.

torch is imported where it is used, so that a list of all targets needs none.
"""

import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.errors import ArgumentError, EngineError, first_line
from effnet_zoo.runtime.child import run_in_child
from effnet_zoo.runtime.metadata import COMPUTE_DTYPES, KEY, Interface, Metadata
from effnet_zoo.runtime.targets.target import Target, TensorFunction
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from effnet_zoo.network.model import EfficientNet
    from effnet_zoo.runtime.deployed import Deployed

EXAMPLES = 2
"""Images that a model is exported with. With one, exporters would take the batch for fixed."""

MARKER = f"{KEY}.place"
"""An empty file in PyTorch's archives, beside which the metadata go. Where that is differs between torch's versions."""


class Eager(Target):
    """PyTorch as it is, with batch norm folded. It has no file: folding takes less time than reading one."""

    engine = "eager"
    devices = ("cpu", "cuda", "mps", "xpu")
    engine_dtypes = COMPUTE_DTYPES

    def load_engine(self, model: "EfficientNet", path: Path, *, threads: int, dtype: str) -> TensorFunction:
        import torch

        from effnet_zoo.network.folding import optimize
        from effnet_zoo.runtime.deployed import TORCH_DTYPES

        optimized = optimize(model, TORCH_DTYPES[dtype])
        device = optimized.conv_stem.weight.device
        return lambda images: optimized(images.to(device, TORCH_DTYPES[dtype])).to(torch.float32)


class Program(Target):
    """A file that PyTorch writes, in a child process: see `effnet_zoo.runtime.child`."""

    devices: tuple[str, ...] = ("cpu", "cuda", "mps", "xpu")

    def build(
        self, model: "EfficientNet", interface: Interface, preprocessing: Preprocessing | None, folder: Path
    ) -> Path:
        """Return the path of a file without metadata."""
        import torch

        from effnet_zoo.network.folding import optimize
        from effnet_zoo.runtime.deployed import TORCH_DTYPES, Deployed, own_size

        optimized = optimize(model, TORCH_DTYPES[interface.dtype])
        device = self.device_for(model.conv_stem.weight.device)
        # Not channels last, of which torch.export warns. Convolutions follow the images' layout anyway.
        deployed = Deployed(optimized, interface, preprocessing).eval().to(device)
        deployed.to(memory_format=torch.contiguous_format)
        shape = (EXAMPLES, *interface.image_shape(model.in_chans, interface.size or own_size(model)))
        images = torch.zeros(shape, dtype=torch.uint8 if interface.pixels else torch.float32, device=device)
        path = folder / f"program{self.suffix}"
        try:
            run_in_child(
                write_program,
                type(self),
                deployed,
                images,
                interface,
                str(path),
                torch.get_num_threads(),  # compiled code is for so many
                # What the compiler keeps would otherwise lie in the shared /tmp, where it is found and run again.
                environment={"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")},
            )
        except EngineError as error:
            raise EngineError(f"building for {self.format} failed: {error}: nothing was written") from error
        return path

    def device_for(self, device: "torch.device") -> "torch.device":
        """Return where a file runs that is made of a model on a device: there if it can, else on the processor."""
        import torch

        return device if device.type in self.devices else torch.device("cpu")

    def write(self, deployed: "Deployed", images: "Tensor", interface: Interface, path: Path) -> None:
        """Write the program of a folded model behind its interface, exported with some images. It runs in the child."""
        raise NotImplementedError

    def save(self, built: Path, path: Path, metadata: Metadata | None = None) -> None:
        shutil.copyfile(built, path)
        if metadata:
            with zipfile.ZipFile(path, "a") as archive:
                marker = next(name for name in archive.namelist() if name.endswith(f"/{MARKER}"))
                archive.writestr(f"{marker.removesuffix(MARKER)}{KEY}", metadata.to_json())

    def open_program(self, path: Path, device: "torch.device", threads: int) -> TensorFunction:
        """Return a function of contiguous images on a device that runs a file."""
        raise NotImplementedError

    def load(self, path: Path, device: "torch.device", threads: int) -> TensorFunction:
        place = self.device_for(device)
        program = self.open_program(path, place, threads)
        return lambda images: program(images.to(place).contiguous())


def write_program(
    target: type[Program], deployed: "Deployed", images: "Tensor", interface: Interface, path: str, threads: int
) -> None:
    """Write a model's program; `Program.build` runs it in a child."""
    import torch

    torch.set_num_threads(threads)
    with torch.no_grad():
        target().write(deployed, images, interface, Path(path))


class TorchExport(Program):
    """A graph of PyTorch's core operators."""

    format = "torch"
    help = "torch.export's program, for torch.export.load"
    suffix = ".pt2"
    resizes_since = "2.9"  # 2.6 exports antialiased resizing, but as something else

    def check_file(self, interface: Interface) -> None:
        import torch

        super().check_file(interface)
        if interface.resize and torch.torch_version.TorchVersion(torch.__version__) < self.resizes_since:
            raise ArgumentError(
                f"torch resizes inside since torch {self.resizes_since}, found {torch.__version__}: expected images "
                "resized before, or a newer torch"
            )

    def write(self, deployed: "Deployed", images: "Tensor", interface: Interface, path: Path) -> None:
        import torch

        torch.export.save(exported_program(deployed, images, interface), path, extra_files={MARKER: ""})

    def open_program(self, path: Path, device: "torch.device", threads: int) -> TensorFunction:
        import torch

        return torch.export.load(path).module()


class AotInductor(Program):
    """Machine code for this processor or GPU, which needs no Python. Compiling takes half a minute and more."""

    engine = "inductor"
    format = "aotinductor"
    help = "AOTInductor's package of machine code for this kind of processor, from torch's compiler"
    suffix = ".pt2"
    devices = ("cpu", "cuda", "xpu")
    engine_dtypes = COMPUTE_DTYPES
    slow_to_build = True

    def check_file(self, interface: Interface) -> None:
        super().check_file(interface)
        if interface.resize:
            raise ArgumentError(
                "aotinductor takes minutes to compile antialiased resizing: expected images resized before, or another "
                "format"
            )

    def build_settings(self, device: "torch.device") -> dict[str, Any]:
        import torch

        # The compiler writes the number of threads into its loops.
        settings: dict[str, Any] = {"threads": torch.get_num_threads()}
        if device.type == "cuda":
            settings["gpu"] = [torch.cuda.get_device_name(device), *torch.cuda.get_device_capability(device)]
        return settings

    def write(self, deployed: "Deployed", images: "Tensor", interface: Interface, path: Path) -> None:
        import torch

        program = exported_program(deployed, images, interface)
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )
        except Exception as error:  # whatever the compiler stumbles over: no C++ compiler, no header
            raise EngineError(f"cannot compile here: {first_line(error)}: expected a C++ compiler") from error
        with zipfile.ZipFile(path, "a") as archive:
            top = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{top}/extra/{MARKER}", "")

    def open_program(self, path: Path, device: "torch.device", threads: int) -> TensorFunction:
        import torch

        return torch._inductor.aoti_load_package(str(path))


class TorchScript(Program):
    """TorchScript, which PyTorch keeps for those who have it in use."""

    format = "torchscript"
    help = "TorchScript, for torch.jit.load and libtorch; PyTorch itself now prefers torch.export"
    suffix = ".ts"

    def write(self, deployed: "Deployed", images: "Tensor", interface: Interface, path: Path) -> None:
        import torch

        torch.jit.save(torch.jit.freeze(torch.jit.script(deployed)), str(path), _extra_files={MARKER: ""})

    def open_program(self, path: Path, device: "torch.device", threads: int) -> TensorFunction:
        import torch

        return torch.jit.load(str(path), map_location=device)


def exported_program(deployed: "Deployed", images: "Tensor", interface: Interface) -> Any:
    """Return torch.export's program, with any batch, and any height and width if the interface takes them."""
    import torch

    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if interface.any_size:
        rows, columns = (1, 2) if interface.pixels == "nhwc" else (2, 3)
        # From 33: torch takes a size of 1 for special, and 32 pixels are one cell in the end.
        smallest = MIN_SIZE + 1
        axes |= {rows: torch.export.Dim("height", min=smallest), columns: torch.export.Dim("width", min=smallest)}
    return torch.export.export(deployed, (images,), dynamic_shapes=(axes,))
