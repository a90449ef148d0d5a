"""The command's one boundary: what people are told of an error, and with which exit status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effnet_zoo import __version__, cli
from effnet_zoo.cli import BUG
from effnet_zoo.errors import WeightsError
from tests.shell import COMMAND, Run


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", stop)


def test_an_error_of_ours_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, WeightsError("a\nfile: expected another"))
    assert run("list") == (1, "", "effnet-zoo: a\\nfile: expected another\n")


def test_what_nobody_expected_is_called_a_bug_with_what_to_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyError("weights\n\x1b[2J"))
    code, out, err = run("list")
    assert (code, out, err.count("\n")) == (BUG, "", 1)
    assert err.startswith("effnet-zoo: this is a bug of effnet-zoo: KeyError: ")
    for part in (f"effnet-zoo {__version__}", "python 3.", "torch ", "timm ", "/issues", "--debug"):
        assert part in err
    assert "Traceback" not in err


def test_the_traceback_is_shown_where_it_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyError("weights"))
    for arguments in (["--debug", "list"], ["list", "--debug"]):
        code, _, err = run(*arguments)
        assert code == BUG
        assert err.startswith("Traceback")
        assert "this is a bug" in err.splitlines()[-1]


def test_a_library_that_the_system_refuses_is_no_bug_of_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, OSError(28, "No space left on device", "/some/file"))
    assert run("list") == (1, "", "effnet-zoo: /some/file: the disk is full: free some space, or name another place\n")
    raising(monkeypatch, MemoryError())
    assert run("list")[0] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_standard_output_on_a_full_disk_is_no_bug() -> None:
    with Path("/dev/full").open("w") as full:
        found = subprocess.run([*COMMAND, "list"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith(b"effnet-zoo: standard output: the disk is full")


def test_a_wrong_command_line_is_exit_status_2(run: Run) -> None:
    code, _, err = run("list", "--nosuch")
    assert code == 2
    assert "No such option" in err


@pytest.mark.parametrize("moment", [0.02, 0.06, 0.12, 0.3, 1.0])
def test_ctrl_c_ends_the_command_without_a_traceback(moment: float, tmp_path: Path) -> None:
    # A list that never comes: the command imports, and then waits on its input.
    command = [*COMMAND, "predict", "--from-list", "-", "--output", str(tmp_path / "out.csv")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # Before the first line of the program runs, the interpreter itself answers.
    assert process.returncode in (130, -signal.SIGINT)
    assert b"effnet_zoo/" not in err


def test_a_command_that_is_ended_takes_its_temporary_files_with_it(tmp_path: Path) -> None:
    code = """
import os, sys, threading, time
sys.argv = ["effnet-zoo", "list"]
from pathlib import Path
import _effnet_zoo_command
from effnet_zoo import atomic_io, cli

def waits(*_, **__):
    with atomic_io.folder_written_whole(Path(os.environ["OUT"])) as draft:
        (draft / "half").write_text("")
        print("in it", flush=True)
        time.sleep(60)

cli.app = waits
_effnet_zoo_command.main()
"""
    environment = {**os.environ, "OUT": str(tmp_path / "out")}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"in it\n"
    assert list(tmp_path.iterdir())
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_a_name_that_the_terminal_cannot_show_does_not_stop_the_command() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    name = b"nos\xffuch-\xc3\xa4"
    found = subprocess.run([*COMMAND, "info", name], capture_output=True, env=environment, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith(b"effnet-zoo: unknown model 'nos\\")
