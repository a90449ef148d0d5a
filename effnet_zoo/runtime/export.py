"""A model into a file for another runtime, which is run and compared with the model before it takes its place.

What is published is what was proven. A file is saved without its proof, run, and compared with the model. It is saved
again with the proof, run again, and must give the same outputs to the bit. That second file is the one that is moved
into place: nothing is saved after it was run.
"""

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.atomic_io import check_destination, exclusive, file_errors, scratch_beside
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
from effnet_zoo.images.reader import Reader, read_whole
from effnet_zoo.images.transform import eval_transform, open_image
from effnet_zoo.network.folding import in_eval
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import check_flags, chosen
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.engine import TOLERANCE as ROUNDING
from effnet_zoo.runtime.formats import FORMATS, Format
from effnet_zoo.runtime.interface import DTYPES, Deployed, Interface, Pixels, Size, own_size
from effnet_zoo.runtime.record import Record
from effnet_zoo.runtime.sessions import Run, package_version
from effnet_zoo.zoo.preprocessing import LARGEST_SIDE

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
    """Writes a model for another runtime, runs the file, and compares. Batch norm is folded; the batch stays free.

    Args:
        model: A classifier, or one with num_classes=0 for its features; it stays as it is.
        path: The file, with the format's suffix.
        format: A key of `FORMATS`.
        size: Side, or height and width, that the file is for, 32 to 8192 pixels; by default the checkpoint's.
        dynamic: Whether it is right at any height and width instead.
        pixels: ``nhwc`` or ``nchw`` for a file that takes uint8 images and normalises them itself.
        resize: Whether it resizes and crops them too.
        softmax: Whether it gives probabilities.
        dtype: What it computes in: ``float32``, ``float16`` or ``bfloat16``. What goes in and comes out stays float32.
        force: Replace the file if it is there.

    Raises:
        UnknownNameError: If there is no such format.
        ArgumentError: If a value is of another type, or options do not fit together, the format or the model.
        InputError: If the path is taken, has another suffix, or cannot be written to.
        MissingExtraError: If a package is missing.
        WeightsError: If the model's ``pretrained_cfg`` has values that a record cannot hold.
        EngineError: If the file cannot be made, or computes something else than the model. Nothing is left then.
    """
    target = FORMATS[chosen(format, FORMATS, "format")]
    if not isinstance(model, EfficientNet):
        raise ArgumentError(f"export: expected a classifier of this package, found {type(model).__name__}")
    check_flags(dynamic=dynamic, resize=resize, softmax=softmax, force=force)
    interface = interface_of(model, size, dynamic=dynamic, pixels=pixels, resize=resize, softmax=softmax, dtype=dtype)
    place = checked_path(path, target, force=force)
    target.check(interface)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ArgumentError("export: the model is on the meta device: expected one with weights, load them first")
    return written(target, in_eval(model), Record.of(model, interface), place, force=force)


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
    """Returns what goes in and comes out, as `export` is asked for it.

    Raises:
        ArgumentError: If a value is of another type, or options do not fit together or the model.
    """
    if size is not None and dynamic:
        raise ArgumentError("size is for one height and width, dynamic for any: expected at most one of them")
    if pixels is not None and pixels not in get_args(Pixels):
        raise ArgumentError(f"pixels={quoted(pixels)}: expected {' or '.join(get_args(Pixels))}")
    if dtype not in list(DTYPES):  # a list, because what is asked for may be no key at all
        raise ArgumentError(f"dtype={quoted(dtype)}: expected {', '.join(DTYPES)}")
    if softmax and not model.num_classes:
        raise ArgumentError("softmax: this model gives features: expected a classifier")
    if not model.num_classes and not model.global_pool.pool_type:
        raise ArgumentError("export: this model pools nothing: expected logits or pooled features")
    sides = None if dynamic else own_size(model) if size is None else _sides(size)
    return Interface(size=sides, pixels=cast("Pixels | None", pixels), resize=resize, softmax=softmax, dtype=dtype)


