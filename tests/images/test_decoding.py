"""Opening and decoding image files of every form, and refusing the ones that are broken or too large."""

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from effnet_zoo import eval_transform
from effnet_zoo.atomic_io import read_bytes
from effnet_zoo.errors import InputError
from effnet_zoo.images.decoding import LARGEST_FILE, as_rgb, open_image, suffixes
from effnet_zoo.images.reader import read_ahead, read_image, read_whole
from tests.images.common import RAW, SMALL, UNUSUAL, as_tensor, difference, exif_of, png_chunk
from tests.parity.photos import PHOTOS


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
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


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
        read_image(path, SMALL)


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
            read_image(tmp_path / file, SMALL)
        assert str(raised.value).startswith(str(tmp_path / file))


@pytest.mark.parametrize("exif", range(1, 9))
def test_images_are_turned_as_they_say(exif: int, tmp_path: Path) -> None:
    photo, path = open_image(PHOTOS["rocket.jpg"]), tmp_path / "turned"
    # Torch resizes the first.
    for form, size in (("JPEG", (1160, 774)), ("JPEG", (320, 214)), ("PNG", (160, 107)), ("WEBP", (160, 107))):
        photo.resize(size, Image.Resampling.BICUBIC).save(path, form, exif=exif_of(exif))
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
            ours = read_image(path, RAW, orientation=orientation)
            assert (as_tensor(ours).int() - (turned * 255).round().int()).abs().max() <= 1
            by_pillow = read_image(path, RAW, orientation=orientation, resize="pillow")
            assert torch.equal(as_tensor(by_pillow), (turned * 255).round().byte())
            assert numpy.array_equal(read_whole(path, RAW, orientation=orientation), numpy.asarray(expected))


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
        read_image(path, SMALL)
    with pytest.raises(InputError, match=message), Image.open(path) as image:
        eval_transform(SMALL)(image)


def test_large_images_are_refused_before_they_are_decoded_and_nobody_is_warned(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    for width, height, message in (
        (20_000, 10_000, "an image of 20000x10000 pixels: expected at most 178956970"),
        (2_000_000, 1, "expected at most 178956970, and 1000000 on a side"),
        (11_000, 10_000, "large.png: cannot be read"),  # Pillow would warn of its size; its pixels are missing
    ):
        header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
        )
        with pytest.raises(InputError, match=message):
            read_image(path, SMALL)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="expected a regular file, found a FIFO"):
        read_image(tmp_path / "pipe.jpg", SMALL)
    with pytest.raises(InputError, match="expected a regular file, found a device"):
        open_image(Path("/dev/zero"))


def test_a_small_file_takes_little_memory_whatever_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(1000))
    tracemalloc.start()
    try:
        assert len(read_bytes(tmp_path / "a.jpg", LARGEST_FILE)) == 1000
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
    ((path, error),) = read_ahead([tmp_path / "a.png"], lambda path: read_image(path, SMALL), workers=1, ahead=1)
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{path}: cannot be read: ")
    assert len(str(error)) > len(f"{path}: cannot be read: ")


def test_the_exif_block_of_another_picture_in_the_file_turns_nothing(tmp_path: Path) -> None:
    photo, plain, turned = Image.new("RGB", (60, 40)), io.BytesIO(), io.BytesIO()
    photo.save(plain, "JPEG")
    photo.save(turned, "JPEG", exif=exif_of(6))
    start, rest, other = plain.getvalue()[:2], plain.getvalue()[2:], turned.getvalue()
    preview = b"Photoshop 3.0\0" + other
    files = {
        "a preview in a segment": start + b"\xff\xed" + struct.pack(">H", len(preview) + 2) + preview + rest,
        "a picture behind": plain.getvalue() + other,
    }
    for name, content in files.items():
        (tmp_path / "photo.jpg").write_bytes(content)
        assert open_image(tmp_path / "photo.jpg").size == (60, 40), name
    (tmp_path / "photo.jpg").write_bytes(other)
    assert open_image(tmp_path / "photo.jpg").size == (40, 60)
