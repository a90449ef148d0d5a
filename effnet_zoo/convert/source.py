"""Weights from wherever users have them, into a `Package`: a file, a folder, a repository, or a checkpoint's name."""

import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_zoo import catalog, config, hub, statefile
from effnet_zoo.config import Config
from effnet_zoo.convert import keras_file
from effnet_zoo.convert.identify import Identity, identify
from effnet_zoo.convert.layouts import LAYOUTS
from effnet_zoo.convert.proof import TRANSFORMERS_ACTIVATIONS, transformers_config
from effnet_zoo.errors import MissingFileError, UnknownNameError, WeightsError
from effnet_zoo.ledger import Checkpoint, Preprocessing
from effnet_zoo.options import ModelOptions
from effnet_zoo.package import Package
from effnet_zoo.provenance import claims_of
from effnet_zoo.statefile import StateFile

NAMES = (hub.FILENAME, "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""Weight files of a folder or repository, best first."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".keras", ".h5")
PROCESSOR = "preprocessor_config.json"

_REPOSITORY = re.compile(r"(hf-hub:)?(?P<id>[\w.-]+/[\w.-]+(@[\w./-]+)?)")
RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for resampling, which transformers writes down."""
_PROCESSORS = ("EfficientNetImageProcessor", "CLIPImageProcessor", "BitImageProcessor")
"""Image processors of transformers that are understood: all resize, perhaps crop, rescale and normalise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What lies beside a weight file: timm's config, or transformers' with its image processor's."""

    timm: Config | None = None
    transformers: Mapping[str, Any] | None = None
    processor: Mapping[str, Any] | None = None


def open_package(
    place: str, *, variant: str | None = None, ema: bool = True, cache_dir: str | Path | None = None
) -> Package:
    """Read weights and tell what they are.

    Args:
        place: A weight file; a folder or Hub repository with one, and perhaps a ``config.json``; or a checkpoint of the
            ledger.
        variant: The architecture's name, if it is known better than the file tells.
        ema: Take moving averages where a file has both.
        cache_dir: Where fetched files are kept.

    Raises:
        WeightsError: If there are none, they are damaged, or they are not an EfficientNet's.
        UnknownNameError: If `place` is nothing of that kind.
    """
    path, variant = Path(place), _known_variant(variant) if variant else None
    if path.exists():
        return _read_path(path, variant, ema=ema).checked()
    if checkpoint := _checkpoint(place):
        return _read_checkpoint(checkpoint, cache_dir).checked()
    match = _REPOSITORY.fullmatch(place)
    # In a folder that exists, or with a weight file's suffix, a file is what was meant.
    if match and (match[1] or not (path.parent.exists() or path.suffix in SUFFIXES)):
        return _read_repository(match["id"], variant, cache_dir, ema=ema).checked()
    raise UnknownNameError(
        f"{place}: expected a weight file, a folder with one, a repository as owner/name, or a checkpoint that "
        "`effnet-zoo list` shows"
    )


def _known_variant(name: str) -> str:
    """An architecture's name as the layouts have it."""
    if any(name in layout.archs() for layout in LAYOUTS.values()):
        return name
    return catalog.find_variant(name).name


def _checkpoint(name: str) -> Checkpoint | None:
    try:
        return catalog.find(name)[1]
    except UnknownNameError:
        return None


def _read_checkpoint(checkpoint: Checkpoint, cache_dir: str | Path | None) -> Package:
    from effnet_zoo.registry import timm_config

    model = catalog.find_variant(checkpoint.variant)
    layout = LAYOUTS[checkpoint.shipped.layout if checkpoint.shipped else "effnet_zoo"]
    file = hub.load(hub.of_checkpoint(checkpoint), statefile.read, cache_dir)
    return Package(
        source=checkpoint.name,
        layout=layout.name,
        variant=model.name,
        arch=model.spec,
        options=ModelOptions(num_classes=checkpoint.num_classes, in_chans=3, global_pool="avg"),
        state=layout.table.to_ours(file.state, model.spec),
        images=checkpoint.preprocessing,
        labels=None,
        record=claims_of(timm_config(checkpoint).to_dict()),
        seen=(f"the ledger's entry {checkpoint.name}",),
    )


