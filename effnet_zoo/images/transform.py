"""Image files to RGB pixels, by one rule for all files, and to the tensors a checkpoint was trained for."""

import functools
import io
import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image, ImageFile, UnidentifiedImageError, features
from torch import Tensor
from torchvision.transforms import Compose, InterpolationMode, Normalize, ToTensor
from torchvision.transforms.functional import center_crop
from torchvision.transforms.functional import resize as resize_image

from effnet_zoo.atomic_io import read_bytes
from effnet_zoo.errors import ArgumentError, FileError, InputError, first_line, quoted
from effnet_zoo.zoo.preprocessing import Preprocessing

Transform = Callable[[Image.Image], Tensor]

LARGEST_FILE = 1 << 30
"""Bytes of an image file at most: it is read whole."""

LARGEST_IMAGE = 178_956_970
"""Pixels of an image at most, where Pillow too refuses by default. Decoded, so many take 0.7 GB in each worker,
and 1.4 to 2.6 GB while CMYK, 16 bits or real numbers become RGB."""

LARGEST_SIDE = 1_000_000
"""Pixels of an image's side at most: Pillow's weights for a side that is made shorter take 32 bytes a pixel."""

LARGEST_RESIZED = 1 << 25
"""Pixels at most, 134 MB of them, that an image is resized to before it is cropped. Of an image that would become
larger, such as one of 1x10000 pixels, only what the crop keeps is computed."""


def eval_transform(how: Preprocessing, *, orientation: bool = True) -> Transform:
    """Returns a function from a PIL image to a float32 tensor (channels, height, width), normalised.

    The image, of any mode, becomes RGB as `as_rgb` says, or grey for a checkpoint of one channel. It is resized,
    antialiased, to cover floor(size / crop_pct), and cropped to the middle. The function raises `InputError` for what
    is no image, and for an image that cannot be decoded or become RGB.

    Args:
        how: The checkpoint's preprocessing.
        orientation: Whether the image is turned as its EXIF orientation says.

    Raises:
        ArgumentError: If `how` is no `Preprocessing` of 1 or 3 channels.
    """
    return Compose([_Cropped(how, orientation), ToTensor(), Normalize(how.mean, how.std)])


