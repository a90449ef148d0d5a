"""Do all engines see the same in real photos? Labels and logits of each engine and dtype, beside plain float32."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.bench.forward import Logits, engines
from effnet_zoo.bench.referee import Contestant, Prepared, hold_contest
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.images.decoding import open_image
from effnet_zoo.images.photos import CHECKPOINT, find_photos
from effnet_zoo.images.transform import eval_transform
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.deployed import TORCH_DTYPES
from effnet_zoo.runtime.engine import engine
from effnet_zoo.zoo.preprocessing import preprocessing_of

Builder = Callable[[EfficientNet], Logits]


def agreement_cases(settings: Settings) -> Cases:
    """Yield the checkpoint that comes with a package."""
    yield CHECKPOINT, functools.partial(count_agreement, builders(compiled=settings.compiled))


def count_agreement(everyone: Mapping[tuple[str, str], Builder]) -> dict[str, Any]:
    """Count on how many photos every way to run the model gives its own label.

    Args:
        everyone: What builds each contestant, by its name and dtype.

    Returns:
        Data without times, whose results are those of `same_labels` with ``way`` and ``dtype``.

    Raises:
        MissingExtraError: If the photos or the weights are not installed.
    """
    model = EfficientNet.from_pretrained(CHECKPOINT).eval()
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    photos = find_photos()
    images = torch.stack([transform(open_image(path)) for path in photos.values()])
    with torch.inference_mode():
        expected = model(images)

    def prepare(build: Builder, figures: Mapping[str, str]) -> Prepared:
        run = build(model)
        with torch.inference_mode():
            return Prepared(call=functools.partial(run, images), output=run(images).float(), figures=figures)

    outcome = hold_contest(
        [
            Contestant(name=f"{way}, {dtype}", prepare=functools.partial(prepare, build, {"way": way, "dtype": dtype}))
            for (way, dtype), build in everyone.items()
        ],
        functools.partial(same_labels, names=list(photos)),
        reference=lambda _: expected,
        rounds=0,
    )
    return outcome.as_data({"checkpoint": CHECKPOINT, "photos": list(photos)})


def same_labels(logits: Tensor, expected: Tensor, names: Sequence[str] = ()) -> dict[str, Any]:
    """Count the photos with the expected label.

    Args:
        logits: (photos, classes).
        expected: The model's own in float32, of the same shape.
        names: Of the photos, if those with another label are to be named.

    Returns:
        ``same_label`` of ``photos``; the two highest expected probabilities of each of the ``others``; and the
        relative ``error`` of the logits.
    """
    same = (logits.argmax(1) == expected.argmax(1)).tolist()
    leading = expected.softmax(1).topk(2).values.tolist()
    others = {name: top for name, top, is_same in zip(names, leading, same, strict=False) if not is_same}
    error = relative_error(logits, expected)
    return {"same_label": sum(same), "photos": len(same), "others": others, "error": error}


def builders(*, compiled: bool) -> dict[tuple[str, str], Builder]:
    """Return what builds each contestant, by its name and dtype."""
    return {
        **{("effnet_zoo optimized", dtype): functools.partial(_optimized, dtype) for dtype in TORCH_DTYPES},
        **{
            (f"effnet_zoo engine {backend}", dtype): functools.partial(_engine, backend, dtype)
            for backend in engines(compiled=compiled)
            for dtype in TORCH_DTYPES
        },
    }


def _optimized(dtype: str, model: EfficientNet) -> Logits:
    faster = optimize(model, dtype=TORCH_DTYPES[dtype])
    return lambda images: faster(images.to(TORCH_DTYPES[dtype]))


def _engine(backend: str, dtype: str, model: EfficientNet) -> Logits:
    return engine(model, backend=backend, dtype=dtype, size=preprocessing_of(model.pretrained_cfg).size)
