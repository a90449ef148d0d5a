"""Weights into models: strictly, with nothing random in the place of something saved, and without running anything."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from effnet_zoo import EfficientNet, create_model
from effnet_zoo.checkpoints import statefile
from effnet_zoo.checkpoints.loading import adapt_stem, check_values
from effnet_zoo.errors import ArgumentError, MissingExtraError, UnknownNameError, WeightsError
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.identify import identify
from effnet_zoo.numerics import randomise, relative_error
from effnet_zoo.transfer.opening import open_package

LITE0 = "effnet_zoo_lite0.pypi_in1k"


def images(channels: int) -> Tensor:
    return torch.randn(1, channels, 65, 64, generator=torch.Generator().manual_seed(0))


def assert_same(out: Tensor, reference: Tensor) -> None:
    """But for rounding: kernels add in another order where a file does not align its tensors as memory does."""
    assert relative_error(out, reference) <= 1e-6


@pytest.fixture(scope="module")
def lite0() -> EfficientNet:
    return EfficientNet.from_pretrained(LITE0).eval()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[EfficientNet, Path]:
    """A fine-tuned checkpoint of 10 classes, as its user has it on disk."""
    model = randomise(EfficientNet.from_name("effnet_zoo_b0", num_classes=10), seed=5).eval()
    path = tmp_path / "mine.safetensors"
    save_file(model.state_dict(), path)
    return model, path


def overlay(path: Path) -> dict[str, Any]:
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}


# A saved classifier is never lost without being asked for.


def test_a_local_checkpoint_gives_its_own_logits_whatever_its_number_of_classes(
    saved: tuple[EfficientNet, Path],
) -> None:
    model, path = saved
    for loaded in (
        timm.create_model("effnet_zoo_b0", **overlay(path)),
        timm.create_model("effnet_zoo_b0", num_classes=10, **overlay(path)),
        EfficientNet.from_pretrained("efficientnet-b0", str(path)),
    ):
        assert_same(loaded.eval()(images(3)), model(images(3)))
        assert loaded.pretrained_cfg["num_classes"] == 10
        assert loaded.load_report.matched == len(model.state_dict())
        assert not loaded.load_report.reinitialised
        assert "images as for effnet_zoo_b0.ns_jft_in1k, assumed" in str(loaded.load_report)


def test_the_channels_of_a_local_checkpoint_are_its_own(tmp_path: Path) -> None:
    model = randomise(EfficientNet.from_name("effnet_zoo_b0", in_chans=5, num_classes=2), seed=5).eval()
    save_file(model.state_dict(), tmp_path / "five.safetensors")
    loaded = EfficientNet.from_pretrained("efficientnet-b0", str(tmp_path / "five.safetensors")).eval()
    assert_same(loaded(images(5)), model(images(5)))


def test_a_classifier_of_another_size_is_only_drawn_when_asked_for_and_the_report_says_so(
    saved: tuple[EfficientNet, Path],
) -> None:
    model, path = saved
    asked = timm.create_model("effnet_zoo_b0", num_classes=7, **overlay(path)).eval()
    assert asked.classifier.out_features == 7
    assert asked.load_report.reinitialised == ("classifier.bias", "classifier.weight")
    assert set(asked.load_report.dropped.values()) == {"10 classes, 7 were asked for"}
    assert "2 reinitialised (classifier.bias, ...)" in str(asked.load_report)
    assert asked.classifier.weight.std() > 0
    assert not any(tensor.is_meta for tensor in asked.state_dict().values())
    assert_same(asked.forward_features(images(3)), model.forward_features(images(3)))
    headless = timm.create_model("effnet_zoo_b0", num_classes=0, **overlay(path)).eval()
    assert_same(headless(images(3)), model.forward_head(model.forward_features(images(3)), pre_logits=True))


def test_a_file_without_classifier_never_leaves_a_random_one(saved: tuple[EfficientNet, Path], tmp_path: Path) -> None:
    model, _ = saved
    backbone = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier")}
    save_file(backbone, tmp_path / "backbone.safetensors")
    with pytest.raises(WeightsError, match=r"2 missing .classifier.bias"):
        timm.create_model("effnet_zoo_b0", num_classes=10, **overlay(tmp_path / "backbone.safetensors"))
    headless = timm.create_model("effnet_zoo_b0", **overlay(tmp_path / "backbone.safetensors"))
    assert headless.num_classes == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classifier.weight": torch.zeros(10, 1280, dtype=torch.int8)},
            "classifier.weight is torch.int8: expected fl",
        ),
        ({"blocks.0.0.bn1.weight": None}, "1 missing .blocks.0.0.bn1.weight"),
        ({"extra.weight": torch.zeros(1)}, "1 left over .extra.weight"),
        ({"blocks.0.0.bn1.weight": torch.zeros(3)}, r"1 of another shape .blocks.0.0.bn1.weight .3,. instead of .32,."),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(
    saved: tuple[EfficientNet, Path], tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    state = {**saved[0].state_dict(), **change}
    save_file({k: v for k, v in state.items() if v is not None}, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=message):
        timm.create_model("effnet_zoo_b0", num_classes=10, **overlay(tmp_path / "bad.safetensors"))


def test_features_take_only_what_they_have_and_nothing_foreign(
    saved: tuple[EfficientNet, Path], tmp_path: Path
) -> None:
    model, path = saved
    features = timm.create_model("effnet_zoo_b0", features_only=True, out_indices=(0, 2), **overlay(path)).eval()
    _, maps = model.forward_intermediates(images(3), indices=[0, 2])
    for ours, theirs in zip(features(images(3)), maps, strict=True):
        assert_same(ours, theirs)
    save_file({**model.state_dict(), "neck.weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="1 left over .neck.weight"):
        timm.create_model("effnet_zoo_b0", features_only=True, **overlay(tmp_path / "foreign.safetensors"))


def test_a_state_dict_in_memory(saved: tuple[EfficientNet, Path]) -> None:
    model, _ = saved
    given = {"state_dict": model.state_dict()}
    loaded = timm.create_model("effnet_zoo_b0", num_classes=10, pretrained=True, pretrained_cfg_overlay=given).eval()
    assert torch.equal(loaded(images(3)), model(images(3)))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_saving_over_the_file_that_a_model_was_loaded_from_harms_neither(
    saved: tuple[EfficientNet, Path], tmp_path: Path, suffix: str
) -> None:
    model, _ = saved
    path = tmp_path / f"last.{suffix}"
    save: Any = save_file if suffix == "safetensors" else torch.save
    save(model.state_dict(), path)
    loaded = EfficientNet.from_pretrained("efficientnet-b0", str(path)).eval()
    with torch.no_grad():
        loaded.conv_stem.weight.mul_(2)
    changed = {"a_new_first_key": torch.ones(1001), **loaded.state_dict()}  # which moves all the others
    save(changed, path)
    with torch.no_grad():
        model.conv_stem.weight.mul_(2)
    assert_same(loaded(images(3)), model(images(3)))
    stored = statefile.read_weights(path).state
    assert all(torch.equal(stored[key], tensor) for key, tensor in model.state_dict().items())


# Another number of channels.


def test_one_channel_equals_the_grey_image_through_the_rgb_model(lite0: EfficientNet) -> None:
    grey = timm.create_model(LITE0, pretrained=True, in_chans=1).eval()
    assert relative_error(grey(images(1)), lite0(images(1).expand(-1, 3, -1, -1))) <= 1e-5


@pytest.mark.parametrize("channels", [2, 4, 5, 6, 13])
def test_any_number_of_channels_is_adapted_the_same_way_each_time(lite0: EfficientNet, channels: int) -> None:
    first, second = (EfficientNet.from_pretrained(LITE0, in_chans=channels).eval() for _ in range(2))
    assert torch.equal(first.conv_stem.weight, second.conv_stem.weight)
    for index in range(channels):
        expected = lite0.conv_stem.weight[:, index % 3] * 3 / channels
        assert torch.allclose(first.conv_stem.weight[:, index], expected)
    assert torch.equal(first.get_parameter("classifier.weight"), lite0.get_parameter("classifier.weight"))


def test_only_three_channels_are_adapted_from() -> None:
    with pytest.raises(WeightsError, match="has 4 channels: expected 2, or 3 to adapt from"):
        adapt_stem(torch.zeros(8, 4, 3, 3), 2)


# Where weights come from.


def test_the_shipped_checkpoint_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_zoo.atomic_io.sha256", lambda path: "0" * 64)
    with pytest.raises(WeightsError, match="expected sha256 579344248a93.*, got 000"):
        EfficientNet.from_pretrained(LITE0)


def test_a_missing_distribution_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise __import__("importlib.metadata").metadata.PackageNotFoundError(name)

    monkeypatch.setattr("effnet_zoo.checkpoints.locate.metadata.distribution", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'effnet-zoo\[demo\]'"):
        EfficientNet.from_pretrained(LITE0)


def test_no_weights_is_an_error_never_random() -> None:
    nowhere = {"hf_hub_id": None, "hf_hub_filename": None, "url": None}
    with pytest.raises(WeightsError, match="no weights for effnet_zoo_b0"):
        timm.create_model("effnet_zoo_b0", pretrained=True, pretrained_cfg_overlay=nowhere)
    with pytest.raises(UnknownNameError, match="unknown tag 'in22k' of effnet_zoo_v2_s.*Did you mean 'in21k'"):
        timm.create_model("effnet_zoo_v2_s.in22k", pretrained=True)


def test_from_pretrained_takes_one_choice_of_weights() -> None:
    with pytest.raises(ArgumentError, match="advprop and tag: expected at most one"):
        EfficientNet.from_pretrained("efficientnet-b0", advprop=True, tag="in1k")
    with pytest.raises(ArgumentError, match="weights_path and a tag in the name"):
        EfficientNet.from_pretrained("efficientnet_b0.in1k", "file.safetensors")
    with pytest.raises(ArgumentError, match="unknown keyword 'features_only'"):
        EfficientNet.from_name("efficientnet_b0", features_only=True)  # type: ignore[call-arg]


# Files.


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, protocol: str) -> None:
    trap, path = tmp_path / "ran", tmp_path / "weights.pth"
    content = {"conv_stem.weight": torch.zeros(1), "x": Malicious(trap)}
    if protocol == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"weights.pth is neither a whole safetensors file nor one of plain tensors"):
        EfficientNet.from_pretrained("efficientnet-b0", str(path))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.safetensors", b"\x08\x00\x00\x00", "neither a whole safetensors file"),
        ("bomb.safetensors", (2**62).to_bytes(8, "little") + b"{}", "not a whole safetensors file"),
        ("text.safetensors", b"hello" * 100, "neither a whole safetensors file"),
        ("text.pth", b"hello" * 100, "neither a whole safetensors file"),
        ("empty.pth", b"", "neither a whole safetensors file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} is {message}"):
        statefile.read_weights(tmp_path / name)


def test_a_truncated_real_file_is_refused(saved: tuple[EfficientNet, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved[1].read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"cut.safetensors is not a whole safetensors file"):
        timm.create_model("effnet_zoo_b0", num_classes=10, **overlay(cut))


def test_missing_files_and_wrapped_pickles_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nosuch.safetensors: there is no such file or folder"):
        EfficientNet.from_pretrained("efficientnet-b0", str(tmp_path / "nosuch.safetensors"))
    torch.save({"epoch": 3}, tmp_path / "wrapped.pth")
    with pytest.raises(WeightsError, match="expected a flat dict of tensors"):
        EfficientNet.from_pretrained("efficientnet-b0", str(tmp_path / "wrapped.pth"))


# Key tables.


def test_unknown_layouts_are_refused() -> None:
    with pytest.raises(WeightsError, match="of no known layout: expected those of effnet_zoo, efficientnet_py"):
        identify({"encoder.weight": torch.zeros(1)}, "a file")
    arch = EfficientNet.from_name("effnet_zoo_b0", device="meta").arch
    both = {"_conv_stem.weight": torch.zeros(1), "conv_stem.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match="'conv_stem.weight' is there twice"):
        LAYOUTS["efficientnet_pytorch"].table.to_ours(both, arch)
    with pytest.raises(WeightsError, match="key 'neck.weight' is not one of the effnet_zoo layout"):
        LAYOUTS["efficientnet_pytorch"].table.to_theirs({"neck.weight": torch.zeros(1)}, arch)


def test_a_layout_that_cannot_express_a_network_says_so() -> None:
    arch = EfficientNet.from_name("efficientnetv2_s", device="meta").arch
    with pytest.raises(WeightsError, match="efficientnet_pytorch has no conv block"):
        LAYOUTS["efficientnet_pytorch"].table.modules(arch)


def _counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key.endswith(".num_batches_tracked")}


@pytest.mark.parametrize(
    ("layout", "name"), [(layout.name, name) for layout in LAYOUTS.values() for name in layout.archs]
)
def test_key_tables_are_one_to_one_and_go_both_ways(layout: str, name: str) -> None:
    arch, table = LAYOUTS[layout].archs[name], LAYOUTS[layout].table
    state = EfficientNet(arch, device="meta").state_dict()
    theirs = table.to_theirs(state, arch)
    counters = {} if "num_batches_tracked" in table.forms["norm"] else _counters(state)
    assert len(theirs) == len(state) - len(counters)
    back = table.to_ours(theirs, arch)
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in state.items()}


def test_models_load_into_timm_and_back(saved: tuple[EfficientNet, Path]) -> None:
    model, _ = saved
    theirs: nn.Module = timm.create_model("tf_efficientnet_b0", num_classes=10)
    theirs.load_state_dict(model.state_dict())
    back = create_model("effnet_zoo_b0", num_classes=10).eval()
    back.load_state_dict(theirs.state_dict())
    assert torch.equal(back(images(3)), model(images(3)))


# Files of other people.


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_from_before_batch_norm_counted_load(
    saved: tuple[EfficientNet, Path], tmp_path: Path, suffix: str
) -> None:
    model, _ = saved
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    path = tmp_path / f"old.{suffix}"
    save: Any = save_file if suffix == "safetensors" else torch.save
    save(state, path)
    for loaded in (
        EfficientNet.from_pretrained("efficientnet-b0", str(path)).eval(),
        timm.create_model("effnet_zoo_b0", num_classes=10, **overlay(path)).eval(),
    ):
        assert_same(loaded(images(3)), model(images(3)))
        assert {tensor.item() for key, tensor in loaded.state_dict().items() if key.endswith("tracked")} == {0}


HEADS: dict[str, dict[str, tuple[int, ...]]] = {
    "after a dropout": {"classifier.1.weight": (6, 1280), "classifier.1.bias": (6,)},
    "no bias": {"classifier.weight": (6, 1280)},
    "an MLP": {"classifier.0.weight": (64, 1280), "classifier.0.bias": (64,), "classifier.2.weight": (6, 64)},
    "a head": {"head.weight": (6, 1280), "head.bias": (6,)},
    "fc": {"fc.weight": (6, 1280), "fc.bias": (6,)},
    "beside a classifier": {"classifier.weight": (6, 1280), "classifier.bias": (6,), "aux.weight": (3, 1280)},
}


def with_head(model: EfficientNet, head: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    backbone = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("classifier.")}
    return {**backbone, **{key: torch.randn(shape) for key, shape in head.items()}}


@pytest.mark.parametrize(
    ("head", "layout"),
    [*((head, "effnet_zoo") for head in HEADS.values()), (HEADS["after a dropout"], "efficientnet_pytorch")],
    ids=[*HEADS, "another layout"],
)
def test_the_backbone_under_a_head_of_another_kind_is_taken_only_when_asked_for(
    saved: tuple[EfficientNet, Path], tmp_path: Path, head: dict[str, tuple[int, ...]], layout: str
) -> None:
    model, _ = saved
    state = with_head(model, {})
    theirs = LAYOUTS[layout].table.to_theirs(state, model.arch)
    head = {key.replace("classifier.", "_fc.") if layout != "effnet_zoo" else key: size for key, size in head.items()}
    path = tmp_path / "tuned.safetensors"
    save_file(theirs | {key: torch.randn(shape) for key, shape in head.items()}, path)
    with pytest.raises(WeightsError, match="Its backbone is whole: num_classes=0 takes it without the head") as refused:
        EfficientNet.from_pretrained("efficientnet-b0", str(path))
    assert "tuned.safetensors does not fit the model" in str(refused.value)
    features = model.forward_head(model.forward_features(images(3)), pre_logits=True)
    for num_classes in (0, 4):
        loaded = EfficientNet.from_pretrained("efficientnet-b0", str(path), num_classes=num_classes).eval()
        assert_same(loaded.forward_head(loaded.forward_features(images(3)), pre_logits=True), features)
        assert loaded.load_report.dropped.keys() == head.keys()
        drawn = ("classifier.bias", "classifier.weight") if num_classes else ()
        assert loaded.load_report.reinitialised == drawn
    if "aux.weight" not in head:  # a classifier of six classes is what was asked for
        with pytest.raises(WeightsError, match="has a head of its own for perhaps 6 classes"):
            EfficientNet.from_pretrained("efficientnet-b0", str(path), num_classes=6)


def test_more_blocks_than_the_network_has_are_no_head(saved: tuple[EfficientNet, Path], tmp_path: Path) -> None:
    save_file({**saved[0].state_dict(), "blocks.7.0.bn1.weight": torch.ones(3)}, tmp_path / "more.safetensors")
    with pytest.raises(WeightsError, match=r"1 left over \(blocks.7.0.bn1.weight"):
        EfficientNet.from_pretrained("efficientnet-b0", str(tmp_path / "more.safetensors"), num_classes=0)


BROKEN: dict[str, tuple[str, float, str]] = {
    "NaN": ("blocks.1.0.conv_pw.weight", float("nan"), "has 1 values that are NaN or infinite"),
    "infinity": ("classifier.bias", float("inf"), "has 1 values that are NaN or infinite, of 10"),
    "minus infinity": ("bn2.running_mean", -float("inf"), "has 1 values that are NaN or infinite"),
    "a negative variance": ("blocks.2.1.bn3.running_var", -0.5, "has a variance of -0.5: expected none below 0"),
}


@pytest.mark.parametrize(("key", "value", "message"), BROKEN.values(), ids=BROKEN)
def test_values_that_no_network_computes_with_are_refused_by_the_tensors_name(
    saved: tuple[EfficientNet, Path], tmp_path: Path, key: str, value: float, message: str
) -> None:
    state = saved[0].state_dict()
    state[key].view(-1)[-1] = value
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        with pytest.raises(WeightsError, match=f"a file: {key} {message}"):
            check_values({key: state[key].to(dtype)}, "a file")
    save_file(state, tmp_path / "broken.safetensors")
    for read in (partial(EfficientNet.from_pretrained, "efficientnet-b0"), open_package):
        with pytest.raises(WeightsError, match=f"broken.safetensors: {key} {message}"):
            read(str(tmp_path / "broken.safetensors"))


def test_large_values_whose_sum_overflows_are_values() -> None:
    check_values({"a.weight": torch.full((4,), 3e38), "b.weight": torch.full((4,), 6e4, dtype=torch.float16)}, "a file")
