"""Exported and quantized files of a model with real weights: how large, how fast, how far from the model they are."""

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.bench.agreement import same_labels
from effnet_zoo.bench.forward import Logits
from effnet_zoo.bench.referee import Contestant, Prepared, hold_contest
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.images.photos import CHECKPOINT, write_jpegs
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.deployed import metadata_of, own_size
from effnet_zoo.runtime.export import export, file_input
from effnet_zoo.runtime.int8.quantization import quantize
from effnet_zoo.runtime.int8.recipes import RECIPES
from effnet_zoo.runtime.metadata import Interface
from effnet_zoo.runtime.targets import FORMATS, ONNX_RUNTIMES
from effnet_zoo.runtime.targets.target import on_tensors

BATCH = 8

CALIBRATION, COMPARISON = 200, 400
"""Photos, cut from different places: those that int8 is calibrated with, and those on which everyone is compared."""


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
    everyone = deployed_kinds(compiled=settings.compiled)
    yield CHECKPOINT, functools.partial(time_deployed, everyone, rounds=settings.rounds)


def time_deployed(kinds: Mapping[str, DeployedKind], *, rounds: int) -> dict[str, Any]:
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

        def prepare(name: str, open_file: Callable[[Path], Logits]) -> Prepared:
            path, figures = written(name)
            run = open_file(path)
            call = torch.inference_mode()(functools.partial(run, images[:BATCH]))
            return Prepared(call=call, output=outputs_of(run), figures=figures)

        expected = outputs_of(model)
        outcome = hold_contest(
            [
                Contestant(name=f"{name} in {runtime}", prepare=functools.partial(prepare, name, open_file))
                for name, kind in kinds.items()
                for runtime, open_file in kind.runtimes.items()
            ],
            same_labels,
            reference=lambda _: expected,
            rounds=rounds,
        )
    exact = [name for name in outcome.results if "float32" in name]
    fastest = min(exact, key=lambda name: outcome.results[name]["seconds"], default="")
    case = {"checkpoint": CHECKPOINT, "size": own_size(model)[0], "batch": BATCH, "calibrated_on": CALIBRATION}
    return outcome.as_data(case, outcome.ratios({f"fastest float32 ({fastest})": fastest}))


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
    exported = {
        f"{name}, {dtype}": DeployedKind(
            write=functools.partial(_write_exported, name, dtype), runtimes=_runtimes_of(name)
        )
        for name, kind in FORMATS.items()
        for dtype in ("float32", "float16")
        if dtype in kind.file_dtypes and (compiled or name != "aotinductor")
    }
    quantized = {
        f"int8, {name}": DeployedKind(write=functools.partial(_write_quantized, name), runtimes=_runtimes_of("onnx"))
        for name in RECIPES
    }
    return exported | quantized


def _write_exported(name: str, dtype: str, model: EfficientNet, folder: Path, _: Path) -> tuple[Path, int]:
    done = export(model, folder / f"model{FORMATS[name].suffix}", format=name, dtype=dtype)
    return done.path, done.bytes


def _write_quantized(recipe: str, model: EfficientNet, folder: Path, calibration: Path) -> tuple[Path, int]:
    path = folder / "model.onnx"
    quantize(model, path, calibration, recipe=recipe, images=CALIBRATION, min_agreement=1e-6)
    return path, path.stat().st_size


def _runtimes_of(name: str) -> dict[str, Callable[[Path], Logits]]:
    """Return what opens a format: both runtimes for ONNX, its own for any other."""
    if name == "onnx":
        return {runtime: functools.partial(_open_onnx, runtime) for runtime in ONNX_RUNTIMES}
    own = functools.partial(FORMATS[name].load, device=torch.device("cpu"), threads=torch.get_num_threads())
    return {name if name in ONNX_RUNTIMES else "torch": own}


def _open_onnx(runtime: str, path: Path) -> Logits:
    return on_tensors(ONNX_RUNTIMES[runtime].open_session(path, torch.get_num_threads()))
