"""Measures whose contestants are fresh processes."""

import functools
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from effnet_zoo.bench import processes, report
from effnet_zoo.bench.processes import Answer, answer_of, python
from effnet_zoo.bench.results import read_results
from effnet_zoo.errors import EngineError, MissingExtraError
from tests.bench.fakes import measurement
from tests.shell import Run

DIED = "the process ended with status -9"


def printed(text: str, seconds: float = 1.0) -> Answer:
    return Answer(text=text, start=5.0, seconds=seconds)


def test_starts_are_cold_and_then_warm_in_the_same_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    homes: list[tuple[str, str]] = []

    def answer(command: Sequence[str], environment: Mapping[str, str]) -> Answer:
        name, where, weights, size, backend = command[-5:]
        assert (where, size, Path(weights).is_file()) == ("file", "32", True)
        home = environment["EFFNET_ZOO_HOME"]
        homes.append((backend or name, home))
        if backend == "onnxruntime":
            raise MissingExtraError("effnet_zoo.errors.MissingExtraError: pip install it")
        if backend == "openvino":
            raise EngineError("ValueError: no")
        cold = [one for _, one in homes].count(home) == 1
        logits = [1.0, 2.0] if backend != "eager" else [1.0, 2.1]
        seconds = (2.0 if cold else 1.0) * (10 if len(homes) <= 8 else 1)  # the first processes do not count
        return printed(json.dumps({"imports": 0.5, "logits": logits, "end": 5.0 + seconds}), seconds + 7.0)

    monkeypatch.setattr(processes, "answer_of", answer)
    backends = ("eager", "onnxruntime", "openvino")
    found = processes.time_starting("effnet_zoo_b0", size=32, rounds=2, backends=backends)
    assert set(found["results"]) == {"timm", "effnet_zoo"}
    for result in found["results"].values():
        assert (result["cold"]["calls"], result["warm"]["calls"], result["imports"]) == (2, 2, 0.5)
        assert result["cold"]["seconds"] == 2 * result["warm"]["seconds"] == 2.0
    assert found["absent"] == {"effnet_zoo engine onnxruntime": "effnet_zoo.errors.MissingExtraError: pip install it"}
    assert found["refused"]["effnet_zoo engine openvino"] == "ValueError: no"
    assert found["refused"]["effnet_zoo engine eager"].startswith("logits off by a relative ")
    assert found["ratios"] == {f"timm, {part}": {"timm": 1.0, "effnet_zoo": 1.0} for part in ("cold", "warm")}
    folders = [home for name, home in homes if name.startswith("tf_")]
    assert [len(list(same)) for _, same in itertools.groupby(folders)] == [2, 2, 2]
    assert len(set(folders)) == 3
    assert report.seconds_of(measurement("starting", found))["timm"] == found["results"]["timm"]["warm"]["seconds"]


