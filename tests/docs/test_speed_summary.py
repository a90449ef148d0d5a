"""The README's table of speed shows the worst case beside the best, and no figure without its command."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools import speed_summary


def measurement(measure: str, command: str, device: str = "cpu", **seconds: Any) -> dict[str, Any]:
    machine = {"processor": "P", "threads": 2, "instructions": "I", "device": device}
    results = {name.replace("_", " ").replace("effnet zoo", "effnet_zoo"): value for name, value in seconds.items()}
    timed = {name: value if isinstance(value, dict) else {"seconds": value} for name, value in results.items()}
    return {"measure": measure, "command": command, "date": "D", "machine": machine, "data": {"results": timed}}


def test_worst_and_best_case_and_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        measurement("latency", "one", timm=4, torchvision=3, effnet_zoo=2, effnet_zoo_engine_x=1, timm_in_X=0.9),
        measurement("throughput", "two", timm=4, effnet_zoo=5, effnet_zoo_engine_x=2, effnet_zoo_engine_y=1),
        measurement("latency", "on another device", "cuda", timm=100, effnet_zoo=1),
        measurement("training", "without timm", effnet_zoo=1),
        measurement("loading", "refused", timm={"refused": "why"}, effnet_zoo=1),
        measurement(
            "starting", "three", timm={"cold": {}, "warm": {"seconds": 3}}, effnet_zoo={"warm": {"seconds": 2}}
        ),
    ]
    (tmp_path / "results.json").write_text(json.dumps(made))
    monkeypatch.setattr(speed_summary, "RESULTS", tmp_path / "results.json")
    lines = speed_summary.speed_summary().splitlines()
    assert [[cell.strip() for cell in line.split("|")[2:5]] for line in lines[2:5]] == [
        ["2", "0.80 to 2.00", "0.80 to 1.50"],
        ["2", "4.00", "0.90 to 4.00"],
        ["1", "1.50", "1.50"],
    ]
    assert lines[-4:] == [
        "Measured on P, 2 threads, I, by these commands:",
        "",
        "- latency and throughput (D): `one`, `two`",
        "- starting (D): `three`",
    ]
