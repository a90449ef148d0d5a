"""Open and decode image files of any format, by one rule, to RGB with 8 bits a channel."""

import functools
import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageFile, features

from effnet_zoo.atomic_io import read_bytes
from effnet_zoo.errors import FileError, InputError, first_line

LARGEST_FILE = 1 << 30
"""Largest number of bytes in an image file, which is read whole."""

LARGEST_IMAGE = 178_956_970
"""Largest number of pixels in an image: Pillow refuses more by default. Decoded, they take 0.7 GB in each worker, and
1.4 to 2.6 GB while CMYK, 16 bits or real numbers are converted to RGB."""

LARGEST_IMAGE_SIDE = 1_000_000
"""Largest number of pixels on a side: to make a side shorter, Pillow computes weights of 32 bytes a pixel."""


@contextmanager
def image_errors(path: str | Path) -> Iterator[None]:
    """Turn every error of reading and decoding an image file into an `InputError` that names the file."""
    try:
        yield
    except FileError:
        raise
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # decoders of broken files raise many kinds: struct.error, MemoryError
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error


def _formats() -> tuple[str, ...]:
    """Return the formats that this Pillow decodes by itself, in the order in which they are tried."""
    Image.init()
    return _decoded_here(tuple(Image.ID))  # other packages may add formats at any time


