"""Image files to their most likely classes, or to features: read ahead by threads while the model runs, in batches."""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from effnet_zoo.errors import ArgumentError, InputError, quoted
from effnet_zoo.images.reader import Reader, read_ahead
from effnet_zoo.images.transform import normalised
from effnet_zoo.network.folding import in_eval
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import check_flags
from effnet_zoo.zoo.class_names import class_names
from effnet_zoo.zoo.preprocessing import preprocessing_of

Run = Callable[[Tensor], Tensor]
"""Float32 images (n, channels, height, width), on the model's device, to (n, outputs)."""

MOST_IMAGES = 1 << 16
"""Images a run at most: pixels of twice as many are held while they wait."""

MOST_WORKERS = 1 << 10
"""Threads that read, at most."""


class Runnable(Protocol):
    """What has outputs of its own for files, such as an exported model: how it reads them, and what it computes."""

    num_classes: int
    pretrained_cfg: dict[str, Any]
    head_hidden_size: int
    fingerprint: str

    @property
    def dtype(self) -> str: ...
    def read(self, path: Path, *, orientation: bool = True) -> Tensor: ...
    def __call__(self, pixels: Sequence[Tensor]) -> Tensor: ...


Model = EfficientNet | Runnable


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One class: its index in the logits, its name, and its softmax probability."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says of one file: its guesses, most likely first, or why there are none."""

    path: Path
    guesses: tuple[Guess, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A file's pooled features, float32 (num_features,) on the CPU, or why there are none."""

    path: Path
    features: Tensor | None = None
    error: str | None = None


def predict(
    model: Model,
    paths: Iterable[Path | str],
    *,
    topk: int = 5,
    run: Run | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    orientation: bool = True,
) -> Iterator[Prediction]:
    """Classifies files, each with the model's own preprocessing. Paths are drawn as they are needed.

    Args:
        model: A classifier with a ``pretrained_cfg``, on any device and in any dtype, which is put in eval mode; or an
            exported one.
        paths: Image files.
        topk: How many classes; all of them if the model has fewer.
        run: What computes a classifier's logits, such as an engine made of it; by default itself.
        batch_size: Images a run, at most.
        workers: Threads that read; by default as many as torch computes with.
        orientation: Whether images are turned as their EXIF orientation says. Published figures come from pipelines
            that do not.

    Returns:
        A prediction for each path, in order. It has an `error` if the file cannot be read, or the model's outputs for
        it are not finite.

    Raises:
        ArgumentError: If an argument is of another type or outside of its range, or the model has no classes.
    """
    _check_model(model)
    _check_whole("topk", topk, None)
    if not model.num_classes:
        raise ArgumentError("predict: expected a model with classes, found one without: use embed")
    labels = class_names(model.num_classes, model.pretrained_cfg.get("label_names"))

    def prediction(path: Path, logits: Tensor | InputError) -> Prediction:
        if isinstance(logits, InputError):
            return Prediction(path=path, error=str(logits))
        top = logits.softmax(0).topk(min(topk, len(labels)))
        pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        return Prediction(
            path=path,
            guesses=tuple(Guess(index=index, label=labels[index], probability=value) for value, index in pairs),
        )

    return itertools.starmap(prediction, _outputs(model, paths, run, batch_size, workers, orientation))


def embed(
    model: Model,
    paths: Iterable[Path | str],
    *,
    run: Run | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    orientation: bool = True,
) -> Iterator[Embedding]:
    """Computes the pooled features of files: `predict` for a model made with num_classes=0.

    Raises:
        ArgumentError: If an argument is of another type or outside of its range, or the model has classes.
    """
    _check_model(model)
    if model.num_classes:
        raise ArgumentError(f"embed: expected a model without classes, found {model.num_classes}: give num_classes=0")

    def embedding(path: Path, features: Tensor | InputError) -> Embedding:
        if isinstance(features, InputError):
            return Embedding(path=path, error=str(features))
        # A copy may be trained with, which what is made in inference mode may not, and does not hold the batch.
        return Embedding(path=path, features=features.clone())

    return itertools.starmap(embedding, _outputs(model, paths, run, batch_size, workers, orientation))


def _check_model(model: Model) -> None:
    if not isinstance(model, EfficientNet) and not callable(getattr(model, "read", None)):
        raise ArgumentError(f"{type(model).__name__}: expected a classifier of this package, or an exported one")


def _check_whole(name: str, value: object, most: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        bound = "of at least 1" if most is None else f"from 1 to {most}"
        raise ArgumentError(f"{name}={quoted(value)}: expected a whole number {bound}")


def _outputs(
    model: Model,
    paths: Iterable[Path | str],
    run: Run | None,
    batch_size: int,
    workers: int | None,
    orientation: bool,
) -> Iterator[tuple[Path, Tensor | InputError]]:
    """Yields each path with the model's output for it, or with why it has none; arguments are checked at once."""
    workers = torch.get_num_threads() if workers is None else workers
    _check_whole("batch_size", batch_size, MOST_IMAGES)
    _check_whole("workers", workers, MOST_WORKERS)
    check_flags(orientation=orientation)
    try:
        if isinstance(paths, str | bytes | os.PathLike):
            raise TypeError
        paths = iter(paths)
    except TypeError:
        raise ArgumentError(f"paths={quoted(paths)}: expected several paths, such as a list") from None
    read: Callable[[Path], Tensor]
    compute: Callable[[Sequence[Tensor]], Tensor]
    if isinstance(model, EfficientNet):
        how = preprocessing_of(model.pretrained_cfg)
        if len(how.mean) != model.in_chans or model.in_chans not in (1, 3):
            raise ArgumentError(
                f"a model of {model.in_chans} channels whose images have {len(how.mean)}: expected 1 or 3 of both"
            )
        if run is not None and not callable(run):
            raise ArgumentError(f"run={quoted(run)}: expected a function of images, such as an engine")
        weight = model.conv_stem.weight
        network: Run = run or (in_eval(model) if any(module.training for module in model.modules()) else model)
        # Engines take float32, whatever they compute in.
        taken = weight.dtype if run is None else torch.float32
        read = Reader(how, orientation=orientation)
        compute = lambda pixels: network(normalised(pixels, how, device=weight.device, dtype=taken))  # noqa: E731
        dtype = str(getattr(run, "dtype", weight.dtype)).removeprefix("torch.")
    else:
        read, compute, dtype = functools.partial(model.read, orientation=orientation), model, model.dtype
    # One batch is read while another is computed, and each worker has the next file at hand.
    images = read_ahead(map(_path, paths), read, workers=workers, ahead=2 * batch_size + workers)
    return _computed(images, compute, batch_size, dtype)


def _path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"paths: expected paths of image files, found {type(path).__name__}")
    return Path(path)


def _computed(
    images: Iterator[tuple[Path, Tensor | InputError]],
    compute: Callable[[Sequence[Tensor]], Tensor],
    batch_size: int,
    dtype: str,
) -> Iterator[tuple[Path, Tensor | InputError]]:
    while batch := list(itertools.islice(images, batch_size)):
        pixels = [image for _, image in batch if isinstance(image, Tensor)]
        outputs = torch.empty(0, 0)
        if pixels:
            with torch.inference_mode():
                outputs = compute(pixels).to("cpu", torch.float32)
            if outputs.dim() != 2 or len(outputs) != len(pixels):
                raise ArgumentError(
                    f"run: outputs of shape {tuple(outputs.shape)} for {len(pixels)} images: expected "
                    f"({len(pixels)}, outputs)"
                )
        rows = zip(outputs, outputs.isfinite().all(dim=1).tolist(), strict=True)
        for path, image in batch:
            if isinstance(image, InputError):
                yield path, image
                continue
            row, finite = next(rows)
            yield path, row if finite else InputError(f"{path}: {_not_finite(row, dtype)}")


def _not_finite(outputs: Tensor, dtype: str) -> str:
    count = int((~outputs.isfinite()).sum())
    cure = "check the weights and the preprocessing" if dtype in ("float32", "float64") else "compute in float32"
    return f"{count} of {len(outputs)} outputs are not finite in {dtype}: expected numbers: {cure}"
