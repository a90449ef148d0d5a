"""What is known of a model's weights: what its ``pretrained_cfg`` says of them, as far as it is still true.

timm fills a model's ``pretrained_cfg`` with the fields of a checkpoint whether or not it was loaded, and training does
not change them. Whoever publishes a model asks `known_of` instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints.pretrained_cfg import CLAIMS, NAMES, claims_of, images_of
from effnet_zoo.checkpoints.statefile import StateFile, fingerprint, read_weights
from effnet_zoo.errors import EffnetZooError
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.keytable import State, is_counter
from effnet_zoo.network.backbone import Backbone
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.zoo.preprocessing import Preprocessing, preprocessing_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The weights that a model was made with, and what was stated of them.

    Attributes:
        stated: What the model's ``pretrained_cfg`` stated of them.
        are_in: Return whether a model's state dict has these weights and no others; None for random weights.
        assumed: What the model's ``pretrained_cfg`` has on images, if it was only assumed; see `images_of`.
    """

    stated: Mapping[str, Any]
    are_in: Callable[[State], bool] | None
    assumed: Mapping[str, Any] | None


def origin_of(
    model: Backbone, file: StateFile | None = None, layout: str = "effnet_zoo", *, images_assumed: bool = False
) -> Origin:
    """Return the origin of a model that was just made.

    Args:
        model: The model, with its ``pretrained_cfg``.
        file: What its weights were read from; None for random weights.
        layout: Whose keys `file` has.
        images_assumed: Whether the ``pretrained_cfg`` only assumes how images are prepared.
    """
    cfg = model.pretrained_cfg
    are_in: Callable[[State], bool] | None = None
    if file is not None and file.stamp:
        path = Path(file.source).absolute()
        are_in = partial(_is_of_file, path=path, stamp=file.stamp, layout=layout, arch=model.arch)
    elif file is not None and claims_of(cfg):  # without claims there is nothing to compare for later
        are_in = partial(_has_fingerprint, expected=fingerprint(model.state_dict()))
    stated = {key: cfg[key] for key in (*CLAIMS, *NAMES, "source") if key in cfg}
    return Origin(stated=stated, are_in=are_in, assumed=images_of(cfg) if images_assumed else None)


def _has_fingerprint(state: State, expected: str) -> bool:
    return fingerprint(state) == expected


def _is_of_file(state: State, path: Path, stamp: tuple[int, ...], layout: str, arch: ArchSpec) -> bool:
    """Return whether every tensor is a file's; False if the file is gone, or has changed.

    The file is read again to compare them: nothing is computed while a model is loaded. A model in another dtype has
    the same weights if each is the file's value in that dtype.
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
    """What is known of a model's weights.

    Attributes:
        claims: Licence, tag, origin, description and the like, by timm's names.
        labels: Class names in the order of the logits; None if there are none that are the model's.
        images: How images are prepared; None if it is not known, or was only assumed.
    """

    claims: Mapping[str, Any]
    labels: tuple[str, ...] | None
    images: Preprocessing | None


def known_of(model: EfficientNet) -> Known:
    """Return what is known of a model's weights as they are now.

    What came with the weights that the model was made with holds as long as the model has those weights, all of them
    and no others: the same file is read again and compared. A copy, a pickle, another device and a lower dtype keep
    them. Training, a new classifier, and a file that is gone or was changed since lose them. What the caller has
    written into ``pretrained_cfg`` since is the caller's own, and holds. How images are prepared holds whatever the
    weights are, and so do class names as long as there is one for each class, unless they came with somebody else's
    repository.
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
