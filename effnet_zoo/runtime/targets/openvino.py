"""OpenVINO, on the processor, and its own files. Running a file imports no torch."""

import dataclasses
import functools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_zoo.errors import ArgumentError, EngineError, WeightsError, first_line
from effnet_zoo.runtime.metadata import KEY, Interface, Metadata
from effnet_zoo.runtime.targets.target import ArrayFunction, Shape, Streams, Target, TensorFunction, on_tensors
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray

    from effnet_zoo.network.model import EfficientNet

MOST_COMPILED = 16
"""Largest number of shapes for which a compiled graph is kept: files for any size see as many as there are photos."""

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino(Target):
    """OpenVINO's own format: a graph and its weights in two files."""

    engine = "openvino"
    format = "openvino"
    help = "OpenVINO IR, an .xml and its .bin; float16 is of the stored weights"
    suffix = ".xml"
    companions = (".bin",)
    packages = ("openvino", "onnx")
    extra = "openvino"
    engine_dtypes = ("float32", "bfloat16")
    file_dtypes = ("float32", "float16")

    def check_engine(self, device: str, dtype: str) -> None:
        super().check_engine(device, dtype)
        if dtype == "bfloat16" and "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ArgumentError("engine openvino: this processor does not compute in bfloat16: expected float32")

    def check_file(self, interface: Interface) -> None:
        super().check_file(interface)
        if interface.resize:
            raise ArgumentError(
                "openvino reads no antialiased resizing from a graph: expected images resized before, or --format onnx"
            )

    def build(
        self, model: "EfficientNet", interface: Interface, preprocessing: Preprocessing | None, folder: Path
    ) -> Any:
        from effnet_zoo.runtime.graph import onnx_model

        # In float32: OpenVINO itself makes float16 of the weights, and bfloat16 of what it computes.
        proto = onnx_model(model, dataclasses.replace(interface, dtype="float32"), preprocessing)
        return openvino_core().read_model(proto.SerializeToString())

    def save(self, built: Any, path: Path, metadata: Metadata | None = None) -> None:
        import openvino

        if metadata:
            built.set_rt_info(metadata.to_json(), [KEY])
        half = metadata is not None and metadata.interface.dtype == "float16"
        openvino.save_model(built, str(path), compress_to_fp16=half)

    def declaration(self, path: Path) -> tuple[str | None, Shape, Shape]:
        """Return the metadata of a file as JSON, and the shapes of its images and outputs.

        Raise WeightsError if the runtime cannot read the file.
        """
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
        import numpy
        import openvino

        core = openvino_core()
        graph = core.read_model(str(file))
        lock = threading.Lock()  # a queue serves one batch at a time

        @functools.lru_cache(MOST_COMPILED)
        def queue_of(streams: Streams, image: tuple[int, ...]) -> Any:
            shaped = graph.clone()
            shaped.reshape([streams.images, *image])
            settings = {
                "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
                "NUM_STREAMS": streams.count,
                "INFERENCE_NUM_THREADS": streams.count * streams.threads,
            }
            requests = openvino.AsyncInferQueue(core.compile_model(shaped, "CPU", settings), streams.count)
            requests.set_callback(_keep_outputs)
            return requests

        def outputs_of(images: "NDArray[Any]") -> "NDArray[numpy.float32]":
            with lock:
                streams = Streams.for_batch(len(images), threads)
                requests = queue_of(streams, images.shape[1:])
                if len(images) == streams.images:  # handing it to another thread would only take time
                    outputs: NDArray[numpy.float32] = requests[0].infer([images], share_inputs=True)[0].copy()
                    return outputs
                kept: dict[int, NDArray[numpy.float32]] = {}
                for part in streams.parts(len(images)):
                    given = images[part]
                    if missing := streams.images - len(given):
                        given = numpy.concatenate([given, numpy.zeros((missing, *given.shape[1:]), given.dtype)])
                    requests.start_async([given], (kept, part), share_inputs=True)
                requests.wait_all()
                return numpy.concatenate([kept[start] for start in sorted(kept)])

        return outputs_of

    def load(self, path: Path, device: "torch.device", threads: int) -> TensorFunction:
        return on_tensors(self.open_session(path, threads))

    def load_engine(self, model: "EfficientNet", path: Path, *, threads: int, dtype: str) -> TensorFunction:
        return on_tensors(self.open_session(path, threads, dtype))


def _keep_outputs(request: Any, place: tuple[dict[int, Any], slice]) -> None:
    kept, part = place
    kept[part.start] = request.get_output_tensor(0).data[: part.stop - part.start].copy()


_cores: dict[int, Any] = {}
_cores_lock = threading.Lock()


def openvino_core() -> Any:
    """Return OpenVINO's core, one for a process. Raise EngineError if OpenVINO does not start.

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
