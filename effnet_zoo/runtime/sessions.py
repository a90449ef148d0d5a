"""What runs a graph on the processor: ONNX Runtime and OpenVINO, each with a batch shared out to its threads."""

import functools
import importlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from effnet_zoo.errors import EngineError, first_line
from effnet_zoo.runtime.streams import Plan


def check_process(process: int, what: str) -> None:
    """Checks that what was made in a process is used there: of its threads a forked one has none.

    Raises:
        EngineError: If not.
    """
    if process != os.getpid():
        raise EngineError(
            f"{what} was opened in process {process}, and this one was forked from it, without its threads: open it "
            "here, or start processes by 'spawn'"
        )


Run = Callable[[Tensor], Tensor]
"""Images of one size, as the graph takes them, n free, to float32 outputs (n, outputs); any thread may call it."""

COMPILED = 16
"""Shapes for which OpenVINO keeps a graph at most: files for any size see as many as there are photos."""


def package_version(module: str) -> str:
    """Returns the version of the package that provides a module.

    Several distributions provide ``onnxruntime``: onnxruntime-gpu, onnxruntime-openvino and others.
    """
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(module), "__version__", "unknown"))


def onnxruntime_run(file: Path | bytes, threads: int, *, optimized: bool = False) -> Run:
    """Returns what runs an ONNX file in ONNX Runtime.

    Args:
        file: The file, or its content.
        threads: How many to compute with.
        optimized: Whether `onnxruntime_optimized` wrote the file.
    """
    runtime = importlib.import_module("onnxruntime")
    pool = ThreadPoolExecutor(threads, thread_name_prefix="effnet_zoo-onnxruntime")
    sessions: dict[int, Any] = {}
    lock = threading.Lock()

    def session(threads: int) -> Any:
        with lock:
            if threads not in sessions:
                options = runtime.SessionOptions()
                options.intra_op_num_threads = threads
                if optimized:
                    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
                source = file if isinstance(file, bytes) else str(file)
                sessions[threads] = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            return sessions[threads]

    name = session(1).get_inputs()[0].name  # so that a damaged file is found here

    def run(images: Tensor) -> Tensor:
        plan = Plan.of(len(images), threads)
        pixels, one = _pixels(images), session(plan.threads)  # one serves any number of streams
        if plan.streams == 1:
            return torch.from_numpy(one.run(None, {name: pixels})[0])
        parts = list(plan.chunks(len(images)))
        outputs: list[Any] = [None] * len(parts)
        left = iter(enumerate(parts))

        def stream(_: int) -> None:
            for number, part in left:
                outputs[number] = one.run(None, {name: pixels[part]})[0]

        list(pool.map(stream, range(plan.streams)))
        return torch.from_numpy(numpy.concatenate(outputs))

    return run


def onnxruntime_optimized(graph: bytes, path: Path) -> None:
    """Writes an ONNX graph as ONNX Runtime runs it on this processor, and its weights into a ``.bin`` beside it.

    Sessions map that file into memory: the weights of a B5, 122 MB, are there once, for any number of sessions and
    processes, where each session took 140 to 270 MB of its own.
    """
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # it warns that the file is for this processor alone
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", path.with_suffix(".bin").name
    )
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def openvino_run(file: Path, threads: int, dtype: str = "float32") -> Run:
    """Returns what runs an OpenVINO IR or an ONNX file in OpenVINO.

    It compiles for one shape, so a last part that is smaller is filled up with zeros. What was compiled is kept for the
    last `COMPILED` shapes and is not written to disk: reading it again saves 0.06 s of a B0's start, and writing it
    takes as long.

    Args:
        file: The ``.xml``, with its ``.bin`` beside it, or the ``.onnx``.
        threads: How many to compute with.
        dtype: What to compute in: ``float32`` or ``bfloat16``.
    """
    openvino, core = importlib.import_module("openvino"), openvino_core()
    graph = core.read_model(str(file))
    lock = threading.Lock()  # a queue serves one batch at a time

    @functools.lru_cache(COMPILED)
    def queue(plan: Plan, image: tuple[int, ...]) -> Any:
        shaped = graph.clone()
        shaped.reshape([plan.chunk, *image])
        settings = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
            "NUM_STREAMS": plan.streams,
            "INFERENCE_NUM_THREADS": plan.streams * plan.threads,
        }
        requests = openvino.AsyncInferQueue(core.compile_model(shaped, "CPU", settings), plan.streams)
        requests.set_callback(_keep)
        return requests

    def run(images: Tensor) -> Tensor:
        with lock:
            return computed(images)

    def computed(images: Tensor) -> Tensor:
        plan = Plan.of(len(images), threads)
        pixels, requests = _pixels(images), queue(plan, tuple(images.shape[1:]))
        if len(images) == plan.chunk:  # handing it to another thread would only take time
            return torch.from_numpy(requests[0].infer([pixels], share_inputs=True)[0].copy())
        kept: list[Any] = []
        for part in plan.chunks(len(images)):
            given = pixels[part]
            if missing := plan.chunk - len(given):
                given = numpy.concatenate([given, numpy.zeros((missing, *given.shape[1:]), given.dtype)])
            requests.start_async([given], (kept, part), share_inputs=True)
        requests.wait_all()
        kept.sort(key=lambda one: one[0])
        return torch.from_numpy(numpy.concatenate([outputs for _, outputs in kept]))

    return run


def _pixels(images: Tensor) -> Any:
    return images.detach().cpu().contiguous().numpy()


RUNTIMES: dict[str, Callable[[Path, int], Run]] = {"onnxruntime": onnxruntime_run, "openvino": openvino_run}
"""By the name of the package that each needs."""


def _keep(request: Any, place: tuple[list[Any], slice]) -> None:
    kept, part = place
    kept.append((part.start, request.get_output_tensor(0).data[: part.stop - part.start].copy()))


_cores: dict[int, Any] = {}
_cores_lock = threading.Lock()


def openvino_core() -> Any:
    """Returns OpenVINO's core, one for a process.

    Each installs a signal stack of its own, and freeing two in turn leaves a freed one behind, on which the next signal
    that Python handles, of a child that ends or of Ctrl-C, crashes. A forked process has a core of its own: the threads
    of its parent's are not there.

    Raises:
        EngineError: If OpenVINO does not start.
    """
    with _cores_lock:
        process = os.getpid()
        if process not in _cores:
            try:
                _cores[process] = importlib.import_module("openvino").Core()
            except (ImportError, RuntimeError, OSError) as error:
                raise EngineError(f"openvino does not start: {first_line(error)}") from error
        return _cores[process]


def openvino_model(proto: Any) -> Any:
    """An ONNX graph as OpenVINO has it.

    Raises:
        EngineError: If OpenVINO has no translation of a node.
    """
    try:
        return openvino_core().read_model(proto.SerializeToString())
    except RuntimeError as error:
        raise EngineError(f"openvino does not take the graph: {first_line(error)}") from error
