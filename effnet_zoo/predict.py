"""Image files to their most likely classes, or to features: read ahead by threads while the model runs, in batches."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from effnet_zoo.errors import ArgumentError, InputError
from effnet_zoo.images import Reader, read_ahead
from effnet_zoo.model import EfficientNet
from effnet_zoo.preprocess import normalised, preprocessing_of

Run = Callable[[Tensor], Tensor]
"""Float32 images (n, 3, height, width) to float32 (n, outputs)."""


class Runnable(Protocol):
    """What has outputs of its own for files, such as an exported model: how it reads them, and what it computes."""

    num_classes: int
    pretrained_cfg: dict[str, Any]
    head_hidden_size: int
    fingerprint: str

    @property
    def read(self) -> Callable[[Path], Tensor]: ...
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
    """What a model says of one file: its guesses, most likely first, or why it could not be read."""

    path: Path
    guesses: tuple[Guess, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A file's pooled features, float32 (num_features,), or why it could not be read."""

    path: Path
    features: Tensor | None = None
    error: str | None = None


def class_names(num_classes: int, labels: Sequence[str] | None = None) -> list[str]:
    """Names in the order of the logits: the checkpoint's own, else ImageNet's from timm's lists, else numbers."""
    if labels is not None and len(labels) == num_classes:
        return list(labels)
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return [f"class {index}" for index in range(num_classes)]
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(num_classes)]


def predict(
    model: Model,
    paths: Iterable[Path],
    *,
    topk: int = 5,
    run: Run | None = None,
    batch_size: int = 32,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """Classify files, each with the model's own preprocessing. Paths are drawn as they are needed.

    Args:
        model: A classifier with a ``pretrained_cfg``, which is put in eval mode; or an exported one.
        paths: Image files.
        topk: How many classes.
        run: What computes a classifier's logits, such as an engine made of it; by default itself.
        batch_size: Images a run, at most.
        workers: Threads that read; by default as many as torch computes with.

    Returns:
        A prediction for each path, in order; one with `error` for a file that cannot be read.

    Raises:
        ArgumentError: If topk is not between 1 and the number of classes, or batch_size or workers is not at least 1.
    """
    if not 1 <= topk <= model.num_classes:
        raise ArgumentError(f"topk={topk}: expected 1 to {model.num_classes}, the number of classes")
    labels = class_names(model.num_classes, model.pretrained_cfg.get("label_names"))

    def prediction(path: Path, logits: Tensor | InputError) -> Prediction:
        if isinstance(logits, InputError):
            return Prediction(path=path, error=str(logits))
        top = logits.softmax(0).topk(topk)
        pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        return Prediction(
            path=path,
            guesses=tuple(Guess(index=index, label=labels[index], probability=value) for value, index in pairs),
        )

    return itertools.starmap(prediction, _outputs(model, paths, run, batch_size, workers))


def embed(
    model: Model,
    paths: Iterable[Path],
    *,
    run: Run | None = None,
    batch_size: int = 32,
    workers: int | None = None,
) -> Iterator[Embedding]:
    """Pooled features of files: `predict` for a model made with num_classes=0.

    Raises:
        ArgumentError: If the model has classes, or batch_size or workers is not at least 1.
    """
    if model.num_classes:
        raise ArgumentError(f"embed: expected a model without classes, found {model.num_classes}: give num_classes=0")

    def embedding(path: Path, features: Tensor | InputError) -> Embedding:
        if isinstance(features, InputError):
            return Embedding(path=path, error=str(features))
        return Embedding(path=path, features=features)

    return itertools.starmap(embedding, _outputs(model, paths, run, batch_size, workers))


def _outputs(
    model: Model, paths: Iterable[Path], run: Run | None, batch_size: int, workers: int | None
) -> Iterator[tuple[Path, Tensor | InputError]]:
    """Each path with the model's output for it, or with why it cannot be read; arguments are checked at once."""
    workers = torch.get_num_threads() if workers is None else workers
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise ArgumentError(f"{name}={value}: expected at least 1")
    compute: Callable[[Sequence[Tensor]], Tensor]
    if isinstance(model, EfficientNet):
        how, network = preprocessing_of(model.pretrained_cfg), run or model.eval()
        read: Callable[[Path], Tensor] = Reader(how)
        compute = lambda pixels: network(normalised(pixels, how))  # noqa: E731
    else:
        read, compute = model.read, model
    # One batch is read while another is computed, and each worker has the next file at hand.
    images = read_ahead(paths, read, workers=workers, ahead=2 * batch_size + workers)
    return _computed(images, compute, batch_size)


def _computed(
    images: Iterator[tuple[Path, Tensor | InputError]], compute: Callable[[Sequence[Tensor]], Tensor], batch_size: int
) -> Iterator[tuple[Path, Tensor | InputError]]:
    while batch := list(itertools.islice(images, batch_size)):
        pixels = [image for _, image in batch if isinstance(image, Tensor)]
        with torch.inference_mode():
            outputs = iter(compute(pixels) if pixels else ())
        for path, image in batch:
            yield path, next(outputs) if isinstance(image, Tensor) else image
