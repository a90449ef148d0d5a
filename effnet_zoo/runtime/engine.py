"""The engine: a model run by the backend that was asked for, or that is fastest here, and held to its own outputs."""

import dataclasses
import os
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.checkpoints.statefile import fingerprint
from effnet_zoo.errors import (
    ArgumentError,
    EffnetZooError,
    EngineError,
    InputError,
    UnknownNameError,
    did_you_mean,
    first_line,
    quoted,
)
from effnet_zoo.network.folding import copied
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime import artefacts
from effnet_zoo.runtime.backends import BACKENDS, Backend
from effnet_zoo.runtime.interface import DTYPES, Size, own_size
from effnet_zoo.runtime.sessions import Run
from effnet_zoo.runtime.streams import CHUNK, Plan
from effnet_zoo.zoo.preprocessing import LARGEST_SIDE

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
"""Largest relative error, ||outputs - model's|| / ||model's||, by dtype.

Trained weights lose 1e-5, 5e-2 and 6e-3 (Lite0 on photos); another epsilon, another padding or another image change
the logits by 0.5 and more.
"""

DRAWN = 2
"""Different images that an engine is compared with the model on; a larger batch repeats them."""

TRIALS, REST = 5, 0.05
"""Calls that `auto` times of each candidate, and seconds before each: threads of other runtimes spin for a while."""

BATCH = 8
"""Images a call that `auto` measures with, if not told."""

_first_process: int | None = None
"""The process in which the first engine was made: this one, or the one that this one was forked from."""

_inherited: list[Any] = []
"""What a forked process has of its parent's runtimes: to free it, they would wait for threads that are not there."""


