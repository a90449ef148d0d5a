"""timm's registry: names, tags, and what `model.pretrained_cfg` says."""

import subprocess
import sys
from typing import Any

import pytest
import timm
from timm.models import PretrainedCfg, get_pretrained_cfg

from effnet_zoo import EfficientNet, EfficientNetFeatures, create_model
from effnet_zoo.errors import ArgumentError, EffnetZooError, SpecError
from effnet_zoo.registry import timm_config
from effnet_zoo.zoo import catalogue

MODELS = catalogue.models()


def test_timm_lists_every_model_and_every_checkpoint() -> None:
    names = [*MODELS, "effnet_zoo_custom"]
    assert timm.list_models("effnet_zoo_*") == sorted(names, key=timm.models._registry._natural_key)
    checkpoints = {checkpoint.name for _, checkpoint in catalogue.checkpoints()}
    assert set(timm.list_models("effnet_zoo_*", pretrained=True)) == checkpoints


def test_no_name_of_timms_is_taken() -> None:
    code = """
import timm
before = set(timm.list_models())
import effnet_zoo
assert before <= set(timm.list_models())
assert not [name for name in before if name.startswith("effnet_zoo")]
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_bare_name_is_the_default_tag(name: str) -> None:
    config = get_pretrained_cfg(name)
    assert config is not None
    assert config.tag == MODELS[name].default.tag
    assert timm.create_model(name, device="meta").pretrained_cfg["tag"] == config.tag


def test_a_tag_sets_the_classes_even_without_weights() -> None:
    assert timm.create_model("effnet_zoo_v2_s.in21k", device="meta").num_classes == 21843
    assert timm.create_model("effnet_zoo_v2_s.in21k", num_classes=4, device="meta").num_classes == 4


def test_pretrained_cfg_says_which_weights_these_are() -> None:
    config = timm.create_model("effnet_zoo_b5.ap_in1k", device="meta").pretrained_cfg
    expected = {
        "hf_hub_id": "timm/tf_efficientnet_b5.ap_in1k",
        "hf_hub_filename": "model.safetensors",
        "architecture": "effnet_zoo_b5",
        "tag": "ap_in1k",
        "input_size": (3, 456, 456),
        "crop_pct": 0.934,
        "mean": (0.5, 0.5, 0.5),
        "license": "apache-2.0",
        "description": "ImageNet-1k; AdvProp, arXiv:1911.09665",
    }
    assert {key: config[key] for key in expected} == expected


def test_features_keep_the_config_and_take_the_options() -> None:
    options = {"features_only": True, "out_indices": (-2, -1), "in_chans": 2, "device": "meta"}
    features = timm.create_model("effnet_zoo_v2_b1", **options)
    assert isinstance(features, EfficientNetFeatures)
    assert features.pretrained_cfg["tag"] == "in1k"
    assert features.feature_info.reduction() == [16, 32]
    assert features.conv_stem.in_channels == 2


@pytest.mark.parametrize("config", ["ap_in1k", "config", "dict"])
def test_a_pretrained_cfg_may_be_a_tag_a_config_or_a_dict(config: str) -> None:
    known: PretrainedCfg = timm_config(MODELS["effnet_zoo_b0"].checkpoints["ap_in1k"])
    given: Any = {"ap_in1k": "ap_in1k", "config": known, "dict": known.to_dict()}[config]
    model = timm.create_model("effnet_zoo_b0", pretrained_cfg=given, device="meta")
    assert (model.pretrained_cfg["tag"], model.pretrained_cfg["mean"]) == ("ap_in1k", (0.5, 0.5, 0.5))


def test_arguments_of_none_are_defaults_as_in_timm() -> None:
    model = timm.create_model("effnet_zoo_b0", num_classes=None, drop_rate=None, device="meta")
    assert (model.num_classes, model.drop_rate) == (1000, 0.2)


def test_create_model_takes_every_form_of_a_name() -> None:
    for name in ("effnet_zoo_b1", "efficientnet_b1", "efficientnet-b1", "EfficientNet-B1", "efficientnet_b1.ap_in1k"):
        model = create_model(name, device="meta")
        assert isinstance(model, EfficientNet)
        assert model.pretrained_cfg["architecture"] == "effnet_zoo_b1"


@pytest.mark.parametrize("name", [5, None, b"effnet_zoo_b0", ["effnet_zoo_b0"]])
def test_a_name_is_a_text(name: Any) -> None:
    for call in (
        create_model,
        catalogue.find,
        EfficientNet.from_name,
        EfficientNet.from_pretrained,
        EfficientNet.get_image_size,
    ):
        with pytest.raises(ArgumentError, match="name=.*: expected a model's name"):
            call(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained_cfg": 5}, "pretrained_cfg=5: expected a tag, or a dict"),
        ({"pretrained_cfg": {"input_size": 5}}, "pretrained_cfg: input_size: expected array"),
        ({"pretrained_cfg": {"mean": [0.5, "a", 0.5]}}, r"pretrained_cfg: mean.1.: expected float, found str"),
        ({"pretrained_cfg": {"num_classes": "5"}}, "pretrained_cfg: num_classes: expected int"),
        ({"pretrained_cfg_overlay": {"num_classes": -5}}, "num_classes=-5: expected a whole number"),
        ({"pretrained_cfg_overlay": 5}, "pretrained_cfg_overlay=5: expected a dict"),
        ({"pretrained_cfg_overlay": {"flie": "mine.pth"}}, "unknown field 'flie'. Did you mean 'file'"),
        ({"pretrained_cfg_overlay": {"file": 5}, "pretrained": True}, "file=5: expected a path"),
        ({"pretrained_cfg_overlay": {"state_dict": 5}, "pretrained": True}, "state_dict=5: expected a dict of tensors"),
        ({"cache_dir": 5, "pretrained": True}, "cache_dir=5: expected a path"),
        ({"arch": {}}, "unknown keyword 'arch': effnet_zoo_b0 has its own"),
    ],
)
def test_what_timm_passes_on_is_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        timm.create_model("effnet_zoo_b0", device="meta", **options)


@pytest.mark.parametrize("arch", [5, "x", {}, {"stages": 5}, {"stages": [5]}, {"stages": [{"repeats": []}]}])
def test_a_network_of_ones_own_is_checked(arch: Any) -> None:
    with pytest.raises((SpecError, ArgumentError)) as caught:
        timm.create_model("effnet_zoo_custom", device="meta", arch=arch)
    assert isinstance(caught.value, EffnetZooError)


def test_a_network_of_ones_own_needs_its_declaration() -> None:
    with pytest.raises(ArgumentError, match="effnet_zoo_custom needs arch"):
        timm.create_model("effnet_zoo_custom")


def test_a_field_that_only_a_later_timm_knows_is_kept() -> None:
    record = {"input_size": [3, 224, 224], "num_classes": 7, "of_tomorrow": {"a": 1}}
    model: Any = timm.create_model("effnet_zoo_b0", device="meta", pretrained_cfg=record)
    assert model.pretrained_cfg["of_tomorrow"] == {"a": 1}
    assert model.num_classes == 7
