"""What models with real weights see in real photos: all engines and dtypes, and exported and quantized files."""

import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.bench.forward import Logits, own_ways
from effnet_zoo.bench.referee import Prepared, hold_contest, ratios
from effnet_zoo.bench.results import Data
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.images.decoding import open_image
from effnet_zoo.images.photos import CHECKPOINT, find_photos, write_jpegs
from effnet_zoo.images.transform import eval_transform
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.deployed import TORCH_DTYPES, metadata_of, own_size
from effnet_zoo.runtime.export import export, file_input
from effnet_zoo.runtime.int8.quantization import quantize
from effnet_zoo.runtime.int8.recipes import RECIPES
from effnet_zoo.runtime.interface import Interface
from effnet_zoo.runtime.targets import FORMATS, ONNX_RUNTIMES
from effnet_zoo.runtime.targets.target import FileTarget
from effnet_zoo.zoo.preprocessing import preprocessing_of

BATCH = 8

CALIBRATION, COMPARISON = 200, 400
"""Photos, cut from different places: those that int8 is calibrated with, and those on which everyone is compared."""


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


# Engines and dtypes.

Build = Callable[[EfficientNet, str], Logits]
"""From a model and a dtype to what computes its logits."""


def agreement_cases(settings: Settings) -> Cases:
    """Yield the checkpoint that comes with a package."""
    ways = own_ways(compiled=settings.compiled)
    yield (
        CHECKPOINT,
        functools.partial(count_agreement, {(way, dtype): ways[way] for way in ways for dtype in TORCH_DTYPES}),
    )


def count_agreement(everyone: Mapping[tuple[str, str], Build]) -> Data:
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

    def prepare(way: str, dtype: str) -> Prepared:
        run = everyone[way, dtype](model, dtype)
        with torch.inference_mode():
            logits = run(images).float()
        return Prepared(call=functools.partial(run, images), output=logits, figures={"way": way, "dtype": dtype})

    return hold_contest(
        {"checkpoint": CHECKPOINT, "photos": list(photos)},
        {f"{way}, {dtype}": functools.partial(prepare, way, dtype) for way, dtype in everyone},
        functools.partial(same_labels, names=list(photos)),
        reference=lambda _: expected,
        rounds=0,
    )


# Exported and quantized files.


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedKind:
    """A kind of file.

    Attributes:
        write: From a model, a folder to write to and one of photos to calibrate with, to the file and its size in
            bytes.
        runtimes: What opens a file, by the runtime's name.
    """

    write: Callable[[EfficientNet, Path, Path], tuple[Path, int]]
    runtimes: Mapping[str, Callable[[Path], Logits]]


def deployment_cases(settings: Settings) -> Cases:
    """Yield the checkpoint that comes with a package."""
    kinds = deployed_kinds(compiled=settings.compiled)
    yield CHECKPOINT, functools.partial(time_deployed, kinds, rounds=settings.rounds)


def time_deployed(kinds: Mapping[str, DeployedKind], *, rounds: int) -> Data:
    """Write a file of every kind, and time a batch in each of its runtimes.

    Args:
        kinds: By name; those with ``float32`` in it are what the others are compared with.
        rounds: How many turns each file and runtime has.

    Returns:
        Data whose results have ``file_bytes``, ``making`` in seconds, and the figures of `same_labels`; the ratios are
        those to the fastest in float32.

    Raises:
        MissingExtraError: If the photos or the weights are not installed.
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
            path, size = kinds[name].write(model, folder, calibration)
            return path, {"file_bytes": size, "making": time.perf_counter() - start}

        def prepare(name: str, runtime: str) -> Prepared:
            path, figures = written(name)
            run = kinds[name].runtimes[runtime](path)
            call = torch.inference_mode()(functools.partial(run, images[:BATCH]))
            return Prepared(call=call, output=outputs_of(run), figures=figures)

        expected = outputs_of(model)
        data = hold_contest(
            {"checkpoint": CHECKPOINT, "size": own_size(model)[0], "batch": BATCH, "calibrated_on": CALIBRATION},
            {
                f"{name} in {runtime}": functools.partial(prepare, name, runtime)
                for name, kind in kinds.items()
                for runtime in kind.runtimes
            },
            same_labels,
            reference=lambda _: expected,
            rounds=rounds,
        )
    exact = [name for name in data["results"] if "float32" in name]
    fastest = min(exact, key=lambda name: data["results"][name]["seconds"], default="")
    return {**data, "ratios": ratios(data, {f"fastest float32 ({fastest})": fastest})}


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


def deployed_kinds(*, compiled: bool) -> dict[str, DeployedKind]:
    """Return every format in float32 and float16, and every recipe of int8, by name."""
    runtimes: dict[str, Mapping[str, FileTarget]] = {
        name: {name if name in ONNX_RUNTIMES else "torch": target} for name, target in FORMATS.items()
    }
    runtimes["onnx"] = ONNX_RUNTIMES
    openers = {
        name: {runtime: functools.partial(_opened, target) for runtime, target in targets.items()}
        for name, targets in runtimes.items()
    }
    kinds = {
        f"{name}, {dtype}": DeployedKind(write=functools.partial(_write_exported, name, dtype), runtimes=openers[name])
        for name, target in FORMATS.items()
        for dtype in ("float32", "float16")
        if dtype in target.file_dtypes and (compiled or not target.slow_to_build)
    }
    for recipe in RECIPES:
        write = functools.partial(_write_quantized, recipe)
        kinds[f"int8, {recipe}"] = DeployedKind(write=write, runtimes=openers["onnx"])
    return kinds


def _opened(target: FileTarget, path: Path) -> Logits:
    return target.load(path, torch.device("cpu"), torch.get_num_threads())


def _write_exported(name: str, dtype: str, model: EfficientNet, folder: Path, _: Path) -> tuple[Path, int]:
    done = export(model, folder / f"model{FORMATS[name].suffix}", format=name, dtype=dtype)
    return done.path, done.bytes


def _write_quantized(recipe: str, model: EfficientNet, folder: Path, calibration: Path) -> tuple[Path, int]:
    path = folder / "model.onnx"
    quantize(model, path, calibration, recipe=recipe, images=CALIBRATION, min_agreement=1e-6)
    return path, path.stat().st_size
