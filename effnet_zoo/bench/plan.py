"""Which measures there are, what each is run for, and the record that is kept of it.

A measure is imported when it is planned, so that the command's help and its complaints need no torch.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from effnet_zoo import documents
from effnet_zoo.bench.results import Record
from effnet_zoo.errors import (
    ArgumentError,
    EffnetZooError,
    EngineError,
    UnknownNameError,
    did_you_mean,
    first_line,
    quoted,
)
from effnet_zoo.zoo import catalogue

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

TRAINING_BATCH = 8

DEVICES = ("cpu", "cuda")
DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
"""By device. No processor is measured in float16: PyTorch and the engines compute it in float32 there."""

Data = dict[str, Any]
Subjects = Iterator[tuple[str, Callable[[], Data]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, and how.

    Attributes:
        variants: timm names.
        measures: Keys of `MEASURES`.
        batches: Of `throughput`; `latency` is at batch 1.
        rounds: How often every contestant has a turn.
        size: Side of the images in pixels; None for each variant's own.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32``, ``bfloat16`` or, on CUDA, ``float16``.
        compiled: Whether what torch.compile builds takes part.
        workers: Of `files`.
        command: What was typed, for the record.

    Raises:
        UnknownNameError: If there is no such variant, measure or device.
        ArgumentError: If the others do not fit together.
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
            raise ArgumentError(f"{', '.join(idle)}: nothing of this runs on a GPU: expected --device cpu with it")

    def size_of(self, variant: str) -> int:
        """The side of a variant's images: its checkpoint's, if none was asked for."""
        return self.size or catalogue.find_variant(variant).default.preprocessing.size[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What can be measured: in words, what of, whether a GPU has a part in it, and whether in fresh processes."""

    help: str
    subjects: Callable[[Settings], Subjects]
    on_gpu: bool = False
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One measurement that is still to be made: its measure, what of, and how."""

    measure: str
    subject: str
    run: Callable[[], Data]


def _forward(
    settings: Settings, variant: str, *, batch: int, size: int | None = None, only: tuple[str, ...] | None = None
) -> tuple[str, Callable[[], Data]]:
    from effnet_zoo.bench import forward

    size = size or settings.size_of(variant)
    subject = f"{variant}, {size} px, batch {batch}, {settings.dtype}, {settings.device}"
    return subject, partial(
        forward.measure,
        variant,
        size=size,
        batch=batch,
        rounds=settings.rounds,
        dtype=settings.dtype,
        device=settings.device,
        compiled=settings.compiled and only is None,
        only=only,
    )


def _latency(settings: Settings) -> Subjects:
    for variant in settings.variants:
        yield _forward(settings, variant, batch=1)


def _throughput(settings: Settings) -> Subjects:
    for variant in settings.variants:
        for batch in settings.batches:
            if batch > 1 or "latency" not in settings.measures:
                yield _forward(settings, variant, batch=batch)


def _batch_curve(settings: Settings) -> Subjects:
    for variant in settings.variants:
        for batch in CURVE_BATCHES:
            yield _forward(settings, variant, batch=batch, only=CURVE_CONTESTANTS)


def _size_curve(settings: Settings) -> Subjects:
    for variant in settings.variants:
        for size in CURVE_SIZES:
            yield _forward(settings, variant, batch=1, size=size, only=CURVE_CONTESTANTS)


def _variant_curve(settings: Settings) -> Subjects:
    for variant in CURVE_VARIANTS:
        yield _forward(settings, variant, batch=1, only=CURVE_CONTESTANTS)


def _training(settings: Settings) -> Subjects:
    from effnet_zoo.bench import training

    for variant in settings.variants:
        size = settings.size_of(variant)
        yield (
            f"{variant}, {size} px, batch {TRAINING_BATCH}, {settings.dtype}, {settings.device}",
            partial(
                training.measure,
                variant,
                size=size,
                batch=TRAINING_BATCH,
                rounds=settings.rounds,
                dtype=settings.dtype,
                device=settings.device,
            ),
        )


def _loading(settings: Settings) -> Subjects:
    from effnet_zoo.bench import loading

    for variant in settings.variants:
        for place in loading.PLACES:
            yield f"{variant}, {place}", partial(loading.measure, variant, place=place, rounds=settings.rounds)


def _starting(settings: Settings) -> Subjects:
    from effnet_zoo.bench import starting

    for variant in settings.variants:
        size = settings.size_of(variant)
        yield (
            f"{variant}, {size} px",
            partial(starting.measure, variant, size=size, rounds=settings.rounds, compiled=settings.compiled),
        )


def _imports(settings: Settings) -> Subjects:
    from effnet_zoo.bench import imports

    yield "timm", partial(imports.measure, rounds=settings.rounds)


def _files(settings: Settings) -> Subjects:
    from effnet_zoo.bench import files

    for kind in files.SETS:
        yield kind, partial(files.measure, kind, rounds=settings.rounds, workers=settings.workers)


def _agreement(settings: Settings) -> Subjects:
    from effnet_zoo.bench import agreement
    from effnet_zoo.images import photos

    yield photos.CHECKPOINT, partial(agreement.measure, compiled=settings.compiled)


def _deployment(settings: Settings) -> Subjects:
    from effnet_zoo.bench import deployment
    from effnet_zoo.images import photos

    yield photos.CHECKPOINT, partial(deployment.measure, rounds=settings.rounds, compiled=settings.compiled)


def _profile(settings: Settings) -> Subjects:
    from effnet_zoo.bench import profile

    for variant in settings.variants:
        size = settings.size_of(variant)
        for batch in dict.fromkeys((1, *settings.batches)):
            yield (
                f"{variant}, {size} px, batch {batch}, {settings.dtype}",
                partial(profile.measure, variant, size=size, batch=batch, dtype=settings.dtype),
            )


def _ceiling(settings: Settings) -> Subjects:
    from effnet_zoo.bench import machine

    yield settings.device, partial(machine.measure, settings.device)


MEASURES = {
    "ceiling": Measure(help="what this machine does at most", subjects=_ceiling, on_gpu=True),
    "latency": Measure(help="the forward pass at batch 1", subjects=_latency, on_gpu=True),
    "throughput": Measure(help="the forward pass at each --batch", subjects=_throughput, on_gpu=True),
    "training": Measure(help="a step, and the bytes it keeps for backward", subjects=_training, on_gpu=True),
    "files": Measure(help="JPEG files to labels", subjects=_files),
    "loading": Measure(help="weights into a model, in fresh processes", subjects=_loading, fresh=True),
    "starting": Measure(help="a fresh process to its first logits", subjects=_starting, fresh=True),
    "imports": Measure(help="what the import costs", subjects=_imports, fresh=True),
    "agreement": Measure(help="labels of real photos by every engine and dtype", subjects=_agreement),
    "deployment": Measure(help="exported and int8 files: size, time, labels", subjects=_deployment),
    "profile": Measure(help="where a forward pass spends its time", subjects=_profile),
    "batch-curve": Measure(help="time against batch", subjects=_batch_curve, on_gpu=True),
    "size-curve": Measure(help="time against resolution", subjects=_size_curve, on_gpu=True),
    "variant-curve": Measure(help="time against variant", subjects=_variant_curve, on_gpu=True),
}
"""By name, in the order in which they are shown."""

QUICK = ("ceiling", "latency", "throughput")
"""What is measured if nothing is asked for."""


def processors() -> int:
    """How many this process may use, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def all_measures(device: str) -> tuple[str, ...]:
    """Every measure that a device has a part in."""
    return tuple(name for name, measure in MEASURES.items() if measure.on_gpu or device != "cuda")