def _sides(size: Any) -> Size:
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side <= LARGEST_SIDE for side in sides):
        raise ArgumentError(
            f"size={quoted(size)}: expected a side, or height and width, in pixels, of at most {LARGEST_SIDE}"
        )
    return sides[0], sides[1]


def checked_path(path: str | Path, target: Format, *, force: bool) -> Path:
    """Checks that a file of a format can be written at a path.

    Raises:
        ArgumentError: If it is no path.
        InputError: If it is taken, has another suffix, or cannot be written to.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"path={quoted(path)}: expected a path")
    place = Path(path)
    if place.suffix != target.suffix:
        raise InputError(f"{place}: expected a name that ends in {target.suffix}, for format {target.name}")
    if target.companions and place.is_symlink():
        raise InputError(
            f"{place}: a symbolic link, and {target.name} writes files that lie side by side: name the file itself"
        )
    for suffix in (target.suffix, *target.companions):
        taken = place.with_suffix(suffix)
        check_destination(taken)
        if taken.is_dir() or (taken.exists() and not force):
            raise InputError(f"{taken}: there is something already: name another, or replace a file with --force")
    return place


@contextmanager
def destination(path: Path, target: Format, *, force: bool) -> Iterator[Path]:
    """Holds a path for this process alone, and yields an empty folder beside it.

    Raises:
        InputError: If another process writes it, has written it meanwhile, or the system refuses.
    """
    with exclusive(path), scratch_beside(path) as scratch, file_errors(path):
        checked_path(path, target, force=force)
        yield scratch


@contextmanager
def runtime_errors(what: str) -> Iterator[None]:
    """Turns what a runtime raises into an `EngineError`: its kinds of errors are its own, and nobody can list them."""
    try:
        yield
    except (EffnetZooError, OSError, MemoryError):
        raise
    except Exception as error:
        raise EngineError(f"{what} failed: {first_line(error)}: nothing was written") from error


def written(target: Format, model: EfficientNet, record: Record, path: Path, *, force: bool) -> Export:
    """Writes a model's file: see above for how it is proven.

    Args:
        target: Its format.
        model: In eval mode.
        record: What the file says of itself, without a proof.
        path: Where the file shall be.
        force: Replace the file if it is there.

    Returns:
        What was written, with the proof in its record.
    """
    device = model.conv_stem.weight.device
    with destination(path, target, force=force) as scratch, runtime_errors(f"export to {target.name}"):
        draft, final, work = (scratch / name for name in (f"draft{target.suffix}", f"final{target.suffix}", "work"))
        work.mkdir()
        built = target.build(model, record, work)
        target.save(built, record, draft)
        images = list(_drawn(model, record.interface))
        run = target.run(draft, device)
        outputs = _outputs(run, images, target, device)
        proof = prove(model, record, run, target, images, outputs)
        del run  # a runtime may have the file mapped
        record = dataclasses.replace(record, proof=proof)
        target.save(built, record, final)
        again = _outputs(target.run(final, device), images, target, device)
        # On a GPU, PyTorch may be set to choose algorithms by their time, so that two runs round differently.
        check_same(again, outputs, target.name, TOLERANCE[record.interface.dtype] if device.type != "cpu" else 0.0)
        moved = moved_into_place(final, path, target)
    return Export(path=path, format=target.name, bytes=moved, record=record)


def check_same(outputs: Sequence[Tensor], proven: Sequence[Tensor], what: str, tolerance: float = 0.0) -> None:
    """Checks that the file that is to be published gives the outputs of the file that was proven.

    Raises:
        EngineError: If it does not.
    """
    for ours, theirs in zip(outputs, proven, strict=True):
        if ours.shape != theirs.shape or not relative_error(ours, theirs) <= tolerance:
            raise EngineError(
                f"{what}: the file with its proof computes something else than the file that was proven: nothing was "
                "written"
            )


def moved_into_place(draft: Path, path: Path, target: Format) -> int:
    """Moves a file, and those that belong to it, to where they shall be, and returns how many bytes they have."""
    files = [draft.with_suffix(suffix) for suffix in (*target.companions, target.suffix)]
    total = 0
    for file in files:
        with file.open("rb") as content:
            os.fsync(content.fileno())  # else a crash of the machine could leave an empty file of the right name
            total += os.fstat(content.fileno()).st_size
    if target.companions:
        path.unlink(missing_ok=True)  # an old graph must not be found beside new weights
    for file in files:  # the one that people open comes last
        file.replace(os.path.realpath(path.with_suffix(file.suffix)))
    return total


def _outputs(run: Run, images: Sequence[Tensor], target: Format, device: torch.device) -> list[Tensor]:
    """Returns what a file computes of batches, on the processor; it is given them where it wants them."""
    with torch.inference_mode():
        return [run(batch.to(device) if target.follows_device else batch).cpu().clone() for batch in images]


def prove(
    model: EfficientNet,
    record: Record,
    run: Run,
    target: Format,
    images: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> dict[str, Any]:
    """Compares what a file computes with the model, on drawn images of every size that matters and on real photos.

    Args:
        model: In eval mode.
        record: What the file says of itself.
        run: What computes the file's outputs.
        target: Its format.
        images: Batches of drawn images.
        outputs: The file's, of these.

    Returns:
        ``error`` (the largest relative one), ``sizes`` of the drawn images, ``photos``, ``same_label`` of these and
        what ``ran`` the file.

    Raises:
        EngineError: If outputs are further off than `TOLERANCE`, in float32 a photo gets another label, or the model's
            own outputs are not finite.
    """
    interface = record.interface
    device = model.conv_stem.weight.device
    plain = model if model.conv_stem.weight.dtype == torch.float32 else copy.deepcopy(model).float()
    reference = Deployed(plain, interface.computing_in("float32"), record.images).to(device).eval()

    def error_of(batch: Tensor, theirs: Tensor) -> tuple[float, bool]:
        with torch.inference_mode():
            ours = reference(batch.to(device)).cpu()
        if not ours.isfinite().all():
            raise EngineError(
                "export: the model's own outputs are not finite: expected weights without NaN: see verify"
            )
        if ours.shape != theirs.shape:
            raise EngineError(f"{target.name}: outputs of shape {tuple(theirs.shape)}: expected {tuple(ours.shape)}")
        return relative_error(theirs, ours), bool((theirs.argmax(1) == ours.argmax(1)).all())

    errors = [error_of(batch, theirs)[0] for batch, theirs in zip(images, outputs, strict=True)]
    photos = {
        name: error_of(image[None], *_outputs(run, [image[None]], target, device))
        for name, image in _photos(model, record)
    }
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
        "sizes": [list(size) for size in _sizes(model, interface)],
        "photos": len(photos),
        "same_label": len(photos) - len(others) if model.num_classes else None,
        "ran": [f"{package} {package_version(package)}" for package in target.packages]
        or [f"torch {torch.__version__}"],
    }


def _sizes(model: EfficientNet, interface: Interface) -> Iterator[Size]:
    """Yields height and width of images that show a wrong padding, or a wrong crop: odd, even, and neither square."""
    height, width = interface.size or own_size(model)
    if interface.resize:
        yield 2 * height + 1, width + 34
        yield max(height // 2, MIN_SIZE), width
    elif interface.size:
        yield interface.size
    else:
        yield from ((height, width), (65, 98), (MIN_SIZE + 2, MIN_SIZE + 1))


def _drawn(model: EfficientNet, interface: Interface) -> Iterator[Tensor]:
    """Yields a batch of one and a batch of three of each size."""
    for size in _sizes(model, interface):
        for count in (1, 3):
            shape = (count, *interface.image_shape(model.in_chans, size))
            draw = torch.Generator().manual_seed(count)
            if interface.pixels:
                yield torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
            else:
                yield torch.randn(shape, generator=draw)


def _photos(model: EfficientNet, record: Record) -> Iterator[tuple[str, Tensor]]:
    """Yields the real photos that are installed, as the file takes them; none for other images than theirs."""
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
    """Returns what reads an image file to what an exported file takes, without batch.

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
