"""A model to int8: rounded, written by ONNX Runtime's quantizer, compared on images it was not made with."""

import dataclasses
import importlib
import importlib.util
import itertools
import statistics as numbers
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from effnet_zoo.documents import check_finite
from effnet_zoo.errors import ArgumentError, EngineError, quoted
from effnet_zoo.network.folding import in_eval, optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import check_flags, chosen
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.export import (
    check_same,
    checked_path,
    destination,
    image_reader,
    interface_of,
    moved_into_place,
    runtime_errors,
)
from effnet_zoo.runtime.formats import FORMATS, write_onnx
from effnet_zoo.runtime.int8.calibration import FEWEST, Images
from effnet_zoo.runtime.int8.recipes import RECIPES, Recipe, groups, layers
from effnet_zoo.runtime.int8.rounding import Statistics, observe, round_weights, simulated
from effnet_zoo.runtime.interface import Deployed, Size
from effnet_zoo.runtime.record import Record
from effnet_zoo.runtime.sessions import RUNTIMES, Run

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
        ArgumentError: If a value is of another type, the model gives no classes, nobody knows how its images are
            prepared, or values do not fit.
        InputError: If the path is taken or cannot be written to, or there are too few images that can be read.
        MissingExtraError: If a package is missing.
        EngineError: If a runtime fails, or outputs are not finite. Nothing is written then.
    """
    chosen(recipe, RECIPES, "recipe")
    check_flags(search=search, softmax=softmax, force=force)
    if not _is_number(min_agreement) or not 0 < min_agreement <= 1:
        raise ArgumentError(f"min_agreement={quoted(min_agreement)}: expected more than 0 and at most 1")
    if type(images) is not int or images < FEWEST:
        raise ArgumentError(f"images={quoted(images)}: expected how many to calibrate with, at least {FEWEST}")
    if not isinstance(model, EfficientNet) or not model.num_classes:
        raise ArgumentError("quantize: expected a classifier of this package, whose labels can be compared")
    if classes is not None:
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise ArgumentError(f"classes={quoted(classes)}: expected a list of names")
        if len(classes) != model.num_classes:
            raise ArgumentError(
                f"{len(classes)} classes of images for {model.num_classes} outputs: expected one for each"
            )
    place = checked_path(path, ONNX, force=force)
    ONNX.check_installed()
    interface = interface_of(model, size, pixels=pixels, softmax=softmax)
    record = Record.of(model, interface)
    if record.images is None or model.in_chans != 3:
        raise ArgumentError("quantize: how this model's images are prepared is not known: expected its pretrained_cfg")
    selected = Images.of(
        Path(calib),
        Path(evaluation) if evaluation else None,
        image_reader(record),
        most=images,
        classes=classes,
    )
    recipes = list(RECIPES.values()) if search else [RECIPES[recipe]]
    done: list[Quantized] = []
    with destination(place, ONNX, force=force) as scratch:
        subject = _Subject.of(in_eval(model), record, selected, progress)
        for one in recipes:
            progress(f"recipe {one.name}: {one.help}")
            done.append(_tried(subject, one, scratch, place, min_agreement))
            if done[-1].path:
                break
    return done


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tried(subject: "_Subject", recipe: Recipe, scratch: Path, place: Path, min_agreement: float) -> Quantized:
    """Writes a recipe's file if it agrees; what is published gives what was compared, see `export.core`."""
    draft, final = scratch / "int8.onnx", scratch / "final.onnx"
    figures, outputs = subject.quantized(recipe, draft)
    record = dataclasses.replace(
        subject.record, quantization={**figures, "min_agreement": min_agreement, "recipe": recipe.name}
    )
    if figures["agreement"] < min_agreement:
        return Quantized(recipe=recipe.name, path=None, record=record)
    with runtime_errors("quantize"):
        write_onnx(importlib.import_module("onnx").load(draft), record, final)
        first = next(subject.comparison())
        for name, run in _runs(final).items():
            check_same([run(first)], [outputs[name][: len(first)]], f"quantize, {name}")
    moved_into_place(final, place, ONNX)
    return Quantized(recipe=recipe.name, path=place, record=record)


