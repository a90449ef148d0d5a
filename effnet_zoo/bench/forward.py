"""Latency and throughput of the forward pass, and how much of the machine's ceiling each contestant reaches.

A contestant takes float32 images on the device, (batch, 3, size, size) in PyTorch's default memory format, and gives
logits. Its time includes every conversion, as its user's time does.
"""

import functools
import itertools
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.bench.machine import ceiling, with_peak_memory
from effnet_zoo.bench.networks import Task, arch_of, library_network, plain_network
from effnet_zoo.bench.referee import (
    IN_PROCESS,
    Call,
    Contestant,
    Outcome,
    Pace,
    Prepared,
    Sample,
    check_error,
    clocked,
    hold_contest,
)
from effnet_zoo.bench.results import BASELINE, OURS, library_of
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.deployed import TORCH_DTYPES
from effnet_zoo.runtime.engine import TOLERANCE, engine
from effnet_zoo.runtime.targets.onnx import PRECISIONS, openvino_core
from effnet_zoo.runtime.targets.table import ENGINES

Logits = Callable[[Tensor], Tensor]
"""From images to logits."""

TOLERANCE_TF32 = 0.05
"""On CUDA, where PyTorch's convolutions take float32 as TF32 by default, which has float16's mantissa."""

COMPARED = 2
"""Images whose logits are compared: in inference they do not depend on the others of the batch."""

QUICK_ENGINES = tuple(name for name, backend in ENGINES.items() if not backend.slow_to_build)
"""The engines that are built in seconds; torch.compile's takes minutes."""

CURVE_BATCHES = (1, 2, 4, 8, 16, 32, 64)
CURVE_SIZES = (128, 192, 224, 256, 320, 384, 456, 528, 600)
CURVE_VARIANTS = (*(f"effnet_zoo_b{number}" for number in range(8)), *(f"effnet_zoo_v2_{size}" for size in "sml"))

CURVE_CONTESTANTS = (
    "timm",
    "timm channels_last",
    "timm in ONNX Runtime",
    "timm in OpenVINO",
    "effnet_zoo",
    "effnet_zoo optimized",
    "effnet_zoo engine onnxruntime",
    "effnet_zoo engine openvino",
    "effnet_zoo CUDA graph",
    "effnet_zoo optimized CUDA graph",
    "timm CUDA graph",
)


def engines(*, compiled: bool) -> tuple[str, ...]:
    """Return the names of the engines that take part."""
    return (*QUICK_ENGINES, "inductor") if compiled else QUICK_ENGINES


def forward_cases(settings: Settings, measure: str) -> Cases:
    """Yield the tasks of `latency`, `throughput` or a curve, in words, each with what measures it.

    Batch 1 is left out of `throughput` where `latency` measures it too.
    """
    batches: dict[str, Sequence[int]] = {
        "throughput": [batch for batch in settings.batches if batch > 1 or "latency" not in settings.measures],
        "batch-curve": CURVE_BATCHES,
    }
    sizes: dict[str, Sequence[int | None]] = {"size-curve": CURVE_SIZES}
    curve = "curve" in measure
    for variant in CURVE_VARIANTS if measure == "variant-curve" else settings.variants:
        for batch, size in itertools.product(batches.get(measure, (1,)), sizes.get(measure, (None,))):
            task = Task.of(settings, variant, batch=batch, size=size)
            everyone = forward_contestants(task, compiled=settings.compiled and not curve)
            chosen = [one for one in everyone if not curve or one.name in CURVE_CONTESTANTS]
            yield task.subject, functools.partial(time_forward, task, chosen, rounds=settings.rounds)


def time_forward(task: Task, contestants: Sequence[Contestant], *, rounds: int) -> dict[str, Any]:
    """Time a batch of every contestant.

    Returns:
        Data with the ``ceiling``. A result's ``of_ceiling`` counts two operations for each multiplication of the spec.
    """
    outcome = compare_forward(task, contestants, rounds=rounds, sample=lambda call: clocked(call, task.device))
    limit, macs = ceiling(task.device), task.model.spec.macs(size=task.size)
    for result in outcome.results.values():
        result["images_per_second"] = task.batch / result["seconds"]
        result["of_ceiling"] = 2 * macs * result["images_per_second"] / limit[task.dtype]
    return outcome.as_data({**task.case, "macs": macs}, outcome.ratios(outcome.rivals()), ceiling=limit)


def compare_forward(
    task: Task,
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    sample: Callable[[Call], tuple[Sample, Any]],
    pace: Pace = IN_PROCESS,
) -> Outcome:
    """Hold a contest in which logits are compared with those of this package's network in float64 on the CPU."""
    tolerance = TOLERANCE_TF32 if (task.device, task.dtype) == ("cuda", "float32") else TOLERANCE[task.dtype]

    @functools.cache
    def expected(arch: ArchSpec) -> Tensor:
        with torch.inference_mode():
            images = task.images()[:COMPARED].double().cpu()
            return plain_network(arch, task.state).double().eval()(images)

    return hold_contest(
        contestants,
        lambda logits, wanted: {"error": check_error("logits", logits, wanted, tolerance)},
        reference=lambda name: expected(arch_of(library_of(name), task.model)),
        rounds=rounds,
        pace=pace,
        sample=sample,
    )


