"""Names: every form people write finds its model, and what finds none says what was meant."""

import pytest

from effnet_zoo.errors import EffnetZooError, UnknownNameError
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model, find, find_tag, find_variant

MODELS = catalogue.models()


@pytest.mark.parametrize("model", list(MODELS.values()), ids=list(MODELS))
def test_every_form_of_a_name_finds_its_model(model: Model) -> None:
    forms = {
        model.name,
        model.hub_name,
        model.hub_name.replace("_", "-"),  # efficientnet_pytorch: efficientnet-b0
        model.name.replace("_", "-"),
        model.hub_name.upper(),
        model.hub_name.title(),
    }
    assert len(forms) == 6
    for form in forms:
        assert find_variant(form) == model
        assert find(form) == (model, model.default)


@pytest.mark.parametrize("model", list(MODELS.values()), ids=list(MODELS))
def test_every_tag_finds_its_checkpoint(model: Model) -> None:
    for tag, checkpoint in model.checkpoints.items():
        assert (checkpoint.variant, checkpoint.tag) == (model.name, tag)
        assert find_tag(model, tag) == checkpoint
        for bare in (model.name, model.hub_name, model.hub_name.replace("_", "-")):
            assert find(f"{bare}.{tag}") == (model, checkpoint)
        assert find(checkpoint.name) == (model, checkpoint)


@pytest.mark.parametrize(
    ("name", "variant", "tag"),
    [
        ("effnet_zoo_b5", "effnet_zoo_b5", "ns_jft_in1k"),
        ("efficientnet_b5", "effnet_zoo_b5", "ns_jft_in1k"),
        ("efficientnet-b5", "effnet_zoo_b5", "ns_jft_in1k"),
        ("EfficientNet-B5", "effnet_zoo_b5", "ns_jft_in1k"),
        ("efficientnet-b5.ap_in1k", "effnet_zoo_b5", "ap_in1k"),
        ("efficientnet_l2", "effnet_zoo_l2", "ns_jft_in1k_475"),
        ("efficientnet-lite0", "effnet_zoo_lite0", "in1k"),
        ("effnet_zoo_lite0.pypi_in1k", "effnet_zoo_lite0", "pypi_in1k"),
        ("efficientnet_es", "effnet_zoo_es", "in1k"),
        ("efficientnetv2_s", "effnet_zoo_v2_s", "in21k_ft_in1k"),
        ("efficientnetv2-b3", "effnet_zoo_v2_b3", "in21k_ft_in1k"),
        ("efficientnetv2_b0", "effnet_zoo_v2_b0", "in1k"),
    ],
)
def test_a_name_finds_this_checkpoint(name: str, variant: str, tag: str) -> None:
    model, checkpoint = find(name)
    assert (model.name, checkpoint.tag) == (variant, tag)


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("efficientnet_b9", "'efficientnet_b8'"),
        ("effnet_zoo_v2_xxl", "'effnet_zoo_v2_xl'"),
        ("eficientnet-b0", "'efficientnet_b0'"),
        ("EffNet-Zoo-B00", "'effnet_zoo_b0'"),
        ("tf_efficientnet_b0", "'efficientnet_b0'"),
        ("efficientnet_v2_s", "'efficientnetv2_s'"),  # torchvision's spelling
    ],
)
def test_an_unknown_name_is_refused_with_near_ones(name: str, suggested: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_variant(name)
    said, _, suggestions = str(caught.value).partition(" Did you mean ")
    assert said == f"unknown model {name!r}: expected one of the names that `effnet-zoo list` shows."
    assert suggested in suggestions
    with pytest.raises(UnknownNameError, match=f"unknown model {name!r}"):
        find(f"{name}.in1k")


@pytest.mark.parametrize("name", ["", "resnet50", ".in1k", "b0", "effnet_zoo_", " efficientnet_b0 "])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="expected one of the names that `effnet-zoo list` shows"):
        find(name)


