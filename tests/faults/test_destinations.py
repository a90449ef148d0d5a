"""Places that cannot be written to: each command says so in one line, before any work, and changes nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from effnet_zoo.checkpoints import statefile
from tests.shell import Run

LITE0 = "effnet_zoo_lite0.pypi_in1k"

COMMANDS: dict[str, list[str]] = {
    "predict --output": ["predict", "photo.png", "--output", "{}.csv"],
    "predict --output parquet": ["predict", "photo.png", "--output", "{}.parquet"],
    "predict --out": ["predict", "photo.png", "--out", "{}"],
    "embed --output": ["embed", "photo.png", "--output", "{}.jsonl"],
    "convert --out": ["convert", LITE0, "--out", "{}"],
    "push --to": ["push", LITE0, "--to", "{}"],
    "pull --to": ["pull", LITE0, "--to", "{}"],
    "export --out": ["export", LITE0, "--out", "{}.onnx"],
    "export openvino": ["export", LITE0, "--format", "openvino", "--out", "{}.xml"],
    "quantize --out": ["quantize", LITE0, "--calib", "photos", "--out", "{}.onnx"],
    "bench --out": ["bench", "--measure", "imports", "--out", "{}.json"],
    "bench --plot": ["bench", "--measure", "imports", "--plot", "{}"],
}

PLACES = {
    "under a file": "file/sub/out",
    "in a loop of links": "loop/out",
    "where the system has none": "/proc/nosuch/out",
    "of a long name": "n" * 256,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a photo, a file and a loop of links; no weights can be read in it."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("photo.png")
    Path("photos").mkdir()
    Path("file").write_text("in the way")
    Path("loop").symlink_to("loop")

    def no_work(*_: object, **__: object) -> None:
        pytest.fail("weights were read before the destination was looked at")

    monkeypatch.setattr(statefile, "read_weights", no_work)
    before = sorted(Path().rglob("*"))
    yield
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_to_is_one_line_before_the_work(run: Run, command: str, place: str) -> None:
    code, out, err = run(*(part.format(PLACES[place]) for part in COMMANDS[command]))
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith("effnet-zoo: ")
    assert "bug" not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_name_is_no_place(run: Run, command: str) -> None:
    for arguments in (
        [part if "{}" not in part else "" for part in COMMANDS[command]],
        [*COMMANDS[command][:-2], f"{COMMANDS[command][-2]}="],
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert "an empty argument at '--" in err


def test_the_current_folder_is_no_new_one(run: Run) -> None:
    code, out, err = run("convert", LITE0, "--out", ".")
    assert (code, out, err.count("\n")) == (1, "", 1), err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_that_does_not_exist_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("EFFNET_ZOO_HOME", "~nosuchuser")
    monkeypatch.setattr(os, "environ", {**os.environ})
    code, out, err = run(*(part.format(PLACES["under a file"]) for part in COMMANDS[command]))
    assert (code, out, err.count("\n")) == (1, "", 1), err
