"""Make an engine: a model that a chosen target runs, or the fastest one here. It is compared with the model."""

import dataclasses
import json
import os
import statistics
import threading
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.arch.checks import is_whole
from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.atomic_io import file_errors
from effnet_zoo.checkpoints.creation import create_classifier
from effnet_zoo.checkpoints.statefile import fingerprint
from effnet_zoo.errors import ArgumentError, EffnetZooError, EngineError, InputError, quoted
from effnet_zoo.network.folding import copied
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import chosen
from effnet_zoo.runtime import deployed, engine_cache
from effnet_zoo.runtime.metadata import COMPUTE_DTYPES, Interface, Size
from effnet_zoo.runtime.targets.onnx import MOST_IMAGES, Streams
from effnet_zoo.runtime.targets.table import ENGINES
from effnet_zoo.runtime.targets.target import Target, TensorFunction, runtime_errors

ENGINE_TOLERANCE: dict[str, float] = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
"""Largest relative error, ||outputs - model's|| / ||model's||, by dtype.

Trained weights have errors of 1e-5, 5e-2 and 6e-3 (Lite0 on photos). A wrong epsilon, padding or image changes the
logits by 0.5 and more.
"""

DRAWN = 2
"""Number of different images on which an engine is compared with the model; a larger batch repeats them."""

TRIALS, REST = 5, 0.05
"""Calls of each candidate that ``auto`` times, and seconds before each, while threads of other runtimes still spin."""

_BATCH = 8
"""Images in a call that ``auto`` times, by default."""

_first_process: int | None = None
"""The process in which the first engine was made: this one, or the one that this one was forked from."""

_inherited: list[Any] = []
"""What a forked process has of its parent's runtimes. Freeing it would wait for threads that the fork does not have."""


