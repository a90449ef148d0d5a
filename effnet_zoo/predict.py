"""Image files to their most likely classes."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset

from effnet_zoo.errors import ArgumentError, InputError
from effnet_zoo.model import EfficientNet
from effnet_zoo.preprocess import eval_transform, open_image, preprocessing_of

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


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


def find_images(patterns: Iterable[str]) -> list[Path]:
    """The files that paths, folders and globs name, each once, in the order given.

    A folder stands for the image files in it and below, told by their suffix; a file is taken whatever its suffix.

    Raises:
        InputError: If a path or glob matches nothing, or a folder holds no image.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        literal = Path(pattern)
        matches = [literal] if literal.exists() else [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]
        if not matches:
            raise InputError(f"{pattern}: there is no such file or folder, and as a glob it matches none")
        for match in matches:
            if match.is_dir():
                images = sorted(p for p in match.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
                if not images:
                    raise InputError(f"{match}: no image in this folder: expected {', '.join(IMAGE_SUFFIXES)}")
                found.update(dict.fromkeys(images))
            else:
                found[match] = None
    return list(found)


def class_names(num_classes: int, labels: Sequence[str] | None = None) -> list[str]:
    """Names in the order of the logits: the checkpoint's own, else ImageNet's from timm's lists, else numbers."""
    if labels is not None and len(labels) == num_classes:
        return list(labels)
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return [f"class {index}" for index in range(num_classes)]
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(num_classes)]


def predict(model: EfficientNet, paths: Sequence[Path], *, topk: int = 5) -> Iterator[Prediction]:
    """Classify files one by one, each with the model's own preprocessing.

    Args:
        model: A classifier with a ``pretrained_cfg``; it is put in eval mode.
        paths: Image files.
        topk: How many classes.

    Yields:
        A prediction for each path, in order; one with `error` for a file that cannot be read.

    Raises:
        ArgumentError: If topk is not between 1 and the number of classes.
    """
    if not 1 <= topk <= model.num_classes:
        raise ArgumentError(f"topk={topk}: expected 1 to {model.num_classes}, the number of classes")
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    labels = class_names(model.num_classes, model.pretrained_cfg.get("label_names"))
    model.eval()
    for path in paths:
        try:
            image = open_image(path)
        except InputError as error:
            yield Prediction(path=path, error=str(error))
            continue
        with torch.inference_mode():
            probabilities = model(transform(image)[None])[0].softmax(0)
        top = probabilities.topk(topk)
        yield Prediction(
            path=path,
            guesses=tuple(
                Guess(index=index, label=labels[index], probability=probability)
                for probability, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            ),
        )
