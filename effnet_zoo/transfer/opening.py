"""Open the weights of a file, a folder, a repository or a checkpoint of the ledger, and find out what they are."""

import dataclasses
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from effnet_zoo.atomic_io import file_errors, read_text
from effnet_zoo.checkpoints import config_json, locate, statefile
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.checkpoints.keras.hdf5 import check_in_child_process, is_keras_file
from effnet_zoo.checkpoints.keras.reading import NOT_BACKBONE, read_keras_file
from effnet_zoo.checkpoints.pretrained_cfg import Blueprint, cfg_of_checkpoint, claims_of
from effnet_zoo.checkpoints.statefile import StateFile
from effnet_zoo.documents import from_json
from effnet_zoo.errors import ArgumentError, FileError, MissingFileError, UnknownNameError, WeightsError, quoted
from effnet_zoo.layouts import LAYOUTS, OURS, Layout
from effnet_zoo.layouts.identify import identify, without_head
from effnet_zoo.layouts.layout import NetworkDescription, values_from
from effnet_zoo.network.options import ModelOptions, check_flags
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import Checkpoint
from effnet_zoo.zoo.preprocessing import Preprocessing

WEIGHT_FILES = (locate.WEIGHT_FILE, "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""Usual names of the weight file in a folder or a repository, best first."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".keras", ".h5")

_REPOSITORY = re.compile(r"(hf-hub:)?(?P<id>[\w.-]+/[\w.-]+(@[\w./-]+)?)")

Find = Callable[[str], Path | None]
"""Return the path of a file by its name, or None if there is no file of this name beside the weights."""


