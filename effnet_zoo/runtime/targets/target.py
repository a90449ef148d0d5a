"""What a target is: a runtime that runs a model as an engine, from a file that users export, or both."""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from effnet_zoo.atomic_io import scratch_beside
from effnet_zoo.errors import ArgumentError, EffnetZooError, EngineError, MissingExtraError, first_line
from effnet_zoo.runtime.metadata import COMPUTE_DTYPES, Interface, Metadata
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

MOST_IMAGES = 2
"""Images that a stream takes at a time, if there are enough. Weights are read once for both, and maps still fit into
the cache. Measured on B0 and V2-S with 1, 2 and 4 images."""


class Target:
    """One way to run a model: as an engine, from a file that `effnet_zoo.export` writes, or both.

    Attributes:
        engine: Its name for `effnet_zoo.engine`; empty if it is no engine.
        format: Its name for `effnet_zoo.export`; empty if it writes no files for users.
        help: What its file is, in words.
        suffix: Of its file; empty if it has no file.
        companions: Suffixes of files that belong to the file and lie beside it.
        packages: Modules that it needs beyond this package's own.
        extra: The extra of this package that installs them.
        devices: Kinds of device that it runs on.
        engine_dtypes: What its engine computes in.
        file_dtypes: What its files compute in.
        slow_to_build: Whether building takes so long that the engine ``auto`` leaves it out.
    """

    engine: str = ""
    format: str = ""
    help: str = ""
    suffix: str = ""
    companions: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    extra: str = ""
    devices: tuple[str, ...] = ("cpu",)
    engine_dtypes: tuple[str, ...] = ("float32",)
    file_dtypes: tuple[str, ...] = COMPUTE_DTYPES
    slow_to_build: bool = False

    def check_installed(self) -> None:
        """Raise MissingExtraError if a package is not installed."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(
                    f"{self.format} needs {package}, which is not installed: pip install 'effnet-zoo[{self.extra}]'"
                )

    def check_engine(self, device: str, dtype: str) -> None:
        """Check that it can run a model on this kind of device here as an engine, and compute in this dtype.

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

    def check_file(self, interface: Interface) -> None:
        """Check that a file with this interface can be made here.

        Raises:
            MissingExtraError: If a package is missing.
            ArgumentError: If the format does not have this dtype or take these images.
        """
        if interface.dtype not in self.file_dtypes:
            raise ArgumentError(f"{self.format} has no {interface.dtype}: expected {' or '.join(self.file_dtypes)}")
        self.check_installed()

    def versions(self) -> dict[str, str]:
        """Return the version of each of its packages."""
        return {package: package_version(package) for package in self.packages}

    def build_settings(self, device: "torch.device") -> dict[str, Any]:
        """Return what an engine's file and speed depend on besides model, processor, torch and this package."""
        return self.versions()

    def build(
        self, model: "EfficientNet", interface: Interface, preprocessing: Preprocessing | None, folder: Path
    ) -> Any:
        """Return a model in eval mode in this target's form, from which files can be saved; the model stays as it is.

        `folder` is an empty folder that exists as long as files are saved.
        """
        raise NotImplementedError

    def save(self, built: Any, path: Path, metadata: Metadata | None = None) -> None:
        """Write what `build` returned to a path with the target's suffix, with metadata if there are any."""
        raise NotImplementedError

    def load(self, path: Path, device: "torch.device", threads: int) -> "TensorFunction":
        """Return a function that computes the outputs of a file.

        It runs with so many threads, on the device of the model that the file was made of if it can.
        """
        raise NotImplementedError

    def build_engine(self, model: "EfficientNet", interface: Interface, path: Path) -> None:
        """Write the file that `load_engine` reads, if the target has one, for this machine, into an empty folder."""
        with scratch_beside(path.parent) as work:
            self.save(self.build(model, interface, None, work), path)

    def load_engine(self, model: "EfficientNet", path: Path, *, threads: int, dtype: str) -> "TensorFunction":
        """Return a function of float32 images that runs the file of `build_engine`, or the model if there is none."""
        return self.load(path, model.conv_stem.weight.device, threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """How a batch is shared out to threads: so many streams side by side, threads for each, and images at a time.

    A runtime that puts all threads on one large batch moves every map through memory several times, and waits for its
    slowest thread at each layer. One thread an image keeps the maps in that core's cache and waits once, at the end.
    """

    count: int
    threads: int
    images: int

    @classmethod
    def for_batch(cls, batch: int, threads: int) -> "Streams":
        """Return the streams of a batch: one image gets all threads, a batch of as many images gets one thread each.

        The number of streams divides the number of threads. So no thread is left over, and there are at most two
        results for each divisor, whatever batches come.
        """
        count = next(number for number in range(min(batch, threads), 0, -1) if threads % number == 0)
        images = MOST_IMAGES if batch >= MOST_IMAGES * count else 1
        return cls(count=count, threads=threads // count, images=images)

    def parts(self, batch: int) -> Iterator[slice]:
        """Yield the parts of a batch; the last may be smaller."""
        return (slice(start, min(start + self.images, batch)) for start in range(0, batch, self.images))


def on_tensors(function: ArrayFunction) -> "TensorFunction":
    """Return a function of tensors that calls a function of arrays."""
    import torch

    def on_processor(images: "Tensor") -> "Tensor":
        return torch.from_numpy(function(images.detach().cpu().contiguous().numpy()))

    return on_processor


@contextmanager
def runtime_errors(what: str, advice: str) -> Iterator[None]:
    """Turn what a runtime raises into an `EngineError`: its kinds of errors are its own, and nobody can list them."""
    try:
        yield
    except EffnetZooError:
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
