"""A model by its name, with weights if asked: the whole way from the name to the loaded model. timm is not imported."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, Unpack, cast

from torch import Tensor

from effnet_zoo.checkpoints import config_json, locate, statefile
from effnet_zoo.checkpoints.loading import LoadReport, load_state, replaced_head
from effnet_zoo.checkpoints.pretrained_cfg import Blueprint, cfg_of_checkpoint, for_other_weights, images_of, origin_of
from effnet_zoo.checkpoints.statefile import StateFile
from effnet_zoo.errors import ArgumentError, UnknownNameError, quoted
from effnet_zoo.layouts import layout_of_checkpoint
from effnet_zoo.layouts.identify import identify
from effnet_zoo.network.model import EfficientNet, EfficientNetFeatures, build_model
from effnet_zoo.network.options import BuildOptions, ModelOptions, check_options, check_path
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import image_fields

AnyModel: TypeAlias = EfficientNet | EfficientNetFeatures


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    cache_dir: str | Path | None = None,
    **options: Unpack[ModelOptions],
) -> AnyModel:
    """Create a model by any of its names, with or without weights.

    Args:
        name: A variant (``effnet_zoo_b5``, ``efficientnet_b5`` or ``efficientnet-b5``), perhaps with a tag after a dot
            (``effnet_zoo_b5.ns_jft_in1k``; without one, the variant's default checkpoint is meant); or
            ``local-dir:FOLDER`` or ``hf-hub:owner/name@revision``, which hold a ``config.json`` in timm's format and
            ``model.safetensors``.
        pretrained: Load the checkpoint's weights. If they cannot be loaded, that is an error: they are never replaced
            by random weights.
        cache_dir: A folder for fetched files, instead of ``$EFFNET_ZOO_HOME`` or huggingface_hub's own cache.
        options: See `effnet_zoo.network.options.ModelOptions`.

    Returns:
        The model, in training mode. Its `load_report` says what happened to every tensor. A ``.safetensors`` file
        stays mapped into memory: while the model is in use, replace the file, do not overwrite it in place.

    Raises:
        UnknownNameError: If there is no such model or tag.
        ArgumentError: If an option does not exist or its value cannot be used.
        WeightsError: If the weights cannot be found or fetched, are damaged, or do not fit.
    """
    return build(_find_blueprint(name, cache_dir), options, pretrained=pretrained, cache_dir=cache_dir)


def create_classifier(name: str, *, pretrained: bool = False, **options: Unpack[BuildOptions]) -> EfficientNet:
    """Create a classifier, as `create_model` does: the work of `EfficientNet.from_name`."""
    check_options(options, BuildOptions)
    return cast(EfficientNet, create_model(name, pretrained=pretrained, **options))


def create_pretrained_classifier(
    name: str, weights_path: str | None, *, advprop: bool, tag: str | None, **options: Unpack[BuildOptions]
) -> EfficientNet:
    """Create a classifier with weights: the work of `EfficientNet.from_pretrained`."""
    catalogue.check_name(name)
    tag_in_name = ":" not in name and "." in name
    choices = {"weights_path": weights_path, "advprop": advprop, "tag": tag, "a tag in the name": tag_in_name}
    if len(given := [key for key, value in choices.items() if value]) > 1:
        raise ArgumentError(f"{' and '.join(given)}: expected at most one of them, each chooses the weights")
    if weights_path is None:
        tag = "ap_in1k" if advprop else tag
        return create_classifier(f"{name}.{tag}" if tag else name, pretrained=True, **options)
    variant, stated = catalogue.find_variant(name), {"file": weights_path}
    cfg = {**for_other_weights(cfg_of_checkpoint(variant.default)), **stated}
    blueprint = Blueprint.of_cfg(variant, variant.spec, cfg, stated)
    check_options(options, BuildOptions)
    return cast(EfficientNet, build(blueprint, cast(ModelOptions, options), pretrained=True))


def _find_blueprint(name: str, cache_dir: str | Path | None) -> Blueprint:
    catalogue.check_name(name)
    if ":" not in name:
        variant, checkpoint = catalogue.find(name)
        return Blueprint.of_cfg(variant, variant.spec, cfg_of_checkpoint(checkpoint))
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        path, where = Path(place) / config_json.CONFIG_FILE, {"file": place}
    elif scheme == "hf-hub":
        path = locate.obtain(locate.of_repository(place, config_json.CONFIG_FILE), cache_dir)
        where = {"hf_hub_id": place}
    else:
        raise UnknownNameError(f"{quoted(name)}: expected a model's name, local-dir:FOLDER or hf-hub:owner/name")
    saved = config_json.read_config(path)
    cfg = {**saved.pretrained_cfg, **where, "source": scheme, "num_classes": saved.options["num_classes"]}
    return dataclasses.replace(saved, pretrained_cfg=cfg)


def build(
    blueprint: Blueprint, options: ModelOptions, *, pretrained: bool, cache_dir: str | Path | None = None
) -> AnyModel:
    """Build a model and, if asked, give it the weights of its blueprint. The errors are those of `create_model`.

    The model is built on the meta device first, so that no random weights are drawn only to be replaced. `options`
    replace those of the blueprint.
    """
    if not pretrained:
        return _random_model(blueprint, options)
    check_path("cache_dir", cache_dir)
    file = _read_weights(blueprint, cache_dir)
    blueprint = _recognised(blueprint, file)
    layout, new_head = blueprint.layout, "num_classes" in options
    if new_head:
        file = replaced_head(file, layout.table, options["num_classes"])
    state = layout.table.to_ours(file.state, blueprint.arch)
    model = _random_model(blueprint, ModelOptions(**{**options, "device": "meta"}))
    notes = (*file.notes, *blueprint.notes)
    report = LoadReport(source=file.source, layout=layout.name, dropped=file.dropped, notes=notes)
    model.load_report = load_state(model, state, report, new_head=new_head, device=options.get("device"))
    model.origin = origin_of(model, file, layout.name, images_assumed=blueprint.images_assumed)
    return model


def _random_model(blueprint: Blueprint, options: ModelOptions) -> AnyModel:
    model = build_model(blueprint.arch, **ModelOptions(**{**blueprint.options, **options}))
    model.pretrained_cfg = model.default_cfg = blueprint.pretrained_cfg
    model.origin = origin_of(model)
    return model


def _read_weights(blueprint: Blueprint, cache_dir: str | Path | None) -> StateFile:
    """Return the tensors of the blueprint's weights, from a dict in memory or from a verified file."""
    cfg = blueprint.pretrained_cfg
    check_path("file", cfg.get("file"))
    if given := cfg.get("state_dict"):
        if not isinstance(given, Mapping):
            raise ArgumentError(f"state_dict={quoted(given)}: expected a dict of tensors")
        own = {key: value.clone() if isinstance(value, Tensor) else value for key, value in given.items()}
        return statefile.unwrap(own, "the given state_dict")
    checkpoint = blueprint.checkpoint
    source = locate.of_checkpoint(checkpoint) if checkpoint else locate.of_cfg(cfg)
    return statefile.read_weights(locate.obtain(source, cache_dir))


def _recognised(blueprint: Blueprint, file: StateFile) -> Blueprint:
    """Return the blueprint with what a weight file shows: its layout, classes and channels.

    A checkpoint of the ledger is what the ledger says, and a saved model what its ``config.json`` says. Any other file
    is a user's own: its keys show its layout, and the layout's conventions say what no key shows.
    """
    if checkpoint := blueprint.checkpoint:
        return dataclasses.replace(blueprint, layout=layout_of_checkpoint(checkpoint))
    variant, cfg, stated = blueprint.variant, blueprint.pretrained_cfg, blueprint.stated
    if variant is None or cfg.get("source") in config_json.SCHEMES:
        return blueprint
    identity = identify(file.state, file.source, among=[variant.name])
    num_classes, in_chans = identity.num_classes, identity.in_chans
    options = ModelOptions(num_classes=num_classes, in_chans=in_chans, global_pool=identity.global_pool)
    cfg = {**cfg, "num_classes": num_classes}
    notes = [f"assumed from the layout: {identity.layout.convention}"]
    convention = identity.layout.preprocessing(identity.name)
    if convention:
        cfg.pop("test_input_size", None)
        cfg |= {**image_fields(convention, in_chans), **images_of(stated)}
    if images_assumed := convention is None and "mean" not in stated:
        notes.append(f"images as for {variant.default.name}, assumed: pretrained_cfg_overlay can say otherwise")
    recognised = dataclasses.replace(blueprint, arch=identity.arch, layout=identity.layout, options=options)
    return dataclasses.replace(recognised, pretrained_cfg=cfg, notes=tuple(notes), images_assumed=images_assumed)