def test_the_command_is_compared_with_the_import_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    classes = {"effnet_zoo_lite0": 7, "model.onnx": 7}

    def answer(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Answer:
        if command[-1] == "import torch":
            return printed("", 2.0)
        assert environment is not None
        assert (environment["HF_HUB_OFFLINE"], Path(environment["HF_HUB_CACHE"]).is_dir()) == ("1", True)
        _, photo, _, model, *_ = command[len(python(processes.COMMAND)) :]
        assert Path(photo).is_file()
        seen.append(Path(model).name)
        return printed(json.dumps([{"classes": [{"index": classes[seen[-1].split(".in1k")[0]]}]}]), 3.0)

    monkeypatch.setattr(processes, "answer_of", answer)
    monkeypatch.setattr(processes, "export", lambda model, path: Answer)  # it writes none
    monkeypatch.setattr(Answer, "path", Path("model.onnx"), raising=False)
    found = processes.time_command("effnet_zoo_lite0", rounds=2)
    assert found["refused"] == {}
    shares = {name: result["of_import_torch"] for name, result in found["results"].items()}
    assert shares == {"effnet_zoo predict": 1.5, "effnet_zoo predict, ONNX": 1.5, "import torch": 1.0}
    assert len(seen) == 2 * (1 + 2)
    assert set(report.full_table(measurement("starting", found)).headings) >= {"contestant", "of import torch"}
    classes["model.onnx"] = 8
    refused = processes.time_command("effnet_zoo_lite0", rounds=1)["refused"]
    assert refused == {"effnet_zoo predict, ONNX": "another class than the first contestant's: not timed"}


def test_a_process_that_ends_early_says_why() -> None:
    with pytest.raises(MissingExtraError, match="ModuleNotFoundError: No module named 'nosuch_module'"):
        answer_of(python("import nosuch_module"))
    with pytest.raises(EngineError, match="ValueError: ImportError"):
        answer_of(python("raise ValueError('ImportError')"))
    with pytest.raises(EngineError, match="status 3"):
        answer_of(python("raise SystemExit(3)"))
    answer = answer_of(python("import os, sys; print(os.environ['X']); print(sys.argv[1])", "5"), {"X": "4"})
    assert answer.text == "4\n5\n"
    assert 0 < answer.seconds < processes.LIMIT
    assert answer_of(python("pass")).text == ""


def test_a_process_that_is_not_done_in_time_is_ended() -> None:
    with pytest.raises(EngineError, match=r"had not ended after 0\.3 seconds"):
        answer_of(python("import time; time.sleep(60)"), limit=0.3)


def test_a_process_that_dies_is_a_refusal_and_the_others_are_timed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Answer:
        if command[-5].startswith("effnet_zoo") or "timm, effnet_zoo" in command[-1]:
            raise EngineError(DIED)
        return printed("1.5" if "import timm" in command[-1] else '{"loading": 1.0, "weights": 2.0}')

    monkeypatch.setattr(processes, "answer_of", answer)
    monkeypatch.setattr(processes, "write_checkpoint", lambda model, state, folder: tmp_path)
    for found, died in (
        (processes.time_imports(rounds=2), "timm and effnet_zoo"),
        (processes.time_loading("effnet_zoo_b0", "file", rounds=2), "effnet_zoo"),
    ):
        assert list(found["results"]) == ["timm"]
        assert found["refused"] == {died: DIED}
        assert "peak_over_weights" not in found["results"]["timm"]
    out = tmp_path / "results.json"
    code, shown, err = run("bench", "--measure", "imports", "--rounds", "1", "--out", out)
    assert code == 1
    assert f"refused: timm and effnet_zoo: {DIED}" in shown
    assert err.splitlines()[-1] == "effnet-zoo: 1 could not be measured"
    assert [one.measure for one in read_results(out)] == ["imports"]


@pytest.mark.parametrize("place", ["/proc/self/status", "/no/such/status"])
def test_where_the_system_tells_no_memory_loading_is_still_timed(place: str) -> None:
    program = f"""
import sys, types
model = types.SimpleNamespace(classifier=types.SimpleNamespace(bias=types.SimpleNamespace(sum=lambda: 2)))
sys.modules["torch"] = sys.modules["timm"] = types.SimpleNamespace(create_model=lambda *_, **__: model)
{processes.CHILD.replace("/proc/self/status", place)}"""
    found = json.loads(answer_of(python(program, "name", "file", "place", "0", "")).text)
    assert found["weights"] == 2.0
    assert set(found) - {"kilobytes"} == {"imports", "loading", "end", "weights"}
    assert ("kilobytes" in found) == os.path.exists(place)


def test_who_loads_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sums = {"timm": 1.0, "effnet_zoo": 1.0}

    def answer(command: Sequence[str], environment: Mapping[str, str]) -> Answer:
        ours = command[-5].startswith("effnet_zoo")
        figures = {"loading": 1.0 if ours else 4.0, "kilobytes": 2 * tmp_path.stat().st_size / 1024}
        return printed(json.dumps({**figures, "weights": sums["effnet_zoo" if ours else "timm"]}))

    monkeypatch.setattr(processes, "write_checkpoint", lambda model, state, folder: tmp_path)
    monkeypatch.setattr(processes, "answer_of", answer)
    time_loading = functools.partial(processes.time_loading, "effnet_zoo_b0", "file", rounds=2)
    found = time_loading()
    assert found["ratios"]["timm"] == {"timm": 1.0, "effnet_zoo": 4.0}
    assert found["results"]["timm"]["peak_over_weights"] == 2.0
    assert found["results"]["timm"]["calls"] == 2
    sums["effnet_zoo"] = 2.0
    found = time_loading()
    assert found["refused"] == {"effnet_zoo": "loaded other weights than the first contestant: not timed"}
