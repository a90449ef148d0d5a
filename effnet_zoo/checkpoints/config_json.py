"""``config.json`` beside a weight file: what timm, transformers and this package need to build the network again.

The format is timm's (timm/models/_hub.py, save_config_for_hf). Wherever timm has the architecture, the config names
timm's own and spells out every numeric, so that plain timm builds the same network.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from effnet_zoo import atomic_io, documents
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints.pretrained_cfg import CLASS_NAME_FIELDS, PLACE_FIELDS, Blueprint, KnownFields, check_cfg
from effnet_zoo.errors import ArgumentError, SpecError, WeightsError, quoted
from effnet_zoo.layouts.effnet_zoo import PAD_TYPES
from effnet_zoo.network.options import ModelOptions, check
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model

CONFIG_FILE = "config.json"
SCHEMES = ("local-dir", "hf-hub")
"""Where a model and its config were saved together: what timm puts before the place, and in ``source``."""

CUSTOM = "effnet_zoo_custom"
"""The timm entry point for networks that are none of the variants: its model_args hold the whole ArchSpec."""

ADJUSTABLE_FIELDS = ("padding", "bn_eps", "bn_momentum", "drop_rate", "drop_path_rate", "activation", "image_size")
"""Fields of an ArchSpec that change what it computes, but not which tensors it has."""

TIMM_NUMERICS: dict[str, Any] = {"padding": "symmetric", "bn_eps": 1e-5, "bn_momentum": 0.1}
"""Of timm's models without ``tf_``: PyTorch's defaults (timm/models/_efficientnet_builder.py)."""

MOST_BLOCKS, MOST_PARAMETERS = 1000, 2 * 10**9
"""Of a network that a file describes, at most, so that a wrong figure does not ask for all of the memory: L2, the
largest published one, has 88 blocks and 480 million parameters."""


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


def variant_of(arch: ArchSpec) -> Model | None:
    """Return the variant whose tensors a network has, whatever its numerics; None if there is no such variant."""
    for model in catalogue.models().values():
        if same_tensors(model.spec, arch):
            return model
    return None


def same_tensors(arch: ArchSpec, other: ArchSpec) -> bool:
    """Return whether two networks have the same tensors, whatever their numerics."""
    return dataclasses.replace(arch, **{field: getattr(other, field) for field in ADJUSTABLE_FIELDS}) == other


def config_text(
    arch: ArchSpec, options: ModelOptions, pretrained_cfg: Mapping[str, Any], labels: tuple[str, ...] | None = None
) -> str:
    """Return the text of a ``config.json``. The place of the weights in the `pretrained_cfg` is left out."""
    model, given = variant_of(arch), dict(options)
    num_classes, in_chans = given.get("num_classes", 1000), given.get("in_chans", 3)
    args = {key: getattr(arch, key) for key in ("drop_rate", "drop_path_rate", "bn_eps", "bn_momentum")}
    if model:
        args |= {"pad_type": PAD_TYPES[arch.padding], "act_layer": arch.activation}
    else:
        args["arch"] = arch.to_dict()
    # transformers builds from these alone, without looking at pretrained_cfg.
    defaults = {"in_chans": 3, "global_pool": "avg", "output_stride": None}
    args |= {key: given[key] for key, default in defaults.items() if given.get(key, default) != default}
    left_out = (*PLACE_FIELDS, "architecture", "label_names")
    kept = {key: value for key, value in pretrained_cfg.items() if key not in left_out and value is not None}
    kept |= {"num_classes": num_classes, "classifier": "classifier", "custom_load": False}
    # timm would adapt the stem of other than three channels as if it had three, and draw a random one in the end.
    kept["first_conv"] = "conv_stem" if in_chans == 3 else None
    kept |= {key: [in_chans, *kept[key][1:]] for key in ("input_size", "test_input_size") if key in kept}
    content = {
        "architecture": model.upstream if model else CUSTOM,
        "num_classes": num_classes,
        "num_features": arch.head_filters,
        **({"global_pool": given["global_pool"]} if given.get("global_pool") else {}),
        **({"label_names": list(labels)} if labels else {}),
        "model_args": args,
        "pretrained_cfg": kept,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_config(path: Path) -> Blueprint:
    """Read a ``config.json``."""
    if not os.path.lexists(path):
        raise WeightsError(f"{path}: expected a {CONFIG_FILE} beside the weights")
    content = documents.from_json(atomic_io.read_bytes(path), dict[str, Any], str(path), WeightsError)
    return parse_config(content, str(path))


def parse_config(content: Any, source: str) -> Blueprint:
    """Return the network and the ``pretrained_cfg`` of the content of a ``config.json``, whose name is `source`."""
    document = documents.from_plain(content, _Document, source, WeightsError)
    args, cfg = content.get("model_args") or {}, content.get("pretrained_cfg")
    args = {key: value for key, value in args.items() if value is not None}
    if not cfg:
        cfg = {key: value for key, value in content.items() if key != "model_args"}
        check_cfg(cfg, source, WeightsError)
    cfg = {**cfg, **{key: content[key] for key in ("num_classes", *CLASS_NAME_FIELDS) if key in content}}
    cfg = {key: value for key, value in cfg.items() if value is not None} | {"architecture": document.architecture}
    cfg.setdefault("crop_mode", "center")  # timm's own default, which old configs rely on
    try:
        model, arch = _network(document.architecture, args.pop("arch", None), source)
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
        blueprint = Blueprint(variant=model, arch=arch, pretrained_cfg=cfg, options=options)
        _ = blueprint.images  # refuses values that no image can be prepared with
    except (ArgumentError, SpecError) as error:
        raise WeightsError(f"{source}: {error}") from None
    return blueprint


def custom_arch(fields: Mapping[str, Any] | None) -> ArchSpec:
    """Return the network that a ``config.json`` describes by the fields of its `ArchSpec`, unless it is too large."""
    arch = ArchSpec.from_dict(fields or {})
    if (blocks := sum(stage.repeats for stage in arch.stages)) > MOST_BLOCKS:
        raise SpecError(f"a network of {blocks} blocks: expected at most {MOST_BLOCKS}")
    if (parameters := arch.parameters(num_classes=0)) > MOST_PARAMETERS:
        raise SpecError(f"a network of {parameters:.1e} parameters: expected at most {MOST_PARAMETERS:.1e}")
    return arch


def _network(name: str, fields: Any, source: str) -> tuple[Model | None, ArchSpec]:
    if name == CUSTOM:
        return None, custom_arch(fields)
    if fields is not None:
        raise WeightsError(f"{source}: architecture {quoted(name)}, and model_args arch too: expected one of them")
    for model in catalogue.models().values():
        if name in (model.name, model.upstream):
            return model, model.spec
        if name == model.hub_name:  # timm's training of the same network, in PyTorch's numerics
            return model, dataclasses.replace(model.spec, **TIMM_NUMERICS)
    expected = "expected the name of an EfficientNet V1 or V2, as timm or this package has it"
    raise WeightsError(f"{source}: architecture {quoted(name)} is not a network of this package: {expected}")


def _with_numerics(arch: ArchSpec, args: Mapping[str, Any], source: str) -> ArchSpec:
    known = set(_ModelArgs.__struct_fields__) - {"arch"}
    if strange := sorted(args.keys() - known):
        raise WeightsError(f"{source}: model_args {', '.join(strange)}: expected some of {', '.join(sorted(known))}")
    numerics = {key: args[key] for key in ADJUSTABLE_FIELDS if key in args}
    if "act_layer" in args:
        numerics["activation"] = args["act_layer"]
    if "pad_type" in args:
        given = args["pad_type"]
        numerics["padding"] = next((ours for ours, theirs in PAD_TYPES.items() if theirs == given), given)
    return dataclasses.replace(arch, **numerics)
