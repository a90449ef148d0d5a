"""Turn a model into int8: round it, write it by ONNX Runtime's quantizer, and compare it on images not used before."""

import dataclasses
import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.atomic_io import file_errors
from effnet_zoo.documents import check_finite
from effnet_zoo.errors import ArgumentError, EngineError, quoted
from effnet_zoo.network.folding import in_eval, optimize
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import check_flags, chosen
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.deployed import Deployed, checked_size, error_of, metadata_of, model_outputs, own_size
from effnet_zoo.runtime.export import (
    check_same_outputs,
    checked_path,
    destination,
    file_input,
    move_into_place,
)
from effnet_zoo.runtime.int8.calibration import FEWEST, Images, batches
from effnet_zoo.runtime.int8.recipes import RECIPES, Recipe, groups, layers
from effnet_zoo.runtime.int8.rounding import observe, round_weights, simulated
from effnet_zoo.runtime.metadata import Interface, Metadata, Size
from effnet_zoo.runtime.targets.onnx import ONNX, ONNX_RUNTIMES
from effnet_zoo.runtime.targets.target import TensorFunction, on_tensors, runtime_errors

DEFAULT_RECIPE = "front-8"

PROBED = 64
"""Number of images that the cost of a layer group is measured on."""

BATCH = 8
"""Number of images in a batch, when files are compared and timed."""

ROUNDS = 15
"""Number of times that each runtime is timed with each file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """The outcome of a recipe.

    Attributes:
        recipe: Its name.
        path: Where the file is; None if it was not written.
        metadata: What the file says of itself, with all figures in its `quantization`.
    """

    recipe: str
    path: Path | None
    metadata: Metadata

    @property
    def figures(self) -> dict[str, Any]:
        """``agreement``, ``error``, ``accuracy``, ``bytes``, ``milliseconds``, ``groups`` and others."""
        return dict(self.metadata.quantization)


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

    Weights are int8 with a scale for each output channel, rounded so that the layer's outputs on real images change
    least. The inputs of each convolution are uint8 in a range taken from the calibration images. The rest stays
    float32.

    Args:
        model: A classifier; it stays as it is.
        path: The ``.onnx`` file, which keeps int8 weights as ``DequantizeLinear`` nodes that runtimes fuse.
        calib: A folder of images to calibrate with. Without `evaluation`, the rest of them are compared on.
        evaluation: A folder of other images to compare on.
        classes: Names of the folders below, in the order of the outputs, if the images to compare on lie in folders by
            class: their accuracy is then measured too.
        min_agreement: The part of these images, 0 to 1, that must get float32's label.
        recipe: A key of `RECIPES`.
        search: Whether to try all recipes in their order until one agrees.
        images: How many images to calibrate with, at most.
        size: Side, or height and width; by default the checkpoint's.
        pixels: See `effnet_zoo.export`.
        softmax: See `effnet_zoo.export`.
        force: Replace the file if it is there.
        progress: Called with a line that says what is done now.

    Returns:
        One result for each recipe that was tried; only the last can have been written.

    Raises:
        UnknownNameError: If there is no such recipe.
        ArgumentError: If a value is of another type, the model has no classes, it is not known how its images are
            prepared, or values do not fit together.
        InputError: If there is a file already and `force` is false, nothing can be written, or there are too few
            readable images.
        MissingExtraError: If a package is missing.
        EngineError: If a runtime fails, or outputs are not finite. Nothing is written then.
    """
    chosen(recipe, RECIPES, "recipe")
    check_flags(search=search, softmax=softmax, force=force)
    if type(min_agreement) not in (int, float) or not 0 < min_agreement <= 1:
        raise ArgumentError(f"min_agreement={quoted(min_agreement)}: expected more than 0 and at most 1")
    if type(images) is not int or images < FEWEST:
        raise ArgumentError(f"images={quoted(images)}: expected how many to calibrate with, at least {FEWEST}")
    if not isinstance(model, EfficientNet) or not model.num_classes:
        raise ArgumentError("quantize: expected a classifier of this package, whose labels can be compared")
    if classes is not None and (
        isinstance(classes, str)
        or not all(isinstance(name, str) for name in classes)
        or len(classes) != model.num_classes
    ):
        raise ArgumentError(
            f"classes={quoted(classes)}: expected a list of {model.num_classes} names, one for each output"
        )
    place = checked_path(path, ONNX, force=force)
    ONNX.check_installed()
    sides = own_size(model) if size is None else checked_size(size)
    metadata = metadata_of(model, Interface(size=sides, pixels=pixels, softmax=softmax))
    if metadata.images is None or model.in_chans != 3:
        raise ArgumentError("quantize: how this model's images are prepared is not known: expected its pretrained_cfg")
    calibration, other = Path(calib), Path(evaluation) if evaluation else None
    selected = Images.of(calibration, other, lambda file: file_input(file, metadata), most=images, classes=classes)
    results: list[Quantized] = []
    with destination(place, ONNX, force=force) as scratch:
        trial = _Trial(in_eval(model), metadata, selected, progress)
        for one in RECIPES.values() if search else [RECIPES[recipe]]:
            progress(f"recipe {one.name}: {one.help}")
            results.append(_tried(trial, one, scratch, place, min_agreement))
            if results[-1].path:
                break
    return results


