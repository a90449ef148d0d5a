"""Exported and quantized files of a model with real weights: how large, how fast, how far from the model they are."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.bench.timing import interleaved
from effnet_zoo.errors import first_line
from effnet_zoo.images.photos import CHECKPOINT, write_jpegs
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.deployed import metadata_of, own_size
from effnet_zoo.runtime.export import export, file_input
from effnet_zoo.runtime.int8.quantization import quantize
from effnet_zoo.runtime.int8.recipes import RECIPES
from effnet_zoo.runtime.interface import Interface
from effnet_zoo.runtime.targets import FORMATS, ONNX_RUNTIMES
from effnet_zoo.runtime.targets.target import TensorFunction, on_tensors

BATCH = 8

CALIBRATION, COMPARISON = 200, 400
"""Photos, cut from different places: those that int8 is calibrated with, and those that everyone is compared on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A file: its size in bytes, and what runs it."""

    bytes: int
    runs: Mapping[str, TensorFunction]


Maker = Callable[[EfficientNet, Path, Path], Deployed]
"""From a model, a folder to write to and one of photos to calibrate with."""


def measure(*, rounds: int, compiled: bool = False, everyone: Mapping[str, Maker] | None = None) -> dict[str, Any]:
    """Every format and every recipe, on the same photos.

    Args:
        rounds: How often everyone has a turn.
        compiled: Whether what torch.compile builds takes part.
        everyone: By name, others than this package's list.

    Returns:
        ``case``, ``results`` by name and runtime, with times of a batch, ``file_bytes``, ``making`` (seconds),
        ``same_label`` of ``photos`` and the outputs' ``error`` relative to the model's, ``ratios`` to the fastest in
        float32, ``absent``, ``refused`` and ``notes``.

    Raises:
        MissingExtraError: If the photos or the weights are not installed.
    """
    model = EfficientNet.from_pretrained(CHECKPOINT).eval()
    makers = makers_of(compiled=compiled) if everyone is None else everyone
    results: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    refused: dict[str, str] = {}
    runs: dict[str, TensorFunction] = {}
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as place:
        calibration, images = _photos(model, Path(place))
        with torch.inference_mode():
            expected = torch.cat([model(batch) for batch in images.split(BATCH)])
        for number, (name, make) in enumerate(makers.items()):
            folder = Path(place, str(number))
            folder.mkdir()
            start = time.perf_counter()
            try:
                made = make(model, folder, calibration)
            except ImportError as error:
                absent[name] = first_line(error)
                continue
            except Exception as error:  # whatever one contestant raises must not stop the rest
                refused[name] = first_line(error)
                continue
            making = time.perf_counter() - start
            for runtime, run in made.runs.items():
                key = f"{name} in {runtime}"
                with torch.inference_mode():
                    outputs = torch.cat([run(batch) for batch in images.split(BATCH)])
                runs[key] = run
                results[key] = {
                    "file_bytes": made.bytes,
                    "making": making,
                    "same_label": int((outputs.argmax(1) == expected.argmax(1)).sum()),
                    "photos": len(images),
                    "others": {},
                    "error": relative_error(outputs, expected),
                }
        some = images[:BATCH]
        with torch.inference_mode():
            timings, failures = interleaved({key: partial(run, some) for key, run in runs.items()}, rounds=rounds)
    for key in failures:
        del results[key]
    for key, timing in timings.items():
        results[key] |= asdict(timing)
    exact = [key for key in timings if "float32" in key]
    fastest = min(exact, key=lambda key: timings[key].seconds, default=None)
    ratios = {key: timings[fastest].seconds / timing.seconds for key, timing in timings.items()} if fastest else {}
    return {
        "case": {"checkpoint": CHECKPOINT, "size": own_size(model)[0], "batch": BATCH, "calibrated_on": CALIBRATION},
        "rounds": rounds,
        "results": results,
        "ratios": {f"fastest float32 ({fastest})": ratios},
        "absent": absent,
        "refused": {**refused, **failures},
        "notes": {},
    }


def _photos(model: EfficientNet, place: Path) -> tuple[Path, Tensor]:
    """A folder to calibrate with, and the images of others as the model wants them."""
    calibration, metadata = place / "calibration", metadata_of(model, Interface(size=own_size(model)))
    calibration.mkdir()
    compared = []
    for number, path in enumerate(write_jpegs(place, width=500, height=375, count=CALIBRATION + COMPARISON)):
        if number % 3:
            compared.append(file_input(path, metadata))
        else:
            path.rename(calibration / path.name)
    return calibration, torch.stack(compared)


def makers_of(*, compiled: bool) -> dict[str, Maker]:
    """By name, what makes each file."""
    return {
        **{
            f"{name}, {dtype}": partial(_exported, name, dtype)
            for name, kind in FORMATS.items()
            for dtype in ("float32", "float16")
            if dtype in kind.file_dtypes and (compiled or name != "aotinductor")
        },
        **{f"int8, {name}": partial(_quantized, name) for name in RECIPES},
    }


def _exported(name: str, dtype: str, model: EfficientNet, folder: Path, _: Path) -> Deployed:
    kind = FORMATS[name]
    done = export(model, folder / f"model{kind.suffix}", format=name, dtype=dtype)
    if name == "onnx":
        return Deployed(bytes=done.bytes, runs=_by_runtime(done.path))
    runtime = name if name in ONNX_RUNTIMES else "torch"
    function = kind.load(done.path, torch.device("cpu"), torch.get_num_threads())
    return Deployed(bytes=done.bytes, runs={runtime: function})


def _quantized(recipe: str, model: EfficientNet, folder: Path, calibration: Path) -> Deployed:
    path = folder / "model.onnx"
    quantize(model, path, calibration, recipe=recipe, images=CALIBRATION, min_agreement=1e-6)
    return Deployed(bytes=path.stat().st_size, runs=_by_runtime(path))


def _by_runtime(path: Path) -> dict[str, TensorFunction]:
    threads = torch.get_num_threads()
    return {name: on_tensors(one.open_session(path, threads)) for name, one in ONNX_RUNTIMES.items()}
