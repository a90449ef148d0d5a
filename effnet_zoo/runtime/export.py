"""Write a model into a file for another runtime. The file is run and compared with the model before it takes its place.

What is published is what was proven. A file is saved without its proof, run, and compared with the model. It is saved
again with the proof, run again, and must give the same outputs to the bit. This second file is the one that is moved
into place: nothing is saved after it was run.
"""

import copy
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.atomic_io import check_destination, exclusive, file_errors, scratch_beside
from effnet_zoo.errors import ArgumentError, EngineError, InputError, MissingExtraError, quoted
from effnet_zoo.images.photos import find_photos
from effnet_zoo.network.folding import in_eval
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import check_flags, chosen
from effnet_zoo.runtime import deployed, engine
from effnet_zoo.runtime.exported import graph_input, read_pixels
from effnet_zoo.runtime.metadata import Interface, Metadata, Size
from effnet_zoo.runtime.targets.table import FORMATS
from effnet_zoo.runtime.targets.target import Target, runtime_errors

TOLERANCE = {**engine.TOLERANCE, "float32": 1e-4}
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
    if size is not None and dynamic:
        raise ArgumentError("size is for one height and width, dynamic for any: expected at most one of them")
    sides = None if dynamic else deployed.own_size(model) if size is None else deployed.checked_size(size)
    interface = Interface(size=sides, pixels=pixels, resize=resize, softmax=softmax, dtype=dtype)
    place = checked_path(path, target, force=force)
    target.check_file(interface)
    deployed.check_has_weights(model, "export")
    model, metadata = in_eval(model), deployed.metadata_of(model, interface)
    with (
        runtime_errors(f"export to {format} failed", "nothing was written"),
        destination(place, target, force=force) as scratch,
    ):
        draft, final, work = (scratch / name for name in (f"draft{target.suffix}", f"final{target.suffix}", "work"))
        work.mkdir()
        built = target.build(model, interface, metadata.images, work)
        target.save(built, draft, metadata)
        drawn, photos = list(_drawn_images(model, interface)), _photos(model, metadata)
        outputs = _outputs(target, draft, model, [*drawn, *photos.values()])
        proof = _proof(model, metadata, target, drawn, photos, outputs)
        metadata = dataclasses.replace(metadata, proof=proof)
        target.save(built, final, metadata)
        again = _outputs(target, final, model, drawn)
        # On a GPU, PyTorch may be set to choose algorithms by their time, so that two runs round differently.
        tolerance = 0.0 if model.conv_stem.weight.is_cpu else TOLERANCE[dtype]
        check_same_outputs(again, outputs[: len(drawn)], format, tolerance)
        size_in_bytes = move_into_place(final, place, target)
    return Export(path=place, format=format, bytes=size_in_bytes, metadata=metadata)


def checked_path(path: str | Path, target: Target, *, force: bool) -> Path:
    """Return a path, after a check that a file of a target can be written there, over another only with `force`."""
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"path={quoted(path)}: expected a path")
    place = Path(path)
    if place.suffix != target.suffix:
        raise InputError(f"{place}: expected a name that ends in {target.suffix}, for format {target.format}")
    if target.companions and place.is_symlink():
        raise InputError(
            f"{place}: a symbolic link, and {target.format} writes files that lie side by side: name the file itself"
        )
    for suffix in (target.suffix, *target.companions):
        taken = place.with_suffix(suffix)
        check_destination(taken)
        if taken.is_dir() or (taken.exists() and not force):
            raise InputError(f"{taken}: there is something already: name another, or replace a file with --force")
    return place


@contextmanager
def destination(path: Path, target: Target, *, force: bool) -> Iterator[Path]:
    """Hold a path for this process alone, and yield an empty folder beside it.

    Raise InputError if another process writes to the path, or has written to it since `checked_path`.
    """
    with exclusive(path), scratch_beside(path) as scratch, file_errors(path):
        checked_path(path, target, force=force)
        yield scratch


