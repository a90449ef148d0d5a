"""Classify image files, or compute their features: threads read files ahead while the model runs, in batches."""

import functools
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy
from numpy.typing import NDArray

from effnet_zoo.errors import ArgumentError, InputError, quoted
from effnet_zoo.images.reader import read_ahead
from effnet_zoo.images.transform import Pixels
from effnet_zoo.zoo.class_names import class_names

if TYPE_CHECKING:
    from torch import Tensor

    from effnet_zoo.network.model import EfficientNet
    from effnet_zoo.predict.torch_model import Run, TorchModel
    from effnet_zoo.runtime.exported import Exported

Runnable: TypeAlias = "TorchModel | Exported"
"""What reads image files and computes logits or features of them."""

Outputs = NDArray[numpy.float32]
"""Outputs of one image (outputs,), or of several (n, outputs)."""

LARGEST_BATCH = 1 << 16
"""Largest number of images in a batch: the pixels of two batches wait in memory."""

MOST_WORKERS = 1 << 10
"""Largest number of threads that read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One class: its index in the logits, its name, and its softmax probability."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A file's classes, most likely first, or the error instead."""

    path: Path
    guesses: tuple[Guess, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A file's pooled features, or the error instead.

    Attributes:
        path: The image file.
        values: The features, float32 (num_features,).
        error: Why there are no features.
    """

    path: Path
    values: Outputs | None = None
    error: str | None = None

    @property
    def features(self) -> "Tensor | None":
        """The features as a tensor on the CPU, float32 (num_features,); None if there is an error."""
        import torch

        return None if self.values is None else torch.from_numpy(self.values)


def predict(
    model: "EfficientNet | Runnable",
    paths: Iterable[Path | str],
    *,
    topk: int = 5,
    run: "Run | None" = None,
    batch_size: int = 32,
    workers: int | None = None,
    orientation: bool = True,
) -> Iterator[Prediction]:
    """Classify image files, each with the model's own preprocessing. Paths are drawn as they are needed.

    Args:
        model: A classifier with a ``pretrained_cfg``, on any device and in any dtype, which is run in eval mode; or an
            exported classifier.
        paths: Image files.
        topk: How many classes to give, most likely first; all of them if the model has fewer.
        run: A function that computes the classifier's logits, for instance an engine made of it: float32 images
            (n, channels, height, width) on the model's device to (n, classes). The classifier itself by default.
        batch_size: Images a batch, at most.
        workers: Threads that read files. By default as many as torch computes with, or, where torch is not imported,
            as there are processors.
        orientation: Whether images are turned as their EXIF orientation says. The pipelines behind published figures
            do not turn them.

    Returns:
        A prediction for each path, in order. It has an `error` if the file cannot be read, or if an output of the model
        for it is not a finite number.

    Raises:
        ArgumentError: If an argument has another type or is out of its range, or the model has no classes.
    """
    runnable = _as_runnable(model, run)
    _check_whole("topk", topk, None)
    if not runnable.num_classes:
        raise ArgumentError("predict: expected a model with classes, found one without: use embed")
    labels = class_names(runnable.num_classes, runnable.pretrained_cfg.get("label_names"))

    def prediction(path: Path, logits: Outputs | InputError) -> Prediction:
        if isinstance(logits, InputError):
            return Prediction(path=path, error=str(logits))
        exponentials = numpy.exp(logits - logits.max())
        probabilities = exponentials / exponentials.sum()
        top = numpy.argsort(-probabilities, kind="stable")[:topk]
        guesses = (Guess(index=i, label=labels[i], probability=float(probabilities[i])) for i in top.tolist())
        return Prediction(path=path, guesses=tuple(guesses))

    return itertools.starmap(prediction, _outputs(runnable, paths, batch_size, workers, orientation))


def embed(
    model: "EfficientNet | Runnable",
    paths: Iterable[Path | str],
    *,
    run: "Run | None" = None,
    batch_size: int = 32,
    workers: int | None = None,
    orientation: bool = True,
) -> Iterator[Embedding]:
    """Compute the pooled features of image files with a model made with num_classes=0, as `predict` computes classes.

    Raises:
        ArgumentError: If an argument has another type or is out of its range, or the model has classes.
    """
    runnable = _as_runnable(model, run)
    if runnable.num_classes:
        raise ArgumentError(
            f"embed: expected a model without classes, found one of {runnable.num_classes} classes: "
            "give num_classes=0, or a file that was exported with it"
        )

    def embedding(path: Path, features: Outputs | InputError) -> Embedding:
        if isinstance(features, InputError):
            return Embedding(path=path, error=str(features))
        return Embedding(path=path, values=features.copy())  # a view would keep the whole batch in memory

    return itertools.starmap(embedding, _outputs(runnable, paths, batch_size, workers, orientation))


def _outputs(
    runnable: Runnable, paths: Iterable[Path | str], batch_size: int, workers: int | None, orientation: bool
) -> Iterator[tuple[Path, Outputs | InputError]]:
    """Yield each path with its outputs, or with the error instead. Check the arguments at once."""
    torch = sys.modules.get("torch")  # only ONNX Runtime and OpenVINO run without it
    workers = (torch.get_num_threads() if torch else os.cpu_count() or 1) if workers is None else workers
    _check_whole("batch_size", batch_size, LARGEST_BATCH)
    _check_whole("workers", workers, MOST_WORKERS)
    if not isinstance(orientation, bool):
        raise ArgumentError(f"orientation={quoted(orientation)}: expected True or False")
    if isinstance(paths, str | bytes | os.PathLike) or not isinstance(paths, Iterable):
        raise ArgumentError(f"paths={quoted(paths)}: expected several paths, such as a list")
    read = functools.partial(runnable.read, orientation=orientation)
    # One batch is read while another is computed, and each worker has its next file at hand.
    images = read_ahead(map(_as_path, paths), read, workers=workers, ahead=2 * batch_size + workers)
    return _in_batches(runnable, images, batch_size)


def _check_whole(name: str, value: object, most: int | None) -> None:
    if type(value) is not int or value < 1 or (most is not None and value > most):
        bound = "of at least 1" if most is None else f"from 1 to {most}"
        raise ArgumentError(f"{name}={quoted(value)}: expected a whole number {bound}")


def _as_path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"paths: expected paths of image files, found {type(path).__name__}")
    return Path(path)


def _in_batches(
    runnable: Runnable, images: Iterator[tuple[Path, Pixels | InputError]], batch_size: int
) -> Iterator[tuple[Path, Outputs | InputError]]:
    while batch := list(itertools.islice(images, batch_size)):
        pixels = [image for _, image in batch if not isinstance(image, InputError)]
        outputs = runnable(pixels) if pixels else numpy.empty((0, 0), numpy.float32)
        if outputs.ndim != 2 or len(outputs) != len(pixels):
            raise ArgumentError(
                f"run: outputs of shape {outputs.shape} for {len(pixels)} images: expected ({len(pixels)}, outputs)"
            )
        rows = iter(outputs)
        for path, image in batch:
            yield path, image if isinstance(image, InputError) else _finite(path, next(rows), runnable.dtype)


def _finite(path: Path, outputs: Outputs, dtype: str) -> Outputs | InputError:
    """Return outputs, or an error if numbers among them are not finite."""
    count = len(outputs) - int(numpy.isfinite(outputs).sum())
    if not count:
        return outputs
    advice = "check the weights and the preprocessing" if dtype in ("float32", "float64") else "compute in float32"
    return InputError(
        f"{path}: {count} of {len(outputs)} outputs are not finite in {dtype}: expected numbers: {advice}"
    )


def _as_runnable(model: "EfficientNet | Runnable", run: "Run | None") -> Runnable:
    """Return an exported model as it is, and an `EfficientNet` with what computes it, itself by default."""
    if callable(getattr(model, "read", None)):
        return cast("Runnable", model)
    from effnet_zoo.predict.torch_model import TorchModel

    return TorchModel(cast("EfficientNet", model), run)
