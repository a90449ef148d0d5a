"""Entry points for timm and torch.hub, one for each variant. Importing this module registers them with timm."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, Unpack

from timm.models import PretrainedCfg, generate_default_cfgs, register_model

from effnet_zoo.checkpoints import config_json
from effnet_zoo.checkpoints import pretrained_cfg as cfgs
from effnet_zoo.checkpoints.creation import AnyModel, build, create_model
from effnet_zoo.errors import ArgumentError, UnknownNameError, did_you_mean, quoted
from effnet_zoo.network.options import ModelOptions
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.ledger import Checkpoint

GivenCfg: TypeAlias = str | dict[str, Any] | PretrainedCfg | None
"""What timm passes as ``pretrained_cfg``: a tag, or the fields."""


def timm_config(checkpoint: Checkpoint) -> PretrainedCfg:
    return PretrainedCfg(**cfgs.cfg_of_checkpoint(checkpoint))


# timm's `register_model` reads this name from the module of each entry point.
default_cfgs = generate_default_cfgs(
    {f"{each.name}{'*' if each.default else ''}": timm_config(each) for _, each in catalogue.checkpoints()}
)


def _sentence_about(variant: Model) -> str:
    return (
        f"{variant.family.title} {variant.name.removeprefix(variant.family.timm_prefix).upper()}: "
        f"{variant.spec.parameters() / 1e6:.1f} M parameters, {variant.spec.image_size} px; "
        f"tags {', '.join(variant.checkpoints)}."
    )


def hub_entry(variant: Model) -> Callable[..., AnyModel]:
    """Return the torch.hub entry point of a variant."""

    def create(pretrained: bool | str | None = False, **options: Unpack[ModelOptions]) -> AnyModel:
        name = f"{variant.name}.{pretrained}" if isinstance(pretrained, str) else variant.name
        return create_model(name, pretrained=bool(pretrained), **options)

    create.__name__ = create.__qualname__ = variant.hub_name
    create.__doc__ = (
        f"{_sentence_about(variant)}\n\n"
        "    pretrained: True for the first tag's weights, a tag for its weights, False or None for random ones.\n"
        "    options: num_classes, in_chans, drop_rate, features_only, ...: see ModelOptions.\n"
    )
    return create


def _register(variant: Model | None) -> None:
    """Register the entry point of a variant with timm; or of networks that are no variant, which `arch` describes."""

    def create(
        pretrained: bool = False,
        pretrained_cfg: GivenCfg = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        pretrained_model_args: dict[str, Any] | None = None,
        arch: dict[str, Any] | None = None,
        **options: Unpack[ModelOptions],
    ) -> AnyModel:
        if variant and arch is not None:
            raise ArgumentError(f"unknown keyword 'arch': {variant.name} has its own: expected {config_json.CUSTOM}")
        if variant is None and arch is None:
            needed = "needs arch, the fields of an ArchSpec: expected the folder or repository of a saved model"
            raise ArgumentError(f"{config_json.CUSTOM} {needed}")
        spec = variant.spec if variant else config_json.custom_arch(arch)
        blueprint = cfgs.Blueprint.of_cfg(variant, spec, *_merged(variant, pretrained_cfg, pretrained_cfg_overlay))
        model = build(blueprint, options, pretrained=bool(pretrained), cache_dir=cache_dir)
        model.pretrained_model_args = pretrained_model_args or {}
        return model

    create.__name__ = create.__qualname__ = variant.name if variant else config_json.CUSTOM
    create.__doc__ = _sentence_about(variant) if variant else "A network that is no variant: `arch` is its ArchSpec."
    register_model(create)


def _merged(
    variant: Model | None, given: GivenCfg, overlay: Mapping[str, Any] | None
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Merge what timm passes into one ``pretrained_cfg``; return it, and the fields of it that the caller gave.

    `given` is a tag, or fields as timm reads them from a saved config. Fields of `overlay` replace those of `given`.
    Claims about weights are left out where other weights are named.
    """
    if not isinstance(given, str | Mapping | PretrainedCfg | None):
        raise ArgumentError(f"pretrained_cfg={quoted(given)}: expected a tag, or a dict of timm's fields")
    if not isinstance(overlay, Mapping | None):
        raise ArgumentError(f"pretrained_cfg_overlay={quoted(overlay)}: expected a dict of timm's fields")
    overlay, known = dict(overlay or {}), [field.name for field in dataclasses.fields(PretrainedCfg)]
    if (unknown := next((key for key in overlay if key not in known), None)) is not None:
        raise ArgumentError(
            f"pretrained_cfg_overlay: unknown field {quoted(unknown)}.{did_you_mean(str(unknown), known)}"
        )
    stated: dict[str, Any] = {}
    given = {} if variant is None and not given else given
    if given is None or isinstance(given, str):
        if variant is None:
            raise UnknownNameError(f"unknown tag {quoted(given)}: {config_json.CUSTOM} has no checkpoints")
        cfg = cfgs.cfg_of_checkpoint(variant.default if given is None else catalogue.find_tag(variant, given))
    else:
        stated = cfgs.without_empty(given.to_dict() if isinstance(given, PretrainedCfg) else given)
        is_saved = stated.get("source") in config_json.SCHEMES
        cfg = {"architecture": variant.name if variant else config_json.CUSTOM, **stated}
        if variant and not is_saved:
            cfg = cfgs.for_other_weights(cfgs.cfg_of_checkpoint(variant.default)) | cfg
        if not is_saved and (stated.get("hf_hub_id") or stated.get("url")):
            # A checkpoint's fields with a file beside them: the file is taken, and the claims are not of its weights.
            overlay = {key: stated[key] for key in ("file", "state_dict") if stated.get(key)} | overlay
    places = {key for key in cfgs.PLACE_FIELDS if overlay.get(key)}
    if places & {"file", "state_dict"} or any(overlay[key] != cfg.get(key) for key in places):
        cfg, stated = cfgs.for_other_weights(cfg), {}
    cfg = cfgs.without_empty({**cfg, **overlay})
    cfgs.check_cfg(cfg, "pretrained_cfg")
    return cfg, {**stated, **overlay}


for _variant in (None, *catalogue.models().values()):
    _register(_variant)
