"""Where the time of a forward pass goes: seconds by kind of operation, of timm's network and of this package's."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from effnet_zoo.bench.forward import compare_forward, forward_contestants
from effnet_zoo.bench.networks import Task
from effnet_zoo.bench.referee import ONE_CALL, Call, Contestant, Sample
from effnet_zoo.bench.settings import Cases, Settings

PROFILED = ("timm", "timm channels_last", "effnet_zoo", "effnet_zoo optimized")
"""Contestants whose operations torch's profiler sees."""

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
"""Forward passes that are profiled, after one that is not."""


def profile_cases(settings: Settings) -> Cases:
    """Yield every variant at batch 1 and at every batch."""
    for variant in settings.variants:
        for batch in dict.fromkeys((1, *settings.batches)):
            task = Task.of(settings, variant, batch=batch)
            chosen = [one for one in forward_contestants(task) if one.name in PROFILED]
            yield task.subject.removesuffix(", cpu"), functools.partial(profile_forward, task, chosen)


def profile_forward(task: Task, contestants: Sequence[Contestant]) -> dict[str, Any]:
    """Measure the time of every kind of operation by torch's profiler, which itself takes some.

    Returns:
        Data whose results have ``kinds``: seconds of a pass by kind.
    """
    outcome = compare_forward(task, contestants, rounds=1, pace=ONE_CALL, sample=_seconds_by_kind)
    for name, result in outcome.results.items():
        outcome.results[name] = {"kinds": {kind: result[kind] for kind in (*KINDS, OTHERS)}}
    return outcome.as_data(task.case)


def _seconds_by_kind(call: Call) -> tuple[Sample, None]:
    call()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(PASSES):
            call()
    seconds = dict.fromkeys((*KINDS, OTHERS), 0.0)
    for operation in profiler.key_averages():
        seconds[kind_of(operation.key)] += operation.self_cpu_time_total / 1e6 / PASSES
    return seconds, None


def kind_of(operation: str) -> str:
    """Return the kind of an operation by its name, such as ``aten::silu_``."""
    words = operation.removeprefix("aten::")
    return next((kind for kind, parts in KINDS.items() if any(part in words for part in parts)), OTHERS)
