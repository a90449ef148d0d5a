"""``config.json`` beside a weight file: what timm, transformers and this package need to build the network again.

The format is timm's (timm/models/_hub.py, save_config_for_hf). Wherever timm has the architecture, the config names
timm's own and spells out every numeric, so that plain timm builds the same network.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from effnet_zoo import atomic_io, documents
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints.pretrained_cfg import KnownFields, check_cfg
from effnet_zoo.errors import ArgumentError, SpecError, WeightsError, quoted
from effnet_zoo.layouts.effnet_zoo import PAD_TYPES
from effnet_zoo.network.options import ModelOptions, check
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.preprocessing import Preprocessing, preprocessing_of

FILENAME = "config.json"
SCHEMES = ("local-dir", "hf-hub")
"""Where a model and its config were saved together: what timm puts before the place, and in ``source``."""

CUSTOM = "effnet_zoo_custom"
"""The timm entry point for networks that are none of the variants: its model_args hold the whole ArchSpec."""

NUMERICS = ("padding", "bn_eps", "bn_momentum", "drop_rate", "drop_path_rate", "activation", "image_size")
"""Fields of an ArchSpec that change what it computes, but not which tensors it has."""

TIMM_NUMERICS: dict[str, Any] = {"padding": "symmetric", "bn_eps": 1e-5, "bn_momentum": 0.1}
"""Of timm's models without ``tf_``: PyTorch's defaults (timm/models/_efficientnet_builder.py)."""

MOST_BLOCKS, MOST_PARAMETERS = 1000, 2 * 10**9
"""Of a network that a file describes, at most, so that a wrong figure does not ask for all of the memory: L2, the
largest published one, has 88 blocks and 480 million parameters."""

_LEFT_OUT = ("architecture", "hf_hub_id", "hf_hub_filename", "url", "file", "source", "state_dict", "label_names")
"""Fields of timm's dict that are written elsewhere in the file, or are true on one machine only."""


class _ModelArgs(msgspec.Struct):
    arch: dict[str, Any] | None = None
    act_layer: str | None = None
    pad_type: str | None = None
    padding: str | None = None
    bn_eps: float | None = None
    bn_momentum: float | None = None
    drop_rate: float | None = None
    drop_path_rate: float | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    global_pool: str | None = None
    output_stride: int | None = None