class Engine:
    """A model as a function: images float32 (n, channels, height, width) to outputs float32 (n, outputs), n free.

    It computes with the weights that the model had when the engine was made, whatever becomes of the model, and its
    outputs carry no gradient. Any number of threads may call it. It can be pickled and copied: what is unpickled is
    made anew, from the weights and the cache. A forked process makes its own at the first call.

    Attributes:
        model: What it computes: a copy in eval mode.
        backend: The name of what runs it.
        dtype: What it computes in.
        size: Height and width it takes; None for any, each compiled when it first comes.
        error: Largest relative error of the outputs that were compared; None before the first call.
    """

    def __init__(self, model: EfficientNet, backend: Backend, dtype: str, size: Size | None) -> None:
        global _first_process
        if _first_process is None:
            _first_process = os.getpid()
        _check_threads(_first_process)
        self.model, self.dtype, self.size = model, dtype, size
        self.backend = backend.name
        self.error: float | None = None
        self._backend = backend
        self._start()
        if size is not None:
            self._ready(size)

    def _start(self) -> None:
        self._threads = torch.get_num_threads()
        self._runs: dict[Size, Run] = {}
        self._keys: dict[Size, str] = {}
        self._expected: dict[Size, tuple[Tensor, Tensor]] = {}
        self._checked: set[tuple[Size, Plan]] = set()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"Engine({self.backend}, {self.dtype}, size={self.size})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.model, self.backend, self.dtype, self.size)

    def __call__(self, images: Tensor) -> Tensor:
        """Returns outputs of images, on the images' device.

        Before the first batch of a size, and of a number that is shared out otherwise to threads, outputs of drawn
        images are compared with the model's.

        Raises:
            InputError: If images are not float32, of other channels, smaller than 32 pixels, or of another size than
                the engine was made for.
            EngineError: If outputs differ from the model's by more than `TOLERANCE`, or the backend fails.
        """
        size = self._check_images(images)
        if self._process != os.getpid():
            _check_threads(self._process)
            _inherited.append((self._runs, self._lock))
            self._start()
        plan = Plan.of(len(images), self._threads)
        run = self._runs.get(size)
        if run is None or (size, plan) not in self._checked:
            with self._lock:
                run = self._ready(size)
                if (size, plan) not in self._checked:
                    if self._backend.filename:
                        self._artefact(size)  # a runtime opens it once more for another number of threads
                    self._check(run, size, min(len(images), CHUNK * self._threads))
                    self._checked.add((size, plan))
        return self._computed(run, images).to(images.device)

    def _computed(self, run: Run, images: Tensor) -> Tensor:
        try:
            with torch.inference_mode():
                outputs = run(images.detach())
        except EffnetZooError:
            raise
        except Exception as error:  # of the backend's own kinds, which nobody can list
            raise EngineError(f"engine {self.backend} failed: {first_line(error)}: try another backend") from error
        return outputs.clone()  # what is made in inference mode may not be changed outside of it

    def _check_images(self, images: Tensor) -> Size:
        if not isinstance(images, Tensor):
            raise InputError(f"engine: expected images as a torch.Tensor, found {type(images).__name__}")
        channels = self.model.in_chans
        if images.dim() != 4 or images.shape[1] != channels or images.dtype != torch.float32:
            raise InputError(
                f"engine: images {images.dtype} of shape {tuple(images.shape)}: expected torch.float32 of "
                f"(n, {channels}, height, width)"
            )
        if not len(images):
            raise InputError("engine: a batch of no images: expected at least one")
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
            try:
                self._runs[size] = self._made(size)
            except EffnetZooError:
                raise
            except Exception as error:  # of the backend's own kinds, which nobody can list
                raise EngineError(
                    f"engine {self.backend} cannot run this model: {first_line(error)}: try another backend"
                ) from error
        return self._runs[size]

    def _made(self, size: Size) -> Run:
        backend, model, dtype = self._backend, self.model, self.dtype
        if not backend.filename:
            return backend.load(model, dtype, Path(), self._threads)
        return backend.load(model, dtype, self._artefact(size), self._threads)

    def _artefact(self, size: Size) -> Path:
        """Returns the folder of the artefact for a size, which is as it was recorded, or made anew."""
        backend, model, dtype = self._backend, self.model, self.dtype
        return artefacts.artefact(self._key(size), lambda draft: backend.export(model, size, dtype, draft))

    def _key(self, size: Size) -> str:
        """Returns the name of the artefact for a size."""
        if size not in self._keys:
            self._keys[size] = artefacts.key(
                {
                    "weights": fingerprint(self.model.state_dict()),
                    **_facts(self.model),
                    "backend": [self.backend, self._backend.facts(self.model.conv_stem.weight.device)],
                    "dtype": self.dtype,
                    "size": size,
                }
            )
        return self._keys[size]

    def _check(self, run: Run, size: Size, count: int) -> None:
        """Compares outputs with the model's on images that have nothing to do with the caller's."""
        weight = self.model.conv_stem.weight
        if size not in self._expected:
            drawn = torch.randn(DRAWN, self.model.in_chans, *size, generator=torch.Generator().manual_seed(0))
            with torch.inference_mode():
                expected = self.model(drawn.to(weight.device, weight.dtype)).float().cpu()
            if not expected.isfinite().all():
                raise EngineError(
                    f"engine: the model's own outputs are not finite on drawn images of {size[0]}x{size[1]} pixels: "
                    "expected weights without NaN or infinity, and activations that fit the dtype of the model"
                )
            self._expected[size] = drawn, expected
        drawn, expected = self._expected[size]
        chosen = torch.arange(count) % DRAWN
        outputs, expected = self._computed(run, drawn[chosen]), expected[chosen]
        error = relative_error(outputs, expected) if outputs.shape == expected.shape else float("inf")
        self.error = max(error, self.error or 0.0)
        allowed = max(TOLERANCE[self.dtype], TOLERANCE.get(str(weight.dtype).removeprefix("torch."), 0))
        if error > allowed:
            del self._runs[size]
            if self._backend.filename:
                artefacts.discard(self._key(size))
            raise EngineError(
                f"engine {self.backend}, {self.dtype}: outputs differ from the model's by a relative {error:.1e}: "
                f"expected at most {allowed:.0e}; try another backend or dtype"
            )


def _restored(model: EfficientNet, backend: str, dtype: str, size: Size | None) -> Engine:
    """Returns an engine that was pickled or copied."""
    BACKENDS[backend].check(model.conv_stem.weight.device.type, dtype)
    return Engine(model, BACKENDS[backend], dtype, size)


