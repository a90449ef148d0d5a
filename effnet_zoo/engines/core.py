"""The engine: a model run by the backend that was asked for, or that is fastest here, and held to its own outputs."""

import dataclasses
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.atomic_io import folder_written_whole
from effnet_zoo.engines import cache
from effnet_zoo.engines.backends import BACKENDS, Backend
from effnet_zoo.errors import (
    ArgumentError,
    EffnetZooError,
    EngineError,
    InputError,
    MissingExtraError,
    UnknownNameError,
    did_you_mean,
    first_line,
)
from effnet_zoo.graphs.interface import DTYPES, Size, own_size
from effnet_zoo.graphs.runtimes import Run
from effnet_zoo.model import EfficientNet
from effnet_zoo.selftest import relative_error
from effnet_zoo.spec import MIN_SIZE
from effnet_zoo.statefile import fingerprint

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
"""Largest relative error, ||outputs - model's|| / ||model's||, by dtype.

Trained weights lose 1e-5, 5e-2 and 6e-3 (Lite0 on photos); another epsilon, another padding or another image change
the logits by 0.5 and more.
"""

CHECKED = 2
"""Images of a first call whose outputs are compared: in inference they do not depend on the others of the batch."""

TRIALS, REST = 5, 0.05
"""Calls that `auto` times of each candidate, and seconds before each: threads of other runtimes spin for a while."""

BATCH = 8
"""Images a call that `auto` measures with, if not told."""


class Engine:
    """A model as a function: images float32 (n, channels, height, width) to outputs float32 (n, outputs), n free.

    It is made for the weights that the model has at the time. Do not train it: outputs carry no gradient.

    Attributes:
        model: What it computes.
        backend: The name of what runs it.
        dtype: What it computes in.
        size: Height and width it takes; None for any, each compiled when it first comes.
        error: Relative error of the last outputs that were compared; None before the first call.
    """

    def __init__(self, model: EfficientNet, backend: Backend, dtype: str, size: Size | None) -> None:
        self.model, self.dtype, self.size = model.eval(), dtype, size
        self.backend = backend.name
        self.error: float | None = None
        self._backend = backend
        self._threads = torch.get_num_threads()
        self._runs: dict[Size, Run] = {}
        self._checked: set[tuple[Size, bool]] = set()
        self._lock = threading.Lock()
        if size is not None:
            self._ready(size)

    def __repr__(self) -> str:
        return f"Engine({self.backend}, {self.dtype}, size={self.size})"

    def __call__(self, images: Tensor) -> Tensor:
        """Outputs of images; the first of each size are compared with the model's.

        Raises:
            InputError: If images are not float32, of other channels, smaller than 32 pixels, or of another size than
                the engine was made for.
            EngineError: If outputs differ from the model's by more than `TOLERANCE`.
        """
        size = self._check_images(images)
        if not len(images):
            raise InputError("engine: a batch of no images: expected at least one")
        with self._lock:
            run = self._ready(size)
            with torch.inference_mode():
                outputs = run(images)
            outputs = outputs.clone()  # what is made in inference mode may not be changed outside of it
            # One image is run otherwise than many, see `Plan`.
            if (size, len(images) == 1) not in self._checked:
                self._check(images, outputs, size)
                self._checked.add((size, len(images) == 1))
        return outputs

    def _check_images(self, images: Tensor) -> Size:
        channels = self.model.in_chans
        if images.dim() != 4 or images.shape[1] != channels or images.dtype != torch.float32:
            raise InputError(
                f"engine: images {images.dtype} of shape {tuple(images.shape)}: expected torch.float32 of "
                f"(n, {channels}, height, width)"
            )
        size = (images.shape[2], images.shape[3])
        if min(size) < MIN_SIZE:
            raise InputError(f"engine: images of {size[0]}x{size[1]} pixels: expected at least {MIN_SIZE}x{MIN_SIZE}")
        if self.size not in (None, size):
            raise InputError(
                f"engine: images of {size[0]}x{size[1]} pixels: this engine is made for {self.size[0]}x{self.size[1]}: "
                "make one with size=None for any"
            )
        return size

    def _ready(self, size: Size) -> Run:
        if size not in self._runs:
            self._runs[size] = self._made(size)
        return self._runs[size]

    def _made(self, size: Size) -> Run:
        backend, folder = self._backend, self._folder(size)
        try:
            if folder.exists():
                try:
                    return backend.load(self.model, self.dtype, folder, self._threads)
                except Exception:  # whatever a runtime raises on a file that was cut or made by another build
                    shutil.rmtree(folder)
            if backend.filename:
                self._export(size, folder)
            return backend.load(self.model, self.dtype, folder, self._threads)
        except EffnetZooError:
            raise
        except Exception as error:  # of the backend's own kinds, which nobody can list
            raise EngineError(
                f"engine {self.backend} cannot run this model: {first_line(error)}: try another backend"
            ) from error

    def _export(self, size: Size, folder: Path) -> None:
        try:
            with folder_written_whole(folder) as beside:
                self._backend.export(self.model, size, self.dtype, beside)
        except (InputError, OSError):
            if not folder.exists():  # else another process has put it there meanwhile
                raise

    def _folder(self, size: Size) -> Path:
        """Where the artefact is or shall be: there is nothing at the place of a backend that makes none."""
        facts = {
            "weights": fingerprint(self.model.state_dict()) if self._backend.filename else None,
            **_facts(self.model),
            "backend": [self.backend, self._backend.versions()],
            "dtype": self.dtype,
            "size": size,
        }
        return cache.folder() / cache.key(facts)

    def _check(self, images: Tensor, outputs: Tensor, size: Size) -> None:
        weight = self.model.conv_stem.weight
        with torch.inference_mode():
            expected = self.model(images[:CHECKED].to(weight.device, weight.dtype))
        some = outputs[:CHECKED]
        self.error = relative_error(some, expected) if some.shape == expected.shape else float("inf")
        allowed = max(TOLERANCE[self.dtype], TOLERANCE.get(str(weight.dtype).removeprefix("torch."), 0))
        if self.error > allowed:
            shutil.rmtree(self._folder(size), ignore_errors=True)
            del self._runs[size]
            raise EngineError(
                f"engine {self.backend}, {self.dtype}: outputs differ from the model's by a relative {self.error:.1e}: "
                f"expected at most {allowed:.0e}; try another backend or dtype"
            )


