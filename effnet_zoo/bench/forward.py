"""The forward pass: latency, throughput, curves, the share of the machine's ceiling, and where its time goes.

A contestant takes float32 images on the device, (batch, 3, size, size) in PyTorch's default memory format, and gives
logits. Its time includes every conversion, as its user's time does.
"""

import functools
import itertools
import tempfile
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.bench import referee
from effnet_zoo.bench.machine import ceiling, peak_memory
from effnet_zoo.bench.networks import Task, arch_of, library_network, plain_network
from effnet_zoo.bench.referee import Call, Contestants, Prepared, Sample
from effnet_zoo.bench.report import CURVE_STYLES
from effnet_zoo.bench.results import BASELINE, OURS, Data, library_of
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.deployed import TORCH_DTYPES
from effnet_zoo.runtime.engine import TOLERANCE, engine
from effnet_zoo.runtime.targets.onnx import PRECISIONS, openvino_core
from effnet_zoo.runtime.targets.table import ENGINES

Logits = Callable[[Tensor], Tensor]  # from images
Build = Callable[[Task], Logits]
Way = Callable[..., Logits]  # from this package's network, and the keyword `dtype`
How = Literal["", "autocast", "compiled", "recording"]

TOLERANCE_TF32 = 0.05  # on CUDA, where PyTorch's convolutions take float32 as TF32 by default: float16's mantissa
COMPARED = 2  # images whose logits are compared: in inference they do not depend on the others of the batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A measure of the forward pass: its tasks are all combinations. What is empty is as the settings say."""

    variants: Sequence[str] = ()
    batches: Sequence[int] = (1,)
    sizes: Sequence[int] = ()  # sides of the images in pixels
    contestants: Collection[str] = ()  # the names of those who take part; everyone if empty

    def cases(self, settings: Settings) -> Cases:
        """Yield the tasks. Without batches of its own, batch 1 is left out where `latency` measures it too."""
        others = [batch for batch in settings.batches if batch > 1 or "latency" not in settings.measures]
        for variant, batch, size in itertools.product(
            self.variants or settings.variants, self.batches or others, self.sizes or (None,)
        ):
            task = Task.of(settings, variant, batch=batch, size=size)
            everyone = forward_contestants(task, compiled=settings.compiled)
            chosen = {name: one for name, one in everyone.items() if name in (self.contestants or everyone)}
            yield task.subject, functools.partial(time_forward, task, chosen, rounds=settings.rounds)


LATENCY = Sweep()
THROUGHPUT = Sweep(batches=())
BATCH_CURVE = Sweep(batches=(1, 2, 4, 8, 16, 32, 64), contestants=CURVE_STYLES)
SIZE_CURVE = Sweep(sizes=(128, 192, 224, 256, 320, 384, 456, 528, 600), contestants=CURVE_STYLES)
VARIANT_CURVE = Sweep(
    variants=(*(f"effnet_zoo_b{number}" for number in range(8)), *(f"effnet_zoo_v2_{size}" for size in "sml")),
    contestants=CURVE_STYLES,
)


def time_forward(task: Task, contestants: Contestants, *, rounds: int) -> Data:
    """Time a batch of every contestant. ``of_ceiling`` counts two operations for each multiplication of the spec."""
    data = compare_forward(task, contestants, rounds=rounds, sample=lambda call: referee.clocked(call, task.device))
    data = referee.with_rates(data, task.batch)
    limit, macs = ceiling(task.device), task.model.spec.macs(size=task.size)
    for result in data["results"].values():
        result["of_ceiling"] = 2 * macs * result["images_per_second"] / limit[task.dtype]
    return {**data, "case": {**task.case, "macs": macs}, "ceiling": limit}