def test_a_name_unlike_any_other_gets_no_suggestion() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find("resnet50")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tag", "suggested"),
    [
        ("effnet_zoo_b0.in21k", "in21k", "Did you mean 'in1k'"),
        ("effnet_zoo_b0.ns_jft", "ns_jft", "Did you mean 'ns_jft_in1k'"),
        ("efficientnet-b0.IN1K", "IN1K", "expected one of ns_jft_in1k, ap_in1k, aa_in1k, in1k."),
        ("effnet_zoo_b0.in1k.", "in1k.", "Did you mean 'in1k'"),
        ("effnet_zoo_b0.in1k.x", "in1k.x", "Did you mean 'in1k'"),
    ],
)
def test_an_unknown_tag_is_refused_with_those_there_are(name: str, tag: str, suggested: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find(name)
    said = f"unknown tag {tag!r} of effnet_zoo_b0: expected one of ns_jft_in1k, ap_in1k, aa_in1k, in1k."
    assert str(caught.value).startswith(said)
    assert suggested in str(caught.value)


def test_an_unknown_name_is_the_package_s_and_a_lookup_error() -> None:
    # timm and torch.hub raise one or the other for a wrong name.
    assert issubclass(UnknownNameError, EffnetZooError)
    assert issubclass(UnknownNameError, LookupError)
    assert issubclass(UnknownNameError, ValueError)


ALL = [checkpoint.name for model in MODELS.values() for checkpoint in model.checkpoints.values()]


def names(pattern: str) -> list[str]:
    return [checkpoint.name for _, checkpoint in catalogue.checkpoints(pattern)]


def test_without_a_pattern_there_is_everything_in_the_order_of_the_tables() -> None:
    assert [checkpoint.name for _, checkpoint in catalogue.checkpoints()] == names("*") == names("") == ALL
    assert ALL[0] == "effnet_zoo_b0.ns_jft_in1k"
    assert ALL[-1] == "effnet_zoo_v2_b3.in21k"
    assert len(ALL) == len(set(ALL))


def test_each_checkpoint_comes_with_its_model() -> None:
    for model, checkpoint in catalogue.checkpoints():
        assert model == MODELS[checkpoint.variant]
        assert model.checkpoints[checkpoint.tag] == checkpoint


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("effnet_zoo_b8", ["effnet_zoo_b8.ap_in1k", "effnet_zoo_b8.ra_in1k"]),
        ("efficientnet_b8", ["effnet_zoo_b8.ap_in1k", "effnet_zoo_b8.ra_in1k"]),
        ("b8", ["effnet_zoo_b8.ap_in1k", "effnet_zoo_b8.ra_in1k"]),
        ("*_b8.ra_*", ["effnet_zoo_b8.ra_in1k"]),
        ("effnet_zoo_b8.ra_in1k", ["effnet_zoo_b8.ra_in1k"]),
        ("ra_in1k", [f"effnet_zoo_{name}.ra_in1k" for name in ("b5", "b7", "b8")]),
        ("in21k", [name for name in ALL if "in21k" in name]),
        ("*.in21k", [f"effnet_zoo_v2_{name}.in21k" for name in ("s", "m", "l", "xl", "b3")]),
        ("efficientnet_lite[34]", ["effnet_zoo_lite3.in1k", "effnet_zoo_lite4.in1k"]),
        ("effnet_zoo_e?", ["effnet_zoo_es.in1k", "effnet_zoo_em.in1k", "effnet_zoo_el.in1k"]),
        ("pypi", ["effnet_zoo_lite0.pypi_in1k"]),
        ("efficientnetv2_*", [name for name in ALL if "_v2_" in name]),
        ("resnet", []),
        ("*_b9*", []),
    ],
)
def test_a_pattern_finds_by_glob_or_part_of_any_name(pattern: str, found: list[str]) -> None:
    assert names(pattern) == found


def test_exactly_one_checkpoint_of_each_model_is_the_default() -> None:
    for model in MODELS.values():
        defaults = [checkpoint for checkpoint in model.checkpoints.values() if checkpoint.default]
        assert defaults == [model.default]
