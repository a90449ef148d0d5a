"""A model into a file for another runtime, which is run and compared with the model before it takes its place.

What is published is what was proven. A file is saved without its proof, run, and compared with the model. It is saved
again with the proof, run again, and must give the same outputs to the bit. That second file is the one that is moved
into place: nothing is saved after it was run.
"""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.errors import (
    ArgumentError,
    EffnetZooError,
    EngineError,
    InputError,
    MissingExtraError,
    first_line,
    quoted,
)
from effnet_zoo.images.photos import find_photos
from effnet_zoo.network.folding import in_eval
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import check_flags, chosen
from effnet_zoo.runtime.agreement import check_error, error_of, model_outputs, same_labels
from effnet_zoo.runtime.deployed import Deployed, check_has_weights, metadata_of, own_size
from effnet_zoo.runtime.destination import checked_path, destination, move_into_place
from effnet_zoo.runtime.engine import TOLERANCE as ENGINE_TOLERANCE
from effnet_zoo.runtime.inputs import graph_input, read_pixels
from effnet_zoo.runtime.interface import COMPUTE_DTYPES, Interface, Pixels, Size, checked_size
from effnet_zoo.runtime.metadata import Metadata
from effnet_zoo.runtime.targets import FORMATS
from effnet_zoo.runtime.targets.target import FileTarget, TensorFunction

TOLERANCE = {**ENGINE_TOLERANCE, "float32": 1e-4}
"""Largest relative error of a file's outputs, ||file's - model's|| / ||model's||, by dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A file that was written.

    Attributes:
        path: Where it is.
        format: Its format's name.
        bytes: Its size, with the files that belong to it.
        metadata: What it says of itself. Its proof has the largest relative error, and how many photos get the model's
            label.
    """

    path: Path
    format: str
    bytes: int
    metadata: Metadata


def export(
    model: EfficientNet,
    path: str | Path,
    *,
    format: str = "onnx",  # noqa: A002
    size: int | Size | None = None,
    dynamic: bool = False,
    pixels: str | None = None,
    resize: bool = False,
    softmax: bool = False,
    dtype: str = "float32",
    force: bool = False,
) -> Export:
    """Write a model for another runtime, run the file, and compare. Batch norm is folded; the batch stays free.

    Args:
        model: A classifier, or a model with num_classes=0 for its features; it stays as it is.
        path: The file, with the format's suffix.
        format: ``onnx``, ``openvino``, ``torch``, ``aotinductor``, ``torchscript`` or ``litert``.
        size: Side, or height and width, that the file is for, 32 to 8192 pixels; by default the checkpoint's.
        dynamic: Whether the file takes any height and width instead.
        pixels: ``nhwc`` or ``nchw`` for a file that takes uint8 images and normalises them itself.
        resize: Whether it resizes and crops them too.
        softmax: Whether it gives probabilities.
        dtype: What it computes in: ``float32``, ``float16`` or ``bfloat16``. What goes in and comes out stays float32.
        force: Replace the file if it is there.

    Raises:
        UnknownNameError: If there is no such format.
        ArgumentError: If a value is of another type, or options do not fit together, the format or the model.
        InputError: If there is a file already and `force` is false, the suffix is another, or nothing can be written.
        MissingExtraError: If a package is missing.
        WeightsError: If the model's ``pretrained_cfg`` has values that metadata cannot hold.
        EngineError: If the file cannot be made, or computes something else than the model. Nothing is left then.
    """
    target = FORMATS[chosen(format, FORMATS, "format")]
    if not isinstance(model, EfficientNet):
        raise ArgumentError(f"export: expected a classifier of this package, found {type(model).__name__}")
    check_flags(dynamic=dynamic, resize=resize, softmax=softmax, force=force)
    interface = interface_of(model, size, dynamic=dynamic, pixels=pixels, resize=resize, softmax=softmax, dtype=dtype)
    place = checked_path(path, target, force=force)
    target.check_file(interface)
    check_has_weights(model, "export")
    model, metadata = in_eval(model), metadata_of(model, interface)
    device, threads = model.conv_stem.weight.device, torch.get_num_threads()
    with destination(place, target, force=force) as scratch, runtime_errors(f"export to {target.format}"):
        draft, final, work = (scratch / name for name in (f"draft{target.suffix}", f"final{target.suffix}", "work"))
        work.mkdir()
        built = target.build(model, interface, metadata.images, work)
        target.save(built, draft, metadata)
        drawn = list(_drawn_images(model, interface))
        function = target.load(draft, device, threads)
        outputs = _outputs(function, drawn)
        proof = _prove(model, metadata, function, target, drawn, outputs)
        del function  # a runtime may have the file mapped
        metadata = dataclasses.replace(metadata, proof=proof)
        target.save(built, final, metadata)
        again = _outputs(target.load(final, device, threads), drawn)
        # On a GPU, PyTorch may be set to choose algorithms by their time, so that two runs round differently.
        check_same_outputs(again, outputs, target.format, TOLERANCE[dtype] if device.type != "cpu" else 0.0)
        size_in_bytes = move_into_place(final, place, target)
    return Export(path=place, format=format, bytes=size_in_bytes, metadata=metadata)


