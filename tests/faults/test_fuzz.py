"""Mutants of everything that comes from outside: read, or refused with an error of ours, in bounded memory and time."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import fuzz

COUNT = 2_200
"""Mutants of each of the ten kinds: 22,000 in all."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory needs Linux")
def test_no_mutant_is_anything_but_read_or_refused() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.fuzz", "--count", str(COUNT)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    answer = json.loads(found.stdout)
    assert answer["strays"] == {}
    for kind in answer["read"]:
        # A kind of which every mutant is refused at the same place would show nothing.
        assert 0 < answer["read"][kind] < COUNT, kind
        assert 0 < answer["refused"][kind] < COUNT, kind
    assert sum(answer["read"].values()) + sum(answer["refused"].values()) >= 20_000


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (lambda draw, path: dict[str, str]()["weights"], r"^KeyError: 'weights' \(test_fuzz.py:\d+\)$"),
        (lambda draw, path: [0] * 10**13, "^MemoryError"),
        (lambda draw, path: _endless(), "^TooLongError"),
        (lambda draw, path: path.read_text(), "^FileNotFoundError"),
    ],
)
def test_the_fuzzer_tells_a_stray(what: Any, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    with fuzz.alarm():
        said = fuzz.run(what, "kind", 0, tmp_path / "mutant")
    assert said is not None
    assert re.match(expected, said)


def _endless() -> None:
    while True:
        pass
