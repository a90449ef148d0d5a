"""Weights from wherever users have them, into a `Package`: a file, a folder, a repository, or a checkpoint's name."""

import dataclasses
import importlib.util
import math
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from effnet_zoo.atomic_io import file_errors, open_regular, read_text
from effnet_zoo.checkpoints import config_json, keras_file, locate, statefile
from effnet_zoo.checkpoints.bundle import Package
from effnet_zoo.checkpoints.config_json import Config
from effnet_zoo.checkpoints.pretrained_cfg import cfg_of_checkpoint, claims_of
from effnet_zoo.checkpoints.statefile import StateFile
from effnet_zoo.documents import from_json
from effnet_zoo.errors import (
    ArgumentError,
    FileError,
    MissingFileError,
    SpecError,
    UnknownNameError,
    WeightsError,
    quoted,
)
from effnet_zoo.layouts.identify import Identity, identify, without_head
from effnet_zoo.layouts.layout import LAYOUTS
from effnet_zoo.network.options import ModelOptions, check_flags
from effnet_zoo.transfer.proof import TRANSFORMERS_ACTIVATIONS, transformers_config
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import Checkpoint
from effnet_zoo.zoo.preprocessing import Preprocessing

Document = TypeVar("Document")

NAMES = (locate.FILENAME, "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""Weight files of a folder or repository, best first."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".keras", ".h5")
PROCESSOR = "preprocessor_config.json"

_STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of EfficientNet's stages, which transformers' configs may leave out."""

_REPOSITORY = re.compile(r"(hf-hub:)?(?P<id>[\w.-]+/[\w.-]+(@[\w./-]+)?)")
RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for resampling, which transformers writes down."""
_PROCESSORS = ("EfficientNetImageProcessor", "CLIPImageProcessor", "BitImageProcessor")
"""Image processors of transformers that are understood: all resize, perhaps crop, rescale and normalise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the caller of `open_package` says."""

    variant: str | None
    ema: bool
    backbone_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What tells transformers' ``config.json`` from timm's."""

    model_type: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersConfig:
    """What is read of transformers' ``config.json``; what it leaves out is the default of its EfficientNetConfig."""

    strides: tuple[int, ...] = _STRIDES
    depthwise_padding: tuple[int, ...] = ()
    hidden_act: str = "swish"
    pooling_type: str = "mean"
    batch_norm_eps: float | None = None
    dropout_rate: float | None = None
    drop_connect_rate: float | None = None
    id2label: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What is read of transformers' ``preprocessor_config.json``."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What lies beside a weight file: timm's config, or transformers' with its image processor's."""

    timm: Config | None = None
    transformers: TransformersConfig | None = None
    processor: Processor | None = None


def open_package(
    place: str,
    *,
    variant: str | None = None,
    ema: bool = True,
    backbone_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Package:
    """Reads weights and tells what they are.

    Args:
        place: A weight file; a folder or Hub repository with one, and perhaps a ``config.json``; or a checkpoint of the
            ledger.
        variant: The architecture's name, if it is known better than the file tells.
        ema: Take moving averages where a file has both.
        backbone_only: Leave the head out, whatever it is; what is left out is in the package's `dropped`.
        cache_dir: Where fetched files are kept.

    Raises:
        WeightsError: If there are none, they are damaged, or they are not an EfficientNet's.
        UnknownNameError: If `place` is nothing of that kind.
    """
    if not isinstance(place, str | os.PathLike):
        raise ArgumentError(f"{quoted(place)}: expected a path, a repository's name or a checkpoint's, as text")
    check_flags(ema=ema, backbone_only=backbone_only)
    path, place = Path(place), os.fspath(place)
    wish = _Wish(variant=_known_variant(variant) if variant else None, ema=ema, backbone_only=backbone_only)
    with file_errors(place):
        there = path.exists()
    checkpoint = _checkpoint(place)
    if there and checkpoint:
        raise ArgumentError(
            f"{place}: a checkpoint and a local path too: expected ./{place} for the path, or no such path"
        )
    if there:
        return _read_path(path, wish).checked()
    if checkpoint:
        return _read_checkpoint(checkpoint, wish, cache_dir).checked()
    match = _REPOSITORY.fullmatch(place)
    # In a folder that exists, or with a weight file's suffix, a file is what was meant.
    if match and (match[1] or not (path.parent.exists() or path.suffix in SUFFIXES)):
        return _read_repository(match["id"], wish, cache_dir).checked()
    raise UnknownNameError(
        f"{place}: expected a weight file, a folder with one, a repository as owner/name, or a checkpoint that "
        "`effnet-zoo list` shows"
    )


def _known_variant(name: str) -> str:
    """An architecture's name as the layouts have it."""
    if any(name in layout.archs() for layout in LAYOUTS.values()):
        return name
    return catalogue.find_variant(name).name


