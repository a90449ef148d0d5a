"""What models with real weights see in real photos, and how fast: JPEG files to labels, engines, exported files."""

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from torch import Tensor

from effnet_zoo.bench.forward import Logits, Way, engines, own_ways
from effnet_zoo.bench.referee import Pace, Prepared, hold_contest, with_rates, with_ratios
from effnet_zoo.bench.results import Data
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.errors import EngineError, InputError
from effnet_zoo.images.decoding import open_image
from effnet_zoo.images.photos import CHECKPOINT, find_photos, write_jpegs
from effnet_zoo.images.transform import eval_transform
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import relative_error
from effnet_zoo.predict.prediction import predict
from effnet_zoo.runtime.deployed import TORCH_DTYPES, metadata_of, own_size
from effnet_zoo.runtime.engine import engine
from effnet_zoo.runtime.export import export, file_input
from effnet_zoo.runtime.int8.quantization import quantize
from effnet_zoo.runtime.int8.recipes import RECIPES
from effnet_zoo.runtime.metadata import Interface
from effnet_zoo.runtime.targets.onnx import ONNX_RUNTIMES
from effnet_zoo.runtime.targets.table import FORMATS
from effnet_zoo.runtime.targets.target import Target
from effnet_zoo.zoo.catalogue import find
from effnet_zoo.zoo.preprocessing import preprocessing_of

# From files to labels: `predict` beside timm's dataset, loader and model loop.

SETS = {"large": (2000, 1500, 96), "web": (500, 375, 192)}  # width and height of JPEG files, and how many there are
FILES_BATCH = 32
FILES_PACE = Pace(rest=0.5, warm=False, calls=1)  # in the rest, the workers of the pass before end
Pass = Callable[[], list[int]]  # from all files to the index of each one's most likely class


def file_cases(settings: Settings) -> Cases:
    for kind in SETS:
        yield kind, functools.partial(time_files, kind, rounds=settings.rounds, workers=settings.workers)


def time_files(kind: str, *, rounds: int, workers: int) -> Data:
    """Time whole passes over one of `SETS`, in which workers are started and ended."""
    width, height, count = SETS[kind]
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as place:
        folder = Path(place, "photos")
        paths = write_jpegs(folder, width=width, height=height, count=count)
        case = {"set": kind, "width": width, "height": height, "files": count, "workers": workers}

        def prepare(build: Callable[[], Pass]) -> Prepared:
            run = build()
            return Prepared(call=run, output=run())

        data = hold_contest(
            {**case, "batch": FILES_BATCH},
            {name: functools.partial(prepare, build) for name, build in pass_builders(folder, paths, workers).items()},
            _check_labels,
            rounds=rounds,
            pace=FILES_PACE,
        )
    return with_rates(data, count)


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

        @torch.inference_mode()
        def run() -> list[int]:
            loader = create_loader(
                create_dataset("", root=str(folder)),
                **resolve_data_config(pretrained_cfg=ours.pretrained_cfg),
                batch_size=FILES_BATCH,
                use_prefetcher=False,
                num_workers=workers,
                device=torch.device("cpu"),
            )
            labels: list[int] = []
            for images, _ in loader:
                labels += model(images.to(memory_format=memory_format)).argmax(1).tolist()
            return labels

        return run

    def own(backend: str) -> Pass:
        function = engine(ours, backend, size=own_size(ours)) if backend else None

        def run() -> list[int]:
            labels = []
            for one in predict(ours, paths, topk=1, run=function, batch_size=FILES_BATCH, workers=workers):
                if one.error:
                    raise InputError(one.error)
                labels.append(one.guesses[0].index)
            return labels

        return run

    return {
        "timm": functools.partial(theirs, torch.preserve_format),
        "timm channels_last": functools.partial(theirs, torch.channels_last),
        "effnet_zoo": functools.partial(own, ""),
        **{f"effnet_zoo engine {backend}": functools.partial(own, backend) for backend in engines(compiled=False)},
    }


# The labels of every engine and dtype.


def same_labels(logits: Tensor, expected: Tensor, names: Sequence[str] = ()) -> dict[str, Any]:
    """Count the photos whose logits (photos, classes) give the expected label.

    With names, the figures have the two highest expected probabilities of each of the other photos.
    """
    same = (logits.argmax(1) == expected.argmax(1)).tolist()
    leading = expected.softmax(1).topk(2).values.tolist()
    others = {name: top for name, top, is_same in zip(names, leading, same, strict=False) if not is_same}
    error = relative_error(logits, expected)
    return {"same_label": sum(same), "photos": len(same), "others": others, "error": error}


def agreement_cases(settings: Settings) -> Cases:
    ways = own_ways(compiled=settings.compiled)
    everyone = {(name, dtype): way for name, way in ways.items() for dtype in TORCH_DTYPES}
    yield CHECKPOINT, functools.partial(count_agreement, everyone)