def forward_contestant(task: Task, name: str, build: Callable[[Task], Logits], note: str = "") -> Contestant:
    """Return a contestant that computes the task's logits, from what builds it."""

    def prepare() -> Prepared:
        images = task.images()

        def first() -> tuple[Logits, Tensor]:
            run = build(task)
            with torch.inference_mode():
                return run, run(images)[:COMPARED].double().cpu()

        (run, logits), peak = with_peak_memory(first, task.device)
        return Prepared(call=torch.inference_mode()(functools.partial(run, images)), output=logits, figures=peak)

    return Contestant(name=name, prepare=prepare, note=note)


def forward_contestants(task: Task, *, compiled: bool = False) -> list[Contestant]:
    """Return everyone who can run a task; what torch.compile builds in minutes only if asked."""
    chosen: dict[str, tuple[Callable[[Task], Logits], str]] = {
        "effnet_zoo": (_eager(OURS), "as create_model gives it"),
        "effnet_zoo recording": (_eager(OURS, recording=True), "the same without no_grad: autograd records"),
        "effnet_zoo optimized": (_optimized, "optimize(model), plain PyTorch"),
        "timm": (_eager(BASELINE), "as create_model gives it"),
        "timm recording": (_eager(BASELINE, recording=True), "the same without no_grad: autograd records"),
        "timm channels_last": (_eager(BASELINE, channels_last=True), ""),
        "torchvision": (_eager("torchvision"), "pads symmetrically: compared with ours built so"),
        "efficientnet_pytorch": (_eager("efficientnet_pytorch"), ""),
        "geffnet": (_eager("geffnet"), ""),
    }
    if task.dtype != "float32":
        chosen |= {f"{name} autocast": (_eager(name, autocast=True), "") for name in (OURS, BASELINE)}
    if compiled:
        compiling = _eager(BASELINE, channels_last=True, compiled=True)
        chosen["timm compiled"] = compiling, "torch.compile, channels_last"
    if task.device == "cuda":
        graphs = {
            "timm": _eager(BASELINE, channels_last=True),
            "effnet_zoo": _eager(OURS),
            "effnet_zoo optimized": _optimized,
        }
        chosen |= {f"{name} CUDA graph": (functools.partial(_graphed, build), "") for name, build in graphs.items()}
    else:
        chosen |= {
            f"effnet_zoo engine {name}": (functools.partial(_engine, name), "") for name in engines(compiled=compiled)
        }
        sessions: dict[str, Callable[[Path], Logits]] = {
            "timm in OpenVINO": functools.partial(_openvino, task.dtype),
            **({"timm in ONNX Runtime": _onnxruntime} if task.dtype == "float32" else {}),
        }
        chosen |= {
            name: (functools.partial(_exported, session), "timm's export for this shape")
            for name, session in sessions.items()
        }
    return [forward_contestant(task, name, build, note) for name, (build, note) in chosen.items()]


def _eager(
    library: str,
    *,
    channels_last: bool = False,
    compiled: bool = False,
    autocast: bool = False,
    recording: bool = False,
) -> Callable[[Task], Logits]:
    memory_format = torch.channels_last if channels_last else torch.preserve_format

    def build(task: Task) -> Logits:
        dtype = TORCH_DTYPES[task.dtype]
        network = library_network(library, task).eval().to(task.device, torch.float32 if autocast else dtype)
        if channels_last:
            network.to(memory_format=torch.channels_last)
        model: Any = torch.compile(network) if compiled else network

        def run(images: Tensor) -> Tensor:
            if recording:
                with torch.inference_mode(False), torch.enable_grad():
                    return model(images.to(dtype=dtype))
            if autocast:
                with torch.autocast(task.device, dtype):
                    return model(images.to(memory_format=memory_format))
            return model(images.to(dtype=dtype, memory_format=memory_format))

        return run

    return build


def _own(task: Task) -> EfficientNet:
    model = library_network(OURS, task)
    assert isinstance(model, EfficientNet)
    return model.eval()


def _optimized(task: Task) -> Logits:
    dtype = TORCH_DTYPES[task.dtype]
    model = optimize(_own(task).to(task.device), dtype=dtype)
    return lambda images: model(images.to(dtype))


def _engine(backend: str, task: Task) -> Logits:
    return engine(_own(task), backend=backend, dtype=task.dtype, batch=task.batch, size=task.size)


def _graphed(build: Callable[[Task], Logits], task: Task) -> Logits:
    """Return a run that was recorded once and is replayed; each call overwrites the output of the one before."""
    run, images = build(task), task.images().clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            run(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        logits = run(images)

    def replay(given: Tensor) -> Tensor:
        images.copy_(given)
        graph.replay()
        return logits

    return replay


def _exported(open_session: Callable[[Path], Logits], task: Task) -> Logits:
    """Export timm's network as its user does, for the task's shape alone, which suits both runtimes best."""
    ignored = ("legacy TorchScript-based ONNX export", "The feature will be", "torch.jit", "Converting a tensor to a P")
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder, warnings.catch_warnings():
        for message in ignored:
            warnings.filterwarnings("ignore", message=f".*{message}")
        path = Path(folder, "timm.onnx")
        torch.onnx.export(
            library_network(BASELINE, task).eval(),
            (task.images(),),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            opset_version=17,
        )
        return open_session(path)


def _onnxruntime(path: Path) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _openvino(dtype: str, path: Path) -> Logits:
    core = openvino_core()
    hints = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(core.read_model(str(path)), "CPU", hints).create_infer_request()
    return lambda images: torch.from_numpy(request.infer([images.numpy()], share_inputs=True, share_outputs=True)[0])