def open_package(
    place: str,
    *,
    variant: str | None = None,
    ema: bool = True,
    backbone_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Bundle:
    """Read weights, find out what they are, and check that every tensor of the network is there and no other.

    Args:
        place: A weight file; a folder or Hub repository with one, and perhaps a ``config.json``; or a checkpoint of the
            ledger.
        variant: The architecture's name, if the user knows it better than the file shows it.
        ema: Take moving averages where a file has both.
        backbone_only: Leave the head out, of any kind. The tensors left out are in the bundle's `dropped`.
        cache_dir: Where fetched files are kept.

    Raises:
        WeightsError: If there are no weights, they are damaged, or they are not an EfficientNet's.
        UnknownNameError: If `place` is no path, no repository's name and no checkpoint's.
    """
    return read_bundle(place, variant=variant, ema=ema, backbone_only=backbone_only, cache_dir=cache_dir).checked()


def read_bundle(
    place: str, *, variant: str | None, ema: bool, backbone_only: bool, cache_dir: str | Path | None = None
) -> Bundle:
    """Do as `open_package`, and leave the check of the tensors to a caller who builds the network anyway."""
    if not isinstance(place, str | os.PathLike):
        raise ArgumentError(f"{quoted(place)}: expected a path, a repository's name or a checkpoint's, as text")
    check_flags(ema=ema, backbone_only=backbone_only)
    if variant and not any(variant in layout.archs for layout in LAYOUTS.values()):
        variant = catalogue.find_variant(variant).name
    checkpoint, source = None, os.fspath(place)
    with suppress(UnknownNameError):
        checkpoint = catalogue.find(source)[1]
    weights, find = _located(source, checkpoint, cache_dir)
    source = source.removeprefix("hf-hub:")
    if is_keras_file(weights):
        bundle = _of_keras(weights, source, variant, backbone_only=backbone_only)
    else:
        file = statefile.read_weights(weights, ema=ema)
        file = _without_head(file) if backbone_only else file
        bundle = _of_checkpoint(file, checkpoint) if checkpoint else _of_file(file, source, variant, find)
    if backbone_only:
        options: ModelOptions = {**bundle.options, "num_classes": 0}
        bundle = dataclasses.replace(bundle, options=options, labels=None)
    return bundle


# Where the weights are.


def _located(source: str, checkpoint: Checkpoint | None, cache_dir: str | Path | None) -> tuple[Path, Find | None]:
    """Return the weight file, and the way to the config files beside it, if there can be any."""
    path, match = Path(source), _REPOSITORY.fullmatch(source)
    with file_errors(source):
        is_path = path.exists()
    if is_path and checkpoint:
        raise ArgumentError(
            f"{source}: a checkpoint and a local path too: expected ./{source} for the path, or no such path"
        )
    if checkpoint:
        return locate.obtain(locate.of_checkpoint(checkpoint), cache_dir), None
    if is_path and not path.is_dir():
        # A config.json lies beside a weight file of any name, and belongs to one of a usual name.
        return path, partial(_beside, path.parent, cache_dir) if path.name in WEIGHT_FILES else None
    place: Path | str
    if is_path:
        place = path
    # In a folder that exists, or with a weight file's suffix, a file is what was meant.
    elif match and (match[1] or not (path.parent.exists() or path.suffix in SUFFIXES)):
        place = match["id"]
    else:
        raise UnknownNameError(
            f"{source}: expected a weight file, a folder with one, a repository as owner/name, or a checkpoint that "
            "`effnet-zoo list` shows"
        )
    find = partial(_beside, place, cache_dir)
    if usual := next(filter(None, map(find, WEIGHT_FILES)), None):
        return usual, find
    with file_errors(source):
        others = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if is_path else []
    if len(others) != 1:
        found = ", ".join(file.name for file in others) or "none"
        raise WeightsError(
            f"{source}: expected {WEIGHT_FILES[0]} or one weight file, found {found}: name the file itself"
        )
    return others[0], find


def _beside(place: Path | str, cache_dir: str | Path | None, name: str) -> Path | None:
    """Return a file of a folder or of a repository, or None if it is not there."""
    if isinstance(place, Path):
        return place / name if (place / name).is_file() else None
    try:
        return locate.obtain(locate.of_repository(place, name), cache_dir)
    except MissingFileError:
        return None


# What they are.


def _without_head(file: StateFile) -> StateFile:
    backbone = without_head(file.state)
    head = dict.fromkeys(sorted(file.state.keys() - backbone.keys()), NOT_BACKBONE)
    return dataclasses.replace(file, state=backbone, dropped={**file.dropped, **head})


def _of_checkpoint(file: StateFile, checkpoint: Checkpoint) -> Bundle:
    return dataclasses.replace(
        _of_tensors(file, checkpoint.name, checkpoint.variant),
        images=checkpoint.preprocessing,
        record=claims_of(cfg_of_checkpoint(checkpoint)),
        seen=(f"the ledger's entry {checkpoint.name}",),
        assumed=(),
    )


def _of_file(file: StateFile, source: str, variant: str | None, find: Find | None) -> Bundle:
    """Return tensors with what the config files beside them state, or else with what the tensors show."""
    if find is None or (config := find(config_json.CONFIG_FILE)) is None:
        return _of_tensors(file, source, variant)
    try:
        content = from_json(read_text(config), dict[str, Any], str(config), WeightsError)
    except FileError as error:
        raise WeightsError(str(error)) from None
    for layout in LAYOUTS.values():
        if layout.config_files and layout.config_files.is_ours(content):
            return _with_config_files(_of_tensors(file, source, variant), layout, find)
    return _of_timm(file, source, variant, config_json.parse_config(content, str(config)))


def _of_timm(file: StateFile, source: str, variant: str | None, config: Blueprint) -> Bundle:
    """Return tensors under our keys with all that timm's ``config.json`` states."""
    name = config.variant.name if config.variant else config_json.CUSTOM
    if variant not in (None, name):
        raise WeightsError(f"{source}: its config.json says {name}, not {variant}: remove one of them")
    labels = config.pretrained_cfg.get("label_names")
    is_named = isinstance(labels, list) and len(labels) == config.options["num_classes"]
    numerics = f"{config.arch.padding} padding, eps {config.arch.bn_eps:g}"
    return Bundle(
        source=source,
        variant=name,
        arch=config.arch,
        options=config.options,
        images=config.images,
        labels=tuple(labels) if labels and is_named else None,
        state=OURS.table.to_ours(file.state, config.arch),
        dropped=file.dropped,
        record=claims_of(config.pretrained_cfg),
        seen=(f"config.json: {config.pretrained_cfg['architecture']}, {numerics}", *file.notes),
    )


def _of_tensors(file: StateFile, source: str, variant: str | None) -> Bundle:
    """Return tensors in any layout with all that their keys and shapes show."""
    identity = identify(file.state, source, among=[variant] if variant else None)
    layout, num_classes, in_chans = identity.layout, identity.num_classes, identity.in_chans
    return Bundle(
        source=source,
        layout=layout.name,
        variant=identity.name,
        arch=identity.arch,
        options=ModelOptions(num_classes=num_classes, in_chans=in_chans, global_pool=identity.global_pool),
        state=layout.table.to_ours(file.state, identity.arch),
        images=layout.preprocessing(identity.name),
        dropped=file.dropped,
        seen=(
            f"keys of {layout.name}",
            f"every shape of {identity.name}",
            f"{num_classes} classes" if num_classes else "no classifier",
            f"{in_chans} channels",
            *file.notes,
        ),
        assumed=(layout.convention,),
    )


def _with_config_files(bundle: Bundle, owner: Layout, find: Find) -> Bundle:
    """Return a bundle with what the config files of a library state."""
    files, network = owner.config_files, description_of(bundle)
    assert files is not None
    if bundle.layout != owner.name or network is None:
        raise WeightsError(
            f"{bundle.source}: config.json is {owner.name}', but the weights have the keys of {bundle.layout}: "
            "name the weight file alone, under another name"
        )
    paths = {name: path for name in files.names if (path := find(name))}
    content = files.read(paths, network)
    return dataclasses.replace(
        bundle,
        arch=content.arch,
        options=ModelOptions(**{**bundle.options, "global_pool": content.global_pool}),
        labels=content.labels,
        images=content.images,
        seen=(*bundle.seen, " and ".join(paths)),
    )


def _of_keras(path: Path, source: str, variant: str | None, *, backbone_only: bool) -> Bundle:
    check_in_child_process(path)
    found = read_keras_file(path, backbone_only=backbone_only)
    bundle = _of_tensors(found, source, variant)
    if not found.normalisation:
        return bundle
    mean, std = found.normalisation
    with values_from(source):
        images = Preprocessing(
            size=found.input_size or (bundle.arch.image_size,) * 2,
            crop_pct=1.0,
            crop_mode="squash",
            interpolation="bilinear",
            mean=mean,
            std=std,
        )
    seen = (*bundle.seen, "mean and std of the layers in front of the network")
    return dataclasses.replace(bundle, images=images, seen=seen)


def description_of(bundle: Bundle) -> NetworkDescription | None:
    """Return the network of a bundle as other libraries can be asked for it; None if the network is not a variant."""
    variant = config_json.variant_of(bundle.arch)
    if variant is None:
        return None
    return NetworkDescription(
        variant=variant,
        arch=bundle.arch,
        num_classes=bundle.num_classes,
        in_chans=bundle.options["in_chans"],
        global_pool=bundle.options.get("global_pool", "avg"),
        output_stride=bundle.options.get("output_stride"),
    )
