"""Do all engines see the same in real photos? Top-1 and logits of each backend and dtype beside plain float32."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.bench.contestants import BACKENDS
from effnet_zoo.errors import first_line
from effnet_zoo.images.decoding import open_image
from effnet_zoo.images.photos import CHECKPOINT, find_photos
from effnet_zoo.images.transform import eval_transform
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.deployed import TORCH_DTYPES
from effnet_zoo.runtime.engine import engine
from effnet_zoo.zoo.preprocessing import preprocessing_of

Run = Callable[[Tensor], Tensor]
Builder = Callable[[EfficientNet], Run]


def measure(*, compiled: bool = False, everyone: Mapping[tuple[str, str], Builder] | None = None) -> dict[str, Any]:
    """Every way to run the model, on all the photos there are.

    Args:
        compiled: Whether torch.compile's engine takes part.
        everyone: By name and dtype, others than this package's list.

    Returns:
        ``case``, ``results`` by name, with ``same_label`` of ``photos``, the two highest probabilities in float32 of
        each of the ``others``, and the logits' ``error`` relative to those of the model run plainly in float32,
        ``absent``, ``refused`` and ``notes``.

    Raises:
        MissingExtraError: If the photos or the weights are not installed.
    """
    model = EfficientNet.from_pretrained(CHECKPOINT).eval()
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    photos = find_photos()
    images = torch.stack([transform(open_image(path)) for path in photos.values()])
    with torch.inference_mode():
        expected = model(images)
    leading = expected.softmax(1).topk(2).values.tolist()
    results: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    refused: dict[str, str] = {}
    for (way, dtype), build in (ways(compiled=compiled) if everyone is None else everyone).items():
        name = f"{way}, {dtype}"
        try:
            logits = _logits(build, model, images)
        except ImportError as error:
            absent[name] = first_line(error)
            continue
        except Exception as error:  # whatever one contestant raises must not stop the rest
            refused[name] = first_line(error)
            continue
        same = (logits.argmax(1) == expected.argmax(1)).tolist()
        others = {photo: top for photo, top, is_same in zip(photos, leading, same, strict=True) if not is_same}
        results[name] = {
            "way": way,
            "dtype": dtype,
            "same_label": len(images) - len(others),
            "photos": len(images),
            "others": others,
            "error": relative_error(logits, expected),
        }
    return {
        "case": {"checkpoint": CHECKPOINT, "photos": list(photos)},
        "results": results,
        "absent": absent,
        "refused": refused,
        "notes": {},
    }


def _logits(build: Builder, model: EfficientNet, images: Tensor) -> Tensor:
    """What a way computes; it is gone before the next is built."""
    run = build(model)
    with torch.inference_mode():
        return run(images).float()


def ways(*, compiled: bool) -> dict[tuple[str, str], Builder]:
    """By name and dtype, what builds each."""
    backends = (*BACKENDS, "inductor") if compiled else BACKENDS
    return {
        **{("effnet_zoo optimized", dtype): partial(_optimized, dtype) for dtype in TORCH_DTYPES},
        **{
            (f"effnet_zoo engine {backend}", dtype): partial(_engine, backend, dtype)
            for backend in backends
            for dtype in TORCH_DTYPES
        },
    }


def _optimized(dtype: str, model: EfficientNet) -> Run:
    faster = optimize(model, dtype=TORCH_DTYPES[dtype])
    return lambda images: faster(images.to(TORCH_DTYPES[dtype]))


def _engine(backend: str, dtype: str, model: EfficientNet) -> Run:
    return engine(model, backend=backend, dtype=dtype, size=preprocessing_of(model.pretrained_cfg).size)
