"""ONNX files, and ONNX Runtime, which runs them on the processor. Running a file imports no torch."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_zoo.errors import WeightsError, first_line
from effnet_zoo.runtime.metadata import KEY, Interface, Metadata
from effnet_zoo.runtime.targets.target import ArrayFunction, Shape, Streams, Target, TensorFunction, on_tensors
from effnet_zoo.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray

    from effnet_zoo.network.model import EfficientNet


class Onnx(Target):
    """ONNX, with short operator lists and padding inside each Conv."""

    engine = "onnxruntime"
    format = "onnx"
    help = "an ONNX graph of a dozen operators"
    suffix = ".onnx"
    packages = ("onnxruntime", "onnx")
    extra = "onnxruntime"
    file_dtypes = ("float32", "float16")

    def build(
        self, model: "EfficientNet", interface: Interface, preprocessing: Preprocessing | None, folder: Path
    ) -> Any:
        import onnx

        from effnet_zoo.runtime.graph import onnx_model

        proto = onnx_model(model, interface, preprocessing)
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
        """Return the metadata of a file as JSON, and the shapes of its images and outputs.

        Raise WeightsError if the runtime cannot read the file.
        """
        try:
            session = _session(path, _unoptimized())
        except Exception as error:  # the runtime's own kinds, which have no base
            raise WeightsError(f"{path}: not an ONNX file that ONNX Runtime reads: {first_line(error)}") from None
        images, outputs = (
            tuple(side if isinstance(side, int) else None for side in ends[0].shape)
            for ends in (session.get_inputs(), session.get_outputs())
        )
        return session.get_modelmeta().custom_metadata_map.get(KEY), images, outputs

    def open_session(self, file: Path | bytes, threads: int, *, optimized: bool = False) -> ArrayFunction:
        """Return a function that runs a file, or the content of one, which may be optimized for this processor."""
        import numpy
        import onnxruntime

        pool = ThreadPoolExecutor(threads, thread_name_prefix="effnet_zoo-onnxruntime")
        sessions: dict[int, Any] = {}
        lock = threading.Lock()

        def session(threads: int) -> Any:
            with lock:
                if threads not in sessions:
                    options = _unoptimized() if optimized else onnxruntime.SessionOptions()
                    options.intra_op_num_threads = threads
                    sessions[threads] = _session(file, options)
                return sessions[threads]

        name = session(1).get_inputs()[0].name  # so that a damaged file is found here

        def outputs_of(images: "NDArray[Any]") -> "NDArray[numpy.float32]":
            streams = Streams.for_batch(len(images), threads)
            one = session(streams.threads)  # one session serves any number of streams
            if streams.count == 1:
                outputs: NDArray[numpy.float32] = one.run(None, {name: images})[0]
                return outputs
            parts = list(streams.parts(len(images)))
            found: list[Any] = [None] * len(parts)
            left = iter(enumerate(parts))

            def stream(_: int) -> None:
                for number, part in left:
                    found[number] = one.run(None, {name: images[part]})[0]

            list(pool.map(stream, range(streams.count)))
            return numpy.concatenate(found)

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
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3  # it warns that the file is for this processor alone
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{prefix}file_name", path.with_suffix(".bin").name)
        options.add_session_config_entry(f"{prefix}min_size_in_bytes", "1024")
        _session(onnx_model(model, interface).SerializeToString(), options)

    def load_engine(self, model: "EfficientNet", path: Path, *, threads: int, dtype: str) -> TensorFunction:
        return on_tensors(self.open_session(path, threads, optimized=True))


def _session(file: Path | bytes, options: Any) -> Any:
    import onnxruntime

    source = file if isinstance(file, bytes) else str(file)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _unoptimized() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options
