"""A model to int8: rounded, written by ONNX Runtime's quantizer, compared on images it was not made with."""

import contextlib
import dataclasses
import importlib
import importlib.util
import logging
import statistics as numbers
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from effnet_zoo.atomic_io import scratch_beside
from effnet_zoo.errors import ArgumentError, UnknownNameError, did_you_mean
from effnet_zoo.export.core import checked_path, image_reader, interface_of
from effnet_zoo.export.formats import FORMATS, write_onnx
from effnet_zoo.export.record import Record
from effnet_zoo.folding import optimize
from effnet_zoo.graphs.interface import Deployed, Size
from effnet_zoo.graphs.runtimes import RUNTIMES, Run
from effnet_zoo.model import EfficientNet
from effnet_zoo.quantize.images import Images
from effnet_zoo.quantize.recipes import RECIPES, Recipe, groups, layers
from effnet_zoo.quantize.rounding import Statistics, observe, round_weights, simulated
from effnet_zoo.selftest import relative_error

ONNX = FORMATS["onnx"]

DEFAULT_RECIPE = "front-8"

PROBED = 64
"""Images that a layer group's cost is told by."""

BATCH = 8
"""Images a run, of the comparison and of what is timed."""

ROUNDS = 15
"""Turns that each runtime has with each file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What a recipe came to.

    Attributes:
        recipe: Its name.
        path: Where the file is; None if it was not written.
        record: What the file says of itself, with all the figures in its `quantization`.
    """

    recipe: str
    path: Path | None
    record: Record

    @property
    def figures(self) -> dict[str, Any]:
        """``agreement``, ``error``, ``accuracy``, ``bytes``, ``milliseconds``, ``groups`` and the rest."""
        return dict(self.record.quantization)


def quantize(
    model: EfficientNet,
    path: str | Path,
    calib: str | Path,
    *,
    evaluation: str | Path | None = None,
    classes: Sequence[str] | None = None,
    min_agreement: float = 0.98,
    recipe: str = DEFAULT_RECIPE,
    search: bool = False,
    images: int = 200,
    size: int | Size | None = None,
    pixels: str | None = None,
    softmax: bool = False,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Quantized]:
    """Write a model's convolutions in int8, if that agrees with float32 often enough.

    Weights are int8 with a scale an output channel, rounded so that the layer's outputs on real images change least;
    what goes into each convolution is uint8 in a range taken from the calibration images; the rest stays float32.

    Args:
        model: A classifier; it stays as it is.
        path: The ``.onnx`` file, which keeps int8 weights as ``DequantizeLinear`` nodes that runtimes fuse.
        calib: A folder of images to calibrate with; without `evaluation`, those left over are compared on.
        evaluation: A folder of other images to compare on.
        classes: Names of the folders below, in the order of the outputs, if the images to compare on lie in some: their
            accuracy is then told too.
        min_agreement: The part of these images, 0 to 1, that must get float32's label.
        recipe: A key of `RECIPES`.
        search: Whether to try all recipes in their order until one agrees, instead.
        images: How many to calibrate with, at most.
        size: Side, or height and width; by default the checkpoint's.
        pixels: See `effnet_zoo.export`.
        softmax: See `effnet_zoo.export`.
        force: Replace the file if it is there.
        progress: Told what is being done.

    Returns:
        What each recipe that was tried came to; only the last can have been written.

    Raises:
        UnknownNameError: If there is no such recipe.
        ArgumentError: If the model gives no classes, nobody knows how its images are prepared, or values do not fit.
        InputError: If the path is taken, or there are too few images that can be read.
        MissingExtraError: If a package is missing.
    """
    if recipe not in RECIPES:
        raise UnknownNameError(
            f"unknown recipe {recipe!r}: expected {', '.join(RECIPES)}.{did_you_mean(recipe, RECIPES)}"
        )
    if not 0 < min_agreement <= 1:
        raise ArgumentError(f"min_agreement={min_agreement}: expected more than 0 and at most 1")
    if not isinstance(model, EfficientNet) or not model.num_classes:
        raise ArgumentError("quantize: expected a classifier of this package, whose labels can be compared")
    if classes is not None and len(classes) != model.num_classes:
        raise ArgumentError(f"{len(classes)} classes of images for {model.num_classes} outputs: expected one for each")
    place = checked_path(path, ONNX, force=force)
    ONNX.check_installed()
    interface = interface_of(model, size, pixels=pixels, softmax=softmax)
    record = Record.of(model, interface)
    if record.images is None or model.in_chans != 3:
        raise ArgumentError("quantize: how this model's images are prepared is not known: expected its pretrained_cfg")
    chosen = Images.of(
        Path(calib),
        Path(evaluation) if evaluation else None,
        image_reader(record),
        most=images,
        classes=classes,
    )
    training = model.training
    try:
        return _tried(
            _Subject.of(model.eval(), record, chosen, progress),
            list(RECIPES.values()) if search else [RECIPES[recipe]],
            place,
            min_agreement,
            progress,
        )
    finally:
        model.train(training)


