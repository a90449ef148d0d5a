"""``predict`` and ``embed``: rows that resume, answers as JSON, and refusals before weights are fetched."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from effnet_zoo import EfficientNet, preprocessing_of
from effnet_zoo.errors import EngineError
from effnet_zoo.images.decoding import open_image
from tests.parity.photos import PHOTOS
from tests.predict.common import LITE0, one_by_one
from tests.predict.test_results import FORMATS, rows_of
from tests.shell import Run


@pytest.mark.parametrize("suffix", FORMATS)
def test_predict_writes_a_row_a_file_and_resumes(run: Run, folder: Path, suffix: str) -> None:
    output = folder.parent / f"labels.{suffix}"
    code, out, err = run("predict", folder, "--output", output, "--topk", "2", "--batch-size", "4")
    assert (code, out) == (1, f"wrote {output}: 9 rows\n")
    assert err.splitlines()[-1] == "effnet-zoo: 1 of 9 files have an error and no result"
    written = rows_of(output)
    assert [Path(each["path"]) for each in written] == sorted(folder.iterdir())
    assert "not an image" in written[3]["error"]
    espresso = written[1]
    if suffix == "jsonl":
        assert espresso["model"] == LITE0
        assert espresso["classes"][0]["label"] == "espresso"
    else:
        assert espresso["label_1"] == "espresso"
        assert int(espresso["index_2"]) == 968
        assert float(espresso["probability_1"]) == pytest.approx(0.92, abs=0.02)
    assert run("predict", folder, "--output", output)[2].endswith("or replace it with --force\n")
    shutil.copy(PHOTOS["rocket.jpg"], folder / "9.jpg")
    code, out, err = run("predict", folder, "--output", output, "--topk", "2", "--resume")
    assert out == f"wrote {output}: 10 rows\n"
    assert err.splitlines() == ["effnet-zoo: 1 of 10 files have an error and no result"]
    assert rows_of(output)[:9] == written
    assert rows_of(output)[9]["path"] == str(folder / "9.jpg")
    before = rows_of(output)
    code, _, err = run("predict", folder, "--output", output, "--topk", "3", "--resume")
    assert code == 1
    assert "topk was 2 and is 3" in err
    code, _, err = run("predict", folder, "--output", output, "--batch-size", "65537", "--force")
    assert "batch_size=65537" in err
    assert rows_of(output) == before


@pytest.mark.parametrize("suffix", FORMATS)
def test_embed_writes_features(run: Run, folder: Path, suffix: str) -> None:
    output = folder.parent / f"features.{suffix}"
    files = folder.parent / "files.txt"
    files.write_text(f"{folder / '0.jpg'}\n{folder / '3-broken.jpg'}\n")
    code, out, _ = run("embed", "--from-list", files, "--output", output)
    assert (code, out) == (1, f"wrote {output}: 2 rows\n")
    good, broken = rows_of(output)
    assert "not an image" in broken["error"]
    values = [float(good[f"f{n:04}"]) for n in range(1280)] if suffix == "csv" else good["feature"]
    pooled = EfficientNet.from_pretrained(LITE0, num_classes=0).eval()
    assert torch.allclose(torch.tensor(values), one_by_one(pooled, [folder / "0.jpg"])[0], atol=1e-4)
    code, out, _ = run("embed", folder / "0.jpg", "--json")
    assert code == 0
    (answer,) = json.loads(out)
    assert len(answer["feature"]) == 1280


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected images, folders or globs, or --from-list FILE"),
        (["a.jpg", "--resume"], "--resume: expected --output FILE with it"),
        (["a.jpg", "--output", "o.csv", "--resume", "--force"], "--resume keeps the output and --force replaces it"),
        (["a.jpg", "--output", "o.csv", "--json"], "--json prints and --output writes"),
        (["a.jpg", "--output", "o.csv", "--out", "pictures"], "--out draws pictures of a few files"),
        (["a.jpg", "--engine", "tensorrt"], "--engine tensorrt: expected auto or eager"),
        (["a.jpg", "--dtype", "int8"], "--dtype int8: expected float32 or"),
        (["a.jpg", "--output", "o.xlsx"], "o.xlsx: expected a file that ends in .csv"),
        (["--from-list", "nosuch.txt"], "nosuch.txt: there is no such file"),
    ],
)
def test_contradictions_are_refused_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PHOTOS["rocket.jpg"], "a.jpg")
    code, out, err = run("predict", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"effnet-zoo: {message}")
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize(
    ("files", "options", "expected"),
    [
        (255, [], []),
        (256, [], [("auto", "float32")]),
        (256, ["--engine", "eager"], [("eager", "float32")]),
        (1, ["--engine", "openvino"], [("openvino", "float32")]),
        (1, ["--dtype", "bfloat16"], [("eager", "bfloat16")]),
    ],
)
def test_many_files_get_the_fastest_engine_and_few_the_model_itself(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: int,
    options: list[str],
    expected: list[tuple[str, str]],
) -> None:
    asked = []

    def engine(model: EfficientNet, backend: str, dtype: str, batch: int, size: tuple[int, int]) -> Any:
        assert (model.num_classes, batch, size) == (1000, 64, preprocessing_of(model.pretrained_cfg).size)
        asked.append((backend, dtype))
        return lambda images: torch.zeros(len(images), 1000)

    monkeypatch.setattr("effnet_zoo.runtime.engine.engine", engine)
    monkeypatch.setattr(
        "effnet_zoo.predict.torch_model.read_image", lambda path, how, **options: numpy.zeros((32, 32, 3), numpy.uint8)
    )
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{number}.jpg\n" for number in range(files)))
    output = tmp_path / "o.csv"
    code, _, err = run("predict", "--from-list", names, "--output", output, "--batch-size", "64", *options)
    assert (code, err) == (0, "")
    assert asked == expected
    assert len(rows_of(output)) == files


def test_embed_says_where_its_features_shall_go(run: Run) -> None:
    code, _, err = run("embed", PHOTOS["coffee.png"])
    assert code == 1
    assert err == "effnet-zoo: embed: expected --output FILE, or --json for standard output\n"


# names


@pytest.mark.parametrize("suffix", FORMATS)
def test_names_that_are_not_utf8_have_rows_that_resume(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    # The second is what an escape of the first would look like; the third is no image, and has no escape in the error.
    for name in (b"\xe9.png", b"\\xe9.png", b"z\xff\n.png"):
        Path("photos", os.fsdecode(name)).write_bytes(PHOTOS["coffee.png"].read_bytes() if name[0] != b"z"[0] else b"")
    arguments = ("photos", "--output", f"o.{suffix}", "--resume")
    code, out, err = run("predict", *arguments)
    assert (code, out) == (1, f"wrote o.{suffix}: 3 rows\n")
    assert err.splitlines()[0].startswith("effnet-zoo: photos/z\\xff\\n.png: ")
    uri = f"{tmp_path.as_uri()}/photos"
    rows = rows_of(tmp_path / f"o.{suffix}")
    assert [each["path"] for each in rows] == ["photos/\\xe9.png", f"{uri}/z%FF%0A.png", f"{uri}/%E9.png"]
    assert rows[1]["error"].startswith("photos/z\\xff\\n.png: ")
    assert run("predict", *arguments)[1] == f"wrote o.{suffix}: 3 rows\n"
    assert rows_of(tmp_path / f"o.{suffix}") == rows


def test_names_that_are_not_utf8_are_json_and_are_printed_escaped(run: Run, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\x1b[2J.png")
    shutil.copy(PHOTOS["coffee.png"], path)
    code, out, _ = run("predict", path, "--json", "--topk", "1")
    assert code == 0
    assert json.loads(out)[0]["path"] == f"{tmp_path.as_uri()}/%FF%1B%5B2J.png"
    code, out, _ = run("predict", path, "--topk", "1")
    assert out.splitlines()[0] == f"{tmp_path}/\\xff\\x1b[2J.png  ({LITE0})"


def test_a_model_whose_name_is_not_utf8_is_recorded_escaped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, asked = EfficientNet.from_name("effnet_zoo_lite0", num_classes=3), set()

    def create(name: str, **_: Any) -> EfficientNet:
        asked.add(name)
        return small

    monkeypatch.setattr("effnet_zoo.checkpoints.creation.create_classifier", create)
    name, escaped = "local-dir:" + os.fsdecode(b"caf\xe9"), "local-dir:caf\\xe9"
    for suffix in FORMATS:
        output = tmp_path / f"o.{suffix}"
        assert run("predict", PHOTOS["coffee.png"], "--model", name, "--output", output)[0] == 0
        assert json.loads((tmp_path / f"o.{suffix}.run.json").read_text())["model"] == escaped
    code, out, _ = run("predict", PHOTOS["coffee.png"], "--model", name, "--json", "--out", tmp_path / "pictures")
    assert (code, json.loads(out)[0]["model"]) == (0, escaped)
    assert asked == {name}


def test_what_is_left_out_of_a_folder_is_counted_in_the_end(run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(PHOTOS["coffee.png"], photos / "a.png")
    (photos / "notes.txt").touch()
    for options in ([], ["--json"], ["--output", str(tmp_path / "o.csv")]):
        code, _, err = run("predict", photos, *options)
        assert (code, err) == (0, "effnet-zoo: skipped 1 entry of folders: 1 .txt\n")


# options


def test_orientation_is_recorded_and_can_be_turned_off(run: Run, tmp_path: Path) -> None:
    photo, output = tmp_path / "a.jpg", tmp_path / "o.csv"
    exif = Image.Exif()
    exif[0x0112] = 6
    open_image(PHOTOS["coffee.png"]).rotate(90, expand=True).save(photo, exif=exif, quality=95)
    for option, index in ((), 967), (("--no-orientation",), None):
        _, out, _ = run("predict", photo, "--json", *option)
        (answer,) = json.loads(out)
        assert answer["orientation"] is not bool(option)
        assert (answer["classes"][0]["probability"] > 0.9) is not bool(option)
        assert index in (None, answer["classes"][0]["index"])
    assert run("predict", photo, "--output", output)[0] == 0
    assert json.loads((tmp_path / "o.csv.run.json").read_text())["orientation"] is True
    _, _, err = run("predict", photo, "--output", output, "--resume", "--no-orientation")
    assert "orientation was True and is False" in err


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_model_of_few_classes_gives_all_of_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    small = EfficientNet.from_name("effnet_zoo_lite0", num_classes=3)
    monkeypatch.setattr("effnet_zoo.checkpoints.creation.create_classifier", lambda *_, **__: small)
    output = tmp_path / f"o.{suffix}"
    code, _, err = run("predict", PHOTOS["coffee.png"], "--output", output)
    assert (code, err) == (0, "")
    (answer,) = rows_of(output)
    if suffix == "jsonl":
        assert sorted(each["index"] for each in answer["classes"]) == [0, 1, 2]
    else:
        assert [name for name in answer if name.startswith("label")] == ["label_1", "label_2", "label_3"]
        assert sorted(int(answer[f"index_{place}"]) for place in (1, 2, 3)) == [0, 1, 2]


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_a_device_that_is_not_there_is_refused_before_anything(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(
        "effnet_zoo.checkpoints.creation.create_classifier", lambda *_, **__: pytest.fail("weights were fetched")
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    output = tmp_path / "new" / "o.csv"
    for device in ("cuda", "cuda:1", "tpu", "meta", "cpu:1", "c\npu"):
        code, out, err = run(command, PHOTOS["coffee.png"], "--device", device, "--output", output)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"effnet-zoo: no device {device!r} on this machine: expected cpu")
    code, _, err = run(command, PHOTOS["coffee.png"], "--device", "cpu", "--model", "mine.onnx", "--output", output)
    assert code == 1
    assert "mine.onnx is run by its own runtime on the processor" in err
    assert not output.parent.exists()


def test_a_model_is_made_on_the_device_that_was_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small, made = EfficientNet.from_name("effnet_zoo_lite0", num_classes=3), []

    def create(name: str, *, device: torch.device, **_: Any) -> EfficientNet:
        made.append(device)
        return small

    monkeypatch.setattr("effnet_zoo.checkpoints.creation.create_classifier", create)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert run("predict", PHOTOS["coffee.png"], "--device", "cuda:1")[0] == 0
    assert run("predict", PHOTOS["coffee.png"])[0] == 0
    assert made == [torch.device("cuda:1"), torch.device("cpu")]
    _, _, err = run("predict", PHOTOS["coffee.png"], "--device", "cuda:2")
    assert err.startswith("effnet-zoo: no device 'cuda:2' on this machine: expected cpu or cuda or")
    assert "cuda:0 or cuda:1" in err


def test_a_list_is_not_replaced_by_the_rows_of_what_it_names(run: Run, tmp_path: Path) -> None:
    files = tmp_path / "files.csv"
    files.write_text(f"{PHOTOS['coffee.png']}\n")
    code, _, err = run("predict", "--from-list", files, "--output", tmp_path / "." / "files.csv", "--force")
    assert code == 1
    assert "this is the list of --from-list" in err
    assert files.read_text() == f"{PHOTOS['coffee.png']}\n"


def test_a_run_whose_engine_fails_leaves_the_old_output(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = folder.parent / "o.csv"
    assert run("predict", folder / "0.jpg", "--output", output)[0] == 0
    before = output.read_bytes()

    def engine(*_: Any, **__: Any) -> Any:
        def fail(images: Tensor) -> Tensor:
            raise EngineError("the device is gone")

        return fail

    monkeypatch.setattr("effnet_zoo.runtime.engine.engine", engine)
    code, _, err = run("predict", folder / "0.jpg", "--output", output, "--force", "--engine", "eager")
    assert (code, err) == (1, "effnet-zoo: the device is gone\n")
    assert output.read_bytes() == before
