"""What can be measured, and the settings of a run. Nothing here needs torch: help and refusals are quick."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from effnet_zoo.bench.results import Data
from effnet_zoo.errors import ArgumentError, UnknownNameError, did_you_mean, quoted
from effnet_zoo.zoo import catalogue

Cases = Iterator[tuple[str, Callable[[], Data]]]
"""Each case of a measure: its subject in words, and what measures it."""

DTYPES_OF_DEVICES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
"""Dtypes by device. On a processor float16 is left out, because PyTorch and the engines compute it in float32."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One kind of measurement."""

    cases: str  # the module of this folder and the function in it that yields `Cases` of `Settings`
    on_gpu: bool = False
    in_processes: bool = False  # whether its contestants are processes of their own


MEASURES = {
    "ceiling": Measure("machine:ceiling_cases", on_gpu=True),
    "latency": Measure("forward:LATENCY.cases", on_gpu=True),
    "throughput": Measure("forward:THROUGHPUT.cases", on_gpu=True),
    "training": Measure("training:training_cases", on_gpu=True),
    "files": Measure("photos:file_cases"),
    "loading": Measure("processes:loading_cases", in_processes=True),
    "starting": Measure("processes:starting_cases", in_processes=True),
    "imports": Measure("processes:import_cases", in_processes=True),
    "agreement": Measure("photos:agreement_cases"),
    "deployment": Measure("photos:deployment_cases"),
    "profile": Measure("forward:profile_cases"),
    "batch-curve": Measure("forward:BATCH_CURVE.cases", on_gpu=True),
    "size-curve": Measure("forward:SIZE_CURVE.cases", on_gpu=True),
    "variant-curve": Measure("forward:VARIANT_CURVE.cases", on_gpu=True),
}
"""Every measure by its name, in the order in which they are made."""

QUICK = ("ceiling", "latency", "throughput")
"""The measures of a run for which no measure is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a run. They name variants, measures and devices that exist, and dtypes that a device has."""

    variants: tuple[str, ...]
    measures: tuple[str, ...]
    batches: tuple[int, ...] = (8,)  # of `throughput`
    rounds: int = 10  # how many turns each contestant has
    size: int | None = None  # side of the images in pixels; None for each variant's own
    device: str = "cpu"
    dtype: str = "float32"
    compiled: bool = False  # whether contestants take part that torch.compile builds in minutes
    workers: int = 2  # of `files`
    command: str = "effnet-zoo bench"  # the command line, which is kept with the results

    def __post_init__(self) -> None:
        for name in self.variants:
            catalogue.find_variant(name)
        for name in self.measures:
            if name not in MEASURES:
                raise UnknownNameError(
                    f"unknown measure {quoted(name)}: expected {', '.join(MEASURES)} or all."
                    f"{did_you_mean(name, MEASURES)}"
                )
        if self.device not in DTYPES_OF_DEVICES:
            raise UnknownNameError(f"unknown device {quoted(self.device)}: expected {' or '.join(DTYPES_OF_DEVICES)}")
        dtypes = DTYPES_OF_DEVICES[self.device]
        if self.dtype not in dtypes:
            raise ArgumentError(f"dtype {quoted(self.dtype)} on {self.device}: expected {' or '.join(dtypes)}")
        if idle := [name for name in self.measures if name not in all_measures(self.device)]:
            raise ArgumentError(f"{', '.join(idle)}: runs on the processor only: expected --device cpu")

    def size_of(self, variant: str) -> int:
        """Return the side of a variant's images in pixels: the given one, or its default checkpoint's."""
        return self.size or catalogue.find_variant(variant).default.preprocessing.size[0]


def all_measures(device: str) -> tuple[str, ...]:
    """Return the names of all measures that run on a device."""
    return tuple(name for name, measure in MEASURES.items() if measure.on_gpu or device != "cuda")


def processors() -> int:
    """Return how many processors this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
