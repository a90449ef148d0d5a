"""A model into a file for another runtime, which is run and compared with the model before it takes its place."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from effnet_zoo.atomic_io import scratch_beside
from effnet_zoo.engines.core import TOLERANCE as ROUNDING
from effnet_zoo.errors import (
    ArgumentError,
    EffnetZooError,
    EngineError,
    InputError,
    MissingExtraError,
    UnknownNameError,
    did_you_mean,
    first_line,
)
from effnet_zoo.export.formats import FORMATS, Format
from effnet_zoo.export.record import Record
from effnet_zoo.graphs.interface import Deployed, Interface, Pixels, Size, own_size
from effnet_zoo.graphs.runtimes import Run
from effnet_zoo.images import Reader, read_whole
from effnet_zoo.model import EfficientNet
from effnet_zoo.photos import find_photos
from effnet_zoo.preprocess import eval_transform, open_image
from effnet_zoo.selftest import relative_error
from effnet_zoo.spec import MIN_SIZE

TOLERANCE = {**ROUNDING, "float32": 1e-4}
"""Largest relative error of the outputs, ||file's - model's|| / ||model's||, by dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A file that was written.

    Attributes:
        path: Where it is.
        format: Its format's name.
        bytes: Its size, with that of files beside it that belong to it.
        record: What it says of itself; its proof has the largest relative error, and the photos of the same label.
    """

    path: Path
    format: str
    bytes: int
    record: Record


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
        model: A classifier, or one with num_classes=0 for its features; it stays as it is.
        path: The file, with the format's suffix.
        format: A key of `FORMATS`.
        size: Side, or height and width, that the file is for; by default the checkpoint's.
        dynamic: Whether it is right at any height and width instead.
        pixels: ``nhwc`` or ``nchw`` for a file that takes uint8 images and normalises them itself.
        resize: Whether it resizes and crops them too.
        softmax: Whether it gives probabilities.
        dtype: What it computes in: ``float32``, ``float16`` or ``bfloat16``. What goes in and comes out stays float32.
        force: Replace the file if it is there.

    Raises:
        UnknownNameError: If there is no such format.
        ArgumentError: If options do not fit together, the format or the model.
        InputError: If the path is taken, or has another suffix.
        MissingExtraError: If a package is missing.
        EngineError: If the file cannot be made, or computes something else than the model. Nothing is left then.
    """
    if format not in FORMATS:
        raise UnknownNameError(
            f"unknown format {format!r}: expected {', '.join(FORMATS)}.{did_you_mean(format, FORMATS)}"
        )
    if not isinstance(model, EfficientNet):
        raise ArgumentError(f"export: expected a classifier of this package, found {type(model).__name__}")
    interface = interface_of(model, size, dynamic=dynamic, pixels=pixels, resize=resize, softmax=softmax, dtype=dtype)
    target = FORMATS[format]
    place = checked_path(path, target, force=force)
    target.check(interface)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ArgumentError("export: the model is on the meta device: expected one with weights, load them first")
    record = Record.of(model, interface)
    training = model.training
    try:
        return written(target, model.eval(), record, place)
    finally:
        model.train(training)


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
    """What goes in and comes out, as `export` is asked for it.

    Raises:
        ArgumentError: If options do not fit together or the model.
    """
    if size is not None and dynamic:
        raise ArgumentError("size is for one height and width, dynamic for any: expected at most one of them")
    if pixels is not None and pixels not in get_args(Pixels):
        raise ArgumentError(f"pixels={pixels!r}: expected {' or '.join(get_args(Pixels))}")
    if softmax and not model.num_classes:
        raise ArgumentError("softmax: this model gives features: expected a classifier")
    if not model.num_classes and not model.global_pool.pool_type:
        raise ArgumentError("export: this model pools nothing: expected logits or pooled features")
    sides = None
    if not dynamic:
        sides = own_size(model) if size is None else (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
            raise ArgumentError(f"size={size!r}: expected a side, or height and width, in pixels")
    return Interface(
        size=cast("Size | None", sides),
        pixels=cast("Pixels | None", pixels),
        resize=resize,
        softmax=softmax,
        dtype=dtype,
    )


def checked_path(path: str | Path, target: Format, *, force: bool) -> Path:
    """A path that a file of a format can be written to.

    Raises:
        InputError: If it is taken, or has another suffix, or its folder is a file.
    """
    place = Path(path)
    if place.suffix != target.suffix:
        raise InputError(f"{place}: expected a name that ends in {target.suffix}, for format {target.name}")
    for suffix in (target.suffix, *target.companions):
        if (taken := place.with_suffix(suffix)).is_dir() or (taken.exists() and not force):
            raise InputError(f"{taken}: there is something already: name another, or replace a file with --force")
    for folder in place.absolute().parents:
        if folder.exists():
            if not folder.is_dir():
                raise InputError(f"{place}: {folder} is a file: expected a folder")
            break
    return place


def written(target: Format, model: EfficientNet, record: Record, path: Path) -> Export:
    """A model's file: built, written beside its place, run, compared, and moved there with what was found."""
    device = model.conv_stem.weight.device
    with scratch_beside(path) as beside:
        draft = beside / path.name
        try:
            built = target.build(model, record)
            target.save(built, record, draft)
            run = target.run(draft, device)
            proof = prove(model, record, run, target)
        except (EffnetZooError, OSError):
            raise
        except Exception as error:  # of the runtime's own kinds, which nobody can list
            raise EngineError(f"export to {target.name} failed: {first_line(error)}: nothing was written") from error
        del run  # a runtime may have the file mapped
        record = dataclasses.replace(record, proof=proof)
        target.save(built, record, draft)
        moved = moved_into_place(draft, path, target)
    return Export(path=path, format=target.name, bytes=moved, record=record)


def moved_into_place(draft: Path, path: Path, target: Format) -> int:
    """Put a file, and those that belong to it, where they shall be; how many bytes they have."""
    files = [draft.with_suffix(suffix) for suffix in (*target.companions, target.suffix)]
    total = sum(file.stat().st_size for file in files)
    for file in files:  # the one that people open comes last
        file.replace(path.with_suffix(file.suffix))
    return total


def prove(model: EfficientNet, record: Record, run: Run, target: Format) -> dict[str, Any]:
    """Compare what a file computes with the model, on drawn images of every size that matters and on real photos.

    Returns:
        ``error`` (the largest relative one), ``sizes`` of the drawn images, ``photos``, ``same_label`` of these and
        what ``ran`` the file.

    Raises:
        EngineError: If outputs are further off than `TOLERANCE`, or in float32 a photo gets another label.
    """
    interface = record.interface
    device = model.conv_stem.weight.device
    plain = model if model.conv_stem.weight.dtype == torch.float32 else copy.deepcopy(model).float()
    reference = Deployed(plain, interface.computing_in("float32"), record.images).to(device).eval()

    def error_of(images: Tensor) -> tuple[float, bool]:
        with torch.inference_mode():
            ours = reference(images).cpu()
            theirs = run(images if target.follows_device else images.cpu()).cpu()
        if ours.shape != theirs.shape:
            raise EngineError(f"{target.name}: outputs of shape {tuple(theirs.shape)}: expected {tuple(ours.shape)}")
        return relative_error(theirs, ours), bool((theirs.argmax(1) == ours.argmax(1)).all())

    sizes = list(_sizes(model, interface))
    errors = [error_of(_drawn(model, interface, size, count).to(device))[0] for size in sizes for count in (1, 3)]
    photos = {name: error_of(image[None].to(device)) for name, image in _photos(model, record)}
    error = max([*errors, *(error for error, _ in photos.values())])
    if not error <= TOLERANCE[interface.dtype]:
        raise EngineError(
            f"{target.name}, {interface.dtype}: outputs differ from the model's by a relative {error:.1e}: expected at "
            f"most {TOLERANCE[interface.dtype]:.0e}; nothing was written"
        )
    others = [name for name, (_, same) in photos.items() if not same] if model.num_classes else []
    if others and interface.dtype == "float32":
        raise EngineError(
            f"{target.name}: {', '.join(others)} gets another label than by the model: nothing was written"
        )
    return {
        "error": error,
        "sizes": [list(size) for size in sizes],
        "photos": len(photos),
        "same_label": len(photos) - len(others) if model.num_classes else None,
        "ran": [f"{package} {metadata.version(package)}" for package in target.packages]
        or [f"torch {torch.__version__}"],
    }


def _sizes(model: EfficientNet, interface: Interface) -> Iterator[Size]:
    """Height and width of images that show a wrong padding, or a wrong crop: odd, even, and neither square."""
    height, width = interface.size or own_size(model)
    if interface.resize:
        yield 2 * height + 1, width + 34
        yield max(height // 2, MIN_SIZE), width
    elif interface.size:
        yield interface.size
    else:
        yield from ((height, width), (65, 98), (MIN_SIZE + 2, MIN_SIZE + 1))


def _drawn(model: EfficientNet, interface: Interface, size: Size, count: int) -> Tensor:
    shape = (count, *interface.image_shape(model.in_chans, size))
    draw = torch.Generator().manual_seed(count)
    if interface.pixels:
        return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    return torch.randn(shape, generator=draw)


def _photos(model: EfficientNet, record: Record) -> Iterator[tuple[str, Tensor]]:
    """The real photos that are installed, as the file takes them; none for other images than theirs."""
    if record.images is None or model.in_chans != 3:
        return
    try:
        found = find_photos()
    except (MissingExtraError, InputError):
        return
    read = image_reader(record)
    for name, path in found.items():
        yield name, read(path)


def image_reader(record: Record) -> Callable[[Path], Tensor]:
    """What reads an image file to what an exported file takes, without batch.

    Raises:
        ArgumentError: If nobody knows how images are prepared.
    """
    interface, how = record.interface, record.images
    if how is None:
        raise ArgumentError("how this model's images are prepared is not known: expected it in its pretrained_cfg")
    if interface.pixels is None:
        transform = eval_transform(how)
        return lambda path: transform(open_image(path))
    read = functools.partial(read_whole, how=how) if interface.resize else Reader(how)
    if interface.pixels == "nhwc":
        return lambda path: read(path).permute(1, 2, 0).contiguous()
    return read