def _checkpoint(name: str) -> Checkpoint | None:
    try:
        return catalogue.find(name)[1]
    except UnknownNameError:
        return None


def _read_checkpoint(checkpoint: Checkpoint, wish: _Wish, cache_dir: str | Path | None) -> Package:
    model = catalogue.find_variant(checkpoint.variant)
    layout = LAYOUTS[checkpoint.shipped.layout if checkpoint.shipped else "effnet_zoo"]
    file = _wanted(statefile.read(locate.obtain(locate.of_checkpoint(checkpoint), cache_dir)), wish)
    return Package(
        source=checkpoint.name,
        layout=layout.name,
        variant=model.name,
        arch=model.spec,
        options=ModelOptions(
            num_classes=0 if wish.backbone_only else checkpoint.num_classes, in_chans=3, global_pool="avg"
        ),
        state=layout.table.to_ours(file.state, model.spec),
        images=checkpoint.preprocessing,
        labels=None,
        record=claims_of(cfg_of_checkpoint(checkpoint)),
        dropped=file.dropped,
        seen=(f"the ledger's entry {checkpoint.name}",),
    )


def _wanted(file: StateFile, wish: _Wish) -> StateFile:
    """What is wanted of a file: all, or the backbone alone."""
    if not wish.backbone_only:
        return file
    backbone = without_head(file.state)
    head = dict.fromkeys(file.state.keys() - backbone.keys(), keras_file.NOT_BACKBONE)
    return dataclasses.replace(file, state=backbone, dropped={**file.dropped, **dict(sorted(head.items()))})


def _read_path(path: Path, wish: _Wish) -> Package:
    file = _in_folder(path) if path.is_dir() else path
    known = file.parent if path.is_dir() or file.name in NAMES else None
    beside = _beside(lambda name: known / name if known and (known / name).is_file() else None)
    return _read_file(file, str(path), beside, wish)


def _in_folder(folder: Path) -> Path:
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    with file_errors(folder):
        found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise WeightsError(f"{folder}: expected {NAMES[0]} or one weight file, found {names}: name the file itself")
    return found[0]


def _read_repository(hub_id: str, wish: _Wish, cache_dir: str | Path | None) -> Package:
    def fetched(name: str) -> Path | None:
        try:
            return locate.obtain(locate.of_repository(hub_id, name), cache_dir)
        except MissingFileError:
            return None

    for name in NAMES[:2]:
        if file := fetched(name):
            return _read_file(file, hub_id, _beside(fetched), wish)
    raise WeightsError(f"{hub_id}: expected {' or '.join(NAMES[:2])} in the repository")


def _beside(find: Callable[[str], Path | None]) -> Beside:
    path = find(config_json.FILENAME)
    if path is None:
        return Beside()
    if _document(path, _Kind).model_type != "efficientnet":
        return Beside(timm=config_json.read(path))
    processor = find(PROCESSOR)
    return Beside(
        transformers=_document(path, TransformersConfig),
        processor=_document(processor, Processor) if processor else None,
    )


def _document(path: Path, kind: type[Document]) -> Document:
    try:
        return from_json(read_text(path), kind, str(path), WeightsError)
    except FileError as error:
        raise WeightsError(str(error)) from None


def _read_file(path: Path, source: str, beside: Beside, wish: _Wish) -> Package:
    if _is_keras(path):
        return _read_keras(path, source, wish)
    file = _wanted(statefile.read(path, ema=wish.ema), wish)
    if beside.timm:
        package = _as_configured(file, source, beside.timm, wish)
        if wish.variant not in (None, package.variant):
            raise WeightsError(
                f"{source}: its config.json says {package.variant}, not {wish.variant}: remove one of them"
            )
        return package
    identity = identify(file.state, source, among=[wish.variant] if wish.variant else None)
    package = _as_identified(file, source, identity)
    if beside.transformers:
        package = _as_transformers_says(package, beside.transformers, beside.processor)
    return package