def compare_forward(
    task: Task,
    contestants: Contestants,
    *,
    rounds: int,
    sample: Callable[[Call], Sample],
    pace: referee.Pace = referee.IN_PROCESS,
) -> Data:
    """Hold a contest in which logits are compared with those of this package's network in float64 on the CPU."""
    tolerance = TOLERANCE_TF32 if (task.device, task.dtype) == ("cuda", "float32") else TOLERANCE[task.dtype]

    @functools.cache
    def expected(arch: ArchSpec) -> Tensor:
        with torch.inference_mode():
            images = task.images()[:COMPARED].double().cpu()
            return plain_network(arch, task.state).double().eval()(images)

    return referee.hold_contest(
        task.case,
        contestants,
        functools.partial(referee.check_error, "logits", tolerance),
        reference=lambda name: expected(arch_of(library_of(name), task.model)),
        rounds=rounds,
        pace=pace,
        sample=sample,
    )


# Who takes part.

NOTES = {
    "effnet_zoo": "as create_model gives it",
    "effnet_zoo recording": "the same without no_grad: autograd records",
    "effnet_zoo optimized": "optimize(model), plain PyTorch",
    "timm": "as create_model gives it",
    "timm recording": "the same without no_grad: autograd records",
    "torchvision": "pads symmetrically: compared with ours built so",
    "timm compiled": "torch.compile, channels_last",
    "timm in OpenVINO": "timm's export for this shape",
    "timm in ONNX Runtime": "timm's export for this shape",
}


def forward_contestants(task: Task, *, compiled: bool = False) -> Contestants:
    """Return everyone who can run a task; what torch.compile builds in minutes only if asked."""
    own = {name: functools.partial(_own, way) for name, way in own_ways(compiled=compiled).items()}
    builds: dict[str, Build] = {
        "effnet_zoo": _eager(OURS),
        "effnet_zoo recording": _eager(OURS, "recording"),
        "effnet_zoo optimized": own["effnet_zoo optimized"],
        "timm": _eager(BASELINE),
        "timm recording": _eager(BASELINE, "recording"),
        "timm channels_last": _eager(BASELINE, memory_format=torch.channels_last),
        **{library: _eager(library) for library in ("torchvision", "efficientnet_pytorch", "geffnet")},
    }
    if task.dtype != "float32":
        builds |= {f"{name} autocast": _eager(name, "autocast") for name in (OURS, BASELINE)}
    if compiled:
        builds["timm compiled"] = _eager(BASELINE, "compiled", torch.channels_last)
    if task.device == "cuda":
        graphs = {name: builds[name] for name in ("effnet_zoo", "effnet_zoo optimized")}
        graphs["timm"] = builds["timm channels_last"]
        builds |= {f"{name} CUDA graph": functools.partial(_graphed, build) for name, build in graphs.items()}
    else:
        builds |= {**own, "timm in OpenVINO": functools.partial(_exported, functools.partial(_openvino, task.dtype))}
        if task.dtype == "float32":
            builds["timm in ONNX Runtime"] = functools.partial(_exported, _onnxruntime)
    return {
        name: functools.partial(prepare_forward, task, build, NOTES.get(name, "")) for name, build in builds.items()
    }


def prepare_forward(task: Task, build: Build, note: str = "") -> Prepared:
    """Prepare a contestant that computes the task's logits."""
    images = task.images()
    with peak_memory(task.device) as peak:
        run = build(task)
        with torch.inference_mode():
            logits = run(images)[:COMPARED].double().cpu()
    call = torch.inference_mode()(functools.partial(run, images))
    return Prepared(call=call, output=logits, figures=peak, note=note)


def engines(*, compiled: bool) -> list[str]:
    """Return the engines that take part: those that are built in seconds, and torch.compile's if asked."""
    return [name for name, target in ENGINES.items() if compiled or not target.slow_to_build]


def own_ways(*, compiled: bool) -> dict[str, Way]:
    """Return this package's ways to run a network faster, by the contestant's name."""
    backends = engines(compiled=compiled)
    by_engine = {f"effnet_zoo engine {name}": functools.partial(engine, backend=name) for name in backends}
    return {"effnet_zoo optimized": _optimized, **by_engine}


