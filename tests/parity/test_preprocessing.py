"""Our inference transforms against timm's for the same checkpoints, tensor for tensor, and against golden values.

The golden values are written with `write_golden`, by

    python -m tests.parity.test_preprocessing
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor

from effnet_zoo import atomic_io, eval_transform
from effnet_zoo.images.decoding import open_image
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing
from tests.parity.photos import GOLDEN, PHOTOS

GOLDEN_FILE = GOLDEN / "preprocessing.json"
GOLDEN_PHOTO = "coffee.png"
DIGITS = 4

# timm's name of each checkpoint. The one that only a package ships is timm's by another way of conversion.
TIMM_NAMES = {
    checkpoint.name: f"tf_{model.hub_name}.{checkpoint.tag if checkpoint.hub_id else 'in1k'}"
    for model, checkpoint in catalogue.checkpoints()
}


def distinct() -> dict[Preprocessing, str]:
    """Each way to preprocess once, with the first checkpoint that is preprocessed so."""
    found: dict[Preprocessing, str] = {}
    for _, checkpoint in catalogue.checkpoints():
        found.setdefault(checkpoint.preprocessing, checkpoint.name)
    return found


DISTINCT = distinct()


def timm_config(name: str) -> dict[str, Any]:
    cfg = get_pretrained_cfg(TIMM_NAMES[name])
    config: dict[str, Any] = resolve_data_config({}, pretrained_cfg=cfg.to_dict(), use_test_size=True)
    return config


def timm_transform(config: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    transform: Callable[[Image.Image], Tensor] = create_transform(**config)
    return transform


def pictures() -> dict[str, Image.Image]:
    """The photos, landscape but for one; one on its side; and what no camera makes: tiny, and very long."""
    photos = {name: open_image(path) for name, path in PHOTOS.items()}
    rocket = photos["rocket.jpg"]
    return {
        **photos,
        "portrait": rocket.transpose(Image.Transpose.ROTATE_90),
        "tiny": rocket.crop((300, 200, 313, 207)),
        "a pixel": rocket.crop((300, 200, 301, 201)),
        "long": rocket.crop((300, 100, 305, 135)),
    }


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_every_checkpoint_declares_what_timm_does(name: str) -> None:
    how = catalogue.find(name)[1].preprocessing
    config = timm_config(name)
    declared = {**dataclasses.asdict(how), "input_size": (3, *how.size)}
    del declared["size"]
    assert declared == config


@pytest.mark.parametrize(("how", "name"), DISTINCT.items(), ids=DISTINCT.values())
def test_tensors_are_timms(how: Preprocessing, name: str) -> None:
    ours, theirs = eval_transform(how), timm_transform(timm_config(name))
    for label, picture in pictures().items():
        out = ours(picture)
        assert out.shape == (3, *how.size)
        assert out.dtype == torch.float32
        assert torch.equal(out, theirs(picture)), label


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(224, 320), (320, 224), (97, 130)], ids=str)
def test_tensors_are_timms_for_a_size_that_is_not_square(size: tuple[int, int], crop_mode: str) -> None:
    how = dataclasses.replace(next(iter(DISTINCT)), size=size, crop_mode=crop_mode)
    config = {**timm_config(DISTINCT[next(iter(DISTINCT))]), "input_size": (3, *size), "crop_mode": crop_mode}
    ours, theirs = eval_transform(how), timm_transform(config)
    for label, picture in pictures().items():
        assert torch.equal(ours(picture), theirs(picture)), label


@pytest.mark.parametrize("exif", range(1, 9))
def test_a_turned_photo_is_timms_once_it_is_upright_and_timms_own_if_it_is_left(exif: int, tmp_path: Path) -> None:
    how, name = next(iter(DISTINCT.items()))
    theirs = timm_transform(timm_config(name))
    orientation = Image.Exif()
    orientation[0x0112] = exif
    open_image(PHOTOS["rocket.jpg"]).save(tmp_path / "turned.jpg", exif=orientation)
    with Image.open(tmp_path / "turned.jpg") as photo:
        upright, stored = ImageOps.exif_transpose(photo).convert("RGB"), photo.convert("RGB")
        assert torch.equal(eval_transform(how)(photo), theirs(upright))
        assert torch.equal(eval_transform(how, orientation=False)(photo), theirs(stored))


@pytest.mark.parametrize("how", DISTINCT, ids=DISTINCT.values())
def test_golden_values(how: Preprocessing) -> None:
    golden = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
    sha256 = atomic_io.sha256(PHOTOS[GOLDEN_PHOTO])
    assert sha256 == golden["sha256"], (
        f"{GOLDEN_PHOTO} is not the photo that the golden values are of: its sha256 is {sha256}. scikit-image has "
        "changed it; look at the picture, then write the golden values again as this file's docstring says"
    )
    found, expected = golden_values(how), golden["values"][describe(how)]
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        # Half of the last digit is rounding. A pixel off by one moves a value by 40 times as much.
        assert found[key] == pytest.approx(values, rel=0, abs=10**-DIGITS), key


def test_there_are_no_other_golden_values() -> None:
    golden = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
    assert set(golden["values"]) == {describe(how) for how in DISTINCT}


def golden_values(how: Preprocessing) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, and each channel's first and middle value."""
    x = eval_transform(how)(open_image(PHOTOS[GOLDEN_PHOTO])).double()
    middle = x[:, x.shape[1] // 2, x.shape[2] // 2]
    values = {"mean": x.mean(dim=(1, 2)), "std": x.std(dim=(1, 2)), "first": x[:, 0, 0], "middle": middle}
    return {key: [round(value, DIGITS) for value in each.tolist()] for key, each in values.items()}


def describe(how: Preprocessing) -> str:
    return " ".join(f"{field}={value}" for field, value in dataclasses.asdict(how).items())


def write_golden() -> None:
    """Compute the golden values with the package as it is. Only for a change that is meant to change them."""
    values = {describe(how): golden_values(how) for how in DISTINCT}
    golden = {"photo": GOLDEN_PHOTO, "sha256": atomic_io.sha256(PHOTOS[GOLDEN_PHOTO]), "values": values}
    GOLDEN_FILE.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", ".png"), ("LA", ".png"), ("RGBA", ".png"), ("P", ".png"), ("CMYK", ".jpg"), ("1", ".png")],
)
def test_other_modes_are_opened_as_rgb(mode: str, suffix: str, tmp_path: Path) -> None:
    photo = open_image(PHOTOS[GOLDEN_PHOTO])
    path = tmp_path / f"photo{suffix}"
    photo.convert(mode).save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert opened.size == photo.size
    # Still the same picture: no channel inverted, swapped or scaled. Only colour may be lost, or dithered away.
    small = [torch.tensor(list(each.convert("L").resize((12, 8)).tobytes())).double() for each in (opened, photo)]
    assert torch.corrcoef(torch.stack(small))[0, 1] > 0.99
    assert abs(small[0].mean() - small[1].mean()) < 8
    assert eval_transform(next(iter(DISTINCT)))(opened).shape == (3, *next(iter(DISTINCT)).size)


def test_transparency_is_dropped_and_colour_kept(tmp_path: Path) -> None:
    photo = open_image(PHOTOS[GOLDEN_PHOTO])
    see_through = photo.convert("RGBA")
    see_through.putalpha(128)
    see_through.save(tmp_path / "photo.png")
    assert open_image(tmp_path / "photo.png").tobytes() == photo.tobytes()


if __name__ == "__main__":
    write_golden()