def _is_keras(path: Path) -> bool:
    """Whether a file is HDF5, or an archive with a Keras model in it."""
    try:
        with open_regular(path) as file:
            start = file.read(8)
        if start == keras_file.HDF5:
            return True
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except (FileError, OSError, zipfile.BadZipFile):  # for whoever reads it to say
        return False


_WALK = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
except (ImportError, ValueError, OSError):
    pass  # a system without such a limit
import h5py

def visit(name, item):
    list(item.attrs.items())

with h5py.File(sys.argv[1], "r") as file:
    visit("", file)
    file.visititems(visit)
"""
WALK_SECONDS = 120.0
"""Seconds that a walk through an HDF5 file may take: V2 L's takes one, most of it to import h5py."""
WALK_BYTES = 4 << 30
"""Bytes of address space of the process that walks: h5py takes under 1 GiB, and no value of a tensor is read."""


def _walk(path: Path) -> None:
    """Opens a file in another process first: HDF5's library does not survive every damaged file.

    Raises:
        WeightsError: If that process does not end well, or not in time.
    """
    command = [sys.executable, "-W", "ignore", "-c", _WALK, str(path), str(WALK_BYTES)]
    try:
        walk = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WALK_SECONDS)
    except subprocess.TimeoutExpired:
        raise WeightsError(
            f"{path}: reading it takes more than {WALK_SECONDS:g} s: expected a file of Keras; download it again"
        ) from None
    if walk.returncode < 0:
        raise WeightsError(f"{path} is not a whole HDF5 file: reading it crashes HDF5; save or download it again")
    if walk.returncode:
        reason = (walk.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WeightsError(f"{path} is not a whole HDF5 file: {reason}; save or download it again")


def _read_keras(path: Path, source: str, wish: _Wish) -> Package:
    if importlib.util.find_spec("h5py") and not zipfile.is_zipfile(path):  # an archive has checksums
        _walk(path)
    file = keras_file.read(path, backbone_only=wish.backbone_only)
    state = StateFile(state=file.state, source=source, dropped=file.dropped)
    identity = identify(file.state, source, among=[wish.variant] if wish.variant else None)
    package = _as_identified(state, source, identity)
    side = identity.arch.image_size
    images = None
    if file.normalisation:
        mean, std = file.normalisation
        size = file.input_size or (side, side)
        with _named(source):
            images = Preprocessing(
                size=size, crop_pct=1.0, crop_mode="squash", interpolation="bilinear", mean=mean, std=std
            )
    seen = (*package.seen, *(("mean and std of the layers in front of the network",) if images else ()))
    return dataclasses.replace(package, images=images, seen=seen)


def _as_configured(file: StateFile, source: str, saved: Config, wish: _Wish) -> Package:
    """Own keys, and everything else from ``config.json``."""
    options = ModelOptions(**saved.options)
    if wish.backbone_only:
        options["num_classes"] = 0
    cfg, num_classes = saved.pretrained_cfg, options["num_classes"]
    labels = cfg.get("label_names")
    return Package(
        source=source,
        variant=saved.model.name if saved.model else config_json.CUSTOM,
        arch=saved.arch,
        options=options,
        state=LAYOUTS["effnet_zoo"].table.to_ours(file.state, saved.arch),
        images=saved.images,
        labels=tuple(labels) if isinstance(labels, list) and len(labels) == num_classes else None,
        record=claims_of(cfg),
        dropped=file.dropped,
        seen=(
            f"config.json: {cfg['architecture']}, {saved.arch.padding} padding, eps {saved.arch.bn_eps:g}",
            *file.notes,
        ),
    )


def _as_identified(file: StateFile, source: str, identity: Identity) -> Package:
    layout, images = identity.layout, identity.layout.preprocessing(identity.name)
    return Package(
        source=source,
        layout=layout.name,
        variant=identity.name,
        arch=identity.arch,
        options=ModelOptions(
            num_classes=identity.num_classes, in_chans=identity.in_chans, global_pool=identity.global_pool
        ),
        state=layout.table.to_ours(file.state, identity.arch),
        images=images,
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


def _as_transformers_says(package: Package, content: TransformersConfig, processor: Processor | None) -> Package:
    model = config_json.variant_of(package.arch)
    if package.layout != "transformers" or model is None:
        raise WeightsError(
            f"{package.source}: config.json is transformers', but the weights have the keys of {package.layout}: "
            "name the weight file alone, under another name"
        )
    padding = tuple(transformers_config(package, model)["depthwise_padding"])
    activations = {theirs: ours for ours, theirs in TRANSFORMERS_ACTIVATIONS.items()} | {"silu": "silu"}
    pools = {"mean": "avg", "max": "max"}
    for field, value, known in (
        # What no tensor shows: where a network strides, and how it pads there.
        ("strides", content.strides, [_STRIDES]),
        ("depthwise_padding", content.depthwise_padding, [padding]),
        ("hidden_act", content.hidden_act, activations),
        ("pooling_type", content.pooling_type, pools),
    ):
        if value not in known:
            raise WeightsError(
                f"{package.source}: {field} {_shown(value)} of config.json: expected {' or '.join(map(_shown, known))}"
            )

    def said(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else value

    with _named(f"{package.source}: {config_json.FILENAME}"):
        arch = dataclasses.replace(
            package.arch,
            bn_eps=said(content.batch_norm_eps, package.arch.bn_eps),
            activation=activations[content.hidden_act],
            drop_rate=said(content.dropout_rate, package.arch.drop_rate),
            drop_path_rate=said(content.drop_connect_rate, package.arch.drop_path_rate),
        )
    with _named(f"{package.source}: {PROCESSOR}"):
        images = _processor_images(processor) if processor else package.images
    options = ModelOptions(**package.options)
    options["global_pool"] = pools[content.pooling_type]
    files = "config.json and preprocessor_config.json" if processor else "config.json"
    return dataclasses.replace(
        package,
        arch=arch,
        options=options,
        labels=_transformers_labels(content.id2label or {}, package.num_classes),
        images=images,
        seen=(*package.seen, files),
    )


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Names the place of a value that no network can have and no image be prepared with."""
    try:
        yield
    except (ArgumentError, SpecError) as error:
        raise WeightsError(f"{place}: {error}") from None


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _transformers_labels(names: Mapping[str, str], num_classes: int) -> tuple[str, ...] | None:
    """Class names, unless they are the numbers that transformers puts where it knows none."""
    keys = [str(index) for index in range(num_classes)]
    if not names or sorted(names) != sorted(keys):
        return None
    labels = tuple(names[key] for key in keys)
    return None if labels == tuple(f"LABEL_{key}" for key in keys) else labels


def _processor_images(processor: Processor) -> Preprocessing | None:
    """What an image processor does: resize, perhaps crop, normalise, perhaps twice; None if it does anything else.

    EfficientNet's ignores the aspect, and with ``include_top`` it divides by the standard deviation once more
    (image_processing_efficientnet.py).
    """
    kind = str(processor.image_processor_type).removesuffix("Fast").removesuffix("Pil")
    steps = processor.do_resize and processor.do_rescale and processor.do_normalize
    from_zero_to_one = not processor.rescale_offset and math.isclose(processor.rescale_factor or 0, 1 / 255)
    interpolation = RESAMPLE.get(-1 if processor.resample is None else processor.resample)
    if kind not in _PROCESSORS or not steps or not from_zero_to_one or not interpolation:
        return None
    of_efficientnet = kind == "EfficientNetImageProcessor"
    crops = not of_efficientnet if processor.do_center_crop is None else processor.do_center_crop
    size, crop = processor.size, processor.crop_size if crops else processor.size
    mean, std = processor.image_mean, processor.image_std
    if not isinstance(size, dict) or not isinstance(crop, dict) or not mean or not std:
        return None
    side, resized = (crop.get("height"), crop.get("width")), size.get("shortest_edge") or size.get("height")
    if not side[0] or not side[1] or not resized:
        return None
    return Preprocessing(
        size=(side[0], side[1]),
        crop_pct=_share(side[0], resized) if crops else 1.0,
        crop_mode="center" if "shortest_edge" in size else "squash",
        interpolation=interpolation,
        mean=mean,
        std=tuple(value * value for value in std) if of_efficientnet and processor.include_top else std,
    )


def _share(side: int, resized: int) -> float:
    """What the transform divides a side by to get the resized one: it rounds down, and a plain ratio may fall short."""
    ratio = side / resized
    return ratio if math.floor(side / ratio) == resized else math.nextafter(ratio, 0)