def resized_size(how: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """What (height, width) an image of this size is resized to before it is cropped, in pixels."""
    to_height, to_width = (math.floor(side / how.crop_pct) for side in how.size)
    if how.crop_mode == "squash":
        return to_height, to_width
    if to_height == to_width:
        # As torchvision rounds, which knows only squares.
        short = min(height, width)
        return (to_height * height // short, to_height * width // short)
    ratio = min(height / to_height, width / to_width)
    return round(height / ratio), round(width / ratio)


def resized(image: Image.Image, how: Preprocessing) -> Image.Image:
    """Returns an image resized and cropped to the preprocessing's size."""
    height, width = resized_size(how, image.height, image.width)
    # Pillow resizes across first, which keeps the height.
    if width * max(height, image.height) <= LARGEST_RESIZED:
        return center_crop(resize_image(image, [height, width], InterpolationMode(how.interpolation)), list(how.size))
    kept_height, kept_width = how.size
    # As torchvision's crop rounds.
    top, left = round((height - kept_height) / 2), round((width - kept_width) / 2)
    down, across = image.height / height, image.width / width
    upper, lower = top * down, min((top + kept_height) * down, image.height)
    first, last = left * across, min((left + kept_width) * across, image.width)
    method = Image.Resampling[how.interpolation.upper()]
    if kept_width * (lower - upper) > LARGEST_RESIZED:  # Pillow goes across first: here down must come first
        image = image.resize((image.width, kept_height), method, (0, upper, image.width, lower))
        upper, lower = 0, kept_height
    return image.resize((kept_width, kept_height), method, (first, upper, last, lower))


@dataclass(frozen=True)
class _Cropped:
    how: Preprocessing
    orientation: bool

    def __post_init__(self) -> None:
        if not isinstance(self.how, Preprocessing) or len(self.how.mean) not in (1, 3):
            raise ArgumentError(f"{quoted(self.how)}: expected the Preprocessing of a model of 1 or 3 channels")

    def __call__(self, image: Image.Image) -> Image.Image:
        if not isinstance(image, Image.Image):
            raise InputError(f"expected a PIL image, found {type(image).__name__}: make one with PIL.Image.fromarray")
        with reading(getattr(image, "filename", "") or "image"):
            cropped = resized(as_rgb(image, orientation=self.orientation), self.how)
        return cropped if len(self.how.mean) == 3 else cropped.convert("L")


# files to RGB


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turns whatever reading and decoding a file raises into an error that names the file.

    Raises:
        InputError: If it is missing, unreadable, or not an image.
    """
    try:
        yield
    except FileError:
        raise
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that Pillow can read") from None
    except Exception as error:  # on a broken file decoders raise whatever they stumble over: struct.error, MemoryError
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error


def _formats() -> tuple[str, ...]:
    """Returns the formats that this Pillow decodes by itself, in the order in which they are tried."""
    Image.init()
    return _decoded_here(tuple(Image.ID))  # packages may add some at any time


@functools.cache
def _decoded_here(names: tuple[str, ...]) -> tuple[str, ...]:
    """Leaves out what Pillow only knows by name (MPEG, and its stubs, such as HDF5), and EPS.

    For EPS it runs another program, Ghostscript, on a file that nobody trusts. The usual formats come first, and those
    that have no signature, for which a whole decoder must try, come last.
    """
    known = {*features.modules, *features.codecs}  # of others older versions warn
    missing = {name for name, codec in _CODECS.items() if codec not in known or not features.check(codec)}
    return tuple(
        name
        for name in sorted(names, key=lambda name: (Image.OPEN[name][1] is None, name not in ("JPEG", "PNG")))
        if name not in {"EPS", "MPEG"} | missing
        and not (isinstance(kind := Image.OPEN[name][0], type) and issubclass(kind, ImageFile.StubImageFile))
    )


_CODECS = {"AVIF": "avif", "JPEG": "jpg", "JPEG2000": "jpg_2000", "PNG": "zlib", "WEBP": "webp"}
"""Formats that Pillow can be built without."""


def suffixes() -> frozenset[str]:
    """Returns the suffixes of the image files that this Pillow can read, in lower case, each with its dot."""
    known = {*_formats(), "MPO"}  # an MPO file begins as a JPEG, and is opened as one
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def opened(data: bytes) -> ImageFile.ImageFile:
    """Opens an image file's content; pixels are decoded later.

    It does what `PIL.Image.open` does, for fewer formats. That warns of more than half of `LARGEST_IMAGE` pixels, and
    a warning can be neither held back nor caught for one thread alone.

    Raises:
        UnidentifiedImageError: If it is of no format that is read.
        InputError: If it has more than `LARGEST_IMAGE` pixels, or `LARGEST_SIDE` on a side.
    """
    data, exif = _exif_aside(data)
    for name in _formats():
        kind, accepts = Image.OPEN[name]
        try:
            if accepts is not None and not accepts(data[:16]):
                continue
            image = kind(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # how a decoder says that it is another's
            continue
        _check_size(image)
        if exif:
            image.info["exif"] = exif
        return image
    raise UnidentifiedImageError


def _exif_aside(data: bytes) -> tuple[bytes, bytes]:
    """Returns a JPEG file's content without its EXIF block, and that block.

    Pillow looks into the block for the resolution as it opens the file, and warns of a damaged one.
    """
    place = 2
    try:
        while data[:2] == b"\xff\xd8":
            marker, length = struct.unpack_from(">HH", data, place)
            start, end = place + 4, place + 2 + length
            if marker == 0xFFE1 and data.startswith(_EXIF, start):
                return data[:start] + bytes(len(_EXIF)) + data[start + len(_EXIF) :], data[start:end]
            if not (0xFFE0 <= marker <= 0xFFEF or marker == 0xFFFE):  # the picture begins
                break
            place = end
    except struct.error:
        pass
    return data, b""


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > LARGEST_IMAGE or max(width, height) > LARGEST_SIDE:
        raise InputError(
            f"an image of {width}x{height} pixels: expected at most {LARGEST_IMAGE}, and {LARGEST_SIDE} on a side: "
            "make it smaller first"
        )


def open_image(path: Path, *, orientation: bool = True) -> Image.Image:
    """Returns an image file as RGB, whole, by the rule of `as_rgb`.

    Args:
        path: A regular file.
        orientation: Whether the image is turned as its EXIF orientation says.

    Raises:
        InputError: If it is missing, unreadable, too large, or not an image.
    """
    with reading(path), opened(read_bytes(path, LARGEST_FILE)) as image:
        return as_rgb(image, orientation=orientation)


def as_rgb(image: Image.Image, *, orientation: bool = True) -> Image.Image:
    """Returns an image of any mode as RGB, 8 bits a channel, with nothing else from its file.

    This is the one rule for images, wherever they are read:

    - Orientation: the image is turned as its EXIF block says, or its XMP block, as `PIL.ImageOps.exif_transpose` does.
      A damaged block says nothing. Pillow itself always turns TIFF files.
    - Alpha, and a transparent colour, are dropped: what is under them is seen. Published figures come from pipelines
      that do this.
    - Palettes, CMYK (Adobe's inverted one too), YCbCr and black and white: as Pillow converts them.
    - 16-bit grey: 65535, or what a TIFF file of 12 bits has for white, becomes 255.
    - Real numbers, from a TIFF or PFM file: 1.0 becomes 255. A value outside of 0 to 1 is an error.
    - 32-bit integers are an error: nobody knows what white is.
    - Animated and multi-page files: the first frame. Of an image that is open already, its present one.

    Args:
        image: Any PIL image.
        orientation: Whether the image is turned.

    Raises:
        InputError: If no rule says what its values mean.
    """
    turn = _TURNS.get(orientation_of(image)) if orientation else None
    image.load()  # after the orientation is read: Pillow turns TIFF files here
    _check_size(image)  # an icon has the size that it said only now
    rgb = _converted(image)
    if turn is not None:
        rgb = rgb.transpose(turn)
    rgb.info.clear()  # or it would be turned once more, where it is taken for an image as it was stored
    return rgb


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of an EXIF orientation upright."""

_EXIF = b"Exif\0\0"
"""What an EXIF block begins with."""

_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106
"""Numbers of TIFF tags."""


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation of an image as it was stored, 1 to 8; 1 if none is known, or Pillow turns it."""
    if hasattr(image, "tag_v2"):
        return 1
    # Image.getexif would warn of each damaged block, and all threads would see it.
    found = _exif_orientation(image.info.get("exif") or _exif_of_old_png(image))
    if found is None:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp.encode() if isinstance(xmp, str) else xmp)
        found = int(match[1]) if match else 1
    return found if 1 <= found <= 8 else 1


def _exif_of_old_png(image: Image.Image) -> bytes:
    """Returns the EXIF block that ImageMagick used to put into a PNG as text: three lines, then hex."""
    try:
        return bytes.fromhex("".join(str(image.info.get("Raw profile type exif", "")).split("\n")[3:]))
    except ValueError:
        return b""


def _exif_orientation(block: bytes) -> int | None:
    block = block.removeprefix(_EXIF)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
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
        image = image.convert("RGBA")  # of the direct way Pillow warns
    try:
        return image.copy() if image.mode == "RGB" else image.convert("RGB")
    except ValueError:
        raise InputError(f"pixels of mode {image.mode}: expected what Pillow converts to RGB") from None


def _from_grey(image: Image.Image, grey: "numpy.ndarray[Any, numpy.dtype[numpy.uint8]]") -> Image.Image:
    # Pillow inverts a TIFF whose white is 0 only if it has 8 bits or fewer.
    white_is_zero = image.format == "TIFF" and _tag(image, _PHOTOMETRIC, 1) == 0
    return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB")


def _tag(image: Image.Image, number: int, default: int) -> int:
    value: Any = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def normalised(
    pixels: Sequence[Tensor],
    how: Preprocessing,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns images as one batch (n, channels, height, width): what ToTensor and Normalize compute in float32.

    Args:
        pixels: Images uint8 (channels, height, width) of one size, such as `Reader` gives.
        how: The checkpoint's preprocessing.
        device: Where the batch is computed and left; by default where the images are.
        dtype: What the batch is rounded to.

    Raises:
        InputError: If the images are something else.
    """
    images, channels = list(pixels), len(how.mean)
    for image in images:
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.shape != images[0].shape:
            found = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"{found}: expected tensors torch.uint8 ({channels}, height, width) of one size")
    if not images or images[0].dim() != 3 or images[0].shape[0] != channels:
        found = str(tuple(images[0].shape)) if images else "no images"
        raise InputError(f"{found}: expected images ({channels}, height, width), at least one")
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (how.mean, how.std))
    batch = torch.stack(images).to(device, torch.float32, memory_format=torch.contiguous_format)
    return batch.div_(255).sub_(mean).div_(std).to(dtype)