def _check_threads(process: int) -> None:
    """Checks that torch does not wait for threads that were left behind in the process this one was forked from.

    Raises:
        EngineError: If it would.
    """
    if process != os.getpid() and torch.get_num_threads() > 1:
        raise EngineError(
            f"engine: this process was forked from process {process}, which made an engine, and a fork has no threads "
            "to compute with: call torch.set_num_threads(1) first, as a DataLoader does in its workers, or start "
            "processes by 'spawn'"
        )


def engine(
    model_or_name: EfficientNet | str,
    backend: str = "auto",
    dtype: str = "float32",
    batch: int | None = None,
    size: int | Size | None = None,
) -> Engine:
    """Returns a model as the fastest function of images on this machine.

    Args:
        model_or_name: A classifier, or a name to load with its weights. The engine keeps a copy of the weights: the
            model stays as it is, and training it later does not change the engine.
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
        FileError: If the cache cannot be written to, or others can; ``eager`` needs none.
        EngineError: If the backend cannot run the model.
        WeightsError: If the weights of a name cannot be had.
    """
    if _first_process is not None:
        _check_threads(_first_process)
    if not isinstance(backend, str) or backend not in ("auto", *BACKENDS):
        known = ["auto", *BACKENDS]
        raise UnknownNameError(
            f"unknown engine {quoted(backend)}: expected {', '.join(known)}.{did_you_mean(str(backend), known)}"
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ArgumentError(f"engine: dtype={quoted(dtype)}: expected {', '.join(DTYPES)}")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ArgumentError(f"engine: batch={quoted(batch)}: expected a whole number of at least 1, or None")
    sides = _sides(size)
    if isinstance(model_or_name, str):
        from effnet_zoo.registry import create_classifier

        model = create_classifier(model_or_name, pretrained=True)
    elif not isinstance(model_or_name, EfficientNet):
        raise ArgumentError(
            f"engine: expected a classifier of this package or its name, found {type(model_or_name).__name__}"
        )
    elif any(tensor.is_meta for tensor in model_or_name.state_dict().values()):
        raise ArgumentError("engine: the model is on the meta device: expected one with weights, load them first")
    else:
        model = copied(model_or_name)
    model.eval().requires_grad_(False)
    device = model.conv_stem.weight.device.type
    if backend != "auto":
        BACKENDS[backend].check(device, dtype)
        return Engine(model, BACKENDS[backend], dtype, sides)
    return _fastest(model, list(_candidates(device, dtype)), dtype, batch or BATCH, sides)


def _sides(size: int | Size | None) -> Size | None:
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or any(
        isinstance(side, bool) or not isinstance(side, int) or not MIN_SIZE <= side <= LARGEST_SIDE for side in sides
    ):
        raise ArgumentError(
            f"engine: size={quoted(size)}: expected a side, or height and width, of {MIN_SIZE} to {LARGEST_SIDE} pixels"
        )
    return sides


def _candidates(device: str, dtype: str) -> Iterator[Backend]:
    for backend in BACKENDS.values():
        try:
            backend.check(device, dtype)
        except EffnetZooError:  # it does not run here
            continue
        if not backend.patient:
            yield backend


def _fastest(model: EfficientNet, candidates: list[Backend], dtype: str, batch: int, sides: Size | None) -> Engine:
    size = sides or own_size(model)
    facts = {
        **_facts(model),
        "backends": {backend.name: backend.facts(model.conv_stem.weight.device) for backend in candidates},
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "size": size,
        "batch": batch,
    }
    if len(candidates) == 1:
        return Engine(model, candidates[0], dtype, sides)
    name = artefacts.key(facts)
    known = artefacts.recalled(name)
    for backend in candidates:
        if backend.name == known:
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
    artefacts.remember(name, fastest.backend, medians)
    return fastest


def _facts(model: EfficientNet) -> dict[str, Any]:
    """What an artefact, and its speed, depend on besides the weights."""
    return {
        "network": [str(model), dataclasses.asdict(model.arch)],
        "device": str(model.conv_stem.weight.device),
    }