def _runs(file: Path) -> dict[str, Run]:
    """Returns what runs a file, by the name of each runtime that is installed."""
    threads = torch.get_num_threads()
    return {name: make(file, threads) for name, make in RUNTIMES.items() if importlib.util.find_spec(name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A model with all that does not depend on the recipe.

    Attributes:
        model: As it was given, in eval mode.
        record: What its file will say.
        images: Those to calibrate with and to compare on.
        float_graph: Its graph in float32.
        rounded: The folded model behind its interface, its weights on their int8 grids.
        statistics: What its layers' inputs were.
        expected: The model's outputs for the images to compare on, (n, classes).
    """

    model: EfficientNet
    record: Record
    images: Images
    float_graph: Any
    rounded: Deployed
    statistics: dict[str, Statistics]
    expected: Tensor

    @classmethod
    def of(cls, model: EfficientNet, record: Record, images: Images, progress: Callable[[str], None]) -> "_Subject":
        interface = record.interface
        writer = importlib.import_module("effnet_zoo.runtime.graph")
        progress(f"{len(images.calibration)} images to calibrate with, {len(images.comparison)} to compare on")
        folded = optimize(model).cpu().float()
        plain = Deployed(folded, interface, record.images).eval()
        progress("rounding weights by what goes into each layer")
        seen = observe(plain, images.batches(images.calibration, 1))
        with torch.inference_mode():
            expected = torch.cat([plain(batch) for batch in images.batches(images.comparison, BATCH)])
        if not expected.isfinite().all():
            raise EngineError("quantize: the model's own outputs are not finite: expected weights without NaN")
        rounded = Deployed(optimize(folded), interface, record.images).eval()
        round_weights(rounded.model, seen)
        return cls(
            model=model,
            record=record,
            images=images,
            float_graph=writer.onnx_model(model, interface, record.images),
            rounded=rounded,
            statistics=seen,
            expected=expected,
        )

    def comparison(self) -> Iterator[Tensor]:
        """Yields the images to compare on, in batches, each made when it is asked for."""
        return self.images.batches(self.images.comparison, BATCH)

    def quantized(self, recipe: Recipe, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Writes a recipe's file into a folder of its own, and returns what it came to.

        Returns:
            The figures, and the file's outputs for the images to compare on by runtime.

        Raises:
            EngineError: If a runtime fails, or a figure is not finite, because outputs are not.
        """
        names = recipe.quantized(self.model)
        mixed = self._mixed(names)
        ranges = {name: (self.statistics[name].low, self.statistics[name].high) for name in names}
        float_path = path.with_name("float32.onnx")
        float_path.write_bytes(self.float_graph.SerializeToString())
        with runtime_errors("quantize"), torch.inference_mode():
            write_int8(mixed, ranges, self.record, next(self.images.batches(self.images.calibration, 1)), path)
            runs = {"float32": _runs(float_path), "int8": _runs(path)}
            given = {name: torch.cat([run(batch) for batch in self.comparison()]) for name, run in runs["int8"].items()}
            milliseconds = _timed(runs, self._timing_batch())
        errors = {name: relative_error(outputs, self.expected) for name, outputs in given.items()}
        labels = self.expected.argmax(1)
        same = {name: (outputs.argmax(1) == labels).float().mean().item() for name, outputs in given.items()}
        worst = min(same, key=same.__getitem__)
        sizes = {"float32": float_path.stat().st_size, "int8": path.stat().st_size}
        fastest = {kind: min(milliseconds[kind].values()) for kind in milliseconds}
        figures = {
            "agreement": same[worst],
            "error": max(errors.values()),
            "accuracy": self._accuracy(given[worst]),
            "calibrated_on": len(self.images.calibration),
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
        check_finite(figures, "quantize: figures", EngineError)  # else outputs are not
        return figures, given

    def _mixed(self, names: Sequence[str]) -> EfficientNet:
        """The folded model with rounded weights in some layers, and its own in the others."""
        mixed = optimize(self.model).cpu().float()
        ours, rounded = layers(mixed), layers(self.rounded.model)
        with torch.no_grad():
            for name in names:
                ours[name].weight.copy_(rounded[name].weight)
        return mixed

    def _groups(self, names: Sequence[str]) -> dict[str, float]:
        """Returns what each group costs alone, in relative error of the outputs, the most costly first."""
        some = list(itertools.islice(self.comparison(), max(1, PROBED // BATCH)))
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
        first = next(self.comparison())
        return first.repeat(-(-BATCH // len(first)), *[1] * (first.dim() - 1))[:BATCH]


def write_int8(
    model: EfficientNet, ranges: Mapping[str, tuple[float, float]], record: Record, example: Tensor, path: Path
) -> None:
    """Writes a model's graph with some layers' weights and inputs in int8, by ONNX Runtime's quantizer.

    Args:
        model: Its weights, in these layers, on int8 grids of their largest.
        ranges: Of the inputs of these layers.
        record: What goes in and comes out.
        example: Images, which the quantizer wants to see run.
        path: The file, in a folder of its own.
    """
    quantization = importlib.import_module("onnxruntime.quantization")
    onnx = importlib.import_module("onnx")
    writer = importlib.import_module("effnet_zoo.runtime.graph")

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
    # Else it warns, by the root logger, that it misses a pre-processing, which a folded graph does not need.
    onnx.helper.set_model_props(graph, {"onnx.quant.pre_process": "onnxruntime.quant"})
    onnx.save(graph, source)
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


def _timed(runs: Mapping[str, Mapping[str, Run]], images: Tensor) -> dict[str, dict[str, float]]:
    """Returns medians in milliseconds a batch by kind and runtime, everyone having its turn in each round."""
    seconds: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in by} for kind, by in runs.items()}
    for turn in range(ROUNDS + 1):
        for kind, by in runs.items():
            for name, run in by.items():
                run(images)  # threads of the runtime before spin for a while
                start = time.perf_counter()
                run(images)
                if turn:
                    seconds[kind][name].append(time.perf_counter() - start)
    return {kind: {name: 1000 * numbers.median(taken) for name, taken in by.items()} for kind, by in seconds.items()}
