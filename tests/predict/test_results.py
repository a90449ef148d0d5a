"""Result files: rows come back as written, one process holds a file, and what is not ours is refused and left alone."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_zoo.errors import EffnetZooError, FileError, InputError
from effnet_zoo.images.finding import digest, path_text
from effnet_zoo.predict import results
from effnet_zoo.predict.results import Column, Facts, Output, ResultRow, reserved
from effnet_zoo.zoo.preprocessing import Preprocessing

pyarrow = pytest.importorskip("pyarrow")
pyarrow_parquet = pytest.importorskip("pyarrow.parquet")

FORMATS = ["csv", "jsonl", "parquet"]
COLUMNS = (Column("path", "text"), Column("error", "text"), Column("label", "text"), Column("feature", "reals", 2))
FACTS = Facts(
    effnet_zoo="predicting",
    model="b0",
    weights="0" * 64,
    preprocessing=Preprocessing(
        size=(224, 224), crop_pct=0.875, crop_mode="center", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    ),
    orientation=True,
    dtype="float32",
    topk=5,
    columns=COLUMNS,
)
NASTY = ["plain.jpg", 'quo"te,s.jpg', "line\nend.jpg", "re\rturn.jpg", "ünï→.jpg", "'", "\\xff.jpg", " ", "\x00\x1b[2J"]


@contextmanager
def open_rows(path: Path, facts: Facts = FACTS, *, resume: bool = False, force: bool = False) -> Iterator[Output]:
    with reserved(path, resume=resume, force=force) as output, output.opened(facts):
        yield output


def refusal(path: Path, message: str, facts: Facts = FACTS, **options: bool) -> str:
    with pytest.raises(EffnetZooError, match=message) as caught, open_rows(path, facts, **options):
        pass
    return str(caught.value)


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return list(pyarrow_parquet.read_table(path).to_pylist())


def names_of(path: Path) -> list[str]:
    return [each["path"] for each in rows_of(path)]


def row(name: str, *, error: str | None = None) -> ResultRow:
    if error:
        return {"path": name, "error": error}
    return {"path": name, "error": None, "label": name.upper(), "feature": [0.5, 1 / 3]}


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


# rows


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_come_back_as_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"
    with open_rows(path) as rows:
        rows.write([row(name) for name in NASTY])
        rows.write([row("broken.jpg", error='cannot be read: "x",\ny')])
    written = rows_of(path)
    assert [each["path"] for each in written] == [*NASTY, "broken.jpg"]
    assert [each["label"] for each in written[:-1]] == [name.upper() for name in NASTY]
    assert written[-1]["error"] == 'cannot be read: "x",\ny'
    if suffix == "csv":
        assert list(written[0]) == ["path", "error", "label", "f0000", "f0001"]
        assert float(written[0]["f0001"]) == 1 / 3
        assert written[-1]["f0000"] == ""
    elif suffix == "parquet":
        assert written[0]["feature"] == [0.5, pytest.approx(1 / 3)]
        assert written[-1]["feature"] is None
        assert pyarrow_parquet.read_schema(path).field("feature").type.value_type == "float"
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, f"{path.name}.run.json"]
    with open_rows(path, resume=True) as rows:
        assert rows.done == set(map(digest, [*NASTY, "broken.jpg"]))
        assert rows.failed == 1
        rows.write([row("more.jpg")])
    assert names_of(path) == [*NASTY, "broken.jpg", "more.jpg"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_line_cut_anywhere_is_written_again(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # 300 of them take seconds
    path = tmp_path / f"out.{suffix}"
    names = ["first.jpg", 'a "quoted\nname".jpg', "last.jpg"]
    with open_rows(path) as rows:
        rows.write([row(name) for name in names])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with open_rows(path, resume=True) as rows:
            rows.write([row(name) for name in names if digest(name) not in rows.done])
        assert path.read_bytes() == whole, length


def test_a_parquet_run_killed_between_joining_and_cleaning_up_has_no_doubles(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    parts = tmp_path / "out.parquet.parts"
    with pytest.raises(KeyboardInterrupt), open_rows(path) as rows:  # noqa: PT012  # it is the block that is tested
        rows.write([row("a.jpg"), row("b.jpg")])
        raise KeyboardInterrupt
    assert not path.exists()
    shutil.copytree(parts, tmp_path / "kept")
    with open_rows(path, resume=True) as rows:
        assert len(rows.done) == 2
        rows.write([row("c.jpg")])
    shutil.copytree(tmp_path / "kept", parts)
    with open_rows(path, resume=True) as rows:
        assert len(rows.done) == 3
        rows.write([row("d.jpg")])
    assert names_of(path) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert not parts.exists()


def test_json_lines_have_no_numbers_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="not JSON compliant"), open_rows(path) as rows:
        rows.write([{"path": "a.jpg", "probability": float("nan")}])
    assert rows_of(path) == []


# names


@given(st.binary(min_size=1, max_size=30), st.binary(min_size=1, max_size=30))
def test_two_paths_have_two_texts(one: bytes, other: bytes) -> None:
    paths = [Path(os.fsdecode(name.replace(b"\0", b"0"))) for name in (one, other)]
    texts = [path_text(path) for path in paths]
    assert (texts[0] == texts[1]) == (paths[0] == paths[1])
    for path, text in zip(paths, texts, strict=True):
        text.encode()
        assert text == str(path) or text.startswith(path.cwd().as_uri() if not path.is_absolute() else "file:///")


def test_names_that_are_not_utf8_cannot_be_taken_for_others(tmp_path: Path) -> None:
    latin, escaped = Path(os.fsdecode(b"caf\xe9.jpg")), Path("caf\\xe9.jpg")
    assert path_text(escaped) == "caf\\xe9.jpg"
    assert path_text(latin) == f"{Path.cwd().as_uri()}/caf%E9.jpg"
    # The URI itself, taken for a path, loses a slash: no path's text begins as a URI does.
    for text in ("file:///caf%E9.jpg", "file://x", "file:////x"):
        assert not path_text(Path(text)).startswith("file://")


# one process at a time


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}])
def test_a_second_writer_is_refused_and_changes_nothing(suffix: str, options: dict[str, Any], tmp_path: Path) -> None:
    path, link = tmp_path / f"out.{suffix}", tmp_path / f"link.{suffix}"
    link.symlink_to(path)
    with open_rows(path) as rows:
        rows.write([row("a.jpg")])
        before = everything(tmp_path)
        for name in (path, link):
            refusal(name, "another process is writing it", **options)
        assert everything(tmp_path) == before
        rows.write([row("b.jpg")])
    assert names_of(path) == names_of(link) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_finished_output_is_not_replaced_by_a_run_that_did_not_see_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"
    with pytest.raises(FileError, match=f"out.{suffix}: "), open_rows(path) as rows:  # noqa: PT012
        path.write_text("of somebody else, without our lock")
        rows.write([row("a.jpg")])
    assert path.read_text() == "of somebody else, without our lock"


@pytest.mark.parametrize("suffix", FORMATS)
def test_force_keeps_the_old_rows_until_there_are_new_ones(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"
    with open_rows(path) as rows:
        rows.write([row("old.jpg")])
    before = everything(tmp_path)
    other = msgspec.structs.replace(FACTS, model="b1")
    with pytest.raises(LookupError), open_rows(path, other, force=True):
        raise LookupError
    assert everything(tmp_path) == before
    with open_rows(path, other, force=True) as rows:
        assert not rows.done
        rows.write([row("new.jpg")])
    assert names_of(path) == ["new.jpg"]
    assert '"b1"' in path.with_name(f"{path.name}.run.json").read_text()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("killed_in", ["unlink", "rmtree", "write_text", "_create"])
def test_a_run_killed_while_it_replaces_an_output_mixes_nothing(
    suffix: str, killed_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"out.{suffix}"
    with pytest.raises(LookupError), open_rows(path) as rows:  # noqa: PT012  # leaves parts of Parquet
        rows.write([row("old.jpg")])
        raise LookupError

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    other = msgspec.structs.replace(FACTS, model="b1")
    with pytest.raises(KeyboardInterrupt), open_rows(path, other, force=True) as rows, monkeypatch.context() as patch:  # noqa: PT012
        patch.setattr(
            {"_create": type(rows), "unlink": Path, "rmtree": shutil}.get(killed_in, results), killed_in, kill
        )
        rows.write([row("new.jpg")])
        raise KeyboardInterrupt  # there may be nothing to remove
    for facts, name in ((other, "new.jpg"), (FACTS, "old.jpg")):
        copy = tmp_path / name
        shutil.copytree(tmp_path, copy, ignore=shutil.ignore_patterns("*.jpg"))
        try:
            with open_rows(copy / path.name, facts, resume=True) as rows:
                rows.write([row(each) for each in [name] if digest(each) not in rows.done])
        except InputError as error:
            assert "model was" in str(error) or "--force" in str(error)  # noqa: PT017
        else:
            assert names_of(copy / path.name) == [name]


# what is refused


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_made_otherwise_are_not_continued(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"
    run_json = tmp_path / f"out.{suffix}.run.json"
    with open_rows(path) as rows:
        rows.write([row("a.jpg")])
    before = everything(tmp_path)

    def refused(message: str, **changes: Any) -> None:
        refusal(path, message, msgspec.structs.replace(FACTS, **changes), resume=True)

    refused("model was 'b0' and is 'b1'; topk was 5 and is None", model="b1", topk=None)
    refused("columns was", columns=COLUMNS[:3])
    refused("orientation was True and is False", orientation=False)
    narrow = Preprocessing(**{**msgspec.to_builtins(FACTS.preprocessing), "std": (0.5, 0.5, 0.25)})
    refused(r"continued: std was \(0.5, 0.5, 0.5\) and is \(0.5, 0.5, 0.25\): ", preprocessing=narrow)
    assert everything(tmp_path) == before
    record = run_json.read_text()
    for content, message in (
        ("[]", "out.*run.json: expected object, found array"),
        (record.replace("true", '"yes"'), "run.json: orientation: expected bool, found str: choose another name or"),
        (record.replace(' "orientation": true,', ""), "run.json: object missing required field orientation"),
        (record.replace('"dtype"', '"type"'), "run.json: object contains unknown field type"),
        (record.replace("0.875", "87.5"), "run.json: preprocessing: crop_pct"),
        (record.replace('"text"', '"texts"', 1), r"run.json: columns\[0\]\[1\]: invalid enum value"),
        (record.replace("0.875", "NaN"), "run.json: expected JSON"),
    ):
        run_json.write_text(content)
        refused(message)
    run_json.unlink()
    refused(f"out.{suffix}.run.json, which says how it was made, is missing: choose another name or --force")
    with open_rows(path, force=True) as rows:
        assert not rows.done
    assert rows_of(path) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"
    with open_rows(path):
        pass
    path.write_bytes(b"something\nelse\n")
    refusal(path, "--force", resume=True)
    assert path.read_bytes() == b"something\nelse\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", r"out.jsonl: row 2: b'\[1\]\\n': expected object, found array"),
        (b'{"path": 5}', "row 2: .*: path: expected str, found int"),
        (b'{"error": "x"}', "row 2: .*: object missing required field path"),
        (b'{"path": "a", "error": 1}', "row 2: .*: error: expected str | null, found int"),
        (b'{"path": "a", "p": NaN}', "row 2: .*: expected JSON"),
        (b'{"path": "a\xff"}', "row 2: "),
        (b"", "row 2: "),
        (b"[" * 100_000, "row 2: "),
    ],
)
def test_a_line_that_is_no_row_is_named_with_what_was_expected(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_rows(path) as rows:
        rows.write([row("a.jpg")])
    with path.open("ab") as file:
        file.write(line + b"\n")
    content = path.read_bytes()
    assert len(refusal(path, message, resume=True)) < 400
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a.jpg,,A,1", "out.csv: row 2: expected 5 values, found 4"),
        (b"a\xff.jpg,,A,1,2", "out.csv: row 2: 'utf-8' codec can't decode byte 0xff"),
        (b"x" * 140_000 + b",,A,1,2", "out.csv: row 2: field larger than field limit"),
    ],
)
def test_a_record_that_is_no_row_is_named_with_what_was_expected(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with open_rows(path):
        pass
    with path.open("ab") as file:
        file.write(line + b"\n")
    refusal(path, message, resume=True)
    path.write_bytes(b"path,label\n")
    refusal(path, "out.csv: row 1: expected the heading 'path,error,label,f0000", resume=True)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_line_without_end_takes_bounded_memory(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_zoo.predict.results._LONGEST_ROW", 1000)
    path = tmp_path / f"out.{suffix}"
    with open_rows(path):
        pass
    contents = {"csv": [b"x" * 2000, b'"' + b"x,\n" * 1000], "jsonl": [b"x" * 2000]}
    for content in contents[suffix]:
        path.write_bytes(content)
        refusal(path, "--force", resume=True)
        assert path.read_bytes() == content


def test_a_parquet_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with open_rows(path):
        pass
    pyarrow_parquet.write_table(pyarrow.table({"path": [1], "error": ["x"]}), path)
    refusal(path, "other columns than this run writes: path, error", resume=True)
    schema = pyarrow_parquet.read_schema(path)
    with open_rows(path, force=True) as rows:
        rows.write([row("a.jpg")])
    schema = pyarrow_parquet.read_schema(path)
    nameless = {name: [None] for name in schema.names}
    pyarrow_parquet.write_table(pyarrow.table(nameless, schema=schema), path)
    refusal(path, r"out.parquet: rows from 0 on: \[0\].path: expected str, found null", resume=True)


def test_outputs_are_checked_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.csv").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    before = everything(tmp_path)
    for name, message in (
        ("out.txt", "out.txt: expected a file that ends in .csv, .jsonl, .parquet"),
        ("", "expected a file that ends in"),
        ("dir.csv", "dir.csv: expected a file, found a folder"),
        ("file/out.csv", "file is a file: expected a folder"),
        ("fifo.csv", "fifo.csv: expected a regular file, found a FIFO"),
        ("loop.csv", "loop.csv: its symbolic links lead in a circle"),
        ("n" * 246 + ".csv", "a name of 259 bytes: expected at most 255"),
        ("/proc/nosuch/out.csv", "/proc"),
    ):
        refusal(Path(name), message, resume=True)
    assert everything(tmp_path) == before
    (tmp_path / "out.csv").touch()
    (tmp_path / "out.parquet.parts").mkdir()
    for name in ("out.csv", "out.parquet"):
        refusal(tmp_path / name, "there already: continue it with --resume, or replace it with --force")
        for options in ({"resume": True}, {"force": True}):
            with reserved(tmp_path / name, **options):
                pass


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_is_an_error_of_the_file_and_loses_no_row(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"
    names = [f"{number}.jpg" for number in range(400)]
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(FileError, match=f"{path.name}.*: .*too large"), open_rows(path) as rows:  # noqa: PT012
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # the system refuses to write more, as when full
            rows.write([row(name) for name in names])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with open_rows(path, resume=True) as rows:
        rows.write([row(name) for name in names if digest(name) not in rows.done])
    assert names_of(path) == names


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "effnet_zoo.predict.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refusal(tmp_path / "o.parquet", r"pip install 'effnet-zoo\[parquet\]'$")