def _read_path(path: Path, variant: str | None, *, ema: bool) -> Package:
    file = _in_folder(path) if path.is_dir() else path
    known = file.parent if path.is_dir() or file.name in NAMES else None
    beside = _beside(lambda name: known / name if known and (known / name).is_file() else None)
    return _read_file(file, str(path), beside, variant, ema=ema)


def _in_folder(folder: Path) -> Path:
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise WeightsError(f"{folder}: expected {NAMES[0]} or one weight file, found {names}: name the file itself")
    return found[0]


def _read_repository(hub_id: str, variant: str | None, cache_dir: str | Path | None, *, ema: bool) -> Package:
    def fetched(name: str) -> Path | None:
        try:
            return hub.obtain(hub.of_repository(hub_id, name), cache_dir)
        except MissingFileError:
            return None

    for name in NAMES[:2]:
        if file := fetched(name):
            return _read_file(file, hub_id, _beside(fetched), variant, ema=ema)
    raise WeightsError(f"{hub_id}: expected {' or '.join(NAMES[:2])} in the repository")


def _beside(find: Any) -> Beside:
    path = find(config.FILENAME)
    if path is None:
        return Beside()
    content = _json(path)
    if content.get("model_type") == "efficientnet":
        processor = find(PROCESSOR)
        return Beside(transformers=content, processor=_json(processor) if processor else None)
    return Beside(timm=config.parse(content, str(path)))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a JSON object")
    return content


def _read_file(path: Path, source: str, beside: Beside, variant: str | None, *, ema: bool) -> Package:
    if _is_keras(path):
        return _read_keras(path, source, variant)
    file = statefile.read(path, ema=ema)
    if beside.timm:
        package = _as_configured(file, source, beside.timm)
        if variant not in (None, package.variant):
            raise WeightsError(f"{source}: its config.json says {package.variant}, not {variant}: remove one of them")
        return package
    identity = identify(file.state, source, among=[variant] if variant else None)
    package = _as_identified(file, source, identity)
    if beside.transformers:
        package = _as_transformers_says(package, beside.transformers, beside.processor)
    return package


def _is_keras(path: Path) -> bool:
    """Whether a file is HDF5, or an archive with a Keras model in it."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
        if start == keras_file.HDF5:
            return True
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except (OSError, zipfile.BadZipFile):  # for whoever reads it to say
        return False


_WALK = """
import sys
import h5py

def visit(name, item):
    list(item.attrs.items())

with h5py.File(sys.argv[1], "r") as file:
    visit("", file)
    file.visititems(visit)
