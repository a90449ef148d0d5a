"""Files to labels and features: the same as one by one, in order, to files that a killed run leaves whole."""

import copy
import json
import os
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from effnet_zoo import EfficientNet, eval_transform, preprocessing_of
from effnet_zoo.errors import ArgumentError, EngineError
from effnet_zoo.images.transform import open_image
from effnet_zoo.predict.prediction import Guess, Prediction, embed, predict
from effnet_zoo.runtime.exported import Exported
from tests.parity.photos import PHOTOS
from tests.predict.test_results import FORMATS, rows_of
from tests.shell import Run

LITE0 = "effnet_zoo_lite0.pypi_in1k"


@pytest.fixture(scope="module")
def model() -> EfficientNet:
    return EfficientNet.from_pretrained(LITE0).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos small and large, one broken, more than two batches of 4."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, path in enumerate(list(PHOTOS.values()) * 2):
        photo = open_image(path)
        if number % 2:
            photo = photo.resize((1600, 1200), Image.Resampling.BICUBIC)
        photo.save(photos / f"{number}.jpg", quality=90)
    (photos / "3-broken.jpg").write_text("not an image")
    return photos


@pytest.mark.parametrize("compute", [predict, embed])
def test_a_model_in_training_stays_so_and_is_run_in_eval_mode(compute: Any) -> None:
    classes = 3 if compute is predict else 0
    model = EfficientNet.from_name("effnet_zoo_lite0", num_classes=classes, drop_rate=0.9)
    model.pretrained_cfg["num_classes"] = classes
    model.train()
    model.conv_head.eval()
    before = [module.training for module in model.modules()]
    moved = copy.deepcopy(model.bn1.state_dict())
    first, second = (list(compute(model, [PHOTOS["coffee.png"]])) for _ in range(2))
    assert repr(first) == repr(second), "dropout would differ"
    assert [module.training for module in model.modules()] == before
    assert all(torch.equal(value, moved[key]) for key, value in model.bn1.state_dict().items())


def one_by_one(model: EfficientNet, paths: list[Path]) -> Tensor:
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    with torch.inference_mode():
        return torch.cat([model(transform(open_image(path))[None]) for path in paths])


def test_labels_are_those_of_one_image_at_a_time(model: EfficientNet, folder: Path) -> None:
    paths = sorted(folder.iterdir())
    predictions = list(predict(model, paths, batch_size=4, workers=2))
    assert [prediction.path for prediction in predictions] == paths
    (broken,) = [prediction for prediction in predictions if prediction.error]
    assert broken.path.name == "3-broken.jpg"
    good = [prediction for prediction in predictions if not prediction.error]
    expected = one_by_one(model, [prediction.path for prediction in good]).softmax(1)
    for prediction, probabilities in zip(good, expected, strict=True):
        guess = prediction.guesses[0]
        assert guess.index == probabilities.argmax()
        assert guess.probability == pytest.approx(float(probabilities.max()), abs=0.01)


def test_features_are_pooled_and_the_models_own(folder: Path) -> None:
    pooled = EfficientNet.from_pretrained(LITE0, num_classes=0).eval()
    found = [each for each in embed(pooled, sorted(folder.glob("*.jpg")), batch_size=4) if each.features is not None]
    expected = one_by_one(pooled, [each.path for each in found])
    assert expected.shape[1] == pooled.num_features
    for each, features in zip(found, expected, strict=True):
        assert each.features is not None
        assert torch.nn.functional.cosine_similarity(each.features, features, dim=0) > 0.9999


def test_an_engine_is_given_whole_batches_and_believed(model: EfficientNet, folder: Path) -> None:
    seen: list[tuple[tuple[int, ...], torch.dtype]] = []

    def run(images: Tensor) -> Tensor:
        seen.append((tuple(images.shape), images.dtype))
        return torch.nn.functional.one_hot(torch.arange(len(images)) + 7, 1000).float() * 50

    paths = sorted(folder.iterdir())
    tops = [p.guesses[0].index if p.guesses else None for p in predict(model, paths, topk=1, run=run, batch_size=4)]
    # The broken file is fourth, so the first batch has three images.
    assert tops == [7, 8, 9, None, 7, 8, 9, 10, 7]
    size = preprocessing_of(model.pretrained_cfg).size
    assert seen == [((n, 3, *size), torch.float32) for n in (3, 4, 1)]


