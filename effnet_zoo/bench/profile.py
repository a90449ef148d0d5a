"""Where the time of a forward pass goes: milliseconds by kind of operation, timm's network beside ours."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from effnet_zoo.bench.contestants import Contestant, Task, contestants, prepare, weights
from effnet_zoo.zoo import catalogue

PROFILED = ("timm", "timm channels_last", "effnet_zoo", "effnet_zoo optimized")
"""Whose operations torch's profiler sees."""

KINDS: dict[str, tuple[str, ...]] = {
    "convolution": ("convolution", "conv2d"),
    "batch norm": ("batch_norm",),
    "activation": ("silu", "relu", "hardtanh", "clamp", "sigmoid"),
    "padding": ("pad", "fill"),
    "matrix product": ("addmm", "linear", "matmul"),
    "mean": ("mean", "sum", "div", "pool"),
    "gate and skip": ("mul", "add"),
    "copy": ("copy", "clone"),
}
"""By kind, parts of the names that torch gives its operations; the first kind that fits counts."""

OTHERS = "others"
"""What is left: allocation, views, and PyTorch's own overhead."""

PASSES = 20


def measure(
    name: str,
    *,
    size: int,
    batch: int,
    dtype: str = "float32",
    passes: int = PASSES,
    everyone: Sequence[Contestant] | None = None,
) -> dict[str, Any]:
    """Own time of every kind of operation, by torch's profiler, which itself takes some.

    Args:
        name: The variant.
        size: Height and width of the images.
        batch: Images.
        dtype: ``float32`` or ``bfloat16``.
        passes: Forward passes that are profiled, after one that is not.
        everyone: Other contestants than `PROFILED`.

    Returns:
        ``case``, ``results`` with the ``kinds`` in seconds a pass by contestant, ``absent``, ``refused``, ``notes``.
    """
    model = catalogue.find_variant(name)
    task = Task(model=model, state=weights(model.name), size=size, batch=batch, dtype=dtype)
    chosen = [one for one in contestants("cpu", dtype) if one.name in PROFILED] if everyone is None else everyone
    ready = prepare(chosen, task)
    images = task.images()
    with torch.inference_mode():
        results = {who: {"kinds": _kinds(run, images, passes)} for who, run in ready.runs.items()}
    return {
        "case": {"variant": model.name, "size": size, "batch": batch, "dtype": dtype, "device": "cpu"},
        "results": results,
        "absent": ready.absent,
        "refused": ready.refused,
        "notes": {},
    }


def _kinds(run: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, passes: int) -> dict[str, float]:
    run(images)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(passes):
            run(images)
    seconds = dict.fromkeys((*KINDS, OTHERS), 0.0)
    for operation in profiler.key_averages():
        seconds[kind_of(operation.key)] += operation.self_cpu_time_total / 1e6 / passes
    return seconds


def kind_of(operation: str) -> str:
    """The kind of an operation by its name, ``aten::silu_``."""
    words = operation.removeprefix("aten::")
    return next((kind for kind, parts in KINDS.items() if any(part in words for part in parts)), OTHERS)
