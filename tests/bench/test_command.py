"""The command `effnet-zoo bench`: what it prints, keeps and refuses."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from effnet_zoo.bench import forward, machine, photos, report, training
from effnet_zoo.bench.machine import Step
from effnet_zoo.bench.results import Data, Measurement, merge_results, read_results
from effnet_zoo.bench.settings import MEASURES, Settings
from effnet_zoo.errors import MissingExtraError
from tests.bench.fakes import everything, imports_data, steps_of
from tests.shell import Run


def test_the_command_prints_a_table_and_keeps_the_measurements(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "steps", steps_of(("a", imports_data)))
    out = tmp_path / "results.json"
    code, printed, err = run("bench", "--out", out)
    assert (code, err) == (0, "")
    assert printed.splitlines()[0].strip() == "imports: a"
    assert "absent: ghost: not installed" in printed
    (kept,) = read_results(out)
    assert kept.command == f"effnet-zoo bench --out {out}"
    code, printed, err = run("bench", "--json", "--out", out)
    assert (code, err) == (0, "")
    assert json.loads(printed) == [dataclasses.asdict(one) for one in read_results(out)]


def test_what_was_measured_before_an_interruption_stays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> Data:
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "steps", steps_of(("a", imports_data), ("b", interrupted), ("c", imports_data)))
    out = tmp_path / "results.json"
    code, _, _ = run("bench", "--out", out)
    assert code != 0
    assert [one.subject for one in read_results(out)] == ["a"]


def test_what_cannot_be_measured_is_said_and_the_rest_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Data:
        raise MissingExtraError("pip install it")

    monkeypatch.setattr(machine, "steps", steps_of(("a", missing), ("b", imports_data)))
    code, printed, err = run("bench", "--json", "--out", tmp_path / "results.json")
    assert code == 1
    assert [one["subject"] for one in json.loads(printed)] == ["b"]
    assert err.splitlines() == ["effnet-zoo: imports: a: pip install it", "effnet-zoo: 1 could not be measured"]


def test_whatever_a_measurement_raises_the_rest_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Data:
        raise OSError("no hard links here")

    def not_a_number() -> Data:
        return {"case": {}, "results": {"timm": {"error": float("nan")}}}

    def nobody() -> Data:
        return {"case": {}, "results": {}, "refused": {"timm": "died"}}

    steps = steps_of(("a", broken), ("b", not_a_number), ("c", nobody), ("d", imports_data))
    monkeypatch.setattr(machine, "steps", steps)
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
    seen: list[str] = []

    def look() -> Data:
        seen.append(os.environ["EFFNET_ZOO_HOME"])
        assert Path(seen[-1]).is_dir()
        return imports_data()

    monkeypatch.setattr(machine, "steps", steps_of(("a", look)))
    monkeypatch.setenv("EFFNET_ZOO_HOME", str(tmp_path))
    assert run("bench")[0] == 0
    assert os.environ["EFFNET_ZOO_HOME"] == str(tmp_path)
    monkeypatch.delenv("EFFNET_ZOO_HOME")
    assert run("bench")[0] == 0
    assert "EFFNET_ZOO_HOME" not in os.environ
    assert str(tmp_path) not in seen
    assert not any(Path(home).exists() for home in seen)


def test_pictures_are_of_this_run_and_of_the_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "steps", steps_of(("a", imports_data)))
    out = tmp_path / "results.json"
    merge_results(out, everything())
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
        (["--measure", "loading", "--device", "cuda"], "loading: runs on the processor only"),
    ],
)
def test_bench_refuses_in_one_line_before_anything_is_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    def never(step: Step, settings: Settings) -> Measurement:
        raise AssertionError("measured")

    monkeypatch.setattr(machine, "make_measurement", never)
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
    monkeypatch.setattr(forward, "BATCH_CURVE", dataclasses.replace(forward.BATCH_CURVE, batches=(3,)))
    monkeypatch.setattr(forward, "SIZE_CURVE", dataclasses.replace(forward.SIZE_CURVE, sizes=(32,)))
    curve = dataclasses.replace(forward.VARIANT_CURVE, variants=("effnet_zoo_lite0",))
    monkeypatch.setattr(forward, "VARIANT_CURVE", curve)
    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(photos, "SETS", {"web": (500, 375, 4)})
    out = tmp_path / "results.json"
    code, _, err = run(
        *("bench", "effnet_zoo_lite0", "--measure", "all", "--size", "64", "--batch", "2", "--rounds", "1"),
        *("--out", out, "--plot", tmp_path / "pictures"),
    )
    assert code == 0, err
    measurements = read_results(out)
    assert {one.measure for one in measurements} == set(MEASURES)
    assert all(one.data["results"] for one in measurements)
    started, by_command = [one for one in measurements if one.measure == "starting"]
    assert {"effnet_zoo", "timm"} <= set(report.seconds_of(started))
    assert {"effnet_zoo predict", "effnet_zoo predict, ONNX", "import torch"} == set(report.seconds_of(by_command))
