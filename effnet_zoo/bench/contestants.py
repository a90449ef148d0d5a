"""Who is compared: this package, timm, and the libraries people come from, all with the same weights and input.

A contestant takes float32 images on the device, (batch, 3, size, size) in PyTorch's default memory format, and gives
logits: whatever it has to convert is part of its time, as it is part of its user's.
"""

import dataclasses
import functools
import importlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.bench.machine import peak_memory
from effnet_zoo.errors import UnknownNameError, first_line
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.keytable import State
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import damp, randomise, relative_error, settle
from effnet_zoo.runtime.deployed import TORCH_DTYPES
from effnet_zoo.runtime.engine import TOLERANCE, engine
from effnet_zoo.runtime.targets import ENGINES
from effnet_zoo.runtime.targets.openvino import openvino_core
from effnet_zoo.zoo.catalogue import Model

Run = Callable[[Tensor], Tensor]

TOLERANCE_TF32 = 0.05
"""On CUDA, where PyTorch's convolutions take float32 as TF32 by default, with float16's mantissa."""

COMPARED = 2
"""Images whose logits are compared: in inference they do not depend on the others of the batch."""

OURS = "effnet_zoo"

BACKENDS = tuple(name for name, backend in ENGINES.items() if not backend.slow_to_build)
"""Of our engines, besides torch.compile's, which takes minutes to build."""

EXPORTED = "timm's export for this shape"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every contestant is given.

    Attributes:
        model: The variant.
        state: Its weights under our keys, float32 on the CPU.
        size: Height and width of the images.
        batch: How many.
        dtype: A key of `runtime.deployed.TORCH_DTYPES`.
        device: ``cpu`` or ``cuda``.
    """

    model: Model
    state: State
    size: int
    batch: int
    dtype: str = "float32"
    device: str = "cpu"

    def images(self) -> Tensor:
        """The input, (batch, 3, size, size), float32, on the device."""
        draw = torch.Generator().manual_seed(1)
        return torch.randn(self.batch, 3, self.size, self.size, generator=draw).to(self.device)


@functools.lru_cache(maxsize=1)
def weights(name: str) -> State:
    """Drawn weights for a variant, its batch norm statistics those of drawn images.

    Otherwise exact implementations of V2-S and B5 would differ by 1e-2 in float32.
    """
    model = damp(randomise(EfficientNet.from_name(name, drop_rate=0.0, drop_path_rate=0.0), seed=0))
    return settle(model, torch.randn(8, 3, 128, 128, generator=torch.Generator().manual_seed(2))).state_dict()


def arch_of(library: str, model: Model) -> ArchSpec:
    """A variant with a library's numerics: torchvision pads symmetrically, and has an epsilon of its own.

    Raises:
        UnknownNameError: If the library has no such variant.
    """
    if library in (OURS, "timm"):
        return model.spec
    archs = LAYOUTS["efficientnet_pytorch" if library == "geffnet" else library].archs()
    if library == "geffnet" and "_v2_" not in model.name:
        return model.spec
    if model.name not in archs:
        raise UnknownNameError(f"{library} has no {model.hub_name}")
    return archs[model.name]


def network(library: str, task: Task) -> nn.Module:
    """A library's network on the CPU as its user builds it, with the task's weights, without dropout and drop path.

    Raises:
        ImportError: If the library is not installed.
        UnknownNameError: If it has no such variant.
    """
    name, arch = task.model.hub_name, arch_of(library, task.model)
    state, model = task.state, None
    if library == OURS:
        model = timm.create_model(task.model.name, drop_rate=0.0, drop_path_rate=0.0)
    elif library == "timm":
        model = timm.create_model(task.model.upstream)
    elif library == "geffnet":
        with warnings.catch_warnings():  # it scripts its activations when it is imported
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
            geffnet = importlib.import_module("geffnet")
        model = geffnet.create_model(task.model.upstream)
    elif library == "torchvision":
        models = importlib.import_module("torchvision.models")
        theirs = name.replace("efficientnetv2", "efficientnet_v2")
        model = models.get_model(theirs, dropout=0.0, stochastic_depth_prob=0.0)
    else:
        module = importlib.import_module("efficientnet_lite_pytorch" if "lite" in name else library)
        model = module.EfficientNet.from_name(
            name.replace("_", "-"), image_size=task.size, dropout_rate=0.0, drop_connect_rate=0.0
        )
    if library in ("torchvision", "efficientnet_pytorch"):
        state = LAYOUTS[library].table.to_theirs(state, arch)
    model.load_state_dict(state, strict=True)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to compute the logits.

    Attributes:
        name: As it is reported.
        library: Whose network it is.
        build: From a task to what is timed.
        note: What a reader of the figure has to know.
    """

    name: str
    library: str
    build: Callable[[Task], Run]
    note: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is this package's."""
        return self.library == OURS