@functools.cache
def _decoded_here(names: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out formats that Pillow cannot decode (MPEG, and stubs such as HDF5), and EPS.

    For EPS, Pillow runs another program, Ghostscript, on an untrusted file. The usual formats come first. Formats
    without a signature come last, as a whole decoder must try each of them.
    """
    known = {*features.modules, *features.codecs}  # older versions of Pillow warn of others
    missing = {name for name, codec in _CODECS.items() if codec not in known or not features.check(codec)}
    return tuple(
        name
        for name in sorted(names, key=lambda name: (Image.OPEN[name][1] is None, name not in ("JPEG", "PNG")))
        if name not in {"EPS", "MPEG"} | missing
        and not (isinstance(kind := Image.OPEN[name][0], type) and issubclass(kind, ImageFile.StubImageFile))
    )


_CODECS = {"AVIF": "avif", "JPEG": "jpg", "JPEG2000": "jpg_2000", "PNG": "zlib", "WEBP": "webp"}
"""The codecs of formats that Pillow can be built without."""


def suffixes() -> frozenset[str]:
    """Return the suffixes of the image files that can be read here, in lower case and with the dot."""
    known = {*_formats(), "MPO"}  # an MPO file is opened as the JPEG that it begins with
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


@contextmanager
def opened_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Yield a regular file as an image that is not decoded yet. Errors inside the block are those of `image_errors`."""
    with image_errors(path), _opened(read_bytes(path, LARGEST_FILE)) as image:
        yield image


def _opened(data: bytes) -> ImageFile.ImageFile:
    """Open the content of an image file as `PIL.Image.open` does, for fewer formats and without warnings.

    `PIL.Image.open` warns of images with more than half of `LARGEST_IMAGE` pixels, and a warning cannot be suppressed
    for one thread alone.
    """
    data, exif = _exif_aside(data)
    for name in _formats():
        kind, accepts = Image.OPEN[name]
        try:
            if accepts is not None and not accepts(data[:16]):
                continue
            image = kind(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # the file has another format
            continue
        _check_size(image)
        image.decodermaxblock = len(data)  # for each 64 kB, the default, a thread would wait for the interpreter's lock
        if exif:
            image.info["exif"] = exif
        return image
    raise InputError("not an image that Pillow can read")


def _exif_aside(data: bytes) -> tuple[bytes, bytes]:
    """Return the content of a JPEG file with its EXIF block blanked, and the block.

    Pillow looks for the resolution in the block when it opens the file, and warns if the block is damaged.
    """
    place = 2
    # Segment by segment, up to the picture: previews inside a segment, and pictures behind this one, have blocks too.
    while data.startswith(b"\xff\xd8") and (found := _SEGMENT.match(data, place)):
        start, place = found.end(), found.start(1) + int.from_bytes(found[1], "big")
        if data.startswith(_EXIF, start) and data[start - 3] == 0xE1:
            return data[:start] + bytes(len(_EXIF)) + data[start + len(_EXIF) :], data[start:place]
    return data, b""


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > LARGEST_IMAGE or max(width, height) > LARGEST_IMAGE_SIDE:
        raise InputError(
            f"an image of {width}x{height} pixels: expected at most {LARGEST_IMAGE}, and {LARGEST_IMAGE_SIDE} on a "
            "side: make it smaller first"
        )


def open_image(path: Path, *, orientation: bool = True) -> Image.Image:
    """Return an image file as RGB, as `as_rgb` defines it. Raise InputError if it cannot be read or decoded."""
    with opened_image(path) as image:
        return as_rgb(image, orientation=orientation)


def as_rgb(image: Image.Image, *, orientation: bool = True) -> Image.Image:
    """Return a PIL image of any mode as RGB, 8 bits a channel, without metadata, by the rule in ``docs/use.md``.

    Transparency is dropped because the pipelines behind published figures drop it. A damaged EXIF block is ignored.

    Raise InputError if no rule says what the image's values mean.
    """
    rgb, turn = decoded(image, orientation=orientation)
    if turn is not None:
        rgb = rgb.transpose(turn)
    elif rgb is image:
        rgb = rgb.copy()
    rgb.info.clear()  # otherwise a caller that reads the orientation would turn it again
    return rgb


def decoded(image: Image.Image, *, orientation: bool) -> tuple[Image.Image, Image.Transpose | None]:
    """Return an image as RGB by the rule of `as_rgb`, but as it is stored, and the turn that brings it upright.

    The turn is None if the image is upright, or `orientation` is false. An RGB image is returned itself.
    """
    turn = _turn_of(image) if orientation else None  # before: Pillow turns a TIFF file and drops its orientation
    image.load()
    _check_size(image)  # an icon's true size is known only now
    return _converted(image), turn


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The turn that brings an image of each EXIF orientation upright; 1 is upright."""

_EXIF = b"Exif\0\0"
"""The first bytes of an EXIF block."""

_SEGMENT = re.compile(rb"\xff[\xe0-\xef\xfe\xdb](..)", re.DOTALL)
"""The first bytes of a segment before a JPEG's picture: its marker, and its length in bytes from there on."""

_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106
"""Numbers of TIFF tags."""


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    if hasattr(image, "tag_v2"):  # a TIFF file: Pillow turns it
        return None
    # Image.getexif would warn of each damaged block, and all threads would see the warning.
    found = _exif_orientation(image.info.get("exif") or b"")
    with suppress(ValueError):  # ImageMagick used to write the block into a PNG as text: three lines, then hexadecimal
        text = str(image.info.get("Raw profile type exif", ""))
        if found is None:
            found = _exif_orientation(bytes.fromhex("".join(text.split("\n")[3:])))
    if found is None:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp.encode() if isinstance(xmp, str) else xmp)
        found = int(match[1]) if match else 1
    return _TURNS.get(found)


def _exif_orientation(block: bytes) -> int | None:
    block = block.removeprefix(_EXIF)
    try:
        order = {b"II": "<", b"MM": ">"}[block[:2]]
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, place)
            if tag == _ORIENTATION:
                value: int = struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], block, place + 8)[0]
                return value
    except (struct.error, KeyError):
        pass
    return None


def _converted(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        white = 65535 if image.format != "TIFF" else (1 << _tag(image, _BITS, 16)) - 1
        levels = (numpy.arange(white + 1, dtype=numpy.uint32) * 255 + white // 2) // white
        return _from_grey(image, levels.astype(numpy.uint8)[numpy.asarray(image)])
    if image.mode == "F":
        values = numpy.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise InputError(f"real numbers from {low:g} to {high:g}: expected 0 to 1: scale them first")
        return _from_grey(image, numpy.rint(values * 255).astype(numpy.uint8))
    if image.mode == "I":
        raise InputError("signed or 32-bit integers: expected 8 or 16 bits: scale them first")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # Pillow warns if such an image is converted to RGB directly
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError:
        raise InputError(f"pixels of mode {image.mode}: expected a mode that Pillow converts to RGB") from None


def _from_grey(image: Image.Image, grey: "numpy.ndarray[Any, numpy.dtype[numpy.uint8]]") -> Image.Image:
    # Pillow inverts a TIFF whose white is 0 only if it has 8 bits or fewer.
    white_is_zero = image.format == "TIFF" and _tag(image, _PHOTOMETRIC, 1) == 0
    return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB")


def _tag(image: Image.Image, number: int, default: int) -> int:
    value: Any = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)
