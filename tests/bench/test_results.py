"""What is kept of a measurement, and which measurements settings ask for."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from effnet_zoo.bench import forward, machine
from effnet_zoo.bench.forward import forward_contestants
from effnet_zoo.bench.machine import Step
from effnet_zoo.bench.networks import Task
from effnet_zoo.bench.report import CURVE_STYLES
from effnet_zoo.bench.results import merge_results, read_results
from effnet_zoo.bench.settings import DTYPES, MEASURES, QUICK, Settings, all_measures, processors
from effnet_zoo.errors import ArgumentError, InputError, UnknownNameError
from effnet_zoo.zoo import catalogue
from tests.bench.fakes import imports_data, measurement


def test_newer_measurements_take_the_place_of_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    assert read_results(path) == []
    one, two = measurement("imports", {"results": {}}, "a"), measurement("imports", {"results": {}}, "b")
    assert merge_results(path, [one, two]) == [one, two]
    newer = measurement("imports", {"results": {"timm": {"seconds": 1.0}}}, "a", date="2026-02-03")
    assert merge_results(path, [newer]) == [newer, two]
    assert read_results(path) == [newer, two]
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
        merge_results(path, [measurement("imports", {})])
    assert path.read_text() == text


def test_results_that_cannot_be_written_leave_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    merge_results(path, [measurement("imports", {"results": {}})])
    before = path.read_text()
    with pytest.raises(TypeError):
        merge_results(path, [measurement("imports", {"results": object()})])
    assert path.read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_measurement_says_what_was_run_where() -> None:
    settings = Settings(variants=("effnet_zoo_b0",), measures=("imports",), command="effnet-zoo bench -x")
    made = machine.make_measurement(Step(measure="imports", subject="timm", run=imports_data), settings)
    assert made.key == "imports: timm"
    assert made.command == "effnet-zoo bench -x"
    assert {"processor", "processors", "threads", "instructions", "device"} <= set(made.machine)
    assert {"python", "effnet-zoo", "torch", "timm"} <= set(made.versions)
    assert made.versions["torch"] == torch.__version__
    assert made.machine["processors"] == processors() >= 1
    json.dumps(dataclasses.asdict(made))


def test_every_measure_has_steps_with_names_of_their_own() -> None:
    settings = Settings(variants=("effnet_zoo_b0", "effnet_zoo_v2_s"), measures=all_measures("cpu"), batches=(1, 8, 32))
    steps = machine.steps(settings)
    keys = [(step.measure, step.subject) for step in steps]
    assert len(set(keys)) == len(keys)
    assert {measure for measure, _ in keys} == set(MEASURES)
    assert ("starting", "effnet_zoo_b0, one photo") in keys
    assert ("latency", "effnet_zoo_v2_s, 384 px, batch 1, float32, cpu") in keys
    assert [subject for measure, subject in keys if measure == "throughput"] == [
        f"{name}, {size} px, batch {batch}, float32, cpu"
        for name, size in (("effnet_zoo_b0", 224), ("effnet_zoo_v2_s", 384))
        for batch in (8, 32)  # batch 1 is latency's
    ]
    assert set(QUICK) <= set(MEASURES)
    assert "files" not in all_measures("cuda")
    alone = Settings(variants=("effnet_zoo_b0",), measures=("throughput",), batches=(1,), size=64)
    assert [step.subject for step in machine.steps(alone)] == ["effnet_zoo_b0, 64 px, batch 1, float32, cpu"]


def test_the_curves_contestants_are_real() -> None:
    model = catalogue.find_variant("effnet_zoo_b0")
    tasks = [Task(model=model, size=64, batch=1, device=device) for device in DTYPES]
    known = {name for task in tasks for name in forward_contestants(task)}
    assert set(CURVE_STYLES) <= known
    for curve in (forward.BATCH_CURVE, forward.SIZE_CURVE, forward.VARIANT_CURVE):
        assert set(curve.contestants) == set(CURVE_STYLES)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"variants": ("nosuch",)}, UnknownNameError, "unknown model 'nosuch'"),
        ({"measures": ("latencies",)}, UnknownNameError, "unknown measure 'latencies'.*Did you mean 'latency'"),
        ({"device": "tpu"}, UnknownNameError, "unknown device 'tpu': expected cpu or cuda"),
        ({"dtype": "int8"}, ArgumentError, "dtype 'int8' on cpu: expected float32 or bfloat16"),
        ({"dtype": "float16"}, ArgumentError, "dtype 'float16' on cpu"),
        ({"device": "cuda", "measures": ("files",)}, ArgumentError, "files: runs on the processor only"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    settings = Settings(variants=("effnet_zoo_b0",), measures=("latency",))
    with pytest.raises(error, match=message):
        dataclasses.replace(settings, **change)
