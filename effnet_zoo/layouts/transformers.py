"""The layout of transformers' EfficientNetForImageClassification (models/efficientnet/modeling_efficientnet.py).

Beside the weights lie ``config.json`` and ``preprocessor_config.json``, which say more than a layout's convention.
Example of a key: ``efficientnet.encoder.blocks.1.depthwise_conv.depthwise_conv.weight``.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.atomic_io import read_text
from effnet_zoo.documents import from_json
from effnet_zoo.errors import WeightsError, quoted
from effnet_zoo.layouts import layout
from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.zoo.preprocessing import Preprocessing

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"

ACTIVATIONS = {"swish": "silu", "silu": "silu", "relu": "relu", "relu6": "relu6"}
POOLINGS = {"mean": "avg", "max": "max"}
RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Interpolations by Pillow's numbers (PIL.Image.Resampling), which transformers writes down."""

STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Strides of EfficientNet's stages, the default of transformers' config."""

SQUASHING, KEEPING_ASPECT = "EfficientNetImageProcessor", "CLIPImageProcessor"
PROCESSORS = (SQUASHING, KEEPING_ASPECT, "BitImageProcessor")
"""Image processors that can be read: they resize, crop or not, rescale and normalise. The first ignores the aspect."""

_BODY = ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm")
_END = ("squeeze_excite.reduce", "squeeze_excite.expand", "projection.project_conv", "projection.project_bn")
TABLE = KeyTable(
    name="transformers",
    network=(
        "efficientnet.embeddings.convolution",
        "efficientnet.embeddings.batchnorm",
        "efficientnet.encoder.top_conv",
        "efficientnet.encoder.top_bn",
        "classifier",
    ),
    block="efficientnet.encoder.blocks.{index}.",
    blocks={
        "mbconv": ("expansion.expand_conv", "expansion.expand_bn", *_BODY, *_END),
        "separable": (*_BODY, *_END),
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The fields of ``config.json`` that are read, with the defaults of transformers' EfficientNetConfig."""

    strides: tuple[int, ...] = STRIDES
    depthwise_padding: tuple[int, ...] = ()
    hidden_act: str = "swish"
    pooling_type: str = "mean"
    batch_norm_eps: float | None = None
    dropout_rate: float | None = None
    drop_connect_rate: float | None = None
    id2label: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """The fields of ``preprocessor_config.json`` that are read."""

    image_processor_type: str | None = None
    do_resize: bool | None = True
    do_rescale: bool | None = True
    do_normalize: bool | None = True
    do_center_crop: bool | None = None
    include_top: bool | None = True
    rescale_offset: bool | None = None
    rescale_factor: float | None = 1 / 255
    resample: int | None = None
    size: dict[str, int] | int | None = None
    crop_size: dict[str, int] | int | None = None
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None


_preprocessing = partial(layout.uncropped, crop_mode="squash", interpolation="nearest")  # of google's repositories


def _theirs(known: Mapping[Any, str], ours: str) -> Any:
    return next(theirs for theirs, each in known.items() if each == ours)