class Engine:
    """A model as a function: images float32 (n, channels, height, width) to outputs float32 (n, outputs), n free.

    It computes with the weights that the model had when the engine was made; later changes of the model do not matter.
    Its outputs carry no gradient. Any number of threads may call it. It can be pickled and copied: the copy is made
    again from the weights and the cache. A forked process makes its own engine at the first call.

    Attributes:
        model: What it computes: a copy in eval mode.
        backend: The name of what runs it.
        dtype: What it computes in.
        size: Height and width it takes; None for any, each compiled when it first comes.
        error: Largest relative error of the outputs that were compared; None before the first call.
    """

    def __init__(self, model: EfficientNet, backend: str, dtype: str, size: Size | None) -> None:
        global _first_process
        _first_process = _first_process or os.getpid()
        _check_fork(_first_process)
        self._target = ENGINES[backend]
        self._target.check_engine(model.conv_stem.weight.device.type, dtype)
        self.model, self.backend, self.dtype, self.size = model, backend, dtype, size
        self.error: float | None = None
        self._start()
        if size is not None:
            self._function_for(size)

    def _start(self) -> None:
        self._threads = torch.get_num_threads()
        self._functions: dict[Size, TensorFunction] = {}
        self._expected: dict[Size, tuple[Tensor, Tensor]] = {}
        self._checked: set[tuple[Size, Streams]] = set()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"Engine({self.backend}, {self.dtype}, size={self.size})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine, (self.model, self.backend, self.dtype, self.size)

    def __call__(self, images: Tensor) -> Tensor:
        """Return outputs of images, on the images' device.

        Before the first batch of a size, and of a number of images that is shared out to threads in another way,
        outputs of drawn images are compared with the model's.

        Raises:
            InputError: If images are not float32, have other channels, are smaller than 32 pixels, or of another size
                than the engine was made for.
            EngineError: If outputs differ from the model's by more than `ENGINE_TOLERANCE`, or the runtime fails.
        """
        size = self._check_images(images)
        if self._process != os.getpid():
            _check_fork(self._process)
            _inherited.append((self._functions, self._lock))
            self._start()
        streams = Streams.for_batch(len(images), self._threads)
        function = self._functions.get(size)
        if function is None or (size, streams) not in self._checked:
            with self._lock:
                function = self._function_for(size)
                if (size, streams) not in self._checked:
                    self._file(size)  # a runtime opens it once more for another number of threads
                    self._check_outputs(function, size, min(len(images), MOST_IMAGES * self._threads))
                    self._checked.add((size, streams))
        return self._computed(function, images).to(images.device)

    def _computed(self, function: TensorFunction, images: Tensor) -> Tensor:
        with runtime_errors(f"engine {self.backend} failed", "try another backend"), torch.inference_mode():
            outputs = function(images.detach())
        return outputs.clone()  # what is made in inference mode may not be changed outside of it

    def _check_images(self, images: Tensor) -> Size:
        if not isinstance(images, Tensor):
            raise InputError(f"engine: expected images as a torch.Tensor, found {type(images).__name__}")
        count, *shape = images.shape or (0,)
        if images.dtype != torch.float32 or not count or len(shape) != 3 or shape[0] != self.model.in_chans:
            raise InputError(
                f"engine: images {images.dtype} of shape {tuple(images.shape)}: expected torch.float32 of "
                f"(n, {self.model.in_chans}, height, width), at least one"
            )
        size = (shape[1], shape[2])
        if min(size) < MIN_SIZE or self.size not in (None, size):
            expected = f"at least {MIN_SIZE}x{MIN_SIZE}"
            if self.size:
                expected = (
                    f"{self.size[0]}x{self.size[1]}, as this engine was made; engine(..., size=None) takes any size"
                )
            raise InputError(f"engine: images of {size[0]}x{size[1]} pixels: expected {expected}")
        return size

    def _function_for(self, size: Size) -> TensorFunction:
        if size not in self._functions:
            with runtime_errors(f"engine {self.backend} cannot run this model", "try another backend"):
                self._functions[size] = self._target.load_engine(
                    self.model, self._file(size), threads=self._threads, dtype=self.dtype
                )
        return self._functions[size]

    def _file(self, size: Size) -> Path:
        """Return the file for a size. It has its hash, or is made again. A target without files has an empty path."""
        if not self._target.suffix:
            return Path()
        name, interface = f"model{self._target.suffix}", Interface(size=size, dtype=self.dtype)

        def write(folder: Path) -> None:
            self._target.build_engine(self.model, interface, folder / name)

        return engine_cache.cached_files(self._key(size), write) / name

    def _key(self, size: Size) -> str:
        backend = [self.backend, self._target.build_settings(self.model.conv_stem.weight.device)]
        return _cache_key(self.model, weights=self._weights, backend=backend, dtype=self.dtype, size=size)

    @cached_property
    def _weights(self) -> str:
        return fingerprint(self.model.state_dict())

    def _check_outputs(self, function: TensorFunction, size: Size, count: int) -> None:
        """Compare outputs with the model's on drawn images, which do not depend on the caller's."""
        weight = self.model.conv_stem.weight
        if size not in self._expected:
            drawn = torch.randn(DRAWN, self.model.in_chans, *size, generator=torch.Generator().manual_seed(0))
            (expected,) = deployed.model_outputs(self.model, [drawn.to(weight.device, weight.dtype)], "engine")
            self._expected[size] = drawn, expected
        drawn, expected = self._expected[size]
        some = torch.arange(count) % DRAWN
        error = deployed.error_of(self._computed(function, drawn[some]), expected[some])
        self.error = max(error, self.error or 0.0)
        tolerance = max(ENGINE_TOLERANCE[self.dtype], ENGINE_TOLERANCE.get(str(weight.dtype).removeprefix("torch."), 0))
        if not error <= tolerance:
            self._checked.clear()
            del self._functions[size]
            if self._target.suffix:
                engine_cache.discard_files(self._key(size))
        who = f"engine {self.backend}, {self.dtype}"
        deployed.check_error(error, tolerance, who, "try another backend or dtype")