def _tried(trial: "_Trial", recipe: Recipe, scratch: Path, place: Path, min_agreement: float) -> Quantized:
    """Write a recipe's file if it agrees. The published file gives the outputs that were compared: see `export`."""
    import onnx

    draft, final = scratch / "int8.onnx", scratch / "final.onnx"
    figures, outputs = trial.measured(recipe, draft)
    quantization = {**figures, "min_agreement": min_agreement, "recipe": recipe.name}
    metadata = dataclasses.replace(trial.metadata, quantization=quantization)
    if figures["agreement"] < min_agreement:
        return Quantized(recipe=recipe.name, path=None, metadata=metadata)
    with runtime_errors("quantize failed", "nothing was written"), file_errors(final):
        ONNX.save(onnx.load(draft), final, metadata)
        first = next(trial.comparison())
        for name, function in _functions(final).items():
            check_same_outputs([function(first)], [outputs[name][: len(first)]], f"quantize, {name}")
    move_into_place(final, place, ONNX)
    return Quantized(recipe=recipe.name, path=place, metadata=metadata)


def _functions(file: Path) -> dict[str, TensorFunction]:
    """Return functions that run a file, by the name of each runtime that is installed."""
    threads = torch.get_num_threads()
    return {
        name: on_tensors(target.open_session(file, threads))
        for name, target in ONNX_RUNTIMES.items()
        if importlib.util.find_spec(name)
    }