def _optimized(model: EfficientNet, dtype: str) -> Logits:
    faster = optimize(model, dtype=TORCH_DTYPES[dtype])
    return lambda images: faster(images.to(TORCH_DTYPES[dtype]))


def _own(way: Way, task: Task) -> Logits:
    return way(library_network(OURS, task).eval().to(task.device), dtype=task.dtype)


def _eager(library: str, how: How = "", memory_format: torch.memory_format = torch.preserve_format) -> Build:
    def build(task: Task) -> Logits:
        dtype = TORCH_DTYPES[task.dtype]
        network = library_network(library, task).eval()
        network.to(task.device, torch.float32 if how == "autocast" else dtype, memory_format=memory_format)
        model: Any = torch.compile(network) if how == "compiled" else network

        def run(images: Tensor) -> Tensor:
            if how == "recording":
                with torch.inference_mode(False), torch.enable_grad():
                    return model(images.to(dtype=dtype))
            if how == "autocast":
                with torch.autocast(task.device, dtype):
                    return model(images)
            return model(images.to(dtype=dtype, memory_format=memory_format))

        return run

    return build


def _graphed(build: Build, task: Task) -> Logits:
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
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of itself
        path = Path(folder, "timm.onnx")
        network = library_network(BASELINE, task).eval()
        torch.onnx.export(network, (task.images(),), str(path), dynamo=False, input_names=["images"], opset_version=17)
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


# Where the time goes.

PROFILED = ("timm", "timm channels_last", "effnet_zoo", "effnet_zoo optimized")  # torch's profiler sees into them

KINDS: dict[str, tuple[str, ...]] = {
    "convolution": ("convolution", "conv2d"),
    "batch norm": ("batch_norm",),
    "activation": ("silu", "relu", "hardtanh", "clamp", "sigmoid"),
    "padding": ("pad", "fill"),
    "matrix product": ("addmm", "linear", "matmul"),
    "mean": ("mean", "sum", "div", "pool"),
    "gate and skip": ("mul", "add"),
    "copy": ("copy", "clone"),
    "others": ("",),
}
"""By kind, parts of the names that torch gives its operations; the first kind that fits counts.

The others are allocation, views, and PyTorch's own overhead.
"""

PASSES = 20  # that are profiled, after one that is not


def profile_cases(settings: Settings) -> Cases:
    """Yield every variant at batch 1 and at every batch."""
    for variant, batch in itertools.product(settings.variants, dict.fromkeys((1, *settings.batches))):
        task = Task.of(settings, variant, batch=batch)
        chosen = {name: one for name, one in forward_contestants(task).items() if name in PROFILED}
        yield task.subject.removesuffix(", cpu"), functools.partial(profile_forward, task, chosen)


def profile_forward(task: Task, contestants: Contestants) -> Data:
    """Measure ``kinds``: seconds of a pass by kind of operation. The profiler itself takes some time."""
    data = compare_forward(task, contestants, rounds=1, pace=referee.ONE_CALL, sample=_seconds_by_kind)
    kinds = {name: {"kinds": {kind: result[kind] for kind in KINDS}} for name, result in data["results"].items()}
    return {**data, "results": kinds}


def _seconds_by_kind(call: Call) -> Sample:
    call()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(PASSES):
            call()
    seconds = dict.fromkeys(KINDS, 0.0)
    for operation in profiler.key_averages():
        seconds[kind_of(operation.key)] += operation.self_cpu_time_total / 1e6 / PASSES
    return seconds, None


def kind_of(operation: str) -> str:
    """Return the kind of an operation by its name, such as ``aten::silu_``."""
    words = operation.removeprefix("aten::")
    return next(kind for kind, parts in KINDS.items() if any(part in words for part in parts))
