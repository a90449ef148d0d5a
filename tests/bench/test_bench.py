"""The benchmark: who may be timed, in which order, what is kept of it and shown. Never how fast anything is."""

import dataclasses
import itertools
import json
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from effnet_zoo.bench import (
    agreement,
    deployment,
    files,
    forward,
    imports,
    loading,
    machine,
    plan,
    plot,
    processes,
    profile,
    report,
    results,
    starting,
    timing,
)
from effnet_zoo.bench import training as training_bench
from effnet_zoo.bench.contestants import Contestant, Task, contestants, network, prepare, weights
from effnet_zoo.bench.plan import Step
from effnet_zoo.bench.results import Record
from effnet_zoo.bench.timing import Timing, interleaved, ratios
from effnet_zoo.bench.training import Trainer, saved_bytes
from effnet_zoo.errors import ArgumentError, EngineError, InputError, MissingExtraError, UnknownNameError, WeightsError
from effnet_zoo.images.photos import CHECKPOINT, find_photos, write_jpegs
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import randomise, shallow
from effnet_zoo.zoo import catalogue
from tests.shell import Run
from tools import speed

# Taking turns.


class Clock:
    """Time that passes only when somebody sleeps or works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.log: list[str] = []
        fake = types.SimpleNamespace(perf_counter=lambda: self.now, sleep=self.pass_)
        monkeypatch.setattr(timing, "time", fake)

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    def worker(self, name: str, *durations: float) -> Callable[[], None]:
        turns = itertools.cycle(durations)

        def work() -> None:
            self.log.append(name)
            self.pass_(next(turns))

        return work


def test_everyone_has_a_turn_in_every_round_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    names = ["a", "b", "c", "d"]
    timings, failures = interleaved({name: clock.worker(name, 0.01) for name in names}, rounds=6, rest=1.0, timed=3)
    assert failures == {}
    turns = [name for name, calls in itertools.groupby(clock.log) for _ in range(len(list(calls)) // 4)]
    assert len(clock.log) == 6 * 4 * (1 + 3)
    rounds = [tuple(turns[start : start + 4]) for start in range(0, len(turns), 4)]
    assert all(sorted(turn) == names for turn in rounds)
    assert len(set(rounds)) > 1
    assert all(found == Timing(seconds=0.01, p10=0.01, p90=0.01, calls=18) for found in map(rounded, timings.values()))


def rounded(one: Timing) -> Timing:
    return dataclasses.replace(one, seconds=round(one.seconds, 9), p10=round(one.p10, 9), p90=round(one.p90, 9))


def test_the_first_call_of_a_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timings, _ = interleaved({"a": clock.worker("a", 1.0, 0.5, 0.5)}, rounds=2, timed=2)
    assert rounded(timings["a"]) == Timing(seconds=0.5, p10=0.5, p90=0.5, calls=4)
    timings, _ = interleaved({"a": clock.worker("a", 1.0, 0.5)}, rounds=2, timed=2, warm=False)
    assert rounded(timings["a"]) == Timing(seconds=0.75, p10=0.5, p90=1.0, calls=4)


def test_a_turn_that_takes_long_has_one_call_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timings, _ = interleaved({"a": clock.worker("a", 9.0, 8.0)}, rounds=2, timed=3)
    assert rounded(timings["a"]) == Timing(seconds=8.0, p10=8.0, p90=8.0, calls=2)


def test_who_raises_is_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = iter(range(100))

    def fails() -> None:
        if next(calls) == 5:
            raise RuntimeError("out of memory\nand much more")

    timings, failures = interleaved({"a": clock.worker("a", 0.1), "b": fails}, rounds=4, timed=3)
    assert failures == {"b": "out of memory"}
    assert set(timings) == {"a"}
    assert timings["a"].calls == 12
    assert next(calls) == 6


def test_ratios_are_to_timm_and_to_the_best_that_is_not_ours() -> None:
    seconds = {"timm": 4.0, "peer": 2.0, "ours": 1.0}
    timings = {name: Timing(seconds=value, p10=value, p90=value, calls=1) for name, value in seconds.items()}
    assert ratios(timings, ["ours"]) == {
        "timm": {"timm": 1.0, "peer": 2.0, "ours": 4.0},
        "best peer (peer)": {"timm": 0.5, "peer": 1.0, "ours": 2.0},
    }
    del timings["timm"], timings["peer"]
    assert ratios(timings, ["ours"]) == {}


# Who may be timed.


@pytest.fixture(scope="module")
def task() -> Task:
    """A shallow B0 with two small images."""
    model = catalogue.find_variant("effnet_zoo_b0")
    model = dataclasses.replace(model, spec=shallow(model.spec))
    return Task(model=model, state=randomise(EfficientNet(model.spec), seed=0).state_dict(), size=48, batch=3)


def plainly(task: Task) -> EfficientNet:
    model = EfficientNet(task.model.spec)
    model.load_state_dict(task.state)
    return model.eval()


def fake(name: str, change: Callable[[Tensor], Tensor] = lambda logits: logits, library: str = "timm") -> Contestant:
    def build(task: Task) -> Callable[[Tensor], Tensor]:
        model = plainly(task)
        return lambda images: change(model(images))

    return Contestant(name=name, library=library, build=build, note=f"note of {name}")


def unavailable(error: Exception) -> Callable[[Task], Callable[[Tensor], Tensor]]:
    def build(task: Task) -> Callable[[Tensor], Tensor]:
        raise error

    return build


def test_only_who_computes_the_same_is_timed(task: Task) -> None:
    everyone = [
        fake("same"),
        fake("other", lambda logits: logits * 1.01),
        fake("short", lambda logits: logits[:, :10]),
        fake("broken", lambda logits: logits * float("nan")),
        Contestant(name="missing", library="timm", build=unavailable(MissingExtraError("pip install it"))),
        Contestant(name="failing", library="timm", build=unavailable(ValueError(""))),
    ]
    ready = prepare(everyone, task)
    assert set(ready.runs) == {"same"}
    assert ready.errors["same"] < 1e-5
    assert ready.notes == {"same": "note of same"}
    assert ready.absent == {"missing": "pip install it"}
    assert set(ready.refused) == {"other", "short", "broken", "failing"}
    assert ready.refused["other"] == "logits off by a relative 1.0e-02, more than 1e-03: not timed"
    assert ready.refused["failing"] == "ValueError"


def test_bfloat16_may_be_off_by_more(task: Task) -> None:
    ready = prepare([fake("other", lambda logits: logits * 1.01)], dataclasses.replace(task, dtype="bfloat16"))
    assert set(ready.runs) == {"other"}


def test_every_library_here_computes_the_same() -> None:
    model = catalogue.find_variant("effnet_zoo_b0")
    task = Task(model=model, state=weights(model.name), size=64, batch=2)
    everyone = contestants("cpu", "float32")
    ready = prepare(everyone, task)
    assert ready.refused == {}
    assert set(ready.runs) | set(ready.absent) == {one.name for one in everyone}
    assert {"effnet_zoo", "effnet_zoo optimized", "timm", "timm channels_last", "torchvision"} <= set(ready.runs)


def test_a_library_without_the_variant_is_absent() -> None:
    model = catalogue.find_variant("effnet_zoo_lite0")
    task = Task(model=model, state={}, size=64, batch=2)
    torchvision = next(one for one in contestants("cpu", "float32") if one.name == "torchvision")
    assert prepare([torchvision], task).absent == {"torchvision": "torchvision has no efficientnet_lite0"}
    with pytest.raises(UnknownNameError, match="torchvision has no efficientnet_lite0"):
        network("torchvision", task)


def test_a_forward_is_a_share_of_the_ceiling(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "ceiling", lambda device: {"float32": 2e9, "copy": 1e9})
    monkeypatch.setattr(forward, "weights", lambda name: task.state)
    monkeypatch.setattr(catalogue, "find_variant", lambda name: task.model)
    monkeypatch.setattr(timing, "REST", 0.0)
    everyone = [fake("timm"), fake("peer"), fake("effnet_zoo", library="effnet_zoo"), fake("wrong", lambda x: -x)]
    found = forward.measure("effnet_zoo_b0", size=48, batch=3, rounds=2, everyone=everyone)
    assert set(found["results"]) == {"timm", "peer", "effnet_zoo"}
    for result in found["results"].values():
        assert result["calls"] == 6
        assert result["images_per_second"] == pytest.approx(3 / result["seconds"])
        macs = task.model.spec.macs(size=48)
        assert result["of_ceiling"] == pytest.approx(2 * macs * 3 / result["seconds"] / 2e9)
    assert found["ratios"]["timm"]["timm"] == 1
    assert "wrong" in found["refused"]
    only = forward.measure("effnet_zoo_b0", size=48, batch=3, rounds=1, everyone=everyone, only=("timm",))
    assert (set(only["results"]), only["refused"]) == ({"timm"}, {})


def test_the_ceiling_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHAPES", ((64, 32, 64),))
    monkeypatch.setattr(machine, "COPIED", 1 << 12)
    machine.ceiling.cache_clear()
    found = machine.measure("cpu")["results"]
    machine.ceiling.cache_clear()
    assert {name: list(result) for name, result in found.items()} == {
        "float32": ["operations_per_second"],
        "bfloat16": ["operations_per_second"],
        "copy": ["bytes_per_second"],
    }
    assert all(value > 0 for result in found.values() for value in result.values())


def test_a_profile_sorts_operations_by_kind(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {name: profile.kind_of(f"aten::{name}") for name in ("mkldnn_convolution", "silu_", "mul", "empty")}
    assert kinds == {
        "mkldnn_convolution": "convolution",
        "silu_": "activation",
        "mul": "gate and skip",
        "empty": "others",
    }
    monkeypatch.setattr(profile, "weights", lambda name: task.state)
    monkeypatch.setattr(catalogue, "find_variant", lambda name: task.model)
    everyone = [fake("timm"), fake("wrong", lambda logits: -logits)]
    found = profile.measure("effnet_zoo_b0", size=48, batch=2, passes=1, everyone=everyone)
    assert set(found["results"]) == {"timm"}
    assert set(found["refused"]) == {"wrong"}
    spent = found["results"]["timm"]["kinds"]
    assert list(spent) == [*profile.KINDS, "others"]
    assert spent["convolution"] > 0 < spent["batch norm"]
    table = report.table(record("profile", found))
    assert table.headings == ("ms a batch", "B0, 48 px, batch 2: timm")
    assert [row[0] for row in table.rows] == [*profile.KINDS, "others", "all"]


# Training.


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

    monkeypatch.setattr(training_bench, "network", build)
    monkeypatch.setattr(training_bench, "arch_of", lambda library, model: model.spec)
    monkeypatch.setattr(training_bench, "weights", lambda name: task.state)
    monkeypatch.setattr(catalogue, "find_variant", lambda name: task.model)
    everyone = {
        "timm": Trainer(library="timm"),
        "effnet_zoo": Trainer(library="effnet_zoo"),
        "effnet_zoo checkpointed": Trainer(library="effnet_zoo", checkpointed=True),
        "timm channels_last": Trainer(library="timm", channels_last=True),
        "off": Trainer(library="off"),
        "absent": Trainer(library="absent"),
    }
    found = training_bench.measure("effnet_zoo_b0", size=48, batch=2, rounds=1, everyone=everyone)
    assert set(found["results"]) == {"timm", "effnet_zoo", "effnet_zoo checkpointed", "timm channels_last"}
    saved = {name: result["saved_bytes"] for name, result in found["results"].items()}
    assert saved["effnet_zoo checkpointed"] < saved["effnet_zoo"] == saved["timm"]
    assert found["refused"]["off"].startswith("gradient off by a relative ")
    assert found["absent"] == {"absent": "No module named 'absent'"}
    assert set(found["ratios"]) == {"timm", f"best peer ({report.best_peer(record('training', found))})"}


# Files, photos, and whether labels agree.


def test_jpegs_are_distinct_and_as_large_as_asked(tmp_path: Path) -> None:
    from PIL import Image

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
    monkeypatch.setattr(files, "REST", 0.0)
    calls: list[str] = []

    def passes(name: str, labels: Sequence[int]) -> Callable[[], Callable[[], list[int]]]:
        def run() -> list[int]:
            calls.append(name)
            return list(labels)

        return lambda: run

    def absent() -> Callable[[], list[int]]:
        raise MissingExtraError("not installed")

    found = files.measure(
        "web",
        rounds=3,
        workers=1,
        count=2,
        passes={
            "timm": passes("timm", [1, 2]),
            "effnet_zoo": passes("effnet_zoo", [1, 2]),
            "effnet_zoo engine x": passes("x", [1, 3]),
            "effnet_zoo engine y": absent,
        },
    )
    assert found["case"]["files"] == 2
    assert set(found["results"]) == {"timm", "effnet_zoo"}
    assert found["refused"] == {"effnet_zoo engine x": "another label than timm's for 1 of 2 files: not timed"}
    assert found["absent"] == {"effnet_zoo engine y": "not installed"}
    assert (calls.count("timm"), calls.count("effnet_zoo"), calls.count("x")) == (4, 4, 1)


def test_timm_and_this_package_label_real_files_alike(tmp_path: Path) -> None:
    paths = write_jpegs(tmp_path, width=300, height=240, count=6)
    builders = files._passes(tmp_path, paths, 1)
    assert next(iter(builders)) == "timm"
    assert "effnet_zoo engine openvino" in builders
    labels = builders["timm"]()()
    assert len(labels) == 6
    assert builders["timm channels_last"]()() == builders["effnet_zoo"]()() == labels
    with pytest.raises(InputError, match="nosuch.jpg"):
        files.predict_pass(EfficientNet.from_pretrained(CHECKPOINT), [tmp_path / "nosuch.jpg"], 1, run=None)


def test_deployment_compares_files_on_photos_that_none_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "CALIBRATION", 4)
    monkeypatch.setattr(deployment, "COMPARISON", 8)
    given: list[int] = []

    def make(change: float, bytes_: int) -> deployment.Maker:
        def made(model: EfficientNet, folder: Path, calibration: Path) -> deployment.Deployed:
            given.append(len(list(calibration.iterdir())))
            return deployment.Deployed(bytes=bytes_, runs={"torch": lambda images: model(images) * change})

        return made

    def absent(model: EfficientNet, folder: Path, calibration: Path) -> deployment.Deployed:
        raise MissingExtraError("pip install 'effnet-zoo[openvino]'")

    def refused(model: EfficientNet, folder: Path, calibration: Path) -> deployment.Deployed:
        raise InputError("no such dtype")

    found = deployment.measure(
        rounds=1,
        everyone={"a, float32": make(1, 10), "b, int8": make(-1, 3), "openvino": absent, "float8": refused},
    )
    assert given == [4, 4]
    same, off = found["results"]["a, float32 in torch"], found["results"]["b, int8 in torch"]
    assert (same["same_label"], same["photos"], same["error"], same["file_bytes"]) == (8, 8, 0.0, 10)
    assert (off["same_label"], off["error"]) == (0, pytest.approx(2.0))
    assert found["ratios"]["fastest float32 (a, float32 in torch)"]["a, float32 in torch"] == 1.0
    assert found["absent"] == {"openvino": "pip install 'effnet-zoo[openvino]'"}
    assert found["refused"] == {"float8": "no such dtype"}


def test_deployment_has_every_format_and_recipe() -> None:
    names = set(deployment.makers_of(compiled=False))
    assert names == {
        *(
            f"{name}, {dtype}"
            for name in ("onnx", "openvino", "torch", "torchscript")
            for dtype in ("float32", "float16")
        ),
        "litert, float32",
        *(f"int8, {recipe}" for recipe in ("int8", "front-4", "front-8", "front-8-head")),
    }
    assert set(deployment.makers_of(compiled=True)) - names == {"aotinductor, float32", "aotinductor, float16"}


def test_agreement_counts_photos_and_names_those_that_differ() -> None:
    def build(change: Callable[[Tensor], Tensor]) -> Callable[[EfficientNet], Callable[[Tensor], Tensor]]:
        return lambda model: lambda images: change(model(images))

    def spoil_first(logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[0] = -logits[0]
        return logits

    def absent(model: EfficientNet) -> Callable[[Tensor], Tensor]:
        raise MissingExtraError("pip install 'effnet-zoo[openvino]'")

    def refused(model: EfficientNet) -> Callable[[Tensor], Tensor]:
        raise InputError("no such dtype")

    found = agreement.measure(
        everyone={
            ("same", "float32"): build(lambda logits: logits),
            ("off", "bfloat16"): build(spoil_first),
            ("openvino", "float32"): absent,
            ("openvino", "float16"): refused,
        }
    )
    photos = found["case"]["photos"]
    assert photos == list(find_photos())
    same, off = found["results"]["same, float32"], found["results"]["off, bfloat16"]
    assert (same["same_label"], same["photos"], same["others"], same["error"]) == (len(photos), len(photos), {}, 0.0)
    assert (off["same_label"], list(off["others"])) == (len(photos) - 1, photos[:1])
    first, second = off["others"][photos[0]]
    assert 1 > first >= second > 0
    assert off["error"] > 0.1
    assert found["absent"] == {"openvino, float32": "pip install 'effnet-zoo[openvino]'"}
    assert found["refused"] == {"openvino, float16": "no such dtype"}
    assert f"not {photos[0]} ({first:.1%} to {second:.1%})" in str(report.table(record("agreement", found)).rows)


# Fresh processes.


def test_starts_are_cold_and_then_warm_in_the_same_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    homes: list[tuple[str, str]] = []

    def start(arguments: list[str], caches: dict[str, str]) -> starting.Start:
        name, _, size, backend = arguments
        assert (size, Path(arguments[1]).is_file()) == ("32", True)
        home = caches["EFFNET_ZOO_HOME"]
        homes.append((backend or name, home))
        if backend == "onnxruntime":
            raise EngineError("effnet_zoo.errors.MissingExtraError: pip install it")
        if backend == "openvino":
            raise EngineError("ValueError: no")
        cold = [one for _, one in homes].count(home) == 1
        logits = [1.0, 2.0] if backend != "eager" else [1.0, 2.1]
        seconds = (2.0 if cold else 1.0) * (10 if len(homes) <= 12 else 1)  # the first round is not counted
        return starting.Start(seconds=seconds, imports=0.5, logits=logits)

    monkeypatch.setattr(starting, "_start", start)
    monkeypatch.setattr(starting, "weights", lambda name: {"one": torch.zeros(1)})
    found = starting.measure("effnet_zoo_b0", size=32, rounds=2)
    assert set(found["results"]) == {"timm", "effnet_zoo"}
    for result in found["results"].values():
        assert (result["cold"]["calls"], result["warm"]["calls"], result["imports"]) == (2, 2, 0.5)
        assert result["cold"]["seconds"] == 2 * result["warm"]["seconds"]
    assert found["absent"] == {"effnet_zoo engine onnxruntime": "effnet_zoo.errors.MissingExtraError: pip install it"}
    assert found["refused"]["effnet_zoo engine openvino"] == "ValueError: no"
    assert found["refused"]["effnet_zoo engine eager"].startswith("logits off by a relative ")
    folders = [home for name, home in homes if name.startswith("tf_")]
    assert [len(list(same)) for _, same in itertools.groupby(folders)] == [2, 2, 2]
    assert len(set(folders)) == 3
    assert report.seconds_of(record("starting", found))["timm"] == found["results"]["timm"]["warm"]["seconds"]


def test_a_process_that_ends_early_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "CHILD", "import nosuch_module")
    with pytest.raises(EngineError, match="ModuleNotFoundError: No module named 'nosuch_module'") as error:
        starting._start([], {})
    assert starting.is_absence(str(error.value))
    assert not starting.is_absence("ValueError: ImportError")
    monkeypatch.setattr(starting, "CHILD", "raise SystemExit(3)")
    with pytest.raises(EngineError, match="status 3"):
        starting._start([], {})
    monkeypatch.setattr(
        starting, "CHILD", "import json, os; print(json.dumps({'imports': 0.1, 'logits': [float(os.environ['X'])]}))"
    )
    start = starting._start([], {"X": "4"})
    assert (start.imports, start.logits) == (0.1, [4.0])


def test_a_process_that_is_not_done_in_time_is_ended() -> None:
    with pytest.raises(EngineError, match=r"not done after 0\.3 seconds"):
        processes.first_answer("import time; time.sleep(60)", limit=0.3)


def test_a_process_that_dies_is_a_refusal_and_the_others_are_timed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(program: str, arguments: Sequence[str] = (), environment: Any = None) -> tuple[float, str]:
        if arguments[0].startswith("effnet_zoo") if arguments else "effnet_zoo" in program:
            raise EngineError("the process ended with status -9")
        return 1.0, '{"seconds": 1.0, "peak": null, "sum": 2.0}' if arguments else "1.5"

    monkeypatch.setattr(imports, "first_answer", answer)
    monkeypatch.setattr(loading, "first_answer", answer)
    monkeypatch.setattr(loading, "write_weights", lambda name, folder: tmp_path)
    for found, died in (
        (imports.measure(rounds=2), "timm and effnet_zoo"),
        (loading.measure("effnet_zoo_b0", place="file", rounds=2), "effnet_zoo"),
    ):
        assert list(found["results"]) == ["timm"]
        assert found["refused"] == {died: "the process ended with status -9"}
        assert "peak_over_weights" not in found["results"]["timm"]
    out = tmp_path / "results.json"
    code, printed, err = run("bench", "--measure", "imports", "--rounds", "1", "--out", out)
    assert code == 1
    assert "refused: timm and effnet_zoo: the process ended with status -9" in printed
    assert err.splitlines()[-1] == "effnet-zoo: 1 could not be measured"
    assert [one.measure for one in results.read(out)] == ["imports"]


def test_where_the_system_tells_no_memory_loading_is_still_timed() -> None:
    without = loading.CHILD.replace("/proc/self/status", "/no/such/status").partition("where =")[0]
    program = f"import sys; sys.modules['timm'] = sys.modules['torch'] = sys\n{without}print(before)"
    assert processes.first_answer(program, ("timm file", "name", "place"))[1] == "None\n"


def test_loads_of_different_weights_are_no_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(name: str, folder: Path) -> Path:
        (folder / "file").write_bytes(b"12345678")
        return folder / "file"

    sums = {"timm": 1.0, "effnet_zoo": 1.0}

    def load(kind: str, name: str, source: Path) -> dict[str, float]:
        who = kind.split()[0]
        return {"seconds": 4.0 if who == "timm" else 1.0, "peak": 16.0, "sum": sums[who]}

    monkeypatch.setattr(loading, "write_weights", write)
    monkeypatch.setattr(loading, "_load", load)
    found = loading.measure("effnet_zoo_b0", place="file", rounds=2)
    assert found["ratios"]["timm"] == {"timm": 1.0, "effnet_zoo": 4.0}
    assert found["results"]["timm"]["peak_over_weights"] == 2.0
    assert found["results"]["timm"]["calls"] == 2
    sums["timm"] = 2.0
    with pytest.raises(WeightsError, match="different weights"):
        loading.measure("effnet_zoo_b0", place="file", rounds=2)


# What is kept.


MACHINE = {
    "processor": "Some CPU",
    "processors": 2,
    "threads": 2,
    "instructions": "AVX512",
    "system": "Linux x86_64",
    "device": "cpu",
}


def record(measure: str, data: dict[str, Any], subject: str = "something", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "measure": measure,
        "subject": subject,
        "command": f"effnet-zoo bench --measure {measure}",
        "date": "2026-01-02",
        "machine": MACHINE,
        "versions": {"torch": "2.9.9", "timm": "1.0.99"},
        "data": data,
    }
    return Record(**{**values, **changes})


def forward_record(
    measure: str, variant: str, seconds: dict[str, float], *, batch: int = 1, size: int = 224, **more: Any
) -> Record:
    timings = {
        name: Timing(seconds=value, p10=value * 0.9, p90=value * 1.2, calls=9) for name, value in seconds.items()
    }
    data = {
        "case": {
            "variant": variant,
            "size": size,
            "batch": batch,
            "dtype": "float32",
            "device": "cpu",
            "macs": catalogue.find_variant(variant).spec.macs(size=size),
        },
        "rounds": 3,
        "results": {
            name: {
                **dataclasses.asdict(one),
                "images_per_second": batch / one.seconds,
                "of_ceiling": 0.25,
                "error": 1e-6,
            }
            for name, one in timings.items()
        },
        "ratios": ratios(timings, [name for name in timings if report.is_ours(name)]),
        "absent": {"geffnet": "No module named 'geffnet'"},
        "refused": {},
        "notes": {"timm": "as create_model gives it"},
        "ceiling": {"float32": 2e11, "copy": 2e10},
    }
    return record(measure, data, f"{variant}, {size} px, batch {batch}, float32, cpu", **more)


SECONDS = {
    "timm": 0.040,
    "timm channels_last": 0.025,
    "timm in OpenVINO": 0.010,
    "effnet_zoo": 0.020,
    "effnet_zoo optimized": 0.016,
    "effnet_zoo engine onnxruntime": 0.011,
    "effnet_zoo engine openvino": 0.008,
}


def test_newer_records_take_the_place_of_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    assert results.read(path) == []
    one, two = record("imports", {"results": {}}, "a"), record("imports", {"results": {}}, "b")
    assert results.merge_into(path, [one, two]) == [one, two]
    newer = record("imports", {"results": {"timm": {"seconds": 1.0}}}, "a", date="2026-02-03")
    assert results.merge_into(path, [newer]) == [newer, two]
    assert results.read(path) == [newer, two]
    assert [path.name for path in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1]",
        '[{"measure": "x"}]',
        "not JSON",
        '[{"nosuch": 1}]',
        "[" * 100_000,
        json.dumps([{**dict.fromkeys(("measure", "subject", "command", "date"), "x"), "machine": {}, "versions": {}}])[
            :-2
        ]
        + ', "data": {"results": [1]}}]',
    ],
)
def test_another_file_is_neither_read_nor_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a file that `effnet-zoo bench --out` wrote: "):
        results.merge_into(path, [record("imports", {})])
    assert path.read_text() == text


def test_results_that_cannot_be_written_leave_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.merge_into(path, [record("imports", {"results": {}})])
    before = path.read_text()
    with pytest.raises(TypeError):
        results.merge_into(path, [record("imports", {"results": object()})])
    assert path.read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_record_says_what_was_run_where(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = plan.Settings(variants=("effnet_zoo_b0",), measures=("imports",), command="effnet-zoo bench -x")
    made = plan.recorded(Step(measure="imports", subject="timm", run=imports_data), settings)
    assert made.key == "imports: timm"
    assert made.command == "effnet-zoo bench -x"
    assert {"processor", "processors", "threads", "instructions", "device"} <= set(made.machine)
    assert {"python", "effnet-zoo", "torch", "timm"} <= set(made.versions)
    assert made.versions["torch"] == torch.__version__
    assert made.machine["processors"] == plan.processors() >= 1
    json.dumps(made.as_plain())


# What is planned.


def test_every_measure_has_steps_with_names_of_their_own() -> None:
    settings = plan.Settings(
        variants=("effnet_zoo_b0", "effnet_zoo_v2_s"), measures=plan.all_measures("cpu"), batches=(1, 8, 32)
    )
    steps = plan.steps(settings)
    keys = [(step.measure, step.subject) for step in steps]
    assert len(set(keys)) == len(keys)
    assert {measure for measure, _ in keys} == set(plan.MEASURES)
    assert ("latency", "effnet_zoo_v2_s, 384 px, batch 1, float32, cpu") in keys
    assert [subject for measure, subject in keys if measure == "throughput"] == [
        f"{name}, {size} px, batch {batch}, float32, cpu"
        for name, size in (("effnet_zoo_b0", 224), ("effnet_zoo_v2_s", 384))
        for batch in (8, 32)  # batch 1 is latency's
    ]
    assert set(plan.QUICK) <= set(plan.MEASURES)
    assert "files" not in plan.all_measures("cuda")
    alone = plan.Settings(variants=("effnet_zoo_b0",), measures=("throughput",), batches=(1,), size=64)
    assert [step.subject for step in plan.steps(alone)] == ["effnet_zoo_b0, 64 px, batch 1, float32, cpu"]


def test_the_curves_contestants_are_real() -> None:
    known = {one.name for device in plan.DEVICES for one in contestants(device, "float32")}
    assert set(plan.CURVE_CONTESTANTS) <= known
    assert set(plan.CURVE_CONTESTANTS) == set(plot.STYLES)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"variants": ("nosuch",)}, UnknownNameError, "unknown model 'nosuch'"),
        ({"measures": ("latencies",)}, UnknownNameError, "unknown measure 'latencies'.*Did you mean 'latency'"),
        ({"device": "tpu"}, UnknownNameError, "unknown device 'tpu': expected cpu or cuda"),
        ({"dtype": "int8"}, ArgumentError, "dtype 'int8' on cpu: expected float32 or bfloat16"),
        ({"dtype": "float16"}, ArgumentError, "dtype 'float16' on cpu"),
        ({"device": "cuda", "measures": ("files",)}, ArgumentError, "files: nothing of this runs on a GPU"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    settings = plan.Settings(variants=("effnet_zoo_b0",), measures=("latency",))
    with pytest.raises(error, match=message):
        dataclasses.replace(settings, **change)


# Tables.


def test_a_table_has_everyone_and_says_who_is_missing() -> None:
    table = report.table(forward_record("latency", "effnet_zoo_b0", SECONDS))
    rows = {row[0]: dict(zip(table.headings, row, strict=True)) for row in table.rows}
    assert set(rows) == set(SECONDS)
    assert rows["effnet_zoo"] == {
        "contestant": "effnet_zoo",
        "median (10th–90th percentile)": "20.0 ms (18.0–24.0)",
        "images/s": "50.0",
        "of the ceiling": "25%",
        "relative error": "1.0e-06",
        "x timm": "2.00",
        "x best peer": "0.50",
        "notes": "",
    }
    assert rows["timm"]["notes"] == "as create_model gives it"
    assert table.below == (
        "best peer (timm in OpenVINO)",
        "absent: geffnet: No module named 'geffnet'",
        "ceiling: float32 200 GFLOP/s, copy 20 GB/s",
    )


def test_the_readme_compares_the_best_of_both() -> None:
    records = [
        forward_record("throughput", "effnet_zoo_v2_s", SECONDS, batch=8, size=384),
        forward_record("latency", "effnet_zoo_b0", {**SECONDS, "timm recording": 0.06, "effnet_zoo recording": 0.04}),
        forward_record("throughput", "effnet_zoo_b0", {"timm": 0.3, "effnet_zoo": 0.1}, batch=8),
    ]
    table = report.forward_table(records)
    assert [row[0] for row in table.rows] == ["B0, 224 px, batch 1", "B0, 224 px, batch 8", "V2-S, 384 px, batch 8"]
    assert table.rows[0][1:] == (
        *("40.0", "25.0", "10.0 (OpenVINO)", "20.0", "16.0", "8.00 (openvino)"),
        *("2.00 x", "1.50 x", "1.25 x", "1.25 x", "25%"),
    )
    assert table.rows[1][2:] == ("–", "300 (timm)", "100", "–", "–", "3.00 x", "–", "–", "–", "–")
    assert table.below == (
        "Medians; the 10th and 90th percentile are within -10% and +20% of each.",
        "Not measured: geffnet (No module named 'geffnet').",
    )


def test_the_best_engine_is_one_that_was_timed() -> None:
    one = forward_record("latency", "effnet_zoo_b0", {"timm": 1.0, "effnet_zoo engine a": 0.5, "effnet_zoo": 0.1})
    assert report.best_engine(one) == "effnet_zoo engine a"
    assert report.best_peer(one) == "timm"
    assert report.times_faster(one, "effnet_zoo engine b", "timm") is None
    assert report.best_engine(record("imports", imports_data())) is None


def everything() -> list[Record]:
    """A record of every measure."""
    timed = {"seconds": 1.0, "p10": 0.9, "p90": 1.1, "calls": 3}
    start = {"cold": timed, "warm": {**timed, "seconds": 0.5}, "imports": 0.4}
    same = {"photos": 4, "others": {}, "error": 1e-6}
    case = {"variant": "effnet_zoo_b0", "size": 224, "batch": 8, "dtype": "float32", "device": "cpu"}
    who = ("timm", "effnet_zoo", "timm checkpointed", "effnet_zoo checkpointed")
    return [
        record("ceiling", {"case": {"device": "cpu"}, "results": {"copy": {"bytes_per_second": 1e10}}}, "cpu"),
        forward_record("latency", "effnet_zoo_b0", SECONDS),
        forward_record("throughput", "effnet_zoo_b0", SECONDS, batch=8),
        record("training", {"case": case, "results": {name: {**timed, "saved_bytes": 3e6} for name in who}}),
        record(
            "files",
            {
                "case": {"set": "web", "width": 500, "height": 375, "files": 9, "workers": 2, "batch": 32},
                "results": {name: {**timed, "images_per_second": 9.0} for name in ("timm", "effnet_zoo")},
            },
        ),
        *(
            record(
                "loading",
                {
                    "case": {"variant": "effnet_zoo_b0", "place": place, "bytes": 21e6},
                    "results": {name: {**timed, "peak_over_weights": 2.0} for name in ("timm", "effnet_zoo")},
                },
                place,
            )
            for place in loading.PLACES
        ),
        record(
            "starting",
            {
                "case": {"variant": "effnet_zoo_b0", "size": 224},
                "results": {"timm": start, "effnet_zoo": start},
                "ratios": {"timm, cold": {"timm": 1.0, "effnet_zoo": 1.0}},
                "refused": {"effnet_zoo engine eager": "no"},
            },
        ),
        record("imports", {"case": {}, "results": {"timm": timed, "timm and effnet_zoo": {**timed, "seconds": 1.05}}}),
        record(
            "agreement",
            {
                "case": {"photos": ["a", "b", "c", "d"]},
                "results": {
                    f"x, {dtype}": {"way": "x", "dtype": dtype, "same_label": 4, **same}
                    for dtype in ("float32", "bfloat16")
                },
            },
        ),
        record(
            "deployment",
            {
                "case": {"checkpoint": "x", "size": 224, "batch": 8},
                "results": {"onnx": {**timed, "file_bytes": 2e6, "making": 1.0, "same_label": 3, **same}},
                "ratios": {"fastest float32 (onnx)": {"onnx": 1.0}},
            },
        ),
        record("profile", {"case": case, "results": {"timm": {"kinds": {"convolution": 0.01, "others": 0.002}}}}),
        *(
            forward_record(
                "variant-curve", name, SECONDS, size=catalogue.find_variant(name).default.preprocessing.size[0]
            )
            for name in plan.CURVE_VARIANTS
        ),
        *(forward_record("batch-curve", "effnet_zoo_b0", SECONDS, batch=batch) for batch in plan.CURVE_BATCHES),
        *(forward_record("size-curve", "effnet_zoo_b0", SECONDS, size=size) for size in plan.CURVE_SIZES),
    ]


def test_every_measure_has_a_table_of_its_own() -> None:
    records = everything()
    assert {one.measure for one in records} == set(plan.MEASURES)
    for one in records:
        table = report.table(one)
        if one.measure != "profile":  # whose rows are kinds of operations
            assert len(table.rows) == len(one.data["results"])
        assert all(len(row) == len(table.headings) for row in table.rows)
        assert len(table.headings) > 1, one.measure


def test_the_readme_shows_what_was_measured_and_leaves_out_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    monkeypatch.setattr(speed, "RESULTS", path)
    assert speed.performance().startswith("Nothing has been measured yet: `effnet-zoo bench --measure all")
    assert speed.loading().startswith("Nothing has been measured yet: `effnet-zoo bench --measure loading")
    results.merge_into(path, everything())
    text = speed.performance()
    for heading in ("ms a batch", "training step", "images/s", "start to first logits", "`import timm`", "photos with"):
        assert text.count(f"| {heading}") == 1, heading
    assert text.count("Measured on: Some CPU, 2 processors, 2 threads, AVX512") == 1
    assert "torch 2.9.9, timm 1.0.99" in text
    assert (
        "`effnet-zoo bench --measure latency`, 2026-01-02; `effnet-zoo bench --measure throughput`, 2026-01-02" in text
    )
    assert "| 1.00 s | 1.05 s | +50 ms |" in text
    assert "| x | 4 of 4; 1e-06 | 4 of 4; 1e-06 |" in text
    assert "![" not in text
    assert "| B0, 21 MB, a local file | 1.00 s | 1.00 s | 1.00 x | 2.0 x the weights | 2.0 x |" in speed.loading()
    assert text.count("\n| B0") == 2 + 4 + 2  # forward, training, starting
    (tmp_path / "accuracy.png").touch()
    assert "(benchmarks/accuracy.png)" in speed.performance()
    path.unlink()
    results.merge_into(path, [one for one in everything() if one.measure == "imports"])
    assert speed.performance().count("\n| --- |") == 1


def test_machines_do_not_share_a_table() -> None:
    here = forward_record("latency", "effnet_zoo_b0", SECONDS)
    there = dataclasses.replace(here, machine={**MACHINE, "processor": "Another"}, subject="elsewhere")
    newer = dataclasses.replace(here, subject="again", versions={"torch": "3.0"}, date="2026-03-04")
    groups = report.by_machine([here, there, newer])
    assert groups == [[here, newer], [there]]
    assert report.versions_of(groups[0]) == "torch 2.9.9 and 3.0, timm 1.0.99"
    assert report.commands_of(groups[0]) == "`effnet-zoo bench --measure latency`, 2026-01-02 to 2026-03-04"


def test_the_readme_shows_files_beside_the_fastest_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "RESULTS", tmp_path / "results.json")
    assert speed.deployment().startswith("Nothing has been measured yet: `effnet-zoo bench --measure deployment")
    results.merge_into(tmp_path / "results.json", everything())
    assert "| onnx | 2.00 MB | 1.00 s | 1.00 s | 1.00 x | 75.0% | 1e-06 |" in speed.deployment()


# Pictures.


def test_pictures_are_written_for_what_there_is(tmp_path: Path) -> None:
    written = plot.save_pictures(everything(), tmp_path / "new")
    assert {path.name for path in written} == {
        "accuracy.png",
        "ratios.png",
        "variant-curve.png",
        "batch-curve-b0.png",
        "size-curve-b0.png",
    }
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert plot.save_pictures([everything()[0]], tmp_path / "none") == []


def test_no_line_leads_from_one_family_to_the_other() -> None:
    figure = plot.curve_figure("variant-curve", [one for one in everything() if one.measure == "variant-curve"])
    assert figure is not None
    for line in figure.axes[0].lines:
        gaps = numpy.isnan(numpy.asarray(line.get_ydata(), float)).nonzero()[0]
        assert gaps.tolist() == [8]  # B0 to B7, then V2


def test_labels_of_the_accuracy_picture_do_not_cover_each_other() -> None:
    rows = [
        forward_record(
            "variant-curve",
            name,
            {"timm": 0.0102 * (1 + number), "effnet_zoo": 0.01 * (1 + number)},  # marks that nearly touch
            size=catalogue.find_variant(name).default.preprocessing.size[0],
        )
        for number, name in enumerate(plan.CURVE_VARIANTS)
    ]
    figure = plot.accuracy_figure(rows)
    assert figure is not None
    (axes,) = figure.axes
    assert "reported" in axes.get_ylabel()
    assert "not measured" in axes.get_title(loc="left")
    boxes = [text.get_window_extent() for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == sorted(
        2 * [report.short(name) for name in plan.CURVE_VARIANTS]
    )
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert plot.accuracy_figure(rows[:1]) is None
    other_size = dataclasses.replace(rows[0], data={**rows[0].data, "case": {**rows[0].data["case"], "size": 64}})
    assert plot.accuracy_figure([other_size, *rows[1:2]]) is None  # nothing is reported for that size


# The command.


def steps_of(*made: tuple[str, Callable[[], dict[str, Any]]]) -> Callable[[plan.Settings], list[Step]]:
    return lambda settings: [Step(measure="imports", subject=subject, run=make) for subject, make in made]


def imports_data() -> dict[str, Any]:
    timed = {"seconds": 1.0, "p10": 0.9, "p90": 1.1, "calls": 3}
    return {"case": {}, "results": {"timm": timed, "timm and effnet_zoo": timed}, "absent": {"ghost": "not installed"}}


def test_the_command_prints_a_table_and_keeps_the_records(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "steps", steps_of(("a", imports_data)))
    out = tmp_path / "results.json"
    code, printed, err = run("bench", "--out", out)
    assert (code, err) == (0, "")
    assert printed.splitlines()[0].strip() == "imports: a"
    assert "absent: ghost: not installed" in printed
    (kept,) = results.read(out)
    assert kept.command == f"effnet-zoo bench --out {out}"
    code, printed, err = run("bench", "--json", "--out", out)
    assert (code, err) == (0, "")
    assert json.loads(printed) == [one.as_plain() for one in results.read(out)]


def test_what_was_measured_before_an_interruption_stays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "steps", steps_of(("a", imports_data), ("b", interrupted), ("c", imports_data)))
    out = tmp_path / "results.json"
    code, _, _ = run("bench", "--out", out)
    assert code != 0
    assert [one.subject for one in results.read(out)] == ["a"]


def test_what_cannot_be_measured_is_said_and_the_rest_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> dict[str, Any]:
        raise MissingExtraError("pip install it")

    monkeypatch.setattr(plan, "steps", steps_of(("a", missing), ("b", imports_data)))
    code, printed, err = run("bench", "--json", "--out", tmp_path / "results.json")
    assert code == 1
    assert [one["subject"] for one in json.loads(printed)] == ["b"]
    assert err.splitlines() == ["effnet-zoo: imports: a: pip install it", "effnet-zoo: 1 could not be measured"]


def test_whatever_a_measurement_raises_the_rest_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, Any]:
        raise OSError("no hard links here")

    def not_a_number() -> dict[str, Any]:
        return {"case": {}, "results": {"timm": {"error": float("nan")}}}

    def nobody() -> dict[str, Any]:
        return {"case": {}, "results": {}, "refused": {"timm": "died"}}

    steps = steps_of(("a", broken), ("b", not_a_number), ("c", nobody), ("d", imports_data))
    monkeypatch.setattr(plan, "steps", steps)
    code, printed, err = run("bench", "--json", "--out", tmp_path / "results.json")
    assert code == 1
    assert [one["subject"] for one in json.loads(printed)] == ["d"]
    assert err.splitlines() == [
        "effnet-zoo: imports: a: OSError: no hard links here",
        "effnet-zoo: imports: b: data.results.timm.error: expected a finite number, found nan",
        "effnet-zoo: imports: c: nobody could be measured: timm: died",
        "effnet-zoo: 3 could not be measured",
    ]


def test_engines_of_the_benchmark_leave_the_cache_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    seen: list[str] = []

    def look() -> dict[str, Any]:
        seen.append(os.environ["EFFNET_ZOO_HOME"])
        assert Path(seen[-1]).is_dir()
        return imports_data()

    monkeypatch.setattr(plan, "steps", steps_of(("a", look)))
    monkeypatch.setenv("EFFNET_ZOO_HOME", str(tmp_path))
    assert run("bench")[0] == 0
    assert os.environ["EFFNET_ZOO_HOME"] == str(tmp_path)
    monkeypatch.delenv("EFFNET_ZOO_HOME")
    assert run("bench")[0] == 0
    assert "EFFNET_ZOO_HOME" not in os.environ
    assert str(tmp_path) not in seen
    assert not any(Path(home).exists() for home in seen)


def test_pictures_are_of_this_run_and_of_the_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "steps", steps_of(("a", imports_data)))
    out = tmp_path / "results.json"
    results.merge_into(out, everything())
    code, printed, _ = run("bench", "--out", out, "--plot", tmp_path / "pictures")
    assert code == 0
    assert f"wrote {tmp_path / 'pictures' / 'accuracy.png'}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "unknown model 'nosuch'"),
        (["--measure", "nosuch"], "unknown measure 'nosuch': expected ceiling, latency"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--device", "cuda"], "no device 'cuda' on this machine: expected cpu"),
        (["--dtype", "float64"], "dtype 'float64' on cpu"),
        (["--out", "folder"], "folder: expected a file, found a folder"),
        (["--out", "text"], "text: not a file that `effnet-zoo bench --out` wrote"),
        (["--out", "text/results.json"], "text/results.json: "),
        (["--plot", "text"], "text/ratios.png: "),
        (["--measure", "loading", "--device", "cuda"], "loading: nothing of this runs on a GPU"),
    ],
)
def test_bench_refuses_in_one_line_before_anything_is_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    def never(step: Step, settings: plan.Settings) -> Record:
        raise AssertionError("measured")

    monkeypatch.setattr(plan, "recorded", never)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("mine")
    code, out, err = run("bench", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"effnet-zoo: {message}")
    assert len(err.splitlines()) == 1
    assert (tmp_path / "text").read_text() == "mine"


def test_pictures_without_matplotlib_are_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from effnet_zoo import bench

    monkeypatch.delitem(sys.modules, "effnet_zoo.bench.plot")
    monkeypatch.delattr(bench, "plot")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("bench", "--plot", tmp_path)
    assert (code, out) == (1, "")
    assert err == "effnet-zoo: pictures need matplotlib, which is not installed: pip install 'effnet-zoo[bench]'\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--measure", "nosuch"], ["nosuch"]])
def test_help_and_complaints_need_no_torch(arguments: list[str]) -> None:
    probe = f"""
