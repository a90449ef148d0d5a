"""Finding image files: paths, folders, globs and lists."""

import io
import os
import sys
from pathlib import Path

import pytest
from PIL import features

from effnet_zoo.errors import InputError
from effnet_zoo.images.decoding import suffixes
from effnet_zoo.images.finding import Skipped, find_images
from effnet_zoo.images.reader import read_image
from tests.images.common import SMALL


def test_paths_folders_and_globs_give_each_file_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("b.png", "a.JPG", "deep/c.png", "odd[1].png", "data.bin"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()

    def found(*patterns: str) -> list[str]:
        return [str(path) for path in find_images(patterns)]

    assert found(".") == ["a.JPG", "b.png", "deep/c.png", "odd[1].png"]
    assert found("b.png", "*.png", "data.bin") == ["b.png", "odd[1].png", "data.bin"]
    assert found("**/c.png") == ["deep/c.png"]
    assert found("odd[1].png") == ["odd[1].png"]
    assert found("deep", ".", "deep/c.png") == ["deep/c.png", "a.JPG", "b.png", "odd[1].png"]
    assert found("d*") == ["data.bin", "deep/c.png"]
    assert sorted(found("**")) == ["a.JPG", "b.png", "data.bin", "deep/c.png", "odd[1].png"]


def test_what_matches_nothing_is_refused_before_a_file_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").touch()
    for pattern, message in {
        "nosuch.jpg": "nosuch.jpg: there is no such file or folder",
        "*.gif": r"\*.gif: there is no such file",
        "empty": "empty: no image in this folder",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images(["a.png", pattern])
    with pytest.raises(InputError, match="nosuch.txt: there is no such file"):
        find_images(["a.png"], "nosuch.txt")


def test_lists_name_a_file_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = b"b.png\r\n\nmissing dir/c.png\n\xff.png\nb.png\nlast"
    (tmp_path / "list.txt").write_bytes(names)
    expected = [Path("b.png"), Path("missing dir/c.png"), Path(os.fsdecode(b"\xff.png")), Path("last")]
    assert list(find_images([], str(tmp_path / "list.txt"))) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names)))
    assert list(find_images([], "-")) == expected


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_comes_itself(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    (tmp_path / "z.png").touch()
    assert list(find_images([str(tmp_path)])) == [tmp_path / "shut", tmp_path / "z.png"]


def test_links_to_folders_are_followed_unless_they_lead_back(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "cats").mkdir(parents=True)
    for file in ("set/cats/a.png", "elsewhere/b.png", "elsewhere/deep/c.png"):
        (tmp_path / file).touch()
    (tmp_path / "set" / "dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "cats" / "back").symlink_to(tmp_path / "set")
    # Round by way of two links: set/dogs/deep/other leads to cats, and back from there.
    (tmp_path / "elsewhere" / "deep" / "other").symlink_to(tmp_path / "set" / "cats")
    (tmp_path / "set" / "cats" / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    skipped = Skipped()
    found = [str(path.relative_to(tmp_path)) for path in find_images([str(tmp_path / "set")], skipped=skipped)]
    assert [path for path in found if "again" not in path and "other" not in path] == [
        "set/cats/a.png",
        "set/dogs/b.png",
        "set/dogs/deep/c.png",
    ]
    assert len(found) == len(set(found)) == 5
    assert skipped == {"link to a folder around it": 4}


def test_folders_that_all_link_to_each_other_come_to_an_end(tmp_path: Path) -> None:
    names = "abcdef"
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").touch()
        for other in set(names) - {name}:
            (tmp_path / name / other).symlink_to(tmp_path / other)
    skipped = Skipped()
    found = list(find_images([str(tmp_path)], skipped=skipped))
    assert {path.relative_to(tmp_path).parts[0] for path in found} == set(names)
    assert max(len(path.relative_to(tmp_path).parts) for path in found) == 1 + 4 + 1
    assert skipped.keys() == {"link to a folder around it", "link behind 4 others"}


def test_one_bad_entry_loses_no_other(tmp_path: Path) -> None:
    for file in ("a.png", "b.JFIF", os.fsdecode(b"\xff.png"), "notes.txt", "more.txt", "README"):
        (tmp_path / file).touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nosuch.png")
    (tmp_path / "gone").symlink_to(tmp_path / "nosuch")
    os.mkfifo(tmp_path / "pipe.png")
    skipped = Skipped()
    found = [path.name for path in find_images([str(tmp_path)], skipped=skipped)]
    # What cannot be looked at comes itself, so that reading it says why.
    assert found == ["a.png", "b.JFIF", "circle", "gone.png", os.fsdecode(b"\xff.png")]
    for name, message in {"circle": "symbolic links lead in a circle", "gone.png": "there is no such file"}.items():
        with pytest.raises(InputError, match=message):
            read_image(tmp_path / name, SMALL)
    assert str(skipped) == (
        "skipped 5 entries of folders: 2 .txt, 1 FIFO, socket or device, 1 broken link, 1 without a suffix"
    )
    assert list(find_images([str(tmp_path / "circle")])) == [tmp_path / "circle"]


def test_reasons_stay_few_whatever_files_are_called() -> None:
    skipped = Skipped()
    for number in range(1000):
        skipped.add(f".{number}\n")
    assert skipped.total() == 1000
    assert len(skipped) <= 21
    assert "980 of other suffixes" in str(skipped)
    assert "\n" not in str(skipped)


def test_two_stars_go_round_no_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("a.png", "deep/b.png", "deep/er/c.png", ".hidden/d.png"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    # Followed 40 times each, these would be 2 ** 40 folders.
    for name in ("one", "two"):
        (tmp_path / "deep" / name).symlink_to(tmp_path)
    for pattern in ("**/*.png", "./**/*.png", f"{tmp_path}/**/*.png", "**/**/*.png"):
        found = [str(path.absolute().relative_to(tmp_path)) for path in find_images([pattern])]
        assert sorted(found) == ["a.png", "deep/b.png", "deep/er/c.png"], pattern
    assert [str(path) for path in find_images(["d*/**/c.png"])] == ["deep/er/c.png"]


def test_folders_give_what_pillow_reads_by_itself() -> None:
    if "avif" in features.modules:  # since Pillow 11.2
        assert ".avif" in suffixes()
    assert {".jfif", ".jp2", ".pgm", ".mpo", ".jpg", ".jpeg", ".png", ".gif", ".tif", ".webp"} <= suffixes()
    # Films, numbers, and programs that another program would run.
    assert not {".mpg", ".h5", ".hdf", ".grib", ".eps", ".ps", ".pdf"} & suffixes()


def test_lists_are_regular_files_of_short_lines(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, message in {
        str(tmp_path / "pipe"): "expected a regular file, found a FIFO",
        "/dev/zero": "expected a regular file, found a device",
        str(tmp_path): "expected a file, found a folder",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images([], place)
    (tmp_path / "long.txt").write_bytes(b"a.jpg\n" + bytes(1 << 17))
    with pytest.raises(InputError, match=r"long.txt: a line of more than 32768 bytes: expected a path a line"):
        list(find_images([], str(tmp_path / "long.txt")))
