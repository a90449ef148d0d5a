"""What can be measured, and the settings of a run. Nothing here needs torch, so that help and refusals are quick."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from effnet_zoo.errors import ArgumentError, UnknownNameError, did_you_mean, quoted
from effnet_zoo.zoo import catalogue

Cases = Iterator[tuple[str, Callable[[], dict[str, Any]]]]
"""What a measure runs: each case in words, and what measures it and returns `results.Data`."""

DEVICES = ("cpu", "cuda")
DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
"""Dtypes by device. On a processor float16 is left out, because PyTorch and the engines compute it in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure in words, whether it runs on a GPU, and whether its contestants are processes of their own."""

    help: str
    on_gpu: bool = False
    in_processes: bool = False


MEASURES = {
    "ceiling": Measure(help="what this machine does at most", on_gpu=True),
    "latency": Measure(help="the forward pass at batch 1", on_gpu=True),
    "throughput": Measure(help="the forward pass at each --batch", on_gpu=True),
    "training": Measure(help="a step, and the bytes it keeps for backward", on_gpu=True),
    "files": Measure(help="JPEG files to labels"),
    "loading": Measure(help="weights into a model, in fresh processes", in_processes=True),
    "starting": Measure(help="a fresh process to its first logits; one photo by the command", in_processes=True),
    "imports": Measure(help="what the import costs", in_processes=True),
    "agreement": Measure(help="labels of real photos by every engine and dtype"),
    "deployment": Measure(help="exported and int8 files: size, time, labels"),
    "profile": Measure(help="where a forward pass spends its time"),
    "batch-curve": Measure(help="time against batch", on_gpu=True),
    "size-curve": Measure(help="time against resolution", on_gpu=True),
    "variant-curve": Measure(help="time against variant", on_gpu=True),
}
"""Every measure by its name, in the order in which they are made. `suite.CASES` holds what each of them runs."""

QUICK = ("ceiling", "latency", "throughput")
"""The measures of a run for which none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a run: what is measured, and how.

    Attributes:
        variants: timm names.
        measures: Keys of `MEASURES`.
        batches: Images of a batch, of `throughput`; `latency` has batch 1.
        rounds: How many turns each contestant has.
        size: Side of the images in pixels; None for each variant's own.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32``, ``bfloat16`` or, on CUDA, ``float16``.
        compiled: Whether contestants take part that torch.compile builds in minutes.
        workers: Workers that read files, of `files`.
        command: The command line, which is kept with the results.

    Raises:
        UnknownNameError: If a variant, measure or device does not exist.
        ArgumentError: If the dtype or a measure does not exist on the device.
    """

    variants: tuple[str, ...]
    measures: tuple[str, ...]
    batches: tuple[int, ...] = (8,)
    rounds: int = 10
    size: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    compiled: bool = False
    workers: int = 2
    command: str = "effnet-zoo bench"

    def __post_init__(self) -> None:
        for name in self.variants:
            catalogue.find_variant(name)
        for name in self.measures:
            if name not in MEASURES:
                raise UnknownNameError(
                    f"unknown measure {quoted(name)}: expected {', '.join(MEASURES)} or all."
                    f"{did_you_mean(name, MEASURES)}"
                )
        if self.device not in DEVICES:
            raise UnknownNameError(f"unknown device {quoted(self.device)}: expected {' or '.join(DEVICES)}")
        if self.dtype not in DTYPES[self.device]:
            raise ArgumentError(
                f"dtype {quoted(self.dtype)} on {self.device}: expected {' or '.join(DTYPES[self.device])}"
            )
        if self.device == "cuda" and (idle := [name for name in self.measures if not MEASURES[name].on_gpu]):
            raise ArgumentError(f"{', '.join(idle)}: runs on the processor only: expected --device cpu")

    def size_of(self, variant: str) -> int:
        """Return the side of a variant's images: the one that was asked for, or its default checkpoint's."""
        return self.size or catalogue.find_variant(variant).default.preprocessing.size[0]


def processors() -> int:
    """Return how many processors this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def all_measures(device: str) -> tuple[str, ...]:
    """Return the names of all measures that run on a device."""
    return tuple(name for name, measure in MEASURES.items() if measure.on_gpu or device != "cuda")