def move_into_place(draft: Path, path: Path, target: Target) -> int:
    """Move a file, and the files that belong to it, to a destination, and return how many bytes they have."""
    files = [draft.with_suffix(suffix) for suffix in (*target.companions, target.suffix)]
    total = 0
    for file in files:
        with file.open("rb") as content:
            os.fsync(content.fileno())  # otherwise a crash of the machine could leave an empty file of the right name
            total += os.fstat(content.fileno()).st_size
    if target.companions:
        path.unlink(missing_ok=True)  # an old graph must not be found beside new weights
    for file in files:  # the one that people open comes last
        file.replace(os.path.realpath(path.with_suffix(file.suffix)))
    return total


def check_same_outputs(outputs: Sequence[Tensor], proven: Sequence[Tensor], what: str, tolerance: float = 0.0) -> None:
    """Raise EngineError unless the file that is to be published gives the outputs of the file that was proven."""
    if not all(deployed.error_of(ours, theirs) <= tolerance for ours, theirs in zip(outputs, proven, strict=True)):
        raise EngineError(
            f"{what}: the file with its proof computes something else than the file that was proven: nothing was "
            "written"
        )


def _outputs(target: Target, path: Path, model: EfficientNet, batches: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs of a file. When this returns, no runtime has the file open or mapped."""
    function = target.load(path, model.conv_stem.weight.device, torch.get_num_threads())
    with torch.inference_mode():
        return [function(batch).cpu().clone() for batch in batches]


def _proof(
    model: EfficientNet,
    metadata: Metadata,
    target: Target,
    drawn: Sequence[Tensor],
    photos: Mapping[str, Tensor],
    outputs: Sequence[Tensor],
) -> dict[str, Any]:
    """Compare a file's outputs of drawn images, then of photos, with those of the model in float32.

    Return ``error`` (the largest relative one), ``sizes`` of the drawn images, how many ``photos``, how many of them
    have the ``same_label``, and the versions of what ``ran`` the file. Raise EngineError if outputs differ by more than
    `TOLERANCE`, in float32 a photo gets another label, or the model's own outputs are not finite.
    """
    interface, weight = metadata.interface, model.conv_stem.weight
    plain = model if weight.dtype == torch.float32 else copy.deepcopy(model).float()
    in_float32 = dataclasses.replace(interface, dtype="float32")
    reference = deployed.Deployed(plain, in_float32, metadata.images).to(weight.device).eval()
    expected = deployed.model_outputs(
        lambda batch: reference(batch.to(weight.device)), [*drawn, *photos.values()], "export"
    )
    error = max(map(deployed.error_of, outputs, expected))
    who = f"{target.format}, {interface.dtype}"
    deployed.check_error(error, TOLERANCE[interface.dtype], who, "nothing was written")
    same_label = None
    if model.num_classes:
        pairs = zip(photos, outputs[len(drawn) :], expected[len(drawn) :], strict=True)
        others = [name for name, theirs, ours in pairs if theirs.argmax() != ours.argmax()]
        if others and interface.dtype == "float32":
            raise EngineError(
                f"{target.format}: {', '.join(others)}: another label than the model's: nothing was written"
            )
        same_label = len(photos) - len(others)
    return {
        "error": error,
        "sizes": [list(size) for size in _sizes(model, interface)],
        "photos": len(photos),
        "same_label": same_label,
        "ran": [f"{package} {version}" for package, version in target.versions().items()]
        or [f"torch {torch.__version__}"],
    }


def _sizes(model: EfficientNet, interface: Interface) -> list[Size]:
    """Return heights and widths of images that show a wrong padding or crop: odd, even, and not square."""
    height, width = interface.size or deployed.own_size(model)
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
    """Return an image file as an exported file takes it, without batch."""
    if metadata.images is None:
        raise ArgumentError("how this model's images are prepared is not known: expected it in its pretrained_cfg")
    pixels = read_pixels(path, metadata.interface, metadata.images)
    return torch.from_numpy(graph_input([pixels], metadata.interface, metadata.images)[0])