"""


def _read_keras(path: Path, source: str, variant: str | None) -> Package:
    if importlib.util.find_spec("h5py") and not zipfile.is_zipfile(path):  # an archive has checksums
        # HDF5's library does not survive every damaged file, so another process opens it first.
        walk = subprocess.run([sys.executable, "-c", _WALK, str(path)], capture_output=True, check=False)
        if walk.returncode < 0:
            raise WeightsError(f"{path} is not a whole HDF5 file: reading it crashes HDF5; save or download it again")
    file = keras_file.read(path)
    state = StateFile(state=file.state, dropped=file.dropped)
    identity = identify(file.state, source, among=[variant] if variant else None)
    package = _as_identified(state, source, identity)
    side = identity.arch.image_size
    images = None
    if file.normalisation:
        mean, std = file.normalisation
        size = file.input_size or (side, side)
        images = Preprocessing(
            size=size, crop_pct=1.0, crop_mode="squash", interpolation="bilinear", mean=mean, std=std
        )
    seen = (*package.seen, *(("mean and std of the layers in front of the network",) if images else ()))
    return dataclasses.replace(package, images=images, seen=seen)


def _as_configured(file: StateFile, source: str, saved: Config) -> Package:
    """Own keys, and everything else from ``config.json``."""
    cfg, num_classes = saved.pretrained_cfg, saved.options["num_classes"]
    labels = cfg.get("label_names")
    return Package(
        source=source,
        variant=saved.model.name if saved.model else config.CUSTOM,
        arch=saved.arch,
        options=saved.options,
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
        state=identity.to_ours(file.state),
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


def _as_transformers_says(package: Package, content: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Package:
    model = config.variant_of(package.arch)
    if package.layout != "transformers" or model is None:
        raise WeightsError(
            f"{package.source}: config.json is transformers', but the weights have the keys of {package.layout}: "
            "name the weight file alone, under another name"
        )
    ours = transformers_config(package, model)
    activations = {theirs: ours for ours, theirs in TRANSFORMERS_ACTIVATIONS.items()} | {"silu": "silu"}
    pools = {"mean": "avg", "max": "max"}
    for field, known, default in (
        # What no tensor shows: where a network strides, and how it pads there.
        ("strides", [_STRIDES], _STRIDES),
        ("depthwise_padding", [ours["depthwise_padding"]], []),
        ("hidden_act", activations, "swish"),
        ("pooling_type", pools, "mean"),
    ):
        if (value := content.get(field, default)) not in known:
            raise WeightsError(
                f"{package.source}: {field} {value} of config.json: expected {' or '.join(map(str, known))}"
            )
    arch = dataclasses.replace(
        package.arch,
        bn_eps=content.get("batch_norm_eps", package.arch.bn_eps),
        activation=activations[content.get("hidden_act", "swish")],
        drop_rate=content.get("dropout_rate", package.arch.drop_rate),
        drop_path_rate=content.get("drop_connect_rate", package.arch.drop_path_rate),
    )
    options = ModelOptions(**package.options)
    options["global_pool"] = pools[content.get("pooling_type", "mean")]
    said = "config.json and preprocessor_config.json" if processor else "config.json"
    return dataclasses.replace(
        package,
        arch=arch,
        options=options,
        labels=_transformers_labels(content.get("id2label"), package.num_classes),
        images=_processor_images(processor) if processor else package.images,
        seen=(*package.seen, said),
    )


_STRIDES = [1, 2, 2, 2, 1, 2, 1]
"""Of EfficientNet's stages, which transformers' configs may leave out."""


def _transformers_labels(names: Any, num_classes: int) -> tuple[str, ...] | None:
    """Class names, unless they are the numbers that transformers puts where it knows none."""
    keys = [str(index) for index in range(num_classes)]
    if not isinstance(names, dict) or sorted(names) != sorted(keys):
        return None
    labels = tuple(str(names[key]) for key in keys)
    return None if labels == tuple(f"LABEL_{key}" for key in keys) else labels


def _processor_images(processor: Mapping[str, Any]) -> Preprocessing | None:
    """What an image processor does: resize, perhaps crop, normalise, perhaps twice; None if it does anything else.

    EfficientNet's ignores the aspect, and with ``include_top`` it divides by the standard deviation once more
    (image_processing_efficientnet.py).
    """
    kind = str(processor.get("image_processor_type")).removesuffix("Fast").removesuffix("Pil")
    steps = all(processor.get(step, True) for step in ("do_resize", "do_rescale", "do_normalize"))
    from_zero_to_one = not processor.get("rescale_offset") and math.isclose(
        processor.get("rescale_factor", 1 / 255), 1 / 255
    )
    interpolation = RESAMPLE.get(processor.get("resample", -1))
    if kind not in _PROCESSORS or not steps or not from_zero_to_one or not interpolation:
        return None
    of_efficientnet = kind == "EfficientNetImageProcessor"
    try:
        size, mean, std = processor["size"], tuple(processor["image_mean"]), tuple(processor["image_std"])
        crop = processor["crop_size"] if processor.get("do_center_crop", not of_efficientnet) else size
        side, resized = (crop["height"], crop["width"]), size.get("shortest_edge") or size["height"]
    except (KeyError, TypeError, AttributeError):
        return None
    return Preprocessing(
        size=side,
        crop_pct=1.0 if crop is size else _share(side[0], resized),
        crop_mode="center" if "shortest_edge" in size else "squash",
        interpolation=interpolation,
        mean=mean,
        std=tuple(value * value for value in std) if of_efficientnet and processor.get("include_top", True) else std,
    )


def _share(side: int, resized: int) -> float:
    """What the transform divides a side by to get the resized one: it rounds down, and a plain ratio may fall short."""
    ratio = side / resized
    return ratio if math.floor(side / ratio) == resized else math.nextafter(ratio, 0)
