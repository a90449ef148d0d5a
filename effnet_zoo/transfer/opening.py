"""Open weights wherever they are, and tell what they are: a file, a folder, a repository, or a checkpoint's name."""

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_zoo.atomic_io import file_errors, read_text
from effnet_zoo.checkpoints import config_json, keras, locate, statefile
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.checkpoints.pretrained_cfg import Blueprint, cfg_of_checkpoint, claims_of
from effnet_zoo.checkpoints.statefile import StateFile
from effnet_zoo.documents import from_json
from effnet_zoo.errors import ArgumentError, FileError, MissingFileError, UnknownNameError, WeightsError, quoted
from effnet_zoo.layouts import LAYOUTS, OURS, Layout, layout_of_checkpoint
from effnet_zoo.layouts.identify import identify, without_head
from effnet_zoo.layouts.layout import ConfigFiles, values_from
from effnet_zoo.network.options import ModelOptions, check_flags
from effnet_zoo.transfer.proof import description_of
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import Checkpoint
from effnet_zoo.zoo.preprocessing import Preprocessing

WEIGHT_FILES = (locate.FILENAME, "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""Names of the weight file of a folder, best first."""

REPOSITORY_FILES = WEIGHT_FILES[:2]
"""Names of the weight file of a Hub repository, best first."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".keras", ".h5")

_REPOSITORY = re.compile(r"(hf-hub:)?(?P<id>[\w.-]+/[\w.-]+(@[\w./-]+)?)")

Find = Callable[[str], Path | None]
"""Return the path of a file by its name, if it lies beside the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options of `open_package`."""

    variant: str | None
    ema: bool
    backbone_only: bool


def open_package(
    place: str,
    *,
    variant: str | None = None,
    ema: bool = True,
    backbone_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Bundle:
    """Read weights, tell what they are, and check that every tensor of the network is there and no other.

    Args:
        place: A weight file; a folder or Hub repository with one, and perhaps a ``config.json``; or a checkpoint of the
            ledger.
        variant: The architecture's name, if it is known better than the file tells.
        ema: Take moving averages where a file has both.
        backbone_only: Leave the head out, whatever it is. The tensors left out are in the bundle's `dropped`.
        cache_dir: Where fetched files are kept.

    Raises:
        WeightsError: If there are no weights, they are damaged, or they are not an EfficientNet's.
        UnknownNameError: If `place` is no path, no repository's name and no checkpoint's.
    """
    return read_bundle(place, variant=variant, ema=ema, backbone_only=backbone_only, cache_dir=cache_dir).checked()


def read_bundle(
    place: str,
    *,
    variant: str | None = None,
    ema: bool = True,
    backbone_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Bundle:
    """Do as `open_package`, and leave the check of the tensors to the caller, who is going to build the network."""
    if not isinstance(place, str | os.PathLike):
        raise ArgumentError(f"{quoted(place)}: expected a path, a repository's name or a checkpoint's, as text")
    check_flags(ema=ema, backbone_only=backbone_only)
    path, place = Path(place), os.fspath(place)
    options = _Options(variant=_known_variant(variant) if variant else None, ema=ema, backbone_only=backbone_only)
    with file_errors(place):
        is_path = path.exists()
    checkpoint = _checkpoint(place)
    if is_path and checkpoint:
        raise ArgumentError(
            f"{place}: a checkpoint and a local path too: expected ./{place} for the path, or no such path"
        )
    if is_path:
        return _from_path(path, options)
    if checkpoint:
        return _from_ledger(checkpoint, options, cache_dir)
    match = _REPOSITORY.fullmatch(place)
    # In a folder that exists, or with a weight file's suffix, a file is what was meant.
    if match and (match[1] or not (path.parent.exists() or path.suffix in SUFFIXES)):
        return _from_repository(match["id"], options, cache_dir)
    raise UnknownNameError(
        f"{place}: expected a weight file, a folder with one, a repository as owner/name, or a checkpoint that "
        "`effnet-zoo list` shows"
    )


def _known_variant(name: str) -> str:
    """Return an architecture's name as the layouts have it."""
    if any(name in layout.archs for layout in LAYOUTS.values()):
        return name
    return catalogue.find_variant(name).name


def _checkpoint(name: str) -> Checkpoint | None:
    try:
        return catalogue.find(name)[1]
    except UnknownNameError:
        return None


# Where the weights are.


def _from_ledger(checkpoint: Checkpoint, options: _Options, cache_dir: str | Path | None) -> Bundle:
    model = catalogue.find_variant(checkpoint.variant)
    layout = layout_of_checkpoint(checkpoint)
    path = locate.obtain(locate.of_checkpoint(checkpoint), cache_dir)
    file = _without_unwanted(statefile.read_weights(path), options)
    num_classes = 0 if options.backbone_only else checkpoint.num_classes
    return Bundle(
        source=checkpoint.name,
        layout=layout.name,
        variant=model.name,
        arch=model.spec,
        options=ModelOptions(num_classes=num_classes, in_chans=3, global_pool="avg"),
        images=checkpoint.preprocessing,
        record=claims_of(cfg_of_checkpoint(checkpoint)),
        state=layout.table.to_ours(file.state, model.spec),
        dropped=file.dropped,
        seen=(f"the ledger's entry {checkpoint.name}",),
    )


def _from_path(path: Path, options: _Options) -> Bundle:
    file = _in_folder(path) if path.is_dir() else path
    # A config.json lies beside a weight file of any name, and belongs to one of a usual name.
    folder = file.parent if path.is_dir() or file.name in WEIGHT_FILES else None

    def beside(name: str) -> Path | None:
        return folder / name if folder and (folder / name).is_file() else None

    return _from_file(file, str(path), beside, options)


def _in_folder(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    with file_errors(folder):
        found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise WeightsError(
            f"{folder}: expected {WEIGHT_FILES[0]} or one weight file, found {names}: name the file itself"
        )
    return found[0]


def _from_repository(hub_id: str, options: _Options, cache_dir: str | Path | None) -> Bundle:
    def fetched(name: str) -> Path | None:
        try:
            return locate.obtain(locate.of_repository(hub_id, name), cache_dir)
        except MissingFileError:
            return None

    for name in REPOSITORY_FILES:
        if file := fetched(name):
            return _from_file(file, hub_id, fetched, options)
    raise WeightsError(f"{hub_id}: expected {' or '.join(REPOSITORY_FILES)} in the repository")


# What they are.


def _from_file(path: Path, source: str, find: Find, options: _Options) -> Bundle:
    """Read a weight file with the config files beside it, which tell more than its tensors."""
    if keras.is_keras_file(path):
        return _of_keras(path, source, options)
    file = _without_unwanted(statefile.read_weights(path, ema=options.ema), options)
    config = find(config_json.FILENAME)
    content = _content(config) if config else {}
    owner = next((one for one in LAYOUTS.values() if one.config_files and one.config_files.is_ours(content)), None)
    if config and not owner:
        return _of_timm(file, source, config_json.parse_config(content, str(config)), options)
    bundle = _of_tensors(file, source, options)
    return _with_config_files(bundle, owner, owner.config_files, find) if owner and owner.config_files else bundle


def _content(path: Path) -> dict[str, Any]:
    try:
        return from_json(read_text(path), dict[str, Any], str(path), WeightsError)
    except FileError as error:
        raise WeightsError(str(error)) from None


def _of_timm(file: StateFile, source: str, config: Blueprint, options: _Options) -> Bundle:
    """Return tensors under our keys with all that timm's ``config.json`` says."""
    variant = config.variant.name if config.variant else config_json.CUSTOM
    if options.variant not in (None, variant):
        raise WeightsError(f"{source}: its config.json says {variant}, not {options.variant}: remove one of them")
    model_options = ModelOptions(**config.options)
    if options.backbone_only:
        model_options["num_classes"] = 0
    cfg = config.pretrained_cfg
    labels = cfg.get("label_names")
    is_named = isinstance(labels, list) and len(labels) == model_options["num_classes"]
    numerics = f"{config.arch.padding} padding, eps {config.arch.bn_eps:g}"
    return Bundle(
        source=source,
        variant=variant,
        arch=config.arch,
        options=model_options,
        images=config.images,
        labels=tuple(labels) if labels and is_named else None,
        state=OURS.table.to_ours(file.state, config.arch),
        dropped=file.dropped,
        record=claims_of(cfg),
        seen=(f"config.json: {cfg['architecture']}, {numerics}", *file.notes),
    )


def _of_tensors(file: StateFile, source: str, options: _Options) -> Bundle:
    """Return tensors in any layout with all that their keys and shapes tell."""
    identity = identify(file.state, source, among=[options.variant] if options.variant else None)
    layout = identity.layout
    return Bundle(
        source=source,
        layout=layout.name,
        variant=identity.name,
        arch=identity.arch,
        options=ModelOptions(
            num_classes=identity.num_classes, in_chans=identity.in_chans, global_pool=identity.global_pool
        ),
        state=layout.table.to_ours(file.state, identity.arch),
        images=layout.preprocessing(identity.name),
        dropped=file.dropped,
        seen=(
            f"keys of {layout.name}",
            f"every shape of {identity.name}",
            f"{identity.num_classes} classes" if identity.num_classes else "no classifier",
            f"{identity.in_chans} channels",
            *file.notes,
        ),
        assumed=(layout.convention,),
    )


def _with_config_files(bundle: Bundle, owner: Layout, config_files: ConfigFiles, find: Find) -> Bundle:
    """Return a bundle with what the config files beside its weights say."""
    network = description_of(bundle)
    if bundle.layout != owner.name or network is None:
        raise WeightsError(
            f"{bundle.source}: config.json is {owner.name}', but the weights have the keys of {bundle.layout}: "
            "name the weight file alone, under another name"
        )
    paths = {name: path for name in config_files.names if (path := find(name))}
    content = config_files.read(paths, network)
    options = ModelOptions(**bundle.options)
    options["global_pool"] = content.global_pool
    return dataclasses.replace(
        bundle,
        arch=content.arch,
        options=options,
        labels=content.labels,
        images=content.images,
        seen=(*bundle.seen, " and ".join(paths)),
    )


def _of_keras(path: Path, source: str, options: _Options) -> Bundle:
    keras.check_in_child_process(path)
    found = keras.read_keras_file(path, backbone_only=options.backbone_only)
    bundle = _of_tensors(StateFile(state=found.state, source=source, dropped=found.dropped), source, options)
    if not found.normalisation:
        return dataclasses.replace(bundle, images=None)
    side = bundle.arch.image_size
    mean, std = found.normalisation
    with values_from(source):
        images = Preprocessing(
            size=found.input_size or (side, side),
            crop_pct=1.0,
            crop_mode="squash",
            interpolation="bilinear",
            mean=mean,
            std=std,
        )
    seen = (*bundle.seen, "mean and std of the layers in front of the network")
    return dataclasses.replace(bundle, images=images, seen=seen)


def _without_unwanted(file: StateFile, options: _Options) -> StateFile:
    """Return a file's tensors; without its head if the backbone alone is wanted."""
    if not options.backbone_only:
        return file
    backbone = without_head(file.state)
    head = dict.fromkeys(sorted(file.state.keys() - backbone.keys()), keras.NOT_BACKBONE)
    return dataclasses.replace(file, state=backbone, dropped={**file.dropped, **head})