import sys
sys.argv = ["effnet-zoo", "bench", *{arguments!r}]
from _effnet_zoo_command import main
try:
    main()
except SystemExit:
    pass
print("heavy:", sorted({{"torch", "timm", "numpy", "matplotlib"}} & sys.modules.keys()))
"""
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "heavy: []"
    assert ("effnet-zoo bench --measure all" in result.stdout) == (arguments == ["--help"])


@pytest.mark.slow
def test_every_measure_runs_for_real(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CURVE_BATCHES", (3,))
    monkeypatch.setattr(plan, "CURVE_SIZES", (32,))
    monkeypatch.setattr(plan, "CURVE_VARIANTS", ("effnet_zoo_lite0",))
    monkeypatch.setattr(plan, "TRAINING_BATCH", 2)
    monkeypatch.setattr(files, "SETS", {"web": dataclasses.replace(files.SETS["web"], count=4)})
    out = tmp_path / "results.json"
    code, _, err = run(
        *("bench", "effnet_zoo_lite0", "--measure", "all", "--size", "64", "--batch", "2", "--rounds", "1"),
        *("--out", out, "--plot", tmp_path / "pictures"),
    )
    assert code == 0, err
    records = results.read(out)
    assert {one.measure for one in records} == set(plan.MEASURES)
    assert all(one.data["results"] for one in records)
    assert {"effnet_zoo", "timm"} <= set(report.seconds_of(next(one for one in records if one.measure == "starting")))