def steps(settings: Settings) -> list[Step]:
    """Every measurement that settings ask for, in order."""
    return [
        Step(measure=name, subject=subject, run=run)
        for name in settings.measures
        for subject, run in MEASURES[name].subjects(settings)
    ]


def recorded(step: Step, settings: Settings) -> Record:
    """Makes a measurement.

    Raises:
        EngineError: If it failed, whatever was raised: a measurement must not end the others. Or if a figure is not
            finite, or nobody could be measured.
    """
    import torch

    from effnet_zoo.bench import machine

    torch.compiler.reset()  # of one forward, which all variants share, it compiles only so many versions
    try:
        data = step.run()
    except EffnetZooError:
        raise
    except Exception as error:  # whatever a library raises
        raise EngineError(f"{type(error).__name__}: {first_line(error)}") from error
    documents.check_finite(data, "data", EngineError)
    if not data["results"]:
        why = [f"{who}: {reason}" for key in ("refused", "absent") for who, reason in data.get(key, {}).items()]
        raise EngineError(f"nobody could be measured: {'; '.join(why)}")
    return Record(
        measure=step.measure,
        subject=step.subject,
        command=settings.command,
        date=datetime.now(UTC).date().isoformat(),
        machine=machine.describe(settings.device),
        versions=machine.versions(),
        data=data,
    )
