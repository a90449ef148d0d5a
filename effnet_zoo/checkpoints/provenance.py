"""What is known of a model's weights: what its ``pretrained_cfg`` says of them, as far as that is true of them now.

timm fills a model's ``pretrained_cfg`` with the record of a checkpoint whether or not it was loaded, and training does
not change it. Whoever publishes a model asks `known_of` instead.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.atomic_io import file_errors
from effnet_zoo.checkpoints import statefile
from effnet_zoo.checkpoints.config_json import IMAGE_FIELDS
from effnet_zoo.checkpoints.statefile import fingerprint
from effnet_zoo.errors import EffnetZooError
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.keytable import State, is_counter
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.zoo.preprocessing import Preprocessing, preprocessing_of

CLAIMS = ("tag", "license", "origin_url", "description", "paper_name", "paper_ids", "notes")
"""Fields of timm's record that are claims about weights: they are true of no others."""

PLACES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")
"""Fields of timm's record that say where weights are."""

NAMES = ("label_names", "label_descriptions")
"""Fields of timm's record that name the classes of a classifier."""


def claims_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a ``pretrained_cfg`` claims of the weights that it describes."""
    return {key: cfg[key] for key in CLAIMS if cfg.get(key)}


def images_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a ``pretrained_cfg`` says of how images are prepared."""
    return {key: cfg[key] for key in (*IMAGE_FIELDS, "test_input_size", "test_crop_pct") if key in cfg}


def of_other_weights(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a ``pretrained_cfg`` says whatever the weights are: no claim, no place and no class names."""
    return {key: value for key, value in cfg.items() if key not in (*CLAIMS, *PLACES, *NAMES)}


class Weights(Protocol):
    """The weights that a model was made with."""

    def are(self, state: State) -> bool:
        """Returns whether a model's state dict has these weights, and no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InFile:
    """Weights of a file, which is read again to compare. Nothing is computed while a model is loaded.

    A model in another dtype has the same weights if each is what the file's is in that dtype.

    Attributes:
        path: The file.
        stamp: What `stamp_of` gave before it was read.
        layout: Whose keys it has.
        arch: The network.
    """

    path: Path
    stamp: tuple[int, ...]
    layout: str
    arch: ArchSpec

    def are(self, state: State) -> bool:
        """Returns whether every tensor is the file's; False if the file is gone, or is not the same one any more."""
        try:
            if stamp_of(self.path) != self.stamp:
                return False
            found = LAYOUTS[self.layout].table.to_ours(statefile.read(self.path).state, self.arch)
        except EffnetZooError:
            return False
        for key, tensor in state.items():
            stored = found.get(key, torch.tensor(0) if is_counter(key) else None)
            if tensor.is_meta or stored is None or not torch.equal(stored.to(tensor.dtype), tensor.detach().cpu()):
                return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class InMemory:
    """Weights that no file has as they are.

    Attributes:
        fingerprint: That of `effnet_zoo.checkpoints.statefile.fingerprint`.
    """

    fingerprint: str

    def are(self, state: State) -> bool:
        """Returns whether names, dtypes, shapes and values are the same."""
        return fingerprint(state) == self.fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which weights a model was made with, and what was said of them.

    Attributes:
        said: What the model's ``pretrained_cfg`` said of them.
        weights: They themselves; None for random ones.
        assumed: What the model's ``pretrained_cfg`` said of images, if that was only assumed; see `images_of`.
    """

    said: Mapping[str, Any]
    weights: Weights | None = None
    assumed: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, cfg: Mapping[str, Any], weights: Weights | None = None) -> "Origin":
        """Returns the origin of weights that a ``pretrained_cfg`` describes."""
        return cls(said={key: cfg[key] for key in (*CLAIMS, *NAMES, "source") if key in cfg}, weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a model's weights.

    Attributes:
        claims: Licence, tag, origin, description and the like, by timm's names.
        labels: Class names in the order of the logits; None if there are none that are the model's.
        images: How images are prepared; None if nobody said, or it was only assumed.
    """

    claims: Mapping[str, Any]
    labels: tuple[str, ...] | None
    images: Preprocessing | None


def stamp_of(path: Path) -> tuple[int, ...]:
    """Returns what tells a file from another, and from itself after it was written to: device, inode, size and time.

    Raises:
        FileError: If it is gone.
    """
    with file_errors(path):
        found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def known_of(model: EfficientNet) -> Known:
    """Returns what is known of a model's weights as they are now.

    What came with the weights that the model was made with holds as long as it has those weights, all of them and no
    others: the same file is read again and compared. A copy, a pickle, another device and a lower dtype keep them;
    training, a new classifier, and a file that is gone or was changed since lose them. What the caller has written
    into ``pretrained_cfg`` since is the caller's own, and holds. How images are prepared holds whatever the weights
    are, and so do class names as long as there is one for each class, but for those of somebody else's repository.
    """
    cfg, origin = model.pretrained_cfg, model.origin
    is_said = cfg.get("mean") is not None and (origin is None or images_of(cfg) != origin.assumed)
    images = preprocessing_of(cfg) if is_said else None
    names = cfg.get("label_names")
    labels = tuple(names) if names and len(names) == model.num_classes else None
    claims = claims_of(cfg)
    if origin is None:  # a network of the caller's own: so is all that its pretrained_cfg says
        return Known(claims=claims, labels=labels, images=images)
    if origin.weights is None or not origin.weights.are(model.state_dict()):
        claims = {key: value for key, value in claims.items() if value != origin.said.get(key)}
        if origin.said.get("source") == "hf-hub" and names == origin.said.get("label_names"):
            labels = None
    return Known(claims=claims, labels=labels, images=images)
