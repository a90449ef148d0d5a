"""What runs a graph on the processor: ONNX Runtime and OpenVINO, each with a batch shared out to its threads."""

import functools
import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from effnet_zoo.errors import EngineError, first_line
from effnet_zoo.graphs.streams import Plan

Run = Callable[[Tensor], Tensor]
"""Images of one size, as the graph takes them, n free, to float32 outputs (n, outputs)."""


def onnxruntime_run(file: Path | bytes, threads: int) -> Run:
    """An ONNX file, or what stands in one, in ONNX Runtime."""
    runtime = importlib.import_module("onnxruntime")
    pool = ThreadPoolExecutor(threads, thread_name_prefix="effnet_zoo-onnxruntime")

    @functools.cache
    def session(threads: int) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        source = file if isinstance(file, bytes) else str(file)
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    name = session(1).get_inputs()[0].name  # so that a damaged file is found here

    def run(images: Tensor) -> Tensor:
        plan = Plan.of(len(images), threads)
        pixels, one = images.contiguous().numpy(), session(plan.threads)  # one serves any number of streams
        if plan.streams == 1:
            return torch.from_numpy(one.run(None, {name: pixels})[0])
        parts = pool.map(lambda part: one.run(None, {name: pixels[part]})[0], plan.chunks(len(images)))
        return torch.from_numpy(numpy.concatenate(list(parts)))

    return run


def openvino_run(file: Path, threads: int, dtype: str = "float32", compiled: Path | None = None) -> Run:
    """An OpenVINO IR or an ONNX file in OpenVINO.

    It compiles for one shape, so a last part that is smaller is filled up with zeros.

    Args:
        file: The ``.xml``, with its ``.bin`` beside it, or the ``.onnx``.
        threads: How many to compute with.
        dtype: What to compute in: ``float32`` or ``bfloat16``.
        compiled: Where to keep what was compiled.
    """
    openvino, core = importlib.import_module("openvino"), openvino_core()
    graph = core.read_model(str(file))

    @functools.cache
    def queue(plan: Plan, image: tuple[int, ...]) -> Any:
        shaped = graph.clone()
        shaped.reshape([plan.chunk, *image])
        settings = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
            "NUM_STREAMS": plan.streams,
            "INFERENCE_NUM_THREADS": plan.streams * plan.threads,
        }
        if compiled is not None:
            settings["CACHE_DIR"] = str(compiled)
        requests = openvino.AsyncInferQueue(core.compile_model(shaped, "CPU", settings), plan.streams)
        requests.set_callback(_keep)
        return requests

    def run(images: Tensor) -> Tensor:
        plan = Plan.of(len(images), threads)
        pixels, requests = images.contiguous().numpy(), queue(plan, tuple(images.shape[1:]))
        if len(images) == plan.chunk:  # handing it to another thread would only take time
            return torch.from_numpy(requests[0].infer([pixels], share_inputs=True)[0])
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


RUNTIMES: dict[str, Callable[[Path, int], Run]] = {"onnxruntime": onnxruntime_run, "openvino": openvino_run}
"""By the name of the package that each needs."""


def _keep(request: Any, place: tuple[list[Any], slice]) -> None:
    kept, part = place
    kept.append((part.start, request.get_output_tensor(0).data[: part.stop - part.start].copy()))


@functools.cache
def openvino_core() -> Any:
    """One for the process.

    Each installs a signal stack of its own, and freeing two in turn leaves a freed one behind, on which the next signal
    that Python handles, of a child that ends or of Ctrl-C, crashes.
    """
    return importlib.import_module("openvino").Core()


def openvino_model(proto: Any) -> Any:
    """An ONNX graph as OpenVINO has it.

    Raises:
        EngineError: If OpenVINO has no translation of a node.
    """
    try:
        return openvino_core().read_model(proto.SerializeToString())
    except RuntimeError as error:
        raise EngineError(f"openvino does not take the graph: {first_line(error)}") from error