def test_a_million_broken_files_stay_a_window(model: EfficientNet) -> None:
    drawn = 0

    def paths() -> Iterator[Path]:
        nonlocal drawn
        for number in range(1_000_000):
            drawn = number + 1
            yield Path(f"missing/{number}.jpg")

    for number, prediction in enumerate(predict(model, paths(), batch_size=8, workers=2)):
        assert prediction.error is not None
        assert prediction.path.name == f"{number}.jpg"
        if number == 2000:
            break
    assert drawn < 2000 + 50


def test_wrong_arguments_are_refused_at_once(model: EfficientNet) -> None:
    for options, message in (
        ({"topk": 0}, "topk=0: expected a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number from 1 to 65536"),
        ({"workers": 0}, "workers=0: expected a whole number from 1 to 1024"),
    ):
        with pytest.raises(ArgumentError, match=message):
            predict(model, (), **options)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="expected a model without classes, found 1000"):
        embed(model, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": "5"}, "topk='5': expected a whole number of at least 1"),
        ({"topk": True}, "topk=True: expected a whole number"),
        ({"batch_size": "x"}, "batch_size='x': expected a whole number from 1 to 65536"),
        ({"batch_size": 2**63}, "batch_size=9223372036854775808: expected a whole number from 1 to 65536"),
        ({"workers": 2.0}, "workers=2.0: expected a whole number from 1 to 1024"),
        ({"workers": 10**9}, "workers=1000000000: expected"),
        ({"paths": "photo.jpg"}, "paths='photo.jpg': expected several paths, such as a list"),
        ({"paths": Path("photo.jpg")}, "expected several paths"),
        ({"paths": 5}, "paths=5: expected several paths"),
        ({"model": torch.nn.Linear(1, 1)}, "Linear: expected a classifier of this package, or an exported one"),
    ],
    ids=str,
)
def test_arguments_of_other_types_are_refused_at_once(
    model: EfficientNet, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        predict(**{"model": model, "paths": [], **options})


def test_what_is_no_path_is_refused_when_it_comes(model: EfficientNet) -> None:
    with pytest.raises(ArgumentError, match="paths: expected paths of image files, found ndarray"):
        list(predict(model, numpy.zeros((1, 8, 8, 3), numpy.uint8)))


def test_more_classes_than_there_are_gives_all(model: EfficientNet) -> None:
    (found,) = predict(model, [str(PHOTOS["coffee.png"])], topk=2000)
    assert sorted(guess.index for guess in found.guesses) == list(range(1000))


def test_names_with_control_characters_stay_one_line(model: EfficientNet) -> None:
    (found,) = predict(model, [Path("no\nsuch\x1b[2J.jpg")])
    assert found.error == "no\\nsuch\\x1b[2J.jpg: there is no such file or folder"


def test_images_are_of_the_models_channels() -> None:
    grey = EfficientNet.from_pretrained(LITE0, in_chans=1)
    with pytest.raises(ArgumentError, match="a model of 1 channels whose images have 3: expected 1 or 3 of both"):
        predict(grey, [])
    grey.pretrained_cfg = {**grey.pretrained_cfg, "mean": (0.5,), "std": (0.5,)}
    assert [len(found.guesses) for found in predict(grey, [PHOTOS["coffee.png"]])] == [5]


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (float("nan"), None, "1 of 1000 outputs are not finite in float32: expected numbers: check the weights"),
        (float("inf"), "float16", "not finite in float16: expected numbers: compute in float32"),
        (float("-inf"), "bfloat16", "not finite in bfloat16: expected numbers: compute in float32"),
    ],
)
def test_outputs_that_are_no_numbers_are_an_error_of_their_image(
    model: EfficientNet, folder: Path, value: float, dtype: str | None, message: str
) -> None:
    class Computing:
        def __call__(self, images: Tensor) -> Tensor:
            outputs = torch.zeros(len(images), 1000)
            outputs[1, 3] = value
            return outputs

    run = Computing()
    if dtype:
        run.dtype = dtype  # type: ignore[attr-defined]
    paths = [folder / f"{number}.jpg" for number in range(3)]
    found = list(predict(model, paths, run=run))
    assert [each.error is None for each in found] == [True, False, True]
    assert str(found[1].error).startswith(f"{paths[1]}: ")
    assert message in str(found[1].error)
    pooled = EfficientNet.from_pretrained(LITE0, num_classes=0).eval()
    assert [each.features is None for each in embed(pooled, paths, run=run)] == [False, True, False]


