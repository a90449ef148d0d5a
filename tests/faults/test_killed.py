"""What a killed process leaves behind, and where nothing can be written at all."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from effnet_zoo import atomic_io
from effnet_zoo.errors import FileError

WRITER = """
import sys, time
from pathlib import Path
sys.argv[0] = "effnet-zoo"  # as the command, the package imports neither torch nor timm
from effnet_zoo import atomic_io
with getattr(atomic_io, sys.argv[1])(Path(sys.argv[2])) as draft:
    (draft / "half.safetensors" if draft.is_dir() else draft).write_bytes(b"0" * 1000)
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("write", ["folder_written_whole", "written_whole"])
def test_what_a_killed_writer_left_is_gone_once_the_same_is_written_again(tmp_path: Path, write: str) -> None:
    command = [sys.executable, "-c", WRITER, write, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        assert len(list(tmp_path.iterdir())) == 2, "its scratch folder, and the lock on it"
        writer.send_signal(signal.SIGKILL)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    assert "out" not in left
    with getattr(atomic_io, write)(tmp_path / "out") as draft:
        (draft / "whole" if draft.is_dir() else draft).write_bytes(b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_something_in_it_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileError, match="nothing is overwritten"), atomic_io.folder_written_whole(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "mine").read_text() == "mine"


@pytest.mark.parametrize("write", ["folder_written_whole", "written_whole"])
def test_where_no_file_can_be_made_is_refused_and_not_tried_for_ever(tmp_path: Path, write: str) -> None:
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "below", tmp_path / ("x" * 300), Path()]
    places += [Path("/proc/out")] if Path("/proc").is_dir() else []
    for place in places:
        with pytest.raises(FileError), getattr(atomic_io, write)(place):
            pytest.fail("the work began")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
