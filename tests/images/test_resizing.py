"""Reading, resizing and normalising: within one grey level of what `eval_transform` gives."""

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from effnet_zoo import eval_transform
from effnet_zoo.errors import ArgumentError, InputError
from effnet_zoo.images import reader, transform
from effnet_zoo.images.decoding import open_image
from effnet_zoo.images.reader import read_image, read_whole
from effnet_zoo.images.transform import normalised, normalised_tensor, resized
from effnet_zoo.zoo.preprocessing import Preprocessing
from tests.images.common import LEDGER, RAW, SMALL, UNUSUAL, as_tensor, difference, name, reference
from tests.parity.photos import PHOTOS


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


def test_torch_resizes_large_images_if_wanted_and_pillow_the_rest(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_pillow: list[str] = []
    monkeypatch.setattr(reader, "resized", _noting(resized, by_pillow))
    large = [path for path in photos if path.suffix == ".jpg" and min(open_image(path).size) >= 1000]
    assert large
    for path in large:
        read_image(path, SMALL)
    assert not by_pillow
    read_image(PHOTOS["coffee.png"], SMALL)
    read_image(large[0], SMALL, resize="pillow")
    assert len(by_pillow) == 2


def _noting(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def noted(*arguments: Any, **options: Any) -> Any:
        calls.append(str(arguments))
        return function(*arguments, **options)

    return noted


def test_pillow_gives_the_references_very_pixels_and_torch_is_not_imported(photos: list[Path]) -> None:
    for path in photos[-3:]:
        assert torch.equal(as_tensor(read_image(path, SMALL, resize="pillow")), reference(SMALL, path))
    code = f"""
import sys
sys.modules["_effnet_zoo_command"] = None
from pathlib import Path
from effnet_zoo.images.reader import read_image
from effnet_zoo.images.transform import normalised
from effnet_zoo.zoo import catalogue
how = catalogue.find("effnet_zoo_lite0")[1].preprocessing
normalised([read_image(Path({str(photos[-1])!r}), how, resize="pillow")], how)
print(sorted({{"torch", "torchvision", "timm"}} & sys.modules.keys()))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_batches_are_normalised_as_the_reference_does() -> None:
    for how in LEDGER[:3]:
        pixels = read_image(PHOTOS["coffee.png"], how)
        expected = eval_transform(how)(open_image(PHOTOS["coffee.png"]))
        batch = normalised([pixels, pixels[:, ::-1]], how)
        assert batch.flags.c_contiguous
        assert numpy.array_equal(batch[0], expected.numpy())
        tensor = normalised_tensor([pixels, pixels[:, ::-1]], how, device="cpu", dtype=torch.float32)
        assert tensor.is_contiguous()
        assert torch.equal(tensor, torch.from_numpy(batch))


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
    pixels = read_image(tmp_path / "long.png", how)
    assert sizes
    if crop_mode == "center":  # what is far from the middle makes no difference
        left, top = (max(0, place - 30) for place in middle)
        image = image.crop((left, top, min(left + 60, size[0]), min(top + 60, size[1])))
        assert numpy.abs(numpy.asarray(resized(image, how)).astype(int) - pixels).max() <= 1
    else:
        assert pixels[[0, -1], [0, -1]].tolist() == [[50] * 3, [150] * 3]


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


def test_a_grey_model_is_given_grey() -> None:
    grey = dataclasses.replace(SMALL, mean=(0.0,), std=(1.0,))
    seen = eval_transform(grey)(open_image(PHOTOS["coffee.png"]))
    assert seen.shape == (1, *SMALL.size)
    ours = read_image(PHOTOS["coffee.png"], grey)
    assert ours.shape == (*SMALL.size, 1)
    assert numpy.abs(normalised([ours], grey)[0] - seen.numpy()).max() < 1.1 / 255


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
        ([torch.zeros(8, 8, 3).byte()], r"^Tensor: expected an image as uint8 \(height, width, 3\)"),
        ([], "no images: expected at least one"),
        ([numpy.zeros((8, 8, 3), numpy.float32)], r"^float32 \(8, 8, 3\): expected an image as uint8"),
        ([numpy.zeros((8, 8), numpy.uint8)], r"^uint8 \(8, 8\): expected an image as uint8"),
        ([numpy.zeros((8, 8, 3), numpy.uint8), numpy.zeros((8, 9, 3), numpy.uint8)], r"\(8, 9, 3\): .* one size"),
        ([numpy.zeros((8, 8, 1), numpy.uint8)], r"an image \(8, 8, 1\): expected \(height, width, 3\)"),
    ],
)
def test_only_pixels_are_normalised(pixels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        normalised(pixels, SMALL)