def count_agreement(everyone: Mapping[tuple[str, str], Way]) -> Data:
    """Count on how many photos every way to run the model, by its name and dtype, gives the model's own label.

    Results have no times, but those of `same_labels`, ``way`` and ``dtype``.
    """
    model = EfficientNet.from_pretrained(CHECKPOINT).eval()
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    photos = find_photos()
    images = torch.stack([transform(open_image(path)) for path in photos.values()])
    with torch.inference_mode():
        expected = model(images)

    def prepare(name: str, dtype: str) -> Prepared:
        run = everyone[name, dtype](model, dtype=dtype)
        with torch.inference_mode():
            logits = run(images).float()
        return Prepared(call=functools.partial(run, images), output=logits, figures={"way": name, "dtype": dtype})

    return hold_contest(
        {"checkpoint": CHECKPOINT, "photos": list(photos)},
        {f"{name}, {dtype}": functools.partial(prepare, name, dtype) for name, dtype in everyone},
        functools.partial(same_labels, names=list(photos)),
        reference=lambda _: expected,
        rounds=0,
    )


# Exported and quantized files: how large, how fast, how far from the model they are.

BATCH = 8
CALIBRATION, COMPARISON = 200, 400  # photos that int8 is calibrated with, and others that everyone is compared on

Write = Callable[[EfficientNet, Path, Path], tuple[Path, int]]
"""From a model, a folder to write to and one of photos to calibrate with, to the file and its size in bytes."""

RUNTIMES: dict[str, Mapping[str, Target]] = {
    **{name: {name if name in ONNX_RUNTIMES else "torch": target} for name, target in FORMATS.items()},
    "onnx": ONNX_RUNTIMES,
}
"""By format, what opens its files, by the runtime's name."""


def deployment_cases(settings: Settings) -> Cases:
    writers = file_writers(compiled=settings.compiled)
    yield CHECKPOINT, functools.partial(time_deployed, writers, rounds=settings.rounds)


def time_deployed(writers: Mapping[str, tuple[str, Write]], *, rounds: int) -> Data:
    """Write files, by name those of a format and what writes them, and time a batch in each runtime of the format.

    Results have ``file_bytes``, ``making`` in seconds, and the figures of `same_labels`. Ratios are those to the
    fastest that has ``float32`` in its name.
    """
    model = EfficientNet.from_pretrained(CHECKPOINT).eval()
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as place:
        calibration, images = _photos(model, Path(place))

        def outputs_of(run: Logits) -> Tensor:
            with torch.inference_mode():
                return torch.cat([run(batch) for batch in images.split(BATCH)])

        @functools.cache
        def written(name: str) -> tuple[Path, dict[str, Any]]:
            folder = Path(tempfile.mkdtemp(dir=place))
            start = time.perf_counter()
            path, size = writers[name][1](model, folder, calibration)
            return path, {"file_bytes": size, "making": time.perf_counter() - start}

        def prepare(name: str, target: Target) -> Prepared:
            path, figures = written(name)
            run = target.load(path, torch.device("cpu"), torch.get_num_threads())
            call = torch.inference_mode()(functools.partial(run, images[:BATCH]))
            return Prepared(call=call, output=outputs_of(run), figures=figures)

        expected = outputs_of(model)
        data = hold_contest(
            {"checkpoint": CHECKPOINT, "size": own_size(model)[0], "batch": BATCH, "calibrated_on": CALIBRATION},
            {
                f"{name} in {runtime}": functools.partial(prepare, name, target)
                for name, (format_name, _) in writers.items()
                for runtime, target in RUNTIMES[format_name].items()
            },
            same_labels,
            reference=lambda _: expected,
            rounds=rounds,
        )
    exact = [name for name in data["results"] if "float32" in name]
    fastest = min(exact, key=lambda name: data["results"][name]["seconds"], default="")
    return with_ratios(data, {f"fastest float32 ({fastest})": fastest})


def _photos(model: EfficientNet, place: Path) -> tuple[Path, Tensor]:
    """Return a folder of photos to calibrate with, and other photos as the model takes them."""
    calibration, metadata = place / "calibration", metadata_of(model, Interface(size=own_size(model)))
    calibration.mkdir()
    compared = []
    for number, path in enumerate(write_jpegs(place, width=500, height=375, count=CALIBRATION + COMPARISON)):
        if number % 3:
            compared.append(file_input(path, metadata))
        else:
            path.rename(calibration / path.name)
    return calibration, torch.stack(compared)


def file_writers(*, compiled: bool) -> dict[str, tuple[str, Write]]:
    """Return by name every format in float32 and float16, and every recipe of int8, with what writes its file."""

    def exported(name: str, dtype: str, model: EfficientNet, folder: Path, _: Path) -> tuple[Path, int]:
        done = export(model, folder / f"model{FORMATS[name].suffix}", format=name, dtype=dtype)
        return done.path, done.bytes

    def quantized(recipe: str, model: EfficientNet, folder: Path, calibration: Path) -> tuple[Path, int]:
        path = folder / "model.onnx"
        quantize(model, path, calibration, recipe=recipe, images=CALIBRATION, min_agreement=1e-6)
        return path, path.stat().st_size

    files: dict[str, tuple[str, Write]] = {
        f"{name}, {dtype}": (name, functools.partial(exported, name, dtype))
        for name, target in FORMATS.items()
        for dtype in ("float32", "float16")
        if dtype in target.file_dtypes and (compiled or not target.slow_to_build)
    }
    return files | {f"int8, {recipe}": ("onnx", functools.partial(quantized, recipe)) for recipe in RECIPES}
