"""The referee: who takes part, who is refused, in which order everyone has a turn. Never how fast anything is."""

import itertools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from effnet_zoo.bench import referee
from effnet_zoo.bench.referee import (
    Contestants,
    Pace,
    Prepared,
    check_equal,
    check_error,
    hold_contest,
    hold_process_contest,
    rivals,
    summary,
    with_ratios,
)
from effnet_zoo.bench.results import Data
from effnet_zoo.errors import EngineError, MissingExtraError, UnknownNameError


class Clock:
    """Time that passes only when somebody sleeps or works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.log: list[str] = []
        fake = types.SimpleNamespace(perf_counter=lambda: self.now, sleep=self.pass_)
        monkeypatch.setattr(referee, "time", fake)

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    def worker(self, name: str, *durations: float) -> Contestants:
        turns = itertools.cycle(durations)

        def work() -> None:
            self.log.append(name)
            self.pass_(next(turns))

        return contestant(name, work)


def contestant(name: str, call: Callable[[], Any], output: Any = None, note: str = "", **figures: Any) -> Contestants:
    return {name: lambda: Prepared(call=call, output=output, figures=figures, note=note)}


def contest(everyone: Sequence[Contestants], **how: Any) -> Data:
    return hold_contest({}, {name: one for each in everyone for name, one in each.items()}, same, **how)


def same(output: Any, expected: Any) -> dict[str, Any]:
    return check_equal("another output", output, expected)


def rounded(outcome: Data, name: str) -> dict[str, float]:
    return {key: round(value, 9) for key, value in outcome["results"][name].items()}


def nothing() -> None:
    pass


def test_everyone_has_a_turn_in_every_round_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    names = ["a", "b", "c", "d"]
    outcome = contest([clock.worker(name, 0.01) for name in names], rounds=6, pace=Pace(rest=1.0))
    assert (outcome["refused"], outcome["rounds"]) == ({}, 6)
    turns = [name for name, calls in itertools.groupby(clock.log) for _ in range(len(list(calls)) // 4)]
    assert len(clock.log) == 6 * 4 * (1 + 3)
    rounds = [tuple(turns[start : start + 4]) for start in range(0, len(turns), 4)]
    assert all(sorted(turn) == names for turn in rounds)
    assert len(set(rounds)) > 1
    for name in names:
        assert rounded(outcome, name) == {"seconds": 0.01, "p10": 0.01, "p90": 0.01, "calls": 18}


def test_the_first_call_of_a_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    outcome = contest([clock.worker("a", 1.0, 0.5, 0.5)], rounds=2, pace=Pace(calls=2))
    assert rounded(outcome, "a") == {"seconds": 0.5, "p10": 0.5, "p90": 0.5, "calls": 4}
    outcome = contest([clock.worker("a", 1.0, 0.5)], rounds=2, pace=Pace(calls=2, warm=False))
    assert rounded(outcome, "a") == {"seconds": 0.75, "p10": 0.5, "p90": 1.0, "calls": 4}


def test_a_turn_that_takes_long_has_one_call_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    outcome = contest([clock.worker("a", 9.0, 8.0)], rounds=2)
    assert rounded(outcome, "a") == {"seconds": 8.0, "p10": 8.0, "p90": 8.0, "calls": 2}


def test_who_raises_is_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = iter(range(100))

    def fails() -> None:
        if next(calls) == 5:
            raise RuntimeError("out of memory\nand much more")

    outcome = contest([clock.worker("a", 0.1), contestant("b", fails)], rounds=4)
    assert outcome["refused"] == {"b": "out of memory"}
    assert set(outcome["results"]) == {"a"}
    assert outcome["results"]["a"]["calls"] == 12
    assert next(calls) == 6


def test_only_who_gives_the_expected_output_is_timed() -> None:
    def raising(name: str, error: Exception) -> Contestants:
        def prepare() -> Prepared:
            raise error

        return {name: prepare}

    called: list[str] = []
    everyone = [
        raising("missing", MissingExtraError("pip install it")),
        raising("unknown", UnknownNameError("no such variant")),
        raising("failing", ValueError("")),
        contestant("first", nothing, 1, size=10),
        contestant("other", lambda: called.append("other"), 2),
        contestant("silent", nothing),
        contestant("noted", nothing, 1, note="what to know"),
    ]
    outcome = contest(everyone, rounds=1)
    assert outcome["absent"] == {"missing": "pip install it", "unknown": "no such variant"}
    assert outcome["refused"] == {"failing": "ValueError", "other": "another output: not timed"}
    assert set(outcome["results"]) == {"first", "silent", "noted"}
    assert outcome["results"]["first"]["size"] == 10
    assert outcome["notes"] == {"noted": "what to know"}
    assert called == []
    expected = contest(everyone, rounds=0, reference=lambda name: {"first": 3}.get(name, 2))
    assert set(expected["results"]) == {"other", "silent"}


def test_outputs_of_processes_are_compared_every_time() -> None:
    answers: Mapping[str, Any] = {"a": itertools.repeat(1), "b": iter([1, 1, 2, 1])}

    def answer(name: str) -> tuple[dict[str, float], int]:
        return {"seconds": 1.0, "peak": 5.0}, next(answers[name])

    outcome = hold_process_contest({}, {"a": lambda: answer("a"), "b": lambda: answer("b")}, same, rounds=3)
    assert outcome["refused"] == {"b": "another output: not timed"}
    assert outcome["results"] == {"a": {"seconds": 1.0, "p10": 1.0, "p90": 1.0, "calls": 3, "peak": 5.0}}
    assert next(answers["b"]) == 1  # it had no further turn


def test_samples_become_timings_and_medians() -> None:
    samples = [{"cold": 2.0, "warm": 1.0, "imports": value} for value in (0.1, 0.3, 0.2)]
    assert summary(samples) == {
        "cold": {"seconds": 2.0, "p10": 2.0, "p90": 2.0, "calls": 3},
        "warm": {"seconds": 1.0, "p10": 1.0, "p90": 1.0, "calls": 3},
        "imports": 0.2,
    }
    assert summary([]) == {}


def test_ratios_are_to_timm_and_to_the_best_that_is_not_ours() -> None:
    seconds = {"timm": 4.0, "peer": 2.0, "effnet_zoo": 1.0}
    outcome = Data(rounds=1, results={name: {"seconds": value} for name, value in seconds.items()})
    assert with_ratios(outcome, rivals(outcome))["ratios"] == {
        "timm": {"timm": 1.0, "peer": 2.0, "effnet_zoo": 4.0},
        "best peer (peer)": {"timm": 0.5, "peer": 1.0, "effnet_zoo": 2.0},
    }
    del outcome["results"]["timm"], outcome["results"]["peer"]
    assert with_ratios(outcome, rivals(outcome))["ratios"] == {}


def test_an_error_above_the_tolerance_is_refused() -> None:
    expected = torch.ones(2, 3)
    found = check_error("logits", 0.01, expected * 1.001, expected)
    assert found == {"error": pytest.approx(1e-3, rel=1e-3)}
    with pytest.raises(EngineError, match=r"logits off by a relative 1.0e-02, more than 1e-03: not timed"):
        check_error("logits", 1e-3, expected * 1.01, expected)
    for other in (expected[:, :2], expected * float("nan")):
        with pytest.raises(EngineError, match="logits off by a relative inf"):
            check_error("logits", 1e-3, other, expected)