class _Document(msgspec.Struct):
    """A ``config.json``. Old ones of timm have the fields of pretrained_cfg at the top."""

    architecture: str
    num_classes: int | None = None
    label_names: tuple[str, ...] | None = None
    model_args: _ModelArgs | None = None
    pretrained_cfg: KnownFields | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A ``config.json``, read.

    Attributes:
        arch: The network, with its numerics.
        model: The variant; None for a network that is no variant.
        options: ``num_classes``, ``in_chans``, ``global_pool`` and ``output_stride`` of the saved model.
        pretrained_cfg: timm's dict of the checkpoint.
        images: How images are prepared; None if the file does not say.
    """

    arch: ArchSpec
    model: Model | None
    options: ModelOptions
    pretrained_cfg: dict[str, Any]
    images: Preprocessing | None


def variant_of(arch: ArchSpec) -> Model | None:
    """Return the variant whose tensors a network has, whatever its numerics; None if there is no such variant."""
    for model in catalogue.models().values():
        if same_tensors(model.spec, arch):
            return model
    return None


def same_tensors(arch: ArchSpec, other: ArchSpec) -> bool:
    """Return whether two networks have the same tensors, whatever their numerics."""
    return dataclasses.replace(arch, **{field: getattr(other, field) for field in NUMERICS}) == other


def write(
    arch: ArchSpec, options: ModelOptions, pretrained_cfg: Mapping[str, Any], labels: tuple[str, ...] | None = None
) -> str:
    """Return the text of a ``config.json``.

    Args:
        arch: The network, with the numerics that it was built with.
        options: ``num_classes``, ``in_chans``, ``global_pool`` and ``output_stride`` of the model.
        pretrained_cfg: timm's dict: preprocessing, licence, description. The place of the weights is left out.
        labels: Class names in the order of the logits.
    """
    model = variant_of(arch)
    num_classes, in_chans = options.get("num_classes", 1000), options.get("in_chans", 3)
    args: dict[str, Any] = {
        "drop_rate": arch.drop_rate,
        "drop_path_rate": arch.drop_path_rate,
        "bn_eps": arch.bn_eps,
        "bn_momentum": arch.bn_momentum,
    }
    if model:
        args |= {"pad_type": PAD_TYPES[arch.padding], "act_layer": arch.activation}
    else:
        args |= {"arch": arch.to_dict()}
    # transformers builds from these alone, without looking at pretrained_cfg.
    args |= {} if in_chans == 3 else {"in_chans": in_chans}
    args |= {key: value for key in ("global_pool", "output_stride") if (value := options.get(key)) not in (None, "avg")}
    kept = {key: value for key, value in pretrained_cfg.items() if key not in _LEFT_OUT and value is not None}
    kept |= {"num_classes": num_classes, "classifier": "classifier", "custom_load": False}
    # timm would adapt the stem of other than three channels as if it had three, and draw a random one in the end.
    kept |= {"first_conv": "conv_stem" if in_chans == 3 else None}
    kept |= {key: [in_chans, *kept[key][1:]] for key in ("input_size", "test_input_size") if key in kept}
    content = {
        "architecture": model.upstream if model else CUSTOM,
        "num_classes": num_classes,
        "num_features": arch.head_filters,
        **({"global_pool": options["global_pool"]} if options.get("global_pool") else {}),
        **({"label_names": list(labels)} if labels else {}),
        "model_args": args,
        "pretrained_cfg": kept,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> Config:
    """Read a ``config.json``.

    Raises:
        WeightsError: If it is not timm's format, or for a network that this package does not have.
        FileError: If it cannot be read.
    """
    if not os.path.lexists(path):
        raise WeightsError(f"{path}: expected a {FILENAME} beside the weights")
    content = documents.from_json(atomic_io.read_bytes(path), dict[str, Any], str(path), WeightsError)
    return parse(content, str(path))


def parse(content: Any, source: str) -> Config:
    """Return the content of a ``config.json`` as a `Config`.

    Raises:
        WeightsError: If it is not timm's format, or for a network that this package does not have.
    """
    document = documents.from_plain(content, _Document, source, WeightsError)
    name = document.architecture
    args = _without_null(content.get("model_args") or {})
    cfg = _without_null(
        content.get("pretrained_cfg") or {key: value for key, value in content.items() if key != "model_args"}
    )
    if document.pretrained_cfg is None:
        check_cfg(cfg, source, WeightsError)
    cfg |= {key: content[key] for key in ("num_classes", "label_names", "label_descriptions") if key in content}
    cfg = {
        "crop_mode": "center",
        **_without_null(cfg),
        "architecture": name,
    }  # timm's own default, which old configs rely on
    try:
        model, arch = _network(name, args.pop("arch", None), source)
        arch = _with_numerics(arch, args, source)
        options = ModelOptions(
            num_classes=args.get("num_classes", cfg.get("num_classes", 1000)),
            in_chans=args.get("in_chans", cfg.get("input_size", (3,))[0]),
            global_pool=args.get("global_pool", "avg"),
        )
        check(**options)
        if stride := args.get("output_stride"):
            arch.blocks(output_stride=stride)
            options["output_stride"] = stride
        images = preprocessing_of(cfg) if "mean" in cfg else None
    except (ArgumentError, SpecError) as error:
        raise WeightsError(f"{source}: {error}") from None
    return Config(arch=arch, model=model, options=options, pretrained_cfg=cfg, images=images)


def custom_arch(fields: Mapping[str, Any] | None) -> ArchSpec:
    """Return the network that the model_args of a ``config.json`` describe.

    Raises:
        SpecError: If a field is missing, unknown or outside its bounds, or the network is too large.
    """
    arch = ArchSpec.from_dict(fields or {})
    if (blocks := sum(stage.repeats for stage in arch.stages)) > MOST_BLOCKS:
        raise SpecError(f"a network of {blocks} blocks: expected at most {MOST_BLOCKS}")
    if (parameters := arch.parameters(num_classes=0)) > MOST_PARAMETERS:
        raise SpecError(f"a network of {parameters:.1e} parameters: expected at most {MOST_PARAMETERS:.1e}")
    return arch


def _without_null(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields without those that are null."""
    return {key: value for key, value in fields.items() if value is not None}


def _network(name: str, fields: Any, source: str) -> tuple[Model | None, ArchSpec]:
    if name == CUSTOM:
        return None, custom_arch(fields)
    for model in catalogue.models().values():
        if name in (model.name, model.upstream):
            return model, model.spec
        if name == model.hub_name:  # timm's training of the same network, in PyTorch's numerics
            return model, dataclasses.replace(model.spec, **TIMM_NUMERICS)
    raise WeightsError(
        f"{source}: architecture {quoted(name)} is not a network of this package: "
        "expected the name of an EfficientNet V1 or V2, as timm or this package has it"
    )


_NUMERIC_ARGS = {"act_layer": "activation"} | {
    field: field for field in ("bn_eps", "bn_momentum", "drop_rate", "drop_path_rate", "padding")
}


def _with_numerics(arch: ArchSpec, args: Mapping[str, Any], source: str) -> ArchSpec:
    numerics = {_NUMERIC_ARGS[key]: value for key, value in args.items() if key in _NUMERIC_ARGS}
    if "pad_type" in args:
        numerics["padding"] = {theirs: ours for ours, theirs in PAD_TYPES.items()}.get(args["pad_type"])
    known = {*_NUMERIC_ARGS, "pad_type", "num_classes", "in_chans", "global_pool", "output_stride"}
    if strange := sorted(args.keys() - known):
        raise WeightsError(f"{source}: model_args {', '.join(strange)}: expected some of {', '.join(sorted(known))}")
    return dataclasses.replace(arch, **numerics)
