"""ONNX Runtime and OpenVINO, which run an ONNX graph on the processor, and their files. Running a file needs no torch.

These files hold no program. A file of somebody else can be opened, and nothing in it is run as code.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from effnet_zoo.errors import ArgumentError, EngineError, WeightsError, first_line
from effnet_zoo.runtime.metadata import KEY, Interface, Metadata
from effnet_zoo.runtime.targets.target import ArrayFunction, Target, TensorFunction, on_tensors
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch

    from effnet_zoo.network.model import EfficientNet

Shape = tuple[int | None, ...]
"""Shape of a tensor that a graph declares, the batch first; None where any size is taken."""

MOST_IMAGES = 2
"""Images that a stream takes at a time, if there are enough. Weights are read once for both, and maps still fit into
the cache. Measured on B0 and V2-S with 1, 2 and 4 images."""

MOST_COMPILED = 16
"""Largest number of shapes for which OpenVINO keeps a compiled graph. Every photo may have a shape of its own."""

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
"""What OpenVINO calls the dtypes that it computes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """The number of streams that share a batch, of threads in each, and of images that a stream takes at a time.

    A runtime that puts all threads on one large batch moves every map through memory several times, and waits for its
    slowest thread at each layer. One thread an image keeps the maps in that core's cache and waits once, at the end.
    """

    count: int
    threads: int
    images: int

    @classmethod
    def for_batch(cls, batch: int, threads: int) -> "Streams":
        """Return the streams of a batch: one image gets all threads, a batch of as many images gets one thread each.

        The number of streams divides the number of threads, so that no thread is left over. There are at most two
        results for each divisor.
        """
        count = next(number for number in range(min(batch, threads), 0, -1) if threads % number == 0)
        images = MOST_IMAGES if batch >= MOST_IMAGES * count else 1
        return cls(count=count, threads=threads // count, images=images)

    def parts(self, batch: int) -> Iterator[slice]:
        """Yield the parts of a batch; the last may be smaller."""
        return (slice(start, min(start + self.images, batch)) for start in range(0, batch, self.images))

    def run(self, images: NDArray[Any], compute: Callable[[int, NDArray[Any]], Any], pool: Executor) -> NDArray[Any]:
        """Return the outputs of a batch. `compute` gets the number of a stream, and a part of the batch."""
        parts = list(self.parts(len(images)))
        found: list[Any] = [None] * len(parts)
        left = iter(enumerate(parts))

        def stream(number: int) -> None:
            for place, part in left:
                found[place] = compute(number, images[part])

        if self.count == 1:
            stream(0)
        else:
            list(pool.map(stream, range(self.count)))
        return numpy.concatenate(found)


class Onnx(Target):
    """ONNX, with short operator lists and padding inside each Conv, and ONNX Runtime."""

    engine = "onnxruntime"
    format = "onnx"
    suffix = ".onnx"
    packages = ("onnxruntime", "onnx")
    extra = "onnxruntime"
    file_dtypes = ("float32", "float16")

    def build(self, model: "EfficientNet", interface: Interface, how: Preprocessing | None, folder: Path) -> Any:
        import onnx

        from effnet_zoo.runtime.graph import onnx_model

        proto = onnx_model(model, interface, how)
        onnx.checker.check_model(proto, full_check=True)
        return proto

    def save(self, built: Any, path: Path, metadata: Metadata | None = None) -> None:
        if metadata:
            from onnx import helper

            # Licence and origin also have names of their own, which other readers look for.
            plain = {key: metadata.provenance[key] for key in ("license", "origin_url") if metadata.provenance.get(key)}
            helper.set_model_props(built, {KEY: metadata.to_json(), **plain})
        path.write_bytes(built.SerializeToString())

    def declaration(self, path: Path) -> tuple[str | None, Shape, Shape]:
        """Return the metadata of a file as JSON, and the shapes of its images and outputs, or raise WeightsError."""
        try:
            session = _session(path, optimize=False)
        except Exception as error:  # the runtime's own kinds, which have no base
            raise WeightsError(f"{path}: not an ONNX file that ONNX Runtime reads: {first_line(error)}") from None
        images, outputs = (
            tuple(side if isinstance(side, int) else None for side in ends[0].shape)
            for ends in (session.get_inputs(), session.get_outputs())
        )
        return session.get_modelmeta().custom_metadata_map.get(KEY), images, outputs

    def open_session(self, file: Path | bytes, threads: int, *, optimized: bool = False) -> ArrayFunction:
        """Return a function that runs a file, or the content of one, which may be optimized for this processor."""
        pool = ThreadPoolExecutor(threads, thread_name_prefix="effnet_zoo-onnxruntime")
        made = functools.cache(functools.partial(_session, file, optimize=not optimized))
        lock = threading.Lock()  # a session holds the weights: threads that come first together share one

        def session(threads: int) -> Any:
            with lock:
                return made(threads)

        name = session(1).get_inputs()[0].name  # so that a damaged file is found here

        def outputs_of(images: NDArray[Any]) -> NDArray[numpy.float32]:
            streams = Streams.for_batch(len(images), threads)
            one = session(streams.threads)  # one session serves any number of streams
            if streams.count == 1:
                return one.run(None, {name: images})[0]
            return streams.run(images, lambda _, part: one.run(None, {name: part})[0], pool)

        return outputs_of

    def load(self, path: Path, device: "torch.device", threads: int) -> TensorFunction:
        return on_tensors(self.open_session(path, threads))

    def build_engine(self, model: "EfficientNet", interface: Interface, path: Path) -> None:
        """Write the graph as ONNX Runtime runs it on this processor, and its weights into a ``.bin`` beside it.

        Sessions map the ``.bin`` into memory. The weights of a B5, 122 MB, are there once, for any number of sessions
        and processes. Without it each session took 140 to 270 MB of its own.
        """
        import onnxruntime

        from effnet_zoo.runtime.graph import onnx_model

        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3  # it warns that the file is for this processor alone
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{prefix}file_name", path.with_suffix(".bin").name)
        options.add_session_config_entry(f"{prefix}min_size_in_bytes", "1024")
        _session(onnx_model(model, interface).SerializeToString(), 1, options=options)

    def load_engine(self, model: "EfficientNet", path: Path, *, threads: int, dtype: str) -> TensorFunction:
        return on_tensors(self.open_session(path, threads, optimized=True))


def _session(file: Path | bytes, threads: int = 0, *, optimize: bool = True, options: Any = None) -> Any:
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = file if isinstance(file, bytes) else str(file)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class OpenVino(Target):
    """OpenVINO, and its own format: a graph and its weights in two files. In float16, only the file's weights are."""

    engine = "openvino"
    format = "openvino"
    suffix = ".xml"
    companions = (".bin",)
    packages = ("openvino", "onnx")
    extra = "openvino"
    engine_dtypes = tuple(PRECISIONS)
    file_dtypes = ("float32", "float16")
    cannot_resize = "reads no antialiased resizing from a graph"

    def check_engine(self, device: str, dtype: str) -> None:
        super().check_engine(device, dtype)
        if dtype == "bfloat16" and "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ArgumentError("engine openvino: this processor does not compute in bfloat16: expected float32")

    def build(self, model: "EfficientNet", interface: Interface, how: Preprocessing | None, folder: Path) -> Any:
        from effnet_zoo.runtime.graph import onnx_model

        # In float32: OpenVINO itself makes float16 of the weights, and bfloat16 of what it computes.
        proto = onnx_model(model, dataclasses.replace(interface, dtype="float32"), how)
        return openvino_core().read_model(proto.SerializeToString())

    def save(self, built: Any, path: Path, metadata: Metadata | None = None) -> None:
        import openvino

        if metadata:
            built.set_rt_info(metadata.to_json(), [KEY])
        half = metadata is not None and metadata.interface.dtype == "float16"
        openvino.save_model(built, str(path), compress_to_fp16=half)

    def declaration(self, path: Path) -> tuple[str | None, Shape, Shape]:
        """Return the metadata of a file as JSON, and the shapes of its images and outputs, or raise WeightsError."""
        try:
            graph = openvino_core().read_model(str(path))
        except RuntimeError as error:
            raise WeightsError(f"{path}: not an OpenVINO IR that OpenVINO reads: {first_line(error)}") from None
        images, outputs = (
            tuple(side.get_length() if side.is_static else None for side in ends[0].partial_shape)
            for ends in (graph.inputs, graph.outputs)
        )
        return graph.get_rt_info([KEY]).astype(str) if graph.has_rt_info([KEY]) else None, images, outputs

    def open_session(self, file: Path, threads: int, dtype: str = "float32") -> ArrayFunction:
        """Return a function that runs an OpenVINO IR or an ONNX file, and computes in a key of `PRECISIONS`.

        OpenVINO compiles for one shape, so a last part that is smaller is filled up with zeros. Compiled graphs are
        kept in memory for the last `MOST_COMPILED` shapes. They are not written to disk: reading one again saves
        0.06 s of a B0's start, and writing it takes as long.
        """
        core, pool = openvino_core(), ThreadPoolExecutor(threads, thread_name_prefix="effnet_zoo-openvino")
        graph = core.read_model(str(file))
        lock = threading.Lock()  # a request serves one batch at a time

        @functools.lru_cache(MOST_COMPILED)
        def requests_for(streams: Streams, image: tuple[int, ...]) -> list[Any]:
            shaped = graph.clone()
            shaped.reshape([streams.images, *image])
            settings = {
                "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
                "NUM_STREAMS": streams.count,
                "INFERENCE_NUM_THREADS": streams.count * streams.threads,
            }
            compiled = core.compile_model(shaped, "CPU", settings)
            return [compiled.create_infer_request() for _ in range(streams.count)]

        def outputs_of(images: NDArray[Any]) -> NDArray[numpy.float32]:
            streams = Streams.for_batch(len(images), threads)

            def compute(number: int, part: NDArray[Any]) -> NDArray[numpy.float32]:
                missing = streams.images - len(part)
                given = numpy.pad(part, [(0, missing), *[(0, 0)] * (part.ndim - 1)]) if missing else part
                request = requests[number]
                if streams.count == 1:  # handing it to another thread would only take time
                    request.infer([given], share_inputs=True)
                else:
                    request.start_async([given], share_inputs=True)
                    request.wait()
                return request.get_output_tensor(0).data[: len(part)].copy()

            with lock:
                requests = requests_for(streams, images.shape[1:])
                return streams.run(images, compute, pool)

        return outputs_of

    def load(self, path: Path, device: "torch.device", threads: int) -> TensorFunction:
        return on_tensors(self.open_session(path, threads))

    def load_engine(self, model: "EfficientNet", path: Path, *, threads: int, dtype: str) -> TensorFunction:
        return on_tensors(self.open_session(path, threads, dtype))


_cores: dict[int, Any] = {}
_cores_lock = threading.Lock()


def openvino_core() -> Any:
    """Return OpenVINO's core, one for a process, or raise EngineError if OpenVINO does not start.

    Each core installs a signal stack of its own. Freeing two cores in turn leaves a freed stack behind, on which the
    next signal that Python handles (a child that ends, Ctrl-C) crashes. A forked process has a core of its own, because
    the threads of its parent's are not there.
    """
    with _cores_lock:
        process = os.getpid()
        if process not in _cores:
            try:
                import openvino

                _cores[process] = openvino.Core()
            except (ImportError, RuntimeError, OSError) as error:
                raise EngineError(f"openvino does not start: {first_line(error)}") from error
        return _cores[process]


ONNX, OPENVINO = Onnx(), OpenVino()

READABLE: dict[str, Onnx | OpenVino] = {".onnx": ONNX, ".xml": OPENVINO}
"""By suffix, the files that can be opened safely. PyTorch's files are programs, which run code when they are loaded."""

ONNX_RUNTIMES: dict[str, Onnx | OpenVino] = {"onnxruntime": ONNX, "openvino": OPENVINO}
"""By name, the engines that run ONNX files."""