def contestants(device: str, dtype: str, *, compiled: bool = False) -> list[Contestant]:
    """Everyone who can run on a device in a dtype; what torch.compile builds only if asked, as it takes minutes."""

    def eager(name: str, library: str, note: str = "", **how: Any) -> Contestant:
        return Contestant(name=name, library=library, build=functools.partial(_eager, library, **how), note=note)

    everyone = [
        eager("effnet_zoo", OURS, "as create_model gives it"),
        eager("effnet_zoo recording", OURS, "the same without no_grad: autograd records", recording=True),
        Contestant(name="effnet_zoo optimized", library=OURS, build=_optimized, note="optimize(model), plain PyTorch"),
        eager("timm", "timm", "as create_model gives it"),
        eager("timm recording", "timm", "the same without no_grad: autograd records", recording=True),
        eager("timm channels_last", "timm", channels_last=True),
        eager("torchvision", "torchvision", "pads symmetrically: compared with ours built so"),
        eager("efficientnet_pytorch", "efficientnet_pytorch"),
        eager("geffnet", "geffnet"),
    ]
    if dtype != "float32":
        everyone += [eager(f"{name} autocast", name, autocast=True) for name in (OURS, "timm")]
    if compiled:
        everyone.append(
            eager("timm compiled", "timm", "torch.compile, channels_last", channels_last=True, compiled=True)
        )
    if device == "cuda":
        everyone += [
            eager("timm CUDA graph", "timm", channels_last=True, graph=True),
            eager("effnet_zoo CUDA graph", OURS, graph=True),
            Contestant(
                name="effnet_zoo optimized CUDA graph",
                library=OURS,
                build=lambda task: _graphed(_optimized(task), task),
            ),
        ]
        return everyone
    for backend in (*BACKENDS, "inductor") if compiled else BACKENDS:
        build = functools.partial(_engine, backend)
        everyone.append(Contestant(name=f"effnet_zoo engine {backend}", library=OURS, build=build))
    if dtype == "float32":
        everyone.append(Contestant(name="timm in ONNX Runtime", library="timm", build=_onnxruntime, note=EXPORTED))
    everyone.append(Contestant(name="timm in OpenVINO", library="timm", build=_openvino, note=EXPORTED))
    return everyone


def _eager(
    library: str,
    task: Task,
    *,
    channels_last: bool = False,
    compiled: bool = False,
    autocast: bool = False,
    graph: bool = False,
    recording: bool = False,
) -> Run:
    dtype = TORCH_DTYPES[task.dtype]
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    model: Any = network(library, task).eval().to(task.device, torch.float32 if autocast else dtype)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if compiled:
        model = torch.compile(model)

    def run(images: Tensor) -> Tensor:
        if recording:
            with torch.inference_mode(False), torch.enable_grad():
                return model(images.to(dtype=dtype))
        if autocast:
            with torch.autocast(task.device, dtype):
                return model(images.to(memory_format=memory_format))
        return model(images.to(dtype=dtype, memory_format=memory_format))

    return _graphed(run, task) if graph else run


