"""Work in a child process: its errors, its end, and what it imports."""

import operator
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from effnet_zoo.errors import EngineError
from effnet_zoo.runtime.child import run_in_child


def test_a_child_says_why_it_failed() -> None:
    run_in_child(operator.truediv, 1, 2)
    with pytest.raises(EngineError, match=r"^ZeroDivisionError: division by zero$"):
        run_in_child(operator.truediv, 1, 0)
    with pytest.raises(EngineError, match=r"^the process ended with status 3$"):
        run_in_child(os._exit, 3)
    with pytest.raises(EngineError, match=r"^the process was ended by signal 6"):
        run_in_child(os.abort)
    with pytest.raises(EngineError, match=r"^the model cannot be sent to another process: .*pickle"):
        run_in_child(operator.truediv, lambda: None, 2)


def test_a_child_ends_when_its_time_is_over() -> None:
    start = time.monotonic()
    with pytest.raises(EngineError, match=r"^not done after 1 seconds$"):
        run_in_child(time.sleep, 100, seconds=1)
    assert time.monotonic() - start < 20


class HangsWhenRead:
    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (100,)


def test_a_child_that_hangs_while_it_is_sent_its_arguments_ends_too() -> None:
    start = time.monotonic()
    with pytest.raises(EngineError, match=r"^not done after 1 seconds$"):
        run_in_child(print, HangsWhenRead(), bytes(1 << 20), seconds=1)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("is_command", [True, False])
def test_a_child_of_the_command_imports_no_timm(
    is_command: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "_effnet_zoo_command", raising=False)
    if is_command:
        monkeypatch.setitem(sys.modules, "_effnet_zoo_command", types.ModuleType("_effnet_zoo_command"))
    path = tmp_path / "modules"
    code = f"import sys, effnet_zoo.runtime.metadata; open({str(path)!r}, 'w').write(' '.join(sys.modules))"
    run_in_child(exec, code)
    found = path.read_text().split()
    assert "effnet_zoo" in found
    assert ("timm" in found) == (not is_command)