def config_of(network: layout.NetworkDescription, labels: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return the fields of transformers' EfficientNetConfig for a network.

    It pads for one size, the variant's. ``depthwise_padding`` lists the stride-2 blocks whose input is odd at that
    size; convert_efficientnet_to_pytorch.py has the same lists.
    """
    model, arch = network.variant, network.arch
    variant = next(row for row in model.family.variants if model.family.timm_prefix + row.name == model.name)
    labels = labels or tuple(f"LABEL_{index}" for index in range(network.num_classes))
    return {
        "num_channels": network.in_chans,
        "image_size": model.spec.image_size,
        "width_coefficient": variant.width,
        "depth_coefficient": variant.depth,
        "depthwise_padding": _odd_blocks(model.spec),
        "hidden_dim": arch.head_filters,
        "hidden_act": _theirs(ACTIVATIONS, arch.activation),
        "pooling_type": _theirs(POOLINGS, network.global_pool),
        "batch_norm_eps": arch.bn_eps,
        "dropout_rate": arch.drop_rate,
        "drop_connect_rate": arch.drop_path_rate,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _odd_blocks(arch: ArchSpec) -> list[int]:
    side, odd = math.ceil(arch.image_size / 2), []
    for index, block in enumerate(block for stage in arch.blocks() for block in stage):
        if block.stride == 2:
            if side % 2:
                odd.append(index)
            side = math.ceil(side / 2)
    return odd


def _reference(network: layout.NetworkDescription) -> layout.Reference | None:
    try:
        from transformers import EfficientNetConfig, EfficientNetForImageClassification
    except ImportError:
        return None
    module = EfficientNetForImageClassification(EfficientNetConfig(**config_of(network)))
    side = network.variant.spec.image_size  # its padding is right for this size alone
    return layout.Reference(distribution="transformers", module=module, size=(side, side))


def _read(paths: Mapping[str, Path], network: layout.NetworkDescription) -> layout.ConfigContent:
    place = str(paths[CONFIG])
    config = from_json(read_text(place), Config, place, WeightsError)
    for field, value, known in (
        # No tensor shows where a network strides and how it pads there.
        ("strides", config.strides, [STRIDES]),
        ("depthwise_padding", config.depthwise_padding, [tuple(_odd_blocks(network.variant.spec))]),
        ("hidden_act", config.hidden_act, ACTIVATIONS),
        ("pooling_type", config.pooling_type, POOLINGS),
    ):
        if value not in known:
            expected = " or ".join(str(list(one) if isinstance(one, tuple) else one) for one in known)
            found = quoted(list(value) if isinstance(value, tuple) else value)
            raise WeightsError(f"{place}: {field} {found}: expected {expected}")
    given: dict[str, Any] = {
        "bn_eps": config.batch_norm_eps,
        "drop_rate": config.dropout_rate,
        "drop_path_rate": config.drop_connect_rate,
        "activation": ACTIVATIONS[config.hidden_act],
    }
    with layout.values_from(place):
        given = {field: value for field, value in given.items() if value is not None}
        arch = dataclasses.replace(network.arch, **given)
    images: Preprocessing | None = _preprocessing(network.variant.name)
    if PROCESSOR in paths:
        place = str(paths[PROCESSOR])
        with layout.values_from(place):
            images = _images_of(from_json(read_text(place), Processor, place, WeightsError))
    return layout.ConfigContent(
        arch=arch,
        global_pool=POOLINGS[config.pooling_type],
        labels=_labels(config.id2label or {}, network.num_classes),
        images=images,
    )


def _labels(names: Mapping[str, str], num_classes: int) -> tuple[str, ...] | None:
    """Return class names, but not the numbered ones that transformers writes where it knows no names."""
    keys = [str(index) for index in range(num_classes)]
    if names.keys() != set(keys) or all(names[key] == f"LABEL_{key}" for key in keys):
        return None
    return tuple(names[key] for key in keys)


def _images_of(processor: Processor) -> Preprocessing | None:
    """Return what an image processor does, or None if it does anything but resize, crop, rescale and normalise.

    With ``include_top``, EfficientNet's own divides by the standard deviation twice (image_processing_efficientnet.py).
    """
    kind = processor.image_processor_type
    steps = processor.do_resize and processor.do_rescale and processor.do_normalize
    from_zero_to_one = not processor.rescale_offset and processor.rescale_factor in (None, 0, 1 / 255)
    interpolation = RESAMPLE.get(-1 if processor.resample is None else processor.resample)
    if kind not in PROCESSORS or not steps or not from_zero_to_one or not interpolation:
        return None
    squashes = kind == SQUASHING
    crops = not squashes if processor.do_center_crop is None else processor.do_center_crop
    size, crop = processor.size, processor.crop_size if crops else processor.size
    mean, std = processor.image_mean, processor.image_std
    if not isinstance(size, dict) or not isinstance(crop, dict) or not mean or not std:
        return None
    height, width = crop.get("height"), crop.get("width")
    resized = size.get("shortest_edge") or size.get("height")
    if not height or not width or not resized:
        return None
    return Preprocessing(
        size=(height, width),
        crop_pct=_crop_pct(height, resized) if crops else 1.0,
        crop_mode="center" if "shortest_edge" in size else "squash",
        interpolation=interpolation,
        mean=mean,
        std=tuple(value * value for value in std) if squashes and processor.include_top else std,
    )


def _crop_pct(side: int, resized: int) -> float:
    """Return the share by which the transform, which rounds down, divides a side to get the resized one."""
    ratio = side / resized
    return ratio if math.floor(side / ratio) == resized else math.nextafter(ratio, 0)


def _write(
    network: layout.NetworkDescription, labels: tuple[str, ...] | None, images: Preprocessing
) -> Mapping[str, Mapping[str, Any]]:
    (height, width), squashes = images.size, images.crop_mode == "squash"
    if not squashes and height != width:
        raise WeightsError(f"transformers has no image processor that crops {images.size} out of the centre")
    tall, wide = (int(side / images.crop_pct) for side in images.size)
    processor = {
        "image_processor_type": SQUASHING if squashes else KEEPING_ASPECT,
        "do_resize": True,
        "size": {"height": tall, "width": wide} if squashes else {"shortest_edge": tall},
        "resample": _theirs(RESAMPLE, images.interpolation),
        "do_center_crop": not squashes or images.crop_pct != 1.0,
        "crop_size": {"height": height, "width": width},
        "rescale_factor": 1 / 255,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
        **({"rescale_offset": False, "include_top": False} if squashes else {}),
    }
    config = {"architectures": ["EfficientNetForImageClassification"], "model_type": "efficientnet"}
    return {CONFIG: {**config, **config_of(network, labels)}, PROCESSOR: processor}


LAYOUT = layout.Layout(
    table=TABLE,
    archs=layout.archs_named(*layout.B0_TO_B7),
    convention="SAME padding, batch norm eps 1e-3; images as google's repositories prepare them",
    loads_with="transformers: AutoModelForImageClassification.from_pretrained(DIR)",
    preprocessing=_preprocessing,
    reference=_reference,
    config_files=layout.ConfigFiles(
        names=(CONFIG, PROCESSOR),
        is_ours=lambda content: content.get("model_type") == "efficientnet",
        read=_read,
        write=_write,
    ),
    in_config=("bn_eps", "activation"),
    poolings=tuple(POOLINGS.values()),
)
