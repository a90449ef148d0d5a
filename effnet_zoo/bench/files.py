"""From JPEG files to labels: `predict` beside timm's dataset, loader and model loop."""

import functools
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.data import create_dataset, create_loader
from torch import nn

from effnet_zoo.bench.forward import Logits, engines
from effnet_zoo.bench.referee import Pace, Prepared, hold_contest, with_rates
from effnet_zoo.bench.results import Data
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.errors import EngineError, InputError
from effnet_zoo.images.photos import CHECKPOINT, write_jpegs
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.predict.prediction import predict
from effnet_zoo.runtime.engine import engine
from effnet_zoo.zoo.catalogue import find
from effnet_zoo.zoo.preprocessing import preprocessing_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Photos:
    """A folder of JPEG files: their width and height in pixels, and how many there are."""

    width: int
    height: int
    count: int


SETS = {
    "large": Photos(width=2000, height=1500, count=96),
    "web": Photos(width=500, height=375, count=192),
}

BATCH = 32

PACE = Pace(rest=0.5, warm=False, calls=1)
"""One pass a turn, after a rest in which the workers of the pass before end."""

Pass = Callable[[], list[int]]
"""From all files to the index of their most likely class, in the order of their names."""


def file_cases(settings: Settings) -> Cases:
    """Yield every set of photos."""
    for kind in SETS:
        yield kind, functools.partial(time_files, kind, rounds=settings.rounds, workers=settings.workers)


def time_files(
    kind: str, *, rounds: int, workers: int, builders: Mapping[str, Callable[[], Pass]] | None = None
) -> Data:
    """Time whole passes over a folder, in which workers are started and ended.

    Args:
        kind: A key of `SETS`.
        rounds: Passes of each contestant that count.
        workers: Of timm's loader, and of `predict`.
        builders: What builds each contestant, by name, the one first whose labels are expected; by default
            `pass_builders`.

    Raises:
        MissingExtraError: If the photos or the weights are not installed.
    """
    photos = SETS[kind]
    case = {"set": kind, "width": photos.width, "height": photos.height, "files": photos.count}
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as place:
        folder = Path(place, "photos")
        paths = write_jpegs(folder, width=photos.width, height=photos.height, count=photos.count)

        def prepare(build: Callable[[], Pass]) -> Prepared:
            run = build()
            return Prepared(call=run, output=run())

        builders = pass_builders(folder, paths, workers) if builders is None else builders
        data = hold_contest(
            {**case, "workers": workers, "batch": BATCH},
            {name: functools.partial(prepare, build) for name, build in builders.items()},
            _check_labels,
            rounds=rounds,
            pace=PACE,
        )
    return with_rates(data, photos.count)


def _check_labels(labels: Sequence[int], expected: Sequence[int]) -> dict[str, float]:
    wrong = sum(label != wanted for label, wanted in itertools.zip_longest(labels, expected))
    if wrong:
        raise EngineError(f"another label than the first contestant's for {wrong} of {len(expected)} files: not timed")
    return {}


def pass_builders(folder: Path, paths: Sequence[Path], workers: int) -> dict[str, Callable[[], Pass]]:
    """Return what builds each contestant's pass, by name; first timm's plain one, with which the others must agree."""
    ours = EfficientNet.from_pretrained(CHECKPOINT).eval()

    def theirs(memory_format: torch.memory_format) -> Pass:
        model = timm.create_model(find(CHECKPOINT)[0].upstream)
        model.load_state_dict(ours.state_dict())
        model.eval().to(memory_format=memory_format)
        return functools.partial(timm_pass, model, ours, folder, workers, memory_format)

    def own(backend: str) -> Pass:
        run = engine(ours, backend, batch=BATCH, size=preprocessing_of(ours.pretrained_cfg).size) if backend else None
        return functools.partial(predict_pass, ours, paths, workers, run)

    return {
        "timm": functools.partial(theirs, torch.preserve_format),
        "timm channels_last": functools.partial(theirs, torch.channels_last),
        "effnet_zoo": functools.partial(own, ""),
        **{f"effnet_zoo engine {backend}": functools.partial(own, backend) for backend in engines(compiled=False)},
    }


def timm_pass(
    model: nn.Module, ours: EfficientNet, folder: Path, workers: int, memory_format: torch.memory_format
) -> list[int]:
    """Return labels in timm's way: a dataset of the folder, a loader, and a loop over its batches."""
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
    with torch.inference_mode():
        labels = [model(images.to(memory_format=memory_format)).argmax(1).tolist() for images, _ in loader]
    return [label for batch in labels for label in batch]


def predict_pass(model: EfficientNet, paths: Sequence[Path], workers: int, run: Logits | None) -> list[int]:
    """Return labels in this package's way.

    Raises:
        InputError: If a file cannot be read.
    """
    labels = []
    for prediction in predict(model, paths, topk=1, run=run, batch_size=BATCH, workers=workers):
        if prediction.error:
            raise InputError(prediction.error)
        labels.append(prediction.guesses[0].index)
    return labels