def _tried(
    subject: "_Subject",
    recipes: Sequence[Recipe],
    place: Path,
    min_agreement: float,
    progress: Callable[[str], None],
) -> list[Quantized]:
    done: list[Quantized] = []
    with scratch_beside(place) as beside:
        draft = beside / place.name
        for recipe in recipes:
            progress(f"recipe {recipe.name}: {recipe.help}")
            figures = subject.quantized(recipe, draft)
            agrees = figures["agreement"] >= min_agreement
            record = dataclasses.replace(
                subject.record, quantization={**figures, "min_agreement": min_agreement, "recipe": recipe.name}
            )
            if agrees:
                write_onnx(importlib.import_module("onnx").load(draft), record, draft)
                draft.replace(place)
            done.append(Quantized(recipe=recipe.name, path=place if agrees else None, record=record))
            if agrees:
                break
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A model with all that does not depend on the recipe.

    Attributes:
        model: As it was given.
        record: What its file will say.
        images: Those to calibrate with and to compare on.
        float_graph: Its graph in float32.
        rounded: The folded model behind its interface, its weights on their int8 grids.
        statistics: What its layers' inputs were.
        calibration: Batches of one.
        comparison: Batches.
        expected: The model's outputs for these.
    """

    model: EfficientNet
    record: Record
    images: Images
    float_graph: Any
    rounded: Deployed
    statistics: dict[str, Statistics]
    calibration: list[Tensor]
    comparison: list[Tensor]
    expected: Tensor

    @classmethod
    def of(cls, model: EfficientNet, record: Record, images: Images, progress: Callable[[str], None]) -> "_Subject":
        interface = record.interface
        writer = importlib.import_module("effnet_zoo.graphs.writer")
        progress(f"{len(images.calibration)} images to calibrate with, {len(images.comparison)} to compare on")
        calibration = images.batches(images.calibration, 1)
        comparison = images.batches(images.comparison, BATCH)
        folded = optimize(model).cpu().float()
        plain = Deployed(folded, interface, record.images).eval()
        progress("rounding weights by what goes into each layer")
        seen = observe(plain, calibration)
        float_graph = writer.onnx_model(model, interface, record.images)
        with torch.inference_mode():
            expected = torch.cat([plain(batch) for batch in comparison])
        rounded = Deployed(optimize(folded), interface, record.images).eval()
        round_weights(rounded.model, seen)
        return cls(
            model=model,
            record=record,
            images=images,
            float_graph=float_graph,
            rounded=rounded,
            statistics=seen,
            calibration=calibration,
            comparison=comparison,
            expected=expected,
        )

    def quantized(self, recipe: Recipe, path: Path) -> dict[str, Any]:
        """Write a recipe's file, and say what it came to."""
        names = recipe.quantized(self.model)
        mixed = self._mixed(names)
        ranges = {name: (self.statistics[name].low, self.statistics[name].high) for name in names}
        write_int8(mixed, ranges, self.record, self.calibration[0], path)
        float_path = path.with_name("float32.onnx")
        float_path.write_bytes(self.float_graph.SerializeToString())
        runs = {
            (kind, name): make(file, torch.get_num_threads())
            for name, make in RUNTIMES.items()
            if importlib.util.find_spec(name)
            for kind, file in (("float32", float_path), ("int8", path))
        }
        agreement, error, outputs = 1.0, 0.0, self.expected
        for run in (run for (kind, _), run in runs.items() if kind == "int8"):
            with torch.inference_mode():
                given = torch.cat([run(batch) for batch in self.comparison])
            same = (given.argmax(1) == self.expected.argmax(1)).float().mean().item()
            error = max(error, relative_error(given, self.expected))
            if same <= agreement:
                agreement, outputs = same, given
        milliseconds = _timed(runs, self._timing_batch())
        sizes = {"float32": float_path.stat().st_size, "int8": path.stat().st_size}
        float_path.unlink()
        fastest = {kind: min(milliseconds[kind].values()) for kind in milliseconds}
        return {
            "agreement": agreement,
            "error": error,
            "accuracy": self._accuracy(outputs),
            "calibrated_on": len(self.calibration),
            "compared_on": len(self.expected),
            "unreadable": self.images.unreadable,
            "bytes": sizes,
            "size_ratio": sizes["int8"] / sizes["float32"],
            "milliseconds": milliseconds,
            "batch": BATCH,
            "speedup": fastest["float32"] / fastest["int8"],
            "groups": self._groups(names),
            "layers": {"int8": len(names), "all": len(layers(self.model))},
        }

    def _mixed(self, names: Sequence[str]) -> EfficientNet:
        """The folded model with rounded weights in some layers, and its own in the others."""
        mixed = optimize(self.model).cpu().float()
        ours, rounded = layers(mixed), layers(self.rounded.model)
        with torch.no_grad():
            for name in names:
                ours[name].weight.copy_(rounded[name].weight)
        return mixed

    def _groups(self, names: Sequence[str]) -> dict[str, float]:
        """What each group costs alone, in relative error of the outputs, the most costly first."""
        some = self.comparison[: max(1, PROBED // len(self.comparison[0]))]
        expected = self.expected[: sum(map(len, some))]
        costs = {}
        for group, members in groups(self.model, names).items():
            alone = Deployed(self._mixed(members), self.record.interface, self.record.images).eval()
            with torch.inference_mode(), simulated(alone.model, members, self.statistics):
                costs[group] = relative_error(torch.cat([alone(batch) for batch in some]), expected)
        return dict(sorted(costs.items(), key=lambda item: -item[1]))

    def _accuracy(self, outputs: Tensor) -> dict[str, float] | None:
        if self.images.labels is None:
            return None
        labels = torch.tensor(self.images.labels)
        both = {"float32": self.expected, "int8": outputs}
        return {kind: (given.argmax(1) == labels).float().mean().item() for kind, given in both.items()}

    def _timing_batch(self) -> Tensor:
        first = self.comparison[0]
        return first.repeat(-(-BATCH // len(first)), *[1] * (first.dim() - 1))[:BATCH]


def write_int8(
    model: EfficientNet, ranges: Mapping[str, tuple[float, float]], record: Record, example: Tensor, path: Path
) -> None:
    """Write a model's graph with some layers' weights and inputs in int8, by ONNX Runtime's quantizer.

    Args:
        model: Its weights, in these layers, on int8 grids of their largest.
        ranges: Of the inputs of these layers.
        record: What goes in and comes out.
        example: Images, which the quantizer wants to see run.
        path: The file.
    """
    quantization = importlib.import_module("onnxruntime.quantization")
    onnx = importlib.import_module("onnx")
    writer = importlib.import_module("effnet_zoo.graphs.writer")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter([{writer.INPUT: example.contiguous().numpy()}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    graph = writer.onnx_model(model, record.interface, record.images)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in graph.graph.node:
        if node.name in ranges:
            low, high = ranges[node.name]
            for known in overrides.get(node.input[0], []):  # what two layers read is rounded once, for both
                low, high = min(low, float(known["rmin"])), max(high, float(known["rmax"]))
            overrides[node.input[0]] = [{"rmin": numpy.float32(low), "rmax": numpy.float32(high)}]
    source = path.with_name("source.onnx")
    onnx.save(graph, source)
    with quiet():
        quantization.quantize_static(
            str(source),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            nodes_to_quantize=list(ranges),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                # What comes out stays float, so that activations and sums are computed in it.
                "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm"],
                "QuantizeBias": False,  # in int32 they would take three times the room, with scales of their own
                "TensorQuantOverrides": overrides,
            },
        )
    source.unlink()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the root logger's warnings, which tell of pre-processing that a folded graph does not need."""
    logger = logging.getLogger()
    logger.addFilter(_silent)
    try:
        yield
    finally:
        logger.removeFilter(_silent)


def _silent(_: logging.LogRecord) -> bool:
    return False


def _timed(runs: dict[tuple[str, str], Run], images: Tensor) -> dict[str, dict[str, float]]:
    """Medians in milliseconds a batch, everyone having its turn in each round."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for turn in range(ROUNDS + 1):
        for key, run in runs.items():
            run(images)  # threads of the runtime before spin for a while
            start = time.perf_counter()
            run(images)
            if turn:
                seconds[key].append(time.perf_counter() - start)
    result: dict[str, dict[str, float]] = {}
    for (kind, runtime), taken in seconds.items():
        result.setdefault(kind, {})[runtime] = 1000 * numbers.median(taken)
    return result
