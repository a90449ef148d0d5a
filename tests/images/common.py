"""What the tests of images share: preprocessings, and the reference, `eval_transform`."""

import dataclasses
import struct
import zlib
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from effnet_zoo import eval_transform
from effnet_zoo.images.decoding import open_image
from effnet_zoo.images.reader import read_image
from effnet_zoo.images.transform import Pixels
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing

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


def as_tensor(pixels: Pixels) -> Tensor:
    """(height, width, channels) to (channels, height, width)."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def difference(how: Preprocessing, path: Path) -> Tensor:
    """Grey levels between the fast pixels and the reference's."""
    ours = read_image(path, how)
    assert ours.dtype == numpy.uint8
    assert ours.shape == (*how.size, 3)
    return (as_tensor(ours).int() - reference(how, path).int()).abs()


def name(how: Preprocessing) -> str:
    return f"{how.size[0]}x{how.size[1]}-{how.crop_pct}-{how.crop_mode}-{how.interpolation}"


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
