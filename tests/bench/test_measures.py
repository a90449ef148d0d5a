"""What each measure compares, and the figures it gives."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from effnet_zoo.bench import forward, machine, photos, report, training
from effnet_zoo.bench.forward import Logits, forward_contestants, prepare_forward, time_forward
from effnet_zoo.bench.networks import Task, library_network, plain_network
from effnet_zoo.bench.referee import Contestants, Pace, clocked
from effnet_zoo.bench.report import full_table
from effnet_zoo.bench.results import Data
from effnet_zoo.bench.training import Training, saved_bytes
from effnet_zoo.errors import InputError, MissingExtraError, UnknownNameError
from effnet_zoo.images.photos import CHECKPOINT, find_photos, write_jpegs
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import shallow
from effnet_zoo.zoo import catalogue
from tests.bench.fakes import measurement
from tools import speed


@pytest.fixture(scope="module")
def task() -> Task:
    """A shallow B0 with small images."""
    model = catalogue.find_variant("effnet_zoo_b0")
    return Task(model=dataclasses.replace(model, spec=shallow(model.spec)), size=48, batch=3)


def right(logits: Tensor) -> Tensor:
    return logits


def wrong(logits: Tensor) -> Tensor:
    return -logits


def fakes(task: Task, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Contestants:
    """Contestants that change the right logits, by name."""

    def build(change: Callable[[Tensor], Tensor], task: Task) -> Logits:
        model = plain_network(task.model.spec, task.state).eval()
        return lambda images: change(model(images))

    return {
        name: functools.partial(prepare_forward, task, functools.partial(build, change), f"note of {name}")
        for name, change in changes.items()
    }


def compared(task: Task, everyone: Contestants) -> Data:
    return forward.compare_forward(task, everyone, rounds=0, sample=clocked)


def test_only_who_computes_the_same_logits_is_timed(task: Task) -> None:
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "timm same": right,
        "timm other": lambda logits: logits * 1.01,
        "timm short": lambda logits: logits[:, :10],
        "timm broken": lambda logits: logits * float("nan"),
    }
    everyone = fakes(task, changes)
    found = compared(task, everyone)
    assert set(found["results"]) == {"timm same"}
    assert found["results"]["timm same"]["error"] < 1e-5
    assert found["notes"] == {"timm same": "note of timm same"}
    assert set(found["refused"]) == {"timm other", "timm short", "timm broken"}
    assert found["refused"]["timm other"] == "logits off by a relative 1.0e-02, more than 1e-03: not timed"
    half = dataclasses.replace(task, dtype="bfloat16")
    assert set(compared(half, everyone)["results"]) == {"timm same", "timm other"}  # bfloat16 may be off by more


def test_every_library_here_computes_the_same() -> None:
    model = catalogue.find_variant("effnet_zoo_b0")
    task = Task(model=model, size=64, batch=2)
    everyone = forward_contestants(task)
    found = compared(task, everyone)
    assert found["refused"] == {}
    assert set(found["results"]) | set(found["absent"]) == set(everyone)
    assert {"effnet_zoo", "effnet_zoo optimized", "timm", "timm channels_last", "torchvision"} <= set(found["results"])


def test_a_library_without_the_variant_is_absent() -> None:
    model = catalogue.find_variant("effnet_zoo_lite0")
    task = Task(model=model, size=64, batch=2)
    torchvision = {"torchvision": forward_contestants(task)["torchvision"]}
    assert compared(task, torchvision)["absent"] == {"torchvision": "torchvision has no efficientnet_lite0"}
    with pytest.raises(UnknownNameError, match="torchvision has no efficientnet_lite0"):
        library_network("torchvision", task)


def test_a_forward_is_a_share_of_the_ceiling(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "ceiling", lambda device: {"float32": 2e9, "copy": 1e9})
    changes = {"timm": right, "timm peer": right, "effnet_zoo": right, "timm wrong": wrong}
    found = time_forward(task, fakes(task, changes), rounds=2)
    assert set(found["results"]) == {"timm", "timm peer", "effnet_zoo"}
    for result in found["results"].values():
        assert 2 <= result["calls"] <= 6  # one a turn at least
        assert result["images_per_second"] == pytest.approx(3 / result["seconds"])
        macs = task.model.spec.macs(size=48)
        assert result["of_ceiling"] == pytest.approx(2 * macs * 3 / result["seconds"] / 2e9)
    assert found["ratios"]["timm"]["timm"] == 1
    assert "timm wrong" in found["refused"]


def test_the_ceiling_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHAPES", ((64, 32, 64),))
    monkeypatch.setattr(machine, "COPIED", 1 << 12)
    machine.ceiling.cache_clear()
    found = machine.measure_ceiling("cpu")["results"]
    machine.ceiling.cache_clear()
    assert {name: list(result) for name, result in found.items()} == {
        "float32": ["operations_per_second"],
        "bfloat16": ["operations_per_second"],
        "copy": ["bytes_per_second"],
    }
    assert all(value > 0 for result in found.values() for value in result.values())


def test_a_profile_sorts_operations_by_kind(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {name: forward.kind_of(f"aten::{name}") for name in ("mkldnn_convolution", "silu_", "mul", "empty")}
    assert kinds == {
        "mkldnn_convolution": "convolution",
        "silu_": "activation",
        "mul": "gate and skip",
        "empty": "others",
    }
    monkeypatch.setattr(forward, "PASSES", 1)
    found = forward.profile_forward(task, fakes(task, {"timm": right, "timm wrong": wrong}))
    assert set(found["results"]) == {"timm"}
    assert set(found["refused"]) == {"timm wrong"}
    spent = found["results"]["timm"]["kinds"]
    assert list(spent) == list(forward.KINDS)
    assert spent["convolution"] > 0 < spent["batch norm"]
    table = full_table(measurement("profile", found))
    assert table.headings == ("contestant", *forward.KINDS, "all", "notes")
    assert [row[0] for row in table.rows] == ["timm"]
    in_readme = speed.profile_table([speed.Row(measurement("profile", found), "timm")])
    assert in_readme.headings == ("ms a batch", "B0, 48 px, batch 3: timm")
    assert [row[0] for row in in_readme.rows] == [*forward.KINDS, "all"]


def test_saved_bytes_are_exact() -> None:
    layer = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    images = torch.randn(2, 3)
    assert saved_bytes(layer, lambda: layer(images)) == 4 * (2 * 3 + 2 * 5)  # the input, and what ReLU gave
    whole = torch.randn(100, requires_grad=True)
    assert saved_bytes(layer, lambda: (whole * whole).sum()) == 4 * 100  # once, though saved twice
    assert saved_bytes(layer, lambda: (whole[:2] * whole[2:4]).sum()) == 4 * 100  # views keep all of it
    norm = nn.BatchNorm1d(3)
    assert saved_bytes(norm, lambda: norm(images)) == 4 * (2 * 3 + 2 * 3)  # the input, and both statistics


def test_only_who_has_the_same_gradient_is_trained(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(library: str, task: Task) -> EfficientNet:
        if library == "absent":
            raise ModuleNotFoundError("No module named 'absent'")
        arch = dataclasses.replace(task.model.spec, drop_rate=0.0, drop_path_rate=0.0)
        model = EfficientNet(dataclasses.replace(arch, bn_eps=0.1) if library == "off" else arch)
        model.load_state_dict(task.state)
        return model

    monkeypatch.setattr(training, "library_network", build)
    monkeypatch.setattr(training, "arch_of", lambda library, model: model.spec)
    trainings = {
        "timm": Training(),
        "effnet_zoo": Training(),
        "effnet_zoo checkpointed": Training(checkpointed=True),
        "timm channels_last": Training(channels_last=True),
        "off": Training(),
        "absent": Training(),
    }
    monkeypatch.setattr(training, "TRAININGS", trainings)
    found = training.time_training(dataclasses.replace(task, batch=2), rounds=1)
    assert set(found["results"]) == {"timm", "effnet_zoo", "effnet_zoo checkpointed", "timm channels_last"}
    saved = {name: result["saved_bytes"] for name, result in found["results"].items()}
    assert saved["effnet_zoo checkpointed"] < saved["effnet_zoo"] == saved["timm"]
    assert found["refused"]["off"].startswith("gradient off by a relative ")
    assert found["absent"] == {"absent": "No module named 'absent'"}
    assert set(found["ratios"]) == {"timm", f"best peer ({report.best_peer(measurement('training', found))})"}


def test_jpegs_are_distinct_and_as_large_as_asked(tmp_path: Path) -> None:
    paths = write_jpegs(tmp_path / "set", width=80, height=60, count=8)
    assert [path.name for path in paths] == sorted(path.name for path in (tmp_path / "set" / "photos").iterdir())
    assert len({path.read_bytes() for path in paths}) == 8
    for path in paths:
        with Image.open(path) as image:
            assert (image.size, image.format, image.mode) == ((80, 60), "JPEG", "RGB")


def test_photos_need_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"chelsea.png", "coffee.png", "grace_hopper.jpg"} <= set(find_photos())
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'effnet-zoo\[bench\]'"):
        find_photos()


def test_who_labels_a_file_otherwise_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "FILES_PACE", Pace(rest=0.0, warm=False, calls=1))
    monkeypatch.setitem(photos.SETS, "web", (500, 375, 2))
    calls: list[str] = []

    def passes(name: str, labels: Sequence[int]) -> Callable[[], Callable[[], list[int]]]:
        def run() -> list[int]:
            calls.append(name)
            return list(labels)

        return lambda: run

    def absent() -> Callable[[], list[int]]:
        raise MissingExtraError("not installed")

    builders = {
        "timm": passes("timm", [1, 2]),
        "effnet_zoo": passes("effnet_zoo", [1, 2]),
        "effnet_zoo engine x": passes("x", [1, 3]),
        "effnet_zoo engine y": absent,
    }
    monkeypatch.setattr(photos, "pass_builders", lambda folder, paths, workers: builders)
    found = photos.time_files("web", rounds=3, workers=1)
    assert found["case"]["files"] == 2
    assert set(found["results"]) == {"timm", "effnet_zoo"}
    assert found["refused"] == {
        "effnet_zoo engine x": "another label than the first contestant's for 1 of 2 files: not timed"
    }
    assert found["absent"] == {"effnet_zoo engine y": "not installed"}
    assert (calls.count("timm"), calls.count("effnet_zoo"), calls.count("x")) == (4, 4, 1)


def test_timm_and_this_package_label_real_files_alike(tmp_path: Path) -> None:
    paths = write_jpegs(tmp_path, width=300, height=240, count=6)
    builders = photos.pass_builders(tmp_path, paths, 1)
    assert next(iter(builders)) == "timm"
    assert "effnet_zoo engine openvino" in builders
    labels = builders["timm"]()()
    assert len(labels) == 6
    assert builders["timm channels_last"]()() == builders["effnet_zoo"]()() == labels
    with pytest.raises(InputError, match="nosuch.jpg"):
        photos.pass_builders(tmp_path, [tmp_path / "nosuch.jpg"], 1)["effnet_zoo"]()()


def test_deployment_compares_files_on_photos_that_none_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "CALIBRATION", 4)
    monkeypatch.setattr(photos, "COMPARISON", 8)
    given: list[int] = []

    class Runtime:
        """It opens files that hold a factor."""

        def load(self, path: Path, device: torch.device, threads: int) -> Logits:
            change = float((path / "factor").read_text())
            model = EfficientNet.from_pretrained(CHECKPOINT).eval()
            return lambda images: model(images) * change

    def writer(change: float, size: int) -> photos.Write:
        def write(model: EfficientNet, folder: Path, calibration: Path) -> tuple[Path, int]:
            given.append(len(list(calibration.iterdir())))
            (folder / "factor").write_text(str(change))
            return folder, size

        return write

    def failing(error: Exception) -> photos.Write:
        def write(model: EfficientNet, folder: Path, calibration: Path) -> tuple[Path, int]:
            raise error

        return write

    monkeypatch.setattr(
        photos, "RUNTIMES", {"two": {"torch": Runtime(), "again": Runtime()}, "one": {"torch": Runtime()}}
    )
    found = photos.time_deployed(
        {
            "a, float32": ("two", writer(1, 10)),
            "b, int8": ("two", writer(-1, 3)),
            "openvino": ("one", failing(MissingExtraError("pip install 'effnet-zoo[openvino]'"))),
            "float8": ("one", failing(InputError("no such dtype"))),
        },
        rounds=1,
    )
    assert given == [4, 4]  # each is written once, for both of its runtimes
    same, off = found["results"]["a, float32 in torch"], found["results"]["b, int8 in torch"]
    assert (same["same_label"], same["photos"], same["error"], same["file_bytes"]) == (8, 8, 0.0, 10)
    assert (off["same_label"], off["error"]) == (0, pytest.approx(2.0))
    ((rival, ratios),) = found["ratios"].items()
    assert ratios[rival.removeprefix("fastest float32 (").removesuffix(")")] == 1.0
    assert found["absent"] == {"openvino in torch": "pip install 'effnet-zoo[openvino]'"}
    assert found["refused"] == {"float8 in torch": "no such dtype"}


def test_deployment_has_every_format_and_recipe() -> None:
    names = set(photos.file_writers(compiled=False))
    assert names == {
        *(
            f"{name}, {dtype}"
            for name in ("onnx", "openvino", "torch", "torchscript")
            for dtype in ("float32", "float16")
        ),
        "litert, float32",
        *(f"int8, {recipe}" for recipe in ("int8", "front-4", "front-8", "front-8-head")),
    }
    assert set(photos.file_writers(compiled=True)) - names == {"aotinductor, float32", "aotinductor, float16"}


def test_agreement_counts_photos_and_names_those_that_differ() -> None:
    def build(change: Callable[[Tensor], Tensor]) -> Callable[[EfficientNet, str], Callable[[Tensor], Tensor]]:
        return lambda model, dtype: lambda images: change(model(images))

    def spoil_first(logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[0] = -logits[0]
        return logits

    def absent(model: EfficientNet, dtype: str) -> Callable[[Tensor], Tensor]:
        raise MissingExtraError("pip install 'effnet-zoo[openvino]'")

    def refused(model: EfficientNet, dtype: str) -> Callable[[Tensor], Tensor]:
        raise InputError("no such dtype")

    found = photos.count_agreement(
        {
            ("same", "float32"): build(right),
            ("off", "bfloat16"): build(spoil_first),
            ("openvino", "float32"): absent,
            ("openvino", "float16"): refused,
        }
    )
    names = found["case"]["photos"]
    assert names == list(find_photos())
    same, off = found["results"]["same, float32"], found["results"]["off, bfloat16"]
    assert (same["same_label"], same["photos"], same["others"], same["error"]) == (len(names), len(names), {}, 0.0)
    assert (off["same_label"], list(off["others"])) == (len(names) - 1, names[:1])
    first, second = off["others"][names[0]]
    assert 1 > first >= second > 0
    assert off["error"] > 0.1
    assert found["absent"] == {"openvino, float32": "pip install 'effnet-zoo[openvino]'"}
    assert found["refused"] == {"openvino, float16": "no such dtype"}
    assert f"not {names[0]} ({first:.1%} to {second:.1%})" in str(full_table(measurement("agreement", found)).rows)
