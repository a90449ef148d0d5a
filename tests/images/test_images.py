"""Finding image files, and reading them fast: within one grey level of what `eval_transform` reads, or just that."""

import dataclasses
import gc
import io
import itertools
import os
import struct
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import _base as futures
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image, ImageCms, ImageOps, features
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from effnet_zoo import eval_transform
from effnet_zoo.atomic_io import read_bytes
from effnet_zoo.errors import ArgumentError, InputError
from effnet_zoo.images import reader, transform
from effnet_zoo.images.reader import Reader, Skipped, find_images, read_ahead, read_whole
from effnet_zoo.images.transform import as_rgb, normalised, open_image, resized, suffixes
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing
from tests.parity.photos import PHOTOS

LEDGER = list(dict.fromkeys(checkpoint.preprocessing for _, checkpoint in catalogue.checkpoints()))
SMALL = min(LEDGER, key=lambda how: how.size)
RAW = dataclasses.replace(SMALL, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Gives pixels from 0 to 1."""
UNUSUAL = [
    dataclasses.replace(SMALL, size=size, crop_mode=crop_mode, interpolation=interpolation)
    for size in ((224, 320), (97, 61))
    for crop_mode in ("center", "squash")
    for interpolation in ("bicubic", "bilinear", "nearest")
]


def reference(how: Preprocessing, path: Path) -> Tensor:
    """What `eval_transform` sees before it normalises, uint8."""
    plain = dataclasses.replace(how, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return (eval_transform(plain)(open_image(path)) * 255).round().to(torch.uint8)


def difference(how: Preprocessing, path: Path) -> Tensor:
    """Grey levels between the fast pixels and the reference's."""
    ours = Reader(how)(path)
    assert ours.dtype == torch.uint8
    assert ours.shape == (3, *how.size)
    return (ours.int() - reference(how, path).int()).abs()


def name(how: Preprocessing) -> str:
    return f"{how.size[0]}x{how.size[1]}-{how.crop_pct}-{how.crop_mode}-{how.interpolation}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The photos as they are, and as JPEGs of camera sizes, odd ones too, on end, progressive, in other samplings."""
    folder = tmp_path_factory.mktemp("photos")
    found = list(PHOTOS.values())
    ways: list[dict[str, Any]] = [{}, {"subsampling": 0}, {"progressive": True}]
    sizes = [(2000, 1500), (1333, 2001), (500, 375)]
    for path, (size, way) in zip(itertools.cycle(PHOTOS.values()), itertools.product(sizes, ways), strict=False):
        saved = folder / f"{path.stem}-{size[0]}-{len(found)}.jpg"
        open_image(path).resize(size, Image.Resampling.BICUBIC).save(saved, quality=90, **way)
        found.append(saved)
    return found


@pytest.mark.parametrize("how", LEDGER + UNUSUAL, ids=name)
def test_pixels_are_the_references_within_one_grey_level(how: Preprocessing, photos: list[Path]) -> None:
    for path in photos:
        assert difference(how, path).max() <= 1, path.name


def test_torch_reads_large_jpegs_and_pillow_resizes_the_rest(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(reader, "as_rgb", _noting(as_rgb, read))
    large = [path for path in photos if path.suffix == ".jpg" and min(open_image(path).size) >= 1000]
    assert large
    for path in large:
        Reader(SMALL)(path)
    assert not read
    Reader(SMALL)(PHOTOS["coffee.png"])
    assert read


def _noting(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def noted(*arguments: Any, **options: Any) -> Any:
        calls.append(str(arguments))
        return function(*arguments, **options)

    return noted


def variants(folder: Path) -> Iterator[Path]:
    """One photo, large, in every form that decoders are at odds about."""
    photo = open_image(PHOTOS["rocket.jpg"]).resize((1280, 854), Image.Resampling.BICUBIC)
    forms: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "grey.jpg": (photo.convert("L"), {}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "ycck-like.tif": (photo.convert("CMYK"), {}),
        "rgba.png": (_with_alpha(photo), {}),
        "la.png": (_with_alpha(photo).convert("LA"), {}),
        "palette.png": (photo.convert("P"), {}),
        "palette-clear.png": (photo.convert("P"), {"transparency": 3}),
        "rgb-clear.png": (photo, {"transparency": (0, 0, 0)}),
        "bilevel.png": (photo.convert("1"), {}),
        "interlaced.png": (photo, {"interlace": 1}),
        "deep.png": (Image.fromarray(numpy.asarray(photo.convert("L"), dtype=numpy.uint16) * 257), {}),
        "palette.gif": (photo.convert("P"), {}),
        "lossless.webp": (photo, {"lossless": True}),
        "lossy.webp": (_with_alpha(photo), {"quality": 80}),
        "plain.bmp": (photo, {}),
        "plain.ppm": (photo, {}),
        "icc.jpg": (photo, {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}),
        "rgb.jpg": (photo, {"keep_rgb": True}),
        "several.mpo": (photo, {"save_all": True, "append_images": [photo.convert("L").convert("RGB")]}),
        "tiny.jpg": (photo.crop((300, 200, 307, 203)), {}),
        "pixel.png": (photo.crop((300, 200, 301, 201)), {}),
        "long.jpg": (photo.crop((0, 400, 1280, 410)), {}),
        "huge.jpg": (photo.resize((6400, 4270)), {}),
    }
    for exif in range(2, 9):
        turned = Image.Exif()
        turned[0x0112] = exif
        forms[f"turned-{exif}.jpg"] = (photo, {"exif": turned})
    for label, (image, options) in forms.items():
        image.save(folder / label, **options)
        yield folder / label


def _with_alpha(photo: Image.Image) -> Image.Image:
    see_through = photo.copy()
    see_through.putalpha(photo.convert("L"))
    return see_through


def test_every_form_of_image_gives_the_references_pixels(tmp_path: Path) -> None:
    for path in variants(tmp_path):
        for how in (SMALL, UNUSUAL[0]):
            assert difference(how, path).max() <= 1, path.name
        if path.name == "huge.jpg":
            continue
        with Image.open(path) as image:
            assert torch.equal(eval_transform(SMALL)(image), eval_transform(SMALL)(open_image(path))), path.name


def test_a_sixteen_bit_colour_png_is_what_pillow_makes_of_it(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(_deep_png(900, 700))
    with Image.open(path) as image:
        assert image.mode == "RGB"
    assert difference(SMALL, path).max() <= 1


def _deep_png(width: int, height: int) -> bytes:
    """Pillow reads such files and writes none."""

    ramp = numpy.linspace(0, 65535, width * 3).astype(">u2").tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + ramp for _ in range(height)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("missing", [1, 2, 50, 1000, 20_000])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_is_refused_as_pillow_refuses_it(missing: int, progressive: bool, tmp_path: Path) -> None:
    whole = io.BytesIO()
    open_image(PHOTOS["rocket.jpg"]).resize((1280, 854)).save(whole, "JPEG", progressive=progressive)
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole.getvalue()[:-missing])
    with pytest.raises(InputError, match="cut.jpg: cannot be read: image file is truncated"):
        open_image(path)
    with pytest.raises(InputError, match="cut.jpg: cannot be read: image file is truncated"):
        Reader(SMALL)(path)


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    # More pixels than are read, and a header that makes it stumble.
    (tmp_path / "bomb.ppm").write_bytes(b"P6 60000 60000 255\n")
    (tmp_path / "broken.tif").write_bytes(b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\xff\xff\xff\xff")
    for file, message in {
        "text.jpg": "not an image that Pillow can read",
        "empty.jpg": "not an image that Pillow can read",
        "bomb.ppm": "an image of 60000x60000 pixels: expected at most 178956970",
        "broken.tif": "cannot be read|not an image",
        "missing.jpg": "there is no such file",
        "": "expected a file, found a folder",
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            Reader(SMALL)(tmp_path / file)
        assert str(raised.value).startswith(str(tmp_path / file))


def test_batches_are_normalised_as_the_reference_does() -> None:
    for how in LEDGER[:3]:
        pixels = Reader(how)(PHOTOS["coffee.png"])
        expected = eval_transform(how)(open_image(PHOTOS["coffee.png"]))
        batch = normalised([pixels, pixels.flip(2)], how)
        assert batch.is_contiguous()
        assert torch.equal(batch[0], expected)


# turned, deep, long and large


@pytest.mark.parametrize("exif", range(1, 9))
def test_images_are_turned_as_they_say(exif: int, tmp_path: Path) -> None:
    photo, path = open_image(PHOTOS["rocket.jpg"]), tmp_path / "turned"
    # Torch resizes the first.
    for form, size in (("JPEG", (1160, 774)), ("JPEG", (320, 214)), ("PNG", (160, 107)), ("WEBP", (160, 107))):
        photo.resize(size, Image.Resampling.BICUBIC).save(path, form, exif=_exif(exif))
        with Image.open(path) as image:
            stored, upright = image.convert("RGB"), ImageOps.exif_transpose(image).convert("RGB")
        assert open_image(path).tobytes() == upright.tobytes()
        assert open_image(path, orientation=False).tobytes() == stored.tobytes()
        for orientation, expected in ((True, upright), (False, stored)):
            transform = eval_transform(RAW, orientation=orientation)
            with Image.open(path) as image:
                turned = transform(image)
            assert torch.equal(turned, eval_transform(RAW, orientation=False)(expected))
            # What is turned already is not turned again.
            assert torch.equal(turned, eval_transform(RAW)(open_image(path, orientation=orientation)))
            ours = Reader(RAW, orientation=orientation)(path)
            assert (ours.int() - (turned * 255).round().int()).abs().max() <= 1
            assert torch.equal(read_whole(path, RAW, orientation=orientation), pil_to_tensor(expected))


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_tiff_files_are_turned_once(tmp_path: Path) -> None:
    photo = open_image(PHOTOS["rocket.jpg"])
    photo.save(tmp_path / "turned.tif", tiffinfo={0x0112: 6})
    upright = photo.transpose(Image.Transpose.ROTATE_270)
    assert open_image(tmp_path / "turned.tif").tobytes() == upright.tobytes()
    assert difference(SMALL, tmp_path / "turned.tif").max() <= 1


DAMAGED = {
    "of no bytes": b"",
    "without order": b"Exif\0\0XX*\0\x08\0\0\0",
    "cut in its header": b"Exif\0\0MM\0*\0\0",
    "that begins behind its end": b"Exif\0\0MM\0*\xff\xff\xff\xff",
    "of a thousand missing tags": b"Exif\0\0MM\0*\0\0\0\x08\x03\xe8\x01\0\0\x02",
    "with a tag of no type": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x63\0\0\0\x01\0\x06\0\0",
    "with an orientation of 700": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\x02\xbc\0\0",
}


@pytest.mark.parametrize("block", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_loses_no_image_and_warns_nobody(form: str, block: bytes, tmp_path: Path) -> None:
    photo = Image.new("RGB", (4, 2), "red")
    photo.putpixel((0, 0), (0, 0, 255))
    photo.save(tmp_path / "photo", form, exif=block, **({"lossless": True} if form == "WEBP" else {}))
    opened = open_image(tmp_path / "photo")
    assert opened.size == (4, 2)
    if form != "JPEG":
        assert opened.tobytes() == photo.tobytes()


def test_orientation_is_read_where_a_block_breaks_off_after_it(tmp_path: Path) -> None:
    block = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=block)
    assert open_image(tmp_path / "a.jpg").size == (2, 4)


def test_orientation_in_xmp_counts_too(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2)).save(tmp_path / "a.webp", xmp=b'<x tiff:Orientation="8"/>')
    assert open_image(tmp_path / "a.webp").size == (2, 4)


RAMP = numpy.arange(65536, dtype=numpy.uint16).reshape(256, 256)


def _tiff(values: "numpy.ndarray[Any, Any]", *, kind: int = 1, photometric: int = 1, bits: int = 16) -> bytes:
    """Pillow writes few of the TIFF files that it reads."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 339: kind}
    data = values.tobytes()
    if bits == 12:  # two values in three bytes
        pairs = values.reshape(-1, 2).astype(int)
        first, second = pairs[:, 0], pairs[:, 1]
        data = numpy.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(numpy.uint8).tobytes()
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def test_sixteen_bits_are_scaled_and_never_clipped(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "ramp.png")
    (tmp_path / "ramp.pgm").write_bytes(b"P5 256 256 65535\n" + RAMP.astype(">u2").tobytes())
    Image.fromarray(RAMP).save(tmp_path / "ramp.jp2", irreversible=False)
    (tmp_path / "ramp.tif").write_bytes(_tiff(RAMP))
    (tmp_path / "inverted.tif").write_bytes(_tiff(65535 - RAMP, photometric=0))
    expected = numpy.rint(RAMP / 257).astype(numpy.uint8)
    for path in sorted(tmp_path.iterdir()):
        for opened in (open_image(path), as_rgb(Image.open(path))):
            assert opened.mode == "RGB"
            for channel in numpy.moveaxis(numpy.asarray(opened), 2, 0):
                assert numpy.array_equal(channel, expected), path.name
        assert difference(SMALL, path).max() <= 1
    assert torch.equal(eval_transform(SMALL)(Image.fromarray(RAMP)), eval_transform(SMALL)(open_image(path)))


def test_twelve_bits_fill_the_range(tmp_path: Path) -> None:
    ramp = numpy.arange(4096, dtype=numpy.uint16).reshape(64, 64)
    (tmp_path / "ramp.tif").write_bytes(_tiff(ramp, bits=12))
    assert numpy.array_equal(
        numpy.asarray(open_image(tmp_path / "ramp.tif"))[..., 0], numpy.rint(ramp * (255 / 4095)).astype(numpy.uint8)
    )


def test_real_numbers_are_taken_from_0_to_1(tmp_path: Path) -> None:
    ramp = numpy.linspace(0, 1, 4096, dtype=numpy.float32).reshape(64, 64)
    expected = numpy.rint(ramp * 255).astype(numpy.uint8)
    Image.fromarray(ramp).save(tmp_path / "ramp.tif")
    (tmp_path / "inverted.tif").write_bytes(_tiff(1 - ramp, kind=3, photometric=0, bits=32))
    if ".pfm" in suffixes():  # since Pillow 10.4
        Image.fromarray(ramp).save(tmp_path / "ramp.pfm")
    for path in tmp_path.iterdir():
        assert numpy.abs(numpy.asarray(open_image(path))[..., 1].astype(int) - expected).max() <= (path.name[0] == "i")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_tiff(RAMP[:4].astype(numpy.float32), kind=3, bits=32), "real numbers from 0 to 1023: expected 0 to 1"),
        (_tiff(numpy.full((4, 4), -0.5, numpy.float32), kind=3, bits=32), "real numbers from -0.5 to -0.5"),
        (_tiff(numpy.full((4, 4), numpy.nan, numpy.float32), kind=3, bits=32), "real numbers from nan to nan"),
        (_tiff(RAMP[:4].astype(numpy.int32), kind=2, bits=32), "signed or 32-bit integers: expected 8 or 16 bits"),
        (_tiff(RAMP[:4].astype(numpy.int16), kind=2), "signed or 32-bit integers: expected 8 or 16 bits"),
    ],
)
def test_numbers_without_a_known_range_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"deep.tif: {message}"):
        Reader(SMALL)(path)
    with pytest.raises(InputError, match=message), Image.open(path) as image:
        eval_transform(SMALL)(image)


def _only_small(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Refuses to resize to more pixels than are allowed, and notes the rest."""
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def noted(image: Image.Image, size: tuple[int, int], *arguments: Any, **options: Any) -> Image.Image:
        # Pillow goes across first.
        assert size[0] * max(size[1], 1 if arguments[1:] else image.height) <= transform.LARGEST_RESIZED
        sizes.append(size)
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    return sizes


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 500_000), (500_000, 1), (2, 40_000)], ids=str)
def test_long_images_take_no_memory(
    size: tuple[int, int], crop_mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, middle = Image.new("RGB", size, (50, 50, 50)), [side // 2 for side in size]
    image.paste((150, 150, 150), (middle[0] * (size[0] > size[1]), middle[1] * (size[1] > size[0]), *size))
    image.save(tmp_path / "long.png")
    how = dataclasses.replace(RAW, crop_mode=crop_mode)
    sizes = _only_small(monkeypatch)
    pixels = Reader(how)(tmp_path / "long.png")
    assert sizes
    if crop_mode == "center":  # what is far from the middle makes no difference
        left, top = (max(0, place - 30) for place in middle)
        image = image.crop((left, top, min(left + 60, size[0]), min(top + 60, size[1])))
        assert (pil_to_tensor(resized(image, how)).int() - pixels.int()).abs().max() <= 1
    else:
        ends = pixels[:, [0, -1], [0, -1]]
        assert ends.tolist() == [[50, 150]] * 3


@pytest.mark.parametrize("how", [SMALL, *UNUSUAL], ids=name)
def test_what_is_cut_from_a_long_image_is_what_would_be_cropped(
    how: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    rocket = open_image(PHOTOS["rocket.jpg"])
    for strip in (rocket.crop((300, 0, 304, 420)), rocket.crop((0, 300, 600, 307)), rocket.crop((0, 300, 640, 301))):
        monkeypatch.setattr(transform, "LARGEST_RESIZED", 1 << 25)
        expected = numpy.asarray(resized(strip, how)).astype(int)
        # Pillow would not be asked for a part that is as large as this.
        monkeypatch.setattr(transform, "LARGEST_RESIZED", how.size[1] * max(strip.height, *how.size))
        found = numpy.asarray(resized(strip, how)).astype(int)
        assert found.shape == expected.shape
        apart = numpy.abs(found - expected)
        if how.interpolation == "nearest":  # a place between two pixels may fall to either
            assert (apart > 0).mean() < 0.1
        else:  # Pillow takes the part's corners in float32
            assert apart.max() <= 2
            assert (apart > 0).mean() < 0.05


def test_a_model_that_resizes_itself_is_given_no_long_image(tmp_path: Path) -> None:
    Image.new("L", (1, 10_000)).save(tmp_path / "long.png")
    with pytest.raises(InputError, match="long.png: an image of 1x10000 pixels, which this model would resize to"):
        read_whole(tmp_path / "long.png", SMALL)


def test_large_images_are_refused_before_they_are_decoded_and_nobody_is_warned(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    for width, height, message in (
        (20_000, 10_000, "an image of 20000x10000 pixels: expected at most 178956970"),
        (2_000_000, 1, "expected at most 178956970, and 1000000 on a side"),
        (11_000, 10_000, "large.png: cannot be read"),  # Pillow would warn of its size; its pixels are missing
    ):
        header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b""))
        with pytest.raises(InputError, match=message):
            Reader(SMALL)(path)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="expected a regular file, found a FIFO"):
        Reader(SMALL)(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="expected a regular file, found a device"):
        open_image(Path("/dev/zero"))


def test_a_small_file_takes_little_memory_whatever_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(1000))
    tracemalloc.start()
    try:
        assert len(read_bytes(tmp_path / "a.jpg", transform.LARGEST_FILE)) == 1000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    with pytest.raises(InputError, match="1000 bytes: expected at most 999"):
        read_bytes(tmp_path / "a.jpg", 999)


def test_no_other_program_is_run_for_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="a.jpg: not an image that Pillow can read"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "raised",
    [MemoryError(), RecursionError("too deep"), SyntaxError("broken"), OverflowError(), struct.error("cut"),
     Image.DecompressionBombError("inside"), UserWarning("an error by the user's filter")],
    ids=repr,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_about_its_file(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(image: Image.Image) -> None:
        raise raised

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    ((path, error),) = read_ahead([tmp_path / "a.png"], Reader(SMALL), workers=1, ahead=1)
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{path}: cannot be read: ")
    assert len(str(error)) > len(f"{path}: cannot be read: ")


# the functions' own arguments


def test_a_grey_model_is_given_grey() -> None:
    grey = dataclasses.replace(SMALL, mean=(0.0,), std=(1.0,))
    seen = eval_transform(grey)(open_image(PHOTOS["coffee.png"]))
    assert seen.shape == (1, *SMALL.size)
    ours = Reader(grey)(PHOTOS["coffee.png"])
    assert ours.shape == (1, *SMALL.size)
    assert (normalised([ours], grey)[0] - seen).abs().max() < 1.1 / 255


@pytest.mark.parametrize("image", [numpy.zeros((8, 8, 3), numpy.uint8), torch.zeros(3, 8, 8), "a.jpg", None], ids=type)
def test_a_transform_takes_pil_images(image: Any) -> None:
    with pytest.raises(InputError, match="expected a PIL image, found .*: make one with PIL.Image.fromarray"):
        eval_transform(SMALL)(image)


def test_a_transform_is_of_a_preprocessing() -> None:
    for how in ({"size": 224}, dataclasses.replace(SMALL, mean=(0.0,) * 4, std=(1.0,) * 4)):
        with pytest.raises(ArgumentError, match="expected the Preprocessing of a model of 1 or 3 channels"):
            eval_transform(how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ([numpy.zeros((3, 8, 8), numpy.uint8)], "ndarray: expected tensors torch.uint8"),
        ([torch.zeros(3, 8, 8)], "torch.float32 .3, 8, 8.: expected tensors torch.uint8"),
        ([torch.zeros(3, 8, 8, dtype=torch.float64)], "torch.float64"),
        ([torch.zeros(3, 8, 8).byte(), torch.zeros(3, 8, 9).byte()], r"\(3, 8, 9\): expected .* of one size"),
        ([torch.zeros(1, 8, 8).byte()], r"\(1, 8, 8\): expected images \(3, height, width\)"),
        ([], "no images: expected images"),
    ],
)
def test_only_pixels_are_normalised(pixels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        normalised(pixels, SMALL)


# finding


def test_paths_folders_and_globs_give_each_file_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("b.png", "a.JPG", "deep/c.png", "odd[1].png", "data.bin"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()

    def found(*patterns: str) -> list[str]:
        return [str(path) for path in find_images(patterns)]

    assert found(".") == ["a.JPG", "b.png", "deep/c.png", "odd[1].png"]
    assert found("b.png", "*.png", "data.bin") == ["b.png", "odd[1].png", "data.bin"]
    assert found("**/c.png") == ["deep/c.png"]
    assert found("odd[1].png") == ["odd[1].png"]
    assert found("deep", ".", "deep/c.png") == ["deep/c.png", "a.JPG", "b.png", "odd[1].png"]
    assert found("d*") == ["data.bin", "deep/c.png"]
    assert sorted(found("**")) == ["a.JPG", "b.png", "data.bin", "deep/c.png", "odd[1].png"]


def test_what_matches_nothing_is_refused_before_a_file_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").touch()
    for pattern, message in {
        "nosuch.jpg": "nosuch.jpg: there is no such file or folder",
        "*.gif": r"\*.gif: there is no such file",
        "empty": "empty: no image in this folder",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images(["a.png", pattern])
    with pytest.raises(InputError, match="nosuch.txt: there is no such file"):
        find_images(["a.png"], "nosuch.txt")


def test_lists_name_a_file_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = b"b.png\r\n\nmissing dir/c.png\n\xff.png\nb.png\nlast"
    (tmp_path / "list.txt").write_bytes(names)
    expected = [Path("b.png"), Path("missing dir/c.png"), Path(os.fsdecode(b"\xff.png")), Path("last")]
    assert list(find_images([], str(tmp_path / "list.txt"))) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names)))
    assert list(find_images([], "-")) == expected


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_comes_itself(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    (tmp_path / "z.png").touch()
    assert list(find_images([str(tmp_path)])) == [tmp_path / "shut", tmp_path / "z.png"]


def test_links_to_folders_are_followed_unless_they_lead_back(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "cats").mkdir(parents=True)
    for file in ("set/cats/a.png", "elsewhere/b.png", "elsewhere/deep/c.png"):
        (tmp_path / file).touch()
    (tmp_path / "set" / "dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "cats" / "back").symlink_to(tmp_path / "set")
    # Round by way of two links: set/dogs/deep/other leads to cats, and back from there.
    (tmp_path / "elsewhere" / "deep" / "other").symlink_to(tmp_path / "set" / "cats")
    (tmp_path / "set" / "cats" / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    skipped = Skipped()
    found = [str(path.relative_to(tmp_path)) for path in find_images([str(tmp_path / "set")], skipped=skipped)]
    assert [path for path in found if "again" not in path and "other" not in path] == [
        "set/cats/a.png",
        "set/dogs/b.png",
        "set/dogs/deep/c.png",
    ]
    assert len(found) == len(set(found)) == 5
    assert skipped.counts == {"link to a folder around it": 4}


def test_folders_that_all_link_to_each_other_come_to_an_end(tmp_path: Path) -> None:
    names = "abcdef"
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").touch()
        for other in set(names) - {name}:
            (tmp_path / name / other).symlink_to(tmp_path / other)
    skipped = Skipped()
    found = list(find_images([str(tmp_path)], skipped=skipped))
    assert {path.relative_to(tmp_path).parts[0] for path in found} == set(names)
    assert max(len(path.relative_to(tmp_path).parts) for path in found) == 1 + 4 + 1
    assert skipped.counts.keys() == {"link to a folder around it", "link behind 4 others"}


def test_one_bad_entry_loses_no_other(tmp_path: Path) -> None:
    for file in ("a.png", "b.JFIF", os.fsdecode(b"\xff.png"), "notes.txt", "more.txt", "README"):
        (tmp_path / file).touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nosuch.png")
    (tmp_path / "gone").symlink_to(tmp_path / "nosuch")
    os.mkfifo(tmp_path / "pipe.png")
    skipped = Skipped()
    found = [path.name for path in find_images([str(tmp_path)], skipped=skipped)]
    # What cannot be looked at comes itself, so that reading it says why.
    assert found == ["a.png", "b.JFIF", "circle", "gone.png", os.fsdecode(b"\xff.png")]
    for name, message in {"circle": "symbolic links lead in a circle", "gone.png": "there is no such file"}.items():
        with pytest.raises(InputError, match=message):
            Reader(SMALL)(tmp_path / name)
    assert str(skipped) == (
        "skipped 5 entries of folders: 2 .txt, 1 FIFO, socket or device, 1 broken link, 1 without a suffix"
    )
    assert list(find_images([str(tmp_path / "circle")])) == [tmp_path / "circle"]


def test_reasons_stay_few_whatever_files_are_called() -> None:
    skipped = Skipped()
    for number in range(1000):
        skipped.add(f".{number}\n")
    assert skipped.total == 1000
    assert len(skipped.counts) <= 21
    assert "980 of other suffixes" in str(skipped)
    assert "\n" not in str(skipped)


def test_two_stars_go_round_no_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("a.png", "deep/b.png", "deep/er/c.png", ".hidden/d.png"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    # Followed 40 times each, these would be 2 ** 40 folders.
    for name in ("one", "two"):
        (tmp_path / "deep" / name).symlink_to(tmp_path)
    for pattern in ("**/*.png", "./**/*.png", f"{tmp_path}/**/*.png", "**/**/*.png"):
        found = [str(path.absolute().relative_to(tmp_path)) for path in find_images([pattern])]
        assert sorted(found) == ["a.png", "deep/b.png", "deep/er/c.png"], pattern
    assert [str(path) for path in find_images(["d*/**/c.png"])] == ["deep/er/c.png"]


def test_folders_give_what_pillow_reads_by_itself() -> None:
    if "avif" in features.modules:  # since Pillow 11.2
        assert ".avif" in suffixes()
    assert {".jfif", ".jp2", ".pgm", ".mpo", ".jpg", ".jpeg", ".png", ".gif", ".tif", ".webp"} <= suffixes()
    # Films, numbers, and programs that another program would run.
    assert not {".mpg", ".h5", ".hdf", ".grib", ".eps", ".ps", ".pdf"} & suffixes()


def test_lists_are_regular_files_of_short_lines(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, message in {
        str(tmp_path / "pipe"): "expected a regular file, found a FIFO",
        "/dev/zero": "expected a regular file, found a device",
        str(tmp_path): "expected a file, found a folder",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images([], place)
    (tmp_path / "long.txt").write_bytes(b"a.jpg\n" + bytes(1 << 17))
    with pytest.raises(InputError, match=r"long.txt: a line of more than 32768 bytes: expected a path a line"):
        list(find_images([], str(tmp_path / "long.txt")))


# reading ahead


def test_a_million_files_are_drawn_no_further_than_the_window() -> None:
    drawn = 0

    def paths() -> Iterator[Path]:
        nonlocal drawn
        for number in range(1_000_000):
            drawn = number + 1
            yield Path(f"folder/{number}.jpg")

    one = torch.zeros(3, 2, 2, dtype=torch.uint8)
    results = read_ahead(paths(), lambda path: one, workers=2, ahead=70)
    for number, (path, _) in enumerate(itertools.islice(results, 5000)):
        assert path.name == f"{number}.jpg"
        assert drawn <= number + 71
    results.close()  # type: ignore[attr-defined]
    assert drawn <= 5071


def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    one = tmp_path / "0000.jpg"
    Image.new("RGB", (8, 8)).save(one)
    for number in range(20_000):
        inner = tmp_path / "many" / f"{number // 1000:03}"
        inner.mkdir(parents=True, exist_ok=True)
        os.link(one, inner / f"{number:06}.jpg")
    # What the interpreter keeps of all names it has ever seen is not counted: that table grows in leaps.
    counted = [tracemalloc.Filter(True, file) for file in (reader.__file__, threading.__file__, futures.__file__)]
    paths, kept = [], []
    tracemalloc.start()
    try:
        for number, _ in enumerate(read_ahead(find_images([str(tmp_path / "many")]), _light, workers=2, ahead=70), 1):
            if number % 2500 == 0:
                paths.append(sum(issubclass(type(each), Path) for each in gc.get_objects()))
                snapshot = tracemalloc.take_snapshot().filter_traces(counted)
                kept.append(sum(trace.size for trace in snapshot.traces))
    finally:
        tracemalloc.stop()
    assert number == 20_000
    assert max(paths) < paths[0] + 100
    assert max(kept) < 200_000  # the names of a folder of a thousand, and the window


def _light(path: Path) -> Tensor:
    return torch.zeros(3, 1, 1, dtype=torch.uint8)


def test_order_stays_while_workers_finish_as_they_like() -> None:
    first = threading.Event()

    def read(path: Path) -> Tensor:
        if path.name == "0":
            assert first.wait(30)
        elif path.name == "3":
            first.set()
        elif path.name == "2":
            raise InputError(f"{path}: broken")
        return torch.full((3, 1, 1), int(path.name), dtype=torch.uint8)

    results = list(read_ahead((Path(str(n)) for n in range(6)), read, workers=2, ahead=4))
    assert [path.name for path, _ in results] == list("012345")
    assert isinstance(results[2][1], InputError)
    assert [int(each.flatten()[0]) for _, each in results if isinstance(each, Tensor)] == [0, 1, 3, 4, 5]


def test_a_fault_of_ours_is_not_taken_for_a_broken_file() -> None:
    def read(path: Path) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_ahead([Path("a")], read, workers=1, ahead=1))