def engine(
    model_or_name: EfficientNet | str,
    backend: str = "auto",
    dtype: str = "float32",
    batch: int | None = None,
    size: int | Size | None = None,
) -> Engine:
    """A model as the fastest function of images on this machine.

    Args:
        model_or_name: A classifier, or a name to load with its weights.
        backend: ``eager``, ``inductor``, ``onnxruntime``, ``openvino``; or ``auto``, which times all of them that are
            installed and quick to make once, for this network, size, batch and dtype, and remembers the fastest.
        dtype: What to compute in: ``float32``, ``bfloat16``, ``float16``. Images and outputs are float32 with any.
        batch: Images a call that ``auto`` shall measure with; any number can be run.
        size: Side, or height and width, of the images, others then being refused; None takes any, and makes the engine
            anew for each when it first comes.

    Raises:
        UnknownNameError: If there is no such model or backend.
        ArgumentError: If the backend does not run on the model's device or compute in the dtype, or a value is none.
        MissingExtraError: If the backend's package is not installed.
        EngineError: If the backend cannot run the model.
        WeightsError: If the weights of a name cannot be had.
    """
    if backend not in ("auto", *BACKENDS):
        known = ["auto", *BACKENDS]
        raise UnknownNameError(
            f"unknown engine {backend!r}: expected {', '.join(known)}.{did_you_mean(backend, known)}"
        )
    if dtype not in DTYPES:
        raise ArgumentError(f"engine: dtype={dtype!r}: expected {', '.join(DTYPES)}")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ArgumentError(f"engine: batch={batch!r}: expected a whole number of at least 1, or None")
    sides = _sides(size)
    model = model_or_name
    if isinstance(model, str):
        from effnet_zoo.registry import create_classifier

        model = create_classifier(model, pretrained=True)
    if not isinstance(model, EfficientNet):
        raise ArgumentError(f"engine: expected a classifier of this package or its name, found {type(model).__name__}")
    device = model.conv_stem.weight.device.type
    if backend != "auto":
        BACKENDS[backend].check(device, dtype)
        return Engine(model, BACKENDS[backend], dtype, sides)
    return _fastest(model, list(_candidates(device, dtype)), dtype, batch or BATCH, sides)


def _sides(size: int | Size | None) -> Size | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < MIN_SIZE for side in sides):
        raise ArgumentError(
            f"engine: size={size!r}: expected a side, or height and width, of at least {MIN_SIZE} pixels"
        )
    return sides


def _candidates(device: str, dtype: str) -> Iterator[Backend]:
    for backend in BACKENDS.values():
        try:
            backend.check(device, dtype)
        except (ArgumentError, MissingExtraError):
            continue
        if not backend.patient:
            yield backend


def _fastest(model: EfficientNet, candidates: list[Backend], dtype: str, batch: int, sides: Size | None) -> Engine:
    size = sides or own_size(model)
    facts = {
        **_facts(model),
        "backends": {backend.name: backend.versions() for backend in candidates},
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "size": size,
        "batch": batch,
    }
    name = cache.key(facts)
    known = cache.recalled(name)
    for backend in candidates:
        if backend.name == known or len(candidates) == 1:
            return Engine(model, backend, dtype, sides)
    images = torch.randn(batch, model.in_chans, *size, generator=torch.Generator().manual_seed(0))
    engines, failures = [], []
    for backend in candidates:
        try:
            made = Engine(model, backend, dtype, sides)
            made(images)
        except EngineError as error:
            failures.append(str(error))
        else:
            engines.append(made)
    if not engines:
        raise EngineError("; ".join(failures))
    seconds: dict[str, list[float]] = {made.backend: [] for made in engines}
    for _ in range(TRIALS):
        for made in engines:
            time.sleep(REST)
            made(images)
            start = time.perf_counter()
            made(images)
            seconds[made.backend].append(time.perf_counter() - start)
    medians = {backend: statistics.median(taken) for backend, taken in seconds.items()}
    fastest = min(engines, key=lambda made: medians[made.backend])
    cache.remember(name, fastest.backend, medians)
    return fastest


def _facts(model: EfficientNet) -> dict[str, Any]:
    """What an artefact, and its speed, depend on besides the weights."""
    return {
        "network": [str(model), dataclasses.asdict(model.arch)],
        "device": str(model.conv_stem.weight.device),
    }
