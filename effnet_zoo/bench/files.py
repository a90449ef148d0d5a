"""From JPEG files to labels: `predict` beside timm's dataset, loader and model loop."""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader
from torch import nn

from effnet_zoo.bench.contestants import BACKENDS, OURS
from effnet_zoo.bench.timing import Call, interleaved, ratios
from effnet_zoo.errors import InputError, first_line
from effnet_zoo.images.photos import CHECKPOINT, write_jpegs
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.predict.prediction import predict
from effnet_zoo.predict.runnable import Run
from effnet_zoo.runtime.engine import engine
from effnet_zoo.zoo.catalogue import find
from effnet_zoo.zoo.preprocessing import preprocessing_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Photos:
    """A folder of files: their size in pixels, and how many."""

    width: int
    height: int
    count: int


SETS = {
    "large": Photos(width=2000, height=1500, count=96),
    "web": Photos(width=500, height=375, count=192),
}

BATCH = 32
REST = 0.5
"""Seconds between two passes, for workers to end."""

Pass = Callable[[], list[int]]
"""All files to the index of their most likely class, in the order of their names."""

Builder = Callable[[], Pass]


def measure(
    kind: str, *, rounds: int, workers: int, count: int | None = None, passes: Mapping[str, Builder] | None = None
) -> dict[str, Any]:
    """Images a second of whole passes over a folder, workers started and ended in each.

    Args:
        kind: A key of `SETS`.
        rounds: Passes of each that count, in turn.
        workers: Of timm's loader, and of `predict`.
        count: Files, instead of the set's.
        passes: Other contestants than this package's list, the one whose labels are expected first.

    Returns:
        As `forward.measure`. Who gives another label than timm to any file is refused and not timed.

    Raises:
        MissingExtraError: If the photos or the weights are not installed.
    """
    photos = SETS[kind]
    number = count or photos.count
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as place:
        folder = Path(place, "photos")
        paths = write_jpegs(folder, width=photos.width, height=photos.height, count=number)
        builders = _passes(folder, paths, workers) if passes is None else passes
        ready: dict[str, Call] = {}
        absent: dict[str, str] = {}
        refused: dict[str, str] = {}
        expected: list[int] | None = None
        for name, build in builders.items():
            try:
                run = build()
                labels = run()
            except ImportError as error:
                absent[name] = first_line(error)
                continue
            except Exception as error:  # whatever one contestant raises must not stop the rest
                refused[name] = first_line(error)
                continue
            expected = labels if expected is None else expected
            if labels == expected:
                ready[name] = run
            else:
                wrong = sum(mine != theirs for mine, theirs in itertools.zip_longest(labels, expected))
                refused[name] = f"another label than {next(iter(builders))}'s for {wrong} of {number} files: not timed"
        timings, failures = interleaved(ready, rounds=rounds, rest=REST, timed=1, warm=False)
    return {
        "case": {
            "set": kind,
            "width": photos.width,
            "height": photos.height,
            "files": number,
            "workers": workers,
            "batch": BATCH,
        },
        "rounds": rounds,
        "results": {
            name: {**dataclasses.asdict(timing), "images_per_second": number / timing.seconds}
            for name, timing in timings.items()
        },
        "ratios": ratios(timings, [name for name in builders if name.startswith(OURS)]),
        "absent": absent,
        "refused": {**refused, **failures},
        "notes": {},
    }


def _passes(folder: Path, paths: Sequence[Path], workers: int) -> dict[str, Builder]:
    """What builds each contestant's pass, by name; timm's plain one first, which the others' labels are held to."""
    ours = EfficientNet.from_pretrained(CHECKPOINT).eval()
    name = find(CHECKPOINT)[0].upstream

    def theirs(*, channels_last: bool) -> Pass:
        model = timm.create_model(name)
        model.load_state_dict(ours.state_dict())
        if channels_last:
            model.to(memory_format=torch.channels_last)
        return partial(timm_pass, model.eval(), ours, folder, workers, channels_last=channels_last)

    def own(backend: str | None) -> Pass:
        run = None
        if backend is not None:
            run = engine(ours, backend=backend, batch=BATCH, size=preprocessing_of(ours.pretrained_cfg).size)
        return partial(predict_pass, ours, paths, workers, run=run)

    return {
        "timm": partial(theirs, channels_last=False),
        "timm channels_last": partial(theirs, channels_last=True),
        "effnet_zoo": partial(own, None),
        **{f"effnet_zoo engine {backend}": partial(own, backend) for backend in BACKENDS},
    }


def timm_pass(model: nn.Module, ours: EfficientNet, folder: Path, workers: int, *, channels_last: bool) -> list[int]:
    """The way of timm: a dataset of the folder, a loader, and a loop over its batches."""
    how = preprocessing_of(ours.pretrained_cfg)
    loader = create_loader(
        create_dataset("", root=str(folder)),
        input_size=(3, *how.size),
        batch_size=BATCH,
        is_training=False,
        use_prefetcher=False,
        interpolation=how.interpolation,
        mean=how.mean,
        std=how.std,
        num_workers=workers,
        crop_pct=how.crop_pct,
        crop_mode=how.crop_mode,
        device=torch.device("cpu"),
    )
    labels: list[int] = []
    with torch.inference_mode():
        for images, _ in loader:
            if channels_last:
                images = images.to(memory_format=torch.channels_last)
            labels += model(images).argmax(1).tolist()
    return labels


def predict_pass(model: EfficientNet, paths: Sequence[Path], workers: int, *, run: Run | None) -> list[int]:
    """This package's way.

    Raises:
        InputError: If a file could not be read.
    """
    labels = []
    for prediction in predict(model, paths, topk=1, run=run, batch_size=BATCH, workers=workers):
        if prediction.error:
            raise InputError(prediction.error)
        labels.append(prediction.guesses[0].index)
    return labels
