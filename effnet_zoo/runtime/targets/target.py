"""What a target is: a runtime that runs a model as an engine, from a file that users export, or both."""

import importlib
import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from effnet_zoo.atomic_io import scratch_beside
from effnet_zoo.errors import ArgumentError, MissingExtraError
from effnet_zoo.runtime.interface import COMPUTE_DTYPES, Interface
from effnet_zoo.runtime.metadata import Metadata
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from effnet_zoo.network.model import EfficientNet

ArrayFunction: TypeAlias = "Callable[[NDArray[Any]], NDArray[numpy.float32]]"
"""Images of one size, as the graph takes them, n free, to float32 outputs (n, outputs). Any thread may call it."""

TensorFunction: TypeAlias = "Callable[[Tensor], Tensor]"
"""The same with tensors. Outputs are on the images' device or on the processor."""

Shape: TypeAlias = tuple[int | None, ...]
"""Shape of a tensor that a graph declares, the batch first; None where any size is taken."""


class Target(ABC):
    """One way to run a model.

    Attributes:
        engine: Its name as an engine, for `effnet_zoo.engine`; empty if it is none.
        packages: Modules that it needs beyond this package's own.
        extra: The extra of this package that installs them.
        devices: Kinds of device that it runs on.
        engine_dtypes: What its engine computes in.
        suffix: Of its file; empty if it has no file.
        slow_to_build: Whether building takes so long that the engine ``auto`` leaves it out.
    """

    engine: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    engine_dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    suffix: ClassVar[str] = ""
    slow_to_build: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.engine

    def check_installed(self) -> None:
        """Check that the packages are there.

        Raises:
            MissingExtraError: If one is missing.
        """
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(
                    f"{self.name} needs {package}, which is not installed: pip install 'effnet-zoo[{self.extra}]'"
                )

    def check_engine(self, device: str, dtype: str) -> None:
        """Check that it can run a model here as an engine.

        Args:
            device: Kind of the model's device, for example ``cuda``.
            dtype: One of `COMPUTE_DTYPES`.

        Raises:
            MissingExtraError: If a package is missing.
            ArgumentError: If it does not run on this device or compute in this dtype.
            EngineError: If a package does not start.
        """
        if device not in self.devices:
            raise ArgumentError(
                f"engine {self.engine} runs on {' or '.join(self.devices)}, and the model is on {device}"
            )
        if dtype not in self.engine_dtypes:
            raise ArgumentError(f"engine {self.engine} has no {dtype}: expected {' or '.join(self.engine_dtypes)}")
        self.check_installed()

    def versions(self) -> dict[str, str]:
        """Return the version of each of its packages."""
        return {package: package_version(package) for package in self.packages}

    def build_settings(self, device: "torch.device") -> dict[str, Any]:  # noqa: ARG002
        """Return what an engine's file and speed depend on besides model, processor, torch and this package."""
        return self.versions()

    def build_engine(self, model: "EfficientNet", interface: Interface, path: Path) -> None:  # noqa: B027
        """Write the file that `load_engine` reads, if the target has one, for this machine, into an empty folder."""

    @abstractmethod
    def load_engine(self, model: "EfficientNet", path: Path, *, threads: int, dtype: str) -> "TensorFunction":
        """Return a function of float32 images that runs the file of `build_engine`, or the model if there is none."""


class FileTarget(Target):
    """A way to run a model from a file, which `effnet_zoo.export` writes for users.

    Attributes:
        format: Its name as a format.
        help: What it is, in words.
        companions: Suffixes of files that belong to the file and lie beside it.
        file_dtypes: What its files compute in.
    """

    format: ClassVar[str]
    help: ClassVar[str]
    companions: ClassVar[tuple[str, ...]] = ()
    file_dtypes: ClassVar[tuple[str, ...]] = COMPUTE_DTYPES

    @property
    def name(self) -> str:
        return self.format

    def check_file(self, interface: Interface) -> None:
        """Check that a file with this interface can be made here.

        Raises:
            MissingExtraError: If a package is missing.
            ArgumentError: If the format does not have this dtype or take these images.
        """
        if interface.dtype not in self.file_dtypes:
            raise ArgumentError(f"{self.format} has no {interface.dtype}: expected {' or '.join(self.file_dtypes)}")
        self.check_installed()

    @abstractmethod
    def build(
        self, model: "EfficientNet", interface: Interface, preprocessing: Preprocessing | None, folder: Path
    ) -> Any:
        """Return a model in this target's form, from which files can be saved.

        Args:
            model: In eval mode; it stays as it is.
            interface: What goes in and comes out.
            preprocessing: How the checkpoint's images are prepared; None if unknown.
            folder: An empty folder that exists as long as files are saved.
        """

    @abstractmethod
    def save(self, built: Any, path: Path, metadata: Metadata | None = None) -> None:
        """Write what `build` returned to a path with the target's suffix, with metadata if there are any."""

    @abstractmethod
    def load(self, path: Path, device: "torch.device", threads: int) -> "TensorFunction":
        """Return a function that computes the outputs of a file.

        Args:
            path: The file.
            device: Where the model was that the file was made of. The file runs there if it can.
            threads: How many threads to compute with.
        """

    def build_engine(self, model: "EfficientNet", interface: Interface, path: Path) -> None:
        with scratch_beside(path.parent) as work:
            self.save(self.build(model, interface, None, work), path)

    def load_engine(self, model: "EfficientNet", path: Path, *, threads: int, dtype: str) -> "TensorFunction":  # noqa: ARG002
        return self.load(path, model.conv_stem.weight.device, threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a file says before it is run.

    Attributes:
        metadata: Its metadata, as JSON; None if it has none.
        images: The shape of its images.
        outputs: The shape of its outputs.
    """

    metadata: str | None
    images: Shape
    outputs: Shape


class DataTarget(FileTarget):
    """A target whose files are data, and which needs no torch to run them.

    Somebody else's file can be opened without running a program that is in it.
    """

    @abstractmethod
    def declaration(self, path: Path) -> Declaration:
        """Return what a file says of itself.

        Raises:
            WeightsError: If the runtime cannot read it.
        """

    @abstractmethod
    def open_session(self, path: Path, threads: int, dtype: str = "float32") -> ArrayFunction:
        """Return a function that computes the outputs of a file.

        Args:
            path: The file.
            threads: How many threads to compute with.
            dtype: What to compute in, if the runtime can choose.
        """

    def load(self, path: Path, device: "torch.device", threads: int) -> "TensorFunction":  # noqa: ARG002
        return on_tensors(self.open_session(path, threads))


def on_tensors(function: ArrayFunction) -> "TensorFunction":
    """Return a function of tensors that calls a function of arrays."""
    import torch

    def on_processor(images: "Tensor") -> "Tensor":
        return torch.from_numpy(function(images.detach().cpu().contiguous().numpy()))

    return on_processor


def package_version(module: str) -> str:
    """Return the version of the package that provides a module.

    Several distributions provide ``onnxruntime``: onnxruntime-gpu, onnxruntime-openvino and others.
    """
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(module), "__version__", "unknown"))