def _check_fork(process: int) -> None:
    """Raise EngineError if torch would wait for threads that are only in the process this one was forked from."""
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
    """Return a model as the fastest function of images on this machine.

    Args:
        model_or_name: A classifier, or a name to load with its weights. The engine keeps a copy of the weights: the
            model stays as it is, and training it later does not change the engine.
        backend: ``eager``, ``inductor``, ``onnxruntime``, ``openvino``; or ``auto``. Once for this network, size, batch
            and dtype, ``auto`` times all of them that are installed and quick to make, and remembers the fastest.
        dtype: What to compute in: ``float32``, ``bfloat16``, ``float16``. Images and outputs are always float32.
        batch: Images a call that ``auto`` measures with, by default 8. Any number can be run.
        size: Side, or height and width, of the images: others are refused. None takes any, and makes a function for
            each size when it first comes.

    Raises:
        UnknownNameError: If there is no such model or backend.
        ArgumentError: If the backend does not run on the model's device or compute in the dtype, or a value is of
            another type or outside of its range.
        MissingExtraError: If the backend's package is not installed.
        FileError: If the cache cannot be written to, or others can write to it. ``eager`` needs no cache.
        EngineError: If the backend cannot run the model.
        WeightsError: If a name's weights are not available.
    """
    _check_fork(_first_process or os.getpid())
    chosen(backend, ("auto", *ENGINES), "engine")
    if dtype not in COMPUTE_DTYPES:
        raise ArgumentError(f"dtype={quoted(dtype)}: expected {', '.join(COMPUTE_DTYPES)}")
    if batch is not None and not is_whole(batch, least=1):
        raise ArgumentError(f"batch={quoted(batch)}: expected a whole number of at least 1, or None")
    sides = None if size is None else deployed.checked_size(size)
    if isinstance(model_or_name, str):
        model = create_classifier(model_or_name, pretrained=True)
    elif not isinstance(model_or_name, EfficientNet):
        raise ArgumentError(
            f"engine: expected a classifier of this package or its name, found {type(model_or_name).__name__}"
        )
    else:
        deployed.check_has_weights(model_or_name, "engine")
        model = copied(model_or_name)
    model.eval().requires_grad_(False)
    if backend != "auto":
        return Engine(model, backend, dtype, sides)
    return _fastest(model, dtype, batch or _BATCH, sides)


def _candidates(device: str, dtype: str) -> dict[str, Target]:
    """Return the engines that run here and are quick to make."""
    found = {}
    for name, target in ENGINES.items():
        with suppress(EffnetZooError):  # it does not run here
            target.check_engine(device, dtype)
            if not target.slow_to_build:
                found[name] = target
    return found


def _fastest(model: EfficientNet, dtype: str, batch: int, sides: Size | None) -> Engine:
    size, device = sides or deployed.own_size(model), model.conv_stem.weight.device
    candidates = _candidates(device.type, dtype)
    if len(candidates) == 1:
        return Engine(model, next(iter(candidates)), dtype, sides)
    engines: dict[str, Engine] = {}

    def measure(folder: Path) -> None:
        images = torch.randn(batch, model.in_chans, *size, generator=torch.Generator().manual_seed(0))
        failures = []
        for name in candidates:
            try:
                made = Engine(model, name, dtype, sides)
                made(images)
                engines[name] = made
            except EngineError as error:
                failures.append(str(error))
        if not engines:
            raise EngineError("; ".join(failures))
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(TRIALS):
            for name, run in engines.items():
                time.sleep(REST)
                run(images)
                start = time.perf_counter()
                run(images)
                seconds[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        with file_errors(folder):
            (folder / "seconds.json").write_text(json.dumps(medians, indent=1) + "\n")

    backends, threads = {name: one.build_settings(device) for name, one in candidates.items()}, torch.get_num_threads()
    key = _cache_key(model, backends=backends, threads=threads, dtype=dtype, size=size, batch=batch)
    measured = engine_cache.cached_files(key, measure) / "seconds.json"
    medians: dict[str, float] = json.loads(measured.read_text())
    fastest = min(medians, key=medians.__getitem__)
    return engines.get(fastest) or Engine(model, fastest, dtype, sides)


def _cache_key(model: EfficientNet, **settings: Any) -> str:
    """Return a hash of a model's network and device, and of what else an engine's file or speed depends on."""
    network, device = [str(model), dataclasses.asdict(model.arch)], str(model.conv_stem.weight.device)
    return engine_cache.cache_key({"network": network, "device": device, **settings})