def interface_of(
    model: EfficientNet,
    size: int | Size | None,
    *,
    dynamic: bool = False,
    pixels: str | None,
    resize: bool = False,
    softmax: bool,
    dtype: str = "float32",
) -> Interface:
    """Return what goes in and comes out, from the arguments of `export`.

    Raises:
        ArgumentError: If a value is of another type, or options do not fit together or the model.
    """
    if size is not None and dynamic:
        raise ArgumentError("size is for one height and width, dynamic for any: expected at most one of them")
    for name, value, known in (("pixels", pixels, (None, *get_args(Pixels))), ("dtype", dtype, COMPUTE_DTYPES)):
        if value not in list(known):  # a list, because the value may be no key of a set
            raise ArgumentError(f"{name}={quoted(value)}: expected {', '.join(filter(None, known))}")
    if softmax and not model.num_classes:
        raise ArgumentError("softmax: this model gives features: expected a classifier")
    if not model.num_classes and not model.global_pool.pool_type:
        raise ArgumentError("export: this model pools nothing: expected logits or pooled features")
    sides = None if dynamic else own_size(model) if size is None else checked_size(size)
    return Interface(size=sides, pixels=cast("Pixels | None", pixels), resize=resize, softmax=softmax, dtype=dtype)


@contextmanager
def runtime_errors(what: str) -> Iterator[None]:
    """Turn what a runtime raises into an `EngineError`: its kinds of errors are its own, and nobody can list them."""
    try:
        yield
    except (EffnetZooError, OSError, MemoryError):
        raise
    except Exception as error:
        raise EngineError(f"{what} failed: {first_line(error)}: nothing was written") from error


def check_same_outputs(outputs: Sequence[Tensor], proven: Sequence[Tensor], what: str, tolerance: float = 0.0) -> None:
    """Check that the file that is to be published gives the outputs of the file that was proven.

    Raises:
        EngineError: If it does not.
    """
    if not all(error_of(ours, theirs) <= tolerance for ours, theirs in zip(outputs, proven, strict=True)):
        raise EngineError(
            f"{what}: the file with its proof computes something else than the file that was proven: nothing was "
            "written"
        )


def _outputs(function: TensorFunction, batches: Sequence[Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        return [function(batch).cpu().clone() for batch in batches]


def _prove(
    model: EfficientNet,
    metadata: Metadata,
    function: TensorFunction,
    target: FileTarget,
    drawn: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> dict[str, Any]:
    """Compare what a file computes with the model, on drawn images of every size that matters and on real photos.

    Args:
        model: In eval mode.
        metadata: What the file says of itself.
        function: Runs the file.
        target: Its target.
        drawn: Batches of drawn images.
        outputs: The file's outputs of these.

    Returns:
        ``error`` (the largest relative one), ``sizes`` of the drawn images, how many ``photos``, how many of them have
        the ``same_label``, and the versions of what ``ran`` the file.

    Raises:
        EngineError: If outputs differ by more than `TOLERANCE`, in float32 a photo gets another label, or the model's
            own outputs are not finite.
    """
    interface, device = metadata.interface, model.conv_stem.weight.device
    plain = model if model.conv_stem.weight.dtype == torch.float32 else copy.deepcopy(model).float()
    in_float32 = dataclasses.replace(interface, dtype="float32")
    reference = Deployed(plain, in_float32, metadata.images).to(device).eval()
    photos = _photos(model, metadata)
    batches = [*drawn, *photos.values()]
    found = [*outputs, *_outputs(function, list(photos.values()))]
    expected = model_outputs(lambda batch: reference(batch.to(device)), batches, "export")
    error = max(map(error_of, found, expected))
    who = f"{target.format}, {interface.dtype}"
    check_error(error, TOLERANCE[interface.dtype], who, "nothing was written")
    proof: dict[str, Any] = {
        "error": error,
        "sizes": [list(size) for size in _sizes(model, interface)],
        "photos": len(photos),
        "same_label": None,
        "ran": [f"{package} {version}" for package, version in target.versions().items()]
        or [f"torch {torch.__version__}"],
    }
    if model.num_classes:
        pairs = zip(photos, found[len(drawn) :], expected[len(drawn) :], strict=True)
        others = [name for name, theirs, ours in pairs if not same_labels(theirs, ours).all()]
        if others and interface.dtype == "float32":
            raise EngineError(
                f"{target.format}: {', '.join(others)}: another label than the model's: nothing was written"
            )
        proof["same_label"] = len(photos) - len(others)
    return proof


def _sizes(model: EfficientNet, interface: Interface) -> list[Size]:
    """Return heights and widths of images that show a wrong padding or crop: odd, even, and not square."""
    height, width = interface.size or own_size(model)
    if interface.resize:
        return [(2 * height + 1, width + 34), (max(height // 2, MIN_SIZE), width)]
    return [interface.size] if interface.size else [(height, width), (65, 98), (MIN_SIZE + 2, MIN_SIZE + 1)]


def _drawn_images(model: EfficientNet, interface: Interface) -> Iterator[Tensor]:
    """Yield a batch of one and a batch of three of each size."""
    for size in _sizes(model, interface):
        for count in (1, 3):
            shape = (count, *interface.image_shape(model.in_chans, size))
            draw = torch.Generator().manual_seed(count)
            if interface.pixels:
                yield torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
            else:
                yield torch.randn(shape, generator=draw)


def _photos(model: EfficientNet, metadata: Metadata) -> dict[str, Tensor]:
    """Return the real photos that are installed, by name, each as a batch; none for a model of other images."""
    if metadata.images is None or model.in_chans != 3:
        return {}
    try:
        found = find_photos()
    except (MissingExtraError, InputError):
        return {}
    return {name: file_input(path, metadata)[None] for name, path in found.items()}


def file_input(path: Path, metadata: Metadata) -> Tensor:
    """Return an image file as an exported file takes it, without batch.

    Raises:
        ArgumentError: If it is not known how images are prepared.
        InputError: If the image is missing, unreadable, too large, or not an image.
    """
    if metadata.images is None:
        raise ArgumentError("how this model's images are prepared is not known: expected it in its pretrained_cfg")
    pixels = read_pixels(path, metadata.interface, metadata.images)
    return torch.from_numpy(graph_input([pixels], metadata.interface, metadata.images)[0])
