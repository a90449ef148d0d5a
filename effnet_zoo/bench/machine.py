"""Making a measurement, what it ran on, and what that machine can do at most."""

import functools
import pkgutil
import platform
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from effnet_zoo import __version__, documents
from effnet_zoo.bench.referee import Call, clocked
from effnet_zoo.bench.results import Data, Measurement
from effnet_zoo.bench.settings import MEASURES, Cases, Settings, processors
from effnet_zoo.errors import EffnetZooError, EngineError, first_line

DISTRIBUTIONS = (
    *("torchvision", "timm", "efficientnet-pytorch", "geffnet"),
    *("onnxruntime", "openvino", "safetensors", "pillow"),
)
"""Distributions whose versions are kept with every measurement, as far as they are installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A measurement that is still to be made."""

    measure: str
    subject: str
    run: Callable[[], Data]


def steps(settings: Settings) -> list[Step]:
    """Return every measurement that settings ask for, in order."""
    return [
        Step(measure=name, subject=subject, run=run)
        for name in settings.measures
        for subject, run in pkgutil.resolve_name(f"{__package__}.{MEASURES[name].cases}")(settings)
    ]


def make_measurement(step: Step, settings: Settings) -> Measurement:
    """Make a measurement. If it fails, whatever was raised becomes an EngineError: it must not end the others."""
    torch.compiler.reset()  # of one forward, which all variants share, it compiles only so many versions
    try:
        data = step.run()
    except EffnetZooError:
        raise
    except Exception as error:  # whatever a library raises
        raise EngineError(f"{type(error).__name__}: {first_line(error)}") from error
    documents.check_finite(data, "data", EngineError)
    if not data["results"]:
        left_out = {**data.get("refused", {}), **data.get("absent", {})}
        why = "; ".join(f"{who}: {reason}" for who, reason in left_out.items())
        raise EngineError(f"nobody could be measured: {why}")
    return Measurement(
        measure=step.measure,
        subject=step.subject,
        command=settings.command,
        date=datetime.now(UTC).date().isoformat(),
        machine=describe(settings.device),
        versions=versions(),
        data=dict(data),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package, and of the libraries that it is compared with."""
    found = {"python": platform.python_version(), "effnet-zoo": __version__, "torch": torch.__version__}
    for name in DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def describe(device: str) -> dict[str, Any]:
    """Return the processor, how many may be used, threads, instruction set, and the GPU if that is measured."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
    facts: dict[str, Any] = {
        "processor": processor,
        "processors": processors(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
    }
    return facts | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


@contextmanager
def peak_memory(device: str) -> Iterator[dict[str, int]]:
    """Yield figures, which have in the end, on CUDA, the ``peak_bytes`` that were taken on the GPU at most."""
    figures: dict[str, int] = {}
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield figures
        torch.cuda.synchronize()
        figures["peak_bytes"] = torch.cuda.max_memory_allocated() - before
    else:
        yield figures


# What it can do at most.

SHAPES = ((2048, 1024, 2048), (1024, 1024, 1024), (4096, 512, 512))  # matrix products: rows, inner, columns
SIDE = 32  # height of the image whose pixels are a product's rows
COPIED = 256 << 20  # bytes that are copied to measure the bandwidth: more than any cache holds
REPEATS = 7


def ceiling_cases(settings: Settings) -> Cases:
    yield settings.device, functools.partial(measure_ceiling, settings.device)


def measure_ceiling(device: str) -> Data:
    """Return the ceiling as the data of a measurement of its own."""
    results = {
        name: {"bytes_per_second" if name == "copy" else "operations_per_second": rate}
        for name, rate in ceiling(device).items()
    }
    return {"case": {"device": device}, "results": results}


@functools.cache
def ceiling(device: str) -> dict[str, float]:
    """Measure the most operations a second by dtype, and the most bytes a second that a ``copy`` reads and writes.

    Each rate is the best of a few matrix products, as a linear layer and as a pointwise convolution, which different
    libraries compute. Each product's time is the median of some calls. A float32 product on CUDA is one in float32,
    not in TF32: a network may come out above the ceiling.
    """
    names = ("float32", "bfloat16", *(["float16"] if device == "cuda" else []))
    rates = {name: max(_product(shape, getattr(torch, name), device) for shape in SHAPES) for name in names}
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates["copy"] = 2 * COPIED / _median(lambda: target.copy_(source), device)
    return rates


def _product(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> float:
    """Return operations a second of the faster of the two ways to compute a matrix product."""
    rows, inner, columns = shape
    x = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)
    image = x.view(1, SIDE, rows // SIDE, inner).permute(0, 3, 1, 2)
    kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
    ways: list[Call] = [lambda: F.linear(x, weight), lambda: F.conv2d(image, kernel)]
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return 2 * rows * inner * columns / min(_median(way, device) for way in ways)


def _median(call: Call, device: str) -> float:
    call()
    return statistics.median(clocked(call, device)[0]["seconds"] for _ in range(REPEATS))