def test_outputs_of_another_shape_are_refused(model: EfficientNet) -> None:
    with pytest.raises(ArgumentError, match=r"run: outputs of shape \(1000,\) for 1 images: expected \(1, outputs\)"):
        list(predict(model, [PHOTOS["coffee.png"]], run=lambda images: torch.zeros(1000)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_model_of_any_dtype_is_given_images_of_its_own(dtype: torch.dtype) -> None:
    other = EfficientNet.from_pretrained(LITE0).to(dtype)
    (found,) = predict(other, [PHOTOS["coffee.png"]], topk=1)
    assert found.guesses[0].label == "espresso"
    pooled = EfficientNet.from_pretrained(LITE0, num_classes=0).to(dtype)
    (embedding,) = embed(pooled, [PHOTOS["coffee.png"]])
    assert embedding.features is not None
    assert embedding.features.dtype == torch.float32
    assert not embedding.features.is_inference()


def test_images_go_to_the_models_device(model: EfficientNet) -> None:
    """A device without memory stands for a GPU; what runs there gives outputs on the CPU."""
    seen = []

    def run(images: Tensor) -> Tensor:
        seen.append((images.device.type, images.dtype, tuple(images.shape)))
        return torch.zeros(len(images), 1000)

    elsewhere = EfficientNet.from_name("effnet_zoo_lite0", device="meta")
    elsewhere.pretrained_cfg = model.pretrained_cfg
    (found,) = predict(elsewhere, [PHOTOS["coffee.png"]], run=run)
    assert found.error is None
    assert seen == [("meta", torch.float32, (1, 3, 224, 224))]


def test_files_are_turned_unless_that_is_not_wanted(model: EfficientNet, tmp_path: Path) -> None:
    photo = open_image(PHOTOS["coffee.png"])
    photo.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    paths = [tmp_path / "upright.png", tmp_path / "turned.png"]
    pooled = EfficientNet.from_pretrained(LITE0, num_classes=0).eval()
    for orientation in (True, False):
        upright, turned = (each.guesses for each in predict(model, paths, orientation=orientation, batch_size=1))
        assert (upright == turned) == orientation
        same, other = (each.features for each in embed(pooled, paths, orientation=orientation, batch_size=1))
        assert same is not None
        assert other is not None
        assert torch.equal(same, other) == orientation


def test_a_probability_of_zero_is_no_fault_of_an_exported_file() -> None:
    exported = object.__new__(Exported)
    exported.path = Path("m.onnx")
    interface = types.SimpleNamespace(pixels="nchw", resize=False, softmax=True, dtype="float32")
    exported.record = types.SimpleNamespace(interface=interface, images=1)  # type: ignore[assignment]
    exported._run, exported._process = lambda pixels: torch.tensor([[1.0, 0.0]]), os.getpid()
    logits = exported([torch.zeros(3, 8, 8).byte()])
    assert logits.isfinite().all()
    assert logits.softmax(1).tolist() == [[1.0, pytest.approx(0, abs=1e-30)]]


def test_pictures_show_names_as_they_are(model: EfficientNet, tmp_path: Path) -> None:
    """Matplotlib would take what is between dollars for a formula, and fail at a byte that is not UTF-8."""
    from effnet_zoo.predict.pictures import save_picture

    path = tmp_path / os.fsdecode(b"$a^$\xff\n.png")
    shutil.copy(PHOTOS["coffee.png"], path)
    guess = Guess(index=0, label="$x^$ \x1b[2J", probability=0.5)
    save_picture(Prediction(path=path, guesses=(guess,)), "model", tmp_path / "picture.png")
    assert open_image(tmp_path / "picture.png").width > 1000


# the commands


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

    monkeypatch.setitem(sys.modules, "effnet_zoo.engines", types.SimpleNamespace(engine=engine))
    monkeypatch.setattr("effnet_zoo.images.reader.Reader.__call__", lambda self, path: torch.zeros(3, 32, 32).byte())
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

    monkeypatch.setattr("effnet_zoo.registry.create_classifier", create)
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
    monkeypatch.setattr("effnet_zoo.registry.create_classifier", lambda *_, **__: small)
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
    monkeypatch.setattr("effnet_zoo.registry.create_classifier", lambda *_, **__: pytest.fail("weights were fetched"))
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

    monkeypatch.setattr("effnet_zoo.registry.create_classifier", create)
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

    monkeypatch.setitem(sys.modules, "effnet_zoo.engines", types.SimpleNamespace(engine=engine))
    code, _, err = run("predict", folder / "0.jpg", "--output", output, "--force", "--engine", "eager")
    assert (code, err) == (1, "effnet-zoo: the device is gone\n")
    assert output.read_bytes() == before