def _own(task: Task) -> EfficientNet:
    model = network(OURS, task)
    assert isinstance(model, EfficientNet)
    return model.eval()


def _optimized(task: Task) -> Run:
    dtype = TORCH_DTYPES[task.dtype]
    model = optimize(_own(task).to(task.device), dtype=dtype)
    return lambda images: model(images.to(dtype))


def _engine(backend: str, task: Task) -> Run:
    return engine(_own(task), backend=backend, dtype=task.dtype, batch=task.batch, size=task.size)


def _graphed(run: Run, task: Task) -> Run:
    """A run recorded once and replayed; its output is overwritten by the next."""
    images = task.images()
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


def _export(task: Task, path: Path) -> None:
    """Timm's network as its user exports it, for the task's shape alone, which suits both engines best."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*legacy TorchScript-based ONNX export", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Converting a tensor to a Python", category=torch.jit.TracerWarning)
        torch.onnx.export(
            network("timm", task).eval(),
            (task.images(),),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            opset_version=17,
        )


def _onnxruntime(task: Task) -> Run:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        path = Path(folder, "timm.onnx")
        _export(task, path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _openvino(task: Task) -> Run:
    core = openvino_core()
    hints = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[task.dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        path = Path(folder, "timm.onnx")
        _export(task, path)
        request = core.compile_model(core.read_model(str(path)), "CPU", hints).create_infer_request()
    return lambda images: torch.from_numpy(request.infer([images.numpy()], share_inputs=True, share_outputs=True)[0])


@dataclass(slots=True, kw_only=True)
class Field:
    """Who may be timed, and why the others may not.

    Attributes:
        runs: What is timed, by name.
        errors: Relative error of their logits against float64.
        absent: Those not installed, or without this variant.
        refused: Those that could not be built, or that compute something else.
        notes: What a reader has to know of those that run.
        peaks: On CUDA, the bytes each took there at most: its weights, the images' way through it, a recorded graph.
    """

    runs: dict[str, Run] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)


def prepare(everyone: Sequence[Contestant], task: Task) -> Field:
    """Build contestants and compare their logits with ours in float64; only who agrees may be timed."""
    ready = Field()
    tolerance = TOLERANCE_TF32 if (task.device, task.dtype) == ("cuda", "float32") else TOLERANCE[task.dtype]
    images = task.images()
    expected: dict[ArchSpec, Tensor] = {}
    for one in everyone:
        try:
            arch = arch_of(one.library, task.model)
            (run, logits), peak = peak_memory(functools.partial(_first, one, task, images), task.device)
        except (ImportError, UnknownNameError) as error:
            ready.absent[one.name] = first_line(error)
            continue
        except Exception as error:  # whatever one contestant raises must not stop the rest
            ready.refused[one.name] = first_line(error)
            continue
        if arch not in expected:
            expected[arch] = reference(task, arch)
        error_of = relative_error(logits, expected[arch]) if logits.shape == expected[arch].shape else float("inf")
        if error_of > tolerance:
            ready.refused[one.name] = f"logits off by a relative {error_of:.1e}, more than {tolerance:.0e}: not timed"
            continue
        ready.runs[one.name], ready.errors[one.name] = run, error_of
        if peak is not None:
            ready.peaks[one.name] = peak
        if one.note:
            ready.notes[one.name] = one.note
    return ready


def _first(one: Contestant, task: Task, images: Tensor) -> tuple[Run, Tensor]:
    """A contestant, built, with what it computes of the first images."""
    run = one.build(task)
    with torch.inference_mode():
        return run, run(images)[:COMPARED].double().cpu()


def reference(task: Task, arch: ArchSpec) -> Tensor:
    """Logits of the first images in float64 on the CPU, by our network run plainly."""
    model = EfficientNet(dataclasses.replace(arch, drop_rate=0.0, drop_path_rate=0.0))
    model.load_state_dict(task.state)
    with torch.inference_mode():
        return model.double().eval()(task.images()[:COMPARED].double().cpu())
