"""What a target is: a runtime that runs a model as an engine, from a file that users export, or both."""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy
from numpy.typing import NDArray

from effnet_zoo.atomic_io import scratch_beside
from effnet_zoo.errors import ArgumentError, EffnetZooError, EngineError, MissingExtraError, first_line
from effnet_zoo.runtime.metadata import COMPUTE_DTYPES, Interface, Metadata
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from effnet_zoo.network.model import EfficientNet

ArrayFunction = Callable[[NDArray[Any]], NDArray[numpy.float32]]
"""A function from n images of one size, as the graph takes them, to float32 outputs (n, outputs), for all threads."""

TensorFunction: TypeAlias = "Callable[[Tensor], Tensor]"
"""The same with tensors. Outputs are on the images' device, or on the processor."""


class Target:
    """One way to run a model: as an engine, from a file that `effnet_zoo.export` writes, or both."""

    engine = ""  # its name for `effnet_zoo.engine`; empty if it is no engine
    format = ""  # its name for `effnet_zoo.export`; empty if it writes no files for users
    suffix = ""  # suffix of its file; empty if it has no file
    companions: tuple[str, ...] = ()  # suffixes of files that belong to the file and lie beside it
    packages: tuple[str, ...] = ()  # modules that it needs beyond this package's own
    extra = ""  # the extra of this package that installs them
    devices: tuple[str, ...] = ("cpu",)  # kinds of device that it runs on
    engine_dtypes: tuple[str, ...] = ("float32",)  # what its engine computes in
    file_dtypes: tuple[str, ...] = COMPUTE_DTYPES  # what its files compute in
    cannot_resize = ""  # why its files cannot resize images inside; empty if they can
    slow_to_build = False  # whether building takes so long that the engine ``auto`` leaves it out

    def check_installed(self) -> None:
        """Raise MissingExtraError if a package is not installed."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(
                    f"{self.format} needs {package}, which is not installed: pip install 'effnet-zoo[{self.extra}]'"
                )

    def check_engine(self, device: str, dtype: str) -> None:
        """Raise an error if it cannot run a model here as an engine, on this kind of device and in this dtype."""
        if device not in self.devices:
            raise ArgumentError(
                f"engine {self.engine} runs on {' or '.join(self.devices)}, and the model is on {device}"
            )
        if dtype not in self.engine_dtypes:
            raise ArgumentError(f"engine {self.engine} has no {dtype}: expected {' or '.join(self.engine_dtypes)}")
        self.check_installed()

    def check_file(self, interface: Interface) -> None:
        """Raise an error if a file with this interface cannot be made here."""
        if interface.dtype not in self.file_dtypes:
            raise ArgumentError(f"{self.format} has no {interface.dtype}: expected {' or '.join(self.file_dtypes)}")
        if interface.resize and self.cannot_resize:
            raise ArgumentError(
                f"{self.format} {self.cannot_resize}: expected images resized before, or another format, such as onnx"
            )
        self.check_installed()

    def versions(self) -> dict[str, str]:
        """Return the version of each of its packages."""
        return {package: package_version(package) for package in self.packages}

    def build_settings(self, device: "torch.device") -> dict[str, Any]:
        """Return what an engine's file and speed depend on besides model, processor, torch and this package."""
        return self.versions()

    def build(self, model: "EfficientNet", interface: Interface, how: Preprocessing | None, folder: Path) -> Any:
        """Return what `save` saves, of a model in eval mode. `folder` is empty, and exists until the last `save`."""
        raise NotImplementedError

    def save(self, built: Any, path: Path, metadata: Metadata | None = None) -> None:
        """Write what `build` returned to a path with the target's suffix, with metadata if there are any."""
        raise NotImplementedError

    def load(self, path: Path, device: "torch.device", threads: int) -> "TensorFunction":
        """Return a function that computes a file's outputs, on the device of its model if the target runs there."""
        raise NotImplementedError

    def build_engine(self, model: "EfficientNet", interface: Interface, path: Path) -> None:
        """Write the file that `load_engine` reads, if the target has one, for this machine, into an empty folder."""
        with scratch_beside(path.parent) as work:
            self.save(self.build(model, interface, None, work), path)

    def load_engine(self, model: "EfficientNet", path: Path, *, threads: int, dtype: str) -> "TensorFunction":
        """Return a function of float32 images that runs the file of `build_engine`, or the model if there is none."""
        return self.load(path, model.conv_stem.weight.device, threads)


def on_tensors(function: ArrayFunction) -> "TensorFunction":
    """Return a function of tensors that calls a function of arrays."""
    import torch

    def on_processor(images: "Tensor") -> "Tensor":
        return torch.from_numpy(function(images.detach().cpu().contiguous().numpy()))

    return on_processor


@contextmanager
def runtime_errors(what: str, advice: str) -> Iterator[None]:
    """Turn an error of a runtime into an `EngineError`. Runtimes raise errors of many classes."""
    try:
        yield
    except (EffnetZooError, MemoryError):
        raise
    except Exception as error:
        raise EngineError(f"{what}: {first_line(error)}: {advice}") from error


def package_version(module: str) -> str:
    """Return the version of the package that provides a module.

    Several distributions provide ``onnxruntime``: onnxruntime-gpu, onnxruntime-openvino and others.
    """
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(module), "__version__", "unknown"))