class _Trial:
    """A model with everything that does not depend on the recipe.

    Attributes:
        float_graph: The model's graph in float32, serialized.
        rounded: The folded model with weights on their int8 grids.
        statistics: What the inputs of its layers were.
        expected: The model's outputs for the images to compare on, (n, classes).
    """

    def __init__(
        self, model: EfficientNet, metadata: Metadata, images: Images, progress: Callable[[str], None]
    ) -> None:
        from effnet_zoo.runtime.graph import onnx_model

        self.model, self.metadata, self.images = model, metadata, images
        progress(f"{len(images.calibration)} images to calibrate with, {len(images.comparison)} to compare on")
        folded = self._deployed(optimize(model).cpu().float())
        progress("rounding weights by what goes into each layer")
        self.statistics = observe(folded, batches(images.calibration.values(), 1))
        self.expected = torch.cat(model_outputs(folded, self.comparison(), "quantize"))
        self.rounded = optimize(folded.model)
        round_weights(self.rounded, self.statistics)
        self.float_graph = onnx_model(model, metadata.interface, metadata.images).SerializeToString()

    def _deployed(self, model: EfficientNet) -> Deployed:
        return Deployed(model, self.metadata.interface, self.metadata.images).eval()

    def comparison(self) -> Iterator[Tensor]:
        """Yield the images to compare on, in batches, each made when it is asked for."""
        return batches(self.images.comparison.values(), BATCH)

    def measured(self, recipe: Recipe, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Write a recipe's file into a folder of its own, and return its figures, and its outputs by runtime.

        The outputs are those for the images to compare on.
        """
        from effnet_zoo.runtime.int8.writing import write_int8

        names = recipe.quantized(self.model)
        ranges = {name: (self.statistics[name].low, self.statistics[name].high) for name in names}
        float_path = path.with_name("float32.onnx")
        float_path.write_bytes(self.float_graph)
        failing = runtime_errors("quantize failed", "nothing was written")
        with failing, file_errors(path), torch.inference_mode():
            image = next(iter(self.images.calibration.values()))
            write_int8(self._mixed(names), ranges, self.metadata, image, path)
            functions = {"float32": _functions(float_path), "int8": _functions(path)}
            outputs = {
                name: torch.cat([function(batch) for batch in self.comparison()])
                for name, function in functions["int8"].items()
            }
            first = next(self.comparison())  # of one image, if they have several sizes
            timed = torch.cat([first] * (-(-BATCH // len(first))))[:BATCH]
            milliseconds = _timed(functions, timed)
        labels = self.expected.argmax(1)
        same = {name: (found.argmax(1) == labels).float().mean().item() for name, found in outputs.items()}
        worst = min(same, key=same.__getitem__)
        sizes = {"float32": float_path.stat().st_size, "int8": path.stat().st_size}
        fastest = {kind: min(by_runtime.values()) for kind, by_runtime in milliseconds.items()}
        figures = {
            "agreement": same[worst],
            "error": max(error_of(found, self.expected) for found in outputs.values()),
            "accuracy": self._accuracy(outputs[worst]),
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
        return figures, outputs

    def _mixed(self, names: Sequence[str]) -> EfficientNet:
        """Return the folded model with rounded weights in some layers, and its own in the others."""
        mixed = optimize(self.model).cpu().float()
        ours, rounded = layers(mixed), layers(self.rounded)
        with torch.no_grad():
            for name in names:
                ours[name].weight.copy_(rounded[name].weight)
        return mixed

    def _groups(self, names: Sequence[str]) -> dict[str, float]:
        """Return what each group of layers costs alone, in relative error of the outputs, the most costly first."""
        some = list(itertools.islice(self.comparison(), PROBED // BATCH))
        expected = self.expected[: sum(map(len, some))]
        costs = {}
        for group, members in groups(self.model, names).items():
            alone = self._deployed(self._mixed(members))
            with torch.inference_mode(), simulated(alone.model, members, self.statistics):
                costs[group] = relative_error(torch.cat([alone(batch) for batch in some]), expected)
        return dict(sorted(costs.items(), key=lambda item: -item[1]))

    def _accuracy(self, outputs: Tensor) -> dict[str, float] | None:
        if self.images.labels is None:
            return None
        labels = torch.tensor(self.images.labels)
        both = {"float32": self.expected, "int8": outputs}
        return {kind: (given.argmax(1) == labels).float().mean().item() for kind, given in both.items()}


def _timed(functions: Mapping[str, Mapping[str, TensorFunction]], images: Tensor) -> dict[str, dict[str, float]]:
    """Return medians in milliseconds a batch by kind and runtime; each has its turn in each round."""
    seconds: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in by} for kind, by in functions.items()}
    for turn in range(ROUNDS + 1):
        for kind, by_runtime in functions.items():
            for name, function in by_runtime.items():
                function(images)  # the threads of the runtime before it spin for a while
                start = time.perf_counter()
                function(images)
                if turn:
                    seconds[kind][name].append(time.perf_counter() - start)
    return {kind: {name: 1000 * statistics.median(taken) for name, taken in by.items()} for kind, by in seconds.items()}
