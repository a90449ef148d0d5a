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
from PIL import Image, ImageCms
from torch import Tensor
from torchvision.transforms.functional import resize as resize_image

from effnet_zoo import catalog, eval_transform, images
from effnet_zoo.errors import InputError
from effnet_zoo.images import Reader, find_images, read_ahead
from effnet_zoo.ledger import Preprocessing
from effnet_zoo.preprocess import normalised, open_image
from tests.parity.photos import PHOTOS

LEDGER = list(dict.fromkeys(checkpoint.preprocessing for _, checkpoint in catalog.checkpoints()))
SMALL = min(LEDGER, key=lambda how: how.size)
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
    resized: list[str] = []
    monkeypatch.setattr(images, "resize_image", _noting(resize_image, resized))
    large = [path for path in photos if path.suffix == ".jpg" and min(open_image(path).size) >= 1000]
    assert large
    for path in large:
        Reader(SMALL)(path)
    assert not resized
    Reader(SMALL)(PHOTOS["coffee.png"])
    assert resized


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


def test_a_sixteen_bit_colour_png_is_what_pillow_makes_of_it(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(_deep_png(900, 700))
    with Image.open(path) as image:
        assert image.mode == "RGB"
    assert difference(SMALL, path).max() <= 1


def _deep_png(width: int, height: int) -> bytes:
    """Pillow reads such files and writes none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ramp = numpy.linspace(0, 65535, width * 3).astype(">u2").tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + ramp for _ in range(height)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


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
    # A size that Pillow's own check refuses, and a header that makes it stumble.
    (tmp_path / "bomb.ppm").write_bytes(b"P6 60000 60000 255\n")
    (tmp_path / "broken.tif").write_bytes(b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\xff\xff\xff\xff")
    for file, message in {
        "text.jpg": "not an image that Pillow can read",
        "empty.jpg": "not an image that Pillow can read",
        "bomb.ppm": "cannot be read: Image size",
        "broken.tif": "cannot be read|not an image",
        "missing.jpg": "there is no such file",
        "": "a folder: expected an image",
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
    with pytest.raises(InputError, match="nosuch.txt: there is no such list"):
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


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list(find_images([str(tmp_path)])) == [tmp_path / "a.png"]


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
    counted = [tracemalloc.Filter(True, file) for file in (images.__file__, threading.__file__, futures.__file__)]
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
