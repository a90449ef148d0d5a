"""A folder of photos for predict and embed."""

from pathlib import Path

import pytest
from PIL import Image

from effnet_zoo.images.decoding import open_image
from tests.parity.photos import PHOTOS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos small and large, one broken, more than two batches of 4."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, path in enumerate(list(PHOTOS.values()) * 2):
        photo = open_image(path)
        if number % 2:
            photo = photo.resize((1600, 1200), Image.Resampling.BICUBIC)
        photo.save(photos / f"{number}.jpg", quality=90)
    (photos / "3-broken.jpg").write_text("not an image")
    return photos
